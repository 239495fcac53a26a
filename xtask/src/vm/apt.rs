//! Debian's kernels, found and downloaded by apt: nothing is installed, no source is added to the system.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::host;

/// Where kernels that the system's own suite does not have are looked for.
const SUITES: [&str; 4] = [
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One view of Debian's packages.
pub struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// As the system is configured.
    pub fn of_system() -> Self {
        Self {
            options: Vec::new(),
        }
    }

    /// With Debian's [`SUITES`] from the mirror the system uses, and all state in `dir`.
    pub fn of_all_suites(dir: &Path) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).is_file(),
            "this is not a Debian: {KEYRING} is not here"
        );
        let mirror = mirror()?;
        fs::create_dir_all(dir.join("lists/partial"))?;
        fs::create_dir_all(dir.join("cache/archives/partial"))?;
        let sources =
            SUITES.map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"));
        fs::write(dir.join("sources.list"), sources.concat())?;

        let dir = dir.display();
        let apt = Self {
            options: vec![
                format!("Dir::Etc::SourceList={dir}/sources.list"),
                "Dir::Etc::SourceParts=/dev/null".into(),
                format!("Dir::State::Lists={dir}/lists"),
                format!("Dir::Cache={dir}/cache"),
                // As root, apt would download as a user who cannot write here.
                "APT::Sandbox::User=root".into(),
                "Acquire::Languages=none".into(),
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            ],
        };
        host::output(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    /// The newest cloud kernel of a series (`6.1`, or `7.x` for any 7): its image package.
    pub fn newest_image(&self, series: &str) -> Result<String> {
        let mut search = self.command("apt-cache");
        let found =
            host::output(search.args(["search", "--names-only", "^linux-image-.*-cloud-amd64$"]))?;
        let packages = found
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        newest(packages, series).with_context(|| format!("apt knows no cloud kernel {series}"))
    }

    /// Downloads what holds an image package's kernel and modules to `dir`.
    pub fn download_kernel(&self, image: &str, dir: &Path) -> Result<()> {
        let depends = host::output(self.command("apt-cache").args(["depends", image]))?;
        let mut packages = parts(&depends);
        if packages.is_empty() {
            packages.push(image);
        }
        let mut download = self.command("apt-get");
        download.current_dir(dir).arg("download").args(packages);
        host::output(&mut download).map(drop)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["--option", option]);
        }
        command
    }
}

/// The mirror that the system has its Debian from.
fn mirror() -> Result<String> {
    let mut targets = Command::new("apt-get");
    targets.args([
        "indextargets",
        "--format",
        "$(ORIGIN)\t$(LABEL)\t$(REPO_URI)",
    ]);
    let targets = host::output(targets.arg("Created-By: Packages"))?;
    let mirror = targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian\tDebian\t"));
    Ok(mirror
        .context("apt has no source with Debian's main suite")?
        .to_owned())
}

/// The packages that a newer image package, itself empty, depends on for its kernel and modules.
fn parts(depends: &str) -> Vec<&str> {
    let names = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    names
        .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"))
        .collect()
}

fn newest<'a>(packages: impl Iterator<Item = &'a str>, series: &str) -> Option<String> {
    let series = series.strip_suffix(".x").unwrap_or(series);
    packages
        .filter(|package| {
            let release = package.strip_prefix("linux-image-");
            let rest = release.and_then(|release| release.strip_prefix(series));
            // The dot ends the number, and leaves out meta packages, that hold no kernel.
            rest.is_some_and(|rest| rest.starts_with('.'))
        })
        .max_by_key(|package| numbers(package))
        .map(str::to_owned)
}

/// The numbers of a version, in order: 6.1.0-9 is older than 6.1.0-56.
fn numbers(version: &str) -> Vec<u64> {
    let digits = version.split(|c: char| !c.is_ascii_digit());
    digits.filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGES: [&str; 6] = [
        "linux-image-cloud-amd64",
        "linux-image-6.12-cloud-amd64",
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.12.117+deb12-cloud-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
    ];

    #[test]
    fn picks_the_newest_kernel_of_a_series() {
        let pick = |series| newest(PACKAGES.into_iter(), series);
        assert_eq!(pick("6.1").as_deref(), Some(PACKAGES[3]));
        assert_eq!(pick("6.12").as_deref(), Some(PACKAGES[4]));
        assert_eq!(pick("7.x").as_deref(), Some(PACKAGES[5]));
        assert_eq!(pick("5.10"), None);
    }

    #[test]
    fn finds_the_parts_of_a_split_kernel() {
        let depends = "linux-image-7.3.4\n  Depends: linux-base-7.3.4\n |Depends: dracut\n  \
                       Depends: linux-binary-7.3.4\n  Depends: linux-modules-7.3.4\n";
        assert_eq!(
            parts(depends),
            ["linux-binary-7.3.4", "linux-modules-7.3.4"]
        );
        assert!(parts("linux-image-6.1.0-56\n  Depends: kmod\n").is_empty());
    }
}
