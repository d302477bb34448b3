//! The two pumps: packets from the device to the peer and back, and the decisions of the tunnel carried out.
//!
//! It joins device, tunnel and transport and is the only place that sees all three. It has no descriptor of its own
//! and reads no clock. Every packet that ends here is counted by its cause.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use log::{debug, info};

use crate::config::{LinkConfig, Protocol};
use crate::counters::{Counters, Drop, Statistics};
use crate::device::{Device, Flow, WriteOutcome, WriteRefusal};
use crate::fault::FaultLog;
use crate::offload::VirtioHeader;
use crate::offload::merge::{Batch, Merger, Written};
use crate::transport::{DownReason, LinkEvent, Transport};
use crate::tunnel::{Event, Path, Refused, Rejection, Tunnel};

/// Packets or super-packets read from the device in one turn, and bytes after which no more are read.
const DEVICE_BUDGET: usize = 64;
const DEVICE_BUDGET_BYTES: usize = 256 * 1024;

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
    merger: Merger,
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
            merger: Merger::new(device.kind(), device.capabilities()),
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
        // A newcomer that has left must not be adopted by a deadline that comes at the same time.
        self.settle_links(now);
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
        self.ending = Some((DownReason::Requested.word(), None));
        self.tunnel.close(now);
        while let Some(event) = self.tunnel.poll_event() {
            self.carry_out(event, now);
        }
    }

    /// Device to network.
    fn outbound(&mut self, now: Instant) -> io::Result<()> {
        if !self.may_read_device() {
            return Ok(());
        }
        let Self { device, transport, tunnel, counters, wire_log, .. } = self;
        let mut bytes = 0;
        let result = device.read_each(DEVICE_BUDGET, &mut |segments| {
            let Ok(mut segments) = segments else {
                counters.drop_one(Drop::Malformed);
                return Flow::Continue;
            };
            while let Some(packet) = segments.next_packet() {
                bytes += packet.len();
                counters.device_rx.add(packet.len());
                match send(&mut **transport, tunnel, packet, now) {
                    Ok(()) => {
                        counters.network_tx.add(packet.len());
                        if let Some(log) = wire_log {
                            log.outbound(packet.len());
                        }
                    }
                    Err(cause) => counters.drop_one(cause),
                }
            }
            let go_on = bytes < DEVICE_BUDGET_BYTES && (!tunnel.has_path() || transport.can_send());
            if go_on { Flow::Continue } else { Flow::Stop }
        });
        transport.flush(now);
        result
    }

    /// Network to device. A packet that the device does not take is dropped: nothing queues behind a full device.
    fn inbound(&mut self, now: Instant) -> io::Result<()> {
        if !self.transport.can_receive() {
            return Ok(());
        }
        let Self { device, transport, tunnel, counters, wire_log, merger, .. } = self;
        let mut output = Output { device, counters, wire_log, result: Ok(()) };
        let mut batch = Batch::new(merger);
        let mut accepted = 0;
        transport.receive_each(
            NETWORK_BUDGET,
            now,
            &mut |path, _info, message| match tunnel.open(path, message, now) {
                Ok(packet) => {
                    accepted += 1;
                    output.counters.network_rx.add(packet.len());
                    if let Err(packet) = batch.push(packet) {
                        output.take(&mut batch);
                        // An empty batch takes every packet.
                        let _ = batch.push(packet);
                    }
                }
                Err(refused) => output.counters.drop_one(match refused {
                    Refused::NotLive => Drop::NotLive,
                    Refused::Invalid => Drop::Invalid,
                    Refused::WantsSecure => Drop::WantsSecure,
                }),
            },
        );
        output.take(&mut batch);
        let result = output.result;
        self.merger.restrict(self.device.capabilities());
        self.transport.finish_receive(accepted, now);
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
                    // A newcomer that leaves says nothing about the peer.
                    if self.tunnel.live_path() == Some(path) {
                        self.ending = Some((reason.word(), retry));
                    }
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
                let name = self.device.current_name();
                let mtu = self.device.mtu().map(|mtu| format!(" mtu={mtu}")).unwrap_or_default();
                info!("tunnel up dev={name} peer={} transport={}{mtu}", info.peer, self.protocol);
                if self.is_client {
                    debug!(target: WIRE_LOG, "CLIENT: Connected to server {}", info.peer.ip());
                } else {
                    debug!(target: WIRE_LOG, "SERVER: Client connected from {}", info.peer.ip());
                }
            }
            Event::Down { idle, peer, why } => {
                let (reason, retry) = match why {
                    Some(Rejection::Replaced) => ("replaced", None),
                    Some(Rejection::Occupied) => ("occupied", None),
                    Some(Rejection::WantsSecure) => ("wants-secure", None),
                    None => self.ending.take().unwrap_or((DownReason::Requested.word(), None)),
                };
                // Neither a newcomer in its place nor our own wish means that the peer has left.
                self.has_lost_peer |= why.is_none() && reason != DownReason::Requested.word();
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

/// Seals one packet into the transport's buffer.
///
/// # Errors
/// Why it is dropped.
fn send(transport: &mut dyn Transport, tunnel: &mut Tunnel, packet: &[u8], now: Instant) -> Result<(), Drop> {
    let Some(len) = tunnel.message_len(packet.len()) else {
        return Err(if tunnel.has_path() { Drop::TooLong } else { Drop::NoPeer });
    };
    let taken = transport.send_with(len, now, &mut |message| tunnel.seal(packet, message));
    if taken { Ok(()) } else { Err(Drop::NotSent) }
}

/// The device's side of the inbound pump.
struct Output<'r> {
    device: &'r mut Device,
    counters: &'r mut Counters,
    wire_log: &'r mut Option<WireLog>,
    /// The end of the device, if it has ended.
    result: io::Result<()>,
}

impl Output<'_> {
    /// Writes what has been collected.
    fn take(&mut self, batch: &mut Batch<'_, '_>) {
        batch.drain(&mut |header, parts, count| self.write(header, parts, count));
    }

    fn write(&mut self, header: &VirtioHeader, parts: &[IoSlice<'_>], count: usize) -> Written {
        let cause = match self.device.write_parts(header, parts) {
            Ok(WriteOutcome::Written) => {
                // Every part but the first is the payload of a packet; its headers stood in the stream too.
                let headers_len = usize::from(header.header_len);
                for (index, part) in parts.iter().enumerate() {
                    let len = if index == 0 { part.len() } else { headers_len + part.len() };
                    self.counters.device_tx.add(len);
                    if let Some(log) = self.wire_log {
                        log.inbound(len);
                    }
                }
                return Written::Done;
            }
            Ok(WriteOutcome::TakeApart) => return Written::TakeApart,
            Ok(WriteOutcome::Refused(WriteRefusal::Down)) => Drop::DeviceDown,
            Ok(WriteOutcome::Refused(WriteRefusal::Invalid)) => Drop::DeviceRefused,
            Ok(WriteOutcome::Refused(WriteRefusal::Full)) => Drop::DeviceFull,
            Err(error) => {
                self.result = Err(error);
                return Written::Done;
            }
        };
        (0..count).for_each(|_| self.counters.drop_one(cause));
        Written::Done
    }
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
