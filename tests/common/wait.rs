//! Deadlines and polling, for what has no event to wait for.

use std::fmt::Display;
use std::process::{Child, ExitStatus, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Generous: it is reached only by a test that fails.
pub const DEADLINE: Duration = Duration::from_secs(15);

const INTERVAL: Duration = Duration::from_millis(10);

/// Asks `condition` at short intervals until it holds; returns how long that took.
pub fn wait_until(deadline: Duration, what: impl Display, mut condition: impl FnMut() -> bool) -> Duration {
    wait_for(deadline, what, || condition().then_some(())).1
}

/// As [`wait_until`], for a condition that yields something.
pub fn wait_for<T>(deadline: Duration, what: impl Display, mut probe: impl FnMut() -> Option<T>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return (found, start.elapsed());
        }
        assert!(start.elapsed() < deadline, "no {what} within {deadline:?}");
        sleep(INTERVAL);
    }
}

/// Lets `period` pass while `invariant` must hold: for what must *not* happen.
pub fn holds_for(period: Duration, what: impl Display, mut invariant: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < period {
        assert!(invariant(), "{what}: no longer true after {:?}", start.elapsed());
        sleep(INTERVAL);
    }
}

pub fn exit_of(child: &mut Child, deadline: Duration, what: impl Display) -> ExitStatus {
    wait_for(deadline, format!("exit of {what}"), || child.try_wait().expect("wait for child")).0
}

/// The output of a program that ends by itself.
#[track_caller]
pub fn succeed(output: Output, what: impl Display) -> String {
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("output is text")
}
