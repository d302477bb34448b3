//! Measuring the link from end to end: round trip, and what it carries each way (`docs/PROTOCOL.md`, "Measurements").
//!
//! Pure. An end has one measurement at a time: one of its own, or one that it serves for its peer. All that comes here was
//! authenticated; still, what the peer asks for is granted within limits alone. [`wire`] are the bytes, `echo` measures
//! the round trip, `sending` and `tally` are the two ends of a load.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

mod echo;
mod news;
mod sending;
mod tally;
pub mod wire;

pub use echo::RoundTrip;
use echo::{Echo, PING_LEN};
pub use news::{Carried, Failure, News, Plan, Refusal};
use sending::Sending;
use tally::Tally;
use wire::{Count, MIN_LOAD_LEN, Message, Verdict, Way};

use super::Tunnel;
use super::message::Control;

/// A load takes no longer, whoever asks.
pub const MAX_TIME: Duration = Duration::from_secs(10);

/// Nor is it more.
const MAX_BYTES: u64 = 4 << 30;

/// In a minute an end serves its peer for this time.
const MAX_SERVICE: Duration = Duration::from_secs(40);
const MINUTE: Duration = Duration::from_secs(60);

/// A wish is repeated after this time, so often.
const ASK_AGAIN: Duration = Duration::from_millis(400);
const MAX_ASKED: u32 = 8;

/// So is the end of a load on a datagram path, until the receiver has confirmed it.
const END_AGAIN: Duration = Duration::from_millis(250);
const MAX_ENDED: u32 = 8;

/// A load that is not over this long after its time is given up.
const GRACE: Duration = Duration::from_secs(3);
/// The same on a reliable path, where much may be under way.
const GRACE_RELIABLE: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Debug, Default)]
pub struct Meter {
    activity: Activity,
    /// Messages of its own; holds no more than a few for each message that has come.
    transmits: VecDeque<Control>,
    news: VecDeque<News>,
    /// When the minute began, and how long was served in it.
    served: Option<(Instant, Duration)>,
}

#[derive(Debug, Default)]
enum Activity {
    #[default]
    Idle,
    /// Of its own.
    Own { id: u64, plan: Plan, reliable: bool, step: Step },
    /// For the peer.
    Served(Load),
}

#[derive(Debug)]
enum Step {
    Echo(Echo),
    Asking { way: Way, asked: u32, next_at: Instant },
    Loading { way: Way, load: Load },
}

/// One end of a load.
#[derive(Debug)]
struct Load {
    id: u64,
    part: Part,
    given_up_at: Instant,
}

#[derive(Debug)]
enum Part {
    Sending { sending: Box<Sending>, ending: Option<Ending>, reported: Count, reliable: bool },
    Receiving { tally: Tally },
}

/// How often the end was told, and when that is due again.
#[derive(Clone, Copy, Debug)]
struct Ending {
    told: u32,
    next_at: Instant,
}

impl Meter {
    /// Begins a measurement of its own; `id` is random.
    ///
    /// # Errors
    /// One is under way.
    pub fn start(&mut self, id: u64, plan: Plan, reliable: bool, now: Instant) -> Result<(), Refusal> {
        if !matches!(self.activity, Activity::Idle) {
            return Err(Refusal::Busy);
        }
        self.news.clear();
        let plan = Plan { time: plan.time.min(MAX_TIME), ..plan };
        self.activity = Activity::Own { id, plan, reliable, step: Step::Echo(Echo::new(id, now)) };
        self.handle_timeout(now);
        Ok(())
    }

    /// Ends a measurement of its own, and says so to the peer.
    pub fn stop(&mut self) {
        let Activity::Own { step, .. } = &self.activity else { return };
        if let Step::Loading { load, .. } = step {
            self.transmits.push_back(Control::Measure(Message::End { id: load.id, sent: load.sent() }));
        }
        self.activity = Activity::Idle;
        self.news.clear();
    }

    /// The link is gone, and with it what was under way.
    pub fn handle_down(&mut self) {
        if let Activity::Own { .. } = self.activity {
            self.news.push_back(News::Failed(Failure::LinkDown));
        }
        self.activity = Activity::Idle;
        self.transmits.clear();
    }

