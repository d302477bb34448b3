//! Secure links and those who have no key: they draw no byte, cost a bounded amount, and keep nobody out. What they have
//! seen of a genuine link is worth nothing to them.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, server, simpletun};
use crate::common::known_keys::{FAR_INSIDE, NEAR_INSIDE, Suite, connecting, link};
use crate::common::lab::{Lab, REMOTE};
use crate::common::net::{Pinging, noise};
use crate::common::peer::{Datagrams, Wire as Stream, echo_reply_sequence, echo_request, framed};
use crate::common::secure_peer::{Direction, PeerKeys, SecurePeer, Wire};
use crate::common::wait::{DEADLINE, holds_for, wait_until};
use crate::common::{line, stat};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use socket2::{Domain, Socket, Type};

const SERVER: &str = "10.86.43.52:55555";
/// Where strangers come from: not the peer's address, but on the same network.
const STRANGER: &str = "10.86.43.60:0";

/// Time in which an answer that must not come would have come.
const SILENCE: Duration = Duration::from_millis(400);

/// A stranger has this long, and the kernel may hold a connection that sends nothing for a while before.
const PATIENCE: Duration = Duration::from_secs(5);

const MEMORY_KIB: u64 = 32 * 1024;

const RESP_LEN: usize = 140;

/// Options that keep a daemon from speaking by itself.
const SILENT: &str = "--keepalive 60s --down-after 10m";

#[test]
fn strangers_with_junk_draw_no_byte_over_udp_from_an_end_with_keys() {
    strangers_draw_no_byte_over_udp(Suite::Pairs, &[Suite::Pairs.stranger_peer()]);
}

#[test]
fn strangers_with_junk_draw_no_byte_over_udp_from_an_end_with_keys_and_psk() {
    let keys = [Suite::PairsWithPsk.stranger_peer(), Suite::PairsWithPsk.half_right_peer()];
    strangers_draw_no_byte_over_udp(Suite::PairsWithPsk, &keys);
}

#[test]
fn strangers_with_junk_draw_no_byte_over_udp_from_an_end_with_a_secret() {
    strangers_draw_no_byte_over_udp(Suite::Secret, &[Suite::Secret.stranger_peer()]);
}

fn strangers_draw_no_byte_over_udp(suite: Suite, keys: &[PeerKeys]) {
    let lab = lab();
    let (far, near) = link(&lab, Wire::Udp, suite);
    let pinging = Pinging::start(&lab.local, FAR_INSIDE);
    let up = far.wait_for(line::UP);
    let peer = up.split("peer=").nth(1).and_then(|text| text.split(' ').next()).expect("the peer's address");
    for (end, address) in [(&far, SERVER), (&near, peer)] {
        let stranger = Datagrams::bind(STRANGER).to(address);
        let mut expected = BTreeMap::new();
        for (cause, probe) in probes(suite) {
            stranger.send(&probe);
            *expected.entry(cause).or_insert(0) += 1;
        }
        for keys in keys {
            let mut liar = SecurePeer::connect(&lab.local, Wire::Udp, address, keys, &format!("--bind {STRANGER}"));
            liar.run("init", json!({}));
            liar.run("silence", json!({ "seconds": SILENCE.as_secs_f64() }));
            *expected.entry(stat::DROP_BAD_HANDSHAKE).or_insert(0) += 1;
        }
        assert_eq!(stranger.receive(SILENCE), None, "{suite:?}: {address}");
        let statistics = end.statistics();
        for (cause, count) in expected {
            assert_eq!(statistics.get(cause), count, "{suite:?}: {cause} at {address}: {statistics:?}");
        }
        assert_eq!(statistics.get(stat::UPS), 1, "{suite:?}: {address}");
    }
    pinging.end();
}

#[test]
fn strangers_with_junk_draw_no_byte_over_tcp_from_an_end_with_keys() {
    strangers_draw_no_byte_over_tcp(Suite::PairsWithPsk);
}

#[test]
fn strangers_with_junk_draw_no_byte_over_tcp_from_an_end_with_a_secret() {
    strangers_draw_no_byte_over_tcp(Suite::Secret);
}

