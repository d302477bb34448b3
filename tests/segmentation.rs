//! Cutting and joining against independent judges: the kernel's own segmentation of the same super-packets byte for
//! byte, checksums by another implementation, and what has to hold for any packets at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::prelude::*;
use simpletun::config::LinkLayer;
use simpletun::device::ioctl;
use simpletun::offload::merge::{Batch, MAX_GROUP, Merger, Written};
use simpletun::offload::split::Segments;
use simpletun::offload::{Capabilities, Checksum, Segmentation, VIRTIO_HEADER_LEN, VirtioHeader};

use crate::common::forge::{
    ACK, CWR, DONT_FRAGMENT, ECE, FIN, Forged, MAC_SOURCE, MAC_TARGET, MORE_FRAGMENTS, PSH, Protocol, RST, SYN, URG,
    Version, timestamps,
};
use crate::common::inspect::{Link, checksums};
use crate::common::lab::Ns;
use crate::common::net::noise;
use crate::common::traffic::Responder;
use crate::common::wait::DEADLINE;

const ALL: Capabilities = Capabilities { tcp_v4: true, tcp_v6: true, udp: true };
const ETHERNET_LEN: usize = 14;

// ---------------------------------------------------------------------------------------------------------------
// Against the kernel

/// A super-packet as the device handed it out.
#[derive(Clone, Debug)]
struct Captured {
    header: VirtioHeader,
    packet: Vec<u8>,
}

#[test]
fn the_kernels_tcp_super_packets_on_tun_are_cut_as_the_kernel_cuts_them() {
    captured_equal_the_kernels(
        LinkLayer::Tun,
        "tcp-up=4000000 tcp-four=1000000",
        &[Segmentation::TcpV4, Segmentation::TcpV6],
    );
}

#[test]
fn the_kernels_tcp_super_packets_on_tap_are_cut_as_the_kernel_cuts_them() {
    captured_equal_the_kernels(
        LinkLayer::Tap,
        "tcp-up=4000000 tcp-four=1000000",
        &[Segmentation::TcpV4, Segmentation::TcpV6],
    );
}

#[test]
fn the_kernels_udp_super_packets_on_tun_are_cut_as_the_kernel_cuts_them() {
    captured_equal_the_kernels(LinkLayer::Tun, "udp-up=3000", &[Segmentation::Udp]);
}

#[test]
fn the_kernels_udp_super_packets_on_tap_are_cut_as_the_kernel_cuts_them() {
    captured_equal_the_kernels(LinkLayer::Tap, "udp-up=3000", &[Segmentation::Udp]);
}

/// Real traffic from this kernel's own TCP and UDP; it has to arrive whole after being cut, and each super-packet is
/// then put to the kernel's own segmentation too.
fn captured_equal_the_kernels(link: LinkLayer, steps: &str, expected: &[Segmentation]) {
    let here = quiet_namespace();
    let captured = capture(&here, link, steps);
    let supers: Vec<_> = captured.iter().filter(|captured| captured.header.segmentation.is_some()).collect();
    for segmentation in expected {
        let count = supers.iter().filter(|captured| captured.header.segmentation == Some(*segmentation)).count();
        assert!(count > 10, "{count} super-packets of {segmentation:?} among {}", supers.len());
    }
    if expected.contains(&Segmentation::TcpV4) {
        assert!(supers.iter().any(|captured| captured.header.ecn), "the sender was told of congestion");
    }
    let mut reference = Reference::new(&here);
    for captured in captured.iter().take(3000) {
        reference.assert_equal(link, captured);
    }
}

#[test]
fn super_packets_of_every_form_are_cut_as_the_kernel_cuts_them() {
    let here = quiet_namespace();
    let mut reference = Reference::new(&here);
    let mut random = fastrand::Rng::with_seed(1);
    for number in 0..1500 {
        let forged = random_super_packet(&mut random);
        // The kernel takes at most 128 datagrams at once (UDP_MAX_SEGMENTS).
        let shortest = if forged.protocol == Protocol::Udp { forged.payload.len() / 100 } else { 0 };
        let segment_len = random.usize(64.max(shortest)..=1200);
        // It drops one with a single segment, which it never makes itself.
        if forged.payload.len() <= segment_len {
            continue;
        }
        let (header, packet) = forged.super_packet(segment_len as u16);
        let captured = Captured { header, packet };
        reference.number = number;
        reference.assert_equal(forged.link, &captured);
    }
}

