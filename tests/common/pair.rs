//! A tunnel between two hosts, plain or secure, over TCP or UDP, whose ends may be killed and started again, and the wire
//! between them cut.

use super::daemon::{Daemon, simpletun};
use super::lab::{Lab, Ns, REMOTE};
use super::line;
use super::secure::{Ends, Protection};
use super::traffic::Responder;

pub const NEAR: &str = "192.168.0.1";
pub const FAR: &str = "192.168.0.2";

/// How a link is made.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub protection: Protection,
    /// The option of the transport.
    pub transport: &'static str,
}

impl Kind {
    pub const PLAIN_TCP: Self = Self { protection: Protection::Plain, transport: "" };
    pub const PLAIN_UDP: Self = Self { protection: Protection::Plain, transport: "--udp" };
    pub const SECURE_TCP: Self = Self { protection: Protection::Secret, transport: "" };
    pub const SECURE_UDP: Self = Self { protection: Protection::Secret, transport: "--udp" };

    pub fn is_tcp(self) -> bool {
        self.transport.is_empty()
    }

    /// True if an end knows by itself that the other one is gone.
    pub fn notices_silence(self) -> bool {
        self.is_tcp() || self.protection != Protection::Plain
    }
}

/// `t1` at the near end, `t2` at the far end, and a responder behind it. The near end is in the test's own namespace.
pub struct Pair {
    pub lab: Lab,
    pub client: Daemon,
    pub server: Daemon,
    ends: Ends,
    options: String,
    _responder: Responder,
}

impl Pair {
    #[track_caller]
    pub fn new(kind: Kind, options: &str) -> Self {
        Self::on(Lab::with_test_inside(), kind, options)
    }

    #[track_caller]
    pub fn on(lab: Lab, kind: Kind, options: &str) -> Self {
        let (ends, options) = (kind.protection.ends(), format!("{} {options}", kind.transport));
        let (server, client) = (far_end(&lab, &ends, &options), near_end(&lab, &ends, &options));
        client.wait_for(line::DEVICE);
        server.wait_for(line::DEVICE);
        let responder = Responder::new(&lab.remote);
        lab.local.ping_until_answered(FAR, super::wait::DEADLINE);
        Self { lab, client, server, ends, options, _responder: responder }
    }

    pub fn start_client(&mut self) {
        self.client = near_end(&self.lab, &self.ends, &self.options);
    }

    pub fn start_server(&mut self) {
        self.server = far_end(&self.lab, &self.ends, &self.options);
    }

    /// Nothing crosses the wire any more, and nobody is told.
    pub fn cut(&self) {
        cut(&self.lab.local);
        cut(&self.lab.remote);
    }

    pub fn restore(&self) {
        restore(&self.lab.local);
        restore(&self.lab.remote);
    }
}

/// What arrives by the wire is lost. Addresses are resolved still, as with a wire that is cut further away.
pub fn cut(ns: &Ns) {
    ns.run("nft add table netdev cut");
    ns.run("nft add chain netdev cut arriving { type filter hook ingress device eth0 priority 0 ; }");
    ns.run("nft add rule netdev cut arriving meta protocol { ip, ip6 } drop");
}

pub fn restore(ns: &Ns) {
    ns.run("nft delete table netdev cut");
}

fn far_end(lab: &Lab, ends: &Ends, options: &str) -> Daemon {
    simpletun(&lab.remote, &format!("-i t2 -s {options} {} --address {FAR}/24", ends.server))
}

fn near_end(lab: &Lab, ends: &Ends, options: &str) -> Daemon {
    simpletun(&lab.local, &format!("-i t1 -c {REMOTE} {options} {} --address {NEAR}/24", ends.client))
}
