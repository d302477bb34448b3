//! What is left to do if both processes are killed: a file for each device, with what was changed on it, or beside it if
//! the daemon has created it.
//!
//! The file is replaced in one step and holds a lock while its writer lives. One that somebody else than root could have
//! written is refused: it tells what to change about a device. About devices that are none of tunnels only root's is
//! believed, or the configuration.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::daemon;
use crate::device::netchange::{Journal, NetConfig};

/// Where the records of a daemon that is not started as root are: a place that is empty after a restart of the machine,
/// as the devices are gone.
pub const DIRECTORY: &str = "/run/simpletun";

/// Where root's are. [`DIRECTORY`] may belong to another user, and the helper has no right to write there.
pub const ROOT_DIRECTORY: &str = "/run/simpletun-root";

/// Longest record that is read, in bytes.
const MAX_LEN: u64 = 4 * 1024 * 1024;

/// The form that is written and understood.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    journal: Journal,
}

/// Why a record was not acted upon.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The daemon still runs and will take back what it has changed.
    #[error("The tunnel of the device {0} is still running; end it first")]
    InUse(String),
    /// Somebody else than root could have written it.
    #[error("The record {0} does not belong to root alone; look at it and remove it")]
    Untrusted(PathBuf),
    /// It is no record.
    #[error("The record {0} cannot be understood ({1}); look at it and remove it")]
    Senseless(PathBuf, serde_json::Error),
    /// It cannot be read.
    #[error("Cannot read the record {0}: {1}")]
    Unreadable(PathBuf, io::Error),
}

/// The record of one device, kept by its daemon.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    /// The present file, locked.
    held: Option<Flock<File>>,
}

impl Record {
    /// The record for the device of this name. There is no file before the first [`save`](Self::save).
    #[must_use]
    pub fn of(device: &str) -> Self {
        let is_root = nix::unistd::geteuid().is_root();
        Self::within(Path::new(if is_root { ROOT_DIRECTORY } else { DIRECTORY }), device)
    }

    fn within(directory: &Path, device: &str) -> Self {
        Self { path: directory.join(format!("{device}.undo")), held: None }
    }

