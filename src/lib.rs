//! octroi: the only place where configuration, dataplane and metering meet.
//!
//! The binary is `main.rs`; these modules are a library so that the integration tests drive the
//! same code.

mod access;
pub mod cli;
pub mod config;
mod correct;
pub mod daemon;
pub mod demo;
pub mod doctor;
mod encryption;
mod explain;
mod flood;
mod flows;
mod generate;
mod import;
mod keeping;
pub mod lab;
pub mod live;
pub mod loader;
pub mod metrics;
pub mod period;
mod price;
mod privacy;
mod proof;
mod provide;
mod quota;
mod reconcile;
mod records;
mod sinks;
mod statement;
pub mod status;
mod store;
mod top;
mod usage;
