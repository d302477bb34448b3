//! A secure link whose ends move while it carries: other addresses, other routes, a translator on the way that forgets.
//! What runs inside survives, and the log says what has happened and no more.

use std::time::Duration;

use crate::common::daemon::{Daemon, server, simpletun};
use crate::common::lab::{Background, Lab, Ns, REMOTE, wire};
use crate::common::line;
use crate::common::secure::Protection;
use crate::common::traffic::{Responder, Stream};
use crate::common::wait::DEADLINE;

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";

/// Time in which what was interrupted has to flow again; the connection inside has to wait for its own retransmission.
const SOON: Duration = Duration::from_secs(8);

/// A short patience, where silence is all that tells of a move.
const IMPATIENT: &str = "--keepalive 1s --down-after 3s";

over_both! {
    a_client_whose_address_changes_goes_on
    a_translator_that_forgets_and_takes_another_port_is_survived
    a_client_that_loses_its_interface_goes_on_by_another
}

/// A tunnel with a stream and a ping in it, both of which outlast whatever happens.
struct Busy {
    client: Daemon,
    server: Daemon,
    stream: Stream,
    ping: Background,
    _responder: Responder,
}

impl Busy {
    #[track_caller]
    fn new(near: &Ns, far: &Ns, protection: Protection, options: &str) -> Self {
        let ends = protection.ends();
        let server = server(far, &format!("-i t2 -s {options} {} --address {FAR}/24", ends.server));
        let client = simpletun(near, &format!("-i t1 -c {REMOTE} {options} {} --address {NEAR}/24", ends.client));
        client.wait_for(line::UP);
        server.wait_for(line::UP);
        let responder = Responder::new(far);
        let stream = Stream::new(near, FAR);
        let ping = near.start(&format!("ping -q -n -i 0.05 {FAR}"));
        Self { client, server, stream, ping, _responder: responder }
    }

    /// Traffic flows again within `deadline`, and the connection inside has lost nothing.
    #[track_caller]
    fn goes_on(mut self, near: &Ns, far: &Ns, deadline: Duration) -> [Daemon; 2] {
        let taken = self.stream.goes_on(deadline);
        eprintln!("the stream has gone on after {taken:?}");
        near.ping(FAR, 3, 56);
        far.ping(NEAR, 3, 56);
        self.stream.finish();
        assert!(self.ping.is_running(), "the ping outlasts it");
        [self.client, self.server]
    }
}

#[track_caller]
fn assert_never_down(ends: &[Daemon; 2]) {
    for end in ends {
        assert!(!end.said(line::DOWN), "{}", end.text());
        assert_eq!(end.count(line::UP), 1, "{}", end.text());
    }
}

/// The client notices that its address is gone, and the server learns the new one from the next message.
fn a_client_whose_address_changes_goes_on(transport: &str) {
    let lab = Lab::new();
    let busy = Busy::new(&lab.local, &lab.remote, Protection::KeyPairs, transport);
    lab.local.run("ip addr del 10.86.43.51/24 dev eth0");
    lab.local.run("ip addr add 10.86.43.61/24 dev eth0");
    let moved = busy.server.wait_for(line::MOVED);
    assert!(moved.contains("peer=10.86.43.61:"), "{moved}");
    let ends = busy.goes_on(&lab.local, &lab.remote, SOON);
    assert_never_down(&ends);
    let [client, _] = ends;
    assert_eq!(client.said(line::RESUMED), transport.is_empty(), "{}", client.text());
}

/// What a program does that knows more about the network than the kernel tells.
#[test]
fn usr1_makes_a_connection_anew_and_what_runs_inside_goes_on() {
    let lab = Lab::new();
    let busy = Busy::new(&lab.local, &lab.remote, Protection::Secret, "");
    busy.client.signal("USR1");
    let interrupted = busy.client.wait_for(line::INTERRUPTED);
    assert!(interrupted.contains("reason=requested") && interrupted.contains("peer=10.86.43.52:"), "{interrupted}");
    busy.client.wait_for(line::RESUMED);
    assert_never_down(&busy.goes_on(&lab.local, &lab.remote, SOON));
}

