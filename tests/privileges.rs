//! What the daemon may do once it runs, what it can do all the same, and what becomes of its work when it is killed.

#![expect(clippy::disallowed_methods, reason = "a test may look up a name itself")]

use std::fs::{self, File};
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::common::daemon::{Daemon, children_of, refused, server, simpletun, simpletun_as};
use crate::common::lab::{Lab, NOBODY, Ns, REMOTE};
use crate::common::line;
use crate::common::secure::{new_secret, write_key};
use crate::common::wait::{DEADLINE, exit_of, succeed, wait_until};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socket, socketpair,
};
use serde_json::{Value, json};
use simpletun::privileges::sandbox::{self, Paths};

const BINARY: &str = env!("CARGO_BIN_EXE_simpletun");
const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";
const REDUCED: &str = "this process is user";

/// `CAP_NET_ADMIN` and `CAP_NET_BIND_SERVICE` as /proc writes them.
const NET_ADMIN: &str = "0000000000001000";
const NET_ADMIN_AND_BIND: &str = "0000000000001400";
const NOTHING: &str = "0000000000000000";

over_both! {
    the_process_that_touches_packets_keeps_no_right_and_its_helper_one
    a_marked_link_is_made_anew_without_rights
    a_reload_brings_new_addresses_and_keys_that_the_process_itself_may_not_read
    what_others_take_from_the_device_is_put_back_without_rights
    keys_are_replaced_again_and_again_without_rights
    a_killed_daemon_leaves_an_existing_device_as_it_was
    a_daemon_without_rights_runs_on_a_device_that_was_made_for_it
}

/// One line of `/proc/PID/status`.
#[track_caller]
fn status(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in {text}")).trim().to_owned()
}

/// Whoever was no root cannot empty the bounding set, which no-new-privs makes good for.
#[track_caller]
fn assert_capabilities_held(pid: u32, expected: &str) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, set), expected, "{set} of {pid}");
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1");
}

