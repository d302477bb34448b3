//! What crosses a running tunnel is seen from outside by `dump NAME`, and what its link carries is measured by `test NAME`, while it
//! goes on as before.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::daemon::{Daemon, Mark, server};
use crate::common::fault_wire::Rates;
use crate::common::known_keys::Suite;
use crate::common::lab::{Lab, Ns};
use crate::common::line;
use crate::common::net::{Pinging, transfer};
use crate::common::pair::{FAR, Kind, Pair};
use crate::common::secure::Protection;
use crate::common::secure_peer::{SecurePeer, Wire};
use crate::common::traffic::Pulse;
use crate::common::wait::{DEADLINE, wait_until};

const SIMPLETUN: &str = env!("CARGO_BIN_EXE_simpletun");

/// What `dump` says once it is told packets.
const WATCHING: &str = "Watching the packets of device";

rows! {
    (
        plain_udp: (super::Kind::PLAIN_UDP, "", 84),
        secure_udp: (super::Kind::SECURE_UDP, "", 84),
        secure_tcp_tap: (super::Kind::SECURE_TCP, "-a", 98)
    ) {
        packets_of_a_running_tunnel_are_seen
    }
}

rows! {
    (
        udp: super::Kind::SECURE_UDP,
        tcp: super::Kind::SECURE_TCP
    ) {
        a_link_is_measured_while_it_carries
    }
}

/// Starts a tool; what it says on standard output is looked at as a daemon's log is.
fn tool(args: &str) -> Daemon {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("exec {SIMPLETUN} {args} >&2")]);
    Daemon::spawn(format!("simpletun {args}"), command)
}

/// A tool that watches packets already.
fn dump(args: &str) -> Daemon {
    let tool = tool(&format!("dump {args}"));
    tool.wait_for(WATCHING);
    tool
}

/// INT ends a tool as asked; what it has said.
fn interrupt(mut tool: Daemon) -> String {
    tool.signal("INT");
    assert_eq!(tool.wait_exit(), 0, "{}", tool.text());
    tool.text()
}

/// One sees who speaks with whom in both directions, tcpdump reads what was written, and two may watch at a time.
fn packets_of_a_running_tunnel_are_seen((kind, options, len): (Kind, &str, u32)) {
    let pair = Pair::new(kind, options);
    let (verbose, short) = (dump("t1 -v"), dump("t2 --pcap /run/far.pcap"));
    pair.lab.local.ping(FAR, 3, 56);
    verbose.wait_for("192.168.0.2 > 192.168.0.1: ICMP echo reply");
    let said = verbose.text();
    let line = |direction: &str, text: &str| {
        said.lines().any(|line| line.starts_with(&format!("{direction} {len} bytes: ")) && line.contains(text))
    };
    assert!(line("out", "192.168.0.1 > 192.168.0.2: ICMP echo request"), "{said}");
    assert!(line("in", "192.168.0.2 > 192.168.0.1: ICMP echo reply"), "{said}");

    let _second = dump("t1");
    let mut third = tool("dump t1");
    assert_eq!(third.wait_exit(), 1);
    assert!(third.said("Two connections see the packets already"), "{}", third.text());

    short.wait_for(&format!("out {len} bytes"));
    let said = interrupt(short);
    let listed = Ns::here().run("tcpdump -n -r /run/far.pcap");
    assert!(listed.contains("IP 192.168.0.1 > 192.168.0.2: ICMP echo request"), "{listed}");
    assert!(listed.contains("IP 192.168.0.2 > 192.168.0.1: ICMP echo reply"), "{listed}");
    assert_eq!(said.matches(" bytes").count(), listed.lines().count(), "the file has what was said: {said}");
    assert!(said.ends_with("and 0 that were not read fast enough"), "{said}");

    if kind.protection == Protection::Plain {
        let (code, text) = refused("t1");
        assert!(code == 1 && text.contains("The link is plain") && text.contains("iperf3"), "{text}");
    }
    let said = interrupt(verbose);
    assert!(said.lines().last().is_some_and(|line| line.contains(" packets, and 0 ")), "{said}");
    wait_until(DEADLINE, "the daemon has forgotten who has gone", || {
        let mut again = tool("dump t1 -n 1");
        wait_until(DEADLINE, "an answer", || again.said(WATCHING) || !again.is_running());
        pair.lab.local.ping(FAR, 1, 56);
        again.wait_exit() == 0
    });
}

