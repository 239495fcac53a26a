//! How tenants share: two with guarantees that come and go, and eight equal ones with unequal numbers of flows.

use super::{
    measure::{Series, jain},
    results::Cell,
    scenarios::{BULK_PORT, LARGE, TENANTS, Timing, UDP_PORT, Watch, from_tenant},
    traffic::{Blast, Bulk, Span, frame_bytes},
};
use anyhow::Result;
use octroi::lab::{Site, traffic::UdpSink};
use std::time::Instant;

/// Of the guarantees, Mbit/s.
pub(super) const CAPACITY: u64 = 500;
pub(super) const GUARANTEES: [u64; 2] = [100, 300];
/// What eight tenants share, Mbit/s.
pub(super) const SHARED: u64 = 400;
/// A full TCP segment with timestamps: its payload, and its frame.
const SEGMENT_BYTES: u64 = 1_448;
const FRAME_BYTES: u64 = 1_514;

/// Both, a alone, both again, b alone: a fourth of the time each.
pub(super) fn guarantees(site: &Site, timing: Timing, tcp: bool) -> Result<Cell> {
    let part = timing.end() / 4.0;
    let spans: [Vec<Span>; 2] = [
        vec![(0.0, 3.0 * part)],
        vec![(0.0, part), (2.0 * part, 4.0 * part)],
    ];
    let (mut takers, mut blasts, mut bulks) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..2_u16 {
        let way = from_tenant(site, index.into())?;
        takers.push(UdpSink::start(way.to, UDP_PORT + index)?);
        if tcp {
            bulks.push(Bulk::connect(way, BULK_PORT + index, 16)?);
        }
    }
    let begin = Instant::now();
    let blast = Blast {
        payload: LARGE.0,
        at_once: LARGE.1,
        // More than the link has, whoever else is there.
        mbit: 1.2 * CAPACITY as f64 / timing.slower as f64,
    };
    for (index, spans) in spans.iter().enumerate().filter(|_| !tcp) {
        let way = from_tenant(site, index)?;
        blasts.push(blast.start(way, UDP_PORT + index as u16, begin, spans.clone())?);
    }
    let mut watch = Watch::over(begin, timing, &site.tenants[0], || {
        let now = begin.elapsed().as_secs_f64();
        for (bulk, spans) in bulks.iter().zip(&spans) {
            bulk.go(spans.iter().any(|(from, to)| (*from..*to).contains(&now)));
        }
        // As frames: what TCP carried as payload, in its full segments.
        let bytes = |(at, taker): (usize, &UdpSink)| match bulks.get(at) {
            Some(bulk) => bulk.total() * FRAME_BYTES / SEGMENT_BYTES,
            None => frame_bytes(taker),
        };
        Ok(takers.iter().enumerate().map(bytes).collect())
    })?;
    for blast in blasts {
        blast.end()?;
    }
    bulks.into_iter().try_for_each(Bulk::end)?;
    watch
        .cell
        .extend(who_got_what(&watch.series, part, timing.slower));
    if !tcp {
        watch.cell.remove("rtos");
        watch.cell.remove("retransmits");
    }
    Ok(watch.cell)
}

