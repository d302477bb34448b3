//! The logger: lines on standard error; under the journal with a priority in front and without a time.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use env_logger::{Builder, Target};
use log::{Level, LevelFilter};

use crate::relay::WIRE_LOG;

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verbosity {
    /// Times that more was asked for.
    pub more: u8,
    /// Times that less was asked for.
    pub less: u8,
    /// Print the original's lines.
    pub wire: bool,
}

impl Verbosity {
    fn level(self) -> LevelFilter {
        match i16::from(self.more) - i16::from(self.less) {
            ..=-2 => LevelFilter::Error,
            -1 => LevelFilter::Warn,
            0 => LevelFilter::Info,
            1 => LevelFilter::Debug,
            2.. => LevelFilter::Trace,
        }
    }
}

/// Installs the logger; a second call changes nothing.
pub fn init(verbosity: Verbosity) {
    let journal = writes_to_journal();
    let wire = if verbosity.wire { LevelFilter::Debug } else { LevelFilter::Off };
    let mut builder = Builder::new();
    builder.filter_level(verbosity.level()).filter_module(WIRE_LOG, wire).target(Target::Stderr);
    builder.format(move |out, record| {
        if record.target() == WIRE_LOG {
            writeln!(out, "{}", record.args())
        } else if journal {
            writeln!(out, "<{}>{}", priority(record.level()), record.args())
        } else {
            writeln!(out, "{} {:5} {}", out.timestamp_seconds(), record.level(), record.args())
        }
    });
    // A logger that is installed already stays.
    let _ = builder.try_init();
}

/// Priorities of syslog(3), which sd-daemon(3) reads from the start of a line.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// True if standard error is the stream that systemd has connected to the journal (`JOURNAL_STREAM`, systemd.exec(5)).
fn writes_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
}
