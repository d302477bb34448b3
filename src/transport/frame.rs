//! The framing of a byte stream: a 16-bit big-endian length, then that many bytes.
//!
//! Pure: it knows buffers only, no socket. [`Decoder`] cuts what arrives into frames, [`Encoder`] collects
//! frames for one write. Neither allocates after its construction, unless it is told to grow.

use std::ops::Range;

use byteorder::{BigEndian, ByteOrder};

/// Bytes in front of each frame.
pub const HEADER_LEN: usize = 2;

/// The longest frame that the length field can announce, in bytes.
pub const MAX_LEN: usize = u16::MAX as usize;

/// What a buffer must hold at least so that every legal frame fits.
pub const MIN_CAPACITY: usize = HEADER_LEN + MAX_LEN;

/// Capacity of the receive buffer of a live connection, in bytes: many small frames or a few of the largest.
pub const CAPACITY: usize = 256 * 1024;

/// Room that is kept for what one read from the device can become: 64 KiB cut into the smallest segments, each with
/// headers and length.
const BURST_ROOM: usize = 256 * 1024;

/// Capacity of the send buffer, in bytes.
pub const SEND_CAPACITY: usize = CAPACITY + BURST_ROOM;

const _: () = assert!(CAPACITY >= 2 * MIN_CAPACITY && BURST_ROOM >= MIN_CAPACITY);

/// Cuts a byte stream into frames.
///
/// Invariant: `start <= end <= buffer.len()`; `buffer[start..end]` is received and not yet handed out.
#[derive(Debug)]
pub struct Decoder {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Decoder {
    /// A decoder whose buffer holds `capacity` bytes, and never less than one frame of the greatest length.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { buffer: vec![0; capacity.max(MIN_CAPACITY)].into_boxed_slice(), start: 0, end: 0 }
    }

    /// A decoder with just the room for one frame of `max_len` bytes. A longer frame is never complete; whoever uses this
    /// asks for [`announced_len`](Self::announced_len) and gives such a stream up.
    pub fn for_frames_up_to(max_len: usize) -> Self {
        Self { buffer: vec![0; HEADER_LEN + max_len.min(MAX_LEN)].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Makes room for `capacity` bytes if there is less, and keeps what was received.
    pub fn grow(&mut self, capacity: usize) {
        (self.buffer, self.start, self.end) = grown(&self.buffer, self.start..self.end, capacity);
    }

    /// The length that the next frame announces, once its header is there, whether or not the frame is complete.
    pub fn announced_len(&self) -> Option<usize> {
        let received = self.buffer[self.start..self.end].get(..HEADER_LEN)?;
        Some(usize::from(BigEndian::read_u16(received)))
    }

    /// The room to receive into. It is never empty once [`next_frame`](Self::next_frame) has returned `None`, unless the
    /// frame is longer than the decoder was made for.
    ///
    /// What is left of an unfinished frame moves to the front only when the room behind it could not hold
    /// the rest of that frame.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.buffer.len() - self.start < MIN_CAPACITY.min(self.buffer.len()) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// Tells that `len` bytes were received into [`space`](Self::space); more than there was room for is cut.
    pub fn advance(&mut self, len: usize) {
        self.end = self.buffer.len().min(self.end.saturating_add(len));
    }

    /// The next complete frame without its header; it may be empty. `None` if more bytes are needed.
    pub fn next_frame(&mut self) -> Option<&mut [u8]> {
        let len = self.complete_len()?;
        let from = self.start + HEADER_LEN;
        self.start = from + len;
        Some(&mut self.buffer[from..from + len])
    }

    /// Hands out up to `budget` complete frames, which stay where they are for as long as the decoder is not used again.
    pub fn take_frames<'a>(&'a mut self, budget: usize, each: &mut dyn FnMut(&'a mut [u8])) {
        let mut rest = &mut self.buffer[self.start..self.end];
        for _ in 0..budget {
            let Some(header) = rest.get(..HEADER_LEN) else { return };
            let end = HEADER_LEN + usize::from(BigEndian::read_u16(header));
            let Some((frame, behind)) = std::mem::take(&mut rest).split_at_mut_checked(end) else { return };
            self.start += end;
            rest = behind;
            each(&mut frame[HEADER_LEN..]);
        }
    }

    /// True if [`next_frame`](Self::next_frame) would return a frame.
    pub fn has_frame(&self) -> bool {
        self.complete_len().is_some()
    }

    /// True if a frame was begun and not completed: the stream ended or paused in the middle of it.
    pub fn is_mid_frame(&self) -> bool {
        self.start != self.end && !self.has_frame()
    }

    fn complete_len(&self) -> Option<usize> {
        let len = self.announced_len()?;
        (self.end - self.start >= HEADER_LEN + len).then_some(len)
    }
}

/// Collects frames and remembers how much of them has been written.
///
/// Invariant: `start <= end <= buffer.len()`; `buffer[start..end]` is framed and not yet written.
#[derive(Debug)]
pub struct Encoder {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::with_capacity(SEND_CAPACITY)
    }
}

impl Encoder {
    /// An encoder whose buffer holds `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { buffer: vec![0; capacity].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Makes room for `capacity` bytes if there is less, and keeps what was not written yet.
    pub fn grow(&mut self, capacity: usize) {
        (self.buffer, self.start, self.end) = grown(&self.buffer, self.start..self.end, capacity);
    }

