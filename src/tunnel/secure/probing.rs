//! The path MTU of a datagram link: probes are pings with a token of their own, whose loss says nothing about whether the
//! peer is alive, and whose answers say what gets through. What is to be tried when is decided in
//! [`path_mtu`](crate::tunnel::path_mtu).

use std::time::Instant;

use super::Secure;
use crate::config::LinkLayer;
use crate::tunnel::liveness::{self, Liveness};
use crate::tunnel::message::{Control, OVERHEAD};
use crate::tunnel::path_mtu::{Change, Family, PathMtu};
use crate::tunnel::{Event, Path};

/// An MTU that is not known is taken to be Ethernet's.
const USUAL_MTU: usize = 1500;
const ETHERNET_LEN: usize = 14;

impl Secure {
    /// Takes what the local interface takes; see [`super::super::Tunnel::link_limit`].
    pub fn link_limit(&mut self, path: Path, max_message: usize, now: Instant) {
        let Some(link) = self.link.filter(|link| link.path == path && !link.info.reliable) else { return };
        let family = if link.info.peer.is_ipv4() { Family::V4 } else { Family::V6 };
        let ceiling = max_message.min(link.info.max_message);
        match &mut self.path_mtu {
            Some(path_mtu) => path_mtu.handle_move(family, ceiling, now),
            None => self.path_mtu = Some(PathMtu::new(family, ceiling, self.longest_message(), now)),
        }
        self.tell_path_mtu();
    }

    /// The message that the longest packet of the device makes.
    pub(super) fn longest_message(&self) -> usize {
        let mtu = Some(usize::from(self.settings.mtu)).filter(|mtu| *mtu > 0).unwrap_or(USUAL_MTU);
        let header_len = if self.settings.kind == LinkLayer::Tap { ETHERNET_LEN } else { 0 };
        header_len + mtu + OVERHEAD
    }

    /// When the next probe or its end is due. Only a peer that is there is asked.
    pub(super) fn probe_deadline(&self) -> Option<Instant> {
        self.path_mtu.as_ref().filter(|_| self.may_probe())?.deadline()
    }

    fn may_probe(&self) -> bool {
        self.up && self.has_session()
    }

    pub(super) fn handle_probe_timeout(&mut self, now: Instant) {
        if !self.may_probe() {
            return;
        }
        let patience = self.liveness.as_ref().map_or(liveness::MIN_PATIENCE, Liveness::patience);
        if let Some(path_mtu) = &mut self.path_mtu {
            path_mtu.handle_timeout(now, patience);
            self.send_probes(now);
            self.tell_path_mtu();
        }
    }

    /// Takes the answer to a ping of `size` bytes; false if that was not a probe.
    pub(super) fn handle_probe_answer(&mut self, token: u64, size: u16, now: Instant) -> bool {
        let (Some(liveness), Some(path_mtu)) = (&mut self.liveness, &mut self.path_mtu) else { return false };
        let Some(rtt) = path_mtu.ponged(token, usize::from(size) + OVERHEAD, now, liveness.patience()) else {
            return false;
        };
        liveness.measured(rtt, now);
        self.send_probes(now);
        self.tell_path_mtu();
        true
    }

    fn send_probes(&mut self, now: Instant) {
        while let Some(size) = self.path_mtu.as_mut().and_then(PathMtu::poll_probe) {
            let mut token = [0; 8];
            if !self.random.fill(&mut token) {
                return;
            }
            let token = u64::from_be_bytes(token);
            self.send_control(Control::Ping { token, len: size.saturating_sub(OVERHEAD) });
            if let Some(path_mtu) = &mut self.path_mtu {
                path_mtu.probed(token, size, now);
            }
        }
    }

    fn tell_path_mtu(&mut self) {
        if let Some(Change { path_mtu, message, source }) = self.path_mtu.as_mut().and_then(PathMtu::poll_change) {
            self.events.push_back(Event::PathMtu { path_mtu, packet: message.saturating_sub(OVERHEAD), source });
        }
    }
}
