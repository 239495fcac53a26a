//! What the two halves of the gate share: units, the ABI of the maps, and every decision about a
//! packet that needs no helper call.
//!
//! Invariants
//! - Nothing here reads a clock, a map or a packet by itself: bytes, state and `now` are arguments.
//!   The same functions run in the kernel, under host tests, and under the fuzzer.
//! - Every loop has a bound that the verifier and a reader can see.
//! - No panic on any input: an impossible packet is a [`reason::DropReason`].
//!
//! The modules stand in the order of a packet's way: [`parse`] → [`antispoof`] → [`zone`] →
//! [`wire`] → [`thin`] → [`limiter`] → [`share`] → [`encryption`] → [`quota`] → [`ecn`] → [`flow`];
//! [`outgoing`] and [`flood`] are the uplink's; [`abi`] is the memory that the kernel and the daemon both map.
#![cfg_attr(not(feature = "std"), no_std)]

pub mod abi;
pub mod antispoof;
pub mod ecn;
pub mod encryption;
pub mod fair;
#[cfg(feature = "std")]
pub mod fault;
pub mod flood;
pub mod flow;
#[cfg(feature = "std")]
pub mod limit;
pub mod limiter;
pub mod outgoing;
pub mod parse;
pub mod quota;
pub mod reason;
pub mod share;
pub mod thin;
#[cfg(feature = "std")]
pub mod units;
pub mod wire;
pub mod zone;
