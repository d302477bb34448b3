//! What the two ends say about their link is true, in the log and by the carrier of the device, and what happens around
//! them is noticed when it happens: addresses that change, routes that lead in a circle, programs that interfere.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::fs;
use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, Mark, server, simpletun, simpletun_as};
use crate::common::lab::{LOCAL6, Lab, NOBODY, Ns, REMOTE, REMOTE6, wire, with_prefix};
use crate::common::net::Pinging;
use crate::common::secure::{Ends, Protection};
use crate::common::wait::{DEADLINE, holds_for, wait_until};
use crate::common::{line, stat};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";

/// One second is promised; the rest is for a machine that runs other tests beside this one. Timers alone would take
/// longer: a silent peer is given up after ten seconds.
const SOON: Duration = Duration::from_secs(5);

/// A short patience, where the end of the link is waited for.
const IMPATIENT: &str = "--keepalive 1s --down-after 3s";

/// How a link is made: its transport and its protection.
#[derive(Clone, Copy)]
struct Kind(&'static str, Protection);

const PLAIN_TCP: Kind = Kind("", Protection::Plain);
const PLAIN_UDP: Kind = Kind("--udp", Protection::Plain);
const SECURE_TCP: Kind = Kind("", Protection::Secret);
const SECURE_UDP: Kind = Kind("--udp", Protection::KeyPairs);

rows! {
    (plain_tcp: super::PLAIN_TCP, secure_tcp: super::SECURE_TCP, secure_udp: super::SECURE_UDP) {
        a_client_whose_address_changes_goes_on_at_once
        the_carrier_follows_the_peer
        a_server_that_is_back_soon_leaves_the_carrier_alone
        changes_that_have_nothing_to_do_with_the_link_disturb_nothing
        a_peer_that_is_routed_into_its_own_tunnel_is_told_of_and_melts_nothing
    }
}

// What a plain link over UDP can do.
rows! {
    (plain_udp: super::PLAIN_UDP) {
        changes_that_have_nothing_to_do_with_the_link_disturb_nothing
        a_peer_that_is_routed_into_its_own_tunnel_is_told_of_and_melts_nothing
    }
}

rows! {
    (tcp: super::SECURE_TCP, udp: super::SECURE_UDP) {
        a_peer_that_is_routed_into_its_own_tunnel_is_told_of_over_ipv6_too
        a_default_route_that_changes_to_another_gateway_is_followed
        an_interface_that_loses_its_addresses_and_gets_them_again_is_used_again
        routes_fail_over_to_a_second_tunnel_and_back
        a_peer_that_dies_in_silence_is_noticed_in_time
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

/// The gateway dies and the host has another one, by another interface: its old address is there still, and nothing comes
/// to it any more.
fn a_default_route_that_changes_to_another_gateway_is_followed(kind: Kind) {
    const SERVER: &str = "10.99.0.1";
    let lab = Lab::new();
    wire((&lab.local, "eth1"), (&lab.remote, "eth1"));
    lab.local.address("eth1", &["10.86.44.51/24"]);
    lab.remote.address("eth1", &["10.86.44.52/24"]);
    lab.remote.address("lo", &["10.99.0.1/32"]);
    lab.local.run(&format!("ip route add default via {REMOTE}"));
    let link = Link::towards(lab, kind, "", SERVER);
    link.lab.remote.run("ip link set eth0 down");
    link.lab.local.run("ip route replace default via 10.86.44.52");
    let taken = link.lab.local.ping_until_answered(FAR, DEADLINE);
    eprintln!("answered {taken:?} after the new route was there");
    assert!(taken < SOON, "only after {taken:?}");
    let moved = link.server.wait_for(line::MOVED);
    assert!(moved.contains("peer=10.86.44.51:"), "{moved}");
    assert!(!link.client.said(line::DOWN), "{}", link.client.text());
}

/// IPv6 addresses go when an interface is set down: the link waits for them to come back.
fn an_interface_that_loses_its_addresses_and_gets_them_again_is_used_again(kind: Kind) {
    let link = Link::towards(Lab::new(), kind, "", REMOTE6);
    let local = &link.lab.local;
    local.run("ip link set eth0 down");
    wait_until(DEADLINE, "silence", || !local.answers(FAR));
    local.run("ip link set eth0 up");
    local.address("eth0", &[&with_prefix(LOCAL6)]);
    let taken = local.ping_until_answered(FAR, DEADLINE);
    eprintln!("answered {taken:?} after the address was there again");
    assert!(taken < SOON, "only after {taken:?}");
    assert!(!link.client.said(line::DOWN), "{}", link.client.text());
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

/// The host's routes, bonds and bridges see whether the peer is there.
fn the_carrier_follows_the_peer(kind: Kind) {
    let lab = Lab::new();
    let ends = kind.1.ends();
    let server = far_end(&lab, kind, &ends, IMPATIENT);
    wait_for_carrier(&lab.remote, "t2", false);
    let mut client = near_end(&lab, kind, &ends, IMPATIENT);
    client.wait_for(line::UP);
    wait_for_carrier(&lab.local, "t1", true);
    wait_for_carrier(&lab.remote, "t2", true);
    lab.local.ping(FAR, 3, 56);
    client.kill();
    server.wait_for("carrier off");
    wait_for_carrier(&lab.remote, "t2", false);
    let mark = server.mark();
    let mut client = near_end(&lab, kind, &ends, IMPATIENT);
    server.wait_after(mark, "carrier on");
    wait_for_carrier(&lab.remote, "t2", true);
    lab.local.ping_until_answered(FAR, DEADLINE);
    lab.remote.ping(NEAR, 3, 56);
    let statistics = server.state();
    assert!(statistics.starts_with("state=up "), "{statistics}");
    client.terminate();
    wait_for_carrier(&lab.remote, "t2", false);
}

/// A restart of the other end is nothing that routes have to change for.
fn a_server_that_is_back_soon_leaves_the_carrier_alone(kind: Kind) {
    let lab = Lab::new();
    let ends = kind.1.ends();
    let mut server = far_end(&lab, kind, &ends, "");
    let client = near_end(&lab, kind, &ends, "");
    client.wait_for(line::UP);
    wait_for_carrier(&lab.local, "t1", true);
    let before = lab.local.run("cat /sys/class/net/t1/carrier_changes");
    server.kill();
    let _server = far_end(&lab, kind, &ends, "");
    lab.local.ping_until_answered(FAR, DEADLINE);
    assert_eq!(lab.local.run("cat /sys/class/net/t1/carrier_changes"), before, "{}", client.text());
}

/// With plain datagrams somebody has to speak first: a carrier that waited for the other would wait for ever.
#[test]
fn a_plain_datagram_link_is_unknown_until_something_arrives() {
    let lab = Lab::new();
    let ends = PLAIN_UDP.1.ends();
    let client = near_end(&lab, PLAIN_UDP, &ends, "");
    let ready = client.wait_for("tunnel ready");
    assert!(ready.contains("state=unknown") && ready.contains("peer=10.86.43.52:55555"), "{ready}");
    assert!(client.state().starts_with("state=unknown "), "{}", client.text());
    wait_for_carrier(&lab.local, "t1", true);
    let server = far_end(&lab, PLAIN_UDP, &ends, "");
    wait_for_carrier(&lab.remote, "t2", false);
    assert!(!client.said(line::UP), "{}", client.text());
    lab.local.ping_until_answered(FAR, DEADLINE);
    wait_for_carrier(&lab.remote, "t2", true);
    client.wait_for(line::UP);
    assert!(client.state().starts_with("state=up ") && server.state().starts_with("state=up "));
}

/// Two tunnels to the same network: the route by the first is left when its peer dies, and taken again afterwards.
fn routes_fail_over_to_a_second_tunnel_and_back(kind: Kind) {
    const GOAL: &str = "10.50.0.1";
    let lab = Lab::new();
    lab.local.sysctl("net.ipv4.conf.default.ignore_routes_with_linkdown", "1");
    lab.remote.address("lo", &["10.50.0.1/32"]);
    let ends = kind.1.ends();
    let mut first = far_end(&lab, kind, &ends, IMPATIENT);
    let Kind(transport, _) = kind;
    let _second =
        server(&lab.remote, &format!("-i t4 -s -p 4444 {transport} {} --address 192.168.1.2/24", ends.server));
    let _client = near_end(&lab, kind, &ends, IMPATIENT);
    let backup = format!("-i t3 -c {REMOTE}:4444 {transport} {} --address 192.168.1.1/24", ends.client);
    let _backup = simpletun(&lab.local, &backup);
    lab.local.wait_for_device("t1");
    lab.local.wait_for_device("t3");
    lab.local.ping_until_answered(FAR, DEADLINE);
    lab.local.ping_until_answered("192.168.1.2", DEADLINE);
    lab.local.run(&format!("ip route add {GOAL} dev t1 metric 10"));
    lab.local.run(&format!("ip route add {GOAL} dev t3 metric 20"));
    let goes_by = |device: &str| {
        let what = format!("route by {device}");
        wait_until(DEADLINE, what, || lab.local.run(&format!("ip route get {GOAL}")).contains(device));
        lab.local.ping_until_answered(GOAL, DEADLINE);
    };
    goes_by("dev t1");
    first.kill();
    goes_by("dev t3");
    let _first = far_end(&lab, kind, &ends, IMPATIENT);
    goes_by("dev t1");
}

/// A device that was made by somebody else gets a carrier that follows the peer if that is asked for, and loses it then.
#[test]
fn a_port_of_a_bridge_is_disabled_while_the_peer_is_away() {
    let lab = Lab::new();
    lab.local.run("ip link add br0 type bridge");
    lab.local.run("ip tuntap add dev t1 mode tap");
    lab.local.run("ip link set t1 master br0 up");
    lab.local.run("ip link set br0 up");
    lab.local.address("br0", &[&with_prefix(NEAR)]);
    let port = |state: &str| {
        let what = format!("port in state {state}");
        let read = || lab.local.run("cat /sys/class/net/t1/brport/state").trim().to_owned();
        wait_until(DEADLINE, what, || read() == state);
    };
    let client = simpletun(&lab.local, &format!("-i t1 -a -c {REMOTE} --carrier on {IMPATIENT}"));
    client.wait_for("carrier off");
    port("0");
    let mut server = server(&lab.remote, &format!("-i t2 -a -s --address {FAR}/24"));
    port("3");
    lab.local.ping_until_answered(FAR, DEADLINE);
    server.terminate();
    port("0");
}

/// Whoever owns a device may say what its carrier is, without any right beside that.
#[test]
fn the_owner_of_a_device_needs_no_privilege_for_its_carrier() {
    let lab = Lab::new();
    lab.local.run(&format!("ip tuntap add dev t1 mode tun user {NOBODY}"));
    lab.local.run("ip link set t1 up");
    lab.local.address("t1", &[&with_prefix(NEAR)]);
    let client = simpletun_as(NOBODY, &lab.local, &format!("-i t1 -c {REMOTE} --carrier on"));
    client.wait_for("carrier off");
    wait_for_carrier(&lab.local, "t1", false);
    let _server = server(&lab.remote, &format!("-i t2 -s --address {FAR}/24"));
    wait_for_carrier(&lab.local, "t1", true);
    lab.local.ping_until_answered(FAR, DEADLINE);
}

/// The option can be taken back without a restart.
#[test]
fn a_carrier_that_is_no_longer_to_follow_is_on() {
    let lab = Lab::new();
    let write = |carrier: &str| {
        let text = format!(
            "interface = \"t1\"\nconnect = \"{REMOTE}\"\nup = true\nsecurity = \"plain\"\ncarrier = \"{carrier}\"\n"
        );
        fs::write("/run/tunnel.toml", text).expect("write the file");
    };
    write("auto");
    let client = simpletun(&lab.local, "--config /run/tunnel.toml");
    client.wait_for("carrier off");
    wait_for_carrier(&lab.local, "t1", false);
    write("off");
    client.signal("HUP");
    wait_for_carrier(&lab.local, "t1", true);
    write("on");
    client.signal("HUP");
    wait_for_carrier(&lab.local, "t1", false);
}

/// Packets vanish in both directions and nobody says so: within ten seconds both ends know.
fn a_peer_that_dies_in_silence_is_noticed_in_time(kind: Kind) {
    let link = Link::new(kind, "");
    let remote = &link.lab.remote;
    remote.run("nft add table inet hole");
    for hook in ["input", "output"] {
        remote.run(&format!("nft add chain inet hole {hook} {{ type filter hook {hook} priority 0 ; }}"));
        remote.run(&format!("nft add rule inet hole {hook} iifname eth0 drop"));
        remote.run(&format!("nft add rule inet hole {hook} oifname eth0 drop"));
    }
    let start = Instant::now();
    for end in [&link.client, &link.server] {
        end.wait_after_for(Mark::START, line::DOWN, Duration::from_secs(30));
    }
    eprintln!("both ends know after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(14), "only after {:?}", start.elapsed());
    wait_for_carrier(&link.lab.local, "t1", false);
    remote.run("nft delete table inet hole");
    link.lab.local.ping_until_answered(FAR, DEADLINE);
}

/// A default route into the tunnel that catches the peer too: the log says what to do, no core melts, and the tunnel
/// works again once the route is mended.
fn a_peer_that_is_routed_into_its_own_tunnel_is_told_of_and_melts_nothing(kind: Kind) {
    goes_round(&Link::new(kind, ""), &format!("{REMOTE}/32"));
}

/// The same with IPv6 outside.
fn a_peer_that_is_routed_into_its_own_tunnel_is_told_of_over_ipv6_too(kind: Kind) {
    let link = Link::towards(Lab::new(), kind, "", REMOTE6);
    goes_round(&link, &format!("{REMOTE6}/128"));
}

fn goes_round(link: &Link, peer: &str) {
    let local = &link.lab.local;
    local.run(&format!("ip route add {peer} dev t1"));
    link.client.wait_for("is routed into the tunnel itself");
    let packets = || local.run("cat /sys/class/net/t1/statistics/tx_packets").trim().parse::<u64>().expect("a number");
    let (before, cpu) = (packets(), link.client.usage().cpu);
    // There is no answer, which is the point.
    local.try_run(&format!("ping -q -i 0.002 -s 1000 -w 3 {FAR}"));
    let (packets, cpu) = (packets() - before, link.client.usage().cpu - cpu);
    eprintln!("{packets} packets, {cpu:?} of processor time");
    assert!(packets < 6000, "{packets} packets of 1500 pings");
    assert!(cpu < Duration::from_millis(1500), "{cpu:?} in three seconds");
    assert!(link.client.statistics().get(stat::DROP_ROUTING_LOOP) > 0);
    assert_eq!(link.client.count("is routed into the tunnel itself"), 1, "{}", link.client.text());
    local.run(&format!("ip route del {peer} dev t1"));
    local.ping_until_answered(FAR, DEADLINE);
}

/// A network manager that believes the device to be its own takes the addresses away: they come back, and the log names
/// the cure. A manager that insists is let be.
#[test]
fn what_another_program_takes_from_the_device_is_put_back_a_few_times() {
    let link = Link::new(SECURE_UDP, "--mtu 1400 --route 10.77.0.0/24");
    let local = &link.lab.local;
    let has =
        |what: &str| local.run("ip addr show dev t1").contains(what) && local.run("ip route").contains("10.77.0.0");
    local.run("ip addr flush dev t1");
    let told = link.client.wait_for("put back: tell it to leave the device alone");
    assert!(told.contains("address 192.168.0.1/24") && told.contains("Unmanaged=yes"), "{told}");
    wait_until(DEADLINE, "address", || has("192.168.0.1/24"));
    local.ping_until_answered(FAR, DEADLINE);
    local.run("ip link set t1 mtu 1300");
    wait_until(DEADLINE, "MTU", || has("mtu 1400"));
    for _ in 0..3 {
        local.run("ip route del 10.77.0.0/24");
        wait_until(DEADLINE, "route", || has("mtu 1400"));
    }
    local.run("ip route del 10.77.0.0/24");
    link.client.wait_for("it is left so for a while");
    assert!(!has("mtu 1400"));
}

/// An administrator sets the device down, and it stays down; up again it is as it was configured.
#[test]
fn a_device_that_is_set_down_and_up_again_is_as_it_was() {
    let link = Link::new(SECURE_TCP, "--address fd00::1/64 --route 10.77.0.0/24 --route fd77::/64");
    let local = &link.lab.local;
    local.run("ip link set t1 down");
    link.client.wait_for("was set down");
    let is_down = || !local.run("ip -br link show dev t1").contains("<POINTOPOINT,MULTICAST,NOARP,UP");
    holds_for(Duration::from_secs(1), "it stays down", is_down);
    local.run("ip link set t1 up");
    let back = || {
        let (routes, routes6) = (local.run("ip route"), local.run("ip -6 route"));
        local.run("ip addr show dev t1").contains("fd00::1/64")
            && routes.contains("10.77.0.0/24")
            && routes6.contains("fd77::/64")
    };
    wait_until(DEADLINE, "IPv6 address and the routes", back);
    local.ping_until_answered(FAR, DEADLINE);
    assert!(!link.client.said("leave the device alone"), "nobody is to blame: {}", link.client.text());
}

fn wait_for_carrier(ns: &Ns, device: &str, on: bool) {
    let wanted = if on { "1" } else { "0" };
    let what = format!("carrier {wanted} of {device} in {}", ns.label());
    wait_until(DEADLINE, what, || ns.run(&format!("cat /sys/class/net/{device}/carrier")).trim() == wanted);
}

#[track_caller]
fn far_end(lab: &Lab, Kind(transport, _): Kind, ends: &Ends, options: &str) -> Daemon {
    server(&lab.remote, &format!("-i t2 -s {transport} {} {options} --address {FAR}/24", ends.server))
}

#[track_caller]
fn near_end(lab: &Lab, kind: Kind, ends: &Ends, options: &str) -> Daemon {
    near_end_of(lab, kind, ends, options, REMOTE)
}

#[track_caller]
fn near_end_of(lab: &Lab, Kind(transport, _): Kind, ends: &Ends, options: &str, peer: &str) -> Daemon {
    simpletun(&lab.local, &format!("-i t1 -c {peer} {transport} {} {options} --address {NEAR}/24", ends.client))
}

/// More changes than the kernel keeps for anybody: they cost little, and what comes after them is noticed.
#[test]
fn a_storm_of_changes_is_survived() {
    let link = Link::new(SECURE_TCP, "");
    let local = &link.lab.local;
    let numbers = || (0..20).flat_map(|high| (1..250).map(move |low| (high, low)));
    let lines =
        |verb: &str| numbers().map(|(a, b)| format!("addr {verb} 10.9.{a}.{b}/32 dev lo\n")).collect::<String>();
    fs::write("/run/storm", lines("add") + &lines("del")).expect("write the batch");
    let cpu = link.client.usage().cpu;
    local.run("ip -batch /run/storm");
    let cpu = link.client.usage().cpu - cpu;
    eprintln!("10,000 changes cost {cpu:?}");
    assert!(cpu < Duration::from_secs(2), "{cpu:?}");
    local.ping(FAR, 3, 56);
    assert!(!link.client.said(line::INTERRUPTED), "{}", link.client.text());
    local.run("ip addr del 10.86.43.51/24 dev eth0");
    link.client.wait_for("reason=address-lost");
    local.address("eth0", &["10.86.43.61/24"]);
    local.ping_until_answered(FAR, DEADLINE);
}

/// A tunnel with traffic: `t1` here, `t2` there. The options are the client's.
struct Link {
    lab: Lab,
    client: Daemon,
    server: Daemon,
}

impl Link {
    #[track_caller]
    fn new(kind: Kind, options: &str) -> Self {
        Self::towards(Lab::new(), kind, options, REMOTE)
    }

    #[track_caller]
    fn towards(lab: Lab, kind: Kind, options: &str, peer: &str) -> Self {
        let ends = kind.1.ends();
        let server = far_end(&lab, kind, &ends, "");
        let client = near_end_of(&lab, kind, &ends, options, peer);
        lab.local.wait_for_device("t1");
        lab.local.ping_until_answered(FAR, DEADLINE);
        server.wait_for(line::UP);
        client.wait_for(line::UP);
        Self { lab, client, server }
    }
}
