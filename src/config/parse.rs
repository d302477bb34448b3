//! From the options as typed to the settings as used: one function a kind of value, each with its own sentence
//! for what can be wrong.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

use super::endpoint::{Endpoint, agree, bind_address, peer_endpoint, port, usable_address};
use super::security::{Protection, protection};
use super::{
    Access, Bind, CarrierChoice, Config, ConfigError, ControlChoice, ControlConfig, DEFAULT_PORT, DeviceConfig,
    DeviceName, InterfaceAddress, KeySource, LinkConfig, LinkLayer, MAX_NAME_LEN, MssClamp, NetworkConfig, NotAName,
    Offload, Options, Protocol, Role, ServiceLookup, Text, hooks, privileges, segment,
};

const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(3);
const DEFAULT_DOWN_AFTER: Duration = Duration::from_secs(10);

/// Smallest MTU of IPv4 (RFC 791) and of IPv6 (RFC 8200), and the greatest of any device, in bytes.
const MIN_MTU: u32 = 68;
const MIN_MTU_IPV6: u32 = 1280;
const MAX_MTU: u32 = 65_535;

/// Segments that Linux sends (`TCP_MIN_SND_MSS` of `include/net/tcp.h`), and the greatest that fits a packet.
const MIN_MSS: u16 = 48;
const MAX_MSS: u16 = 65_535 - 40;

const MAX_TX_QUEUE_LEN: u32 = 1_000_000;

pub(super) fn config(
    options: &Options,
    services: ServiceLookup<'_>,
    keys: &dyn KeySource,
) -> Result<Config, ConfigError> {
    let name = match &options.interface {
        Some(name) if !name.0.is_empty() => interface_name("interface", &name.0)?,
        _ => return Err(ConfigError::NoInterface),
    };
    if !options.server && options.connect.is_none() {
        return Err(ConfigError::NoRole);
    }
    if options.connect.as_ref().is_some_and(|host| host.0.is_empty()) {
        return Err(ConfigError::NoServerAddress);
    }
    let kind = if options.tap { LinkLayer::Tap } else { LinkLayer::Tun };
    let config = Config {
        device: DeviceConfig {
            name,
            kind,
            persist: options.persist,
            owner: options.owner.as_ref().map(|owner| account("owner", owner)).transpose()?,
            group: options.owner_group.as_ref().map(|group| account("owner-group", group)).transpose()?,
            offload: offload(options)?,
        },
        network: network(options, kind)?,
        link: link(options, services, protection(options, keys)?)?,
        segment: segment::segment(options, kind)?,
        control: control(options)?,
        hooks: hooks::hooks(options)?,
        privileges: privileges::privileges(options)?,
        once: options.once,
        debug: options.debug,
        log_level: options.log_level.as_ref().map_or(Ok(LevelFilter::Info), log_level)?,
    };
    if config.once && config.link.protocol == Protocol::Udp {
        return Err(ConfigError::Combination(
            "Option once cannot be used with udp: a datagram link does not tell that the peer left; use tcp".to_owned(),
        ));
    }
    Ok(config)
}

