//! Answering handshakes, cheap checks first: nothing is stored or sent before all of them have passed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{MAX_NEXT, Secure, Side};
use crate::tunnel::crypto::{Aead, KEY_LEN, MAC_LEN};
use crate::tunnel::handshake::{self, Invitation};
use crate::tunnel::message::{Answer, FEATURE_AES, FEATURE_AES_ONLY, Instance, Offer, Status, Timestamp, looks_secure};
use crate::tunnel::session::{Begun, Session, Terms};
use crate::tunnel::{Notice, Path, PathInfo, Refused, Transmit};

/// The connecting end ignores the other one's handshake for this long after it has begun one itself.
const CROSSING: Duration = Duration::from_secs(1);

/// How long an instance is remembered that was replaced by another.
const REPLACED_MEMORY: Duration = Duration::from_secs(60);

/// How many are.
const MAX_REPLACED: usize = 8;

impl Secure {
    /// Takes an INIT.
    ///
    /// # Errors
    /// Why it is not answered, or refused.
    pub(super) fn handle_init(
        &mut self,
        path: Path,
        info: &PathInfo,
        message: &[u8],
        now: Instant,
    ) -> Result<(), Refused> {
        if !self.identities.first().is_some_and(|identity| handshake::is_init(identity, message)) {
            // Of the other suite: one end has a secret and the other keys.
            if looks_secure(message) {
                self.notice(Notice::WrongKey(info.peer), now);
            }
            return Err(Refused::NotAMessage);
        }
        let Some(index) = self.identities.iter().position(|identity| identity.incoming().verifies(message)) else {
            self.explain_bad_mac(info, message, now);
            return Err(Refused::BadHandshake);
        };
        let mac: [u8; MAC_LEN] = message.last_chunk().copied().ok_or(Refused::NotAMessage)?;
        if !self.gate.is_new(mac) {
            return Err(Refused::HandshakeReplayed);
        }
        if !self.gate.admits(info.peer.ip(), now) {
            return Err(Refused::HandshakeLimited);
        }
        let crossing = self.attempt.as_ref().is_some_and(|attempt| attempt.began_within(CROSSING, now));
        if self.settings.side == Side::Connect && crossing {
            return Err(Refused::HandshakeRefused);
        }
        let mut ephemeral = Zeroizing::new([0; KEY_LEN]);
        if !self.random.fill(&mut *ephemeral) {
            return Err(Refused::HandshakeLimited);
        }
        let invitation =
            handshake::read_init(&self.identities[index], ephemeral, message).ok_or(Refused::BadHandshake)?;
        self.decide(index, invitation, path, info, now)
    }

    /// Decides about an authentic INIT.
    fn decide(
        &mut self,
        identity: usize,
        invitation: Invitation,
        path: Path,
        info: &PathInfo,
        now: Instant,
    ) -> Result<(), Refused> {
        let offer = invitation.offer;
        let greatest = self.greatest_seen[identity];
        let aead = self.choose_aead(&offer);
        let status = if offer.timestamp <= greatest {
            Status::Stale
        } else {
            self.greatest_seen[identity] = offer.timestamp;
            self.judge(&offer, aead, now)
        };
        if status == Status::Ok {
            self.compare_mtu(offer.mtu, now);
            return self.accept(identity, invitation, aead, path, info, now);
        }
        match status {
            Status::Kind => self.notice(Notice::PeerKind(offer.kind), now),
            Status::Feature => self.notice(Notice::Feature, now),
            Status::Busy => self.notice(Notice::TwoPeers(info.peer), now),
            Status::Ok | Status::Stale => {}
        }
        if self.gate.may_refuse(now) {
            let last_timestamp = if status == Status::Stale { greatest } else { Timestamp::default() };
            let answer = Answer { last_timestamp, ..self.answer(status, aead, 0) };
            if let Some((message, _)) = invitation.answer(&self.identities[identity], 0, answer, None) {
                self.transmits.push_back(Transmit { path, message });
            }
        }
        Err(Refused::HandshakeRefused)
    }

    fn choose_aead(&self, offer: &Offer) -> Aead {
        if self.settings.wants_aes() && offer.features & FEATURE_AES != 0 {
            Aead::Aes256Gcm
        } else {
            Aead::ChaCha20Poly1305
        }
    }

