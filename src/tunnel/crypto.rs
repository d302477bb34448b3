//! The primitives of a secure link: message keys, the hash and the MAC, and what the Noise handshake is made of.
//!
//! Pure: keys and bytes in, bytes out; chance comes in as bytes. Everything is done by `aws-lc-rs` and `blake2`; here
//! they only get their shape. The layout of nonces and the derivation of keys are those of `docs/PROTOCOL.md`.

use std::sync::Arc;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, UnparsedPublicKey, X25519};
use blake2::digest::consts::{U12, U16, U32};
use blake2::digest::{Digest, FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac};
use byteorder::{BigEndian, ByteOrder, LittleEndian};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of every key and of a Diffie-Hellman result in bytes.
pub const KEY_LEN: usize = 32;

/// Length of the tag behind every ciphertext in bytes.
pub const TAG_LEN: usize = 16;

/// Length of mac1 in bytes.
pub const MAC_LEN: usize = 16;

const NONCE_LEN: usize = 12;

/// How messages are sealed; the numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aead {
    /// AES-256-GCM (NIST SP 800-38D).
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305 = 2,
}

impl Aead {
    /// The AEAD of this number.
    pub fn from_wire(number: u8) -> Option<Self> {
        [Self::Aes256Gcm, Self::ChaCha20Poly1305].into_iter().find(|aead| *aead as u8 == number)
    }

    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

impl std::fmt::Display for Aead {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        })
    }
}

/// True if this processor has AES and the multiplication that GCM needs in hardware.
pub fn has_fast_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The key of one direction of a session, with the iv that its nonces are made of.
struct DirectionKey {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
}

impl DirectionKey {
    /// Derives it from one half of Noise's Split(); `None` if the library refuses the key, which it has no reason to.
    fn derive(split: &[u8; KEY_LEN], aead: Aead) -> Option<Self> {
        let labelled = |label: &[u8]| [label, &[aead as u8]].concat();
        let mut mac = Blake2sMac::<U32>::new_from_slice(split).ok()?;
        mac.update(&labelled(b"simpletun/1 key"));
        let key = Zeroizing::new(<[u8; KEY_LEN]>::from(mac.finalize_fixed()));
        let mut mac = Blake2sMac::<U12>::new_from_slice(split).ok()?;
        mac.update(&labelled(b"simpletun/1 iv"));
        let iv = mac.finalize_fixed().into();
        let key = UnboundKey::new(aead.algorithm(), &*key).ok()?;
        Some(Self { key: LessSafeKey::new(key), iv })
    }

