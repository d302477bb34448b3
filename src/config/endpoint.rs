//! A host and a port as people write them: names, both kinds of address, brackets, service names; and those of this end.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{ConfigError, DEFAULT_PORT};

/// Longest host name (RFC 1035).
const MAX_HOST_LEN: usize = 253;

/// A host as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A literal address.
    Address(IpAddr),
    /// A name to look up, or an address with a zone such as `fe80::1%eth0`.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(formatter, "{address}"),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}

/// A host and the port on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address.
    pub host: Host,
    /// Port, never 0.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(formatter, "[{address}]:{}", self.port),
            Host::Name(name) if name.contains(':') => write!(formatter, "[{name}]:{}", self.port),
            host => write!(formatter, "{host}:{}", self.port),
        }
    }
}

pub(super) fn agree(option: &'static str, given: u16, port: u16) -> Result<(), ConfigError> {
    if given == port {
        return Ok(());
    }
    Err(ConfigError::value(
        option,
        given.to_string(),
        format!("the option port says {port}; keep one of the two ports"),
    ))
}

/// Parses `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT` and a bare IPv6 address; says whether a port was among it.
pub(crate) fn peer_endpoint(
    option: &'static str,
    text: &str,
    default_port: Option<u16>,
    lookup: &dyn Fn(&str) -> Option<u16>,
) -> Result<(Endpoint, bool), ConfigError> {
    let (host, port_text) = split_port(option, text)?;
    let port = port_text.map(|port_text| port(option, text, port_text, lookup)).transpose()?;
    if let (Some(port), Some(default_port)) = (port, default_port) {
        agree(option, port, default_port)?;
    }
    let host = match host.parse::<IpAddr>() {
        Ok(address) => Host::Address(usable_address(option, text, address.to_canonical())?),
        Err(_) => Host::Name(host_name(option, text, host)?),
    };
    Ok((Endpoint { host, port: port.or(default_port).unwrap_or(DEFAULT_PORT) }, port.is_some()))
}

fn split_port<'a>(option: &'static str, text: &'a str) -> Result<(&'a str, Option<&'a str>), ConfigError> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((host, tail)) = rest.split_once(']') else {
            return Err(ConfigError::value(option, text, "the bracket is not closed; write [ADDRESS]:PORT"));
        };
        return match tail.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if tail.is_empty() => Ok((host, None)),
            None => Err(ConfigError::value(option, text, "only :PORT may follow the bracket; write [ADDRESS]:PORT")),
        };
    }
    match text.split_once(':') {
        // More than one colon: an IPv6 address without brackets, which cannot have a port.
        Some((_, rest)) if rest.contains(':') => Ok((text, None)),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn host_name(option: &'static str, text: &str, host: &str) -> Result<String, ConfigError> {
    let legal = |character: char| character.is_alphanumeric() || "-_.:%".contains(character);
    if host.is_empty() || host.len() > MAX_HOST_LEN || host.starts_with('-') || !host.chars().all(legal) {
        let problem =
            "this is neither a host name nor an address; write NAME, NAME:PORT, 192.0.2.1 or [2001:db8::1]:PORT";
        return Err(ConfigError::value(option, text, problem));
    }
    // Digits and dots only: an IPv4 address was meant, and asking a name server for it would only hide the slip.
    if host.chars().all(|character| character.is_ascii_digit() || character == '.') {
        return Err(ConfigError::value(option, text, "this is not a valid IPv4 address; write four numbers up to 255"));
    }
    if host.contains(':') && !host.contains('%') {
        return Err(ConfigError::value(
            option,
            text,
            "this is not a valid IPv6 address; write for example [2001:db8::1]:PORT",
        ));
    }
    Ok(host.to_owned())
}

pub(super) fn usable_address(option: &'static str, text: &str, address: IpAddr) -> Result<IpAddr, ConfigError> {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(ConfigError::value(option, text, "this is not the address of one host; give a unicast address"));
    }
    Ok(address)
}

pub(super) fn port(
    option: &'static str,
    text: &str,
    port: &str,
    lookup: &dyn Fn(&str) -> Option<u16>,
) -> Result<u16, ConfigError> {
    let numeric = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-' || byte == b'+');
    let found = if numeric { port.parse().ok() } else { Some(port).filter(|name| !name.is_empty()).and_then(lookup) };
    found.filter(|port| *port != 0).ok_or_else(|| {
        ConfigError::value(
            option,
            text,
            "the port must be a number from 1 to 65535 or a service name from /etc/services",
        )
    })
}

pub(super) fn bind_address(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<u16>,
) -> Result<(Option<IpAddr>, Option<u16>), ConfigError> {
    let (host, port_text) = split_port("bind", text)?;
    let port = port_text.map(|port_text| port("bind", text, port_text, lookup)).transpose()?;
    match host.parse::<IpAddr>() {
        Ok(address) if address.is_multicast() => Err(ConfigError::value(
            "bind",
            text,
            "a multicast address cannot be a local address; give one of this host's",
        )),
        Ok(address) => Ok((Some(address), port)),
        Err(_) => Err(ConfigError::value(
            "bind",
            text,
            "this is not an IP address; write 192.0.2.1, 192.0.2.1:PORT or [2001:db8::1]:PORT",
        )),
    }
}

/// The local address and port of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// `None`: every address of both families.
    pub address: Option<IpAddr>,
    /// 0: picked by the kernel (clients only).
    pub port: u16,
}

impl Bind {
    /// The socket addresses to try, in this order: one if an address was given, else IPv6 for both families
    /// with IPv4 alone as the fallback.
    pub fn candidates(&self) -> Vec<SocketAddr> {
        match self.address {
            Some(address) => vec![SocketAddr::new(address, self.port)],
            None => vec![
                SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), self.port),
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.port),
            ],
        }
    }
}