    /// Writes down what there is to take back; nothing, if there is nothing.
    ///
    /// # Errors
    /// The file cannot be written. A former one stays.
    pub fn save(&mut self, journal: &Journal) -> io::Result<()> {
        if journal.is_empty() {
            self.remove();
            return Ok(());
        }
        if let Some(directory) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        let new = self.path.with_extension("undo.new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        let contents = Contents { version: VERSION, journal: journal.clone() };
        file.write_all(&serde_json::to_vec(&contents)?)?;
        fs::rename(&new, &self.path)?;
        self.held = Some(file);
        Ok(())
    }

    /// Removes the file, if this one has written it.
    pub fn remove(&mut self) {
        if self.held.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes back what a killed daemon has left on the device of this name, and beside it if the configuration asks for it or
/// the record is root's. Returns false if there is no record of it.
///
/// # Errors
/// The daemon still runs, or the record cannot be believed. Changes that cannot be taken back are logged.
pub fn clean_up(device: &str, config: Option<&Config>) -> Result<bool, RecordError> {
    let mut found = false;
    for directory in [DIRECTORY, ROOT_DIRECTORY] {
        found |= clean_up_in(Path::new(directory), device, config)?;
    }
    Ok(found)
}

/// Whether a killed daemon has left something on the device of this name.
///
/// # Errors
/// There is a record that cannot be read or believed.
pub fn is_left(device: &str) -> Result<bool, RecordError> {
    for directory in [DIRECTORY, ROOT_DIRECTORY] {
        match find(Path::new(directory), device) {
            Ok(None) | Err(RecordError::InUse(_)) => {}
            Ok(Some(_)) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn clean_up_in(directory: &Path, device: &str, config: Option<&Config>) -> Result<bool, RecordError> {
    let Some((lock, path, journal)) = find(directory, device)? else { return Ok(false) };
    // Whoever may write it is in charge of tun and tap devices, and of no other.
    let is_roots = lock.metadata().is_ok_and(|metadata| metadata.uid() == 0);
    let named = config.map(|config| daemon::changes(config, true)).unwrap_or_default();
    if !journal.is_of_tun() || !(is_roots || journal.beside().all(|change| named.contains(change))) {
        return Err(RecordError::Untrusted(path));
    }
    NetConfig::resume(journal).map_err(|error| RecordError::Unreadable(path.clone(), error))?.undo_all();
    let _ = fs::remove_file(path);
    Ok(true)
}

type Found = (Flock<File>, PathBuf, Journal);

fn find(directory: &Path, device: &str) -> Result<Option<Found>, RecordError> {
    let path = Record::within(directory, device).path;
    let unreadable = |error: io::Error| RecordError::Unreadable(path.clone(), error);
    // Not through a link, and not to wait for the writer of a pipe.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(RecordError::Untrusted(path)),
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    let own = nix::unistd::geteuid().as_raw();
    let is_trusted = metadata.is_file() && [0, own].contains(&metadata.uid()) && metadata.mode() & 0o022 == 0;
    if !is_trusted {
        return Err(RecordError::Untrusted(path));
    }
    let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => file,
        Err((_, Errno::EWOULDBLOCK)) => return Err(RecordError::InUse(device.to_owned())),
        Err((_, errno)) => return Err(unreadable(errno.into())),
    };
    // Its writer may have put another one in its place meanwhile, which is locked.
    let is_present = fs::symlink_metadata(&path).is_ok_and(|present| present.ino() == metadata.ino());
    if !is_present {
        return Err(RecordError::InUse(device.to_owned()));
    }
    let mut text = Vec::new();
    (&mut *file).take(MAX_LEN).read_to_end(&mut text).map_err(unreadable)?;
    let contents: Contents =
        serde_json::from_slice(&text).map_err(|error| RecordError::Senseless(path.clone(), error))?;
    if contents.version != VERSION {
        let error = serde::de::Error::custom(format_args!("version {}", contents.version));
        return Err(RecordError::Senseless(path, error));
    }
    Ok(Some((file, path, contents.journal)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn journal(applied: &str) -> Journal {
        let text = format!(r#"{{"device":"tun3","index":7,"kind":"tun","applied":[{applied}]}}"#);
        serde_json::from_str(&text).unwrap()
    }

    const UP: &str = r#"{"change":"Up","undo":"Down"}"#;

    #[test]
    fn a_record_is_in_use_until_its_writer_is_gone_and_then_says_what_was_changed() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = Record::within(directory.path(), "tun3");
        record.save(&journal(UP)).unwrap();
        assert!(matches!(find(directory.path(), "tun3"), Err(RecordError::InUse(_))));
        // A second one replaces the first.
        record.save(&journal(&format!("{UP},{UP}"))).unwrap();
        drop(record);
        let (_lock, _, found) = find(directory.path(), "tun3").unwrap().unwrap();
        assert_eq!(found, journal(&format!("{UP},{UP}")));
        assert!(find(directory.path(), "tun4").unwrap().is_none());
    }

    #[test]
    fn nothing_to_take_back_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = Record::within(directory.path(), "tun3");
        record.save(&journal(UP)).unwrap();
        record.save(&journal("")).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_others_could_have_written_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tun3.undo");
        let mut record = Record::within(directory.path(), "tun3");
        record.save(&journal(UP)).unwrap();
        drop(record);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(find(directory.path(), "tun3"), Err(RecordError::Untrusted(_))));
        symlink(&path, directory.path().join("tun4.undo")).unwrap();
        assert!(matches!(find(directory.path(), "tun4"), Err(RecordError::Untrusted(_))));
        for text in ["", "{}", r#"{"version":2,"journal":{"device":"x","index":1,"kind":null,"applied":[]}}"#] {
            let _ = fs::remove_file(&path);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(find(directory.path(), "tun3"), Err(RecordError::Senseless(..))), "{text}");
        }
    }
}
