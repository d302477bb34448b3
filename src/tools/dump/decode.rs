//! A packet in one line of text. What cannot be understood is said to be malformed, as far as it goes.

use std::fmt::{self, Write};

use etherparse::{
    ArpOperation, Icmpv4Type, Icmpv6Type, LinkExtSlice, LinkSlice, NetSlice, SlicedPacket, TcpSlice, TransportSlice,
};

use crate::config::LinkLayer;

/// Ends, protocol and the few fields that one looks for first.
pub fn describe(kind: LinkLayer, packet: &[u8]) -> String {
    let parsed = match kind {
        LinkLayer::Tun => SlicedPacket::from_ip(packet),
        LinkLayer::Tap => SlicedPacket::from_ethernet(packet),
    };
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = match parsed {
        Ok(parsed) => write_packet(&mut text, &parsed),
        Err(error) => write!(text, "malformed: {error}"),
    };
    text
}

fn write_packet(out: &mut String, packet: &SlicedPacket<'_>) -> fmt::Result {
    if let Some(LinkSlice::Ethernet2(header)) = &packet.link {
        write!(out, "{} > {}, ", Mac(header.source()), Mac(header.destination()))?;
    }
    for extension in &packet.link_exts {
        match extension {
            LinkExtSlice::Vlan(tag) => write!(out, "VLAN {}, ", tag.vlan_identifier().value())?,
            LinkExtSlice::Macsec(_) => write!(out, "MACsec, ")?,
        }
    }
    match (&packet.net, &packet.transport) {
        (Some(NetSlice::Ipv4(ip)), transport) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr(), header.destination_addr());
            write!(out, "IP {} > {}: ", End(source, transport, true), End(destination, transport, false))?;
            match transport {
                Some(transport) => write_transport(out, transport),
                None if ip.is_payload_fragmented() => {
                    let (offset, id) = (header.fragments_offset().byte_offset(), header.identification());
                    let more = if header.more_fragments() { ", more follow" } else { "" };
                    write!(out, "fragment of {id} at {offset}{more}")
                }
                None => write!(out, "protocol {}", header.protocol().0),
            }
        }
        (Some(NetSlice::Ipv6(ip)), transport) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr(), header.destination_addr());
            write!(out, "IP6 {} > {}: ", End(source, transport, true), End(destination, transport, false))?;
            match transport {
                Some(transport) => write_transport(out, transport),
                None if ip.is_payload_fragmented() => write!(out, "fragment"),
                None => write!(out, "protocol {}", ip.payload().ip_number.0),
            }
        }
        (Some(NetSlice::Arp(arp)), _) => match arp.to_packet().try_eth_ipv4() {
            Ok(arp) => {
                let (sender, target) = (arp.sender_ipv4_addr(), arp.target_ipv4_addr());
                if arp.operation == ArpOperation::REQUEST {
                    write!(out, "ARP who has {target}? tell {sender}")
                } else {
                    write!(out, "ARP {sender} is at {}", Mac(arp.sender_mac))
                }
            }
            Err(_) => write!(out, "ARP of another kind of network"),
        },
        (None, _) => match packet.ether_payload() {
            Some(payload) => write!(out, "EtherType 0x{:04x}", payload.ether_type.0),
            None => write!(out, "no packet"),
        },
    }
}

