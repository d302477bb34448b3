//! What the kernel does with packets of the networks behind the tunnel: whether it forwards them, and whether it drops
//! what comes back another way (`rp_filter`).

use std::net::IpAddr;

use ipnet::IpNet;

use super::Finding;
use super::subject::{Subject, read_line};
use crate::config::Config;
use crate::device::netlink::{Netlink, Sender};

/// Forwarding and the check of the reverse path.
pub fn check(subject: &Subject) -> Vec<Finding> {
    let (Some(config), Some(device)) = (&subject.config, subject.device()) else { return Vec::new() };
    let Ok(mut netlink) = Netlink::open() else { return Vec::new() };
    let index = netlink.link(device).ok().map(|link| link.index);
    let mut findings = vec![judge_rp_filter(
        device,
        rp_filter(device, index.is_some()),
        &asymmetric(&mut netlink, config, index.filter(|_| subject.running.is_some())),
    )];
    findings.extend(marked(&mut netlink, config, subject.running_peer(), index));
    if config.network.bridge.is_some() {
        findings.push(Finding::ok("forwarding", "none is needed: a bridge passes frames on by itself"));
        return findings;
    }
    let own_networks = netlink.connected_subnets().unwrap_or_default();
    for (family, key, is_ipv4) in
        [("IPv4", "net.ipv4.ip_forward", true), ("IPv6", "net.ipv6.conf.all.forwarding", false)]
    {
        let is_of_family = |network: &&IpNet| network.addr().is_ipv4() == is_ipv4;
        let routes: Vec<&IpNet> = config.network.routes.iter().filter(is_of_family).collect();
        let Some(value) = sysctl(key).filter(|_| !routes.is_empty()) else { continue };
        let lans = own_networks.iter().filter(is_of_family).filter(|network| is_lan(network)).count();
        findings.push(judge_forwarding(family, key, value != "0", lans));
    }
    findings
}

fn sysctl(key: &str) -> Option<String> {
    read_line(&format!("/proc/sys/{}", key.replace('.', "/"))).ok()
}

/// A network that other hosts can be in.
fn is_lan(network: &IpNet) -> bool {
    let is_link_local = match network.addr() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_shared = network.prefix_len() < network.max_prefix_len();
    is_shared && !network.addr().is_loopback() && !is_link_local
}

/// `lans` is how many networks this host is in beside the tunnel's: by one of them it reaches the peer.
fn judge_forwarding(family: &str, key: &str, is_on: bool, lans: usize) -> Finding {
    const CHECK: &str = "forwarding";
    let cure = format!("sysctl -w {key}=1");
    match (is_on, lans) {
        (true, _) => Finding::ok(CHECK, format!("{family} packets are forwarded")),
        (false, 0 | 1) => Finding::note(
            CHECK,
            format!("{family} packets are not forwarded: this host uses the tunnel's routes, hosts behind it cannot"),
        )
        .with_cure(cure),
        (false, _) => Finding::warning(
            CHECK,
            format!("{family} packets are not forwarded, so that the hosts of the networks here do not use the tunnel"),
            cure,
        ),
    }
}

/// What holds for the device: the greater one of its own and that of all (`ip-sysctl.rst`).
fn rp_filter(device: &str, exists: bool) -> u32 {
    let own = if exists { device } else { "default" };
    let value = |name| sysctl(&format!("net.ipv4.conf.{name}.rp_filter")).and_then(|text| text.parse().ok());
    value("all").unwrap_or(0).max(value(own).unwrap_or(0))
}

/// The configured networks that are reached by another device than the tunnel's, though it runs.
fn asymmetric(netlink: &mut Netlink, config: &Config, own: Option<u32>) -> Vec<IpNet> {
    let Some(own) = own else { return Vec::new() };
    let mut leads_elsewhere = |network: &IpNet| {
        let Some(host) = network.hosts().next() else { return false };
        netlink.output_towards(host, &Sender::default()).is_ok_and(|output| output != own)
    };
    let networks = config.network.routes.iter().filter(|network| network.addr().is_ipv4());
    networks.filter(|network| network.prefix_len() > 0 && leads_elsewhere(network)).copied().collect()
}

fn judge_rp_filter(device: &str, mode: u32, asymmetric: &[IpNet]) -> Finding {
    const CHECK: &str = "rp_filter";
    // The greater one wins, so that this is enough whatever that of all is.
    let cure = format!("sysctl -w net.ipv4.conf.{device}.rp_filter=2");
    match (mode, asymmetric.first()) {
        (1, Some(network)) => Finding::warning(
            CHECK,
            format!("strict on {device}, and {network} is reached another way: what comes from there is dropped"),
            cure,
        ),
        (1, None) => {
            Finding::ok(CHECK, "strict: what comes from networks that are not routed into the tunnel is dropped")
        }
        (2, _) => Finding::ok(CHECK, "loose"),
        _ => Finding::ok(CHECK, "off"),
    }
}

/// Packets of the link that are marked leave by other rules than those by which answers are checked.
fn marked(netlink: &mut Netlink, config: &Config, peer: Option<IpAddr>, own: Option<u32>) -> Option<Finding> {
    const CHECK: &str = "rp_filter";
    let (mark, peer) = (config.link.fwmark?, peer?);
    let with = netlink.interface_towards(peer, Some(mark)).ok()?;
    let without = netlink.interface_towards(peer, None).ok()?;
    let output = netlink.link_at(with).ok()?.name;
    let is_strict = peer.is_ipv4() && rp_filter(&output, true) == 1;
    let is_valid = sysctl(&format!("net.ipv4.conf.{output}.src_valid_mark")).is_some_and(|value| value == "1")
        || sysctl("net.ipv4.conf.all.src_valid_mark").is_some_and(|value| value == "1");
    (is_strict && !is_valid && with != without && Some(without) == own).then(|| {
        let found = format!("strict on {output}, by which marked packets leave: the peer's answers are dropped");
        Finding::fault(CHECK, found, format!("sysctl -w net.ipv4.conf.{output}.rp_filter=2"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::Verdict;

    #[test]
    fn a_gateway_has_to_forward_and_a_single_host_need_not() {
        let judged = |is_on, lans| judge_forwarding("IPv4", "net.ipv4.ip_forward", is_on, lans).verdict;
        assert_eq!(
            (judged(true, 2), judged(false, 1), judged(false, 2)),
            (Verdict::Ok, Verdict::Note, Verdict::Warning)
        );
    }

    #[test]
    fn a_strict_check_is_a_fault_only_where_something_comes_another_way() {
        let network: IpNet = "10.2.0.0/24".parse().unwrap();
        assert_eq!(judge_rp_filter("tun3", 0, &[network]).verdict, Verdict::Ok);
        assert_eq!(judge_rp_filter("tun3", 2, &[network]).verdict, Verdict::Ok);
        assert_eq!(judge_rp_filter("tun3", 1, &[]).verdict, Verdict::Ok);
        let finding = judge_rp_filter("tun3", 1, &[network]);
        assert_eq!(finding.cure.as_deref(), Some("sysctl -w net.ipv4.conf.tun3.rp_filter=2"));
        assert_eq!(finding.verdict, Verdict::Warning);
    }

    #[test]
    fn networks_of_one_host_or_one_link_have_no_hosts_to_forward_for() {
        let lan = |text: &str| is_lan(&text.parse().unwrap());
        assert!(lan("10.2.0.0/24") && lan("2001:db8::/64"));
        assert!(!lan("10.2.0.1/32") && !lan("fe80::/64") && !lan("127.0.0.0/8") && !lan("169.254.0.0/16"));
    }
}
