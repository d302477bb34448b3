//! Bridges: how the tunnel's device joins one, and how one is made of devices of the LAN, with what makes this host
//! reachable through them.
//!
//! A port of a bridge receives nothing for itself: the addresses belong on the bridge. They move while connections go on.
//! The bridge has the port's MAC address, so that no neighbour notices; an address or a route is on both devices before
//! the first one loses it, so that the host is never without.

use std::io;

use log::{debug, warn};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::{NetChange, NetConfig, State, Undo, link_message};
use crate::config::DeviceName;
use crate::device::netlink::{Link, errno_of};

/// `IFLA_INFO_KIND` of a bridge (net/bridge/br_netlink.c).
const BRIDGE_KIND: &str = "bridge";

/// An address that does not expire (`INFINITY_LIFE_TIME` of include/net/addrconf.h).
const FOR_EVER: u32 = u32::MAX;

/// `USER_HZ`, the unit of `rta_expires` (rtnetlink(7)).
const TICKS_PER_SECOND: u32 = 100;

/// What the kernel finds out about an address by itself.
const OBSERVED: AddressFlags = AddressFlags::Secondary
    .union(AddressFlags::Optimistic)
    .union(AddressFlags::Dadfailed)
    .union(AddressFlags::Deprecated)
    .union(AddressFlags::Tentative)
    .union(AddressFlags::Permanent);

impl NetConfig {
    /// Whether a change may be made at all that is not in effect.
    pub(super) fn may_make(&mut self, change: &NetChange) -> io::Result<()> {
        match change {
            // One that is in its place may be somebody else's.
            NetChange::MakeBridge { bridge, .. } if !self.applied.iter().any(|applied| applied.change == *change) => {
                self.named(bridge)?.map_or(Ok(()), |_| Err(Errno::EEXIST.into()))
            }
            _ => Ok(()),
        }
    }

