//! The client's side of the control socket (`docs/STATUS.md`).

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Gid, Group};
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::control::status::Status;
use crate::control::{DIRECTORY, socket_of};

/// Time for an answer: a loop that turns needs no second.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No daemon has this name.
    #[error("The tunnel {name} is not running{hint}")]
    NotRunning {
        /// Its name.
        name: String,
        /// Which ones are, as the end of the sentence.
        hint: String,
    },
    /// The socket is not for us.
    #[error("Not permitted to ask the tunnel {name}: {cure}")]
    NotPermitted {
        /// Its name.
        name: String,
        /// What to do about it.
        cure: String,
    },
    /// Several tunnels are there and one is needed.
    #[error("Several tunnels are running, name one of them: {0}")]
    Several(String),
    /// No tunnel is there.
    #[error("No tunnel is running")]
    None,
    /// The daemon does not answer in time.
    #[error("The tunnel {0} does not answer: its process hangs or is stopped")]
    Silent(String),
    /// The daemon has something against it.
    #[error("The tunnel {name} answers: {sentence}")]
    Refused {
        /// Its name.
        name: String,
        /// In its own words.
        sentence: String,
    },
    /// What came is no answer.
    #[error("Cannot ask the tunnel {name}: {source}")]
    Io {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// A tunnel that may be running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    name: String,
    socket: PathBuf,
}

/// Every tunnel that has a socket in the usual place, by name.
pub fn instances() -> Vec<Instance> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let path = entry.path();
        let name = path.file_stem()?.to_str()?.to_owned();
        path.extension().is_some_and(|extension| extension == "sock").then_some(name)
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.iter().map(|name| Instance::named(name)).collect()
}

/// The tunnel of this name, or the only one if there is no name.
///
/// # Errors
/// There are none or several.
pub fn only(name: Option<&str>) -> Result<Instance, AskError> {
    if let Some(name) = name {
        return Ok(Instance::named(name));
    }
    let mut instances = instances();
    match instances.len() {
        0 => Err(AskError::None),
        1 => Ok(instances.remove(0)),
        _ => Err(AskError::Several(list(&instances))),
    }
}

fn list(instances: &[Instance]) -> String {
    instances.iter().map(Instance::name).collect::<Vec<_>>().join(", ")
}

impl Instance {
    /// By its name, or by the path of its socket.
    pub fn named(name: &str) -> Self {
        let socket = if name.contains('/') { PathBuf::from(name) } else { socket_of(name) };
        Self { name: name.to_owned(), socket }
    }

    /// Its name, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is.
    ///
    /// # Errors
    /// It does not run, may not be asked, or does not answer.
    pub fn status(&self) -> Result<Status, AskError> {
        let mut text = String::new();
        let stream = self.request("status")?;
        stream.take(MAX_ANSWER).read_to_string(&mut text).map_err(|error| self.sort(error))?;
        self.parse(&text)
    }

    /// How it is, each second.
    ///
    /// # Errors
    /// As [`status`](Self::status); the iterator ends with the daemon.
    pub fn watch(&self) -> Result<impl Iterator<Item = Result<Status, AskError>>, AskError> {
        let mut reader = BufReader::new(self.request("watch")?);
        let instance = self.clone();
        Ok(std::iter::from_fn(move || {
            let mut line = String::new();
            match reader.by_ref().take(MAX_ANSWER).read_line(&mut line) {
                Ok(0) => None,
                Ok(_) => Some(instance.parse(&line)),
                Err(error) => Some(Err(instance.sort(error))),
            }
        }))
    }

    /// Sends a request; the answer is to be read within [`PATIENCE`].
    ///
    /// # Errors
    /// It does not run or may not be asked.
    pub fn request(&self, verb: &str) -> Result<UnixStream, AskError> {
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // It counts for connect(2), too, which waits while the queue of a stopped daemon is full (unix(7)).
            socket.set_write_timeout(Some(PATIENCE))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(&SockAddr::unix(&self.socket)?)?;
            let mut stream = UnixStream::from(std::os::fd::OwnedFd::from(socket));
            match stream.write_all(format!("{verb}\n").as_bytes()) {
                // Who may not ask is told so and hung up on, maybe before the question.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(stream),
                result => result.map(|()| stream),
            }
        };
        connect().map_err(|error| self.sort(error))
    }

    fn parse(&self, text: &str) -> Result<Status, AskError> {
        serde_json::from_value(self.value(text)?).map_err(|error| self.sort(error.into()))
    }

    /// Reads a line of an answer.
    ///
    /// # Errors
    /// It says what the daemon has against the question, or is none.
    pub fn value(&self, text: &str) -> Result<Value, AskError> {
        let value: Value = serde_json::from_str(text).map_err(|error| self.sort(error.into()))?;
        match value["error"].as_str() {
            Some(sentence) => Err(AskError::Refused { name: self.name.clone(), sentence: sentence.to_owned() }),
            None => Ok(value),
        }
    }

    /// What an error of the socket means.
    pub fn sort(&self, error: io::Error) -> AskError {
        let name = self.name.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let running: Vec<Instance> = instances().into_iter().filter(|other| other != self).collect();
                let hint = if running.is_empty() { String::new() } else { format!("; there are {}", list(&running)) };
                AskError::NotRunning { name, hint }
            }
            io::ErrorKind::PermissionDenied => AskError::NotPermitted { name, cure: cure(&self.socket) },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::Silent(name),
            _ => AskError::Io { name, source: error },
        }
    }
}

/// How to be permitted: by root or by the group that the socket is for.
fn cure(socket: &Path) -> String {
    let file = fs::metadata(socket).ok().filter(|file| file.mode() & 0o020 != 0);
    let group = file.and_then(|file| Group::from_gid(Gid::from_raw(file.gid())).ok().flatten());
    match group {
        Some(group) => format!("join the group {0} (usermod -aG {0} USER, then log in anew) or be root", group.name),
        None => {
            "only root and the user of its daemon may; make the group simpletun and start the daemon again to let its \
                 members ask, too"
                .to_owned()
        }
    }
}
