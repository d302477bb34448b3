//! What every transport has to do, shown on loopback with the real sockets and no privileges. A new transport is one
//! line in `TRANSPORTS`. Those of secure links have rules about strangers, which stand in a module of their own.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Waker};
use simpletun::config::{Config, KeyFiles, Options};
use simpletun::transport::admission::Surroundings;
use simpletun::transport::{self, Context, DownReason, LinkEvent, Mode, RESOLVER_TOKEN, Transport};
use simpletun::tunnel::{Path, Rejection};

const DEADLINE: Duration = Duration::from_secs(20);

/// A transport: its flags, the address that it is tried on, and the mode.
#[derive(Clone, Copy, Debug)]
struct Kind {
    flags: &'static str,
    host: &'static str,
    mode: Mode,
}

/// Length of the first message of a handshake, for the transports that want to know it.
const INIT_LEN: usize = 168;

const fn plain(flags: &'static str, host: &'static str) -> Kind {
    Kind { flags, host, mode: Mode::Plain }
}

const fn secure(flags: &'static str, host: &'static str) -> Kind {
    Kind { flags, host, mode: Mode::Secure { init_len: INIT_LEN } }
}

const PLAIN: [Kind; 4] = [plain("", "127.0.0.1"), plain("", "::1"), plain("-U", "127.0.0.1"), plain("-U", "::1")];

const TRANSPORTS: [Kind; 8] = [
    PLAIN[0],
    PLAIN[1],
    PLAIN[2],
    PLAIN[3],
    secure("", "127.0.0.1"),
    secure("", "::1"),
    secure("-U", "127.0.0.1"),
    secure("-U", "::1"),
];

#[path = "transport_conformance/strangers.rs"]
mod strangers;

#[test]
fn messages_of_every_length_arrive_unaltered_and_in_order() {
    for kind in TRANSPORTS {
        let (mut client, mut server) = pair(kind);
        let lengths = [1, 2, 20, 576, 1500, 1499, 1500, 1500, 9000, 32_000, 65_507, 1, 65_507];
        for (index, len) in lengths.into_iter().enumerate() {
            client.send(&pattern(index, len));
            assert_eq!(server.receive(&mut client), pattern(index, len), "{kind:?} {len}");
            server.send(&pattern(index + 100, len));
            assert_eq!(client.receive(&mut server), pattern(index + 100, len), "{kind:?} {len}");
        }
    }
}

#[test]
fn a_burst_of_equal_messages_arrives_whole() {
    for kind in TRANSPORTS {
        let (mut client, mut server) = pair(kind);
        let burst: Vec<Vec<u8>> = (0..130).map(|index| pattern(index, 1200)).chain([pattern(130, 700)]).collect();
        burst.iter().for_each(|message| client.collect(message));
        client.transport.flush(Instant::now());
        for message in burst {
            assert_eq!(server.receive(&mut client), message, "{kind:?}");
        }
    }
}

#[test]
fn empty_messages_are_handed_out_and_not_taken_for_the_end() {
    for kind in TRANSPORTS {
        let (mut client, mut server) = pair(kind);
        for message in [&b""[..], b"x", b"", b"y"] {
            client.send(message);
            assert_eq!(server.receive(&mut client), message, "{kind:?}");
        }
    }
}

#[test]
fn a_message_too_long_for_the_wire_is_refused_and_the_next_passes() {
    for kind in TRANSPORTS {
        let (mut client, mut server) = pair(kind);
        let taken = client.transport.send_with(70_000, Instant::now(), &mut |_| panic!("there is no room for it"));
        assert!(!taken, "{kind:?}");
        client.send(b"next");
        assert_eq!(server.receive(&mut client), b"next", "{kind:?}");
    }
}

#[test]
fn what_a_newcomer_sends_is_held_until_it_is_adopted() {
    for kind in PLAIN {
        let mut server = End::server(kind);
        server.adopts = false;
        let mut client = End::client(kind, server.port);
        client.until("the client's path", |end| end.live.is_some());
        client.send(b"early");
        server.until("the newcomer", |end| !end.offered.is_empty());
        let path = server.offered[0];
        server.turn(Duration::from_millis(50));
        assert_eq!(server.inbox.len(), 0, "{kind:?}");
        server.transport.adopt(path, Instant::now());
        assert_eq!(server.receive(&mut client), b"early", "{kind:?}");
    }
}

