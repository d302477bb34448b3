//! The second implementation of secure links (`tests/peer`) holds by itself: against its own other end, against the
//! vectors that the daemon's is checked with, and against published ones.

use std::process::Command;

use crate::common::lab::Lab;
use crate::common::secure_peer::{Direction, PeerKeys, SecurePeer, Wire, python};
use crate::common::wait::succeed;
use serde_json::json;

const SELF_TEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/test_secure.py");

/// The text of 32 bytes 0, 1, 2, ….
const SECRET: &str = "st1psk:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh-QPY2M";

#[test]
fn the_second_implementation_passes_its_own_tests() {
    let python = python();
    let output = Command::new(&python).arg(SELF_TEST).env("PYTHONDONTWRITEBYTECODE", "1").output();
    succeed(output.unwrap_or_else(|e| panic!("{python}: {e}; scripts/test.sh makes it")), SELF_TEST);
}

#[test]
fn two_driven_peers_in_hosts_of_their_own_carry_packets() {
    let lab = Lab::new();
    let keys = PeerKeys::secret("/run/secret", SECRET);
    for wire in [Wire::Tcp, Wire::Udp] {
        let mut server = SecurePeer::listen(&lab.remote, wire, "10.86.43.52:55555", &keys, "");
        let mut client = SecurePeer::connect(&lab.local, wire, &server.address, &keys, "--aead-hardware no");
        assert_eq!(client.run("handshake", json!({}))["session"]["aead"], 2, "{wire:?}");
        let packet = crate::common::peer::echo_request("192.168.0.1", "192.168.0.2", 1, 56);
        client.send(&packet);
        assert_eq!(server.receive(1), [packet], "{wire:?}");
        assert_eq!(server.last(Direction::Received, "DATA"), client.last(Direction::Sent, "DATA"), "{wire:?}");
        client.run("close", json!({ "reason": 0 }));
        assert_eq!(server.wait_for("close")["reason"], 0, "{wire:?}");
        assert_eq!(server.refused("ping", json!({}))["error"], "no-session", "{wire:?}");
    }
}
