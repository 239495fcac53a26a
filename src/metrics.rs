//! `octroi metrics`: what Prometheus watches, in its text format (version 0.0.4), for node_exporter's textfile collector
//! or whatever else reads it, and for whoever asks at `[metrics] listen` in OpenMetrics 1.0, too. [Alerts](../docs/alerts/octroi.rules.yml) and the [runbook](../docs/RUNBOOK.md) go with it.
//!
//! What it is not: it is no bill. Prometheus keeps doubles, which lose single bytes beyond 2^53. Whole numbers are written here all
//! the same: what is lost is lost there.

mod families;

pub use families::FAMILIES;

use crate::{
    daemon::{self, control},
    status::Report,
};
use anyhow::Result;
use dataplane::{
    gate::{PortState, PortStatus, UplinkStatus},
    pins::Pins,
    registers::Direction,
};
use metering::record::Clock;
use std::{collections::BTreeMap, fmt::Write as _, path::Path};

/// How `Accept` calls OpenMetrics.
pub const OPEN: &str = "application/openmetrics-text";
/// The content type of [`Format::Open`].
pub const OPEN_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of [`Format::Text`].
pub const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own.
    Text,
    /// OpenMetrics 1.0: a counter's family is named without `_total`, and the text has an end.
    Open,
}

/// Characters of an error in a label.
const ERROR_MAX: usize = 160;

/// Prints them. When no daemon runs, what the pins say, and `octroi_up` 0.
///
/// # Errors
/// When standard output cannot be written.
pub fn show(run_dir: &Path, pin_dir: &Path) -> Result<()> {
    let answer = control::call(run_dir, &control::Request::Status);
    let report = match answer {
        Ok(text) => Some(serde_json::from_str(&text)?),
        Err(refusal) => {
            eprintln!("octroi: {}", refusal.message);
            let pins = Pins::new(pin_dir);
            pins.exist().then(|| Report::of_pins(&pins).ok()).flatten()
        }
    };
    print!(
        "{}",
        text(report.as_ref(), &daemon::clock_state(), Format::Text)
    );
    Ok(())
}

/// A report as text.
#[must_use]
pub fn text(report: Option<&Report>, clock: &Clock, format: Format) -> String {
    let mut samples = Samples::default();
    let up = report.is_some_and(|report| report.daemon);
    samples.add("octroi_up", &[], up);
    samples.add("octroi_clock_synchronised", &[], clock.synchronised);
    samples.set(
        "octroi_clock_max_error_seconds",
        &[],
        micros(clock.max_error_us),
    );
    if let Some(report) = report {
        samples.add("octroi_policy_revision", &[], report.revision);
        ports(report, &mut samples);
        uplinks(report, &mut samples);
        quotas(report, &mut samples);
        meter(report, &mut samples);
        sinks(report, &mut samples);
    }
    samples.text(format)
}

/// Those that were asked to end floods.
fn uplinks(report: &Report, samples: &mut Samples) {
    let asked = |uplink: &&UplinkStatus| matches!(uplink.xdp.as_str(), "native" | "refused");
    for uplink in report.uplinks.iter().filter(asked) {
        let labels = [("interface", uplink.interface.as_str())];
        samples.add("octroi_uplink_xdp", &labels, uplink.xdp == "native");
    }
}

fn ports(report: &Report, samples: &mut Samples) {
    let states = [
        (PortState::Blessed, "blessed"),
        (PortState::Waiting, "waiting"),
        (PortState::Retired, "retired"),
    ];
    for (state, name) in states {
        let count = report
            .ports
            .iter()
            .filter(|port| port.state == state)
            .count();
        samples.add("octroi_ports", &[("state", name)], count as u64);
    }
    let mut sums: BTreeMap<(String, &str), Sums> = BTreeMap::new();
    for port in &report.ports {
        let tenant = report.tenants.get(&port.tenant);
        let tenant = tenant.cloned().unwrap_or_else(|| port.tenant.to_string());
        for (way, direction, queue) in directions(port) {
            sums.entry((tenant.clone(), way))
                .or_default()
                .add(direction, queue);
        }
    }
    for ((tenant, way), sums) in sums {
        let labels = [("tenant", tenant.as_str()), ("direction", way)];
        samples.add("octroi_delivered_packets_total", &labels, sums.delivered[0]);
        samples.add("octroi_delivered_bytes_total", &labels, sums.delivered[1]);
        samples.add("octroi_queue_dropped_packets_total", &labels, sums.queue);
        for (reason, [packets, bytes]) in sums.dropped {
            let labels = [labels[0], labels[1], ("reason", reason.as_str())];
            samples.add("octroi_dropped_packets_total", &labels, packets);
            samples.add("octroi_dropped_bytes_total", &labels, bytes);
        }
        for (marked, packets) in [("yes", sums.ecn[0]), ("no", sums.ecn[1])] {
            if packets != 0 {
                let labels = [labels[0], labels[1], ("marked", marked)];
                samples.add("octroi_ecn_packets_total", &labels, packets);
            }
        }
    }
}

