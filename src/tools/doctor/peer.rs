//! The way to the peer: its name, the route to its addresses, and how long a packet may be on it.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use socket2::Type;

use super::Finding;
use super::routes::{self, Route};
use super::subject::Subject;
use crate::config::{Access, Config, Endpoint, Host, LinkLayer, Protocol, Role};
use crate::device::netlink::{Netlink, Sender, errno_of};
use crate::transport::{resolve, socket};

/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Addresses of the peer that are looked at.
const MAX_ADDRESSES: usize = 4;

/// The peer's name, the routes to its addresses, and the MTU of the path.
pub fn check(subject: &Subject) -> Vec<Finding> {
    let Some(config) = &subject.config else { return Vec::new() };
    let mut findings = Vec::new();
    let mut addresses: Vec<IpAddr> = subject.running_peer().into_iter().collect();
    if let Some(endpoint) = endpoint(config) {
        let (finding, found) = resolved(endpoint);
        findings.push(finding);
        addresses.extend(found);
    }
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    let Ok(mut netlink) = Netlink::open() else { return findings };
    let own = subject.device().and_then(|name| netlink.link(name).ok());
    let table = routes::all();
    let inside = inside(config);
    for address in &addresses {
        let way = Way {
            to: *address,
            device: own.as_ref().map(|link| link.name.as_str()).or(subject.device()).unwrap_or_default(),
            output: output(&mut netlink, config, *address),
            beside: routes::best(&table, *address, |route| Some(route.device.as_str()) != subject.device()),
            is_pinned: config.link.bind_device.is_some() || config.link.fwmark.is_some(),
        };
        findings.push(judge_route(&way, own.as_ref().map(|link| link.index), &inside));
    }
    if let Some(path) = addresses.iter().find_map(|address| path_mtu(&mut netlink, config, *address)) {
        let probed = subject.running.as_ref().and_then(|status| status.report.path.mtu);
        findings.push(judge_mtu(config, own.map(|link| (link.name, link.mtu)), path, probed));
    }
    findings
}

/// What is reached through the tunnel once it runs.
fn inside(config: &Config) -> Vec<IpNet> {
    let addresses = config.network.addresses.iter();
    let subnets = addresses.filter_map(|it| IpNet::new(it.peer.unwrap_or(it.local), it.prefix_len).ok());
    config.network.routes.iter().copied().chain(subnets.map(|subnet| subnet.trunc())).collect()
}

fn endpoint(config: &Config) -> Option<&Endpoint> {
    match &config.link.role {
        Role::Connect(endpoint) | Role::Listen(Access::Remote { endpoint, .. }) => Some(endpoint),
        Role::Listen(_) => None,
    }
}

fn resolved(endpoint: &Endpoint) -> (Finding, Vec<IpAddr>) {
    const CHECK: &str = "peer name";
    let name = match &endpoint.host {
        Host::Address(address) => return (Finding::ok(CHECK, format!("{address} is an address")), vec![*address]),
        Host::Name(name) => name.clone(),
    };
    let (servers, cure) = without_answer(&name, &fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let (sender, answer) = channel();
    let (asked, port) = (name.clone(), endpoint.port);
    // It ends with the process if it never has an answer.
    thread::spawn(move || sender.send(resolve::look_up(&asked, port)));
    match answer.recv_timeout(PATIENCE) {
        Ok(Ok(found)) => {
            let addresses: Vec<IpAddr> = found.iter().map(|address| address.ip().to_canonical()).collect();
            let listed = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            (Finding::ok(CHECK, format!("{name} is {listed}")), addresses)
        }
        Ok(Err(error)) => {
            (Finding::fault(CHECK, format!("{name} cannot be looked up ({error}); {servers}"), cure), Vec::new())
        }
        Err(_) => {
            let found = format!("there was no answer for {name} within {} s; {servers}", PATIENCE.as_secs());
            (Finding::fault(CHECK, found, cure), Vec::new())
        }
    }
}

/// Who is asked for names, and what to do if they do not know this one.
fn without_answer(name: &str, resolv_conf: &str) -> (String, String) {
    let servers: Vec<&str> = resolv_conf.lines().filter_map(|line| line.strip_prefix("nameserver ")).collect();
    match servers.is_empty() {
        true => (
            "/etc/resolv.conf names no name server".to_owned(),
            "echo 'nameserver ADDRESS' >> /etc/resolv.conf".to_owned(),
        ),
        false => (format!("asked {}", servers.join(", ")), format!("echo 'ADDRESS {name}' >> /etc/hosts")),
    }
}

/// By which device the link's packets leave.
fn output(netlink: &mut Netlink, config: &Config, to: IpAddr) -> io::Result<(u32, String)> {
    let bound = config.link.bind_device.as_deref().and_then(|name| netlink.link(name).ok());
    let sender =
        Sender { mark: config.link.fwmark, output: bound.map(|link| link.index), source: config.link.bind.address };
    let index = netlink.output_towards(to, &sender)?;
    Ok((index, netlink.link_at(index).map(|link| link.name).unwrap_or_default()))
}

/// What is known of the way to one address.
struct Way<'a> {
    to: IpAddr,
    /// The tunnel's device.
    device: &'a str,
    /// Index and name of the device by which packets leave now.
    output: io::Result<(u32, String)>,
    /// The best route that is none of the tunnel's.
    beside: Option<&'a Route>,
    /// The link's packets are led by other rules than the table.
    is_pinned: bool,
}

