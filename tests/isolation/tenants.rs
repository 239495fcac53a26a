//! Ten thousand tenants with a guarantee each on one uplink: what a revision that changes every one of them costs, and
//! what a tenant takes of the kernel's memory.

use super::*;
use dataplane::{gate::Gate, host, pins::Pins};
use octroi::{config, daemon};
use std::fmt::Write as _;

const TENANTS: usize = 10_000;

/// A configuration in which each tenant has a port, whose interface is not there, and a guarantee.
fn text(site: &Site, guarantee_kbit: u64) -> String {
    let mut text = format!(
        "[host]\nname = \"many\"\npin_dir = \"{}\"\nrun_dir = \"{}\"\nports_max = {TENANTS}\n\n\
         [[uplink]]\ninterface = \"{UPLINK}\"\ncapacity = \"100Gbit/s\"\n",
        site.pin_dir().display(),
        site.run_dir().display(),
    );
    for number in 0..TENANTS {
        let (high, low) = (number / 250, number % 250 + 1);
        let _ = write!(
            text,
            "\n[[tenant]]\nname = \"t{number}\"\nid = {0}\n\
             from_tenant = {{ guarantee = \"{guarantee_kbit}kbit/s\", weight = 2 }}\n\
             to_tenant = {{ guarantee = \"{guarantee_kbit}kbit/s\", ceiling = \"1Gbit/s\" }}\n\
             \n[[port]]\nname = \"p{number}\"\ntenant = \"t{number}\"\ninterface = \"v{number}\"\n\
             macs = [\"02:00:00:01:{high:02x}:{low:02x}\"]\naddresses = [\"10.9.{high}.{low}\"]\n",
            number + 1,
        );
    }
    text
}

/// Processor time of this thread, user and system.
fn processor_time() -> Duration {
    Duration::from_nanos(host::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID))
}

/// What `work` returned, the time it took, and the processor's.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration, Duration) {
    let (begun, processor) = (Instant::now(), processor_time());
    let done = work();
    (done, begun.elapsed(), processor_time() - processor)
}

fn parsed(text: &str) -> Result<config::Config> {
    config::parse(text, "many.toml").map_err(|errors| anyhow::anyhow!("{errors}"))
}

fn measure(site: &Site) -> Result<()> {
    let (first, _, parsing) = timed(|| parsed(&text(site, 1_000)));
    let first = first?;
    let plan = daemon::plan(&first);
    let cpus = host::possible_cpus();
    let bytes: u64 = plan.memory_bytes(cpus).iter().map(|(_, bytes)| bytes).sum();
    let mut gate = Gate::open(plan, Pins::new(&site.pin_dir()))?;
    let revised = (|| {
        let (applied, _, beginning) = timed(|| gate.apply(daemon::policy(&first)));
        applied?;
        let mut best: Option<(Duration, Duration)> = None;
        let mut entries = 0;
        for round in 0..by_level(1, 3, 10) {
            // Each tenant's guarantee is another one.
            let policy = daemon::policy(&parsed(&text(site, 2_000 + round))?);
            let (applied, took, processor) = timed(|| gate.apply(policy));
            applied?;
            let new = (processor, took);
            best = Some(best.map_or(new, |best| best.min(new)));
            entries = gate.policy().ports.len();
        }
        ensure!(entries == TENANTS, "{entries} ports in force");
        let (processor, took) = best.unwrap_or_default();
        println!(
            "TENANTS: {TENANTS} tenants: a revision of all {:.0} ms of processor time, {:.0} ms until its rates are in \
             force (best of a few); the first {:.0} ms; parsing {:.0} ms; {} bytes of kernel memory for each with {cpus} \
             CPUs",
            processor.as_secs_f64() * 1e3,
            took.as_secs_f64() * 1e3,
            beginning.as_secs_f64() * 1e3,
            parsing.as_secs_f64() * 1e3,
            bytes / TENANTS as u64,
        );
        Ok(processor)
    })();
    gate.detach()?;
    let processor = revised?;
    // A limit against what is out of all proportion: it was 3.3 s once, for a search of names.
    let most = Duration::from_millis(if accepting() { 600 } else { 3_000 });
    ensure!(processor <= most, "{processor:?} for a revision");
    Ok(())
}

#[test]
fn ten_thousand_tenants_change_in_one_revision() -> Result<()> {
    const TEST: &str = "ten_thousand_tenants_change_in_one_revision";
    if std::env::var_os("OCTROI_VIRTUAL_TIME").is_some() {
        println!(
            "SKIPPED: {TEST}: processor time is what is measured, and this machine's is a count of instructions"
        );
        return Ok(());
    }
    if !can_run(TEST) {
        return Ok(());
    }
    let _alone = alone();
    let site = Site::new(&[tenant("a", true)])?;
    site.host.run(|| measure(&site))?
}
