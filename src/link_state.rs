//! What this end knows about its link: one state for everybody who reports it, the log, the statistics and the device's
//! carrier alike. Pure: events and `now` come in.
//!
//! A connection that ends is an interruption first. It becomes the end of the link when `down_after` has passed, unless it
//! is plain that nobody comes back: the peer has been silent for that long, or has said goodbye.

use std::fmt;
use std::time::{Duration, Instant};

/// How the link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no telling: datagrams go out and nothing has come back yet, or nothing has to.
    Unknown,
    /// The peer is waited for.
    Waiting,
    /// The peer is looked for.
    Connecting,
    /// The peer is there.
    Up,
    /// The peer's connection has ended, a short while ago.
    Interrupted,
    /// The peer is gone, for this reason.
    Down(&'static str),
}

/// Whether somebody may come back soon after a link has gone down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It has been waited long enough, or nobody will come.
    Final,
    /// A connection has ended, and another may follow.
    Passing,
}

/// Changes that are remembered.
pub const MAX_CHANGES: usize = 8;

/// A change of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state from then on.
    pub state: State,
    /// Why the connection has ended, where one has; otherwise empty.
    pub reason: &'static str,
    /// When it changed.
    pub at: Instant,
}

/// The state with its time; see the module's text.
#[derive(Clone, Copy, Debug)]
pub struct LinkState {
    state: State,
    since: Instant,
    /// The latest changes, the newest first; what is not used yet is `None`.
    changes: [Option<Change>; MAX_CHANGES],
    /// The state without a peer.
    rest: State,
    down_after: Duration,
    /// Why the connection ended that is waited for.
    reason: &'static str,
}

impl LinkState {
    /// A link without a peer, whose state that is.
    pub fn new(rest: State, down_after: Duration, now: Instant) -> Self {
        Self { state: rest, since: now, changes: [None; MAX_CHANGES], rest, down_after, reason: "" }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Another time after which an interruption is the end.
    pub fn set_down_after(&mut self, down_after: Duration) {
        self.down_after = down_after;
    }

    /// Why the connection has ended, if it has; otherwise empty.
    pub fn reason(&self) -> &'static str {
        match self.state {
            State::Interrupted => self.reason,
            State::Down(reason) => reason,
            State::Unknown | State::Waiting | State::Connecting | State::Up => "",
        }
    }

    /// The latest changes, the newest first.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().flatten()
    }

    /// For how long it has been so.
    pub fn lasting(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// True unless it is certain that packets would go nowhere.
    pub fn has_carrier(&self) -> bool {
        match self.state {
            State::Unknown | State::Up | State::Interrupted => true,
            State::Waiting | State::Connecting | State::Down(_) => false,
        }
    }

    /// Goes on where another link has ended that had the same device and maybe the same peer.
    pub fn continue_from(&mut self, earlier: &Self, now: Instant) {
        self.changes = earlier.changes;
        match earlier.state {
            State::Up | State::Interrupted if self.rest != State::Unknown => {
                self.reason = earlier.reason;
                self.change(State::Interrupted, now);
            }
            State::Down(_) if self.rest != State::Unknown => {
                (self.state, self.since) = (earlier.state, earlier.since);
            }
            _ => {}
        }
    }

    /// The peer is there, again or for the first time.
    pub fn handle_up(&mut self, now: Instant) {
        self.change(State::Up, now);
    }

    /// The connection has ended; the link may go on.
    pub fn handle_interrupted(&mut self, reason: &'static str, now: Instant) {
        if self.state == State::Up {
            self.reason = reason;
            self.change(State::Interrupted, now);
        }
    }

    /// The peer has gone.
    pub fn handle_down(&mut self, reason: &'static str, outlook: Outlook, now: Instant) {
        if self.rest == State::Unknown {
            // Somebody has to speak first, and nothing says that it was heard.
            return self.change(State::Unknown, now);
        }
        match outlook {
            Outlook::Passing => self.handle_interrupted(reason, now),
            Outlook::Final => self.change(State::Down(reason), now),
        }
    }

    /// When an interruption becomes the end.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (self.state == State::Interrupted).then(|| self.since + self.down_after)
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.change(State::Down(self.reason), now);
        }
    }

    fn change(&mut self, state: State, now: Instant) {
        if self.state != state {
            (self.state, self.since) = (state, now);
            self.changes.rotate_right(1);
            self.changes[0] = Some(Change { state, reason: self.reason(), at: now });
        }
    }
}

