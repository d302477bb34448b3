//! What the relay tells those who watch: all that is known about device, link and traffic, as one value.

use std::fmt::Display;
use std::time::{Duration, Instant};

use super::{Relay, Standing, words};
use crate::config::{LinkConfig, MssClamp, Security};
use crate::control::status::{
    Amount, ChangeStatus, Counts, DeviceStatus, LinkStatus, LossStatus, PathStatus, QueueStatus, Report,
    SecurityStatus, SegmentStatus, TrafficStatus,
};
use crate::counters::{Statistics, Traffic};
use crate::scheduler;
use crate::segment::Segment;
use crate::tunnel::Facts;

/// The same moment on the loop's clock and on the wall clock (time since 1970).
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The loop's clock.
    pub now: Instant,
    /// The wall clock.
    pub wall: Duration,
}

impl Moment {
    /// How long ago that was, in seconds.
    pub fn age(self, at: Instant) -> f64 {
        seconds(self.now.saturating_duration_since(at))
    }

    /// When that was by the wall clock (RFC 3339, UTC).
    pub fn date(self, at: Instant) -> String {
        date(self.wall.saturating_sub(self.now.saturating_duration_since(at)))
    }
}

/// Years that a date can show (RFC 3339 has four digits): until the end of 9999.
const LAST_DATE: Duration = Duration::from_secs(253_402_300_799);

fn date(wall: Duration) -> String {
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + wall.min(LAST_DATE)).to_string()
}

/// Exact to the microsecond.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e6
}

/// What the configuration says about the link, without what is secret.
#[derive(Clone, Debug)]
pub(super) struct About {
    mode: &'static str,
    public_key: Option<String>,
    peer_public_keys: Vec<String>,
    mss_clamp: String,
}

impl About {
    pub(super) fn new(link: &LinkConfig) -> Self {
        let (mode, public_key, peer_public_keys) = match &link.security {
            Security::Plain => ("plain", None, Vec::new()),
            Security::Secret(_) => ("secret", None, Vec::new()),
            Security::Keys { private, peers, .. } => {
                ("keys", Some(private.public().to_string()), peers.iter().map(ToString::to_string).collect())
            }
        };
        let mss_clamp = match link.mss_clamp {
            MssClamp::Auto => "auto".to_owned(),
            MssClamp::Off => "off".to_owned(),
            MssClamp::Fixed(bytes) => bytes.to_string(),
        };
        Self { mode, public_key, peer_public_keys, mss_clamp }
    }
}

impl Relay {
    /// The state and the counters so far.
    pub fn statistics(&self, now: Instant) -> impl Display {
        let (state, lasting) = (self.state.state(), self.state.lasting(now).as_secs());
        format!(
            "state={state} state-seconds={lasting} {}",
            Statistics(&self.counters, self.transport.counters(), self.backlog.most_bytes())
        )
    }

    /// How the link is now.
    pub fn standing(&self) -> Standing {
        let peer = self.transport.peer_address().filter(|_| self.state.has_carrier());
        let held = self.segment.as_ref().and_then(Segment::held);
        Standing { state: self.state.state(), peer, held }
    }

