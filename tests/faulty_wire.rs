//! Links over a wire that loses, repeats, delays, reorders and damages frames by a seed. What a link promises it keeps
//! there, and once the wire is whole everything arrives.
//!
//! `SIMPLETUN_WIRE_SEED` repeats a run.

#![expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]

use std::time::{Duration, Instant};

use crate::common::daemon::Statistics;
use crate::common::fault_wire::{Direction, FaultWire, Rates};
use crate::common::lab::Lab;
use crate::common::pair::{FAR, Kind, Pair};
use crate::common::traffic::{Counts, Numbered, Stream};
use crate::common::{line, stat};

/// Time for the datagrams that are counted: a multiple of what they take.
const PATIENCE: Duration = Duration::from_secs(60);

fn seed() -> u64 {
    std::env::var("SIMPLETUN_WIRE_SEED").map_or(1, |text| text.parse().expect("a number"))
}

fn faulty(kind: Kind) -> (Pair, FaultWire) {
    let (lab, wire) = Lab::with_fault_wire(seed());
    (Pair::on(lab, kind, ""), wire)
}

/// Numbered datagrams over a bad wire, and over the same wire when it is whole again.
fn counted(kind: Kind) -> Counts {
    let (pair, wire) = faulty(kind);
    let numbered = Numbered::new(&pair.lab.local, FAR);
    numbered.runs_smoothly(PATIENCE);
    wire.set(Rates::BAD);
    numbered.wait_for_hundreds(13, PATIENCE);
    wire.set(Rates::default());
    let taken = numbered.runs_smoothly(PATIENCE);
    let (counts, tallies) = (numbered.finish(), wire.tallies());
    eprintln!("{kind:?}: {counts:?}, smooth again after {taken:.1?}");
    for tally in tallies {
        assert!(tally.lost.min(tally.duplicated).min(tally.reordered).min(tally.corrupted) > 0, "a bad wire: {tally}");
    }
    for end in [&pair.client, &pair.server] {
        assert!(!end.said(line::DOWN), "the link has stood: {}", end.text());
    }
    counts
}

/// A secure link on a bad radio link: programs inside never see a packet twice, or one that nobody has sent.
#[test]
fn a_secure_link_over_udp_delivers_every_packet_once_at_most_and_none_altered() {
    let counts = counted(Kind::SECURE_UDP);
    assert_eq!((counts.twice, counts.altered), (0, 0), "{counts:?}");
    assert!(counts.returned * 10 >= counts.sent * 7, "most arrive: {counts:?}");
}

/// The same with packets that the path does not carry whole: one whose parts do not all arrive is lost, and no two mix.
#[test]
fn packets_in_parts_are_delivered_once_at_most_and_none_altered() {
    let (lab, wire) = Lab::with_fault_wire(seed());
    for end in [&lab.local, &lab.remote] {
        end.run("ip link set eth0 mtu 700");
    }
    let pair = Pair::on(lab, Kind::SECURE_UDP, "--mtu 1500");
    let numbered = Numbered::new(&pair.lab.local, FAR);
    numbered.runs_smoothly(PATIENCE);
    wire.set(Rates::BAD);
    numbered.wait_for_hundreds(8, PATIENCE);
    wire.set(Rates::default());
    numbered.runs_smoothly(PATIENCE);
    let counts = numbered.finish();
    assert_eq!((counts.twice, counts.altered), (0, 0), "{counts:?}");
    for end in [&pair.client, &pair.server] {
        let statistics = end.statistics();
        assert!(statistics.get("split") > 100 && statistics.get("joined") > 100, "{statistics:?}");
        assert!(statistics.get("drop-incomplete") > 0, "{statistics:?}");
        assert!(!end.said(line::DOWN), "the link has stood: {}", end.text());
    }
}

/// Over TCP everything arrives besides, in order, only later.
#[test]
fn a_secure_link_over_tcp_delivers_every_packet_once_in_order_and_none_altered() {
    all_in_order(Kind::SECURE_TCP);
}

/// The same without protection: TCP's own checksums find the damage.
#[test]
fn a_plain_link_over_tcp_delivers_every_packet_once_in_order_and_none_altered() {
    all_in_order(Kind::PLAIN_TCP);
}

#[track_caller]
fn all_in_order(kind: Kind) {
    let counts = counted(kind);
    assert_eq!((counts.twice, counts.altered, counts.swapped), (0, 0, 0), "{counts:?}");
    assert_eq!(counts.returned, counts.sent, "{counts:?}");
}

/// A plain link over UDP is as good as its wire: packets are lost, doubled and swapped, and none is altered.
#[test]
fn a_plain_link_over_udp_delivers_what_arrives_and_none_altered() {
    let counts = counted(Kind::PLAIN_UDP);
    assert_eq!(counts.altered, 0, "{counts:?}");
    assert!(counts.twice > 0 && counts.swapped > 0, "the wire's doing is seen: {counts:?}");
    assert!(counts.returned * 10 >= counts.sent * 7, "most arrive: {counts:?}");
}

