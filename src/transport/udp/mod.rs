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
use socket2::{SockRef, Socket, Type};

use super::connection::canonical;
use super::{FIRST_TOKEN, TransportCounters, WayFacts};
use crate::config::LinkConfig;
use crate::fault::{self, FaultLog, Origin, Severity};
use crate::sys::{self, Arrival, Departure, ReceiveBatch};
use crate::tunnel::PathInfo;

use queue::SendQueue;

pub mod client;
mod limit;
mod queue;
pub mod roaming;
pub mod server;
mod sources;

const TOKEN: Token = Token(FIRST_TOKEN);

/// The longest payload of a datagram: the IP length field less the headers (RFC 768, RFC 791, RFC 8200).
const MAX_PAYLOAD_IPV4: usize = 65_535 - 20 - 8;
const MAX_PAYLOAD_IPV6: usize = 65_535 - 8;

/// Errors taken from the socket before the loop has its turn again.
const MAX_RECEIVE_ERRORS: usize = 8;

/// Silence after sending that makes a name worth looking up again, at first and after [`PATIENCE`].
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const LATE_CHECK_INTERVAL: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);

/// How long the send buffer is larger after the peer has moved while it was full, which is longer than the kernel keeps
/// datagrams for a neighbour that is not found.
const EXTENDED_FOR: Duration = Duration::from_secs(5);

/// What became of sending that the owner has to know; the graver the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    outgoing: SendQueue,
    /// Where outgoing datagrams go; `None` on a connected socket.
    to: Option<SocketAddr>,
    /// The local address that they leave from, if the peer knows us by a certain one.
    from: Option<IpAddr>,
    /// Trains of datagrams up to this length are sent in one call; 0 once the kernel has refused trains.
    train_limit: usize,
    /// The interface has refused a datagram for its length since this was looked at.
    refused_length: bool,
    /// The size of the send buffer, and until when it is twice that.
    send_buffer: usize,
    extended_until: Option<Instant>,
    incoming: Box<ReceiveBatch>,
    received: usize,
    next: usize,
}

impl Channel {
    /// Binds the socket of a listening end, which is told by which address and interface a datagram has come. Returns the
    /// bound address, too.
    ///
    /// # Errors
    /// The address or the port cannot be used.
    fn listen(config: &LinkConfig, registry: Registry) -> io::Result<(Self, SocketAddr)> {
        let (socket, address) = super::socket::bind_server(config, Type::DGRAM)?;
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        Ok((Self::new(socket, config, address.is_ipv6(), registry)?, address))
    }

