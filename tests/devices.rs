//! Devices: created, pre-made by every other tool, refused, busy, down, deleted.

use std::process::Command;
use std::time::Duration;

use crate::common::daemon::{Daemon, refused, refused_as, server, simpletun, simpletun_as};
use crate::common::lab::{Lab, NOBODY, Ns, PYTHON, STRANGER};
use crate::common::net::transfer;
use crate::common::peer::{Wire, echo_request};
use crate::common::wait::{DEADLINE, holds_for, wait_until};
use crate::common::{line, stat};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";
const SERVER: &str = "10.86.43.52:55555";

#[test]
fn the_kernel_picks_the_name_of_a_pattern() {
    let lab = Lab::new();
    let first = server(&lab.remote, "-i tun%d -s");
    assert!(first.said("tun0"), "the real name is logged");
    let second = server(&lab.remote, "-i tun%d -s -p 4000");
    assert!(second.said("tun1"), "the real name is logged");
    assert!(lab.remote.has_device("tun0") && lab.remote.has_device("tun1"));
    let tap = server(&lab.remote, "-i tap%d -s -a -p 4001");
    assert!(tap.said("tap0"), "the real name is logged");
}

#[test]
fn a_transient_device_vanishes_with_its_daemon() {
    let lab = Lab::new();
    let mut daemon = server(&lab.remote, "-i tun3 -s");
    assert!(lab.remote.has_device("tun3"));
    daemon.terminate();
    assert!(!lab.remote.has_device("tun3"));
    let mut daemon = server(&lab.remote, "-i tun3 -s");
    daemon.kill();
    wait_until(DEADLINE, "end of the device", || !lab.remote.has_device("tun3"));
}

#[test]
fn a_persistent_device_keeps_owner_and_group() {
    let lab = Lab::new();
    let mut daemon = server(&lab.remote, "-i tun3 -s --persist --owner nobody --owner-group 65533");
    daemon.terminate();
    let list = lab.remote.run("ip tuntap list");
    let device = list.lines().find(|text| text.starts_with("tun3:")).expect("the device outlives its daemon");
    for part in ["tun", "persist", "user 65534", "group 65533"] {
        assert!(device.contains(part), "{part} in {device}");
    }
}

#[test]
fn an_owner_attaches_without_privileges() {
    let lab = Lab::new();
    lab.remote.run("ip tuntap add dev tun3 mode tun user 65534");
    let daemon = simpletun_as(NOBODY, &lab.remote, "-i tun3 -s");
    daemon.wait_for(line::LISTENING);
}

#[test]
fn a_member_of_the_group_attaches_without_privileges() {
    let lab = Lab::new();
    lab.remote.run(&format!("ip tuntap add dev tap3 mode tap group {STRANGER}"));
    let daemon = simpletun_as(STRANGER, &lab.remote, "-i tap3 -s -a");
    daemon.wait_for(line::LISTENING);
}

#[test]
fn another_user_is_told_whose_device_it_is() {
    let lab = Lab::new();
    lab.remote.run("openvpn --mktun --dev tun3 --user nobody");
    let (code, said) = refused_as(STRANGER, &lab.remote, "-i tun3 -s");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("tun3") && (said.contains("nobody") || said.contains("65534")), "{said}");
}

#[test]
fn a_user_without_privileges_is_told_how_to_have_the_device_made() {
    let lab = Lab::new();
    let (code, said) = refused_as(STRANGER, &lab.remote, "-i tun3 -s");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("mktun") && said.contains("tun3"), "{said}");
}

#[test]
fn a_tun_device_as_tap_is_refused_with_the_cure() {
    let lab = Lab::new();
    lab.remote.run("ip tuntap add dev dev3 mode tun");
    let (code, said) = refused(&lab.remote, "-i dev3 -s -a");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("dev3") && said.contains("tun device"), "{said}");
}

#[test]
fn a_tap_device_as_tun_is_refused_with_the_cure() {
    let lab = Lab::new();
    lab.remote.run("ip tuntap add dev dev3 mode tap");
    let (code, said) = refused(&lab.remote, "-i dev3 -s -u");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("dev3") && said.contains("tap device") && said.contains("-a"), "{said}");
}

