//! A row of flow detail, and its bytes: `docs/METERING.md`, M-13.
//!
//! What it is not: a record. It bills nothing, has no `seq`, and is a leaf of its window's own tree.

use super::{Detail, FlowEvidence};
use crate::{
    record::{
        RecordError,
        cbor::{Reader, Writer},
        leaf_hash,
    },
    window::Counts,
};
use sha2::{Digest as _, Sha256};

/// Version of a row's encoding and of the meaning of its fields.
pub const VERSION: u64 = 1;
/// Version of one with [`Row::evidence`]: all else is as in [`VERSION`].
pub const VERSION_WITH_EVIDENCE: u64 = 2;
/// A row's kind: a number that no record has.
pub const KIND: u64 = 16;
/// No row has more bytes than this.
pub const ENCODED_BYTES_MAX: usize = 192;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;

mod key {
    pub const VERSION: u64 = 0;
    pub const KIND: u64 = 1;
    pub const SALT: u64 = 2;
    pub const DETAIL: u64 = 3;
    pub const ZONE: u64 = 4;
    pub const ETHERTYPE: u64 = 5;
    pub const PROTOCOL: u64 = 6;
    pub const REMOTE: u64 = 7;
    pub const PORT: u64 = 8;
    pub const FLOWS: u64 = 9;
    pub const COUNTS: u64 = 10;
    pub const TCP_FLAGS: u64 = 11;
    pub const DROPS: u64 = 12;
    pub const VLAN: u64 = 13;
    pub const LOCAL: u64 = 14;
    pub const LOCAL_PORT: u64 = 15;
    pub const FIRST: u64 = 16;
    pub const LAST: u64 = 17;
    pub const EVIDENCE: u64 = 18;
}

/// What a flow, or all flows to a network and service, gained in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Random: a neighbour's leaf cannot be found by trying.
    pub salt: [u8; 16],
    /// [`Detail::Prefix`] or [`Detail::Full`]; a row of detail `Off` has no encoding.
    pub detail: Detail,
    /// Zone's number.
    pub zone: u32,
    /// EtherType.
    pub ethertype: u16,
    /// IP protocol; 0 where there is none.
    pub protocol: u8,
    /// Address of the other end; of a prefix, its first 3 bytes (IPv4) or 6 (IPv6), then zeros.
    pub remote: [u8; 16],
    /// Port of the other end; of a prefix, the service's (M-13.4); 0: none.
    pub port: u16,
    /// Flows that are added up here, at least 1.
    pub flows: u64,
    /// What was delivered.
    pub counts: Counts,
    /// All TCP flags, or'ed.
    pub tcp_flags: u8,
    /// Bit n: packets were dropped for reason n.
    pub drop_reasons: u32,
    /// Frames dropped, as on the wire.
    pub drop_packets: u64,
    /// The tenant's own VLAN, 0: none, or a prefix.
    pub vlan: u16,
    /// Address of the tenant's end; zero in a prefix.
    pub local: [u8; 16],
    /// Port of the tenant's end; 0 in a prefix.
    pub local_port: u16,
    /// CLOCK_BOOTTIME ns of the first packet; 0 in a prefix.
    pub first_ns: u64,
    /// CLOCK_BOOTTIME ns of the last packet, not below the first; 0 in a prefix.
    pub last_ns: u64,
    /// What is known of the encryption of all of them; without a class the row has none.
    pub evidence: FlowEvidence,
}

/// Bytes of an address that a row has; `None`: the EtherType has no addresses.
pub(super) const fn address_bytes(ethertype: u16, detail: Detail) -> Option<usize> {
    match (ethertype, detail) {
        (IPV4, Detail::Full) => Some(4),
        (IPV4, _) => Some(3),
        (IPV6, Detail::Full) => Some(16),
        (IPV6, _) => Some(6),
        _ => None,
    }
}

impl Row {
    /// Bytes of [`Row::remote`] that say something; `None`: it has no address.
    #[must_use]
    pub const fn remote_bytes(&self) -> Option<usize> {
        address_bytes(self.ethertype, self.detail)
    }

