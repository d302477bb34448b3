//! Secure links whose ends die, hang, fall silent, leave, and get new keys: traffic flows again by itself, soon, and the
//! log says why it did not.

#![expect(clippy::disallowed_methods, reason = "a test has deadlines of its own")]

use std::fs;
use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, server, simpletun};
use crate::common::lab::{Lab, REMOTE};
use crate::common::line;
use crate::common::secure::{Ends, Protection, new_secret, write_key};
use crate::common::traffic::{Pulse, Responder, Stream};
use crate::common::wait::{DEADLINE, holds_for, wait_until};

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";

/// A second is the aim, with traffic offered all the while; the rest is for a machine that runs other tests beside this.
const SOON: Duration = Duration::from_secs(5);

/// A short patience, so that silence is noticed within the time that a test may take.
const IMPATIENT: &str = "--keepalive 1s --down-after 3s";

over_both! {
    a_client_that_is_killed_again_and_again_is_served_each_time
    a_server_that_is_killed_again_and_again_is_found_each_time
    two_ends_that_are_killed_again_and_again_meet_each_time
    a_connection_inside_survives_the_death_of_either_end
    a_client_that_hangs_is_said_to_be_down_and_comes_back
    a_server_that_hangs_is_said_to_be_down_and_comes_back
    a_black_hole_towards_the_client_is_noticed_there
    a_black_hole_towards_the_server_is_noticed_there
    a_client_that_is_stopped_says_goodbye
    a_server_that_is_stopped_says_goodbye
    hup_changes_the_secret_without_a_plain_moment
    a_broken_key_on_hup_changes_nothing
}

/// A secure tunnel, `t1` in the test's own namespace, `t2` at the other end.
struct Link {
    lab: Lab,
    ends: Ends,
    options: String,
    client: Daemon,
    server: Daemon,
    responder: Responder,
}

impl Link {
    #[track_caller]
    fn new(protection: Protection, options: &str) -> Self {
        let lab = Lab::with_test_inside();
        let (ends, options) = (protection.ends(), options.to_owned());
        let server = far_end(&lab, &ends, &options);
        let client = near_end(&lab, &ends, &options);
        client.wait_for(line::UP);
        server.wait_for(line::UP);
        let responder = Responder::new(&lab.remote);
        Self { lab, ends, options, client, server, responder }
    }

    fn start_client(&mut self) {
        self.client = near_end(&self.lab, &self.ends, &self.options);
    }

    fn start_server(&mut self) {
        self.server = far_end(&self.lab, &self.ends, &self.options);
    }
}

fn far_end(lab: &Lab, ends: &Ends, options: &str) -> Daemon {
    simpletun(&lab.remote, &format!("-i t2 -s {options} {} --address {FAR}/24", ends.server))
}

fn near_end(lab: &Lab, ends: &Ends, options: &str) -> Daemon {
    simpletun(&lab.local, &format!("-i t1 -c {REMOTE} {options} {} --address {NEAR}/24", ends.client))
}

/// Which end dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Client,
    Server,
    Both,
}

const TRIES: u32 = 20;

fn a_client_that_is_killed_again_and_again_is_served_each_time(transport: &str) {
    killed(Victim::Client, transport);
}

fn a_server_that_is_killed_again_and_again_is_found_each_time(transport: &str) {
    killed(Victim::Server, transport);
}

fn two_ends_that_are_killed_again_and_again_meet_each_time(transport: &str) {
    killed(Victim::Both, transport);
}

/// Traffic is offered all the while; the outages differ in length, so that every phase of the repetitions is met.
#[track_caller]
fn killed(victim: Victim, transport: &str) {
    let mut link = Link::new(Protection::KeyPairs, transport);
    let pulse = Pulse::new(FAR, Duration::from_millis(2));
    pulse.begins();
    let mut times = Vec::new();
    for attempt in 0..TRIES {
        if victim != Victim::Server {
            link.client.kill();
        }
        if victim != Victim::Client {
            link.server.kill();
        }
        std::thread::sleep(outage(attempt));
        let start = Instant::now();
        if victim != Victim::Client {
            link.start_server();
        }
        if victim != Victim::Server {
            link.start_client();
        }
        times.push(pulse.returns_after(start, DEADLINE));
    }
    times.sort();
    let (middle, longest) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!("{victim:?} {transport}: p50 {middle:.0?}, longest {longest:.0?} of {times:.0?}");
    assert!(longest < SOON, "{times:?}");
    drop(link.responder);
}

/// Under load, and with time between the deaths for the connection inside to find out that it can go on.
fn a_connection_inside_survives_the_death_of_either_end(transport: &str) {
    let mut link = Link::new(Protection::Secret, transport);
    let stream = Stream::new(&link.lab.local, FAR);
    for victim in [Victim::Client, Victim::Server] {
        if victim == Victim::Client {
            link.client.kill();
            link.start_client();
        } else {
            link.server.kill();
            link.start_server();
        }
        stream.goes_on(DEADLINE);
    }
    stream.finish();
    drop(link.responder);
}

