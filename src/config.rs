//! Settings: as written on the command line and in the file ([`Options`]), and as used ([`Config`]).
//!
//! One structure serves flags and file, so their names cannot drift apart. Everything is parsed and checked
//! here, once; what comes out is typed and true. Pure but for reading the file: it opens no socket and looks
//! up no host name. Service names come through a function that the caller passes in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

mod endpoint;
mod parse;
#[cfg(test)]
mod tests;

pub use endpoint::{Endpoint, Host};

/// The port that is listened on or connected to unless another is given.
pub const DEFAULT_PORT: u16 = 55_555;

/// Longest interface name in bytes (`IFNAMSIZ` less the terminating zero).
pub const MAX_NAME_LEN: usize = 15;

/// A value as it was typed: a string, or in the file also a bare number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(String);

impl FromStr for Text {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Text;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or a whole number")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// The settings of a tunnel as flags and as keys of the configuration file. A flag overrides the file.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// Name of the tun or tap device; a pattern such as tun%d lets the kernel pick the number
    #[arg(short, long, value_name = "IFNAME", help_heading = "Tunnel")]
    pub interface: Option<Text>,

    /// Act as the server: wait for a peer
    #[arg(short, long, overrides_with = "connect", help_heading = "Tunnel")]
    pub server: bool,

    /// Act as a client of this server: a name, an IPv4 address, or an IPv6 address in brackets if a port follows
    #[arg(short, long, value_name = "HOST[:PORT]", overrides_with = "server", help_heading = "Tunnel")]
    pub connect: Option<Text>,

    /// Port to listen on or to connect to: a number or a service name [default: 55555]
    #[arg(short, long, value_name = "PORT", help_heading = "Tunnel")]
    pub port: Option<Text>,

    /// Use a tun device, which carries IP packets (the default)
    #[arg(short = 'u', long, overrides_with = "tap", help_heading = "Tunnel")]
    pub tun: bool,

    /// Use a tap device, which carries Ethernet frames
    #[arg(short = 'a', long, overrides_with = "tun", help_heading = "Tunnel")]
    pub tap: bool,

    /// Carry the packets over TCP (the default)
    #[arg(long, overrides_with = "udp", help_heading = "Transport")]
    pub tcp: bool,

    /// Carry the packets over UDP, one in each datagram
    #[arg(short = 'U', long, overrides_with = "tcp", help_heading = "Transport")]
    pub udp: bool,

    /// Local address to listen on or to connect from
    #[arg(long, value_name = "ADDR[:PORT]", help_heading = "Transport")]
    pub bind: Option<Text>,

