//! Two ends that were not configured alike: each says what is wrong in one line that can be acted on, nothing of the link
//! reaches a device, and a secure end stays secure.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::thread::sleep;
use std::time::Duration;

use crate::common::daemon::{Daemon, Mark, server, simpletun};
use crate::common::known_keys::Suite;
use crate::common::lab::{Background, LOCAL, Lab, Ns, REMOTE};
use crate::common::secure_peer::{SecurePeer, Wire};
use crate::common::{line, stat};
use serde_json::json;

/// What the ends are told, which has to be acted on.
const DOES_NOT_BEGIN: &str =
    "does not begin as this link does: it is plain, or one end has a secret and the other keys";
const CLOSED_WITHOUT_A_BYTE: &str = "closed the connection without a byte";
const WANTS_SECURE: &str = "The peer wants a secure link and this end is plain";
const SPEAKS_PLAIN: &str = "speaks plain and this end is secure";
const NOTHING_HAS_COME: &str = "Nothing has come from the peer at";
const NO_ANSWER: &str = "No answer from";
const OTHER_MTU: &str = "set the same --mtu on both";
const OTHER_AEAD: &str = "give both the same --aead";
const OTHER_KIND: &str = "use the same kind of device on both ends";
const SAME_SIDE: &str = "one end connects (--connect), the other listens (--server)";

/// What a plain link says at its start, whatever the other end is.
const PLAIN_WARNING: &str = "This link is plain";

/// Longer than the wait after a refusal, so that a line that came with each of them would be there twice.
const AFTER_A_REFUSAL: Duration = Duration::from_millis(5500);

/// A silent peer is worth a word after ten seconds.
const AFTER_TEN_SECONDS: Duration = Duration::from_secs(20);

#[test]
fn a_plain_client_and_a_secure_server_say_so_and_carry_nothing_over_tcp() {
    carry_nothing(Wire::Tcp, ["", &Suite::Secret.far()], [CLOSED_WITHOUT_A_BYTE, DOES_NOT_BEGIN]);
}

#[test]
fn a_secure_client_and_a_plain_server_say_so_and_carry_nothing_over_tcp() {
    carry_nothing(Wire::Tcp, [&Suite::Secret.near(), ""], [line::CLOSED_UNANSWERED, WANTS_SECURE]);
}

#[test]
fn a_plain_client_and_a_secure_server_say_so_and_carry_nothing_over_udp() {
    carry_nothing(Wire::Udp, ["", &Suite::Pairs.far()], [NOTHING_HAS_COME, SPEAKS_PLAIN]);
}

#[test]
fn a_secure_client_and_a_plain_server_say_so_and_carry_nothing_over_udp() {
    carry_nothing(Wire::Udp, [&Suite::Pairs.near(), ""], [NO_ANSWER, WANTS_SECURE]);
}

/// Client and server, a tun and a tap device each, with traffic on all of them.
fn carry_nothing(wire: Wire, security: [&str; 2], lines: [&str; 2]) {
    let lab = Lab::new();
    let links = ["tun", "tap"].map(|kind| Mismatch::new(&lab, kind, wire, security));
    for link in &links {
        for (end, text) in link.ends.iter().zip(lines) {
            end.wait_after_for(Mark::START, text, AFTER_TEN_SECONDS);
        }
    }
    // Several attempts more.
    sleep(Duration::from_secs(1));
    for mut link in links {
        for (device, ns) in link.devices.iter().zip([&lab.local, &lab.remote]) {
            assert_eq!(written(ns, device), 0, "packets of the other end on {device}");
        }
        for ((end, text), security) in link.ends.iter_mut().zip(lines).zip(security) {
            says_once(end, text);
            assert!(security.is_empty() || !end.said(line::UP), "a secure end has no link: {}", end.text());
        }
    }
}

struct Mismatch {
    devices: [String; 2],
    /// Client and server.
    ends: [Daemon; 2],
    _traffic: [Background; 2],
}

impl Mismatch {
    fn new(lab: &Lab, kind: &str, wire: Wire, [client, server_options]: [&str; 2]) -> Self {
        let (port, net) = if kind == "tun" { (5001, 1) } else { (5002, 2) };
        let common = format!("--{kind} {} --port {port}", wire.option());
        let [near, far] = [1, 2].map(|host| format!("192.168.{net}.{host}"));
        let far_end = server(&lab.remote, &format!("-i {kind}2 -s {common} --address {far}/24 {server_options}"));
        let near_end = simpletun(&lab.local, &format!("-i {kind}1 -c {REMOTE} {common} --address {near}/24 {client}"));
        near_end.wait_for(line::DEVICE);
        lab.local.wait_for_device(&format!("{kind}1"));
        let traffic = [(&lab.local, far), (&lab.remote, near)].map(|(ns, to)| ns.start(&format!("ping -qi 0.1 {to}")));
        Self { devices: [format!("{kind}1"), format!("{kind}2")], ends: [near_end, far_end], _traffic: traffic }
    }
}

