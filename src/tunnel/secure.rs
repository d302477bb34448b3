//! A secure link: sessions under keys that only the two ends have (`docs/PROTOCOL.md`, "Secure links").
//!
//! Pure: bytes, paths and `now` in; events and messages out; chance comes through [`Randomness`]. Here are the sessions and
//! what comes through them; `initiator` begins handshakes and reads their answers, `responder` answers them, `state` says
//! what becomes of the link, `exchange` takes other settings and keys while it is up, `probing` finds out how long its messages
//! may be, by `fragments` longer packets cross in parts, and `measuring` finds out what the link carries.
//!
//! Three rules hold everywhere: nothing is sent, and no state but limits and counters changes, because of a message that
//! is not authentic; a handshake replaces something only when its session is confirmed; and whatever costs more than
//! a hash stands behind mac1.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::arrivals::Arrivals;
use super::gate::Gate;
use super::identity::Identity;
use super::liveness::{Due, Liveness};
use super::message::{
    self, CTRL, CloseReason, Control, DATA, FEATURE_FRAGMENTS, FEATURE_SUPER_TCP_V4, FEATURE_SUPER_TCP_V6,
    FEATURE_SUPER_UDP, FEATURES_RELIABLE, FRAG, INIT, Instance, OVERHEAD, RESP, SUPER, Side, Timestamp,
};
use super::meter::Meter;
use super::parts::Joiner;
use super::path_mtu::PathMtu;
pub use super::session::Limits;
use super::session::{self, Session};
use super::{Event, Notice, Opened, Path, PathInfo, Refused, Rejection, Transmit, is_packet};
use crate::offload::{Checksum, Segmentation};

mod exchange;
mod fragments;
mod initiator;
mod measuring;
mod probing;
mod responder;
mod settings;
mod state;

use initiator::{Attempt, Reason};
pub use settings::{Endpoint, Persistence, Randomness, Settings};

/// Sessions beside the current one by which messages are still accepted.
const MAX_PREVIOUS: usize = 2;

/// Sessions of a responder that wait for their confirmation: as many as the initiator has INITs under way, for when the
/// round trip is longer than its patience, it confirms the first that was answered.
const MAX_NEXT: usize = 5;

/// Time for the confirmation of a session.
const CONFIRMATION_PATIENCE: Duration = Duration::from_secs(1);

/// A kind of notice is given again after this time at the earliest.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);

/// Where messages go.
#[derive(Clone, Copy, Debug)]
struct Link {
    path: Path,
    info: PathInfo,
}

/// The state machine of a secure link. See the module's text.
pub struct Secure {
    settings: Settings,
    identities: Vec<Identity>,
    /// The greatest timestamp seen from the peer, for each identity.
    greatest_seen: Vec<Timestamp>,
    /// The identity that was of use last.
    preferred: usize,
    /// INITs since then, over all attempts: a connection has one only.
    unanswered: usize,
    random: Box<dyn Randomness>,
    instance: Instance,
    /// The wall clock's time at the moment `started_at`.
    started_wall: Duration,
    started_at: Instant,
    /// The timestamp sent last.
    stamped: Timestamp,
    link: Option<Link>,
    current: Option<Session>,
    next: VecDeque<Session>,
    previous: VecDeque<Session>,
    attempt: Option<Attempt>,
    gate: Gate,
    liveness: Option<Liveness>,
    /// On a datagram link, once the transport has said what the interface takes.
    path_mtu: Option<PathMtu>,
    arrivals: Arrivals,
    /// Packets that arrive in parts, how many were sent so, and room for one part.
    joiner: Joiner,
    packets_in_parts: u32,
    part: Vec<u8>,
    meter: Meter,
    /// The plaintext of a load that is about to be sealed.
    load: Vec<u8>,
    up: bool,
    interrupted: bool,
    /// The host sends nothing into the device, whatever it may have to send.
    demand_hidden: bool,
    /// Where the peer was last.
    last_peer: Option<SocketAddr>,
    peer_instance: Option<Instance>,
    /// Instances that another one has taken the place of, with the time.
    replaced: VecDeque<(Instance, Instant)>,
    /// When each kind of notice was given last.
    noticed: [Option<Instant>; Notice::KINDS],
    events: VecDeque<Event>,
    /// Holds no more than one turn of the loop has caused, which the budgets of the pumps bound.
    transmits: VecDeque<Transmit>,
}

