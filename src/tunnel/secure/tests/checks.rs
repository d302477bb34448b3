//! What holds at the edges: limits to the message and to the millisecond, and messages that an honest end never makes.

use super::*;
use crate::tunnel::crypto::has_fast_aes;
use crate::tunnel::handshake::{self, Initiation};
use crate::tunnel::message::{Answer, Offer, Status};
use crate::tunnel::session::Begun;
use zeroize::Zeroizing;

/// Chance that has run out.
struct Exhausted;

impl Randomness for Exhausted {
    fn fill(&mut self, _bytes: &mut [u8]) -> bool {
        false
    }
}

fn offer(seconds: u64) -> Offer {
    Offer {
        timestamp: Timestamp::since_1970(Duration::from_secs(1_800_000_000 + seconds)),
        kind: Some(LinkLayer::Tun),
        mtu: 1440,
        features: FEATURE_AES,
        instance: [5; 16],
        tunnel: [0; 16],
        down_after_ms: 10_000,
    }
}

fn answer() -> Answer {
    Answer {
        status: Some(Status::Ok),
        aead: Aead::ChaCha20Poly1305 as u8,
        kind: Some(LinkLayer::Tun),
        mtu: 1440,
        features: 0,
        instance: [6; 16],
        last_timestamp: Timestamp::default(),
    }
}

/// An INIT of a connecting end that offers this.
fn init(number: u8, offer: Offer) -> Initiation {
    handshake::initiate(&secret(7, Side::Connect)[0], Zeroizing::new([number; 32]), number.into(), offer).unwrap()
}

/// What a listening end could answer to an INIT.
fn resp(init: &[u8], answer: Answer) -> Vec<u8> {
    let identity = &secret(7, Side::Listen)[0];
    let invitation = handshake::read_init(identity, Zeroizing::new([77; 32]), init).unwrap();
    invitation.answer(identity, 4711, answer, None).unwrap().0
}

/// The answer of this end to an INIT, if there is one.
fn answered(server: &mut End, mut init: Initiation, now: Instant) -> Option<Answer> {
    let message = init.message.clone();
    let _ = server.open(PATH, &message, now);
    let resp = server.out.pop()?.message;
    Some(init.read_resp(&resp).unwrap())
}

/// A client whose first INIT waits for its answer, and that INIT.
fn waiting(reliable: bool, change: impl Fn(&mut Settings)) -> (Pair, Vec<u8>) {
    let mut pair = Pair::with(reliable, change, |side| secret(7, side));
    pair.connect();
    let init = pair.client.out.remove(0).message;
    (pair, init)
}

fn inits(end: &End) -> usize {
    end.out.iter().filter(|out| out.message[0] == INIT).count()
}

#[test]
fn without_randomness_no_handshake_is_answered() {
    let (mut pair, init) = waiting(false, |_| {});
    pair.server.secure.random = Box::new(Exhausted);
    assert_eq!(pair.server.open(PATH, &init, pair.now), Err(Refused::HandshakeLimited));
    assert!(pair.server.out.is_empty() && pair.server.secure.next.is_empty());
}

#[test]
fn each_thing_that_does_not_fit_is_refused_for_itself() {
    let statuses = |change: Change, offer: Offer| {
        let mut pair = Pair::with(false, change, |side| secret(7, side));
        answered(&mut pair.server, init(1, offer), pair.now).unwrap().status.unwrap()
    };
    let insisting = FEATURE_AES | FEATURE_AES_ONLY;
    let aes: Change = |settings| settings.aead = AeadChoice::Aes256Gcm;
    let chacha: Change = |settings| settings.aead = AeadChoice::ChaCha20Poly1305;
    assert_eq!(statuses(|_| {}, offer(1)), Status::Ok);
    assert_eq!(statuses(|_| {}, Offer { tunnel: [1; 16], ..offer(1) }), Status::Feature);
    assert_eq!(statuses(|_| {}, Offer { kind: Some(LinkLayer::Tap), ..offer(1) }), Status::Kind);
    assert_eq!(statuses(|_| {}, Offer { kind: None, ..offer(1) }), Status::Kind);
    assert_eq!(statuses(aes, Offer { features: 0, ..offer(1) }), Status::Feature);
    assert_eq!(statuses(aes, Offer { features: insisting, ..offer(1) }), Status::Ok);
    assert_eq!(statuses(chacha, Offer { features: insisting, ..offer(1) }), Status::Feature);
    assert_eq!(statuses(chacha, offer(1)), Status::Ok);
}

