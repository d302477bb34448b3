//! Networks behind the ends: routed sites, and two LANs joined into one Ethernet segment.

use crate::common::daemon::{Daemon, server, simpletun, simpletun_as};
use crate::common::lab::{NOBODY, Ns, wire};
use crate::common::lan::{advertise_a_prefix, lease_an_address, link_local_suffix, mac_of};
use crate::common::line;
use crate::common::net::transfer;
use crate::common::wait::DEADLINE;

#[test]
fn routed_sites_reach_each_other_over_tcp() {
    routed_sites("");
}

#[test]
fn routed_sites_reach_each_other_over_udp() {
    // The hosts send 1500 bytes; a device that is made for UDP would be smaller.
    routed_sites("--udp --mtu 1500");
}

rows! {
    (tcp: &super::Segment::new(""), udp: &super::Segment::new("--udp"))
    {
        hosts_of_bridged_lans_resolve_and_reach_each_other
        broadcasts_cross_to_the_other_lan
        multicast_crosses_to_the_other_lan
        a_host_gets_its_address_from_a_dhcp_server_in_the_other_lan
        ipv6_neighbours_are_found_in_the_other_lan
        a_router_in_the_other_lan_gives_out_a_prefix
    }
}

/// london-host -- london ==WAN== berlin -- berlin-host
fn routed_sites(transport: &str) {
    let [london_host, london, berlin, berlin_host] = ["london-host", "london", "berlin", "berlin-host"].map(Ns::new);
    wire((&london_host, "eth0"), (&london, "lan"));
    wire((&london, "wan"), (&berlin, "wan"));
    wire((&berlin, "lan"), (&berlin_host, "eth0"));
    for (ns, device, addresses) in [
        (&london_host, "eth0", ["10.1.0.10/24", "fd01::10/64"]),
        (&london, "lan", ["10.1.0.1/24", "fd01::1/64"]),
        (&london, "wan", ["10.86.43.51/24", "fd86::51/64"]),
        (&berlin, "wan", ["10.86.43.52/24", "fd86::52/64"]),
        (&berlin, "lan", ["10.2.0.1/24", "fd02::1/64"]),
        (&berlin_host, "eth0", ["10.2.0.10/24", "fd02::10/64"]),
    ] {
        ns.address(device, &addresses);
    }
    for (host, gateway, gateway6) in [(&london_host, "10.1.0.1", "fd01::1"), (&berlin_host, "10.2.0.1", "fd02::1")] {
        host.run(&format!("ip route add default via {gateway}"));
        host.run(&format!("ip -6 route add default via {gateway6}"));
    }
    london.forward();
    berlin.forward();

    let ends = "--address 192.168.0.2/24 --address fd99::2/64 --route 10.1.0.0/24 --route fd01::/64";
    let server = server(&berlin, &format!("-i tun3 -s {transport} {ends}"));
    let ends = "--address 192.168.0.1/24 --address fd99::1/64 --route 10.2.0.0/24 --route fd02::/64";
    let client = simpletun(&london, &format!("-i tun11 -c 10.86.43.52 {transport} {ends}"));
    client.wait_for(line::DEVICE);

    london_host.ping_until_answered("10.2.0.10", DEADLINE);
    london_host.ping("10.2.0.10", 3, 1472);
    berlin_host.ping("10.1.0.10", 3, 1472);
    london_host.ping("fd02::10", 3, 1452);
    berlin_host.ping("fd01::10", 3, 1452);
    transfer(&london_host, &berlin_host, "10.2.0.10", 1_000_000);
    transfer(&berlin_host, &london_host, "fd01::10", 1_000_000);
    drop((server, client));
}

/// London's hosts and Berlin's on one segment, 192.168.1.0/24, across a routed network between the two gateways.
struct Segment {
    london_host: Ns,
    berlin_host: Ns,
    /// Has no address yet.
    berlin_guest: Ns,
    _ends: [Daemon; 2],
}

