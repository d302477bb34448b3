//! How long a message may be on a datagram path: Datagram Packetization Layer Path MTU Discovery (RFC 8899) with padded
//! pings as probes. Nothing that an attacker can forge is believed, ICMP above all.
//!
//! Pure: times and acknowledgements come in, the sizes of probes and a limit go out. It begins with what the local
//! interface takes and confirms that at once, and again every few seconds while long messages are sent. When a size is
//! lost and shorter ones get through, the limit drops to the longest that did, and the rest is searched for. Data never
//! waits for a probe. While no long messages are sent there is no deadline.
//!
//! Sizes are those of messages, the payload of UDP, in bytes; path MTUs count the headers of IP and UDP too.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Path MTUs that are met in practice, for the first guess: the least of IPv4 hosts and of IPv6 paths, tunnels, PPPoE,
/// Ethernet, FDDI, jumbo frames.
const PLATEAUS: [usize; 11] = [576, 1280, 1358, 1400, 1420, 1440, 1460, 1480, 1492, 1500, 4352];

/// The least that every path carries: RFC 8200, section 5, and what every IPv4 host takes (RFC 791).
const MIN_PATH_MTU_V6: usize = 1280;
const MIN_PATH_MTU_V4: usize = 576;

/// Headers of UDP and of IP without options.
const HEADERS_LEN_V4: usize = 20 + 8;
const HEADERS_LEN_V6: usize = 40 + 8;

/// Times that a size is tried before it counts as too long (MAX_PROBES).
const MAX_PROBES: u8 = 3;

/// The search ends when it is this exact.
const RESOLUTION: usize = 8;

/// Probes between two sizes when no plateau lies between them.
const STEPS: usize = 4;

/// Time between two confirmations while long messages are sent (CONFIRMATION_TIMER).
const CONFIRMATION_INTERVAL: Duration = Duration::from_secs(5);

/// The same when there is doubt.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);

/// Time until a longer size is tried again (PMTU_RAISE_TIMER): short at first, because loss may have deceived.
const FIRST_RAISE_INTERVAL: Duration = Duration::from_secs(30);
const RAISE_INTERVAL: Duration = Duration::from_secs(600);

/// Probes whose answer is accepted: those of three rounds.
const MAX_OUTSTANDING: usize = 40;

/// The address family below UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    fn headers_len(self) -> usize {
        match self {
            Self::V4 => HEADERS_LEN_V4,
            Self::V6 => HEADERS_LEN_V6,
        }
    }

    /// The longest message that every path carries.
    fn base(self) -> usize {
        match self {
            Self::V4 => MIN_PATH_MTU_V4 - HEADERS_LEN_V4,
            Self::V6 => MIN_PATH_MTU_V6 - HEADERS_LEN_V6,
        }
    }
}

/// How a limit is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The local interface takes no more.
    Interface,
    /// This got through, and longer ones did not, or there is no use for them.
    Probed,
}

/// A limit that has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path MTU, with the headers of IP and UDP.
    pub path_mtu: usize,
    /// The longest message.
    pub message: usize,
    /// How that is known.
    pub source: Source,
}

/// A search for the longest size that gets through.
#[derive(Debug)]
struct Search {
    /// The longest that did; 0 while nothing did.
    low: usize,
    /// The shortest that did not, or one more than what is of interest.
    high: usize,
    /// What is being tried, in ascending order.
    sizes: Vec<usize>,
    tries: u8,
    /// The size that was to be confirmed. Once it gets through there is nothing to search for.
    questioned: Option<usize>,
    round_ends_at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    token: u64,
    size: usize,
    sent_at: Instant,
}

/// See the module's text.
#[derive(Debug)]
pub struct PathMtu {
    family: Family,
    /// What the local interface takes.
    ceiling: usize,
    /// The longest message that there is a use for (MAX_PLPMTU).
    wanted: usize,
    /// The longest message that is let through (PLPMTU).
    limit: usize,
    /// A longer one than `limit` was lost.
    is_limited: bool,
    search: Option<Search>,
    outstanding: VecDeque<Outstanding>,
    /// Sizes that are to be sent now.
    due: VecDeque<usize>,
    /// Long messages were sent since the last confirmation.
    in_use: bool,
    /// When the limit is confirmed next, if it is in use, and how soon that may be if there is doubt.
    confirm_at: Instant,
    doubt_at: Instant,
    raise_at: Instant,
    raise_interval: Duration,
    reported: Option<usize>,
    change: Option<Change>,
}

