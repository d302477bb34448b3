//! Every combination of device, transport, outer and inner protocol, one test a row.

mod common;

use common::daemon::{server, simpletun};
use common::lab::{Lab, REMOTE, REMOTE6};
use common::line;
use common::net::transfer;

macro_rules! rows {
    ($($name:ident: $kind:ident over $transport:ident, $outer:ident outside, $inner:ident inside;)*) => {
        $(
            #[test]
            fn $name() {
                carries(Kind::$kind, Transport::$transport, Family::$outer, Family::$inner);
            }
        )*
    };
}

rows! {
    tun_tcp_ipv4_carries_ipv4: Tun over Tcp, V4 outside, V4 inside;
    tun_tcp_ipv4_carries_ipv6: Tun over Tcp, V4 outside, V6 inside;
    tun_tcp_ipv6_carries_ipv4: Tun over Tcp, V6 outside, V4 inside;
    tun_tcp_ipv6_carries_ipv6: Tun over Tcp, V6 outside, V6 inside;
    tun_udp_ipv4_carries_ipv4: Tun over Udp, V4 outside, V4 inside;
    tun_udp_ipv4_carries_ipv6: Tun over Udp, V4 outside, V6 inside;
    tun_udp_ipv6_carries_ipv4: Tun over Udp, V6 outside, V4 inside;
    tun_udp_ipv6_carries_ipv6: Tun over Udp, V6 outside, V6 inside;
    tap_tcp_ipv4_carries_ipv4: Tap over Tcp, V4 outside, V4 inside;
    tap_tcp_ipv4_carries_ipv6: Tap over Tcp, V4 outside, V6 inside;
    tap_tcp_ipv6_carries_ipv4: Tap over Tcp, V6 outside, V4 inside;
    tap_tcp_ipv6_carries_ipv6: Tap over Tcp, V6 outside, V6 inside;
    tap_udp_ipv4_carries_ipv4: Tap over Udp, V4 outside, V4 inside;
    tap_udp_ipv4_carries_ipv6: Tap over Udp, V4 outside, V6 inside;
    tap_udp_ipv6_carries_ipv4: Tap over Udp, V6 outside, V4 inside;
    tap_udp_ipv6_carries_ipv6: Tap over Udp, V6 outside, V6 inside;
}

enum Kind {
    Tun,
    Tap,
}

enum Transport {
    Tcp,
    Udp,
}

enum Family {
    V4,
    V6,
}

fn carries(kind: Kind, transport: Transport, outer: Family, inner: Family) {
    let kind = match kind {
        Kind::Tun => "-u",
        Kind::Tap => "-a",
    };
    let transport = match transport {
        Transport::Tcp => "",
        Transport::Udp => "--udp",
    };
    let connect = match outer {
        Family::V4 => REMOTE,
        Family::V6 => REMOTE6,
    };
    // The largest payload that fits 1500 bytes: 20 or 40 bytes of IP and 8 of ICMP are spent.
    let (near, far, prefix, full) = match inner {
        Family::V4 => ("192.168.0.1", "192.168.0.2", 24, 1472),
        Family::V6 => ("fd66::1", "fd66::2", 64, 1452),
    };

    let lab = Lab::new();
    let server = server(&lab.remote, &format!("-i t2 -s {kind} {transport} --address {far}/{prefix} --mtu 1500"));
    let client =
        simpletun(&lab.local, &format!("-i t1 -c {connect} {kind} {transport} --address {near}/{prefix} --mtu 1500"));
    client.wait_for(line::DEVICE);
    lab.local.wait_for_device("t1");
    if transport.is_empty() {
        client.wait_for(line::UP);
    }

    lab.local.ping(far, 3, 56);
    lab.local.ping(far, 2, full);
    let up = server.wait_for(line::UP);
    assert!(up.contains("dev=t2"), "{up}");
    client.wait_for(line::UP);
    lab.remote.ping(near, 3, 56);
    lab.remote.ping(near, 2, full);
    transfer(&lab.local, &lab.remote, far, 1_000_000);
    transfer(&lab.remote, &lab.local, near, 1_000_000);
}
