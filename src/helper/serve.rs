//! The helper itself: reduces what it may, and answers requests until the other process is gone.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, bail};
use caps::{CapSet, Capability};
use log::{debug, info, warn};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::unistd::geteuid;
use socket2::{Domain, SockRef};

use super::record::{self, Record};
use super::wire::Wire;
use super::{Answer, Request, SocketOption};
use crate::cli::Cli;
use crate::config::{Config, ConfigError, KeyFiles, KeySource, Options};
use crate::control;
use crate::daemon::changes;
use crate::device::netchange::{NetChange, NetConfig, NetError};
use crate::hint::Hint;
use crate::hooks::{self, Kind, VARIABLES, runner};
use crate::privileges::{self, sandbox};
use crate::transport::resolve;

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "helper";

/// Largest socket buffer that is granted, in bytes.
const MAX_BUFFER: usize = 64 * 1024 * 1024;

/// Configurations that were read and are remembered: what the last of them names may be asked for.
const MAX_CONFIGS: usize = 8;

/// Hooks that run at the same time: one of the link, `up` or `down`.
const MAX_HOOKS: usize = 4;

/// Longest value that a hook is told.
const MAX_WORD_LEN: usize = 128;

/// The first port that needs no right to be bound to (`ip_unprivileged_port_start` of ip(7)).
const FIRST_FREE_PORT: u16 = 1024;

/// What the other process tells at the start, when it has not yet read a packet.
#[derive(Clone, Debug, clap::Args)]
pub struct Helper {
    /// Name of the device
    #[arg(long)]
    device: String,
    /// Its index
    #[arg(long)]
    index: u32,
    /// The device was created, and goes with its descriptor
    #[arg(long)]
    created: bool,
    /// The arguments of the other process
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

impl Helper {
    /// The command line of the other process.
    ///
    /// # Errors
    /// It is none.
    pub fn cli(&self) -> Result<Cli> {
        let arguments = std::iter::once(OsString::from("simpletun")).chain(self.arguments.iter().cloned());
        Cli::from_arguments(arguments).ok().context("The helper process is started by simpletun itself")
    }

    /// Serves until the other process is gone, and takes back what is left.
    ///
    /// # Errors
    /// It was not started by simpletun, or cannot give up what it does not need.
    pub fn run(&self, cli: Cli) -> Result<()> {
        let socket = std::io::stdin().as_fd().try_clone_to_owned().context("Cannot use the standard input")?;
        if getsockopt(&socket, sockopt::SockType) != Ok(nix::sys::socket::SockType::SeqPacket) {
            bail!("The helper process is started by simpletun itself");
        }
        let _ = prctl::set_name(c"simpletun-help");
        // Handled and no longer blocked: a hook is to have neither.
        for signal in ENDING {
            signal_hook::flag::register(signal as i32, Arc::new(AtomicBool::new(false)))?;
        }
        SigSet::empty().thread_set_mask()?;
        let mut wire = Wire::new(socket);
        let Some((Request::Start(text), _)) = wire.receive()? else {
            bail!("The helper process is started by simpletun itself");
        };
        let mut server = Server::new(self, cli, text)?;
        server.reduce()?;
        wire.send(&Answer::Done, None).context("Cannot answer the other process")?;
        server.serve(&mut wire);
        server.take_back();
        // Its owner is gone, so nobody listens there, unless the next one does already.
        server.control_socket.iter().for_each(|path| control::remove_dead_socket(path));
        Ok(())
    }
}

/// What asks a daemon for something, and comes to all processes of a terminal or of a service: the helper ends after the
/// other one.
const ENDING: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Calls `action` while these signals are blocked, so that a helper that is started there has them blocked until it
/// handles them.
pub fn with_signals_blocked<T>(action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let set: SigSet = ENDING.into_iter().collect();
    let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let result = action();
    before.thread_set_mask()?;
    result
}

struct Server {
    flags: Options,
    file: Option<PathBuf>,
    keys: KeyFiles,
    /// What was read, the latest last.
    configs: Vec<Config>,
    /// The files of keys that these name.
    key_files: Vec<String>,
    hint: Option<Hint>,
    network: NetConfig,
    created: bool,
    record: Record,
    /// As it was at the start; another one takes a restart.
    control_socket: Option<PathBuf>,
    hooks: Vec<Child>,
}

impl Server {
    fn new(helper: &Helper, cli: Cli, text: Option<String>) -> Result<Self> {
        let network = NetConfig::new(&helper.device).map_err(|error| NetError::lookup(&helper.device, error))?;
        if network.index() != helper.index {
            bail!("The device {} is another one by now", helper.device);
        }
        let instance = cli.instance();
        let mut server = Self {
            control_socket: None,
            hooks: Vec::new(),
            flags: cli.options,
            file: cli.config,
            keys: KeyFiles::from_environment(),
            configs: Vec::new(),
            key_files: Vec::new(),
            hint: None,
            network,
            created: helper.created,
            record: Record::of(&helper.device),
        };
        server.read(text.as_deref())?;
        match record::clean_up(&helper.device, server.configs.last()) {
            Ok(true) => info!("took back what a former run had left on the device {}", helper.device),
            Ok(false) => {}
            Err(error) => warn!("{error}; going on without it"),
        }
        let choice = server.configs.first().map(|config| config.control.socket.clone()).unwrap_or_default();
        server.control_socket = control::path_of(&choice, &instance.unwrap_or_else(|| helper.device.clone()));
        Ok(server)
    }

