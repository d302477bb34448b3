//! Sockets with the options that every transport sets before it binds or connects.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use super::pace;
use crate::config::{LinkConfig, Protocol};
use crate::device::netlink::errno_of;
use crate::helper::{self, SocketOption};
use crate::holder;
use crate::sys;

/// Receive buffer of a datagram socket in bytes: what arrives while the daemon is not running has to fit.
const DATAGRAM_RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// Send buffer of a datagram socket in bytes, which the kernel doubles (socket(7)): two trains of datagrams. They stay in
/// it until the interface has sent them, so a larger one is a queue in front of a slow interface.
const DATAGRAM_SEND_BUFFER: usize = 64 * 1024;

/// The longest wait before a repetition. Below it a round trip must stay; above it the outage would seem longer than it is.
const RTO_CAP: Duration = Duration::from_millis(1500);

/// A non-blocking socket for `address`'s family with the mark and the interface that the settings ask for.
///
/// # Errors
/// Those of socket(2) and setsockopt(2), with what to do about a missing right.
pub fn new(config: &LinkConfig, address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), None)?;
    if let Some(mark) = config.fwmark {
        let set = socket.set_mark(mark).or_else(|error| through_helper(&socket, SocketOption::Mark(mark), error));
        set.map_err(|error| {
            explain(&error, format!("Cannot set the mark {mark}: {error}; --fwmark needs CAP_NET_ADMIN, run as root"))
        })?;
    }
    if let Some(name) = &config.bind_device {
        socket
            .bind_device(Some(name.as_bytes()))
            .or_else(|error| through_helper(&socket, SocketOption::Device(name.clone()), error))
            .map_err(|error| explain(&error, format!("Cannot use the interface {name} of --bind-device: {error}")))?;
    }
    Ok(socket)
}

/// Binds a socket, by the helper if this process may not use the port.
///
/// # Errors
/// Those of bind(2).
pub fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.bind(&address.into()).or_else(|error| through_helper(socket, SocketOption::Bind(address), error))
}

/// Lets the helper do what this process has no right to; without a helper the refusal stands.
fn through_helper(socket: &impl AsFd, option: SocketOption, refusal: io::Error) -> io::Result<()> {
    match helper::client() {
        Some(client) if refusal.kind() == io::ErrorKind::PermissionDenied => client.set(socket.as_fd(), option),
        _ => Err(refusal),
    }
}

/// True if this host no longer has the address: nothing arrives any more for a socket that is bound to it.
pub fn is_lost(config: &LinkConfig, address: SocketAddr) -> bool {
    let mut address = super::connection::canonical(address);
    address.set_port(0);
    let bound = new(config, address, Type::DGRAM).and_then(|socket| socket.bind(&address.into()));
    // With the zone of a link-local address its interface is gone, too.
    bound.is_err_and(|error| matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)))
}

/// The local address that a new socket for `target` would get. A connected datagram socket sends nothing by itself.
pub fn source_towards(config: &LinkConfig, target: SocketAddr) -> Option<IpAddr> {
    let socket = new(config, target, Type::DGRAM).ok()?;
    if let Some(local) = local_for(config, target)? {
        socket.bind(&SocketAddr::new(local.ip(), 0).into()).ok()?;
    }
    socket.connect(&target.into()).ok()?;
    Some(socket.local_addr().ok()?.as_socket()?.ip())
}

/// Gives an error a text of its own and keeps its kind.
pub fn explain(error: &io::Error, text: String) -> io::Error {
    io::Error::new(error.kind(), text)
}

/// The options of a live TCP connection: no delay for small writes, and the times after which a silent peer is probed
/// and given up (tcp(7)).
///
/// # Errors
/// Those of setsockopt(2).
pub fn tune_stream(socket: &SockRef<'_>, config: &LinkConfig) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if let Some(name) = &config.congestion {
        set_congestion(socket, name)?;
    }
    set_buffers(socket, config)?;
    sys::limit_unsent(socket.as_fd(), pace::AT_FIRST)?;
    set_patience(socket, config)
}

/// The times after which a silent peer is probed and given up, of a connection that is being made or that stands.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_patience(socket: &SockRef<'_>, config: &LinkConfig) -> io::Result<()> {
    // Probes once a second until `down_after` is over; the user timeout ends a connection with unacknowledged data
    // after the same time.
    let probes = config.down_after.saturating_sub(config.keepalive).as_secs().clamp(1, 127);
    let interval = Duration::from_secs(1).max(config.down_after.saturating_sub(config.keepalive) / 127);
    let keepalive = TcpKeepalive::new()
        .with_time(config.keepalive)
        .with_interval(interval)
        .with_retries(u32::try_from(probes).unwrap_or(127));
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(config.down_after))
}

/// Lets a connection whose path was cut send again soon after its restoration: what is not acknowledged is repeated at
/// this interval at most, however long the outage. Returns false if the kernel cannot do it.
pub fn cap_rto(socket: &SockRef<'_>, config: &LinkConfig) -> bool {
    config.caps_rto && sys::cap_rto(socket.as_fd(), RTO_CAP).is_ok()
}

