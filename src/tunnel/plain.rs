//! A plain link, where a message is a packet: which path is the live one, and who may replace it.
//!
//! One peer at a time. On a reliable path (a TCP connection) a newcomer waits, unread, and replaces the live
//! path once that has been silent for [`TAKEOVER_SILENCE`]; after [`NEWCOMER_PATIENCE`] it is turned away. Each
//! replacement within a minute doubles the silence that the next one takes, so that two clients at one
//! server, both idle, do not push each other out for ever. On a datagram path the same host takes over with a new
//! port at once (a restarted client, a rebound address translation), another host after [`DATAGRAM_SILENCE`] or when
//! no packet has come by the path yet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::message::looks_secure;
use super::{Event, Path, PathInfo, Refused, Rejection, is_packet};
use crate::config::LinkLayer;

/// Silence of a live connection after which a newcomer replaces it.
pub const TAKEOVER_SILENCE: Duration = Duration::from_secs(1);

/// How long a newcomer's connection is held before it is closed.
pub const NEWCOMER_PATIENCE: Duration = Duration::from_secs(5);

/// Silence of the live datagram peer after which another host replaces it.
pub const DATAGRAM_SILENCE: Duration = Duration::from_secs(60);

/// How long a replacement is remembered against the next one.
const CONTEST_MEMORY: Duration = Duration::from_secs(60);

/// The greatest exponent of the doubling silence.
const MAX_CONTEST: u32 = 6;

/// Newcomers that wait at the same time; further ones are turned away at once.
const MAX_WAITING: usize = 8;

#[derive(Debug)]
struct Live {
    path: Path,
    info: PathInfo,
    /// When the last message came, or the path was adopted.
    heard_at: Instant,
    /// The peer was announced by `Event::Up`.
    announced: bool,
    /// A packet has come by this path.
    has_spoken: bool,
}

#[derive(Debug)]
struct Newcomer {
    path: Path,
    info: PathInfo,
    arrived_at: Instant,
}

/// The state machine. See the module's text.
#[derive(Debug)]
pub struct Plain {
    kind: LinkLayer,
    live: Option<Live>,
    waiting: VecDeque<Newcomer>,
    contest: u32,
    replaced_at: Option<Instant>,
    events: VecDeque<Event>,
}

impl Plain {
    /// A plain tunnel without a peer.
    pub fn new(kind: LinkLayer) -> Self {
        Self { kind, live: None, waiting: VecDeque::new(), contest: 0, replaced_at: None, events: VecDeque::new() }
    }

    /// The path that messages go out by.
    pub fn live_path(&self) -> Option<Path> {
        self.live.as_ref().map(|live| live.path)
    }

    /// Length of the message that carries a packet of `packet_len` bytes, which is the packet's; `None` if it fits no
    /// message of the live path, or there is none.
    #[must_use]
    pub fn message_len(&self, packet_len: usize) -> Option<usize> {
        let live = self.live.as_ref()?;
        (packet_len <= live.info.max_message).then_some(packet_len)
    }

    /// The longest packet that fits a message of the live path; see [`super::Tunnel::max_packet`].
    pub fn max_packet(&self) -> Option<usize> {
        Some(self.live.as_ref()?.info.max_message)
    }

