//! `octroi doctor`: what this kernel and host can do, what will be used, what is missing and what that
//! costs, and what bypasses the gate. Looks, and changes nothing; with `--calibrate` it measures, beside what is there.

mod bypass;
mod calibrate;
mod checks;

pub use bypass::Bypass;
pub use calibrate::run as calibrate;
pub use checks::Check;

use dataplane::{attach, host};
use serde::Serialize;
use std::{fmt::Write as _, fs, path::Path, process::ExitCode};

/// `octroi doctor --json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The gate can run here.
    pub ok: bool,
    /// Kernel release.
    pub kernel: String,
    /// How programs are attached.
    pub attach: &'static str,
    /// How ceilings are held when the configuration says `auto`: from the tenant, to the tenant.
    pub shape: [&'static str; 2],
    /// CPUs that per-CPU maps have a copy for.
    pub possible_cpus: u32,
    /// What the gate needs, or is better with.
    pub checks: Vec<Check>,
    /// Ways past the gate that this host has.
    pub bypass: Vec<Bypass>,
}

/// Looks at the host and prints what was found. Exit status 1 when the gate cannot run here.
pub fn run(json: bool) -> ExitCode {
    let report = look();
    if json {
        println!("{}", serde_json::to_string(&report).unwrap_or_default());
    } else {
        print!("{}", text(&report));
    }
    if report.ok {
        return ExitCode::SUCCESS;
    }
    let missing = report
        .checks
        .iter()
        .filter(|check| check.needed && !check.ok);
    let names: Vec<_> = missing.map(|check| check.name).collect();
    eprintln!("octroi: the gate cannot run here: {}", names.join(", "));
    ExitCode::FAILURE
}

/// Looks at everything, with what rights this process has.
pub fn look() -> Report {
    let checks = checks::all();
    Report {
        ok: checks.iter().all(|check| check.ok || !check.needed),
        kernel: read("/proc/sys/kernel/osrelease"),
        attach: attach::mechanism().name(),
        shape: checks::shapes(),
        possible_cpus: host::possible_cpus(),
        checks,
        bypass: bypass::all(),
    }
}

fn text(report: &Report) -> String {
    let [from, to] = report.shape;
    let mut text = format!(
        "kernel {}, {} possible CPUs\nprograms attach by {}; ceilings are held by {from} from tenants, \
         {to} to them\n\n",
        report.kernel, report.possible_cpus, report.attach
    );
    for check in &report.checks {
        let mark = match (check.ok, check.needed) {
            (true, _) => "ok",
            (false, true) => "MISSING",
            (false, false) => "without",
        };
        let _ = writeln!(text, "{mark:<8} {:<14} {}", check.name, check.found);
        if !check.ok {
            let _ = writeln!(text, "{:23} costs: {}", "", check.cost);
            let _ = writeln!(text, "{:23} do:    {}", "", check.r#do);
        }
    }
    let _ = writeln!(text, "\nways past the gate:");
    for way in &report.bypass {
        let _ = writeln!(text, "  {}: {}", way.at, way.found);
        let _ = writeln!(text, "    {}", way.cost);
        let _ = writeln!(text, "    do: {}", way.r#do);
    }
    if report.bypass.is_empty() {
        text.push_str("  none was found\n");
    }
    text
}

/// A file of /proc or /sys, trimmed; empty when it cannot be read.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_is_missing_and_what_to_do() {
        let report = Report {
            ok: false,
            kernel: "6.1.0".into(),
            attach: "clsact",
            shape: ["police", "htb"],
            possible_cpus: 4,
            checks: vec![Check {
                name: "BTF",
                ok: false,
                needed: true,
                found: "not there".into(),
                cost: "the gate does not run".into(),
                r#do: "another kernel".into(),
            }],
            bypass: vec![Bypass {
                at: "eth0".into(),
                found: "2 SR-IOV functions".into(),
                cost: "not seen here",
                r#do: "none for tenants",
            }],
        };
        let expected = "kernel 6.1.0, 4 possible CPUs\n\
            programs attach by clsact; ceilings are held by police from tenants, htb to them\n\n\
            MISSING  BTF            not there\n\
            \x20                       costs: the gate does not run\n\
            \x20                       do:    another kernel\n\n\
            ways past the gate:\n  eth0: 2 SR-IOV functions\n    not seen here\n    do: none for tenants\n";
        assert_eq!(text(&report), expected);
    }
}
