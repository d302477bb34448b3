//! Whom a server accepts, and when one peer takes the place of another.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, server};
use crate::common::lab::{Lab, Ns, wire};
use crate::common::line;
use crate::common::peer::{Datagrams, Wire, echo_request};
use crate::common::wait::{DEADLINE, holds_for, wait_until};
use socket2::{Domain, Socket, Type};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";
const SERVER: &str = "10.86.43.52:55555";
const SERVER6: &str = "[fd86:43::52]:55555";

macro_rules! sources {
    ($($name:ident: $args:literal $verdict:ident $source:literal;)*) => {
        mod tcp {
            $(#[test] fn $name() { super::judges_tcp($args, $source, super::Verdict::$verdict); })*
        }
        mod udp {
            $(#[test] fn $name() { super::judges_udp($args, $source, super::Verdict::$verdict); })*
        }
    };
}

enum Verdict {
    Accepts,
    /// With a log line that names the flag that would have let it in.
    Refuses,
}

// 203.0.113.5 and 2001:db8:1::5 are public and come through a router; 198.51.100.9 and 2001:db8:2::9 are public but
// on the server's own network.
sources! {
    by_default_a_connected_private_source: "" Accepts "10.86.43.51";
    by_default_a_connected_public_source: "" Accepts "198.51.100.9";
    by_default_a_connected_public_ipv6_source: "" Accepts "2001:db8:2::9";
    by_default_a_routed_source_of_10: "" Accepts "10.1.2.3";
    by_default_a_routed_source_of_172_16: "" Accepts "172.31.255.1";
    by_default_a_routed_source_of_192_168: "" Accepts "192.168.77.5";
    by_default_a_link_local_source: "" Accepts "169.254.7.7";
    by_default_a_unique_local_ipv6_source: "" Accepts "fd12::5";
    by_default_a_routed_public_source: "" Refuses "203.0.113.5";
    by_default_a_source_just_outside_172_16: "" Refuses "172.32.0.1";
    by_default_a_routed_public_ipv6_source: "" Refuses "2001:db8:1::5";
    allow_admits_its_network: "--allow 203.0.113.0/24" Accepts "203.0.113.5";
    allow_admits_a_single_host: "--allow 203.0.113.5" Accepts "203.0.113.5";
    allow_admits_its_ipv6_network: "--allow 2001:db8:1::/48" Accepts "2001:db8:1::5";
    allow_replaces_the_default: "--allow 203.0.113.0/24" Refuses "10.86.43.51";
    allow_admits_the_second_of_two: "--allow 10.86.43.0/24 --allow 203.0.113.0/24" Accepts "203.0.113.5";
    allow_any_admits_everybody: "--allow any" Accepts "203.0.113.5";
    allow_any_admits_everybody_over_ipv6: "--allow any" Accepts "2001:db8:1::5";
    remote_admits_the_peer: "--remote 203.0.113.5" Accepts "203.0.113.5";
    // The network of a tun device is whatever is at its other end.
    the_tunnel_s_own_network_does_not_count: "--address 203.0.113.1/24" Refuses "203.0.113.5";
}

#[test]
fn remote_refuses_everybody_else_over_tcp() {
    let (_lab, server) = tun_server("--remote 203.0.113.5");
    let mut wire = connect_from("10.86.43.51");
    assert!(wire.closes_within(DEADLINE));
    assert!(!server.said(line::UP));
}

#[test]
fn remote_refuses_everybody_else_over_udp() {
    let (_lab, server) = tun_server("--udp --remote 203.0.113.5");
    let peer = Datagrams::bind("10.86.43.51:0").to(SERVER);
    assert!(!peer.answers(NEAR, FAR, 1, Duration::from_secs(1)));
    assert!(!server.said(line::UP));
}

#[test]
fn remote_may_be_a_name() {
    let (_lab, server) = tun_server("--udp --remote localhost:4000");
    let peer = Datagrams::bind("10.86.43.51:0").to(SERVER);
    assert!(!peer.answers(NEAR, FAR, 1, Duration::from_secs(1)));
    assert!(!server.said(line::UP));
}

#[test]
fn by_default_loopback_is_accepted() {
    let (lab, server) = tun_server("");
    let _client = lab.remote.start("socat -u TCP4:127.0.0.1:55555 -");
    assert!(server.wait_for(line::UP).contains("peer=127.0.0.1:"));
}

#[test]
fn by_default_ipv6_loopback_is_accepted() {
    let (lab, server) = tun_server("");
    let _client = lab.remote.start("socat -u TCP6:[::1]:55555 -");
    assert!(server.wait_for(line::UP).contains("peer=[::1]:"));
}

#[test]
fn a_server_says_that_a_plain_link_protects_nothing() {
    let (_lab, server) = tun_server("");
    server.wait_for("neither encrypted nor authenticated");
}

/// The source address is right, but it comes from where our answer would not go: it is forged.
#[test]
fn a_datagram_that_arrives_on_the_wrong_interface_is_refused() {
    let (lab, server) = tun_server("--udp");
    wire((&lab.local, "eth1"), (&lab.remote, "eth1"));
    lab.local.address("eth1", &["10.99.0.1/24"]);
    lab.remote.address("eth1", &["10.99.0.2/24"]);
    for ns in [&lab.local, &lab.remote] {
        for key in ["all", "default", "eth0", "eth1"] {
            ns.sysctl(&format!("net.ipv4.conf.{key}.rp_filter"), "0");
        }
    }
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("socket");
    socket.bind_device(Some(b"eth1")).expect("bind to device");
    socket.bind(&"10.86.43.51:0".parse::<SocketAddr>().expect("address").into()).expect("bind");
    let forger = UdpSocket::from(socket);
    let before = received_datagrams(&lab.remote);
    for _ in 0..5 {
        forger.send_to(&echo_request(NEAR, FAR, 1, 56), "10.99.0.2:55555").expect("send");
    }
    wait_until(DEADLINE, "five datagrams at the server", || received_datagrams(&lab.remote) >= before + 5);
    holds_for(Duration::from_millis(500), "the forger stays out", || !server.said(line::UP));
    // The true owner of the address is let in, on another port of it, at once.
    Datagrams::bind("10.86.43.51:0").to(SERVER).echo(NEAR, FAR, 2);
    server.wait_for(line::UP);
}

#[test]
fn a_newcomer_is_held_and_closed_while_the_connection_before_it_lives() {
    let (_lab, _server) = tun_server("");
    let mut live = Wire::connect(SERVER);
    live.echo(NEAR, FAR, 0);
    let mut newcomer = Wire::connect(SERVER);
    newcomer.send(&echo_request(NEAR, FAR, 1000, 56));
    let start = Instant::now();
    let mut sequence = 0;
    let closed_after = loop {
        sequence += 1;
        live.echo(NEAR, FAR, sequence);
        if newcomer.closes_within(Duration::from_millis(100)) {
            break start.elapsed();
        }
        assert!(start.elapsed() < DEADLINE, "the newcomer is closed");
    };
    assert!(!newcomer.has_frame(), "the newcomer got no answer");
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(9)).contains(&closed_after),
        "the newcomer is closed after five seconds, not {closed_after:?}"
    );
    live.echo(NEAR, FAR, sequence + 1);
}

