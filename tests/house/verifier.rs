//! How much of the verifier's patience the programs take on the running kernel.

use anyhow::{Context as _, Result, ensure};
use aya::programs::Xdp;
use dataplane::{
    attach::{self, Mechanism},
    object,
};
use std::fs;

/// `BPF_COMPLEXITY_LIMIT_INSNS`.
const BOUND: u64 = 1_000_000;

/// One field of an fdinfo.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

/// The mechanisms whose programs this kernel loads: those for old kernels load everywhere.
fn mechanisms() -> &'static [Mechanism] {
    match attach::mechanism() {
        Mechanism::Tcx => &[Mechanism::Tcx, Mechanism::Clsact],
        Mechanism::Clsact => &[Mechanism::Clsact],
    }
}

#[test]
fn the_verifier_walks_each_program_in_a_third_of_its_bound() -> Result<()> {
    const TEST: &str = "the_verifier_walks_each_program_in_a_third_of_its_bound";
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIPPED: {TEST}: loading programs needs root; run it with sudo");
        return Ok(());
    }
    let mut objects = Vec::new();
    for mechanism in mechanisms() {
        let mut object = object::load(&object::Plan::new(64, 16), None)?;
        attach::load_programs(&mut object, *mechanism, None)?;
        for name in ["uplink", "uplink_frags"] {
            let program: &mut Xdp = object.program_mut(name).context(name)?.try_into()?;
            program.load()?;
        }
        objects.push(object);
    }
    let mut walked = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo")?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if field(&text, "prog_type").is_some() {
            walked.extend(field(&text, "verified_insns"));
        }
    }
    if walked.is_empty() {
        println!("SKIPPED: {TEST}: this kernel does not say how far it walked");
        return Ok(());
    }
    walked.sort_unstable();
    println!("instructions that the verifier walked, by program: {walked:?}");
    ensure!(walked.len() >= 5, "only {} programs", walked.len());
    let most = walked.last().copied().unwrap_or_default();
    ensure!(
        most < BOUND / 3,
        "{most} of {BOUND}: a stage's paths multiply with another's"
    );
    Ok(())
}