#[test]
fn a_rejected_newcomer_does_not_disturb_the_live_path() {
    for kind in PLAIN {
        let (mut client, mut server) = pair(kind);
        server.adopts = false;
        let mut stranger = End::client(kind, server.port);
        stranger.until("the stranger's path", |end| end.live.is_some());
        stranger.send(b"let me in");
        server.until("the newcomer", |end| end.offered.len() == 2);
        server.transport.reject(server.offered[1], Rejection::Occupied, Instant::now());
        assert_eq!(server.transport.counters().strangers, 1, "{kind:?}");
        client.send(b"still here");
        assert_eq!(server.receive(&mut client), b"still here", "{kind:?}");
    }
}

#[test]
fn reconnecting_makes_a_new_path_that_works() {
    for kind in TRANSPORTS {
        let (mut client, mut server) = pair(kind);
        let old = client.live.expect("a live path");
        client.transport.reconnect(Instant::now());
        client.until("a new path", |end| end.live.is_some_and(|path| path != old));
        assert_eq!(client.ended, [DownReason::Requested], "{kind:?}");
        client.send(&hello());
        assert_eq!(server.receive(&mut client), hello(), "{kind:?}");
    }
}

#[test]
fn a_client_waits_for_a_server_that_is_not_there_yet() {
    for kind in TRANSPORTS {
        let port = free_port(kind.host);
        let mut client = End::client(kind, port);
        client.turn(Duration::from_millis(300));
        let mut server = End::server_at(kind, "", port);
        let end = Instant::now() + DEADLINE;
        while server.inbox.is_empty() {
            assert!(Instant::now() < end, "{kind:?}: nothing has arrived");
            client.turn(Duration::from_millis(20));
            if client.transport.can_send() {
                client.send(&hello());
            }
            server.turn(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_peer_that_does_not_read_stops_the_sender_and_loses_nothing() {
    for kind in TRANSPORTS.into_iter().filter(|kind| kind.flags.is_empty()) {
        let (mut client, mut server) = pair(kind);
        let mut sent = 0;
        let end = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < end, "the sender is never stopped");
            if client.transport.can_send() {
                client.send(&pattern(sent, 30_000));
                sent += 1;
            } else {
                client.turn(Duration::from_millis(20));
                if !client.transport.can_send() {
                    break;
                }
            }
        }
        for index in 0..sent {
            assert_eq!(server.receive(&mut client), pattern(index, 30_000), "{kind:?}");
        }
        client.until("room again", |end| end.transport.can_send());
    }
}

#[test]
fn sources_that_the_rules_refuse_get_nowhere() {
    for kind in TRANSPORTS {
        let mut server = End::server_at(kind, "--allow 192.0.2.0/24", free_port(kind.host));
        let mut client = End::client(kind, server.port);
        client.until("the client's path", |end| end.live.is_some());
        client.send(&hello());
        server.until("the refusal", |end| end.transport.counters().refused > 0);
        assert!(server.offered.is_empty() && server.inbox.is_empty(), "{kind:?}");
    }
}

/// One end: a transport with a poll of its own, which adopts every path that is offered, and with a secure link every
/// one that a message comes by.
struct End {
    poll: Poll,
    transport: Box<dyn Transport>,
    port: u16,
    mode: Mode,
    adopts: bool,
    live: Option<Path>,
    offered: Vec<Path>,
    ended: Vec<DownReason>,
    inbox: Vec<Vec<u8>>,
    /// Where each message has come from, as long as paths are not adopted by themselves.
    sources: Vec<(Path, SocketAddr)>,
    last_source: Option<SocketAddr>,
}

fn pair(kind: Kind) -> (End, End) {
    let mut server = End::server(kind);
    let mut client = End::client(kind, server.port);
    client.until("the client's path", |end| end.live.is_some());
    // A server learns of its peer by the first message.
    client.send(&hello());
    assert_eq!(server.receive(&mut client), hello());
    (client, server)
}

/// A first message that every transport takes.
fn hello() -> Vec<u8> {
    pattern(17, INIT_LEN)
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(31) ^ seed.wrapping_mul(7)) as u8).collect()
}

fn free_port(host: &str) -> u16 {
    let ip: IpAddr = host.parse().expect("an address");
    let tcp = TcpListener::bind((ip, 0)).expect("a free port");
    let port = tcp.local_addr().expect("its number").port();
    UdpSocket::bind((ip, port)).expect("the same port for datagrams").local_addr().expect("its number").port()
}

impl End {
    fn server(kind: Kind) -> Self {
        Self::server_at(kind, "", free_port(kind.host))
    }

    fn server_at(kind: Kind, more: &str, port: u16) -> Self {
        let bind = SocketAddr::new(kind.host.parse().expect("an address"), port);
        Self::open(kind, &format!("-i t -s --bind {bind} {} {more}", kind.flags), port, None)
    }