fn judge_route(way: &Way<'_>, own: Option<u32>, configured: &[IpNet]) -> Finding {
    const CHECK: &str = "route";
    let (to, device) = (way.to, way.device);
    let pin = || way.beside.map_or_else(|| format!("ip route add {to} via GATEWAY"), |route| route.pin(to));
    let is_link_local = match to {
        IpAddr::V4(to) => to.is_link_local(),
        IpAddr::V6(to) => to.is_unicast_link_local(),
    };
    if is_link_local {
        return Finding::ok(CHECK, format!("{to} is on one link"));
    }
    let (index, name) = match &way.output {
        Ok(output) => output,
        Err(error) if [Errno::ENETUNREACH, Errno::EHOSTUNREACH].contains(&errno_of(error)) => {
            let cure = format!("ip route add {to} via GATEWAY");
            return Finding::fault(CHECK, format!("there is no route to the peer {to}"), cure);
        }
        Err(error) => {
            let cure = format!("ip route get {to}; ip rule show");
            return Finding::fault(CHECK, format!("the peer {to} cannot be reached: {error}"), cure);
        }
    };
    if own == Some(*index) {
        let found = format!("the peer {to} is routed into the tunnel itself ({device})");
        return Finding::fault(CHECK, found, pin());
    }
    // As long as the tunnel does not run its own routes are not there. One of the same length takes the place of another
    // or has a smaller metric.
    let now = way.beside.map_or(0, |route| route.network.prefix_len());
    let covering = configured.iter().find(|network| network.contains(&to) && network.prefix_len() >= now);
    match covering.filter(|_| !way.is_pinned && name != "lo") {
        Some(network) if way.beside.is_some_and(|route| route.network.prefix_len() < to_len(to)) => {
            let found = format!("the route {network} of the tunnel leads the peer {to} into the tunnel itself");
            Finding::fault(CHECK, found, pin())
        }
        _ => Finding::ok(CHECK, format!("{to} is reached by {name}")),
    }
}

fn to_len(to: IpAddr) -> u8 {
    if to.is_ipv4() { 32 } else { 128 }
}

/// The peer's family and the longest packet that the kernel sends there, in bytes.
#[derive(Clone, Copy)]
struct Path {
    is_ipv4: bool,
    mtu: u64,
}

/// A connected datagram socket sends nothing by itself, and knows what routers have said.
fn path_mtu(netlink: &mut Netlink, config: &Config, to: IpAddr) -> Option<Path> {
    let (index, _) = output(netlink, config, to).ok()?;
    let by_interface = u64::from(netlink.link_at(index).ok()?.mtu);
    let of_socket = || {
        let target = SocketAddr::new(to, 9);
        let socket = socket::new(&config.link, target, Type::DGRAM).ok()?;
        socket.connect(&target.into()).ok()?;
        u64::try_from(getsockopt(&socket, sockopt::IpMtu).ok()?).ok()
    };
    let mtu = if to.is_ipv4() { of_socket().unwrap_or(by_interface) } else { by_interface };
    Some(Path { is_ipv4: to.is_ipv4(), mtu: mtu.min(by_interface) })
}

