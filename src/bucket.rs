//! How often something may happen: a token bucket. Pure: the time is handed in.

use std::time::Instant;

/// A token bucket that holds one second's worth.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: u32,
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    /// A full one that gets `rate` tokens a second.
    pub fn new(rate: u32, now: Instant) -> Self {
        Self { rate, tokens: f64::from(rate), filled_at: now }
    }

    /// Takes a token; false if there is none.
    #[must_use]
    pub fn take(&mut self, now: Instant) -> bool {
        self.take_many(1, now)
    }

    /// Takes this many tokens if there is one at least; what is missing is owed.
    #[must_use]
    pub fn take_many(&mut self, count: u16, now: Instant) -> bool {
        let rate = f64::from(self.rate);
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(rate);
        self.filled_at = now;
        let full = self.tokens >= 1.0;
        if full {
            self.tokens -= f64::from(count);
        }
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn a_second_gives_as_many_tokens_as_the_rate_says_and_no_more_are_kept() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, start);
        let mut taken = |now| std::iter::repeat_with(|| bucket.take(now)).take_while(|full| *full).count();
        assert_eq!(taken(start), 10);
        assert_eq!(taken(start + Duration::from_millis(99)), 0);
        assert_eq!(taken(start + Duration::from_millis(101)), 1);
        assert_eq!(taken(start + Duration::from_secs(3600)), 10);
        assert_eq!(taken(start), 0, "time does not go back");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn several_tokens_are_taken_at_once_and_owed() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, start);
        assert!(bucket.take_many(25, start));
        assert!(!bucket.take(start + Duration::from_millis(1500)), "what was owed is paid, and nothing is there yet");
        assert!(bucket.take(start + Duration::from_millis(1601)));
    }
}
