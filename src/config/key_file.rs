//! Reads the files that hold keys, and refuses those that others can read or write.
//!
//! The only part of the configuration beside the reader of its file that asks the system. It does not know what a key
//! looks like.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};
use zeroize::Zeroizing;

use super::security::KeySource;
pub use super::security::STANDARD_INPUT;

/// Whom the unit runs the daemon as.
pub const SERVICE_USER: &str = "simpletun";

/// Longest file of a key in bytes: a key has 55, and whatever is longer is something else.
pub const MAX_LEN: usize = 4096;

/// The bits of a mode that let anybody but the owner read or write.
const OTHERS: u32 = 0o066;

/// Why the file of a key cannot be used. The sentences stand behind a colon.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be opened or read.
    #[error("{0}; name a file that holds the key and can be read")]
    Unreadable(#[from] io::Error),
    /// A directory, a socket, a disk.
    #[error("it is neither a file nor a pipe; name one that holds the key")]
    NotAFile,
    /// Others may read or write it.
    #[error("its mode is {mode:04o}, so that others can read or change the key; run chmod 600 {file}")]
    Mode {
        /// Permission bits.
        mode: u32,
        /// The file's name, escaped.
        file: String,
    },
    /// Another user may change it.
    #[error("it belongs to user {owner}, who could change the key; run chown {own} {file}")]
    Owner {
        /// The file's owner.
        owner: u32,
        /// The effective user of this process.
        own: u32,
        /// The file's name, escaped.
        file: String,
    },
    /// More than [`MAX_LEN`] bytes.
    #[error("it is longer than {MAX_LEN} bytes, which no key is; name the file that holds the key")]
    TooLong,
}

/// The files of this host, the credentials that systemd hands over, and standard input, which can be read only once
/// and is remembered.
#[derive(Debug)]
pub struct KeyFiles {
    credentials: Option<PathBuf>,
    state: Option<PathBuf>,
    /// Whose files are as good as those of this process.
    trusted: Option<u32>,
    standard_input: RefCell<Option<Zeroizing<Vec<u8>>>>,
}

impl KeyFiles {
    /// With the directories that the environment names (`CREDENTIALS_DIRECTORY` and `STATE_DIRECTORY` of
    /// systemd.exec(5)).
    pub fn from_environment() -> Self {
        let directory = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        // Several directories of state are separated by colons; the first is ours.
        let state = directory("STATE_DIRECTORY").and_then(|value| std::env::split_paths(&value).next());
        let credentials = directory("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Self { credentials, state, trusted: None, standard_input: RefCell::new(None) }
    }

    /// For root, who looks whether what a service will read is right: files of the service's user are.
    #[must_use]
    pub fn of_service(self) -> Self {
        let user = geteuid().is_root().then(|| User::from_name(SERVICE_USER).ok().flatten()).flatten();
        Self { trusted: user.map(|user| user.uid.as_raw()), ..self }
    }

    /// Where credentials are, if there are any.
    pub fn credentials_directory(&self) -> Option<PathBuf> {
        self.credentials.clone()
    }

    /// With this in place of what is on standard input.
    #[must_use]
    pub fn with_standard_input(self, bytes: Zeroizing<Vec<u8>>) -> Self {
        Self { standard_input: RefCell::new(Some(bytes)), ..self }
    }

    /// Opens a file that holds a key, after a look at who else can read or change it.
    ///
    /// # Errors
    /// The file cannot be read, or others can read or change it.
    pub fn open(&self, file: &str) -> Result<File, KeyFileError> {
        let opened = File::open(file)?;
        // Of what was opened: the name may stand for something else by now.
        self.check(file, &opened.metadata()?)?;
        Ok(opened)
    }

    /// What was on standard input, which can be read only once and is remembered.
    ///
    /// # Errors
    /// It cannot be read, or is longer than [`MAX_LEN`].
    pub fn standard_input(&self) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let mut remembered = self.standard_input.borrow_mut();
        if let Some(bytes) = &*remembered {
            return Ok(bytes.clone());
        }
        let bytes = read_key(&mut io::stdin().lock())?;
        *remembered = Some(bytes.clone());
        Ok(bytes)
    }

    /// systemd makes credentials readable for the service by other means than their owner, in a directory that is
    /// closed to everybody else.
    fn is_credential(&self, file: &Path) -> bool {
        let resolved = |path: &Path| path.canonicalize().ok();
        let directory = self.credentials.as_deref().and_then(resolved);
        directory.is_some_and(|directory| resolved(file).is_some_and(|file| file.starts_with(directory)))
    }

    fn check(&self, file: &str, metadata: &Metadata) -> Result<(), KeyFileError> {
        let kind = metadata.file_type();
        if kind.is_char_device() {
            return Ok(());
        }
        if !kind.is_file() && !kind.is_fifo() {
            return Err(KeyFileError::NotAFile);
        }
        let mode = metadata.mode() & 0o7777;
        let shown = || file.escape_debug().to_string();
        if mode & OTHERS != 0 && !self.is_credential(Path::new(file)) {
            return Err(KeyFileError::Mode { mode, file: shown() });
        }
        let (owner, own) = (metadata.uid(), geteuid().as_raw());
        if kind.is_file() && owner != 0 && owner != own && Some(owner) != self.trusted {
            return Err(KeyFileError::Owner { owner, own, file: shown() });
        }
        Ok(())
    }
}

impl KeySource for KeyFiles {
    fn read(&self, file: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        if file == STANDARD_INPUT {
            return self.standard_input();
        }
        read_key(&mut self.open(file)?)
    }

    fn credential(&self, name: &str) -> Option<String> {
        let path = self.credentials.as_ref()?.join(name);
        path.exists().then(|| path.to_string_lossy().into_owned())
    }

    fn state_directory(&self) -> Option<PathBuf> {
        self.state.clone()
    }
}

/// Reads to the end, [`MAX_LEN`] bytes at most. The buffer never grows, which would leave a copy behind.
///
/// # Errors
/// It cannot be read or is longer.
pub fn read_key(from: &mut dyn Read) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let mut buffer = Zeroizing::new(vec![0; MAX_LEN + 1]);
    let mut len = 0;
    while len < buffer.len() {
        match from.read(buffer.get_mut(len..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    if len > MAX_LEN {
        return Err(KeyFileError::TooLong);
    }
    buffer.truncate(len);
    Ok(buffer)
}
