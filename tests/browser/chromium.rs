//! Where Chromium is, and what it says of colours.

use anyhow::{Context as _, Result};
use serde_json::Value;
use std::{env, path::PathBuf};

/// The browser; `OCTROI_CHROMIUM`, or what the system calls it.
pub fn chromium() -> Option<PathBuf> {
    let named = env::var_os("OCTROI_CHROMIUM").map(PathBuf::from);
    let paths = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&paths).flat_map(|path| {
        ["chromium", "chromium-browser", "google-chrome"].map(|name| path.join(name))
    });
    named.into_iter().chain(in_path).find(|path| path.is_file())
}

/// The brightness of `rgb(…)`: 0 to 255 of each part, all three together.
pub fn bright(colour: &Value) -> Result<u32> {
    let text = colour.as_str().unwrap_or_default();
    let parts = text
        .trim_start_matches("rgb(")
        .trim_end_matches(')')
        .split(", ");
    let parts: Vec<u32> = parts
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context(text.to_owned())?;
    Ok(parts.iter().sum())
}
