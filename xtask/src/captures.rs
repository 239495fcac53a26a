//! `cargo xtask captures`: what the encryption policy makes of real captures, beside the labels of a classifier.

use std::{
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

/// Judge the flows of captures, and compare with their labels.
#[derive(Args)]
pub struct Captures {
    /// Folder of captures with a `labels.tsv`; relative to the repository.
    #[arg(long, value_name = "DIR", default_value = "../shared/captures")]
    dir: PathBuf,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// What the test prints in front of its sums.
const SUMS: &str = "CAPTURES: ";

impl Captures {
    /// Runs the test that judges them, and prints what it found.
    pub fn run(self) -> Result<ExitCode> {
        let output = Command::new(env!("CARGO"))
            .args(["test", "--quiet", "--release", "--workspace"])
            .args(["--test", "encryption_captures", "--", "--nocapture"])
            .env("OCTROI_CAPTURES", &self.dir)
            .stderr(Stdio::inherit())
            .output()
            .context("cargo")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(sums) = text.lines().find_map(|line| line.split_once(SUMS)) else {
            bail!(
                "no captures with a labels.tsv in {}; name a folder with --dir",
                self.dir.display()
            );
        };
        if self.json {
            println!("{}", sums.1);
        } else {
            let shown = |line: &&str| line.contains("disagreement: ") || line.contains("SUMS: ");
            for line in text.lines().filter(shown) {
                println!("{line}");
            }
        }
        Ok(if output.status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