    fn judge(&self, offer: &Offer, aead: Aead, now: Instant) -> Status {
        if offer.kind != Some(self.settings.kind) {
            Status::Kind
        } else if offer.tunnel != [0; 16] || !self.settings.allows(aead) || insists_otherwise(offer, aead) {
            Status::Feature
        } else if self.is_loser(&offer.instance, now) {
            Status::Busy
        } else {
            Status::Ok
        }
    }

    /// True for an instance that another one has replaced, and that one is alive: two ends have the same key.
    fn is_loser(&self, instance: &Instance, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < REPLACED_MEMORY;
        self.up
            && self.peer_instance.as_ref() != Some(instance)
            && self.replaced.iter().any(|(replaced, at)| replaced == instance && recent(*at))
    }

    /// The session is stored and the answer sent; nothing else changes until the peer has confirmed.
    fn accept(
        &mut self,
        identity: usize,
        invitation: Invitation,
        aead: Aead,
        path: Path,
        info: &PathInfo,
        now: Instant,
    ) -> Result<(), Refused> {
        let index = self.fresh_index().ok_or(Refused::HandshakeLimited)?;
        let features = invitation.offer.features & self.settings.features(info);
        let answer = self.answer(Status::Ok, aead, features);
        let (remote, offer) = (invitation.sender(), invitation.offer);
        let (message, keys) =
            invitation.answer(&self.identities[identity], index, answer, Some(aead)).ok_or(Refused::BadHandshake)?;
        let keys = keys.ok_or(Refused::BadHandshake)?;
        let terms = Terms {
            aead,
            features,
            instance: offer.instance,
            begun: Begun::There,
            bound: info.reliable.then_some(path),
            identity,
            peer_down_after: Some(Duration::from_millis(offer.down_after_ms.into())),
        };
        if self.next.len() >= MAX_NEXT {
            self.next.pop_front();
        }
        let limits = self.settings.limits;
        self.next.push_back(Session::new((index, remote), keys, terms, limits, Duration::ZERO, now));
        self.preferred = identity;
        self.give_way(now);
        self.transmits.push_back(Transmit { path, message });
        Ok(())
    }

    fn answer(&self, status: Status, aead: Aead, features: u32) -> Answer {
        Answer {
            status: Some(status),
            aead: aead as u8,
            kind: Some(self.settings.kind),
            mtu: self.settings.mtu,
            features,
            instance: self.instance,
            last_timestamp: Timestamp::default(),
        }
    }

    /// Finds out, for the log alone and at most once a second, what is the matter with a handshake that no key of this
    /// end has made.
    fn explain_bad_mac(&mut self, info: &PathInfo, message: &[u8], now: Instant) {
        let index = handshake::sender_index(message);
        let own = self.attempt.as_ref().is_some_and(|attempt| attempt.has(index));
        let asked = [Notice::SameSide(info.peer), Notice::WrongKey(info.peer)];
        let recently = asked.iter().any(|notice| {
            let last = self.noticed[notice.kind()];
            last.is_some_and(|at| now.saturating_duration_since(at) < super::NOTICE_INTERVAL)
        });
        // Our own message that comes back says nothing.
        if own || recently {
            return;
        }
        let same_side = self.identities.iter().any(|identity| identity.from_same_side().verifies(message));
        self.notice(if same_side { asked[0] } else { asked[1] }, now);
    }
}

/// True if the initiator does without a session rather than with this AEAD.
fn insists_otherwise(offer: &Offer, aead: Aead) -> bool {
    offer.features & FEATURE_AES_ONLY != 0 && aead != Aead::Aes256Gcm
}

/// Remembers an instance that another one has replaced.
pub(super) fn remember_replaced(replaced: &mut VecDeque<(Instance, Instant)>, instance: Instance, now: Instant) {
    replaced.retain(|(old, at)| *old != instance && now.saturating_duration_since(*at) < REPLACED_MEMORY);
    if replaced.len() >= MAX_REPLACED {
        replaced.pop_front();
    }
    replaced.push_back((instance, now));
}
