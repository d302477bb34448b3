//! TCP, connecting side: looks the server up, tries its addresses, and begins again for as long as it runs.
//!
//! The kernel repeats what a path has lost once a second or so and a connection goes on as soon as its path does. Where the
//! kernel cannot be told to (before Linux 6.15), a second connection is tried while nothing moves on the live one, and takes
//! its place if it stands first.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Registry, Token};

use super::attempt::{Attempt, token_of};
use super::backoff::{Backoff, Pause};
use super::connection::{self, Connection};
use super::race::Race;
use super::resolve::{Answer, Resolver};
use super::stall::Stall;
use super::targets::Targets;
use super::{
    Context, DownReason, Each, LinkEvent, Mode, RESOLVER_TOKEN, Transport, TransportCounters, WayFacts, socket,
};
use crate::config::{Endpoint, LinkConfig};
use crate::fault::FaultLog;
use crate::tunnel::{Path, Rejection};

/// Time after which the last known addresses are tried although the resolver has not answered.
const RESOLVE_PATIENCE: Duration = Duration::from_millis(500);

/// Time from the beginning of one attempt at a second connection to the next.
const SECOND_AGAIN: Duration = Duration::from_secs(1);

/// Time for a sign of the peer on a connection that the route to the peer has left.
const DOUBT_PATIENCE: Duration = Duration::from_secs(1);

enum Stage {
    /// Waiting for the resolver; at the deadline the last known addresses are tried.
    Resolving { patience_until: Instant },
    /// Waiting before the next round.
    Waiting(Pause),
    /// Addresses are being tried.
    Connecting,
    /// Connected.
    Live(Box<Live>),
}

struct Live {
    connection: Connection,
    target: SocketAddr,
    /// Of a connection that may stand still for long although its path is whole.
    stall: Option<Stall>,
}