/// A capture of bulk traffic has packets as they cross the network, each with its checksum, whatever the device and the link
/// carry at once; so it can be replayed and looked into.
#[test]
fn super_packets_are_seen_as_the_packets_they_stand_for() {
    let pair = Pair::new(Kind::SECURE_TCP, "");
    let tools = [dump("t1 --pcap /run/near.pcap"), dump("t2 --pcap /run/far.pcap --snap 60")];
    transfer(&pair.lab.local, &pair.lab.remote, FAR, 300_000);
    for tool in &tools {
        wait_until(DEADLINE, "bulk in the capture", || tool.count("bytes") > 200);
    }
    tools.into_iter().for_each(|tool| drop(interrupt(tool)));
    let near = Ns::here().run("tcpdump -nn -vv -r /run/near.pcap tcp");
    assert!(near.contains("(correct)") && !near.contains("incorrect"), "{near}");
    let far = Ns::here().run("tcpdump -nn -r /run/far.pcap tcp");
    for listed in [&near, &far] {
        let lengths =
            listed.lines().filter_map(|line| line.rsplit_once(", length ")?.1.split(':').next()?.parse().ok());
        let longest: u32 = lengths.max().expect("segments");
        assert!((1000..=1460).contains(&longest), "{longest}");
    }
}

/// Who looks at packets and is stopped does not slow the tunnel; it is told afterwards how many it has missed.
#[test]
fn a_reader_that_stops_loses_packets_and_the_tunnel_none() {
    let pair = Pair::new(Kind::SECURE_UDP, "");
    let stopped = dump("t1 -v");
    stopped.signal("STOP");
    let pulse = Pulse::new(FAR, Duration::from_millis(20));
    pulse.begins();
    transfer(&pair.lab.local, &pair.lab.remote, FAR, 8_000_000);
    let beats = pulse.finish();
    let lost = beats.sent.len() - beats.returned.len();
    assert!(lost * 20 <= beats.sent.len(), "{lost} of {} datagrams were lost", beats.sent.len());
    assert!(pair.client.usage().resident_kib < 100_000, "{:?}", pair.client.usage());
    stopped.signal("CONT");
    // One that comes behind what was missed.
    let mark: Mark = stopped.mark();
    wait_until(DEADLINE, "the reader goes on", || {
        pair.lab.local.ping(FAR, 1, 777);
        stopped.said_after(mark, "out 805 bytes: ")
    });
    let said = interrupt(stopped);
    let last = said.lines().last().expect("a line");
    let missed = last.split_whitespace().nth(3).and_then(|word| word.parse::<u32>().ok());
    assert!(missed.is_some_and(|missed| missed > 1000), "{last}");
}

