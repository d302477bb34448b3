//! Changes to one network device, and how they are undone.
//!
//! Everything the daemon does to a device is a [`NetChange`], applied through a [`NetConfig`], which remembers what it
//! really changed and takes exactly that back. This file knows which request makes a change. What there is to change
//! stands in `netchange/change.rs`, bridges and their ports in `netchange/bridge.rs`, what a refusal means to an operator
//! in `netchange/error.rs`, how what was changed outlives the process in `netchange/journal.rs`, how the present state is
//! read in `netlink.rs`.

use std::io;
use std::mem;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

mod bridge;
mod change;
mod error;
mod journal;

use super::netlink::{Link, Netlink, errno_of, family_of};
use crate::config::DeviceName;
pub use change::{AddressSpec, NetChange};
pub use error::{NetError, Refusal};
pub use journal::Journal;

/// The one handle through which a device is configured; remembers what it really changed, in order.
///
/// Dropping it changes nothing: a device that goes away takes its configuration along, any other needs
/// [`Self::undo_all`].
#[derive(Debug)]
pub struct NetConfig {
    netlink: Netlink,
    /// Name of the device when last seen, for messages and `/proc`; requests use the index.
    device: String,
    index: u32,
    /// `IFLA_INFO_KIND` at the start, to notice when the index has come to belong to something else.
    kind: Option<String>,
    /// No two entries hold the same change.
    applied: Vec<Applied>,
}

/// A change that was made, and what takes it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Applied {
    change: NetChange,
    undo: Undo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Undo {
    /// Unless the device is in another bridge by now.
    LeaveBridge {
        bridge: DeviceName,
        former: Option<u32>,
        mtu: u32,
    },
    /// The one with this index.
    RemoveBridge(u32),
    /// The port is told by its index; `brought` if its addresses are the bridge's now.
    ReleasePort {
        bridge: DeviceName,
        port: u32,
        was_up: bool,
        brought: bool,
    },
    Down,
    Mtu(u32),
    Mac([u8; 6]),
    TxQueueLen(u32),
    GsoMaxSize(u32),
    RemoveAddress(AddressSpec),
    RemoveRoute(IpNet),
}

impl Undo {
    /// True for what was done to other devices than the tunnel's, and stays when that goes.
    fn is_beside(&self) -> bool {
        matches!(self, Self::RemoveBridge(_) | Self::ReleasePort { .. })
    }
}