/// The connecting side of a TCP link.
pub struct TcpClient {
    config: LinkConfig,
    registry: Registry,
    resolver: Resolver,
    mode: Mode,
    targets: Targets,
    stage: Stage,
    /// When the live connection is given up unless the peer is heard before.
    doubted_until: Option<Instant>,
    /// The attempts of this round, or those at a second connection.
    race: Option<Race<Attempt>>,
    /// What went wrong with the addresses of this race.
    failures: Vec<String>,
    backoff: Backoff,
    round_began_at: Instant,
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
            targets: Targets::default(),
            stage: Stage::Waiting(Pause::fixed(now, Duration::ZERO)),
            doubted_until: None,
            race: None,
            failures: Vec::new(),
            backoff: Backoff::default(),
            round_began_at: now,
            paths: 0,
            events: VecDeque::new(),
            faults: FaultLog::default(),
            counters: TransportCounters::default(),
        };
        client.start_round(now);
        client
    }

    fn start_round(&mut self, now: Instant) {
        self.round_began_at = now;
        // A look-up of an earlier round that has not ended yet is not waited for again.
        let hangs = self.resolver.is_pending() && !self.targets.is_empty();
        match self.resolver.request() {
            Some(answer) => self.handle_answer(answer, now),
            None if hangs => self.begin_round(now),
            None => self.stage = Stage::Resolving { patience_until: now + RESOLVE_PATIENCE },
        }
    }

    /// Takes the addresses of the server; a failed look-up leaves those of the last one.
    fn handle_answer(&mut self, answer: Answer, now: Instant) {
        match answer {
            Ok(addresses) => {
                self.faults.clear("resolve");
                self.targets.set(&addresses);
            }
            Err(error) => {
                let endpoint = self.resolver.endpoint();
                self.faults.note(now, "resolve", format_args!("Cannot look up {endpoint}: {error}; trying again"));
            }
        }
        match self.stage {
            Stage::Resolving { .. } | Stage::Waiting(_) => self.begin_round(now),
            Stage::Connecting => {
                if let Some(race) = &mut self.race {
                    race.add(&self.targets.in_order());
                }
                self.run_race(now);
            }
            Stage::Live(_) => {}
        }
    }

    fn begin_round(&mut self, now: Instant) {
        self.stage = Stage::Connecting;
        self.begin_race(now);
    }

    fn begin_race(&mut self, now: Instant) {
        self.failures.clear();
        self.race = Some(Race::new(self.targets.in_order(), now));
        self.run_race(now);
    }

    /// Begins the attempts that are due, and waits for the next round if all have failed.
    fn run_race(&mut self, now: Instant) {
        let Some(mut race) = self.race.take() else { return };
        while let Some(target) = race.next_target(now) {
            self.paths += 1;
            match Attempt::begin(&self.config, &self.registry, target, Path(self.paths)) {
                Ok(attempt) => race.start(target, attempt, now),
                Err(error) => self.note_failure(target, &error),
            }
        }
        if !race.is_over() {
            self.race = Some(race);
            return;
        }
        let failures = std::mem::take(&mut self.failures);
        if matches!(self.stage, Stage::Connecting) {
            if !failures.is_empty() {
                let (endpoint, failures) = (self.resolver.endpoint(), failures.join("; "));
                self.faults.note(
                    now,
                    "connect",
                    format_args!("Cannot connect to {endpoint} at {failures}; trying again"),
                );
            }
            self.wait(now);
        }
    }

    fn wait(&mut self, now: Instant) -> Duration {
        let pause = self.backoff.pause(self.round_began_at, now, fastrand::f32());
        self.race = None;
        self.stage = Stage::Waiting(pause);
        pause.until.saturating_duration_since(now)
    }

    /// Keeps a failure until all addresses have had their turn: one of them may do.
    fn note_failure(&mut self, target: SocketAddr, error: &io::Error) {
        log::debug!("Cannot connect to {target}: {error}");
        self.failures.push(format!("{}: {error}", target.ip()));
    }

    /// Looks at an attempt that has become writable or failed.
    fn check_attempt(&mut self, token: Token, now: Instant) {
        let is_wanted = |attempt: &Attempt| token_of(attempt.path) == token;
        let Some((target, attempt)) = self.race.as_ref().and_then(|race| race.find(is_wanted)) else { return };
        match attempt.poll_outcome(target) {
            None => {}
            Some(Ok(())) => {
                let won = self.race.take().and_then(|mut race| race.take(is_wanted, now));
                won.into_iter().for_each(|attempt| self.go_live(attempt, target, now));
            }
            Some(Err(error)) => {
                self.race.as_mut().and_then(|race| race.take(is_wanted, now));
                self.note_failure(target, &error);
                self.run_race(now);
            }
        }
    }

    /// The attempt has won; the others are closed with the race. A live connection on which nothing moves makes room.
    fn go_live(&mut self, attempt: Attempt, target: SocketAddr, now: Instant) {
        self.failures.clear();
        if self.is_live() && !self.is_stalled(now) {
            return;
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Connecting);
        if let Stage::Live(live) = stage {
            log::debug!("A new connection takes the place of one on which nothing moves");
            let (path, reason) = (live.connection.path(), DownReason::Timeout);
            self.events.push_back(LinkEvent::Down { path, reason, retry: Some(Duration::ZERO) });
            live.connection.abort();
        }
        self.faults.clear("connect");
        self.doubted_until = None;
        self.counters.paths += 1;
        let (path, info) = (attempt.path, connection::path_info(target));
        let connection = Connection::new(path, info, attempt.stream, now);
        let stall = (!attempt.is_capped).then(|| Stall::new(now));
        self.stage = Stage::Live(Box::new(Live { connection, target, stall }));
        self.events.push_back(LinkEvent::Up(path, info));
    }

    fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live(_))
    }

    fn live_mut(&mut self) -> Option<&mut Connection> {
        match &mut self.stage {
            Stage::Live(live) => Some(&mut live.connection),
            Stage::Resolving { .. } | Stage::Waiting(_) | Stage::Connecting => None,
        }
    }

    /// True if nothing has moved on the live connection for too long.
    fn is_stalled(&mut self, now: Instant) -> bool {
        let Stage::Live(live) = &mut self.stage else { return false };
        let Live { connection, stall: Some(stall), .. } = &mut **live else { return false };
        let (moved, is_under_way) = connection.progress();
        stall.check(moved, is_under_way, now)
    }

    /// Tries a second connection while nothing moves on the live one.
    fn watch(&mut self, now: Instant) {
        if !self.is_stalled(now) {
            self.race = None;
        } else if self.race.is_none() && now.saturating_duration_since(self.round_began_at) >= SECOND_AGAIN {
            self.round_began_at = now;
            self.begin_race(now);
        }
    }

    /// Writes what has been collected on the live connection.
    fn flush_live(&mut self, now: Instant) {
        if let Stage::Live(live) = &mut self.stage {
            live.connection.flush(now);
            if let Some(stall) = &mut live.stall {
                stall.handle_sent(now);
            }
            self.reap(now);
        }
    }

    /// Closes the live connection, if there is one, so that what was sent last still arrives.
    fn close(&mut self, now: Instant) {
        self.race = None;
        if let Stage::Live(live) = std::mem::replace(&mut self.stage, Stage::Waiting(Pause::fixed(now, Duration::ZERO)))
        {
            live.connection.close();
        }
    }

    /// Gives up what there is, and looks for the server at once.
    fn begin_anew(&mut self, reason: DownReason, now: Instant) {
        if let Some(connection) = self.live_mut() {
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
        let (Stage::Live(live), Mode::Secure { .. }) = (&self.stage, self.mode) else { return false };
        let source = socket::source_towards(&self.config, live.connection.info().peer);
        source.is_some_and(|source| live.connection.local_ip().is_some_and(|local| local != source))
    }

    /// Remembers whether the live connection was of any use; it is about to end.
    fn judge(&mut self, now: Instant) {
        let Stage::Live(live) = &self.stage else { return };
        if live.connection.was_good(now) {
            self.backoff.reset();
            self.targets.succeeded(live.target);
        } else {
            self.targets.failed(live.target);
        }
    }

    /// Ends the live connection if it has ended by itself.
    fn reap(&mut self, now: Instant) {
        let Stage::Live(live) = &self.stage else { return };
        let connection = &live.connection;
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
        self.judge(now);
        self.round_began_at = now;
        let retry = Some(self.wait(now));
        self.events.push_back(LinkEvent::Down { path, reason, retry });
    }
}

