//! The window cut: publish the next window, wait until no program can still book in the old one,
//! read it.
//!
//! `delta(k) = bank(k & 1) at seal k − the same bank at seal k − 2`: the banks only grow, so that
//! nothing is cleared and nothing is lost between reading and clearing.

use crate::{
    Error, Result,
    maps::Maps,
    registers::{Bank, Reader},
};
use aya::maps::{Array, MapData};
use dataplane_common::{
    abi::{DIRECTIONS, Epoch, Sizes},
    fault::{self, Point},
};
use std::time::{Duration, Instant};

/// Whether to wait for programs that are still running. [`Barrier::Skip`] exists for the test that
/// shows that the wait is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// Wait: the only right way.
    Wait,
    /// Do not wait. Packets are then booked in a bank that was already read.
    Skip,
}

/// A window that was closed. Its bank is still until the next cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The window that was closed.
    pub window: u32,
    /// Its bank.
    pub bank: u32,
    /// How long the barrier took.
    pub barrier: Duration,
}

impl Sealed {
    /// Reads the sealed bank of `slots`: for each, from the tenant and to the tenant.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn read(&self, maps: &Maps, sizes: &Sizes, slots: &[u32]) -> Result<Vec<[Bank; 2]>> {
        const { assert!(DIRECTIONS == 2) };
        let mut registers = Reader::new(maps, sizes);
        slots
            .iter()
            .map(|slot| {
                let mut read = |direction| registers.bank(self.bank, *slot, direction);
                Ok([read(0)?, read(1)?])
            })
            .collect()
    }
}

/// The epoch in force.
///
/// # Errors
/// [`Error::Map`].
pub fn epoch(maps: &Maps) -> Result<Epoch> {
    maps.epoch
        .get(&0, 0)
        .map(Epoch)
        .map_err(Error::map("EPOCH"))
}

/// Publishes an epoch: one store of 64 bits.
pub(crate) fn publish(maps: &mut Maps, epoch: Epoch) -> Result<()> {
    maps.epoch.set(0, epoch.0, 0).map_err(Error::map("EPOCH"))
}

/// Returns when every program that was running has ended.
///
/// The kernel waits for a grace period in any update of a map of maps
/// (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c), and tc programs run in one read section.
///
/// # Errors
/// [`Error::Map`].
pub fn barrier(maps: &mut Maps) -> Result<()> {
    let inner = Array::<MapData, u32>::create(1, 0).map_err(Error::map("BARRIER"))?;
    maps.barrier
        .set(0, &inner, 0)
        .map_err(Error::map("BARRIER"))
}

/// Closes the open window and returns it sealed.
///
/// # Errors
/// [`Error::Map`]. When publishing failed, the window stays open and nothing has changed.
pub fn cut(maps: &mut Maps, mode: Barrier) -> Result<Sealed> {
    let before = epoch(maps)?;
    publish(
        maps,
        Epoch::new(before.revision(), before.window().wrapping_add(1)),
    )?;
    fault::reach(Point::Published);
    let begun = Instant::now();
    if mode == Barrier::Wait {
        barrier(maps)?;
    }
    fault::reach(Point::Sealed);
    Ok(Sealed {
        window: before.window(),
        bank: before.bank(),
        barrier: begun.elapsed(),
    })
}
