//! The device's LAN: what the segment's watch decides, carried out and said.

use std::io::IoSlice;
use std::time::Instant;

use log::{info, warn};

use super::Relay;
use crate::config::SegmentConfig;
use crate::counters::Drop;
use crate::device::{Device, Received};
use crate::offload::{VIRTIO_HEADER_LEN, VirtioHeader};
use crate::segment::{Change, Loop, Segment};
use crate::tunnel::Opened;
use crate::tunnel::secure::Randomness;

impl Relay {
    /// Lets frames cross by these rules from now on; `None` for a tun.
    pub fn set_segment(&mut self, rules: Option<&SegmentConfig>, random: &mut dyn Randomness, now: Instant) {
        match (&mut self.segment, rules) {
            (Some(segment), Some(rules)) => segment.set_rules(rules, now),
            (segment, rules) => *segment = rules.map(|rules| Segment::new(rules, random, now)),
        }
        self.look_at_port(now);
    }

    /// Asks whether the device is a port of a bridge.
    pub(super) fn look_at_port(&mut self, now: Instant) {
        if let Some(segment) = &mut self.segment {
            segment.set_port(is_port(&self.device), now);
        }
    }

    /// Sends the probe that is due, and does what follows when a loop was found or is over.
    pub(super) fn settle_segment(&mut self, now: Instant) {
        let Some(segment) = &mut self.segment else { return };
        segment.set_link(self.tunnel.has_path(), now);
        segment.handle_timeout(now);
        if let Some(probe) = segment.poll_probe(now) {
            // One that the device does not take is lost, as others are; that the device has ended is seen by reading.
            let _ = self.device.write_parts(&VirtioHeader::default(), &[IoSlice::new(&probe)]);
        }
        let hold = humantime::format_duration(segment.hold());
        match segment.poll_change() {
            Some(Change::Held(why)) => {
                let dropped = self.backlog.clear();
                self.counters.drop_many(Drop::BridgeLoop, dropped);
                warn!(
                    "Loop {why}: {}; nothing is forwarded until {hold} after the last sign of it; {}",
                    sign(why),
                    cure(why)
                );
            }
            Some(Change::Released) => info!("no sign of a loop any more, forwarding again"),
            None => {}
        }
    }
}

/// Asks whether what was read from the device may cross; most frames are for one station and are not counted.
pub(super) fn leave(segment: &mut Segment, received: &mut Received<'_>, now: Instant) -> Result<(), Drop> {
    let is_group = received.packet().first().is_some_and(|byte| byte & 1 == 1);
    let count = if is_group { received.segment_count() } else { 1 };
    segment.leave(received.packet_mut(), count, now)
}

/// The frame in a message of the peer.
pub(super) fn frame<'a>(opened: &'a Opened<'_>) -> Option<&'a [u8]> {
    match opened {
        Opened::Packet(packet, _) => Some(packet),
        Opened::Joined(packet, _) => Some(packet),
        Opened::Super(bytes) => bytes.get(VIRTIO_HEADER_LEN..),
        Opened::Nothing => None,
    }
}

fn is_port(device: &Device) -> bool {
    device.link().is_ok_and(|link| link.controller.is_some())
}

fn sign(why: Loop) -> &'static str {
    match why {
        Loop::Lan => "a probe of this end has come back from the LAN",
        Loop::Peer => "a probe of this end has come back by the tunnel, so there is a second path between the two LANs",
        Loop::Flapping => "the same addresses come from the LAN and from the peer by turns",
    }
}

fn cure(why: Loop) -> &'static str {
    match why {
        Loop::Lan => {
            "remove the second path between two ports of its bridge or switches, or turn on spanning tree there ('ip link \
             set BRIDGE type bridge stp_state 1')"
        }
        Loop::Peer | Loop::Flapping => {
            "remove the second path, or turn on spanning tree in the bridges of both ends ('ip link set BRIDGE type bridge \
             stp_state 1')"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link_state::State;
    use crate::relay::Standing;

    #[test]
    fn the_service_manager_is_told_why_nothing_is_forwarded() {
        let standing = Standing { state: State::Up, peer: None, held: Some(Loop::Peer) };
        assert_eq!(standing.to_string(), "up, nothing is forwarded: loop through the peer");
    }
}