#[track_caller]
fn assert_capabilities(pid: u32, expected: &str) {
    for (set, expected) in
        [("CapInh", NOTHING), ("CapPrm", expected), ("CapEff", expected), ("CapBnd", expected), ("CapAmb", NOTHING)]
    {
        assert_eq!(status(pid, set), expected, "{set} of {pid}");
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1");
}

fn kill(pid: u32, signal: &str) {
    succeed(Command::new("kill").args(["-s", signal, &pid.to_string()]).output().expect("run kill"), "kill");
}

/// Waits for the end of a process that is not a child of the test.
fn gone(pid: u32) {
    let is_gone = || {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"));
        text.is_err() || text.is_ok_and(|text| text.contains(") Z "))
    };
    wait_until(DEADLINE, format!("end of process {pid}"), is_gone);
}

/// A link between `tun3` here, which was there before, and `t2` there.
fn pair(lab: &Lab, transport: &str, near: &str) -> (Daemon, Daemon) {
    new_secret("/run/secret");
    lab.local.run("ip tuntap add dev tun3 mode tun");
    let far = server(&lab.remote, &format!("-i t2 -s {transport} --secret-file /run/secret --address {FAR}/24"));
    let near = format!("-i tun3 -c {REMOTE} {transport} --secret-file /run/secret --address {NEAR}/24 {near}");
    let near = simpletun(&lab.local, &near);
    near.wait_for(line::UP);
    (near, far)
}

#[track_caller]
fn assert_as_before(ns: &Ns) {
    let is_bare = || {
        let shown = ns.run("ip addr show dev tun3");
        !shown.contains("inet ") && !shown.contains(",UP")
    };
    wait_until(DEADLINE, "a device as it was", is_bare);
    assert!(!ns.run("ip route").contains("tun3"));
}

/// An intruder in the process that reads packets finds nothing there to use.
fn the_process_that_touches_packets_keeps_no_right_and_its_helper_one(transport: &str) {
    let lab = Lab::new();
    let (near, far) = pair(&lab, transport, "");
    lab.local.ping(FAR, 2, 56);
    for daemon in [&near, &far] {
        let said = daemon.wait_for(REDUCED);
        assert!(said.contains("without capabilities, seccomp, Landlock"), "{said}");
        let pid = daemon.pid();
        assert_capabilities(pid, NOTHING);
        assert_eq!(status(pid, "Seccomp"), "2");
        assert_eq!(status(pid, "Uid").split('\t').collect::<Vec<_>>(), ["65534"; 4]);
        assert_eq!(status(pid, "Groups"), "");
        let helper = daemon.helper();
        assert_capabilities(helper, NET_ADMIN);
        assert_eq!(status(helper, "Seccomp"), "2");
    }
}

/// The server can be reached by marked packets only, and is reached again after the connection was made anew.
fn a_marked_link_is_made_anew_without_rights(transport: &str) {
    let lab = Lab::new();
    lab.local.run(&format!("ip rule add fwmark 7 to {REMOTE} lookup main pref 100"));
    lab.local.run(&format!("ip rule add to {REMOTE} lookup 100 pref 101"));
    lab.local.run("ip route add blackhole default table 100");
    let (near, far) = pair(&lab, transport, "--fwmark 7 --rcvbuf 8000000");
    lab.local.ping(FAR, 2, 56);
    for _ in 0..2 {
        let mark = far.mark();
        near.signal("USR1");
        if transport.is_empty() {
            far.wait_after(mark, line::RESUMED);
        }
        lab.local.ping_until_answered(FAR, DEADLINE);
    }
    // Twice what was asked for (socket(7)), which is more than the system grants without a right.
    let sockets = lab.local.run(&format!("ss -Hna {} -pem", if transport.is_empty() { "-t" } else { "-u" }));
    assert!(sockets.contains("fwmark:0x7") && sockets.contains("rb16000000"), "{sockets}");
}

/// The administrator changes a file that only root can read, and its key, and tells the daemon.
fn a_reload_brings_new_addresses_and_keys_that_the_process_itself_may_not_read(transport: &str) {
    let lab = Lab::new();
    lab.local.run("ip tuntap add dev tun3 mode tun");
    let secrets = [new_secret("/run/old"), new_secret("/run/new")];
    fs::create_dir("/run/root").expect("make a directory");
    let udp = !transport.is_empty();
    let write = |address: &str, key: &str| {
        let text = format!(
            "security = \"secret\"\ninterface = \"tun3\"\nconnect = \"{REMOTE}\"\nudp = {udp}\n\
             address = [\"{address}/24\"]\nsecret-file = [\"/run/root/{key}\"]\n"
        );
        write_key("/run/root/link.toml", &text);
    };
    write_key("/run/root/a", &secrets[0]);
    write(NEAR, "a");
    lab.local.run("chmod 700 /run/root");
    let both = "--secret-file /run/old --secret-file /run/new";
    let _far = server(&lab.remote, &format!("-i t2 -s {transport} {both} --address {FAR}/24"));
    let near = simpletun(&lab.local, "--config /run/root/link.toml");
    near.wait_for(line::UP);
    lab.local.ping_until_answered(FAR, DEADLINE);

    write_key("/run/root/b", &secrets[1]);
    write("192.168.0.7", "b");
    let mark = near.mark();
    near.signal("HUP");
    near.wait_after(mark, "changed address, secret-file");
    near.signal("USR1");
    near.wait_after(mark, "reconnecting as asked");
    lab.local.ping_until_answered(FAR, DEADLINE);
    let shown = lab.local.run("ip -br addr show dev tun3");
    assert!(shown.contains("192.168.0.7/24") && !shown.contains(NEAR), "{shown}");

    let mark = near.mark();
    lab.local.run("chmod 644 /run/root/b");
    near.signal("HUP");
    let said = near.wait_after(mark, "going on with the configuration that is in force");
    assert!(said.contains("chmod 600"), "{said}");
    lab.local.ping(FAR, 1, 56);
}

/// Signals come while the helper is at work for the daemon, one after another: each is obeyed, and nothing is lost.
#[test]
fn signals_that_come_while_the_helper_works_disturb_nothing() {
    let lab = Lab::new();
    lab.local.run("ip tuntap add dev tun3 mode tun");
    let write = |address: &str| {
        let text = format!(
            "security = \"plain\"\ninterface = \"tun3\"\nconnect = \"{REMOTE}\"\naddress = [\"{address}/24\"]\n"
        );
        fs::write("/run/link.toml", text).expect("write the file");
    };
    write(NEAR);
    let _far = server(&lab.remote, &format!("-i t2 -s --address {FAR}/24"));
    let near = simpletun(&lab.local, "--config /run/link.toml");
    near.wait_for(line::UP);
    for round in 0..20 {
        write(&format!("192.168.0.{}", 100 + round));
        let mark = near.mark();
        near.signal("HUP");
        for _ in 0..20 {
            near.signal("USR1");
        }
        near.wait_after(mark, "changed address");
    }
    let has_it = || lab.local.run("ip -br addr show dev tun3").contains("192.168.0.119/24");
    wait_until(DEADLINE, "the last address", has_it);
    lab.local.ping_until_answered(FAR, DEADLINE);
    assert!(!near.said("through the helper"), "{}", near.text());
}

/// Another program takes the address away.
fn what_others_take_from_the_device_is_put_back_without_rights(transport: &str) {
    let lab = Lab::new();
    let (near, _far) = pair(&lab, transport, "--route 10.99.0.0/16");
    lab.local.run(&format!("ip addr del {NEAR}/24 dev tun3"));
    near.wait_for("put back");
    let is_back = || {
        lab.local.run("ip -br addr show dev tun3").contains(NEAR) && lab.local.run("ip route").contains("10.99.0.0/16")
    };
    wait_until(DEADLINE, "the address and the route", is_back);
    lab.local.ping_until_answered(FAR, DEADLINE);
}

/// Sessions are renewed while packets cross.
fn keys_are_replaced_again_and_again_without_rights(transport: &str) {
    let lab = Lab::new();
    let (near, _far) = pair(&lab, transport, "--rekey-after 200ms");
    let renewed = || {
        lab.local.ping(FAR, 5, 56);
        near.statistics().get(crate::common::stat::HANDSHAKES) >= 4
    };
    wait_until(2 * DEADLINE, "four handshakes", renewed);
    assert!(!near.said(line::DOWN), "{}", near.text());
}

/// `--config <(generator)`: what can be read only once is remembered, by both processes.
#[test]
fn a_configuration_from_a_pipe_is_read_once_and_reloaded_from_memory() {
    let lab = Lab::new();
    lab.local.run("ip tuntap add dev tun3 mode tun");
    let text =
        format!("security = \\\"plain\\\"\ninterface = \\\"tun3\\\"\nserver = true\naddress = [\\\"{NEAR}/24\\\"]");
    let mut command = lab.local.command("bash");
    command.args(["-c", &format!("exec {BINARY} --config <(echo \"{text}\")")]);
    let daemon = Daemon::spawn("a daemon that reads from a pipe".to_owned(), command);
    daemon.wait_for(line::LISTENING);
    let mark = daemon.mark();
    daemon.signal("HUP");
    daemon.wait_after(mark, "configuration read again");
    lab.local.run(&format!("ip addr del {NEAR}/24 dev tun3"));
    daemon.wait_for("put back");
}

/// Nobody cleans up behind a daemon that was killed, but its helper.
fn a_killed_daemon_leaves_an_existing_device_as_it_was(transport: &str) {
    let lab = Lab::new();
    let (mut near, _far) = pair(&lab, transport, "--route 10.99.0.0/16");
    let helper = near.helper();
    near.kill();
    gone(helper);
    assert_as_before(&lab.local);
    assert!(!fs::exists("/run/simpletun-root/tun3.undo").expect("look"), "no record is left");
}

/// The device was made for the user and configured beforehand: no right is needed at any time, and no helper.
fn a_daemon_without_rights_runs_on_a_device_that_was_made_for_it(transport: &str) {
    let lab = Lab::new();
    lab.remote.run(&format!("ip tuntap add dev tun3 mode tun user {NOBODY}"));
    lab.remote.run(&format!("ip addr add {FAR}/24 dev tun3"));
    lab.remote.run("ip link set tun3 up");
    let far = simpletun_as(NOBODY, &lab.remote, &format!("-i tun3 -s {transport}"));
    far.wait_for(line::LISTENING);
    assert_eq!(status(far.pid(), "NoNewPrivs"), "1");
    assert_eq!(status(far.pid(), "Seccomp"), "2");
    assert_eq!(children_of(far.pid()), [0; 0]);
    let near = simpletun(&lab.local, &format!("-i t1 -c {REMOTE} {transport} --address {NEAR}/24"));
    near.wait_for(line::DEVICE);
    lab.local.ping_until_answered(FAR, DEADLINE);
}

/// Whoever has no rights has programs of its own all the same, in each state of the link, and its helper has none either.
#[test]
fn a_daemon_without_rights_runs_its_hooks() {
    let lab = Lab::new();
    lab.remote.run(&format!("ip tuntap add dev tun3 mode tun user {NOBODY}"));
    lab.remote.run(&format!("ip addr add {FAR}/24 dev tun3"));
    lab.remote.run("ip link set tun3 up");
    fs::create_dir("/run/told").expect("make a directory");
    lab.remote.run("chmod 777 /run/told");
    let hooks = ["up", "link-up", "down"].map(|name| format!("hook-{name} = ['/usr/bin/touch', '/run/told/{name}']\n"));
    let text = format!("security = \"plain\"\ninterface = \"tun3\"\nserver = true\n{}", hooks.concat());
    fs::write("/run/link.toml", text).expect("write the file");
    let mut far = simpletun_as(NOBODY, &lab.remote, "--config /run/link.toml");
    far.wait_for(line::LISTENING);
    assert_capabilities_held(far.helper(), NOTHING);
    let _near = simpletun(&lab.local, &format!("-i t1 -c {REMOTE} --address {NEAR}/24"));
    wait_until(DEADLINE, "the hook link-up", || fs::exists("/run/told/link-up").expect("look"));
    far.terminate();
    for name in ["up", "link-up", "down"] {
        assert!(fs::exists(format!("/run/told/{name}")).expect("look"), "{name}: {}", far.text());
    }
    assert!(!far.said("cannot be started"), "{}", far.text());
}

/// Hooks are programs of the administrator with the helper's one right; what they are refused is of no use to them.
#[test]
fn hooks_can_configure_the_network_and_nothing_else() {
    let lab = Lab::new();
    let text = "#!/bin/sh\n/sbin/ip route add 10.77.0.0/16 dev $dev\n/sbin/ip link set tun9 up\n\
         grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status >/run/rights.part\n\
         unshare -U true 2>/dev/null && echo unshared >>/run/rights.part\nmv /run/rights.part /run/rights\n";
    fs::write("/run/hook", text).expect("write the program");
    lab.local.run("chmod 755 /run/hook");
    lab.local.run("ip tuntap add dev tun9 mode tun");
    let near = server(&lab.local, &format!("-i tun3 -s --address {NEAR}/24 --hook-up /run/hook"));
    let rights = fs::read_to_string("/run/rights").expect("what the hook has told");
    for expected in
        ["NoNewPrivs:\t1", "Seccomp:\t2", &format!("CapEff:\t{NET_ADMIN}"), &format!("CapBnd:\t{NET_ADMIN}")]
    {
        assert!(rights.contains(expected), "{expected}: {rights}");
    }
    assert!(!rights.contains("unshared"), "{rights}");
    assert!(lab.local.run("ip route").contains("10.77.0.0/16 dev tun3"));
    assert!(lab.local.run("ip link show dev tun9").contains(",UP"));
    assert_eq!(status(near.helper(), "Seccomp"), "2");
}

/// Who starts programs is there from the start on, or not at all.
#[test]
fn first_hooks_that_come_by_a_reload_wait_for_a_restart() {
    let lab = Lab::new();
    let text = "security = \"plain\"\ninterface = \"tun3\"\nserver = true\n";
    fs::write("/run/link.toml", text).expect("write the file");
    let mut daemon = server(&lab.local, "--config /run/link.toml");
    fs::write("/run/link.toml", format!("{text}hook-down = ['/usr/bin/touch', '/run/told']\n")).expect("write");
    let mark = daemon.mark();
    daemon.signal("HUP");
    daemon.wait_after(mark, "only a restart changes hook-down, left as before");
    daemon.terminate();
    assert!(!daemon.said("The hook") && !fs::exists("/run/told").expect("look"), "{}", daemon.text());
}

/// What is left of the daemon could change nothing about the network any more: it ends, with a reason, and the next one
/// puts in order what was left.
#[test]
fn a_daemon_whose_helper_is_killed_ends_with_a_reason_and_the_next_one_cleans_up() {
    let lab = Lab::new();
    let (mut near, _far) = pair(&lab, "", "--route 10.99.0.0/16");
    kill(near.helper(), "KILL");
    assert_eq!(near.wait_exit(), 1, "{}", near.text());
    assert!(near.said("helper process") && near.said("has ended"), "{}", near.text());
    assert!(lab.local.run("ip -br addr show dev tun3").contains(NEAR), "nobody was left to take it back");
    let next =
        simpletun(&lab.local, &format!("-i tun3 -c {REMOTE} --secret-file /run/secret --address 192.168.9.1/24"));
    next.wait_for("took back what a former run had left");
    next.wait_for(line::UP);
    let shown = lab.local.run("ip -br addr show dev tun3");
    assert!(shown.contains("192.168.9.1/24") && !shown.contains(NEAR), "{shown}");
}

/// Both are killed at once, as by a service manager that has lost patience.
#[test]
fn cleanup_takes_back_what_a_killed_pair_has_left() {
    let lab = Lab::new();
    let (mut near, _far) = pair(&lab, "", "--route 10.99.0.0/16");
    let clean_up = |arguments: &[&str]| {
        let output = lab.local.command(BINARY).arg("cleanup").args(arguments).output().expect("run simpletun");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = clean_up(&["tun3"]);
    assert!(code == Some(1) && said.contains("still running"), "{said}");
    lab.local.ping(FAR, 1, 56);

    let helper = near.helper();
    near.kill_with_helper();
    gone(helper);
    assert!(lab.local.run("ip route").contains("10.99.0.0/16"));
    fs::write("/run/link.toml", format!("security = \"plain\"\ninterface = \"tun3\"\nconnect = \"{REMOTE}\"\n"))
        .expect("write the file");
    assert_eq!(clean_up(&["--config", "/run/link.toml"]), (Some(0), String::new()));
    assert_as_before(&lab.local);
    assert_eq!(clean_up(&["tun3"]), (Some(0), String::new()), "nothing is left to do");
}

/// A record that another user could have written is nobody's order.
#[test]
fn cleanup_believes_no_record_that_others_can_write() {
    let ns = Ns::here();
    ns.run("ip tuntap add dev tun3 mode tun");
    ns.run("ip link set tun3 up");
    let index = fs::read_to_string("/sys/class/net/tun3/ifindex").unwrap_or_else(|_| {
        let shown = ns.run("ip -o link show dev tun3");
        shown.split(':').next().expect("an index").to_owned()
    });
    let record = json!({"version": 1, "journal": {"device": "tun3", "index": index.trim().parse::<u32>().expect("a number"),
        "kind": "tun", "applied": [{"change": "Up", "undo": "Down"}]}});
    fs::create_dir_all("/run/simpletun-root").expect("make the directory");
    fs::write("/run/simpletun-root/tun3.undo", record.to_string()).expect("write the record");
    ns.run("chmod 666 /run/simpletun-root/tun3.undo");
    let output = ns.command(BINARY).args(["cleanup", "tun3"]).output().expect("run simpletun");
    assert_eq!(output.status.code(), Some(1));
    assert!(ns.run("ip link show dev tun3").contains(",UP"));
    ns.run("chmod 600 /run/simpletun-root/tun3.undo");
    succeed(ns.command(BINARY).args(["cleanup", "tun3"]).output().expect("run simpletun"), "cleanup");
    assert!(!ns.run("ip link show dev tun3").contains(",UP"));
}

/// A name that does not exist is a mistake, a number that is nobody's is taken.
#[test]
fn the_user_of_run_as_is_the_one_that_was_asked_for() {
    let lab = Lab::new();
    let (code, said) = refused(&lab.local, "-i tun3 -s --run-as no-such-user");
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("systemd-sysusers") && said.contains("useradd"), "{said}");
    let daemon = server(&lab.local, "-i tun3 -s --run-as 4711");
    assert_eq!(status(daemon.pid(), "Uid").split('\t').next(), Some("4711"));
    assert_eq!(status(daemon.pid(), "Gid").split('\t').next(), Some("4711"));
}

/// For debugging, and nothing else is different.
#[test]
fn no_sandbox_leaves_out_seccomp_and_keeps_no_right_all_the_same() {
    let lab = Lab::new();
    let daemon = server(&lab.local, "-i tun3 -s --no-sandbox");
    assert_eq!(status(daemon.pid(), "Seccomp"), "0");
    assert_capabilities(daemon.pid(), NOTHING);
    assert!(daemon.said("neither seccomp nor Landlock"), "{}", daemon.text());
}

/// A port below 1024 takes a right that the process has not; the helper has it for this one.
#[test]
fn a_low_port_is_listened_on_without_rights_and_again_after_a_reload() {
    let lab = Lab::new();
    let write = |port: u16| {
        let text = format!(
            "security = \"plain\"\ninterface = \"t2\"\nserver = true\nport = {port}\naddress = [\"{FAR}/24\"]\n"
        );
        fs::write("/run/link.toml", text).expect("write the file");
    };
    write(700);
    let far = server(&lab.remote, "--config /run/link.toml");
    assert_capabilities(far.helper(), NET_ADMIN_AND_BIND);
    lab.remote.wait_for_listener(700);
    write(701);
    far.signal("HUP");
    lab.remote.wait_for_listener(701);
    let near = simpletun(&lab.local, &format!("-i t1 -c {REMOTE}:701 --address {NEAR}/24"));
    near.wait_for(line::UP);
    lab.local.ping_until_answered(FAR, DEADLINE);
}

/// Where the peer was is remembered in a directory that belongs to root.
#[test]
fn the_peer_is_remembered_where_the_process_itself_may_not_write() {
    let lab = Lab::new();
    new_secret("/run/secret");
    fs::create_dir("/run/state").expect("make a directory");
    lab.local.run("chmod 700 /run/state");
    let far = format!("-i t2 -s --udp --secret-file /run/secret --state-dir /run/state --address {FAR}/24");
    let far = server(&lab.remote, &far);
    let near = simpletun(&lab.local, &format!("-i t1 -c {REMOTE} --udp --secret-file /run/secret --address {NEAR}/24"));
    far.wait_for(line::UP);
    near.wait_for(line::UP);
    let written = || fs::read_to_string("/run/state/t2.peer").is_ok_and(|text| text.starts_with("10.86.43.51:"));
    wait_until(DEADLINE, "the peer's address", written);
    assert!(!far.said("Cannot"), "{}", far.text());
}

/// Whoever has taken over the process that reads packets cannot make the helper do what the administrator has not
/// written down.
#[test]
fn the_helper_does_nothing_that_is_not_in_the_configuration() {
    let ns = Ns::here();
    ns.run("ip tuntap add dev tun3 mode tun");
    new_secret("/run/secret");
    let mut helper =
        Helper::start(&ns, "tun3", "-i tun3 -s --secret-file /run/secret --address 192.168.0.1/24 --fwmark 7");
    assert_eq!(helper.ask(&json!({"Apply": "Up"}), None), json!("Done"));
    assert!(ns.run("ip link show dev tun3").contains(",UP"));
    let refused = |answer: Value| answer["Refused"]["errno"] == json!(1);
    assert!(refused(helper.ask(&json!({"Apply": {"Route": "0.0.0.0/0"}}), None)));
    assert!(refused(helper.ask(&json!({"Apply": {"Mtu": 600}}), None)), "the device is not the daemon's own");
    let address = json!({"local": "192.168.0.99", "peer": null, "prefix_len": 24});
    assert!(refused(helper.ask(&json!({"Reconcile": ["Up", {"Address": address}]}), None)));
    assert!(!ns.run("ip addr show dev tun3").contains("192.168.0.99"));

    let socket = |family| socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let internet = socket(AddressFamily::Inet);
    assert_eq!(helper.ask(&json!({"Socket": {"Mark": 7}}), Some(&internet)), json!("Done"));
    for option in [
        json!({"Mark": 8}),
        json!({"Device": "lo"}),
        json!({"Congestion": "reno"}),
        json!({"Bind": "127.0.0.1:53"}),
        json!({"SendBuffer": 1_000_000_000}),
    ] {
        assert_eq!(helper.ask(&json!({"Socket": option}), Some(&internet)), json!({"Failed": 1}), "{option}");
    }
    let other = socket(AddressFamily::Unix);
    assert_eq!(helper.ask(&json!({"Socket": {"Mark": 7}}), Some(&other)), json!({"Failed": 1}));
    assert_eq!(helper.ask(&json!({"Socket": {"Mark": 7}}), None), json!({"Failed": libc_ebadf()}));

    assert_eq!(helper.ask(&json!({"Key": "/run/secret"}), None), json!("Done"));
    assert_eq!(helper.ask(&json!({"Key": "/etc/shadow"}), None), json!({"Failed": 1}));
    assert_eq!(helper.ask(&json!({"Credential": "../../etc/shadow"}), None), json!({"Credential": null}));

    // What means nothing ends it, and it takes back what was done.
    helper.send(b"{\"Format\":\"disk\"}", None);
    exit_of(&mut helper.child, DEADLINE, "the helper");
    assert!(!ns.run("ip link show dev tun3").contains(",UP"));
}

/// It is told its device once, by number and name.
#[test]
fn the_helper_does_not_start_for_another_device_or_by_hand() {
    let ns = Ns::here();
    ns.run("ip tuntap add dev tun3 mode tun");
    let mut command = ns.command(BINARY);
    command.args(["helper", "--device", "tun3", "--index", "1", "--", "-i", "tun3", "-s"]);
    let (ours, theirs) = seqpacket();
    let start: [_; 1] = [std::io::IoSlice::new(b"{\"Start\":null}")];
    sendmsg::<()>(ours.as_raw_fd(), &start, &[], MsgFlags::empty(), None).expect("send");
    let output = command.stdin(theirs).output().expect("run simpletun");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another one by now"), "{output:?}");
    let output = command.stdin(Stdio::null()).output().expect("run simpletun");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("started by simpletun itself"), "{output:?}");
}

