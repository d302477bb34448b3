//! Peers that break the framing, send nonsense, or never read: what is wrong is counted and dropped, the stream stays
//! in step, and neither processor nor memory runs away.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, server, simpletun};
use crate::common::lab::{LOCAL, Lab, Ns};
use crate::common::net::noise;
use crate::common::peer::{Datagrams, PORT, Wire, echo_reply_sequence, echo_request, framed, udp_packet};
use crate::common::wait::{DEADLINE, holds_for, wait_until};
use crate::common::{line, stat};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";
const SERVER: &str = "10.86.43.52:55555";

/// The bar of the project is 16 MiB for a release build; a debug build is larger by its code pages.
const MEMORY_KIB: u64 = 32 * 1024;

#[test]
fn empty_frames_are_counted_and_dropped() {
    let (_lab, server, mut wire) = tun_server();
    wire.send_raw(&[0; 2 * 1000]);
    wire.echo(NEAR, FAR, 1);
    assert!(server.statistics().get(stat::DROP_INVALID) >= 1000);
}

#[test]
fn packets_too_short_for_ip_are_counted_and_dropped() {
    let (_lab, server, mut wire) = tun_server();
    for len in 1..20 {
        wire.send(&echo_request(NEAR, FAR, 1, 56)[..len]);
    }
    wire.echo(NEAR, FAR, 2);
    assert!(server.statistics().get(stat::DROP_INVALID) >= 19);
}

#[test]
fn frames_too_short_for_ethernet_are_counted_and_dropped() {
    let lab = Lab::quiet();
    let server = server(&lab.remote, "-i tap3 -s -a --up");
    let mut wire = Wire::connect(SERVER);
    for len in 1..14 {
        wire.send(&[0xff; 14][..len]);
    }
    let before = device_packets(&lab.remote, "tap3", "rx");
    wire.send(&broadcast_frame(60));
    wait_until(DEADLINE, "frame on the device", || device_packets(&lab.remote, "tap3", "rx") > before);
    assert!(server.statistics().get(stat::DROP_INVALID) >= 13);
}

#[test]
fn packets_of_no_ip_version_are_counted_and_dropped() {
    let (_lab, server, mut wire) = tun_server();
    for version in [0_u8, 1, 2, 3, 5, 7, 8, 15] {
        let mut packet = echo_request(NEAR, FAR, 1, 56);
        packet[0] = version << 4 | 5;
        wire.send(&packet);
    }
    wire.echo(NEAR, FAR, 2);
    assert!(server.statistics().get(stat::DROP_INVALID) >= 8);
}

/// 65,535 bytes is a legal length, whatever the MTU of the device.
#[test]
fn the_largest_frame_reaches_the_device() {
    let (lab, _server, mut wire) = tun_server();
    let before = device_bytes(&lab.remote, "tun3", "rx");
    wire.send(&echo_request(NEAR, FAR, 1, 65_535 - 28));
    wait_until(DEADLINE, "65,535 bytes on the device", || device_bytes(&lab.remote, "tun3", "rx") >= before + 65_535);
    wire.echo(NEAR, FAR, 2);
}

#[test]
fn the_largest_frame_reaches_a_tap_device() {
    let lab = Lab::quiet();
    let _server = server(&lab.remote, "-i tap3 -s -a --up");
    let mut wire = Wire::connect(SERVER);
    for len in [14, 60, 1514, 9014, 65_535] {
        let before = device_packets(&lab.remote, "tap3", "rx");
        wire.send(&broadcast_frame(len));
        wait_until(DEADLINE, format!("{len} bytes on the device"), || {
            device_packets(&lab.remote, "tap3", "rx") > before
        });
    }
}

#[test]
fn the_largest_frame_of_nonsense_leaves_the_stream_in_step() {
    let (_lab, server, mut wire) = tun_server();
    for _ in 0..20 {
        wire.send(&[0xff; 65_535]);
    }
    wire.echo(NEAR, FAR, 1);
    assert!(server.statistics().get(stat::DROP_INVALID) >= 20);
}

