//! How the two processes talk: one message of JSON in each packet of a `SOCK_SEQPACKET` pair (unix(7)), with one
//! descriptor at most.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys;

/// Longest message in bytes: a configuration of ten thousand routes.
const MAX_LEN: usize = 1024 * 1024;

/// How long a request may take before the helper counts as hung, in seconds.
const PATIENCE_SECONDS: i64 = 30;

/// One end of the pair.
pub struct Wire {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Wire {
    /// A new pair: the asking end, and what becomes the descriptor 0 of the helper.
    ///
    /// # Errors
    /// Those of socketpair(2) and setsockopt(2).
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let patience = TimeVal::seconds(PATIENCE_SECONDS);
        setsockopt(&ours, sockopt::ReceiveTimeout, &patience)?;
        setsockopt(&ours, sockopt::SendTimeout, &patience)?;
        Ok((Self::new(ours), theirs))
    }

    /// Over an end that is open already. Long messages need a large buffer, which may be more than is granted.
    pub fn new(socket: OwnedFd) -> Self {
        let size = 2 * MAX_LEN;
        let _ =
            setsockopt(&socket, sockopt::SndBufForce, &size).or_else(|_| setsockopt(&socket, sockopt::SndBuf, &size));
        Self { socket, buffer: vec![0; MAX_LEN] }
    }

    /// Sends a message and a descriptor.
    ///
    /// # Errors
    /// `EMSGSIZE` if it is too long, `EPIPE` if the other end is closed, those of sendmsg(2).
    pub fn send<T: Serialize>(&self, message: &T, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_LEN {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        uninterrupted(|| sys::send_with_descriptor(self.socket.as_fd(), &bytes, descriptor))
    }

    /// The next message with its descriptor; `None` if the other end is closed.
    ///
    /// # Errors
    /// `EAGAIN` if none has come in time, those of recvmsg(2), and a message that means nothing.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let (socket, buffer) = (self.socket.as_fd(), &mut self.buffer);
        let (len, descriptor) = uninterrupted(|| sys::receive_with_descriptor(socket, buffer))?;
        if len == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(self.buffer.get(..len).unwrap_or_default())?;
        Ok(Some((message, descriptor)))
    }
}

/// A signal is noted where signals are, and is no failure of what waits: on a socket with a time limit the kernel does not
/// go on by itself (signal(7)).
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helper::{Answer, Request, SocketOption};

    #[test]
    fn a_message_arrives_with_its_descriptor_and_the_end_is_seen() {
        let (mut near, far) = Wire::pair().unwrap();
        let mut far = Wire::new(far);
        let request = Request::Socket(SocketOption::Mark(7));
        near.send(&request, Some(near.as_fd())).unwrap();
        let (arrived, descriptor) = far.receive::<Request>().unwrap().unwrap();
        assert_eq!((arrived, descriptor.is_some()), (request, true));
        far.send(&Answer::Done, None).unwrap();
        let (arrived, descriptor) = near.receive::<Answer>().unwrap().unwrap();
        assert_eq!((arrived, descriptor.is_none()), (Answer::Done, true));
        drop(far);
        assert!(near.receive::<Answer>().unwrap().is_none());
        assert_eq!(near.send(&Answer::Done, None).unwrap_err().raw_os_error(), Some(libc::EPIPE));
    }

    #[test]
    fn what_means_nothing_is_an_error() {
        let (near, far) = Wire::pair().unwrap();
        near.send(&"Format the disk", None).unwrap();
        assert!(Wire::new(far).receive::<Request>().is_err());
    }
}