    fn nonce(&self, lane: u8, counter: u64) -> Nonce {
        let mut nonce = self.iv;
        nonce[3] ^= lane;
        let low = BigEndian::read_u64(&nonce[4..]) ^ counter;
        BigEndian::write_u64(&mut nonce[4..], low);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Seals the messages of one direction. It holds the counter, and nothing else makes nonces for this key.
pub struct Sealer {
    key: DirectionKey,
    counter: u64,
}

impl Sealer {
    /// For one half of Noise's Split().
    pub fn new(split: &[u8; KEY_LEN], aead: Aead) -> Option<Self> {
        DirectionKey::derive(split, aead).map(|key| Self { key, counter: 0 })
    }

    /// The counter of the next message, which is how many there were.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Leaves out all counters below `counter`. They only ever grow, so no nonce comes twice; one that is not greater
    /// than [`counter`](Self::counter) changes nothing. For tests of large counters, which no test could reach otherwise.
    pub fn skip_to(&mut self, counter: u64) {
        self.counter = self.counter.max(counter);
    }

    /// Seals `plain` into `body`, which is [`TAG_LEN`] bytes longer. `header` is given the counter and is authenticated
    /// beside it. Returns false if nothing may be sent under this key any more.
    #[must_use]
    pub fn seal(&mut self, header: &mut [u8; 16], plain: &[u8], body: &mut [u8]) -> bool {
        let Some(next) = self.counter.checked_add(1) else { return false };
        let counter = std::mem::replace(&mut self.counter, next);
        BigEndian::write_u64(&mut header[8..], counter);
        let nonce = self.key.nonce(header[1], counter);
        let Some((sealed, tag)) = body.split_at_mut_checked(plain.len()) else { return false };
        self.key.key.seal_out_of_place_scatter(nonce, Aad::from(&*header), plain, sealed, &[], tag).is_ok()
    }
}

/// Opens the messages of one direction.
pub struct Opener {
    key: DirectionKey,
}

impl Opener {
    /// For one half of Noise's Split().
    pub fn new(split: &[u8; KEY_LEN], aead: Aead) -> Option<Self> {
        DirectionKey::derive(split, aead).map(|key| Self { key })
    }

    /// Opens `body`, a ciphertext with its tag, in place; `None` if it is not authentic.
    #[must_use]
    pub fn open<'a>(&self, header: &[u8; 16], body: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let nonce = self.key.nonce(header[1], BigEndian::read_u64(&header[8..]));
        self.key.key.open_in_place(nonce, Aad::from(header), body).ok()
    }
}

/// BLAKE2s-256 over the parts (RFC 7693).
pub fn hash(parts: &[&[u8]]) -> Zeroizing<[u8; KEY_LEN]> {
    let mut hasher = Blake2s256::new();
    parts.iter().for_each(|part| Update::update(&mut hasher, part));
    Zeroizing::new(hasher.finalize_fixed().into())
}

/// The key of mac1 for one receiver.
#[derive(Clone, ZeroizeOnDrop)]
pub struct MacKey(Zeroizing<[u8; KEY_LEN]>);

impl MacKey {
    /// From the hash that `docs/PROTOCOL.md` describes.
    pub fn new(key: Zeroizing<[u8; KEY_LEN]>) -> Self {
        Self(key)
    }

    /// Keyed BLAKE2s-128 of these bytes.
    pub fn mac(&self, bytes: &[u8]) -> [u8; MAC_LEN] {
        // A key of this length is always taken.
        let Ok(mut mac) = Blake2sMac::<U16>::new_from_slice(&*self.0) else { return [0; MAC_LEN] };
        mac.update(bytes);
        mac.finalize_fixed().into()
    }

    /// True if the last [`MAC_LEN`] bytes of `message` are the MAC of what stands in front of them.
    pub fn verifies(&self, message: &[u8]) -> bool {
        let Some((bytes, mac)) = message.split_last_chunk::<MAC_LEN>() else { return false };
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.mac(bytes), mac).is_ok()
    }
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("MacKey(..)")
    }
}

/// A private key of X25519 (RFC 7748) with its public one.
struct Exchange {
    private: Zeroizing<[u8; KEY_LEN]>,
    key: agreement::PrivateKey,
    public: [u8; KEY_LEN],
}

impl Exchange {
    /// `None` if the library refuses the key, which it has no reason to.
    fn new(private: &[u8; KEY_LEN]) -> Option<Self> {
        let key = agreement::PrivateKey::from_private_key(&X25519, private).ok()?;
        let public = key.compute_public_key().ok()?.as_ref().try_into().ok()?;
        Some(Self { private: Zeroizing::new(*private), key, public })
    }

    /// The Diffie-Hellman result; `None` if it is zero.
    fn with(&self, public: &[u8]) -> Option<Zeroizing<[u8; KEY_LEN]>> {
        let public = UnparsedPublicKey::new(&X25519, public);
        let shared = agreement::agree(&self.key, public, (), |shared| {
            shared.try_into().map(|shared: [u8; KEY_LEN]| Zeroizing::new(shared)).map_err(drop)
        });
        shared.ok().filter(|shared| shared.iter().any(|byte| *byte != 0))
    }
}

/// The static keys of an end and of its peer, with what is the same in each of their handshakes.
pub struct Statics {
    own: Exchange,
    peer: [u8; KEY_LEN],
    shared: Zeroizing<[u8; KEY_LEN]>,
}

impl Statics {
    /// `None` if the exchange of these keys yields zero: the peer's is none that protects anything.
    pub fn new(private: &[u8; KEY_LEN], peer: &[u8; KEY_LEN]) -> Option<Self> {
        let own = Exchange::new(private)?;
        let shared = own.with(peer)?;
        Some(Self { own, peer: *peer, shared })
    }

