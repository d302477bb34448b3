//! Keeps the device as it was configured when other programs change it: what they take away is put back, within limits,
//! and a device that somebody has set down stays down until somebody sets it up.

use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::network::Network;
use crate::config::Config;
use crate::device::netchange::NetChange;
use crate::fault::FaultLog;

/// How often something is put back within [`WINDOW`]; a program that is as stubborn gets its way.
const MAX_REPAIRS: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// What is known about the device's fate; see the module's text.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// `None` before the first look.
    was_up: Option<bool>,
    repairs: VecDeque<Instant>,
    faults: FaultLog,
}

impl Upkeep {
    /// Looks at the device after something has changed about it; returns when to look again.
    pub fn check(&mut self, network: &mut Network, config: &Config, now: Instant) -> Option<Instant> {
        // A device that was deleted is noticed by reading from it.
        let link = network.link().ok()?;
        let was_up = self.was_up.replace(link.is_up);
        if !link.is_up {
            if was_up == Some(true) {
                warn!("The device {} was set down: no packet passes until it is set up again", link.name);
            }
            return None;
        }
        let missing = network.missing(&kept(config)).inspect_err(|error| debug!("cannot look at the device: {error}"));
        let missing = missing.ok().filter(|missing| !missing.is_empty())?;
        let named = missing.iter().map(NetChange::to_string).collect::<Vec<_>>().join(", ");
        if was_up == Some(false) {
            // The kernel has forgotten them, nobody has taken them.
            info!("device {} is up again, put back {named}", link.name);
        } else if let Err(at) = self.may_repair(now) {
            let text = format_args!(
                "{} keeps taking {named} from the device {}: it is left so for a while",
                culprit(link.index),
                link.name
            );
            self.faults.note(now, "given-up", text);
            return Some(at);
        } else {
            let (device, culprit) = (&link.name, culprit(link.index));
            let text = format_args!(
                "{culprit} has taken {named} from the device {device}, put back: tell it to leave the device alone \
                 (systemd-networkd: a .network file with [Match] Name={device} and [Link] Unmanaged=yes; \
                 NetworkManager: unmanaged-devices=interface-name:{device})"
            );
            self.faults.note(now, "taken", text);
        }
        for change in missing {
            if let Err(error) = network.apply(&change) {
                self.faults.note(now, "put-back", error);
            }
        }
        None
    }

    /// Counts a repair unless there were too many; then tells when there may be another.
    fn may_repair(&mut self, now: Instant) -> Result<(), Instant> {
        while self.repairs.front().is_some_and(|at| now.saturating_duration_since(*at) >= WINDOW) {
            self.repairs.pop_front();
        }
        match self.repairs.front() {
            Some(first) if self.repairs.len() >= MAX_REPAIRS => Err(*first + WINDOW),
            _ => {
                self.repairs.push_back(now);
                Ok(())
            }
        }
    }
}

/// What was asked for in so many words. An MTU that the daemon has chosen by itself may change.
pub fn kept(config: &Config) -> Vec<NetChange> {
    let is_kept = |change: &NetChange| match change {
        NetChange::Mtu(_) => config.network.mtu.is_some(),
        NetChange::MakeBridge { .. } | NetChange::LanPort { .. } | NetChange::Bridge(_) => true,
        NetChange::Address(_) | NetChange::Route(_) => true,
        NetChange::Up | NetChange::Mac(_) | NetChange::TxQueueLen(_) | NetChange::GsoMaxSize(_) => false,
    };
    super::changes(config, false).into_iter().filter(is_kept).collect()
}

/// Who manages the device, by what the managers write about it under `/run`.
fn culprit(index: u32) -> &'static str {
    let manages = |path: String, unless: &str| fs::read_to_string(path).is_ok_and(|text| !text.contains(unless));
    if manages(format!("/run/systemd/netif/links/{index}"), "ADMIN_STATE=unmanaged") {
        "systemd-networkd"
    } else if manages(format!("/run/NetworkManager/devices/{index}"), "managed=false") {
        "NetworkManager"
    } else {
        "Another program"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn repairs_are_limited_in_any_minute() {
        let start = Instant::now();
        let second = |number: u64| start + Duration::from_secs(number);
        let mut upkeep = Upkeep::default();
        for number in 0..5 {
            assert_eq!(upkeep.may_repair(second(number)), Ok(()));
        }
        assert_eq!(upkeep.may_repair(second(5)), Err(second(60)));
        assert_eq!(upkeep.may_repair(second(60)), Ok(()));
        assert_eq!(upkeep.may_repair(second(60)), Err(second(61)));
    }
}
