//! UDP, connecting side: one connected socket to the server's address, made anew when the address changes or the
//! socket's route is gone.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::Registry;
use mio::event::Event;
use socket2::Type;

use super::{Channel, SendOutcome, TOKEN, Unanswered, each_of_train, path_info};
use crate::config::{Endpoint, LinkConfig};
use crate::fault::FaultLog;
use crate::transport::backoff::{Backoff, Pause};
use crate::transport::resolve::{Answer, Resolver};
use crate::transport::{
    Context, DownReason, Each, LinkEvent, RESOLVER_TOKEN, Transport, TransportCounters, WayFacts, socket,
};
use crate::tunnel::{Path, PathInfo, Rejection};

/// Silence after sending to a peer that was never heard after which the log says so, and how often it does.
const COMPLAIN_AFTER: Duration = Duration::from_secs(10);
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Wait before a socket whose route is gone is replaced.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

struct Open {
    channel: Channel,
    path: Path,
    target: SocketAddr,
    info: PathInfo,
    heard: bool,
    /// The network says that nobody is there.
    refused: bool,
}

/// The connecting side of a UDP link.
pub struct UdpClient {
    config: LinkConfig,
    registry: Registry,
    resolver: Resolver,
    known: Vec<SocketAddr>,
    open: Option<Open>,
    open_again: Option<Pause>,
    unanswered: Unanswered,
    complained_at: Option<Instant>,
    backoff: Backoff,
    paths: u64,
    events: VecDeque<LinkEvent>,
    faults: FaultLog,
    counters: TransportCounters,
}

impl UdpClient {
    /// Begins: looks the server up and opens a socket to it.
    pub fn open(config: &LinkConfig, endpoint: Endpoint, context: Context, now: Instant) -> Self {
        let mut client = Self {
            config: config.clone(),
            registry: context.registry,
            resolver: Resolver::new(endpoint, context.waker),
            known: Vec::new(),
            open: None,
            open_again: None,
            unanswered: Unanswered::default(),
            complained_at: None,
            backoff: Backoff::default(),
            paths: 0,
            events: VecDeque::new(),
            faults: FaultLog::default(),
            counters: TransportCounters::default(),
        };
        client.look_up(now);
        client
    }

    fn look_up(&mut self, now: Instant) {
        if let Some(answer) = self.resolver.request() {
            self.handle_answer(answer, now);
        }
    }

    /// Takes the addresses of the server: stays with the current one if it is among them and may be alive.
    fn handle_answer(&mut self, answer: Answer, now: Instant) {
        match answer {
            Ok(addresses) => {
                self.faults.clear("resolve");
                self.known = addresses;
            }
            Err(error) => {
                let endpoint = self.resolver.endpoint();
                self.faults.note(now, "resolve", format_args!("Cannot look up {endpoint}: {error}; trying again"));
                if self.open.is_none() {
                    self.open_later(now);
                }
                return;
            }
        }
        let current = self.open.as_ref().map(|open| (open.target, open.refused || !open.heard));
        match current {
            None => self.open_any(None, now),
            Some((target, doubtful)) if !self.known.contains(&target) => {
                let reason = if doubtful { DownReason::Unreachable } else { DownReason::AddressChanged };
                self.close(reason);
                self.open_any(None, now);
            }
            Some((target, true)) if self.known.len() > 1 => {
                self.close(DownReason::Unreachable);
                self.open_any(Some(target), now);
            }
            Some(_) => {}
        }
    }