impl State {
    /// The state in one word, without its reason.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Waiting => "waiting",
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Interrupted => "interrupted",
            Self::Down(_) => "down",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())?;
        match self {
            Self::Down(reason) => write!(formatter, " reason={reason}"),
            Self::Unknown | Self::Waiting | Self::Connecting | Self::Up | Self::Interrupted => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn begin(rest: State) -> (LinkState, Instant) {
        let now = Instant::now();
        (LinkState::new(rest, 10 * SECOND, now), now)
    }

    #[test]
    fn a_connection_that_comes_back_in_time_leaves_the_carrier_alone() {
        let (mut link, start) = begin(State::Connecting);
        assert!(!link.has_carrier());
        link.handle_up(start + SECOND);
        assert!(link.has_carrier());
        link.handle_down("closed", Outlook::Passing, start + 2 * SECOND);
        assert_eq!((link.state(), link.poll_timeout()), (State::Interrupted, Some(start + 12 * SECOND)));
        link.handle_timeout(start + 11 * SECOND);
        assert!(link.has_carrier());
        link.handle_up(start + 11 * SECOND);
        assert_eq!((link.state(), link.poll_timeout()), (State::Up, None));
        assert_eq!(link.lasting(start + 15 * SECOND), 4 * SECOND);
    }

    #[test]
    fn a_connection_that_does_not_come_back_is_the_end_after_a_while() {
        let (mut link, start) = begin(State::Waiting);
        link.handle_up(start);
        link.handle_down("reset", Outlook::Passing, start + SECOND);
        link.handle_interrupted("closed", start + 9 * SECOND);
        link.handle_timeout(start + 11 * SECOND);
        assert_eq!(link.state(), State::Down("reset"));
        assert!(!link.has_carrier());
        assert_eq!(link.poll_timeout(), None);
    }

    #[test]
    fn silence_and_goodbyes_are_the_end_at_once() {
        for interrupted in [false, true] {
            let (mut link, start) = begin(State::Waiting);
            link.handle_up(start);
            if interrupted {
                link.handle_interrupted("closed", start);
            }
            link.handle_down("silence", Outlook::Final, start);
            assert_eq!(link.state().to_string(), "down reason=silence");
        }
    }

    #[test]
    fn who_was_never_there_cannot_be_interrupted() {
        let (mut link, start) = begin(State::Connecting);
        link.handle_interrupted("closed", start);
        assert_eq!((link.state(), link.poll_timeout()), (State::Connecting, None));
    }

    #[test]
    fn the_latest_changes_are_remembered_with_their_reasons() {
        let (mut link, start) = begin(State::Waiting);
        assert_eq!(link.changes().count(), 0);
        for number in 0..5 {
            link.handle_up(start + 2 * number * SECOND);
            link.handle_interrupted("reset", start + (2 * number + 1) * SECOND);
        }
        link.handle_timeout(start + 100 * SECOND);
        let changes: Vec<_> = link.changes().map(|change| (change.state.word(), change.reason)).collect();
        assert_eq!(changes.len(), MAX_CHANGES);
        assert_eq!(changes[..3], [("down", "reset"), ("interrupted", "reset"), ("up", "")]);
        assert_eq!(link.changes().nth(1).map(|change| change.at), Some(start + 9 * SECOND));
        let (mut next, _) = begin(State::Connecting);
        next.continue_from(&link, start + 101 * SECOND);
        assert_eq!(next.changes().count(), MAX_CHANGES, "a new link with the same device remembers them, too");
    }

    #[test]
    fn datagrams_that_nobody_has_to_answer_always_have_a_carrier() {
        let (mut link, start) = begin(State::Unknown);
        assert!(link.has_carrier());
        link.handle_up(start);
        link.handle_down("unreachable", Outlook::Final, start);
        assert_eq!((link.state(), link.has_carrier()), (State::Unknown, true));
    }

    #[test]
    fn a_new_link_with_the_same_device_is_an_interruption() {
        let (mut earlier, start) = begin(State::Waiting);
        earlier.handle_up(start);
        let (mut link, _) = begin(State::Connecting);
        link.continue_from(&earlier, start + SECOND);
        assert_eq!((link.state(), link.poll_timeout()), (State::Interrupted, Some(start + 11 * SECOND)));
        earlier.handle_down("silence", Outlook::Final, start);
        let (mut link, _) = begin(State::Connecting);
        link.continue_from(&earlier, start + SECOND);
        assert_eq!(link.state(), State::Down("silence"));
        let (mut link, _) = begin(State::Unknown);
        link.continue_from(&earlier, start);
        assert!(link.has_carrier());
    }
}
