//! Tests of the configuration as a whole.

mod accepted;
mod changes;
mod generate;
mod messages;
mod properties;

/// Splitmix64: the same numbers on every machine (Steele, Lea, Flood 2014).
pub(super) struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..bound`; `bound` is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// One of `least..=most`, with every magnitude about as likely.
    pub fn magnitude(&mut self, least: u64, most: u64) -> u64 {
        let bits = self.below(65) as u32;
        let number = self.next().checked_shr(bits).unwrap_or(0);
        match self.below(8) {
            0 => least,
            1 => most,
            _ => least + number % (most - least).saturating_add(1).max(1),
        }
    }

    /// Whether the next of `outcomes` is the one; on average one in so many.
    pub fn one_in(&mut self, outcomes: usize) -> bool {
        self.below(outcomes) == 0
    }

    /// One of `items`, of which there is at least one.
    pub fn pick<'i, T>(&mut self, items: &'i [T]) -> &'i T {
        &items[self.below(items.len())]
    }
}

/// The seed of a run: `OCTROI_TEST_SEED`, or always the same.
pub(super) fn seed() -> u64 {
    let given = std::env::var("OCTROI_TEST_SEED").ok();
    given
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0x0c7_2018)
}
