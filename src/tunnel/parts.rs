//! Packets that cross a datagram link in parts, because the path carries none of their length (`docs/PROTOCOL.md`, "FRAG").
//! Pure. What comes here is authentic; it may still be incomplete, late or nonsense.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use byteorder::{BigEndian, ByteOrder};

use super::Refused;

/// Bytes in front of a part: the packet's number, the part's offset, and the length of the whole packet.
pub const PART_HEADER_LEN: usize = 8;

/// Parts of one packet at most.
pub const MAX_PARTS: usize = 64;

/// Packets that are put together at the same time, and the bytes that are set aside for them.
const MAX_PACKETS: usize = 32;
const MAX_BYTES: usize = 256 * 1024;

/// How long the other parts of a packet are awaited. They leave together, so what is later is lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// Length of the parts that a packet is cut into, each at most `longest` bytes; the last one may be shorter. `None` if it
/// would take too many.
pub fn part_len(packet_len: usize, longest: usize) -> Option<usize> {
    let count = packet_len.div_ceil(Some(longest).filter(|len| *len > 0)?);
    (count <= MAX_PARTS && packet_len <= usize::from(u16::MAX)).then(|| packet_len.div_ceil(count.max(1)))
}

/// A part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Which packet of this sender it is of.
    pub packet: u32,
    /// Where it begins.
    pub offset: u16,
    /// Length of the whole packet in bytes.
    pub total: u16,
    /// What is in it.
    pub bytes: &'a [u8],
}

impl<'a> Part<'a> {
    /// Reads what was sealed; `None` if it is no part of any packet.
    pub fn parse(plain: &'a [u8]) -> Option<Self> {
        let (header, bytes) = plain.split_first_chunk::<PART_HEADER_LEN>()?;
        let part = Self {
            packet: BigEndian::read_u32(&header[..4]),
            offset: BigEndian::read_u16(&header[4..6]),
            total: BigEndian::read_u16(&header[6..]),
            bytes,
        };
        (!bytes.is_empty() && part.end() <= usize::from(part.total)).then_some(part)
    }

    /// Appends what is to be sealed.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut header = [0; PART_HEADER_LEN];
        BigEndian::write_u32(&mut header[..4], self.packet);
        BigEndian::write_u16(&mut header[4..6], self.offset);
        BigEndian::write_u16(&mut header[6..], self.total);
        out.extend_from_slice(&header);
        out.extend_from_slice(self.bytes);
    }

    fn end(&self) -> usize {
        usize::from(self.offset) + self.bytes.len()
    }
}

/// A packet of which some parts are missing.
#[derive(Debug)]
struct Incomplete {
    session: u32,
    packet: u32,
    bytes: Vec<u8>,
    /// Where its parts begin and end, in order.
    ranges: Vec<(usize, usize)>,
    flags: u16,
    until: Instant,
}

/// A packet that is whole again.
#[derive(Debug, PartialEq, Eq)]
pub struct Joined {
    /// The packet.
    pub bytes: Vec<u8>,
    /// What all of its parts said about it.
    pub flags: u16,
}

/// Puts packets together.
#[derive(Debug, Default)]
pub struct Joiner {
    /// The oldest first.
    incomplete: VecDeque<Incomplete>,
    reserved: usize,
    lost: u64,
}

impl Joiner {
    /// Takes a part that came under this session; parts of one packet do not mix with those of another session. Returns
    /// the packet if it was the last that was missing.
    ///
    /// # Errors
    /// The part contradicts those before it, and the packet is given up.
    pub fn take(&mut self, session: u32, part: Part<'_>, flags: u16, now: Instant) -> Result<Option<Joined>, Refused> {
        self.expire(now);
        let is_it = |packet: &Incomplete| packet.session == session && packet.packet == part.packet;
        let place = match self.incomplete.iter().position(is_it) {
            Some(place) => place,
            None => self.begin(session, &part, flags, now),
        };
        let Some(packet) = self.incomplete.get_mut(place) else { return Err(Refused::Invalid) };
        if !packet.add(&part, flags) {
            self.remove(place);
            self.lost += 1;
            return Err(Refused::Invalid);
        }
        if !packet.is_complete() {
            return Ok(None);
        }
        Ok(self.remove(place).map(|packet| Joined { bytes: packet.bytes, flags: packet.flags }))
    }

