//! Tells the service manager that has started this process how it is doing: sd_notify(3).
//!
//! It knows the words of that protocol and the socket they go to; what there is to tell it is handed, and the time with
//! it. The socket is opened once, so that nothing has to be opened after privileges are given up, and never blocks: a
//! service manager that is busy is told a little later.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use log::debug;
use sd_notify::NotifyState;

use crate::relay::Standing;

/// Messages that wait while the service manager takes none; the oldest are what it waits for.
const MAX_OWED: usize = 8;

/// When a message that was not taken is sent again.
const RETRY: Duration = Duration::from_millis(100);

/// How a reload has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The configuration that was read is in force.
    Applied,
    /// It has a mistake: the one before is in force still.
    Refused,
}

/// The line to the service manager; without one (`NOTIFY_SOCKET` is not set) nothing is told to nobody.
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<Socket>,
    watchdog: Option<Watchdog>,
    /// `None` before the start is complete.
    told: Option<Standing>,
    last_reload: Option<Reload>,
    owed: VecDeque<String>,
    retry_at: Option<Instant>,
}

/// A service manager that restarts the service unless it hears from it.
#[derive(Debug)]
struct Watchdog {
    period: Duration,
    due: Instant,
}

impl Supervisor {
    /// The service manager that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`), if there is
    /// one.
    pub fn from_environment(now: Instant) -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        match Socket::open(&name) {
            Ok(socket) => Self { socket: Some(socket), ..Self::with_watchdog(sd_notify::watchdog_enabled(), now) },
            Err(error) => {
                debug!("the service manager cannot be told anything: {error}");
                Self::default()
            }
        }
    }

    fn with_watchdog(limit: Option<Duration>, now: Instant) -> Self {
        let period = limit.map(|limit| limit / 2).filter(|period| !period.is_zero());
        Self { watchdog: period.map(|period| Watchdog { period, due: now }), ..Self::default() }
    }

    /// The start is complete: the device is there, and so is what the peer will speak to.
    pub fn ready(&mut self, standing: Standing, now: Instant) {
        self.told = Some(standing);
        let text = self.text(standing);
        self.tell(&[NotifyState::Ready, NotifyState::Status(&text)], now);
    }

    /// A reload begins.
    pub fn reloading(&mut self, now: Instant) {
        // Service managers since version 253 tell by the time which request is being answered; earlier ones pass over it.
        match NotifyState::monotonic_usec_now() {
            Ok(time) => self.tell(&[NotifyState::Reloading, time], now),
            Err(error) => debug!("the service manager is not told of the reload: {error}"),
        }
    }

    /// A reload has ended.
    pub fn reloaded(&mut self, reload: Reload, standing: Standing, now: Instant) {
        self.last_reload = Some(reload);
        let text = self.text(standing);
        self.told = Some(standing);
        self.tell(&[NotifyState::Ready, NotifyState::Status(&text)], now);
    }

    /// The end begins.
    pub fn stopping(&mut self, now: Instant) {
        self.tell(&[NotifyState::Stopping], now);
    }

    /// Tells how the link is, if that has changed since it was told, and that the loop turns, if that is due.
    pub fn follow(&mut self, standing: Standing, now: Instant) {
        if self.socket.is_none() {
            return;
        }
        if self.told.is_some_and(|told| told != standing) {
            let text = self.text(standing);
            self.told = Some(standing);
            self.tell(&[NotifyState::Status(&text)], now);
        }
        if let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.due <= now) {
            watchdog.due = now + watchdog.period;
            self.tell(&[NotifyState::Watchdog], now);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.send_owed(now);
        }
    }

    /// When [`follow`](Self::follow) has something to do though nothing has changed.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.watchdog.as_ref().map(|watchdog| watchdog.due), self.retry_at].into_iter().flatten().min()
    }

    fn text(&self, standing: Standing) -> String {
        match self.last_reload {
            Some(Reload::Refused) => format!("{standing}; the configuration that was read last is refused"),
            Some(Reload::Applied) | None => standing.to_string(),
        }
    }

    fn tell(&mut self, states: &[NotifyState], now: Instant) {
        if self.socket.is_none() {
            return;
        }
        let mut message = String::new();
        for state in states {
            // Writing to a string cannot fail.
            let _ = writeln!(message, "{state}");
        }
        if self.owed.len() < MAX_OWED {
            self.owed.push_back(message);
        }
        self.send_owed(now);
    }

    fn send_owed(&mut self, now: Instant) {
        let Some(socket) = &mut self.socket else { return };
        self.retry_at = None;
        while let Some(message) = self.owed.front() {
            match socket.send(message) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.retry_at = Some(now + RETRY);
                    return;
                }
                Err(error) => debug!("the service manager cannot be told anything: {error}"),
            }
            self.owed.pop_front();
        }
    }
}

/// A connected socket that does not block.
#[derive(Debug)]
struct Socket {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Socket {
    /// `name` is a path, or `@` and a name without a file.
    fn open(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        Ok(Self { socket, address })
    }

