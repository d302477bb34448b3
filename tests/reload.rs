//! HUP while packets pass: what has changed in the file is in force, and the tunnel goes on wherever it can.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::fs;
use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, Mark, server, simpletun};
use crate::common::lab::{Lab, REMOTE};
use crate::common::line;
use crate::common::pair::{FAR, Kind, NEAR, cut};
use crate::common::secure::{Protection, new_secret};
use crate::common::traffic::{Pulse, Responder};
use crate::common::wait::{DEADLINE, holds_for, wait_until};

over_all! {
    what_needs_no_other_link_is_applied_without_losing_a_packet
    a_file_that_has_not_changed_changes_nothing
    a_file_with_a_mistake_changes_nothing
    what_needs_another_link_is_named_and_the_tunnel_is_back_at_once
    a_peer_that_is_no_longer_allowed_is_dropped_and_kept_out
}

// A plain link over UDP knows of no silence.
rows! {
    (tcp: super::Kind::PLAIN_TCP, tcp_by_secret: super::Kind::SECURE_TCP, udp_by_secret: super::Kind::SECURE_UDP) {
        a_shorter_patience_holds_for_the_link_that_stands
    }
}

rows! {
    (over_tcp: "", over_udp: "--udp") {
    a_secret_is_exchanged_at_one_end_after_the_other_without_losing_a_packet
    a_pair_of_keys_is_exchanged_without_losing_a_packet
    a_peer_key_that_is_removed_ends_its_session
    }
}

/// Time from one numbered packet to the next: short enough that a pause of a handshake would be seen.
const BEAT: Duration = Duration::from_millis(2);

/// Both ends with their settings in files.
struct Filed {
    lab: Lab,
    kind: Kind,
    client: Daemon,
    server: Daemon,
    _responder: Responder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

impl Filed {
    /// With what both files say beside the necessary.
    #[track_caller]
    fn new(kind: Kind, more: &str) -> Self {
        if kind.protection == Protection::Secret {
            new_secret("/run/old");
            new_secret("/run/new");
        }
        let both = format!("{}{more}", secret(kind));
        Self::with(kind, [both.clone(), both])
    }

    #[track_caller]
    fn with(kind: Kind, [client, server_more]: [String; 2]) -> Self {
        let lab = Lab::with_test_inside();
        write(kind, End::Server, &server_more);
        write(kind, End::Client, &client);
        let server = server(&lab.remote, "--config /run/server.toml");
        let client = simpletun(&lab.local, "--config /run/client.toml");
        client.wait_for(line::DEVICE);
        let responder = Responder::new(&lab.remote);
        lab.local.ping_until_answered(FAR, DEADLINE);
        Self { lab, kind, client, server, _responder: responder }
    }

    fn end(&self, end: End) -> &Daemon {
        match end {
            End::Client => &self.client,
            End::Server => &self.server,
        }
    }

    /// One end reads its file again and says this about it.
    #[track_caller]
    fn reload(&self, end: End, more: &str, says: &str) {
        write(self.kind, end, more);
        let mark = self.end(end).mark();
        self.end(end).signal("HUP");
        let said = self.end(end).wait_after(mark, "configuration read again");
        assert!(said.ends_with(&format!("configuration read again{says}")), "{said}");
    }

    /// Every packet has come back, and neither end has noticed anything.
    #[track_caller]
    fn lost_nothing(&self, pulse: Pulse) {
        let beats = pulse.finish();
        let mut returned: Vec<u64> = beats.returned.iter().map(|(number, _)| *number).collect();
        returned.sort_unstable();
        returned.dedup();
        let lost: Vec<u64> =
            (0..beats.sent.len() as u64).filter(|number| returned.binary_search(number).is_err()).collect();
        assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), beats.sent.len());
        for end in [&self.client, &self.server] {
            assert!(!end.said(line::DOWN) && !end.said(line::INTERRUPTED), "{}", end.text());
        }
    }
}

