//! The composition root: opens everything in order, runs, and undoes it in reverse.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use log::{debug, info, warn};
use nix::unistd::{Group, User};

use crate::config::{Access, Config, ConfigError, DeviceConfig, LinkConfig, Protocol, Role, Security};
use crate::control;
use crate::device::Device;
use crate::device::netchange::{AddressSpec, NetChange, NetError};
use crate::device::netlink::Netlink;
use crate::event_loop::{EventLoop, Outcome, WhenPeerLeaves};
use crate::helper;
use crate::privileges::{self, Reach};
use crate::relay::{Relay, WIRE_LOG};
use crate::transport::admission::Surroundings;
use crate::tunnel::message::CloseReason;
use network::Network;
use upkeep::Upkeep;

mod link;
mod mac;
mod mtu;
mod network;
mod reload;
mod upkeep;

/// Above this MTU an original simpletun on the other end cuts what it receives: its buffer has 2000 bytes, an
/// Ethernet header among them.
const ORIGINAL_MAX_MTU: u32 = 1986;

/// Longest super-packet of a device that we create, in bytes: with its headers it fits one send over either transport.
const GSO_MAX_SIZE: u32 = 60_000;

/// Runs the tunnel until it is asked to end. `reread` gives the configuration anew when that is asked for, and `reach` is
/// what it needs for that where there is no helper.
///
/// # Errors
/// What the operator must mend: the device, its configuration, the local port, or the names of owner and group
/// (a [`ConfigError`]).
pub fn run(mut config: Config, reread: &dyn Fn() -> Result<Config, ConfigError>, reach: Reach) -> Result<()> {
    let (owner, group) = accounts(&config.device)?;
    let reduction = privileges::Reduction::new(&config.privileges, reach)?;
    // Persistence comes last: a start that fails leaves nothing behind.
    let device = Device::open(&DeviceConfig { persist: false, ..config.device.clone() }, owner, group)?;
    debug!(target: WIRE_LOG, "Successfully connected to interface {}", device.name());
    let created = device.was_created();
    let name = device.name().to_owned();
    // Hooks are started by the helper, too: this process will not be able to.
    if reduction.needs_helper() || !config.hooks.is_empty() {
        let index = device.index().map_err(|source| NetError::lookup(&name, source))?;
        helper::start(&name, index, created, reduction.text()).context("Cannot start the helper process")?;
    }
    let mut network = Network::new(&name).map_err(|source| NetError::lookup(&name, source))?;
    let result = serve(device, &mut config, &mut network, reread, reduction);
    // What was created has vanished with its configuration, or was made to stay with it.
    if created {
        network.undo_beside();
    } else {
        network.undo_all();
    }
    helper::finish();
    result
}

/// Configures the device, opens the link and runs it between the hooks `up` and `down`.
fn serve(
    device: Device,
    config: &mut Config,
    network: &mut Network,
    reread: &dyn Fn() -> Result<Config, ConfigError>,
    reduction: privileges::Reduction,
) -> Result<()> {
    // Before anything is changed, so that a signal does not come between a change and its undoing.
    let mut event_loop = EventLoop::new(&device).context("Cannot start the event loop")?;
    event_loop.open_control(&config.control, device.name())?;
    if let Some(helper) = helper::client() {
        event_loop.watch(helper.as_raw_fd()).context("Cannot watch the helper process")?;
    }
    configure(network, &device, config)?;
    event_loop.hooks_mut().configure(config);
    if let Err(why) = event_loop.begin_hooks(&device) {
        if event_loop.is_ending() {
            info!("ending as asked by a signal");
            return Ok(());
        }
        return Err(anyhow::Error::msg(why));
    }
    // Before a thread is started, which would keep what it has, and before the first byte from the network or the device.
    let reduced = link::try_port(&config.link).map_err(Into::into).and_then(|()| reduction.carry_out(&written(config)));
    if let Err(error) = reduced {
        let now = event_loop.now();
        event_loop.hooks_mut().finish(Some(&device), now);
        return Err(error);
    }
    let relay = match link::open(device, &config.link, config.debug, &event_loop) {
        Ok(relay) => relay,
        Err((device, error)) => {
            let now = event_loop.now();
            event_loop.hooks_mut().finish(Some(&device), now);
            return Err(error.into());
        }
    };
    let mut relay = Some(relay);
    let result = carry(&mut event_loop, &mut relay, config, network, reread);
    let now = event_loop.now();
    event_loop.hooks_mut().finish(relay.as_mut().map(|relay| &*relay.device_mut()), now);
    result
}

