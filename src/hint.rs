//! Where the peer was last, remembered across restarts: a listening end can then begin the handshake by itself.
//!
//! Only a hint: nothing is believed of an address but that a handshake is worth trying there. Where this process has no
//! right to the file any more the helper has it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use log::{debug, warn};

use crate::helper::{self, client::Client};

/// A file with one address.
pub struct Hint {
    path: PathBuf,
    known: Option<SocketAddr>,
    failed: bool,
}

impl Hint {
    /// The file for this device in the state directory, with what it holds; something else than an address is ignored.
    pub fn open(directory: &Path, device: &str) -> Self {
        let path = directory.join(format!("{device}.peer"));
        let known = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => match through_helper(&error, Client::remembered) {
                Some(known) => known,
                None => {
                    warn!("Cannot read {}: {error}; going on without it", path.display());
                    None
                }
            },
        };
        debug!("the peer was last at {known:?} according to {}", path.display());
        Self { path, known, failed: false }
    }

    /// Where the peer was.
    pub fn address(&self) -> Option<SocketAddr> {
        self.known
    }

    /// Remembers where it is. A failure is said once and costs nothing but the hint.
    pub fn remember(&mut self, peer: SocketAddr) {
        if self.known == Some(peer) {
            return;
        }
        self.known = Some(peer);
        // A reader never sees half an address: the file changes its contents in one step.
        let new = self.path.with_extension("peer.new");
        let written = fs::write(&new, format!("{peer}\n")).and_then(|()| fs::rename(&new, &self.path));
        if let Err(error) = written
            && through_helper(&error, |helper| helper.remember(peer)).is_none()
            && !std::mem::replace(&mut self.failed, true)
        {
            warn!("Cannot remember the peer's address in {}: {error}", self.path.display());
        }
    }
}

/// What the helper says, if there is one and this process has no right to the file.
fn through_helper<T>(refusal: &io::Error, ask: impl FnOnce(&Client) -> io::Result<T>) -> Option<T> {
    let helper = helper::client().filter(|_| refusal.kind() == io::ErrorKind::PermissionDenied)?;
    ask(helper).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_outlives_its_writer_and_rubbish_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let peer: SocketAddr = "[2001:db8::1]:4711".parse().unwrap();
        let mut hint = Hint::open(directory.path(), "tun0");
        assert_eq!(hint.address(), None);
        hint.remember(peer);
        assert_eq!(Hint::open(directory.path(), "tun0").address(), Some(peer));
        assert_eq!(Hint::open(directory.path(), "tun1").address(), None);
        fs::write(directory.path().join("tun0.peer"), [0xff, 0, 1]).unwrap();
        assert_eq!(Hint::open(directory.path(), "tun0").address(), None);
    }

    #[test]
    fn a_directory_that_is_missing_costs_the_hint_alone() {
        let mut hint = Hint::open(Path::new("/nonexistent/directory"), "tun0");
        hint.remember("192.0.2.1:1".parse().unwrap());
        assert_eq!(hint.address(), Some("192.0.2.1:1".parse().unwrap()));
    }
}
