//! The packets of a running tunnel as they are told to who watches them: the form of the stream, written and read. Pure.
//!
//! The answer to the request `dump` begins with one line, a [`Preamble`] as JSON. Records follow, each a header of
//! [`HEADER_LEN`] bytes, integers big-endian, and the bytes that were captured (`docs/STATUS.md`).

use std::time::Duration;

use byteorder::{BigEndian, ByteOrder};
use serde::{Deserialize, Serialize};

/// Length of what stands in front of the captured bytes.
pub const HEADER_LEN: usize = 20;

/// Bytes of one packet at most.
pub const MAX_SNAP: usize = u16::MAX as usize;

/// The first line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preamble {
    /// The name of the device at present.
    pub device: String,
    /// Its kind: `tun` or `tap`.
    pub kind: String,
    /// Bytes of each packet at most.
    pub snap: usize,
}

/// Which way a packet goes; the numbers are those of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the device to the peer.
    Out = 1,
    /// From the peer to the device.
    In = 2,
}

impl Direction {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

/// The number of a record that tells of lost packets.
const LOST: u8 = 0;

/// One part of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A packet.
    Packet {
        /// Which way it goes.
        direction: Direction,
        /// When it was seen, since 1970.
        time: Duration,
        /// Its length in bytes.
        len: u32,
        /// Its beginning.
        bytes: &'a [u8],
    },
    /// So many packets were lost here, because they were not read fast enough.
    Lost(u32),
}

impl Record<'_> {
    /// Length in the stream.
    pub fn stream_len(&self) -> usize {
        match self {
            Self::Packet { bytes, .. } => HEADER_LEN + bytes.len(),
            Self::Lost(_) => HEADER_LEN,
        }
    }

    /// Appends it to a stream.
    pub fn write(&self, stream: &mut Vec<u8>) {
        let mut header = [0; HEADER_LEN];
        let captured = match *self {
            Self::Packet { direction, time, len, bytes } => {
                header[0] = direction as u8;
                BigEndian::write_u32(&mut header[4..8], bytes.len() as u32);
                BigEndian::write_u32(&mut header[8..12], len);
                BigEndian::write_u64(&mut header[12..20], u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
                bytes
            }
            Self::Lost(count) => {
                header[0] = LOST;
                BigEndian::write_u32(&mut header[8..12], count);
                &[]
            }
        };
        stream.extend_from_slice(&header);
        stream.extend_from_slice(captured);
    }
}

/// What came is no capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The tunnel's answer is of no form that this version knows")]
pub struct Malformed;

/// Takes the stream apart.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    /// What has been handed out: `0 <= taken <= bytes.len()`.
    taken: usize,
}

impl Reader {
    /// Takes bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The first line, once it is there.
    pub fn line(&mut self) -> Option<&[u8]> {
        let start = self.taken;
        let len = self.bytes[start..].iter().position(|byte| *byte == b'\n')?;
        self.taken = start + len + 1;
        Some(&self.bytes[start..start + len])
    }

    /// The next record, if it is there as a whole.
    ///
    /// # Errors
    /// The stream is none.
    pub fn record(&mut self) -> Result<Option<Record<'_>>, Malformed> {
        let len = self.peek()?.map_or(0, |record| record.stream_len());
        self.taken += len;
        let rest = &self.bytes[self.taken - len..];
        read(rest)
    }

    /// The same, which stays where it is.
    ///
    /// # Errors
    /// The stream is none.
    pub fn peek(&self) -> Result<Option<Record<'_>>, Malformed> {
        read(&self.bytes[self.taken..])
    }
}

/// The record at the beginning of a stream, if it is there as a whole.
fn read(stream: &[u8]) -> Result<Option<Record<'_>>, Malformed> {
    let Some((header, behind)) = stream.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let (captured, len) = (BigEndian::read_u32(&header[4..8]) as usize, BigEndian::read_u32(&header[8..12]));
    if captured > MAX_SNAP || captured > len as usize {
        return Err(Malformed);
    }
    let Some(bytes) = behind.get(..captured) else { return Ok(None) };
    let time = Duration::from_nanos(BigEndian::read_u64(&header[12..20]));
    let packet = |direction| Ok(Some(Record::Packet { direction, time, len, bytes }));
    match header[0] {
        LOST if captured == 0 => Ok(Some(Record::Lost(len))),
        number if number == Direction::Out as u8 => packet(Direction::Out),
        number if number == Direction::In as u8 => packet(Direction::In),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written_however_the_stream_is_cut(
            packets in prop::collection::vec((any::<bool>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..90)), 1..9),
            lost: u32,
            piece in 1usize..50,
        ) {
            let mut stream = b"{\"kind\":\"tun\"}\n".to_vec();
            let direction = |out: bool| if out { Direction::Out } else { Direction::In };
            let record = |(out, nanos, bytes): &(bool, u32, Vec<u8>)| -> (Direction, Duration, Vec<u8>) {
                (direction(*out), Duration::from_nanos((*nanos).into()), bytes.clone())
            };
            for (direction, time, bytes) in packets.iter().map(record) {
                Record::Packet { direction, time, len: bytes.len() as u32 + 7, bytes: &bytes }.write(&mut stream);
            }
            Record::Lost(lost).write(&mut stream);
            let (mut reader, mut has_line, mut seen, mut told) = (Reader::default(), false, 0, None);
            for piece in stream.chunks(piece) {
                reader.push(piece);
                has_line = has_line || reader.line().is_some();
                while has_line && let Some(read) = reader.record().expect("a stream") {
                    match read {
                        Record::Packet { direction, time, len, bytes } => {
                            let expected = record(&packets[seen]);
                            prop_assert_eq!((direction, time, bytes.to_vec()), expected);
                            prop_assert_eq!(len as usize, bytes.len() + 7);
                            seen += 1;
                        }
                        Record::Lost(count) => told = Some(count),
                    }
                }
            }
            prop_assert_eq!((seen, told), (packets.len(), Some(lost)));
        }

        #[test]
        fn nothing_that_comes_makes_the_reader_panic(stream in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::default();
            reader.push(&stream);
            while let Ok(Some(_)) = reader.record() {}
        }
    }
}
