//! Certificates for tests.

use anyhow::{Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A certificate for `localhost` that is its own authority, and its key.
pub fn make(dir: &Path, name: &str) -> Result<Option<(PathBuf, PathBuf)>> {
    let (certificate, key) = (
        dir.join(format!("{name}.pem")),
        dir.join(format!("{name}.key")),
    );
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-days",
            "3650",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    match made {
        Err(_) => Ok(None),
        Ok(made) => {
            ensure!(made.status.success(), "{made:?}");
            Ok(Some((certificate, key)))
        }
    }
}
