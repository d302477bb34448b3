//! How `pair` talks with the two ends that it sets up: requests and answers, each a line of JSON, over standard input and
//! output of `simpletun pair-end`, which is a child of this process or of sshd(8) on another host.
//!
//! It does not know what the requests do. What comes from the other host is short, is parsed, and is shown without
//! characters that a terminal obeys.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use zeroize::Zeroizing;

use super::settings::Protection;

/// What both sides have to mean by these messages.
pub(super) const FORM: u32 = 1;

/// Longest message in bytes: a configuration of ten thousand routes.
const MAX_LINE: u64 = 1 << 20;

/// Lines that the shells of a host may print before our program does.
const MAX_NOISE: usize = 200;

/// Longest text of another host that is shown, in characters.
const MAX_SHOWN: usize = 600;

/// How often a wait looks whether it is over for another reason.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// How long an end may take for its work, in ticks; for starting a service that is more than systemd's own limit.
const PATIENCE: u32 = 4 * 120;

/// How long an end may take to undo what it has done, in ticks.
const UNDO_PATIENCE: u32 = 4 * 60;

/// What an end is asked to do, in this order. What it has done it undoes when its input ends before `Keep`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request {
    /// Looks whether the name is free, and makes a key.
    Prepare {
        /// Of the tunnel.
        name: String,
        /// A key is made for key pairs only.
        protection: Protection,
    },
    /// Puts the files into place.
    Install {
        /// The text of the configuration.
        configuration: String,
        /// The pre-shared key or the secret.
        secret: String,
    },
    /// Enables and starts the service.
    Start,
    /// Waits until the link is up.
    Wait {
        /// At most.
        seconds: u32,
    },
    /// Nothing is undone any more.
    Keep,
}

/// What an end says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// First of all.
    Hello {
        /// Version of the program.
        program: String,
        /// [`FORM`].
        form: u32,
    },
    /// Before the first: it is not root and tries to become it.
    Raising,
    /// The public key, if one was made.
    Key(Option<String>),
    /// It is done.
    Done,
    /// It cannot be done.
    Refused(String),
    /// Last of all, if it was not to be kept: what could not be undone.
    Undone(Vec<String>),
}

/// Set by the signals that end programs, from the first use on.
#[derive(Clone, Debug, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// # Errors
    /// The signals cannot be taken over.
    pub(super) fn new() -> Result<Self> {
        let interrupt = Self::default();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupt.0)).context("Cannot take over signals")?;
        }
        Ok(interrupt)
    }

    /// # Errors
    /// There was a signal.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("Interrupted");
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn raised() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

/// A line with its end.
type Line = Zeroizing<Vec<u8>>;

/// The lines of a stream, read by a thread of their own, which ends with the stream or its receiver.
pub(super) fn lines(from: impl Read + Send + 'static) -> Receiver<Line> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        let mut reader = BufReader::new(from);
        loop {
            let mut line = Zeroizing::new(Vec::new());
            match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if sender.send(line).is_err() => return,
                Ok(_) => {}
            }
        }
    });
    receiver
}

/// A message as a line.
///
/// # Errors
/// None that is known of.
pub(super) fn line<T: Serialize>(message: &T) -> Result<Line> {
    let mut line = Zeroizing::new(serde_json::to_vec(message)?);
    line.push(b'\n');
    Ok(line)
}

/// Text of another host, for a terminal and in one line.
pub(super) fn shown(text: &str) -> String {
    let harmless = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(MAX_SHOWN).map(harmless).collect()
}

/// `simpletun pair-end` at one of the ends.
pub(super) struct Peer {
    /// Its host.
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    interrupt: Interrupt,
}

impl Peer {
    /// Starts it, and waits for its first words as long as it takes: somebody may have to type a password.
    ///
    /// # Errors
    /// It cannot be started, or is not what it should be.
    pub(super) fn start(what: &str, mut command: Command, interrupt: &Interrupt) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("Cannot start {program}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stdout = stdout.context("The child process has no standard output")?;
        let peer = Self { what: what.to_owned(), child, stdin, lines: lines(stdout), interrupt: interrupt.clone() };
        peer.greeted(&program)
    }

