//! What judges the gate's decisions from outside: frames, and a second opinion on each.
//!
//! - [`headers`] writes frames, [`shapes`] throws the dice for them, [`mutate`] damages them.
//! - [`reader`] reads them with etherparse and says what must come of it. It has no code of octroi's.
//! - [`compare`] sets octroi's parser against the reader.
//! - [`host`] is the gate as the host builds it, which the loaded programs are set against.
//! - [`segments`] makes super-packets, and the frames that they become.
//! - [`input`] is all of it in one run of bytes, for the fuzzer.
//!
//! The same frames serve the host's tests, the loaded programs, the captures and the fuzzer.
#![allow(dead_code, reason = "each test uses its own part of this")]

pub mod compare;
pub mod dice;
pub mod headers;
pub mod host;
pub mod input;
pub mod mutate;
pub mod people;
pub mod reader;
pub mod segments;
pub mod shapes;
