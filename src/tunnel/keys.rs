//! The keys of secure links and their text form (docs/PROTOCOL.md, "Text form of keys").
//!
//! Pure: it reads no file, draws no randomness and knows no handshake. No error and no `Debug` output contains anything
//! of a private key or of a secret, and both are wiped from memory when they are dropped.

use std::fmt;

use aws_lc_rs::agreement::{self, X25519};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64ct::{Base64UrlUnpadded, Encoding};
use blake2::{Blake2s256, Digest};
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// Length of every key in bytes.
pub const KEY_LEN: usize = 32;

/// Length of the check behind the key in bytes.
const CHECK_LEN: usize = 4;

/// Length in characters of what follows the prefix: no bits of it are unused, so each key has one text only.
const BODY_LEN: usize = (KEY_LEN + CHECK_LEN) * 4 / 3;

/// The byte order mark that some editors put in front of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A private key (X25519, RFC 7748; clamped when it is used).
#[derive(Clone, ZeroizeOnDrop)]
pub struct PrivateKey([u8; KEY_LEN]);

/// The public key of a private one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

/// A secret that both ends hold: that of a link without key pairs, or the pre-shared key of one with them.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SharedSecret([u8; KEY_LEN]);

/// What a text is the text of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// [`PrivateKey`]
    Private,
    /// [`PublicKey`]
    Public,
    /// [`SharedSecret`]
    Secret,
}

impl KeyKind {
    const ALL: [Self; 3] = [Self::Private, Self::Public, Self::Secret];

    /// What a text of this kind begins with, the colon included.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Private => "st1sk:",
            Self::Public => "st1pk:",
            Self::Secret => "st1psk:",
        }
    }

    /// The words that say where a key of this kind comes from.
    fn origin(self) -> &'static str {
        match self {
            Self::Private => "make one with simpletun genkey",
            Self::Public => "simpletun pubkey prints that of a private key",
            Self::Secret => "make one with simpletun genpsk",
        }
    }
}

/// The kind with its article, as it stands in sentences.
impl fmt::Display for KeyKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Private => "a private key",
            Self::Public => "a public key",
            Self::Secret => "a shared secret",
        })
    }
}

/// Why a text is not the key that is wanted. The sentences stand behind a colon and never contain the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A private key where something else is wanted.
    #[error(
        "this is a private key (st1sk:) and {wanted} is wanted ({origin}); keep the private key to yourself",
        origin = .wanted.origin()
    )]
    PrivateKey {
        /// What is wanted.
        wanted: KeyKind,
    },
    /// A public key where something else is wanted.
    #[error("this is a public key (st1pk:) and {wanted} is wanted; {origin}", origin = .wanted.origin())]
    PublicKey {
        /// What is wanted.
        wanted: KeyKind,
    },
    /// A shared secret where something else is wanted.
    #[error(
        "this is a shared secret (st1psk:) and {wanted} is wanted ({origin}); keep the secret to both ends",
        origin = .wanted.origin()
    )]
    SharedSecret {
        /// What is wanted.
        wanted: KeyKind,
    },
    /// The check behind the key is not that of the key, or there are foreign characters.
    #[error("{0} is wanted and this one is mistyped: its check is wrong; copy it again")]
    Mistyped(KeyKind),
    /// The end is missing.
    #[error(
        "{0} is wanted and this one is cut off: {len} characters follow {prefix}; copy all of it",
        len = BODY_LEN,
        prefix = .0.prefix()
    )]
    CutOff(KeyKind),
    /// Something follows it.
    #[error(
        "{0} is wanted and this one is too long: {len} characters follow {prefix}; copy it and nothing else",
        len = BODY_LEN,
        prefix = .0.prefix()
    )]
    TooLong(KeyKind),
    /// There is no prefix of a key.
    #[error(
        "this is not a key at all, and passwords are not accepted because they can be guessed: {origin}",
        origin = .0.origin()
    )]
    NotAKey(KeyKind),
    /// There is nothing, or only white space.
    #[error("it is empty and {0} is wanted; {origin}", origin = .0.origin())]
    Empty(KeyKind),
    /// More than one line.
    #[error("it has more than one line and {0} is wanted, which is one line; leave only that line")]
    ManyLines(KeyKind),
    /// A byte order mark stands in front.
    #[error("it begins with a byte order mark and {0} is wanted; save it as plain text without one")]
    ByteOrderMark(KeyKind),
    /// A zero byte, as in a binary file.
    #[error("it contains a zero byte and {0} is wanted, which is plain text; {origin}", origin = .0.origin())]
    ZeroByte(KeyKind),
    /// The bytes are no text.
    #[error("it is not text and {0} is wanted, which is plain text; {origin}", origin = .0.origin())]
    NotText(KeyKind),
    /// A private key or a secret of zeros only.
    #[error("{0} is wanted and this one is all zeros, which everybody can guess; {origin}", origin = .0.origin())]
    AllZero(KeyKind),
}

