//! The peer's state machine: which path is the live one, who may replace it, what may pass, and how a packet becomes a
//! message.
//!
//! Pure: paths, bytes and `now` come in; events and messages go out. It knows no socket, no clock and no device, and
//! chance is handed to it. There are two kinds of link, fixed by the configuration: [`plain`] (a message is a packet)
//! and [`secure`] (Noise handshakes, sealed messages; `docs/PROTOCOL.md`). Nothing ever changes one into the other.
//!
//! The caller drains [`Tunnel::poll_event`] and [`Tunnel::poll_transmit`] after every `link_up`, `link_down`,
//! `network_changed`, `reconfigure`, `open`, `close` and `handle_timeout`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::LinkLayer;
use crate::offload::{Checksum, Segmentation};

mod arrivals;
pub mod crypto;
mod gate;
pub mod handshake;
pub mod identity;
pub mod keys;
mod liveness;
pub mod message;
pub mod meter;
pub mod parts;
pub mod path_mtu;
pub mod plain;
pub mod replay;
pub mod secure;
mod session;

pub use arrivals::Arrivals;
use parts::Part;
use plain::Plain;
use secure::Secure;

/// A way to a peer: one TCP connection, or one UDP source. The number is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(pub u64);

/// What a path is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// Delivers everything in order and knows when the peer has gone.
    pub reliable: bool,
    /// The longest message that it carries, in bytes.
    pub max_message: usize,
    /// Address of the far end.
    pub peer: SocketAddr,
}

/// What the tunnel has decided; the caller carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// This path is the live one from now on.
    PathAdopted(Path),
    /// This path is to be closed or forgotten.
    PathRejected(Path, Rejection),
    /// The peer is there: a connection stands, the first datagram has arrived, or a handshake is complete.
    Up(PathInfo),
    /// The peer is gone; `idle` is the time since it was last heard, or since the path was adopted.
    Down {
        /// Time without a message from the peer.
        idle: Duration,
        /// Where the peer was.
        peer: SocketAddr,
        /// The tunnel's own reason; `None` if the path ended by itself or was closed.
        why: Option<Rejection>,
    },
    /// The peer of a datagram link has moved to this address.
    Moved(SocketAddr),
    /// The connection of a secure link has ended; the link counts as up until the peer has been silent for too long.
    Interrupted {
        /// Where the peer was.
        peer: SocketAddr,
        /// The tunnel's own reason; `None` if the connection ended by itself.
        why: Option<Rejection>,
    },
    /// An interrupted link goes on.
    Resumed(SocketAddr),
    /// A handshake of a secure link is complete: messages go out by its session from now on.
    Renewed,
    /// What the path of a datagram link carries has changed.
    PathMtu {
        /// The path MTU in bytes, with the headers of IP and UDP.
        path_mtu: usize,
        /// The longest packet that crosses, in bytes.
        packet: usize,
        /// How that is known.
        source: path_mtu::Source,
    },
    /// So many packets that came in parts were given up, because a part is lost or there is no room.
    Incomplete(u64),
    /// Something that the administrator should know.
    Notice(Notice),
}

/// Why a path was turned away or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Another peer is there and alive.
    Occupied,
    /// A newcomer has replaced it.
    Replaced,
    /// The peer wants a secure link and this end is plain.
    WantsSecure,
    /// Something came by it that is not authentic, or that nobody expects there.
    NotAuthentic,
    /// The peer has been silent for too long.
    Silent,
    /// The peer has said goodbye.
    PeerClosed,
    /// The peer has said goodbye and will be back at once.
    PeerBeginsAnew,
    /// The key or secret of its session is no longer one of this end's.
    KeyRemoved,
}

