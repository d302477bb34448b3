//! Questions to the kernel about devices, addresses and routes (rtnetlink(7)).
//!
//! This file knows what to ask and how to read the answers. It changes nothing: what may be changed, and how that is
//! undone, is `netchange.rs`; how messages travel is `netlink/socket.rs`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

mod socket;
mod tun;

use socket::RouteSocket;
pub use socket::{KernelError, errno_of};
pub use tun::TunDevice;

/// Asks the kernel about the network namespace it was opened in. Calls block, for as long as the kernel needs to
/// answer.
#[derive(Debug)]
pub struct Netlink {
    socket: RouteSocket,
}

/// What the kernel tells about a network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index, above 0; stays the same when the device is renamed.
    pub index: u32,
    /// Name, 1 to 15 bytes.
    pub name: String,
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Hardware address, only of devices that have one of six bytes (tap has, tun has not).
    pub mac: Option<[u8; 6]>,
    /// Packets the transmit queue holds (`IFLA_TXQLEN`).
    pub tx_queue_len: u32,
    /// Longest super-packet that the kernel hands to the device, in bytes; 0 if it does not tell.
    pub gso_max_size: u32,
    /// Administrative state, `IFF_UP`; says nothing about the carrier.
    pub is_up: bool,
    /// The carrier, `IFF_LOWER_UP`; never there while the device is down.
    pub has_carrier: bool,
    /// `IFLA_INFO_KIND`: `"tun"` for tun and tap alike, absent for physical devices.
    pub kind: Option<String>,
    /// Index of the bridge or bond this device is a port of (`IFLA_MASTER`).
    pub controller: Option<u32>,
}

/// How a socket is bound whose packets are asked about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sender {
    /// `SO_MARK`.
    pub mark: Option<u32>,
    /// The index of its device (`SO_BINDTODEVICE`).
    pub output: Option<u32>,
    /// Its local address.
    pub source: Option<IpAddr>,
}

/// One address of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Index of the device that holds the address.
    pub index: u32,
    /// This host's address.
    pub local: IpAddr,
    /// The address at the other end, if it is another one than `local`.
    pub peer: Option<IpAddr>,
    /// Prefix length: of `peer` if there is one, else of `local`. 0 to 32 or 0 to 128.
    pub prefix_len: u8,
}

impl InterfaceAddress {
    /// The network that this address makes reachable: `peer`/prefix, or `local`/prefix without a peer.
    #[must_use]
    pub fn subnet(&self) -> Option<IpNet> {
        let net = IpNet::new(self.peer.unwrap_or(self.local), self.prefix_len).ok()?;
        Some(net.trunc())
    }
}

