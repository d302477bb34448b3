//! UDP: one message a datagram. [`client`] sends to one server, [`server`] answers the peer that the tunnel accepts;
//! both move their datagrams through a [`Channel`].
//!
//! Datagrams of equal length that follow one another leave in one call (`UDP_SEGMENT`), and trains of them arrive in
//! one (`UDP_GRO`); on the wire they are ordinary datagrams. Where the kernel or the path refuses trains, they leave
//! one by one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use log::info;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::Socket;

use super::connection::canonical;
use super::{FIRST_TOKEN, TransportCounters};
use crate::config::LinkConfig;
use crate::fault::{self, FaultLog, Origin, Severity};
use crate::sys::{self, Arrival, Departure, ReceiveBatch};
use crate::tunnel::PathInfo;

pub mod client;
pub mod server;

const TOKEN: Token = Token(FIRST_TOKEN);

/// The longest payload of a datagram: the IP length field less the headers (RFC 768, RFC 791, RFC 8200).
const MAX_PAYLOAD_IPV4: usize = 65_535 - 20 - 8;
const MAX_PAYLOAD_IPV6: usize = 65_535 - 8;

/// Limits of a train: `UDP_MAX_SEGMENTS` of `include/linux/udp.h` as it was at first, and the IP length field.
const MAX_TRAIN_COUNT: usize = 64;
const MAX_TRAIN_BYTES: usize = 65_000;

/// Errors taken from the socket before the loop has its turn again.
const MAX_RECEIVE_ERRORS: usize = 8;

/// Silence after sending that makes a name worth looking up again, at first and after [`PATIENCE`].
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const LATE_CHECK_INTERVAL: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);

/// Datagrams of one length laid side by side; a shorter one ends the train.
#[derive(Debug)]
struct SendBatch {
    buffer: Box<[u8]>,
    len: usize,
    sent: usize,
    segment: usize,
    count: usize,
    complete: bool,
}

impl Default for SendBatch {
    fn default() -> Self {
        let buffer = vec![0; MAX_PAYLOAD_IPV6].into_boxed_slice();
        Self { buffer, len: 0, sent: 0, segment: 0, count: 0, complete: false }
    }
}

impl SendBatch {
    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn takes(&self, len: usize) -> bool {
        self.is_empty()
            || (!self.complete
                && len > 0
                && len <= self.segment
                && self.count < MAX_TRAIN_COUNT
                && self.len + len <= MAX_TRAIN_BYTES)
    }

    /// Appends a datagram that [`takes`](Self::takes) has agreed to.
    fn push_with(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        let Some(room) = self.buffer.get_mut(self.len..self.len + len) else { return false };
        fill(room);
        if self.is_empty() {
            self.segment = len;
        }
        self.complete = len < self.segment || len == 0;
        self.len += len;
        self.count += 1;
        true
    }

    /// What has not been sent one by one yet.
    fn next_single(&self) -> Option<&[u8]> {
        if self.count == 1 && self.sent == 0 {
            return Some(&self.buffer[..self.len]);
        }
        self.buffer[self.sent..self.len].chunks(self.segment.max(1)).next()
    }

    fn clear(&mut self) {
        (self.len, self.sent, self.segment, self.count, self.complete) = (0, 0, 0, 0, false);
    }
}

/// What became of sending that the owner has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendOutcome {
    /// Nothing was there to send, or the socket takes no more for now.
    Idle,
    /// At least one datagram has left.
    Sent,
    /// The peer's host says that nobody listens there.
    Refused,
    /// The socket's route or local address is gone; a new socket may help.
    Broken,
}

/// A datagram socket with its readiness and its buffers.
struct Channel {
    socket: Socket,
    registry: Registry,
    readable: bool,
    writable: bool,
    outgoing: SendBatch,
    /// Where outgoing datagrams go; `None` on a connected socket.
    to: Option<SocketAddr>,
    /// The local address that they leave from, if the peer knows us by a certain one.
    from: Option<IpAddr>,
    /// Trains of datagrams up to this length are sent in one call; 0 once the kernel has refused trains.
    train_limit: usize,
    incoming: Box<ReceiveBatch>,
    received: usize,
    next: usize,
}