fn link(options: &Options, services: ServiceLookup<'_>, protection: Protection) -> Result<LinkConfig, ConfigError> {
    let protocol = if options.udp { Protocol::Udp } else { Protocol::Tcp };
    let lookup = |name: &str| services(name, protocol);
    let port = options.port.as_ref().map(|text| port("port", &text.0, &text.0, &lookup)).transpose()?;
    let bind = options.bind.as_ref().map(|text| bind_address(&text.0, &lookup)).transpose()?;
    let (bind_ip, bind_port) = bind.unwrap_or_default();
    let (role, local_port) = match &options.connect {
        Some(connect) => {
            reject_server_options(options)?;
            (Role::Connect(peer_endpoint("connect", &connect.0, port, &lookup)?.0), bind_port.unwrap_or(0))
        }
        None => {
            if let (Some(port), Some(bind_port)) = (port, bind_port) {
                agree("bind", bind_port, port)?;
            }
            let local_port = bind_port.or(port).unwrap_or(DEFAULT_PORT);
            // Strangers draw no answer from a secure link, wherever they are.
            let default = if protection.security.is_secure() { Access::Any } else { Access::Protected };
            (Role::Listen(access(options, default, local_port, &lookup)?), local_port)
        }
    };
    let keepalive = duration("keepalive", options.keepalive.as_ref(), DEFAULT_KEEPALIVE)?;
    let down_after = duration("down-after", options.down_after.as_ref(), DEFAULT_DOWN_AFTER)?;
    if down_after < keepalive * 2 {
        return Err(ConfigError::Combination(format!(
            "Option down-after is {} and keepalive {}: down-after must be at least twice keepalive",
            humantime::format_duration(down_after),
            humantime::format_duration(keepalive)
        )));
    }
    Ok(LinkConfig {
        role,
        protocol,
        bind: Bind { address: bind_ip, port: local_port },
        bind_device: options.bind_device.as_ref().map(|name| interface_name("bind-device", &name.0)).transpose()?,
        fwmark: options.fwmark.as_ref().map(mark).transpose()?,
        congestion: options.congestion.as_ref().map(|name| congestion(name, protocol)).transpose()?,
        send_buffer: options.sndbuf.as_ref().map(|text| buffer("sndbuf", text)).transpose()?,
        receive_buffer: options.rcvbuf.as_ref().map(|text| buffer("rcvbuf", text)).transpose()?,
        keepalive,
        down_after,
        caps_rto: !options.no_rto_cap,
        mss_clamp: mss_clamp(options)?,
        fragments: fragments(options)?,
        security: protection.security,
        aead: protection.aead,
        pin_endpoint: protection.pin_endpoint,
        state_dir: protection.state_dir,
        rekey_after: protection.rekey_after,
    })
}

fn log_level(text: &Text) -> Result<LevelFilter, ConfigError> {
    let named = text.0.parse().ok().filter(|level| *level != LevelFilter::Off);
    named.ok_or_else(|| ConfigError::value("log-level", &text.0, "it must be error, warn, info, debug or trace"))
}

fn control(options: &Options) -> Result<ControlConfig, ConfigError> {
    let socket = match options.control.as_ref().map(|text| text.0.as_str()) {
        None => ControlChoice::Usual,
        Some("off") => ControlChoice::Off,
        Some(path) if path.starts_with('/') => ControlChoice::Path(path.into()),
        Some(other) => {
            let problem = "it must be off or the path of a socket from the root on, such as /run/simpletun/a.sock";
            return Err(ConfigError::value("control", other, problem));
        }
    };
    let metrics = options.metrics.as_ref().map(metrics).transpose()?;
    Ok(ControlConfig { instance: None, socket, metrics })
}

fn metrics(text: &Text) -> Result<SocketAddr, ConfigError> {
    let usual = "such as 127.0.0.1:9586 or [::1]:9586";
    let wrong = |problem: &str| Err(ConfigError::value("metrics", &text.0, format!("{problem}, {usual}")));
    match text.0.parse::<SocketAddr>() {
        Err(_) => wrong("it must be an address and a port"),
        Ok(address) if !address.ip().is_loopback() => wrong(
            "whoever reaches it may read the metrics, so it must be an address of this host alone (for others, let a \
             proxy in front of it ask who they are)",
        ),
        Ok(address) if address.port() == 0 => wrong("the port cannot be 0"),
        Ok(address) => Ok(address),
    }
}

fn offload(options: &Options) -> Result<Offload, ConfigError> {
    auto_on_off("offload", options.offload.as_ref(), [Offload::Auto, Offload::On, Offload::Off])
}

fn carrier(options: &Options) -> Result<CarrierChoice, ConfigError> {
    let choices = [CarrierChoice::Auto, CarrierChoice::On, CarrierChoice::Off];
    auto_on_off("carrier", options.carrier.as_ref(), choices)
}

