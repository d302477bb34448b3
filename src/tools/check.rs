//! `check`: one line and an exit status for monitoring (the guidelines for plugins of Nagios and its successors).

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use clap::Args;

use super::status::ask::{self, AskError};
use super::status::view;
use crate::control::status::Status;

/// What monitoring is told; the numbers are the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// All is well.
    Ok = 0,
    /// It works, and somebody should look at it.
    Warning = 1,
    /// It does not work.
    Critical = 2,
    /// There is no telling.
    Unknown = 3,
}

/// Check a tunnel for monitoring.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit status: 0 OK, the peer is there; 1 warning: interrupted, or a limit is passed; 2 critical: no \
                        peer, a loop that stops it, not running, no answer, or a limit is passed; 3 unknown: plain UDP from which nothing has \
                        come, not permitted, or a mistake in usage."
)]
pub struct Check {
    /// The tunnel: the name of its configuration file or device, or the path of its control socket [default: the only one]
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Warn from this round trip on, such as 100ms
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    rtt_warn: Option<Duration>,

    /// Critical from this round trip on
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    rtt_crit: Option<Duration>,

    /// Warn from this loss on, in percent of the peer's messages in the last minute
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    loss_warn: Option<f64>,

    /// Critical from this loss on
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    loss_crit: Option<f64>,
}

fn percentage(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse::<f64>().ok();
    number.filter(|number| (0.0..=100.0).contains(number)).ok_or_else(|| "it must be from 0 to 100".to_owned())
}

impl Check {
    /// Prints the line; the exit status is returned.
    pub fn run(&self) -> Verdict {
        let answer = ask::only(self.name.as_deref()).and_then(|instance| instance.status());
        let (verdict, text) = match answer {
            Ok(status) => self.judge(&status),
            Err(error) => {
                let verdict = match error {
                    AskError::NotRunning { .. } | AskError::None | AskError::Silent(_) => Verdict::Critical,
                    AskError::NotPermitted { .. }
                    | AskError::Several(_)
                    | AskError::Refused { .. }
                    | AskError::Io { .. } => Verdict::Unknown,
                };
                (verdict, error.to_string())
            }
        };
        // The exit status says the same to who does not read.
        let _ = writeln!(io::stdout(), "SIMPLETUN {} - {text}", verdict.word());
        verdict
    }

    fn judge(&self, status: &Status) -> (Verdict, String) {
        let report = &status.report;
        let is_held = report.segment.as_ref().is_some_and(|segment| segment.held.is_some());
        let by_state = match report.link.state.as_str() {
            "up" if is_held => Verdict::Critical,
            "up" => Verdict::Ok,
            "interrupted" => Verdict::Warning,
            "waiting" | "connecting" | "down" => Verdict::Critical,
            _ => Verdict::Unknown,
        };
        let rtt = report
            .rtt_seconds
            .map(|seconds| (seconds * 1e3, "ms", milliseconds(self.rtt_warn), milliseconds(self.rtt_crit)));
        let loss = report.loss.map(|loss| (loss.recent * 100.0, "%", self.loss_warn, self.loss_crit));
        let mut verdict = by_state;
        let mut text = format!("{} {}", status.instance, view::state(status));
        let mut data = String::new();
        for (name, value) in [("rtt", rtt), ("loss", loss)] {
            let Some((value, unit, warn, crit)) = value else { continue };
            // What was measured while the peer was there says nothing once it is gone.
            if by_state <= Verdict::Warning {
                verdict = verdict.max(exceeds(value, warn, crit));
                let _ = write!(text, ", {name} {value:.1}{}{unit}", if unit == "%" { "" } else { " " });
            }
            let limit = |limit: Option<f64>| limit.map(|limit| limit.to_string()).unwrap_or_default();
            let _ = write!(data, " {name}={value:.3}{unit};{};{};0;", limit(warn), limit(crit));
        }
        let traffic = &report.traffic;
        let (received, sent) = (traffic.network_received.bytes, traffic.network_sent.bytes);
        let (dropped, reconnects) = (status.dropped(), report.counts.reconnects);
        let _ = write!(data, " received={received}B;;;0; sent={sent}B;;;0;");
        let _ = write!(data, " dropped={dropped}c;;;0; reconnects={reconnects}c;;;0;");
        (verdict, format!("{text} |{data}"))
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

fn milliseconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64() * 1e3)
}

