//! Segmentation offload: a super-packet of up to 64 KiB crosses the device with one system call and is cut into the
//! packets that it stands for, or put together from them, here.
//!
//! Pure: bytes in, bytes out. [`split`] cuts what the device hands out, [`merge`] joins what the device is given,
//! [`checksum`] is what both need. [`VirtioHeader`] is the header that stands in front of every packet of a device with
//! `IFF_VNET_HDR`. What does not fit the link is the business of [`mss`], which keeps the connections inside to segments
//! that do, of [`fragment`], and of [`too_big`], which tells the sender.

use std::fmt;

use byteorder::{ByteOrder, LittleEndian};

pub mod checksum;
pub mod fragment;
pub(crate) mod headers;
pub mod merge;
pub mod mss;
pub mod split;
pub mod too_big;

/// Length of `struct virtio_net_hdr` (virtio 1.2, 5.1.6; `include/uapi/linux/virtio_net.h`) in bytes.
pub const VIRTIO_HEADER_LEN: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const FLAG_NEEDS_CHECKSUM: u8 = 1;

/// `VIRTIO_NET_HDR_GSO_*`.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`: the first segment has the CWR flag.
const GSO_ECN: u8 = 0x80;

/// What is known about the transport checksum of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing.
    #[default]
    Unknown,
    /// It is right: it was made for data that was intact.
    Made,
}

/// What a super-packet is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segmentation {
    /// TCP segments in IPv4.
    TcpV4,
    /// TCP segments in IPv6.
    TcpV6,
    /// UDP datagrams of equal length in either.
    Udp,
}

/// The kinds of super-packet that a device takes and gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// TCP over IPv4.
    pub tcp_v4: bool,
    /// TCP over IPv6.
    pub tcp_v6: bool,
    /// UDP over both.
    pub udp: bool,
}

impl Capabilities {
    /// Nothing is merged.
    pub const NONE: Self = Self { tcp_v4: false, tcp_v6: false, udp: false };

    /// Takes a kind away; false if it was not there.
    pub fn remove(&mut self, segmentation: Segmentation) -> bool {
        std::mem::take(match segmentation {
            Segmentation::TcpV4 => &mut self.tcp_v4,
            Segmentation::TcpV6 => &mut self.tcp_v6,
            Segmentation::Udp => &mut self.udp,
        })
    }

    /// True if this kind is among them.
    pub fn allows(self, segmentation: Segmentation) -> bool {
        match segmentation {
            Segmentation::TcpV4 => self.tcp_v4,
            Segmentation::TcpV6 => self.tcp_v6,
            Segmentation::Udp => self.udp,
        }
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [(self.tcp_v4, "tcp4"), (self.tcp_v6, "tcp6"), (self.udp, "udp")];
        let on: Vec<&str> = kinds.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        formatter.write_str(if on.is_empty() { "off".to_owned() } else { on.join(" ") }.as_str())
    }
}

/// The header in front of a packet, with its fields checked one by one; what they say about the packet is checked
/// against the packet by [`split`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// The checksum at `checksum_start + checksum_offset` covers the pseudo-header only and is to be completed.
    pub needs_checksum: bool,
    /// What kind of super-packet it is, if it is one.
    pub segmentation: Option<Segmentation>,
    /// The first segment has the CWR flag (RFC 3168).
    pub ecn: bool,
    /// Length of all headers in bytes. The kernel's value is a hint and wrong for forwarded packets.
    pub header_len: u16,
    /// Payload of each segment but the last in bytes.
    pub segment_len: u16,
    /// Where the checksum begins: the offset of the transport header.
    pub checksum_start: u16,
    /// Where it stands, counted from there.
    pub checksum_offset: u16,
}

/// A virtio header that means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Unknown kind of super-packet {0}")]
pub struct UnknownSegmentation(u8);

impl VirtioHeader {
    /// Reads the header.
    ///
    /// # Errors
    /// The kind of super-packet is none that this program asks the kernel for.
    pub fn parse(bytes: &[u8; VIRTIO_HEADER_LEN]) -> Result<Self, UnknownSegmentation> {
        let [flags, kind, ..] = *bytes;
        let segmentation = match kind & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 => Some(Segmentation::TcpV4),
            GSO_TCPV6 => Some(Segmentation::TcpV6),
            GSO_UDP_L4 => Some(Segmentation::Udp),
            _ => return Err(UnknownSegmentation(kind)),
        };
        Ok(Self {
            needs_checksum: flags & FLAG_NEEDS_CHECKSUM != 0,
            segmentation,
            ecn: kind & GSO_ECN != 0,
            header_len: LittleEndian::read_u16(&bytes[2..4]),
            segment_len: LittleEndian::read_u16(&bytes[4..6]),
            checksum_start: LittleEndian::read_u16(&bytes[6..8]),
            checksum_offset: LittleEndian::read_u16(&bytes[8..10]),
        })
    }

    /// Writes the header.
    pub fn to_bytes(self) -> [u8; VIRTIO_HEADER_LEN] {
        let mut bytes = [0; VIRTIO_HEADER_LEN];
        bytes[0] = if self.needs_checksum { FLAG_NEEDS_CHECKSUM } else { 0 };
        let kind = match self.segmentation {
            None => GSO_NONE,
            Some(Segmentation::TcpV4) => GSO_TCPV4,
            Some(Segmentation::TcpV6) => GSO_TCPV6,
            Some(Segmentation::Udp) => GSO_UDP_L4,
        };
        bytes[1] = kind | if self.ecn { GSO_ECN } else { 0 };
        LittleEndian::write_u16(&mut bytes[2..4], self.header_len);
        LittleEndian::write_u16(&mut bytes[4..6], self.segment_len);
        LittleEndian::write_u16(&mut bytes[6..8], self.checksum_start);
        LittleEndian::write_u16(&mut bytes[8..10], self.checksum_offset);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_kind_is_taken_away_once_and_the_others_stay() {
        let mut capabilities = Capabilities { tcp_v4: true, tcp_v6: true, udp: true };
        assert!(capabilities.remove(Segmentation::TcpV6));
        assert!(!capabilities.remove(Segmentation::TcpV6));
        assert_eq!(capabilities.to_string(), "tcp4 udp");
        assert!(capabilities.remove(Segmentation::TcpV4) && capabilities.remove(Segmentation::Udp));
        assert_eq!((capabilities, capabilities.to_string().as_str()), (Capabilities::NONE, "off"));
    }

    proptest! {
        #[test]
        fn a_header_is_read_as_it_was_written(bytes: [u8; VIRTIO_HEADER_LEN]) {
            let Ok(header) = VirtioHeader::parse(&bytes) else { return Ok(()) };
            prop_assert_eq!(VirtioHeader::parse(&header.to_bytes()), Ok(header));
            prop_assert_eq!(&header.to_bytes()[1..], &bytes[1..]);
        }
    }
}
