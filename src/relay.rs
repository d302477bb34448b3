//! The two pumps: packets from the device to the peer and back, and the decisions of the tunnel carried out.
//!
//! It joins device, tunnel and transport and is the only place that sees all three. It has no descriptor of its own
//! and reads no clock. Every packet that ends here is counted by its cause. `input` and `output` are the two
//! pumps, `events` what the tunnel decides, `fit` and `too_long` what becomes of packets that the link cannot carry,
//! `mirror` shows packets to who watches them, `testing` measures what the link carries. What the link's state does to the
//! device's carrier stands in `carrier`, and what keeps the link from carrying itself in [`loop_guard`].

use std::fmt::{self, Display};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use log::{debug, info};

use crate::config::{LinkConfig, Protocol};
use crate::counters::{Counters, Drop};
use crate::device::netwatch::Changes;
use crate::device::{Device, Flow};
use crate::fault::FaultLog;
use crate::hint::Hint;
use crate::link_state::{LinkState, State};
use crate::offload::merge::{Batch, Merger};
use crate::segment::{Loop, Segment};
use crate::transport::{DownReason, LinkEvent, Transport};
use crate::tunnel::identity::Identity;
use crate::tunnel::message::CloseReason;
use crate::tunnel::secure::Settings;
use crate::tunnel::{Opened, Tunnel};

mod carrier;
mod events;
mod fit;
mod input;
mod lan;
pub mod loop_guard;
mod mirror;
mod output;
pub mod report;
mod testing;
mod too_long;
mod words;

use carrier::Carrier;
use fit::Fit;
use input::{Backlog, Sender};
use loop_guard::LoopGuard;
use mirror::Mirror;
pub use output::WIRE_LOG;
use output::{Output, WireLog};
use report::About;
use testing::Testing;

/// Packets or super-packets read from the device in one turn, and bytes after which no more are moved.
const DEVICE_BUDGET: usize = 64;
const DEVICE_BUDGET_BYTES: usize = 256 * 1024;

/// Messages taken from the network in one turn.
const NETWORK_BUDGET: usize = 256;

/// What a link leaves to the one that takes its place.
#[derive(Debug)]
pub struct Past {
    counters: Counters,
    segment: Option<Segment>,
    state: LinkState,
    carrier: Carrier,
    mirror: Mirror,
}

/// How the link is, for those who report it: `up, peer 203.0.113.7:55555`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The link's state.
    pub state: State,
    /// Where packets go, while they go anywhere.
    pub peer: Option<SocketAddr>,
    /// Why nothing is forwarded though the peer is there: a loop of bridged LANs.
    pub held: Option<Loop>,
}

impl Display for Standing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(formatter)?;
        self.peer.map_or(Ok(()), |peer| write!(formatter, ", peer {peer}"))?;
        self.held.map_or(Ok(()), |why| write!(formatter, ", nothing is forwarded: loop {why}"))
    }
}

/// Device, tunnel and transport of one daemon.
pub struct Relay {
    device: Device,
    transport: Box<dyn Transport>,
    tunnel: Tunnel,
    protocol: Protocol,
    is_client: bool,
    about: About,
    state: LinkState,
    carrier: Carrier,
    /// `None` where nobody knows about routes.
    guard: Option<LoopGuard>,
    /// What may cross between two LANs; `None` on a tun.
    segment: Option<Segment>,
    counters: Counters,
    merger: Merger,
    backlog: Backlog,
    fit: Fit,
    /// The longest packet that the path was found to carry, and whether that is news.
    path_packet: Option<usize>,
    path_changed: bool,
    wire_log: Option<WireLog>,
    mirror: Mirror,
    testing: Testing,
    /// Why the path that is being taken from the tunnel ended, and when this end tries again.
    ending: Option<(&'static str, Option<Duration>)>,
    has_lost_peer: bool,
    told_ready: bool,
    hint: Option<Hint>,
    faults: FaultLog,
}

impl Relay {
    /// Joins the three. `debug` asks for a line for each packet.
    pub fn new(
        device: Device,
        transport: Box<dyn Transport>,
        tunnel: Tunnel,
        link: &LinkConfig,
        debug: bool,
        now: Instant,
    ) -> Self {
        Self {
            state: LinkState::new(link.rest_state(), link.down_after, now),
            carrier: Carrier::default(),
            guard: None,
            segment: None,
            tunnel,
            merger: Merger::new(device.kind(), device.capabilities()),
            backlog: Backlog::new(device.form()),
            fit: Fit::new(device.kind(), link.mss_clamp),
            path_packet: None,
            path_changed: false,
            mirror: Mirror::new(device.kind()),
            testing: Testing::default(),
            device,
            transport,
            protocol: link.protocol,
            is_client: link.role.is_client(),
            about: About::new(link),
            counters: Counters::default(),
            wire_log: debug.then(WireLog::default),
            ending: None,
            has_lost_peer: false,
            told_ready: false,
            hint: None,
            faults: FaultLog::default(),
        }
    }

