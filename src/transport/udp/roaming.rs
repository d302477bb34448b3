//! UDP for secure links, both sides: one unconnected socket. Every datagram goes to the tunnel, which authenticates it
//! and says from which source the peer speaks; answers leave from the address that the peer sends to.
//!
//! Nothing is kept about a stranger beyond one receive call: its datagrams come by a path of their own, which can be
//! answered and adopted until the next call. Where the peer is expected (an address that was given, or that of the last
//! peer of an earlier run) is the *target*, announced by [`LinkEvent::Up`]; while nothing is accepted the next of its
//! addresses is announced in its place.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mio::event::Event;
use socket2::Type;

use super::limit::InterfaceLimit;
use super::sources::{Place, Sources};
use super::{Channel, SendOutcome, TOKEN, Unanswered, each_of_train, mapped, path_info};
use crate::config::{Access, LinkConfig, Role};
use crate::fault::FaultLog;
use crate::sys::Departure;
use crate::transport::admission::{Admission, Refusal};
use crate::transport::backoff::{Backoff, Pause};
use crate::transport::connection::canonical;
use crate::transport::resolve::{Answer, Resolver};
use crate::transport::{
    Context, DownReason, Each, LinkEvent, RESOLVER_TOKEN, Transport, TransportCounters, WayFacts,
    before_authentication, socket,
};
use crate::tunnel::{Path, Rejection};

/// Time without an accepted message after which even an address that has answered before is doubted.
const DOUBT_AFTER: Duration = Duration::from_secs(10);

/// Which addresses the socket can send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Ipv4,
    Ipv6,
    Both,
}

/// Where the peer is looked for.
struct Search {
    resolver: Option<Resolver>,
    known: Vec<SocketAddr>,
    /// Something was accepted since the target was announced.
    heard: bool,
    announce_again: Option<Pause>,
    backoff: Backoff,
}

/// A datagram link that follows its authenticated peer.
pub struct Roaming {
    config: LinkConfig,
    channel: Channel,
    family: Family,
    admission: Admission,
    sources: Sources,
    search: Search,
    unanswered: Unanswered,
    limit: InterfaceLimit,
    events: VecDeque<LinkEvent>,
    faults: FaultLog,
    counters: TransportCounters,
}

impl Roaming {
    /// Binds the socket and begins to look for the peer, if there is anything to look for.
    ///
    /// # Errors
    /// The address or the port cannot be used.
    pub fn open(config: &LinkConfig, mut admission: Admission, context: Context, now: Instant) -> io::Result<Self> {
        let (channel, address) = Channel::listen(config, context.registry)?;
        let endpoint = match &config.role {
            Role::Connect(endpoint) | Role::Listen(Access::Remote { endpoint, .. }) => Some(endpoint.clone()),
            Role::Listen(_) => None,
        };
        if !config.role.is_client() {
            log::info!("listening on {address} transport=udp");
        }
        let hint = context.hint.filter(|hint| endpoint.is_none() && admission.check(*hint, None, now).is_ok());
        let resolver = endpoint.map(|endpoint| Resolver::new(endpoint, context.waker));
        let mut roaming = Self {
            config: config.clone(),
            channel,
            family: match address.ip() {
                IpAddr::V4(_) => Family::Ipv4,
                IpAddr::V6(ip) if ip.is_unspecified() => Family::Both,
                IpAddr::V6(_) => Family::Ipv6,
            },
            admission,
            sources: Sources::default(),
            search: Search {
                resolver,
                known: hint.into_iter().collect(),
                heard: false,
                announce_again: None,
                backoff: Backoff::default(),
            },
            unanswered: Unanswered::default(),
            limit: InterfaceLimit::new(context.surroundings.mtu_towards),
            events: VecDeque::new(),
            faults: FaultLog::default(),
            counters: TransportCounters::default(),
        };
        roaming.look_up(now);
        Ok(roaming)
    }