    /// True if whatever one read from the device becomes fits.
    pub fn has_room(&self) -> bool {
        self.buffer.len() - self.end >= BURST_ROOM
    }

    /// True if everything has been written.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Appends a frame of `len` bytes, which `fill` writes.
    ///
    /// Returns false, without calling `fill`, if the length is not legal or there is no room; see
    /// [`has_room`](Self::has_room).
    #[must_use]
    pub fn push_with(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let Ok(header) = u16::try_from(len) else { return false };
        let end = self.end + HEADER_LEN + len;
        let Some(room) = self.buffer.get_mut(self.end..end) else { return false };
        let (head, body) = room.split_at_mut(HEADER_LEN);
        BigEndian::write_u16(head, header);
        fill(body);
        self.end = end;
        true
    }

    /// What is to be written next.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Tells that the first `len` bytes of [`pending`](Self::pending) were written.
    pub fn consume(&mut self, len: usize) {
        self.start = self.end.min(self.start.saturating_add(len));
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }
}

/// A buffer of at least `capacity` bytes with what `used` names at its front, and where that lies in it.
fn grown(buffer: &[u8], used: Range<usize>, capacity: usize) -> (Box<[u8]>, usize, usize) {
    let mut larger = vec![0; capacity.max(buffer.len())].into_boxed_slice();
    let len = used.len();
    larger[..len].copy_from_slice(&buffer[used]);
    (larger, 0, len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut wire = Vec::new();
        for frame in frames {
            wire.extend_from_slice(&u16::try_from(frame.len()).expect("a legal length").to_be_bytes());
            wire.extend_from_slice(frame);
        }
        wire
    }

    /// Feeds `wire` in slices of the given lengths (repeated) and returns the frames.
    fn decode_in_slices(decoder: &mut Decoder, mut wire: &[u8], slices: &[usize]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut lengths = slices.iter().copied().cycle();
        while !wire.is_empty() {
            let space = decoder.space();
            assert!(!space.is_empty(), "a decoder without a complete frame has room");
            let len = lengths.next().unwrap_or(1).clamp(1, wire.len()).min(space.len());
            space[..len].copy_from_slice(&wire[..len]);
            decoder.advance(len);
            wire = &wire[len..];
            if frames.len() % 2 == 0 {
                decoder.take_frames(3, &mut |frame| frames.push(frame.to_vec()));
            }
            while let Some(frame) = decoder.next_frame() {
                frames.push(frame.to_vec());
            }
        }
        frames
    }

    #[test]
    fn the_largest_frame_passes_in_the_smallest_decoder() {
        let frames = vec![vec![7; MAX_LEN], vec![], vec![9; MAX_LEN]];
        let mut decoder = Decoder::with_capacity(0);
        assert_eq!(decode_in_slices(&mut decoder, &encode(&frames), &[usize::MAX]), frames);
        assert_eq!(decode_in_slices(&mut decoder, &encode(&frames), &[65_535, 1, 3]), frames);
    }

    #[test]
    fn a_stream_of_single_bytes_stays_in_sync() {
        let frames = vec![vec![1, 2, 3], vec![], vec![4; 300]];
        let mut decoder = Decoder::with_capacity(0);
        assert_eq!(decode_in_slices(&mut decoder, &encode(&frames), &[1]), frames);
        assert!(!decoder.is_mid_frame());
    }

    #[test]
    fn a_small_decoder_takes_its_longest_frame_and_no_longer_one_until_it_grows() {
        let mut decoder = Decoder::for_frames_up_to(216);
        assert_eq!(decoder.space().len(), HEADER_LEN + 216, "no byte more is read than one frame has");
        let frames = vec![vec![3; 216], vec![4; 10], vec![5; 216]];
        assert_eq!(decode_in_slices(&mut decoder, &encode(&frames), &[1]), frames);
        assert_eq!(decode_in_slices(&mut decoder, &encode(&frames), &[usize::MAX]), frames);
        decoder.space()[..3].copy_from_slice(&[0, 217, 9]);
        decoder.advance(3);
        assert_eq!(decoder.announced_len(), Some(217));
        let rest = decoder.space().len();
        decoder.advance(rest);
        assert!(decoder.next_frame().is_none() && decoder.space().is_empty());
        decoder.grow(CAPACITY);
        decoder.space()[0] = 8;
        decoder.advance(1);
        let frame = decoder.next_frame().expect("the frame, now that there is room for it");
        assert_eq!((frame.len(), frame[0], frame[216]), (217, 9, 8));
    }

    #[test]
    fn an_encoder_that_grows_keeps_what_was_not_written() {
        let mut encoder = Encoder::with_capacity(10);
        assert!(encoder.push_with(5, |body| body.copy_from_slice(b"first")));
        assert!(!encoder.push_with(5, |_| panic!("there is no room")));
        encoder.consume(3);
        encoder.grow(SEND_CAPACITY);
        assert!(encoder.has_room());
        assert!(encoder.push_with(4, |body| body.copy_from_slice(b"next")));
        assert_eq!(encoder.pending(), b"irst\0\x04next");
    }

    #[test]
    fn an_unfinished_frame_is_seen_as_such() {
        let mut decoder = Decoder::default();
        decoder.space()[..3].copy_from_slice(&[0, 2, 9]);
        decoder.advance(3);
        assert!(decoder.next_frame().is_none());
        assert!(decoder.is_mid_frame());
    }

    #[test]
    fn the_encoder_refuses_what_does_not_fit_and_keeps_the_rest_whole() {
        let mut encoder = Encoder::default();
        assert!(!encoder.push_with(MAX_LEN + 1, |_| panic!("an illegal length is refused before it is filled")));
        let mut count = 0;
        while encoder.has_room() {
            assert!(encoder.push_with(MAX_LEN, |body| body.fill(1)));
            count += 1;
        }
        while encoder.push_with(MAX_LEN, |body| body.fill(1)) {
            count += 1;
        }
        assert_eq!(count, SEND_CAPACITY / MIN_CAPACITY);
        assert!(!encoder.push_with(MAX_LEN, |_| panic!("there is no room")));
        let total = encoder.pending().len();
        assert_eq!(total, count * MIN_CAPACITY);
        encoder.consume(total - 1);
        assert!(!encoder.is_empty());
        encoder.consume(1);
        assert!(encoder.is_empty() && encoder.has_room());
    }

    proptest! {
        #[test]
        fn any_slicing_gives_the_same_frames(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..40),
            slices in prop::collection::vec(1usize..5000, 1..20),
        ) {
            let mut decoder = Decoder::with_capacity(0);
            prop_assert_eq!(decode_in_slices(&mut decoder, &encode(&frames), &slices), frames);
            prop_assert_eq!(decoder.buffer.len(), MIN_CAPACITY, "the buffer never grows");
        }

        #[test]
        fn what_the_encoder_collects_the_decoder_returns(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..30),
            writes in prop::collection::vec(1usize..9000, 1..10),
        ) {
            let mut encoder = Encoder::default();
            let mut decoder = Decoder::default();
            for frame in &frames {
                prop_assert!(encoder.push_with(frame.len(), |body| body.copy_from_slice(frame)));
            }
            let mut received = Vec::new();
            for len in writes.iter().cycle() {
                if encoder.is_empty() { break; }
                let len = (*len).min(encoder.pending().len()).min(decoder.space().len());
                let chunk = encoder.pending()[..len].to_vec();
                decoder.space()[..len].copy_from_slice(&chunk);
                decoder.advance(len);
                encoder.consume(len);
                while let Some(frame) = decoder.next_frame() { received.push(frame.to_vec()); }
            }
            prop_assert_eq!(received, frames);
        }
    }
}
