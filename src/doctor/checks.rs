//! What the gate needs, or is better with. Every check works with the rights that there are, and says
//! so where they do not suffice.

use super::read;
use dataplane::{
    attach::{self, Mechanism},
    btf, host,
    object::Plan,
    shaping,
};
use serde::Serialize;
use std::{fs, time::Instant};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// It is as it should be.
    pub ok: bool,
    /// The gate cannot run without it.
    pub needed: bool,
    /// What was found.
    pub found: String,
    /// What it costs when it is not as it should be; empty when it is.
    pub cost: String,
    /// What to do about it, likewise.
    pub r#do: String,
}

const NOTHING_RUNS: &str = "the gate does not run: nothing is enforced or counted";

/// The oldest kernel that the programs are tried on.
const KERNEL_OLDEST: (u32, u32) = (6, 1);

type Found = Result<String, String>;

fn check(name: &'static str, needed: bool, found: Found, cost: &str, r#do: &str) -> Check {
    let ok = found.is_ok();
    let unless_ok = |text: &str| if ok { "" } else { text }.to_owned();
    Check {
        name,
        ok,
        needed,
        found: found.unwrap_or_else(|why| why),
        cost: unless_ok(cost),
        r#do: unless_ok(r#do),
    }
}

/// What only a privileged user can find out.
fn untried(name: &'static str) -> Check {
    let found = Err("not tried: takes the capabilities".into());
    check(
        name,
        false,
        found,
        "not known",
        "run `octroi doctor` as root",
    )
}

/// All of them.
pub(super) fn all() -> Vec<Check> {
    let privileged = privileged().is_ok();
    let mut checks = kernel(privileged);
    checks.extend(attachment(privileged));
    if privileged {
        checks.extend(queues());
    } else {
        checks.extend(["fq", "HTB", "IFB"].map(untried));
    }
    checks.extend(machine());
    checks
}

fn privileged() -> Found {
    capabilities(&read("/proc/self/status"))
}

/// What `auto` comes to, from and to the tenant; see `dataplane::shaping`.
pub(super) fn shapes() -> [&'static str; 2] {
    if privileged().is_err() {
        return ["not known"; 2];
    }
    let able = shaping::abilities();
    let shape = |htb: bool| match (&able.fq, htb) {
        (Ok(()), _) => "edt",
        (_, true) => "htb",
        _ => "police",
    };
    let htb = able.htb.is_ok();
    [shape(htb && able.ifb.is_ok()), shape(htb)]
}

