//! The round trip: pings at an even pace, and what their answers say.

use std::time::{Duration, Instant};

/// How many pings, how far apart, and the length of their plaintext in bytes.
const PINGS: usize = 20;
const INTERVAL: Duration = Duration::from_millis(50);
pub const PING_LEN: usize = 64;

/// The last answers are awaited for this time, or for three of the longest round trips if that is longer.
const MIN_PATIENCE: Duration = Duration::from_secs(1);
const MAX_PATIENCE: Duration = Duration::from_secs(5);

/// What was found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTrip {
    /// Pings sent.
    pub sent: u32,
    /// Pings answered.
    pub answered: u32,
    /// The shortest round trip.
    pub least: Duration,
    /// The mean.
    pub mean: Duration,
    /// Half of them took no longer.
    pub median: Duration,
    /// 95 of a hundred took no longer.
    pub p95: Duration,
    /// The longest.
    pub most: Duration,
    /// The mean difference of one to the next (RFC 3550, section 6.4.1, without smoothing).
    pub jitter: Duration,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Echo {
    first_token: u64,
    /// Of each ping when it was sent, and the round trip once it was answered.
    pings: Vec<(Instant, Option<Duration>)>,
    next_at: Instant,
}

impl Echo {
    /// Begins; the tokens of the pings are this one and those behind it.
    pub fn new(first_token: u64, now: Instant) -> Self {
        Self { first_token, pings: Vec::with_capacity(PINGS), next_at: now }
    }

    /// The token of the next ping, if it is due.
    pub fn poll(&mut self, now: Instant) -> Option<u64> {
        if self.pings.len() >= PINGS || now < self.next_at {
            return None;
        }
        let token = self.first_token.wrapping_add(self.pings.len() as u64);
        self.pings.push((now, None));
        self.next_at = now + INTERVAL;
        Some(token)
    }

    /// Takes an answer; false if it is to no ping of this one.
    pub fn handle_pong(&mut self, token: u64, now: Instant) -> bool {
        let index = usize::try_from(token.wrapping_sub(self.first_token)).unwrap_or(usize::MAX);
        let Some((sent_at, round_trip)) = self.pings.get_mut(index) else { return false };
        round_trip.get_or_insert(now.saturating_duration_since(*sent_at));
        true
    }

    /// When there is a ping to send, or an end.
    pub fn deadline(&self) -> Instant {
        if self.pings.len() < PINGS { self.next_at } else { self.ends_at() }
    }

    /// What was found out, once all answers are there or can no longer be expected.
    pub fn result(&self, now: Instant) -> Option<RoundTrip> {
        let is_whole = self.pings.len() >= PINGS && self.pings.iter().all(|(_, answer)| answer.is_some());
        (is_whole || (self.pings.len() >= PINGS && now >= self.ends_at())).then(|| self.summary())
    }

    fn ends_at(&self) -> Instant {
        let longest = self.pings.iter().filter_map(|(_, answer)| *answer).max().unwrap_or_default();
        let last = self.pings.last().map_or(self.next_at, |(sent_at, _)| *sent_at);
        last + (longest * 3).clamp(MIN_PATIENCE, MAX_PATIENCE)
    }

    fn summary(&self) -> RoundTrip {
        let mut trips: Vec<Duration> = self.pings.iter().filter_map(|(_, answer)| *answer).collect();
        let count = trips.len() as u32;
        if count == 0 {
            return RoundTrip { sent: self.pings.len() as u32, ..RoundTrip::default() };
        }
        let differences: Duration = trips.windows(2).map(|pair| pair[0].abs_diff(pair[1])).sum();
        let mean = trips.iter().sum::<Duration>() / count;
        trips.sort_unstable();
        // The smallest value that this part of them does not exceed.
        let quantile = |percent: usize| trips[(trips.len() * percent).div_ceil(100).max(1) - 1];
        RoundTrip {
            sent: self.pings.len() as u32,
            answered: count,
            least: quantile(0),
            mean,
            median: quantile(50),
            p95: quantile(95),
            most: quantile(100),
            jitter: differences / count.saturating_sub(1).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn round_trips_are_summed_up_and_missing_answers_awaited_for_a_while() {
        let start = Instant::now();
        let mut echo = Echo::new(u64::MAX - 3, start);
        let mut tokens = Vec::new();
        while echo.pings.len() < PINGS {
            let at = echo.deadline();
            tokens.extend(echo.poll(at).map(|token| (token, at)));
            assert_eq!(echo.poll(at), None, "one at a time");
        }
        assert!(!echo.handle_pong(tokens[0].0.wrapping_sub(1), start), "of another one");
        assert!(!echo.handle_pong(tokens[0].0.wrapping_add(20), start));
        // 10 and 30 ms in turn, the last one is lost, one comes twice.
        for (index, (token, at)) in tokens.iter().take(19).enumerate() {
            assert!(echo.handle_pong(*token, *at + if index % 2 == 0 { 10 * MS } else { 30 * MS }));
        }
        assert!(echo.handle_pong(tokens[0].0, start + 900 * MS));
        let last = tokens[19].1;
        assert_eq!((echo.result(last), echo.deadline()), (None, last + MIN_PATIENCE));
        let expected = RoundTrip {
            sent: 20,
            answered: 19,
            least: 10 * MS,
            mean: (10 * 10 + 9 * 30) * MS / 19,
            median: 10 * MS,
            p95: 30 * MS,
            most: 30 * MS,
            jitter: 20 * MS,
        };
        assert_eq!(echo.result(last + MIN_PATIENCE), Some(expected));
        assert!(echo.handle_pong(tokens[19].0, last + 5 * MS));
        assert!(echo.result(last + 5 * MS).is_some_and(|result| result.least == 5 * MS), "all are there");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn without_an_answer_there_is_a_result_too() {
        let start = Instant::now();
        let mut echo = Echo::new(7, start);
        while echo.result(echo.deadline()).is_none() {
            let _ = echo.poll(echo.deadline());
        }
        let result = echo.result(echo.deadline());
        assert_eq!(result, Some(RoundTrip { sent: 20, ..RoundTrip::default() }));
    }
}
