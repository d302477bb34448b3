//! Whose datagrams arrive at a socket that takes those of everybody: the peer's, those of the place where it is expected,
//! and strangers', each of which has a path until the next receive call. Pure: it knows no socket and no clock.

use std::net::{IpAddr, SocketAddr};

use super::path_info;
use crate::sys::{Arrival, RECEIVE_BATCH};
use crate::tunnel::{Path, PathInfo};

/// A source of datagrams, or where one is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number that stands for it.
    pub path: Path,
    /// What the way there is like.
    pub info: PathInfo,
    /// Its address in the form of the socket's family.
    pub address: SocketAddr,
    /// Our address that it sends to, if that is known.
    pub local: Option<IpAddr>,
}

impl Place {
    /// The address that it knows us by; the wildcard socket must not choose another.
    pub fn source_for_answers(&self) -> Option<IpAddr> {
        self.local.filter(|local| !local.is_multicast())
    }
}

/// Which of our addresses the datagrams of one receive call show that the peer sends to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    /// Nothing has come.
    #[default]
    Unknown,
    /// Everything was the peer's and came to this address.
    Known(IpAddr),
    /// Not everything agrees, so that nothing follows from it.
    Mixed,
}

/// The peer, where it is expected, and who else has spoken.
#[derive(Debug, Default)]
pub struct Sources {
    /// The one that the tunnel has adopted.
    pub peer: Option<Place>,
    /// Where the peer is expected.
    pub target: Option<Place>,
    /// Messages handed out in this receive call.
    pub handed_out: usize,
    /// Other sources of this receive call, and peers that were left since.
    candidates: Vec<Place>,
    way: Way,
    paths: u64,
}

impl Sources {
    /// A receive call begins: the strangers of the last one are forgotten.
    pub fn begin_call(&mut self) {
        self.candidates.clear();
        (self.handed_out, self.way) = (0, Way::Unknown);
    }

    /// The path that a datagram has come by, unless a stranger speaks for the first time in this call.
    pub fn find_source(&mut self, arrival: &Arrival) -> Option<(Path, PathInfo)> {
        if let Some(peer) = self.peer.filter(|peer| peer.address == arrival.source) {
            self.way = match (self.way, arrival.local) {
                (Way::Unknown, Some(local)) => Way::Known(local),
                (Way::Known(known), Some(local)) if known == local => self.way,
                _ => Way::Mixed,
            };
            return Some((peer.path, peer.info));
        }
        self.way = Way::Mixed;
        let is_same = |place: &&Place| place.address == arrival.source && place.local == arrival.local;
        let target = self.target.as_ref().filter(|target| target.address == arrival.source);
        let place = target.or_else(|| self.candidates.iter().rev().find(is_same))?;
        Some((place.path, place.info))
    }

    /// Gives a stranger a path, until the next receive call.
    pub fn add_candidate(&mut self, arrival: &Arrival) -> (Path, PathInfo) {
        let (path, info) = (self.new_path(), path_info(arrival.source));
        if self.candidates.capacity() == 0 {
            self.candidates.reserve(RECEIVE_BATCH);
        }
        self.candidates.push(Place { path, info, address: arrival.source, local: arrival.local });
        (path, info)
    }

    /// Expects the peer at this address, in place of any other, and gives it a path.
    pub fn expect(&mut self, address: SocketAddr, info: PathInfo) -> Path {
        let path = self.new_path();
        self.target = Some(Place { path, info, address, local: None });
        path
    }

    /// A place that can be sent to now.
    pub fn find(&self, path: Path) -> Option<Place> {
        let places = self.peer.iter().chain(&self.target).chain(&self.candidates);
        places.copied().find(|place| place.path == path)
    }

    /// Makes a place the peer, if there is one of this path. The one before stays a candidate: of several adoptions
    /// that follow from one receive call, a later one may go back.
    pub fn adopt(&mut self, path: Path) -> Option<Place> {
        let place = self.find(path)?;
        let is_other = |old: &Place| old.path != path && self.target.is_none_or(|target| target.path != old.path);
        if let Some(old) = self.peer.filter(is_other) {
            self.forget_candidate(old.path);
            self.candidates.push(old);
        }
        self.way = Way::Mixed;
        self.peer = Some(place);
        self.peer
    }

    /// Forgets a stranger.
    pub fn forget_candidate(&mut self, path: Path) {
        self.candidates.retain(|candidate| candidate.path != path);
    }

    /// True if the peer is somewhere else than where it is expected.
    pub fn has_roamed(&self) -> bool {
        matches!((self.peer, self.target), (Some(peer), Some(target)) if peer.path != target.path)
    }

