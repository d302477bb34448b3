//! What every transport has to do, shown on loopback with the real sockets and no privileges. A new transport is one
//! line in `TRANSPORTS`.

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

/// Flags of a transport, and the address family that it is tried on.
const TRANSPORTS: [(&str, &str); 4] = [("", "127.0.0.1"), ("", "::1"), ("-U", "127.0.0.1"), ("-U", "::1")];

#[test]
fn messages_of_every_length_arrive_unaltered_and_in_order() {
    for (flags, host) in TRANSPORTS {
        let (mut client, mut server) = pair(flags, host);
        let lengths = [1, 2, 20, 576, 1500, 1499, 1500, 1500, 9000, 32_000, 65_507, 1, 65_507];
        for (index, len) in lengths.into_iter().enumerate() {
            client.send(&pattern(index, len));
            assert_eq!(server.receive(&mut client), pattern(index, len), "{flags} {host} {len}");
            server.send(&pattern(index + 100, len));
            assert_eq!(client.receive(&mut server), pattern(index + 100, len), "{flags} {host} {len}");
        }
    }
}

#[test]
fn a_burst_of_equal_messages_arrives_whole() {
    for (flags, host) in TRANSPORTS {
        let (mut client, mut server) = pair(flags, host);
        let burst: Vec<Vec<u8>> = (0..130).map(|index| pattern(index, 1200)).chain([pattern(130, 700)]).collect();
        burst.iter().for_each(|message| client.collect(message));
        client.transport.flush(Instant::now());
        for message in burst {
            assert_eq!(server.receive(&mut client), message, "{flags} {host}");
        }
    }
}

#[test]
fn empty_messages_are_handed_out_and_not_taken_for_the_end() {
    for (flags, host) in TRANSPORTS {
        let (mut client, mut server) = pair(flags, host);
        for message in [&b""[..], b"x", b"", b"y"] {
            client.send(message);
            assert_eq!(server.receive(&mut client), message, "{flags} {host}");
        }
    }
}

#[test]
fn a_message_too_long_for_the_wire_is_refused_and_the_next_passes() {
    for (flags, host) in TRANSPORTS {
        let (mut client, mut server) = pair(flags, host);
        let taken = client.transport.send_with(70_000, Instant::now(), &mut |_| panic!("there is no room for it"));
        assert!(!taken, "{flags} {host}");
        client.send(b"next");
        assert_eq!(server.receive(&mut client), b"next", "{flags} {host}");
    }
}

#[test]
fn what_a_newcomer_sends_is_held_until_it_is_adopted() {
    for (flags, host) in TRANSPORTS {
        let mut server = End::server(flags, host);
        server.adopts = false;
        let mut client = End::client(flags, host, server.port);
        client.until("the client's path", |end| end.live.is_some());
        client.send(b"early");
        server.until("the newcomer", |end| !end.offered.is_empty());
        let path = server.offered[0];
        server.turn(Duration::from_millis(50));
        assert_eq!(server.inbox.len(), 0, "{flags} {host}");
        server.transport.adopt(path, Instant::now());
        assert_eq!(server.receive(&mut client), b"early", "{flags} {host}");
    }
}

#[test]
fn a_rejected_newcomer_does_not_disturb_the_live_path() {
    for (flags, host) in TRANSPORTS {
        let (mut client, mut server) = pair(flags, host);
        server.adopts = false;
        let mut stranger = End::client(flags, host, server.port);
        stranger.until("the stranger's path", |end| end.live.is_some());
        stranger.send(b"let me in");
        server.until("the newcomer", |end| end.offered.len() == 2);
        server.transport.reject(server.offered[1], Rejection::Occupied, Instant::now());
        assert_eq!(server.transport.counters().strangers, 1, "{flags} {host}");
        client.send(b"still here");
        assert_eq!(server.receive(&mut client), b"still here", "{flags} {host}");
    }
}

#[test]
fn reconnecting_makes_a_new_path_that_works() {
    for (flags, host) in TRANSPORTS {
        let (mut client, mut server) = pair(flags, host);
        let old = client.live.expect("a live path");
        client.transport.reconnect(Instant::now());
        client.until("a new path", |end| end.live.is_some_and(|path| path != old));
        assert_eq!(client.ended, [DownReason::Requested], "{flags} {host}");
        client.send(b"again");
        assert_eq!(server.receive(&mut client), b"again", "{flags} {host}");
    }
}