/// Which session a message belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Current,
    Next(usize),
    Previous(usize),
}

impl Secure {
    /// A link without a peer. `wall` is the time since 1970 at the moment `now`. The first of the identities is the one that is
    /// offered first; there has to be at least one, and all are of one suite. `None` if there is none, or no
    /// randomness to draw the instance from.
    pub fn new(
        settings: Settings,
        identities: Vec<Identity>,
        mut random: Box<dyn Randomness>,
        now: Instant,
        wall: Duration,
    ) -> Option<Self> {
        let mut instance = Instance::default();
        if identities.is_empty() || !random.fill(&mut instance) {
            return None;
        }
        Some(Self {
            greatest_seen: vec![Timestamp::default(); identities.len()],
            settings,
            identities,
            preferred: 0,
            unanswered: 0,
            random,
            instance,
            started_wall: wall,
            started_at: now,
            stamped: Timestamp::default(),
            link: None,
            current: None,
            next: VecDeque::with_capacity(MAX_NEXT),
            previous: VecDeque::with_capacity(MAX_PREVIOUS),
            attempt: None,
            gate: Gate::new(now),
            liveness: None,
            path_mtu: None,
            arrivals: Arrivals::new(now),
            joiner: Joiner::default(),
            packets_in_parts: 0,
            part: Vec::new(),
            meter: Meter::default(),
            load: Vec::new(),
            up: false,
            interrupted: false,
            demand_hidden: false,
            last_peer: None,
            peer_instance: None,
            replaced: VecDeque::new(),
            noticed: [None; Notice::KINDS],
            events: VecDeque::new(),
            transmits: VecDeque::new(),
        })
    }

    /// The path that messages go out by.
    pub fn live_path(&self) -> Option<Path> {
        self.link.map(|link| link.path)
    }

    /// True if packets can go out.
    pub fn has_session(&self) -> bool {
        self.link.is_some() && self.current.as_ref().is_some_and(|session| !session.is_spent())
    }

    /// Length of the message that carries a packet of this length; see [`super::Tunnel::message_len`].
    pub fn message_len(&mut self, packet_len: usize, now: Instant) -> Option<usize> {
        let link = self.link?;
        // Also with a session: the peer may have lost it.
        self.hurry(now);
        if !self.current.as_ref().is_some_and(|session| !session.is_spent() && now < session.ends_at()) {
            return None;
        }
        let (len, mut limit) = (packet_len + OVERHEAD, link.info.max_message);
        if let Some(path_mtu) = &mut self.path_mtu {
            path_mtu.asked(len, now);
            limit = limit.min(path_mtu.limit());
        }
        (len <= limit).then_some(len)
    }

    /// The longest packet that fits a message at present; see [`super::Tunnel::max_packet`].
    pub fn max_packet(&self) -> Option<usize> {
        let (link, probed) = (self.link?, self.path_mtu.as_ref().map_or(usize::MAX, PathMtu::limit));
        Some(link.info.max_message.min(probed).saturating_sub(OVERHEAD))
    }

    /// True if some kind of super-packet may cross whole.
    pub fn takes_super_packets(&self) -> bool {
        self.current.as_ref().is_some_and(|session| session.terms.features & FEATURES_RELIABLE != 0)
    }

    /// As [`message_len`](Self::message_len), for a super-packet with its virtio header.
    pub fn super_message_len(&mut self, kind: Segmentation, len: usize, now: Instant) -> Option<usize> {
        let bit = match kind {
            Segmentation::TcpV4 => FEATURE_SUPER_TCP_V4,
            Segmentation::TcpV6 => FEATURE_SUPER_TCP_V6,
            Segmentation::Udp => FEATURE_SUPER_UDP,
        };
        if self.current.as_ref()?.terms.features & bit == 0 {
            return None;
        }
        self.message_len(len, now)
    }

    /// Seals a packet; `message` is as long as was asked for.
    pub fn seal(&mut self, kind: u8, flags: u16, plain: &[u8], message: &mut [u8], now: Instant) {
        let Some(session) = &mut self.current else { return message.fill(0) };
        session.seal(kind, flags, plain, message);
        if let Some(liveness) = &mut self.liveness {
            liveness.sent(now);
        }
    }

