//! The classic loop: the yardstick that `scripts/bench.sh` divides by.
//!
//! One blocking `poll` over the device and one TCP connection, one packet a turn and a system call for each step:
//! what a short tun/tap program looks like before any batching. It speaks the plain wire (16-bit length, then the
//! packet), so it also serves as a simple peer. It has the two repairs without which the figures would show Nagle's
//! algorithm instead of the loop: `TCP_NODELAY`, and length and packet in one `write`.
//!
//! It uses nothing of the library but the call that attaches to a device: whatever makes the daemon faster or slower
//! leaves this one as it was. It ends when the peer leaves.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use clap::Parser;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use simpletun::device::ioctl;

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
    let device = ioctl::open_clone_device(ioctl::CLONE_DEVICE).context("Cannot open the clone device")?;
    ioctl::set_interface(&device, name, kind | libc::IFF_NO_PI)?;
    // A classic loop blocks.
    fcntl(&device, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(device.into())
}
