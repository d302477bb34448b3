//! One live TCP connection: frames out through a bounded buffer, frames in through a decoder.
//!
//! It knows nothing of who connected to whom. An error or the end of the stream is kept in [`Connection::ended`];
//! the owner asks for it after each call.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use socket2::SockRef;

use super::frame::{self, Decoder, Encoder};
use super::pace::Pace;
use super::{DownReason, Each, WayFacts, backoff, socket};
use crate::config::LinkConfig;
use crate::fault::{self, Origin, Severity};
use crate::sys;
use crate::tunnel::{Path, PathInfo};

/// Bytes that are read in vain before a connection is closed.
const MAX_DRAIN: usize = 64 * 1024;

/// A connection that messages move on.
#[derive(Debug)]
pub struct Connection {
    path: Path,
    info: PathInfo,
    stream: TcpStream,
    decoder: Decoder,
    encoder: Encoder,
    readable: bool,
    writable: bool,
    was_answered: bool,
    read: u64,
    written: u64,
    since: Instant,
    pace: Pace,
    ended: Option<DownReason>,
}

impl Connection {
    /// Takes over a connected stream that is registered for reading and writing.
    pub fn new(path: Path, info: PathInfo, stream: TcpStream, now: Instant) -> Self {
        Self {
            path,
            info,
            stream,
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            readable: true,
            writable: true,
            was_answered: false,
            read: 0,
            written: 0,
            since: now,
            pace: Pace::new(now),
            ended: None,
        }
    }

    /// Takes over the connected stream of a stranger: with room for one frame of `max_frame` bytes, and none to send.
    pub fn of_stranger(path: Path, info: PathInfo, stream: TcpStream, max_frame: usize, now: Instant) -> Self {
        Self {
            path,
            info,
            stream,
            decoder: Decoder::for_frames_up_to(max_frame),
            encoder: Encoder::with_capacity(0),
            readable: true,
            writable: true,
            was_answered: false,
            read: 0,
            written: 0,
            since: now,
            pace: Pace::new(now),
            ended: None,
        }
    }

    /// Makes room for frames of every length, at least for `receive` and `send` bytes.
    pub fn grow(&mut self, receive: usize, send: usize) {
        self.decoder.grow(receive.max(frame::MIN_CAPACITY));
        self.encoder.grow(send.max(frame::MIN_CAPACITY));
    }

    /// What the path is like.
    pub fn info(&self) -> PathInfo {
        self.info
    }

    /// The path that this connection is.
    pub fn path(&self) -> Path {
        self.path
    }

    /// Why the connection has ended, if it has and every message that came before has been handed out.
    pub fn ended(&self) -> Option<DownReason> {
        self.ended.filter(|_| !self.decoder.has_frame())
    }

    /// The tunnel has accepted a message that came by it.
    pub fn note_accepted(&mut self) {
        self.was_answered = true;
    }

    /// True if a message that came by it was accepted.
    pub fn was_answered(&self) -> bool {
        self.was_answered
    }

    /// True if it was of use: a message was accepted, or it lasted.
    pub fn was_good(&self, now: Instant) -> bool {
        self.was_answered || now.saturating_duration_since(self.since) >= backoff::SUCCESS_AFTER
    }

    /// How many bytes have been received, and acknowledged by the peer, and whether some wait for that.
    pub fn progress(&self) -> (u64, bool) {
        let waiting = sys::unacknowledged(self.stream.as_fd()).unwrap_or(0);
        ((self.read + self.written).saturating_sub(waiting), waiting > 0 || !self.encoder.is_empty())
    }

    /// Takes readiness.
    pub fn handle_event(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// Gives the kernel other times after which a silent peer is probed and given up.
    pub fn set_patience(&self, config: &LinkConfig) {
        if let Err(error) = socket::set_patience(&SockRef::from(&self.stream), config) {
            log::debug!("Cannot change keepalive and down-after of a connection: {error}");
        }
    }

    /// True if this host no longer has the address of this end.
    pub fn has_lost_address(&self, config: &LinkConfig) -> bool {
        self.stream.local_addr().is_ok_and(|local| socket::is_lost(config, local))
    }

    /// What is known about it.
    pub fn facts(&self) -> WayFacts {
        let local = self.stream.local_addr().ok().map(canonical);
        WayFacts { local, tcp: sys::tcp_facts(self.stream.as_fd()).ok() }
    }

    /// The address of this end.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.stream.local_addr().ok().map(|local| canonical(local).ip())
    }

