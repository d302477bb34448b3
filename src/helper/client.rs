//! The asking side: starts the helper and speaks to it. A request waits for its answer, which takes the helper well
//! under a millisecond; there are none in the path of a packet.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, OnceLock, PoisonError};

use log::debug;
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use zeroize::Zeroizing;

use super::wire::Wire;
use super::{Answer, Request, SocketOption, serve};
use crate::config::key_file::{STANDARD_INPUT, read_key};
use crate::config::{KeyFileError, KeyFiles, KeySource};
use crate::device::netchange::{NetChange, NetError};
use crate::hooks::runner::HookCall;

/// Rights belong to the process, and so does the way around their lack.
static CLIENT: OnceLock<Client> = OnceLock::new();

/// The helper of this process, if it has one.
pub fn client() -> Option<&'static Client> {
    CLIENT.get()
}

/// Starts the helper for this device, with the arguments of this process, and waits until it is ready. `text` is that of
/// the configuration, if it could be read only once.
///
/// # Errors
/// The program cannot be started anew, or the helper has ended with a message of its own.
pub fn start(device: &str, index: u32, created: bool, text: Option<String>) -> io::Result<()> {
    let (mut wire, theirs) = Wire::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("simpletun").arg(serve::SUBCOMMAND).args(["--device", device, "--index", &index.to_string()]);
    if created {
        command.arg("--created");
    }
    command.arg("--").args(std::env::args_os().skip(1)).stdin(theirs);
    // The terminal's signals are for the other process: the helper ends when that one has.
    let child = serve::with_signals_blocked(|| command.spawn())?;
    // The command holds the helper's end open.
    drop(command);
    wire.send(&Request::Start(text), None)?;
    match wire.receive::<Answer>()? {
        Some((Answer::Done, _)) => {}
        _ => return Err(io::Error::other("it has ended at once")),
    }
    debug!("helper process {} started for the device {device}", child.id());
    let (descriptor, pid) = (wire.as_fd().as_raw_fd(), child.id());
    let _ = CLIENT.set(Client { wire: Mutex::new(wire), child: Mutex::new(child), descriptor, pid });
    Ok(())
}

/// Lets the helper end and waits until it has: what it has not taken back by then is taken back now.
pub fn finish() {
    let Some(client) = client() else { return };
    let wire = client.wire.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = shutdown(wire.as_fd().as_raw_fd(), Shutdown::Both);
    let _ = client.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
}

/// The way to the helper.
pub struct Client {
    wire: Mutex<Wire>,
    child: Mutex<Child>,
    descriptor: RawFd,
    pid: u32,
}

impl Client {
    /// Number of the helper's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Makes one change to the device.
    ///
    /// # Errors
    /// As [`NetConfig::apply`](crate::device::netchange::NetConfig::apply); `EPERM` for a change that the configuration
    /// does not ask for.
    pub fn apply(&self, change: &NetChange) -> Result<(), NetError> {
        self.change(&Request::Apply(*change))
    }

