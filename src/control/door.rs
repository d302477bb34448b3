//! The listening sockets: how they are opened, who may come in, and how they leave the file system.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use log::debug;
use mio::event::Source;
use mio::net::{TcpListener, UnixListener, UnixStream};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Group, geteuid};

use super::client::{Admission, Form, Rights, Stream};
use crate::config::ControlChoice;
use crate::helper;
use crate::sys;

/// Where the sockets are.
pub const DIRECTORY: &str = "/run/simpletun";

/// The group whose members may ask, if it exists.
pub const GROUP: &str = "simpletun";

/// Who stands for all users that are unknown (`overflowuid`, user_namespaces(7)); called nobody.
const OVERFLOW_UID: u32 = 65_534;

/// The socket of the instance of this name.
pub fn socket_of(instance: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{instance}.sock"))
}

/// The path of the socket that was asked for, if one was.
#[must_use]
pub fn path_of(choice: &ControlChoice, instance: &str) -> Option<PathBuf> {
    match choice {
        ControlChoice::Off => None,
        ControlChoice::Path(path) => Some(path.clone()),
        ControlChoice::Usual => Some(socket_of(instance)),
    }
}

/// Takes a socket out of the file system, through the helper if this process may not. The one place where that is done.
///
/// # Errors
/// Those of unlink(2): where neither process may write to the directory it stays, which hurts nobody: the next daemon of
/// this name replaces it.
pub fn remove_socket(path: &Path) -> io::Result<()> {
    match (fs::remove_file(path), helper::client()) {
        (Err(error), Some(helper)) if error.kind() == io::ErrorKind::PermissionDenied => helper.remove_control_socket(),
        (result, _) => result,
    }
}

/// Takes a socket out of the file system that nobody listens at any more.
pub fn remove_dead_socket(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && StdUnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        let _ = fs::remove_file(path);
    }
}

/// A listening socket.
pub struct Door {
    listener: Listener,
    /// Connections may be waiting.
    ready: bool,
    paused_until: Option<Instant>,
}

enum Listener {
    Unix { listener: UnixListener, file: SocketFile, guests: Guests },
    Http(TcpListener),
}

/// A socket in the file system, and which file that was.
struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guests {
    /// Who has opened the socket.
    owner: u32,
    group: Option<u32>,
}

/// Opens the usual socket of this instance, and makes the directory for it.
///
/// # Errors
/// The directory cannot be made, or as [`Door::unix`].
pub fn usual(instance: &str) -> Result<Door> {
    let directory = Path::new(DIRECTORY);
    match DirBuilder::new().mode(0o755).create(directory) {
        // Whatever the mask for new files is, everybody may look into it.
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(anyhow!(error).context(format!("Cannot make {DIRECTORY}"))),
    }
    Door::unix(&socket_of(instance))
}

impl Door {
    /// Opens a control socket. One that a daemon has left behind is replaced.
    ///
    /// # Errors
    /// It cannot be made, something else has that name, or another daemon listens there.
    pub fn unix(path: &Path) -> Result<Self> {
        let name = path.display();
        let listener = match bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                clear(path)?;
                bind(path)
            }
            result => result,
        };
        let listener = listener.with_context(|| format!("Cannot make the control socket {name}"))?;
        listener.set_nonblocking(true)?;
        let identity = fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()));
        let file = SocketFile { path: path.to_owned(), identity };
        let group = Group::from_name(GROUP).ok().flatten().map(|group| group.gid.as_raw());
        // Who is neither root nor a member of the group cannot give it the file.
        let group = group.filter(|group| chown(path, None, Some(*group)).is_ok());
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        let guests = Guests { owner: geteuid().as_raw(), group };
        debug!("control socket {name} mode={mode:o} {guests:?}");
        Ok(Self::of(Listener::Unix { listener: UnixListener::from_std(listener), file, guests }))
    }

    /// Opens the metrics server.
    ///
    /// # Errors
    /// The address or the port cannot be used.
    pub fn http(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("Cannot serve metrics at {address} (--metrics): choose another port"))?;
        Ok(Self::of(Listener::Http(listener)))
    }

    fn of(listener: Listener) -> Self {
        Self { listener, ready: true, paused_until: None }
    }

    /// Registers the socket.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).register(registry, token, Interest::READABLE)
    }

    /// Which language is spoken here.
    pub fn form(&self) -> Form {
        match &self.listener {
            Listener::Unix { .. } => Form::Line,
            Listener::Http(_) => Form::Http,
        }
    }

    /// The socket in the file system, if it is one.
    pub fn path(&self) -> Option<&PathBuf> {
        match &self.listener {
            Listener::Unix { file, .. } => Some(&file.path),
            Listener::Http(_) => None,
        }
    }

    /// Somebody may be there.
    pub fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Nobody is there.
    pub fn set_idle(&mut self) {
        self.ready = false;
    }

    /// Lets nobody in before this time.
    pub fn pause_until(&mut self, at: Instant) {
        self.paused_until = Some(at);
    }

    /// When somebody may be let in again, if not at once.
    pub fn opens_at(&self) -> Option<Instant> {
        self.paused_until
    }

    /// True if somebody may be there and may come in.
    pub fn may_accept(&mut self, now: Instant) -> bool {
        self.paused_until.take_if(|at| *at <= now);
        self.ready && self.paused_until.is_none()
    }

    /// Lets one in.
    ///
    /// # Errors
    /// Those of accept(2), `WouldBlock` if nobody is there.
    pub fn accept(&self) -> io::Result<(Stream, Admission)> {
        match &self.listener {
            Listener::Unix { listener, guests, .. } => {
                let stream = listener.accept()?.0;
                let admission = guests.admission(&stream);
                Ok((Stream::Unix(stream), admission))
            }
            Listener::Http(listener) => Ok((Stream::Tcp(listener.accept()?.0), Admission::Granted(Rights::Numbers))),
        }
    }

    /// Takes the socket out of the file system, unless another one has taken its place.
    fn remove(&self) {
        let Listener::Unix { file, .. } = &self.listener else { return };
        let present = fs::symlink_metadata(&file.path).ok().map(|file| (file.dev(), file.ino()));
        if present.is_some() && present == file.identity {
            remove_socket(&file.path).unwrap_or_else(|error| debug!("{} stays: {error}", file.path.display()));
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.remove();
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.listener {
            Listener::Unix { listener, .. } => listener.as_fd(),
            Listener::Http(listener) => listener.as_fd(),
        }
    }
}