impl Segment {
    /// Devices are made beforehand and the daemons run without privileges, as in the tutorial.
    fn new(transport: &str) -> Self {
        let [london_host, london, wan, berlin, berlin_host, berlin_guest] =
            ["london-host", "london", "wan", "berlin", "berlin-host", "berlin-guest"].map(Ns::new);
        wire((&london_host, "eth0"), (&london, "lan1"));
        wire((&berlin_host, "eth0"), (&berlin, "lan1"));
        wire((&berlin_guest, "eth0"), (&berlin, "lan2"));
        wire((&london, "wan"), (&wan, "london"));
        wire((&berlin, "wan"), (&wan, "berlin"));
        wan.forward();
        for (gateway, inside, number) in [(&london, "london", 1), (&berlin, "berlin", 2)] {
            wan.address(inside, &[&format!("10.86.{number}.1/24")]);
            gateway.address("wan", &[&format!("10.86.{number}.2/24")]);
            gateway.run(&format!("ip route add 10.86.0.0/16 via 10.86.{number}.1"));
        }
        for (gateway, ports) in [(&london, &["lan1"][..]), (&berlin, &["lan1", "lan2"])] {
            gateway.run("ip link add br0 type bridge");
            gateway.run("ip link set br0 up");
            gateway.run("openvpn --mktun --dev tap3 --dev-type tap --user nobody");
            gateway.run("ip link set tap3 up");
            for port in ports.iter().chain(&["tap3"]) {
                gateway.run(&format!("ip link set {port} master br0"));
            }
        }
        london_host.address("eth0", &["192.168.1.10/24", "fd01::10/64"]);
        berlin_host.address("eth0", &["192.168.1.20/24", "fd01::20/64"]);

        let server = simpletun_as(NOBODY, &berlin, &format!("-i tap3 -s -a {transport}"));
        server.wait_for(line::LISTENING);
        let client = simpletun_as(NOBODY, &london, &format!("-i tap3 -c 10.86.2.2 -a {transport}"));
        client.wait_for(line::DEVICE);
        london_host.ping_until_answered("192.168.1.20", DEADLINE);
        Self { london_host, berlin_host, berlin_guest, _ends: [server, client] }
    }
}

fn hosts_of_bridged_lans_resolve_and_reach_each_other(segment: &Segment) {
    let Segment { london_host, berlin_host, .. } = segment;
    london_host.ping("192.168.1.20", 3, 1472);
    berlin_host.ping("192.168.1.10", 3, 1472);
    assert!(
        london_host.run("ip neigh show 192.168.1.20").contains(&mac_of(berlin_host)),
        "ARP is answered by the host itself"
    );
    assert!(
        berlin_host.run("ip neigh show 192.168.1.10").contains(&mac_of(london_host)),
        "ARP is answered by the host itself"
    );
    transfer(london_host, berlin_host, "192.168.1.20", 1_000_000);
    transfer(berlin_host, london_host, "192.168.1.10", 1_000_000);
}

fn broadcasts_cross_to_the_other_lan(segment: &Segment) {
    segment.berlin_host.sysctl("net.ipv4.icmp_echo_ignore_broadcasts", "0");
    let said = segment.london_host.run("ping -b -n -c 1 -W 5 192.168.1.255");
    assert!(said.contains("from 192.168.1.20"), "{said}");
}

fn multicast_crosses_to_the_other_lan(segment: &Segment) {
    let target = format!("fe80::{}", link_local_suffix(&segment.berlin_host));
    // All nodes answer; the first reply is the sender's own.
    let output = segment.london_host.try_run("ping -n -c 5 -i 0.2 -W 2 ff02::1%eth0");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&target), "{target} in {said}");
}

fn a_host_gets_its_address_from_a_dhcp_server_in_the_other_lan(segment: &Segment) {
    lease_an_address(&segment.london_host, &segment.berlin_guest);
    segment.berlin_guest.ping("192.168.1.10", 2, 56);
}

fn ipv6_neighbours_are_found_in_the_other_lan(segment: &Segment) {
    let Segment { london_host, berlin_host, .. } = segment;
    london_host.ping_until_answered("fd01::20", DEADLINE);
    london_host.ping("fd01::20", 3, 1452);
    berlin_host.ping("fd01::10", 3, 1452);
    assert!(london_host.run("ip -6 neigh show fd01::20").contains(&mac_of(berlin_host)));
}

fn a_router_in_the_other_lan_gives_out_a_prefix(segment: &Segment) {
    let _router = advertise_a_prefix(&segment.london_host, &segment.berlin_guest);
    segment.berlin_guest.ping("fd02::1", 2, 56);
}
