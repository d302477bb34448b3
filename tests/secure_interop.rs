//! Secure links between the daemon and the second implementation (`tests/peer/secure.py`): every way to agree on keys,
//! in both roles, over both transports, with both ciphers, and super-packets in both directions.

use std::fs;

use crate::common::daemon::{Daemon, Mark, server, simpletun};
use crate::common::forge::{ACK, FIN, Forged, Protocol, SYN, Version};
use crate::common::inspect::{Link, checksums};
use crate::common::known_keys::Suite;
use crate::common::lab::Lab;
use crate::common::net::noise;
use crate::common::peer::{echo_reply_sequence, echo_request};
use crate::common::secure_peer::{SecurePeer, Wire, hex};
use crate::common::wait::{DEADLINE, wait_until};
use crate::common::{line, stat};
use serde_json::json;
use simpletun::config::LinkLayer;
use simpletun::offload::{Segmentation, VirtioHeader};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";

const SUPER: u8 = 0xf5;
const FRAG: u8 = 0xf7;

macro_rules! rows {
    ($($name:ident: $role:ident over $wire:ident with $suite:ident;)*) => {
        $(
            #[test]
            fn $name() {
                carries(Role::$role, Wire::$wire, Suite::$suite);
            }
        )*
    };
}

rows! {
    a_listening_daemon_agrees_with_the_second_implementation_on_pairs_over_tcp: Listens over Tcp with Pairs;
    a_listening_daemon_agrees_with_the_second_implementation_on_pairs_and_psk_over_tcp: Listens over Tcp with PairsWithPsk;
    a_listening_daemon_agrees_with_the_second_implementation_on_a_secret_over_tcp: Listens over Tcp with Secret;
    a_listening_daemon_agrees_with_the_second_implementation_on_pairs_over_udp: Listens over Udp with Pairs;
    a_listening_daemon_agrees_with_the_second_implementation_on_pairs_and_psk_over_udp: Listens over Udp with PairsWithPsk;
    a_listening_daemon_agrees_with_the_second_implementation_on_a_secret_over_udp: Listens over Udp with Secret;
    a_connecting_daemon_agrees_with_the_second_implementation_on_pairs_over_tcp: Connects over Tcp with Pairs;
    a_connecting_daemon_agrees_with_the_second_implementation_on_pairs_and_psk_over_tcp: Connects over Tcp with PairsWithPsk;
    a_connecting_daemon_agrees_with_the_second_implementation_on_a_secret_over_tcp: Connects over Tcp with Secret;
    a_connecting_daemon_agrees_with_the_second_implementation_on_pairs_over_udp: Connects over Udp with Pairs;
    a_connecting_daemon_agrees_with_the_second_implementation_on_pairs_and_psk_over_udp: Connects over Udp with PairsWithPsk;
    a_connecting_daemon_agrees_with_the_second_implementation_on_a_secret_over_udp: Connects over Udp with Secret;
}

/// What the daemon does.
#[derive(Clone, Copy, Debug)]
enum Role {
    Connects,
    Listens,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    role: Role,
    wire: Wire,
    suite: Suite,
    /// The daemon's choice, which decides: the other end takes what it gets.
    aead: &'static str,
}

fn carries(role: Role, wire: Wire, suite: Suite) {
    let lab = Lab::quiet();
    for (aead, number) in [("aes-256-gcm", 1), ("chacha20-poly1305", 2)] {
        let row = Row { role, wire, suite, aead };
        let (daemon, mut peer) = row.start(&lab);
        assert_eq!(row.session(&mut peer), number, "{row:?}");
        assert!(daemon.wait_for("secure session").contains(aead), "{row:?}");
        daemon.wait_for(line::UP);
        row.carries_through_rekeys(&mut peer);
        row.asks_and_answers(&mut peer);
        row.comes_back_after_the_peer_says_goodbye(&daemon, &mut peer);
        row.says_goodbye(&lab, daemon, &mut peer);
    }
}

impl Row {
    fn start(&self, lab: &Lab) -> (Daemon, SecurePeer) {
        let keys = self.suite.near_peer();
        match self.role {
            Role::Listens => {
                let daemon = self.daemon(lab);
                let peer = SecurePeer::connect(&lab.local, self.wire, "10.86.43.52:55555", &keys, "--timers no");
                (daemon, peer)
            }
            Role::Connects => {
                let peer = SecurePeer::listen(&lab.local, self.wire, "10.86.43.51:55555", &keys, "--timers no");
                (self.daemon(lab), peer)
            }
        }
    }