fn exceeds(value: f64, warn: Option<f64>, crit: Option<f64>) -> Verdict {
    let passes = |limit: Option<f64>| limit.is_some_and(|limit| value >= limit);
    match (passes(warn), passes(crit)) {
        (_, true) => Verdict::Critical,
        (true, false) => Verdict::Warning,
        (false, false) => Verdict::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Check = Check { name: None, rtt_warn: None, rtt_crit: None, loss_warn: None, loss_crit: None };

    fn verdict(check: &Check, change: fn(&mut Status)) -> Verdict {
        let mut status = Status::example();
        change(&mut status);
        check.judge(&status).0
    }

    #[test]
    fn the_line_has_the_data_behind_a_bar_with_its_limits() {
        let check = Check { rtt_warn: Some(Duration::from_millis(100)), loss_crit: Some(2.5), ..NONE };
        let (verdict, text) = check.judge(&Status::example());
        assert_eq!(verdict, Verdict::Ok);
        assert_eq!(
            text,
            "site-a up for 12s, rtt 12.3 ms, loss 0.4% | rtt=12.300ms;100;;0; loss=0.400%;;2.5;0; \
             received=3400100B;;;0; sent=1190000B;;;0; dropped=51c;;;0; reconnects=1c;;;0;"
        );
    }

    #[test]
    fn each_state_has_its_verdict() {
        assert_eq!(verdict(&NONE, |_| {}), Verdict::Ok);
        assert_eq!(verdict(&NONE, |status| status.report.link.state = "interrupted".into()), Verdict::Warning);
        for state in ["waiting", "connecting", "down"] {
            let mut status = Status::example();
            status.report.link.state = state.into();
            assert_eq!(NONE.judge(&status).0, Verdict::Critical, "{state}");
        }
        let held = |status: &mut Status| status.report.segment.as_mut().unwrap().held = Some("peer".to_owned());
        assert_eq!(verdict(&NONE, held), Verdict::Critical, "nothing is forwarded");
        assert_eq!(verdict(&NONE, |status| status.report.link.state = "unknown".into()), Verdict::Unknown);
        assert_eq!(verdict(&NONE, |status| status.report.link.state = "novel".into()), Verdict::Unknown);
    }

    #[test]
    fn limits_count_from_their_value_on_while_the_peer_is_there() {
        let ms = Duration::from_micros;
        let check = |warn, crit| Check { rtt_warn: Some(ms(warn)), rtt_crit: Some(ms(crit)), ..NONE };
        assert_eq!(verdict(&check(12_301, 12_302), |_| {}), Verdict::Ok);
        assert_eq!(verdict(&check(12_300, 12_301), |_| {}), Verdict::Warning);
        assert_eq!(verdict(&check(12_300, 12_300), |_| {}), Verdict::Critical);
        let loss = Check { loss_warn: Some(0.4), ..NONE };
        assert_eq!(verdict(&loss, |_| {}), Verdict::Warning);
        assert_eq!(verdict(&loss, |status| status.report.loss = None), Verdict::Ok);
        assert_eq!(verdict(&loss, |status| status.report.link.state = "unknown".into()), Verdict::Unknown);
    }

    #[test]
    fn a_percentage_is_a_number_with_or_without_its_sign() {
        assert_eq!((percentage("2.5"), percentage("100%")), (Ok(2.5), Ok(100.0)));
        for wrong in ["-1", "101", "NaN", "", "x"] {
            assert!(percentage(wrong).is_err(), "{wrong}");
        }
    }
}
