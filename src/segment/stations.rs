//! Where the stations of a segment were seen last: in the LAN, or behind the peer. One that moves has moved; several that
//! go to and fro, and fast, are seen both ways round a loop. Pure.

use std::time::{Duration, Instant};

/// Places for stations. Two of the same place take turns, so that memory stays what it is and nothing has to be aged.
const SLOTS: usize = 4096;

/// A move counts if the same station has moved within this time before: one that is carried to the other LAN, or all of
/// a LAN whose path has changed, move once.
const AGAIN: Duration = Duration::from_secs(2);

/// So many of those within this time, of more than one station, are a loop: two stations with one address, as two routers
/// that stand in for one have, are one address.
const MOVES: u32 = 100;
const WINDOW: Duration = Duration::from_secs(1);

/// Set in every key, so that a place without a station has none.
const TAKEN: u64 = 1 << 63;

/// Where a frame comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The LAN: out of the device.
    Lan,
    /// The peer.
    Peer,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Lan => Self::Peer,
            Self::Peer => Self::Lan,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Station {
    key: u64,
    side: Side,
    moved_at: Option<Instant>,
}

/// The stations, and how many move.
#[derive(Debug)]
pub struct Stations {
    slots: Box<[Station]>,
    /// The last key seen on each side, which need not be looked up: packets come in runs.
    latest: [u64; 2],
    window: Window,
}

/// The moves of the last second.
#[derive(Debug)]
struct Window {
    began_at: Instant,
    moves: u32,
    first: u64,
    is_several: bool,
}

impl Stations {
    /// Nobody was seen.
    pub fn new(now: Instant) -> Self {
        let empty = Station { key: 0, side: Side::Lan, moved_at: None };
        Self { slots: vec![empty; SLOTS].into_boxed_slice(), latest: [0; 2], window: Window::new(now) }
    }

    /// Sees a station in a VLAN; true if so much moves to and fro that it goes round.
    pub fn see(&mut self, address: u64, vlan: u16, side: Side, now: Instant) -> bool {
        let key = TAKEN | address << 12 | u64::from(vlan & 0x0fff);
        if self.latest[side as usize] == key {
            return false;
        }
        self.latest[side as usize] = key;
        let other = &mut self.latest[side.other() as usize];
        if *other == key {
            *other = 0;
        }
        let Some(station) = self.slots.get_mut(place(key)) else { return false };
        if station.key != key {
            *station = Station { key, side, moved_at: None };
            return false;
        }
        if station.side == side {
            return false;
        }
        station.side = side;
        let before = station.moved_at.replace(now);
        before.is_some_and(|at| now.saturating_duration_since(at) < AGAIN) && self.window.count(address, now)
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { began_at: now, moves: 0, first: 0, is_several: false }
    }

    fn count(&mut self, address: u64, now: Instant) -> bool {
        if now.saturating_duration_since(self.began_at) >= WINDOW {
            *self = Self::new(now);
        }
        if self.moves == 0 {
            self.first = address;
        }
        self.moves += 1;
        self.is_several |= self.first != address;
        self.moves >= MOVES && self.is_several
    }
}

/// Where a key belongs: the upper bits of a multiplication, which all bits have a part in (Knuth, volume 3, 6.4).
fn place(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn stations_that_go_to_and_fro_are_a_loop() {
        let (start, mut seen) = (start(), 0);
        let mut stations = Stations::new(start);
        for step in 0..1000 {
            let side = if step % 2 == 0 { Side::Lan } else { Side::Peer };
            for address in 1..=3 {
                seen += u32::from(stations.see(address, 0, side, start + step * MS));
            }
        }
        // The first time that each comes is no move, and the first move is none to and fro.
        assert_eq!(seen, 3 * (1000 - 2) - (MOVES - 1));
    }

    #[test]
    fn a_loop_is_seen_though_runs_of_frames_have_one_source() {
        let start = start();
        let mut stations = Stations::new(start);
        let found = (0..500).any(|step| {
            let now = start + step * MS;
            [1, 2].into_iter().any(|address| {
                let lan = (0..5).any(|_| stations.see(address, 0, Side::Lan, now));
                lan | (0..5).any(|_| stations.see(address, 0, Side::Peer, now))
            })
        });
        assert!(found);
    }

    #[test]
    fn one_that_moves_or_a_whole_lan_that_moves_is_none() {
        let start = start();
        let mut stations = Stations::new(start);
        for (at, side) in [(0, Side::Lan), (10, Side::Peer), (20, Side::Lan)] {
            let now = start + Duration::from_secs(at);
            for address in 1..2000 {
                assert!(!stations.see(address, 0, side, now), "{address} {side:?}");
            }
        }
    }

    #[test]
    fn two_stations_with_one_address_are_none_in_however_many_vlans() {
        let start = start();
        let mut stations = Stations::new(start);
        for step in 0..10_000 {
            let side = if step % 2 == 0 { Side::Lan } else { Side::Peer };
            for vlan in [0, 10, 20] {
                assert!(!stations.see(7, vlan, side, start + step * MS / 10));
            }
        }
    }

    #[test]
    fn one_address_in_another_vlan_is_another_station() {
        let start = start();
        let mut stations = Stations::new(start);
        for step in 0..10_000 {
            for address in 1..=5 {
                let now = start + step * MS / 10;
                assert!(!stations.see(address, 10, Side::Lan, now) && !stations.see(address, 20, Side::Peer, now));
            }
        }
    }

    #[test]
    fn slow_moves_are_none() {
        let start = start();
        let mut stations = Stations::new(start);
        for step in 0..500 {
            let side = if step % 2 == 0 { Side::Lan } else { Side::Peer };
            // Two groups of standby routers that both ends believe to be theirs: an announcement a second each.
            for address in 1..=2 {
                assert!(!stations.see(address, 0, side, start + step * MS * 500), "{step}");
            }
        }
    }

    proptest! {
        #[test]
        fn keys_have_a_place(key in any::<u64>()) {
            prop_assert!(place(key | TAKEN) < SLOTS);
        }
    }
}
