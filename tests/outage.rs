//! The wire between two ends is cut and restored, for some seconds or for minutes, in both directions or in one. Traffic
//! is offered all the while, and flows again within two seconds of the restoration.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

#[macro_use]
mod common;

use std::thread::sleep;
use std::time::{Duration, Instant};

use common::net::transfer;
use common::pair::{FAR, Kind, Pair};
use common::secure::Protection;
use common::traffic::Pulse;
use common::wait::DEADLINE;
use common::{line, stat};

/// Two seconds are promised; the rest is for a machine that runs other tests beside this one.
const SOON: Duration = Duration::from_secs(5);

const BEAT: Duration = Duration::from_millis(5);

/// So patient that the connection outlasts the outage: what brings traffic back is not a new beginning.
const PATIENT: &str = "--down-after 60s";

over_all! {
    a_path_cut_for_five_seconds_carries_again_soon
    a_path_cut_for_fifteen_seconds_carries_again_soon_where_a_connection_lasts
    a_path_cut_for_more_than_a_minute_carries_again_soon
}

/// A cable is pulled and plugged in again: connections inside pause for about as long.
fn a_path_cut_for_five_seconds_carries_again_soon(kind: Kind) {
    let _pair = outage(kind, "", Duration::from_secs(5));
}

/// The user of an end that was told to be patient waits no longer after an outage than anybody else.
fn a_path_cut_for_fifteen_seconds_carries_again_soon_where_a_connection_lasts(kind: Kind) {
    let _pair = outage(kind, PATIENT, Duration::from_secs(15));
}

rows! {
    (plain: crate::common::pair::Kind::PLAIN_TCP, secure: crate::common::pair::Kind::SECURE_TCP) {
        a_second_connection_carries_soon_where_the_kernel_repeats_ever_more_rarely
        a_transfer_on_a_slow_path_is_not_taken_for_a_standstill
    }
}

/// On a kernel before Linux 6.15 the user notices no difference: the client makes a new connection beside the old one.
fn a_second_connection_carries_soon_where_the_kernel_repeats_ever_more_rarely(kind: Kind) {
    let pair = outage(kind, &format!("--no-rto-cap {PATIENT}"), Duration::from_secs(15));
    let down = if kind.protection == Protection::Plain { line::DOWN } else { line::INTERRUPTED };
    let text = pair.client.wait_for(down);
    assert!(text.contains("reason=timeout"), "{text}");
    assert_eq!(pair.client.count("tunnel up"), if kind.protection == Protection::Plain { 2 } else { 1 });
    assert_eq!(pair.client.count(down), 1, "one new connection was enough: {}", pair.client.text());
}

/// There a client whose upload fills a slow path, so that much is under way all the time, stays on its connection.
fn a_transfer_on_a_slow_path_is_not_taken_for_a_standstill(kind: Kind) {
    let pair = Pair::new(kind, "--no-rto-cap");
    pair.lab.local.run("tc qdisc add dev eth0 root tbf rate 4mbit burst 10kb latency 400ms");
    transfer(&pair.lab.local, &pair.lab.remote, FAR, 3_000_000);
    assert!(!pair.client.said("reason=timeout"), "{}", pair.client.text());
    assert_eq!(pair.client.statistics().get(stat::LINK_PATHS), 1);
}

/// The router is started anew: both ends give each other up, and find each other when it is back.
fn a_path_cut_for_more_than_a_minute_carries_again_soon(kind: Kind) {
    let _pair = outage(kind, "", Duration::from_secs(65));
}

#[track_caller]
fn outage(kind: Kind, options: &str, length: Duration) -> Pair {
    let pair = Pair::new(kind, options);
    let pulse = Pulse::new(FAR, BEAT);
    pulse.begins();
    pair.cut();
    sleep(length);
    pair.restore();
    let start = Instant::now();
    let taken = pulse.returns_after(start, DEADLINE * 2);
    eprintln!("{kind:?} {options}: after {length:?} traffic flows again in {taken:.0?}");
    assert!(taken < SOON, "only after {taken:?}");
    pair
}

/// A server that is away for longer than two minutes is found at once when it is back, if there is traffic: the client
/// asks no less often than in the first minute.
#[test]
fn a_client_with_traffic_asks_every_second_two_minutes_later_too() {
    let pair = Pair::new(Kind::PLAIN_TCP, "--carrier off");
    let pulse = Pulse::new(FAR, BEAT);
    pulse.begins();
    let near = &pair.lab.local;
    near.run("nft add table inet watch");
    near.run("nft add chain inet watch leaving { type filter hook output priority 0 ; }");
    near.run("nft add rule inet watch leaving tcp flags & (syn | ack) == syn counter");
    let attempts = || -> u64 {
        let text = near.run("nft list chain inet watch leaving");
        let count = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("a counter in {text}"))
    };
    pair.cut();
    // Ten seconds until the connection is given up, two minutes until the waits become long.
    sleep(Duration::from_secs(10 + 120 + 5));
    let before = attempts();
    sleep(Duration::from_secs(10));
    let count = attempts() - before;
    assert!((6..=20).contains(&count), "{count} attempts in ten seconds");
    pair.restore();
    let taken = pulse.returns_after(Instant::now(), DEADLINE);
    assert!(taken < SOON, "only after {taken:?}");
}
