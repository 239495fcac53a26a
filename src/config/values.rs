//! Names and addresses that cannot be built wrong.
//!
//! Each type is made from text by [`FromStr`], which says what is wrong with the text and what to
//! write instead, and prints as it is read.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A text that is not the value it should be: `what is wrong; what to write instead`, on one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub(super) String);

/// `text` in backquotes, on one line and cut where a line would get long, for messages.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 48;
    let cut = text.char_indices().nth(CHARS_MAX).map(|(at, _)| at);
    let (start, rest) = text.split_at(cut.unwrap_or(text.len()));
    let mut shown = String::from("`");
    for character in start.chars() {
        match character {
            '"' | '\'' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown.push_str(if rest.is_empty() { "`" } else { "…`" });
    shown
}

/// Name of a host, zone, tenant or port: 1..=64 of `A-Z a-z 0-9 . _ -`, not first a `.` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let wrong = if text.is_empty() {
            "the name is empty".to_string()
        } else if let Some(bad) = text.chars().find(|c| !legal(*c)) {
            format!(
                "the name {} contains {}",
                shown(text),
                shown(&bad.to_string())
            )
        } else if text.len() > 64 {
            format!("the name {} has {} characters", shown(text), text.len())
        } else if text.starts_with(['.', '-']) {
            return Err(ValueError(format!(
                "the name {} starts with `{}`; start it with a letter or a digit",
                shown(text),
                &text[..1]
            )));
        } else {
            return Ok(Self(text.to_string()));
        };
        Err(ValueError(format!(
            "{wrong}; write 1 to 64 of A-Z a-z 0-9 . _ -"
        )))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a network interface, as the kernel accepts it: 1..=15 bytes, no `/`, `:` or blank.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let illegal = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
        let wrong = if text.is_empty() {
            "the interface name is empty".to_string()
        } else if let Some(bad) = text.chars().find(|c| illegal(*c)) {
            format!(
                "the interface name {} contains {}",
                shown(text),
                shown(&bad.to_string())
            )
        } else if text.len() > 15 {
            format!(
                "the interface name {} has {} bytes",
                shown(text),
                text.len()
            )
        } else if matches!(text, "." | "..") {
            format!("the kernel refuses `{text}` as an interface name")
        } else {
            return Ok(Self(text.to_string()));
        };
        Err(ValueError(format!(
            "{wrong}; write 1 to 15 bytes without `/`, `:` and blanks, as `ip link` shows it"
        )))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// VLAN identifier, 1..=4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vlan(u16);

impl Vlan {
    /// `None` outside 1..=4094.
    pub fn new(id: u16) -> Option<Self> {
        (1..=4094).contains(&id).then_some(Self(id))
    }

    /// The identifier.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u64> for Vlan {
    type Error = ValueError;

    fn try_from(id: u64) -> Result<Self, ValueError> {
        let legal = u16::try_from(id).ok().and_then(Vlan::new);
        legal.ok_or_else(|| ValueError(format!("there is no VLAN {id}; write 1 to 4094")))
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Unicast Ethernet address, not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The bytes in the order of the wire.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let Some(octets) = mac_octets(text) else {
            return Err(ValueError(format!(
                "{} is not a MAC address; write six bytes such as 52:54:00:00:00:01",
                shown(text)
            )));
        };
        let wrong = if octets == [0xff; 6] {
            "the broadcast address"
        } else if octets[0] & 1 != 0 {
            "a group address"
        } else if octets == [0; 6] {
            "no address"
        } else {
            return Ok(Self(octets));
        };
        Err(ValueError(format!(
            "{text} is {wrong}; write the MAC address of the tenant's interface"
        )))
    }
}

/// Six pairs of hexadecimal digits with `:` between.
fn mac_octets(text: &str) -> Option<[u8; 6]> {
    let mut octets = [0; 6];
    let mut pairs = text.split(':');
    for octet in &mut octets {
        let pair = pairs.next()?;
        if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *octet = u8::from_str_radix(pair, 16).ok()?;
    }
    pairs.next().is_none().then_some(octets)
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An IP prefix; the bits after the prefix are zero. A single address has the full length.
///
/// Ordered by family, then address, then length: a prefix comes directly before what is inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    addr: IpAddr,
    prefix_len: u8,
}

impl Cidr {
    /// `None` if the length is more than the family has, or a bit after the prefix is set.
    pub fn new(addr: IpAddr, prefix_len: u8) -> Option<Self> {
        let legal = prefix_len <= bits(addr) && network(addr, prefix_len) == addr;
        legal.then_some(Self { addr, prefix_len })
    }

    /// The network address.
    pub fn addr(self) -> IpAddr {
        self.addr
    }

    /// Bits that count, 0..=32 for IPv4, 0..=128 for IPv6.
    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// Whether every address of `other` is in this prefix.
    pub fn contains(self, other: Cidr) -> bool {
        self.addr.is_ipv4() == other.addr.is_ipv4()
            && self.prefix_len <= other.prefix_len
            && network(other.addr, self.prefix_len) == self.addr
    }

    /// Whether some address is in both.
    pub fn overlaps(self, other: Cidr) -> bool {
        self.contains(other) || other.contains(self)
    }
}