#[test]
fn a_frame_that_comes_byte_by_byte_is_one_packet() {
    let (_lab, _server, mut wire) = tun_server();
    for byte in framed(&echo_request(NEAR, FAR, 7, 200)) {
        wire.send_raw(&[byte]);
    }
    let reply = wire.receive(DEADLINE).expect("a reply");
    assert_eq!(echo_reply_sequence(&reply), Some(7));
}

#[test]
fn frames_cut_anywhere_stay_in_step() {
    const COUNT: u16 = 500;
    let (_lab, _server, mut wire) = tun_server();
    let cuts = noise(4000);
    let mut cuts = cuts.iter().map(|byte| usize::from(*byte) + 1).cycle();
    let stream: Vec<u8> =
        (0..COUNT).flat_map(|i| framed(&echo_request(NEAR, FAR, i, usize::from(i) % 100 * 14))).collect();
    let mut replies = 0;
    let mut rest = stream.as_slice();
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(cuts.next().expect("endless").min(rest.len()));
        wire.send_raw(piece);
        rest = tail;
    }
    while replies < COUNT {
        let reply = wire.receive(DEADLINE).unwrap_or_else(|| panic!("{replies} of {COUNT} replies came"));
        assert_eq!(echo_reply_sequence(&reply), Some(replies), "replies come whole and in order");
        replies += 1;
    }
}

#[test]
fn a_connection_that_ends_inside_a_frame_is_forgotten() {
    let (_lab, server, mut wire) = tun_server();
    wire.echo(NEAR, FAR, 1);
    wire.send_raw(&framed(&echo_request(NEAR, FAR, 2, 56))[..40]);
    drop(wire);
    server.wait_for(line::DOWN);
    Wire::connect(SERVER).echo(NEAR, FAR, 3);
}

#[test]
fn a_connection_that_ends_inside_a_length_is_forgotten() {
    let (_lab, server, mut wire) = tun_server();
    wire.send_raw(&[5]);
    drop(wire);
    server.wait_for(line::DOWN);
    Wire::connect(SERVER).echo(NEAR, FAR, 1);
}

#[test]
fn garbage_harms_neither_server_nor_successor() {
    let (_lab, mut server, mut wire) = tun_server();
    for round in 0..20 {
        // The daemon may hang up on nonsense; that is its right.
        if wire.try_send_raw(&noise(200_000 + round)).is_err() {
            break;
        }
    }
    drop(wire);
    server.wait_for(line::DOWN);
    assert!(server.is_running());
    Wire::connect(SERVER).echo(NEAR, FAR, 1);
    assert!(server.usage().resident_kib < MEMORY_KIB, "{:?}", server.usage());
}

#[test]
fn garbage_from_a_server_harms_no_client() {
    let lab = Lab::quiet();
    let listener = TcpListener::bind((LOCAL, PORT)).expect("listen");
    let mut client = simpletun(&lab.remote, "-i tun3 -c 10.86.43.51 --address 192.168.0.2/24");
    let mut wire = Wire::accept(&listener);
    let _ = wire.try_send_raw(&noise(1_000_000));
    drop(wire);
    client.wait_for(line::DOWN);
    Wire::accept(&listener).echo(NEAR, FAR, 1);
    assert!(client.is_running());
}

#[test]
fn hostile_datagrams_are_counted_and_dropped() {
    let lab = Lab::quiet();
    let mut server = server(&lab.remote, "-i tun3 -s --udp --address 192.168.0.2/24");
    let peer = Datagrams::bind("10.86.43.51:0").to(SERVER);
    peer.echo(NEAR, FAR, 1);
    for len in 0..20 {
        peer.send(&echo_request(NEAR, FAR, 2, 56)[..len]);
    }
    peer.send(&[0xff; 65_507]);
    peer.send(&noise(9000));
    peer.echo(NEAR, FAR, 3);
    assert!(server.statistics().get(stat::DROP_INVALID) >= 21);
    assert!(server.is_running());
}

#[test]
fn the_largest_datagram_reaches_the_device() {
    let lab = Lab::quiet();
    let _server = server(&lab.remote, "-i tun3 -s --udp --address 192.168.0.2/24");
    let peer = Datagrams::bind("10.86.43.51:0").to(SERVER);
    peer.echo(NEAR, FAR, 1);
    let before = device_bytes(&lab.remote, "tun3", "rx");
    peer.send(&echo_request(NEAR, FAR, 2, 65_507 - 28));
    wait_until(DEADLINE, "65,507 bytes on the device", || device_bytes(&lab.remote, "tun3", "rx") >= before + 65_507);
    peer.echo(NEAR, FAR, 3);
}

