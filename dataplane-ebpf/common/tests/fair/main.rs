//! What is promised of fat flows at one ceiling (`dataplane_common::fair`).
//!
//! | promise | where |
//! | --- | --- |
//! | flows that want more than there is have equal parts, 1 to 1,000 of them, 1 Mbit/s to 25 Gbit/s, whatever their packets' sizes | `parts` |
//! | who wants less has it; who comes has a part at once, and who goes leaves it at once | `parts` |
//! | what looks at losses as TCP does has equal parts, alone all of it, and its part beside what looks at nothing | `tcp` |
//! | a flow has at most the line's growth, a reach and one packet | `bounds` |
//! | the ceiling's bound, with refusals and what is given back, in any order of arrivals | `bounds` |
//! | nothing is refused, read or written where the limit has no queue | `bounds` |
//! | a refused packet is booked nowhere; what is given back was never there | `bounds` |
//! | clocks wrap, time jumps, a packet may be longer than a reach | `bounds` |
//! | what an uplink asks is what the port would say | `bounds` |
//!
//! `OCTROI_TEST_LEVEL` and `OCTROI_TEST_SEED` are as in `tests/limiter`.

mod bounds;
#[path = "../harness/mod.rs"]
mod harness;
mod parts;
mod port;
mod tcp;

use harness::{Draw, seed};

fn draw(what: &str) -> Draw {
    let seed = seed();
    println!("SEED: OCTROI_TEST_SEED={seed} ({what})");
    Draw(seed)
}
