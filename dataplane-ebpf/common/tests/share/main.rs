//! The sharing law, held against an exact water-filling that knows nothing of it, and against what it
//! promises (docs/ISOLATION.md).
//!
//! | promise | where |
//! | --- | --- |
//! | demands that stand still: everybody has its weighted max-min share | `settle` |
//! | the link is used while somebody has demand | `settle`, `hostile` |
//! | a guarantee is there at once, whoever else sends, and with an α that nobody renews | `hostile` |
//! | no ceiling is exceeded, nor the link | `hostile` |
//! | another CPU at every step of a packet; many threads | `orders`, `threads` |
//! | one step of α never overshoots | `step` |
//! | what waits departs in order, within its horizon, at the link's rate; guarantees go first | `departs` |
//! | what looks at losses has what it may have | `tcp` |
//! | shares, guarantees and the link are of priced bytes, where packets have a price | `price` |
//!
//! `OCTROI_TEST_LEVEL` and `OCTROI_TEST_SEED` are as for `tests/limiter`.
#![allow(
    clippy::needless_range_loop,
    clippy::manual_checked_ops,
    reason = "several tables of tenants are read side by side"
)]

mod departs;
mod fill;
#[path = "../harness/mod.rs"]
mod harness;
mod hostile;
mod orders;
mod price;
mod settle;
mod step;
mod tcp;
mod threads;
mod world;

use harness::{Draw, level, seed};

/// A draw for each case, and how to repeat it.
fn draw(what: &str) -> Draw {
    let seed = seed();
    println!("SEED: OCTROI_TEST_SEED={seed} ({what})");
    Draw(seed)
}
