//! The price of a packet, in words: `check`, `status` and `doctor --calibrate`.

use crate::config::{self, Config};

/// Layer-2 bytes of a full Ethernet frame.
pub use dataplane_common::share::ask::FRAME_BYTES;
/// Of the smallest.
pub const FRAME_MIN_BYTES: u64 = dataplane_common::share::ask::FRAME_MIN_BYTES as u64;
/// Of a GSO packet of 64 kB, as its 44 segments on the wire.
pub const GSO_BYTES: u64 = 44 * FRAME_BYTES;

/// What an skb of so many bytes has of a limit, per mille: its bytes, of all that it pays.
pub const fn part_permille(price: u64, bytes: u64) -> u64 {
    bytes * 1_000 / (bytes + price)
}

/// Per mille as per cent.
fn percent(permille: u64) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

/// What that means for full frames, GSO packets and the smallest.
pub fn parts(price: u64) -> String {
    let of = |bytes| percent(part_permille(price, bytes));
    format!(
        "of a limit, packets of 64 kB fill {} with bytes, full frames {}, the smallest {}",
        of(GSO_BYTES),
        of(FRAME_BYTES),
        of(FRAME_MIN_BYTES)
    )
}

/// One line about a price that is in force; `None`: there is none.
pub fn line(price: u32) -> Option<String> {
    (price != 0).then(|| {
        format!(
            "each packet pays {price} bytes above its own at ceilings, guarantees and shares; {}",
            parts(price.into())
        )
    })
}

/// Prints what the price of `config` does, or that it does nothing.
pub fn tell(config: &Config) {
    let Some(line) = line(config.host.packet_price_bytes.into()) else {
        return;
    };
    println!("  {line}; bills have none of it");
    let ports = config.ports.iter();
    let ceilings = ports.flat_map(|port| [&port.from_tenant, &port.to_tenant]);
    let limited = ceilings.filter(|limits| limits.ceiling.is_some()).count();
    if limited == 0 && config::shared(config).is_empty() {
        println!("  but there is no ceiling and no share that it could be paid at");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_says_what_is_left_of_a_limit() {
        assert_eq!(line(0), None);
        assert_eq!(
            line(1_514).as_deref(),
            Some(
                "each packet pays 1514 bytes above its own at ceilings, guarantees and shares; of a limit, packets of 64 kB \
                 fill 97.7 % with bytes, full frames 50.0 %, the smallest 3.8 %"
            )
        );
        assert_eq!(part_permille(0, FRAME_MIN_BYTES), 1_000);
        assert_eq!(part_permille(65_535, FRAME_MIN_BYTES), 0);
    }
}
