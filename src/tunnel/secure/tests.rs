//! Two ends under virtual time, joined by a wire that the test holds in its hands.

use super::*;
use crate::config::{AeadChoice, LinkLayer};
use crate::tunnel::crypto::Aead;
use crate::tunnel::keys::{PrivateKey, PublicKey, SharedSecret};
use crate::tunnel::message::{FEATURE_AES, FEATURE_AES_ONLY, Suite};
use crate::tunnel::parts::{PART_HEADER_LEN, Part};

mod checks;
mod exchange;
mod path_mtu;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Chance that repeats itself.
struct Seeded(fastrand::Rng);

impl Randomness for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        self.0.fill(bytes);
        true
    }
}

/// The path by which each end sees the other; over TCP it is one connection.
const PATH: Path = Path(1);

/// One end with what came out of it.
struct End {
    secure: Secure,
    info: PathInfo,
    out: Vec<Transmit>,
    events: Vec<Event>,
    packets: Vec<Vec<u8>>,
}

impl End {
    fn new(settings: Settings, identities: Vec<Identity>, seed: u64, reliable: bool, now: Instant) -> Self {
        let peer = match settings.side {
            Side::Connect => "192.0.2.1:55555",
            Side::Listen => "192.0.2.2:40000",
        };
        let info = PathInfo { reliable, max_message: 65_507, peer: peer.parse().unwrap() };
        let random = Box::new(Seeded(fastrand::Rng::with_seed(seed)));
        let wall = Duration::from_secs(1_700_000_000);
        let secure = Secure::new(settings, identities, random, now, wall).unwrap();
        Self { secure, info, out: Vec::new(), events: Vec::new(), packets: Vec::new() }
    }

    fn drain(&mut self) {
        self.out.extend(std::iter::from_fn(|| self.secure.poll_transmit()));
        self.events.extend(std::iter::from_fn(|| self.secure.poll_event()));
    }

    fn open(&mut self, path: Path, message: &[u8], now: Instant) -> Result<(), Refused> {
        let (mut message, info) = (message.to_vec(), self.info);
        let result = self.secure.open(path, &info, &mut message, now).map(|opened| match opened {
            Opened::Packet(packet, _) => self.packets.push(packet.to_vec()),
            Opened::Joined(packet, _) => self.packets.push(packet),
            Opened::Super(_) | Opened::Nothing => {}
        });
        self.drain();
        result
    }

    fn seal(&mut self, packet: &[u8], now: Instant) -> Option<Vec<u8>> {
        let mut message = vec![0; self.secure.message_len(packet.len(), now)?];
        self.secure.seal(DATA, 0, packet, &mut message, now);
        Some(message)
    }

    fn has(&self, event: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(event)
    }

    fn is_up(&self) -> bool {
        self.secure.up && self.secure.has_session()
    }
}

fn settings(side: Side) -> Settings {
    Settings {
        side,
        kind: LinkLayer::Tun,
        mtu: 1440,
        aead: AeadChoice::Auto,
        fragments: true,
        keepalive: 3 * SECOND,
        down_after: 10 * SECOND,
        endpoint: Endpoint::Follows,
        persistence: Persistence::Forever,
        limits: Limits::default(),
    }
}

fn secret(byte: u8, side: Side) -> Vec<Identity> {
    vec![Identity::with_secret(SharedSecret::from_bytes([byte; 32]), side)]
}

fn private(side: Side) -> PrivateKey {
    PrivateKey::from_bytes([side as u8; 32])
}

fn keys(side: Side) -> Vec<Identity> {
    let psk = Some(SharedSecret::from_bytes([9; 32]));
    vec![Identity::with_keys(&private(side), private(side.other()).public(), psk, side).unwrap()]
}

/// A connecting end, a listening end, a clock.
struct Pair {
    client: End,
    server: End,
    now: Instant,
    /// Messages that the wire has carried, newest last: whether the client sent it, and what it was.
    carried: Vec<(Side, Vec<u8>)>,
    /// The longest message that the wire carries.
    carries: usize,
}

impl Pair {
    fn with(reliable: bool, change: impl Fn(&mut Settings), identities: impl Fn(Side) -> Vec<Identity>) -> Self {
        let now = begin();
        let end = |side, seed| {
            let mut settings = settings(side);
            change(&mut settings);
            End::new(settings, identities(side), seed, reliable, now)
        };
        Self {
            client: end(Side::Connect, 1),
            server: end(Side::Listen, 2),
            now,
            carried: Vec::new(),
            carries: usize::MAX,
        }
    }

    fn new(reliable: bool) -> Self {
        Self::with(reliable, |_| {}, |side| secret(7, side))
    }

    /// The client's transport has a path.
    fn connect(&mut self) {
        let info = self.client.info;
        self.client.secure.link_up(PATH, info, self.now);
        self.client.drain();
    }

    /// Carries everything that waits, until nothing does.
    fn settle(&mut self) {
        loop {
            let from_client = std::mem::take(&mut self.client.out);
            let from_server = std::mem::take(&mut self.server.out);
            if from_client.is_empty() && from_server.is_empty() {
                return;
            }
            let fits = |transmit: &Transmit| transmit.message.len() <= self.carries;
            for Transmit { message, .. } in from_client.into_iter().filter(fits) {
                let _ = self.server.open(PATH, &message, self.now);
                self.carried.push((Side::Connect, message));
            }
            for Transmit { message, .. } in from_server.into_iter().filter(fits) {
                let _ = self.client.open(PATH, &message, self.now);
                self.carried.push((Side::Listen, message));
            }
        }
    }

    fn established(reliable: bool) -> Self {
        let mut pair = Self::new(reliable);
        pair.connect();
        pair.settle();
        assert!(pair.client.is_up() && pair.server.is_up());
        pair
    }

    /// Lets time pass, with the wire up (`carry`) or cut.
    fn pass(&mut self, time: Duration, carry: bool) {
        let end = self.now + time;
        loop {
            let deadline = self.client.secure.poll_timeout().into_iter().chain(self.server.secure.poll_timeout()).min();
            self.now = deadline.map_or(end, |at| at.max(self.now)).min(end);
            self.client.secure.handle_timeout(self.now);
            self.server.secure.handle_timeout(self.now);
            self.client.drain();
            self.server.drain();
            if carry {
                self.settle();
            } else {
                self.client.out.clear();
                self.server.out.clear();
            }
            if self.now == end && deadline.is_none_or(|at| at > end) {
                return;
            }
        }
    }

    fn exchange(&mut self) {
        let packet = |byte| [&[0x45][..], &[byte; 50]].concat();
        let (client, server) = (self.client.packets.len(), self.server.packets.len());
        let message = self.client.seal(&packet(1), self.now).expect("the client can send");
        assert_eq!(self.server.open(PATH, &message, self.now), Ok(()));
        let message = self.server.seal(&packet(2), self.now).expect("the server can send");
        assert_eq!(self.client.open(PATH, &message, self.now), Ok(()));
        assert_eq!(self.server.packets[server..], [packet(1)]);
        assert_eq!(self.client.packets[client..], [packet(2)]);
    }
}