    /// All that is known at this moment. The round trip of a secure link is measured anew for the next time.
    pub fn report(&mut self, moment: Moment) -> Report {
        self.tunnel.measure(moment.now);
        self.carry_out_all(moment.now);
        let (facts, way) = (self.tunnel.facts(moment.now), self.transport.facts());
        let (counters, transport) = (&self.counters, self.transport.counters());
        let rtt = facts.and_then(|facts| facts.rtt).or(way.tcp.map(|tcp| tcp.rtt));
        let path_mtu = facts.and_then(|facts| facts.path_mtu).map(|(mtu, source)| (mtu as u64, words::source(source)));
        let path_mtu = path_mtu.or(way.tcp.map(|tcp| (tcp.path_mtu.into(), "tcp")));
        Report {
            device: self.device_status(),
            role: if self.is_client { "connect" } else { "listen" }.to_owned(),
            transport: self.protocol.to_string(),
            local: way.local.map(|local| local.to_string()),
            peer: self.transport.peer_address().map(|peer| peer.to_string()),
            security: self.security_status(facts.as_ref()),
            link: self.link_status(moment),
            traffic: TrafficStatus {
                device_read: counters.device_rx.into(),
                device_written: counters.device_tx.into(),
                network_received: counters.network_rx.into(),
                network_sent: counters.network_tx.into(),
            },
            drops: counters.drops().map(|(cause, count)| (cause.to_owned(), count)).collect(),
            counts: Counts {
                reconnects: counters.reconnects(),
                handshakes: counters.handshakes,
                rekeys: counters.rekeys,
                fragmented: counters.fragmented,
                split: counters.split,
                joined: counters.joined,
                answered_too_long: counters.answered_too_long,
                paths: transport.paths,
                refused: transport.refused,
                strangers: transport.strangers,
                send_errors: transport.send_errors,
                retransmits: way.tcp.map(|tcp| tcp.retransmits.into()),
            },
            rtt_seconds: rtt.map(seconds),
            loss: facts.and_then(|facts| facts.arrivals).map(|arrivals| LossStatus {
                recent: arrivals.recent(moment.now).loss(),
                expected: arrivals.total().expected,
                lost: arrivals.total().lost(),
            }),
            handshake_age_seconds: facts.and_then(|facts| facts.session_age).map(seconds),
            path: PathStatus {
                mtu: path_mtu.map(|(mtu, _)| mtu),
                mtu_source: path_mtu.map(|(_, source)| source.to_owned()),
                max_packet: self.tunnel.max_packet().map(|packet| packet as u64),
                mss_clamp: self.about.mss_clamp.clone(),
            },
            segment: self.segment_status(moment.now),
            queue: QueueStatus {
                bytes: self.backlog.bytes() as u64,
                most_bytes: self.backlog.most_bytes() as u64,
                limit_bytes: scheduler::MAX_BYTES as u64,
            },
        }
    }

    fn segment_status(&self, now: Instant) -> Option<SegmentStatus> {
        self.segment.as_ref().map(|segment| SegmentStatus {
            watches: segment.is_watching(),
            held: segment.held().map(|why| why.word().to_owned()),
            resume_seconds: segment.resumes_at().map(|at| seconds(at.saturating_duration_since(now))),
            holds: segment.holds(),
        })
    }

    fn device_status(&self) -> DeviceStatus {
        let link = self.device.link().ok();
        DeviceStatus {
            name: self.device.current_name(),
            kind: self.device.kind().to_string(),
            mtu: link.as_ref().map(|link| link.mtu),
            carrier: link.as_ref().map(|link| link.has_carrier),
            created: self.device.was_created(),
        }
    }

    fn security_status(&self, facts: Option<&Facts>) -> SecurityStatus {
        SecurityStatus {
            mode: self.about.mode.to_owned(),
            aead: facts.and_then(|facts| facts.aead).map(|aead| aead.to_string()),
            public_key: self.about.public_key.clone(),
            peer_public_keys: self.about.peer_public_keys.clone(),
        }
    }

    fn link_status(&self, moment: Moment) -> LinkStatus {
        let reason = |reason: &'static str| (!reason.is_empty()).then(|| reason.to_owned());
        LinkStatus {
            state: self.state.state().word().to_owned(),
            reason: reason(self.state.reason()),
            since: date(moment.wall.saturating_sub(self.state.lasting(moment.now))),
            state_seconds: seconds(self.state.lasting(moment.now)),
            changes: self
                .state
                .changes()
                .map(|change| ChangeStatus {
                    time: moment.date(change.at),
                    age_seconds: moment.age(change.at),
                    state: change.state.word().to_owned(),
                    reason: reason(change.reason),
                })
                .collect(),
        }
    }
}

impl From<Traffic> for Amount {
    fn from(traffic: Traffic) -> Self {
        Self { packets: traffic.packets, bytes: traffic.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn dates_are_those_of_the_wall_clock_wherever_it_stands() {
        let start = Instant::now();
        let moment = Moment { now: start + Duration::from_secs(60), wall: Duration::from_secs(1_767_225_600 + 60) };
        assert_eq!((moment.date(start).as_str(), moment.age(start)), ("2026-01-01T00:00:00Z", 60.0));
        assert_eq!(moment.age(moment.now + Duration::from_secs(9)), 0.0);
        let wrong = Moment { wall: Duration::ZERO, ..moment };
        assert_eq!(wrong.date(start), "1970-01-01T00:00:00Z");
        assert!(Moment { wall: Duration::MAX, ..moment }.date(start).starts_with("9999-"));
    }
}
