//! Addresses and routes as asked for, read back with `ip`; and what is left of them at the end.

use crate::common::daemon::{Daemon, server};
use crate::common::lab::{Lab, Ns};
use crate::common::wait::{DEADLINE, wait_until};

macro_rules! rows {
    ($($name:ident: $args:literal shows $shown:literal, routes [$($route:literal),*];)*) => {
        $(
            #[test]
            fn $name() {
                configures($args, $shown, &[$($route),*]);
            }
        )*
    };
}

rows! {
    a_network: "--address 10.66.66.1/24"
        shows r#""local":"10.66.66.1","prefixlen":24"#, routes ["10.66.66.0/24"];
    a_peer_and_a_mask: "--address 10.66.66.1 --peer-address 10.66.66.2 --netmask 255.255.255.0"
        shows r#""local":"10.66.66.1","address":"10.66.66.2","prefixlen":24"#, routes ["10.66.66.0/24"];
    a_peer_and_a_prefix: "--address 10.66.66.1/24 --peer-address 10.66.66.2"
        shows r#""local":"10.66.66.1","address":"10.66.66.2","prefixlen":24"#, routes ["10.66.66.0/24"];
    a_peer: "--address 10.66.66.1 --peer-address 10.66.66.2"
        shows r#""local":"10.66.66.1","address":"10.66.66.2","prefixlen":32"#, routes ["10.66.66.2"];
    a_pair_with_its_peer: "--address 10.66.66.2/31 --peer-address 10.66.66.3"
        shows r#""local":"10.66.66.2","address":"10.66.66.3","prefixlen":31"#, routes ["10.66.66.2/31"];
    a_pair: "--address 10.66.66.2/31"
        shows r#""local":"10.66.66.2","address":"10.66.66.3","prefixlen":31"#, routes ["10.66.66.2/31"];
    a_peer_of_another_network: "--address 192.0.2.1 --peer-address 198.51.100.1"
        shows r#""local":"192.0.2.1","address":"198.51.100.1","prefixlen":32"#, routes ["198.51.100.1"];
    a_peer_of_another_network_with_a_prefix: "--address 192.0.2.1/24 --peer-address 198.51.100.1"
        shows r#""local":"192.0.2.1","address":"198.51.100.1","prefixlen":24"#, routes ["198.51.100.0/24"];
    a_mask_of_twenty_bits: "--address 172.31.7.57 --netmask 255.255.240.0"
        shows r#""local":"172.31.7.57","prefixlen":20"#, routes ["172.31.0.0/20"];
    an_ipv6_peer: "--address fd00::1 --peer-address fd00::2"
        shows r#""local":"fd00::1","address":"fd00::2","prefixlen":128"#, routes ["fd00::2"];
    an_ipv6_network: "--address fd00::1/64"
        shows r#""local":"fd00::1","prefixlen":64"#, routes ["fd00::/64"];
    a_peer_on_tap: "-a --address 10.66.66.1 --peer-address 10.66.66.2"
        shows r#""local":"10.66.66.1","address":"10.66.66.2","prefixlen":32"#, routes ["10.66.66.2"];
    a_peer_and_a_mask_on_tap: "-a --address 10.66.66.1 --peer-address 10.66.66.2 --netmask 255.255.255.0"
        shows r#""local":"10.66.66.1","address":"10.66.66.2","prefixlen":24"#, routes ["10.66.66.0/24"];
    an_ipv6_peer_on_tap: "-a --address fd00::1 --peer-address fd00::2"
        shows r#""local":"fd00::1","address":"fd00::2","prefixlen":128"#, routes ["fd00::2"];
    two_of_each: "--address 10.66.66.1/24 --address 10.77.77.1/24 --address fd00::1/64 --address fd77::1/64"
        shows r#""local":"10.77.77.1","prefixlen":24"#, routes ["10.66.66.0/24", "10.77.77.0/24", "fd00::/64", "fd77::/64"];
    routes_into_the_tunnel: "--address 10.66.66.1/24 --route 10.1.0.0/16 --route 10.2.3.4/32 --route fd01::/48"
        shows r#""local":"10.66.66.1","prefixlen":24"#, routes ["10.66.66.0/24", "10.1.0.0/16", "10.2.3.4", "fd01::/48"];
    routes_into_a_tap: "-a --address 10.66.66.1/24 --route 10.1.0.0/16"
        shows r#""local":"10.66.66.1","prefixlen":24"#, routes ["10.66.66.0/24", "10.1.0.0/16"];
}