/// What loading takes.
fn kernel(privileged: bool) -> Vec<Check> {
    let programs = if privileged {
        let todo = "look what the verifier says; on 6.1 or later it is a bug of octroi's";
        check("programs", true, verified(), NOTHING_RUNS, todo)
    } else {
        untried("programs")
    };
    vec![
        check(
            "kernel",
            true,
            release(&read("/proc/sys/kernel/osrelease")),
            NOTHING_RUNS,
            "boot Linux 6.1 or later",
        ),
        check(
            "capabilities",
            true,
            self::privileged(),
            NOTHING_RUNS,
            "run as root, or give CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        ),
        check(
            "bpf()",
            true,
            host::require_bpf()
                .map(|()| "the system call answers".into())
                .map_err(|error| error.to_string()),
            NOTHING_RUNS,
            "use a kernel with CONFIG_BPF_SYSCALL, and a container that may call it",
        ),
        check(
            "BTF",
            true,
            btf::offsets()
                .map(|at| {
                    let (gso, inner) = (at.gso_type, at.inner_transport);
                    format!("gso_type at {gso}, inner transport header at {inner}")
                })
                .map_err(|error| error.to_string()),
            "the gate does not run: a tenant's own tunnels could not be billed to the byte",
            "use a kernel with CONFIG_DEBUG_INFO_BTF",
        ),
        programs,
        check(
            "JIT",
            false,
            jit(
                &read("/proc/sys/net/core/bpf_jit_enable"),
                &read_kernel_config(),
            ),
            "programs are interpreted: several times the cost of each packet",
            "`sysctl net.core.bpf_jit_enable=1`",
        ),
    ]
}

/// The release, when it is new enough.
fn release(release: &str) -> Found {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|digits| digits.parse().ok());
    match (number(), number()) {
        (Some(major), Some(minor)) if (major, minor) >= KERNEL_OLDEST => Ok(release.to_owned()),
        (Some(_), Some(_)) => Err(format!("{release}: older than 6.1")),
        _ => Err("no release can be read".into()),
    }
}

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF in the effective set of /proc/self/status.
fn capabilities(status: &str) -> Found {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .ok_or("not told by /proc/self/status")?;
    let effective = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
    let missing: Vec<_> = [(39, "CAP_BPF"), (12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON")]
        .into_iter()
        .filter(|(bit, _)| effective >> bit & 1 == 0)
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        Ok("CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON".into())
    } else {
        Err(format!("this user has no {}", missing.join(", ")))
    }
}

fn verified() -> Found {
    let begun = Instant::now();
    host::try_programs().map_err(|error| error.to_string())?;
    let took = begun.elapsed().as_millis();
    Ok(format!("the verifier accepts them ({took} ms)"))
}

/// `setting` is readable by root alone.
fn jit(setting: &str, config: &str) -> Found {
    let always = config
        .lines()
        .any(|line| line == "CONFIG_BPF_JIT_ALWAYS_ON=y");
    match setting {
        "0" => Err("off".into()),
        "" if always => Ok("always on".into()),
        "" => Err("not known: only root may read the setting".into()),
        _ => Ok("on".into()),
    }
}

/// Uncompressed only: where distributions put it.
fn read_kernel_config() -> String {
    let release = read("/proc/sys/kernel/osrelease");
    read(format!("/boot/config-{release}"))
}

/// What attaching, and staying attached, takes.
fn attachment(privileged: bool) -> Vec<Check> {
    let mut checks = vec![check(
        "bpffs",
        true,
        bpffs(&read("/proc/mounts")),
        "nothing can be pinned: the gate does not start, unless it may mount (CAP_SYS_ADMIN)",
        "`mount -t bpf bpf /sys/fs/bpf`; systemd does it at boot",
    )];
    if !privileged {
        checks.push(untried("tcx"));
        return checks;
    }
    let tcx = attach::mechanism() == Mechanism::Tcx;
    let found = if tcx {
        Ok("links, pinned and replaced atomically".into())
    } else {
        Err("not in this kernel".into())
    };
    checks.push(check(
        "tcx",
        false,
        found,
        "clsact instead: whoever deletes that qdisc takes the gate off until the daemon puts it back",
        "boot Linux 6.6 or later",
    ));
    if !tcx {
        let able = shaping::abilities().clsact.clone();
        checks.push(check(
            "clsact",
            true,
            able.map(|()| "can be made".into()),
            NOTHING_RUNS,
            "use a kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF",
        ));
    }
    checks
}

/// Where the first bpffs is mounted.
fn bpffs(mounts: &str) -> Found {
    let mut fields = mounts.lines().map(|line| line.split(' '));
    let place = fields.find_map(|mut line| {
        let place = line.nth(1)?;
        (line.next()? == "bpf").then_some(place)
    });
    place
        .map(str::to_owned)
        .ok_or_else(|| "not mounted".to_owned())
}

/// What holds ceilings without starving TCP.
fn queues() -> Vec<Check> {
    let able = shaping::abilities();
    let yes = |able: &Result<(), String>| able.clone().map(|()| "can be made".to_owned());
    let (htb, edt) = (able.htb.is_ok(), able.fq.is_ok());
    let use_of = |used: bool, other: &'static str| if used { "nothing: fq is used" } else { other };
    vec![
        check(
            "fq",
            false,
            yes(&able.fq),
            if htb {
                "no departure times: HTB queues instead, behind a lock for each port"
            } else {
                "no departure times"
            },
            "load sch_fq, or use a kernel with CONFIG_NET_SCH_FQ",
        ),
        check(
            "HTB",
            false,
            yes(&able.htb),
            use_of(
                edt,
                "ceilings are policed: what is above is dropped, and few TCP flows reach less of it",
            ),
            "load sch_htb, or use a kernel with CONFIG_NET_SCH_HTB",
        ),
        check(
            "IFB",
            false,
            yes(&able.ifb),
            use_of(edt, "what comes from a tenant is policed"),
            "load ifb, or use a kernel with CONFIG_IFB",
        ),
    ]
}

/// What everything costs on this machine.
fn machine() -> Vec<Check> {
    let possible = host::possible_cpus();
    let online = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let config = crate::config::Host::PORTS_MAX;
    let bytes: u64 = Plan::new(config.into(), crate::config::Host::ZONES_MAX.into())
        .memory_bytes(possible)
        .iter()
        .map(|(_, bytes)| bytes)
        .sum();
    let cpus = format!(
        "{possible} possible, {online} for this process; {config} ports take {} MB of kernel memory",
        bytes / 1_000_000
    );
    let clock = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let slack_ms = host::coarse_slack_ns() / 1_000_000;
    vec![
        check(
            "Landlock",
            false,
            landlock(landlock_abi()),
            "the meter may write whatever root may: the unit's read-only file system holds it, and without the unit nothing does",
            "boot with `landlock` in lsm=, on a kernel with CONFIG_SECURITY_LANDLOCK",
        ),
        check(
            "CPUs",
            false,
            if possible > 4 * online {
                Err(cpus)
            } else {
                Ok(cpus)
            },
            "per-CPU maps have a copy for every possible CPU, there or not",
            "boot with possible_cpus= near the number that there is",
        ),
        check(
            "memory",
            false,
            memory(),
            "maps are refused beyond the limit",
            "`ulimit -l unlimited`, or LimitMEMLOCK=infinity in the unit",
        ),
        check(
            "clock",
            false,
            if matches!(clock.as_str(), "tsc" | "kvm-clock" | "arch_sys_counter") {
                Ok(clock)
            } else {
                Err(if clock.is_empty() {
                    "not told".into()
                } else {
                    clock
                })
            },
            "reading the time costs a system's trip for every packet near its limit",
            "look why the kernel distrusts the CPU's clock (`dmesg | grep -i tsc`)",
        ),
        check(
            "coarse clock",
            false,
            Ok(format!(
                "lags {slack_ms} ms at most: limits with a burst above {} ms read the exact one only \
                 near the limit",
                8 * slack_ms
            )),
            "",
            "",
        ),
    ]
}

/// The version of its rules, or the number of the error: landlock_create_ruleset(2).
fn landlock_abi() -> Result<i64, i32> {
    const VERSION: u32 = 1;
    // SAFETY: asked for its version, the call takes no attributes.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            VERSION,
        )
    };
    let error = || std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    if abi < 0 { Err(error()) } else { Ok(abi) }
}

