//! Which way of protection follows from the options, with which keys, and the sentence for each contradiction.

use super::*;
use std::collections::BTreeMap;
use std::io;
use zeroize::Zeroizing;

use crate::tunnel::keys::KEY_LEN;

/// A host with these files, credentials among them.
#[derive(Default)]
struct Host {
    files: BTreeMap<&'static str, String>,
    credentials: Vec<&'static str>,
    state: Option<&'static str>,
}

impl KeySource for Host {
    fn read(&self, file: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let text = self.files.get(file).ok_or(io::ErrorKind::NotFound);
        Ok(Zeroizing::new(text.map_err(io::Error::from)?.clone().into_bytes()))
    }

    fn credential(&self, name: &str) -> Option<String> {
        self.credentials.iter().find(|path| path.rsplit('/').next() == Some(name)).map(|path| (*path).to_owned())
    }

    fn state_directory(&self) -> Option<PathBuf> {
        self.state.map(PathBuf::from)
    }
}

fn private(number: u8) -> PrivateKey {
    PrivateKey::from_bytes([number; KEY_LEN])
}

fn secret(number: u8) -> SharedSecret {
    SharedSecret::from_bytes([number; KEY_LEN])
}

fn public_text(number: u8) -> String {
    private(number).public().to_string()
}

/// `s1`, `s2` and `-` hold secrets, `k1` a private key, `p2` a public one.
fn host() -> Host {
    let line = |text: &str| format!("{text}\n");
    let files = BTreeMap::from([
        ("s1", line(&secret(1).to_text())),
        ("s2", line(&secret(2).to_text())),
        ("again", line(&secret(1).to_text())),
        ("-", line(&secret(3).to_text())),
        ("k1", line(&private(1).to_text())),
        ("p2", line(&public_text(2))),
        ("word", line("correct horse battery staple")),
        ("empty", String::new()),
        ("two", line(&secret(1).to_text()).repeat(2)),
        ("cut", secret(1).to_text()[..50].to_owned()),
        ("/cred/secret", line(&secret(4).to_text())),
        ("/cred/private-key", line(&private(4).to_text())),
        ("/cred/psk", line(&secret(5).to_text())),
    ]);
    Host { files, ..Host::default() }
}

fn with_credentials() -> Host {
    Host { credentials: vec!["/cred/secret", "/cred/private-key", "/cred/psk"], ..host() }
}

/// `PEER`, `NEXT` and `OWN` stand for public keys, `PRIVATE` and `SECRET` for the text of those in `k1` and `s1`.
fn filled(text: &str) -> String {
    text.replace("PEER", &public_text(2))
        .replace("NEXT", &public_text(3))
        .replace("OWN", &public_text(1))
        .replace("PRIVATE", &private(1).to_text())
        .replace("SECRET", &secret(1).to_text())
}

fn on(host: &Host, file: &str, line: &str) -> Result<Config, ConfigError> {
    let flags = tests::options(&filled(line));
    let options = match file {
        "" => flags,
        text => Options::from_toml(&filled(text), "t.toml")?.overlaid_with(flags),
    };
    Config::new(&options, &|_, _| None, host)
}

#[track_caller]
fn link(line: &str) -> LinkConfig {
    on(&host(), "", &format!("-i t {line}")).unwrap_or_else(|error| panic!("{line}: {error}")).link
}

#[track_caller]
fn file_link(host: &Host, file: &str) -> LinkConfig {
    on(host, file, "-i t -s").unwrap_or_else(|error| panic!("{file}: {error}")).link
}

#[test]
fn the_files_on_the_command_line_say_how_the_link_is_protected() {
    assert_eq!(link("-s").security, Security::Plain);
    assert_eq!(link("-s --secret-file s1").security, Security::Secret(vec![secret(1)]));
    assert_eq!(link("-s --secret-file -").security, Security::Secret(vec![secret(3)]));
    let two = Security::Secret(vec![secret(2), secret(1)]);
    assert_eq!(link("-s --secret-file s2 --secret-file s1").security, two);
    let keys = |peers: &[u8], psk| Security::Keys {
        private: private(1),
        peers: peers.iter().map(|number| private(*number).public()).collect(),
        psk,
    };
    assert_eq!(link("-s --private-key-file k1 --peer-public-key PEER").security, keys(&[2], None));
    let line = "-s --private-key-file k1 --peer-public-key PEER --peer-public-key NEXT --psk-file s1";
    assert_eq!(link(line).security, keys(&[2, 3], Some(secret(1))));
}

