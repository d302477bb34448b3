//! The names that hosts know, for this test's mount namespace only.

use std::fs;

use super::lab::Ns;

/// `/etc/hosts` and `/etc/resolv.conf` of the test.
pub struct Hosts;

impl Hosts {
    const PATH: &str = "/run/hosts";
    const RESOLVERS: &str = "/run/resolv.conf";

    pub fn mount() -> Self {
        let here = Ns::here();
        fs::write(Self::PATH, "").expect("write hosts");
        here.run(&format!("mount --bind {} /etc/hosts", Self::PATH));
        // No name server: an unknown name is known to be unknown at once.
        fs::write(Self::RESOLVERS, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").expect("write resolv.conf");
        here.run(&format!("mount --bind {} /etc/resolv.conf", Self::RESOLVERS));
        Self
    }

    pub fn set(&self, text: &str) {
        fs::write(Self::PATH, text).expect("write hosts");
    }

    /// Who asks waits for an answer for minutes.
    pub fn wait_long_for_resolvers(&self) {
        fs::write(Self::RESOLVERS, "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n").expect("write resolv.conf");
    }
}