#[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
fn begin() -> Instant {
    Instant::now()
}

#[test]
fn both_suites_and_both_kinds_of_path_carry_packets_both_ways() {
    for reliable in [false, true] {
        for identities in [|side| secret(7, side), keys] {
            for aead in [AeadChoice::Aes256Gcm, AeadChoice::ChaCha20Poly1305] {
                let mut pair = Pair::with(reliable, |settings| settings.aead = aead, identities);
                pair.connect();
                pair.settle();
                pair.exchange();
                let lengths: Vec<usize> = pair.carried.iter().map(|(_, message)| message.len()).collect();
                let suite = pair.client.secure.identities[0].suite();
                assert_eq!(lengths, [suite.init_len(), 140, 33], "INIT, RESP, EMPTY");
                assert!(pair.server.has(|event| matches!(event, Event::Up(_))));
                assert!(pair.client.has(|event| matches!(event, Event::Up(_))));
                assert!(pair.server.has(|event| *event == Event::PathAdopted(PATH)));
            }
        }
    }
}

#[test]
fn nothing_is_up_before_the_session_is_confirmed() {
    let mut pair = Pair::new(true);
    pair.connect();
    let init = pair.client.out.remove(0).message;
    assert_eq!(pair.server.open(PATH, &init, pair.now), Ok(()));
    assert!(!pair.server.secure.has_session() && pair.server.events.is_empty());
    assert_eq!(pair.server.out.len(), 1, "only the answer leaves");
}

#[test]
fn another_secret_draws_nothing_and_is_named_once_a_second() {
    let mut pair = Pair::with(false, |_| {}, |side| secret(side as u8, side));
    pair.connect();
    pair.pass(900 * MS, true);
    assert_eq!(pair.server.secure.poll_transmit(), None);
    assert!(pair.carried.len() >= 2 && pair.carried.iter().all(|(from, _)| *from == Side::Connect));
    let notices = pair.server.events.iter().filter(|event| matches!(event, Event::Notice(Notice::WrongKey(_)))).count();
    assert_eq!((notices, pair.server.events.len()), (1, 1));
}

#[test]
fn on_a_connection_a_bad_first_message_ends_it_without_a_byte() {
    let cases: [(&[u8], Refused); 4] = [
        (&[0x45; 84], Refused::NotAMessage),
        (&[INIT; 168], Refused::NotAMessage),
        (&[INIT, 1, 2, 0], Refused::NotAMessage),
        (&[DATA; 64], Refused::UnknownSession),
    ];
    for (message, refused) in cases {
        let mut pair = Pair::new(true);
        assert_eq!(pair.server.open(PATH, message, pair.now), Err(refused));
        assert_eq!(pair.server.out, []);
        assert_eq!(pair.server.events.last(), Some(&Event::PathRejected(PATH, Rejection::NotAuthentic)));
    }
}

#[test]
fn a_reflected_handshake_is_nothing() {
    for identities in [|side| secret(7, side), keys] {
        let mut pair = Pair::with(false, |_| {}, identities);
        pair.connect();
        let init = pair.client.out.remove(0).message;
        assert_eq!(pair.client.open(PATH, &init, pair.now), Err(Refused::BadHandshake));
        assert_eq!((pair.client.out.len(), pair.client.events.len()), (0, 0));
    }
}

#[test]
fn two_ends_of_one_side_are_told_so() {
    for identities in [
        |side| secret(7, side),
        |side: Side| {
            // The right keys on two ends that both connect.
            let own = PrivateKey::from_bytes([50 + side as u8; 32]);
            let peer = PrivateKey::from_bytes([50 + side.other() as u8; 32]).public();
            vec![Identity::with_keys(&own, peer, None, Side::Connect).unwrap()]
        },
    ] {
        let pair = Pair::new(false);
        let mut one = End::new(settings(Side::Connect), identities(Side::Connect), 3, false, pair.now);
        let mut other = End::new(
            settings(Side::Connect),
            {
                let mut identities = identities(Side::Listen);
                if identities[0].suite() == Suite::Secret {
                    identities = secret(7, Side::Connect);
                }
                identities
            },
            4,
            false,
            pair.now,
        );
        let info = one.info;
        one.secure.link_up(PATH, info, pair.now);
        one.drain();
        let init = one.out.remove(0).message;
        assert_eq!(other.open(PATH, &init, pair.now), Err(Refused::BadHandshake));
        assert!(other.has(|event| matches!(event, Event::Notice(Notice::SameSide(_)))), "{:?}", other.events);
    }
}

#[test]
fn a_replayed_handshake_is_refused_from_memory_and_is_stale_after_a_restart() {
    let mut pair = Pair::established(false);
    let init = pair.carried[0].1.clone();
    assert_eq!(pair.server.open(PATH, &init, pair.now), Err(Refused::HandshakeReplayed));
    pair.exchange();
    // A restarted server has forgotten both: it answers once, and nothing comes of it.
    pair.server = End::new(settings(Side::Listen), secret(7, Side::Listen), 99, false, pair.now);
    assert_eq!(pair.server.open(PATH, &init, pair.now), Ok(()));
    assert_eq!(pair.server.out.len(), 1);
    assert!(pair.server.out[0].message.len() < init.len() && !pair.server.secure.has_session());
    assert!(pair.server.events.is_empty());
}

#[test]
fn a_clock_that_went_back_costs_one_round_trip() {
    let mut pair = Pair::established(false);
    let mut earlier = End::new(settings(Side::Connect), secret(7, Side::Connect), 77, false, pair.now);
    earlier.secure.started_wall = Duration::from_secs(1_000);
    pair.client = earlier;
    pair.carried.clear();
    pair.connect();
    pair.settle();
    assert!(pair.client.is_up() && pair.server.is_up());
    pair.exchange();
    let lengths: Vec<usize> = pair.carried.iter().map(|(_, message)| message.len()).collect();
    assert_eq!(lengths, [168, 140, 168, 140, 33]);
    let behind = |event: &Event| matches!(event, Event::Notice(Notice::ClockBehind(seconds)) if *seconds > 1_000_000);
    assert!(pair.client.has(behind));
}

#[test]
fn stale_handshakes_are_answered_once_a_second() {
    let mut pair = Pair::established(false);
    let mut answers = 0;
    for seed in 0..100 {
        let mut stale = End::new(settings(Side::Connect), secret(7, Side::Connect), 1000 + seed, false, pair.now);
        stale.secure.started_wall = Duration::from_secs(seed);
        let info = stale.info;
        stale.secure.link_up(PATH, info, pair.now);
        stale.drain();
        let init = stale.out.remove(0).message;
        assert!(pair.server.open(PATH, &init, pair.now).is_err());
        answers += pair.server.out.drain(..).count();
    }
    assert_eq!(answers, 1);
}

/// What is changed on one end, and what both have to say about it.
type Change = fn(&mut Settings);
type Expected = fn(&Notice) -> bool;

