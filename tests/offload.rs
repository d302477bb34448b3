//! Segmentation offload as users meet it: with it and without it, on both ends or on one, towards programs that know
//! nothing of it, and for traffic that is only passing through, everything arrives as it was sent.

use std::fs;

use nix::libc;
use simpletun::device::ioctl;

use crate::common::daemon::{Daemon, refused, server, simpletun};
use crate::common::inspect::{Link, Relay, Rule, Side};
use crate::common::lab::{Background, LOCAL, LOCAL6, Lab, Ns, PYTHON, REMOTE, REMOTE6, wire};
use crate::common::line;
use crate::common::peer::PORT;
use crate::common::secure::Protection;
use crate::common::stat;
use crate::common::traffic::{DATAGRAMS, Responder, STREAMS, assert_undamaged, counter};
use crate::common::wait::DEADLINE;

const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";
const NEAR6: &str = "fd66::1";
const FAR6: &str = "fd66::2";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tun,
    Tap,
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

/// What `--offload` is given.
#[derive(Clone, Copy, Debug)]
enum Offload {
    On,
    Off,
}

use Family::{V4, V6};
use Kind::{Tap, Tun};
use Offload::{Off, On};
use Protection::{KeyPairs, Plain, Secret};
use Transport::{Tcp, Udp};

macro_rules! rows {
    ($($row:ident: $transport:ident $kind:ident $family:ident;)*) => {
        $(
            mod $row {
                use super::*;

                #[test]
                fn with_offload_on_both_ends() {
                    carries(&Lab::with_wire_offloads(), $transport, $kind, $family, [On, On]);
                }

                #[test]
                fn with_offload_on_neither_end() {
                    carries(&Lab::with_wire_offloads(), $transport, $kind, $family, [Off, Off]);
                }

                #[test]
                fn with_offload_on_the_client_only() {
                    carries(&Lab::with_wire_offloads(), $transport, $kind, $family, [On, Off]);
                }

                #[test]
                fn with_offload_on_the_server_only() {
                    carries(&Lab::with_wire_offloads(), $transport, $kind, $family, [Off, On]);
                }

                #[test]
                fn over_a_wire_without_offloads() {
                    carries(&Lab::new(), $transport, $kind, $family, [On, On]);
                }
            }
        )*
    };
}

rows! {
    tcp_tun_ipv4: Tcp Tun V4;
    tcp_tun_ipv6: Tcp Tun V6;
    tcp_tap_ipv4: Tcp Tap V4;
    tcp_tap_ipv6: Tcp Tap V6;
    udp_tun_ipv4: Udp Tun V4;
    udp_tun_ipv6: Udp Tun V6;
    udp_tap_ipv4: Udp Tap V4;
    udp_tap_ipv6: Udp Tap V6;
}

#[track_caller]
fn carries(lab: &Lab, transport: Transport, kind: Kind, family: Family, [near, far]: [Offload; 2]) {
    let tunnel = Tunnel::new(lab, transport, kind, near.flag(), far.flag());
    tunnel.client.wait_for(near.announcement());
    tunnel.server.wait_for(far.announcement());
    let address = match family {
        V4 => FAR,
        V6 => FAR6,
    };
    Responder::new(&lab.remote).exchange(&lab.local, address, &format!("{STREAMS} {DATAGRAMS}"));
    tunnel.assert_clean(lab);
}

macro_rules! secure_rows {
    ($($row:ident: $protection:ident $transport:ident $kind:ident over $outer:ident, $near:ident to $far:ident;)*) => {
        mod secure {
            use super::*;

            $(
                #[test]
                fn $row() {
                    carries_sealed($protection, $transport, $kind, $outer, [$near, $far]);
                }
            )*
        }
    };
}

