//! The network's side of the outbound pump: what becomes of a packet from the device, and where it waits while the
//! network is full.

use std::time::{Duration, Instant};

use super::fit::Clamp;
use super::mirror::Mirror;
use super::output::WireLog;
use super::too_long::Answers;
use crate::control::capture::Direction;
use crate::counters::{Counters, Drop};
use crate::device::{Form, MAX_PACKET_LEN, Received};
use crate::offload::fragment::fragment;
use crate::offload::mss::Room;
use crate::offload::{Checksum, VIRTIO_HEADER_LEN, VirtioHeader};
use crate::scheduler::flow::{FlowHash, mark_congestion};
use crate::scheduler::{Dropped, Scheduler};
use crate::transport::Transport;
use crate::tunnel::Tunnel;
use crate::tunnel::parts::{PART_HEADER_LEN, Part};

/// Bytes that are collected before the network is given them.
const BATCH_BYTES: usize = 64 * 1024;

/// The same of those that have waited: what the network does not take then waits where no order can be changed, and a
/// full network gains nothing by large batches.
const SMALL_BATCH_BYTES: usize = 16 * 1024;

/// While there is no room for what waits, the device is read a batch at a time with this pause: so every flow has its
/// chance, and a flood that nobody takes does not keep the loop busy.
const REST: Duration = Duration::from_millis(2);

/// Packets that wait while the network is full.
#[derive(Debug)]
pub(super) struct Backlog {
    scheduler: Scheduler,
    hash: FlowHash,
    form: Form,
    counted: Dropped,
    rests_until: Option<Instant>,
}

impl Backlog {
    pub(super) fn new(form: Form) -> Self {
        Self {
            scheduler: Scheduler::default(),
            hash: FlowHash::default(),
            form,
            counted: Dropped::default(),
            rests_until: None,
        }
    }

    /// When the device may be read again, if not now.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Ends a pause that is over.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.rests_until.take_if(|until| *until <= now);
    }

    /// Begins a pause if there is no room, and no way out.
    pub(super) fn rest_if_full(&mut self, takes_packets: bool, now: Instant) {
        if self.scheduler.is_full() && !takes_packets {
            self.rests_until = Some(now + REST);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.scheduler.is_empty()
    }

    /// Bytes that wait now.
    pub(super) fn bytes(&self) -> usize {
        self.scheduler.bytes()
    }

    /// The most bytes that have ever waited.
    pub(super) fn most_bytes(&self) -> usize {
        self.scheduler.most_bytes()
    }

    /// Lets a packet wait; returns its length in bytes.
    pub(super) fn push(&mut self, received: &Received<'_>, now: Instant) -> usize {
        let flow = self.hash.of(self.form.kind(), received.packet());
        self.scheduler.enqueue(flow, received.bytes().to_vec(), received.segment_count(), now);
        received.packet().len()
    }

    /// Sends the packet whose turn it is; returns its length in bytes, or nothing if none waits.
    pub(super) fn send_next(&mut self, sender: &mut Sender<'_>) -> Option<usize> {
        let Self { scheduler, form, .. } = self;
        let mark = &mut |bytes: &mut [u8]| mark_congestion(form.kind(), form.received(bytes).into_packet());
        let mut waiting = scheduler.dequeue(sender.now, mark)?;
        let received = form.received(&mut waiting.bytes);
        let len = if waiting.shed == 0 { sender.pass(received) } else { sender.segments(received, waiting.shed) };
        sender.flush_after(len, SMALL_BATCH_BYTES);
        Some(len)
    }

    /// Forgets what waits; the number of packets or super-packets.
    pub(super) fn clear(&mut self) -> u64 {
        self.scheduler.clear()
    }

    /// Counts what was dropped since this was called last.
    pub(super) fn count(&mut self, counters: &mut Counters) {
        let dropped = self.scheduler.dropped();
        counters.drop_many(Drop::QueueDelay, dropped.delayed - self.counted.delayed);
        counters.drop_many(Drop::QueueFull, dropped.overflowed - self.counted.overflowed);
        self.counted = dropped;
    }
}

/// The network's side of the outbound pump.
pub(super) struct Sender<'r> {
    transport: &'r mut dyn Transport,
    tunnel: &'r mut Tunnel,
    counters: &'r mut Counters,
    wire_log: &'r mut Option<WireLog>,
    mirror: &'r mut Mirror,
    clamp: Clamp,
    answers: &'r mut Answers,
    now: Instant,
    /// Bytes that were sent since the last flush.
    collected: usize,
}

