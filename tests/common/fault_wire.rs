//! A wire between two hosts that loses, repeats, delays, reorders and damages frames by a seed: two tap devices, and a
//! thread that carries the frames from one to the other.
//!
//! Corruption is one bit of an IPv4 packet, which its checksums find in every case, so that a plain link may be held to
//! deliver nothing altered. ARP has no checksum and stays whole.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use simpletun::device::ioctl;

/// Frames under way in one direction; more are lost, as in a full buffer.
const MAX_UNDER_WAY: usize = 4096;

/// Frames taken from one end before the other one has its turn.
const BUDGET: usize = 64;

/// How much later a frame arrives that others are to overtake, and the second copy of one, at most.
const LATE: Duration = Duration::from_millis(8);

/// What the wire does: chances from 0 to 1, and times.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub loss: f32,
    pub duplication: f32,
    pub reordering: f32,
    pub corruption: f32,
    /// Damage that no checksum finds.
    pub tampering: f32,
    pub delay: Duration,
    /// Of each frame by itself; more than the distance of two frames reorders them.
    pub jitter: Duration,
}

impl Rates {
    /// A bad radio link.
    pub const BAD: Self = Self {
        loss: 0.02,
        duplication: 0.03,
        reordering: 0.05,
        corruption: 0.02,
        tampering: 0.0,
        delay: Duration::from_millis(2),
        jitter: Duration::from_millis(1),
    };
}

/// What has become of the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub entered: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupted: u64,
    pub tampered: u64,
    pub left: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entered, lost, duplicated, reordered, corrupted, tampered, left } = self;
        write!(formatter, "entered={entered} lost={lost} duplicated={duplicated} reordered={reordered} ")?;
        write!(formatter, "corrupted={corrupted} tampered={tampered} left={left}")
    }
}

/// Decides by a seed what becomes of the frames of one direction.
pub struct Direction {
    random: fastrand::Rng,
    tally: Tally,
    number: u64,
    under_way: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
}

impl Direction {
    pub fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            tally: Tally::default(),
            number: 0,
            under_way: BinaryHeap::new(),
        }
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Takes a frame.
    pub fn enter(&mut self, mut frame: Vec<u8>, rates: &Rates, now: Instant) {
        self.tally.entered += 1;
        if self.happens(rates.loss) || self.under_way.len() >= MAX_UNDER_WAY {
            self.tally.lost += 1;
            return;
        }
        let mut due = now + rates.delay + self.up_to(rates.jitter);
        if self.happens(rates.duplication) {
            self.tally.duplicated += 1;
            let due = due + self.up_to(LATE);
            self.push(due, frame.clone());
        }
        if self.happens(rates.corruption) && damage(&mut frame, &mut self.random) {
            self.tally.corrupted += 1;
        }
        if self.happens(rates.tampering) && tamper(&mut frame, &mut self.random) {
            self.tally.tampered += 1;
        }
        if self.happens(rates.reordering) {
            self.tally.reordered += 1;
            due += LATE / 4 + self.up_to(LATE);
        }
        self.push(due, frame);
    }

    /// The next frame that has arrived.
    pub fn leave(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.next_at().filter(|due| *due <= now)?;
        let Reverse((_, _, frame)) = self.under_way.pop()?;
        self.tally.left += 1;
        Some(frame)
    }

    pub fn next_at(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse((due, ..))| *due)
    }

    fn push(&mut self, due: Instant, frame: Vec<u8>) {
        self.number += 1;
        self.under_way.push(Reverse((due, self.number, frame)));
    }

    fn happens(&mut self, chance: f32) -> bool {
        self.random.f32() < chance
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        longest.mul_f32(self.random.f32())
    }
}

/// Turns one bit of an IPv4 packet over; false if the frame carries none.
fn damage(frame: &mut [u8], random: &mut fastrand::Rng) -> bool {
    let Some((header, packet)) = frame.split_at_mut_checked(14).filter(|(_, packet)| !packet.is_empty()) else {
        return false;
    };
    if header.get(12..) != Some(&[8, 0]) {
        return false;
    }
    let at = random.usize(..packet.len());
    packet[at] ^= 1 << random.u32(..8);
    true
}