    /// With --server: accept only this peer, and over UDP send to it before it has spoken
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "Transport")]
    pub remote: Option<Text>,

    /// With --server: accept peers from this network only, instead of the private and directly connected ones;
    /// "any" accepts everybody (repeatable)
    #[arg(long, value_name = "CIDR|any", help_heading = "Transport")]
    pub allow: Vec<Text>,

    /// Send and receive through this network interface only (SO_BINDTODEVICE)
    #[arg(long, value_name = "IFNAME", help_heading = "Transport")]
    pub bind_device: Option<Text>,

    /// Mark the packets of the link for routing rules and firewalls (SO_MARK)
    #[arg(long, value_name = "MARK", help_heading = "Transport")]
    pub fwmark: Option<Text>,

    /// TCP: probe a silent peer after this time [default: 3s]
    #[arg(long, value_name = "TIME", help_heading = "Transport")]
    pub keepalive: Option<Text>,

    /// TCP: give up a connection on which the peer has answered nothing for this time [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Transport")]
    pub down_after: Option<Text>,

    /// TCP: congestion control of the connection, such as cubic or bbr [default: the system's]
    #[arg(long, value_name = "NAME", help_heading = "Transport")]
    pub congestion: Option<Text>,

    /// Size of the socket's send buffer in bytes [default: TCP the kernel's own tuning, UDP 4 MiB]
    #[arg(long, value_name = "BYTES", help_heading = "Transport")]
    pub sndbuf: Option<Text>,

    /// Size of the socket's receive buffer in bytes [default: TCP the kernel's own tuning, UDP 4 MiB]
    #[arg(long, value_name = "BYTES", help_heading = "Transport")]
    pub rcvbuf: Option<Text>,

    /// Exit when the peer leaves instead of waiting for it or reconnecting
    #[arg(long, help_heading = "Transport")]
    pub once: bool,

    /// Address of the device, such as 192.168.0.1/24 (repeatable; implies --up)
    #[arg(long, value_name = "CIDR", help_heading = "Device")]
    pub address: Vec<Text>,

    /// Address of the far end of a point-to-point device
    #[arg(long, value_name = "ADDR", help_heading = "Device")]
    pub peer_address: Option<Text>,

    /// Netmask of an IPv4 --address that has no prefix length
    #[arg(long, value_name = "MASK", help_heading = "Device")]
    pub netmask: Option<Text>,

    /// Route this network through the tunnel (repeatable; implies --up)
    #[arg(long, value_name = "CIDR", help_heading = "Device")]
    pub route: Vec<Text>,

    /// MTU of the device in bytes [default: 1500; a tun device over UDP that is created: what fits 1500 outside]
    #[arg(long, value_name = "BYTES", help_heading = "Device")]
    pub mtu: Option<Text>,

    /// MAC address of a tap device
    #[arg(long, value_name = "MAC", help_heading = "Device")]
    pub mac: Option<Text>,

    /// Length of the device's transmit queue in packets
    #[arg(long, value_name = "PACKETS", help_heading = "Device")]
    pub txqueuelen: Option<Text>,

    /// Segmentation offload of the device: auto takes what the kernel offers, on insists on it
    #[arg(long, value_name = "auto|on|off", help_heading = "Device")]
    pub offload: Option<Text>,

    /// Bring the device up
    #[arg(long, help_heading = "Device")]
    pub up: bool,

    /// Keep the device when the daemon ends
    #[arg(long, help_heading = "Device")]
    pub persist: bool,

    /// User who may attach to the device, if it is created
    #[arg(long, value_name = "USER", help_heading = "Device")]
    pub owner: Option<Text>,

    /// Group whose members may attach to the device, if it is created
    #[arg(long, value_name = "GROUP", help_heading = "Device")]
    pub owner_group: Option<Text>,

    /// Print a line for every packet, as the original simpletun does
    #[arg(short, long, help_heading = "Output")]
    pub debug: bool,

    /// How the link is protected; mandatory in a file so that no service is plain by omission.
    #[arg(skip)]
    pub security: Option<Text>,
}

/// A mistake in the configuration: one sentence that names the option, the value and the cure.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The original's text, for scripts that match it.
    #[error("Must specify interface name!")]
    NoInterface,
    /// The original's text, for scripts that match it.
    #[error("Must specify client or server mode!")]
    NoRole,
    /// The original's text, for scripts that match it.
    #[error("Must specify server address!")]
    NoServerAddress,
    /// A value that cannot be used.
    #[error("Option {option} cannot be {value:?}: {problem}")]
    Value {
        /// Long name of the flag, which is also the key in the file.
        option: &'static str,
        /// The value as typed.
        value: String,
        /// What is wrong and what to do about it.
        problem: String,
    },
    /// Options that do not go together, or one that misses another.
    #[error("{0}")]
    Combination(String),
    /// The original's family of tools says it in these words.
    #[error("'{0}' is neither a username nor a numeric uid.")]
    UnknownUser(String),
    /// As above, for a group.
    #[error("'{0}' is neither a groupname nor a numeric gid.")]
    UnknownGroup(String),
    /// The file cannot be read.
    #[error("Cannot read the configuration file {path}: {source}; give --config a readable file")]
    Read {
        /// The file's name.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("Configuration file {path}, line {line}: {problem}")]
    Syntax {
        /// The file's name.
        path: String,
        /// Line number, from 1.
        line: usize,
        /// What is wrong and what to do about it.
        problem: String,
    },
}

impl ConfigError {
    fn value(option: &'static str, value: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value { option, value: value.into(), problem: problem.into() }
    }
}

/// What the device carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// IP packets (`IFF_TUN`).
    Tun,
    /// Ethernet frames without frame check sequence (`IFF_TAP`).
    Tap,
}

impl LinkLayer {
    /// The shortest packet that can mean something, in bytes: an IPv4 header (RFC 791) or an Ethernet header.
    pub fn min_packet_len(self) -> usize {
        match self {
            Self::Tun => 20,
            Self::Tap => 14,
        }
    }
}

impl fmt::Display for LinkLayer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tun => "tun",
            Self::Tap => "tap",
        })
    }
}

