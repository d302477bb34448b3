//! The command line and the configuration file, as far as they go without a device. Needs no privileges.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

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
        let keys = Keys::new();
        keys.file("link.secret", 0o600, &keys.secret);
        keys.file("link.key", 0o600, &keys.private);
        let text = fs::read_to_string(&path).expect("a readable sample").replace("/etc/simpletun", &keys.directory());
        let sample = keys.file("sample.toml", 0o644, &text);
        accepted(&format!("--config {sample}"));
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

#[test]
fn keys_are_one_line_of_their_kind_and_never_the_same() {
    for (tool, prefix) in [("genkey", "st1sk:"), ("genpsk", "st1psk:")] {
        let lines = [key(tool), key(tool)];
        assert_ne!(lines[0], lines[1], "{tool}");
        for line in lines {
            assert_eq!(line.len(), prefix.len() + 48 + 1, "{tool} prints {line:?}");
            assert!(line.starts_with(prefix) && line.ends_with('\n'), "{tool} prints {line:?}");
        }
        assert_eq!(stderr(&simpletun(&format!("{tool} surplus"))).trim(), "Too many options!");
    }
}

#[test]
fn genkey_piped_into_pubkey_gives_a_public_key_that_is_taken() {
    let output = shell(&format!("{BINARY} genkey | {BINARY} pubkey"));
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    let public = stdout(&output);
    assert!(public.starts_with("st1pk:") && public.ends_with('\n') && public.lines().count() == 1, "{public:?}");
    let keys = Keys::new();
    let private = keys.at("private", 0o600, "genkey");
    accepted(&format!("-i t0 -s --private-key-file {private} --peer-public-key {}", public.trim()));
}

#[test]
fn pubkey_takes_private_keys_only() {
    let keys = Keys::new();
    for (input, word) in [
        (keys.secret.as_str(), "this is a shared secret"),
        ("", "it is empty"),
        ("correct horse", "passwords are not accepted"),
        (&keys.private.replace(':', ":A"), "too long"),
        (&"x".repeat(5000), "longer than 4096 bytes"),
    ] {
        let output = with_input("pubkey", input);
        let said = stderr(&output);
        assert_eq!((code(&output), stdout(&output).as_str()), (1, ""), "{said}");
        assert!(said.contains("standard input") && said.contains(word) && said.lines().count() == 1, "{said}");
        keys.assert_hidden(&said);
    }
    let output = Command::new(BINARY).arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = output.expect("run simpletun");
    child.stdin.take().expect("piped").write_all(b"\xff\xfes\0t\0").expect("write");
    assert_eq!(child.wait_with_output().expect("simpletun ends").status.code(), Some(1), "UTF-16 is refused");
}

#[test]
fn a_secret_redirected_into_a_new_file_is_closed_to_others() {
    let keys = Keys::new();
    for tool in ["genpsk", "genkey"] {
        let path = keys.file("new", 0o644, "");
        let output = shell(&format!("umask 022; {BINARY} {tool} > {path}"));
        assert_eq!((code(&output), mode(&path)), (0, 0o600), "{tool}: {}", stderr(&output));
    }
    let path = keys.at("secret", 0o644, "genpsk");
    accepted(&format!("-i t0 -s --secret-file {path}"));
}

/// It may be a log that others are meant to read.
#[test]
fn a_file_that_has_something_in_it_keeps_its_mode() {
    let keys = Keys::new();
    let path = keys.file("old", 0o644, "something\n");
    let output = shell(&format!("{BINARY} genpsk >> {path}"));
    assert_eq!((code(&output), mode(&path)), (0, 0o644), "{}", stderr(&output));
}

#[test]
fn files_of_keys_that_others_can_read_or_write_are_refused() {
    let keys = Keys::new();
    for mode in [0o644, 0o640, 0o604, 0o620, 0o602, 0o660, 0o666, 0o444] {
        let path = keys.file("secret", mode, &keys.secret);
        let (shown, cure) = (format!("{mode:04o}"), format!("chmod 600 {path}"));
        rejected(&format!("-i t0 -s --secret-file {path}"), &["secret-file", &shown, &cure]);
    }
    for mode in [0o600, 0o400, 0o700] {
        let path = keys.file("secret", mode, &keys.secret);
        accepted(&format!("-i t0 -s --secret-file {path}"));
    }
    let path = keys.file("private", 0o640, &keys.private);
    let line = format!("-i t0 -s --private-key-file {path} --peer-public-key {}", keys.public);
    rejected(&line, &["private-key-file", "0640", &format!("chmod 600 {path}")]);
}