    fn send(&mut self, message: &str) -> io::Result<()> {
        let result = self.socket.send(message.as_bytes());
        // The service manager has another socket by that name than at the start.
        let has_moved = result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if has_moved {
            self.socket.connect_addr(&self.address)?;
            return self.socket.send(message.as_bytes()).map(|_| ());
        }
        result.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link_state::State;

    const SECOND: Duration = Duration::from_secs(1);

    /// A service manager and the line to it.
    fn pair(watchdog: Option<Duration>) -> (UnixDatagram, Supervisor, Instant) {
        let now = start();
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        manager.set_nonblocking(true).expect("the socket is ours");
        let socket = Socket::open(path.as_os_str()).expect("the socket is there");
        (manager, Supervisor { socket: Some(socket), ..Supervisor::with_watchdog(watchdog, now) }, now)
    }

    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    fn standing(state: State) -> Standing {
        Standing { state, peer: None, held: None }
    }

    fn heard(manager: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 256];
        let len = manager.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
    }

    #[test]
    fn a_change_of_the_link_is_told_once() {
        let (manager, mut supervisor, now) = pair(None);
        supervisor.follow(standing(State::Connecting), now);
        assert_eq!(heard(&manager), None, "before the start is complete");
        supervisor.ready(standing(State::Connecting), now);
        assert_eq!(heard(&manager).as_deref(), Some("READY=1\nSTATUS=connecting\n"));
        for _ in 0..3 {
            supervisor.follow(standing(State::Up), now);
        }
        assert_eq!(heard(&manager).as_deref(), Some("STATUS=up\n"));
        assert_eq!((heard(&manager), supervisor.poll_timeout()), (None, None));
    }

    #[test]
    fn the_watchdog_is_fed_at_half_of_its_limit_by_a_loop_that_turns() {
        let (manager, mut supervisor, now) = pair(Some(10 * SECOND));
        supervisor.follow(standing(State::Up), now);
        assert_eq!(heard(&manager).as_deref(), Some("WATCHDOG=1\n"));
        supervisor.follow(standing(State::Up), now + 4 * SECOND);
        assert_eq!((heard(&manager), supervisor.poll_timeout()), (None, Some(now + 5 * SECOND)));
        supervisor.follow(standing(State::Up), now + 7 * SECOND);
        assert_eq!(heard(&manager).as_deref(), Some("WATCHDOG=1\n"));
        assert_eq!(supervisor.poll_timeout(), Some(now + 12 * SECOND));
    }

    #[test]
    fn a_reload_is_told_with_its_time_and_how_it_has_ended() {
        let (manager, mut supervisor, now) = pair(None);
        supervisor.reloading(now);
        let message = heard(&manager).expect("a message");
        assert!(message.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{message}");
        supervisor.reloaded(Reload::Refused, standing(State::Up), now);
        let refused = "READY=1\nSTATUS=up; the configuration that was read last is refused\n";
        assert_eq!(heard(&manager).as_deref(), Some(refused));
        supervisor.reloaded(Reload::Applied, standing(State::Up), now);
        assert_eq!(heard(&manager).as_deref(), Some("READY=1\nSTATUS=up\n"));
    }

    #[test]
    fn a_service_manager_that_is_busy_is_told_later_and_in_order() {
        let (manager, mut supervisor, now) = pair(None);
        let mut sent = 0;
        while supervisor.owed.is_empty() {
            supervisor.stopping(now);
            sent += 1;
            assert!(sent < 10_000, "a socket without a limit");
        }
        supervisor.ready(standing(State::Waiting), now);
        for _ in 0..20 {
            supervisor.stopping(now);
        }
        assert_eq!((supervisor.owed.len(), supervisor.poll_timeout()), (MAX_OWED, Some(now + RETRY)));
        for _ in 1..sent {
            assert_eq!(heard(&manager).as_deref(), Some("STOPPING=1\n"));
        }
        assert_eq!(heard(&manager), None);
        supervisor.follow(standing(State::Waiting), now + RETRY);
        assert_eq!(heard(&manager).as_deref(), Some("STOPPING=1\n"));
        assert_eq!(heard(&manager).as_deref(), Some("READY=1\nSTATUS=waiting\n"));
    }

    #[test]
    fn a_socket_may_have_a_name_without_a_file() {
        let name = format!("simpletun-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("a socket");
        let mut socket = Socket::open(OsStr::new(&format!("@{name}"))).expect("the socket is there");
        socket.send("READY=1").expect("there is room");
        assert_eq!(heard(&manager).as_deref(), Some("READY=1"));
    }

    #[test]
    fn a_service_manager_that_has_begun_anew_is_found_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let earlier = UnixDatagram::bind(&path).expect("a socket");
        let mut socket = Socket::open(path.as_os_str()).expect("the socket is there");
        drop(earlier);
        std::fs::remove_file(&path).expect("the file is there");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        socket.send("WATCHDOG=1").expect("there is room");
        assert_eq!(heard(&manager).as_deref(), Some("WATCHDOG=1"));
    }
}
