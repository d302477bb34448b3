//! The control operations of measurements as bytes (`docs/PROTOCOL.md`, "Measurements").

use std::time::Duration;

use byteorder::{BigEndian, ByteOrder};

/// The numbers of the operations.
const ASK: u8 = 4;
const GRANT: u8 = 5;
const LOAD: u8 = 6;
const REPORT: u8 = 7;
const END: u8 = 8;

/// Lengths of the plaintexts in bytes; what is behind them is ignored.
const ASK_LEN: usize = 16;
const GRANT_LEN: usize = 12;
/// Of the shortest LOAD.
pub const MIN_LOAD_LEN: usize = 13;
const REPORT_LEN: usize = 38;
const END_LEN: usize = 13;

/// Which way the load goes; the numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From who asks to who is asked.
    Forth = 1,
    /// From who is asked.
    Back = 2,
}

/// What is said to a wish; the numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Begin.
    Granted = 0,
    /// This end measures already, for another.
    Busy = 1,
    /// It has done so for long enough within the last minute.
    Enough = 2,
}

/// What was counted of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Messages that have come.
    pub received: u32,
    /// The number behind the greatest that has come.
    pub next: u32,
    /// Messages that came behind one with a greater number.
    pub swapped: u32,
    /// Bytes of plaintext that have come.
    pub bytes: u64,
    /// The rate at which they came, in bits a second; 0 if it is not known.
    pub rate: u64,
}

/// An operation of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A wish.
    Ask {
        /// The number of the measurement: random.
        id: u64,
        /// Which way.
        way: Way,
        /// How long.
        time: Duration,
        /// The greatest rate in kbit/s; 0 is as fast as it goes.
        kbit: u32,
    },
    /// The answer to it.
    Grant {
        /// The number of the measurement.
        id: u64,
        /// What is said to it.
        verdict: Verdict,
        /// How long it may take.
        time: Duration,
    },
    /// A message of the load.
    Load {
        /// The number of the measurement.
        id: u64,
        /// The number of the message, from 0 on.
        sequence: u32,
        /// Length of the plaintext in bytes.
        len: usize,
    },
    /// How much of it has come.
    Report {
        /// The number of the measurement.
        id: u64,
        /// There is no more to come.
        last: bool,
        /// What has come.
        count: Count,
    },
    /// The load has ended, or is to end.
    End {
        /// The number of the measurement.
        id: u64,
        /// Messages that were sent.
        sent: u32,
    },
}

impl Message {
    /// Reads the plaintext of a control message; `None` if it is no operation of a measurement, or malformed.
    pub fn parse(plain: &[u8]) -> Option<Self> {
        let (op, rest) = plain.split_first()?;
        let has = |len: usize| plain.len() >= len;
        let id = || BigEndian::read_u64(rest);
        Some(match *op {
            ASK if has(ASK_LEN) => Self::Ask {
                id: id(),
                way: [Way::Forth, Way::Back].into_iter().find(|way| *way as u8 == rest[8])?,
                time: millis(&rest[9..11]),
                kbit: BigEndian::read_u32(&rest[11..15]),
            },
            GRANT if has(GRANT_LEN) => Self::Grant {
                id: id(),
                verdict: [Verdict::Granted, Verdict::Busy, Verdict::Enough]
                    .into_iter()
                    .find(|v| *v as u8 == rest[8])?,
                time: millis(&rest[9..11]),
            },
            LOAD if has(MIN_LOAD_LEN) => {
                Self::Load { id: id(), sequence: BigEndian::read_u32(&rest[8..12]), len: plain.len() }
            }
            REPORT if has(REPORT_LEN) => Self::Report {
                id: id(),
                last: rest[8] != 0,
                count: Count {
                    received: BigEndian::read_u32(&rest[9..13]),
                    next: BigEndian::read_u32(&rest[13..17]),
                    swapped: BigEndian::read_u32(&rest[17..21]),
                    bytes: BigEndian::read_u64(&rest[21..29]),
                    rate: BigEndian::read_u64(&rest[29..37]),
                },
            },
            END if has(END_LEN) => Self::End { id: id(), sent: BigEndian::read_u32(&rest[8..12]) },
            _ => return None,
        })
    }

    /// Writes the plaintext; a LOAD is as long as its `len` says, and never shorter than [`MIN_LOAD_LEN`].
    pub fn to_bytes(self) -> Vec<u8> {
        let begin = |op: u8, id: u64, len: usize| {
            let mut bytes = vec![0; len];
            bytes[0] = op;
            BigEndian::write_u64(&mut bytes[1..9], id);
            bytes
        };
        match self {
            Self::Ask { id, way, time, kbit } => {
                let mut bytes = begin(ASK, id, ASK_LEN);
                bytes[9] = way as u8;
                write_millis(&mut bytes[10..12], time);
                BigEndian::write_u32(&mut bytes[12..16], kbit);
                bytes
            }
            Self::Grant { id, verdict, time } => {
                let mut bytes = begin(GRANT, id, GRANT_LEN);
                bytes[9] = verdict as u8;
                write_millis(&mut bytes[10..12], time);
                bytes
            }
            Self::Load { id, sequence, len } => {
                let mut bytes = begin(LOAD, id, len.max(MIN_LOAD_LEN));
                BigEndian::write_u32(&mut bytes[9..13], sequence);
                bytes
            }
            Self::Report { id, last, count } => {
                let mut bytes = begin(REPORT, id, REPORT_LEN);
                bytes[9] = last.into();
                BigEndian::write_u32(&mut bytes[10..14], count.received);
                BigEndian::write_u32(&mut bytes[14..18], count.next);
                BigEndian::write_u32(&mut bytes[18..22], count.swapped);
                BigEndian::write_u64(&mut bytes[22..30], count.bytes);
                BigEndian::write_u64(&mut bytes[30..38], count.rate);
                bytes
            }
            Self::End { id, sent } => {
                let mut bytes = begin(END, id, END_LEN);
                BigEndian::write_u32(&mut bytes[9..13], sent);
                bytes
            }
        }
    }
}

fn millis(bytes: &[u8]) -> Duration {
    Duration::from_millis(BigEndian::read_u16(bytes).into())
}

fn write_millis(bytes: &mut [u8], time: Duration) {
    BigEndian::write_u16(bytes, u16::try_from(time.as_millis()).unwrap_or(u16::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn operations_are_read_as_they_were_written(
            id: u64, ms: u16, kbit: u32, sequence: u32, len in MIN_LOAD_LEN..3000, last: bool, bytes: u64,
        ) {
            let time = Duration::from_millis(ms.into());
            let count = Count { received: kbit, next: sequence, swapped: 7, bytes, rate: id };
            for message in [
                Message::Ask { id, way: Way::Back, time, kbit },
                Message::Grant { id, verdict: Verdict::Enough, time },
                Message::Load { id, sequence, len },
                Message::Report { id, last, count },
                Message::End { id, sent: sequence },
            ] {
                let plain = message.to_bytes();
                prop_assert_eq!(Message::parse(&plain), Some(message));
                let shorter = if let Message::Load { .. } = message { MIN_LOAD_LEN - 1 } else { plain.len() - 1 };
                prop_assert_eq!(Message::parse(&plain[..shorter]), None);
            }
        }

        #[test]
        fn no_plaintext_is_a_problem(plain in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Message::parse(&plain);
        }
    }
}