    /// Registers a bound or connected socket.
    fn new(socket: Socket, config: &LinkConfig, is_ipv6: bool, registry: Registry) -> io::Result<Self> {
        super::socket::tune_datagram(&socket, config, is_ipv6)?;
        let trains = setsockopt(&socket, sockopt::UdpGroSegment, &true).is_ok();
        registry.register(&mut SourceFd(&socket.as_raw_fd()), TOKEN, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            registry,
            readable: true,
            writable: true,
            outgoing: SendQueue::default(),
            to: None,
            from: None,
            train_limit: if trains { usize::MAX } else { 0 },
            refused_length: false,
            // The kernel says twice what it was told (socket(7)).
            send_buffer: socket.send_buffer_size()? / 2,
            extended_until: None,
            socket,
            incoming: Box::default(),
            received: 0,
            next: 0,
        })
    }

    fn handle_event(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_error();
        self.writable |= event.is_writable() || event.is_error();
    }

    /// True if whatever one read from the device becomes can be taken: the socket was not full when last asked.
    fn can_send(&self) -> bool {
        self.writable
    }

    /// Sends to another place from now on, from this address or from the one that the route prefers.
    fn turn_to(&mut self, to: SocketAddr, from: Option<IpAddr>, now: Instant) {
        if self.to.replace(to).is_some_and(|old| old != to) && !self.writable {
            self.extend(now);
        }
        self.from = from;
    }

    /// Makes room beside what fills the socket: datagrams for a place that is gone wait in the kernel until it has given
    /// up looking for a neighbour there (3 s, `mcast_solicit` and `retrans_time_ms` of arp(7)), and are not to hold up those
    /// for other places.
    fn extend(&mut self, now: Instant) {
        if self.extended_until.is_none() && self.set_send_buffer(2 * self.send_buffer).is_ok() {
            self.extended_until = Some(now + EXTENDED_FOR);
            self.writable = true;
        }
    }

    fn end_extension(&mut self, now: Instant) {
        if self.extended_until.take_if(|until| *until <= now).is_some() {
            // At worst the buffer stays larger than it need be.
            let _ = self.set_send_buffer(self.send_buffer);
        }
    }

    fn set_send_buffer(&self, size: usize) -> io::Result<()> {
        super::socket::set_send_buffer(&SockRef::from(&self.socket), size)
    }

    /// The local address and port.
    fn local_address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// What is known about the way to the peer. If the kernel picks the address that datagrams leave from, it is asked which
    /// one that is.
    fn facts(&self, config: &LinkConfig, peer: Option<SocketAddr>) -> WayFacts {
        let routed = || super::socket::source_towards(config, peer?);
        let with_source = |local: SocketAddr| {
            let own = Some(local.ip()).filter(|own| !own.is_unspecified());
            let source = self.from.or(own).or_else(routed).unwrap_or(local.ip());
            canonical(SocketAddr::new(source, local.port()))
        };
        WayFacts { local: self.local_address().map(with_source), tcp: None }
    }

    /// True if this host no longer has the address that datagrams leave from.
    fn has_lost_source(&self, config: &LinkConfig) -> bool {
        self.from.is_some_and(|from| super::socket::is_lost(config, SocketAddr::new(from, 0)))
    }

    fn has_input(&self) -> bool {
        self.next < self.received || self.readable
    }

    /// Collects a datagram, after sending what it does not continue. It waits if the socket is full.
    fn send_with(
        &mut self,
        len: usize,
        now: Instant,
        faults: &mut FaultLog,
        counters: &mut TransportCounters,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> (bool, SendOutcome) {
        let outcome = if self.outgoing.continues(len) { SendOutcome::Idle } else { self.flush(now, faults, counters) };
        let taken = self.outgoing.push_with(len, fill);
        counters.send_errors += u64::from(!taken);
        (taken, outcome)
    }

    /// Sends what has been collected; what the socket does not take stays.
    fn flush(&mut self, now: Instant, faults: &mut FaultLog, counters: &mut TransportCounters) -> SendOutcome {
        let mut outcome = SendOutcome::Idle;
        self.end_extension(now);
        while self.writable
            && let Some(train) = self.outgoing.front()
        {
            let whole = train.count > 1 && train.segment <= self.train_limit;
            let (bytes, segment, lost) = if whole {
                (train.bytes, u16::try_from(train.segment).ok(), train.count)
            } else {
                (train.first(), None, 1)
            };
            let segment_len = train.segment;
            match sys::send(self.socket.as_fd(), &Departure { bytes, to: self.to, from: self.from, segment }) {
                Ok(()) => outcome = outcome.max(SendOutcome::Sent),
                Err(error) if whole && self.refuses_trains(&error, segment_len) => continue,
                Err(error) => {
                    outcome = outcome.max(self.sort(&error, lost, now, faults, counters));
                    if !self.writable {
                        break;
                    }
                }
            }
            if whole { self.outgoing.pop_train() } else { self.outgoing.pop_datagram() }
        }
        outcome
    }

    /// Sends a message behind what has been collected, and all of it.
    fn send(
        &mut self,
        message: &[u8],
        now: Instant,
        faults: &mut FaultLog,
        counters: &mut TransportCounters,
    ) -> (bool, SendOutcome) {
        let fill = &mut |room: &mut [u8]| room.copy_from_slice(message);
        let (taken, earlier) = self.send_with(message.len(), now, faults, counters, fill);
        (taken, earlier.max(self.flush(now, faults, counters)))
    }

    /// Sends one message to an address, past what has been collected for the peer.
    fn send_past(
        &mut self,
        departure: &Departure<'_>,
        now: Instant,
        faults: &mut FaultLog,
        counters: &mut TransportCounters,
    ) -> (bool, SendOutcome) {
        let mut result = sys::send(self.socket.as_fd(), departure);
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.extend(now);
            result = sys::send(self.socket.as_fd(), departure);
        }
        match result {
            Ok(()) => (true, SendOutcome::Sent),
            Err(error) => {
                // It does not wait for a full socket as those for the peer do.
                counters.send_errors += u64::from(error.kind() == io::ErrorKind::WouldBlock);
                (false, self.sort(&error, 1, now, faults, counters))
            }
        }
    }

    /// Remembers what the kernel refuses: `EINVAL` and `EMSGSIZE` mean segments above the path's MTU, which go out one
    /// by one as fragments (`udp_send_skb()` in `net/ipv4/udp.c`); `EIO` an interface without checksum offload, and
    /// others a kernel without trains.
    fn refuses_trains(&mut self, error: &io::Error, segment: usize) -> bool {
        match error.raw_os_error() {
            Some(libc::EINVAL | libc::EMSGSIZE) => self.train_limit = segment.saturating_sub(1),
            Some(libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT) => {
                info!("Sending several datagrams in one call is switched off: {error}");
                self.train_limit = 0;
            }
            _ => return false,
        }
        true
    }

    /// Trains of any length are tried again: the interface or its MTU is another one.
    fn forget_refusals(&mut self) {
        self.refused_length = false;
        if self.train_limit > 0 {
            self.train_limit = usize::MAX;
        }
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
                self.refused_length = true;
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
                // Not the length was refused, as it seemed when the train was, but the datagram itself.
                if self.train_limit > 0 {
                    self.train_limit = usize::MAX;
                }
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
                Ok(count) => {
                    (self.received, self.next) = (count, 0);
                    // The kernel has met the end of the queue, which is what a further call would say (recvmmsg(2)).
                    self.readable = count == sys::RECEIVE_BATCH;
                }
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

/// An address as an IPv6 socket wants it: one of IPv4 is mapped (RFC 4291, 2.5.5.2).
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// What a datagram path to `peer` is like.
fn path_info(peer: SocketAddr) -> PathInfo {
    let peer = canonical(peer);
    let max_message = if peer.is_ipv4() { MAX_PAYLOAD_IPV4 } else { MAX_PAYLOAD_IPV6 };
    PathInfo { reliable: false, max_message, peer }
}

/// Watches for a peer that is sent to and does not answer, so that its name can be looked up again. Only what the tunnel
/// has accepted is an answer.
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

    /// How long messages have been sent and nothing was accepted.
    fn duration(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
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
