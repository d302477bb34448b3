//! What an I/O error means for the tunnel, and how often it is spoken of.
//!
//! [`sort`] is the one place that decides whether an errno ends the process, ends a connection or is
//! merely counted. [`FaultLog`] keeps a repeated fault from filling the log. Neither knows a socket
//! or a clock: the caller passes `now`.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use log::warn;

/// A repeated fault is logged at most this often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Distinct faults remembered by one [`FaultLog`]; more than these share the last slot.
const MAX_KINDS: usize = 16;

/// Where an error came from; the same errno means different things on a device and on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Reading from or writing to the tun or tap device.
    Device,
    /// A connected byte stream (TCP).
    Stream,
    /// A datagram socket (UDP).
    Datagram,
}

/// What the caller has to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// `EINTR`: call again.
    Retry,
    /// `EAGAIN`: wait for the next event.
    WouldBlock,
    /// This packet is lost and counted, the next one may pass.
    Transient,
    /// The connection is lost, the tunnel goes on and makes a new one.
    Link,
    /// The device is gone; nothing can go on without it.
    Fatal,
}

/// Sorts an error. This is the only list of errno values that steers the data path.
///
/// * Device (`drivers/net/tun.c`): `EIO` says that the device is down, `EINVAL` that it refuses this packet,
///   `ENOBUFS`/`ENOMEM` that the kernel is short of memory: all pass. `EBADFD` follows the deletion of the
///   device and is final, as is everything unknown (`EPIPE` when a test's socket pair is closed).
/// * Datagram (udp(7), ip(7), icmp(7)): errors report a past datagram or the state of a route or a firewall
///   and pass with it.
/// * Stream (tcp(7)): every error but a full buffer ends the connection.
pub fn sort(error: &io::Error, origin: Origin) -> Severity {
    match (error.kind(), origin) {
        (io::ErrorKind::Interrupted, _) => return Severity::Retry,
        (io::ErrorKind::WouldBlock, _) => return Severity::WouldBlock,
        (_, Origin::Stream) => return Severity::Link,
        (_, Origin::Device | Origin::Datagram) => {}
    }
    match (error.raw_os_error(), origin) {
        (Some(libc::EIO | libc::EINVAL | libc::ENOBUFS | libc::ENOMEM | libc::EMSGSIZE), Origin::Device) => {
            Severity::Transient
        }
        (_, Origin::Device) => Severity::Fatal,
        // A datagram socket that is no socket any more would spin for ever.
        (Some(libc::EBADF | libc::ENOTSOCK), _) => Severity::Fatal,
        _ => Severity::Transient,
    }
}

/// Logs each kind of fault at once when it is new and then at most once a minute, with the number of
/// times it has happened since it was last spoken of.
#[derive(Debug, Default)]
pub struct FaultLog {
    kinds: Vec<Kind>,
}

#[derive(Debug)]
struct Kind {
    label: &'static str,
    unreported: u64,
    reported_at: Instant,
}

impl FaultLog {
    /// Counts one fault of the kind `label` and logs `detail` as a warning if this kind was not logged
    /// within the last minute.
    pub fn note(&mut self, now: Instant, label: &'static str, detail: impl fmt::Display) {
        if let Some(suppressed) = self.due(now, label) {
            if suppressed == 0 {
                warn!("{detail}");
            } else {
                warn!("{detail} ({suppressed} more like this since last reported)");
            }
        }
    }

    /// Forgets the kind `label`, so that its next occurrence is logged at once.
    pub fn clear(&mut self, label: &'static str) {
        self.kinds.retain(|kind| kind.label != label);
    }

    /// Returns the number of unreported faults if one may be reported now.
    fn due(&mut self, now: Instant, label: &'static str) -> Option<u64> {
        let full = self.kinds.len() >= MAX_KINDS;
        let known = self.kinds.iter().position(|kind| kind.label == label);
        let slot = known.or_else(|| full.then_some(MAX_KINDS - 1));
        let Some(kind) = slot.and_then(|index| self.kinds.get_mut(index)) else {
            self.kinds.push(Kind { label, unreported: 0, reported_at: now });
            return Some(0);
        };
        if now.saturating_duration_since(kind.reported_at) < LOG_INTERVAL {
            kind.unreported += 1;
            return None;
        }
        kind.reported_at = now;
        Some(std::mem::take(&mut kind.unreported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn a_device_that_is_down_passes_and_a_deleted_one_is_fatal() {
        assert_eq!(sort(&errno(libc::EIO), Origin::Device), Severity::Transient);
        assert_eq!(sort(&errno(libc::EINVAL), Origin::Device), Severity::Transient);
        assert_eq!(sort(&errno(libc::EBADFD), Origin::Device), Severity::Fatal);
    }

    #[test]
    fn datagram_errors_pass_and_stream_errors_end_the_link() {
        for code in [libc::ECONNREFUSED, libc::ENETUNREACH, libc::EPERM, libc::EMSGSIZE, libc::ENOBUFS] {
            assert_eq!(sort(&errno(code), Origin::Datagram), Severity::Transient);
            assert_eq!(sort(&errno(code), Origin::Stream), Severity::Link);
        }
        assert_eq!(sort(&errno(libc::EINTR), Origin::Stream), Severity::Retry);
        assert_eq!(sort(&errno(libc::EAGAIN), Origin::Device), Severity::WouldBlock);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn a_repeated_fault_is_due_once_a_minute_with_its_count() {
        let start = Instant::now();
        let mut faults = FaultLog::default();
        assert_eq!(faults.due(start, "refused"), Some(0));
        for second in 1..60 {
            assert_eq!(faults.due(start + Duration::from_secs(second), "refused"), None);
        }
        assert_eq!(faults.due(start + Duration::from_secs(30), "unreachable"), Some(0));
        assert_eq!(faults.due(start + Duration::from_secs(60), "refused"), Some(59));
        assert_eq!(faults.due(start + Duration::from_secs(61), "refused"), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a starting point for virtual time")]
    fn the_number_of_remembered_kinds_is_bounded() {
        let now = Instant::now();
        let mut faults = FaultLog::default();
        let labels: Vec<&'static str> =
            vec!["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s"];
        for label in labels {
            let _ = faults.due(now, label);
        }
        assert_eq!(faults.kinds.len(), MAX_KINDS);
    }
}
