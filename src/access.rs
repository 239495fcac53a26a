//! `octroi check --access`: whether this user may read and write what a configuration names.
//!
//! Under the unit the daemon is a user of its own (decision 0052), and not root. What it may not read is told when the
//! file is checked, not by a daemon that does not start.

use crate::config::Config;
use anyhow::{Result, ensure};
use metering::sink::Target;
use std::{
    ffi::CString,
    fmt::Write as _,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

/// What systemd hands over when it starts the unit (`StateDirectory=`, `RuntimeDirectory=`), whoever has it before.
const HANDED_OVER: [&str; 2] = ["/var/lib/octroi", "/run/octroi"];

/// What somebody is to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Read a file.
    Read,
    /// Make files in a directory.
    Fill,
}

/// # Errors
/// Each file and directory that this user may not use, and what to do.
pub fn check(config: &Config) -> Result<()> {
    // SAFETY: takes nothing, cannot fail.
    let user = unsafe { libc::geteuid() };
    let mut said = String::new();
    for (path, wanted) in wanted(config) {
        let why = match wanted {
            Use::Read => fs::File::open(&path).map(drop),
            Use::Fill => may_fill(&path),
        };
        let Err(why) = why else {
            continue;
        };
        let doing = match wanted {
            Use::Read => {
                "read; let its group be one of this user's, as by `chgrp octroi`, with mode 0640"
            }
            Use::Fill => "written; give it to this user, as by `chown -R octroi:octroi`",
        };
        let _ = write!(
            said,
            "\n{}: {why}: uid {user} must be able to have it {doing}",
            path.display()
        );
    }
    ensure!(said.is_empty(), "{}", said.trim_start());
    Ok(())
}

fn wanted(config: &Config) -> Vec<(PathBuf, Use)> {
    let mut wanted = Vec::new();
    for sink in &config.sinks {
        let reads = sink.target.reads().into_iter();
        wanted.extend(reads.map(|path| (path.to_owned(), Use::Read)));
        if let Target::Files(target) = &sink.target {
            wanted.push((target.directory.clone(), Use::Fill));
        }
    }
    let tls = config.api.iter().filter_map(|api| api.tls.as_ref());
    for path in tls.flat_map(|tls| tls.reads()) {
        wanted.push((path.to_owned(), Use::Read));
    }
    let ledger = config
        .meter
        .iter()
        .filter_map(|meter| meter.ledger.parent());
    let socket = config.api.iter().filter_map(|api| api.socket.parent());
    let filled = ledger.chain(socket).chain([config.host.run_dir.as_path()]);
    let filled = filled.filter(|path| !HANDED_OVER.iter().any(|known| path.starts_with(known)));
    wanted.extend(filled.map(|path| (path.to_owned(), Use::Fill)));
    wanted.sort_by(|(a, _), (b, _)| a.cmp(b));
    wanted.dedup();
    wanted
}

/// A directory that is there must let this user make files, and those in it that this user wrote before it was this user
/// must be this user's: of a directory that was root's the files are root's, too.
fn may_fill(path: &Path) -> io::Result<()> {
    accessible(path, libc::R_OK | libc::W_OK | libc::X_OK)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let found = entry.metadata()?;
        // Of others' files nothing is wanted. Root's are those of a daemon that was root.
        if found.is_file() && found.uid() == 0 {
            accessible(&entry.path(), libc::R_OK | libc::W_OK)?;
        }
    }
    Ok(())
}

/// As the kernel judges this process by its effective user.
fn accessible(path: &Path, mode: libc::c_int) -> io::Result<()> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a string that lives through the call.
    match unsafe { libc::faccessat(libc::AT_FDCWD, text.as_ptr(), mode, libc::AT_EACCESS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn parsed(directory: &Path) -> Config {
        let at = directory.display();
        let text = format!(
            "[host]\nname = \"h\"\nrun_dir = \"/run/octroi\"\n[meter]\nledger = \"{at}/l/ledger.db\"\n\
             [[sink]]\nname = \"f\"\nkind = \"files\"\ndirectory = \"{at}/f\"\n\
             [[sink]]\nname = \"p\"\nkind = \"postgres\"\nurl = \"postgres://octroi@localhost/billing\"\n\
             password_file = \"{at}/password\"\n"
        );
        config::parse(&text, "test").unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let directory = std::env::temp_dir().join(format!("octroi-access-{}", std::process::id()));
        fs::create_dir_all(directory.join("l")).expect("a directory");
        let config = parsed(&directory);
        let said = check(&config).expect_err("two are missing").to_string();
        for (path, advice) in [("f", "chown -R"), ("password", "mode 0640")] {
            let path = directory.join(path).display().to_string();
            let line = said.lines().find(|line| line.starts_with(&path));
            assert!(line.is_some_and(|line| line.contains(advice)), "{said}");
        }
        assert_eq!(said.lines().count(), 2, "{said}");
        fs::create_dir_all(directory.join("f")).expect("a directory");
        fs::write(directory.join("password"), "x").expect("a file");
        check(&config).expect("all is there");
        fs::remove_dir_all(&directory).expect("removed");
    }
}
