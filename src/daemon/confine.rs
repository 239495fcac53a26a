//! What the meter's process gives up before it looks at a byte of anybody's (decision 0041).
//!
//! It has no capability, cannot get one, calls neither `bpf()` nor a program, and writes where its records and
//! sockets are. Landlock is there since Linux 5.13, and only where it is switched on: what is in force is told.

use super::privilege;
use crate::config::Config;
use anyhow::{Context as _, Result};
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, Scope,
};
use metering::sink::Target;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// The newest rules of Landlock that were tried: files, signals and abstract sockets.
const NEWEST: ABI = ABI::V6;

/// What holds the meter's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confined {
    /// Process number of the loader.
    pub loader: u32,
    /// Process number of the meter.
    pub meter: u32,
    /// Version of Landlock's rules that are in force; 0: this kernel has none, or does not use it.
    pub landlock: u32,
    /// Nothing is written elsewhere, where Landlock is in force.
    pub writes: Vec<PathBuf>,
}

impl Confined {
    /// A directory of the configuration that cannot be written any more.
    pub(super) fn outside(&self, config: &Config) -> Option<PathBuf> {
        if self.landlock == 0 {
            return None;
        }
        let mut wanted = directories(config).into_iter();
        wanted.find(|path| !self.writes.iter().any(|known| path.starts_with(known)))
    }
}

/// Where the meter writes: the ledger and what is beside it, sockets and the hooks' ports, files for billers.
fn directories(config: &Config) -> BTreeSet<PathBuf> {
    let parent = |path: &Path| path.parent().map(Path::to_owned);
    let ledger = config
        .meter
        .as_ref()
        .and_then(|meter| parent(&meter.ledger));
    let socket = config.api.as_ref().and_then(|api| parent(&api.socket));
    let files = config.sinks.iter().filter_map(|sink| match &sink.target {
        Target::Files(target) => Some(target.directory.clone()),
        _ => None,
    });
    let run = Some(config.host.run_dir.clone());
    let all = run.into_iter().chain(ledger).chain(socket).chain(files);
    all.collect()
}

