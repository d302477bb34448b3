//! What the hosts of a LAN ask of it: addresses by DHCP and from routers, and their neighbours.

use std::fs;

use super::lab::{Background, Ns};
use super::wait::{DEADLINE, succeed, wait_until};

/// One host serves addresses from 192.168.1.100 on by DHCP, another one, without an address, takes one of them.
#[track_caller]
pub fn lease_an_address(server: &Ns, guest: &Ns) {
    let _server = server.start(
        "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=eth0 --bind-interfaces --user=root \
         --dhcp-range=192.168.1.100,192.168.1.150,1h --dhcp-leasefile=/run/leases --pid-file=/run/dnsmasq.pid",
    );
    wait_until(DEADLINE, "DHCP server", || !server.run("ss -Hlun sport = :67").is_empty());
    let script = "/run/dhcp-script";
    fs::write(script, "#!/bin/sh\n[ \"$1\" != bound ] || ip addr add \"$ip/$mask\" dev \"$interface\"\n")
        .expect("write the script");
    Ns::here().run(&format!("chmod +x {script}"));
    guest.run(&format!("udhcpc -i eth0 -f -n -q -t 20 -T 1 -s {script}"));
    assert!(guest.run("ip -4 addr show dev eth0").contains("inet 192.168.1.1"), "an address of the server's range");
}

/// One host is the router of fd02::/64 and says so, until the value is dropped; another one takes an address of it.
#[track_caller]
#[must_use]
pub fn advertise_a_prefix(router: &Ns, guest: &Ns) -> Background {
    router.forward();
    router.address("eth0", &["fd02::1/64"]);
    let settings =
        "interface eth0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; prefix fd02::/64 {}; };\n";
    fs::write("/run/radvd.conf", settings).expect("write radvd.conf");
    let daemon = router.start("radvd --nodaemon --config /run/radvd.conf --pidfile /run/radvd.pid --logmethod stderr");
    wait_until(DEADLINE, "address from the router's prefix", || {
        guest.run("ip -6 addr show dev eth0 scope global").contains("inet6 fd02::")
    });
    let route = guest.run("ip -6 route show default");
    assert!(route.contains("proto ra"), "{route}");
    daemon
}

pub fn mac_of(ns: &Ns) -> String {
    ns.run("cat /sys/class/net/eth0/address").trim().to_owned()
}

/// The interface part of the link-local address, as `ping` prints it.
pub fn link_local_suffix(ns: &Ns) -> String {
    let output = ns.try_run("ip -6 addr show dev eth0 scope link");
    let text = succeed(output, "ip addr");
    let address = text.split_whitespace().find_map(|word| word.strip_prefix("fe80::")).expect("a link-local address");
    address.split('/').next().expect("an address").to_owned()
}
