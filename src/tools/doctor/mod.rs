//! `doctor`: looks at all that a tunnel takes, and says for each what was found and the command that cures it.
//!
//! `subject` finds out which tunnel is meant. Each other file is a group of checks, which reads facts first and then
//! judges them in functions of their own, so that these know no system. Nothing is changed: the port is bound to and the
//! clone device opened for a moment, and no packet is sent beside the question for the peer's name.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Result;

use crate::config::Options;
use crate::memory;

mod clock;
mod command;
mod device;
mod finding;
mod firewall;
mod forward;
mod machine;
mod peer;
mod port;
mod routes;
mod ruleset;
mod settings;
mod subject;
mod unit;

pub use finding::{Finding, Verdict};
use subject::Subject;

/// Find out why a tunnel does not work.
#[derive(Clone, Debug, clap::Args)]
#[command(
    // The options of the tunnel are explained where they belong.
    mut_args(|argument| {
        let is_of_tunnel = argument.get_help_heading().is_some() || argument.is_hide_set();
        argument.hide(is_of_tunnel)
    }),
    after_help = "All options of the tunnel itself can be given, too: they override those of its file, or stand for one.\n\n\
                  Exit status: 0 no fault was found, 1 one was, 2 mistake in usage."
)]
pub struct Doctor {
    /// The tunnel: the name of its file in /etc/simpletun, or of one that runs [default: the tunnel of the options; without
    /// any, the machine]
    #[arg(value_name = "NAME", conflicts_with = "config")]
    name: Option<String>,

    /// Take the settings from this file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print JSON: the findings, each with its check, its verdict (ok, note, warn or fail), what was found and the cure
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    options: Options,
}

impl Doctor {
    /// Looks, prints what was found, and returns the worst of it.
    ///
    /// # Errors
    /// The options are wrong (a [`ConfigError`](crate::config::ConfigError)), or nobody reads the answer.
    pub fn run(&self) -> Result<Verdict> {
        memory::protect()?;
        let (subject, mut findings) = Subject::new(self)?;
        findings.extend(examine(&subject));
        let text = if self.json { finding::json(&findings) } else { finding::text(&findings) };
        io::stdout().write_all(text.as_bytes())?;
        Ok(finding::worst(&findings))
    }
}

/// Every check, in the order in which a tunnel needs what they look at.
fn examine(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    for check in [
        settings::check,
        settings::keys,
        running,
        machine::check,
        machine::capabilities,
        device::check,
        peer::check,
        port::check,
        firewall::check,
        forward::check,
        clock::check,
        unit::check,
        unit::leftovers,
    ] {
        findings.extend(check(subject));
    }
    findings
}

/// How the tunnel is, if it runs.
fn running(subject: &Subject) -> Vec<Finding> {
    const CHECK: &str = "tunnel";
    if let Some(status) = &subject.running {
        let link = &status.report.link;
        let found = format!("process {} runs, the link is {}", status.pid, link.state);
        let why = link.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let finding = Finding::ok(CHECK, found + &why);
        let verdict = if link.state == "up" { Verdict::Ok } else { Verdict::Note };
        return vec![Finding { verdict, ..finding }];
    }
    subject.config.iter().map(|_| Finding::note(CHECK, "it does not run")).collect()
}

/// The command that gives a unit more settings.
fn drop_in(unit: &str, file: &str, lines: &[&str]) -> String {
    let name = unit.trim_end_matches(".service");
    let directory = format!("/etc/systemd/system/{name}.service.d");
    format!(
        "mkdir -p {directory} && printf '[Service]\\n{}\\n' > {directory}/{file}.conf && systemctl daemon-reload && \
         systemctl restart {name}",
        lines.join("\\n")
    )
}
