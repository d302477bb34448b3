//! The second implementation of secure links (`tests/peer/secure.py`) as a peer of the daemon: a program that is told
//! what to do by commands, and answers each with one line. Its commands are described at the top of that file.
//!
//! ```ignore
//! let keys = PeerKeys::secret("/run/secret", SECRET);
//! let mut peer = SecurePeer::connect(&lab.remote, Wire::Udp, "10.86.43.51:55555", &keys, "--timers no");
//! let answer = peer.run("handshake", json!({}));
//! assert_eq!(answer["session"]["aead"], 1);
//! peer.send(&packet);
//! assert_eq!(peer.receive(1), [reply]);
//! peer.run("tamper", json!({ "p1": { "kind": 2 } }));
//! assert_eq!(peer.refused("rekey", json!({}))["status"], 2);
//! let init = peer.last(Direction::Sent, "INIT");
//! peer.send_raw(&init);
//! peer.run("silence", json!({ "seconds": 0.5 }));
//! peer.begin("receive", json!({ "count": 3 }));       // and something else meanwhile
//! let packets = peer.answer();
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::lab::Ns;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/secure.py");

/// Longer than any command waits by itself unless it is told to wait longer.
const ANSWER: Duration = Duration::from_secs(30);

/// The Python that has what `tests/peer/requirements.txt` names.
pub fn python() -> String {
    std::env::var("SIMPLETUN_TEST_PYTHON").unwrap_or_else(|_| {
        panic!(
            "SIMPLETUN_TEST_PYTHON does not say where the Python of tests/peer is: run scripts/test.sh, which makes it"
        )
    })
}

/// What carries the messages.
#[derive(Clone, Copy, Debug)]
pub enum Wire {
    Tcp,
    Udp,
}

/// Which of the raw messages that the peer remembers.
#[derive(Clone, Copy, Debug)]
pub enum Direction {
    Sent,
    Received,
}

/// What the peer holds, as arguments of its command line.
#[derive(Clone, Debug)]
pub struct PeerKeys(Vec<String>);

impl PeerKeys {
    /// Suite 2. Writes the secret's text (`st1psk:…`) to `file`.
    pub fn secret(file: &str, secret: &str) -> Self {
        fs::write(file, secret).expect("write the secret");
        Self(vec!["--secret-file".into(), file.into()])
    }

    /// Suite 1. Writes the peer's own private key (`st1sk:…`) to `file`; `public` is the daemon's key (`st1pk:…`).
    pub fn pair(file: &str, private: &str, public: &str) -> Self {
        fs::write(file, private).expect("write the private key");
        Self(["--private-key-file", file, "--peer-public-key", public].map(String::from).into())
    }

    /// Adds a pre-shared key (`st1psk:…`) to a pair of keys.
    pub fn with_psk(mut self, file: &str, psk: &str) -> Self {
        fs::write(file, psk).expect("write the pre-shared key");
        self.0.extend(["--psk-file".into(), file.into()]);
        self
    }
}

/// A running `secure.py`; killed when dropped, and what was said both ways is shown when the test fails.
pub struct SecurePeer {
    label: String,
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
    /// `host:port` that it listens on or, over UDP, sends from.
    pub address: String,
    talk: Vec<String>,
}

impl SecurePeer {
    /// The connecting end. It does nothing until it is told to; `more` is the rest of its command line.
    #[track_caller]
    pub fn connect(ns: &Ns, wire: Wire, address: &str, keys: &PeerKeys, more: &str) -> Self {
        Self::start(ns, "connect", wire, address, keys, more)
    }

    /// The listening end, which listens when this returns and answers handshakes by itself.
    #[track_caller]
    pub fn listen(ns: &Ns, wire: Wire, address: &str, keys: &PeerKeys, more: &str) -> Self {
        Self::start(ns, "listen", wire, address, keys, more)
    }

