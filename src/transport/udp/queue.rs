//! Datagrams on their way to the socket, grouped into trains that one call can send. Pure: it knows no socket.
//!
//! A train is datagrams of one length laid side by side; a shorter one ends it. Trains leave in order. The queue is
//! emptied whenever the socket takes everything, so it holds more than one train only while the socket is full, and
//! then no more than one read from the device has become.

use std::collections::VecDeque;

use super::MAX_PAYLOAD_IPV6;

/// Limits of a train: `UDP_MAX_SEGMENTS` of `include/linux/udp.h` as it was at first, and the IP length field.
const MAX_TRAIN_COUNT: usize = 64;
const MAX_TRAIN_BYTES: usize = 65_000;

/// Room for what one read from the device can become (64 KiB cut into the smallest segments, each with headers), behind
/// a train that is being collected.
const CAPACITY: usize = 320 * 1024;

/// Trains that wait at most; one read from the device becomes about half as many.
const MAX_TRAINS: usize = 64;

/// Datagrams that one call can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train<'a> {
    /// The datagrams side by side.
    pub bytes: &'a [u8],
    /// The length of each but the last, which may be shorter.
    pub segment: usize,
    /// How many there are.
    pub count: usize,
}

/// Invariant: the trains lie one behind the other in `buffer[..end]`, in the order in which they leave.
#[derive(Debug)]
pub struct SendQueue {
    buffer: Box<[u8]>,
    end: usize,
    trains: VecDeque<Span>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    len: usize,
    segment: usize,
    count: usize,
    /// Nothing more may be appended.
    complete: bool,
}

impl Default for SendQueue {
    fn default() -> Self {
        Self { buffer: vec![0; CAPACITY].into_boxed_slice(), end: 0, trains: VecDeque::with_capacity(MAX_TRAINS) }
    }
}

impl SendQueue {
    /// True if a datagram of this length joins the train that is being collected.
    pub fn continues(&self, len: usize) -> bool {
        self.trains.back().is_some_and(|train| train.takes(len))
    }

    /// Appends a datagram of `len` bytes, which `fill` writes, to the last train or as the first of a new one. Returns
    /// false, without calling `fill`, if there is no room or no datagram is that long.
    #[must_use]
    pub fn push_with(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        let Some(room) = self.buffer.get_mut(self.end..self.end + len).filter(|_| len <= MAX_PAYLOAD_IPV6) else {
            return false;
        };
        let may_begin = self.trains.len() < MAX_TRAINS;
        match self.trains.back_mut().filter(|train| train.takes(len)) {
            Some(train) => {
                train.complete = len < train.segment;
                train.len += len;
                train.count += 1;
            }
            None if may_begin => {
                self.trains.push_back(Span { start: self.end, len, segment: len, count: 1, complete: len == 0 });
            }
            None => return false,
        }
        fill(room);
        self.end += len;
        true
    }

    /// The train that leaves next.
    pub fn front(&self) -> Option<Train<'_>> {
        self.trains.front().map(|train| Train {
            bytes: &self.buffer[train.start..train.start + train.len],
            segment: train.segment,
            count: train.count,
        })
    }

    /// The first train has left, or is lost.
    pub fn pop_train(&mut self) {
        self.trains.pop_front();
        self.reuse();
    }

    /// The first datagram of the first train has left by itself, or is lost.
    pub fn pop_datagram(&mut self) {
        if let Some(train) = self.trains.front_mut() {
            let len = train.segment.min(train.len);
            train.start += len;
            train.len -= len;
            train.count -= 1;
            // What was cut off at the front can no longer be continued as a whole.
            train.complete = true;
            if train.count == 0 {
                self.trains.pop_front();
            }
        }
        self.reuse();
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.trains.clear();
        self.reuse();
    }

    fn reuse(&mut self) {
        if self.trains.is_empty() {
            self.end = 0;
        }
    }
}

impl Span {
    fn takes(&self, len: usize) -> bool {
        !self.complete
            && len > 0
            && len <= self.segment
            && self.count < MAX_TRAIN_COUNT
            && self.len + len <= MAX_TRAIN_BYTES
    }
}

impl<'a> Train<'a> {
    /// Its first datagram.
    pub fn first(&self) -> &'a [u8] {
        &self.bytes[..self.segment.min(self.bytes.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn push(queue: &mut SendQueue, datagram: &[u8]) -> bool {
        queue.push_with(datagram.len(), &mut |room| room.copy_from_slice(datagram))
    }

    #[test]
    fn equal_datagrams_share_a_train_that_a_shorter_one_ends() {
        let mut queue = SendQueue::default();
        for len in [100, 100, 40, 40, 200] {
            assert!(push(&mut queue, &vec![len as u8; len]));
        }
        let mut trains = Vec::new();
        while let Some(train) = queue.front() {
            trains.push((train.segment, train.count, train.bytes.len()));
            queue.pop_train();
        }
        assert_eq!(trains, [(100, 3, 240), (40, 1, 40), (200, 1, 200)]);
    }

    #[test]
    fn a_train_has_a_greatest_count_and_length() {
        let mut queue = SendQueue::default();
        (0..130).for_each(|_| assert!(push(&mut queue, &[1; 10])));
        let counts: Vec<usize> = std::iter::from_fn(|| {
            let count = queue.front()?.count;
            queue.pop_train();
            Some(count)
        })
        .collect();
        assert_eq!(counts, [64, 64, 2]);
        (0..3).for_each(|_| assert!(push(&mut queue, &[1; 40_000])));
        assert_eq!(queue.front().map(|train| train.count), Some(1), "two would be longer than a train may be");
    }

    #[test]
    fn the_largest_read_of_the_device_fits_behind_a_full_train() {
        let mut queue = SendQueue::default();
        (0..64).for_each(|_| assert!(push(&mut queue, &[0; 1000])));
        // 64 KiB of payload in segments of 36 bytes behind 80 bytes of headers.
        (0..65_535 / 36).for_each(|index| assert!(push(&mut queue, &[0; 116]), "segment {index}"));
        let mut refused = 0;
        (0..5000).for_each(|index| refused += usize::from(!push(&mut queue, &vec![0; 100 + index % 7])));
        assert!(refused > 0, "the queue is bounded");
    }

    proptest! {
        #[test]
        fn datagrams_leave_as_they_came_whether_as_trains_or_one_by_one(
            datagrams in prop::collection::vec((0usize..4).prop_map(|size| [0, 1, 300, 1400][size]), 1..200),
            singly in any::<u64>(),
        ) {
            let mut queue = SendQueue::default();
            let mut expected = Vec::new();
            let mut left = Vec::new();
            for (index, len) in datagrams.iter().enumerate() {
                let datagram = vec![index as u8; *len];
                if push(&mut queue, &datagram) { expected.push(datagram); }
                while singly >> (index % 64) & 1 == 1 && let Some(train) = queue.front() {
                    if train.count > 1 && index % 3 == 0 {
                        left.extend(train.bytes.chunks(train.segment).map(<[u8]>::to_vec));
                        queue.pop_train();
                    } else {
                        left.push(train.first().to_vec());
                        queue.pop_datagram();
                    }
                }
            }
            while let Some(train) = queue.front() {
                left.push(train.first().to_vec());
                queue.pop_datagram();
            }
            prop_assert_eq!(left, expected);
        }
    }
}
