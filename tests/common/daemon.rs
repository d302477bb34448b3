//! The daemon under test, or any other program whose messages are waited for.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::lab::Ns;
use super::line;
use super::wait::{DEADLINE, exit_of, succeed};

/// A running program; killed when dropped, and what it said is shown when the test fails.
pub struct Daemon {
    label: String,
    child: Child,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    all: Vec<String>,
    ended: bool,
}

/// A place in the log: waits that start here see later lines only.
#[derive(Clone, Copy)]
pub struct Mark(usize);

impl Mark {
    pub const START: Self = Self(0);
}

/// Processor time and memory of a process, as /proc tells.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub cpu: Duration,
    pub resident_kib: u64,
}

/// The daemon with arguments written as on a command line, as root.
pub fn simpletun(ns: &Ns, args: &str) -> Daemon {
    let mut command = ns.command(env!("CARGO_BIN_EXE_simpletun"));
    command.args(args.split_whitespace());
    Daemon::spawn(format!("simpletun {args} ({})", ns.label()), command)
}

/// As [`simpletun`], as another user without capabilities.
pub fn simpletun_as(uid: u32, ns: &Ns, args: &str) -> Daemon {
    let mut command = ns.command_as(uid, &public_binary());
    command.args(args.split_whitespace());
    Daemon::spawn(format!("simpletun {args} ({}, uid {uid})", ns.label()), command)
}

/// A server that can be connected to.
pub fn server(ns: &Ns, args: &str) -> Daemon {
    let daemon = simpletun(ns, args);
    daemon.wait_for(line::LISTENING);
    daemon
}

/// What a daemon that ends by itself leaves behind: exit code and messages.
pub fn refused(ns: &Ns, args: &str) -> (i32, String) {
    let mut daemon = simpletun(ns, args);
    (daemon.wait_exit(), daemon.text())
}

pub fn refused_as(uid: u32, ns: &Ns, args: &str) -> (i32, String) {
    let mut daemon = simpletun_as(uid, ns, args);
    (daemon.wait_exit(), daemon.text())
}

impl Daemon {
    pub fn spawn(label: String, mut command: Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{label}: {e}"));
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("stderr is piped");
        let writer = Arc::clone(&log);
        thread::spawn(move || {
            for text in BufReader::new(stderr).lines().map_while(Result::ok) {
                writer.lock().all.push(text);
                writer.changed.notify_all();
            }
            writer.lock().ended = true;
            writer.changed.notify_all();
        });
        Self { label, child, log }
    }

    /// The first line that contains `pattern`, now or until the deadline.
    #[track_caller]
    pub fn wait_for(&self, pattern: &str) -> String {
        self.wait_after(Mark::START, pattern)
    }

    /// As [`Daemon::wait_for`], among the lines after `mark`.
    #[track_caller]
    pub fn wait_after(&self, mark: Mark, pattern: &str) -> String {
        self.wait_after_for(mark, pattern, DEADLINE)
    }

