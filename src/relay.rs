//! The two pumps: packets from the device to the peer and back, and the decisions of the tunnel carried out.
//!
//! It joins device, tunnel and transport and is the only place that sees all three. It has no descriptor of its own
//! and reads no clock. Every packet that ends here is counted by its cause.

use std::io;
use std::time::{Duration, Instant};

use log::{debug, info};

use crate::config::{LinkConfig, Protocol};
use crate::counters::{Counters, Drop, Statistics};
use crate::device::{Device, Flow, WriteRefusal};
use crate::fault::FaultLog;
use crate::transport::{DownReason, LinkEvent, Transport};
use crate::tunnel::{Event, Path, Refused, Rejection, Tunnel};

/// Packets read from the device in one turn.
const DEVICE_BUDGET: usize = 64;

/// Messages taken from the network in one turn.
const NETWORK_BUDGET: usize = 256;

/// The target of the lines that the original simpletun prints with `-d`.
pub const WIRE_LOG: &str = "wire";

/// Prints the original's line for each packet; its counters begin at 1 and never stop.
#[derive(Clone, Copy, Debug, Default)]
struct WireLog {
    to_network: u64,
    to_device: u64,
}

/// Device, tunnel and transport of one daemon.
pub struct Relay {
    device: Device,
    transport: Box<dyn Transport>,
    tunnel: Tunnel,
    protocol: Protocol,
    is_client: bool,
    counters: Counters,
    wire_log: Option<WireLog>,
    /// Why the path that is being taken from the tunnel ended, and when this end tries again.
    ending: Option<(&'static str, Option<Duration>)>,
    has_lost_peer: bool,
    faults: FaultLog,
}

impl Relay {
    /// Joins the three. `debug` asks for a line for each packet.
    pub fn new(device: Device, transport: Box<dyn Transport>, link: &LinkConfig, debug: bool) -> Self {
        Self {
            tunnel: Tunnel::plain(device.kind()),
            device,
            transport,
            protocol: link.protocol,
            is_client: link.role.is_client(),
            counters: Counters::default(),
            wire_log: debug.then(WireLog::default),
            ending: None,
            has_lost_peer: false,
            faults: FaultLog::default(),
        }
    }

    /// Gives the device back and closes the link.
    pub fn into_parts(self) -> (Device, Counters) {
        (self.device, self.counters)
    }

    /// Goes on counting from here.
    pub fn set_counters(&mut self, counters: Counters) {
        self.counters = counters;
    }

    /// The device.
    pub fn device_mut(&mut self) -> &mut Device {
        &mut self.device
    }

    /// The transport.
    pub fn transport_mut(&mut self) -> &mut dyn Transport {
        &mut *self.transport
    }

    /// The counters so far.
    pub fn statistics(&self) -> Statistics<'_> {
        Statistics(&self.counters, self.transport.counters())
    }

    /// True once a peer that was up has gone.
    pub fn has_lost_peer(&self) -> bool {
        self.has_lost_peer
    }

    /// True if a pump has work: the one predicate for "may I read" and "may I sleep".
    pub fn is_runnable(&self) -> bool {
        self.may_read_device() || self.transport.can_receive()
    }

    /// The device is read while its packets have somewhere to go: to the transport, or without a peer to nowhere, so
    /// that nothing stale is waiting when the peer comes. A full transport leaves the device unread and its ready
    /// flag set.
    fn may_read_device(&self) -> bool {
        self.device.is_readable() && (!self.tunnel.has_path() || self.transport.can_send())
    }

