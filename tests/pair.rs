//! `simpletun pair`: what it writes for both ends is put into place on two hosts, and they are joined.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use simpletun::config::Options;

use crate::common::daemon::Daemon;
use crate::common::lab::{Lab, Ns, REMOTE, REMOTE6};
use crate::common::line;
use crate::common::wait::{DEADLINE, succeed};

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

rows! {
    (tun_over_udp: "--udp", tun_over_tcp: "", tap_over_udp: "--tap --udp", tap_over_tcp: "--tap") {
        the_printed_line_joins
    }
}

/// What a server prints is run by a shell of the client as it stands there. The secret is in no list of processes, and
/// survives a reload.
fn the_printed_line_joins(flags: &str) {
    let lab = Lab::new();
    let (server, script) = inviting(&lab.remote, &format!("-i st3 --address 192.168.0.2/24 {flags}"));
    let join = || {
        let mut command = lab.local.command("sh");
        command.args(["-c", "exec sh </run/script >&2"]).env("PATH", path_with_simpletun());
        fs::write("/run/script", &script).expect("write");
        Daemon::spawn("client".to_owned(), command)
    };
    let mut client = join();
    client.wait_for(line::UP);
    lab.local.ping_until_answered("192.168.0.2", DEADLINE);
    let secret = secret_in(&script);
    let shown = processes();
    assert!(shown.iter().filter(|shown| shown.contains("--secret-file")).count() >= 1, "the client is among {shown:?}");
    assert!(shown.iter().any(|shown| shown.contains("--pair=print")), "the server is among {shown:?}");
    assert!(!shown.iter().any(|shown| shown.contains(&secret[6..30])), "a process shows the secret");

    let mark = server.mark();
    server.signal("HUP");
    server.wait_after(mark, "configuration read again");
    lab.local.run("ip link delete st3");
    client.wait_exit();
    let client = join();
    client.wait_for(line::UP);
    lab.local.ping_until_answered("192.168.0.2", DEADLINE);
}

/// Each start makes another secret; a client with that of before gets no answer.
#[test]
fn a_printed_secret_is_for_one_run() {
    let lab = Lab::new();
    let (mut first, earlier) = inviting(&lab.remote, "-i st3 --udp --bind 10.86.43.52");
    assert!(earlier.contains(" -c 10.86.43.52 --udp --secret-file -"), "{earlier}");
    first.terminate();
    let (_second, later) = inviting(&lab.remote, "-i st3 --udp");
    assert_ne!(secret_in(&earlier), secret_in(&later));
    // Every address of this host by which others reach it, none of loopback or of one cable.
    for address in [REMOTE, REMOTE6] {
        assert!(later.contains(address), "{address} in {later}");
    }
    assert!(!later.contains("127.0.0.1") && !later.contains("fe80"), "{later}");
}

/// A secret does not go into a log by accident, and there is one way to secure a link at a time.
#[test]
fn invitations_that_make_no_sense_are_refused() {
    fs::write("/run/plain.toml", "security = 'plain'\n").expect("write");
    for (args, word) in [
        ("-i st3 -s --pair", "--pair=print"),
        ("-i st3 -c 192.0.2.1 --pair=print", "connect"),
        ("-i st3 -s --pair=print --secret-file /run/secret", "secret-file"),
        ("-i st3 -s --pair=print --peer-public-key key", "peer-public-key"),
        ("-s --pair=print --config /run/plain.toml", "config"),
        ("-i st3 -s --pair=other", "choose one of print"),
    ] {
        let output = Command::new(BINARY).args(args.split_whitespace()).stdin(Stdio::null()).output();
        refused(&output.expect("run simpletun"), 2, word, args);
    }
}

/// A server and the lines that it prints.
fn inviting(ns: &Ns, args: &str) -> (Daemon, String) {
    let mut command = ns.command("sh");
    command.args(["-c", "exec \"$@\" >&2", "sh", BINARY, "-s", "--pair=print"]).args(args.split_whitespace());
    let server = Daemon::spawn("server".to_owned(), command);
    server.wait_for("This link is secure: shared secret");
    let printed = |line: &&str| line.starts_with('#') || line.starts_with(" echo ");
    let script: Vec<String> = server.text().lines().filter(printed).map(|line| format!("{line}\n")).collect();
    (server, script.concat())
}

fn secret_in(script: &str) -> &str {
    let secret = script.split_whitespace().find(|word| word.starts_with("st1psk:")).expect("a secret");
    assert!(secret.len() > 40, "{secret}");
    secret
}

/// A value of PATH by which shells find the program under test.
fn path_with_simpletun() -> String {
    fs::create_dir_all("/run/bin").expect("make directory");
    let _ = symlink(BINARY, "/run/bin/simpletun");
    format!("/run/bin:{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// What the system shows of every process: its command line and environment.
fn processes() -> Vec<String> {
    let all = fs::read_dir("/proc").expect("processes").map(|entry| entry.expect("an entry").path());
    let all = all.filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit()));
    all.flat_map(|path| ["cmdline", "environ"].map(|name| fs::read(path.join(name)).unwrap_or_default()))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
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
        ("", "NAME"),
        ("root@host", "/etc/simpletun"),
        ("site --to=-oProxyCommand=x", "names no host"),
        ("site --to root@", "names no host"),
        ("site --server host --ssh rsh", "--to"),
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

/// What stands in the way at the other host is told in a sentence, and nothing has happened here.
#[test]
fn what_the_other_host_lacks_is_told() {
    fs::create_dir_all("/run/systemd/system").expect("make directory");
    for (script, word) in [
        ("exit 255", "has not reached root@far"),
        ("exit 127", "root@far has no simpletun"),
        ("echo Welcome; exit 2", "is the same version installed there?"),
        (r#"echo '{"hello":{"program":"9.8.7","form":99}}'"#, "root@far has simpletun 9.8.7"),
        (r#"echo '"raising"'; exit 1"#, "sudo -n simpletun pair-end"),
        (r#"echo '{"refused":"there is no systemd\u001b[2J"}'"#, "root@far: there is no systemd [2J"),
        ("yes", "is its shell an ordinary one?"),
    ] {
        fs::write("/run/ssh", format!("echo \"$*\" >/run/asked; {script}\n")).expect("write");
        let mut command = Command::new(BINARY);
        command.args(["pair", "st-x", "--to", "root@far", "--ssh", "sh /run/ssh -p 22"]);
        refused(&command.stdin(Stdio::null()).output().expect("run simpletun"), 1, word, script);
        assert_eq!(fs::read_to_string("/run/asked").expect("it was asked"), "-p 22 -T root@far simpletun pair-end\n");
    }
    assert!(!Path::new("/etc/simpletun/st-x.toml").exists());
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
