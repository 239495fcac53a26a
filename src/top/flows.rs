//! Flows as rows: what came between two looks, added up where only networks are shown. No terminal, no clock.

use super::model::Sort;
use crate::live::{Seen, Shown, Subject};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// A flow, or all flows that are shown as the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowRow {
    /// One of them.
    pub of: Shown,
    /// How many they are.
    pub flows: u64,
    /// Layer-2 bytes from the tenant and to the tenant between the last two looks, of those that were there in both;
    /// `None`: none of them was.
    pub since: Option<[u64; 2]>,
}

impl FlowRow {
    /// TCP, UDP, …, or the number; the EtherType of what is not IP.
    pub fn protocol(&self) -> String {
        match (self.of.protocol, self.of.ethertype) {
            (_, ethertype) if ethertype != 0x0800 && ethertype != 0x86DD => {
                format!("{ethertype:#06x}")
            }
            (1, _) => "icmp".into(),
            (6, _) => "tcp".into(),
            (17, _) => "udp".into(),
            (58, _) => "icmp6".into(),
            (132, _) => "sctp".into(),
            (number, _) => number.to_string(),
        }
    }

    fn rate(&self) -> [u64; 2] {
        self.since.unwrap_or_default()
    }
}

/// Layer-2 bytes by direction, by a flow's place and owner.
type Counted = HashMap<(u32, u64), [u64; 2]>;

/// What is known of somebody's flows.
#[derive(Debug)]
pub struct Flows {
    /// Whose.
    pub subject: Subject,
    /// The last look; `None`: there was none yet.
    pub now: Option<Seen>,
    /// Layer-2 bytes of each flow at the look before, and how long before.
    before: Option<(Counted, Duration)>,
    /// Why there is no newer one.
    pub error: Option<String>,
}

impl Flows {
    /// Nobody has looked yet.
    pub fn new(subject: Subject) -> Self {
        Self {
            subject,
            now: None,
            before: None,
            error: None,
        }
    }

    /// A look, so long after the last one.
    pub fn take(&mut self, seen: Seen, elapsed: Duration) {
        if let Some(last) = self.now.replace(seen) {
            let counted = last.flows.iter().map(|flow| (flow.id, flow.bytes));
            self.before = Some((counted.collect(), elapsed));
        }
        self.error = None;
    }

    /// So many bits in a second; `None`: there was one look only.
    pub fn bits_per_second(&self, bytes: u64) -> Option<u64> {
        let (_, elapsed) = self.before.as_ref()?;
        let rate = u128::from(bytes) * 8_000_000_000 / elapsed.as_nanos().max(1);
        Some(u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// The rows that have a text in what they show, in their order.
    pub fn rows(&self, zone: impl Fn(u32) -> String, filter: &str, sort: Sort) -> Vec<FlowRow> {
        let mut rows = BTreeMap::<_, FlowRow>::new();
        for flow in self.now.iter().flat_map(|seen| &seen.flows) {
            let since = self.before.as_ref().and_then(|(before, _)| {
                let before = before.get(&flow.id)?;
                Some([0, 1].map(|side: usize| flow.bytes[side].wrapping_sub(before[side])))
            });
            let row = rows.entry(identity(flow)).or_insert_with(|| FlowRow {
                of: flow.clone(),
                ..FlowRow::default()
            });
            row.flows += 1;
            if let Some(since) = since {
                let sum = row.since.get_or_insert_default();
                for (sum, gained) in sum.iter_mut().zip(since) {
                    *sum = sum.saturating_add(gained);
                }
            }
        }
        let mut rows: Vec<FlowRow> = rows.into_values().collect();
        rows.retain(|row| {
            let of = &row.of;
            let texts = [
                of.remote.clone(),
                of.remote_port.to_string(),
                of.local.clone(),
                of.local_port.to_string(),
                of.port.clone(),
                zone(of.zone),
                row.protocol(),
                of.evidence.clone(),
            ];
            texts.iter().any(|text| text.contains(filter))
        });
        match sort {
            // By name is by the other end, as they are already.
            Sort::Name => {}
            Sort::From => rows.sort_by_key(|row| Reverse(row.rate()[0])),
            Sort::To => rows.sort_by_key(|row| Reverse(row.rate()[1])),
            Sort::Rate | Sort::Drops => {
                rows.sort_by_key(|row| Reverse(row.rate()[0].saturating_add(row.rate()[1])));
            }
        }
        rows
    }
}

/// What is shown of a flow, and makes it another row.
type Identity<'f> = (
    &'f str,
    u16,
    u8,
    u16,
    &'f str,
    u16,
    &'f str,
    u32,
    &'f str,
    &'f str,
);

fn identity(flow: &Shown) -> Identity<'_> {
    (
        &flow.remote,
        flow.remote_port,
        flow.protocol,
        flow.ethertype,
        &flow.local,
        flow.local_port,
        &flow.port,
        flow.zone,
        &flow.evidence,
        &flow.tls_version,
    )
}
