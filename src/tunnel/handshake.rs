//! The two messages of a handshake, made and read. Pure: chance comes in as an ephemeral key.
//!
//! It knows nothing of sessions, timers or limits; what is done with a message is decided in [`super::secure`].

use byteorder::{BigEndian, ByteOrder};
use snow::HandshakeState;
use zeroize::{Zeroize, Zeroizing};

use super::crypto::{Aead, KEY_LEN, MAC_LEN, Opener, Resolver, Sealer};
use super::identity::Identity;
use super::message::{
    Answer, INIT, INIT_HEADER_LEN, Offer, P1_LEN, P2_LEN, RESP, RESP_HEADER_LEN, RESP_LEN, Side, VERSION,
};

/// A private key that is used for one handshake.
pub type Ephemeral = Zeroizing<[u8; KEY_LEN]>;

/// The keys of a session: one to seal with, one to open with.
pub struct SessionKeys {
    /// For what this end sends.
    pub sealer: Sealer,
    /// For what it receives.
    pub opener: Opener,
}

/// An INIT that was sent.
pub struct Initiation {
    noise: HandshakeState,
    /// The INIT as it goes out.
    pub message: Vec<u8>,
}

/// An INIT that was read; the answer is still to be made.
pub struct Invitation {
    noise: HandshakeState,
    sender: u32,
    /// What the initiator says of itself.
    pub offer: Offer,
}

/// Makes an INIT. `None` if the library refuses the keys, which were checked when they were read.
pub fn initiate(identity: &Identity, ephemeral: Ephemeral, index: u32, offer: Offer) -> Option<Initiation> {
    let mut noise = begin(identity, ephemeral, identity.side())?;
    let mut message = vec![0; identity.suite().init_len()];
    message[..4].copy_from_slice(&[INIT, VERSION, identity.suite() as u8, 0]);
    BigEndian::write_u32(&mut message[4..8], index);
    let mac_at = message.len() - MAC_LEN;
    let written = noise.write_message(&offer.to_bytes(), &mut message[INIT_HEADER_LEN..mac_at]).ok()?;
    if INIT_HEADER_LEN + written != mac_at {
        return None;
    }
    sign(identity, &mut message);
    Some(Initiation { noise, message })
}

/// True if this has the form of an INIT for this identity: length, version, suite. Says nothing of its origin.
pub fn is_init(identity: &Identity, message: &[u8]) -> bool {
    message.len() == identity.suite().init_len() && message.starts_with(&[INIT, VERSION, identity.suite() as u8])
}

/// The sender's index of an INIT or RESP; 0 if it is too short for one.
pub fn sender_index(message: &[u8]) -> u32 {
    message.get(4..8).map_or(0, BigEndian::read_u32)
}

/// The receiver's index of something that has the form of a RESP for this identity.
pub fn resp_receiver(identity: &Identity, message: &[u8]) -> Option<u32> {
    let form = message.len() == RESP_LEN && message.starts_with(&[RESP, VERSION, identity.suite() as u8]);
    form.then(|| BigEndian::read_u32(&message[8..12]))
}

/// Reads an INIT whose form and mac1 are right already. The ephemeral key is for the answer.
///
/// `None` if it is not authentic.
pub fn read_init(identity: &Identity, ephemeral: Ephemeral, message: &[u8]) -> Option<Invitation> {
    let mut noise = begin(identity, ephemeral, identity.side().other())?;
    let body = message.get(INIT_HEADER_LEN..message.len().checked_sub(MAC_LEN)?)?;
    let mut offer = Zeroizing::new([0; P1_LEN]);
    let len = noise.read_message(body, &mut *offer).ok()?;
    // With key pairs, mac1 was made with one peer's key; the key inside has to be that one.
    let right_key =
        identity.statics().is_none_or(|statics| noise.get_remote_static() == Some(statics.peer().as_slice()));
    (len == P1_LEN && right_key).then(|| Invitation {
        noise,
        sender: sender_index(message),
        offer: Offer::parse(&offer),
    })
}