impl Channel {
    /// Registers a bound or connected socket.
    fn new(socket: Socket, config: &LinkConfig, is_ipv6: bool, registry: Registry) -> io::Result<Self> {
        super::socket::tune_datagram(&socket, config, is_ipv6)?;
        let trains = setsockopt(&socket, sockopt::UdpGroSegment, &true).is_ok();
        registry.register(&mut SourceFd(&socket.as_raw_fd()), TOKEN, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            socket,
            registry,
            readable: true,
            writable: true,
            outgoing: SendBatch::default(),
            to: None,
            from: None,
            train_limit: if trains { usize::MAX } else { 0 },
            incoming: Box::default(),
            received: 0,
            next: 0,
        })
    }

    fn handle_event(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_error();
        self.writable |= event.is_writable() || event.is_error();
    }

    /// True if a datagram of any length can be taken: the batch is empty or can be flushed at once.
    fn can_send(&self) -> bool {
        self.writable
    }

    fn has_input(&self) -> bool {
        self.next < self.received || self.readable
    }

    /// Collects a datagram, after sending what it cannot follow.
    fn send_with(
        &mut self,
        len: usize,
        now: Instant,
        faults: &mut FaultLog,
        counters: &mut TransportCounters,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> (bool, SendOutcome) {
        let mut outcome = SendOutcome::Idle;
        if !self.outgoing.takes(len) {
            outcome = self.flush(now, faults, counters);
            if !self.outgoing.is_empty() {
                counters.send_errors += 1;
                return (false, outcome);
            }
        }
        (self.outgoing.push_with(len, fill), outcome)
    }

    /// Sends what has been collected; what the socket does not take stays.
    fn flush(&mut self, now: Instant, faults: &mut FaultLog, counters: &mut TransportCounters) -> SendOutcome {
        if self.outgoing.is_empty() || !self.writable {
            return SendOutcome::Idle;
        }
        let mut outcome = SendOutcome::Idle;
        if self.outgoing.count > 1 && self.outgoing.sent == 0 && self.outgoing.segment <= self.train_limit {
            match self.send_train() {
                Ok(()) => {
                    self.outgoing.clear();
                    return SendOutcome::Sent;
                }
                Err(error) if self.refuses_trains(&error) => {}
                Err(error) => {
                    outcome = self.sort(&error, self.outgoing.count, now, faults, counters);
                    if self.writable {
                        self.outgoing.clear();
                    }
                    return outcome;
                }
            }
        }
        while let Some(bytes) = self.outgoing.next_single() {
            let len = bytes.len();
            let departure = Departure { bytes, to: self.to, from: self.from, segment: None };
            match sys::send(self.socket.as_fd(), &departure) {
                Ok(()) if outcome == SendOutcome::Idle => outcome = SendOutcome::Sent,
                Ok(()) => {}
                Err(error) => {
                    let sorted = self.sort(&error, 1, now, faults, counters);
                    if !self.writable {
                        return outcome;
                    }
                    outcome = sorted;
                }
            }
            self.outgoing.sent += len;
            if self.outgoing.sent >= self.outgoing.len {
                break;
            }
        }
        self.outgoing.clear();
        outcome
    }

    fn send_train(&self) -> io::Result<()> {
        let segment = u16::try_from(self.outgoing.segment).ok();
        let bytes = &self.outgoing.buffer[..self.outgoing.len];
        loop {
            let departure = Departure { bytes, to: self.to, from: self.from, segment };
            match sys::send(self.socket.as_fd(), &departure) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Remembers what the kernel refuses: `EINVAL` and `EMSGSIZE` mean segments above the path's MTU, which go out one
    /// by one as fragments (`udp_send_skb()` in `net/ipv4/udp.c`); `EIO` an interface without checksum offload, and
    /// others a kernel without trains.
    fn refuses_trains(&mut self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::EINVAL | libc::EMSGSIZE) => self.train_limit = self.outgoing.segment.saturating_sub(1),
            Some(libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT) => {
                info!("Sending several datagrams in one call is switched off: {error}");
                self.train_limit = 0;
            }
            _ => return false,
        }
        true
    }

    fn sort(
        &mut self,
        error: &io::Error,
        lost: usize,
        now: Instant,
        faults: &mut FaultLog,
        counters: &mut TransportCounters,
    ) -> SendOutcome {
        match fault::sort(error, Origin::Datagram) {
            Severity::WouldBlock => {
                self.writable = false;
                return SendOutcome::Idle;
            }
            Severity::Retry | Severity::Transient | Severity::Link | Severity::Fatal => {}
        }
        counters.send_errors += lost as u64;
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => {
                counters.too_long += lost as u64;
                SendOutcome::Idle
            }
            Some(libc::ECONNREFUSED) => {
                faults.note(now, "refused", "Nobody listens at the peer's address and port (connection refused)");
                SendOutcome::Refused
            }
            Some(libc::ENOBUFS | libc::ENOMEM | libc::EPERM | libc::EACCES) => {
                faults.note(now, "send", format_args!("Cannot send to the peer: {error}"));
                SendOutcome::Idle
            }
            _ => {
                faults.note(now, "send", format_args!("Cannot send to the peer: {error}"));
                SendOutcome::Broken
            }
        }
    }

    /// Makes sure that there is a received datagram to look at; false if there is none for now.
    fn fill(&mut self, now: Instant, faults: &mut FaultLog) -> bool {
        // Errors that past sends left behind come one a call; a socket that yields nothing else must not hold the loop.
        for _ in 0..MAX_RECEIVE_ERRORS {
            if self.next < self.received {
                return true;
            }
            if !self.readable {
                return false;
            }
            match sys::receive(self.socket.as_fd(), &mut self.incoming) {
                Ok(count) => (self.received, self.next) = (count, 0),
                Err(error) => match fault::sort(&error, Origin::Datagram) {
                    Severity::WouldBlock => self.readable = false,
                    Severity::Retry => {}
                    Severity::Fatal | Severity::Link => {
                        faults.note(now, "receive", format_args!("Cannot receive: {error}"));
                        self.readable = false;
                    }
                    // What an earlier datagram met; it is reported once and cleared by the kernel.
                    Severity::Transient => {
                        faults.note(
                            now,
                            "receive",
                            format_args!("The network reports about an earlier datagram: {error}"),
                        );
                    }
                },
            }
        }
        self.next < self.received
    }

    fn advance(&mut self) {
        self.next += 1;
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // Closing the descriptor would remove it too; a failure here changes nothing.
        let _ = self.registry.deregister(&mut SourceFd(&self.socket.as_raw_fd()));
    }
}

