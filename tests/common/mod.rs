//! Harness of the integration tests: namespaces wired together, daemons in them, peers that are not ours, and waits
//! that end on an event or on a deadline that says what was awaited. Every test process has namespaces of its own
//! (`scripts/netns-runner.sh`), so names are free and nothing needs to be cleaned up.
#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

/// Makes each test once for each row: `rows! { (tcp: "", udp: "--udp") { a_test another_test } }`.
macro_rules! rows {
    (($($row:ident: $value:expr),+) $tests:tt) => { $( rows! { @ $row $value, $tests } )+ };
    (@ $row:ident $value:expr, { $($test:ident)* }) => {
        mod $row {
            $(#[test] fn $test() { super::$test($value); })*
        }
    };
}

/// Each test once over TCP and once over UDP.
macro_rules! over_both {
    ($($test:ident)*) => { rows! { (tcp: "", udp: "--udp") { $($test)* } } };
}

/// Each test once for each kind of link: plain and secure, over TCP and over UDP.
macro_rules! over_all {
    ($($test:ident)*) => {
        rows! {
            (
                plain_tcp: crate::common::pair::Kind::PLAIN_TCP,
                plain_udp: crate::common::pair::Kind::PLAIN_UDP,
                secure_tcp: crate::common::pair::Kind::SECURE_TCP,
                secure_udp: crate::common::pair::Kind::SECURE_UDP
            ) { $($test)* }
        }
    };
}

pub mod container;
pub mod daemon;
pub mod fault_wire;
pub mod forge;
pub mod frames;
pub mod inspect;
pub mod known_keys;
pub mod lab;
pub mod lan;
pub mod names;
pub mod net;
pub mod pair;
pub mod peer;
pub mod secure;
pub mod secure_peer;
pub mod traffic;
pub mod wait;

/// What the daemon prints, as far as tests rely on it. Kept here so that a change of wording is one change.
pub mod line {
    /// A server that can be connected to.
    pub const LISTENING: &str = "listening on";
    /// A plain UDP client that has somewhere to send to.
    pub const SENDING: &str = "sending to";
    /// Attached to the device; the device's real name follows.
    pub const DEVICE: &str = "device ";
    pub const UP: &str = "tunnel up";
    pub const DOWN: &str = "tunnel down";
    /// The connection of a secure link has ended, for a while perhaps.
    pub const INTERRUPTED: &str = "tunnel interrupted";
    pub const RESUMED: &str = "tunnel resumed";
    pub const MOVED: &str = "peer moved";
    /// A secure link says how its messages are sealed, and whether super-packets cross whole.
    pub const SESSION: &str = "secure session";
    /// Somebody has other keys.
    pub const WRONG_KEY: &str = "was made with another secret or other keys";
    /// A server over TCP did not like us.
    pub const CLOSED_UNANSWERED: &str = "closed the connection without an answer";
    /// What the device's offload can do, or that it is off.
    pub const OFFLOAD: &str = "offload ";
    /// Asked for with USR2; `key=value` pairs follow.
    pub const STATISTICS: &str = "statistics";
}

/// Keys of the statistics lines.
pub mod stat {
    pub const HANDSHAKES: &str = "handshakes";
    pub const DEVICE_RX_PACKETS: &str = "device-rx-packets";
    pub const DEVICE_TX_PACKETS: &str = "device-tx-packets";
    pub const NETWORK_RX_PACKETS: &str = "network-rx-packets";
    pub const NETWORK_TX_PACKETS: &str = "network-tx-packets";
    pub const NETWORK_TX_BYTES: &str = "network-tx-bytes";
    pub const DROP_INVALID: &str = "drop-invalid";
    pub const DROP_ROUTING_LOOP: &str = "drop-routing-loop";
    pub const DROP_DEVICE_DOWN: &str = "drop-device-down";
    pub const DROP_NOT_A_MESSAGE: &str = "drop-not-a-message";
    pub const DROP_BAD_HANDSHAKE: &str = "drop-bad-handshake";
    pub const DROP_HANDSHAKE_REPLAYED: &str = "drop-handshake-replayed";
    pub const DROP_HANDSHAKE_REFUSED: &str = "drop-handshake-refused";
    pub const DROP_UNKNOWN_SESSION: &str = "drop-unknown-session";
    pub const DROP_REPLAYED: &str = "drop-replayed";
    pub const DROP_NOT_AUTHENTIC: &str = "drop-not-authentic";
    pub const DROP_BAD_SUPER: &str = "drop-bad-super";
    /// Times that the tunnel came up.
    pub const UPS: &str = "ups";
    /// Connections and datagram peers so far.
    pub const LINK_PATHS: &str = "link-paths";
    /// Connections that were closed before they had authenticated themselves.
    pub const LINK_STRANGERS: &str = "link-strangers";
}
