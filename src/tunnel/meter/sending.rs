//! The sender of a load: how much may be under way, and how fast it goes. A datagram path has nothing of its own that would
//! keep a sender from overrunning it, so the receiver's reports do.
//!
//! It works in rounds, each as long as a round trip at least, and 20 ms, in which a dozen messages come. At first what may be under
//! way doubles with each round, spread over the round trip, until two rounds have brought no more than a quarter above the
//! best one before. From then on the rate is a twentieth above the best of the last 16 rounds (up to three, if some get
//! lost), and what is under way is limited to two round trips of that. On a reliable path the transport does all of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::wire::{Count, MIN_LOAD_LEN};

/// Messages under way at first, and at least.
const FIRST_WINDOW: f64 = 16.0;
const MIN_WINDOW: f64 = 4.0;
/// At most: 64 MB of full-sized messages.
const MAX_WINDOW: f64 = 45_000.0;

/// A round is shorter only if this much has come in it.
const MIN_ARRIVALS: u32 = 12;
const MIN_ROUND: Duration = Duration::from_millis(20);
const MAX_ROUND: Duration = Duration::from_millis(400);
const ROUNDS_REMEMBERED: usize = 16;
/// A round that brings more than the best before by this factor shows that there is room still.
const GROWTH: f64 = 1.25;
const PATIENT_ROUNDS: u32 = 2;

/// Where there is a rate, as many bits may leave at once as it gives in this time.
const BURST: Duration = Duration::from_millis(4);

/// Without a report what is under way is given up after this time, or three round trips if that is longer.
const MIN_PATIENCE: Duration = Duration::from_millis(200);
/// The same while the round trip is not known.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// And the load after this.
const REPORTS_END: Duration = Duration::from_secs(2);

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Sending {
    reliable: bool,
    /// The greatest rate that is wanted, in bits a second.
    limit: Option<f64>,
    until: Instant,
    bytes_left: u64,
    /// Messages sent, and by the reports of the receiver: how many arrived, and the number behind the last of them.
    sent: u32,
    arrived: u32,
    passed: u32,
    reported_at: Instant,
    /// When a report came, or what was under way was given up.
    waiting_since: Instant,
    window: f64,
    round: Round,
    /// Messages a second in each of the last rounds.
    rates: VecDeque<f64>,
    best: f64,
    poor_rounds: u32,
    settled: bool,
    loss: f64,
    /// A message whose report shows the round trip, and when it was sent.
    probe: Option<(u32, Instant)>,
    round_trip: Option<Duration>,
    bucket: Bucket,
    /// When there are bits enough for the next message, if there were not.
    paced_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    /// It ends when messages from this number on arrive.
    ends_with: u32,
    arrived: u32,
    passed: u32,
}

/// Bits that may leave, filled as time passes.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    bits: f64,
    filled_at: Instant,
}

impl Sending {
    /// Begins a load that takes this long, of so many bytes at most.
    pub fn new(time: Duration, bytes: u64, kbit: u32, reliable: bool, now: Instant) -> Self {
        Self {
            reliable,
            limit: (kbit > 0).then(|| f64::from(kbit) * 1000.0),
            until: now + time,
            bytes_left: bytes,
            sent: 0,
            arrived: 0,
            passed: 0,
            reported_at: now,
            waiting_since: now,
            window: FIRST_WINDOW,
            round: Round { began: now, ends_with: 0, arrived: 0, passed: 0 },
            rates: VecDeque::with_capacity(ROUNDS_REMEMBERED),
            best: 0.0,
            poor_rounds: 0,
            settled: false,
            loss: 0.0,
            probe: None,
            round_trip: None,
            bucket: Bucket { bits: 0.0, filled_at: now },
            paced_until: None,
        }
    }

    /// How many messages were sent.
    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// True once there is nothing more to send.
    pub fn has_ended(&self, now: Instant) -> bool {
        let is_deaf = !self.reliable && now >= self.reported_at + REPORTS_END;
        now >= self.until || self.bytes_left < MIN_LOAD_LEN as u64 || self.sent == u32::MAX || is_deaf
    }

    /// The number of the next message, if a message of this length may leave now.
    pub fn next(&mut self, len: usize, now: Instant) -> Option<u32> {
        if self.has_ended(now) || !self.has_window() || !self.may_pace(len, now) {
            return None;
        }
        let sequence = self.sent;
        self.sent += 1;
        self.bytes_left = self.bytes_left.saturating_sub(len as u64);
        self.bucket.bits -= len as f64 * 8.0;
        self.probe.get_or_insert((sequence, now));
        Some(sequence)
    }

    /// True if a message could leave, but for the rate.
    fn has_window(&self) -> bool {
        self.reliable || f64::from(self.sent.saturating_sub(self.passed)) < self.window
    }