#[test]
fn a_file_says_it_by_its_word_and_flags_replace_its_keys() {
    let file = "security = 'secret'\nsecret-file = ['s1']\n";
    assert_eq!(file_link(&host(), file).security, Security::Secret(vec![secret(1)]));
    let replaced = on(&host(), file, "-i t -s --secret-file s2").expect("legal").link.security;
    assert_eq!(replaced, Security::Secret(vec![secret(2)]));
    let file = "security = 'keys'\nprivate-key-file = 'k1'\npeer-public-key = ['PEER']\npsk-file = 's1'\n";
    let expected = Security::Keys { private: private(1), peers: vec![private(2).public()], psk: Some(secret(1)) };
    assert_eq!(file_link(&host(), file).security, expected);
    assert_eq!(file_link(&host(), "security = 'plain'\n").security, Security::Plain);
}

#[test]
fn credentials_stand_in_for_files_that_are_not_named() {
    let host = with_credentials();
    assert_eq!(file_link(&host, "security = 'secret'\n").security, Security::Secret(vec![secret(4)]));
    let expected = Security::Keys { private: private(4), peers: vec![private(2).public()], psk: Some(secret(5)) };
    assert_eq!(file_link(&host, "security = 'keys'\npeer-public-key = ['PEER']\n").security, expected);
    let named = "security = 'secret'\nsecret-file = ['s1']\n";
    assert_eq!(file_link(&host, named).security, Security::Secret(vec![secret(1)]));
    let plain = on(&host, "", "-i t -s").expect("legal").link.security;
    assert_eq!(plain, Security::Plain, "a credential alone asks for nothing on the command line");
}

#[test]
fn what_goes_with_the_keys_has_its_types() {
    let plain = link("-s");
    assert_eq!((plain.aead, plain.pin_endpoint, plain.rekey_after), (AeadChoice::Auto, false, None));
    let line = "-U -c host --secret-file s1 --aead aes-256-gcm --pin-endpoint --state-dir /var/x --rekey-after 1500ms";
    let full = link(line);
    assert_eq!((full.aead, full.pin_endpoint), (AeadChoice::Aes256Gcm, true));
    assert_eq!(full.rekey_after, Some(Duration::from_millis(1500)));
    assert_eq!(full.state_dir, Some(PathBuf::from("/var/x")));
    assert_eq!(link("-s --secret-file s1 --aead chacha20-poly1305").aead, AeadChoice::ChaCha20Poly1305);
    assert_eq!(link("-s --secret-file s1 --aead auto").aead, AeadChoice::Auto);
    assert!(link("-U -s --remote host --secret-file s1 --pin-endpoint").pin_endpoint);
    let text = "security = 'secret'\nsecret-file = ['s1']\nudp = true\npin-endpoint = true\nremote = 'h'\n";
    assert!(file_link(&host(), text).pin_endpoint);
}

#[test]
fn the_service_managers_state_directory_serves_secure_links_only() {
    let host = Host { state: Some("/var/lib/simpletun"), ..host() };
    let directory = |line: &str| on(&host, "", line).expect("legal").link.state_dir;
    assert_eq!(directory("-i t -s"), None);
    assert_eq!(directory("-i t -s --secret-file s1"), Some(PathBuf::from("/var/lib/simpletun")));
    assert_eq!(directory("-i t -s --secret-file s1 --state-dir d"), Some(PathBuf::from("d")));
}

#[test]
fn a_secure_server_listens_to_everybody_unless_it_is_told_otherwise() {
    let role = |line: &str| link(&format!("-s --secret-file s1 {line}")).role;
    assert_eq!(role(""), Role::Listen(Access::Any));
    let networks = vec!["192.0.2.0/24".parse().expect("a net")];
    assert_eq!(role("--allow 192.0.2.0/24"), Role::Listen(Access::Networks(networks)));
    assert!(matches!(role("--remote host"), Role::Listen(Access::Remote { .. })));
    assert_eq!(link("-s").role, Role::Listen(Access::Protected));
}

#[test]
fn a_secure_link_leaves_room_for_what_it_adds() {
    assert_eq!(link("-U -c 192.0.2.1 --secret-file s1").fitting_mtu(), Some(1420), "both ends come to the same");
    assert_eq!(link("-U -c 2001:db8::1 --secret-file s1").fitting_mtu(), Some(1420));
    assert_eq!(link("-c 192.0.2.1 --secret-file s1").fitting_mtu(), None);
}

