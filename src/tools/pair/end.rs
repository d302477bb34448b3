//! `pair-end`: what `pair USER@HOST` has done at an end, here or on another host.
//!
//! It answers requests, and is not trusted with more than its caller: who starts it is root, or becomes it by sudo(8). It
//! undoes what it has done when its input ends too early, whatever the reason: a signal, a cable, a failure of the other end.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::unistd::{User, geteuid};
use zeroize::Zeroizing;

use super::files::{DIRECTORY, File, check, key_file};
use super::settings::{self, Protection};
use super::wire::{Answer, FORM, Interrupt, Request, TICK, line, lines, shown};
use super::write::{Installed, install};
use crate::config::key_file::SERVICE_USER;
use crate::device::netlink::Netlink;
use crate::tools::keys::random;
use crate::tools::status::ask::Instance;
use crate::tunnel::keys::PrivateKey;

/// Where systemd is at work (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// Lines of the log that are told when a service does not start.
const LOG_LINES: &str = "4";

/// How often a program is run that a signal ends.
const ATTEMPTS: usize = 3;

/// The half of pair that works at one end.
#[derive(Clone, Debug, Args)]
pub struct PairEnd {}

impl PairEnd {
    /// Serves until its input ends.
    ///
    /// # Errors
    /// It cannot become root. Whatever else fails is an answer.
    pub fn run(&self) -> Result<()> {
        if !geteuid().is_root() {
            answer(&Answer::Raising)?;
            let program = std::env::current_exe().context("Cannot find this program")?;
            let failure = Command::new("sudo").arg("-n").arg(program).arg("pair-end").exec();
            return Err(failure).context("Cannot start sudo");
        }
        // The end of the input says the same, and nothing is cut short.
        let _ignored = Interrupt::new()?;
        if !Path::new(SYSTEMD).is_dir() {
            return answer(&Answer::Refused(
                "there is no systemd that starts the tunnel: run simpletun pair NAME --server HOST and bring the files into \
                 place by hand"
                    .to_owned(),
            ));
        }
        answer(&Answer::Hello { program: env!("CARGO_PKG_VERSION").to_owned(), form: FORM })?;
        let requests = lines(io::stdin());
        let mut end = End::default();
        if end.serve(&requests) == Outcome::Keep {
            return Ok(());
        }
        let left = end.undo();
        // Nobody may be there to read it.
        let _ = answer(&Answer::Undone(left));
        Ok(())
    }
}

fn answer(answer: &Answer) -> Result<()> {
    let line = line(answer)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line).and_then(|()| stdout.flush()).context("Cannot answer")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Keep,
    Undo,
}

/// What has been done so far.
#[derive(Default)]
struct End {
    prepared: Option<(String, Protection)>,
    key: Option<PrivateKey>,
    installed: Option<Installed>,
    is_started: bool,
}

impl End {
    fn serve(&mut self, requests: &Receiver<Zeroizing<Vec<u8>>>) -> Outcome {
        while let Ok(line) = requests.recv() {
            let done = match serde_json::from_slice(&line) {
                Ok(Request::Wait { seconds }) => self.wait(seconds, requests),
                Ok(request) => self.carry_out(&request),
                Err(_) => return Outcome::Undo,
            };
            let is_last =
                matches!(done, Ok(Answer::Done)) && matches!(serde_json::from_slice(&line), Ok(Request::Keep));
            let said = done.unwrap_or_else(|error| Answer::Refused(format!("{error:#}")));
            match answer(&said) {
                Ok(()) if is_last => return Outcome::Keep,
                Ok(()) => {}
                Err(_) => return Outcome::Undo,
            }
        }
        Outcome::Undo
    }

    fn carry_out(&mut self, request: &Request) -> Result<Answer> {
        match request {
            Request::Prepare { name, protection } => self.prepare(name, *protection),
            Request::Install { configuration, secret } => self.install(configuration, secret),
            Request::Start => self.start(),
            Request::Keep if self.is_started => Ok(Answer::Done),
            Request::Keep | Request::Wait { .. } => bail!("asked too early"),
        }
    }

