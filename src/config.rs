//! Settings: as written on the command line and in the file ([`Options`]), and as used ([`Config`]).
//!
//! One structure serves flags and file, so their names cannot drift apart. Everything is parsed and checked
//! here, once; what comes out is typed and true. Pure but for reading the file: it opens no socket and looks
//! up no host name. Service names and the files of keys come through what the caller passes in ([`ServiceLookup`],
//! [`KeySource`]).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

use crate::link_state::State;
use crate::memory::MemoryError;
use crate::tunnel::keys::{KeyError, PrivateKey, PublicKey, SharedSecret};

mod endpoint;
mod hooks;
pub mod key_file;
mod name;
mod network;
mod options;
mod parse;
mod privileges;
mod security;
#[cfg(test)]
mod security_tests;
mod segment;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use endpoint::peer_endpoint;
pub use endpoint::{Bind, Endpoint, Host};
pub use hooks::HooksConfig;
pub use key_file::{KeyFileError, KeyFiles};
pub use name::{DeviceName, NotAName};
pub use options::Options;
pub(crate) use parse::network_or_host;
pub use privileges::PrivilegesConfig;
pub use security::KeySource;
pub use segment::{Bpdus, GuardChoice, ProtocolList, SegmentConfig, VlanList};
pub use text::{Text, Words};

/// The port that is listened on or connected to unless another is given.
pub const DEFAULT_PORT: u16 = 55_555;

/// What a secure link adds to a packet, in bytes: a header and a tag of 16 each (docs/PROTOCOL.md, "Overhead").
const SECURE_OVERHEAD: u32 = 16 + 16;

/// Longest interface name in bytes (`IFNAMSIZ` less the terminating zero).
pub const MAX_NAME_LEN: usize = 15;

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
    #[error("'{0}' is neither a groupname nor a numeric group.")]
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
    /// The file of a key cannot be used.
    #[error("Option {option} cannot use {file}: {source}")]
    KeyFile {
        /// Long name of the flag.
        option: &'static str,
        /// The file's name, quoted.
        file: String,
        /// Why.
        source: KeyFileError,
    },
    /// What is in the file of a key is not the key that is wanted.
    #[error("Option {option} cannot use {file}: {source}")]
    Key {
        /// Long name of the flag.
        option: &'static str,
        /// The file's name, quoted.
        file: String,
        /// What it is instead.
        source: KeyError,
    },
    /// Keys would not be safe in memory.
    #[error(transparent)]
    Memory(MemoryError),
}

impl ConfigError {
    /// A key that strayed into `value` is not shown.
    pub(crate) fn value(option: &'static str, value: impl AsRef<str>, problem: impl Into<String>) -> Self {
        Self::Value { option, value: security::masked(value.as_ref()), problem: problem.into() }
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

/// How the link is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// Neither encrypted nor authenticated.
    Plain,
    /// By a secret that both ends hold: one, or the old and the new one. The first is the preferred one.
    Secret(Vec<SharedSecret>),
    /// By the keys of both ends.
    Keys {
        /// Of this end.
        private: PrivateKey,
        /// Of the other end: one, or the old and the new one. None of them is that of `private`.
        peers: Vec<PublicKey>,
        /// Known to both ends beside their keys.
        psk: Option<SharedSecret>,
    },
}

impl Security {
    /// True unless the link is plain.
    pub fn is_secure(&self) -> bool {
        !matches!(self, Self::Plain)
    }
}

/// Which AEAD this end agrees to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AeadChoice {
    /// AES-256-GCM where the processor helps with it, otherwise ChaCha20-Poly1305.
    #[default]
    Auto,
    /// AES-256-GCM and no other.
    Aes256Gcm,
    /// ChaCha20-Poly1305 and no other.
    ChaCha20Poly1305,
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
    /// TCP and secure links: silence after which the peer is probed.
    pub keepalive: Duration,
    /// TCP and secure links: time without any answer after which the peer is taken to be gone.
    pub down_after: Duration,
    /// TCP: the time between retransmissions is limited where the kernel can do it.
    pub caps_rto: bool,
    /// TCP: name of the congestion control, if it is not the system's.
    pub congestion: Option<String>,
    /// `SO_SNDBUF` in bytes.
    pub send_buffer: Option<usize>,
    /// `SO_RCVBUF` in bytes.
    pub receive_buffer: Option<usize>,
    /// What connections inside announce as their maximum segment size.
    pub mss_clamp: MssClamp,
    /// Packets that are longer than the path of a secure datagram link carries cross in parts.
    pub fragments: bool,
    /// How it is protected, with the keys.
    pub security: Security,
    /// Secure links: the AEAD.
    pub aead: AeadChoice,
    /// Secure links over UDP: the peer stays where the configuration says, wherever its messages come from.
    pub pin_endpoint: bool,
    /// Secure links: directory for what is remembered across restarts.
    pub state_dir: Option<PathBuf>,
    /// Secure links: age at which a session is replaced, if not the protocol's.
    pub rekey_after: Option<Duration>,
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

/// Whether the device's carrier follows the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CarrierChoice {
    /// If the daemon has created the device.
    #[default]
    Auto,
    /// On every device.
    On,
    /// It is on all the time.
    Off,
}

