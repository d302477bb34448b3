//! The local port: whether it can be bound to, and who has it otherwise.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use super::Finding;
use super::device::end_of;
use super::subject::Subject;
use crate::config::{Config, Protocol};
use crate::holder::{self, Holder};

const CHECK: &str = "port";

/// The port of the link, if it has one of its own.
pub fn check(subject: &Subject) -> Vec<Finding> {
    let Some(config) = subject.config.as_ref().filter(|config| config.link.bind.port != 0) else { return Vec::new() };
    let shown = shown(config);
    if subject.running.is_some() {
        return vec![Finding::ok(CHECK, format!("{shown} is this tunnel's"))];
    }
    // Bound for a moment and not listened at, so that nobody can connect.
    let outcome = bind(config);
    let protocol = config.link.protocol;
    let holder = || holder::of_port(protocol, config.link.bind.port);
    vec![judge(&shown, config, outcome.err().as_ref(), holder)]
}

/// The port as `ss` writes it.
fn shown(config: &Config) -> String {
    let (bind, protocol) = (config.link.bind, config.link.protocol);
    match bind.address {
        Some(address) => format!("{protocol} {}", SocketAddr::new(address, bind.port)),
        None => format!("{protocol} port {}", bind.port),
    }
}

fn bind(config: &Config) -> io::Result<()> {
    let mut outcome = Ok(());
    for address in config.link.bind.candidates() {
        outcome = bind_to(config, address);
        let lacks_family = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT)) || error.kind() == io::ErrorKind::AddrNotAvailable
        };
        if !outcome.as_ref().is_err_and(lacks_family) {
            return outcome;
        }
    }
    outcome
}

fn bind_to(config: &Config, address: SocketAddr) -> io::Result<()> {
    let kind = match config.link.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    // As the daemon does: connections of its predecessor that are not quite gone are no hindrance.
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(config.link.bind.address.is_some())?;
    }
    socket.bind(&address.into())
}

fn judge(shown: &str, config: &Config, error: Option<&io::Error>, holder: impl Fn() -> Option<Holder>) -> Finding {
    let port = config.link.bind.port;
    let who = || match config.link.protocol {
        Protocol::Tcp => format!("sudo ss -ltnp sport = :{port}"),
        Protocol::Udp => format!("sudo ss -lunp sport = :{port}"),
    };
    let Some(error) = error else { return Finding::ok(CHECK, format!("{shown} is free")) };
    match (error.kind(), holder()) {
        (io::ErrorKind::AddrInUse, Some(holder)) => {
            Finding::fault(CHECK, format!("{shown} is in use by {holder}"), end_of(holder.pid))
        }
        (io::ErrorKind::AddrInUse, None) => Finding::fault(CHECK, format!("{shown} is in use"), who()),
        (io::ErrorKind::AddrNotAvailable, _) => {
            let address = config.link.bind.address.map(|address| address.to_string()).unwrap_or_default();
            let found = format!("{shown}: {address} is no address of this host");
            Finding::fault(CHECK, found, format!("ip address add {address} dev INTERFACE"))
        }
        // What that takes stands among the rights.
        (io::ErrorKind::PermissionDenied, _) => {
            Finding::note(CHECK, format!("{shown} takes a right that this process has not"))
        }
        _ => Finding::fault(CHECK, format!("{shown} cannot be used: {error}"), who()),
    }
}
