//! What a router says about a packet that is too large for the next link: "fragmentation needed" (RFC 792, RFC 1191) and
//! "packet too big" (RFC 4443, 3.2), as a packet for the device that the large one came from.
//!
//! Pure: bytes in, bytes out. The answer comes from the address that the packet was for: a device need not have an
//! address of its own, and that one is routed through the tunnel in any case, so that no check of the reverse path
//! refuses it, here or on the way to where the packet came from.

use byteorder::{BigEndian, ByteOrder};

use super::checksum::Sum;
use super::headers::{IPV4_MIN_LEN, IPV6_LEN, IpVersion, find_ip, find_payload, ipv4_header_len, pseudo_header};
use super::mss::Room;
use crate::config::LinkLayer;

/// The longest answers in bytes (RFC 1812, 4.3.2.3; RFC 4443, 2.4 (c)).
const MAX_LEN_V4: usize = 576;
const MAX_LEN_V6: usize = 1280;

/// The header of either message in front of what it quotes.
const ICMP_LEN: usize = 8;
const HOP_LIMIT: u8 = 64;

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;

const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;

/// Types of ICMP that report an error (RFC 792): unreachable, source quench, redirect, time exceeded, parameter problem.
const ERRORS_V4: [u8; 5] = [3, 4, 5, 11, 12];
/// Of ICMPv6 all types below this one, and redirect (RFC 4443, 2.1; RFC 4861).
const FIRST_INFORMATION_V6: u8 = 128;
const REDIRECT_V6: u8 = 137;

const FLAG_DF: u8 = 0x40;

/// The answer to a packet that does not fit; `None` if it may not be answered (RFC 1122, 3.2.2; RFC 4443, 2.4 (e)), or if
/// a router would have cut it instead.
pub fn answer(kind: LinkLayer, packet: &[u8], room: Room) -> Option<Vec<u8>> {
    let (ip, version) = find_ip(kind, packet)?;
    let (link, packet) = packet.split_at(ip);
    let payload = find_payload(packet, 0, version)?;
    if payload.is_later_fragment || is_error(version, payload.protocol, packet.get(payload.offset)) {
        return None;
    }
    let mut answer = Vec::with_capacity(ip + MAX_LEN_V6);
    if !link.is_empty() {
        // Groups have no one to answer to; nor has a group spoken.
        let (to, from) = (link.get(..6)?, link.get(6..12)?);
        if (to[0] | from[0]) & 1 != 0 {
            return None;
        }
        answer.extend_from_slice(from);
        answer.extend_from_slice(to);
        answer.extend_from_slice(&link[12..]);
    }
    match version {
        IpVersion::V4 => push_v4(&mut answer, packet, room.for_ip(ip))?,
        IpVersion::V6 => push_v6(&mut answer, packet, room.for_ip(ip))?,
    }
    Some(answer)
}

fn is_error(version: IpVersion, protocol: u8, kind: Option<&u8>) -> bool {
    match (version, protocol) {
        (IpVersion::V4, PROTOCOL_ICMP) => kind.is_none_or(|kind| ERRORS_V4.contains(kind)),
        (IpVersion::V6, PROTOCOL_ICMPV6) => {
            kind.is_none_or(|kind| *kind < FIRST_INFORMATION_V6 || *kind == REDIRECT_V6)
        }
        _ => false,
    }
}

fn push_v4(answer: &mut Vec<u8>, packet: &[u8], mtu: usize) -> Option<()> {
    let header_len = ipv4_header_len(packet);
    let total = usize::from(BigEndian::read_u16(&packet[2..4])).min(packet.len());
    let (source, destination) = (&packet[12..16], &packet[16..20]);
    let is_host = |address: &[u8]| !matches!(address[0], 0 | 127 | 224..);
    if packet[6] & FLAG_DF == 0 || total < header_len || !is_host(source) || !is_host(destination) {
        return None;
    }
    let quote = &packet[..total.min(MAX_LEN_V4 - IPV4_MIN_LEN - ICMP_LEN)];
    let len = u16::try_from(IPV4_MIN_LEN + ICMP_LEN + quote.len()).ok()?;
    let mut header = [0; IPV4_MIN_LEN];
    // Precedence as RFC 1812, 4.3.2.5, asks for.
    (header[0], header[1], header[8], header[9]) = (0x45, 0xc0, HOP_LIMIT, PROTOCOL_ICMP);
    BigEndian::write_u16(&mut header[2..4], len);
    header[12..16].copy_from_slice(destination);
    header[16..20].copy_from_slice(source);
    let checksum = Sum::of(&header).finish();
    BigEndian::write_u16(&mut header[10..12], checksum);
    let mut icmp = [0; ICMP_LEN];
    (icmp[0], icmp[1]) = (UNREACHABLE, FRAGMENTATION_NEEDED);
    BigEndian::write_u16(&mut icmp[6..8], u16::try_from(mtu).unwrap_or(u16::MAX));
    let checksum = Sum::of(&icmp).plus(Sum::of(quote)).finish();
    BigEndian::write_u16(&mut icmp[2..4], checksum);
    answer.extend_from_slice(&header);
    answer.extend_from_slice(&icmp);
    answer.extend_from_slice(quote);
    Some(())
}