// Every pair of values occurs.
secure_rows! {
    tcp_tun_with_offload_on_both_ends: Secret Tcp Tun over V4, On to On;
    tcp_tun_with_offload_on_the_client_only: KeyPairs Tcp Tun over V6, On to Off;
    tcp_tun_with_offload_on_the_server_only: Secret Tcp Tun over V6, Off to On;
    tcp_tun_with_offload_on_neither_end: KeyPairs Tcp Tun over V4, Off to Off;
    tcp_tap_with_offload_on_both_ends: KeyPairs Tcp Tap over V6, On to On;
    tcp_tap_with_offload_on_the_client_only: Secret Tcp Tap over V4, On to Off;
    tcp_tap_with_offload_on_the_server_only: KeyPairs Tcp Tap over V4, Off to On;
    tcp_tap_with_offload_on_neither_end: Secret Tcp Tap over V6, Off to Off;
    udp_tun_with_offload_on_both_ends: KeyPairs Udp Tun over V6, On to On;
    udp_tun_with_offload_on_the_client_only: Secret Udp Tun over V4, On to Off;
    udp_tun_with_offload_on_the_server_only: KeyPairs Udp Tun over V4, Off to On;
    udp_tun_with_offload_on_neither_end: Secret Udp Tun over V6, Off to Off;
    udp_tap_with_offload_on_both_ends: Secret Udp Tap over V4, On to On;
    udp_tap_with_offload_on_the_client_only: KeyPairs Udp Tap over V6, On to Off;
    udp_tap_with_offload_on_the_server_only: Secret Udp Tap over V6, Off to On;
    udp_tap_with_offload_on_neither_end: KeyPairs Udp Tap over V4, Off to Off;
}

/// A packet of any device in these tests is not longer, in bytes; the average of many is, if super-packets crossed whole.
const LONGEST: u64 = 1514;

/// Over TCP an offloading device's super-packets cross whole, whatever the other end's device is; it cuts them if need be.
#[track_caller]
fn carries_sealed(protection: Protection, transport: Transport, kind: Kind, outer: Family, [near, far]: [Offload; 2]) {
    let lab = Lab::with_wire_offloads();
    let ends = match outer {
        V4 => (LOCAL, REMOTE),
        V6 => (LOCAL6, REMOTE6),
    };
    let tunnel = Tunnel::protected(&lab, protection, ends, transport, kind, near.flag(), far.flag());
    for end in [&tunnel.client, &tunnel.server] {
        let session = end.wait_for(line::SESSION);
        assert_eq!(session.contains("super-packets=whole"), transport == Tcp, "{session}");
    }
    let responder = Responder::new(&lab.remote);
    for address in [FAR, FAR6] {
        responder.exchange(&lab.local, address, &format!("{STREAMS} {DATAGRAMS}"));
    }
    tunnel.assert_clean(&lab);
    let (client, server) = (tunnel.client.statistics(), tunnel.server.statistics());
    for (end, sent, offload) in [("client", &client, near), ("server", &server, far)] {
        let average = sent.get(stat::NETWORK_TX_BYTES) / sent.get(stat::NETWORK_TX_PACKETS);
        let whole = transport == Tcp && matches!(offload, On);
        assert_eq!(average > LONGEST, whole, "the {end}'s packets have {average} bytes: {sent:?}");
    }
    for end in [&client, &server] {
        assert_eq!(end.get(stat::HANDSHAKES), 1, "{end:?}");
        assert_eq!(end.get(stat::DROP_BAD_SUPER), 0, "{end:?}");
    }
}

#[test]
fn a_tunnel_over_ipv6_carries_super_packets_over_tcp() {
    over_ipv6(Tcp);
}

#[test]
fn a_tunnel_over_ipv6_carries_super_packets_over_udp() {
    over_ipv6(Udp);
}

fn over_ipv6(transport: Transport) {
    let lab = Lab::with_wire_offloads();
    let tunnel = Tunnel::between(&lab, (LOCAL6, REMOTE6), transport, Tun, "--offload on", "--offload on");
    let responder = Responder::new(&lab.remote);
    responder.exchange(&lab.local, FAR, &format!("{STREAMS} {DATAGRAMS}"));
    responder.exchange(&lab.local, FAR6, &format!("{STREAMS} {DATAGRAMS}"));
    tunnel.assert_clean(&lab);
}

#[test]
fn a_gigabyte_arrives_unchanged_over_tcp() {
    gigabyte(Tcp);
}

#[test]
fn a_gigabyte_arrives_unchanged_over_udp() {
    gigabyte(Udp);
}

fn gigabyte(transport: Transport) {
    let lab = Lab::with_wire_offloads();
    let tunnel = Tunnel::new(&lab, transport, Tun, "--offload on", "--offload on");
    Responder::new(&lab.remote).exchange(&lab.local, FAR, "tcp-up=1000000000");
    tunnel.assert_clean(&lab);
}

