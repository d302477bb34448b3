//! A tap that becomes a port of a bridge by itself, and leaves it again.

mod common;

use common::daemon::{Daemon, refused, server, simpletun};
use common::lab::{Lab, Ns, REMOTE, wire};
use common::line;
use common::secure::new_secret;
use common::wait::{DEADLINE, wait_until};

const SECRET: &str = "/run/bridge.secret";

/// Hosts of two LANs are on one segment: `--bridge` on either gateway is all there is to do there, and nothing is said
/// about the MTU, though a full frame is longer than what the path carries.
#[test]
fn two_lans_become_one_segment() {
    let lab = Lab::with_test_inside();
    let hosts = ["london-host", "berlin-host"].map(Ns::new);
    for (gateway, host, address) in
        [(&lab.local, &hosts[0], "192.168.1.10/24"), (&lab.remote, &hosts[1], "192.168.1.20/24")]
    {
        wire((gateway, "lan"), (host, "eth0"));
        host.address("eth0", &[address]);
        bridge(gateway, "");
        gateway.run("ip link set lan master br0");
    }
    new_secret(SECRET);
    let flags = format!("-i t1 -a --udp --secret-file {SECRET} --bridge br0");
    let _server = server(&lab.remote, &format!("-s {flags}"));
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
    told("-a --bridge an/impossible", 2, &["bridge", "1 to 15 bytes"]);
    let (_, said) = refused(ns, "-i br0 -a -s");
    assert!(said.contains("--bridge br0"), "{said}");
    assert!(!ns.has_device("t0"), "nothing is left of a start that failed");
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