#[test]
fn a_device_that_is_no_tunnel_device_is_refused() {
    let lab = Lab::new();
    let (code, said) = refused(&lab.remote, "-i eth0 -s");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("eth0"), "{said}");
}

#[test]
fn a_busy_device_is_refused_with_the_name_of_who_holds_it() {
    let lab = Lab::new();
    let holder = server(&lab.remote, "-i tun3 -s");
    let (code, said) = refused(&lab.remote, "-i tun3 -s -p 4000");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("tun3") && said.contains("simpletun"), "{said}");
    assert!(said.contains(&holder.pid().to_string()), "the holder is process {}: {said}", holder.pid());
}

#[test]
fn a_port_in_use_is_refused_with_its_number_and_who_holds_it() {
    let lab = Lab::new();
    for transport in ["", "--udp"] {
        let holder = server(&lab.remote, &format!("-i tun3 -s {transport}"));
        let (code, said) = refused(&lab.remote, &format!("-i tun4 -s {transport}"));
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("55555 is in use by simpletun (process {})", holder.pid())), "{said}");
    }
}

#[test]
fn a_start_that_fails_leaves_no_persistent_device() {
    let lab = Lab::new();
    let _taken = server(&lab.remote, "-i tun3 -s --address 192.168.0.2/24");
    let (code, said) = refused(&lab.remote, "-i tun4 -s --persist --address 10.5.0.1/24");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("55555") && said.contains("in use"), "{said}");
    assert!(!lab.remote.has_device("tun4"));
}

/// Scripts match these words.
#[test]
fn mktun_and_rmtun_say_what_tunctl_says() {
    let lab = Lab::new();
    let tool = |args: &str| lab.remote.run(&format!("{} {args}", env!("CARGO_BIN_EXE_simpletun")));
    for (args, said) in [
        ("mktun --dev tap0 --dev-type tap", "Set 'tap0' persistent and owned by uid 0\n"),
        ("mktun --dev tun0 --user nobody", "Set 'tun0' persistent and owned by uid 65534\n"),
        ("mktun --dev tun1 --user nobody --group 65533", "Set 'tun1' persistent and owned by uid 65534 gid 65533\n"),
    ] {
        assert_eq!(tool(args), said, "{args}");
    }
    let list = lab.remote.run("ip tuntap list");
    for device in
        ["tap0: tap persist user 0", "tun0: tun persist user 65534", "tun1: tun persist user 65534 group 65533"]
    {
        assert!(list.contains(device), "{device} in {list}");
    }
    for device in ["tap0", "tun0", "tun1"] {
        assert_eq!(tool(&format!("rmtun --dev {device}")), format!("Set '{device}' nonpersistent\n"));
        assert!(!lab.remote.has_device(device));
    }
}

/// Called by its name, the program takes tunctl's options and says what it says.
#[test]
fn called_as_tunctl_it_is_tunctl() {
    let lab = Lab::new();
    lab.remote.run(&format!("ln -s {} /run/tunctl", env!("CARGO_BIN_EXE_simpletun")));
    let tunctl = |args: &str| lab.remote.run(&format!("/run/tunctl {args}"));
    for (args, said) in [
        ("", "Set 'tap0' persistent and owned by uid 0\n"),
        ("-b -u nobody", "tap1\n"),
        ("-t tap7 -u 65534 -g 65533", "Set 'tap7' persistent and owned by uid 65534 gid 65533\n"),
        ("-t tun7 -n -g 65533 -f /dev/net/tun", "Set 'tun7' persistent and owned by gid 65533\n"),
    ] {
        assert_eq!(tunctl(args), said, "{args}");
    }
    let list = lab.remote.run("ip tuntap list");
    for device in
        ["tap1: tap persist user 65534", "tap7: tap persist user 65534 group 65533", "tun7: tun persist group 65533"]
    {
        assert!(list.contains(device), "{device} in {list}");
    }
    for device in ["tap0", "tap1", "tap7", "tun7"] {
        assert_eq!(tunctl(&format!("-d {device}")), format!("Set '{device}' nonpersistent\n"));
        assert!(!lab.remote.has_device(device));
    }
    let refused = lab.remote.try_run("/run/tunctl -u no-such-user");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&refused.stderr), "'no-such-user' is neither a username nor a numeric uid.\n");
}

