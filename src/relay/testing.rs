//! Measurements of the link: who has begun one is told how it goes, and their load is sent while nothing else is to be.

use std::time::Instant;

use super::Relay;
use crate::control::testing::TestLine;
use crate::tunnel::meter::Plan;

/// Bytes of a load in one turn: what a packet that comes meanwhile has to wait for.
const LOAD_BUDGET_BYTES: usize = 32 * 1024;

/// The state between two turns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Testing {
    /// The connection that has begun a measurement.
    tester: Option<u64>,
    /// There is more to send than one turn may.
    pub(super) has_more: bool,
}

impl Relay {
    /// Begins a measurement for this connection.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn start_test(&mut self, number: u64, plan: Plan, now: Instant) -> Result<(), &'static str> {
        self.tunnel.start_test(plan, now).map_err(|refusal| refusal.sentence())?;
        self.testing.tester = Some(number);
        self.carry_out_all(now);
        Ok(())
    }

    /// True if this connection has something to be told: packets, how its measurement goes, or that there is no more.
    pub fn has_news(&self, number: u64) -> bool {
        let is_tester = self.testing.tester == Some(number);
        self.mirror.has_news(number).unwrap_or(!is_tester || self.tunnel.has_test_news())
    }

    /// What there is to tell it; `None` if there is no more.
    pub fn take_news(&mut self, number: u64) -> Option<Vec<u8>> {
        if let Some(stream) = self.mirror.take(number) {
            return Some(stream);
        }
        self.testing.tester.filter(|tester| *tester == number)?;
        let mut lines = Vec::new();
        while let Some(news) = self.tunnel.poll_test() {
            let line = TestLine::from(news);
            if line.is_last() {
                self.testing.tester = None;
            }
            // Numbers and text: nothing can fail.
            lines.extend(serde_json::to_vec(&line).unwrap_or_default());
            lines.push(b'\n');
        }
        Some(lines)
    }

    /// A connection has gone: what was done for it ends.
    pub fn forget_watcher(&mut self, number: u64, now: Instant) {
        self.mirror.forget(number);
        if self.testing.tester.take_if(|tester| *tester == number).is_some() {
            self.tunnel.stop_test();
            self.carry_out_all(now);
        }
    }

    /// Sends what is due of a load, unless packets wait.
    pub(super) fn send_load(&mut self, now: Instant) {
        self.testing.has_more = false;
        let Self { transport, tunnel, backlog, .. } = self;
        let mut bytes = 0;
        while backlog.is_empty()
            && transport.can_send()
            && let Some(len) = tunnel.next_load(now)
        {
            // What the transport does not take is lost, as it would be further on.
            let _ = transport.send_with(len, now, &mut |message| tunnel.seal_load(message, now));
            bytes += len;
            if bytes >= LOAD_BUDGET_BYTES {
                self.testing.has_more = true;
                break;
            }
        }
        if bytes > 0 {
            transport.flush(now);
        }
    }
}
