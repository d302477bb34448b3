//! What may cross between two LANs that a tap joins into one segment: no loops, no floods, and nothing that the
//! administrator keeps out. Pure: it knows frames and rules, no device, no socket and no clock.
//!
//! A loop is found in two ways. `probe`s that this end puts into its own LAN come back: out of the device if the loop is
//! in that LAN, from the peer if there is a second path between the two. And `stations` go to and fro between the two
//! sides faster than anybody could carry them, which also shows where something in a LAN eats the probes. From then on
//! nothing crosses until there was no sign of it for the hold time, but for two things, and of those few: probes of
//! others, without which nobody would see the loop, and the frames of spanning tree, which may break it.

use std::fmt;
use std::time::{Duration, Instant};

use crate::bucket::Bucket;
use crate::config::{Bpdus, GuardChoice, SegmentConfig};
use crate::counters::Drop;
use crate::tunnel::secure::Randomness;
use frame::Frame;
use probe::{Met, Prober, RANDOM_LEN};
use stations::{Side, Stations};

mod frame;
mod probe;
mod stations;

/// Time from one probe to the next; when something has changed a few go out sooner, because a port of a bridge may take a
/// second until it forwards.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const EARLY_INTERVAL: Duration = Duration::from_millis(500);
const EARLY_PROBES: u8 = 4;

/// During a hold there are at least this many probes, so that a loop that is still there is seen.
const PROBES_PER_HOLD: u32 = 3;

/// Probes of others that cross in a second, and frames of spanning tree that do so during a hold: where no bridge looks
/// at them they go round as everything does.
const PROBE_RATE: u32 = 50;
const HELD_BPDU_RATE: u32 = 50;

/// What a loop was known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// A probe came back out of the device.
    Lan,
    /// A probe came back from the peer.
    Peer,
    /// Stations go to and fro.
    Flapping,
}

impl Loop {
    /// The stable word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Peer => "peer",
            Self::Flapping => "flapping",
        }
    }
}

/// Continues "loop".
impl fmt::Display for Loop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Lan => "in the local LAN",
            Self::Peer => "through the peer",
            Self::Flapping => "between the LANs",
        })
    }
}

/// What has changed, to be told and acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// From now on nothing is forwarded, because of this loop.
    Held(Loop),
    /// From now on all is forwarded again.
    Released,
}

/// Who watches over the segment.
#[derive(Debug)]
pub struct Segment {
    rules: SegmentConfig,
    is_port: bool,
    link_is_up: bool,
    prober: Option<Prober>,
    probe_at: Option<Instant>,
    early_probes: u8,
    probed_vlan: u16,
    probe_budget: Bucket,
    bpdu_budget: Bucket,
    broadcasts: Option<Bucket>,
    /// Only while loops are looked for.
    stations: Option<Stations>,
    held: Option<Held>,
    holds: u64,
    change: Option<Change>,
}

/// Nothing is forwarded.
#[derive(Clone, Copy, Debug)]
struct Held {
    why: Loop,
    seen_at: Instant,
}

impl Segment {
    /// A segment with these rules, on a device that is not known yet to be a port of a bridge and a link that is not up.
    /// Without chance there are no probes, and loops are known by the stations alone.
    pub fn new(rules: &SegmentConfig, random: &mut dyn Randomness, now: Instant) -> Self {
        let mut bytes = [0; RANDOM_LEN];
        let prober = random.fill(&mut bytes).then(|| Prober::new(bytes));
        let mut segment = Self {
            rules: rules.clone(),
            is_port: false,
            link_is_up: false,
            prober,
            probe_at: None,
            early_probes: 0,
            probed_vlan: u16::MAX,
            probe_budget: Bucket::new(PROBE_RATE, now),
            bpdu_budget: Bucket::new(HELD_BPDU_RATE, now),
            broadcasts: rules.broadcast_limit.map(|rate| Bucket::new(rate, now)),
            stations: None,
            held: None,
            holds: 0,
            change: None,
        };
        segment.follow_watch(now);
        segment
    }