fn write(kind: Kind, end: End, more: &str) {
    let (file, own) = match end {
        End::Client => ("/run/client.toml", format!("interface = 't1'\nconnect = '{REMOTE}'\n")),
        End::Server => ("/run/server.toml", "interface = 't2'\nserver = true\n".to_owned()),
    };
    let security = match kind.protection {
        Protection::Plain => "plain",
        Protection::Secret => "secret",
        Protection::KeyPairs => "keys",
    };
    let address = if more.contains("address =") {
        String::new()
    } else {
        format!("address = ['{}/24']\n", if end == End::Client { NEAR } else { FAR })
    };
    let text = format!("security = '{security}'\nudp = {}\n{own}{address}{more}", !kind.is_tcp());
    fs::write(file, text).expect("write the settings");
}

/// What both ends of a link of this kind have in their files beside the settings that change.
fn secret(kind: Kind) -> &'static str {
    if kind.protection == Protection::Secret { "secret-file = ['/run/old']\n" } else { "" }
}

/// The administrator edits routes, addresses, the MTU, rules and times; who uses the tunnel notices nothing.
fn what_needs_no_other_link_is_applied_without_losing_a_packet(kind: Kind) {
    let filed = Filed::new(kind, "");
    let secret = secret(kind);
    let pulse = Pulse::new(FAR, BEAT);
    pulse.begins();
    let (near, far) = (format!("{NEAR}/24"), format!("{FAR}/24"));
    for (end, more, says) in [
        (End::Client, "route = ['10.7.0.0/16', '10.8.0.0/16']\n".to_owned(), ": changed route"),
        (End::Client, "route = ['10.8.0.0/16']\nmtu = 1300\n".to_owned(), ": changed route, mtu"),
        (
            End::Client,
            format!("address = ['{near}', '192.168.7.1/24']\nmtu = 1300\nup = true\n"),
            ": changed address, route",
        ),
        (
            End::Server,
            format!("address = ['{far}', 'fd00::2/64']\nallow = ['10.86.43.0/24']\n"),
            ": changed address, allow",
        ),
        (End::Server, "allow = ['10.86.43.51']\ncarrier = 'off'\n".to_owned(), ": changed address, carrier, allow"),
        (
            End::Server,
            "keepalive = '1s'\ndown-after = '20s'\nmss-clamp = 1000\n".to_owned(),
            ": changed carrier, allow, keepalive, down-after, mss-clamp",
        ),
        (End::Server, String::new(), ": changed keepalive, down-after, mss-clamp"),
    ] {
        filed.reload(end, &format!("{secret}{more}"), says);
        pulse.returns_after(Instant::now(), DEADLINE);
    }
    filed.lost_nothing(pulse);
    let local = &filed.lab.local;
    assert!(local.run("ip addr show dev t1").contains("192.168.7.1/24"));
    assert!(local.run("ip link show dev t1").contains("mtu 1300"));
    assert!(!local.run("ip route show dev t1").contains("10.8.0.0"));
}

/// A HUP too many does no harm.
fn a_file_that_has_not_changed_changes_nothing(kind: Kind) {
    let filed = Filed::new(kind, "route = ['10.7.0.0/16']\n");
    let pulse = Pulse::new(FAR, BEAT);
    pulse.begins();
    let handshakes = || [&filed.client, &filed.server].map(|end| end.statistics().get("handshakes"));
    let before = handshakes();
    for end in [End::Client, End::Server] {
        filed.reload(end, &format!("{}route = ['10.7.0.0/16']\n", secret(kind)), ", nothing has changed");
        pulse.returns_after(Instant::now(), DEADLINE);
    }
    assert_eq!(handshakes(), before);
    filed.lost_nothing(pulse);
}