/// What carries the packets to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A TCP connection with 2-byte length framing.
    Tcp,
    /// UDP, one packet in a datagram.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Who may be the peer of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loopback, private and link-local ranges and directly connected networks.
    Protected,
    /// These networks and nobody else.
    Networks(Vec<IpNet>),
    /// Everybody.
    Any,
    /// This host only. With a port given, only that port of it.
    Remote {
        /// The expected peer; its port is where the first datagram goes.
        endpoint: Endpoint,
        /// The port was given with the host and must match.
        port_given: bool,
    },
}

/// Which side of the link this end is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// `-c`: connects to this endpoint.
    Connect(Endpoint),
    /// `-s`: waits for a peer that may be accepted.
    Listen(Access),
}

impl Role {
    /// True for the side that connects.
    pub fn is_client(&self) -> bool {
        matches!(self, Self::Connect(_))
    }
}

/// The local address and port of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// `None`: every address of both families.
    pub address: Option<IpAddr>,
    /// 0: picked by the kernel (clients only).
    pub port: u16,
}

/// The link between the two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Client or server.
    pub role: Role,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Local address and port.
    pub bind: Bind,
    /// `SO_BINDTODEVICE`.
    pub bind_device: Option<String>,
    /// `SO_MARK`.
    pub fwmark: Option<u32>,
    /// TCP: silence after which the peer is probed.
    pub keepalive: Duration,
    /// TCP: time without any answer after which the connection is given up.
    pub down_after: Duration,
    /// TCP: name of the congestion control, if it is not the system's.
    pub congestion: Option<String>,
    /// `SO_SNDBUF` in bytes.
    pub send_buffer: Option<usize>,
    /// `SO_RCVBUF` in bytes.
    pub receive_buffer: Option<usize>,
}

/// Whether super-packets cross the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// As far as the kernel offers it.
    #[default]
    Auto,
    /// It is an error if the kernel offers nothing.
    On,
    /// Every packet alone.
    Off,
}

/// The device to create or to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Name or pattern; valid for the kernel.
    pub name: String,
    /// tun or tap.
    pub kind: LinkLayer,
    /// Keep the device at the end.
    pub persist: bool,
    /// User name or number, for a device that is created.
    pub owner: Option<String>,
    /// Group name or number, for a device that is created.
    pub group: Option<String>,
    /// Segmentation offload.
    pub offload: Offload,
}

/// An address of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Our own address.
    pub local: IpAddr,
    /// The far end's address, if one was given or follows from RFC 3021.
    pub peer: Option<IpAddr>,
    /// Length of the network prefix in bits.
    pub prefix_len: u8,
}

/// What is configured on the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Addresses in the order given.
    pub addresses: Vec<InterfaceAddress>,
    /// Networks routed through the tunnel.
    pub routes: Vec<IpNet>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// MAC address (tap only).
    pub mac: Option<[u8; 6]>,
    /// Transmit queue length in packets.
    pub tx_queue_len: Option<u32>,
    /// Bring the device up.
    pub up: bool,
}

/// The settings of a tunnel, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The device.
    pub device: DeviceConfig,
    /// What is configured on it.
    pub network: NetworkConfig,
    /// The link to the peer.
    pub link: LinkConfig,
    /// Exit when the peer leaves.
    pub once: bool,
    /// Print the original's line for each packet.
    pub debug: bool,
}

/// Looks up the port of a service name (services(5)); `None` if there is none of that name.
pub type ServiceLookup<'a> = &'a dyn Fn(&str, Protocol) -> Option<u16>;

