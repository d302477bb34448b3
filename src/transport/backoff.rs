//! How long a client waits before it tries again. Pure: chance and time come from outside.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
/// With its spread less than a second, so that a peer that is back is found within one.
const CAP: Duration = Duration::from_millis(750);
/// Cap once [`PATIENCE`] has passed without success.
const LATE_CAP: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);

/// A wait from the beginning of one attempt to the next while there are packets to send.
const HURRIED: Duration = Duration::from_millis(750);

/// A connection that lasted this long, or on which something was received, counts as a success.
pub const SUCCESS_AFTER: Duration = Duration::from_secs(10);

/// Doubling waits from 100 ms up to 750 ms; up to five seconds once two minutes have passed without success.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    failing_since: Option<Instant>,
}

/// A wait before an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// When it is over.
    pub until: Instant,
    hurried_until: Instant,
}

impl Pause {
    /// One of this length, whatever comes.
    pub fn fixed(now: Instant, wait: Duration) -> Self {
        Self { until: now + wait, hurried_until: now + wait }
    }

    /// There are packets to send, so the next attempt is made soon.
    pub fn hurry(&mut self) {
        self.until = self.until.min(self.hurried_until);
    }
}

impl Backoff {
    /// The wait before the next attempt, as [`next`](Self::next); `began_at` is when the last one began.
    pub fn pause(&mut self, began_at: Instant, now: Instant, chance: f32) -> Pause {
        let until = now + self.next(now, chance);
        let hurried_until = (began_at + spread(HURRIED, chance)).max(now + spread(FIRST, chance)).min(until);
        Pause { until, hurried_until }
    }

    /// The wait before the next attempt. `chance` is a number from 0 to 1 that spreads it by ±20 %.
    pub fn next(&mut self, now: Instant, chance: f32) -> Duration {
        let since = *self.failing_since.get_or_insert(now);
        let cap = if now.saturating_duration_since(since) >= PATIENCE { LATE_CAP } else { CAP };
        let wait = FIRST.saturating_mul(2u32.saturating_pow(self.failures)).min(cap);
        self.failures = self.failures.saturating_add(1).min(16);
        spread(wait, chance)
    }

    /// Begins anew: the link was good, or somebody asked for an attempt at once.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

fn spread(wait: Duration, chance: f32) -> Duration {
    wait.mul_f32(0.8 + 0.4 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn with_packets_to_send_the_late_waits_stay_below_a_second_too() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.next(start, 0.5);
        }
        let now = start + PATIENCE;
        let wait = |pause: Pause| (pause.until - now).as_millis();
        let mut refused = backoff.pause(now, now, 0.5);
        assert_eq!(wait(refused), 5000);
        refused.hurry();
        assert_eq!(wait(refused), 750);
        let mut unanswered = backoff.pause(now - 2 * HURRIED, now, 0.5);
        unanswered.hurry();
        assert_eq!(wait(unanswered), 100, "the attempt itself took long enough");
        backoff.reset();
        let mut early = backoff.pause(now, now, 0.5);
        early.hurry();
        assert_eq!(wait(early), 100, "and no wait becomes longer");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn waits_double_to_less_than_a_second_and_later_to_five() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..6).map(|_| backoff.next(start, 0.5).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 750, 750, 750]);
        let late = start + PATIENCE;
        assert_eq!(backoff.next(late, 0.5).as_millis(), 5000);
        assert_eq!(backoff.next(late, 0.0).as_millis(), 4000);
        assert_eq!(backoff.next(late, 1.0).as_millis(), 6000);
        backoff.reset();
        assert_eq!(backoff.next(late, 0.5).as_millis(), 100);
    }
}