#[test]
fn kinds_aeads_and_mtus_that_do_not_fit_are_told_on_both_ends() {
    let now = begin();
    let cases: [(Change, bool, Expected); 3] = [
        (|settings| settings.kind = LinkLayer::Tap, false, |notice| matches!(notice, Notice::PeerKind(_))),
        (|settings| settings.aead = AeadChoice::ChaCha20Poly1305, false, |notice| matches!(notice, Notice::Feature)),
        (|settings| settings.mtu = 1400, true, |notice| matches!(notice, Notice::MtuDiffers(..))),
    ];
    for (change, works, expected) in cases {
        for side in [Side::Connect, Side::Listen] {
            let mut pair = Pair::with(true, |settings| settings.aead = AeadChoice::Aes256Gcm, |side| secret(7, side));
            let mut changed = settings(side);
            changed.aead = AeadChoice::Aes256Gcm;
            change(&mut changed);
            let end = End::new(changed, secret(7, side), 5, true, now);
            match side {
                Side::Connect => pair.client = end,
                Side::Listen => pair.server = end,
            }
            pair.connect();
            pair.settle();
            let told = |end: &End| end.has(|event| matches!(event, Event::Notice(notice) if expected(notice)));
            assert!(told(&pair.client) && told(&pair.server), "{:?} {:?}", pair.client.events, pair.server.events);
            assert_eq!(pair.client.is_up() && pair.server.is_up(), works);
        }
    }
}

#[test]
fn chacha_is_taken_when_one_end_lacks_fast_aes() {
    let mut pair = Pair::new(false);
    pair.server.secure.settings.aead = AeadChoice::ChaCha20Poly1305;
    pair.connect();
    pair.settle();
    assert!(pair.client.is_up());
    assert_eq!(pair.client.secure.current.as_ref().unwrap().terms.aead, Aead::ChaCha20Poly1305);
    pair.exchange();
}

/// A packet that is longer than a message may be, sealed in parts; the second one first.
fn seal_in_parts(pair: &mut Pair, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (secure, now) = (&mut pair.client.secure, pair.now);
    assert_eq!(secure.message_len(packet.len(), now), None);
    let (len, number) = (secure.part_len(packet.len())?, secure.number_packet());
    let mut messages = Vec::new();
    for (place, bytes) in packet.chunks(len).enumerate() {
        let part = Part { packet: number, offset: (place * len) as u16, total: packet.len() as u16, bytes };
        let mut message = vec![0; secure.message_len(bytes.len() + PART_HEADER_LEN, now)?];
        secure.seal_part(&part, Checksum::Made, &mut message, now);
        messages.insert(0, message);
    }
    Some(messages)
}

/// A link whose messages are so short that few packets fit.
fn narrow(change: impl Fn(&mut Settings)) -> Pair {
    let mut pair = Pair::with(false, change, |side| secret(7, side));
    pair.client.info.max_message = 300;
    pair.connect();
    pair.settle();
    pair
}

#[test]
fn packets_that_are_too_long_cross_in_parts_if_both_ends_agree() {
    let mut pair = narrow(|_| {});
    let packet = vec![0x45; 700];
    let messages = seal_in_parts(&mut pair, &packet).expect("agreed");
    assert_eq!(messages.len(), 3);
    assert!(messages.iter().all(|message| message[0] == FRAG && message.len() <= 300));
    for message in &messages {
        assert_eq!(pair.server.open(PATH, message, pair.now), Ok(()));
    }
    assert_eq!(pair.server.packets, std::slice::from_ref(&packet));
    assert_eq!(pair.server.open(PATH, &messages[0], pair.now), Err(Refused::Replayed));

    // One of three is lost: the others are forgotten after a second.
    let messages = seal_in_parts(&mut pair, &packet).expect("agreed");
    pair.server.open(PATH, &messages[0], pair.now).expect("a part");
    pair.pass(2 * SECOND, true);
    assert!(pair.server.has(|event| *event == Event::Incomplete(1)), "{:?}", pair.server.events);
    assert_eq!(pair.server.packets.len(), 1);
}

#[test]
fn parts_are_not_sent_to_an_end_that_does_not_take_them() {
    for without in [Side::Connect, Side::Listen] {
        let mut pair = narrow(|settings| settings.fragments = settings.side != without);
        assert_eq!(seal_in_parts(&mut pair, &[0x45; 700]), None);
    }
}

#[test]
fn handshakes_are_repeated_at_growing_intervals_and_sooner_with_packets_to_send() {
    let mut pair = Pair::new(false);
    let sent = |pair: &mut Pair, offer: bool| {
        let mut times = Vec::new();
        let start = pair.now;
        pair.connect();
        while pair.now < start + 60 * SECOND {
            if !pair.client.out.is_empty() {
                times.push(pair.now.duration_since(start));
                pair.client.out.clear();
            }
            if offer {
                assert_eq!(pair.client.secure.message_len(100, pair.now), None);
            }
            pair.now += 10 * MS;
            pair.client.secure.handle_timeout(pair.now);
            pair.client.drain();
        }
        times.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>()
    };
    let idle = sent(&mut pair, false);
    let grows: [u64; 6] = [250, 500, 1000, 2000, 4000, 5000];
    for (wait, expected) in idle.iter().zip(grows) {
        let expected = Duration::from_millis(expected);
        assert!(*wait >= expected.mul_f64(0.8) && *wait <= expected.mul_f64(1.2) + 10 * MS, "{idle:?}");
    }
    assert!(idle.iter().all(|wait| *wait <= 6 * SECOND + 10 * MS) && idle.len() > 10);
    let hurried = sent(&mut pair, true);
    assert!(hurried.iter().all(|wait| *wait <= 770 * MS), "{hurried:?}");
    pair.client.secure.set_demand_hidden(true, pair.now);
    let hidden = sent(&mut pair, false);
    assert!(hidden.iter().all(|wait| *wait <= 910 * MS), "{hidden:?}");
}

#[test]
fn every_repetition_is_new_and_the_last_five_are_answered_to() {
    let mut pair = Pair::new(false);
    pair.connect();
    let mut inits = Vec::new();
    while inits.len() < 7 {
        inits.extend(pair.client.out.drain(..).map(|transmit| transmit.message));
        pair.now = pair.client.secure.poll_timeout().unwrap();
        pair.client.secure.handle_timeout(pair.now);
        pair.client.drain();
    }
    pair.client.out.clear();
    for (index, one) in inits.iter().enumerate() {
        for other in &inits[..index] {
            assert_ne!(one[4..8], other[4..8], "another index");
            assert_ne!(one[8..40], other[8..40], "another ephemeral key");
        }
    }
    // Of eight that were sent (the last was cleared), only the last five have their keys left.
    for (index, expected) in [(2, Err(Refused::HandshakeRefused)), (3, Ok(()))] {
        let mut server = End::new(settings(Side::Listen), secret(7, Side::Listen), 8, false, pair.now);
        assert_eq!(server.open(PATH, &inits[index], pair.now), Ok(()));
        let resp = server.out.remove(0).message;
        assert_eq!(pair.client.open(PATH, &resp, pair.now), expected);
    }
    assert!(pair.client.is_up());
}