fn strangers_draw_no_byte_over_tcp(suite: Suite) {
    let lab = lab();
    let (far, _near) = link(&lab, Wire::Tcp, suite);
    let pinging = Pinging::start(&lab.local, FAR_INSIDE);
    let probes = probes(suite);
    let right_form = framed(&init_form(suite, suite.init_len()));
    thread::scope(|scope| {
        // Eight of one address may wait at the same time.
        for (number, (_, probe)) in probes.iter().enumerate() {
            scope.spawn(move || assert_silent(number, &[framed(probe)], Duration::ZERO));
        }
        let pieces: Vec<_> = right_form.iter().map(|byte| vec![*byte]).collect();
        scope.spawn(move || assert_silent(200, &pieces, Duration::from_millis(5)));
        let right_form = &right_form;
        // A byte now and then does not buy more time.
        let slow: Vec<_> = right_form.iter().map(|byte| vec![*byte]).collect();
        scope.spawn(move || assert_silent(208, &slow, Duration::from_millis(100)));
        scope.spawn(move || assert_silent(216, &[right_form[..1].to_vec()], Duration::ZERO));
        scope.spawn(move || assert_silent(217, &[right_form[..2].to_vec()], Duration::ZERO));
        scope.spawn(move || assert_silent(218, &[right_form[..right_form.len() - 1].to_vec()], Duration::ZERO));
        scope.spawn(move || {
            let mut silent = connect(219);
            assert!(silent.receive(SILENCE).is_none() && silent.rest().is_empty(), "a connection that waits");
        });
        let lab = &lab;
        scope.spawn(move || {
            let keys = suite.stranger_peer();
            let mut liar = SecurePeer::connect(&lab.local, Wire::Tcp, SERVER, &keys, "--bind 10.86.43.89:0");
            liar.run("init", json!({}));
            liar.wait_for("disconnected");
            assert_eq!(liar.run("status", json!({}))["messages_received"], 0);
        });
    });
    let statistics = far.statistics();
    // Of the form of an INIT are one in one piece, one in many, and the one with keys of its own. Others are not read.
    assert_eq!(statistics.get(stat::DROP_BAD_HANDSHAKE), 3, "{statistics:?}");
    assert!(statistics.get(stat::LINK_STRANGERS) >= probes.len() as u64, "{statistics:?}");
    assert_eq!(statistics.get(stat::UPS), 1);
    pinging.end();
}

/// Sends the pieces on a connection of their own: nothing comes back but its end, in time.
fn assert_silent(number: usize, pieces: &[Vec<u8>], pause: Duration) {
    let mut stranger = connect(number);
    let start = Instant::now();
    for piece in pieces {
        thread::sleep(pause);
        // It may have been closed by now.
        if stranger.try_send_raw(piece).is_err() {
            break;
        }
    }
    let closed = stranger.closes_within(PATIENCE * 3);
    assert!(stranger.rest().is_empty(), "probe {number} drew {:02x?}", stranger.rest());
    assert!(closed, "probe {number} was not closed after {:?}", start.elapsed());
    assert!(start.elapsed() < PATIENCE * 2, "probe {number} was closed after {:?}", start.elapsed());
}

/// A stranger's connection; a few of them share an address.
fn connect(number: usize) -> Stream {
    Stream::connect_from(&format!("10.86.43.{}:0", 60 + number / 8), SERVER)
}

