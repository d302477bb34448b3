//! A tunnel in use through faults that come one after the other, drawn from a seed: ends killed, stopped and told to
//! begin anew, the wire cut and made lossy, devices set down, addresses changed. After each of them traffic flows again,
//! and at the end there is a verdict on what was delivered, on memory and on descriptors.
//!
//! `scripts/soak.sh MINUTES [SEED]` runs it for longer; the tests alone run it for a minute, all four kinds together.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::collections::HashSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::daemon::Daemon;
use crate::common::lab::{LOCAL, Ns};
use crate::common::pair::{FAR, Kind, Pair, cut, restore};
use crate::common::secure::Protection;
use crate::common::traffic::{Pulse, Stream};
use crate::common::wait::{DEADLINE, wait_until};

/// Each kind's part of a minute.
const SECONDS: u64 = 15;

const BEAT: Duration = Duration::from_millis(5);

/// Within this time after a fault traffic flows again, on a machine that runs other tests, too. It is well above the
/// seconds that are promised, and well below what an end takes that was not told and has to give up.
const SOON: Duration = Duration::from_secs(12);

/// The connection inside repeats more and more rarely while nothing passes.
const CONNECTION_SOON: Duration = Duration::from_secs(60);

const RESIDENT_KIB: u64 = 24 * 1024;

/// Descriptors that come and go: a second connection, a look-up.
const SPARE_DESCRIPTORS: usize = 3;

/// The client's other address.
const MOVED: &str = "10.86.43.61";

over_all! {
    through_random_faults_traffic_goes_on_and_nothing_piles_up
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillClient,
    KillServer,
    KillBoth,
    StopClient,
    StopServer,
    Cut,
    CutOneWay,
    Loss,
    DeviceDown,
    BeginAnew,
    Move,
}

const FAULTS: [Fault; 11] = [
    Fault::KillClient,
    Fault::KillServer,
    Fault::KillBoth,
    Fault::StopClient,
    Fault::StopServer,
    Fault::Cut,
    Fault::CutOneWay,
    Fault::Loss,
    Fault::DeviceDown,
    Fault::BeginAnew,
    Fault::Move,
];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Whatever happens to the ends and to the wire, the user's connections go on, and the daemons stay as they were.
fn through_random_faults_traffic_goes_on_and_nothing_piles_up(kind: Kind) {
    let seed = setting("SIMPLETUN_SOAK_SEED", 1);
    let lasting = Duration::from_secs(setting("SIMPLETUN_SOAK_SECONDS", SECONDS));
    let mut soak = Soak::new(kind, seed);
    let start = Instant::now();
    while start.elapsed() < lasting {
        soak.strike();
    }
    soak.verdict();
}

struct Soak {
    kind: Kind,
    seed: u64,
    chance: fastrand::Rng,
    pair: Pair,
    pulse: Pulse,
    stream: Stream,
    descriptors: (usize, usize),
    has_moved: bool,
    faults: usize,
    slowest: Duration,
}

impl Soak {
    fn new(kind: Kind, seed: u64) -> Self {
        let pair = Pair::new(kind, "");
        let pulse = Pulse::new(FAR, BEAT);
        pulse.begins();
        let stream = Stream::new(&pair.lab.local, FAR);
        let descriptors = (pair.client.descriptors(), pair.server.descriptors());
        let chance = fastrand::Rng::with_seed(seed);
        let (faults, slowest, has_moved) = (0, Duration::ZERO, false);
        Self { kind, seed, chance, pair, pulse, stream, descriptors, has_moved, faults, slowest }
    }

    /// One fault, and the time until traffic flows again.
    fn strike(&mut self) {
        let fault = FAULTS[self.chance.usize(..FAULTS.len())];
        let length = Duration::from_millis(self.chance.u64(100..3000));
        if matches!(fault, Fault::Move) && !self.may_move() {
            return;
        }
        self.cause(fault, length);
        let taken = self.pulse.returns_after(Instant::now(), DEADLINE * 2);
        let Self { kind, seed, .. } = *self;
        eprintln!("{kind:?}, seed {seed}: {fault:?} for {length:?}, traffic again after {taken:.0?}");
        assert!(taken < SOON, "{kind:?}, seed {seed}: only {taken:?} after {fault:?} for {length:?}");
        self.faults += 1;
        self.slowest = self.slowest.max(taken);
    }

