//! What crosses a running tunnel is seen from outside by `dump NAME`, and what its link carries is measured by `test NAME`, while it
//! goes on as before.

#[macro_use]
mod common;

use std::process::Command;
use std::time::Duration;

use common::daemon::{Daemon, Mark};
use common::lab::Ns;
use common::net::transfer;
use common::pair::{FAR, Kind, Pair};
use common::traffic::Pulse;
use common::wait::{DEADLINE, wait_until};

const SIMPLETUN: &str = env!("CARGO_BIN_EXE_simpletun");

/// What `dump` says once it is told packets.
const WATCHING: &str = "Watching the packets of device";

rows! {
    (
        plain_udp: (crate::Kind::PLAIN_UDP, "", 84),
        secure_udp: (crate::Kind::SECURE_UDP, "", 84),
        secure_tcp_tap: (crate::Kind::SECURE_TCP, "-a", 98)
    ) {
        packets_of_a_running_tunnel_are_seen
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
