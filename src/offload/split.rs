//! Cutting a super-packet into the packets that it stands for, in place.
//!
//! Each segment is the saved headers, adjusted, in front of its part of the payload. They are written over the end of
//! the part before, which has been consumed by then, so nothing moves and every segment is contiguous.
//! What is written follows `tcp_gso_segment()` and `__udp_gso_segment()` of the kernel.

use byteorder::{BigEndian, ByteOrder};

use super::checksum::Sum;
use super::headers::{
    FLAG_CWR, FLAG_FIN, FLAG_PSH, IPV4_MIN_LEN, IPV6_LEN, IpVersion, TCP_CHECKSUM, TCP_MIN_LEN, UDP_CHECKSUM, UDP_LEN,
    find_ip, ipv4_header_len, tcp_header_len,
};
use super::{Checksum, Segmentation, VirtioHeader};
use crate::config::LinkLayer;

/// The longest headers of a super-packet in bytes: Ethernet with two tags, IPv6 with extension headers, TCP options.
const MAX_HEADER_LEN: usize = 256;

/// Segments of one super-packet at most: 64 KiB in the smallest segments that the kernel makes.
pub const MAX_SEGMENTS: usize = 2048;

/// Limits of a super-packet that crosses a link whole: the kernel refuses longer trains of UDP (`UDP_MAX_SEGMENTS` of
/// `include/linux/udp.h`), and no honest sender makes shorter segments.
const MIN_WHOLE_SEGMENT_LEN: u16 = 48;
const MAX_WHOLE_UDP_SEGMENTS: usize = 128;

/// Checks a super-packet that crosses a link whole, before it is sent and after it has come: the device at the far end
/// believes its header. Returns the header as the device wants it, with the length of the packet's own headers.
///
/// # Errors
/// It is no super-packet, or none that every receiver takes.
pub fn check_whole(header: &VirtioHeader, packet: &[u8], kind: LinkLayer) -> Result<VirtioHeader, SplitError> {
    let segmentation = header.segmentation.ok_or(SplitError::Malformed)?;
    let cut = Cut::new(header, segmentation, packet, kind)?;
    let count = (packet.len() - cut.headers_len).div_ceil(cut.segment_len);
    let max_count = if segmentation == Segmentation::Udp { MAX_WHOLE_UDP_SEGMENTS } else { MAX_SEGMENTS };
    if header.segment_len < MIN_WHOLE_SEGMENT_LEN || count < 2 {
        return Err(SplitError::Malformed);
    }
    if count > max_count {
        return Err(SplitError::TooMany);
    }
    let header_len = u16::try_from(cut.headers_len).map_err(|_| SplitError::Malformed)?;
    Ok(VirtioHeader { header_len, ..*header })
}

/// A super-packet whose header does not fit its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// The checksum's place is outside the packet.
    #[error("The checksum of a packet lies outside it")]
    Checksum,
    /// It is a super-packet without the parts that one has.
    #[error("A super-packet lacks a checksum to complete, a segment length or its headers")]
    Malformed,
    /// The number of segments is above [`MAX_SEGMENTS`].
    #[error("A super-packet has too many segments")]
    TooMany,
}

/// The packets of one read from the device, to be taken one by one.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a mut [u8],
    plan: Plan,
    next: usize,
    count: usize,
}

#[derive(Debug)]
enum Plan {
    Whole(Checksum),
    Cut(Box<Cut>),
}

/// What every segment needs.
#[derive(Debug)]
struct Cut {
    headers: [u8; MAX_HEADER_LEN],
    headers_len: usize,
    ip: usize,
    version: IpVersion,
    transport: usize,
    is_tcp: bool,
    segment_len: usize,
    /// The sum of the pseudo-header without the length.
    pseudo: Sum,
    /// The sum of an IPv4 header without length, identification and checksum.
    ipv4: Sum,
}

