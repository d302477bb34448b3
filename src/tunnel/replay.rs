//! The replay window of RFC 6479: which counters of a lane were accepted already. Pure.
//!
//! It is asked before a message is opened and told only after the message proved authentic.

/// Counters that are remembered, the greatest accepted one among them.
pub const WINDOW: u64 = 16_384;

const BITS: u64 = u64::BITS as u64;

/// One block more than the window, so that a block can be cleared as a whole before it is used again.
const BLOCKS: usize = (WINDOW / BITS) as usize + 1;

/// Invariant: bit `c % 64` of block `(c / 64) % BLOCKS` says whether counter `c` was accepted, for every `c` that is not
/// behind the window.
pub struct ReplayWindow {
    blocks: Box<[u64; BLOCKS]>,
    /// One more than the greatest accepted counter; 0 before the first.
    end: u64,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { blocks: Box::new([0; BLOCKS]), end: 0 }
    }
}

impl ReplayWindow {
    /// True if this counter may be accepted: it is new and not behind the window.
    #[must_use]
    pub fn accepts(&self, counter: u64) -> bool {
        if counter >= self.end {
            return counter < u64::MAX;
        }
        self.end - counter <= WINDOW && self.blocks[block(counter)] & bit(counter) == 0
    }

    /// One more than the greatest accepted counter: how many messages the sender has sealed at least.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// True if this counter is greater than all that were accepted.
    #[must_use]
    pub fn is_newest(&self, counter: u64) -> bool {
        counter >= self.end
    }

    /// Remembers a counter whose message was authentic and that [`accepts`](Self::accepts) has let through.
    pub fn commit(&mut self, counter: u64) {
        if counter == u64::MAX {
            return;
        }
        if counter >= self.end {
            let newest_block = self.end.checked_sub(1).map(|newest| newest / BITS);
            let first_new = newest_block.map_or(0, |block| block + 1);
            let first_kept = (counter / BITS).saturating_sub(BLOCKS as u64 - 1);
            for index in first_new.max(first_kept)..=counter / BITS {
                self.blocks[(index % BLOCKS as u64) as usize] = 0;
            }
            self.end = counter + 1;
        }
        self.blocks[block(counter)] |= bit(counter);
    }
}

fn block(counter: u64) -> usize {
    ((counter / BITS) % BLOCKS as u64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// What the window is by definition.
    #[derive(Default)]
    struct Model {
        accepted: HashSet<u64>,
        greatest: Option<u64>,
    }

    impl Model {
        fn accepts(&self, counter: u64) -> bool {
            counter != u64::MAX
                && self.greatest.is_none_or(|greatest| counter > greatest || greatest - counter < WINDOW)
                && !self.accepted.contains(&counter)
        }

        fn commit(&mut self, counter: u64) {
            self.accepted.insert(counter);
            self.greatest = self.greatest.max(Some(counter));
        }
    }

    #[test]
    fn the_oldest_counter_of_the_window_is_accepted_and_the_one_behind_it_is_not() {
        let mut window = ReplayWindow::default();
        window.commit(WINDOW + 99);
        assert!(window.accepts(100) && !window.accepts(99));
        window.commit(100);
        assert!(!window.accepts(100) && !window.accepts(WINDOW + 99));
    }

    #[test]
    fn the_greatest_counter_of_all_is_never_accepted() {
        let mut window = ReplayWindow::default();
        assert!(!window.accepts(u64::MAX));
        window.commit(u64::MAX);
        assert!(window.accepts(0), "it has changed nothing");
        window.commit(u64::MAX - 1);
        assert!(!window.accepts(u64::MAX - 1) && !window.accepts(u64::MAX) && !window.accepts(0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_window_agrees_with_a_set(
            start in prop_oneof![Just(0u64), any::<u64>()],
            steps in prop::collection::vec(
                prop_oneof![
                    -3i64..4, -200i64..200, -20_000i64..20_000, -70i64..-60, 16_380i64..16_390, -16_390i64..-16_380,
                    any::<i64>().prop_map(|jump| jump / 4),
                ],
                1..200,
            ),
        ) {
            let (mut window, mut model, mut counter) = (ReplayWindow::default(), Model::default(), start);
            for step in steps {
                counter = counter.saturating_add_signed(step);
                prop_assert_eq!(window.accepts(counter), model.accepts(counter), "counter {}", counter);
                if model.accepts(counter) {
                    prop_assert_eq!(window.is_newest(counter), model.greatest.is_none_or(|greatest| counter > greatest));
                    window.commit(counter);
                    model.commit(counter);
                }
            }
        }
    }
}
