//! The control socket and the metrics server: who watches is answered by the same loop that moves the packets.
//!
//! `door` opens the sockets and says who may come in, `client` is one connection, `request` and `http` read what is asked
//! for, [`status`], [`metrics`], [`capture`] and [`testing`] are what is told. Nothing here waits, and everything is bounded: connections, bytes and
//! time of each, and what is done in one turn. Clients that are slow, silent or wrong cost nothing but their own
//! connection. The protocol is described in `docs/STATUS.md`.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use mio::event::Event;
use mio::{Interest, Registry, Token};

use crate::config::{ControlChoice, ControlConfig};
use crate::fault::FaultLog;
use crate::relay::Relay;
use crate::relay::report::{Moment, seconds};
use crate::tunnel::meter::Plan;

pub mod capture;
mod client;
mod door;
mod http;
pub mod metrics;
mod request;
pub mod status;
pub mod testing;

use capture::Preamble;
use client::{Client, Progress};
use door::Door;
pub use door::{DIRECTORY, GROUP, path_of, remove_dead_socket, remove_socket, socket_of};
use request::Request;
use status::{SCHEMA, Status};

/// Tokens from here on are ours; those of a transport begin far below and count its connections.
const FIRST_TOKEN: usize = 1 << (usize::BITS - 2);

/// The tokens of clients follow those of doors.
const FIRST_CLIENT: usize = FIRST_TOKEN + 16;

/// Connections at the same time. One more takes the place of the oldest that has not been answered yet.
const MAX_CLIENTS: usize = 32;

/// Connections that watch, which stay.
const MAX_WATCHERS: usize = 8;

/// Connections accepted at each door, and connections served, in one turn.
const ACCEPT_BUDGET: usize = 4;
const SERVE_BUDGET: usize = 8;

/// Wait before accepting again when descriptors or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// An answer serves all who ask within this time, so that questions cost no more than twenty answers a second.
const FRESH_FOR: Duration = Duration::from_millis(50);

/// Time between two answers to who watches.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The sockets and the connections; without any, it does nothing.
#[derive(Default)]
pub struct Control {
    doors: Vec<Door>,
    clients: Vec<Option<Client>>,
    /// Something was left for the next turn.
    again: bool,
    /// Whose turn it is.
    next: usize,
    accepted: u64,
    instance: String,
    began: Option<Moment>,
    answer: Option<Answer>,
    faults: FaultLog,
}

/// What was told last, in the forms that were asked for.
struct Answer {
    at: Instant,
    status: Status,
    json: Option<Rc<[u8]>>,
    metrics: Option<Rc<[u8]>>,
}

impl Control {
    /// Opens what the configuration asks for; `device` names an instance that has no name of its own. The sockets are
    /// registered and need no privilege from then on.
    ///
    /// # Errors
    /// A socket that was asked for in so many words cannot be opened. Without the usual one there is a warning.
    pub fn open(config: &ControlConfig, device: &str, registry: &Registry, began: Moment) -> anyhow::Result<Self> {
        let instance = config.instance.clone().unwrap_or_else(|| device.to_owned());
        let mut doors = Vec::new();
        match &config.socket {
            ControlChoice::Off => {}
            ControlChoice::Path(path) => doors.push(Door::unix(path)?),
            ControlChoice::Usual => match door::usual(&instance) {
                Ok(door) => doors.push(door),
                Err(error) => warn!(
                    "No control socket, so simpletun status does not show this tunnel: {error:#}; --control PATH puts it \
                     elsewhere, --control off does without"
                ),
            },
        }
        if let Some(address) = config.metrics {
            doors.push(Door::http(address)?);
            info!("metrics at http://{address}/metrics");
        }
        for (index, door) in doors.iter_mut().enumerate() {
            door.register(registry, Token(FIRST_TOKEN + index))?;
        }
        Ok(Self { doors, instance, began: Some(began), ..Self::default() })
    }

    /// True if this token is one of ours.
    pub fn owns(token: Token) -> bool {
        token.0 >= FIRST_TOKEN
    }

    /// Takes readiness.
    pub fn handle_event(&mut self, event: &Event) {
        self.again = true;
        let token = event.token().0;
        if let Some(index) = token.checked_sub(FIRST_CLIENT) {
            if let Some(client) = self.clients.get_mut(index).and_then(Option::as_mut) {
                client.handle_event(event);
            }
        } else if let Some(door) = self.doors.get_mut(token - FIRST_TOKEN) {
            door.set_ready();
        }
    }

    /// True if [`run`](Self::run) has something to do now.
    pub fn is_runnable(&self) -> bool {
        self.again
    }

