//! The packets of the link, told to those who watch them: copies, as many as there is room for. Pure.
//!
//! A packet is mirrored where it leaves or enters the tunnel: outbound once its turn has come and it is cut and adjusted as
//! it crosses the link, inbound before it is joined with others for the device. So nobody sees a super-packet, and checksums are
//! complete. What does not fit the watcher's room is lost to it and counted; the tunnel never waits.

use std::time::{Duration, Instant};

use super::Relay;
use super::report::Moment;
use crate::config::LinkLayer;
use crate::control::capture::{Direction, HEADER_LEN, MAX_SNAP, Record};
use crate::offload::VirtioHeader;
use crate::offload::split::Segments;

/// Watchers at the same time.
const MAX_WATCHERS: usize = 2;

/// Bytes that wait for one watcher; as many again may be on their way to it.
const ROOM: usize = 512 * 1024;

const _: () = assert!(ROOM > 2 * HEADER_LEN + MAX_SNAP);

/// The watchers; without any it does nothing.
#[derive(Debug)]
pub struct Mirror {
    kind: LinkLayer,
    watchers: Vec<Watcher>,
    /// Where super-packets are cut.
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Watcher {
    /// Who it is.
    number: u64,
    /// Bytes of each packet that are wanted.
    snap: usize,
    began: Moment,
    stream: Vec<u8>,
    /// Packets lost since the last that found room.
    lost: u32,
}

impl Relay {
    /// The copies of packets for those who watch them.
    pub fn mirror_mut(&mut self) -> &mut Mirror {
        &mut self.mirror
    }
}

impl Mirror {
    /// Nobody watches.
    pub fn new(kind: LinkLayer) -> Self {
        Self { kind, watchers: Vec::new(), scratch: Vec::new() }
    }

    /// True if a packet is of interest to somebody.
    pub fn is_watched(&self) -> bool {
        !self.watchers.is_empty()
    }

    /// Begins to collect the first `snap` bytes of each packet; false if too many watch already.
    #[must_use]
    pub fn watch(&mut self, number: u64, snap: usize, began: Moment) -> bool {
        if self.watchers.len() >= MAX_WATCHERS {
            return false;
        }
        let snap = snap.min(MAX_SNAP);
        self.watchers.push(Watcher { number, snap, began, stream: Vec::new(), lost: 0 });
        true
    }

    /// Forgets a watcher, and all that waits for it.
    pub fn forget(&mut self, number: u64) {
        self.watchers.retain(|watcher| watcher.number != number);
        if self.watchers.is_empty() {
            self.scratch = Vec::new();
        }
    }

    /// Whether something waits for this watcher; `None` if it is not known.
    pub fn has_news(&self, number: u64) -> Option<bool> {
        self.watchers.iter().find(|watcher| watcher.number == number).map(|watcher| !watcher.is_idle())
    }

    /// What waits for a watcher; `None` if it is not known.
    pub fn take(&mut self, number: u64) -> Option<Vec<u8>> {
        let watcher = self.watchers.iter_mut().find(|watcher| watcher.number == number)?;
        let mut stream = std::mem::take(&mut watcher.stream);
        // Nothing may follow that would tell it.
        watcher.tell_lost(&mut stream);
        Some(stream)
    }

    /// Copies a packet.
    pub fn packet(&mut self, direction: Direction, packet: &[u8], now: Instant) {
        self.watchers.iter_mut().for_each(|watcher| watcher.push(direction, packet, now));
    }

    /// Copies the packets in a super-packet, whose header was checked and has the length of the headers.
    pub fn super_packet(&mut self, direction: Direction, header: &VirtioHeader, packet: &[u8], now: Instant) {
        let Self { kind, watchers, scratch } = self;
        if !watchers.iter().any(|watcher| watcher.has_room_for(packet.len())) {
            let payload_len = packet.len().saturating_sub(header.header_len.into());
            let count = payload_len.div_ceil(usize::from(header.segment_len).max(1));
            watchers.iter_mut().for_each(|watcher| watcher.lose(count));
            return;
        }
        scratch.clear();
        scratch.extend_from_slice(packet);
        let Ok(mut segments) = Segments::new(header, scratch, *kind) else { return };
        while let Some(packet) = segments.next_packet() {
            watchers.iter_mut().for_each(|watcher| watcher.push(direction, packet, now));
        }
    }
}

impl Watcher {
    fn is_idle(&self) -> bool {
        self.stream.is_empty() && self.lost == 0
    }

    /// True if a packet of this length fits, and a word about what was lost before it.
    fn has_room_for(&self, len: usize) -> bool {
        self.stream.len() + 2 * HEADER_LEN + len.min(self.snap) <= ROOM
    }

