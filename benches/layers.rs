//! What each layer costs by itself: framing, checksums, segmentation offload, and the loop of two daemons over socket
//! pairs in place of devices. `cargo bench --bench layers`; no privileges needed. `scripts/bench.sh` measures the whole.

#![expect(clippy::disallowed_methods, reason = "a stopwatch is what this program is")]

use std::hint::black_box;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use byteorder::{BigEndian, ByteOrder};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair};
use nix::sys::time::TimeVal;
use simpletun::config::{Config, KeyFiles, LinkLayer};
use simpletun::device::Device;
use simpletun::event_loop::{EventLoop, WhenPeerLeaves};
use simpletun::offload::checksum::Sum;
use simpletun::offload::merge::{Batch, Merger, Written};
use simpletun::offload::split::Segments;
use simpletun::offload::{Capabilities, Checksum, Segmentation, VirtioHeader};
use simpletun::relay::Relay;
use simpletun::transport::admission::Surroundings;
use simpletun::transport::frame::{Decoder, Encoder};
use simpletun::transport::{self, Mode};
use simpletun::tunnel::Tunnel;

criterion_group!(layers, frames, checksums, split, merge, daemons);
criterion_main!(layers);

const IPV4_LEN: usize = 20;
const TCP_LEN: usize = 20;
/// TCP payload of a packet of 1500 bytes.
const SEGMENT_LEN: usize = 1500 - IPV4_LEN - TCP_LEN;
/// A super-packet of the largest size that a device is given: just below 60,000 bytes.
const SEGMENTS: usize = 41;

fn frames(criterion: &mut Criterion) {
    const COUNT: usize = 40;
    let mut group = criterion.benchmark_group("frame");
    group.throughput(Throughput::Elements(COUNT as u64));
    for len in [64, 1500] {
        let packet = vec![7; len];
        let mut encoder = Encoder::default();
        group.bench_function(BenchmarkId::new("encode", len), |bencher| {
            bencher.iter(|| {
                for _ in 0..COUNT {
                    assert!(encoder.push_with(len, |body| body.copy_from_slice(black_box(&packet))), "room");
                }
                encoder.consume(black_box(encoder.pending()).len());
            });
        });

        (0..COUNT).for_each(|_| assert!(encoder.push_with(len, |body| body.copy_from_slice(&packet)), "room"));
        let wire = encoder.pending().to_vec();
        let mut decoder = Decoder::default();
        group.bench_function(BenchmarkId::new("decode", len), |bencher| {
            // The copy stands for what a receive does.
            bencher.iter(|| {
                decoder.space()[..wire.len()].copy_from_slice(&wire);
                decoder.advance(wire.len());
                let frames = std::iter::from_fn(|| decoder.next_frame().map(|frame| black_box(frame).len()));
                assert_eq!(frames.count(), COUNT);
            });
        });
    }
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for len in [64, 1500, 65_536] {
        let bytes: Vec<u8> = (0..len).map(|index| index as u8).collect();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter(|| Sum::of(black_box(&bytes)).finish());
        });
    }
}

fn split(criterion: &mut Criterion) {
    let (header, packet) = super_packet();
    let mut group = criterion.benchmark_group("split");
    group.throughput(Throughput::Bytes(packet.len() as u64));
    group.bench_function(BenchmarkId::new("tcp4", SEGMENTS), |bencher| {
        bencher.iter_batched_ref(
            || packet.clone(),
            |packet| {
                let mut segments = Segments::new(&header, packet, LinkLayer::Tun).expect("a legal super-packet");
                let mut count = 0;
                while let Some(segment) = segments.next_packet() {
                    black_box(segment);
                    count += 1;
                }
                assert_eq!(count, SEGMENTS);
            },
            BatchSize::SmallInput,
        );
    });
}

fn merge(criterion: &mut Criterion) {
    let (header, mut packet) = super_packet();
    let len = packet.len();
    let mut segments = Segments::new(&header, &mut packet, LinkLayer::Tun).expect("a legal super-packet");
    let mut packets = Vec::with_capacity(SEGMENTS);
    while let Some(segment) = segments.next_packet() {
        packets.push(segment.to_vec());
    }
    let mut merger = Merger::new(LinkLayer::Tun, Capabilities { tcp_v4: true, tcp_v6: true, udp: true });

    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Bytes(len as u64));
    group.bench_function(BenchmarkId::new("tcp4", SEGMENTS), |bencher| {
        bencher.iter_batched_ref(
            || packets.clone(),
            |packets| {
                let mut batch = Batch::new(&mut merger);
                packets.iter_mut().for_each(|packet| batch.push(packet, Checksum::Unknown).expect("room in the batch"));
                let mut written = Vec::with_capacity(1);
                batch.drain(&mut |header, parts, count| {
                    black_box((header, parts));
                    written.push((count, parts.iter().map(|part| part.len()).sum::<usize>()));
                    Written::Done
                });
                assert_eq!(written, [(SEGMENTS, len)]);
            },
            BatchSize::SmallInput,
        );
    });
}

