//! octroi beside what an operator would use instead, in one run, on the same namespaces: `cargo xtask bench --isolation`.
//!
//! One site: a remote end, a host, eight tenants. For each scenario every system is put in force, loaded, and taken
//! away again, so many times, in turns. What it leaves is in `results.rs`, how it is shown in `table.rs` and `plot.rs`.
//! What it is not: a test. A figure never fails a run; a system that cannot be put in force does.

mod edt;
pub mod measure;
mod ours;
pub mod plot;
pub mod results;
pub mod scenarios;
mod sharing;
pub mod summary;
mod systems;
pub mod table;
pub mod traffic;

use anyhow::{Context as _, Result, ensure};
use octroi::lab::{Namespace, Site, TenantSpec, site};
use results::Line;
use scenarios::{Scenario, TENANTS, Timing};
use std::path::{Path, PathBuf};
use systems::System;

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seconds that are measured, after two that are not; 1 to 60.
    pub seconds: u64,
    /// Runs of each cell; 1 to 25.
    pub runs: usize,
    /// Beginnings of names of scenarios; none: all.
    pub scenarios: Vec<String>,
    /// Names of systems; none: all.
    pub systems: Vec<String>,
    /// A few scenarios, a second each: that everything runs.
    pub short: bool,
    /// The commit that stands in the results.
    pub commit: String,
    /// What the machine is, if it is none of its own: in virtual time, for one.
    pub machine: Option<String>,
    /// All rates are divided by it; 1 to 100.
    pub slower: u64,
    /// The binary that is measured.
    pub octroi: PathBuf,
}

const SPECS: [TenantSpec; TENANTS] = {
    const fn tenant(name: &'static str) -> TenantSpec {
        TenantSpec {
            name,
            offloads: true,
            limits: "",
        }
    }
    [
        tenant("t1"),
        tenant("t2"),
        tenant("t3"),
        tenant("t4"),
        tenant("t5"),
        tenant("t6"),
        tenant("t7"),
        tenant("t8"),
    ]
};

impl Options {
    fn timing(&self) -> Timing {
        let (before, measured) = if self.short {
            (0.3, 0.7)
        } else {
            (2.0, self.seconds as f64)
        };
        Timing {
            before,
            measured,
            slower: self.slower.max(1),
        }
    }

    /// The scenarios that are asked for.
    ///
    /// # Errors
    /// When a name begins none.
    pub fn chosen(&self) -> Result<Vec<Scenario>> {
        if self.scenarios.is_empty() && self.short {
            return Ok(vec![
                Scenario::ALL[0],
                Scenario::SmallFrames,
                Scenario::GuaranteesUdp,
            ]);
        }
        let known = Scenario::ALL;
        for asked in &self.scenarios {
            let names: Vec<String> = known.iter().map(|scenario| scenario.name()).collect();
            ensure!(
                names.iter().any(|name| name.starts_with(asked)),
                "there is no scenario {asked}; there are {}",
                names.join(", ")
            );
        }
        let wanted = |scenario: &Scenario| {
            let name = scenario.name();
            self.scenarios.is_empty() || self.scenarios.iter().any(|asked| name.starts_with(asked))
        };
        Ok(known.into_iter().filter(wanted).collect())
    }

    /// The systems that are asked for.
    ///
    /// # Errors
    /// When a name is of none.
    pub fn systems(&self) -> Result<Vec<System>> {
        let names = System::ALL.map(System::name);
        if let Some(unknown) = self
            .systems
            .iter()
            .find(|name| !names.contains(&name.as_str()))
        {
            anyhow::bail!(
                "there is no system {unknown}; there are {}",
                names.join(", ")
            );
        }
        let asked = |system: &System| {
            self.systems.is_empty() || self.systems.iter().any(|name| name == system.name())
        };
        Ok(System::ALL.into_iter().filter(asked).collect())
    }
}

