//! What was counted in a window, from the two banks of registers.
//!
//! A packet of window `k` is booked in bank `k & 1`, so a sealed bank is still until the window after
//! the next one opens. Registers only grow and are never cleared:
//!
//! `delta(k) = bank(k & 1) at seal k − the same bank at seal k − 2`
//!
//! Invariants (property tests below)
//! - Σ deltas = what was booked, register by register, whatever the cuts.
//! - [`Windows::registers`] after seal `k` less the same after seal `k − 1` = delta(k): windows are
//!   the differences of meter readings, and a reader needs nothing but the readings to check them.
//! - A seal is taken whole or, with an error, not at all.
//!
//! What it is not: it does not read the kernel (`dataplane::cut` does), and it does not know who
//! owns a slot. Time is not here either: a window is a number.

use dataplane_common::abi::Epoch;
use std::collections::BTreeMap;

/// One register of a bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Register slot of the port.
    pub slot: u32,
    /// `dataplane_common::abi::FROM_TENANT` or `TO_TENANT`.
    pub direction: u32,
    /// Zone's number.
    pub zone: u32,
}

/// What a register counts, as on the wire. The names are the units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Frames.
    pub packets: u64,
    /// Layer-2 bytes, from the Ethernet header to the end of the frame, without FCS.
    pub l2_bytes: u64,
    /// IP bytes; 0 for what is not IP.
    pub l3_bytes: u64,
}

/// One reading of every register of a bank, or a difference of two.
pub type Bank = BTreeMap<Key, Counts>;

/// Why a seal is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// A window was left out, or sealed twice: its bank's last reading is not that of two ago.
    #[error("window {found} was sealed where window {expected} is next")]
    Order {
        /// The window after the last one sealed.
        expected: u32,
        /// The one that was given.
        found: u32,
    },
    /// A register stands below its last reading. Registers only grow, and at 400 Gbit/s a u64 of
    /// bytes lasts 11 years: this is another map's register, or somebody wrote to it.
    #[error("window {window}: register {key:?} went back from {before:?} to {now:?}")]
    WentBack {
        /// The window that was to be sealed.
        window: u32,
        /// Which register.
        key: Key,
        /// Its bank at the seal of two windows ago.
        before: Counts,
        /// Its bank now.
        now: Counts,
    },
    /// A register that was read before is not in the reading: what it has counted since is unknown.
    #[error("window {window}: register {key:?} was not read")]
    NotRead {
        /// The window that was to be sealed.
        window: u32,
        /// Which register.
        key: Key,
    },
    /// A sum is past 2^64.
    #[error("a sum with register {key:?} is past 2^64")]
    Overflow {
        /// The register that did not fit.
        key: Key,
    },
}

impl Counts {
    /// Both together; `None` past 2^64.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            packets: self.packets.checked_add(other.packets)?,
            l2_bytes: self.l2_bytes.checked_add(other.l2_bytes)?,
            l3_bytes: self.l3_bytes.checked_add(other.l3_bytes)?,
        })
    }

    /// What came after `before`; `None` when any of the three is below it.
    #[must_use]
    pub fn checked_sub(self, before: Self) -> Option<Self> {
        Some(Self {
            packets: self.packets.checked_sub(before.packets)?,
            l2_bytes: self.l2_bytes.checked_sub(before.l2_bytes)?,
            l3_bytes: self.l3_bytes.checked_sub(before.l3_bytes)?,
        })
    }
}

/// The sealed state of both banks, and which window comes next.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    /// By bank: its last sealed reading.
    sealed: [Bank; 2],
    /// `None` before the first seal.
    next: Option<u32>,
}

impl Windows {
    /// At the making of the maps: every register is 0, and any window may be the first.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the reading of the bank of `window`, which was just sealed, and returns what was booked
    /// in that window. A register that was never read before stood at 0.
    ///
    /// # Errors
    /// [`WindowError::Order`], [`WindowError::WentBack`], [`WindowError::NotRead`]. The seal is then
    /// as if it had not been tried.
    pub fn seal(&mut self, window: u32, bank: Bank) -> Result<Bank, WindowError> {
        let expected = self.next.unwrap_or(window);
        if window != expected {
            return Err(WindowError::Order {
                expected,
                found: window,
            });
        }
        // The programs choose the bank by the same function.
        let last = &mut self.sealed[Epoch::new(0, window).bank() as usize];
        if let Some(key) = last.keys().find(|key| !bank.contains_key(key)) {
            return Err(WindowError::NotRead { window, key: *key });
        }
        let delta = bank
            .iter()
            .map(|(&key, &now)| {
                let before = last.get(&key).copied().unwrap_or_default();
                now.checked_sub(before)
                    .map(|delta| (key, delta))
                    .ok_or(WindowError::WentBack {
                        window,
                        key,
                        before,
                        now,
                    })
            })
            .collect::<Result<Bank, _>>()?;
        *last = bank;
        self.next = Some(window.wrapping_add(1));
        Ok(delta)
    }

    /// The meter reading: both banks' sums as they were last sealed.
    ///
    /// # Errors
    /// [`WindowError::Overflow`].
    pub fn registers(&self) -> Result<Bank, WindowError> {
        let [even, odd] = &self.sealed;
        let mut sums = even.clone();
        for (&key, &counts) in odd {
            let sum = sums.entry(key).or_default();
            *sum = sum
                .checked_add(counts)
                .ok_or(WindowError::Overflow { key })?;
        }
        Ok(sums)
    }
}

/// The sums over zones, by slot and direction: the `zone = *` of a record.
///
/// # Errors
/// [`WindowError::Overflow`].
pub fn totals(bank: &Bank) -> Result<BTreeMap<(u32, u32), Counts>, WindowError> {
    let mut totals = BTreeMap::<_, Counts>::new();
    for (&key, &counts) in bank {
        let total = totals.entry((key.slot, key.direction)).or_default();
        *total = total
            .checked_add(counts)
            .ok_or(WindowError::Overflow { key })?;
    }
    Ok(totals)
}

#[cfg(test)]
mod tests;
