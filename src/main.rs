//! The program: arguments, logger, exit status.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use log::LevelFilter;
use simpletun::cli::{Cli, Refusal, Request, Tool};
use simpletun::config::{Config, ConfigError, KeyFiles, Options};
use simpletun::helper::{self, client::HelperKeys, serve::Helper};
use simpletun::privileges::Reach;
use simpletun::tools::doctor::Verdict;
use simpletun::tools::pair::invite::{Invitation, Output};
use simpletun::tools::relatives;
use simpletun::{daemon, logging, memory, tools, transport};

/// How the program ends. The numbers are documented in the help text and the README.
enum Exit {
    /// It did what it was asked for.
    Success = 0,
    /// It failed at run time.
    Failure = 1,
    /// Usage or configuration are wrong.
    Usage = 2,
    /// The same of `check`, for which 2 says that a tunnel does not work.
    Unknown = 3,
}

impl Exit {
    fn of_mistake(arguments: &[OsString]) -> Self {
        if relatives::is_tunctl(arguments.first()) || relatives::is_openvpn(arguments) {
            // As both of them end.
            return Self::Failure;
        }
        if arguments.get(1).is_some_and(|tool| tool == "check") { Self::Unknown } else { Self::Usage }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let request = match Request::from_arguments(&arguments) {
        Ok(request) => request,
        Err(Refusal::Print(text)) => return print(&text).into(),
        Err(Refusal::Usage(sentence)) => return complain(&sentence, Exit::of_mistake(&arguments)).into(),
    };
    let result = match &request {
        Request::Tunctl(tunctl) => tunctl.run(),
        Request::OpenVpn(openvpn) => openvpn.run(),
        Request::Own(cli) => match &cli.tool {
            Some(Tool::Mktun(mktun)) => mktun.run(),
            Some(Tool::Rmtun(rmtun)) => rmtun.run(),
            Some(Tool::Status(status)) => status.run(),
            Some(Tool::Check(check)) => return ExitCode::from(check.run() as u8),
            Some(Tool::Doctor(doctor)) => match doctor.run() {
                Ok(Verdict::Fault) => return Exit::Failure.into(),
                other => other.map(drop),
            },
            Some(Tool::Test(test)) => test.run(),
            Some(Tool::List(list)) => list.run(),
            Some(Tool::Dump(dump)) => dump.run(),
            Some(Tool::Echo(echo)) => echo.run(),
            Some(Tool::Cleanup(cleanup)) => cleanup.run(),
            Some(Tool::Helper(helper)) => run_helper(helper),
            Some(Tool::Pair(pair)) => protected(|| pair.run()),
            Some(Tool::PairEnd(end)) => protected(|| end.run()),
            Some(Tool::Genkey) => protected(tools::keys::genkey),
            Some(Tool::Genpsk) => protected(tools::keys::genpsk),
            Some(Tool::Pubkey) => protected(tools::keys::pubkey),
            None => tunnel(cli),
        },
    };
    match result {
        Ok(()) => Exit::Success.into(),
        Err(error) if error.is::<ConfigError>() => complain(&format!("{error}"), Exit::of_mistake(&arguments)).into(),
        Err(error) => complain(&format!("{error:#}"), Exit::Failure).into(),
    }
}

/// Runs a tool that has a key in its memory.
fn protected(tool: impl FnOnce() -> Result<()>) -> Result<()> {
    memory::protect()?;
    tool()
}

fn tunnel(cli: &Cli) -> Result<()> {
    let keys = KeyFiles::from_environment();
    let keys = if cli.check_config { keys.of_service() } else { keys };
    let invitation = cli.pair.map(invitation).transpose()?;
    let keys = match &invitation {
        Some(invitation) => keys.with_standard_input(invitation.key()),
        None => keys,
    };
    let source = Source { cli, keys, text: OnceCell::new() };
    let config = source.read()?;
    if cli.check_config {
        let _ = print("The configuration is valid\n");
        return Ok(());
    }
    if let Some(invitation) = invitation {
        invitation.print(&config)?;
    }
    logging::init(config.log_level, config.debug);
    daemon::run(config, &|| source.read(), source.reach()?)
}

/// The secret that `--pair` makes.
fn invitation(output: Output) -> Result<Invitation> {
    memory::protect()?;
    Invitation::new(output)
}

/// The half of the daemon that keeps the right to configure the network.
fn run_helper(helper: &Helper) -> Result<()> {
    memory::protect()?;
    let cli = helper.cli()?;
    logging::init(logging::shifted(LevelFilter::Info, cli.verbose, cli.quiet), false);
    helper.run(cli)
}

/// Where the settings come from: flags, a file, and the files of keys that these name.
struct Source<'a> {
    cli: &'a Cli,
    keys: KeyFiles,
    /// The text of a pipe, which can be read only once.
    text: OnceCell<String>,
}

impl Source<'_> {
    /// The settings of the file, if one was named, with the flags over them.
    fn options(&self) -> Result<Options, ConfigError> {
        let flags = self.cli.options.clone();
        if self.cli.pair.is_some() {
            return self.with_own_secret(flags);
        }
        let Some(path) = &self.cli.config else { return Ok(flags) };
        let name = path.display().to_string();
        if let Some(text) = self.text.get() {
            return Ok(Options::from_toml(text, &name)?.overlaid_with(flags));
        }
        // The helper may read what this process may not any more.
        if let Some(helper) = helper::client() {
            return Ok(Options::from_opened(path, helper.configuration())?.overlaid_with(flags));
        }
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
        let options = Options::from_toml(&text, &name)?.overlaid_with(flags);
        if !path.is_file() || ["/dev", "/proc"].iter().any(|own| path.starts_with(own)) {
            let _ = self.text.set(text);
        }
        Ok(options)
    }

    fn with_own_secret(&self, flags: Options) -> Result<Options, ConfigError> {
        if self.cli.config.is_some() {
            return Err(ConfigError::Combination(
                "Options pair and config cannot be used together: a file says by itself how its link is secured; give the \
                 settings as flags, or leave out pair"
                    .to_owned(),
            ));
        }
        flags.with_own_secret()
    }

    fn read(&self) -> Result<Config, ConfigError> {
        let options = self.options()?;
        if options.has_keys() {
            memory::protect().map_err(ConfigError::Memory)?;
        }
        let services = &transport::resolve::service_port;
        let mut config = match helper::client() {
            Some(client) => Config::new(&options, services, &HelperKeys { client, own: &self.keys }),
            None => Config::new(&options, services, &self.keys),
        }?;
        config.log_level = logging::shifted(config.log_level, self.cli.verbose, self.cli.quiet);
        config.control.instance = self.cli.instance();
        Ok(config)
    }

    /// What it takes to read it again.
    fn reach(&self) -> Result<Reach, ConfigError> {
        let mut reach = Reach { text: self.text.get().cloned(), ..Reach::default() };
        let options = self.options()?;
        let keys = options.key_files().into_iter().map(Path::new);
        self.cli.config.iter().map(PathBuf::as_path).chain(keys).for_each(|file| reach.add(file));
        reach.directories.extend(self.keys.credentials_directory());
        Ok(reach)
    }
}

/// Writes to standard output; a reader that has gone is no reason to panic.
fn print(text: &str) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Success,
        Err(_) => Exit::Failure,
    }
}

fn complain(sentence: &str, exit: Exit) -> Exit {
    // Nobody may be left to read it; the exit status says the same.
    let _ = writeln!(std::io::stderr(), "{sentence}");
    exit
}
