//! The small programs beside the tunnel: a device is read, answers pings, and is listed.

use crate::common::daemon::Daemon;
use crate::common::lab::{NOBODY, Ns};
use crate::common::wait::{DEADLINE, wait_until};

const SIMPLETUN: &str = env!("CARGO_BIN_EXE_simpletun");

/// Starts a tool; what it says on standard output is looked at as a daemon's log is.
fn tool(ns: &Ns, args: &str) -> Daemon {
    let mut command = ns.command("/bin/sh");
    command.args(["-c", &format!("exec {SIMPLETUN} {args} >&2")]);
    Daemon::spawn(format!("simpletun {args}"), command)
}

/// The tutorial's reader: a device made ready by root is read by its owner, one line a ping.
#[test]
fn the_reader_says_how_long_each_packet_is() {
    let ns = Ns::new("reader");
    ns.run("openvpn --mktun --dev tun77 --user nobody");
    ns.run("ip link set tun77 up");
    ns.address("tun77", &["10.0.0.1/24"]);
    let mut command = ns.command_as(NOBODY, &crate::common::daemon::public_binary());
    command.args(["dump", "-i", "tun77", "--count", "3"]);
    let reader = std::thread::spawn(move || crate::common::wait::succeed(command.output().expect("run dump"), "dump"));
    // The kernel has packets of its own for a device that comes up; only pings are awaited.
    wait_until(DEADLINE, "three packets are read", || {
        ns.succeeds("ping -q -c 1 -W 0.1 10.0.0.2");
        reader.is_finished()
    });
    let said = reader.join().expect("the reader");
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(said.contains("Read 84 bytes from device tun77\n"), "{said}");
}

/// With -v one sees who speaks with whom.
#[test]
fn the_reader_says_what_is_in_each_packet() {
    let ns = Ns::new("verbose");
    let reader = tool(&ns, "dump -v -i tap77 --address 10.0.0.1/24");
    ns.wait_for_device("tap77");
    ns.run("ip neigh add 10.0.0.3 lladdr 02:00:00:00:00:03 dev tap77");
    wait_until(DEADLINE, "frames are read", || {
        ns.succeeds("ping -q -c 1 -W 0.1 10.0.0.2");
        ns.succeeds("ping -q -c 1 -W 0.1 10.0.0.3");
        reader.said("> ff:ff:ff:ff:ff:ff, ARP who has 10.0.0.2? tell 10.0.0.1")
            && reader.said("> 02:00:00:00:00:03, IP 10.0.0.1 > 10.0.0.3: ICMP echo request id ")
    });
}

/// tcpdump reads what was written, of packets and of frames; INT ends the capture, and the file is whole.
#[test]
fn captures_are_read_by_tcpdump() {
    let ns = Ns::new("capture");
    for (device, expected) in
        [("tun77", "IP 10.0.0.1 > 10.0.0.2: ICMP echo request"), ("tap77", "Request who-has 10.0.0.2")]
    {
        let file = format!("/run/{device}.pcap");
        let mut reader = tool(&ns, &format!("dump -i {device} --address 10.0.0.1/24 --pcap {file}"));
        ns.wait_for_device(device);
        wait_until(DEADLINE, "a ping is read", || {
            ns.succeeds("ping -q -c 1 -W 0.1 10.0.0.2");
            ns.run(&format!("tcpdump -n -r {file}")).contains(expected)
        });
        reader.signal("INT");
        assert_eq!(reader.wait_exit(), 0, "asked to end");
        let listed = ns.run(&format!("tcpdump -n -r {file}"));
        assert_eq!(listed.lines().count(), reader.count(&format!("from device {device}")), "every packet: {listed}");
        assert!(!ns.has_device(device), "it was there for the time being");
    }
}

/// Nobody is behind the device, and every address answers, both families, also packets of the full length.
#[test]
fn every_address_behind_a_device_answers_pings() {
    for device in ["tun77", "tap77"] {
        let ns = Ns::new(&format!("echo-{device}"));
        let echo = tool(&ns, &format!("echo -i {device} --address 10.0.0.1/24 --address fd00::1/64"));
        echo.wait_for(&format!("Answering on device {device}"));
        for address in ["10.0.0.2", "10.0.0.77", "fd00::2"] {
            ns.ping_until_answered(address, DEADLINE);
            ns.ping(address, 3, 56);
        }
        ns.ping("10.0.0.2", 3, 1472);
        ns.ping("fd00::2", 3, 1452);
        wait_until(DEADLINE, "no other host has the addresses of this one", || {
            let addresses = ns.run(&format!("ip addr show dev {device}"));
            assert!(!addresses.contains("dadfailed"), "{addresses}");
            !addresses.contains("tentative")
        });
    }
}

/// One sees which devices there are, whose they are, and who holds them.
#[test]
fn devices_are_listed_with_their_owner_and_holder() {
    let ns = Ns::new("list");
    ns.run("ip tuntap add dev tap5 mode tap user nobody group nogroup");
    ns.run("ip tuntap add dev tun6 mode tun");
    let _reader = tool(&ns, "dump -i tun7");
    ns.wait_for_device("tun7");
    let listed = ns.run(&format!("{SIMPLETUN} list"));
    let words = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let rows = words(&listed);
    assert_eq!(rows[0], ["DEVICE", "KIND", "STATE", "MTU", "OWNER", "GROUP", "PERSISTENT", "ATTACHED"]);
    assert_eq!(rows[1], ["tap5", "tap", "down", "1500", "nobody", "nogroup", "yes", "-"]);
    assert_eq!(rows[2], ["tun6", "tun", "down", "1500", "-", "-", "yes", "-"]);
    assert_eq!(rows[3][..8], ["tun7", "tun", "up", "1500", "-", "-", "no", "simpletun"], "{listed}");
    let persistent = words(&ns.run(&format!("{SIMPLETUN} list --persistent")));
    assert_eq!(persistent[1..], rows[1..3]);
}

/// What cannot be done is said in a sentence, and nothing is left behind.
#[test]
fn mistakes_are_explained() {
    let ns = Ns::new("mistakes");
    ns.run("ip tuntap add dev tun6 mode tun");
    let refused = |args: &str| {
        let mut ended = tool(&ns, args);
        (ended.wait_exit(), ended.text())
    };
    let (code, text) = refused("dump -i tun6 --dev-type tap");
    assert!(code == 1 && text.contains("tun6") && text.contains("tap"), "{text}");
    let (code, text) = refused("dump -i tun7 --pcap /nowhere/file");
    assert!(code == 1 && text.contains("/nowhere/file"), "{text}");
    let (code, text) = refused("echo -i tun7 --address 10.0.0.1/99");
    assert!(code == 2 && text.contains("10.0.0.1/99"), "{text}");
    let (code, text) = refused("echo");
    assert!(code == 2 && text.contains("--interface"), "{text}");
    assert!(!ns.has_device("tun7"));
    let mut reader = tool(&ns, "dump -i tun8");
    ns.wait_for_device("tun8");
    ns.run("ip link del tun8");
    assert_eq!(reader.wait_exit(), 1, "{}", reader.text());
    assert!(reader.said("tun8 has ended"), "{}", reader.text());
}
