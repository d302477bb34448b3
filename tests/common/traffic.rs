//! Streams and datagrams that prove by themselves that they arrived unchanged (`tests/peer/traffic.py`), and what the
//! kernel counted of damaged packets meanwhile.

use super::lab::{Background, Ns, PYTHON};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/traffic.py");
const PORT: u16 = 7001;

/// TCP in both directions one after the other, then four streams at once.
pub const STREAMS: &str = "tcp-up=3000000 tcp-down=3000000 tcp-four=1000000";
/// UDP of all sizes in both directions, then four flows at once.
pub const DATAGRAMS: &str = "udp-up=1500 udp-down=1500 udp-flows=500";

/// The end that answers.
pub struct Responder {
    _process: Background,
}

impl Responder {
    #[track_caller]
    pub fn new(ns: &Ns) -> Self {
        let process = ns.start(&format!("{PYTHON} {SCRIPT} serve {PORT}"));
        ns.wait_for_listener(PORT);
        Self { _process: process }
    }

    /// Goes through the steps from `from` to this end, which has `address`.
    #[track_caller]
    pub fn exchange(&self, from: &Ns, address: &str, steps: &str) {
        from.run(&format!("timeout 100 {PYTHON} {SCRIPT} check {address} {PORT} {steps}"));
    }
}

/// No packet that this kernel received had a wrong checksum or a broken IP header.
#[track_caller]
pub fn assert_undamaged(ns: &Ns) {
    let bad: Vec<String> = counters(ns)
        .into_iter()
        .filter(|(name, value)| *value > 0 && (name.ends_with("CsumErrors") || name.ends_with("InHdrErrors")))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert!(bad.is_empty(), "{} received damaged packets: {}", ns.label(), bad.join(" "));
}

/// One counter of the kernel's protocols, by its name in nstat.
#[track_caller]
pub fn counter(ns: &Ns, name: &str) -> u64 {
    let found = counters(ns).into_iter().find(|(found, _)| found == name);
    found.unwrap_or_else(|| panic!("nstat knows no {name}")).1
}

fn counters(ns: &Ns) -> Vec<(String, u64)> {
    let text = ns.run("nstat -asz");
    let rows = text.lines().filter(|row| !row.starts_with('#'));
    let counters: Vec<_> = rows
        .filter_map(|row| {
            let mut words = row.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect();
    assert!(counters.iter().any(|(name, _)| name == "TcpInCsumErrors"), "nstat's table: {text}");
    counters
}
