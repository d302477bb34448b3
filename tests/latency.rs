//! A slow network behind the tunnel: what waits for it waits in turn. The bottleneck is the client's own interface, so
//! that no queue but those of this host and of the tunnel is in the way. How short the delays are is for the benchmark;
//! here they are told from those of one long queue, which are ten times as long.

use std::thread;

use crate::common::daemon::{Daemon, server, simpletun};
use crate::common::lab::{Background, Lab, REMOTE};
use crate::common::line;
use crate::common::secure::Protection;

use Protection::{Plain, Secret};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";

/// Megabits a second of the bottleneck. What a socket's buffer holds by default takes more than a second on it.
const RATE: u32 = 8;

/// Delay of a ping that is well above what the queues may add here, and well below what one long queue adds.
const QUICK_MS: f64 = 300.0;

rows! {
    (
        tcp: ("", super::Plain),
        udp: ("--udp", super::Plain),
        secure_tcp: ("", super::Secret),
        secure_udp: ("--udp", super::Secret)
    )
    {
        a_ping_stays_quick_beside_four_bulk_transfers
        a_flow_that_does_not_yield_leaves_the_others_their_share
    }
}

type Wire = (&'static str, Protection);

/// A tunnel over a slow wire with nothing in it yet.
struct Slow {
    client: Daemon,
    _server: Daemon,
    _iperf: Background,
    lab: Lab,
}

impl Slow {
    fn new((transport, protection): Wire) -> Self {
        let (lab, ends) = (Lab::new(), protection.ends());
        lab.local.run(&format!("tc qdisc add dev eth0 root tbf rate {RATE}mbit burst 16k latency 400ms"));
        let server = server(&lab.remote, &format!("-i t2 -s {transport} {} --address {FAR}/24", ends.server));
        let client =
            simpletun(&lab.local, &format!("-i t1 -c {REMOTE} {transport} {} --address {NEAR}/24", ends.client));
        client.wait_for(if transport.is_empty() || protection != Plain { line::UP } else { line::SENDING });
        lab.local.ping(FAR, 1, 56);
        let iperf = lab.remote.start("iperf3 -s");
        lab.remote.wait_for_listener(5201);
        Self { client, _server: server, _iperf: iperf, lab }
    }

    /// Runs iperf3 in the tunnel with these options for some seconds; megabits a second that have arrived.
    fn transfer(&self, options: &str) -> f64 {
        let text = self.lab.local.run(&format!("iperf3 -c {FAR} -t 6 -J {options}"));
        let report: serde_json::Value = serde_json::from_str(&text).expect("iperf3's report");
        report["end"]["sum_received"]["bits_per_second"].as_f64().expect("a rate") / 1e6
    }

    /// Pings beside what `traffic` does; the sorted round trip times in milliseconds, and how many were sent.
    fn ping_beside(&self, traffic: impl FnOnce() + Send) -> (Vec<f64>, usize) {
        thread::scope(|scope| {
            let traffic = scope.spawn(traffic);
            let text = self.lab.local.run(&format!("ping -n -i 0.1 -c 50 {FAR}"));
            traffic.join().expect("the traffic");
            let mut times: Vec<f64> =
                text.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok()).collect();
            times.sort_by(f64::total_cmp);
            (times, 50)
        })
    }
}

/// With the tunnel full of bulk transfers, a ping through it is answered at once, as on a link without queues.
fn a_ping_stays_quick_beside_four_bulk_transfers(wire: Wire) {
    let slow = Slow::new(wire);
    let (times, sent) = slow.ping_beside(|| {
        let rate = slow.transfer("-C cubic -P 4");
        assert!(rate > 0.6 * f64::from(RATE), "the transfers use the link: {rate} Mbit/s");
    });
    assert!(times.len() + 1 >= sent, "{} of {sent} pings were answered", times.len());
    let median = times[times.len() / 2];
    assert!(median < QUICK_MS, "half of the pings took more than {median} ms");
    let statistics = slow.client.statistics();
    assert!(statistics.get("queue-most-bytes") > 0, "packets have waited in the scheduler");
}

/// A flood of datagrams faster than the link loses its own excess: a transfer beside it gets a good part of the link, and
/// a ping is answered.
fn a_flow_that_does_not_yield_leaves_the_others_their_share(wire: Wire) {
    let slow = Slow::new(wire);
    let _other = slow.lab.remote.start("iperf3 -s -p 5202");
    slow.lab.remote.wait_for_listener(5202);
    let flood = slow.lab.local.start(&format!("iperf3 -c {FAR} -p 5202 -u -b {}M -l 1000 -t 60", 5 * RATE));
    let (times, sent) = slow.ping_beside(|| {
        let rate = slow.transfer("-C cubic");
        assert!(rate > 0.2 * f64::from(RATE), "the transfer gets {rate} of {RATE} Mbit/s");
    });
    drop(flood);
    assert!(times.len() * 10 >= sent * 8, "{} of {sent} pings were answered", times.len());
    let statistics = slow.client.statistics();
    let dropped = statistics.get("drop-queue-delay") + statistics.get("drop-queue-full");
    assert!(dropped > 0, "the flood has lost its excess");
}
