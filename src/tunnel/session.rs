//! One session: its keys, its counters, and how long it may be used. Pure.

use std::time::{Duration, Instant};

use byteorder::ByteOrder;

use super::crypto::Aead;
use super::handshake::SessionKeys;
use super::message::{HEADER_LEN, Header, Instance, OVERHEAD};
use super::replay::ReplayWindow;
use super::{Path, Refused};

/// When a session is to be replaced and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The end that began it makes a new one after this time.
    pub rekey_after: Duration,
    /// The other end does after this.
    pub peer_rekey_after: Duration,
    /// Nobody uses it after this.
    pub ends_after: Duration,
    /// Messages in one direction after which the end that began it makes a new one.
    pub messages: u64,
    /// Bytes of plaintext in one direction, likewise.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rekey_after: Duration::from_secs(120),
            peer_rekey_after: Duration::from_secs(140),
            ends_after: Duration::from_secs(180),
            messages: 1 << 28,
            bytes: 1 << 37,
        }
    }
}

impl Limits {
    /// With a shorter time between handshakes, for tests of them.
    pub fn rekeying_after(time: Duration) -> Self {
        let all = Self::default();
        let rekey_after = time.min(all.rekey_after);
        Self { rekey_after, peer_rekey_after: rekey_after * 7 / 6, ..all }
    }
}

/// Which end has begun a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// This one.
    Here,
    /// The peer.
    There,
}

/// What both ends have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How messages are sealed.
    pub aead: Aead,
    /// Features that both want.
    pub features: u32,
    /// The peer's run.
    pub instance: Instance,
    /// Who has begun.
    pub begun: Begun,
    /// The connection that it belongs to, if it does.
    pub bound: Option<Path>,
    /// Which of this end's identities has made it; of no meaning once it is retired.
    pub identity: usize,
    /// After which silence the peer takes the link for down, if it has said so.
    pub peer_down_after: Option<Duration>,
}

/// How much went in one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    messages: u64,
    bytes: u64,
}

/// A session. See the module's text.
pub struct Session {
    local: u32,
    remote: u32,
    keys: SessionKeys,
    window: ReplayWindow,
    /// What was agreed on.
    pub terms: Terms,
    limits: Limits,
    sent: Amount,
    received: Amount,
    begun_at: Instant,
    rekey_at: Instant,
    ends_at: Instant,
    /// Its identity is no longer one of this end.
    retired: bool,
}

impl Session {
    /// Begins a session. `local` and `remote` are the indices that the two ends have chosen; `spread` is added to
    /// the time after which this end rekeys.
    pub fn new(
        (local, remote): (u32, u32),
        keys: SessionKeys,
        terms: Terms,
        limits: Limits,
        spread: Duration,
        now: Instant,
    ) -> Self {
        let rekey_after = match terms.begun {
            Begun::Here => limits.rekey_after + spread,
            Begun::There => limits.peer_rekey_after,
        };
        Self {
            local,
            remote,
            keys,
            window: ReplayWindow::default(),
            terms,
            limits,
            sent: Amount::default(),
            received: Amount::default(),
            begun_at: now,
            rekey_at: now + rekey_after,
            ends_at: now + limits.ends_after,
            retired: false,
        }
    }

    /// The key that it was made with is no longer accepted: it ends at this time, if it does not before.
    pub fn retire(&mut self, at: Instant) {
        (self.ends_at, self.retired) = (self.ends_at.min(at), true);
    }

    /// True if the key that it was made with is no longer accepted.
    pub fn is_retired(&self) -> bool {
        self.retired
    }