#[test]
fn rekeying_happens_in_time_and_loses_nothing_under_way() {
    for reliable in [false, true] {
        let mut pair = Pair::established(reliable);
        let first = pair.client.secure.current.as_ref().unwrap().local();
        let late_client = pair.client.seal(&[0x45; 40], pair.now).unwrap();
        let late_server = pair.server.seal(&[0x45; 41], pair.now).unwrap();
        pair.pass(119 * SECOND, true);
        assert_eq!(pair.client.secure.current.as_ref().unwrap().local(), first);
        pair.pass(2 * SECOND, true);
        assert_ne!(pair.client.secure.current.as_ref().unwrap().local(), first, "the initiator rekeys after 120 s");
        assert_eq!(pair.server.open(PATH, &late_client, pair.now), Ok(()), "what was under way is taken");
        assert_eq!(pair.client.open(PATH, &late_server, pair.now), Ok(()));
        pair.exchange();
        pair.pass(3600 * SECOND, true);
        pair.exchange();
        let ups = |end: &End| end.events.iter().filter(|event| matches!(event, Event::Up(_))).count();
        assert_eq!((ups(&pair.client), ups(&pair.server)), (1, 1), "the link was never down");
        assert!(!pair.client.has(|event| matches!(event, Event::Down { .. })));
    }
}

#[test]
fn the_other_end_rekeys_when_the_initiator_does_not_and_old_sessions_end() {
    let mut pair = Pair::established(false);
    // The client's handshakes get lost, and only they.
    let end = pair.now + 139 * SECOND;
    let mut init_from_server = None;
    while pair.now < end + 10 * SECOND {
        pair.now += 100 * MS;
        pair.client.secure.handle_timeout(pair.now);
        pair.server.secure.handle_timeout(pair.now);
        pair.client.drain();
        pair.server.drain();
        pair.client.out.retain(|transmit| transmit.message[0] != INIT);
        if pair.server.out.iter().any(|transmit| transmit.message[0] == INIT) {
            init_from_server.get_or_insert(pair.now);
        }
        pair.settle();
    }
    let at = init_from_server.expect("the server has begun a handshake");
    assert!(at > end && at < end + 3 * SECOND);
    pair.exchange();
}

#[test]
fn a_session_is_used_up_by_messages_and_by_bytes() {
    for (messages, bytes) in [(100, u64::MAX / 4), (u64::MAX / 4, 100 * 60)] {
        let limits = Limits { messages, bytes, ..Limits::default() };
        let mut pair = Pair::with(false, |settings| settings.limits = limits, |side| secret(7, side));
        pair.connect();
        pair.settle();
        let first = pair.client.secure.current.as_ref().unwrap().local();
        let mut sent = 0;
        while pair.client.seal(&[0x45; 60], pair.now).is_some() {
            sent += 1;
            assert!(sent < 1000, "a session without an end");
        }
        assert!((195..=202).contains(&sent), "{sent} messages of at most 200");
        assert!(!pair.client.secure.has_session());
        pair.client.secure.handle_timeout(pair.now);
        pair.client.drain();
        pair.settle();
        assert_ne!(pair.client.secure.current.as_ref().unwrap().local(), first);
        pair.exchange();
    }
}

#[test]
fn after_three_minutes_without_a_new_one_a_session_is_not_used_any_more() {
    let mut pair = Pair::established(false);
    let message = pair.client.seal(&[0x45; 40], pair.now).unwrap();
    pair.pass(180 * SECOND, false);
    assert_eq!(pair.server.open(PATH, &message, pair.now), Err(Refused::UnknownSession));
    assert!(!pair.client.secure.has_session() && !pair.server.secure.has_session());
    assert_eq!(pair.client.seal(&[0x45; 40], pair.now), None);
    pair.pass(10 * SECOND, true);
    pair.exchange();
}

#[test]
fn a_message_is_taken_once_and_only_unaltered() {
    let mut pair = Pair::established(false);
    let message = pair.client.seal(&[0x45; 100], pair.now).unwrap();
    for bit in 0..message.len() * 8 {
        let mut altered = message.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(pair.server.open(PATH, &altered, pair.now).is_err(), "bit {bit}");
    }
    for len in 0..message.len() {
        assert!(pair.server.open(PATH, &message[..len], pair.now).is_err());
    }
    let longer = [&message[..], &[0]].concat();
    assert!(pair.server.open(PATH, &longer, pair.now).is_err());
    assert_eq!(pair.server.open(PATH, &message, pair.now), Ok(()));
    assert_eq!(pair.server.open(PATH, &message, pair.now), Err(Refused::Replayed));
    assert_eq!(pair.server.packets.len(), 1);
    // A message that comes back to its sender is for no session there, or not authentic.
    let message = pair.client.seal(&[0x45; 100], pair.now).unwrap();
    assert!(pair.client.open(PATH, &message, pair.now).is_err());
}

#[test]
fn a_silent_peer_is_down_after_ten_seconds_and_up_again_when_it_speaks() {
    let mut pair = Pair::established(false);
    pair.pass(3600 * SECOND, true);
    assert!(!pair.client.has(|event| matches!(event, Event::Down { .. })), "an idle link is up");
    // The last sign of life was up to 3 s ago when the wire was cut.
    pair.pass(6900 * MS, false);
    assert!(!pair.client.has(|event| matches!(event, Event::Down { .. })));
    pair.pass(3200 * MS, false);
    for end in [&pair.client, &pair.server] {
        let Some(Event::Down { idle, why, .. }) = end.events.iter().find(|event| matches!(event, Event::Down { .. }))
        else {
            panic!("{:?}", end.events)
        };
        assert_eq!((idle.as_secs(), *why), (10, Some(Rejection::Silent)));
    }
    pair.client.events.clear();
    pair.server.events.clear();
    pair.pass(7 * SECOND, true);
    assert!(
        pair.client.has(|event| matches!(event, Event::Up(_)))
            && pair.server.has(|event| matches!(event, Event::Up(_)))
    );
    pair.exchange();
}

#[test]
fn a_restarted_server_is_found_again_within_a_second_of_offered_traffic() {
    let mut pair = Pair::established(false);
    pair.server = End::new(settings(Side::Listen), secret(7, Side::Listen), 20, false, pair.now);
    let start = pair.now;
    while !pair.server.secure.has_session() {
        if let Some(message) = pair.client.seal(&[0x45; 40], pair.now) {
            let _ = pair.server.open(PATH, &message, pair.now);
        }
        pair.pass(10 * MS, true);
        assert!(pair.now - start < SECOND, "too slow");
    }
    pair.exchange();
    assert!(!pair.client.has(|event| matches!(event, Event::Down { .. })), "it was not away for long");
}

