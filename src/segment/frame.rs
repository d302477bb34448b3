//! What is looked at of an Ethernet frame: addresses, tags, protocol. Pure; every length is checked here, once.

use byteorder::{BigEndian, ByteOrder as _};

/// Addresses and type.
pub const HEADER_LEN: usize = 14;

/// A tag of IEEE 802.1Q or 802.1ad: its type and what it says.
pub const TAG_LEN: usize = 4;
pub const TYPE_VLAN: u16 = 0x8100;
const TYPE_SERVICE_VLAN: u16 = 0x88a8;

/// Tags that are looked behind; a frame with more of them is of no protocol that is known.
const MAX_TAGS: usize = 4;

/// The bits of a tag that name the VLAN.
const VLAN_MASK: u16 = 0x0fff;

const TYPE_ARP: u16 = 0x0806;
const TYPE_IPV6: u16 = 0x86dd;

/// Where bridges send what keeps them free of loops: IEEE 802.1D and 802.1ad, and the per-VLAN kind of one vendor.
const BPDU_TARGETS: [[u8; 6]; 3] =
    [[0x01, 0x80, 0xc2, 0, 0, 0], [0x01, 0x80, 0xc2, 0, 0, 0x08], [0x01, 0, 0x0c, 0xcc, 0xcc, 0xcd]];

/// Neighbour discovery (RFC 4861): an IPv6 header and the first byte of ICMPv6 behind it.
const IPV6_LEN: usize = 40;
const ICMPV6: u8 = 58;
const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// A frame whose header is there.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    /// The protocol behind the tags, or the length of an LLC frame.
    protocol: u16,
    vlan: u16,
    /// Where the payload begins.
    payload: usize,
}

impl<'a> Frame<'a> {
    /// Looks at the header; `None` if it is not whole.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_LEN>()?;
        let protocol = BigEndian::read_u16(&header[12..]);
        let frame = Self { bytes, protocol, vlan: 0, payload: HEADER_LEN };
        Some(if is_tag(protocol) { frame.behind_tags() } else { frame })
    }

    /// The VLAN is that of the first tag that names one: a tag with the number 0 is a priority alone, and a receiver goes
    /// on behind it.
    fn behind_tags(mut self) -> Self {
        for _ in 0..MAX_TAGS {
            let Some(tag) = self.bytes.get(self.payload..self.payload + TAG_LEN).filter(|_| is_tag(self.protocol))
            else {
                break;
            };
            if self.vlan == 0 {
                self.vlan = BigEndian::read_u16(tag) & VLAN_MASK;
            }
            self.protocol = BigEndian::read_u16(&tag[2..]);
            self.payload += TAG_LEN;
        }
        self
    }

    /// Its VLAN, from 1 to 4095, or 0 without.
    pub fn vlan(&self) -> u16 {
        self.vlan
    }

    /// False if the tags do not end within the frame, or there are too many.
    pub fn is_whole(&self) -> bool {
        !is_tag(self.protocol)
    }

    /// The protocol behind the tags; below 0x0600 it is the length of an LLC frame.
    pub fn protocol(&self) -> u16 {
        self.protocol
    }

    /// What is behind the header and the tags, and where that begins.
    pub fn payload(&self) -> (&'a [u8], usize) {
        (self.bytes.get(self.payload..).unwrap_or_default(), self.payload)
    }

    /// True if it is for more than one station: broadcast or multicast.
    pub fn is_group(&self) -> bool {
        self.bytes[0] & 1 == 1
    }

    /// The address that it comes from; `None` if no station has such a one.
    pub fn source(&self) -> Option<u64> {
        let source = BigEndian::read_u48(&self.bytes[6..]);
        (source != 0 && self.bytes[6] & 1 == 0).then_some(source)
    }

    /// True for what bridges tell each other (spanning tree).
    pub fn is_bpdu(&self) -> bool {
        self.is_group() && BPDU_TARGETS.iter().any(|target| self.bytes.starts_with(target))
    }

    /// True for what finds the neighbours: ARP, and neighbour discovery of IPv6, which no router lets through.
    pub fn finds_neighbours(&self) -> bool {
        match self.protocol {
            TYPE_ARP => true,
            TYPE_IPV6 => {
                self.payload().0.get(..=IPV6_LEN).is_some_and(|packet| {
                    packet[6] == ICMPV6 && packet[7] == 255 && DISCOVERY.contains(&packet[IPV6_LEN])
                })
            }
            _ => false,
        }
    }
}

fn is_tag(protocol: u16) -> bool {
    matches!(protocol, TYPE_VLAN | TYPE_SERVICE_VLAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(target: [u8; 6], behind: &[u8]) -> Vec<u8> {
        [&target[..], &[2, 0, 0, 0, 0, 7], behind].concat()
    }

    #[test]
    fn the_vlan_is_that_of_the_first_tag_that_names_one() {
        for (behind, vlan, protocol) in [
            (&[0x08, 0][..], 0, 0x0800),
            (&[0x81, 0, 0xe0, 5, 0x08, 0], 5, 0x0800),
            (&[0x88, 0xa8, 0, 20, 0x81, 0, 0, 10, 0x86, 0xdd], 20, 0x86dd),
            // A priority in front of a tag that is meant.
            (&[0x81, 0, 0xe0, 0, 0x81, 0, 0, 10, 0x08, 0], 10, 0x0800),
            (&[0x81, 0, 0xe0, 0, 0x08, 6], 0, 0x0806),
        ] {
            let bytes = frame([2; 6], behind);
            let frame = Frame::parse(&bytes).expect("a frame");
            assert_eq!((frame.vlan(), frame.protocol(), frame.is_whole()), (vlan, protocol, true), "{behind:x?}");
            assert_eq!(frame.payload(), (&[][..], bytes.len()));
        }
        let cut = frame([2; 6], &[0x81, 0, 0]);
        assert!(!Frame::parse(&cut).expect("a frame").is_whole());
        let many = frame([2; 6], &[[0x81, 0, 0, 5]; 6].concat());
        assert!(!Frame::parse(&many).expect("a frame").is_whole());
    }

    #[test]
    fn what_finds_neighbours_is_told_from_other_ipv6() {
        let mut packet = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, ICMPV6, 255];
        packet.extend([0; 32]);
        for (kind, hops, expected) in [(135, 255, true), (137, 255, true), (135, 64, false), (128, 255, false)] {
            packet[9] = hops;
            let bytes = frame([0x33, 0x33, 0, 0, 0, 1], &[&packet[..], &[kind]].concat());
            assert_eq!(Frame::parse(&bytes).expect("a frame").finds_neighbours(), expected, "{kind} {hops}");
        }
        let arp = frame([0xff; 6], &[0x08, 0x06]);
        assert!(Frame::parse(&arp).expect("a frame").finds_neighbours());
    }

    #[test]
    fn only_stations_are_sources() {
        let mut bytes = frame([0xff; 6], &[0x08, 0]);
        assert_eq!(Frame::parse(&bytes).expect("a frame").source(), Some(0x0200_0000_0007));
        bytes[6] = 3;
        assert_eq!(Frame::parse(&bytes).expect("a frame").source(), None);
        bytes[6..12].fill(0);
        assert_eq!(Frame::parse(&bytes).expect("a frame").source(), None);
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange_to_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(frame) = Frame::parse(&bytes) {
                prop_assert!(frame.payload().1 <= bytes.len() && frame.vlan() <= VLAN_MASK);
                let _ = (frame.is_group(), frame.is_bpdu(), frame.source(), frame.finds_neighbours());
            } else {
                prop_assert!(bytes.len() < HEADER_LEN);
            }
        }
    }
}
