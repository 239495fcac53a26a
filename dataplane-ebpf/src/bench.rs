//! The benches' draw: `BPF_PROG_TEST_RUN` gives every packet the same interface, so the programs
//! `bench_*` take the next one of a table that the bench has filled. Nobody else loads them, and
//! nobody attaches them.

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
};

use crate::maps;

/// Entries of `BENCH_PICKS` when a bench has loaded it: a power of two, known to the verifier.
const PICKS_MAX: u32 = 65_536;

/// Interface indices.
#[btf_map]
static BENCH_PICKS: Array<u32, 1> = Array::new();
/// Packets so far.
#[btf_map]
static BENCH_RUNS: PerCpuArray<u32, 1> = PerCpuArray::new();

/// The interface of this packet; 0 when none was drawn.
#[inline(always)]
pub fn pick() -> u32 {
    let Some(runs) = BENCH_RUNS.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own copy.
    let at = unsafe {
        *runs = (*runs).wrapping_add(1);
        *runs
    };
    BENCH_PICKS.get(at % PICKS_MAX).copied().unwrap_or(0)
}

/// Makes the first conversation of the first bucket what its last one is, but for its key. A packet that moves its
/// stream on could not be judged twice otherwise.
#[inline(always)]
pub fn rewind() {
    let Some(bucket) = maps::CONVERSATIONS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: points into an array map, whose elements live as long as the map; nobody else runs.
    let ways = unsafe { &mut (*bucket).ways };
    let key = ways[0].key;
    ways[0] = ways[3];
    ways[0].key = key;
}
