//! A stranger who floods an end of a secure link: handshakes and data that mean nothing, a batch a system call.
//!
//! What it sends has the right form and nothing right in it, so that the receiver has to look at the code behind a
//! handshake, at the index of data, or with a right index at its tag. Every message is another one. It prints one line of
//! `name=value` pairs.

#![expect(clippy::disallowed_methods, reason = "a stopwatch and a packet clock are what this program is")]

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use byteorder::{BigEndian, ByteOrder};
use clap::{Parser, ValueEnum};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use socket2::SockRef;

const SOCKET_BUFFER: usize = 8 << 20;
/// Length of an INIT of both suites.
const INIT_KEYS: usize = 216;
const INIT_SECRET: usize = 168;
/// Header and tag of a DATA message.
const DATA_OVERHEAD: usize = 32;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Handshakes with a wrong code
    Init,
    /// Data for a session that does not exist
    DataWrongIndex,
    /// Data with a wrong tag, for the session of --index
    DataRightIndex,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    Keys,
    Secret,
}

#[derive(Parser)]
#[command(about = "Messages of secure links that nobody accepts, as many as the machine can make")]
struct Options {
    to: SocketAddr,
    #[arg(long, value_enum)]
    mode: Mode,
    /// Local address and port; whoever has the peer's is taken for it until the message is looked at
    #[arg(long)]
    from: Option<SocketAddr>,
    /// The receiver's index of a live session, as it stands in bytes 4 to 7 of the messages to it
    #[arg(long, required_if_eq("mode", "data-right-index"))]
    index: Option<u32>,
    /// Of the handshakes
    #[arg(long, value_enum, default_value = "secret")]
    suite: Suite,
    /// Bytes of plaintext that the data would have
    #[arg(long, default_value_t = 64)]
    payload: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Messages a second, as fast as possible if absent
    #[arg(long)]
    rate: Option<u32>,
    /// Messages a system call
    #[arg(long, default_value_t = 64)]
    batch: usize,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    ensure!(options.batch > 0, "--batch is at least 1");
    ensure!(options.rate != Some(0), "--rate is at least 1");
    let length = Duration::try_from_secs_f64(options.seconds)?;
    let any: SocketAddr = if options.to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let from = options.from.unwrap_or(any);
    let socket = UdpSocket::bind(from).with_context(|| format!("Cannot send from {from}"))?;
    SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER)?;
    socket.connect(options.to).with_context(|| format!("Cannot send to {}", options.to))?;

    let mut junk = Junk::new(&options);
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(options.batch, None);
    let connected = vec![None; options.batch];
    let mut messages = vec![junk.first(); options.batch];
    let mut sent: u64 = 0;
    let start = Instant::now();
    while start.elapsed() < length {
        if let Some(rate) = options.rate {
            let due = start + Duration::from_secs_f64(sent as f64 / f64::from(rate));
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        messages.iter_mut().for_each(|message| junk.renew(message));
        let slices: Vec<_> = messages.iter().map(|message| [IoSlice::new(message)]).collect();
        let none: [ControlMessage; 0] = [];
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &connected, none, MsgFlags::empty()) {
            Ok(results) => sent += results.count() as u64,
            // The receiver may not run at the moment.
            Err(Errno::ENOBUFS | Errno::EINTR | Errno::ECONNREFUSED) => {}
            Err(error) => return Err(error).context("Cannot send"),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let answers = answers(&socket)?;
    println!("sent={sent} seconds={seconds:.3} pps={:.0} answers={answers}", sent as f64 / seconds);
    Ok(())
}

/// How many datagrams have come back.
fn answers(socket: &UdpSocket) -> anyhow::Result<u64> {
    // What is under way still arrives.
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (mut count, mut refusals) = (0, 0);
    // A port that nobody listens on shows as an error of the socket; other errors repeat without end.
    while refusals < 1000 {
        match socket.recv(&mut [0; 2048]) {
            Ok(_) => count += 1,
            Err(error) if error.raw_os_error() == Some(Errno::ECONNREFUSED as i32) => refusals += 1,
            Err(_) => break,
        }
    }
    Ok(count)
}

/// Makes one message after the other.
struct Junk {
    mode: Mode,
    len: usize,
    suite: Suite,
    index: u32,
    random: fastrand::Rng,
}

impl Junk {
    fn new(options: &Options) -> Self {
        let len = match (options.mode, options.suite) {
            (Mode::Init, Suite::Keys) => INIT_KEYS,
            (Mode::Init, Suite::Secret) => INIT_SECRET,
            (Mode::DataWrongIndex | Mode::DataRightIndex, _) => DATA_OVERHEAD + options.payload,
        };
        let index = options.index.unwrap_or_default();
        Self { mode: options.mode, len, suite: options.suite, index, random: fastrand::Rng::new() }
    }

    /// A message full of chance, with its first bytes in place.
    fn first(&mut self) -> Vec<u8> {
        let mut message = vec![0; self.len];
        self.random.fill(&mut message);
        let first = match self.mode {
            Mode::Init => [0xf0, 1, if self.suite == Suite::Keys { 1 } else { 2 }, 0],
            Mode::DataWrongIndex | Mode::DataRightIndex => [0xf4, 0, 0, 0],
        };
        message[..4].copy_from_slice(&first);
        message
    }

    /// Makes another message of one that was sent.
    fn renew(&mut self, message: &mut [u8]) {
        let index = if self.mode == Mode::DataRightIndex { self.index } else { self.random.u32(..) };
        BigEndian::write_u32(&mut message[4..], index);
        if self.mode == Mode::Init {
            // The code is compared before anything else, and is another one each time.
            let at = message.len() - 8;
            BigEndian::write_u64(&mut message[at..], self.random.u64(..));
        } else {
            // Ahead of what the peer has sent, so that the replay window lets it pass.
            BigEndian::write_u64(&mut message[8..], self.random.u64(1 << 32..1 << 60));
        }
    }
}
