//! A cheap source and sink of small UDP packets, for packet rates that iperf3 itself cannot generate.
//!
//! `flood receive` counts what `flood send` numbers: packets a second, and which were lost, came out of order or came
//! twice. Both move a batch a system call (`sendmmsg`, `recvmmsg`), so that on the same machine most of the time is
//! left to what lies between them. Each prints one line of `name=value` pairs.
//!
//! A datagram is the sequence number and the total, 8 bytes each, then zeros. The total is 0 until the sender has
//! finished; it then says how many it sent, several times over because a datagram may be lost.

#![expect(clippy::disallowed_methods, reason = "a stopwatch and a packet clock are what this program is")]

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use byteorder::{BigEndian, ByteOrder};
use clap::Parser;
use nix::errno::Errno;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt};
use socket2::SockRef;

/// Sequence number and total.
const HEADER: usize = 16;
const SOCKET_BUFFER: usize = 8 << 20;
/// Bounds the receiver's memory for the numbers it has seen to 128 MiB.
const SEQUENCE_LIMIT: u64 = 1 << 30;
/// How often the sender says how many it has sent, and how far apart.
const FAREWELLS: usize = 50;
const FAREWELL_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Parser)]
#[command(about = "Numbered UDP packets, as many as the machine can make, and a receiver that counts them")]
enum Command {
    /// Send numbered packets to a receiver
    Send {
        to: SocketAddr,
        /// Bytes of UDP payload; 36 makes 64-byte IPv4 packets
        #[arg(long, default_value_t = 36)]
        payload: usize,
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Packets a second, as fast as possible if absent
        #[arg(long)]
        rate: Option<u32>,
        /// Packets a system call
        #[arg(long, default_value_t = 64)]
        batch: usize,
    },
    /// Count the packets of one sender, then end
    Receive {
        at: SocketAddr,
        /// Give up after this many seconds without a packet
        #[arg(long, default_value_t = 5)]
        idle: u64,
        #[arg(long, default_value_t = 64)]
        batch: usize,
    },
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Send { to, payload, seconds, rate, batch } => {
            ensure!(payload >= HEADER, "--payload is at least {HEADER}");
            ensure!(batch > 0, "--batch is at least 1");
            ensure!(rate != Some(0), "--rate is at least 1");
            send(to, payload, Duration::try_from_secs_f64(seconds)?, rate, batch)
        }
        Command::Receive { at, idle, batch } => {
            ensure!(batch > 0, "--batch is at least 1");
            ensure!(idle > 0, "--idle is at least 1");
            receive(at, Duration::from_secs(idle), batch)
        }
    }
}

fn send(to: SocketAddr, payload: usize, length: Duration, rate: Option<u32>, batch: usize) -> anyhow::Result<()> {
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let socket = UdpSocket::bind(any)?;
    SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER)?;
    socket.connect(to).with_context(|| format!("Cannot send to {to}"))?;

    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(batch, None);
    let connected = vec![None; batch];
    let mut packets = vec![vec![0; payload]; batch];
    let mut sent: u64 = 0;
    let start = Instant::now();
    while start.elapsed() < length && sent < SEQUENCE_LIMIT {
        if let Some(rate) = rate {
            let due = start + Duration::from_secs_f64(sent as f64 / f64::from(rate));
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        for (packet, sequence) in packets.iter_mut().zip(sent..) {
            BigEndian::write_u64(packet, sequence);
        }
        let slices: Vec<_> = packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
        let none: [ControlMessage; 0] = [];
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &connected, none, MsgFlags::empty()) {
            Ok(results) => sent += results.count() as u64,
            Err(Errno::ENOBUFS | Errno::EINTR) => {}
            Err(error) => return Err(error).context("Cannot send"),
        }
    }
    let seconds = start.elapsed().as_secs_f64();

    let mut farewell = vec![0; payload];
    BigEndian::write_u64(&mut farewell[8..], sent);
    for _ in 0..FAREWELLS {
        thread::sleep(FAREWELL_INTERVAL);
        // The receiver ends at the first one, and later ones are then refused.
        if socket.send(&farewell).is_err() {
            break;
        }
    }
    println!("sent={sent} seconds={seconds:.3} pps={:.0}", sent as f64 / seconds);
    Ok(())
}

fn receive(at: SocketAddr, idle: Duration, batch: usize) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(at).with_context(|| format!("Cannot receive at {at}"))?;
    // What is lost has to be the tunnel's loss. Only an administrator may go beyond `net.core.rmem_max`.
    if setsockopt(&socket, RcvBufForce, &SOCKET_BUFFER).is_err() {
        SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER)?;
    }
    socket.set_read_timeout(Some(idle))?;

    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(batch, None);
    let mut buffers = vec![vec![0; HEADER]; batch];
    let mut tally = Tally::default();
    let mut clock: Option<(Instant, Instant)> = None;
    let total = 'packets: loop {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let messages = match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_WAITFORONE, None) {
            Ok(messages) => messages,
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => break None,
            Err(error) => return Err(io::Error::from(error)).context("Cannot receive"),
        };
        let now = Instant::now();
        for header in messages.filter_map(|message| message.iovs().next()).filter(|header| header.len() == HEADER) {
            match BigEndian::read_u64(&header[8..]) {
                0 => tally.count(BigEndian::read_u64(header)),
                total => break 'packets Some(total),
            }
        }
        clock = Some((clock.map_or(now, |(first, _)| first), now));
    };

    let seconds = clock.map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    let Tally { received, reordered, duplicated, foreign, .. } = tally;
    let pps = if seconds > 0.0 { received as f64 / seconds } else { 0.0 };
    // Without the sender's last word, what came after the highest number seen cannot be known.
    let lost = total.unwrap_or(tally.next).saturating_sub(received);
    println!(
        "received={received} seconds={seconds:.3} pps={pps:.0} lost={lost} reordered={reordered} \
         duplicated={duplicated} foreign={foreign}"
    );
    ensure!(total.is_some(), "No packet for {} s and the sender did not say that it has finished", idle.as_secs());
    Ok(())
}

#[derive(Default)]
struct Tally {
    /// One bit for each number that has been seen.
    seen: Vec<u64>,
    /// One above the highest number seen.
    next: u64,
    /// Different numbers seen.
    received: u64,
    reordered: u64,
    duplicated: u64,
    /// Packets that no sender of this program makes.
    foreign: u64,
}

impl Tally {
    fn count(&mut self, sequence: u64) {
        if sequence >= SEQUENCE_LIMIT {
            self.foreign += 1;
            return;
        }
        let (word, bit) = ((sequence / 64) as usize, 1 << (sequence % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.duplicated += 1;
            return;
        }
        self.seen[word] |= bit;
        self.received += 1;
        if sequence < self.next {
            self.reordered += 1;
        }
        self.next = self.next.max(sequence + 1);
    }
}