#[test]
fn a_restarted_client_takes_the_place_of_the_one_before() {
    for reliable in [false, true] {
        let mut pair = Pair::established(reliable);
        pair.now += SECOND;
        pair.client = End::new(settings(Side::Connect), secret(7, Side::Connect), 21, reliable, pair.now);
        pair.client.secure.started_wall += SECOND;
        let new = Path(2);
        let info = pair.client.info;
        pair.client.secure.link_up(new, info, pair.now);
        pair.client.drain();
        for _ in 0..2 {
            for transmit in std::mem::take(&mut pair.client.out) {
                pair.server.open(new, &transmit.message, pair.now).unwrap();
            }
            assert_eq!(pair.server.secure.live_path() == Some(new), pair.client.is_up(), "not before it is confirmed");
            for transmit in std::mem::take(&mut pair.server.out) {
                assert_eq!(transmit.path, new);
                pair.client.open(new, &transmit.message, pair.now).unwrap();
            }
        }
        assert_eq!(pair.server.secure.live_path(), Some(new));
        let replaced = pair.server.has(|event| *event == Event::PathRejected(PATH, Rejection::Replaced));
        assert_eq!(replaced, reliable);
    }
}

#[test]
fn two_clients_with_one_key_do_not_push_each_other_out_for_ever() {
    let mut pair = Pair::established(false);
    let mut second = End::new(settings(Side::Connect), secret(7, Side::Connect), 22, false, pair.now);
    let info = second.info;
    pair.now += SECOND;
    let run = |server: &mut End, client: &mut End, path: Path, now: Instant| {
        client.secure.link_up(path, info, now);
        client.drain();
        for _ in 0..3 {
            for transmit in std::mem::take(&mut client.out) {
                let _ = server.open(path, &transmit.message, now);
            }
            for transmit in std::mem::take(&mut server.out) {
                let _ = client.open(path, &transmit.message, now);
            }
        }
    };
    run(&mut pair.server, &mut second, Path(2), pair.now);
    assert!(
        second.is_up() && pair.server.secure.live_path() == Some(Path(2)),
        "the newcomer may be a restarted client"
    );
    pair.now += 2 * SECOND;
    let _ = second.seal(&[0x45; 40], pair.now).map(|message| pair.server.open(Path(2), &message, pair.now));
    run(&mut pair.server, &mut pair.client, Path(3), pair.now);
    assert_eq!(pair.server.secure.live_path(), Some(Path(2)), "the first one is alive, too, and loses");
    assert!(pair.server.has(|event| matches!(event, Event::Notice(Notice::TwoPeers(_)))));
    assert!(pair.client.has(|event| matches!(event, Event::Notice(Notice::Busy))));
}

#[test]
fn the_endpoint_follows_the_newest_message_and_not_an_old_or_a_replayed_one() {
    let mut pair = Pair::established(false);
    let (old, new) =
        (pair.client.seal(&[0x45; 40], pair.now).unwrap(), pair.client.seal(&[0x45; 40], pair.now).unwrap());
    assert_eq!(pair.server.open(Path(5), &new, pair.now), Ok(()));
    assert_eq!(pair.server.secure.live_path(), Some(Path(5)));
    assert_eq!(pair.server.open(Path(6), &old, pair.now), Ok(()), "it is new, but not the newest");
    assert_eq!(pair.server.open(Path(7), &new, pair.now), Err(Refused::Replayed));
    assert_eq!(pair.server.secure.live_path(), Some(Path(5)));
    pair.server.secure.settings.endpoint = Endpoint::Pinned;
    let newer = pair.client.seal(&[0x45; 40], pair.now).unwrap();
    assert_eq!(pair.server.open(Path(8), &newer, pair.now), Ok(()));
    assert_eq!(pair.server.secure.live_path(), Some(Path(5)), "a pinned endpoint stays");
}

#[test]
fn a_session_of_a_connection_is_nothing_on_another() {
    let mut pair = Pair::established(true);
    let message = pair.client.seal(&[0x45; 40], pair.now).unwrap();
    assert_eq!(pair.server.open(Path(9), &message, pair.now), Err(Refused::UnknownSession));
    assert_eq!(pair.server.events.last(), Some(&Event::PathRejected(Path(9), Rejection::NotAuthentic)));
    assert_eq!(pair.server.open(PATH, &message, pair.now), Ok(()), "the session itself is unharmed");
}

#[test]
fn a_goodbye_ends_the_link_at_once_and_the_connecting_end_begins_again() {
    let mut pair = Pair::established(false);
    pair.server.secure.close(CloseReason::Stops, pair.now);
    pair.server.drain();
    pair.settle();
    let gone = Event::Down { idle: Duration::ZERO, peer: pair.client.info.peer, why: Some(Rejection::PeerClosed) };
    assert_eq!(pair.client.events.last(), Some(&gone));
    assert!(!pair.client.secure.has_session());
    let closed = pair.carried.last().unwrap().1.clone();
    pair.pass(3 * SECOND, true);
    pair.exchange();
    assert!(pair.client.open(PATH, &closed, pair.now).is_err(), "an old goodbye says nothing");
    assert!(pair.client.is_up());
}

#[test]
fn a_goodbye_by_the_session_before_counts_if_it_is_the_same_peers() {
    // The server answers a handshake and says goodbye before it has seen the confirmation.
    let mut pair = Pair::established(false);
    pair.client.secure.begin(Reason::Rekey, pair.now);
    pair.client.drain();
    let init = pair.client.out.remove(0).message;
    assert_eq!(pair.server.open(PATH, &init, pair.now), Ok(()));
    let resp = pair.server.out.remove(0).message;
    pair.server.secure.close(CloseReason::Stops, pair.now);
    pair.server.drain();
    let goodbye = pair.server.out.remove(0).message;
    assert_eq!(pair.client.open(PATH, &resp, pair.now), Ok(()));
    assert_eq!(pair.client.open(PATH, &goodbye, pair.now), Ok(()));
    assert!(pair.client.has(|event| matches!(event, Event::Down { why: Some(Rejection::PeerClosed), .. })));

    // A client that was replaced says goodbye: its successor stays.
    let mut pair = Pair::established(false);
    let mut successor = End::new(settings(Side::Connect), secret(7, Side::Connect), 40, false, pair.now);
    successor.secure.started_wall += SECOND;
    std::mem::swap(&mut pair.client, &mut successor);
    pair.connect();
    pair.settle();
    successor.secure.close(CloseReason::Stops, pair.now);
    successor.drain();
    let goodbye = successor.out.remove(0).message;
    assert_eq!(pair.server.open(PATH, &goodbye, pair.now), Ok(()));
    assert!(pair.server.is_up());
    pair.exchange();
}