pub(super) fn auto_on_off<T>(
    option: &'static str,
    text: Option<&Text>,
    [auto, on, off]: [T; 3],
) -> Result<T, ConfigError> {
    match text.map(|text| text.0.as_str()) {
        None | Some("auto") => Ok(auto),
        Some("on") => Ok(on),
        Some("off") => Ok(off),
        Some(other) => Err(ConfigError::value(option, other, "it must be auto, on or off")),
    }
}

fn fragments(options: &Options) -> Result<bool, ConfigError> {
    match options.split.as_ref().map(|text| text.0.as_str()) {
        None | Some("auto") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => Err(ConfigError::value("split", other, "it must be auto or off")),
    }
}

fn mss_clamp(options: &Options) -> Result<MssClamp, ConfigError> {
    match options.mss_clamp.as_ref().map(|text| text.0.as_str()) {
        None | Some("auto") => Ok(MssClamp::Auto),
        Some("off") => Ok(MssClamp::Off),
        Some(other) => match other.parse() {
            Ok(mss) if (MIN_MSS..=MAX_MSS).contains(&mss) => Ok(MssClamp::Fixed(mss)),
            _ => {
                let problem = format!("it must be auto, off, or a number from {MIN_MSS} to {MAX_MSS}");
                Err(ConfigError::value("mss-clamp", other, problem))
            }
        },
    }
}

/// `TCP_CA_NAME_MAX` less the terminating zero (`include/net/tcp.h`).
const MAX_CONGESTION_LEN: usize = 15;

fn congestion(name: &Text, protocol: Protocol) -> Result<String, ConfigError> {
    let legal = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
    if protocol == Protocol::Udp {
        return Err(ConfigError::value(
            "congestion",
            &name.0,
            "UDP has no congestion control; leave it out or use tcp",
        ));
    }
    if name.0.is_empty() || name.0.len() > MAX_CONGESTION_LEN || !name.0.chars().all(legal) {
        let problem = "this is no name of one; 'sysctl net.ipv4.tcp_available_congestion_control' lists them";
        return Err(ConfigError::value("congestion", &name.0, problem));
    }
    Ok(name.0.clone())
}

/// Sizes from one datagram to what `SO_SNDBUF` and `SO_RCVBUF` can double.
fn buffer(option: &'static str, text: &Text) -> Result<usize, ConfigError> {
    number(option, &text.0, 65_536, 1 << 30).map(|bytes| bytes as usize)
}

fn reject_server_options(options: &Options) -> Result<(), ConfigError> {
    let misplaced = match (&options.remote, options.allow.first()) {
        (Some(remote), _) => ("remote", remote),
        (None, Some(allow)) => ("allow", allow),
        (None, None) => return Ok(()),
    };
    Err(ConfigError::Combination(format!(
        "Option {} ({:?}) says whom a server accepts and cannot be used with connect: leave it out",
        misplaced.0, misplaced.1.0
    )))
}

fn access(
    options: &Options,
    default: Access,
    local_port: u16,
    lookup: &dyn Fn(&str) -> Option<u16>,
) -> Result<Access, ConfigError> {
    if let Some(remote) = &options.remote {
        if let Some(allow) = options.allow.first() {
            return Err(ConfigError::Combination(format!(
                "Options remote ({:?}) and allow ({:?}) both say who the peer may be: keep one of them",
                remote.0, allow.0
            )));
        }
        let (endpoint, port_given) = peer_endpoint("remote", &remote.0, None, lookup)?;
        let port = if port_given { endpoint.port } else { local_port };
        return Ok(Access::Remote { endpoint: Endpoint { port, ..endpoint }, port_given });
    }
    if options.allow.iter().any(|text| text.0 == "any") {
        return Ok(Access::Any);
    }
    if options.allow.is_empty() {
        return Ok(default);
    }
    let networks = options.allow.iter().map(|text| network_or_host("allow", &text.0));
    Ok(Access::Networks(networks.collect::<Result<_, _>>()?))
}