    /// This end's private key.
    pub fn private(&self) -> &[u8; KEY_LEN] {
        &self.own.private
    }

    /// This end's public key.
    pub fn public(&self) -> &[u8; KEY_LEN] {
        &self.own.public
    }

    /// The peer's public key.
    pub fn peer(&self) -> &[u8; KEY_LEN] {
        &self.peer
    }

    /// The Diffie-Hellman result of the two.
    pub fn shared(&self) -> &[u8; KEY_LEN] {
        &self.shared
    }
}

impl std::fmt::Debug for Statics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Statics(..)")
    }
}

/// What Noise is made of. The ephemeral key is the one given here, so that chance comes from outside.
pub struct Resolver {
    ephemeral: Zeroizing<[u8; KEY_LEN]>,
    statics: Option<Arc<Statics>>,
}

impl Resolver {
    /// With this ephemeral private key, which must not be used in a second handshake.
    pub fn new(ephemeral: Zeroizing<[u8; KEY_LEN]>) -> Self {
        Self { ephemeral, statics: None }
    }

    /// What is known of the static keys is not computed again.
    #[must_use]
    pub fn knowing(self, statics: Option<Arc<Statics>>) -> Self {
        Self { statics, ..self }
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(OneKey(self.ephemeral.clone())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let pair = || KeyPair { keys: Keys::Unset, statics: self.statics.clone() };
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(pair()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::Blake2s).then(|| Box::new(Blake2s::default()) as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| Box::new(ChaChaPoly::default()) as Box<dyn Cipher>)
    }
}

/// Random bytes that are asked for once: an ephemeral key.
struct OneKey(Zeroizing<[u8; KEY_LEN]>);

impl Random for OneKey {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        if dest.len() != KEY_LEN || self.0.iter().all(|byte| *byte == 0) {
            return Err(snow::Error::Rng);
        }
        dest.copy_from_slice(&*self.0);
        self.0.zeroize();
        Ok(())
    }
}

/// Noise's key pair: an ephemeral one, or the static one.
struct KeyPair {
    keys: Keys,
    statics: Option<Arc<Statics>>,
}

enum Keys {
    Unset,
    Ephemeral(Box<Exchange>),
    Static(Arc<Statics>),
}

impl KeyPair {
    fn exchange(&self) -> Option<&Exchange> {
        match &self.keys {
            Keys::Unset => None,
            Keys::Ephemeral(exchange) => Some(exchange),
            Keys::Static(statics) => Some(&statics.own),
        }
    }
}

impl Dh for KeyPair {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    fn set(&mut self, privkey: &[u8]) {
        let is_static = |statics: &&Arc<Statics>| {
            aws_lc_rs::constant_time::verify_slices_are_equal(statics.private(), privkey).is_ok()
        };
        self.keys = match self.statics.as_ref().filter(is_static) {
            Some(statics) => Keys::Static(Arc::clone(statics)),
            None => {
                let exchange = privkey.try_into().ok().and_then(Exchange::new);
                exchange.map_or(Keys::Unset, |exchange| Keys::Ephemeral(Box::new(exchange)))
            }
        };
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut private = Zeroizing::new([0; KEY_LEN]);
        rng.try_fill_bytes(&mut *private)?;
        self.set(&*private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.exchange().map_or(&[0; KEY_LEN], |exchange| &exchange.public)
    }