#[test]
fn the_aead_and_the_features_are_those_that_both_ends_want() {
    for (reliable, theirs, expected) in [
        (false, FEATURE_AES, FEATURE_AES),
        (false, 0, 0),
        (false, !FEATURE_AES_ONLY, FEATURE_AES | FEATURE_FRAGMENTS),
        (true, FEATURE_AES | FEATURE_SUPER_UDP, FEATURE_AES | FEATURE_SUPER_UDP),
        (true, FEATURE_SUPER_TCP_V4, FEATURE_SUPER_TCP_V4),
    ] {
        let mut pair = Pair::new(reliable);
        let answer = answered(&mut pair.server, init(1, Offer { features: theirs, ..offer(1) }), pair.now).unwrap();
        let aead = if theirs & FEATURE_AES != 0 && has_fast_aes() { 1 } else { 2 };
        let expected = if has_fast_aes() { expected } else { expected & !FEATURE_AES };
        assert_eq!((answer.features, answer.aead), (expected, aead), "offered {theirs:b}");
    }
}

#[test]
fn an_answer_that_takes_more_than_was_offered_is_not_believed() {
    let mut cases = vec![
        (AeadChoice::Auto, Answer { aead: 3, ..answer() }),
        (AeadChoice::Auto, Answer { aead: 0, ..answer() }),
        (AeadChoice::ChaCha20Poly1305, Answer { aead: 1, ..answer() }),
        (AeadChoice::Aes256Gcm, answer()),
    ];
    if !has_fast_aes() {
        cases.push((AeadChoice::Auto, Answer { aead: 1, ..answer() }));
    }
    for (choice, answer) in cases {
        let (mut pair, init) = waiting(false, |settings| settings.aead = choice);
        assert_eq!(pair.client.open(PATH, &resp(&init, answer), pair.now), Ok(()));
        assert!(!pair.client.secure.has_session());
        assert!(pair.client.has(|event| *event == Event::Notice(Notice::Feature)), "{choice:?} {answer:?}");
    }
    let (mut pair, init) = waiting(false, |_| {});
    let greedy = Answer { features: u32::MAX, ..answer() };
    assert_eq!(pair.client.open(PATH, &resp(&init, greedy), pair.now), Ok(()));
    assert!(pair.client.secure.has_session() && !pair.client.secure.takes_super_packets());
    for (agreed, taken) in [(FEATURE_SUPER_TCP_V4, [true, false, false]), (FEATURE_SUPER_UDP, [false, false, true])] {
        let (mut pair, init) = waiting(true, |_| {});
        let answer = Answer { features: agreed, ..answer() };
        assert_eq!(pair.client.open(PATH, &resp(&init, answer), pair.now), Ok(()));
        assert!(pair.client.secure.takes_super_packets());
        let kinds = [Segmentation::TcpV4, Segmentation::TcpV6, Segmentation::Udp];
        let len = |kind| pair.client.secure.super_message_len(kind, 1000, pair.now);
        assert_eq!(kinds.map(len), taken.map(|taken| taken.then_some(1032)));
    }
}

#[test]
fn an_answer_by_another_connection_is_none() {
    let (mut pair, init) = waiting(true, |_| {});
    assert_eq!(pair.server.open(PATH, &init, pair.now), Ok(()));
    let resp = pair.server.out.remove(0).message;
    assert_eq!(pair.client.open(Path(2), &resp, pair.now), Err(Refused::HandshakeRefused));
    assert!(!pair.client.secure.has_session());
    assert_eq!(pair.client.open(PATH, &resp, pair.now), Ok(()));
    assert!(pair.client.secure.has_session());
}

#[test]
fn the_five_newest_handshakes_may_be_confirmed() {
    let mut pair = Pair::new(false);
    for number in 1..=7 {
        assert!(answered(&mut pair.server, init(number, offer(number.into())), pair.now).is_some());
        assert_eq!(pair.server.secure.next.len(), usize::from(number.min(5)));
    }
}

