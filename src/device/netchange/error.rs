//! Why a change to a network device was refused, told to the operator.
//!
//! This file knows what the error numbers of rtnetlink(7) mean for each kind of change and what cures them. It makes
//! no change; it only asks the kernel for what the refusal did not say.

use std::fs;
use std::io;

use ipnet::IpNet;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::change::Mac;
use super::{AddressSpec, NetChange};
use crate::config::DeviceName;
use crate::device::netlink::{Netlink, errno_of};

/// A change that could not be made. `advice` is empty, or says what is wrong and what to do, after ": "; the kernel's
/// own words are in `source`, the error number is in `errno` too because `source` may hold it in a form that
/// [`io::Error::raw_os_error`] does not see.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields have the same meaning in every variant, told above")]
pub enum NetError {
    /// The device could not be looked up, so that nothing was tried; made by [`Self::lookup`].
    #[error("Cannot find device {device}")]
    Lookup { device: String, errno: Errno, source: io::Error },
    /// The bridge could not be made.
    #[error("Cannot make the bridge {bridge}{advice}")]
    MakeBridge { device: String, bridge: DeviceName, like: DeviceName, advice: String, errno: Errno, source: io::Error },
    /// The device of the LAN could not become a port of the bridge.
    #[error("Cannot put {port} into the bridge {bridge}{advice}")]
    LanPort { device: String, bridge: DeviceName, port: DeviceName, advice: String, errno: Errno, source: io::Error },
    /// The device could not become a port of the bridge.
    #[error("Cannot put {device} into the bridge {bridge}{advice}")]
    Bridge { device: String, bridge: DeviceName, advice: String, errno: Errno, source: io::Error },
    /// The device could not be set up.
    #[error("Cannot bring {device} up{advice}")]
    Up { device: String, advice: String, errno: Errno, source: io::Error },
    /// The MTU could not be set.
    #[error("Cannot set the MTU of {device} to {mtu}{advice}")]
    Mtu { device: String, mtu: u32, advice: String, errno: Errno, source: io::Error },
    /// The hardware address could not be set.
    #[error("Cannot set the MAC address of {device} to {}{advice}", Mac(*mac))]
    Mac { device: String, mac: [u8; 6], advice: String, errno: Errno, source: io::Error },
    /// The length of the transmit queue could not be set.
    #[error("Cannot set the transmit queue length of {device} to {packets}{advice}")]
    TxQueueLen { device: String, packets: u32, advice: String, errno: Errno, source: io::Error },
    /// The length of super-packets could not be limited.
    #[error("Cannot limit the super-packets of {device} to {bytes} bytes{advice}")]
    GsoMaxSize { device: String, bytes: u32, advice: String, errno: Errno, source: io::Error },
    /// The address could not be added.
    #[error("Cannot add address {address} to {device}{advice}")]
    Address { device: String, address: AddressSpec, advice: String, errno: Errno, source: io::Error },
    /// The route could not be added.
    #[error("Cannot add a route to {destination} through {device}{advice}")]
    Route { device: String, destination: IpNet, advice: String, errno: Errno, source: io::Error },
}