impl CarrierChoice {
    /// True if it follows the link on a device that was created by this program or not.
    pub fn follows(self, created: bool) -> bool {
        self == Self::On || (self == Self::Auto && created)
    }
}

/// What is done about the maximum segment size that TCP connections inside announce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MssClamp {
    /// It is lowered to what fits the device and the link.
    #[default]
    Auto,
    /// Nothing.
    Off,
    /// It is lowered to this many bytes.
    Fixed(u16),
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
    /// The bridge that it is a port of (tap only).
    pub bridge: Option<DeviceName>,
    /// Devices of the LAN that become ports of the bridge, which is made for that; none if the bridge is there already.
    pub lan_ports: Vec<DeviceName>,
    /// Transmit queue length in packets.
    pub tx_queue_len: Option<u32>,
    /// Bring the device up.
    pub up: bool,
    /// Whether its carrier follows the link.
    pub carrier: CarrierChoice,
}

/// Where the control socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ControlChoice {
    /// In the usual directory, by the name of the instance; a failure is no reason not to run.
    #[default]
    Usual,
    /// Nowhere.
    Off,
    /// Here.
    Path(PathBuf),
}

/// How the tunnel can be watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlConfig {
    /// The name of the instance, if it has one beside its device's: that of its configuration file.
    pub instance: Option<String>,
    /// The control socket.
    pub socket: ControlChoice,
    /// Where metrics are served: a loopback address.
    pub metrics: Option<SocketAddr>,
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
    /// What may cross between the LANs, of a tap.
    pub segment: Option<SegmentConfig>,
    /// How it can be watched.
    pub control: ControlConfig,
    /// The programs that are run.
    pub hooks: HooksConfig,
    /// What the process gives up.
    pub privileges: PrivilegesConfig,
    /// Exit when the peer leaves.
    pub once: bool,
    /// Print the original's line for each packet.
    pub debug: bool,
    /// How much is said.
    pub log_level: LevelFilter,
}

/// Looks up the port of a service name (services(5)); `None` if there is none of that name.
pub type ServiceLookup<'a> = &'a dyn Fn(&str, Protocol) -> Option<u16>;

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
    pub fn new(options: &Options, services: ServiceLookup<'_>, keys: &dyn KeySource) -> Result<Self, ConfigError> {
        parse::config(options, services, keys)
    }
}

impl LinkConfig {
    /// What is known about the peer before anything has happened. Who speaks first over plain UDP cannot wait for a sign
    /// of the peer, which may wait for one itself.
    pub fn rest_state(&self) -> State {
        let speaks_first = matches!(&self.role, Role::Connect(_) | Role::Listen(Access::Remote { .. }));
        match &self.role {
            _ if speaks_first && self.protocol == Protocol::Udp && !self.security.is_secure() => State::Unknown,
            Role::Connect(_) => State::Connecting,
            Role::Listen(_) => State::Waiting,
        }
    }

    /// The MTU of a tun device whose packets fit a path of 1500 bytes over UDP: less the IP and UDP headers, IPv6's
    /// unless the link is certain to be IPv4, and what a secure link adds. The ends of a secure link compare their MTUs, so
    /// there it is IPv6's in any case, whatever an end happens to know. `None` over TCP, which takes any length.
    pub fn fitting_mtu(&self) -> Option<u32> {
        let literal = |endpoint: &Endpoint| matches!(endpoint.host, Host::Address(IpAddr::V4(_)));
        let is_ipv4 = matches!(self.bind.address, Some(IpAddr::V4(_)))
            || match &self.role {
                Role::Connect(endpoint) | Role::Listen(Access::Remote { endpoint, .. }) => literal(endpoint),
                Role::Listen(_) => false,
            };
        let is_secure = self.security.is_secure();
        let header_len = if is_ipv4 && !is_secure { 20 + 8 } else { 40 + 8 };
        let overhead = if is_secure { SECURE_OVERHEAD } else { 0 };
        (self.protocol == Protocol::Udp).then_some(1500 - header_len - overhead)
    }
}