#[test]
fn one_that_was_replaced_is_turned_away_for_a_minute_while_the_other_is_alive() {
    let mut pair = Pair::established(false);
    let first = pair.client.secure.instance;
    pair.server.secure.peer_instance = Some([9; 16]);
    responder::remember_replaced(&mut pair.server.secure.replaced, first, pair.now);
    let again = |pair: &mut Pair, number: u8, after: Duration| {
        let offer = Offer { instance: first, ..offer(number.into()) };
        answered(&mut pair.server, init(number, offer), pair.now + after).and_then(|answer| answer.status)
    };
    assert_eq!(again(&mut pair, 1, 59_999 * MS), Some(Status::Busy));
    assert_eq!(again(&mut pair, 2, 60 * SECOND), Some(Status::Ok));
    pair.now += 100 * SECOND;
    responder::remember_replaced(&mut pair.server.secure.replaced, first, pair.now);
    pair.server.secure.up = false;
    assert_eq!(again(&mut pair, 3, 2 * SECOND), Some(Status::Ok), "the other one has left");
    pair.server.secure.up = true;
    assert_eq!(again(&mut pair, 4, 4 * SECOND), Some(Status::Busy));
    pair.server.secure.peer_instance = Some(first);
    assert_eq!(again(&mut pair, 5, 6 * SECOND), Some(Status::Ok), "it is the peer by now");
    pair.server.secure.peer_instance = Some([9; 16]);
    pair.server.secure.replaced[0].0 = [8; 16];
    assert_eq!(again(&mut pair, 6, 8 * SECOND), Some(Status::Ok), "it was another one that was replaced");
}

#[test]
fn the_memory_of_those_that_were_replaced_is_small_and_fades() {
    let (mut replaced, now) = (VecDeque::new(), begin());
    for number in 0..12 {
        responder::remember_replaced(&mut replaced, [number; 16], now);
    }
    responder::remember_replaced(&mut replaced, [11; 16], now + SECOND);
    let instances: Vec<u8> = replaced.iter().map(|(instance, _)| instance[0]).collect();
    assert_eq!(instances, [4, 5, 6, 7, 8, 9, 10, 11]);
    responder::remember_replaced(&mut replaced, [20; 16], now + 60 * SECOND);
    let instances: Vec<u8> = replaced.iter().map(|(instance, _)| instance[0]).collect();
    assert_eq!(instances, [11, 20]);
}

#[test]
fn what_is_the_matter_with_a_handshake_is_said_once_a_second() {
    let mut pair = Pair::with(false, |_| {}, |side| secret(side as u8, side));
    let wrong = init(1, offer(1)).message;
    for (after, said) in [(0, 1), (500, 1), (999, 1), (1000, 2), (1500, 2), (2000, 3), (3500, 4)] {
        let _ = pair.server.open(PATH, &wrong, pair.now + after * MS);
        assert_eq!(pair.server.events.len(), said, "after {after} ms");
    }
}

#[test]
fn a_crossing_handshake_is_ignored_for_one_second_and_only_while_an_own_one_is_under_way() {
    let crossing = |after: Duration| {
        let (mut pair, _) = waiting(false, |_| {});
        let info = pair.server.info;
        pair.server.secure.link_up(PATH, info, pair.now);
        pair.server.drain();
        let init = pair.server.out.remove(0).message;
        pair.client.open(PATH, &init, pair.now + after)
    };
    assert_eq!(crossing(Duration::ZERO), Err(Refused::HandshakeRefused));
    assert_eq!(crossing(999 * MS), Err(Refused::HandshakeRefused));
    assert_eq!(crossing(SECOND), Ok(()));
    // After a goodbye the connecting end waits, and nothing of its own is under way.
    let mut pair = Pair::established(false);
    pair.server.secure.close(CloseReason::Stops, pair.now);
    pair.server.drain();
    pair.settle();
    pair.server = End::new(settings(Side::Listen), secret(7, Side::Listen), 40, false, pair.now);
    let info = pair.server.info;
    pair.server.secure.link_up(PATH, info, pair.now);
    pair.server.drain();
    pair.settle();
    pair.exchange();
}

