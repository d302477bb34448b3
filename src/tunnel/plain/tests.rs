//! The rules of adoption and replacement, under virtual time.

use super::*;
use std::net::SocketAddr;

const MS: Duration = Duration::from_millis(1);

/// How a secure link's first message begins, and its length, for each of the two suites.
const SECURE_INIT: [([u8; 4], usize); 2] = [([0xf0, 1, 1, 0], 216), ([0xf0, 1, 2, 0], 168)];

/// A tunnel with a clock of its own and the events drained into a list.
struct Bench {
    tunnel: Plain,
    now: Instant,
    paths: u64,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn new(kind: LinkLayer) -> Self {
        Self { tunnel: Plain::new(kind), now: Instant::now(), paths: 0 }
    }

    fn connect(&mut self, peer: &str) -> Path {
        self.link_up(peer, true)
    }

    fn source(&mut self, peer: &str) -> Path {
        self.link_up(peer, false)
    }

    fn link_up(&mut self, peer: &str, reliable: bool) -> Path {
        self.paths += 1;
        let path = Path(self.paths);
        let info = PathInfo { reliable, max_message: 65_535, peer: peer.parse().expect("an address") };
        self.tunnel.link_up(path, info, self.now);
        path
    }

    fn receive(&mut self, path: Path) -> bool {
        let mut packet = ipv4_packet();
        self.tunnel.open(path, &mut packet, self.now).is_ok()
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.tunnel.poll_timeout().filter(|at| *at <= end) {
            assert!(at >= self.now || self.tunnel.poll_timeout() == Some(at));
            self.now = self.now.max(at);
            let before = self.tunnel.poll_timeout();
            self.tunnel.handle_timeout(self.now);
            assert_ne!(self.tunnel.poll_timeout(), before, "a deadline that has fired does not come again at once");
        }
        self.now = end;
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.tunnel.poll_event()).collect()
    }

    fn live(&self) -> Option<Path> {
        self.tunnel.live_path()
    }
}

fn ipv4_packet() -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn the_first_connection_is_adopted_and_announced() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let path = bench.connect("10.0.0.1:1000");
    assert!(matches!(bench.events()[..], [Event::PathAdopted(adopted), Event::Up(_)] if adopted == path));
    assert!(bench.receive(path));
}

#[test]
fn a_newcomer_does_not_replace_a_connection_that_speaks_and_is_turned_away_after_five_seconds() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let live = bench.connect("10.0.0.1:1000");
    let newcomer = bench.connect("10.0.0.2:1000");
    bench.events();
    for _ in 0..9 {
        bench.pass(500 * MS);
        assert!(bench.receive(live));
        assert_eq!(bench.events(), []);
    }
    bench.pass(500 * MS);
    assert_eq!(bench.events(), [Event::PathRejected(newcomer, Rejection::Occupied)]);
    assert_eq!(bench.live(), Some(live));
}

#[test]
fn a_newcomer_replaces_a_connection_that_is_silent_for_a_second() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let dead = bench.connect("10.0.0.1:1000");
    bench.receive(dead);
    bench.pass(300 * MS);
    let newcomer = bench.connect("10.0.0.1:1001");
    bench.events();
    bench.pass(699 * MS);
    assert_eq!(bench.events(), []);
    bench.pass(MS);
    let idle = TAKEOVER_SILENCE;
    let peer = address("10.0.0.1:1000");
    let events = bench.events();
    let why = Some(Rejection::Replaced);
    assert_eq!(events[..2], [Event::Down { idle, peer, why }, Event::PathRejected(dead, Rejection::Replaced)]);
    assert!(matches!(events[2..], [Event::PathAdopted(path), Event::Up(_)] if path == newcomer));
    assert!(!bench.receive(dead), "what comes late by the old path is refused");
}

#[test]
fn two_idle_clients_that_come_back_do_not_push_each_other_out_for_ever() {
    let mut bench = Bench::new(LinkLayer::Tun);
    bench.connect("10.0.0.1:1000");
    let mut replacements = 0;
    for _ in 0..120 {
        bench.connect("10.0.0.1:2000");
        bench.pass(1000 * MS);
        replacements += bench.events().iter().filter(|event| matches!(event, Event::PathAdopted(_))).count();
    }
    assert!((1..12).contains(&replacements), "{replacements} replacements in two minutes");
}

