//! Programs that others wrote, in both roles: socat and QuickTun over UDP, and over TCP a stand-in for the original
//! that ends at the first thing it does not expect.

use std::net::TcpListener;
use std::time::Duration;

use crate::common::daemon::{Daemon, server, simpletun};
use crate::common::lab::{Background, LOCAL, Lab, Ns, PYTHON, REMOTE};
use crate::common::line;
use crate::common::net::transfer;
use crate::common::peer::{Datagrams, PORT, Wire};
use crate::common::wait::{DEADLINE, holds_for};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";

#[test]
fn the_original_client_on_tun_is_served() {
    let lab = Lab::new();
    let server = server(&lab.remote, "-i tun3 -s --address 192.168.0.2/24");
    let original = original_with_device(&lab.local, "tun", "-c 10.86.43.52 -u", NEAR);
    survives(&lab, original, server);
}

#[test]
fn the_original_server_on_tun_is_connected_to() {
    let lab = Lab::new();
    let original = original_with_device(&lab.local, "tun", "-s -u", NEAR);
    lab.local.wait_for_listener(PORT);
    let client = simpletun(&lab.remote, "-i tun3 -c 10.86.43.51 --address 192.168.0.2/24");
    survives(&lab, original, client);
}

#[test]
fn the_original_client_on_tap_is_served() {
    let lab = Lab::new();
    let server = server(&lab.remote, "-i tap3 -s -a --address 192.168.0.2/24");
    let original = original_with_device(&lab.local, "tap", "-c 10.86.43.52 -a", NEAR);
    survives(&lab, original, server);
}

#[test]
fn the_original_server_on_tap_is_connected_to() {
    let lab = Lab::new();
    let original = original_with_device(&lab.local, "tap", "-s -a", NEAR);
    lab.local.wait_for_listener(PORT);
    let client = simpletun(&lab.remote, "-i tap3 -c 10.86.43.51 -a --address 192.168.0.2/24");
    survives(&lab, original, client);
}

/// The original cannot take a keepalive, a greeting or an empty frame: on a plain link there is only traffic.
#[test]
fn a_server_sends_nothing_of_its_own_on_tcp() {
    let lab = Lab::quiet();
    let _server = server(&lab.remote, "-i tun3 -s --address 192.168.0.2/24 --keepalive 1s --down-after 2s");
    let mut wire = Wire::connect("10.86.43.52:55555");
    assert_eq!(wire.receive(Duration::from_secs(5)), None, "nothing but traffic is sent");
    wire.echo(NEAR, FAR, 1);
}

#[test]
fn a_client_sends_nothing_of_its_own_on_tcp() {
    let lab = Lab::quiet();
    let listener = TcpListener::bind((LOCAL, PORT)).expect("listen");
    let client =
        simpletun(&lab.remote, "-i tun3 -c 10.86.43.51 --address 192.168.0.2/24 --keepalive 1s --down-after 2s");
    let mut wire = Wire::accept(&listener);
    client.wait_for(line::UP);
    assert_eq!(wire.receive(Duration::from_secs(5)), None, "nothing but traffic is sent");
    wire.echo(NEAR, FAR, 1);
}

#[test]
fn a_client_sends_nothing_of_its_own_on_udp() {
    let lab = Lab::quiet();
    let peer = Datagrams::bind("10.86.43.51:55555");
    let client = simpletun(&lab.remote, "-i tun3 -c 10.86.43.51 --udp --mtu 1500 --address 192.168.0.2/24");
    client.wait_for(line::DEVICE);
    lab.remote.wait_for_device("tun3");
    assert_eq!(peer.receive(Duration::from_secs(3)), None, "nothing but traffic is sent");
    let _ping = lab.remote.start("ping -i 0.2 192.168.0.1");
    peer.answer_first_sender().echo(NEAR, FAR, 1);
}

#[test]
fn a_socat_server_on_tun_is_connected_to() {
    socat_server("tun", "");
}

#[test]
fn a_socat_server_on_tap_is_connected_to() {
    socat_server("tap", "-a");
}

#[test]
fn a_socat_client_on_tun_is_served() {
    socat_client("tun", "");
}

#[test]
fn a_socat_client_on_tap_is_served() {
    socat_client("tap", "-a");
}

#[test]
fn a_quicktun_peer_is_connected_to() {
    let lab = Lab::new();
    let _quicktun = quicktun(&lab.local, 3000, "REMOTE_PORT=3001");
    let client = simpletun(
        &lab.remote,
        "-i tun3 -c 10.86.43.51:3000 --bind 10.86.43.52:3001 --udp --mtu 1500 --address 192.168.0.2/24",
    );
    client.wait_for(line::DEVICE);
    lab.remote.wait_for_device("tun3");
    carries(&lab);
    client.wait_for(line::UP);
}

#[test]
fn a_quicktun_peer_is_served() {
    let lab = Lab::new();
    let server =
        server(&lab.remote, "-i tun3 -s --udp -p 3001 --remote 10.86.43.51:3000 --mtu 1500 --address 192.168.0.2/24");
    let _quicktun = quicktun(&lab.local, 3000, "REMOTE_PORT=3001");
    carries(&lab);
    server.wait_for(line::UP);
}