fn set_congestion(socket: &SockRef<'_>, name: &str) -> io::Result<()> {
    let set = setsockopt(&**socket, sockopt::TcpCongestion, &OsString::from(name)).map_err(io::Error::from);
    let set = set.or_else(|error| through_helper(&**socket, SocketOption::Congestion(name.to_owned()), error));
    set.map_err(|error| {
        let text = match errno_of(&error) {
            Errno::ENOENT => format!(
                "The kernel does not have the congestion control {name} of --congestion: \
                 'sysctl net.ipv4.tcp_available_congestion_control' lists what it has"
            ),
            Errno::EPERM => format!(
                "The congestion control {name} of --congestion is not allowed here: add it to \
                 net.ipv4.tcp_allowed_congestion_control, or run as root"
            ),
            _ => format!("Cannot use the congestion control {name} of --congestion: {error}"),
        };
        explain(&error, text)
    })
}

/// Sets the sizes that were asked for, beyond the system's limit where that is allowed.
fn set_buffers(socket: &SockRef<'_>, config: &LinkConfig) -> io::Result<()> {
    if let Some(size) = config.receive_buffer {
        setsockopt(&**socket, sockopt::RcvBufForce, &size)
            .map_err(io::Error::from)
            .or_else(|error| through_helper(&**socket, SocketOption::ReceiveBuffer(size), error))
            .or_else(|_| socket.set_recv_buffer_size(size))?;
    }
    config.send_buffer.map_or(Ok(()), |size| set_send_buffer(socket, size))
}

/// Sets the size of the send buffer, beyond the system's limit where that is allowed.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_send_buffer(socket: &SockRef<'_>, size: usize) -> io::Result<()> {
    setsockopt(&**socket, sockopt::SndBufForce, &size)
        .map_err(io::Error::from)
        .or_else(|error| through_helper(&**socket, SocketOption::SendBuffer(size), error))
        .or_else(|_| socket.set_send_buffer_size(size))
}

/// The options of a datagram socket: a large buffer for what comes, a small one for what leaves, and the DF bit on a secure
/// link, which finds out by itself what the path carries. A plain one leaves that to the network, which fragments.
///
/// # Errors
/// Those of setsockopt(2). A buffer smaller than asked for is no error.
pub fn tune_datagram(socket: &Socket, config: &LinkConfig, is_ipv6: bool) -> io::Result<()> {
    let sizes = LinkConfig {
        receive_buffer: config.receive_buffer.or(Some(DATAGRAM_RECEIVE_BUFFER)),
        send_buffer: config.send_buffer.or(Some(DATAGRAM_SEND_BUFFER)),
        ..config.clone()
    };
    set_buffers(&SockRef::from(socket), &sizes)?;
    if config.security.is_secure() {
        sys::forbid_fragmentation(socket.as_fd(), is_ipv6)
    } else {
        sys::allow_fragmentation(socket.as_fd(), is_ipv6)
    }
}

/// Binds a listening or datagram server socket to the first candidate that works: an address that was given, else
/// both families, else IPv4 alone. An address that does not exist yet is accepted (`IP_FREEBIND`).
///
/// # Errors
/// The error of the last candidate, naming the address.
pub fn bind_server(config: &LinkConfig, kind: Type) -> io::Result<(Socket, SocketAddr)> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in config.bind.candidates() {
        match bind_one(config, address, kind) {
            Ok(socket) => return Ok((socket, address)),
            Err(error) => {
                let no_family = error.raw_os_error() == Some(libc::EAFNOSUPPORT);
                failure = describe_bind(&error, address, config);
                if !no_family && error.kind() != io::ErrorKind::AddrNotAvailable {
                    break;
                }
            }
        }
    }
    Err(failure)
}

fn bind_one(config: &LinkConfig, address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = new(config, address, kind)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(address) => {
            socket.set_freebind_v6(true)?;
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
    }
    bind(&socket, address)?;
    Ok(socket)
}

fn describe_bind(error: &io::Error, address: SocketAddr, config: &LinkConfig) -> io::Error {
    let protocol = config.protocol;
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let (what, who) = match holder::of_port(protocol, port) {
                Some(holder) => (format!("in use by {holder}"), "end that process".to_owned()),
                None => {
                    let option = if protocol == Protocol::Tcp { 't' } else { 'u' };
                    let search = format!("'ss -lp{option} sport = :{port}' shows it");
                    ("in use".to_owned(), format!("end the program that listens on it ({search})"))
                }
            };
            explain(error, format!("The {protocol} port {port} is {what}: {who} or choose another with --port"))
        }
        io::ErrorKind::PermissionDenied if port < 1024 && error.raw_os_error().is_some() => explain(
            error,
            format!("The {protocol} port {port} needs root or CAP_NET_BIND_SERVICE: choose one above 1023 with --port"),
        ),
        _ if error.raw_os_error().is_none() => explain(error, error.to_string()),
        _ => explain(error, format!("Cannot listen on {address} ({protocol}): {error}")),
    }
}

/// The local address that a client of `target` binds to, if one was given: `None` if its family differs.
pub fn local_for(config: &LinkConfig, target: SocketAddr) -> Option<Option<SocketAddr>> {
    let unspecified: IpAddr = match target {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    match (config.bind.address, config.bind.port) {
        (None, 0) => Some(None),
        (None, port) => Some(Some(SocketAddr::new(unspecified, port))),
        (Some(address), port) if address.is_ipv4() == target.is_ipv4() => Some(Some(SocketAddr::new(address, port))),
        (Some(_), _) => None,
    }
}
