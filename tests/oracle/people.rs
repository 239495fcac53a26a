//! Who lives in the frames: a tenant's own MACs and addresses, its neighbours', and everybody's.
//!
//! Frames are thrown from these few, so that by chance alone they are often right or nearly right.

/// The tenant's first MAC.
pub const OWN: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0A];
/// Its second.
pub const OWN_SECOND: [u8; 6] = [0x02, 0, 0, 0, 0, 0x1A];
/// One more, which does not fit a port's entry.
pub const OWN_LISTED: [u8; 6] = [0x02, 0, 0, 0, 0, 0x2A];
/// VRRP's virtual router 7 (RFC 5798), listed on the port that has a longer list.
pub const VRRP: [u8; 6] = [0x00, 0x00, 0x5E, 0x00, 0x01, 0x07];
/// Another tenant.
pub const NEIGHBOUR: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0B];
/// The router.
pub const GATEWAY: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// Everybody.
pub const BROADCAST: [u8; 6] = [0xFF; 6];
/// All IPv4 nodes.
pub const GROUP4: [u8; 6] = [0x01, 0x00, 0x5E, 0x00, 0x00, 0x01];
/// All IPv6 nodes.
pub const GROUP6: [u8; 6] = [0x33, 0x33, 0, 0, 0, 0x01];
/// Where BPDUs go.
pub const BRIDGES: [u8; 6] = [0x01, 0x80, 0xC2, 0, 0, 0x00];
/// Where LLDP goes.
pub const LLDP_NEAREST: [u8; 6] = [0x01, 0x80, 0xC2, 0, 0, 0x0E];
/// Nobody.
pub const NOBODY: [u8; 6] = [0; 6];

/// Every MAC above.
pub const MACS: [[u8; 6]; 12] = [
    OWN,
    OWN,
    OWN_SECOND,
    OWN_LISTED,
    VRRP,
    NEIGHBOUR,
    GATEWAY,
    BROADCAST,
    GROUP4,
    GROUP6,
    BRIDGES,
    LLDP_NEAREST,
];

/// The tenant's address.
pub const OWN4: [u8; 4] = [10, 1, 0, 5];
/// In its second prefix, 10.1.64.0/20.
pub const OWN4_ROUTED: [u8; 4] = [10, 1, 79, 255];
/// Just outside that prefix.
pub const NOT_ROUTED: [u8; 4] = [10, 1, 80, 0];
/// In 172.16.9.0/24, which only the longer list holds.
pub const OWN4_LISTED: [u8; 4] = [172, 16, 9, 77];
/// Another tenant.
pub const NEIGHBOUR4: [u8; 4] = [10, 1, 0, 6];
/// The router.
pub const GATEWAY4: [u8; 4] = [10, 1, 0, 1];
/// Before DHCP.
pub const UNSPECIFIED4: [u8; 4] = [0; 4];
/// Everybody.
pub const EVERYBODY4: [u8; 4] = [255; 4];
/// Remote, in a configured zone: 198.51.100.0/24, and its upper half in another one.
pub const ZONED4: [u8; 4] = [198, 51, 100, 20];
/// In the upper half.
pub const ZONED4_NARROW: [u8; 4] = [198, 51, 100, 200];
/// Remote, in no zone.
pub const REMOTE4: [u8; 4] = [203, 0, 113, 9];

/// Every IPv4 address above, and a group's.
pub const ADDRESSES4: [[u8; 4]; 13] = [
    OWN4,
    OWN4,
    OWN4_ROUTED,
    NOT_ROUTED,
    OWN4_LISTED,
    NEIGHBOUR4,
    GATEWAY4,
    UNSPECIFIED4,
    EVERYBODY4,
    ZONED4,
    ZONED4_NARROW,
    REMOTE4,
    [224, 0, 0, 1],
];

const fn v6(words: [u16; 8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut word = 0;
    while word < 8 {
        [bytes[2 * word], bytes[2 * word + 1]] = words[word].to_be_bytes();
        word += 1;
    }
    bytes
}

/// The tenant's address.
pub const OWN6: [u8; 16] = v6([0x2001, 0xDB8, 1, 0, 0, 0, 0, 5]);
/// In 2001:db8:2::/61, which only the longer list holds.
pub const OWN6_LISTED: [u8; 16] = v6([0x2001, 0xDB8, 2, 7, 1, 2, 3, 4]);
/// Just outside that prefix.
pub const NOT_LISTED6: [u8; 16] = v6([0x2001, 0xDB8, 2, 8, 1, 2, 3, 4]);
/// Another tenant.
pub const NEIGHBOUR6: [u8; 16] = v6([0x2001, 0xDB8, 1, 0, 0, 0, 0, 6]);
/// The tenant's link-local address.
pub const LINK_LOCAL6: [u8; 16] = v6([0xFE80, 0, 0, 0, 0, 0, 0, 0xA]);
/// The router's.
pub const GATEWAY6: [u8; 16] = v6([0xFE80, 0, 0, 0, 0, 0, 0, 1]);
/// Looks like a link-local address, but fec0::/10 is another prefix.
pub const SITE_LOCAL6: [u8; 16] = v6([0xFEC0, 0, 0, 0, 0, 0, 0, 1]);
/// Before it has an address.
pub const UNSPECIFIED6: [u8; 16] = [0; 16];
/// All nodes.
pub const ALL_NODES6: [u8; 16] = v6([0xFF02, 0, 0, 0, 0, 0, 0, 1]);
/// All routers.
pub const ALL_ROUTERS6: [u8; 16] = v6([0xFF02, 0, 0, 0, 0, 0, 0, 2]);
/// MLDv2 routers.
pub const MLD_ROUTERS6: [u8; 16] = v6([0xFF02, 0, 0, 0, 0, 0, 0, 0x16]);
/// Remote, in a configured zone: 2001:db8:f000::/36.
pub const ZONED6: [u8; 16] = v6([0x2001, 0xDB8, 0xF123, 0, 0, 0, 0, 9]);
/// Remote, in no zone.
pub const REMOTE6: [u8; 16] = v6([0x2001, 0xDB8, 0xE123, 0, 0, 0, 0, 9]);

/// Every IPv6 address above.
pub const ADDRESSES6: [[u8; 16]; 14] = [
    OWN6,
    OWN6,
    OWN6_LISTED,
    NOT_LISTED6,
    NEIGHBOUR6,
    LINK_LOCAL6,
    GATEWAY6,
    SITE_LOCAL6,
    UNSPECIFIED6,
    ALL_NODES6,
    ALL_ROUTERS6,
    MLD_ROUTERS6,
    ZONED6,
    REMOTE6,
];