/// Of all lengths up to two thirds of a second, and two that are long enough for the repetitions to have become rare.
fn outage(attempt: u32) -> Duration {
    Duration::from_millis(if attempt % 8 == 7 { 2500 } else { 37 * u64::from(attempt) })
}

fn a_client_that_hangs_is_said_to_be_down_and_comes_back(transport: &str) {
    let link = Link::new(Protection::Secret, &format!("{transport} {IMPATIENT}"));
    hangs(&link, &link.client, &link.server);
}

fn a_server_that_hangs_is_said_to_be_down_and_comes_back(transport: &str) {
    // With the patience that an end has by itself.
    let link = Link::new(Protection::Secret, transport);
    hangs(&link, &link.server, &link.client);
}

#[track_caller]
fn hangs(link: &Link, hanging: &Daemon, other: &Daemon) {
    let pulse = Pulse::new(FAR, Duration::from_millis(5));
    pulse.begins();
    let mark = other.mark();
    hanging.signal("STOP");
    let stopped = Instant::now();
    let down = other.wait_after(mark, line::DOWN);
    assert!(down.contains("reason=silence"), "{down}");
    // Half as long again as the patience.
    std::thread::sleep(stopped.elapsed() / 2);
    hanging.signal("CONT");
    let start = Instant::now();
    let taken = pulse.returns_after(start, DEADLINE);
    assert!(taken < SOON, "only after {taken:?}");
    other.wait_after(mark, line::UP);
    link.lab.remote.ping(NEAR, 2, 56);
}

fn a_black_hole_towards_the_client_is_noticed_there(transport: &str) {
    let link = Link::new(Protection::Secret, &format!("{transport} {IMPATIENT}"));
    black_hole(&link, "output", &link.client);
}

fn a_black_hole_towards_the_server_is_noticed_there(transport: &str) {
    let link = Link::new(Protection::Secret, &format!("{transport} {IMPATIENT}"));
    black_hole(&link, "input", &link.server);
}

/// What the server's host sends or receives by the wire is lost.
#[track_caller]
fn black_hole(link: &Link, hook: &str, deaf: &Daemon) {
    let pulse = Pulse::new(FAR, Duration::from_millis(5));
    pulse.begins();
    let (remote, mark) = (&link.lab.remote, deaf.mark());
    remote.run("nft add table inet hole");
    remote.run(&format!("nft add chain inet hole lost {{ type filter hook {hook} priority 0 ; }}"));
    let rule = if hook == "input" { "iifname" } else { "oifname" };
    remote.run(&format!("nft add rule inet hole lost {rule} eth0 meta l4proto {{ tcp, udp }} drop"));
    let down = deaf.wait_after(mark, line::DOWN);
    assert!(down.contains("reason=silence"), "{down}");
    remote.run("nft delete table inet hole");
    let taken = pulse.returns_after(Instant::now(), DEADLINE);
    assert!(taken < SOON, "only after {taken:?}");
    deaf.wait_after(mark, line::UP);
}

fn a_client_that_is_stopped_says_goodbye(transport: &str) {
    let mut link = Link::new(Protection::Secret, transport);
    link.client.terminate();
    says_goodbye(&link.server);
    link.start_client();
    link.lab.local.ping_until_answered(FAR, SOON);
}

fn a_server_that_is_stopped_says_goodbye(transport: &str) {
    let mut link = Link::new(Protection::Secret, transport);
    link.server.terminate();
    says_goodbye(&link.client);
    link.start_server();
    link.lab.local.ping_until_answered(FAR, SOON);
}

#[track_caller]
fn says_goodbye(other: &Daemon) {
    let down = other.wait_after_for(crate::common::daemon::Mark::START, line::DOWN, Duration::from_secs(1));
    assert!(down.contains("reason=peer-closed"), "{down}");
}

/// The client has nothing to say and asks every three seconds only; the server knows where it was.
#[test]
fn a_server_with_a_state_directory_begins_by_itself_after_a_restart_over_udp() {
    fs::create_dir_all("/run/state").expect("make the directory");
    let mut link = Link::new(Protection::Secret, "--udp");
    link.server.kill();
    link.options = "--udp --state-dir /run/state".to_owned();
    link.start_server();
    link.lab.local.ping_until_answered(FAR, DEADLINE);
    wait_until(DEADLINE, "hint", || {
        fs::read_to_string("/run/state/t2.peer").is_ok_and(|text| text.contains("10.86.43.51:"))
    });
    link.server.kill();
    let mark = link.client.mark();
    let start = Instant::now();
    link.start_server();
    link.server.wait_for(line::UP);
    let taken = start.elapsed();
    assert!(taken < Duration::from_secs(1), "it has not waited for the client: {taken:?}");
    assert!(link.server.said("sending to peer=10.86.43.51:"), "{}", link.server.text());
    link.lab.remote.ping(NEAR, 2, 56);
    assert!(!link.client.said_after(mark, line::DOWN), "{}", link.client.text());
}

