//! What a daemon tells about itself: the JSON schema of the control socket, described in `docs/STATUS.md`. Pure data.
//!
//! The schema only grows: a key keeps its meaning and its unit, and a reader ignores what it does not know. Only if that
//! had to be broken would [`SCHEMA`] get another number. Times are in seconds, sizes in bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the schema.
pub const SCHEMA: u32 = 1;

/// The whole answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The name of the instance: that of its configuration file, or else of its device.
    pub instance: String,
    /// The program's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// When it was started (RFC 3339, UTC).
    pub started: String,
    /// How long ago that was.
    pub uptime_seconds: f64,
    /// What the relay knows.
    #[serde(flatten)]
    pub report: Report,
}

/// What is known about the tunnel itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The device.
    pub device: DeviceStatus,
    /// `connect` or `listen`.
    pub role: String,
    /// `tcp` or `udp`.
    pub transport: String,
    /// Address and port of this end; nothing while there is no socket.
    pub local: Option<String>,
    /// Address and port of the peer, or where it is looked for.
    pub peer: Option<String>,
    /// How the link is protected.
    pub security: SecurityStatus,
    /// The state of the link.
    pub link: LinkStatus,
    /// What has passed.
    pub traffic: TrafficStatus,
    /// Packets that were dropped, by cause.
    pub drops: BTreeMap<String, u64>,
    /// What else is counted.
    pub counts: Counts,
    /// The round trip to the peer; nothing where it cannot be known.
    pub rtt_seconds: Option<f64>,
    /// Messages of the peer that were lost on the way; nothing where that cannot be known, or nothing is lost.
    pub loss: Option<LossStatus>,
    /// Age of the session of a secure link.
    pub handshake_age_seconds: Option<f64>,
    /// The path.
    pub path: PathStatus,
    /// Packets that wait for a full network.
    pub queue: QueueStatus,
    /// The two LANs that a tap joins; nothing of a tun.
    pub segment: Option<SegmentStatus>,
}

/// The device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceStatus {
    /// Its name at present.
    pub name: String,
    /// `tun` or `tap`.
    pub kind: String,
    /// Its MTU, if it is there.
    pub mtu: Option<u32>,
    /// It is up and has a carrier.
    pub carrier: Option<bool>,
    /// The daemon has created it.
    pub created: bool,
}

/// How the link is protected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityStatus {
    /// `plain`, `secret` or `keys`.
    pub mode: String,
    /// The cipher of the session: `aes-256-gcm` or `chacha20-poly1305`.
    pub aead: Option<String>,
    /// This end's public key.
    pub public_key: Option<String>,
    /// The public keys that the peer may have.
    pub peer_public_keys: Vec<String>,
}

/// The state of the link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkStatus {
    /// `unknown`, `waiting`, `connecting`, `up`, `interrupted` or `down`.
    pub state: String,
    /// Why the connection has ended, if it has.
    pub reason: Option<String>,
    /// When the state began (RFC 3339, UTC).
    pub since: String,
    /// How long ago that was.
    pub state_seconds: f64,
    /// The latest changes, the newest first.
    pub changes: Vec<ChangeStatus>,
}

/// A change of the link's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeStatus {
    /// When (RFC 3339, UTC).
    pub time: String,
    /// How long ago.
    pub age_seconds: f64,
    /// The state from then on.
    pub state: String,
    /// Why the connection has ended, if it has.
    pub reason: Option<String>,
}

/// Packets and bytes of packets, without what framing and sealing add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Amount {
    /// Packets; a super-packet that crosses whole is one.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What has passed, at the device and at the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficStatus {
    /// Read from the device.
    pub device_read: Amount,
    /// Written to the device.
    pub device_written: Amount,
    /// Received from the peer and accepted.
    pub network_received: Amount,
    /// Sent to the peer.
    pub network_sent: Amount,
}

