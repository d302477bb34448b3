//! A pair of eyes between two ends: relays that pass everything on and look at each packet on the way.

use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use socket2::SockRef;

/// Which side of a relay is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What comes from the one that was accepted, or sent first.
    Front,
    /// What comes from the target.
    Back,
}

/// What packets have to be.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub link: Link,
    /// Of the device that they are for; an Ethernet header comes on top.
    pub mtu: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Tun,
    Tap,
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub packets: usize,
    pub bytes: usize,
    pub faults: Vec<String>,
}

/// Passes on what goes between two ends.
pub struct Relay(Arc<Mutex<Seen>>);

impl Relay {
    /// Takes one TCP connection of length-prefixed packets at `listen` and connects it to `target`.
    pub fn tcp(listen: &str, target: &str, looked_at: Side, rule: Rule) -> Self {
        let listener = TcpListener::bind(listen).unwrap_or_else(|e| panic!("listen at {listen}: {e}"));
        let target = target.to_owned();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            let (front, _) = listener.accept().expect("a connection to relay");
            let back = TcpStream::connect(&target).unwrap_or_else(|e| panic!("connect to {target}: {e}"));
            for stream in [&front, &back] {
                stream.set_nodelay(true).expect("set stream");
            }
            for (side, from, to) in [(Side::Front, &front, &back), (Side::Back, &back, &front)] {
                let look = (side == looked_at).then(|| Arc::clone(&shared));
                let (from, to) = (from.try_clone().expect("clone stream"), to.try_clone().expect("clone stream"));
                thread::spawn(move || pass_stream(from, to, look, rule));
            }
        });
        Self(seen)
    }

    /// Passes datagrams between whoever sends to `listen` first and `target`.
    pub fn udp(listen: &str, target: &str, looked_at: Side, rule: Rule) -> Self {
        let front = bind(listen);
        let back = bind("0.0.0.0:0");
        back.connect(target).unwrap_or_else(|e| panic!("{target}: {e}"));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            let (len, sender) = front.recv_from(&mut buffer).expect("a datagram to relay");
            front.connect(sender).expect("connect socket");
            if looked_at == Side::Front {
                look_at(&shared, &buffer[..len], rule);
            }
            let _ = back.send(&buffer[..len]);
            for (side, from, to) in [(Side::Front, &front, &back), (Side::Back, &back, &front)] {
                let look = (side == looked_at).then(|| Arc::clone(&shared));
                let (from, to) = (from.try_clone().expect("clone socket"), to.try_clone().expect("clone socket"));
                thread::spawn(move || pass_datagrams(&from, &to, look, rule));
            }
        });
        Self(seen)
    }

    pub fn seen(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// At least `bytes` were seen, and every packet was an ordinary one.
    #[track_caller]
    pub fn assert_ordinary(&self, bytes: usize) {
        let seen = self.seen();
        assert!(seen.faults.is_empty(), "of {} packets: {}", seen.packets, seen.faults.join("\n"));
        assert!(seen.bytes >= bytes, "only {} bytes in {} packets were seen", seen.bytes, seen.packets);
    }
}

fn bind(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap_or_else(|e| panic!("bind {address}: {e}"));
    // The test's own threads are slower than what they relay.
    let _ = SockRef::from(&socket).set_recv_buffer_size(4 << 20);
    socket
}

