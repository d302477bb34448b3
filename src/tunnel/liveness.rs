//! Whether the peer is alive: when to ask, when to doubt it, when to give it up. Pure, and only authentic messages count.

use std::time::{Duration, Instant};

/// Shortest time in which an answer is expected.
pub const MIN_PATIENCE: Duration = Duration::from_millis(300);

/// What has become due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask for a sign of life.
    Ping,
    /// The question was not answered: make a new session.
    Doubt,
    /// The peer counts as gone.
    Silence,
}

/// See the module's text.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    keepalive: Duration,
    down_after: Duration,
    heard_at: Instant,
    /// When something was sent first after the peer was heard last.
    waiting_since: Option<Instant>,
    /// What has been done about it.
    probed: bool,
    doubted: bool,
    gone: bool,
    /// When something has happened that the peer may not have survived.
    shaken_at: Option<Instant>,
    /// When the peer is asked although nothing was sent.
    idle_ping_at: Instant,
    ping: Option<(u64, Instant)>,
    smoothed_rtt: Option<Duration>,
    measured_at: Option<Instant>,
}

impl Liveness {
    /// Begins with the peer heard now.
    pub fn new(keepalive: Duration, down_after: Duration, now: Instant) -> Self {
        Self {
            keepalive,
            down_after,
            heard_at: now,
            waiting_since: None,
            probed: false,
            doubted: false,
            gone: false,
            shaken_at: None,
            idle_ping_at: now + keepalive,
            ping: None,
            smoothed_rtt: None,
            measured_at: None,
        }
    }

    /// Other times from now on.
    pub fn set_times(&mut self, keepalive: Duration, down_after: Duration, now: Instant) {
        (self.keepalive, self.down_after) = (keepalive, down_after);
        self.idle_ping_at = self.idle_ping_at.min(now + keepalive);
    }

    /// When the peer was heard last.
    pub fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// Half of the peer's patience is the most that this end may be silent for.
    pub fn respect(&mut self, peer_down_after: Duration) {
        self.keepalive = self.keepalive.min(peer_down_after / 2).max(MIN_PATIENCE);
    }

