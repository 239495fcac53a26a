//! The key that signs a ledger's heads: made on the first start, in a file of its own beside the ledger.
//!
//! Invariants (`docs/METERING.md`, M-14)
//! - The private half is readable by its owner alone, and is durable before anything signed by it is.
//! - The public half is in `ledger.pub`, a keyring with every key that has signed for this path.
//!
//! What it is not: it does not say which key is in force; the ledger's records do.

use super::{LedgerError, begin::beside};
use crate::{
    note::{Signer, Verifier, base64, from_base64},
    owner,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// RFC 8410's PKCS #8 around a seed of 32 bytes: what `openssl pkey` reads.
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// Where the private key of the ledger at `path` is: its name with the ending `key`.
#[must_use]
pub fn key_path(path: &Path) -> PathBuf {
    path.with_extension("key")
}

/// Where the keyring of the ledger at `path` is: its name with the ending `pub`.
#[must_use]
pub fn keyring_path(path: &Path) -> PathBuf {
    path.with_extension("pub")
}

/// Where a key waits that is to take the other's place.
#[must_use]
pub fn next_key_path(path: &Path) -> PathBuf {
    beside(&key_path(path), "next")
}

fn unusable(path: &Path, what: &str) -> LedgerError {
    LedgerError::Storage {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}

/// Reads a private key; `None`: there is none.
///
/// # Errors
/// [`LedgerError::Storage`], also where others than the owner may read it.
pub fn read(path: &Path) -> Result<Option<Signer>, LedgerError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| unusable(path, &error.to_string()))?,
    };
    let mode = fs::metadata(path).map(|found| found.permissions().mode());
    if mode.map_err(|error| unusable(path, &error.to_string()))? & 0o077 != 0 {
        let what = "others may read this private key; chmod 600 it, or rotate it if they did";
        return Err(unusable(path, what));
    }
    let middle = text.trim().strip_prefix(BEGIN);
    let middle = middle.and_then(|text| text.strip_suffix(END));
    let bytes = middle.and_then(|text| from_base64(text.trim()));
    let seed = bytes.and_then(|bytes| bytes.strip_prefix(&PKCS8)?.try_into().ok());
    let seed: [u8; 32] = seed.ok_or_else(|| {
        unusable(
            path,
            "this is no private key; move it away, and a new ledger begins with a new key",
        )
    })?;
    Ok(Some(Signer::from_seed(&seed)))
}

/// Writes a file that is whole or not there, and durable when this returns.
fn write_whole(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let draft = beside(path, "new");
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)?;
    owner::as_its_directory(&file, &draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_directory(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes a private key from a seed.
///
/// # Errors
/// [`LedgerError::Storage`].
pub fn make(path: &Path, seed: &[u8; 32]) -> Result<Signer, LedgerError> {
    let body = base64(&[&PKCS8[..], seed].concat());
    let text = format!("{BEGIN}\n{body}\n{END}\n");
    write_whole(path, &text, 0o600).map_err(|error| unusable(path, &error.to_string()))?;
    Ok(Signer::from_seed(seed))
}

/// Notes a public key in the keyring beside the ledger, behind those that are there.
pub(super) fn publish(path: &Path, verifier: &Verifier) -> Result<(), LedgerError> {
    let path = keyring_path(path);
    let vkey = verifier.vkey();
    let mut text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.map_err(|error| unusable(&path, &error.to_string()))?,
    };
    if text.lines().any(|line| line == vkey) {
        return Ok(());
    }
    text.push_str(&vkey);
    text.push('\n');
    write_whole(&path, &text, 0o644).map_err(|error| unusable(&path, &error.to_string()))
}

/// Puts the key that waited into the other's place.
pub(super) fn take_place(path: &Path) -> Result<(), LedgerError> {
    let (next, key) = (next_key_path(path), key_path(path));
    fs::rename(&next, &key)
        .and_then(|()| sync_directory(&key))
        .map_err(|error| unusable(&key, &error.to_string()))
}
