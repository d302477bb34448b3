//! What can be changed about a network device.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::DeviceName;
use crate::device::netlink::InterfaceAddress;

/// One change to a network device, with its undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetChange {
    /// Make a bridge with the MAC address of the device `like`, so that hosts that have talked to that one find the
    /// bridge in its place, and set it up. Undone by deleting it.
    MakeBridge {
        /// Its name, which no device may have yet.
        bridge: DeviceName,
        /// Its first port.
        like: DeviceName,
    },
    /// Make another device, one of the LAN, a port of this bridge and set it up. Its addresses and routes become the
    /// bridge's, but for the link-local addresses of IPv6. Undone by moving them back: all that the bridge has by then.
    LanPort {
        /// The bridge, made by [`Self::MakeBridge`].
        bridge: DeviceName,
        /// The device.
        port: DeviceName,
    },
    /// Make the device a port of this bridge. It gets the bridge's MTU before, for a bridge takes the smallest of its
    /// ports. Undone by taking it out, back into what it was a port of.
    Bridge(DeviceName),
    /// Set `IFF_UP`. Undone by taking the device down, which makes the kernel forget its routes.
    Up,
    /// Largest packet in bytes, without the Ethernet header. tun takes 68 to 65535, tap 68 to 65521; below 1280 the
    /// kernel removes IPv6 from the device.
    Mtu(u32),
    /// Hardware address of a tap device; unicast and not all zero.
    ///
    /// Where the driver refuses it on a device that is up, the device goes down and up again, which costs its routes
    /// and IPv6 addresses: order it before those.
    Mac([u8; 6]),
    /// Packets the transmit queue holds (`IFLA_TXQLEN`).
    TxQueueLen(u32),
    /// Longest super-packet that the kernel hands to the device, in bytes (`IFLA_GSO_MAX_SIZE`).
    GsoMaxSize(u32),
    /// An address, with the route to its prefix that the kernel adds by itself.
    Address(AddressSpec),
    /// A route into the device; host bits of the destination are cleared. The device must be up.
    Route(IpNet),
}

impl NetChange {
    /// The one spelling of all changes that ask for the same thing.
    #[must_use]
    pub fn canonical(&self) -> Self {
        match self {
            Self::Address(spec) => Self::Address(AddressSpec { peer: spec.distinct_peer(), ..*spec }),
            Self::Route(destination) => Self::Route(destination.trunc()),
            other => *other,
        }
    }
}

impl fmt::Display for NetChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeBridge { bridge, .. } => write!(f, "new bridge {bridge}"),
            Self::LanPort { bridge, port } => write!(f, "port {port} of the bridge {bridge}"),
            Self::Bridge(bridge) => write!(f, "bridge {bridge}"),
            Self::Up => write!(f, "state up"),
            Self::Mtu(bytes) => write!(f, "MTU {bytes}"),
            Self::Mac(mac) => write!(f, "MAC address {}", Mac(*mac)),
            Self::TxQueueLen(packets) => write!(f, "transmit queue length {packets}"),
            Self::GsoMaxSize(bytes) => write!(f, "largest super-packet {bytes}"),
            Self::Address(spec) => write!(f, "address {spec}"),
            Self::Route(destination) => write!(f, "route {destination}"),
        }
    }
}

/// An address to give to a device.
///
/// Displayed as ip(8) takes it: `10.0.0.1/24`, or `10.0.0.1 peer 10.0.0.2/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressSpec {
    /// This host's address.
    pub local: IpAddr,
    /// The address at the other end, of the same family. One equal to `local` means the same as none.
    pub peer: Option<IpAddr>,
    /// Length of the prefix of `peer`, or of `local` without a peer: 0 to 32 or 0 to 128.
    pub prefix_len: u8,
}

impl AddressSpec {
    pub(super) fn distinct_peer(&self) -> Option<IpAddr> {
        self.peer.filter(|peer| *peer != self.local)
    }

    /// Whether the kernel could read it at all: it takes the family from one field and the bytes from another.
    pub(super) fn is_sound(&self) -> bool {
        let same_family = self.peer.is_none_or(|peer| peer.is_ipv4() == self.local.is_ipv4());
        same_family && IpNet::new(self.local, self.prefix_len).is_ok()
    }

    pub(super) fn is(&self, held: &InterfaceAddress) -> bool {
        (self.local, self.distinct_peer(), self.prefix_len) == (held.local, held.peer, held.prefix_len)
    }
}

impl fmt::Display for AddressSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.local)?;
        if let Some(peer) = self.distinct_peer() {
            write!(f, " peer {peer}")?;
        }
        write!(f, "/{}", self.prefix_len)
    }
}

/// Writes a hardware address as `02:00:5e:10:00:01`.
pub(super) struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}
