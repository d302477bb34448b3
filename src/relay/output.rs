//! The device's side of the inbound pump, and the original's line for each packet.

use std::io::{self, IoSlice};
use std::time::Instant;

use log::debug;

use super::fit::Clamp;
use super::mirror::Mirror;
use crate::control::capture::Direction;
use crate::counters::{Counters, Drop};
use crate::device::{Device, WriteOutcome, WriteRefusal};
use crate::offload::merge::{Batch, Written};
use crate::offload::split::{self, Segments};
use crate::offload::{VIRTIO_HEADER_LEN, VirtioHeader};
use crate::tunnel::Opened;

/// The target of the lines that the original simpletun prints with `-d`.
pub const WIRE_LOG: &str = "wire";

/// Prints the original's line for each packet; its counters begin at 1 and never stop.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WireLog {
    to_network: u64,
    to_device: u64,
}

/// The device's side of the inbound pump.
pub(super) struct Output<'r> {
    pub(super) device: &'r mut Device,
    pub(super) counters: &'r mut Counters,
    pub(super) wire_log: &'r mut Option<WireLog>,
    pub(super) mirror: &'r mut Mirror,
    pub(super) clamp: Clamp,
    pub(super) now: Instant,
    /// The end of the device, if it has ended.
    pub(super) result: io::Result<()>,
}

impl Output<'_> {
    /// Takes what was in a message; a packet waits in the batch for others that it can be joined with.
    pub(super) fn deliver<'a>(&mut self, opened: Opened<'a>, batch: &mut Batch<'a, '_>) {
        match opened {
            Opened::Packet(packet, checksum) => {
                self.counters.network_rx.add(packet.len());
                self.clamp.apply(packet);
                self.show(packet);
                if let Err(packet) = batch.push(packet, checksum) {
                    self.take(batch);
                    // An empty batch takes every packet.
                    let _ = batch.push(packet, checksum);
                }
            }
            Opened::Super(bytes) => {
                // What came before it leaves before it.
                self.take(batch);
                self.write_super(bytes);
            }
            Opened::Joined(mut packet, _) => {
                self.take(batch);
                self.counters.network_rx.add(packet.len());
                self.counters.joined += 1;
                self.clamp.apply(&mut packet);
                self.show(&packet);
                self.write(&VirtioHeader::default(), &[IoSlice::new(&packet)], 1);
            }
            Opened::Nothing => {}
        }
    }

    /// Writes a super-packet that has crossed the link whole, or its packets if the device does not take it.
    fn write_super(&mut self, bytes: &mut [u8]) {
        self.counters.network_rx.add(bytes.len().saturating_sub(VIRTIO_HEADER_LEN));
        let kind = self.device.kind();
        let Some((header, packet)) = bytes.split_first_chunk_mut::<VIRTIO_HEADER_LEN>() else {
            return self.counters.drop_one(Drop::BadSuper);
        };
        let header = VirtioHeader::parse(header).ok();
        let Some(header) = header.and_then(|header| split::check_whole(&header, packet, kind).ok()) else {
            return self.counters.drop_one(Drop::BadSuper);
        };
        if self.mirror.is_watched() {
            self.mirror.super_packet(Direction::In, &header, packet, self.now);
        }
        let taken = header.segmentation.is_some_and(|kind| self.device.capabilities().allows(kind));
        if taken && self.write(&header, &[IoSlice::new(packet)], 1) == Written::Done {
            return;
        }
        let Ok(mut segments) = Segments::new(&header, packet, kind) else {
            return self.counters.drop_one(Drop::BadSuper);
        };
        while let Some(packet) = segments.next_packet() {
            self.write(&VirtioHeader::default(), &[IoSlice::new(packet)], 1);
        }
    }

    /// Writes an answer to what came from the device.
    pub(super) fn answer(&mut self, packet: &[u8]) {
        self.show(packet);
        self.write(&VirtioHeader::default(), &[IoSlice::new(packet)], 1);
    }

    /// Shows a packet for the device to who watches.
    fn show(&mut self, packet: &[u8]) {
        if self.mirror.is_watched() {
            self.mirror.packet(Direction::In, packet, self.now);
        }
    }

    /// Writes what has been collected.
    pub(super) fn take(&mut self, batch: &mut Batch<'_, '_>) {
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
    pub(super) fn outbound(&mut self, len: usize) {
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