fn landlock(abi: Result<i64, i32>) -> Found {
    match abi {
        Ok(6..) => Ok("the meter writes only where its records are, and signals nobody".into()),
        Ok(1..) => Ok("the meter writes only where its records are; it may signal others".into()),
        Err(libc::EOPNOTSUPP) => Err("in this kernel, and not switched on".into()),
        _ => Err("not in this kernel".into()),
    }
}

/// Since 5.11 maps are charged to the cgroup and not to RLIMIT_MEMLOCK.
fn memory() -> Found {
    match release(&read("/proc/sys/kernel/osrelease")) {
        Ok(_) => {
            let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
            let limit = limit.trim();
            Ok(match limit {
                "" | "max" => "maps are charged to the cgroup, which has no limit".into(),
                bytes => format!("maps are charged to the cgroup, limit {bytes} bytes"),
            })
        }
        Err(_) => Err("this kernel charges maps to RLIMIT_MEMLOCK".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for new in ["6.1.0-13-cloud-amd64", "6.18.44", "7.0-rc1", "10.2"] {
            assert_eq!(release(new), Ok(new.to_owned()));
        }
        for old in ["6.0.9", "5.15.0-generic", "4.19", "", "six"] {
            assert!(release(old).is_err(), "{old}");
        }
    }

    #[test]
    fn landlock_is_there_off_or_missing() {
        let said = [Ok(7), Ok(3), Err(libc::EOPNOTSUPP), Err(libc::ENOSYS)].map(landlock);
        assert_eq!(
            said.each_ref().map(Result::is_ok),
            [true, true, false, false]
        );
        assert!(
            said[2]
                .as_ref()
                .is_err_and(|why| why.contains("not switched on"))
        );
    }

    #[test]
    fn missing_capabilities_are_named() {
        let status = "Name:\toctroi\nCapEff:\t000000c000001000\n";
        assert!(capabilities(status).is_ok());
        let fewer = status.replace("c0000", "80000");
        let why = capabilities(&fewer).unwrap_err();
        assert_eq!(why, "this user has no CAP_PERFMON");
        assert!(capabilities("").is_err());
        assert!(capabilities("CapEff:\tnothing").is_err());
    }

    #[test]
    fn the_jit_is_known_without_root_where_the_kernel_always_has_it() {
        assert!(jit("1", "").is_ok() && jit("2", "").is_ok() && jit("0", "").is_err());
        assert!(jit("", "CONFIG_BPF_JIT_ALWAYS_ON=y\n").is_ok());
        assert!(jit("", "# CONFIG_BPF_JIT_ALWAYS_ON is not set\n").is_err());
    }

    #[test]
    fn a_bpffs_is_found_among_mounts() {
        let mounts = "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n";
        assert_eq!(bpffs(mounts), Ok("/sys/fs/bpf".into()));
        assert!(bpffs("bpf /bpf tmpfs rw 0 0\nx\n").is_err());
    }
}