#[test]
fn an_interrupted_connection_is_no_change_of_state_if_it_comes_back_in_time() {
    let mut pair = Pair::established(true);
    pair.client.secure.link_down(PATH, pair.now);
    pair.server.secure.link_down(PATH, pair.now);
    pair.pass(5 * SECOND, true);
    let again = Path(2);
    let info = pair.client.info;
    pair.client.secure.link_up(again, info, pair.now);
    pair.client.drain();
    for _ in 0..3 {
        for transmit in std::mem::take(&mut pair.client.out) {
            pair.server.open(again, &transmit.message, pair.now).unwrap();
        }
        for transmit in std::mem::take(&mut pair.server.out) {
            pair.client.open(again, &transmit.message, pair.now).unwrap();
        }
    }
    for end in [&pair.client, &pair.server] {
        assert!(end.is_up());
        assert!(
            end.has(|event| matches!(event, Event::Interrupted { .. }))
                && end.has(|event| matches!(event, Event::Resumed(_)))
        );
        assert!(!end.has(|event| matches!(event, Event::Down { .. })));
    }
}

#[test]
fn crossing_handshakes_end_in_one_session_for_both() {
    let mut pair = Pair::new(false);
    pair.connect();
    let info = pair.server.info;
    pair.server.secure.link_up(PATH, info, pair.now);
    pair.server.drain();
    assert_eq!((pair.client.out.len(), pair.server.out.len()), (1, 1));
    pair.settle();
    pair.exchange();
    let (client, server) = (pair.client.secure.current.as_ref().unwrap(), pair.server.secure.current.as_ref().unwrap());
    assert_eq!(client.terms.begun, super::super::session::Begun::Here, "the connecting end's handshake wins");
    assert_eq!(server.terms.begun, super::super::session::Begun::There);
}

#[test]
fn a_round_trip_longer_than_the_patience_of_the_initiator_is_no_obstacle() {
    for delay in [200, 300, 700, 1500, 2500] {
        let delay = delay * MS;
        let (mut pair, took) = establish_over(delay, 4 * delay + 20 * SECOND, &[])
            .unwrap_or_else(|| panic!("no session with {delay:?} each way"));
        pair.exchange();
        assert!(took <= 3 * delay + 1600 * MS, "{took:?} with {delay:?} each way");
    }
}

#[test]
fn a_listening_end_that_knows_the_peer_begins_by_itself() {
    let mut pair = Pair::established(false);
    // The client does not know that the server was restarted; the server knows where the client was.
    pair.server = End::new(settings(Side::Listen), secret(7, Side::Listen), 30, false, pair.now);
    let info = pair.server.info;
    pair.server.secure.link_up(PATH, info, pair.now);
    pair.server.drain();
    pair.settle();
    assert!(pair.server.is_up());
    pair.exchange();
}

#[test]
fn a_hint_is_tried_for_three_minutes_and_then_left_alone() {
    let mut pair = Pair::new(false);
    pair.server.secure.settings.persistence = Persistence::WhileFresh;
    let info = pair.server.info;
    pair.server.secure.link_up(PATH, info, pair.now);
    pair.server.drain();
    assert_eq!(pair.server.out.len(), 1);
    pair.pass(190 * SECOND, false);
    assert_eq!(pair.server.secure.poll_timeout(), None, "a server without a peer sleeps");
    assert_eq!(pair.server.secure.live_path(), None);
}

#[test]
fn two_secrets_are_accepted_while_they_are_exchanged() {
    let both = |side| [secret(1, side), secret(2, side)].concat();
    for (client, server) in [(1, 0), (2, 0), (0, 1), (0, 2)] {
        let identities = move |byte: u8, side| if byte == 0 { both(side) } else { secret(byte, side) };
        let mut pair = Pair::with(
            false,
            |_| {},
            |side| match side {
                Side::Connect => identities(client, side),
                Side::Listen => identities(server, side),
            },
        );
        pair.connect();
        pair.pass(2 * SECOND, true);
        pair.exchange();
        pair.pass(130 * SECOND, true);
        assert!(pair.client.is_up(), "the one that works is used again");
        pair.exchange();
    }
}

/// The listening end closes a connection whose first message it cannot read, so each has one chance only.
#[test]
fn on_connections_two_secrets_take_turns_until_one_is_answered() {
    let mut pair = Pair::with(
        true,
        |_| {},
        |side| match side {
            Side::Connect => [secret(1, side), secret(2, side)].concat(),
            Side::Listen => secret(2, side),
        },
    );
    for (number, up) in [(1, false), (2, true), (3, true), (4, true)] {
        let (path, info) = (Path(number), pair.client.info);
        pair.client.secure.link_down(Path(number - 1), pair.now);
        pair.client.secure.link_up(path, info, pair.now);
        pair.client.drain();
        for _ in 0..2 {
            for Transmit { message, .. } in std::mem::take(&mut pair.client.out) {
                let _ = pair.server.open(path, &message, pair.now);
            }
            for Transmit { message, .. } in std::mem::take(&mut pair.server.out) {
                let _ = pair.client.open(path, &message, pair.now);
            }
        }
        assert_eq!(pair.client.is_up() && pair.server.is_up(), up, "connection {number}");
    }
}

#[test]
fn the_confirmation_of_a_session_leaves_one_that_was_made_after_it() {
    let mut pair = Pair::new(false);
    pair.connect();
    let init = pair.client.out.remove(0).message;
    assert_eq!(pair.server.open(PATH, &init, pair.now), Ok(()));
    let resp = pair.server.out.remove(0).message;
    assert_eq!(pair.client.open(PATH, &resp, pair.now), Ok(()));
    // The confirmation is lost, and the client begins anew.
    pair.client.out.clear();
    pair.client.secure.begin(Reason::Rekey, pair.now);
    pair.client.drain();
    let init = pair.client.out.remove(0).message;
    assert_eq!(pair.server.open(PATH, &init, pair.now), Ok(()));
    let packet = [0x45; 40];
    let first = pair.client.seal(&packet, pair.now).unwrap();
    assert_eq!(pair.server.open(PATH, &first, pair.now), Ok(()));
    let resp = pair.server.out.remove(0).message;
    assert_eq!(pair.client.open(PATH, &resp, pair.now), Ok(()));
    pair.client.out.clear();
    let second = pair.client.seal(&packet, pair.now).unwrap();
    assert_eq!(pair.server.open(PATH, &second, pair.now), Ok(()), "the newer one is confirmed, too");
    pair.exchange();
}

#[test]
fn offered_traffic_hurries_a_handshake_beside_a_session_and_not_on_a_connection() {
    for (reliable, seconds) in [(false, 20), (true, 4)] {
        let mut pair = if reliable { Pair::new(true) } else { Pair::established(false) };
        let mut sent_at = Vec::new();
        if reliable {
            pair.connect();
            pair.client.out.clear();
        }
        for _ in 0..seconds * 20 {
            let _ = pair.client.seal(&[0x45; 40], pair.now);
            pair.now += 50 * MS;
            pair.client.secure.handle_timeout(pair.now);
            pair.client.drain();
            sent_at.extend(pair.client.out.drain(..).filter(|sent| sent.message[0] == INIT).map(|_| pair.now));
        }
        if reliable {
            assert_eq!(sent_at, [], "a connection loses nothing");
        } else {
            let gap = sent_at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert!(gap <= 1300 * MS && sent_at.len() > 10, "{gap:?}");
        }
    }
}

