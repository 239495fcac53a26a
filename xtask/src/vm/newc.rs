//! Writes a `newc` cpio archive, the format of an initramfs.
//!
//! Written here, and not by cpio, so that neither a staging tree nor root is needed. The format is
//! in the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive that is being written. Paths are absolute; parent directories come by themselves.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, b"");
    }

    /// Adds a file. The first one of a name stays.
    pub fn file(&mut self, path: &str, executable: bool, content: &[u8]) {
        let mode = if executable { 0o755 } else { 0o644 };
        self.entry(path, REGULAR | mode, content);
    }

    /// Adds a symbolic link at `path`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK | 0o777, target.as_bytes());
    }

    /// Whether something of this name is in it.
    pub fn has(&self, path: &str) -> bool {
        self.names.contains(&merged(path))
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.write("TRAILER!!!", 0, b"");
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let name = merged(path);
        if name.is_empty() || self.names.contains(&name) {
            return;
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent);
        }
        self.write(&name, mode, content);
        self.names.insert(name);
    }

    fn write(&mut self, name: &str, mode: u32, content: &[u8]) {
        let inode = self.names.len() as u32 + 1;
        let links = 1;
        let size = u32::try_from(content.len()).expect("a file in an initramfs is below 4 GB");
        let name_size = name.len() as u32 + 1;
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// The path without its leading slash, in a system where `/bin`, `/lib` and so on are links into `/usr`.
fn merged(path: &str) -> String {
    let path = path.trim_matches('/');
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    if !rest.is_empty() && ["bin", "sbin", "lib", "lib64"].contains(&first) {
        return format!("usr/{path}");
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn puts_old_paths_below_usr() {
        assert_eq!(merged("/lib/modules/x"), "usr/lib/modules/x");
        assert_eq!(merged("/lib"), "lib");
        assert_eq!(merged("/usr/bin/ip"), "usr/bin/ip");
    }

    #[test]
    fn creates_parents_once_and_keeps_the_first_file_of_a_name() {
        let mut archive = Archive::default();
        archive.file("/a/b/c", true, b"one");
        archive.file("/a/b/c", true, b"two");
        archive.symlink("/a/d", "b/c");
        assert!(archive.has("/a/b") && archive.has("/a/d"));
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("one") && !text.contains("two"));
        assert_eq!(text.matches("070701").count(), 5);
    }

    #[test]
    fn writes_what_cpio_reads() {
        let Some(cpio) = crate::host::find("cpio") else {
            eprintln!("SKIPPED: writes_what_cpio_reads: cpio is not installed");
            return;
        };
        let mut archive = Archive::default();
        archive.file("/etc/motd", false, b"hello");
        let mut child = Command::new(cpio)
            .args(["--quiet", "--list"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&archive.finish()).unwrap();
        drop(stdin);
        let listed = child.wait_with_output().unwrap().stdout;
        assert_eq!(String::from_utf8(listed).unwrap(), "etc\netc/motd\n");
    }
}
