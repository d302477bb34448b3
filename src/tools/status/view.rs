//! The status in words for people. Pure.

use std::fmt::Write as _;

use super::rates::Rates;
use crate::control::status::{PathStatus, Status};

/// The compact view of one tunnel, of several lines.
pub fn human(status: &Status) -> String {
    let report = &status.report;
    let mut text = format!("{} {}\n", status.instance, state(status));
    let mut row = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    row("device", device(status));
    row("peer", peer(status));
    row("security", security(status));
    row("path", path(status));
    let traffic = &report.traffic;
    row("received", format!("{} packets, {}", traffic.network_received.packets, bytes(traffic.network_received.bytes)));
    row("sent", format!("{} packets, {}", traffic.network_sent.packets, bytes(traffic.network_sent.bytes)));
    if status.dropped() > 0 {
        let causes = report.drops.iter().filter(|(_, count)| **count > 0);
        let causes: Vec<String> = causes.map(|(cause, count)| format!("{cause} {count}")).collect();
        row("dropped", format!("{} packets: {}", status.dropped(), causes.join(", ")));
    }
    if report.counts.reconnects > 0 {
        row("returned", times(report.counts.reconnects));
    }
    for (index, change) in report.link.changes.iter().take(4).enumerate() {
        let reason = change.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let name = if index == 0 { "changes" } else { "" };
        row(name, format!("{} ago {}{reason}", duration(change.age_seconds), change.state));
    }
    text
}

/// One line with what changes from second to second.
pub fn line(status: &Status, rates: &Rates) -> String {
    let report = &status.report;
    format!(
        "{} {} received {} {:.0} pkt/s sent {} {:.0} pkt/s rtt {} loss {} dropped {:.0}/s",
        status.instance,
        report.link.state,
        bits(rates.received.bytes),
        rates.received.packets,
        bits(rates.sent.bytes),
        rates.sent.packets,
        report.rtt_seconds.map_or("-".to_owned(), rtt),
        report.loss.map_or("-".to_owned(), |loss| percent(loss.recent)),
        rates.dropped(),
    )
}

/// `up for 12s`, with the reason if there is one, and with the loop that nothing is forwarded for.
pub fn state(status: &Status) -> String {
    let link = &status.report.link;
    let reason = link.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let held = status.report.segment.as_ref().and_then(|segment| segment.held.as_deref());
    let held = held.map(|why| format!(", nothing is forwarded: loop ({why})")).unwrap_or_default();
    format!("{}{reason} for {}{held}", link.state, duration(link.state_seconds))
}

/// The device.
pub fn device(status: &Status) -> String {
    let device = &status.report.device;
    let mtu = device.mtu.map(|mtu| format!(", mtu {mtu}")).unwrap_or_default();
    let carrier = match device.carrier {
        Some(true) => ", carrier on",
        Some(false) => ", no carrier",
        None => ", not there",
    };
    format!("{} ({}){mtu}{carrier}", device.name, device.kind)
}

/// Both ends.
pub fn peer(status: &Status) -> String {
    let report = &status.report;
    let peer = report.peer.as_deref().unwrap_or("none");
    let local = report.local.as_deref().map(|local| format!(", here {local}")).unwrap_or_default();
    let role = if report.role == "connect" { "connects" } else { "listens" };
    format!("{peer} over {}{local}, {role}", report.transport)
}

/// The protection.
pub fn security(status: &Status) -> String {
    let security = &status.report.security;
    let mut text = security.mode.clone();
    let age = status.report.handshake_age_seconds.map(|age| format!("handshake {} ago", duration(age)));
    for part in security.aead.clone().into_iter().chain(age) {
        text = format!("{text}, {part}");
    }
    match security.peer_public_keys.first() {
        Some(key) => format!("{text}, peer {key}"),
        None => text,
    }
}

/// What the path is like.
pub fn path(status: &Status) -> String {
    let report = &status.report;
    let mut parts = Vec::new();
    parts.extend(report.rtt_seconds.map(|seconds| format!("rtt {}", rtt(seconds))));
    parts.extend(report.loss.map(|loss| format!("loss {}", percent(loss.recent))));
    parts.extend(lengths(&report.path));
    if parts.is_empty() { "nothing is known".to_owned() } else { parts.join(", ") }
}

