//! Packets and super-packets made by hand, every field as wanted.

use etherparse::checksum::Sum16BitWords;
use simpletun::config::LinkLayer;
use simpletun::offload::{Segmentation, VirtioHeader};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

const ETHERNET_LEN: usize = 14;
pub const MAC_SOURCE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
pub const MAC_TARGET: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A packet, by its fields. Lengths and checksums follow from them.
#[derive(Clone, Debug)]
pub struct Forged {
    pub link: LinkLayer,
    pub version: Version,
    pub protocol: Protocol,
    pub vlan: Option<u16>,
    /// Last byte of the addresses.
    pub host: u8,
    pub ports: [u16; 2],
    pub tos: u8,
    pub ttl: u8,
    pub flow_label: u16,
    pub id: u16,
    /// The 16 bits of IPv4's flags and fragment offset.
    pub fragment: u16,
    /// A multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// IPv6 destination options in front of the transport header.
    pub extension: bool,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
    /// The reserved bits of TCP, in the low half of a byte.
    pub reserved: u8,
    pub window: u16,
    pub urgent: u16,
    /// A multiple of four bytes.
    pub tcp_options: Vec<u8>,
    pub payload: Vec<u8>,
}

pub const DONT_FRAGMENT: u16 = 0x4000;
pub const MORE_FRAGMENTS: u16 = 0x2000;

impl Forged {
    pub fn new(link: LinkLayer, version: Version, protocol: Protocol, payload: Vec<u8>) -> Self {
        Self {
            link,
            version,
            protocol,
            vlan: None,
            host: 1,
            ports: [40_000, 5_001],
            tos: 0,
            ttl: 64,
            flow_label: 0x1234,
            id: 100,
            fragment: DONT_FRAGMENT,
            ip_options: Vec::new(),
            extension: false,
            sequence: 1_000_000,
            acknowledgement: 77,
            flags: ACK,
            reserved: 0,
            window: 512,
            urgent: 0,
            tcp_options: Vec::new(),
            payload,
        }
    }

    /// Where the IP header begins.
    pub fn ip(&self) -> usize {
        match self.link {
            LinkLayer::Tun => 0,
            LinkLayer::Tap => ETHERNET_LEN + if self.vlan.is_some() { 4 } else { 0 },
        }
    }

    /// Where the transport header begins.
    pub fn transport(&self) -> usize {
        self.ip()
            + match self.version {
                Version::V4 => 20 + self.ip_options.len(),
                Version::V6 => 40 + if self.extension { 8 } else { 0 },
            }
    }

    /// Where the payload begins.
    pub fn data(&self) -> usize {
        self.transport()
            + match self.protocol {
                Protocol::Tcp => 20 + self.tcp_options.len(),
                Protocol::Udp => 8,
            }
    }

    /// The packet with complete checksums.
    pub fn packet(&self) -> Vec<u8> {
        let mut packet = self.with_pseudo_header();
        let transport = self.transport();
        let at = transport + self.checksum_offset();
        let sum = Sum16BitWords::new().add_slice(&packet[transport..]).ones_complement().to_be();
        let value = if sum == 0 && self.protocol == Protocol::Udp { 0xffff } else { sum };
        packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
        packet
    }

    /// The packet as one to be cut into segments with `segment_len` bytes of payload.
    pub fn super_packet(&self, segment_len: u16) -> (VirtioHeader, Vec<u8>) {
        let header = VirtioHeader {
            needs_checksum: true,
            segmentation: Some(match (self.protocol, self.version) {
                (Protocol::Tcp, Version::V4) => Segmentation::TcpV4,
                (Protocol::Tcp, Version::V6) => Segmentation::TcpV6,
                (Protocol::Udp, _) => Segmentation::Udp,
            }),
            ecn: self.protocol == Protocol::Tcp && self.flags & CWR != 0,
            header_len: self.data() as u16,
            segment_len,
            checksum_start: self.transport() as u16,
            checksum_offset: self.checksum_offset() as u16,
        };
        (header, self.with_pseudo_header())
    }

    /// Checksum only: no segmentation.
    pub fn unfinished_packet(&self) -> (VirtioHeader, Vec<u8>) {
        let (header, packet) = self.super_packet(0);
        (VirtioHeader { segmentation: None, ecn: false, header_len: 0, ..header }, packet)
    }

