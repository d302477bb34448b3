//! What a host that has every address answers: echo requests, and on Ethernet the questions where it is.

use std::net::Ipv6Addr;

use etherparse::icmpv6::{NeighborAdvertisementHeader, TYPE_NEIGHBOR_SOLICITATION};
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacketSlice, Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, Ipv4HeaderSlice,
    Ipv6HeaderSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};

use crate::config::LinkLayer;

const ETHERNET_LEN: usize = 14;
const HOP_LIMIT: u8 = 64;

/// Neighbour messages are worth nothing if a router may have passed them on (RFC 4861, 7.1).
const NEIGHBOUR_HOP_LIMIT: u8 = 255;

/// Option 2 of neighbour discovery, the target's link-layer address, of one unit of eight bytes (RFC 4861, 4.6.1).
const TARGET_ADDRESS: [u8; 2] = [2, 1];

/// The hardware address of the host that answers on a tap device: one that the kernel's own end does not have.
pub fn station(own: Option<[u8; 6]>) -> [u8; 6] {
    let [first, rest @ .., last] = own.unwrap_or_default();
    let [a, b, c, d] = rest;
    [(first | 2) & !1, a, b, c, d, last ^ 1]
}

/// The answer to a packet, if there is one. Fragments are not put together, and groups have nobody who could answer.
pub fn answer(kind: LinkLayer, packet: &[u8], station: [u8; 6]) -> Option<Vec<u8>> {
    let parsed = match kind {
        LinkLayer::Tun => SlicedPacket::from_ip(packet),
        LinkLayer::Tap => SlicedPacket::from_ethernet(packet),
    };
    let parsed = parsed.ok()?;
    let link_len = match kind {
        LinkLayer::Tun => 0,
        LinkLayer::Tap => ETHERNET_LEN + parsed.link_exts.iter().map(|tag| tag.header_len()).sum::<usize>(),
    };
    let mut answer = link_header(packet.get(..link_len)?, station);
    match (&parsed.net?, &parsed.transport) {
        (NetSlice::Arp(question), _) => write_arp(&mut answer, question, station)?,
        (NetSlice::Ipv4(ip), Some(TransportSlice::Icmpv4(icmp))) => write_v4(&mut answer, &ip.header(), icmp)?,
        (NetSlice::Ipv6(ip), Some(TransportSlice::Icmpv6(icmp))) => write_v6(&mut answer, &ip.header(), icmp, station)?,
        _ => return None,
    }
    Some(answer)
}

/// Back to the sender, with the same tags.
fn link_header(header: &[u8], station: [u8; 6]) -> Vec<u8> {
    match (header.get(6..12), header.get(12..)) {
        (Some(sender), Some(rest)) => [sender, &station, rest].concat(),
        _ => Vec::new(),
    }
}

/// A host that asks for its own address, or does not have one yet, wants to know whether another one has it (RFC 5227).
fn write_arp(out: &mut Vec<u8>, question: &ArpPacketSlice<'_>, station: [u8; 6]) -> Option<()> {
    let question = question.to_packet().try_eth_ipv4().ok()?;
    let asks_for_itself = question.sender_ipv4 == question.target_ipv4 || question.sender_ipv4 == [0; 4];
    if question.operation != ArpOperation::REQUEST || asks_for_itself {
        return None;
    }
    let answer = ArpEthIpv4Packet {
        operation: ArpOperation::REPLY,
        sender_mac: station,
        sender_ipv4: question.target_ipv4,
        target_mac: question.sender_mac,
        target_ipv4: question.sender_ipv4,
    };
    out.extend_from_slice(&answer.to_bytes());
    Some(())
}