/// The nearest that is there: what is not may be made.
fn there(path: &Path) -> PathBuf {
    let mut ancestors = path.ancestors();
    ancestors
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// Gives everything up. To be called while this process has one thread.
///
/// # Errors
/// When capabilities or the filter of system calls cannot be set. Landlock is told of in the answer.
pub(super) fn confine(config: &Config) -> Result<Confined> {
    privilege::keep_none()?;
    privilege::no_new_privileges()?;
    let mut writes: BTreeSet<PathBuf> =
        directories(config).iter().map(|path| there(path)).collect();
    // SQLite sorts in files where that does not fit into its cache.
    writes.extend([std::env::temp_dir(), PathBuf::from("/var/tmp")]);
    let landlock = restrict(&writes).context("Landlock")?;
    filter().context("a filter of system calls")?;
    Ok(Confined {
        loader: std::os::unix::process::parent_id(),
        meter: std::process::id(),
        landlock,
        writes: if landlock == 0 {
            Vec::new()
        } else {
            writes.into_iter().collect()
        },
    })
}

/// Writes only beneath these, starts nothing, and signals nobody else. Returns the version that is in force.
fn restrict(writes: &BTreeSet<PathBuf>) -> Result<u32> {
    let written: BitFlags<AccessFs> = AccessFs::from_write(NEWEST);
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    let mut rules = Ruleset::default()
        .handle_access(written | AccessFs::Execute)?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for path in writes.iter().filter(|path| path.exists()) {
        let beneath = PathBeneath::new(PathFd::new(path)?, written & !devices);
        rules = rules.add_rule(beneath)?;
    }
    let RestrictionStatus { landlock, .. } = rules.restrict_self()?;
    Ok(match landlock {
        LandlockStatus::Available { effective_abi, .. } => {
            (effective_abi as u32).min(NEWEST as u32)
        }
        _ => 0,
    })
}

/// What no meter calls. The unit's filter says what it may call; this one holds without the unit.
const NEVER: [libc::c_long; 44] = [
    // The loader's.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    // Other programs, and other processes' memory and files.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Other name spaces and file systems.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_by_handle_at,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    // The kernel itself, and the machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    // What has had holes, and is not needed.
    libc::SYS_io_uring_setup,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_personality,
];

/// Families of sockets that a meter has: the rest is refused.
const FAMILIES: [libc::c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

fn filter() -> Result<()> {
    let refused = |number: libc::c_int| SeccompAction::Errno(number.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    let first =
        |operator, value: u64| SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        NEVER.map(|number| (number, Vec::new())).into();
    let families = FAMILIES.map(|family| first(SeccompCmpOp::Ne, u64::from(family.unsigned_abs())));
    let other_family = families.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(other_family)?]);
    // Who makes a user name space has all capabilities in it.
    let user = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let user = first(SeccompCmpOp::MaskedEq(user), user)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![user])?]);
    let never = SeccompFilter::new(rules, SeccompAction::Allow, refused(libc::EPERM), arch)?;
    // Its flags are in memory, where a filter cannot look. The C library then takes clone.
    let clone3 = [(libc::SYS_clone3, Vec::new())].into();
    let unknown = SeccompFilter::new(clone3, SeccompAction::Allow, refused(libc::ENOSYS), arch)?;
    for filter in [unknown, never] {
        let program: seccompiler::BpfProgram = filter.try_into()?;
        apply_filter(&program)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::{
        fs,
        io::{Error, ErrorKind},
        process::Command,
    };

    const HELD: &str = "OCTROI_TEST_HELD";

    fn parsed(directory: &Path, more: &str) -> Config {
        let text = format!(
            "[host]\nname = \"h\"\nrun_dir = \"{0}/run\"\n[meter]\nledger = \"{0}/l/ledger.db\"\n{more}",
            directory.display()
        );
        config::parse(&text, "test").unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn a_new_place_to_write_takes_a_start() {
        let sink =
            |at: &str| format!("[[sink]]\nname = \"f\"\nkind = \"files\"\ndirectory = \"{at}\"\n");
        let path = Path::new("/srv/o");
        let held = |landlock| Confined {
            landlock,
            writes: vec![PathBuf::from("/srv/o")],
            ..Confined::default()
        };
        assert_eq!(held(7).outside(&parsed(path, &sink("/srv/o/export"))), None);
        let beside = parsed(path, &sink("/srv/other"));
        assert_eq!(held(7).outside(&beside), Some("/srv/other".into()));
        assert_eq!(held(0).outside(&beside), None);
    }

    /// This test again in a process of its own, as what is given up is not had back.
    #[test]
    fn what_is_given_up_is_not_had_back() {
        if let Some(directory) = std::env::var_os(HELD) {
            return held(Path::new(&directory));
        }
        // SAFETY: takes nothing.
        if unsafe { libc::geteuid() } != 0 {
            println!(
                "SKIPPED: what_is_given_up_is_not_had_back: this needs root; run it with sudo"
            );
            return;
        }
        let directory = std::env::temp_dir().join(format!("octroi-held-{}", std::process::id()));
        fs::create_dir_all(directory.join("run")).expect("made");
        let name = "daemon::confine::tests::what_is_given_up_is_not_had_back";
        let done = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(HELD, &directory)
            .output()
            .expect("started");
        fs::remove_dir_all(&directory).expect("removed");
        assert!(done.status.success(), "{done:?}");
        assert!(
            String::from_utf8_lossy(&done.stdout).contains("1 passed"),
            "{done:?}"
        );
    }

    fn code(result: i64) -> Option<i32> {
        (result < 0).then(|| Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    fn held(directory: &Path) {
        let confined = confine(&parsed(directory, "")).expect("held");
        let refused = Some(libc::EPERM);
        // SAFETY: each can only fail, and takes numbers or nothing.
        unsafe {
            for number in [
                libc::SYS_bpf,
                libc::SYS_perf_event_open,
                libc::SYS_ptrace,
                libc::SYS_io_uring_setup,
            ] {
                assert_eq!(
                    code(libc::syscall(number, 0, 0, 0, 0, 0)),
                    refused,
                    "{number}"
                );
            }
            assert_eq!(code(libc::unshare(libc::CLONE_NEWUSER).into()), refused);
            assert_eq!(
                code(libc::syscall(
                    libc::SYS_clone,
                    libc::CLONE_NEWUSER,
                    0,
                    0,
                    0,
                    0
                )),
                refused
            );
            assert_eq!(
                code(libc::syscall(libc::SYS_clone3, 0, 0)),
                Some(libc::ENOSYS)
            );
            for family in [libc::AF_PACKET, libc::AF_ALG, libc::AF_VSOCK] {
                assert_eq!(
                    code(libc::socket(family, libc::SOCK_DGRAM, 0).into()),
                    refused,
                    "{family}"
                );
            }
            for family in FAMILIES {
                assert_eq!(
                    code(libc::socket(family, libc::SOCK_DGRAM, 0).into()),
                    None,
                    "{family}"
                );
            }
            let parent = i32::try_from(std::os::unix::process::parent_id()).expect("a number");
            if confined.landlock >= 6 {
                assert_eq!(
                    code(libc::kill(parent, 0).into()),
                    refused,
                    "a signal to the loader"
                );
            }
        }
        let started = Command::new("/bin/true").spawn();
        assert!(started.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied));
        std::thread::spawn(|| ())
            .join()
            .expect("a thread, without clone3");
        fs::write(directory.join("run/ports.toml"), "").expect("written where it may");
        if confined.landlock == 0 {
            println!("SKIPPED: Landlock: this kernel has none, or does not use it");
            return;
        }
        let elsewhere = fs::write("/etc/octroi-held", "");
        assert!(elsewhere.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied));
        fs::read("/etc/passwd").expect("read");
    }
}