/// What else is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Times that the peer was there again after the first time.
    pub reconnects: u64,
    /// Handshakes of a secure link that both ends have confirmed.
    pub handshakes: u64,
    /// Those of them that have replaced the session of a link that was up.
    pub rekeys: u64,
    /// Packets cut into fragments because the link carries no more.
    pub fragmented: u64,
    /// Packets sent in parts because the path carries no more.
    pub split: u64,
    /// Packets put together from parts.
    pub joined: u64,
    /// Packets whose senders were told what fits.
    pub answered_too_long: u64,
    /// Connections made or accepted, and datagram peers.
    pub paths: u64,
    /// Sources and attempts that the access rules or the limits have refused.
    pub refused: u64,
    /// Datagrams and connections of others than the peer.
    pub strangers: u64,
    /// Messages that the network did not take.
    pub send_errors: u64,
    /// Segments that TCP has sent once more, on the present connection.
    pub retransmits: Option<u64>,
}

/// Messages of the peer that were lost on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LossStatus {
    /// Which part, from 0 to 1, within the last 30 to 60 seconds.
    pub recent: f64,
    /// Messages that the peer has sent since the start, as far as is known.
    pub expected: u64,
    /// Those of them that have not arrived.
    pub lost: u64,
}

/// What the path carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathStatus {
    /// The path MTU, with the headers of IP and UDP or TCP.
    pub mtu: Option<u64>,
    /// How that is known: `interface`, `probed`, or `tcp` (by the kernel).
    pub mtu_source: Option<String>,
    /// The longest packet that crosses.
    pub max_packet: Option<u64>,
    /// What is done about the maximum segment size of connections inside: `auto`, `off` or a number.
    pub mss_clamp: String,
}

/// Packets that wait for a full network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueStatus {
    /// Bytes that wait now.
    pub bytes: u64,
    /// The most that have waited since the link was opened.
    pub most_bytes: u64,
    /// The most that may wait.
    pub limit_bytes: u64,
}

/// The segment of the two LANs that a tap joins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SegmentStatus {
    /// Loops are looked for.
    pub watches: bool,
    /// The loop that nothing is forwarded for at present: `lan`, `peer` or `flapping`.
    pub held: Option<String>,
    /// Time until all is forwarded again, if there is no sign of the loop until then.
    pub resume_seconds: Option<f64>,
    /// Times that it had to be held.
    pub holds: u64,
}

impl Status {
    /// All packets that were dropped.
    pub fn dropped(&self) -> u64 {
        self.report.drops.values().sum()
    }

    /// One with every key and no value that is its default, for tests and examples.
    #[cfg(test)]
    pub fn example() -> Self {
        let text = include_str!("example.json");
        serde_json::from_str(text).expect("the example is of the schema")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const DOCUMENT: &str = include_str!("../../docs/STATUS.md");

    fn keys_of(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    found.push(key.clone());
                    keys_of(value, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| keys_of(value, found)),
            _ => {}
        }
    }

    #[test]
    fn what_is_written_is_read_again_unchanged() {
        let example = Status::example();
        let text = serde_json::to_string(&example).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), example);
        let nothing = serde_json::to_string(&Status::default()).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&nothing).unwrap(), Status::default());
    }

    #[test]
    fn the_example_has_every_key_and_the_document_names_each() {
        let (mut of_example, mut of_schema) = (Vec::new(), Vec::new());
        let example: Value = serde_json::from_str(include_str!("example.json")).unwrap();
        keys_of(&example, &mut of_example);
        keys_of(&serde_json::to_value(Status::example()).unwrap(), &mut of_schema);
        of_example.sort();
        of_schema.sort();
        assert_eq!(of_example, of_schema, "the example is not the schema's");
        let counters = crate::counters::Counters::default();
        for key in of_schema.iter().map(String::as_str).chain(counters.drops().map(|(cause, _)| cause)) {
            assert!(DOCUMENT.contains(&format!("`{key}`")), "docs/STATUS.md lacks {key}");
        }
    }

    #[test]
    fn what_a_later_version_adds_is_ignored_and_what_is_missing_is_empty() {
        let status: Status = serde_json::from_str(r#"{"schema":1,"instance":"a","novelty":{"x":[1]}}"#).unwrap();
        assert_eq!((status.instance.as_str(), status.report.link.state.as_str()), ("a", ""));
    }
}
