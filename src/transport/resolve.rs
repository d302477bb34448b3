//! Looking up names. It blocks, so it happens on a thread of its own that answers through the loop's waker; the only
//! place where a host or service name is looked up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use dns_lookup::{AddrInfoHints, SockType};
use mio::Waker;

use super::targets::interleave;
use crate::config::{Endpoint, Host, Protocol};

/// Addresses of one name that are used; a longer answer is cut.
const MAX_ADDRESSES: usize = 16;

/// What became of a look-up.
pub type Answer = Result<Vec<SocketAddr>, String>;

/// Looks up one endpoint, again and again. At most one look-up is under way.
pub struct Resolver {
    endpoint: Endpoint,
    waker: Arc<Waker>,
    thread: Option<Sender<()>>,
    answers: Receiver<Answer>,
    answer_to: Sender<Answer>,
    pending: bool,
}

impl Resolver {
    /// A resolver for this endpoint. The thread is started by the first look-up that needs it.
    pub fn new(endpoint: Endpoint, waker: Arc<Waker>) -> Self {
        let (answer_to, answers) = channel();
        Self { endpoint, waker, thread: None, answers, answer_to, pending: false }
    }

    /// The endpoint as it was given.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// True if the endpoint is a name, so that its addresses can change.
    pub fn is_name(&self) -> bool {
        matches!(self.endpoint.host, Host::Name(_))
    }

    /// True while a look-up is under way.
    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// Begins a look-up unless one is under way. A literal address answers at once, through the return value; for a
    /// name [`poll_answer`](Self::poll_answer) has the answer after the waker has fired.
    pub fn request(&mut self) -> Option<Answer> {
        let name = match &self.endpoint.host {
            Host::Address(address) => return Some(Ok(vec![SocketAddr::new(*address, self.endpoint.port)])),
            Host::Name(name) => name.clone(),
        };
        if self.pending {
            return None;
        }
        if self.thread.is_none() {
            match spawn(name, self.endpoint.port, self.answer_to.clone(), Arc::clone(&self.waker)) {
                Ok(requests) => self.thread = Some(requests),
                Err(error) => return Some(Err(format!("cannot start the resolver: {error}"))),
            }
        }
        self.pending = self.thread.as_ref().is_some_and(|requests| requests.send(()).is_ok());
        if self.pending {
            return None;
        }
        self.thread = None;
        Some(Err("the resolver's thread has ended".to_owned()))
    }

    /// The answer to the look-up under way, if it has come.
    #[must_use]
    pub fn poll_answer(&mut self) -> Option<Answer> {
        let answer = self.answers.try_recv().ok()?;
        self.pending = false;
        Some(answer)
    }
}

/// Starts a thread that looks the name up once for each request, and ends with its requester.
fn spawn(name: String, port: u16, answers: Sender<Answer>, waker: Arc<Waker>) -> io::Result<Sender<()>> {
    let (requests, inbox) = channel::<()>();
    thread::Builder::new().name("resolver".to_owned()).spawn(move || {
        while inbox.recv().is_ok() {
            if answers.send(look_up(&name, port)).is_err() || waker.wake().is_err() {
                return;
            }
        }
    })?;
    Ok(requests)
}

/// Looks a name up; it takes as long as the name servers do.
///
/// # Errors
/// The name is not known, has no address, or no name server answers, as a sentence.
#[expect(clippy::disallowed_methods, reason = "this is the place where names are looked up")]
pub fn look_up(name: &str, port: u16) -> Answer {
    let hints = AddrInfoHints { socktype: SockType::DGram.into(), ..AddrInfoHints::default() };
    let found = dns_lookup::getaddrinfo(Some(name), None, Some(hints)).map_err(|error| {
        let error: io::Error = error.into();
        error.to_string()
    })?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for info in found.flatten().take(MAX_ADDRESSES) {
        let mut address = info.sockaddr;
        address.set_port(port);
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err("the name has no address".to_owned()) } else { Ok(interleave(&addresses)) }
}

/// The port of a service name in the local database (services(5)).
#[expect(clippy::disallowed_methods, reason = "this is the place where names are looked up")]
pub fn service_port(name: &str, protocol: Protocol) -> Option<u16> {
    let socktype = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::DGram,
    };
    let hints = AddrInfoHints { socktype: socktype.into(), ..AddrInfoHints::default() };
    let found = dns_lookup::getaddrinfo(None, Some(name), Some(hints)).ok()?;
    found.flatten().map(|info| info.sockaddr.port()).find(|port| *port != 0)
}