#[test]
fn the_openvpn_form_makes_and_removes_devices() {
    let lab = Lab::new();
    let tool = |args: &str| lab.remote.run(&format!("{} {args}", env!("CARGO_BIN_EXE_simpletun")));
    let on = "TUN/TAP device tun77 opened\nPersist state set to: ON\n";
    assert_eq!(tool("--mktun --dev tun77 --user nobody"), on);
    assert!(lab.remote.run("ip tuntap list").contains("tun77: tun persist user 65534"));
    assert_eq!(tool("--rmtun --dev tun77"), on.replace("ON", "OFF"));
    assert!(!lab.remote.has_device("tun77"));
    assert_eq!(tool("--mktun --dev dev8 --dev-type tap"), on.replace("tun77", "dev8"));
    assert!(lab.remote.run("ip tuntap list").contains("dev8: tap persist"));
    // Our own form attaches to what either made, whatever its name says.
    assert_eq!(tool("rmtun --dev dev8"), "Set 'dev8' nonpersistent\n");
}

/// Command lines of tunctl's, run by it and by us: the same words, status and device, also where one of both has made what
/// the other removes.
#[test]
fn tunctl_and_we_do_the_same() {
    let lab = Lab::new();
    lab.remote.run(&format!("ln -s {} /run/tunctl", env!("CARGO_BIN_EXE_simpletun")));
    for args in [
        "",
        "-b",
        "-u nobody",
        "-b -u 65534 -t tap7",
        "-t tap7 -u nobody -g nogroup",
        "-t dev8 -g 65533 -f /dev/net/tun",
        "-t tap%d",
        "-d tap7",
        "-d tap7 -b -u nobody",
        "-u no-such-user",
        "-g no-such-group",
        "-t tap7 -f /dev/null",
        "-x",
        "surplus",
    ] {
        let [theirs, ours] = ["tunctl", "/run/tunctl"].map(|program| made_by(&lab.remote, program, args));
        assert_eq!(ours.code, theirs.code, "tunctl {args}");
        assert_eq!(ours.devices, theirs.devices, "tunctl {args}");
        assert_eq!(ours.said, theirs.said, "tunctl {args}");
        if args.contains("no-such") {
            // It says how it is used, too.
            assert_eq!(ours.complaint.lines().next(), theirs.complaint.lines().next(), "tunctl {args}");
        }
    }
    for [maker, remover] in [["tunctl", "/run/tunctl"], ["/run/tunctl", "tunctl"]] {
        lab.remote.run(&format!("{maker} -t tap9 -u nobody"));
        assert_eq!(lab.remote.run(&format!("{remover} -d tap9")), "Set 'tap9' nonpersistent\n");
        assert!(!lab.remote.has_device("tap9"), "made by {maker}");
    }
    lab.remote.run("tunctl -t tap9 -u nobody");
    let daemon = simpletun_as(NOBODY, &lab.remote, "-i tap9 -s -a");
    daemon.wait_for(line::LISTENING);
}