    /// Opens a socket to the first address that the kernel has a route to, beginning behind `after`.
    fn open_any(&mut self, after: Option<SocketAddr>, now: Instant) {
        let start = after.and_then(|after| self.known.iter().position(|known| *known == after)).map_or(0, |at| at + 1);
        let candidates: Vec<SocketAddr> =
            self.known.iter().cycle().skip(start).take(self.known.len()).copied().collect();
        for target in candidates {
            match self.connect(target) {
                Ok(channel) => {
                    self.paths += 1;
                    self.counters.paths += 1;
                    let path = Path(self.paths);
                    let level = if after.is_none() { log::Level::Info } else { log::Level::Debug };
                    let info = path_info(target);
                    log::log!(level, "sending to peer={} transport=udp", info.peer);
                    self.open = Some(Open { channel, path, target, info, heard: false, refused: false });
                    self.events.push_back(LinkEvent::Up(path, info));
                    return;
                }
                Err(error) => {
                    let endpoint = self.resolver.endpoint();
                    self.faults.note(now, "connect", format_args!("Cannot send to {endpoint}: {error}; trying again"));
                }
            }
        }
        self.open_later(now);
    }

    /// The last good addresses are in use until the look-up has ended.
    fn open_known(&mut self, now: Instant) {
        if self.open.is_none() && self.open_again.is_none() && !self.known.is_empty() {
            self.open_any(None, now);
        }
    }

    fn open_later(&mut self, now: Instant) {
        self.open_again = Some(self.backoff.pause(now, now, fastrand::f32()));
    }

    fn connect(&self, target: SocketAddr) -> io::Result<Channel> {
        let Some(local) = socket::local_for(&self.config, target) else {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the address of --bind is of the other address family",
            ));
        };
        let socket = socket::new(&self.config, target, Type::DGRAM)?;
        if let Some(local) = local {
            socket::bind(&socket, local)?;
        }
        socket.connect(&target.into())?;
        Channel::new(socket, &self.config, target.is_ipv6(), self.registry.try_clone()?)
    }

    fn close(&mut self, reason: DownReason) {
        if let Some(open) = self.open.take() {
            let retry = Some(Duration::ZERO);
            self.events.push_back(LinkEvent::Down { path: open.path, reason, retry });
        }
    }

    /// Says that nothing comes back from a peer that was never heard. A peer that only listens is no fault otherwise.
    fn complain(&mut self, now: Instant) {
        let Some(open) = self.open.as_ref().filter(|open| !open.heard) else { return };
        let is_recent = self.complained_at.is_some_and(|at| now.saturating_duration_since(at) < COMPLAIN_EVERY);
        if is_recent || self.unanswered.duration(now) < COMPLAIN_AFTER {
            return;
        }
        self.complained_at = Some(now);
        let text = format_args!(
            "Nothing has come from the peer at {}: look whether it runs, whether a firewall drops the datagrams, and \
             whether the link is secure there (then this end needs its secret, --secret-file)",
            open.info.peer
        );
        self.faults.note(now, "unanswered", text);
    }

    fn handle_outcome(&mut self, outcome: SendOutcome, now: Instant) {
        match outcome {
            SendOutcome::Idle => {}
            SendOutcome::Sent => {
                self.unanswered.handle_sent(now);
                self.complain(now);
            }
            SendOutcome::Refused => {
                if let Some(open) = &mut self.open {
                    open.refused = true;
                }
                self.unanswered.handle_sent(now);
            }
            SendOutcome::Broken => {
                self.open_again.get_or_insert(Pause::fixed(now, REOPEN_AFTER));
            }
        }
    }
}

impl Transport for UdpClient {
    fn handle_event(&mut self, event: &Event, now: Instant) {
        if event.token() == RESOLVER_TOKEN {
            if let Some(answer) = self.resolver.poll_answer() {
                self.handle_answer(answer, now);
            }
        } else if event.token() == TOKEN
            && let Some(open) = &mut self.open
        {
            open.channel.handle_event(event);
            self.flush(now);
        }
    }

    fn adopt(&mut self, _path: Path, _now: Instant) {}

    fn reject(&mut self, path: Path, _why: Rejection, now: Instant) {
        if self.open.take_if(|open| open.path == path).is_some() {
            self.open_later(now);
        }
    }

