//! How much of a TCP connection may wait unsent in its socket: about what the network takes in a millisecond, so that the
//! queue of a slow network is in the scheduler and a fast one is not woken for every few packets. Pure.

use std::time::{Duration, Instant};

/// What the network has to take while the loop is elsewhere.
const AHEAD: Duration = Duration::from_millis(1);

/// Bytes that may wait in any case, at most, and before anything is known.
const LEAST: u32 = 16 * 1024;
const MOST: u32 = 256 * 1024;
pub const AT_FIRST: u32 = 64 * 1024;

/// The rate is taken over this time at least; over more than `STALE` the connection was not always full, and the rate was
/// not the network's.
const WINDOW: Duration = Duration::from_millis(20);
const STALE: Duration = Duration::from_millis(200);

/// The rate at which the network takes a connection's bytes, and what follows from it.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    written_then: u64,
    /// Bytes a second, smoothed.
    rate: Option<f64>,
    limit: u32,
}

impl Pace {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self { since: now, written_then: 0, rate: None, limit: AT_FIRST }
    }

    /// The socket is full, after `written` bytes in all. Returns the limit in bytes if it is to be another one now.
    #[must_use]
    pub fn is_full(&mut self, written: u64, now: Instant) -> Option<u32> {
        let passed = now.saturating_duration_since(self.since);
        if passed < WINDOW {
            return None;
        }
        let taken = written.saturating_sub(self.written_then);
        (self.since, self.written_then) = (now, written);
        if passed > STALE {
            return None;
        }
        let rate = taken as f64 / passed.as_secs_f64();
        let rate = self.rate.map_or(rate, |smoothed| smoothed + (rate - smoothed) / 4.0);
        self.rate = Some(rate);
        let wanted = (rate * AHEAD.as_secs_f64()).clamp(LEAST.into(), MOST.into()) as u32;
        let is_near = wanted.abs_diff(self.limit) <= self.limit / 4;
        (!is_near).then(|| {
            self.limit = wanted;
            wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit after a second in which the socket was full every `step` at this rate.
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn settled(bytes_a_second: u64, step: Duration) -> (u32, usize) {
        let start = Instant::now();
        let (mut pace, mut limit, mut changes) = (Pace::new(start), AT_FIRST, 0);
        for index in 1..=(1_000 / step.as_millis() as u32) {
            let written = bytes_a_second * u64::from(index) * step.as_millis() as u64 / 1000;
            if let Some(new) = pace.is_full(written, start + index * step) {
                (limit, changes) = (new, changes + 1);
            }
        }
        (limit, changes)
    }

    #[test]
    fn a_millisecond_of_the_network_may_wait_within_limits() {
        let step = Duration::from_millis(5);
        assert_eq!(settled(1_000_000, step), (LEAST, 1));
        assert_eq!(settled(25_000_000, step).0, 25_000);
        assert_eq!(settled(64_000_000, step), (AT_FIRST, 0), "near enough");
        assert_eq!(settled(1_250_000_000, step), (MOST, 1));
    }

    #[test]
    fn a_connection_that_is_not_always_full_says_nothing_about_the_network() {
        assert_eq!(settled(1_000_000, Duration::from_millis(250)), (AT_FIRST, 0));
    }
}
