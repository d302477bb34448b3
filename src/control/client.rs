//! One connection of somebody who watches: a question in, an answer out, both bounded in bytes and time. An answer that goes on
//! as there is something to tell is bounded in what waits of it.

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

/// What is told to somebody who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// How the tunnel is.
    Numbers,
    /// The packets in it, too.
    All,
}

/// Whether somebody may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Granted(Rights),
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
    /// The answer goes on as there is something to tell. Its client may be as slow as it likes: few are served so.
    Streaming,
}

/// The answer to a question, or why there is none.
pub type Ask<'a> = &'a mut dyn FnMut(Request) -> Result<Rc<[u8]>, &'static str>;

/// A connection; see the module's text.
pub struct Client {
    stream: Stream,
    form: Form,
    number: u64,
    rights: Rights,
    stage: Stage,
    input: Vec<u8>,
    output: Rc<[u8]>,
    written: usize,
    surplus: usize,
    readable: bool,
    writable: bool,
    /// Its client has not ended its stream.
    is_open: bool,
    /// When it is given up, unless it gets on.
    patience_ends: Instant,
}

impl Client {
    /// Takes over a connection that was accepted as the one of this number.
    pub fn new(stream: Stream, form: Form, admission: Admission, number: u64, now: Instant) -> Self {
        let (stage, rights, output) = match admission {
            Admission::Granted(rights) => (Stage::Asked, rights, Vec::new()),
            Admission::Refused(why) => (Stage::Answering, Rights::Numbers, request::error(why)),
        };
        Self {
            stream,
            form,
            number,
            rights,
            stage,
            input: Vec::new(),
            output: output.into(),
            written: 0,
            surplus: 0,
            readable: true,
            writable: true,
            is_open: true,
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

    /// True if it gets the status until it goes.
    pub fn watches(&self) -> bool {
        matches!(self.stage, Stage::Watching { .. })
    }

    /// True if it gets an answer that goes on.
    pub fn streams(&self) -> bool {
        self.stage == Stage::Streaming
    }

    /// True if it could be told more of an answer that goes on.
    pub fn takes_more(&self) -> bool {
        self.streams() && self.has_written()
    }

    /// When it is to get on, or its patience ends; never by itself if it gets an answer that goes on.
    pub fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Watching { next_at } if self.has_written() => Some(next_at),
            Stage::Asked | Stage::Answering | Stage::Watching { .. } => Some(self.patience_ends),
            Stage::Streaming => None,
        }
    }

    /// Takes readiness.
    pub fn handle_event(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// True if [`advance`](Self::advance) may get it on.
    pub fn is_due(&self, now: Instant) -> bool {
        let is_late = self.deadline().is_some_and(|deadline| now >= deadline);
        self.readable || (self.writable && !self.has_written()) || is_late
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
        if self.stage == Stage::Streaming {
            return self.go_on(ask, now);
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
                    Request::Dump { .. } | Request::Test { .. } | Request::More => Stage::Streaming,
                    Request::Watch => Stage::Watching { next_at: now + WATCH_INTERVAL },
                    Request::Status | Request::OpenMetrics | Request::Version => Stage::Answering,
                };
                let output = self.permitted(request).and_then(|()| ask(request)).unwrap_or_else(|why| {
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

    /// # Errors
    /// The answer is not for everybody who may see the status, and this is one of them.
    fn permitted(&self, request: Request) -> Result<(), &'static str> {
        if request.is_confidential() && self.rights != Rights::All {
            return Err("Not permitted: only root and the user of the daemon may, unless that is nobody");
        }
        Ok(())
    }

    /// Goes on with an answer as long as its client is there; the end of the client's stream is its goodbye.
    fn go_on(&mut self, ask: Ask<'_>, now: Instant) -> Progress {
        if self.readable && (self.read_surplus() == Progress::Done || !self.is_open) {
            return Progress::Done;
        }
        if self.has_written() {
            let Ok(output) = ask(Request::More) else { return Progress::Done };
            self.say(output, now);
        }
        match self.write_some() {
            Ok(()) if self.has_written() && !self.output.is_empty() => Progress::HasMore,
            Ok(()) if self.readable => Progress::HasMore,
            Ok(()) => Progress::Waits,
            Err(_) => Progress::Done,
        }
    }

    fn say(&mut self, output: Rc<[u8]>, now: Instant) {
        (self.output, self.written) = (output, 0);
        self.patience_ends = now + PATIENCE;
    }

    fn has_written(&self) -> bool {
        self.written >= self.output.len()
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// The client has gone.
    fn write_some(&mut self) -> io::Result<()> {
        while self.writable && !self.has_written() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&mut self, now: Instant) -> Progress {
        let written = self.written;
        if self.write_some().is_err() {
            return Progress::Done;
        }
        if self.written > written {
            self.patience_ends = now + PATIENCE;
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
            Ok(0) => (self.readable, self.is_open) = (false, false),
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