impl<'r> Sender<'r> {
    pub(super) fn new(
        transport: &'r mut dyn Transport,
        tunnel: &'r mut Tunnel,
        counters: &'r mut Counters,
        (wire_log, mirror): (&'r mut Option<WireLog>, &'r mut Mirror),
        (clamp, answers): (Clamp, &'r mut Answers),
        now: Instant,
    ) -> Self {
        Self { transport, tunnel, counters, wire_log, mirror, clamp, answers, now, collected: 0 }
    }

    /// True if packets have somewhere to go now: to the transport, or without a peer to nowhere, so that nothing stale is
    /// waiting when the peer comes.
    pub(super) fn takes_packets(&self) -> bool {
        !self.tunnel.has_path() || self.transport.can_send()
    }

    /// Sends what was read from the device; returns its length in bytes.
    pub(super) fn send(&mut self, received: Received<'_>) -> usize {
        let len = self.pass(received);
        self.flush_after(len, BATCH_BYTES);
        len
    }

    /// Counts a packet that is not sent.
    pub(super) fn drop_one(&mut self, cause: Drop) {
        self.counters.drop_one(cause);
    }

    /// Gives the network what has been collected.
    pub(super) fn flush(&mut self) {
        self.collected = 0;
        self.transport.flush(self.now);
    }

    /// Counts what was collected, and flushes once it is this much.
    fn flush_after(&mut self, len: usize, batch: usize) {
        self.collected += len;
        if self.collected >= batch {
            self.flush();
        }
    }

    fn pass(&mut self, mut received: Received<'_>) -> usize {
        match self.whole(&mut received) {
            Some(len) => len,
            None => self.segments(received, 0),
        }
    }

    /// Sends a super-packet whole, if it is one and the link takes it so; returns its length in bytes.
    fn whole(&mut self, received: &mut Received<'_>) -> Option<usize> {
        if self.wire_log.is_some() || !self.tunnel.takes_super_packets() {
            return None;
        }
        let (kind, bytes) = received.as_whole()?;
        let len = self.tunnel.super_message_len(kind, bytes.len(), self.now)?;
        let Self { transport, tunnel, counters, mirror, now, .. } = self;
        if mirror.is_watched()
            && let Some((header, packet)) = bytes.split_first_chunk()
            && let Ok(header) = VirtioHeader::parse(header)
        {
            mirror.super_packet(Direction::Out, &header, packet, *now);
        }
        let packet_len = bytes.len() - VIRTIO_HEADER_LEN;
        counters.device_rx.add(packet_len);
        if transport.send_with(len, *now, &mut |message| tunnel.seal_super(bytes, message, *now)) {
            counters.network_tx.add(packet_len);
        } else {
            counters.drop_one(Drop::NotSent);
        }
        Some(packet_len)
    }

    /// Sends the packets in it one by one, without the first `shed`; returns the length of all in bytes.
    fn segments(&mut self, received: Received<'_>, shed: u16) -> usize {
        let Ok(mut segments) = received.into_segments() else {
            self.counters.drop_one(Drop::Malformed);
            return 0;
        };
        let (mut bytes, checksum) = (0, segments.checksum());
        for _ in 0..shed {
            bytes += segments.next_packet().map_or(0, |packet| packet.len());
        }
        while let Some(packet) = segments.next_packet() {
            bytes += packet.len();
            self.counters.device_rx.add(packet.len());
            self.clamp.apply(packet);
            if self.mirror.is_watched() {
                self.mirror.packet(Direction::Out, packet, self.now);
            }
            match self.packet(packet, checksum) {
                Ok(()) => {
                    self.counters.network_tx.add(packet.len());
                    if let Some(log) = self.wire_log {
                        log.outbound(packet.len());
                    }
                }
                Err(Drop::TooLong) => self.too_long(packet, checksum),
                Err(cause) => self.counters.drop_one(cause),
            }
        }
        bytes
    }

    /// Sends a packet that is longer than the link carries in parts or in fragments, or tells its sender.
    fn too_long(&mut self, packet: &[u8], checksum: Checksum) {
        if let Some(part_len) = self.tunnel.part_len(packet.len()) {
            return match self.parts(packet, part_len, checksum) {
                Ok(()) => {
                    self.counters.network_tx.add(packet.len());
                    self.counters.split += 1;
                }
                Err(cause) => self.counters.drop_one(cause),
            };
        }
        let (kind, now) = (self.clamp.kind, self.now);
        let room = Room { mtu: MAX_PACKET_LEN, packet: self.tunnel.max_packet().unwrap_or_default() };
        let is_cut = fragment(kind, packet, room, &mut |part| match self.packet(part, Checksum::Unknown) {
            Ok(()) => self.counters.network_tx.add(part.len()),
            Err(cause) => self.counters.drop_one(cause),
        });
        if is_cut {
            self.counters.fragmented += 1;
            return;
        }
        self.counters.drop_one(Drop::TooLong);
        self.counters.answered_too_long += u64::from(self.answers.answer(kind, packet, room, now));
    }

    /// Seals a packet in parts, which the other end puts together.
    ///
    /// # Errors
    /// Why it is dropped; without all of its parts it is worth nothing.
    fn parts(&mut self, packet: &[u8], part_len: usize, checksum: Checksum) -> Result<(), Drop> {
        let Self { transport, tunnel, now, .. } = self;
        let total = u16::try_from(packet.len()).map_err(|_| Drop::TooLong)?;
        let (number, mut offset) = (tunnel.number_packet(), 0);
        for bytes in packet.chunks(part_len) {
            let part = Part { packet: number, offset, total, bytes };
            let len = tunnel.message_len(bytes.len() + PART_HEADER_LEN, *now).ok_or(Drop::TooLong)?;
            if !transport.send_with(len, *now, &mut |message| tunnel.seal_part(&part, checksum, message, *now)) {
                return Err(Drop::NotSent);
            }
            // The parts are not longer than the packet.
            offset += bytes.len() as u16;
        }
        Ok(())
    }

    /// Seals one packet into the transport's buffer.
    ///
    /// # Errors
    /// Why it is dropped.
    fn packet(&mut self, packet: &[u8], checksum: Checksum) -> Result<(), Drop> {
        let Self { transport, tunnel, now, .. } = self;
        let Some(len) = tunnel.message_len(packet.len(), *now) else {
            if tunnel.has_path() {
                return Err(Drop::TooLong);
            }
            transport.hurry();
            return Err(Drop::NoPeer);
        };
        let taken = transport.send_with(len, *now, &mut |message| tunnel.seal(packet, checksum, message, *now));
        if taken { Ok(()) } else { Err(Drop::NotSent) }
    }
}