#[test]
fn an_unfinished_checksum_is_completed_as_the_kernel_completes_it() {
    let here = quiet_namespace();
    let mut reference = Reference::new(&here);
    let mut random = fastrand::Rng::with_seed(2);
    for number in 0..500 {
        let mut forged = random_super_packet(&mut random);
        forged.payload.truncate(random.usize(1..1200));
        let (header, packet) = forged.unfinished_packet();
        reference.number = number;
        reference.assert_equal(forged.link, &Captured { header, packet });
    }
}

fn random_super_packet(random: &mut fastrand::Rng) -> Forged {
    let version = if random.bool() { Version::V4 } else { Version::V6 };
    let protocol = if random.bool() { Protocol::Tcp } else { Protocol::Udp };
    let link = if random.bool() { LinkLayer::Tun } else { LinkLayer::Tap };
    let longest = if random.u8(..) < 32 { 60_000 } else { 8_000 };
    let mut forged = Forged::new(link, version, protocol, noise(random.usize(1..=longest)));
    random.shuffle(&mut forged.payload);
    if link == LinkLayer::Tap && random.u8(..) < 40 {
        forged.vlan = Some(random.u16(1..4095));
    }
    forged.host = random.u8(1..);
    forged.ports = [random.u16(1..), random.u16(1..)];
    forged.tos = random.u8(..);
    forged.ttl = random.u8(1..);
    forged.flow_label = random.u16(..);
    forged.id = random.u16(..);
    forged.fragment = if random.bool() { DONT_FRAGMENT } else { 0 };
    if random.u8(..) < 40 {
        forged.ip_options = vec![1; random.usize(1..=10) * 4];
    }
    forged.extension = random.u8(..) < 40;
    forged.sequence = random.u32(..);
    forged.acknowledgement = random.u32(..);
    forged.window = random.u16(..);
    forged.flags = ACK | [0, PSH, FIN, FIN | PSH, CWR, CWR | ECE | PSH, ECE][random.usize(..7)];
    forged.tcp_options = match random.u8(..4) {
        0 => Vec::new(),
        1 => vec![1; random.usize(1..=10) * 4],
        _ => timestamps(random.u32(..)),
    };
    forged
}

/// A namespace of the test's own in which nothing speaks by itself.
fn quiet_namespace() -> Ns {
    let here = Ns::here();
    here.silence();
    here.sysctl("net.ipv4.tcp_ecn", "1");
    // The one that every namespace may choose.
    here.sysctl("net.ipv4.tcp_congestion_control", "reno");
    here
}

/// Runs traffic from here to a namespace beyond two devices, with the test as the wire between them, and returns what
/// the near device handed out.
fn capture(here: &Ns, link: LinkLayer, steps: &str) -> Vec<Captured> {
    let far = Ns::new("far");
    far.silence();
    far.sysctl("net.ipv4.tcp_ecn", "1");
    let near_device = attach("near0", link, libc::IFF_VNET_HDR);
    ioctl::set_header(&near_device, VIRTIO_HEADER_LEN).expect("set the header");
    // TUN_F_CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6.
    ioctl::set_offload(&near_device, 0x6f).expect("set the offloads");
    let far_device = attach("far0", link, 0);
    here.run("ip link set far0 netns far");
    for (ns, device, number) in [(here, "near0", 1), (&far, "far0", 2)] {
        ns.run(&format!("ip link set {device} txqueuelen 5000 up"));
        ns.address(device, &[&format!("10.9.0.{number}/24"), &format!("fd09::{number}/64")]);
    }
    let responder = Responder::new(&far);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let wire = scope.spawn(|| run_wire(&near_device, &far_device, link, &ended));
        for address in ["10.9.0.2", "fd09::2"] {
            responder.exchange(here, address, steps);
        }
        ended.store(true, Ordering::Relaxed);
        wire.join().expect("the wire")
    })
}

/// Carries packets between the devices and marks every 100th as if there were congestion.
fn run_wire(near: &File, far: &File, link: LinkLayer, ended: &AtomicBool) -> Vec<Captured> {
    let mut captured = Vec::new();
    let mut buffer = vec![0; 1 << 17];
    let mut carried = 0usize;
    while !ended.load(Ordering::Relaxed) {
        let mut waiting = [PollFd::new(near.as_fd(), PollFlags::POLLIN), PollFd::new(far.as_fd(), PollFlags::POLLIN)];
        poll(&mut waiting, PollTimeout::from(50u8)).expect("poll");
        while let Some(len) = read(near, &mut buffer) {
            let (header, packet) = buffer[..len].split_first_chunk_mut().expect("a virtio header");
            let header = VirtioHeader::parse(header).expect("a header of a known kind");
            captured.push(Captured { header, packet: packet.to_vec() });
            let mut segments = Segments::new(&header, packet, link).expect("what the kernel made can be cut");
            while let Some(segment) = segments.next_packet() {
                carried += 1;
                if carried.is_multiple_of(100) {
                    mark_congestion(segment, link);
                }
                assert_eq!(checksums(segment, to_link(link)), Ok(()));
                let _ = (&*far).write(segment);
            }
        }
        while let Some(len) = read(far, &mut buffer) {
            let _ = (&*near).write(&[&[0; VIRTIO_HEADER_LEN], &buffer[..len]].concat());
        }
    }
    captured
}