impl<'a> Segments<'a> {
    /// A packet that needs nothing done.
    pub fn whole(packet: &'a mut [u8]) -> Self {
        Self { packet, plan: Plan::Whole(Checksum::Unknown), next: 0, count: 1 }
    }

    /// The packets of `packet` as `header` describes it: one with its checksum completed, or the segments.
    ///
    /// # Errors
    /// The header does not fit the packet; nothing of it can be used.
    pub fn new(header: &VirtioHeader, packet: &'a mut [u8], kind: LinkLayer) -> Result<Self, SplitError> {
        let Some(segmentation) = header.segmentation else {
            if !header.needs_checksum {
                return Ok(Self::whole(packet));
            }
            complete_checksum(header, packet)?;
            return Ok(Self { packet, plan: Plan::Whole(Checksum::Made), next: 0, count: 1 });
        };
        let cut = Cut::new(header, segmentation, packet, kind)?;
        let payload_len = packet.len() - cut.headers_len;
        let count = payload_len.div_ceil(cut.segment_len).max(1);
        if count > MAX_SEGMENTS {
            return Err(SplitError::TooMany);
        }
        Ok(Self { packet, plan: Plan::Cut(Box::new(cut)), next: 0, count })
    }

    /// How many packets there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What is known about the transport checksums: those that are made here, for data that the kernel vouches for, are
    /// right.
    pub fn checksum(&self) -> Checksum {
        match &self.plan {
            Plan::Whole(checksum) => *checksum,
            Plan::Cut(_) => Checksum::Made,
        }
    }

    /// The next packet.
    pub fn next_packet(&mut self) -> Option<&mut [u8]> {
        if self.next >= self.count {
            return None;
        }
        let index = self.next;
        self.next += 1;
        match &self.plan {
            Plan::Whole(_) => Some(self.packet),
            Plan::Cut(cut) => {
                let start = index * cut.segment_len;
                let end = self.packet.len().min(start + cut.headers_len + cut.segment_len);
                let segment = self.packet.get_mut(start..end)?;
                cut.finish(segment, index, self.count);
                Some(segment)
            }
        }
    }
}

impl Cut {
    fn new(
        header: &VirtioHeader,
        segmentation: Segmentation,
        packet: &[u8],
        kind: LinkLayer,
    ) -> Result<Self, SplitError> {
        let (ip, version) = find_ip(kind, packet).ok_or(SplitError::Malformed)?;
        let transport = usize::from(header.checksum_start);
        let is_tcp = segmentation != Segmentation::Udp;
        let (min_len, checksum) = if is_tcp { (TCP_MIN_LEN, TCP_CHECKSUM) } else { (UDP_LEN, UDP_CHECKSUM) };
        let right_version = match segmentation {
            Segmentation::TcpV4 => version == IpVersion::V4,
            Segmentation::TcpV6 => version == IpVersion::V6,
            Segmentation::Udp => true,
        };
        let follows = match version {
            IpVersion::V4 => {
                let header_len = ipv4_header_len(&packet[ip..]);
                header_len >= IPV4_MIN_LEN && transport == ip + header_len
            }
            // Extension headers may stand between.
            IpVersion::V6 => transport >= ip + IPV6_LEN,
        };
        let fits = follows && packet.len() >= transport + min_len;
        let complete = header.needs_checksum && usize::from(header.checksum_offset) == checksum;
        if !(right_version && fits && complete && header.segment_len > 0) {
            return Err(SplitError::Malformed);
        }
        // Not from `header_len`, which the kernel leaves at what it happened to have in one piece for forwarded packets.
        let transport_len = if is_tcp { tcp_header_len(&packet[transport..]) } else { UDP_LEN };
        let headers_len = transport + transport_len;
        if transport_len < min_len || headers_len > packet.len() || headers_len > MAX_HEADER_LEN {
            return Err(SplitError::Malformed);
        }
        let mut headers = [0; MAX_HEADER_LEN];
        headers[..headers_len].copy_from_slice(&packet[..headers_len]);
        let partial = BigEndian::read_u16(&packet[transport + checksum..transport + checksum + 2]);
        // The field holds the pseudo-header's sum with the length of the whole; so it is right behind extension headers
        // too, where the addresses in the IP header need not be the final ones.
        let pseudo = Sum::of_number(partial).minus_number((packet.len() - transport) as u16);
        let ipv4 = match version {
            IpVersion::V4 => {
                let header = &headers[ip..transport];
                Sum::of(&header[..2]).plus(Sum::of(&header[6..10])).plus(Sum::of(&header[12..]))
            }
            IpVersion::V6 => Sum::default(),
        };
        Ok(Self {
            headers,
            headers_len,
            ip,
            version,
            transport,
            is_tcp,
            segment_len: usize::from(header.segment_len),
            pseudo,
            ipv4,
        })
    }