    /// Makes these changes and takes back what else was made.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn reconcile(&self, wanted: &[NetChange]) -> Result<(), NetError> {
        self.change(&Request::Reconcile(wanted.to_vec()))
    }

    /// Takes everything back.
    ///
    /// # Errors
    /// The helper is gone.
    pub fn take_back(&self) -> Result<(), NetError> {
        self.change(&Request::TakeBack)
    }

    /// Sets an option of a socket.
    ///
    /// # Errors
    /// Those of setsockopt(2) or bind(2); `EPERM` for what the configuration does not ask for.
    pub fn set(&self, socket: BorrowedFd<'_>, option: SocketOption) -> io::Result<()> {
        self.ask(&Request::Socket(option), Some(socket)).map(drop)
    }

    /// Has the configuration read again; its file, if it comes from one.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn configuration(&self) -> io::Result<File> {
        let (_, descriptor) = self.ask(&Request::Configuration, None)?;
        descriptor.map(File::from).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }

    /// Where the peer was last.
    ///
    /// # Errors
    /// The helper is gone.
    pub fn remembered(&self) -> io::Result<Option<SocketAddr>> {
        match self.ask(&Request::Remembered, None)? {
            (Answer::Peer(peer), _) => Ok(peer),
            _ => Err(senseless()),
        }
    }

    /// Remembers where the peer is.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn remember(&self, peer: SocketAddr) -> io::Result<()> {
        self.ask(&Request::Remember(peer), None).map(drop)
    }

    /// Takes the control socket out of the file system.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn remove_control_socket(&self) -> io::Result<()> {
        self.ask(&Request::RemoveControlSocket, None).map(drop)
    }

    /// Starts a hook; its process and a descriptor of it.
    ///
    /// # Errors
    /// Those of execve(2); `EPERM` for a hook that the configuration does not name.
    pub fn start_hook(&self, call: &HookCall) -> io::Result<(u32, OwnedFd)> {
        let environment = call.environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let request = Request::StartHook { kind: call.kind, argv: call.argv.clone(), environment };
        match self.ask(&request, None)? {
            (Answer::Started(pid), Some(pidfd)) => Ok((pid, pidfd)),
            _ => Err(senseless()),
        }
    }

    /// How a hook has ended, if it has.
    ///
    /// # Errors
    /// Those of wait(2).
    pub fn hook_status(&self, pid: u32) -> io::Result<Option<ExitStatus>> {
        match self.ask(&Request::HookStatus(pid), None)? {
            (Answer::Status(status), _) => Ok(status.map(ExitStatus::from_raw)),
            _ => Err(senseless()),
        }
    }

    /// Asks a hook to end, or ends it.
    ///
    /// # Errors
    /// Those of kill(2).
    pub fn signal_hook(&self, pid: u32, kill: bool) -> io::Result<()> {
        self.ask(&Request::SignalHook { pid, kill }, None).map(drop)
    }

    fn change(&self, request: &Request) -> Result<(), NetError> {
        match self.exchange(request, None) {
            Ok((Answer::Done, _)) => Ok(()),
            Ok((Answer::Refused(refusal), _)) => Err(refusal.into()),
            Ok(_) => Err(NetError::lookup("through the helper process", senseless())),
            Err(error) => Err(NetError::lookup("through the helper process", error)),
        }
    }

    /// As [`exchange`](Self::exchange), with refusals as errors.
    fn ask(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> io::Result<(Answer, Option<OwnedFd>)> {
        match self.exchange(request, descriptor)? {
            (Answer::Failed(errno), _) => Err(io::Error::from_raw_os_error(errno)),
            answer => Ok(answer),
        }
    }

    fn exchange(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> io::Result<(Answer, Option<OwnedFd>)> {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = wire.send(request, descriptor).and_then(|()| wire.receive());
        if answer.as_ref().is_err_and(|error| error.raw_os_error() != Some(libc::EMSGSIZE)) {
            // An answer that comes later would be taken for that to the next request: the helper is as good as gone.
            let _ = shutdown(wire.as_fd().as_raw_fd(), Shutdown::Both);
        }
        answer?.ok_or_else(|| io::Error::from(Errno::EPIPE))
    }
}

/// Its readiness for reading without a request under way tells that the helper is gone.
impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor
    }
}

fn senseless() -> io::Error {
    io::Error::other("The helper process has answered something else")
}

/// The files of keys, read through the helper; standard input was read at the start.
pub struct HelperKeys<'a> {
    /// The helper.
    pub client: &'a Client,
    /// What this process has read itself.
    pub own: &'a KeyFiles,
}

impl KeySource for HelperKeys<'_> {
    fn read(&self, file: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        if file == STANDARD_INPUT {
            return self.own.standard_input();
        }
        match self.client.ask(&Request::Key(file.to_owned()), None)? {
            (Answer::Done, Some(descriptor)) => read_key(&mut File::from(descriptor)),
            (Answer::KeyRefused(refusal), _) => Err(refusal.into()),
            _ => Err(senseless().into()),
        }
    }

    fn credential(&self, name: &str) -> Option<String> {
        match self.client.ask(&Request::Credential(name.to_owned()), None) {
            Ok((Answer::Credential(file), _)) => file,
            _ => None,
        }
    }

    fn state_directory(&self) -> Option<PathBuf> {
        self.own.state_directory()
    }
}
