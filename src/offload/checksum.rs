//! The Internet checksum (RFC 1071), in a form that the compiler turns into vector instructions.

use std::ops::Range;

use byteorder::{BigEndian, ByteOrder, NativeEndian};

/// Bytes that are summed side by side.
const LANES: usize = 8;
const BLOCK: usize = 4 * LANES;

/// A running one's complement sum. It is kept in native byte order, which the sum does not mind (RFC 1071, 2 (B)),
/// and unfolded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`; an odd last byte counts as if a zero followed.
    pub fn of(bytes: &[u8]) -> Self {
        let mut lanes = [0u64; LANES];
        let mut blocks = bytes.chunks_exact(BLOCK);
        for block in &mut blocks {
            for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
                *lane += u64::from(NativeEndian::read_u32(word));
            }
        }
        let mut sum: u64 = lanes.iter().sum();
        let mut words = blocks.remainder().chunks_exact(4);
        for word in &mut words {
            sum += u64::from(NativeEndian::read_u32(word));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(words.remainder()) {
            *to = *from;
        }
        Self(sum + u64::from(NativeEndian::read_u32(&last)))
    }

    /// A 16-bit number as it stands on the wire, in network byte order.
    pub fn of_number(number: u16) -> Self {
        let mut bytes = [0; 2];
        BigEndian::write_u16(&mut bytes, number);
        Self(u64::from(NativeEndian::read_u16(&bytes)))
    }

    /// Both together. The second must begin at an even offset of what is summed.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// This sum without the number.
    #[must_use]
    pub fn minus_number(self, number: u16) -> Self {
        self.plus(Self(u64::from(!(Self::of_number(number).0 as u16))))
    }

    /// The checksum at `at` of `header` after `change` has been made to the whole 16-bit words of `changed`, adjusted and
    /// not computed anew (RFC 1624, equation 3): a wrong one stays wrong.
    pub fn adjust(header: &mut [u8], at: usize, changed: Range<usize>, change: impl FnOnce(&mut [u8])) {
        let before = Self::of(&header[changed.clone()]).fold();
        change(header);
        let after = Self::of(&header[changed]);
        let checksum = BigEndian::read_u16(&header[at..at + 2]);
        let sum = Self::of_number(!checksum).minus_number(before).plus(after);
        BigEndian::write_u16(&mut header[at..at + 2], sum.finish());
    }

    /// The sum folded to 16 bits, as the kernel keeps it for the pseudo-header of a packet whose checksum is still to
    /// be completed.
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        let mut bytes = [0; 2];
        NativeEndian::write_u16(&mut bytes, sum as u16);
        BigEndian::read_u16(&bytes)
    }

    /// The checksum: the complement of the folded sum.
    pub fn finish(self) -> u16 {
        !self.fold()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, 4.1: one number at a time.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
    }

    #[test]
    fn the_largest_packet_of_ones_does_not_overflow() {
        assert_eq!(Sum::of(&vec![0xff; 65_535]).finish(), plain(&vec![0xff; 65_535]));
    }

    proptest! {
        #[test]
        fn it_equals_the_plain_sum(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Sum::of(&bytes).finish(), plain(&bytes));
        }

        #[test]
        fn parts_add_up(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..200, number: u16) {
            let (head, tail) = bytes.split_at((at * 2).min(bytes.len() & !1));
            prop_assert_eq!(Sum::of(head).plus(Sum::of(tail)).fold(), Sum::of(&bytes).fold());
            let with = Sum::of(&bytes).plus(Sum::of_number(number)).minus_number(number).fold();
            // Zero has two forms in one's complement.
            let without = Sum::of(&bytes).fold();
            prop_assert!(with == without || (with == 0xffff && without == 0));
        }
    }
}