    /// The device of this name, if there is one.
    pub(super) fn named(&mut self, name: &DeviceName) -> io::Result<Option<Link>> {
        match self.netlink.link(name.as_str()) {
            Ok(link) => Ok(Some(link)),
            Err(error) if errno_of(&error) == Errno::ENODEV => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the device is a port of the bridge of this name.
    pub(super) fn is_port(&mut self, link: Option<&Link>, bridge: &DeviceName) -> io::Result<bool> {
        let bridge = self.named(bridge)?;
        Ok(bridge.zip(link).is_some_and(|(bridge, link)| link.controller == Some(bridge.index)))
    }

    fn bridge_named(&mut self, name: &DeviceName) -> io::Result<Link> {
        match self.named(name)? {
            Some(bridge) if bridge.kind.as_deref() == Some(BRIDGE_KIND) => Ok(bridge),
            Some(_) => Err(Errno::EOPNOTSUPP.into()),
            // `ENODEV` would say that the tunnel's own device is missing.
            None => Err(Errno::ENXIO.into()),
        }
    }

    /// Makes the tunnel's device a port.
    pub(super) fn join(&mut self, bridge: DeviceName, link: &Link) -> io::Result<Undo> {
        let to = self.bridge_named(&bridge)?;
        if link.mtu != to.mtu {
            self.set_attribute(LinkAttribute::Mtu(to.mtu))?;
        }
        if let Err(error) = self.set_attribute(LinkAttribute::Controller(to.index)) {
            let _ = self.set_attribute(LinkAttribute::Mtu(link.mtu));
            return Err(error);
        }
        Ok(Undo::LeaveBridge { bridge, former: link.controller, mtu: link.mtu })
    }

    /// Takes the tunnel's device out again, back into what it was a port of.
    pub(super) fn leave(&mut self, bridge: &DeviceName, former: Option<u32>, mtu: u32) -> io::Result<()> {
        let link = self.current()?;
        let left = match self.is_port(Some(&link), bridge)? {
            true => self.set_attribute(LinkAttribute::Controller(former.unwrap_or_default())),
            false => Ok(()),
        };
        self.set_attribute(LinkAttribute::Mtu(mtu)).and(left)
    }

    pub(super) fn make_bridge(&mut self, bridge: DeviceName, like: &DeviceName) -> io::Result<Undo> {
        let like = self.named(like)?.ok_or(Errno::ENXIO)?;
        let mut message = link_message(0);
        message.attributes.push(LinkAttribute::IfName(bridge.to_string()));
        message.attributes.extend(like.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.netlink.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)?;
        let index = self.bridge_named(&bridge)?.index;
        if let Err(error) = self.set_state_of(index, State::Up) {
            let _ = self.remove_bridge(index);
            return Err(error);
        }
        Ok(Undo::RemoveBridge(index))
    }

    pub(super) fn remove_bridge(&mut self, index: u32) -> io::Result<()> {
        if self.netlink.link_at(index)?.kind.as_deref() != Some(BRIDGE_KIND) {
            return Err(Errno::ENODEV.into());
        }
        self.netlink.change(RouteNetlinkMessage::DelLink(link_message(index)), 0)
    }

    /// Makes a device of the LAN a port.
    pub(super) fn take_port(&mut self, bridge: DeviceName, port: &DeviceName) -> io::Result<Undo> {
        let to = self.bridge_named(&bridge)?;
        let link = self.named(port)?.ok_or(Errno::ENXIO)?;
        if link.controller.is_some_and(|controller| controller != to.index) {
            return Err(Errno::EBUSY.into());
        }
        let brought = !self.reachability_of(link.index)?.is_empty();
        if brought && !self.reachability_of(to.index)?.is_empty() {
            return Err(Errno::EADDRINUSE.into());
        }
        if !link.is_up {
            self.set_state_of(link.index, State::Up)?;
        }
        let undo = Undo::ReleasePort { bridge, port: link.index, was_up: link.is_up, brought };
        let taken = self.set_attribute_of(link.index, LinkAttribute::Controller(to.index));
        let taken = taken.and_then(|()| if brought { self.move_reachability(&link, &to) } else { Ok(()) });
        match taken {
            Ok(()) => Ok(undo),
            Err(error) => {
                let _ = self.release(&link, &to, link.is_up);
                Err(error)
            }
        }
    }

    /// Makes a port of the LAN what it was. Without the bridge there is nothing to bring back.
    pub(super) fn release_port(
        &mut self,
        bridge: &DeviceName,
        port: u32,
        was_up: bool,
        brought: bool,
    ) -> io::Result<()> {
        let link = self.netlink.link_at(port)?;
        let from = self.named(bridge)?.ok_or(Errno::ENODEV)?;
        let moved = if brought { self.move_reachability(&from, &link) } else { Ok(()) };
        self.release(&link, &from, was_up).and(moved)
    }

    fn release(&mut self, port: &Link, bridge: &Link, was_up: bool) -> io::Result<()> {
        let is_port = self.netlink.link_at(port.index)?.controller == Some(bridge.index);
        let left = if is_port { self.set_attribute_of(port.index, LinkAttribute::Controller(0)) } else { Ok(()) };
        let down = if was_up { Ok(()) } else { self.set_state_of(port.index, State::Down) };
        left.and(down)
    }

    /// What makes this host reachable through a device.
    fn reachability_of(&mut self, index: u32) -> io::Result<Reachability> {
        let addresses = self.netlink.addresses_of(index)?;
        let routes = self.netlink.routes_of(index)?;
        Ok(Reachability {
            addresses: addresses.into_iter().filter(is_given).collect(),
            routes: routes.into_iter().filter(is_asked_for).collect(),
        })
    }

    /// Moves it from one device to another: first it is on both. If that fails nothing has changed.
    fn move_reachability(&mut self, from: &Link, to: &Link) -> io::Result<()> {
        let moved = self.reachability_of(from.index)?;
        if moved.addresses.iter().any(|address| address.header.family == AddressFamily::Inet && expires(address)) {
            warn!(
                "An address of {} comes from DHCP and is now one of {}: run the DHCP client on {} instead, or it is given \
                 to {} again",
                from.name, to.name, to.name, from.name
            );
        }
        let (old, new) = (moved.requests_for(from.index), moved.requests_for(to.index));
        for (done, request) in new.iter().enumerate() {
            let added = self.netlink.change(request.addition(), NLM_F_CREATE | NLM_F_APPEND);
            // What is there already is as it should be.
            if let Err(error) = added
                && errno_of(&error) != Errno::EEXIST
            {
                new[..done].iter().rev().for_each(|request| drop(self.netlink.change(request.removal(), 0)));
                return Err(error);
            }
        }
        // From the last to the first: an IPv4 address takes the later ones of its network with it.
        for request in old.iter().rev() {
            if let Err(error) = self.netlink.change(request.removal(), 0) {
                debug!("not removed from {}: {error}", from.name);
            }
        }
        Ok(())
    }
}

/// The addresses of a device and the routes through it, in the order in which they can be made.
struct Reachability {
    addresses: Vec<AddressMessage>,
    routes: Vec<RouteMessage>,
}

impl Reachability {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.routes.is_empty()
    }

    /// The same for the device with this index.
    fn requests_for(&self, index: u32) -> Vec<Reached> {
        let addresses = self.addresses.iter().map(|address| Reached::Address(on_device(address, index)));
        let routes = self.routes.iter().map(|route| Reached::Route(through_device(route, index)));
        addresses.chain(routes).collect()
    }
}

enum Reached {
    Address(AddressMessage),
    Route(RouteMessage),
}

impl Reached {
    fn addition(&self) -> RouteNetlinkMessage {
        match self {
            Self::Address(message) => RouteNetlinkMessage::NewAddress(message.clone()),
            Self::Route(message) => RouteNetlinkMessage::NewRoute(message.clone()),
        }
    }