    fn lose(&mut self, count: usize) {
        self.lost = self.lost.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn tell_lost(&mut self, stream: &mut Vec<u8>) {
        if self.lost > 0 {
            Record::Lost(std::mem::take(&mut self.lost)).write(stream);
        }
    }

    fn push(&mut self, direction: Direction, packet: &[u8], now: Instant) {
        if !self.has_room_for(packet.len()) {
            return self.lose(1);
        }
        let mut stream = std::mem::take(&mut self.stream);
        self.tell_lost(&mut stream);
        let time: Duration = self.began.wall + now.saturating_duration_since(self.began.now);
        let bytes = &packet[..packet.len().min(self.snap)];
        Record::Packet { direction, time, len: packet.len() as u32, bytes }.write(&mut stream);
        self.stream = stream;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::capture::Reader;

    const WALL: Duration = Duration::from_secs(1_800_000_000);

    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn watched(snap: usize) -> (Mirror, Moment) {
        let (mut mirror, began) = (Mirror::new(LinkLayer::Tun), Moment { now: Instant::now(), wall: WALL });
        assert!(!mirror.is_watched() && mirror.watch(1, snap, began) && mirror.is_watched());
        (mirror, began)
    }

    /// Direction, length and captured bytes of the packets, and how many were lost.
    fn read(stream: &[u8]) -> (Vec<(Direction, u32, Vec<u8>)>, u32) {
        let (mut reader, mut packets, mut lost) = (Reader::default(), Vec::new(), 0);
        reader.push(stream);
        while let Some(record) = reader.record().expect("a stream") {
            match record {
                Record::Packet { direction, len, bytes, .. } => packets.push((direction, len, bytes.to_vec())),
                Record::Lost(count) => lost += count,
            }
        }
        (packets, lost)
    }

    #[test]
    fn packets_are_cut_and_dated_and_each_watcher_has_its_own() {
        let (mut mirror, began) = watched(4);
        assert!(mirror.watch(2, usize::MAX, began) && !mirror.watch(3, 9, began), "two at a time");
        let later = began.now + Duration::from_millis(1500);
        mirror.packet(Direction::Out, b"abcdefg", later);
        mirror.packet(Direction::In, b"xyz", later);
        assert_eq!([1, 2, 3].map(|number| mirror.has_news(number)), [Some(true), Some(true), None]);
        let cut = read(&mirror.take(1).expect("it watches"));
        assert_eq!(cut, (vec![(Direction::Out, 7, b"abcd".to_vec()), (Direction::In, 3, b"xyz".to_vec())], 0));
        let mut reader = Reader::default();
        reader.push(&mirror.take(2).expect("it watches"));
        let expected = Record::Packet {
            direction: Direction::Out,
            time: WALL + Duration::from_millis(1500),
            len: 7,
            bytes: b"abcdefg",
        };
        assert_eq!(reader.record(), Ok(Some(expected)));
        mirror.forget(1);
        assert!(mirror.take(1).is_none() && mirror.is_watched() && mirror.watch(3, 9, began));
        mirror.forget(2);
        mirror.forget(3);
        assert!(!mirror.is_watched());
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told_before_what_follows_or_alone() {
        let (mut mirror, began) = watched(1000);
        let packet = [7; 1000];
        let fitting = (ROOM - HEADER_LEN) / (HEADER_LEN + packet.len());
        (0..fitting + 5).for_each(|_| mirror.packet(Direction::Out, &packet, began.now));
        let stream = mirror.take(1).expect("it watches");
        assert!(stream.len() <= ROOM);
        assert_eq!((read(&stream).0.len(), read(&stream).1), (fitting, 5));
        assert_eq!(mirror.has_news(1), Some(false), "told once");
        (0..fitting + 1).for_each(|_| mirror.packet(Direction::In, &packet, began.now));
        mirror.packet(Direction::In, &[], began.now);
        let (packets, lost) = read(&mirror.take(1).expect("it watches"));
        assert_eq!((packets.len(), lost), (fitting + 1, 1), "a small one fits, behind the word about the one before");
    }

    /// A TCP super-packet of four segments, as a device hands it out.
    fn super_packet() -> (VirtioHeader, Vec<u8>) {
        let mut packet = Vec::new();
        let builder = etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(5000, 80, 1, 512);
        builder.write(&mut packet, &[3; 3500]).expect("a packet");
        let header = VirtioHeader {
            needs_checksum: true,
            segmentation: Some(crate::offload::Segmentation::TcpV4),
            ecn: false,
            header_len: 40,
            segment_len: 1000,
            checksum_start: 20,
            checksum_offset: 16,
        };
        // As the kernel does it: the sum of the pseudo-header alone.
        let pseudo: u32 = 0x0a00 + 1 + 0x0a00 + 2 + 6 + 3520;
        packet[36..38].copy_from_slice(&(pseudo as u16).to_be_bytes());
        (header, packet)
    }

    #[test]
    fn a_super_packet_is_seen_as_its_packets_with_checksums() {
        let (mut mirror, began) = watched(usize::MAX);
        let (header, packet) = super_packet();
        mirror.super_packet(Direction::In, &header, &packet, began.now);
        let (packets, lost) = read(&mirror.take(1).expect("it watches"));
        assert_eq!(
            (packets.iter().map(|(_, len, _)| *len).collect::<Vec<_>>(), lost),
            (vec![1040, 1040, 1040, 540], 0)
        );
        for (_, _, packet) in &packets {
            let parsed = etherparse::SlicedPacket::from_ip(packet).expect("a packet");
            let (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Tcp(tcp))) =
                (parsed.net, parsed.transport)
            else {
                panic!("not TCP over IPv4")
            };
            let computed = tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), tcp.payload());
            assert_eq!(computed, Ok(tcp.checksum()));
        }
        let fitting = ROOM / (4 * HEADER_LEN + packet.len() + 120);
        (0..fitting + 10).for_each(|_| mirror.super_packet(Direction::In, &header, &packet, began.now));
        let (packets, lost) = read(&mirror.take(1).expect("it watches"));
        assert_eq!(packets.len() + lost as usize, (fitting + 10) * 4, "lost ones are counted as packets");
        assert!(lost > 0);
    }
}
