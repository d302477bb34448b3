//! The logger: lines on standard error; under the journal with a priority in front and without a time.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use env_logger::{Builder, Logger, Target};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::relay::WIRE_LOG;

const LEVELS: [LevelFilter; 5] =
    [LevelFilter::Error, LevelFilter::Warn, LevelFilter::Info, LevelFilter::Debug, LevelFilter::Trace];

/// The level in force, as the number of its place among [`LEVELS`].
static PLACE: AtomicUsize = AtomicUsize::new(2);

/// The original's lines are printed.
static WIRE: AtomicBool = AtomicBool::new(false);

/// The level that is `more` above and `less` below another one, as far as there are any.
pub fn shifted(level: LevelFilter, more: u8, less: u8) -> LevelFilter {
    LEVELS[(place(level) + usize::from(more)).saturating_sub(usize::from(less)).min(LEVELS.len() - 1)]
}

/// Installs the logger, which says what is at `level` and, if `wire` is set, the original's lines. A second call only
/// sets the level.
pub fn init(level: LevelFilter, wire: bool) {
    let journal = writes_to_journal();
    let mut builder = Builder::new();
    builder.filter_level(LevelFilter::Trace).target(Target::Stderr);
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
    let _ = log::set_boxed_logger(Box::new(Leveled(builder.build())));
    WIRE.store(wire, Ordering::Relaxed);
    set_level(level);
}

/// Says more or less from now on.
pub fn set_level(level: LevelFilter) {
    PLACE.store(place(level), Ordering::Relaxed);
    let for_wire = if WIRE.load(Ordering::Relaxed) { LevelFilter::Debug } else { LevelFilter::Off };
    // Whoever says more than that is not even asked what.
    log::set_max_level(level.max(for_wire));
}

fn place(level: LevelFilter) -> usize {
    LEVELS.iter().position(|other| *other == level).unwrap_or_default()
}

/// The logger, with a level that can change.
struct Leveled(Logger);

impl Log for Leveled {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.target() == WIRE_LOG {
            return WIRE.load(Ordering::Relaxed);
        }
        LEVELS.get(PLACE.load(Ordering::Relaxed)).is_some_and(|level| metadata.level() <= *level)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
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
