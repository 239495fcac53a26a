//! What the system refuses: exit status 1, and a line that says what to do.

use crate::{
    gate::{Before, FRAMES, Said, at, cases, command, gate, port, run},
    support::{alone, can_run, octroi},
    wait_for_log,
};
use anyhow::{Context as _, Result, ensure};
use dataplane::gate::PortState;
use dataplane_common::abi::ABI_VERSION;
use octroi::lab::Site;
use std::{
    fs,
    io::Write as _,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

/// The user and group `nobody`.
const NOBODY: u32 = 65_534;

/// A copy of the program where every user reaches it.
fn for_everybody(site: &Site) -> Result<PathBuf> {
    let copy = site.directory().join("octroi");
    fs::copy(octroi(), &copy)?;
    Ok(copy)
}

/// Makes `command` begin as nobody, after it has entered the site's namespace.
fn as_nobody(command: &mut Command) {
    // SAFETY: three system calls.
    unsafe {
        command.pre_exec(|| {
            let dropped = libc::setgroups(0, std::ptr::null()) == 0
                && libc::setgid(NOBODY) == 0
                && libc::setuid(NOBODY) == 0;
            if dropped {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
}

#[test]
fn without_root_every_command_says_so_and_touches_nothing() -> Result<()> {
    if !can_run("without_root_every_command_says_so_and_touches_nothing") {
        return Ok(());
    }
    let _alone = alone();
    let mut site = gate()?;
    let program = for_everybody(&site)?;
    let config = site.config_path().display().to_string();
    let mut tried = 0;
    for daemon in [true, false] {
        if !daemon {
            site.kill()?;
        }
        let before = Before::of(&site)?;
        let ask = ["only root may ask the daemon", "use sudo"];
        let commands: [(&[&str], [&str; 2]); 5] = [
            (
                &["run", "--config", &config],
                ["needs root", "run it with sudo"],
            ),
            (&["apply", &config], ask),
            (&["port", "remove", "alice-port"], ask),
            (&["status"], ["only root may read this gate", "use sudo"]),
            (&["detach"], ["needs root", "run it with sudo"]),
        ];
        for (arguments, words) in commands {
            let mut command = site.host.prepare(&program)?;
            command.args(arguments);
            if arguments[0] != "run" {
                command
                    .arg("--run-dir")
                    .arg(site.run_dir())
                    .arg("--pin-dir")
                    .arg(site.pin_dir());
            }
            as_nobody(&mut command);
            Said::by(command)?
                .is(1, &words)
                .with_context(|| format!("{arguments:?}"))?;
            tried += 1;
        }
        before.still_holds(&site)?;
    }
    cases(tried);
    Ok(())
}

/// Puts `command` under a filter that answers every `bpf()` with `errno`: ENOSYS as a kernel that was
/// built without it does, EPERM as a container does that may not.
fn without_bpf(command: &mut Command, errno: i32) {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let filter = |code: u32, jump_if_not: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: jump_if_not,
        k,
    };
    // struct seccomp_data begins with the number of the call.
    let filters = [
        filter(BPF_LD | BPF_W | BPF_ABS, 0, 0),
        filter(BPF_JMP | BPF_JEQ | BPF_K, 1, libc::SYS_bpf as u32),
        filter(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        filter(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: one system call; the filters live in the closure.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog {
                len: filters.len() as u16,
                filter: filters.as_ptr().cast_mut(),
            };
            let mode = libc::SECCOMP_MODE_FILTER;
            if libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

#[test]
fn a_kernel_without_bpf_is_named_and_what_runs_in_it_goes_on() -> Result<()> {
    const TEST: &str = "a_kernel_without_bpf_is_named_and_what_runs_in_it_goes_on";
    if !can_run(TEST) {
        return Ok(());
    }
    // SAFETY: asks only.
    if unsafe { libc::prctl(libc::PR_GET_SECCOMP) } < 0 {
        println!("SKIPPED: {TEST}: this kernel has no seccomp to take bpf() away with");
        return Ok(());
    }
    let _alone = alone();
    let mut site = gate()?;
    site.kill()?;
    let before = Before::of(&site)?;
    let words = [
        "bpf(): ",
        "CONFIG_BPF_SYSCALL",
        "CAP_BPF",
        "`octroi doctor`",
    ];
    for errno in [libc::ENOSYS, libc::EPERM] {
        for mut command in [
            run(&site)?,
            at(&site, &["status"])?,
            at(&site, &["detach"])?,
        ] {
            without_bpf(&mut command, errno);
            let error = std::io::Error::from_raw_os_error(errno).to_string();
            let said = Said::by(command)?;
            said.is(1, &words)?;
            ensure!(said.text.contains(&error), "no {error:?} in: {}", said.text);
        }
    }
    before.still_holds(&site)?;
    cases(6);
    Ok(())
}

/// Waits until a port is blessed.
fn wait_blessed(site: &Site, name: &str) -> Result<()> {
    let begun = Instant::now();
    while port(site, name)?.state != PortState::Blessed {
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "{name} is not blessed:\n{}",
            site.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn an_interface_that_comes_later_is_waited_for_with_one_line() -> Result<()> {
    if !can_run("an_interface_that_comes_later_is_waited_for_with_one_line") {
        return Ok(());
    }
    let _alone = alone();
    let mut site = gate()?;
    // From the file, a port and an uplink, and a port that a hook adds.
    let text = site
        .config("")
        .replace("p-bob", "later0")
        .replace("[[zone]]", "[[uplink]]\ninterface = \"later1\"\n\n[[zone]]");
    site.write_config(&text)?;
    let file = site.config_path().display().to_string();
    let applied = Said::by(at(&site, &["apply", &file])?)?;
    assert_eq!(
        (applied.status, applied.text.as_str()),
        (Some(0), ""),
        "not a mistake"
    );
    let added = Said::by(at(
        &site,
        &["port", "add", &crate::body("p-hook", "later2")],
    )?)?;
    added.is(
        1,
        &[
            "port hook is in force, but later2 is not there yet",
            "as soon as later2 comes",
        ],
    )?;
    assert_eq!(port(&site, "bob-port")?.state, PortState::Waiting);
    assert_eq!(port(&site, "hook")?.state, PortState::Waiting);
    let before = Before::of(&site)?;
    before.still_holds(&site)?;
    // The daemon looks again every second; it says it once.
    std::thread::sleep(Duration::from_millis(2_500));
    for line in [
        "bob-port waits for later0",
        "uplink later1 waits for later1",
        "hook waits for later2",
    ] {
        let interface = line.rsplit(' ').next().unwrap_or_default();
        let said = format!("octroi: {line}: it is attached as soon as {interface} comes");
        let log = site.log();
        assert_eq!(
            log.lines().filter(|line| *line == said).count(),
            1,
            "{said} in:\n{log}"
        );
    }
    for interface in ["later0", "later1", "later2"] {
        site.host.command(&format!(
            "ip link add {interface} type veth peer name {interface}-peer"
        ))?;
    }
    wait_blessed(&site, "bob-port")?;
    wait_blessed(&site, "hook")?;
    before.and(FRAMES).still_holds(&site)?;
    // A restart knows the hook's port too.
    site.kill()?;
    site.start(octroi())?;
    wait_blessed(&site, "hook")?;
    cases(3);
    Ok(())
}

#[test]
fn pins_of_another_shape_are_refused_and_their_gate_goes_on() -> Result<()> {
    if !can_run("pins_of_another_shape_are_refused_and_their_gate_goes_on") {
        return Ok(());
    }
    let _alone = alone();
    let mut site = gate()?;
    let config = site.config("");
    site.kill()?;
    let before = Before::of(&site)?;
    let changes = [
        "ports_max = 65",
        "ports_max = 63",
        "ports_max = 64\nzones_max = 17",
    ];
    for change in changes {
        site.write_config(&config.replacen("ports_max = 64", change, 1))?;
        let pins = site
            .pin_dir()
            .join(format!("v{ABI_VERSION}/maps"))
            .display()
            .to_string();
        let words = [
            &pins,
            "this pinned map has",
            "entries",
            "this configuration needs",
            "the old gate goes on enforcing",
            "keep [host] ports_max, zones_max and flows_max as they were",
            "`octroi detach`",
        ];
        Said::by(run(&site)?)?.is(1, &words).context(change)?;
    }
    before.still_holds(&site)?;
    // With its own shape it is adopted, counts and all.
    site.write_config(&config)?;
    site.start(octroi())?;
    wait_for_log(&site, "octroi: adopted what an earlier run left")?;
    let after = Before::of(&site)?;
    assert_eq!(
        after,
        Before {
            revision: after.revision,
            ..before.and(FRAMES)
        },
        "counts go on"
    );
    cases(changes.len());
    Ok(())
}

#[test]
fn pins_of_another_version_are_refused_and_the_gate_goes_on() -> Result<()> {
    if !can_run("pins_of_another_version_are_refused_and_the_gate_goes_on") {
        return Ok(());
    }
    let _alone = alone();
    let mut site = gate()?;
    site.kill()?;
    let before = Before::of(&site)?;
    let other = site.pin_dir().join("v999");
    fs::create_dir_all(other.join("maps"))?;
    let path = other.display().to_string();
    let words = [
        &path,
        "pins of another version of octroi",
        "goes on enforcing",
        "`octroi detach --all-versions`",
    ];
    Said::by(run(&site)?)?.is(1, &words)?;
    before.still_holds(&site)?;
    let said = Said::by(at(&site, &["detach", "--all-versions"])?)?;
    assert_eq!((said.status, said.text.as_str()), (Some(0), ""));
    assert!(!site.pin_dir().exists(), "nothing is left of any version");
    cases(1);
    Ok(())
}

#[test]
fn a_policy_that_does_not_fit_is_refused_before_anything_is_touched() -> Result<()> {
    if !can_run("a_policy_that_does_not_fit_is_refused_before_anything_is_touched") {
        return Ok(());
    }
    let _alone = alone();
    let site = gate()?;
    let before = Before::of(&site)?;
    let prefixes: Vec<String> = (0..17_000)
        .map(|n: u32| format!("\"20.{}.{}.0/24\"", n / 256, n % 256))
        .collect();
    // Alice's port would begin anew for another tenant.
    let text = site.config("").replace("id = 1\n", "id = 99\n");
    let text = format!(
        "{text}\n[[zone]]\nname = \"wide\"\ncidrs = [{}]\n",
        prefixes.join(", ")
    );
    site.write_config(&text)?;
    let file = site.config_path().display().to_string();
    let words = [
        "zone prefixes: ",
        "do not fit",
        "stays in force",
        "raise [host] ports_max",
    ];
    Said::by(at(&site, &["apply", &file])?)?.is(1, &words)?;
    before.still_holds(&site)?;
    cases(1);
    Ok(())
}

#[test]
fn a_second_daemon_and_directories_that_do_not_serve_are_refused() -> Result<()> {
    if !can_run("a_second_daemon_and_directories_that_do_not_serve_are_refused") {
        return Ok(());
    }
    let _alone = alone();
    let site = gate()?;
    let before = Before::of(&site)?;
    Said::by(run(&site)?)?.is(
        1,
        &[
            "another octroi runs here",
            "stop it first",
            "`octroi apply`",
        ],
    )?;
    let file = site.directory().join("other.toml").display().to_string();
    let (pins, own) = (
        site.pin_dir().display().to_string(),
        site.run_dir().display().to_string(),
    );
    let elsewhere = site.directory().join("elsewhere").display().to_string();
    let config = site.config("").replace(&own, &elsewhere);
    for (from, to, words) in [
        (
            &elsewhere,
            "/proc/no/such",
            ["/proc/no/such: ", "name another [host] run_dir"],
        ),
        (
            &pins,
            "/proc/no/such",
            [
                "/proc/no/such is not on a BPF file system",
                "mount -t bpf bpf",
            ],
        ),
    ] {
        fs::write(&file, config.replace(from, to))?;
        Said::by(command(&site, &["run", "--config", &file])?)?.is(1, &words)?;
    }
    let nobody_there = [
        "no daemon answers",
        "start it with `octroi run --config FILE`",
    ];
    for arguments in [["apply", &file], ["port", "remove"]] {
        let mut command = command(&site, &arguments)?;
        if arguments[0] == "port" {
            command.arg("bob-port");
        }
        command.arg("--run-dir").arg(site.directory());
        Said::by(command)?.is(1, &nobody_there)?;
    }
    before.still_holds(&site)?;
    cases(5);
    Ok(())
}

#[test]
fn a_client_that_talks_nonsense_or_not_at_all_holds_nobody_up() -> Result<()> {
    if !can_run("a_client_that_talks_nonsense_or_not_at_all_holds_nobody_up") {
        return Ok(());
    }
    let _alone = alone();
    let site = gate()?;
    let before = Before::of(&site)?;
    let socket = site.run_dir().join("control.sock");
    let silent = (0..8)
        .map(|_| UnixStream::connect(&socket))
        .collect::<Result<Vec<_>, _>>()?;
    let nonsense: [&[u8]; 4] = [
        b"\n",
        b"{\"command\":\"fly\"}\n",
        b"\xff\xfe\n",
        &[b'['; 100_000],
    ];
    for bytes in nonsense {
        let mut client = UnixStream::connect(&socket)?;
        client.write_all(bytes)?;
    }
    before.still_holds(&site)?;
    drop(silent);
    cases(nonsense.len() + 1);
    Ok(())
}