/// As above with openvpn's command lines. Its lines begin with the time, and it has a remark about a module of its own.
#[test]
fn openvpn_and_we_do_the_same() {
    let lab = Lab::new();
    let us = env!("CARGO_BIN_EXE_simpletun");
    for args in [
        "--mktun --dev tun77",
        "--mktun --dev tap7 --user nobody --group nogroup",
        "--dev dev8 --dev-type tap --mktun",
        "--mktun --dev tun",
        "--mktun --dev tap --user nobody",
        "--rmtun --dev tun77",
        "--rmtun --dev dev8 --dev-type tap",
    ] {
        let [theirs, ours] = ["openvpn", us].map(|program| made_by(&lab.remote, program, args));
        assert_eq!(ours.code, theirs.code, "openvpn {args}");
        // Where none is named openvpn's device has no owner, so that every user may attach to it. Ours is its maker's.
        let devices = if args.contains("--user") { ours.devices } else { ours.devices.replace(OWNED_BY_ROOT, "") };
        assert_eq!(devices, theirs.devices, "openvpn {args}");
        let without_time = |line: &str| line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
        let theirs: Vec<String> =
            theirs.said.lines().map(without_time).filter(|line| !line.starts_with("Note: ")).collect();
        assert_eq!(ours.said.lines().collect::<Vec<_>>(), theirs, "openvpn {args}");
    }
    for args in ["--mktun", "--mktun --dev tun7 --user no-such-user", "--mktun --rmtun --dev tun7 --no-such-option"] {
        let [theirs, ours] = ["openvpn", us].map(|program| made_by(&lab.remote, program, args));
        assert_eq!((ours.code, theirs.code), (1, 1), "openvpn {args}");
    }
    for [maker, remover] in [["openvpn", us], [us, "openvpn"]] {
        lab.remote.run(&format!("{maker} --mktun --dev tun9 --user nobody"));
        lab.remote.run(&format!("{remover} --rmtun --dev tun9"));
        assert!(!lab.remote.has_device("tun9"), "made by {maker}");
    }
    lab.remote.run(&format!("{us} --mktun --dev tun9"));
    let mut command = lab.remote.command("sh");
    command.args(["-c", "exec openvpn --dev tun9 --remote 10.86.43.51 --ifconfig 192.168.0.2 192.168.0.1 >&2"]);
    let theirs = Daemon::spawn("openvpn".to_owned(), command);
    theirs.wait_for("TUN/TAP device tun9 opened");
}

/// As `ip` shows it among the facts of a device.
const OWNED_BY_ROOT: &str = ", \"user\": String(\"root\")";

/// What came of a command line.
struct Made {
    code: i32,
    said: String,
    complaint: String,
    /// Names, kinds, owners, groups and flags.
    devices: String,
}