    fn daemon(&self, lab: &Lab) -> Daemon {
        let Self { wire, suite, aead, .. } = self;
        let options = format!(
            "-i tun3 --address {FAR}/24 {} {} --aead {aead} --rekey-after 1s --keepalive 1s",
            wire.option(),
            suite.far()
        );
        match self.role {
            Role::Listens => server(&lab.remote, &format!("-s {options}")),
            Role::Connects => simpletun(&lab.remote, &format!("-c 10.86.43.51 {options}")),
        }
    }

    /// Waits for a session, or begins it if that is the peer's part; the number of its cipher.
    fn session(&self, peer: &mut SecurePeer) -> u64 {
        let command = match self.role {
            Role::Listens => "handshake",
            Role::Connects => "session",
        };
        let aead = peer.run(command, json!({}))["session"]["aead"].clone();
        aead.as_u64().expect("a number")
    }

    /// At least sixty packets each way, none lost and none out of order, while either end begins a handshake.
    fn carries_through_rekeys(&self, peer: &mut SecurePeer) {
        request(peer, 0..10);
        let rekeyed = peer.run("rekey", json!({}));
        assert!(rekeyed["session"]["own_index"].is_u64(), "{self:?}: {rekeyed}");
        request(peer, 10..60);
        replies(peer, 0..60);
        let mut next = 60;
        wait_until(DEADLINE, "a session that the daemon has begun", || {
            request(peer, next..next + 5);
            replies(peer, next..next + 5);
            next += 5;
            peer.run("session", json!({}))["session"]["initiator"] == false
        });
        request(peer, next..next + 5);
        replies(peer, next..next + 5);
    }

    fn asks_and_answers(&self, peer: &mut SecurePeer) {
        for length in [11, 1200] {
            let pong = peer.run("ping", json!({ "length": length }));
            assert_eq!(pong["length"], length, "{self:?}");
        }
        // A second of silence, and the daemon asks. Over UDP it has also asked what the path carries.
        let mut probes = 0;
        while peer.wait_for("ping")["length"] != 11 {
            probes += 1;
        }
        assert_eq!(probes > 0, matches!(self.wire, Wire::Udp), "{self:?}: {probes}");
    }

    fn comes_back_after_the_peer_says_goodbye(&self, daemon: &Daemon, peer: &mut SecurePeer) {
        let mark = daemon.mark();
        peer.run("close", json!({}));
        let down = daemon.wait_after(mark, line::DOWN);
        assert!(down.contains("reason=peer-closed"), "{self:?}: {down}");
        self.comes_back(daemon, mark, peer);
    }

    fn comes_back(&self, daemon: &Daemon, mark: Mark, peer: &mut SecurePeer) {
        if let (Role::Listens, Wire::Tcp) = (self.role, self.wire) {
            peer.wait_for("disconnected");
        }
        self.session(peer);
        daemon.wait_after(mark, line::UP);
        request(peer, 0..10);
        replies(peer, 0..10);
    }

    fn says_goodbye(&self, lab: &Lab, mut daemon: Daemon, peer: &mut SecurePeer) {
        daemon.terminate();
        assert_eq!(peer.wait_for("close")["reason"], 0, "{self:?}");
        assert_eq!(peer.refused("ping", json!({}))["error"], "no-session", "{self:?}");
        let daemon = self.daemon(lab);
        self.comes_back(&daemon, Mark::START, peer);
    }
}

/// Asks the host behind the daemon for echoes, without waiting for them.
fn request(peer: &mut SecurePeer, sequence: std::ops::Range<u16>) {
    let packets: Vec<_> = sequence.map(|number| hex(&echo_request(NEAR, FAR, number, 500))).collect();
    peer.run("send", json!({ "packets": packets }));
}

#[track_caller]
fn replies(peer: &mut SecurePeer, sequence: std::ops::Range<u16>) {
    let wanted: Vec<_> = sequence.clone().map(Some).collect();
    let found: Vec<_> = peer.receive(sequence.len()).iter().map(|packet| echo_reply_sequence(packet)).collect();
    assert_eq!(found, wanted);
}

