//! Which addresses of one host are tried when (RFC 8305): one after the other, a quarter of a second apart, without giving
//! up those before, and the first that answers wins. Pure: what is tried is of any type, and time is passed in.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Wait before the next address is tried beside those that have not answered yet (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Time for one address to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Attempts under way at the same time.
const MAX_RUNNING: usize = 4;

#[derive(Debug)]
struct Runner<T> {
    target: SocketAddr,
    until: Instant,
    attempt: T,
}

/// The attempts under way, and the addresses that come after them.
#[derive(Debug)]
pub struct Race<T> {
    /// Those that had their turn and those that wait for it.
    entered: Vec<SocketAddr>,
    waiting: VecDeque<SocketAddr>,
    running: Vec<Runner<T>>,
    next_at: Instant,
}

impl<T> Race<T> {
    /// Nothing is tried yet; the first of the addresses is due at once.
    pub fn new(targets: Vec<SocketAddr>, now: Instant) -> Self {
        Self { waiting: targets.iter().copied().collect(), entered: targets, running: Vec::new(), next_at: now }
    }

    /// Takes an address that is to be tried now, if there is one. [`start`](Self::start) or nothing follows, and then the
    /// same question again.
    #[must_use]
    pub fn next_target(&mut self, now: Instant) -> Option<SocketAddr> {
        if self.next_at > now || self.running.len() >= MAX_RUNNING { None } else { self.waiting.pop_front() }
    }

    /// An attempt at this address is under way.
    pub fn start(&mut self, target: SocketAddr, attempt: T, now: Instant) {
        self.running.push(Runner { target, until: now + PATIENCE, attempt });
        self.next_at = now + STAGGER;
    }

    /// The address that has been tried for the longest time.
    pub fn first(&self) -> Option<SocketAddr> {
        self.running.first().map(|runner| runner.target)
    }

    /// The attempt that `is_wanted`, with its address.
    pub fn find(&self, is_wanted: impl Fn(&T) -> bool) -> Option<(SocketAddr, &T)> {
        let runner = self.running.iter().find(|runner| is_wanted(&runner.attempt))?;
        Some((runner.target, &runner.attempt))
    }

    /// Takes out the attempt that `is_wanted`: it has failed or won. The next address is due at once.
    pub fn take(&mut self, is_wanted: impl Fn(&T) -> bool, now: Instant) -> Option<T> {
        let index = self.running.iter().position(|runner| is_wanted(&runner.attempt))?;
        self.next_at = now;
        Some(self.running.remove(index).attempt)
    }

    /// Takes out an attempt whose time is over; its address is returned.
    pub fn take_late(&mut self, now: Instant) -> Option<SocketAddr> {
        let index = self.running.iter().position(|runner| runner.until <= now)?;
        self.next_at = self.next_at.min(now);
        Some(self.running.remove(index).target)
    }

    /// Addresses that have become known; each has one turn.
    pub fn add(&mut self, targets: &[SocketAddr]) {
        for target in targets {
            if !self.entered.contains(target) {
                self.entered.push(*target);
                self.waiting.push_back(*target);
            }
        }
    }

    /// True if nothing is under way and no address is left.
    pub fn is_over(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// When [`take_late`](Self::take_late) or [`next_target`](Self::next_target) has something next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next = (!self.waiting.is_empty() && self.running.len() < MAX_RUNNING).then_some(self.next_at);
        self.running.iter().map(|runner| runner.until).chain(next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number))
    }

    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn race(count: u16) -> (Race<u16>, Instant) {
        let now = Instant::now();
        (Race::new((0..count).map(address).collect(), now), now)
    }

    /// Starts what is due; the numbers of the addresses.
    fn advance(race: &mut Race<u16>, now: Instant) -> Vec<u16> {
        let mut started = Vec::new();
        while let Some(target) = race.next_target(now) {
            race.start(target, target.port(), now);
            started.push(target.port());
        }
        started
    }

    #[test]
    fn the_next_address_is_tried_a_quarter_of_a_second_later_beside_those_before() {
        let (mut race, start) = race(3);
        assert_eq!(advance(&mut race, start), [0]);
        assert_eq!(race.poll_timeout(), Some(start + STAGGER));
        assert_eq!(advance(&mut race, start + STAGGER - MS), [] as [u16; 0]);
        assert_eq!(advance(&mut race, start + STAGGER), [1]);
        assert_eq!(advance(&mut race, start + 2 * STAGGER), [2]);
        assert_eq!(race.poll_timeout(), Some(start + PATIENCE));
        assert_eq!(race.find(|number| *number == 0), Some((address(0), &0)), "the first may win still");
    }

    #[test]
    fn a_refusal_makes_the_next_one_due_at_once() {
        let (mut race, start) = race(3);
        advance(&mut race, start);
        assert_eq!(race.take(|number| *number == 0, start + MS), Some(0));
        assert_eq!(race.poll_timeout(), Some(start + MS));
        assert_eq!(advance(&mut race, start + MS), [1]);
        assert_eq!(race.take(|number| *number == 7, start + MS), None);
        assert_eq!(advance(&mut race, start + 2 * MS), [] as [u16; 0]);
    }

    #[test]
    fn four_are_under_way_at_most_and_each_has_two_seconds() {
        let (mut race, start) = race(6);
        let started: Vec<u16> = (0..6).flat_map(|step| advance(&mut race, start + step * STAGGER)).collect();
        assert_eq!(started, [0, 1, 2, 3]);
        assert_eq!(race.poll_timeout(), Some(start + PATIENCE));
        assert_eq!(race.take_late(start + PATIENCE - MS), None);
        assert_eq!(race.take_late(start + PATIENCE), Some(address(0)));
        assert_eq!(advance(&mut race, start + PATIENCE), [4]);
        let end = start + 2 * PATIENCE;
        let mut late = Vec::new();
        while let Some(target) = race.take_late(end) {
            late.push(target.port());
            assert!(!race.is_over());
            advance(&mut race, end);
        }
        assert_eq!(late, [1, 2, 3, 4]);
        assert_eq!(race.take_late(end + PATIENCE), Some(address(5)));
        assert!(race.is_over());
        assert_eq!(race.poll_timeout(), None);
    }

    #[test]
    fn an_answer_of_the_resolver_adds_what_was_not_tried() {
        let (mut race, start) = race(2);
        advance(&mut race, start);
        race.add(&[address(0), address(1), address(2)]);
        race.add(&[address(2)]);
        assert_eq!(advance(&mut race, start + STAGGER), [1]);
        assert_eq!(advance(&mut race, start + 2 * STAGGER), [2]);
        assert_eq!(advance(&mut race, start + 3 * STAGGER), [] as [u16; 0]);
    }
}
