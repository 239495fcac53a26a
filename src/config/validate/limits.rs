//! Ceilings, bursts and packet rates: their ranges, and how large a burst of some time is.

use dataplane_common::units::{BitsPerSecond, Bytes, PacketsPerSecond};

use crate::config::draft::{DraftLimits, Field};
use crate::config::errors::{Faults, Located};
use crate::config::model::Limits;
use crate::config::units::Burst;
use crate::config::values::InterfaceName;

/// What the limiter's arithmetic is proved for.
const RATE_MIN: BitsPerSecond = BitsPerSecond(1_000);
const RATE_MAX: BitsPerSecond = BitsPerSecond(400_000_000_000);
const PACKET_RATE_MAX: PacketsPerSecond = PacketsPerSecond(1_000_000_000);

/// One full Ethernet frame, without which nothing would ever pass.
const BURST_MIN: Bytes = Bytes(1_514);
const BURST_MAX_SECONDS: u64 = 10;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Reports an uplink's capacity that is out of range.
pub(super) fn check_capacity(
    interface: &InterfaceName,
    capacity: &Field<BitsPerSecond>,
    faults: &mut Faults<'_>,
) {
    if let Some(capacity) = capacity.get()
        && let Some(wrong) = rate_wrong(capacity.value)
    {
        let what = format!(
            "the capacity of `{interface}` is {}; {wrong}",
            capacity.value
        );
        faults.add(
            capacity.at,
            format!("{what}, or leave it out for the link's own speed"),
        );
    }
}

/// Reports what is wrong with one direction of a port; `label` names both.
pub(in crate::config) fn check(label: &str, limits: &DraftLimits, faults: &mut Faults<'_>) {
    let mut ceiling_good = false;
    if let Some(ceiling) = limits.ceiling.get() {
        match rate_wrong(ceiling.value) {
            None => ceiling_good = true,
            Some(wrong) => faults.add(
                ceiling.at,
                format!(
                    "{label}: the ceiling is {}; {wrong}, or leave it out for no ceiling",
                    ceiling.value
                ),
            ),
        }
    }
    if let Some(rate) = limits.packet_rate.get()
        && !(1..=PACKET_RATE_MAX.0).contains(&rate.value.0)
    {
        let least_most = if rate.value.0 == 0 {
            "at least 1pps"
        } else {
            "at most 1Gpps"
        };
        faults.add(
            rate.at,
            format!(
                "{label}: the packet rate is {}; write {least_most}, or leave it out for no limit",
                rate.value
            ),
        );
    }
    match (limits.burst.get(), &limits.ceiling) {
        (Some(burst), Field::Missing) => faults.add(
            burst.at,
            format!("{label}: a burst needs a ceiling; write ceiling = \"200Mbit/s\" beside it"),
        ),
        (Some(burst), Field::Is(ceiling)) if ceiling_good => {
            check_burst(label, burst, ceiling.value, faults);
        }
        _ => {}
    }
}

/// What to write instead of a rate out of range.
pub(in crate::config) fn rate_wrong(rate: BitsPerSecond) -> Option<String> {
    match rate {
        rate if rate < RATE_MIN => Some(format!("write at least {RATE_MIN}")),
        rate if rate > RATE_MAX => Some(format!("write at most {RATE_MAX}")),
        _ => None,
    }
}

fn check_burst(
    label: &str,
    burst: &Located<Burst>,
    ceiling: BitsPerSecond,
    faults: &mut Faults<'_>,
) {
    let bytes = burst_bytes(burst.value, ceiling);
    // A ceiling so low that 10 s of it are less than a frame still lets one frame through.
    let most = Bytes(ceiling.0 * BURST_MAX_SECONDS / 8).max(BURST_MIN);
    let is = match (burst.value, bytes) {
        (Burst::Nanos(_), Some(bytes)) => format!("the burst at {ceiling} is {bytes}"),
        (Burst::Size(bytes), _) => format!("the burst is {bytes}"),
        (Burst::Nanos(_), None) => "the burst is longer than any".to_string(),
    };
    match bytes {
        Some(bytes) if bytes < BURST_MIN => faults.add(
            burst.at,
            format!(
                "{label}: {is}; write at least {}B, one full frame",
                BURST_MIN.0
            ),
        ),
        Some(bytes) if bytes <= most => {}
        _ if most == BURST_MIN => faults.add(
            burst.at,
            format!(
                "{label}: {is}; write {}B, as the ceiling is {ceiling}",
                BURST_MIN.0
            ),
        ),
        _ => faults.add(
            burst.at,
            format!(
                "{label}: {is}; write at most {most}, {BURST_MAX_SECONDS}s of the ceiling {ceiling}"
            ),
        ),
    }
}

/// A burst in bytes, rounded down; `None` if that is more than a u64.
fn burst_bytes(burst: Burst, ceiling: BitsPerSecond) -> Option<Bytes> {
    match burst {
        Burst::Size(bytes) => Some(bytes),
        Burst::Nanos(nanos) => {
            let bits_nanos = u128::from(ceiling.0) * u128::from(nanos);
            u64::try_from(bits_nanos / (8 * NANOS_PER_SECOND))
                .ok()
                .map(Bytes)
        }
    }
}

/// The limits of a draft; `None` if a value was refused.
pub(in crate::config) fn build(limits: DraftLimits) -> Option<Limits> {
    if limits.bad {
        return None;
    }
    let ceiling = limits.ceiling.optional()?;
    let burst = match (limits.burst.optional()?, ceiling) {
        (Some(burst), Some(ceiling)) => Some(burst_bytes(burst, ceiling)?),
        (Some(_), None) => return None,
        (None, _) => None,
    };
    Some(Limits {
        ceiling,
        burst,
        packet_rate: limits.packet_rate.optional()?,
    })
}
