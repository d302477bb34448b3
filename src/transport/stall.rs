//! Whether anything moves on a connection on which something is under way, for kernels that repeat what was lost ever more
//! rarely: there the path may be whole again long before the connection is. Pure.

use std::time::{Duration, Instant};

/// Time between two looks at a connection with something under way.
const INTERVAL: Duration = Duration::from_millis(500);

/// Standstill after which another connection is tried.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module's text.
#[derive(Debug)]
pub struct Stall {
    moved: u64,
    moved_at: Instant,
    check_at: Option<Instant>,
}

impl Stall {
    /// Nothing is under way.
    pub fn new(now: Instant) -> Self {
        Self { moved: 0, moved_at: now, check_at: None }
    }

    /// Something was written.
    pub fn handle_sent(&mut self, now: Instant) {
        if self.check_at.is_none() {
            self.moved_at = now;
            self.check_at = Some(now + INTERVAL);
        }
    }

    /// When [`check`](Self::check) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.check_at
    }

    /// Takes how many bytes have been received and acknowledged so far, and whether some are under way; true if they
    /// have not moved for too long.
    pub fn check(&mut self, moved: u64, is_under_way: bool, now: Instant) -> bool {
        if moved != self.moved || !is_under_way {
            (self.moved, self.moved_at) = (moved, now);
        }
        self.check_at = is_under_way.then_some(now + INTERVAL);
        now.saturating_duration_since(self.moved_at) >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn only_a_second_without_any_progress_is_a_standstill() {
        let start = Instant::now();
        let mut stall = Stall::new(start);
        assert_eq!(stall.poll_timeout(), None, "an idle connection is not looked at");
        let begun = start + 60 * PATIENCE;
        stall.handle_sent(begun);
        stall.handle_sent(begun + INTERVAL / 2);
        assert_eq!(stall.poll_timeout(), Some(begun + INTERVAL));
        for step in 1..10 {
            assert!(!stall.check(step.into(), true, begun + step * INTERVAL), "bytes move");
        }
        let stopped = begun + 9 * INTERVAL;
        assert_eq!(stall.poll_timeout(), Some(stopped + INTERVAL));
        assert!(!stall.check(9, true, stopped + INTERVAL));
        assert!(stall.check(9, true, stopped + 2 * INTERVAL));
        assert!(stall.check(9, true, stopped + 3 * INTERVAL), "and it stays one");
        assert!(!stall.check(10, true, stopped + 4 * INTERVAL), "until something moves");
        assert!(!stall.check(10, false, stopped + 40 * INTERVAL), "nothing is under way");
        assert_eq!(stall.poll_timeout(), None);
    }
}