    fn checksum_offset(&self) -> usize {
        match self.protocol {
            Protocol::Tcp => 16,
            Protocol::Udp => 6,
        }
    }

    /// All of it, with the pseudo-header's sum where the transport checksum belongs.
    fn with_pseudo_header(&self) -> Vec<u8> {
        let mut packet = Vec::with_capacity(self.data() + self.payload.len());
        if self.link == LinkLayer::Tap {
            packet.extend(MAC_TARGET);
            packet.extend(MAC_SOURCE);
            if let Some(tag) = self.vlan {
                packet.extend([0x81, 0x00]);
                packet.extend(tag.to_be_bytes());
            }
            packet.extend(match self.version {
                Version::V4 => [0x08, 0x00],
                Version::V6 => [0x86, 0xdd],
            });
        }
        let transport_len = self.data() - self.transport() + self.payload.len();
        let protocol = match self.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        let addresses = self.ip_header(&mut packet, protocol, transport_len);
        let at = packet.len() + self.checksum_offset();
        self.transport_header(&mut packet, transport_len as u16);
        let pseudo = addresses.add_2bytes([0, protocol]).add_4bytes((transport_len as u32).to_be_bytes());
        let pseudo = !pseudo.ones_complement().to_be();
        packet[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        packet.extend(&self.payload);
        packet
    }

    /// Appends the IP header; the sum of its addresses.
    fn ip_header(&self, packet: &mut Vec<u8>, protocol: u8, transport_len: usize) -> Sum16BitWords {
        let start = packet.len();
        match self.version {
            Version::V4 => {
                let header_len = 20 + self.ip_options.len();
                packet.extend([0x40 | (header_len / 4) as u8, self.tos]);
                packet.extend(((header_len + transport_len) as u16).to_be_bytes());
                packet.extend(self.id.to_be_bytes());
                packet.extend(self.fragment.to_be_bytes());
                packet.extend([self.ttl, protocol, 0, 0]);
                packet.extend([10, 9, 0, self.host, 10, 9, 1, self.host]);
                packet.extend(&self.ip_options);
                let sum = Sum16BitWords::new().add_slice(&packet[start..]).ones_complement().to_be();
                packet[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
                Sum16BitWords::new().add_slice(&packet[start + 12..start + 20])
            }
            Version::V6 => {
                let extension_len = if self.extension { 8 } else { 0 };
                packet.extend([0x60 | self.tos >> 4, self.tos << 4]);
                packet.extend(self.flow_label.to_be_bytes());
                packet.extend(((extension_len + transport_len) as u16).to_be_bytes());
                packet.extend([if self.extension { 60 } else { protocol }, self.ttl]);
                for side in [0xa, 0xb] {
                    packet.extend([0xfd, 0x09, 0, side, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, self.host]);
                }
                if self.extension {
                    // Padding of four bytes behind its type and length (PadN).
                    packet.extend([protocol, 0, 1, 4, 0, 0, 0, 0]);
                }
                Sum16BitWords::new().add_slice(&packet[start + 8..start + 40])
            }
        }
    }

    fn transport_header(&self, packet: &mut Vec<u8>, transport_len: u16) {
        packet.extend(self.ports.iter().flat_map(|port| port.to_be_bytes()));
        match self.protocol {
            Protocol::Tcp => {
                packet.extend(self.sequence.to_be_bytes());
                packet.extend(self.acknowledgement.to_be_bytes());
                let words = (20 + self.tcp_options.len()) / 4;
                packet.extend([(words as u8) << 4 | self.reserved, self.flags]);
                packet.extend(self.window.to_be_bytes());
                packet.extend([0, 0]);
                packet.extend(self.urgent.to_be_bytes());
                packet.extend(&self.tcp_options);
            }
            Protocol::Udp => {
                packet.extend(transport_len.to_be_bytes());
                packet.extend([0, 0]);
            }
        }
    }
}

/// No-operations, a timestamp of eight bytes: what Linux puts on every segment.
pub fn timestamps(value: u32) -> Vec<u8> {
    let mut options = vec![1, 1, 8, 10];
    options.extend(value.to_be_bytes());
    options.extend(7u32.to_be_bytes());
    options
}
