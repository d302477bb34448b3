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

    /// True if the other one is made of the same secrets and for the same side.
    pub fn is_same(&self, other: &Self) -> bool {
        let keys = |identity: &Self| identity.statics.as_ref().map(|statics| (*statics.public(), *statics.peer()));
        (self.suite, self.side, keys(self)) == (other.suite, other.side, keys(other)) && self.psk == other.psk
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

#[cfg(test)]
mod tests {
    use super::*;

    fn with_keys(psk: Option<SharedSecret>) -> Identity {
        let peer = PrivateKey::from_bytes([2; KEY_LEN]).public();
        Identity::with_keys(&PrivateKey::from_bytes([1; KEY_LEN]), peer, psk, Side::Connect).expect("a pair of keys")
    }

    #[test]
    fn the_prologue_names_the_suite_and_the_side_that_begins() {
        let secret = Identity::with_secret(SharedSecret::from_bytes([7; KEY_LEN]), Side::Listen);
        assert_eq!(secret.prologue(Side::Connect), b"simpletun/1\x02\x01");
        assert_eq!(secret.prologue(Side::Listen), b"simpletun/1\x02\x02");
        assert_eq!(with_keys(None).prologue(Side::Connect), b"simpletun/1\x01\x01");
    }

    #[test]
    fn an_identity_is_the_same_if_every_secret_and_the_side_are() {
        let (secret, side) = (|byte| SharedSecret::from_bytes([byte; KEY_LEN]), Side::Connect);
        let private = |byte| PrivateKey::from_bytes([byte; KEY_LEN]);
        let keys = |own, peer, psk| {
            Identity::with_keys(&private(own), private(peer).public(), psk, side).expect("a pair of keys")
        };
        let all = || {
            [
                Identity::with_secret(secret(7), side),
                Identity::with_secret(secret(8), side),
                Identity::with_secret(secret(7), Side::Listen),
                keys(1, 2, None),
                keys(3, 2, None),
                keys(1, 3, None),
                keys(1, 2, Some(secret(7))),
            ]
        };
        for (index, one) in all().iter().enumerate() {
            for (place, other) in all().iter().enumerate() {
                assert_eq!(one.is_same(other), index == place, "{index} and {place}");
            }
        }
    }

    #[test]
    fn the_psk_is_the_secret_or_what_was_given_beside_the_keys_or_zeros() {
        let secret = |byte| SharedSecret::from_bytes([byte; KEY_LEN]);
        assert_eq!(*Identity::with_secret(secret(7), Side::Listen).psk_bytes(), [7; KEY_LEN]);
        assert_eq!(*with_keys(Some(secret(9))).psk_bytes(), [9; KEY_LEN]);
        assert_eq!(*with_keys(None).psk_bytes(), [0; KEY_LEN]);
    }
}
