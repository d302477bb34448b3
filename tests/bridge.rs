//! A tap that becomes a port of a bridge by itself, one that is there or one that it makes of a device of the LAN, and
//! leaves everything as it was.

use std::process::{Child, Command, Stdio};

use crate::common::daemon::{Daemon, refused, server, simpletun};
use crate::common::lab::{Lab, Ns, REMOTE, wire};
use crate::common::line;
use crate::common::secure::new_secret;
use crate::common::traffic::{Responder, Stream};
use crate::common::wait::{DEADLINE, succeed, wait_until};

const SECRET: &str = "/run/bridge.secret";

/// Hosts of two LANs are on one segment: `--bridge` on a gateway is all there is to do, or `--bridge-create` where there
/// is no bridge, and nothing is said about the MTU, though a full frame is longer than what the path carries.
#[test]
fn two_lans_become_one_segment() {
    let lab = Lab::with_test_inside();
    let hosts = ["london-host", "berlin-host"].map(Ns::new);
    for (gateway, host, address) in
        [(&lab.local, &hosts[0], "192.168.1.10/24"), (&lab.remote, &hosts[1], "192.168.1.20/24")]
    {
        wire((gateway, "lan"), (host, "eth0"));
        host.address("eth0", &[address]);
    }
    bridge(&lab.local, "");
    lab.local.run("ip link set lan master br0");
    new_secret(SECRET);
    let flags = format!("-i t1 -a --udp --secret-file {SECRET} --bridge br0");
    let _server = server(&lab.remote, &format!("-s {flags} --bridge-create lan"));
    let client = simpletun(&lab.local, &format!("-c {REMOTE} {flags}"));
    client.wait_for(line::UP);
    hosts[0].ping_until_answered("192.168.1.20", DEADLINE);
    hosts[0].run("ping -n -c 3 -W 5 -M do -s 1472 192.168.1.20");
    hosts[1].run("ping -n -c 3 -W 5 -M do -s 1472 192.168.1.10");
}

