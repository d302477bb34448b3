//! Two ends of a secure link, a network between them that belongs to an adversary, and virtual time.
//!
//! What has to hold at every step, beside what [`End`] checks by itself:
//!
//! * What an end delivers is what the other one was given, unaltered, and each packet once. Not even a restart brings a second
//!   delivery: a packet is sealed under the keys of one session, which one run of the receiver has for itself and never
//!   takes a counter of twice.
//! * Without an adversary everything arrives, and in order.
//! * When the adversary stops, both directions deliver within ten seconds, and from then on lose nothing.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use simpletun::tunnel::message::CloseReason;
use simpletun::tunnel::secure::{Endpoint, Settings};
use simpletun::tunnel::{Event, Path};

use super::end::{End, Holding, Origin, Outcome, Place, Secrets, Start, Whole};
use super::script::Script;

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);

/// Time after the adversary's end in which both directions deliver.
const RECOVERY: Duration = Duration::from_secs(10);

/// Messages that the adversary keeps.
const MAX_CAPTURED: usize = 256;

/// Numbers of the two ends.
pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

/// What a run begins with.
pub struct Setup {
    pub settings: [Settings; 2],
    pub holdings: [Holding; 2],
    pub secrets: Secrets,
    pub reliable: bool,
    pub latency: Duration,
    /// Whether the listening end of a datagram link has the address of its peer.
    pub server_knows: bool,
}

/// Whether the adversary is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Hostile,
    Calm,
}

/// Whether a run tells what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    Silent,
    Aloud,
}

/// A message on its way.
struct Flight {
    at: Instant,
    /// Of several at the same moment, the first to leave arrives first.
    order: u64,
    to: usize,
    way: Way,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A datagram from this address.
    From(u64),
    /// By this connection.
    Along(Path),
}

/// What has come by, and which end has sent it.
pub struct Captured {
    pub from: usize,
    pub bytes: Vec<u8>,
}

pub struct World<'s> {
    pub script: Script<'s>,
    seed: u64,
    talk: Talk,
    pub reliable: bool,
    server_knows: bool,
    pub network: Network,
    begun: Instant,
    pub now: Instant,
    /// The connecting one and the listening one.
    pub ends: [End; 2],
    pub secrets: Secrets,
    pub latency: Duration,
    flights: Vec<Flight>,
    flown: u64,
    /// The connection, if there is one; both ends call it by the same number.
    pub connection: Option<Path>,
    /// Connections of the adversary to the listening end.
    strangers: HashSet<Path>,
    pub cut_until: Instant,
    paths: u64,
    addresses: u64,
    runs: u64,
    made_by: HashMap<Vec<u8>, usize>,
    pub captured: Vec<Captured>,
    /// Packets given to each end, by their number.
    sent: [Vec<Vec<u8>>; 2],
    /// Numbers of those that have arrived at the other end, in their order.
    arrived: [Vec<u32>; 2],
    has_arrived: [HashSet<u32>; 2],
}

impl<'s> World<'s> {
    /// Both ends, started, and on a calm network.
    pub fn new(script: Script<'s>, seed: u64, talk: Talk, setup: Setup) -> Self {
        let begun = begin();
        let Setup { settings: [client, server], holdings: [its, others], secrets, reliable, latency, server_knows } =
            setup;
        let start = |run| Start { now: begun, wall: WALL, seed, run };
        let ends = [End::new(client, its, reliable, start(1)), End::new(server, others, reliable, start(2))];
        let mut world = Self {
            script,
            seed,
            talk,
            reliable,
            server_knows,
            network: Network::Calm,
            begun,
            now: begun,
            ends,
            secrets,
            latency,
            flights: Vec::new(),
            flown: 0,
            connection: None,
            strangers: HashSet::new(),
            cut_until: begun,
            paths: 0,
            addresses: 100,
            runs: 2,
            made_by: HashMap::new(),
            captured: Vec::new(),
            sent: Default::default(),
            arrived: Default::default(),
            has_arrived: Default::default(),
        };
        world.introduce(SERVER);
        world.introduce(CLIENT);
        world
    }

