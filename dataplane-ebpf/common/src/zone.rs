//! Which zone a packet is booked in: by where it goes to or comes from.
//!
//! To the tenant, the remote address is what the packet says, and nobody has verified it.

use crate::parse::{Network, Packet};

/// A zone's number: the register's column. Configured zones follow the built-in ones.
pub type Zone = u32;

/// Remote addresses that no configured zone holds.
pub const OTHER: Zone = 0;
/// The remote end is another port of this host: outside the uplink's sum.
pub const INTRA_HOST: Zone = 1;
/// Multicast and broadcast.
pub const GROUP: Zone = 2;
/// Frames that are not IP: ARP and its like.
pub const LINK: Zone = 3;
/// First number for zones of the configuration.
pub const FIRST_CONFIGURED: Zone = 4;

/// Names of the built-in zones, in the order of their numbers.
pub const BUILT_IN: [&str; FIRST_CONFIGURED as usize] = ["other", "intra-host", "group", "link"];

/// The zone of a packet. `longest_prefix` looks a remote address up; it is asked only when the
/// frame itself does not decide.
#[inline(always)]
pub fn of(
    packet: &Packet,
    intra_host: bool,
    longest_prefix: impl FnOnce() -> Option<Zone>,
) -> Zone {
    if packet.to_group() {
        return GROUP;
    }
    if packet.network != Network::Ipv4 && packet.network != Network::Ipv6 {
        return LINK;
    }
    if intra_host {
        return INTRA_HOST;
    }
    match longest_prefix() {
        Some(zone) => zone,
        None => OTHER,
    }
}