/// Binds and listens. Nobody can connect before the mode is set.
fn bind(path: &Path) -> io::Result<StdUnixListener> {
    let mask = umask(Mode::from_bits_truncate(0o177));
    let listener = StdUnixListener::bind(path);
    umask(mask);
    listener
}

/// Makes room where a daemon that is gone has left its socket.
fn clear(path: &Path) -> Result<()> {
    let name = path.display();
    let is_socket = fs::symlink_metadata(path)?.file_type().is_socket();
    if !is_socket {
        bail!("Cannot make the control socket {name}: there is something else of that name");
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            debug!("{name} was left behind, it is replaced");
            remove_socket(path).with_context(|| format!("Cannot replace the control socket {name}"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => bail!("Another daemon serves the control socket {name}: give one of the two another name (--control)"),
    }
}

impl Guests {
    fn admission(&self, stream: &UnixStream) -> Admission {
        let Ok(peer) = getsockopt(stream, sockopt::PeerCredentials) else {
            return Admission::Refused("Not permitted: the kernel does not say who you are");
        };
        let groups = || sys::peer_groups(stream.as_fd()).unwrap_or_default();
        if self.admit(peer.uid(), peer.gid(), groups) {
            Admission::Granted(self.rights(peer.uid()))
        } else {
            Admission::Refused("Not permitted: root, the user of the daemon and the group simpletun may ask")
        }
    }

    /// What is told to a user who may ask. Packets are not for the group; and the user that stands for all who are unknown
    /// (in the kernel and in user namespaces), under which daemons run that have no user of their own, is nobody's.
    fn rights(&self, uid: u32) -> Rights {
        let is_own = uid == self.owner || uid == geteuid().as_raw();
        if uid == 0 || (is_own && uid != OVERFLOW_UID) { Rights::All } else { Rights::Numbers }
    }

    /// Whether a user may ask; `groups` are those beside the first.
    fn admit(&self, uid: u32, gid: u32, groups: impl FnOnce() -> Vec<u32>) -> bool {
        let is_own = uid == 0 || uid == self.owner || uid == geteuid().as_raw();
        is_own || self.group.is_some_and(|group| gid == group || groups().contains(&group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_owner_and_the_group_may_ask_and_nobody_else() {
        let guests = Guests { owner: 4242, group: Some(77) };
        assert!(guests.admit(0, 0, Vec::new) && guests.admit(4242, 5, Vec::new));
        assert!(guests.admit(99_999, 77, Vec::new) && guests.admit(99_999, 5, || vec![1, 77]));
        assert!(!guests.admit(99_999, 5, || vec![1, 78]));
        let private = Guests { owner: 4242, group: None };
        assert!(!private.admit(99_999, 77, || vec![77]) && private.admit(geteuid().as_raw(), 1, Vec::new));
    }

    #[test]
    fn packets_are_for_root_and_the_owner_alone() {
        let guests = Guests { owner: 4242, group: Some(77) };
        assert_eq!([0, 4242].map(|uid| guests.rights(uid)), [Rights::All; 2]);
        assert_eq!(guests.rights(99_999), Rights::Numbers);
        let nobodys = Guests { owner: OVERFLOW_UID, group: None };
        assert_eq!(nobodys.rights(OVERFLOW_UID), Rights::Numbers, "that may be anybody");
    }

    #[test]
    fn a_socket_left_behind_is_replaced_a_live_one_is_not_and_nothing_else_is_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        drop(StdUnixListener::bind(&path).unwrap());
        let door = Door::unix(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert!(mode == 0o600 || mode == 0o660, "{mode:o}");
        let refused = Door::unix(&path).err().unwrap();
        assert!(refused.to_string().contains("Another daemon"), "{refused}");
        assert!(path.exists(), "the live one stays");
        drop(door);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(Door::unix(&path).err().unwrap().to_string().contains("something else"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_socket_that_has_taken_its_place_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let door = Door::unix(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = StdUnixListener::bind(&path).unwrap();
        drop(door);
        assert!(path.exists());
    }
}