/// Why a message was not accepted; counted by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It came by a path that is not the live one.
    NotLive,
    /// It is too short for a packet, or in tun mode neither IPv4 nor IPv6.
    Invalid,
    /// Plain: it is the first message of a secure link.
    WantsSecure,
    /// Secure: it has not the form of a message.
    NotAMessage,
    /// Secure: a handshake whose mac1 belongs to no key of this end, or that answers nothing.
    BadHandshake,
    /// Secure: a handshake that came before.
    HandshakeReplayed,
    /// Secure: a handshake beyond what is looked at in a second.
    HandshakeLimited,
    /// Secure: a handshake that was refused for what it says, or that crossed our own.
    HandshakeRefused,
    /// Secure: for no session of this end.
    UnknownSession,
    /// Secure: its counter was accepted before, or is too old.
    Replayed,
    /// Secure: it is not authentic.
    NotAuthentic,
}

/// Something that the administrator should know; said at most once a second each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A session stands with these parameters.
    Session {
        /// How messages are sealed.
        aead: crypto::Aead,
        /// Super-packets cross whole.
        whole_super_packets: bool,
    },
    /// The peer's device is of this other kind.
    PeerKind(Option<LinkLayer>),
    /// One end insists on an AEAD that the other one has not, or on something that this version does not know.
    Feature,
    /// The peer has another client with the same key, which is alive.
    Busy,
    /// Two ends with the same key take turns at this end; this one is turned away.
    TwoPeers(SocketAddr),
    /// The devices have different MTUs: ours and the peer's, in bytes.
    MtuDiffers(u16, u16),
    /// The clock of this end is behind what the peer has seen from it, by this many seconds.
    ClockBehind(u64),
    /// The peer has the right key and the same role as this end.
    SameSide(SocketAddr),
    /// A handshake came that was made with other secrets.
    WrongKey(SocketAddr),
    /// What came looks like the packets of a plain link.
    PlainPeer(SocketAddr),
    /// Handshakes are sent and nothing comes back.
    NoAnswer(SocketAddr),
}

impl Notice {
    /// A number below [`KINDS`](Self::KINDS) for each kind.
    fn kind(self) -> usize {
        match self {
            Self::Session { .. } => 0,
            Self::PeerKind(_) => 1,
            Self::Feature => 2,
            Self::Busy => 3,
            Self::TwoPeers(_) => 4,
            Self::MtuDiffers(..) => 5,
            Self::ClockBehind(_) => 6,
            Self::SameSide(_) => 7,
            Self::WrongKey(_) => 8,
            Self::PlainPeer(_) => 9,
            Self::NoAnswer(_) => 10,
        }
    }

    const KINDS: usize = 11;
}

/// What was in a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// A packet for the device, and what is known about its checksum.
    Packet(&'a mut [u8], Checksum),
    /// A virtio header and a super-packet, as the peer made them: authentic, and still to be checked.
    Super(&'a mut [u8]),
    /// A packet for the device whose last part this was.
    Joined(Vec<u8>, Checksum),
    /// Nothing for the device: the message was for the tunnel itself.
    Nothing,
}

/// A message of the tunnel itself: a handshake, or a sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// By which path it leaves; not necessarily the live one.
    pub path: Path,
    /// The message.
    pub message: Vec<u8>,
}

/// What is known about a secure link beside its state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// How messages are sealed; `None` without a session.
    pub aead: Option<crypto::Aead>,
    /// Time since the handshake of the current session.
    pub session_age: Option<Duration>,
    /// The round trip, smoothed (RFC 6298).
    pub rtt: Option<Duration>,
    /// The path MTU in bytes, with the headers of IP and UDP, and how it is known; `None` over TCP or without a path.
    pub path_mtu: Option<(usize, path_mtu::Source)>,
    /// Messages of the peer that have arrived and that have not; `None` over TCP, where none is lost.
    pub arrivals: Option<Arrivals>,
}

/// The state machine of one link.
pub enum Tunnel {
    /// A message is a packet.
    Plain(Plain),
    /// Messages are sealed.
    Secure(Box<Secure>),
}

impl Tunnel {
    /// A plain tunnel without a peer.
    pub fn plain(kind: LinkLayer) -> Self {
        Self::Plain(Plain::new(kind))
    }