    /// The peer with our address that it sends to, if this receive call has shown a new one. Addresses can be forged, so
    /// only a call counts of which every message was the peer's and was accepted.
    pub fn learn_way(&mut self, accepted: usize) -> Option<Place> {
        let Way::Known(local) = self.way else { return None };
        let peer = self.peer.as_mut().filter(|peer| peer.local != Some(local))?;
        if accepted < self.handed_out {
            return None;
        }
        peer.local = Some(local);
        Some(*peer)
    }

    fn new_path(&mut self) -> Path {
        self.paths += 1;
        Path(self.paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(source: &str, local: &str) -> Arrival {
        let local = Some(local.parse().expect("an address"));
        Arrival { source: source.parse().expect("an address"), local, interface: 1, segment: None }
    }

    fn sort(sources: &mut Sources, arrival: &Arrival) -> Path {
        sources.handed_out += 1;
        sources.find_source(arrival).unwrap_or_else(|| sources.add_candidate(arrival)).0
    }

    #[test]
    fn a_stranger_has_one_path_in_a_call_and_a_new_one_in_the_next() {
        let mut sources = Sources::default();
        let (one, other) = (arrival("192.0.2.1:1", "192.0.2.9"), arrival("192.0.2.1:2", "192.0.2.9"));
        let first = sort(&mut sources, &one);
        assert_ne!(sort(&mut sources, &other), first);
        assert_ne!(sort(&mut sources, &arrival("192.0.2.1:1", "192.0.2.8")), first, "it has used another way");
        assert_eq!(sort(&mut sources, &one), first);
        sources.begin_call();
        assert_eq!(sources.find(first), None);
        assert_ne!(sort(&mut sources, &one), first);
    }

    #[test]
    fn several_adoptions_of_one_call_may_go_back_and_the_last_one_stays() {
        let mut sources = Sources::default();
        let (one, other) = (arrival("192.0.2.1:1", "192.0.2.9"), arrival("192.0.2.2:1", "192.0.2.9"));
        let paths = [sort(&mut sources, &one), sort(&mut sources, &other)];
        for path in [paths[0], paths[1], paths[0], paths[1], paths[0]] {
            assert_eq!(sources.adopt(path).map(|peer| peer.path), Some(path));
        }
        sources.begin_call();
        assert_eq!(sources.adopt(paths[1]), None, "the stranger of an earlier call");
        assert_eq!(sort(&mut sources, &one), paths[0], "the peer keeps its path");
        assert_eq!(sources.candidates.len(), 0);
    }

    #[test]
    fn the_target_has_its_path_before_and_after_it_is_the_peer() {
        let mut sources = Sources::default();
        let (address, way) = ("192.0.2.1:1".parse().expect("an address"), arrival("192.0.2.1:1", "192.0.2.9"));
        let target = sources.expect(address, path_info(address));
        assert_eq!(sort(&mut sources, &way), target);
        let stranger = sort(&mut sources, &arrival("192.0.2.2:1", "192.0.2.9"));
        assert!(sources.adopt(target).is_some() && !sources.has_roamed());
        assert!(sources.adopt(stranger).is_some() && sources.has_roamed());
        sources.begin_call();
        assert_eq!(sort(&mut sources, &way), target);
        assert!(sources.adopt(target).is_some() && !sources.has_roamed());
    }

    #[test]
    fn the_way_to_answer_by_is_learned_from_accepted_messages_alone() {
        let mut sources = Sources::default();
        let address = "192.0.2.1:1".parse().expect("an address");
        let target = sources.expect(address, path_info(address));
        sources.adopt(target);
        let (true_way, forged) = (arrival("192.0.2.1:1", "192.0.2.9"), arrival("192.0.2.1:1", "192.0.2.8"));
        let stranger = arrival("192.0.2.7:1", "192.0.2.8");
        let mut learn = |arrivals: &[&Arrival], accepted| {
            sources.begin_call();
            arrivals.iter().for_each(|arrival| assert_ne!(sort(&mut sources, arrival), Path(0)));
            sources.learn_way(accepted).and_then(|peer| peer.local)
        };
        assert_eq!(learn(&[&forged], 0), None);
        assert_eq!(learn(&[&true_way, &forged], 1), None);
        assert_eq!(learn(&[&true_way, &true_way, &stranger], 2), None);
        assert_eq!(learn(&[&true_way, &true_way], 2), true_way.local);
        assert_eq!(learn(&[&true_way], 1), None, "nothing new");
        assert_eq!(learn(&[&forged], 1), forged.local, "the peer has proved it");
    }
}
