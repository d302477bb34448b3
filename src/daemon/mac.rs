//! The MAC address of a tap device that we create and that nobody has chosen one for.
//!
//! The kernel takes a random one each time, so that neighbours have a wrong one in their tables after every restart, and a
//! bridge, which takes the smallest of its ports', may change its own. This one stays the same for the same device on
//! the same machine, and is larger than that of nearly every network card.

use std::fs;
use std::sync::OnceLock;

use blake2::{Blake2s256, Digest as _};

use crate::config::{Config, LinkLayer, Role};

/// What tells machines apart (machine-id(5)); read once, so that a reload does not find another address.
static MACHINE: OnceLock<Option<String>> = OnceLock::new();

/// The address for the device of this configuration, if it is a tap with a name of its own and the machine has an
/// identity.
pub fn stable(config: &Config) -> Option<[u8; 6]> {
    let device = &config.device;
    // A name that the kernel completes may be another one's next time.
    if device.kind != LinkLayer::Tap || device.name.contains('%') {
        return None;
    }
    let machine = MACHINE.get_or_init(|| fs::read_to_string("/etc/machine-id").ok()).as_deref()?.trim();
    let side = match config.link.role {
        Role::Listen(_) => "server",
        Role::Connect(_) => "client",
    };
    (!machine.is_empty()).then(|| made_of(machine, &device.name, side))
}

/// Unicast and locally administered (IEEE 802), with 0xfe in front. The machine's identity cannot be found out from it,
/// and the two ends of a link on machines that are copies of each other get different ones.
fn made_of(machine: &str, device: &str, side: &str) -> [u8; 6] {
    let mut hash = Blake2s256::new();
    for part in ["simpletun MAC address", machine, device, side] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut mac = [0xfe; 6];
    mac.iter_mut().skip(1).zip(hash.finalize()).for_each(|(byte, random)| *byte = random);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_depends_on_all_that_tells_two_ends_apart_and_on_nothing_else() {
        let mac = made_of("0123", "tap0", "server");
        assert_eq!(mac, made_of("0123", "tap0", "server"));
        for other in [("0124", "tap0", "server"), ("0123", "tap1", "server"), ("0123", "tap0", "client")] {
            assert_ne!(made_of(other.0, other.1, other.2), mac);
        }
        assert_eq!(mac[0], 0xfe);
    }
}
