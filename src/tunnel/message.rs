//! The messages of a secure link as bytes (`docs/PROTOCOL.md`, "Messages"). Pure: it knows lengths and offsets, no keys.
//!
//! Every field has one reader and one writer. Lengths are checked once, where a slice becomes an array; what is behind
//! that cannot fail.

use std::fmt;
use std::time::Duration;

use byteorder::{BigEndian, ByteOrder};

use super::crypto::{MAC_LEN, TAG_LEN};
use super::meter;
use crate::config::LinkLayer;

/// The version of everything here.
pub const VERSION: u8 = 1;

/// First bytes of the messages.
pub const INIT: u8 = 0xf0;
/// See [`INIT`].
pub const RESP: u8 = 0xf1;
/// See [`INIT`].
pub const DATA: u8 = 0xf4;
/// See [`INIT`].
pub const SUPER: u8 = 0xf5;
/// See [`INIT`].
pub const CTRL: u8 = 0xf6;
/// See [`INIT`].
pub const FRAG: u8 = 0xf7;

/// Length of P1 and P2 in bytes.
pub const P1_LEN: usize = 96;
/// See [`P1_LEN`].
pub const P2_LEN: usize = 64;

/// Bytes in front of the Noise message.
pub const INIT_HEADER_LEN: usize = 8;
/// See [`INIT_HEADER_LEN`].
pub const RESP_HEADER_LEN: usize = 12;

/// Length of a RESP in bytes: header, ephemeral key, P2 with its tag, mac1.
pub const RESP_LEN: usize = RESP_HEADER_LEN + 32 + P2_LEN + TAG_LEN + MAC_LEN;

/// Bytes in front of the ciphertext of DATA, SUPER and CTRL.
pub const HEADER_LEN: usize = 16;

/// What sealing adds to a packet.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

const _: () = assert!(RESP_LEN == 140 && OVERHEAD == 32);

/// The bits of a feature field.
pub const FEATURE_AES: u32 = 1 << 0;
/// See [`FEATURE_AES`].
pub const FEATURE_SUPER_TCP_V4: u32 = 1 << 1;
/// See [`FEATURE_AES`].
pub const FEATURE_SUPER_TCP_V6: u32 = 1 << 2;
/// See [`FEATURE_AES`].
pub const FEATURE_SUPER_UDP: u32 = 1 << 3;
/// See [`FEATURE_AES`].
pub const FEATURE_FRAGMENTS: u32 = 1 << 4;
/// See [`FEATURE_AES`].
pub const FEATURE_AES_ONLY: u32 = 1 << 6;
/// The features that only a reliable path has.
pub const FEATURES_RELIABLE: u32 = FEATURE_SUPER_TCP_V4 | FEATURE_SUPER_TCP_V6 | FEATURE_SUPER_UDP;

/// Flag of DATA: the sender has made the transport checksum of the packet, for data that was intact.
pub const FLAG_CHECKSUM_MADE: u16 = 1;

/// Which secrets a link is made with; the numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Key pairs.
    Keys = 1,
    /// One shared secret.
    Secret = 2,
}

impl Suite {
    /// The Noise protocol.
    pub fn noise_name(self) -> &'static str {
        match self {
            Self::Keys => "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
            Self::Secret => "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s",
        }
    }

    /// Where the PSK goes into the Noise protocol.
    pub fn psk_place(self) -> u8 {
        match self {
            Self::Keys => 2,
            Self::Secret => 0,
        }
    }

    /// Length of an INIT in bytes: header, ephemeral key, static key with its tag (key pairs only), P1 with its tag, mac1.
    pub const fn init_len(self) -> usize {
        let statics = match self {
            Self::Keys => 32 + TAG_LEN,
            Self::Secret => 0,
        };
        INIT_HEADER_LEN + 32 + statics + P1_LEN + TAG_LEN + MAC_LEN
    }
}

const _: () = assert!(Suite::Keys.init_len() == 216 && Suite::Secret.init_len() == 168);

