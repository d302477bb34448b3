//! The wire between two ends is cut and restored, for some seconds or for minutes, in both directions or in one. Traffic
//! is offered all the while, and flows again within two seconds of the restoration.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::daemon::Daemon;
use crate::common::lab::Ns;
use crate::common::net::transfer;
use crate::common::pair::{FAR, Kind, NEAR, Pair, cut, restore};
use crate::common::secure::Protection;
use crate::common::traffic::Pulse;
use crate::common::wait::DEADLINE;
use crate::common::{line, stat};

/// Two seconds are promised; the rest is for a machine that runs other tests beside this one.
const SOON: Duration = Duration::from_secs(5);

const BEAT: Duration = Duration::from_millis(5);

/// So impatient that an end gives the other one up within the time that a test may take.
const IMPATIENT: &str = "--keepalive 1s --down-after 3s";

/// So patient that the connection outlasts the outage: what brings traffic back is not a new beginning.
const PATIENT: &str = "--down-after 60s";

over_all! {
    a_path_cut_for_five_seconds_carries_again_soon
    a_path_cut_for_fifteen_seconds_carries_again_soon_where_a_connection_lasts
    a_path_cut_for_more_than_a_minute_carries_again_soon
    a_path_that_loses_what_the_client_sends_carries_again_soon
    a_path_that_loses_what_the_server_sends_carries_again_soon
    a_server_whose_power_was_cut_is_found_again
    a_client_whose_power_was_cut_is_served_again
    both_ends_killed_at_once_meet_again
    a_client_stopped_for_longer_than_it_may_be_silent_goes_on
    a_server_stopped_for_longer_than_it_may_be_silent_goes_on
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

/// A firewall in the middle loses its mind in one direction, for long enough that one end gives the other up.
fn a_path_that_loses_what_the_client_sends_carries_again_soon(kind: Kind) {
    one_way(kind, |pair| pair.lab.remote.clone());
}

/// The same in the other direction.
fn a_path_that_loses_what_the_server_sends_carries_again_soon(kind: Kind) {
    one_way(kind, |pair| pair.lab.local.clone());
}

#[track_caller]
fn one_way(kind: Kind, deaf: fn(&Pair) -> Ns) {
    let pair = Pair::new(kind, IMPATIENT);
    let pulse = Pulse::new(FAR, BEAT);
    pulse.begins();
    let deaf = deaf(&pair);
    cut(&deaf);
    if kind.notices_silence() {
        pair.client.wait_for(line::DOWN);
    } else {
        sleep(Duration::from_secs(4));
    }
    restore(&deaf);
    carries_soon(&pulse);
}

/// The server's plug is pulled, without a word to the client, and it is started anew.
fn a_server_whose_power_was_cut_is_found_again(kind: Kind) {
    let mut pair = Pair::new(kind, "");
    let pulse = Pulse::new(FAR, BEAT);
    pulse.begins();
    pair.cut();
    pair.server.kill();
    forget_connections(&pair.lab.remote);
    pair.restore();
    pair.start_server();
    pair.server.wait_for(line::LISTENING);
    carries_soon(&pulse);
}

/// The client's plug is pulled: the connection that the server still holds does not keep the new one out.
fn a_client_whose_power_was_cut_is_served_again(kind: Kind) {
    let mut pair = Pair::new(kind, "");
    let pulse = Pulse::new(FAR, BEAT);
    pulse.begins();
    pair.cut();
    pair.client.kill();
    forget_connections(&pair.lab.local);
    // Nor does the client's host say that it has forgotten it: its first packet from there is that of the new one.
    let near = &pair.lab.local;
    near.run("nft add table inet mute");
    near.run("nft add chain inet mute leaving { type filter hook output priority 0 ; }");
    near.run("nft add rule inet mute leaving tcp flags & rst == rst drop");
    pair.restore();
    pair.start_client();
    carries_soon(&pulse);
}

/// A rack loses power, or an update kills both: they meet again however each comes back.
fn both_ends_killed_at_once_meet_again(kind: Kind) {
    let mut pair = Pair::new(kind, "");
    let pulse = Pulse::new(FAR, BEAT);
    pulse.begins();
    for client_is_first in [true, false] {
        pair.client.kill();
        pair.server.kill();
        if client_is_first {
            pair.start_client();
            pair.client.wait_for(line::DEVICE);
            pair.start_server();
        } else {
            pair.start_server();
            pair.server.wait_for(line::LISTENING);
            pair.start_client();
        }
        carries_soon(&pulse);
    }
}

/// A machine hangs and comes to: the other end has given it up, and takes it back.
fn a_client_stopped_for_longer_than_it_may_be_silent_goes_on(kind: Kind) {
    let pair = Pair::new(kind, IMPATIENT);
    stopped(&pair, &pair.client);
}

/// The same at the other end.
fn a_server_stopped_for_longer_than_it_may_be_silent_goes_on(kind: Kind) {
    let pair = Pair::new(kind, IMPATIENT);
    stopped(&pair, &pair.server);
}

#[track_caller]
fn stopped(pair: &Pair, end: &Daemon) {
    let pulse = Pulse::new(FAR, BEAT);
    pulse.begins();
    end.signal("STOP");
    sleep(Duration::from_secs(5));
    end.signal("CONT");
    carries_soon(&pulse);
    pair.lab.remote.ping(NEAR, 3, 56);
}

#[track_caller]
fn carries_soon(pulse: &Pulse) {
    let taken = pulse.returns_after(Instant::now(), DEADLINE * 2);
    eprintln!("traffic flows again in {taken:.0?}");
    assert!(taken < SOON, "only after {taken:?}");
}

/// What a host no longer knows once its power was cut, although a process ended there in peace.
fn forget_connections(ns: &Ns) {
    ns.run("ss -K -t state all ( sport = :55555 or dport = :55555 )");
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