    fn look_up(&mut self, now: Instant) {
        match &mut self.search.resolver {
            Some(resolver) => {
                if let Some(answer) = resolver.request() {
                    self.handle_answer(answer, now);
                }
            }
            None => self.follow(now),
        }
    }

    /// Takes the addresses of the peer's name; a failed look-up leaves those of the last one.
    fn handle_answer(&mut self, answer: Answer, now: Instant) {
        match answer {
            Ok(addresses) => {
                self.faults.clear("resolve");
                self.search.known = addresses;
            }
            Err(error) => {
                let name = self.search.resolver.as_ref().map(|resolver| resolver.endpoint().to_string());
                let text = format_args!("Cannot look up {}: {error}; trying again", name.unwrap_or_default());
                self.faults.note(now, "resolve", text);
                if self.search.known.is_empty() {
                    return self.announce_later(now);
                }
            }
        }
        self.follow(now);
    }

    /// Makes sure that the target is one of the known addresses.
    fn follow(&mut self, now: Instant) {
        let known = &self.search.known;
        let Some(target) = self.sources.target else { return self.announce_any(None, now) };
        let address = canonical(target.address);
        if !known.is_empty() && !known.iter().any(|known| canonical(*known) == address) {
            self.end_target(DownReason::AddressChanged, now);
            self.announce_any(None, now);
        }
    }

    /// Goes on to the next address when nothing is heard: at once from one that has never answered, and later from one
    /// that has.
    fn try_next(&mut self, now: Instant) {
        let is_doubtful = !self.search.heard || self.unanswered.duration(now) >= DOUBT_AFTER;
        let Some(target) = self.sources.target.filter(|_| is_doubtful && self.has_choice()) else { return };
        self.end_target(DownReason::Unreachable, now);
        self.announce_any(Some(canonical(target.address)), now);
    }

    /// True if there is another place to look for the peer than where it is thought to be.
    fn has_choice(&self) -> bool {
        self.search.known.len() > 1 || (self.search.heard && self.sources.has_roamed())
    }

    /// Announces the first address that the socket and the kernel can send to, beginning behind `after`.
    fn announce_any(&mut self, after: Option<SocketAddr>, now: Instant) {
        let known = &self.search.known;
        let start = known.iter().position(|known| Some(canonical(*known)) == after).map_or(0, |at| at + 1);
        let candidates: Vec<SocketAddr> = known.iter().cycle().skip(start).take(known.len()).copied().collect();
        if candidates.is_empty() {
            return;
        }
        for target in candidates {
            match self.check_route(target) {
                Ok(()) => return self.announce(target, after.is_none()),
                Err(error) => {
                    let text = format_args!("Cannot send to the peer at {target}: {error}; trying again");
                    self.faults.note(now, "connect", text);
                }
            }
        }
        self.announce_later(now);
    }

    /// Asks the kernel for a route to an address. A connected datagram socket sends nothing by itself.
    fn check_route(&self, target: SocketAddr) -> io::Result<()> {
        let is_fitting = match self.family {
            Family::Both => true,
            Family::Ipv4 => canonical(target).is_ipv4(),
            Family::Ipv6 => canonical(target).is_ipv6(),
        };
        if !is_fitting {
            let text = "the local address is of the other address family";
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
        }
        socket::new(&self.config, target, Type::DGRAM)?.connect(&target.into())
    }

    fn announce(&mut self, target: SocketAddr, is_first: bool) {
        let info = path_info(target);
        let level = if is_first { log::Level::Info } else { log::Level::Debug };
        log::log!(level, "sending to peer={} transport=udp", info.peer);
        let address = if self.family == Family::Both { mapped(target) } else { target };
        let path = self.sources.expect(address, info);
        self.search.heard = false;
        self.search.announce_again = None;
        self.events.push_back(LinkEvent::Up(path, info));
    }

    fn announce_later(&mut self, now: Instant) {
        self.search.announce_again = Some(self.search.backoff.pause(now, now, fastrand::f32()));
    }