/// The four parts of `guarantees`. Rates are of the last two thirds of each; a change is done when the one who gains has
/// 95 % of what is his: of the link when he is alone, of the guarantee when he is not.
fn who_got_what(series: &Series, part: f64, slower: u64) -> Cell {
    let rate = |which: usize, at: u32| {
        let begin = f64::from(at) * part;
        series.mbit(which, begin + part / 3.0, begin + part)
    };
    let (first, again) = ([rate(0, 0), rate(1, 0)], [rate(0, 2), rate(1, 2)]);
    let (a_alone, b_alone) = (rate(0, 1), rate(1, 3));
    let capacity = CAPACITY as f64 / slower as f64;
    let [least_a, least_b] = GUARANTEES.map(|mbit| mbit as f64 / slower as f64);
    let sums = [first[0] + first[1], a_alone, again[0] + again[1], b_alone];
    let kept = [first[0], again[0], a_alone]
        .map(|rate| rate / least_a)
        .into_iter()
        .chain([first[1], again[1], b_alone].map(|rate| rate / least_b))
        .fold(1.0, f64::min);
    Cell::from([
        ("both_a_mbit", f64::midpoint(first[0], again[0])),
        ("both_b_mbit", f64::midpoint(first[1], again[1])),
        ("a_alone_mbit", a_alone),
        ("b_alone_mbit", b_alone),
        ("guarantee_kept_percent", 100.0 * kept),
        (
            "link_used_percent",
            100.0 * sums.iter().sum::<f64>() / (4.0 * capacity),
        ),
        (
            "a_grows_ms",
            series.reaches_ms(0, 0.95 * capacity, part, 2.0 * part),
        ),
        (
            "b_returns_ms",
            series.reaches_ms(1, 0.95 * least_b, 2.0 * part, 3.0 * part),
        ),
    ])
}

/// Tenants by their flows: who has more of them should not have more of the link.
pub(super) fn equal_tenants(site: &Site, timing: Timing) -> Result<Cell> {
    let mut bulks = Vec::new();
    for index in 0..TENANTS {
        let way = from_tenant(site, index)?;
        bulks.push(Bulk::connect(way, BULK_PORT + index as u16, 1 << index)?);
    }
    let begin = Instant::now();
    bulks.iter().for_each(|bulk| bulk.go(true));
    let mut watch = Watch::over(begin, timing, &site.tenants[TENANTS - 1], || {
        Ok(bulks.iter().map(Bulk::total).collect())
    })?;
    bulks.into_iter().try_for_each(Bulk::end)?;
    let rates: Vec<f64> = (0..TENANTS).map(|which| watch.mbit(which)).collect();
    let sum: f64 = rates.iter().sum();
    let frames = sum * FRAME_BYTES as f64 / SEGMENT_BYTES as f64;
    watch.cell.extend([
        ("jain", jain(&rates)),
        (
            "least_tenant_mbit",
            rates.iter().copied().fold(f64::INFINITY, f64::min),
        ),
        (
            "most_tenant_mbit",
            rates.iter().copied().fold(0.0, f64::max),
        ),
        (
            "link_used_percent",
            100.0 * frames * timing.slower as f64 / SHARED as f64,
        ),
    ]);
    Ok(watch.cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both have their guarantee and half of the rest; a alone has the link 100 ms after b has gone; b is back 50 ms
    /// after it began, and alone it has only 400.
    #[test]
    fn says_who_got_what_and_when() {
        let (mut series, mut bytes) = (Series::default(), [0_u64; 2]);
        for step in 0..=800_u32 {
            series.push(f64::from(step) / 100.0, bytes.to_vec());
            let mbit = match step {
                0..200 => [150, 350],
                200..210 => [150, 0],
                210..400 => [500, 0],
                400..405 => [500, 0],
                405..600 => [150, 350],
                _ => [0, 400],
            };
            for (bytes, mbit) in bytes.iter_mut().zip(mbit) {
                *bytes += mbit * 1_250;
            }
        }
        let cell = who_got_what(&series, 2.0, 1);
        let near = |name: &str, value: f64| {
            let found = cell[name];
            assert!((found - value).abs() <= 1.0, "{name}: {found}");
        };
        near("both_a_mbit", 150.0);
        near("both_b_mbit", 350.0);
        near("a_alone_mbit", 500.0);
        near("b_alone_mbit", 400.0);
        near("guarantee_kept_percent", 100.0);
        near("link_used_percent", 95.0);
        // A span of 50 ms with 95 % of it may begin 10 ms early at most.
        assert!((80.0..=110.0).contains(&cell["a_grows_ms"]), "{cell:?}");
        assert!((30.0..=60.0).contains(&cell["b_returns_ms"]), "{cell:?}");
    }
}