    #[track_caller]
    pub fn wait_after_for(&self, Mark(first): Mark, pattern: &str, deadline: Duration) -> String {
        let end = Instant::now() + deadline;
        let mut lines = self.log.lock();
        loop {
            if let Some(found) = lines.all.iter().skip(first).find(|text| text.contains(pattern)) {
                return found.clone();
            }
            assert!(!lines.ended, "{} ended before it said {pattern:?}", self.label);
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} did not say {pattern:?} within {deadline:?}", self.label);
            lines = self.log.changed.wait_timeout(lines, left).expect("log lock").0;
        }
    }

    pub fn mark(&self) -> Mark {
        Mark(self.log.lock().all.len())
    }

    pub fn said(&self, pattern: &str) -> bool {
        self.said_after(Mark::START, pattern)
    }

    pub fn said_after(&self, Mark(first): Mark, pattern: &str) -> bool {
        self.log.lock().all.iter().skip(first).any(|text| text.contains(pattern))
    }

    pub fn count(&self, pattern: &str) -> usize {
        self.log.lock().all.iter().filter(|text| text.contains(pattern)).count()
    }

    pub fn lines(&self) -> Vec<String> {
        self.log.lock().all.clone()
    }

    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("run kill");
        assert!(status.success(), "{} takes SIG{name}", self.label);
    }

    /// SIGKILL: no farewell.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait for child").is_none()
    }

    /// The exit code, once the log is complete; a death by signal counts as 128 + its number, as in a shell.
    #[track_caller]
    pub fn wait_exit(&mut self) -> i32 {
        let status = self.wait_status();
        let mut lines = self.log.lock();
        let end = Instant::now() + DEADLINE;
        while !lines.ended && Instant::now() < end {
            lines = self.log.changed.wait_timeout(lines, DEADLINE).expect("log lock").0;
        }
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// How it has ended, as the kernel tells its parent.
    #[track_caller]
    pub fn wait_status(&mut self) -> ExitStatus {
        exit_of(&mut self.child, DEADLINE, &self.label)
    }

    /// A clean end: SIGTERM and exit code 0.
    #[track_caller]
    pub fn terminate(&mut self) {
        self.signal("TERM");
        let code = self.wait_exit();
        assert_eq!(code, 0, "{} after SIGTERM", self.label);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process that keeps the right to configure the network for it.
    #[track_caller]
    pub fn helper(&self) -> u32 {
        children_of(self.pid()).into_iter().next().expect("a helper")
    }

    /// Ends it and its helper as if at once: neither sees the other go.
    pub fn kill_with_helper(&mut self) {
        let helper = self.helper().to_string();
        for (signal, pid) in [("STOP", helper.clone()), ("KILL", self.pid().to_string()), ("KILL", helper)] {
            succeed(Command::new("kill").args(["-s", signal, &pid]).output().expect("run kill"), "kill");
        }
        self.wait_status();
    }

    pub fn usage(&self) -> Usage {
        let pid = self.child.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("process runs");
        let fields = stat.rsplit_once(") ").expect("stat has a command").1.split(' ');
        // utime and stime are fields 14 and 15; the first after the command is field 3. A tick is 10 ms on Linux.
        let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("process runs");
        let resident = status.lines().find_map(|text| text.strip_prefix("VmRSS:")).expect("VmRSS");
        Usage {
            cpu: Duration::from_millis(ticks * 10),
            resident_kib: resident.trim().trim_end_matches(" kB").parse().expect("size"),
        }
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("process runs").count()
    }

    /// What the statistics say, beginning with the state of the link.
    #[track_caller]
    pub fn state(&self) -> String {
        let mark = self.mark();
        self.signal("USR2");
        let text = self.wait_after(mark, line::STATISTICS);
        text.split_once("statistics ").expect("statistics follow").1.to_owned()
    }

    /// Asks for the statistics and reads all `key=value` pairs of the answer.
    #[track_caller]
    pub fn statistics(&self) -> Statistics {
        let mark = self.mark();
        self.signal("USR2");
        self.wait_after(mark, line::STATISTICS);
        // All lines of one answer are written in one go; the answer is complete once the daemon takes another signal.
        let again = self.mark();
        self.signal("USR2");
        self.wait_after(again, line::STATISTICS);
        let lines = self.log.lock();
        let answer = lines.all.iter().skip(mark.0).filter(|text| text.contains(line::STATISTICS));
        Statistics(
            answer
                .flat_map(|text| text.split_whitespace())
                .filter_map(|word| word.split_once('='))
                .filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)))
                .collect(),
        )
    }
}

/// The latest counters, by key.
#[derive(Debug)]
pub struct Statistics(BTreeMap<String, u64>);

impl Statistics {
    #[track_caller]
    pub fn get(&self, key: &str) -> u64 {
        *self.0.get(key).unwrap_or_else(|| panic!("no {key}= in the statistics: {:?}", self.0))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- {}", self.label);
            for text in &self.log.lock().all {
                eprintln!("{text}");
            }
        }
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A wait that fails panics with the lock held; the lines are whole all the same.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processes that a process has started itself.
#[track_caller]
pub fn children_of(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the process runs");
    list.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
}

/// A copy of the binary that every user may run, wherever the build directory is.
pub fn public_binary() -> String {
    let path = PathBuf::from("/run/simpletun-public/simpletun");
    if !path.exists() {
        fs::create_dir_all("/run/simpletun-public").expect("make directory");
        fs::copy(env!("CARGO_BIN_EXE_simpletun"), &path).expect("copy the daemon");
    }
    path.to_str().expect("path is text").to_owned()
}
