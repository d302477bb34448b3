//! How many strangers may wait at a listening end, from where, and for how long. Pure: what waits is of any type, time
//! and addresses are passed in.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Strangers that wait at the same time.
pub const MAX_PENDING: usize = 64;

/// Strangers of one origin that wait at the same time.
pub const MAX_OF_ORIGIN: usize = 8;

/// Places of [`MAX_PENDING`] that only the known origin gets, so that nobody else keeps the peer from coming back.
const KEPT_FOR_KNOWN: usize = MAX_OF_ORIGIN;

/// The time that a stranger has in total.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What counts as one source: an IPv4 address, or an IPv6 network of 64 bits, of which one host has every address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin(IpAddr);

impl Origin {
    /// The origin that an address belongs to.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() & (!0 << 64)).into()),
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

#[derive(Debug)]
struct Place<T> {
    origin: Origin,
    until: Instant,
    stranger: T,
}

/// The strangers that wait.
#[derive(Debug)]
pub struct Pending<T> {
    places: Vec<Place<T>>,
    known: Option<Origin>,
    /// Whose turn it is first.
    turn: usize,
}

impl<T> Pending<T> {
    /// Nobody waits; `known` is where the peer was that was authenticated last.
    pub fn new(known: Option<Origin>) -> Self {
        Self { places: Vec::new(), known, turn: 0 }
    }

    /// True if one more of this origin may wait.
    pub fn has_room(&self, origin: Origin) -> bool {
        let is_known = self.known == Some(origin);
        let of_origin = self.places.iter().filter(|place| place.origin == origin).count();
        let others = self.places.iter().filter(|place| self.known != Some(place.origin)).count();
        of_origin < MAX_OF_ORIGIN
            && self.places.len() < MAX_PENDING
            && (is_known || others < MAX_PENDING - KEPT_FOR_KNOWN)
    }

    /// Lets a stranger wait; whether there is room was asked before.
    pub fn insert(&mut self, origin: Origin, stranger: T, now: Instant) {
        self.places.push(Place { origin, until: now + PATIENCE, stranger });
    }

    /// The peer has been authenticated there; some places are kept for that origin from now on.
    pub fn set_known(&mut self, origin: Origin) {
        self.known = Some(origin);
    }

    /// The first stranger that `is_wanted`.
    pub fn find(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<&mut T> {
        self.places.iter_mut().map(|place| &mut place.stranger).find(|stranger| is_wanted(stranger))
    }

    /// Takes out the first stranger that `is_wanted`, with its origin.
    pub fn take(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<(Origin, T)> {
        let index = self.places.iter().position(|place| is_wanted(&place.stranger))?;
        let place = self.places.remove(index);
        Some((place.origin, place.stranger))
    }

    /// Takes out a stranger whose time is over.
    pub fn take_late(&mut self, now: Instant) -> Option<T> {
        let index = self.places.iter().position(|place| place.until <= now)?;
        Some(self.places.remove(index).stranger)
    }

    /// When the next one's time is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.places.iter().map(|place| place.until).min()
    }

    /// True if there is one that `is_wanted`.
    pub fn any(&self, is_wanted: impl Fn(&T) -> bool) -> bool {
        self.places.iter().any(|place| is_wanted(&place.stranger))
    }

    /// All of them, beginning with another one each time.
    pub fn in_turn(&mut self) -> impl Iterator<Item = &mut T> {
        self.turn = if self.turn + 1 < self.places.len() { self.turn + 1 } else { 0 };
        let start = self.turn.min(self.places.len());
        let (later, first) = self.places.split_at_mut(start);
        first.iter_mut().chain(later).map(|place| &mut place.stranger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::of(text.parse().expect("an address"))
    }

    /// Lets one wait if there is room.
    fn admit(pending: &mut Pending<u32>, from: Origin, now: Instant) -> bool {
        let room = pending.has_room(from);
        if room {
            pending.insert(from, 0, now);
        }
        room
    }

    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn one_origin_has_eight_places_whatever_its_host_part() {
        let (mut pending, now) = (Pending::new(None), start());
        for host in 0..20 {
            assert_eq!(admit(&mut pending, origin(&format!("2001:db8:0:7::{host:x}")), now), host < 8, "{host}");
            assert_eq!(admit(&mut pending, origin("::ffff:192.0.2.1"), now), host < 8, "{host}");
        }
        assert!(!pending.has_room(origin("192.0.2.1")), "written either way it is the same address");
        assert!(admit(&mut pending, origin("192.0.2.2"), now));
        assert!(admit(&mut pending, origin("2001:db8:0:8::1"), now));
    }

    #[test]
    fn a_full_table_has_places_left_for_the_origin_that_was_known_last() {
        let (mut pending, now) = (Pending::new(Some(origin("192.0.2.1"))), start());
        let strangers = (0..200).filter(|host| admit(&mut pending, origin(&format!("198.51.100.{host}")), now)).count();
        assert_eq!(strangers, 56);
        let returns = (0..200).filter(|_| admit(&mut pending, origin("192.0.2.1"), now)).count();
        assert_eq!(returns, 8);
        pending.set_known(origin("203.0.113.5"));
        assert!(!pending.has_room(origin("203.0.113.5")), "64 are there already");
        pending.take(|_| true);
        assert!(pending.has_room(origin("203.0.113.5")));
        assert!(!pending.has_room(origin("198.51.100.250")));
    }

    #[test]
    fn without_a_known_origin_nobody_gets_the_kept_places() {
        let (mut pending, now) = (Pending::new(None), start());
        let strangers = (0..200).filter(|host| admit(&mut pending, origin(&format!("198.51.100.{host}")), now)).count();
        assert_eq!(strangers, 56);
    }

    #[test]
    fn time_is_over_after_five_seconds_in_the_order_of_arrival() {
        let (mut pending, start) = (Pending::new(None), start());
        assert_eq!(pending.poll_timeout(), None);
        for second in 0..3 {
            pending.insert(origin("192.0.2.1"), second, start + Duration::from_secs(second));
        }
        assert_eq!(pending.poll_timeout(), Some(start + PATIENCE));
        assert_eq!(pending.take_late(start + PATIENCE - Duration::from_millis(1)), None);
        let later = start + PATIENCE + Duration::from_secs(1);
        assert_eq!((pending.take_late(later), pending.take_late(later)), (Some(0), Some(1)));
        assert_eq!(pending.take_late(later), None);
        assert_eq!(pending.poll_timeout(), Some(later + Duration::from_secs(1)));
    }

    #[test]
    fn everyone_comes_first_in_turn() {
        let (mut pending, now) = (Pending::new(None), start());
        assert_eq!(pending.in_turn().count(), 0);
        (0..3).for_each(|number| pending.insert(origin("192.0.2.1"), number, now));
        let first: Vec<u32> = (0..4).filter_map(|_| pending.in_turn().next().copied()).collect();
        assert_eq!(first, [1, 2, 0, 1]);
        assert_eq!(pending.in_turn().count(), 3);
    }
}