/// The settings of one end in a file, secrets by the names of their files.
fn write_config(file: &str, role: &str, transport: &str, address: &str, interface: &str, secrets: &str) {
    let udp = !transport.is_empty();
    let text = format!(
        "security = \"secret\"\ninterface = \"{interface}\"\n{role}\nudp = {udp}\naddress = [\"{address}/24\"]\n\
         secret-file = [{secrets}]\n"
    );
    fs::write(file, text).expect("write the settings");
}

/// Both ends with their settings in files.
struct Filed {
    lab: Lab,
    transport: String,
    client: Daemon,
    server: Daemon,
}

impl Filed {
    #[track_caller]
    fn new(transport: &str) -> Self {
        let lab = Lab::with_test_inside();
        new_secret("/run/old");
        new_secret("/run/new");
        let transport = transport.to_owned();
        Self::write_client(&transport, "'/run/old'");
        Self::write_server(&transport, "'/run/old'");
        let server = server(&lab.remote, "--config /run/server.toml");
        let client = simpletun(&lab.local, "--config /run/client.toml");
        client.wait_for(line::UP);
        server.wait_for(line::UP);
        Self { lab, transport, client, server }
    }

    fn write_client(transport: &str, secrets: &str) {
        write_config("/run/client.toml", "connect = \"10.86.43.52\"", transport, NEAR, "t1", secrets);
    }

    fn write_server(transport: &str, secrets: &str) {
        write_config("/run/server.toml", "server = true", transport, FAR, "t2", secrets);
    }

    /// One end reads its file again, and the tunnel carries after that.
    #[track_caller]
    fn reload(&self, end: &Daemon) {
        let mark = end.mark();
        end.signal("HUP");
        end.wait_after(mark, "configuration read again");
        let taken = self.lab.local.ping_until_answered(FAR, DEADLINE);
        assert!(taken < SOON, "only after {taken:?}");
    }
}

fn hup_changes_the_secret_without_a_plain_moment(transport: &str) {
    let filed = Filed::new(transport);
    let Filed { lab, client, server, .. } = &filed;
    let _wire = lab.remote.start("tcpdump -n -i eth0 --immediate-mode -U -w /run/wire.pcap");
    wait_until(DEADLINE, "capture", || fs::metadata("/run/wire.pcap").is_ok_and(|file| file.len() > 0));
    // Sixteen bytes that are in every packet inside.
    let _ping = lab.local.start(&format!("ping -q -n -i 0.01 -s 200 -p 5a0ff0a55a0ff0a55a0ff0a55a0ff0a5 {FAR}"));
    Filed::write_server(&filed.transport, "'/run/old', '/run/new'");
    filed.reload(server);
    Filed::write_client(&filed.transport, "'/run/new'");
    filed.reload(client);
    Filed::write_server(&filed.transport, "'/run/new'");
    filed.reload(server);
    lab.local.ping(FAR, 3, 56);
    let is_full = || fs::metadata("/run/wire.pcap").is_ok_and(|file| file.len() > 50_000);
    wait_until(DEADLINE, "capture of traffic", is_full);
    let captured = fs::read("/run/wire.pcap").expect("read the capture");
    let marker = [0x5a, 0x0f, 0xf0, 0xa5, 0x5a, 0x0f, 0xf0, 0xa5, 0x5a, 0x0f, 0xf0, 0xa5];
    assert!(!captured.windows(marker.len()).any(|bytes| bytes == marker), "a packet was seen on the wire");
    // The old secret opens nothing any more.
    Filed::write_client(&filed.transport, "'/run/old'");
    client.signal("HUP");
    server.wait_for("was made with another secret");
    wait_until(DEADLINE, "end of the session by the new one", || !lab.local.answers(FAR));
    holds_for(Duration::from_secs(1), "the old secret opens nothing", || !lab.local.answers(FAR));
}

fn a_broken_key_on_hup_changes_nothing(transport: &str) {
    let filed = Filed::new(transport);
    let Filed { lab, client, server, .. } = &filed;
    for broken in ["st1psk:rubbish\n", ""] {
        write_key("/run/old", broken);
        for end in [client, server] {
            let mark = end.mark();
            end.signal("HUP");
            let said = end.wait_after(mark, "going on with the configuration that is in force");
            assert!(said.contains("/run/old") && said.contains("secret-file"), "{said}");
            assert!(!said.contains("rubbish"), "{said}");
        }
        lab.local.ping(FAR, 3, 56);
    }
    for end in [client, server] {
        assert!(!end.said(line::DOWN) && !end.said(line::INTERRUPTED), "{}", end.text());
    }
}
