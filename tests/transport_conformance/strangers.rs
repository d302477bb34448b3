//! What the transports of secure links do with those that are not authenticated: they are heard, may be answered and
//! adopted, and cost a bounded amount of everything.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use simpletun::transport::DownReason;
use simpletun::tunnel::{Path, Rejection};
use socket2::{Domain, Socket, Type};

use super::{DEADLINE, End, INIT_LEN, Kind, free_port, hello, pair, pattern, plain, secure};

const UDP: [Kind; 2] = [secure("-U", "127.0.0.1"), secure("-U", "::1")];
const TCP: [Kind; 2] = [secure("", "127.0.0.1"), secure("", "::1")];
const TCP4: Kind = TCP[0];

/// Time in which something that must not come would have come.
const SILENCE: Duration = Duration::from_millis(100);

#[test]
fn strangers_are_heard_by_paths_of_their_own_and_answered_one_by_one() {
    for kind in UDP {
        let mut server = server(kind);
        let strangers: Vec<UdpSocket> = (0..3).map(|_| datagrams(&server, kind.host)).collect();
        for (index, stranger) in strangers.iter().enumerate() {
            stranger.send(&pattern(index, INIT_LEN)).expect("a datagram sent");
        }
        // All of them are waiting, so that one call brings them.
        std::thread::sleep(SILENCE);
        server.until("three messages", |end| end.inbox.len() == 3);
        assert!(server.offered.is_empty(), "{kind:?}: strangers are not announced");
        for (index, stranger) in strangers.iter().enumerate() {
            let address = stranger.local_addr().expect("an address");
            let at = server.inbox.iter().position(|message| *message == pattern(index, INIT_LEN)).expect("the message");
            let (path, source) = server.sources[at];
            assert_eq!(source, address, "{kind:?}");
            assert_eq!(server.sources.iter().filter(|(other, _)| *other == path).count(), 1, "{kind:?}");
            assert!(server.transport.send_to(path, &[index as u8; 9], Instant::now()), "{kind:?}");
            assert_eq!(received(stranger), Some(vec![index as u8; 9]), "{kind:?}");
        }
        assert!(strangers.iter().all(|stranger| received_soon(stranger).is_none()), "{kind:?}: one answer each");
        let (forgotten, _) = server.sources[0];
        strangers[0].send(b"again").expect("a datagram sent");
        server.until("a message more", |end| end.inbox.len() == 4);
        assert!(!server.transport.send_to(forgotten, b"late", Instant::now()), "{kind:?}");
        assert_ne!(server.sources[3].0, forgotten, "{kind:?}");
    }
}

#[test]
fn messages_go_to_the_source_that_was_adopted_last() {
    for kind in UDP {
        let mut server = server(kind);
        let (one, other) = (datagrams(&server, kind.host), datagrams(&server, kind.host));
        one.send(b"one").expect("a datagram sent");
        other.send(b"other").expect("a datagram sent");
        std::thread::sleep(SILENCE);
        server.until("both messages", |end| end.inbox.len() == 2);
        assert!(!has_peer(&mut server), "{kind:?}: there is no peer yet");
        let (first, second) = (server.sources[0].0, server.sources[1].0);
        for (path, socket) in [(first, &one), (second, &other), (first, &one), (second, &other)] {
            server.transport.adopt(path, Instant::now());
            server.send(b"for the peer");
            assert_eq!(received(socket).as_deref(), Some(&b"for the peer"[..]), "{kind:?}");
        }
        assert!(received_soon(&one).is_none(), "{kind:?}");
        // The peer keeps its path, the one that was left gets another.
        other.send(b"peer").expect("a datagram sent");
        one.send(b"stranger").expect("a datagram sent");
        server.until("both again", |end| end.inbox.len() == 4);
        for (message, (path, _)) in server.inbox[2..].iter().zip(&server.sources[2..]) {
            assert_eq!(*path == second, message == b"peer", "{kind:?}");
            assert_ne!(*path, first, "{kind:?}");
        }
        server.transport.reject(second, Rejection::Replaced, Instant::now());
        assert!(!has_peer(&mut server), "{kind:?}");
    }
}