#[test]
fn offload_is_on_by_default() {
    let lab = Lab::with_wire_offloads();
    let tunnel = Tunnel::new(&lab, Tcp, Tun, "", "--offload auto");
    for daemon in [&tunnel.client, &tunnel.server] {
        let said = daemon.wait_for(On.announcement());
        assert!(["tcp4", "tcp6", "udp"].iter().all(|kind| said.contains(kind)), "{said}");
        assert_eq!(daemon.count(line::OFFLOAD), 1, "{}", daemon.text());
    }
}

#[test]
fn offload_can_be_set_in_the_configuration_file() {
    let lab = Lab::new();
    fs::write("/run/link.toml", "security = \"plain\"\ninterface = \"t9\"\nserver = true\noffload = \"off\"\n")
        .expect("write the file");
    simpletun(&lab.remote, "--config /run/link.toml").wait_for(Off.announcement());
    simpletun(&lab.remote, "--config /run/link.toml --offload on").wait_for(On.announcement());
}

#[test]
fn a_word_that_offload_does_not_take_is_a_mistake_in_usage() {
    let lab = Lab::new();
    let (code, said) = refused(&lab.remote, "-i t9 -s --offload maybe");
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("auto") && said.contains("maybe"), "{said}");
}

#[test]
fn a_tun_device_made_for_udp_has_an_mtu_that_needs_no_fragments() {
    let lab = Lab::new();
    for (ends, mtu) in [((LOCAL, REMOTE), "1472"), ((LOCAL6, REMOTE6), "1452")] {
        let mut tunnel = Tunnel::between(&lab, ends, Udp, Tun, "", "");
        assert_eq!(mtu_of(&lab.local, "t1"), mtu);
        assert_eq!(mtu_of(&lab.remote, "t2"), mtu);
        tunnel.client.terminate();
        tunnel.server.terminate();
    }
}

#[test]
fn an_mtu_of_65000_is_carried_over_tcp() {
    large_mtu(Tun, "--offload on");
}

#[test]
fn an_mtu_of_65000_is_carried_over_tcp_by_a_tap_device() {
    large_mtu(Tap, "--offload on");
}

#[test]
fn an_mtu_of_65000_is_carried_over_tcp_without_offload() {
    large_mtu(Tun, "--offload off");
}

fn large_mtu(kind: Kind, offload: &str) {
    let lab = Lab::with_wire_offloads();
    let options = format!("{offload} --mtu 65000");
    let tunnel = Tunnel::new(&lab, Tcp, kind, &options, &options);
    assert_eq!(mtu_of(&lab.local, "t1"), "65000");
    lab.local.ping(FAR, 5, 64_972);
    lab.remote.ping(NEAR, 5, 64_972);
    lab.local.ping(FAR6, 5, 64_952);
    let responder = Responder::new(&lab.remote);
    responder.exchange(&lab.local, FAR, &format!("tcp-up=50000000 tcp-down=50000000 {STREAMS} {DATAGRAMS}"));
    responder.exchange(&lab.local, FAR6, &format!("{STREAMS} {DATAGRAMS}"));
    tunnel.assert_clean(&lab);
}

#[test]
fn congestion_marks_cross_over_tcp() {
    congestion_marks(Tcp, Tun);
}

#[test]
fn congestion_marks_cross_over_udp() {
    congestion_marks(Udp, Tun);
}

#[test]
fn congestion_marks_cross_on_tap() {
    congestion_marks(Udp, Tap);
}

