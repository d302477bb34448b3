//! What becomes of the link: sessions that come into force, an endpoint that moves, a peer that falls silent or says goodbye,
//! and paths that end.

use std::time::{Duration, Instant};

use super::initiator::{Attempt, Reason};
use super::{Due, Link, MAX_PREVIOUS, Persistence, Secure, responder};
use crate::tunnel::liveness::Liveness;
use crate::tunnel::message::{self, CloseReason, Control, FEATURES_RELIABLE, Instance, Side};
use crate::tunnel::path_mtu::PathMtu;
use crate::tunnel::secure::Endpoint;
use crate::tunnel::session::Session;
use crate::tunnel::{Event, Facts, Notice, Path, PathInfo, Rejection};

/// Wait before a handshake after the peer has said goodbye.
const AFTER_GOODBYE: Duration = Duration::from_secs(1);
/// The same if it has said that it begins anew.
const AFTER_NEW_BEGINNING: Duration = Duration::from_millis(100);

/// The round trip is measured no more often than this because somebody wants to know it.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

impl Secure {
    pub(super) fn handle_goodbye(&mut self, reason: u8, path: Path, now: Instant) {
        let begins_anew = reason == CloseReason::BeginsAnew as u8;
        let why = if begins_anew { Rejection::PeerBeginsAnew } else { Rejection::PeerClosed };
        self.end(Some(why), now);
        let Some(link) = self.link else { return };
        if link.info.reliable {
            self.give_up(path, why, now);
        } else if self.settings.side == Side::Connect || self.settings.persistence == Persistence::Forever {
            let wait = if begins_anew { AFTER_NEW_BEGINNING } else { AFTER_GOODBYE };
            self.attempt = Some(Attempt::later(Reason::Start, now, wait));
        } else {
            self.link = None;
            self.events.push_back(Event::PathRejected(link.path, why));
        }
    }

    pub(super) fn handle_due(&mut self, due: Due, now: Instant) {
        match due {
            Due::Ping => {
                if let Some(path_mtu) = &mut self.path_mtu {
                    path_mtu.doubt(now);
                }
                self.ping(now);
            }
            Due::Doubt => {
                if self.link.is_some_and(|link| !link.info.reliable) {
                    self.begin(Reason::Doubt, now);
                }
            }
            Due::Silence => {
                self.report_down(Some(Rejection::Silent), now);
                match self.link {
                    Some(link) if link.info.reliable => self.give_up(link.path, Rejection::Silent, now),
                    Some(_) => self.begin(Reason::Doubt, now),
                    None => {}
                }
            }
        }
    }

    pub(super) fn ping(&mut self, now: Instant) {
        let mut token = [0; 8];
        if !self.has_session() || !self.random.fill(&mut token) {
            return;
        }
        let token = u64::from_be_bytes(token);
        self.send_control(Control::Ping { token, len: message::PONG_LEN });
        if let Some(liveness) = &mut self.liveness {
            liveness.pinged(token, now);
        }
    }

    /// What is known about the link; see [`super::super::Tunnel::facts`].
    pub fn facts(&self, now: Instant) -> Facts {
        let is_lossy = self.link.is_some_and(|link| !link.info.reliable);
        Facts {
            aead: self.current.as_ref().map(|session| session.terms.aead),
            session_age: self.current.as_ref().map(|session| now.saturating_duration_since(session.begun_at())),
            rtt: self.liveness.as_ref().and_then(Liveness::rtt),
            path_mtu: self.path_mtu.as_ref().filter(|_| is_lossy).map(PathMtu::known),
            arrivals: is_lossy.then_some(self.arrivals),
        }
    }

    /// Measures the round trip if that was not done within the last second.
    pub fn measure(&mut self, now: Instant) {
        if self.up && self.liveness.as_ref().is_some_and(|liveness| liveness.is_stale(MEASURE_INTERVAL, now)) {
            self.ping(now);
        }
    }

    /// The way to the peer may be another one: it is asked at once whether it hears us still, or looked for if it was not
    /// there.
    pub fn network_changed(&mut self, now: Instant) {
        if self.up && self.has_session() {
            self.ping(now);
            if let Some(liveness) = &mut self.liveness {
                liveness.shaken(now);
            }
            if let Some(path_mtu) = &mut self.path_mtu {
                path_mtu.network_changed(now);
            }
        }
        self.ask_again(now);
    }