fn network(options: &Options, kind: LinkLayer) -> Result<NetworkConfig, ConfigError> {
    let mac = options.mac.as_ref().map(|text| mac_address(&text.0)).transpose()?;
    if let (Some(text), LinkLayer::Tun) = (&options.mac, kind) {
        return Err(ConfigError::value("mac", &text.0, "a tun device has no MAC address; use tap or leave it out"));
    }
    let addresses = addresses(options)?;
    let routes: Vec<IpNet> =
        options.route.iter().map(|text| network_or_host("route", &text.0)).collect::<Result<_, _>>()?;
    let mtu = options.mtu.as_ref().map(|text| number("mtu", &text.0, MIN_MTU, MAX_MTU)).transpose()?;
    let has_ipv6 =
        addresses.iter().any(|address| address.local.is_ipv6()) || routes.iter().any(|net| net.addr().is_ipv6());
    if let Some(mtu) = mtu.filter(|mtu| has_ipv6 && *mtu < MIN_MTU_IPV6) {
        let problem = format!("IPv6 needs at least {MIN_MTU_IPV6}; raise it or leave IPv6 addresses and routes out");
        return Err(ConfigError::value("mtu", mtu.to_string(), problem));
    }
    let bridge = options.bridge.as_ref().map(|text| bridge(&text.0, options, kind)).transpose()?;
    Ok(NetworkConfig {
        carrier: carrier(options)?,
        up: options.up || bridge.is_some() || !addresses.is_empty() || !routes.is_empty(),
        addresses,
        routes,
        mtu,
        mac,
        lan_ports: lan_ports(options, bridge)?,
        bridge,
        tx_queue_len: options
            .txqueuelen
            .as_ref()
            .map(|text| number("txqueuelen", &text.0, 0, MAX_TX_QUEUE_LEN))
            .transpose()?,
    })
}

/// The bridge that the device joins. Its port has no address: what comes in by a port is the bridge's.
fn bridge(text: &str, options: &Options, kind: LinkLayer) -> Result<DeviceName, ConfigError> {
    let name = device_name("bridge", text)?;
    if kind == LinkLayer::Tun {
        return Err(ConfigError::value("bridge", text, "a tun device has no Ethernet header; use tap"));
    }
    let misplaced = options.address.first().map(|given| ("address", given));
    match misplaced.or(options.route.first().map(|given| ("route", given))) {
        Some((option, given)) => Err(ConfigError::Combination(format!(
            "Option {option} ({:?}) is of no use on a port of a bridge: set it on the bridge {text} itself",
            given.0
        ))),
        None => Ok(name),
    }
}

/// The devices that a bridge is made of.
fn lan_ports(options: &Options, bridge: Option<DeviceName>) -> Result<Vec<DeviceName>, ConfigError> {
    let Some(first) = options.bridge_create.first() else { return Ok(Vec::new()) };
    let Some(bridge) = bridge else {
        return Err(ConfigError::Combination(format!(
            "Option bridge-create ({:?}) does not say how the bridge is called: add bridge, for example --bridge br0",
            first.0
        )));
    };
    if options.persist {
        return Err(ConfigError::Combination(format!(
            "Option bridge-create ({:?}) cannot be combined with persist: the bridge goes when the daemon ends; make one \
             that stays with the network configuration of this host, and name it by bridge alone",
            first.0
        )));
    }
    let mut ports = Vec::with_capacity(options.bridge_create.len());
    for text in &options.bridge_create {
        let port = device_name("bridge-create", &text.0)?;
        let own = options.interface.as_ref().is_some_and(|own| own.0 == port.as_str());
        if own || port == bridge || ports.contains(&port) {
            let problem = if own {
                "it is the tunnel's own device, which joins the bridge by itself; name a device of the LAN"
            } else if port == bridge {
                "it is the bridge itself; name a device of the LAN"
            } else {
                "it is named twice; name each device once"
            };
            return Err(ConfigError::value("bridge-create", &text.0, problem));
        }
        ports.push(port);
    }
    Ok(ports)
}

