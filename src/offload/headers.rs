//! Where the headers of a packet stand, and the fields that segments differ in. Lengths are checked once, when the
//! layout is made; the accessors take slices that are long enough by then.

use byteorder::{BigEndian, ByteOrder};

use super::checksum::Sum;
use crate::config::LinkLayer;

pub const IPV4_MIN_LEN: usize = 20;
pub const IPV6_LEN: usize = 40;
pub const TCP_MIN_LEN: usize = 20;
pub const UDP_LEN: usize = 8;

const ETHERNET_LEN: usize = 14;
const VLAN_TAG_LEN: usize = 4;
const MAX_VLAN_TAGS: usize = 2;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q and 802.1ad.
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

pub const PROTOCOL_TCP: u8 = 6;
pub const PROTOCOL_UDP: u8 = 17;

/// Offsets of the checksum in the transport headers.
pub const TCP_CHECKSUM: usize = 16;
pub const UDP_CHECKSUM: usize = 6;

pub const FLAG_FIN: u8 = 0x01;
pub const FLAG_PSH: u8 = 0x08;
pub const FLAG_ACK: u8 = 0x10;
pub const FLAG_CWR: u8 = 0x80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    V4,
    V6,
}

/// The offset and version of the IP header; `None` if the packet is not IP or too short for its header.
pub fn find_ip(kind: LinkLayer, packet: &[u8]) -> Option<(usize, IpVersion)> {
    let (offset, version) = match kind {
        LinkLayer::Tun => match packet.first()? >> 4 {
            4 => (0, IpVersion::V4),
            6 => (0, IpVersion::V6),
            _ => return None,
        },
        LinkLayer::Tap => find_in_frame(packet)?,
    };
    let header_len = match version {
        IpVersion::V4 => IPV4_MIN_LEN,
        IpVersion::V6 => IPV6_LEN,
    };
    let first = packet.get(offset..offset + header_len)?.first()? >> 4;
    let expected = match version {
        IpVersion::V4 => 4,
        IpVersion::V6 => 6,
    };
    (first == expected).then_some((offset, version))
}

fn find_in_frame(frame: &[u8]) -> Option<(usize, IpVersion)> {
    let mut offset = ETHERNET_LEN;
    for _ in 0..=MAX_VLAN_TAGS {
        match BigEndian::read_u16(frame.get(offset - 2..offset)?) {
            ETHERTYPE_IPV4 => return Some((offset, IpVersion::V4)),
            ETHERTYPE_IPV6 => return Some((offset, IpVersion::V6)),
            ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => offset += VLAN_TAG_LEN,
            _ => return None,
        }
    }
    None
}

/// The offset of the IP header of a frame without VLAN tag, or 0 for a packet.
pub fn untagged_ip_offset(kind: LinkLayer) -> usize {
    match kind {
        LinkLayer::Tun => 0,
        LinkLayer::Tap => ETHERNET_LEN,
    }
}

/// Length of an IPv4 header in bytes, as its own field says.
pub fn ipv4_header_len(ip: &[u8]) -> usize {
    usize::from(ip[0] & 0x0f) * 4
}

/// Length of a TCP header in bytes, as its own field says.
pub fn tcp_header_len(tcp: &[u8]) -> usize {
    usize::from(tcp[12] >> 4) * 4
}

/// Sets the length of an IPv4 packet and computes the header checksum anew.
pub fn set_ipv4_length(ip: &mut [u8], len: u16) {
    BigEndian::write_u16(&mut ip[2..4], len);
    let header_len = ipv4_header_len(ip).clamp(IPV4_MIN_LEN, ip.len());
    BigEndian::write_u16(&mut ip[10..12], 0);
    let checksum = Sum::of(&ip[..header_len]).finish();
    BigEndian::write_u16(&mut ip[10..12], checksum);
}

/// The sum of the pseudo-header (RFC 9293, RFC 768, RFC 8200) of a packet without extension headers.
pub fn pseudo_header(ip: &[u8], version: IpVersion, protocol: u8, transport_len: u16) -> Sum {
    let addresses = match version {
        IpVersion::V4 => &ip[12..20],
        IpVersion::V6 => &ip[8..40],
    };
    Sum::of(addresses).plus(Sum::of_number(u16::from(protocol))).plus(Sum::of_number(transport_len))
}