    /// The earliest deadline of transport and tunnel.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.transport.poll_timeout(), self.tunnel.poll_timeout()].into_iter().flatten().min()
    }

    /// Lets time pass for those whose deadline has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.transport.poll_timeout().is_some_and(|at| at <= now) {
            self.transport.handle_timeout(now);
        }
        if self.tunnel.poll_timeout().is_some_and(|at| at <= now) {
            self.tunnel.handle_timeout(now);
        }
    }

    /// One turn of both pumps, and of what they have caused.
    ///
    /// # Errors
    /// The device has ended.
    pub fn run(&mut self, now: Instant) -> io::Result<()> {
        self.settle_links(now);
        self.outbound(now)?;
        self.inbound(now)?;
        self.settle_links(now);
        Ok(())
    }

    /// Says that the tunnel is down because this end closes it; what remains is to drop the relay.
    pub fn close_link(&mut self, now: Instant) {
        if let Some(path) = self.tunnel.live_path() {
            self.ending = Some((DownReason::Requested.word(), None));
            self.tunnel.link_down(path, now);
            self.settle_links(now);
        }
    }

    /// Device to network.
    fn outbound(&mut self, now: Instant) -> io::Result<()> {
        if !self.may_read_device() {
            return Ok(());
        }
        let Self { device, transport, tunnel, counters, wire_log, .. } = self;
        let result = device.read_each(DEVICE_BUDGET, &mut |packet| {
            counters.device_rx.add(packet.len());
            let Some(message_len) = tunnel.message_len(packet.len()) else {
                counters.drop_one(if tunnel.has_path() { Drop::TooLong } else { Drop::NoPeer });
                return Flow::Continue;
            };
            if transport.send_with(message_len, now, &mut |message| tunnel.seal(packet, message)) {
                counters.network_tx.add(packet.len());
                if let Some(log) = wire_log {
                    log.outbound(packet.len());
                }
            } else {
                counters.drop_one(Drop::NotSent);
            }
            if transport.can_send() { Flow::Continue } else { Flow::Stop }
        });
        transport.flush(now);
        result
    }

    /// Network to device. A packet that the device does not take is dropped: nothing queues behind a full device.
    fn inbound(&mut self, now: Instant) -> io::Result<()> {
        if !self.transport.can_receive() {
            return Ok(());
        }
        let Self { device, transport, tunnel, counters, wire_log, .. } = self;
        let mut result = Ok(());
        transport.receive_each(NETWORK_BUDGET, now, &mut |path, message| {
            if let Err(error) = deliver(device, tunnel, counters, wire_log.as_mut(), path, message, now) {
                result = Err(error);
            }
        });
        result
    }

    /// Tells the tunnel what has happened to paths, and carries out what it decides, until nothing is left.
    fn settle_links(&mut self, now: Instant) {
        loop {
            while let Some(event) = self.tunnel.poll_event() {
                self.carry_out(event, now);
            }
            match self.transport.poll_link() {
                Some(LinkEvent::Up(path, info)) => self.tunnel.link_up(path, info, now),
                Some(LinkEvent::Down { path, reason, retry }) => {
                    self.ending = Some((reason.word(), retry));
                    self.tunnel.link_down(path, now);
                }
                None => return,
            }
        }
    }

    fn carry_out(&mut self, event: Event, now: Instant) {
        match event {
            Event::PathAdopted(path) => self.transport.adopt(path, now),
            Event::PathRejected(path, why) => self.reject(path, why, now),
            Event::Up(info) => {
                self.counters.ups += 1;
                let (name, mtu) = (self.device.name(), self.device.mtu().unwrap_or(0));
                info!("tunnel up dev={name} peer={} transport={} mtu={mtu}", info.peer, self.protocol);
                if self.is_client {
                    debug!(target: WIRE_LOG, "CLIENT: Connected to server {}", info.peer.ip());
                } else {
                    debug!(target: WIRE_LOG, "SERVER: Client connected from {}", info.peer.ip());
                }
            }
            Event::Down { idle, peer } => {
                self.has_lost_peer = true;
                let (reason, retry) = self.ending.take().unwrap_or(("replaced", None));
                let retry = retry.map(|wait| format!(" retry={}ms", wait.as_millis())).unwrap_or_default();
                info!("tunnel down reason={reason} idle={}s{retry} peer={peer}", idle.as_secs());
            }
            Event::Moved(peer) => {
                self.faults.note(now, "moved", format_args!("peer moved peer={peer} transport={}", self.protocol));
            }
        }
    }

    fn reject(&mut self, path: Path, why: Rejection, now: Instant) {
        match why {
            Rejection::Occupied => self.faults.note(
                now,
                "occupied",
                "Turned away another peer while the live one is there: one server serves one peer, start another server \
                 on a port of its own",
            ),
            Rejection::Replaced => {}
            Rejection::WantsSecure => {
                let text = "The peer wants a secure link and this end is plain: give both ends the same security setting";
                self.faults.note(now, "wants-secure", text);
            }
        }
        self.transport.reject(path, why, now);
    }
}

/// Opens one message and writes its packet to the device.
///
/// # Errors
/// The device has ended; everything else is counted.
fn deliver(
    device: &mut Device,
    tunnel: &mut Tunnel,
    counters: &mut Counters,
    wire_log: Option<&mut WireLog>,
    path: Path,
    message: &mut [u8],
    now: Instant,
) -> io::Result<()> {
    let packet = match tunnel.open(path, message, now) {
        Ok(packet) => packet,
        Err(refused) => {
            counters.drop_one(match refused {
                Refused::NotLive => Drop::NotLive,
                Refused::Invalid => Drop::Invalid,
                Refused::WantsSecure => Drop::WantsSecure,
            });
            return Ok(());
        }
    };
    counters.network_rx.add(packet.len());
    match device.queue(packet)? {
        Ok(()) => {
            counters.device_tx.add(packet.len());
            if let Some(log) = wire_log {
                log.inbound(packet.len());
            }
        }
        Err(refusal) => counters.drop_one(match refusal {
            WriteRefusal::Down => Drop::DeviceDown,
            WriteRefusal::Invalid => Drop::DeviceRefused,
            WriteRefusal::Full => Drop::DeviceFull,
        }),
    }
    Ok(())
}

impl WireLog {
    fn outbound(&mut self, len: usize) {
        self.to_network += 1;
        let count = self.to_network;
        debug!(target: WIRE_LOG, "TAP2NET {count}: Read {len} bytes from the tap interface");
        debug!(target: WIRE_LOG, "TAP2NET {count}: Written {len} bytes to the network");
    }

    fn inbound(&mut self, len: usize) {
        self.to_device += 1;
        let count = self.to_device;
        debug!(target: WIRE_LOG, "NET2TAP {count}: Read {len} bytes from the network");
        debug!(target: WIRE_LOG, "NET2TAP {count}: Written {len} bytes to the tap interface");
    }
}
