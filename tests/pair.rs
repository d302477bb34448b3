//! `simpletun pair`: what it writes for both ends is put into place on two hosts, and they are joined.

#[macro_use]
mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use simpletun::config::Options;

use common::daemon::Daemon;
use common::lab::{Lab, Ns, REMOTE, REMOTE6};
use common::line;
use common::wait::{DEADLINE, succeed};

rows! {
    (
        tun_udp: "",
        tun_tcp: "--tcp",
        tap_udp: "--tap",
        tap_tcp: "--tap --tcp",
        by_a_secret: "--secret",
        smallest_networks: "--addresses 10.9.8.0/31 --addresses fd00:9:8::/127"
    ) { both_ends_find_each_other }
}

/// Both directories are brought to their hosts as they are, and each end reaches the other by IPv4 and IPv6.
fn both_ends_find_each_other(flags: &str) {
    let lab = Lab::new();
    let made = made(&format!("site --server {REMOTE} {flags}"));
    let start = |ns: &Ns, side: &str| Daemon::spawn(side.to_owned(), installed(ns, &made, side, ""));
    let server = start(&lab.remote, "server");
    server.wait_for(line::LISTENING);
    let client = start(&lab.local, "client");
    client.wait_for(line::UP);
    for (ns, other) in [(&lab.local, "server"), (&lab.remote, "client")] {
        let addresses = addresses(&made, other);
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        assert_ne!(addresses[0].contains(':'), addresses[1].contains(':'), "{addresses:?}");
        for address in addresses {
            ns.ping_until_answered(&address, DEADLINE);
        }
    }
}

/// The server is named by an IPv6 address with a port, and a network behind either end is routed to it.
#[test]
fn networks_behind_the_ends_are_routed() {
    let lab = Lab::new();
    let made = made(&format!("site --server [{REMOTE6}]:4000 --behind-server 10.2.0.0/24 --behind-client fd00:1::/64"));
    lab.remote.address("lo", &["10.2.0.1/24"]);
    lab.local.address("lo", &["fd00:1::1/64"]);
    let server = Daemon::spawn("server".to_owned(), installed(&lab.remote, &made, "server", ""));
    server.wait_for(line::LISTENING);
    let client = Daemon::spawn("client".to_owned(), installed(&lab.local, &made, "client", ""));
    client.wait_for(line::UP);
    lab.local.ping_until_answered("10.2.0.1", DEADLINE);
    lab.remote.ping_until_answered("fd00:1::1", DEADLINE);
}

/// `--check-config` has nothing to say against any of the files.
#[test]
fn the_daemon_takes_what_is_made() {
    let host = Ns::new("host");
    for flags in [
        "a --server gateway.example.net",
        "st-abcdefghijkl --server [2001:db8::1]:443 --tcp",
        "A_b.c-9 --server 192.0.2.1:https --secret",
        "site --server gateway.example.net --tap --addresses none",
        "site --server fe80::1%eth0 --addresses fd00:1::/48 --behind-client 10.0.0.0/8 --behind-client 10.0.0.0/8",
        "site --server 2001:db8::1 --addresses 192.168.7.0/24 --behind-server 0.0.0.0/0 --behind-client 10.1.2.3",
    ] {
        let made = made(flags);
        for side in ["client", "server"] {
            let output = installed(&host, &made, side, "--check-config").output().expect("run sh");
            assert_eq!(succeed(output, format_args!("{flags}: {side}")), "The configuration is valid\n");
        }
    }
}

/// Whatever the umask is.
#[test]
fn nobody_else_reads_the_files() {
    let made = format!("{}/made", place());
    let script = format!("umask 000; exec {BINARY} pair site --server {REMOTE} --output {made}");
    succeed(Command::new("sh").args(["-c", &script]).output().expect("run sh"), &script);
    for (path, mode) in
        [("", 0o700), ("client", 0o700), ("server", 0o700), ("client/site.toml", 0o600), ("server/site.toml", 0o600)]
    {
        assert_eq!(mode_of(&format!("{made}/{path}")), mode, "{path}");
    }
    for side in ["client", "server"] {
        assert_eq!(entries(&format!("{made}/{side}")), ["site.key", "site.psk", "site.toml"]);
        for key in ["key", "psk"] {
            assert_eq!(mode_of(&format!("{made}/{side}/site.{key}")), 0o600, "{side}, {key}");
        }
    }
}

/// Each end has a private key of its own, both have the same pre-shared key, and the next pair has others.
#[test]
fn keys_are_fresh() {
    let keys = |made: &str| {
        let read = |file: &str| fs::read_to_string(format!("{made}/{file}")).expect("a key");
        assert_eq!(read("client/site.psk"), read("server/site.psk"));
        [read("client/site.key"), read("server/site.key"), read("client/site.psk")]
    };
    let pairs = [made("site --server host"), made("site --server host")];
    let mut all: Vec<String> = pairs.iter().flat_map(|made| keys(made)).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6);
    assert_ne!(addresses(&pairs[0], "client"), addresses(&pairs[1], "client"));
}

