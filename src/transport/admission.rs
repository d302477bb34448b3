//! Whom a server accepts. The rules are pure; what they ask about this host (connected networks, routes) comes
//! through [`Surroundings`], and names through the resolver.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Context;
use super::resolve::{Answer, Resolver};
use crate::config::{Access, LinkConfig};
use crate::fault::FaultLog;

/// How long what was read about this host is believed, and how often a name is looked up for strangers.
const REFRESH: Duration = Duration::from_secs(1);
const LATE_REFRESH: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);

/// Questions about this host that the rules ask.
#[derive(Clone, Copy)]
pub struct Surroundings {
    /// The networks that are directly connected, tun and tap devices aside.
    pub connected_subnets: fn() -> io::Result<Vec<IpNet>>,
    /// The index of the interface through which an address is reached by packets with this mark.
    pub interface_towards: fn(IpAddr, Option<u32>) -> io::Result<u32>,
    /// The MTU of the interface by which packets leave to an address, with this mark, or bound to an interface of this name.
    pub mtu_towards: fn(SocketAddr, Option<u32>, Option<&str>) -> io::Result<u32>,
}

/// Why a source is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Outside the ranges that a server accepts by itself.
    NotProtected,
    /// It came by another interface than answers would leave by.
    WrongInterface,
    /// In none of the networks of `--allow`.
    NotAllowed,
    /// Not the host of `--remote`.
    NotRemote,
    /// The name of `--remote` could not be looked up yet.
    RemoteUnknown,
}

impl Refusal {
    /// What to tell the administrator about a source.
    #[must_use]
    pub fn advice(self, source: IpAddr) -> String {
        match self {
            Self::NotProtected => format!(
                "Refused a peer at {source}: it is neither in a private range nor directly connected; \
                 --allow {source} would accept it, --allow any everybody"
            ),
            Self::WrongInterface => format!(
                "Refused a peer at {source}: its datagrams arrive on another interface than answers would leave by; \
                 if the paths really differ, --allow {source} accepts it"
            ),
            Self::NotAllowed => {
                format!(
                    "Refused a peer at {source}: no network of --allow contains it; --allow {source} would accept it"
                )
            }
            Self::NotRemote => format!("Refused a peer at {source}: it is not the host of --remote"),
            Self::RemoteUnknown => {
                format!("Refused a peer at {source}: the host of --remote could not be looked up yet; trying again")
            }
        }
    }

    /// The kind of fault for the log.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotProtected => "refused-protected",
            Self::WrongInterface => "refused-interface",
            Self::NotAllowed => "refused-allow",
            Self::NotRemote | Self::RemoteUnknown => "refused-remote",
        }
    }
}

/// The access rules of a server.
pub struct Admission {
    access: Access,
    surroundings: Surroundings,
    connected: Vec<IpNet>,
    connected_at: Option<Instant>,
    resolver: Option<Resolver>,
    remote: Vec<SocketAddr>,
    asked_at: Option<Instant>,
    unknown_since: Option<Instant>,
    patience: Duration,
    /// The mark and the interface of our own packets, which decide how they are routed.
    mark: Option<u32>,
    is_bound_to_device: bool,
    faults: FaultLog,
}

impl Admission {
    /// The rules as configured.
    pub fn new(access: Access, config: &LinkConfig, context: &Context) -> Self {
        let resolver = match &access {
            Access::Remote { endpoint, .. } => Some(Resolver::new(endpoint.clone(), context.waker.clone())),
            Access::Protected | Access::Networks(_) | Access::Any => None,
        };
        Self {
            access,
            surroundings: context.surroundings,
            connected: Vec::new(),
            connected_at: None,
            resolver,
            remote: Vec::new(),
            asked_at: None,
            unknown_since: None,
            patience: REFRESH,
            mark: config.fwmark,
            is_bound_to_device: config.bind_device.is_some(),
            faults: FaultLog::default(),
        }
    }

    /// Other rules from now on; neither they nor those before name a host.
    pub fn replace(&mut self, access: Access) {
        self.access = access;
    }

