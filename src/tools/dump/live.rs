//! The packets of a running tunnel, as its daemon tells them (`docs/STATUS.md`). The daemon does not wait: what is not read
//! fast enough it drops, and says how many that were.

use std::io::{self, Read as _};
use std::time::Duration;

use anyhow::{Result, anyhow};
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::config::LinkLayer;
use crate::control::capture::{Preamble, Reader, Record};
use crate::tools::status::ask::{AskError, Instance, PATIENCE};

const DAEMON: Token = Token(0);
const SIGNALS: Token = Token(1);

/// Bytes read at once.
const READ_LEN: usize = 64 * 1024;

/// A tunnel that tells its packets, and the signals that end the program.
pub struct Live {
    instance: Instance,
    stream: UnixStream,
    poll: Poll,
    events: Events,
    signals: Signals,
    reader: Reader,
    buffer: Vec<u8>,
    readable: bool,
    asked_to_end: bool,
    preamble: Preamble,
    lost: u64,
}

impl Live {
    /// Asks for the first `snap` bytes of each packet.
    ///
    /// # Errors
    /// The tunnel does not run, or does not tell us.
    pub fn open(instance: Instance, snap: usize) -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let stream = instance.request(&format!("dump {snap}"))?;
        stream.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(stream);
        let poll = Poll::new()?;
        poll.registry().register(&mut stream, DAEMON, Interest::READABLE)?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        let mut live = Self {
            instance,
            stream,
            poll,
            events: Events::with_capacity(8),
            signals,
            reader: Reader::default(),
            buffer: vec![0; READ_LEN],
            readable: true,
            asked_to_end: false,
            preamble: Preamble::default(),
            lost: 0,
        };
        live.read_preamble()?;
        Ok(live)
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.preamble.device
    }

    /// Whether packets or frames come.
    pub fn kind(&self) -> LinkLayer {
        if self.preamble.kind == LinkLayer::Tap.to_string() { LinkLayer::Tap } else { LinkLayer::Tun }
    }

    /// How many packets were lost so far, because they were not read fast enough.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Waits for the next packet; none when the program is asked to end.
    ///
    /// # Errors
    /// The tunnel has ended.
    pub fn next_packet(&mut self) -> Result<Option<Record<'_>>> {
        loop {
            if self.asked_to_end {
                return Ok(None);
            }
            // Asked twice, because what is returned is borrowed.
            match self.reader.peek()? {
                Some(Record::Packet { .. }) => break,
                Some(Record::Lost(count)) => {
                    self.lost += u64::from(count);
                    self.reader.record()?;
                }
                None => self.fill(None)?,
            }
        }
        Ok(self.reader.record()?)
    }

    fn read_preamble(&mut self) -> Result<()> {
        let line = loop {
            if let Some(line) = self.reader.line() {
                break String::from_utf8_lossy(line).into_owned();
            }
            self.fill(Some(PATIENCE))?;
            if self.asked_to_end {
                return Ok(());
            }
        };
        let value = self.instance.value(&line)?;
        self.preamble = serde_json::from_value(value).map_err(|error| self.instance.sort(error.into()))?;
        Ok(())
    }

    /// Reads what is there, or waits until something is.
    fn fill(&mut self, patience: Option<Duration>) -> Result<()> {
        self.asked_to_end |= self.signals.pending().next().is_some();
        if self.asked_to_end {
            return Ok(());
        }
        if !self.readable {
            return self.wait(patience);
        }
        match self.stream.read(&mut self.buffer) {
            Ok(0) => Err(anyhow!("The tunnel {} has ended", self.instance.name())),
            Ok(len) => {
                self.reader.push(&self.buffer[..len]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(self.instance.sort(error).into()),
        }
    }

    fn wait(&mut self, patience: Option<Duration>) -> Result<()> {
        match self.poll.poll(&mut self.events, patience) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &self.events {
            self.readable |= event.token() == DAEMON;
        }
        if patience.is_some() && self.events.is_empty() {
            return Err(AskError::Silent(self.instance.name().to_owned()).into());
        }
        Ok(())
    }
}