/// Which side of the link an end is; the numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `-c`.
    Connect = 1,
    /// `-s`.
    Listen = 2,
}

impl Side {
    /// The other end's side.
    pub fn other(self) -> Self {
        match self {
            Self::Connect => Self::Listen,
            Self::Listen => Self::Connect,
        }
    }
}

/// Wall clock time: seconds since 1970 and nanoseconds. Ordered as time is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    seconds: u64,
    nanoseconds: u32,
}

/// Length of a timestamp in bytes.
const TIMESTAMP_LEN: usize = 12;

impl Timestamp {
    /// The moment this long after the beginning of 1970.
    pub fn since_1970(time: Duration) -> Self {
        Self { seconds: time.as_secs(), nanoseconds: time.subsec_nanos() }
    }

    /// The next greater one; the greatest of all is its own.
    #[must_use]
    pub fn successor(self) -> Self {
        match self.nanoseconds.checked_add(1) {
            Some(nanoseconds) => Self { nanoseconds, ..self },
            None => match self.seconds.checked_add(1) {
                Some(seconds) => Self { seconds, nanoseconds: 0 },
                None => self,
            },
        }
    }

    /// How much later `other` is, in whole seconds.
    pub fn seconds_until(self, other: Self) -> u64 {
        other.seconds.saturating_sub(self.seconds)
    }

    fn read(bytes: &[u8]) -> Self {
        Self { seconds: BigEndian::read_u64(bytes), nanoseconds: BigEndian::read_u32(&bytes[8..TIMESTAMP_LEN]) }
    }

    fn write(self, bytes: &mut [u8]) {
        BigEndian::write_u64(bytes, self.seconds);
        BigEndian::write_u32(&mut bytes[8..TIMESTAMP_LEN], self.nanoseconds);
    }
}

/// A run of the program: drawn once at the start.
pub type Instance = [u8; 16];

/// What the initiator says of itself (P1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Greater than every one sent before.
    pub timestamp: Timestamp,
    /// Kind of device; `None` if the number is unknown.
    pub kind: Option<LinkLayer>,
    /// MTU of the device in bytes; 0 if not known.
    pub mtu: u16,
    /// What it can do.
    pub features: u32,
    /// Its run.
    pub instance: Instance,
    /// Which of several tunnels; zero in this version.
    pub tunnel: [u8; 16],
    /// After which silence it takes the link for down, in milliseconds.
    pub down_after_ms: u32,
}

impl Offer {
    /// Reads P1.
    pub fn parse(bytes: &[u8; P1_LEN]) -> Self {
        Self {
            timestamp: Timestamp::read(&bytes[..12]),
            kind: kind_from_wire(bytes[12]),
            mtu: BigEndian::read_u16(&bytes[14..16]),
            features: BigEndian::read_u32(&bytes[16..20]),
            instance: array(&bytes[20..36]),
            tunnel: array(&bytes[36..52]),
            down_after_ms: BigEndian::read_u32(&bytes[52..56]),
        }
    }

    /// Writes P1.
    pub fn to_bytes(self) -> [u8; P1_LEN] {
        let mut bytes = [0; P1_LEN];
        self.timestamp.write(&mut bytes[..12]);
        bytes[12] = self.kind.map_or(0, kind_to_wire);
        bytes[13] = 1;
        BigEndian::write_u16(&mut bytes[14..16], self.mtu);
        BigEndian::write_u32(&mut bytes[16..20], self.features);
        bytes[20..36].copy_from_slice(&self.instance);
        bytes[36..52].copy_from_slice(&self.tunnel);
        BigEndian::write_u32(&mut bytes[52..56], self.down_after_ms);
        bytes
    }
}

/// What the responder makes of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The session stands.
    Ok = 0,
    /// The timestamp is not greater than the greatest one seen.
    Stale = 1,
    /// The devices are of different kinds.
    Kind = 2,
    /// Something is insisted on that the other end has not.
    Feature = 3,
    /// Another instance with the same key is there and alive.
    Busy = 4,
}

