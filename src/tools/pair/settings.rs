//! From the arguments as typed to the settings of a pair, checked. Pure: service names come through what is passed in.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::{
    ConfigError, Endpoint, Host, LinkLayer, MAX_NAME_LEN, Protocol, ServiceLookup, network_or_host, peer_endpoint,
};

/// The arguments as typed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Typed<'a> {
    pub(super) name: &'a str,
    pub(super) server: &'a str,
    pub(super) tap: bool,
    pub(super) tcp: bool,
    pub(super) addresses: &'a [String],
    pub(super) behind_server: &'a [String],
    pub(super) behind_client: &'a [String],
    pub(super) secret: bool,
}

/// What both ends are to be.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Of device, files and service.
    pub(super) name: String,
    /// The server as the client reaches it, with the port that it listens on.
    pub(super) server: Endpoint,
    pub(super) kind: LinkLayer,
    pub(super) protocol: Protocol,
    pub(super) addresses: Addresses,
    pub(super) behind_server: Vec<IpNet>,
    pub(super) behind_client: Vec<IpNet>,
    pub(super) protection: Protection,
}

/// The tunnel's own addresses.
#[derive(Clone, Debug)]
pub(super) enum Addresses {
    /// From one random network of each family.
    Random,
    /// From these networks, one of each family at most; each has room for two hosts.
    Of(Vec<IpNet>),
    /// There are none.
    None,
}

/// What the keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Protection {
    /// Key pairs and a pre-shared key.
    Keys,
    /// A shared secret.
    Secret,
}

impl Protection {
    /// Of the file of what both ends know.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Keys => "psk",
            Self::Secret => "secret",
        }
    }
}

/// Names that the kernel has other uses for (`net.ipv4.conf.all`, the loopback device).
const KEPT_NAMES: [&str; 3] = ["all", "default", "lo"];

impl Settings {
    /// # Errors
    /// The first value that cannot be used.
    pub(super) fn new(typed: &Typed<'_>, services: ServiceLookup<'_>) -> Result<Self, ConfigError> {
        let protocol = if typed.tcp { Protocol::Tcp } else { Protocol::Udp };
        let kind = if typed.tap { LinkLayer::Tap } else { LinkLayer::Tun };
        let lookup = |service: &str| services(service, protocol);
        let settings = Self {
            name: name(typed.name)?,
            server: peer_endpoint("server", typed.server, None, &lookup)?.0,
            kind,
            protocol,
            addresses: addresses(typed.addresses)?,
            behind_server: behind("behind-server", typed.behind_server, kind)?,
            behind_client: behind("behind-client", typed.behind_client, kind)?,
            protection: if typed.secret { Protection::Secret } else { Protection::Keys },
        };
        settings.check_routes()?;
        Ok(settings)
    }

    /// A packet has one way to go, and the tunnel's own packets do not go into the tunnel.
    fn check_routes(&self) -> Result<(), ConfigError> {
        let refuse = |option, network: &IpNet, problem: &str| {
            Err(ConfigError::value(option, network.to_string(), problem.to_owned()))
        };
        if let Some(both) = self.behind_server.iter().find(|network| self.behind_client.contains(network)) {
            return refuse("behind-client", both, "it is behind the server, too; leave it out at one of them");
        }
        if let Host::Address(server) = &self.server.host
            && let Some(around) = self.behind_server.iter().find(|network| network.contains(server))
        {
            let problem = "the server's own address is in it, so that the client would send the tunnel into the \
                           tunnel; name the server by an address outside of it, or a smaller network";
            return refuse("behind-server", around, problem);
        }
        let Addresses::Of(own) = &self.addresses else { return Ok(()) };
        for (option, networks) in [("behind-server", &self.behind_server), ("behind-client", &self.behind_client)] {
            if let Some(inside) = networks.iter().find(|network| own.iter().any(|own| own.contains(*network))) {
                return refuse(
                    option,
                    inside,
                    "the tunnel's own addresses are of it; give --addresses another network",
                );
            }
        }
        Ok(())
    }
}

/// Checks the name of a tunnel.
///
/// # Errors
/// It is not for a device, a file and a service at a time.
pub(super) fn name(text: &str) -> Result<String, ConfigError> {
    let legal = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let problem = if text.len() > MAX_NAME_LEN {
        "a device's name has at most 15 bytes; choose a shorter one"
    } else if !text.starts_with(|first: char| first.is_ascii_alphanumeric()) || !text.chars().all(legal) {
        "device, files and service have this name; use letters, digits, '-', '_' and '.', with a letter or digit first"
    } else if KEPT_NAMES.contains(&text) {
        "the kernel has another use for this name; choose another"
    } else {
        return Ok(text.to_owned());
    };
    Err(ConfigError::value("NAME", text, problem))
}

fn addresses(texts: &[String]) -> Result<Addresses, ConfigError> {
    match texts {
        [] => return Ok(Addresses::Random),
        [none] if none == "none" => return Ok(Addresses::None),
        _ => {}
    }
    let mut networks: Vec<IpNet> = Vec::new();
    for text in texts {
        let refuse = |problem: &str| Err(ConfigError::value("addresses", text, problem));
        let network = network_or_host("addresses", text)?;
        let is_ipv4 = network.addr().is_ipv4();
        if network.prefix_len() == network.max_prefix_len() {
            return refuse("this is one address and both ends need one; give a network such as 10.255.0.0/30");
        }
        if !is_for_hosts(&network) {
            return refuse(
                "its addresses are not those of hosts; give a network such as 10.255.0.0/30 or fd00:5:7::/64",
            );
        }
        if networks.iter().any(|other| other.addr().is_ipv4() == is_ipv4) {
            return refuse("there is another network of its family already; keep one of them");
        }
        networks.push(network);
    }
    Ok(Addresses::Of(networks))
}

/// Not this network, loopback, multicast or reserved, nor so large that it has some of these in it.
fn is_for_hosts(network: &IpNet) -> bool {
    match network.addr() {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            network.prefix_len() >= 8 && !matches!(first, 0 | 127 | 224..)
        }
        IpAddr::V6(address) => {
            network.prefix_len() >= 16 && !address.is_multicast() && !matches!(address.segments()[0], 0)
        }
    }
}

fn behind(option: &'static str, texts: &[String], kind: LinkLayer) -> Result<Vec<IpNet>, ConfigError> {
    let mut networks: Vec<IpNet> = Vec::new();
    for text in texts {
        let network = network_or_host(option, text)?;
        if kind == LinkLayer::Tap {
            let problem = "a route into a tap device needs a gateway; leave --tap out, or put the tap devices into \
                           bridges";
            return Err(ConfigError::value(option, text, problem));
        }
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    Ok(networks)
}