fn push_v6(answer: &mut Vec<u8>, packet: &[u8], mtu: usize) -> Option<()> {
    let total = (IPV6_LEN + usize::from(BigEndian::read_u16(&packet[4..6]))).min(packet.len());
    let (source, destination) = (&packet[8..24], &packet[24..40]);
    let is_host = |address: &[u8]| {
        let (rest, last) = address.split_at(15);
        address[0] != 0xff && (last[0] > 1 || rest.iter().any(|byte| *byte != 0))
    };
    if !is_host(source) || !is_host(destination) {
        return None;
    }
    let quote = &packet[..total.min(MAX_LEN_V6 - IPV6_LEN - ICMP_LEN)];
    let icmp_len = u16::try_from(ICMP_LEN + quote.len()).ok()?;
    let mut header = [0; IPV6_LEN];
    (header[0], header[6], header[7]) = (0x60, PROTOCOL_ICMPV6, HOP_LIMIT);
    BigEndian::write_u16(&mut header[4..6], icmp_len);
    header[8..24].copy_from_slice(destination);
    header[24..40].copy_from_slice(source);
    let mut icmp = [0; ICMP_LEN];
    icmp[0] = PACKET_TOO_BIG;
    BigEndian::write_u32(&mut icmp[4..8], u32::try_from(mtu).unwrap_or(u32::MAX));
    let pseudo = pseudo_header(&header, IpVersion::V6, PROTOCOL_ICMPV6, icmp_len);
    let checksum = pseudo.plus(Sum::of(&icmp)).plus(Sum::of(quote)).finish();
    BigEndian::write_u16(&mut icmp[2..4], checksum);
    answer.extend_from_slice(&header);
    answer.extend_from_slice(&icmp);
    answer.extend_from_slice(quote);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{
        IcmpEchoHeader, Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv4,
    };
    use proptest::prelude::*;

    const ROOM: Room = Room { mtu: 1500, packet: 1340 };
    const MAC_FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const MAC_TO: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn v6(last: u8) -> [u8; 16] {
        let mut address = [0; 16];
        (address[0], address[15]) = (0xfd, last);
        address
    }

    fn udp_v4(len: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(7, 9);
        builder.write(&mut packet, &vec![5; len - 28]).expect("a packet");
        packet
    }

    fn udp_v6(len: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv6(v6(1), v6(2), 64).udp(7, 9);
        builder.write(&mut packet, &vec![5; len - 48]).expect("a packet");
        packet
    }

    #[test]
    fn an_ipv4_packet_with_df_is_answered_from_where_it_was_going_with_the_mtu() {
        let packet = udp_v4(1400);
        assert!(packet[6] & FLAG_DF != 0, "the builder sets it");
        let answer = answer(LinkLayer::Tun, &packet, ROOM).expect("an answer");
        assert_eq!(answer.len(), 576);
        let sliced = SlicedPacket::from_ip(&answer).expect("a well-formed packet");
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Icmpv4(icmp))) = (sliced.net, sliced.transport) else {
            panic!("{answer:?}")
        };
        assert_eq!((ip.header().source(), ip.header().destination()), ([10, 0, 0, 2], [10, 0, 0, 1]));
        assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
        let expected = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1340 };
        assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(expected));
        assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
        assert_eq!(icmp.payload(), &packet[..548]);
    }

    #[test]
    fn an_ipv6_packet_is_answered_with_the_mtu() {
        let packet = udp_v6(1400);
        let answer = answer(LinkLayer::Tun, &packet, ROOM).expect("an answer");
        assert_eq!(answer.len(), 1280);
        let sliced = SlicedPacket::from_ip(&answer).expect("a well-formed packet");
        let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) = (sliced.net, sliced.transport) else {
            panic!("{answer:?}")
        };
        assert_eq!((ip.header().source(), ip.header().destination()), (v6(2), v6(1)));
        assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1340 });
        let checksum = icmp.icmp_type().calc_checksum(v6(2), v6(1), icmp.payload()).expect("a checksum");
        assert_eq!(icmp.checksum(), checksum);
        assert_eq!(icmp.payload(), &packet[..1232]);
    }

    #[test]
    fn a_frame_goes_back_where_it_came_from_with_its_tag_and_the_mtu_is_that_of_ip() {
        let tag = etherparse::VlanId::try_new(7).expect("an identifier");
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(MAC_FROM, MAC_TO).single_vlan(tag);
        let builder = builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(7, 9);
        builder.write(&mut frame, &[0; 1400]).expect("a frame");
        let answer = answer(LinkLayer::Tap, &frame, ROOM).expect("an answer");
        assert_eq!((&answer[..6], &answer[6..12]), (&MAC_FROM[..], &MAC_TO[..]));
        assert_eq!(answer[12..18], frame[12..18], "the tag and the type");
        let sliced = SlicedPacket::from_ethernet(&answer).expect("a well-formed frame");
        let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("{answer:?}") };
        let expected = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1340 - 18 };
        assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(expected));
    }

    #[test]
    fn what_may_not_be_answered_is_not() {
        let change = |packet: Vec<u8>, at: usize, bytes: &[u8]| {
            let mut packet = packet;
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            packet
        };
        let icmp = |kind: Icmpv4Type| {
            let mut packet = Vec::new();
            let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).icmpv4(kind);
            builder.write(&mut packet, &[0; 1400]).expect("a packet");
            packet
        };
        let icmpv6 = |kind: Icmpv6Type| {
            let mut packet = Vec::new();
            let builder = PacketBuilder::ipv6(v6(1), v6(2), 64).icmpv6(kind);
            builder.write(&mut packet, &[0; 1400]).expect("a packet");
            packet
        };
        let echo = IcmpEchoHeader { id: 1, seq: 2 };
        let exceeded = icmpv4::TimeExceededCode::TtlExceededInTransit;
        let cases = [
            ("whole", udp_v4(1400), true),
            ("without DF", change(udp_v4(1400), 6, &[0]), false),
            ("a later fragment", change(udp_v4(1400), 6, &[FLAG_DF, 1]), false),
            ("from nowhere", change(udp_v4(1400), 12, &[0; 4]), false),
            ("from this host", change(udp_v4(1400), 12, &[127, 0, 0, 1]), false),
            ("from a group", change(udp_v4(1400), 12, &[224, 0, 0, 1]), false),
            ("to a group", change(udp_v4(1400), 16, &[239, 0, 0, 1]), false),
            ("to everybody", change(udp_v4(1400), 16, &[255; 4]), false),
            ("an echo", icmp(Icmpv4Type::EchoRequest(echo)), true),
            ("an error", icmp(Icmpv4Type::TimeExceeded(exceeded)), false),
            ("IPv6 whole", udp_v6(1400), true),
            ("IPv6 from nowhere", change(udp_v6(1400), 8, &[0; 16]), false),
            ("IPv6 from a group", change(udp_v6(1400), 8, &[0xff]), false),
            ("IPv6 to a group", change(udp_v6(1400), 24, &[0xff]), false),
            ("IPv6 from this host", change(change(udp_v6(1400), 8, &[0; 16]), 23, &[1]), false),
            ("an IPv6 echo", icmpv6(Icmpv6Type::EchoRequest(echo)), true),
            ("an IPv6 error", icmpv6(Icmpv6Type::PacketTooBig { mtu: 1300 }), false),
            ("a redirect", change(icmpv6(Icmpv6Type::EchoRequest(echo)), 40, &[REDIRECT_V6]), false),
        ];
        for (name, packet, expected) in cases {
            assert_eq!(answer(LinkLayer::Tun, &packet, ROOM).is_some(), expected, "{name}");
        }
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(MAC_FROM, [0xff; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(7, 9);
        builder.write(&mut frame, &[0; 1400]).expect("a frame");
        assert_eq!(answer(LinkLayer::Tap, &frame, ROOM), None, "a broadcast");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(
            mut bytes in prop::collection::vec(any::<u8>(), 0..2000),
            start in prop::sample::select(vec![vec![], vec![0x45], vec![0x60], vec![0x4f]]),
            is_tap: bool,
        ) {
            let kind = if is_tap { LinkLayer::Tap } else { LinkLayer::Tun };
            bytes.splice(0..0, start);
            if let Some(answer) = answer(kind, &bytes, ROOM) {
                prop_assert!(answer.len() <= MAX_LEN_V6 + 22);
                prop_assert!(answer.len() <= bytes.len() + 48, "hardly longer than what it answers");
            }
        }
    }
}