    /// Lowers the limits, for tests of ends that disagree about them.
    #[cfg(test)]
    pub(super) fn restrict(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The index by which the peer addresses it.
    pub fn local(&self) -> u32 {
        self.local
    }

    /// When its keys were made.
    pub fn begun_at(&self) -> Instant {
        self.begun_at
    }

    /// How many messages the peer has sealed at least.
    pub fn expected(&self) -> u64 {
        self.window.end()
    }

    /// When it is to be replaced for its age.
    pub fn rekey_at(&self) -> Instant {
        self.rekey_at
    }

    /// When it ends.
    pub fn ends_at(&self) -> Instant {
        self.ends_at
    }

    /// True if it is to be replaced for what has gone through it.
    pub fn is_worn(&self) -> bool {
        // 9/8 of the limits for the end that has not begun it.
        let allowance = |limit: u64| match self.terms.begun {
            Begun::Here => limit,
            Begun::There => limit + limit / 8,
        };
        let exceeds = |amount: Amount| {
            amount.messages >= allowance(self.limits.messages) || amount.bytes >= allowance(self.limits.bytes)
        };
        exceeds(self.sent) || exceeds(self.received)
    }

    /// True if nothing may be sent by it any more, whatever its age.
    pub fn is_spent(&self) -> bool {
        is_spent(self.sent, &self.limits)
    }

    /// Seals `plain` into `message`, which is [`OVERHEAD`] bytes longer. What must not be sent becomes zeros, which
    /// nobody accepts.
    pub fn seal(&mut self, kind: u8, flags: u16, plain: &[u8], message: &mut [u8]) {
        let mut header = Header::unnumbered(kind, flags, self.remote);
        let spent = self.is_spent();
        self.sent.messages += 1;
        self.sent.bytes += plain.len() as u64;
        let room = message.split_first_chunk_mut::<HEADER_LEN>().filter(|_| !spent);
        if let Some((clear, body)) = room
            && self.keys.sealer.seal(&mut header, plain, body)
        {
            *clear = header;
            return;
        }
        message.fill(0);
    }

    /// Opens a message that is addressed to this session, in place. The second value is true if no message with a
    /// greater counter was accepted before.
    ///
    /// # Errors
    /// Why it is not accepted; nothing has changed then.
    pub fn open<'a>(&mut self, message: &'a mut [u8], now: Instant) -> Result<(&'a mut [u8], bool), Refused> {
        if message.len() < OVERHEAD {
            return Err(Refused::NotAMessage);
        }
        let Some((clear, body)) = message.split_first_chunk_mut::<HEADER_LEN>() else {
            return Err(Refused::NotAMessage);
        };
        let header = Header::parse(clear);
        // The flags are authenticated with the rest; a lane beyond the first was not agreed.
        if header.lane != 0 {
            return Err(Refused::NotAMessage);
        }
        if now >= self.ends_at || is_spent(self.received, &self.limits) {
            return Err(Refused::UnknownSession);
        }
        if !self.window.accepts(header.counter) {
            return Err(Refused::Replayed);
        }
        let plain = self.keys.opener.open(clear, body).ok_or(Refused::NotAuthentic)?;
        let newest = self.window.is_newest(header.counter);
        self.window.commit(header.counter);
        self.received.messages += 1;
        self.received.bytes += plain.len() as u64;
        Ok((plain, newest))
    }
}

fn is_spent(amount: Amount, limits: &Limits) -> bool {
    amount.messages >= limits.messages.saturating_mul(2) || amount.bytes >= limits.bytes.saturating_mul(2)
}

/// The index that DATA, SUPER or CTRL is addressed to; `None` if the message is too short for one.
pub fn receiver(message: &[u8]) -> Option<u32> {
    let header = message.get(4..8).filter(|_| message.len() >= OVERHEAD)?;
    Some(byteorder::BigEndian::read_u32(header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_between_handshakes_is_shortened_and_never_lengthened() {
        let (all, second) = (Limits::default(), Duration::from_secs(1));
        assert_eq!(Limits::rekeying_after(Duration::MAX), all);
        assert_eq!(Limits::rekeying_after(120 * second), all);
        let short = Limits::rekeying_after(6 * second);
        assert_eq!((short.rekey_after, short.peer_rekey_after), (6 * second, 7 * second));
        assert_eq!(Limits { rekey_after: all.rekey_after, peer_rekey_after: all.peer_rekey_after, ..short }, all);
    }
}
