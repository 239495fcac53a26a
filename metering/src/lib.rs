//! From the gate's registers to a bill: windows and records now; ledger and statements grow from here.
//!
//! Invariants
//! - What is billed adds up: sums are checked, integers only, and a register that goes back is an
//!   error that names it, never a guess.
//! - Nothing here reads a clock, a map or a file by itself: readings are arguments, so that the same
//!   code runs under a daemon, under a property test and over a ledger of last year.
//!
//! What it is not: it knows no kernel and no map. `octroi`, the binary, reads the registers with
//! `dataplane` and hands them over.

pub mod flow;
pub mod ledger;
pub mod meter;
pub mod note;
mod owner;
pub mod proof;
pub mod record;
pub mod sink;
pub mod statement;
pub mod tree;
pub mod usage;
pub mod verify;
pub mod window;