/// What somebody without keys may send, and what it counts as.
fn probes(suite: Suite) -> Vec<(&'static str, Vec<u8>)> {
    let init_len = suite.init_len();
    let mut probes = Vec::new();
    for len in [1, 2, 4, 16, 31, 32, 33, 48, 100, RESP_LEN, 168, 216, 500, 1400] {
        let mut junk = noise(len);
        junk[0] = 0xaa;
        probes.extend([junk, vec![0; len], vec![0xff; len]].map(|probe| (stat::DROP_NOT_A_MESSAGE, probe)));
    }
    probes.push((stat::DROP_NOT_A_MESSAGE, echo_request(NEAR_INSIDE, FAR_INSIDE, 1, 56)));
    for len in [4, 5, 100, init_len - 1, init_len + 1, 1400] {
        probes.push((stat::DROP_NOT_A_MESSAGE, init_form(suite, len)));
    }
    for (at, value) in [(1, 0), (1, 2), (2, 0), (2, 3 - suite.number()), (2, 9)] {
        let mut init = init_form(suite, init_len);
        init[at] = value;
        probes.push((stat::DROP_NOT_A_MESSAGE, init));
    }
    probes.push((stat::DROP_BAD_HANDSHAKE, init_form(suite, init_len)));
    let headed = |head: [u8; 4], len| [&head[..], &noise(len - 4)].concat();
    probes.push((stat::DROP_BAD_HANDSHAKE, headed([0xf1, 1, suite.number(), 0], RESP_LEN)));
    for len in [4, RESP_LEN - 1, RESP_LEN + 1] {
        probes.push((stat::DROP_NOT_A_MESSAGE, headed([0xf1, 1, suite.number(), 0], len)));
    }
    for kind in [0xf4, 0xf5, 0xf6, 0xf7] {
        probes.push((stat::DROP_NOT_A_MESSAGE, headed([kind, 0, 0, 0], 31)));
        probes.push((stat::DROP_UNKNOWN_SESSION, headed([kind, 0, 0, 0], 32)));
        probes.push((stat::DROP_UNKNOWN_SESSION, headed([kind, 0, 0, 0], 1400)));
    }
    probes.push((stat::DROP_NOT_A_MESSAGE, headed([0xf8, 0, 0, 0], 100)));
    probes
}

/// The first bytes of an INIT, and nothing right behind them.
fn init_form(suite: Suite, len: usize) -> Vec<u8> {
    [&[0xf0, 1, suite.number(), 0], &noise(len)[4..]].concat()
}

#[test]
fn a_second_client_with_other_keys_disturbs_nothing_over_tcp() {
    a_second_client_disturbs_nothing(Wire::Tcp, Suite::Pairs);
}

#[test]
fn a_second_client_with_other_keys_disturbs_nothing_over_udp() {
    a_second_client_disturbs_nothing(Wire::Udp, Suite::Secret);
}

fn a_second_client_disturbs_nothing(wire: Wire, suite: Suite) {
    let lab = Lab::quiet();
    let (far, near) = link(&lab, wire, suite);
    let pinging = Pinging::start(&lab.local, FAR_INSIDE);
    let options = format!("-i tun9 -c {REMOTE} --address 192.168.9.1/24 {} {}", wire.option(), suite.stranger());
    let mut second = simpletun(&lab.local, &options);
    far.wait_for(line::WRONG_KEY);
    if let Wire::Tcp = wire {
        second.wait_for(line::CLOSED_UNANSWERED);
    }
    holds_for(Duration::from_secs(1), "the second client has no link", || !second.said(line::UP));
    pinging.end();
    second.terminate();
    for end in [&far, &near] {
        assert_eq!((end.count(line::UP), end.count(line::DOWN)), (1, 0), "{}", end.text());
    }
    assert_eq!(far.count(line::WRONG_KEY), 1);
    assert!(far.statistics().get(stat::DROP_BAD_HANDSHAKE) >= 1);
}

/// Every genuine message, sent again by a stranger and by the peer, and sent back to the one that it came from.
#[test]
fn genuine_messages_that_come_again_or_back_draw_nothing_from_a_listening_end_over_udp() {
    let lab = lab();
    let far = server(&lab.remote, &format!("-s {}", silent_far(Wire::Udp)));
    let keys = Suite::Secret.near_peer();
    let mut peer = SecurePeer::connect(&lab.local, Wire::Udp, SERVER, &keys, "--timers no --down-after 600");
    peer.run("handshake", json!({}));
    let address = SERVER;
    repeats_and_reflections_draw_nothing(&far, &mut peer, address);
}

