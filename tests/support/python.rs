//! Python with the packages that `cargo xtask setup` installed from PyPI.

use anyhow::{Context as _, Result, ensure};
use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

/// Python that has a module; `None`: it is not here.
pub fn python(module: &str) -> Option<Command> {
    let target = Path::new(env!("CARGO_BIN_EXE_octroi")).parent()?.parent()?;
    let command = || {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", target.join("tools/python"));
        command
    };
    let tried = command().args(["-c", &format!("import {module}")]).output();
    tried
        .is_ok_and(|output| output.status.success())
        .then(command)
}

/// Runs a program of one text with an input; returns what it printed.
pub fn run(mut python: Command, program: &str, arguments: &[&str], input: &[u8]) -> Result<String> {
    let mut child = python
        .args(["-c", program])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(input)?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