#[test]
fn a_message_to_the_peer_alone_comes_behind_what_was_collected() {
    for kind in UDP.into_iter().chain(TCP) {
        let (mut client, mut server) = pair(kind);
        for end in [&mut client, &mut server] {
            end.collect(b"first");
            let live = end.live.expect("a live path");
            assert!(end.transport.send_to(live, b"second", Instant::now()), "{kind:?}");
            assert!(!end.transport.send_to(Path(u64::MAX), b"nobody", Instant::now()), "{kind:?}");
            assert_eq!(end.transport.counters().send_errors, 1, "{kind:?}");
        }
        assert_eq!([server.receive(&mut client), server.receive(&mut client)], [b"first".to_vec(), b"second".to_vec()]);
        assert_eq!([client.receive(&mut server), client.receive(&mut server)], [b"first".to_vec(), b"second".to_vec()]);
    }
}

#[test]
fn answers_leave_from_the_address_that_was_sent_to() {
    let kind = secure("-U", "0.0.0.0");
    let mut server = server(kind);
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    stranger.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let address = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 9).into(), server.port);
    stranger.connect(address).expect("a connected socket");
    stranger.send(b"hello").expect("a datagram sent");
    server.until("the message", |end| end.inbox.len() == 1);
    let path = server.sources[0].0;
    assert!(server.transport.send_to(path, b"answer", Instant::now()));
    assert_eq!(received(&stranger).as_deref(), Some(&b"answer"[..]));
    server.transport.adopt(path, Instant::now());
    server.send(b"more");
    assert_eq!(received(&stranger).as_deref(), Some(&b"more"[..]));
}

/// True if a message is taken, for whomever it may be.
fn has_peer(end: &mut End) -> bool {
    end.transport.send_with(4, Instant::now(), &mut |room| room.fill(1))
}

#[test]
fn a_server_expects_the_last_peer_unless_another_is_named_or_it_is_not_allowed() {
    let far: SocketAddr = "127.0.0.1:9".parse().expect("an address");
    for (flags, announced) in [("", 1), ("--allow 192.0.2.0/24", 0), ("--allow 127.0.0.0/8", 1)] {
        let line = format!("-i t -s -U --port {} {flags}", free_port("127.0.0.1"));
        let mut end = End::open(UDP[0], &line, 0, Some(far));
        assert_eq!(end.offered.len(), announced, "{flags}");
        assert_eq!(has_peer(&mut end), announced == 1, "{flags}");
        end.transport.reconnect(Instant::now());
        end.settle();
        assert_eq!((end.offered.len(), end.ended.len()), (2 * announced, announced), "{flags}");
        end.offered.drain(..).for_each(|path| end.transport.reject(path, Rejection::Replaced, Instant::now()));
        assert_eq!(end.transport.poll_timeout(), None, "{flags}: a guess that was wrong is not repeated");
        end.transport.reconnect(Instant::now());
        end.settle();
        assert_eq!(end.offered, [], "{flags}");
    }
    let remote = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = remote.local_addr().expect("an address");
    let line = format!("-i t -s -U --port {} --remote {address}", free_port("127.0.0.1"));
    let mut end = End::open(UDP[0], &line, 0, Some(far));
    end.send(b"first word");
    remote.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    assert_eq!(received(&remote).as_deref(), Some(&b"first word"[..]));
}

#[test]
fn a_peer_that_has_roamed_is_forgotten_by_reconnecting_and_the_target_is_announced_again() {
    for kind in UDP {
        let (mut client, mut server) = pair(kind);
        client.adopts = false;
        let away = UdpSocket::bind((kind.host, 0)).expect("a socket");
        server.send(b"tell me where you are");
        client.until("the server's message", |end| end.inbox.len() == 1);
        let client_at = server.last_source.expect("a message has come");
        away.send_to(b"over here", client_at).expect("a datagram sent");
        client.until("the message from elsewhere", |end| end.inbox.len() == 2);
        client.transport.adopt(client.sources[1].0, Instant::now());
        let target = client.live.expect("the target");
        client.transport.reconnect(Instant::now());
        assert!(!has_peer(&mut client), "{kind:?}");
        client.settle();
        assert_eq!(client.ended, [DownReason::Requested; 2], "{kind:?}");
        let again = *client.offered.last().expect("the target, announced again");
        assert_ne!(again, target, "{kind:?}");
        client.transport.adopt(again, Instant::now());
        client.send(b"home again");
        assert_eq!(server.receive(&mut client), b"home again", "{kind:?}");
    }
}