impl NetError {
    /// The kernel's error number, `UnknownErrno` if the fault was not the kernel's.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Lookup { errno, .. }
            | Self::MakeBridge { errno, .. }
            | Self::LanPort { errno, .. }
            | Self::Bridge { errno, .. }
            | Self::Up { errno, .. }
            | Self::Mtu { errno, .. }
            | Self::Mac { errno, .. }
            | Self::TxQueueLen { errno, .. }
            | Self::GsoMaxSize { errno, .. }
            | Self::Address { errno, .. }
            | Self::Route { errno, .. } => *errno,
        }
    }

    /// The error for a caller who has a change to make and meets an error of [`NetConfig::new`](super::NetConfig::new).
    #[must_use]
    pub fn lookup(device: &str, source: io::Error) -> Self {
        Self::Lookup { device: device.to_owned(), errno: errno_of(&source), source }
    }

    /// The error for a change that is not to be made.
    #[must_use]
    pub fn forbidden(change: &NetChange, device: &str) -> Self {
        let advice = ": it is not in the configuration".to_owned();
        Self::new(*change, device.to_owned(), advice, Errno::EPERM.into())
    }

    /// What the refusal of `change` on the device with this name and index means. Asks the kernel for what the refusal
    /// left out, such as the range of an MTU.
    pub(super) fn explain(
        change: &NetChange,
        device: &str,
        index: u32,
        netlink: &mut Netlink,
        source: io::Error,
    ) -> Self {
        let mut adviser = Adviser { change, device, index, netlink };
        let advice = adviser.advice(errno_of(&source)).map_or_else(String::new, |advice| format!(": {advice}"));
        Self::new(*change, device.to_owned(), advice, source)
    }

    fn new(change: NetChange, device: String, advice: String, source: io::Error) -> Self {
        let errno = errno_of(&source);
        Self::with_errno(change, device, advice, errno, source)
    }

    fn with_errno(change: NetChange, device: String, advice: String, errno: Errno, source: io::Error) -> Self {
        match change {
            NetChange::MakeBridge { bridge, like } => Self::MakeBridge { device, bridge, like, advice, errno, source },
            NetChange::LanPort { bridge, port } => Self::LanPort { device, bridge, port, advice, errno, source },
            NetChange::Bridge(bridge) => Self::Bridge { device, bridge, advice, errno, source },
            NetChange::Up => Self::Up { device, advice, errno, source },
            NetChange::Mtu(mtu) => Self::Mtu { device, mtu, advice, errno, source },
            NetChange::Mac(mac) => Self::Mac { device, mac, advice, errno, source },
            NetChange::TxQueueLen(packets) => Self::TxQueueLen { device, packets, advice, errno, source },
            NetChange::GsoMaxSize(bytes) => Self::GsoMaxSize { device, bytes, advice, errno, source },
            NetChange::Address(address) => Self::Address { device, address, advice, errno, source },
            NetChange::Route(destination) => Self::Route { device, destination, advice, errno, source },
        }
    }
}

/// A [`NetError`] on its way to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// `None` if the device could not be looked up.
    change: Option<NetChange>,
    device: String,
    advice: String,
    errno: i32,
    source: String,
}

impl From<NetError> for Refusal {
    fn from(error: NetError) -> Self {
        let (change, device, advice, errno, source) = match error {
            NetError::Lookup { device, errno, source } => (None, device, String::new(), errno, source),
            NetError::MakeBridge { device, bridge, like, advice, errno, source } => {
                (Some(NetChange::MakeBridge { bridge, like }), device, advice, errno, source)
            }
            NetError::LanPort { device, bridge, port, advice, errno, source } => {
                (Some(NetChange::LanPort { bridge, port }), device, advice, errno, source)
            }
            NetError::Bridge { device, bridge, advice, errno, source } => {
                (Some(NetChange::Bridge(bridge)), device, advice, errno, source)
            }
            NetError::Up { device, advice, errno, source } => (Some(NetChange::Up), device, advice, errno, source),
            NetError::Mtu { device, mtu, advice, errno, source } => {
                (Some(NetChange::Mtu(mtu)), device, advice, errno, source)
            }
            NetError::Mac { device, mac, advice, errno, source } => {
                (Some(NetChange::Mac(mac)), device, advice, errno, source)
            }
            NetError::TxQueueLen { device, packets, advice, errno, source } => {
                (Some(NetChange::TxQueueLen(packets)), device, advice, errno, source)
            }
            NetError::GsoMaxSize { device, bytes, advice, errno, source } => {
                (Some(NetChange::GsoMaxSize(bytes)), device, advice, errno, source)
            }
            NetError::Address { device, address, advice, errno, source } => {
                (Some(NetChange::Address(address)), device, advice, errno, source)
            }
            NetError::Route { device, destination, advice, errno, source } => {
                (Some(NetChange::Route(destination)), device, advice, errno, source)
            }
        };
        Self { change, device, advice, errno: errno as i32, source: source.to_string() }
    }
}

impl From<Refusal> for NetError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { change, device, advice, errno, source } = refusal;
        let errno = Errno::from_raw(errno);
        let source = io::Error::other(source);
        match change {
            Some(change) => Self::with_errno(change, device, advice, errno, source),
            None => Self::Lookup { device, errno, source },
        }
    }
}

/// Finds the words for one refusal.
struct Adviser<'a> {
    change: &'a NetChange,
    device: &'a str,
    index: u32,
    netlink: &'a mut Netlink,
}

