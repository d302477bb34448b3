//! The two halves of a link, transport and tunnel, made from its configuration.

use std::io;
use std::net::IpAddr;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use socket2::Type;

use super::surroundings;
use crate::config::{Access, Config, LinkConfig, Protocol, Role, Security};
use crate::device::Device;
use crate::device::netlink::{Netlink, Sender};
use crate::event_loop::EventLoop;
use crate::hint::Hint;
use crate::relay::Relay;
use crate::relay::loop_guard::LoopGuard;
use crate::transport::{self, Mode};
use crate::tunnel::Tunnel;
use crate::tunnel::identity::Identity;
use crate::tunnel::message::Side;
use crate::tunnel::secure::{Endpoint, Limits, Persistence, Randomness, Secure, Settings};

/// Opens the link and joins it with the device.
///
/// # Errors
/// The local address or port cannot be used, or the peer's public key is none. The device is handed back.
pub fn open(
    device: Device,
    link: &LinkConfig,
    debug: bool,
    event_loop: &EventLoop,
) -> Result<Relay, (Device, io::Error)> {
    match halves(&device, link, event_loop) {
        Ok((transport, tunnel, hint)) => {
            let guard = guard(&device, link);
            Ok(Relay::new(device, transport, tunnel, link, debug, event_loop.now()).remembering(hint).guarded(guard))
        }
        Err(error) => Err((device, error)),
    }
}

/// Has the relay let frames cross between the LANs as the configuration says.
pub fn set_segment(relay: &mut Relay, config: &Config, event_loop: &EventLoop) {
    relay.set_segment(config.segment.as_ref(), &mut System(SystemRandom::new()), event_loop.now());
}

/// Binds to the port of a listening end and lets go of it at once: while the process may still look at all others it can
/// say which one has the port.
///
/// # Errors
/// The address or the port cannot be used.
pub fn try_port(link: &LinkConfig) -> io::Result<()> {
    let kind = match link.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    if link.role.is_client() { Ok(()) } else { transport::socket::bind_server(link, kind).map(drop) }
}

/// Asks the kernel which way the link's own packets take.
fn guard(device: &Device, link: &LinkConfig) -> Option<LoopGuard> {
    let (mark, source, through) = (link.fwmark, link.bind.address, link.bind_device.clone());
    let route = move |peer: IpAddr| {
        let mut netlink = Netlink::open()?;
        let output = through.as_ref().map(|name| netlink.link(name)).transpose()?.map(|link| link.index);
        netlink.output_towards(peer, &Sender { mark, output, source })
    };
    let own = device.index().ok()?;
    Some(LoopGuard::new(Box::new(route), own, link.protocol, device.kind()))
}

type Halves = (Box<dyn transport::Transport>, Tunnel, Option<Hint>);

fn halves(device: &Device, link: &LinkConfig, event_loop: &EventLoop) -> io::Result<Halves> {
    let hint = link.state_dir.as_ref().map(|directory| Hint::open(directory, device.name()));
    let (tunnel, mode) = match identities(link)? {
        identities if identities.is_empty() => (Tunnel::plain(device.kind()), Mode::Plain),
        identities => {
            let init_len = identities[0].suite().init_len();
            (secure(device, link, identities, event_loop)?, Mode::Secure { init_len })
        }
    };
    let known = hint.as_ref().and_then(Hint::address);
    let context = event_loop.context(surroundings(), mode, known)?;
    Ok((transport::open(link, context, event_loop.now())?, tunnel, hint))
}

fn secure(device: &Device, link: &LinkConfig, identities: Vec<Identity>, event_loop: &EventLoop) -> io::Result<Tunnel> {
    let settings = settings(device, link, true);
    let random = Box::new(System(SystemRandom::new()));
    Secure::new(settings, identities, random, event_loop.now(), event_loop.wall())
        .map(Tunnel::secure)
        .ok_or_else(|| io::Error::other("The kernel gives no random numbers"))
}

/// What the configuration says about a secure link, with the MTU of the device as it is or 0.
pub fn settings(device: &Device, link: &LinkConfig, with_mtu: bool) -> Settings {
    let is_configured = matches!(&link.role, Role::Connect(_) | Role::Listen(Access::Remote { .. }));
    let mtu = with_mtu.then(|| device.mtu().ok()).flatten();
    Settings {
        side: side(link),
        kind: device.kind(),
        mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or_default(),
        aead: link.aead,
        fragments: link.fragments,
        keepalive: link.keepalive,
        down_after: link.down_after,
        endpoint: if link.pin_endpoint { Endpoint::Pinned } else { Endpoint::Follows },
        persistence: if is_configured { Persistence::Forever } else { Persistence::WhileFresh },
        limits: link.rekey_after.map_or_else(Limits::default, Limits::rekeying_after),
    }
}

fn side(link: &LinkConfig) -> Side {
    if link.role.is_client() { Side::Connect } else { Side::Listen }
}

/// What this end can prove; nothing on a plain link.
///
/// # Errors
/// The peer's public key protects nothing.
pub fn identities(link: &LinkConfig) -> io::Result<Vec<Identity>> {
    let side = side(link);
    match &link.security {
        Security::Plain => Ok(Vec::new()),
        Security::Secret(secrets) => {
            Ok(secrets.iter().map(|secret| Identity::with_secret(secret.clone(), side)).collect())
        }
        Security::Keys { private, peers, psk } => peers
            .iter()
            .map(|peer| {
                Identity::with_keys(private, *peer, psk.clone(), side).ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!("The key {peer} of --peer-public-key protects nothing: ask the peer for the right one"),
                    )
                })
            })
            .collect(),
    }
}

/// The kernel's random numbers.
struct System(SystemRandom);

impl Randomness for System {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        self.0.fill(bytes).is_ok()
    }
}