#[test]
fn genuine_messages_that_come_again_or_back_draw_nothing_from_a_connecting_end_over_udp() {
    let lab = lab();
    let keys = Suite::Secret.near_peer();
    let more = "--timers no --down-after 600";
    let mut peer = SecurePeer::listen(&lab.local, Wire::Udp, "10.86.43.51:55555", &keys, more);
    let bind = "--bind 10.86.43.52:4444";
    let far = simpletun(&lab.remote, &format!("-c 10.86.43.51 {bind} {}", silent_far(Wire::Udp)));
    peer.wait_for("session");
    repeats_and_reflections_draw_nothing(&far, &mut peer, "10.86.43.52:4444");
}

fn repeats_and_reflections_draw_nothing(far: &Daemon, peer: &mut SecurePeer, address: &str) {
    far.wait_for(line::UP);
    let messages = genuine(peer);
    assert_eq!(messages.len(), 6, "a handshake message, DATA and CTRL each way");
    let stranger = Datagrams::bind(STRANGER).to(address);
    let mut expected = BTreeMap::new();
    for (_, cause, message) in &messages {
        stranger.send(message);
        peer.send_raw(message);
        *expected.entry(*cause).or_insert(0) += 2;
    }
    peer.run("silence", json!({ "seconds": SILENCE.as_secs_f64() }));
    assert_eq!(stranger.receive(SILENCE), None);
    let statistics = far.statistics();
    for (cause, count) in expected {
        assert_eq!(statistics.get(cause), count, "{cause}: {statistics:?}");
    }
    // The answer comes here, so the peer is still where it was, and the session the same.
    let index = peer.run("session", json!({}))["session"]["own_index"].clone();
    echo(peer, 9);
    assert_eq!(peer.run("session", json!({}))["session"]["own_index"], index);
    assert_eq!((far.count(line::UP), far.count(line::MOVED)), (1, 0));
}

#[test]
fn genuine_messages_that_come_again_or_back_draw_nothing_from_a_listening_end_over_tcp() {
    let lab = lab();
    let far = server(&lab.remote, &format!("-s {}", silent_far(Wire::Tcp)));
    let keys = Suite::Secret.near_peer();
    let mut peer = SecurePeer::connect(&lab.local, Wire::Tcp, SERVER, &keys, "--timers no --down-after 600");
    let session = |peer: &mut SecurePeer| drop(peer.run("handshake", json!({})));
    session(&mut peer);
    // By a stranger's connection.
    for (number, (_, _, message)) in genuine(&mut peer).iter().enumerate() {
        assert_silent(number, &[framed(message)], Duration::ZERO);
    }
    echo(&mut peer, 9);
    repeats_and_reflections_close_the_connection(&far, &mut peer, &session);
}

#[test]
fn genuine_messages_that_come_again_or_back_draw_nothing_from_a_connecting_end_over_tcp() {
    let lab = lab();
    let keys = Suite::Secret.near_peer();
    let more = "--timers no --down-after 600";
    let mut peer = SecurePeer::listen(&lab.local, Wire::Tcp, "10.86.43.51:55555", &keys, more);
    let far = simpletun(&lab.remote, &format!("-c 10.86.43.51 {}", silent_far(Wire::Tcp)));
    let session = |peer: &mut SecurePeer| drop(peer.wait_for("session"));
    session(&mut peer);
    repeats_and_reflections_close_the_connection(&far, &mut peer, &session);
}

/// By the peer's own connection, one message after the other.
fn repeats_and_reflections_close_the_connection(
    far: &Daemon,
    peer: &mut SecurePeer,
    session: &dyn Fn(&mut SecurePeer),
) {
    for turn in 0..6 {
        let (name, cause, message) = genuine(peer).swap_remove(turn);
        let before = far.statistics().get(cause);
        let received = peer.run("status", json!({}))["messages_received"].clone();
        peer.send_raw(&message);
        if cause == stat::DROP_HANDSHAKE_REFUSED {
            // It is the peer's, only late.
            wait_until(DEADLINE, name, || far.statistics().get(cause) > before);
            continue;
        }
        peer.wait_for("disconnected");
        if far.count("listening on") > 0 {
            // Otherwise the daemon has connected again by now.
            assert_eq!(peer.run("status", json!({}))["messages_received"], received, "{name}");
        }
        session(peer);
        assert_eq!(far.statistics().get(cause), before + 1, "{name}");
        echo(peer, 20 + turn as u16);
    }
    // A connection that comes back at once is no change of the link's state.
    assert_eq!((far.count(line::UP), far.count(line::DOWN)), (1, 0));
}