    /// True if a frame of any length can be taken now: the socket takes bytes and the buffer has room.
    pub fn can_send(&self) -> bool {
        self.writable && self.ended.is_none() && self.encoder.has_room()
    }

    /// Lends room for a message of `len` bytes.
    pub fn send_with(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        self.ended.is_none() && self.encoder.push_with(len, fill)
    }

    /// Sends a message behind what has been collected, and all of it.
    pub fn send(&mut self, message: &[u8], now: Instant) -> bool {
        let taken = self.send_with(message.len(), |room| room.copy_from_slice(message));
        self.flush(now);
        taken
    }

    /// Writes what has been collected until the socket takes no more.
    pub fn flush(&mut self, now: Instant) {
        let was_writable = self.writable;
        while self.writable && self.ended.is_none() && !self.encoder.is_empty() {
            match self.stream.write(self.encoder.pending()) {
                Ok(len) => {
                    self.written += len as u64;
                    self.encoder.consume(len);
                }
                Err(error) => self.sort(&error, Side::Write),
            }
        }
        if was_writable
            && !self.writable
            && let Some(limit) = self.pace.is_full(self.written, now)
            && let Err(error) = sys::limit_unsent(self.stream.as_fd(), limit)
        {
            log::debug!("Cannot limit what waits in the socket: {error}");
        }
    }

    /// True if a frame is buffered or the socket may have more.
    pub fn can_receive(&self) -> bool {
        self.decoder.has_frame() || (self.readable && self.ended.is_none())
    }

    /// Hands out up to `budget` messages of what one filling of the buffer has brought.
    pub fn receive_each<'a>(&'a mut self, budget: usize, each: Each<'_, 'a>) {
        self.prepare();
        self.take_each(budget, each);
    }

    /// Receives if no message is complete.
    pub fn prepare(&mut self) {
        if !self.decoder.has_frame() {
            self.fill();
        }
    }

    /// The length that the next message announces, if that much has been received.
    pub fn announced_len(&self) -> Option<usize> {
        self.decoder.announced_len()
    }

    /// Hands out up to `budget` messages of those that have been received.
    pub fn take_each<'a>(&'a mut self, budget: usize, each: Each<'_, 'a>) {
        let (path, info) = (self.path, self.info);
        self.decoder.take_frames(budget, &mut |message| each(path, &info, message));
    }

    /// Reads until the socket has no more or the buffer is full.
    fn fill(&mut self) {
        while self.readable && self.ended.is_none() {
            let space = self.decoder.space();
            if space.is_empty() {
                return;
            }
            match self.stream.read(space) {
                Ok(0) => self.ended = Some(DownReason::Closed),
                Ok(len) => {
                    self.read += len as u64;
                    self.decoder.advance(len);
                }
                Err(error) => self.sort(&error, Side::Read),
            }
        }
    }

    /// Closes the connection from this end. What the peer has sent and nobody wants is read first: with unread bytes the
    /// kernel would reset the connection, and what was sent last could be lost.
    pub fn close(mut self) {
        let mut scratch = [0; 4096];
        for _ in 0..MAX_DRAIN / scratch.len() {
            match self.stream.read(&mut scratch) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Closes the connection at once: what is under way on it is given up, and the peer is told so.
    pub fn abort(self) {
        // Without it the connection is closed all the same, only later.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    fn sort(&mut self, error: &io::Error, side: Side) {
        match (fault::sort(error, Origin::Stream), side) {
            (Severity::Retry, _) => {}
            (Severity::WouldBlock, Side::Read) => self.readable = false,
            (Severity::WouldBlock, Side::Write) => self.writable = false,
            (Severity::Transient | Severity::Link | Severity::Fatal, _) => {
                log::debug!("The connection has failed: {error}");
                self.ended = Some(DownReason::of(error));
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Read,
    Write,
}

/// What a TCP connection to `peer` is like as a path.
pub fn path_info(peer: SocketAddr) -> PathInfo {
    PathInfo { reliable: true, max_message: frame::MAX_LEN, peer: canonical(peer) }
}

/// The address as people write it: an IPv4 address that an IPv6 socket shows as `::ffff:a.b.c.d` is an IPv4 address.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ std::net::IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        // Keeps the zone of a link-local address.
        std::net::IpAddr::V6(_) => address,
    }
}