impl Status {
    fn from_wire(number: u8) -> Option<Self> {
        [Self::Ok, Self::Stale, Self::Kind, Self::Feature, Self::Busy]
            .into_iter()
            .find(|status| *status as u8 == number)
    }
}

/// What the responder says of itself (P2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether the session stands; `None` if the number is unknown.
    pub status: Option<Status>,
    /// The number of the AEAD.
    pub aead: u8,
    /// Kind of device; `None` if the number is unknown.
    pub kind: Option<LinkLayer>,
    /// MTU of the device in bytes; 0 if not known.
    pub mtu: u16,
    /// What both ends want.
    pub features: u32,
    /// Its run.
    pub instance: Instance,
    /// With [`Status::Stale`] the greatest timestamp seen.
    pub last_timestamp: Timestamp,
}

impl Answer {
    /// Reads P2.
    pub fn parse(bytes: &[u8; P2_LEN]) -> Self {
        Self {
            status: Status::from_wire(bytes[0]),
            aead: bytes[1],
            kind: kind_from_wire(bytes[2]),
            mtu: BigEndian::read_u16(&bytes[4..6]),
            features: BigEndian::read_u32(&bytes[8..12]),
            instance: array(&bytes[12..28]),
            last_timestamp: Timestamp::read(&bytes[28..40]),
        }
    }

    /// Writes P2.
    pub fn to_bytes(self) -> [u8; P2_LEN] {
        let mut bytes = [0; P2_LEN];
        bytes[0] = self.status.map_or(u8::MAX, |status| status as u8);
        bytes[1] = self.aead;
        bytes[2] = self.kind.map_or(0, kind_to_wire);
        bytes[3] = 1;
        BigEndian::write_u16(&mut bytes[4..6], self.mtu);
        BigEndian::write_u32(&mut bytes[8..12], self.features);
        bytes[12..28].copy_from_slice(&self.instance);
        self.last_timestamp.write(&mut bytes[28..40]);
        bytes
    }
}

fn kind_to_wire(kind: LinkLayer) -> u8 {
    match kind {
        LinkLayer::Tun => 1,
        LinkLayer::Tap => 2,
    }
}

fn kind_from_wire(number: u8) -> Option<LinkLayer> {
    [LinkLayer::Tun, LinkLayer::Tap].into_iter().find(|kind| kind_to_wire(*kind) == number)
}

/// Copies a slice whose length the caller has fixed.
fn array<const LEN: usize>(bytes: &[u8]) -> [u8; LEN] {
    bytes.try_into().unwrap_or([0; LEN])
}

/// The clear header of DATA, SUPER and CTRL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The first byte.
    pub kind: u8,
    /// The lane.
    pub lane: u8,
    /// See [`FLAG_CHECKSUM_MADE`].
    pub flags: u16,
    /// The receiver's number of the session.
    pub receiver: u32,
    /// The counter.
    pub counter: u64,
}

impl Header {
    /// Reads it.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        Self {
            kind: bytes[0],
            lane: bytes[1],
            flags: BigEndian::read_u16(&bytes[2..4]),
            receiver: BigEndian::read_u32(&bytes[4..8]),
            counter: BigEndian::read_u64(&bytes[8..16]),
        }
    }

    /// Writes it for lane 0, without the counter, which belongs to whoever seals.
    pub fn unnumbered(kind: u8, flags: u16, receiver: u32) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = kind;
        BigEndian::write_u16(&mut bytes[2..4], flags);
        BigEndian::write_u32(&mut bytes[4..8], receiver);
        bytes
    }
}

/// Why an end says goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// It stops.
    Stops = 0,
    /// It begins anew.
    BeginsAnew = 1,
}

/// The plaintext of a CTRL message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Confirms a session.
    Empty,
    /// Asks for a PONG with this token; `len` is the length of the plaintext.
    Ping {
        /// Comes back in the answer.
        token: u64,
        /// Length of the plaintext in bytes.
        len: usize,
    },
    /// Answers a PING.
    Pong {
        /// The token of the ping.
        token: u64,
        /// The length of its plaintext.
        size: u16,
    },
    /// The sender ends its sessions.
    Close(u8),
    /// Belongs to a measurement.
    Measure(meter::wire::Message),
    /// None of this version, or malformed.
    Unknown,
}