fn silent_far(wire: Wire) -> String {
    format!("-i tun3 --address {FAR_INSIDE}/24 {} {} {SILENT}", wire.option(), Suite::Secret.far())
}

/// Makes the two ends exchange packets and pings; then the last message of each type and direction, with what it counts
/// as when the daemon gets it now.
fn genuine(peer: &mut SecurePeer) -> Vec<(String, &'static str, Vec<u8>)> {
    echo(peer, 1);
    peer.run("ping", json!({}));
    let last = peer.run("last", json!({}));
    let mut messages = Vec::new();
    for (direction, key) in [(Direction::Sent, "sent"), (Direction::Received, "received")] {
        for kind in ["INIT", "RESP", "DATA", "CTRL"] {
            if last[key][kind].is_null() {
                continue;
            }
            let cause = match (direction, kind) {
                (Direction::Sent, "INIT") => stat::DROP_HANDSHAKE_REPLAYED,
                (Direction::Sent, "RESP") => stat::DROP_HANDSHAKE_REFUSED,
                (Direction::Sent, _) => stat::DROP_REPLAYED,
                (Direction::Received, "INIT" | "RESP") => stat::DROP_BAD_HANDSHAKE,
                (Direction::Received, _) => stat::DROP_UNKNOWN_SESSION,
            };
            messages.push((format!("{kind} {key}"), cause, peer.last(direction, kind)));
        }
    }
    messages
}

#[track_caller]
fn echo(peer: &mut SecurePeer, sequence: u16) {
    peer.send(&echo_request(NEAR_INSIDE, FAR_INSIDE, sequence, 56));
    assert_eq!(echo_reply_sequence(&peer.receive(1)[0]), Some(sequence));
}

#[test]
fn a_handshake_replayed_after_a_restart_changes_nothing_over_udp() {
    let (lab, mut far, mut peer, init) = link_with_captured_handshake(Wire::Udp);
    far.kill();
    far = server(&lab.remote, &format!("-s {}", silent_far(Wire::Udp)));
    let stranger = Datagrams::bind(STRANGER).to(SERVER);
    for _ in 0..20 {
        stranger.send(&init);
    }
    let answer = stranger.receive(Duration::from_secs(1));
    assert!(answer.as_ref().is_none_or(|answer| answer.len() == RESP_LEN && RESP_LEN < init.len()), "{answer:02x?}");
    assert_eq!(stranger.receive(SILENCE), None, "at most one answer");
    assert!(!far.said(line::UP), "nobody is there");
    peer.run("handshake", json!({}));
    far.wait_for(line::UP);
    echo(&mut peer, 1);

    // Now it is too old.
    far.kill();
    far = server(&lab.remote, &format!("-s {}", silent_far(Wire::Udp)));
    peer.run("handshake", json!({}));
    for _ in 0..20 {
        stranger.send(&init);
    }
    let _ = stranger.receive(Duration::from_secs(1));
    assert_eq!(stranger.receive(SILENCE), None, "at most one answer");
    echo(&mut peer, 2);
    assert_eq!((far.count(line::UP), far.count(line::MOVED)), (1, 0));
}

#[test]
fn a_handshake_replayed_after_a_restart_changes_nothing_over_tcp() {
    let (lab, mut far, mut peer, init) = link_with_captured_handshake(Wire::Tcp);
    far.kill();
    peer.wait_for("disconnected");
    far = server(&lab.remote, &format!("-s {}", silent_far(Wire::Tcp)));
    let answers: Vec<_> = (0..5)
        .filter_map(|number| {
            let mut stranger = connect(number);
            stranger.send(&init);
            stranger.receive(Duration::from_millis(200))
        })
        .collect();
    assert!(answers.len() <= 1 && answers.iter().all(|answer| answer.len() == RESP_LEN), "{answers:02x?}");
    assert!(!far.said(line::UP), "nobody is there");
    peer.run("handshake", json!({}));
    far.wait_for(line::UP);
    echo(&mut peer, 1);
}

