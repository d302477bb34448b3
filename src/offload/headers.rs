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

/// Offsets of the checksum in the header of IPv4 and in the transport headers.
pub const IPV4_CHECKSUM: usize = 10;
pub const TCP_CHECKSUM: usize = 16;
pub const UDP_CHECKSUM: usize = 6;

pub const FLAG_FIN: u8 = 0x01;
pub const FLAG_SYN: u8 = 0x02;
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

/// What stands behind an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Its protocol, behind the extension headers of IPv6.
    pub protocol: u8,
    /// Where it begins, which may be behind the end of the packet.
    pub offset: usize,
    /// It is a fragment that does not begin with the protocol's header.
    pub is_later_fragment: bool,
}

/// Extension headers that are looked behind: more than any honest sender writes.
const MAX_EXTENSIONS: usize = 8;

const EXTENSION_HOP_BY_HOP: u8 = 0;
const EXTENSION_ROUTING: u8 = 43;
const EXTENSION_FRAGMENT: u8 = 44;
const EXTENSION_AUTHENTICATION: u8 = 51;
const EXTENSION_DESTINATION: u8 = 60;

/// What the IP header at `ip` is followed by; `None` if that cannot be told. [`find_ip`] has found it, so that the
/// header itself is whole.
pub fn find_payload(packet: &[u8], ip: usize, version: IpVersion) -> Option<Payload> {
    match version {
        IpVersion::V4 => {
            let header_len = ipv4_header_len(&packet[ip..]);
            let is_later_fragment = BigEndian::read_u16(&packet[ip + 6..ip + 8]) & 0x1fff != 0;
            let payload = Payload { protocol: packet[ip + 9], offset: ip + header_len, is_later_fragment };
            (header_len >= IPV4_MIN_LEN).then_some(payload)
        }
        IpVersion::V6 => behind_extensions(packet, packet[ip + 6], ip + IPV6_LEN),
    }
}

/// RFC 8200, section 4; RFC 4302, section 2.
fn behind_extensions(packet: &[u8], mut protocol: u8, mut offset: usize) -> Option<Payload> {
    for _ in 0..=MAX_EXTENSIONS {
        let len = match protocol {
            EXTENSION_HOP_BY_HOP | EXTENSION_ROUTING | EXTENSION_DESTINATION => {
                8 + 8 * usize::from(*packet.get(offset + 1)?)
            }
            EXTENSION_AUTHENTICATION => 8 + 4 * usize::from(*packet.get(offset + 1)?),
            EXTENSION_FRAGMENT => {
                if BigEndian::read_u16(packet.get(offset + 2..offset + 4)?) & 0xfff8 != 0 {
                    return Some(Payload { protocol: packet[offset], offset: offset + 8, is_later_fragment: true });
                }
                8
            }
            _ => return Some(Payload { protocol, offset, is_later_fragment: false }),
        };
        protocol = *packet.get(offset)?;
        offset += len;
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
    BigEndian::write_u16(&mut ip[IPV4_CHECKSUM..IPV4_CHECKSUM + 2], 0);
    let checksum = Sum::of(&ip[..header_len]).finish();
    BigEndian::write_u16(&mut ip[IPV4_CHECKSUM..IPV4_CHECKSUM + 2], checksum);
}

/// The sum of the pseudo-header (RFC 9293, RFC 768, RFC 8200) of a packet without extension headers.
pub fn pseudo_header(ip: &[u8], version: IpVersion, protocol: u8, transport_len: u16) -> Sum {
    let addresses = match version {
        IpVersion::V4 => &ip[12..20],
        IpVersion::V6 => &ip[8..40],
    };
    Sum::of(addresses).plus(Sum::of_number(u16::from(protocol))).plus(Sum::of_number(transport_len))
}