/// Hands out the datagrams of a train and returns how many there are; a single datagram, even an empty one, is a train
/// of one.
fn each_of_train<'a>(arrival: &Arrival, bytes: &'a mut [u8], each: &mut dyn FnMut(&'a mut [u8])) -> usize {
    match arrival.segment {
        Some(segment) if bytes.len() > segment => bytes.chunks_mut(segment).map(each).count(),
        _ => {
            each(bytes);
            1
        }
    }
}

/// What a datagram path to `peer` is like.
fn path_info(peer: SocketAddr) -> PathInfo {
    let peer = canonical(peer);
    let max_message = if peer.is_ipv4() { MAX_PAYLOAD_IPV4 } else { MAX_PAYLOAD_IPV6 };
    PathInfo { reliable: false, max_message, peer }
}

/// Watches for a peer that is sent to and does not answer, so that its name can be looked up again.
#[derive(Debug, Default)]
struct Unanswered {
    since: Option<Instant>,
    check_at: Option<Instant>,
}

impl Unanswered {
    fn handle_sent(&mut self, now: Instant) {
        if self.since.is_none() {
            self.since = Some(now);
            self.check_at = Some(now + CHECK_INTERVAL);
        }
    }

    fn handle_received(&mut self) {
        (self.since, self.check_at) = (None, None);
    }

    /// True if it is time to look the name up.
    fn handle_timeout(&mut self, now: Instant) -> bool {
        let (Some(since), Some(at)) = (self.since, self.check_at) else { return false };
        if at > now {
            return false;
        }
        let late = now.saturating_duration_since(since) >= PATIENCE;
        self.check_at = Some(now + if late { LATE_CHECK_INTERVAL } else { CHECK_INTERVAL });
        true
    }
}
