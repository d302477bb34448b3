//! Every combination of device, transport, outer and inner protocol, plain and secure, one test a row.

use crate::common::daemon::{server, simpletun};
use crate::common::lab::{Lab, REMOTE, REMOTE6};
use crate::common::line;
use crate::common::net::transfer;
use crate::common::secure::Protection;

macro_rules! rows {
    ($($name:ident: $protection:ident $kind:ident over $transport:ident, $outer:ident outside, [$($inner:ident)+] inside;)*) => {
        $(
            #[test]
            fn $name() {
                let inner = [$(Family::$inner),+];
                carries(Protection::$protection, Kind::$kind, Transport::$transport, Family::$outer, &inner);
            }
        )*
    };
}

rows! {
    tun_tcp_ipv4_carries_ipv4: Plain Tun over Tcp, V4 outside, [V4] inside;
    tun_tcp_ipv4_carries_ipv6: Plain Tun over Tcp, V4 outside, [V6] inside;
    tun_tcp_ipv6_carries_ipv4: Plain Tun over Tcp, V6 outside, [V4] inside;
    tun_tcp_ipv6_carries_ipv6: Plain Tun over Tcp, V6 outside, [V6] inside;
    tun_udp_ipv4_carries_ipv4: Plain Tun over Udp, V4 outside, [V4] inside;
    tun_udp_ipv4_carries_ipv6: Plain Tun over Udp, V4 outside, [V6] inside;
    tun_udp_ipv6_carries_ipv4: Plain Tun over Udp, V6 outside, [V4] inside;
    tun_udp_ipv6_carries_ipv6: Plain Tun over Udp, V6 outside, [V6] inside;
    tap_tcp_ipv4_carries_ipv4: Plain Tap over Tcp, V4 outside, [V4] inside;
    tap_tcp_ipv4_carries_ipv6: Plain Tap over Tcp, V4 outside, [V6] inside;
    tap_tcp_ipv6_carries_ipv4: Plain Tap over Tcp, V6 outside, [V4] inside;
    tap_tcp_ipv6_carries_ipv6: Plain Tap over Tcp, V6 outside, [V6] inside;
    tap_udp_ipv4_carries_ipv4: Plain Tap over Udp, V4 outside, [V4] inside;
    tap_udp_ipv4_carries_ipv6: Plain Tap over Udp, V4 outside, [V6] inside;
    tap_udp_ipv6_carries_ipv4: Plain Tap over Udp, V6 outside, [V4] inside;
    tap_udp_ipv6_carries_ipv6: Plain Tap over Udp, V6 outside, [V6] inside;
    secret_tun_tcp_ipv4_carries_both: Secret Tun over Tcp, V4 outside, [V4 V6] inside;
    secret_tun_tcp_ipv6_carries_both: Secret Tun over Tcp, V6 outside, [V4 V6] inside;
    secret_tun_udp_ipv4_carries_both: Secret Tun over Udp, V4 outside, [V4 V6] inside;
    secret_tun_udp_ipv6_carries_both: Secret Tun over Udp, V6 outside, [V4 V6] inside;
    secret_tap_tcp_ipv4_carries_both: Secret Tap over Tcp, V4 outside, [V4 V6] inside;
    secret_tap_tcp_ipv6_carries_both: Secret Tap over Tcp, V6 outside, [V4 V6] inside;
    secret_tap_udp_ipv4_carries_both: Secret Tap over Udp, V4 outside, [V4 V6] inside;
    secret_tap_udp_ipv6_carries_both: Secret Tap over Udp, V6 outside, [V4 V6] inside;
    key_pairs_tun_tcp_ipv4_carries_both: KeyPairs Tun over Tcp, V4 outside, [V4 V6] inside;
    key_pairs_tun_tcp_ipv6_carries_both: KeyPairs Tun over Tcp, V6 outside, [V4 V6] inside;
    key_pairs_tun_udp_ipv4_carries_both: KeyPairs Tun over Udp, V4 outside, [V4 V6] inside;
    key_pairs_tun_udp_ipv6_carries_both: KeyPairs Tun over Udp, V6 outside, [V4 V6] inside;
    key_pairs_tap_tcp_ipv4_carries_both: KeyPairs Tap over Tcp, V4 outside, [V4 V6] inside;
    key_pairs_tap_tcp_ipv6_carries_both: KeyPairs Tap over Tcp, V6 outside, [V4 V6] inside;
    key_pairs_tap_udp_ipv4_carries_both: KeyPairs Tap over Udp, V4 outside, [V4 V6] inside;
    key_pairs_tap_udp_ipv6_carries_both: KeyPairs Tap over Udp, V6 outside, [V4 V6] inside;
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

fn carries(protection: Protection, kind: Kind, transport: Transport, outer: Family, inner: &[Family]) {
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
    let inner: Vec<Inner> = inner.iter().map(Inner::new).collect();
    let addresses = |of: fn(&Inner) -> &str| -> String {
        inner.iter().map(|inner| format!(" --address {}/{}", of(inner), inner.prefix)).collect()
    };
    let ends = protection.ends();

    let lab = Lab::new();
    let server = server(
        &lab.remote,
        &format!("-i t2 -s {kind} {transport} {} --mtu 1500 {}", ends.server, addresses(|inner| inner.far)),
    );
    let client = simpletun(
        &lab.local,
        &format!("-i t1 -c {connect} {kind} {transport} {} --mtu 1500 {}", ends.client, addresses(|inner| inner.near)),
    );
    client.wait_for(line::DEVICE);
    lab.local.wait_for_device("t1");
    // A plain end over UDP does not know of its peer before it has heard it; its device is configured by then.
    client.wait_for(if transport.is_empty() || protection != Protection::Plain { line::UP } else { line::SENDING });
    // Secure datagrams are not fragmented.
    let missing = match (transport, protection, outer) {
        ("", ..) | (_, Protection::Plain, _) => 0,
        (_, _, Family::V4) => 20 + 8 + 32,
        (_, _, Family::V6) => 40 + 8 + 32,
    };
    let ethernet_len = if missing > 0 && kind == "-a" { 14 } else { 0 };
    for Inner { near, far, full, .. } in inner {
        let full = full - missing - ethernet_len;
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
    assert_eq!(client.said(line::SESSION), protection != Protection::Plain, "{}", client.text());
}

/// What is spoken inside.
struct Inner {
    near: &'static str,
    far: &'static str,
    prefix: u8,
    /// The largest payload of a ping that fits 1500 bytes: 20 or 40 bytes of IP and 8 of ICMP are spent.
    full: u32,
}

impl Inner {
    fn new(family: &Family) -> Self {
        match family {
            Family::V4 => Self { near: "192.168.0.1", far: "192.168.0.2", prefix: 24, full: 1472 },
            Family::V6 => Self { near: "fd66::1", far: "fd66::2", prefix: 64, full: 1452 },
        }
    }
}