const KEYS: &str = "--private-key-file k1 --peer-public-key PEER";

/// Each names what contradicts what, and what to do.
#[test]
fn contradictions_name_both_sides_and_the_cure() {
    for (file, line, words) in [
        ("", "--secret-file s1 --private-key-file k1", &["secret-file", "private-key-file", "leave out"][..]),
        ("", "--secret-file s1 --peer-public-key PEER", &["secret-file", "peer-public-key", "leave out"]),
        ("", "--secret-file s1 --psk-file s2", &["secret-file", "psk-file", "leave out"]),
        ("", "--psk-file s1", &["psk-file", "add private-key-file and peer-public-key"]),
        ("", "--private-key-file k1", &["private-key-file", "add peer-public-key", "simpletun pubkey"]),
        ("", "--peer-public-key PEER", &["peer-public-key", "private-key-file", "private-key", "LoadCredential"]),
        ("", "-U --remote h --pin-endpoint", &["pin-endpoint", "plain", "add secret-file"]),
        ("", "--aead auto", &["aead", "plain", "add secret-file"]),
        ("", "--state-dir d", &["state-dir", "plain", "add secret-file"]),
        ("", "--rekey-after 1s", &["rekey-after", "plain", "add secret-file"]),
        ("", "--secret-file s1 --pin-endpoint --remote h", &["pin-endpoint", "tcp", "use udp"]),
        ("", "-U --secret-file s1 --pin-endpoint", &["pin-endpoint", "server", "add remote"]),
        ("", "--secret-file - --secret-file -", &["secret-file", "standard input", "a file"]),
        ("", "--psk-file - --private-key-file - --peer-public-key PEER", &["psk-file", "private-key-file", "a file"]),
        ("", "--secret-file s1 --secret-file s2 --secret-file -", &["secret-file", "3 times", "leave out"]),
        ("", "--secret-file s1 --secret-file again", &["secret-file", "s1", "again", "same secret"]),
        ("security = 'plain'", "--secret-file s1", &["secret-file", "\"plain\"", "security = \"secret\""]),
        ("security = 'plain'", "--private-key-file k1", &["private-key-file", "\"plain\"", "security = \"keys\""]),
        ("security = 'plain'", "--psk-file s1", &["psk-file", "\"plain\"", "security = \"keys\""]),
        ("security = 'plain'\npeer-public-key = ['PEER']", "", &["peer-public-key", "\"plain\"", "\"keys\""]),
        ("security = 'plain'\npin-endpoint = true", "-U", &["pin-endpoint", "\"plain\"", "leave it out"]),
        ("security = 'plain'\naead = 'auto'", "", &["aead", "\"plain\"", "leave it out"]),
        ("security = 'secret'\nsecret-file = ['s1']", "--psk-file s1", &["psk-file", "\"secret\"", "\"keys\""]),
        ("security = 'secret'", KEYS, &["private-key-file", "\"secret\"", "security = \"keys\""]),
        ("security = 'keys'", "--secret-file s1", &["secret-file", "\"keys\"", "psk-file"]),
        ("security = 'secret'", "", &["\"secret\"", "secret-file", "credential", "secret"]),
        ("security = 'secret'\nsecret-file = []", "", &["\"secret\"", "secret-file", "credential"]),
        ("security = 'keys'\npeer-public-key = ['PEER']", "", &["private-key-file", "credential", "private-key"]),
        ("security = 'keys'\nprivate-key-file = 'k1'", "", &["add peer-public-key"]),
        ("security = 'tls'", "", &["security", "tls", "plain, secret or keys"]),
    ] {
        let error = on(&host(), file, &format!("-i t -s {line}")).expect_err(line).to_string();
        for word in words {
            assert!(error.contains(word), "{file} {line} names {word}: {error}");
        }
        assert!(!error.contains('\n') && error.contains(':'), "{error}");
    }
}

