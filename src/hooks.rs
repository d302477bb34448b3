//! Programs of the administrator that run when the tunnel begins and ends (`up`, `down`) and when its link does (`link-up`,
//! `link-down`).
//!
//! It decides which one runs when, and what it is told; how one runs is in [`runner`]. A hook is an argument vector, never
//! a shell's line, and gets an environment of its own. One hook of the link runs at a time, beside the loop; while it does
//! only the newest state waits, so that a link that comes and goes makes no queue and the last state is always told. It
//! knows the states of the link and no transport, and is handed the time.

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use log::{debug, warn};
use mio::{Registry, Token};
use serde::{Deserialize, Serialize};

use crate::config::{Config, HooksConfig, InterfaceAddress};
use crate::device::Device;
use crate::link_state::State;
use crate::relay::Standing;

pub mod runner;

use runner::{HookCall, HookEnd, Running};

/// What a hook may call without a path.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables that a hook is told something by, beside `PATH`.
pub const VARIABLES: [&str; 9] = [
    "INTERFACE",
    "dev",
    "tun_mtu",
    "ifconfig_local",
    "ifconfig_remote",
    "trusted_ip",
    "trusted_port",
    "script_type",
    "REASON",
];

/// Which hook it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The device is configured; nothing is carried yet.
    Up,
    /// The device is about to go, or to be left as it was.
    Down,
    /// The peer is there.
    LinkUp,
    /// The peer is gone.
    LinkDown,
}

impl Kind {
    /// Its name, as in the variable `script_type`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::LinkUp => "link-up",
            Self::LinkDown => "link-down",
        }
    }
}

/// The hooks of one daemon; see the module's text.
#[derive(Debug, Default)]
pub struct Hooks {
    config: HooksConfig,
    /// The first address that is configured on the device.
    address: Option<InterfaceAddress>,
    /// The name of the device when it was seen last.
    device: String,
    /// `up` has succeeded, so that `down` is due at the end.
    begun: bool,
    /// What was seen of the link last, and told last.
    is_up: bool,
    told_up: bool,
    peer: Option<std::net::SocketAddr>,
    running: Option<Running>,
    /// The running one may have ended.
    looks_ended: bool,
    waiting: Option<HookCall>,
}

impl Hooks {
    /// Takes the settings, at the start and when they have changed.
    pub fn configure(&mut self, config: &Config) {
        self.config = config.hooks.clone();
        self.address = config.network.addresses.first().copied();
    }

    /// Runs `up` to its end, or until `ending` is set by a signal.
    ///
    /// # Errors
    /// It has failed; the tunnel is not to start.
    pub fn begin(&mut self, device: &Device, ending: &AtomicBool, now: Instant) -> Result<(), String> {
        if let Some(call) = self.call(Kind::Up, "start", Some(device)) {
            let name = named(&call);
            match run(call, Some(ending), now) {
                HookEnd::Succeeded => {}
                HookEnd::Failed(why) => return Err(format!("{name} {why}: the tunnel is not started")),
            }
        }
        self.begun = true;
        Ok(())
    }

    /// Brings everything to its end: what runs still, `link-down` if `link-up` was told, and `down`. The device may be gone.
    pub fn finish(&mut self, device: Option<&Device>, now: Instant) {
        self.waiting = None;
        if let Some(running) = self.running.take() {
            let name = named(running.call());
            tell(&name, &running.wait(None));
        }
        let (was_told_up, was_begun) = (std::mem::take(&mut self.told_up), std::mem::take(&mut self.begun));
        let link_down = was_told_up.then(|| self.call(Kind::LinkDown, "stop", device)).flatten();
        let down = was_begun.then(|| self.call(Kind::Down, "stop", device)).flatten();
        for call in link_down.into_iter().chain(down) {
            let name = named(&call);
            tell(&name, &run(call, None, now));
        }
    }

    /// The descriptor of the running hook is readable.
    pub fn set_readable(&mut self) {
        self.looks_ended = true;
    }

