//! How long to wait after failures, so that a sink that comes back is not knocked over by all hosts at once.

use std::time::Duration;

/// Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015): after the n-th failure in
/// a row anything up to `FIRST` · 2^n, at most `MOST`.
#[derive(Clone, Debug)]
pub struct Backoff {
    failures: u32,
    random: u64,
}

impl Backoff {
    /// The longest wait after the first failure.
    pub const FIRST: Duration = Duration::from_millis(500);
    /// The longest wait at all.
    pub const MOST: Duration = Duration::from_secs(60);

    /// Two hosts must not have one seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            failures: 0,
            random: seed | 1,
        }
    }

    /// It worked.
    pub fn worked(&mut self) {
        self.failures = 0;
    }

    /// It failed once more: how long to wait.
    pub fn failed(&mut self) -> Duration {
        let most = Self::FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(Self::MOST);
        self.failures = self.failures.saturating_add(1);
        // xorshift64 (Marsaglia 2003): hosts must differ, not more.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random % nanos.max(1))
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_differ_between_hosts_and_begin_anew_after_success() {
        let most = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..200).map(|_| backoff.failed()).collect::<Vec<_>>()
        };
        let (one, other) = (most(7), most(8));
        assert_ne!(one, other);
        assert!(one.iter().all(|wait| *wait < Backoff::MOST));
        assert!(one[0] < Backoff::FIRST && one[1] < Backoff::FIRST * 2);
        assert!(one[8..].iter().any(|wait| *wait > Backoff::MOST / 2));
        let mut backoff = Backoff::new(7);
        backoff.failed();
        backoff.worked();
        assert_eq!(backoff.failures(), 0);
        assert!(backoff.failed() < Backoff::FIRST);
    }
}
