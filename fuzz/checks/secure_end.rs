//! One end of a secure link with a transport that has only numbers: what it may send where, and what it has to do with
//! what it is given.
//!
//! What is checked here needs no knowledge of the other end: see [`End::open`] and [`End::tick`].

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use simpletun::offload::Checksum;
use simpletun::tunnel::identity::Identity;
use simpletun::tunnel::keys::{PrivateKey, SharedSecret};
use simpletun::tunnel::message::{CTRL, CloseReason, DATA, FRAG, INIT, RESP, SUPER, Side};
use simpletun::tunnel::parts::{PART_HEADER_LEN, Part};
use simpletun::tunnel::secure::{Secure, Settings};
use simpletun::tunnel::{Event, Opened, Path, PathInfo, Refused, Rejection, Transmit, Tunnel};

use super::script::Chance;

/// What one call may cause at most, in messages and in events.
const MAX_TRANSMITS: usize = 4;
const MAX_EVENTS: usize = 8;

/// Calls of `handle_timeout` after which nothing may be due any more at the same moment.
const MAX_TURNS: usize = 4;

/// The longest message of a datagram link, so that some packets cross in parts.
const NARROW: usize = 160;

/// Which secrets a link is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    Shared,
    Keys,
    KeysAndPsk,
}

/// What an end holds, as numbers of keys or secrets: its own key (key pairs only) and those it accepts.
#[derive(Clone, Debug)]
pub struct Holding {
    pub secrets: Secrets,
    pub own: usize,
    pub accepted: Vec<usize>,
}

impl Holding {
    pub fn identities(&self, side: Side) -> Vec<Identity> {
        self.accepted.iter().map(|peer| identity(self.secrets, side, self.own, *peer)).collect()
    }
}

/// Keys that neither end accepts.
pub const FOREIGN: usize = 2;

/// The identity of an end, from a table: each costs a Diffie-Hellman exchange.
pub fn identity(secrets: Secrets, side: Side, own: usize, peer: usize) -> Identity {
    static TABLE: OnceLock<Vec<Identity>> = OnceLock::new();
    let private = |side: Side, number: usize| PrivateKey::from_bytes([side as u8 * 16 + number as u8 + 1; 32]);
    let make = |place: usize| {
        let (own, peer) = (place % 3, place / 3 % 3);
        let side = [Side::Connect, Side::Listen][place / 9 % 2];
        let psk = (place / 18 == 2).then(|| SharedSecret::from_bytes([77; 32]));
        match place / 18 {
            0 => Identity::with_secret(SharedSecret::from_bytes([peer as u8 + 1; 32]), side),
            _ => Identity::with_keys(&private(side, own), private(side.other(), peer).public(), psk, side)
                .expect("keys of some use"),
        }
    };
    let table = TABLE.get_or_init(|| (0..54).map(make).collect());
    table[own + peer * 3 + (side as usize - 1) * 9 + secrets as usize * 18].clone()
}

/// A path with the address at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: Path,
    pub address: u64,
}

/// Where a message comes from, as far as the world knows and the end does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The peer has made exactly this message.
    Peer,
    /// Nobody who has the keys has.
    Forged,
}

/// What an end has done with what it was given.
#[derive(Default)]
pub struct Outcome {
    pub packet: Option<Vec<u8>>,
    pub accepted: bool,
    pub transmits: Vec<Transmit>,
    pub events: Vec<Event>,
}

/// One end of the link.
pub struct End {
    pub side: Side,
    pub settings: Settings,
    holding: Holding,
    reliable: bool,
    pub tunnel: Tunnel,
    /// Where it is at first, where its peer may expect it, and where it is.
    pub home: u64,
    pub address: u64,
    /// Where it expects the peer, and where the peer is (or the connection).
    pub target: Option<Place>,
    pub peer: Option<Place>,
    candidates: Vec<Place>,
    /// Paths that were given to this run, or that something authentic has come by.
    trusted: HashSet<Path>,
    /// What this run has accepted.
    accepted: HashSet<Vec<u8>>,
    /// The next counter of each session that this run sends by.
    counters: HashMap<u32, u64>,
    up: bool,
    interrupted: bool,
    pub asleep_until: Instant,
    pub connect_at: Option<Instant>,
}