/// The terminal shows what to do next, and of the keys nothing.
#[test]
fn no_key_is_shown() {
    let made = format!("{}/made", place());
    let output = pair(&format!("site --server gateway.example.net:4000 --behind-client 10.1.0.0/24 --output {made}"));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let said = succeed(output, "pair");
    for words in [
        format!("scp -p {made}/server/* root@gateway.example.net:/etc/simpletun/"),
        "chown simpletun /etc/simpletun/site.*".to_owned(),
        "systemctl enable --now simpletun@site".to_owned(),
        "UDP port 4000".to_owned(),
        "sysctl -w net.ipv4.ip_forward=1".to_owned(),
    ] {
        assert!(said.contains(&words), "{words:?} in\n{said}");
    }
    for file in ["client/site.key", "server/site.key", "client/site.psk"] {
        let key = fs::read_to_string(format!("{made}/{file}")).expect("a key");
        let (prefix, body) = key.trim().split_once(':').expect("a prefix");
        assert!(body.len() > 40 && !said.contains(prefix) && !said.contains(&body[..20]), "{file} in\n{said}");
    }
}

/// Something of the name is there already: it stays as it is, and nothing comes beside it.
#[test]
fn nothing_is_overwritten() {
    let place = place();
    fs::create_dir(format!("{place}/full")).expect("make directory");
    fs::write(format!("{place}/full/client"), "precious").expect("write");
    fs::write(format!("{place}/file"), "precious").expect("write");
    symlink("/nonexistent", format!("{place}/link")).expect("link");
    let before = entries(&place);
    for name in ["full", "file", "link", "full/"] {
        let output = pair(&format!("site --server {REMOTE} --output {place}/{name}"));
        refused(&output, 1, "exists already", name);
    }
    assert_eq!(entries(&place), before);
    assert_eq!(entries(&format!("{place}/full")), ["client"]);
    for file in ["full/client", "file"] {
        assert_eq!(fs::read_to_string(format!("{place}/{file}")).expect("it is there"), "precious");
    }
    fs::create_dir(format!("{place}/empty")).expect("make directory");
    succeed(pair(&format!("site --server {REMOTE} --output {place}/empty")), "an empty directory is as good as none");
}

/// The disk is full when half of the files are written.
#[test]
fn a_full_disk_leaves_nothing() {
    let place = place();
    Ns::here().run(&format!("mount -t tmpfs -o nr_inodes=6 tmpfs {place}"));
    refused(&pair(&format!("site --server {REMOTE} --output {place}/new")), 1, "No space left", "a full disk");
    assert_eq!(entries(&place), [] as [&str; 0]);
    refused(&pair(&format!("site --server {REMOTE} --output {place}/missing/new")), 1, "--output", "no parent");
}

/// One sentence with the cure, exit status 2, and nothing is made.
#[test]
fn mistakes_are_refused() {
    let place = place();
    for (args, word) in [
        ("", "--server"),
        ("site", "--server"),
        ("site --server", "lacks its value"),
        ("site --server host surplus", "Too many options!"),
        ("site/../a --server host", "letters, digits"),
        ("tun%d --server host", "letters, digits"),
        ("abcdefghijklmnop --server host", "15 bytes"),
        ("site --server host:99999", "1 to 65535"),
        ("site --server 300.1.1.1", "IPv4 address"),
        ("site --server host --addresses 10.0.0.1/24", "10.0.0.0/24"),
        ("site --server host --addresses 10.0.0.1", "both ends"),
        ("site --server host --addresses 10.0.0.0/30 --addresses 10.0.0.4/30", "keep one"),
        ("site --server host --behind-client lan", "not a network"),
        ("site --server host --tap --behind-client 10.1.0.0/24", "gateway"),
        ("site --server 10.2.0.1 --behind-server 10.2.0.0/24", "the tunnel into the tunnel"),
    ] {
        refused(&pair(&format!("{args} --output {place}/new")), 2, word, args);
    }
    assert_eq!(entries(&place), [] as [&str; 0]);
}

const BINARY: &str = env!("CARGO_BIN_EXE_simpletun");

/// Puts the files in `$1` into place on a host of its own, whose changes to /etc go to `$2`, and runs the daemon `$3`
/// there with `$4`.
const INSTALL: &str = "\
    rm -rf $2; mkdir -p $2/etc $2/work
    mount --make-rprivate /
    mount -t overlay -o lowerdir=/etc,upperdir=$2/etc,workdir=$2/work overlay /etc
    mkdir -p /etc/simpletun
    cp -p $1/* /etc/simpletun/
    exec $3 --config /etc/simpletun/*.toml $4";

fn installed(ns: &Ns, made: &str, side: &str, args: &str) -> Command {
    let mut command = ns.command("sh");
    command.args(["-euc", INSTALL, "sh", &format!("{made}/{side}"), &format!("/run/host-{side}"), BINARY, args]);
    command
}

/// A new directory.
fn place() -> String {
    let directory = tempfile::tempdir_in("/run").expect("a directory");
    directory.keep().to_str().expect("text").to_owned()
}

/// Where the pair is that these arguments make.
#[track_caller]
fn made(args: &str) -> String {
    let made = format!("{}/made", place());
    succeed(pair(&format!("{args} --output {made}")), args);
    made
}

fn pair(args: &str) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("pair").args(args.split_whitespace()).stdin(Stdio::null()).output().expect("run simpletun")
}

#[track_caller]
fn refused(output: &Output, code: i32, word: &str, what: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), b"".as_slice()), "{what}: {said}");
    assert!(said.contains(word) && said.lines().count() == 1, "{what}: {said}");
}

/// The addresses that an end is given, without their prefixes.
fn addresses(made: &str, side: &str) -> Vec<String> {
    let options = Options::from_file(Path::new(&format!("{made}/{side}/site.toml"))).expect("a configuration");
    let address = |text: String| text.split('/').next().unwrap_or_default().to_owned();
    options.address.iter().map(|text| address(text.to_string())).collect()
}

fn mode_of(path: &str) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{path}: {error}")).permissions().mode() & 0o7777
}

fn entries(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
