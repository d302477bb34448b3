//! Paths that carry less than a cable: what fits is found out, told and followed. The router in the middle says nothing
//! by ICMP, and the wires have no offloads, which would hide sizes.

use std::thread;
use std::time::Duration;

use crate::common::daemon::{Daemon, Mark, server, simpletun};
use crate::common::lab::{Lab, Ns, REMOTE, REMOTE6, wire};
use crate::common::net::transfer;
use crate::common::secure::Protection;
use crate::common::wait::{DEADLINE, wait_until};
use crate::common::{line, stat};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";
const NEAR6: &str = "fd66::1";
const FAR6: &str = "fd66::2";

/// The log's word about what the path carries.
const PATH_MTU: &str = "path mtu ";

/// What the path carries while it is narrow, and how exactly that is found.
const NARROW: usize = 1400;
const RESOLUTION: usize = 8;

/// What the wire takes beyond its MTU in the direction in which nobody routes: room for a VLAN tag.
const TAG_LEN: usize = 4;

/// A search takes a few round trips, each lost one 300 ms; the rest is for a busy machine.
const FOUND: Duration = Duration::from_secs(20);

/// The address outside, and the kind of device.
type Mode = (&'static str, &'static str);
const V4_TUN: Mode = (REMOTE, "");
const V4_TAP: Mode = (REMOTE, "-a");
const V6_TUN: Mode = (REMOTE6, "");
const V6_TAP: Mode = (REMOTE6, "-a");

rows! {
    (v4_tun: super::V4_TUN, v4_tap: super::V4_TAP, v6_tun: super::V6_TUN, v6_tap: super::V6_TAP) {
        a_large_transfer_gets_through_a_black_hole
        a_transfer_outlasts_a_path_that_shrinks
    }
}

/// Two ends with a router between them that sends no errors.
struct Road {
    near: Ns,
    middle: Ns,
    far: Ns,
}

impl Road {
    fn new() -> Self {
        let [near, middle, far] = ["near", "middle", "far"].map(Ns::new);
        wire((&near, "eth0"), (&middle, "lan"));
        wire((&middle, "wan"), (&far, "eth0"));
        near.address("eth0", &["10.1.0.10/24", "fd01::10/64"]);
        middle.address("lan", &["10.1.0.1/24", "fd01::1/64"]);
        middle.address("wan", &["10.86.43.1/24", "fd86:43::1/64"]);
        far.address("eth0", &["10.86.43.52/24", "fd86:43::52/64"]);
        near.run("ip route add default via 10.1.0.1");
        near.run("ip route add default via fd01::1");
        far.run("ip route add default via 10.86.43.1");
        far.run("ip route add default via fd86:43::1");
        middle.forward();
        middle.run("nft add table inet mute");
        middle.run("nft add chain inet mute out { type filter hook output priority 0 ; }");
        middle.run("nft add rule inet mute out icmp type destination-unreachable counter drop comment \"muted\"");
        middle.run("nft add rule inet mute out icmpv6 type packet-too-big counter drop comment \"muted6\"");
        Self { near, middle, far }
    }

    /// The wire behind the router carries packets of this length from here on. What is longer gets lost in either
    /// direction, in one of them after an attempt to tell.
    fn carries(&self, mtu: usize) {
        self.middle.run(&format!("ip link set wan mtu {mtu}"));
    }

    /// Both ends of a link to the far end's address, up.
    #[track_caller]
    fn link(&self, outside: &str, options: &str) -> [Daemon; 2] {
        let ends = Protection::Secret.ends();
        let inside = |v4: &str, v6: &str| format!("--address {v4}/24 --address {v6}/64");
        let (near, far) = (inside(NEAR, NEAR6), inside(FAR, FAR6));
        let server = server(&self.far, &format!("-i t2 -s --udp {options} {} {far}", ends.server));
        let client = simpletun(&self.near, &format!("-i t1 -c {outside} --udp {options} {} {near}", ends.client));
        client.wait_for(line::UP);
        server.wait_for(line::UP);
        [client, server]
    }
}

/// What a daemon says that the path carries, once it is about `expected`.
#[track_caller]
fn assert_found(daemon: &Daemon, mark: Mark, expected: usize) {
    let found = daemon.wait_after_for(mark, PATH_MTU, FOUND);
    let number = found.split(PATH_MTU).nth(1).and_then(|rest| rest.split(' ').next());
    let number: usize = number.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no number: {found}"));
    assert!(is_near(number, expected), "not about {expected}: {found}");
    assert!(found.contains("(probed)"), "{found}");
}

fn is_near(number: usize, expected: usize) -> bool {
    (expected - RESOLUTION..=expected + TAG_LEN).contains(&number)
}

