//! What a tenant's policy says, compiled: a rule for each direction and zone.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What happens to what is refused.
pub mod mode {
    /// Nobody looks.
    pub const OFF: u8 = 0;
    /// It passes, and is counted.
    pub const OBSERVE: u8 = 1;
    /// It is dropped.
    pub const ENFORCE: u8 = 2;
}

/// Bits of [`Rule::accepts`].
pub mod accept {
    /// TLS over TCP.
    pub const TLS: u32 = 1;
    /// Application data before the server's hello.
    pub const EARLY_DATA: u32 = 2;
    /// Only with a group that is listed: TLS 1.2, whose hello names none, is refused.
    pub const GROUP_REQUIRED: u32 = 4;
    /// SSH.
    pub const SSH: u32 = 8;
    /// WireGuard.
    pub const WIREGUARD: u32 = 16;
    /// QUIC version 1.
    pub const QUIC_V1: u32 = 32;
    /// QUIC version 2.
    pub const QUIC_V2: u32 = 64;
    /// DTLS 1.2 and later.
    pub const DTLS: u32 = 128;
    /// ESP: its shape alone.
    pub const ESP: u32 = 256;
    /// A conversation that began before anybody looked is taken up, within the budget for what is unverified.
    pub const MIDSTREAM: u32 = 512;
    /// Fragments pass, unverified.
    pub const FRAGMENTS: u32 = 1024;
    /// Overlays are what they carry; without it they are datagrams and protocols like others, and clear.
    pub const OVERLAYS: u32 = 2_048;
    /// A first fragment is judged, and those that follow one that passed.
    pub const FRAGMENTS_TRACKED: u32 = 4_096;
    /// IKEv2: its shape alone.
    pub const IKE: u32 = 8_192;
    /// OpenVPN over UDP: its shape alone.
    pub const OPENVPN: u32 = 16_384;
}

/// Bits of [`Rule::exempt`], and places in [`Rule::exempt_interval_ns`].
pub mod exempt {
    /// ARP and RARP.
    pub const ARP: u32 = 0;
    /// Neighbour discovery and multicast listeners, ICMPv6 types 130 to 137 and 143; IGMP.
    pub const ND: u32 = 1;
    /// DHCP, ports 67, 68, 546 and 547.
    pub const DHCP: u32 = 2;
    /// ICMP's errors: without them, a path's MTU is never found.
    pub const ICMP_ERROR: u32 = 3;
    /// Echo requests and replies.
    pub const ICMP_ECHO: u32 = 4;
    /// DNS, remote port 53.
    pub const DNS: u32 = 5;
    /// NTP, remote port 123.
    pub const NTP: u32 = 6;
    /// How many there are.
    pub const COUNT: u32 = 7;
    /// Names in the configuration.
    pub const NAMES: [&str; COUNT as usize] =
        ["arp", "nd", "dhcp", "icmp-error", "icmp-echo", "dns", "ntp"];
}

/// Suites in a rule.
pub const SUITES: usize = 32;
/// Groups in a rule.
pub const GROUPS: usize = 16;
/// Ports with a clear prefix in a rule.
pub const PREFIX_PORTS: usize = 8;

/// What is asked of the packets of one direction and zone. All zero: nobody looks.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Rule {
    /// [`mode`].
    pub mode: u8,
    /// Least evidence, 0..=3: E0 to E3.
    pub evidence_min: u8,
    /// Least version of TLS, as on the wire: 0x0303 is 1.2.
    pub tls_min: u16,
    /// [`accept`].
    pub accepts: u32,
    /// [`exempt`]: bit by number.
    pub exempt: u32,
    /// Payload that a conversation may carry in all without being checked, at once; it comes back with what is
    /// checked and with time.
    pub unverified_bytes: u32,
    /// Payload of a datagram conversation before it must have shown what it is, bytes.
    pub unclassified_bytes: u32,
    /// The same, packets, 0..=255.
    pub unclassified_packets: u32,
    /// Clear payload that may come in front of TLS on [`Rule::prefix_ports`], each direction, bytes.
    pub prefix_bytes: u32,
    /// Ports of a server that begins in clear: STARTTLS. 0: none.
    pub prefix_ports: [u16; PREFIX_PORTS],
    /// Suites that a server may choose; 0: none.
    pub suites: [u16; SUITES],
    /// Groups that a server may choose; 0: none. All 0: any.
    pub groups: [u16; GROUPS],
    /// By exemption: ns between two packets that may pass in the long run; 0: any number.
    pub exempt_interval_ns: [u32; exempt::COUNT as usize],
}

impl Rule {
    /// Is the bit of [`accept`] set?
    #[inline(always)]
    pub const fn accepts(&self, what: u32) -> bool {
        self.accepts & what != 0
    }

    /// May a server choose this suite?
    #[inline(always)]
    pub fn allows_suite(&self, suite: u16) -> bool {
        has(&self.suites, suite)
    }

    /// May a server choose this group? 0: it named none.
    #[inline(always)]
    pub fn allows_group(&self, group: u16) -> bool {
        if group == 0 {
            return !self.accepts(accept::GROUP_REQUIRED);
        }
        // The list is filled from its beginning.
        self.groups[0] == 0 || has(&self.groups, group)
    }

    /// May clear text come first on this port?
    #[inline(always)]
    pub fn has_prefix(&self, port: u16) -> bool {
        has(&self.prefix_ports, port)
    }
}

/// Is the number in the list? 0 never is. It leaves as soon as it is found: the verifier would walk a flag that is
/// carried through all comparisons in every combination.
#[inline(always)]
fn has(list: &[u16], number: u16) -> bool {
    let mut at = 0;
    while at < list.len() {
        if list[at] == number {
            return number != 0;
        }
        at += 1;
    }
    false
}

/// A tenant's policy: which rule holds where, and which part of the table is the tenant's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Policy {
    /// Tenant's number; 0: no policy.
    pub tenant: u32,
    /// 0.
    pub reserved: u32,
    /// First bucket.
    pub buckets_first: u32,
    /// Buckets, a power of two, less one.
    pub buckets_mask: u32,
    /// By direction and zone: the rule's number.
    pub rules: [[u8; 64]; 2],
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            tenant: 0,
            reserved: 0,
            buckets_first: 0,
            buckets_mask: 0,
            rules: [[0; 64]; 2],
        }
    }
}

impl Policy {
    /// Number of the rule for a direction and zone.
    #[inline(always)]
    pub const fn rule(&self, direction: u32, zone: u32) -> u8 {
        self.rules[(direction & 1) as usize][(zone & 63) as usize]
    }
}

const _: () = {
    assert!(size_of::<Rule>() == 4 + 6 * 4 + 16 + 64 + 32 + 28);
    assert!(size_of::<Policy>() == 144);
};
