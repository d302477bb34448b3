//! What is looked at: the tunnel of a file, of options, or one that runs; without any of these the machine itself.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, geteuid, getgroups};

use super::unit::Unit;
use super::{Doctor, Finding};
use crate::cli::Cli;
use crate::config::key_file::SERVICE_USER;
use crate::config::{Config, ConfigError, KeyFileError, KeyFiles, KeySource, Options};
use crate::control::status::Status;
use crate::tools::status::ask::{AskError, Instance};
use crate::transport::resolve;
use zeroize::Zeroizing;

/// Where the files of services are.
const DIRECTORY: &str = "/etc/simpletun";

/// A user and the groups that count when it opens a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name, or its number if it has none.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its groups.
    pub gids: Vec<u32>,
}

impl Account {
    /// Who runs this program.
    pub fn own() -> Self {
        let uid = geteuid();
        let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        let mut gids: Vec<u32> = getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        gids.push(nix::unistd::getegid().as_raw());
        Self { name, uid: uid.as_raw(), gids }
    }

    /// The user of this name or number; its groups beside the first one are not looked up.
    pub fn named(name: &str) -> Option<Self> {
        let user = match name.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(name),
        };
        let user = user.ok().flatten()?;
        Some(Self { name: user.name, uid: user.uid.as_raw(), gids: vec![user.gid.as_raw()] })
    }

    /// True if the mode of a file of this owner and group lets this user do all of `bits` (4 read, 2 write, 1 enter).
    pub fn may(&self, bits: u32, mode: u32, owner: u32, group: u32) -> bool {
        let allowed = match (self.uid == owner, self.gids.contains(&group)) {
            (true, _) => mode >> 6,
            (false, true) => mode >> 3,
            (false, false) => mode,
        };
        self.uid == 0 || allowed & bits == bits
    }
}

/// The tunnel that is looked at.
#[derive(Debug)]
pub struct Subject {
    /// The name of its service or of its file.
    pub name: Option<String>,
    /// Its file.
    pub file: Option<PathBuf>,
    /// Its settings as they are written.
    pub options: Option<Options>,
    /// Its settings, without the keys if these cannot be used; nothing if they are wrong.
    pub config: Option<Config>,
    /// The one that runs.
    pub running: Option<Status>,
    /// Its service, if systemd manages this host and the file is where services have theirs.
    pub unit: Option<Unit>,
    /// Who runs this program.
    pub own: Account,
}

impl Subject {
    /// Finds the tunnel, and what there is to say about its settings.
    ///
    /// # Errors
    /// The options are wrong, without a file that could be.
    pub fn new(doctor: &Doctor) -> Result<(Self, Vec<Finding>), ConfigError> {
        let (name, file) = (doctor.instance(), doctor.file());
        let mut subject =
            Self { name, file, options: None, config: None, running: None, unit: None, own: Account::own() };
        let mut findings = Vec::new();
        subject.find_running(&mut findings);
        let is_service = subject.file.as_deref().is_some_and(|file| file.parent() == Some(Path::new(DIRECTORY)));
        if let Some(name) = subject.name.as_deref().filter(|_| is_service) {
            subject.unit = Unit::of(name);
        }
        match subject.read(doctor) {
            Ok(Some(options)) => subject.judge_settings(options, &mut findings)?,
            Ok(None) => {}
            Err(error) => findings.insert(0, super::settings::unusable(&subject, &error)),
        }
        // One without a name is known by its device.
        if subject.running.is_none()
            && let Some(config) = &subject.config
        {
            let asked = Instance::named(subject.name.as_deref().unwrap_or(&config.device.name)).status();
            subject.running = asked.ok().filter(|status| status.report.device.name == config.device.name);
        }
        Ok((subject, findings))
    }

    /// The device's name, as far as it is certain: a pattern stands for another one.
    pub fn device(&self) -> Option<&str> {
        let running = self.running.as_ref().map(|status| status.report.device.name.as_str());
        let configured = self.config.as_ref().map(|config| config.device.name.as_str());
        running.or(configured).filter(|name| !name.contains('%'))
    }

    /// The user whom the daemon is started as.
    pub fn account(&self) -> Account {
        let service = self.unit.as_ref().map(|unit| unit.user.as_deref().unwrap_or("root"));
        service.and_then(Account::named).unwrap_or_else(|| self.own.clone())
    }