/// Runs a program of the tunctl family and removes the devices that it has made.
fn made_by(ns: &Ns, program: &str, args: &str) -> Made {
    let output = ns.try_run(&format!("{program} {args}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = ns.run("ip -d -j link");
    let all: Vec<serde_json::Value> = serde_json::from_str(&all).expect("JSON");
    let tunnels = all.iter().filter(|link| link["linkinfo"]["info_kind"] == "tun");
    let facts = |link: &serde_json::Value| {
        let facts = (&link["linkinfo"]["info_data"], &link["flags"], &link["mtu"], &link["txqlen"], &link["operstate"]);
        format!("{} {facts:?}\n", link["ifname"])
    };
    let devices: String = tunnels.clone().map(facts).collect();
    for link in tunnels {
        ns.run(&format!("ip link delete {}", link["ifname"].as_str().expect("a name")));
    }
    let code = output.status.code().expect("it ends by itself");
    Made { code, said: text(&output.stdout), complaint: text(&output.stderr), devices }
}

macro_rules! premade {
    ($($name:ident: $mode:ident $flags:literal;)*) => {
        $(
            #[test]
            fn $name() {
                premade_device_carries(stringify!($mode), $flags);
            }
        )*
    };
}

premade! {
    a_tun_device_without_flags_carries: tun "";
    a_tun_device_with_packet_information_carries: tun "pi";
    a_tun_device_with_virtio_headers_carries: tun "vnet_hdr";
    a_tun_device_of_one_queue_carries: tun "one_queue";
    a_tun_device_of_many_queues_carries: tun "multi_queue";
    a_tun_device_with_every_flag_carries: tun "pi vnet_hdr one_queue multi_queue";
    a_tap_device_without_flags_carries: tap "";
    a_tap_device_with_packet_information_carries: tap "pi";
    a_tap_device_with_virtio_headers_carries: tap "vnet_hdr";
    a_tap_device_of_one_queue_carries: tap "one_queue";
    a_tap_device_of_many_queues_carries: tap "multi_queue";
    a_tap_device_with_every_flag_carries: tap "pi vnet_hdr one_queue multi_queue";
}

/// The mask is the device's, not the descriptor's: left on, the kernel would hand us packets without checksums.
#[test]
fn offloads_that_an_earlier_program_left_on_are_replaced_by_ours() {
    let lab = Lab::new();
    lab.remote.run("ip tuntap add dev tun3 mode tun vnet_hdr");
    let offload = "import fcntl, os, struct\n\
                   fd = os.open('/dev/net/tun', os.O_RDWR)\n\
                   fcntl.ioctl(fd, 0x400454CA, struct.pack('16sH22x', b'tun3', 0x5001))\n\
                   fcntl.ioctl(fd, 0x400454D0, 7)\n";
    python(&lab.remote, offload);
    assert!(lab.remote.run("ethtool -k tun3").contains("tcp-segmentation-offload: on"), "the mask outlives its setter");

    let _server = server(&lab.remote, "-i tun3 -s --offload off --address 192.168.0.2/24");
    assert!(lab.remote.run("ethtool -k tun3").contains("tcp-segmentation-offload: off"));
    let client = simpletun(&lab.local, "-i t1 -c 10.86.43.52 --address 192.168.0.1/24");
    client.wait_for(line::UP);
    transfer(&lab.remote, &lab.local, NEAR, 1_000_000);
}

/// A queue more would read and inject our traffic.
#[test]
fn no_other_user_gets_a_queue_of_a_device_that_we_made() {
    let lab = Lab::new();
    let _server = server(&lab.remote, "-i tun3 -s --address 192.168.0.2/24");
    for flags in ["0x1001", "0x1101"] {
        let attach = format!(
            "import fcntl, os, struct\n\
             fd = os.open('/dev/net/tun', os.O_RDWR)\n\
             fcntl.ioctl(fd, 0x400454CA, struct.pack('16sH22x', b'tun3', {flags}))\n"
        );
        let output = lab.remote.command_as(STRANGER, PYTHON).args(["-c", &attach]).output().expect("run python3");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "a stranger attached with flags {flags}");
        assert!(
            ["PermissionError", "Device or resource busy", "Invalid argument"].iter().any(|e| said.contains(e)),
            "{said}"
        );
    }
}

#[test]
fn packets_for_a_device_that_is_down_are_counted_and_dropped() {
    let lab = Lab::quiet();
    let server = server(&lab.remote, "-i tun3 -s --address 192.168.0.2/24");
    let mut wire = Wire::connect(SERVER);
    wire.echo(NEAR, FAR, 1);
    lab.remote.run("ip link set tun3 down");
    for sequence in 2..12 {
        wire.send(&echo_request(NEAR, FAR, sequence, 56));
    }
    wait_until(DEADLINE, "ten drops", || server.statistics().get(stat::DROP_DEVICE_DOWN) >= 10);
    let before = server.usage();
    holds_for(Duration::from_secs(1), "the daemon sleeps", || {
        server.usage().cpu - before.cpu < Duration::from_millis(200)
    });
    lab.remote.run("ip link set tun3 up");
    wire.echo(NEAR, FAR, 12);
}

#[test]
fn a_device_may_be_brought_up_after_the_daemon_started() {
    let lab = Lab::quiet();
    let _server = server(&lab.remote, "-i tun3 -s");
    let mut wire = Wire::connect(SERVER);
    wire.send(&echo_request(NEAR, FAR, 1, 56));
    lab.remote.address("tun3", &["192.168.0.2/24"]);
    lab.remote.run("ip link set tun3 up");
    wire.echo(NEAR, FAR, 2);
}

/// Either a new device of that name or an end that says why.
#[test]
fn a_device_deleted_under_the_daemon_is_reported() {
    let lab = Lab::new();
    let mut daemon = server(&lab.remote, "-i tun3 -s --address 192.168.0.2/24");
    let mark = daemon.mark();
    lab.remote.run("ip link del tun3");
    wait_until(DEADLINE, "new device or end", || lab.remote.has_device("tun3") || !daemon.is_running());
    if !daemon.is_running() {
        assert_eq!(daemon.wait_exit(), 1);
    }
    daemon.wait_after(mark, "tun3");
}

/// Our own address is answered by the kernel; nothing comes to the tunnel.
#[test]
fn a_ping_of_the_device_s_own_address_never_reaches_the_daemon() {
    let lab = Lab::quiet();
    let server = server(&lab.remote, "-i tun3 -s --address 192.168.0.2/24");
    let mut wire = Wire::connect(SERVER);
    server.wait_for(line::UP);
    lab.remote.ping(FAR, 5, 56);
    let statistics = server.statistics();
    for key in [stat::DEVICE_RX_PACKETS, stat::DEVICE_TX_PACKETS, stat::NETWORK_RX_PACKETS, stat::NETWORK_TX_PACKETS] {
        assert_eq!(statistics.get(key), 0, "{key}: {statistics:?}");
    }
    wire.echo(NEAR, FAR, 1);
}

/// The original on the other end reads into 2000 bytes.
#[test]
fn an_mtu_too_large_for_the_original_is_warned_about_once() {
    let lab = Lab::new();
    for (mtu, warnings) in [(1986, 0), (1987, 1)] {
        let mut daemon = server(&lab.remote, &format!("-i tun3 -s --up --mtu {mtu}"));
        daemon.terminate();
        assert_eq!(daemon.count("original simpletun"), warnings, "{}", daemon.text());
    }
}

#[test]
fn debug_output_is_the_original_s_on_a_server() {
    let lab = Lab::quiet();
    let server = server(&lab.remote, "-i tun3 -s -d --address 192.168.0.2/24");
    let mut wire = Wire::connect(SERVER);
    wire.echo(NEAR, FAR, 1);
    wire.echo(NEAR, FAR, 2);
    server.wait_for("TAP2NET 2: Written");
    debug_lines(&server, "SERVER: Client connected from 10.86.43.51");
}

#[test]
fn debug_output_is_the_original_s_on_a_client() {
    let lab = Lab::quiet();
    let listener = std::net::TcpListener::bind("10.86.43.51:55555").expect("listen");
    let client = simpletun(&lab.remote, "-i tun3 -c 10.86.43.51 -d --address 192.168.0.2/24");
    let mut wire = Wire::accept(&listener);
    client.wait_for(line::UP);
    wire.echo(NEAR, FAR, 1);
    wire.echo(NEAR, FAR, 2);
    client.wait_for("TAP2NET 2: Written");
    debug_lines(&client, "CLIENT: Connected to server 10.86.43.51");
}

/// Whole lines, without a prefix, as scripts match them. Two echo requests of 84 bytes came in and were answered.
fn debug_lines(daemon: &Daemon, connected: &str) {
    let lines = daemon.lines();
    let mut expected = vec!["Successfully connected to interface tun3".to_owned(), connected.to_owned()];
    for count in 1..=2 {
        expected.extend([
            format!("NET2TAP {count}: Read 84 bytes from the network"),
            format!("NET2TAP {count}: Written 84 bytes to the tap interface"),
            format!("TAP2NET {count}: Read 84 bytes from the tap interface"),
            format!("TAP2NET {count}: Written 84 bytes to the network"),
        ]);
    }
    for text in &expected {
        assert_eq!(lines.iter().filter(|line| *line == text).count(), 1, "{text:?} in\n{}", lines.join("\n"));
    }
    let of_packets = lines.iter().filter(|line| line.contains("TAP2NET") || line.contains("NET2TAP")).count();
    assert_eq!(of_packets, 8, "{}", lines.join("\n"));
}

fn premade_device_carries(mode: &str, flags: &str) {
    let lab = Lab::new();
    lab.remote.run(&format!("ip tuntap add dev dev3 mode {mode} user {NOBODY} {flags}"));
    lab.remote.run("ip link set dev3 up");
    lab.remote.address("dev3", &["192.168.0.2/24"]);
    let kind = if mode == "tap" { "-a" } else { "-u" };
    let server = simpletun_as(NOBODY, &lab.remote, &format!("-i dev3 -s {kind}"));
    server.wait_for(line::LISTENING);
    let client = simpletun(&lab.local, &format!("-i t1 -c 10.86.43.52 {kind} --address 192.168.0.1/24"));
    client.wait_for(line::UP);
    lab.local.ping(FAR, 3, 56);
    lab.local.ping(FAR, 2, 1472);
    lab.remote.ping(NEAR, 2, 1472);
    transfer(&lab.remote, &lab.local, NEAR, 200_000);
}

fn python(ns: &Ns, program: &str) {
    let mut command: Command = ns.command(PYTHON);
    let status = command.args(["-c", program]).status().expect("run python3");
    assert!(status.success(), "{program}");
}