/// How long what crosses the path may be.
pub fn lengths(path: &PathStatus) -> Vec<String> {
    let source = path.mtu_source.as_deref().map(|source| format!(" ({source})")).unwrap_or_default();
    let mtu = path.mtu.map(|mtu| format!("mtu {mtu}{source}"));
    let packet = path.max_packet.map(|packet| format!("packets up to {packet}"));
    [mtu, packet].into_iter().flatten().collect()
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// `1.2 MiB`.
pub fn bytes(count: u64) -> String {
    scaled(count as f64, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// Bytes a second as `1.2 Mbit/s`.
pub fn bits(bytes_per_second: f64) -> String {
    scaled(bytes_per_second * 8.0, 1000.0, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s"])
}

fn scaled(mut value: f64, step: f64, units: [&str; 6]) -> String {
    let mut unit = 0;
    // What would be rounded to the step counts as one of the next unit.
    while value.round() >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 99.95);
    format!("{value:.digits$} {}", units[unit])
}

/// `12.3 ms`.
pub fn rtt(seconds: f64) -> String {
    let milliseconds = seconds * 1000.0;
    let digits = match milliseconds {
        _ if milliseconds < 9.995 => 2,
        _ if milliseconds < 99.95 => 1,
        _ => 0,
    };
    format!("{milliseconds:.digits$} ms")
}

/// A part as `0.4%`.
pub fn percent(part: f64) -> String {
    format!("{:.1}%", part * 100.0)
}

/// The two greatest units of a time: `3h 12m`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    let (days, hours, minutes, seconds) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_of_a_tunnel_says_it_all_in_a_dozen_lines() {
        let expected = "\
site-a up for 12s
  device    tun0 (tun), mtu 1420, carrier on
  peer      203.0.113.7:55555 over udp, here 198.51.100.2:40000, connects
  security  keys, aes-256-gcm, handshake 43s ago, peer st1pk:Zq81mBexampleexampleexampleexampleexample0A
  path      rtt 12.3 ms, loss 0.4%, mtu 1500 (probed), packets up to 1420
  received  2501 packets, 3.2 MiB
  sent      1200 packets, 1.1 MiB
  dropped   51 packets: device-down 1, no-peer 40, queue-delay 10
  returned  once
  changes   12s ago up
            23s ago down (silence)
            1d 2h ago up
";
        assert_eq!(human(&Status::example()), expected);
    }

    #[test]
    fn a_loop_for_which_nothing_is_forwarded_is_told_with_the_state() {
        let mut status = Status::example();
        status.report.segment.as_mut().unwrap().held = Some("peer".to_owned());
        assert_eq!(state(&status), "up for 12s, nothing is forwarded: loop (peer)");
    }

    #[test]
    fn a_tunnel_of_which_nothing_is_known_has_a_view_too() {
        let text = human(&Status::default());
        assert!(text.contains("nothing is known") && !text.contains("dropped"), "{text}");
        assert!(line(&Status::default(), &Rates::default()).contains("rtt - loss -"));
    }

    #[test]
    fn numbers_have_the_unit_that_makes_them_short() {
        let cases = [0, 1023, 1024, 102_400, 1_048_575, 1 << 30, u64::MAX].map(bytes);
        assert_eq!(cases, ["0 B", "1023 B", "1.0 KiB", "100 KiB", "1.0 MiB", "1.0 GiB", "16384 PiB"]);
        let cases = [0.0, 1.0, 124.9, 125.0, 12_500_000.0].map(bits);
        assert_eq!(cases, ["0 bit/s", "8 bit/s", "999 bit/s", "1.0 kbit/s", "100 Mbit/s"]);
        assert_eq!([0.0, 0.000_05, 0.0123, 0.2504].map(rtt), ["0.00 ms", "0.05 ms", "12.3 ms", "250 ms"]);
        let cases = [0.9, 59.9, 60.0, 3599.0, 3600.0, 86_399.0, 93_784.0].map(duration);
        assert_eq!(cases, ["0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 2h"]);
    }
}
