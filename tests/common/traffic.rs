//! Streams and datagrams that prove by themselves that they arrived unchanged (`tests/peer/traffic.py`), and what the
//! kernel counted of damaged packets meanwhile.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::daemon::{Daemon, Mark};
use super::lab::{Background, Ns, PYTHON};
use super::wait::{DEADLINE, wait_for};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/traffic.py");
const PORT: u16 = 7001;

/// TCP in both directions one after the other, then four streams at once.
pub const STREAMS: &str = "tcp-up=3000000 tcp-down=3000000 tcp-four=1000000";
/// UDP of all sizes in both directions, then four flows at once.
pub const DATAGRAMS: &str = "udp-up=1500 udp-down=1500 udp-flows=500";

/// The end that answers.
pub struct Responder {
    _process: Background,
}

impl Responder {
    #[track_caller]
    pub fn new(ns: &Ns) -> Self {
        let process = ns.start(&format!("{PYTHON} {SCRIPT} serve {PORT}"));
        ns.wait_for_listener(PORT);
        Self { _process: process }
    }

    /// Goes through the steps from `from` to this end, which has `address`.
    #[track_caller]
    pub fn exchange(&self, from: &Ns, address: &str, steps: &str) {
        from.run(&format!("timeout 100 {PYTHON} {SCRIPT} check {address} {PORT} {steps}"));
    }
}

/// A TCP connection whose bytes come back, for as long as the test wants.
pub struct Stream(Daemon);

/// More than buffers on the way hold at the stream's pace.
const PROGRESS_MIB: u64 = 3;

impl Stream {
    /// Connects to a [`Responder`] and waits for the first bytes.
    #[track_caller]
    pub fn new(from: &Ns, address: &str) -> Self {
        let mut command = from.command(PYTHON);
        command.args([SCRIPT, "stream", address, &PORT.to_string()]);
        let stream = Daemon::spawn(format!("traffic.py stream {address} ({})", from.label()), command);
        stream.wait_for("returned 1 MiB");
        Self(stream)
    }

    /// Waits until more has come back than was on its way; how long that took.
    #[track_caller]
    pub fn goes_on(&self, deadline: Duration) -> Duration {
        let start = Instant::now();
        let so_far = self.0.count("returned") as u64;
        self.0.wait_after_for(self.0.mark(), &format!("returned {} MiB", so_far + PROGRESS_MIB), deadline);
        start.elapsed()
    }

    /// Ends it: every byte has come back unchanged.
    #[track_caller]
    pub fn finish(mut self) {
        self.0.terminate();
    }
}

/// Numbered datagrams of many lengths that come back from a [`Responder`]; one that was altered on the way is seen, since
/// they have no checksum that the kernel looks at.
pub struct Numbered(Daemon);

/// What has become of the datagrams of a [`Numbered`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub sent: u64,
    /// At least once, unaltered.
    pub returned: u64,
    /// Once more.
    pub twice: u64,
    pub altered: u64,
    /// Behind one that was sent later.
    pub swapped: u64,
}

impl Numbered {
    pub fn new(from: &Ns, address: &str) -> Self {
        let mut command = from.command(PYTHON);
        command.args([SCRIPT, "count", address, &PORT.to_string()]);
        Self(Daemon::spawn(format!("traffic.py count {address} ({})", from.label()), command))
    }

    /// Waits until this many hundreds have come back.
    #[track_caller]
    pub fn wait_for_hundreds(&self, hundreds: u32, deadline: Duration) {
        self.0.wait_after_for(Mark::START, &format!("seen {}", hundreds * 100), deadline);
    }

    /// Waits until three hundred more come back without a gap and in order; how long that took.
    #[track_caller]
    pub fn runs_smoothly(&self, deadline: Duration) -> Duration {
        let start = Instant::now();
        self.0.wait_after_for(self.0.mark(), "row 300", deadline);
        start.elapsed()
    }

    /// Ends it.
    #[track_caller]
    pub fn finish(mut self) -> Counts {
        self.0.terminate();
        let line = self.0.wait_for("counted ");
        let number = |key: &str| {
            let pair = line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            pair.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{key} in {line}"))
        };
        Counts {
            sent: number("sent"),
            returned: number("returned"),
            twice: number("twice"),
            altered: number("altered"),
            swapped: number("swapped"),
        }
    }
}

