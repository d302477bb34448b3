//! How messages reach the peer. Each transport is one file behind the trait [`Transport`]; which one is chosen once, in
//! [`open`].
//!
//! A transport owns its sockets and their readiness. It knows paths ([`Path`]), not packets: what a message means and
//! which path is the live one is the tunnel's decision, told through [`Transport::adopt`] and [`Transport::reject`].
//! All of them are edge-triggered: readiness ends only when a call would block.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Registry, Token, Waker};

use crate::config::{Access, LinkConfig, Protocol, Role};
pub use crate::sys::TcpFacts;
use crate::tunnel::{Path, PathInfo, Rejection};

mod acceptor;
pub mod admission;
mod attempt;
mod backoff;
mod connection;
pub mod frame;
mod pace;
mod pending;
mod race;
pub mod resolve;
pub(crate) mod socket;
mod stall;
mod targets;
mod tcp_client;
mod tcp_gate;
mod tcp_server;
mod udp;

use admission::{Admission, Surroundings};

/// The token by which the resolver's answers wake the loop.
pub const RESOLVER_TOKEN: Token = Token(2);

/// Tokens from here on belong to the transport.
pub const FIRST_TOKEN: usize = 16;

/// Why a path has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// The peer closed it.
    Closed,
    /// The peer or a host on the way reset it.
    Reset,
    /// The peer no longer answers.
    Timeout,
    /// The network refused it.
    Unreachable,
    /// This end closed it on request.
    Requested,
    /// The peer's name stands for another address now.
    AddressChanged,
    /// This host no longer has the address that it used.
    AddressLost,
    /// The access rules no longer accept the peer where it is.
    NotAllowed,
}

impl DownReason {
    /// The stable word for the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Requested => "requested",
            Self::AddressChanged => "address-changed",
            Self::AddressLost => "address-lost",
            Self::NotAllowed => "not-allowed",
        }
    }

    /// Sorts the error that ended a connection.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
                Self::Unreachable
            }
            _ => Self::Reset,
        }
    }
}

/// What has happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A new path.
    Up(Path, PathInfo),
    /// A path has ended; `retry` tells after which time this end tries again, if it does.
    Down {
        /// The path.
        path: Path,
        /// Why.
        reason: DownReason,
        /// When this end tries again.
        retry: Option<Duration>,
    },
    /// The local interface takes messages of this length at most, in bytes, on the live path of a datagram link that does
    /// not fragment.
    Limit(Path, usize),
}

/// Counters that every transport keeps; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportCounters {
    /// Paths that were opened: connections made or accepted, datagram peers.
    pub paths: u64,
    /// Attempts and sources that were refused by the access rules or the limits.
    pub refused: u64,
    /// Datagrams or connections of sources that are not the peer.
    pub strangers: u64,
    /// Messages lost because the network did not take them.
    pub send_errors: u64,
    /// Messages longer than the network takes.
    pub too_long: u64,
    /// Datagrams that the kernel cut off.
    pub truncated: u64,
}

/// What is known about the way to the peer, for those who watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WayFacts {
    /// Address and port of this end, as far as they are known.
    pub local: Option<SocketAddr>,
    /// What the kernel knows about the live TCP connection.
    pub tcp: Option<TcpFacts>,
}

/// What takes the messages of [`Transport::receive_each`]: the path that a message came by, what that is like, and the
/// message.
pub type Each<'e, 'a> = &'e mut dyn FnMut(Path, &PathInfo, &'a mut [u8]);

/// A carrier of messages.
///
/// The loop calls `handle_event` for its tokens, then drains [`poll_link`](Self::poll_link), and moves messages with
/// `receive_each`, `send_with` and `flush` while [`can_receive`](Self::can_receive) and [`can_send`](Self::can_send).
pub trait Transport {
    /// Takes readiness, or an answer of the resolver.
    fn handle_event(&mut self, event: &Event, now: Instant);

    /// Makes this path the one that messages are sent by and received from.
    fn adopt(&mut self, path: Path, now: Instant);

    /// Closes or forgets a path. No [`LinkEvent::Down`] follows.
    fn reject(&mut self, path: Path, why: Rejection, now: Instant);

    /// Closes what there is and begins anew, at once.
    fn reconnect(&mut self, now: Instant);

    /// Takes settings that need no other socket: whom the access rules accept, and the times after which silence means
    /// something. Newcomers that are no longer accepted are turned away. False if the peer is not where the rules accept
    /// it: then it is for the caller to end the link and to call [`reconnect`](Self::reconnect).
    #[must_use]
    fn reconfigure(&mut self, config: &LinkConfig, now: Instant) -> bool;

    /// Takes the news that links, addresses or routes of this host have changed: what waits for a better time tries now,
    /// and what uses an address that the host no longer has is given up. What may still work goes on.
    fn network_changed(&mut self, now: Instant);

    /// Where messages go, or where the peer is looked for.
    #[must_use]
    fn peer_address(&self) -> Option<SocketAddr>;

    /// There are packets to send, or may be, and no path for them: who waits before trying again is not to wait long.
    fn hurry(&mut self) {}

