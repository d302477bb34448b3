//! Notices that the peer is routed into the tunnel itself, so that what is sent to it comes back out of the device, and
//! keeps that from going round.
//!
//! The kernel's answer decides, asked when the peer's address changes and when the network does; it is given by a
//! function, so that this file knows no socket. While there is such a route, packets of the link itself are dropped
//! when they come from the device; everything else goes its way, because an answer may be wrong where rules look at
//! what was not asked about.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use byteorder::{BigEndian, ByteOrder};

use crate::config::{LinkLayer, Protocol};
use crate::fault::FaultLog;

/// Says by which device, as an index, packets of the link to an address leave this host.
pub type Route = Box<dyn Fn(IpAddr) -> io::Result<u32>>;

/// What is known about the route to the peer.
pub struct LoopGuard {
    route: Route,
    own: u32,
    protocol: Protocol,
    kind: LinkLayer,
    peer: Option<SocketAddr>,
    is_looping: bool,
}

impl LoopGuard {
    /// A guard for the device with the index `own`.
    pub fn new(route: Route, own: u32, protocol: Protocol, kind: LinkLayer) -> Self {
        Self { route, own, protocol, kind, peer: None, is_looping: false }
    }

    /// Asks for the route if the peer's address is another one.
    pub fn follow(&mut self, peer: Option<SocketAddr>, faults: &mut FaultLog, now: Instant) {
        if self.peer != peer {
            self.peer = peer;
            self.check(faults, now);
        }
    }

    /// Asks for the route, which may have changed; true if it led into the tunnel and does no longer.
    pub fn check(&mut self, faults: &mut FaultLog, now: Instant) -> bool {
        let was_looping = self.is_looping;
        // A link-local address belongs to one interface, whatever the routes.
        let peer = self.peer.map(|peer| peer.ip()).filter(|ip| !is_link_local(*ip));
        self.is_looping = peer.is_some_and(|ip| (self.route)(ip).is_ok_and(|output| output == self.own));
        if let Some(ip) = peer.filter(|_| self.is_looping) {
            let text = format_args!(
                "The peer {ip} is routed into the tunnel itself: add a route to it by the network that it is reached \
                 through ('ip route add {ip} via GATEWAY'), or keep the link's own packets out by --fwmark with a \
                 routing rule or by --bind-device; its packets are dropped until then"
            );
            faults.note(now, "routing-loop", text);
        } else {
            faults.clear("routing-loop");
        }
        was_looping && !self.is_looping
    }

    /// True if this packet from the device is one of the link's own, on its way round.
    pub fn stops(&self, packet: &[u8]) -> bool {
        self.is_looping && self.peer.is_some_and(|peer| self.goes_to(peer, packet) == Some(true))
    }

    /// True if the packet is for this address and port by the link's protocol; `None` if it is too short to tell. A
    /// fragment that is not the first has no port.
    fn goes_to(&self, peer: SocketAddr, packet: &[u8]) -> Option<bool> {
        let packet = match self.kind {
            LinkLayer::Tun => packet,
            LinkLayer::Tap => packet.get(ETHERNET_LEN..)?,
        };
        let number = match self.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        match (packet.first()? >> 4, peer.ip()) {
            (4, IpAddr::V4(ip)) => {
                let header_len = usize::from(packet[0] & 0x0f) * 4;
                let is_first = BigEndian::read_u16(packet.get(6..8)?) & 0x1fff == 0;
                let target: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
                let is_its = *packet.get(9)? == number && Ipv4Addr::from(target) == ip;
                Some(is_its && (!is_first || port_at(packet, header_len)? == peer.port()))
            }
            (6, IpAddr::V6(ip)) => {
                let target: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
                let is_for = Ipv6Addr::from(target) == ip;
                let next = *packet.get(6)?;
                Some(is_for && (next == FRAGMENT || (next == number && port_at(packet, IPV6_LEN)? == peer.port())))
            }
            _ => Some(false),
        }
    }
}

