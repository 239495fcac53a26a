//! Gives a daemon a wall clock of its own, which can be set while it runs. The machine's stays as it is.

use anyhow::{Result, ensure};
use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicI64, Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

/// The clock.
pub struct OwnClock {
    library: PathBuf,
    path: PathBuf,
    file: File,
    offset_ns: AtomicI64,
}

fn utc_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as i64)
}

impl OwnClock {
    /// Made in `directory`; it begins as the machine's. `None`: there is no rustc.
    pub fn new(directory: &Path) -> Result<Option<Self>> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/own_clock/shim.rs");
        let (library, path) = (directory.join("clock.so"), directory.join("clock"));
        let made = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args(["--edition=2024", "--crate-type=cdylib", "-O", "-o"])
            .args([&library, &source])
            .output();
        let made = match made {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            made => made?,
        };
        ensure!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut options = File::options();
        let file = options
            .create(true)
            .truncate(true)
            .write(true)
            .open(&path)?;
        let clock = Self {
            library,
            path,
            file,
            offset_ns: AtomicI64::new(0),
        };
        clock.add(0)?;
        Ok(Some(clock))
    }

    fn add(&self, offset_ns: i64) -> Result<()> {
        self.offset_ns.store(offset_ns, Relaxed);
        Ok(self.file.write_all_at(&offset_ns.to_ne_bytes(), 0)?)
    }

    /// It is this time now, UTC, ns since 1970.
    pub fn set(&self, utc_ns_now: i64) -> Result<()> {
        self.add(utc_ns_now - utc_ns())
    }

    /// What it says, UTC, ns since 1970.
    pub fn now(&self) -> i64 {
        utc_ns() + self.offset_ns.load(Relaxed)
    }

    /// What a process is started with that has it.
    pub fn environment(&self) -> [(&str, &str); 2] {
        [
            ("LD_PRELOAD", self.library.to_str().unwrap_or_default()),
            ("OCTROI_TEST_CLOCK", self.path.to_str().unwrap_or_default()),
        ]
    }
}