    /// True if a message of any legal length can be sent now. The one predicate for back-pressure.
    fn can_send(&self) -> bool;

    /// Lends `len` bytes of the send buffer to `fill`; returns false if the message cannot be taken, which is
    /// counted.
    fn send_with(&mut self, len: usize, now: Instant, fill: &mut dyn FnMut(&mut [u8])) -> bool;

    /// Sends one message by this path, which may be one that is not adopted: a connection that waits, or the source of a
    /// datagram of the last [`receive_each`](Self::receive_each). On the live path it takes its turn behind what has been
    /// collected, and all of it is flushed. Returns false if the path is gone or takes nothing, which is counted.
    fn send_to(&mut self, path: Path, message: &[u8], now: Instant) -> bool;

    /// Gives the network what has been collected; what it does not take stays for later.
    fn flush(&mut self, now: Instant);

    /// True if a call of [`receive_each`](Self::receive_each) may yield a message.
    fn can_receive(&self) -> bool;

    /// Hands out about `budget` messages at most, of what one call to the kernel has brought; a train of datagrams is not
    /// interrupted. The messages stay valid until the transport is used again, so that they can be joined in place.
    fn receive_each<'a>(&'a mut self, budget: usize, now: Instant, each: Each<'_, 'a>);

    /// Takes note of what [`receive_each`](Self::receive_each) has met, once its messages are no longer needed. It
    /// follows every call of that; `accepted` is how many of the messages the tunnel has accepted, for only those show
    /// that the peer answers.
    fn finish_receive(&mut self, accepted: usize, now: Instant);

    /// The next thing that has happened to a path.
    #[must_use]
    fn poll_link(&mut self) -> Option<LinkEvent>;

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    #[must_use]
    fn poll_timeout(&self) -> Option<Instant>;

    /// Lets time pass.
    fn handle_timeout(&mut self, now: Instant);

    /// What has been counted so far.
    fn counters(&self) -> TransportCounters;

    /// What is known about the way to the peer; this may ask the kernel.
    fn facts(&self) -> WayFacts;
}

/// What the tunnel does with the paths of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A message is a packet. A path may be the peer's by its address, so a newcomer is announced and held unread.
    Plain,
    /// A path is the peer's once the tunnel has authenticated a message that came by it.
    Secure {
        /// The length of the first message of a handshake in bytes; a stranger on a reliable path may send no other.
        init_len: usize,
    },
}

/// What a transport is built with, beside its settings.
pub struct Context {
    /// Where sockets are registered.
    pub registry: Registry,
    /// Wakes the loop from the resolver's thread.
    pub waker: Arc<Waker>,
    /// What the access rules ask about this host.
    pub surroundings: Surroundings,
    /// What the tunnel does with paths.
    pub mode: Mode,
    /// Where the peer was that was authenticated last, in an earlier run.
    pub hint: Option<SocketAddr>,
}

/// Opens the transport that the settings name. A server listens when this returns; a client has begun to connect.
///
/// # Errors
/// The local address or port cannot be used. That the peer cannot be reached is no error.
pub fn open(config: &LinkConfig, context: Context, now: Instant) -> io::Result<Box<dyn Transport>> {
    Ok(match (config.protocol, &config.role, context.mode) {
        (Protocol::Tcp, Role::Connect(endpoint), Mode::Plain | Mode::Secure { .. }) => {
            Box::new(tcp_client::TcpClient::open(config, endpoint.clone(), context, now))
        }
        (Protocol::Tcp, Role::Listen(access), Mode::Plain) => {
            let admission = Admission::new(access.clone(), config, &context);
            Box::new(tcp_server::TcpServer::open(config, admission, context, now)?)
        }
        (Protocol::Tcp, Role::Listen(access), Mode::Secure { init_len }) => {
            let admission = Admission::new(before_authentication(access), config, &context);
            Box::new(tcp_gate::TcpGate::open(config, admission, init_len, context)?)
        }
        (Protocol::Udp, Role::Connect(endpoint), Mode::Plain) => {
            Box::new(udp::client::UdpClient::open(config, endpoint.clone(), context, now))
        }
        (Protocol::Udp, Role::Listen(access), Mode::Plain) => {
            let admission = Admission::new(access.clone(), config, &context);
            Box::new(udp::server::UdpServer::open(config, admission, context, now)?)
        }
        (Protocol::Udp, role, Mode::Secure { .. }) => {
            let access = match role {
                Role::Connect(_) => Access::Any,
                Role::Listen(access) => before_authentication(access),
            };
            let admission = Admission::new(access, config, &context);
            Box::new(udp::roaming::Roaming::open(config, admission, context, now)?)
        }
    })
}

/// Whose messages are looked at on a secure link: addresses are no credentials, and only a list of networks narrows
/// them. A host that is named is where the peer is expected, nothing more.
fn before_authentication(access: &Access) -> Access {
    match access {
        Access::Networks(networks) => Access::Networks(networks.clone()),
        Access::Protected | Access::Any | Access::Remote { .. } => Access::Any,
    }
}