    /// Remembers where the peer is, across restarts.
    #[must_use]
    pub fn remembering(self, hint: Option<Hint>) -> Self {
        Self { hint, ..self }
    }

    /// Has the route to the peer watched.
    #[must_use]
    pub fn guarded(self, guard: Option<LoopGuard>) -> Self {
        Self { guard, ..self }
    }

    /// Gives the device back and closes the link.
    pub fn into_parts(self) -> (Device, Past) {
        let Self { device, counters, segment, state, carrier, mirror, .. } = self;
        (device, Past { counters, segment, state, carrier, mirror })
    }

    /// Goes on where another link with the same device has ended.
    pub fn continue_from(&mut self, past: Past, now: Instant) {
        (self.counters, self.carrier, self.mirror) = (past.counters, past.carrier, past.mirror);
        self.segment = past.segment;
        self.state.continue_from(&past.state, now);
    }

    /// Lets the device's carrier follow the link, or leaves it on.
    pub fn set_carrier_following(&mut self, follows: bool) {
        self.carrier.set_following(follows, &self.device);
    }

    /// Takes settings that need no other link, and on a secure one its keys. A peer that the access rules no longer accept
    /// is told goodbye.
    pub fn reconfigure(&mut self, link: &LinkConfig, keys: Option<(Settings, Vec<Identity>)>, now: Instant) {
        self.state.set_down_after(link.down_after);
        self.fit.set_clamp(link.mss_clamp);
        self.about = About::new(link);
        if let Some((settings, identities)) = keys {
            self.tunnel.reconfigure(settings, identities, now);
        }
        if !self.transport.reconfigure(link, now) {
            self.ending = Some((DownReason::NotAllowed.word(), None));
            self.tunnel.close(CloseReason::Stops, now);
            self.carry_out_all(now);
            self.transport.flush(now);
            self.transport.reconnect(now);
        }
        self.settle_links(now);
        self.ending = None;
    }

    /// The device.
    pub fn device_mut(&mut self) -> &mut Device {
        &mut self.device
    }

    /// The transport.
    pub fn transport_mut(&mut self) -> &mut dyn Transport {
        &mut *self.transport
    }

    /// True once a peer that was up has gone.
    pub fn has_lost_peer(&self) -> bool {
        self.has_lost_peer
    }

    /// The longest packet that the path carries, if it was found to carry less than was expected.
    pub fn path_packet(&self) -> Option<usize> {
        self.path_packet
    }

    /// True if that has changed since the last call.
    #[must_use]
    pub fn take_path_change(&mut self) -> bool {
        std::mem::take(&mut self.path_changed)
    }

    /// True if a pump has work: the one predicate for "may I read" and "may I sleep".
    pub fn is_runnable(&self) -> bool {
        let may_send = self.may_send_backlog() || (self.testing.has_more && self.transport.can_send());
        self.may_read_device() || may_send || self.transport.can_receive()
    }