    fn privkey(&self) -> &[u8] {
        self.exchange().map_or(&[0; KEY_LEN], |exchange| &*exchange.private)
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = pubkey.get(..KEY_LEN).ok_or(snow::Error::Dh)?;
        let out = out.get_mut(..KEY_LEN).ok_or(snow::Error::Dh)?;
        match &self.keys {
            Keys::Static(statics) if statics.peer() == public => out.copy_from_slice(statics.shared()),
            _ => {
                let shared = self.exchange().and_then(|exchange| exchange.with(public)).ok_or(snow::Error::Dh)?;
                out.copy_from_slice(&*shared);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        Update::update(&mut self.0, data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let digest: [u8; 32] = std::mem::take(&mut self.0).finalize_fixed().into();
        if let Some(out) = out.get_mut(..digest.len()) {
            out.copy_from_slice(&digest);
        }
    }
}

/// ChaCha20-Poly1305 with Noise's nonce: 32 zero bits and the counter, little-endian.
#[derive(Default)]
struct ChaChaPoly {
    key: Option<LessSafeKey>,
}

fn noise_nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    LittleEndian::write_u64(&mut nonce[4..], counter);
    Nonce::assume_unique_for_key(nonce)
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; KEY_LEN]) {
        self.key = UnboundKey::new(&aead::CHACHA20_POLY1305, key).ok().map(LessSafeKey::new);
    }

    /// A length of 0 means that nothing was encrypted; the handshake then produces a message that nobody accepts.
    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let len = plaintext.len();
        let (Some(key), Some(out)) = (&self.key, out.get_mut(..len + TAG_LEN)) else { return 0 };
        let (body, room) = out.split_at_mut(len);
        body.copy_from_slice(plaintext);
        match key.seal_in_place_separate_tag(noise_nonce(nonce), Aad::from(authtext), body) {
            Ok(tag) => {
                room.copy_from_slice(tag.as_ref());
                len + TAG_LEN
            }
            Err(_) => {
                out.zeroize();
                0
            }
        }
    }