    fn end_target(&mut self, reason: DownReason, now: Instant) {
        let Some(target) = self.sources.target.take() else { return };
        if self.sources.peer.is_some_and(|peer| peer.path == target.path) {
            self.flush(now);
            self.forget_peer();
        }
        self.events.push_back(LinkEvent::Down { path: target.path, reason, retry: Some(Duration::ZERO) });
    }

    fn forget_peer(&mut self) {
        self.sources.peer = None;
        (self.channel.to, self.channel.from) = (None, None);
        self.channel.outgoing.clear();
    }

    /// Tells the tunnel what the interface takes towards the peer, if that is news.
    fn tell_limit(&mut self, now: Instant) {
        let Some(peer) = self.sources.peer else { return };
        self.channel.forget_refusals();
        if let Some(limit) = self.limit.ask(&peer, &self.config, now) {
            self.events.push_back(LinkEvent::Limit(peer.path, limit));
        }
    }

    fn handle_outcome(&mut self, outcome: SendOutcome, now: Instant) {
        if self.channel.refused_length && !self.limit.is_fresh(now) {
            self.tell_limit(now);
        }
        match outcome {
            SendOutcome::Idle => {}
            SendOutcome::Sent | SendOutcome::Refused => self.unanswered.handle_sent(now),
            // The local address that the peer knows us by may be gone: let the route decide until it is known again.
            SendOutcome::Broken => {
                self.unanswered.handle_sent(now);
                self.forget_way();
            }
        }
    }

    /// Lets the route decide which address messages leave from.
    fn forget_way(&mut self) {
        self.channel.from = None;
        if let Some(peer) = &mut self.sources.peer {
            peer.local = None;
        }
    }

    /// The address that messages to the peer leave from, or none for the one that the route prefers. An end that was sought
    /// out keeps the address that the peer knows. One that seeks is found wherever it speaks from, and what it last received
    /// may have come to an address whose interface is gone by now.
    fn source_towards(&self, peer: &Place) -> Option<IpAddr> {
        if self.search.resolver.is_some() { None } else { peer.source_for_answers() }
    }

    fn follows_name(&self) -> bool {
        self.search.resolver.as_ref().is_some_and(Resolver::is_name)
    }

    /// When the target and the way to it are to be doubted, if that can change anything.
    fn check_at(&self) -> Option<Instant> {
        let has_choice = self.sources.target.is_some() && self.has_choice();
        let is_of_use = self.follows_name() || has_choice;
        self.unanswered.check_at.filter(|_| is_of_use)
    }
}

/// The advice about a refused source, written only if it is logged.
struct Advice(Refusal, IpAddr);

impl fmt::Display for Advice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.advice(self.1.to_canonical()))
    }
}

impl Transport for Roaming {
    fn handle_event(&mut self, event: &Event, now: Instant) {
        match event.token() {
            RESOLVER_TOKEN => {
                if let Some(answer) = self.search.resolver.as_mut().and_then(Resolver::poll_answer) {
                    self.handle_answer(answer, now);
                }
            }
            TOKEN => {
                self.channel.handle_event(event);
                self.flush(now);
            }
            _ => {}
        }
    }

    fn adopt(&mut self, path: Path, now: Instant) {
        if self.sources.peer.is_some_and(|peer| peer.path == path) || self.sources.find(path).is_none() {
            return;
        }
        // What has been collected was meant for the peer as it was.
        self.flush(now);
        if let Some(peer) = self.sources.adopt(path) {
            self.counters.paths += 1;
            self.channel.turn_to(peer.address, self.source_towards(&peer), now);
            self.tell_limit(now);
        }
    }

    fn reject(&mut self, path: Path, _why: Rejection, now: Instant) {
        self.sources.forget_candidate(path);
        if self.sources.peer.is_some_and(|peer| peer.path == path) {
            self.forget_peer();
        }
        if self.sources.target.take_if(|target| target.path == path).is_none() {
            return;
        }
        if self.search.resolver.is_some() {
            self.announce_later(now);
        } else {
            // The address was a guess of ours.
            self.search.known.clear();
        }
    }