fn a_translator_that_forgets_and_takes_another_port_is_survived(transport: &str) {
    let [near, middle, far] = ["near", "middle", "far"].map(Ns::new);
    wire((&near, "eth0"), (&middle, "lan"));
    wire((&middle, "wan"), (&far, "eth0"));
    near.address("eth0", &["10.1.0.10/24"]);
    middle.address("lan", &["10.1.0.1/24"]);
    middle.address("wan", &["10.86.43.51/24"]);
    far.address("eth0", &["10.86.43.52/24"]);
    near.run("ip route add default via 10.1.0.1");
    middle.forward();
    middle.run("nft add table ip nat");
    middle.run("nft add chain ip nat out { type nat hook postrouting priority 100 ; }");
    // What is under way while the table is emptied would leave untranslated.
    middle.run("nft add chain ip nat guard { type filter hook postrouting priority 200 ; }");
    middle.run("nft add rule ip nat guard oifname wan ip saddr 10.1.0.0/24 drop");
    let translate = |ports: &str| {
        middle.run("nft flush chain ip nat out");
        middle.run(&format!("nft add rule ip nat out oifname wan meta l4proto {{ tcp, udp }} masquerade to :{ports}"));
    };
    translate("20000-20999");
    let busy = Busy::new(&near, &far, Protection::Secret, transport);
    assert!(busy.server.wait_for(line::UP).contains("peer=10.86.43.51:20"));

    translate("21000-21999");
    middle.run("conntrack -F");
    let moved = busy.server.wait_for(line::MOVED);
    assert!(moved.contains("peer=10.86.43.51:21"), "{moved}");
    let ends = busy.goes_on(&near, &far, SOON);
    assert_never_down(&ends);
    let [client, _] = ends;
    assert_eq!(client.said(line::INTERRUPTED), transport.is_empty(), "{}", client.text());
    assert_eq!(client.said(line::RESUMED), transport.is_empty(), "{}", client.text());
    assert!(!client.said(line::MOVED), "the server is where it was: {}", client.text());
}

/// The server speaks from its new address, and that is how the client learns it.
#[test]
fn a_client_follows_a_server_whose_address_changes_over_udp() {
    let lab = Lab::new();
    let busy = Busy::new(&lab.local, &lab.remote, Protection::Secret, "--udp");
    let _ping = lab.remote.start(&format!("ping -q -n -i 0.05 {NEAR}"));
    lab.remote.run("ip addr del 10.86.43.52/24 dev eth0");
    lab.remote.run("ip addr add 10.86.43.62/24 dev eth0");
    let moved = busy.client.wait_for(line::MOVED);
    assert!(moved.contains("peer=10.86.43.62:55555"), "{moved}");
    let ends = busy.goes_on(&lab.local, &lab.remote, SOON);
    assert_never_down(&ends);
    assert!(!ends[1].said(line::MOVED), "the client is where it was: {}", ends[1].text());
}

/// Two wires to the server. The first goes dead with its address still in place, as when a cable is pulled: what leaves
/// from that address by the other wire arrives, and the answers are lost.
fn a_client_that_loses_its_interface_goes_on_by_another(transport: &str) {
    let lab = Lab::new();
    wire((&lab.local, "eth1"), (&lab.remote, "eth1"));
    lab.local.address("eth1", &["10.86.44.51/24"]);
    lab.remote.address("eth1", &["10.86.44.52/24"]);
    lab.local.run(&format!("ip route add {REMOTE} dev eth0 metric 100"));
    lab.local.run(&format!("ip route add {REMOTE} via 10.86.44.52 dev eth1 metric 200"));
    let busy = Busy::new(&lab.local, &lab.remote, Protection::KeyPairs, &format!("{transport} {IMPATIENT}"));
    // There is a route at every moment, so that no send fails.
    lab.local.run("ip link set eth0 down");
    let ends = busy.goes_on(&lab.local, &lab.remote, DEADLINE);
    let told = ends[1].lines().into_iter().find(|text| text.contains("peer=10.86.44.51:"));
    assert!(told.is_some_and(|text| text.contains(line::UP) || text.contains(line::MOVED)), "{}", ends[1].text());
    if !transport.is_empty() {
        assert_never_down(&ends);
    }
}