    fn decrypt(&self, nonce: u64, authtext: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<usize, snow::Error> {
        let key = self.key.as_ref().ok_or(snow::Error::Decrypt)?;
        let mut body = Zeroizing::new(ciphertext.to_vec());
        let plain =
            key.open_in_place(noise_nonce(nonce), Aad::from(authtext), &mut body).map_err(|_| snow::Error::Decrypt)?;
        out.get_mut(..plain.len()).ok_or(snow::Error::Decrypt)?.copy_from_slice(plain);
        Ok(plain.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statics() -> Statics {
        let peer = Exchange::new(&[8; KEY_LEN]).expect("a key").public;
        Statics::new(&[7; KEY_LEN], &peer).expect("a pair that yields something")
    }

    #[test]
    fn the_nonce_is_the_iv_with_the_lane_and_the_counter_in_it() {
        for aead in [Aead::Aes256Gcm, Aead::ChaCha20Poly1305] {
            let mut key = DirectionKey::derive(&[3; KEY_LEN], aead).expect("a key");
            key.iv = [0xff, 0, 0xff, 0x0f, 0xff, 0, 0, 0, 0, 0, 0x0f, 0xf0];
            let nonce = key.nonce(0x3c, 0x0102_0304_0506_3c3c);
            assert_eq!(nonce.as_ref(), &[0xff, 0, 0xff, 0x33, 0xfe, 2, 3, 4, 5, 6, 0x33, 0xcc]);
        }
    }

    #[test]
    fn counters_only_grow_and_end_before_the_first_would_come_again() {
        let mut sealer = Sealer::new(&[3; KEY_LEN], Aead::ChaCha20Poly1305).expect("a key");
        let (mut header, mut body) = ([0; 16], [0; 3 + TAG_LEN]);
        assert!(sealer.seal(&mut header, b"one", &mut body) && sealer.seal(&mut header, b"two", &mut body));
        assert_eq!((sealer.counter(), header[15]), (2, 1));
        sealer.skip_to(1);
        assert_eq!(sealer.counter(), 2);
        sealer.skip_to(u64::MAX - 1);
        assert_eq!(sealer.counter(), u64::MAX - 1);
        assert!(sealer.seal(&mut header, b"one", &mut body));
        assert!(!sealer.seal(&mut header, b"two", &mut body));
    }

    #[test]
    fn an_ephemeral_key_is_given_once() {
        let mut key = OneKey(Zeroizing::new([5; KEY_LEN]));
        let mut bytes = [0; KEY_LEN + 1];
        assert!(key.try_fill_bytes(&mut bytes).is_err() && key.try_fill_bytes(&mut bytes[..4]).is_err());
        assert!(key.try_fill_bytes(&mut bytes[..KEY_LEN]).is_ok());
        assert_eq!(bytes[..KEY_LEN], [5; KEY_LEN]);
        assert!(key.try_fill_bytes(&mut bytes[..KEY_LEN]).is_err(), "it is used up");
    }

    #[test]
    fn static_keys_are_what_they_were_made_of() {
        let statics = statics();
        assert_eq!(statics.private(), &[7; KEY_LEN]);
        let peer = Exchange::new(&[8; KEY_LEN]).expect("a key");
        assert_eq!(statics.peer(), &peer.public);
        assert_eq!(statics.shared(), &*peer.with(statics.public()).expect("not zero"), "the peer comes to the same");
    }

    fn hex(text: &str) -> [u8; KEY_LEN] {
        std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex"))
    }

    #[test]
    fn a_key_pair_exchanges_as_rfc_7748_says() {
        let private = hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let public = hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        let peer = hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        let shared = hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        let known = Statics::new(&private, &peer).map(Arc::new);
        assert!(known.is_some());
        for statics in [None, known] {
            let (mut pair, mut out) = (KeyPair { keys: Keys::Unset, statics }, [0; KEY_LEN]);
            assert!(pair.dh(&peer, &mut out).is_err(), "without a key there is nothing to exchange");
            pair.set(&private);
            assert_eq!((pair.name(), pair.pub_len(), pair.priv_len()), ("25519", KEY_LEN, KEY_LEN));
            assert_eq!((pair.pubkey(), pair.privkey()), (&public[..], &private[..]));
            assert!(pair.dh(&peer, &mut out).is_ok());
            assert_eq!(out, shared);
            assert!(pair.dh(&[0; KEY_LEN], &mut out).is_err(), "a result of zeros is none");
        }
    }

    #[test]
    fn the_hash_is_that_of_rfc_7693_and_forgets_on_demand() {
        let mut blake = Blake2s::default();
        assert_eq!((blake.name(), blake.block_len(), blake.hash_len()), ("BLAKE2s", 64, 32));
        let mut out = [0; KEY_LEN];
        for before in ["", "not this"] {
            blake.input(before.as_bytes());
            blake.reset();
            blake.input(b"abc");
            blake.result(&mut out);
            assert_eq!(out, hex("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"));
        }
    }

    #[test]
    fn the_cipher_opens_with_its_key_its_counter_and_what_stands_beside_it() {
        let (mut cipher, mut sealed, mut out) = (ChaChaPoly::default(), [0; 3 + TAG_LEN], [0; 3]);
        assert_eq!(cipher.name(), "ChaChaPoly");
        assert_eq!(cipher.encrypt(1, b"beside", b"one", &mut sealed), 0, "there is no key");
        cipher.set(&[3; KEY_LEN]);
        assert_eq!(cipher.encrypt(1, b"beside", b"one", &mut sealed), sealed.len());
        assert!(cipher.decrypt(2, b"beside", &sealed, &mut out).is_err());
        assert!(cipher.decrypt(1, b"", &sealed, &mut out).is_err());
        assert_eq!((cipher.decrypt(1, b"beside", &sealed, &mut out).ok(), &out), (Some(3), b"one"));
    }

    #[test]
    fn names_say_how_messages_are_sealed_and_nothing_secret_is_shown() {
        let names = [Aead::Aes256Gcm, Aead::ChaCha20Poly1305].map(|aead| aead.to_string());
        assert_eq!(names, ["aes-256-gcm", "chacha20-poly1305"]);
        let key = MacKey::new(Zeroizing::new([7; KEY_LEN]));
        assert_eq!(format!("{key:?} {:?}", statics()), "MacKey(..) Statics(..)");
    }

    /// The kernel's list of what the processor has is the second opinion.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn fast_aes_is_where_the_processor_has_it() {
        let list = std::fs::read_to_string("/proc/cpuinfo").expect("the kernel's list");
        let has = |feature: &str| list.split_whitespace().any(|word| word == feature);
        assert_eq!(has_fast_aes(), has("aes") && (has("pclmulqdq") || has("pmull")));
    }
}