/// Packets that are longer than a path of 1500 bytes carries, there and back: in parts in either direction.
#[test]
fn packets_in_parts_cross_to_and_from_the_second_implementation() {
    let lab = Lab::quiet();
    let options = format!("-i tun3 -s --udp --address {FAR}/24 --mtu 9000 {}", Suite::Secret.far());
    let daemon = server(&lab.remote, &options);
    let keys = Suite::Secret.near_peer();
    let mut peer = SecurePeer::connect(&lab.local, Wire::Udp, "10.86.43.52:55555", &keys, "");
    peer.run("handshake", json!({}));
    let lengths = [1373, 1400, 3000, 8900];
    for (number, payload_len) in (1..).zip(lengths) {
        peer.run("send", json!({ "packets": [hex(&echo_request(NEAR, FAR, number, payload_len))] }));
        let reply = peer.receive(1).remove(0);
        assert_eq!((echo_reply_sequence(&reply), reply.len()), (Some(number), payload_len + 28));
    }
    let statistics = daemon.statistics();
    assert_eq!((statistics.get("split"), statistics.get("joined")), (2, 4), "{statistics:?}");
}

/// Parts that no honest end sends, from a peer that has the keys: they cost their own packet and nothing else. None
/// reaches the device, memory stays within its cap, and packets in parts still cross.
#[test]
fn hostile_parts_cost_their_packet_and_nothing_else() {
    let (lab, daemon, mut peer) = super_link(Wire::Udp);
    request_of(&mut peer, "10.9.0.1", "10.9.1.1", "the handshake");
    let (before, memory) = (device_packets(&lab), daemon.usage().resident_kib);
    let hostile = hostile_parts();
    for (what, parts) in &hostile {
        for plaintext in parts {
            peer.run("seal", json!({ "type": FRAG, "plaintext": hex(plaintext) }));
        }
        request_of(&mut peer, "10.9.0.1", "10.9.1.1", what);
    }
    let grown = daemon.usage().resident_kib.saturating_sub(memory);
    assert!(grown < 4096, "{grown} KiB more than before");
    let statistics = daemon.statistics();
    assert!(statistics.get("drop-incomplete") > NEVER_WHOLE / 2, "{statistics:?}");
    assert!(statistics.get(stat::DROP_INVALID) >= 5, "{statistics:?}");
    let packet = echo_request("10.9.0.1", "10.9.1.1", 2, 1000);
    for (number, bytes) in (0..).zip(packet.chunks(500)) {
        let plaintext = part(77, number * 500, packet.len() as u16, bytes);
        peer.run("seal", json!({ "type": FRAG, "plaintext": hex(&plaintext) }));
    }
    assert_eq!(echo_reply_sequence(&peer.receive(1)[0]), Some(2), "parts that are in order");
    // The echo requests alone reached the device.
    assert_eq!(device_packets(&lab), before + hostile.len() as u64 + 1);
}

/// Packets of which nothing but the first part comes.
const NEVER_WHOLE: u64 = 500;

fn hostile_parts() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let packet = echo_request("10.9.0.1", "10.9.1.1", 1, 1000);
    let (total, (first, second)) = (packet.len() as u16, packet.split_at(500));
    let never_whole = (0..NEVER_WHOLE as u32).map(|number| part(1000 + number, 0, u16::MAX, &[0; 1000]));
    vec![
        ("nothing", vec![Vec::new()]),
        ("part of a header", vec![part(1, 0, total, &[])[..7].to_vec()]),
        ("no bytes of the packet", vec![part(2, 0, total, &[])]),
        ("bytes behind the packet", vec![part(3, total - 1, total, &[0; 2])]),
        ("bytes behind all packets", vec![part(4, u16::MAX, u16::MAX, &[0; 9])]),
        ("a packet of no length", vec![part(5, 0, 0, &[0])]),
        ("an overlap", vec![part(6, 0, total, &packet[..501]), part(6, 500, total, second)]),
        (
            "a part twice",
            [first, first, second].map(|bytes| part(7, if bytes == first { 0 } else { 500 }, total, bytes)).into(),
        ),
        ("two lengths", vec![part(8, 0, total, first), part(8, 500, total + 1, second)]),
        ("too many parts", (0..65).map(|offset| part(9, offset, 65, &[0x45])).collect()),
        ("another packet's second part", vec![part(10, 0, total, first), part(11, 500, total, second)]),
        ("packets that are never whole", never_whole.collect()),
    ]
}

