//! Newtypes for the units that cross module borders, and the way people write them.
//!
//! Integers only: a rate is never a float, so that what is configured is what is enforced.

use core::fmt;

/// Bits per second, of layer-2 bytes on the wire, without FCS. 1 kbit/s = 1,000 bit/s (SI).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitsPerSecond(pub u64);

/// Packets per second, as the wire would carry them (a GSO packet counts as its segments).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketsPerSecond(pub u64);

/// A number of bytes. 1 kB = 1,000 bytes (SI), 1 KiB = 1,024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Tenant's number, chosen by the operator; never used again for another tenant. 0 is not a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

impl fmt::Display for BitsPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0, "bit/s")
    }
}

impl fmt::Display for PacketsPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0, "pps")
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0, "B")
    }
}

/// Prints `value` exactly, with the largest SI prefix that needs at most three decimals.
fn scaled(f: &mut fmt::Formatter<'_>, value: u64, unit: &str) -> fmt::Result {
    const STEPS: [(u64, &str); 4] = [
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1_000, "k"),
    ];
    for (step, prefix) in STEPS {
        if value < step || !value.is_multiple_of(step / 1_000) {
            continue;
        }
        let thousandths = value % step / (step / 1_000);
        write!(f, "{}", value / step)?;
        if thousandths != 0 {
            let (digits, width) = if thousandths.is_multiple_of(100) {
                (thousandths / 100, 1)
            } else if thousandths.is_multiple_of(10) {
                (thousandths / 10, 2)
            } else {
                (thousandths, 3)
            };
            write!(f, ".{digits:0width$}")?;
        }
        return write!(f, "{prefix}{unit}");
    }
    write!(f, "{value}{unit}")
}
