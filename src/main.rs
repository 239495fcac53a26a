//! The binary `octroi`.

use std::process::ExitCode;

fn main() -> ExitCode {
    octroi::cli::run()
}
