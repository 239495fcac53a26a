//! Numbers that stand in headers, by the names that IANA and IEEE give them.

/// IANA protocol numbers that the stages look at.
pub mod proto {
    #![allow(missing_docs, reason = "the names are IANA's")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT: u8 = 59;
    pub const DESTINATION: u8 = 60;
    pub const SCTP: u8 = 132;
    pub const MOBILITY: u8 = 135;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;
}

/// EtherTypes that the stages look at.
pub mod ethertype {
    #![allow(missing_docs, reason = "the names are IEEE's")]
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const RARP: u16 = 0x8035;
    pub const VLAN: u16 = 0x8100;
    pub const QINQ: u16 = 0x88A8;
    pub const IPV6: u16 = 0x86DD;
    pub const LLDP: u16 = 0x88CC;
    pub const PAUSE: u16 = 0x8808;
    pub const SLOW: u16 = 0x8809;
    pub const EAPOL: u16 = 0x888E;
    /// Values below are 802.3 lengths, not types.
    pub const MIN: u16 = 0x0600;
}
