//! Floods that an uplink ends, in words: for `octroi check` and `octroi status`.

use crate::config::Config;
use dataplane::{
    gate::{PortStatus, UplinkStatus},
    registers::DropCounts,
};
use dataplane_common::reason::DropReason;
use std::fmt::Write as _;

/// Says where floods end, and for whom they do not.
pub fn tell(config: &Config) {
    let polices = config.uplinks.iter().filter(|uplink| uplink.xdp);
    let names: Vec<&str> = polices.map(|uplink| uplink.interface.as_str()).collect();
    if names.is_empty() {
        return;
    }
    println!(
        "  uplink `{}`: a flood above a ceiling to a tenant ends before an skb exists, where the driver has native XDP",
        names.join("`, `")
    );
    let without = config.ports.iter().filter(|port| {
        let of_tenant = config
            .tenant_of(port)
            .is_some_and(|tenant| tenant.shares[1].ceiling.is_some());
        port.to_tenant.ceiling.is_none() && port.to_tenant.packet_rate.is_none() && !of_tenant
    });
    let without: Vec<&str> = without.map(|port| port.name.as_str()).collect();
    if !without.is_empty() {
        println!(
            "    not for what has no ceiling to the tenant: {}",
            without.join(", ")
        );
    }
}

/// What an uplink says of XDP; empty where it was not asked for.
pub fn mode(uplink: &UplinkStatus) -> &'static str {
    match uplink.xdp.as_str() {
        "native" => "; XDP native: floods end before an skb exists",
        "refused" => "; XDP REFUSED by the driver: floods end at the ports",
        _ => "",
    }
}

/// A line on what uplinks ended of what was for a port; empty where they ended nothing.
pub fn line(port: &PortStatus) -> String {
    let ended = |reason| port.to_tenant.dropped_for(reason);
    let [bytes, packets] = [DropReason::FloodBytes, DropReason::FloodPackets].map(ended);
    let all = DropCounts {
        packets: bytes.packets + packets.packets,
        l2_bytes: bytes.l2_bytes + packets.l2_bytes,
    };
    let mut text = String::new();
    if all.packets != 0 {
        let _ = writeln!(
            text,
            "  to tenant: of a flood {} packets ({} bytes) ended at the uplink",
            all.packets, all.l2_bytes
        );
    }
    text
}
