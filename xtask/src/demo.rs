//! Shows octroi at work, from nothing: installs, builds, runs `octroi demo`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::host;
use crate::setup::{self, Need};

/// Build octroi and run its demo.
#[derive(Args)]
pub struct Demo {
    /// Handed on to `octroi demo`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Demo {
    /// Runs the subcommand. Does not return when it succeeds: this process becomes the demo.
    pub fn run(self) -> Result<std::process::ExitCode> {
        setup::run(Need::Build)?;
        build_octroi()?;
        let octroi = host::target_dir().join("release/octroi");
        let error = Command::new(&octroi).arg("demo").args(self.args).exec();
        Err(error).with_context(|| format!("{} does not run", octroi.display()))
    }
}

/// Builds `target/release/octroi`.
pub fn build_octroi() -> Result<()> {
    host::run(host::cargo().args(["build", "--release", "--package", "octroi"]))
}