/// Exchanges two words of what a TCP segment or a UDP datagram carries, which leaves every sum as it was; false if there
/// are no two that differ.
fn tamper(frame: &mut [u8], random: &mut fastrand::Rng) -> bool {
    const IPV4_HEADER_LEN: usize = 20;
    let is_plain_ipv4 = frame.get(12..15) == Some(&[8, 0, 0x45]);
    let header_len = match (is_plain_ipv4, frame.get(14 + 9), frame.get(14 + IPV4_HEADER_LEN + 12)) {
        (true, Some(17), _) => 8,
        (true, Some(6), Some(offset)) => usize::from(offset >> 4) * 4,
        _ => return false,
    };
    let Some(payload) = frame.get_mut(14 + IPV4_HEADER_LEN + header_len..).filter(|payload| payload.len() >= 8) else {
        return false;
    };
    let [one, other] = [(); 2].map(|()| random.usize(..payload.len() / 2) * 2);
    let differ = payload[one..one + 2] != payload[other..other + 2];
    payload.swap(one, other);
    payload.swap(one + 1, other + 1);
    differ
}

/// The wire. Its ends are tap devices of the namespace that it is made in, and may be moved to others.
pub struct FaultWire {
    rates: Arc<Mutex<Rates>>,
    tallies: Arc<Mutex<[Tally; 2]>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    seed: u64,
}

impl FaultWire {
    /// A wire without faults between two devices of these names.
    pub fn new(names: [&str; 2], seed: u64) -> Self {
        let ends = names.map(|name| {
            let file = ioctl::open_clone_device(ioctl::CLONE_DEVICE).expect("open the clone device");
            // IFF_TAP | IFF_NO_PI
            ioctl::set_interface(&file, name, 0x0002 | 0x1000).unwrap_or_else(|error| panic!("{name}: {error}"));
            file
        });
        let (rates, tallies, stop) = <(Arc<Mutex<Rates>>, Arc<Mutex<[Tally; 2]>>, Arc<AtomicBool>)>::default();
        let shared = (Arc::clone(&rates), Arc::clone(&tallies), Arc::clone(&stop));
        let thread = std::thread::spawn(move || carry(ends, seed, &shared.0, &shared.1, &shared.2));
        Self { rates, tallies, stop, thread: Some(thread), seed }
    }

    pub fn set(&self, rates: Rates) {
        *lock(&self.rates) = rates;
    }

    /// What has become of the frames so far, of both directions.
    pub fn tallies(&self) -> [Tally; 2] {
        *lock(&self.tallies)
    }
}

impl Drop for FaultWire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let [there, back] = self.tallies();
        eprintln!("wire of seed {}: there {there}; back {back}", self.seed);
    }
}

fn carry(mut ends: [File; 2], seed: u64, rates: &Mutex<Rates>, tallies: &Mutex<[Tally; 2]>, stop: &AtomicBool) {
    let mut directions = [Direction::new(seed), Direction::new(!seed)];
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        wait(&ends, directions.iter().filter_map(Direction::next_at).min());
        let (now, rates) = (Instant::now(), *lock(rates));
        for (from, direction) in directions.iter_mut().enumerate() {
            for _ in 0..BUDGET {
                match ends[from].read(&mut buffer) {
                    Ok(len) => direction.enter(buffer[..len].to_vec(), &rates, now),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // The device is down still.
                    Err(_) => {
                        std::thread::yield_now();
                        break;
                    }
                }
            }
            while let Some(frame) = direction.leave(now) {
                // A device that is down or full loses it.
                let _ = ends[1 - from].write(&frame);
            }
        }
        *lock(tallies) = [directions[0].tally(), directions[1].tally()];
    }
}

/// Until a frame enters or the next one is due, or for as long as the wire may take to notice that it is to end.
fn wait(ends: &[File; 2], next_at: Option<Instant>) {
    let mut fds = [0, 1].map(|end| PollFd::new(ends[end].as_fd(), PollFlags::POLLIN));
    let left = next_at.map(|at| at.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000));
    let timeout = left.unwrap_or(50).min(50);
    let _ = poll(&mut fds, PollTimeout::from(u8::try_from(timeout).unwrap_or(50)));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
