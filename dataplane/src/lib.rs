//! The kernel's other half: loads, attaches, pins, configures and reads the gate. Knows no billing
//! and no configuration file.
//!
//! Invariants
//! - What the kernel enforces goes on when this library, or the process around it, is gone: maps,
//!   programs and links are pinned, and every change is made so that a stop in its middle leaves
//!   either the old or the new state in force.
//! - Registers are only read here. What belongs to an earlier owner of a slot is subtracted.
//! - A policy revision is written beside the one in force and published with one store.
//!
//! Start at [`gate::Gate`].

pub mod attach;
pub mod btf;
pub mod cut;
pub mod encryption;
pub mod error;
pub mod flows;
pub mod gate;
pub mod host;
pub mod maps;
pub mod netlink;
pub mod object;
pub mod pins;
pub mod policy;
pub mod provide;
pub mod quota;
pub mod registers;
pub mod shaping;
pub mod share;
mod slots;

pub use error::{Error, Result};
