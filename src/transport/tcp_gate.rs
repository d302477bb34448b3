//! TCP, listening side of a secure link: strangers get small buffers, a few places and little time, and their messages
//! go to the tunnel, which authenticates them. The connection that it adopts is the live one.
//!
//! A connection goes through three stages. As a stranger it may send frames of one length, that of the first message of a
//! handshake; any other closes it. Once the tunnel has answered it ([`Transport::send_to`]) it may send frames of every
//! length, from a small buffer. Once it is adopted it has the buffers of a live connection.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Instant;

use mio::Registry;
use mio::event::Event;
use mio::net::TcpStream;
use socket2::Type;

use super::acceptor::{self, Acceptor, LISTENER_TOKEN, token_of};
use super::admission::Admission;
use super::connection::{self, Connection};
use super::pending::{self, Origin, Pending};
use super::{
    Context, DownReason, Each, LinkEvent, Transport, TransportCounters, WayFacts, before_authentication, frame, socket,
};
use crate::config::{LinkConfig, Role};
use crate::fault::FaultLog;
use crate::sys;
use crate::tunnel::{Path, Rejection};

/// Connections that the kernel holds before we accept them. Those that have sent nothing stay there for a while, and are
/// not to keep out the one that does.
const BACKLOG: i32 = 1024;

/// Messages of strangers in one turn, of all and of each.
const STRANGERS_BUDGET: usize = 32;
const STRANGER_BUDGET: usize = 4;

/// A connection that is not adopted.
struct Stranger {
    connection: Box<Connection>,
    /// The only length that its messages may have, until it has been answered.
    expected_len: Option<usize>,
    /// It has sent what no stranger may.
    has_offended: bool,
}

impl Stranger {
    fn is_at_end(&self) -> bool {
        self.has_offended || self.connection.ended().is_some()
    }

    fn receive_each<'a>(&'a mut self, budget: usize, each: Each<'_, 'a>) {
        self.connection.prepare();
        let announced = self.connection.announced_len();
        self.has_offended |= self.expected_len.is_some() && announced.is_some() && announced != self.expected_len;
        if !self.has_offended {
            self.connection.take_each(budget, each);
        }
    }

    /// The tunnel has something to say to it, which it does to its peer alone.
    fn answer(&mut self, message: &[u8], now: Instant) -> bool {
        if self.expected_len.take().is_some() {
            self.connection.grow(frame::MIN_CAPACITY, frame::MIN_CAPACITY);
        }
        self.connection.send(message, now)
    }
}

/// The listening side of a secure TCP link.
pub struct TcpGate {
    config: LinkConfig,
    registry: Registry,
    acceptor: Acceptor,
    admission: Admission,
    init_len: usize,
    pending: Pending<Stranger>,
    live: Option<Box<Connection>>,
    paths: u64,
    events: VecDeque<LinkEvent>,
    faults: FaultLog,
    counters: TransportCounters,
}

impl TcpGate {
    /// Listens; `init_len` is the length of the first message of a handshake in bytes.
    ///
    /// # Errors
    /// The address or the port cannot be used.
    pub fn open(config: &LinkConfig, admission: Admission, init_len: usize, context: Context) -> io::Result<Self> {
        let (socket, address) = socket::bind_server(config, Type::STREAM)?;
        sys::defer_accept(socket.as_fd(), pending::PATIENCE)?;
        let acceptor = Acceptor::listen(socket, BACKLOG, &context.registry)?;
        log::info!("listening on {address} transport=tcp");
        Ok(Self {
            config: config.clone(),
            registry: context.registry,
            acceptor,
            admission,
            init_len,
            pending: Pending::new(context.hint.map(|hint| Origin::of(hint.ip()))),
            live: None,
            paths: 0,
            events: VecDeque::new(),
            faults: FaultLog::default(),
            counters: TransportCounters::default(),
        })
    }

    fn accept_each(&mut self, now: Instant) {
        for (stream, source) in self.acceptor.accept(now, &mut self.faults) {
            self.admit(stream, source, now);
        }
    }

