//! Packets that wait for a full network: a queue for each flow, served in turn, each kept short by CoDel
//! (RFC 8290, RFC 8289).
//!
//! Pure: bytes and `now` in, bytes out. A flow is a number, which [`flow`] makes of a packet's addresses and ports. A
//! super-packet waits whole; when CoDel wants a packet of it dropped, its first segment is *shed*: whoever takes it
//! leaves that many out. So a bulk transfer loses what it would have lost packet by packet, not 64 KB at a time.

use std::collections::VecDeque;
use std::time::Instant;

mod codel;
pub mod flow;

use codel::Codel;

/// Queues; flows beyond these share them (RFC 8290, section 4.1.2).
const FLOWS: usize = 1024;

/// What a flow may send before it is the next one's turn, in bytes: one packet (RFC 8290, section 5.2.3).
const QUANTUM: i64 = 1514;

/// Bytes that wait at most, all flows together.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Packets and super-packets that wait at most; small ones cost more memory than they are long.
pub const MAX_WAITING: usize = 8192;

/// What is dropped at once from the flow that fills the queue, so that looking for it is rare (RFC 8290, section 4.1.2).
const DROP_BATCH: usize = 64;

/// A packet or super-packet that waits.
#[derive(Debug)]
pub struct Waiting {
    /// As it was read from the device.
    pub bytes: Vec<u8>,
    /// Packets at its front that are to be left out, fewer than it has.
    pub shed: u16,
    /// Packets in it, one or more.
    segments: u16,
    since: Instant,
}

impl Waiting {
    /// Packets of it that are still to be sent.
    fn left(&self) -> u16 {
        self.segments - self.shed
    }
}

/// What was dropped, in packets; it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Because they had waited too long (CoDel).
    pub delayed: u64,
    /// Because there was no room.
    pub overflowed: u64,
}

/// Which round a flow is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Round {
    /// Nothing of it waits, and nothing of it was sent a moment ago.
    #[default]
    None,
    /// It has begun to wait a moment ago, and goes first.
    New,
    /// It has had its turn.
    Old,
}

#[derive(Debug, Default)]
struct Flow {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    deficit: i64,
    round: Round,
    codel: Codel,
}

/// The queues. See the module's text.
#[derive(Debug)]
pub struct Scheduler {
    flows: Box<[Flow]>,
    new: VecDeque<usize>,
    old: VecDeque<usize>,
    bytes: usize,
    waiting: usize,
    most_bytes: usize,
    dropped: Dropped,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            flows: (0..FLOWS).map(|_| Flow::default()).collect(),
            new: VecDeque::new(),
            old: VecDeque::new(),
            bytes: 0,
            waiting: 0,
            most_bytes: 0,
            dropped: Dropped::default(),
        }
    }
}

impl Scheduler {
    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// True if there is hardly room: what comes now is dropped, or makes something else be.
    pub fn is_full(&self) -> bool {
        self.bytes > MAX_BYTES / 4 * 3 || self.waiting > MAX_WAITING / 4 * 3
    }

    /// Bytes that wait now.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most bytes that have ever waited.
    pub fn most_bytes(&self) -> usize {
        self.most_bytes
    }

    /// What was dropped so far.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Forgets all that waits; the number of packets or super-packets.
    pub fn clear(&mut self) -> u64 {
        let cleared = self.waiting as u64;
        *self = Self { most_bytes: self.most_bytes, dropped: self.dropped, ..Self::default() };
        cleared
    }

    /// Lets a packet wait, or a super-packet of this many packets. If there is no room, the flow that has taken most of
    /// it loses its oldest packets.
    pub fn enqueue(&mut self, flow: u64, bytes: Vec<u8>, segments: u16, now: Instant) {
        let index = usize::try_from(flow % FLOWS as u64).unwrap_or_default();
        let Some(queue) = self.flows.get_mut(index) else { return };
        queue.bytes += bytes.len();
        self.bytes += bytes.len();
        self.waiting += 1;
        queue.waiting.push_back(Waiting { bytes, shed: 0, segments: segments.max(1), since: now });
        if queue.round == Round::None {
            (queue.round, queue.deficit) = (Round::New, QUANTUM);
            self.new.push_back(index);
        }
        if self.bytes > MAX_BYTES || self.waiting > MAX_WAITING {
            self.make_room();
        }
        self.most_bytes = self.most_bytes.max(self.bytes);
    }

    /// Takes the next one, whose turn it is; what has waited too long is dropped or shed on the way. `mark` is asked to mark
    /// a packet as having met congestion instead (RFC 3168), and says whether it could.
    pub fn dequeue(&mut self, now: Instant, mark: &mut dyn FnMut(&mut [u8]) -> bool) -> Option<Waiting> {
        loop {
            let (is_new, index) = match (self.new.front(), self.old.front()) {
                (Some(index), _) => (true, *index),
                (None, Some(index)) => (false, *index),
                (None, None) => return None,
            };
            let flow = self.flows.get_mut(index)?;
            let round = if is_new { &mut self.new } else { &mut self.old };
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
                round.pop_front();
                flow.round = Round::Old;
                self.old.push_back(index);
                continue;
            }
            let before = (flow.bytes, flow.waiting.len());
            let taken = flow.take(now, &mut self.dropped.delayed, mark);
            self.bytes -= before.0 - flow.bytes;
            self.waiting -= before.1 - flow.waiting.len();
            match taken {
                Some(taken) => {
                    flow.deficit -= i64::try_from(taken.bytes.len()).unwrap_or(i64::MAX);
                    return Some(taken);
                }
                // One that has emptied goes behind the old ones once, so that it cannot be new again and again.
                None if is_new => {
                    round.pop_front();
                    flow.round = Round::Old;
                    self.old.push_back(index);
                }
                None => {
                    round.pop_front();
                    flow.round = Round::None;
                }
            }
        }
    }

    /// The fattest flow loses its oldest packets: half of them, or a batch.
    fn make_room(&mut self) {
        let Some(flow) = self.flows.iter_mut().max_by_key(|flow| flow.bytes) else { return };
        let enough = flow.bytes / 2;
        for _ in 0..DROP_BATCH {
            let Some(oldest) = flow.waiting.pop_front() else { return };
            flow.bytes -= oldest.bytes.len();
            self.bytes -= oldest.bytes.len();
            self.waiting -= 1;
            self.dropped.overflowed += u64::from(oldest.left());
            if flow.bytes <= enough {
                return;
            }
        }
    }
}

impl Flow {
    /// Takes the oldest that CoDel lets pass.
    fn take(&mut self, now: Instant, dropped: &mut u64, mark: &mut dyn FnMut(&mut [u8]) -> bool) -> Option<Waiting> {
        let mut taken = self.pop();
        loop {
            let sojourn = taken.as_ref().map(|waiting| now.saturating_duration_since(waiting.since));
            if !self.codel.wants_drop(sojourn, self.bytes, now) {
                return taken;
            }
            let waiting = taken.as_mut()?;
            if mark(&mut waiting.bytes) {
                return taken;
            }
            *dropped += 1;
            if waiting.left() > 1 {
                waiting.shed += 1;
            } else {
                taken = self.pop();
            }
        }
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.bytes -= waiting.bytes.len();
        Some(waiting)
    }
}

#[cfg(test)]
mod tests;