/// A typing error is named in one line, and the tunnel runs on with what it had.
fn a_file_with_a_mistake_changes_nothing(kind: Kind) {
    let filed = Filed::new(kind, "route = ['10.7.0.0/16']\n");
    let pulse = Pulse::new(FAR, BEAT);
    pulse.begins();
    let mistakes = [
        ("route = ['10.8.0.0/33']\n", "10.8.0.0/33"),
        ("route = [\n", "client.toml"),
        ("rout = []\n", "rout"),
        ("secret-file = ['/run/none']\n", "secret-file"),
        ("peer-public-key = ['st1pk:AAAA']\n", "peer-public-key"),
    ];
    for (mistake, named) in mistakes {
        write(kind, End::Client, mistake);
        let mark = filed.client.mark();
        filed.client.signal("HUP");
        let said = filed.client.wait_after(mark, "going on with the configuration that is in force");
        assert!(said.contains(named), "{said}");
        assert!(!filed.client.said_after(mark, "configuration read again"), "{}", filed.client.text());
    }
    pulse.returns_after(Instant::now(), DEADLINE);
    filed.lost_nothing(pulse);
    assert!(filed.lab.local.run("ip route show dev t1").contains("10.7.0.0/16"));
}

/// Another port on both ends: each says why it reconnects, and packets pass again.
fn what_needs_another_link_is_named_and_the_tunnel_is_back_at_once(kind: Kind) {
    let filed = Filed::new(kind, "");
    filed.reload(End::Server, &format!("{}port = 4000\n", secret(kind)), ": reconnecting for port");
    filed.reload(
        End::Client,
        &format!("{}port = 4000\nfwmark = 7\nroute = ['10.7.0.0/16']\n", secret(kind)),
        ": changed route; reconnecting for connect, fwmark",
    );
    filed.lab.local.ping_until_answered(FAR, DEADLINE);
    assert!(filed.client.said(&format!("peer={REMOTE}:4000")), "{}", filed.client.text());
    // What only a restart changes is named, too.
    write(kind, End::Client, &format!("{}port = 4000\nfwmark = 7\npersist = true\n", secret(kind)));
    let mark = filed.client.mark();
    filed.client.signal("HUP");
    let said = filed.client.wait_after(mark, "configuration read again");
    assert!(said.ends_with(": changed route; only a restart changes persist, left as before"), "{said}");
    filed.lab.local.ping(FAR, 1, 56);
}

/// The network of the peer is taken from the list: its connection ends, and it does not come back before it is listed.
fn a_peer_that_is_no_longer_allowed_is_dropped_and_kept_out(kind: Kind) {
    let filed = Filed::new(kind, "");
    let more = |allow: &str| format!("{}allow = ['{allow}']\n", secret(kind));
    filed.reload(End::Server, &more("192.0.2.0/24"), ": changed allow");
    let said = filed.server.wait_for(line::DOWN);
    assert!(said.contains("reason=not-allowed"), "{said}");
    wait_until(DEADLINE, "refusal", || {
        !filed.lab.local.answers(FAR) && filed.server.said("--allow 10.86.43.51 would accept it")
    });
    holds_for(Duration::from_secs(1), "nobody gets in", || !filed.lab.local.answers(FAR));
    filed.reload(End::Server, &more("10.86.43.0/24"), ": changed allow");
    filed.lab.local.ping_until_answered(FAR, DEADLINE);
}

/// A minute of patience becomes two seconds, and a peer that is cut off is given up in that time.
fn a_shorter_patience_holds_for_the_link_that_stands(kind: Kind) {
    let filed = Filed::new(kind, "keepalive = '20s'\ndown-after = '60s'\n");
    let more = format!("{}keepalive = '1s'\ndown-after = '2s'\n", secret(kind));
    filed.reload(End::Client, &more, ": changed keepalive, down-after");
    // The connection stands, and the peer knows of it where it has to.
    filed.lab.local.ping(FAR, 3, 56);
    assert!(!filed.client.said(line::DOWN), "{}", filed.client.text());
    let mark = filed.client.mark();
    cut(&filed.lab.local);
    cut(&filed.lab.remote);
    filed.client.wait_after_for(mark, line::DOWN, Duration::from_secs(30));
}

/// Old and new are accepted on one end, then the other one changes, then the old one goes.
fn a_secret_is_exchanged_at_one_end_after_the_other_without_losing_a_packet(transport: &'static str) {
    let filed = Filed::new(Kind { protection: Protection::Secret, transport }, "");
    let pulse = Pulse::new(FAR, BEAT);
    pulse.begins();
    let more = |secrets: &str| format!("secret-file = [{secrets}]\n");
    for (end, secrets) in
        [(End::Server, "'/run/old', '/run/new'"), (End::Client, "'/run/new'"), (End::Server, "'/run/new'")]
    {
        filed.reload(end, &more(secrets), ": changed secret-file");
        pulse.returns_after(Instant::now() + Duration::from_millis(100), DEADLINE);
    }
    filed.lost_nothing(pulse);
    // The old secret opens nothing any more.
    filed.reload(End::Client, &more("'/run/old'"), ": changed secret-file");
    filed.server.wait_for("was made with another secret");
}