    fn cause(&mut self, fault: Fault, length: Duration) {
        let (near, far) = (self.pair.lab.local.clone(), self.pair.lab.remote.clone());
        match fault {
            Fault::KillClient => {
                self.pair.client.kill();
                self.pair.start_client();
            }
            Fault::KillServer => {
                self.pair.server.kill();
                self.pair.start_server();
            }
            Fault::KillBoth => {
                self.pair.client.kill();
                self.pair.server.kill();
                self.pair.start_client();
                self.pair.start_server();
            }
            Fault::StopClient => stop(&self.pair.client, length),
            Fault::StopServer => stop(&self.pair.server, length),
            Fault::Cut => {
                self.pair.cut();
                sleep(length);
                self.pair.restore();
            }
            Fault::CutOneWay => {
                let side = if self.chance.bool() { near } else { far };
                cut(&side);
                sleep(length);
                restore(&side);
            }
            Fault::Loss => {
                lose(&near, self.chance.u32(5..40));
                sleep(length);
                restore(&near);
            }
            Fault::DeviceDown => {
                near.run("ip link set t1 down");
                near.run("ip link set t1 up");
            }
            Fault::BeginAnew => self.pair.client.signal("USR1"),
            Fault::Move => {
                let (old, new) = if self.has_moved { (MOVED, LOCAL) } else { (LOCAL, MOVED) };
                near.run(&format!("ip address add {new}/24 dev eth0"));
                near.run(&format!("ip address delete {old}/24 dev eth0"));
                self.has_moved = !self.has_moved;
            }
        }
    }

    /// A plain server over UDP keeps to its peer's address for a minute.
    fn may_move(&self) -> bool {
        self.kind.is_tcp() || self.kind.protection != Protection::Plain
    }

    fn verdict(self) {
        let Self { kind, seed, pair, pulse, stream, descriptors, faults, slowest, .. } = self;
        stream.goes_on(CONNECTION_SOON);
        stream.finish();
        let beats = pulse.finish();
        let numbers: HashSet<u64> = beats.returned.iter().map(|(number, _)| *number).collect();
        let (sent, returned) = (beats.sent.len(), numbers.len());
        assert_eq!(returned, beats.returned.len(), "{kind:?}, seed {seed}: datagrams came back twice");
        let settles = |daemon: &Daemon, before: usize| {
            wait_until(DEADLINE, "descriptors as before", || daemon.descriptors() <= before + SPARE_DESCRIPTORS);
            let usage = daemon.usage();
            assert!(usage.resident_kib <= RESIDENT_KIB, "{kind:?}, seed {seed}: {usage:?}");
            usage.resident_kib
        };
        let (client, server) = (settles(&pair.client, descriptors.0), settles(&pair.server, descriptors.1));
        for daemon in [&pair.client, &pair.server] {
            let statistics = daemon.statistics();
            let (read, sent) = (statistics.get("device-rx-packets"), statistics.get("network-tx-packets"));
            assert!(sent <= read, "{kind:?}, seed {seed}: {read} packets read and {sent} sent");
            assert_eq!(statistics.get("drop-not-authentic"), 0, "{kind:?}, seed {seed}");
        }
        eprintln!(
            "{kind:?}, seed {seed}: {faults} faults, traffic again after {slowest:.0?} at most; {returned} of {sent} \
             datagrams came back, none twice; {client} and {server} KiB resident"
        );
    }
}

fn stop(daemon: &Daemon, length: Duration) {
    daemon.signal("STOP");
    sleep(length);
    daemon.signal("CONT");
}

/// Some of what arrives by the wire is lost, in percent.
fn lose(ns: &Ns, percent: u32) {
    ns.run("nft add table netdev cut");
    ns.run("nft add chain netdev cut arriving { type filter hook ingress device eth0 priority 0 ; }");
    ns.run(&format!(
        "nft add rule netdev cut arriving meta protocol {{ ip, ip6 }} numgen random mod 100 < {percent} drop"
    ));
}