/// `device` is name and MTU of the device, if it is there; `probed` what a secure link has found out itself.
fn judge_mtu(config: &Config, device: Option<(String, u32)>, path: Path, probed: Option<u64>) -> Finding {
    const CHECK: &str = "path mtu";
    let Path { is_ipv4, mtu } = path;
    if config.link.protocol == Protocol::Tcp {
        return Finding::ok(CHECK, format!("{mtu}; TCP takes packets of any length"));
    }
    if config.link.security.is_secure() {
        let probed = probed.map(|probed| format!(", and the link has found {probed}")).unwrap_or_default();
        return Finding::ok(CHECK, format!("{mtu} as far as this host knows{probed}; the link follows it by itself"));
    }
    let ethernet = if config.device.kind == LinkLayer::Tap { 14 } else { 0 };
    let around = ethernet + 8 + if is_ipv4 { 20 } else { 40 };
    let usual = config.link.fitting_mtu().unwrap_or(1500);
    let inner = device.as_ref().map(|(_, mtu)| *mtu).or(config.network.mtu).unwrap_or(usual);
    let longest = u64::from(inner) + around;
    if longest <= mtu {
        return Finding::ok(CHECK, format!("{mtu}; the longest datagram has {longest} bytes"));
    }
    let fitting = mtu.saturating_sub(around);
    let found = format!("{mtu}, and packets of {inner} bytes become datagrams of {longest}, which are fragmented");
    let cure = match device {
        Some((name, _)) => format!("ip link set dev {name} mtu {fitting}"),
        None => format!("mtu = {fitting} in the files of both ends (--mtu {fitting})"),
    };
    Finding::warning(CHECK, found, cure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyFiles;
    use crate::tools::doctor::Verdict;

    const PEER: &str = "203.0.113.5";

    fn route(network: &str, gateway: Option<&str>) -> Vec<Route> {
        let flags = if gateway.is_some() { "0003" } else { "0001" };
        let ne = |address: std::net::Ipv4Addr| u32::from_ne_bytes(address.octets());
        let network: ipnet::Ipv4Net = network.parse().unwrap();
        let gateway = gateway.unwrap_or("0.0.0.0").parse().unwrap();
        let line = format!(
            "eth0 {:08X} {:08X} {flags} 0 0 0 {:08X} 0 0 0",
            ne(network.network()),
            ne(gateway),
            ne(network.netmask())
        );
        vec![super::super::routes::tests_route(&line)]
    }

    fn judged(output: io::Result<(u32, String)>, table: &[Route], configured: &[&str], is_pinned: bool) -> Finding {
        let to = PEER.parse().unwrap();
        let beside = routes::best(table, to, |_| true);
        let configured: Vec<IpNet> = configured.iter().map(|network| network.parse().unwrap()).collect();
        judge_route(&Way { to, device: "tun3", output, beside, is_pinned }, Some(7), &configured)
    }

    #[test]
    fn a_way_into_the_tunnel_is_told_with_the_route_that_leads_beside_it() {
        let table = route("0.0.0.0/0", Some("192.0.2.1"));
        let eth0 = || Ok((2, "eth0".to_owned()));
        let pin = "ip route add 203.0.113.5 via 192.0.2.1 dev eth0";
        assert_eq!(judged(eth0(), &table, &["10.0.0.0/8"], false).verdict, Verdict::Ok);
        let finding = judged(Ok((7, "tun3".to_owned())), &table, &[], false);
        assert_eq!((finding.verdict, finding.cure.as_deref()), (Verdict::Fault, Some(pin)));
        let finding = judged(Ok((7, "tun3".to_owned())), &[], &[], false);
        assert_eq!(finding.cure.as_deref(), Some("ip route add 203.0.113.5 via GATEWAY"));
        // Before the tunnel runs.
        let finding = judged(eth0(), &table, &["0.0.0.0/0"], false);
        assert_eq!((finding.verdict, finding.cure.as_deref()), (Verdict::Fault, Some(pin)));
        assert_eq!(judged(eth0(), &table, &["0.0.0.0/0"], true).verdict, Verdict::Ok);
        assert_eq!(judged(eth0(), &route("203.0.113.0/24", None), &["0.0.0.0/0"], false).verdict, Verdict::Ok);
        let pinned = route("203.0.113.5/32", Some("192.0.2.1"));
        assert_eq!(judged(eth0(), &pinned, &["203.0.113.5/32"], false).verdict, Verdict::Ok);
    }

    #[test]
    fn an_unknown_name_is_cured_by_a_server_or_by_a_line_of_hosts() {
        let (found, cure) = without_answer("far", "# none\n");
        assert!(found.contains("no name server") && cure.contains("nameserver ADDRESS"));
        let (found, cure) = without_answer("far", "nameserver 192.0.2.1\nnameserver 192.0.2.2\n");
        assert!(found.contains("192.0.2.1, 192.0.2.2") && cure.contains("ADDRESS far"));
    }

    #[test]
    fn a_peer_without_a_route_is_a_fault() {
        let finding = judged(Err(Errno::ENETUNREACH.into()), &[], &[], false);
        assert_eq!(finding.verdict, Verdict::Fault);
        let finding = judged(Err(Errno::EACCES.into()), &[], &[], false);
        assert!(finding.cure.unwrap().contains("ip rule show"));
    }

    #[test]
    fn a_device_is_too_wide_for_a_narrow_path_of_plain_datagrams() {
        let config = |line: &str| {
            let arguments = format!("simpletun -i tun3 -c {PEER} {line}");
            let cli = crate::cli::Cli::from_arguments(arguments.split_whitespace()).unwrap();
            Config::new(&cli.options, &|_, _| None, &KeyFiles::from_environment()).unwrap()
        };
        let path = |mtu| Path { is_ipv4: true, mtu };
        let device = |mtu| Some(("tun3".to_owned(), mtu));
        assert_eq!(judge_mtu(&config(""), device(1500), path(1400), None).verdict, Verdict::Ok);
        assert_eq!(judge_mtu(&config("--udp"), device(1472), path(1500), None).verdict, Verdict::Ok);
        assert_eq!(judge_mtu(&config("--udp"), None, path(1500), None).verdict, Verdict::Ok);
        let finding = judge_mtu(&config("--udp"), device(1472), path(1400), None);
        assert_eq!(finding.cure.as_deref(), Some("ip link set dev tun3 mtu 1372"));
        let finding = judge_mtu(&config("--udp --tap --mtu 1500"), None, path(1500), None);
        assert!(finding.cure.unwrap().starts_with("mtu = 1458"));
    }
}
