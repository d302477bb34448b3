//! What goes away and comes back: peers, servers, names, networks, settings. Traffic must flow again within two seconds
//! of the cause going away; the tests measure it and allow for a busy machine.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::fs;
use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, Mark, server, simpletun};
use crate::common::lab::{Lab, Ns, with_prefix};
use crate::common::names::Hosts;
use crate::common::wait::{DEADLINE, holds_for, wait_until};
use crate::common::{line, stat};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";

/// Two seconds are promised; the rest is for a machine that runs other tests beside this one.
const SOON: Duration = Duration::from_secs(5);

over_both! {
    a_server_killed_and_started_again_is_found
    a_server_ended_and_started_again_is_found
    a_client_killed_and_started_again_is_served
    a_server_a_minute_late_is_found
    a_network_that_comes_after_the_client_is_used
    a_name_that_resolves_later_is_found
    an_outage_of_the_network_is_survived
    usr1_reconnects_and_keeps_the_device
    hup_reads_the_file_again
    a_broken_file_on_hup_changes_nothing
    usr2_logs_statistics
    term_leaves_nothing_behind
    int_leaves_nothing_behind
    a_second_term_ends_at_once
    pipe_is_ignored
}

fn a_server_killed_and_started_again_is_found(transport: &str) {
    let (lab, mut server, client) = link(transport);
    server.kill();
    if transport.is_empty() {
        client.wait_for(line::DOWN);
    }
    let server = far_end(&lab, transport);
    flows_soon(&lab);
    server.wait_for(line::UP);
}

fn a_server_ended_and_started_again_is_found(transport: &str) {
    let (lab, mut server, client) = link(transport);
    server.terminate();
    if transport.is_empty() {
        let down = client.wait_for(line::DOWN);
        assert!(down.contains("reason=") && down.contains("retry="), "a client says when it tries again: {down}");
    }
    let _server = far_end(&lab, transport);
    flows_soon(&lab);
}

fn a_client_killed_and_started_again_is_served(transport: &str) {
    let (lab, server, mut client) = link(transport);
    client.kill();
    if transport.is_empty() {
        let down = server.wait_for(line::DOWN);
        assert!(!down.contains("retry="), "a server has nothing to try again: {down}");
    }
    let _client = near_end(&lab, transport);
    flows_soon(&lab);
}

fn a_server_a_minute_late_is_found(transport: &str) {
    let lab = Lab::new();
    let mut client = near_end(&lab, transport);
    client.wait_for(line::DEVICE);
    let _traffic = lab.local.start("ping -q -i 0.2 192.168.0.2");
    holds_for(Duration::from_secs(60), "the client goes on trying", || client.is_running());
    assert!(client.usage().cpu < Duration::from_secs(3), "waiting is not work: {:?}", client.usage());
    let _server = far_end(&lab, transport);
    flows_soon(&lab);
}

fn a_network_that_comes_after_the_client_is_used(transport: &str) {
    let lab = Lab::new();
    lab.local.run("ip addr flush dev eth0");
    lab.local.run("ip link set eth0 down");
    let _server = far_end(&lab, transport);
    let mut client = near_end(&lab, transport);
    client.wait_for(line::DEVICE);
    holds_for(Duration::from_secs(3), "the client goes on trying", || client.is_running());
    lab.local.run("ip link set eth0 up");
    lab.local.address("eth0", &["10.86.43.51/24"]);
    flows_soon(&lab);
}

fn a_name_that_resolves_later_is_found(transport: &str) {
    let lab = Lab::new();
    let hosts = Hosts::mount();
    let _server = far_end(&lab, transport);
    let mut client = client_of(&lab, "server.example", transport);
    client.wait_for(line::DEVICE);
    holds_for(Duration::from_secs(3), "the client goes on trying", || client.is_running());
    hosts.set("10.86.43.52 server.example\n");
    flows_soon(&lab);
}

#[test]
fn every_address_of_a_name_is_tried_over_tcp() {
    let lab = Lab::new();
    let hosts = Hosts::mount();
    // The resolver puts the address nearest to our own first; nobody has that one, and the next refuses.
    lab.remote.address("eth0", &[&with_prefix("10.86.43.53")]);
    hosts.set("10.86.43.50 server.example\n10.86.43.53 server.example\n10.86.43.52 server.example\n");
    let _server = far_end(&lab, "--bind 10.86.43.52");
    let _client = client_of(&lab, "server.example", "");
    lab.local.ping_until_answered(FAR, Duration::from_secs(30));
}

#[test]
fn usr1_looks_the_name_up_again_over_udp() {
    let (lab, hosts, mut old, client) = named_server("--udp");
    old.kill();
    hosts.set("10.86.43.53 server.example\n");
    let _new = far_end(&lab, "--udp --bind 10.86.43.53");
    client.signal("USR1");
    flows_soon(&lab);
}