impl End {
    pub fn new(settings: Settings, holding: Holding, reliable: bool, start: Start) -> Self {
        let home = settings.side as u64;
        Self {
            side: settings.side,
            tunnel: start.tunnel(&settings, &holding),
            settings,
            holding,
            reliable,
            home,
            address: home,
            target: None,
            peer: None,
            candidates: Vec::new(),
            trusted: HashSet::new(),
            accepted: HashSet::new(),
            counters: HashMap::new(),
            up: false,
            interrupted: false,
            asleep_until: start.now,
            connect_at: None,
        }
    }

    /// The same program, started anew: it remembers nothing.
    pub fn restart(&mut self, start: Start) {
        self.tunnel = start.tunnel(&self.settings, &self.holding);
        (self.target, self.peer, self.connect_at) = (None, None, None);
        self.candidates.clear();
        self.trusted.clear();
        self.accepted.clear();
        self.counters.clear();
        (self.up, self.interrupted) = (false, false);
    }

    pub fn info(&self, address: u64) -> PathInfo {
        let [high, low] = (address as u16).to_be_bytes();
        let peer = SocketAddr::from(([192, 0, high, low], 1000));
        PathInfo { reliable: self.reliable, max_message: if self.reliable { 65_535 } else { NARROW }, peer }
    }

    /// The address behind a path, as long as the transport knows it.
    pub fn find(&self, path: Path) -> Option<Place> {
        let places = self.peer.iter().chain(&self.target).chain(&self.candidates);
        places.copied().find(|place| place.path == path)
    }

    /// The path of a datagram's source; a stranger's is a new one, good until the next datagram.
    pub fn source(&mut self, address: u64, new: Path) -> Path {
        self.candidates.clear();
        let known = self.peer.iter().chain(&self.target).find(|place| place.address == address);
        let path = known.map_or(new, |place| place.path);
        if path == new {
            self.candidates.push(Place { path, address });
        }
        path
    }

    /// Gives it a path: the place where it expects the peer, or a connection.
    pub fn link_up(&mut self, place: Place, now: Instant) -> Outcome {
        self.target = Some(place);
        self.trusted.insert(place.path);
        let info = self.info(place.address);
        self.tunnel.link_up(place.path, info, now);
        self.drain()
    }

    /// Takes a path away.
    pub fn link_down(&mut self, path: Path, now: Instant) -> Outcome {
        self.target.take_if(|place| place.path == path);
        self.peer.take_if(|place| place.path == path);
        self.tunnel.link_down(path, now);
        self.drain()
    }

    /// Says goodbye.
    pub fn close(&mut self, reason: CloseReason, now: Instant) -> Outcome {
        self.tunnel.close(reason, now);
        self.drain()
    }

    /// Seals a packet, if the end would send it now; the second value is true if it went as a super-packet.
    pub fn seal(&mut self, packet: &[u8], whole: Whole, now: Instant) -> Option<(Path, Vec<Vec<u8>>)> {
        let whole = whole == Whole::IfPossible && self.tunnel.takes_super_packets();
        let Some(len) = self.tunnel.message_len(packet.len(), now) else { return self.seal_parts(packet, now) };
        let mut message = vec![0; len];
        assert!(self.tunnel.has_path(), "what can be sealed can be sent");
        if whole {
            self.tunnel.seal_super(packet, &mut message, now);
        } else {
            self.tunnel.seal(packet, Checksum::Unknown, &mut message, now);
        }
        let path = self.tunnel.live_path().expect("what can be sealed has somewhere to go");
        self.check_message(&message);
        Some((path, vec![message]))
    }