impl Transport for TcpClient {
    fn handle_event(&mut self, event: &Event, now: Instant) {
        if event.token() == RESOLVER_TOKEN {
            if let Some(answer) = self.resolver.poll_answer() {
                self.handle_answer(answer, now);
            }
            return;
        }
        match self.live_mut() {
            Some(connection) if event.token() == token_of(connection.path()) => {
                connection.handle_event(event);
                self.flush_live(now);
            }
            _ => self.check_attempt(event.token(), now),
        }
    }

    fn adopt(&mut self, _path: Path, _now: Instant) {}

    fn reject(&mut self, path: Path, _why: Rejection, now: Instant) {
        if self.live_mut().is_some_and(|connection| connection.path() == path) {
            self.judge(now);
            self.close(now);
            self.round_began_at = now;
            self.wait(now);
        }
    }

    fn reconnect(&mut self, now: Instant) {
        self.begin_anew(DownReason::Requested, now);
    }

    fn reconfigure(&mut self, config: &LinkConfig, _now: Instant) -> bool {
        self.config = config.clone();
        if let Some(connection) = self.live_mut() {
            connection.set_patience(config);
        }
        true
    }

    fn network_changed(&mut self, now: Instant) {
        let is_lost =
            |attempt: &Attempt| attempt.stream.local_addr().is_ok_and(|local| socket::is_lost(&self.config, local));
        let begins_anew = match &self.stage {
            Stage::Live(live) => live.connection.has_lost_address(&self.config),
            Stage::Connecting => self.race.as_ref().is_some_and(|race| race.find(is_lost).is_some()),
            Stage::Waiting(_) => true,
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
            Stage::Live(live) => Some(live.connection.info().peer),
            Stage::Connecting => self.race.as_ref().and_then(Race::first),
            Stage::Resolving { .. } | Stage::Waiting(_) => self.targets.in_order().first().copied(),
        }
    }

    fn hurry(&mut self) {
        if let Stage::Waiting(pause) = &mut self.stage {
            pause.hurry();
        }
    }

    fn can_send(&self) -> bool {
        matches!(&self.stage, Stage::Live(live) if live.connection.can_send())
    }

    fn send_with(&mut self, len: usize, _now: Instant, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        self.live_mut().is_some_and(|connection| connection.send_with(len, fill))
    }

    fn send_to(&mut self, path: Path, message: &[u8], now: Instant) -> bool {
        let live = self.live_mut().filter(|connection| connection.path() == path);
        let taken = live.is_some_and(|connection| connection.send(message, now));
        self.counters.send_errors += u64::from(!taken);
        self.flush_live(now);
        taken
    }

    fn flush(&mut self, now: Instant) {
        self.flush_live(now);
    }

    fn can_receive(&self) -> bool {
        matches!(&self.stage, Stage::Live(live) if live.connection.can_receive())
    }

    fn receive_each<'a>(&'a mut self, budget: usize, _now: Instant, each: Each<'_, 'a>) {
        if let Some(connection) = self.live_mut() {
            connection.receive_each(budget, each);
        }
    }

    fn finish_receive(&mut self, accepted: usize, now: Instant) {
        if let Stage::Live(live) = &mut self.stage
            && accepted > 0
        {
            self.doubted_until = None;
            if !live.connection.was_answered() {
                live.connection.note_accepted();
                self.targets.succeeded(live.target);
            }
        }
        self.reap(now);
    }

    fn poll_link(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.stage {
            Stage::Resolving { patience_until } if !self.targets.is_empty() => Some(*patience_until),
            Stage::Waiting(pause) => Some(pause.until),
            Stage::Live(live) => {
                let stall = live.stall.as_ref().and_then(Stall::poll_timeout);
                [stall, self.doubted_until].into_iter().flatten().min()
            }
            Stage::Resolving { .. } | Stage::Connecting => None,
        };
        let race = self.race.as_ref().and_then(Race::poll_timeout);
        [own, race].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        match &self.stage {
            Stage::Resolving { patience_until } if *patience_until <= now && !self.targets.is_empty() => {
                self.begin_round(now);
            }
            Stage::Waiting(pause) if pause.until <= now => self.start_round(now),
            Stage::Live(_) if self.doubted_until.take_if(|until| *until <= now).is_some() => {
                self.begin_anew(DownReason::Timeout, now);
            }
            Stage::Live(live) if live.stall.as_ref().and_then(Stall::poll_timeout).is_some_and(|at| at <= now) => {
                self.watch(now);
            }
            _ => {}
        }
        while let Some(target) = self.race.as_mut().and_then(|race| race.take_late(now)) {
            self.note_failure(target, &io::ErrorKind::TimedOut.into());
        }
        self.run_race(now);
    }

    fn counters(&self) -> TransportCounters {
        self.counters
    }

    fn facts(&self) -> WayFacts {
        let Stage::Live(live) = &self.stage else { return WayFacts::default() };
        live.connection.facts()
    }
}