fn an_outage_of_the_network_is_survived(transport: &str) {
    let (lab, _server, mut client) = link(transport);
    lab.remote.run("ip link set eth0 down");
    wait_until(DEADLINE, "silence", || !lab.local.answers(FAR));
    holds_for(Duration::from_secs(2), "the client runs on", || client.is_running());
    lab.remote.run("ip link set eth0 up");
    flows_soon(&lab);
}

/// Neither end is told that the other cannot be reached any more: keepalive and user timeout find out.
#[test]
fn a_black_hole_is_noticed_by_both_ends_over_tcp() {
    let (lab, server, client) = link("");
    lab.remote.run("nft add table inet hole");
    lab.remote.run("nft add chain inet hole input { type filter hook input priority 0 ; policy drop ; }");
    let patience = Duration::from_secs(40);
    for end in [&client, &server] {
        end.wait_after_for(Mark::START, line::DOWN, patience);
    }
    lab.remote.run("nft delete table inet hole");
    flows_soon(&lab);
}

fn usr1_reconnects_and_keeps_the_device(transport: &str) {
    let (lab, _server, client) = link(transport);
    let index = device_index(&lab.local, "t1");
    let mark = client.mark();
    client.signal("USR1");
    client.wait_after(mark, line::DOWN);
    flows_soon(&lab);
    client.wait_after(mark, line::UP);
    assert_eq!(device_index(&lab.local, "t1"), index, "the device is the same");
}

fn hup_reads_the_file_again(transport: &str) {
    let lab = Lab::new();
    let file = ClientFile::new(transport, 4000);
    let _first = server(&lab.remote, &format!("-i t2 -s -p 4000 {transport} --address {FAR}/24"));
    let client = simpletun(&lab.local, &format!("--config {}", ClientFile::PATH));
    client.wait_for(line::DEVICE);
    flows_soon(&lab);
    assert!(client.wait_for(line::UP).contains("peer=10.86.43.52:4000"));

    let second = server(&lab.remote, &format!("-i t4 -s -p 4001 {transport} --address 192.168.0.4/24"));
    file.write(transport, 4001);
    let mark = client.mark();
    client.signal("HUP");
    // The second server's device shares its network with the first one's; what matters is who is talked to.
    lab.remote.run("ip link set t2 down");
    lab.local.ping_until_answered("192.168.0.4", DEADLINE);
    second.wait_for(line::UP);
    assert!(client.wait_after(mark, line::UP).contains("peer=10.86.43.52:4001"));
    client.wait_after(mark, line::DOWN);
}

fn a_broken_file_on_hup_changes_nothing(transport: &str) {
    let lab = Lab::new();
    let _file = ClientFile::new(transport, 4000);
    let _server = server(&lab.remote, &format!("-i t2 -s -p 4000 {transport} --address {FAR}/24"));
    let mut client = simpletun(&lab.local, &format!("--config {}", ClientFile::PATH));
    client.wait_for(line::DEVICE);
    flows_soon(&lab);
    for broken in ["interface = \n", "interface = \"t1\"\nconnect = \"10.86.43.52\"\n", ""] {
        fs::write(ClientFile::PATH, broken).expect("write the file");
        let mark = client.mark();
        client.signal("HUP");
        client.wait_after(mark, ClientFile::PATH);
        flows_soon(&lab);
        assert!(client.is_running());
    }
}

fn usr2_logs_statistics(transport: &str) {
    let (lab, server, client) = link(transport);
    lab.local.ping(FAR, 10, 56);
    for (end, keys) in [
        (
            &client,
            [stat::DEVICE_RX_PACKETS, stat::DEVICE_TX_PACKETS, stat::NETWORK_RX_PACKETS, stat::NETWORK_TX_PACKETS],
        ),
        (
            &server,
            [stat::DEVICE_RX_PACKETS, stat::DEVICE_TX_PACKETS, stat::NETWORK_RX_PACKETS, stat::NETWORK_TX_PACKETS],
        ),
    ] {
        let statistics = end.statistics();
        for key in keys {
            assert!(statistics.get(key) >= 10, "{key}: {statistics:?}");
        }
        assert_eq!(statistics.get(stat::DROP_INVALID), 0, "{statistics:?}");
    }
}

fn term_leaves_nothing_behind(transport: &str) {
    ends_cleanly(transport, "TERM");
}

fn int_leaves_nothing_behind(transport: &str) {
    ends_cleanly(transport, "INT");
}