    /// A packet that is longer than the path carries.
    fn seal_parts(&mut self, packet: &[u8], now: Instant) -> Option<(Path, Vec<Vec<u8>>)> {
        let (len, path) = (self.tunnel.part_len(packet.len())?, self.tunnel.live_path()?);
        let (number, total) = (self.tunnel.number_packet(), packet.len() as u16);
        let mut messages = Vec::new();
        for (place, bytes) in packet.chunks(len).enumerate() {
            let part = Part { packet: number, offset: (place * len) as u16, total, bytes };
            let mut message = vec![0; self.tunnel.message_len(bytes.len() + PART_HEADER_LEN, now)?];
            self.tunnel.seal_part(&part, Checksum::Unknown, &mut message, now);
            assert!(message.len() <= NARROW);
            self.check_message(&message);
            messages.push(message);
        }
        Some((path, messages))
    }

    /// Lets time pass. What is due is done in a few calls, or the loop would spin.
    pub fn tick(&mut self, now: Instant) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while self.tunnel.poll_timeout().is_some_and(|at| at <= now) {
            assert!(outcomes.len() < MAX_TURNS, "something stays due");
            self.tunnel.handle_timeout(now);
            outcomes.push(self.drain());
        }
        for transmit in outcomes.iter().flat_map(|outcome| &outcome.transmits) {
            assert!(self.trusted.contains(&transmit.path), "time sends only where something authentic came from");
        }
        outcomes
    }

    /// Gives it a message and checks what it may do with it, whatever came before:
    ///
    /// * It accepts nothing that the peer has not made, and nothing twice. Since a run has its keys for itself, this holds
    ///   for all runs of an end together: see the count of deliveries in the world.
    /// * Because of anything else it sends nothing and changes nothing, but that a connection by which it came ends. The one
    ///   exception are handshakes of the peer that are refused with an answer.
    /// * It sends only by paths that were given to it or that something authentic came by, but for the answer to an INIT.
    pub fn open(&mut self, path: Path, address: u64, bytes: &[u8], origin: Origin, now: Instant) -> Outcome {
        let before = self.observe();
        let repeated = self.accepted.contains(bytes);
        let (mut message, info) = (bytes.to_vec(), self.info(address));
        let result = match self.tunnel.open(path, &info, &mut message, now) {
            Ok(Opened::Packet(packet, _) | Opened::Super(packet)) => Ok(Some(packet.to_vec())),
            Ok(Opened::Joined(packet, _)) => Ok(Some(packet)),
            Ok(Opened::Nothing) => Ok(None),
            Err(refused) => Err(refused),
        };
        let mut outcome = self.drain();
        let kind = bytes.first().copied();
        if let Ok(packet) = result {
            assert_eq!(origin, Origin::Peer, "only what the peer has made is accepted");
            assert!(!repeated, "nothing is accepted twice");
            self.accepted.insert(bytes.to_vec());
            // An INIT may be an old one; its path has to be confirmed.
            if kind != Some(INIT) {
                self.trusted.insert(path);
            }
            (outcome.packet, outcome.accepted) = (packet, true);
        } else if origin == Origin::Forged || repeated || !matches!(kind, Some(INIT | RESP)) {
            // An authentic message whose content is of no use counts as heard.
            if result != Err(Refused::Invalid) {
                self.check_unmoved(&before, path, &outcome, origin);
            }
        }
        for Transmit { path: to, message } in &outcome.transmits {
            let answers = kind == Some(INIT) && *to == path && message[0] == RESP && message.len() < bytes.len();
            assert!(answers || self.trusted.contains(to), "a message goes where nothing authentic came from");
        }
        outcome
    }

    fn observe(&self) -> (Option<Path>, bool, Option<Instant>) {
        (self.tunnel.live_path(), self.tunnel.has_path(), self.tunnel.poll_timeout())
    }

    fn check_unmoved(&self, before: &(Option<Path>, bool, Option<Instant>), path: Path, out: &Outcome, from: Origin) {
        assert_eq!(out.transmits, [], "nothing is sent because of a message that is not accepted ({from:?})");
        let after = self.observe();
        for event in &out.events {
            let ends = *event == Event::PathRejected(path, Rejection::NotAuthentic) && self.reliable;
            let interrupts = matches!(event, Event::Interrupted { .. }) && self.reliable && before.0 == Some(path);
            assert!(ends || interrupts || matches!(event, Event::Notice(_)), "{event:?} because of nothing");
        }
        if !self.reliable {
            assert_eq!(after, *before, "nothing changes because of a message that is not accepted");
        } else if before.0 != Some(path) {
            assert_eq!((after.0, after.1), (before.0, before.1), "another's connection changes nothing");
        }
    }

    /// What there is to carry out.
    fn drain(&mut self) -> Outcome {
        let transmits: Vec<_> = std::iter::from_fn(|| self.tunnel.poll_transmit()).collect();
        let events: Vec<_> = std::iter::from_fn(|| self.tunnel.poll_event()).collect();
        assert!(transmits.len() <= MAX_TRANSMITS, "{} messages at once", transmits.len());
        assert!(events.len() <= MAX_EVENTS, "{events:?} at once");
        for Transmit { message, .. } in &transmits {
            self.check_message(message);
        }
        for event in &events {
            self.check_event(event);
        }
        Outcome { transmits, events, ..Outcome::default() }
    }

    /// Every message under a key has the next counter: none twice, none left out.
    fn check_message(&mut self, message: &[u8]) {
        match message[0] {
            INIT | RESP => {}
            DATA | SUPER | CTRL | FRAG => {
                assert_eq!(message[1..4], [0; 3], "lane 0, and zeros");
                let index = u32::from_be_bytes(message[4..8].try_into().expect("four bytes"));
                let counter = u64::from_be_bytes(message[8..16].try_into().expect("eight bytes"));
                let next = self.counters.entry(index).or_default();
                assert_eq!(counter, *next, "the next counter of session {index:08x}");
                *next += 1;
            }
            kind => panic!("a message of kind {kind:02x}"),
        }
    }

    /// Events tell a story that makes sense.
    fn check_event(&mut self, event: &Event) {
        match event {
            Event::Up(_) => assert!(!std::mem::replace(&mut self.up, true), "up twice"),
            Event::Down { .. } => {
                assert!(std::mem::replace(&mut self.up, false), "down without having been up");
                self.interrupted = false;
            }
            Event::Interrupted { .. } => assert!(self.up && !std::mem::replace(&mut self.interrupted, true)),
            Event::Resumed(_) => assert!(self.up && std::mem::replace(&mut self.interrupted, false)),
            Event::Moved(_) => assert!(self.up, "moved without being up"),
            Event::PathAdopted(path) if !self.reliable => {
                self.peer = Some(self.find(*path).expect("a path that the transport knows"));
            }
            Event::PathRejected(path, _) => {
                self.candidates.retain(|place| place.path != *path);
                self.peer.take_if(|place| place.path == *path);
                self.target.take_if(|place| place.path == *path);
            }
            Event::PathAdopted(_)
            | Event::PathMtu { .. }
            | Event::Incomplete(_)
            | Event::Notice(_)
            | Event::Renewed => {}
        }
    }
}

/// Whether a packet goes as a super-packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    IfPossible,
    Never,
}

/// When a run begins, and with what chance.
#[derive(Clone, Copy)]
pub struct Start {
    pub now: Instant,
    pub wall: Duration,
    pub seed: u64,
    /// Different for each run.
    pub run: u64,
}

impl Start {
    fn tunnel(self, settings: &Settings, holding: &Holding) -> Tunnel {
        let random = Box::new(Chance::new(self.seed, self.run));
        let identities = holding.identities(settings.side);
        Tunnel::secure(Secure::new(settings.clone(), identities, random, self.now, self.wall).expect("an end"))
    }
}