#[test]
fn when_the_live_connection_ends_a_waiting_one_takes_its_place() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let live = bench.connect("10.0.0.1:1000");
    let waiting = bench.connect("10.0.0.1:1001");
    bench.tunnel.link_down(live, bench.now);
    assert_eq!(bench.live(), Some(waiting));
    bench.tunnel.link_down(waiting, bench.now);
    assert_eq!(bench.live(), None);
    assert_eq!(bench.tunnel.poll_timeout(), None);
}

#[test]
fn a_waiting_connection_that_leaves_is_forgotten() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let live = bench.connect("10.0.0.1:1000");
    let waiting = bench.connect("10.0.0.1:1001");
    bench.tunnel.link_down(waiting, bench.now);
    bench.pass(NEWCOMER_PATIENCE * 2);
    assert_eq!(bench.live(), Some(live));
}

#[test]
fn the_number_of_waiting_connections_is_bounded() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let live = bench.connect("10.0.0.1:1000");
    bench.receive(live);
    bench.events();
    for _ in 0..100 {
        bench.connect("10.0.0.2:1000");
    }
    assert_eq!(bench.tunnel.waiting.len(), MAX_WAITING);
    assert_eq!(bench.events().len(), 100 - MAX_WAITING);
}

#[test]
fn a_datagram_peer_is_announced_by_its_first_packet() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let path = bench.source("10.0.0.1:1000");
    assert_eq!(bench.events(), [Event::PathAdopted(path)]);
    assert!(bench.receive(path));
    assert!(matches!(bench.events()[..], [Event::Up(_)]));
}

#[test]
fn a_datagram_peer_moves_to_a_new_port_at_once() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let old = bench.source("10.0.0.1:1000");
    bench.receive(old);
    bench.events();
    let new = bench.source("10.0.0.1:1001");
    let expected = [
        Event::PathRejected(old, Rejection::Replaced),
        Event::PathAdopted(new),
        Event::Moved(address("10.0.0.1:1001")),
    ];
    assert_eq!(bench.events(), expected);
}

#[test]
fn another_host_takes_over_only_after_a_minute_of_silence() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let old = bench.source("10.0.0.1:1000");
    bench.receive(old);
    bench.pass(DATAGRAM_SILENCE - MS);
    let early = bench.source("10.0.0.2:1000");
    assert!(bench.events().contains(&Event::PathRejected(early, Rejection::Occupied)));
    bench.pass(MS);
    let late = bench.source("10.0.0.2:1000");
    assert_eq!(bench.live(), Some(late));
}

/// Whoever can forge an empty datagram from the peer's address could otherwise open the door to a third host.
#[test]
fn a_move_without_a_packet_does_not_let_another_host_in() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let peer = bench.source("10.0.0.1:1000");
    bench.receive(peer);
    let moved = bench.source("10.0.0.1:2000");
    assert_eq!(bench.tunnel.open(moved, &mut [], bench.now), Err(Refused::Invalid));
    bench.source("10.0.0.3:1000");
    assert_eq!(bench.live(), Some(moved));
    let back = bench.source("10.0.0.1:1000");
    assert_eq!(bench.live(), Some(back));
}

#[test]
fn another_host_that_takes_over_is_announced_as_a_new_peer() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let old = bench.source("10.0.0.1:1000");
    bench.receive(old);
    bench.events();
    bench.pass(DATAGRAM_SILENCE);
    let new = bench.source("10.0.0.2:1000");
    bench.receive(new);
    let (idle, peer, why) = (DATAGRAM_SILENCE, address("10.0.0.1:1000"), Some(Rejection::Replaced));
    let events = bench.events();
    assert_eq!(events[0], Event::Down { idle, peer, why });
    assert!(matches!(events.last(), Some(Event::Up(info)) if info.peer == address("10.0.0.2:1000")), "{events:?}");
}

#[test]
fn when_the_live_connection_turns_out_to_want_security_a_waiting_one_is_served() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let live = bench.connect("10.0.0.1:1000");
    let waiting = bench.connect("10.0.0.2:1000");
    let (start, len) = SECURE_INIT[0];
    let mut message = vec![0; len];
    message[..4].copy_from_slice(&start);
    assert_eq!(bench.tunnel.open(live, &mut message, bench.now), Err(Refused::WantsSecure));
    assert_eq!(bench.live(), Some(waiting));
}

#[test]
fn closing_announces_nobody_in_the_place_of_the_peer() {
    let mut bench = Bench::new(LinkLayer::Tun);
    bench.connect("10.0.0.1:1000");
    bench.connect("10.0.0.2:1000");
    bench.events();
    bench.tunnel.close(bench.now);
    assert!(matches!(bench.events()[..], [Event::Down { why: None, .. }]));
}

