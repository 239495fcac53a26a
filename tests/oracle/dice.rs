//! Seeded chance: the same seed gives the same frames, on every machine.

/// A stream of choices (SplitMix64; Steele, Lea and Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The choices of one case. Cases are independent, so that one that fails can be run alone.
    pub fn new(seed: u64, case: u64) -> Self {
        let mut dice = Self(seed ^ case.wrapping_mul(0xD134_2543_DE82_EF95));
        dice.roll();
        dice
    }

    /// 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// 0..`bound`; the bias is below 2^-32 for the bounds used here.
    pub fn below(&mut self, bound: usize) -> usize {
        ((self.roll() >> 32) as usize * bound) >> 32
    }

    /// `low..=high`.
    pub fn within(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True once in `many`.
    pub fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    /// One of `from`.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// One of `from` by weight.
    pub fn weighted<T: Copy>(&mut self, from: &[(usize, T)]) -> T {
        let mut left = self.below(from.iter().map(|(weight, _)| weight).sum());
        for (weight, value) in from {
            if left < *weight {
                return *value;
            }
            left -= weight;
        }
        unreachable!("`left` is below the sum of the weights")
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.roll() as u8
    }

    /// Two bytes.
    pub fn word(&mut self) -> u16 {
        self.roll() as u16
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.roll().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }
}

/// The seed of this run: `OCTROI_TEST_SEED`, or always the same one.
pub fn seed() -> u64 {
    match std::env::var("OCTROI_TEST_SEED") {
        Ok(text) => text.parse().expect("OCTROI_TEST_SEED is a decimal number"),
        Err(_) => 0x0C70_1201,
    }
}

/// A number of cases by `OCTROI_TEST_LEVEL`, `normal` when it is not set.
pub fn cases(quick: u64, normal: u64, long: u64) -> u64 {
    match std::env::var("OCTROI_TEST_LEVEL").as_deref() {
        Ok("quick") => quick,
        Ok("long") => long,
        _ => normal,
    }
}

/// Runs `cases` on every processor, in runs of consecutive numbers; `work` gets one run and gives
/// back what it counted.
pub fn in_parallel<T: Send>(cases: u64, work: impl Fn(std::ops::Range<u64>) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let share = cases.div_ceil(threads);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads)
            .map(|thread| {
                let work = &work;
                scope.spawn(move || work(thread * share..cases.min((thread + 1) * share)))
            })
            .collect();
        // A panic in a run is the test's failure, with its own message.
        runs.into_iter()
            .map(|run| {
                run.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}
