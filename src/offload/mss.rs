//! Lowering the maximum segment size that the two ends of a TCP connection announce to each other (RFC 9293, 3.7.1), so
//! that their segments fit the tunnel without being told by ICMP.
//!
//! Pure: bytes in, bytes out. The option is in packets with SYN alone; every other packet costs a comparison or two.
//! The value is only ever lowered, and a missing option is not added. The checksum is adjusted for the change
//! (RFC 1624), so that a wrong one stays wrong.

use byteorder::{BigEndian, ByteOrder};

use super::checksum::Sum;
use super::headers::{
    FLAG_SYN, IPV4_MIN_LEN, IPV6_LEN, IpVersion, PROTOCOL_TCP, TCP_CHECKSUM, TCP_MIN_LEN, find_ip, find_payload,
    tcp_header_len,
};
use crate::config::{LinkLayer, MssClamp};

/// No end is asked for smaller segments; `TCP_MIN_SND_MSS` of `include/net/tcp.h` is the least that Linux sends.
const MIN_MSS: usize = 48;

/// Kinds of TCP option.
const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_MSS: u8 = 2;
const MSS_OPTION_LEN: usize = 4;

/// What fits the device and the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The longest IP packet of the device in bytes: its MTU.
    pub mtu: usize,
    /// The longest packet that the link carries in bytes, with the Ethernet header on a tap device.
    pub packet: usize,
}

impl Room {
    /// The longest IP packet whose header begins at `ip`, in bytes.
    pub fn for_ip(&self, ip: usize) -> usize {
        self.mtu.min(self.packet.saturating_sub(ip))
    }
}

/// Lowers the maximum segment size in `packet` to what fits; returns whether something was changed.
pub fn clamp(kind: LinkLayer, packet: &mut [u8], choice: MssClamp, room: Room) -> bool {
    if choice == MssClamp::Off {
        return false;
    }
    let Some((ip, version)) = find_ip(kind, packet) else { return false };
    let Some(tcp) = find_syn(packet, ip, version) else { return false };
    let limit = match choice {
        MssClamp::Off => return false,
        MssClamp::Auto => {
            let headers_len = TCP_MIN_LEN + if version == IpVersion::V4 { IPV4_MIN_LEN } else { IPV6_LEN };
            room.for_ip(ip).saturating_sub(headers_len)
        }
        MssClamp::Fixed(mss) => usize::from(mss),
    };
    let limit = u16::try_from(limit.max(MIN_MSS)).unwrap_or(u16::MAX);
    let Some(at) = find_option(&packet[tcp..]) else { return false };
    lower(&mut packet[tcp..], at, limit)
}

/// The offset of a whole TCP header with SYN.
fn find_syn(packet: &[u8], ip: usize, version: IpVersion) -> Option<usize> {
    let payload = find_payload(packet, ip, version)?;
    if payload.protocol != PROTOCOL_TCP || payload.is_later_fragment {
        return None;
    }
    let tcp = packet.get(payload.offset..)?;
    let has_syn = tcp.get(13)? & FLAG_SYN != 0;
    (has_syn && (TCP_MIN_LEN..=tcp.len()).contains(&tcp_header_len(tcp))).then_some(payload.offset)
}

/// The offset of the value of the maximum segment size in a whole TCP header.
fn find_option(tcp: &[u8]) -> Option<usize> {
    let end = tcp_header_len(tcp);
    let mut at = TCP_MIN_LEN;
    while at < end {
        match tcp[at] {
            OPTION_END => return None,
            OPTION_NOTHING => at += 1,
            kind => {
                let len = usize::from(*tcp.get(at + 1)?);
                if kind == OPTION_MSS {
                    return (len == MSS_OPTION_LEN && at + len <= end).then_some(at + 2);
                }
                // Shorter than its own two bytes it would be met again for ever.
                at += if len >= 2 { len } else { return None };
            }
        }
    }
    None
}