/// The client has made a new key and a new pre-shared key comes with it.
fn a_pair_of_keys_is_exchanged_without_losing_a_packet(transport: &'static str) {
    let kind = Kind { protection: Protection::KeyPairs, transport };
    let keys = Keys::new();
    let filed = Filed::with(kind, [keys.client("a"), keys.server(&["a"])]);
    let pulse = Pulse::new(FAR, BEAT);
    pulse.begins();
    for (end, more, says) in [
        (End::Server, keys.server(&["a", "b"]), ": changed peer-public-key"),
        (End::Client, keys.client("b"), ": changed private-key-file"),
        (End::Server, keys.server(&["b"]), ": changed peer-public-key"),
    ] {
        filed.reload(end, &more, says);
        pulse.returns_after(Instant::now() + Duration::from_millis(100), DEADLINE);
    }
    filed.lost_nothing(pulse);
}

/// A laptop is lost and its key is taken from the list: within seconds it is out, and stays out.
fn a_peer_key_that_is_removed_ends_its_session(transport: &'static str) {
    let kind = Kind { protection: Protection::KeyPairs, transport };
    let keys = Keys::new();
    let filed = Filed::with(kind, [keys.client("a"), keys.server(&["a", "b"])]);
    filed.reload(End::Server, &keys.server(&["b"]), ": changed peer-public-key");
    let said = filed.server.wait_for(line::DOWN);
    assert!(said.contains("reason=key-removed"), "{said}");
    wait_until(DEADLINE, "end of the tunnel", || !filed.lab.local.answers(FAR));
    filed.server.wait_after_for(Mark::START, line::WRONG_KEY, Duration::from_secs(30));
    assert!(!filed.lab.local.answers(FAR));
    filed.reload(End::Server, &keys.server(&["a"]), ": changed peer-public-key");
    filed.lab.local.ping_until_answered(FAR, Duration::from_secs(30));
}

/// A server's key and two of clients, in files.
struct Keys {
    server: String,
    clients: [(&'static str, String); 2],
}

impl Keys {
    fn new() -> Self {
        let new = |name: &str| crate::common::secure::new_key(&format!("/run/{name}.key"));
        Self { server: new("server"), clients: [("a", new("a")), ("b", new("b"))] }
    }

    fn client(&self, name: &str) -> String {
        format!("private-key-file = '/run/{name}.key'\npeer-public-key = ['{}']\n", self.server)
    }

    fn server(&self, names: &[&str]) -> String {
        let listed = self.clients.iter().filter(|(name, _)| names.contains(name));
        let listed: Vec<String> = listed.map(|(_, public)| format!("'{public}'")).collect();
        format!("private-key-file = '/run/server.key'\npeer-public-key = [{}]\n", listed.join(", "))
    }
}

/// More is said without a restart, and less.
#[test]
fn the_level_of_the_log_changes_while_it_runs() {
    let filed = Filed::new(Kind::PLAIN_TCP, "");
    filed.client.state();
    filed.reload(End::Client, "log-level = 'debug'\n", ": changed log-level");
    let mark = filed.client.mark();
    filed.lab.local.run("ip route add 10.9.0.0/16 dev eth0");
    filed.client.wait_after(mark, "the network has changed");
    filed.reload(End::Client, "log-level = 'error'\n", ": changed log-level");
    let mark = filed.client.mark();
    filed.client.signal("USR2");
    write(filed.kind, End::Client, "mtu = 1\n");
    filed.client.signal("HUP");
    filed.client.wait_after(mark, "going on with the configuration that is in force");
    assert!(!filed.client.said_after(mark, line::STATISTICS), "{}", filed.client.text());
}
