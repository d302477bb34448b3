//! What arrives of a load: how much, how fast, in which order, and when to say so.

use std::time::{Duration, Instant};

use super::wire::Count;

/// Messages, and time after the first of them, after which the sender of a datagram link is told.
const REPORT_MESSAGES: u32 = 16;
const REPORT_AFTER: Duration = Duration::from_millis(5);

/// The same on a reliable path, where nothing depends on it.
const REPORT_AFTER_RELIABLE: Duration = Duration::from_millis(100);

/// See the module's text.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    reliable: bool,
    /// The first part of the time is for finding out how fast it goes, and does not count for the rate.
    settling: Duration,
    count: Count,
    first: Option<Arrival>,
    settled: Option<Arrival>,
    last_at: Option<Instant>,
    unreported: u32,
    report_at: Option<Instant>,
}

/// A moment, and the bytes that had come by then.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    at: Instant,
    bytes: u64,
}

impl Tally {
    /// Nothing has come of a load that takes this long.
    pub fn new(time: Duration, reliable: bool) -> Self {
        let none = Count::default();
        Self {
            reliable,
            settling: time / 2,
            count: none,
            first: None,
            settled: None,
            last_at: None,
            unreported: 0,
            report_at: None,
        }
    }

    /// A message of `len` bytes has come.
    pub fn add(&mut self, sequence: u32, len: usize, now: Instant) {
        let count = &mut self.count;
        count.received = count.received.saturating_add(1);
        count.bytes += len as u64;
        if sequence < count.next {
            count.swapped = count.swapped.saturating_add(1);
        }
        count.next = count.next.max(sequence.saturating_add(1));
        let here = Arrival { at: now, bytes: count.bytes };
        let first = *self.first.get_or_insert(here);
        if now.saturating_duration_since(first.at) >= self.settling {
            self.settled.get_or_insert(here);
        }
        self.last_at = Some(now);
        self.unreported += 1;
        let after = if self.reliable { REPORT_AFTER_RELIABLE } else { REPORT_AFTER };
        let report_at = self.report_at.get_or_insert(now + after);
        if !self.reliable && self.unreported >= REPORT_MESSAGES {
            *report_at = now;
        }
    }

    /// When the sender is to be told.
    pub fn deadline(&self) -> Option<Instant> {
        self.report_at
    }

    /// What to tell the sender, if that is due.
    pub fn report(&mut self, now: Instant) -> Option<Count> {
        self.report_at.take_if(|at| *at <= now)?;
        self.unreported = 0;
        Some(self.count())
    }

    /// What has come so far.
    pub fn count(&self) -> Count {
        Count { rate: self.rate().unwrap_or_default(), ..self.count }
    }

    /// Bits a second, once it has settled; of all, if it has not.
    fn rate(&self) -> Option<u64> {
        let since = |start: &Option<Arrival>, least: Duration| {
            let (start, last_at) = (start.as_ref()?, self.last_at?);
            let time = last_at.saturating_duration_since(start.at);
            let bits = (self.count.bytes - start.bytes) as f64 * 8.0;
            (time > least).then(|| (bits / time.as_secs_f64()) as u64)
        };
        since(&self.settled, self.settling / 4).or_else(|| since(&self.first, Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn the_rate_is_that_of_the_second_half_and_order_and_loss_are_seen() {
        let start = Instant::now();
        let mut tally = Tally::new(1000 * MS, false);
        assert_eq!((tally.count(), tally.deadline()), (Count::default(), None));
        // 1000 bytes each 10 ms, then each 1 ms; every tenth is missing and two are swapped.
        let mut number = 0;
        let mut add = |tally: &mut Tally, at| {
            number += 1;
            if number % 10 == 0 {
                number += 1;
            }
            tally.add(
                if number == 2 {
                    3
                } else if number == 3 {
                    2
                } else {
                    number
                },
                1000,
                at,
            );
        };
        (0..50).for_each(|step| add(&mut tally, start + step * 10 * MS));
        assert_eq!(tally.count().rate, 49 * 8000 * 1000 / 490, "what there is, until it has settled");
        (500..1000).for_each(|step| add(&mut tally, start + step * MS));
        let count = tally.count();
        assert!((7_990_000..=8_010_000).contains(&count.rate), "{count:?}");
        assert_eq!((count.received, count.swapped, count.bytes), (550, 1, 550_000));
        assert!((605..=615).contains(&count.next), "{count:?}");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn the_sender_is_told_after_some_messages_or_a_while() {
        let start = Instant::now();
        let mut tally = Tally::new(1000 * MS, false);
        tally.add(0, 100, start);
        assert_eq!((tally.deadline(), tally.report(start)), (Some(start + REPORT_AFTER), None));
        assert_eq!(tally.report(start + REPORT_AFTER).map(|count| count.received), Some(1));
        assert_eq!(tally.deadline(), None, "told once");
        (1..=REPORT_MESSAGES).for_each(|sequence| tally.add(sequence, 100, start + 9 * MS));
        assert_eq!(tally.deadline(), Some(start + 9 * MS));
        let mut reliable = Tally::new(1000 * MS, true);
        (0..1000).for_each(|sequence| reliable.add(sequence, 100, start));
        assert_eq!(reliable.deadline(), Some(start + REPORT_AFTER_RELIABLE));
        let mut greatest = Tally::new(1000 * MS, false);
        greatest.add(u32::MAX, 1, start);
        assert_eq!(greatest.count().next, u32::MAX, "whatever the peer says");
    }
}