    /// Puts the headers in front of the payload that stands in `segment` and makes them those of this segment.
    fn finish(&self, segment: &mut [u8], index: usize, count: usize) {
        segment[..self.headers_len].copy_from_slice(&self.headers[..self.headers_len]);
        let ip_packet_len = segment.len() - self.ip;
        let ip = &mut segment[self.ip..];
        match self.version {
            IpVersion::V4 => {
                let (len, id) = (ip_packet_len as u16, BigEndian::read_u16(&ip[4..6]).wrapping_add(index as u16));
                BigEndian::write_u16(&mut ip[2..4], len);
                BigEndian::write_u16(&mut ip[4..6], id);
                let sum = self.ipv4.plus(Sum::of_number(len)).plus(Sum::of_number(id));
                BigEndian::write_u16(&mut ip[10..12], sum.finish());
            }
            IpVersion::V6 => BigEndian::write_u16(&mut ip[4..6], (ip_packet_len - IPV6_LEN) as u16),
        }
        let transport = &mut segment[self.transport..];
        let transport_len = transport.len() as u16;
        let checksum = if self.is_tcp {
            let sequence = BigEndian::read_u32(&transport[4..8]).wrapping_add((index * self.segment_len) as u32);
            BigEndian::write_u32(&mut transport[4..8], sequence);
            if index + 1 < count {
                transport[13] &= !(FLAG_FIN | FLAG_PSH);
            }
            if index > 0 {
                transport[13] &= !FLAG_CWR;
            }
            TCP_CHECKSUM
        } else {
            BigEndian::write_u16(&mut transport[4..6], transport_len);
            UDP_CHECKSUM
        };
        BigEndian::write_u16(&mut transport[checksum..checksum + 2], 0);
        let sum = self.pseudo.plus(Sum::of_number(transport_len)).plus(Sum::of(transport));
        let value = if self.is_tcp { sum.finish() } else { never_zero(sum) };
        BigEndian::write_u16(&mut transport[checksum..checksum + 2], value);
    }
}

/// Completes the checksum of an ordinary packet, as `skb_checksum_help()` does: the sum from the transport header on,
/// in which the field itself holds the pseudo-header's.
fn complete_checksum(header: &VirtioHeader, packet: &mut [u8]) -> Result<(), SplitError> {
    let start = usize::from(header.checksum_start);
    let at = start + usize::from(header.checksum_offset);
    if start >= packet.len() || at + 2 > packet.len() {
        return Err(SplitError::Checksum);
    }
    // As `skb_checksum_help()` of the kernel does it, for every protocol.
    let value = never_zero(Sum::of(&packet[start..]));
    BigEndian::write_u16(&mut packet[at..at + 2], value);
    Ok(())
}

/// A computed zero is sent as all ones, which is the same number: over UDP zero means "no checksum" (RFC 768).
fn never_zero(sum: Sum) -> u16 {
    match sum.finish() {
        0 => 0xffff,
        value => value,
    }
}
