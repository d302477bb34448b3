//! What this end can prove, and what it wants proven: one accepted key or secret, with all that follows from it.
//!
//! Pure. The expensive parts (a Diffie-Hellman result, the keys of mac1) are computed once, when the link is set up.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::crypto::{self, KEY_LEN, MacKey, Statics};
use super::keys::{PrivateKey, PublicKey, SharedSecret};
use super::message::{Side, Suite};

const MAC_LABEL: &[u8] = b"simpletun/1 mac1";

/// One accepted key or secret.
#[derive(Clone, Debug)]
pub struct Identity {
    suite: Suite,
    side: Side,
    statics: Option<Arc<Statics>>,
    psk: SharedSecret,
    incoming: MacKey,
    outgoing: MacKey,
    from_same_side: MacKey,
}

impl Identity {
    /// With a shared secret. `side` is this end's.
    pub fn with_secret(secret: SharedSecret, side: Side) -> Self {
        let key = |receiver: Side| MacKey::new(crypto::hash(&[MAC_LABEL, secret.bytes(), &[receiver as u8]]));
        Self {
            suite: Suite::Secret,
            side,
            statics: None,
            incoming: key(side),
            outgoing: key(side.other()),
            from_same_side: key(side.other()),
            psk: secret,
        }
    }

    /// With a pair of keys; `None` if the peer's key is one with which every exchange yields zero.
    pub fn with_keys(private: &PrivateKey, peer: PublicKey, psk: Option<SharedSecret>, side: Side) -> Option<Self> {
        let statics = Statics::new(private.bytes(), peer.bytes())?;
        let psk = psk.unwrap_or_else(|| SharedSecret::from_bytes([0; KEY_LEN]));
        let key = |receiver: &[u8; KEY_LEN], side: Side| {
            MacKey::new(crypto::hash(&[MAC_LABEL, statics.shared(), psk.bytes(), receiver, &[side as u8]]))
        };
        Some(Self {
            suite: Suite::Keys,
            side,
            incoming: key(statics.public(), side),
            outgoing: key(statics.peer(), side.other()),
            from_same_side: key(statics.public(), side.other()),
            statics: Some(Arc::new(statics)),
            psk,
        })
    }

    /// Which secrets it is made of.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// This end's side.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The static keys, with key pairs.
    pub fn statics(&self) -> Option<&Arc<Statics>> {
        self.statics.as_ref()
    }

    /// The PSK of the Noise protocol: the secret, or what was given beside the keys, or zeros.
    pub fn psk(&self) -> &SharedSecret {
        &self.psk
    }

    /// The key of mac1 in messages to this end.
    pub fn incoming(&self) -> &MacKey {
        &self.incoming
    }

    /// The key of mac1 in messages to the peer.
    pub fn outgoing(&self) -> &MacKey {
        &self.outgoing
    }

    /// The key of mac1 in messages of a peer that has the right secrets and our own side: both ends were started as
    /// clients, or both as servers. For the log alone.
    pub fn from_same_side(&self) -> &MacKey {
        &self.from_same_side
    }

    /// The prologue of a handshake that the end with this side has begun.
    pub fn prologue(&self, initiator: Side) -> Vec<u8> {
        [b"simpletun/1".as_slice(), &[self.suite as u8, initiator as u8]].concat()
    }

    /// The PSK as Noise wants it.
    pub fn psk_bytes(&self) -> Zeroizing<[u8; KEY_LEN]> {
        Zeroizing::new(*self.psk.bytes())
    }
}