#[test]
fn a_source_that_has_sent_no_packet_holds_no_place() {
    let mut bench = Bench::new(LinkLayer::Tun);
    let junk = bench.source("10.0.0.1:1000");
    assert_eq!(bench.tunnel.open(junk, &mut [0xff; 40], bench.now), Err(Refused::Invalid));
    let real = bench.source("10.0.0.2:1000");
    assert_eq!(bench.live(), Some(real));
}

#[test]
fn only_packets_reach_the_device() {
    for (kind, message, is_packet) in [
        (LinkLayer::Tun, vec![], false),
        (LinkLayer::Tun, vec![0x45; 19], false),
        (LinkLayer::Tun, vec![0x45; 20], true),
        (LinkLayer::Tun, vec![0x60; 40], true),
        (LinkLayer::Tun, vec![0x00; 40], false),
        (LinkLayer::Tun, vec![0x45; 65_535], true),
        (LinkLayer::Tap, vec![0; 13], false),
        (LinkLayer::Tap, vec![0; 14], true),
        (LinkLayer::Tap, vec![], false),
    ] {
        let mut bench = Bench::new(kind);
        let path = bench.connect("10.0.0.1:1000");
        let mut copy = message.clone();
        assert_eq!(bench.tunnel.open(path, &mut copy, bench.now).is_ok(), is_packet, "{kind} {}", message.len());
    }
}

#[test]
fn the_first_message_of_a_secure_link_closes_the_path_on_tun_and_tap() {
    for kind in [LinkLayer::Tun, LinkLayer::Tap] {
        for (start, len) in SECURE_INIT {
            let mut bench = Bench::new(kind);
            let path = bench.connect("10.0.0.1:1000");
            bench.events();
            let mut message = vec![0; len];
            message[..4].copy_from_slice(&start);
            assert_eq!(bench.tunnel.open(path, &mut message, bench.now), Err(Refused::WantsSecure));
            assert!(bench.events().contains(&Event::PathRejected(path, Rejection::WantsSecure)));
            assert_eq!(bench.live(), None);
        }
    }
}

#[test]
fn a_frame_that_looks_like_a_secure_message_passes_once_packets_have_passed() {
    let mut bench = Bench::new(LinkLayer::Tap);
    let path = bench.connect("10.0.0.1:1000");
    assert!(bench.receive(path));
    let (start, len) = SECURE_INIT[0];
    let mut frame = vec![0; len];
    frame[..4].copy_from_slice(&start);
    assert!(bench.tunnel.open(path, &mut frame, bench.now).is_ok());
}

#[test]
fn a_packet_longer_than_the_path_carries_gets_no_message() {
    let mut bench = Bench::new(LinkLayer::Tun);
    assert_eq!(bench.tunnel.message_len(100), None);
    bench.connect("10.0.0.1:1000");
    assert_eq!(bench.tunnel.message_len(65_535), Some(65_535));
    assert_eq!(bench.tunnel.message_len(65_536), None);
}

/// Any order of arrivals, ends, messages and pauses keeps one live path, no waiting path without one, and deadlines
/// that make progress.
#[test]
fn the_state_machine_survives_ten_thousand_random_lives() {
    for seed in 0..10_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bench = Bench::new(LinkLayer::Tun);
        let reliable = random.bool();
        let mut open: Vec<Path> = Vec::new();
        for _ in 0..60 {
            let peer = format!("10.0.0.{}:{}", random.u8(1..4), random.u16(1000..1003));
            match random.u8(0..4) {
                0 => {
                    let path = bench.link_up(&peer, reliable);
                    open.push(path);
                }
                1 if !open.is_empty() => {
                    let path = open.swap_remove(random.usize(..open.len()));
                    bench.tunnel.link_down(path, bench.now);
                }
                2 if !open.is_empty() => {
                    let path = open[random.usize(..open.len())];
                    assert_eq!(bench.receive(path), bench.live() == Some(path));
                }
                _ => bench.pass(Duration::from_millis(random.u64(0..8000))),
            }
            for event in bench.events() {
                if let Event::PathRejected(path, _) = event {
                    open.retain(|other| *other != path);
                }
            }
            assert!(bench.live().is_none_or(|live| open.contains(&live)), "the live path is open");
            assert!(bench.live().is_some() || bench.tunnel.waiting.is_empty(), "nobody waits for nothing");
            assert!(bench.tunnel.waiting.iter().all(|newcomer| open.contains(&newcomer.path)));
        }
    }
}
