//! One attempt to reach a server over TCP, from the socket to what became of it.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{SockRef, Type};

use super::{FIRST_TOKEN, socket};
use crate::config::LinkConfig;
use crate::tunnel::Path;

/// A connection that is being made.
pub struct Attempt {
    /// Its socket.
    pub stream: TcpStream,
    /// The path that it will be.
    pub path: Path,
    /// The kernel repeats soon what was lost on it.
    pub is_capped: bool,
}

/// The token of a client's connection.
pub fn token_of(path: Path) -> Token {
    Token(FIRST_TOKEN.wrapping_add(path.0 as usize))
}

impl Attempt {
    /// Begins to connect.
    ///
    /// # Errors
    /// Those of socket(2), setsockopt(2), bind(2) and connect(2), as far as they are known at once.
    pub fn begin(config: &LinkConfig, registry: &Registry, target: SocketAddr, path: Path) -> io::Result<Self> {
        let Some(local) = socket::local_for(config, target) else {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the address of --bind is of the other address family",
            ));
        };
        let socket = socket::new(config, target, Type::STREAM)?;
        if let Some(local) = local {
            socket.set_reuse_address(true)?;
            socket::bind(&socket, local)?;
        }
        socket::tune_stream(&SockRef::from(&socket), config)?;
        let is_capped = socket::cap_rto(&SockRef::from(&socket), config);
        match socket.connect(&target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let mut stream = TcpStream::from_std(socket.into());
        registry.register(&mut stream, token_of(path), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, path, is_capped })
    }

    /// What has become of it, if that is known.
    pub fn poll_outcome(&self, target: SocketAddr) -> Option<io::Result<()>> {
        match self.stream.take_error() {
            Ok(Some(error)) | Err(error) => return Some(Err(error)),
            Ok(None) => {}
        }
        match self.stream.peer_addr() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
            Err(error) => Some(Err(error)),
            // A port of our own range can connect to itself while nobody listens (simultaneous open).
            Ok(_) if self.stream.local_addr().is_ok_and(|local| local == target) => {
                Some(Err(io::ErrorKind::ConnectionRefused.into()))
            }
            Ok(_) => Some(Ok(())),
        }
    }
}
