//! The watch over a segment under virtual time, and two ends that are wired to each other as two LANs wire them.

use super::*;
use crate::config::{Config, Options};
use proptest::prelude::*;

/// Not random at all, which no test minds.
struct Fixed(u8);

impl Randomness for Fixed {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        bytes.fill(self.0);
        true
    }
}

#[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
fn start() -> Instant {
    Instant::now()
}

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn rules(toml: &str) -> SegmentConfig {
    let text = format!("security = 'plain'\ninterface = 't'\nserver = true\ntap = true\n{toml}");
    let options = Options::from_toml(&text, "t.toml").expect("a legal file");
    let keys = crate::config::KeyFiles::from_environment();
    Config::new(&options, &|_, _| None, &keys).expect("legal").segment.expect("a tap")
}

/// A port of a bridge whose peer is there.
fn segment(toml: &str, id: u8, now: Instant) -> Segment {
    let mut segment = Segment::new(&rules(toml), &mut Fixed(id), now);
    segment.set_port(true, now);
    segment.set_link(true, now);
    segment
}

fn frame(target: u8, source: u8, behind: &[u8]) -> Vec<u8> {
    [&[target, 0, 0, 0, 0, 1], &[2, 0, 0, 0, 0, source], behind, &[0; 46]].concat()
}

const IPV4: [u8; 2] = [0x08, 0x00];

fn leave(segment: &mut Segment, frame: &[u8], now: Instant) -> Result<(), Drop> {
    segment.leave(&mut frame.to_vec(), 1, now)
}

/// Lets the time pass as the loop does; the probes that went out, each with its time.
fn probes(segment: &mut Segment, from: Instant, until: Instant) -> Vec<(Instant, Vec<u8>)> {
    let (mut now, mut sent) = (from, Vec::new());
    loop {
        segment.handle_timeout(now);
        while let Some(probe) = segment.poll_probe(now) {
            sent.push((now, probe));
        }
        match segment.poll_timeout().filter(|at| *at <= until) {
            Some(at) => now = at,
            None => return sent,
        }
    }
}

#[test]
fn probes_are_sent_while_there_is_a_bridge_and_a_peer() {
    let start = start();
    let mut segment = Segment::new(&rules(""), &mut Fixed(1), start);
    assert_eq!(probes(&mut segment, start, start + 60 * SECOND), []);
    segment.set_port(true, start);
    assert_eq!(probes(&mut segment, start, start + 60 * SECOND), [], "nobody is there");
    segment.set_link(true, start);
    let at: Vec<Duration> =
        probes(&mut segment, start, start + 10 * SECOND).iter().map(|(at, _)| at.duration_since(start)).collect();
    assert_eq!(at[..6], [0, 500, 1000, 1500, 2000, 4000].map(Duration::from_millis));
    segment.set_link(false, start + 10 * SECOND);
    assert_eq!(segment.poll_timeout(), None);
    segment.set_link(true, start + 11 * SECOND);
    segment.set_port(false, start + 11 * SECOND);
    assert_eq!((segment.poll_timeout(), segment.is_watching()), (None, false));
}

#[test]
fn the_choice_may_be_made_by_hand() {
    let start = start();
    for (choice, port, expected) in [("off", true, false), ("on", false, true), ("auto", false, false)] {
        let mut segment = segment(&format!("loop-guard = '{choice}'"), 1, start);
        segment.set_port(port, start);
        assert_eq!(segment.is_watching(), expected, "{choice}");
    }
}

#[test]
fn a_probe_that_comes_back_stops_all_until_it_does_no_more() {
    for (why, word) in [(Loop::Lan, "local LAN"), (Loop::Peer, "through the peer")] {
        let start = start();
        let mut segment = segment("loop-hold = '30s'", 1, start);
        let probe = segment.poll_probe(start).expect("a probe");
        let come_back = |segment: &mut Segment, probe: &[u8], now| match why {
            Loop::Peer => segment.arrive(probe, now),
            _ => leave(segment, probe, now),
        };
        assert_eq!(come_back(&mut segment, &probe, start), Err(Drop::BridgeLoop), "it goes no further");
        assert_eq!((segment.held(), segment.poll_change()), (Some(why), Some(Change::Held(why))));
        assert!(why.to_string().contains(word));
        for now in [start, start + 29 * SECOND] {
            assert_eq!(leave(&mut segment, &frame(2, 7, &IPV4), now), Err(Drop::BridgeLoop));
            assert_eq!(segment.arrive(&frame(2, 9, &IPV4), now), Err(Drop::BridgeLoop));
        }
        // The next one comes back, too, and is no news; then the loop is gone.
        let again = segment.poll_probe(start + 20 * SECOND).expect("a probe");
        assert_eq!(come_back(&mut segment, &again, start + 20 * SECOND), Err(Drop::BridgeLoop));
        assert_eq!((segment.poll_change(), segment.resumes_at()), (None, Some(start + 50 * SECOND)));
        segment.handle_timeout(start + 50 * SECOND - MS);
        assert_eq!(segment.held(), Some(why));
        segment.handle_timeout(start + 50 * SECOND);
        assert_eq!((segment.held(), segment.poll_change(), segment.holds()), (None, Some(Change::Released), 1));
        assert_eq!(leave(&mut segment, &frame(2, 7, &IPV4), start + 50 * SECOND), Ok(()));
        assert!(segment.poll_probe(start + 50 * SECOND).is_some(), "it is looked for at once");
    }
}