    /// Something authentic has come.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.idle_ping_at = now + self.keepalive;
        (self.waiting_since, self.shaken_at) = (None, None);
        (self.probed, self.doubted, self.gone) = (false, false, false);
    }

    /// The way to the peer may be another one from now on: a ping goes out, and one that is not answered is not repeated.
    pub fn shaken(&mut self, now: Instant) {
        self.shaken_at.get_or_insert(now);
    }

    /// Something was sent that an answer may be expected to.
    pub fn sent(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// A ping with this token was sent.
    pub fn pinged(&mut self, token: u64, now: Instant) {
        self.ping = Some((token, now));
        self.idle_ping_at = now + self.keepalive;
        self.sent(now);
    }

    /// A pong has come.
    pub fn ponged(&mut self, token: u64, now: Instant) {
        if let Some((_, at)) = self.ping.take_if(|(asked, _)| *asked == token) {
            self.measured(now.saturating_duration_since(at), now);
        }
    }

    /// A round trip was measured; smoothed as in RFC 6298.
    pub fn measured(&mut self, rtt: Duration, now: Instant) {
        self.measured_at = Some(now);
        self.smoothed_rtt = Some(match self.smoothed_rtt {
            Some(smoothed) => (smoothed * 7 + rtt) / 8,
            None => rtt,
        });
    }

    /// The round trip, if one was measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.smoothed_rtt
    }

    /// True if the last measurement is older than this, and none is under way that is younger.
    pub fn is_stale(&self, age: Duration, now: Instant) -> bool {
        let newest = self.measured_at.into_iter().chain(self.ping.map(|(_, at)| at)).max();
        newest.is_none_or(|at| now.saturating_duration_since(at) >= age)
    }

    /// Time in which an answer is expected. Never so long that the peer is given up before it was asked twice: a sample may have been taken across a sleep.
    pub fn patience(&self) -> Duration {
        let usual = self.smoothed_rtt.map_or(MIN_PATIENCE, |rtt| rtt.saturating_mul(3));
        usual.min(self.down_after / 4).max(MIN_PATIENCE)
    }

    /// When [`poll`](Self::poll) has something to say, if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        if self.gone {
            return None;
        }
        let answer_by = self.waiting_since.map(|since| since + self.patience());
        let probe = answer_by.filter(|_| !self.probed);
        let shaken_by = self.shaken_at.map(|at| at + self.patience());
        let doubt =
            answer_by.map(|at| at + self.patience()).into_iter().chain(shaken_by).min().filter(|_| !self.doubted);
        [probe, doubt, Some(self.idle_ping_at), Some(self.heard_at + self.down_after)].into_iter().flatten().min()
    }

    /// The next thing that is due, the gravest first.
    pub fn poll(&mut self, now: Instant) -> Option<Due> {
        if self.gone {
            return None;
        }
        if now >= self.heard_at + self.down_after {
            self.gone = true;
            return Some(Due::Silence);
        }
        let patience = self.patience();
        let waited = self.waiting_since.map(|since| now.saturating_duration_since(since));
        let is_shaken = self.shaken_at.is_some_and(|at| now >= at + patience);
        if !self.doubted && (is_shaken || waited.is_some_and(|waited| waited >= patience * 2)) {
            (self.probed, self.doubted) = (true, true);
            return Some(Due::Doubt);
        }
        if !self.probed && waited.is_some_and(|waited| waited >= patience) {
            self.probed = true;
            return Some(Due::Ping);
        }
        if now >= self.idle_ping_at {
            self.idle_ping_at = now + self.keepalive;
            return Some(Due::Ping);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn begin() -> (Liveness, Instant) {
        let now = Instant::now();
        (Liveness::new(3 * SECOND, 10 * SECOND, now), now)
    }

    /// Everything that becomes due until `end`, with its time.
    fn course(liveness: &mut Liveness, start: Instant, end: Duration) -> Vec<(u128, Due)> {
        let mut course = Vec::new();
        while let Some(at) = liveness.deadline().filter(|at| *at <= start + end) {
            let due = liveness.poll(at).expect("something is due at the deadline");
            course.push((at.duration_since(start).as_millis(), due));
            if due == Due::Ping {
                liveness.pinged(1, at);
            }
        }
        course
    }

    #[test]
    fn a_silent_peer_is_asked_doubted_and_given_up() {
        let (mut liveness, start) = begin();
        let expected = [
            (3000, Due::Ping),
            (3300, Due::Ping),
            (3600, Due::Doubt),
            (6300, Due::Ping),
            (9300, Due::Ping),
            (10_000, Due::Silence),
        ];
        assert_eq!(course(&mut liveness, start, 60 * SECOND), expected);
        assert_eq!(liveness.deadline(), None, "what is gone needs no clock");
    }

    #[test]
    fn traffic_without_an_answer_is_doubted_after_twice_the_round_trip() {
        let (mut liveness, start) = begin();
        liveness.measured(200 * MS, start);
        liveness.sent(start);
        let expected = [(600, Due::Ping), (1200, Due::Doubt)];
        assert_eq!(course(&mut liveness, start, 2 * SECOND), expected);
        liveness.heard(start + 2 * SECOND);
        assert_eq!(liveness.poll(start + 2 * SECOND), None);
        assert_eq!(course(&mut liveness, start, 4 * SECOND), []);
    }

    #[test]
    fn a_ping_across_a_changed_network_is_doubted_after_one_round_trip_and_forgotten_when_answered() {
        let (mut liveness, start) = begin();
        liveness.pinged(1, start);
        liveness.shaken(start);
        liveness.shaken(start + 200 * MS);
        let expected = [(300, Due::Doubt), (3000, Due::Ping)];
        assert_eq!(course(&mut liveness, start, 5 * SECOND), expected);
        liveness.heard(start + 5 * SECOND);
        liveness.shaken(start + 5 * SECOND);
        liveness.heard(start + 5 * SECOND + MS);
        assert_eq!(course(&mut liveness, start, 7 * SECOND), []);
    }

    #[test]
    fn the_round_trip_is_smoothed_and_wrong_tokens_count_for_nothing() {
        let (mut liveness, start) = begin();
        liveness.pinged(7, start);
        liveness.ponged(8, start + SECOND);
        assert_eq!(liveness.smoothed_rtt, None);
        liveness.ponged(7, start + 160 * MS);
        liveness.ponged(7, start + SECOND);
        assert_eq!(liveness.smoothed_rtt, Some(160 * MS));
        liveness.measured(80 * MS, start);
        assert_eq!(liveness.smoothed_rtt, Some(150 * MS));
    }

    #[test]
    fn a_round_trip_across_a_sleep_does_not_make_the_end_patient_for_ever() {
        let (mut liveness, start) = begin();
        liveness.measured(8 * 3600 * SECOND, start);
        liveness.sent(start);
        let expected =
            [(2500, Due::Ping), (5000, Due::Doubt), (5500, Due::Ping), (8500, Due::Ping), (10_000, Due::Silence)];
        assert_eq!(course(&mut liveness, start, 60 * SECOND), expected);
    }

    #[test]
    fn an_impatient_peer_is_asked_more_often() {
        let (mut liveness, start) = begin();
        liveness.respect(2 * SECOND);
        liveness.heard(start);
        assert_eq!(liveness.deadline(), Some(start + SECOND));
        liveness.respect(Duration::ZERO);
        liveness.heard(start);
        assert_eq!(liveness.deadline(), Some(start + MIN_PATIENCE), "but never without pause");
    }

    #[test]
    fn a_question_that_cannot_be_asked_is_due_again_after_the_pause() {
        let (mut liveness, start) = begin();
        for number in 1..=3 {
            let at = start + number * 3 * SECOND;
            assert_eq!(liveness.deadline(), Some(at));
            assert_eq!((liveness.poll(at), liveness.poll(at)), (Some(Due::Ping), None));
        }
    }
}