    fn removal(&self) -> RouteNetlinkMessage {
        match self {
            Self::Address(message) => RouteNetlinkMessage::DelAddress(message.clone()),
            Self::Route(message) => RouteNetlinkMessage::DelRoute(message.clone()),
        }
    }
}

/// The link-local addresses of IPv6 belong to the device, whoever else has one.
fn is_given(address: &AddressMessage) -> bool {
    address.header.family == AddressFamily::Inet || address.header.scope != AddressScope::Link
}

/// The kernel makes the others by itself.
fn is_asked_for(route: &RouteMessage) -> bool {
    let header = &route.header;
    header.kind == RouteType::Unicast
        && header.protocol != RouteProtocol::Kernel
        && !header.flags.contains(RouteFlags::Cloned)
}

fn expires(address: &AddressMessage) -> bool {
    let forever = |info: &CacheInfo| info.ifa_valid == FOR_EVER;
    address.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::CacheInfo(info) => !forever(info),
        _ => false,
    })
}

/// The request that gives the address to the device with this index, for as long as it is valid. It is used at once: the
/// host has had it on this segment all the time.
fn on_device(address: &AddressMessage, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header = address.header.clone();
    message.header.index = index;
    message.header.flags = AddressHeaderFlags::empty();
    let mut flags = AddressFlags::empty();
    for attribute in &address.attributes {
        match attribute {
            AddressAttribute::Flags(observed) => flags = observed.difference(OBSERVED),
            // It is made of the device's name.
            AddressAttribute::Label(_) => {}
            other => message.attributes.push(other.clone()),
        }
    }
    if address.header.family == AddressFamily::Inet6 {
        flags |= AddressFlags::Nodad;
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    message
}

/// The request that leads the route through the device with this index.
fn through_device(route: &RouteMessage, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = route.header.clone();
    message.header.flags = route.header.flags & RouteFlags::Onlink;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(_) => message.attributes.push(RouteAttribute::Oif(index)),
            // Beside what is remembered about its use it tells how long a route of a router's is valid.
            RouteAttribute::CacheInfo(info) if info.expires > 0 => {
                message.attributes.push(RouteAttribute::Expires((info.expires / TICKS_PER_SECOND).max(1)));
            }
            RouteAttribute::CacheInfo(_) => {}
            other => message.attributes.push(other.clone()),
        }
    }
    message
}
