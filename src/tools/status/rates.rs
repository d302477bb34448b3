//! How fast things happen: the difference of two answers by the daemon's own clock. Pure.

use std::collections::BTreeMap;

use crate::control::status::{Amount, Status};

/// Speeds, each for a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// From the peer.
    pub received: Rate,
    /// To the peer.
    pub sent: Rate,
    /// Packets dropped by cause, without those that nothing was dropped for.
    pub drops: BTreeMap<String, f64>,
}

/// Packets and bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Packets.
    pub packets: f64,
    /// Bytes.
    pub bytes: f64,
}

impl Rates {
    /// From one answer to a later one. Nothing if the daemon was started anew between them, or no time has passed.
    pub fn between(before: &Status, after: &Status) -> Self {
        let seconds = after.uptime_seconds - before.uptime_seconds;
        if before.pid != after.pid || seconds <= 0.0 {
            return Self::default();
        }
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        let amount = |before: Amount, after: Amount| Rate {
            packets: rate(before.packets, after.packets),
            bytes: rate(before.bytes, after.bytes),
        };
        let (old, new) = (&before.report, &after.report);
        let drops = new.drops.iter().map(|(cause, count)| {
            let before = old.drops.get(cause).copied().unwrap_or_default();
            (cause.clone(), rate(before, *count))
        });
        Self {
            received: amount(old.traffic.network_received, new.traffic.network_received),
            sent: amount(old.traffic.network_sent, new.traffic.network_sent),
            drops: drops.filter(|(_, rate)| *rate > 0.0).collect(),
        }
    }

    /// All packets dropped.
    pub fn dropped(&self) -> f64 {
        // The sum of nothing would be -0.
        self.drops.values().fold(0.0, |sum, rate| sum + rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_those_of_the_daemons_time() {
        let before = Status::example();
        let mut after = before.clone();
        after.uptime_seconds += 2.0;
        after.report.traffic.network_received.bytes += 3000;
        after.report.traffic.network_sent.packets += 5;
        *after.report.drops.get_mut("no-peer").unwrap() += 4;
        after.report.drops.insert("new-cause".to_owned(), 1);
        let rates = Rates::between(&before, &after);
        assert_eq!((rates.received.bytes, rates.received.packets, rates.sent.packets), (1500.0, 0.0, 2.5));
        assert_eq!(
            rates.drops.iter().map(|(cause, rate)| (cause.as_str(), *rate)).collect::<Vec<_>>(),
            [("new-cause", 0.5), ("no-peer", 2.0)]
        );
        assert_eq!(rates.dropped(), 2.5);
    }

    #[test]
    fn another_process_and_a_clock_that_stands_have_no_speed() {
        let before = Status::example();
        let mut after = before.clone();
        after.report.traffic.network_received.bytes += 1;
        assert_eq!(Rates::between(&before, &after), Rates::default());
        assert_eq!(format!("{:.0}", Rates::default().dropped()), "0");
        after.uptime_seconds += 1.0;
        after.pid += 1;
        assert_eq!(Rates::between(&before, &after), Rates::default());
        // Counters of a link that was opened anew may have begun again.
        (after.pid, after.report.traffic.network_received.bytes) = (before.pid, 0);
        assert_eq!(Rates::between(&before, &after).received, Rate::default());
    }
}