fn part(packet: u32, offset: u16, total: u16, bytes: &[u8]) -> Vec<u8> {
    [&packet.to_be_bytes()[..], &offset.to_be_bytes(), &total.to_be_bytes(), bytes].concat()
}

#[test]
fn ethernet_frames_cross_to_and_from_the_second_implementation() {
    let lab = Lab::quiet();
    for wire in [Wire::Tcp, Wire::Udp] {
        let options = format!("-i tap3 -s -a --address {FAR}/24 {} {}", wire.option(), Suite::Secret.far());
        let _daemon = server(&lab.remote, &options);
        let keys = Suite::Secret.near_peer();
        let mut peer = SecurePeer::connect(&lab.local, wire, "10.86.43.52:55555", &keys, "--kind tap");
        peer.run("handshake", json!({}));
        // Who has 192.168.0.1? The host behind the daemon asks, hears where, and is answered.
        let ping = lab.remote.start(&format!("ping -c 1 {NEAR}"));
        let question = peer.receive(1).remove(0);
        assert_eq!(&question[12..14], [0x08, 0x06], "{wire:?}: {question:02x?}");
        let mac = [2, 0, 0, 0, 0, 9];
        let mut answer = [&question[6..12], &mac, &question[12..20], &[0, 2], &mac].concat();
        answer.extend([&question[38..42], &question[22..28], &question[28..32]].concat());
        peer.send(&answer);
        let echo = peer.receive(1).remove(0);
        assert_eq!((&echo[..6], &echo[12..14]), (&mac[..], &[0x08, 0x00][..]), "{wire:?}: {echo:02x?}");
        drop(ping);
    }
}

/// A stream both ways whose far end is a real kernel behind the daemon: what it sends comes as super-packets, which the
/// second implementation checks and cuts, and what it is sent are super-packets, too.
#[test]
fn streams_cross_as_super_packets_in_both_directions_over_tcp() {
    let (lab, daemon, mut peer) = super_link(Wire::Tcp);
    let (sent, answered) = (noise(400_000), noise(300_000));
    fs::write("/run/payload", &sent).expect("write the payload");
    let _socat = lab.remote.start(
        "socat -t 20 OPEN:/run/payload,rdonly!!OPEN:/run/received,creat,wronly TCP4:10.9.0.1:40000,sourceport=5001",
    );
    let mut stream = Stream::accept(&mut peer);
    while stream.received.len() < sent.len() {
        stream.receive(&mut peer);
    }
    assert!(stream.received == sent, "what came differs from what was sent");
    assert!(peer.wait_for("super")["packets"].as_u64() >= Some(2));

    for part in answered.chunks(20_000) {
        stream.send(&mut peer, part, 1000);
    }
    wait_until(DEADLINE, "the stream at its end", || {
        fs::metadata("/run/received").is_ok_and(|file| file.len() == answered.len() as u64)
    });
    assert!(fs::read("/run/received").expect("read what came") == answered, "what arrived differs");
    let statistics = daemon.statistics();
    assert_eq!(statistics.get(stat::DROP_BAD_SUPER), 0);
    assert!(
        statistics.get(stat::NETWORK_TX_PACKETS) < 250,
        "{} bytes left in super-packets of several segments each: {statistics:?}",
        sent.len()
    );
}

#[test]
fn datagrams_that_cross_as_super_packets_arrive_one_by_one() {
    let (lab, daemon, mut peer) = super_link(Wire::Tcp);
    lab.remote.address("tun3", &["fd09:b::1/64"]);
    for (version, family) in [(Version::V4, "UDP4"), (Version::V6, "UDP6")] {
        let file = format!("/run/{family}");
        let _socat = lab.remote.start(&format!("socat -u {family}-RECV:5001 OPEN:{file},creat"));
        wait_until(DEADLINE, "a receiver", || !lab.remote.run("ss -Hlun sport = :5001").is_empty());
        let payload = noise(30 * 1000 + 17);
        let forged = Forged::new(LinkLayer::Tun, version, Protocol::Udp, payload.clone());
        let (header, packet) = forged.super_packet(1000);
        peer.run("super", json!({ "plaintext": hex(&plaintext(header, &packet)) }));
        wait_until(DEADLINE, format!("{version:?} datagrams"), || {
            fs::metadata(&file).is_ok_and(|file| file.len() == payload.len() as u64)
        });
        assert!(fs::read(&file).expect("read what came") == payload, "{version:?}");
    }
    assert_eq!(daemon.statistics().get(stat::DROP_BAD_SUPER), 0);
}