impl Netlink {
    /// Opens the socket, close-on-exec.
    ///
    /// # Errors
    ///
    /// What socket(2) and bind(2) return: `EMFILE`, `ENFILE`, `ENOMEM`, or `EPERM` and `EAFNOSUPPORT` where a sandbox
    /// forbids netlink.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: RouteSocket::open()? })
    }

    /// The device called `name`.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is none; otherwise the kernel's refusal.
    pub fn link(&mut self, name: &str) -> io::Result<Link> {
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return Err(Errno::ENODEV.into());
        }
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(question).map(|message| link_from(&message))
    }

    /// The device with this index.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is none; otherwise the kernel's refusal.
    pub fn link_at(&mut self, index: u32) -> io::Result<Link> {
        self.one_link(link_question(index)).map(|message| link_from(&message))
    }

    /// Smallest and largest MTU in bytes the device accepts, if the kernel tells (since Linux 4.19).
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is no such device; otherwise the kernel's refusal.
    pub fn mtu_range(&mut self, index: u32) -> io::Result<Option<(u32, u32)>> {
        let message = self.one_link(link_question(index))?;
        let (mut smallest, mut largest) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::MinMtu(mtu) => smallest = Some(*mtu),
                LinkAttribute::MaxMtu(mtu) => largest = Some(*mtu),
                _ => {}
            }
        }
        // 0 is what a driver without an upper bound reports.
        Ok(smallest.zip(largest.filter(|&mtu| mtu != 0)))
    }

    /// All devices of the namespace.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or `ENOBUFS`/`ENOMEM` when it runs out of memory.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.socket.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers.iter().filter_map(|answer| as_link(answer).map(link_from)).collect())
    }

    /// All addresses of all devices, both families.
    ///
    /// # Errors
    ///
    /// As [`Self::links`].
    pub fn addresses(&mut self) -> io::Result<Vec<InterfaceAddress>> {
        let answers = self.socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers.iter().filter_map(address_from).collect())
    }

    /// The addresses of one device as the kernel tells them, with all there is to say about each.
    pub(super) fn addresses_of(&mut self, index: u32) -> io::Result<Vec<AddressMessage>> {
        let answers = self.socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| as_address(answer).filter(|message| message.header.index == index))
            .collect())
    }

    /// The routes through one device, in all tables, as the kernel tells them. One over several devices is none.
    pub(super) fn routes_of(&mut self, index: u32) -> io::Result<Vec<RouteMessage>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let answers = self.routes(family, RouteHeader::RT_TABLE_UNSPEC, Some(index))?.into_iter();
            routes.extend(answers.filter_map(as_route).filter(|route| output_of(route) == Some(index)));
        }
        Ok(routes)
    }

    /// Destinations of the unicast routes of the main table, both families, that leave through one device.
    ///
    /// # Errors
    ///
    /// As [`Self::links`].
    pub fn routes_through(&mut self, index: u32) -> io::Result<Vec<IpNet>> {
        let mut destinations = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let through = self.main_routes(family, Some(index))?.into_iter();
            let through = through.filter(|route| route.output == Some(index) && route.kind == RouteType::Unicast);
            destinations.extend(through.map(|route| route.destination));
        }
        Ok(destinations)
    }

    /// The devices that routes to exactly this destination leave through, in the main table. A route over several
    /// devices or to none of them (blackhole) contributes nothing.
    ///
    /// # Errors
    ///
    /// As [`Self::links`].
    pub fn outputs_of(&mut self, destination: IpNet) -> io::Result<Vec<u32>> {
        let family = family_of(destination.addr());
        let routes = self.main_routes(family, None)?.into_iter();
        Ok(routes.filter(|route| route.destination == destination).filter_map(|route| route.output).collect())
    }

    /// Index of the device that packets to `to` leave through now, policy rules included. An IPv4-mapped IPv6 address
    /// is looked up as the IPv4 address it stands for, because that is what is put on the wire. `mark` is that of the
    /// packets (`SO_MARK`), which routing rules may ask for.
    ///
    /// # Errors
    ///
    /// `ENETUNREACH` or `EHOSTUNREACH` without a route, `EACCES` or `EINVAL` where a route prohibits or discards.
    pub fn interface_towards(&mut self, to: IpAddr, mark: Option<u32>) -> io::Result<u32> {
        self.output_towards(to, &Sender { mark, ..Sender::default() })
    }

    /// As [`interface_towards`](Self::interface_towards), for the packets of a socket that is bound in these ways.
    ///
    /// # Errors
    /// As there; `EINVAL` too if the source is no address of this host.
    pub fn output_towards(&mut self, to: IpAddr, sender: &Sender) -> io::Result<u32> {
        let mut question = route_question(to.to_canonical());
        question.attributes.extend(sender.mark.map(RouteAttribute::Mark));
        question.attributes.extend(sender.output.map(RouteAttribute::Oif));
        if let Some(source) = sender.source.filter(|source| source.is_ipv4() == to.to_canonical().is_ipv4()) {
            question.header.source_prefix_length = if source.is_ipv4() { 32 } else { 128 };
            question.attributes.push(RouteAttribute::Source(source.into()));
        }
        let answers = self.socket.ask(RouteNetlinkMessage::GetRoute(question))?;
        let output = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => output_of(route),
            _ => None,
        });
        output.ok_or_else(|| Errno::ENETUNREACH.into())
    }

    /// Networks that the addresses of this host's devices make directly reachable, sorted, each once. Those of tun and
    /// tap devices are left out: they are reached through a tunnel and carry no tunnel.
    ///
    /// # Errors
    ///
    /// As [`Self::links`].
    pub fn connected_subnets(&mut self) -> io::Result<Vec<IpNet>> {
        let links = self.links()?;
        Ok(subnets_outside_tunnels(&links, &self.addresses()?))
    }

    /// Sends a request that changes something; see [`RouteSocket::acknowledged`].
    pub(super) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.socket.acknowledged(message, flags)
    }

    fn one_link(&mut self, question: LinkMessage) -> io::Result<LinkMessage> {
        let answers = match self.socket.ask(RouteNetlinkMessage::GetLink(question)) {
            Err(error) if errno_of(&error) == Errno::ENODEV => return Err(Errno::ENODEV.into()),
            answers => answers?,
        };
        answers.iter().find_map(as_link).cloned().ok_or_else(unreadable)
    }

    fn main_routes(&mut self, family: AddressFamily, output: Option<u32>) -> io::Result<Vec<Route>> {
        let answers = self.routes(family, RouteHeader::RT_TABLE_MAIN, output)?;
        // A kernel without IPv6 answers for every family it has instead of refusing.
        Ok(answers.iter().filter_map(|answer| route_from(answer, family)).collect())
    }

    fn routes(
        &mut self,
        family: AddressFamily,
        table: u8,
        output: Option<u32>,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        question.header.table = table;
        question.attributes.extend(output.map(RouteAttribute::Oif));
        match self.socket.dump(RouteNetlinkMessage::GetRoute(question)) {
            // With strict checking, a table that has never held a route is an error (net/ipv4/fib_frontend.c).
            Err(error) if errno_of(&error) == Errno::ENOENT => Ok(Vec::new()),
            answers => answers,
        }
    }
}

