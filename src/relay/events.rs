//! What the tunnel decides, carried out and said.

use std::net::SocketAddr;
use std::time::Instant;

use log::{debug, info};

use super::output::WIRE_LOG;
use super::{Relay, words};
use crate::counters::Drop;
use crate::link_state::State;
use crate::transport::DownReason;
use crate::tunnel::{Event, Path, Rejection, Transmit};

impl Relay {
    /// Carries out what the tunnel has decided, and sends what it has to say, in the order of its decisions: a message may
    /// belong to a path that is about to be forgotten.
    pub(super) fn carry_out_all(&mut self, now: Instant) {
        while let Some(Transmit { path, message }) = self.tunnel.poll_transmit() {
            if !self.transport.send_to(path, &message, now) {
                self.counters.drop_one(Drop::NotSent);
            }
        }
        while let Some(event) = self.tunnel.poll_event() {
            self.carry_out(event, now);
        }
    }

    fn carry_out(&mut self, event: Event, now: Instant) {
        match event {
            Event::PathAdopted(path) => self.transport.adopt(path, now),
            Event::PathRejected(path, why) => self.reject(path, why, now),
            Event::Up(info) => {
                self.counters.ups += 1;
                self.state.handle_up(now);
                // Before its MTU is asked for: with that the kernel waits until packets pass the carrier.
                self.carrier.follow(&self.state, &self.device);
                let name = self.device.current_name();
                let mtu = self.device.mtu().map(|mtu| format!(" mtu={mtu}")).unwrap_or_default();
                info!("tunnel up dev={name} peer={} transport={}{mtu}", info.peer, self.protocol);
                if self.is_client {
                    debug!(target: WIRE_LOG, "CLIENT: Connected to server {}", info.peer.ip());
                } else {
                    debug!(target: WIRE_LOG, "SERVER: Client connected from {}", info.peer.ip());
                }
                self.remember(info.peer);
            }
            Event::Down { idle, peer, why } => {
                let (reason, retry) = match why {
                    Some(why) => (words::reason(why), None),
                    None => self.ending.take().unwrap_or((DownReason::Requested.word(), None)),
                };
                // Neither a newcomer in its place nor our own wish means that the peer has left.
                let leaves = !matches!(why, Some(Rejection::Replaced | Rejection::Occupied | Rejection::WantsSecure));
                self.has_lost_peer |= leaves && reason != DownReason::Requested.word();
                self.state.handle_down(reason, words::outlook(why, reason), now);
                let retry = retry.map(|wait| format!(" retry={}ms", wait.as_millis())).unwrap_or_default();
                info!("tunnel down reason={reason} idle={}s{retry} peer={peer}", idle.as_secs());
            }
            Event::Moved(peer) => {
                self.faults.note(now, "moved", format_args!("peer moved peer={peer} transport={}", self.protocol));
                self.remember(peer);
            }
            Event::Interrupted { peer, why } => {
                let (reason, retry) = match why {
                    Some(why) => (words::reason(why), None),
                    None => self.ending.take().unwrap_or((DownReason::Closed.word(), None)),
                };
                self.has_lost_peer |= reason != DownReason::Requested.word();
                self.state.handle_interrupted(reason, now);
                let retry = retry.map(|wait| format!(" retry={}ms", wait.as_millis())).unwrap_or_default();
                info!("tunnel interrupted reason={reason}{retry} peer={peer}");
            }
            Event::Renewed => {
                self.counters.handshakes += 1;
                self.counters.rekeys += u64::from(self.state.state() == State::Up);
            }
            Event::Resumed(peer) => {
                self.counters.resumed += 1;
                self.state.handle_up(now);
                info!("tunnel resumed peer={peer}");
            }
            Event::PathMtu { path_mtu, packet, source } => {
                info!("path mtu {path_mtu} ({}), packets up to {packet}", words::source(source));
                (self.path_packet, self.path_changed) = (Some(packet), true);
            }
            Event::Incomplete(packets) => self.counters.drop_many(Drop::Incomplete, packets),
            Event::Notice(notice) => words::tell(notice, self.device.kind(), &mut self.faults, now),
        }
    }

    fn remember(&mut self, peer: SocketAddr) {
        if let Some(hint) = &mut self.hint {
            hint.remember(peer);
        }
    }

    fn reject(&mut self, path: Path, why: Rejection, now: Instant) {
        if let Some((label, text)) = words::rejection(why) {
            self.faults.note(now, label, text);
        }
        self.transport.reject(path, why, now);
    }
}
