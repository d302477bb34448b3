//! What is configured on the device, from what was typed: its own settings, addresses, routes and bridge.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::endpoint::usable_address;
use super::parse::{carrier, interface_name, network_or_host, number};
use super::{ConfigError, DeviceName, InterfaceAddress, LinkLayer, NetworkConfig, NotAName, Options};

/// Smallest MTU of IPv4 (RFC 791) and of IPv6 (RFC 8200), and the greatest of any device, in bytes.
const MIN_MTU: u32 = 68;
const MIN_MTU_IPV6: u32 = 1280;
const MAX_MTU: u32 = 65_535;

const MAX_TX_QUEUE_LEN: u32 = 1_000_000;

pub(super) fn network(options: &Options, kind: LinkLayer) -> Result<NetworkConfig, ConfigError> {
    let mac = options.mac.as_ref().map(|text| mac_address(&text.0)).transpose()?;
    if let (Some(text), LinkLayer::Tun) = (&options.mac, kind) {
        return Err(ConfigError::value("mac", &text.0, "a tun device has no MAC address; use tap or leave it out"));
    }
    let addresses = addresses(options)?;
    let routes: Vec<IpNet> =
        options.route.iter().map(|text| network_or_host("route", &text.0)).collect::<Result<_, _>>()?;
    let mtu = options.mtu.as_ref().map(|text| number("mtu", &text.0, MIN_MTU, MAX_MTU)).transpose()?;
    let has_ipv6 =
        addresses.iter().any(|address| address.local.is_ipv6()) || routes.iter().any(|net| net.addr().is_ipv6());
    if let Some(mtu) = mtu.filter(|mtu| has_ipv6 && *mtu < MIN_MTU_IPV6) {
        let problem = format!("IPv6 needs at least {MIN_MTU_IPV6}; raise it or leave IPv6 addresses and routes out");
        return Err(ConfigError::value("mtu", mtu.to_string(), problem));
    }
    let bridge = options.bridge.as_ref().map(|text| bridge(&text.0, options, kind)).transpose()?;
    Ok(NetworkConfig {
        carrier: carrier(options)?,
        up: options.up || bridge.is_some() || !addresses.is_empty() || !routes.is_empty(),
        addresses,
        routes,
        mtu,
        mac,
        lan_ports: lan_ports(options, bridge)?,
        bridge,
        tx_queue_len: options
            .txqueuelen
            .as_ref()
            .map(|text| number("txqueuelen", &text.0, 0, MAX_TX_QUEUE_LEN))
            .transpose()?,
    })
}

/// The bridge that the device joins. Its port has no address: what comes in by a port is the bridge's.
fn bridge(text: &str, options: &Options, kind: LinkLayer) -> Result<DeviceName, ConfigError> {
    let name = device_name("bridge", text)?;
    if kind == LinkLayer::Tun {
        return Err(ConfigError::value("bridge", text, "a tun device has no Ethernet header; use tap"));
    }
    let misplaced = options.address.first().map(|given| ("address", given));
    match misplaced.or(options.route.first().map(|given| ("route", given))) {
        Some((option, given)) => Err(ConfigError::Combination(format!(
            "Option {option} ({:?}) is of no use on a port of a bridge: set it on the bridge {text} itself",
            given.0
        ))),
        None => Ok(name),
    }
}

/// The devices that a bridge is made of.
fn lan_ports(options: &Options, bridge: Option<DeviceName>) -> Result<Vec<DeviceName>, ConfigError> {
    let Some(first) = options.bridge_create.first() else { return Ok(Vec::new()) };
    let Some(bridge) = bridge else {
        return Err(ConfigError::Combination(format!(
            "Option bridge-create ({:?}) does not say how the bridge is called: add bridge, for example --bridge br0",
            first.0
        )));
    };
    if options.persist {
        return Err(ConfigError::Combination(format!(
            "Option bridge-create ({:?}) cannot be combined with persist: the bridge goes when the daemon ends; make one \
             that stays with the network configuration of this host, and name it by bridge alone",
            first.0
        )));
    }
    let mut ports = Vec::with_capacity(options.bridge_create.len());
    for text in &options.bridge_create {
        let port = device_name("bridge-create", &text.0)?;
        let own = options.interface.as_ref().is_some_and(|own| own.0 == port.as_str());
        if own || port == bridge || ports.contains(&port) {
            let problem = if own {
                "it is the tunnel's own device, which joins the bridge by itself; name a device of the LAN"
            } else if port == bridge {
                "it is the bridge itself; name a device of the LAN"
            } else {
                "it is named twice; name each device once"
            };
            return Err(ConfigError::value("bridge-create", &text.0, problem));
        }
        ports.push(port);
    }
    Ok(ports)
}

