//! Bad input: each mistake is one clear line that says what to do, the exit status is 2 for the
//! configuration and 1 for the system, and what was enforced before stays enforced.
//!
//! After a refusal come frames, honest and lying: the gate must pass and bill the ones and drop the
//! others, in the revision that was in force before. The system's refusals are in
//! `bad_input/system.rs`.

#[path = "bad_input/gate.rs"]
mod gate;
mod support;
#[path = "bad_input/system.rs"]
mod system;

use anyhow::{Context as _, Result, ensure};
use gate::{Before, Said, at, cases, command, gate};
use octroi::lab::Site;
use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};
use support::{alone, can_run, octroi};

/// A configuration to make mistakes in: one port on line 6, one on line 13.
const LEGAL: &str = r#"[host]
name = "h"
[[tenant]]
name = "acme"
id = 17
[[port]]
name = "vm1"
tenant = "acme"
interface = "tap0"
macs = ["52:54:00:00:00:01"]
addresses = ["10.0.0.5", "10.0.1.0/24"]
from_tenant = { ceiling = "200Mbit/s", packet_rate = "10kpps" }
[[port]]
name = "vm2"
tenant = "acme"
interface = "tap1"
macs = ["52:54:00:00:00:02"]
addresses = ["10.0.0.6"]
"#;

/// What is put in the place of what, and what is said of it: where, what is wrong, what to do.
const MISTAKES: [(&str, &str, [&str; 3]); 17] = [
    (
        "tap1",
        "tap0",
        [
            ":16:13: ",
            "`vm2` and port `vm1` (line 9) are both on `tap0`",
            "a `vlan` for each",
        ],
    ),
    (
        "0.0.6",
        "0.0.5",
        [
            ":18:14: ",
            "10.0.0.5, which port `vm1` (line 11)",
            "belongs to one port",
        ],
    ),
    (
        "0.0.6",
        "0.1.7",
        [
            ":18:14: ",
            "10.0.1.7, which is in 10.0.1.0/24",
            "belongs to one port",
        ],
    ),
    (
        "0.0.6",
        "0.1.0/25",
        [
            ":18:14: ",
            "10.0.1.0/25, which is in 10.0.1.0/24",
            "belongs to one port",
        ],
    ),
    (
        "00:02",
        "00:01",
        [
            ":17:9: ",
            "52:54:00:00:00:01, which port `vm1`",
            "belongs to one port",
        ],
    ),
    (
        "200Mbit",
        "0bit",
        [
            ":12:27: ",
            "the ceiling is 0bit/s",
            "write at least 1kbit/s",
        ],
    ),
    (
        "200Mbit",
        "-200Mbit",
        [":12:27: ", "is negative", "write a rate such as 200Mbit/s"],
    ),
    (
        "200Mbit",
        "401Gbit",
        [
            ":12:27: ",
            "the ceiling is 401Gbit/s",
            "write at most 400Gbit/s",
        ],
    ),
    (
        "200Mbit",
        "9e99bit",
        [
            ":12:27: ",
            "the unit `e99bit/s`, which is none",
            "write 9bit/s",
        ],
    ),
    (
        "10kpps",
        "0pps",
        [":12:54: ", "the packet rate is 0pps", "write at least 1pps"],
    ),
    (
        "10kpps",
        "-1pps",
        [
            ":12:54: ",
            "is negative",
            "write a packet rate such as 10kpps",
        ],
    ),
    (
        "10kpps",
        "2Gpps",
        [
            ":12:54: ",
            "the packet rate is 2Gpps",
            "write at most 1Gpps",
        ],
    ),
    (
        "id = 17",
        "id = 17\ncolor = 3",
        [":6:1: ", "unknown key `color`", "the keys are name, id"],
    ),
    (
        "[[tenant]]",
        "[[tenant]",
        [":3:10: ", "this is not TOML", "expected `]`"],
    ),
    (
        "tenant = \"acme",
        "tenant = \"acne",
        [
            ":8:10: ",
            "`acne`, which is not there",
            "did you mean `acme`?",
        ],
    ),
    (
        "name = \"h",
        "name = \"",
        [":2:8: ", "the name is empty", "write 1 to 64 of"],
    ),
    (
        "\n[[tenant]]",
        "\npacket_price_bytes = 65536\n[[tenant]]",
        [
            ":3:22: ",
            "`packet_price_bytes` is 65536",
            "write 0 to 65535",
        ],
    ),
];