    fn reconnect(&mut self, now: Instant) {
        self.close(DownReason::Requested);
        self.unanswered = Unanswered::default();
        self.backoff.reset();
        self.open_again = None;
        self.look_up(now);
        self.open_known(now);
    }

    fn reconfigure(&mut self, config: &LinkConfig, _now: Instant) -> bool {
        self.config = config.clone();
        true
    }

    fn network_changed(&mut self, now: Instant) {
        let local = self.open.as_ref().map(|open| open.channel.local_address());
        let is_lost = local.flatten().is_some_and(|local| socket::is_lost(&self.config, local));
        // An address that was chosen for another route may be of no use to a peer that was never heard.
        let was_heard = self.open.as_ref().is_some_and(|open| open.heard);
        if self.open_again.take().is_none() && was_heard && !is_lost {
            return;
        }
        self.close(if is_lost { DownReason::AddressLost } else { DownReason::Unreachable });
        self.backoff.reset();
        self.look_up(now);
        self.open_known(now);
    }

    fn peer_address(&self) -> Option<SocketAddr> {
        self.open.as_ref().map(|open| open.info.peer)
    }

    fn hurry(&mut self) {
        if let Some(pause) = &mut self.open_again {
            pause.hurry();
        }
    }

    fn can_send(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.channel.can_send())
    }

    fn send_with(&mut self, len: usize, now: Instant, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        let Some(open) = &mut self.open else { return false };
        let (taken, outcome) = open.channel.send_with(len, now, &mut self.faults, &mut self.counters, fill);
        self.handle_outcome(outcome, now);
        taken
    }

    fn send_to(&mut self, path: Path, message: &[u8], now: Instant) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| open.path == path) else {
            self.counters.send_errors += 1;
            return false;
        };
        let (taken, outcome) = open.channel.send(message, now, &mut self.faults, &mut self.counters);
        self.handle_outcome(outcome, now);
        taken
    }

    fn flush(&mut self, now: Instant) {
        if let Some(open) = &mut self.open {
            let outcome = open.channel.flush(now, &mut self.faults, &mut self.counters);
            self.handle_outcome(outcome, now);
        }
    }

    fn can_receive(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.channel.has_input())
    }

    fn receive_each<'a>(&'a mut self, budget: usize, now: Instant, each: Each<'_, 'a>) {
        let Some(open) = self.open.as_mut().filter(|_| budget > 0) else { return };
        if !open.channel.fill(now, &mut self.faults) {
            return;
        }
        let (path, info) = (open.path, open.info);
        let Channel { incoming, next, received, .. } = &mut open.channel;
        let mut handed_out = 0;
        for datagram in incoming.datagrams(*next, *received) {
            *next += 1;
            match datagram {
                Some((arrival, bytes)) => {
                    handed_out += each_of_train(&arrival, bytes, &mut |message| each(path, &info, message));
                }
                None => self.counters.truncated += 1,
            }
            if handed_out >= budget {
                break;
            }
        }
    }

    fn finish_receive(&mut self, accepted: usize, _now: Instant) {
        let Some(open) = self.open.as_mut().filter(|_| accepted > 0) else { return };
        (open.heard, open.refused) = (true, false);
        self.unanswered.handle_received();
        self.backoff.reset();
    }

    fn poll_link(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let check = self.unanswered.check_at.filter(|_| self.resolver.is_name());
        [self.open_again.map(|pause| pause.until), check].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.open_again.take_if(|pause| pause.until <= now).is_some() {
            self.close(DownReason::Unreachable);
            self.look_up(now);
        }
        if self.resolver.is_name() && self.unanswered.handle_timeout(now) {
            self.look_up(now);
        }
    }

    fn counters(&self) -> TransportCounters {
        self.counters
    }

    fn facts(&self) -> WayFacts {
        self.open.as_ref().map(|open| open.channel.facts(&self.config, None)).unwrap_or_default()
    }
}