    /// Only what is free is taken, and nothing is overwritten later.
    fn prepare(&mut self, name: &str, protection: Protection) -> Result<Answer> {
        let name = settings::name(name)?;
        if User::from_name(SERVICE_USER)?.is_none() {
            bail!("there is no user {SERVICE_USER}, as whom the service runs: install the package");
        }
        for extension in ["toml", "key", "psk", "secret"] {
            let path = Path::new(DIRECTORY).join(format!("{name}.{extension}"));
            if fs::symlink_metadata(&path).is_ok() {
                bail!(
                    "{} exists already, and nothing is overwritten: choose another name for the tunnel",
                    path.display()
                );
            }
        }
        if Netlink::open()?.link(&name).is_ok() {
            bail!("there is a device {name} already: choose another name for the tunnel");
        }
        systemctl(&["cat", &unit(&name)]).context("the unit simpletun@.service is missing: install the package")?;
        self.key = match protection {
            Protection::Keys => Some(PrivateKey::from_bytes(*random()?)),
            Protection::Secret => None,
        };
        self.prepared = Some((name, protection));
        Ok(Answer::Key(self.key.as_ref().map(|key| key.public().to_string())))
    }

    fn install(&mut self, configuration: &str, secret: &str) -> Result<Answer> {
        let (Some((name, protection)), None) = (&self.prepared, &self.installed) else { bail!("asked too early") };
        let file = |extension: &str, content: &str| File {
            name: format!("{name}.{extension}"),
            content: Zeroizing::new(content.to_owned()),
        };
        let mut files = vec![file("toml", configuration)];
        files.extend(self.key.as_ref().map(|key| key_file(name, key)));
        files.push(file(protection.extension(), secret));
        check(&files)?;
        self.installed = Some(install(Path::new(DIRECTORY), &files, SERVICE_USER)?);
        Ok(Answer::Done)
    }

    fn start(&mut self) -> Result<Answer> {
        let (Some((name, _)), Some(_)) = (&self.prepared, &self.installed) else { bail!("asked too early") };
        self.is_started = true;
        let unit = unit(name);
        systemctl(&["--quiet", "enable", "--now", &unit]).map_err(|error| {
            let arguments = ["--unit", &unit, "--lines", LOG_LINES, "--output", "cat", "--no-pager", "--quiet"];
            let log = run("journalctl", &arguments).unwrap_or_default();
            error.context(format!("the service {unit} does not start ({})", shown(&log)))
        })?;
        Ok(Answer::Done)
    }

    /// Ends early if anything comes meanwhile, the end of the input above all.
    fn wait(&self, seconds: u32, requests: &Receiver<Zeroizing<Vec<u8>>>) -> Result<Answer> {
        let (Some((name, _)), true) = (&self.prepared, self.is_started) else { bail!("asked too early") };
        let mut state = String::new();
        for _ in 0..seconds.saturating_mul(4) {
            state = match Instance::named(name).status() {
                Ok(status) if status.report.link.state == "up" => return Ok(Answer::Done),
                Ok(status) => format!("is {}", status.report.link.state),
                Err(error) => format!("cannot be asked: {error}"),
            };
            if requests.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                bail!("interrupted");
            }
        }
        bail!("the link {state} after {seconds} seconds")
    }

    /// Takes everything back, in reverse order; what could not be.
    fn undo(self) -> Vec<String> {
        let mut left = Vec::new();
        if let (true, Some((name, _))) = (self.is_started, &self.prepared) {
            let unit = unit(name);
            left.extend(systemctl(&["--quiet", "disable", "--now", &unit]).err().map(|error| format!("{error:#}")));
            // Neither is there if it has never run.
            let _ = systemctl(&["reset-failed", &unit]);
            let _ = systemctl(&["clean", "--what=state", &unit]);
        }
        left.extend(self.installed.map(Installed::remove).unwrap_or_default());
        left
    }
}

fn unit(name: &str) -> String {
    format!("simpletun@{name}.service")
}

fn systemctl(arguments: &[&str]) -> Result<()> {
    run("systemctl", arguments).map(drop)
}

/// Runs a program to its end; its standard output. A signal that is for all of a terminal's or a service's processes would
/// end it in the middle: it is in a group of its own, and begun again.
fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    for _ in 0..ATTEMPTS {
        let output = command.output().with_context(|| format!("cannot start {program}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        if output.status.signal().is_none() {
            bail!("{program} {}: {}", arguments.join(" "), shown(&String::from_utf8_lossy(&output.stderr)));
        }
    }
    bail!("{program} {} is ended by signals", arguments.join(" "))
}