#[test]
fn the_limits_of_a_session_are_exact_for_both_ends_and_both_directions() {
    let small = Limits { messages: 80, bytes: 8000, ..Limits::default() };
    for (packet, worn_here, worn_there, spent) in [(20, 80, 90, 160), (200, 40, 45, 80)] {
        let mut pair = Pair::with(false, |settings| settings.limits = small, |side| secret(7, side));
        pair.connect();
        pair.settle();
        // EMPTY was the first message, of one byte.
        let (mut worn, mut sent) = ([None; 2], 0);
        while let Some(message) = pair.server.seal(&vec![0x45; packet], pair.now) {
            sent += 1;
            assert_eq!(pair.client.open(PATH, &message, pair.now), Ok(()));
            let ends = [&pair.client, &pair.server].map(|end| end.secure.current.as_ref().unwrap());
            assert_eq!([Begun::Here, Begun::There], ends.map(|session| session.terms.begun));
            for (worn, session) in worn.iter_mut().zip(ends) {
                if session.is_worn() && worn.is_none() {
                    *worn = Some(sent);
                }
            }
        }
        assert_eq!((worn, sent), ([Some(worn_here), Some(worn_there)], spent), "packets of {packet} bytes");
    }
    // An end whose limits are lower takes no more than twice those.
    let mut pair = Pair::established(false);
    for number in 0.. {
        let mut session = pair.server.secure.current.take().unwrap();
        session.restrict(small);
        pair.server.secure.current = Some(session);
        let message = pair.client.seal(&[0x45; 20], pair.now).unwrap();
        let expected = if number < 159 { Ok(()) } else { Err(Refused::UnknownSession) };
        assert_eq!(pair.server.open(PATH, &message, pair.now), expected, "message {number}");
        if number == 161 {
            break;
        }
    }
}

#[test]
fn a_session_ends_on_the_millisecond_whether_or_not_the_clock_was_asked() {
    let mut pair = Pair::established(false);
    let ends_at = pair.server.secure.current.as_ref().unwrap().ends_at();
    assert_eq!(ends_at, pair.now + 180 * SECOND);
    let messages = [0, 1].map(|_| pair.client.seal(&[0x45; 40], pair.now).unwrap());
    assert_eq!(pair.server.open(PATH, &messages[0], ends_at - MS), Ok(()));
    assert_eq!(pair.server.open(PATH, &messages[1], ends_at), Err(Refused::UnknownSession));
    assert!(pair.client.secure.message_len(40, ends_at - MS).is_some());
    assert_eq!(pair.client.secure.message_len(40, ends_at), None);
}

#[test]
fn an_empty_message_is_authentic_and_of_no_use() {
    for reliable in [false, true] {
        let mut pair = Pair::established(reliable);
        let message = pair.client.seal(&[], pair.now).unwrap();
        assert_eq!(message.len(), OVERHEAD);
        assert_eq!(pair.server.open(PATH, &message, pair.now), Err(Refused::Invalid));
        assert_eq!(pair.server.open(PATH, &message, pair.now), Err(Refused::Replayed), "it was counted");
    }
}

#[test]
fn the_longest_message_is_sent_and_a_longer_one_is_not() {
    let mut pair = Pair::established(false);
    let longest = pair.client.info.max_message - OVERHEAD;
    assert_eq!(pair.client.secure.message_len(longest, pair.now), Some(longest + OVERHEAD));
    assert_eq!(pair.client.secure.message_len(longest + 1, pair.now), None);
}

#[test]
fn repetitions_are_spread_by_a_fifth_either_way() {
    let waits: Vec<Duration> = (0..60)
        .map(|seed| {
            let now = begin();
            let mut client = End::new(settings(Side::Connect), secret(7, Side::Connect), seed, false, now);
            let info = client.info;
            client.secure.link_up(PATH, info, now);
            client.secure.poll_timeout().unwrap() - now
        })
        .collect();
    assert!(waits.iter().all(|wait| (200 * MS..=300 * MS).contains(wait)), "{waits:?}");
    assert!(waits.iter().any(|wait| *wait < 215 * MS) && waits.iter().any(|wait| *wait > 285 * MS), "{waits:?}");
}