    /// Takes an operation of the peer.
    pub fn handle(&mut self, message: Message, reliable: bool, now: Instant) {
        match message {
            Message::Ask { id, way, time, kbit } => self.handle_ask(id, (way, time, kbit), reliable, now),
            Message::Grant { id, verdict, time } => self.handle_grant(id, verdict, time, now),
            Message::Load { .. } | Message::Report { .. } | Message::End { .. } => {
                let transmits = &mut self.transmits;
                let carried = self.activity.load_mut().and_then(|load| load.handle(message, transmits, now));
                if let Some(carried) = carried {
                    self.finish_load(carried, now);
                }
            }
        }
    }

    /// Takes the answer to a ping; false if that was none of a measurement.
    pub fn handle_pong(&mut self, token: u64, now: Instant) -> bool {
        let Activity::Own { step: Step::Echo(echo), .. } = &mut self.activity else { return false };
        let is_ours = echo.handle_pong(token, now);
        self.continue_echo(now);
        is_ours
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Control> {
        self.transmits.pop_front()
    }

    /// What there is to tell of its own measurement.
    pub fn poll_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// True if there is something to tell.
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// True while a load is sent.
    pub fn is_loading(&self) -> bool {
        match &self.activity {
            Activity::Own { step: Step::Loading { load, .. }, .. } | Activity::Served(load) => {
                matches!(load.part, Part::Sending { ending: None, .. })
            }
            Activity::Own { .. } | Activity::Idle => false,
        }
    }

    /// The next message of a load, with a plaintext of this length, if one may leave now.
    pub fn next_load(&mut self, len: usize, now: Instant) -> Option<Message> {
        let load = self.activity.load_mut()?;
        let Part::Sending { sending, ending: None, .. } = &mut load.part else { return None };
        let (id, len) = (load.id, len.max(MIN_LOAD_LEN));
        sending.next(len, now).map(|sequence| Message::Load { id, sequence, len })
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do, or the next message of a load may leave.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.activity {
            Activity::Idle => None,
            Activity::Own { step: Step::Echo(echo), .. } => Some(echo.deadline()),
            Activity::Own { step: Step::Asking { next_at, .. }, .. } => Some(*next_at),
            Activity::Own { step: Step::Loading { load, .. }, .. } | Activity::Served(load) => Some(load.deadline()),
        }
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.continue_echo(now);
        self.ask(now);
        let transmits = &mut self.transmits;
        let carried = self.activity.load_mut().and_then(|load| load.handle_timeout(transmits, now));
        if let Some(carried) = carried {
            self.finish_load(carried, now);
        }
    }

    fn continue_echo(&mut self, now: Instant) {
        let Activity::Own { step, .. } = &mut self.activity else { return };
        let Step::Echo(echo) = step else { return };
        if let Some(token) = echo.poll(now) {
            self.transmits.push_back(Control::Ping { token, len: PING_LEN });
        }
        let Some(result) = echo.result(now) else { return };
        if result.answered == 0 {
            return self.fail(Failure::NoAnswer);
        }
        self.news.push_back(News::RoundTrip(result));
        *step = Step::Asking { way: Way::Back, asked: 0, next_at: now };
        self.ask(now);
    }

    /// Says, or says again, what is wanted.
    fn ask(&mut self, now: Instant) {
        let Activity::Own { id, plan, step: Step::Asking { way, asked, next_at }, .. } = &mut self.activity else {
            return;
        };
        if now < *next_at {
            return;
        }
        if *asked >= MAX_ASKED {
            return self.fail(Failure::NotKnown);
        }
        (*asked, *next_at) = (*asked + 1, now + ASK_AGAIN);
        let (id, way, time, kbit) = (number(*id, *way), *way, plan.time, plan.kbit);
        self.transmits.push_back(Control::Measure(Message::Ask { id, way, time, kbit }));
    }

    fn handle_ask(&mut self, id: u64, (way, time, kbit): (Way, Duration, u32), reliable: bool, now: Instant) {
        let time = time.min(MAX_TIME);
        let verdict = match &self.activity {
            Activity::Own { .. } => Verdict::Busy,
            // The answer was lost.
            Activity::Served(load) if load.id == id => Verdict::Granted,
            // The peer has given up the one before.
            Activity::Served(_) | Activity::Idle => {
                let verdict = self.allow(time, now);
                if verdict == Verdict::Granted {
                    let part = match way {
                        Way::Forth => Part::receiving(time, reliable),
                        Way::Back => Part::sending(time, kbit, reliable, now),
                    };
                    self.activity = Activity::Served(Load::new(id, part, time, reliable, now));
                }
                verdict
            }
        };
        self.transmits.push_back(Control::Measure(Message::Grant { id, verdict, time }));
    }

    /// Whether the peer may be served for this time.
    fn allow(&mut self, time: Duration, now: Instant) -> Verdict {
        let is_old = |(began, _): &mut (Instant, Duration)| now.saturating_duration_since(*began) >= MINUTE;
        self.served.take_if(is_old);
        let (began, spent) = self.served.unwrap_or((now, Duration::ZERO));
        if spent + time > MAX_SERVICE {
            return Verdict::Enough;
        }
        self.served = Some((began, spent + time));
        Verdict::Granted
    }

    fn handle_grant(&mut self, granted: u64, verdict: Verdict, time: Duration, now: Instant) {
        let Activity::Own { id, plan, reliable, step } = &mut self.activity else { return };
        let Step::Asking { way, .. } = *step else { return };
        if granted != number(*id, way) {
            return;
        }
        let (time, reliable) = (time.min(plan.time), *reliable);
        match verdict {
            Verdict::Granted => {
                let part = match way {
                    Way::Forth => Part::sending(time, plan.kbit, reliable, now),
                    Way::Back => Part::receiving(time, reliable),
                };
                *step = Step::Loading { way, load: Load::new(granted, part, time, reliable, now) };
            }
            Verdict::Busy => self.fail(Failure::Busy),
            Verdict::Enough => self.fail(Failure::Enough),
        }
    }

    /// A load is over: the next step of its own measurement, or nothing.
    fn finish_load(&mut self, carried: Carried, now: Instant) {
        match &mut self.activity {
            Activity::Own { step, .. } => match step {
                Step::Loading { way: Way::Back, .. } => {
                    self.news.push_back(News::Download(carried));
                    *step = Step::Asking { way: Way::Forth, asked: 0, next_at: now };
                    self.ask(now);
                }
                Step::Loading { way: Way::Forth, .. } | Step::Echo(_) | Step::Asking { .. } => {
                    self.news.extend([News::Upload(carried), News::Finished]);
                    self.activity = Activity::Idle;
                }
            },
            Activity::Served(_) | Activity::Idle => self.activity = Activity::Idle,
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.news.push_back(News::Failed(failure));
        self.activity = Activity::Idle;
    }
}

impl Tunnel {
    /// Begins to measure the link; a secure one is asked at both ends.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn start_test(&mut self, plan: Plan, now: Instant) -> Result<(), Refusal> {
        match self {
            Self::Plain(_) => Err(Refusal::Plain),
            Self::Secure(secure) => secure.start_test(plan, now),
        }
    }

    /// Ends a measurement that was begun here.
    pub fn stop_test(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Secure(secure) => secure.stop_test(),
        }
    }