#[test]
fn a_connection_is_heard_unannounced_answered_and_adopted_with_all_that_it_has_sent() {
    for kind in TCP {
        let mut server = server(kind);
        let mut strangers = [connect(&server, kind.host), connect(&server, kind.host)];
        for (index, stranger) in strangers.iter_mut().enumerate() {
            send_frame(stranger, &pattern(index, INIT_LEN));
            server.until("its first message", |end| end.inbox.len() == index + 1);
            assert_eq!(server.sources[index].1, stranger.local_addr().expect("an address"), "{kind:?}");
        }
        assert!(server.offered.is_empty() && !server.transport.can_send(), "{kind:?}");
        let (other, path) = (server.sources[0].0, server.sources[1].0);
        assert_ne!(path, other, "{kind:?}");
        assert!(server.transport.send_to(path, b"answer", Instant::now()), "{kind:?}");
        assert_eq!(read_frame(&mut strangers[1]), Some(b"answer".to_vec()), "{kind:?}");
        assert!(!has_bytes(&mut strangers[0]), "{kind:?}: it was not answered");
        let [_, peer] = &mut strangers;
        let frames: Vec<Vec<u8>> = (0..40).map(|index| pattern(index, 1 + index * 731)).collect();
        let mut stream: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
        let tail = stream.split_off(stream.len() - 100);
        peer.write_all(&stream).expect("bytes sent");
        std::thread::sleep(SILENCE);
        server.take_messages(64, Instant::now());
        let taken = server.inbox.len() - 2;
        assert!((1..10).contains(&taken), "{kind:?}: {taken} messages of one that is not adopted in one turn");
        server.transport.adopt(path, Instant::now());
        server.live = Some(path);
        peer.write_all(&tail).expect("bytes sent");
        server.until("everything", |end| end.inbox.len() == 2 + frames.len());
        assert_eq!(server.inbox[2..], frames, "{kind:?}");
        assert!(server.sources[2..].iter().all(|(from, _)| *from == path), "{kind:?}");
        server.send(&pattern(1, 60_000));
        assert_eq!(read_frame(peer), Some(pattern(1, 60_000)), "{kind:?}");
    }
}

#[test]
fn the_connection_that_was_live_is_closed_when_another_is_adopted() {
    for kind in TCP {
        let (mut client, mut server) = pair(kind);
        server.adopts = false;
        let mut successor = connect(&server, kind.host);
        send_frame(&mut successor, &hello());
        server.until("its first message", |end| end.inbox.len() == 1);
        client.send(b"still live");
        server.until("a message beside it", |end| end.inbox.len() == 2);
        let (old, path) = (server.live.expect("a live path"), server.sources[0].0);
        server.transport.adopt(path, Instant::now());
        server.transport.reject(old, Rejection::Replaced, Instant::now());
        client.until("its end", |end| end.ended == [DownReason::Closed]);
        server.send(b"now you");
        assert_eq!(read_frame(&mut successor), Some(b"now you".to_vec()), "{kind:?}");
        assert!(server.ended.is_empty(), "{kind:?}");
    }
}

#[test]
fn a_first_message_that_comes_byte_by_byte_is_one() {
    let mut server = server(TCP4);
    let mut stranger = connect(&server, TCP4.host);
    for byte in framed(&hello()) {
        stranger.write_all(&[byte]).expect("a byte sent");
        server.turn(Duration::from_millis(1));
    }
    server.until("the message", |end| !end.inbox.is_empty());
    assert_eq!(server.inbox, [hello()]);
}

#[test]
fn a_frame_of_another_length_ends_a_strangers_connection_without_a_byte() {
    for len in [0, 1, INIT_LEN - 1, INIT_LEN + 1, 65_535] {
        let mut server = server(TCP4);
        let mut stranger = connect(&server, TCP4.host);
        stranger.write_all(&framed(&pattern(0, len))[..2 + len.min(4000)]).expect("bytes sent");
        server.until("its end", |end| end.transport.counters().strangers == 1);
        assert!(server.inbox.is_empty() && server.ended.is_empty(), "{len}");
        assert_eq!(end_of(&mut stranger), Ok(0), "{len}: it is closed, not reset");
    }
}

#[test]
fn a_stranger_that_is_rejected_is_closed_without_a_byte() {
    let mut server = server(TCP4);
    let mut stranger = connect(&server, TCP4.host);
    stranger.write_all(&[framed(&hello()), framed(&pattern(3, 3000))].concat()).expect("bytes sent");
    server.until("its first message", |end| !end.inbox.is_empty());
    server.transport.reject(server.sources[0].0, Rejection::Replaced, Instant::now());
    assert_eq!(end_of(&mut stranger), Ok(0));
    assert_eq!((server.inbox.len(), server.transport.counters().strangers), (1, 1));
}