#[test]
fn the_time_to_the_next_handshake_is_spread_over_a_third_of_a_second() {
    let spread = |limits: Limits| {
        let spreads = (0..40).map(|seed| {
            let mut pair = Pair::with(false, |settings| settings.limits = limits, |side| secret(7, side));
            pair.client =
                End::new(pair.client.secure.settings.clone(), secret(7, Side::Connect), seed, false, pair.now);
            pair.connect();
            pair.settle();
            pair.client.secure.current.as_ref().unwrap().rekey_at() - pair.now - limits.rekey_after
        });
        let spreads: Vec<Duration> = spreads.collect();
        (*spreads.iter().min().unwrap(), *spreads.iter().max().unwrap())
    };
    let (least, most) = spread(Limits::default());
    assert!(least < 60 * MS && most > 270 * MS && most <= 333 * MS, "{least:?} {most:?}");
    let (least, most) = spread(Limits::rekeying_after(3600 * MS));
    assert!(least < 2 * MS && most > 8 * MS && most <= 10 * MS, "{least:?} {most:?}");
}

#[test]
fn after_a_refusal_the_next_handshake_is_five_seconds_later_whatever_waits() {
    let (mut pair, init) = waiting(false, |_| {});
    let refusal = Answer { status: Some(Status::Busy), ..answer() };
    assert_eq!(pair.client.open(PATH, &resp(&init, refusal), pair.now), Ok(()));
    assert!(pair.client.has(|event| *event == Event::Notice(Notice::Busy)));
    for _ in 0..499 {
        assert_eq!(pair.client.secure.message_len(100, pair.now), None);
        pair.now += 10 * MS;
        pair.client.secure.handle_timeout(pair.now);
        pair.client.drain();
    }
    assert_eq!(inits(&pair.client), 0);
    pair.now += 10 * MS;
    pair.client.secure.handle_timeout(pair.now);
    pair.client.drain();
    assert_eq!(inits(&pair.client), 1);
}

#[test]
fn an_old_answer_about_the_clock_brings_no_handshake_forward() {
    let (mut pair, init) = waiting(false, |_| {});
    let stale = Answer { status: Some(Status::Stale), ..answer() };
    assert_eq!(pair.client.open(PATH, &resp(&init, stale), pair.now), Ok(()));
    assert_eq!(inits(&pair.client), 0, "the clock was ahead of that all the time");
    let (mut pair, init) = waiting(false, |_| {});
    let stale = Answer { last_timestamp: offer(0).timestamp, ..stale };
    assert_eq!(pair.client.open(PATH, &resp(&init, stale), pair.now), Ok(()));
    assert_eq!(inits(&pair.client), 1);
}

#[test]
fn a_connection_stays_while_its_session_lasts_though_no_handshake_succeeds() {
    let mut pair = Pair::established(true);
    let start = pair.now;
    let mut times = Vec::new();
    while pair.now < start + 179 * SECOND {
        pair.now += 100 * MS;
        for end in [&mut pair.client, &mut pair.server] {
            end.secure.handle_timeout(pair.now);
            end.drain();
        }
        times.extend((inits(&pair.client) > 0).then_some(pair.now - start));
        for end in [&mut pair.client, &mut pair.server] {
            end.out.retain(|out| out.message[0] != INIT);
        }
        pair.settle();
    }
    pair.exchange();
    let waits: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.len() >= 10 && waits.iter().all(|wait| *wait == 5 * SECOND), "{waits:?}");
    pair.pass(6 * SECOND, false);
    assert!(pair.client.has(|event| *event == Event::PathRejected(PATH, Rejection::Silent)));
}

#[test]
fn a_peer_whose_address_was_given_is_tried_for_ever() {
    let mut pair = Pair::new(false);
    let info = pair.server.info;
    pair.connect();
    pair.server.secure.link_up(PATH, info, pair.now);
    pair.pass(3600 * SECOND, false);
    for end in [&pair.client, &pair.server] {
        assert!(end.secure.poll_timeout().is_some_and(|at| at <= pair.now + 6 * SECOND));
        assert_eq!(end.secure.live_path(), Some(PATH));
    }
    pair.pass(6 * SECOND, true);
    pair.exchange();
}