/// Every 50th packet of the inner connection is marked where it leaves the tunnel, so that the sender is told and says
/// in a super-packet that it has reduced its window (CWR).
fn congestion_marks(transport: Transport, kind: Kind) {
    let lab = Lab::with_wire_offloads();
    for ns in [&lab.local, &lab.remote] {
        ns.sysctl("net.ipv4.tcp_ecn", "1");
        // The one that every namespace may choose.
        ns.sysctl("net.ipv4.tcp_congestion_control", "reno");
        ns.run("nft add table inet marks");
        ns.run("nft add chain inet marks arrival { type filter hook prerouting priority mangle ; }");
        for (protocol, family) in [("ip", "ipv4"), ("ip6", "ipv6")] {
            ns.run(&format!(
                "nft add rule inet marks arrival iifname t1 meta nfproto {family} {protocol} ecn ect0 \
                 numgen inc mod 50 == 0 counter {protocol} ecn set ce"
            ));
            ns.run(&format!(
                "nft add rule inet marks arrival iifname t2 meta nfproto {family} {protocol} ecn ect0 \
                 numgen inc mod 50 == 0 counter {protocol} ecn set ce"
            ));
        }
    }
    let tunnel = Tunnel::new(&lab, transport, kind, "--offload on", "--offload on");
    let responder = Responder::new(&lab.remote);
    for address in [FAR, FAR6] {
        responder.exchange(&lab.local, address, &format!("tcp-up=8000000 tcp-down=8000000 {STREAMS}"));
    }
    tunnel.assert_clean(&lab);
    for ns in [&lab.local, &lab.remote] {
        let rules = ns.run("nft list chain inet marks arrival");
        let marked = |family: &str| {
            let counts = rules.lines().filter(|rule| rule.contains(family) && !rule.contains("packets 0 "));
            counts.filter(|rule| rule.contains("counter packets")).count()
        };
        assert!(marked("ip ecn") == 1 && marked("ip6 ecn") == 1, "packets were marked in {}: {rules}", ns.label());
    }
}

#[test]
fn forwarded_traffic_crosses_between_routed_sites_over_tcp() {
    routed_sites(Tcp, Wires::Offloading);
}

#[test]
fn forwarded_traffic_crosses_between_routed_sites_over_udp() {
    routed_sites(Udp, Wires::Offloading);
}

#[test]
fn forwarded_traffic_of_hosts_without_offloads_crosses_over_tcp() {
    routed_sites(Tcp, Wires::Plain);
}

#[test]
fn forwarded_traffic_of_hosts_without_offloads_crosses_over_udp() {
    routed_sites(Udp, Wires::Plain);
}

#[test]
fn bridged_lans_exchange_super_packets_over_tcp() {
    bridged_lans(Tcp, Wires::Offloading);
}

#[test]
fn bridged_lans_exchange_super_packets_over_udp() {
    bridged_lans(Udp, Wires::Offloading);
}

#[test]
fn bridged_lans_of_hosts_without_offloads_over_tcp() {
    bridged_lans(Tcp, Wires::Plain);
}

#[test]
fn bridged_lans_of_hosts_without_offloads_over_udp() {
    bridged_lans(Udp, Wires::Plain);
}

/// Whether the network cards of hosts and gateways cut and merge packets themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wires {
    Offloading,
    Plain,
}

/// A host, a gateway, a gateway, a host.
struct Sites {
    near_host: Ns,
    near: Ns,
    far: Ns,
    far_host: Ns,
}

impl Sites {
    fn new(wires: Wires) -> Self {
        let [near_host, near, far, far_host] = ["near-host", "near", "far", "far-host"].map(Ns::new);
        for (left, right) in [
            ((&near_host, "eth0"), (&near, "lan")),
            ((&near, "wan"), (&far, "wan")),
            ((&far, "lan"), (&far_host, "eth0")),
        ] {
            wire(left, right);
            if wires == Wires::Offloading {
                left.0.restore_offloads(left.1);
                right.0.restore_offloads(right.1);
            }
        }
        near.address("wan", &[&format!("{LOCAL}/24")]);
        far.address("wan", &[&format!("{REMOTE}/24")]);
        Self { near_host, near, far, far_host }
    }

    #[track_caller]
    fn assert_clean(&self) {
        for ns in [&self.near_host, &self.near, &self.far, &self.far_host] {
            assert_undamaged(ns);
        }
    }
}

