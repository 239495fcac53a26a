//! Peaks: rates of windows, in histograms that can be added up. They inform, and bill nothing.

use hdrhistogram::Histogram;
use metering::{
    record::{Kind, Record},
    usage::{By, Query},
};
use std::collections::BTreeMap;

/// Host, tenant, port, direction.
type Key = (Option<String>, u32, Option<String>, u8);

/// Rates of windows in bits/s.
#[derive(Default)]
pub struct Peaks(BTreeMap<Key, Histogram<u64>>);

/// A histogram in short, bits/s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peak {
    /// Name of the host; `None`: all of them, each for itself.
    pub host: Option<String>,
    /// Tenant's number.
    pub tenant: u32,
    /// Name of the port; `None`: all of them, each for itself.
    pub port: Option<String>,
    /// 0 from the tenant, 1 to the tenant.
    pub direction: u8,
    /// Windows.
    pub windows: u64,
    /// Half of the windows are not faster.
    pub p50: u64,
    /// 99 of 100 are not.
    pub p99: u64,
    /// None is, to three digits.
    pub max: u64,
}

/// Three digits, to 2^62 bits/s.
fn empty() -> Option<Histogram<u64>> {
    Histogram::new_with_max(1 << 62, 3).ok()
}

impl Peaks {
    /// Notes a window's rate.
    pub fn note(&mut self, record: &Record, query: &Query) {
        let (from, to) = query.period();
        let wanted = query
            .port
            .as_ref()
            .is_none_or(|port| *port == record.port_uid)
            && query
                .direction
                .is_none_or(|direction| direction == record.direction)
            && (from..to).contains(&record.window_start);
        let (Some(reading), Some(counted)) = (&record.reading, record.counted()) else {
            return;
        };
        if !wanted || record.kind != Kind::Meter || record.zone.is_some() || reading.elapsed_ns == 0
        {
            return;
        }
        let rate = u128::from(counted.l2_bytes) * 8_000_000_000 / u128::from(reading.elapsed_ns);
        let key = (
            Some(record.host.clone()),
            record.tenant,
            Some(record.port_uid.clone()),
            record.direction,
        );
        if !self.0.contains_key(&key) {
            let Some(histogram) = empty() else {
                return;
            };
            self.0.insert(key.clone(), histogram);
        }
        if let Some(histogram) = self.0.get_mut(&key) {
            histogram.saturating_record(u64::try_from(rate).unwrap_or(u64::MAX));
        }
    }

    /// Adds up what is not told apart.
    pub fn merged(self, by: By) -> Self {
        let mut merged = BTreeMap::<Key, Histogram<u64>>::new();
        for ((host, tenant, port, direction), histogram) in self.0 {
            let key = (
                host.filter(|_| by.host),
                tenant,
                port.filter(|_| by.port),
                direction,
            );
            match merged.get_mut(&key) {
                // Both have the same bounds.
                Some(sum) => {
                    let _ = sum.add(&histogram);
                }
                None => {
                    merged.insert(key, histogram);
                }
            }
        }
        Self(merged)
    }

    /// Each in short.
    pub fn rows(&self) -> Vec<Peak> {
        let row = |(key, histogram): (&Key, &Histogram<u64>)| {
            let (host, tenant, port, direction) = key.clone();
            Peak {
                host,
                tenant,
                port,
                direction,
                windows: histogram.len(),
                p50: histogram.value_at_quantile(0.5),
                p99: histogram.value_at_quantile(0.99),
                max: histogram.max(),
            }
        };
        self.0.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metering::{record::Reading, window::Counts};

    fn window(host: &str, bytes: u64, elapsed_ns: u64) -> Record {
        Record {
            host: host.into(),
            port_uid: "p".into(),
            tenant: 7,
            reading: Some(Reading {
                register_end: Counts {
                    l2_bytes: bytes,
                    ..Counts::default()
                },
                elapsed_ns,
                ..Reading::default()
            }),
            ..Record::default()
        }
    }

    fn query() -> Query {
        Query {
            bounds: vec![0, 300_000_000_000],
            ..Query::default()
        }
    }

    #[test]
    fn histograms_of_two_hosts_add_up_to_one_of_both() {
        let (mut apart, mut together) = (Peaks::default(), Peaks::default());
        for number in 1..=1_000_u64 {
            let host = if number % 3 == 0 { "a" } else { "b" };
            apart.note(&window(host, number * 1_000, 60_000_000_000), &query());
            together.note(&window("a", number * 1_000, 60_000_000_000), &query());
        }
        assert_eq!(apart.rows().len(), 2);
        let by = By::default();
        assert_eq!(apart.merged(by).rows(), together.merged(by).rows());
    }

    #[test]
    fn a_rate_is_reckoned_from_elapsed_time_and_not_from_the_label() {
        let mut peaks = Peaks::default();
        peaks.note(&window("a", 125_000_000, 1_000_000_000), &query());
        peaks.note(&window("a", 1, 0), &query());
        let rows = peaks.rows();
        assert_eq!((rows.len(), rows[0].windows), (1, 1));
        // 1 Gbit/s, to three digits.
        assert!(
            (999_000_000..=1_001_000_000).contains(&rows[0].max),
            "{rows:?}"
        );
    }
}