/// Length of the plaintext of a PONG, and of the shortest PING, in bytes.
pub const PONG_LEN: usize = 11;

impl Control {
    /// Reads the plaintext.
    pub fn parse(plain: &[u8]) -> Self {
        match plain {
            [0, ..] => Self::Empty,
            [1, token @ ..] if plain.len() >= PONG_LEN => {
                Self::Ping { token: BigEndian::read_u64(token), len: plain.len() }
            }
            [2, rest @ ..] if plain.len() >= PONG_LEN => {
                Self::Pong { token: BigEndian::read_u64(rest), size: BigEndian::read_u16(&rest[8..]) }
            }
            [3, reason, ..] => Self::Close(*reason),
            _ => meter::wire::Message::parse(plain).map_or(Self::Unknown, Self::Measure),
        }
    }

    /// Writes the plaintext; a ping is as long as its `len` says, and never shorter than [`PONG_LEN`].
    pub fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Empty => vec![0],
            Self::Ping { token, len } => {
                let mut bytes = vec![0; len.max(PONG_LEN)];
                bytes[0] = 1;
                BigEndian::write_u64(&mut bytes[1..9], token);
                bytes
            }
            Self::Pong { token, size } => {
                let mut bytes = vec![0; PONG_LEN];
                bytes[0] = 2;
                BigEndian::write_u64(&mut bytes[1..9], token);
                BigEndian::write_u16(&mut bytes[9..11], size);
                bytes
            }
            Self::Close(reason) => vec![3, reason],
            Self::Measure(message) => message.to_bytes(),
            Self::Unknown => vec![u8::MAX],
        }
    }
}

/// True if this has the form of the first message of a secure link, of whichever suite. As an IP packet its version would
/// be 15, which does not exist.
pub fn looks_secure(message: &[u8]) -> bool {
    [Suite::Keys, Suite::Secret]
        .into_iter()
        .any(|suite| message.len() == suite.init_len() && message.starts_with(&[INIT, VERSION, suite as u8, 0]))
}