    /// Keeps what requests need, and nothing else.
    fn reduce(&self) -> Result<()> {
        let binds_low = self.configs.iter().any(|config| (1..FIRST_FREE_PORT).contains(&config.link.bind.port));
        let low = binds_low.then_some(Capability::CAP_NET_BIND_SERVICE);
        let kept = std::iter::once(Capability::CAP_NET_ADMIN).chain(low).collect();
        privileges::keep_only(&kept).context("The helper process cannot give up what it does not need")?;
        let runs_hooks = self.configs.iter().any(|config| !config.hooks.is_empty());
        if runs_hooks && !geteuid().is_root() {
            // What root's hooks get by being root.
            let held = caps::read(None, CapSet::Permitted)?;
            caps::set(None, CapSet::Inheritable, &held).and_then(|()| caps::set(None, CapSet::Ambient, &held))?;
        }
        if self.configs.iter().all(|config| config.privileges.sandbox) {
            sandbox::enter_helper(runs_hooks);
        }
        Ok(())
    }

    fn serve(&mut self, wire: &mut Wire) {
        loop {
            let (answer, descriptor) = match wire.receive::<Request>() {
                Ok(Some((request, descriptor))) => self.answer(request, descriptor.as_ref().map(AsFd::as_fd)),
                Ok(None) => return,
                Err(error) => {
                    warn!("The helper process cannot understand the other one ({error}) and ends");
                    return;
                }
            };
            if wire.send(&answer, descriptor.as_ref().map(AsFd::as_fd)).is_err() {
                return;
            }
        }
    }

    /// Takes back what was configured, unless it has gone with the device or stays with it.
    fn take_back(&mut self) {
        if self.created {
            self.network.undo_beside();
        } else {
            self.network.undo_all();
        }
        self.record.remove();
    }

    fn answer(&mut self, request: Request, given: Option<BorrowedFd<'_>>) -> (Answer, Option<OwnedFd>) {
        let plain = match request {
            Request::Apply(change) => self.change(&[change], |network| network.apply(&change)),
            Request::Reconcile(wanted) => self.change(&wanted, |network| network.reconcile(&wanted)),
            Request::Start(_) => Answer::Failed(libc::EALREADY),
            Request::TakeBack => {
                self.take_back();
                Answer::Done
            }
            Request::Socket(option) => match given {
                Some(socket) => done(self.set(socket, &option)),
                None => Answer::Failed(libc::EBADF),
            },
            Request::Configuration => return self.configuration(),
            Request::Key(file) => return self.key(&file),
            Request::Credential(name) => self.credential(&name),
            Request::Remembered => Answer::Peer(self.hint.as_ref().and_then(Hint::address)),
            Request::Remember(peer) => {
                if let Some(hint) = &mut self.hint {
                    hint.remember(peer);
                }
                Answer::Done
            }
            Request::RemoveControlSocket => done(self.remove_control_socket()),
            Request::StartHook { kind, argv, environment } => return self.start_hook(kind, &argv, &environment),
            Request::HookStatus(pid) => self.hook_status(pid),
            Request::SignalHook { pid, kill } => done(self.signal_hook(pid, kill)),
        };
        (plain, None)
    }