fn libc_ebadf() -> i32 {
    Errno::EBADF as i32
}

fn seqpacket() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("a pair")
}

/// A helper whose other half is the test.
struct Helper {
    child: Child,
    socket: OwnedFd,
}

impl Helper {
    fn start(ns: &Ns, device: &str, arguments: &str) -> Self {
        let shown = ns.run(&format!("ip -o link show dev {device}"));
        let index = shown.split(':').next().expect("an index");
        let (socket, theirs) = seqpacket();
        let mut command = ns.command(BINARY);
        command.args(["helper", "--device", device, "--index", index, "--"]).args(arguments.split_whitespace());
        let child = command.stdin(theirs).spawn().expect("run simpletun");
        let mut helper = Self { child, socket };
        helper.send(b"{\"Start\":null}", None);
        assert_eq!(helper.answer(), json!("Done"));
        helper
    }

    fn send(&mut self, message: &[u8], descriptor: Option<&OwnedFd>) {
        let raw = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
        let control: Vec<_> = raw.iter().map(|raw| ControlMessage::ScmRights(raw)).collect();
        let parts = [std::io::IoSlice::new(message)];
        sendmsg::<()>(self.socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), None).expect("send");
    }

    fn answer(&mut self) -> Value {
        let mut buffer = vec![0; 65_536];
        let len = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("receive");
        serde_json::from_slice(&buffer[..len]).expect("JSON")
    }

    fn ask(&mut self, request: &Value, descriptor: Option<&OwnedFd>) -> Value {
        self.send(request.to_string().as_bytes(), descriptor);
        self.answer()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sandbox refuses what an intruder would like to do, and lets happen what the daemon does.
#[test]
fn the_sandbox_refuses_files_programs_families_and_signals_and_names_are_looked_up() {
    let _ns = Ns::here();
    fs::create_dir("/run/allowed").expect("make a directory");
    fs::write("/run/forbidden", "text").expect("write a file");
    let mut bystander = Command::new("sleep").arg("1000").spawn().expect("run sleep");
    let victim = nix::unistd::Pid::from_raw(bystander.id().cast_signed());
    // Both belong to the thread that enters.
    let tried = thread::spawn(move || {
        let entered = sandbox::enter(&Paths { read: Vec::new(), write: vec![PathBuf::from("/run/allowed")] });
        assert!(entered.contains("seccomp, Landlock (version"), "{entered}");
        let family = |family| socket(family, SockType::Raw, SockFlag::empty(), None).map(drop);
        let refused: Vec<(&str, bool)> = vec![
            ("a file", File::open("/run/forbidden").is_err()),
            ("a directory", fs::read_dir("/root").is_err()),
            ("a new file", fs::write("/tmp/simpletun-sandbox", "x").is_err()),
            ("a file in /etc", fs::write("/etc/simpletun-sandbox", "x").is_err()),
            ("the device node", File::open("/dev/net/tun").is_err()),
            ("a program", Command::new("/bin/true").status().is_err()),
            ("a signal", nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL).is_err()),
            ("packets", family(AddressFamily::Packet) == Err(Errno::EPERM)),
            ("the key ring", family(AddressFamily::Alg) == Err(Errno::EPERM)),
            ("a debugger", family(AddressFamily::Vsock) == Err(Errno::EPERM)),
        ];
        for (what, is_refused) in refused {
            assert!(is_refused, "{what} is to be refused");
        }
        fs::write("/run/allowed/file", "x").expect("write where it may");
        fs::rename("/run/allowed/file", "/run/allowed/other").expect("rename where it may");
        TcpListener::bind("127.0.0.1:0").expect("listen");
        thread::spawn(|| ("localhost", 1).to_socket_addrs().expect("an address").count()).join().expect("a thread");
        fs::read_to_string("/proc/self/status").expect("/proc");
    });
    tried.join().expect("the sandbox does as it says");
    assert!(bystander.try_wait().expect("wait").is_none(), "it lives");
    let _ = bystander.kill();
    let _ = bystander.wait();
}