    fn client(kind: Kind, port: u16) -> Self {
        let server = SocketAddr::new(kind.host.parse().expect("an address"), port);
        Self::open(kind, &format!("-i t -c {server} {}", kind.flags), port, None)
    }

    fn open(kind: Kind, line: &str, port: u16, hint: Option<SocketAddr>) -> Self {
        let poll = Poll::new().expect("a poll");
        let registry = poll.registry().try_clone().expect("its registry");
        let waker = Arc::new(Waker::new(&registry, RESOLVER_TOKEN).expect("a waker"));
        // As if everything were reached through loopback, whose index is 1; the real answers are asked for in the
        // namespaces' tests.
        let surroundings = Surroundings {
            connected_subnets: || Ok(Vec::new()),
            interface_towards: |_, _| Ok(1),
            mtu_towards: |_, _, _| Ok(1500),
        };
        let config =
            Config::new(&options(line), &|_, _| None, &KeyFiles::from_environment()).expect("a legal configuration");
        let context = Context { registry, waker, surroundings, mode: kind.mode, hint };
        let transport = transport::open(&config.link, context, Instant::now()).expect("an open transport");
        let (offered, ended, inbox, sources) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mode, live) = (kind.mode, None);
        let mut end =
            Self { poll, transport, port, mode, adopts: true, live, offered, ended, inbox, sources, last_source: None };
        end.settle();
        end
    }

    fn settle(&mut self) {
        while let Some(event) = self.transport.poll_link() {
            match event {
                LinkEvent::Up(path, _) => {
                    self.offered.push(path);
                    if self.adopts {
                        self.transport.adopt(path, Instant::now());
                        self.live = Some(path);
                    }
                }
                LinkEvent::Down { path, reason, .. } => {
                    self.live.take_if(|live| *live == path);
                    self.ended.push(reason);
                }
                LinkEvent::Limit(..) => {}
            }
        }
    }

    /// Waits for an event or a deadline of the transport, at most for `patience`, and handles it.
    fn turn(&mut self, patience: Duration) {
        let now = Instant::now();
        let deadline = self.transport.poll_timeout().map(|at| at.saturating_duration_since(now));
        let sleep =
            if self.transport.can_receive() { Duration::ZERO } else { deadline.unwrap_or(patience).min(patience) };
        let mut events = Events::with_capacity(16);
        self.poll.poll(&mut events, Some(sleep)).expect("events");
        let now = Instant::now();
        for event in &events {
            self.transport.handle_event(event, now);
        }
        if self.transport.poll_timeout().is_some_and(|at| at <= now) {
            self.transport.handle_timeout(now);
        }
        self.settle();
        self.take_messages(64, now);
        self.settle();
    }

    /// Takes the messages of one receive call.
    fn take_messages(&mut self, budget: usize, now: Instant) {
        let before = self.inbox.len();
        let Self { inbox, sources, .. } = self;
        self.transport.receive_each(budget, now, &mut |path, info, message| {
            inbox.push(message.to_vec());
            sources.push((path, info.peer));
        });
        let count = self.inbox.len() - before;
        self.transport.finish_receive(count, now);
        let from = self.sources.len() - count;
        self.last_source = self.sources.last().map(|(_, source)| *source).or(self.last_source);
        if self.mode != Mode::Plain && self.adopts {
            for (path, _) in self.sources.split_off(from) {
                self.transport.adopt(path, now);
                self.live = Some(path);
            }
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(Instant::now() < end, "{what} has not come");
            self.turn(Duration::from_millis(100));
        }
    }

    fn collect(&mut self, message: &[u8]) {
        let taken = self.transport.send_with(message.len(), Instant::now(), &mut |room| room.copy_from_slice(message));
        assert!(taken, "a message of {} bytes is taken", message.len());
    }

    fn send(&mut self, message: &[u8]) {
        self.until("room", |end| end.transport.can_send());
        self.collect(message);
        self.transport.flush(Instant::now());
    }

    /// The next message; the other end is kept running meanwhile.
    fn receive(&mut self, other: &mut Self) -> Vec<u8> {
        let end = Instant::now() + DEADLINE;
        while self.inbox.is_empty() {
            assert!(Instant::now() < end, "no message has come");
            other.turn(Duration::ZERO);
            self.turn(Duration::from_millis(5));
        }
        self.inbox.remove(0)
    }
}

fn options(line: &str) -> Options {
    simpletun::cli::Cli::from_arguments(std::iter::once("simpletun").chain(line.split_whitespace()))
        .expect("legal flags")
        .options
}
