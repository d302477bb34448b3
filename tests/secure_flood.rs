//! A stranger who sends junk as fast as a small program can: the link stays up, and the daemon's memory what it was. How
//! much of the legitimate traffic arrives meanwhile is measured by the benchmark, not here.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::daemon::Daemon;
use crate::common::known_keys::{FAR_INSIDE, NEAR_INSIDE, Suite, link};
use crate::common::lab::Lab;
use crate::common::net::Pinging;
use crate::common::secure_peer::Wire;
use crate::common::wait::{DEADLINE, succeed};
use crate::common::{line, stat};

const SERVER: &str = "10.86.43.52:55555";
const STRANGER: &str = "10.86.43.60";

/// What a flood may add to the daemon's memory: batches of the largest kind that had not come before.
const GROWTH_KIB: u64 = 1024;
const MEMORY_KIB: u64 = 32 * 1024;

#[test]
fn a_flood_of_handshakes_leaves_a_link_by_keys_up() {
    leaves_the_link_up(Suite::Pairs, "--mode init --suite keys", stat::DROP_BAD_HANDSHAKE);
}

#[test]
fn a_flood_of_handshakes_leaves_a_link_by_secret_up() {
    leaves_the_link_up(Suite::Secret, "--mode init --suite secret", stat::DROP_BAD_HANDSHAKE);
}

#[test]
fn a_flood_of_data_for_no_session_leaves_the_link_up() {
    leaves_the_link_up(Suite::Secret, "--mode data-wrong-index", stat::DROP_UNKNOWN_SESSION);
}

#[test]
fn a_flood_of_data_for_the_live_session_leaves_the_link_up() {
    leaves_the_link_up(Suite::Secret, "--mode data-right-index --index", stat::DROP_NOT_AUTHENTIC);
}

fn leaves_the_link_up(suite: Suite, junk: &str, cause: &str) {
    let lab = Lab::quiet();
    lab.local.address("eth0", &[&format!("{STRANGER}/24")]);
    let (far, near) = link(&lab, Wire::Udp, suite);
    let mut pinging = Pinging::start(&lab.local, FAR_INSIDE);
    // The memory that traffic takes is taken.
    lab.local.ping(FAR_INSIDE, 20, 1300);
    let index = if junk.ends_with("--index") { session_index(&lab) } else { String::new() };
    let before = far.usage();

    let said = flood(&format!("{SERVER} --from {STRANGER}:0 --seconds 2 {junk} {index}"));
    assert!(said.contains("answers=0"), "{said}");

    lab.local.ping_until_answered(FAR_INSIDE, DEADLINE);
    lab.remote.ping_until_answered(NEAR_INSIDE, DEADLINE);
    let (sent, answered) = pinging.count();
    eprintln!("{said}, {answered} of {sent} pings answered, {before:?}, {:?}", far.usage());
    assert_steady(&far, before.resident_kib);
    for end in [&far, &near] {
        assert_eq!((end.count(line::UP), end.count(line::DOWN)), (1, 0), "{}", end.text());
        assert!(!end.said(line::MOVED));
    }
    let statistics = far.statistics();
    assert!(statistics.get(cause) > 1000, "{statistics:?}");
}

#[track_caller]
fn assert_steady(daemon: &Daemon, before: u64) {
    let after = daemon.usage().resident_kib;
    assert!(after < MEMORY_KIB && after < before + GROWTH_KIB, "{after} KiB, and {before} KiB before the flood");
}

/// The far end's index of the session, as a stranger on the wire sees it.
fn session_index(lab: &Lab) -> String {
    let seen = lab.local.run("tcpdump -Z root -i eth0 -nn -c 1 -x udp dst port 55555 and udp[8] = 0xf4");
    let rows = seen.lines().filter_map(|row| row.trim().strip_prefix("0x")?.split_once(": "));
    let digits: String = rows.flat_map(|(_, row)| row.split_whitespace()).collect();
    // Behind the headers of IP and UDP, type, lane and reserved bytes.
    let index = u32::from_str_radix(&digits[2 * 32..2 * 36], 16).expect("four bytes");
    index.to_string()
}

/// Runs the sender; what it says of itself.
fn flood(arguments: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_simpletun")).with_file_name("examples").join("junk");
    let output = Command::new(&program).args(arguments.split_whitespace()).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{}: {e}; cargo build --examples makes it", program.display()));
    succeed(output, format_args!("junk {arguments}"))
}