/// Each rule of the specification broken once. The message is authentic, so the link goes on.
#[test]
fn super_packets_that_break_a_rule_are_counted_and_dropped() {
    let (lab, daemon, mut peer) = super_link(Wire::Tcp);
    let before = device_packets(&lab);
    let broken = broken_super_packets();
    for (what, bytes) in &broken {
        peer.run("super", json!({ "plaintext": hex(bytes) }));
        request_of(&mut peer, "10.9.0.1", "10.9.1.1", what);
    }
    let statistics = daemon.statistics();
    assert_eq!(statistics.get(stat::DROP_BAD_SUPER), broken.len() as u64, "{statistics:?}");
    // The echo requests alone reached the device, and nothing was lost with the connection.
    assert_eq!(device_packets(&lab), before + broken.len() as u64);
    assert_eq!(statistics.get(stat::UPS), 1);
}

/// Datagram links carry packets one by one.
#[test]
fn a_super_packet_over_udp_is_dropped() {
    let (lab, daemon, mut peer) = super_link(Wire::Udp);
    let before = device_packets(&lab);
    let forged = Forged::new(LinkLayer::Tun, Version::V4, Protocol::Udp, noise(5000));
    let (header, packet) = forged.super_packet(1000);
    peer.run("seal", json!({ "type": SUPER, "plaintext": hex(&plaintext(header, &packet)) }));
    request_of(&mut peer, "10.9.0.1", "10.9.1.1", "a super-packet");
    assert_eq!(device_packets(&lab), before + 1, "the echo request alone");
    assert_eq!(daemon.statistics().get(stat::DROP_INVALID), 1);
}

/// A link to the addresses that [`Forged`] packets have.
fn super_link(wire: Wire) -> (Lab, Daemon, SecurePeer) {
    let lab = Lab::quiet();
    let options = format!("-i tun3 -s --address 10.9.1.1/16 --mtu 1400 {} {}", wire.option(), Suite::Pairs.far());
    let daemon = server(&lab.remote, &options);
    let keys = Suite::Pairs.near_peer();
    let mut peer = SecurePeer::connect(&lab.local, wire, "10.86.43.52:55555", &keys, "--timers no");
    peer.run("handshake", json!({}));
    daemon.wait_for(line::UP);
    (lab, daemon, peer)
}

fn plaintext(header: VirtioHeader, packet: &[u8]) -> Vec<u8> {
    [&header.to_bytes(), packet].concat()
}

fn broken_super_packets() -> Vec<(&'static str, Vec<u8>)> {
    let tcp = Forged::new(LinkLayer::Tun, Version::V4, Protocol::Tcp, noise(5000));
    let (right, packet) = tcp.super_packet(1000);
    let change = |change: &dyn Fn(&mut VirtioHeader)| {
        let mut header = right;
        change(&mut header);
        plaintext(header, &packet)
    };
    let of_type = |number: u8| {
        let mut bytes = plaintext(right, &packet);
        bytes[1] = number;
        bytes
    };
    let udp = |len: usize, segment_len| {
        let (header, packet) =
            Forged::new(LinkLayer::Tun, Version::V4, Protocol::Udp, noise(len)).super_packet(segment_len);
        plaintext(header, &packet)
    };
    let (header6, packet6) = Forged::new(LinkLayer::Tun, Version::V6, Protocol::Tcp, noise(5000)).super_packet(1000);
    vec![
        ("no header", Vec::new()),
        ("part of a header", plaintext(right, &packet)[..9].to_vec()),
        ("a header alone", right.to_bytes().to_vec()),
        ("no checksum to be made", change(&|header| header.needs_checksum = false)),
        ("the checksum in another place", change(&|header| header.checksum_offset = 14)),
        ("a place of UDP in a TCP packet", change(&|header| header.checksum_offset = 6)),
        ("a checksum behind the packet", change(&|header| header.checksum_start = 5_100)),
        ("a checksum inside the IP header", change(&|header| header.checksum_start = 4)),
        ("no segmentation", of_type(0)),
        ("the old UDP fragmentation", of_type(3)),
        ("an unknown type", of_type(77)),
        ("the type of IPv6 for an IPv4 packet", of_type(4)),
        ("the type of UDP for a TCP packet", of_type(5)),
        ("the type of IPv4 for an IPv6 packet", {
            plaintext(VirtioHeader { segmentation: Some(Segmentation::TcpV4), ..header6 }, &packet6)
        }),
        ("segments of no length", change(&|header| header.segment_len = 0)),
        ("segments that are too short", change(&|header| header.segment_len = 47)),
        ("one segment", change(&|header| header.segment_len = 5000)),
        ("no payload", {
            let (header, packet) = Forged { payload: Vec::new(), ..tcp.clone() }.super_packet(1000);
            plaintext(header, &packet)
        }),
        ("more segments than UDP may have", udp(129 * 48, 48)),
    ]
}