#[test]
fn link_settings_are_applied() {
    let (lab, _daemon) = daemon_with("-a --up --mtu 1400 --mac 02:00:5e:10:20:30 --txqueuelen 1234");
    let link = lab.remote.run("ip -json link show dev t0");
    for part in [r#""mtu":1400"#, r#""address":"02:00:5e:10:20:30""#, r#""txqlen":1234"#, r#""UP""#] {
        assert!(link.contains(part), "{part} in {link}");
    }
}

#[test]
fn a_tun_device_is_point_to_point_and_has_no_link_address() {
    let (lab, _daemon) = daemon_with("--address 10.66.66.1/24");
    let link = lab.remote.run("ip -json link show dev t0");
    for part in [r#""link_type":"none""#, r#""POINTOPOINT""#, r#""NOARP""#] {
        assert!(link.contains(part), "{part} in {link}");
    }
}

#[test]
fn without_up_the_device_stays_down() {
    let (lab, _daemon) = daemon_with("");
    let link = lab.remote.run("ip -json link show dev t0");
    assert!(!link.contains(r#""UP""#), "{link}");
}

#[test]
fn all_is_undone_on_a_device_that_was_there_before() {
    let lab = Lab::quiet();
    lab.remote.run("ip tuntap add dev t0 mode tap");
    lab.remote.run("ip link set t0 mtu 1450 txqueuelen 77 address 02:00:00:00:00:07");
    lab.remote.address("t0", &["10.99.0.1/24"]);
    let before = state(&lab.remote);
    let mut daemon = server(
        &lab.remote,
        "-i t0 -s -a --address 10.66.66.1/24 --address fd00::1/64 --route 10.1.0.0/16 --mtu 1400 --txqueuelen 1234 \
         --mac 02:00:00:00:00:08",
    );
    let during = state(&lab.remote);
    for part in
        [r#""UP""#, "10.66.66.1", "fd00::1", "10.1.0.0/16", "02:00:00:00:00:08", r#""mtu":1400"#, r#""txqlen":1234"#]
    {
        assert!(during.contains(part), "{part} in {during}");
    }
    daemon.terminate();
    assert_eq!(state(&lab.remote), before);
}

#[test]
fn what_was_there_before_stays() {
    let lab = Lab::quiet();
    lab.remote.run("ip tuntap add dev t0 mode tun");
    lab.remote.run("ip link set t0 up");
    lab.remote.address("t0", &["10.66.66.1/24"]);
    lab.remote.run("ip route add 10.1.0.0/16 dev t0");
    let mut daemon = server(&lab.remote, "-i t0 -s --address 10.66.66.1/24 --route 10.1.0.0/16");
    daemon.terminate();
    let after = state(&lab.remote);
    for part in ["10.66.66.1", "10.1.0.0/16", r#""UP""#] {
        assert!(after.contains(part), "{part} in {after}");
    }
}

#[track_caller]
fn configures(args: &str, shown: &str, routes: &[&str]) {
    let (lab, mut daemon) = daemon_with(args);
    let addresses = compact(&lab.remote.run("ip -json addr show dev t0"));
    assert!(addresses.contains(shown), "{shown} in {addresses}");
    for route in routes {
        let family = if route.contains(':') { "-6" } else { "-4" };
        let routes = || compact(&lab.remote.run(&format!("ip {family} -json route show dev t0")));
        // The kernel makes the route to an IPv6 peer on tap a moment after the address.
        wait_until(DEADLINE, format!("{route} in {}", routes()), || routes().contains(&format!("\"dst\":\"{route}\"")));
        let table = routes();
        assert!(!table.contains("gateway"), "routes into the tunnel need no gateway: {table}");
    }
    daemon.terminate();
    assert!(!lab.remote.has_device("t0"), "a device that was created vanishes");
}

fn daemon_with(args: &str) -> (Lab, Daemon) {
    let lab = Lab::quiet();
    let daemon = server(&lab.remote, &format!("-i t0 -s {args}"));
    (lab, daemon)
}

/// What `ip` says about the device, less what depends on somebody being attached, or on its having been up once.
fn state(ns: &Ns) -> String {
    ["ip -json addr show dev t0", "ip -4 -json route show dev t0", "ip -6 -json route show dev t0"]
        .map(|line| {
            let text = compact(&ns.run(line));
            ["\"NO-CARRIER\",", "\"linkdown\"", "\"qdisc\":\"noop\",", "\"qdisc\":\"pfifo_fast\","]
                .iter()
                .fold(text, |text, part| text.replace(part, ""))
        })
        .join("\n")
}

fn compact(json: &str) -> String {
    json.split_whitespace().collect()
}