/// A link, and the INIT that began it.
fn link_with_captured_handshake(wire: Wire) -> (Lab, Daemon, SecurePeer, Vec<u8>) {
    let lab = lab();
    let far = server(&lab.remote, &format!("-s {}", silent_far(wire)));
    let keys = Suite::Secret.near_peer();
    let mut peer = SecurePeer::connect(&lab.local, wire, SERVER, &keys, "--timers no --down-after 600");
    peer.run("handshake", json!({}));
    far.wait_for(line::UP);
    let init = peer.last(Direction::Sent, "INIT");
    (lab, far, peer, init)
}

/// A thousand connections of fifty addresses that send nothing, or one byte, and stay.
#[test]
fn a_thousand_idle_connections_keep_nobody_out() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("read the limit");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(4096).min(hard), hard).expect("raise the limit");
    let lab = Lab::quiet();
    let sources: Vec<String> = (100..150).map(|host| format!("10.86.43.{host}")).collect();
    for source in &sources {
        lab.local.address("eth0", &[&format!("{source}/24")]);
    }
    let (far, mut near) = link(&lab, Wire::Tcp, Suite::Pairs);
    far.wait_for(line::UP);
    let (before, own) = (far.usage(), far.descriptors());
    let pinging = Pinging::start(&lab.local, FAR_INSIDE);
    let target: SocketAddr = SERVER.parse().expect("an address");
    let mut idle: Vec<TcpStream> = Vec::new();
    for number in 0..1000 {
        let source: SocketAddr = format!("{}:0", sources[number % sources.len()]).parse().expect("an address");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.bind(&source.into()).expect("bind");
        socket.set_nonblocking(true).expect("set socket");
        // Under way; whether it is ever answered is not this test's concern.
        let _ = socket.connect(&target.into());
        idle.push(socket.into());
    }
    let (start, mut most) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(2) {
        for (number, mut connection) in idle.iter().enumerate() {
            if number % 2 == 0 {
                // Those that have been closed fail, and so do those that are not connected yet.
                let _ = std::io::Write::write(&mut connection, &[0]);
            }
        }
        most = most.max(far.descriptors());
        thread::sleep(Duration::from_millis(50));
    }
    // Sixty-four may wait. One more is open until it is decided which of them goes, and those that change places while
    // they are counted may be counted twice.
    assert!((own + 8..=own + 64 + 16).contains(&most), "{most} descriptors are open, {own} before");
    let after = far.usage();
    assert!(after.resident_kib < MEMORY_KIB && after.resident_kib < before.resident_kib + 4096, "{before:?} {after:?}");
    pinging.end();
    assert_eq!((near.count(line::UP), near.count(line::DOWN)), (1, 0));

    // The peer comes back while they are all there.
    near.kill();
    let start = Instant::now();
    let near = connecting(&lab, Wire::Tcp, Suite::Pairs);
    near.wait_for(line::UP);
    lab.local.ping_until_answered(FAR_INSIDE, DEADLINE);
    assert!(start.elapsed() < Duration::from_secs(5), "back after {:?}", start.elapsed());
    drop(idle);
}