/// Sets CE if the packet is ECT(0), and corrects the checksum of an IPv4 header.
fn mark_congestion(packet: &mut [u8], link: LinkLayer) {
    let ip = if link == LinkLayer::Tap { &mut packet[ETHERNET_LEN..] } else { packet };
    match ip[0] >> 4 {
        4 if ip[1] & 3 == 2 => {
            ip[1] |= 3;
            let sum = u16::from_be_bytes([ip[10], ip[11]]);
            // One more in the word that is summed is one less in the complement (RFC 1624).
            let sum = if sum == 0 { 0xfffe } else { sum - 1 };
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        6 if ip[1] >> 4 & 3 == 2 => ip[1] |= 0x30,
        _ => {}
    }
}

/// The kernel as the judge: a bridge between a device that takes super-packets and one that does not.
struct Reference {
    whole: File,
    cut: File,
    buffer: Vec<u8>,
    number: usize,
}

impl Reference {
    fn new(here: &Ns) -> Self {
        here.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        let whole = attach("whole0", LinkLayer::Tap, libc::IFF_VNET_HDR);
        ioctl::set_header(&whole, VIRTIO_HEADER_LEN).expect("set the header");
        let cut = attach("cut0", LinkLayer::Tap, 0);
        here.run("ip link add bridge0 type bridge mcast_snooping 0");
        for device in ["whole0", "cut0"] {
            here.run(&format!("ip link set {device} txqueuelen 5000 master bridge0"));
            here.run(&format!("ip link set {device} up"));
        }
        here.run("ip link set bridge0 up");
        Self { whole, cut, buffer: vec![0; 1 << 17], number: 0 }
    }

    #[track_caller]
    fn assert_equal(&mut self, link: LinkLayer, captured: &Captured) {
        let Captured { header, packet } = captured;
        let mut copy = packet.clone();
        let ours = match Segments::new(header, &mut copy, link) {
            Ok(segments) => collect(segments),
            Err(error) => panic!("super-packet {}: {error}: {header:?}", self.number),
        };
        let kernels = self.segments(link, captured, ours.len());
        for (index, (our, kernel)) in ours.iter().zip(&kernels).enumerate() {
            let same = our.iter().zip(kernel).take_while(|(our, kernel)| our == kernel).count();
            let from = same.saturating_sub(4);
            assert!(
                our == kernel,
                "super-packet {}, segment {index} of {}: {} bytes by us, {} by the kernel, differing at {same}: {:02x?} \
                 instead of {:02x?} ({header:?}, begins {:02x?})",
                self.number,
                ours.len(),
                our.len(),
                kernel.len(),
                &our[from..our.len().min(same + 12)],
                &kernel[from..kernel.len().min(same + 12)],
                &packet[..packet.len().min(80)]
            );
        }
    }

    /// What the kernel makes of it.
    #[track_caller]
    fn segments(&mut self, link: LinkLayer, captured: &Captured, count: usize) -> Vec<Vec<u8>> {
        let ethernet = self.ethernet_header(link, &captured.packet);
        let shift = ethernet.len() as u16;
        let mut header = captured.header;
        header.checksum_start += shift;
        header.header_len += shift;
        let written = (&self.whole).write(&[&header.to_bytes(), ethernet.as_slice(), &captured.packet].concat());
        written.unwrap_or_else(|error| panic!("super-packet {}: {error}: {header:?}", self.number));
        let mut segments = Vec::new();
        while segments.len() < count {
            let mut waiting = [PollFd::new(self.cut.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut waiting, PollTimeout::try_from(DEADLINE).expect("a deadline")).expect("poll");
            assert!(ready > 0, "super-packet {}: {} of {count} segments: {header:?}", self.number, segments.len());
            self.take(usize::from(shift), &mut segments);
        }
        self.take(usize::from(shift), &mut segments);
        assert_eq!(segments.len(), count, "super-packet {}: {header:?}", self.number);
        segments
    }

    fn take(&mut self, skip: usize, segments: &mut Vec<Vec<u8>>) {
        while let Some(len) = read(&self.cut, &mut self.buffer) {
            segments.push(self.buffer[skip..len].to_vec());
        }
    }

    /// What a packet lacks to be a frame.
    fn ethernet_header(&self, link: LinkLayer, packet: &[u8]) -> Vec<u8> {
        if link == LinkLayer::Tap {
            return Vec::new();
        }
        let kind = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        [&MAC_TARGET[..], &MAC_SOURCE, &kind].concat()
    }
}

fn attach(name: &str, link: LinkLayer, flags: libc::c_int) -> File {
    let kind = match link {
        LinkLayer::Tun => libc::IFF_TUN,
        LinkLayer::Tap => libc::IFF_TAP,
    };
    let file = ioctl::open_clone_device(ioctl::CLONE_DEVICE).expect("open the clone device");
    ioctl::set_interface(&file, name, kind | libc::IFF_NO_PI | flags).expect("make the device");
    file
}

/// One packet, if there is one.
fn read(mut device: &File, buffer: &mut [u8]) -> Option<usize> {
    match device.read(buffer) {
        Ok(len) => Some(len),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("read from the device: {error}"),
    }
}

// ---------------------------------------------------------------------------------------------------------------
// What holds for any packets

fn any_link() -> impl Strategy<Value = LinkLayer> {
    prop_oneof![Just(LinkLayer::Tun), Just(LinkLayer::Tap)]
}

fn any_kind() -> impl Strategy<Value = (Version, Protocol)> {
    (prop_oneof![Just(Version::V4), Just(Version::V6)], prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)])
}