    fn admit(&mut self, mut stream: TcpStream, source: SocketAddr, now: Instant) {
        if let Err(refusal) = self.admission.check(source, None, now) {
            self.counters.refused += 1;
            self.faults.note(now, refusal.label(), refusal.advice(source.ip().to_canonical()));
            return;
        }
        let origin = Origin::of(source.ip());
        if !self.pending.has_room(origin) {
            self.counters.refused += 1;
            let text = format_args!(
                "Refused a connection from {}: too many are waiting to be authenticated; --allow narrows who is heard",
                source.ip().to_canonical()
            );
            return self.faults.note(now, "pending", text);
        }
        self.paths += 1;
        let path = Path(self.paths);
        if !acceptor::set_up(&mut stream, path, &self.config, &self.registry, &mut self.faults, now) {
            return;
        }
        let info = connection::path_info(source);
        let connection = Box::new(Connection::of_stranger(path, info, stream, self.init_len, now));
        let stranger = Stranger { connection, expected_len: Some(self.init_len), has_offended: false };
        self.pending.insert(origin, stranger, now);
    }

    /// Closes a stranger's connection. One that was answered is known to the tunnel, which is told of its end.
    fn dismiss(&mut self, stranger: Stranger, reason: DownReason) {
        self.counters.strangers += 1;
        if stranger.expected_len.is_none() {
            let path = stranger.connection.path();
            self.events.push_back(LinkEvent::Down { path, reason, retry: None });
        }
        stranger.connection.close();
    }

    /// Ends the connections that have ended by themselves, or have to.
    fn reap(&mut self, now: Instant) {
        if let Some(reason) = self.live.as_ref().and_then(|connection| connection.ended())
            && let Some(connection) = self.live.take()
        {
            self.events.push_back(LinkEvent::Down { path: connection.path(), reason, retry: None });
        }
        while let Some((_, stranger)) = self.pending.take(Stranger::is_at_end) {
            if stranger.has_offended {
                let text = format_args!(
                    "The end at {} does not begin as this link does: it is plain, or one end has a secret and the \
                     other keys; give both ends the same secret (--secret-file) or keys",
                    stranger.connection.info().peer
                );
                self.faults.note(now, "not-secure", text);
            }
            let reason = stranger.connection.ended().unwrap_or(DownReason::Closed);
            self.dismiss(stranger, reason);
        }
    }

    fn live_mut(&mut self, path: Path) -> Option<&mut Connection> {
        self.live.as_deref_mut().filter(|live| live.path() == path)
    }
}

impl Transport for TcpGate {
    fn handle_event(&mut self, event: &Event, now: Instant) {
        let token = event.token();
        if token == LISTENER_TOKEN {
            return self.accept_each(now);
        }
        if let Some(connection) = self.live.as_mut().filter(|live| token_of(live.path()) == token) {
            connection.handle_event(event);
            connection.flush(now);
            self.reap(now);
        } else if let Some(stranger) = self.pending.find(|stranger| token_of(stranger.connection.path()) == token) {
            stranger.connection.handle_event(event);
            stranger.connection.flush(now);
            self.reap(now);
        }
    }

    fn adopt(&mut self, path: Path, _now: Instant) {
        let Some((origin, stranger)) = self.pending.take(|stranger| stranger.connection.path() == path) else { return };
        self.counters.paths += 1;
        self.pending.set_known(origin);
        let mut connection = stranger.connection;
        connection.grow(frame::CAPACITY, frame::SEND_CAPACITY);
        if let Some(old) = self.live.replace(connection) {
            old.close();
        }
    }

    fn reject(&mut self, path: Path, _why: Rejection, _now: Instant) {
        if let Some((_, stranger)) = self.pending.take(|stranger| stranger.connection.path() == path) {
            self.counters.strangers += 1;
            stranger.connection.close();
        }
        if let Some(live) = self.live.take_if(|live| live.path() == path) {
            live.close();
        }
    }