    /// Follows the link: begins the hook that its state asks for, and looks after the one that runs.
    pub fn follow(&mut self, standing: Standing, device: &Device, (registry, token): (&Registry, Token), now: Instant) {
        if self.running.is_some() {
            self.look_after(registry, now);
        }
        let is_up = match standing.state {
            State::Up => true,
            // A connection that comes back in time has not been away.
            State::Interrupted => self.is_up,
            State::Unknown | State::Waiting | State::Connecting | State::Down(_) => false,
        };
        self.peer = standing.peer.filter(|_| is_up).or(self.peer);
        if is_up != self.is_up {
            self.is_up = is_up;
            let (kind, reason) = match standing.state {
                State::Down(reason) => (Kind::LinkDown, reason),
                _ if is_up => (Kind::LinkUp, "up"),
                _ => (Kind::LinkDown, "unknown"),
            };
            self.waiting = self.call(kind, reason, Some(device));
            // Who was told the one need not be told the other and the one again.
            self.waiting.take_if(|_| is_up == self.told_up && self.running.is_some());
            if self.waiting.is_none() && self.running.is_none() {
                self.told_up = is_up;
            }
        }
        if self.running.is_none()
            && let Some(call) = self.waiting.take()
        {
            self.told_up = call.kind == Kind::LinkUp;
            self.start(call, (registry, token), now);
        }
    }

    /// When the running hook is to end at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.running.as_ref().map(Running::deadline)
    }

    fn look_after(&mut self, registry: &Registry, now: Instant) {
        let Some(running) = &mut self.running else { return };
        running.handle_timeout(now);
        if std::mem::take(&mut self.looks_ended)
            && let Some(end) = running.poll_end()
        {
            let name = named(running.call());
            running.deregister(registry);
            self.running = None;
            tell(&name, &end);
        }
    }

    fn start(&mut self, call: HookCall, (registry, token): (&Registry, Token), now: Instant) {
        let name = named(&call);
        let started = Running::start(call, now).and_then(|running| match running.register(registry, token) {
            Ok(()) => Ok(running),
            Err(error) => {
                running.abandon();
                Err(error)
            }
        });
        match started {
            Ok(running) => self.running = Some(running),
            Err(error) => tell(&name, &HookEnd::cannot_start(&error)),
        }
    }

    fn call(&mut self, kind: Kind, reason: &str, device: Option<&Device>) -> Option<HookCall> {
        let argv = match kind {
            Kind::Up => &self.config.up,
            Kind::Down => &self.config.down,
            Kind::LinkUp => &self.config.link_up,
            Kind::LinkDown => &self.config.link_down,
        };
        let argv = argv.clone()?;
        if let Some(device) = device {
            self.device = device.current_name();
        }
        let name = self.device.clone();
        let mtu = device.and_then(|device| device.mtu().ok());
        let remote = self.address.and_then(|address| address.peer);
        let variables = [
            ("PATH", Some(PATH.to_owned())),
            ("INTERFACE", Some(name.clone())),
            ("dev", Some(name)),
            ("tun_mtu", mtu.map(|mtu| mtu.to_string())),
            ("ifconfig_local", self.address.map(|address| address.local.to_string())),
            ("ifconfig_remote", remote.map(|remote| remote.to_string())),
            ("trusted_ip", self.peer.map(|peer| peer.ip().to_canonical().to_string())),
            ("trusted_port", self.peer.map(|peer| peer.port().to_string())),
            ("script_type", Some(kind.word().to_owned())),
            ("REASON", Some(reason.to_owned())),
        ];
        let environment = variables.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Some(HookCall { kind, argv, environment, timeout: self.config.timeout })
    }
}

/// Runs a hook to its end.
fn run(call: HookCall, ending: Option<&AtomicBool>, now: Instant) -> HookEnd {
    match Running::start(call, now) {
        Ok(running) => running.wait(ending),
        Err(error) => HookEnd::cannot_start(&error),
    }
}

fn named(call: &HookCall) -> String {
    format!("The hook {} ({})", call.kind.word(), call.argv.first().map_or("", String::as_str))
}

/// A failure of one of these changes nothing about the tunnel.
fn tell(name: &str, end: &HookEnd) {
    match end {
        HookEnd::Succeeded => debug!("{name} has ended"),
        HookEnd::Failed(why) => warn!("{name} {why}"),
    }
}

impl HookEnd {
    fn cannot_start(error: &io::Error) -> Self {
        Self::Failed(format!("cannot be started: {error}"))
    }
}
