//! UDP, listening side: one unconnected socket that answers the peer which the tunnel has accepted, from the address
//! that the peer sent to.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mio::event::Event;

use super::{Channel, SendOutcome, TOKEN, Unanswered, each_of_train, mapped, path_info};
use crate::config::{LinkConfig, Role};
use crate::fault::FaultLog;
use crate::sys::Arrival;
use crate::transport::admission::Admission;
use crate::transport::connection::canonical;
use crate::transport::{Context, DownReason, Each, LinkEvent, RESOLVER_TOKEN, Transport, TransportCounters, WayFacts};
use crate::tunnel::{Path, PathInfo, Rejection};

/// Decisions about unknown sources in one second. Each may ask the kernel for a route; a flood of strangers is to cost
/// the peer nothing worth naming. What comes beyond is dropped and counted.
const MAX_DECISIONS: u32 = 100;

#[derive(Clone, Copy, Debug)]
struct Peer {
    path: Path,
    info: PathInfo,
    /// In the form of the socket's family.
    address: SocketAddr,
    /// Our address that the peer sends to.
    local: Option<IpAddr>,
    /// The interface that its datagrams arrive on; 0 before the first.
    interface: u32,
}

impl Peer {
    /// The address that the peer knows us by; the wildcard socket must not choose another.
    fn source_for_answers(&self) -> Option<IpAddr> {
        self.local.filter(|local| !local.is_multicast())
    }
}

/// The listening side of a UDP link.
pub struct UdpServer {
    config: LinkConfig,
    channel: Channel,
    is_ipv6: bool,
    door: Door,
    unanswered: Unanswered,
    events: VecDeque<LinkEvent>,
}

/// Who the peer is, and who may become it.
struct Door {
    admission: Admission,
    peer: Option<Peer>,
    /// A source that the tunnel has not decided about; its datagram stays in the channel until then.
    newcomer: Option<Peer>,
    paths: u64,
    /// Decisions about sources other than the peer in the current second.
    decisions: u32,
    decisions_since: Instant,
    faults: FaultLog,
    counters: TransportCounters,
}

impl UdpServer {
    /// Binds the socket.
    ///
    /// # Errors
    /// The address or the port cannot be used.
    pub fn open(config: &LinkConfig, mut admission: Admission, context: Context, now: Instant) -> io::Result<Self> {
        let (channel, address) = Channel::listen(config, context.registry)?;
        log::info!("listening on {address} transport=udp");
        admission.refresh_remote(now);
        let mut server = Self {
            config: config.clone(),
            channel,
            is_ipv6: address.is_ipv6(),
            door: Door {
                admission,
                peer: None,
                newcomer: None,
                paths: 0,
                decisions: 0,
                decisions_since: now,
                faults: FaultLog::default(),
                counters: TransportCounters::default(),
            },
            unanswered: Unanswered::default(),
            events: VecDeque::new(),
        };
        server.expect_remote(now);
        Ok(server)
    }

    /// Makes the host of `--remote` the peer before it has spoken, or follows its name to another address.
    fn expect_remote(&mut self, now: Instant) {
        let known = self.door.admission.remote();
        let current = self.door.peer.map(|peer| canonical(peer.address).ip());
        if current.is_some_and(|ip| known.iter().any(|remote| canonical(*remote).ip() == ip)) {
            return;
        }
        let usable = |remote: &&SocketAddr| self.is_ipv6 || canonical(**remote).is_ipv4();
        let Some(remote) = known.iter().find(usable).copied() else { return };
        if let Some(old) = self.door.peer.take() {
            let reason = DownReason::AddressChanged;
            self.events.push_back(LinkEvent::Down { path: old.path, reason, retry: None });
        }
        let path = self.door.new_path();
        let address = if self.is_ipv6 { mapped(remote) } else { remote };
        let info = path_info(remote);
        self.set_peer(Peer { path, info, address, local: None, interface: 0 }, now);
        self.events.push_back(LinkEvent::Up(path, info));
    }

