//! Joining the packets of a batch into super-packets, without copying them.
//!
//! Segments of a TCP connection that follow one another, and UDP datagrams of equal length, become one write to the
//! device: the first packet with its headers adjusted, then the payloads of the others. The order within a flow is
//! always kept: a packet joins only the newest group of its flow, and groups leave in the order in which they were
//! begun. A group ends with the batch; there is no timer.
//!
//! The device trusts the checksum of a super-packet, so the checksum of each packet is verified before it joins, unless
//! somebody trustworthy has made it.

use std::io::IoSlice;

use byteorder::{BigEndian, ByteOrder};

use super::checksum::Sum;
use super::headers::{
    FLAG_ACK, FLAG_PSH, IPV4_MIN_LEN, IPV6_LEN, IpVersion, PROTOCOL_TCP, PROTOCOL_UDP, TCP_CHECKSUM, TCP_MIN_LEN,
    UDP_CHECKSUM, UDP_LEN, find_ip, ipv4_header_len, pseudo_header, set_ipv4_length, tcp_header_len,
    untagged_ip_offset,
};
use super::{Capabilities, Checksum, Segmentation, VirtioHeader};
use crate::config::LinkLayer;

/// Packets in a batch.
pub const BATCH: usize = 128;

/// Packets in a group: what one write to the device takes comfortably, and `UDP_MAX_SEGMENTS` as it was at first.
pub const MAX_GROUP: usize = 64;

/// Length of a super-packet in bytes: the IP length field, less an Ethernet header.
const MAX_GROUP_LEN: usize = 65_535 - 18;

/// Headers that are saved so that a group can be taken apart again.
const MAX_HEADER_LEN: usize = 14 + 40 + 60;

/// What the device said to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was taken, or lost and counted.
    Done,
    /// The device does not take this super-packet: hand its packets out one by one.
    TakeApart,
}

/// What outlives a batch: the settings, and room that is used again.
#[derive(Debug)]
pub struct Merger {
    kind: LinkLayer,
    capabilities: Capabilities,
    /// The index of the packet that follows in the same group; its own index at the end.
    next: [u8; BATCH],
    checksums: [Checksum; BATCH],
    groups: Vec<Group>,
}

impl Merger {
    /// For a device that takes these kinds of super-packet.
    pub fn new(kind: LinkLayer, capabilities: Capabilities) -> Self {
        Self {
            kind,
            capabilities,
            next: [0; BATCH],
            checksums: [Checksum::Unknown; BATCH],
            groups: Vec::with_capacity(BATCH),
        }
    }

    /// Follows the device, which may have given up kinds of super-packet.
    pub fn restrict(&mut self, capabilities: Capabilities) {
        self.capabilities = capabilities;
    }
}

/// Packets on their way to the device.
pub struct Batch<'a, 'm> {
    merger: &'m mut Merger,
    packets: [&'a mut [u8]; BATCH],
    len: usize,
}

const _: () = assert!(BATCH <= u8::MAX as usize + 1);

/// Packets that become one write.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    first: u8,
    last: u8,
    count: u8,
    /// More packets may join.
    open: bool,
    /// The checksum of the first packet was verified.
    verified: bool,
    push: bool,
    /// Hash of the flow; equal for equal flows.
    flow: u64,
    /// Hash of the addresses alone.
    addresses: u64,
    shape: Option<Shape>,
    next_sequence: u32,
    len: usize,
}

/// Where the parts of a packet stand that may join others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    segmentation: Segmentation,
    version: IpVersion,
    ip: usize,
    transport: usize,
    payload: usize,
    payload_len: usize,
}

/// What a packet is, as far as merging cares.
enum Kind {
    /// It may join others.
    Mergeable { shape: Shape, flow: u64, addresses: u64 },
    /// It belongs to this flow but has to stay alone.
    Alone { flow: u64, addresses: u64 },
    /// It may belong to any flow between its addresses: a fragment, or one whose transport header is not at hand.
    Unsure { addresses: u64 },
    /// It is not IP.
    Other,
}

impl<'a, 'm> Batch<'a, 'm> {
    /// An empty batch.
    pub fn new(merger: &'m mut Merger) -> Self {
        merger.groups.clear();
        Self { merger, packets: std::array::from_fn(|_| Default::default()), len: 0 }
    }

