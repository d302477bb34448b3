//! The real event loop over socket pairs in place of devices, without privileges: whole daemons in this process, one
//! thread each, joined over loopback.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::Pid;
use simpletun::config::{Config, KeyFiles, LinkLayer};
use simpletun::device::Device;
use simpletun::event_loop::{EventLoop, Outcome, WhenPeerLeaves};
use simpletun::relay::Relay;
use simpletun::transport::{self, Mode, admission::Surroundings};
use simpletun::tunnel::Tunnel;

const DEADLINE: Duration = Duration::from_secs(30);

/// Packets under way at the same time: what the receiving device holds, since a full one drops, as a real one does.
const WINDOW: usize = 48;

#[test]
fn packets_of_every_size_cross_both_ways() {
    for flags in ["", "-U"] {
        let (client, server) = link(flags);
        for (index, len) in [20, 21, 84, 1499, 1500, 9000, 60_000].into_iter().enumerate() {
            client.write(&packet(index, len));
            assert_eq!(server.read(), packet(index, len), "{flags} {len}");
            server.write(&packet(index, len));
            assert_eq!(client.read(), packet(index, len), "{flags} {len}");
        }
    }
    end_all();
}

#[test]
fn the_largest_packet_crosses_over_tcp() {
    let (client, server) = link("");
    client.write(&packet(1, 65_535));
    assert_eq!(server.read(), packet(1, 65_535));
    end_all();
}

/// Four streams into one link at once, with nothing reserved for any of them: the case that finds a lost wake-up.
#[test]
fn four_streams_arrive_whole_and_in_order() {
    const COUNT: usize = 4000;
    for flags in ["", "-a"] {
        let (client, server) = link(flags);
        let (window, credit) = sync_channel(WINDOW);
        let writers: Vec<JoinHandle<()>> =
            (0..4u8).map(|stream| client.stream(stream, COUNT, window.clone())).collect();
        let mut next = [0usize; 4];
        while next.iter().sum::<usize>() < 4 * COUNT {
            let packet = server.read();
            credit.recv().expect("a writer that waits");
            let stream = usize::from(packet[20]);
            assert_eq!(packet, numbered(packet[20], next[stream]), "stream {stream} in order");
            next[stream] += 1;
        }
        writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    }
    end_all();
}

#[test]
fn while_both_directions_are_full_neither_starves() {
    const COUNT: usize = 6000;
    let (client, server) = link("");
    let (to_server, server_credit) = sync_channel(WINDOW);
    let (to_client, client_credit) = sync_channel(WINDOW);
    let writers = [client.stream(0, COUNT, to_server), server.stream(0, COUNT, to_client)];
    // Reading in turns: a direction that starves would leave the other one waiting here until the deadline.
    for index in 0..COUNT {
        assert_eq!(server.read(), numbered(0, index));
        server_credit.recv().expect("a writer that waits");
        assert_eq!(client.read(), numbered(0, index));
        client_credit.recv().expect("a writer that waits");
    }
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    end_all();
}

/// A peer that does not read fills every buffer on the way. Then packets wait where the oldest give way to newer ones,
/// nothing spins, and once the peer reads, what is left arrives unaltered, each once, the newest among it.
#[test]
fn a_peer_that_stops_reading_costs_no_cpu_and_the_newest_packets_wait_for_it() {
    const COUNT: usize = 20_000;
    let (end, mut peer) = server_with_raw_peer();
    (0..COUNT).for_each(|index| write_all(&end.device, &numbered(0, index)));
    let burnt = idle_cpu_time();
    assert!(burnt < QUIET / 4, "{burnt:?} of CPU in {QUIET:?} of waiting");
    let mut read = HashSet::new();
    while !read.contains(&(COUNT - 1)) {
        let packet = read_frame(&mut peer);
        let index = u64::from_be_bytes(packet[21..29].try_into().expect("eight bytes")) as usize;
        assert_eq!(packet, numbered(0, index));
        assert!(read.insert(index), "{index} has come before");
    }
    assert!(read.len() > 1000 && read.len() < COUNT, "{} of {COUNT} have waited", read.len());
    end_all();
}

#[test]
fn signals_interrupt_nothing() {
    const COUNT: usize = 3000;
    let (client, server) = link("");
    let (window, credit) = sync_channel(WINDOW);
    let writer = client.stream(0, COUNT, window);
    for index in 0..COUNT {
        if index % 10 == 0 {
            kill(Pid::this(), Signal::SIGUSR2).expect("a signal");
        }
        assert_eq!(server.read(), numbered(0, index));
        credit.recv().expect("a writer that waits");
    }
    writer.join().expect("the writer");
    end_all();
}

