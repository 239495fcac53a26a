//! The verifier in Python.

use crate::site::Site;
use metering::ledger::keys;
use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

const LINES_MAX: usize = 300;

/// What it said of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// So many verified, so many pruned.
    Verified(u64, u64),
    /// What is wrong.
    Wrong(String),
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/verify/ledger.py")
}

/// Lets it look at files; `None`: there is no Python here, and that is said.
pub fn verify(site: &Site, files: &[PathBuf], options: &[&str]) -> Option<Vec<Said>> {
    let output = Command::new("python3")
        .arg(program())
        .arg("--keyring")
        .arg(keys::keyring_path(&site.path()))
        .args(options)
        .args(files)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("SKIPPED: evidence in Python: there is no python3");
            return None;
        }
        output => output.expect("python3"),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let said: Vec<Said> = text.lines().map(said).collect();
    assert_eq!(said.len(), files.len(), "{text}{complaint}");
    let sound = said.iter().all(|said| matches!(said, Said::Verified(..)));
    assert_eq!(output.status.success(), sound, "{text}{complaint}");
    Some(said)
}

fn said(line: &str) -> Said {
    let (_, said) = line.split_once(": ").expect("a name");
    let words: Vec<&str> = said.split(' ').collect();
    match (words[0], words.get(2)) {
        (verified, Some(pruned)) if said.ends_with(" pruned") => Said::Verified(
            verified.parse().expect("a number"),
            pruned.parse().expect("a number"),
        ),
        _ => Said::Wrong(said.to_owned()),
    }
}

#[test]
fn the_verifier_in_python_is_short() {
    let text = std::fs::read_to_string(program()).expect("tests/verify/ledger.py");
    assert!(
        text.lines().count() <= LINES_MAX,
        "more than {LINES_MAX} lines"
    );
}