impl PathMtu {
    /// Begins on a path whose interface takes messages of `ceiling` bytes; `wanted` is the longest that is expected.
    pub fn new(family: Family, ceiling: usize, wanted: usize, now: Instant) -> Self {
        let mut path_mtu = Self {
            family,
            ceiling,
            wanted,
            limit: ceiling,
            is_limited: false,
            search: None,
            outstanding: VecDeque::with_capacity(MAX_OUTSTANDING),
            due: VecDeque::new(),
            in_use: true,
            confirm_at: now,
            doubt_at: now,
            raise_at: now,
            raise_interval: FIRST_RAISE_INTERVAL,
            reported: None,
            change: None,
        };
        path_mtu.report();
        path_mtu
    }

    /// Takes another length of the longest message that is expected, and begins anew if it is.
    pub fn expect(&mut self, wanted: usize, now: Instant) {
        if std::mem::replace(&mut self.wanted, wanted) != wanted {
            self.begin_anew(now);
        }
    }

    /// The longest message that may be sent.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The peer or the network has changed: what was found is confirmed, and more is tried, at once.
    pub fn handle_move(&mut self, family: Family, ceiling: usize, now: Instant) {
        let path_mtu = self.limit + self.family.headers_len();
        self.family = family;
        self.ceiling = ceiling;
        self.limit = if self.is_limited { ceiling.min(path_mtu - family.headers_len()) } else { ceiling };
        self.is_limited &= self.limit < ceiling;
        self.outstanding.clear();
        self.raise_at = now;
        self.raise_interval = FIRST_RAISE_INTERVAL;
        self.begin_anew(now);
        self.report();
    }

    /// The way to the peer may be another one: what was found is confirmed, and more is tried, unless that is under way.
    pub fn network_changed(&mut self, now: Instant) {
        if self.search.is_none() {
            self.raise_at = now;
            self.begin_anew(now);
        }
    }

    /// What is under way is given up, and the limit confirmed at once: the peer was away.
    pub fn begin_anew(&mut self, now: Instant) {
        self.search = None;
        self.due.clear();
        self.in_use = true;
        (self.confirm_at, self.doubt_at) = (now, now);
    }

    /// There is a message of this length to send.
    pub fn asked(&mut self, len: usize, now: Instant) {
        if len <= self.family.base() {
            return;
        }
        self.in_use = true;
        if len > self.wanted && len <= self.limit {
            self.wanted = len;
            self.confirm_at = now;
        }
    }

    /// The peer is silent although something was sent: it may be that the long messages get lost.
    pub fn doubt(&mut self, now: Instant) {
        self.confirm_at = self.confirm_at.min(self.doubt_at.max(now));
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        if let Some(search) = &self.search {
            return Some(search.round_ends_at);
        }
        if !self.in_use {
            return None;
        }
        self.confirmation().into_iter().chain(self.raising()).min()
    }

    fn confirmation(&self) -> Option<Instant> {
        (self.target() > self.family.base()).then_some(self.confirm_at)
    }

    fn raising(&self) -> Option<Instant> {
        (self.limit < self.useful()).then_some(self.raise_at)
    }