/// The kernel acknowledged the question, but its answer was skipped as unreadable.
fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's description of the device cannot be read")
}

fn link_question(index: u32) -> LinkMessage {
    let mut question = LinkMessage::default();
    question.header.index = index;
    question
}

fn route_question(to: IpAddr) -> RouteMessage {
    let mut question = RouteMessage::default();
    question.header.address_family = family_of(to);
    question.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    question.attributes.push(RouteAttribute::Destination(to.into()));
    question
}

pub(super) fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn as_link(message: &RouteNetlinkMessage) -> Option<&LinkMessage> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    }
}

fn as_address(message: RouteNetlinkMessage) -> Option<AddressMessage> {
    match message {
        RouteNetlinkMessage::NewAddress(address) => Some(address),
        _ => None,
    }
}

fn as_route(message: RouteNetlinkMessage) -> Option<RouteMessage> {
    match message {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    }
}

fn link_from(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        mac: None,
        tx_queue_len: 0,
        gso_max_size: 0,
        is_up: message.header.flags.contains(LinkFlags::Up),
        has_carrier: message.header.flags.contains(LinkFlags::LowerUp),
        kind: None,
        controller: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::TxQueueLen(packets) => link.tx_queue_len = *packets,
            LinkAttribute::GsoMaxSize(bytes) => link.gso_max_size = *bytes,
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::LinkInfo(infos) => link.kind = infos.iter().find_map(kind_from),
            _ => {}
        }
    }
    link
}

fn kind_from(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

/// IPv4 sends `IFA_LOCAL` always, IPv6 only beside a peer; `IFA_ADDRESS` is the peer or repeats the local address.
fn address_from(answer: &RouteNetlinkMessage) -> Option<InterfaceAddress> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    let (mut local, mut remote) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => remote = Some(*address),
            _ => {}
        }
    }
    let local = local.or(remote)?;
    let peer = remote.filter(|&remote| remote != local);
    Some(InterfaceAddress { index: message.header.index, local, peer, prefix_len: message.header.prefix_len })
}

/// One entry of the main routing table.
struct Route {
    destination: IpNet,
    output: Option<u32>,
    kind: RouteType,
}