#[test]
fn each_signal_has_its_outcome() {
    for (signal, expected) in [(Signal::SIGHUP, Outcome::ReloadRequested), (Signal::SIGTERM, Outcome::Terminated)] {
        let end = End::start(&format!("-i t -s -p {}", free_port()), WhenPeerLeaves::GoOn);
        kill(Pid::this(), signal).expect("a signal");
        assert_eq!(end.outcome(), expected);
    }
}

#[test]
fn usr1_makes_a_client_connect_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("its address");
    let end = End::start(&format!("-i t -c {address}"), WhenPeerLeaves::GoOn);
    let (mut first, _) = listener.accept().expect("a connection");
    kill(Pid::this(), Signal::SIGUSR1).expect("a signal");
    let (mut second, _) = listener.accept().expect("another connection");
    assert_eq!(first.read(&mut [0; 10]).expect("the end of the first"), 0);
    end.write(&packet(3, 100));
    assert_eq!(read_frame(&mut second), packet(3, 100));
    end_all();
}

#[test]
fn once_returns_when_the_peer_has_left() {
    let port = free_port();
    let end = End::start(&format!("-i t -s --once -p {port}"), WhenPeerLeaves::Return);
    let peer = connect(port);
    drop(peer);
    assert_eq!(end.outcome(), Outcome::PeerLeft);
}

#[test]
fn a_device_that_goes_away_ends_the_loop_with_an_error() {
    let end = End::start(&format!("-i t -s -p {}", free_port()), WhenPeerLeaves::GoOn);
    drop(end.device);
    let result = end.thread.join().expect("no panic");
    assert!(result.is_err(), "{result:?}");
}

#[test]
fn packets_without_a_peer_are_dropped_and_not_kept_for_later() {
    let port = free_port();
    let end = End::start(&format!("-i t -s -p {port}"), WhenPeerLeaves::GoOn);
    // More than any buffer on the way holds: the writer would block for ever if they were kept.
    (0..5000).for_each(|index| end.write(&numbered(0, index)));
    let mut peer = connect(port);
    write_frame(&mut peer, &packet(0, 40));
    assert_eq!(end.read(), packet(0, 40), "the connection is live");
    end.write(&packet(1, 50));
    // What was still in the device when the peer came may pass; it holds a few hundred of these.
    let stale = std::iter::from_fn(|| Some(read_frame(&mut peer)).filter(|frame| *frame != packet(1, 50))).count();
    assert!(stale < 1000, "{stale} stale packets");
    end_all();
}

#[test]
fn wrong_frames_are_dropped_and_the_stream_stays_in_sync() {
    let (end, mut peer) = server_with_raw_peer();
    for wrong in [vec![], vec![0x45; 19], vec![0; 100], vec![0xf0; 65_535]] {
        write_frame(&mut peer, &wrong);
        write_frame(&mut peer, &packet(wrong.len(), 60));
        assert_eq!(end.read(), packet(wrong.len(), 60), "after a frame of {} bytes", wrong.len());
    }
    // One byte at a time, and a packet longer than any usual MTU.
    let mut wire = 2000u16.to_be_bytes().to_vec();
    wire.extend(packet(9, 2000));
    peer.set_nodelay(true).expect("no delay");
    for byte in wire {
        peer.write_all(&[byte]).expect("one byte");
    }
    assert_eq!(end.read(), packet(9, 2000));
    end_all();
}

/// One end: the far side of its device, and the thread that runs it.
struct End {
    device: OwnedFd,
    thread: JoinHandle<std::io::Result<Outcome>>,
}

impl End {
    fn start(line: &str, when_peer_leaves: WhenPeerLeaves) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("a socket pair");
        fcntl(&theirs, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a non-blocking end");
        let cli = simpletun::cli::Cli::from_arguments(std::iter::once("simpletun").chain(line.split_whitespace()));
        let config = Config::new(&cli.expect("legal flags").options, &|_, _| None, &KeyFiles::from_environment())
            .expect("a legal configuration");
        let (ready, is_ready) = channel();
        let thread = thread::spawn(move || {
            let device = Device::from_fd(theirs, "t", config.device.kind);
            let mut event_loop = EventLoop::new(&device)?;
            let surroundings = Surroundings {
                connected_subnets: || Ok(Vec::new()),
                interface_towards: |_, _| Ok(1),
                mtu_towards: |_, _, _| Ok(1500),
            };
            let context = event_loop.context(surroundings, Mode::Plain, None)?;
            let transport = transport::open(&config.link, context, event_loop.now())?;
            let now = event_loop.now();
            let mut relay =
                Relay::new(device, transport, Tunnel::plain(LinkLayer::Tun), &config.link, config.debug, now);
            ready.send(()).expect("the test waits");
            event_loop.run(&mut relay, when_peer_leaves)
        });
        is_ready.recv_timeout(DEADLINE).expect("a running loop");
        Self { device: ours, thread }
    }

    fn write(&self, packet: &[u8]) {
        write_all(&self.device, packet);
    }