    #[track_caller]
    fn start(ns: &Ns, role: &str, wire: Wire, address: &str, keys: &PeerKeys, more: &str) -> Self {
        let transport = match wire {
            Wire::Tcp => "tcp",
            Wire::Udp => "udp",
        };
        let label = format!("secure.py --role {role} --transport {transport} {address} {more} ({})", ns.label());
        let mut command = ns.command(&python());
        command.args([SCRIPT, "--role", role, "--transport", transport, "--address", address]);
        command.args(&keys.0).args(more.split_whitespace()).env("PYTHONDONTWRITEBYTECODE", "1");
        // What it complains about is shown with the test's own messages.
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{label}: {e}; scripts/test.sh makes the environment it runs in"));
        let commands = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut peer = Self { label, child, commands, answers, address: String::new(), talk: Vec::new() };
        let ready = peer.answer();
        ready["address"].as_str().expect("an address").clone_into(&mut peer.address);
        peer
    }

    /// Carries out a command that has to succeed: `parts` is an object with what belongs to it.
    #[track_caller]
    pub fn run(&mut self, command: &str, parts: Value) -> Value {
        self.begin(command, parts);
        self.answer()
    }

    /// As [`SecurePeer::run`], for a command that has to fail; its answer, with the reason in `error`.
    #[track_caller]
    pub fn refused(&mut self, command: &str, parts: Value) -> Value {
        self.begin(command, parts);
        let answer = self.line();
        assert_eq!(answer["ok"], false, "{}: {command} was to fail: {answer}", self.label);
        answer
    }

    /// Sends a command and leaves its answer for [`SecurePeer::answer`], so that the test can do something meanwhile.
    #[track_caller]
    pub fn begin(&mut self, command: &str, mut parts: Value) {
        parts["do"] = command.into();
        let line = parts.to_string();
        self.talk.push(format!("> {line}"));
        writeln!(self.commands, "{line}").unwrap_or_else(|e| panic!("{}: {e}", self.label));
    }

    /// The answer to the first command that has none yet, which has to be a success.
    #[track_caller]
    pub fn answer(&mut self) -> Value {
        let answer = self.line();
        assert_eq!(answer["ok"], true, "{}: {answer}", self.label);
        answer
    }

    #[track_caller]
    fn line(&mut self) -> Value {
        let line = self.answers.recv_timeout(ANSWER);
        let line = line.unwrap_or_else(|e| panic!("{}: no answer within {ANSWER:?}: {e}", self.label));
        let answer = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}: {line:?}: {e}", self.label));
        self.talk.push(format!("< {line}"));
        answer
    }

    #[track_caller]
    pub fn send(&mut self, packet: &[u8]) {
        self.run("send", json!({ "packet": hex(packet) }));
    }

    /// The next `count` packets of the tunnel; super-packets count as the packets that they stand for.
    #[track_caller]
    pub fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        let answer = self.run("receive", json!({ "count": count }));
        answer["packets"].as_array().expect("packets").iter().map(bytes).collect()
    }

    /// Sends bytes as one message, whatever they are.
    #[track_caller]
    pub fn send_raw(&mut self, message: &[u8]) {
        self.run("raw", json!({ "message": hex(message) }));
    }

    /// The last raw message of a type (`INIT`, `RESP`, `DATA`, `SUPER`, `CTRL`, `FRAG`, `OTHER` or `any`).
    #[track_caller]
    pub fn last(&mut self, direction: Direction, message_type: &str) -> Vec<u8> {
        let answer = self.run("last", json!({}));
        let remembered = match direction {
            Direction::Sent => &answer["sent"],
            Direction::Received => &answer["received"],
        };
        assert!(remembered[message_type].is_string(), "{}: no {message_type} {direction:?}", self.label);
        bytes(&remembered[message_type])
    }

    /// Waits for the next event of a name that was not waited for yet.
    #[track_caller]
    pub fn wait_for(&mut self, event: &str) -> Value {
        self.run("await", json!({ "event": event }))
    }
}

impl Drop for SecurePeer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- {}", self.label);
            for line in &self.talk {
                eprintln!("{line}");
            }
        }
    }
}

/// Bytes as the peer reads them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes as the peer writes them.
#[track_caller]
pub fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("hex in a string");
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits");
    (0..text.len()).step_by(2).map(digits).collect()
}
