//! How the link is protected: which of the three ways the options ask for, and the keys for it.
//!
//! A link that was asked to be secure is secure or refused, never plain. Files are read by what the caller passes in
//! ([`KeySource`]); no error shows a key.

use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use super::key_file::KeyFileError;
use super::{AeadChoice, ConfigError, Options, Security, Text};
use crate::tunnel::keys::{KeyError, KeyKind, PrivateKey, PublicKey, SharedSecret};

/// The name that stands for standard input.
pub const STANDARD_INPUT: &str = "-";

/// How many secrets or peer keys there may be: the old one and the new one while they are exchanged.
const MAX_KEYS: usize = 2;

const MIN_REKEY_AFTER: Duration = Duration::from_millis(10);

/// Where keys and the directory of state come from.
pub trait KeySource {
    /// The bytes of a file, or of standard input if it is `-`.
    ///
    /// # Errors
    /// The file cannot be read, or others can read or change it.
    fn read(&self, file: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError>;

    /// The file of the credential of this name that the service manager has handed over.
    fn credential(&self, name: &str) -> Option<String>;

    /// The directory that the service manager has made for state.
    fn state_directory(&self) -> Option<PathBuf>;
}

/// What the options say about protection.
pub(super) struct Protection {
    pub(super) security: Security,
    pub(super) aead: AeadChoice,
    pub(super) pin_endpoint: bool,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) rekey_after: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Secret,
    Keys,
}

/// The options that say which way is meant, and those that any secure link takes.
struct Given {
    secret: Option<&'static str>,
    keys: Option<&'static str>,
    psk: Option<&'static str>,
    any: Option<&'static str>,
}

/// Chooses the way, checks that the options fit it, and reads the keys.
///
/// # Errors
/// The options contradict each other, something is missing, or a key or its file is not what it should be.
pub(super) fn protection(options: &Options, keys: &dyn KeySource) -> Result<Protection, ConfigError> {
    let way = way(options)?;
    check_count("secret-file", &options.secret_file)?;
    check_count("peer-public-key", &options.peer_public_key)?;
    check_standard_input(options)?;
    let aead = aead(options)?;
    let rekey_after = options.rekey_after.as_ref().map(rekey_after).transpose()?;
    let security = match way {
        Way::Plain => Security::Plain,
        Way::Secret => secrets(options, keys)?,
        Way::Keys => key_pairs(options, keys)?,
    };
    check_pinned(options)?;
    let state_dir = options.state_dir.as_ref().map(state_dir).transpose()?;
    let default_dir = || keys.state_directory().filter(|_| way != Way::Plain);
    let state_dir = state_dir.or_else(default_dir);
    Ok(Protection { security, aead, pin_endpoint: options.pin_endpoint, state_dir, rekey_after })
}