    /// Takes a message that arrived by `path` and returns the packet in it.
    ///
    /// # Errors
    /// Why the message is dropped.
    pub fn open<'a>(&mut self, path: Path, message: &'a mut [u8], now: Instant) -> Result<&'a mut [u8], Refused> {
        let Some(live) = self.live.as_mut().filter(|live| live.path == path) else { return Err(Refused::NotLive) };
        if !live.has_spoken && looks_secure(message) {
            let path = live.path;
            self.end_live(Some(Rejection::WantsSecure), now);
            self.events.push_back(Event::PathRejected(path, Rejection::WantsSecure));
            self.adopt_waiting(now);
            return Err(Refused::WantsSecure);
        }
        if !is_packet(self.kind, message) {
            return Err(Refused::Invalid);
        }
        live.heard_at = now;
        live.has_spoken = true;
        if !live.announced {
            live.announced = true;
            self.events.push_back(Event::Up(live.info));
        }
        Ok(message)
    }

    /// Takes a new path. It is adopted, rejected, or it waits; see the module's text.
    pub fn link_up(&mut self, path: Path, info: PathInfo, now: Instant) {
        let newcomer = Newcomer { path, info, arrived_at: now };
        let Some(live) = &self.live else { return self.adopt(newcomer, now) };
        if info.reliable {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push_back(newcomer);
                self.settle(now);
            } else {
                self.events.push_back(Event::PathRejected(path, Rejection::Occupied));
            }
            return;
        }
        let same_host = live.info.peer.ip() == info.peer.ip();
        let silence = now.saturating_duration_since(live.heard_at);
        if same_host || !live.has_spoken || silence >= DATAGRAM_SILENCE {
            self.replace(newcomer, now);
        } else {
            self.events.push_back(Event::PathRejected(path, Rejection::Occupied));
        }
    }

    /// Takes the end of a path.
    pub fn link_down(&mut self, path: Path, now: Instant) {
        self.waiting.retain(|newcomer| newcomer.path != path);
        if self.live_path() == Some(path) {
            self.end_live(None, now);
            self.adopt_waiting(now);
        }
    }

    /// Takes the end of everything: the peer is gone, and nobody takes its place.
    pub fn close(&mut self, now: Instant) {
        self.waiting.clear();
        self.end_live(None, now);
    }

    /// The next thing to carry out.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let live = self.live.as_ref()?;
        let newcomer = self.waiting.front()?;
        Some((newcomer.arrived_at + NEWCOMER_PATIENCE).min(live.heard_at + self.takeover_silence(live.heard_at)))
    }

    /// Lets time pass: newcomers take over or are turned away.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    /// Replaces a silent live path by the newcomer that has waited longest, and turns impatient ones away.
    fn settle(&mut self, now: Instant) {
        let Some(live) = &self.live else { return };
        let silence = now.saturating_duration_since(live.heard_at);
        if silence >= self.takeover_silence(now)
            && let Some(newcomer) = self.waiting.pop_front()
        {
            self.count_replacement(now);
            self.replace(newcomer, now);
        }
        while let Some(newcomer) = self.waiting.front()
            && now.saturating_duration_since(newcomer.arrived_at) >= NEWCOMER_PATIENCE
        {
            self.events.push_back(Event::PathRejected(newcomer.path, Rejection::Occupied));
            self.waiting.pop_front();
        }
    }

    fn takeover_silence(&self, now: Instant) -> Duration {
        let remembered = self.replaced_at.is_some_and(|at| now.saturating_duration_since(at) < CONTEST_MEMORY);
        if remembered { TAKEOVER_SILENCE * 2u32.pow(self.contest.min(MAX_CONTEST)) } else { TAKEOVER_SILENCE }
    }

    fn count_replacement(&mut self, now: Instant) {
        let remembered = self.replaced_at.is_some_and(|at| now.saturating_duration_since(at) < CONTEST_MEMORY);
        self.contest = if remembered { (self.contest + 1).min(MAX_CONTEST) } else { 1 };
        self.replaced_at = Some(now);
    }

    fn adopt(&mut self, newcomer: Newcomer, now: Instant) {
        let Newcomer { path, info, .. } = newcomer;
        self.live = Some(Live { path, info, heard_at: now, announced: info.reliable, has_spoken: false });
        self.events.push_back(Event::PathAdopted(path));
        if info.reliable {
            self.events.push_back(Event::Up(info));
        }
    }

    fn replace(&mut self, newcomer: Newcomer, now: Instant) {
        let old = self.live.as_ref().map(|live| (live.path, live.info, live.announced, live.has_spoken, live.heard_at));
        let Some((path, info, announced, has_spoken, heard_at)) = old else { return self.adopt(newcomer, now) };
        let same_host = info.peer.ip() == newcomer.info.peer.ip();
        if info.reliable || !same_host {
            self.end_live(Some(Rejection::Replaced), now);
            self.events.push_back(Event::PathRejected(path, Rejection::Replaced));
            return self.adopt(newcomer, now);
        }
        // The same host by another port: it stays the peer that it was, and an empty datagram from there is no sign of
        // life by which another host could be kept out, or let in.
        let Newcomer { path: new_path, info, .. } = newcomer;
        self.events.push_back(Event::PathRejected(path, Rejection::Replaced));
        self.live = Some(Live { path: new_path, info, heard_at, announced, has_spoken });
        self.events.push_back(Event::PathAdopted(new_path));
        if announced {
            self.events.push_back(Event::Moved(info.peer));
        }
    }

    fn adopt_waiting(&mut self, now: Instant) {
        if let Some(next) = self.waiting.pop_front() {
            self.adopt(next, now);
        }
    }

    fn end_live(&mut self, why: Option<Rejection>, now: Instant) {
        if let Some(live) = self.live.take().filter(|live| live.announced) {
            let idle = now.saturating_duration_since(live.heard_at);
            self.events.push_back(Event::Down { idle, peer: live.info.peer, why });
        }
    }
}

#[cfg(test)]
mod tests;
