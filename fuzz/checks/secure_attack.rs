//! What the adversary does: to messages on their way, with messages that it has kept or made up, and to the two ends.

use std::time::Duration;

use simpletun::config::{AeadChoice, LinkLayer};
use simpletun::tunnel::crypto::has_fast_aes;
use simpletun::tunnel::handshake;
use simpletun::tunnel::message::{CloseReason, DATA, INIT, Offer, RESP, RESP_LEN, Side, Timestamp};
use simpletun::tunnel::secure::{Endpoint, Limits, Persistence, Randomness, Settings};

use super::end::{FOREIGN, Holding, Secrets, Whole, identity};
use super::script::{Chance, Script};
use super::world::{CLIENT, MS, SECOND, SERVER, Setup, Way, World};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The settings of both ends, as the script wants them.
pub fn setup(script: &mut Script<'_>, reliable: bool) -> Setup {
    let secrets = [Secrets::Shared, Secrets::Keys, Secrets::KeysAndPsk][script.below(3) as usize];
    let own = [script.below(2) as usize, script.below(2) as usize];
    let common = script.below(2) as usize;
    let server_knows = script.once_in(2);
    let aeads = aeads(script);
    let kind = if script.once_in(4) { LinkLayer::Tap } else { LinkLayer::Tun };
    let rekey_after = [1, 2, 3, 5, 120][script.below(5) as usize];
    let limits = Limits {
        messages: [24, 60, 1 << 28, 1 << 28][script.below(4) as usize],
        ..Limits::rekeying_after(rekey_after * SECOND)
    };
    // On a connection a lost INIT is repeated after five seconds only, and so is on any link one that has given way to the
    // peer's whose answer came too late.
    let ends_after = limits.peer_rekey_after + 8 * SECOND;
    let limits = if script.once_in(3) { Limits { ends_after, ..limits } } else { limits };
    let settings = [Side::Connect, Side::Listen].map(|side| {
        let knows = side == Side::Connect || server_knows;
        // What is pinned was configured, and what was configured is never given up.
        let endpoint = if knows && script.once_in(4) { Endpoint::Pinned } else { Endpoint::Follows };
        let forever = endpoint == Endpoint::Pinned || side == Side::Connect || (knows && !script.once_in(4));
        let down_after = [2, 3, 6][script.below(3) as usize] * SECOND;
        Settings {
            side,
            kind,
            mtu: [0, 1440][script.below(2) as usize],
            aead: aeads[side as usize - 1],
            fragments: true,
            // The configuration has seen to it that this is at least twice that.
            keepalive: if script.once_in(2) { SECOND } else { down_after / 2 },
            down_after,
            endpoint,
            persistence: if forever { Persistence::Forever } else { Persistence::WhileFresh },
            limits,
        }
    });
    let holdings = [0, 1].map(|who: usize| {
        let needed = if secrets == Secrets::Shared { common } else { own[1 - who] };
        let accepted = [vec![needed], vec![needed, 1 - needed], vec![1 - needed, needed]];
        Holding { secrets, own: own[who], accepted: accepted[script.below(3) as usize].clone() }
    });
    let latency = [1, 10, 40, 90][script.below(4) as usize] * MS;
    Setup { settings, holdings, secrets, reliable, latency, server_knows }
}

/// Pairs that can agree.
fn aeads(script: &mut Script<'_>) -> [AeadChoice; 2] {
    use AeadChoice::{Aes256Gcm, Auto, ChaCha20Poly1305};
    let pairs = [
        [Auto, Auto],
        [Aes256Gcm, Aes256Gcm],
        [ChaCha20Poly1305, ChaCha20Poly1305],
        [Auto, ChaCha20Poly1305],
        [ChaCha20Poly1305, Auto],
        [Auto, Aes256Gcm],
        [Aes256Gcm, Auto],
    ];
    pairs[script.below(if has_fast_aes() { 7 } else { 5 }) as usize]
}