/// True if this is what a plain link of this kind would carry: somebody has forgotten to make that end secure. A guess
/// for the log alone.
pub fn looks_plain(kind: LinkLayer, message: &[u8]) -> bool {
    match kind {
        LinkLayer::Tun => {
            let v4 = |bytes: &[u8]| bytes[0] >> 4 == 4 && usize::from(BigEndian::read_u16(&bytes[2..])) == bytes.len();
            let v6 =
                |bytes: &[u8]| bytes[0] >> 4 == 6 && usize::from(BigEndian::read_u16(&bytes[4..])) + 40 == bytes.len();
            message.len() >= 20 && (v4(message) || v6(message))
        }
        LinkLayer::Tap => {
            let types: [u16; 4] = [0x0800, 0x0806, 0x86dd, 0x8100];
            message.len() >= 14 && types.contains(&BigEndian::read_u16(&message[12..14]))
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Keys => "keys",
            Self::Secret => "secret",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_offer_is_read_as_it_was_written(bytes in prop::collection::vec(any::<u8>(), P1_LEN)) {
            let offer = Offer::parse(&bytes.try_into().expect("the right length"));
            prop_assert_eq!(Offer::parse(&offer.to_bytes()), offer);
        }

        #[test]
        fn an_answer_is_read_as_it_was_written(bytes in prop::collection::vec(any::<u8>(), P2_LEN), status in 0u8..6) {
            let mut bytes: [u8; P2_LEN] = bytes.try_into().expect("the right length");
            bytes[0] = status;
            let answer = Answer::parse(&bytes);
            prop_assert_eq!(answer.status.is_some(), status < 5);
            prop_assert_eq!(Answer::parse(&answer.to_bytes()), answer);
        }

        #[test]
        fn controls_are_read_as_they_were_written(token: u64, len in PONG_LEN..2000, size: u16, reason: u8) {
            for control in [
                Control::Empty, Control::Ping { token, len }, Control::Pong { token, size }, Control::Close(reason)
            ] {
                prop_assert_eq!(Control::parse(&control.to_bytes()), control);
            }
        }

        #[test]
        fn no_plaintext_of_a_control_is_a_problem(plain in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Control::Ping { len, .. } = Control::parse(&plain) {
                prop_assert!(len >= PONG_LEN, "a pong must never be longer than its ping");
            }
        }

        #[test]
        fn timestamps_have_greater_successors(seconds in 0..u64::MAX, nanoseconds: u32) {
            let time = Timestamp { seconds, nanoseconds };
            prop_assert!(time.successor() > time);
            prop_assert_eq!(time.successor().successor() > time.successor(), true);
        }
    }

    #[test]
    fn the_greatest_timestamp_stays() {
        let last = Timestamp { seconds: u64::MAX, nanoseconds: u32::MAX };
        assert_eq!(last.successor(), last);
    }

    #[test]
    fn numbers_and_names_are_those_of_the_protocol() {
        assert_eq!([INIT, RESP, DATA, SUPER, CTRL], [0xf0, 0xf1, 0xf4, 0xf5, 0xf6]);
        let features = [FEATURE_AES, FEATURE_SUPER_TCP_V4, FEATURE_SUPER_TCP_V6, FEATURE_SUPER_UDP, FEATURE_AES_ONLY];
        assert_eq!(features, [1, 2, 4, 8, 64]);
        assert_eq!(FEATURES_RELIABLE, 14);
        assert_eq!([Suite::Keys, Suite::Secret].map(|suite| suite.to_string()), ["keys", "secret"]);
    }

    #[test]
    fn a_control_that_is_too_short_is_none() {
        for number in [1, 2] {
            let plain = [number; PONG_LEN];
            assert_ne!(Control::parse(&plain), Control::Unknown);
            for len in 1..PONG_LEN {
                assert_eq!(Control::parse(&plain[..len]), Control::Unknown, "{number} in {len} bytes");
            }
        }
        for plain in [&[][..], &[3], &[4; PONG_LEN]] {
            assert_eq!(Control::parse(plain), Control::Unknown);
        }
    }

    #[test]
    fn the_first_message_of_a_secure_link_is_known_by_its_length_and_its_beginning() {
        for suite in [Suite::Keys, Suite::Secret] {
            let mut message = vec![0; suite.init_len()];
            message[..4].copy_from_slice(&[INIT, VERSION, suite as u8, 0]);
            assert!(looks_secure(&message));
            assert!(!looks_secure(&message[..message.len() - 1]) && !looks_secure(&message[..4]));
            for byte in 0..4 {
                let mut changed = message.clone();
                changed[byte] ^= 3;
                assert!(!looks_secure(&changed), "{suite} with another byte {byte}");
            }
        }
    }

    #[test]
    fn packets_look_plain_and_messages_do_not() {
        let mut v4 = [0; 84];
        (v4[0], v4[3]) = (0x45, 84);
        let mut v6 = [0; 48];
        (v6[0], v6[5]) = (0x60, 8);
        assert!(looks_plain(LinkLayer::Tun, &v4) && looks_plain(LinkLayer::Tun, &v6));
        v4[3] = 83;
        v6[5] = 9;
        assert!(!looks_plain(LinkLayer::Tun, &v4) && !looks_plain(LinkLayer::Tun, &v4[..19]));
        assert!(!looks_plain(LinkLayer::Tun, &v6));
        let mut arp = [0; 60];
        (arp[12], arp[13]) = (8, 6);
        assert!(looks_plain(LinkLayer::Tap, &arp) && !looks_plain(LinkLayer::Tap, &arp[..13]));
        assert!(!looks_plain(LinkLayer::Tun, &[INIT; 168]) && !looks_plain(LinkLayer::Tap, &[INIT; 168]));
    }
}
