//! Whose a file is that root makes beside a daemon that is not root.
//!
//! Under the unit the daemon is a user of its own (decision 0052), and operators call `octroi` as root. What root makes
//! in the ledger's directory must be the daemon's, or the daemon could not open its own key the next day.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, fchown},
    path::Path,
};

/// Gives a file that this process has just made, and that has no other name, to whom its directory belongs. Nothing
/// happens unless root made it in somebody else's directory.
pub(crate) fn as_its_directory(file: &File, path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
    let directory = fs::metadata(directory.unwrap_or(Path::new(".")))?;
    if file.metadata()?.uid() != 0 || directory.uid() == 0 {
        return Ok(());
    }
    fchown(file, Some(directory.uid()), Some(directory.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::chown;

    #[test]
    fn what_root_makes_belongs_to_whom_the_directory_belongs() {
        let directory = std::env::temp_dir().join(format!("octroi-owner-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let made = |name: &str| {
            let path = directory.join(name);
            let file = File::create_new(&path).expect("a file");
            as_its_directory(&file, &path).expect("given");
            let found = file.metadata().expect("there");
            (found.uid(), found.gid())
        };
        let own = fs::metadata(&directory).expect("there");
        assert_eq!(made("own"), (own.uid(), own.gid()));
        // Only root gives files away.
        if own.uid() == 0 {
            chown(&directory, Some(4_711), Some(4_712)).expect("given");
            assert_eq!(made("given"), (4_711, 4_712));
        } else {
            println!(
                "SKIPPED: what_root_makes_belongs_to_whom_the_directory_belongs: this needs root; run it with sudo"
            );
        }
        fs::remove_dir_all(&directory).expect("removed");
    }
}