    /// A thread that writes numbered packets; the window's other end has to be received from for each that was read.
    fn stream(&self, stream: u8, count: usize, window: SyncSender<()>) -> JoinHandle<()> {
        let device = self.device.try_clone().expect("a descriptor");
        thread::spawn(move || {
            for index in 0..count {
                window.send(()).expect("a reader");
                write_all(&device, &numbered(stream, index));
            }
        })
    }

    fn read(&self) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let len =
            recv(std::os::fd::AsRawFd::as_raw_fd(&self.device), &mut buffer, MsgFlags::empty()).expect("a packet");
        buffer.truncate(len);
        buffer
    }

    fn outcome(self) -> Outcome {
        self.thread.join().expect("no panic").expect("an outcome")
    }
}

/// Two ends joined over loopback, and a first packet that has crossed.
fn link(flags: &str) -> (End, End) {
    let port = free_port();
    let server = End::start(&format!("-i t -s -p {port} {flags}"), WhenPeerLeaves::GoOn);
    let client = End::start(&format!("-i t -c 127.0.0.1:{port} {flags}"), WhenPeerLeaves::GoOn);
    // Packets are dropped until the peer is there: send until the first has crossed, then skip the rest of them.
    let hello = packet(77, 64);
    let (crossed, has_crossed) = channel();
    let device = client.device.try_clone().expect("a descriptor");
    let writer = thread::spawn(move || {
        let end = Instant::now() + DEADLINE;
        while has_crossed.recv_timeout(Duration::from_millis(20)).is_err() && Instant::now() < end {
            write_all(&device, &packet(77, 64));
        }
        write_all(&device, &packet(78, 64));
    });
    assert_eq!(server.read(), hello);
    crossed.send(()).expect("the writer waits");
    while server.read() != packet(78, 64) {}
    writer.join().expect("the writer");
    (client, server)
}

fn server_with_raw_peer() -> (End, TcpStream) {
    let port = free_port();
    let end = End::start(&format!("-i t -s -p {port}"), WhenPeerLeaves::GoOn);
    let mut peer = connect(port);
    write_frame(&mut peer, &packet(0, 40));
    assert_eq!(end.read(), packet(0, 40), "the connection is live");
    (end, peer)
}

fn connect(port: u16) -> TcpStream {
    let peer = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).expect("a connection");
    peer.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
    peer
}

/// Ends every loop of this process; each test is a process of its own.
fn end_all() {
    kill(Pid::this(), Signal::SIGTERM).expect("a signal");
}

fn free_port() -> u16 {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = tcp.local_addr().expect("its number").port();
    UdpSocket::bind(("127.0.0.1", port)).expect("the same port for datagrams").local_addr().expect("its number").port()
}

/// For how long a state is watched in which nothing is to happen.
const QUIET: Duration = Duration::from_secs(1);

/// Waits until what was written has been dealt with, and returns the CPU time that this process takes in the time after.
fn idle_cpu_time() -> Duration {
    let (_writer, nothing) = channel::<()>();
    let end = Instant::now() + DEADLINE;
    loop {
        let before = cpu_time();
        assert!(nothing.recv_timeout(QUIET).is_err());
        let taken = cpu_time().saturating_sub(before);
        if taken < Duration::from_millis(100) || Instant::now() > end {
            return taken;
        }
    }
}

/// CPU time of this process so far (proc_pid_stat(5): utime and stime, in ticks of 10 ms).
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("a readable /proc");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// An IPv4 packet by its version, with contents that tell packets apart.
fn packet(seed: usize, len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|index| (index.wrapping_mul(17) ^ seed.wrapping_mul(29)) as u8).collect();
    packet[0] = 0x45;
    // Not one that may be marked on its way (RFC 3168).
    packet[1] &= !3;
    packet
}

fn numbered(stream: u8, index: usize) -> Vec<u8> {
    let mut packet = packet(index, 100 + index % 1300);
    packet[20] = stream;
    packet[21..29].copy_from_slice(&(index as u64).to_be_bytes());
    packet
}

fn write_all(device: &OwnedFd, packet: &[u8]) {
    let len = send(std::os::fd::AsRawFd::as_raw_fd(device), packet, MsgFlags::empty()).expect("room for a packet");
    assert_eq!(len, packet.len());
}

fn write_frame(peer: &mut TcpStream, frame: &[u8]) {
    let mut wire = u16::try_from(frame.len()).expect("a legal length").to_be_bytes().to_vec();
    wire.extend_from_slice(frame);
    peer.write_all(&wire).expect("a frame written");
}

fn read_frame(peer: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 2];
    peer.read_exact(&mut header).expect("a header");
    let mut frame = vec![0; usize::from(u16::from_be_bytes(header))];
    peer.read_exact(&mut frame).expect("a frame");
    frame
}
