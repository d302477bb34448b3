//! Servers with several addresses, of which some are dead, hosts without IPv6, and resolvers that say nothing: the client
//! finds the address that works, soon, and what works goes on.

use std::net::UdpSocket;
use std::time::Duration;

use crate::common::daemon::{Daemon, simpletun};
use crate::common::lab::{Lab, Ns, PYTHON, with_prefix};
use crate::common::line;
use crate::common::names::Hosts;
use crate::common::pair::{FAR, Kind, NEAR};
use crate::common::secure::Ends;
use crate::common::wait::{DEADLINE, wait_until};

/// What is promised is less; the rest is for a machine that runs other tests beside this one.
const SOON: Duration = Duration::from_secs(5);

over_all! {
    five_dead_addresses_in_front_of_one_that_works_cost_little
    hosts_whose_ipv6_is_switched_off_use_ipv4
    ends_that_cannot_open_ipv6_sockets_use_ipv4
    a_resolver_that_hangs_does_not_hold_back_a_link
    a_name_that_comes_to_mean_another_address_is_followed
}

/// A server and a client that knows it by name.
struct Named {
    lab: Lab,
    hosts: Hosts,
    ends: Ends,
    transport: &'static str,
}

impl Named {
    fn new(kind: Kind) -> Self {
        Self {
            lab: Lab::with_test_inside(),
            hosts: Hosts::mount(),
            ends: kind.protection.ends(),
            transport: kind.transport,
        }
    }

    fn server_args(&self, options: &str) -> String {
        format!("-i t2 -s {} {options} {} --address {FAR}/24", self.transport, self.ends.server)
    }

    fn client_args(&self) -> String {
        format!("-i t1 -c server.example {} {} --address {NEAR}/24", self.transport, self.ends.client)
    }

    fn start_server(&self, options: &str) -> Daemon {
        let server = simpletun(&self.lab.remote, &self.server_args(options));
        server.wait_for(line::LISTENING);
        server
    }

    fn start_client(&self) -> Daemon {
        let client = simpletun(&self.lab.local, &self.client_args());
        client.wait_for(line::DEVICE);
        client
    }

    #[track_caller]
    fn flows_within(&self, limit: Duration) {
        let taken = self.lab.local.ping_until_answered(FAR, DEADLINE * 2);
        eprintln!("{} traffic after {taken:.1?}", self.transport);
        assert!(taken < limit, "only after {taken:?}");
    }
}

/// A provider whose IPv6 leads nowhere: the user notices a second at most.
fn five_dead_addresses_in_front_of_one_that_works_cost_little(kind: Kind) {
    let named = Named::new(kind);
    let near = &named.lab.local;
    near.run("ip addr add 2001:db8:86::1/64 dev eth0");
    let mut hosts = String::new();
    for host in 0x50..0x55 {
        // The frames go to a station that nobody is.
        near.run(&format!("ip neigh add 2001:db8:86::{host:x} lladdr 02:00:00:00:00:01 dev eth0"));
        hosts += &format!("2001:db8:86::{host:x} server.example\n");
    }
    named.hosts.set(&format!("{hosts}10.86.43.52 server.example\n"));
    let order = near.run("getent ahosts server.example");
    assert!(order.starts_with("2001:db8:86::"), "the resolver puts the dead ones first: {order}");
    let _server = named.start_server("");
    let _client = named.start_client();
    named.flows_within(Duration::from_secs(4));
}

/// A provider gives the server another address, and its name follows: so does the client, who is told by nothing but
/// refusals (plain datagrams) and silence.
fn a_name_that_comes_to_mean_another_address_is_followed(kind: Kind) {
    let named = Named::new(kind);
    named.lab.remote.run(&format!("ip addr add {} dev eth0", with_prefix("10.86.43.53")));
    named.hosts.set("10.86.43.52 server.example\n");
    let mut old = named.start_server("--bind 10.86.43.52");
    let client = named.start_client();
    named.flows_within(DEADLINE);
    old.kill();
    named.hosts.set("10.86.43.53 server.example\n");
    let _new = named.start_server("--bind 10.86.43.53");
    named.flows_within(DEADLINE * 2);
    wait_until(DEADLINE, "the client says where the peer is", || client.text().contains("peer=10.86.43.53:55555"));
}

/// Another host has the first address and takes every connection: a secure link gives it its time and goes on to the next.
#[test]
fn a_secure_client_goes_past_a_host_that_takes_connections_and_says_nothing() {
    let named = Named::new(Kind::SECURE_TCP);
    let far = &named.lab.remote;
    // The resolver puts the address nearest to our own first.
    far.run(&format!("ip addr add {} dev eth0", with_prefix("10.86.43.50")));
    named.hosts.set("10.86.43.50 server.example\n10.86.43.52 server.example\n");
    let _foreign = far.start("socat -u TCP4-LISTEN:55555,bind=10.86.43.50,fork OPEN:/dev/null");
    far.wait_for_listener(55555);
    let _server = simpletun(far, &named.server_args("--bind 10.86.43.52"));
    let client = named.start_client();
    named.flows_within(DEADLINE);
    assert!(client.wait_for(line::UP).contains("peer=10.86.43.52:"), "{}", client.text());
}

/// Distributions have a switch for IPv6, and people use it; the server has addresses of both families.
fn hosts_whose_ipv6_is_switched_off_use_ipv4(kind: Kind) {
    let named = Named::new(kind);
    for ns in [&named.lab.local, &named.lab.remote] {
        ns.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    }
    named.hosts.set("fd86:43::52 server.example\n10.86.43.52 server.example\n");
    let _server = named.start_server("");
    let _client = named.start_client();
    named.flows_within(SOON);
}

/// A kernel without IPv6, or a service that may not use it (`RestrictAddressFamilies`).
fn ends_that_cannot_open_ipv6_sockets_use_ipv4(kind: Kind) {
    let named = Named::new(kind);
    named.hosts.set("fd86:43::52 server.example\n10.86.43.52 server.example\n");
    let server = without_ipv6(&named.lab.remote, &named.server_args(""));
    server.wait_for(&format!("{} 0.0.0.0:55555", line::LISTENING));
    let client = without_ipv6(&named.lab.local, &named.client_args());
    client.wait_for(line::DEVICE);
    named.flows_within(SOON);
}

fn without_ipv6(ns: &Ns, args: &str) -> Daemon {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/without_ipv6.py");
    let mut command = ns.command(PYTHON);
    command.args([script, env!("CARGO_BIN_EXE_simpletun")]).args(args.split_whitespace());
    Daemon::spawn(format!("simpletun {args} ({}, without IPv6)", ns.label()), command)
}

/// The name server is behind the link that has failed, or is gone: the last known address is used.
fn a_resolver_that_hangs_does_not_hold_back_a_link(kind: Kind) {
    let named = Named::new(kind);
    named.hosts.set("10.86.43.52 server.example\n");
    let mut server = named.start_server("");
    let client = named.start_client();
    named.flows_within(DEADLINE);
    let sink = UdpSocket::bind("127.0.0.1:53").expect("the name server's port");
    sink.set_nonblocking(true).expect("a socket option");
    named.hosts.wait_long_for_resolvers();
    named.hosts.set("");
    client.signal("USR1");
    wait_until(DEADLINE, "question to the resolver", || sink.recv(&mut [0; 512]).is_ok());
    named.flows_within(SOON);
    // Again and again while the resolver hangs, for both causes.
    for _ in 0..2 {
        server.kill();
        server = named.start_server("");
        named.flows_within(SOON);
    }
    client.signal("USR1");
    named.flows_within(SOON);
}
