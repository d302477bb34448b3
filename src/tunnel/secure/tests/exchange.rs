//! Keys and settings that change while the link is up.

use super::*;
use crate::tunnel::secure::exchange::EXCHANGE_TIME;

fn secrets(bytes: &[u8], side: Side) -> Vec<Identity> {
    bytes.iter().flat_map(|byte| secret(*byte, side)).collect()
}

impl Pair {
    /// One end takes these secrets.
    fn reload(&mut self, side: Side, bytes: &[u8]) {
        self.reload_with(side, secrets(bytes, side), |_| {});
    }

    fn reload_with(&mut self, side: Side, identities: Vec<Identity>, change: impl Fn(&mut Settings)) {
        let mut settings = settings(side);
        change(&mut settings);
        let now = self.now;
        let end = self.end(side);
        end.secure.reconfigure(settings, identities, now);
        end.drain();
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Connect => &mut self.client,
            Side::Listen => &mut self.server,
        }
    }

    /// Packets cross both ways before and after what is under way has arrived, and nobody says that anything is wrong.
    #[track_caller]
    fn goes_on(&mut self) {
        self.exchange();
        self.settle();
        self.exchange();
        for side in [Side::Connect, Side::Listen] {
            let is_bad = |event: &Event| {
                matches!(event, Event::Down { .. } | Event::Interrupted { .. } | Event::PathRejected(..))
            };
            assert!(!self.end(side).has(is_bad), "{side:?}: {:?}", self.end(side).events);
        }
    }

    fn sessions(&mut self) -> [u32; 2] {
        [Side::Connect, Side::Listen].map(|side| {
            let end = self.end(side);
            end.secure.current.as_ref().map_or(0, Session::local)
        })
    }
}

#[test]
fn a_secret_that_is_exchanged_at_one_end_after_the_other_loses_nothing() {
    for reliable in [false, true] {
        for (first, second) in [(Side::Listen, Side::Connect), (Side::Connect, Side::Listen)] {
            let mut pair = Pair::established(reliable);
            let before = pair.sessions();
            pair.reload(first, &[7, 8]);
            pair.goes_on();
            pair.reload(second, &[8]);
            pair.goes_on();
            pair.pass(2 * EXCHANGE_TIME, true);
            pair.goes_on();
            assert!(before.iter().all(|old| !pair.sessions().contains(old)), "the new secret makes a session at once");
            pair.reload(first, &[8]);
            pair.goes_on();
            pair.pass(300 * SECOND, true);
            pair.goes_on();
        }
    }
}

#[test]
fn key_pairs_are_exchanged_with_the_pre_shared_key_and_one_by_one() {
    let pairs = |own: u8, peer: u8, psk: u8, side| {
        let private = |byte| PrivateKey::from_bytes([byte; 32]);
        let psk = Some(SharedSecret::from_bytes([psk; 32]));
        Identity::with_keys(&private(own), private(peer).public(), psk, side).expect("a pair of keys")
    };
    for reliable in [false, true] {
        let mut pair = Pair::with(
            reliable,
            |_| {},
            |side| match side {
                Side::Connect => vec![pairs(1, 2, 9, side)],
                Side::Listen => vec![pairs(2, 1, 9, side)],
            },
        );
        pair.connect();
        pair.settle();
        // The client has a new key: the server is told first.
        pair.reload_with(Side::Listen, vec![pairs(2, 1, 9, Side::Listen), pairs(2, 3, 9, Side::Listen)], |_| {});
        pair.goes_on();
        pair.reload_with(Side::Connect, vec![pairs(3, 2, 9, Side::Connect)], |_| {});
        pair.goes_on();
        pair.reload_with(Side::Listen, vec![pairs(2, 3, 9, Side::Listen)], |_| {});
        pair.goes_on();
        pair.pass(2 * EXCHANGE_TIME, true);
        pair.goes_on();
    }
}

#[test]
fn a_session_by_a_key_that_is_no_longer_accepted_ends_within_a_second_and_says_so() {
    for reliable in [false, true] {
        let mut pair = Pair::established(reliable);
        pair.reload(Side::Listen, &[8]);
        pair.pass(EXCHANGE_TIME, true);
        let why = |event: &Event| match event {
            Event::Down { why, .. } => *why,
            _ => None,
        };
        assert_eq!(pair.server.events.iter().find_map(why), Some(Rejection::KeyRemoved));
        assert!(!pair.server.secure.has_session());
        let end = pair.client.events.iter().find_map(why);
        assert!(reliable || end == Some(Rejection::PeerClosed), "{end:?}");
        assert_eq!(reliable, pair.server.has(|event| *event == Event::PathRejected(PATH, Rejection::KeyRemoved)));
        pair.pass(20 * SECOND, true);
        assert!(!pair.client.secure.has_session() && !pair.server.secure.has_session());
    }
}