    /// A secure tunnel without a peer.
    pub fn secure(secure: Secure) -> Self {
        Self::Secure(Box::new(secure))
    }

    /// The path that messages go out by.
    pub fn live_path(&self) -> Option<Path> {
        match self {
            Self::Plain(plain) => plain.live_path(),
            Self::Secure(secure) => secure.live_path(),
        }
    }

    /// True if packets can go out: there is a path, and on a secure link a session.
    pub fn has_path(&self) -> bool {
        match self {
            Self::Plain(plain) => plain.live_path().is_some(),
            Self::Secure(secure) => secure.has_session(),
        }
    }

    /// Length of the message that carries a packet of `packet_len` bytes; `None` if it fits no message of the live
    /// path, or there is none. A secure link takes note that there is something to send.
    #[must_use]
    pub fn message_len(&mut self, packet_len: usize, now: Instant) -> Option<usize> {
        match self {
            Self::Plain(plain) => plain.message_len(packet_len),
            Self::Secure(secure) => secure.message_len(packet_len, now),
        }
    }

    /// The longest packet that fits a message of the live path at present, in bytes; `None` without a path.
    #[must_use]
    pub fn max_packet(&self) -> Option<usize> {
        match self {
            Self::Plain(plain) => plain.max_packet(),
            Self::Secure(secure) => secure.max_packet(),
        }
    }

    /// Writes the message that carries `packet` into `message`, which is as long as
    /// [`message_len`](Self::message_len) said. A secure link tells the peer what is known about the checksum.
    pub fn seal(&mut self, packet: &[u8], checksum: Checksum, message: &mut [u8], now: Instant) {
        match self {
            Self::Plain(_) => message.copy_from_slice(packet),
            Self::Secure(secure) => {
                let flags = if checksum == Checksum::Made { message::FLAG_CHECKSUM_MADE } else { 0 };
                secure.seal(message::DATA, flags, packet, message, now);
            }
        }
    }

