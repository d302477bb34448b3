//! How one hook runs: a process of its own group, with nothing of ours but standard error, that has a limited time.
//!
//! It knows nothing of links. Where there is a helper it is the one that starts hooks, because the daemon may not: its
//! own right to configure the network is theirs, too. The time is watched here all the same.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::{debug, warn};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::Kind;
use crate::helper::{self, client::Client};
use crate::sys;

/// Time to end from TERM on; then comes KILL.
const GRACE: Duration = Duration::from_secs(5);

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCall {
    /// Which hook it is.
    pub kind: Kind,
    /// The program, by its whole path, and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(&'static str, String)>,
    /// After this time it is asked to end.
    pub timeout: Duration,
}

/// What has become of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookEnd {
    /// It has ended with exit code 0.
    Succeeded,
    /// Why it counts as failed, as the end of a sentence.
    Failed(String),
}

/// Why a hook is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It has not been asked to.
    No,
    /// Its time is over.
    Late,
    /// The daemon was asked to end.
    Unwanted,
}

/// Whose child it is.
enum Process {
    Own(Child),
    Helped { helper: &'static Client, pid: u32 },
}

impl Process {
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Self::Own(child) => child.try_wait(),
            Self::Helped { helper, pid } => helper.hook_status(*pid),
        }
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        match self {
            Self::Own(child) => child.wait(),
            // It has ended by now: its descriptor was readable.
            Self::Helped { helper, pid } => helper.hook_status(*pid)?.ok_or(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match self {
            Self::Own(child) => signal_group(child.id(), signal),
            Self::Helped { helper, pid } => helper.signal_hook(*pid, signal == Signal::SIGKILL),
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(child) => write!(formatter, "process {}", child.id()),
            Self::Helped { pid, .. } => write!(formatter, "process {pid} of the helper"),
        }
    }
}

/// Starts a program in a group of its own; the descriptor is readable once it has ended.
///
/// # Errors
/// Those of execve(2), and out of processes or descriptors.
pub fn spawn<N: AsRef<str>>(argv: &[String], environment: &[(N, String)]) -> io::Result<(Child, OwnedFd)> {
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    // All descriptors of this process are closed on exec; what a hook says goes where our log goes.
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name.as_ref(), value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .stderr(Stdio::inherit())
        .process_group(0)
        .spawn()?;
    match sys::pidfd_open(child.id()) {
        Ok(pidfd) => Ok((child, pidfd)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

/// Signals the whole group of a child that has not been waited for.
///
/// # Errors
/// Those of kill(2).
pub fn signal_group(pid: u32, signal: Signal) -> io::Result<()> {
    let group = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(killpg(Pid::from_raw(group), signal)?)
}

/// A hook that runs.
#[derive(Debug)]
pub struct Running {
    call: HookCall,
    process: Process,
    /// Readable once the process has ended (pidfd_open(2)).
    pidfd: OwnedFd,
    ending: Ending,
    deadline: Instant,
}

impl Running {
    /// Starts a hook.
    ///
    /// # Errors
    /// Those of execve(2), and out of processes or descriptors.
    pub fn start(call: HookCall, now: Instant) -> io::Result<Self> {
        let (process, pidfd) = match helper::client() {
            Some(helper) => {
                let (pid, pidfd) = helper.start_hook(&call)?;
                (Process::Helped { helper, pid }, pidfd)
            }
            None => {
                let (child, pidfd) = spawn(&call.argv, &call.environment)?;
                (Process::Own(child), pidfd)
            }
        };
        debug!("hook {} begins: {}", call.kind.word(), call.argv.join(" "));
        let deadline = now + call.timeout;
        Ok(Self { call, process, pidfd, ending: Ending::No, deadline })
    }

    /// What was asked for.
    pub fn call(&self) -> &HookCall {
        &self.call
    }

    /// Has the end of the process told as readiness.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.pidfd.as_raw_fd()), token, Interest::READABLE)
    }

    /// Ends that.
    pub fn deregister(&self, registry: &Registry) {
        // The descriptor is closed next.
        let _ = registry.deregister(&mut SourceFd(&self.pidfd.as_raw_fd()));
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Ends it if its time is over: first it is asked to, then it is not asked.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.deadline {
            return;
        }
        self.press(Ending::Late);
        self.deadline = now + GRACE;
    }

    /// What has become of it, if it has ended.
    pub fn poll_end(&mut self) -> Option<HookEnd> {
        match self.process.try_wait() {
            Ok(status) => status.map(|status| self.judge(status)),
            Err(error) => Some(HookEnd::Failed(format!("cannot be waited for: {error}"))),
        }
    }

    /// Waits for its end, or ends it when its time is over or `unwanted` has been set by a signal.
    pub fn wait(mut self, unwanted: Option<&AtomicBool>) -> HookEnd {
        loop {
            let patience = if self.ending == Ending::No { self.call.timeout } else { GRACE };
            let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
            let outcome = poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], timeout);
            let is_unwanted = unwanted.is_some_and(|unwanted| unwanted.load(Ordering::Relaxed));
            match outcome {
                Ok(0) => self.press(Ending::Late),
                Err(Errno::EINTR) if is_unwanted && self.ending == Ending::No => self.press(Ending::Unwanted),
                Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => {
                    let status = self.process.wait();
                    return status.map_or_else(
                        |error| HookEnd::Failed(format!("cannot be waited for: {error}")),
                        |status| self.judge(status),
                    );
                }
            }
        }
    }

    /// Ends it without waiting for what it has to say.
    pub fn abandon(mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.process.wait();
    }

    fn press(&mut self, why: Ending) {
        if self.ending == Ending::No {
            self.ending = why;
            self.signal(Signal::SIGTERM);
        } else {
            warn!("The hook {} does not end when it is asked to, and is killed", self.call.kind.word());
            self.signal(Signal::SIGKILL);
        }
    }

    /// Signals its whole group, which has its number: nobody else gets that before it was waited for.
    fn signal(&self, signal: Signal) {
        if let Err(error) = self.process.signal(signal) {
            debug!("cannot signal the hook {}: {error}", self.call.kind.word());
        }
    }

    fn judge(&self, status: ExitStatus) -> HookEnd {
        let within = humantime::format_duration(self.call.timeout);
        match (self.ending, status.code(), status.signal()) {
            (Ending::Late, ..) => HookEnd::Failed(format!("did not end within {within}")),
            (Ending::Unwanted, ..) => HookEnd::Failed("was ended by a signal to this daemon".to_owned()),
            (Ending::No, Some(0), _) => HookEnd::Succeeded,
            (Ending::No, Some(code), _) => HookEnd::Failed(format!("has ended with exit code {code}")),
            (Ending::No, None, signal) => {
                HookEnd::Failed(format!("was ended by signal {}", signal.unwrap_or_default()))
            }
        }
    }
}