/// With `--remote` a UDP server knows where to send before it has heard anything.
#[test]
fn a_server_with_a_known_remote_speaks_first_over_udp() {
    let lab = Lab::quiet();
    let peer = Datagrams::bind("10.86.43.51:3000");
    let _server = server(&lab.remote, "-i tun3 -s --udp --remote 10.86.43.51:3000 --mtu 1500 --address 192.168.0.2/24");
    let _ping = lab.remote.start("ping -i 0.2 192.168.0.1");
    peer.answer_first_sender().echo(NEAR, FAR, 1);
}

/// Pings, data and a device that goes down and up at our end: all that the original must not notice.
#[track_caller]
fn survives(lab: &Lab, mut original: Daemon, daemon: Daemon) {
    daemon.wait_for(line::UP);
    let device = if lab.remote.has_device("tun3") { "tun3" } else { "tap3" };
    lab.local.ping_until_answered(FAR, DEADLINE);
    lab.local.ping(FAR, 5, 56);
    lab.remote.ping(NEAR, 5, 56);
    lab.local.ping(FAR, 3, 1472);
    lab.remote.ping(NEAR, 3, 1472);
    transfer(&lab.local, &lab.remote, FAR, 2_000_000);
    transfer(&lab.remote, &lab.local, NEAR, 2_000_000);

    lab.remote.run(&format!("ip link set {device} down"));
    assert!(!lab.local.answers(FAR), "a device that is down does not answer");
    lab.remote.run(&format!("ip link set {device} up"));
    lab.local.ping_until_answered(FAR, DEADLINE);

    let mark = daemon.mark();
    daemon.signal("USR2");
    daemon.wait_after(mark, line::STATISTICS);
    holds_for(Duration::from_millis(500), "the original runs on", || original.is_running());
    lab.local.ping(FAR, 3, 56);

    drop(daemon);
    assert_ne!(original.wait_exit(), 0, "the original ends when its peer leaves");
}

fn original_with_device(ns: &Ns, mode: &str, args: &str, address: &str) -> Daemon {
    ns.run(&format!("ip tuntap add dev old0 mode {mode}"));
    ns.run("ip link set old0 up");
    ns.address("old0", &[&format!("{address}/24")]);
    let mut command = ns.command(PYTHON);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/original.py"));
    command.args(format!("-i old0 {args}").split_whitespace());
    let original = Daemon::spawn(format!("original.py {args}"), command);
    original.wait_for("Successfully connected to interface old0");
    original
}

fn socat_server(kind: &str, flag: &str) {
    let lab = Lab::new();
    let _socat = socat(&lab.local, kind, "UDP4-LISTEN:55555");
    let client = simpletun(&lab.remote, &format!("-i {kind}3 {flag} -c {LOCAL} --udp --mtu 1500 --address {FAR}/24"));
    client.wait_for(line::DEVICE);
    lab.remote.wait_for_device(&format!("{kind}3"));
    // Our end speaks first: socat has no peer before.
    lab.remote.ping_until_answered(NEAR, DEADLINE);
    carries(&lab);
    client.wait_for(line::UP);
}

fn socat_client(kind: &str, flag: &str) {
    let lab = Lab::new();
    let server = server(&lab.remote, &format!("-i {kind}3 {flag} -s --udp --mtu 1500 --address {FAR}/24"));
    let _socat = socat(&lab.local, kind, &format!("UDP4-CONNECT:{REMOTE}:55555"));
    carries(&lab);
    server.wait_for(line::UP);
}

fn socat(ns: &Ns, kind: &str, peer: &str) -> Background {
    let socat = ns.start(&format!("socat TUN:{NEAR}/24,tun-type={kind},tun-name=socat0,iff-no-pi,up {peer}"));
    ns.wait_for_device("socat0");
    socat
}

/// QuickTun takes its settings from the environment, with this prefix when a network script runs it.
fn quicktun(ns: &Ns, port: u16, peer: &str) -> Background {
    let quicktun = ns.start(&format!(
        "env IFACE=qt0 IF_QT_INTERFACE=qt0 IF_QT_PROTOCOL=raw IF_QT_TUN_MODE=1 IF_QT_LOCAL_ADDRESS={LOCAL} \
         IF_QT_LOCAL_PORT={port} IF_QT_REMOTE_ADDRESS={REMOTE} IF_QT_{peer} quicktun"
    ));
    ns.wait_for_device("qt0");
    ns.run("ip link set qt0 up");
    ns.address("qt0", &[&format!("{NEAR}/24")]);
    quicktun
}

#[track_caller]
fn carries(lab: &Lab) {
    lab.local.ping_until_answered(FAR, DEADLINE);
    lab.local.ping(FAR, 5, 56);
    lab.remote.ping(NEAR, 5, 56);
    lab.local.ping(FAR, 3, 1472);
    lab.remote.ping(NEAR, 3, 1472);
    transfer(&lab.local, &lab.remote, FAR, 1_000_000);
    transfer(&lab.remote, &lab.local, NEAR, 1_000_000);
}