/// What `test` has found out, as JSON.
#[track_caller]
fn measured(args: &str) -> Value {
    let text = Ns::here().run(&format!("{SIMPLETUN} test {args} --json"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[track_caller]
fn number(value: &Value, keys: &[&str]) -> f64 {
    let found = keys.iter().fold(value, |value, key| &value[key]);
    found.as_f64().unwrap_or_else(|| panic!("{keys:?} in {value}"))
}

/// What a link of 20 Mbit/s and 40 ms carries each way is found out about, and pings cross it meanwhile.
fn a_link_is_measured_while_it_carries(kind: Kind) {
    let (lab, wire) = Lab::with_fault_wire(1);
    wire.set(Rates { delay: Duration::from_millis(20), ..Rates::default() });
    for ns in [&lab.local, &lab.remote] {
        ns.run("tc qdisc add dev eth0 root tbf rate 20mbit burst 16k latency 300ms");
    }
    let pair = Pair::on(lab, kind, "");
    let mut pings = Pinging::start(&pair.lab.local, FAR);
    let found = measured("t1 --time 1500ms");
    let (sent, answered) = pings.count();
    let trip = number(&found, &["round_trip", "median_seconds"]);
    assert!((0.035..0.4).contains(&trip), "{found}");
    assert_eq!(number(&found, &["round_trip", "sent"]), 20.0, "{found}");
    for direction in ["download", "upload"] {
        let rate = number(&found, &[direction, "bits_per_second"]) / 1e6;
        assert!((8.0..21.0).contains(&rate), "{direction} {found}");
        assert!(number(&found, &[direction, "loss"]) < 0.3, "{direction} {found}");
    }
    // Over UDP that of the longest packet that the device has.
    assert!((1400.0..=1500.0).contains(&number(&found, &["path", "mtu"])), "{found}");
    assert!(sent > 40 && answered * 2 > sent, "{answered} of {sent} pings were answered");
}

/// Loss in one direction is found there, a rate that is asked for is kept to, and what there is to say is said in words.
#[test]
fn loss_is_found_in_the_direction_that_it_happens_in() {
    let pair = Pair::new(Kind::SECURE_UDP, "");
    let remote = &pair.lab.remote;
    remote.run("nft add table netdev lossy");
    remote.run("nft add chain netdev lossy arriving { type filter hook ingress device eth0 priority 0 ; }");
    remote.run("nft add rule netdev lossy arriving udp dport 55555 numgen inc mod 10 == 0 drop");
    let found = measured("t1 --time 1s --rate 8M");
    let (up, down) = (number(&found, &["upload", "loss"]), number(&found, &["download", "loss"]));
    assert!((0.05..0.2).contains(&up) && down < 0.05, "{found}");
    let rate = number(&found, &["download", "bits_per_second"]) / 1e6;
    // Reports on the way to the sender get lost as well, and without them it waits.
    assert!((0.2..8.5).contains(&rate), "{found}");
    remote.run("nft delete table netdev lossy");
    let said = Ns::here().run(&format!("{SIMPLETUN} test t2 --time 200ms"));
    let heads: Vec<&str> = said.lines().map(|line| line[..14].trim_end()).collect();
    assert_eq!(heads, ["round trip", "from the peer", "to the peer", "path"], "{said}");
    assert!(said.contains("mtu 14") && said.contains("of 20 pings"), "{said}");
}

/// Runs `test`, which is refused; exit code and what it says.
fn refused(args: &str) -> (i32, String) {
    let mut ended = tool(&format!("test {args}"));
    (ended.wait_exit(), ended.text())
}

/// One measurement at a time, and who goes away ends it at both ends.
#[test]
fn one_link_is_measured_once_at_a_time() {
    let _pair = Pair::new(Kind::SECURE_TCP, "");
    let first = tool("test t1 --time 10s");
    first.wait_for("round trip");
    for end in ["t1", "t2"] {
        wait_until(DEADLINE, "the other end is asked", || refused(end).1.contains("under way already"));
    }
    drop(first);
    for end in ["t1", "t2"] {
        wait_until(DEADLINE, "both ends are free", || refused(&format!("{end} --time 100ms")).0 == 0);
    }
    let (code, text) = refused("t1 --time 1h");
    assert!(code == 2 && text.contains("100ms to 10s"), "{text}");
}

/// An end that is not there, and one that is older, are named.
#[test]
fn an_end_that_cannot_be_measured_is_named() {
    let lab = Lab::quiet();
    let daemon = server(&lab.remote, &format!("-i t1 -s --udp --address 10.9.1.1/16 {}", Suite::Secret.far()));
    let (code, text) = refused("t1");
    assert!(code == 1 && text.contains("The peer is not there"), "{text}");
    let keys = Suite::Secret.near_peer();
    let mut peer = SecurePeer::connect(&lab.local, Wire::Udp, "10.86.43.52:55555", &keys, "");
    peer.run("handshake", json!({}));
    daemon.wait_for(line::UP);
    let (code, text) = refused("t1");
    assert!(code == 1 && text.contains("The other end does not answer measurements"), "{text}");
    assert!(text.contains("round trip"), "what is known all the same: {text}");
}
