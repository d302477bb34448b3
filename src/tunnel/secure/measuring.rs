//! Measurements from end to end, of a link that is up. What is said when is decided in [`meter`](crate::tunnel::meter).

use std::time::Instant;

use super::Secure;
use crate::tunnel::message::{CTRL, OVERHEAD};
use crate::tunnel::meter::wire::Message;
use crate::tunnel::meter::{News, Plan, Refusal};

/// Length of a load's plaintext on a reliable path in bytes; on others it is that of the longest packet that crosses.
const RELIABLE_LEN: usize = 16 * 1024;

impl Secure {
    /// Begins a measurement; see [`super::super::Tunnel::start_test`].
    ///
    /// # Errors
    /// There is no peer, or a measurement is under way.
    pub fn start_test(&mut self, plan: Plan, now: Instant) -> Result<(), Refusal> {
        let Some(link) = self.link.filter(|_| self.up && self.has_session()) else { return Err(Refusal::NoPeer) };
        let mut id = [0; 8];
        if !self.random.fill(&mut id) {
            return Err(Refusal::Busy);
        }
        self.meter.start(u64::from_be_bytes(id), plan, link.info.reliable, now)?;
        self.send_measurements();
        Ok(())
    }

    /// Ends this end's own measurement.
    pub fn stop_test(&mut self) {
        self.meter.stop();
        self.send_measurements();
    }

    /// True if there is something to tell of this end's own measurement.
    pub fn has_test_news(&self) -> bool {
        self.meter.has_news()
    }

    /// The next thing to tell of it.
    pub fn poll_test(&mut self) -> Option<News> {
        self.meter.poll_news()
    }

    pub(super) fn handle_measurement(&mut self, message: Message, now: Instant) {
        let Some(link) = self.link else { return };
        self.meter.handle(message, link.info.reliable, now);
        self.send_measurements();
    }

    /// Takes the answer to a ping; false if that was none of a measurement.
    pub(super) fn handle_measured_pong(&mut self, token: u64, now: Instant) -> bool {
        let is_ours = self.meter.handle_pong(token, now);
        self.send_measurements();
        is_ours
    }

    pub(super) fn handle_measurement_timeout(&mut self, now: Instant) {
        if self.meter.deadline().is_some_and(|at| at <= now) {
            self.meter.handle_timeout(now);
            self.send_measurements();
        }
    }

    fn send_measurements(&mut self) {
        while let Some(control) = self.meter.poll_transmit() {
            self.send_control(control);
        }
    }

    /// The length of the next message of a load, if one may leave now; see [`super::super::Tunnel::next_load`].
    pub fn next_load(&mut self, now: Instant) -> Option<usize> {
        if !self.meter.is_loading() {
            return None;
        }
        let is_reliable = self.link?.info.reliable;
        let usual = if is_reliable { RELIABLE_LEN } else { self.longest_message() - OVERHEAD };
        let len = usual.min(self.max_packet()?);
        let message_len = self.message_len(len, now)?;
        self.load = self.meter.next_load(len, now)?.to_bytes();
        Some(message_len)
    }

    /// Seals it; `message` is as long as [`next_load`](Self::next_load) said.
    pub fn seal_load(&mut self, message: &mut [u8], now: Instant) {
        let plain = std::mem::take(&mut self.load);
        self.seal(CTRL, 0, &plain, message, now);
    }
}
