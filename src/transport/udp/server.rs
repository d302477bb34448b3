//! UDP, listening side: one unconnected socket that answers the peer which the tunnel has accepted, from the address
//! that the peer sent to.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use mio::event::Event;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::Type;

use super::{Channel, SendOutcome, TOKEN, Unanswered, datagrams, path_info};
use crate::config::LinkConfig;
use crate::fault::FaultLog;
use crate::sys::Arrival;
use crate::transport::admission::Admission;
use crate::transport::connection::canonical;
use crate::transport::{Context, DownReason, LinkEvent, RESOLVER_TOKEN, Transport, TransportCounters, socket};
use crate::tunnel::{Path, Rejection};

#[derive(Clone, Copy, Debug)]
struct Peer {
    path: Path,
    /// In the form of the socket's family.
    address: SocketAddr,
    /// Our address that the peer sends to.
    local: Option<IpAddr>,
    /// The interface that its datagrams arrive on; 0 before the first.
    interface: u32,
}

/// The listening side of a UDP link.
pub struct UdpServer {
    channel: Channel,
    is_ipv6: bool,
    admission: Admission,
    peer: Option<Peer>,
    /// A source that the tunnel has not decided about; its datagram stays in the channel until then.
    newcomer: Option<Peer>,
    unanswered: Unanswered,
    paths: u64,
    events: VecDeque<LinkEvent>,
    faults: FaultLog,
    counters: TransportCounters,
}

impl UdpServer {
    /// Binds the socket.
    ///
    /// # Errors
    /// The address or the port cannot be used.
    pub fn open(config: &LinkConfig, mut admission: Admission, context: Context, now: Instant) -> io::Result<Self> {
        let (socket, address) = socket::bind_server(config, Type::DGRAM)?;
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        let channel = Channel::new(socket, address.is_ipv6(), context.registry)?;
        log::info!("listening on {address} transport=udp");
        admission.refresh_remote(now);
        let mut server = Self {
            channel,
            is_ipv6: address.is_ipv6(),
            admission,
            peer: None,
            newcomer: None,
            unanswered: Unanswered::default(),
            paths: 0,
            events: VecDeque::new(),
            faults: FaultLog::default(),
            counters: TransportCounters::default(),
        };
        server.expect_remote();
        Ok(server)
    }

    /// Makes the host of `--remote` the peer before it has spoken, or follows its name to another address.
    fn expect_remote(&mut self) {
        let known = self.admission.remote();
        let current = self.peer.map(|peer| canonical(peer.address).ip());
        if current.is_some_and(|ip| known.iter().any(|remote| canonical(*remote).ip() == ip)) {
            return;
        }
        let usable = |remote: &&SocketAddr| self.is_ipv6 || canonical(**remote).is_ipv4();
        let Some(remote) = known.iter().find(usable).copied() else { return };
        if let Some(old) = self.peer.take() {
            let reason = DownReason::AddressChanged;
            self.events.push_back(LinkEvent::Down { path: old.path, reason, retry: None });
        }
        let path = self.new_path();
        let address = self.socket_form(remote);
        self.set_peer(Peer { path, address, local: None, interface: 0 });
        self.events.push_back(LinkEvent::Up(path, path_info(remote)));
    }

    fn new_path(&mut self) -> Path {
        self.paths += 1;
        self.counters.paths += 1;
        Path(self.paths)
    }

    /// An IPv4 address as an IPv6 socket wants it.
    fn socket_form(&self, address: SocketAddr) -> SocketAddr {
        match address.ip() {
            IpAddr::V4(ip) if self.is_ipv6 => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            _ => address,
        }
    }