    /// Makes changes that the configuration asks for.
    fn change(&mut self, wanted: &[NetChange], make: impl FnOnce(&mut NetConfig) -> Result<(), NetError>) -> Answer {
        if let Some(change) = wanted.iter().find(|change| !self.permits(change)) {
            warn!("The helper process refuses {change}, which is not in the configuration");
            return Answer::Refused(NetError::forbidden(change, self.network.device()).into());
        }
        let made = make(&mut self.network);
        // What was created needs no record for itself: nothing of it is left when both processes are gone.
        let journal = self.network.journal();
        let journal = if self.created { journal.only_beside() } else { journal };
        if let Err(error) = self.record.save(&journal) {
            debug!("cannot write down what was changed: {error}");
        }
        made.map_or_else(|error| Answer::Refused(error.into()), |()| Answer::Done)
    }

    /// Whether the configuration asks for it. The MTU follows what the path carries, on a device that is ours.
    fn permits(&self, change: &NetChange) -> bool {
        let is_named =
            |config: &Config| changes(config, self.created).iter().any(|named| named.canonical() == change.canonical());
        match change {
            NetChange::Mtu(_) | NetChange::GsoMaxSize(_) if self.created => true,
            _ => self.configs.iter().any(is_named),
        }
    }

    fn set(&self, socket: BorrowedFd<'_>, option: &SocketOption) -> io::Result<()> {
        let refused = || Err(io::Error::from(Errno::EPERM));
        let reference = SockRef::from(&socket);
        if !matches!(reference.domain()?, Domain::IPV4 | Domain::IPV6) {
            return refused();
        }
        let named = |is_it: &dyn Fn(&Config) -> bool| self.configs.iter().any(is_it);
        match option {
            SocketOption::Mark(mark) if named(&|config| config.link.fwmark == Some(*mark)) => reference.set_mark(*mark),
            SocketOption::Device(name) if named(&|config| config.link.bind_device.as_ref() == Some(name)) => {
                reference.bind_device(Some(name.as_bytes()))
            }
            SocketOption::ReceiveBuffer(size) if *size <= MAX_BUFFER => {
                Ok(setsockopt(&socket, sockopt::RcvBufForce, size)?)
            }
            SocketOption::SendBuffer(size) if *size <= MAX_BUFFER => {
                Ok(setsockopt(&socket, sockopt::SndBufForce, size)?)
            }
            SocketOption::Congestion(name) if named(&|config| config.link.congestion.as_ref() == Some(name)) => {
                Ok(setsockopt(&socket, sockopt::TcpCongestion, &OsString::from(name))?)
            }
            SocketOption::Bind(address) if named(&|config| config.link.bind.port == address.port()) => {
                reference.bind(&(*address).into())
            }
            _ => refused(),
        }
    }

    fn open_configuration(&self) -> Option<io::Result<File>> {
        self.file.as_ref().map(File::open)
    }

    /// Reads the configuration again and hands out its file, for the other process to read it, too: whether it is sound
    /// as a whole is known there, where the keys are.
    fn configuration(&mut self) -> (Answer, Option<OwnedFd>) {
        let handed = match self.open_configuration() {
            None => return (Answer::Done, None),
            Some(Err(error)) => return (failed(&error), None),
            Some(Ok(file)) => OwnedFd::from(file),
        };
        if let Err(mistake) = self.read(None) {
            debug!("the helper process goes on with the configuration that it knows: {mistake}");
        }
        (Answer::Done, Some(handed))
    }

    /// Takes what the configuration names as asked for by the administrator: that of the file, or of this text.
    fn read(&mut self, text: Option<&str>) -> Result<(), ConfigError> {
        let flags = self.flags.clone();
        let options = match (&self.file, text) {
            (Some(path), Some(text)) => Options::from_toml(text, &path.display().to_string())?.overlaid_with(flags),
            (Some(path), None) => Options::from_file(path)?.overlaid_with(flags),
            (None, _) => flags,
        };
        let files = options.key_files().into_iter().map(str::to_owned);
        self.key_files = files.collect();
        let state_dir = options.state_dir().or_else(|| self.keys.state_directory());
        self.hint = state_dir.map(|directory| Hint::open(&directory, self.network.device()));
        let config = Config::new(&options.without_protection(), &resolve::service_port, &self.keys)?;
        self.configs.retain(|known| *known != config);
        self.configs.push(config);
        if self.configs.len() > MAX_CONFIGS {
            self.configs.remove(0);
        }
        Ok(())
    }

