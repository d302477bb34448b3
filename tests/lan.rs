//! Two LANs with three hosts each, joined by a tunnel into one segment: what LANs need crosses, loops are caught, and
//! what is to stay out stays out.

use std::time::Duration;

use serde_json::Value;

use crate::common::daemon::{Daemon, server, simpletun};
use crate::common::frames::{BRIDGES, BROADCAST, Catcher, NOBODY, frame, received, send};
use crate::common::lab::{Ns, PYTHON, wire};
use crate::common::lan::{advertise_a_prefix, lease_an_address, mac_of};
use crate::common::line;
use crate::common::net::noise;
use crate::common::secure::new_secret;
use crate::common::wait::{DEADLINE, wait_until};

const SECRET: &str = "/run/lan.secret";

/// A protocol for experiments that is not the one of our probes.
const EXPERIMENT: [u8; 2] = [0x88, 0xb6];
const ARP: [u8; 2] = [0x08, 0x06];

/// The line about a loop.
const LOOP: &str = "Loop ";
const RELEASED: &str = "forwarding again";

rows! {
    (plain_tcp: "", secure_udp: super::SECURE_UDP)
    {
        what_lans_need_crosses_whole
        a_second_path_is_a_loop_that_is_contained_named_and_over_when_it_is_gone
    }
}

const SECURE_UDP: &str = "--udp --secret-file /run/lan.secret";

/// Hosts of both LANs get addresses from the other one, find each other, hear groups that they have joined, and frames
/// of 9000 bytes and with tags arrive as they were sent.
fn what_lans_need_crosses_whole(transport: &str) {
    let lans = Lans::new();
    let [left, right] = &lans.hosts;
    let _ends = lans.join(&format!("{transport} --bridge br0"), "");
    left[0].ping_until_answered("192.168.1.21", DEADLINE);
    assert!(left[0].run("ip neigh show 192.168.1.21").contains(&mac_of(&right[0])), "ARP");
    left[1].ping_until_answered("fd01::21", DEADLINE);
    assert!(left[1].run("ip -6 neigh show fd01::21").contains(&mac_of(&right[0])), "ND");
    lease_an_address(&left[0], &right[2]);
    right[2].ping_until_answered("192.168.1.11", DEADLINE);
    let router = advertise_a_prefix(&left[0], &right[1]);
    right[1].ping_until_answered("fd02::1", DEADLINE);
    drop(router);
    left[0].ping("192.168.1.21", 2, 8972);
    right[1].ping("192.168.1.12", 2, 8972);

    let catcher = Catcher::new(&right[1], "eth0");
    let full = noise(9000);
    for (tags, payload) in [
        (&[][..], &full[..]),
        (&[0x81, 0x00, 0xa0, 0x0a], &full),
        (&[0x88, 0xa8, 0x00, 0x14, 0x81, 0x00, 0x60, 0x0a], &full[..8992]),
        (&[0x81, 0x00, 0x00, 0x14, 0x81, 0x00, 0x00, 0x0a], &full[..50]),
    ] {
        let frame = frame(NOBODY, &[tags, &EXPERIMENT[..], payload].concat());
        send(&left[1], "eth0", std::slice::from_ref(&frame));
        catcher.wait_for(&frame);
    }
    lans.group_is_heard();
}

/// A cable between the LANs that the tunnel joins already: both ends say what it is, nothing goes round as long as it is
/// there, and when it is gone they go on by themselves.
fn a_second_path_is_a_loop_that_is_contained_named_and_over_when_it_is_gone(transport: &str) {
    let lans = Lans::new();
    let storm = storm();
    let ends = lans.join(transport, "--bridge br0 --loop-hold 5s");
    lans.hosts[0][0].ping_until_answered("192.168.1.21", DEADLINE);
    let cable = lans.add_cable(|_| {});
    send(&lans.hosts[0][0], "eth0", &storm);
    for (end, device) in ends.iter().zip(["t1", "t2"]) {
        let said = end.wait_for(LOOP);
        assert!(said.contains("nothing is forwarded until 5s") && said.contains("remove the second path"), "{said}");
        wait_until(DEADLINE, "status of a loop", || segment(device)["held"] == "peer");
        assert!(segment(device)["resume_seconds"].as_f64().expect("a number") <= 5.0);
    }
    let before = received(&lans.hosts[1][2], "eth0");
    for _ in 0..10 {
        send(&lans.hosts[1][0], "eth0", &storm);
    }
    lans.hosts[0][0].ping_until_answered("192.168.1.21", DEADLINE);
    assert_eq!(segment("t1")["held"], "peer", "the ping has gone by the cable");
    let more = received(&lans.hosts[1][2], "eth0") - before;
    assert!((300..1000).contains(&more), "{more} frames for the 300 that were sent");
    assert!(ends.iter().all(|end| end.statistics().get("drop-bridge-loop") > 0));
    let marks = ends.each_ref().map(Daemon::mark);
    drop(cable);
    for (end, mark) in ends.iter().zip(marks) {
        end.wait_after(mark, RELEASED);
    }
    lans.hosts[0][0].ping_until_answered("192.168.1.21", DEADLINE);
    assert_eq!(segment("t1")["held"], Value::Null);
}

