//! Beginning handshakes: when INIT is sent and repeated, and what its answer does.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{Persistence, Secure, Side};
use crate::tunnel::crypto::{Aead, KEY_LEN};
use crate::tunnel::handshake::{self, Initiation};
use crate::tunnel::message::{Answer, Control, FEATURE_AES, Offer, Status, Timestamp};
use crate::tunnel::session::{Begun, Session, Terms};
use crate::tunnel::{Notice, Path, PathInfo, Refused, Rejection, Transmit};

/// The first wait for an answer; each further one is twice as long, up to a cap.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const CAP: Duration = Duration::from_secs(5);
/// The cap while there are packets to send.
const HURRIED_CAP: Duration = Duration::from_millis(750);

/// Time for a handshake on a new connection, and between two on a connection that stands.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(5);

/// Wait after a refusal.
const AFTER_REFUSAL: Duration = Duration::from_secs(5);

/// Time for the connecting end's handshake when both have begun one.
const GIVING_WAY: Duration = Duration::from_secs(5);

/// INITs that an answer is accepted to.
const MAX_OUTSTANDING: usize = 5;

/// Time without an answer after which that is worth a word.
const NO_ANSWER_AFTER: Duration = Duration::from_secs(10);

/// The longest addition to the time after which this end rekeys.
const MAX_SPREAD: Duration = Duration::from_millis(333);

/// Why a handshake was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// There is no session.
    Start,
    /// The session is old.
    Rekey,
    /// The peer does not answer.
    Doubt,
}

/// A handshake that this end has begun, with its repetitions.
pub(super) struct Attempt {
    reason: Reason,
    /// When its first INIT is sent.
    began_at: Instant,
    next_at: Instant,
    wait: Duration,
    /// When the peer refused last.
    answered_at: Option<Instant>,
    /// The peer has refused; asking sooner would not help.
    refused: bool,
    /// It waits for a handshake of the peer that came in between.
    gave_way: bool,
    outstanding: VecDeque<Outstanding>,
}

struct Outstanding {
    index: u32,
    identity: usize,
    path: Path,
    features: u32,
    initiation: Initiation,
    sent_at: Instant,
}

impl Attempt {
    /// One whose first INIT is sent after `wait`.
    pub(super) fn later(reason: Reason, now: Instant, wait: Duration) -> Self {
        Self {
            reason,
            began_at: now + wait,
            next_at: now + wait,
            wait: FIRST_WAIT,
            answered_at: None,
            refused: false,
            gave_way: false,
            outstanding: VecDeque::with_capacity(MAX_OUTSTANDING),
        }
    }

    pub(super) fn reason(&self) -> Reason {
        self.reason
    }

    pub(super) fn next_at(&self) -> Instant {
        self.next_at
    }

    /// True if an INIT with this index waits for its answer.
    pub(super) fn has(&self, index: u32) -> bool {
        self.outstanding.iter().any(|outstanding| outstanding.index == index)
    }

    /// The identities have other places: an answer to an INIT of one that has none is not accepted.
    pub(super) fn follow_identities(&mut self, places: &[Option<usize>]) {
        self.outstanding.retain_mut(|outstanding| {
            let place = places.get(outstanding.identity).copied().flatten();
            outstanding.identity = place.unwrap_or_default();
            place.is_some()
        });
    }

    /// True if it has sent its first INIT within this time.
    pub(super) fn began_within(&self, time: Duration, now: Instant) -> bool {
        !self.outstanding.is_empty() && now.saturating_duration_since(self.began_at) < time
    }
}

impl Secure {
    /// Begins a handshake unless one is under way.
    pub(super) fn begin(&mut self, reason: Reason, now: Instant) {
        if self.attempt.is_none() {
            self.attempt = Some(Attempt::later(reason, now, Duration::ZERO));
            self.continue_attempt(now);
        }
    }

    /// There are packets to send, so an INIT that may be lost is repeated soon: one that a reliable path has taken is not.
    pub(super) fn hurry(&mut self, now: Instant) {
        let may_be_lost = self.link.is_some_and(|link| !link.info.reliable);
        let attempt = self.attempt.as_mut().filter(|attempt| !attempt.refused && !attempt.gave_way);
        if let Some(attempt) = attempt.filter(|_| may_be_lost) {
            attempt.next_at = attempt.next_at.min(now + HURRIED_CAP);
            attempt.wait = attempt.wait.min(HURRIED_CAP);
        }
    }

    /// Says whether packets to send would be seen. Where they would not, an answer is wanted soon.
    pub fn set_demand_hidden(&mut self, hidden: bool, now: Instant) {
        if std::mem::replace(&mut self.demand_hidden, hidden) != hidden && hidden {
            self.hurry(now);
        }
    }