#[test]
fn a_short_hold_has_probes_enough() {
    let start = start();
    let mut segment = segment("loop-hold = '1s'", 1, start);
    let sent = probes(&mut segment, start + 10 * SECOND, start + 20 * SECOND);
    assert!(sent.windows(2).all(|pair| pair[1].0 - pair[0].0 <= SECOND / 3), "{}", sent.len());
}

/// `(left LAN) - left == right - (right LAN)`, and a second path between the LANs while `path` says so: every frame of a
/// LAN goes by both.
struct Lans {
    ends: [Segment; 2],
    path: bool,
    now: Instant,
}

impl Lans {
    fn new(toml: &str) -> Self {
        let now = start();
        Self { ends: [segment(toml, 1, now), segment(toml, 2, now)], path: false, now }
    }

    /// A broadcast of a host goes where it can, for so many steps; how many times it is in a LAN.
    fn flood(&mut self, lan: usize, frame: &[u8], steps: usize) -> usize {
        1 + self.enter(vec![(lan, frame.to_vec())], steps) + self.insert(lan, frame, steps)
    }

    /// The same of a frame that the end itself puts into its LAN: it reaches the other LAN by the second path alone, and
    /// comes from its bridge to the other end.
    fn insert(&mut self, lan: usize, frame: &[u8], steps: usize) -> usize {
        if self.path { 1 + self.enter(vec![(1 - lan, frame.to_vec())], steps) } else { 0 }
    }

    /// These frames come out of the devices.
    fn enter(&mut self, mut in_lan: Vec<(usize, Vec<u8>)>, steps: usize) -> usize {
        let mut arrived = 0;
        for _ in 0..steps {
            self.now += MS / 100;
            let mut next = Vec::new();
            for (lan, mut frame) in in_lan {
                if self.ends[lan].leave(&mut frame, 1, self.now).is_ok()
                    && self.ends[1 - lan].arrive(&frame, self.now).is_ok()
                {
                    arrived += 1;
                    // From the other LAN it is back in this one, by the path, if there is one.
                    if self.path {
                        arrived += 1;
                        next.push((lan, frame));
                    }
                }
            }
            in_lan = next;
        }
        arrived
    }

    /// Lets this time pass, with the probes in it.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            for end in 0..2 {
                self.ends[end].handle_timeout(self.now);
                if let Some(probe) = self.ends[end].poll_probe(self.now) {
                    self.insert(end, &probe, 20);
                }
            }
            self.now += 100 * MS;
        }
    }

    fn held(&self) -> [Option<Loop>; 2] {
        [self.ends[0].held(), self.ends[1].held()]
    }
}

#[test]
fn two_ends_find_a_second_path_and_forward_again_when_it_is_gone() {
    let mut lans = Lans::new("loop-hold = '10s'");
    lans.pass(60 * SECOND);
    assert_eq!(lans.held(), [None, None]);
    assert_eq!(lans.flood(0, &frame(0xff, 7, &IPV4), 5), 2);
    lans.path = true;
    lans.pass(3 * SECOND);
    assert_eq!(lans.held(), [Some(Loop::Peer); 2]);
    assert_eq!(lans.flood(0, &frame(0xff, 7, &IPV4), 1000), 2, "each LAN has it once, by the path");
    lans.pass(300 * SECOND);
    assert_eq!((lans.held(), lans.ends[0].holds()), ([Some(Loop::Peer); 2], 1), "as long as it is there");
    lans.path = false;
    lans.pass(13 * SECOND);
    assert_eq!(lans.held(), [None, None]);
    assert_eq!(lans.flood(1, &frame(0xff, 8, &IPV4), 5), 2);
}