#[test]
fn a_newcomer_replaces_a_connection_that_is_silent() {
    let (_lab, server) = tun_server("");
    let mut silent = Wire::connect(SERVER);
    silent.echo(NEAR, FAR, 1);
    server.wait_for(line::UP);
    holds_for(Duration::from_millis(1200), "the silent connection stays alone", || server.count(line::UP) == 1);
    let start = Instant::now();
    let mut newcomer = Wire::connect(SERVER);
    newcomer.echo(NEAR, FAR, 2);
    assert!(start.elapsed() < Duration::from_secs(3), "taken over at once, not after {:?}", start.elapsed());
    assert!(silent.closes_within(DEADLINE), "the silent connection is closed");
    newcomer.echo(NEAR, FAR, 3);
}

#[test]
fn a_held_newcomer_takes_over_once_the_connection_falls_silent() {
    let (_lab, _server) = tun_server("");
    let mut live = Wire::connect(SERVER);
    let start = Instant::now();
    live.echo(NEAR, FAR, 1);
    let mut newcomer = Wire::connect(SERVER);
    newcomer.echo(NEAR, FAR, 2);
    let taken = start.elapsed();
    assert!(
        (Duration::from_millis(950)..Duration::from_secs(4)).contains(&taken),
        "taken over after a second, not {taken:?}"
    );
    assert!(live.closes_within(DEADLINE), "the silent connection is closed");
}

