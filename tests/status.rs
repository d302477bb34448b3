//! Who may watch a tunnel is told how it is, through the control socket and over HTTP, and nobody who asks disturbs it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::daemon::{public_binary, refused, server};
use crate::common::lab::{Lab, NOBODY, Ns, PYTHON, STRANGER};
use crate::common::pair::{FAR, Kind, Pair};
use crate::common::secure::Protection;
use crate::common::secure_peer;
use crate::common::traffic::Pulse;
use crate::common::wait::{DEADLINE, succeed, wait_for, wait_until};

const SOCKET: &str = "/run/simpletun/t1.sock";
const FAR_SOCKET: &str = "/run/simpletun/t2.sock";

rows! {
    (
        plain_tcp: super::Kind::PLAIN_TCP,
        plain_udp: super::Kind::PLAIN_UDP,
        secure_tcp: super::Kind::SECURE_TCP,
        secure_keys_udp: super::Kind { protection: super::Protection::KeyPairs, ..super::Kind::SECURE_UDP }
    ) {
        the_status_says_what_is_true
    }
}

/// Sends a request and reads the whole answer.
#[track_caller]
fn ask(socket: &str, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap_or_else(|error| panic!("connect to {socket}: {error}"));
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.write_all(format!("{request}\n").as_bytes()).expect("send the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[track_caller]
fn status_at(socket: &str) -> Value {
    let text = ask(socket, "status");
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The status tells device, link, traffic and protection as they are, at both ends.
fn the_status_says_what_is_true(kind: Kind) {
    let pair = Pair::new(kind, "");
    pair.lab.local.ping(FAR, 10, 100);
    let is_secure = kind.protection != Protection::Plain;
    if is_secure && !kind.is_tcp() {
        // Being asked, the daemon measures; the next answer has it.
        wait_until(DEADLINE, "round trip", || status_at(SOCKET)["rtt_seconds"].is_number());
    }
    let (near, far) = (status_at(SOCKET), status_at(FAR_SOCKET));
    assert_eq!((&near["schema"], &near["instance"], &near["device"]["name"]), (&1.into(), &"t1".into(), &"t1".into()));
    assert_eq!((&near["role"], &far["role"]), (&"connect".into(), &"listen".into()));
    assert_eq!(near["pid"], pair.client.pid());
    for status in [&near, &far] {
        assert_eq!(status["link"]["state"], "up", "{status}");
        assert_eq!(status["link"]["changes"][0]["state"], "up", "{status}");
        assert_eq!(status["device"]["carrier"], true, "{status}");
        assert_eq!(status["transport"], if kind.is_tcp() { "tcp" } else { "udp" });
        assert!(status["uptime_seconds"].as_f64().expect("a number") > 0.0);
        assert_eq!(status["handshake_age_seconds"].is_number(), is_secure, "{status}");
        assert_eq!(status["security"]["aead"].is_string(), is_secure, "{status}");
        assert_eq!(status["loss"].is_object(), is_secure && !kind.is_tcp(), "{status}");
        assert_eq!(status["rtt_seconds"].is_number(), kind.notices_silence(), "{status}");
        let rtt = status["rtt_seconds"].as_f64().unwrap_or_default();
        assert!((0.0..10.0).contains(&rtt), "{status}");
        for place in ["device_read", "device_written", "network_received", "network_sent"] {
            let amount = &status["traffic"][place];
            assert!(amount["packets"].as_u64().is_some_and(|packets| packets >= 10), "{place} in {status}");
            assert!(amount["bytes"].as_u64().is_some_and(|bytes| bytes >= 1000), "{place} in {status}");
        }
    }
    assert_eq!(near["peer"], format!("{}:55555", crate::common::lab::REMOTE));
    assert!(near["local"].as_str().is_some_and(|local| local.starts_with(crate::common::lab::LOCAL)), "{near}");
    assert_eq!(far["peer"], near["local"], "each is where the other sees it");
    if kind.protection == Protection::KeyPairs {
        assert_eq!(near["security"]["mode"], "keys");
        assert_eq!(near["security"]["peer_public_keys"][0], far["security"]["public_key"]);
        assert_eq!(near["path"]["mtu_source"], "probed");
    }
}

/// Each request of the control socket has its answer, and everything else one line that says what is wrong.
#[test]
fn every_request_is_answered_and_every_mistake_named() {
    let _pair = Pair::new(Kind::PLAIN_TCP, "");
    let version: Value = serde_json::from_str(&ask(SOCKET, "version")).expect("JSON");
    assert_eq!((&version["schema"], &version["version"]), (&1.into(), &env!("CARGO_PKG_VERSION").into()));
    let metrics = ask(SOCKET, "openmetrics");
    assert!(metrics.contains("simpletun_link_up{tunnel=\"t1\"} 1.0") && metrics.ends_with("# EOF\n"), "{metrics}");
    for wrong in ["", "nonsense", "status now", "\u{0}\u{1b}[2J", &"x".repeat(5000)] {
        let answer: Value = serde_json::from_str(&ask(SOCKET, wrong)).expect("JSON");
        assert!(answer["error"].is_string(), "{wrong:?}: {answer}");
    }
    let mut watching = UnixStream::connect(SOCKET).expect("a connection");
    watching.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    watching.write_all(b"watch\n").expect("send the request");
    let ages = BufReader::new(watching).lines().take(3).map(|line| {
        let status: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        status["uptime_seconds"].as_f64().expect("a number")
    });
    let ages: Vec<f64> = ages.collect();
    assert!(ages.len() == 3 && ages[1] - ages[0] > 0.9 && ages[2] - ages[1] > 0.9, "{ages:?}");
}

/// A peer that is killed and comes back is in the history, with the reason, and as a reconnection.
#[test]
fn the_history_tells_what_has_happened() {
    let mut pair = Pair::new(Kind::PLAIN_TCP, "--keepalive 1s --down-after 2s");
    pair.server.kill();
    wait_until(DEADLINE, "end of the link in the status", || status_at(SOCKET)["link"]["state"] == "down");
    assert!(status_at(SOCKET)["link"]["reason"].is_string());
    pair.start_server();
    wait_until(DEADLINE, "return of the link in the status", || status_at(SOCKET)["link"]["state"] == "up");
    let status = status_at(SOCKET);
    let changes = status["link"]["changes"].as_array().expect("changes");
    let states: Vec<&str> = changes.iter().filter_map(|change| change["state"].as_str()).collect();
    assert_eq!(states, ["up", "down", "interrupted", "up"]);
    assert!(changes[1]["reason"].is_string() && changes[0]["reason"].is_null(), "{status}");
    assert_eq!(status["counts"]["reconnects"], 1);
}

/// The instance is called after its configuration file; its socket goes when it ends, and when it is killed.
#[test]
fn the_socket_has_the_name_of_the_file_and_comes_and_goes_with_the_daemon() {
    let lab = Lab::with_test_inside();
    fs::write("/run/branch.toml", "security = 'plain'\ninterface = 'tun7'\nserver = true\n").expect("write the file");
    let mut daemon = server(&lab.local, "--config /run/branch.toml");
    let socket = "/run/simpletun/branch.sock";
    assert_eq!(status_at(socket)["instance"], "branch");
    let file = fs::metadata(socket).expect("the socket");
    assert!(file.file_type().is_socket());
    assert_eq!(file.mode() & 0o777, 0o600, "there is no group that it could be for");
    assert_eq!(fs::metadata("/run/simpletun").expect("the directory").mode() & 0o777, 0o755);

    let second = server(&lab.remote, "--config /run/branch.toml");
    assert!(second.said("Another daemon serves the control socket"));
    drop(second);
    assert_eq!(status_at(socket)["pid"], daemon.pid(), "the first one has kept it");

    daemon.kill();
    wait_until(DEADLINE, "removal of the socket by the helper", || !Path::new(socket).exists());
    let mut daemon = server(&lab.local, "--config /run/branch.toml");
    assert_eq!(status_at(socket)["pid"], daemon.pid());
    daemon.terminate();
    assert!(!Path::new(socket).exists());
}

/// `--control` puts the socket elsewhere or does without; a place that cannot be is an error.
#[test]
fn the_socket_is_where_it_is_asked_for() {
    let lab = Lab::with_test_inside();
    let daemon = server(&lab.local, "-i t1 -s --control /run/elsewhere.sock");
    assert_eq!(status_at("/run/elsewhere.sock")["instance"], "t1");
    drop(daemon);
    let _daemon = server(&lab.local, "-i t1 -s --control off");
    assert!(!Path::new(SOCKET).exists());
    let (code, text) = refused(&lab.local, "-i t2 -s -p 7 --control /run/missing/a.sock");
    assert!(code == 1 && text.contains("/run/missing/a.sock"), "{code}: {text}");
}

/// The metrics are served over HTTP in a form that an independent parser accepts, to everybody on the host and nobody else,
/// and a request that is none draws the HTTP status for it.
#[test]
fn metrics_are_served_over_http() {
    const PARSER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/metrics.py");
    let pair = Pair::new(Kind::SECURE_UDP, "--metrics 127.0.0.1:9586");
    let http = |ns: &Ns, request: &str| {
        let mut command = ns.command(PYTHON);
        command.args([
            "-c",
            "import socket, sys\ns = socket.create_connection(('127.0.0.1', 9586), 15)\ns.sendall(\
            sys.argv[1].encode())\nwhile (part := s.recv(65536)): sys.stdout.write(part.decode())",
            request,
        ]);
        succeed(command.output().expect("run python"), request)
    };
    for ns in [&pair.lab.local, &pair.lab.remote] {
        let answer = http(ns, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("application/openmetrics-text; version=1.0.0"), "{answer}");
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        fs::write("/run/metrics", body).expect("write the metrics");
        let parsed = Command::new(secure_peer::python()).args([PARSER, "/run/metrics"]).output().expect("run python");
        let parsed = succeed(parsed, "the parser");
        for sample in
            ["counter simpletun_network_sent_bytes_total", "gauge simpletun_rtt_seconds", "gauge simpletun_link_up"]
        {
            assert!(parsed.lines().any(|line| line == sample), "{sample} in {parsed}");
        }
    }
    let local = &pair.lab.local;
    assert!(http(local, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(http(local, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(http(local, "status\n").starts_with("HTTP/1.1 400 "));
    assert_eq!(local.run("ss -Hltn sport = :9586").split_whitespace().nth(3), Some("127.0.0.1:9586"));
    let (code, text) = refused(local, "-i t3 -s -p 7 --metrics 127.0.0.1:9586");
    assert!(code == 1 && text.contains("--metrics"), "{code}: {text}");
}

/// Runs the program with arguments as on a command line; exit code, standard output and standard error.
fn run(args: &str) -> (i32, String, String) {
    outcome(Ns::here().command(env!("CARGO_BIN_EXE_simpletun")).args(args.split_whitespace()))
}

fn outcome(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("run simpletun");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is text");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// `simpletun status` shows one tunnel or all, for people and for programs, and says what is wrong in one line.
#[test]
fn the_status_tool_shows_one_tunnel_or_all() {
    let (code, _, error) = run("status");
    assert_eq!((code, error.as_str()), (1, "No tunnel is running\n"));
    assert_eq!(run("status --json").1, "[]\n");
    let mut pair = Pair::new(Kind::SECURE_UDP, "");
    let (code, text, _) = run("status");
    assert!(code == 0 && text.starts_with("t1 up for ") && text.contains("\nt2 up for "), "{text}");
    assert!(text.contains("over udp") && text.contains("aes-256-gcm") || text.contains("chacha20"), "{text}");
    let one: Value = serde_json::from_str(&run("status t2 --json").1).expect("JSON");
    assert_eq!((&one["instance"], &one["link"]["state"]), (&"t2".into(), &"up".into()));
    let all: Value = serde_json::from_str(&run("status --json").1).expect("JSON");
    assert_eq!(all.as_array().map(Vec::len), Some(2));
    let metrics = run("status --openmetrics").1;
    assert_eq!(metrics.matches("# TYPE simpletun_link_up gauge").count(), 1);
    assert!(metrics.contains("simpletun_link_up{tunnel=\"t2\"} 1.0"), "{metrics}");

    let (code, _, error) = run("status nonsense");
    assert_eq!((code, error.as_str()), (1, "The tunnel nonsense is not running; there are t1, t2\n"));
    let (code, _, error) = run("status --watch");
    assert_eq!((code, error.as_str()), (1, "Several tunnels are running, name one of them: t1, t2\n"));
    pair.server.kill();
    let (code, text, _) = run("status");
    assert!(code == 0 && !text.contains("t2 "), "a socket that was left behind is no tunnel: {text}");
    pair.client.signal("STOP");
    let (code, _, error) = run("status t1");
    pair.client.signal("CONT");
    assert!(code == 1 && error.contains("does not answer"), "{error}");
}

/// `simpletun check` has the exit code that monitoring expects in each state of the link.
#[test]
fn the_check_has_an_exit_code_for_each_state() {
    let check = |args: &str| {
        let (code, text, _) = run(&format!("check {args}"));
        assert!(args == "--nonsense" || text.lines().count() == 1, "{text}");
        (code, text)
    };
    assert_eq!(check("t1"), (2, "SIMPLETUN CRITICAL - The tunnel t1 is not running\n".to_owned()));
    assert_eq!(check("--nonsense").0, 3);
    let mut pair = Pair::new(Kind::PLAIN_TCP, "--keepalive 1s --down-after 20s");
    let (code, text) = check("t1 --rtt-warn 1m --loss-crit 50");
    assert!(code == 0 && text.starts_with("SIMPLETUN OK - t1 up for") && text.contains("| rtt="), "{text}");
    assert_eq!(check("t1 --rtt-warn 1ns").0, 1);
    assert_eq!(check("t1 --rtt-crit 1ns").0, 2);
    assert_eq!(check("").0, 3, "which of the two?");
    pair.server.kill();
    wait_until(DEADLINE, "an interruption", || check("t1").0 == 1);
    pair.client.signal("STOP");
    assert!(check("t1").1.contains("does not answer"));
    pair.client.signal("CONT");
    drop(pair);
    let lab = Ns::here();
    let _lonely = server(&lab, "-i t5 -s -p 7777");
    assert_eq!(check("t5").0, 2, "a server without a peer");
    let _plain = crate::common::daemon::simpletun(&lab, "-i t6 -c 127.0.0.1:9 --udp");
    wait_until(DEADLINE, "a plain client", || check("t6").0 == 3);
}

/// Makes accounts for this mount namespace only: the group with one member.
fn make_group(member: &str) {
    let passwd = format!(
        "root:x:0:0::/root:/bin/sh\nnobody:x:{NOBODY}:{NOBODY}::/:/bin/sh\nother:x:{STRANGER}:{STRANGER}::/:/bin/sh\n"
    );
    let group = format!("root:x:0:\nnobody:x:{NOBODY}:\nother:x:{STRANGER}:\nsimpletun:x:4242:{member}\n");
    for (file, text) in [("passwd", passwd), ("group", group)] {
        fs::write(format!("/run/{file}"), text).expect("write the accounts");
        Ns::here().run(&format!("mount --bind /run/{file} /etc/{file}"));
    }
}

/// Members of the group simpletun see the status without being root, and cannot see packets or load the link; others are told which group to join.
#[test]
fn a_member_of_the_group_may_ask_and_another_user_may_not() {
    let lab = Lab::with_test_inside();
    make_group("nobody");
    let _daemon = server(&lab.local, "-i t1 -s");
    assert_eq!(fs::metadata(SOCKET).map(|file| (file.mode() & 0o777, file.gid())).expect("the socket"), (0o660, 4242));
    let ask = |verb: &str, uid: u32| {
        let user = uid.to_string();
        let mut command = lab.local.command("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--init-groups", "--", &public_binary(), verb, "t1"]);
        outcome(&mut command)
    };
    let status = |uid| ask("status", uid);
    let (code, text, error) = status(NOBODY);
    assert!(code == 0 && text.starts_with("t1 waiting"), "{text}{error}");
    let (code, _, error) = status(STRANGER);
    assert!(code == 1 && error.contains("join the group simpletun"), "{error}");

    // Even where the file lets them in, for instance in another directory with other rights.
    lab.local.run("chmod 666 /run/simpletun/t1.sock");
    let (code, _, error) = status(STRANGER);
    assert!(code == 1 && error.contains("Not permitted"), "{error}");
    assert_eq!(status(NOBODY).0, 0);
    // It is also the user of the daemon, for want of another.
    for verb in ["dump", "test"] {
        let (code, text, error) = ask(verb, NOBODY);
        assert!(code == 1 && text.is_empty() && error.contains("only root and the user of the daemon may"), "{error}");
    }
}

/// Clients that are silent, slow, endless or a thousand do not disturb the tunnel, and others are answered all the while.
#[test]
fn hostile_clients_disturb_neither_the_tunnel_nor_others() {
    const HOSTILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/hostile_status.py");
    let mut pair = Pair::new(Kind::SECURE_UDP, "--metrics 127.0.0.1:9586");
    let before = pair.client.usage();
    let pulse = Pulse::new(FAR, Duration::from_millis(5));
    pulse.begins();
    for manner in ["partial", "endless", "many", "never-reads", "http"] {
        let text = pair.lab.local.run(&format!("timeout 60 {PYTHON} {HOSTILE} {SOCKET} {manner}"));
        assert!(text.contains("done"), "{manner}: {text}");
        assert_eq!(status_at(SOCKET)["link"]["state"], "up", "{manner}");
    }
    let beats = pulse.finish();
    let lost = beats.sent.len() - beats.returned.len();
    assert_eq!(lost, 0, "{lost} of {} datagrams were lost", beats.sent.len());
    assert!(pair.client.is_running());
    let after = pair.client.usage();
    assert!(after.resident_kib < before.resident_kib + 10_000, "{before:?} {after:?}");
    wait_until(DEADLINE, "an end of all that was left", || pair.client.descriptors() < 40);
}

/// The view that stays shows everything on small and large terminals, and leaves the terminal as it was.
#[test]
fn the_live_view_fills_a_terminal_and_gives_it_back() {
    let _pair = Pair::new(Kind::SECURE_UDP, "");
    let here = Ns::here();
    for (width, height) in [(80, 24), (200, 50)] {
        let tmux = |args: &str| here.run(&format!("tmux -L t{width} {args}"));
        // A program that stays when the view has ended; its screen is what has to come back.
        let mut start = here.command("tmux");
        start.env("TERM", "xterm-256color").args(["-L", &format!("t{width}"), "-f", "/dev/null", "new-session", "-d"]);
        start.args([
            "-x",
            &width.to_string(),
            "-y",
            &height.to_string(),
            "echo before; PS1='ready ' exec bash --norc --noprofile",
        ]);
        succeed(start.output().expect("run tmux"), "tmux");
        let screen = || tmux("capture-pane -p");
        let shows = |what: &str, parts: &[&str]| {
            let found = wait_for(DEADLINE, format!("{what} at {width}x{height}"), || {
                let text = screen();
                parts.iter().all(|part| text.contains(part)).then_some(text)
            });
            found.0
        };
        shows("shell", &["before", "ready"]);
        tmux(&format!("send-keys {} Space status Space t1 Space --watch Enter", env!("CARGO_BIN_EXE_simpletun")));
        let text = shows(
            "view",
            &[
                "t1",
                "up for",
                "over udp",
                "t1 (tun)",
                "secret",
                "received",
                "bit/s",
                "sent",
                "rtt",
                "loss 0.0%",
                "dropped",
                "changes",
                "q quits",
                "packets/s",
            ],
        );
        assert!(!text.contains("before"), "it has the screen for itself:\n{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), height, "{text}");
        assert!(lines[0].starts_with('┌') && lines[0].trim_end().ends_with('┐'), "{text}");
        assert_eq!(lines[0].chars().count(), width, "{text}");
        if let Ok(directory) = std::env::var("SIMPLETUN_CAPTURES") {
            fs::write(format!("{directory}/{width}x{height}"), &text).expect("keep the capture");
        }
        tmux("send-keys q");
        shows("shell again", &["before", "--watch"]);
        tmux("kill-server");
    }
    let mut lines = Ns::here().command("timeout");
    lines.args(["3", env!("CARGO_BIN_EXE_simpletun"), "status", "t1", "--watch"]);
    let (_, text, _) = outcome(&mut lines);
    assert!(text.lines().count() >= 2 && text.lines().all(|line| line.starts_with("t1 up received ")), "{text}");
}
