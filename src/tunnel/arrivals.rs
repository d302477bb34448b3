//! How many of the peer's messages have arrived, by their counters: how much the path loses in this direction. Pure.
//!
//! A counter that is skipped counts as lost until its message arrives, so that messages that were overtaken are lost for
//! as long as they are on their way. What was lost behind the last message that arrived is not known.

use std::time::{Duration, Instant};

/// How long a period is; what is recent is the period that has begun and the one before it.
pub const PERIOD: Duration = Duration::from_secs(30);

/// Numbers of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// That the peer has sealed, as far as is known.
    pub expected: u64,
    /// That have arrived.
    pub received: u64,
}

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrivals {
    total: Share,
    period: Share,
    earlier: Share,
    period_began: Instant,
}

impl Share {
    /// How many are missing.
    pub fn lost(self) -> u64 {
        self.expected.saturating_sub(self.received)
    }

    /// Which part is missing, from 0 to 1; 0 of nothing.
    pub fn loss(self) -> f64 {
        if self.expected == 0 { 0.0 } else { self.lost() as f64 / self.expected as f64 }
    }

    fn add(&mut self, other: Self) {
        self.expected += other.expected;
        self.received += other.received;
    }
}

impl Arrivals {
    /// Nothing has come yet.
    pub fn new(now: Instant) -> Self {
        let none = Share::default();
        Self { total: none, period: none, earlier: none, period_began: now }
    }

    /// A message has arrived, by which the peer is known to have sealed `expected` more than before.
    pub fn count(&mut self, expected: u64, now: Instant) {
        self.advance(now);
        let one = Share { expected, received: 1 };
        self.total.add(one);
        self.period.add(one);
    }

    /// Since the beginning.
    pub fn total(&self) -> Share {
        self.total
    }

    /// Within the last one to two periods.
    pub fn recent(mut self, now: Instant) -> Share {
        self.advance(now);
        self.period.add(self.earlier);
        self.period
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.period_began);
        if passed >= PERIOD {
            let whole = passed >= PERIOD * 2;
            self.earlier = if whole { Share::default() } else { self.period };
            self.period = Share::default();
            self.period_began = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn what_is_lost_is_forgotten_after_two_periods_and_counted_for_ever() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start);
        assert_eq!(arrivals.recent(start).loss(), 0.0);
        (0..3).for_each(|_| arrivals.count(1, start));
        arrivals.count(7, start);
        assert_eq!(arrivals.recent(start), Share { expected: 10, received: 4 });
        assert_eq!((arrivals.recent(start).lost(), arrivals.recent(start).loss()), (6, 0.6));
        // One of the missing was late.
        arrivals.count(0, start + PERIOD);
        assert_eq!(arrivals.recent(start + PERIOD).lost(), 5);
        assert_eq!(arrivals.recent(start + 2 * PERIOD), Share { expected: 0, received: 1 });
        assert_eq!(arrivals.recent(start + 2 * PERIOD).lost(), 0);
        assert_eq!(arrivals.recent(start + 4 * PERIOD), Share::default());
        assert_eq!(arrivals.total(), Share { expected: 10, received: 5 });
    }
}