impl Adviser<'_> {
    /// Which of the possible causes it is, and the cure; `None` where the kernel's own words have to do.
    fn advice(&mut self, errno: Errno) -> Option<String> {
        let Self { change, device, index, .. } = *self;
        if wants_ipv6(change) && matches!(errno, Errno::EACCES | Errno::EPERM) && ipv6_is_disabled(device) {
            return Some(format!(
                "IPv6 is disabled on the device; enable it with 'sysctl -w net/ipv6/conf/{device}/disable_ipv6=0'"
            ));
        }
        // A device whose MTU is too small for IPv6 does not exist for it: routes get ENODEV, addresses EINVAL.
        if wants_ipv6(change)
            && matches!(errno, Errno::ENODEV | Errno::EINVAL | Errno::ENOBUFS)
            && let Some(advice) = self.ipv6_mtu_advice()
        {
            return Some(advice);
        }
        Some(match (change, errno) {
            (_, Errno::EPERM) => {
                let command = command(change, device);
                format!("not permitted; run as root, or configure the device beforehand with '{command}'")
            }
            (_, Errno::ENODEV) => "the device does not exist any more".to_owned(),
            (NetChange::MakeBridge { bridge, .. }, Errno::EEXIST) => format!(
                "there is a device of that name already; to join a bridge that is there, leave bridge-create out, else \
                 choose a name other than {bridge}"
            ),
            (NetChange::MakeBridge { .. }, Errno::EOPNOTSUPP) => {
                "this kernel has no bridges; load them with 'modprobe bridge'".to_owned()
            }
            (NetChange::MakeBridge { like: port, .. } | NetChange::LanPort { port, .. }, Errno::ENXIO) => {
                format!("there is no device {port}; name one that 'ip link' lists")
            }
            (NetChange::LanPort { port, .. }, Errno::EBUSY) => {
                format!("{port} is a port of another device; take it out with 'ip link set dev {port} nomaster'")
            }
            (NetChange::LanPort { port, .. }, Errno::EADDRINUSE) => format!(
                "{port} has addresses, and so has a port before it; a bridge takes those of one: remove them with \
                 'ip address flush dev {port}' or leave {port} out"
            ),
            (NetChange::LanPort { port, .. }, Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ELOOP) => {
                format!("{port} is none that a bridge takes: it must carry Ethernet frames and be no bridge itself")
            }
            (NetChange::Bridge(bridge), Errno::ENXIO) => {
                format!("there is no such bridge; make it with 'ip link add {bridge} type bridge'")
            }
            (NetChange::Bridge(bridge), Errno::EOPNOTSUPP) => {
                format!("{bridge} is no bridge; name one that 'ip link show type bridge' lists")
            }
            (NetChange::Mtu(_), Errno::EINVAL) => {
                let (smallest, largest) = self.netlink.mtu_range(index).ok()??;
                format!("the device takes {smallest} to {largest}")
            }
            (NetChange::Mac(mac), Errno::EADDRNOTAVAIL) => {
                format!("not a unicast address; use a unicast address such as {}", Mac(unicast_like(*mac)))
            }
            (NetChange::Mac(_), Errno::EOPNOTSUPP) => "only a tap device (-a) has a MAC address".to_owned(),
            (NetChange::Address(spec), Errno::EEXIST) => {
                format!("{} is there already with another peer or prefix length; remove that address first", spec.local)
            }
            (NetChange::Address(spec), Errno::EINVAL) if !spec.is_sound() => {
                "the prefix is too long, or the peer is of another address family".to_owned()
            }
            (NetChange::Route(_), Errno::ENETDOWN) => "the device is down; bring it up with --up".to_owned(),
            (NetChange::Route(destination), Errno::EEXIST) => {
                let other = self.other_output(*destination);
                format!("the destination already has a route through {other}; remove that route first")
            }
            _ => return None,
        })
    }

    /// The kernel takes IPv6 off a device with a small MTU and then refuses addresses and routes (`ipv6_add_dev` in
    /// `net/ipv6/addrconf.c`).
    fn ipv6_mtu_advice(&mut self) -> Option<String> {
        let mtu = self.netlink.link_at(self.index).ok()?.mtu;
        (mtu < IPV6_MTU_MIN).then(|| format!("IPv6 needs an MTU of at least {IPV6_MTU_MIN}, the device has {mtu}"))
    }

    /// Name of the device that packets to exactly this destination leave through at present.
    fn other_output(&mut self, destination: IpNet) -> String {
        let outputs = self.netlink.outputs_of(destination).unwrap_or_default();
        let other = outputs.into_iter().find(|&index| index != self.index);
        let link = other.and_then(|index| self.netlink.link_at(index).ok());
        link.map_or_else(|| "another device".to_owned(), |link| link.name)
    }
}