/// The other end wants a secure link: its first message must never become a packet.
#[test]
fn a_secure_handshake_with_key_pairs_is_recognised_and_refused() {
    refuses_handshake(1, 216);
}

#[test]
fn a_secure_handshake_with_a_shared_secret_is_recognised_and_refused() {
    refuses_handshake(2, 168);
}

/// With the send side full the daemon sleeps instead of spinning, keeps its memory, and still receives.
#[test]
fn a_peer_that_never_reads_costs_neither_time_nor_memory() {
    let lab = Lab::quiet();
    let server = server(&lab.remote, "-i tun3 -s --address 192.168.0.2/24");
    let mut wire = Wire::connect(SERVER);
    wire.echo(NEAR, FAR, 1);
    let flood = lab.remote.start("socat -u -b 1400 OPEN:/dev/zero UDP4:192.168.0.1:9");
    wait_until(DEADLINE, "full send side", || server.statistics().get("drop-queue-full") > 0);

    let (start, before) = (Instant::now(), server.usage());
    let mut received = device_packets(&lab.remote, "tun3", "rx");
    while start.elapsed() < Duration::from_secs(3) {
        for _ in 0..50 {
            wire.send(&udp_packet(NEAR, FAR, 9, &[0; 1000]));
        }
        received += 50;
        wait_until(DEADLINE, "packets on the device though the other direction is stuck", || {
            device_packets(&lab.remote, "tun3", "rx") >= received
        });
        std::thread::sleep(Duration::from_millis(50));
    }
    let after = server.usage();
    let share = (after.cpu - before.cpu).as_secs_f64() / start.elapsed().as_secs_f64();
    assert!(share < 0.5, "a stuck peer takes {:.0} % of a core", share * 100.0);
    assert!(after.resident_kib < MEMORY_KIB, "{after:?}");

    // Read on, and all is well. A reply would be lost among what still waits.
    drop(flood);
    while wire.receive(Duration::from_millis(300)).is_some() {}
    wire.echo(NEAR, FAR, 2);
}

/// A connection that is silent and idle costs nothing.
#[test]
fn an_idle_tunnel_takes_no_processor_time() {
    let (_lab, server, mut wire) = tun_server();
    wire.echo(NEAR, FAR, 1);
    let before = server.usage();
    holds_for(Duration::from_secs(3), "the daemon sleeps", || {
        server.usage().cpu - before.cpu <= Duration::from_millis(50)
    });
}

fn refuses_handshake(suite: u8, len: usize) {
    let (lab, server, mut wire) = tun_server();
    let before = device_packets(&lab.remote, "tun3", "rx");
    let mut init = noise(len);
    init[..4].copy_from_slice(&[0xf0, 1, suite, 0]);
    wire.send(&init);
    assert!(wire.closes_within(DEADLINE), "the connection is closed");
    server.wait_for("secure link");
    assert_eq!(device_packets(&lab.remote, "tun3", "rx"), before);
}

fn tun_server() -> (Lab, Daemon, Wire) {
    let lab = Lab::quiet();
    let server = server(&lab.remote, "-i tun3 -s --address 192.168.0.2/24");
    let wire = Wire::connect(SERVER);
    (lab, server, wire)
}

/// An Ethernet frame for everybody, of a type for local experiments.
fn broadcast_frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    frame.resize(len, 0);
    frame
}

fn device_packets(ns: &Ns, device: &str, direction: &str) -> u64 {
    counter(ns, device, &format!("{direction}_packets"))
}

fn device_bytes(ns: &Ns, device: &str, direction: &str) -> u64 {
    counter(ns, device, &format!("{direction}_bytes"))
}

fn counter(ns: &Ns, device: &str, name: &str) -> u64 {
    let text = ns.run(&format!("cat /sys/class/net/{device}/statistics/{name}"));
    text.trim().parse().expect("a number")
}