/// Bits of an address.
fn bits(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// `addr` with all bits after the first `prefix_len` cleared.
fn network(addr: IpAddr, prefix_len: u8) -> IpAddr {
    let kept = u32::from(prefix_len);
    match addr {
        IpAddr::V4(v4) => {
            let mask = u32::MAX
                .checked_shl(32u32.saturating_sub(kept))
                .unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128u32.saturating_sub(kept))
                .unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

impl FromStr for Cidr {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (addr_text, len_text) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let Ok(addr) = addr_text.parse::<IpAddr>() else {
            return Err(ValueError(format!(
                "{} is not an address or prefix; write 10.0.0.5, 10.0.1.0/24 or 2001:db8::/32",
                shown(text)
            )));
        };
        let full = bits(addr);
        let prefix_len = match len_text {
            None => full,
            Some(len) => match prefix_len(len, full) {
                Some(len) => len,
                None => {
                    return Err(ValueError(format!(
                        "{} has no prefix length that IPv{} has; write 0 to {full} after the `/`",
                        shown(text),
                        if full == 32 { 4 } else { 6 },
                    )));
                }
            },
        };
        if let IpAddr::V6(v6) = addr
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            let write = match prefix_len.checked_sub(96) {
                Some(32) | None => v4.to_string(),
                Some(len) => format!("{v4}/{len}"),
            };
            return Err(ValueError(format!(
                "{} is an IPv4 address inside IPv6; write {write}",
                shown(text)
            )));
        }
        let network = network(addr, prefix_len);
        if network != addr {
            return Err(ValueError(format!(
                "{} has host bits set; write {network}/{prefix_len} for the network, or {addr} for \
                 the one address",
                shown(text)
            )));
        }
        Ok(Self { addr, prefix_len })
    }
}

/// One to three digits, at most `full`.
fn prefix_len(text: &str, full: u8) -> Option<u8> {
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let len = digits.then(|| text.parse::<u16>().ok()).flatten()?;
    u8::try_from(len).ok().filter(|len| *len <= full)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix_len == bits(self.addr) {
            write!(f, "{}", self.addr)
        } else {
            write!(f, "{}/{}", self.addr, self.prefix_len)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a prefix")
    }

    #[test]
    fn what_is_shown_is_one_short_line() {
        assert_eq!(shown("a\"b'c"), "`a\"b'c`");
        assert_eq!(shown("a\nb\u{202e}"), "`a\\nb\\u{202e}`");
        assert_eq!(shown(&"é".repeat(48)), format!("`{}`", "é".repeat(48)));
        assert_eq!(shown(&"é".repeat(49)), format!("`{}…`", "é".repeat(48)));
    }

    #[test]
    fn names_have_up_to_64_characters_and_interfaces_up_to_15() {
        assert!("n".repeat(64).parse::<Name>().is_ok());
        assert!("n".repeat(65).parse::<Name>().is_err());
        assert!("_a.B-9".parse::<Name>().is_ok());
        assert!("i".repeat(15).parse::<InterfaceName>().is_ok());
        assert!("i".repeat(16).parse::<InterfaceName>().is_err());
        assert!("eth0.100@x".parse::<InterfaceName>().is_ok());
    }

    #[test]
    fn a_mac_address_is_read_in_either_case_and_printed_in_lower() {
        let mac: Mac = "52:54:00:AB:cd:Ef".parse().expect("an address");
        assert_eq!(mac.octets(), [0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
    }

    #[test]
    fn vlans_are_1_to_4094() {
        assert_eq!(Vlan::new(0), None);
        assert_eq!(Vlan::new(1).map(Vlan::get), Some(1));
        assert_eq!(Vlan::new(4_094).map(Vlan::get), Some(4_094));
        assert_eq!(Vlan::new(4_095), None);
        assert!(Vlan::try_from(65_537).is_err());
    }

    #[test]
    fn a_single_address_has_the_full_length_and_prints_without_it() {
        assert_eq!(cidr("10.0.0.5"), cidr("10.0.0.5/32"));
        assert_eq!(cidr("10.0.0.5/32").to_string(), "10.0.0.5");
        assert_eq!(cidr("2001:db8::5").prefix_len(), 128);
        assert_eq!(cidr("2001:DB8:0::/032").to_string(), "2001:db8::/32");
    }

    #[test]
    fn a_prefix_with_host_bits_cannot_be_built() {
        assert_eq!(Cidr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)), 24), None);
        assert_eq!(Cidr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 33), None);
        assert!(Cidr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0).is_some());
    }

    #[test]
    fn a_prefix_contains_what_is_inside_it_and_of_its_family() {
        assert!(cidr("10.0.0.0/8").contains(cidr("10.1.0.0/16")));
        assert!(cidr("10.0.0.0/8").contains(cidr("10.0.0.0/8")));
        assert!(!cidr("10.1.0.0/16").contains(cidr("10.0.0.0/8")));
        assert!(cidr("10.1.0.0/16").overlaps(cidr("10.0.0.0/8")));
        assert!(!cidr("0.0.0.0/0").overlaps(cidr("::/0")));
        assert!(cidr("::/0").contains(cidr("ffff::1")));
    }

    #[test]
    fn a_prefix_sorts_directly_before_what_is_inside_it() {
        let mut prefixes = [
            "10.0.1.0/24",
            "::/0",
            "10.0.0.0/8",
            "10.0.0.7",
            "10.0.0.0/24",
            "9.0.0.0/8",
        ]
        .map(cidr);
        prefixes.sort();
        let sorted = [
            "9.0.0.0/8",
            "10.0.0.0/8",
            "10.0.0.0/24",
            "10.0.0.7",
            "10.0.1.0/24",
            "::/0",
        ];
        assert_eq!(prefixes, sorted.map(cidr));
    }
}