#[test]
fn a_storm_is_stopped_before_a_probe_is_due() {
    for (guard, least, most) in [("auto", 100, 2000), ("off", 10_000, usize::MAX)] {
        let mut lans = Lans::new(&format!("loop-guard = '{guard}'\nbroadcast-limit = 'off'"));
        lans.pass(10 * SECOND);
        lans.path = true;
        let mut arrived = 0;
        for _ in 0..2000 {
            for (lan, source) in [(0, 7), (1, 8), (0, 9)] {
                arrived += lans.flood(lan, &frame(0xff, source, &IPV4), 3);
            }
        }
        // What the hosts themselves say reaches both LANs by the path; the rest has gone round.
        let round = arrived - 3 * 2000 * 2;
        assert!((least..most).contains(&round), "{guard}: {round}");
        if guard == "auto" {
            assert!(lans.held().contains(&Some(Loop::Flapping)), "{:?}", lans.held());
        }
    }
}

#[test]
fn during_a_hold_few_frames_of_spanning_tree_and_probes_of_others_cross() {
    let start = start();
    let mut segment = segment("", 1, start);
    let probe = segment.poll_probe(start).expect("a probe");
    let _ = segment.arrive(&probe, start);
    let bpdu = [&[0x01, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 0, 0, 7, 0, 38, 0x42, 0x42, 3][..], &[0; 35]].concat();
    let crossed = (0..1000).filter(|_| leave(&mut segment, &bpdu, start).is_ok()).count();
    assert_eq!(crossed, 50);
    let mut other = Segment::new(&rules("loop-guard = 'on'"), &mut Fixed(9), start);
    other.set_link(true, start);
    let mut probe = other.poll_probe(start).expect("a probe");
    let crossings = (0..1000).take_while(|_| segment.leave(&mut probe, 1, start).is_ok()).count();
    assert_eq!(crossings, 8, "it goes round no longer than that");
    let fresh = probe.iter().enumerate().map(|(at, byte)| if at == 23 { 0 } else { *byte }).collect::<Vec<u8>>();
    let crossed = (0..1000).filter(|_| leave(&mut segment, &fresh, start).is_ok()).count();
    assert_eq!(crossed, 50 - 8);
}

#[test]
fn broadcasts_have_a_limit_towards_the_peer_and_neighbours_are_always_found() {
    let start = start();
    let mut segment = segment("broadcast-limit = 10", 1, start);
    let crossed = |segment: &mut Segment, frame: &[u8], now| {
        (0..100).filter(|_| leave(segment, frame, now) != Err(Drop::BroadcastLimit)).count()
    };
    assert_eq!(crossed(&mut segment, &frame(0xff, 7, &IPV4), start), 10);
    assert_eq!(crossed(&mut segment, &frame(0xff, 7, &[0x08, 0x06]), start), 100, "ARP");
    assert_eq!(crossed(&mut segment, &frame(0x02, 7, &IPV4), start), 100, "for one station");
    assert_eq!(crossed(&mut segment, &frame(0x01, 7, &IPV4), start + SECOND), 10, "multicast");
    assert_eq!((0..100).filter(|_| segment.arrive(&frame(0xff, 8, &IPV4), start).is_ok()).count(), 100);
    // A super-packet is as many as it becomes.
    let mut many = frame(0x01, 7, &IPV4);
    assert_eq!(segment.leave(&mut many, 25, start + 3 * SECOND), Ok(()));
    assert_eq!(crossed(&mut segment, &frame(0x01, 7, &IPV4), start + 4 * SECOND), 0);
    assert_eq!(crossed(&mut segment, &frame(0x01, 7, &IPV4), start + 5 * SECOND), 5);
    segment.set_rules(&rules("broadcast-limit = 'off'"), start);
    assert_eq!(crossed(&mut segment, &frame(0xff, 7, &IPV4), start), 100);
}

