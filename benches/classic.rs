//! The classic loop: the yardstick that `scripts/bench.sh` divides by.
//!
//! One blocking `poll` over the device and one TCP connection, one packet a turn and a system call for each step:
//! what a short tun/tap program looks like before any batching. It speaks the plain wire (16-bit length, then the
//! packet), so it also serves as a simple peer. It has the two repairs without which the figures would show Nagle's
//! algorithm instead of the loop: `TCP_NODELAY`, and length and packet in one `write`.
//!
//! It knows nothing of the daemon and uses no part of the library on purpose: whatever makes the daemon faster or
//! slower leaves this one as it was. It ends when the peer leaves.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, ensure};
use clap::Parser;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes of the length in front of each packet.
const LENGTH: usize = 2;
/// The length and the largest packet that it can announce.
const FRAME: usize = LENGTH + u16::MAX as usize;

#[derive(Parser)]
#[command(about = "One packet a turn between a tun or tap device and a TCP peer")]
struct Arguments {
    /// Device to attach to; created if it does not exist
    #[arg(short)]
    interface: String,
    /// Wait for a client
    #[arg(short, required_unless_present = "connect")]
    server: bool,
    /// Connect to this server
    #[arg(short, value_name = "SERVER", conflicts_with = "server")]
    connect: Option<String>,
    #[arg(short, default_value_t = 55555)]
    port: u16,
    /// The device is a tun (default)
    #[arg(short = 'u', overrides_with = "tap")]
    tun: bool,
    /// The device is a tap
    #[arg(short = 'a', overrides_with = "tun")]
    tap: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let kind = if arguments.tap { libc::IFF_TAP } else { libc::IFF_TUN };
    let device =
        attach(&arguments.interface, kind).with_context(|| format!("Cannot attach to {}", arguments.interface))?;
    let peer = match &arguments.connect {
        Some(server) => TcpStream::connect((server.as_str(), arguments.port))
            .with_context(|| format!("Cannot connect to {server}"))?,
        None => {
            // An IPv6 socket accepts IPv4 clients as well.
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, arguments.port))
                .with_context(|| format!("Cannot listen on port {}", arguments.port))?;
            listener.accept().context("Cannot accept a client")?.0
        }
    };
    peer.set_nodelay(true)?;
    eprintln!("tunnel up dev={}", arguments.interface);
    forward(device.into(), peer)
}

fn forward(mut device: File, mut peer: TcpStream) -> anyhow::Result<()> {
    let mut outbound = vec![0; FRAME];
    let mut inbound = vec![0; FRAME];
    loop {
        let mut ready = [PollFd::new(device.as_fd(), PollFlags::POLLIN), PollFd::new(peer.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::NONE)?;
        let [from_device, from_peer] = ready.map(|fd| fd.any().unwrap_or(false));

        if from_device {
            let length = device.read(&mut outbound[LENGTH..])?;
            outbound[..LENGTH].copy_from_slice(&u16::try_from(length)?.to_be_bytes());
            peer.write_all(&outbound[..LENGTH + length])?;
        }
        if from_peer {
            let mut header = [0; LENGTH];
            match peer.read_exact(&mut header) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                result => result?,
            }
            let packet = &mut inbound[..usize::from(u16::from_be_bytes(header))];
            peer.read_exact(packet)?;
            device.write_all(packet)?;
        }
    }
}

/// Opens the tun or tap device `name`, without the 4-byte packet information header.
fn attach(name: &str, kind: libc::c_int) -> anyhow::Result<OwnedFd> {
    ensure!(name.len() < libc::IFNAMSIZ, "A device name has at most 15 bytes");
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .context("Cannot open /dev/net/tun")?;

    // SAFETY: `ifreq` consists of integers and of a union of integers, addresses and a pointer that nothing here
    // dereferences; all zeros is a valid value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = i16::try_from(kind | libc::IFF_NO_PI)?;
    // SAFETY: TUNSETIFF reads and writes one `ifreq` behind the pointer; `request` is one, is initialised, and outlives
    // the call. The descriptor is open.
    unsafe { set_interface(device.as_raw_fd(), &raw const request) }?;
    Ok(device.into())
}

// TUNSETIFF is declared in linux/if_tun.h as a write of an `int`, although it takes a `struct ifreq`.
nix::ioctl_write_ptr_bad!(set_interface, nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()), libc::ifreq);