impl Options {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, has an unknown key or a value of the wrong type, or does not say
    /// how the link is protected.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
        Self::from_toml(&text, &name)
    }

    /// Parses the text of a configuration file; `name` is used in errors.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_toml(text: &str, name: &str) -> Result<Self, ConfigError> {
        let options: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let content: String = text.lines().nth(line - 1).unwrap_or_default().trim().chars().take(80).collect();
            let problem = format!("{}; mend {content:?}", error.message().replace('\n', "; "));
            ConfigError::Syntax { path: name.to_owned(), line, problem }
        })?;
        if options.security.is_none() {
            let cure = "add security = \"plain\" to say that the link is neither encrypted nor authenticated";
            return Err(ConfigError::Combination(format!("Configuration file {name} lacks the key security: {cure}")));
        }
        if options.server && options.connect.is_some() {
            return Err(ConfigError::Combination(format!(
                "Configuration file {name} has both server and connect: keep one of them"
            )));
        }
        if (options.tun && options.tap) || (options.tcp && options.udp) {
            return Err(ConfigError::Combination(format!(
                "Configuration file {name} has both tun and tap, or both tcp and udp: keep one of each pair"
            )));
        }
        Ok(options)
    }

    /// Lays `flags` over the settings of the file: what the flags say wins.
    #[must_use]
    pub fn overlaid_with(self, flags: Self) -> Self {
        let role_by_flag = flags.server || flags.connect.is_some();
        let kind_by_flag = flags.tun || flags.tap;
        let protocol_by_flag = flags.tcp || flags.udp;
        Self {
            interface: flags.interface.or(self.interface),
            server: if role_by_flag { flags.server } else { self.server },
            connect: if role_by_flag { flags.connect } else { self.connect },
            port: flags.port.or(self.port),
            tun: if kind_by_flag { flags.tun } else { self.tun },
            tap: if kind_by_flag { flags.tap } else { self.tap },
            tcp: if protocol_by_flag { flags.tcp } else { self.tcp },
            udp: if protocol_by_flag { flags.udp } else { self.udp },
            bind: flags.bind.or(self.bind),
            remote: flags.remote.or(self.remote),
            allow: first_given(flags.allow, self.allow),
            bind_device: flags.bind_device.or(self.bind_device),
            fwmark: flags.fwmark.or(self.fwmark),
            keepalive: flags.keepalive.or(self.keepalive),
            down_after: flags.down_after.or(self.down_after),
            congestion: flags.congestion.or(self.congestion),
            sndbuf: flags.sndbuf.or(self.sndbuf),
            rcvbuf: flags.rcvbuf.or(self.rcvbuf),
            once: flags.once || self.once,
            address: first_given(flags.address, self.address),
            peer_address: flags.peer_address.or(self.peer_address),
            netmask: flags.netmask.or(self.netmask),
            route: first_given(flags.route, self.route),
            mtu: flags.mtu.or(self.mtu),
            mac: flags.mac.or(self.mac),
            txqueuelen: flags.txqueuelen.or(self.txqueuelen),
            offload: flags.offload.or(self.offload),
            up: flags.up || self.up,
            persist: flags.persist || self.persist,
            owner: flags.owner.or(self.owner),
            owner_group: flags.owner_group.or(self.owner_group),
            debug: flags.debug || self.debug,
            security: flags.security.or(self.security),
        }
    }
}

fn first_given(flags: Vec<Text>, file: Vec<Text>) -> Vec<Text> {
    if flags.is_empty() { file } else { flags }
}

/// Checks the name of a device that is to be made or attached to.
///
/// # Errors
/// The kernel would not take the name.
pub fn device_name(name: &str) -> Result<String, ConfigError> {
    if name.is_empty() { Err(ConfigError::NoInterface) } else { parse::interface_name("interface", name) }
}

impl Config {
    /// Checks the settings and gives them their types.
    ///
    /// # Errors
    /// The first mistake found, in the order in which the original checks: interface, role, server address,
    /// then the rest.
    pub fn new(options: &Options, services: ServiceLookup<'_>) -> Result<Self, ConfigError> {
        parse::config(options, services)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl LinkConfig {
    /// The MTU of a tun device whose packets fit a path of 1500 bytes over UDP: less the IP and UDP headers, IPv6's
    /// unless the link is certain to be IPv4. `None` over TCP, which takes any length.
    pub fn fitting_mtu(&self) -> Option<u32> {
        let literal = |endpoint: &Endpoint| matches!(endpoint.host, Host::Address(IpAddr::V4(_)));
        let is_ipv4 = matches!(self.bind.address, Some(IpAddr::V4(_)))
            || match &self.role {
                Role::Connect(endpoint) | Role::Listen(Access::Remote { endpoint, .. }) => literal(endpoint),
                Role::Listen(_) => false,
            };
        let header_len = if is_ipv4 { 20 + 8 } else { 40 + 8 };
        (self.protocol == Protocol::Udp).then_some(1500 - header_len)
    }
}

impl Bind {
    /// The socket addresses to try, in this order: one if an address was given, else IPv6 for both families
    /// with IPv4 alone as the fallback.
    pub fn candidates(&self) -> Vec<SocketAddr> {
        match self.address {
            Some(address) => vec![SocketAddr::new(address, self.port)],
            None => vec![
                SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), self.port),
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.port),
            ],
        }
    }
}
