//! A kernel of Debian's and its modules, unpacked below `target/vm/<series>/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::apt::Apt;
use crate::host::{self, say};

/// An unpacked kernel.
pub struct Kernel {
    /// What `uname -r` will say.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    modules: PathBuf,
}

/// The kernel of a series, downloaded unless it was before.
///
/// # Errors
/// The reason why this machine cannot have it: to the caller, that is a skipped test.
pub fn fetch(series: &str, cache: &Path) -> Result<Kernel> {
    let unpacked = cache.join("root");
    if let Ok(kernel) = locate(&unpacked) {
        return Ok(kernel);
    }
    let packages = cache.join("packages");
    remove(&packages)?;
    fs::create_dir_all(&packages)?;
    download(series, cache, &packages)?;

    // Renamed when complete, so that an interrupted run leaves nothing that looks like a kernel.
    let partial = cache.join("root.partial");
    remove(&partial)?;
    remove(&unpacked)?;
    for package in fs::read_dir(&packages)? {
        let mut dpkg = Command::new("dpkg");
        host::output(dpkg.arg("--extract").arg(package?.path()).arg(&partial))?;
    }
    fs::rename(&partial, &unpacked).context("no package was downloaded")?;
    remove(&packages)?;
    locate(&unpacked)
}

fn download(series: &str, cache: &Path, packages: &Path) -> Result<()> {
    say(format!("vm: downloading kernel {series}"));
    let system = Apt::of_system();
    let from_system = system
        .newest_image(series)
        .and_then(|image| system.download_kernel(&image, packages));
    if from_system.is_ok() {
        return Ok(());
    }
    // Not in this Debian, or its lists are so old that the mirror has dropped what they name.
    let all = Apt::of_all_suites(&cache.with_file_name("apt"))?;
    all.download_kernel(&all.newest_image(series)?, packages)
}

/// Finds image and modules, wherever the packages of that release have them.
fn locate(root: &Path) -> Result<Kernel> {
    for modules in [root.join("lib/modules"), root.join("usr/lib/modules")] {
        let Some(entry) = fs::read_dir(&modules).ok().and_then(|mut dir| dir.next()) else {
            continue;
        };
        let modules = entry?.path();
        let name = modules.file_name().context("a directory without a name")?;
        let release = name.to_string_lossy().into_owned();
        let boot = root.join("boot").join(format!("vmlinuz-{release}"));
        let image = [boot, modules.join("vmlinuz")]
            .into_iter()
            .find(|file| file.is_file());
        return Ok(Kernel {
            image: image.with_context(|| format!("the packages of {release} have no vmlinuz"))?,
            release,
            modules,
        });
    }
    bail!("there are no modules in {}", root.display())
}

impl Kernel {
    /// Copies the named modules, and all they need, to `root`, and indexes them for modprobe.
    ///
    /// Names that this kernel does not have as a module (built in, or not there) are passed over.
    pub fn install_modules(&self, names: &[&str], root: &Path) -> Result<()> {
        remove(root)?;
        let target = root.join("lib/modules").join(&self.release);
        fs::create_dir_all(target.join("kernel"))?;

        let mut files = BTreeMap::new();
        index(&self.modules, &mut files)?;
        let mut open: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut done = BTreeSet::new();
        while let Some(name) = open.pop() {
            let Some(file) = files.get(&name).filter(|_| done.insert(name.clone())) else {
                continue;
            };
            let module = decompressed(file)?;
            open.extend(depends(&module));
            fs::write(target.join(format!("kernel/{name}.ko")), module)?;
        }
        ensure!(
            !done.is_empty(),
            "kernel {} has none of the modules",
            self.release
        );

        let mut depmod = Command::new("busybox");
        host::output(depmod.arg("depmod").arg("-b").arg(root).arg(&self.release)).map(drop)
    }
}

/// All module files below a directory, by the name that the kernel gives them.
fn index(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = name.split_once(".ko") {
            files.insert(name.replace('-', "_"), path.clone());
        }
    }
    Ok(())
}

fn decompressed(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "ko") {
        return Ok(fs::read(file)?);
    }
    // 6.12 and later have .ko.xz
    let xz = Command::new("xz").args(["-dc"]).arg(file).output();
    let output = xz.context("xz does not run")?;
    ensure!(output.status.success(), "xz cannot read {}", file.display());
    Ok(output.stdout)
}

/// The modules that a module's `.modinfo` says it needs.
fn depends(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";

    let Some(at) = module
        .windows(FIELD.len())
        .position(|window| window == FIELD)
    else {
        return Vec::new();
    };
    let value = module[at + FIELD.len()..].split(|byte| *byte == 0).next();
    let value = String::from_utf8_lossy(value.unwrap_or_default());
    let names = value.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
}

/// Removes a directory, if it is there.
fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::depends;

    #[test]
    fn reads_what_a_module_depends_on() {
        let module = b"ELF\0license=GPL\0depends=nf-conntrack,nf_tables\0name=nft_ct\0";
        assert_eq!(depends(module), ["nf_conntrack", "nf_tables"]);
        assert!(depends(b"\0depends=\0name=veth\0").is_empty());
        assert!(depends(b"no module").is_empty());
    }
}