    fn set_peer(&mut self, peer: Peer, now: Instant) {
        self.door.counters.paths += 1;
        self.channel.turn_to(peer.address, peer.source_for_answers(), now);
        self.door.peer = Some(peer);
        self.unanswered = Unanswered::default();
    }

    fn handle_outcome(&mut self, outcome: SendOutcome, now: Instant) {
        match outcome {
            SendOutcome::Idle => {}
            SendOutcome::Sent | SendOutcome::Refused => self.unanswered.handle_sent(now),
            // The local address that the peer knows us by may be gone: let the route decide until it speaks again.
            SendOutcome::Broken => self.channel.from = None,
        }
    }
}

/// Whose datagram it is.
enum Source {
    /// The peer's; the second value is true if the way it comes by has changed.
    Peer(Path, PathInfo, bool),
    /// Of a source that may become the peer and was not known before.
    Newcomer,
    Refused,
}

impl Door {
    fn new_path(&mut self) -> Path {
        self.paths += 1;
        Path(self.paths)
    }

    /// True if there is time for one more decision in this second.
    fn may_decide(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.decisions_since) >= Duration::from_secs(1) {
            (self.decisions, self.decisions_since) = (0, now);
        }
        self.decisions += 1;
        self.decisions <= MAX_DECISIONS
    }

    /// Decides whether a datagram is the peer's. A source that may become the peer is kept as the newcomer.
    fn sort(&mut self, arrival: &Arrival, now: Instant) -> Source {
        if let Some(peer) = &self.peer
            && peer.address == arrival.source
            && peer.interface == arrival.interface
        {
            return Source::Peer(peer.path, peer.info, false);
        }
        if !self.may_decide(now) {
            self.counters.strangers += 1;
            return Source::Refused;
        }
        let source = canonical(arrival.source);
        if let Err(refusal) = self.admission.check(source, Some(arrival.interface), now) {
            self.counters.refused += 1;
            self.faults.note(now, refusal.label(), refusal.advice(source.ip()));
            return Source::Refused;
        }
        if let Some(peer) = self.peer.as_mut().filter(|peer| peer.address == arrival.source) {
            // Its route has changed, or it has spoken for the first time.
            (peer.local, peer.interface) = (arrival.local, arrival.interface);
            return Source::Peer(peer.path, peer.info, true);
        }
        let path = self.new_path();
        let Arrival { source: address, local, interface, .. } = *arrival;
        self.newcomer = Some(Peer { path, info: path_info(address), address, local, interface });
        Source::Newcomer
    }
}

impl Transport for UdpServer {
    fn handle_event(&mut self, event: &Event, now: Instant) {
        match event.token() {
            RESOLVER_TOKEN => {
                self.door.admission.handle_answer(now);
                self.expect_remote(now);
            }
            TOKEN => {
                self.channel.handle_event(event);
                self.flush(now);
            }
            _ => {}
        }
    }

    fn adopt(&mut self, path: Path, now: Instant) {
        if let Some(newcomer) = self.door.newcomer.take_if(|newcomer| newcomer.path == path) {
            self.flush(now);
            self.set_peer(newcomer, now);
        }
    }

    fn reject(&mut self, path: Path, _why: Rejection, _now: Instant) {
        if self.door.newcomer.take_if(|newcomer| newcomer.path == path).is_some() {
            self.door.counters.strangers += 1;
            self.channel.advance();
        }
        if self.door.peer.take_if(|peer| peer.path == path).is_some() {
            self.channel.to = None;
            self.channel.outgoing.clear();
        }
    }

    fn reconnect(&mut self, now: Instant) {
        if let Some(peer) = self.door.peer.take() {
            let reason = DownReason::Requested;
            self.events.push_back(LinkEvent::Down { path: peer.path, reason, retry: None });
        }
        self.channel.outgoing.clear();
        self.door.admission.refresh_remote(now);
        self.expect_remote(now);
    }

