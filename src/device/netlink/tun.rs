//! What the kernel tells about its tun and tap devices alone (`tun_fill_info()` in `drivers/net/tun.c`).

use std::io;

use byteorder::{ByteOrder, NativeEndian};
use netlink_packet_core::Nla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, LinkAttribute, LinkInfo, LinkMessage};

use super::{Link, Netlink, as_link, link_from};
use crate::config::LinkLayer;

/// Attributes of `IFLA_INFO_DATA` (`linux/if_link.h`).
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;

/// `IFF_TAP` as a value of `IFLA_TUN_TYPE`.
const TYPE_TAP: u8 = 2;

/// A tun or tap device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunDevice {
    /// What it has in common with other devices.
    pub link: Link,
    /// Packets or frames.
    pub layer: LinkLayer,
    /// The user who may attach to it without privileges.
    pub owner: Option<u32>,
    /// The group whose members may.
    pub group: Option<u32>,
    /// It stays when nobody is attached.
    pub persistent: bool,
    /// Several descriptors may be attached at once.
    pub multi_queue: bool,
}

impl Netlink {
    /// All tun and tap devices of the namespace. A kernel before 4.17 tells of none.
    ///
    /// # Errors
    /// As [`Netlink::links`].
    pub fn tun_devices(&mut self) -> io::Result<Vec<TunDevice>> {
        let answers = self.socket.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers.iter().filter_map(|answer| device_from(as_link(answer)?)).collect())
    }
}

fn device_from(message: &LinkMessage) -> Option<TunDevice> {
    let infos = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Tun(data)) => Some(data),
        _ => None,
    })?;
    let (mut owner, mut group, mut layer) = (None, None, LinkLayer::Tun);
    let (mut persistent, mut multi_queue) = (false, false);
    for attribute in data {
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        match attribute.kind() {
            IFLA_TUN_OWNER if value.len() == 4 => owner = Some(NativeEndian::read_u32(&value)),
            IFLA_TUN_GROUP if value.len() == 4 => group = Some(NativeEndian::read_u32(&value)),
            IFLA_TUN_TYPE if value == [TYPE_TAP] => layer = LinkLayer::Tap,
            IFLA_TUN_PERSIST => persistent = value != [0],
            IFLA_TUN_MULTI_QUEUE => multi_queue = value != [0],
            _ => {}
        }
    }
    Some(TunDevice { link: link_from(message), layer, owner, group, persistent, multi_queue })
}
