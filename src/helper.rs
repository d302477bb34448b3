//! The helper: a second process that keeps the right to configure the network for the one that touches packets.
//!
//! It is the same program, started anew (`simpletun helper`, a hidden subcommand) before the first packet is read, so
//! that its memory has seen none. Over a socket pair it takes the requests of a closed set ([`Request`]) and checks each
//! against its own reading of the configuration: whoever has taken over the other process can ask for nothing that the
//! administrator has not written down, and for no other device. When the other process is gone, however it went, it
//! takes back what was configured. What is left if both are killed stands in a [`record`].
//!
//! [`serve`] is the helper itself, [`mod@client`] the other process's side, `wire` how they talk.

use std::io;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::KeyFileError;
use crate::device::netchange::{NetChange, Refusal};
use crate::hooks::Kind;

pub mod client;
pub mod record;
pub mod serve;
mod wire;

pub use client::{client, finish, start};

/// What the helper can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first one, once: the text of the configuration, if its file could be read only once.
    Start(Option<String>),
    /// Make one change to the device.
    Apply(NetChange),
    /// Make these and take back what else was made.
    Reconcile(Vec<NetChange>),
    /// Take back everything.
    TakeBack,
    /// Set an option of the socket that comes with the request.
    Socket(SocketOption),
    /// Read the configuration again, and hand out its file if there is one.
    Configuration,
    /// Hand out the file of a key that the configuration names.
    Key(String),
    /// The file of the credential of this name.
    Credential(String),
    /// Where the peer was last.
    Remembered,
    /// The peer is here now.
    Remember(SocketAddr),
    /// Take the control socket out of the file system.
    RemoveControlSocket,
    /// Start this hook, one that the configuration names; its process and a descriptor of it come back.
    StartHook {
        /// Which one.
        kind: Kind,
        /// The program and its arguments.
        argv: Vec<String>,
        /// What it is told, beside `PATH`.
        environment: Vec<(String, String)>,
    },
    /// Whether a hook has ended.
    HookStatus(u32),
    /// Ask a hook to end, or end it.
    SignalHook {
        /// Its process.
        pid: u32,
        /// It is not asked.
        kill: bool,
    },
}

/// What needs a right to be set on a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketOption {
    /// `SO_MARK`, one that the configuration names.
    Mark(u32),
    /// `SO_BINDTODEVICE`, one that the configuration names.
    Device(String),
    /// `SO_RCVBUFFORCE` in bytes.
    ReceiveBuffer(usize),
    /// `SO_SNDBUFFORCE` in bytes.
    SendBuffer(usize),
    /// `TCP_CONGESTION`, one that the configuration names.
    Congestion(String),
    /// bind(2) to this address, whose port the configuration names.
    Bind(SocketAddr),
}

/// What the helper says to a request, beside a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    /// Done, or here it is.
    Done,
    /// A change to the device was refused.
    Refused(Refusal),
    /// Something else was refused, with this error number.
    Failed(i32),
    /// The file of a key must not be used.
    KeyRefused(KeyRefusal),
    /// The file of a credential, if there is one.
    Credential(Option<String>),
    /// Where the peer was, if that is known.
    Peer(Option<SocketAddr>),
    /// A hook's process.
    Started(u32),
    /// How a hook has ended, as wait(2) tells it, if it has.
    Status(Option<i32>),
}

/// A [`KeyFileError`] on its way to the other process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum KeyRefusal {
    Unreadable(i32),
    NotAFile,
    Mode { mode: u32, file: String },
    Owner { owner: u32, own: u32, file: String },
    TooLong,
}

impl From<KeyFileError> for KeyRefusal {
    fn from(error: KeyFileError) -> Self {
        match error {
            KeyFileError::Unreadable(error) => Self::Unreadable(error.raw_os_error().unwrap_or(libc::EIO)),
            KeyFileError::NotAFile => Self::NotAFile,
            KeyFileError::Mode { mode, file } => Self::Mode { mode, file },
            KeyFileError::Owner { owner, own, file } => Self::Owner { owner, own, file },
            KeyFileError::TooLong => Self::TooLong,
        }
    }
}

impl From<KeyRefusal> for KeyFileError {
    fn from(refusal: KeyRefusal) -> Self {
        match refusal {
            KeyRefusal::Unreadable(errno) => Self::Unreadable(io::Error::from_raw_os_error(errno)),
            KeyRefusal::NotAFile => Self::NotAFile,
            KeyRefusal::Mode { mode, file } => Self::Mode { mode, file },
            KeyRefusal::Owner { owner, own, file } => Self::Owner { owner, own, file },
            KeyRefusal::TooLong => Self::TooLong,
        }
    }
}