    /// The device is always read, also while the transport takes nothing: then its packets wait in the backlog. Only while
    /// that has no room either is there a pause after each batch.
    fn may_read_device(&self) -> bool {
        self.device.is_readable() && self.backlog.rests_until().is_none()
    }

    /// True if what waits has somewhere to go: to the transport, or without a peer to nowhere.
    fn may_send_backlog(&self) -> bool {
        !self.backlog.is_empty() && (!self.tunnel.has_path() || self.transport.can_send())
    }

    /// The earliest deadline of transport, tunnel, link state, backlog and segment.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let state = self.state.poll_timeout();
        let rest = self.backlog.rests_until().filter(|_| self.device.is_readable());
        let segment = self.segment.as_ref().and_then(Segment::poll_timeout);
        [self.transport.poll_timeout(), self.tunnel.poll_timeout(), state, rest, segment].into_iter().flatten().min()
    }

    /// Lets time pass for those whose deadline has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        // A newcomer that has left must not be adopted by a deadline that comes at the same time.
        self.settle_links(now);
        if self.transport.poll_timeout().is_some_and(|at| at <= now) {
            self.transport.handle_timeout(now);
        }
        if self.tunnel.poll_timeout().is_some_and(|at| at <= now) {
            self.tunnel.handle_timeout(now);
        }
        self.state.handle_timeout(now);
        self.backlog.handle_timeout(now);
    }

    /// One turn of both pumps, and of what they have caused.
    ///
    /// # Errors
    /// The device has ended.
    pub fn run(&mut self, now: Instant) -> io::Result<()> {
        self.settle_links(now);
        self.outbound(now)?;
        self.inbound(now)?;
        // Last: what has come may be what it waits for, and what is to be sent otherwise goes first.
        self.send_load(now);
        self.settle_links(now);
        self.settle_segment(now);
        Ok(())
    }

    /// Takes the news that links, addresses or routes of this host have changed: whether the peer can be reached still, or
    /// again, is found out at once.
    pub fn network_changed(&mut self, changes: Changes, now: Instant) {
        if !changes.any() {
            return;
        }
        self.look_at_port(now);
        let is_mended = self.guard.as_mut().is_some_and(|guard| guard.check(&mut self.faults, now));
        if !changes.elsewhere && !is_mended {
            return;
        }
        debug!("the network has changed");
        self.transport.network_changed(now);
        // What has no path any more need not be asked.
        self.settle_links(now);
        self.tunnel.network_changed(now);
        self.carry_out_all(now);
    }

    /// Says that the tunnel is down because this end closes it; what remains is to drop the relay.
    pub fn close_link(&mut self, reason: CloseReason, now: Instant) {
        self.ending = Some((DownReason::Requested.word(), None));
        self.tunnel.close(reason, now);
        self.carry_out_all(now);
        self.transport.flush(now);
    }

    /// Device to network: first what has waited, then what the device has. Once the backlog is empty, packets pass it by.
    fn outbound(&mut self, now: Instant) -> io::Result<()> {
        let may_read = self.may_read_device();
        if !may_read && !self.may_send_backlog() {
            return Ok(());
        }
        let Self { device, transport, tunnel, counters, wire_log, mirror, backlog, guard, segment, fit, .. } = self;
        let clamp = fit.clamp(device, tunnel, now);
        let (log, answers) = ((&mut *wire_log, &mut *mirror), (clamp, &mut fit.answers));
        let mut sender = Sender::new(&mut **transport, tunnel, counters, log, answers, now);
        let mut bytes = 0;
        while bytes < DEVICE_BUDGET_BYTES
            && sender.takes_packets()
            && let Some(len) = backlog.send_next(&mut sender)
        {
            bytes += len;
        }
        let budget = if may_read { DEVICE_BUDGET } else { 0 };
        let result = device.read_each(budget, &mut |mut received| {
            if guard.as_ref().is_some_and(|guard| guard.stops(received.packet())) {
                sender.drop_one(Drop::RoutingLoop);
                return Flow::Continue;
            }
            if let Some(Err(cause)) = segment.as_mut().map(|segment| lan::leave(segment, &mut received, now)) {
                sender.drop_one(cause);
                return Flow::Continue;
            }
            bytes += if backlog.is_empty() && sender.takes_packets() {
                sender.send(received)
            } else {
                backlog.push(&received, now)
            };
            if bytes < DEVICE_BUDGET_BYTES { Flow::Continue } else { Flow::Stop }
        });
        sender.flush();
        backlog.rest_if_full(sender.takes_packets(), now);
        backlog.count(counters);
        let mut output = Output { device, counters, wire_log, mirror, clamp, now, result };
        fit.answers.take().iter().for_each(|answer| output.answer(answer));
        output.result
    }

    /// Network to device. A packet that the device does not take is dropped: nothing queues behind a full device.
    fn inbound(&mut self, now: Instant) -> io::Result<()> {
        if !self.transport.can_receive() {
            return Ok(());
        }
        let Self { device, transport, tunnel, counters, wire_log, mirror, merger, carrier, segment, fit, .. } = self;
        let clamp = fit.clamp(device, tunnel, now);
        let mut output = Output { device, counters, wire_log, mirror, clamp, now, result: Ok(()) };
        let mut batch = Batch::new(merger);
        let mut accepted = 0;
        transport.receive_each(NETWORK_BUDGET, now, &mut |path, info, message| match tunnel
            .open(path, info, message, now)
        {
            Ok(opened) => {
                accepted += 1;
                if !matches!(opened, Opened::Nothing) {
                    carrier.anticipate(output.device);
                }
                let frame = segment.as_mut().zip(lan::frame(&opened));
                match frame.map_or(Ok(()), |(segment, frame)| segment.arrive(frame, now)) {
                    Ok(()) => output.deliver(opened, &mut batch),
                    Err(cause) => output.counters.drop_one(cause),
                }
            }
            Err(refused) => output.counters.drop_one(refused.into()),
        });
        output.take(&mut batch);
        let result = output.result;
        self.merger.restrict(self.device.capabilities());
        self.transport.finish_receive(accepted, now);
        result
    }

    /// Tells the tunnel what has happened to paths, and carries out what it decides, until nothing is left.
    fn settle_links(&mut self, now: Instant) {
        loop {
            self.carry_out_all(now);
            match self.transport.poll_link() {
                Some(LinkEvent::Up(path, info)) => {
                    if self.state.state() == State::Unknown {
                        self.tell_ready(info.peer);
                    }
                    self.tunnel.link_up(path, info, now);
                }
                Some(LinkEvent::Down { path, reason, retry }) => {
                    // A newcomer that leaves says nothing about the peer.
                    if self.tunnel.live_path() == Some(path) {
                        self.ending = Some((reason.word(), retry));
                    }
                    self.tunnel.link_down(path, now);
                }
                Some(LinkEvent::Limit(path, max_message)) => self.tunnel.link_limit(path, max_message, now),
                None => break,
            }
        }
        self.carrier.follow(&self.state, &self.device);
        // A device without carrier is given no packets, however many there are to send.
        self.tunnel.set_demand_hidden(self.carrier.is_off(), now);
        if self.carrier.is_off() {
            self.transport.hurry();
        }
        if let Some(guard) = &mut self.guard {
            guard.follow(self.transport.peer_address(), &mut self.faults, now);
        }
    }

    /// Says once that packets can go out, which tells nothing about the peer.
    fn tell_ready(&mut self, peer: SocketAddr) {
        if !std::mem::replace(&mut self.told_ready, true) {
            let (device, protocol, state) = (self.named_device(), self.protocol, self.state.state());
            info!("tunnel ready {device} peer={peer} transport={protocol} state={state}");
        }
    }

    /// The device's name and MTU as they are now.
    fn named_device(&self) -> String {
        let mtu = self.device.mtu().map(|mtu| format!(" mtu={mtu}")).unwrap_or_default();
        format!("dev={}{mtu}", self.device.current_name())
    }
}