/// A cable that swallows the probes is seen by the stations that go to and fro: a host of the LAN has a few frames more to
/// bear, where without the guard it has a storm.
#[test]
fn a_storm_is_seen_by_its_stations_and_is_one_without_the_guard() {
    let lans = Lans::new();
    let (host, storm) = (&lans.hosts[1][2], storm());
    let eat_probes = |gateway: &Ns| {
        gateway.run("nft add table netdev eater");
        gateway.run("nft add chain netdev eater arriving { type filter hook ingress device cable priority 0 ; }");
        gateway.run("nft add rule netdev eater arriving meta protocol 0x88b5 drop");
    };
    let ends = lans.join("--broadcast-limit off", "--bridge br0");
    lans.hosts[0][0].ping_until_answered("192.168.1.21", DEADLINE);
    let load = Load::of(host);
    let cable = lans.add_cable(eat_probes);
    wait_until(DEADLINE, "loop that is seen by its stations", || {
        send(&lans.hosts[0][0], "eth0", &storm);
        ends.iter().any(|end| end.said("come from the LAN and from the peer by turns"))
    });
    let contained = load.until_now();
    drop((cable, ends, load));

    let ends = lans.join("--broadcast-limit off", "--bridge br0 --loop-guard off");
    lans.hosts[0][0].ping_until_answered("192.168.1.21", DEADLINE);
    let load = Load::of(host);
    let _cable = lans.add_cable(|_| {});
    send(&lans.hosts[0][0], "eth0", &storm);
    wait_until(4 * DEADLINE, "storm", || load.until_now().frames > 5 * contained.frames + 20_000);
    let flood = load.until_now();
    assert!(ends.iter().all(|end| !end.said(LOOP)));
    println!("a host of the LAN received {contained:?} with the guard, {flood:?} without, until it was ended");
    assert!(contained.frames < 20_000 && contained.cpu < flood.cpu, "{contained:?}, {flood:?}");
}

/// Two ports of one LAN are joined by a cable: the tunnel says that it is this LAN, and keeps its storm from the other one.
#[test]
fn a_loop_within_one_lan_is_named_and_kept_from_the_other() {
    let lans = Lans::new();
    let ends = lans.join("", "--bridge br0 --loop-hold 5s");
    lans.hosts[0][0].ping_until_answered("192.168.1.21", DEADLINE);
    let left = &lans.gateways[0];
    left.run("ip link add short-a type veth peer name short-b");
    for end in ["short-a", "short-b"] {
        left.run(&format!("ip link set {end} master br0 up"));
    }
    let said = ends[0].wait_for(LOOP);
    assert!(said.contains("in the local LAN"), "{said}");
    assert_eq!(segment("t1")["held"], "lan");
    let mark = ends[0].mark();
    left.run("ip link del short-a");
    ends[0].wait_after(mark, RELEASED);
    lans.hosts[0][0].ping_until_answered("192.168.1.21", DEADLINE);
}

/// With spanning tree in both bridges a second path is none of the tunnel's business: it is in reserve while the cable is
/// there, and takes over when that is cut.
#[test]
fn spanning_tree_keeps_a_second_path_in_reserve() {
    let lans = Lans::new();
    for gateway in &lans.gateways {
        gateway.run("ip link set br0 type bridge stp_state 1 forward_delay 200 hello_time 100 max_age 600");
    }
    let ends = lans.join(SECURE_UDP, "--bridge br0");
    let taps = [("t1", &lans.gateways[0]), ("t2", &lans.gateways[1])];
    for (tap, gateway) in taps {
        // The kernel takes it to be as good as the cable.
        wait_until(DEADLINE, "port of the bridge", || gateway.succeeds(&format!("bridge link set dev {tap} cost 100")));
    }
    let cable = lans.add_cable(|_| {});
    let state = |gateway: &Ns, port: &str| gateway.run(&format!("cat /sys/class/net/br0/brif/{port}/state"));
    wait_until(2 * DEADLINE, "tunnel in reserve", || {
        let blocked = taps.iter().filter(|(tap, gateway)| state(gateway, tap).trim() == "4").count();
        let open = lans.gateways.iter().all(|gateway| state(gateway, "cable").trim() == "3");
        blocked == 1 && open
    });
    lans.hosts[0][0].ping_until_answered("192.168.1.21", DEADLINE);
    let crossed = ends[0].statistics().get("network-tx-packets");
    drop(cable);
    lans.hosts[0][0].ping_until_answered("192.168.1.21", 2 * DEADLINE);
    assert!(ends[0].statistics().get("network-tx-packets") > crossed, "the ping has gone by the tunnel");
    assert!(ends.iter().all(|end| !end.said(LOOP)), "no loop was there at any time");
}