/// Numbered datagrams from the test's own namespace to a [`Responder`] at an even pace, whatever becomes of them.
pub struct Pulse {
    stop: Arc<AtomicBool>,
    beats: Arc<Mutex<Beats>>,
    thread: Option<JoinHandle<()>>,
}

/// What a [`Pulse`] has sent and got back.
#[derive(Debug, Default)]
pub struct Beats {
    /// When each number was sent.
    pub sent: Vec<Instant>,
    /// The numbers that came back, in the order of their arrival, and when.
    pub returned: Vec<(u64, Instant)>,
}

impl Pulse {
    /// Begins to send; a responder has to be there, a tunnel need not.
    pub fn new(address: &str, interval: Duration) -> Self {
        let target = SocketAddr::new(address.parse().expect("an address"), PORT);
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let (stop, beats) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Beats::default())));
        let (ending, record) = (Arc::clone(&stop), Arc::clone(&beats));
        let thread = std::thread::spawn(move || {
            let mut next = Instant::now();
            while !ending.load(Ordering::Relaxed) {
                let number = lock(&record).sent.len() as u64;
                lock(&record).sent.push(Instant::now());
                // Without a tunnel there is no route.
                let _ = socket.send_to(&number.to_be_bytes(), target);
                next += interval;
                receive(&socket, &record, next);
            }
            // What is under way still.
            receive(&socket, &record, Instant::now() + Duration::from_millis(500));
        });
        Self { stop, beats, thread: Some(thread) }
    }

    /// Waits for the return of a datagram that was sent after `start`; how long after `start` it came.
    #[track_caller]
    pub fn returns_after(&self, start: Instant, deadline: Duration) -> Duration {
        let what = "datagram that came back";
        wait_for(deadline, what, || {
            let beats = lock(&self.beats);
            let later = |(number, _): &&(u64, Instant)| beats.sent[*number as usize] >= start;
            let (_, at) = beats.returned.iter().rev().take_while(later).last()?;
            Some(at.saturating_duration_since(start))
        })
        .0
    }

    /// Waits until it beats at all.
    #[track_caller]
    pub fn begins(&self) {
        self.returns_after(Instant::now(), DEADLINE);
    }

    /// Ends it, and waits for what is under way.
    pub fn finish(mut self) -> Beats {
        self.end();
        std::mem::take(&mut *lock(&self.beats))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.end();
    }
}

fn receive(socket: &UdpSocket, record: &Mutex<Beats>, until: Instant) {
    let mut number = [0; 8];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        socket.set_read_timeout(Some(left)).expect("a timeout above zero");
        if let Ok((8, _)) = socket.recv_from(&mut number) {
            lock(record).returned.push((u64::from_be_bytes(number), Instant::now()));
        }
    }
}

fn lock(beats: &Mutex<Beats>) -> MutexGuard<'_, Beats> {
    beats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No packet that this kernel received had a wrong checksum or a broken IP header.
#[track_caller]
pub fn assert_undamaged(ns: &Ns) {
    let bad: Vec<String> = counters(ns)
        .into_iter()
        .filter(|(name, value)| *value > 0 && (name.ends_with("CsumErrors") || name.ends_with("InHdrErrors")))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert!(bad.is_empty(), "{} received damaged packets: {}", ns.label(), bad.join(" "));
}

/// One counter of the kernel's protocols, by its name in nstat.
#[track_caller]
pub fn counter(ns: &Ns, name: &str) -> u64 {
    let found = counters(ns).into_iter().find(|(found, _)| found == name);
    found.unwrap_or_else(|| panic!("nstat knows no {name}")).1
}

fn counters(ns: &Ns) -> Vec<(String, u64)> {
    let text = ns.run("nstat -asz");
    let rows = text.lines().filter(|row| !row.starts_with('#'));
    let counters: Vec<_> = rows
        .filter_map(|row| {
            let mut words = row.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect();
    assert!(counters.iter().any(|(name, _)| name == "TcpInCsumErrors"), "nstat's table: {text}");
    counters
}
