//! Notices that the network of this host has changed: links, addresses, routes and rules (rtnetlink(7), multicast groups).
//!
//! It knows what the kernel tells and whether that is about our own device or about something else; what follows from
//! it is the business of others. A burst of messages is one change, and between two changes there is a pause in which
//! the socket is not read: a host whose routes never rest costs no more than a few turns of the loop a second.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use log::{debug, warn};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use netlink_packet_core::{NetlinkBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;

/// The shortest time between two changes that are told.
const PAUSE: Duration = Duration::from_millis(200);

/// Datagrams read in one turn; what is left then counts as a change of everything.
const BUDGET: usize = 64;

/// The kernel's messages about one link with all its attributes are about 2 KiB long.
const RECEIVE_LEN: usize = 32 * 1024;

/// Multicast groups (`enum rtnetlink_groups` of include/uapi/linux/rtnetlink.h): links, then addresses, routes and
/// rules of both families.
const GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];

/// What has changed since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Our own device: its state, its addresses, or routes through it.
    pub own: bool,
    /// Something else.
    pub elsewhere: bool,
}

impl Changes {
    const ALL: Self = Self { own: true, elsewhere: true };
    const OWN: Self = Self { own: true, elsewhere: false };
    const ELSEWHERE: Self = Self { own: false, elsewhere: true };

    /// True if anything has changed.
    pub fn any(self) -> bool {
        self.own || self.elsewhere
    }

    fn add(&mut self, other: Self) {
        self.own |= other.own;
        self.elsewhere |= other.elsewhere;
    }
}

/// The socket by which the kernel tells, with its readiness, and the pause between two changes.
#[derive(Debug)]
pub struct NetWatch {
    /// `None` where the kernel does not tell.
    socket: Option<Socket>,
    buffer: Vec<u8>,
    /// Index of our own device.
    own: u32,
    readable: bool,
    pause_until: Option<Instant>,
    /// When our own device is to be looked at although nothing was told about it.
    look_at: Option<Instant>,
}

impl NetWatch {
    /// Begins to listen. `own` is the index of our own device, or 0, which is nobody's.
    ///
    /// # Errors
    /// Out of descriptors or memory, or a sandbox that forbids netlink.
    pub fn open(own: u32) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, GROUPS.iter().fold(0, |mask, group| mask | 1 << (group - 1))))?;
        Ok(Self::with(Some(socket), own))
    }

    /// As [`open`](Self::open), registered with a poll. Where that is not possible the timers of the link notice a change,
    /// later.
    pub fn registered(own: u32, registry: &Registry, token: Token) -> Self {
        let watch = Self::open(own).and_then(|watch| {
            let fd = watch.socket.as_ref().map(Socket::as_raw_fd).unwrap_or_default();
            registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
            Ok(watch)
        });
        watch.unwrap_or_else(|error| {
            warn!("Cannot watch the network for changes: {error}");
            Self::with(None, own)
        })
    }

    fn with(socket: Option<Socket>, own: u32) -> Self {
        let buffer = Vec::with_capacity(RECEIVE_LEN);
        Self { socket, buffer, own, readable: true, pause_until: None, look_at: None }
    }

    /// Tells that an event has arrived for the descriptor.
    pub fn set_readable(&mut self) {
        self.readable = true;
    }

    /// Tells of a change of our own device at this time, if none comes before.
    pub fn look_again(&mut self, at: Option<Instant>) {
        self.look_at = at;
    }

    /// What has changed since it was asked last; nothing during the pause.
    #[must_use]
    pub fn poll(&mut self, now: Instant) -> Changes {
        let is_due = self.look_at.take_if(|at| *at <= now).is_some();
        let mut changes = Changes { own: is_due, elsewhere: false };
        if self.readable && self.pause_until.is_none_or(|until| now >= until) {
            changes.add(self.drain());
            self.pause_until = changes.any().then_some(now + PAUSE);
        }
        changes
    }

    /// When [`poll`](Self::poll) has something to say, if it may have.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let pause = self.pause_until.filter(|_| self.readable);
        [pause, self.look_at].into_iter().flatten().min()
    }

    fn drain(&mut self) -> Changes {
        let mut changes = Changes::default();
        let Some(socket) = &self.socket else {
            self.readable = false;
            return changes;
        };
        for _ in 0..BUDGET {
            self.buffer.clear();
            match socket.recv_from(&mut self.buffer, libc::MSG_TRUNC) {
                // Port 0 is the kernel; a process with CAP_NET_ADMIN could send us messages too.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((len, _)) if len > self.buffer.len() => changes = Changes::ALL,
                Ok(_) => changes.add(changes_in(&self.buffer, self.own)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => {
                        self.readable = false;
                        return changes;
                    }
                    // Messages were lost: what they said is not known.
                    Some(libc::ENOBUFS) => changes = Changes::ALL,
                    _ => {
                        debug!("cannot read the changes of the network: {error}");
                        self.readable = false;
                        return changes;
                    }
                },
            }
        }
        Changes::ALL
    }
}