/// Of one tenant in one direction.
#[derive(Default)]
struct Sums {
    delivered: [u64; 2],
    dropped: BTreeMap<String, [u64; 2]>,
    queue: u64,
    ecn: [u64; 2],
}

impl Sums {
    fn add(&mut self, direction: &Direction, queue: u64) {
        let total = direction.total();
        for (sum, more) in self
            .delivered
            .iter_mut()
            .zip([total.packets, total.l2_bytes])
        {
            *sum = sum.saturating_add(more);
        }
        for (reason, counts) in &direction.drops {
            let sums = self.dropped.entry(reason.clone()).or_default();
            sums[0] = sums[0].saturating_add(counts.packets);
            sums[1] = sums[1].saturating_add(counts.l2_bytes);
        }
        self.queue = self.queue.saturating_add(queue);
        let ecn = [direction.ecn.marked, direction.ecn.not_marked];
        for (sum, more) in self.ecn.iter_mut().zip(ecn) {
            *sum = sum.saturating_add(more);
        }
    }
}

fn directions(port: &PortStatus) -> [(&'static str, &Direction, u64); 2] {
    [
        ("from", &port.from_tenant, port.shape[0].leaf_drops),
        ("to", &port.to_tenant, port.shape[1].leaf_drops),
    ]
}

fn quotas(report: &Report, samples: &mut Samples) {
    for quota in &report.quotas {
        let labels = [("tenant", quota.tenant.as_str())];
        samples.add("octroi_quota_bytes", &labels, quota.budget_bytes);
        samples.add("octroi_quota_spent_bytes", &labels, quota.spent_bytes);
        samples.add("octroi_quota_left_bytes", &labels, quota.left_bytes);
    }
}

fn meter(report: &Report, samples: &mut Samples) {
    if !report.daemon {
        return;
    }
    samples.add("octroi_meter_up", &[], report.meter.is_some());
    let Some(meter) = &report.meter else { return };
    samples.add("octroi_meter_error", &[], meter.error.is_some());
    samples.set("octroi_window_seconds", &[], nanos(meter.window_ns));
    samples.add("octroi_windows_total", &[], meter.windows);
    if let Some(at) = meter.committed_utc_ns.and_then(|at| u64::try_from(at).ok()) {
        samples.set("octroi_last_window_timestamp_seconds", &[], nanos(at));
    }
    samples.add("octroi_ledger_records", &[], meter.records);
    samples.add("octroi_ledgers_superseded_total", &[], meter.superseded);
    samples.add("octroi_unmetered_total", &[], meter.audit.unmetered);
    let not_audited = meter.audit.not_audited.len() as u64;
    samples.add("octroi_interfaces_not_audited", &[], not_audited);
    samples.add(
        "octroi_unattributed_bytes_total",
        &[],
        meter.unattributed_bytes,
    );
}

fn sinks(report: &Report, samples: &mut Samples) {
    for sink in &report.sinks {
        let at = &sink.progress;
        let labels = [("sink", sink.name.as_str())];
        samples.add("octroi_sink_up", &labels, at.lag.is_some());
        if let Some(lag) = at.lag {
            samples.add("octroi_sink_lag_records", &labels, lag);
        }
        samples.add("octroi_sink_confirmed_records", &labels, at.confirmed);
        samples.add("octroi_sink_delivered_records_total", &labels, at.delivered);
        if let Some(lost) = at.lost {
            samples.add("octroi_sink_lost_rows_total", &labels, lost);
        }
        let next = micros(sink.next_try_ms.saturating_mul(1_000));
        samples.set("octroi_sink_next_try_seconds", &labels, next);
        samples.add("octroi_sink_error", &labels, at.error.is_some());
        samples.add("octroi_sink_fork", &labels, at.fork);
        if let Some(error) = &at.error {
            let error: String = error.chars().take(ERROR_MAX).collect();
            let labels = [labels[0], ("error", error.as_str())];
            samples.add("octroi_sink_last_error_info", &labels, true);
        }
    }
}

/// Nanoseconds as decimal seconds.
fn nanos(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// Microseconds as decimal seconds.
fn micros(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// Lines by family.
#[derive(Default)]
struct Samples(BTreeMap<&'static str, Vec<String>>);

impl Samples {
    fn add(&mut self, family: &'static str, labels: &[(&str, &str)], value: impl Into<u64>) {
        self.set(family, labels, value.into().to_string());
    }

    fn set(&mut self, family: &'static str, labels: &[(&str, &str)], value: String) {
        let pairs = labels.iter().map(|(name, value)| {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        });
        let pairs: Vec<String> = pairs.collect();
        let line = if pairs.is_empty() {
            format!("{family} {value}")
        } else {
            format!("{family}{{{}}} {value}", pairs.join(","))
        };
        self.0.entry(family).or_default().push(line);
    }

    fn text(self, format: Format) -> String {
        let mut text = String::new();
        for (name, kind, help) in FAMILIES {
            let Some(lines) = self.0.get(name) else {
                continue;
            };
            let family = match format {
                Format::Text => name,
                Format::Open => name.strip_suffix("_total").unwrap_or(name),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {family} {help}\n# TYPE {family} {kind}");
            for line in lines {
                let _ = writeln!(text, "{line}");
            }
        }
        if format == Format::Open {
            text.push_str("# EOF\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::BUILT_IN_ZONES,
        daemon::{MeterStatus, QuotaStatus, SinkStatus},
    };
    use metering::sink::Progress;

    fn report() -> Report {
        let mut meter = MeterStatus {
            window_ns: 60_000_000_000,
            committed_utc_ns: Some(1_795_000_000_000_000_001),
            ..MeterStatus::default()
        };
        meter.audit.unmetered = 3;
        Report {
            daemon: true,
            mechanism: "tcx".into(),
            bpf_sha256: String::new(),
            revision: 7,
            packet_price_bytes: 0,
            window: 9,
            zones: (0_u32..).zip(BUILT_IN_ZONES.map(String::from)).collect(),
            tenants: BTreeMap::new(),
            meter: Some(meter),
            confined: None,
            sinks: vec![SinkStatus {
                name: "billing".into(),
                progress: Progress {
                    error: Some("a \"b\" \\ c\nd".into()),
                    lag: None,
                    confirmed: u64::MAX,
                    lost: Some(4),
                    ..Progress::default()
                },
                next_try_ms: 1_500,
            }],
            quotas: vec![QuotaStatus {
                tenant: "acme".into(),
                budget_bytes: 20_000_000_000_000,
                spent_bytes: 1,
                left_bytes: 19_999_999_999_999,
                ..QuotaStatus::default()
            }],
            ports: Vec::new(),
            uplinks: Vec::new(),
            provided: Vec::new(),
        }
    }

    #[test]
    fn what_is_not_known_is_absent_and_labels_are_escaped() {
        let said = text(Some(&report()), &Clock::default(), Format::Text);
        for line in [
            "octroi_up 1",
            "octroi_clock_synchronised 0",
            "octroi_policy_revision 7",
            "octroi_window_seconds 60.000000000",
            "octroi_last_window_timestamp_seconds 1795000000.000000001",
            "octroi_unmetered_total 3",
            "octroi_quota_bytes{tenant=\"acme\"} 20000000000000",
            "octroi_quota_left_bytes{tenant=\"acme\"} 19999999999999",
            "octroi_sink_lost_rows_total{sink=\"billing\"} 4",
            "octroi_sink_up{sink=\"billing\"} 0",
            "octroi_sink_confirmed_records{sink=\"billing\"} 18446744073709551615",
            "octroi_sink_next_try_seconds{sink=\"billing\"} 1.500000",
            "octroi_sink_last_error_info{sink=\"billing\",error=\"a \\\"b\\\" \\\\ c\\nd\"} 1",
        ] {
            assert!(said.lines().any(|said| said == line), "{line}\n{said}");
        }
        assert!(!said.contains("octroi_sink_lag_records"), "{said}");
        let silent = text(None, &Clock::default(), Format::Text);
        assert!(
            silent.contains("octroi_up 0") && !silent.contains("octroi_meter"),
            "{silent}"
        );
    }

    #[test]
    fn openmetrics_has_counters_by_their_family_an_end_and_the_same_samples() {
        let (clock, report) = (Clock::default(), report());
        let text = |format| text(Some(&report), &clock, format);
        let (plain, open) = (text(Format::Text), text(Format::Open));
        assert!(open.ends_with("\n# EOF\n") && !plain.contains("# EOF"));
        assert!(open.contains("# TYPE octroi_unmetered counter\noctroi_unmetered_total 3\n"));
        let samples = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(samples(&plain), samples(&open));
        for (name, kind, _) in FAMILIES {
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        }
    }
}
