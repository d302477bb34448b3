//! The carrier of the device, which tells routes, bonds, bridges and routing daemons of this host how the link is.

use log::{info, warn};

use crate::device::Device;
use crate::link_state::{LinkState, State};

/// Whether the carrier follows the link, and what it was set to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Carrier {
    follows: bool,
    /// `None` while nobody has touched it: it is on.
    is_on: Option<bool>,
}

impl Carrier {
    /// From now on it follows the link, or it is left on.
    pub(super) fn set_following(&mut self, follows: bool, device: &Device) {
        self.follows = follows;
        if !follows && self.is_off() {
            self.set(true, device);
        }
    }

    /// True if the host sends nothing into the device for want of it.
    pub(super) fn is_off(&self) -> bool {
        self.is_on == Some(false)
    }

    /// A packet has come from the peer, whose arrival is told later in this turn: the host's answer is not to get lost.
    pub(super) fn anticipate(&mut self, device: &Device) {
        if self.is_off() && self.follows && self.set(true, device) {
            info!("carrier on dev={} state={}", device.current_name(), State::Up);
            // Being asked about the device, the kernel waits until packets pass the carrier.
            let _ = device.mtu();
        }
    }

    /// Sets it as the state wants it.
    pub(super) fn follow(&mut self, state: &LinkState, device: &Device) {
        let wanted = state.has_carrier();
        if !self.follows || self.is_on.unwrap_or(true) == wanted {
            return;
        }
        if self.set(wanted, device) {
            let word = if wanted { "on" } else { "off" };
            info!("carrier {word} dev={} state={}", device.current_name(), state.state());
        }
    }

    fn set(&mut self, wanted: bool, device: &Device) -> bool {
        self.is_on = Some(wanted);
        let Err(error) = device.set_carrier(wanted) else { return true };
        (self.follows, self.is_on) = (false, None);
        // A device that was deleted is noticed by reading from it; otherwise it is a kernel before 4.20.
        if error.raw_os_error() != Some(libc::EBADFD) {
            warn!("The carrier of {} does not follow the link, this kernel cannot set it: {error}", device.name());
        }
        false
    }
}