/// Files that are no configuration at all.
const NO_CONFIGURATION: [(&[u8], [&str; 2]); 4] = [
    (b"", [":1:1: the file says nothing", "write"]),
    (
        b"\x7fELF\x02\x01\x01\x00",
        [":1:9: this is not TOML", "expected `=`"],
    ),
    (
        b"<?xml version=\"1.0\"?>\n",
        [":1:7: this is not TOML", "expected `=`"],
    ),
    (
        b"[host]\nname = \"caf\xe9\"\n",
        [":2:12: byte 0xe9 is not UTF-8", "save the file as UTF-8"],
    ),
];

/// A directory for the files of one test.
fn directory(of: &str) -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("octroi-{}-{of}", std::process::id()));
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// `octroi check FILE`.
fn check(file: &PathBuf) -> Result<Said> {
    let mut command = Command::new(octroi());
    command.arg("check").arg(file);
    Said::by(command)
}

#[test]
fn a_mistake_in_the_configuration_is_one_line_with_its_place_and_its_cure() -> Result<()> {
    let directory = directory("check")?;
    let file = directory.join("bad.toml");
    let name = file.display().to_string();
    fs::write(&file, LEGAL)?;
    let legal = check(&file)?;
    assert_eq!(
        (legal.status, legal.text.as_str()),
        (Some(0), ""),
        "the legal one"
    );
    for (old, new, [place, what, cure]) in MISTAKES {
        let text = LEGAL.replacen(old, new, 1);
        assert_ne!(text, LEGAL, "{old:?} is not there");
        fs::write(&file, text)?;
        check(&file)?
            .is(2, &[&name, place, what, cure])
            .with_context(|| format!("{new:?}"))?;
    }
    for (bytes, [what, cure]) in NO_CONFIGURATION {
        fs::write(&file, bytes)?;
        check(&file)?.is(2, &[&name, what, cure])?;
    }
    fs::remove_file(&file)?;
    check(&file)?.is(2, &[&name, "there is no such file", "write one"])?;
    fs::remove_dir_all(&directory)?;
    cases(MISTAKES.len() + NO_CONFIGURATION.len() + 1);
    Ok(())
}

#[test]
fn two_mistakes_are_two_lines() -> Result<()> {
    let directory = directory("two")?;
    let file = directory.join("bad.toml");
    fs::write(
        &file,
        LEGAL.replace("tap1", "tap0").replace("00:02", "00:01"),
    )?;
    let said = check(&file)?;
    assert_eq!(
        (said.status, said.text.lines().count()),
        (Some(2), 2),
        "{}",
        said.text
    );
    fs::remove_dir_all(&directory)?;
    cases(1);
    Ok(())
}

#[test]
fn a_running_gate_refuses_a_bad_configuration_and_goes_on() -> Result<()> {
    if !can_run("a_running_gate_refuses_a_bad_configuration_and_goes_on") {
        return Ok(());
    }
    let _alone = alone();
    let site = gate()?;
    let before = Before::of(&site)?;
    let file = site.directory().join("bad.toml");
    let name = file.display().to_string();
    for (old, new, [place, what, cure]) in MISTAKES {
        fs::write(&file, LEGAL.replacen(old, new, 1))?;
        let words = [&name, place, what, cure];
        Said::by(at(&site, &["apply", &name])?)?.is(2, &words)?;
        Said::by(command(&site, &["run", "--config", &name])?)?.is(2, &words)?;
    }
    before.still_holds(&site)?;
    cases(2 * MISTAKES.len());
    Ok(())
}

#[test]
fn what_the_maps_were_made_for_cannot_be_changed_under_a_running_gate() -> Result<()> {
    if !can_run("what_the_maps_were_made_for_cannot_be_changed_under_a_running_gate") {
        return Ok(());
    }
    let _alone = alone();
    let site = gate()?;
    let before = Before::of(&site)?;
    let file = site.directory().join("other.toml").display().to_string();
    let pin_dir = site.pin_dir().display().to_string();
    let run_dir = site.run_dir().display().to_string();
    let changes = [
        ("ports_max = 64", "ports_max = 65"),
        ("ports_max = 64", "ports_max = 64\nzones_max = 17"),
        (&pin_dir, "/sys/fs/bpf/elsewhere"),
        (&run_dir, "/run/elsewhere"),
    ];
    for (old, new) in changes {
        fs::write(&file, site.config("").replacen(old, new, 1))?;
        let words = [
            "[host] ports_max, zones_max, flows_max, pin_dir, run_dir and [meter] are fixed",
            "`octroi detach`",
        ];
        Said::by(at(&site, &["apply", &file])?)?
            .is(2, &words)
            .context(new)?;
    }
    before.still_holds(&site)?;
    cases(changes.len());
    Ok(())
}