/// Lowers the value at `at` of a TCP header.
fn lower(tcp: &mut [u8], at: usize, limit: u16) -> bool {
    if BigEndian::read_u16(&tcp[at..at + 2]) <= limit {
        return false;
    }
    // The words of the checksum begin at even offsets. A header's length is even, so the last one is whole.
    let words = at & !1..(at + 3) & !1;
    Sum::adjust(tcp, TCP_CHECKSUM, words, |tcp| BigEndian::write_u16(&mut tcp[at..at + 2], limit));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{
        Ipv6Extensions, Ipv6FragmentHeader, Ipv6RawExtHeader, NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement,
        TransportSlice, ip_number,
    };
    use proptest::prelude::*;

    const ROOM: Room = Room { mtu: 1400, packet: 1400 };

    /// A packet with the bytes of TCP's options as they are given, padded, and a right checksum.
    fn packet(kind: LinkLayer, tags: usize, version: IpVersion, options: &[u8], syn: bool) -> Vec<u8> {
        let mut tcp = etherparse::TcpHeader::new(1000, 80, 7, 500);
        (tcp.syn, tcp.ack) = (syn, !syn);
        tcp.set_options_raw(options).expect("options of at most 40 bytes");
        let ip = match version {
            IpVersion::V4 => etherparse::IpHeaders::Ipv4(
                etherparse::Ipv4Header::new(0, 64, ip_number::TCP, [10, 0, 0, 1], [10, 0, 0, 2]).expect("a header"),
                etherparse::Ipv4Extensions::default(),
            ),
            IpVersion::V6 => etherparse::IpHeaders::Ipv6(
                etherparse::Ipv6Header {
                    next_header: ip_number::TCP,
                    hop_limit: 64,
                    source: [0xfd; 16],
                    destination: [0xfe; 16],
                    ..Default::default()
                },
                Ipv6Extensions::default(),
            ),
        };
        with_headers(kind, tags, ip, tcp)
    }

    fn with_headers(kind: LinkLayer, tags: usize, ip: etherparse::IpHeaders, tcp: etherparse::TcpHeader) -> Vec<u8> {
        let mut bytes = Vec::new();
        let payload = [1, 2, 3];
        let vlan = |id| etherparse::VlanId::try_new(id).expect("an identifier");
        let ethernet = || PacketBuilder::ethernet2([2; 6], [4; 6]);
        match (kind, tags) {
            (LinkLayer::Tun, _) => PacketBuilder::ip(ip).tcp_header(tcp).write(&mut bytes, &payload),
            (LinkLayer::Tap, 0) => ethernet().ip(ip).tcp_header(tcp).write(&mut bytes, &payload),
            (LinkLayer::Tap, 1) => ethernet().single_vlan(vlan(5)).ip(ip).tcp_header(tcp).write(&mut bytes, &payload),
            (LinkLayer::Tap, _) => {
                ethernet().double_vlan(vlan(5), vlan(6)).ip(ip).tcp_header(tcp).write(&mut bytes, &payload)
            }
        }
        .expect("a packet");
        bytes
    }

    fn slice(kind: LinkLayer, packet: &[u8]) -> SlicedPacket<'_> {
        match kind {
            LinkLayer::Tun => SlicedPacket::from_ip(packet),
            LinkLayer::Tap => SlicedPacket::from_ethernet(packet),
        }
        .expect("a well-formed packet")
    }

    /// The announced size and whether the checksum is right, in somebody else's opinion.
    fn opinion(kind: LinkLayer, packet: &[u8]) -> (Option<u16>, bool) {
        let sliced = slice(kind, packet);
        let (Some(TransportSlice::Tcp(tcp)), Some(net)) = (sliced.transport, sliced.net) else { panic!("no TCP") };
        let mss = tcp.options_iterator().find_map(|option| match option {
            Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
            _ => None,
        });
        let expected = match net {
            NetSlice::Ipv4(ip) => tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
            NetSlice::Ipv6(ip) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
            NetSlice::Arp(_) => panic!("not IP"),
        };
        (mss, expected.expect("a short packet") == tcp.checksum())
    }

    fn mss(value: u16) -> [u8; 4] {
        let [high, low] = value.to_be_bytes();
        [2, 4, high, low]
    }

    #[test]
    fn what_fits_is_less_by_the_headers_of_ip_and_tcp() {
        for (version, expected) in [(IpVersion::V4, 1360), (IpVersion::V6, 1340)] {
            let mut bytes = packet(LinkLayer::Tun, 0, version, &mss(1460), true);
            assert!(clamp(LinkLayer::Tun, &mut bytes, MssClamp::Auto, ROOM));
            assert_eq!(opinion(LinkLayer::Tun, &bytes), (Some(expected), true));
            assert!(!clamp(LinkLayer::Tun, &mut bytes, MssClamp::Auto, ROOM), "it fits now");
        }
    }

    #[test]
    fn the_link_counts_the_ethernet_header_with_its_tags_and_the_device_does_not() {
        let room = Room { mtu: 1500, packet: 1440 };
        for (tags, expected) in [(0, 1440 - 14 - 40), (1, 1440 - 18 - 40), (2, 1440 - 22 - 40)] {
            let mut bytes = packet(LinkLayer::Tap, tags, IpVersion::V4, &mss(1460), true);
            assert!(clamp(LinkLayer::Tap, &mut bytes, MssClamp::Auto, room));
            assert_eq!(opinion(LinkLayer::Tap, &bytes), (Some(expected), true));
        }
        let mut bytes = packet(LinkLayer::Tap, 2, IpVersion::V4, &mss(1460), true);
        assert!(clamp(LinkLayer::Tap, &mut bytes, MssClamp::Auto, Room { mtu: 1400, packet: 65_535 }));
        assert_eq!(opinion(LinkLayer::Tap, &bytes).0, Some(1360));
    }

    #[test]
    fn off_leaves_everything_alone_and_a_number_is_taken_as_it_is() {
        let original = packet(LinkLayer::Tun, 0, IpVersion::V4, &mss(1460), true);
        let mut bytes = original.clone();
        assert!(!clamp(LinkLayer::Tun, &mut bytes, MssClamp::Off, ROOM));
        assert_eq!(bytes, original);
        assert!(clamp(LinkLayer::Tun, &mut bytes, MssClamp::Fixed(1234), ROOM));
        assert_eq!(opinion(LinkLayer::Tun, &bytes), (Some(1234), true));
        assert!(!clamp(LinkLayer::Tun, &mut bytes, MssClamp::Fixed(1300), ROOM), "it is never raised");
        assert!(clamp(LinkLayer::Tun, &mut bytes, MssClamp::Auto, Room { mtu: 20, packet: 20 }));
        assert_eq!(opinion(LinkLayer::Tun, &bytes), (Some(48), true), "less than any end would send");
    }

    #[test]
    fn packets_without_syn_and_later_fragments_are_left_alone() {
        let mut bytes = packet(LinkLayer::Tun, 0, IpVersion::V4, &mss(1460), false);
        assert!(!clamp(LinkLayer::Tun, &mut bytes, MssClamp::Auto, ROOM));
        let mut bytes = packet(LinkLayer::Tun, 0, IpVersion::V4, &mss(1460), true);
        bytes[7] = 1;
        assert!(!clamp(LinkLayer::Tun, &mut bytes, MssClamp::Auto, ROOM));
        // The first fragment has the header.
        (bytes[6], bytes[7]) = (0x20, 0);
        assert!(clamp(LinkLayer::Tun, &mut bytes, MssClamp::Auto, ROOM));
    }

    #[test]
    fn ipv6_is_looked_at_behind_its_extension_headers() {
        for (offset, expected) in [(0, true), (1, false)] {
            let fragment =
                Ipv6FragmentHeader::new(ip_number::TCP, offset.try_into().expect("an offset"), true, 0x1234_5678);
            let raw = |next| Ipv6RawExtHeader::new_raw(next, &[0; 14]).expect("a header");
            let extensions = Ipv6Extensions {
                hop_by_hop_options: Some(raw(ip_number::IPV6_DEST_OPTIONS)),
                destination_options: Some(raw(ip_number::IPV6_FRAG)),
                fragment: Some(fragment),
                ..Default::default()
            };
            let ip =
                etherparse::Ipv6Header { next_header: ip_number::IPV6_HOP_BY_HOP, hop_limit: 64, ..Default::default() };
            let mut tcp = etherparse::TcpHeader::new(1000, 80, 7, 500);
            tcp.syn = true;
            tcp.set_options_raw(&mss(1460)).expect("an option");
            let ip = etherparse::IpHeaders::Ipv6(ip, extensions);
            let mut bytes = with_headers(LinkLayer::Tun, 0, ip, tcp);
            assert_eq!(clamp(LinkLayer::Tun, &mut bytes, MssClamp::Auto, ROOM), expected);
        }
    }

    #[test]
    fn malformed_options_are_left_alone() {
        let cases: [&[u8]; 7] = [
            &[2],
            &[8, 0, 2, 4, 0xff, 0xff],
            &[8, 1, 2, 4, 0xff, 0xff],
            &[8, 200, 2, 4, 0xff, 0xff],
            &[2, 3, 0xff, 0xff],
            &[1, 1, 1, 1, 1, 2, 4, 0xff],
            &[0, 2, 4, 0xff, 0xff],
        ];
        for options in cases {
            let mut bytes = packet(LinkLayer::Tun, 0, IpVersion::V4, options, true);
            let original = bytes.clone();
            assert!(!clamp(LinkLayer::Tun, &mut bytes, MssClamp::Auto, ROOM), "{options:?}");
            assert_eq!(bytes, original, "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn another_implementation_reads_what_was_written(
            value: u16,
            limit in 100usize..2000,
            before in prop::collection::vec(Just(1u8), 0..8),
            is_tap: bool,
            tags in 0usize..3,
            is_v6: bool,
        ) {
            let kind = if is_tap { LinkLayer::Tap } else { LinkLayer::Tun };
            let (version, headers_len) = if is_v6 { (IpVersion::V6, 60) } else { (IpVersion::V4, 40) };
            let mut bytes = packet(kind, tags, version, &[&before[..], &mss(value)].concat(), true);
            let changed = clamp(kind, &mut bytes, MssClamp::Auto, Room { mtu: limit, packet: 65_535 });
            let expected = usize::from(value).min((limit - headers_len).max(48));
            prop_assert_eq!(changed, expected < usize::from(value));
            prop_assert_eq!(opinion(kind, &bytes), (u16::try_from(expected).ok(), true));
        }

        #[test]
        fn a_wrong_checksum_stays_wrong(value in 1400u16.., wrong in 1u16..0xffff) {
            let mut bytes = packet(LinkLayer::Tun, 0, IpVersion::V4, &mss(value), true);
            let checksum = BigEndian::read_u16(&bytes[36..38]);
            // Zero and all ones are the same number.
            prop_assume!(checksum != 0 && checksum != 0xffff && checksum ^ wrong != 0 && checksum ^ wrong != 0xffff);
            BigEndian::write_u16(&mut bytes[36..38], checksum ^ wrong);
            prop_assert!(clamp(LinkLayer::Tun, &mut bytes, MssClamp::Auto, ROOM));
            prop_assert!(!opinion(LinkLayer::Tun, &bytes).1);
        }

        #[test]
        fn arbitrary_bytes_do_no_harm_and_change_four_bytes_at_most(
            mut bytes in prop::collection::vec(any::<u8>(), 0..120),
            start in prop::sample::select(vec![vec![], vec![0x45], vec![0x60], vec![0x4f]]),
            protocol in prop::sample::select(vec![0u8, 6, 43, 44, 51, 60]),
            is_tap: bool,
        ) {
            let kind = if is_tap { LinkLayer::Tap } else { LinkLayer::Tun };
            bytes.splice(0..0, start);
            for at in [6, 9] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = protocol;
                }
            }
            let original = bytes.clone();
            let changed = clamp(kind, &mut bytes, MssClamp::Fixed(0), ROOM);
            let differing = bytes.iter().zip(&original).filter(|(new, old)| new != old).count();
            prop_assert_eq!(bytes.len(), original.len());
            prop_assert!(differing <= 4 && (changed || differing == 0));
        }
    }
}