#[test]
fn when_the_network_changes_the_peer_is_asked_at_once_and_doubted_if_it_does_not_answer() {
    for reliable in [false, true] {
        let mut pair = Pair::established(reliable);
        pair.client.secure.network_changed(pair.now);
        pair.client.drain();
        assert_eq!(pair.client.out.iter().map(|sent| sent.message[0]).collect::<Vec<_>>(), [CTRL]);
        pair.settle();
        pair.now += SECOND;
        pair.client.secure.handle_timeout(pair.now);
        pair.client.drain();
        assert_eq!(pair.client.out, [], "it has answered");

        pair.client.secure.network_changed(pair.now);
        pair.client.drain();
        pair.client.out.clear();
        pair.now += 300 * MS;
        pair.client.secure.handle_timeout(pair.now);
        pair.client.drain();
        let doubts = pair.client.out.iter().any(|sent| sent.message[0] == INIT);
        assert_eq!(doubts, !reliable, "on a connection the same question is under way still");
    }
}

#[test]
fn who_looks_for_the_peer_tries_again_when_the_network_changes() {
    let mut pair = Pair::new(false);
    pair.connect();
    pair.now += 100 * MS;
    pair.client.out.clear();
    pair.client.secure.network_changed(pair.now);
    pair.client.drain();
    assert_eq!(pair.client.out.iter().map(|sent| sent.message[0]).collect::<Vec<_>>(), [INIT]);
    assert!(pair.client.secure.poll_timeout().is_some_and(|at| at <= pair.now + 300 * MS), "and soon once more");
}

#[test]
fn a_session_that_is_used_up_says_nothing_at_all() {
    let few = |settings: &mut Settings| settings.limits = Limits { messages: 4, ..Limits::default() };
    let mut pair = Pair::with(true, few, |side| secret(7, side));
    pair.connect();
    pair.settle();
    // With the confirmation, eight.
    for _ in 0..7 {
        assert!(pair.client.seal(&[0x45; 40], pair.now).is_some());
    }
    assert!(!pair.client.secure.has_session());
    pair.server.secure.ping(pair.now);
    pair.server.drain();
    let ping = pair.server.out.remove(0).message;
    assert_eq!(pair.client.open(PATH, &ping, pair.now), Ok(()));
    pair.client.secure.close(CloseReason::Stops, pair.now);
    pair.client.drain();
    assert_eq!(pair.client.out, []);
}

#[test]
fn an_end_that_has_answered_a_handshake_leaves_it_a_second_to_end() {
    let mut pair = Pair::established(false);
    pair.now += 130 * SECOND;
    pair.client.secure.begin(Reason::Rekey, pair.now);
    pair.client.drain();
    let init = pair.client.out.remove(0).message;
    pair.now += 10 * SECOND;
    assert_eq!(pair.server.open(PATH, &init, pair.now), Ok(()));
    pair.server.out.clear();
    // That the client is silent would be another reason.
    pair.server.secure.up = false;
    let mut inits = |now| {
        pair.server.secure.handle_timeout(now);
        pair.server.drain();
        pair.server.out.drain(..).filter(|sent| sent.message[0] == INIT).count()
    };
    assert_eq!(inits(pair.now + 999 * MS), 0);
    assert_eq!(inits(pair.now + SECOND), 1);
}

#[test]
fn pings_are_answered_and_never_by_something_longer() {
    let mut pair = Pair::established(false);
    pair.pass(3100 * MS, true);
    let sealed: Vec<(Side, usize)> =
        pair.carried.iter().skip(3).map(|(from, message)| (*from, message.len())).collect();
    assert!(!sealed.is_empty() && sealed.len().is_multiple_of(2), "{sealed:?}");
    for exchange in sealed.chunks(2) {
        assert_ne!(exchange[0].0, exchange[1].0);
        assert!(exchange[1].1 <= exchange[0].1);
    }
}

#[test]
fn an_idle_link_wakes_up_rarely() {
    let mut pair = Pair::established(false);
    pair.carried.clear();
    pair.pass(60 * SECOND, true);
    assert!(pair.carried.len() <= 2 * 40, "{} messages in a minute of silence", pair.carried.len());
}

#[test]
fn a_peer_key_with_which_everything_is_zero_is_refused() {
    for point in [[0; 32], {
        let mut one = [0; 32];
        one[0] = 1;
        one
    }] {
        assert!(
            Identity::with_keys(&private(Side::Connect), PublicKey::from_bytes(point), None, Side::Connect).is_none()
        );
    }
}

/// Both ends joined by a wire with this delay each way, with packets offered by the client, until both are up; and how long
/// that took.
fn establish_over(delay: Duration, deadline: Duration, offered: &[[u8; 40]]) -> Option<(Pair, Duration)> {
    let mut pair = Pair::new(false);
    let start = pair.now;
    let mut wire: VecDeque<(Instant, Side, Vec<u8>)> = VecDeque::new();
    pair.connect();
    while !(pair.client.is_up() && pair.server.is_up()) {
        if pair.now > start + deadline {
            return None;
        }
        for packet in offered {
            let _ = pair.client.seal(packet, pair.now);
        }
        for (from, end) in [(Side::Connect, &mut pair.client), (Side::Listen, &mut pair.server)] {
            wire.extend(end.out.drain(..).map(|out| (pair.now + delay, from, out.message)));
        }
        pair.now += 10 * MS;
        while let Some((_, from, message)) = wire.pop_front_if(|(at, ..)| *at <= pair.now) {
            let end = if from == Side::Connect { &mut pair.server } else { &mut pair.client };
            let _ = end.open(PATH, &message, pair.now);
        }
        pair.client.secure.handle_timeout(pair.now);
        pair.server.secure.handle_timeout(pair.now);
        pair.client.drain();
        pair.server.drain();
    }
    let took = pair.now - start;
    Some((pair, took))
}

#[test]
fn packets_that_wait_do_not_make_a_long_round_trip_an_obstacle() {
    for delay in [100, 600, 900, 1100] {
        let pair = establish_over(delay * MS, 60 * SECOND, &[[0x45; 40]]);
        assert!(pair.is_some(), "no session with {delay} ms each way");
    }
}

#[test]
fn with_packets_to_send_handshakes_are_three_quarters_of_a_second_apart() {
    let mut pair = Pair::new(false);
    let (mut times, start) = (Vec::new(), pair.now);
    pair.connect();
    while pair.now < start + 20 * SECOND {
        if !pair.client.out.is_empty() {
            times.push(pair.now);
            pair.client.out.clear();
        }
        assert_eq!(pair.client.secure.message_len(100, pair.now), None);
        pair.now += 10 * MS;
        pair.client.secure.handle_timeout(pair.now);
        pair.client.drain();
    }
    let waits: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.iter().skip(2).all(|wait| (600 * MS..=770 * MS).contains(wait)), "{waits:?}");
}

