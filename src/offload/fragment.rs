//! Cutting an IPv4 packet that may be fragmented into fragments that fit (RFC 791, 3.2), as a router does.
//!
//! Pure: bytes in, bytes out. Only what is longer than the link carries comes here.

use byteorder::{BigEndian, ByteOrder};

use super::checksum::Sum;
use super::headers::{IPV4_MIN_LEN, IpVersion, find_ip, ipv4_header_len, set_ipv4_length};
use super::mss::Room;
use crate::config::LinkLayer;

const FLAG_DF: u16 = 0x4000;
const FLAG_MORE: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// The offset of a fragment counts units of this many bytes.
const UNIT: usize = 8;

const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
/// Set in the kind of an option that every fragment has.
const OPTION_COPIED: u8 = 0x80;

/// Hands out the fragments of `packet` one by one; false if it is none that may be cut. Each is right by itself, with the
/// link's header in front.
pub fn fragment(kind: LinkLayer, packet: &[u8], room: Room, each: &mut dyn FnMut(&[u8])) -> bool {
    let Some((ip, IpVersion::V4)) = find_ip(kind, packet) else { return false };
    let header_len = ipv4_header_len(&packet[ip..]);
    let total = usize::from(BigEndian::read_u16(&packet[ip + 2..ip + 4]));
    let place = BigEndian::read_u16(&packet[ip + 6..ip + 8]);
    if header_len < IPV4_MIN_LEN || total < header_len || packet.len() < ip + total || place & FLAG_DF != 0 {
        return false;
    }
    // The fragments' headers are right by themselves: a damaged one would be made valid.
    if Sum::of(&packet[ip..ip + header_len]).finish() != 0 {
        return false;
    }
    let data_len = room.for_ip(ip).saturating_sub(header_len) / UNIT * UNIT;
    let (headers, data) = packet[..ip + total].split_at(ip + header_len);
    if data_len == 0 || usize::from(place & OFFSET_MASK) * UNIT + data.len() > usize::from(u16::MAX) {
        return false;
    }
    let mut one = Vec::with_capacity(ip + header_len + data_len);
    for (index, part) in data.chunks(data_len).enumerate() {
        one.clear();
        one.extend_from_slice(headers);
        if index > 0 {
            blank_options(&mut one[ip + IPV4_MIN_LEN..]);
        }
        let start = index * data_len;
        let is_last = start + part.len() == data.len();
        let more = if is_last { place & FLAG_MORE } else { FLAG_MORE };
        // Both are below 65,536, which was checked above.
        let offset = (place & OFFSET_MASK) + (start / UNIT) as u16;
        BigEndian::write_u16(&mut one[ip + 6..ip + 8], more | offset);
        set_ipv4_length(&mut one[ip..], (header_len + part.len()) as u16);
        one.extend_from_slice(part);
        each(&one);
    }
    true
}