impl PrivateKey {
    /// The key of these bytes.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key.
    pub fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        let mut public = [0; KEY_LEN];
        let computed = agreement::PrivateKey::from_private_key(&X25519, &self.0).ok();
        if let Some(key) = computed.and_then(|key| key.compute_public_key().ok())
            && key.as_ref().len() == KEY_LEN
        {
            public.copy_from_slice(key.as_ref());
        }
        // Only a failed allocation leaves the zeros; every Diffie-Hellman exchange refuses them.
        PublicKey(public)
    }

    /// The text form, one line without its end.
    pub fn to_text(&self) -> Zeroizing<String> {
        encode(KeyKind::Private, &self.0)
    }

    /// The key of a text; white space around it and one end of line are ignored.
    ///
    /// # Errors
    /// What the text is instead, or what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        decode(KeyKind::Private, text).map(|bytes| Self(*bytes))
    }
}

impl PublicKey {
    /// The key of these bytes.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key.
    pub fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The key of a text; white space around it and one end of line are ignored. Whether the key is of any use is
    /// found out by the Diffie-Hellman exchange.
    ///
    /// # Errors
    /// What the text is instead, or what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        decode(KeyKind::Public, text).map(|bytes| Self(*bytes))
    }
}

impl SharedSecret {
    /// The secret of these bytes.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the secret.
    pub fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The text form, one line without its end.
    pub fn to_text(&self) -> Zeroizing<String> {
        encode(KeyKind::Secret, &self.0)
    }

    /// The secret of a text; white space around it and one end of line are ignored.
    ///
    /// # Errors
    /// What the text is instead, or what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        decode(KeyKind::Secret, text).map(|bytes| Self(*bytes))
    }
}

/// In constant time.
impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for PrivateKey {}

/// In constant time.
impl PartialEq for SharedSecret {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for SharedSecret {}

/// Nothing of the key.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PrivateKey(hidden)")
    }
}

/// Nothing of the secret.
impl fmt::Debug for SharedSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SharedSecret(hidden)")
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({self})")
    }
}

/// The text form.
impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&encode(KeyKind::Public, &self.0))
    }
}

/// What stands behind the key, so that a mistyped character is noticed.
fn check(kind: KeyKind, key: &[u8]) -> [u8; CHECK_LEN] {
    let digest = Blake2s256::new().chain_update(kind.prefix()).chain_update(key).finalize();
    let mut check = [0; CHECK_LEN];
    check.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
    check
}

fn encode(kind: KeyKind, key: &[u8; KEY_LEN]) -> Zeroizing<String> {
    let mut whole = Zeroizing::new([0; KEY_LEN + CHECK_LEN]);
    let (first, last) = whole.split_at_mut(KEY_LEN);
    first.copy_from_slice(key);
    last.copy_from_slice(&check(kind, key));
    let mut body = Zeroizing::new([0; BODY_LEN]);
    // Never grown, which would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(kind.prefix().len() + BODY_LEN));
    text.push_str(kind.prefix());
    // The body has exactly the length that is needed, which is the only thing that can be wrong.
    text.push_str(Base64UrlUnpadded::encode(whole.as_slice(), body.as_mut_slice()).unwrap_or_default());
    text
}

fn decode(wanted: KeyKind, text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    let body = body(wanted, text)?;
    if body.len() != BODY_LEN {
        return Err(if body.len() < BODY_LEN { KeyError::CutOff(wanted) } else { KeyError::TooLong(wanted) });
    }
    let mut whole = Zeroizing::new([0; KEY_LEN + CHECK_LEN]);
    Base64UrlUnpadded::decode(body, whole.as_mut_slice()).map_err(|_| KeyError::Mistyped(wanted))?;
    let (first, last) = whole.split_at(KEY_LEN);
    verify_slices_are_equal(&check(wanted, first), last).map_err(|_| KeyError::Mistyped(wanted))?;
    let mut key = Zeroizing::new([0; KEY_LEN]);
    key.copy_from_slice(first);
    if wanted != KeyKind::Public && verify_slices_are_equal(key.as_slice(), &[0; KEY_LEN]).is_ok() {
        return Err(KeyError::AllZero(wanted));
    }
    Ok(key)
}

