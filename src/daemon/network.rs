//! The handle through which the daemon configures its device: directly, or through the helper if there is one. Looking
//! needs no right and is always done directly.

use std::io;

use log::warn;

use crate::device::netchange::{NetChange, NetConfig, NetError};
use crate::device::netlink::Link;
use crate::helper::{self, client::Client};

/// The configuration of the device.
pub struct Network {
    own: NetConfig,
    helper: Option<&'static Client>,
}

impl Network {
    /// For the device of this name, through the helper if this process has one.
    ///
    /// # Errors
    /// As [`NetConfig::new`].
    pub fn new(device: &str) -> io::Result<Self> {
        Ok(Self { own: NetConfig::new(device)?, helper: helper::client() })
    }

    /// As [`NetConfig::apply`].
    ///
    /// # Errors
    /// As [`NetConfig::apply`].
    pub fn apply(&mut self, change: &NetChange) -> Result<(), NetError> {
        match self.helper {
            Some(helper) => helper.apply(change),
            None => self.own.apply(change),
        }
    }

    /// As [`NetConfig::reconcile`].
    ///
    /// # Errors
    /// As [`NetConfig::reconcile`].
    pub fn reconcile(&mut self, wanted: &[NetChange]) -> Result<(), NetError> {
        match self.helper {
            Some(helper) => helper.reconcile(wanted),
            None => self.own.reconcile(wanted),
        }
    }

    /// As [`NetConfig::missing`].
    ///
    /// # Errors
    /// As [`NetConfig::missing`].
    pub fn missing(&mut self, wanted: &[NetChange]) -> io::Result<Vec<NetChange>> {
        self.own.missing(wanted)
    }

    /// As [`NetConfig::link`].
    ///
    /// # Errors
    /// As [`NetConfig::link`].
    pub fn link(&mut self) -> io::Result<Link> {
        self.own.link()
    }

    /// As [`NetConfig::undo_all`].
    pub fn undo_all(&mut self) {
        self.undo(NetConfig::undo_all);
    }

    /// As [`NetConfig::undo_beside`]. A helper knows by itself what goes with the device.
    pub fn undo_beside(&mut self) {
        self.undo(NetConfig::undo_beside);
    }

    fn undo(&mut self, own: impl FnOnce(&mut NetConfig)) {
        match self.helper.map(Client::take_back) {
            None => own(&mut self.own),
            Some(Ok(())) => {}
            Some(Err(error)) => {
                warn!("{error:#}: what was configured on the device stays, 'simpletun cleanup' removes it")
            }
        }
    }
}