/// Bursts through both daemons: device, relay and transport of one, then of the other, with all their system calls.
fn daemons(criterion: &mut Criterion) {
    /// Less than the device of the receiving end holds, since a full one drops.
    const BURST: usize = 32;
    let mut group = criterion.benchmark_group("daemons");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, flags) in [("tcp", ""), ("udp", "-U")] {
        let (near, far) = link(flags);
        for len in [64, 1472] {
            let packet = ipv4_packet(len);
            let mut buffer = vec![0; 2048];
            group.bench_function(BenchmarkId::new(name, len), |bencher| {
                bencher.iter_custom(|count| {
                    let start = Instant::now();
                    for _ in 0..count {
                        (0..BURST).for_each(|_| write(&near, &packet));
                        (0..BURST).for_each(|_| assert_eq!(read(&far, &mut buffer).expect("every packet"), len));
                    }
                    start.elapsed()
                });
            });
        }
    }
}

/// TCP over IPv4 as the kernel hands it out: the checksum covers the pseudo-header only.
fn super_packet() -> (VirtioHeader, Vec<u8>) {
    let mut packet = ipv4_packet(IPV4_LEN + TCP_LEN + SEGMENTS * SEGMENT_LEN);
    let transport_len = (packet.len() - IPV4_LEN) as u16;
    packet[9] = 6;
    BigEndian::write_u16(&mut packet[10..12], 0);
    let checksum = Sum::of(&packet[..IPV4_LEN]).finish();
    BigEndian::write_u16(&mut packet[10..12], checksum);
    let pseudo = Sum::of(&packet[12..20]).plus(Sum::of_number(6)).plus(Sum::of_number(transport_len)).fold();

    let tcp = &mut packet[IPV4_LEN..];
    BigEndian::write_u16(&mut tcp[0..2], 40_000);
    BigEndian::write_u16(&mut tcp[2..4], 5201);
    tcp[12] = (TCP_LEN as u8 / 4) << 4;
    tcp[13] = 0x10;
    BigEndian::write_u16(&mut tcp[16..18], pseudo);
    let header = VirtioHeader {
        needs_checksum: true,
        segmentation: Some(Segmentation::TcpV4),
        header_len: (IPV4_LEN + TCP_LEN) as u16,
        segment_len: SEGMENT_LEN as u16,
        checksum_start: IPV4_LEN as u16,
        checksum_offset: 16,
        ..VirtioHeader::default()
    };
    (header, packet)
}

/// A packet with an IPv4 header, but for the checksum, and zeros.
fn ipv4_packet(len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    BigEndian::write_u16(&mut packet[2..4], len as u16);
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = 17;
    packet[12..20].copy_from_slice(&[192, 168, 0, 1, 192, 168, 0, 2]);
    packet
}

/// The far sides of the devices of two daemons that are joined over loopback.
fn link(flags: &str) -> (OwnedFd, OwnedFd) {
    let port = free_port();
    let far = daemon(&format!("-i t -s -p {port} {flags}"));
    let near = daemon(&format!("-i t -c 127.0.0.1:{port} {flags}"));
    let hello = ipv4_packet(64);
    let mut buffer = vec![0; 2048];
    // Until the peer is there packets are dropped.
    set_receive_timeout(&far, 20);
    let end = Instant::now() + Duration::from_secs(10);
    while read(&far, &mut buffer).is_err() {
        assert!(Instant::now() < end, "a link within 10 s");
        write(&near, &hello);
    }
    while read(&far, &mut buffer).is_ok() {}
    set_receive_timeout(&far, 10_000);
    (near, far)
}

fn daemon(line: &str) -> OwnedFd {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("a socket pair");
    fcntl(&theirs, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a non-blocking end");
    let cli = simpletun::cli::Cli::from_arguments(std::iter::once("simpletun").chain(line.split_whitespace()));
    let config = Config::new(&cli.expect("legal flags").options, &|_, _| None, &KeyFiles::from_environment())
        .expect("a legal configuration");
    let (ready, is_ready) = channel();
    thread::spawn(move || {
        let device = Device::from_fd(theirs, "t", config.device.kind);
        let mut event_loop = EventLoop::new(&device).expect("an event loop");
        let surroundings = Surroundings {
            connected_subnets: || Ok(Vec::new()),
            interface_towards: |_, _| Ok(1),
            mtu_towards: |_, _, _| Ok(1500),
        };
        let context = event_loop.context(surroundings, Mode::Plain, None).expect("a context");
        let transport = transport::open(&config.link, context, event_loop.now()).expect("a transport");
        let now = event_loop.now();
        let mut relay =
            Relay::new(device, transport, Tunnel::plain(config.device.kind), &config.link, config.debug, now);
        ready.send(()).expect("somebody waits");
        // It ends with an error when the benchmark closes the device's far side.
        drop(event_loop.run(&mut relay, WhenPeerLeaves::GoOn));
    });
    is_ready.recv_timeout(Duration::from_secs(10)).expect("a running daemon");
    ours
}

fn free_port() -> u16 {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = tcp.local_addr().expect("its number").port();
    UdpSocket::bind(("127.0.0.1", port)).expect("the same port for datagrams");
    port
}

fn set_receive_timeout(device: &OwnedFd, milliseconds: i64) {
    let timeout = TimeVal::new(milliseconds / 1000, milliseconds % 1000 * 1000);
    setsockopt(device, ReceiveTimeout, &timeout).expect("a timeout");
}

fn write(device: &OwnedFd, packet: &[u8]) {
    assert_eq!(send(device.as_raw_fd(), packet, MsgFlags::empty()).expect("room"), packet.len());
}

fn read(device: &OwnedFd, buffer: &mut [u8]) -> nix::Result<usize> {
    recv(device.as_raw_fd(), buffer, MsgFlags::empty())
}