#[test]
fn a_handshake_that_is_never_confirmed_stops_nobody_from_trying() {
    // A captured handshake is replayed to a listening end that was restarted and knows where the peer is.
    let mut pair = Pair::established(false);
    let captured = pair.carried[0].1.clone();
    pair.server = End::new(settings(Side::Listen), secret(7, Side::Listen), 31, false, pair.now);
    let info = pair.server.info;
    pair.server.secure.link_up(PATH, info, pair.now);
    pair.server.drain();
    assert_eq!(pair.server.open(Path(66), &captured, pair.now), Ok(()));
    pair.server.out.clear();
    pair.pass(10 * SECOND, false);
    pair.client = End::new(settings(Side::Connect), secret(7, Side::Connect), 32, false, pair.now);
    pair.pass(6 * SECOND, true);
    assert!(pair.server.is_up(), "the listening end has gone on trying");
}

#[test]
fn the_end_that_gives_way_is_quiet_until_the_other_ones_handshake_had_its_time() {
    let mut pair = Pair::established(false);
    // Both sessions are due at the same moment.
    pair.pass(150 * SECOND, false);
    pair.client.secure.attempt = None;
    pair.client.secure.handle_timeout(pair.now);
    pair.client.drain();
    let init = pair.client.out.iter().find(|out| out.message[0] == INIT).unwrap().message.clone();
    pair.server.out.clear();
    assert_eq!(pair.server.open(PATH, &init, pair.now), Ok(()));
    let end = pair.now + SECOND;
    while pair.now < end {
        pair.now += 10 * MS;
        if pair.server.secure.poll_timeout().is_some_and(|at| at <= pair.now) {
            pair.server.secure.handle_timeout(pair.now);
        }
        pair.server.drain();
    }
    let inits = pair.server.out.iter().filter(|out| out.message[0] == INIT).count();
    assert_eq!(inits, 0, "it has given way");
}

#[test]
fn after_a_refusal_nobody_says_that_there_is_no_answer() {
    let mut pair = Pair::new(false);
    pair.server.secure.settings.kind = LinkLayer::Tap;
    pair.connect();
    pair.pass(30 * SECOND, true);
    assert!(pair.client.has(|event| matches!(event, Event::Notice(Notice::PeerKind(_)))));
    assert!(!pair.client.has(|event| matches!(event, Event::Notice(Notice::NoAnswer(_)))), "it answers all the time");
    pair.pass(16 * SECOND, false);
    assert!(pair.client.has(|event| matches!(event, Event::Notice(Notice::NoAnswer(_)))), "it has left");
}

#[test]
fn a_connection_on_which_nobody_answers_is_said_to_be_one() {
    let mut pair = Pair::new(true);
    pair.connect();
    pair.pass(6 * SECOND, false);
    let silent = Event::PathRejected(PATH, Rejection::Silent);
    assert!(pair.client.has(|event| *event == silent));
    assert!(pair.client.has(|event| matches!(event, Event::Notice(Notice::NoAnswer(_)))), "{:?}", pair.client.events);
    let mut pair = Pair::new(true);
    pair.server.secure.settings.kind = LinkLayer::Tap;
    pair.connect();
    pair.settle();
    pair.pass(6 * SECOND, true);
    assert!(pair.client.has(|event| *event == silent));
    assert!(!pair.client.has(|event| matches!(event, Event::Notice(Notice::NoAnswer(_)))), "it has said no");
}

#[test]
fn handshakes_that_cross_after_a_goodbye_end_in_one_session_too() {
    let mut pair = Pair::established(false);
    pair.server.secure.close(CloseReason::Stops, pair.now);
    pair.server.drain();
    pair.settle();
    // The listening end is back and begins at the same moment as the connecting one.
    pair.now += SECOND;
    pair.client.secure.handle_timeout(pair.now);
    pair.client.drain();
    assert_eq!(pair.client.out.last().unwrap().message[0], INIT);
    pair.server = End::new(settings(Side::Listen), secret(7, Side::Listen), 33, false, pair.now);
    let info = pair.server.info;
    pair.server.secure.link_up(PATH, info, pair.now);
    pair.server.drain();
    let init = pair.server.out.remove(0).message;
    assert_eq!(pair.client.open(PATH, &init, pair.now), Err(Refused::HandshakeRefused), "the connecting end's wins");
    pair.settle();
    pair.exchange();
}

#[test]
fn a_session_that_is_used_up_says_nothing_any_more() {
    let limits = Limits { messages: 20, ..Limits::default() };
    let mut pair = Pair::with(true, |settings| settings.limits = limits, |side| secret(7, side));
    pair.connect();
    pair.settle();
    let ping = {
        let plain = Control::Ping { token: 1, len: message::PONG_LEN }.to_bytes();
        let mut ping = vec![0; plain.len() + OVERHEAD];
        pair.client.secure.seal(CTRL, 0, &plain, &mut ping, pair.now);
        ping
    };
    while pair.server.seal(&[0x45; 60], pair.now).is_some() {}
    assert_eq!(pair.server.open(PATH, &ping, pair.now), Ok(()));
    assert_eq!(pair.server.out, [], "nothing may be sealed, and anything else would end the connection");
}

#[test]
fn a_connection_that_is_given_up_is_interrupted_for_the_reason_that_holds() {
    let mut pair = Pair::established(true);
    assert_eq!(pair.server.open(PATH, &[DATA; 64], pair.now), Err(Refused::UnknownSession));
    let peer = pair.server.info.peer;
    let interrupted = Event::Interrupted { peer, why: Some(Rejection::NotAuthentic) };
    assert!(pair.server.has(|event| *event == interrupted), "{:?}", pair.server.events);
    pair.client.secure.link_down(PATH, pair.now);
    pair.client.drain();
    assert!(pair.client.has(|event| matches!(event, Event::Interrupted { why: None, .. })));
}

/// When the client sends INIT in `time`, with a packet to send every 20 ms and nothing that comes back.
fn asked_in(pair: &mut Pair, time: Duration) -> Vec<Duration> {
    let (start, mut asked) = (pair.now, Vec::new());
    while pair.now < start + time {
        let _ = pair.client.seal(&[0x45; 40], pair.now);
        pair.now += 20 * MS;
        pair.client.secure.handle_timeout(pair.now);
        pair.client.drain();
        let inits = pair.client.out.drain(..).filter(|transmit| transmit.message[0] == INIT).count();
        asked.extend((0..inits).map(|_| pair.now - start));
    }
    asked
}

#[test]
fn a_peer_that_has_fallen_silent_is_asked_often_while_there_is_something_to_send() {
    let mut pair = Pair::established(false);
    let asked = asked_in(&mut pair, 30 * SECOND);
    assert!((580 * MS..640 * MS).contains(&asked[0]), "doubted after twice 300 ms: {asked:?}");
    let longest = asked.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(longest.is_some_and(|longest| longest <= 770 * MS), "{asked:?}");
    assert!(!pair.client.secure.up && pair.client.secure.has_session());
}

#[test]
fn what_there_is_to_send_repeats_no_handshake_on_a_reliable_path() {
    let mut pair = Pair::new(true);
    pair.connect();
    pair.client.out.clear();
    assert_eq!(asked_in(&mut pair, 4900 * MS), [] as [Duration; 0]);
}
