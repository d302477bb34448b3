//! What becomes of a packet from the device that is longer than the link carries at present. What may be fragmented is;
//! the sender of anything else is told what fits, by an answer that goes into the device.

use std::time::Instant;

use crate::bucket::Bucket;
use crate::config::LinkLayer;
use crate::offload::mss::Room;
use crate::offload::too_big;

/// Answers a second, and at once.
const RATE: u32 = 100;

/// Answers that wait for the end of a turn.
const MAX_WAITING: usize = 16;

/// The answers of one turn, and how many more there may be.
#[derive(Default)]
pub(super) struct Answers {
    bucket: Option<Bucket>,
    waiting: Vec<Vec<u8>>,
}

impl Answers {
    /// Answers a packet, if that is allowed and not too often; true if it is.
    pub(super) fn answer(&mut self, kind: LinkLayer, packet: &[u8], room: Room, now: Instant) -> bool {
        if self.waiting.len() >= MAX_WAITING {
            return false;
        }
        let Some(answer) = too_big::answer(kind, packet, room) else { return false };
        if !self.bucket.get_or_insert_with(|| Bucket::new(RATE, now)).take(now) {
            return false;
        }
        self.waiting.push(answer);
        true
    }

    /// The answers so far, for the device.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn answers_have_a_limit_in_a_turn_and_in_a_second() {
        let mut packet = Vec::new();
        let builder = etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(7, 9);
        builder.write(&mut packet, &[0; 1400]).expect("a packet");
        let room = Room { mtu: 1500, packet: 1300 };
        let start = Instant::now();
        let mut answers = Answers::default();
        let mut ask = |count: usize, now| {
            (0..count).filter(|_| answers.answer(LinkLayer::Tun, &packet, room, now)).count() == answers.take().len()
        };
        assert!(ask(10, start) && ask(1000, start));
        let mut total = 0;
        for turn in 0..1000 {
            let now = start + Duration::from_secs(1) + Duration::from_millis(turn);
            for _ in 0..100 {
                answers.answer(LinkLayer::Tun, &packet, room, now);
            }
            let taken = answers.take().len();
            assert!(taken <= MAX_WAITING);
            total += taken;
        }
        assert!((190..=200).contains(&total), "{total}");
    }
}
