//! One connection of somebody who watches: a question in, an answer out, both bounded in bytes and time.

use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::event::{Event, Source};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use super::request::{self, Parsed, Request};
use super::{WATCH_INTERVAL, http};

/// Time for a question, and for every part of an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that are read in one turn.
const READ_BUDGET: usize = 4096;

/// Bytes behind a question that are read and forgotten: what is left unread when a Unix socket closes takes the answer with
/// it.
const MAX_SURPLUS: usize = 64 * 1024;

/// Which language is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines of the control socket.
    Line,
    /// HTTP.
    Http,
}

/// A connected socket.
pub enum Stream {
    /// Of the control socket.
    Unix(UnixStream),
    /// Of the metrics server.
    Tcp(TcpStream),
}

/// Whether somebody may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Granted,
    /// No, for this reason.
    Refused(&'static str),
}

/// What has become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for its client or for time to pass.
    Waits,
    /// There is more to do at once.
    HasMore,
    /// It has ended.
    Done,
}

/// What it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The question is being read.
    Asked,
    /// The answer is being written; then it is over.
    Answering,
    /// An answer is due now and then.
    Watching { next_at: Instant },
}

/// The answer to a question, or why there is none.
pub type Ask<'a> = &'a mut dyn FnMut(Request) -> Result<Rc<[u8]>, &'static str>;

/// A connection; see the module's text.
pub struct Client {
    stream: Stream,
    form: Form,
    number: u64,
    stage: Stage,
    input: Vec<u8>,
    output: Rc<[u8]>,
    written: usize,
    surplus: usize,
    readable: bool,
    writable: bool,
    /// When it is given up, unless it gets on.
    patience_ends: Instant,
}

impl Client {
    /// Takes over a connection that was accepted as the one of this number.
    pub fn new(stream: Stream, form: Form, admission: Admission, number: u64, now: Instant) -> Self {
        let (stage, output) = match admission {
            Admission::Granted => (Stage::Asked, Vec::new()),
            Admission::Refused(why) => (Stage::Answering, request::error(why)),
        };
        Self {
            stream,
            form,
            number,
            stage,
            input: Vec::new(),
            output: output.into(),
            written: 0,
            surplus: 0,
            readable: true,
            writable: true,
            patience_ends: now + PATIENCE,
        }
    }

    /// Registers the socket.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match &mut self.stream {
            Stream::Unix(stream) => stream.register(registry, token, interest),
            Stream::Tcp(stream) => stream.register(registry, token, interest),
        }
    }

    /// Which connection it is; later ones have greater numbers.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// True if it gets answers until it goes.
    pub fn watches(&self) -> bool {
        matches!(self.stage, Stage::Watching { .. })
    }

    /// When it is to get on, or its patience ends.
    pub fn deadline(&self) -> Instant {
        match self.stage {
            Stage::Watching { next_at } if self.has_written() => next_at,
            Stage::Asked | Stage::Answering | Stage::Watching { .. } => self.patience_ends,
        }
    }

    /// Takes readiness.
    pub fn handle_event(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// True if [`advance`](Self::advance) may get it on.
    pub fn is_due(&self, now: Instant) -> bool {
        self.readable || (self.writable && !self.has_written()) || now >= self.deadline()
    }

    /// Reads and writes what is possible now.
    pub fn advance(&mut self, now: Instant, ask: Ask<'_>) -> Progress {
        if self.stage == Stage::Asked {
            match self.read_question(ask, now) {
                Some(Progress::Waits | Progress::HasMore) if now >= self.patience_ends => return Progress::Done,
                Some(progress) => return progress,
                None => {}
            }
        }
        if let Stage::Watching { next_at } = self.stage
            && self.has_written()
            && now >= next_at
        {
            let Ok(output) = ask(Request::Status) else { return Progress::Done };
            self.say(output, now);
            self.stage = Stage::Watching { next_at: now + WATCH_INTERVAL };
        }
        self.write(now)
    }

    /// Returns nothing once there is an answer.
    fn read_question(&mut self, ask: Ask<'_>, now: Instant) -> Option<Progress> {
        let mut is_all = false;
        if self.readable {
            let mut buffer = [0; READ_BUDGET];
            match self.stream.read(&mut buffer) {
                Ok(0) => is_all = true,
                Ok(len) => self.input.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Some(Progress::Done),
            }
        }
        let (parsed, head_only) = match self.form {
            Form::Line => (request::parse(&self.input, is_all), false),
            Form::Http => http::parse(&self.input, is_all),
        };
        match parsed {
            // What is there still is read in the next turn; a question that grows too long is a mistake.
            Parsed::Incomplete if self.readable => return Some(Progress::HasMore),
            Parsed::Incomplete => return Some(Progress::Waits),
            Parsed::Mistake(answer) => {
                self.say(answer.into(), now);
                self.stage = Stage::Answering;
            }
            Parsed::Request(request) => {
                self.stage = match request {
                    Request::Watch => Stage::Watching { next_at: now + WATCH_INTERVAL },
                    Request::Status | Request::OpenMetrics | Request::Version => Stage::Answering,
                };
                let output = ask(request).unwrap_or_else(|why| {
                    self.stage = Stage::Answering;
                    request::error(why).into()
                });
                match self.form {
                    Form::Line => self.say(output, now),
                    Form::Http => self.say(http::metrics(&output, head_only).into(), now),
                }
            }
        }
        self.input = Vec::new();
        None
    }

    fn say(&mut self, output: Rc<[u8]>, now: Instant) {
        (self.output, self.written) = (output, 0);
        self.patience_ends = now + PATIENCE;
    }

    fn has_written(&self) -> bool {
        self.written >= self.output.len()
    }

    fn write(&mut self, now: Instant) -> Progress {
        while self.writable && !self.has_written() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Progress::Done,
                Ok(len) => {
                    self.written += len;
                    self.patience_ends = now + PATIENCE;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Progress::Done,
            }
        }
        if !self.has_written() {
            return if now < self.patience_ends { Progress::Waits } else { Progress::Done };
        }
        match self.read_surplus() {
            Progress::Waits if self.stage == Stage::Answering => Progress::Done,
            progress => progress,
        }
    }

    /// Reads what comes behind the question; too much of it ends the connection. Returns [`Progress::Waits`] if there is nothing.
    fn read_surplus(&mut self) -> Progress {
        if !self.readable {
            return Progress::Waits;
        }
        match self.stream.read(&mut [0; READ_BUDGET]) {
            // It may have closed one direction only: then the next answer shows whether it is there.
            Ok(0) => self.readable = false,
            Ok(len) => self.surplus += len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Progress::Done,
        }
        match self.readable {
            true if self.surplus > MAX_SURPLUS => Progress::Done,
            true => Progress::HasMore,
            false => Progress::Waits,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