impl Invitation {
    /// The index by which the initiator wants to be addressed.
    pub fn sender(&self) -> u32 {
        self.sender
    }

    /// Makes the RESP, and with an AEAD the keys of the session that it begins.
    pub fn answer(
        mut self,
        identity: &Identity,
        index: u32,
        answer: Answer,
        aead: Option<Aead>,
    ) -> Option<(Vec<u8>, Option<SessionKeys>)> {
        let mut message = vec![0; RESP_LEN];
        message[..4].copy_from_slice(&[RESP, VERSION, identity.suite() as u8, 0]);
        BigEndian::write_u32(&mut message[4..8], index);
        BigEndian::write_u32(&mut message[8..12], self.sender);
        let mac_at = RESP_LEN - MAC_LEN;
        let written = self.noise.write_message(&answer.to_bytes(), &mut message[RESP_HEADER_LEN..mac_at]).ok()?;
        if RESP_HEADER_LEN + written != mac_at {
            return None;
        }
        sign(identity, &mut message);
        let keys = match aead {
            Some(aead) => Some(split(&mut self.noise, aead, Part::Responder)?),
            None => None,
        };
        Some((message, keys))
    }
}

impl Initiation {
    /// Reads a RESP whose form, index and mac1 are right already; `None` if it is not authentic.
    pub fn read_resp(&mut self, message: &[u8]) -> Option<Answer> {
        let body = message.get(RESP_HEADER_LEN..message.len().checked_sub(MAC_LEN)?)?;
        let mut answer = Zeroizing::new([0; P2_LEN]);
        let len = self.noise.read_message(body, &mut *answer).ok()?;
        (len == P2_LEN).then(|| Answer::parse(&answer))
    }

    /// The keys of the session, once RESP was read.
    pub fn keys(mut self, aead: Aead) -> Option<SessionKeys> {
        split(&mut self.noise, aead, Part::Initiator)
    }
}

#[derive(Clone, Copy)]
enum Part {
    Initiator,
    Responder,
}

fn split(noise: &mut HandshakeState, aead: Aead, part: Part) -> Option<SessionKeys> {
    if !noise.is_handshake_finished() {
        return None;
    }
    let (mut to_responder, mut to_initiator) = noise.dangerously_get_raw_split();
    let (ours, theirs) = match part {
        Part::Initiator => (&to_responder, &to_initiator),
        Part::Responder => (&to_initiator, &to_responder),
    };
    let keys = Sealer::new(ours, aead).zip(Opener::new(theirs, aead));
    to_responder.zeroize();
    to_initiator.zeroize();
    keys.map(|(sealer, opener)| SessionKeys { sealer, opener })
}

fn sign(identity: &Identity, message: &mut [u8]) {
    let Some((bytes, mac)) = message.split_last_chunk_mut::<MAC_LEN>() else { return };
    *mac = identity.outgoing().mac(bytes);
}

/// A Noise handshake that the end with side `initiator` begins.
fn begin(identity: &Identity, ephemeral: Ephemeral, initiator: Side) -> Option<HandshakeState> {
    let suite = identity.suite();
    let is_ours = initiator == identity.side();
    let params = suite.noise_name().parse().ok()?;
    let prologue = identity.prologue(initiator);
    let psk = identity.psk_bytes();
    let resolver = Resolver::new(ephemeral).knowing(identity.statics().cloned());
    let mut builder = snow::Builder::with_resolver(params, Box::new(resolver))
        .prologue(&prologue)
        .and_then(|builder| builder.psk(suite.psk_place(), &psk))
        .ok()?;
    if let Some(statics) = identity.statics() {
        builder = builder.local_private_key(statics.private()).ok()?;
    }
    match identity.statics().filter(|_| is_ours) {
        Some(statics) => builder.remote_public_key(statics.peer()).ok()?.build_initiator().ok(),
        None if is_ours => builder.build_initiator().ok(),
        None => builder.build_responder().ok(),
    }
}