#[test]
fn strangers_have_five_seconds_and_the_live_connection_has_for_ever() {
    let (mut client, mut server) = pair(TCP4);
    server.adopts = false;
    let mut strangers = [connect(&server, TCP4.host), connect(&server, TCP4.host)];
    strangers[0].write_all(&[0]).expect("a byte sent");
    send_frame(&mut strangers[1], &hello());
    server.until("one message", |end| !end.inbox.is_empty());
    server.until("both", |end| end.transport.poll_timeout().is_some());
    let answered = server.sources[0].0;
    assert!(server.transport.send_to(answered, b"answer", Instant::now()));
    assert_eq!(read_frame(&mut strangers[1]), Some(b"answer".to_vec()));
    server.turn(SILENCE);
    let now = Instant::now();
    server.transport.handle_timeout(now + Duration::from_secs(4));
    assert_eq!(server.transport.counters().strangers, 0);
    server.transport.handle_timeout(now + Duration::from_secs(5));
    assert_eq!(server.transport.counters().strangers, 2);
    assert_eq!(server.transport.poll_timeout(), None);
    server.settle();
    assert_eq!(server.ended, [DownReason::Timeout], "the tunnel knows the one that it has answered");
    strangers.iter_mut().for_each(|stranger| assert_eq!(end_of(stranger), Ok(0)));
    client.send(b"still here");
    server.inbox.clear();
    assert_eq!(server.receive(&mut client), b"still here");
}

#[test]
fn one_address_has_eight_places_and_the_one_that_was_adopted_last_has_them_always() {
    let kind = secure("", "0.0.0.0");
    let mut server = server(kind);
    let mut peer = connect_from([127, 0, 0, 200], server.port);
    send_frame(&mut peer, &hello());
    server.until("the peer", |end| !end.inbox.is_empty());
    server.transport.adopt(server.sources[0].0, Instant::now());
    let mut strangers = Vec::new();
    for host in 1..=8 {
        for attempt in 1..=10 {
            let mut stranger = connect_from([127, 0, 0, host], server.port);
            stranger.write_all(&[0]).expect("a byte sent");
            strangers.push(stranger);
            let expected = refusals(host, attempt);
            server.until("a decision", |end| end.transport.counters().refused >= expected);
        }
    }
    server.turn(SILENCE);
    assert_eq!(server.transport.counters().refused, 7 * 2 + 10, "56 of other addresses may wait");
    let held: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut again = connect_from([127, 0, 0, 200], server.port);
            again.write_all(&[0]).expect("a byte sent");
            again
        })
        .collect();
    server.until("two refusals", |end| end.transport.counters().refused == 7 * 2 + 10 + 2);
    server.turn(SILENCE);
    assert_eq!(server.transport.counters().refused, 7 * 2 + 10 + 2, "eight of {} wait", held.len());
}

/// Refusals once the host's attempt was decided about, when 56 places are there and 8 for each host.
fn refusals(host: u8, attempt: u64) -> u64 {
    let before = 2 * u64::from(host - 1);
    before + if host == 8 { attempt } else { attempt.saturating_sub(8) }
}

#[test]
fn a_thousand_connections_that_wait_do_not_disturb_the_live_one() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    setrlimit(Resource::RLIMIT_NOFILE, most.min(8192), most).expect("a higher limit");
    let (mut client, mut server) = pair(TCP4);
    let before = descriptors();
    for first_bytes in [&b""[..], &[0]] {
        let crowd: Vec<Socket> = (0..1000).map(|_| begin_to_connect(server.port)).collect();
        for (index, stranger) in crowd.iter().enumerate() {
            let _ = stranger.send(first_bytes);
            if index % 50 == 0 {
                client.send(&pattern(index, 1000));
                assert_eq!(server.receive(&mut client), pattern(index, 1000));
            }
        }
        (0..50).for_each(|_| server.turn(Duration::from_millis(2)));
        let held = descriptors() - before - crowd.len();
        assert!(held <= 8, "{held} of them are held");
        server.send(b"still here");
        assert_eq!(client.receive(&mut server), b"still here");
        assert_eq!(server.live, server.live.filter(|_| server.ended.is_empty()));
    }
    assert!(server.transport.counters().refused > 0);
}