#[test]
fn a_file_of_another_user_is_refused() {
    let keys = Keys::new();
    let path = keys.file("secret", 0o600, &keys.secret);
    std::os::unix::fs::chown(&path, Some(65534), None).expect("root gives files away");
    rejected(&format!("-i t0 -s --secret-file {path}"), &["secret-file", "user 65534", &format!("chown 0 {path}")]);
}

#[test]
fn what_is_neither_file_nor_pipe_is_refused() {
    let keys = Keys::new();
    rejected(&format!("-i t0 -s --secret-file {}", keys.directory()), &["secret-file", "neither a file nor a pipe"]);
    rejected("-i t0 -s --secret-file /no/such", &["secret-file", "/no/such", "name a file"]);
    rejected("-i t0 -s --secret-file /dev/null", &["secret-file", "/dev/null", "it is empty"]);
    let long = keys.file("long", 0o600, &keys.secret.repeat(100));
    rejected(&format!("-i t0 -s --secret-file {long}"), &["secret-file", "4096"]);
}

#[test]
fn a_secret_comes_by_standard_input_or_a_pipe_of_the_shell() {
    let keys = Keys::new();
    let output = with_input("--check-config -i t0 -s --secret-file -", &keys.secret);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let output = shell(&format!("{BINARY} --check-config -i t0 -s --secret-file <({BINARY} genpsk)"));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let output = with_input("--check-config -i t0 -s --secret-file -", &keys.private);
    one_line(&output, "--secret-file -", &["secret-file", "standard input", "this is a private key"]);
    keys.assert_hidden(&stderr(&output));
    let line = format!("-i t0 -s --private-key-file - --psk-file - --peer-public-key {}", keys.public);
    rejected(&line, &["private-key-file", "psk-file", "standard input"]);
}

/// systemd hands credentials over with mode 0440.
#[test]
fn credentials_are_taken_where_no_file_is_named() {
    let keys = Keys::new();
    let by = |text: &str, flags: &str| {
        let config = keys.file("tunnel.toml", 0o644, &format!("interface = 't0'\nserver = true\n{text}"));
        let args = format!("--check-config --config {config} {flags}");
        run(Command::new(BINARY).args(args.split_whitespace()).env("CREDENTIALS_DIRECTORY", keys.path("cred")))
    };
    let by_keys = format!("security = 'keys'\npeer-public-key = ['{}']\n", keys.public);
    one_line(&by("security = 'secret'\n", ""), "no secret", &["secret-file", "credential"]);
    one_line(&by(&by_keys, ""), "no key", &["private-key-file", "credential"]);

    fs::create_dir(keys.path("cred")).expect("make the directory");
    for (name, text) in [("cred/secret", &keys.secret), ("cred/private-key", &keys.private)] {
        keys.file(name, 0o440, text);
    }
    for text in ["security = 'secret'\n", &by_keys] {
        let output = by(text, "");
        assert_eq!(code(&output), 0, "{text}: {}", stderr(&output));
    }
    keys.file("cred/psk", 0o440, &keys.private);
    one_line(&by(&by_keys, ""), "a wrong psk", &["psk-file", "cred/psk", "this is a private key"]);

    let outside = keys.file("outside", 0o440, &keys.secret);
    for path in [outside, keys.path("cred/../outside")] {
        let output = by("security = 'secret'\n", &format!("--secret-file {path}"));
        one_line(&output, &path, &["secret-file", "0440", "chmod 600"]);
    }
}

#[test]
fn a_password_is_no_secret() {
    let keys = Keys::new();
    let path = keys.file("secret", 0o600, "correct horse battery staple\n");
    let words = ["secret-file", &path, "passwords are not accepted because they can be guessed", "simpletun genpsk"];
    rejected(&format!("-i t0 -s --secret-file {path}"), &words);
}

#[test]
fn the_own_public_key_is_not_the_peers() {
    let keys = Keys::new();
    let path = keys.file("private", 0o600, &keys.private);
    let own = stdout(&with_input("pubkey", &keys.private));
    let line = format!("-i t0 -s --private-key-file {path} --peer-public-key {}", own.trim());
    rejected(&line, &["peer-public-key", own.trim(), "this is the public key of this end"]);
}

