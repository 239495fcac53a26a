//! Paths of the file: what a directory and a file may be called.

use super::values::{ValueError, shown};
use std::path::PathBuf;

/// A control socket's path has to fit into `sockaddr_un`, 108 bytes.
const DIRECTORY_BYTES_MAX: usize = 80;

/// Well below PATH_MAX, with room for the names that SQLite adds.
const FILE_BYTES_MAX: usize = 1_024;

/// An absolute file.
pub(super) fn file(text: &str) -> Result<PathBuf, ValueError> {
    let path = path(
        text,
        FILE_BYTES_MAX,
        "is too long; write at most 1024 bytes",
    )?;
    if text.ends_with('/') || path.file_name().is_none() {
        return Err(ValueError(format!(
            "{} is a directory; write the name of a file in it",
            shown(text)
        )));
    }
    Ok(path)
}

/// An absolute directory, of any length that a path may have.
pub(super) fn folder(text: &str) -> Result<PathBuf, ValueError> {
    path(
        text,
        FILE_BYTES_MAX,
        "is too long; write at most 1024 bytes",
    )
}

/// An absolute directory.
pub(super) fn directory(text: &str) -> Result<PathBuf, ValueError> {
    let too_long = "is too long for the socket below it; write at most 80 bytes";
    path(text, DIRECTORY_BYTES_MAX, too_long)
}

/// An absolute path.
pub(super) fn path(text: &str, bytes_max: usize, too_long: &str) -> Result<PathBuf, ValueError> {
    let wrong = if !text.starts_with('/') {
        "is not absolute; start it with `/`"
    } else if text.len() > bytes_max {
        too_long
    } else if text.chars().any(char::is_control) {
        "contains a control character; write a path without"
    } else if text.split('/').any(|part| part == "..") {
        "contains `..`; write where it leads"
    } else {
        return Ok(PathBuf::from(text));
    };
    Err(ValueError(format!("{} {wrong}", shown(text))))
}
