//! What has to hold for the virtio header whatever stands in it: it is read as it would be written, and what it says
//! about a packet is either refused or leads to packets within that packet.

use simpletun::config::LinkLayer;
use simpletun::offload::split::Segments;
use simpletun::offload::{VIRTIO_HEADER_LEN, VirtioHeader};

/// The header, then the packet.
pub fn check(data: &[u8]) {
    let Some((bytes, packet)) = data.split_first_chunk::<VIRTIO_HEADER_LEN>() else { return };
    let Ok(header) = VirtioHeader::parse(bytes) else { return };
    let written = header.to_bytes();
    assert_eq!(VirtioHeader::parse(&written), Ok(header));
    // Of the flags, only the one that matters to a sender is kept.
    assert_eq!(written[0], bytes[0] & 1);
    assert_eq!(written[1..], bytes[1..]);

    for link in [LinkLayer::Tun, LinkLayer::Tap] {
        let mut copy = packet.to_vec();
        let Ok(mut segments) = Segments::new(&header, &mut copy, link) else { continue };
        if header.segmentation.is_none() {
            let whole = segments.next_packet().expect("a packet").to_vec();
            assert!(segments.next_packet().is_none());
            assert_eq!(whole.len(), packet.len());
            // Two bytes at most differ, and only where the header says.
            let at = usize::from(header.checksum_start) + usize::from(header.checksum_offset);
            for (index, (new, old)) in whole.iter().zip(packet).enumerate() {
                assert!(new == old || header.needs_checksum && (at..at + 2).contains(&index));
            }
        } else {
            assert!(header.needs_checksum && header.segment_len > 0);
            assert!(usize::from(header.checksum_start) < packet.len());
        }
    }
}
