//! TCP, connecting side: looks the server up, tries each of its addresses, and begins again for as long as it runs.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{SockRef, Type};

use super::backoff::Backoff;
use super::connection::{self, Connection};
use super::resolve::{Answer, Resolver};
use super::{
    Context, DownReason, Each, FIRST_TOKEN, LinkEvent, Mode, RESOLVER_TOKEN, Transport, TransportCounters, socket,
};
use crate::config::{Endpoint, LinkConfig};
use crate::fault::FaultLog;
use crate::tunnel::{Path, Rejection};

/// Time for one address to answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time after which the last known addresses are tried although the resolver has not answered.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(2);

/// Time for a sign of the peer on a connection that the route to the peer has left.
const DOUBT_PATIENCE: Duration = Duration::from_secs(1);

enum Stage {
    /// Waiting for the resolver; at the deadline the last known addresses are tried.
    Resolving { patience_until: Instant },
    /// Waiting before the next round.
    Waiting { until: Instant },
    /// One address is being tried; others may follow.
    Connecting { stream: TcpStream, target: SocketAddr, path: Path, until: Instant, rest: VecDeque<SocketAddr> },
    /// Connected.
    Live(Box<Connection>),
}

/// The connecting side of a TCP link.
pub struct TcpClient {
    config: LinkConfig,
    registry: Registry,
    resolver: Resolver,
    mode: Mode,
    known: Vec<SocketAddr>,
    stage: Stage,
    /// When the live connection is given up unless the peer is heard before.
    doubted_until: Option<Instant>,
    backoff: Backoff,
    paths: u64,
    events: VecDeque<LinkEvent>,
    faults: FaultLog,
    counters: TransportCounters,
}

impl TcpClient {
    /// Begins to connect.
    pub fn open(config: &LinkConfig, endpoint: Endpoint, context: Context, now: Instant) -> Self {
        let mut client = Self {
            config: config.clone(),
            registry: context.registry,
            resolver: Resolver::new(endpoint, context.waker),
            mode: context.mode,
            known: Vec::new(),
            stage: Stage::Waiting { until: now },
            doubted_until: None,
            backoff: Backoff::default(),
            paths: 0,
            events: VecDeque::new(),
            faults: FaultLog::default(),
            counters: TransportCounters::default(),
        };
        client.start_round(now);
        client
    }

    fn start_round(&mut self, now: Instant) {
        match self.resolver.request() {
            Some(answer) => self.handle_answer(answer, now),
            None => self.stage = Stage::Resolving { patience_until: now + RESOLVE_PATIENCE },
        }
    }

    /// Takes the addresses of the server; a failed look-up leaves those of the last one.
    fn handle_answer(&mut self, answer: Answer, now: Instant) {
        match answer {
            Ok(addresses) => {
                self.faults.clear("resolve");
                self.known = addresses;
            }
            Err(error) => {
                let endpoint = self.resolver.endpoint();
                self.faults.note(now, "resolve", format_args!("Cannot look up {endpoint}: {error}; trying again"));
            }
        }
        if matches!(self.stage, Stage::Resolving { .. } | Stage::Waiting { .. }) {
            self.try_next(self.known.iter().copied().collect(), now);
        }
    }

    /// Tries the next address, or waits for the next round if none is left.
    fn try_next(&mut self, mut rest: VecDeque<SocketAddr>, now: Instant) {
        while let Some(target) = rest.pop_front() {
            self.paths += 1;
            let path = Path(self.paths);
            match self.connect(target, path) {
                Ok(stream) => {
                    self.stage = Stage::Connecting { stream, target, path, until: now + ATTEMPT_TIMEOUT, rest };
                    return;
                }
                Err(error) => self.note_failure(target, &error, now),
            }
        }
        self.wait(now);
    }

    fn wait(&mut self, now: Instant) -> Duration {
        let wait = self.backoff.next(now, fastrand::f32());
        self.stage = Stage::Waiting { until: now + wait };
        wait
    }