#[test]
fn useless_keys_are_refused_with_their_option_and_file() {
    for (line, words) in [
        ("--secret-file no-such", &["secret-file", "\"no-such\"", "name a file"][..]),
        ("--secret-file=", &["secret-file", "empty", "name the file"]),
        ("--secret-file k1", &["secret-file", "\"k1\"", "this is a private key", "a shared secret is wanted"]),
        ("--secret-file p2", &["secret-file", "\"p2\"", "this is a public key", "simpletun genpsk"]),
        ("--secret-file word", &["secret-file", "\"word\"", "passwords are not accepted", "simpletun genpsk"]),
        ("--secret-file empty", &["secret-file", "\"empty\"", "it is empty"]),
        ("--secret-file two", &["secret-file", "\"two\"", "more than one line"]),
        ("--secret-file cut", &["secret-file", "\"cut\"", "cut off"]),
        ("--secret-file SECRET", &["secret-file", "name of a file", "was given a key"]),
        ("--private-key-file PRIVATE --peer-public-key PEER", &["private-key-file", "was given a key"]),
        ("--private-key-file s1 --peer-public-key PEER", &["private-key-file", "\"s1\"", "this is a shared secret"]),
        ("--private-key-file p2 --peer-public-key PEER", &["private-key-file", "this is a public key", "genkey"]),
        ("--private-key-file - --peer-public-key PEER", &["private-key-file", "standard input", "shared secret"]),
        ("--private-key-file k1 --peer-public-key PRIVATE", &["peer-public-key", "private key", "make a new one"]),
        ("--private-key-file k1 --peer-public-key SECRET", &["peer-public-key", "shared secret", "make a new one"]),
        ("--private-key-file k1 --peer-public-key p2", &["peer-public-key", "\"p2\"", "simpletun pubkey"]),
        ("--private-key-file k1 --peer-public-key PEERx", &["peer-public-key", "too long"]),
        ("--private-key-file k1 --peer-public-key OWN", &["peer-public-key", "of this end", "other end"]),
        ("--private-key-file k1 --peer-public-key PEER --peer-public-key PEER", &["peer-public-key", "twice"]),
        ("--private-key-file k1 --peer-public-key PEER --psk-file k1", &["psk-file", "\"k1\"", "private key"]),
        ("--secret-file s1 --aead des", &["aead", "des", "aes-256-gcm"]),
        ("--secret-file s1 --rekey-after 9ms", &["rekey-after", "9ms", "10ms"]),
        ("--secret-file s1 --rekey-after soon", &["rekey-after", "soon"]),
        ("--secret-file s1 --state-dir=", &["state-dir", "name a directory"]),
    ] {
        let error = on(&host(), "", &format!("-i t -s {line}")).expect_err(line).to_string();
        for word in words {
            assert!(error.contains(word), "{line} names {word}: {error}");
        }
        assert!(!error.contains('\n'), "{error}");
        for key in [private(1).to_text(), secret(1).to_text(), secret(3).to_text()] {
            assert!(!error.contains(&key[8..20]), "{line} keeps the key to itself: {error}");
        }
    }
}

/// Whatever somebody writes a key into by mistake.
#[test]
fn keys_that_stray_into_a_file_are_not_shown() {
    for text in [
        "security = 'SECRET'\n",
        "security = 'secret'\nsecret-file = 'SECRET'\n",
        "security = 'secret'\nsecret-file = ['SECRET']\n",
        "security = 'secret'\nsecret = 'SECRET'\n",
        "security = 'keys'\nprivate-key = 'PRIVATE'\n",
        "security = 'keys'\nprivate-key-file = 'k1'\npeer-public-key = ['PRIVATE']\n",
        "security = 'secret'\nSECRET\n",
        "security = 'plain'\nbind = 'PRIVATE'\n",
    ] {
        let error = on(&host(), text, "-i t -s").expect_err(text);
        for key in [private(1).to_text(), secret(1).to_text()] {
            assert!(!error.to_string().contains(&key[8..20]), "{text}: {error}");
            assert!(!format!("{error:?}").contains(&key[8..20]), "{text}: {error:?}");
        }
    }
}

#[test]
fn debug_output_of_the_configuration_shows_no_key() {
    let line = "-s --private-key-file k1 --peer-public-key PEER --psk-file s1";
    let shown = format!("{:?}", link(line));
    assert!(shown.contains(&public_text(2)), "{shown}");
    for hidden in [&*private(1).to_text(), &*secret(1).to_text(), "1, 1, 1", "0101"] {
        assert!(!shown.contains(hidden.trim_start_matches("st1sk:").trim_start_matches("st1psk:")), "{shown}");
    }
}