prop_compose! {
    /// A packet that nothing keeps from being merged.
    fn mergeable()(
        link in any_link(),
        (version, protocol) in any_kind(),
        len in 1usize..20_000,
        (id, sequence, acknowledgement, window) in any::<(u16, u32, u32, u16)>(),
        (host, tos, ttl, flow_label) in any::<(u8, u8, u8, u16)>(),
        (dont_fragment, push) in any::<(bool, bool)>(),
        options in prop_oneof![Just(Vec::new()), any::<u32>().prop_map(timestamps)],
    ) -> Forged {
        Forged {
            id, sequence, acknowledgement, window, host, tos, ttl, flow_label,
            fragment: if dont_fragment { DONT_FRAGMENT } else { 0 },
            flags: if push { ACK | PSH } else { ACK },
            tcp_options: options,
            ..Forged::new(link, version, protocol, noise(len))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn segments_have_right_checksums_and_lengths(forged in mergeable(), segment_len in 300u16..2000, fin: bool) {
        let forged = Forged { flags: forged.flags | if fin { FIN | CWR } else { 0 }, ..forged };
        let segments = split(&forged, segment_len);
        let payload: Vec<u8> = segments.iter().flat_map(|segment| segment[forged.data()..].to_vec()).collect();
        prop_assert_eq!(&payload, &forged.payload);
        for segment in &segments {
            prop_assert_eq!(checksums(segment, to_link(forged.link)), Ok(()));
            prop_assert!(segment.len() <= forged.data() + usize::from(segment_len));
        }
    }

    #[test]
    fn merging_undoes_splitting(forged in mergeable(), segment_len in 300u16..2000) {
        let (header, packet) = forged.super_packet(segment_len);
        let segments = split(&forged, segment_len);
        prop_assume!(segments.len() > 1 && segments.len() <= MAX_GROUP);
        let merged = merge(forged.link, ALL, &segments);
        prop_assert_eq!(merged.len(), 1);
        prop_assert_eq!(&merged[0].packet, &packet);
        prop_assert_eq!(merged[0].header, header);
    }

    #[test]
    fn nothing_is_merged_for_a_device_that_takes_nothing(forged in mergeable(), segment_len in 300u16..2000) {
        let segments = split(&forged, segment_len);
        let merged = merge(forged.link, Capabilities::NONE, &segments);
        prop_assert!(merged.iter().all(|write| write.header == VirtioHeader::default()));
        prop_assert_eq!(merged.into_iter().map(|write| write.packet).collect::<Vec<_>>(), segments);
    }

    #[test]
    fn an_unfinished_checksum_is_completed(forged in mergeable()) {
        let (header, mut packet) = forged.unfinished_packet();
        let whole = collect(Segments::new(&header, &mut packet, forged.link).expect("a right header"));
        prop_assert_eq!(whole, vec![forged.packet()]);
    }

    /// Whatever the packets are and however the flows mingle, cutting up again what was merged gives every packet
    /// back, in the order of its flow.
    #[test]
    fn merging_loses_and_reorders_nothing_within_a_flow(
        link in any_link(),
        choices in prop::collection::vec(any::<[u8; 4]>(), 1..300),
        refused: bool,
    ) {
        let packets = mingled_flows(link, &choices);
        let mut outcome = Vec::new();
        if refused {
            outcome = take_apart(link, &packets);
            let mut sorted = [packets.clone(), outcome.clone()];
            sorted.iter_mut().for_each(|packets| packets.sort());
            prop_assert_eq!(&sorted[0], &sorted[1]);
        } else {
            for mut write in merge(link, ALL, &packets) {
                let segments = Segments::new(&write.header, &mut write.packet, link).expect("what we made can be cut");
                outcome.extend(collect(segments));
            }
        }
        prop_assert_eq!(by_flow(link, &outcome), by_flow(link, &packets));
    }
}

/// Several flows that each go on from where they were, with the oddities that must not merge in between.
fn mingled_flows(link: LinkLayer, choices: &[[u8; 4]]) -> Vec<Vec<u8>> {
    let kinds = [
        (Version::V4, Protocol::Tcp),
        (Version::V6, Protocol::Tcp),
        (Version::V4, Protocol::Udp),
        (Version::V6, Protocol::Udp),
    ];
    let mut flows: Vec<Forged> = (0..8u8)
        .map(|number| {
            let (version, protocol) = kinds[usize::from(number % 4)];
            // Two hosts, so that flows share their addresses.
            Forged {
                host: number % 2,
                ports: [u16::from(number), 9],
                ..Forged::new(link, version, protocol, Vec::new())
            }
        })
        .collect();
    let mut packets = Vec::new();
    for (count, [which, size, oddity, detail]) in choices.iter().enumerate() {
        let flow = &mut flows[usize::from(which % 8)];
        let len = if *size < 200 { 100 } else { usize::from(*size) };
        flow.payload = noise(len + count)[count..].to_vec();
        let mut forged = flow.clone();
        flow.sequence = flow.sequence.wrapping_add(len as u32);
        flow.id = flow.id.wrapping_add(1);
        match oddity {
            0..=9 => forged.flags |= PSH,
            10..=13 => forged.flags |= [FIN, SYN, RST, URG, ECE, CWR][usize::from(detail % 6)],
            14..=16 => forged.ttl = *detail,
            17..=19 => forged.tos = *detail,
            20..=22 => forged.ip_options = vec![1; 8],
            23..=25 => forged.extension = true,
            26..=28 => forged.payload.clear(),
            29..=31 => flow.sequence = flow.sequence.wrapping_add(u32::from(*detail)),
            32..=34 => forged.vlan = Some(u16::from(*detail)),
            35..=37 => forged.fragment = MORE_FRAGMENTS,
            38..=40 => flow.acknowledgement = flow.acknowledgement.wrapping_add(1),
            41..=43 => forged.tcp_options = timestamps(u32::from(*detail)),
            44..=46 => forged.fragment = 0,
            _ => {}
        }
        let mut packet = forged.packet();
        match oddity {
            50..=53 => {
                let at = usize::from(*detail) % packet.len();
                packet[at] ^= 0x10;
            }
            54..=55 => packet.truncate(usize::from(*detail).clamp(20, packet.len())),
            56..=57 => packet.extend([0; 6]),
            _ => {}
        }
        packets.push(packet);
    }
    packets
}

/// Packets by what tells flows apart: everything up to the ports, as far as a packet shows it. The identification of
/// IPv4 packets that must not be fragmented means nothing (RFC 6864) and is left out, with the checksum over it.
fn by_flow(link: LinkLayer, packets: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for packet in packets {
        let ip = if link == LinkLayer::Tap { ETHERNET_LEN } else { 0 };
        let mut plain = packet.clone();
        let key = match packet.get(ip).map(|byte| byte >> 4) {
            Some(4) if packet.len() >= ip + 24 => {
                if packet[ip + 6] & 0x40 != 0 {
                    plain[ip + 4..ip + 6].fill(0);
                    plain[ip + 10..ip + 12].fill(0);
                }
                [&packet[..ip], &packet[ip + 9..ip + 10], &packet[ip + 12..ip + 24]].concat()
            }
            Some(6) if packet.len() >= ip + 44 => {
                [&packet[..ip], &packet[ip + 6..ip + 7], &packet[ip + 8..ip + 44]].concat()
            }
            _ => packet[..ip.min(packet.len())].to_vec(),
        };
        flows.entry(key).or_default().push(plain);
    }
    flows
}

// ---------------------------------------------------------------------------------------------------------------
// What must stay apart

type Change = fn(&mut Forged);

/// Everything that a second packet may differ in so that it does not belong to the first.
const SEPARATIONS: &[(&str, Option<Version>, Option<Protocol>, Change)] = &[
    ("FIN", None, Some(Protocol::Tcp), |packet| packet.flags |= FIN),
    ("SYN", None, Some(Protocol::Tcp), |packet| packet.flags |= SYN),
    ("RST", None, Some(Protocol::Tcp), |packet| packet.flags |= RST),
    ("URG", None, Some(Protocol::Tcp), |packet| packet.flags |= URG),
    ("urgent pointer", None, Some(Protocol::Tcp), |packet| packet.urgent = 3),
    ("ECE", None, Some(Protocol::Tcp), |packet| packet.flags |= ECE),
    ("CWR", None, Some(Protocol::Tcp), |packet| packet.flags |= CWR),
    ("no ACK", None, Some(Protocol::Tcp), |packet| packet.flags &= !ACK),
    ("reserved bit", None, Some(Protocol::Tcp), |packet| packet.reserved = 1),
    ("acknowledgement", None, Some(Protocol::Tcp), |packet| packet.acknowledgement += 1),
    ("window", None, Some(Protocol::Tcp), |packet| packet.window += 1),
    ("new options", None, Some(Protocol::Tcp), |packet| packet.tcp_options = timestamps(1)),
    ("gap", None, Some(Protocol::Tcp), |packet| packet.sequence += 1),
    ("overlap", None, Some(Protocol::Tcp), |packet| packet.sequence -= 1),
    ("no payload", None, None, |packet| packet.payload.clear()),
    ("longer payload", None, None, |packet| packet.payload.push(1)),
    ("source port", None, None, |packet| packet.ports[0] += 1),
    ("target port", None, None, |packet| packet.ports[1] += 1),
    ("addresses", None, None, |packet| packet.host += 1),
    ("TOS", None, None, |packet| packet.tos = 4),
    ("ECN mark", None, None, |packet| packet.tos = 3),
    ("TTL", None, None, |packet| packet.ttl -= 1),
    ("flow label", Some(Version::V6), None, |packet| packet.flow_label += 1),
    ("extension header", Some(Version::V6), None, |packet| packet.extension = true),
    ("IPv4 options", Some(Version::V4), None, |packet| packet.ip_options = vec![1; 4]),
    ("may be fragmented", Some(Version::V4), None, |packet| packet.fragment = 0),
    ("first fragment", Some(Version::V4), None, |packet| packet.fragment = MORE_FRAGMENTS),
    ("later fragment", Some(Version::V4), None, |packet| packet.fragment = 100),
    ("identification", Some(Version::V4), None, |packet| packet.id += 7),
    ("VLAN tag", None, None, |packet| packet.vlan = Some(5)),
];

#[test]
fn two_consecutive_segments_merge() {
    for_each_pair(|link, first, second| {
        let merged = merge(link, ALL, &[first.packet(), second.packet()]);
        assert_eq!(merged.len(), 1, "{first:?}");
        assert_eq!(merged[0].count, 2);
    });
}

#[test]
fn a_wrong_checksum_keeps_a_packet_apart_unless_the_sender_vouches_for_it() {
    for_each_pair(|link, first, second| {
        let mut packets = [first.packet(), second.packet()];
        *packets[1].last_mut().expect("a payload") ^= 1;
        for (checksum, expected) in [(Checksum::Unknown, 2), (Checksum::Made, 1)] {
            let mut writes = 0;
            run_merger(link, ALL, &packets, checksum, &mut |_, _, _| {
                writes += 1;
                Written::Done
            });
            assert_eq!(writes, expected, "{checksum:?} {first:?}");
        }
    });
}

#[test]
fn only_checksums_that_are_made_here_are_vouched_for() {
    for_each_pair(|link, first, _| {
        let (header, mut packet) = first.super_packet(400);
        let cut = Segments::new(&header, &mut packet, link).expect("a right header");
        assert_eq!(cut.checksum(), Checksum::Made);
        let mut packet = first.packet();
        let whole = Segments::new(&VirtioHeader::default(), &mut packet, link).expect("no header to be wrong");
        assert_eq!(whole.checksum(), Checksum::Unknown);
    });
}

#[test]
fn what_differs_in_any_header_field_stays_apart() {
    for_each_pair(|link, first, second| {
        for (what, version, protocol, change) in SEPARATIONS {
            let other_version = version.is_some_and(|version| version != first.version);
            let other_protocol = protocol.is_some_and(|protocol| protocol != first.protocol);
            if other_version || other_protocol || (*what == "VLAN tag" && link == LinkLayer::Tun) {
                continue;
            }
            let mut odd = second.clone();
            change(&mut odd);
            // In both places: as the one that might join, and as the one that others might join.
            assert_apart(link, &[first.packet(), odd.packet()], what);
            if *what == "longer payload" {
                continue;
            }
            let mut later = second.clone();
            later.sequence += odd.payload.len() as u32;
            later.id += 1;
            assert_apart(link, &[odd.packet(), later.packet()], what);
        }
    });
}

#[test]
fn packets_with_two_equal_oddities_stay_apart_too() {
    for_each_pair(|link, first, second| {
        for (what, version, protocol, change) in SEPARATIONS {
            let both = [
                "FIN",
                "SYN",
                "RST",
                "URG",
                "ECE",
                "CWR",
                "no ACK",
                "reserved bit",
                "no payload",
                "extension header",
                "IPv4 options",
                "first fragment",
                "later fragment",
                "VLAN tag",
            ];
            let other_version = version.is_some_and(|version| version != first.version);
            let other_protocol = protocol.is_some_and(|protocol| protocol != first.protocol);
            if !both.contains(what)
                || other_version
                || other_protocol
                || (*what == "VLAN tag" && link == LinkLayer::Tun)
            {
                continue;
            }
            let [mut left, mut right] = [first.clone(), second.clone()];
            change(&mut left);
            change(&mut right);
            right.sequence = left.sequence.wrapping_add(left.payload.len() as u32);
            assert_apart(link, &[left.packet(), right.packet()], what);
        }
    });
}

#[test]
fn a_packet_with_a_damaged_byte_stays_apart_and_as_it_is() {
    for_each_pair(|link, first, second| {
        let [first, second] = [first.packet(), second.packet()];
        for at in 0..second.len() {
            let mut damaged = second.clone();
            damaged[at] ^= 1;
            assert_apart(link, &[first.clone(), damaged], "damaged second packet");
            let mut damaged = first.clone();
            damaged[at] ^= 1;
            assert_apart(link, &[damaged, second.clone()], "damaged first packet");
        }
    });
}

#[test]
fn udp_without_a_checksum_stays_apart() {
    for link in [LinkLayer::Tun, LinkLayer::Tap] {
        let forged = Forged::new(link, Version::V4, Protocol::Udp, noise(100));
        let mut packet = forged.packet();
        packet[forged.transport() + 6..forged.transport() + 8].fill(0);
        assert_apart(link, &[packet.clone(), packet], "UDP without checksum");
    }
}

#[test]
fn padding_and_missing_bytes_keep_packets_apart() {
    for_each_pair(|link, first, second| {
        let [mut first, mut second] = [first.packet(), second.packet()];
        second.push(0);
        assert_apart(link, &[first.clone(), second.clone()], "padding");
        second.truncate(second.len() - 2);
        assert_apart(link, &[first.clone(), second.clone()], "cut short");
        first.push(0);
        assert_apart(link, &[first, second], "padding in front");
    });
}

#[test]
fn a_push_ends_a_group_and_is_kept() {
    for_each_pair(|link, first, second| {
        if first.protocol == Protocol::Udp {
            return;
        }
        let mut second = second.clone();
        second.flags |= PSH;
        let mut third = second.clone();
        third.flags = ACK;
        third.sequence = third.sequence.wrapping_add(third.payload.len() as u32);
        third.id += 1;
        let merged = merge(link, ALL, &[first.packet(), second.packet(), third.packet()]);
        assert_eq!(merged.iter().map(|write| write.count).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(merged[0].packet[first.transport() + 13], ACK | PSH);
        assert_eq!(merged[1].packet, third.packet());
    });
}

/// A fragment may belong to any flow between its addresses.
#[test]
fn a_fragment_is_not_overtaken() {
    for link in [LinkLayer::Tun, LinkLayer::Tap] {
        let mut flow = Forged::new(link, Version::V4, Protocol::Udp, noise(100));
        let mut packets = Vec::new();
        for number in 0..5 {
            flow.id = 100 + number;
            flow.fragment = if number == 2 { 100 } else { DONT_FRAGMENT };
            packets.push(flow.packet());
        }
        let counts: Vec<_> = merge(link, ALL, &packets).into_iter().map(|write| write.count).collect();
        assert_eq!(counts, [2, 1, 2]);
    }
}

#[test]
fn the_identification_of_packets_that_may_not_be_fragmented_may_stand_still() {
    let first = Forged::new(LinkLayer::Tun, Version::V4, Protocol::Udp, noise(100));
    assert_eq!(merge(LinkLayer::Tun, ALL, &[first.packet(), first.packet()]).len(), 1);
    let first = Forged { fragment: 0, ..first };
    assert_apart(LinkLayer::Tun, &[first.packet(), first.packet()], "identification that stands still");
}

#[test]
fn a_merged_packet_stays_within_the_length_field() {
    for (version, protocol) in [(Version::V4, Protocol::Tcp), (Version::V6, Protocol::Udp)] {
        let mut flow = Forged::new(LinkLayer::Tap, version, protocol, noise(1400));
        let mut packets = Vec::new();
        for _ in 0..120 {
            packets.push(flow.packet());
            flow.sequence += 1400;
            flow.id += 1;
        }
        let merged = merge(LinkLayer::Tap, ALL, &packets);
        assert!(merged.iter().all(|write| write.packet.len() <= 65_535 && write.count <= MAX_GROUP));
        assert!(merged.len() <= 4, "{} writes", merged.len());
        assert_eq!(merged.iter().map(|write| write.count).sum::<usize>(), 120);
    }
}

/// A pair of consecutive packets of every kind.
fn for_each_pair(mut check: impl FnMut(LinkLayer, &Forged, &Forged)) {
    for link in [LinkLayer::Tun, LinkLayer::Tap] {
        for version in [Version::V4, Version::V6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let first = Forged::new(link, version, protocol, noise(64));
                let mut second = first.clone();
                second.sequence += 64;
                second.id += 1;
                check(link, &first, &second);
            }
        }
    }
}

/// Each packet leaves alone, unchanged, and in this order.
#[track_caller]
fn assert_apart(link: LinkLayer, packets: &[Vec<u8>], what: &str) {
    let writes = merge(link, ALL, packets);
    assert!(writes.iter().all(|write| write.header == VirtioHeader::default()), "{what}: {writes:02x?}");
    let alone: Vec<_> = writes.into_iter().map(|write| write.packet).collect();
    assert_eq!(alone, packets, "{what}");
}

// ---------------------------------------------------------------------------------------------------------------

/// What is written to the device at once.
#[derive(Clone, Debug)]
struct DeviceWrite {
    header: VirtioHeader,
    packet: Vec<u8>,
    count: usize,
}

fn merge(link: LinkLayer, capabilities: Capabilities, packets: &[Vec<u8>]) -> Vec<DeviceWrite> {
    let mut writes = Vec::new();
    run_merger(link, capabilities, packets, Checksum::Unknown, &mut |header, parts, count| {
        writes.push(DeviceWrite {
            header: *header,
            packet: parts.iter().flat_map(|part| part.to_vec()).collect(),
            count,
        });
        Written::Done
    });
    writes
}

/// What a device gets that refuses every super-packet.
fn take_apart(link: LinkLayer, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut writes = Vec::new();
    run_merger(link, ALL, packets, Checksum::Unknown, &mut |header, parts, count| {
        if header.segmentation.is_some() {
            return Written::TakeApart;
        }
        assert_eq!(count, 1);
        writes.push(parts.iter().flat_map(|part| part.to_vec()).collect());
        Written::Done
    });
    writes
}

fn run_merger(
    link: LinkLayer,
    capabilities: Capabilities,
    packets: &[Vec<u8>],
    checksum: Checksum,
    write: &mut dyn FnMut(&VirtioHeader, &[IoSlice<'_>], usize) -> Written,
) {
    let mut merger = Merger::new(link, capabilities);
    let mut packets = packets.to_vec();
    let mut batch = Batch::new(&mut merger);
    for packet in &mut packets {
        if let Err(packet) = batch.push(packet, checksum) {
            batch.drain(write);
            assert!(batch.push(packet, checksum).is_ok(), "an empty batch takes a packet");
        }
    }
    batch.drain(write);
    assert!(batch.is_empty());
}

fn split(forged: &Forged, segment_len: u16) -> Vec<Vec<u8>> {
    let (header, mut packet) = forged.super_packet(segment_len);
    collect(Segments::new(&header, &mut packet, forged.link).expect("a right header"))
}

fn collect(mut segments: Segments<'_>) -> Vec<Vec<u8>> {
    let mut packets = Vec::with_capacity(segments.count());
    while let Some(packet) = segments.next_packet() {
        packets.push(packet.to_vec());
    }
    packets
}

fn to_link(link: LinkLayer) -> Link {
    match link {
        LinkLayer::Tun => Link::Tun,
        LinkLayer::Tap => Link::Tap,
    }
}