fn routed_sites(transport: Transport, wires: Wires) {
    let sites = Sites::new(wires);
    for (ns, device, addresses) in [
        (&sites.near_host, "eth0", ["10.1.0.10/24", "fd01::10/64"]),
        (&sites.near, "lan", ["10.1.0.1/24", "fd01::1/64"]),
        (&sites.far, "lan", ["10.2.0.1/24", "fd02::1/64"]),
        (&sites.far_host, "eth0", ["10.2.0.10/24", "fd02::10/64"]),
    ] {
        ns.address(device, &addresses);
    }
    for (host, gateway, gateway6) in
        [(&sites.near_host, "10.1.0.1", "fd01::1"), (&sites.far_host, "10.2.0.1", "fd02::1")]
    {
        host.run(&format!("ip route add default via {gateway}"));
        host.run(&format!("ip -6 route add default via {gateway6}"));
    }
    sites.near.forward();
    sites.far.forward();
    let flag = transport.flag();
    let server = server(
        &sites.far,
        &format!(
            "-i t2 -s {flag} --offload on --address {FAR}/24 --address {FAR6}/64 --route 10.1.0.0/24 --route fd01::/64"
        ),
    );
    let client = simpletun(
        &sites.near,
        &format!(
            "-i t1 -c {REMOTE} {flag} --offload on --address {NEAR}/24 --address {NEAR6}/64 --route 10.2.0.0/24 \
             --route fd02::/64"
        ),
    );
    client.wait_for(line::DEVICE);
    sites.near_host.ping_until_answered("10.2.0.10", DEADLINE);
    let responder = Responder::new(&sites.far_host);
    for address in ["10.2.0.10", "fd02::10"] {
        responder.exchange(&sites.near_host, address, &format!("{STREAMS} {DATAGRAMS}"));
    }
    sites.assert_clean();
    assert_nothing_invalid(&[&client, &server]);
}

fn bridged_lans(transport: Transport, wires: Wires) {
    let sites = Sites::new(wires);
    for gateway in [&sites.near, &sites.far] {
        gateway.run("ip link add br0 type bridge");
        gateway.run("ip tuntap add dev tap3 mode tap");
        for port in ["lan", "tap3"] {
            gateway.run(&format!("ip link set {port} master br0"));
            gateway.run(&format!("ip link set {port} up"));
        }
        gateway.run("ip link set br0 up");
    }
    sites.near_host.address("eth0", &["192.168.1.10/24", "fd01::10/64"]);
    sites.far_host.address("eth0", &["192.168.1.20/24", "fd01::20/64"]);
    let flag = transport.flag();
    let server = server(&sites.far, &format!("-i tap3 -s -a {flag} --offload on"));
    let client = simpletun(&sites.near, &format!("-i tap3 -c {REMOTE} -a {flag} --offload on"));
    client.wait_for(line::DEVICE);
    sites.near_host.ping_until_answered("192.168.1.20", DEADLINE);
    sites.near_host.ping("192.168.1.20", 3, 1472);
    let responder = Responder::new(&sites.far_host);
    for address in ["192.168.1.20", "fd01::20"] {
        responder.exchange(&sites.near_host, address, &format!("{STREAMS} {DATAGRAMS}"));
    }
    sites.assert_clean();
    assert_nothing_invalid(&[&client, &server]);
}

#[test]
fn a_tun_device_that_was_made_with_a_virtio_header_is_used() {
    others_device("tun vnet_hdr", Tun, Tcp);
}

#[test]
fn a_tap_device_that_was_made_with_a_virtio_header_is_used() {
    others_device("tap vnet_hdr", Tap, Udp);
}

#[test]
fn a_tun_device_that_was_made_with_several_queues_is_used() {
    others_device("tun multi_queue", Tun, Udp);
}

#[test]
fn a_tap_device_that_was_made_with_several_queues_is_used() {
    others_device("tap multi_queue", Tap, Tcp);
}

#[test]
fn a_tun_device_that_was_made_with_several_queues_and_a_virtio_header_is_used() {
    others_device("tun multi_queue vnet_hdr", Tun, Tcp);
}

#[test]
fn a_tap_device_that_was_made_with_several_queues_and_a_virtio_header_is_used() {
    others_device("tap multi_queue vnet_hdr", Tap, Udp);
}

/// The other end has a device of its own making without any of it.
fn others_device(mode: &str, kind: Kind, transport: Transport) {
    let lab = Lab::with_wire_offloads();
    lab.remote.run(&format!("ip tuntap add dev t2 mode {mode}"));
    let responder = Responder::new(&lab.remote);
    for offload in [On, Off] {
        let mut tunnel = Tunnel::new(&lab, transport, kind, "--offload on", &format!("{} --mtu 1452", offload.flag()));
        tunnel.server.wait_for(offload.announcement());
        responder.exchange(&lab.local, FAR, &format!("{STREAMS} udp-up=500 udp-down=500"));
        tunnel.assert_clean(&lab);
        tunnel.client.terminate();
        tunnel.server.terminate();
    }
}

