//! New keys while packets flow: a thousand handshakes lose nothing, repeat nothing, and change no order.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::time::{Duration, Instant};

use crate::common::daemon::{server, simpletun};
use crate::common::lab::{Lab, REMOTE};
use crate::common::secure::Protection;
use crate::common::traffic::{Pulse, Responder};
use crate::common::wait::wait_until;
use crate::common::{line, stat};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";

const REKEYS: u64 = 1000;

#[test]
fn a_thousand_rekeys_over_tcp_lose_and_repeat_nothing_and_keep_the_order() {
    rekeys("");
}

#[test]
fn a_thousand_rekeys_over_udp_lose_and_repeat_nothing() {
    rekeys("--udp");
}

/// Every 20 ms, which is as often as a responder answers; each datagram crosses in both directions.
#[track_caller]
fn rekeys(transport: &str) {
    let lab = Lab::with_test_inside();
    let ends = Protection::KeyPairs.ends();
    let options = format!("{transport} --rekey-after 20ms");
    let server = server(&lab.remote, &format!("-i t2 -s {options} {} --address {FAR}/24", ends.server));
    let client = simpletun(&lab.local, &format!("-i t1 -c {REMOTE} {options} {} --address {NEAR}/24", ends.client));
    client.wait_for(line::UP);
    server.wait_for(line::UP);
    let _responder = Responder::new(&lab.remote);
    let pulse = Pulse::new(FAR, Duration::from_millis(1));
    pulse.begins();
    let first = client.statistics();
    // Each question is a line in the log.
    let mut ask_at = Instant::now();
    wait_until(Duration::from_secs(100), "thousand rekeys", || {
        if Instant::now() < ask_at {
            return false;
        }
        ask_at = Instant::now() + Duration::from_millis(500);
        client.statistics().get(stat::HANDSHAKES) >= first.get(stat::HANDSHAKES) + REKEYS
    });
    let beats = pulse.finish();

    let sent = beats.sent.len() as u64;
    let returned: Vec<u64> = beats.returned.iter().map(|(number, _)| *number).collect();
    let mut sorted = returned.clone();
    sorted.sort_unstable();
    let missing: Vec<u64> = (0..sent).filter(|number| sorted.binary_search(number).is_err()).collect();
    assert_eq!(missing, [0; 0], "of {sent} datagrams");
    assert_eq!(sorted, (0..sent).collect::<Vec<u64>>(), "each of them once");
    if transport.is_empty() {
        assert!(returned.is_sorted(), "in their order");
    }
    for end in [&client, &server] {
        let statistics = end.statistics();
        eprintln!("{transport} {sent} datagrams, {statistics:?}");
        assert!(statistics.get(stat::HANDSHAKES) >= REKEYS, "{statistics:?}");
        assert_eq!(statistics.get("ups"), 1, "{statistics:?}");
        for key in ["drop-not-authentic", "drop-unknown-session", "drop-replayed", "drop-handshake-limited"] {
            assert_eq!(statistics.get(key), 0, "{key}: {statistics:?}");
        }
        assert!(!end.said(line::DOWN) && !end.said(line::INTERRUPTED), "{}", end.text());
    }
}
