//! Any bytes as a frame: parser, spoof check, byte contract and zones never panic, and the parser
//! agrees with etherparse.
#![no_main]

#[path = "../../fixtures/mod.rs"]
mod fixtures;
#[path = "../../oracle/mod.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use oracle::host::Gate;
use std::sync::LazyLock;

static GATE: LazyLock<Gate> =
    LazyLock::new(|| fixtures::ports::gate(&fixtures::ports::Interfaces::ON_PAPER));

fuzz_target!(|input: &[u8]| oracle::input::exercise(&GATE, input));