#[test]
fn a_client_says_when_the_server_ends_the_connection_without_an_answer() {
    for (kind, expected) in [(TCP4, "without an answer"), (plain("", "127.0.0.1"), "without a byte")] {
        let lines = captured_lines();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        let expected = format!("The server at {address} closed the connection {expected}");
        let mut client = End::client(kind, address.port());
        let (mut answering, _) = listener.accept().expect("a connection");
        client.until("its path", |end| end.live.is_some());
        send_frame(&mut answering, &hello());
        client.until("the answer", |end| !end.inbox.is_empty());
        drop(answering);
        client.until("its end", |end| end.ended.len() == 1);
        assert_eq!(lines.count(&expected), 0, "{kind:?}: it had been answered");
        for attempt in 2..4 {
            client.until("its next path", |end| end.offered.len() == attempt);
            drop(listener.accept().expect("a connection"));
            client.until("its end", |end| end.ended.len() == attempt);
        }
        assert_eq!(lines.count(&expected), 1, "{kind:?}: once a minute");
    }
}

#[test]
fn a_plain_datagram_client_says_when_nothing_has_come_back_for_ten_seconds() {
    let lines = captured_lines();
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut client = End::client(plain("-U", "127.0.0.1"), silent.local_addr().expect("an address").port());
    let start = Instant::now();
    let expected = format!("Nothing has come from the peer at {}", silent.local_addr().expect("an address"));
    let mut send_at = |seconds| {
        let now = start + Duration::from_secs(seconds);
        assert!(client.transport.send_with(1, now, &mut |room| room.fill(0)));
        client.transport.flush(now);
        lines.count(&expected)
    };
    let said: Vec<usize> = [0, 9, 10, 11, 69, 70].into_iter().map(&mut send_at).collect();
    assert_eq!(said, [0, 0, 1, 1, 1, 2]);
    client.transport.finish_receive(1, start);
    assert!(client.transport.send_with(1, start + Duration::from_secs(200), &mut |room| room.fill(0)));
    assert_eq!(lines.count(&expected), 2, "a peer that was heard may be silent");
}

/// The log of this process from now on.
struct Lines(usize);

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.lock().expect("no panic elsewhere").push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn captured_lines() -> Lines {
    // The second time it is there already.
    let _ = log::set_logger(&Capture);
    log::set_max_level(log::LevelFilter::Warn);
    Lines(LINES.lock().expect("no panic elsewhere").len())
}

impl Lines {
    fn count(&self, text: &str) -> usize {
        LINES.lock().expect("no panic elsewhere")[self.0..].iter().filter(|line| line.contains(text)).count()
    }
}

/// A server that adopts nothing by itself.
fn server(kind: Kind) -> End {
    let mut server = End::server(kind);
    server.adopts = false;
    server
}

/// A datagram socket that is connected to a server.
fn datagrams(server: &End, host: &str) -> UdpSocket {
    let ip: IpAddr = host.parse().expect("an address");
    let socket = UdpSocket::bind((ip, 0)).expect("a socket");
    socket.connect((ip, server.port)).expect("a connected socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    socket
}

fn received(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 70_000];
    let len = socket.recv(&mut buffer).ok()?;
    Some(buffer[..len].to_vec())
}

fn received_soon(socket: &UdpSocket) -> Option<Vec<u8>> {
    socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
    let message = received(socket);
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    message
}

fn connect(server: &End, host: &str) -> TcpStream {
    let ip: IpAddr = host.parse().expect("an address");
    let stream = TcpStream::connect((ip, server.port)).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// A connection from an address of the loopback network.
fn connect_from(source: [u8; 4], port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(Ipv4Addr::from(source).into(), 0).into()).expect("a local address");
    socket.connect(&SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port).into()).expect("a connection");
    socket.into()
}

fn begin_to_connect(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("a socket");
    let _ = socket.connect(&SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port).into());
    socket
}

fn framed(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).expect("a legal length");
    [&len.to_be_bytes(), message].concat()
}

fn send_frame(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(&framed(message)).expect("a frame sent");
}

fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut header = [0; 2];
    stream.read_exact(&mut header).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(header))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// Bytes before the end of the stream, or the error that ended it.
fn end_of(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind())
}

fn has_bytes(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(SILENCE)).expect("a timeout");
    stream.read(&mut [0]).is_ok()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("the list of descriptors").count()
}