#[test]
fn what_is_kept_out_is_kept_out_in_both_directions() {
    let start = start();
    let tagged = |vlan: u8| frame(2, 7, &[0x81, 0, 0, vlan, 0x08, 0]);
    let bpdu = frame(0x01, 7, &[0, 38]);
    let bpdu = [&[0x01, 0x80, 0xc2, 0, 0, 0], &bpdu[6..]].concat();
    for (toml, frame, expected) in [
        ("vlan = '10,untagged'", tagged(10), Ok(())),
        ("vlan = '10,untagged'", frame(2, 7, &IPV4), Ok(())),
        ("vlan = '10,untagged'", tagged(11), Err(Drop::Vlan)),
        ("vlan = '10'", frame(2, 7, &IPV4), Err(Drop::Vlan)),
        ("vlan = '10'", bpdu.clone(), Ok(())),
        ("vlan = 10", frame(2, 7, &[0x88, 0xa8, 0, 20, 0x81, 0, 0, 10, 0x08, 0]), Err(Drop::Vlan)),
        ("vlan = 'untagged'", frame(2, 7, &[0x81, 0, 0, 0, 0x81, 0, 0, 10, 0x08, 0]), Err(Drop::Vlan)),
        ("ethertype = 'ipv4'", tagged(10), Ok(())),
        ("ethertype = 'arp'", tagged(10), Err(Drop::EtherType)),
        ("ethertype = 'ipv4'", frame(2, 7, &[0, 46]), Err(Drop::EtherType)),
        ("ethertype = 'ipv4'", bpdu.clone(), Ok(())),
        ("bpdu = 'drop'", bpdu.clone(), Err(Drop::Bpdu)),
        ("bpdu = 'drop'", frame(1, 7, &IPV4), Ok(())),
    ] {
        let mut segment = segment(toml, 1, start);
        assert_eq!(leave(&mut segment, &frame, start), expected, "{toml} {frame:x?}");
        assert_eq!(segment.arrive(&frame, start), expected, "{toml} {frame:x?}");
    }
}

#[test]
fn probes_go_into_the_vlans_that_cross() {
    let start = start();
    let mut watch = segment("vlan = '10,20'", 1, start);
    let sent = probes(&mut watch, start, start + 5 * SECOND);
    for (number, (at, probe)) in sent.iter().enumerate() {
        assert_eq!(probe[12..16], [0x81, 0, 0, if number % 2 == 0 { 10 } else { 20 }]);
        let mut other = segment("vlan = '10'", 2, start);
        let expected = if number % 2 == 0 { Ok(()) } else { Err(Drop::Vlan) };
        assert_eq!(leave(&mut other, probe, *at), expected, "the probes of others are of their VLAN");
    }
    assert!(sent.len() > 4);
    // A second path for frames without a tag is none for those that cross.
    let mut bare = segment("", 1, start).poll_probe(start).expect("a probe");
    assert_eq!(watch.arrive(&bare, start), Err(Drop::Vlan));
    assert_eq!(watch.held(), None);
    assert_eq!(watch.leave(&mut bare, 1, start), Err(Drop::BridgeLoop), "one in the LAN is one");
}

#[test]
fn who_does_not_look_for_loops_is_not_held() {
    let start = start();
    let mut segment = segment("", 1, start);
    let probe = segment.poll_probe(start).expect("a probe");
    let _ = segment.arrive(&probe, start);
    assert!(segment.held().is_some() && segment.poll_change().is_some());
    segment.set_rules(&rules("loop-guard = 'off'"), start);
    assert_eq!((segment.held(), segment.poll_change()), (None, Some(Change::Released)));
    assert_eq!((segment.arrive(&probe, start), segment.held()), (Err(Drop::BridgeLoop), None));
}

#[test]
fn without_chance_the_rules_hold_and_no_probe_is_sent() {
    struct None;
    impl Randomness for None {
        fn fill(&mut self, _: &mut [u8]) -> bool {
            false
        }
    }
    let start = start();
    let mut segment = Segment::new(&rules("vlan = 10"), &mut None, start);
    segment.set_port(true, start);
    segment.set_link(true, start);
    assert_eq!(probes(&mut segment, start, start + 10 * SECOND), []);
    assert_eq!(leave(&mut segment, &frame(2, 7, &IPV4), start), Err(Drop::Vlan));
}

proptest! {
    /// Whatever comes, nothing panics, and a hold ends one hold time after the last frame at the latest.
    #[test]
    fn any_frames_leave_the_watch_in_order(
        frames in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..70), any::<bool>(), 0..300u64), 0..60),
        vlan in any::<bool>(),
    ) {
        let mut now = start();
        let mut segment = segment(if vlan { "vlan = '1-4094'" } else { "" }, 1, now);
        for (bytes, is_probe, wait) in frames {
            now += Duration::from_millis(wait);
            segment.handle_timeout(now);
            let probe = segment.poll_probe(now).filter(|_| is_probe);
            let mut frame = probe.unwrap_or(bytes);
            let _ = segment.arrive(&frame, now);
            let _ = segment.leave(&mut frame, 3, now);
        }
        if let Some(at) = segment.resumes_at() {
            prop_assert!(at <= now + segment.hold());
            segment.handle_timeout(at);
        }
        prop_assert_eq!(segment.held(), None);
    }
}
