//! octroi beside softflowd, nfcapd and pmacctd: the same frames over the same link, the CPU that each meter
//! took for them, and how many of their bytes it counted.
//!
//! A tenant sends a fixed list of datagrams again and again; with and without GSO. What was carried is known
//! from the list, to the byte. Each meter is started for one run, alone, and ended by its process number.
//! CPU of a process is what the scheduler says of all its threads; what octroi costs in the kernel is what
//! the kernel measured of its programs. What capturing costs peers in the kernel shows only in the sender's
//! own time, which is noisy: it is printed beside, and in no ratio.
//!
//! Runs when it is asked for: `cargo xtask bench meter`. Results are lines of JSON in the file that
//! `OCTROI_PEERS_RESULTS` names. What it is not: no criterion bench, for a meter cannot be run in a loop.

#[path = "peers/carried.rs"]
mod carried;
#[path = "peers/meters.rs"]
mod meters;

use anyhow::{Context as _, Result};
use carried::Carried;
use meters::{Meter, Seen};
use octroi::lab::{Site, TenantSpec, site};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Of one meter, in one run.
struct Run {
    meter: Meter,
    gso: bool,
    /// CPU of its processes and, where it is known, in the kernel, ns a frame.
    process_ns: f64,
    kernel_ns: Option<f64>,
    /// The sender's CPU, ns a frame.
    sender_ns: f64,
    /// Of what was carried, billionths, and what "all" means to this meter.
    counted: u64,
    carried: u64,
    unit: &'static str,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg.starts_with("meter")) {
        return ExitCode::SUCCESS;
    }
    let short = args.iter().any(|arg| arg == "--warm-up-time");
    match all(short) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn all(short: bool) -> Result<()> {
    if let Err(why) = site::possible() {
        println!("SKIPPED: bench peers: {why}");
        return Ok(());
    }
    let octroi = octroi_binary()?;
    let (rounds, frames) = if short { (1, 100_000) } else { (5, 500_000) };
    let mut runs = Vec::new();
    for gso in [false, true] {
        for round in 0..rounds {
            for meter in Meter::ALL {
                if let Some(missing) = meter.missing() {
                    if round == 0 {
                        println!(
                            "SKIPPED: bench peers, {}: {missing} is not installed",
                            meter.name()
                        );
                    }
                    continue;
                }
                runs.push(run(meter, gso, frames, &octroi)?);
            }
        }
    }
    print!("{}", table(&runs));
    store(&runs)
}

/// Beside the benches: the release that cargo has just built, or the one that `OCTROI_BINARY` names.
fn octroi_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("OCTROI_BINARY") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let release = own
        .parent()
        .and_then(Path::parent)
        .context("a target directory")?;
    Ok(release.join("octroi"))
}

fn run(meter: Meter, gso: bool, frames: u64, octroi: &Path) -> Result<Run> {
    let spec = TenantSpec {
        name: "alice",
        offloads: gso,
        limits: "",
    };
    let mut site = Site::new(&[spec])?;
    let started = meter.start(&mut site, octroi)?;
    let carried = carried::send(&site, frames, gso)?;
    let Seen {
        counted,
        process_ns,
        kernel_ns,
        unit,
    } = started.end(&mut site)?;
    let Carried {
        frames,
        l2_bytes,
        l3_bytes,
        sender_ns,
    } = carried;
    let a_frame = |ns: u64| ns as f64 / frames as f64;
    Ok(Run {
        meter,
        gso,
        process_ns: a_frame(process_ns),
        kernel_ns: kernel_ns.map(a_frame),
        sender_ns: a_frame(sender_ns),
        counted,
        carried: if unit == "l2" { l2_bytes } else { l3_bytes },
        unit,
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// CPU seconds for a million frames are µs a frame: thousandths of what is kept.
fn table(runs: &[Run]) -> String {
    let mut text = format!(
        "\n{:10} {:5} {:>12} {:>12} {:>8} {:>12} {:>14} {:>14} {:>10}\n",
        "meter",
        "gso",
        "CPU s/Mpkt",
        "of it kernel",
        "ratio",
        "sender s/M",
        "counted",
        "carried",
        "share"
    );
    for gso in [false, true] {
        let of = |meter: Meter, what: fn(&Run) -> f64| {
            let of = runs
                .iter()
                .filter(|run| run.meter == meter && run.gso == gso);
            median(of.map(what).collect())
        };
        let cost = |run: &Run| run.process_ns + run.kernel_ns.unwrap_or_default();
        let ours = of(Meter::Octroi, cost);
        for meter in Meter::ALL {
            let Some(last) = runs
                .iter()
                .rev()
                .find(|run| run.meter == meter && run.gso == gso)
            else {
                continue;
            };
            let kernel = match last.kernel_ns {
                Some(_) => format!(
                    "{:.4}",
                    of(meter, |run| run.kernel_ns.unwrap_or_default()) / 1e3
                ),
                None => "-".into(),
            };
            let all = of(meter, cost);
            let ratio = match meter {
                Meter::Nothing => "-".into(),
                _ => format!("{:.2}", all / ours),
            };
            let share = match meter {
                Meter::Nothing => "-".into(),
                _ => share(last.counted, last.carried),
            };
            text += &format!(
                "{:10} {:5} {:>12.4} {kernel:>12} {ratio:>8} {:>12.4} {:>14} {:>14} {share:>10}\n",
                meter.name(),
                if gso { "on" } else { "off" },
                all / 1e3,
                of(meter, |run| run.sender_ns) / 1e3,
                last.counted,
                format!("{} {}", last.carried, last.unit),
            );
        }
    }
    text + "ratio: to octroi's CPU in the same run, kernel and daemon; of the others what they take in the kernel is \
            in the sender's time only. l2: with Ethernet headers; l3: IP bytes\n"
}

/// In parts per million of a hundred percent, by integers: all of it is all of it.
fn share(counted: u64, carried: u64) -> String {
    let millionths = u128::from(counted) * 100_000_000 / u128::from(carried.max(1));
    format!("{}.{:06} %", millionths / 1_000_000, millionths % 1_000_000)
}

fn store(runs: &[Run]) -> Result<()> {
    let Some(path) = std::env::var_os("OCTROI_PEERS_RESULTS") else {
        return Ok(());
    };
    let mut file = std::fs::File::create(&path)?;
    for run in runs {
        let line = serde_json::json!({
            "meter": run.meter.name(),
            "gso": run.gso,
            "process_ns": (run.process_ns * 100.0).round() / 100.0,
            "kernel_ns": run.kernel_ns.map(|ns| (ns * 100.0).round() / 100.0),
            "sender_ns": (run.sender_ns * 100.0).round() / 100.0,
            "counted": run.counted,
            "carried": run.carried,
            "unit": run.unit,
        });
        writeln!(file, "{line}")?;
    }
    Ok(())
}
