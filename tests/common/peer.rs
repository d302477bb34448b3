//! Peers that are not ours: the test itself on a raw socket, with packets made by hand.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::wait::{DEADLINE, wait_for};

pub const PORT: u16 = 55555;

/// A TCP connection that speaks the framing, or breaks it.
pub struct Wire {
    stream: TcpStream,
    /// What was received and is not yet a whole frame.
    rest: Vec<u8>,
}

impl Wire {
    #[track_caller]
    pub fn connect(address: &str) -> Self {
        let address: SocketAddr = address.parse().expect("an address");
        Self::new(
            TcpStream::connect_timeout(&address, DEADLINE).unwrap_or_else(|e| panic!("connect to {address}: {e}")),
        )
    }

    /// As [`Wire::connect`], from one of our addresses.
    #[track_caller]
    pub fn connect_from(source: &str, address: &str) -> Self {
        let source: SocketAddr = source.parse().expect("an address");
        let address: SocketAddr = address.parse().expect("an address");
        let socket = Socket::new(Domain::for_address(source), Type::STREAM, None).expect("socket");
        socket.bind(&source.into()).unwrap_or_else(|e| panic!("bind {source}: {e}"));
        socket.connect_timeout(&address.into(), DEADLINE).unwrap_or_else(|e| panic!("connect to {address}: {e}"));
        Self::new(socket.into())
    }

    #[track_caller]
    pub fn accept(listener: &TcpListener) -> Self {
        listener.set_nonblocking(true).expect("set listener");
        Self::new(wait_for(DEADLINE, "connection from the daemon", || listener.accept().ok()).0.0)
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(false).expect("set stream");
        stream.set_nodelay(true).expect("set stream");
        stream.set_write_timeout(Some(DEADLINE)).expect("set stream");
        Self { stream, rest: Vec::new() }
    }

    #[track_caller]
    pub fn send(&mut self, packet: &[u8]) {
        self.send_raw(&framed(packet));
    }

    #[track_caller]
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.try_send_raw(bytes).expect("the daemon takes the bytes");
    }

    pub fn try_send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame, until `patience` ends or the connection does.
    pub fn receive(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + patience;
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            if !self.fill(end) {
                return None;
            }
        }
    }

    /// True if the other end closes the connection before `patience` ends.
    pub fn closes_within(&mut self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.fill(end) {}
        Instant::now() < end
    }

    /// Sends an echo request from `source` to `target` and takes frames until the reply: proof that the stream is in
    /// step in both directions.
    #[track_caller]
    pub fn echo(&mut self, source: &str, target: &str, sequence: u16) {
        self.send(&echo_request(source, target, sequence, 56));
        let end = Instant::now() + DEADLINE;
        while let Some(frame) = self.receive(end.saturating_duration_since(Instant::now())) {
            if echo_reply_sequence(&frame) == Some(sequence) {
                return;
            }
        }
        panic!("no reply to echo request {sequence}");
    }

    /// What was received and not taken, whole frames or not.
    pub fn rest(&self) -> &[u8] {
        &self.rest
    }

    /// True if a whole frame was received and not taken.
    pub fn has_frame(&mut self) -> bool {
        self.take_frame().is_some()
    }

    /// Reads what there is; false at the end of the connection or of the time.
    fn fill(&mut self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        self.stream.set_read_timeout(Some(left)).expect("set stream");
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.rest.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) => error.kind() == ErrorKind::Interrupted,
        }
    }

    fn take_frame(&mut self) -> Option<Vec<u8>> {
        let (head, tail) = self.rest.split_first_chunk::<2>()?;
        let frame = tail.get(..usize::from(u16::from_be_bytes(*head)))?.to_vec();
        self.rest.drain(..2 + frame.len());
        Some(frame)
    }
}

/// A UDP socket that sends and receives bare packets.
pub struct Datagrams {
    socket: UdpSocket,
}

impl Datagrams {
    #[track_caller]
    pub fn bind(address: &str) -> Self {
        Self { socket: UdpSocket::bind(address).unwrap_or_else(|e| panic!("bind {address}: {e}")) }
    }

    #[track_caller]
    pub fn to(self, address: &str) -> Self {
        self.socket.connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        self
    }

    /// Waits for the first datagram, and talks to its sender from then on.
    #[track_caller]
    pub fn answer_first_sender(self) -> Self {
        self.socket.set_read_timeout(Some(DEADLINE)).expect("set socket");
        let (_, sender) = self.socket.recv_from(&mut [0; 65536]).expect("a datagram from the daemon");
        self.socket.connect(sender).expect("connect socket");
        self
    }

    #[track_caller]
    pub fn send(&self, packet: &[u8]) {
        self.socket.send(packet).expect("send datagram");
    }

    pub fn receive(&self, patience: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + patience;
        let mut buffer = vec![0; 65536];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left)).expect("set socket");
            // A refused earlier datagram shows here as an error of the socket.
            if let Ok(count) = self.socket.recv(&mut buffer) {
                buffer.truncate(count);
                return Some(buffer);
            }
        }
    }

    pub fn answers(&self, source: &str, target: &str, sequence: u16, patience: Duration) -> bool {
        self.send(&echo_request(source, target, sequence, 56));
        let end = Instant::now() + patience;
        while let Some(packet) = self.receive(end.saturating_duration_since(Instant::now())) {
            if echo_reply_sequence(&packet) == Some(sequence) {
                return true;
            }
        }
        false
    }

    #[track_caller]
    pub fn echo(&self, source: &str, target: &str, sequence: u16) {
        assert!(self.answers(source, target, sequence, DEADLINE), "no reply to echo request {sequence}");
    }
}

pub fn framed(packet: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(packet.len()).expect("a frame of up to 65535 bytes").to_be_bytes().to_vec();
    bytes.extend_from_slice(packet);
    bytes
}

const ECHO_ID: u16 = 0x5354;

/// An IPv4 ICMP echo request with `payload` bytes behind the ICMP header.
pub fn echo_request(source: &str, target: &str, sequence: u16, payload: usize) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0];
    icmp.extend_from_slice(&ECHO_ID.to_be_bytes());
    icmp.extend_from_slice(&sequence.to_be_bytes());
    icmp.extend((0..payload).map(|i| i as u8));
    let sum = checksum(&icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    ipv4(source, target, 1, &icmp)
}

/// An IPv4 UDP datagram without checksum.
pub fn udp_packet(source: &str, target: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut udp = Vec::new();
    for field in [port, port, u16::try_from(8 + payload.len()).expect("a length"), 0] {
        udp.extend_from_slice(&field.to_be_bytes());
    }
    udp.extend_from_slice(payload);
    ipv4(source, target, 17, &udp)
}

/// The sequence number, if this is the reply to an [`echo_request`].
pub fn echo_reply_sequence(packet: &[u8]) -> Option<u16> {
    let is_reply = packet.first()? >> 4 == 4 && packet.get(9) == Some(&1) && packet.get(20..22) == Some(&[0, 0]);
    let [id_high, id_low, high, low] = *packet.get(24..)?.first_chunk()?;
    (is_reply && u16::from_be_bytes([id_high, id_low]) == ECHO_ID).then(|| u16::from_be_bytes([high, low]))
}

fn ipv4(source: &str, target: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + payload.len()).expect("a packet of up to 65535 bytes").to_be_bytes();
    let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    for address in [source, target] {
        packet.extend(address.parse::<Ipv4Addr>().expect("an IPv4 address").octets());
    }
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend_from_slice(payload);
    packet
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