impl World<'_> {
    /// What becomes of a message that an end has sent.
    pub fn tamper(&mut self, to: usize, way: Way, mut bytes: Vec<u8>) {
        // A connection that was touched ends; too often, and nothing else is ever reached.
        let fate = self.script.below(if self.reliable { 90 } else { 30 });
        let delay = self.latency;
        match fate {
            0..=2 => return self.say(|| "  dropped".to_owned()),
            3 => self.fly(to, way, bytes.clone(), delay),
            4..=5 => {
                let late = self.script.below(30) as u32 * 100 * MS;
                return self.fly(to, way, bytes, delay + late);
            }
            6 => {
                self.flip(&mut bytes);
            }
            7 => bytes.truncate(bytes.len() * self.script.below(256) as usize / 256),
            8 => bytes.extend((0..=self.script.below(40)).map(|number| number as u8)),
            9 => return self.fly(1 - to, way, bytes, delay),
            _ => {}
        }
        self.fly(to, way, bytes, delay);
    }

    fn flip(&mut self, bytes: &mut [u8]) {
        let at = self.script.below(256) as usize * bytes.len() / 256;
        let bit = self.script.below(8);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    /// One thing that the adversary does, and a while.
    pub fn attack(&mut self) {
        match self.script.below(24) {
            0..=5 => self.replay(),
            6..=7 => self.inject(),
            8 => self.impersonate(),
            9..=10 => self.displace(),
            11 => {
                let (who, wall) = (self.either(), self.some_wall());
                let goodbyes = [None, None, Some(CloseReason::Stops), Some(CloseReason::BeginsAnew)];
                let goodbye = goodbyes[self.script.below(4) as usize];
                self.restart(who, wall, goodbye);
            }
            12 => self.cut_until = self.now + self.script.below(70) as u32 * 100 * MS,
            13 => {
                let who = self.either();
                self.ends[who].asleep_until = self.now + self.script.below(70) as u32 * 100 * MS;
            }
            14 if self.script.once_in(4) => {
                // Both machines have slept: nothing that was due has been done in time.
                let gap = self.script.below(250) as u32 * SECOND;
                self.say(|| format!("a gap of {gap:?}"));
                self.now += gap;
            }
            _ => {}
        }
        for who in [CLIENT, SERVER] {
            for _ in 0..self.script.below(3) {
                let padding = self.script.below(200) as usize;
                let whole = if self.script.once_in(4) { Whole::IfPossible } else { Whole::Never };
                self.send(who, padding, whole);
            }
        }
        let pause = [0, 1, 10, 50, 100, 300, 700, 1500][self.script.below(8) as usize];
        self.pass(pause * MS);
    }

    fn either(&mut self) -> usize {
        self.script.below(2) as usize
    }

    fn some_wall(&mut self) -> Duration {
        let now = self.wall();
        match self.script.below(5) {
            0 => now.saturating_sub(20 * YEAR),
            1 => now + 20 * YEAR,
            2 => now - SECOND,
            3 => Duration::ZERO,
            _ => now,
        }
    }

    /// Where a message of the adversary comes from, for this end.
    fn some_way(&mut self, to: usize) -> Way {
        if self.reliable {
            return match self.connection.filter(|_| to == CLIENT || self.script.once_in(3)) {
                Some(path) => Way::Along(path),
                None => self.stranger(),
            };
        }
        Way::From(match self.script.below(3) {
            0 => self.new_address(),
            1 => self.ends[1 - to].home,
            _ => self.ends[1 - to].address,
        })
    }

    /// Something that was sent at any time, to its receiver once more or to its sender, as it was or nearly so.
    fn replay(&mut self) {
        if self.captured.is_empty() {
            return;
        }
        let range = self.captured.len() as u64;
        let back = (self.script.below(256) * self.script.below(256)) % range;
        let Some(captured) = self.captured.get((range - 1 - back) as usize) else { return };
        let (from, mut bytes) = (captured.from, captured.bytes.clone());
        let to = if self.script.once_in(6) { from } else { 1 - from };
        if self.script.once_in(4) {
            self.flip(&mut bytes);
        }
        if to == CLIENT && self.reliable && self.connection.is_none() {
            return;
        }
        let way = self.some_way(to);
        self.arrive(to, way, &bytes);
    }

    fn arrive(&mut self, to: usize, way: Way, bytes: &[u8]) {
        if self.ends[to].asleep_until <= self.now {
            self.deliver(to, way, bytes);
        }
    }

    /// Bytes that look like something: with the first byte, the length and the index of a message that was seen.
    fn inject(&mut self) {
        let kinds = [INIT, RESP, DATA, 0xf5, 0xf6, 0xf7, 0x45, 0x00];
        let kind = kinds[self.script.below(8) as usize];
        let len = match kind {
            INIT if self.secrets == Secrets::Shared => 168,
            INIT => 216,
            RESP => RESP_LEN,
            _ => self.script.below(100) as usize,
        };
        let mut bytes = vec![0; len];
        Chance::new(self.script.below(256), 99).fill(&mut bytes);
        let to = self.either();
        let range = self.captured.len().max(1) as u64;
        let place = self.script.below(range.min(256)) as usize;
        if let (Some(head), Some(seen)) = (bytes.get_mut(..16), self.captured.get(place)) {
            head.copy_from_slice(&seen.bytes[..16]);
            // A counter that would close the window for everything that is to come.
            if self.script.once_in(3) {
                head[8..].fill(0xff);
            }
        }
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        if to == CLIENT && self.reliable && self.connection.is_none() {
            return;
        }
        let way = self.some_way(to);
        self.arrive(to, way, &bytes);
    }

    /// A handshake that is right in everything but its keys.
    fn impersonate(&mut self) {
        let to = self.either();
        if to == CLIENT && self.reliable && self.connection.is_none() {
            return;
        }
        let side = self.ends[1 - to].side;
        let stranger = identity(self.secrets, side, FOREIGN, self.script.below(3) as usize);
        let stranger =
            if self.secrets == Secrets::Shared { identity(self.secrets, side, 0, FOREIGN) } else { stranger };
        let mut ephemeral = handshake::Ephemeral::new([0; 32]);
        Chance::new(self.script.below(256), 98).fill(&mut *ephemeral);
        let offer = Offer {
            timestamp: Timestamp::since_1970(self.wall() + YEAR),
            kind: Some(self.ends[to].settings.kind),
            mtu: 1440,
            features: 1,
            instance: [5; 16],
            tunnel: [0; 16],
            down_after_ms: 10_000,
        };
        let Some(initiation) = handshake::initiate(&stranger, ephemeral, 77, offer) else { return };
        let way = self.some_way(to);
        self.arrive(to, way, &initiation.message);
    }

    /// An end has another address, or the connection is torn.
    fn displace(&mut self) {
        let who = self.either();
        if self.reliable {
            return self.disconnect(who);
        }
        let address = if self.script.once_in(3) { self.ends[who].home } else { self.new_address() };
        self.say(|| format!("end {who} is at {address}"));
        self.ends[who].address = address;
    }
}