    /// Its bytes: deterministic CBOR (M-11.1 to M-11.3). What a prefix does not have is left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let full = self.detail == Detail::Full;
        let address = self.remote_bytes();
        let dropped = self.drop_reasons != 0 || self.drop_packets != 0;
        let vlan = full && self.vlan != 0;
        let evidence = self.evidence.classes != 0;
        let pairs = 11
            + u64::from(address.is_some())
            + u64::from(dropped)
            + u64::from(vlan)
            + 3 * u64::from(full)
            + u64::from(full && address.is_some())
            + u64::from(evidence);
        writer.map(pairs);
        let version = if evidence {
            VERSION_WITH_EVIDENCE
        } else {
            VERSION
        };
        for (key, value) in [(key::VERSION, version), (key::KIND, KIND)] {
            writer.unsigned(key);
            writer.unsigned(value);
        }
        writer.unsigned(key::SALT);
        writer.bytes(&self.salt);
        for (key, value) in [
            (key::DETAIL, self.detail as u64),
            (key::ZONE, self.zone.into()),
            (key::ETHERTYPE, self.ethertype.into()),
            (key::PROTOCOL, self.protocol.into()),
        ] {
            writer.unsigned(key);
            writer.unsigned(value);
        }
        if let Some(length) = address {
            writer.unsigned(key::REMOTE);
            writer.bytes(&self.remote[..length]);
        }
        for (key, value) in [(key::PORT, self.port.into()), (key::FLOWS, self.flows)] {
            writer.unsigned(key);
            writer.unsigned(value);
        }
        writer.unsigned(key::COUNTS);
        let Counts {
            packets,
            l2_bytes,
            l3_bytes,
        } = self.counts;
        writer.row([packets, l2_bytes, l3_bytes]);
        writer.unsigned(key::TCP_FLAGS);
        writer.unsigned(self.tcp_flags.into());
        if dropped {
            writer.unsigned(key::DROPS);
            writer.row([self.drop_reasons.into(), self.drop_packets]);
        }
        if vlan {
            writer.unsigned(key::VLAN);
            writer.unsigned(self.vlan.into());
        }
        if full {
            if let Some(length) = address {
                writer.unsigned(key::LOCAL);
                writer.bytes(&self.local[..length]);
            }
            for (key, value) in [
                (key::LOCAL_PORT, self.local_port.into()),
                (key::FIRST, self.first_ns),
                (key::LAST, self.last_ns),
            ] {
                writer.unsigned(key);
                writer.unsigned(value);
            }
        }
        if evidence {
            writer.unsigned(key::EVIDENCE);
            writer.row([
                self.evidence.classes.into(),
                self.evidence.tls_version.into(),
                self.evidence.tls_suite.into(),
            ]);
        }
        writer.finish()
    }

    /// The row that has these bytes.
    ///
    /// # Errors
    /// Everything that is not the encoding of a row of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        let mut row = Self::default();
        let (mut seen, mut version) = (0_u64, VERSION);
        for _ in 0..reader.map()? {
            let key = reader.unsigned()?;
            reader.key = key;
            if key > key::EVIDENCE {
                return Err(RecordError::UnknownKey { key });
            } else if seen & (1 << key) != 0 {
                return Err(RecordError::Duplicate { key });
            } else if seen > 1 << key {
                return Err(RecordError::Order { key });
            }
            row.read(&mut reader, seen, &mut version)?;
            seen |= 1 << key;
        }
        if !reader.is_empty() {
            return Err(RecordError::Trailing);
        }
        row.check(seen, version)?;
        Ok(row)
    }

    /// Reads the value of the reader's key.
    fn read(
        &mut self,
        reader: &mut Reader<'_>,
        seen: u64,
        version: &mut u64,
    ) -> Result<(), RecordError> {
        match reader.key {
            key::VERSION => {
                let found = reader.unsigned()?;
                *version = found;
                if found != VERSION && found != VERSION_WITH_EVIDENCE {
                    return Err(RecordError::Version { found });
                }
            }
            key::KIND => {
                let found = reader.unsigned()?;
                if found != KIND {
                    return Err(RecordError::Kind { found });
                }
            }
            key::SALT => self.salt = reader.bytes()?,
            key::DETAIL => {
                self.detail = match reader.unsigned()? {
                    1_u8 => Detail::Prefix,
                    2 => Detail::Full,
                    _ => return Err(reader.range()),
                };
            }
            key::ZONE => self.zone = reader.unsigned()?,
            key::ETHERTYPE => self.ethertype = reader.unsigned()?,
            key::PROTOCOL => self.protocol = reader.unsigned()?,
            key::REMOTE => self.remote = self.address(reader, seen)?,
            key::PORT => self.port = reader.unsigned()?,
            key::FLOWS => {
                self.flows = reader.unsigned()?;
                if self.flows == 0 {
                    return Err(reader.range());
                }
            }
            key::COUNTS => {
                let [packets, l2_bytes, l3_bytes] = reader.row()?;
                self.counts = Counts {
                    packets,
                    l2_bytes,
                    l3_bytes,
                };
            }
            key::TCP_FLAGS => self.tcp_flags = reader.unsigned()?,
            key::DROPS => {
                let [reasons, packets] = reader.row()?;
                self.drop_reasons = u32::try_from(reasons).map_err(|_| reader.range())?;
                self.drop_packets = packets;
                if reasons == 0 && packets == 0 {
                    return Err(reader.range());
                }
            }
            key::VLAN => {
                self.vlan = reader.unsigned()?;
                if self.vlan == 0 || self.vlan > 4_095 {
                    return Err(reader.range());
                }
            }
            key::LOCAL => self.local = self.address(reader, seen)?,
            key::LOCAL_PORT => self.local_port = reader.unsigned()?,
            key::FIRST => self.first_ns = reader.unsigned()?,
            key::LAST => self.last_ns = reader.unsigned()?,
            _ => {
                let [classes, version, suite] = reader.row()?;
                let number = |value: u64| u16::try_from(value).map_err(|_| reader.range());
                self.evidence = FlowEvidence {
                    classes: u8::try_from(classes).map_err(|_| reader.range())?,
                    tls_version: number(version)?,
                    tls_suite: number(suite)?,
                };
                if classes == 0 {
                    return Err(reader.range());
                }
            }
        }
        Ok(())
    }

    /// An address as long as the row's EtherType and detail, which come before it, say.
    fn address(&self, reader: &mut Reader<'_>, seen: u64) -> Result<[u8; 16], RecordError> {
        for key in [key::DETAIL, key::ETHERTYPE] {
            if seen & (1 << key) == 0 {
                return Err(RecordError::Missing { key });
            }
        }
        let mut address = [0; 16];
        match self.remote_bytes() {
            Some(3) => address[..3].copy_from_slice(&reader.bytes::<3>()?),
            Some(4) => address[..4].copy_from_slice(&reader.bytes::<4>()?),
            Some(6) => address[..6].copy_from_slice(&reader.bytes::<6>()?),
            Some(_) => address = reader.bytes()?,
            None => return Err(RecordError::NotAllowed { key: reader.key }),
        }
        Ok(address)
    }

    /// Are these the fields of such a row, and do they go together?
    fn check(&self, seen: u64, version: u64) -> Result<(), RecordError> {
        let optional: u64 = 1 << key::REMOTE | 1 << key::DROPS;
        let mut must: u64 = ((1 << key::VLAN) - 1) & !optional;
        let mut may: u64 = 1 << key::DROPS;
        let full = self.detail == Detail::Full;
        if full {
            must |= 1 << key::LOCAL_PORT | 1 << key::FIRST | 1 << key::LAST;
            may |= 1 << key::VLAN;
        }
        if self.remote_bytes().is_some() {
            must |= 1 << key::REMOTE | u64::from(full) << key::LOCAL;
        }
        if version == VERSION_WITH_EVIDENCE {
            must |= 1 << key::EVIDENCE;
        }
        let first = |keys: u64| u64::from(keys.trailing_zeros());
        if must & !seen != 0 {
            let key = first(must & !seen);
            Err(RecordError::Missing { key })
        } else if seen & !(must | may) != 0 {
            let key = first(seen & !(must | may));
            Err(RecordError::NotAllowed { key })
        } else if self.last_ns < self.first_ns {
            Err(RecordError::Backwards { key: key::LAST })
        } else {
            Ok(())
        }
    }
}

/// Root of a tree of leaves (RFC 9162 §2.1.1), built from left to right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Root {
    leaves: u64,
    /// Whole subtrees, each with its height, from the largest.
    subtrees: Vec<(u32, [u8; 32])>,
}

impl Root {
    /// Adds the leaf of a row's bytes.
    pub fn add(&mut self, canonical: &[u8]) {
        self.leaves += 1;
        let (mut height, mut hash) = (0, leaf_hash(canonical));
        while let Some((_, left)) = self.subtrees.pop_if(|(tall, _)| *tall == height) {
            hash = node(&left, &hash);
            height += 1;
        }
        self.subtrees.push((height, hash));
    }

    /// Leaves, and the root over them; of no leaves, the hash of nothing.
    #[must_use]
    pub fn finish(self) -> (u64, [u8; 32]) {
        let mut subtrees = self.subtrees.into_iter().rev().map(|(_, hash)| hash);
        let root = match subtrees.next() {
            None => Sha256::digest([]).into(),
            Some(last) => subtrees.fold(last, |right, left| node(&left, &right)),
        };
        (self.leaves, root)
    }
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}