fn pass_stream(mut from: TcpStream, mut to: TcpStream, look: Option<Arc<Mutex<Seen>>>, rule: Rule) {
    let mut buffer = vec![0; 65_536];
    let mut rest = Vec::new();
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
        let Some(seen) = &look else { continue };
        rest.extend_from_slice(&buffer[..len]);
        let mut packets = rest.as_slice();
        while let Some((packet, others)) = packets
            .split_first_chunk::<2>()
            .and_then(|(head, tail)| tail.split_at_checked(usize::from(u16::from_be_bytes(*head))))
        {
            look_at(seen, packet, rule);
            packets = others;
        }
        let consumed = rest.len() - packets.len();
        rest.drain(..consumed);
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn pass_datagrams(from: &UdpSocket, to: &UdpSocket, look: Option<Arc<Mutex<Seen>>>, rule: Rule) {
    let mut buffer = vec![0; 65_536];
    loop {
        // A refused earlier datagram shows here as an error of the socket.
        let Ok(len) = from.recv(&mut buffer) else { continue };
        if let Some(seen) = &look {
            look_at(seen, &buffer[..len], rule);
        }
        let _ = to.send(&buffer[..len]);
    }
}

fn look_at(seen: &Mutex<Seen>, packet: &[u8], rule: Rule) {
    let verdict = ordinary(packet, rule);
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.packets += 1;
    seen.bytes += packet.len();
    if let Err(fault) = verdict
        && seen.faults.len() < 10
    {
        let fault = format!("packet {} of {} bytes: {fault}", seen.packets, packet.len());
        seen.faults.push(fault);
    }
}

/// Whether a packet is what a plain device hands out: no longer than its MTU, lengths that agree, and complete
/// checksums.
pub fn ordinary(packet: &[u8], rule: Rule) -> Result<(), String> {
    let limit = rule.mtu + if rule.link == Link::Tap { 14 } else { 0 };
    if packet.len() > limit {
        return Err(format!("longer than {limit} bytes"));
    }
    checksums(packet, rule.link)
}

/// Verifies lengths and checksums by an implementation that is not ours. What is not IP has none.
pub fn checksums(packet: &[u8], link: Link) -> Result<(), String> {
    let sliced = match link {
        Link::Tun => SlicedPacket::from_ip(packet),
        Link::Tap => SlicedPacket::from_ethernet(packet),
    };
    let sliced = sliced.map_err(|error| error.to_string())?;
    match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            expect("IPv4 header checksum", header.header_checksum(), header.to_header().calc_header_checksum())?;
            if link == Link::Tun {
                expect("IPv4 length", usize::from(header.total_len()), packet.len())?;
            }
            if ip.is_payload_fragmented() {
                return Ok(());
            }
            let (source, target) = (header.source(), header.destination());
            match &sliced.transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    let right = tcp.calc_checksum_ipv4(source, target).map_err(|error| error.to_string())?;
                    expect("TCP checksum", plus_zero(tcp.checksum()), right)
                }
                Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => {
                    let right = udp.to_header().calc_checksum_ipv4_raw(source, target, udp.payload());
                    expect("UDP checksum", udp.checksum(), right.map_err(|error| error.to_string())?)
                }
                Some(TransportSlice::Icmpv4(icmp)) => {
                    let right = icmp.icmp_type().calc_checksum(icmp.payload());
                    expect("ICMP checksum", icmp.checksum(), right)
                }
                _ => Ok(()),
            }
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            if link == Link::Tun {
                expect("IPv6 length", 40 + usize::from(header.payload_length()), packet.len())?;
            }
            if ip.is_payload_fragmented() {
                return Ok(());
            }
            let (source, target) = (header.source(), header.destination());
            match &sliced.transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    let right = tcp.calc_checksum_ipv6(source, target).map_err(|error| error.to_string())?;
                    expect("TCP checksum", plus_zero(tcp.checksum()), right)
                }
                Some(TransportSlice::Udp(udp)) => {
                    let right = udp.to_header().calc_checksum_ipv6_raw(source, target, udp.payload());
                    expect("UDP checksum", udp.checksum(), right.map_err(|error| error.to_string())?)
                }
                Some(TransportSlice::Icmpv6(icmp)) if !icmp.is_checksum_valid(source, target) => {
                    Err("wrong ICMPv6 checksum".to_owned())
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// All ones are zero, too (RFC 1071), and the kernel sends them for every protocol (`CSUM_MANGLED_0` in
/// `skb_checksum_help()`).
fn plus_zero(checksum: u16) -> u16 {
    if checksum == u16::MAX { 0 } else { checksum }
}

fn expect<T: PartialEq + Display>(what: &str, found: T, right: T) -> Result<(), String> {
    if found == right { Ok(()) } else { Err(format!("{what} {found} instead of {right}")) }
}