    fn greeted(mut self, program: &str) -> Result<Self> {
        let mut raising = false;
        for _ in 0..MAX_NOISE {
            let Some(line) = self.next(u32::MAX)? else {
                let status = self.child.wait().context("The child process cannot be waited for")?;
                return Err(unwelcome(&self.what, program, raising, status));
            };
            match serde_json::from_slice(&line) {
                Ok(Answer::Hello { form: FORM, .. }) => return Ok(self),
                Ok(Answer::Hello { program, .. }) => bail!(
                    "{} has simpletun {}, whose pair is not that of this host's {}: install the same version on both",
                    self.what,
                    shown(&program),
                    env!("CARGO_PKG_VERSION")
                ),
                Ok(Answer::Raising) => raising = true,
                Ok(Answer::Refused(reason)) => bail!("{}: {}", self.what, shown(&reason)),
                // What a shell says at its start.
                Ok(_) | Err(_) => {}
            }
        }
        bail!("{} says much and nothing that simpletun would: is its shell an ordinary one?", self.what)
    }

    /// Asks for something and waits for the answer.
    ///
    /// # Errors
    /// It was refused, the connection has ended, or this process is to end.
    pub(super) fn ask(&mut self, request: &Request) -> Result<Answer> {
        let what = self.what.clone();
        let ended = || anyhow!("{what}: the connection has ended");
        let line = line(request)?;
        let stdin = self.stdin.as_mut().with_context(ended)?;
        stdin.write_all(&line).and_then(|()| stdin.flush()).map_err(|_| ended())?;
        let answer = self.next(PATIENCE)?.with_context(ended)?;
        match serde_json::from_slice(&answer) {
            Ok(Answer::Refused(reason)) => bail!("{what}: {}", shown(&reason)),
            Ok(answer) => Ok(answer),
            Err(_) => bail!("{what}: an answer without a meaning"),
        }
    }

    /// As [`ask`](Self::ask), where there is nothing to be told.
    ///
    /// # Errors
    /// As there.
    pub(super) fn order(&mut self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Answer::Done => Ok(()),
            _ => bail!("{}: an answer to another question", self.what),
        }
    }

    /// From now on signals are for later: what follows is done whole.
    pub(super) fn ignore_signals(&mut self) {
        self.interrupt = Interrupt::default();
    }

    /// Ends the connection and has it undo what it has done; says how that went.
    pub(super) fn undo(mut self) -> String {
        drop(self.stdin.take());
        // They have been heeded by now.
        self.ignore_signals();
        let what = self.what.clone();
        loop {
            let line = match self.next(UNDO_PATIENCE) {
                Ok(Some(line)) => line,
                Ok(None) => {
                    return format!(
                        "{what} undoes its part by itself as soon as it sees that the connection has ended"
                    );
                }
                Err(_) => {
                    return format!("{what} does not say whether it has undone its part: look at /etc/simpletun there");
                }
            };
            if let Ok(Answer::Undone(left)) = serde_json::from_slice(&line) {
                return match &*left {
                    [] => format!("{what} is as it was before"),
                    left => format!("{what} could not undo all of its part: {}", shown(&left.join("; "))),
                };
            }
        }
    }

    /// The next line; `None` at the end.
    fn next(&self, ticks: u32) -> Result<Option<Line>> {
        let mut left = ticks;
        loop {
            self.interrupt.check()?;
            match self.lines.recv_timeout(TICK) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if left == 0 => bail!("{} does not answer", self.what),
                Err(RecvTimeoutError::Timeout) => left = left.saturating_sub(u32::from(ticks != u32::MAX)),
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It ends with its input. One that does not is left to itself, for what it is doing is not to be cut short.
        let _ = self.child.try_wait();
    }
}

/// Why a program has ended before it said anything.
fn unwelcome(what: &str, program: &str, raising: bool, status: ExitStatus) -> anyhow::Error {
    match status.code() {
        _ if raising => anyhow!(
            "{what}: not root there, and sudo -n simpletun pair-end is not permitted without a password: take a user who \
             may, or root"
        ),
        Some(127) => anyhow!("{what} has no simpletun: install the package there first"),
        Some(255) => anyhow!("{program} has not reached {what}"),
        _ => anyhow!(
            "{what} does not answer as simpletun {} does ({status}): is the same version installed there?",
            env!("CARGO_PKG_VERSION")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        assert_eq!(shown("a\x1b[2Jb\nc\u{9b}d "), "a [2Jb c d");
        assert_eq!(shown(&"x".repeat(10_000)).len(), MAX_SHOWN);
    }

    #[test]
    fn lines_end_where_they_are_too_long_and_where_the_stream_does() {
        let long = vec![b'x'; usize::try_from(MAX_LINE).expect("small") + 1];
        let received: Vec<usize> = lines(std::io::Cursor::new(long)).iter().map(|line| line.len()).collect();
        assert_eq!(received, [1 << 20, 1]);
        assert_eq!(
            lines(&b"a\n\nb"[..]).iter().map(|line| line.to_vec()).collect::<Vec<_>>(),
            [&b"a\n"[..], b"\n", b"b"]
        );
    }
}
