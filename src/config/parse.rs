//! From the options as typed to the settings as used: one function a kind of value, each with its own sentence
//! for what can be wrong.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

use super::endpoint::{Endpoint, agree, bind_address, peer_endpoint, port};
use super::network::network;
use super::security::{Protection, protection};
use super::{
    Access, Bind, CarrierChoice, Config, ConfigError, ControlChoice, ControlConfig, DEFAULT_PORT, DeviceConfig,
    KeySource, LinkConfig, LinkLayer, MAX_NAME_LEN, MssClamp, Offload, Options, Protocol, Role, ServiceLookup, Text,
    hooks, privileges, segment,
};

const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(3);
const DEFAULT_DOWN_AFTER: Duration = Duration::from_secs(10);

/// Segments that Linux sends (`TCP_MIN_SND_MSS` of `include/net/tcp.h`), and the greatest that fits a packet.
const MIN_MSS: u16 = 48;
const MAX_MSS: u16 = 65_535 - 40;

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

pub(super) fn carrier(options: &Options) -> Result<CarrierChoice, ConfigError> {
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

pub(super) fn account(option: &'static str, text: &Text) -> Result<String, ConfigError> {
    if text.0.is_empty() {
        return Err(ConfigError::value(option, "", "it is empty; give a name or a number"));
    }
    Ok(text.0.clone())
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