#[test]
fn what_is_known_about_a_checksum_crosses_the_link() {
    let mut pair = Pair::established(false);
    for (flags, known) in [(0, Checksum::Unknown), (1, Checksum::Made), (2, Checksum::Unknown), (3, Checksum::Made)] {
        let (mut packet, info) = ([0x45; 40], pair.server.info);
        let mut message = vec![0; packet.len() + OVERHEAD];
        pair.client.secure.seal(DATA, flags, &packet, &mut message, pair.now);
        let opened = pair.server.secure.open(PATH, &info, &mut message, pair.now);
        assert_eq!(opened, Ok(Opened::Packet(&mut packet, known)), "flags {flags}");
    }
}

#[test]
fn a_super_packet_is_one_on_a_connection_alone() {
    for reliable in [false, true] {
        let mut pair = Pair::established(reliable);
        let (mut bytes, info) = ([0x45; 100], pair.server.info);
        let mut message = vec![0; bytes.len() + OVERHEAD];
        pair.client.secure.seal(SUPER, 0, &bytes, &mut message, pair.now);
        let opened = pair.server.secure.open(PATH, &info, &mut message, pair.now);
        assert_eq!(opened, if reliable { Ok(Opened::Super(&mut bytes)) } else { Err(Refused::Invalid) });
    }
}

#[test]
fn after_a_goodbye_the_end_that_was_told_the_address_begins_again() {
    for (side, persistence, reason, wait) in [
        (Side::Connect, Persistence::Forever, CloseReason::Stops, Some(SECOND)),
        (Side::Connect, Persistence::WhileFresh, CloseReason::Stops, Some(SECOND)),
        (Side::Connect, Persistence::Forever, CloseReason::BeginsAnew, Some(100 * MS)),
        (Side::Listen, Persistence::Forever, CloseReason::Stops, Some(SECOND)),
        (Side::Listen, Persistence::Forever, CloseReason::BeginsAnew, Some(100 * MS)),
        (Side::Listen, Persistence::WhileFresh, CloseReason::Stops, None),
    ] {
        let mut pair = Pair::with(false, |settings| settings.persistence = persistence, |side| secret(7, side));
        pair.connect();
        pair.settle();
        let (leaves, stays) = match side {
            Side::Connect => (&mut pair.server, &mut pair.client),
            Side::Listen => (&mut pair.client, &mut pair.server),
        };
        leaves.secure.close(reason, pair.now);
        leaves.drain();
        let goodbye = leaves.out.remove(0).message;
        assert_eq!(stays.open(PATH, &goodbye, pair.now), Ok(()));
        assert_eq!(
            stays.secure.poll_timeout(),
            wait.map(|wait| pair.now + wait),
            "{side:?} {persistence:?} {reason:?}"
        );
        assert_eq!(stays.secure.live_path(), wait.map(|_| PATH));
        let forgotten = stays.has(|event| *event == Event::PathRejected(PATH, Rejection::PeerClosed));
        assert_eq!(forgotten, wait.is_none());
    }
}

#[test]
fn the_wait_before_a_handshake_is_no_time_without_an_answer() {
    let mut pair = Pair::established(false);
    pair.server.secure.close(CloseReason::Stops, pair.now);
    pair.server.drain();
    pair.settle();
    let said = |pair: &Pair| pair.client.has(|event| matches!(event, Event::Notice(Notice::NoAnswer(_))));
    asked_in(&mut pair, 10_900 * MS);
    assert!(!said(&pair), "ten seconds after the goodbye, and less after the first handshake");
    asked_in(&mut pair, 1100 * MS);
    assert!(said(&pair));
}

#[test]
fn a_session_that_is_not_confirmed_ends_on_the_millisecond_too() {
    let (mut pair, init) = waiting(false, |_| {});
    assert_eq!(pair.server.open(PATH, &init, pair.now), Ok(()));
    pair.server.secure.handle_timeout(pair.now + 180 * SECOND - MS);
    assert_eq!(pair.server.secure.next.len(), 1);
    pair.server.secure.handle_timeout(pair.now + 180 * SECOND);
    assert_eq!((pair.server.secure.next.len(), pair.server.secure.poll_timeout()), (0, None));
}

