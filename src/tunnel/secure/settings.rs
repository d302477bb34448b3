//! What a secure link is made with: the configuration's word on it, and where chance comes from.

use std::time::Duration;

use crate::config::{AeadChoice, LinkLayer};
use crate::tunnel::PathInfo;
use crate::tunnel::crypto::{Aead, has_fast_aes};
use crate::tunnel::message::{FEATURE_AES, FEATURE_AES_ONLY, FEATURE_FRAGMENTS, FEATURES_RELIABLE, Side};
use crate::tunnel::session::Limits;

/// Where unpredictable bytes come from.
pub trait Randomness: Send {
    /// Fills `bytes`; false if that is not possible now.
    fn fill(&mut self, bytes: &mut [u8]) -> bool;
}

/// Whether the peer's address may change while the link is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// It follows the newest authentic message.
    Follows,
    /// It stays as it was configured.
    Pinned,
}

/// For how long a peer that does not answer is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// For ever: its address was configured.
    Forever,
    /// As long as a session could last: its address is only what it came from.
    WhileFresh,
}

/// What the configuration says about a secure link.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This end's side.
    pub side: Side,
    /// Kind of the device.
    pub kind: LinkLayer,
    /// MTU of the device in bytes; 0 if not known.
    pub mtu: u16,
    /// How messages are to be sealed.
    pub aead: AeadChoice,
    /// Packets that are longer than a datagram path carries cross in parts, if the peer takes them so.
    pub fragments: bool,
    /// Silence after which the peer is asked whether it is alive.
    pub keepalive: Duration,
    /// Silence after which it counts as gone.
    pub down_after: Duration,
    /// Whether the peer's address may change.
    pub endpoint: Endpoint,
    /// For how long a silent peer is asked.
    pub persistence: Persistence,
    /// How long sessions last.
    pub limits: Limits,
}

impl Settings {
    pub(super) fn wants_aes(&self) -> bool {
        match self.aead {
            AeadChoice::Auto => has_fast_aes(),
            AeadChoice::Aes256Gcm => true,
            AeadChoice::ChaCha20Poly1305 => false,
        }
    }

    /// True unless another AEAD is insisted on.
    pub(super) fn allows(&self, aead: Aead) -> bool {
        match self.aead {
            AeadChoice::Auto => true,
            AeadChoice::Aes256Gcm => aead == Aead::Aes256Gcm,
            AeadChoice::ChaCha20Poly1305 => aead == Aead::ChaCha20Poly1305,
        }
    }

    /// What this end can do on such a path.
    pub(super) fn features(&self, info: &PathInfo) -> u32 {
        let aes = match self.aead {
            AeadChoice::Aes256Gcm => FEATURE_AES | FEATURE_AES_ONLY,
            AeadChoice::Auto if self.wants_aes() => FEATURE_AES,
            AeadChoice::Auto | AeadChoice::ChaCha20Poly1305 => 0,
        };
        let fragments = if self.fragments { FEATURE_FRAGMENTS } else { 0 };
        aes | if info.reliable { FEATURES_RELIABLE } else { fragments }
    }
}