fn write_v4(out: &mut Vec<u8>, ip: &Ipv4HeaderSlice<'_>, icmp: &Icmpv4Slice<'_>) -> Option<()> {
    let Icmpv4Type::EchoRequest(echo) = icmp.icmp_type() else { return None };
    let to = ip.destination_addr();
    if to.is_multicast() || to.is_broadcast() {
        return None;
    }
    let builder = PacketBuilder::ipv4(ip.destination(), ip.source(), HOP_LIMIT);
    builder.icmpv4_echo_reply(echo.id, echo.seq).write(out, icmp.payload()).ok()
}

fn write_v6(out: &mut Vec<u8>, ip: &Ipv6HeaderSlice<'_>, icmp: &Icmpv6Slice<'_>, station: [u8; 6]) -> Option<()> {
    let (from, to) = (ip.source_addr(), ip.destination_addr());
    if let Icmpv6Type::EchoRequest(echo) = icmp.icmp_type() {
        if to.is_multicast() {
            return None;
        }
        let builder = PacketBuilder::ipv6(ip.destination(), ip.source(), HOP_LIMIT);
        return builder.icmpv6_echo_reply(echo.id, echo.seq).write(out, icmp.payload()).ok();
    }
    // Without an address of its own it asks whether another one has the one that it wants (RFC 4862, 5.4).
    let is_question = icmp.type_u8() == TYPE_NEIGHBOR_SOLICITATION && !from.is_unspecified() && !out.is_empty();
    let target: [u8; 16] = icmp.payload().get(..16).filter(|_| is_question)?.try_into().ok()?;
    if Ipv6Addr::from(target).is_multicast() {
        return None;
    }
    let header = NeighborAdvertisementHeader { router: false, solicited: true, r#override: true };
    let body = [&target[..], &TARGET_ADDRESS, &station].concat();
    let builder = PacketBuilder::ipv6(target, ip.source(), NEIGHBOUR_HOP_LIMIT);
    builder.icmpv6(Icmpv6Type::NeighborAdvertisement(header)).write(out, &body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];

    #[test]
    fn fragments_groups_and_other_protocols_have_no_answer() {
        let ask = |to: [u8; 4]| {
            let mut packet = Vec::new();
            let builder = PacketBuilder::ipv4([10, 0, 0, 1], to, 64).icmpv4_echo_request(1, 2);
            builder.write(&mut packet, &[7; 20]).expect("a packet");
            packet
        };
        let packet = ask([10, 0, 0, 2]);
        let answer = answer(LinkLayer::Tun, &packet, STATION).expect("an answer");
        assert_eq!((&answer[12..16], &answer[16..20]), (&packet[16..20], &packet[12..16]));
        assert_eq!(super::answer(LinkLayer::Tun, &answer, STATION), None, "answers are not answered");
        assert_eq!(super::answer(LinkLayer::Tun, &ask([224, 0, 0, 1]), STATION), None);
        let mut fragment = packet;
        fragment[6] |= 0x20;
        assert_eq!(super::answer(LinkLayer::Tun, &fragment, STATION), None);
    }

    #[test]
    fn a_host_that_asks_for_its_own_address_hears_nothing() {
        let ask = |from: [u8; 4], to: [u8; 4]| {
            let question = ArpEthIpv4Packet {
                operation: ArpOperation::REQUEST,
                sender_mac: [2, 0, 0, 0, 0, 1],
                sender_ipv4: from,
                target_mac: [0; 6],
                target_ipv4: to,
            };
            let head = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6];
            let frame = [&head[..], &question.to_bytes()].concat();
            answer(LinkLayer::Tap, &frame, STATION)
        };
        assert_eq!(ask([10, 0, 0, 1], [10, 0, 0, 1]), None, "announcement");
        assert_eq!(ask([0; 4], [10, 0, 0, 1]), None, "probe");
        let frame = ask([10, 0, 0, 1], [10, 0, 0, 2]).expect("an answer");
        assert_eq!(frame[..14], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 6]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), tap: bool) {
            answer(if tap { LinkLayer::Tap } else { LinkLayer::Tun }, &bytes, STATION);
        }
    }
}
