//! What has to hold for one end of a secure link, with a session and without, whatever a stranger sends to it: nothing is
//! sent, delivered or changed because of it, and the link works afterwards as if nothing had been.

use std::time::{Duration, Instant};

use simpletun::config::{AeadChoice, LinkLayer};
use simpletun::offload::Checksum;
use simpletun::tunnel::identity::Identity;
use simpletun::tunnel::keys::SharedSecret;
use simpletun::tunnel::message::{DATA, INIT, OVERHEAD, RESP, RESP_LEN, Side};
use simpletun::tunnel::secure::{Endpoint, Limits, Persistence, Randomness, Secure, Settings};
use simpletun::tunnel::{Event, Opened, Path, PathInfo, Rejection, Transmit};

/// The path between the two, and the stranger's.
const PATH: Path = Path(1);
const OTHER: Path = Path(2);

/// The first byte chooses the link and what is already known of it, the second how the message is dressed, and the rest is the message:
/// as it is, or behind a header that leads it deeper in.
pub fn check(data: &[u8]) {
    let [choice, dress, rest @ ..] = data else { return };
    let bit = |number: u8| choice >> number & 1 == 1;
    let (reliable, established, at_server, tap, same_path) = (bit(0), bit(1), bit(2), bit(3), bit(4));
    let mut pair = Pair::new(reliable, if tap { LinkLayer::Tap } else { LinkLayer::Tun });
    if established {
        pair.establish();
    }
    let target = usize::from(at_server);
    let message = pair.dress(*dress, rest, target);
    // A connection by which it comes ends, and the session with it; a datagram from the peer's address does nothing.
    let path = if same_path && !reliable { PATH } else { OTHER };
    let end = &mut pair.ends[target];
    let (before, info) = (observe(&end.secure), end.info);
    let opened = end.secure.open(path, &info, &mut message.clone(), pair.now).map(|opened| opened == Opened::Nothing);
    assert!(opened.is_err(), "{opened:?} for {message:02x?}");
    assert_eq!(end.secure.poll_transmit(), None, "nothing is said to a stranger");
    while let Some(event) = end.secure.poll_event() {
        let ends = reliable && event == Event::PathRejected(path, Rejection::NotAuthentic);
        assert!(ends || matches!(event, Event::Notice(_)), "{event:?}");
    }
    assert_eq!(observe(&end.secure), before, "nothing changes");
    if !established {
        pair.establish();
    }
    pair.exchange();
}

fn observe(secure: &Secure) -> (Option<Path>, bool, Option<Instant>) {
    (secure.live_path(), secure.has_session(), secure.poll_timeout())
}

struct End {
    secure: Secure,
    info: PathInfo,
}

struct Pair {
    ends: [End; 2],
    kind: LinkLayer,
    now: Instant,
    /// The last message of each end.
    last: [Vec<u8>; 2],
}

impl Pair {
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn new(reliable: bool, kind: LinkLayer) -> Self {
        let now = Instant::now();
        let ends = [Side::Connect, Side::Listen].map(|side| {
            let settings = Settings {
                side,
                kind,
                mtu: 1440,
                aead: AeadChoice::Auto,
                fragments: true,
                keepalive: Duration::from_secs(3),
                down_after: Duration::from_secs(10),
                endpoint: Endpoint::Follows,
                persistence: Persistence::Forever,
                limits: Limits::default(),
            };
            let identity = Identity::with_secret(SharedSecret::from_bytes([7; 32]), side);
            let wall = Duration::from_secs(1_800_000_000);
            let random = Box::new(Counted(side as u8 * 64));
            let secure = Secure::new(settings, vec![identity], random, now, wall).expect("an end");
            let peer = std::net::SocketAddr::from(([192, 0, 2, side as u8], 1000));
            End { secure, info: PathInfo { reliable, max_message: 65_507, peer } }
        });
        Self { ends, kind, now, last: Default::default() }
    }

    /// The connecting end begins, and all messages arrive.
    fn establish(&mut self) {
        for end in &mut self.ends {
            let is_client = end.info.peer.ip() == std::net::IpAddr::from([192, 0, 2, 1]);
            if is_client {
                end.secure.link_up(PATH, end.info, self.now);
            }
        }
        for from in [0, 1, 0] {
            while let Some(Transmit { path, message }) = self.ends[from].secure.poll_transmit() {
                self.last[from].clone_from(&message);
                let (mut message, end) = (message, &mut self.ends[1 - from]);
                let opened = end.secure.open(path, &end.info, &mut message, self.now).map(drop);
                assert_eq!(opened, Ok(()), "the handshake goes on");
            }
        }
        for end in &mut self.ends {
            assert!(end.secure.has_session());
            while end.secure.poll_event().is_some() {}
        }
    }

    /// A message in a form that gets further than noise would.
    fn dress(&self, dress: u8, rest: &[u8], target: usize) -> Vec<u8> {
        let seen = &self.last[1 - target];
        match dress % 6 {
            0 => rest.to_vec(),
            1 => sized(&[&[INIT, 1, 2, 0], rest].concat(), 168),
            2 => sized(&[&[RESP, 1, 2, 0], rest].concat(), RESP_LEN),
            // Addressed to the session that stands.
            3 | 4 if seen.len() >= OVERHEAD => {
                let kind = if dress % 6 == 3 { DATA } else { dress };
                [&[kind, 0, 0, 0], &seen[4..8], &[0; 4], rest].concat()
            }
            // Something that was seen, with bytes of it changed: at the place of the first byte by the second.
            _ => {
                let mut message = seen.clone();
                for change in rest.chunks_exact(2) {
                    let at = usize::from(change[0]) % message.len().max(1);
                    if let Some(byte) = message.get_mut(at) {
                        *byte ^= change[1];
                    }
                }
                message
            }
        }
    }

    /// A packet each way.
    fn exchange(&mut self) {
        for from in [0, 1] {
            let packet = vec![if self.kind == LinkLayer::Tun { 0x45 } else { 2 }; 60];
            let len = self.ends[from].secure.message_len(packet.len(), self.now).expect("there is a session");
            let mut message = vec![0; len];
            self.ends[from].secure.seal(DATA, 0, &packet, &mut message, self.now);
            let end = &mut self.ends[1 - from];
            let opened = end.secure.open(PATH, &end.info, &mut message, self.now);
            assert_eq!(opened, Ok(Opened::Packet(&mut packet.clone(), Checksum::Unknown)), "the link works");
        }
    }
}

fn sized(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(len, 0);
    bytes
}

/// Different bytes each time.
struct Counted(u8);

impl Randomness for Counted {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        self.0 = self.0.wrapping_add(1);
        bytes.fill(self.0);
        true
    }
}
