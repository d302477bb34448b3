//! One host with many tunnels, and with too few descriptors for the ones that it has.

use std::process::Command;
use std::time::Duration;

use crate::common::daemon::{Daemon, server, simpletun};
use crate::common::lab::{Lab, REMOTE};
use crate::common::line;
use crate::common::pair::{FAR, Kind, Pair};
use crate::common::wait::{DEADLINE, holds_for};

/// What is promised is less; the rest is for a machine that runs other tests beside this one.
const SOON: Duration = Duration::from_secs(5);

/// Who sets the limits of another process has to be its user, or to have a right that not every machine gives to root.
const OF_ROOT: &str = "--run-as root";

over_both! {
    ten_tunnels_between_two_hosts_carry_side_by_side
}

rows! {
    (plain: crate::common::pair::Kind::PLAIN_TCP, secure: crate::common::pair::Kind::SECURE_TCP) {
        a_server_out_of_descriptors_goes_on_and_serves_when_it_has_some
        a_client_out_of_descriptors_goes_on_and_connects_when_it_has_some
    }
}

/// A hub with a tunnel to each of its sites: each carries its own, and one that ends takes no other with it.
fn ten_tunnels_between_two_hosts_carry_side_by_side(transport: &str) {
    let lab = Lab::new();
    let mut tunnels: Vec<(Daemon, Daemon)> = (0..10)
        .map(|number| {
            let port = 4000 + number;
            let far = format!("-i far{number} -s -p {port} {transport} --address 192.168.{number}.2/24");
            let near = format!("-i near{number} -c {REMOTE}:{port} {transport} --address 192.168.{number}.1/24");
            (server(&lab.remote, &far), simpletun(&lab.local, &near))
        })
        .collect();
    for number in 0..10 {
        lab.local.ping_until_answered(&format!("192.168.{number}.2"), DEADLINE);
    }
    drop(tunnels.remove(4));
    for number in (0..10).filter(|number| *number != 4) {
        lab.local.ping(&format!("192.168.{number}.2"), 3, 1000);
        lab.remote.ping(&format!("192.168.{number}.1"), 3, 1000);
    }
}

/// The service's limit is too low: it says so once, serves on, and takes the client as soon as it can.
fn a_server_out_of_descriptors_goes_on_and_serves_when_it_has_some(kind: Kind) {
    let mut pair = Pair::new(kind, OF_ROOT);
    limit_descriptors(&pair.server, 3);
    pair.client.kill();
    pair.start_client();
    const TEXT: &str = "Cannot accept a connection: Too many open files";
    pair.server.wait_for(TEXT);
    holds_for(Duration::from_secs(3), "it is said once a minute", || {
        pair.server.is_running() && pair.server.count(TEXT) == 1
    });
    assert!(pair.server.usage().cpu < Duration::from_secs(2), "waiting is not work: {:?}", pair.server.usage());
    limit_descriptors(&pair.server, 1024);
    flows_soon(&pair);
}

/// The same at the connecting end.
fn a_client_out_of_descriptors_goes_on_and_connects_when_it_has_some(kind: Kind) {
    let mut pair = Pair::new(kind, OF_ROOT);
    limit_descriptors(&pair.client, 3);
    pair.server.kill();
    pair.start_server();
    const TEXT: &str = "Too many open files";
    pair.client.wait_for(TEXT);
    holds_for(Duration::from_secs(3), "it is said once a minute", || {
        pair.client.is_running() && pair.client.count(TEXT) == 1
    });
    limit_descriptors(&pair.client, 1024);
    flows_soon(&pair);
    assert!(pair.client.said(line::UP));
}

/// From now on it gets no descriptor with this number or above.
fn limit_descriptors(daemon: &Daemon, limit: u32) {
    let (pid, limit) = (daemon.pid().to_string(), format!("--nofile={limit}:1024"));
    let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status().expect("run prlimit");
    assert!(status.success(), "prlimit {limit}");
}

#[track_caller]
fn flows_soon(pair: &Pair) {
    let taken = pair.lab.local.ping_until_answered(FAR, DEADLINE);
    assert!(taken < SOON, "only after {taken:?}");
}
