//! The loop: waits for readiness, signals and deadlines, and lets the relay run. The only file that reads the clock.
//!
//! mio is edge-triggered: a ready flag, kept by whoever owns the descriptor, is cleared only by a call that would
//! block. While a pump is runnable the loop does not sleep; otherwise it sleeps until the earliest deadline that
//! the relay, the watch on the network, the service manager's watchdog and a hook set, and for ever if there is none. There
//! is no periodic tick.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use log::info;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_mio::v1_0::Signals;

use crate::config::ControlConfig;
use crate::control::Control;
use crate::device::Device;
use crate::device::netwatch::NetWatch;
use crate::hooks::Hooks;
use crate::relay::Relay;
use crate::relay::report::Moment;
use crate::supervisor::Supervisor;
use crate::transport::admission::Surroundings;
use crate::transport::{Context, Mode, RESOLVER_TOKEN};

const DEVICE_TOKEN: Token = Token(0);
const SIGNAL_TOKEN: Token = Token(1);
/// Token 2 is the resolver's.
const NETWORK_TOKEN: Token = Token(3);
const HOOK_TOKEN: Token = Token(4);
const HELPER_TOKEN: Token = Token(5);

/// Events taken in one turn; more wait for the next.
const EVENT_CAPACITY: usize = 64;

/// Exit status when a second request to end arrives before the first is done.
const IMPATIENT_EXIT: i32 = 1;

/// Why the loop has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// TERM or INT.
    Terminated,
    /// HUP: read the file again and apply what has changed.
    ReloadRequested,
    /// Something has changed about the device, and [`EventLoop::look_again`] may be told when to look again.
    DeviceChanged,
    /// What the link carries has changed.
    PathMtuChanged,
    /// The helper process is gone.
    HelperEnded,
    /// The peer has gone and the daemon was asked to exit then.
    PeerLeft,
}

/// Whether to go on when the peer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenPeerLeaves {
    /// Wait or reconnect.
    GoOn,
    /// Return [`Outcome::PeerLeft`].
    Return,
}

/// The poll, the signals, and the buffers for their events.
pub struct EventLoop {
    poll: Poll,
    events: Events,
    signals: Signals,
    network: NetWatch,
    supervisor: Supervisor,
    hooks: Hooks,
    /// The end was asked for by a signal.
    ending: Arc<AtomicBool>,
    waker: Arc<Waker>,
    control: Control,
    /// The same moment on two clocks: an `Instant` by itself does not go on while the machine sleeps.
    started_at: Instant,
    boot_time: Duration,
}

#[expect(clippy::disallowed_methods, reason = "the loop is the one place that reads the clock")]
fn started_at() -> Instant {
    Instant::now()
}

/// Time since the machine was started. A kernel without this clock would be older than any that has what is needed here.
fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

