//! Where the choices of a run come from: the bytes of a fuzzer, or a seed.

use simpletun::tunnel::secure::Randomness;

/// Choices, one after the other; the same ones each time.
pub struct Script<'s> {
    bytes: Option<&'s [u8]>,
    chance: Chance,
}

impl<'s> Script<'s> {
    /// Of these bytes, as long as they last; without any, of the seed.
    pub fn new(bytes: Option<&'s [u8]>, seed: u64) -> Self {
        Self { bytes, chance: Chance::new(seed, 0) }
    }

    /// True if there are no bytes left.
    pub fn is_over(&self) -> bool {
        self.bytes.is_some_and(<[u8]>::is_empty)
    }

    /// A number below `end`, which is 256 at most; 0 when the bytes are used up.
    pub fn below(&mut self, end: u64) -> u64 {
        match &mut self.bytes {
            None => self.chance.next() % end,
            Some(bytes) => match bytes.split_first() {
                Some((first, rest)) => {
                    *bytes = rest;
                    u64::from(*first) % end
                }
                None => 0,
            },
        }
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == times - 1
    }
}

/// SplitMix64: bytes that differ for each seed and stream, and repeat themselves.
pub struct Chance(u64);

impl Chance {
    /// The stream of this number.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut chance = Self(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        chance.next();
        chance
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Randomness for Chance {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]);
        }
        true
    }
}