    /// When [`run`](Self::run) is to be called next, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let clients = self.clients.iter().flatten().filter_map(Client::deadline);
        clients.chain(self.doors.iter().filter_map(Door::opens_at)).min()
    }

    /// True if [`run`](Self::run) has something to do at this time.
    pub fn is_due(&self, relay: &Relay, now: Instant) -> bool {
        let is_late = self.poll_timeout().is_some_and(|at| at <= now);
        self.again || is_late || self.clients.iter().flatten().any(|client| has_more(client, relay))
    }

    /// One turn: newcomers are let in, and some clients get what they can take now.
    pub fn run(&mut self, relay: &mut Relay, registry: &Registry, moment: Moment) {
        self.again = false;
        for index in 0..self.doors.len() {
            self.let_in(index, registry, moment.now);
        }
        let mut served = 0;
        for _ in 0..self.clients.len() {
            self.next = (self.next + 1) % self.clients.len();
            let is_due = |client: &Client| client.is_due(moment.now) || has_more(client, relay);
            if self.clients[self.next].as_ref().is_some_and(is_due) {
                if served == SERVE_BUDGET {
                    self.again = true;
                    break;
                }
                served += 1;
                self.serve(self.next, relay, moment);
            }
        }
    }

    /// The sockets in the file system.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.doors.iter().filter_map(Door::path)
    }

    fn let_in(&mut self, index: usize, registry: &Registry, now: Instant) {
        for _ in 0..ACCEPT_BUDGET {
            let Some(door) = self.doors.get_mut(index) else { return };
            if !door.may_accept(now) {
                return;
            }
            match door.accept() {
                Ok((stream, admission)) => {
                    let client = Client::new(stream, door.form(), admission, self.accepted, now);
                    self.accepted += 1;
                    self.admit(client, registry);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return door.set_idle(),
                // It has gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    door.pause_until(now + ACCEPT_PAUSE);
                    self.faults.note(now, "control", format_args!("Cannot accept a connection for status: {error}"));
                    return;
                }
            }
        }
        self.again = true;
    }

    /// Finds a place for a newcomer: a free one, or that of the oldest connection that has not been answered.
    fn admit(&mut self, mut client: Client, registry: &Registry) {
        let free = self.clients.iter().position(Option::is_none);
        let place = free.or_else(|| {
            if self.clients.len() < MAX_CLIENTS {
                self.clients.push(None);
                return Some(self.clients.len() - 1);
            }
            let waiting = self.clients.iter().enumerate();
            let waiting = waiting.filter_map(|(place, client)| Some((place, client.as_ref()?)));
            let oldest = waiting
                .filter(|(_, client)| !client.watches() && !client.streams())
                .min_by_key(|(_, client)| client.number());
            oldest.map(|(place, _)| place)
        });
        // Those who stay are fewer than places, so there is one.
        let Some(place) = place else { return };
        if client.register(registry, Token(FIRST_CLIENT + place), Interest::READABLE | Interest::WRITABLE).is_ok() {
            self.clients[place] = Some(client);
            self.again = true;
        }
    }

    fn serve(&mut self, place: usize, relay: &mut Relay, moment: Moment) {
        let Some(mut client) = self.clients.get_mut(place).and_then(Option::take) else { return };
        let watchers = self.clients.iter().flatten().filter(|client| client.watches()).count();
        let number = client.number();
        let progress = client.advance(moment.now, &mut |request| match request {
            Request::Version => Ok(request::version(SCHEMA).into_bytes().into()),
            Request::Status => Ok(self.json(relay, moment)),
            Request::OpenMetrics => Ok(self.openmetrics(relay, moment)),
            Request::Watch if watchers >= MAX_WATCHERS => Err("Too many connections watch already"),
            Request::Watch => Ok(self.json(relay, moment)),
            Request::Dump { snap } => capture(relay, number, snap, moment),
            Request::Test { ms, kbit } => {
                let plan = Plan { time: Duration::from_millis(ms.into()), kbit };
                relay.start_test(number, plan, moment.now).map(|()| Rc::from([]))
            }
            Request::More => relay.take_news(number).map(Rc::from).ok_or("It has ended"),
        });
        match progress {
            Progress::Done => {
                relay.forget_watcher(number, moment.now);
                debug!("status connection {number} has ended");
            }
            Progress::Waits => self.clients[place] = Some(client),
            Progress::HasMore => {
                self.clients[place] = Some(client);
                self.again = true;
            }
        }
    }

    fn json(&mut self, relay: &mut Relay, moment: Moment) -> Rc<[u8]> {
        let answer = self.answer(relay, moment);
        let Answer { status, json, .. } = answer;
        let text = json.get_or_insert_with(|| {
            // Maps have keys of text and numbers are finite, so that nothing can fail.
            let mut text = serde_json::to_vec(status).unwrap_or_default();
            text.push(b'\n');
            text.into()
        });
        Rc::clone(text)
    }

    fn openmetrics(&mut self, relay: &mut Relay, moment: Moment) -> Rc<[u8]> {
        let Answer { status, metrics, .. } = self.answer(relay, moment);
        let text = metrics.get_or_insert_with(|| metrics::text(std::slice::from_ref(status)).into_bytes().into());
        Rc::clone(text)
    }

    fn answer(&mut self, relay: &mut Relay, moment: Moment) -> &mut Answer {
        let is_fresh = |answer: &mut Answer| moment.now.saturating_duration_since(answer.at) < FRESH_FOR;
        let fresh = self.answer.take_if(is_fresh);
        let began = self.began.unwrap_or(moment);
        let new = || Answer {
            at: moment.now,
            status: Status {
                schema: SCHEMA,
                instance: self.instance.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started: began.date(began.now),
                uptime_seconds: seconds(moment.now.saturating_duration_since(began.now)),
                report: relay.report(moment),
            },
            json: None,
            metrics: None,
        };
        let answer = fresh.unwrap_or_else(new);
        self.answer.insert(answer)
    }
}

/// True if an answer that goes on can go on.
fn has_more(client: &Client, relay: &Relay) -> bool {
    client.takes_more() && relay.has_news(client.number())
}

/// Begins to mirror packets for this connection, and says of which device.
fn capture(relay: &mut Relay, number: u64, snap: usize, moment: Moment) -> Result<Rc<[u8]>, &'static str> {
    if !relay.mirror_mut().watch(number, snap, moment) {
        return Err("Two connections see the packets already");
    }
    let device = relay.device_mut();
    let preamble = Preamble { device: device.current_name(), kind: device.kind().to_string(), snap };
    let mut line = serde_json::to_vec(&preamble).unwrap_or_default();
    line.push(b'\n');
    Ok(line.into())
}