/// Joins `--address`, `--netmask` and `--peer-address`. Mask and peer belong to the first address of their family.
fn addresses(options: &Options) -> Result<Vec<InterfaceAddress>, ConfigError> {
    let mut netmask = options.netmask.as_ref().map(|text| Ok((&text.0, netmask(&text.0)?))).transpose()?;
    let mut peer =
        options.peer_address.as_ref().map(|text| Ok((&text.0, host_address("peer-address", &text.0)?))).transpose()?;
    let mut addresses = Vec::new();
    for text in &options.address {
        let (ip, given_len) = text.0.split_once('/').map_or((text.0.as_str(), None), |(ip, len)| (ip, Some(len)));
        let local = ip.parse::<IpAddr>().map_err(|_| not_an_address("address", &text.0));
        let local = local.and_then(|local| usable_address("address", &text.0, local))?;
        let given_len = given_len.map(|len| prefix_len(&text.0, local, len)).transpose()?;
        let mask_len =
            netmask.take_if(|_| local.is_ipv4()).map(|(text, len)| agree_mask(text, len, given_len)).transpose()?;
        let peer = peer.take_if(|(_, peer)| peer.is_ipv4() == local.is_ipv4()).map(|(_, peer)| peer);
        let max_len = max_prefix_len(local);
        let prefix_len = match given_len.or(mask_len) {
            Some(len) => len,
            None if peer.is_some() => max_len,
            None => {
                let problem = format!(
                    "it lacks a prefix length; write for example {local}/{}",
                    if max_len == 32 { 24 } else { 64 }
                );
                return Err(ConfigError::value("address", &text.0, problem));
            }
        };
        let peer = peer.or_else(|| other_of_pair(local, prefix_len));
        addresses.push(InterfaceAddress { local, peer: peer.filter(|peer| *peer != local), prefix_len });
    }
    let unused = netmask.map(|(text, _)| ("netmask", text)).or(peer.map(|(text, _)| ("peer-address", text)));
    match unused {
        Some((option, text)) => Err(ConfigError::value(
            option,
            text.as_str(),
            "there is no address of its family that it belongs to; add one",
        )),
        None => Ok(addresses),
    }
}

/// RFC 3021: of the two addresses of an IPv4 /31, the other one is the peer's.
fn other_of_pair(local: IpAddr, prefix_len: u8) -> Option<IpAddr> {
    match (local, prefix_len) {
        (IpAddr::V4(local), 31) => Some(Ipv4Addr::from_bits(local.to_bits() ^ 1).into()),
        _ => None,
    }
}

fn agree_mask(text: &str, mask_len: u8, given_len: Option<u8>) -> Result<u8, ConfigError> {
    match given_len {
        Some(given) if given != mask_len => Err(ConfigError::value(
            "netmask",
            text,
            format!("the address says /{given}, which is another mask; keep one of them"),
        )),
        _ => Ok(mask_len),
    }
}

pub(super) fn interface_name(option: &'static str, name: &str) -> Result<String, ConfigError> {
    let problem = if name.len() > MAX_NAME_LEN {
        "the kernel takes at most 15 bytes; choose a shorter name"
    } else if name == "." || name == ".." || name.contains(['/', ':']) || name.contains(char::is_whitespace) {
        "a name must not contain '/', ':' or white space; choose another such as tun0"
    } else if name.contains(|character: char| character.is_control()) {
        "a name must not contain control characters; choose another such as tun0"
    } else if name.contains('%') && (option != "interface" || name.matches('%').count() != 1 || !name.contains("%d")) {
        "'%' is allowed only once, as in tun%d, for a number that the kernel picks"
    } else if name.is_empty() {
        "the name is empty; name an interface"
    } else {
        return Ok(name.to_owned());
    };
    Err(ConfigError::value(option, name, problem))
}

fn device_name(option: &'static str, name: &str) -> Result<DeviceName, ConfigError> {
    let name = interface_name(option, name)?;
    name.parse().map_err(|error: NotAName| ConfigError::value(option, &name, error.to_string()))
}