    fn reconnect(&mut self, _now: Instant) {
        if let Some(connection) = self.live.take() {
            let (path, reason) = (connection.path(), DownReason::Requested);
            self.events.push_back(LinkEvent::Down { path, reason, retry: None });
            connection.close();
        }
    }

    fn reconfigure(&mut self, config: &LinkConfig, now: Instant) -> bool {
        self.config = config.clone();
        let Role::Listen(access) = &config.role else { return true };
        self.admission.replace(before_authentication(access));
        let mut is_refused = |peer: SocketAddr| self.admission.check(peer, None, now).is_err();
        let mut refused = Vec::new();
        for stranger in self.pending.in_turn() {
            let connection = &stranger.connection;
            refused.extend(is_refused(connection.info().peer).then(|| connection.path()));
        }
        let keeps_peer = self.live.as_ref().is_none_or(|live| {
            live.set_patience(config);
            !is_refused(live.info().peer)
        });
        for path in refused {
            let stranger = self.pending.take(|stranger| stranger.connection.path() == path);
            stranger.into_iter().for_each(|(_, stranger)| self.dismiss(stranger, DownReason::NotAllowed));
        }
        keeps_peer
    }

    fn network_changed(&mut self, _now: Instant) {
        let lost = self.live.take_if(|connection| connection.has_lost_address(&self.config));
        if let Some(connection) = lost {
            let (path, reason) = (connection.path(), DownReason::AddressLost);
            self.events.push_back(LinkEvent::Down { path, reason, retry: None });
        }
    }

    fn peer_address(&self) -> Option<SocketAddr> {
        self.live.as_ref().map(|connection| connection.info().peer)
    }

    fn can_send(&self) -> bool {
        self.live.as_ref().is_some_and(|connection| connection.can_send())
    }

    fn send_with(&mut self, len: usize, _now: Instant, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        self.live.as_mut().is_some_and(|connection| connection.send_with(len, fill))
    }

    fn send_to(&mut self, path: Path, message: &[u8], now: Instant) -> bool {
        let taken = if let Some(live) = self.live_mut(path) {
            live.send(message, now)
        } else {
            let stranger = self.pending.find(|stranger| stranger.connection.path() == path);
            stranger.is_some_and(|stranger| stranger.answer(message, now))
        };
        self.counters.send_errors += u64::from(!taken);
        self.reap(now);
        taken
    }

    fn flush(&mut self, now: Instant) {
        if let Some(connection) = &mut self.live {
            connection.flush(now);
            self.reap(now);
        }
    }

    fn can_receive(&self) -> bool {
        self.live.as_ref().is_some_and(|connection| connection.can_receive())
            || self.pending.any(|stranger| stranger.connection.can_receive())
    }

    fn receive_each<'a>(&'a mut self, budget: usize, _now: Instant, each: Each<'_, 'a>) {
        if let Some(connection) = &mut self.live {
            connection.receive_each(budget, each);
        }
        // Beside the live connection's: neither keeps the other waiting.
        let mut left = STRANGERS_BUDGET.min(budget);
        for stranger in self.pending.in_turn() {
            let budget = left.min(STRANGER_BUDGET);
            stranger.receive_each(budget, &mut |path, info, message| {
                left -= 1;
                each(path, info, message);
            });
            if left == 0 {
                break;
            }
        }
    }

    fn finish_receive(&mut self, _accepted: usize, now: Instant) {
        self.reap(now);
    }

    fn poll_link(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.acceptor.poll_timeout(), self.pending.poll_timeout()].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some(stranger) = self.pending.take_late(now) {
            self.dismiss(stranger, DownReason::Timeout);
        }
        if self.acceptor.is_due(now) {
            self.accept_each(now);
        }
    }

    fn counters(&self) -> TransportCounters {
        self.counters
    }

    fn facts(&self) -> WayFacts {
        self.live.as_ref().map(|connection| connection.facts()).unwrap_or_default()
    }
}