#[test]
fn a_session_that_was_replaced_ends_when_it_would_have_ended() {
    let mut pair = Pair::established(false);
    let ends_at = pair.client.secure.current.as_ref().unwrap().ends_at();
    pair.now += 100 * SECOND;
    pair.client.secure.begin(Reason::Rekey, pair.now);
    pair.client.drain();
    pair.settle();
    for end in [&mut pair.client, &mut pair.server] {
        end.secure.handle_timeout(ends_at - MS);
        assert_eq!(end.secure.previous.len(), 1);
        end.secure.handle_timeout(ends_at);
        assert_eq!(end.secure.previous.len(), 0);
    }
}

#[test]
fn without_randomness_nobody_is_asked_anything() {
    let mut pair = Pair::established(false);
    pair.client.secure.random = Box::new(Exhausted);
    pair.client.secure.ping(pair.now);
    pair.client.secure.begin(Reason::Rekey, pair.now);
    pair.client.drain();
    assert_eq!(pair.client.out, []);
}

#[test]
fn a_move_is_told_if_the_link_is_up_and_the_address_is_another_one() {
    let mut pair = Pair::established(false);
    let from = |pair: &mut Pair, path: Path, address: &str| {
        pair.server.info.peer = address.parse().unwrap();
        pair.server.events.clear();
        let message = pair.client.seal(&[0x45; 40], pair.now).unwrap();
        assert_eq!(pair.server.open(path, &message, pair.now), Ok(()));
        assert!(pair.server.has(|event| *event == Event::PathAdopted(path)));
        pair.server.has(|event| matches!(event, Event::Moved(_)))
    };
    let same = pair.server.info.peer.to_string();
    assert!(!from(&mut pair, Path(2), &same), "the address has stayed");
    assert!(from(&mut pair, Path(3), "192.0.2.3:1"));
    assert_eq!(pair.server.events.last(), Some(&Event::Moved("192.0.2.3:1".parse().unwrap())));
    assert!(!from(&mut pair, Path(4), "192.0.2.3:1"));
    pair.pass(11 * SECOND, false);
    assert!(!from(&mut pair, Path(5), "192.0.2.4:1"), "that the peer is there says where it is");
    assert!(pair.server.has(|event| matches!(event, Event::Up(_))));
}

#[test]
fn an_mtu_that_is_not_known_differs_from_none() {
    for (ours, theirs) in [(0, 1400), (1400, 0), (0, 0), (1400, 1400)] {
        let mut pair = Pair::new(false);
        (pair.client.secure.settings.mtu, pair.server.secure.settings.mtu) = (ours, theirs);
        pair.connect();
        pair.settle();
        for end in [&pair.client, &pair.server] {
            assert!(end.is_up() && !end.has(|event| matches!(event, Event::Notice(Notice::MtuDiffers(..)))));
        }
    }
}

#[test]
fn only_a_connection_with_a_session_is_interrupted_and_only_while_the_link_is_up() {
    let interrupted = |end: &End| end.has(|event| matches!(event, Event::Interrupted { .. }));
    let mut pair = Pair::established(false);
    pair.client.secure.link_down(PATH, pair.now);
    pair.client.drain();
    assert!(!interrupted(&pair.client), "the session of a datagram link is bound to no path");
    let mut pair = Pair::established(true);
    pair.pass(11 * SECOND, false);
    assert!(pair.client.has(|event| *event == Event::PathRejected(PATH, Rejection::Silent)));
    assert!(!interrupted(&pair.client), "what is down already is not interrupted");
}

/// Chance that was chosen beforehand, four bytes at a time.
struct Chosen(VecDeque<u32>);

impl Randomness for Chosen {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        self.0.pop_front().is_some_and(|number| {
            bytes.copy_from_slice(&number.to_be_bytes());
            true
        })
    }
}

#[test]
fn the_index_of_a_session_is_never_zero_nor_one_that_is_taken() {
    let mut pair = Pair::established(false);
    let session = pair.client.secure.current.as_ref().unwrap().local();
    pair.client.secure.begin(Reason::Rekey, pair.now);
    pair.client.drain();
    let under_way = handshake::sender_index(&pair.client.out.remove(0).message);
    pair.client.secure.random = Box::new(Chosen([0, session, under_way, 4711, 4712].into()));
    assert_eq!(pair.client.secure.fresh_index(), Some(4711));
    assert_eq!(pair.client.secure.fresh_index(), Some(4712));
    assert_eq!(pair.client.secure.fresh_index(), None);
}