    /// True if a message of this length may leave, now that time has passed.
    fn may_pace(&mut self, len: usize, now: Instant) -> bool {
        let Some(rate) = self.rate(len) else { return true };
        let passed = now.saturating_duration_since(self.bucket.filled_at).as_secs_f64();
        self.bucket.filled_at = now;
        self.bucket.bits = (self.bucket.bits + passed * rate).min(rate * BURST.as_secs_f64() + len as f64 * 8.0);
        let missing = len as f64 * 8.0 - self.bucket.bits;
        let wait = Duration::from_secs_f64((missing.max(0.0) / rate.max(1.0)).min(60.0));
        self.paced_until = (missing > 0.0).then_some(now + wait);
        missing <= 0.0
    }

    /// Bits a second that may leave, if that is limited.
    fn rate(&self, len: usize) -> Option<f64> {
        let messages = match self.round_trip.filter(|_| !self.reliable) {
            Some(_) if self.settled => Some((1.05 + self.loss.min(0.1)) * self.best.max(1.0)),
            // Spread over the round trip, so that a short queue on the way takes it.
            Some(round_trip) => Some(1.25 * self.window / round_trip.as_secs_f64().max(1e-3)),
            None => None,
        };
        let found = messages.map(|messages| messages * len as f64 * 8.0);
        self.limit.into_iter().chain(found).min_by(f64::total_cmp)
    }

    /// When there is something to do: to go on, to give up what is under way, or to end. Nothing but time leads there.
    pub fn deadline(&self) -> Instant {
        let lost = (!self.reliable && self.passed < self.sent).then(|| self.waiting_since + self.patience());
        let deaf = (!self.reliable).then(|| self.reported_at + REPORTS_END);
        [self.paced_until, lost, deaf].into_iter().flatten().fold(self.until, Instant::min)
    }

    fn patience(&self) -> Duration {
        self.round_trip.map_or(FIRST_PATIENCE, |round_trip| round_trip * 3).clamp(MIN_PATIENCE, REPORTS_END)
    }