    /// True if there is something to tell of a measurement that was begun here.
    pub fn has_test_news(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Secure(secure) => secure.has_test_news(),
        }
    }

    /// The next thing to tell of it.
    #[must_use]
    pub fn poll_test(&mut self) -> Option<News> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(secure) => secure.poll_test(),
        }
    }

    /// Length of the next message of a measurement's load, if one may leave now. It counts as sent from then on.
    #[must_use]
    pub fn next_load(&mut self, now: Instant) -> Option<usize> {
        match self {
            Self::Plain(_) => None,
            Self::Secure(secure) => secure.next_load(now),
        }
    }

    /// Writes it into `message`, which is as long as [`next_load`](Self::next_load) said.
    pub fn seal_load(&mut self, message: &mut [u8], now: Instant) {
        match self {
            // Never asked for: `next_load` has said so.
            Self::Plain(_) => message.fill(0),
            Self::Secure(secure) => secure.seal_load(message, now),
        }
    }
}

/// Each direction has a number of its own.
fn number(id: u64, way: Way) -> u64 {
    id.wrapping_add(way as u64)
}

impl Activity {
    fn load_mut(&mut self) -> Option<&mut Load> {
        match self {
            Self::Own { step: Step::Loading { load, .. }, .. } | Self::Served(load) => Some(load),
            Self::Own { .. } | Self::Idle => None,
        }
    }
}