    /// Decides about a source; `arrival` is the index of the interface that its datagram came by.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&mut self, source: SocketAddr, arrival: Option<u32>, now: Instant) -> Result<(), Refusal> {
        let ip = source.ip().to_canonical();
        match &self.access {
            Access::Any => Ok(()),
            Access::Networks(networks) if networks.iter().any(|network| network.contains(&ip)) => Ok(()),
            Access::Networks(_) => Err(Refusal::NotAllowed),
            Access::Remote { port_given, .. } => {
                let matches = |remote: &SocketAddr| {
                    remote.ip().to_canonical() == ip && (!port_given || remote.port() == source.port())
                };
                if self.remote.iter().any(matches) {
                    return Ok(());
                }
                let unknown = self.remote.is_empty();
                self.refresh_remote(now);
                Err(if unknown { Refusal::RemoteUnknown } else { Refusal::NotRemote })
            }
            Access::Protected => self.check_protected(ip, arrival, now),
        }
    }

    /// The addresses of `--remote`, if that was given and they are known.
    pub fn remote(&self) -> &[SocketAddr] {
        &self.remote
    }

    /// True if `--remote` is a name, whose address can change.
    pub fn follows_name(&self) -> bool {
        self.resolver.as_ref().is_some_and(Resolver::is_name)
    }

    /// Looks `--remote` up (again), at most once a second.
    pub fn refresh_remote(&mut self, now: Instant) {
        let recent = self.asked_at.is_some_and(|at| now.saturating_duration_since(at) < REFRESH);
        if let Some(resolver) = self.resolver.as_mut().filter(|_| !recent) {
            self.asked_at = Some(now);
            if let Some(answer) = resolver.request() {
                self.take(answer, now);
            }
        }
    }

    /// When a name that is not known yet is to be looked up again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let unknown = self.follows_name() && self.remote.is_empty();
        self.asked_at.filter(|_| unknown).map(|at| at + self.patience)
    }

    /// Looks an unknown name up again if it is time: every second, and every five once two minutes have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            let since = *self.unknown_since.get_or_insert(now);
            self.patience = if now.saturating_duration_since(since) < PATIENCE { REFRESH } else { LATE_REFRESH };
            self.refresh_remote(now);
        }
    }

    /// Takes an answer of the resolver, if there is one.
    pub fn handle_answer(&mut self, now: Instant) {
        if let Some(answer) = self.resolver.as_mut().and_then(Resolver::poll_answer) {
            self.take(answer, now);
        }
    }

    /// The last good addresses stay in force if a look-up fails.
    fn take(&mut self, answer: Answer, now: Instant) {
        match answer {
            Ok(addresses) => {
                self.remote = addresses;
                self.faults.clear("resolve");
            }
            Err(error) => {
                let text = format_args!("Cannot look up the host of --remote: {error}; trying again");
                self.faults.note(now, "resolve", text);
            }
        }
    }

    fn check_protected(&mut self, ip: IpAddr, arrival: Option<u32>, now: Instant) -> Result<(), Refusal> {
        if !is_private(ip) && !self.is_connected(ip, now) {
            return Err(Refusal::NotProtected);
        }
        let reached_by = |ip| (self.surroundings.interface_towards)(ip, self.mark).ok();
        match arrival.filter(|_| !self.is_bound_to_device) {
            // A link-local address belongs to the interface that it came by; no route has to say so.
            Some(index) if index != 0 && !is_link_local(ip) && reached_by(ip) != Some(index) => {
                Err(Refusal::WrongInterface)
            }
            _ => Ok(()),
        }
    }

    fn is_connected(&mut self, ip: IpAddr, now: Instant) -> bool {
        let fresh = self.connected_at.is_some_and(|at| now.saturating_duration_since(at) < REFRESH);
        if !fresh {
            self.connected_at = Some(now);
            match (self.surroundings.connected_subnets)() {
                Ok(subnets) => self.connected = subnets,
                Err(error) => {
                    log::debug!("Cannot list the connected networks: {error}");
                    self.connected.clear();
                }
            }
        }
        self.connected.iter().any(|subnet| subnet.contains(&ip))
    }
}

/// Loopback, RFC 1918, RFC 4193 and link-local addresses.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
