//! The addresses of one host, and in which order they are tried. Pure.

use std::collections::VecDeque;
use std::net::SocketAddr;

/// What is known of the addresses of one host.
#[derive(Debug, Default)]
pub struct Targets {
    known: Vec<SocketAddr>,
    /// The one that was of use last.
    good: Option<SocketAddr>,
    /// Those that could be reached and were of no use, the latest last.
    bad: Vec<SocketAddr>,
}

impl Targets {
    /// Takes an answer of the resolver.
    pub fn set(&mut self, addresses: &[SocketAddr]) {
        self.known = addresses.to_vec();
        self.bad.retain(|address| self.known.contains(address));
    }

    /// True before the first answer.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// All of them: the one that was of use last, then those of which nothing is known in the resolver's order, then those
    /// that were of no use.
    pub fn in_order(&self) -> Vec<SocketAddr> {
        let good = self.good.filter(|good| self.known.contains(good));
        let is_neither = |address: &&SocketAddr| good != Some(**address) && !self.bad.contains(address);
        good.iter().chain(self.known.iter().filter(is_neither)).chain(&self.bad).copied().collect()
    }

    /// The peer has answered there.
    pub fn succeeded(&mut self, target: SocketAddr) {
        self.good = Some(target);
        self.bad.clear();
    }

    /// Something takes connections there and is not the peer.
    pub fn failed(&mut self, target: SocketAddr) {
        self.good.take_if(|good| *good == target);
        self.bad.retain(|bad| *bad != target);
        if self.known.contains(&target) {
            self.bad.push(target);
        }
    }
}

/// The order of RFC 8305, section 4: the families take turns, beginning with that of the first address; within a family
/// the order stays.
pub fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_ipv4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv4() == first_is_ipv4);
    let mut ordered = Vec::with_capacity(addresses.len());
    while !first.is_empty() || !second.is_empty() {
        ordered.extend(first.pop_front());
        ordered.extend(second.pop_front());
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<SocketAddr> {
        text.split(' ').map(|text| SocketAddr::new(text.parse().expect("an address"), 1)).collect()
    }

    #[test]
    fn families_take_turns_and_the_order_within_each_stays() {
        let given = addresses("2001:db8::1 2001:db8::2 2001:db8::3 192.0.2.1 192.0.2.2");
        assert_eq!(interleave(&given), addresses("2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2 2001:db8::3"));
        let given = addresses("192.0.2.1 192.0.2.2 2001:db8::1");
        assert_eq!(interleave(&given), addresses("192.0.2.1 2001:db8::1 192.0.2.2"));
        assert_eq!(interleave(&addresses("192.0.2.1")), addresses("192.0.2.1"));
        assert_eq!(interleave(&[]), []);
    }

    #[test]
    fn the_address_that_worked_last_comes_first_and_those_that_did_not_come_last() {
        let all = addresses("192.0.2.1 192.0.2.2 192.0.2.3");
        let mut targets = Targets::default();
        assert!(targets.is_empty());
        targets.set(&all);
        assert_eq!(targets.in_order(), all);
        targets.failed(all[0]);
        assert_eq!(targets.in_order(), [all[1], all[2], all[0]]);
        targets.failed(all[1]);
        targets.failed(all[2]);
        assert_eq!(targets.in_order(), all, "with none left the oldest failure has its turn again");
        targets.failed(all[0]);
        assert_eq!(targets.in_order(), [all[1], all[2], all[0]]);
        targets.succeeded(all[2]);
        assert_eq!(targets.in_order(), [all[2], all[0], all[1]]);
        targets.failed(all[2]);
        assert_eq!(targets.in_order(), all);
    }

    #[test]
    fn what_the_name_no_longer_stands_for_is_not_tried() {
        let all = addresses("192.0.2.1 192.0.2.2 192.0.2.3");
        let mut targets = Targets::default();
        targets.set(&all);
        targets.succeeded(all[0]);
        targets.failed(all[1]);
        targets.set(&all[2..]);
        assert_eq!(targets.in_order(), all[2..]);
        targets.failed(all[1]);
        assert_eq!(targets.in_order(), all[2..]);
    }
}