over_all! {
    a_connection_inside_goes_on_over_a_bad_wire_with_every_byte
}

/// A download through the tunnel over a bad wire is slow and comes out whole.
fn a_connection_inside_goes_on_over_a_bad_wire_with_every_byte(kind: Kind) {
    let (pair, wire) = faulty(kind);
    let stream = Stream::new(&pair.lab.local, FAR);
    wire.set(Rates { loss: 0.005, corruption: 0.005, ..Rates::BAD });
    stream.goes_on(PATIENCE);
    wire.set(Rates::default());
    stream.goes_on(PATIENCE);
    stream.finish();
}

/// An attacker or a network that repeats messages of a secure link gains nothing, and the counters tell of it.
#[test]
fn repeated_messages_of_a_secure_link_are_dropped_and_counted() {
    let (pair, wire) = faulty(Kind::SECURE_UDP);
    let numbered = Numbered::new(&pair.lab.local, FAR);
    numbered.runs_smoothly(PATIENCE);
    // A repeated datagram passes every checksum.
    wire.set(Rates { duplication: 0.5, ..Rates::default() });
    numbered.wait_for_hundreds(10, PATIENCE);
    wire.set(Rates::default());
    let counts = numbered.finish();
    assert_eq!((counts.twice, counts.altered), (0, 0), "{counts:?}");
    for end in [&pair.client, &pair.server] {
        assert!(end.statistics().get(stat::DROP_REPLAYED) > 100, "{}", end.text());
    }
}

rows! {
    (tcp: crate::common::pair::Kind::SECURE_TCP, udp: crate::common::pair::Kind::SECURE_UDP) {
        what_no_checksum_finds_a_secure_link_finds
    }
}

/// Broken memory in a router on the way, or an attacker there: a secure link loses packets and delivers none altered.
fn what_no_checksum_finds_a_secure_link_finds(kind: Kind) {
    let (counts, [client, server]) = tampered(kind);
    assert_eq!((counts.twice, counts.altered), (0, 0), "{counts:?}");
    let dropped = [stat::DROP_NOT_AUTHENTIC, stat::DROP_NOT_A_MESSAGE, stat::DROP_UNKNOWN_SESSION, stat::DROP_INVALID];
    let dropped: u64 = [&client, &server].iter().flat_map(|end| dropped.map(|key| end.get(key))).sum();
    assert!(dropped > 0, "it is counted: {client:?} {server:?}");
}

/// A plain link has nothing but the checksums; this is what an altered packet looks like to the other tests.
#[test]
fn what_no_checksum_finds_a_plain_link_delivers() {
    let (counts, _) = tampered(Kind::PLAIN_UDP);
    assert!(counts.altered > 10, "{counts:?}");
}

fn tampered(kind: Kind) -> (Counts, [Statistics; 2]) {
    let (pair, wire) = faulty(kind);
    let numbered = Numbered::new(&pair.lab.local, FAR);
    numbered.runs_smoothly(PATIENCE);
    // Each over TCP costs a connection.
    wire.set(Rates { tampering: if kind.is_tcp() { 0.003 } else { 0.03 }, ..Rates::default() });
    numbered.wait_for_hundreds(13, PATIENCE);
    wire.set(Rates::default());
    numbered.runs_smoothly(PATIENCE);
    let tally = wire.tallies().map(|tally| tally.tampered);
    assert!(tally.iter().sum::<u64>() > 0, "{tally:?}");
    (numbered.finish(), [pair.client.statistics(), pair.server.statistics()])
}

/// The wire itself: the same seed makes the same faults.
#[test]
fn the_faults_of_a_wire_follow_from_its_seed() {
    let start = Instant::now();
    let run = |seed: u64| {
        let mut direction = Direction::new(seed);
        let frame = |number: u16| [&[0; 12], &[8, 0][..], &number.to_be_bytes(), &[0; 60]].concat();
        let mut arrived = Vec::new();
        for number in 0..2000 {
            let now = start + Duration::from_millis(number.into());
            direction.enter(frame(number), &Rates::BAD, now);
            arrived.extend(std::iter::from_fn(|| direction.leave(now)));
        }
        arrived.extend(std::iter::from_fn(|| direction.leave(start + Duration::from_secs(10))));
        (arrived, direction.tally())
    };
    let (arrived, tally) = run(7);
    assert_eq!(run(7), (arrived, tally));
    assert_ne!(run(8).1, tally);
    assert_eq!(tally.left, tally.entered - tally.lost + tally.duplicated, "{tally}");
    for (count, chance) in [
        (tally.lost, Rates::BAD.loss),
        (tally.duplicated, Rates::BAD.duplication),
        (tally.reordered, Rates::BAD.reordering),
        (tally.corrupted, Rates::BAD.corruption),
    ] {
        let expected = 2000.0 * chance;
        assert!((count as f32 - expected).abs() < expected / 2.0, "{tally}");
    }
}