    fn connect(&self, target: SocketAddr, path: Path) -> io::Result<TcpStream> {
        let Some(local) = socket::local_for(&self.config, target) else {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the address of --bind is of the other address family",
            ));
        };
        let socket = socket::new(&self.config, target, Type::STREAM)?;
        if let Some(local) = local {
            socket.set_reuse_address(true)?;
            socket.bind(&local.into())?;
        }
        socket::tune_stream(&SockRef::from(&socket), &self.config)?;
        match socket.connect(&target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let mut stream = TcpStream::from_std(socket.into());
        self.registry.register(&mut stream, token_of(path), Interest::READABLE | Interest::WRITABLE)?;
        Ok(stream)
    }

    fn note_failure(&mut self, target: SocketAddr, error: &io::Error, now: Instant) {
        let endpoint = self.resolver.endpoint();
        self.faults.note(
            now,
            "connect",
            format_args!("Cannot connect to {endpoint} at {}: {error}; trying again", target.ip()),
        );
    }

    /// Looks at a connection attempt that has become writable or failed.
    fn check_attempt(&mut self, now: Instant) {
        let Stage::Connecting { stream, target, .. } = &self.stage else { return };
        let target = *target;
        let outcome = match stream.take_error() {
            Ok(Some(error)) | Err(error) => Err(error),
            Ok(None) => stream.peer_addr().map(drop),
        };
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(error) => self.next_target(target, &error, now),
            // A port of our own range can connect to itself while nobody listens (simultaneous open).
            Ok(()) if stream.local_addr().is_ok_and(|local| local == target) => {
                self.next_target(target, &io::ErrorKind::ConnectionRefused.into(), now);
            }
            Ok(()) => self.go_live(now),
        }
    }

    fn next_target(&mut self, target: SocketAddr, error: &io::Error, now: Instant) {
        self.note_failure(target, error, now);
        let stage = std::mem::replace(&mut self.stage, Stage::Waiting { until: now });
        if let Stage::Connecting { rest, .. } = stage {
            self.try_next(rest, now);
        }
    }

    fn go_live(&mut self, now: Instant) {
        let stage = std::mem::replace(&mut self.stage, Stage::Waiting { until: now });
        let Stage::Connecting { stream, target, path, .. } = stage else { return };
        self.faults.clear("connect");
        self.doubted_until = None;
        self.counters.paths += 1;
        let info = connection::path_info(target);
        self.stage = Stage::Live(Box::new(Connection::new(path, info, stream, now)));
        self.events.push_back(LinkEvent::Up(path, info));
    }

    /// Closes the live connection, if there is one, so that what was sent last still arrives.
    fn close(&mut self, now: Instant) {
        if let Stage::Live(connection) = std::mem::replace(&mut self.stage, Stage::Waiting { until: now }) {
            connection.close();
        }
    }

    /// Gives up what there is, and looks for the server at once.
    fn begin_anew(&mut self, reason: DownReason, now: Instant) {
        if let Stage::Live(connection) = &self.stage {
            let path = connection.path();
            self.events.push_back(LinkEvent::Down { path, reason, retry: Some(Duration::ZERO) });
        }
        self.backoff.reset();
        self.close(now);
        self.start_round(now);
    }

    /// True if a new connection would leave from another address than the live one. That may still work; on a secure link,
    /// where the peer is asked at such a time, its silence tells.
    fn was_left_by_route(&self) -> bool {
        let (Stage::Live(connection), Mode::Secure { .. }) = (&self.stage, self.mode) else { return false };
        let source = socket::source_towards(&self.config, connection.info().peer);
        source.is_some_and(|source| connection.local_ip().is_some_and(|local| local != source))
    }

    /// Ends the live connection if it has ended by itself.
    fn reap(&mut self, now: Instant) {
        let Stage::Live(connection) = &self.stage else { return };
        let (Some(reason), path) = (connection.ended(), connection.path()) else { return };
        let is_dismissed = matches!(reason, DownReason::Closed | DownReason::Reset) && !connection.was_answered();
        let (peer, was_good) = (connection.info().peer, connection.was_good(now));
        match self.mode {
            Mode::Secure { .. } if is_dismissed => {
                let text = format_args!(
                    "The server at {peer} closed the connection without an answer: it is plain, or its secret or keys \
                     are others; give both ends the same"
                );
                self.faults.note(now, "dismissed", text);
            }
            // A plain link that was idle for long says nothing by its end.
            Mode::Plain if is_dismissed && !was_good => {
                let text = format_args!(
                    "The server at {peer} closed the connection without a byte: it serves another peer, or if it is a \
                     secure link, this end needs its secret (--secret-file)"
                );
                self.faults.note(now, "dismissed", text);
            }
            Mode::Secure { .. } | Mode::Plain => {}
        }
        if was_good {
            self.backoff.reset();
        }
        let retry = Some(self.wait(now));
        self.events.push_back(LinkEvent::Down { path, reason, retry });
    }
}

fn token_of(path: Path) -> Token {
    Token(FIRST_TOKEN.wrapping_add(path.0 as usize))
}