/// Runs what is asked for; says on standard error what happens, and on standard output what is skipped. `done` is told of
/// each scenario when it is over, so that what was measured is not lost with what comes after.
///
/// # Errors
/// Of `done`, and when a site cannot be made, a system cannot be put in force, or traffic breaks.
pub fn run(options: &Options, mut done: impl FnMut(&[Line]) -> Result<()>) -> Result<()> {
    let scenarios = options.chosen()?;
    let systems = options.systems()?;
    site::possible().map_err(anyhow::Error::msg)?;
    let mut site = Site::new(&SPECS)?;
    // The laboratory gives links a speed; here that is what is measured.
    systems::clear(&mut site, TENANTS);
    let mut here = Vec::new();
    for system in systems {
        match system.missing(&site) {
            None => here.push(system),
            Some(why) => println!("SKIPPED: isolation, {}: {why}", system.name()),
        }
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut kernel = release.trim().to_owned();
    if let Some(machine) = &options.machine {
        kernel += &format!(" ({machine})");
    }
    if options.slower > 1 {
        kernel += &format!(" (rates / {})", options.slower);
    }
    for scenario in scenarios {
        let mut lines = Vec::new();
        let name = scenario.name();
        let fitting = here
            .iter()
            .filter(|system| system.fits(&scenario.plan(options.slower)));
        let mut runs: Vec<(System, Vec<results::Cell>)> =
            fitting.map(|system| (*system, Vec::new())).collect();
        for round in 1..=options.runs {
            for (system, cells) in &mut runs {
                eprintln!(
                    "isolation: {name}, {}, run {round} of {}",
                    system.name(),
                    options.runs
                );
                let cell = once(*system, scenario, &mut site, options);
                systems::clear(&mut site, TENANTS);
                let cell = cell.with_context(|| format!("{name}, {}", system.name()))?;
                cells.push(cell);
            }
        }
        for (system, cells) in &runs {
            let mut cell = results::medians(cells);
            if *system == System::None {
                // Of a limit that is not there.
                cell.remove("rate_error_percent");
                cell.remove("burst_kb");
            }
            let of = (options.commit.as_str(), kernel.as_str());
            lines.extend(results::lines(&cell, of, &name, system.name()));
        }
        done(&lines)?;
    }
    Ok(())
}

fn once(
    system: System,
    scenario: Scenario,
    site: &mut Site,
    options: &Options,
) -> Result<results::Cell> {
    let _peer = system.install(&scenario.plan(options.slower), site, &options.octroi)?;
    for namespace in site.tenants.iter().chain([&site.remote]) {
        ecn(namespace, scenario.ecn())?;
    }
    scenario.run(site, options.timing())
}

/// Whether TCP asks for explicit congestion notification (RFC 3168) and grants it, or neither.
fn ecn(namespace: &Namespace, asks: bool) -> Result<()> {
    let value = if asks { "1" } else { "0" };
    // Of the thread's namespace, whoever mounted it.
    namespace.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_ecn", value))??;
    Ok(())
}

/// octroi's binary beside the program that runs, or the one that `OCTROI_BINARY` names.
///
/// # Errors
/// When neither is there.
pub fn octroi_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("OCTROI_BINARY") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let directories = own.ancestors().skip(1).take(2);
    let beside: Vec<PathBuf> = directories.map(|path| path.join("octroi")).collect();
    let found = beside.iter().find(|path| path.is_file());
    found.cloned().with_context(|| {
        format!(
            "{} is not there; build it, or name it in OCTROI_BINARY",
            beside[0].display()
        )
    })
}

/// Writes the table and the plots of stored results: the part of `readme` between its two marks, and the pictures beside
/// the results.
///
/// # Errors
/// When a file cannot be read or written, or has no such marks.
pub fn publish(results: &Path, readme: &Path) -> Result<()> {
    let text = std::fs::read_to_string(results).with_context(|| results.display().to_string())?;
    let series = results::by_series(&results::read(&text)?);
    let page = std::fs::read_to_string(readme).with_context(|| readme.display().to_string())?;
    std::fs::write(readme, table::put_into(&page, &table::by_series(&series))?)?;
    let directory = results.parent().context("results without a directory")?;
    for (name, page) in table::pages(&series) {
        std::fs::write(directory.join(name), page)?;
    }
    for (name, picture) in plot::by_series(&series) {
        std::fs::write(directory.join(name), picture)?;
    }
    Ok(())
}