/// What follows the prefix of the wanted kind.
fn body(wanted: KeyKind, text: &str) -> Result<&str, KeyError> {
    if text.starts_with(BYTE_ORDER_MARK) {
        return Err(KeyError::ByteOrderMark(wanted));
    }
    if text.contains('\0') {
        return Err(KeyError::ZeroByte(wanted));
    }
    if text.trim().is_empty() {
        return Err(KeyError::Empty(wanted));
    }
    let line = text.strip_suffix('\n').unwrap_or(text);
    if line.contains('\n') {
        return Err(KeyError::ManyLines(wanted));
    }
    let line = line.trim();
    let found = KeyKind::ALL.into_iter().find_map(|kind| Some((kind, line.strip_prefix(kind.prefix())?)));
    match found {
        Some((kind, body)) if kind == wanted => Ok(body),
        Some((KeyKind::Private, _)) => Err(KeyError::PrivateKey { wanted }),
        Some((KeyKind::Public, _)) => Err(KeyError::PublicKey { wanted }),
        Some((KeyKind::Secret, _)) => Err(KeyError::SharedSecret { wanted }),
        None => Err(KeyError::NotAKey(wanted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> [u8; KEY_LEN] {
        let mut bytes = [0; KEY_LEN];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap();
        }
        bytes
    }

    type Parse = fn(&str) -> Result<[u8; KEY_LEN], KeyError>;
    const PARSERS: [(KeyKind, Parse); 3] = [
        (KeyKind::Private, |text| PrivateKey::parse(text).map(|key| *key.bytes())),
        (KeyKind::Public, |text| PublicKey::parse(text).map(|key| *key.bytes())),
        (KeyKind::Secret, |text| SharedSecret::parse(text).map(|key| *key.bytes())),
    ];

    fn texts(bytes: [u8; KEY_LEN]) -> [String; 3] {
        [
            PrivateKey::from_bytes(bytes).to_text().to_string(),
            PublicKey::from_bytes(bytes).to_string(),
            SharedSecret::from_bytes(bytes).to_text().to_string(),
        ]
    }

    /// Alice's pair in RFC 7748, section 6.1.
    #[test]
    fn the_public_key_is_that_of_rfc_7748() {
        let private = PrivateKey::from_bytes(hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
        let public = PublicKey::from_bytes(hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"));
        assert_eq!(private.public(), public);
    }

    /// Made with another implementation of base64 and BLAKE2s.
    #[test]
    fn the_text_form_is_that_of_the_protocol() {
        let bytes = std::array::from_fn(|index| index as u8 + 1);
        let expected = [
            "st1sk:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyCeCpBZ",
            "st1pk:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyDwyRvz",
            "st1psk:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyCkZgER",
        ];
        assert_eq!(texts(bytes), expected);
    }

    /// By another character of the alphabet, by one outside, by leaving it out, and by doubling it.
    #[test]
    fn every_change_of_a_single_character_is_detected() {
        let bytes = std::array::from_fn(|index| (index * 37 + 11) as u8);
        for ((_, parse), text) in PARSERS.into_iter().zip(texts(bytes)) {
            for index in 0..text.len() {
                let (before, behind) = (&text[..index], &text[index + 1..]);
                let old = text.as_bytes()[index] as char;
                for new in (' '..='~').filter(|new| *new != old) {
                    let changed = format!("{before}{new}{behind}");
                    assert!(parse(&changed).is_err(), "{changed}");
                }
                for changed in [format!("{before}{behind}"), format!("{before}{old}{old}{behind}")] {
                    assert!(parse(&changed).is_err(), "{changed}");
                }
            }
        }
    }

    #[test]
    fn the_wrong_kind_is_named_beside_the_wanted_one() {
        for (text, (found, _)) in texts([7; KEY_LEN]).into_iter().zip(PARSERS) {
            for (wanted, parse) in PARSERS.into_iter().filter(|(wanted, _)| *wanted != found) {
                let error = parse(&text).unwrap_err();
                let expected = match found {
                    KeyKind::Private => KeyError::PrivateKey { wanted },
                    KeyKind::Public => KeyError::PublicKey { wanted },
                    KeyKind::Secret => KeyError::SharedSecret { wanted },
                };
                assert_eq!(error, expected);
                let said = error.to_string();
                assert!(said.contains(&format!("this is {found}")), "{said}");
                assert!(said.contains(&format!("{wanted} is wanted")), "{said}");
            }
        }
    }

    #[test]
    fn whatever_is_no_key_has_its_own_sentence() {
        let text = SharedSecret::from_bytes([7; KEY_LEN]).to_text().to_string();
        let kind = KeyKind::Secret;
        for (given, expected) in [
            (String::new(), KeyError::Empty(kind)),
            (" \n\n".to_owned(), KeyError::Empty(kind)),
            ("correct horse battery staple".to_owned(), KeyError::NotAKey(kind)),
            (text.to_uppercase(), KeyError::NotAKey(kind)),
            (text[..54].to_owned(), KeyError::CutOff(kind)),
            ("st1psk:".to_owned(), KeyError::CutOff(kind)),
            (format!("{text}A"), KeyError::TooLong(kind)),
            (format!("{text} # ours"), KeyError::TooLong(kind)),
            (format!("{text}\n{text}\n"), KeyError::ManyLines(kind)),
            (format!("{text}\n\n"), KeyError::ManyLines(kind)),
            (format!("\n{text}"), KeyError::ManyLines(kind)),
            (format!("\u{feff}{text}"), KeyError::ByteOrderMark(kind)),
            (format!("{text}\0"), KeyError::ZeroByte(kind)),
            (text.replace('B', "é"), KeyError::TooLong(kind)),
            (format!("{}!", &text[..54]), KeyError::Mistyped(kind)),
        ] {
            assert_eq!(SharedSecret::parse(&given).unwrap_err(), expected, "{given:?}");
        }
        assert!(KeyError::NotAKey(kind).to_string().contains("simpletun genpsk"));
    }

    #[test]
    fn a_secret_of_zeros_is_refused() {
        for ((kind, parse), text) in PARSERS.into_iter().zip(texts([0; KEY_LEN])) {
            let expected = if kind == KeyKind::Public { Ok([0; KEY_LEN]) } else { Err(KeyError::AllZero(kind)) };
            assert_eq!(parse(&text), expected);
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let bytes = [0xa5; KEY_LEN];
        let [private, _, secret] = texts(bytes);
        let shown = format!("{:?} {:?}", PrivateKey::from_bytes(bytes), SharedSecret::from_bytes(bytes));
        assert_eq!(shown, "PrivateKey(hidden) SharedSecret(hidden)");
        for text in [private, secret] {
            let body = &text[text.len() - 48..];
            for (_, parse) in PARSERS {
                for given in [text.clone(), format!("{text}A"), format!("x{text}"), text.replace('p', "P")] {
                    let Err(error) = parse(&given) else { continue };
                    assert!(!format!("{error} {error:?}").contains(&body[..8]), "{error}");
                }
            }
        }
    }

    #[test]
    fn keys_compare_by_their_bytes() {
        let mut other = [7; KEY_LEN];
        other[31] = 8;
        assert_eq!(PrivateKey::from_bytes([7; KEY_LEN]), PrivateKey::from_bytes([7; KEY_LEN]));
        assert_ne!(PrivateKey::from_bytes([7; KEY_LEN]), PrivateKey::from_bytes(other));
        assert_eq!(SharedSecret::from_bytes([7; KEY_LEN]), SharedSecret::from_bytes([7; KEY_LEN]));
        assert_ne!(SharedSecret::from_bytes([7; KEY_LEN]), SharedSecret::from_bytes(other));
    }

    proptest! {
        #[test]
        fn a_text_gives_the_bytes_back(bytes in any::<[u8; KEY_LEN]>()) {
            prop_assume!(bytes != [0; KEY_LEN]);
            for ((kind, parse), text) in PARSERS.into_iter().zip(texts(bytes)) {
                prop_assert_eq!(text.len(), kind.prefix().len() + 48);
                prop_assert_eq!(parse(&text), Ok(bytes));
                prop_assert_eq!(parse(&format!(" \t{text} \r\n")), Ok(bytes));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            for (kind, parse) in PARSERS {
                prop_assert!(parse(&text).is_err());
                let behind_prefix = kind.prefix().to_owned() + &text;
                prop_assert!(parse(&behind_prefix).is_err());
            }
        }
    }
}