    fn reconnect(&mut self, now: Instant) {
        self.end_target(DownReason::Requested, now);
        if let Some(peer) = self.sources.peer {
            self.flush(now);
            self.forget_peer();
            self.events.push_back(LinkEvent::Down { path: peer.path, reason: DownReason::Requested, retry: None });
        }
        self.unanswered = Unanswered::default();
        self.search.backoff.reset();
        self.search.announce_again = None;
        self.look_up(now);
        if self.sources.target.is_none() {
            // The last good addresses are in use until the look-up has ended.
            self.follow(now);
        }
    }

    fn reconfigure(&mut self, config: &LinkConfig, now: Instant) -> bool {
        self.config = config.clone();
        let Role::Listen(access) = &config.role else { return true };
        self.admission.replace(before_authentication(access));
        let peer = self.sources.peer.or(self.sources.target);
        peer.is_none_or(|peer| self.admission.check(peer.address, None, now).is_ok())
    }

    fn network_changed(&mut self, now: Instant) {
        if self.channel.has_lost_source(&self.config) {
            self.forget_way();
        }
        let waits = self.search.announce_again.take().is_some();
        if waits || (self.follows_name() && !self.unanswered.duration(now).is_zero()) {
            self.search.backoff.reset();
            self.look_up(now);
        }
        self.tell_limit(now);
    }

    fn peer_address(&self) -> Option<SocketAddr> {
        self.sources.peer.or(self.sources.target).map(|place| place.info.peer)
    }

    fn hurry(&mut self) {
        if let Some(pause) = &mut self.search.announce_again {
            pause.hurry();
        }
    }

    fn can_send(&self) -> bool {
        // Without a peer packets go nowhere, at once: they are not to wait in the device until there is one again.
        self.sources.peer.is_none() || self.channel.can_send()
    }

    fn send_with(&mut self, len: usize, now: Instant, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        if self.sources.peer.is_none() {
            return false;
        }
        let (taken, outcome) = self.channel.send_with(len, now, &mut self.faults, &mut self.counters, fill);
        self.handle_outcome(outcome, now);
        taken
    }

    fn send_to(&mut self, path: Path, message: &[u8], now: Instant) -> bool {
        let Some(place) = self.sources.find(path) else {
            self.counters.send_errors += 1;
            return false;
        };
        let Self { channel, sources, faults, counters, .. } = self;
        if sources.peer.is_some_and(|peer| peer.path == path) {
            let (taken, outcome) = channel.send(message, now, faults, counters);
            self.handle_outcome(outcome, now);
            return taken;
        }
        let (to, from) = (Some(place.address), place.source_for_answers());
        let (taken, _) =
            channel.send_past(&Departure { bytes: message, to, from, segment: None }, now, faults, counters);
        if sources.target.is_some_and(|target| target.path == path) {
            self.unanswered.handle_sent(now);
        }
        taken
    }

    fn flush(&mut self, now: Instant) {
        let outcome = self.channel.flush(now, &mut self.faults, &mut self.counters);
        self.handle_outcome(outcome, now);
    }

    fn can_receive(&self) -> bool {
        self.channel.has_input()
    }

