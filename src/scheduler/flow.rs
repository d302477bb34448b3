//! Which flow a packet belongs to, and the mark that it has met congestion. Pure.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use byteorder::{BigEndian, ByteOrder};

use crate::config::LinkLayer;
use crate::offload::checksum::Sum;
use crate::offload::headers::{
    IPV4_CHECKSUM, IPV6_LEN, IpVersion, PROTOCOL_TCP, PROTOCOL_UDP, find_ip, ipv4_header_len,
};

/// Length of an Ethernet header in bytes.
const ETHERNET_LEN: usize = 14;

/// Where the ports stand in TCP and UDP.
const PORTS_LEN: usize = 4;

/// More fragments, and the offset (RFC 791).
const FRAGMENT_BITS: u16 = 0x3fff;

/// The two bits of the traffic class (RFC 3168).
const ECN_BITS: u8 = 0b11;
const NOT_ECT: u8 = 0b00;

/// Makes numbers of flows, with a secret of its own, so that nobody can choose packets that share one.
#[derive(Debug, Default)]
pub struct FlowHash(RandomState);

impl FlowHash {
    /// The number of the flow: of addresses, protocol and ports, as far as the packet shows them; of a frame that is not
    /// IP, its Ethernet header.
    pub fn of(&self, kind: LinkLayer, packet: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        match find_ip(kind, packet) {
            Some((offset, version)) => hash_ip(packet.get(offset..).unwrap_or_default(), version, &mut hasher),
            None => packet.get(..ETHERNET_LEN).unwrap_or(packet).hash(&mut hasher),
        }
        hasher.finish()
    }
}

fn hash_ip(ip: &[u8], version: IpVersion, hasher: &mut impl Hasher) {
    let (protocol, addresses, header_len, is_fragment) = match version {
        IpVersion::V4 => (ip[9], &ip[12..20], ipv4_header_len(ip), BigEndian::read_u16(&ip[6..8]) & FRAGMENT_BITS != 0),
        IpVersion::V6 => {
            // The flow label tells flows apart whose ports stand behind extension headers (RFC 6437).
            (BigEndian::read_u32(&ip[..4]) & 0x000f_ffff).hash(hasher);
            (ip[6], &ip[8..40], IPV6_LEN, false)
        }
    };
    (protocol, addresses).hash(hasher);
    // All fragments belong to one flow, and only the first has the ports.
    if matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP) && !is_fragment {
        ip.get(header_len..header_len + PORTS_LEN).hash(hasher);
    }
}

/// Marks a packet as having met congestion, if its ends understand that (RFC 3168, section 5); false if they do not.
pub fn mark_congestion(kind: LinkLayer, packet: &mut [u8]) -> bool {
    let Some((offset, version)) = find_ip(kind, packet) else { return false };
    let Some(ip) = packet.get_mut(offset..) else { return false };
    match version {
        IpVersion::V4 if ip[1] & ECN_BITS != NOT_ECT => {
            Sum::adjust(ip, IPV4_CHECKSUM, 0..2, |ip| ip[1] |= ECN_BITS);
            true
        }
        IpVersion::V6 if (ip[1] >> 4) & ECN_BITS != NOT_ECT => {
            ip[1] |= ECN_BITS << 4;
            true
        }
        IpVersion::V4 | IpVersion::V6 => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::headers::set_ipv4_length;
    use etherparse::{IpNumber, PacketBuilder};
    use proptest::prelude::*;

    fn tcp4(source: [u8; 4], port: u16) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4(source, [10, 0, 0, 9], 64).tcp(port, 80, 1, 1000);
        builder.write(&mut packet, &[1; 20]).expect("a packet");
        packet
    }

    #[test]
    fn packets_of_one_connection_share_a_flow_and_others_do_not() {
        let hash = FlowHash::default();
        let of = |packet: &[u8]| hash.of(LinkLayer::Tun, packet);
        let first = tcp4([10, 0, 0, 1], 1000);
        let mut later = first.clone();
        later[24..28].fill(9);
        assert_eq!(of(&first), of(&later), "another sequence number");
        assert_ne!(of(&first), of(&tcp4([10, 0, 0, 1], 1001)));
        assert_ne!(of(&first), of(&tcp4([10, 0, 0, 2], 1000)));
        let mut udp = first.clone();
        udp[9] = PROTOCOL_UDP;
        assert_ne!(of(&first), of(&udp));
        assert_ne!(of(&first), FlowHash::default().of(LinkLayer::Tun, &first), "every daemon has a secret of its own");
    }

    #[test]
    fn fragments_of_one_datagram_share_a_flow() {
        let hash = FlowHash::default();
        let (mut first, mut second) = (tcp4([10, 0, 0, 1], 1000), tcp4([10, 0, 0, 1], 7));
        first[6] = 0x20;
        second[7] = 0x10;
        assert_eq!(hash.of(LinkLayer::Tun, &first), hash.of(LinkLayer::Tun, &second));
    }

    #[test]
    fn frames_that_are_not_ip_are_told_apart_by_their_ends() {
        let hash = FlowHash::default();
        let mut arp = vec![0xff; 42];
        arp[12..14].copy_from_slice(&[8, 6]);
        let mut other = arp.clone();
        other[6] = 2;
        assert_ne!(hash.of(LinkLayer::Tap, &arp), hash.of(LinkLayer::Tap, &other));
        other[6] = 0xff;
        other[20] = 1;
        assert_eq!(hash.of(LinkLayer::Tap, &arp), hash.of(LinkLayer::Tap, &other));
    }

    #[test]
    fn only_packets_whose_ends_understand_it_are_marked_and_stay_valid() {
        for (ecn, marked) in [(0, false), (1, true), (2, true), (3, true)] {
            let mut packet = tcp4([10, 0, 0, 1], 1000);
            packet[1] = 0x08 | ecn;
            let len = u16::try_from(packet.len()).expect("short");
            set_ipv4_length(&mut packet, len);
            let before = packet.clone();
            assert_eq!(mark_congestion(LinkLayer::Tun, &mut packet), marked);
            if marked {
                assert_eq!(packet[1], 0x0b);
                let header = etherparse::Ipv4Header::from_slice(&packet).expect("a header").0;
                assert_eq!(header.header_checksum, header.calc_header_checksum());
            } else {
                assert_eq!(packet, before);
            }
            // A packet that was damaged on its way is not made valid.
            let mut damaged = before.clone();
            damaged[8] ^= 0x10;
            mark_congestion(LinkLayer::Tun, &mut damaged);
            let header = etherparse::Ipv4Header::from_slice(&damaged).expect("a header").0;
            assert_ne!(header.header_checksum, header.calc_header_checksum());
        }
        let mut six = Vec::new();
        let builder = PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(1, 2);
        builder.write(&mut six, &[0; 8]).expect("a packet");
        assert!(!mark_congestion(LinkLayer::Tun, &mut six));
        six[1] |= 0x20;
        assert!(mark_congestion(LinkLayer::Tun, &mut six));
        let header = etherparse::Ipv6Header::from_slice(&six).expect("a header").0;
        assert_eq!((header.traffic_class & 3, header.next_header), (3, IpNumber::UDP));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut packet in proptest::collection::vec(any::<u8>(), 0..80), tap: bool) {
            let kind = if tap { LinkLayer::Tap } else { LinkLayer::Tun };
            FlowHash::default().of(kind, &packet);
            mark_congestion(kind, &mut packet);
        }
    }
}