/// Runs the link, again and again as it is reconfigured. The relay is there still at the end, with its device, unless
/// neither a new link nor the old one could be opened.
fn carry(
    event_loop: &mut EventLoop,
    slot: &mut Option<Relay>,
    config: &mut Config,
    network: &mut Network,
    reread: &dyn Fn() -> Result<Config, ConfigError>,
) -> Result<()> {
    let Some(relay) = slot else { return Ok(()) };
    prepare(relay, config)?;
    link::set_segment(relay, config, event_loop);
    let mut upkeep = Upkeep::default();
    let mut follower = mtu::Follower::default();
    let now = event_loop.now();
    event_loop.supervisor_mut().ready(relay.standing(), now);
    let name = relay.device_mut().name().to_owned();
    while let Some(relay) = slot {
        let when_peer_leaves = if config.once { WhenPeerLeaves::Return } else { WhenPeerLeaves::GoOn };
        let outcome = event_loop.run(relay, when_peer_leaves).map_err(|error| device_ended(&name, error))?;
        let now = event_loop.now();
        match outcome {
            Outcome::Terminated => {
                event_loop.supervisor_mut().stopping(now);
                relay.close_link(CloseReason::Stops, now);
                relay.set_carrier_following(false);
                info!("ending as asked by a signal");
                return Ok(());
            }
            Outcome::DeviceChanged => {
                let again = upkeep.check(network, config, now);
                event_loop.look_again(again);
            }
            Outcome::PeerLeft => {
                event_loop.supervisor_mut().stopping(now);
                relay.set_carrier_following(false);
                info!("ending because the peer has left");
                return Ok(());
            }
            Outcome::ReloadRequested => {
                event_loop.supervisor_mut().reloading(now);
                let Some(relay) = slot.take() else { return Ok(()) };
                let (relay, how) = reload::reload(event_loop, relay, config, network, reread)?;
                event_loop.hooks_mut().configure(config);
                event_loop.supervisor_mut().reloaded(how, relay.standing(), now);
                follower.follow(slot.insert(relay), config, network);
            }
            Outcome::HelperEnded => {
                relay.close_link(CloseReason::Stops, now);
                relay.set_carrier_following(false);
                bail!(
                    "The helper process, which has the right to configure the network, has ended: ending, too; start \
                     the tunnel again, which puts everything in order"
                );
            }
            Outcome::PathMtuChanged => follower.follow(relay, config, network),
        }
    }
    Ok(())
}

/// What follows once the link is open.
fn prepare(relay: &mut Relay, config: &Config) -> Result<()> {
    let device = relay.device_mut();
    if config.device.persist {
        let name = device.name().to_owned();
        device.persist(true).with_context(|| format!("Cannot make the device {name} persistent"))?;
    }
    let created = device.was_created();
    advise(device, &config.link);
    relay.set_carrier_following(config.network.carrier.follows(created));
    Ok(())
}

fn configure(network: &mut Network, device: &Device, config: &Config) -> Result<()> {
    if device.was_created() {
        // An older kernel does not let it be set; longer super-packets are then cut in two pieces.
        if let Err(error) = network.apply(&NetChange::GsoMaxSize(GSO_MAX_SIZE)) {
            debug!("{error}");
        }
    }
    for change in changes(config, device.was_created()) {
        network.apply(&change)?;
    }
    Ok(())
}

/// The changes in the order in which the kernel takes them. A bridge comes with its MTU, which one that was asked for
/// replaces. Routes need the device up, and so does an IPv6 address with a peer: added to a device that is down it never
/// gets the route to its peer.
pub fn changes(config: &Config, created: bool) -> Vec<NetChange> {
    let wanted = &config.network;
    let address = |address: &crate::config::InterfaceAddress| AddressSpec {
        local: address.local,
        peer: address.peer,
        prefix_len: address.prefix_len,
    };
    let mut changes = Vec::new();
    let mac = wanted.mac.or_else(|| created.then(|| mac::stable(config)).flatten());
    changes.extend(mac.map(NetChange::Mac));
    if let Some(bridge) = wanted.bridge {
        changes.extend(wanted.lan_ports.first().map(|like| NetChange::MakeBridge { bridge, like: *like }));
        changes.extend(wanted.lan_ports.iter().map(|port| NetChange::LanPort { bridge, port: *port }));
        changes.push(NetChange::Bridge(bridge));
    }
    changes.extend(wanted.mtu.or_else(|| mtu::usual(config, created)).map(NetChange::Mtu));
    changes.extend(wanted.tx_queue_len.map(NetChange::TxQueueLen));
    changes.extend(wanted.up.then_some(NetChange::Up));
    changes.extend(wanted.addresses.iter().map(address).map(NetChange::Address));
    changes.extend(wanted.routes.iter().copied().map(NetChange::Route));
    changes
}