/// The MTU of a device.
#[track_caller]
fn mtu(ns: &Ns, device: &str) -> usize {
    let text = ns.run(&format!("cat /sys/class/net/{device}/mtu"));
    text.trim().parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Large transfers get through a path that is narrower than it seems and says nothing about it.
fn a_large_transfer_gets_through_a_black_hole((outside, kind): Mode) {
    let road = Road::new();
    road.carries(NARROW);
    let ends = road.link(outside, kind);
    for (near, far) in [(NEAR, FAR), (NEAR6, FAR6)] {
        transfer(&road.near, &road.far, far, 1_000_000);
        transfer(&road.far, &road.near, near, 1_000_000);
    }
    ends.iter().for_each(|end| assert_found(end, Mark::START, NARROW));
    let muted = counted(&road.middle, if outside == REMOTE { "muted" } else { "muted6" });
    assert!(muted > 0, "the router has tried to tell");
}

/// A transfer goes on when the path comes to carry less in the middle of it.
fn a_transfer_outlasts_a_path_that_shrinks((outside, kind): Mode) {
    let road = Road::new();
    // Ten seconds of it.
    road.middle.run("tc qdisc add dev wan root tbf rate 16mbit burst 64kb latency 50ms");
    let [client, _server] = road.link(outside, kind);
    let mark = client.mark();
    let transferring = {
        let (near, far) = (road.near.clone(), road.far.clone());
        thread::spawn(move || transfer(&near, &far, FAR, 20_000_000))
    };
    let sent = || client.statistics().get(stat::NETWORK_TX_BYTES);
    wait_until(DEADLINE, "much of the transfer", || sent() > 3_000_000);
    assert!(!client.said_after(mark, PATH_MTU), "nothing is wrong with the path");
    road.carries(NARROW);
    assert_found(&client, mark, NARROW);
    assert!(!transferring.is_finished(), "the path has shrunk in the middle of it");
    transferring.join().expect("the transfer is complete");
}

/// The MTU of a device that was created follows what the path carries, and one that the administrator has set stays.
#[test]
fn the_mtu_of_a_created_device_follows_the_path_down_and_up_again() {
    let road = Road::new();
    let [client, server] = road.link(REMOTE, "");
    assert_eq!((mtu(&road.near, "t1"), mtu(&road.far, "t2")), (1420, 1420));
    road.carries(NARROW);
    let _traffic = road.near.start(&format!("ping -q -n -i 0.1 -M dont -s 1390 {FAR}"));
    assert_found(&client, Mark::START, NARROW);
    let best = NARROW - 60;
    let follows = |ns: &Ns, device: &str| is_near(mtu(ns, device), best);
    wait_until(FOUND, "the device's MTU to follow", || follows(&road.near, "t1") && follows(&road.far, "t2"));
    assert_found(&server, Mark::START, NARROW);

    road.far.run("ip link set t2 mtu 1300");
    road.carries(1500);
    // As a program does that knows of the change; otherwise it takes half a minute.
    for end in [&client, &server] {
        end.signal("USR1");
    }
    wait_until(FOUND, "the device's MTU to follow", || mtu(&road.near, "t1") == 1420);
    let widened = |end: &Daemon| end.lines().iter().any(|text| text.contains("path mtu 1480 (probed)"));
    wait_until(FOUND, "word of it from both ends", || widened(&client) && widened(&server));
    assert_eq!(mtu(&road.far, "t2"), 1300, "somebody has set it");
}

/// The tunnel goes on by an interface that is made to carry less while it runs.
#[test]
fn an_interface_that_comes_to_carry_less_is_followed() {
    let road = Road::new();
    let [client, _server] = road.link(REMOTE, "");
    transfer(&road.near, &road.far, FAR, 100_000);
    road.near.run("ip link set eth0 mtu 1300");
    transfer(&road.near, &road.far, FAR, 1_000_000);
    let found = client.wait_for(PATH_MTU);
    assert!(found.contains("path mtu 1300 (interface), packets up to 1240"), "{found}");
}

/// Large packets get through a narrow path on a plain link too: the network fragments the datagrams.
#[test]
fn a_plain_link_leaves_it_to_the_network_to_fragment() {
    let road = Road::new();
    road.carries(NARROW);
    road.far.run(&format!("ip link set eth0 mtu {NARROW}"));
    road.far.run("nft add table ip see");
    road.far.run("nft add chain ip see in { type filter hook prerouting priority -450 ; }");
    road.far.run("nft add rule ip see in ip frag-off & 0x3fff != 0 counter comment \"fragments\"");
    road.far.run("nft add rule ip see in ip protocol udp ip frag-off & 0x4000 != 0 counter comment \"unfragmentable\"");
    let server = server(&road.far, &format!("-i t2 -s --udp --address {FAR}/24"));
    let client = simpletun(&road.near, &format!("-i t1 -c {REMOTE} --udp --address {NEAR}/24"));
    client.wait_for(line::DEVICE);
    road.near.wait_for_device("t1");
    assert_eq!(mtu(&road.near, "t1"), 1472);
    road.near.ping(FAR, 3, 1444);
    transfer(&road.near, &road.far, FAR, 1_000_000);
    let (fragments, unfragmentable) = (counted(&road.far, "fragments"), counted(&road.far, "unfragmentable"));
    assert!(fragments > 100 && unfragmentable == 0, "{fragments} fragments, {unfragmentable} with DF");
    assert!(!client.said(PATH_MTU) && !server.said(PATH_MTU), "{}", client.text());
}

/// How many packets the rule with this comment has counted.
#[track_caller]
fn counted(ns: &Ns, comment: &str) -> u64 {
    let rules = ns.run("nft list ruleset");
    let rule = rules.lines().find(|rule| rule.contains(&format!("comment \"{comment}\""))).expect("a rule");
    let number = rule.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    number.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no number: {rule}"))
}

/// On a device whose MTU is not the path's, packets and frames of every length cross, both families, both ways: in parts
/// where they have to.
#[test]
fn what_is_longer_than_the_path_crosses_in_parts() {
    let road = Road::new();
    road.carries(1300);
    for (kind, mtu) in [("", 1500), ("-a", 1500), ("", 9000), ("-a", 9000)] {
        let ends = road.link(REMOTE, &format!("{kind} --mtu {mtu} --mss-clamp off"));
        for end in &ends {
            end.wait_after_for(Mark::START, "(probed)", FOUND);
        }
        let lengths = [1280, 1300, 1500, 4000, 9000].into_iter().filter(|length| *length <= mtu);
        for length in lengths {
            for (ns, v4, v6) in [(&road.near, FAR, FAR6), (&road.far, NEAR, NEAR6)] {
                ns.ping(v4, 3, length - 28);
                ns.ping(v6, 3, length - 48);
            }
        }
        transfer(&road.near, &road.far, FAR6, 1_000_000);
        for end in ends {
            let statistics = end.statistics();
            assert!(statistics.get("split") > 10 && statistics.get("joined") > 10, "{statistics:?}");
            assert_eq!(statistics.get("drop-too-long"), 0, "{statistics:?}");
        }
    }
}

/// With --split off whoever sends a packet that is too large is told what fits, as by a router, on a device whose MTU is
/// not ours to set.
#[test]
fn who_sends_too_large_a_packet_is_told_what_fits() {
    for (number, (kind, fits)) in [("", 1440), ("-a", 1426)].into_iter().enumerate() {
        let lab = Lab::with(&format!("near{number}"), &format!("far{number}"));
        let ends = Protection::Secret.ends();
        let options = |end: &str| format!("--udp {kind} --mtu 1500 --split off {end}");
        let server =
            server(&lab.remote, &format!("-i t2 -s {} --address {FAR}/24 --address {FAR6}/64", options(&ends.server)));
        let client = simpletun(
            &lab.local,
            &format!("-i t1 -c {REMOTE} {} --address {NEAR}/24 --address {NEAR6}/64", options(&ends.client)),
        );
        client.wait_for(line::UP);
        server.wait_for(line::UP);

        // What may be fragmented is, here as anywhere.
        lab.local.run(&format!("ping -n -c 3 -i 0.05 -W 5 -M dont -s 1472 {FAR}"));
        let statistics = client.statistics();
        assert!(statistics.get("fragmented") >= 3, "{statistics:?}");

        for (address, size, told) in
            [(FAR, 1472, format!("(mtu = {fits})")), (FAR6, 1452, format!("Packet too big: mtu={fits}"))]
        {
            let output = lab.local.try_run(&format!("ping -n -c 3 -i 0.2 -W 1 -M do -s {size} {address}"));
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(text.contains(&told), "{told:?}: {text}");
            let headers_len = if address == FAR { 28 } else { 48 };
            lab.local.ping(address, 3, fits - headers_len);
        }
        let statistics = client.statistics();
        assert!(statistics.get("answered-too-long") >= 2, "{statistics:?}");
        assert!(statistics.get("drop-too-long") >= 2, "{statistics:?}");
    }
}

/// Connections through the tunnel announce segments that fit, whatever the device's MTU; only as far as that is wanted.
#[test]
fn connections_inside_announce_segments_that_fit() {
    const CASES: [(&str, &str, [u32; 2]); 7] = [
        ("", "--udp", [1400, 1380]),
        ("-a", "--udp", [1386, 1366]),
        ("", "--udp --mss-clamp off", [1460, 1440]),
        ("-a", "--udp --mss-clamp off", [1460, 1440]),
        ("", "--udp --mss-clamp 1234", [1234, 1234]),
        ("", "--mss-clamp 1234", [1234, 1234]),
        ("", "", [1460, 1440]),
    ];
    for (number, (kind, options, expected)) in CASES.into_iter().enumerate() {
        let lab = Lab::with(&format!("near{number}"), &format!("far{number}"));
        let ends = Protection::Secret.ends();
        // The far end leaves alone what it carries: both directions are the near end's.
        let transport = if options.contains("--udp") { "--udp" } else { "" };
        let server = server(
            &lab.remote,
            &format!(
                "-i t2 -s {kind} {transport} --mss-clamp off --mtu 1500 {} --address {FAR}/24 --address {FAR6}/64",
                ends.server
            ),
        );
        let client = simpletun(
            &lab.local,
            &format!(
                "-i t1 -c {REMOTE} {kind} {options} --mtu 1500 {} --address {NEAR}/24 --address {NEAR6}/64",
                ends.client
            ),
        );
        client.wait_for(line::UP);
        server.wait_for(line::UP);
        for (ns, device) in [(&lab.local, "t1"), (&lab.remote, "t2")] {
            ns.run("nft add table inet see");
            ns.run("nft add chain inet see in { type filter hook input priority 0 ; }");
            for (family, mss) in ["ipv4", "ipv6"].iter().zip(expected) {
                let syn = format!("iifname {device} meta nfproto {family} tcp flags & syn == syn");
                ns.run(&format!(
                    "nft add rule inet see in {syn} tcp option maxseg size {mss} counter comment \"{family}\""
                ));
            }
        }
        for (near, far) in [(NEAR, FAR), (NEAR6, FAR6)] {
            transfer(&lab.local, &lab.remote, far, 10_000);
            transfer(&lab.remote, &lab.local, near, 10_000);
        }
        for ns in [&lab.local, &lab.remote] {
            for family in ["ipv4", "ipv6"] {
                let seen = counted(ns, family);
                // A host that was told what fits announces that the next time.
                let expected = if options.contains("off") { 1 } else { 2 };
                assert!(seen >= expected, "{kind:?} {options:?}: {seen} of {family} in {}", ns.label());
            }
        }
    }
}

/// A device that is created has the MTU that fits a usual path, whatever the mode.
#[test]
fn a_created_device_has_the_mtu_that_fits() {
    let lab = Lab::new();
    let ends = Protection::Secret.ends();
    let address = format!("--address {NEAR}/24");
    for (kind, transport, protection, outside, expected) in [
        ("", "", "", REMOTE, 1500),
        ("", "", "", REMOTE6, 1500),
        ("", "", &*ends.client, REMOTE, 1500),
        ("", "", &*ends.client, REMOTE6, 1500),
        ("-a", "", "", REMOTE, 1500),
        ("-a", "", &*ends.client, REMOTE6, 1500),
        ("", "--udp", "", REMOTE, 1472),
        ("", "--udp", "", REMOTE6, 1452),
        // The ends compare, so that neither needs to know how the other is reached.
        ("", "--udp", &*ends.client, REMOTE, 1420),
        ("", "--udp", &*ends.client, REMOTE6, 1420),
        ("-a", "--udp", "", REMOTE, 1458),
        ("-a", "--udp", "", REMOTE6, 1438),
        ("-a", "--udp", &*ends.client, REMOTE, 1406),
        ("-a", "--udp", &*ends.client, REMOTE6, 1406),
    ] {
        let mut client =
            simpletun(&lab.local, &format!("-i t1 -c {outside} {kind} {transport} {protection} {address}"));
        let what = format!("{kind:?} {transport:?} {protection:?} {outside}: an MTU of {expected}");
        wait_until(DEADLINE, what, || lab.local.has_device("t1") && mtu(&lab.local, "t1") == expected);
        client.terminate();
    }
    // It may become part of a bridge.
    let _client = simpletun(&lab.local, &format!("-i t1 -c {REMOTE} -a --udp --up {}", ends.client));
    lab.local.wait_for_device("t1");
    wait_until(DEADLINE, "the device to be up", || lab.local.run("ip link show dev t1").contains(",UP"));
    assert_eq!(mtu(&lab.local, "t1"), 1500);
}

/// What forged ICMP makes the kernel believe about the path changes nothing: packets stay as long as they were.
#[test]
fn what_the_kernel_is_made_to_believe_does_not_narrow_a_secure_link() {
    let road = Road::new();
    let [client, _server] = road.link(REMOTE, "");
    road.near.ping(FAR, 3, 1392);
    // As after "fragmentation needed" with 600 bytes.
    road.near.run(&format!("ip route replace {REMOTE} via 10.1.0.1 mtu 600"));
    road.near.ping(FAR, 3, 1392);
    transfer(&road.near, &road.far, FAR, 100_000);
    assert!(!client.said(PATH_MTU), "{}", client.text());
    assert_eq!(mtu(&road.near, "t1"), 1420);
}