fn given(options: &Options) -> Given {
    let first = |names: &[(bool, &'static str)]| names.iter().find(|(given, _)| *given).map(|(_, name)| *name);
    Given {
        secret: first(&[(!options.secret_file.is_empty(), "secret-file")]),
        keys: first(&[
            (options.private_key_file.is_some(), "private-key-file"),
            (!options.peer_public_key.is_empty(), "peer-public-key"),
        ]),
        psk: first(&[(options.psk_file.is_some(), "psk-file")]),
        any: first(&[
            (options.pin_endpoint, "pin-endpoint"),
            (options.aead.is_some(), "aead"),
            (options.state_dir.is_some(), "state-dir"),
            (options.rekey_after.is_some(), "rekey-after"),
        ]),
    }
}

fn way(options: &Options) -> Result<Way, ConfigError> {
    let given = given(options);
    let refuse = |text: String| Err(ConfigError::Combination(text));
    let by_keys = given.keys.or(given.psk);
    match options.security.as_ref().map(|text| text.0.as_str()) {
        Some("plain") => match given.secret.map(|name| (name, "secret")).or(by_keys.map(|name| (name, "keys"))) {
            Some((name, way)) => refuse(format!(
                "Option {name} cannot be used with security = \"plain\": write security = \"{way}\" or leave it out"
            )),
            None => match given.any {
                Some(name) => refuse(format!(
                    "Option {name} cannot be used with security = \"plain\": write security = \"secret\" or \"keys\" \
                     or leave it out"
                )),
                None => Ok(Way::Plain),
            },
        },
        Some("secret") => match by_keys {
            Some(name) => refuse(format!(
                "Option {name} cannot be used with security = \"secret\": write security = \"keys\" or leave it out"
            )),
            None => Ok(Way::Secret),
        },
        Some("keys") => match given.secret {
            Some(name) => refuse(format!(
                "Option {name} cannot be used with security = \"keys\": write security = \"secret\" or, if it is the \
                 pre-shared key, use psk-file"
            )),
            None => Ok(Way::Keys),
        },
        Some(other) => Err(ConfigError::value("security", other, "it must be plain, secret or keys")),
        None => inferred(&given),
    }
}

/// On the command line the files say it.
fn inferred(given: &Given) -> Result<Way, ConfigError> {
    match given {
        Given { secret: Some(secret), keys: Some(keys), .. } | Given { secret: Some(secret), psk: Some(keys), .. } => {
            Err(ConfigError::Combination(format!(
                "Options {secret} and {keys} cannot be used together: a link is secured by a shared secret or by key \
                 pairs; leave out those of the other way"
            )))
        }
        Given { secret: Some(_), .. } => Ok(Way::Secret),
        Given { keys: Some(_), .. } => Ok(Way::Keys),
        Given { psk: Some(psk), .. } => Err(ConfigError::Combination(format!(
            "Option {psk} adds to key pairs and there are none: add private-key-file and peer-public-key, or use \
             secret-file instead for a link by a shared secret"
        ))),
        Given { any: Some(any), .. } => Err(ConfigError::Combination(format!(
            "Option {any} cannot be used on a plain link: add secret-file, or private-key-file and peer-public-key, \
             or leave it out"
        ))),
        _ => Ok(Way::Plain),
    }
}

fn check_count(option: &'static str, values: &[Text]) -> Result<(), ConfigError> {
    if values.len() <= MAX_KEYS {
        return Ok(());
    }
    Err(ConfigError::Combination(format!(
        "Option {option} is given {} times and may be given {MAX_KEYS} times, for the old and the new one while they \
         are exchanged: leave out the others",
        values.len()
    )))
}

fn check_standard_input(options: &Options) -> Result<(), ConfigError> {
    let secrets = options.secret_file.iter().map(|file| ("secret-file", file));
    let private = options.private_key_file.iter().map(|file| ("private-key-file", file));
    let psk = options.psk_file.iter().map(|file| ("psk-file", file));
    let mut named = secrets.chain(private).chain(psk).filter(|(_, file)| file.0 == STANDARD_INPUT);
    match (named.next(), named.next()) {
        (Some((first, _)), Some((second, _))) => Err(ConfigError::Combination(format!(
            "Options {first} and {second} both name standard input (-), which holds one key only: give one of them a \
             file"
        ))),
        _ => Ok(()),
    }
}

fn check_pinned(options: &Options) -> Result<(), ConfigError> {
    if !options.pin_endpoint {
        return Ok(());
    }
    if !options.udp {
        return Err(ConfigError::Combination(
            "Option pin-endpoint cannot be used with tcp, whose connections do not move: use udp or leave it out"
                .to_owned(),
        ));
    }
    if options.connect.is_none() && options.remote.is_none() {
        return Err(ConfigError::Combination(
            "Option pin-endpoint cannot be used by a server that does not know its peer: add remote or leave it out"
                .to_owned(),
        ));
    }
    Ok(())
}

fn secrets(options: &Options, keys: &dyn KeySource) -> Result<Security, ConfigError> {
    let files = if options.secret_file.is_empty() {
        let credential = keys.credential("secret").ok_or_else(|| {
            ConfigError::Combination(
                "A link with security = \"secret\" lacks its secret: name its file by secret-file, or hand it over \
                 as the credential named secret (LoadCredential= of systemd)"
                    .to_owned(),
            )
        })?;
        vec![credential]
    } else {
        options.secret_file.iter().map(|file| file.0.clone()).collect()
    };
    let read = |file: &String| key("secret-file", file, KeyKind::Secret, SharedSecret::parse, keys);
    let secrets: Vec<SharedSecret> = files.iter().map(read).collect::<Result<_, _>>()?;
    if let ([first, second], [secret, other]) = (&*files, &*secrets)
        && secret == other
    {
        return Err(ConfigError::Combination(format!(
            "Option secret-file names {} and {}, which hold the same secret: leave out one of them",
            shown(first),
            shown(second)
        )));
    }
    Ok(Security::Secret(secrets))
}

fn key_pairs(options: &Options, keys: &dyn KeySource) -> Result<Security, ConfigError> {
    let file_or_credential = |file: &Option<Text>, name: &str| match file {
        Some(file) => Some(file.0.clone()),
        None => keys.credential(name),
    };
    let Some(private_file) = file_or_credential(&options.private_key_file, "private-key") else {
        return Err(ConfigError::Combination(
            "A link by key pairs (peer-public-key) lacks the private key of this end: name its file by \
             private-key-file, or hand it over as the credential named private-key (LoadCredential= of systemd)"
                .to_owned(),
        ));
    };
    if options.peer_public_key.is_empty() {
        return Err(ConfigError::Combination(
            "A link by key pairs (private-key-file) lacks the public key of the other end: add peer-public-key with \
             what simpletun pubkey prints there"
                .to_owned(),
        ));
    }
    let peers: Vec<PublicKey> = options.peer_public_key.iter().map(peer).collect::<Result<_, _>>()?;
    if let [first, second] = &*peers
        && first == second
    {
        return Err(ConfigError::Combination(format!(
            "Option peer-public-key is given twice with the same key {first}: leave out one of them"
        )));
    }
    let private = key("private-key-file", &private_file, KeyKind::Private, PrivateKey::parse, keys)?;
    let own = private.public();
    if peers.contains(&own) {
        let problem = "this is the public key of this end; give the one that simpletun pubkey prints on the other end";
        return Err(ConfigError::value("peer-public-key", own.to_string(), problem));
    }
    let psk = file_or_credential(&options.psk_file, "psk");
    let psk = psk.map(|file| key("psk-file", &file, KeyKind::Secret, SharedSecret::parse, keys)).transpose()?;
    Ok(Security::Keys { private, peers, psk })
}

/// Reads a key from its file.
fn key<T>(
    option: &'static str,
    file: &str,
    kind: KeyKind,
    parse: fn(&str) -> Result<T, KeyError>,
    keys: &dyn KeySource,
) -> Result<T, ConfigError> {
    if is_key(file) {
        return Err(ConfigError::Combination(format!(
            "Option {option} takes the name of a file and was given a key: write a new key to a file and name that, \
             because this one has been seen by now"
        )));
    }
    if file.is_empty() {
        return Err(ConfigError::value(option, "", "it is empty; name the file of the key"));
    }
    let unreadable = |source| ConfigError::KeyFile { option, file: shown(file), source };
    let bytes = keys.read(file).map_err(unreadable)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyError::NotText(kind));
    text.and_then(parse).map_err(|source| ConfigError::Key { option, file: shown(file), source })
}

fn peer(text: &Text) -> Result<PublicKey, ConfigError> {
    PublicKey::parse(&text.0).map_err(|error| {
        let problem = match error {
            KeyError::PrivateKey { .. } | KeyError::SharedSecret { .. } => {
                format!("{error}, and make a new one, because this one has been seen by now")
            }
            _ => error.to_string(),
        };
        ConfigError::value("peer-public-key", &text.0, problem)
    })
}

fn shown(file: &str) -> String {
    if file == STANDARD_INPUT { "standard input".to_owned() } else { format!("{file:?}") }
}

const KINDS: [KeyKind; 3] = [KeyKind::Private, KeyKind::Public, KeyKind::Secret];

fn is_key(text: &str) -> bool {
    KINDS.iter().any(|kind| text.trim_start().starts_with(kind.prefix()))
}

/// The text with dots instead of the private keys and secrets in it.
pub(super) fn masked(text: &str) -> String {
    let mut masked = text.to_owned();
    for prefix in [KeyKind::Private.prefix(), KeyKind::Secret.prefix()] {
        let mut parts = masked.split(prefix);
        let mut result = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let behind = part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "-_+/=".contains(c));
            result.extend([prefix, "...", behind]);
        }
        masked = result;
    }
    masked
}

fn aead(options: &Options) -> Result<AeadChoice, ConfigError> {
    match options.aead.as_ref().map(|text| text.0.as_str()) {
        None | Some("auto") => Ok(AeadChoice::Auto),
        Some("aes-256-gcm") => Ok(AeadChoice::Aes256Gcm),
        Some("chacha20-poly1305") => Ok(AeadChoice::ChaCha20Poly1305),
        Some(other) => Err(ConfigError::value("aead", other, "it must be auto, aes-256-gcm or chacha20-poly1305")),
    }
}

fn rekey_after(text: &Text) -> Result<Duration, ConfigError> {
    match humantime::parse_duration(&text.0) {
        Ok(time) if time >= MIN_REKEY_AFTER => Ok(time),
        _ => Err(ConfigError::value("rekey-after", &text.0, "it must be a time of at least 10ms, such as 120s")),
    }
}

fn state_dir(text: &Text) -> Result<PathBuf, ConfigError> {
    if text.0.is_empty() {
        return Err(ConfigError::value("state-dir", "", "it is empty; name a directory"));
    }
    Ok(PathBuf::from(&text.0))
}
