//! What the two ends say about their link is true, and what happens around them is noticed when it happens: addresses
//! that change, networks that go and come.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

#[macro_use]
mod common;

use std::time::{Duration, Instant};

use common::daemon::{Daemon, server, simpletun};
use common::lab::{Lab, REMOTE};
use common::net::Pinging;
use common::secure::Protection;
use common::wait::DEADLINE;
use common::{line, stat};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";

/// One second is promised; the rest is for a machine that runs other tests beside this one. Timers alone would take
/// longer: a silent peer is given up after ten seconds.
const SOON: Duration = Duration::from_secs(5);

/// How a link is made: its transport and its protection.
#[derive(Clone, Copy)]
struct Kind(&'static str, Protection);

const PLAIN_TCP: Kind = Kind("", Protection::Plain);
const PLAIN_UDP: Kind = Kind("--udp", Protection::Plain);
const SECURE_TCP: Kind = Kind("", Protection::Secret);
const SECURE_UDP: Kind = Kind("--udp", Protection::KeyPairs);

rows! {
    (plain_tcp: PLAIN_TCP, secure_tcp: SECURE_TCP, secure_udp: SECURE_UDP) {
        a_client_whose_address_changes_goes_on_at_once
    }
}

rows! {
    (plain_tcp: PLAIN_TCP, plain_udp: PLAIN_UDP, secure_tcp: SECURE_TCP, secure_udp: SECURE_UDP) {
        changes_that_have_nothing_to_do_with_the_link_disturb_nothing
    }
}

/// The laptop gets another address: what runs in the tunnel goes on within a second.
fn a_client_whose_address_changes_goes_on_at_once(kind: Kind) {
    let link = Link::new(kind, "");
    let local = &link.lab.local;
    local.run("ip addr del 10.86.43.51/24 dev eth0");
    if kind.0.is_empty() {
        link.client.wait_for("reason=address-lost");
    }
    local.address("eth0", &["10.86.43.61/24"]);
    let start = Instant::now();
    local.ping_until_answered(FAR, DEADLINE);
    eprintln!("answered {:?} after the new address was there", start.elapsed());
    assert!(start.elapsed() < SOON, "only after {:?}", start.elapsed());
    link.lab.remote.ping(NEAR, 3, 56);
}

/// A busy host whose addresses, links and routes come and go: the tunnel loses no packet and does not reconnect.
fn changes_that_have_nothing_to_do_with_the_link_disturb_nothing(kind: Kind) {
    let link = Link::new(kind, "");
    let local = &link.lab.local;
    let before = link.client.statistics().get(stat::LINK_PATHS);
    let pinging = Pinging::start(local, FAR);
    for round in 0..25 {
        local.run(&format!("ip addr add 10.9.0.{}/32 dev lo", round + 1));
        local.run(&format!("ip route add 10.99.{round}.0/24 via {REMOTE}"));
        local.run(&format!("ip link add other{round} type veth peer name rehto{round}"));
        local.run(&format!("ip link del other{round}"));
    }
    pinging.end();
    let statistics = link.client.statistics();
    assert_eq!(statistics.get(stat::LINK_PATHS), before, "{statistics:?}");
    for end in [&link.client, &link.server] {
        assert!(!end.said(line::DOWN) && !end.said(line::INTERRUPTED), "{}", end.text());
        assert_eq!(end.count(line::UP), 1, "{}", end.text());
    }
}

/// A tunnel with traffic: `t1` here, `t2` there.
struct Link {
    lab: Lab,
    client: Daemon,
    server: Daemon,
}

impl Link {
    #[track_caller]
    fn new(kind: Kind, options: &str) -> Self {
        Self::in_lab(Lab::new(), kind, options)
    }

    #[track_caller]
    fn in_lab(lab: Lab, Kind(transport, protection): Kind, options: &str) -> Self {
        let ends = protection.ends();
        let server = server(&lab.remote, &format!("-i t2 -s {transport} {} {options} --address {FAR}/24", ends.server));
        let client = simpletun(
            &lab.local,
            &format!("-i t1 -c {REMOTE} {transport} {} {options} --address {NEAR}/24", ends.client),
        );
        lab.local.wait_for_device("t1");
        lab.local.ping_until_answered(FAR, DEADLINE);
        server.wait_for(line::UP);
        client.wait_for(line::UP);
        Self { lab, client, server }
    }
}