/// The peer knows only the old key and closes the connection at the first sign of a new one.
#[test]
fn a_connection_that_ends_in_an_exchange_is_the_end_of_the_link() {
    let mut pair = Pair::established(true);
    pair.reload(Side::Listen, &[8]);
    pair.settle();
    assert!(pair.client.has(|event| *event == Event::PathRejected(PATH, Rejection::NotAuthentic)));
    pair.server.secure.link_down(PATH, pair.now);
    pair.server.drain();
    let is_end = |event: &Event| matches!(event, Event::Down { why: Some(Rejection::KeyRemoved), .. });
    assert!(pair.server.has(is_end), "{:?}", pair.server.events);
    assert!(!pair.server.has(|event| matches!(event, Event::Interrupted { .. })));
}

/// A second time while the first exchange is under way still, and back.
#[test]
fn an_exchange_that_is_taken_back_in_time_goes_on() {
    for reliable in [false, true] {
        let mut pair = Pair::established(reliable);
        pair.reload(Side::Listen, &[8]);
        pair.server.out.clear();
        pair.now += EXCHANGE_TIME / 2;
        pair.reload(Side::Listen, &[9]);
        pair.server.out.clear();
        pair.reload(Side::Listen, &[7]);
        pair.goes_on();
        pair.pass(2 * EXCHANGE_TIME, true);
        pair.goes_on();
    }
}

#[test]
fn nothing_happens_if_nothing_has_changed() {
    let mut pair = Pair::established(false);
    let before = pair.sessions();
    for side in [Side::Connect, Side::Listen] {
        pair.reload(side, &[7]);
        assert!(pair.end(side).out.is_empty());
    }
    pair.pass(2 * EXCHANGE_TIME, true);
    assert_eq!(pair.sessions(), before);
}

/// The ends are told in the wrong order, over datagrams: the link is back as soon as the second one knows.
#[test]
fn who_is_told_last_brings_the_link_back() {
    for (first, second) in [(Side::Listen, Side::Connect), (Side::Connect, Side::Listen)] {
        let mut pair = Pair::established(false);
        pair.reload(first, &[8]);
        pair.pass(7 * SECOND, true);
        assert!(!pair.client.is_up() && !pair.server.is_up());
        pair.reload(second, &[8]);
        pair.pass(SECOND + 100 * MS, true);
        assert!(pair.client.is_up() && pair.server.is_up(), "{first:?} first");
        pair.exchange();
    }
}

#[test]
fn a_handshake_from_before_is_stale_still() {
    let mut pair = Pair::new(false);
    pair.connect();
    let old = pair.client.out.remove(0).message;
    pair.pass(2 * SECOND, true);
    pair.exchange();
    pair.reload(Side::Listen, &[8, 7]);
    pair.settle();
    assert_eq!(pair.server.open(PATH, &old, pair.now), Err(Refused::HandshakeRefused));
    pair.goes_on();
}

#[test]
fn the_peer_is_told_at_once_how_long_this_end_waits_for_it() {
    let mut pair = Pair::established(false);
    pair.reload_with(Side::Connect, secrets(&[7], Side::Connect), |settings| {
        (settings.keepalive, settings.down_after) = (SECOND, 2 * SECOND);
    });
    pair.settle();
    pair.pass(60 * SECOND, true);
    pair.goes_on();
    pair.pass(2 * SECOND, false);
    assert!(pair.client.has(|event| matches!(event, Event::Down { why: Some(Rejection::Silent), .. })));
    assert!(!pair.server.has(|event| matches!(event, Event::Down { .. })), "it waits for ten seconds");
}

#[test]
fn another_aead_is_agreed_on_at_once() {
    let mut pair = Pair::with(false, |settings| settings.aead = AeadChoice::Aes256Gcm, |side| secret(7, side));
    pair.connect();
    pair.settle();
    let aead = |pair: &Pair| pair.client.secure.current.as_ref().expect("a session").terms.aead;
    assert_eq!(aead(&pair), Aead::Aes256Gcm);
    pair.reload_with(Side::Listen, secrets(&[7], Side::Listen), |settings| settings.aead = AeadChoice::Auto);
    pair.goes_on();
    pair.reload_with(Side::Connect, secrets(&[7], Side::Connect), |settings| {
        settings.aead = AeadChoice::ChaCha20Poly1305;
    });
    pair.goes_on();
    assert_eq!(aead(&pair), Aead::ChaCha20Poly1305);
}
