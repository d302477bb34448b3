//! Where the link leaves from and arrives at, plain or secure: `--bind`, `--port`, `--bind-device`, `--fwmark`.

use crate::common::daemon::{Daemon, server, simpletun};
use crate::common::lab::{Lab, Ns};
use crate::common::line;
use crate::common::secure::Protection;
use crate::common::wait::DEADLINE;

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";

use Protection::{KeyPairs, Plain, Secret};

/// The transport as an option, and how the link is protected.
type Wire = (&'static str, Protection);

rows! {
    (
        tcp: ("", super::Plain),
        udp: ("--udp", super::Plain),
        secure_tcp: ("", super::Secret),
        secure_udp: ("--udp", super::KeyPairs)
    )
    {
        a_client_leaves_from_the_address_and_port_it_is_bound_to
        a_server_listens_on_the_address_it_is_bound_to_only
        both_ends_take_the_port_from_its_option
        a_server_bound_to_a_device_listens_there_only
        marked_packets_are_seen_by_the_firewall
    }
}

fn a_client_leaves_from_the_address_and_port_it_is_bound_to(wire: Wire) {
    let lab = Lab::new();
    lab.local.address("eth0", &["10.86.43.61/24"]);
    let (server, _client) = link(&lab, wire, "", "--bind 10.86.43.61:4444");
    assert!(server.wait_for(line::UP).contains("peer=10.86.43.61:4444"));
}

fn a_server_listens_on_the_address_it_is_bound_to_only(wire: Wire) {
    let lab = Lab::new();
    let (_server, _client) = link(&lab, wire, "--bind 10.86.43.52:55555", "");
    let listeners = listeners(&lab.remote, 55555);
    assert!(listeners.contains("10.86.43.52:55555") && listeners.lines().count() == 1, "{listeners}");
}

fn both_ends_take_the_port_from_its_option(wire: Wire) {
    let lab = Lab::new();
    let (_server, client) = link(&lab, wire, "-p 4000", "-p 4000");
    assert!(client.wait_for(line::UP).contains("peer=10.86.43.52:4000"));
    assert_eq!(listeners(&lab.remote, 55555), "");
}

fn a_server_bound_to_a_device_listens_there_only(wire: Wire) {
    let lab = Lab::new();
    let (_server, _client) = link(&lab, wire, "--bind-device eth0", "--bind-device eth0");
    assert!(listeners(&lab.remote, 55555).contains("%eth0:55555"), "{}", listeners(&lab.remote, 55555));
}

fn marked_packets_are_seen_by_the_firewall(wire: Wire) {
    let lab = Lab::new();
    for ns in [&lab.local, &lab.remote] {
        ns.run("nft add table inet marks");
        ns.run("nft add chain inet marks output { type filter hook output priority 0 ; }");
        ns.run("nft add rule inet marks output oifname eth0 meta mark 7 counter");
    }
    let (_server, _client) = link(&lab, wire, "--fwmark 7", "--fwmark 0x7");
    lab.local.ping(FAR, 3, 56);
    for ns in [&lab.local, &lab.remote] {
        let rules = ns.run("nft list table inet marks");
        let packets = rules.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        let packets: u64 = packets.expect("a counter").parse().expect("a number");
        assert!(packets >= 3, "{rules}");
    }
}

/// A tunnel that carries, with options for either end.
fn link(lab: &Lab, (transport, protection): Wire, server_args: &str, client_args: &str) -> (Daemon, Daemon) {
    let ends = protection.ends();
    let (server_args, client_args) =
        (format!("{server_args} {}", ends.server), format!("{client_args} {}", ends.client));
    let server = server(&lab.remote, &format!("-i t2 -s {transport} {server_args} --address {FAR}/24"));
    let client = simpletun(&lab.local, &format!("-i t1 -c 10.86.43.52 {transport} {client_args} --address {NEAR}/24"));
    lab.local.ping_until_answered(FAR, DEADLINE);
    lab.remote.ping(NEAR, 1, 56);
    (server, client)
}

fn listeners(ns: &Ns, port: u16) -> String {
    ns.run(&format!("ss -Hlntu sport = :{port}"))
}