impl NetConfig {
    /// Opens a netlink socket in the current network namespace and looks the device up. From here on it is addressed
    /// by index, so it may be renamed.
    ///
    /// # Errors
    ///
    /// Those of [`Netlink::open`] and [`Netlink::link`]: `ENODEV` if there is no such device.
    pub fn new(device: &str) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let link = netlink.link(device)?;
        Ok(Self { netlink, device: link.name, index: link.index, kind: link.kind, applied: Vec::new() })
    }

    /// Name of the device when last seen.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Index of the device.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Makes one change. What is already as asked for is left alone, needs no privilege and will not be undone.
    ///
    /// # Errors
    ///
    /// The variant of [`NetError`] that belongs to `change`. The usual causes: `EPERM` without `CAP_NET_ADMIN`,
    /// `ENODEV` when the device is gone, `EINVAL` for an MTU out of range, `EADDRNOTAVAIL` for a MAC address that is
    /// not unicast, `EOPNOTSUPP` for one on a tun device, `EACCES` for an IPv6 address where IPv6 is disabled, `EEXIST`
    /// for an address with another peer or prefix and for a destination routed elsewhere, `ENETDOWN` for a route while
    /// the device is down, `ENXIO` if there is no such bridge, `EOPNOTSUPP` if it is none or a tun device is to join it.
    pub fn apply(&mut self, change: &NetChange) -> Result<(), NetError> {
        let change = change.canonical();
        let undo = match self.perform(&change) {
            Ok(Some(undo)) => undo,
            Ok(None) => return Ok(()),
            Err(error) => return Err(NetError::explain(&change, &self.device, self.index, &mut self.netlink, error)),
        };
        log::debug!("set {change} on {}", self.device);
        match self.applied.iter_mut().find(|applied| applied.change == change) {
            None => self.applied.push(Applied { change, undo }),
            // Another bridge of the same name.
            Some(applied) if matches!(undo, Undo::RemoveBridge(_)) => applied.undo = undo,
            // Made again, because somebody else had taken it back, it still goes back to what was there at first.
            Some(_) => {}
        }
        Ok(())
    }

    /// Takes back, in reverse order, what was applied through this handle and is not in `wanted`, then applies
    /// `wanted` in its order. Changes that are still in effect cost a query; those that got lost on the way, such as
    /// routes and secondary addresses that the kernel drops along with another address, are made again.
    ///
    /// # Errors
    ///
    /// Those of [`Self::apply`], at the first change that fails; the ones before it stay. What cannot be taken back is
    /// logged and kept for [`Self::undo_all`] to try again.
    pub fn reconcile(&mut self, wanted: &[NetChange]) -> Result<(), NetError> {
        let wanted: Vec<NetChange> = wanted.iter().map(NetChange::canonical).collect();
        let mut kept = Vec::with_capacity(self.applied.len());
        for applied in mem::take(&mut self.applied).into_iter().rev() {
            if wanted.contains(&applied.change) || self.take_back(&applied) == Outcome::Failed {
                kept.push(applied);
            }
        }
        kept.reverse();
        self.applied = kept;
        // One that fails does not keep the others from being made.
        let mut first = Ok(());
        for change in &wanted {
            match self.apply(change) {
                Err(error) if first.is_ok() => first = Err(error),
                Err(error) => log::warn!("{error}"),
                Ok(()) => {}
            }
        }
        first
    }

    /// Which of these changes are not in effect, whoever is to blame.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the device is gone; otherwise the kernel's refusal to tell.
    pub fn missing(&mut self, wanted: &[NetChange]) -> io::Result<Vec<NetChange>> {
        let mut missing = Vec::new();
        for change in wanted.iter().map(NetChange::canonical) {
            if !self.is_in_effect(&change)? {
                missing.push(change);
            }
        }
        Ok(missing)
    }

    /// The device as it is now.
    ///
    /// # Errors
    ///
    /// `ENODEV` when it is gone.
    pub fn link(&mut self) -> io::Result<Link> {
        self.current()
    }

    /// Takes back everything that was applied through this handle, in reverse order. A failure is logged and the rest
    /// is taken back all the same; what is gone already, or went with the device, is not a failure.
    pub fn undo_all(&mut self) {
        for applied in mem::take(&mut self.applied).iter().rev() {
            self.take_back(applied);
        }
    }

    /// As [`Self::undo_all`], but only what was done to other devices than this one: for one that has gone, or will go,
    /// with its configuration.
    pub fn undo_beside(&mut self) {
        self.applied.retain(|applied| applied.undo.is_beside());
        self.undo_all();
    }

    /// Takes the device down at once. Not a change to be taken back; the kernel forgets the routes through the device.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`, `ENODEV` when the device is gone.
    pub fn take_down(&mut self) -> io::Result<()> {
        self.current()?;
        self.set_state(State::Down)
    }

    /// Leaves everything as it is, for a device that stays configured after the daemon.
    pub fn forget(&mut self) {
        self.applied.clear();
    }

    /// Makes the change if it is not there yet; returns how to undo it if it was made.
    fn perform(&mut self, change: &NetChange) -> io::Result<Option<Undo>> {
        let link = self.current()?;
        if let NetChange::Address(spec) = change
            && !spec.is_sound()
        {
            return Err(Errno::EINVAL.into());
        }
        self.may_make(change)?;
        if self.is_in_effect(change)? {
            return Ok(None);
        }
        let undo = match change {
            NetChange::MakeBridge { bridge, like } => self.make_bridge(*bridge, like)?,
            NetChange::LanPort { bridge, port } => self.take_port(*bridge, port)?,
            NetChange::Bridge(bridge) => self.join(*bridge, &link)?,
            NetChange::Up => {
                self.set_state(State::Up)?;
                Undo::Down
            }
            NetChange::Mtu(bytes) => {
                self.set_attribute(LinkAttribute::Mtu(*bytes))?;
                Undo::Mtu(link.mtu)
            }
            NetChange::Mac(mac) => {
                let previous = link.mac.ok_or(Errno::EOPNOTSUPP)?;
                self.set_mac(*mac)?;
                Undo::Mac(previous)
            }
            NetChange::TxQueueLen(packets) => {
                self.set_attribute(LinkAttribute::TxQueueLen(*packets))?;
                Undo::TxQueueLen(link.tx_queue_len)
            }
            NetChange::GsoMaxSize(bytes) => {
                self.set_attribute(LinkAttribute::GsoMaxSize(*bytes))?;
                Undo::GsoMaxSize(link.gso_max_size)
            }
            NetChange::Address(spec) => {
                self.add_address(*spec)?;
                Undo::RemoveAddress(*spec)
            }
            NetChange::Route(destination) => {
                self.add_route(*destination)?;
                Undo::RemoveRoute(*destination)
            }
        };
        Ok(Some(undo))
    }

    fn is_in_effect(&mut self, change: &NetChange) -> io::Result<bool> {
        let link = self.current()?;
        Ok(match change {
            NetChange::MakeBridge { bridge, .. } => self.named(bridge)?.is_some(),
            NetChange::LanPort { bridge, port } => {
                let port = self.named(port)?;
                self.is_port(port.as_ref(), bridge)?
            }
            NetChange::Bridge(bridge) => self.is_port(Some(&link), bridge)?,
            NetChange::Up => link.is_up,
            NetChange::Mtu(bytes) => link.mtu == *bytes,
            NetChange::Mac(mac) => link.mac == Some(*mac),
            NetChange::TxQueueLen(packets) => link.tx_queue_len == *packets,
            NetChange::GsoMaxSize(bytes) => link.gso_max_size == *bytes,
            NetChange::Address(spec) => {
                self.netlink.addresses()?.iter().any(|held| held.index == link.index && spec.is(held))
            }
            // Asked before trying: IPv6 would accept it a second time beside the kernel's own, with another metric.
            NetChange::Route(destination) => self.netlink.routes_through(link.index)?.contains(destination),
        })
    }

    fn add_address(&mut self, spec: AddressSpec) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewAddress(address_message(self.index, &spec));
        self.netlink.change(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn add_route(&mut self, destination: IpNet) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewRoute(route_message(self.index, destination));
        self.netlink.change(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Undoes one change; a failure that matters is logged here.
    fn take_back(&mut self, applied: &Applied) -> Outcome {
        match self.revert(&applied.undo) {
            Ok(()) => log::debug!("took back {} on {}", applied.change, self.device),
            Err(error) if is_gone(errno_of(&error)) => {}
            Err(error) => {
                log::warn!("Cannot take back {} on {}: {error}", applied.change, self.device);
                return Outcome::Failed;
            }
        }
        Outcome::Done
    }

    fn revert(&mut self, undo: &Undo) -> io::Result<()> {
        if !undo.is_beside() {
            self.current()?;
        }
        match undo {
            Undo::LeaveBridge { bridge, former, mtu } => self.leave(bridge, *former, *mtu),
            Undo::RemoveBridge(index) => self.remove_bridge(*index),
            Undo::ReleasePort { bridge, port, was_up, brought } => self.release_port(bridge, *port, *was_up, *brought),
            Undo::Down => self.set_state(State::Down),
            Undo::Mtu(bytes) => self.set_attribute(LinkAttribute::Mtu(*bytes)),
            Undo::Mac(mac) => self.set_mac(*mac),
            Undo::TxQueueLen(packets) => self.set_attribute(LinkAttribute::TxQueueLen(*packets)),
            Undo::GsoMaxSize(bytes) => self.set_attribute(LinkAttribute::GsoMaxSize(*bytes)),
            Undo::RemoveAddress(spec) => {
                let message = address_message(self.index, spec);
                self.netlink.change(RouteNetlinkMessage::DelAddress(message), 0)
            }
            Undo::RemoveRoute(destination) => {
                let message = route_message(self.index, *destination);
                self.netlink.change(RouteNetlinkMessage::DelRoute(message), 0)
            }
        }
    }

    /// The device as it is now, under whatever name. An index can come to belong to another device after ours is gone
    /// (`ip link add … index N`); another kind of device counts as that.
    fn current(&mut self) -> io::Result<Link> {
        let link = self.netlink.link_at(self.index)?;
        if link.kind != self.kind {
            return Err(Errno::ENODEV.into());
        }
        if link.name != self.device {
            self.device.clone_from(&link.name);
        }
        Ok(link)
    }

    fn set_mac(&mut self, mac: [u8; 6]) -> io::Result<()> {
        let attribute = LinkAttribute::Address(mac.to_vec());
        match self.set_attribute(attribute.clone()) {
            Err(error) if errno_of(&error) == Errno::EBUSY && self.current()?.is_up => {}
            done => return done,
        }
        // Drivers without live address change accept one while the device is down only.
        self.set_state(State::Down)?;
        let done = self.set_attribute(attribute);
        self.set_state(State::Up)?;
        done
    }

    fn set_state(&mut self, state: State) -> io::Result<()> {
        self.set_state_of(self.index, state)
    }

    fn set_state_of(&mut self, index: u32, state: State) -> io::Result<()> {
        let mut message = link_message(index);
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = match state {
            State::Up => LinkFlags::Up,
            State::Down => LinkFlags::empty(),
        };
        self.netlink.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    fn set_attribute(&mut self, attribute: LinkAttribute) -> io::Result<()> {
        self.set_attribute_of(self.index, attribute)
    }

    fn set_attribute_of(&mut self, index: u32, attribute: LinkAttribute) -> io::Result<()> {
        let mut message = link_message(index);
        message.attributes.push(attribute);
        self.netlink.change(RouteNetlinkMessage::SetLink(message), 0)
    }
}

fn link_message(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

#[derive(Clone, Copy)]
enum State {
    Up,
    Down,
}

#[derive(PartialEq, Eq)]
enum Outcome {
    Done,
    Failed,
}

/// An address as iproute2 sends it: both address attributes always, no broadcast address.
fn address_message(index: u32, spec: &AddressSpec) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(spec.local);
    message.header.prefix_len = spec.prefix_len;
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(spec.local));
    message.attributes.push(AddressAttribute::Address(spec.peer.unwrap_or(spec.local)));
    message
}

fn route_message(index: u32, destination: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = match destination {
        IpNet::V4(_) => RouteScope::Link,
        IpNet::V6(_) => RouteScope::Universe,
    };
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Destination(destination.network().into()));
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

/// What an undo meets when somebody else was faster: no device, no file, no address, no route.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENODEV | Errno::ENOENT | Errno::EADDRNOTAVAIL | Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::device::netlink::InterfaceAddress;

    #[test]
    fn an_address_reads_as_ip_takes_it() {
        assert_eq!(spec("10.0.0.1", None, 24).to_string(), "10.0.0.1/24");
        assert_eq!(spec("10.0.0.1", Some("10.0.0.2"), 32).to_string(), "10.0.0.1 peer 10.0.0.2/32");
        assert_eq!(spec("10.0.0.1", Some("10.0.0.1"), 32).to_string(), "10.0.0.1/32");
    }

    #[test]
    fn different_spellings_of_a_change_are_one() {
        let plain = NetChange::Address(spec("10.0.0.1", None, 24));
        assert_eq!(NetChange::Address(spec("10.0.0.1", Some("10.0.0.1"), 24)).canonical(), plain);
        assert_eq!(route("10.1.2.3/8").canonical(), route("10.0.0.0/8"));
        assert_eq!(NetChange::Mtu(1400).canonical(), NetChange::Mtu(1400));
    }

    #[test]
    fn an_address_with_mixed_families_or_a_long_prefix_is_unsound() {
        assert!(spec("10.0.0.1", Some("10.0.0.2"), 32).is_sound());
        assert!(spec("fd00::1", None, 128).is_sound());
        assert!(!spec("10.0.0.1", Some("fd00::2"), 32).is_sound());
        assert!(!spec("10.0.0.1", None, 33).is_sound());
    }

    #[test]
    fn only_an_address_with_same_peer_and_prefix_is_there_already() {
        let held = InterfaceAddress { index: 1, local: ip("10.0.0.1"), peer: Some(ip("10.0.0.2")), prefix_len: 32 };
        assert!(spec("10.0.0.1", Some("10.0.0.2"), 32).is(&held));
        assert!(!spec("10.0.0.1", Some("10.0.0.3"), 32).is(&held));
        assert!(!spec("10.0.0.1", None, 32).is(&held));
        assert!(!spec("10.0.0.1", Some("10.0.0.2"), 24).is(&held));
    }

    #[test]
    fn an_address_request_names_local_and_peer_and_no_broadcast() {
        let message = address_message(9, &spec("10.0.0.1", Some("10.0.0.2"), 31));
        assert_eq!((message.header.index, message.header.prefix_len), (9, 31));
        let attributes = [AddressAttribute::Local(ip("10.0.0.1")), AddressAttribute::Address(ip("10.0.0.2"))];
        assert_eq!(message.attributes, attributes);
        let plain = address_message(9, &spec("fd00::1", None, 64));
        let attributes = [AddressAttribute::Local(ip("fd00::1")), AddressAttribute::Address(ip("fd00::1"))];
        assert_eq!(plain.attributes, attributes);
    }

    #[test]
    fn a_route_request_has_the_scope_of_its_family() {
        let header = |net: &str| route_message(9, net.parse().unwrap()).header;
        assert_eq!(header("10.0.0.0/8").scope, RouteScope::Link);
        assert_eq!(header("fd00::/64").scope, RouteScope::Universe);
        let header = header("10.0.0.0/8");
        assert_eq!((header.table, header.protocol, header.kind), (254, RouteProtocol::Static, RouteType::Unicast));
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn spec(local: &str, peer: Option<&str>, prefix_len: u8) -> AddressSpec {
        AddressSpec { local: ip(local), peer: peer.map(ip), prefix_len }
    }

    fn route(net: &str) -> NetChange {
        NetChange::Route(net.parse().unwrap())
    }
}