/// A plain end that knows its peer before it has spoken hears the first message of the secure one at once.
#[test]
fn a_plain_end_that_is_sent_handshakes_writes_none_of_them_to_its_device() {
    let lab = Lab::new();
    for (client, server) in [("", &*Suite::Secret.far()), (&*Suite::Secret.near(), "")] {
        let remote = |port| format!("{server} --remote {LOCAL}:{port}");
        let links = [("tun", 4001), ("tap", 4002)].map(|(kind, port)| {
            let client = format!("{client} --bind {LOCAL}:{port}");
            Mismatch::new(&lab, kind, Wire::Udp, [&client, &remote(port)])
        });
        let plain = if client.is_empty() { 0 } else { 1 };
        for link in &links {
            link.ends[plain].wait_for(WANTS_SECURE);
            // A few of them.
            sleep(Duration::from_secs(1));
            for (device, ns) in link.devices.iter().zip([&lab.local, &lab.remote]) {
                assert_eq!(written(ns, device), 0, "packets of the other end on {device}");
            }
            assert!(link.ends[plain].statistics().get("drop-wants-secure") >= 2);
            assert_eq!(link.ends[plain].count(WANTS_SECURE), 1);
            assert!(!link.ends[1 - plain].said(line::UP));
        }
    }
}

#[test]
fn ends_that_differ_say_in_what_over_tcp() {
    ends_that_differ_say_in_what(Wire::Tcp);
}

#[test]
fn ends_that_differ_say_in_what_over_udp() {
    ends_that_differ_say_in_what(Wire::Udp);
}

fn ends_that_differ_say_in_what(wire: Wire) {
    let lab = Lab::new();
    let (near, far) = (Suite::Secret.near(), Suite::Secret.far());
    let rows = [
        ([format!("{near} --tap"), far.clone()], OTHER_KIND),
        ([format!("{near} --aead aes-256-gcm"), format!("{far} --aead chacha20-poly1305")], OTHER_AEAD),
        ([format!("{near} --aead chacha20-poly1305"), format!("{far} --aead aes-256-gcm")], OTHER_AEAD),
        ([format!("{near} --mtu 1300"), format!("{far} --mtu 1400")], OTHER_MTU),
    ];
    let mut links: Vec<_> = (0..)
        .zip(rows)
        .map(|(number, ([near, far], text))| {
            let common = format!("{} --port {}", wire.option(), 6000 + number);
            let far = server(&lab.remote, &format!("-i far{number} -s {common} {far}"));
            let near = simpletun(&lab.local, &format!("-i near{number} -c {REMOTE} {common} {near}"));
            ([near, far], text)
        })
        .collect();
    for (ends, text) in &links {
        for end in ends {
            end.wait_for(text);
            // The link works all the same if nothing else is wrong.
            if *text == OTHER_MTU {
                end.wait_for(line::UP);
            }
        }
    }
    sleep(AFTER_A_REFUSAL);
    for (ends, text) in &mut links {
        for end in ends {
            says_once(end, text);
            assert_eq!(end.said(line::UP), *text == OTHER_MTU, "{}", end.text());
        }
    }
}

#[test]
fn ends_with_different_secrets_or_keys_say_so_over_tcp() {
    keys_differ(Wire::Tcp, [line::CLOSED_UNANSWERED, line::WRONG_KEY]);
}

#[test]
fn ends_with_different_secrets_or_keys_say_so_over_udp() {
    keys_differ(Wire::Udp, [NO_ANSWER, line::WRONG_KEY]);
}

fn keys_differ(wire: Wire, lines: [&str; 2]) {
    let lab = Lab::new();
    let rows = [
        (Suite::Secret.stranger(), Suite::Secret.far(), lines[1]),
        (Suite::Pairs.stranger(), Suite::Pairs.far(), lines[1]),
        (Suite::Pairs.near(), Suite::PairsWithPsk.far(), lines[1]),
        // A message of the other length is not read over TCP.
        (Suite::Pairs.near(), Suite::Secret.far(), if let Wire::Tcp = wire { DOES_NOT_BEGIN } else { lines[1] }),
    ];
    let mut links: Vec<_> = (0..)
        .zip(rows)
        .map(|(number, (near, far, text))| {
            let common = format!("{} --port {}", wire.option(), 6000 + number);
            let far = server(&lab.remote, &format!("-i far{number} -s {common} {far}"));
            let near = simpletun(&lab.local, &format!("-i near{number} -c {REMOTE} {common} {near}"));
            ([near, far], [lines[0], text])
        })
        .collect();
    for (ends, lines) in &links {
        for (end, text) in ends.iter().zip(lines) {
            end.wait_after_for(Mark::START, text, AFTER_TEN_SECONDS);
        }
    }
    // Several attempts more.
    sleep(Duration::from_secs(1));
    for (ends, lines) in &mut links {
        for (end, text) in ends.iter_mut().zip(lines) {
            says_once(end, text);
            assert!(!end.said(line::UP), "{}", end.text());
        }
    }
}