#[test]
fn an_offload_mask_that_an_earlier_program_left_on_a_tun_device_does_no_harm() {
    left_behind(Tun);
}

#[test]
fn an_offload_mask_that_an_earlier_program_left_on_a_tap_device_does_no_harm() {
    left_behind(Tap);
}

/// A persistent device whose earlier user asked for super-packets behind a longer header.
fn left_behind(kind: Kind) {
    let lab = Lab::with_test_inside();
    let responder = Responder::new(&lab.remote);
    for offload in [Off, On] {
        leave_offloads_on("t1", kind);
        let mut tunnel = Tunnel::new(&lab, Tcp, kind, offload.flag(), "--offload on");
        tunnel.client.wait_for(offload.announcement());
        responder.exchange(&lab.local, FAR, &format!("{STREAMS} {DATAGRAMS}"));
        tunnel.assert_clean(&lab);
        tunnel.client.terminate();
        tunnel.server.terminate();
    }
}

fn leave_offloads_on(device: &str, kind: Kind) {
    let kind = match kind {
        Tun => libc::IFF_TUN,
        Tap => libc::IFF_TAP,
    };
    let file = ioctl::open_clone_device(ioctl::CLONE_DEVICE).expect("open the clone device");
    ioctl::set_interface(&file, device, kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR).expect("attach to the device");
    ioctl::set_header(&file, 12).expect("set the header");
    let mask = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    ioctl::set_offload(&file, mask).expect("set the offloads");
    ioctl::set_persist(&file, true).expect("make the device persistent");
}

#[test]
fn a_tun_device_that_we_leave_serves_a_program_without_offload() {
    left_to_others(Tun);
}

#[test]
fn a_tap_device_that_we_leave_serves_a_program_without_offload() {
    left_to_others(Tap);
}

/// A persistent device is used with offload first and by the original then, which must find ordinary packets on it.
fn left_to_others(kind: Kind) {
    let lab = Lab::with_test_inside();
    lab.remote.run(&format!("ip tuntap add dev t2 mode {}", kind.word()));
    let mut tunnel = Tunnel::new(&lab, Tcp, kind, "--offload on", "--offload on");
    Responder::new(&lab.remote).exchange(&lab.local, FAR, STREAMS);
    tunnel.server.terminate();
    tunnel.client.terminate();
    drop(tunnel);

    // The daemon has taken its addresses away and the device down.
    lab.remote.run("ip link set t2 up");
    lab.remote.address("t2", &[&format!("{FAR}/24"), &format!("{FAR6}/64")]);
    let _original = original(&lab.remote, "t2", &format!("-s {}", kind.flag()));
    lab.remote.wait_for_listener(PORT);
    let relay = Relay::tcp("127.0.0.1:6000", &format!("{REMOTE}:{PORT}"), Side::Back, kind.rule(1500));
    let address = format!("--address {NEAR}/24 --address {NEAR6}/64");
    let client = simpletun(&lab.local, &format!("-i t1 -c 127.0.0.1 -p 6000 {} {address}", kind.flag()));
    client.wait_for(line::UP);
    lab.local.ping_until_answered(FAR, DEADLINE);
    let responder = Responder::new(&lab.remote);
    for address in [FAR, FAR6] {
        responder.exchange(&lab.local, address, "tcp-up=1000000 tcp-down=5000000 udp-up=500 udp-down=500");
    }
    relay.assert_ordinary(10_000_000);
    assert_undamaged(&lab.local);
    assert_undamaged(&lab.remote);
}

#[test]
fn the_original_client_on_tun_sees_ordinary_packets() {
    original_client(Tun);
}

#[test]
fn the_original_client_on_tap_sees_ordinary_packets() {
    original_client(Tap);
}

#[test]
fn the_original_server_on_tun_sees_ordinary_packets() {
    original_server(Tun);
}

#[test]
fn the_original_server_on_tap_sees_ordinary_packets() {
    original_server(Tap);
}

