//! Other settings and other keys while the link is up: what may stay stays, what is no longer accepted ends, and a
//! handshake brings what the peer has to agree to.
//!
//! A session by a key or secret that is no longer one of this end's is *retired*: it is used for [`EXCHANGE_TIME`] at
//! most, in which a handshake by one that is may take its place, so that an exchange of keys loses nothing.

use std::time::{Duration, Instant};

use super::initiator::Reason;
use super::{Persistence, Secure, Settings, Side};
use crate::tunnel::identity::Identity;
use crate::tunnel::message::{CloseReason, Control};
use crate::tunnel::session::Session;
use crate::tunnel::{Event, Rejection};

/// Time for a handshake in place of a session whose key is no longer accepted.
pub(super) const EXCHANGE_TIME: Duration = Duration::from_secs(1);

impl Secure {
    /// Takes other settings and identities; an MTU of 0 leaves what is known. Side and kind of the device are those of
    /// before, and so is the suite of the identities, of which there is at least one.
    pub fn reconfigure(&mut self, settings: Settings, identities: Vec<Identity>, now: Instant) {
        let mtu = if settings.mtu == 0 { self.settings.mtu } else { settings.mtu };
        let old = std::mem::replace(&mut self.settings, Settings { mtu, ..settings });
        self.follow_settings(now);
        let suite = |identities: &[Identity]| identities.first().map(Identity::suite);
        let is_usable = suite(&identities) == suite(&self.identities);
        if is_usable && self.exchange_identities(identities, now) {
            self.attempt = None;
            self.begin(Reason::Rekey, now);
        }
        let is_agreed = |settings: &Settings| (settings.aead, settings.limits, settings.down_after, settings.fragments);
        if is_agreed(&old) != is_agreed(&self.settings) && self.current.is_some() {
            self.begin(Reason::Rekey, now);
        }
    }

    fn follow_settings(&mut self, now: Instant) {
        let Settings { keepalive, down_after, .. } = self.settings;
        let patience = self.current.as_ref().and_then(|session| session.terms.peer_down_after);
        if let Some(liveness) = &mut self.liveness {
            liveness.set_times(keepalive, down_after, now);
            patience.into_iter().for_each(|patience| liveness.respect(patience));
        }
        let longest = self.longest_message();
        if let Some(path_mtu) = &mut self.path_mtu {
            path_mtu.expect(longest, now);
        }
    }

    /// Puts these identities in the place of those that there are; true if a handshake is due.
    fn exchange_identities(&mut self, identities: Vec<Identity>, now: Instant) -> bool {
        let is_in = |all: &[Identity], one: &Identity| all.iter().position(|other| other.is_same(one));
        let places: Vec<Option<usize>> = self.identities.iter().map(|old| is_in(&identities, old)).collect();
        if places.len() == identities.len() && places.iter().enumerate().all(|(index, place)| *place == Some(index)) {
            return false;
        }
        let seen = |new: &Identity| is_in(&self.identities, new).map(|old| self.greatest_seen[old]);
        self.greatest_seen = identities.iter().map(|new| seen(new).unwrap_or_default()).collect();
        self.identities = identities;
        // What the peer has not confirmed is no loss.
        self.next.retain(|session| place_of(session, &places).is_some());
        for session in self.current.iter_mut().chain(&mut self.next).chain(&mut self.previous) {
            match place_of(session, &places) {
                Some(place) => session.terms.identity = place,
                None => session.retire(now + EXCHANGE_TIME),
            }
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.follow_identities(&places);
        }
        // On a connection the one that its session was made with is right, and one that the peer does not know yet would
        // be its end.
        let has_to_stay = self.link.is_some_and(|link| link.info.reliable)
            && self.current.as_ref().is_some_and(|session| !session.is_retired());
        let preferred = places.get(self.preferred).copied().flatten();
        (self.preferred, self.unanswered) = (preferred.filter(|_| has_to_stay).unwrap_or_default(), 0);
        !has_to_stay
    }

    /// The end of a session by a key that is no longer accepted, if nothing has come in its place.
    pub(super) fn end_retired(&mut self, now: Instant) {
        if !self.current.as_ref().is_some_and(|session| session.is_retired() && session.ends_at() <= now) {
            return;
        }
        self.send_control(Control::Close(CloseReason::Stops as u8));
        self.end(Some(Rejection::KeyRemoved), now);
        let Some(link) = self.link else { return };
        if link.info.reliable {
            self.give_up(link.path, Rejection::KeyRemoved, now);
        } else if self.settings.side == Side::Listen && self.settings.persistence == Persistence::WhileFresh {
            (self.link, self.attempt) = (None, None);
            self.events.push_back(Event::PathRejected(link.path, Rejection::KeyRemoved));
        }
    }
}

/// Where the identity of a session is now.
fn place_of(session: &Session, places: &[Option<usize>]) -> Option<usize> {
    places.get(session.terms.identity).copied().flatten().filter(|_| !session.is_retired())
}