impl EventLoop {
    /// Takes over the signals and watches the device. The device has to be attached already.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn new(device: &Device) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry();
        registry.register(&mut SourceFd(&device.as_raw_fd()), DEVICE_TOKEN, Interest::READABLE)?;
        let ending = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal sets the flag, a second one finds it set and ends the process at once.
            signal_hook::flag::register_conditional_shutdown(signal, IMPATIENT_EXIT, Arc::clone(&ending))?;
            signal_hook::flag::register(signal, Arc::clone(&ending))?;
        }
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2])?;
        registry.register(&mut signals, SIGNAL_TOKEN, Interest::READABLE)?;
        let network = NetWatch::registered(device.index().unwrap_or_default(), registry, NETWORK_TOKEN);
        let waker = Arc::new(Waker::new(registry, RESOLVER_TOKEN)?);
        let events = Events::with_capacity(EVENT_CAPACITY);
        let (started_at, boot_time) = (started_at(), boot_time());
        let (supervisor, control) = (Supervisor::from_environment(started_at), Control::default());
        let hooks = Hooks::default();
        Ok(Self { poll, events, signals, network, supervisor, hooks, ending, waker, control, started_at, boot_time })
    }

    /// Opens the sockets by which the tunnel can be watched, and serves them from then on. They close with the loop.
    ///
    /// # Errors
    /// One that was asked for in so many words cannot be opened.
    pub fn open_control(&mut self, config: &ControlConfig, device: &str) -> anyhow::Result<()> {
        let began = Moment { now: self.now(), wall: self.wall() };
        self.control = Control::open(config, device, self.poll.registry(), began)?;
        Ok(())
    }

    /// What a transport needs to be opened in this loop.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn context(&self, surroundings: Surroundings, mode: Mode, hint: Option<SocketAddr>) -> io::Result<Context> {
        let (registry, waker) = (self.poll.registry().try_clone()?, Arc::clone(&self.waker));
        Ok(Context { registry, waker, surroundings, mode, hint })
    }

    /// The time. It goes on while the machine sleeps (`CLOCK_BOOTTIME`, clock_gettime(2)): a peer that was not heard all
    /// the while has to be doubted.
    pub fn now(&self) -> Instant {
        self.started_at + boot_time().saturating_sub(self.boot_time)
    }

    /// The wall clock: the time since 1970.
    #[expect(clippy::disallowed_methods, reason = "the loop is the one place that reads the clock")]
    pub fn wall(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    /// The line to the service manager. While the loop runs it is told by itself how the link is, and that the loop turns.
    pub fn supervisor_mut(&mut self) -> &mut Supervisor {
        &mut self.supervisor
    }

    /// The hooks. While the loop runs they follow the link by themselves.
    pub fn hooks_mut(&mut self) -> &mut Hooks {
        &mut self.hooks
    }

    /// Runs the hook `up` to its end; a signal that asks for the end ends it, too.
    ///
    /// # Errors
    /// It has failed.
    pub fn begin_hooks(&mut self, device: &Device) -> Result<(), String> {
        let now = self.now();
        self.hooks.begin(device, &self.ending, now)
    }

    /// True once a signal has asked for the end.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Watches the way to the helper process, for its end.
    ///
    /// # Errors
    /// Out of memory.
    pub fn watch(&self, helper: RawFd) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&helper), HELPER_TOKEN, Interest::READABLE)
    }

    /// Has the device looked at again at this time, if there is one.
    pub fn look_again(&mut self, at: Option<Instant>) {
        self.network.look_again(at);
    }

    /// Runs until there is a reason to return.
    ///
    /// # Errors
    /// The device has ended, or polling itself fails.
    pub fn run(&mut self, relay: &mut Relay, when_peer_leaves: WhenPeerLeaves) -> io::Result<Outcome> {
        loop {
            let now = self.now();
            let changes = self.network.poll(now);
            relay.network_changed(changes, now);
            if changes.own {
                return Ok(Outcome::DeviceChanged);
            }
            relay.handle_timeout(now);
            relay.run(now)?;
            self.supervisor.follow(relay.standing(), now);
            self.serve_control(relay, now);
            let standing = relay.standing();
            self.hooks.follow(standing, relay.device_mut(), (self.poll.registry(), HOOK_TOKEN), now);
            if when_peer_leaves == WhenPeerLeaves::Return && relay.has_lost_peer() {
                return Ok(Outcome::PeerLeft);
            }
            if relay.take_path_change() {
                return Ok(Outcome::PathMtuChanged);
            }
            let sleep = if relay.is_runnable() || self.control.is_runnable() {
                Some(Duration::ZERO)
            } else {
                let (network, supervisor) = (self.network.poll_timeout(), self.supervisor.poll_timeout());
                let others = [network, supervisor, self.control.poll_timeout(), self.hooks.poll_timeout()];
                let deadline = others.into_iter().chain([relay.poll_timeout()]).flatten().min();
                deadline.map(|deadline| deadline.saturating_duration_since(now))
            };
            match self.poll.poll(&mut self.events, sleep) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if let Some(outcome) = self.dispatch(relay) {
                return Ok(outcome);
            }
        }
    }

    fn serve_control(&mut self, relay: &mut Relay, now: Instant) {
        if self.control.is_due(relay, now) {
            let moment = Moment { now, wall: self.wall() };
            self.control.run(relay, self.poll.registry(), moment);
        }
    }

    fn dispatch(&mut self, relay: &mut Relay) -> Option<Outcome> {
        if self.events.is_empty() {
            return None;
        }
        let now = self.now();
        let mut signalled = false;
        for event in &self.events {
            match event.token() {
                DEVICE_TOKEN => relay.device_mut().set_readable(),
                SIGNAL_TOKEN => signalled = true,
                NETWORK_TOKEN => self.network.set_readable(),
                token if Control::owns(token) => self.control.handle_event(event),
                HOOK_TOKEN => self.hooks.set_readable(),
                // Its answers wake the loop, too, when they have been read already.
                HELPER_TOKEN if event.is_read_closed() => return Some(Outcome::HelperEnded),
                HELPER_TOKEN => {}
                _ => relay.transport_mut().handle_event(event, now),
            }
        }
        if signalled { self.handle_signals(relay, now) } else { None }
    }

    fn handle_signals(&mut self, relay: &mut Relay, now: Instant) -> Option<Outcome> {
        let mut outcome = None;
        for signal in self.signals.pending() {
            match signal {
                SIGTERM | SIGINT => return Some(Outcome::Terminated),
                SIGHUP => outcome = Some(Outcome::ReloadRequested),
                SIGUSR1 => {
                    info!("reconnecting as asked by a signal");
                    relay.transport_mut().reconnect(now);
                }
                SIGUSR2 => info!("statistics {}", relay.statistics(now)),
                _ => {}
            }
        }
        outcome
    }
}