    /// True if nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a packet.
    ///
    /// # Errors
    /// The batch is full: the packet is handed back, [`drain`](Self::drain) makes room.
    pub fn push(&mut self, packet: &'a mut [u8], checksum: Checksum) -> Result<(), &'a mut [u8]> {
        if self.len >= BATCH {
            return Err(packet);
        }
        let index = self.len;
        self.len += 1;
        self.merger.next[index] = index as u8;
        self.merger.checksums[index] = checksum;
        self.packets[index] = packet;
        if self.merger.capabilities == Capabilities::NONE {
            self.begin_group(index, Group::default());
            return Ok(());
        }
        match classify(self.merger.kind, self.merger.capabilities, self.packets[index]) {
            Kind::Mergeable { shape, flow, addresses } => self.join_or_begin(index, shape, flow, addresses),
            Kind::Alone { flow, addresses } => self.begin_group(index, Group { flow, addresses, ..Group::default() }),
            Kind::Unsure { addresses } => {
                for group in self.merger.groups.iter_mut().filter(|group| group.addresses == addresses) {
                    group.open = false;
                }
                self.begin_group(index, Group::default());
            }
            Kind::Other => self.begin_group(index, Group::default()),
        }
        Ok(())
    }

    /// Hands every group to `write`: the header, the parts of one write, and the number of packets in it. The batch is
    /// empty afterwards.
    pub fn drain(&mut self, write: &mut dyn FnMut(&VirtioHeader, &[IoSlice<'_>], usize) -> Written) {
        for index in 0..self.merger.groups.len() {
            let group = self.merger.groups[index];
            if group.count > 1
                && let Some(shape) = group.shape
            {
                self.write_merged(&group, &shape, write);
            } else {
                self.write_each(&group, write);
            }
        }
        self.len = 0;
        self.merger.groups.clear();
    }

    fn begin_group(&mut self, index: usize, group: Group) {
        self.merger.groups.push(Group { first: index as u8, last: index as u8, count: 1, ..group });
    }

    fn join_or_begin(&mut self, index: usize, shape: Shape, flow: u64, addresses: u64) {
        let newest = self.merger.groups.iter().rposition(|group| group.flow == flow);
        if let Some(at) = newest
            && self.joins(at, index, &shape)
        {
            let push = self.has_push(index, &shape);
            let group = &mut self.merger.groups[at];
            self.merger.next[usize::from(group.last)] = index as u8;
            group.last = index as u8;
            group.count += 1;
            group.len += shape.payload_len;
            group.next_sequence = group.next_sequence.wrapping_add(shape.payload_len as u32);
            group.push |= push;
            let full = group.shape.is_some_and(|first| shape.payload_len < first.payload_len);
            group.open = !push && !full && usize::from(group.count) < MAX_GROUP;
            return;
        }
        let sequence = match shape.segmentation {
            Segmentation::Udp => 0,
            _ => BigEndian::read_u32(&self.packets[index][shape.transport + 4..]),
        };
        let group = Group {
            open: !self.has_push(index, &shape),
            flow,
            addresses,
            shape: Some(shape),
            next_sequence: sequence.wrapping_add(shape.payload_len as u32),
            len: self.packets[index].len(),
            ..Group::default()
        };
        self.begin_group(index, group);
    }

    fn has_push(&self, index: usize, shape: &Shape) -> bool {
        shape.segmentation != Segmentation::Udp && self.packets[index][shape.transport + 13] & FLAG_PSH != 0
    }

    /// True if the packet continues the group and its checksum, like that of the first, is right.
    fn joins(&mut self, at: usize, index: usize, shape: &Shape) -> bool {
        let group = &self.merger.groups[at];
        let Some(first) = group.shape.filter(|_| group.open) else { return false };
        let same_layout = Shape { payload_len: 0, ..*shape } == Shape { payload_len: 0, ..first };
        if !same_layout
            || shape.payload_len > first.payload_len
            || group.len + shape.payload_len > MAX_GROUP_LEN
            || !same_headers(self.packets[usize::from(group.first)], self.packets[index], &first, group)
        {
            return false;
        }
        if !group.verified {
            if !self.is_intact(usize::from(group.first), &first) {
                self.merger.groups[at].open = false;
                return false;
            }
            self.merger.groups[at].verified = true;
        }
        self.is_intact(index, shape)
    }

    /// True if the transport checksum of this packet is right.
    fn is_intact(&self, index: usize, shape: &Shape) -> bool {
        self.merger.checksums[index] == Checksum::Made || is_intact(self.packets[index], shape)
    }

    /// One write for the group; if the device refuses it, its packets one by one with their own headers.
    fn write_merged(
        &mut self,
        group: &Group,
        shape: &Shape,
        write: &mut dyn FnMut(&VirtioHeader, &[IoSlice<'_>], usize) -> Written,
    ) {
        let first = &mut *self.packets[usize::from(group.first)];
        let mut saved = [0; MAX_HEADER_LEN];
        let headers_len = shape.payload.min(MAX_HEADER_LEN);
        saved[..headers_len].copy_from_slice(&first[..headers_len]);
        let header = adjust_headers(first, shape, group);
        let mut parts = [IoSlice::new(&[]); MAX_GROUP];
        let mut index = group.first;
        let mut count = 0;
        for part in &mut parts {
            let packet = &*self.packets[usize::from(index)];
            *part = IoSlice::new(if count == 0 { packet } else { &packet[shape.payload..] });
            count += 1;
            if index == group.last {
                break;
            }
            index = self.merger.next[usize::from(index)];
        }
        if write(&header, &parts[..count], count) == Written::TakeApart {
            self.packets[usize::from(group.first)][..headers_len].copy_from_slice(&saved[..headers_len]);
            self.write_each(group, write);
        }
    }

    fn write_each(&mut self, group: &Group, write: &mut dyn FnMut(&VirtioHeader, &[IoSlice<'_>], usize) -> Written) {
        let mut index = group.first;
        loop {
            write(&VirtioHeader::default(), &[IoSlice::new(self.packets[usize::from(index)])], 1);
            if index == group.last {
                return;
            }
            index = self.merger.next[usize::from(index)];
        }
    }
}

/// Sorts a packet. Only what is certain to survive being cut again is mergeable.
fn classify(kind: LinkLayer, capabilities: Capabilities, packet: &[u8]) -> Kind {
    let Some((ip, version)) = find_ip(kind, packet) else { return Kind::Other };
    let tagged = ip != untagged_ip_offset(kind);
    let header = &packet[ip..];
    let (addresses, protocol, transport, total_len, whole) = match version {
        IpVersion::V4 => {
            let header_len = ipv4_header_len(header);
            // More-fragments flag or an offset.
            let fragment = BigEndian::read_u16(&header[6..8]) & 0x3fff != 0;
            let whole = !fragment && header_len >= IPV4_MIN_LEN;
            (&header[12..20], header[9], ip + header_len, usize::from(BigEndian::read_u16(&header[2..4])), whole)
        }
        IpVersion::V6 => {
            let total_len = IPV6_LEN + usize::from(BigEndian::read_u16(&header[4..6]));
            (&header[8..40], header[6], ip + IPV6_LEN, total_len, true)
        }
    };
    let addresses = hash(if tagged { u64::from(BigEndian::read_u16(&packet[ip - 4..])) } else { 0 }, addresses);
    let (min_len, is_tcp) = match protocol {
        PROTOCOL_TCP => (TCP_MIN_LEN, true),
        PROTOCOL_UDP => (UDP_LEN, false),
        _ => return Kind::Unsure { addresses },
    };
    let Some(transport_header) = packet.get(transport..transport + min_len).filter(|_| whole) else {
        return Kind::Unsure { addresses };
    };
    let flow = hash(addresses ^ u64::from(protocol), &transport_header[..4]);
    let alone = Kind::Alone { flow, addresses };
    let plain_ip = match version {
        IpVersion::V4 => transport == ip + IPV4_MIN_LEN && Sum::of(&packet[ip..transport]).finish() == 0,
        IpVersion::V6 => true,
    };
    if tagged || !plain_ip || total_len != packet.len() - ip {
        return alone;
    }
    let (segmentation, payload) = if is_tcp {
        let header_len = tcp_header_len(transport_header);
        if header_len < TCP_MIN_LEN || transport_header[13] & !FLAG_PSH != FLAG_ACK || transport_header[12] & 0x0f != 0
        {
            return alone;
        }
        let segmentation = if version == IpVersion::V4 { Segmentation::TcpV4 } else { Segmentation::TcpV6 };
        (segmentation, transport + header_len)
    } else {
        let len = usize::from(BigEndian::read_u16(&transport_header[4..6]));
        let has_checksum = BigEndian::read_u16(&transport_header[6..8]) != 0;
        if len != packet.len() - transport || !has_checksum {
            return alone;
        }
        (Segmentation::Udp, transport + UDP_LEN)
    };
    if payload >= packet.len() || !capabilities.allows(segmentation) {
        return alone;
    }
    let payload_len = packet.len() - payload;
    Kind::Mergeable { shape: Shape { segmentation, version, ip, transport, payload, payload_len }, flow, addresses }
}

/// True if the headers differ only where segments of one super-packet do, and the sequence goes on.
fn same_headers(first: &[u8], packet: &[u8], shape: &Shape, group: &Group) -> bool {
    let same = |from: usize, to: usize| first[from..to] == packet[from..to];
    let Shape { ip, transport, payload, .. } = *shape;
    let same_ip = match shape.version {
        IpVersion::V4 => {
            let id = |packet: &[u8]| BigEndian::read_u16(&packet[ip + 4..ip + 6]);
            let follows = id(packet) == id(first).wrapping_add(u16::from(group.count));
            // Without fragmentation the identification means nothing (RFC 6864), and many senders leave it constant.
            let atomic = packet[ip + 6] & 0x40 != 0 && id(packet) == id(first);
            same(ip, ip + 2) && same(ip + 6, ip + 10) && same(ip + 12, ip + 20) && (follows || atomic)
        }
        IpVersion::V6 => same(ip, ip + 4) && same(ip + 6, ip + IPV6_LEN),
    };
    let same_transport = match shape.segmentation {
        Segmentation::Udp => same(transport, transport + 4),
        Segmentation::TcpV4 | Segmentation::TcpV6 => {
            let flags = |packet: &[u8]| packet[transport + 13] & !FLAG_PSH;
            same(transport, transport + 4)
                && BigEndian::read_u32(&packet[transport + 4..transport + 8]) == group.next_sequence
                && same(transport + 8, transport + 13)
                && flags(first) == flags(packet)
                && same(transport + 14, transport + 16)
                && same(transport + 18, payload)
        }
    };
    same(0, ip) && same_ip && same_transport
}

/// True if the transport checksum is right.
fn is_intact(packet: &[u8], shape: &Shape) -> bool {
    let transport_len = (packet.len() - shape.transport) as u16;
    let protocol = if shape.segmentation == Segmentation::Udp { PROTOCOL_UDP } else { PROTOCOL_TCP };
    let pseudo = pseudo_header(&packet[shape.ip..], shape.version, protocol, transport_len);
    pseudo.plus(Sum::of(&packet[shape.transport..])).finish() == 0
}

/// Makes the headers of the first packet those of the super-packet, and says so to the device.
fn adjust_headers(first: &mut [u8], shape: &Shape, group: &Group) -> VirtioHeader {
    let ip_packet_len = (group.len - shape.ip) as u16;
    let transport_len = (group.len - shape.transport) as u16;
    match shape.version {
        IpVersion::V4 => set_ipv4_length(&mut first[shape.ip..], ip_packet_len),
        IpVersion::V6 => {
            BigEndian::write_u16(&mut first[shape.ip + 4..shape.ip + 6], ip_packet_len - IPV6_LEN as u16);
        }
    }
    let (protocol, checksum_offset) = match shape.segmentation {
        Segmentation::Udp => {
            BigEndian::write_u16(&mut first[shape.transport + 4..shape.transport + 6], transport_len);
            (PROTOCOL_UDP, UDP_CHECKSUM)
        }
        Segmentation::TcpV4 | Segmentation::TcpV6 => {
            if group.push {
                first[shape.transport + 13] |= FLAG_PSH;
            }
            (PROTOCOL_TCP, TCP_CHECKSUM)
        }
    };
    let partial = pseudo_header(&first[shape.ip..], shape.version, protocol, transport_len).fold();
    let at = shape.transport + checksum_offset;
    BigEndian::write_u16(&mut first[at..at + 2], partial);
    VirtioHeader {
        needs_checksum: true,
        segmentation: Some(shape.segmentation),
        ecn: false,
        header_len: shape.payload as u16,
        segment_len: shape.payload_len as u16,
        checksum_start: shape.transport as u16,
        checksum_offset: checksum_offset as u16,
    }
}

/// A quick hash. Flows that collide are merely not merged: their headers are compared before a packet joins.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u32| (hash ^ u64::from(word)).wrapping_mul(FACTOR).rotate_left(29);
    // Never zero, which is what packets without a flow have.
    bytes.chunks_exact(4).fold(seed.wrapping_add(FACTOR), |hash, word| mix(hash, BigEndian::read_u32(word))) | 1
}