impl Part {
    fn sending(time: Duration, kbit: u32, reliable: bool, now: Instant) -> Self {
        let sending = Box::new(Sending::new(time, MAX_BYTES, kbit, reliable, now));
        Self::Sending { sending, ending: None, reported: Count::default(), reliable }
    }

    fn receiving(time: Duration, reliable: bool) -> Self {
        Self::Receiving { tally: Tally::new(time, reliable) }
    }
}

impl Load {
    fn new(id: u64, part: Part, time: Duration, reliable: bool, now: Instant) -> Self {
        let grace = if reliable { GRACE_RELIABLE } else { GRACE };
        Self { id, part, given_up_at: now + time + grace }
    }

    fn sent(&self) -> u32 {
        match &self.part {
            Part::Sending { sending, .. } => sending.sent(),
            Part::Receiving { .. } => 0,
        }
    }

    /// Takes what the other end of the load says; returns what was carried once it is over.
    fn handle(&mut self, message: Message, transmits: &mut VecDeque<Control>, now: Instant) -> Option<Carried> {
        match (message, &mut self.part) {
            (Message::Load { id, sequence, len }, Part::Receiving { tally }) if id == self.id => {
                tally.add(sequence, len, now);
                self.report(transmits, now);
                None
            }
            (Message::End { id, sent }, Part::Receiving { tally }) if id == self.id => {
                let count = tally.count();
                transmits.push_back(Control::Measure(Message::Report { id, last: true, count }));
                Some(Carried { sent: sent.max(count.next), count })
            }
            (Message::Report { id, last, count }, Part::Sending { sending, ending, reported, .. }) if id == self.id => {
                sending.handle_report(&count, now);
                if count.received >= reported.received && count.next <= sending.sent() {
                    *reported = count;
                }
                (last && ending.is_some()).then(|| Carried { sent: sending.sent(), count: *reported })
            }
            // The receiver wants no more.
            (Message::End { id, .. }, Part::Sending { sending, reported, .. }) if id == self.id => {
                Some(Carried { sent: sending.sent(), count: *reported })
            }
            _ => None,
        }
    }

    fn deadline(&self) -> Instant {
        let at = match &self.part {
            Part::Sending { ending: Some(ending), .. } => Some(ending.next_at),
            Part::Sending { sending, .. } => Some(sending.deadline()),
            Part::Receiving { tally } => tally.deadline(),
        };
        at.into_iter().fold(self.given_up_at, Instant::min)
    }

    fn handle_timeout(&mut self, transmits: &mut VecDeque<Control>, now: Instant) -> Option<Carried> {
        self.report(transmits, now);
        let given_up = now >= self.given_up_at;
        match &mut self.part {
            Part::Sending { sending, ending, reported, reliable } => {
                sending.handle_timeout(now);
                let told = ending.map_or(0, |ending| ending.told);
                let is_due = ending.map_or_else(|| sending.has_ended(now), |ending| now >= ending.next_at);
                if given_up || (is_due && told >= MAX_ENDED) {
                    return Some(Carried { sent: sending.sent(), count: *reported });
                }
                if is_due {
                    // On a reliable path it comes in its turn.
                    let next_at = if *reliable { self.given_up_at } else { now + END_AGAIN };
                    *ending = Some(Ending { told: told + 1, next_at });
                    transmits.push_back(Control::Measure(Message::End { id: self.id, sent: sending.sent() }));
                }
                None
            }
            Part::Receiving { tally } => {
                let count = tally.count();
                given_up.then_some(Carried { sent: count.next, count })
            }
        }
    }

    /// Tells the sender how much has come, if that is due.
    fn report(&mut self, transmits: &mut VecDeque<Control>, now: Instant) {
        if let Part::Receiving { tally } = &mut self.part
            && let Some(count) = tally.report(now)
        {
            transmits.push_back(Control::Measure(Message::Report { id: self.id, last: false, count }));
        }
    }
}

#[cfg(test)]
mod tests;
