//! The status as OpenMetrics text (github.com/OpenObservability/OpenMetrics): one table of all metrics. Pure.
//!
//! Names and units follow the standard: base units, `_total` for what only grows. Every sample has the label `tunnel`, the
//! name of the instance; few have a second one. Nothing in a label tells an address or a key.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::status::Status;

/// What all names begin with.
const PREFIX: &str = "simpletun";

/// States of a link, for the metric that has one sample of each.
const STATES: [&str; 6] = ["unknown", "waiting", "connecting", "up", "interrupted", "down"];

type Labels = Vec<(&'static str, String)>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Count(u64),
    Gauge(f64),
}

/// One metric; its samples are read from the status of an instance, with the labels beside `tunnel`.
struct Metric {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    samples: fn(&Status) -> Vec<(Labels, Value)>,
}

/// The metrics of these instances as one text, which ends with `# EOF`.
pub fn text(statuses: &[Status]) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Snapshot(statuses.to_vec())));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Snapshot(Vec<Status>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in metrics() {
            let samples: Vec<_> = self
                .0
                .iter()
                .flat_map(|status| {
                    let tunnel = ("tunnel", status.instance.clone());
                    let samples = (metric.samples)(status).into_iter();
                    samples.map(move |(labels, value)| ([vec![tunnel.clone()], labels].concat(), value))
                })
                .collect();
            if samples.is_empty() {
                continue;
            }
            let mut family = encoder.encode_descriptor(metric.name, metric.help, metric.unit.as_ref(), metric.kind)?;
            for (labels, value) in samples {
                value.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl EncodeMetric for Value {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Count(value) => encoder.encode_counter::<NoLabelSet, u64, u64>(value, None),
            Self::Gauge(value) => encoder.encode_gauge(value),
        }
    }

    fn metric_type(&self) -> MetricType {
        match self {
            Self::Count(_) => MetricType::Counter,
            Self::Gauge(_) => MetricType::Gauge,
        }
    }
}

fn counter(name: &'static str, unit: &str, help: &'static str, samples: fn(&Status) -> Vec<(Labels, Value)>) -> Metric {
    let unit = match unit {
        "" => None,
        "bytes" => Some(Unit::Bytes),
        other => Some(Unit::Other(other.to_owned())),
    };
    Metric { name, help, unit, kind: MetricType::Counter, samples }
}

fn gauge(
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    samples: fn(&Status) -> Vec<(Labels, Value)>,
) -> Metric {
    Metric { name, help, unit, kind: MetricType::Gauge, samples }
}

fn count(value: u64) -> Vec<(Labels, Value)> {
    vec![(Vec::new(), Value::Count(value))]
}

fn number(value: impl Into<f64>) -> Vec<(Labels, Value)> {
    vec![(Vec::new(), Value::Gauge(value.into()))]
}

fn maybe<T>(value: Option<T>, sample: fn(T) -> Vec<(Labels, Value)>) -> Vec<(Labels, Value)> {
    value.map(sample).unwrap_or_default()
}

/// Sizes fit the whole numbers of an `f64`.
fn size(bytes: u64) -> Vec<(Labels, Value)> {
    number(bytes as f64)
}

fn metrics() -> impl Iterator<Item = Metric> {
    traffic().into_iter().chain(events()).chain(state()).chain(measurements())
}

fn traffic() -> [Metric; 9] {
    [
        counter("device_read", "bytes", "Bytes of packets read from the device", |status| {
            count(status.report.traffic.device_read.bytes)
        }),
        counter("device_read", "packets", "Packets read from the device", |status| {
            count(status.report.traffic.device_read.packets)
        }),
        counter("device_written", "bytes", "Bytes of packets written to the device", |status| {
            count(status.report.traffic.device_written.bytes)
        }),
        counter("device_written", "packets", "Packets written to the device", |status| {
            count(status.report.traffic.device_written.packets)
        }),
        counter("network_received", "bytes", "Bytes of packets received from the peer", |status| {
            count(status.report.traffic.network_received.bytes)
        }),
        counter("network_received", "packets", "Packets received from the peer", |status| {
            count(status.report.traffic.network_received.packets)
        }),
        counter("network_sent", "bytes", "Bytes of packets sent to the peer", |status| {
            count(status.report.traffic.network_sent.bytes)
        }),
        counter("network_sent", "packets", "Packets sent to the peer", |status| {
            count(status.report.traffic.network_sent.packets)
        }),
        counter("dropped", "packets", "Packets dropped, by cause", |status| {
            let drops = status.report.drops.iter();
            drops.map(|(cause, dropped)| (vec![("cause", cause.clone())], Value::Count(*dropped))).collect()
        }),
    ]
}

fn events() -> [Metric; 14] {
    [
        counter("reconnects", "", "Times that the peer was there again after the first time", |status| {
            count(status.report.counts.reconnects)
        }),
        counter("handshakes", "", "Handshakes of a secure link that both ends have confirmed", |status| {
            count(status.report.counts.handshakes)
        }),
        counter("rekeys", "", "Handshakes that have replaced the session of a link that was up", |status| {
            count(status.report.counts.rekeys)
        }),
        counter("fragmented", "packets", "Packets cut into fragments because the link carries no more", |status| {
            count(status.report.counts.fragmented)
        }),
        counter("split", "packets", "Packets sent in parts because the path carries no more", |status| {
            count(status.report.counts.split)
        }),
        counter("joined", "packets", "Packets put together from parts", |status| count(status.report.counts.joined)),
        counter("too_long_answers", "", "Packets whose senders were told what fits", |status| {
            count(status.report.counts.answered_too_long)
        }),
        counter("paths", "", "Connections made or accepted, and datagram peers", |status| {
            count(status.report.counts.paths)
        }),
        counter("refused", "", "Sources and attempts refused by access rules or limits", |status| {
            count(status.report.counts.refused)
        }),
        counter("strangers", "", "Datagrams and connections of others than the peer", |status| {
            count(status.report.counts.strangers)
        }),
        counter("send_errors", "", "Messages that the network did not take", |status| {
            count(status.report.counts.send_errors)
        }),
        counter("loop_holds", "", "Times that nothing was forwarded because of a loop of bridged LANs", |status| {
            maybe(status.report.segment.as_ref(), |segment| count(segment.holds))
        }),
        counter("expected_messages", "", "Messages that the peer of a secure link over UDP has sent", |status| {
            maybe(status.report.loss, |loss| count(loss.expected))
        }),
        counter("lost_messages", "", "Messages of the peer that have not arrived", |status| {
            maybe(status.report.loss, |loss| count(loss.lost))
        }),
    ]
}

fn state() -> [Metric; 8] {
    [
        gauge("tunnel_info", None, "Always 1, with what the tunnel is like in its labels", |status| {
            let report = &status.report;
            let label = |name, value: &str| (name, value.to_owned());
            let labels = vec![
                label("version", &status.version),
                label("device", &report.device.name),
                label("kind", &report.device.kind),
                label("role", &report.role),
                label("transport", &report.transport),
                label("security", &report.security.mode),
            ];
            vec![(labels, Value::Gauge(1.0))]
        }),
        gauge("start_time", Some(Unit::Seconds), "When the daemon was started, since 1970", |status| {
            let started = humantime::parse_rfc3339(&status.started).ok();
            let since = started.and_then(|started| started.duration_since(std::time::UNIX_EPOCH).ok());
            maybe(since, |since| number(since.as_secs_f64()))
        }),
        gauge("link_up", None, "1 if the peer is there", |status| number(u8::from(status.report.link.state == "up"))),
        gauge("link_state", None, "1 for the state that the link is in, 0 for the others", |status| {
            let value = |state: &str| Value::Gauge(f64::from(u8::from(state == status.report.link.state)));
            STATES.map(|state| (vec![("state", state.to_owned())], value(state))).into()
        }),
        gauge("link_state_age", Some(Unit::Seconds), "For how long the link has been in its state", |status| {
            number(status.report.link.state_seconds)
        }),
        gauge("loop_held", None, "1 if nothing is forwarded because of a loop of bridged LANs", |status| {
            maybe(status.report.segment.as_ref(), |segment| number(u8::from(segment.held.is_some())))
        }),
        gauge("device_carrier", None, "1 if the device is up and has a carrier", |status| {
            maybe(status.report.device.carrier, |carrier| number(u8::from(carrier)))
        }),
        gauge("device_mtu", Some(Unit::Bytes), "MTU of the device", |status| maybe(status.report.device.mtu, number)),
    ]
}

fn measurements() -> [Metric; 7] {
    [
        gauge("rtt", Some(Unit::Seconds), "Round trip to the peer, smoothed", |status| {
            maybe(status.report.rtt_seconds, number)
        }),
        gauge("loss", Some(Unit::Ratios), "Part of the peer's messages lost in the last minute", |status| {
            maybe(status.report.loss, |loss| number(loss.recent))
        }),
        gauge("handshake_age", Some(Unit::Seconds), "Age of the session of a secure link", |status| {
            maybe(status.report.handshake_age_seconds, number)
        }),
        gauge("path_mtu", Some(Unit::Bytes), "What the path carries, with the outer headers", |status| {
            maybe(status.report.path.mtu, size)
        }),
        gauge("max_packet", Some(Unit::Bytes), "The longest packet that crosses", |status| {
            maybe(status.report.path.max_packet, size)
        }),
        gauge("queue", Some(Unit::Bytes), "Bytes that wait for a full network", |status| {
            size(status.report.queue.bytes)
        }),
        gauge("queue_peak", Some(Unit::Bytes), "The most bytes that have waited for a full network", |status| {
            size(status.report.queue.most_bytes)
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const DOCUMENT: &str = include_str!("../../docs/STATUS.md");
    const DASHBOARD: &str = include_str!("../../config/grafana-dashboard.json");

    /// The names of all samples.
    fn names(text: &str) -> BTreeSet<&str> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| line.split(['{', ' ']).next()).collect()
    }

    #[test]
    fn values_stand_under_their_names_with_unit_and_tunnel() {
        let text = text(&[Status::example()]);
        for line in [
            "# UNIT simpletun_network_received_bytes bytes",
            "# TYPE simpletun_network_received_bytes counter",
            "simpletun_network_received_bytes_total{tunnel=\"site-a\"} 3400100",
            "simpletun_dropped_packets_total{tunnel=\"site-a\",cause=\"queue-delay\"} 10",
            "simpletun_link_state{tunnel=\"site-a\",state=\"up\"} 1.0",
            "simpletun_link_state{tunnel=\"site-a\",state=\"down\"} 0.0",
            "simpletun_rtt_seconds{tunnel=\"site-a\"} 0.0123",
            "simpletun_loss_ratios{tunnel=\"site-a\"} 0.004",
            "simpletun_start_time_seconds{tunnel=\"site-a\"} 1772352000.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn several_tunnels_share_each_metric() {
        let [first, mut second] = [Status::example(), Status::example()];
        second.instance = "a \"quoted\" name\n".to_owned();
        let text = text(&[first, second]);
        let types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        assert_eq!(types.len(), metrics().count());
        assert_eq!(types.iter().collect::<BTreeSet<_>>().len(), types.len(), "each once");
        assert!(text.contains(r#"simpletun_link_up{tunnel="a \"quoted\" name\n"} 1.0"#), "{text}");
    }

    #[test]
    fn what_is_not_known_has_no_sample() {
        let text = text(&[Status::default()]);
        assert!(!text.contains("simpletun_rtt") && text.contains("simpletun_link_up"), "{text}");
    }

    #[test]
    fn the_document_names_every_metric() {
        let text = text(&[Status::example()]);
        for name in names(&text) {
            assert!(DOCUMENT.contains(&format!("`{name}`")), "docs/STATUS.md lacks {name}");
        }
    }

    #[test]
    fn the_dashboard_asks_for_metrics_that_there_are() {
        let text = text(&[Status::example()]);
        let names = names(&text);
        let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("the dashboard is JSON");
        let panels = dashboard["panels"].as_array().expect("panels");
        let queries: Vec<&str> = panels
            .iter()
            .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
            .filter_map(|target| target["expr"].as_str())
            .collect();
        assert!(queries.len() >= 8, "{} queries", queries.len());
        for query in queries {
            let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
            let words = query.split(|character| !is_name(character));
            let asked: Vec<_> = words.filter(|word| word.starts_with("simpletun_")).collect();
            assert!(!asked.is_empty(), "{query}");
            for name in asked {
                assert!(names.contains(name), "the dashboard asks for {name}, which is no metric");
            }
        }
    }
}