/// The route in `answer` if it is one of the main table and `family`. Filtered here too, since kernels without strict
/// checking (before 4.20) send everything.
fn route_from(answer: &RouteNetlinkMessage, family: AddressFamily) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    let header = &message.header;
    // The header has room for table numbers below 256 only, the attribute holds all.
    let mut table = u32::from(header.table);
    // A default route is sent without its destination.
    let mut address: IpAddr = match family {
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(to)) => address = (*to).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(to)) => address = (*to).into(),
            _ => {}
        }
    }
    let is_main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    if !is_main || header.address_family != family || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let destination = IpNet::new(address, header.destination_prefix_length).ok()?;
    Some(Route { destination, output: output_of(message), kind: header.kind })
}

fn output_of(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn subnets_outside_tunnels(links: &[Link], addresses: &[InterfaceAddress]) -> Vec<IpNet> {
    let is_tunnel = |index| links.iter().any(|link| link.index == index && link.kind.as_deref() == Some(TUN_KIND));
    let outside = addresses.iter().filter(|address| !is_tunnel(address.index));
    let mut subnets: Vec<IpNet> = outside.filter_map(InterfaceAddress::subnet).collect();
    subnets.sort_unstable();
    subnets.dedup();
    subnets
}

/// `IFNAMSIZ` without the terminator.
const NAME_LEN_MAX: usize = 15;
/// `IFLA_INFO_KIND` of tun and tap devices (drivers/net/tun.c).
const TUN_KIND: &str = "tun";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_asks_for_the_whole_address() {
        let question = route_question("fd00::1".parse().unwrap());
        assert_eq!(question.header.address_family, AddressFamily::Inet6);
        assert_eq!(question.header.destination_prefix_length, 128);
        assert_eq!(route_question("10.0.0.1".parse().unwrap()).header.destination_prefix_length, 32);
    }

    #[test]
    fn a_peer_equal_to_the_local_address_is_none() {
        let read = |attributes| {
            let mut message = AddressMessage::default();
            message.attributes = attributes;
            address_from(&RouteNetlinkMessage::NewAddress(message)).map(|address| (address.local, address.peer))
        };
        let (one, two): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let (local, remote) = (AddressAttribute::Local, AddressAttribute::Address);
        assert_eq!(read(vec![local(one), remote(one)]), Some((one, None)));
        assert_eq!(read(vec![remote(two), local(one)]), Some((one, Some(two))));
        assert_eq!(read(vec![remote(one)]), Some((one, None)));
        assert_eq!(read(vec![]), None);
    }

    #[test]
    fn only_main_table_routes_of_the_family_count() {
        let route = |table, family| {
            let mut message = RouteMessage::default();
            message.header.table = table;
            message.header.address_family = family;
            message.attributes.push(RouteAttribute::Oif(4));
            let route = route_from(&RouteNetlinkMessage::NewRoute(message), AddressFamily::Inet)?;
            Some((route.destination.to_string(), route.output))
        };
        assert_eq!(route(254, AddressFamily::Inet), Some(("0.0.0.0/0".to_owned(), Some(4))));
        assert_eq!(route(255, AddressFamily::Inet), None);
        assert_eq!(route(254, AddressFamily::Inet6), None);
    }

    #[test]
    fn subnets_leave_tunnels_out_and_follow_the_peer() {
        let link = |index, kind: Option<&str>| {
            let mut link = link_from(&link_question(index));
            link.kind = kind.map(str::to_owned);
            link
        };
        let address = |index, local: &str, peer: Option<&str>, prefix_len| InterfaceAddress {
            index,
            local: local.parse().unwrap(),
            peer: peer.map(|peer| peer.parse().unwrap()),
            prefix_len,
        };
        let subnets = subnets_outside_tunnels(
            &[link(1, None), link(2, Some("tun")), link(3, Some("veth"))],
            &[
                address(1, "192.0.2.7", None, 24),
                address(3, "192.0.2.8", None, 24),
                address(2, "10.0.0.1", None, 8),
                address(3, "192.0.2.1", Some("198.51.100.1"), 32),
            ],
        );
        let subnets: Vec<String> = subnets.iter().map(ToString::to_string).collect();
        assert_eq!(subnets, ["192.0.2.0/24", "198.51.100.1/32"]);
    }
}
