//! `status`: how the tunnels of this host are, for people, for programs, and as a view that stays.
//!
//! `ask` talks to the daemons, `view` puts their answers into words, `rates` makes speeds of two answers, `live` fills a
//! terminal.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::control::metrics;
use crate::control::status::Status as Answer;

pub mod ask;
mod live;
pub mod rates;
pub mod view;

use ask::Instance;
use rates::Rates;

/// Show how running tunnels are.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Exit status: 0 shown, 1 not running or not permitted, 2 mistake in usage.\n\
                        docs/STATUS.md describes the JSON schema and the metrics.")]
pub struct Status {
    /// The tunnel: the name of its configuration file or device, or the path of its control socket [default: all]
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Print JSON: an object if NAME is given, otherwise an array
    #[arg(long, conflicts_with_all = ["openmetrics", "watch"])]
    json: bool,

    /// Print metrics in the OpenMetrics text format, for the textfile collector
    #[arg(long, conflicts_with = "watch")]
    openmetrics: bool,

    /// Stay and show rates: fills a terminal until q is pressed, otherwise prints a line a second
    #[arg(long)]
    watch: bool,
}

impl Status {
    /// Shows what was asked for.
    ///
    /// # Errors
    /// The tunnel that was named does not run or may not be asked, or there are none or several where one is needed.
    pub fn run(&self) -> Result<()> {
        if self.watch {
            let instance = ask::only(self.name.as_deref())?;
            return if io::stdout().is_terminal() { live::run(instance) } else { lines(&instance) };
        }
        let text = match &self.name {
            Some(name) => {
                let status = Instance::named(name).status()?;
                if self.json { json(&status)? } else { self.text(&[status]) }
            }
            None => {
                let statuses = self.all()?;
                if self.json { json(&statuses)? } else { self.text(&statuses) }
            }
        };
        print(&text)
    }

    fn text(&self, statuses: &[Answer]) -> String {
        if self.openmetrics {
            return metrics::text(statuses);
        }
        statuses.iter().map(view::human).collect::<Vec<_>>().join("\n")
    }

    /// All that answer; who does not is complained about.
    fn all(&self) -> Result<Vec<Answer>> {
        let instances = ask::instances();
        let (mut statuses, mut failures) = (Vec::new(), Vec::new());
        for instance in &instances {
            match instance.status() {
                Ok(status) => statuses.push(status),
                // A socket that was left behind is no tunnel.
                Err(ask::AskError::NotRunning { .. }) => {}
                Err(failure) => failures.push(failure),
            }
        }
        match failures.pop() {
            Some(failure) if statuses.is_empty() => return Err(failure.into()),
            Some(failure) => failures.push(failure),
            // Programs are given an empty list instead.
            None if statuses.is_empty() && !self.json && !self.openmetrics => bail!("No tunnel is running"),
            None => {}
        }
        for failure in failures {
            let _ = writeln!(io::stderr(), "{failure}");
        }
        Ok(statuses)
    }
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn print(text: &str) -> Result<()> {
    io::stdout().write_all(text.as_bytes()).context("Cannot write to standard output")
}

/// A line for each answer, until the daemon or the reader goes.
fn lines(instance: &Instance) -> Result<()> {
    let mut before: Option<Answer> = None;
    for status in instance.watch()? {
        let status = status?;
        let rates = before.as_ref().map(|before| Rates::between(before, &status)).unwrap_or_default();
        if writeln!(io::stdout(), "{}", view::line(&status, &rates)).is_err() {
            return Ok(());
        }
        before = Some(status);
    }
    bail!("The tunnel {} has ended", instance.name())
}