    /// The process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|status| status.pid)
    }

    /// The peer that a running tunnel has or tries.
    pub fn running_peer(&self) -> Option<IpAddr> {
        let peer: std::net::SocketAddr = self.running.as_ref()?.report.peer.as_ref()?.parse().ok()?;
        Some(peer.ip().to_canonical())
    }

    /// How it is named on the command line of this program.
    pub fn shown(&self) -> String {
        match (&self.name, &self.file) {
            (Some(name), Some(file)) if file.parent() == Some(Path::new(DIRECTORY)) => name.clone(),
            (_, Some(file)) => format!("--config {}", file.display()),
            (Some(name), None) => name.clone(),
            (None, None) => "with the same options".to_owned(),
        }
    }

    fn find_running(&mut self, findings: &mut Vec<Finding>) {
        let Some(name) = &self.name else { return };
        match Instance::named(name).status() {
            Ok(status) => self.running = Some(status),
            Err(AskError::NotRunning { .. } | AskError::None) => {}
            Err(error @ AskError::Silent(_)) => {
                let cure = format!("systemctl restart simpletun@{name}");
                findings.push(Finding::fault("tunnel", error.to_string(), cure));
            }
            Err(error) => findings.push(Finding::note("tunnel", error.to_string())),
        }
    }

    /// The settings of the file with the options over them, or of the command line of the one that runs.
    fn read(&self, doctor: &Doctor) -> Result<Option<Options>, ConfigError> {
        let flags = doctor.options.clone();
        match (&self.file, self.pid()) {
            (Some(file), Some(pid)) if !file.exists() => Ok(of_process(pid)),
            (Some(file), _) => Ok(Some(Options::from_file(file)?.overlaid_with(flags))),
            (None, _) if flags != Options::default() => Ok(Some(flags)),
            (None, _) => Ok(None),
        }
    }

    fn judge_settings(&mut self, options: Options, findings: &mut Vec<Finding>) -> Result<(), ConfigError> {
        let keys = Keys { files: KeyFiles::from_environment().of_service(), unit: self.unit.as_ref() };
        let config = Config::new(&options, &resolve::service_port, &keys);
        let without_keys = || Config::new(&options.clone().without_protection(), &resolve::service_port, &keys);
        match config {
            Ok(config) => self.config = Some(config),
            Err(error) => match without_keys() {
                Ok(config) => {
                    findings.push(super::settings::bad_keys(self, &options, &error));
                    self.config = Some(config);
                }
                Err(_) if self.file.is_some() => findings.insert(0, super::settings::unusable(self, &error)),
                Err(_) => return Err(error),
            },
        }
        self.options = Some(options);
        Ok(())
    }
}

/// The options on the command line of a process of this program.
fn of_process(pid: u32) -> Option<Options> {
    use std::os::unix::ffi::OsStrExt as _;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = line.strip_suffix(&[0]).unwrap_or(&line).split(|byte| *byte == 0);
    let cli = Cli::from_arguments(words.map(|word| std::ffi::OsStr::from_bytes(word).to_owned())).ok()?;
    let Some(file) = cli.config else { return Some(cli.options) };
    let directory = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    Some(Options::from_file(&directory.join(file)).ok()?.overlaid_with(cli.options))
}

/// The files of keys, and the credentials that the unit of a service names.
struct Keys<'a> {
    files: KeyFiles,
    unit: Option<&'a Unit>,
}

impl KeySource for Keys<'_> {
    fn read(&self, file: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        self.files.read(file)
    }

    fn credential(&self, name: &str) -> Option<String> {
        let by_unit = || self.unit?.credentials.iter().find(|(id, _)| id == name).map(|(_, path)| path.clone());
        self.files.credential(name).or_else(by_unit)
    }

    fn state_directory(&self) -> Option<PathBuf> {
        self.files.state_directory()
    }
}

impl Doctor {
    /// The name that a service, a file or a running tunnel has.
    fn instance(&self) -> Option<String> {
        let stem = self.config.as_ref().and_then(|path| path.file_stem());
        self.name.clone().or_else(|| stem.map(|stem| stem.to_string_lossy().into_owned()))
    }

    /// The file: the one that is named, or the one of the service.
    fn file(&self) -> Option<PathBuf> {
        let of_service = || self.name.as_ref().map(|name| Path::new(DIRECTORY).join(format!("{name}.toml")));
        self.config.clone().or_else(of_service)
    }
}

/// The user whom the package makes for the service, if the package is installed.
pub fn service_user() -> Option<Account> {
    Account::named(SERVICE_USER)
}

/// Reads a small file of the kernel's, without the white space around it.
pub fn read_line(path: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}