    /// What was sent may have gone astray: the next INIT is due, and its repetitions begin anew. A peer that has said no,
    /// or whose turn it is, is not asked sooner.
    pub(super) fn ask_again(&mut self, now: Instant) {
        let may_be_lost = self.link.is_some_and(|link| !link.info.reliable);
        let attempt = self.attempt.as_mut().filter(|attempt| may_be_lost && !attempt.refused && !attempt.gave_way);
        if let Some(attempt) = attempt {
            (attempt.next_at, attempt.wait) = (attempt.next_at.min(now), FIRST_WAIT);
            self.continue_attempt(now);
        }
    }

    /// Sends the next INIT if it is time.
    pub(super) fn continue_attempt(&mut self, now: Instant) {
        let Some(attempt) = self.attempt.as_ref().filter(|attempt| attempt.next_at <= now) else { return };
        let Some(link) = self.link else {
            self.attempt = None;
            return;
        };
        let (tried_for, answered_at) = (now.saturating_duration_since(attempt.began_at), attempt.answered_at);
        if link.info.reliable && self.current.is_none() && tried_for >= CONNECTION_PATIENCE {
            if answered_at.is_none() {
                self.notice(Notice::NoAnswer(link.info.peer), now);
            }
            return self.give_up(link.path, Rejection::Silent, now);
        }
        if self.settings.side == Side::Listen && self.settings.persistence == Persistence::WhileFresh {
            let heard = self.liveness.as_ref().map_or(self.started_at, |liveness| liveness.heard_at());
            if now.saturating_duration_since(heard) >= self.settings.limits.ends_after {
                return self.give_up(link.path, Rejection::Silent, now);
            }
        }
        if answered_at.map_or(tried_for, |at| now.saturating_duration_since(at)) >= NO_ANSWER_AFTER {
            self.notice(Notice::NoAnswer(link.info.peer), now);
        }
        self.send_init(link.path, &link.info, now);
        self.schedule(link.info.reliable, now);
    }

    fn schedule(&mut self, reliable: bool, now: Instant) {
        let jitter = self.fraction();
        let cap = if self.demand_hidden { HURRIED_CAP } else { CAP };
        let Some(attempt) = &mut self.attempt else { return };
        let wait = if reliable { CONNECTION_PATIENCE } else { attempt.wait.mul_f64(0.8 + 0.4 * jitter) };
        attempt.next_at = now + wait;
        attempt.wait = (attempt.wait * 2).min(cap);
        (attempt.refused, attempt.gave_way) = (false, false);
    }

