//! Offsets of kernel structures, from the running kernel's BTF: what `__sk_buff` hides.
//!
//! Format: Documentation/bpf/btf.rst. Only structs, unions and enums are read; a member may sit in
//! an anonymous struct or union, as `inner_transport_header` does.

use crate::{Error, Result};
use dataplane_common::wire::gso_type;

/// What the programs need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `sk_buff.head`, bytes.
    pub head: u32,
    /// `sk_buff.data`, bytes.
    pub data: u32,
    /// `sk_buff.end`, bytes; a 32-bit offset from `head`.
    pub end: u32,
    /// `sk_buff.inner_transport_header`, bytes; a 16-bit offset from `head`.
    pub inner_transport: u32,
    /// `skb_shared_info.gso_type`, bytes.
    pub gso_type: u32,
}

/// Reads them from the running kernel.
///
/// # Errors
/// [`Error::Btf`] when the BTF is not there, or gives a GSO bit another value than the programs know.
pub fn offsets() -> Result<Offsets> {
    let bytes = std::fs::read("/sys/kernel/btf/vmlinux").map_err(|e| Error::Btf(e.to_string()))?;
    let btf = Btf::parse(&bytes).ok_or_else(|| Error::Btf("cannot be parsed".into()))?;
    let skb = btf
        .structure("sk_buff")
        .ok_or_else(|| Error::Btf("has no struct sk_buff".into()))?;
    let shared = btf
        .structure("skb_shared_info")
        .ok_or_else(|| Error::Btf("has no struct skb_shared_info".into()))?;
    let member = |structure: u32, name: &str| {
        btf.member(structure, name, 0)
            .ok_or_else(|| Error::Btf(format!("does not have {name} where it should be")))
    };
    for (name, value) in [
        ("SKB_GSO_TCPV4", gso_type::TCPV4),
        ("SKB_GSO_TCPV6", gso_type::TCPV6),
        ("SKB_GSO_GRE", gso_type::GRE),
        ("SKB_GSO_GRE_CSUM", gso_type::GRE_CSUM),
        ("SKB_GSO_IPXIP4", gso_type::IPXIP4),
        ("SKB_GSO_IPXIP6", gso_type::IPXIP6),
        ("SKB_GSO_UDP_TUNNEL", gso_type::UDP_TUNNEL),
        ("SKB_GSO_UDP_TUNNEL_CSUM", gso_type::UDP_TUNNEL_CSUM),
        ("SKB_GSO_SCTP", gso_type::SCTP),
        ("SKB_GSO_UDP", gso_type::UDP),
        ("SKB_GSO_UDP_L4", gso_type::UDP_L4),
    ] {
        let found = btf.enumerator(name);
        if found != Some(value) {
            return Err(Error::Btf(format!(
                "gives {name} the value {found:?}, not {value}"
            )));
        }
    }
    Ok(Offsets {
        head: member(skb, "head")?,
        data: member(skb, "data")?,
        end: member(skb, "end")?,
        inner_transport: member(skb, "inner_transport_header")?,
        gso_type: member(shared, "gso_type")?,
    })
}

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;

/// How deep anonymous structs may nest.
const DEPTH_MAX: u32 = 8;

struct Btf<'a> {
    bytes: &'a [u8],
    strings: usize,
    /// Offset of each type by id; id 0 is void.
    types: Vec<usize>,
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut btf = Self {
            bytes,
            strings: 0,
            types: vec![0],
        };
        if btf.u32(0)? & 0xFFFF != 0xEB9F {
            return None;
        }
        let header = btf.u32(4)? as usize;
        let (type_offset, type_len) = (btf.u32(8)? as usize, btf.u32(12)? as usize);
        btf.strings = header + btf.u32(16)? as usize;
        let mut at = header + type_offset;
        let end = at + type_len;
        while at < end {
            btf.types.push(at);
            let info = btf.u32(at + 4)?;
            let members = (info & 0xFFFF) as usize;
            at += 12
                + match (info >> 24) & 0x1F {
                    1 | 14 | 17 => 4, // int, var, decl tag
                    3 => 12,          // array
                    KIND_STRUCT | KIND_UNION => 12 * members,
                    KIND_ENUM | 13 => 8 * members, // enum, func prototype
                    15 | 19 => 12 * members,       // data section, 64-bit enum
                    2 | 7..=12 | 16 | 18 => 0,     // pointers, qualifiers, typedef, func, float
                    _ => return None,
                };
        }
        Some(btf)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(
            self.bytes.get(at..at + 4)?.try_into().ok()?,
        ))
    }

    fn name(&self, at: usize) -> Option<&'a [u8]> {
        let start = self.strings + self.u32(at)? as usize;
        let rest = self.bytes.get(start..)?;
        rest.split(|byte| *byte == 0).next()
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some((self.u32(at + 4)? >> 24) & 0x1F)
    }

    fn structure(&self, name: &str) -> Option<u32> {
        let found = self.types.iter().skip(1).position(|at| {
            self.kind(*at) == Some(KIND_STRUCT) && self.name(*at) == Some(name.as_bytes())
        })?;
        u32::try_from(found + 1).ok()
    }

    /// Byte offset of a member, looked for in anonymous members too.
    fn member(&self, structure: u32, name: &str, depth: u32) -> Option<u32> {
        let at = *self.types.get(structure as usize)?;
        if depth > DEPTH_MAX || !matches!(self.kind(at)?, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let info = self.u32(at + 4)?;
        for index in 0..(info & 0xFFFF) as usize {
            let member = at + 12 + 12 * index;
            let bits = self.u32(member + 8)?;
            // With the kind flag, the upper byte is the size of a bit field.
            let bits = if info >> 31 == 1 {
                bits & 0x00FF_FFFF
            } else {
                bits
            };
            if self.name(member)? == name.as_bytes() {
                return Some(bits / 8);
            }
            if self.name(member)?.is_empty()
                && let Some(inner) = self.member(self.u32(member + 4)?, name, depth + 1)
            {
                return Some(bits / 8 + inner);
            }
        }
        None
    }

    fn enumerator(&self, name: &str) -> Option<u32> {
        self.types.iter().skip(1).find_map(|at| {
            if self.kind(*at)? != KIND_ENUM {
                return None;
            }
            let members = (self.u32(at + 4)? & 0xFFFF) as usize;
            (0..members).find_map(|index| {
                let member = at + 12 + 8 * index;
                (self.name(member)? == name.as_bytes()).then(|| self.u32(member + 4))?
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_offsets_of_the_running_kernel() {
        let offsets = offsets().expect("this machine has BTF");
        // Plausible, and all different: head and data are pointers, the rest is behind them.
        assert!(
            offsets.head.is_multiple_of(8) && offsets.data.is_multiple_of(8),
            "{offsets:?}"
        );
        assert!(
            offsets.end < offsets.head && offsets.inner_transport < offsets.head,
            "{offsets:?}"
        );
    }

    #[test]
    fn refuses_what_is_not_btf() {
        assert!(Btf::parse(b"").is_none());
        assert!(Btf::parse(&[0x9F, 0xEB, 1, 0, 24, 0, 0, 0]).is_none());
        assert!(Btf::parse(&[0xFF; 64]).is_none());
    }
}