impl Transport for TcpClient {
    fn handle_event(&mut self, event: &Event, now: Instant) {
        if event.token() == RESOLVER_TOKEN {
            if let Some(answer) = self.resolver.poll_answer() {
                self.handle_answer(answer, now);
            }
            return;
        }
        match &mut self.stage {
            Stage::Connecting { path, .. } if event.token() == token_of(*path) => self.check_attempt(now),
            Stage::Live(connection) if event.token() == token_of(connection.path()) => {
                connection.handle_event(event);
                connection.flush();
                self.reap(now);
            }
            _ => {}
        }
    }

    fn adopt(&mut self, _path: Path, _now: Instant) {}

    fn reject(&mut self, path: Path, _why: Rejection, now: Instant) {
        let Stage::Live(connection) = &self.stage else { return };
        if connection.path() == path {
            if connection.was_good(now) {
                self.backoff.reset();
            }
            self.close(now);
            self.wait(now);
        }
    }

    fn reconnect(&mut self, now: Instant) {
        self.begin_anew(DownReason::Requested, now);
    }

    fn network_changed(&mut self, now: Instant) {
        let is_lost = |address: io::Result<SocketAddr>| address.is_ok_and(|local| socket::is_lost(&self.config, local));
        let begins_anew = match &self.stage {
            Stage::Live(connection) => connection.has_lost_address(&self.config),
            Stage::Connecting { stream, .. } => is_lost(stream.local_addr()),
            Stage::Waiting { .. } => true,
            Stage::Resolving { .. } => false,
        };
        if begins_anew {
            self.begin_anew(DownReason::AddressLost, now);
        } else if self.was_left_by_route() {
            self.doubted_until.get_or_insert(now + DOUBT_PATIENCE);
        }
    }

    fn peer_address(&self) -> Option<SocketAddr> {
        match &self.stage {
            Stage::Live(connection) => Some(connection.info().peer),
            Stage::Connecting { target, .. } => Some(*target),
            Stage::Resolving { .. } | Stage::Waiting { .. } => self.known.first().copied(),
        }
    }

    fn can_send(&self) -> bool {
        matches!(&self.stage, Stage::Live(connection) if connection.can_send())
    }

    fn send_with(&mut self, len: usize, _now: Instant, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        match &mut self.stage {
            Stage::Live(connection) => connection.send_with(len, fill),
            Stage::Resolving { .. } | Stage::Waiting { .. } | Stage::Connecting { .. } => false,
        }
    }

    fn send_to(&mut self, path: Path, message: &[u8], now: Instant) -> bool {
        let taken = match &mut self.stage {
            Stage::Live(connection) if connection.path() == path => connection.send(message),
            _ => false,
        };
        self.counters.send_errors += u64::from(!taken);
        self.reap(now);
        taken
    }

    fn flush(&mut self, now: Instant) {
        if let Stage::Live(connection) = &mut self.stage {
            connection.flush();
            self.reap(now);
        }
    }

    fn can_receive(&self) -> bool {
        matches!(&self.stage, Stage::Live(connection) if connection.can_receive())
    }

    fn receive_each<'a>(&'a mut self, budget: usize, _now: Instant, each: Each<'_, 'a>) {
        if let Stage::Live(connection) = &mut self.stage {
            connection.receive_each(budget, each);
        }
    }

    fn finish_receive(&mut self, accepted: usize, now: Instant) {
        if let Stage::Live(connection) = &mut self.stage
            && accepted > 0
        {
            connection.note_accepted();
            self.doubted_until = None;
        }
        self.reap(now);
    }

    fn poll_link(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Resolving { patience_until } if !self.known.is_empty() => Some(*patience_until),
            Stage::Waiting { until } | Stage::Connecting { until, .. } => Some(*until),
            Stage::Live(_) => self.doubted_until,
            Stage::Resolving { .. } => None,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match &self.stage {
            Stage::Resolving { patience_until } if *patience_until <= now && !self.known.is_empty() => {
                self.try_next(self.known.iter().copied().collect(), now);
            }
            Stage::Waiting { until } if *until <= now => self.start_round(now),
            Stage::Live(_) if self.doubted_until.take_if(|until| *until <= now).is_some() => {
                self.begin_anew(DownReason::Timeout, now);
            }
            Stage::Connecting { until, target, .. } if *until <= now => {
                self.next_target(*target, &io::ErrorKind::TimedOut.into(), now);
            }
            _ => {}
        }
    }

    fn counters(&self) -> TransportCounters {
        self.counters
    }
}