#[test]
fn a_newcomer_is_served_at_once_when_the_connection_before_it_has_ended() {
    let (_lab, server) = tun_server("");
    let mut first = Wire::connect(SERVER);
    first.echo(NEAR, FAR, 1);
    drop(first);
    server.wait_for(line::DOWN);
    let start = Instant::now();
    Wire::connect(SERVER).echo(NEAR, FAR, 2);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_new_port_of_the_same_address_takes_over_at_once_over_udp() {
    let (_lab, _server) = tun_server("--udp");
    let first = Datagrams::bind("10.86.43.51:0").to(SERVER);
    first.echo(NEAR, FAR, 1);
    let second = Datagrams::bind("10.86.43.51:0").to(SERVER);
    second.echo(NEAR, FAR, 2);
    // And back again.
    first.echo(NEAR, FAR, 3);
}

#[test]
fn another_address_takes_over_after_a_minute_of_silence_over_udp() {
    let (_lab, server) = tun_server("--udp");
    let first = Datagrams::bind("10.86.43.51:0").to(SERVER);
    first.echo(NEAR, FAR, 0);
    let second = Datagrams::bind("10.1.2.3:0").to(SERVER);
    let start = Instant::now();
    let mut sequence = 0;
    let taken = loop {
        sequence += 1;
        if second.answers(NEAR, FAR, sequence, Duration::from_millis(500)) {
            break start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(75), "another address takes over after a minute");
    };
    assert!(taken >= Duration::from_secs(58), "not before a minute has passed: {taken:?}");
    server.wait_for("peer=10.1.2.3:");
    assert!(!first.answers(NEAR, FAR, 1, Duration::from_secs(1)), "and has the same minute");
}

/// The stranger's own datagrams are no sign of life of the peer, and the peer's keep the stranger out.
#[test]
fn another_address_stays_out_while_the_peer_talks_over_udp() {
    let (_lab, _server) = tun_server("--udp");
    let first = Datagrams::bind("10.86.43.51:0").to(SERVER);
    first.echo(NEAR, FAR, 0);
    let second = Datagrams::bind("10.1.2.3:0").to(SERVER);
    for sequence in 1..20 {
        assert!(!second.answers(NEAR, FAR, 1000 + sequence, Duration::from_millis(100)));
        first.echo(NEAR, FAR, sequence);
    }
}

fn judges_tcp(args: &str, source: &str, verdict: Verdict) {
    let (_lab, server) = tun_server(args);
    let mut wire = connect_from(source);
    match verdict {
        Verdict::Accepts => {
            wire.echo(NEAR, FAR, 1);
            assert!(server.wait_for(line::UP).contains(source));
        }
        Verdict::Refuses => {
            assert!(wire.closes_within(DEADLINE), "the connection is closed");
            names_the_flag(&server, source);
        }
    }
}

fn judges_udp(args: &str, source: &str, verdict: Verdict) {
    let (_lab, server) = tun_server(&format!("--udp {args}"));
    let peer = Datagrams::bind(&endpoint(source, 0)).to(if source.contains(':') { SERVER6 } else { SERVER });
    match verdict {
        Verdict::Accepts => {
            peer.echo(NEAR, FAR, 1);
            assert!(server.wait_for(line::UP).contains(source));
        }
        Verdict::Refuses => {
            assert!(!peer.answers(NEAR, FAR, 1, Duration::from_secs(1)), "no answer");
            names_the_flag(&server, source);
        }
    }
}

#[track_caller]
fn names_the_flag(server: &Daemon, source: &str) {
    server.wait_for(source);
    let lines = server.lines();
    let refusal = lines.iter().find(|text| text.contains(source)).expect("a line");
    assert!(refusal.contains("--allow"), "{refusal}");
    assert!(!server.said(line::UP), "{}", server.text());
}

fn connect_from(source: &str) -> Wire {
    let target = if source.contains(':') { SERVER6 } else { SERVER };
    Wire::connect_from(&endpoint(source, 0), target)
}

fn endpoint(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn received_datagrams(ns: &Ns) -> u64 {
    let text = ns.run("cat /sys/class/net/eth1/statistics/rx_packets");
    text.trim().parse().expect("a number")
}

/// A server whose neighbour, the test itself, has addresses of every sort.
fn tun_server(args: &str) -> (Lab, Daemon) {
    let lab = Lab::quiet();
    lab.remote.address("eth0", &["198.51.100.1/24", "2001:db8:2::1/64"]);
    lab.local.address("eth0", &["198.51.100.9/24", "2001:db8:2::9/64"]);
    for (source, network) in [
        ("203.0.113.5/32", "203.0.113.5/32"),
        ("10.1.2.3/32", "10.1.0.0/16"),
        ("172.31.255.1/32", "172.31.0.0/16"),
        ("172.32.0.1/32", "172.32.0.0/16"),
        ("192.168.77.5/32", "192.168.77.0/24"),
        ("169.254.7.7/32", "169.254.0.0/16"),
    ] {
        lab.local.address("lo", &[source]);
        lab.remote.run(&format!("ip route add {network} via 10.86.43.51"));
    }
    for (source, network) in [("fd12::5/128", "fd12::/16"), ("2001:db8:1::5/128", "2001:db8:1::/48")] {
        lab.local.address("lo", &[source]);
        lab.remote.run(&format!("ip route add {network} via fd86:43::51"));
    }
    let server = server(&lab.remote, &format!("-i tun3 -s --address {FAR}/24 {args}"));
    (lab, server)
}
