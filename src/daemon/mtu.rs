//! The MTU of a device that is ours to set: at first what fits a usual path, then what the link is known to carry.

use log::{debug, info};

use super::network::Network;
use crate::config::{Config, LinkLayer};
use crate::device::netchange::NetChange;
use crate::relay::Relay;

const ETHERNET_LEN: u32 = 14;

/// Below this the kernel takes IPv6 from a device (RFC 8200, section 5). Packets that do not fit are then cut, or their
/// senders told.
const LEAST: u32 = 1280;

/// The MTU of a device that was created and for which none was given, if the link makes one advisable.
///
/// A tap keeps what Ethernet has unless it has an address of its own: it may be part of a bridge, which would drop what
/// is longer without a word, where the daemon can tell the sender.
pub fn usual(config: &Config, created: bool) -> Option<u32> {
    let packet = config.link.fitting_mtu().filter(|_| created && config.network.mtu.is_none())?;
    match config.device.kind {
        LinkLayer::Tun => Some(packet),
        LinkLayer::Tap => (!config.network.addresses.is_empty()).then(|| packet - ETHERNET_LEN),
    }
}

/// Follows what the link carries.
#[derive(Debug, Default)]
pub struct Follower {
    /// What was set last, if it is not the usual one.
    set: Option<u32>,
}

impl Follower {
    /// Sets the MTU of the device to what the link carries, and no more than usual; not if somebody else has set it.
    pub fn follow(&mut self, relay: &mut Relay, config: &Config, network: &mut Network) {
        let device = relay.device_mut();
        let Some(usual) = usual(config, device.was_created()) else { return };
        let Ok(present) = device.mtu() else { return };
        let Some(packet) = relay.path_packet().and_then(|packet| u32::try_from(packet).ok()) else { return };
        let header_len = if config.device.kind == LinkLayer::Tap { ETHERNET_LEN } else { 0 };
        let wanted = packet.saturating_sub(header_len).clamp(LEAST.min(usual), usual);
        if present == wanted || (present != usual && Some(present) != self.set) {
            return;
        }
        match network.apply(&NetChange::Mtu(wanted)) {
            Ok(()) => {
                self.set = Some(wanted);
                info!("mtu of the device {wanted}, was {present}");
            }
            // Without the right to do so the segments of TCP are clamped all the same, and senders told.
            Err(error) => debug!("{error}"),
        }
    }
}