/// The ip(8) command line that makes this change.
fn command(change: &NetChange, device: &str) -> String {
    match change {
        NetChange::MakeBridge { bridge, .. } => format!("ip link add {bridge} type bridge"),
        NetChange::LanPort { bridge, port } => format!("ip link set dev {port} master {bridge}"),
        NetChange::Bridge(bridge) => format!("ip link set dev {device} master {bridge}"),
        NetChange::Up => format!("ip link set dev {device} up"),
        NetChange::Mtu(bytes) => format!("ip link set dev {device} mtu {bytes}"),
        NetChange::Mac(mac) => format!("ip link set dev {device} address {}", Mac(*mac)),
        NetChange::TxQueueLen(packets) => format!("ip link set dev {device} txqueuelen {packets}"),
        NetChange::GsoMaxSize(bytes) => format!("ip link set dev {device} gso_max_size {bytes}"),
        NetChange::Address(spec) => format!("ip address add {spec} dev {device}"),
        NetChange::Route(destination) => format!("ip route add {destination} dev {device}"),
    }
}

fn wants_ipv6(change: &NetChange) -> bool {
    match change {
        NetChange::Address(spec) => spec.local.is_ipv6(),
        NetChange::Route(destination) => destination.addr().is_ipv6(),
        _ => false,
    }
}

fn ipv6_is_disabled(device: &str) -> bool {
    let setting = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"));
    setting.is_ok_and(|setting| setting.trim() == "1")
}

/// The nearest address with the group bit clear and the locally administered bit set (IEEE 802, `linux/etherdevice.h`).
fn unicast_like(mut mac: [u8; 6]) -> [u8; 6] {
    mac[0] = mac[0] & 0xfe | 0x02;
    mac
}

/// `IPV6_MIN_MTU`, RFC 8200 section 5.
const IPV6_MTU_MIN: u32 = 1280;

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn an_error_names_device_and_value_and_keeps_the_source() {
        let source = io::Error::from_raw_os_error(1);
        let change = address("10.0.0.1", None, 24);
        let error = NetError::new(change, "tun3".to_owned(), ": not permitted".to_owned(), source);
        assert_eq!(error.to_string(), "Cannot add address 10.0.0.1/24 to tun3: not permitted");
        assert_eq!(error.errno(), Errno::EPERM);
        assert!(error.source().unwrap().to_string().starts_with("Operation not permitted"));
    }

    #[test]
    fn an_error_says_the_same_after_its_way_to_another_process() {
        for change in [NetChange::Up, NetChange::Mtu(68), address("10.0.0.1", None, 24), route("fd00::/8")] {
            let source = || io::Error::from_raw_os_error(1);
            let error = || NetError::new(change, "tun3".to_owned(), ": not permitted".to_owned(), source());
            let arrived = NetError::from(Refusal::from(error()));
            assert_eq!(arrived.to_string(), error().to_string());
            assert_eq!(arrived.errno(), Errno::EPERM);
            assert_eq!(arrived.source().unwrap().to_string(), source().to_string());
        }
    }

    #[test]
    fn commands_can_be_pasted() {
        let line = |change: NetChange| command(&change, "tun3");
        assert_eq!(line(route("10.0.0.0/8")), "ip route add 10.0.0.0/8 dev tun3");
        let peer = address("10.0.0.1", Some("10.0.0.2"), 32);
        assert_eq!(line(peer), "ip address add 10.0.0.1 peer 10.0.0.2/32 dev tun3");
        assert_eq!(line(NetChange::Mac([2, 0, 0, 0, 0, 10])), "ip link set dev tun3 address 02:00:00:00:00:0a");
    }

    #[test]
    fn the_suggested_mac_is_unicast_and_local() {
        assert_eq!(unicast_like([0x01, 0, 0x5e, 0, 0, 1]), [0x02, 0, 0x5e, 0, 0, 1]);
        assert_eq!(unicast_like([0; 6]), [2, 0, 0, 0, 0, 0]);
    }

    fn address(local: &str, peer: Option<&str>, prefix_len: u8) -> NetChange {
        let (local, peer) = (local.parse().unwrap(), peer.map(|peer| peer.parse().unwrap()));
        NetChange::Address(AddressSpec { local, peer, prefix_len })
    }

    fn route(net: &str) -> NetChange {
        NetChange::Route(net.parse().unwrap())
    }
}