    /// Sets room aside; if there is none, the oldest packets are given up.
    fn begin(&mut self, session: u32, part: &Part<'_>, flags: u16, now: Instant) -> usize {
        let total = usize::from(part.total);
        while self.incomplete.len() >= MAX_PACKETS || (self.reserved + total > MAX_BYTES && self.reserved > 0) {
            self.remove(0);
            self.lost += 1;
        }
        self.reserved += total;
        let (bytes, until) = (vec![0; total], now + PATIENCE);
        self.incomplete.push_back(Incomplete { session, packet: part.packet, bytes, ranges: Vec::new(), flags, until });
        self.incomplete.len() - 1
    }

    fn remove(&mut self, place: usize) -> Option<Incomplete> {
        let packet = self.incomplete.remove(place)?;
        self.reserved -= packet.bytes.len();
        Some(packet)
    }

    /// When the oldest packet is given up.
    pub fn deadline(&self) -> Option<Instant> {
        self.incomplete.front().map(|packet| packet.until)
    }

    /// Gives up what has waited for too long.
    pub fn expire(&mut self, now: Instant) {
        while self.deadline().is_some_and(|until| until <= now) {
            self.remove(0);
            self.lost += 1;
        }
    }

    /// Packets that were given up since this was called last.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

impl Incomplete {
    /// False if the part contradicts what is known, or comes a second time.
    fn add(&mut self, part: &Part<'_>, flags: u16) -> bool {
        let (start, end) = (usize::from(part.offset), part.end());
        let place = self.ranges.partition_point(|(begin, _)| *begin < start);
        let before = place.checked_sub(1).and_then(|place| self.ranges.get(place));
        let overlaps = before.is_some_and(|(_, end)| *end > start)
            || self.ranges.get(place).is_some_and(|(begin, _)| *begin < end);
        if usize::from(part.total) != self.bytes.len() || overlaps || self.ranges.len() >= MAX_PARTS {
            return false;
        }
        let Some(room) = self.bytes.get_mut(start..end) else { return false };
        room.copy_from_slice(part.bytes);
        self.ranges.insert(place, (start, end));
        self.flags &= flags;
        true
    }