    /// Takes a message; see [`super::Tunnel::open`].
    ///
    /// # Errors
    /// Why it is dropped. On a reliable path most reasons end the path, too.
    pub fn open<'a>(
        &mut self,
        path: Path,
        info: &PathInfo,
        message: &'a mut [u8],
        now: Instant,
    ) -> Result<Opened<'a>, Refused> {
        let result = match message.first().copied() {
            Some(INIT) => self.handle_init(path, info, message, now).map(|()| Opened::Nothing),
            Some(RESP) => self.handle_resp(path, info, message, now).map(|()| Opened::Nothing),
            Some(DATA | SUPER | CTRL | FRAG) => self.handle_sealed(path, info, message, now),
            _ => {
                if message::looks_plain(self.settings.kind, message) {
                    self.notice(Notice::PlainPeer(info.peer), now);
                }
                Err(Refused::NotAMessage)
            }
        };
        if let Err(refused) = result
            && info.reliable
            && !matches!(refused, Refused::Invalid | Refused::HandshakeRefused)
        {
            self.give_up(path, Rejection::NotAuthentic, now);
        }
        result
    }

    fn handle_sealed<'a>(
        &mut self,
        path: Path,
        info: &PathInfo,
        message: &'a mut [u8],
        now: Instant,
    ) -> Result<Opened<'a>, Refused> {
        let index = session::receiver(message).ok_or(Refused::NotAMessage)?;
        let slot = self.slot(index).ok_or(Refused::UnknownSession)?;
        let Some(session) = self.session_mut(slot) else { return Err(Refused::UnknownSession) };
        if session.terms.bound.is_some_and(|bound| bound != path) {
            return Err(Refused::UnknownSession);
        }
        let (kind, flags) = (message[0], u16::from_be_bytes([message[2], message[3]]));
        let expected = session.expected();
        let takes_parts = session.terms.features & FEATURE_FRAGMENTS != 0;
        let (plain, newest) = session.open(message, now)?;
        let expected = session.expected() - expected;
        self.arrivals.count(expected, now);
        match slot {
            // The peer may be about to change to one that was made after this.
            Slot::Next(index) => {
                let confirmed = self.next.drain(..=index).next_back();
                if let Some(session) = confirmed {
                    self.complete(session, path, info, now);
                }
            }
            Slot::Current if newest => self.follow(path, info),
            Slot::Current | Slot::Previous(_) => {}
        }
        self.heard(info, now);
        match kind {
            DATA if is_packet(self.settings.kind, plain) => {
                let made = flags & message::FLAG_CHECKSUM_MADE != 0;
                Ok(Opened::Packet(plain, if made { Checksum::Made } else { Checksum::Unknown }))
            }
            SUPER if info.reliable => Ok(Opened::Super(plain)),
            FRAG if takes_parts => self.join(index, plain, flags, now),
            CTRL => {
                self.handle_control(Control::parse(plain), path, slot, now);
                Ok(Opened::Nothing)
            }
            _ => Err(Refused::Invalid),
        }
    }

    fn handle_control(&mut self, control: Control, path: Path, slot: Slot, now: Instant) {
        match control {
            Control::Ping { token, len } => {
                let size = u16::try_from(len).unwrap_or(u16::MAX);
                self.send_control(Control::Pong { token, size });
            }
            Control::Pong { token, size } => {
                if !self.handle_measured_pong(token, now)
                    && !self.handle_probe_answer(token, size, now)
                    && let Some(liveness) = &mut self.liveness
                {
                    liveness.ponged(token, now);
                }
            }
            // The goodbye of a client that was replaced is not that of its successor. But a peer that leaves before it
            // has seen its newest session confirmed says so by the one before.
            Control::Close(reason) if self.is_of_peer(slot) => self.handle_goodbye(reason, path, now),
            Control::Measure(message) if self.is_of_peer(slot) => self.handle_measurement(message, now),
            Control::Measure(_) | Control::Close(_) | Control::Empty | Control::Unknown => {}
        }
    }

    /// True if the session is one with the peer of the current session, or with one that is about to be it.
    fn is_of_peer(&self, slot: Slot) -> bool {
        let Slot::Previous(index) = slot else { return true };
        self.previous.get(index).is_some_and(|session| Some(session.terms.instance) == self.peer_instance)
    }

    /// Takes a new path: the way to try a handshake by.
    pub fn link_up(&mut self, path: Path, info: PathInfo, now: Instant) {
        if info.reliable && self.settings.side == Side::Listen {
            // The peer has to show first that it is the peer.
            return;
        }
        self.link = Some(Link { path, info });
        self.attempt = None;
        self.begin(Reason::Start, now);
    }

    /// Takes the end of a path.
    pub fn link_down(&mut self, path: Path, now: Instant) {
        self.forget_path(path, None, now);
    }

    /// Says goodbye and ends everything.
    pub fn close(&mut self, reason: CloseReason, now: Instant) {
        self.send_control(Control::Close(reason as u8));
        self.attempt = None;
        self.end(None, now);
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next message of the link itself.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The earliest deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let attempt = self.attempt.as_ref().map(Attempt::next_at);
        let sessions = self.current.iter().chain(&self.next).chain(&self.previous);
        let end = sessions.map(Session::ends_at).min();
        let rekey = self.rekey_at().filter(|_| self.attempt.is_none());
        let liveness = self.liveness.as_ref().filter(|_| self.up).and_then(Liveness::deadline);
        let (probe, parts) = (self.probe_deadline(), self.joiner.deadline());
        [attempt, end, rekey, liveness, probe, parts, self.meter.deadline()].into_iter().flatten().min()
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        let ended = |session: &mut Session| session.ends_at() <= now;
        self.end_retired(now);
        self.current.take_if(ended);
        self.next.retain(|session| session.ends_at() > now);
        self.previous.retain(|session| session.ends_at() > now);
        while self.up
            && let Some(due) = self.liveness.as_mut().and_then(|liveness| liveness.poll(now))
        {
            self.handle_due(due, now);
        }
        if self.rekey_at().is_some_and(|at| at <= now) {
            self.begin(Reason::Rekey, now);
        }
        self.continue_attempt(now);
        self.handle_probe_timeout(now);
        self.expire_parts(now);
        self.handle_measurement_timeout(now);
    }

    /// When a handshake is begun because the session is old or worn: not while the peer's own, which was answered a
    /// moment ago, may still come to its end.
    fn rekey_at(&self) -> Option<Instant> {
        let session = self.current.as_ref().filter(|_| self.link.is_some())?;
        let at = if session.is_worn() { self.started_at } else { session.rekey_at() };
        Some(self.next.iter().map(|next| next.begun_at() + CONFIRMATION_PATIENCE).fold(at, Instant::max))
    }

    /// Sends a control message by the current session, if there is one that may be used.
    fn send_control(&mut self, control: Control) {
        let (Some(link), Some(session)) = (self.link, &mut self.current) else { return };
        if session.is_spent() {
            return;
        }
        let plain = control.to_bytes();
        let mut message = vec![0; plain.len() + OVERHEAD];
        session.seal(CTRL, 0, &plain, &mut message);
        self.transmits.push_back(Transmit { path: link.path, message });
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        let is = |session: &Session| session.local() == index;
        if self.current.as_ref().is_some_and(is) {
            return Some(Slot::Current);
        }
        let next = || self.next.iter().position(is).map(Slot::Next);
        self.previous.iter().position(is).map(Slot::Previous).or_else(next)
    }

    fn session_mut(&mut self, slot: Slot) -> Option<&mut Session> {
        match slot {
            Slot::Current => self.current.as_mut(),
            Slot::Next(index) => self.next.get_mut(index),
            Slot::Previous(index) => self.previous.get_mut(index),
        }
    }

    /// A random index that nothing alive has.
    fn fresh_index(&mut self) -> Option<u32> {
        loop {
            let mut bytes = [0; 4];
            if !self.random.fill(&mut bytes) {
                return None;
            }
            let index = u32::from_be_bytes(bytes);
            let taken = self.slot(index).is_some() || self.attempt.as_ref().is_some_and(|attempt| attempt.has(index));
            if index != 0 && !taken {
                return Some(index);
            }
        }
    }

    fn notice(&mut self, notice: Notice, now: Instant) {
        let last = &mut self.noticed[notice.kind()];
        if last.is_none_or(|at| now.saturating_duration_since(at) >= NOTICE_INTERVAL) {
            *last = Some(now);
            self.events.push_back(Event::Notice(notice));
        }
    }

    /// Gives notice if the two devices are known to have different MTUs.
    fn compare_mtu(&mut self, theirs: u16, now: Instant) {
        let ours = self.settings.mtu;
        if ours != 0 && theirs != 0 && ours != theirs {
            self.notice(Notice::MtuDiffers(ours, theirs), now);
        }
    }
}

#[cfg(test)]
mod tests;