/// The body of a port that a hook would add, with one thing changed.
fn body(old: &str, new: &str) -> String {
    const LEGAL: &str = "name = \"hook\"\ntenant = \"alice\"\ninterface = \"p-hook\"\n\
        macs = [\"02:00:00:00:00:10\"]\naddresses = [\"10.77.0.16\"]\n\
        to_tenant = { ceiling = \"10Mbit/s\" }\n";
    assert!(LEGAL.contains(old), "{old:?}");
    LEGAL.replacen(old, new, 1)
}

#[test]
fn a_hook_s_bad_port_is_refused_and_leaves_no_trace() -> Result<()> {
    if !can_run("a_hook_s_bad_port_is_refused_and_leaves_no_trace") {
        return Ok(());
    }
    let _alone = alone();
    let site = gate()?;
    let before = Before::of(&site)?;
    let bad = [
        ("name = ", "name ", ["port:1:", "this is not TOML"]),
        ("macs", "mac", ["port:4:1: ", "unknown key `mac`"]),
        ("10Mbit", "0bit", ["port:6:25: ", "write at least 1kbit/s"]),
        (
            "\"alice",
            "\"zed",
            ["tenant `zed`, which is not there", "add [[tenant]]"],
        ),
        (
            "p-hook",
            "p-alice",
            ["`alice-port` are both on `p-alice`", "a `vlan` for each"],
        ),
        (
            "77.0.16",
            "77.0.1",
            ["10.77.0.1, which port `alice-port`", "belongs to one port"],
        ),
        (
            "00:10",
            "00:01",
            [
                "02:00:00:00:00:01, which port `alice-port`",
                "belongs to one port",
            ],
        ),
        (
            "\"hook",
            "\"alice-port",
            [
                "port alice-port is in",
                "change it there and run `octroi apply`",
            ],
        ),
    ];
    for (old, new, words) in bad {
        Said::by(at(&site, &["port", "add", &body(old, new)])?)?
            .is(2, &words)
            .context(new)?;
    }
    let unknown = ["there is no port", "`octroi status` lists the ports"];
    Said::by(at(&site, &["port", "set", &body("", "")])?)?.is(2, &unknown)?;
    Said::by(at(&site, &["port", "remove", "zed"])?)?.is(2, &unknown)?;
    let of_the_file = [
        "port alice-port is in",
        "change it there and run `octroi apply`",
    ];
    Said::by(at(&site, &["port", "remove", "alice-port"])?)?.is(2, &of_the_file)?;
    assert_eq!(gate::report(&site)?.ports.len(), 2, "ports");
    before.still_holds(&site)?;
    cases(bad.len() + 3);
    Ok(())
}

/// Waits until the daemon has printed `words`, in a line of its own.
fn wait_for_log(site: &Site, words: &str) -> Result<()> {
    let begun = Instant::now();
    while !site.log().contains(words) {
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "no {words:?} in:\n{}",
            site.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn a_reload_of_a_broken_file_changes_nothing_and_says_so() -> Result<()> {
    if !can_run("a_reload_of_a_broken_file_changes_nothing_and_says_so") {
        return Ok(());
    }
    let _alone = alone();
    let site = gate()?;
    let before = Before::of(&site)?;
    site.write_config(&site.config("color = 3"))?;
    let pid = site.daemon_pid().context("no daemon")?;
    // SAFETY: a signal to a child of this process.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGHUP) };
    wait_for_log(&site, "octroi: the configuration before stays in force")?;
    let place = format!("{}:6:1: unknown key `color`", site.config_path().display());
    assert_eq!(
        site.log()
            .lines()
            .filter(|line| line.starts_with(&place))
            .count(),
        1,
        "{}",
        site.log()
    );
    before.still_holds(&site)?;
    cases(1);
    Ok(())
}