/// Options that belong to the first fragment alone are overwritten in the others, as `ip_options_fragment()` of the
/// kernel does.
fn blank_options(options: &mut [u8]) {
    let mut at = 0;
    while let Some(kind) = options.get(at).copied() {
        let len = match kind {
            OPTION_END => return,
            OPTION_NOTHING => 1,
            _ => match options.get(at + 1) {
                Some(len) if *len >= 2 => usize::from(*len),
                _ => return,
            },
        };
        if kind & OPTION_COPIED == 0
            && let Some(option) = options.get_mut(at..at + len)
        {
            option.fill(OPTION_NOTHING);
        }
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpFragOffset, Ipv4Header, Ipv4Slice, SlicedPacket, ip_number};
    use proptest::prelude::*;

    fn packet(data: &[u8], options: &[u8], place: u16) -> Vec<u8> {
        let mut header = Ipv4Header::new(data.len() as u16, 64, ip_number::UDP, [10, 0, 0, 1], [10, 0, 0, 2])
            .expect("a short packet");
        header.options = options.try_into().expect("words");
        header.set_payload_len(data.len()).expect("a short packet");
        header.identification = 77;
        header.dont_fragment = place & FLAG_DF != 0;
        header.more_fragments = place & FLAG_MORE != 0;
        header.fragment_offset = IpFragOffset::try_new(place & OFFSET_MASK).expect("an offset");
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = Vec::new();
        header.write(&mut bytes).expect("a header");
        bytes.extend_from_slice(data);
        bytes
    }

    fn cut(kind: LinkLayer, packet: &[u8], len: usize) -> Option<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        let room = Room { mtu: 65_535, packet: len };
        fragment(kind, packet, room, &mut |one| all.push(one.to_vec())).then_some(all)
    }

    #[test]
    fn what_may_not_be_fragmented_is_not() {
        for place in [FLAG_DF, FLAG_DF | FLAG_MORE] {
            assert_eq!(cut(LinkLayer::Tun, &packet(&[1; 1000], &[], place), 600), None);
        }
        let whole = packet(&[1; 1000], &[], 0);
        assert_eq!(cut(LinkLayer::Tun, &whole, 27), None, "no room for anything");
        assert_eq!(cut(LinkLayer::Tun, &whole[..900], 600), None, "shorter than it says");
        assert_eq!(cut(LinkLayer::Tun, &packet(&[1; 1000], &[], OFFSET_MASK), 600), None, "beyond the end");
        assert_eq!(cut(LinkLayer::Tun, &[0x60; 1000], 600), None);
        let mut damaged = whole;
        damaged[8] ^= 1;
        assert_eq!(cut(LinkLayer::Tun, &damaged, 600), None, "a damaged header");
    }

    #[test]
    fn options_of_the_first_fragment_alone_are_not_in_the_others() {
        // Record route, which is not copied; and a router alert, which is.
        let options = [7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0];
        let all = cut(LinkLayer::Tun, &packet(&[1; 1000], &options, 0), 600).expect("fragments");
        assert_eq!(all[0][20..32], options);
        assert_eq!(all[1][20..32], [1, 1, 1, 1, 1, 1, 1, 0x94, 4, 0, 0, 0]);
        for hostile in [[7, 0, 1, 1], [7, 1, 1, 1], [7, 200, 1, 1], [1, 1, 1, 7]] {
            assert!(cut(LinkLayer::Tun, &packet(&[1; 1000], &hostile, 0), 600).is_some());
        }
    }

    #[test]
    fn a_frame_keeps_its_header_and_loses_its_padding() {
        let ethernet = [&[2; 6][..], &[4; 6], &[8, 0]].concat();
        let frame = [&ethernet[..], &packet(&[1; 1000], &[], 0), &[0; 9]].concat();
        let all = cut(LinkLayer::Tap, &frame, 600).expect("fragments");
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [14 + 20 + 560, 14 + 20 + 440]);
        for one in all {
            assert_eq!(one[..14], ethernet);
            SlicedPacket::from_ethernet(&one).expect("a well-formed frame");
        }
    }

    proptest! {
        #[test]
        fn fragments_fit_and_make_the_packet_again(
            data in prop::collection::vec(any::<u8>(), 1..3000),
            len in 68usize..1500,
            offset in 0u16..4000,
            more: bool,
            words in 0usize..4,
        ) {
            let place = offset | if more { FLAG_MORE } else { 0 };
            let whole = packet(&data, &[1; 4].repeat(words), place);
            let mut together = Vec::new();
            let all = cut(LinkLayer::Tun, &whole, len).expect("fragments");
            for (index, one) in all.iter().enumerate() {
                prop_assert!(one.len() <= len);
                let slice = Ipv4Slice::from_slice(one).expect("a well-formed fragment");
                let header = slice.header();
                prop_assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                prop_assert_eq!(header.identification(), 77);
                prop_assert_eq!(header.more_fragments(), more || index + 1 < all.len());
                let expected = usize::from(offset) * 8 + together.len();
                prop_assert_eq!(usize::from(header.fragments_offset().value()) * 8, expected);
                together.extend_from_slice(slice.payload().payload);
            }
            prop_assert_eq!(together, data);
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 1..200), len in 0usize..200) {
            bytes[0] = 0x40 | bytes[0] & 0x0f;
            if bytes.len() >= IPV4_MIN_LEN {
                let total = BigEndian::read_u16(&bytes[2..4]);
                set_ipv4_length(&mut bytes, total);
            }
            let mut longest = 0;
            fragment(LinkLayer::Tun, &bytes, Room { mtu: 65_535, packet: len }, &mut |one| longest = longest.max(one.len()));
            prop_assert!(longest <= len);
        }
    }
}