/// original (here) - relay (here) - our server (remote)
fn original_client(kind: Kind) {
    let lab = Lab::with_test_inside();
    plain_device(&lab.local, kind);
    let server = server(&lab.remote, &format!("-i t2 -s {}", kind.served()));
    let relay = Relay::tcp("127.0.0.1:6000", &format!("{REMOTE}:{PORT}"), Side::Back, kind.rule(1500));
    let _original = original(&lab.local, "old0", &format!("-c 127.0.0.1 -p 6000 {}", kind.flag()));
    server.wait_for(line::UP);
    interoperates(&lab, &server, &relay);
}

/// our client (remote) - relay (here) - original (here)
fn original_server(kind: Kind) {
    let lab = Lab::with_test_inside();
    plain_device(&lab.local, kind);
    let _original = original(&lab.local, "old0", &format!("-s {}", kind.flag()));
    lab.local.wait_for_listener(PORT);
    let relay = Relay::tcp(&format!("{LOCAL}:6000"), &format!("127.0.0.1:{PORT}"), Side::Front, kind.rule(1500));
    let client = simpletun(&lab.remote, &format!("-i t2 -c {LOCAL} -p 6000 {}", kind.served()));
    client.wait_for(line::UP);
    interoperates(&lab, &client, &relay);
}

#[test]
fn a_socat_client_on_tun_sees_ordinary_packets() {
    socat_client(Tun);
}

#[test]
fn a_socat_client_on_tap_sees_ordinary_packets() {
    socat_client(Tap);
}

#[test]
fn a_socat_server_on_tun_sees_ordinary_packets() {
    socat_server(Tun);
}

#[test]
fn a_socat_server_on_tap_sees_ordinary_packets() {
    socat_server(Tap);
}

fn socat_client(kind: Kind) {
    let lab = Lab::with_test_inside();
    let server = server(&lab.remote, &format!("-i t2 -s --udp {}", kind.served()));
    let relay = Relay::udp("127.0.0.1:6000", &format!("{REMOTE}:{PORT}"), Side::Back, kind.rule(1500));
    let _socat = socat(&lab.local, kind, "UDP4-CONNECT:127.0.0.1:6000");
    interoperates(&lab, &server, &relay);
}

fn socat_server(kind: Kind) {
    let lab = Lab::with_test_inside();
    let _socat = socat(&lab.local, kind, "UDP4-LISTEN:55555");
    let relay = Relay::udp(&format!("{LOCAL}:6000"), &format!("127.0.0.1:{PORT}"), Side::Front, kind.rule(1500));
    let client = simpletun(&lab.remote, &format!("-i t2 -c {LOCAL} -p 6000 --udp {}", kind.served()));
    client.wait_for(line::DEVICE);
    lab.remote.wait_for_device("t2");
    // Our end speaks first: socat has no peer before.
    lab.remote.ping_until_answered(NEAR, DEADLINE);
    interoperates(&lab, &client, &relay);
}

#[track_caller]
fn interoperates(lab: &Lab, daemon: &Daemon, relay: &Relay) {
    daemon.wait_for(On.announcement());
    lab.local.ping_until_answered(FAR, DEADLINE);
    let responder = Responder::new(&lab.remote);
    responder.exchange(&lab.local, FAR, "tcp-up=20000000 tcp-down=20000000 udp-up=1000 udp-down=1000");
    responder.exchange(&lab.local, FAR6, "tcp-up=3000000 tcp-down=3000000 udp-up=500 udp-down=500");
    relay.assert_ordinary(23_000_000);
    assert_undamaged(&lab.local);
    assert_undamaged(&lab.remote);
    assert_nothing_invalid(&[daemon]);
}

fn plain_device(ns: &Ns, kind: Kind) {
    ns.run(&format!("ip tuntap add dev old0 mode {}", kind.word()));
    ns.run("ip link set old0 up");
    ns.address("old0", &[&format!("{NEAR}/24"), &format!("{NEAR6}/64")]);
}

fn original(ns: &Ns, device: &str, args: &str) -> Daemon {
    let mut command = ns.command(PYTHON);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/original.py"));
    command.args(format!("-i {device} {args}").split_whitespace());
    let original = Daemon::spawn(format!("original.py {args}"), command);
    original.wait_for("Successfully connected to interface");
    original
}

