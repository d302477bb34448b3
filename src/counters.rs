//! What has passed and what was dropped, by cause. Plain numbers that only grow; their names are part of the
//! statistics line and of everything that reads it.

use std::fmt;

use crate::transport::TransportCounters;

/// Packets and bytes in one place and direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Number of packets; a super-packet that stays whole counts as one.
    pub packets: u64,
    /// Bytes of the packets, without what framing, sealing and lower layers add.
    pub bytes: u64,
}

impl Traffic {
    /// Counts one packet.
    pub fn add(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
    }
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// From the device: no peer is there.
    NoPeer,
    /// From the device: longer than the link carries.
    TooLong,
    /// From the device: the transport did not take it.
    NotSent,
    /// From the device: a packet of the link itself, which is routed into the tunnel.
    RoutingLoop,
    /// From either side of a tap: it goes round between the LANs, or came while nothing crosses for that reason.
    BridgeLoop,
    /// From the device: a broadcast or multicast frame beyond what may cross in a second.
    BroadcastLimit,
    /// From either side of a tap: spanning tree, which is not to cross.
    Bpdu,
    /// From either side of a tap: of a VLAN that is not to cross.
    Vlan,
    /// From either side of a tap: of a protocol that is not to cross.
    EtherType,
    /// From the device: it had to wait for a full network, for too long (CoDel).
    QueueDelay,
    /// From the device: it had to wait for a full network, and there was no room.
    QueueFull,
    /// From the device: a super-packet whose header does not fit it.
    Malformed,
    /// From the network: too short, or neither IPv4 nor IPv6 on a tun device.
    Invalid,
    /// From the network: not from the live peer.
    NotLive,
    /// From the network: the first message of a secure link.
    WantsSecure,
    /// From the network: not of the form of a secure message.
    NotAMessage,
    /// From the network: a handshake of other keys, or an answer to nothing.
    BadHandshake,
    /// From the network: a handshake that came before.
    HandshakeReplayed,
    /// From the network: a handshake beyond what is looked at in a second.
    HandshakeLimited,
    /// From the network: a handshake that was refused, or crossed our own.
    HandshakeRefused,
    /// From the network: for no session.
    UnknownSession,
    /// From the network: a message that came before, or is too old.
    Replayed,
    /// From the network: not authentic.
    NotAuthentic,
    /// From the network: a super-packet whose header does not fit it.
    BadSuper,
    /// From the network: a packet in parts, of which some did not come in time or found no room.
    Incomplete,
    /// For the device: it is down.
    DeviceDown,
    /// For the device: the kernel does not take this packet.
    DeviceRefused,
    /// For the device: no room or memory.
    DeviceFull,
}

/// Every cause with its name in the statistics, in the order of the enumeration.
const DROPS: [(Drop, &str); 28] = [
    (Drop::NoPeer, "no-peer"),
    (Drop::TooLong, "too-long"),
    (Drop::NotSent, "not-sent"),
    (Drop::RoutingLoop, "routing-loop"),
    (Drop::BridgeLoop, "bridge-loop"),
    (Drop::BroadcastLimit, "broadcast-limit"),
    (Drop::Bpdu, "bpdu"),
    (Drop::Vlan, "vlan"),
    (Drop::EtherType, "ethertype"),
    (Drop::QueueDelay, "queue-delay"),
    (Drop::QueueFull, "queue-full"),
    (Drop::Malformed, "malformed"),
    (Drop::Invalid, "invalid"),
    (Drop::NotLive, "not-live"),
    (Drop::WantsSecure, "wants-secure"),
    (Drop::NotAMessage, "not-a-message"),
    (Drop::BadHandshake, "bad-handshake"),
    (Drop::HandshakeReplayed, "handshake-replayed"),
    (Drop::HandshakeLimited, "handshake-limited"),
    (Drop::HandshakeRefused, "handshake-refused"),
    (Drop::UnknownSession, "unknown-session"),
    (Drop::Replayed, "replayed"),
    (Drop::NotAuthentic, "not-authentic"),
    (Drop::BadSuper, "bad-super"),
    (Drop::Incomplete, "incomplete"),
    (Drop::DeviceDown, "device-down"),
    (Drop::DeviceRefused, "device-refused"),
    (Drop::DeviceFull, "device-full"),
];