#[test]
fn a_session_is_described_when_the_link_comes_up_and_not_with_each_new_one() {
    for reliable in [false, true] {
        let mut pair = Pair::established(reliable);
        let aead = pair.client.secure.current.as_ref().unwrap().terms.aead;
        let expected = Event::Notice(Notice::Session { aead, whole_super_packets: reliable });
        let described = |event: &&Event| matches!(event, Event::Notice(Notice::Session { .. }));
        for renewed in [1, 2] {
            for end in [&pair.client, &pair.server] {
                assert!(end.events.iter().filter(|event| **event == Event::Renewed).count() >= renewed);
                assert_eq!(end.events.iter().filter(described).collect::<Vec<_>>(), [&expected]);
            }
            pair.pass(150 * SECOND, true);
        }
    }
}

#[test]
fn with_a_connection_go_its_sessions_and_no_others() {
    for reliable in [false, true] {
        let mut pair = Pair::established(reliable);
        let rekey = |pair: &mut Pair| {
            pair.client.secure.begin(Reason::Rekey, pair.now);
            pair.client.drain();
        };
        rekey(&mut pair);
        pair.settle();
        rekey(&mut pair);
        let init = pair.client.out.remove(0).message;
        assert_eq!(pair.server.open(PATH, &init, pair.now), Ok(()));
        for (path, left) in [(Path(2), 1), (PATH, usize::from(!reliable))] {
            pair.server.secure.link_down(path, pair.now);
            let secure = &pair.server.secure;
            assert_eq!([secure.current.iter().len(), secure.next.len(), secure.previous.len()], [left; 3]);
        }
    }
}

#[test]
fn what_has_not_the_form_of_an_answer_is_none() {
    let (mut pair, init) = waiting(false, |_| {});
    let resp = resp(&init, answer());
    let changed = |place: usize| {
        let mut changed = resp.clone();
        changed[place] ^= 3;
        changed
    };
    for message in [resp[..139].to_vec(), resp[..4].to_vec(), [&resp[..], &[0]].concat(), changed(1), changed(2)] {
        assert_eq!(pair.client.open(PATH, &message, pair.now), Err(Refused::NotAMessage));
    }
    assert_eq!(pair.client.open(PATH, &resp, pair.now), Ok(()));
}

#[test]
fn a_handshake_made_with_one_accepted_key_and_signed_with_another_is_refused() {
    let own = private(Side::Listen);
    let peer = |byte: u8| PrivateKey::from_bytes([byte; 32]);
    let theirs = |byte: u8| Identity::with_keys(&peer(byte), own.public(), None, Side::Connect).unwrap();
    let ours = [70, 71].map(|byte| Identity::with_keys(&own, peer(byte).public(), None, Side::Listen).unwrap());
    let mut server = End::new(settings(Side::Listen), ours.to_vec(), 6, false, begin());
    let mut init = handshake::initiate(&theirs(70), Zeroizing::new([1; 32]), 1, offer(1)).unwrap().message;
    let honest = init.clone();
    let (bytes, mac) = init.split_last_chunk_mut().unwrap();
    *mac = theirs(71).outgoing().mac(bytes);
    let now = begin();
    assert_eq!(server.open(PATH, &init, now), Err(Refused::BadHandshake));
    assert_eq!(server.out, []);
    assert_eq!(server.open(PATH, &honest, now), Ok(()));
}

#[test]
fn an_answer_is_judged_by_what_its_own_handshake_has_offered() {
    let (mut pair, init) = waiting(false, |settings| settings.aead = AeadChoice::ChaCha20Poly1305);
    pair.client.secure.settings.aead = AeadChoice::Auto;
    let aes = Answer { aead: Aead::Aes256Gcm as u8, ..answer() };
    assert_eq!(pair.client.open(PATH, &resp(&init, aes), pair.now), Ok(()));
    assert!(!pair.client.secure.has_session());
    assert!(pair.client.has(|event| *event == Event::Notice(Notice::Feature)));
}