    fn reconfigure(&mut self, config: &LinkConfig, now: Instant) -> bool {
        self.config = config.clone();
        let Role::Listen(access) = &config.role else { return true };
        self.door.admission.replace(access.clone());
        let peer = self.door.peer;
        peer.is_none_or(|peer| self.door.admission.check(canonical(peer.address), Some(peer.interface), now).is_ok())
    }

    fn network_changed(&mut self, now: Instant) {
        if self.channel.has_lost_source(&self.config) {
            self.channel.from = None;
        }
        self.door.admission.refresh_remote(now);
        self.expect_remote(now);
    }

    fn peer_address(&self) -> Option<SocketAddr> {
        self.door.peer.map(|peer| peer.info.peer)
    }

    fn can_send(&self) -> bool {
        self.door.peer.is_some() && self.channel.can_send()
    }

    fn send_with(&mut self, len: usize, now: Instant, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        if self.door.peer.is_none() {
            return false;
        }
        let (taken, outcome) = self.channel.send_with(len, now, &mut self.door.faults, &mut self.door.counters, fill);
        self.handle_outcome(outcome, now);
        taken
    }

    fn send_to(&mut self, path: Path, message: &[u8], now: Instant) -> bool {
        // Nothing is said to a newcomer before it is adopted.
        if self.door.peer.is_none_or(|peer| peer.path != path) {
            self.door.counters.send_errors += 1;
            return false;
        }
        let (taken, outcome) = self.channel.send(message, now, &mut self.door.faults, &mut self.door.counters);
        self.handle_outcome(outcome, now);
        taken
    }

    fn flush(&mut self, now: Instant) {
        let outcome = self.channel.flush(now, &mut self.door.faults, &mut self.door.counters);
        self.handle_outcome(outcome, now);
    }

    fn can_receive(&self) -> bool {
        self.door.newcomer.is_none() && self.channel.has_input()
    }

    fn receive_each<'a>(&'a mut self, budget: usize, now: Instant, each: Each<'_, 'a>) {
        let Self { channel, door, events, .. } = self;
        if door.newcomer.is_some() || !channel.fill(now, &mut door.faults) {
            return;
        }
        let mut handed_out = 0;
        let mut way_changed = false;
        for datagram in channel.incoming.datagrams(channel.next, channel.received) {
            if handed_out >= budget {
                break;
            }
            let Some((arrival, bytes)) = datagram else {
                door.counters.truncated += 1;
                channel.next += 1;
                continue;
            };
            match door.sort(&arrival, now) {
                Source::Peer(path, info, changed) => {
                    way_changed |= changed;
                    handed_out += each_of_train(&arrival, bytes, &mut |message| each(path, &info, message));
                }
                Source::Refused => {}
                Source::Newcomer => {
                    events.extend(door.newcomer.map(|newcomer| LinkEvent::Up(newcomer.path, newcomer.info)));
                    break;
                }
            }
            channel.next += 1;
        }
        if way_changed {
            channel.from = door.peer.and_then(|peer| peer.source_for_answers());
        }
    }

    fn finish_receive(&mut self, accepted: usize, _now: Instant) {
        if accepted > 0 {
            self.unanswered.handle_received();
        }
    }

    fn poll_link(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let check = self.unanswered.check_at.filter(|_| self.door.admission.follows_name());
        [check, self.door.admission.poll_timeout()].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.door.admission.follows_name() && self.unanswered.handle_timeout(now) {
            self.door.admission.refresh_remote(now);
            self.expect_remote(now);
        }
        self.door.admission.handle_timeout(now);
    }

    fn counters(&self) -> TransportCounters {
        self.door.counters
    }

    fn facts(&self) -> WayFacts {
        self.channel.facts(&self.config, self.peer_address())
    }
}