    /// Takes other rules.
    pub fn set_rules(&mut self, rules: &SegmentConfig, now: Instant) {
        if self.rules == *rules {
            return;
        }
        if self.rules.broadcast_limit != rules.broadcast_limit {
            self.broadcasts = rules.broadcast_limit.map(|rate| Bucket::new(rate, now));
        }
        self.rules = rules.clone();
        self.follow_watch(now);
    }

    /// The device is a port of a bridge, or is not; either way something may have changed about it.
    pub fn set_port(&mut self, is_port: bool, now: Instant) {
        self.is_port = is_port;
        self.follow_watch(now);
        self.probe_early(now + EARLY_INTERVAL);
    }

    /// The link to the peer is there, or is not.
    pub fn set_link(&mut self, is_up: bool, now: Instant) {
        if self.link_is_up != is_up {
            self.link_is_up = is_up;
            self.probe_at = None;
            self.probe_early(now);
        }
    }

    /// True while loops are looked for.
    pub fn is_watching(&self) -> bool {
        self.stations.is_some()
    }

    /// Why nothing is forwarded, if nothing is.
    pub fn held(&self) -> Option<Loop> {
        self.held.map(|held| held.why)
    }

    /// When all is forwarded again if there is no sign of the loop until then.
    pub fn resumes_at(&self) -> Option<Instant> {
        self.held.map(|held| held.seen_at + self.rules.hold)
    }

    /// The hold time.
    pub fn hold(&self) -> Duration {
        self.rules.hold
    }

    /// Times that it had to be held.
    pub fn holds(&self) -> u64 {
        self.holds
    }

    /// What has changed since this was called last.
    #[must_use]
    pub fn poll_change(&mut self) -> Option<Change> {
        self.change.take()
    }