fn socat(ns: &Ns, kind: Kind, peer: &str) -> Background {
    let socat = ns.start(&format!("socat TUN:{NEAR}/24,tun-type={},tun-name=old0,iff-no-pi,up {peer}", kind.word()));
    ns.wait_for_device("old0");
    ns.address("old0", &[&format!("{NEAR6}/64")]);
    socat
}

/// Our client at the local end, our server at the remote one.
struct Tunnel {
    client: Daemon,
    server: Daemon,
    transport: Transport,
    kind: Kind,
}

impl Tunnel {
    #[track_caller]
    fn new(lab: &Lab, transport: Transport, kind: Kind, near: &str, far: &str) -> Self {
        Self::between(lab, (LOCAL, REMOTE), transport, kind, near, far)
    }

    #[track_caller]
    fn between(
        lab: &Lab,
        (local, remote): (&str, &str),
        transport: Transport,
        kind: Kind,
        near: &str,
        far: &str,
    ) -> Self {
        Self::protected(lab, Plain, (local, remote), transport, kind, near, far)
    }

    #[track_caller]
    fn protected(
        lab: &Lab,
        protection: Protection,
        (local, remote): (&str, &str),
        transport: Transport,
        kind: Kind,
        near: &str,
        far: &str,
    ) -> Self {
        let flags = format!("{} {}", transport.flag(), kind.flag());
        let ends = protection.ends();
        let addresses = format!("--address {FAR}/24 --address {FAR6}/64");
        let server =
            server(&lab.remote, &format!("-i t2 -s --bind {remote} {flags} {addresses} {} {far}", ends.server));
        let addresses = format!("--address {NEAR}/24 --address {NEAR6}/64");
        let client = simpletun(
            &lab.local,
            &format!("-i t1 -c {remote} --bind {local} {flags} {addresses} {} {near}", ends.client),
        );
        client.wait_for(line::DEVICE);
        lab.local.ping_until_answered(FAR, DEADLINE);
        client.wait_for(line::UP);
        server.wait_for(line::UP);
        Self { client, server, transport, kind }
    }

    /// Nothing was damaged, refused by a device, or cut up on the way where the MTU avoids that.
    #[track_caller]
    fn assert_clean(&self, lab: &Lab) {
        for ns in [&lab.local, &lab.remote] {
            assert_undamaged(ns);
            if (self.transport, self.kind) == (Udp, Tun) {
                assert_eq!(
                    counter(ns, "IpFragCreates") + counter(ns, "Ip6FragCreates"),
                    0,
                    "fragments of the outer packets"
                );
            }
        }
        assert_nothing_invalid(&[&self.client, &self.server]);
    }
}

#[track_caller]
fn assert_nothing_invalid(daemons: &[&Daemon]) {
    for daemon in daemons {
        let statistics = daemon.statistics();
        assert_eq!(statistics.get(stat::DROP_INVALID), 0, "{statistics:?}");
    }
}

fn mtu_of(ns: &Ns, device: &str) -> String {
    ns.run(&format!("cat /sys/class/net/{device}/mtu")).trim().to_owned()
}

impl Transport {
    fn flag(self) -> &'static str {
        match self {
            Tcp => "",
            Udp => "--udp",
        }
    }
}

impl Kind {
    fn flag(self) -> &'static str {
        match self {
            Tun => "-u",
            Tap => "-a",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Tun => "tun",
            Tap => "tap",
        }
    }

    fn rule(self, mtu: usize) -> Rule {
        let link = match self {
            Tun => Link::Tun,
            Tap => Link::Tap,
        };
        Rule { link, mtu }
    }

    /// Flags of our end towards a program that is not ours.
    fn served(self) -> String {
        format!("{} --offload on --mtu 1500 --address {FAR}/24 --address {FAR6}/64", self.flag())
    }
}

impl Offload {
    fn flag(self) -> &'static str {
        match self {
            On => "--offload on",
            Off => "--offload off",
        }
    }

    /// The beginning of what the daemon says about it at its start.
    fn announcement(self) -> &'static str {
        match self {
            On => "offload tcp4",
            Off => "offload off",
        }
    }
}
