//! Secure links of two daemons, and keys as each program is given them: the daemon at the far end, its peer, and
//! somebody else.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::daemon::{Daemon, server, simpletun};
use super::lab::{Lab, REMOTE};
use super::line;
use super::secure_peer::{PeerKeys, Wire};

/// The texts of keys whose bytes count upwards.
const SECRET: &str = "st1psk:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh-QPY2M";
const OTHER_SECRET: &str = "st1psk:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj-m8kji";
const PSK: &str = "st1psk:QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl9s99El";
const OTHER_PSK: &str = OTHER_SECRET;

/// Private and public key of one end.
type Pair = (&'static str, &'static str);

const FAR: Pair = (
    "st1sk:ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1-f4CBgoOKWOpY",
    "st1pk:fZwkMWU5glwYluV_KBl3Rnk85gy-461H2p0HuF-lXio8qxMI",
);
const NEAR: Pair = (
    "st1sk:hIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en6ChoqNRIBES",
    "st1pk:EMJPls42o7VEQQE7VPwCBzYpDi0HhTujUiijW8QYrS9gKWQD",
);
const STRANGER: Pair = (
    "st1sk:pKWmp6ipqqusra6vsLGys7S1tre4ubq7vL2-v8DBwsMss4FS",
    "st1pk:IPmZmF4Zfi33fAshxDSGIJN9S89knqLStLyv9WDtV02ucbVN",
);

/// What the two ends share, or know of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    Pairs,
    PairsWithPsk,
    Secret,
}

impl Suite {
    /// Length of the first message of a handshake in bytes.
    pub fn init_len(self) -> usize {
        match self {
            Self::Pairs | Self::PairsWithPsk => 216,
            Self::Secret => 168,
        }
    }

    /// Its number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::Pairs | Self::PairsWithPsk => 1,
            Self::Secret => 2,
        }
    }

    /// Options of the daemon at the far end.
    pub fn far(self) -> String {
        self.options("far", FAR.0, NEAR.1, SECRET, PSK)
    }

    /// Options of a daemon that is its peer.
    pub fn near(self) -> String {
        self.options("near", NEAR.0, FAR.1, SECRET, PSK)
    }

    /// Options of a daemon that knows the right public keys and holds no right secret.
    pub fn stranger(self) -> String {
        self.options("stranger", STRANGER.0, FAR.1, OTHER_SECRET, PSK)
    }

    /// As [`Suite::near`], for the second implementation.
    pub fn near_peer(self) -> PeerKeys {
        self.peer("near-peer", (NEAR.0, FAR.1), SECRET, PSK)
    }

    /// As [`Suite::far`], for the second implementation.
    pub fn far_peer(self) -> PeerKeys {
        self.peer("far-peer", (FAR.0, NEAR.1), SECRET, PSK)
    }

    /// As [`Suite::stranger`], for the second implementation.
    pub fn stranger_peer(self) -> PeerKeys {
        self.peer("stranger-peer", (STRANGER.0, FAR.1), OTHER_SECRET, PSK)
    }

    /// The right key pair, and of the shared keys a wrong one.
    pub fn half_right_peer(self) -> PeerKeys {
        self.peer("half-right-peer", (NEAR.0, FAR.1), OTHER_SECRET, OTHER_PSK)
    }

    fn options(self, owner: &str, private: &str, peer: &str, secret: &str, psk: &str) -> String {
        let pair = || format!("--private-key-file {} --peer-public-key {peer}", file(owner, "private", private));
        match self {
            Self::Pairs => pair(),
            Self::PairsWithPsk => format!("{} --psk-file {}", pair(), file(owner, "psk", psk)),
            Self::Secret => format!("--secret-file {}", file(owner, "secret", secret)),
        }
    }

    fn peer(self, owner: &str, (private, public): Pair, secret: &str, psk: &str) -> PeerKeys {
        let name = |what| format!("/run/{owner}.{what}");
        match self {
            Self::Pairs => PeerKeys::pair(&name("private"), private, public),
            Self::PairsWithPsk => PeerKeys::pair(&name("private"), private, public).with_psk(&name("psk"), psk),
            Self::Secret => PeerKeys::secret(&name("secret"), secret),
        }
    }
}

/// The addresses inside the tunnel of [`link`].
pub const NEAR_INSIDE: &str = "192.168.0.1";
pub const FAR_INSIDE: &str = "192.168.0.2";

/// A link of two daemons that is up: `tun3` at the remote end, which listens, and `tun1` at the local one.
#[track_caller]
pub fn link(lab: &Lab, wire: Wire, suite: Suite) -> (Daemon, Daemon) {
    let far = listening(lab, wire, suite);
    let near = connecting(lab, wire, suite);
    near.wait_for(line::UP);
    far.wait_for(line::UP);
    (far, near)
}

/// The remote end of [`link`].
#[track_caller]
pub fn listening(lab: &Lab, wire: Wire, suite: Suite) -> Daemon {
    server(&lab.remote, &format!("-i tun3 -s --address {FAR_INSIDE}/24 {} {}", wire.option(), suite.far()))
}

/// The local end of [`link`].
pub fn connecting(lab: &Lab, wire: Wire, suite: Suite) -> Daemon {
    simpletun(&lab.local, &format!("-i tun1 -c {REMOTE} --address {NEAR_INSIDE}/24 {} {}", wire.option(), suite.near()))
}

impl Wire {
    /// The daemon's option.
    pub fn option(self) -> &'static str {
        match self {
            Self::Tcp => "--tcp",
            Self::Udp => "--udp",
        }
    }
}

/// Writes a key where its owner alone can read it; the name of the file.
fn file(owner: &str, what: &str, key: &str) -> String {
    let name = format!("/run/{owner}.{what}");
    let _ = fs::remove_file(&name);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&name).expect("create a file");
    file.write_all(key.as_bytes()).expect("write the key");
    name
}