/// The counters of one daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Read from the device, but for what was dropped while it waited for a full network, because it went round, or because
    /// it was not to cross.
    pub device_rx: Traffic,
    /// Written to the device.
    pub device_tx: Traffic,
    /// Taken from the network and accepted, but for frames that were not to cross.
    pub network_rx: Traffic,
    /// Given to the transport.
    pub network_tx: Traffic,
    /// Times that the peer came up.
    pub ups: u64,
    /// From the device: packets that were cut into fragments because the link carries no more.
    pub fragmented: u64,
    /// From the device: packets that were sent in parts, because the path carries no more.
    pub split: u64,
    /// From the network: packets that were put together.
    pub joined: u64,
    /// From the device: packets that were answered with what the link carries, beside being dropped as too long.
    pub answered_too_long: u64,
    /// Handshakes of a secure link that both ends have confirmed: its sessions so far.
    pub handshakes: u64,
    /// Those of them that have replaced the session of a link that was up.
    pub rekeys: u64,
    /// Times that an interrupted link went on.
    pub resumed: u64,
    drops: [u64; DROPS.len()],
}

impl Counters {
    /// Counts a dropped packet.
    pub fn drop_one(&mut self, cause: Drop) {
        self.drops[cause as usize] += 1;
    }

    /// Counts this many.
    pub fn drop_many(&mut self, cause: Drop, count: u64) {
        self.drops[cause as usize] += count;
    }

    /// Times that the peer was there again after the first time.
    pub fn reconnects(&self) -> u64 {
        self.ups.saturating_sub(1) + self.resumed
    }

    /// Every cause by its name, with the number of packets dropped for it.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        DROPS.iter().map(|(cause, name)| (*name, self.dropped(*cause)))
    }

    /// The number of packets dropped for this cause.
    pub fn dropped(&self, cause: Drop) -> u64 {
        self.drops[cause as usize]
    }
}

/// The statistics as `key=value` pairs in a fixed order: with the most bytes that have waited for a full network.
pub struct Statistics<'a>(pub &'a Counters, pub TransportCounters, pub usize);

impl fmt::Display for Statistics<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(counters, transport, most_waiting) = self;
        let places = [
            ("device-rx", counters.device_rx),
            ("network-tx", counters.network_tx),
            ("network-rx", counters.network_rx),
            ("device-tx", counters.device_tx),
        ];
        write!(formatter, "ups={} reconnects={}", counters.ups, counters.reconnects())?;
        write!(formatter, " handshakes={} rekeys={}", counters.handshakes, counters.rekeys)?;
        for (place, traffic) in places {
            write!(formatter, " {place}-packets={} {place}-bytes={}", traffic.packets, traffic.bytes)?;
        }
        for (cause, name) in DROPS {
            write!(formatter, " drop-{name}={}", counters.dropped(cause))?;
        }
        write!(formatter, " queue-most-bytes={most_waiting}")?;
        write!(formatter, " fragmented={} split={} joined={}", counters.fragmented, counters.split, counters.joined)?;
        write!(formatter, " answered-too-long={}", counters.answered_too_long)?;
        let TransportCounters { paths, refused, strangers, send_errors, too_long, truncated } = transport;
        write!(
            formatter,
            " link-paths={paths} link-refused={refused} link-strangers={strangers} link-send-errors={send_errors} \
             link-too-long={too_long} link-truncated={truncated}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_own_name_and_place() {
        let mut counters = Counters::default();
        for (index, (cause, _)) in DROPS.iter().enumerate() {
            assert_eq!(*cause as usize, index);
            (0..=index).for_each(|_| counters.drop_one(*cause));
        }
        let line = Statistics(&counters, TransportCounters::default(), 0).to_string();
        for (index, (_, name)) in DROPS.iter().enumerate() {
            assert!(line.contains(&format!(" drop-{name}={}", index + 1)), "{line}");
        }
    }
}
