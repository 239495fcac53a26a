//! The benches' draw: `BPF_PROG_TEST_RUN` gives every packet the same interface, so the programs
//! `bench_*` take the next one of a table that the bench has filled. Nobody else loads them, and
//! nobody attaches them.

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
};

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
