//! The routing tables as the kernel lists them in `/proc`: by which gateway an address would be reached beside the
//! tunnel. Pure but for the reading.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads to.
    pub network: IpNet,
    /// By which host.
    pub gateway: Option<IpAddr>,
    /// By which device.
    pub device: String,
    metric: u32,
}

impl Route {
    /// The command that leads one address the same way.
    pub fn pin(&self, to: IpAddr) -> String {
        let via = self.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        format!("ip route add {to}{via} dev {}", shell_words::quote(&self.device))
    }
}

/// The routes of the main table, both families.
pub fn all() -> Vec<Route> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut routes: Vec<Route> = read("/proc/net/route").lines().filter_map(route4).collect();
    routes.extend(read("/proc/net/ipv6_route").lines().filter_map(route6));
    routes
}

/// The one of these by which an address is reached that `admits`: the longest prefix, then the smallest metric.
pub fn best(routes: &[Route], to: IpAddr, admits: impl Fn(&Route) -> bool) -> Option<&Route> {
    let fitting = routes.iter().filter(|route| route.network.contains(&to) && admits(route));
    fitting.min_by_key(|route| (u8::MAX - route.network.prefix_len(), route.metric))
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, addresses in the order of the machine's bytes.
fn route4(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |index: usize| Some(Ipv4Addr::from(u32::from_str_radix(fields.get(index)?, 16).ok()?.to_ne_bytes()));
    let network = Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?;
    let gateway = address(2).filter(|gateway| !gateway.is_unspecified()).map(IpAddr::from);
    is_usable(fields.get(3)?)?;
    let metric = fields.get(6)?.parse().ok()?;
    Some(Route { network: network.into(), gateway, device: (*fields.first()?).to_owned(), metric })
}

/// `Destination Len Source Len Gateway Metric RefCnt Use Flags Iface`, all numbers but the name in hexadecimal digits. The
/// host's own addresses are routes by `lo`.
fn route6(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |index: usize| Some(Ipv6Addr::from(u128::from_str_radix(fields.get(index)?, 16).ok()?));
    let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
    let network = Ipv6Net::new(address(0)?, u8::try_from(number(1)?).ok()?).ok()?;
    let gateway = address(4).filter(|gateway| !gateway.is_unspecified()).map(IpAddr::from);
    is_usable(fields.get(8)?)?;
    let device = (*fields.get(9)?).to_owned();
    (device != "lo").then_some(Route { network: network.into(), gateway, device, metric: number(5)? })
}

/// `RTF_UP` is set and `RTF_REJECT` is not (`linux/route.h`).
fn is_usable(flags: &str) -> Option<()> {
    let flags = u32::from_str_radix(flags, 16).ok()?;
    (flags & 0x201 == 1).then_some(())
}

/// The route of one line of `/proc/net/route`.
#[cfg(test)]
pub fn tests_route(line: &str) -> Route {
    route4(line).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_ipv4_is_read_and_the_best_route_found() {
        let ne = |text: &str| u32::from_ne_bytes(text.parse::<Ipv4Addr>().unwrap().octets());
        let line = |device: &str, to: &str, via: &str, flags: &str, metric: u32, mask: &str| {
            format!("{device}\t{:08X}\t{:08X}\t{flags}\t0\t0\t{metric}\t{:08X}\t0\t0\t0", ne(to), ne(via), ne(mask))
        };
        let routes: Vec<Route> = [
            "Iface\tDestination\tGateway".to_owned(),
            line("eth0", "0.0.0.0", "192.0.2.1", "0003", 100, "0.0.0.0"),
            line("tun3", "0.0.0.0", "0.0.0.0", "0001", 0, "0.0.0.0"),
            line("eth0", "192.0.2.0", "0.0.0.0", "0001", 0, "255.255.255.0"),
            line("*", "198.51.100.0", "0.0.0.0", "0200", 0, "255.255.255.0"),
        ]
        .iter()
        .filter_map(|line| route4(line))
        .collect();
        assert_eq!(routes.len(), 3);
        let to = "203.0.113.5".parse().unwrap();
        assert_eq!(best(&routes, to, |_| true).unwrap().device, "tun3");
        let beside = best(&routes, to, |route| route.device != "tun3").unwrap();
        assert_eq!(beside.pin(to), "ip route add 203.0.113.5 via 192.0.2.1 dev eth0");
        let near = best(&routes, "192.0.2.7".parse().unwrap(), |_| true).unwrap();
        assert_eq!(near.pin("192.0.2.7".parse().unwrap()), "ip route add 192.0.2.7 dev eth0");
    }

    #[test]
    fn a_table_of_ipv6_is_read() {
        let line = "20010db8000000000000000000000000 20 00000000000000000000000000000000 00 \
                    fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0";
        let route = route6(line).unwrap();
        assert_eq!(route.network, "2001:db8::/32".parse().unwrap());
        assert_eq!((route.gateway, route.metric), (Some("fe80::1".parse().unwrap()), 1024));
        assert_eq!(route6(&line.replace("eth0", "lo")), None);
        assert_eq!(route6(""), None);
    }
}
