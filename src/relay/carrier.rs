//! The carrier of the device, which tells routes, bonds, bridges and routing daemons of this host how the link is.

use std::io;

use log::{info, warn};

use crate::device::Device;
use crate::link_state::LinkState;

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
        if !follows && self.is_on == Some(false) {
            self.set(true, device);
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
        // A kernel before 4.20, or what is no tun or tap device at all; one that was deleted is noticed by reading.
        if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY)) {
            self.follows = false;
            warn!("The carrier of {} does not follow the link: this kernel cannot set it", device.name());
        } else if error.kind() != io::ErrorKind::NotFound {
            warn!("Cannot set the carrier of {}: {error}", device.name());
        }
        false
    }
}