    fn start_hook(
        &mut self,
        kind: Kind,
        argv: &[String],
        environment: &[(String, String)],
    ) -> (Answer, Option<OwnedFd>) {
        let is_named = self.configs.iter().any(|config| hook_of(config, kind).is_some_and(|named| named == argv));
        let is_sound = |(name, value): &&(String, String)| VARIABLES.contains(&name.as_str()) && is_word(value);
        if !is_named || self.hooks.len() >= MAX_HOOKS {
            warn!("The helper process refuses a hook {} that is not in the configuration", kind.word());
            return (Answer::Failed(libc::EPERM), None);
        }
        let mut told: Vec<(String, String)> = environment.iter().filter(is_sound).cloned().collect();
        told.push(("PATH".to_owned(), hooks::PATH.to_owned()));
        match runner::spawn(argv, &told) {
            Ok((child, pidfd)) => {
                let pid = child.id();
                self.hooks.push(child);
                (Answer::Started(pid), Some(pidfd))
            }
            Err(error) => (failed(&error), None),
        }
    }

    fn hook_status(&mut self, pid: u32) -> Answer {
        let Some(at) = self.hooks.iter().position(|child| child.id() == pid) else {
            return Answer::Failed(libc::ECHILD);
        };
        match self.hooks.get_mut(at).map(Child::try_wait) {
            Some(Ok(Some(status))) => {
                self.hooks.retain(|child| child.id() != pid);
                Answer::Status(Some(status.into_raw()))
            }
            Some(Err(error)) => failed(&error),
            Some(Ok(None)) | None => Answer::Status(None),
        }
    }

    fn signal_hook(&self, pid: u32, kill: bool) -> io::Result<()> {
        let is_ours = self.hooks.iter().any(|child| child.id() == pid);
        let signal = if kill { Signal::SIGKILL } else { Signal::SIGTERM };
        if is_ours { runner::signal_group(pid, signal) } else { Err(Errno::ESRCH.into()) }
    }

    fn remove_control_socket(&self) -> io::Result<()> {
        match &self.control_socket {
            Some(path) if fs::symlink_metadata(path)?.file_type().is_socket() => fs::remove_file(path),
            _ => Err(Errno::EPERM.into()),
        }
    }

    fn key(&self, file: &str) -> (Answer, Option<OwnedFd>) {
        if !self.key_files.iter().any(|named| named == file) && !self.is_credential(file) {
            warn!("The helper process refuses the file {file:?}, which is not in the configuration");
            return (Answer::Failed(libc::EPERM), None);
        }
        match self.keys.open(file) {
            Ok(file) => (Answer::Done, Some(file.into())),
            Err(error) => (Answer::KeyRefused(error.into()), None),
        }
    }

    fn credential(&self, name: &str) -> Answer {
        Answer::Credential(Some(name).filter(|name| is_plain(name)).and_then(|name| self.keys.credential(name)))
    }

    /// Whether it is one that [`credential`](Self::credential) tells.
    fn is_credential(&self, file: &str) -> bool {
        let name = file.rsplit('/').next().filter(|name| is_plain(name));
        name.and_then(|name| self.keys.credential(name)).is_some_and(|credential| credential == file)
    }
}

fn hook_of(config: &Config, kind: Kind) -> Option<&[String]> {
    let hooks = &config.hooks;
    match kind {
        Kind::Up => hooks.up.as_deref(),
        Kind::Down => hooks.down.as_deref(),
        Kind::LinkUp => hooks.link_up.as_deref(),
        Kind::LinkDown => hooks.link_down.as_deref(),
    }
}

/// Names of devices, addresses, numbers and reasons: nothing that a shell would read something into.
fn is_word(value: &str) -> bool {
    value.len() <= MAX_WORD_LEN
        && value.chars().all(|character| character.is_alphanumeric() || "-_.:%@+".contains(character))
}

/// A name that stays within its directory.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && ![".", ".."].contains(&name)
}

fn done(result: io::Result<()>) -> Answer {
    result.map_or_else(|error| failed(&error), |()| Answer::Done)
}

fn failed(error: &io::Error) -> Answer {
    Answer::Failed(error.raw_os_error().unwrap_or(libc::EIO))
}