    fn receive_each<'a>(&'a mut self, budget: usize, now: Instant, each: Each<'_, 'a>) {
        let Self { channel, admission, sources, faults, counters, .. } = self;
        sources.begin_call();
        if budget == 0 || !channel.fill(now, faults) {
            return;
        }
        let Channel { incoming, next, received, .. } = channel;
        for datagram in incoming.datagrams(*next, *received) {
            *next += 1;
            let Some((arrival, bytes)) = datagram else {
                counters.truncated += 1;
                continue;
            };
            let (path, info) = match sources.find_source(&arrival) {
                Some(known) => known,
                None => match admission.check(arrival.source, None, now) {
                    Ok(()) => {
                        counters.strangers += 1;
                        sources.add_candidate(&arrival)
                    }
                    Err(refusal) => {
                        counters.refused += 1;
                        faults.note(now, refusal.label(), Advice(refusal, arrival.source.ip()));
                        continue;
                    }
                },
            };
            sources.handed_out += each_of_train(&arrival, bytes, &mut |message| each(path, &info, message));
            if sources.handed_out >= budget {
                return;
            }
        }
    }

    fn finish_receive(&mut self, accepted: usize, _now: Instant) {
        if accepted == 0 {
            return;
        }
        self.search.heard = true;
        self.search.backoff.reset();
        self.unanswered.handle_received();
        if let Some(peer) = self.sources.learn_way(accepted) {
            self.channel.from = self.source_towards(&peer);
        }
    }

    fn poll_link(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.search.announce_again.map(|pause| pause.until), self.check_at()].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        let is_doubted = self.check_at().is_some() && self.unanswered.handle_timeout(now);
        if is_doubted {
            self.try_next(now);
        }
        let is_due = self.search.announce_again.take_if(|pause| pause.until <= now).is_some();
        if is_due || (is_doubted && self.follows_name()) {
            self.look_up(now);
        }
    }

    fn counters(&self) -> TransportCounters {
        self.counters
    }

    fn facts(&self) -> WayFacts {
        self.channel.facts(&self.config, self.peer_address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::sync::Arc;

    use mio::{Poll, Waker};

    use crate::cli::Cli;
    use crate::config::{Config, KeyFiles};
    use crate::sys::Arrival;
    use crate::transport::Mode;
    use crate::transport::admission::Surroundings;

    const SECOND: Duration = Duration::from_secs(1);

    /// A connecting end whose peer has two addresses, where nobody answers, with the poll that it is registered at.
    fn client() -> (Roaming, Poll, [SocketAddr; 2], Instant) {
        let silent: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a socket")).collect();
        let known = [0, 1].map(|index| silent[index].local_addr().expect("an address"));
        let line = format!("simpletun -i t -U -c {}", known[0]);
        let options = Cli::from_arguments(line.split_whitespace()).expect("legal flags").options;
        let config =
            Config::new(&options, &|_, _| None, &KeyFiles::from_environment()).expect("a legal configuration").link;
        let poll = Poll::new().expect("a poll");
        let registry = poll.registry().try_clone().expect("its registry");
        let waker = Arc::new(Waker::new(&registry, RESOLVER_TOKEN).expect("a waker"));
        let surroundings = Surroundings {
            connected_subnets: || Ok(Vec::new()),
            interface_towards: |_, _| Ok(1),
            mtu_towards: |_, _, _| Ok(1500),
        };
        let context = Context { registry, waker, surroundings, mode: Mode::Secure { init_len: 168 }, hint: None };
        let admission = Admission::new(before_authentication(&Access::Any), &config, &context);
        #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
        let now = Instant::now();
        let mut client = Roaming::open(&config, admission, context, now).expect("a socket");
        client.search.known = known.to_vec();
        (client, poll, known, now)
    }

    /// The addresses that are announced, and the reasons for which others end.
    fn drain(client: &mut Roaming) -> (Vec<SocketAddr>, Vec<DownReason>) {
        let (mut announced, mut ended) = (Vec::new(), Vec::new());
        while let Some(event) = client.poll_link() {
            match event {
                LinkEvent::Up(path, info) => {
                    client.adopt(path, client_time());
                    announced.push(info.peer);
                }
                LinkEvent::Down { reason, .. } => ended.push(reason),
                LinkEvent::Limit(..) => {}
            }
        }
        (announced, ended)
    }

    #[expect(clippy::disallowed_methods, reason = "adopting needs a time and does not depend on it")]
    fn client_time() -> Instant {
        Instant::now()
    }

    fn send(client: &mut Roaming, now: Instant) {
        assert!(client.send_with(4, now, &mut |room| room.fill(1)));
        client.flush(now);
    }

    #[test]
    fn an_address_that_never_answers_is_left_after_a_second_and_one_that_has_answered_after_ten() {
        let (mut client, _poll, known, start) = client();
        assert_eq!(drain(&mut client), (vec![known[0]], vec![]));
        assert_eq!(client.poll_timeout(), None, "nothing has been sent yet");
        send(&mut client, start);
        client.handle_timeout(start + SECOND / 2);
        assert_eq!(drain(&mut client), (vec![], vec![]));
        assert_eq!(client.poll_timeout(), Some(start + SECOND));
        client.handle_timeout(start + SECOND);
        assert_eq!(drain(&mut client), (vec![known[1]], vec![DownReason::Unreachable]));
        client.finish_receive(1, start + SECOND);
        assert_eq!(client.poll_timeout(), None, "it has answered");
        let later = start + 2 * SECOND;
        send(&mut client, later);
        for second in 1..10 {
            client.handle_timeout(later + second * SECOND);
            assert_eq!(drain(&mut client), (vec![], vec![]), "after {second} s");
        }
        client.handle_timeout(later + DOUBT_AFTER);
        assert_eq!(drain(&mut client), (vec![known[0]], vec![DownReason::Unreachable]));
    }

    #[test]
    fn a_name_that_stands_for_another_address_moves_the_target_and_a_failed_look_up_does_not() {
        let (mut client, _poll, known, now) = client();
        assert_eq!(drain(&mut client).0, [known[0]]);
        client.handle_answer(Err("no name server answers".to_owned()), now);
        client.handle_answer(Ok(vec![known[1], known[0]]), now);
        assert_eq!(drain(&mut client), (vec![], vec![]), "it is one of the addresses still");
        client.handle_answer(Ok(vec![known[1]]), now);
        assert_eq!(drain(&mut client), (vec![known[1]], vec![DownReason::AddressChanged]));
        client.handle_answer(Ok(vec!["[::1]:9".parse().expect("an address")]), now);
        assert_eq!(drain(&mut client).1, [DownReason::AddressChanged]);
    }

    #[test]
    fn who_seeks_the_peer_leaves_its_own_address_to_the_route_and_who_was_sought_out_keeps_it() {
        let (mut client, _poll, known, now) = client();
        assert_eq!(drain(&mut client).0, [known[0]]);
        let way = IpAddr::from([127, 0, 0, 1]);
        let learn = |client: &mut Roaming| {
            let source = client.sources.peer.expect("the target is the peer").address;
            let arrival = Arrival { source, local: Some(way), interface: 1, segment: None };
            client.sources.peer.as_mut().expect("the target is the peer").local = None;
            client.sources.begin_call();
            client.sources.find_source(&arrival).expect("the peer");
            client.finish_receive(1, now);
            client.channel.from
        };
        assert_eq!(learn(&mut client), None, "the address that it was answered at may be gone any time");
        client.search.resolver = None;
        assert_eq!(learn(&mut client), Some(way), "the peer knows no other");
    }

    #[test]
    fn a_single_address_is_not_announced_again_however_long_it_is_silent() {
        let (mut client, _poll, known, start) = client();
        client.search.known.truncate(1);
        assert_eq!(drain(&mut client).0, [known[0]]);
        send(&mut client, start);
        assert_eq!(client.poll_timeout(), None, "there is nothing else to try");
        client.handle_timeout(start + 100 * SECOND);
        assert_eq!(drain(&mut client), (vec![], vec![]));
    }
    #[test]
    fn packets_do_not_wait_in_the_device_while_the_peer_is_looked_for() {
        let (mut client, _poll, known, now) = client();
        assert_eq!(drain(&mut client).0, [known[0]]);
        assert!(client.can_send());
        client.handle_answer(Ok(vec![known[1]]), now);
        assert!(client.sources.peer.is_none(), "the new place is not the peer yet");
        assert!(client.can_send(), "the device is read");
        assert!(!client.send_with(4, now, &mut |room| room.fill(1)), "and what it says is dropped");
    }
}
