//! The machine this runs on: where things are, how programs are called, who is told what.
//!
//! Chatter goes to stderr. stdout belongs to what the caller asked for: `demo --json` is piped into `jq`.

use std::env;
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// What `timeout` of coreutils exits with when the time was up, and when it had to kill.
const TIMED_OUT: [i32; 2] = [124, 137];

/// The root of the repository.
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Where cargo builds to.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// One line on stderr: what happens now.
pub fn say(message: impl AsRef<str>) {
    eprintln!("xtask: {}", message.as_ref());
}

/// The cargo that runs this, at the root of the repository.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // `cargo run` describes xtask to xtask. Build scripts that look at these would run again each time.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&*name);
        }
    }
    cargo
}

/// A program's path: on `PATH`, where Debian keeps an administrator's programs, or where cargo installs.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = match (env::var_os("CARGO_HOME"), env::var_os("HOME")) {
        (Some(home), _) => Some(PathBuf::from(home)),
        (None, Some(home)) => Some(Path::new(&home).join(".cargo")),
        (None, None) => None,
    };
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(cargo_home.map(|home| home.join("bin")))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// What a command prints on stdout, trimmed. Fails with the last line of its stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} does not run", name(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let reason = stderr.trim().lines().last().unwrap_or("no reason given");
        bail!("{} failed: {reason}", name(command));
    }
    Ok(stdout.trim().to_owned())
}

/// Runs a command whose output, all of it, goes to stderr.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .with_context(|| format!("{} does not run", name(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", name(command));
    }
    Ok(())
}

/// `program` under coreutils' `timeout`, which ends its whole process group and stays even when xtask goes.
pub fn with_time_limit(limit: Duration, program: impl AsRef<OsStr>) -> Command {
    let mut timeout = Command::new("timeout");
    timeout
        .arg("--kill-after=10")
        .arg(limit.as_secs().to_string())
        .arg(program);
    timeout
}

/// Whether a command made by [`with_time_limit`] was ended by its limit.
pub fn timed_out(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| TIMED_OUT.contains(&code))
}

/// Runs a command and hands over each line of its stdout and stderr, in the order they were written.
pub fn stream(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<ExitStatus> {
    const POLL: Duration = Duration::from_millis(200);

    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command
        .spawn()
        .with_context(|| format!("{} does not run", name(command)))?;
    // The command keeps the writing ends: while they are open here, the pipe never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Disconnected) => return Ok(child.wait()?),
            Err(RecvTimeoutError::Timeout) => {
                // A process it left behind may hold the pipe for ever.
                if let Some(status) = child.try_wait()? {
                    return Ok(status);
                }
            }
        }
    }
}

/// The commit that is checked out, with `-dirty` when files that git knows have changed.
///
/// Files of results are not counted: the first result written would make the second one look unfounded.
pub fn commit() -> Result<String> {
    let git = |args: &[&str]| output(Command::new("git").current_dir(root()).args(args));
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ".",
        ":!tests/acceptance.toml",
        ":!bench/results",
    ])?;
    Ok(commit + if changed.is_empty() { "" } else { "-dirty" })
}

/// The release of the running kernel.
pub fn kernel() -> Result<String> {
    output(Command::new("uname").arg("-r"))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn streams_both_outputs_in_order() {
        let mut lines = Vec::new();
        let status = stream(&mut shell("echo a; echo b >&2; echo c; exit 3"), |line| {
            lines.push(line.to_owned());
        });
        assert_eq!(lines, ["a", "b", "c"]);
        assert_eq!(status.unwrap().code(), Some(3));
    }

    #[test]
    fn does_not_wait_for_a_process_left_behind() {
        let begin = std::time::Instant::now();
        stream(&mut shell("sleep 20 & echo $!"), |_| ()).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn reports_the_last_line_of_stderr() {
        let error = output(&mut shell("echo one >&2; echo two >&2; false")).unwrap_err();
        assert_eq!(error.to_string(), "sh failed: two");
    }

    #[test]
    fn notices_that_time_was_up() {
        let mut sleep = with_time_limit(Duration::from_secs(1), "sleep");
        let status = stream(sleep.arg("20"), |_| ()).unwrap();
        assert!(timed_out(status));
    }
}