    /// Says what happens, if somebody listens.
    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.talk == Talk::Aloud {
            eprintln!("{:9.3} {}", self.now.duration_since(self.begun).as_secs_f64(), what());
        }
    }

    pub fn new_path(&mut self) -> Path {
        self.paths += 1;
        Path(self.paths)
    }

    /// An address that nobody has.
    pub fn new_address(&mut self) -> u64 {
        self.addresses += 1;
        self.addresses
    }

    /// Gives an end its way to the peer, as its transport does when it begins.
    pub fn introduce(&mut self, who: usize) {
        if self.reliable {
            if who == CLIENT {
                self.connect();
            }
        } else if who == CLIENT || self.server_knows {
            let place = Place { path: self.new_path(), address: self.ends[1 - who].home };
            self.say(|| format!("{} expects its peer at {place:?}", NAMES[who]));
            let outcome = self.ends[who].link_up(place, self.now);
            self.carry_out(who, outcome);
        }
    }

    /// The connecting end makes a connection in place of the one before.
    fn connect(&mut self) {
        self.disconnect(CLIENT);
        self.ends[CLIENT].connect_at = None;
        let path = self.new_path();
        self.say(|| format!("connection {}", path.0));
        self.connection = Some(path);
        for who in [SERVER, CLIENT] {
            let place = Place { path, address: self.ends[1 - who].address };
            let outcome = self.ends[who].link_up(place, self.now);
            self.carry_out(who, outcome);
        }
    }

    /// The connection is gone for both, and for the one that is not `first` a little later.
    pub fn disconnect(&mut self, first: usize) {
        let Some(path) = self.connection.take() else { return };
        self.say(|| format!("connection {} ends", path.0));
        self.flights.retain(|flight| flight.way != Way::Along(path));
        self.ends[CLIENT].connect_at = Some(self.now + 300 * MS);
        for who in [first, 1 - first] {
            let outcome = self.ends[who].link_down(path, self.now);
            self.carry_out(who, outcome);
        }
    }

    /// Ends a program and starts it anew, with another clock perhaps.
    pub fn restart(&mut self, who: usize, wall: Duration, goodbye: Option<CloseReason>) {
        self.say(|| format!("{} starts anew, goodbye {goodbye:?}, clock {wall:?}", NAMES[who]));
        if let Some(reason) = goodbye {
            let outcome = self.ends[who].close(reason, self.now);
            self.carry_out(who, outcome);
        }
        self.disconnect(who);
        self.runs += 1;
        self.ends[who].restart(Start { now: self.now, wall, seed: self.seed, run: self.runs });
        self.introduce(who);
    }

    /// The wall clock as it should be.
    pub fn wall(&self) -> Duration {
        WALL + self.now.duration_since(self.begun)
    }

    /// Carries out what an end wants.
    fn carry_out(&mut self, who: usize, outcome: Outcome) {
        for transmit in outcome.transmits {
            self.emit(who, transmit.path, transmit.message);
        }
        for event in outcome.events {
            self.say(|| format!("{} says {event:?}", NAMES[who]));
            match event {
                Event::PathRejected(path, _) if self.connection == Some(path) => self.disconnect(1 - who),
                Event::PathRejected(path, _) => {
                    self.strangers.remove(&path);
                }
                _ => {}
            }
        }
    }

    /// Lets a message out by a path.
    fn emit(&mut self, who: usize, path: Path, bytes: Vec<u8>) {
        self.say(|| format!("{} sends {} by {}", NAMES[who], describe(&bytes), path.0));
        if self.captured.len() >= MAX_CAPTURED {
            self.captured.remove(0);
        }
        self.captured.push(Captured { from: who, bytes: bytes.clone() });
        self.made_by.insert(bytes.clone(), who);
        let is_for_peer = if self.reliable {
            self.connection == Some(path)
        } else {
            self.ends[who].find(path).is_some_and(|place| place.address == self.ends[1 - who].address)
        };
        if !is_for_peer || (!self.reliable && self.now < self.cut_until) {
            return self.say(|| "  lost".to_owned());
        }
        let way = if self.reliable { Way::Along(path) } else { Way::From(self.ends[who].address) };
        match self.network {
            Network::Calm => self.fly(1 - who, way, bytes, self.latency),
            Network::Hostile => self.tamper(1 - who, way, bytes),
        }
    }

    /// Puts a message on the wire. A connection keeps the order.
    pub fn fly(&mut self, to: usize, way: Way, bytes: Vec<u8>, delay: Duration) {
        let mut at = self.now.max(if self.reliable { self.cut_until } else { self.now }) + delay;
        if let Way::Along(_) = way {
            let before = self.flights.iter().filter(|flight| (flight.to, flight.way) == (to, way));
            at = before.map(|flight| flight.at).max().map_or(at, |last| last.max(at));
        }
        self.flown += 1;
        self.flights.push(Flight { at, order: self.flown, to, way, bytes });
    }

    /// Gives an end a message.
    pub fn deliver(&mut self, to: usize, way: Way, bytes: &[u8]) {
        let new = self.new_path();
        let (path, address) = match way {
            Way::From(address) => (self.ends[to].source(address, new), address),
            Way::Along(path) => {
                if self.connection != Some(path) && !(to == SERVER && self.strangers.contains(&path)) {
                    return;
                }
                (path, self.ends[1 - to].address)
            }
        };
        let origin = if self.made_by.get(bytes) == Some(&(1 - to)) { Origin::Peer } else { Origin::Forged };
        let outcome = self.ends[to].open(path, address, bytes, origin, self.now);
        self.say(|| {
            let what = if outcome.accepted { "takes" } else { "refuses" };
            format!("{} {what} {} by {} from {address}", NAMES[to], describe(bytes), path.0)
        });
        if let Some(packet) = &outcome.packet {
            self.receive(to, packet);
        }
        self.carry_out(to, outcome);
    }

    /// A connection of the adversary.
    pub fn stranger(&mut self) -> Way {
        let path = self.new_path();
        self.strangers.insert(path);
        let place = Place { path, address: 99 };
        // Only announced: on a listening end nothing comes of it.
        self.ends[SERVER].tunnel.link_up(path, self.ends[SERVER].info(place.address), self.now);
        Way::Along(path)
    }

    fn receive(&mut self, who: usize, packet: &[u8]) {
        let number = u32::from_be_bytes(packet[2..6].try_into().expect("four bytes"));
        let sent = &self.sent[1 - who];
        assert_eq!(usize::from(packet[1]), 1 - who, "nothing comes back to its sender");
        assert_eq!(sent.get(number as usize).map(Vec::as_slice), Some(packet), "nothing is altered");
        assert!(self.has_arrived[who].insert(number), "packet {number} is delivered twice");
        self.arrived[who].push(number);
    }

    /// Sends a packet, if there is a session, and returns its number.
    pub fn send(&mut self, who: usize, padding: usize, whole: Whole) -> Option<u32> {
        let number = self.sent[who].len() as u32;
        let mut packet = vec![number as u8; 20 + padding];
        packet[..2].copy_from_slice(&[0x45, who as u8]);
        packet[2..6].copy_from_slice(&number.to_be_bytes());
        let (path, messages) = self.ends[who].seal(&packet, whole, self.now)?;
        self.sent[who].push(packet);
        for message in messages {
            self.emit(who, path, message);
        }
        Some(number)
    }

    /// Lets time pass, and with it everything that happens by itself.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.next_at().filter(|at| *at <= end);
            self.now = next.unwrap_or(end).max(self.now);
            self.turn();
            if next.is_none() {
                return;
            }
        }
    }

    /// Both machines sleep until this day of the run begins: nothing that is due before is done in time.
    pub fn sleep_until_day(&mut self, day: u64) {
        self.say(|| format!("asleep until day {day}"));
        self.now = self.now.max(self.begun + Duration::from_secs(day * 86_400));
    }

    fn next_at(&self) -> Option<Instant> {
        let flights = self.flights.iter().map(|flight| flight.at);
        let awake = |end: &End, at: Instant| at.max(end.asleep_until);
        let deadlines = self.ends.iter().filter_map(|end| Some(awake(end, end.tunnel.poll_timeout()?)));
        let connect = self.ends[CLIENT].connect_at.map(|at| awake(&self.ends[CLIENT], at));
        flights.chain(deadlines).chain(connect).min()
    }

    /// Everything that is due now: clocks first, as in the daemon's loop.
    fn turn(&mut self) {
        for who in [CLIENT, SERVER] {
            if self.ends[who].asleep_until <= self.now {
                for outcome in self.ends[who].tick(self.now) {
                    self.carry_out(who, outcome);
                }
            }
        }
        let awake = self.ends[CLIENT].asleep_until <= self.now;
        if awake && self.ends[CLIENT].connect_at.is_some_and(|at| at <= self.now) {
            self.connect();
        }
        while let Some(place) = self.due() {
            let flight = self.flights.swap_remove(place);
            let wakes_at = self.ends[flight.to].asleep_until;
            if wakes_at <= self.now {
                self.deliver(flight.to, flight.way, &flight.bytes);
            } else if self.reliable {
                self.flights.push(Flight { at: wakes_at, ..flight });
            }
        }
    }

    fn due(&self) -> Option<usize> {
        let due = self.flights.iter().enumerate().filter(|(_, flight)| flight.at <= self.now);
        due.min_by_key(|(_, flight)| (flight.at, flight.order)).map(|(place, _)| place)
    }

    /// The adversary leaves; what it has broken is put right as far as an administrator or the transport would.
    fn heal(&mut self) {
        self.say(|| "the adversary stops".to_owned());
        self.network = Network::Calm;
        self.cut_until = self.now;
        for end in &mut self.ends {
            end.asleep_until = self.now;
        }
        if self.reliable {
            self.strangers.clear();
            let connection = self.connection.map(Way::Along);
            self.flights.retain(|flight| Some(flight.way) == connection);
            return;
        }
        self.flights.clear();
        for who in [CLIENT, SERVER] {
            if self.ends[1 - who].settings.endpoint == Endpoint::Pinned {
                self.ends[who].address = self.ends[who].home;
            }
        }
        // Two ends that have both moved find each other by what was configured: the listening one where it always was,
        // and the connecting one's transport goes back to that address when nothing is heard.
        self.ends[SERVER].address = self.ends[SERVER].home;
        let expected = self.ends[CLIENT].tunnel.live_path().and_then(|path| self.ends[CLIENT].find(path));
        if expected.is_none_or(|place| place.address != self.ends[SERVER].home) {
            if let Some(target) = self.ends[CLIENT].target {
                let outcome = self.ends[CLIENT].link_down(target.path, self.now);
                self.carry_out(CLIENT, outcome);
            }
            self.introduce(CLIENT);
        }
    }

    /// The adversary stops, and the link recovers.
    pub fn recover(&mut self) {
        self.heal();
        let first = [0, 1].map(|who| self.sent[who].len() as u32);
        let end = self.now + RECOVERY;
        let recovered =
            |world: &Self| [0, 1].iter().all(|to| world.arrived[*to].last().is_some_and(|last| *last >= first[1 - to]));
        while !recovered(self) {
            assert!(
                self.now < end,
                "both directions deliver again: {:?} of {first:?}",
                self.arrived.each_ref().map(|a| a.last())
            );
            for who in [CLIENT, SERVER] {
                self.send(who, 0, Whole::Never);
            }
            self.pass(100 * MS);
        }
        self.pass(2 * SECOND);
        for _ in 0..3 {
            let numbers = [CLIENT, SERVER].map(|who| self.send(who, 40, Whole::IfPossible));
            self.pass(300 * MS);
            for (who, number) in numbers.into_iter().enumerate() {
                let arrived = number.is_some_and(|number| self.has_arrived[1 - who].contains(&number));
                assert!(arrived, "{} loses nothing any more: {number:?}", NAMES[who]);
            }
        }
    }

    /// On a calm network from the beginning: everything has arrived in order.
    pub fn check_calm(&self) {
        for who in [CLIENT, SERVER] {
            let expected: Vec<u32> = (0..self.sent[1 - who].len() as u32).collect();
            assert_eq!(self.arrived[who], expected, "{} got everything in order", NAMES[who]);
        }
    }
}

/// The wall clock when a run begins, since 1970.
const WALL: Duration = Duration::from_secs(1_800_000_000);

const NAMES: [&str; 2] = ["client", "server"];

/// A message in a few characters.
fn describe(bytes: &[u8]) -> String {
    let word = |at: usize| bytes.get(at..at + 4).map(|word| u32::from_be_bytes(word.try_into().expect("four bytes")));
    format!("{:02x?}/{} {:08x?} {:x?}", bytes.first(), bytes.len(), word(4), word(12))
}

#[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
fn begin() -> Instant {
    Instant::now()
}
