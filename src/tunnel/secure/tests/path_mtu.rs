//! How long messages may be, seen from both ends of a link.

use super::*;
use crate::tunnel::path_mtu::Source;

/// What an interface with an MTU of 1500 takes.
const CEILING: usize = 1472;

fn established() -> Pair {
    let mut pair = Pair::established(false);
    pair.client.secure.link_limit(PATH, CEILING, pair.now);
    pair.carried.clear();
    pair
}

/// Lets time pass while the client has packets of this length to send.
fn offer(pair: &mut Pair, packet_len: usize, time: Duration) {
    let end = pair.now + time;
    while pair.now < end {
        if let Some(message) = pair.client.seal(&vec![0x45; packet_len], pair.now)
            && message.len() <= pair.carries
        {
            let _ = pair.server.open(PATH, &message, pair.now);
        }
        pair.pass(100 * MS, true);
    }
}

fn path_mtu(end: &End) -> Option<Event> {
    end.events.iter().rev().find(|event| matches!(event, Event::PathMtu { .. })).copied()
}

#[test]
fn a_probe_is_as_long_as_the_longest_packet_makes_a_message_and_draws_a_short_answer() {
    let mut pair = established();
    pair.pass(SECOND, true);
    let lengths: Vec<_> = pair.carried.iter().map(|(side, message)| (*side, message.len())).collect();
    assert_eq!(lengths, [(Side::Connect, 1440 + OVERHEAD), (Side::Listen, message::PONG_LEN + OVERHEAD)]);
    assert_eq!(path_mtu(&pair.client), None, "all is as expected");
    assert_eq!(pair.client.secure.max_packet(), Some(CEILING - OVERHEAD));
}

#[test]
fn packets_that_do_not_fit_are_refused_once_it_is_known() {
    let mut pair = established();
    pair.carries = 1300;
    offer(&mut pair, 1440, 6 * SECOND);
    let Some(Event::PathMtu { path_mtu, packet, source: Source::Probed }) = path_mtu(&pair.client) else {
        panic!("{:?}", pair.client.events)
    };
    assert!((1292..=1300).contains(&(packet + OVERHEAD)), "{packet}");
    assert_eq!((path_mtu, pair.client.secure.max_packet()), (packet + OVERHEAD + 28, Some(packet)));
    assert_eq!(pair.client.secure.message_len(packet, pair.now), Some(packet + OVERHEAD));
    assert_eq!(pair.client.secure.message_len(packet + 1, pair.now), None);
    assert!(!pair.client.has(|event| matches!(event, Event::Down { .. })));
}

#[test]
fn lost_probes_are_no_sign_of_a_peer_that_is_gone() {
    let mut pair = established();
    pair.carries = 200;
    pair.carried.clear();
    pair.pass(60 * SECOND, true);
    let is_handshake = |message: &[u8]| matches!(message[0], INIT | RESP);
    assert!(!pair.carried.iter().any(|(_, message)| is_handshake(message)), "the peer is not doubted");
    assert!(pair.client.is_up() && pair.server.is_up());
    assert_eq!(pair.client.secure.max_packet(), Some(CEILING - OVERHEAD), "nothing follows when none gets through");
}

#[test]
fn a_silence_after_long_messages_is_looked_into_at_once() {
    let mut pair = established();
    offer(&mut pair, 1440, 6 * SECOND);
    pair.carries = 1300;
    // One direction only, so that nothing is heard. Doubt is heeded once a second; then follow four probes of 300 ms each.
    offer(&mut pair, 1440, 3 * SECOND);
    let limit = pair.client.secure.max_packet().unwrap() + OVERHEAD;
    assert!(limit <= 1300, "{limit}");
}

#[test]
fn a_connection_has_no_path_mtu() {
    let mut pair = Pair::established(true);
    pair.client.secure.link_limit(PATH, CEILING, pair.now);
    pair.carried.clear();
    pair.pass(SECOND, true);
    assert_eq!((pair.carried.len(), pair.client.secure.max_packet()), (0, Some(65_507 - OVERHEAD)));
}

#[test]
fn a_path_that_is_not_the_live_one_says_nothing() {
    let mut pair = Pair::established(false);
    pair.client.secure.link_limit(Path(9), 1000, pair.now);
    assert_eq!(pair.client.secure.max_packet(), Some(65_507 - OVERHEAD));
}