fn a_second_term_ends_at_once(transport: &str) {
    let (_lab, mut server, mut client) = link(transport);
    for end in [&mut client, &mut server] {
        // The first may have ended it before the second is sent.
        for _ in 0..2 {
            if end.is_running() {
                end.signal("TERM");
            }
        }
        let start = Instant::now();
        end.wait_exit();
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

fn pipe_is_ignored(transport: &str) {
    let (lab, mut server, mut client) = link(transport);
    for end in [&mut client, &mut server] {
        end.signal("PIPE");
    }
    lab.local.ping(FAR, 3, 56);
    assert!(client.is_running() && server.is_running());
}

#[test]
fn once_ends_the_server_when_its_peer_leaves() {
    let lab = Lab::new();
    let mut server = far_end(&lab, "--once");
    let mut client = near_end(&lab, "");
    flows_soon(&lab);
    client.terminate();
    server.wait_exit();
}

/// A reconnection that was asked for is not the peer leaving.
#[test]
fn once_goes_on_when_a_signal_reconnects() {
    let lab = Lab::new();
    let server = far_end(&lab, "--once");
    let mut client = near_end(&lab, "");
    flows_soon(&lab);
    server.signal("USR1");
    client.wait_for(line::DOWN);
    flows_soon(&lab);
    client.terminate();
}

/// Neither end can speak before it knows the other's address, and neither address is known at the start.
#[test]
fn two_servers_find_each_other_once_their_names_resolve() {
    let lab = Lab::new();
    let hosts = Hosts::mount();
    let _far = far_end(&lab, "--udp --remote near.example");
    let near = server(&lab.local, &format!("-i t1 -s --udp --remote far.example --address {NEAR}/24"));
    near.wait_for("Cannot look up the host of --remote");
    hosts.set("10.86.43.51 near.example\n10.86.43.52 far.example\n");
    flows_soon(&lab);
}

#[test]
fn once_ends_the_client_when_its_peer_leaves() {
    let lab = Lab::new();
    let mut server = far_end(&lab, "");
    let mut client = near_end(&lab, "--once");
    flows_soon(&lab);
    server.terminate();
    client.wait_exit();
}

fn ends_cleanly(transport: &str, signal: &str) {
    let (lab, mut server, mut client) = link(transport);
    for (ns, end, device) in [(&lab.local, &mut client, "t1"), (&lab.remote, &mut server, "t2")] {
        end.signal(signal);
        assert_eq!(end.wait_exit(), 0, "SIG{signal} is a clean end");
        assert!(!ns.has_device(device), "the device is gone");
        assert_eq!(ns.run("ip route show 192.168.0.0/24"), "");
    }
    assert_eq!(lab.remote.run("ss -Hltun sport = :55555"), "", "nobody listens any more");
}

/// A tunnel with traffic: `t1` here, `t2` there.
fn link(transport: &str) -> (Lab, Daemon, Daemon) {
    let lab = Lab::new();
    let server = far_end(&lab, transport);
    let client = near_end(&lab, transport);
    client.wait_for(line::DEVICE);
    lab.local.ping_until_answered(FAR, DEADLINE);
    server.wait_for(line::UP);
    client.wait_for(line::UP);
    (lab, server, client)
}

fn far_end(lab: &Lab, args: &str) -> Daemon {
    server(&lab.remote, &format!("-i t2 -s {args} --address {FAR}/24"))
}

fn near_end(lab: &Lab, args: &str) -> Daemon {
    client_of(lab, "10.86.43.52", args)
}

fn client_of(lab: &Lab, server: &str, args: &str) -> Daemon {
    simpletun(&lab.local, &format!("-i t1 -c {server} {args} --address {NEAR}/24"))
}

/// A server known by name, at 10.86.43.52, and a second address where it may move.
fn named_server(transport: &str) -> (Lab, Hosts, Daemon, Daemon) {
    let lab = Lab::new();
    let hosts = Hosts::mount();
    lab.remote.address("eth0", &[&with_prefix("10.86.43.53")]);
    hosts.set("10.86.43.52 server.example\n");
    let server = far_end(&lab, &format!("{transport} --bind 10.86.43.52"));
    let client = client_of(&lab, "server.example", transport);
    lab.local.ping_until_answered(FAR, DEADLINE);
    (lab, hosts, server, client)
}

#[track_caller]
fn flows_soon(lab: &Lab) {
    let taken = lab.local.ping_until_answered(FAR, DEADLINE);
    assert!(taken <= SOON, "traffic flows again, but only after {taken:?}");
    lab.remote.ping(NEAR, 1, 56);
}

fn device_index(ns: &Ns, device: &str) -> String {
    ns.run(&format!("cat /sys/class/net/{device}/ifindex"))
}

/// The client's settings in a file.
struct ClientFile;

impl ClientFile {
    const PATH: &str = "/run/tunnel.toml";

    fn new(transport: &str, port: u16) -> Self {
        Self.write(transport, port);
        Self
    }

    fn write(&self, transport: &str, port: u16) {
        let udp = !transport.is_empty();
        let text = format!(
            "interface = \"t1\"\nconnect = \"10.86.43.52:{port}\"\nudp = {udp}\naddress = [\"{NEAR}/24\"]\nsecurity = \"plain\"\n"
        );
        fs::write(Self::PATH, text).expect("write the file");
    }
}
