//! Controlled delay: when the oldest packet of a queue is to be dropped (RFC 8289). Pure.

use std::time::{Duration, Instant};

/// Waiting that is accepted (RFC 8289, section 4.2).
pub const TARGET: Duration = Duration::from_millis(5);

/// Waiting above the target for this long is a standing queue: about the longest round trip of the flows (section 4.3).
pub const INTERVAL: Duration = Duration::from_millis(100);

/// A queue of no more than one packet is never too long, in bytes.
const ONE_PACKET: usize = 1514;

/// A queue that becomes too long again within this time is treated as before.
const MEMORY: u32 = 16;

/// The state of one queue.
#[derive(Debug, Default)]
pub struct Codel {
    /// When packets will have waited too long for an interval, if they go on to do so.
    first_above: Option<Instant>,
    /// The queue is too long, and packets are dropped at growing rate; the next is due at this time.
    dropping: bool,
    drop_next: Option<Instant>,
    /// Packets dropped since the queue became too long.
    count: u32,
    last_count: u32,
}

impl Codel {
    /// True if the packet that has been taken from the queue is to be dropped, or marked; then it is asked again about the
    /// one that comes next. `sojourn` is how long it has waited, `None` if there was none; `backlog` are the bytes
    /// behind it.
    pub fn wants_drop(&mut self, sojourn: Option<Duration>, backlog: usize, now: Instant) -> bool {
        let above = self.is_above(sojourn, backlog, now);
        if !self.dropping {
            if above {
                self.begin(now);
            }
            return above;
        }
        if !above {
            self.dropping = false;
            return false;
        }
        let due = self.drop_next.filter(|at| *at <= now);
        if let Some(at) = due {
            self.count += 1;
            self.drop_next = Some(control_law(at, self.count));
        }
        due.is_some()
    }

    /// True if packets have waited above the target for an interval.
    fn is_above(&mut self, sojourn: Option<Duration>, backlog: usize, now: Instant) -> bool {
        if sojourn.is_none_or(|sojourn| sojourn < TARGET) || backlog <= ONE_PACKET {
            self.first_above = None;
            return false;
        }
        *self.first_above.get_or_insert(now + INTERVAL) <= now
    }

    /// Begins to drop: at the rate that was needed last, if that was a moment ago.
    fn begin(&mut self, now: Instant) {
        let recent = self.drop_next.is_some_and(|at| now.saturating_duration_since(at) < MEMORY * INTERVAL);
        let delta = self.count.saturating_sub(self.last_count);
        self.count = if recent && delta > 1 { delta } else { 1 };
        self.last_count = self.count;
        self.drop_next = Some(control_law(now, self.count));
        self.dropping = true;
    }
}

/// The time of the next drop: the interval divided by the square root of how many there were.
fn control_law(at: Instant, count: u32) -> Instant {
    at + INTERVAL.div_f64(f64::from(count.max(1)).sqrt())
}