/// Directories in which the process writes while it runs. Where the control socket is, its name does not matter.
fn written(config: &Config) -> Vec<PathBuf> {
    let socket = control::path_of(&config.control.socket, "").and_then(|path| path.parent().map(Path::to_owned));
    config.link.state_dir.iter().cloned().chain(socket).collect()
}

/// The numbers of the device's owner and group.
fn accounts(config: &DeviceConfig) -> Result<(Option<u32>, Option<u32>), ConfigError> {
    let owner = config.owner.as_deref().map(user_id).transpose()?;
    let group = config.group.as_deref().map(group_id).transpose()?;
    Ok((owner, group))
}

/// The number of a user who is given by name or number.
///
/// # Errors
/// There is no such user.
pub fn user_id(text: &str) -> Result<u32, ConfigError> {
    let by_name = || User::from_name(text).ok().flatten().map(|user| user.uid.as_raw());
    text.parse().ok().or_else(by_name).ok_or_else(|| ConfigError::UnknownUser(text.to_owned()))
}

/// The number of a group that is given by name or number.
///
/// # Errors
/// There is no such group.
pub fn group_id(text: &str) -> Result<u32, ConfigError> {
    let by_name = || Group::from_name(text).ok().flatten().map(|group| group.gid.as_raw());
    text.parse().ok().or_else(by_name).ok_or_else(|| ConfigError::UnknownGroup(text.to_owned()))
}

/// Says once, at the start, what the administrator should know about this kind of link.
fn advise(device: &Device, link: &LinkConfig) {
    match &link.security {
        Security::Plain => advise_plain(device, link),
        Security::Secret(_) => info!("This link is secure: shared secret"),
        Security::Keys { psk: None, .. } => info!("This link is secure: key pairs"),
        Security::Keys { psk: Some(_), .. } => info!("This link is secure: key pairs and a pre-shared key"),
    }
    if link.protocol == Protocol::Tcp {
        info!("TCP inside TCP slows down when the path loses packets: on such a path --udp serves better");
    }
}

fn advise_plain(device: &Device, link: &LinkConfig) {
    let narrow = match &link.role {
        Role::Listen(Access::Any) => {
            "; --allow any accepts everybody as the peer, --allow CIDR or --remote narrows that"
        }
        Role::Listen(_) | Role::Connect(_) => "",
    };
    warn!(
        "This link is plain, neither encrypted nor authenticated: secure it by --secret-file on both ends, or use it \
         on networks that you trust or inside a protected one{narrow}"
    );
    if link.protocol == Protocol::Tcp
        && let Some(mtu) = device.mtu().ok().filter(|mtu| *mtu > ORIGINAL_MAX_MTU)
    {
        warn!(
            "The MTU of {} is {mtu}: an original simpletun on the other end would cut packets longer than \
             {ORIGINAL_MAX_MTU} bytes; set --mtu {ORIGINAL_MAX_MTU} or less if there is one",
            device.name()
        );
    }
}

fn device_ended(name: &str, error: io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::EBADFD | libc::ENODEV) => {
            anyhow!("The device {name} was deleted while the tunnel was running; start it again to make a new one")
        }
        _ => anyhow::Error::new(error).context(format!("The device {name} has failed")),
    }
}

/// What the access rules ask about this host, answered by the kernel through netlink.
fn surroundings() -> Surroundings {
    Surroundings {
        connected_subnets: || Netlink::open()?.connected_subnets(),
        interface_towards: |address, mark| Netlink::open()?.interface_towards(address, mark),
        mtu_towards,
    }
}

fn mtu_towards(address: SocketAddr, mark: Option<u32>, device: Option<&str>) -> io::Result<u32> {
    let mut netlink = Netlink::open()?;
    let link = match (device, address) {
        (Some(name), _) => netlink.link(name)?,
        (None, SocketAddr::V6(address)) if address.scope_id() != 0 => netlink.link_at(address.scope_id())?,
        (None, _) => {
            let index = netlink.interface_towards(address.ip(), mark)?;
            netlink.link_at(index)?
        }
    };
    Ok(link.mtu)
}