    fn set_peer(&mut self, peer: Peer) {
        self.channel.to = Some(peer.address);
        // A socket bound to one address needs no choice; the wildcard's must follow the peer.
        self.channel.from = peer.local.filter(|local| !local.is_multicast());
        self.peer = Some(peer);
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

    /// Decides whether a datagram is the peer's. A source that may become the peer is announced and waits.
    fn sort_source(&mut self, arrival: &Arrival, now: Instant) -> Source {
        if let Some(peer) = &self.peer
            && peer.address == arrival.source
            && peer.interface == arrival.interface
        {
            return Source::Peer(peer.path);
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
            let (path, local) = (peer.path, arrival.local);
            self.channel.from = local.filter(|local| !local.is_multicast());
            return Source::Peer(path);
        }
        let path = self.new_path();
        self.newcomer =
            Some(Peer { path, address: arrival.source, local: arrival.local, interface: arrival.interface });
        self.events.push_back(LinkEvent::Up(path, path_info(source)));
        Source::Newcomer
    }
}

enum Source {
    Peer(Path),
    Newcomer,
    Refused,
}

impl Transport for UdpServer {
    fn handle_event(&mut self, event: &Event, now: Instant) {
        match event.token() {
            RESOLVER_TOKEN => {
                self.admission.handle_answer();
                self.expect_remote();
            }
            TOKEN => {
                self.channel.handle_event(event);
                self.flush(now);
            }
            _ => {}
        }
    }

    fn adopt(&mut self, path: Path, now: Instant) {
        if let Some(newcomer) = self.newcomer.take_if(|newcomer| newcomer.path == path) {
            self.flush(now);
            self.set_peer(newcomer);
        }
    }

    fn reject(&mut self, path: Path, _why: Rejection, _now: Instant) {
        if self.newcomer.take_if(|newcomer| newcomer.path == path).is_some() {
            self.counters.strangers += 1;
            self.channel.advance();
        }
        if self.peer.take_if(|peer| peer.path == path).is_some() {
            self.channel.to = None;
            self.channel.outgoing.clear();
        }
    }

    fn reconnect(&mut self, now: Instant) {
        if let Some(peer) = self.peer.take() {
            let reason = DownReason::Requested;
            self.events.push_back(LinkEvent::Down { path: peer.path, reason, retry: None });
        }
        self.channel.outgoing.clear();
        self.admission.refresh_remote(now);
        self.expect_remote();
    }

    fn can_send(&self) -> bool {
        self.peer.is_some() && self.channel.can_send()
    }

    fn send_with(&mut self, len: usize, now: Instant, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        if self.peer.is_none() {
            return false;
        }
        let (taken, outcome) = self.channel.send_with(len, now, &mut self.faults, &mut self.counters, fill);
        self.handle_outcome(outcome, now);
        taken
    }

    fn flush(&mut self, now: Instant) {
        let outcome = self.channel.flush(now, &mut self.faults, &mut self.counters);
        self.handle_outcome(outcome, now);
    }

    fn can_receive(&self) -> bool {
        self.newcomer.is_none() && self.channel.has_input()
    }

    fn receive_each(&mut self, mut budget: usize, now: Instant, each: &mut dyn FnMut(Path, &mut [u8])) {
        while budget > 0 && self.newcomer.is_none() && self.channel.fill(now, &mut self.faults) {
            budget -= 1;
            let Some((arrival, _)) = self.channel.current() else {
                self.counters.truncated += 1;
                self.channel.advance();
                continue;
            };
            match self.sort_source(&arrival, now) {
                Source::Peer(path) => {
                    if let Some((arrival, bytes)) = self.channel.current() {
                        budget = budget.saturating_sub(datagrams(&arrival, bytes, |message| each(path, message)));
                    }
                    self.unanswered.handle_received();
                    self.channel.advance();
                }
                Source::Refused => self.channel.advance(),
                Source::Newcomer => {}
            }
        }
    }

    fn poll_link(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.unanswered.check_at.filter(|_| self.admission.follows_name())
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.admission.follows_name() && self.unanswered.handle_timeout(now) {
            self.admission.refresh_remote(now);
            self.expect_remote();
        }
    }

    fn counters(&self) -> TransportCounters {
        self.counters
    }
}
