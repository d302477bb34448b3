//! The command line and the configuration file, as far as they go without a device. Needs no privileges.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

#[test]
fn the_original_usage_errors_keep_their_words() {
    for (args, error) in [
        ("-s", "Must specify interface name!"),
        ("", "Must specify interface name!"),
        ("-i tun3", "Must specify client or server mode!"),
        ("-i tun3 -c ''", "Must specify server address!"),
        ("-i tun3 -s surplus", "Too many options!"),
    ] {
        let output = simpletun(args);
        assert_eq!(code(&output), 2, "simpletun {args}");
        let said = stderr(&output);
        assert!(said.lines().any(|line| line.trim() == error), "simpletun {args} says {error:?}, not:\n{said}");
        assert_eq!(output.stdout, b"", "simpletun {args} leaves standard output alone");
    }
}

#[test]
fn help_goes_to_standard_output() {
    for args in ["--help", "-h"] {
        let output = simpletun(args);
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "simpletun {args}");
        let help = stdout(&output);
        for flag in ["--interface", "--server", "--connect", "--port", "--tun", "--tap", "--debug", "--udp"] {
            assert!(help.contains(flag), "{args} names {flag}");
        }
    }
}

#[test]
fn version_goes_to_standard_output() {
    for args in ["--version", "-V"] {
        let output = simpletun(args);
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "simpletun {args}");
        assert_eq!(stdout(&output).trim(), concat!("simpletun ", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn short_options_cluster() {
    for args in ["-sdi tun3", "-dsi tun3", "-situn3", "-adUsi tap3 -p55555", "-uc192.0.2.1 -itun3"] {
        accepted(args);
    }
}

#[test]
fn long_options_equal_the_short_ones() {
    accepted("--interface tun3 --server --port 55555 --tun --debug");
    accepted("--interface=tap3 --connect=192.0.2.1 --port=55555 --tap --debug --udp");
}

/// Only a server says whom it accepts: `--allow` tells which of the two won.
#[test]
fn the_last_of_server_and_client_wins() {
    accepted("-i tun3 -c 192.0.2.1 -s --allow any");
    accepted("-i tun3 -s -c 192.0.2.1");
    rejected("-i tun3 -s -c 192.0.2.1 --allow any", &["allow"]);
    rejected("-i tun3 -s --allow any -c 192.0.2.1", &["allow"]);
}

/// A MAC address belongs to a tap device only.
#[test]
fn the_last_of_tun_and_tap_wins() {
    accepted("-i t0 -s -u -a --mac 02:00:00:00:00:01");
    accepted("-i t0 -sua --mac 02:00:00:00:00:01");
    rejected("-i t0 -s -a -u --mac 02:00:00:00:00:01", &["mac", "02:00:00:00:00:01"]);
    rejected("-i t0 -sau --mac 02:00:00:00:00:01", &["mac", "02:00:00:00:00:01"]);
}

#[test]
fn servers_are_named_in_every_usual_form() {
    for server in [
        "192.0.2.1",
        "192.0.2.1:4000",
        "2001:db8::1",
        "[2001:db8::1]",
        "[2001:db8::1]:4000",
        "server.example.org",
        "server.example.org:4000",
        "server.example.org:https",
    ] {
        accepted(&format!("-i tun3 -c {server}"));
    }
    accepted("-i tun3 -c 192.0.2.1 -p https");
}

macro_rules! bad_values {
    ($($name:ident: $args:literal names $($word:literal),+;)*) => {
        $(
            #[test]
            fn $name() {
                rejected($args, &[$($word),+]);
            }
        )*
    };
}

bad_values! {
    a_port_above_65535: "-i tun3 -s -p 65536" names "port", "65536";
    a_port_of_zero: "-i tun3 -s -p 0" names "port", "0";
    a_port_that_is_no_service: "-i tun3 -s -p no-such-service" names "port", "no-such-service";
    a_port_in_the_server_that_is_none: "-i tun3 -c 192.0.2.1:99999" names "connect", "192.0.2.1:99999";
    an_unclosed_bracket: "-i tun3 -c [2001:db8::1" names "connect", "[2001:db8::1";
    an_interface_name_of_sixteen_bytes: "-i abcdefghijklmnop -s" names "interface", "abcdefghijklmnop";
    an_interface_name_with_a_slash: "-i tun/3 -s" names "interface", "tun/3";
    an_address_without_sense: "-i tun3 -s --address 10.0.0.300/24" names "address", "10.0.0.300";
    an_address_with_too_long_a_prefix: "-i tun3 -s --address 10.0.0.1/33" names "address", "10.0.0.1/33";
    a_peer_address_without_address: "-i tun3 -s --peer-address 10.0.0.2" names "peer-address", "10.0.0.2";
    a_peer_address_of_the_other_family: "-i tun3 -s --address 10.0.0.1/24 --peer-address fd00::2"
        names "peer-address", "fd00::2";
    a_netmask_with_holes: "-i tun3 -s --address 10.0.0.1 --netmask 255.0.255.0" names "netmask", "255.0.255.0";
    a_route_without_sense: "-i tun3 -s --route 10.0.0.0/x" names "route", "10.0.0.0/x";
    an_mtu_too_small: "-i tun3 -s --mtu 10" names "mtu", "10";
    an_mtu_too_large: "-i tun3 -s --mtu 70000" names "mtu", "70000";
    an_mtu_that_is_no_number: "-i tun3 -s --mtu big" names "mtu", "big";
    a_malformed_mac: "-i tap3 -s -a --mac 02:00:00:00:00" names "mac", "02:00:00:00:00";
    a_multicast_mac: "-i tap3 -s -a --mac 01:00:5e:00:00:01" names "mac", "01:00:5e:00:00:01";
    a_queue_length_that_is_no_number: "-i tun3 -s --txqueuelen long" names "txqueuelen", "long";
    an_allowed_network_without_sense: "-i tun3 -s --allow 10.0.0.0/40" names "allow", "10.0.0.0/40";
    a_local_address_without_sense: "-i tun3 -s --bind 10.0.0.1:99999" names "bind", "10.0.0.1:99999";
    a_remote_for_a_client: "-i tun3 -c 192.0.2.1 --remote 192.0.2.2" names "remote", "192.0.2.2";
    a_mark_that_is_no_number: "-i tun3 -s --fwmark red" names "fwmark", "red";
    an_option_that_does_not_exist: "-i tun3 -s --no-such-option" names "--no-such-option";
    a_configuration_file_that_does_not_exist: "--config /no/such/file.toml" names "--config", "/no/such/file.toml";
}

/// Users are those of the machine that the daemon runs on, so they are looked up when it starts.
#[test]
fn an_owner_who_does_not_exist() {
    for (args, words) in [
        ("-i tun3 -s --persist --owner no-such-user", ["no-such-user"]),
        ("-i tun3 -s --persist --owner-group no-such-group", ["no-such-group"]),
    ] {
        one_line(&simpletun(args), args, &words);
    }
}

#[test]
fn an_interface_name_with_a_space_is_refused() {
    let output = run(Command::new(BINARY).args(["-s", "--check-config", "-i", "tun 3"]));
    one_line(&output, "-i 'tun 3'", &["interface", "tun 3"]);
}

#[test]
fn every_sample_configuration_is_valid() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut count = 0;
    for entry in fs::read_dir(&samples).expect("config/ exists") {
        let path = entry.expect("readable directory").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let output = run(Command::new(BINARY).arg("--check-config").arg("--config").arg(&path));
        assert_eq!(code(&output), 0, "{}: {}", path.display(), stderr(&output));
        count += 1;
    }
    assert!(count > 0, "config/ holds samples");
}

#[test]
fn a_file_is_enough() {
    File::new("interface = \"tun3\"\nserver = true\nsecurity = \"plain\"\n").accepted("");
    File::new(
        "interface = \"tun3\"\nconnect = \"server.example.org:4000\"\nudp = true\nmtu = 1400\nsecurity = \"plain\"\n\
         address = [\"10.0.0.1/24\", \"fd00::1/64\"]\nroute = [\"10.1.0.0/16\"]\n",
    )
    .accepted("");
}

#[test]
fn flags_override_the_file() {
    let file = File::new("interface = \"tun3\"\nserver = true\nsecurity = \"plain\"\nmtu = 10\n");
    file.rejected("", &["mtu", "10"]);
    file.accepted("--mtu 1400");
    let file = File::new(
        "interface = \"tap3\"\nserver = true\nsecurity = \"plain\"\nmac = \"02:00:00:00:00:01\"\ntap = true\n",
    );
    file.accepted("");
    file.rejected("--tun", &["mac"]);
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    File::new("interface = \"tun3\"\nserver = true\nsecurity = \"plain\"\ncolour = \"red\"\n")
        .rejected("", &["colour"]);
}

#[test]
fn no_file_is_plain_by_omission() {
    File::new("interface = \"tun3\"\nserver = true\n").rejected("", &["security", "plain"]);
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_its_name() {
    let file = File::new("interface tun3\n");
    let name = file.path.clone();
    file.rejected("", &[&name]);
}

const BINARY: &str = env!("CARGO_BIN_EXE_simpletun");

struct File {
    path: String,
    _directory: TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let directory = TempDir::new().expect("temporary directory");
        let path = directory.path().join("tunnel.toml");
        fs::write(&path, text).expect("write the file");
        Self { path: path.to_str().expect("path is text").to_owned(), _directory: directory }
    }

    #[track_caller]
    fn accepted(&self, flags: &str) {
        accepted(&format!("--config {} {flags}", self.path));
    }

    #[track_caller]
    fn rejected(&self, flags: &str, words: &[&str]) {
        rejected(&format!("--config {} {flags}", self.path), words);
    }
}

#[track_caller]
fn accepted(args: &str) {
    let output = simpletun(&format!("--check-config {args}"));
    assert_eq!(code(&output), 0, "simpletun --check-config {args}: {}", stderr(&output));
}

/// Exit code 2 and one line with all of `words`.
#[track_caller]
fn rejected(args: &str, words: &[&str]) {
    one_line(&simpletun(&format!("--check-config {args}")), args, words);
}

#[track_caller]
fn one_line(output: &Output, args: &str, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(code(output), 2, "simpletun {args}: {said}");
    assert_eq!(said.lines().count(), 1, "simpletun {args} says one line, not:\n{said}");
    for word in words {
        assert!(said.contains(word), "simpletun {args} names {word:?}, not:\n{said}");
    }
}

/// Words are separated by spaces; `''` is an empty one.
fn simpletun(args: &str) -> Output {
    run(Command::new(BINARY).args(args.split_whitespace().map(|word| if word == "''" { "" } else { word })))
}

fn run(command: &mut Command) -> Output {
    command.output().expect("run simpletun")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("simpletun exits")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}