    /// Length of the parts that a packet of `packet_len` bytes, too long for one message, is cut into; `None` if the link
    /// does not take it so.
    #[must_use]
    pub fn part_len(&self, packet_len: usize) -> Option<usize> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(secure) => secure.part_len(packet_len),
        }
    }

    /// A number for the next packet that is sent in parts.
    pub fn number_packet(&mut self) -> u32 {
        match self {
            Self::Plain(_) => 0,
            Self::Secure(secure) => secure.number_packet(),
        }
    }

    /// Writes the message that carries a part of a packet; it is as long as [`message_len`](Self::message_len) says for the
    /// part's bytes and [`parts::PART_HEADER_LEN`].
    pub fn seal_part(&mut self, part: &Part<'_>, checksum: Checksum, message: &mut [u8], now: Instant) {
        match self {
            // Never asked for: `part_len` has said so.
            Self::Plain(_) => message.fill(0),
            Self::Secure(secure) => secure.seal_part(part, checksum, message, now),
        }
    }

    /// True if some kind of super-packet may cross the link whole.
    pub fn takes_super_packets(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Secure(secure) => secure.takes_super_packets(),
        }
    }

    /// Length of the message that carries a super-packet of this kind whole, where `len` counts its virtio header too;
    /// `None` if the link does not take it so.
    #[must_use]
    pub fn super_message_len(&mut self, kind: Segmentation, len: usize, now: Instant) -> Option<usize> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(secure) => secure.super_message_len(kind, len, now),
        }
    }

    /// Writes the message that carries a super-packet, virtio header first, whole.
    pub fn seal_super(&mut self, bytes: &[u8], message: &mut [u8], now: Instant) {
        match self {
            // Never asked for: `super_message_len` has said so.
            Self::Plain(_) => message.fill(0),
            Self::Secure(secure) => secure.seal(message::SUPER, 0, bytes, message, now),
        }
    }

    /// Takes a message that arrived by `path` and returns what was in it.
    ///
    /// # Errors
    /// Why the message is dropped.
    pub fn open<'a>(
        &mut self,
        path: Path,
        info: &PathInfo,
        message: &'a mut [u8],
        now: Instant,
    ) -> Result<Opened<'a>, Refused> {
        match self {
            Self::Plain(plain) => {
                plain.open(path, message, now).map(|packet| Opened::Packet(packet, Checksum::Unknown))
            }
            Self::Secure(secure) => secure.open(path, info, message, now),
        }
    }

    /// Takes a new path. It is adopted, rejected, or it waits.
    pub fn link_up(&mut self, path: Path, info: PathInfo, now: Instant) {
        match self {
            Self::Plain(plain) => plain.link_up(path, info, now),
            Self::Secure(secure) => secure.link_up(path, info, now),
        }
    }

    /// Takes the end of a path.
    pub fn link_down(&mut self, path: Path, now: Instant) {
        match self {
            Self::Plain(plain) => plain.link_down(path, now),
            Self::Secure(secure) => secure.link_down(path, now),
        }
    }

    /// Takes the news that the network of this host has changed. A secure link asks its peer at once.
    pub fn network_changed(&mut self, now: Instant) {
        match self {
            Self::Plain(_) => {}
            Self::Secure(secure) => secure.network_changed(now),
        }
    }

    /// Says that no packet comes while there is something to send, or that it does again: a device without carrier is
    /// given none.
    pub fn set_demand_hidden(&mut self, hidden: bool, now: Instant) {
        match self {
            Self::Plain(_) => {}
            Self::Secure(secure) => secure.set_demand_hidden(hidden, now),
        }
    }

    /// Takes other settings and keys. A plain link has none; an MTU of 0 leaves what is known.
    pub fn reconfigure(&mut self, settings: secure::Settings, identities: Vec<identity::Identity>, now: Instant) {
        match self {
            Self::Plain(_) => {}
            Self::Secure(secure) => secure.reconfigure(settings, identities, now),
        }
    }

    /// Takes what the local interface takes on a path: messages of at most `max_message` bytes.
    pub fn link_limit(&mut self, path: Path, max_message: usize, now: Instant) {
        match self {
            // The network cuts what is longer.
            Self::Plain(_) => {}
            Self::Secure(secure) => secure.link_limit(path, max_message, now),
        }
    }

    /// What is known about a secure link at `now`; `None` on a plain one.
    pub fn facts(&self, now: Instant) -> Option<Facts> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(secure) => Some(secure.facts(now)),
        }
    }

    /// Somebody wants to know the round trip: it is measured anew unless that was done within the last second.
    pub fn measure(&mut self, now: Instant) {
        match self {
            Self::Plain(_) => {}
            Self::Secure(secure) => secure.measure(now),
        }
    }

    /// Takes the end of everything: the peer is gone, and nobody takes its place. A secure link says goodbye.
    pub fn close(&mut self, reason: message::CloseReason, now: Instant) {
        match self {
            Self::Plain(plain) => plain.close(now),
            Self::Secure(secure) => secure.close(reason, now),
        }
    }

    /// The next thing to carry out.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        match self {
            Self::Plain(plain) => plain.poll_event(),
            Self::Secure(secure) => secure.poll_event(),
        }
    }

    /// The next message of the tunnel itself that is to be sent.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(secure) => secure.poll_transmit(),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Plain(plain) => plain.poll_timeout(),
            Self::Secure(secure) => secure.poll_timeout(),
        }
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Plain(plain) => plain.handle_timeout(now),
            Self::Secure(secure) => secure.handle_timeout(now),
        }
    }
}

/// True if the device may be given this: long enough, and in tun mode IPv4 or IPv6 by its version.
fn is_packet(kind: LinkLayer, packet: &[u8]) -> bool {
    let known = match kind {
        LinkLayer::Tun => packet.first().is_some_and(|byte| matches!(byte >> 4, 4 | 6)),
        LinkLayer::Tap => true,
    };
    known && packet.len() >= kind.min_packet_len()
}
