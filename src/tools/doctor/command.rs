//! Other programs that know better: run without a shell, for a few seconds at most, and never to change anything.

use std::io::{self, Read as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is read of its answer, in bytes: the rules of a large firewall.
const MAX_OUTPUT: u64 = 16 << 20;

/// Where programs of administrators are that the `PATH` of others lacks.
const MORE_PATHS: &str = ":/usr/sbin:/sbin";

/// Runs a program and returns its standard output.
///
/// # Errors
/// There is no such program (`NotFound`), it fails (`Other`, with what it says) or takes too long (`TimedOut`).
pub fn output(program: &str, arguments: &[&str]) -> io::Result<String> {
    let path = std::env::var("PATH").unwrap_or_default() + MORE_PATHS;
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", path).env("LC_ALL", "C").stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (sender, answer) = channel();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaints = thread::spawn(move || stderr.map(read).transpose());
    thread::spawn(move || sender.send(stdout.map(read).transpose()));
    let Ok(text) = answer.recv_timeout(PATIENCE) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(io::ErrorKind::TimedOut.into());
    };
    // Whoever has closed its output is about to end.
    let status = child.wait()?;
    if status.success() {
        return Ok(text?.unwrap_or_default());
    }
    let said = complaints.join().ok().and_then(Result::ok).flatten().unwrap_or_default();
    Err(io::Error::other(said.lines().next().unwrap_or("it failed").to_owned()))
}

fn read(from: impl io::Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
