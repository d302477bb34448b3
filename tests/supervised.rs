//! What the service manager hears from the daemon, in the words of sd_notify(3): here a socket of the test stands for it.
//! `tests/containers.rs` has the real one.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, server, simpletun};
use crate::common::lab::{Lab, Ns};
use crate::common::wait::DEADLINE;

const SOCKET: &str = "/run/notify";

/// A listener is ready before anybody has come, its status follows its peer, and its end is announced.
#[test]
fn the_service_manager_follows_the_link_from_its_start_to_its_end() {
    let lab = Lab::new();
    let manager = Manager::new();
    let mut daemon =
        supervised(&lab.remote, "-i tun3 -s --address 192.168.0.2/24 --keepalive 1s --down-after 2s", None);
    assert_eq!(manager.next(), "READY=1\nSTATUS=waiting\n");
    assert!(lab.remote.has_device("tun3"));
    let mut client = simpletun(&lab.local, "-i tun11 -c 10.86.43.52 --address 192.168.0.1/24");
    let up = manager.next();
    assert!(up.starts_with("STATUS=up, peer 10.86.43.51:"), "{up}");
    client.terminate();
    let interrupted = manager.next();
    assert!(interrupted.starts_with("STATUS=interrupted"), "{interrupted}");
    assert_eq!(manager.next(), "STATUS=down reason=closed\n");
    daemon.terminate();
    assert_eq!(manager.next(), "STOPPING=1\n");
    manager.has_nothing_more();
}

/// A reload is announced with the time, and ends in readiness, also when the file is refused: the status says so.
#[test]
fn a_reload_begins_and_ends_for_the_service_manager() {
    let lab = Lab::new();
    let manager = Manager::new();
    let file = "/run/link.toml";
    let text = "security = \"plain\"\ninterface = \"tun3\"\nserver = true\n";
    fs::write(file, text).expect("write the configuration");
    let daemon = supervised(&lab.remote, &format!("--config {file}"), None);
    assert_eq!(manager.next(), "READY=1\nSTATUS=waiting\n");
    fs::write(file, "security = 5").expect("write the configuration");
    daemon.signal("HUP");
    let reloading = manager.next();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading).trim();
    assert!(time.parse::<u64>().is_ok_and(|time| time > 0), "{reloading}");
    assert_eq!(manager.next(), "READY=1\nSTATUS=waiting; the configuration that was read last is refused\n");
    fs::write(file, text).expect("write the configuration");
    daemon.signal("HUP");
    assert!(manager.next().starts_with("RELOADING=1\n"));
    assert_eq!(manager.next(), "READY=1\nSTATUS=waiting\n");
}

/// The watchdog hears of a loop that turns, and nothing of one that is stuck.
#[test]
fn the_watchdog_is_fed_by_a_loop_that_turns_and_by_no_other() {
    let lab = Lab::new();
    let manager = Manager::new();
    let daemon = supervised(&lab.remote, "-i tun3 -s", Some(Duration::from_millis(400)));
    assert_eq!(manager.next(), "READY=1\nSTATUS=waiting\n");
    for _ in 0..5 {
        assert_eq!(manager.next(), "WATCHDOG=1\n");
    }
    daemon.signal("STOP");
    manager.is_left_alone_for(Duration::from_secs(1));
    daemon.signal("CONT");
    assert_eq!(manager.next(), "WATCHDOG=1\n");
}

/// A start that fails never was ready.
#[test]
fn a_start_that_fails_is_not_announced_as_ready() {
    let lab = Lab::new();
    let _other = server(&lab.remote, "-i tun4 -s");
    let manager = Manager::new();
    let mut daemon = supervised(&lab.remote, "-i tun3 -s", None);
    assert_eq!(daemon.wait_exit(), 1);
    manager.has_nothing_more();
}

/// Every sample in config/ boots as it is, apart from the place of its files.
#[test]
fn every_sample_boots() {
    let lab = Lab::new();
    // The LAN that is bridged.
    lab.local.run("ip link add eth1 type veth peer name host");
    let manager = Manager::new();
    fs::create_dir("/run/samples").expect("make a directory");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let files = fs::read_dir(directory).expect("the samples").map(|entry| entry.expect("a file").path());
    let mut samples: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "toml")).collect();
    samples.sort();
    assert!(samples.len() >= 12, "{samples:?}");
    for sample in samples {
        let text = fs::read_to_string(&sample).expect("the sample").replace("/etc/simpletun/", "/run/samples/");
        for file in text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| line.split('"')) {
            let tool = if file.ends_with(".key") { "genkey" } else { "genpsk" };
            if file.starts_with("/run/samples/") {
                let output = lab.local.command(env!("CARGO_BIN_EXE_simpletun")).arg(tool).output().expect("a key");
                fs::write(file, output.stdout).expect("write the key");
                fs::set_permissions(file, Permissions::from_mode(0o600)).expect("the file is ours");
            }
        }
        fs::write("/run/samples/sample.toml", text).expect("write the sample");
        let mut daemon = supervised(&lab.local, "--config /run/samples/sample.toml", None);
        let first = manager.next();
        assert!(first.starts_with("READY=1\n"), "{}: {first}", sample.display());
        daemon.terminate();
        while manager.next() != "STOPPING=1\n" {}
    }
}

fn supervised(ns: &Ns, args: &str, watchdog: Option<Duration>) -> Daemon {
    let mut command = ns.command(env!("CARGO_BIN_EXE_simpletun"));
    command.args(args.split_whitespace()).env("NOTIFY_SOCKET", SOCKET);
    command.envs(watchdog.map(|limit| ("WATCHDOG_USEC", limit.as_micros().to_string())));
    Daemon::spawn(format!("simpletun {args}"), command)
}

/// The service manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn new() -> Self {
        Self(UnixDatagram::bind(SOCKET).expect("a socket"))
    }

    #[track_caller]
    fn next(&self) -> String {
        self.within(DEADLINE).unwrap_or_else(|| panic!("the service manager has heard nothing for {DEADLINE:?}"))
    }

    /// Nothing waits; of a process that has ended nothing will come.
    #[track_caller]
    fn has_nothing_more(&self) {
        assert_eq!(self.within(Duration::from_millis(1)), None);
    }

    /// Nothing comes for so long, after what was under way.
    #[track_caller]
    fn is_left_alone_for(&self, silence: Duration) {
        let end = Instant::now() + DEADLINE;
        while self.within(silence).is_some() {
            assert!(Instant::now() < end, "the service manager is not left alone");
        }
    }

    fn within(&self, patience: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(patience)).expect("a timeout");
        let mut buffer = [0; 4096];
        let len = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
    }
}
