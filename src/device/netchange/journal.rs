//! What was changed on a device, in a form that outlives the process that has changed it.
//!
//! It knows the form; where it is kept, and who may be believed, is the business of whoever keeps it.

use std::io;

use serde::{Deserialize, Serialize};

use super::{Applied, NetChange, NetConfig};
use crate::device::netlink::Netlink;

/// What a [`NetConfig`] has to take back, and from which device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    device: String,
    index: u32,
    kind: Option<String>,
    applied: Vec<Applied>,
}

impl Journal {
    /// True if there is nothing to take back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty()
    }

    /// True if it is of a tun or tap device (`IFLA_INFO_KIND`), and hence changes no other but what
    /// [`beside`](Self::beside) tells.
    #[must_use]
    pub fn is_of_tun(&self) -> bool {
        self.kind.as_deref() == Some("tun")
    }

    /// The changes to other devices among them.
    pub fn beside(&self) -> impl Iterator<Item = &NetChange> {
        self.applied.iter().filter(|applied| applied.undo.is_beside()).map(|applied| &applied.change)
    }

    /// The same with nothing but the changes to other devices: what is left when the device has gone.
    #[must_use]
    pub fn only_beside(mut self) -> Self {
        self.applied.retain(|applied| applied.undo.is_beside());
        self
    }
}

impl NetConfig {
    /// What there is to take back at present.
    #[must_use]
    pub fn journal(&self) -> Journal {
        Journal {
            device: self.device.clone(),
            index: self.index,
            kind: self.kind.clone(),
            applied: self.applied.clone(),
        }
    }

    /// A handle that has still to take back what another one has changed. If the device is gone there is nothing to do,
    /// which [`NetConfig::undo_all`] finds out.
    ///
    /// # Errors
    ///
    /// Those of [`Netlink::open`].
    pub fn resume(journal: Journal) -> io::Result<Self> {
        let Journal { device, index, kind, applied } = journal;
        Ok(Self { netlink: Netlink::open()?, device, index, kind, applied })
    }
}
