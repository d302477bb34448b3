//! How long packets may be: what the device takes and what the link carries at present.

use std::time::{Duration, Instant};

use super::too_long::Answers;
use crate::config::{LinkLayer, MssClamp};
use crate::device::{Device, MAX_PACKET_LEN};
use crate::offload::mss::{self, Room};
use crate::tunnel::Tunnel;

/// The device's MTU is asked for again after this time, while packets cross: others may change it.
const MTU_INTERVAL: Duration = Duration::from_secs(1);

/// What is remembered from one turn to the next.
pub(super) struct Fit {
    kind: LinkLayer,
    clamp: MssClamp,
    mtu: usize,
    asked_at: Option<Instant>,
    /// What the senders of packets that do not fit are told.
    pub(super) answers: Answers,
}

/// What is done with the packets of one turn.
#[derive(Clone, Copy)]
pub(super) struct Clamp {
    pub(super) kind: LinkLayer,
    choice: MssClamp,
    room: Room,
}

impl Fit {
    pub(super) fn new(kind: LinkLayer, clamp: MssClamp) -> Self {
        Self { kind, clamp, mtu: MAX_PACKET_LEN, asked_at: None, answers: Answers::default() }
    }

    /// Another choice from now on; the device is asked anew.
    pub(super) fn set_clamp(&mut self, clamp: MssClamp) {
        (self.clamp, self.asked_at, self.mtu) = (clamp, None, MAX_PACKET_LEN);
    }

    /// What fits now. The device is asked once in a while, and only if it matters.
    pub(super) fn clamp(&mut self, device: &Device, tunnel: &Tunnel, now: Instant) -> Clamp {
        let is_due = self.asked_at.is_none_or(|at| now.saturating_duration_since(at) >= MTU_INTERVAL);
        if is_due && self.clamp == MssClamp::Auto {
            self.asked_at = Some(now);
            let mtu = device.mtu().ok().and_then(|mtu| usize::try_from(mtu).ok());
            self.mtu = mtu.unwrap_or(MAX_PACKET_LEN);
        }
        let packet = tunnel.max_packet().unwrap_or(MAX_PACKET_LEN);
        Clamp { kind: self.kind, choice: self.clamp, room: Room { mtu: self.mtu, packet } }
    }
}

impl Clamp {
    /// Lowers the maximum segment size that a packet announces to what fits.
    pub(super) fn apply(&self, packet: &mut [u8]) {
        mss::clamp(self.kind, packet, self.choice, self.room);
    }
}