/// Joins `--address`, `--netmask` and `--peer-address`. Mask and peer belong to the first address of their family.
fn addresses(options: &Options) -> Result<Vec<InterfaceAddress>, ConfigError> {
    let mut netmask = options.netmask.as_ref().map(|text| Ok((&text.0, netmask(&text.0)?))).transpose()?;
    let mut peer =
        options.peer_address.as_ref().map(|text| Ok((&text.0, host_address("peer-address", &text.0)?))).transpose()?;
    let mut addresses = Vec::new();
    for text in &options.address {
        let (ip, given_len) = text.0.split_once('/').map_or((text.0.as_str(), None), |(ip, len)| (ip, Some(len)));
        let local = ip.parse::<IpAddr>().map_err(|_| not_an_address("address", &text.0));
        let local = local.and_then(|local| usable_address("address", &text.0, local))?;
        let given_len = given_len.map(|len| prefix_len(&text.0, local, len)).transpose()?;
        let mask_len =
            netmask.take_if(|_| local.is_ipv4()).map(|(text, len)| agree_mask(text, len, given_len)).transpose()?;
        let peer = peer.take_if(|(_, peer)| peer.is_ipv4() == local.is_ipv4()).map(|(_, peer)| peer);
        let max_len = max_prefix_len(local);
        let prefix_len = match given_len.or(mask_len) {
            Some(len) => len,
            None if peer.is_some() => max_len,
            None => {
                let problem = format!(
                    "it lacks a prefix length; write for example {local}/{}",
                    if max_len == 32 { 24 } else { 64 }
                );
                return Err(ConfigError::value("address", &text.0, problem));
            }
        };
        let peer = peer.or_else(|| other_of_pair(local, prefix_len));
        addresses.push(InterfaceAddress { local, peer: peer.filter(|peer| *peer != local), prefix_len });
    }
    let unused = netmask.map(|(text, _)| ("netmask", text)).or(peer.map(|(text, _)| ("peer-address", text)));
    match unused {
        Some((option, text)) => Err(ConfigError::value(
            option,
            text.as_str(),
            "there is no address of its family that it belongs to; add one",
        )),
        None => Ok(addresses),
    }
}

/// RFC 3021: of the two addresses of an IPv4 /31, the other one is the peer's.
fn other_of_pair(local: IpAddr, prefix_len: u8) -> Option<IpAddr> {
    match (local, prefix_len) {
        (IpAddr::V4(local), 31) => Some(Ipv4Addr::from_bits(local.to_bits() ^ 1).into()),
        _ => None,
    }
}

fn agree_mask(text: &str, mask_len: u8, given_len: Option<u8>) -> Result<u8, ConfigError> {
    match given_len {
        Some(given) if given != mask_len => Err(ConfigError::value(
            "netmask",
            text,
            format!("the address says /{given}, which is another mask; keep one of them"),
        )),
        _ => Ok(mask_len),
    }
}

fn max_prefix_len(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn prefix_len(text: &str, local: IpAddr, len: &str) -> Result<u8, ConfigError> {
    let max = max_prefix_len(local);
    match len.parse::<u8>() {
        Ok(len) if (1..=max).contains(&len) => Ok(len),
        _ => Err(ConfigError::value("address", text, format!("the prefix length must be a number from 1 to {max}"))),
    }
}

fn netmask(text: &str) -> Result<u8, ConfigError> {
    let mask = text.parse::<Ipv4Addr>().ok().and_then(|mask| ipnet::ipv4_mask_to_prefix(mask).ok());
    mask.filter(|len| *len > 0).ok_or_else(|| {
        ConfigError::value("netmask", text, "this is not an IPv4 netmask; write for example 255.255.255.0")
    })
}

fn mac_address(text: &str) -> Result<[u8; 6], ConfigError> {
    let mut mac = [0; 6];
    let octets: Vec<&str> = text.split([':', '-']).collect();
    let valid = octets.len() == mac.len()
        && octets.iter().zip(&mut mac).all(|(octet, byte)| {
            let parsed = u8::from_str_radix(octet, 16).ok().filter(|_| octet.len() <= 2 && !octet.starts_with('+'));
            parsed.map(|value| *byte = value).is_some()
        });
    if !valid {
        return Err(ConfigError::value("mac", text, "this is not a MAC address; write for example 02:00:5e:10:00:01"));
    }
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(ConfigError::value("mac", text, "this is no unicast address; use one such as 02:00:5e:10:00:01"));
    }
    Ok(mac)
}

fn host_address(option: &'static str, text: &str) -> Result<IpAddr, ConfigError> {
    match text.parse::<IpAddr>() {
        Ok(address) => usable_address(option, text, address),
        Err(_) => Err(not_an_address(option, text)),
    }
}

fn not_an_address(option: &'static str, text: &str) -> ConfigError {
    ConfigError::value(option, text, "this is not an IP address; write for example 192.168.0.1/24 or fd00::1/64")
}

fn device_name(option: &'static str, name: &str) -> Result<DeviceName, ConfigError> {
    let name = interface_name(option, name)?;
    name.parse().map_err(|error: NotAName| ConfigError::value(option, &name, error.to_string()))
}
