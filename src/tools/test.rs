//! `test`: what a running link carries from end to end, measured by its two daemons (`docs/STATUS.md`).

use std::io::{self, BufRead, BufReader, Write};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::status::ask::{self, Instance};
use super::status::view;
use crate::control::status::PathStatus;
use crate::control::testing::{LoadStatus, RoundTripStatus, TestLine};
use crate::tunnel::meter::MAX_TIME;

/// A line of the daemon is awaited for this time beside that of the load: pings and what comes behind a load take some.
const PATIENCE: Duration = Duration::from_secs(25);

/// The shortest load.
const MIN_TIME: Duration = Duration::from_millis(100);

/// Measure what a running link carries, to its peer and back.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Both ends need a version that has this, and the link has to be secure. Only root and the user of the \
                        daemon may. A load gives way to packets.\n\
                        Exit status: 0 measured, 1 not running, not permitted, or it cannot be measured, 2 mistake in \
                        usage."
)]
pub struct Test {
    /// The tunnel: the name of its configuration file or device, or the path of its control socket [default: the only one]
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Load each direction for this time, up to 10s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = time)]
    time: Duration,

    /// Send no faster than this, in bits a second, such as 20M [default: as fast as it goes]
    #[arg(long, value_name = "RATE", value_parser = kbit)]
    rate: Option<u32>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All that was found out.
#[derive(Debug, Serialize)]
struct Whole<'a> {
    instance: &'a str,
    #[serde(flatten)]
    line: TestLine,
    path: PathStatus,
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let is_legal = (MIN_TIME..=MAX_TIME).contains(&time);
    if is_legal { Ok(time) } else { Err("it must be from 100ms to 10s".to_owned()) }
}

/// `20M` or `20000000` bits a second as kbit/s.
fn kbit(text: &str) -> Result<u32, String> {
    let (digits, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'M')) => (&text[..at], 1e6),
        Some((at, 'G')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let bits = digits.parse::<f64>().ok().map(|number| number * factor);
    let kbit = bits.filter(|bits| (1e3..=1e12).contains(bits)).map(|bits| (bits / 1e3) as u32);
    kbit.ok_or_else(|| "it must be a number of bits a second such as 500k, 20M or 1G".to_owned())
}

impl Test {
    /// Measures, and says each result as it comes, or all of them as JSON in the end.
    ///
    /// # Errors
    /// The tunnel does not run, may not be asked, or cannot be measured.
    pub fn run(&self) -> Result<()> {
        let instance = ask::only(self.name.as_deref())?;
        let result = self.measure(&instance);
        // The path MTU may have been found during the load.
        let path = instance.status().map(|status| status.report.path);
        let line = result?;
        let path = path?;
        if self.json {
            let whole = Whole { instance: instance.name(), line, path };
            return say(&serde_json::to_string_pretty(&whole)?);
        }
        say(&format!("{:<14} {}", "path", view::lengths(&path).join(", ")))
    }

    fn measure(&self, instance: &Instance) -> Result<TestLine> {
        let (ms, kbit) = (self.time.as_millis(), self.rate.unwrap_or_default());
        let stream = instance.request(&format!("test {ms} {kbit}"))?;
        stream.set_read_timeout(Some(self.time + PATIENCE))?;
        let (mut reader, mut whole) = (BufReader::new(stream), TestLine::default());
        while !whole.is_last() {
            let mut text = String::new();
            if reader.read_line(&mut text).map_err(|error| instance.sort(error))? == 0 {
                bail!("The tunnel {} has ended, or its link was opened anew", instance.name());
            }
            let line = instance.value(&text)?;
            let line: TestLine = serde_json::from_value(line).map_err(|error| instance.sort(error.into()))?;
            if !self.json {
                describe(&line).iter().try_for_each(|text| say(text))?;
            }
            whole.merge(line);
        }
        match whole.failed {
            Some(sentence) => bail!(sentence),
            None => Ok(whole),
        }
    }
}

fn say(text: &str) -> Result<()> {
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

/// What a line says, for people.
fn describe(line: &TestLine) -> Vec<String> {
    let trip = line.round_trip.as_ref().map(round_trip_text);
    let download = line.download.as_ref().map(|load| load_text("from the peer", load));
    let upload = line.upload.as_ref().map(|load| load_text("to the peer", load));
    [trip, download, upload].into_iter().flatten().collect()
}

fn round_trip_text(trip: &RoundTripStatus) -> String {
    format!(
        "{:<14} {} (min {}, median {}, 95 % {}, max {}), jitter {}, loss {} of {} pings",
        "round trip",
        view::rtt(trip.mean_seconds),
        view::rtt(trip.min_seconds),
        view::rtt(trip.median_seconds),
        view::rtt(trip.p95_seconds),
        view::rtt(trip.max_seconds),
        view::rtt(trip.jitter_seconds),
        view::percent(trip.loss),
        trip.sent
    )
}

fn load_text(direction: &str, load: &LoadStatus) -> String {
    format!(
        "{direction:<14} {}, {} in {} messages, loss {}, {} out of order",
        view::bits(load.bits_per_second as f64 / 8.0),
        view::bytes(load.bytes),
        load.received,
        view::percent(load.loss),
        load.reordered
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_times_are_read_within_limits() {
        for (text, expected) in [("20M", 20_000), ("500k", 500), ("1.5G", 1_500_000), ("64000", 64)] {
            assert_eq!(kbit(text), Ok(expected), "{text}");
        }
        for wrong in ["", "M", "-1M", "1", "1e30", "20 M", "20Mbit", "NaN"] {
            assert!(kbit(wrong).is_err(), "{wrong}");
        }
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert!(time("11s").is_err() && time("1ms").is_err() && time("soon").is_err());
    }

    #[test]
    fn results_are_said_in_a_line_each() {
        let load = LoadStatus {
            bits_per_second: 19_200_000,
            bytes: 4 << 20,
            sent: 3000,
            received: 2970,
            loss: 0.01,
            reordered: 3,
        };
        let trip = RoundTripStatus { sent: 20, mean_seconds: 0.0402, ..RoundTripStatus::default() };
        let line = TestLine { round_trip: Some(trip), upload: Some(load), ..TestLine::default() };
        let said = describe(&line);
        assert!(
            said[0].starts_with("round trip     40.2 ms (min ") && said[0].ends_with("0.0% of 20 pings"),
            "{said:?}"
        );
        let expected = "to the peer    19.2 Mbit/s, 4.0 MiB in 2970 messages, loss 1.0%, 3 out of order";
        assert_eq!(said[1], expected);
        assert!(describe(&TestLine::default()).is_empty());
    }
}