    /// A number from 0 to 1; one half if there is no chance to be had.
    fn fraction(&mut self) -> f64 {
        let mut bytes = [0; 4];
        if self.random.fill(&mut bytes) { f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX) } else { 0.5 }
    }

    fn send_init(&mut self, path: Path, info: &PathInfo, now: Instant) {
        let mut ephemeral = Zeroizing::new([0; KEY_LEN]);
        let Some(index) = self.fresh_index().filter(|_| self.random.fill(&mut *ephemeral)) else { return };
        let timestamp = self.stamp(now);
        let features = self.settings.features(info);
        let offer = Offer {
            timestamp,
            kind: Some(self.settings.kind),
            mtu: self.settings.mtu,
            features,
            instance: self.instance,
            tunnel: [0; 16],
            down_after_ms: u32::try_from(self.settings.down_after.as_millis()).unwrap_or(u32::MAX),
        };
        let Some(attempt) = &mut self.attempt else { return };
        // In turn, so that an exchange of keys that has reached one end only does not keep the two apart.
        // Where a session stands on a connection, its own are right, and wrong ones would end the connection.
        let turn = if info.reliable && self.current.is_some() { 0 } else { self.unanswered };
        let identity = (self.preferred + turn) % self.identities.len();
        self.unanswered += 1;
        let Some(initiation) = handshake::initiate(&self.identities[identity], ephemeral, index, offer) else { return };
        self.transmits.push_back(Transmit { path, message: initiation.message.clone() });
        if attempt.outstanding.len() >= MAX_OUTSTANDING {
            attempt.outstanding.pop_front();
        }
        attempt.outstanding.push_back(Outstanding { index, identity, path, features, initiation, sent_at: now });
    }

    /// A timestamp greater than all before: the wall clock's at the start plus what has passed since.
    fn stamp(&mut self, now: Instant) -> Timestamp {
        let wall = self.started_wall.saturating_add(now.saturating_duration_since(self.started_at));
        self.stamped = Timestamp::since_1970(wall).max(self.stamped.successor());
        self.stamped
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// It is none to an INIT of ours, or not authentic.
    pub(super) fn handle_resp(
        &mut self,
        path: Path,
        info: &PathInfo,
        message: &[u8],
        now: Instant,
    ) -> Result<(), Refused> {
        let Some(receiver) = self.identities.first().and_then(|identity| handshake::resp_receiver(identity, message))
        else {
            return Err(Refused::NotAMessage);
        };
        let waits =
            |outstanding: &Outstanding| outstanding.index == receiver && (!info.reliable || outstanding.path == path);
        let attempt = self.attempt.as_mut();
        let place = attempt.and_then(|attempt| Some((attempt.outstanding.iter().position(waits)?, attempt)));
        let Some((place, attempt)) = place else {
            // Late, if it is the peer's: this end has begun anew or given way in the meantime.
            let authentic = self.identities.iter().any(|identity| identity.incoming().verifies(message));
            return Err(if authentic { Refused::HandshakeRefused } else { Refused::BadHandshake });
        };
        let outstanding = &mut attempt.outstanding[place];
        if !self.identities[outstanding.identity].incoming().verifies(message) {
            return Err(Refused::BadHandshake);
        }
        let answer = outstanding.initiation.read_resp(message).ok_or(Refused::BadHandshake)?;
        let Some(outstanding) = attempt.outstanding.remove(place) else { return Err(Refused::BadHandshake) };
        (self.preferred, self.unanswered) = (outstanding.identity, 0);
        match answer.status {
            Some(Status::Ok) => self.conclude(outstanding, &answer, handshake::sender_index(message), path, info, now),
            status => {
                self.handle_refusal(status, &answer, now);
                Ok(())
            }
        }
    }

    fn conclude(
        &mut self,
        outstanding: Outstanding,
        answer: &Answer,
        remote: u32,
        path: Path,
        info: &PathInfo,
        now: Instant,
    ) -> Result<(), Refused> {
        let aead = Aead::from_wire(answer.aead);
        let offered = outstanding.features;
        let Some(aead) =
            aead.filter(|aead| self.settings.allows(*aead) && (*aead != Aead::Aes256Gcm || offered & FEATURE_AES != 0))
        else {
            self.handle_refusal(Some(Status::Feature), answer, now);
            return Ok(());
        };
        let keys = outstanding.initiation.keys(aead).ok_or(Refused::BadHandshake)?;
        let terms = Terms {
            aead,
            features: answer.features & offered,
            instance: answer.instance,
            begun: Begun::Here,
            bound: info.reliable.then_some(path),
            identity: outstanding.identity,
            peer_down_after: None,
        };
        let spread = MAX_SPREAD.min(self.settings.limits.rekey_after / 360).mul_f64(self.fraction());
        let session = Session::new((outstanding.index, remote), keys, terms, self.settings.limits, spread, now);
        self.compare_mtu(answer.mtu, now);
        self.next.clear();
        self.complete(session, path, info, now);
        if let Some(liveness) = &mut self.liveness {
            liveness.measured(now.saturating_duration_since(outstanding.sent_at), now);
        }
        self.send_control(Control::Empty);
        Ok(())
    }

    /// The peer is the right one and says no.
    fn handle_refusal(&mut self, status: Option<Status>, answer: &Answer, now: Instant) {
        if let Some(attempt) = &mut self.attempt {
            attempt.answered_at = Some(now);
        }
        let notice = match status {
            Some(Status::Stale) => {
                let behind = self.stamped.seconds_until(answer.last_timestamp);
                if answer.last_timestamp >= self.stamped {
                    self.stamped = answer.last_timestamp;
                    if let Some(attempt) = &mut self.attempt {
                        attempt.next_at = now;
                    }
                    self.continue_attempt(now);
                }
                Notice::ClockBehind(behind)
            }
            Some(Status::Kind) => Notice::PeerKind(answer.kind),
            Some(Status::Busy) => Notice::Busy,
            Some(Status::Ok | Status::Feature) | None => Notice::Feature,
        };
        if status != Some(Status::Stale)
            && let Some(attempt) = &mut self.attempt
        {
            attempt.next_at = now + AFTER_REFUSAL;
            attempt.refused = true;
            attempt.outstanding.clear();
        }
        self.notice(notice, now);
    }

    /// The listening end gives way to a handshake of the connecting one, for a while: nothing is confirmed yet, and what
    /// was answered may be a recording. It waits once for each INIT of its own, so that recordings cannot keep it silent.
    pub(super) fn give_way(&mut self, now: Instant) {
        if self.settings.side == Side::Listen
            && let Some(attempt) = &mut self.attempt
        {
            attempt.outstanding.clear();
            if !std::mem::replace(&mut attempt.gave_way, true) {
                attempt.next_at = attempt.next_at.max(now + GIVING_WAY);
            }
        }
    }
}