#[test]
fn a_client_waits_for_a_server_that_is_not_there_yet() {
    for (flags, host) in TRANSPORTS {
        let port = free_port(host);
        let mut client = End::client(flags, host, port);
        client.turn(Duration::from_millis(300));
        let mut server = End::server_at(flags, host, port);
        let end = Instant::now() + DEADLINE;
        while server.inbox.is_empty() {
            assert!(Instant::now() < end, "{flags} {host}: nothing has arrived");
            client.turn(Duration::from_millis(20));
            if client.transport.can_send() {
                client.send(b"hello");
            }
            server.turn(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_peer_that_does_not_read_stops_the_sender_and_loses_nothing() {
    for host in ["127.0.0.1", "::1"] {
        let (mut client, mut server) = pair("", host);
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
            assert_eq!(server.receive(&mut client), pattern(index, 30_000), "{host}");
        }
        client.until("room again", |end| end.transport.can_send());
    }
}

#[test]
fn sources_that_the_rules_refuse_get_nowhere() {
    for (flags, host) in TRANSPORTS {
        let refusing = format!("{flags} --allow 192.0.2.0/24");
        let mut server = End::server(&refusing, host);
        let mut client = End::client(flags, host, server.port);
        client.until("the client's path", |end| end.live.is_some());
        client.send(b"let me in");
        server.until("the refusal", |end| end.transport.counters().refused > 0);
        assert!(server.offered.is_empty(), "{flags} {host}");
    }
}

/// One end: a transport with a poll of its own, which adopts every path that is offered.
struct End {
    poll: Poll,
    transport: Box<dyn Transport>,
    port: u16,
    adopts: bool,
    live: Option<Path>,
    offered: Vec<Path>,
    ended: Vec<DownReason>,
    inbox: Vec<Vec<u8>>,
}

fn pair(flags: &str, host: &str) -> (End, End) {
    let mut server = End::server(flags, host);
    let mut client = End::client(flags, host, server.port);
    client.until("the client's path", |end| end.live.is_some());
    // A datagram server learns of its peer by the first message.
    client.send(b"hello");
    assert_eq!(server.receive(&mut client), b"hello");
    (client, server)
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
    fn server(flags: &str, host: &str) -> Self {
        Self::server_at(flags, host, free_port(host))
    }

    fn server_at(flags: &str, host: &str, port: u16) -> Self {
        let bind = SocketAddr::new(host.parse().expect("an address"), port);
        Self::open(&format!("-i t -s --bind {bind} {flags}"), port)
    }

    fn client(flags: &str, host: &str, port: u16) -> Self {
        let server = SocketAddr::new(host.parse().expect("an address"), port);
        Self::open(&format!("-i t -c {server} {flags}"), port)
    }

    fn open(line: &str, port: u16) -> Self {
        let poll = Poll::new().expect("a poll");
        let registry = poll.registry().try_clone().expect("its registry");
        let waker = Arc::new(Waker::new(&registry, RESOLVER_TOKEN).expect("a waker"));
        // As if everything were reached through loopback, whose index is 1; the real answers are asked for in the
        // namespaces' tests.
        let surroundings = Surroundings { connected_subnets: || Ok(Vec::new()), interface_towards: |_, _| Ok(1) };
        let config =
            Config::new(&options(line), &|_, _| None, &KeyFiles::from_environment()).expect("a legal configuration");
        let context = Context { registry, waker, surroundings, mode: Mode::Plain, hint: None };
        let transport = transport::open(&config.link, context, Instant::now()).expect("an open transport");
        let (offered, ended, inbox) = (Vec::new(), Vec::new(), Vec::new());
        let mut end = Self { poll, transport, port, adopts: true, live: None, offered, ended, inbox };
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
        let inbox = &mut self.inbox;
        let before = inbox.len();
        self.transport.receive_each(64, now, &mut |_, _, message| inbox.push(message.to_vec()));
        self.transport.finish_receive(self.inbox.len() - before, now);
        self.settle();
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