fn write_transport(out: &mut String, transport: &TransportSlice<'_>) -> fmt::Result {
    match transport {
        TransportSlice::Tcp(tcp) => {
            write!(out, "TCP [{}] seq {}", Flags(tcp), tcp.sequence_number())?;
            if tcp.ack() {
                write!(out, " ack {}", tcp.acknowledgment_number())?;
            }
            write!(out, " window {}, {} bytes", tcp.window_size(), tcp.payload().len())
        }
        TransportSlice::Udp(udp) => write!(out, "UDP, {} bytes", udp.payload().len()),
        TransportSlice::Icmpv4(icmp) => match icmp.icmp_type() {
            Icmpv4Type::EchoRequest(echo) => write!(out, "ICMP echo request id {} seq {}", echo.id, echo.seq),
            Icmpv4Type::EchoReply(echo) => write!(out, "ICMP echo reply id {} seq {}", echo.id, echo.seq),
            _ => write!(out, "ICMP type {} code {}", icmp.type_u8(), icmp.code_u8()),
        },
        TransportSlice::Icmpv6(icmp) => match icmp.icmp_type() {
            Icmpv6Type::EchoRequest(echo) => write!(out, "ICMPv6 echo request id {} seq {}", echo.id, echo.seq),
            Icmpv6Type::EchoReply(echo) => write!(out, "ICMPv6 echo reply id {} seq {}", echo.id, echo.seq),
            _ => write!(out, "ICMPv6 type {} code {}", icmp.type_u8(), icmp.code_u8()),
        },
        TransportSlice::Igmp(_) => write!(out, "IGMP"),
    }
}

/// An address, with its port if there is one.
struct End<'a, A>(A, &'a Option<TransportSlice<'a>>, bool);

impl<A: fmt::Display> fmt::Display for End<'_, A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = match self.1 {
            Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
            Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
            _ => None,
        };
        write!(formatter, "{}", self.0)?;
        match ports {
            Some((source, destination)) => write!(formatter, ".{}", if self.2 { source } else { destination }),
            None => Ok(()),
        }
    }
}

/// The letters that tcpdump uses; a dot is ACK.
struct Flags<'a>(&'a TcpSlice<'a>);

impl fmt::Display for Flags<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tcp = self.0;
        let flags = [
            (tcp.syn(), 'S'),
            (tcp.fin(), 'F'),
            (tcp.rst(), 'R'),
            (tcp.psh(), 'P'),
            (tcp.urg(), 'U'),
            (tcp.ack(), '.'),
        ];
        flags.iter().filter(|(set, _)| *set).try_for_each(|(_, letter)| formatter.write_char(*letter))
    }
}

struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn ipv4() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
    }

    #[test]
    fn ends_and_protocol_are_said() {
        let mut packet = Vec::new();
        ipv4().icmpv4_echo_request(7, 1).write(&mut packet, &[0; 56]).expect("a packet");
        assert_eq!(describe(LinkLayer::Tun, &packet), "IP 10.0.0.1 > 10.0.0.2: ICMP echo request id 7 seq 1");

        packet.clear();
        ipv4().tcp(5000, 80, 9, 512).syn().ack(4).write(&mut packet, &[1, 2]).expect("a packet");
        let expected = "IP 10.0.0.1.5000 > 10.0.0.2.80: TCP [S.] seq 9 ack 4 window 512, 2 bytes";
        assert_eq!(describe(LinkLayer::Tun, &packet), expected);

        packet.clear();
        PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(53, 54).write(&mut packet, &[0; 9]).expect("a packet");
        let expected = "IP6 101:101:101:101:101:101:101:101.53 > 202:202:202:202:202:202:202:202.54: UDP, 9 bytes";
        assert_eq!(describe(LinkLayer::Tun, &packet), expected);
    }

    #[test]
    fn frames_show_their_stations_and_tags() {
        let mut frame = Vec::new();
        let tag = 7.try_into().expect("a tag");
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0xff; 6]).single_vlan(tag);
        builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2).write(&mut frame, &[]).expect("a frame");
        let expected = "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, VLAN 7, IP 10.0.0.1.1 > 10.0.0.2.2: UDP, 0 bytes";
        assert_eq!(describe(LinkLayer::Tap, &frame), expected);
    }

    #[test]
    fn what_is_no_packet_is_said_to_be_malformed() {
        assert!(describe(LinkLayer::Tun, &[0x45, 0]).starts_with("malformed: "));
        assert!(describe(LinkLayer::Tap, &[0; 13]).starts_with("malformed: "));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), tap: bool) {
            describe(if tap { LinkLayer::Tap } else { LinkLayer::Tun }, &bytes);
        }
    }
}