    /// A session is confirmed: it is the current one from now on, and its path the live one.
    pub(super) fn complete(&mut self, session: Session, path: Path, info: &PathInfo, now: Instant) {
        let terms = session.terms;
        if let Some(old) = self.current.replace(session) {
            self.previous.push_front(old);
            self.previous.truncate(MAX_PREVIOUS);
        }
        self.attempt = None;
        self.events.push_back(Event::Renewed);
        self.unanswered = 0;
        self.remember_instance(terms.instance, now);
        self.gate.trust(info.peer.ip());
        if info.reliable {
            self.previous.retain(|session| session.terms.bound == Some(path));
            let old = self.link.replace(Link { path, info: *info }).map(|link| link.path);
            if old != Some(path) {
                self.events.extend(old.map(|old| Event::PathRejected(old, Rejection::Replaced)));
                self.events.push_back(Event::PathAdopted(path));
                self.tell_move(info);
            }
        } else {
            self.follow(path, info);
            // Where the peer was expected may be where it is; said once more it changes nothing.
            self.events.extend(self.link.map(|link| Event::PathAdopted(link.path)));
        }
        let (keepalive, down_after) = (self.settings.keepalive, self.settings.down_after);
        let liveness = self.liveness.get_or_insert_with(|| Liveness::new(keepalive, down_after, now));
        if let Some(patience) = terms.peer_down_after {
            liveness.respect(patience);
        }
        if !self.up {
            let whole_super_packets = terms.features & FEATURES_RELIABLE != 0;
            self.notice(Notice::Session { aead: terms.aead, whole_super_packets }, now);
        }
        self.heard(info, now);
    }

    fn remember_instance(&mut self, instance: Instance, now: Instant) {
        if let Some(old) = self.peer_instance.replace(instance).filter(|old| *old != instance) {
            responder::remember_replaced(&mut self.replaced, old, now);
        }
    }

    /// The endpoint of a datagram link is where its newest message came from.
    pub(super) fn follow(&mut self, path: Path, info: &PathInfo) {
        let pinned = self.settings.endpoint == Endpoint::Pinned && self.link.is_some();
        if info.reliable || pinned || self.live_path() == Some(path) {
            return;
        }
        self.link = Some(Link { path, info: *info });
        self.events.push_back(Event::PathAdopted(path));
        self.tell_move(info);
    }

    fn tell_move(&mut self, info: &PathInfo) {
        if self.up && self.last_peer.is_some_and(|last| last != info.peer) {
            self.events.push_back(Event::Moved(info.peer));
        }
        self.last_peer = Some(info.peer);
    }

    /// Something authentic has come.
    pub(super) fn heard(&mut self, info: &PathInfo, now: Instant) {
        if let Some(liveness) = &mut self.liveness {
            liveness.heard(now);
        }
        self.attempt.take_if(|attempt| attempt.reason() == Reason::Doubt);
        if self.current.is_none() {
            return;
        }
        if !self.up {
            (self.up, self.interrupted) = (true, false);
            if let Some(path_mtu) = &mut self.path_mtu {
                path_mtu.begin_anew(now);
            }
            self.last_peer = Some(info.peer);
            self.events.push_back(Event::Up(*info));
        } else if std::mem::take(&mut self.interrupted) {
            self.events.push_back(Event::Resumed(info.peer));
        }
    }

    fn report_down(&mut self, why: Option<Rejection>, now: Instant) {
        let peer = self.link.map(|link| link.info.peer).or(self.last_peer);
        if let (true, Some(peer), Some(liveness)) = (self.up, peer, &self.liveness) {
            let idle = now.saturating_duration_since(liveness.heard_at());
            self.events.push_back(Event::Down { idle, peer, why });
        }
        (self.up, self.interrupted) = (false, false);
        self.meter.handle_down();
    }

    /// Ends every session.
    pub(super) fn end(&mut self, why: Option<Rejection>, now: Instant) {
        self.current = None;
        self.next.clear();
        self.previous.clear();
        self.report_down(why, now);
    }

    /// Ends a path by our own decision.
    pub(super) fn give_up(&mut self, path: Path, why: Rejection, now: Instant) {
        self.forget_path(path, Some(why), now);
        self.events.push_back(Event::PathRejected(path, why));
    }

    pub(super) fn forget_path(&mut self, path: Path, why: Option<Rejection>, now: Instant) {
        let bound = |session: &Session| session.terms.bound == Some(path);
        let ended = self.current.take_if(|session| bound(session));
        self.next.retain(|session| !bound(session));
        self.previous.retain(|session| !bound(session));
        let Some(link) = self.link.take_if(|link| link.path == path) else { return };
        self.attempt = None;
        if ended.as_ref().is_some_and(Session::is_retired) {
            // Nobody with that key comes back.
            self.last_peer = Some(link.info.peer);
            self.report_down(Some(Rejection::KeyRemoved), now);
        } else if self.up && ended.is_some() {
            self.interrupted = true;
            self.meter.handle_down();
            self.events.push_back(Event::Interrupted { peer: link.info.peer, why });
        }
    }
}