/// The link carries a packet there and back.
#[track_caller]
fn request_of(peer: &mut SecurePeer, source: &str, target: &str, after: &str) {
    peer.send(&echo_request(source, target, 1, 56));
    assert_eq!(echo_reply_sequence(&peer.receive(1)[0]), Some(1), "after {after}");
}

fn device_packets(lab: &Lab) -> u64 {
    let text = lab.remote.run("cat /sys/class/net/tun3/statistics/rx_packets");
    text.trim().parse().expect("a number")
}

/// The near end of a TCP connection, without retransmission: nothing gets lost.
struct Stream {
    /// What is sent next, but for its payload.
    next: Forged,
    received: Vec<u8>,
}

impl Stream {
    fn accept(peer: &mut SecurePeer) -> Self {
        let packet = peer.receive(1).remove(0);
        let (sequence, flags, _) = tcp(&packet);
        assert_eq!(flags & SYN, SYN, "a connection begins: {packet:02x?}");
        let mut next = Forged::new(LinkLayer::Tun, Version::V4, Protocol::Tcp, Vec::new());
        next.acknowledgement = sequence.wrapping_add(1);
        next.window = u16::MAX;
        let answer = Forged { flags: SYN | ACK, tcp_options: vec![2, 4, 0x05, 0x50], ..next.clone() };
        peer.send(&answer.packet());
        next.sequence += 1;
        Self { next, received: Vec::new() }
    }

    fn receive(&mut self, peer: &mut SecurePeer) {
        let packet = peer.receive(1).remove(0);
        checksums(&packet, Link::Tun).unwrap_or_else(|fault| panic!("{fault}: {packet:02x?}"));
        let (sequence, flags, payload) = tcp(&packet);
        // Again only if the acknowledgement was late.
        if sequence != self.next.acknowledgement {
            return;
        }
        self.received.extend_from_slice(payload);
        self.next.acknowledgement = sequence.wrapping_add(payload.len() as u32 + u32::from(flags & FIN != 0));
        peer.send(&self.next.packet());
    }

    fn send(&mut self, peer: &mut SecurePeer, payload: &[u8], segment_len: u16) {
        let (header, packet) = Forged { payload: payload.to_vec(), ..self.next.clone() }.super_packet(segment_len);
        peer.run("super", json!({ "plaintext": hex(&plaintext(header, &packet)) }));
        self.next.sequence = self.next.sequence.wrapping_add(payload.len() as u32);
        self.await_room(peer);
    }

    /// Waits until the far end has acknowledged what was sent.
    fn await_room(&mut self, peer: &mut SecurePeer) {
        loop {
            let packet = peer.receive(1).remove(0);
            let acknowledged = u32::from_be_bytes(packet[28..32].try_into().expect("four bytes"));
            if acknowledged == self.next.sequence {
                return;
            }
        }
    }
}

/// Sequence number, flags and payload of a TCP packet over IPv4 without options.
fn tcp(packet: &[u8]) -> (u32, u8, &[u8]) {
    assert_eq!((packet[0], packet[9]), (0x45, 6), "{packet:02x?}");
    let header = usize::from(packet[32] >> 4) * 4;
    (u32::from_be_bytes(packet[24..28].try_into().expect("four bytes")), packet[33], &packet[20 + header..])
}
