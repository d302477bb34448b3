//! Where the keys of a running daemon are not: in what other users and the log can show, and in core files.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;

use base64ct::{Base64UrlUnpadded, Encoding as _};

use crate::common::daemon::{Daemon, Mark, simpletun, simpletun_as};
use crate::common::lab::{Lab, NOBODY, Ns, REMOTE};
use crate::common::line;
use crate::common::secure::{Ends, Protection};
use crate::common::wait::{DEADLINE, wait_until};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";

const CORES: &str = "/run/cores";

#[test]
fn a_shared_secret_is_in_nothing_that_the_system_shows() {
    hidden(Protection::Secret, "--udp");
}

#[test]
fn private_keys_are_in_nothing_that_the_system_shows() {
    hidden(Protection::KeyPairs, "");
}

/// After handshakes, a reconnection, statistics and a failed reload, with everything logged that can be.
#[track_caller]
fn hidden(protection: Protection, transport: &str) {
    let lab = Lab::new();
    let ends = protection.ends();
    let options = format!("-vv {transport} --rekey-after 200ms");
    let server = simpletun(&lab.remote, &format!("-i t2 -s {options} {} --address {FAR}/24", ends.server));
    server.wait_for(line::LISTENING);
    let client = simpletun(&lab.local, &format!("-i t1 -c {REMOTE} {options} {} --address {NEAR}/24", ends.client));
    client.wait_for(line::UP);
    client.signal("USR1");
    wait_until(DEADLINE, "five handshakes", || client.statistics().get("handshakes") >= 5);
    lab.local.ping_until_answered(FAR, DEADLINE);
    for end in [&client, &server] {
        let mark = end.mark();
        end.signal("HUP");
        end.wait_after(mark, "configuration read again");
    }
    lab.local.ping_until_answered(FAR, DEADLINE);
    for end in [&client, &server] {
        let shown = |name: &str| fs::read(format!("/proc/{}/{name}", end.pid())).expect("root reads it");
        let command = shown("cmdline");
        assert!(command.windows(5).any(|word| word == b"-file"), "the option is there, not what the file holds");
        for (place, bytes) in [("cmdline", command), ("environ", shown("environ")), ("log", end.text().into_bytes())] {
            assert_free_of(&ends, place, &bytes);
        }
        let limits = String::from_utf8(shown("limits")).expect("text");
        let core = limits.lines().find_map(|text| text.strip_prefix("Max core file size")).expect("the limit of cores");
        assert_eq!(core.split_whitespace().collect::<Vec<_>>(), ["0", "0", "bytes"]);
    }
}

/// As text, as bytes, and as bytes are printed.
#[track_caller]
fn assert_free_of(ends: &Ends, place: &str, bytes: &[u8]) {
    assert!(!bytes.is_empty(), "{place}");
    for text in &ends.secrets {
        let (_, encoded) = text.split_once(':').expect("a prefix");
        let raw = Base64UrlUnpadded::decode_vec(encoded).expect("base64");
        let key = &raw[..32];
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let debug = format!("{key:?}");
        for form in [&encoded.as_bytes()[..40], key, hex.as_bytes(), debug.trim_matches(['[', ']']).as_bytes()] {
            assert!(!bytes.windows(form.len()).any(|window| window == form), "a key is in its {place}");
        }
    }
}

/// The kernel gives what it shows of a protected process to root, whoever runs it; of any other to its user.
#[test]
fn the_user_who_runs_a_daemon_cannot_look_into_it() {
    let lab = Lab::new();
    let owner = |daemon: &Daemon| fs::metadata(format!("/proc/{}/environ", daemon.pid())).map(|shown| shown.uid());
    let mut command = lab.remote.command_as(NOBODY, "sleep");
    command.arg("1000");
    let other = Daemon::spawn("sleep".to_owned(), command);
    wait_until(DEADLINE, "a process that is not protected", || owner(&other).is_ok_and(|owner| owner == NOBODY));

    lab.remote.run(&format!("ip tuntap add dev t2 mode tun user {NOBODY}"));
    let ends = Protection::Secret.ends();
    chown("/run/secret", Some(NOBODY), None).expect("root gives files away");
    for options in ["", &ends.server] {
        let mut daemon = simpletun_as(NOBODY, &lab.remote, &format!("-i t2 -s {options}"));
        daemon.wait_for(line::LISTENING);
        assert_eq!(owner(&daemon).expect("the process runs"), 0, "{options}");
        daemon.terminate();
    }
}

#[test]
fn a_secure_daemon_that_crashes_leaves_no_core_file() {
    let lab = Lab::new();
    fs::create_dir_all(CORES).expect("make the directory");
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("the pattern of core files");
    let mut other = limitless(&lab.local, "/bin/sleep 60");
    let name = format!("/proc/{}/comm", other.pid());
    wait_until(DEADLINE, "sleep", || fs::read_to_string(&name).is_ok_and(|name| name.trim() == "sleep"));
    other.signal("SEGV");
    let status = other.wait_status();
    // A program that takes core files may refuse those of namespaces.
    if !pattern.starts_with('|') {
        assert!(status.core_dumped(), "what is not protected leaves one here: {status}");
    }
    for signal in ["SEGV", "ABRT", "QUIT"] {
        for file in fs::read_dir(CORES).expect("read the directory") {
            fs::remove_file(file.expect("a file").path()).expect("remove it");
        }
        let ends = Protection::KeyPairs.ends();
        let server = simpletun(&lab.remote, &format!("-i t2 -s {} --address {FAR}/24", ends.server));
        server.wait_for(line::LISTENING);
        let program = env!("CARGO_BIN_EXE_simpletun");
        let mut client =
            limitless(&lab.local, &format!("{program} -i t1 -c {REMOTE} {} --address {NEAR}/24", ends.client));
        client.wait_after(Mark::START, line::UP);
        // The first SEGV meets the handler by which the runtime tells overflows of the stack.
        wait_until(DEADLINE, "end", || {
            if client.is_running() {
                client.signal(signal);
            }
            !client.is_running()
        });
        let status = client.wait_status();
        assert!(status.signal().is_some() && !status.core_dumped(), "SIG{signal}: {status}");
        assert_eq!(fs::read_dir(CORES).expect("read the directory").count(), 0, "SIG{signal}");
    }
}

/// A program that may leave a core file of any size in its directory.
fn limitless(ns: &Ns, line: &str) -> Daemon {
    let mut command = ns.command("sh");
    command.args(["-c", &format!("cd {CORES}; ulimit -c unlimited || ulimit -c $(ulimit -H -c); exec {line}")]);
    Daemon::spawn(line.to_owned(), command)
}
