//! What has to hold for merging whatever the packets are: cutting up again what was merged gives every packet back
//! once, in the order of its flow, and a device that refuses super-packets gets the packets as they came.

use std::collections::BTreeMap;
use std::io::IoSlice;

use simpletun::config::LinkLayer;
use simpletun::offload::merge::{Batch, MAX_GROUP, Merger, Written};
use simpletun::offload::split::Segments;
use simpletun::offload::{Capabilities, Checksum, VirtioHeader};

/// The first byte says what kind of device it is and what it takes. Then packets: two bytes of length each, of which
/// the highest bit says that the packet is the one before with its sequence moved on, the length being what follows
/// of changes to it (position and value), and its checksums made right again.
pub fn check(data: &[u8]) {
    let Some((&choices, rest)) = data.split_first() else { return };
    let link = if choices & 1 == 0 { LinkLayer::Tun } else { LinkLayer::Tap };
    let capabilities = Capabilities { tcp_v4: choices & 2 == 0, tcp_v6: choices & 4 == 0, udp: choices & 8 == 0 };
    let packets = packets(rest, link);

    let mut outcome = Vec::new();
    run(link, capabilities, &packets, &mut |header, parts, count| {
        let mut packet: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        assert!((1..=MAX_GROUP).contains(&count));
        assert_eq!(count > 1, header.segmentation.is_some());
        assert!(packet.len() <= 65_535 || count == 1);
        let mut segments = Segments::new(header, &mut packet, link).expect("what was merged can be cut");
        assert_eq!(segments.count(), count);
        while let Some(segment) = segments.next_packet() {
            outcome.push(segment.to_vec());
        }
        Written::Done
    });
    assert_eq!(by_flow(link, &outcome), by_flow(link, &packets));

    let mut alone = Vec::new();
    run(link, capabilities, &packets, &mut |header, parts, count| {
        if header.segmentation.is_some() {
            return Written::TakeApart;
        }
        assert_eq!((*header, count, parts.len()), (VirtioHeader::default(), 1, 1));
        alone.push(parts[0].to_vec());
        Written::Done
    });
    assert_eq!(by_flow(link, &alone), by_flow(link, &packets));
    alone.sort();
    let mut sorted = packets;
    sorted.sort();
    assert_eq!(alone, sorted, "taken apart, the packets are what they were to the byte");
}

fn run(
    link: LinkLayer,
    capabilities: Capabilities,
    packets: &[Vec<u8>],
    write: &mut dyn FnMut(&VirtioHeader, &[IoSlice<'_>], usize) -> Written,
) {
    let mut merger = Merger::new(link, capabilities);
    let mut packets = packets.to_vec();
    let mut batch = Batch::new(&mut merger);
    for packet in &mut packets {
        if let Err(packet) = batch.push(packet, Checksum::Unknown) {
            batch.drain(write);
            assert!(batch.push(packet, Checksum::Unknown).is_ok(), "an empty batch has room");
        }
    }
    batch.drain(write);
}

fn packets(mut data: &[u8], link: LinkLayer) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = u16::from_be_bytes(*length);
        let follows = length & 0x8000 != 0;
        let (bytes, rest) = rest.split_at(usize::from(length & 0x7fff).min(rest.len()));
        data = rest;
        match packets.last() {
            Some(last) if follows => packets.push(next_of_flow(last, bytes, link)),
            _ => packets.push(bytes.to_vec()),
        }
    }
    packets
}

/// The next segment of the flow, with some bytes changed before its checksums are made right.
fn next_of_flow(last: &[u8], changes: &[u8], link: LinkLayer) -> Vec<u8> {
    let mut packet = last.to_vec();
    let ip = if link == LinkLayer::Tap { 14 } else { 0 };
    let (addresses, transport) = match packet.get(ip).map(|byte| byte >> 4) {
        Some(4) => (ip + 12..ip + 20, ip + 20),
        Some(6) => (ip + 8..ip + 40, ip + 40),
        _ => return packet,
    };
    if packet.len() < transport + 20 {
        return packet;
    }
    let is_v4 = transport == ip + 20;
    let protocol = if is_v4 { packet[ip + 9] } else { packet[ip + 6] };
    if is_v4 {
        let id = u16::from_be_bytes([packet[ip + 4], packet[ip + 5]]).wrapping_add(1);
        packet[ip + 4..ip + 6].copy_from_slice(&id.to_be_bytes());
    }
    let checksum = transport + if protocol == 6 { 16 } else { 6 };
    if protocol == 6 {
        let header_len = usize::from(packet[transport + 12] >> 4) * 4;
        let payload_len = (packet.len() - transport).saturating_sub(header_len) as u32;
        let field = &mut packet[transport + 4..transport + 8];
        let sequence = field.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        field.copy_from_slice(&sequence.wrapping_add(payload_len).to_be_bytes());
    }
    for change in changes.chunks_exact(2) {
        let at = usize::from(change[0]) % packet.len();
        packet[at] = change[1];
    }
    if is_v4 {
        packet[ip + 10..ip + 12].fill(0);
        let value = !sum(&packet[ip..transport], 0);
        packet[ip + 10..ip + 12].copy_from_slice(&value.to_be_bytes());
    }
    packet[checksum..checksum + 2].fill(0);
    let pseudo = sum(&packet[addresses], u32::from(protocol) + (packet.len() - transport) as u32);
    let value = !sum(&packet[transport..], u32::from(pseudo));
    packet[checksum..checksum + 2].copy_from_slice(&value.to_be_bytes());
    packet
}

fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Packets by what tells flows apart. The identification of IPv4 packets that must not be fragmented means nothing
/// (RFC 6864) and is left out, with the checksum over it.
fn by_flow(link: LinkLayer, packets: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for packet in packets {
        let ip = if link == LinkLayer::Tap { 14 } else { 0 };
        let mut plain = packet.clone();
        let key = match packet.get(ip).map(|byte| byte >> 4) {
            Some(4) if packet.len() >= ip + 24 => {
                if packet[ip + 6] & 0x40 != 0 {
                    plain[ip + 4..ip + 6].fill(0);
                    plain[ip + 10..ip + 12].fill(0);
                }
                [&packet[..ip], &packet[ip + 9..ip + 10], &packet[ip + 12..ip + 24]].concat()
            }
            Some(6) if packet.len() >= ip + 44 => {
                [&packet[..ip], &packet[ip + 6..ip + 7], &packet[ip + 8..ip + 44]].concat()
            }
            _ => packet[..ip.min(packet.len())].to_vec(),
        };
        flows.entry(key).or_default().push(plain);
    }
    flows
}
