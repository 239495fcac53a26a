//! Why a packet was dropped. Each reason is a counter by port and direction that somebody can read.

/// Register columns reserved for reasons by port and direction; see [`crate::abi`].
pub const REASONS_MAX: usize = 40;

/// Reasons that a record has room for (M-5, field 32), with 0, which is none. What is from here on is an uplink's, which has no
/// records, or is [`recorded`] under another number.
pub const RECORDED_MAX: usize = 32;

/// The number under which a record has what was dropped for the reason with this number: that of the limit that it was over,
/// wherever it ended. Below [`RECORDED_MAX`].
pub const fn recorded(number: usize) -> usize {
    match DropReason::from_number(number as u64) {
        Some(DropReason::FloodBytes) => DropReason::CeilingBytes as usize,
        Some(DropReason::FloodPackets) => DropReason::CeilingPackets as usize,
        _ if number < RECORDED_MAX => number,
        // Of an uplink; a port has none of these.
        _ => DropReason::Internal as usize,
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet was dropped. The number is the register's index and part of the ABI.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])* $variant = $number,)+
        }

        impl DropReason {
            /// Every reason, in the order of the registers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reason with this number.
            #[inline(always)]
            pub const fn from_number(number: u64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name that `octroi status` and the records print.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    /// The frame ends inside a header.
    Truncated = 1, "truncated";
    /// Headers reach past the first [`crate::parse::HEADER_WINDOW`] bytes.
    HeadersTooDeep = 2, "headers_too_deep";
    /// More than two VLAN tags.
    VlanDepth = 3, "vlan_depth";
    /// IP version or header length is impossible.
    IpHeader = 4, "ip_header";
    /// The IP length says more than the frame holds, or less than its headers.
    IpLength = 5, "ip_length";
    /// More than six IPv6 extension headers, a hop-by-hop header that is not the first, or one whose
    /// length is impossible.
    Ipv6Extension = 6, "ipv6_extension";
    /// A transport header whose length is impossible.
    TransportHeader = 7, "transport_header";
    /// A first fragment without its whole transport header, or one that rewrites it.
    TinyFragment = 8, "tiny_fragment";
    /// A GSO packet whose segments cannot be told: fail closed rather than bill a guess.
    GsoUnknown = 9, "gso_unknown";
    /// Came through an interface that no port is bound to.
    UnknownPort = 10, "unknown_port";
    /// The port is bound, but the policy in force does not have it.
    PortInactive = 11, "port_inactive";
    /// Source MAC is not one of the port's.
    SpoofedMac = 12, "spoofed_mac";
    /// ARP or RARP that claims somebody else's MAC or address.
    SpoofedArp = 13, "spoofed_arp";
    /// IPv4 source is not one of the port's.
    SpoofedIpv4 = 14, "spoofed_ipv4";
    /// IPv6 source is not one of the port's.
    SpoofedIpv6 = 15, "spoofed_ipv6";
    /// Neighbour discovery that claims somebody else's MAC or address.
    SpoofedNd = 16, "spoofed_nd";
    /// Router advertisement or redirect from a tenant.
    RogueRouter = 17, "rogue_router";
    /// DHCP answer from a tenant.
    RogueDhcp = 18, "rogue_dhcp";
    /// BPDU, LLDP, pause or another frame of the link itself, from a tenant.
    LinkControl = 19, "link_control";
    /// An EtherType that a tenant may not send.
    EthertypeDenied = 20, "ethertype_denied";
    /// To the tenant, but addressed to another MAC: a bridge flooded it.
    NotMine = 21, "not_mine";
    /// To the tenant, from an interface that is not blessed.
    UnblessedSource = 22, "unblessed_source";
    /// The tenant's encryption policy refuses it.
    EncryptionPolicy = 23, "encryption_policy";
    /// Over the ceiling in bits per second.
    CeilingBytes = 24, "ceiling_bytes";
    /// Over the ceiling in packets per second.
    CeilingPackets = 25, "ceiling_packets";
    /// The limiter's clock was contended past its bound.
    LimiterContended = 26, "limiter_contended";
    /// Uplink guard: came in through an interface that is neither blessed, an uplink nor trusted.
    GuardUnblessed = 27, "guard_unblessed";
    /// More than the tenant's guarantee and its share of what others leave of the uplink.
    ShareExceeded = 29, "share_exceeded";
    /// Within its share, but the uplink has no room for what is not guaranteed.
    UplinkFull = 30, "uplink_full";
    /// The tenant's budget of bytes for this period is spent.
    QuotaSpent = 31, "quota_spent";
    /// Uplink guard: an overlay that the host itself sends in clear, or what may be the rest of one.
    ClearOverlay = 32, "clear_overlay";
    /// Over the ceiling in bits per second, and ended at the uplink before an skb existed.
    FloodBytes = 33, "flood_bytes";
    /// Over the ceiling in packets per second, likewise.
    FloodPackets = 34, "flood_packets";
    /// Something that cannot happen, did: a map look-up of the gate itself failed.
    Internal = 28, "internal";
}
