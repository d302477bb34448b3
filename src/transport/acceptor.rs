//! A listening TCP socket: what it accepts in one turn of the loop, and what happens when descriptors are short. It
//! knows nothing of who may connect.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{SockRef, Socket};

use super::{FIRST_TOKEN, socket};
use crate::config::LinkConfig;
use crate::fault::FaultLog;
use crate::tunnel::Path;

/// The listener's token; those of connections follow.
pub const LISTENER_TOKEN: Token = Token(FIRST_TOKEN);

/// Connections accepted in one turn of the loop.
const ACCEPT_BUDGET: usize = 16;

/// Wait before accepting again when descriptors or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The listener and when it is to be asked again.
pub struct Acceptor {
    listener: TcpListener,
    again_at: Option<Instant>,
}

/// The token of a connection beside a listener.
pub fn token_of(path: Path) -> Token {
    Token(LISTENER_TOKEN.0.wrapping_add(path.0 as usize))
}

/// Tunes an accepted connection and registers it; says so if that fails.
pub fn set_up(
    stream: &mut TcpStream,
    path: Path,
    config: &LinkConfig,
    registry: &Registry,
    faults: &mut FaultLog,
    now: Instant,
) -> bool {
    let ready = socket::tune_stream(&SockRef::from(&*stream), config)
        .and_then(|()| registry.register(stream, token_of(path), Interest::READABLE | Interest::WRITABLE));
    socket::cap_rto(&SockRef::from(&*stream), config);
    if let Err(error) = &ready {
        faults.note(now, "accept", format_args!("Cannot set up a connection: {error}"));
    }
    ready.is_ok()
}

impl Acceptor {
    /// Listens on a bound socket; `backlog` is how many connections the kernel completes before they are accepted.
    ///
    /// # Errors
    /// Those of listen(2) and epoll_ctl(2).
    pub fn listen(socket: Socket, backlog: i32, registry: &Registry) -> io::Result<Self> {
        socket.listen(backlog)?;
        let mut listener = TcpListener::from_std(socket.into());
        registry.register(&mut listener, LISTENER_TOKEN, Interest::READABLE)?;
        Ok(Self { listener, again_at: None })
    }

    /// The connections of one turn, with their sources.
    pub fn accept(&mut self, now: Instant, faults: &mut FaultLog) -> Vec<(TcpStream, SocketAddr)> {
        let mut accepted = Vec::new();
        for _ in 0..ACCEPT_BUDGET {
            match self.listener.accept() {
                Ok(connection) => accepted.push(connection),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return accepted,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    // accept(2): EMFILE, ENFILE, ENOBUFS, ENOMEM pass, and network errors of the new socket too.
                    _ => {
                        let text = format_args!("Cannot accept a connection: {error}; trying again");
                        faults.note(now, "accept", text);
                        self.again_at = Some(now + ACCEPT_PAUSE);
                        return accepted;
                    }
                },
            }
        }
        // The budget is used up and the listener may have more: come back in the next turn.
        self.again_at = Some(now);
        accepted
    }

    /// When [`is_due`](Self::is_due) is to be asked next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.again_at
    }

    /// True, once, if it is time to accept again.
    pub fn is_due(&mut self, now: Instant) -> bool {
        self.again_at.take_if(|at| *at <= now).is_some()
    }
}