pub(super) fn account(option: &'static str, text: &Text) -> Result<String, ConfigError> {
    if text.0.is_empty() {
        return Err(ConfigError::value(option, "", "it is empty; give a name or a number"));
    }
    Ok(text.0.clone())
}

fn host_address(option: &'static str, text: &str) -> Result<IpAddr, ConfigError> {
    match text.parse::<IpAddr>() {
        Ok(address) => usable_address(option, text, address),
        Err(_) => Err(not_an_address(option, text)),
    }
}

fn not_an_address(option: &'static str, text: &str) -> ConfigError {
    ConfigError::value(option, text, "this is not an IP address; write for example 192.168.0.1/24 or fd00::1/64")
}

fn max_prefix_len(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn prefix_len(text: &str, local: IpAddr, len: &str) -> Result<u8, ConfigError> {
    let max = max_prefix_len(local);
    match len.parse::<u8>() {
        Ok(len) if (1..=max).contains(&len) => Ok(len),
        _ => Err(ConfigError::value("address", text, format!("the prefix length must be a number from 1 to {max}"))),
    }
}

fn netmask(text: &str) -> Result<u8, ConfigError> {
    let mask = text.parse::<Ipv4Addr>().ok().and_then(|mask| ipnet::ipv4_mask_to_prefix(mask).ok());
    mask.filter(|len| *len > 0).ok_or_else(|| {
        ConfigError::value("netmask", text, "this is not an IPv4 netmask; write for example 255.255.255.0")
    })
}

/// A network, or a single host as a network of one address.
pub(crate) fn network_or_host(option: &'static str, text: &str) -> Result<IpNet, ConfigError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let Ok(network) = text.parse::<IpNet>() else {
        return Err(ConfigError::value(
            option,
            text,
            "this is not a network; write for example 10.1.0.0/16 or fd00:1::/64",
        ));
    };
    if network.addr() != network.network() {
        let problem = format!("bits behind the prefix are set; write {} if the network is meant", network.trunc());
        return Err(ConfigError::value(option, text, problem));
    }
    Ok(network)
}

fn mac_address(text: &str) -> Result<[u8; 6], ConfigError> {
    let mut mac = [0; 6];
    let octets: Vec<&str> = text.split([':', '-']).collect();
    let valid = octets.len() == mac.len()
        && octets.iter().zip(&mut mac).all(|(octet, byte)| {
            let parsed = u8::from_str_radix(octet, 16).ok().filter(|_| octet.len() <= 2 && !octet.starts_with('+'));
            parsed.map(|value| *byte = value).is_some()
        });
    if !valid {
        return Err(ConfigError::value("mac", text, "this is not a MAC address; write for example 02:00:5e:10:00:01"));
    }
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(ConfigError::value("mac", text, "this is no unicast address; use one such as 02:00:5e:10:00:01"));
    }
    Ok(mac)
}

pub(super) fn number(option: &'static str, text: &str, min: u32, max: u32) -> Result<u32, ConfigError> {
    match text.parse::<u32>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(ConfigError::value(option, text, format!("it must be a whole number from {min} to {max}"))),
    }
}

fn mark(text: &Text) -> Result<u32, ConfigError> {
    let parsed = match text.0.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.0.parse(),
    };
    parsed.map_err(|_| {
        ConfigError::value("fwmark", &text.0, "it must be a number from 0 to 4294967295, or hexadecimal as 0x2a")
    })
}

/// Times from one second to one hour: the kernel's keepalive timers count whole seconds.
pub(super) fn duration(option: &'static str, text: Option<&Text>, default: Duration) -> Result<Duration, ConfigError> {
    let Some(text) = text else { return Ok(default) };
    match humantime::parse_duration(&text.0) {
        Ok(time)
            if (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&time) && time.subsec_nanos() == 0 =>
        {
            Ok(time)
        }
        _ => Err(ConfigError::value(option, &text.0, "it must be a time in whole seconds from 1s to 1h, such as 10s")),
    }
}