#[test]
fn keys_given_in_the_wrong_place_are_not_shown() {
    let keys = Keys::new();
    let path = keys.file("private", 0o600, &keys.private);
    let (secret, private) = (keys.secret.trim(), keys.private.trim());
    for line in [
        format!("--secret-file {secret}"),
        format!("--secret-file {path}"),
        format!("--private-key-file {path} --peer-public-key {private}"),
        format!("--private-key-file {path} --peer-public-key {} --psk-file {secret}", keys.public),
        format!("--secret-file {path} {secret}"),
        format!("--bind {secret}"),
    ] {
        let output = simpletun(&format!("--check-config -i t0 -s {line}"));
        one_line(&output, &line, &[]);
        keys.assert_hidden(&stderr(&output));
    }
    let stray = keys.file("t.toml", 0o600, &format!("security = 'secret'\nsecret-file = '{secret}'\n"));
    keys.assert_hidden(&stderr(&simpletun(&format!("--config {stray}"))));
}

/// The private key has been read by then: the process waits for the pre-shared key.
#[test]
fn a_key_in_memory_shows_nowhere() {
    let keys = Keys::new();
    let (pipe, path) = (keys.path("pipe"), keys.file("private", 0o600, &keys.private));
    nix::unistd::mkfifo(pipe.as_str(), nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).expect("a pipe");
    let line = format!("-i t0 -s --private-key-file {path} --psk-file {pipe} --peer-public-key {}", keys.public);
    let mut command = Command::new(BINARY);
    let child = command.arg("--check-config").args(line.split_whitespace()).stderr(Stdio::piped()).spawn();
    let child = child.expect("run simpletun");
    let mut writer = fs::File::options().write(true).open(&pipe).expect("the other end of the pipe");
    let process = |name: &str| fs::read(format!("/proc/{}/{name}", child.id())).expect("a readable /proc");
    for name in ["cmdline", "environ"] {
        keys.assert_hidden(&String::from_utf8_lossy(&process(name)));
    }
    let limits = String::from_utf8(process("limits")).expect("text");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit of cores");
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    writer.write_all(keys.private.as_bytes()).expect("write to the pipe");
    drop(writer);
    let output = child.wait_with_output().expect("simpletun ends");
    one_line(&output, &line, &["psk-file", "this is a private key"]);
    keys.assert_hidden(&stderr(&output));
}

/// Keys of every kind, each a line, and a directory for their files.
struct Keys {
    directory: TempDir,
    private: String,
    secret: String,
    /// Of another private key; without the end of its line.
    public: String,
}

impl Keys {
    fn new() -> Self {
        let public = stdout(&with_input("pubkey", &key("genkey"))).trim().to_owned();
        let directory = TempDir::new().expect("temporary directory");
        Self { directory, private: key("genkey"), secret: key("genpsk"), public }
    }

    fn directory(&self) -> String {
        self.directory.path().to_str().expect("path is text").to_owned()
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory())
    }

    /// Writes the file anew.
    fn file(&self, name: &str, mode: u32, text: &str) -> String {
        let path = self.path(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, text).expect("write the file");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set its mode");
        path
    }

    /// A file that the tool has written, through the shell's redirection.
    fn at(&self, name: &str, mode: u32, tool: &str) -> String {
        let path = self.file(name, mode, "");
        let output = shell(&format!("{BINARY} {tool} > {path}"));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        path
    }

    #[track_caller]
    fn assert_hidden(&self, text: &str) {
        for key in [&self.private, &self.secret] {
            let inner = &key[10..30];
            assert!(!text.contains(inner), "a key shows: {text}");
        }
    }
}

fn key(tool: &str) -> String {
    stdout(&simpletun(tool))
}

fn mode(path: &str) -> u32 {
    fs::metadata(path).expect("the file").permissions().mode() & 0o7777
}

fn shell(script: &str) -> Output {
    run(Command::new("bash").args(["-o", "pipefail", "-c", script]))
}

/// The program may end before it has read all of the input.
fn with_input(args: &str, input: &str) -> Output {
    let mut command = Command::new(BINARY);
    let command = command.args(args.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("run simpletun");
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("simpletun ends")
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
