//! What has to hold when a hostile header and packet are cut: the segments are bounded in number and size, hold the
//! payload once and in order, and have lengths and IP header checksums of their own.

use simpletun::config::LinkLayer;
use simpletun::offload::split::{MAX_SEGMENTS, Segments};
use simpletun::offload::{Segmentation, VIRTIO_HEADER_LEN, VirtioHeader};

/// Headers of a segment at most, as generous as it can be.
const MAX_HEADERS: usize = 256;

/// The first byte says what kind of device it is; the virtio header and the packet follow.
pub fn check(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let Some((bytes, packet)) = rest.split_first_chunk::<VIRTIO_HEADER_LEN>() else { return };
    let Ok(header) = VirtioHeader::parse(bytes) else { return };
    let Some(segmentation) = header.segmentation else { return };
    let link = if kind & 1 == 0 { LinkLayer::Tun } else { LinkLayer::Tap };
    let mut copy = packet.to_vec();
    let Ok(mut segments) = Segments::new(&header, &mut copy, link) else { return };

    let transport = usize::from(header.checksum_start);
    let headers = transport
        + match segmentation {
            Segmentation::Udp => 8,
            Segmentation::TcpV4 | Segmentation::TcpV6 => usize::from(packet[transport + 12] >> 4) * 4,
        };
    assert!(headers <= MAX_HEADERS);
    let count = segments.count();
    assert!((1..=MAX_SEGMENTS).contains(&count));
    let mut payload = Vec::with_capacity(packet.len());
    for index in 0..count {
        let segment = segments.next_packet().expect("as many segments as were counted");
        assert!(segment.len() <= headers + usize::from(header.segment_len));
        assert!(index + 1 == count || segment.len() == headers + usize::from(header.segment_len));
        let ip = if link == LinkLayer::Tun { 0 } else { ip_offset(segment) };
        check_ip(&segment[ip..], transport - ip);
        if segmentation == Segmentation::Udp {
            assert_eq!(number(segment, transport + 4), (segment.len() - transport) as u16, "UDP length");
            assert_ne!(number(segment, transport + 6), 0, "UDP has a checksum");
        }
        payload.extend_from_slice(&segment[headers..]);
    }
    assert!(segments.next_packet().is_none());
    assert_eq!(payload, packet[headers..], "the payload is there once and in order");
}

/// The lengths agree and the header's own checksum is right, if the header is where it says.
fn check_ip(ip: &[u8], transport: usize) {
    match ip[0] >> 4 {
        4 => {
            assert_eq!(usize::from(number(ip, 2)), ip.len() & 0xffff, "IPv4 length");
            let header_len = usize::from(ip[0] & 0x0f) * 4;
            assert_eq!(header_len, transport, "the transport header follows the IPv4 header");
            assert_eq!(sum(&ip[..header_len]), 0xffff, "IPv4 header checksum");
        }
        6 => assert_eq!(usize::from(number(ip, 4)), (ip.len() - 40) & 0xffff, "IPv6 length"),
        version => panic!("IP version {version}"),
    }
}

fn ip_offset(frame: &[u8]) -> usize {
    let mut offset = 14;
    while matches!(number(frame, offset - 2), 0x8100 | 0x88a8) {
        offset += 4;
    }
    offset
}

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn sum(bytes: &[u8]) -> u32 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(number(&[pair, &[0]].concat(), 0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}