/// Lists and limits of one end keep frames out in both directions, and a reload changes them while the tunnel stands.
#[test]
fn lists_and_limits_keep_frames_out_and_change_by_a_reload() {
    let lans = Lans::new();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lan.toml");
    let write = |rules: &str| std::fs::write(&file, format!("security = 'plain'\n{rules}\n")).expect("write the file");
    write("");
    let ends = lans.join("--bridge br0", &format!("--config {}", file.display()));
    let hosts = [&lans.hosts[0][0], &lans.hosts[1][0]];
    hosts[0].ping_until_answered("192.168.1.21", DEADLINE);
    let catchers = hosts.map(|host| Catcher::new(host, "eth0"));
    let apply = |rules: &str| {
        let mark = ends[0].mark();
        write(rules);
        ends[0].signal("HUP");
        ends[0].wait_after(mark, "configuration read again");
    };
    let tagged = |vlan: u8| frame(NOBODY, &[0x81, 0, 0, vlan, EXPERIMENT[0], EXPERIMENT[1]]);
    let bare = || frame(NOBODY, &EXPERIMENT);
    for (rules, cause, stays, crosses) in [
        ("vlan = '10,untagged'", "vlan", tagged(11), vec![tagged(10), bare()]),
        ("vlan = '10'", "vlan", bare(), vec![tagged(10)]),
        ("ethertype = 'arp,0x88b6'", "ethertype", frame(NOBODY, &[0x88, 0xb7]), vec![tagged(5), bare()]),
        ("bpdu = 'drop'", "bpdu", frame(BRIDGES, &[0, 38, 0x42, 0x42, 3]), vec![bare()]),
        ("bpdu = 'pass'", "", bare(), vec![frame(BRIDGES, &[0, 38, 0x42, 0x42, 3])]),
    ] {
        apply(rules);
        for (from, to) in [(0, 1), (1, 0)] {
            let dropped = || if cause.is_empty() { 0 } else { ends[0].statistics().get(&format!("drop-{cause}")) };
            let before = dropped();
            let all: Vec<_> = [&stays].into_iter().chain(&crosses).cloned().collect();
            send(hosts[from], "eth0", &all);
            crosses.iter().for_each(|frame| catchers[to].wait_for(frame));
            assert_eq!(catchers[to].count(&stays), usize::from(cause.is_empty()), "{rules} from {from}");
            // The hosts say something themselves, now and then.
            assert!(cause.is_empty() || dropped() > before, "{rules} from {from}");
        }
    }
    // Behind a hundred broadcasts of a second ARP still crosses.
    apply("broadcast-limit = 5");
    let (flood, arp) = (frame(BROADCAST, &EXPERIMENT), frame(BROADCAST, &ARP));
    let all: Vec<_> = std::iter::repeat_n(flood.clone(), 100).chain([arp.clone()]).collect();
    send(hosts[0], "eth0", &all);
    catchers[1].wait_for(&arp);
    let dropped = usize::try_from(ends[0].statistics().get("drop-broadcast-limit")).expect("few");
    assert!(dropped > 0 && catchers[1].count(&flood) + dropped == 100, "{dropped} of 100");
    send(hosts[1], "eth0", &all);
    catchers[0].wait_for(&arp);
    assert_eq!(catchers[0].count(&flood), 100, "the limit is towards the peer");
    assert_eq!(ends[0].statistics().get("ups"), 1, "the tunnel stood all the while");
}

/// Broadcasts of many stations.
fn storm() -> Vec<Vec<u8>> {
    (0..30).map(|_| frame(BROADCAST, &EXPERIMENT)).collect()
}

/// `left` and `right` are wired by `wan`, each has a bridge `br0` with three hosts, the last of which has no address.
/// Everything but `wan` carries 9000 bytes.
struct Lans {
    gateways: [Ns; 2],
    hosts: [[Ns; 3]; 2],
}

