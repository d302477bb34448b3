//! What keeps a flood of handshakes cheap: the memory of mac1 values, and the limits on how many handshakes are looked
//! at and answered. Pure, and everything in it has a fixed size.
//!
//! All of it stands behind mac1, so that only somebody who has a key, or a message made with one, changes anything here.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::crypto::MAC_LEN;
use crate::bucket::Bucket;

/// Values of mac1 that are remembered.
const MEMORY: usize = 4096;

/// Handshakes a second, and in one burst, of all sources.
const RATE: u32 = 50;

/// Handshakes a second of the source that was authenticated last, beside those of all.
const RESERVED_RATE: u32 = 10;

/// Time between two answers that refuse.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);

/// The limits of a responder.
pub struct Gate {
    seen: HashSet<[u8; MAC_LEN]>,
    order: VecDeque<[u8; MAC_LEN]>,
    everybody: Bucket,
    reserved: Bucket,
    trusted: Option<IpAddr>,
    refused_at: Option<Instant>,
}

impl Gate {
    /// With full buckets.
    pub fn new(now: Instant) -> Self {
        Self {
            seen: HashSet::with_capacity(MEMORY),
            order: VecDeque::with_capacity(MEMORY),
            everybody: Bucket::new(RATE, now),
            reserved: Bucket::new(RESERVED_RATE, now),
            trusted: None,
            refused_at: None,
        }
    }

    /// Remembers a mac1; false if it is remembered already.
    #[must_use]
    pub fn is_new(&mut self, mac: [u8; MAC_LEN]) -> bool {
        if self.seen.contains(&mac) {
            return false;
        }
        if self.order.len() >= MEMORY
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back(mac);
        self.seen.insert(mac)
    }

    /// Takes a token for a handshake from this source; false if there is none.
    #[must_use]
    pub fn admits(&mut self, source: IpAddr, now: Instant) -> bool {
        self.everybody.take(now) || (self.trusted == Some(source) && self.reserved.take(now))
    }

    /// The source that was authenticated last.
    pub fn trust(&mut self, source: IpAddr) {
        self.trusted = Some(source);
    }

    /// True if a handshake may be answered with a refusal now.
    #[must_use]
    pub fn may_refuse(&mut self, now: Instant) -> bool {
        let free = self.refused_at.is_none_or(|at| now.saturating_duration_since(at) >= REFUSAL_INTERVAL);
        if free {
            self.refused_at = Some(now);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    fn tag(number: usize) -> [u8; MAC_LEN] {
        let mut tag = [0; MAC_LEN];
        tag[..8].copy_from_slice(&number.to_be_bytes());
        tag
    }

    #[test]
    fn exactly_the_last_values_are_remembered() {
        let mut gate = Gate::new(start());
        for number in 0..MEMORY {
            assert!(gate.is_new(tag(number)));
        }
        assert!(!gate.is_new(tag(0)), "the first is still remembered");
        assert!(gate.is_new(tag(MEMORY)), "one more pushes out the oldest");
        assert!(!gate.is_new(tag(1)) && !gate.is_new(tag(MEMORY)));
        assert!(gate.is_new(tag(0)));
        assert_eq!((gate.seen.len(), gate.order.len()), (MEMORY, MEMORY));
    }

    #[test]
    fn the_known_source_has_tokens_left_when_strangers_have_taken_all() {
        let now = start();
        let (known, stranger) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut gate = Gate::new(now);
        gate.trust(known);
        let admitted = (0..1000).filter(|_| gate.admits(stranger, now)).count();
        assert_eq!(admitted, 50);
        let admitted = (0..1000).filter(|_| gate.admits(known, now)).count();
        assert_eq!(admitted, 10);
        let later = now + Duration::from_secs(1);
        let admitted = (0..1000).filter(|_| gate.admits(stranger, later)).count();
        assert_eq!(admitted, 50);
        assert!(gate.admits(known, later) && !gate.admits(stranger, later));
        let much_later = later + Duration::from_secs(3600);
        let admitted = (0..1000).filter(|_| gate.admits(stranger, much_later)).count();
        assert_eq!(admitted, 50, "tokens do not pile up");
    }

    #[test]
    fn refusals_are_a_second_apart() {
        let now = start();
        let mut gate = Gate::new(now);
        assert!(gate.may_refuse(now) && !gate.may_refuse(now));
        assert!(!gate.may_refuse(now + Duration::from_millis(999)));
        assert!(gate.may_refuse(now + Duration::from_secs(1)));
    }
}