    /// Lets time pass: what was sent long ago and not reported is lost, so that something else may be sent.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.paced_until.take_if(|at| *at <= now);
        if !self.reliable && now >= self.waiting_since + self.patience() && self.passed < self.sent {
            (self.passed, self.waiting_since) = (self.sent, now);
            self.window = (self.window / 2.0).max(MIN_WINDOW);
            self.probe = None;
            self.begin_round(now);
        }
    }

    /// Takes a report. What cannot be, because it was never sent, changes nothing.
    pub fn handle_report(&mut self, count: &Count, now: Instant) {
        if count.next > self.sent || count.received > count.next || count.received < self.arrived {
            return;
        }
        (self.reported_at, self.waiting_since) = (now, now);
        self.arrived = count.received;
        self.passed = self.passed.max(count.next);
        if let Some((_, sent_at)) = self.probe.take_if(|(sequence, _)| *sequence < count.next) {
            let sample = now.saturating_duration_since(sent_at);
            self.round_trip = Some(self.round_trip.map_or(sample, |least| least.min(sample)));
        }
        let (came, lasted) = (self.arrived - self.round.arrived, now.saturating_duration_since(self.round.began));
        let is_enough = (came >= MIN_ARRIVALS && lasted >= MIN_ROUND) || lasted >= MAX_ROUND;
        let is_over = self.passed > self.round.ends_with && is_enough;
        if !self.reliable && is_over {
            self.end_round(now);
        }
    }

    fn begin_round(&mut self, now: Instant) {
        self.round = Round { began: now, ends_with: self.sent, arrived: self.arrived, passed: self.passed };
    }

    fn end_round(&mut self, now: Instant) {
        let Round { began, arrived, passed, .. } = self.round;
        let came = f64::from(self.arrived.saturating_sub(arrived));
        let expected = f64::from(self.passed.saturating_sub(passed)).max(1.0);
        self.loss = (1.0 - came / expected).clamp(0.0, 1.0);
        let rate = came / now.saturating_duration_since(began).as_secs_f64().max(1e-3);
        let has_grown = rate > self.best * GROWTH;
        if self.rates.len() >= ROUNDS_REMEMBERED {
            self.rates.pop_front();
        }
        self.rates.push_back(rate);
        self.best = self.rates.iter().copied().fold(0.0, f64::max);
        if !self.settled {
            self.poor_rounds = if has_grown { 0 } else { self.poor_rounds + 1 };
            self.settled = self.poor_rounds >= PATIENT_ROUNDS;
            if has_grown {
                self.window = (self.window * 2.0).min(MAX_WINDOW);
            }
        }
        if self.settled {
            let round_trip = self.round_trip.unwrap_or(MIN_ROUND).as_secs_f64();
            self.window = (2.0 * self.best * round_trip).clamp(MIN_WINDOW, MAX_WINDOW);
        }
        self.begin_round(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::meter::tally::Tally;

    const MS: Duration = Duration::from_millis(1);
    const LEN: usize = 1400;

    /// A path of this rate, round trip and queue, which drops every so manieth message.
    struct Wire {
        bits: f64,
        trip: Duration,
        queue: Duration,
        drops: u32,
    }

    /// What becomes of a load: rate in bit/s, and the part that was lost.
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn run(wire: &Wire, kbit: u32) -> (f64, f64) {
        let (start, time) = (Instant::now(), 2000 * MS);
        let (mut sending, mut tally) = (Sending::new(time, 1 << 32, kbit, false, start), Tally::new(time, false));
        let (mut arrivals, mut reports) = (VecDeque::<(Instant, u32)>::new(), VecDeque::<(Instant, Count)>::new());
        let (mut free_at, step) = (start, Duration::from_micros(200));
        let mut now = start;
        while now < start + time + 1000 * MS {
            while let Some((_, sequence)) = arrivals.pop_front_if(|(at, _)| *at <= now) {
                tally.add(sequence, LEN, now);
            }
            reports.extend(tally.report(now).map(|count| (now + wire.trip / 2, count)));
            while let Some((_, count)) = reports.pop_front_if(|(at, _)| *at <= now) {
                sending.handle_report(&count, now);
            }
            sending.handle_timeout(now);
            while let Some(sequence) = sending.next(LEN, now) {
                let leaves = free_at.max(now) + Duration::from_secs_f64(LEN as f64 * 8.0 / wire.bits);
                let is_dropped = wire.drops > 0 && sequence % wire.drops == 1;
                if leaves <= now + wire.queue && !is_dropped {
                    free_at = leaves;
                    arrivals.push_back((leaves + wire.trip / 2, sequence));
                }
            }
            now += step;
        }
        let count = tally.count();
        (count.rate as f64, 1.0 - f64::from(count.received) / f64::from(sending.sent()))
    }

    #[test]
    fn the_rate_of_a_path_is_found_without_overrunning_it() {
        for (bits, trip) in [(2e6, 100 * MS), (20e6, 40 * MS), (20e6, MS), (200e6, 10 * MS), (200e6, 80 * MS)] {
            let (rate, loss) = run(&Wire { bits, trip, queue: 100 * MS, drops: 0 }, 0);
            assert!((0.8 * bits..1.02 * bits).contains(&rate), "{rate} of {bits} at {trip:?}");
            assert!(loss < 0.25, "{loss} of {bits} at {trip:?}");
        }
    }

    #[test]
    fn a_shallow_queue_and_a_path_that_loses_some_are_used_all_the_same() {
        let (rate, loss) = run(&Wire { bits: 20e6, trip: 40 * MS, queue: 5 * MS, drops: 0 }, 0);
        assert!(rate > 12e6 && loss < 0.3, "{rate} {loss}");
        let (rate, loss) = run(&Wire { bits: 20e6, trip: 40 * MS, queue: 100 * MS, drops: 10 }, 0);
        assert!(rate > 10e6 && (0.08..0.3).contains(&loss), "{rate} {loss}");
    }

    #[test]
    fn a_rate_that_was_asked_for_is_not_exceeded() {
        let (rate, loss) = run(&Wire { bits: 20e6, trip: 40 * MS, queue: 100 * MS, drops: 0 }, 5000);
        assert!((4.5e6..5.1e6).contains(&rate) && loss == 0.0, "{rate} {loss}");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn reports_that_cannot_be_change_nothing_and_silence_ends_it() {
        let start = Instant::now();
        let mut sending = Sending::new(10_000 * MS, 1 << 32, 0, false, start);
        while sending.next(LEN, start).is_some() {}
        assert_eq!(f64::from(sending.sent()), FIRST_WINDOW);
        for wrong in [(u32::MAX, u32::MAX), (17, 17), (9, 8)] {
            sending.handle_report(&Count { received: wrong.0, next: wrong.1, ..Count::default() }, start);
            assert_eq!(sending.next(LEN, start), None, "{wrong:?}");
        }
        let later = start + FIRST_PATIENCE;
        sending.handle_timeout(later);
        assert!(sending.next(LEN, later).is_some(), "what was sent is given up");
        assert!(!sending.has_ended(later) && sending.has_ended(start + REPORTS_END));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn a_load_has_an_end_in_time_and_bytes() {
        let start = Instant::now();
        let mut sending = Sending::new(1000 * MS, 10 * LEN as u64, 0, true, start);
        assert_eq!(std::iter::from_fn(|| sending.next(LEN, start)).count(), 10);
        let mut sending = Sending::new(1000 * MS, 1 << 32, 0, true, start);
        assert!(sending.next(LEN, start).is_some() && sending.next(LEN, start + 1000 * MS).is_none());
    }
}
