//! Keys for both ends of a secure link, made by the program under test itself, as options for its command line.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use super::wait::succeed;

const BINARY: &str = env!("CARGO_BIN_EXE_simpletun");

/// How a link is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    Plain,
    Secret,
    KeyPairs,
}

/// What a link is given as its protection, and what nobody else is to see.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// Options of the connecting end.
    pub client: String,
    /// Options of the listening end.
    pub server: String,
    /// The texts of the secret keys.
    pub secrets: Vec<String>,
}

impl Protection {
    /// New keys in files of `/run`.
    #[track_caller]
    pub fn ends(self) -> Ends {
        match self {
            Self::Plain => Ends::default(),
            Self::Secret => {
                let secret = new_secret("/run/secret");
                let options = "--secret-file /run/secret".to_owned();
                Ends { client: options.clone(), server: options, secrets: vec![secret] }
            }
            Self::KeyPairs => {
                let [client, server] = ["/run/client.key", "/run/server.key"].map(|file| write_new("genkey", file));
                let psk = new_secret("/run/psk");
                let options = |file: &str, peer: &str| {
                    format!("--private-key-file {file} --psk-file /run/psk --peer-public-key {}", public_of(peer))
                };
                Ends {
                    client: options("/run/client.key", &server),
                    server: options("/run/server.key", &client),
                    secrets: vec![client, server, psk],
                }
            }
        }
    }
}

/// Writes a new shared secret to a file; its text.
#[track_caller]
pub fn new_secret(file: &str) -> String {
    write_new("genpsk", file)
}

/// Writes a new private key to a file; the text of the public one.
#[track_caller]
pub fn new_key(file: &str) -> String {
    public_of(&write_new("genkey", file))
}

/// Writes a key to a file that others cannot read.
#[track_caller]
pub fn write_key(file: &str, text: &str) {
    fs::write(file, text).expect("write the key");
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("close the file to others");
}

#[track_caller]
fn write_new(tool: &str, file: &str) -> String {
    let output = Command::new(BINARY).arg(tool).stderr(Stdio::piped()).output().expect("run simpletun");
    let text = succeed(output, tool).trim().to_owned();
    write_key(file, &text);
    text
}

#[track_caller]
fn public_of(private: &str) -> String {
    let child = Command::new(BINARY).arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("run simpletun");
    child.stdin.take().expect("piped").write_all(private.as_bytes()).expect("write the key");
    succeed(child.wait_with_output().expect("simpletun ends"), "pubkey").trim().to_owned()
}
