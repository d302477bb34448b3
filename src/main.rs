//! The program: arguments, logger, exit status.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use simpletun::cli::{Cli, Refusal, Request, Tool};
use simpletun::config::{Config, ConfigError, KeyFiles, Options};
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
            Some(Tool::List(list)) => list.run(),
            Some(Tool::Dump(dump)) => dump.run(),
            Some(Tool::Echo(echo)) => echo.run(),
            Some(Tool::Genkey) => protected(tools::keys::genkey),
            Some(Tool::Genpsk) => protected(tools::keys::genpsk),
            Some(Tool::Pubkey) => protected(tools::keys::pubkey),
            None => tunnel(cli),
        },
    };
    match result {
        Ok(()) => Exit::Success.into(),
        Err(error) if error.is::<ConfigError>() => complain(&format!("{error}"), Exit::Usage).into(),
        Err(error) => complain(&format!("{error:#}"), Exit::Failure).into(),
    }
}

/// Runs a tool that has a key in its memory.
fn protected(tool: fn() -> Result<()>) -> Result<()> {
    memory::protect()?;
    tool()
}

fn tunnel(cli: &Cli) -> Result<()> {
    let keys = KeyFiles::from_environment();
    let read = || read_config(cli, &keys);
    let config = read()?;
    if cli.check_config {
        let _ = print("The configuration is valid\n");
        return Ok(());
    }
    logging::init(config.log_level, config.debug);
    daemon::run(config, &read)
}

/// The settings of the file, if one was named, with the flags over them.
fn read_config(cli: &Cli, keys: &KeyFiles) -> Result<Config, ConfigError> {
    let flags = cli.options.clone();
    let options = match &cli.config {
        Some(path) => Options::from_file(path)?.overlaid_with(flags),
        None => flags,
    };
    if options.has_keys() {
        memory::protect().map_err(ConfigError::Memory)?;
    }
    let mut config = Config::new(&options, &transport::resolve::service_port, keys)?;
    config.log_level = logging::shifted(config.log_level, cli.verbose, cli.quiet);
    let stem = cli.config.as_ref().and_then(|path| path.file_stem());
    config.control.instance = stem.map(|stem| stem.to_string_lossy().into_owned());
    Ok(config)
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