/// Whoever passes on the newest message moves the endpoint, as a translated address does. The next one moves it back.
#[test]
fn the_endpoint_follows_the_newest_message_alone() {
    let lab = lab();
    let far = server(&lab.remote, &format!("-s {}", silent_far(Wire::Udp)));
    let keys = Suite::Secret.near_peer();
    let mut peer = SecurePeer::connect(&lab.local, Wire::Udp, SERVER, &keys, "--timers no --down-after 600");
    peer.run("handshake", json!({}));
    far.wait_for(line::UP);
    echo(&mut peer, 1);
    let stranger = Datagrams::bind(STRANGER).to(SERVER);

    // Forwarded instead of the genuine way: the answer goes where it came from.
    stranger.send(&sealed_echo(&mut peer, 2));
    // The new path is probed at once, too.
    let answer = std::iter::repeat_with(|| stranger.receive(DEADLINE).expect("the endpoint has moved"))
        .find(|message| message[0] == 0xf4)
        .expect("an endless sequence");
    peer.run("silence", json!({ "seconds": 0.2 }));
    far.wait_for(line::MOVED);

    // The next message by the genuine way moves it back. What was sent before is still there to be read.
    echo(&mut peer, 3);
    while stranger.receive(Duration::from_millis(1)).is_some() {}
    assert_eq!(stranger.receive(SILENCE), None);

    // Again, which is a replay.
    let data = peer.last(Direction::Sent, "DATA");
    stranger.send(&data);
    // Late: authentic and accepted, but not the newest.
    let late = sealed_echo(&mut peer, 4);
    echo(&mut peer, 5);
    stranger.send(&late);
    assert_eq!(echo_reply_sequence(&peer.receive(1)[0]), Some(4), "the answer goes to the peer");
    assert_eq!(stranger.receive(SILENCE), None);
    echo(&mut peer, 6);

    // The answer that went to the stranger is worth nothing to it.
    stranger.send(&answer);
    assert_eq!(stranger.receive(SILENCE), None);
    assert_eq!(far.statistics().get(stat::UPS), 1);
}

#[test]
fn a_pinned_endpoint_does_not_move_at_a_connecting_end() {
    let lab = lab();
    let keys = Suite::Secret.near_peer();
    let more = "--timers no --down-after 600";
    let mut peer = SecurePeer::listen(&lab.local, Wire::Udp, "10.86.43.51:55555", &keys, more);
    let bind = "--bind 10.86.43.52:4444 --pin-endpoint";
    let far = simpletun(&lab.remote, &format!("-c 10.86.43.51 {bind} {}", silent_far(Wire::Udp)));
    peer.wait_for("session");
    far.wait_for(line::UP);
    stays(&far, &mut peer, "10.86.43.52:4444");
}

#[test]
fn a_pinned_endpoint_does_not_move_at_a_listening_end() {
    let lab = lab();
    let remote = "--remote 10.86.43.51:4444 --pin-endpoint";
    let far = server(&lab.remote, &format!("-s {remote} {}", silent_far(Wire::Udp)));
    let keys = Suite::Secret.near_peer();
    let more = "--timers no --down-after 600 --bind 10.86.43.51:4444";
    let mut peer = SecurePeer::connect(&lab.local, Wire::Udp, SERVER, &keys, more);
    peer.run("handshake", json!({}));
    far.wait_for(line::UP);
    stays(&far, &mut peer, SERVER);
}

/// Messages are accepted from anywhere, and answers go to the peer.
fn stays(far: &Daemon, peer: &mut SecurePeer, address: &str) {
    let stranger = Datagrams::bind(STRANGER).to(address);
    stranger.send(&sealed_echo(peer, 2));
    assert_eq!(echo_reply_sequence(&peer.receive(1)[0]), Some(2));
    assert_eq!(stranger.receive(SILENCE), None);
    assert!(!far.said(line::MOVED));
}

/// The next message of the peer's session, which somebody else is to send.
fn sealed_echo(peer: &mut SecurePeer, sequence: u16) -> Vec<u8> {
    let packet = crate::common::secure_peer::hex(&echo_request(NEAR_INSIDE, FAR_INSIDE, sequence, 56));
    let sealed = peer.run("seal", json!({ "type": 0xf4, "plaintext": packet, "send": false }));
    crate::common::secure_peer::bytes(&sealed["message"])
}

/// A wire with the strangers' addresses at the local end.
fn lab() -> Lab {
    let lab = Lab::quiet();
    let addresses: Vec<String> = (60..90).map(|host| format!("10.86.43.{host}/24")).collect();
    lab.local.address("eth0", &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    lab
}
