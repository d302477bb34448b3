//! TCP, listening side: accepts, checks the source, and holds newcomers unread until the tunnel has decided.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Registry;
use mio::event::Event;
use mio::net::TcpStream;
use socket2::Type;

use super::acceptor::{self, Acceptor, LISTENER_TOKEN, token_of};
use super::admission::Admission;
use super::connection::{self, Connection};
use super::{Context, DownReason, Each, LinkEvent, RESOLVER_TOKEN, Transport, TransportCounters, WayFacts, socket};
use crate::config::{LinkConfig, Role};
use crate::fault::FaultLog;
use crate::tunnel::{Path, PathInfo, Rejection};

/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 64;

/// Newcomers held at the same time; the tunnel turns most of them away sooner.
const MAX_HELD: usize = 16;

struct Held {
    path: Path,
    info: PathInfo,
    stream: TcpStream,
}

/// The listening side of a TCP link.
pub struct TcpServer {
    config: LinkConfig,
    registry: Registry,
    acceptor: Acceptor,
    admission: Admission,
    held: Vec<Held>,
    live: Option<Box<Connection>>,
    paths: u64,
    events: VecDeque<LinkEvent>,
    faults: FaultLog,
    counters: TransportCounters,
}

impl TcpServer {
    /// Listens.
    ///
    /// # Errors
    /// The address or the port cannot be used.
    pub fn open(config: &LinkConfig, mut admission: Admission, context: Context, now: Instant) -> io::Result<Self> {
        let (socket, address) = socket::bind_server(config, Type::STREAM)?;
        let acceptor = Acceptor::listen(socket, BACKLOG, &context.registry)?;
        log::info!("listening on {address} transport=tcp");
        admission.refresh_remote(now);
        Ok(Self {
            config: config.clone(),
            registry: context.registry,
            acceptor,
            admission,
            held: Vec::new(),
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
        if self.held.len() >= MAX_HELD {
            self.counters.refused += 1;
            return;
        }
        self.paths += 1;
        let path = Path(self.paths);
        if acceptor::set_up(&mut stream, path, &self.config, &self.registry, &mut self.faults, now) {
            let info = connection::path_info(source);
            self.held.push(Held { path, info, stream });
            self.events.push_back(LinkEvent::Up(path, info));
        }
    }

    /// Ends the live connection if it has ended by itself.
    fn reap(&mut self) {
        let Some(reason) = self.live.as_ref().and_then(|connection| connection.ended()) else { return };
        if let Some(connection) = self.live.take() {
            self.events.push_back(LinkEvent::Down { path: connection.path(), reason, retry: None });
        }
    }
}

impl Transport for TcpServer {
    fn handle_event(&mut self, event: &Event, now: Instant) {
        match event.token() {
            RESOLVER_TOKEN => self.admission.handle_answer(now),
            LISTENER_TOKEN => {
                self.accept_each(now);
            }
            token => {
                if let Some(connection) = self.live.as_mut().filter(|live| token_of(live.path()) == token) {
                    connection.handle_event(event);
                    connection.flush(now);
                    self.reap();
                } else if let Some(index) = self.held.iter().position(|held| token_of(held.path) == token)
                    && (event.is_read_closed() || event.is_error())
                {
                    // It left before its turn came; what it sent is of no use to anybody.
                    let path = self.held.swap_remove(index).path;
                    self.events.push_back(LinkEvent::Down { path, reason: DownReason::Closed, retry: None });
                }
            }
        }
    }

    fn adopt(&mut self, path: Path, now: Instant) {
        if let Some(index) = self.held.iter().position(|held| held.path == path) {
            let held = self.held.swap_remove(index);
            self.counters.paths += 1;
            self.live = Some(Box::new(Connection::new(path, held.info, held.stream, now)));
        }
    }

    fn reject(&mut self, path: Path, why: Rejection, _now: Instant) {
        if why == Rejection::Occupied {
            self.counters.strangers += 1;
        }
        self.held.retain(|held| held.path != path);
        self.live.take_if(|live| live.path() == path);
    }

    fn reconnect(&mut self, _now: Instant) {
        if let Some(connection) = self.live.take() {
            let (path, reason) = (connection.path(), DownReason::Requested);
            self.events.push_back(LinkEvent::Down { path, reason, retry: None });
        }
    }

    fn reconfigure(&mut self, config: &LinkConfig, now: Instant) -> bool {
        self.config = config.clone();
        let Role::Listen(access) = &config.role else { return true };
        self.admission.replace(access.clone());
        for held in std::mem::take(&mut self.held) {
            if self.admission.check(held.info.peer, None, now).is_ok() {
                self.held.push(held);
            } else {
                self.counters.refused += 1;
                let (path, reason) = (held.path, DownReason::NotAllowed);
                self.events.push_back(LinkEvent::Down { path, reason, retry: None });
            }
        }
        let Some(live) = &self.live else { return true };
        live.set_patience(config);
        self.admission.check(live.info().peer, None, now).is_ok()
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
        // A newcomer is held unread, and nothing is said to it either.
        let live = self.live.as_mut().filter(|live| live.path() == path);
        let taken = live.is_some_and(|connection| connection.send(message, now));
        self.counters.send_errors += u64::from(!taken);
        self.reap();
        taken
    }

    fn flush(&mut self, now: Instant) {
        if let Some(connection) = &mut self.live {
            connection.flush(now);
            self.reap();
        }
    }

    fn can_receive(&self) -> bool {
        self.live.as_ref().is_some_and(|connection| connection.can_receive())
    }

    fn receive_each<'a>(&'a mut self, budget: usize, _now: Instant, each: Each<'_, 'a>) {
        if let Some(connection) = &mut self.live {
            connection.receive_each(budget, each);
        }
    }

    fn finish_receive(&mut self, _accepted: usize, _now: Instant) {
        self.reap();
    }

    fn poll_link(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.acceptor.poll_timeout(), self.admission.poll_timeout()].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.acceptor.is_due(now) {
            self.accept_each(now);
        }
        self.admission.handle_timeout(now);
    }

    fn counters(&self) -> TransportCounters {
        self.counters
    }

    fn facts(&self) -> WayFacts {
        self.live.as_ref().map(|connection| connection.facts()).unwrap_or_default()
    }
}