impl Lans {
    fn new() -> Self {
        let gateways = ["left", "right"].map(Ns::new);
        wire((&gateways[0], "wan"), (&gateways[1], "wan"));
        let hosts = [(0, "left"), (1, "right")].map(|(side, name)| {
            let gateway = &gateways[side];
            gateway.address("wan", &[&format!("10.86.43.{}/24", 51 + side)]);
            gateway.run("ip link add br0 type bridge mcast_startup_query_interval 100");
            gateway.run("ip link set br0 mtu 9000 up");
            [1, 2, 3].map(|number| {
                let host = Ns::new(&format!("{name}-{number}"));
                let port = format!("lan{number}");
                wire((gateway, &port), (&host, "eth0"));
                gateway.run(&format!("ip link set {port} mtu 9000 master br0"));
                host.run("ip link set eth0 mtu 9000");
                if number < 3 {
                    let place = 10 * (side + 1) + number;
                    host.address("eth0", &[&format!("192.168.1.{place}/24"), &format!("fd01::{place}/64")]);
                }
                host
            })
        });
        new_secret(SECRET);
        Self { gateways, hosts }
    }

    /// The tunnel, with flags for both ends and more for the left one; `--bridge` may be among either.
    fn join(&self, flags: &str, more: &str) -> [Daemon; 2] {
        let shared = if more.contains("--config") { "" } else { more };
        let right = server(&self.gateways[1], &format!("-i t2 -a -s --allow any {flags} {shared}"));
        let left = simpletun(&self.gateways[0], &format!("-i t1 -a -c 10.86.43.52 {flags} {more}"));
        left.wait_for(line::DEVICE);
        [left, right]
    }

    /// Another path between the bridges, until the value is dropped; each end is prepared before it is plugged in.
    #[must_use]
    fn add_cable(&self, prepare: impl Fn(&Ns)) -> Cable {
        let [left, right] = &self.gateways;
        wire((left, "cable"), (right, "cable"));
        for gateway in [left, right] {
            prepare(gateway);
            gateway.run("ip link set cable mtu 9000 master br0");
        }
        Cable(left.clone())
    }

    /// A host of the right LAN joins a group, the left bridge learns of it by the tunnel and sends the group there.
    fn group_is_heard(&self) {
        const LISTEN: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('239.1.2.3', 7000))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton('239.1.2.3') + socket.inet_aton('192.168.1.21'))
print('joined', file=sys.stderr, flush=True)
while True:
    print(s.recv(100).decode(), file=sys.stderr, flush=True)
";
        const SAY: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('192.168.1.11'))
s.sendto(b'heard', ('239.1.2.3', 7000))
";
        let [left, right] = &self.hosts;
        self.gateways[0].run("ip link set br0 type bridge mcast_querier 1");
        let mut command = right[0].command(PYTHON);
        command.args(["-c", LISTEN]);
        let listener = Daemon::spawn("listener of a group".to_owned(), command);
        listener.wait_for("joined");
        wait_until(DEADLINE, "group in the left bridge", || {
            let groups = self.gateways[0].run("bridge mdb show dev br0");
            groups.lines().any(|group| group.contains("port t1") && group.contains("239.1.2.3"))
        });
        wait_until(DEADLINE, "word to the group", || {
            assert!(left[0].command(PYTHON).args(["-c", SAY]).status().expect("run python3").success());
            listener.said("heard")
        });
    }
}

struct Cable(Ns);

impl Drop for Cable {
    fn drop(&mut self) {
        self.0.try_run("ip link del cable");
    }
}

/// What a host of a LAN has to bear: the frames that reach it, and the processor time of a program that takes them.
struct Load {
    host: Ns,
    program: Daemon,
    frames: u64,
    cpu: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Burden {
    frames: u64,
    cpu: Duration,
}

impl Load {
    #[track_caller]
    fn of(host: &Ns) -> Self {
        const TAKE: &str = "
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
print('taking', file=sys.stderr, flush=True)
while True:
    s.recv(65536)
";
        let mut command = host.command(PYTHON);
        command.args(["-c", TAKE]);
        let program = Daemon::spawn("a program that takes frames".to_owned(), command);
        program.wait_for("taking");
        let (frames, cpu) = (received(host, "eth0"), program.usage().cpu);
        Self { host: host.clone(), program, frames, cpu }
    }

    fn until_now(&self) -> Burden {
        Burden { frames: received(&self.host, "eth0") - self.frames, cpu: self.program.usage().cpu - self.cpu }
    }
}

/// What the tunnel says about the LANs that it joins.
#[track_caller]
fn segment(device: &str) -> Value {
    let text = Ns::here().run(&format!("{} status {device} --json", env!("CARGO_BIN_EXE_simpletun")));
    let status: Value = serde_json::from_str(&text).expect("JSON");
    status["segment"].clone()
}