/// The destination port of TCP or UDP behind an IP header of this length.
fn port_at(packet: &[u8], header_len: usize) -> Option<u16> {
    packet.get(header_len + 2..header_len + 4).map(BigEndian::read_u16)
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

const ETHERNET_LEN: usize = 14;
const IPV6_LEN: usize = 40;
/// Protocol numbers of IANA.
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 5;
    const PEER4: &str = "192.0.2.1:55555";
    const PEER6: &str = "[2001:db8::1]:55555";

    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn guard(protocol: Protocol, kind: LinkLayer, peer: &str, output: u32) -> LoopGuard {
        let mut guard = LoopGuard::new(Box::new(move |_| Ok(output)), OWN, protocol, kind);
        guard.follow(Some(peer.parse().unwrap()), &mut FaultLog::default(), Instant::now());
        guard
    }

    fn ipv4(protocol: u8, port: u16, offset: u16) -> Vec<u8> {
        let mut packet = vec![0x46, 0, 0, 32, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 192, 0, 2, 1, 0, 0, 0, 0];
        packet[6..8].copy_from_slice(&offset.to_be_bytes());
        packet.extend([0x12, 0x34]);
        packet.extend(port.to_be_bytes());
        packet
    }

    fn ipv6(next: u8, port: u16) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, next, 64];
        packet.extend([0; 16]);
        packet.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend([0x12, 0x34]);
        packet.extend(port.to_be_bytes());
        packet
    }

    #[test]
    fn only_packets_of_the_link_itself_are_stopped() {
        let udp4 = guard(Protocol::Udp, LinkLayer::Tun, PEER4, OWN);
        assert!(udp4.stops(&ipv4(UDP, 55_555, 0)));
        assert!(udp4.stops(&ipv4(UDP, 0, 100)), "a later fragment");
        for other in [ipv4(UDP, 55_556, 0), ipv4(TCP, 55_555, 0), ipv4(1, 55_555, 0), ipv6(UDP, 55_555)] {
            assert!(!udp4.stops(&other), "{other:?}");
        }
        let tcp6 = guard(Protocol::Tcp, LinkLayer::Tun, PEER6, OWN);
        assert!(tcp6.stops(&ipv6(TCP, 55_555)));
        assert!(tcp6.stops(&ipv6(FRAGMENT, 0)));
        assert!(!tcp6.stops(&ipv6(TCP, 22)) && !tcp6.stops(&ipv4(TCP, 55_555, 0)));
    }

    #[test]
    fn a_frame_is_looked_at_behind_its_header() {
        let tap = guard(Protocol::Udp, LinkLayer::Tap, PEER4, OWN);
        assert!(tap.stops(&[vec![0; 14], ipv4(UDP, 55_555, 0)].concat()));
        assert!(!tap.stops(&ipv4(UDP, 55_555, 0)));
    }

    #[test]
    fn nothing_is_stopped_while_the_peer_is_reached_otherwise() {
        assert!(!guard(Protocol::Udp, LinkLayer::Tun, PEER4, OWN + 1).stops(&ipv4(UDP, 55_555, 0)));
        let link_local = guard(Protocol::Udp, LinkLayer::Tun, "[fe80::1]:55555", OWN);
        assert!(!link_local.is_looping);
    }

    #[test]
    fn packets_of_every_length_are_judged_without_panic() {
        for packet in [ipv4(UDP, 55_555, 0), ipv6(UDP, 55_555), [vec![0; 14], ipv4(UDP, 55_555, 0)].concat()] {
            for (kind, peer) in [LinkLayer::Tun, LinkLayer::Tap].into_iter().zip([PEER4, PEER6]) {
                let guard = guard(Protocol::Udp, kind, peer, OWN);
                (0..packet.len()).for_each(|len| assert!(!guard.stops(&packet[..len]), "{len} bytes"));
            }
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn a_mended_route_is_told_once() {
        let output = std::rc::Rc::new(std::cell::Cell::new(OWN));
        let (answer, now, mut faults) = (std::rc::Rc::clone(&output), Instant::now(), FaultLog::default());
        let mut guard = LoopGuard::new(Box::new(move |_| Ok(answer.get())), OWN, Protocol::Udp, LinkLayer::Tun);
        guard.follow(Some(PEER4.parse().unwrap()), &mut faults, now);
        assert!(!guard.check(&mut faults, now), "it leads into the tunnel still");
        output.set(OWN + 1);
        assert!(guard.check(&mut faults, now));
        assert!(!guard.check(&mut faults, now));
    }
}