    /// Lets time pass. An answer is expected within `patience`.
    pub fn handle_timeout(&mut self, now: Instant, patience: Duration) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        match self.search.take() {
            Some(search) => self.end_round(search, now, patience),
            None if self.confirmation().is_some_and(|at| at <= now) => self.confirm(now, patience),
            None => self.raise(now, patience),
        }
    }

    /// The size of a probe that is to be sent, as a ping that makes a message of this length.
    pub fn poll_probe(&mut self) -> Option<usize> {
        self.due.pop_front()
    }

    /// A probe of this size was sent with this token.
    pub fn probed(&mut self, token: u64, size: usize, now: Instant) {
        if self.outstanding.len() >= MAX_OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(Outstanding { token, size, sent_at: now });
    }

    /// A pong has come, to a ping that was seen as a message of this size; the round trip, if it was one of ours.
    pub fn ponged(&mut self, token: u64, seen: usize, now: Instant, patience: Duration) -> Option<Duration> {
        let is_it = |probe: &Outstanding| probe.token == token && probe.size == seen;
        let place = self.outstanding.iter().position(is_it)?;
        let probe = self.outstanding.remove(place)?;
        self.acknowledge(probe.size, now, patience);
        Some(now.saturating_duration_since(probe.sent_at))
    }

    /// The path MTU in bytes as far as there is a use for it, and how it is known.
    pub fn known(&self) -> (usize, Source) {
        let is_interface = !self.is_limited && self.ceiling < self.wanted;
        let source = if is_interface { Source::Interface } else { Source::Probed };
        (self.limit.min(self.useful()) + self.family.headers_len(), source)
    }

    /// What has changed since the last call.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.change.take()
    }

    /// The longest message that there is a use for and that the interface takes.
    fn useful(&self) -> usize {
        self.wanted.min(self.ceiling)
    }

    /// What is to be confirmed.
    fn target(&self) -> usize {
        self.wanted.min(self.limit)
    }

    fn confirm(&mut self, now: Instant, patience: Duration) {
        let target = self.target();
        // Unused paths are left alone, but for what is due already.
        self.in_use = self.raising().is_some_and(|at| at <= now);
        self.begin_round(
            Search {
                low: 0,
                high: target + 1,
                sizes: vec![target],
                tries: 0,
                questioned: Some(target),
                round_ends_at: now,
            },
            now,
            patience,
        );
    }

    fn raise(&mut self, now: Instant, patience: Duration) {
        self.raise_at = now + self.raise_interval;
        self.raise_interval = (self.raise_interval * 2).min(RAISE_INTERVAL);
        let (low, high) = (self.limit, self.useful() + 1);
        let mut sizes = self.plateaus(low, high);
        sizes.push(high - 1);
        sizes.dedup();
        self.begin_round(Search { low, high, sizes, tries: 0, questioned: None, round_ends_at: now }, now, patience);
    }

    /// Sends what has not got through yet.
    fn begin_round(&mut self, mut search: Search, now: Instant, patience: Duration) {
        search.round_ends_at = now + patience;
        self.due.extend(search.sizes.iter().filter(|size| **size > search.low));
        self.search = Some(search);
    }

    fn end_round(&mut self, mut search: Search, now: Instant, patience: Duration) {
        search.tries += 1;
        let mut max_tries = MAX_PROBES;
        if let Some(target) = search.questioned {
            // It may have been chance: from now on shorter ones go beside it, which tell the one from the other.
            max_tries += 1;
            if search.tries == 1 {
                search.sizes = self.plateaus(self.family.base() - 1, target);
                search.sizes.push(target);
            }
        }
        if search.tries < max_tries {
            return self.begin_round(search, now, patience);
        }
        if search.low == 0 {
            // Nothing gets through at all; that says nothing about the size.
            return self.complete(now);
        }
        search.high = search.sizes.iter().copied().find(|size| *size > search.low).unwrap_or(search.high);
        if self.limit >= search.high {
            (self.limit, self.is_limited) = (search.low, true);
            self.raise_at = now + FIRST_RAISE_INTERVAL;
            self.raise_interval = FIRST_RAISE_INTERVAL * 2;
        }
        search.questioned = None;
        self.go_on(search, now, patience);
    }

    fn acknowledge(&mut self, size: usize, now: Instant, patience: Duration) {
        let Some(mut search) = self.search.take() else { return };
        search.low = search.low.max(size);
        if search.questioned.is_none() {
            self.limit = self.limit.max(search.low).min(self.ceiling);
        }
        let is_over = match search.questioned {
            Some(target) => search.low >= target,
            None => search.sizes.last().is_none_or(|last| search.low >= *last),
        };
        if !is_over {
            self.search = Some(search);
        } else if search.questioned.is_some() {
            self.complete(now);
        } else {
            self.go_on(search, now, patience);
        }
    }

    /// Tries what lies between, or ends.
    fn go_on(&mut self, mut search: Search, now: Instant, patience: Duration) {
        let Search { low, high, .. } = search;
        self.due.clear();
        if high.saturating_sub(low) <= RESOLUTION || low + 1 >= high {
            return self.complete(now);
        }
        search.sizes = self.plateaus(low, high);
        if search.sizes.is_empty() {
            search.sizes = (1..=STEPS).map(|step| low + (high - low) * step / (STEPS + 1)).collect();
        }
        search.tries = 0;
        self.begin_round(search, now, patience);
    }

    /// The plateaus between two sizes, as sizes.
    fn plateaus(&self, low: usize, high: usize) -> Vec<usize> {
        let sizes = PLATEAUS.iter().map(|path_mtu| path_mtu - self.family.headers_len());
        sizes.filter(|size| (low + 1..high).contains(size) && *size >= self.family.base()).collect()
    }

    fn complete(&mut self, now: Instant) {
        self.search = None;
        self.due.clear();
        (self.confirm_at, self.doubt_at) = (now + CONFIRMATION_INTERVAL, now + DOUBT_INTERVAL);
        if self.limit >= self.useful() {
            // What is longer than anything that there is a use for has not been lost.
            (self.limit, self.is_limited) = (self.ceiling, false);
        }
        self.report();
    }

    /// Tells of the limit if it matters and has not been told.
    fn report(&mut self) {
        let effective = self.limit.min(self.useful());
        let is_news = match self.reported {
            Some(reported) => reported != effective,
            None => effective < self.wanted,
        };
        if is_news {
            self.reported = Some(effective);
            let (path_mtu, source) = self.known();
            self.change = Some(Change { path_mtu, message: effective, source });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);
    const PATIENCE: Duration = Duration::from_millis(300);

    /// What a link over IPv4 asks for: the interface takes 1500, the device's packets make messages of 1452.
    const CEILING: usize = 1472;
    const WANTED: usize = 1452;

    /// A path that carries messages up to a length, loses some by chance, and takes its time.
    struct Path {
        path_mtu: PathMtu,
        now: Instant,
        start: Instant,
        carries: usize,
        loss: f64,
        rtt: Duration,
        chance: fastrand::Rng,
        under_way: Vec<(Instant, u64, usize)>,
        probes: u64,
        changes: Vec<Change>,
        /// Since when more has been let through than the path carries.
        wrong_since: Option<Instant>,
        longest_wrong: Duration,
    }

    impl Path {
        #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
        fn new(family: Family, carries: usize) -> Self {
            let now = Instant::now();
            Self {
                path_mtu: PathMtu::new(family, CEILING, WANTED, now),
                now,
                start: now,
                carries,
                loss: 0.0,
                rtt: 20 * MS,
                chance: fastrand::Rng::with_seed(7),
                under_way: Vec::new(),
                probes: 0,
                changes: Vec::new(),
                wrong_since: None,
                longest_wrong: Duration::ZERO,
            }
        }

        /// Lets time pass, with messages of this length to send every tenth of a second, if there are any.
        fn pass(&mut self, time: Duration, traffic: Option<usize>) {
            let end = self.now + time;
            let mut next_message = self.now;
            loop {
                let arrival = self.under_way.iter().map(|(at, ..)| *at).min();
                let message = traffic.map(|_| next_message);
                let next = [self.path_mtu.deadline(), arrival, message].into_iter().flatten().min();
                self.now = next.unwrap_or(end).clamp(self.now, end);
                if next.is_none_or(|at| at > end) {
                    return;
                }
                if let Some(len) = traffic.filter(|_| next_message <= self.now) {
                    self.path_mtu.asked(len, self.now);
                    next_message = self.now + 100 * MS;
                }
                self.deliver();
                self.path_mtu.handle_timeout(self.now, PATIENCE);
                self.send();
                self.changes.extend(self.path_mtu.poll_change());
                self.judge();
            }
        }

        fn deliver(&mut self) {
            let now = self.now;
            let arrived: Vec<_> = self.under_way.iter().copied().filter(|(at, ..)| *at <= now).collect();
            self.under_way.retain(|(at, ..)| *at > now);
            for (_, token, size) in arrived {
                assert!(self.path_mtu.ponged(token, size + 1, now, PATIENCE).is_none(), "another size");
                if let Some(rtt) = self.path_mtu.ponged(token, size, now, PATIENCE) {
                    assert_eq!(rtt, self.rtt);
                }
            }
        }

        fn send(&mut self) {
            while let Some(size) = self.path_mtu.poll_probe() {
                assert!(size <= CEILING, "{size}");
                self.probes += 1;
                self.path_mtu.probed(self.probes, size, self.now);
                if size <= self.carries && self.chance.f64() >= self.loss {
                    self.under_way.push((self.now + self.rtt, self.probes, size));
                }
            }
        }

        fn judge(&mut self) {
            if self.path_mtu.limit().min(WANTED) <= self.carries {
                self.wrong_since = None;
            } else {
                let since = *self.wrong_since.get_or_insert(self.now);
                self.longest_wrong = self.longest_wrong.max(self.now - since);
            }
        }

        fn is_exact(&self) -> bool {
            let (limit, best) = (self.path_mtu.limit().min(WANTED), self.carries.min(WANTED));
            limit <= best && limit + RESOLUTION >= best
        }
    }

    #[test]
    fn a_path_that_carries_everything_costs_a_probe_at_the_start_and_one_in_five_seconds_of_use() {
        let mut path = Path::new(Family::V4, CEILING);
        path.pass(60 * SECOND, None);
        assert_eq!((path.probes, path.path_mtu.deadline()), (1, None), "an unused path wakes nobody up");
        path.pass(60 * SECOND, Some(500));
        assert_eq!(path.probes, 1, "short messages need no confirmation");
        path.pass(60 * SECOND, Some(1452));
        assert!((11..=13).contains(&(path.probes - 1)), "{}", path.probes);
        assert_eq!((path.path_mtu.limit(), path.changes.as_slice()), (CEILING, [].as_slice()));
    }

    #[test]
    fn a_black_hole_is_found_in_seconds_and_its_size_soon_after() {
        for (family, carries) in [(Family::V4, 1372), (Family::V6, 1352), (Family::V4, 600), (Family::V6, 1232)] {
            let mut path = Path::new(family, carries);
            path.pass(2 * SECOND, Some(1452));
            assert!(path.path_mtu.limit() <= carries, "{family:?} {carries}: {}", path.path_mtu.limit());
            path.pass(4 * SECOND, Some(1452));
            assert!(path.is_exact(), "{family:?} {carries}: {}", path.path_mtu.limit());
            assert_eq!(path.changes.len(), 1, "{:?}", path.changes);
            let Change { path_mtu, message, source } = path.changes[0];
            assert_eq!((message, source), (path.path_mtu.limit(), Source::Probed));
            assert_eq!(path_mtu, message + family.headers_len());
        }
    }

    #[test]
    fn a_path_that_shrinks_in_use_is_noticed_by_the_next_confirmation_and_at_once_when_there_is_doubt() {
        let mut path = Path::new(Family::V4, CEILING);
        path.pass(20 * SECOND, Some(1452));
        path.carries = 1400;
        path.pass(7 * SECOND, Some(1452));
        assert!(path.path_mtu.limit() <= 1400);
        path.pass(5 * SECOND, Some(1452));
        assert!(path.is_exact());
        path.carries = 1300;
        path.pass(SECOND, Some(1400));
        path.path_mtu.doubt(path.now);
        path.pass(1300 * MS, Some(1400));
        assert!(path.path_mtu.limit() <= 1300, "{}", path.path_mtu.limit());
    }

    #[test]
    fn doubt_is_heeded_once_a_second() {
        let mut path = Path::new(Family::V4, CEILING);
        for _ in 0..100 {
            path.pass(100 * MS, Some(1452));
            path.path_mtu.doubt(path.now);
        }
        assert!((9..=12).contains(&path.probes), "{}", path.probes);
    }

    #[test]
    fn a_path_that_grows_again_is_used_again_after_the_raise_timer() {
        let mut path = Path::new(Family::V4, 1300);
        path.pass(3600 * SECOND, Some(1200));
        assert!(path.is_exact());
        path.carries = CEILING;
        path.pass(RAISE_INTERVAL + 10 * SECOND, Some(1200));
        assert_eq!(path.path_mtu.limit(), CEILING);
        let last = path.changes.last().expect("a change");
        assert_eq!((last.message, last.source), (WANTED, Source::Probed));
    }

    #[test]
    fn another_place_is_tried_at_once_from_what_was_found_before() {
        let mut path = Path::new(Family::V4, 1300);
        path.pass(10 * SECOND, Some(1200));
        let found = path.path_mtu.limit();
        path.path_mtu.handle_move(Family::V4, CEILING, path.now);
        assert_eq!(path.path_mtu.limit(), found, "until more is known");
        path.carries = CEILING;
        path.pass(2 * SECOND, None);
        assert_eq!(path.path_mtu.limit(), CEILING);
        path.path_mtu.handle_move(Family::V6, 1400, path.now);
        assert_eq!(path.path_mtu.limit(), 1400, "the interface is known for certain");
        let change = path.path_mtu.poll_change().expect("a change");
        assert_eq!(change, Change { path_mtu: 1448, message: 1400, source: Source::Interface });
    }

    #[test]
    fn after_a_change_of_the_network_more_is_tried_however_often_it_changes() {
        let mut path = Path::new(Family::V4, 1300);
        path.pass(10 * SECOND, Some(1200));
        path.carries = CEILING;
        for _ in 0..40 {
            path.path_mtu.network_changed(path.now);
            path.pass(50 * MS, None);
        }
        assert_eq!(path.path_mtu.limit(), CEILING);
        path.carries = 1300;
        for _ in 0..40 {
            path.path_mtu.network_changed(path.now);
            path.pass(50 * MS, None);
        }
        assert!(path.path_mtu.limit() <= 1300);
    }

    #[test]
    fn a_peer_that_does_not_answer_says_nothing_about_the_size() {
        let mut path = Path::new(Family::V4, 0);
        path.carries = 0;
        path.pass(600 * SECOND, Some(1452));
        assert_eq!((path.path_mtu.limit(), path.changes.as_slice()), (CEILING, [].as_slice()));
        assert!(path.probes < 600 * 6, "{} probes", path.probes);
    }

    #[test]
    fn a_longer_message_than_was_expected_is_confirmed_at_once() {
        let mut path = Path::new(Family::V4, 1460);
        path.pass(SECOND, Some(1452));
        assert_eq!(path.path_mtu.limit(), CEILING);
        path.path_mtu.asked(1472, path.now);
        path.pass(3 * SECOND, None);
        assert!(path.path_mtu.limit() <= 1460);
    }

    #[test]
    fn an_answer_to_nothing_changes_nothing() {
        let mut path = Path::new(Family::V4, CEILING);
        assert_eq!(path.path_mtu.ponged(99, 1452, path.now, PATIENCE), None);
        path.pass(MS, None);
        assert_eq!(path.path_mtu.ponged(99, 1452, path.now, PATIENCE), None);
        assert_eq!(path.path_mtu.ponged(1, 1451, path.now, PATIENCE), None);
        assert!(path.path_mtu.search.is_some());
        path.pass(SECOND, None);
        assert!(path.path_mtu.search.is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The path changes again and again. What does not fit is never let through for long, what fits is found, and
        /// the number of probes has a bound.
        #[test]
        fn it_follows_a_path_that_changes(
            is_v6: bool,
            seed: u64,
            rtt in 1u64..250,
            sizes in prop::collection::vec(1240usize..1500, 1..6),
        ) {
            let mut path = Path::new(if is_v6 { Family::V6 } else { Family::V4 }, sizes[0]);
            (path.chance, path.rtt) = (fastrand::Rng::with_seed(seed), Duration::from_millis(rtt));
            for carries in sizes {
                path.carries = carries;
                path.pass(1300 * SECOND, Some(1452));
                prop_assert!(path.is_exact(), "{} of {}", path.path_mtu.limit(), carries);
            }
            prop_assert!(path.longest_wrong < 8 * SECOND, "{:?}", path.longest_wrong);
            let seconds = path.now.duration_since(path.start).as_secs();
            prop_assert!(path.probes < seconds / 2, "{} probes in {seconds} s", path.probes);
        }

        /// With up to three of ten messages lost a size may be misjudged, for a while.
        #[test]
        fn it_copes_with_loss(seed: u64, loss in 0.0f64..0.3, carries in 1240usize..1500) {
            let mut path = Path::new(Family::V4, carries);
            (path.chance, path.loss) = (fastrand::Rng::with_seed(seed), loss);
            let (mut exact, rounds) = (0, 400);
            for _ in 0..rounds {
                path.pass(10 * SECOND, Some(1452));
                exact += u32::from(path.is_exact());
            }
            prop_assert!(exact * 2 > rounds, "right in {exact} of {rounds}");
            prop_assert!(path.longest_wrong < 60 * SECOND, "{:?}", path.longest_wrong);
            prop_assert!(path.probes < 4000 * 6, "{} probes", path.probes);
        }
    }
}
