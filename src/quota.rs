//! `octroi quota`: tenants' budgets of bytes, what was had of each, and what is in force.

use crate::{
    cli::At,
    daemon::QuotaStatus,
    status::{self, Report},
};
use anyhow::{Result, ensure};
use clap::Args;
use dataplane_common::units::Bytes;
use jiff::Timestamp;
use std::fmt::Write as _;

/// Which budgets.
#[derive(Debug, Args)]
pub struct Options {
    /// Name of a tenant; left out: all that have one.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// One JSON array on standard output.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

/// `octroi quota`.
///
/// # Errors
/// When no daemon answers, or the tenant has no budget.
pub fn show(options: &Options) -> Result<()> {
    let report = status::read(&options.at.run_dir, &options.at.pin_dir)?;
    ensure!(
        report.daemon,
        "no daemon runs, and it keeps the books; the kernel goes on with what it was granted"
    );
    let named = |quota: &&QuotaStatus| match &options.tenant {
        Some(name) => quota.tenant == *name,
        None => true,
    };
    let quotas: Vec<&QuotaStatus> = report.quotas.iter().filter(named).collect();
    if let Some(name) = &options.tenant {
        ensure!(
            !quotas.is_empty(),
            "tenant {name} has no quota; `octroi quota` lists those that have"
        );
    }
    if options.json {
        println!("{}", serde_json::to_string(&quotas)?);
    } else {
        print!("{}", table(&quotas));
    }
    Ok(())
}

/// Parts of a thousand that were had of a budget; more than 1,000 beyond it.
pub fn permille(quota: &QuotaStatus) -> u64 {
    let parts = u128::from(quota.spent_bytes) * 1_000 / u128::from(quota.budget_bytes.max(1));
    u64::try_from(parts).unwrap_or(u64::MAX)
}

fn until(quota: &QuotaStatus) -> String {
    let end = Timestamp::from_nanosecond(i128::from(quota.to_utc_ns));
    end.map_or_else(|_| "-".into(), |end| end.to_string())
}

/// What is in force, as people say it.
fn in_force(quota: &QuotaStatus) -> String {
    match quota.in_force.as_str() {
        "budget" => "budget".into(),
        "drop" => "DROP".into(),
        _ => quota.then.clone(),
    }
}

fn table(quotas: &[&QuotaStatus]) -> String {
    if quotas.is_empty() {
        return "no tenant has a quota\n".into();
    }
    let mut text = format!(
        "{:<16} {:>10} {:<7} {:<11} {:>20} {:>20} {:>6}  {:<20}  {}\n",
        "TENANT",
        "BUDGET",
        "PERIOD",
        "COUNTS",
        "SPENT, BYTES",
        "LEFT, BYTES",
        "%",
        "UNTIL",
        "IN FORCE"
    );
    for quota in quotas {
        let parts = permille(quota);
        let _ = writeln!(
            text,
            "{:<16} {:>10} {:<7} {:<11} {:>20} {:>20} {:>6}  {:<20}  {}",
            quota.tenant,
            Bytes(quota.budget_bytes).to_string(),
            quota.period,
            quota.direction,
            quota.spent_bytes,
            quota.left_bytes,
            format!("{}.{}", parts / 10, parts % 10),
            until(quota),
            in_force(quota)
        );
    }
    text
}

/// Lines for `status`: budgets that are spent, or nearly.
pub fn lines(report: &Report) -> String {
    let mut text = String::new();
    for quota in &report.quotas {
        let parts = permille(quota);
        if parts >= 900 {
            let _ = writeln!(
                text,
                "QUOTA: {} had {}.{} % of {} until {}; in force: {}",
                quota.tenant,
                parts / 10,
                parts % 10,
                Bytes(quota.budget_bytes),
                until(quota),
                in_force(quota)
            );
        }
    }
    text
}