    /// When [`handle_timeout`](Self::handle_timeout) or [`poll_probe`](Self::poll_probe) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.probe_at, self.resumes_at()].into_iter().flatten().min()
    }

    /// Ends a hold that is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.resumes_at().is_some_and(|at| at <= now) {
            self.release();
            // A loop that is there all the same is to be found before it has filled the LANs.
            self.probe_early(now);
        }
    }

    /// The probe that is due, to be put into the device. To be called until there is none.
    #[must_use]
    pub fn poll_probe(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.probe_at.take_if(|at| *at <= now)?;
        let usual = PROBE_INTERVAL.min(self.rules.hold / PROBES_PER_HOLD);
        let is_early = self.early_probes > 0;
        self.early_probes = self.early_probes.saturating_sub(1);
        self.probe_at = Some(now + if is_early { EARLY_INTERVAL.min(usual) } else { usual });
        self.probed_vlan = self.rules.vlans.as_ref().map_or(0, |vlans| vlans.next(self.probed_vlan));
        self.prober.as_mut().map(|prober| prober.make(self.probed_vlan))
    }

    /// A frame, or a super-packet of `count` frames, is to cross from the device to the peer.
    ///
    /// # Errors
    /// Why it does not.
    pub fn leave(&mut self, bytes: &mut [u8], count: u16, now: Instant) -> Result<(), Drop> {
        // What is no frame is counted by others.
        let Some(frame) = Frame::parse(bytes) else { return Ok(()) };
        if let Some(met) = self.look(&frame) {
            let allowed = self.allows_vlan(&frame);
            let hops = self.meet(met, Side::Lan, now)?;
            allowed?;
            if let Some(hops) = bytes.get_mut(hops) {
                *hops = hops.saturating_add(1);
            }
            return Ok(());
        }
        self.pass(&frame, Side::Lan, now)?;
        let limit = self.broadcasts.as_mut().filter(|_| frame.is_group() && !frame.finds_neighbours());
        if limit.is_none_or(|limit| limit.take_many(count, now)) { Ok(()) } else { Err(Drop::BroadcastLimit) }
    }

    /// A frame or a super-packet has come from the peer and is to go into the device.
    ///
    /// # Errors
    /// Why it does not.
    pub fn arrive(&mut self, bytes: &[u8], now: Instant) -> Result<(), Drop> {
        let Some(frame) = Frame::parse(bytes) else { return Ok(()) };
        match self.look(&frame) {
            Some(met) => {
                self.allows_vlan(&frame)?;
                self.meet(met, Side::Peer, now).map(drop)
            }
            None => self.pass(&frame, Side::Peer, now),
        }
    }

    fn look(&self, frame: &Frame<'_>) -> Option<Met> {
        self.prober.as_ref().and_then(|prober| prober.look(frame))
    }

    /// A probe was met; that of another crosses, and has its tunnels counted at this place.
    fn meet(&mut self, met: Met, side: Side, now: Instant) -> Result<usize, Drop> {
        match met {
            Met::Own if self.is_watching() => {
                self.sign(if side == Side::Lan { Loop::Lan } else { Loop::Peer }, now);
                Err(Drop::BridgeLoop)
            }
            Met::Own | Met::Spent => Err(Drop::BridgeLoop),
            Met::Other(hops) => self.probe_budget.take(now).then_some(hops).ok_or(Drop::BridgeLoop),
        }
    }

    /// Any other frame.
    fn pass(&mut self, frame: &Frame<'_>, side: Side, now: Instant) -> Result<(), Drop> {
        let is_bpdu = frame.is_bpdu();
        if is_bpdu {
            // They are of no VLAN and of no protocol that a list would name.
            if self.rules.bpdus == Bpdus::Drop {
                return Err(Drop::Bpdu);
            }
        } else {
            self.allows_vlan(frame)?;
            if self.rules.protocols.as_ref().is_some_and(|protocols| !protocols.contains(frame.protocol())) {
                return Err(Drop::EtherType);
            }
        }
        if let (Some(stations), Some(source)) = (&mut self.stations, frame.source())
            && stations.see(source, frame.vlan(), side, now)
        {
            self.sign(Loop::Flapping, now);
        }
        if self.held.is_none() || (is_bpdu && self.bpdu_budget.take(now)) { Ok(()) } else { Err(Drop::BridgeLoop) }
    }

    fn allows_vlan(&self, frame: &Frame<'_>) -> Result<(), Drop> {
        let Some(vlans) = &self.rules.vlans else { return Ok(()) };
        if frame.is_whole() && vlans.contains(frame.vlan()) { Ok(()) } else { Err(Drop::Vlan) }
    }

    /// There is a loop, or still is.
    fn sign(&mut self, why: Loop, now: Instant) {
        match &mut self.held {
            // A probe says more than the stations do.
            Some(held) if why == Loop::Flapping => held.seen_at = now,
            Some(held) => *held = Held { why, seen_at: now },
            None => {
                self.held = Some(Held { why, seen_at: now });
                self.holds += 1;
                self.change = Some(Change::Held(why));
            }
        }
    }

    fn release(&mut self) {
        if self.held.take().is_some() {
            self.change = Some(Change::Released);
        }
    }

    /// Begins or ends to look for loops, as rules and device want it.
    fn follow_watch(&mut self, now: Instant) {
        let wanted = match self.rules.guard {
            GuardChoice::Auto => self.is_port,
            GuardChoice::On => true,
            GuardChoice::Off => false,
        };
        if wanted == self.is_watching() {
            return;
        }
        if wanted {
            self.stations = Some(Stations::new(now));
            self.probe_early(now);
        } else {
            (self.stations, self.probe_at) = (None, None);
            self.release();
        }
    }

    /// Has a few probes sent soon, the first at this time.
    fn probe_early(&mut self, at: Instant) {
        if self.is_watching() && self.link_is_up {
            self.early_probes = EARLY_PROBES;
            self.probe_at = Some(self.probe_at.map_or(at, |before| before.min(at)));
        }
    }
}

#[cfg(test)]
mod tests;