/// Over TCP nobody would listen; over UDP each hears the other.
#[test]
fn two_clients_are_told_that_both_have_the_same_role() {
    let lab = Lab::new();
    let options = |bind, connect| format!("--udp --bind {bind}:4000 -c {connect}:4000 {}", Suite::Secret.far());
    let ends = [
        simpletun(&lab.remote, &format!("-i tun2 {}", options(REMOTE, LOCAL))),
        simpletun(&lab.local, &format!("-i tun1 {}", options(LOCAL, REMOTE))),
    ];
    for end in &ends {
        end.wait_for(SAME_SIDE);
    }
    sleep(Duration::from_secs(2));
    for mut end in ends {
        says_once(&mut end, SAME_SIDE);
        assert!(!end.said(line::UP));
        assert!(end.statistics().get(stat::DROP_BAD_HANDSHAKE) >= 1);
    }
}

/// A peer whose clock has gone back by years is told what time it was, and takes one round trip more.
#[test]
fn a_peer_whose_clock_has_gone_back_is_served_one_round_trip_later() {
    let lab = Lab::quiet();
    for wire in [Wire::Tcp, Wire::Udp] {
        let options = format!("-i tun3 -s {} {}", wire.option(), Suite::Pairs.far());
        let far = server(&lab.remote, &options);
        let keys = Suite::Pairs.near_peer();
        let mut peer = SecurePeer::connect(&lab.local, wire, "10.86.43.52:55555", &keys, "");
        peer.run("tamper", json!({ "timestamp_offset": TEN_YEARS }));
        peer.run("handshake", json!({}));
        assert_eq!(peer.wait_for("resp")["payload"]["status"], 0, "{wire:?}");
        far.wait_for(line::UP);
        peer.run("tamper", json!({ "timestamp_offset": 0 }));
        peer.run("rekey", json!({}));
        let statuses = [1, 2].map(|_| peer.wait_for("resp")["payload"]["status"].clone());
        assert_eq!(statuses, [1, 0], "{wire:?}");
        peer.run("ping", json!({}));
        assert_eq!((far.count(line::UP), far.count(line::DOWN)), (1, 0), "{wire:?}");
    }
}

const TEN_YEARS: u32 = 10 * 365 * 86_400;

#[test]
fn a_daemon_whose_clock_has_gone_back_says_so_and_comes_up() {
    let lab = Lab::quiet();
    for wire in [Wire::Tcp, Wire::Udp] {
        let keys = Suite::Pairs.near_peer();
        let far_keys = Suite::Pairs.far_peer();
        let mut peer = SecurePeer::listen(&lab.local, wire, "10.86.43.51:55555", &keys, "");
        {
            let mut before = SecurePeer::connect(&lab.remote, wire, "10.86.43.51:55555", &far_keys, "");
            before.run("tamper", json!({ "timestamp_offset": TEN_YEARS }));
            before.run("handshake", json!({}));
            peer.wait_for("session");
        }
        let mut far = simpletun(&lab.remote, &format!("-i tun3 -c {LOCAL} {} {}", wire.option(), Suite::Pairs.far()));
        far.wait_for(line::UP);
        peer.wait_for("session");
        says_once(&mut far, "the link works all the same");
        let status = peer.run("status", json!({}));
        assert_eq!(status["dropped"]["init-stale"], 1, "{wire:?}: {status}");
        far.terminate();
    }
}

/// Nothing else than this is worth a warning, and it once.
#[track_caller]
fn says_once(end: &mut Daemon, text: &str) {
    assert!(end.is_running(), "{}", end.text());
    let warnings: Vec<_> = end
        .lines()
        .into_iter()
        .filter(|said| said.contains(" WARN ") || said.contains(" ERROR "))
        .filter(|said| !said.contains(PLAIN_WARNING))
        // A plain server whose device has just got its carrier may speak before it has heard who is there.
        .filter(|said| text != line::CLOSED_UNANSWERED || !said.contains(SPEAKS_PLAIN))
        .collect();
    assert!(warnings.len() == 1 && warnings[0].contains(text), "{text:?} once, and nothing else: {warnings:#?}");
}

/// Packets that the daemon has written to its device.
fn written(ns: &Ns, device: &str) -> u64 {
    let text = ns.run(&format!("cat /sys/class/net/{device}/statistics/rx_packets"));
    text.trim().parse().expect("a number")
}