/// What the messages of one datagram tell. One that cannot be read may tell anything.
fn changes_in(datagram: &[u8], own: u32) -> Changes {
    let (mut changes, mut rest) = (Changes::default(), datagram);
    while !rest.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(rest) else { return Changes::ALL };
        // `new_checked` has made sure of 16 <= length <= rest.len(); the last one may lack its padding.
        let len = message.length() as usize;
        let body = rest.get(HEADER_LEN..len).unwrap_or_default();
        changes.add(change_in(message.message_type(), body, own));
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    changes
}

/// What one message tells, by the index in its header, or in a route's attribute.
fn change_in(kind: u16, body: &[u8], own: u32) -> Changes {
    let index = match kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK | libc::RTM_NEWADDR | libc::RTM_DELADDR => number_at(body, 4),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => output_of(body),
        // A rule.
        _ => None,
    };
    if index == Some(own) { Changes::OWN } else { Changes::ELSEWHERE }
}

/// The device that a route leaves through (`RTA_OIF`), if it is one.
fn output_of(route: &[u8]) -> Option<u32> {
    let attributes = NlasIterator::new(route.get(ROUTE_HEADER_LEN..)?);
    let output = attributes.filter_map(Result::ok).find(|attribute| attribute.kind() == libc::RTA_OIF)?;
    number_at(output.value(), 0)
}

fn number_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// `struct rtmsg`.
const ROUTE_HEADER_LEN: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 7;

    #[test]
    fn links_and_addresses_belong_to_the_device_with_their_index() {
        for kind in [libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_NEWADDR, libc::RTM_DELADDR] {
            assert_eq!(changes_in(&message(kind, &about(OWN)), OWN), Changes::OWN);
            assert_eq!(changes_in(&message(kind, &about(OWN + 1)), OWN), Changes::ELSEWHERE);
        }
    }

    #[test]
    fn a_route_belongs_to_the_device_that_it_leaves_through() {
        let route = |output: Option<u32>| {
            let mut body = vec![0; ROUTE_HEADER_LEN];
            body.extend([8, 0, 1, 0, 10, 0, 0, 1]);
            if let Some(output) = output {
                body.extend([8, 0, 4, 0]);
                body.extend(output.to_ne_bytes());
            }
            changes_in(&message(libc::RTM_NEWROUTE, &body), OWN)
        };
        assert_eq!(route(Some(OWN)), Changes::OWN);
        assert_eq!(route(Some(OWN + 1)), Changes::ELSEWHERE);
        assert_eq!(route(None), Changes::ELSEWHERE, "a route over several devices, or to none");
    }

    #[test]
    fn a_datagram_tells_all_that_is_in_it() {
        let mut datagram = message(libc::RTM_NEWADDR, &about(OWN));
        datagram.extend(message(libc::RTM_NEWRULE, &[0; 12]));
        assert_eq!(changes_in(&datagram, OWN), Changes::ALL);
        assert_eq!(changes_in(&[], OWN), Changes::default());
    }

    #[test]
    fn what_cannot_be_read_may_tell_anything_and_never_panics() {
        let whole = message(libc::RTM_NEWROUTE, &[0; 20]);
        for len in 1..whole.len() {
            assert!(changes_in(&whole[..len], OWN).any(), "{len} bytes");
        }
        for len in 0..8 {
            assert_eq!(changes_in(&message(libc::RTM_NEWLINK, &vec![0; len]), OWN), Changes::ELSEWHERE);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn a_quiet_network_is_not_asked_about_and_a_pause_is_kept() {
        let start = Instant::now();
        let mut watch = NetWatch::open(OWN).expect("a netlink socket");
        let _ = watch.poll(start);
        watch.readable = false;
        assert_eq!(watch.poll_timeout(), None);
        watch.pause_until = Some(start + PAUSE);
        watch.set_readable();
        assert_eq!(watch.poll(start), Changes::default());
        assert_eq!(watch.poll_timeout(), Some(start + PAUSE));
        let _ = watch.poll(start + PAUSE);
        assert!(!watch.readable || watch.pause_until > Some(start + PAUSE), "it was read");
    }

    fn about(index: u32) -> Vec<u8> {
        [[0; 4], index.to_ne_bytes(), [0; 4], [0; 4]].concat()
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER_LEN + body.len()).expect("short");
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}