    fn is_complete(&self) -> bool {
        let filled: usize = self.ranges.iter().map(|(start, end)| end - start).sum();
        filled == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    fn parts(packet: u32, bytes: &[u8], longest: usize) -> Vec<Vec<u8>> {
        let len = part_len(bytes.len(), longest).expect("not too many");
        let total = bytes.len() as u16;
        let chunks = bytes.chunks(len).enumerate();
        chunks
            .map(|(number, bytes)| {
                let mut out = Vec::new();
                Part { packet, offset: (number * len) as u16, total, bytes }.write(&mut out);
                out
            })
            .collect()
    }

    fn take(joiner: &mut Joiner, plain: &[u8], now: Instant) -> Result<Option<Vec<u8>>, Refused> {
        let part = Part::parse(plain).ok_or(Refused::Invalid)?;
        joiner.take(1, part, 0, now).map(|joined| joined.map(|joined| joined.bytes))
    }

    #[test]
    fn parts_are_of_equal_length() {
        assert_eq!(part_len(1500, 1400), Some(750));
        assert_eq!(part_len(3000, 1400), Some(1000));
        assert_eq!(part_len(10, 1400), Some(10));
        assert_eq!(part_len(65_000, 1000), None, "more than 64");
        assert_eq!(part_len(10, 0), None);
        assert_eq!(part_len(70_000, 60_000), None);
    }

    #[test]
    fn what_is_not_whole_after_a_second_is_given_up_and_late_parts_begin_anew() {
        let (mut joiner, now) = (Joiner::default(), start());
        let sent = parts(7, &[5; 100], 60);
        assert_eq!(take(&mut joiner, &sent[0], now), Ok(None));
        assert_eq!(joiner.deadline(), Some(now + PATIENCE));
        joiner.expire(now + PATIENCE);
        assert_eq!((joiner.deadline(), joiner.take_lost(), joiner.take_lost(), joiner.reserved), (None, 1, 0, 0));
        assert_eq!(take(&mut joiner, &sent[1], now + PATIENCE), Ok(None));
    }

    #[test]
    fn parts_that_contradict_each_other_end_their_packet() {
        let now = start();
        let part = |packet, offset, total, bytes| Part { packet, offset, total, bytes };
        for second in [part(1, 0, 100, &[1; 60][..]), part(1, 59, 100, &[1; 41]), part(1, 60, 101, &[1; 40])] {
            let mut joiner = Joiner::default();
            assert_eq!(joiner.take(1, part(1, 0, 100, &[1; 60]), 0, now), Ok(None));
            assert_eq!(joiner.take(1, second, 0, now), Err(Refused::Invalid), "{second:?}");
            assert_eq!((joiner.take_lost(), joiner.deadline()), (1, None));
        }
        assert_eq!(Part::parse(&[0; PART_HEADER_LEN]), None, "nothing in it");
        assert_eq!(Part::parse(&[0, 0, 0, 1, 0, 10, 0, 10, 9]), None, "behind the end");
        assert_eq!(Part::parse(&[0; 3]), None);
    }

    #[test]
    fn parts_of_different_sessions_do_not_mix() {
        let (mut joiner, now) = (Joiner::default(), start());
        let sent = parts(7, &[5; 100], 60);
        let part = |place: usize| Part::parse(&sent[place]).expect("a part");
        assert_eq!(joiner.take(1, part(0), 0, now), Ok(None));
        assert_eq!(joiner.take(2, part(1), 0, now), Ok(None));
        assert!(joiner.take(1, part(1), 0, now).expect("fits").is_some());
    }

    #[test]
    fn flags_hold_if_all_parts_have_them() {
        let (mut joiner, now) = (Joiner::default(), start());
        let sent = parts(7, &[5; 100], 60);
        let part = |place: usize| Part::parse(&sent[place]).expect("a part");
        joiner.take(1, part(0), 1, now).expect("fits");
        assert_eq!(joiner.take(1, part(1), 0, now).expect("fits").expect("whole").flags, 0);
        joiner.take(1, part(0), 1, now).expect("fits");
        assert_eq!(joiner.take(1, part(1), 1, now).expect("fits").expect("whole").flags, 1);
    }

    #[test]
    fn memory_stays_within_its_cap() {
        let (mut joiner, now) = (Joiner::default(), start());
        for packet in 0..1000 {
            let part = Part { packet, offset: 0, total: u16::MAX, bytes: &[1; 100] };
            assert_eq!(joiner.take(1, part, 0, now), Ok(None));
            assert!(joiner.reserved <= MAX_BYTES);
        }
        for packet in 1000..2000 {
            joiner.take(1, Part { packet, offset: 0, total: 2, bytes: &[1] }, 0, now).expect("fits");
            assert!(joiner.incomplete.len() <= MAX_PACKETS);
        }
        assert_eq!(joiner.take_lost() as usize, 2000 - joiner.incomplete.len());
    }

    proptest! {
        #[test]
        fn packets_come_out_as_they_went_in_whatever_the_order(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3000), 1..8),
            longest in 100_usize..1500,
            order in proptest::collection::vec(any::<Index>(), 300),
        ) {
            let mut joiner = Joiner::default();
            let mut on_the_way: Vec<_> =
                packets.iter().enumerate().flat_map(|(number, bytes)| parts(number as u32, bytes, longest)).collect();
            let (mut out, now) = (Vec::new(), start());
            for index in order {
                if on_the_way.is_empty() {
                    break;
                }
                let part = on_the_way.swap_remove(index.index(on_the_way.len()));
                out.extend(take(&mut joiner, &part, now).expect("fits"));
            }
            let (mut expected, mut found) = (packets, out);
            expected.sort();
            found.sort();
            prop_assert_eq!(found, expected);
            prop_assert_eq!((joiner.reserved, joiner.take_lost()), (0, 0));
        }

        #[test]
        fn no_parts_make_it_panic(
            parts in proptest::collection::vec((0_u32..3, 0_u16..40, 0_u16..40, 0_usize..20), 0..200),
        ) {
            let (mut joiner, now) = (Joiner::default(), start());
            for (packet, offset, total, len) in parts {
                let mut plain = Vec::new();
                Part { packet, offset, total, bytes: &vec![1; len] }.write(&mut plain);
                let _ = take(&mut joiner, &plain, now);
                prop_assert!(joiner.incomplete.len() <= 3);
            }
        }
    }
}
