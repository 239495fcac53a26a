//! What the demo compares, and how it says it.

use super::scene::Measured;
use serde::Serialize;
use std::fmt::Write as _;

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Passed.
    pub ok: bool,
    /// What was found.
    pub measured: u64,
    /// What it must be: see `bound`.
    pub expected: u64,
    /// Whether `measured` must be `expected` (`=`), at least that (`≥`) or at most (`≤`).
    pub bound: &'static str,
    /// Of both.
    pub unit: &'static str,
}

impl Check {
    /// Passes when both are equal.
    pub fn equal(
        name: impl Into<String>,
        measured: u64,
        expected: u64,
        unit: &'static str,
    ) -> Self {
        Self {
            name: name.into(),
            ok: measured == expected,
            measured,
            expected,
            bound: "=",
            unit,
        }
    }

    /// The distance of two counts; passes at 0.
    pub fn difference(name: impl Into<String>, a: u64, b: u64, unit: &'static str) -> Self {
        Self::equal(
            format!("difference: {}", name.into()),
            a.abs_diff(b),
            0,
            unit,
        )
    }

    /// Passes when `measured` is at least `least`: that something happened at all.
    pub fn at_least(
        name: impl Into<String>,
        measured: u64,
        least: u64,
        unit: &'static str,
    ) -> Self {
        Self {
            name: name.into(),
            ok: measured >= least,
            measured,
            expected: least,
            bound: "≥",
            unit,
        }
    }

    /// Passes when `measured` is at most `most`.
    pub fn at_most(name: impl Into<String>, measured: u64, most: u64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            ok: measured <= most,
            measured,
            expected: most,
            bound: "≤",
            unit,
        }
    }
}

/// All of them.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    checks: Vec<Check>,
    /// What is there to look at, and where.
    pub look: Vec<(&'static str, String)>,
}

impl Outcome {
    /// Adds one.
    pub fn push(&mut self, check: Check) {
        self.checks.push(check);
    }

    /// All passed, and there were some.
    pub fn ok(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.ok)
    }

    /// For `--json`.
    pub fn json(&self) -> String {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        serde_json::json!({
            "ok": self.ok(),
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": kernel.trim(),
            "checks": self.checks,
            "look": self.look.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        })
        .to_string()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "\n{:<72} {:>16}   {:>16}\n",
            "CHECK", "MEASURED", "EXPECTED"
        );
        for check in &self.checks {
            let mark = if check.ok { "pass" } else { "FAIL" };
            let Check {
                name,
                measured,
                expected,
                bound,
                unit,
                ..
            } = check;
            let _ = writeln!(
                text,
                "{name:<72} {measured:>16} {bound} {expected:>16} {unit:<8} {mark}"
            );
        }
        let passed = self.checks.iter().filter(|check| check.ok).count();
        let _ = writeln!(text, "\n{passed} of {} checks passed", self.checks.len());
        if !self.look.is_empty() {
            text.push_str("\nWHERE TO LOOK\n");
        }
        for (what, place) in &self.look {
            let _ = writeln!(text, "{what:<10} {place}");
        }
        text
    }
}

/// Compares octroi's registers with counters that are not octroi's.
pub fn compare(measured: &Measured, ceiling: (u64, u64), outcome: &mut Outcome) {
    for tenant in &measured.tenants {
        let name = tenant.name;
        let (from, to) = (&tenant.from_tenant, &tenant.to_tenant);
        // The host's end of the port has its offloads off: behind the gate it sends real segments.
        let what = format!("to {name}, registers and what its port sent, segmented");
        outcome.push(Check::difference(
            what.clone(),
            to.total().l2_bytes,
            tenant.port[3],
            "bytes",
        ));
        outcome.push(Check::difference(
            what,
            to.total().packets,
            tenant.port[2],
            "packets",
        ));
        let raw = from.skbs.delivered_len + from.skbs.dropped_len;
        let what = format!("from {name}, raw skbs and the port's own counter");
        outcome.push(Check::difference(
            what.clone(),
            raw,
            tenant.port[1],
            "bytes",
        ));
        let raw = from.skbs.delivered + from.skbs.dropped;
        outcome.push(Check::difference(what, raw, tenant.port[0], "packets"));
        // A veth that coalesces what it receives does not count Ethernet headers: only the others.
        if !tenant.offloads {
            let what = format!("to {name}, registers and what its interface received");
            let (bytes, packets) = (tenant.inside[1], tenant.inside[0]);
            outcome.push(Check::difference(
                what.clone(),
                to.total().l2_bytes,
                bytes,
                "bytes",
            ));
            outcome.push(Check::difference(
                what,
                to.total().packets,
                packets,
                "packets",
            ));
            let l2 = from.total().l2_bytes + from.dropped().l2_bytes;
            let what = format!("from {name}, registers and what its interface sent");
            outcome.push(Check::difference(
                what.clone(),
                l2,
                tenant.inside[3],
                "bytes",
            ));
            let packets = from.total().packets + from.dropped().packets;
            outcome.push(Check::difference(
                what,
                packets,
                tenant.inside[2],
                "packets",
            ));
        }
    }
    let (mut bytes, mut packets) = (0, 0);
    for tenant in &measured.tenants {
        let intra = tenant.from_tenant.zone(dataplane_common::zone::INTRA_HOST);
        bytes += tenant.from_tenant.total().l2_bytes - intra.l2_bytes;
        packets += tenant.from_tenant.total().packets - intra.packets;
    }
    let what = "from all tenants to the uplink, registers and what it sent";
    outcome.push(Check::difference(what, bytes, measured.uplink[3], "bytes"));
    outcome.push(Check::difference(
        what,
        packets,
        measured.uplink[2],
        "packets",
    ));

    let sum =
        |pick: fn(&super::scene::Tenant) -> u64| measured.tenants.iter().map(pick).sum::<u64>();
    outcome.push(Check::at_least(
        "GSO packets from tenants, as segments more than skbs",
        sum(|t| {
            t.from_tenant
                .total()
                .packets
                .saturating_sub(t.from_tenant.skbs.delivered)
        }),
        1_000,
        "packets",
    ));
    outcome.push(Check::at_least(
        "tenant to tenant, received in zone intra-host",
        sum(|t| {
            t.to_tenant
                .zone(dataplane_common::zone::INTRA_HOST)
                .l2_bytes
        }),
        100_000,
        "bytes",
    ));
    outcome.push(Check::equal(
        "spoofed frames dropped",
        measured.spoofed_dropped,
        measured.spoofed_sent,
        "packets",
    ));
    outcome.push(Check::equal(
        "spoofed frames that arrived",
        measured.spoofed_arrived,
        0,
        "packets",
    ));
    let (bits, burst) = ceiling;
    let at_ceiling = |ns: u64| {
        (u128::from(bits / 8) * u128::from(ns) / 1_000_000_000).min(u64::MAX.into()) as u64
    };
    let most = at_ceiling(measured.ceiling.elapsed_ns) + burst + 1_514;
    let taken = measured.ceiling.bytes;
    outcome.push(Check::at_most(
        "from bob, ceiling 10 Mbit/s: rate · t + burst + one skb",
        taken,
        most,
        "bytes",
    ));
    outcome.push(Check::at_least(
        "from bob, half of what its ceiling allows",
        taken,
        at_ceiling(measured.ceiling.sending_ns) / 2,
        "bytes",
    ));
    outcome.push(Check::at_least(
        "drops over bob's ceiling",
        measured.ceiling.drops,
        1,
        "packets",
    ));
}
