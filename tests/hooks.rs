//! The administrator's programs: each is run when it should be, with what it should know and nothing else, and none of
//! them holds up the tunnel.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, server, simpletun};
use crate::common::lab::{Lab, REMOTE};
use crate::common::line;
use crate::common::pair::{FAR, Kind, NEAR};
use crate::common::secure::{Protection, new_secret};
use crate::common::traffic::{Pulse, Responder};
use crate::common::wait::{DEADLINE, wait_for, wait_until};

rows! {
    (tcp: super::Kind::PLAIN_TCP, tcp_by_secret: super::Kind::SECURE_TCP, udp_by_secret: super::Kind::SECURE_UDP) {
        each_hook_runs_in_its_time_and_knows_what_it_is_for
    }
}

/// Says what it got: variables, descriptors, group and arguments, under its own name and all at once.
const TELLING: &str = r#"#!/bin/sh
{
    tr '\0' '\n' < /proc/$$/environ
    echo "= descriptors"
    for fd in /proc/$$/fd/*; do readlink "$fd"; done
    echo "= group"
    cut -d' ' -f5 /proc/$$/stat
    echo $$
    echo "= arguments"
    for word; do echo "$word"; done
} > /run/told.part
mv /run/told.part "/run/told.$script_type"
echo "the hook speaks"
"#;

/// What a hook has told about itself.
struct Told {
    variables: BTreeMap<String, String>,
    descriptors: Vec<String>,
    group: Vec<String>,
    arguments: Vec<String>,
}

impl Told {
    /// Waits for the hook of this name.
    #[track_caller]
    fn by(name: &str) -> Self {
        let file = format!("/run/told.{name}");
        let text = wait_for(DEADLINE, format!("hook {name}"), || fs::read_to_string(&file).ok()).0;
        fs::remove_file(&file).expect("remove the file");
        let mut parts = text.split("= ");
        let variables = parts.next().expect("variables").lines();
        let variables =
            variables.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into()));
        let variables = variables.collect();
        let mut lines =
            || -> Vec<String> { parts.next().expect("a part").lines().skip(1).map(str::to_owned).collect() };
        Self { variables, descriptors: lines(), group: lines(), arguments: lines() }
    }

    #[track_caller]
    fn knows(&self, expected: &[(&str, &str)]) {
        let mut variables = self.variables.clone();
        let path = variables.remove("PATH").expect("a path");
        assert!(path.ends_with("/usr/sbin:/usr/bin:/sbin:/bin"), "{path}");
        let port = variables.remove("trusted_port");
        assert_eq!(port.is_some(), expected.iter().any(|(name, _)| *name == "trusted_ip"));
        let expected: BTreeMap<String, String> =
            expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(variables, expected);
    }
}

fn script(name: &str, text: &str) -> String {
    let path = format!("/run/{name}");
    fs::write(&path, text).expect("write the program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("let it be run");
    path
}

/// A client's file with these lines, beside what is necessary.
fn client_file(kind: Kind, more: &str) {
    let protection = match kind.protection {
        Protection::Secret => "security = 'secret'\nsecret-file = ['/run/secret']",
        _ => "security = 'plain'",
    };
    let text = format!(
        "{protection}\nudp = {}\ninterface = 't1'\nconnect = '{REMOTE}'\naddress = ['{NEAR}']\npeer-address = '{FAR}'\n{more}",
        !kind.is_tcp()
    );
    fs::write("/run/client.toml", text).expect("write the settings");
}

fn start_server(lab: &Lab, kind: Kind) -> Daemon {
    let secret = if kind.protection == Protection::Secret { "--secret-file /run/secret" } else { "" };
    server(&lab.remote, &format!("-i t2 -s {} {secret} --address {FAR} --peer-address {NEAR}", kind.transport))
}

fn start_client(lab: &Lab) -> Daemon {
    simpletun(&lab.local, "--config /run/client.toml")
}

/// Scripts of other tunnels find the variables that they know, and nothing of the daemon beside.
fn each_hook_runs_in_its_time_and_knows_what_it_is_for(kind: Kind) {
    let lab = Lab::new();
    new_secret("/run/secret");
    let telling = script("telling", TELLING);
    let hooks = ["up", "down", "link-up", "link-down"];
    let lines: String = hooks.iter().map(|name| format!("hook-{name} = ['{telling}', 'for {name}']\n")).collect();
    client_file(kind, &format!("mtu = 1300\nkeepalive = '1s'\ndown-after = '3s'\n{lines}"));
    let mut server = start_server(&lab, kind);
    let mut client = start_client(&lab);
    let device =
        [("INTERFACE", "t1"), ("dev", "t1"), ("tun_mtu", "1300"), ("ifconfig_local", NEAR), ("ifconfig_remote", FAR)];
    let up = Told::by("up");
    up.knows(&[&device[..], &[("script_type", "up"), ("REASON", "start")]].concat());
    assert_eq!(up.arguments, ["for up"]);
    let (group, own) = (&up.group[0], &up.group[1]);
    assert_eq!(group, own, "a process group of its own");
    let is_known = |descriptor: &&String| {
        ["/dev/null", "pipe:", "/run/telling", "/run/told.part"].iter().any(|known| descriptor.starts_with(known))
    };
    assert!(up.descriptors.iter().all(|descriptor| is_known(&descriptor)), "{:?}", up.descriptors);
    assert_eq!(up.descriptors[0], "/dev/null");
    client.wait_for("the hook speaks");
    let with_peer = [&device[..], &[("trusted_ip", REMOTE)]].concat();
    let link_up = Told::by("link-up");
    link_up.knows(&[&with_peer[..], &[("script_type", "link-up"), ("REASON", "up")]].concat());
    assert_eq!(link_up.arguments, ["for link-up"]);
    assert!(link_up.descriptors.iter().all(|descriptor| is_known(&descriptor)), "{:?}", link_up.descriptors);
    server.terminate();
    let reason = if kind.protection == Protection::Plain { "closed" } else { "peer-closed" };
    let link_down = Told::by("link-down");
    link_down.knows(&[&with_peer[..], &[("script_type", "link-down"), ("REASON", reason)]].concat());
    let _server = start_server(&lab, kind);
    Told::by("link-up");
    client.terminate();
    let link_down = Told::by("link-down");
    link_down.knows(&[&with_peer[..], &[("script_type", "link-down"), ("REASON", "stop")]].concat());
    let down = Told::by("down");
    down.knows(&[&with_peer[..], &[("script_type", "down"), ("REASON", "stop")]].concat());
    assert_eq!(down.arguments, ["for down"]);
}

/// A wrong script is told in one line, and nothing is left behind: no device, no address.
#[test]
fn an_up_that_fails_stops_the_start() {
    let lab = Lab::new();
    let telling = script("telling", TELLING);
    let failing = script("failing", "#!/bin/sh\nexit 3\n");
    let hanging = script("hanging", "#!/bin/sh\nsleep 1000\n");
    let remote = &lab.remote;
    remote.run("ip tuntap add dev made mode tun");
    for (program, why) in [
        (failing.as_str(), "exit code 3"),
        ("/run/none", "No such file or directory"),
        (hanging.as_str(), "did not end within 1s"),
    ] {
        for interface in ["t2", "made"] {
            let text = format!(
                "security = 'plain'\ninterface = '{interface}'\nserver = true\naddress = ['{FAR}/24']\n\
                 hook-up = ['{program}']\nhook-down = ['{telling}']\nhook-timeout = '1s'\n"
            );
            fs::write("/run/server.toml", text).expect("write the settings");
            let mut daemon = simpletun(remote, "--config /run/server.toml");
            assert_eq!(daemon.wait_exit(), 1, "{}", daemon.text());
            let text = daemon.text();
            assert!(text.contains(&format!("The hook up ({program})")) && text.contains(why), "{text}");
            assert!(!daemon.said(line::LISTENING), "{text}");
            assert!(!remote.run("ip -o link").contains("t2"), "the device is gone");
            assert!(!remote.run("ip -o addr").contains(FAR), "the address is gone");
        }
    }
    assert!(!Path::new("/run/told.down").exists(), "what has not begun has no end");
}

/// What `up` has set, `down` takes back, also when the port is taken.
#[test]
fn a_start_that_fails_later_runs_down() {
    let lab = Lab::new();
    let telling = script("telling", TELLING);
    let _other = server(&lab.remote, "-i other -s");
    let text = format!(
        "security = 'plain'\ninterface = 't2'\nserver = true\nhook-up = ['{telling}']\nhook-down = ['{telling}']\n"
    );
    fs::write("/run/server.toml", text).expect("write the settings");
    let mut daemon = simpletun(&lab.remote, "--config /run/server.toml");
    assert_eq!(daemon.wait_exit(), 1, "{}", daemon.text());
    Told::by("up").knows(&[
        ("INTERFACE", "t2"),
        ("dev", "t2"),
        ("tun_mtu", "1500"),
        ("script_type", "up"),
        ("REASON", "start"),
    ]);
    assert_eq!(Told::by("down").variables["REASON"], "stop");
}

/// A script that waits for something is no reason not to be stopped.
#[test]
fn a_start_that_waits_for_up_can_be_ended() {
    let lab = Lab::new();
    let hanging = script("hanging", "#!/bin/sh\ntouch /run/begun\nsleep 1000\n");
    client_file(Kind::PLAIN_TCP, &format!("hook-up = ['{hanging}']\nhook-timeout = '1h'\n"));
    let mut client = start_client(&lab);
    wait_until(DEADLINE, "beginning of the hook", || Path::new("/run/begun").exists());
    client.terminate();
    assert!(!lab.local.run("ip -o link").contains("t1:"), "the device is gone");
}

/// A script hangs, and does not even end when it is asked to: packets pass, and it is gone in the end.
#[test]
fn a_hook_that_hangs_is_killed_while_packets_pass() {
    let lab = Lab::with_test_inside();
    let hanging = script(
        "hanging",
        "#!/bin/sh\ntrap '' TERM\necho $$ > /run/pid.part\nmv /run/pid.part /run/pid\nwhile :; do sleep 1000; done\n",
    );
    client_file(Kind::PLAIN_UDP, &format!("hook-link-up = ['{hanging}']\nhook-timeout = '1s'\n"));
    let _server = start_server(&lab, Kind::PLAIN_UDP);
    let client = start_client(&lab);
    client.wait_for(line::DEVICE);
    let _responder = Responder::new(&lab.remote);
    let pulse = Pulse::new(FAR, Duration::from_millis(5));
    pulse.begins();
    let begun = Instant::now();
    let pid = wait_for(DEADLINE, "number of the process", || fs::read_to_string("/run/pid").ok()).0;
    assert!(Path::new(&format!("/proc/{}", pid.trim())).exists());
    client.wait_for("did not end within 1s");
    client.wait_for("is killed");
    wait_until(DEADLINE, "end of its group", || {
        let stats = fs::read_dir("/proc")
            .expect("processes")
            .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
        // Nobody here waits for the orphans of a killed group.
        let group = |stat: String| {
            let mut fields = stat.rsplit_once(") ")?.1.split(' ');
            (fields.next()? != "Z").then(|| fields.nth(1) == Some(pid.trim()))
        };
        !stats.filter_map(group).any(|is_of_group| is_of_group)
    });
    pulse.returns_after(Instant::now(), DEADLINE);
    let beats = pulse.finish();
    let while_it_ran: Vec<usize> = (0..beats.sent.len()).filter(|number| beats.sent[*number] >= begun).collect();
    let lost = while_it_ran.iter().filter(|number| !beats.returned.iter().any(|(back, _)| *back == **number as u64));
    assert_eq!(lost.count(), 0, "of {}", while_it_ran.len());
}

/// The link comes and goes while a slow script runs: no queue of scripts, and the last state is told.
#[test]
fn a_link_that_flaps_runs_one_hook_at_a_time_and_tells_the_last_state() {
    let lab = Lab::new();
    new_secret("/run/secret");
    let slow = script(
        "slow",
        "#!/bin/sh\n[ -e /run/busy ] && echo overlap >> /run/course\ntouch /run/busy\necho \"$script_type\" >> /run/course\n\
         until [ -e /run/go ]; do sleep 0.05; done\nrm /run/busy\n",
    );
    let kind = Kind::SECURE_UDP;
    client_file(kind, &format!("hook-link-up = ['{slow}']\nhook-link-down = ['{slow}']\nhook-timeout = '5m'\n"));
    let course = || fs::read_to_string("/run/course").unwrap_or_default();
    let client = start_client(&lab);
    client.wait_for(line::DEVICE);
    for _ in 0..3 {
        let mark = client.mark();
        let mut server = start_server(&lab, kind);
        client.wait_after(mark, line::UP);
        wait_until(DEADLINE, "first hook", || course().starts_with("link-up"));
        server.terminate();
        client.wait_after(mark, line::DOWN);
    }
    assert_eq!(course(), "link-up\n");
    fs::write("/run/go", "").expect("write");
    wait_until(DEADLINE, "last state", || course() == "link-up\nlink-down\n");
    let _server = start_server(&lab, kind);
    wait_until(DEADLINE, "newest state", || course() == "link-up\nlink-down\nlink-up\n");
}

/// Whatever stands in an argument is an argument, and a hook that cannot be run later than the start is only warned of.
#[test]
fn no_shell_looks_at_a_hook() {
    let lab = Lab::new();
    let telling = script("telling", TELLING);
    let words = ["$(touch /run/evil)", "*", "a  b", "; touch /run/evil", "`touch /run/evil`", "$HOME"];
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    client_file(
        Kind::PLAIN_TCP,
        &format!("hook-up = ['{telling}', {}]\nhook-link-up = ['/run/none']\n", quoted.join(", ")),
    );
    let _server = start_server(&lab, Kind::PLAIN_TCP);
    let mut client = start_client(&lab);
    assert_eq!(Told::by("up").arguments, words);
    client.wait_for("The hook link-up (/run/none) cannot be started: No such file or directory");
    lab.local.ping_until_answered(FAR, DEADLINE);
    client.terminate();
    // The same on the command line, where words are split as a shell does it.
    let mut command = lab.local.command(env!("CARGO_BIN_EXE_simpletun"));
    command.args([
        "--config",
        "/run/client.toml",
        "--hook-up",
        &format!("{telling} {} plain \"b c\"", quoted.join(" ")),
    ]);
    let mut client = Daemon::spawn("simpletun --hook-up".to_owned(), command);
    assert_eq!(Told::by("up").arguments, [&words[..], &["plain", "b c"]].concat());
    client.wait_for(line::UP);
    client.terminate();
    assert!(!Path::new("/run/evil").exists());
}
