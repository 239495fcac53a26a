//! Parse and limiter on the host: the same functions that run in the kernel. etherparse parses the
//! same frame in the same run.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use bench::{frame, times};
use criterion::{Criterion, criterion_group, criterion_main};
use dataplane_common::{
    abi::LimitPolicy,
    limit::Rate,
    limiter::Now,
    parse::{Meta, Slice, parse},
    units::BitsPerSecond,
};
use std::{cell::Cell, hint::black_box, sync::atomic::AtomicU64};

/// A clock that moves by a fixed step, so that the limiter and not the clock is measured.
struct Steps(Cell<u64>);

impl Now for Steps {
    fn coarse_ns(&self) -> u64 {
        self.exact_ns()
    }
    fn exact_ns(&self) -> u64 {
        self.0.set(self.0.get() + 100);
        self.0.get()
    }
}

fn host(criterion: &mut Criterion) {
    let frame = frame(true);
    let meta = Meta {
        len: frame.len() as u32,
        ..Meta::default()
    };
    criterion.bench_function("host/parse/octroi", |bencher| {
        bencher.iter(|| parse(&Slice(black_box(&frame)), &meta));
    });
    criterion.bench_function("host/parse/etherparse", |bencher| {
        bencher.iter(|| etherparse::SlicedPacket::from_ethernet(black_box(&frame)));
    });
    let rate = Rate::bytes(BitsPerSecond(10_000_000_000));
    let policy = LimitPolicy::begin(rate, 10_000_000, 0, &times());
    let (clock, now) = (&AtomicU64::new(0), Steps(Cell::new(policy.origin_ns)));
    criterion.bench_function("host/limiter", |bencher| {
        bencher.iter(|| policy.take(&clock, &now, black_box(1_000)));
    });
}

criterion_group!(benches, host);
criterion_main!(benches);