/// A bridge of long frames stays one: a port with a smaller MTU would make the bridge's smaller for all.
#[test]
fn a_port_has_the_mtu_of_its_bridge() {
    let lab = Lab::new();
    bridge(&lab.remote, "");
    lab.remote.run("ip link add lan mtu 9000 type veth peer name host");
    lab.remote.run("ip link set lan master br0 up");
    let mut daemon = listening(&lab.remote, "--bridge br0");
    assert_eq!(port(&lab.remote), ("br0".to_owned(), 9000));
    assert!(link(&lab.remote, "br0").contains(r#""mtu":9000"#));
    daemon.terminate();

    // One that was asked for is the administrator's own decision.
    let _daemon = listening(&lab.remote, "--bridge br0 --mtu 1400");
    assert_eq!(port(&lab.remote), ("br0".to_owned(), 1400));
}

/// A device that was there before is where and as it was before, however the daemon has ended.
#[test]
fn a_device_of_somebody_else_leaves_the_bridge_at_the_end() {
    let lab = Lab::new();
    bridge(&lab.remote, "mtu 1600");
    lab.remote.run("ip link add br1 type bridge");
    lab.remote.run("ip tuntap add dev t0 mode tap");
    for (former, ends_by) in [("", "TERM"), ("br1", "TERM"), ("", "KILL"), ("br1", "KILL")] {
        if !former.is_empty() {
            lab.remote.run(&format!("ip link set t0 master {former}"));
        }
        let mut daemon = listening(&lab.remote, "--bridge br0");
        assert_eq!(port(&lab.remote), ("br0".to_owned(), 1600));
        daemon.signal(ends_by);
        daemon.wait_status();
        let what = format!("device as it was, in bridge {former:?} after {ends_by}");
        wait_until(DEADLINE, what, || port(&lab.remote) == (former.to_owned(), 1500));
        lab.remote.run("ip link set t0 nomaster");
    }
}

/// A tap that is created has the same MAC address at every start, so that no neighbour and no bridge has to learn a new
/// one; the other end has another one, and so has every other machine.
#[test]
fn a_tap_has_the_same_mac_address_at_every_start() {
    let lab = Lab::new();
    let here = Ns::here();
    here.run("cp -a /etc /run/etc");
    here.run("mount --bind /run/etc /etc");
    let start = |machine: &str, flags: &str| {
        std::fs::write("/etc/machine-id", format!("{machine}\n")).expect("write the machine's identity");
        let mut daemon = simpletun(&lab.remote, &format!("-i t0 -a {flags}"));
        daemon.wait_for("Successfully connected to interface");
        lab.remote.wait_for_device("t0");
        wait_until(DEADLINE, "configured device", || daemon.said("plain, neither encrypted"));
        let mac = mac(&lab.remote, "t0");
        daemon.terminate();
        mac
    };
    let machine = "d4f8a7a0c5c54d3a8a1f5a3f0c0d7e11";
    let first = start(machine, "-d -s");
    assert!(first.starts_with("fe:"), "larger than those of network cards: {first}");
    assert_eq!(start(machine, "-d -s"), first);
    assert_ne!(start(machine, "-d -c 10.86.43.51"), first);
    assert_ne!(start("d4f8a7a0c5c54d3a8a1f5a3f0c0d7e12", "-d -s"), first);
    assert_eq!(start(machine, "-d -s --mac 02:00:00:00:00:07"), "02:00:00:00:00:07");
}

/// A reload takes it from one bridge to another, and out of it.
#[test]
fn a_reload_moves_the_port() {
    let lab = Lab::new();
    bridge(&lab.remote, "");
    lab.remote.run("ip link add br1 type bridge");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lan.toml");
    let text = |bridge: &str| format!("security = 'plain'\ninterface = 't0'\ntap = true\nserver = true\n{bridge}\n");
    std::fs::write(&file, text("bridge = 'br0'")).expect("write the file");
    let daemon = server(&lab.remote, &format!("--config {}", file.display()));
    assert_eq!(port(&lab.remote).0, "br0");
    for (bridge, expected) in [("bridge = 'br1'", "br1"), ("", ""), ("bridge = 'br0'", "br0")] {
        std::fs::write(&file, text(bridge)).expect("write the file");
        daemon.signal("HUP");
        wait_until(DEADLINE, format!("device in the bridge {expected:?}"), || port(&lab.remote).0 == expected);
    }
}

/// A program that takes the device out of its bridge is named, and the device put back.
#[test]
fn a_port_that_was_taken_out_is_put_back() {
    let lab = Lab::new();
    bridge(&lab.remote, "");
    let daemon = listening(&lab.remote, "--bridge br0");
    lab.remote.run("ip link set t0 nomaster");
    daemon.wait_for("has taken bridge br0 from the device t0, put back");
    wait_until(DEADLINE, "device in its bridge", || port(&lab.remote).0 == "br0");
}

/// The address by which an administrator works on the gateway moves to the new bridge and back, with every route: a
/// connection to it goes on, the host that has it loses less than a second, and all is as it was however the daemon ends.
#[test]
fn a_lan_port_brings_what_makes_its_host_reachable() {
    let (lab, host) = gateway_with_a_host();
    let gateway = &lab.remote;
    let before = reachability(gateway, "lan");
    assert!(before.contains("default via 192.168.1.20") && before.contains("table 7"), "{before}");
    let responder = Responder::new(gateway);
    let stream = Stream::new(&host, "192.168.1.1");
    for ends_by in ["TERM", "KILL", "both"] {
        let mut command = host.command("ping");
        let pings = command.args(["-n", "-q", "-i", "0.01", "-W", "20", "192.168.1.1"]).stdout(Stdio::piped());
        let pings = pings.spawn().expect("run ping");
        let mut daemon = listening(gateway, "--bridge br0 --bridge-create lan");
        assert_eq!(reachability(gateway, "br0"), before);
        assert_eq!(reachability(gateway, "lan"), "");
        assert_eq!(mac(gateway, "br0"), mac(gateway, "lan"));
        stream.goes_on(DEADLINE);
        if ends_by == "both" {
            daemon.kill_with_helper();
            assert_eq!(reachability(gateway, "br0"), before);
            gateway.run(&format!("{} cleanup t0", env!("CARGO_BIN_EXE_simpletun")));
        } else {
            daemon.signal(ends_by);
            daemon.wait_status();
        }
        wait_until(DEADLINE, format!("no bridge after {ends_by}"), || !gateway.has_device("br0"));
        assert_eq!(reachability(gateway, "lan"), before, "after {ends_by}");
        stream.goes_on(DEADLINE);
        let lost = lost_of(pings);
        assert!(lost < 100, "{lost} pings at 100 a second are lost, {ends_by}");
    }
    stream.finish();
    drop(responder);
}

/// The script for those who prefer iproute2 does the same.
#[test]
fn the_script_moves_the_same_with_iproute2() {
    let (lab, host) = gateway_with_a_host();
    let gateway = &lab.remote;
    let before = reachability(gateway, "lan");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/bridge-lan.sh");
    let responder = Responder::new(gateway);
    let stream = Stream::new(&host, "192.168.1.1");
    gateway.run(&format!("{script} up br0 lan"));
    assert_eq!((reachability(gateway, "br0"), reachability(gateway, "lan")), (before.clone(), String::new()));
    assert_eq!(mac(gateway, "br0"), mac(gateway, "lan"));
    let _daemon = listening(gateway, "--bridge br0");
    stream.goes_on(DEADLINE);
    gateway.run(&format!("{script} down br0 lan"));
    assert_eq!(reachability(gateway, "lan"), before);
    stream.goes_on(DEADLINE);
    stream.finish();
    drop(responder);
}

/// A reload makes the bridge and takes it away again; a bridge that somebody has deleted is made anew.
#[test]
fn a_reload_makes_the_bridge_and_takes_it_away() {
    let (lab, host) = gateway_with_a_host();
    let gateway = &lab.remote;
    let before = reachability(gateway, "lan");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lan.toml");
    let text = |more: &str| format!("security = 'plain'\ninterface = 't0'\ntap = true\nserver = true\n{more}\n");
    std::fs::write(&file, text("")).expect("write the file");
    let mut daemon = server(gateway, &format!("--config {}", file.display()));
    std::fs::write(&file, text("bridge = 'br0'\nbridge-create = ['lan']")).expect("write the file");
    daemon.signal("HUP");
    wait_until(DEADLINE, "device in the new bridge", || gateway.has_device("t0") && port(gateway).0 == "br0");
    assert_eq!(reachability(gateway, "br0"), before);
    std::fs::write(&file, text("")).expect("write the file");
    daemon.signal("HUP");
    wait_until(DEADLINE, "no bridge", || !gateway.has_device("br0"));
    assert_eq!(reachability(gateway, "lan"), before);
    host.ping_until_answered("192.168.1.1", DEADLINE);

    std::fs::write(&file, text("bridge = 'br0'\nbridge-create = ['lan']")).expect("write the file");
    daemon.signal("HUP");
    wait_until(DEADLINE, "device in the bridge", || port(gateway).0 == "br0");
    gateway.run("ip link del br0");
    daemon.wait_for("put back");
    wait_until(DEADLINE, "device in a bridge again", || port(gateway).0 == "br0");
    daemon.terminate();
    assert!(!gateway.has_device("br0"));
}

/// What cannot work is said, with what to do.
#[test]
fn mistakes_are_told_with_their_cure() {
    let lab = Lab::new();
    let ns = &lab.remote;
    let told = |flags: &str, status: i32, words: &[&str]| {
        let (code, said) = refused(ns, &format!("-i t0 -s {flags}"));
        assert_eq!(code, status, "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    told("-a --bridge br0", 1, &["no such bridge", "ip link add br0 type bridge"]);
    told("-a --bridge eth0", 1, &["eth0 is no bridge", "ip link show type bridge"]);
    bridge(ns, "");
    told("--bridge br0", 2, &["bridge", "no Ethernet header", "tap"]);
    told("-a --bridge br0 --address 10.1.1.1/24", 2, &["address", "on the bridge br0 itself"]);
    told("-a --bridge br0 --route 10.1.1.0/24", 2, &["route", "on the bridge br0 itself"]);
    told("-a --bridge an/impossible", 2, &["bridge", "must not contain"]);
    told("-a --bridge-create lan", 2, &["bridge-create", "--bridge br0"]);
    told("-a --bridge b --bridge-create t0", 2, &["bridge-create", "own device"]);
    told("-a --bridge b --bridge-create b", 2, &["bridge-create", "the bridge itself"]);
    told("-a --bridge b --bridge-create lan --bridge-create lan", 2, &["bridge-create", "twice"]);
    told("-a --bridge b --bridge-create lan --persist", 2, &["bridge-create", "persist", "bridge alone"]);
    told("-a --bridge b --bridge-create lan", 1, &["no device lan"]);
    told("-a --bridge br0 --bridge-create eth0", 1, &["Cannot make the bridge br0", "leave bridge-create out"]);
    told("-a --bridge b --bridge-create br0", 1, &["Cannot put br0 into the bridge b", "no bridge itself"]);
    ns.run("ip link add lan type veth peer name host");
    ns.run("ip link set lan master br0");
    told("-a --bridge b --bridge-create lan", 1, &["lan is a port of another device", "nomaster"]);
    ns.run("ip link set lan nomaster");
    ns.run("ip address add 192.0.2.1/24 dev lan");
    let before = reachability(ns, "eth0");
    told("-a --bridge b --bridge-create eth0 --bridge-create lan", 1, &["lan has addresses", "flush dev lan"]);
    assert_eq!(reachability(ns, "eth0"), before, "what was done before the mistake was found is undone");
    assert!(!ns.has_device("b"), "nothing is left of a start that failed");
    let (_, said) = refused(ns, "-i br0 -a -s");
    assert!(said.contains("--bridge br0"), "{said}");
    assert!(!ns.has_device("t0"), "nothing is left of a start that failed");
}

/// The remote end is a gateway whose `lan` leads to a host, without a bridge; it is reachable and routes through it in
/// every way that there is.
fn gateway_with_a_host() -> (Lab, Ns) {
    let (lab, host) = (Lab::new(), Ns::new("host"));
    wire((&lab.remote, "lan"), (&host, "eth0"));
    host.address("eth0", &["192.168.1.20/24", "fd01::20/64"]);
    lab.remote.address("lan", &["192.168.1.1/24", "192.168.1.2/24", "198.51.100.1/32", "fd01::1/64"]);
    for route in [
        "route add default via 192.168.1.20 dev lan metric 50",
        "route add 10.99.0.0/16 dev lan src 198.51.100.1",
        "route add 10.98.0.0/16 via 192.168.1.20 dev lan table 7 mtu 1400",
        "-6 route add default via fd01::20 dev lan",
        "-6 route add fd98::/64 dev lan metric 77",
    ] {
        lab.remote.run(&format!("ip {route}"));
    }
    (lab, host)
}

/// Every address and route of the device that is not link-local, without its name.
fn reachability(ns: &Ns, device: &str) -> String {
    let addresses = ns.run(&format!("ip -o address show dev {device} scope global"));
    let routes = ns.run(&format!("ip -4 route show table all type unicast dev {device}"));
    let routes6 = ns.run(&format!("ip -6 route show table all type unicast dev {device}"));
    let addresses = addresses.lines().filter_map(|line| line.split_once(device)).map(|(_, line)| line);
    let is_link_local = |line: &&str| line.trim_start().starts_with("fe80::");
    let mut lines: Vec<String> = addresses
        .chain(routes.lines())
        .chain(routes6.lines().filter(|line| !is_link_local(line)))
        .map(|line| line.replace(" nodad", "").replace(device, "").split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    lines.sort();
    lines.join("\n")
}

/// How many pings were not answered, after one more answer has come.
fn lost_of(pings: Child) -> u64 {
    succeed(Command::new("kill").args(["-s", "INT", &pings.id().to_string()]).output().expect("run kill"), "kill");
    let said = succeed(pings.wait_with_output().expect("wait for ping"), "ping");
    let numbers: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [sent, received, ..] = numbers[..] else { panic!("{said}") };
    assert!(received > 10, "{said}");
    sent - received
}

fn mac(ns: &Ns, device: &str) -> String {
    let link: serde_json::Value = serde_json::from_str(&link(ns, device)).expect("JSON");
    link[0]["address"].as_str().expect("a MAC address").to_owned()
}

fn bridge(ns: &Ns, options: &str) {
    ns.run("ip link add br0 type bridge");
    ns.run(&format!("ip link set br0 {options} up"));
}

fn listening(ns: &Ns, flags: &str) -> Daemon {
    server(ns, &format!("-i t0 -a -s {flags}"))
}

fn link(ns: &Ns, device: &str) -> String {
    ns.run(&format!("ip -json link show dev {device}"))
}

/// The bridge that the device `t0` is a port of, empty if it is in none, and its MTU.
fn port(ns: &Ns) -> (String, u64) {
    let link: serde_json::Value = serde_json::from_str(&link(ns, "t0")).expect("JSON");
    let link = &link[0];
    (link["master"].as_str().unwrap_or_default().to_owned(), link["mtu"].as_u64().expect("an MTU"))
}
