//! A record: one reading of a port's meter, as the ledger keeps it and as everybody else can check it.
//!
//! `docs/METERING.md` is the specification, with a clause for each field and edge; this is its code.
//!
//! Invariants (property tests below, golden vectors in `metering/vectors/`)
//! - A record has one encoding: what `decode` accepts, `encode` gives back byte for byte, and what
//!   `check` accepts comes back from its bytes as it was.
//! - `decode` refuses everything else with a reason, and panics on nothing.
//! - A number that is billed is an integer; what was not seen is a flag and a bound, never a guess.
//!
//! What it is not: it does not say which records follow each other (the audit does), and it keeps
//! nothing (the ledger does).

pub(crate) mod cbor;
mod error;
mod flags;
mod rules;
mod wire;

pub use error::RecordError;
pub use flags::Flags;

use crate::window::Counts;
use dataplane_common::abi::Skbs;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Version of a record that says nothing of encryption.
pub const VERSION: u64 = 1;
/// Version of one with [`Total::evidence`]: all else is as in [`VERSION`].
pub const VERSION_WITH_EVIDENCE: u64 = 2;
/// No record has more bytes than this.
pub const ENCODED_BYTES_MAX: usize = 2_048;
/// Longest host name, bytes.
pub const HOST_BYTES_MAX: u64 = 253;
/// Longest name of a port, bytes.
pub const PORT_BYTES_MAX: u64 = 64;
/// Longest cause or reason, bytes.
pub const TEXT_BYTES_MAX: u64 = 256;
/// Most ranges of an ERASURE.
pub const ERASED_MAX: u64 = 64;

/// What a record is. Numbers without a name are refused, so that a later version can give them one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A window of a port in one direction: its total (`zone = *`), or one zone.
    #[default]
    Meter = 1,
    /// An open window as it stood: kept beside the ledger for the day the host crashes, never a leaf.
    Checkpoint = 2,
    /// The first record of a ledger.
    Begin = 3,
    /// A signed difference to an earlier record.
    Correction = 4,
    /// What a port carried in a window is not known.
    Nodata = 5,
    /// Another key signs from here on.
    Key = 6,
    /// Records of which only the leaf is kept from here on, and a tenant's flow detail that is gone.
    Erasure = 7,
    /// What a tenant was told about a period: M-17.
    Statement = 9,
}

impl Kind {
    /// Every kind, by number.
    pub const ALL: [Self; 8] = [
        Self::Meter,
        Self::Checkpoint,
        Self::Begin,
        Self::Correction,
        Self::Nodata,
        Self::Key,
        Self::Erasure,
        Self::Statement,
    ];

    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| u64::from(*kind as u8) == number)
    }

    /// Is it of a tenant, and numbered among its records?
    #[must_use]
    pub const fn is_of_a_tenant(self) -> bool {
        matches!(
            self,
            Self::Meter | Self::Correction | Self::Nodata | Self::Statement
        )
    }

    /// Does it say something of the ledger itself, and of no port?
    #[must_use]
    pub const fn is_of_the_ledger(self) -> bool {
        matches!(self, Self::Begin | Self::Key | Self::Erasure)
    }

    /// Its name in exports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meter => "METER",
            Self::Checkpoint => "CHECKPOINT",
            Self::Begin => "BEGIN",
            Self::Correction => "CORRECTION",
            Self::Nodata => "NODATA",
            Self::Key => "KEY",
            Self::Erasure => "ERASURE",
            Self::Statement => "STATEMENT",
        }
    }
}

/// A record. Which fields a kind has: M-5.2; those that it has not stay at their default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Random, made with the ledger.
    pub ledger_id: [u8; 16],
    /// Index of its leaf in the ledger, from 0. 0 in a checkpoint, as the next three.
    pub seq: u64,
    /// Without gaps from 0 among the ledger's records of its kind.
    pub stream_seq: u64,
    /// Without gaps from 0 among the ledger's records of its tenant.
    pub tenant_seq: u64,
    /// [`salt`] of `seq`.
    pub salt: [u8; 16],
    /// What it is.
    pub kind: Kind,
    /// Name of the host, 1..=253 bytes.
    pub host: String,
    /// What was unusual.
    pub flags: Flags,
    /// The kernel's random id of this boot: the first half of the counter epoch.
    pub boot_id: [u8; 16],
    /// Random, made with the maps: the second half.
    pub map_generation: [u8; 16],
    /// Name of the port in the configuration, 0..=64 bytes; empty: the host's own slot 0.
    pub port_uid: String,
    /// Number of the port's owner of the slot, unique within the map generation.
    pub incarnation: u64,
    /// Tenant's number; 0: none, or an uplink.
    pub tenant: u32,
    /// `dataplane_common::abi::FROM_TENANT` or `TO_TENANT`.
    pub direction: u8,
    /// Zone's number; `None`: `*`, all of them.
    pub zone: Option<u32>,
    /// Number of the window, unique within the map generation; its low 32 bits are the kernel's.
    pub window_id: u64,
    /// First of the windows merged into this one; `window_id` where only one was open.
    pub window_first: u64,
    /// Label: UTC, ns since 1970, included.
    pub window_start: i64,
    /// Label: UTC, ns since 1970, excluded.
    pub window_end: i64,
    /// What the meter and the clocks said.
    pub reading: Option<Reading>,
    /// Only in `zone = *`: what is not split by zone.
    pub total: Option<Total>,
    /// Least layer-2 bytes that were carried; only where something was not seen.
    pub bytes_min: Option<u64>,
    /// Most of them; `None` where nothing bounds it.
    pub bytes_max: Option<u64>,
    /// Why something was not seen, or another remark, 1..=256 bytes.
    pub cause: Option<String>,
    /// Only in a correction.
    pub correction: Option<Correction>,
    /// Only in the first record of a ledger that takes another's place.
    pub supersedes: Option<Supersedes>,
    /// Only in `zone = *`: the tree of the flow detail that is kept of this window; `None`: none is.
    pub flows: Option<Flows>,
    /// Only in KEY.
    pub rotation: Option<Rotation>,
    /// Only in ERASURE: first and last seq of what is erased, 1..=64 ranges in ascending order.
    pub erased: Vec<[u64; 2]>,
    /// Only in ERASURE: whose flow detail is gone.
    pub erased_flows: Option<ErasedFlows>,
    /// Only in a statement.
    pub statement: Option<Statement>,
}

/// Two readings of a port's registers in one direction, and when they were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Registers at the end of the last record of the same epoch and incarnation; 0 at its beginning.
    pub register_start: Counts,
    /// Registers when the window was sealed, each at or above its start.
    pub register_end: Counts,
    /// CLOCK_BOOTTIME ns of the cut that opened the window.
    pub cut_start_ns: u64,
    /// CLOCK_BOOTTIME ns of the cut that closed it.
    pub cut_end_ns: u64,
    /// CLOCK_MONOTONIC ns between the cuts: without the time that the host was suspended.
    pub elapsed_ns: u64,
    /// CLOCK_REALTIME − CLOCK_BOOTTIME at the first cut, ns.
    pub utc_offset_ns: i64,
    /// What was added to that by the second cut, ns: steps and slewing.
    pub step_ns: i64,
    /// Policy revision in force at the first cut.
    pub revision_first: u32,
    /// Policy revision in force at the second cut.
    pub revision_last: u32,
    /// Tag of the program that counted, as the kernel prints it; `None` if more than one did.
    pub program_tag: Option<[u8; 8]>,
}

/// What a port's record in one direction says beside its zones. Counts are the window's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Raw skbs at `register_start`'s time.
    pub skbs_start: Skbs,
    /// Raw skbs at `register_end`'s time.
    pub skbs_end: Skbs,
    /// What was dropped, by reason in ascending order; reasons without a packet are left out.
    pub drops: Vec<Dropped>,
    /// What no flow accounts for; at most the window's counts.
    pub unattributed: Counts,
    /// What the kernel said of its clock at the second cut.
    pub clock: Clock,
    /// Packets lost after the meter, as the interface counts them; `None` where it does not.
    /// For information: they are billed.
    pub post_meter_drops: Option<u64>,
    /// What was delivered under an encryption policy, by class in ascending order; classes without a packet are
    /// left out. What is in no class nobody looked at, which is not "clear".
    pub evidence: Vec<Classified>,
}

/// What was delivered and is of one class of evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classified {
    /// `dataplane_common::encryption::Class`, 0..=7.
    pub class: u8,
    /// Frames as on the wire, at least 1.
    pub packets: u64,
    /// Layer-2 bytes as on the wire.
    pub l2_bytes: u64,
}

/// Drops of one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// `dataplane_common::reason::DropReason`, 1..=31.
    pub reason: u8,
    /// Frames as on the wire, at least 1.
    pub packets: u64,
    /// Layer-2 bytes as on the wire.
    pub l2_bytes: u64,
}

/// adjtimex(2) at a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// What it returned: TIME_OK (0) … TIME_ERROR (5).
    pub state: i32,
    /// Estimated error, µs.
    pub est_error_us: u64,
    /// Largest possible error, µs.
    pub max_error_us: u64,
    /// STA_UNSYNC was not set.
    pub synchronised: bool,
}

/// A difference that is added to an earlier record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Correction {
    /// Ledger of the record that is corrected: this one, or one that it supersedes.
    pub ledger_id: [u8; 16],
    /// Its seq.
    pub corrects: u64,
    /// Added to its packets.
    pub packets: i64,
    /// Added to its layer-2 bytes.
    pub l2_bytes: i64,
    /// Added to its IP bytes.
    pub l3_bytes: i64,
    /// Why, 1..=256 bytes.
    pub reason: String,
}

/// The ledger whose place this one takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supersedes {
    /// Its id.
    pub ledger_id: [u8; 16],
    /// The last seq of it that the host knows of.
    pub last_seq: u64,
}

/// The tree over a window's flow rows: M-13.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    /// Its rows, at least 1.
    pub rows: u64,
    /// Its root.
    pub root: [u8; 32],
}

/// A tenant's flow detail that was erased: all that was kept of it when this was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasedFlows {
    /// Tenant's number.
    pub tenant: u32,
    /// `*` records whose rows are gone, at least 1; those of ledgers before this one among them.
    pub records: u64,
    /// The rows, at least one for each record.
    pub rows: u64,
}

/// A key that takes another's place: both have signed [`Rotation::text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Public half of the key that signs from here on.
    pub public: [u8; 32],
    /// The signature of the key before it.
    pub by_old: [u8; 64],
    /// Its own.
    pub by_new: [u8; 64],
}

impl Rotation {
    /// What both keys sign: that the leaf `seq` of this origin changes the one for the other.
    #[must_use]
    pub fn text(origin: &str, seq: u64, old: &[u8; 32], new: &[u8; 32]) -> String {
        let (old, new) = (crate::note::base64(old), crate::note::base64(new));
        format!("{origin}\nkey\nseq {seq}\n{old}\n{new}\n")
    }
}

/// What a tenant was told about a period, in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Its number in the ledger, from 1; all versions of a tenant's period have the same.
    pub number: u64,
    /// From 1.
    pub version: u64,
    /// When it was issued, UTC, ns since 1970.
    pub issued: i64,
    /// It sums the ledger's records below this seq.
    pub size: u64,
    /// Packets of both directions.
    pub packets: i64,
    /// Layer-2 bytes of both directions.
    pub l2_bytes: i64,
    /// IP bytes of both directions.
    pub l3_bytes: i64,
    /// SHA-256 of its JSON.
    pub digest: [u8; 32],
}

impl Record {
    /// Its bytes: deterministic CBOR (RFC 8949 §4.2.1). What is encoded without [`Record::check`]
    /// may be refused by [`Record::decode`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// The record that has these bytes.
    ///
    /// # Errors
    /// Everything that is not the encoding of a record of this version: see [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        wire::decode(bytes)
    }

    /// Does it come back from its bytes as it is? To be asked before it is committed.
    ///
    /// # Errors
    /// What [`Record::decode`] says of its bytes; [`RecordError::Lost`].
    pub fn check(&self) -> Result<(), RecordError> {
        if Self::decode(&self.encode())? == *self {
            Ok(())
        } else {
            Err(RecordError::Lost)
        }
    }

    /// The lowest version that can say what it says.
    #[must_use]
    pub fn version(&self) -> u64 {
        match &self.total {
            Some(total) if !total.evidence.is_empty() => VERSION_WITH_EVIDENCE,
            _ => VERSION,
        }
    }

    /// What was counted in its window; `None` without a reading, or with one that goes back.
    #[must_use]
    pub fn counted(&self) -> Option<Counts> {
        let reading = self.reading.as_ref()?;
        reading.register_end.checked_sub(reading.register_start)
    }
}

/// Hash of a record's leaf (RFC 6962 §2.1) from its canonical bytes.
#[must_use]
pub fn leaf_hash(canonical: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(canonical);
    hash.finalize().into()
}

/// The salt of the record `seq`: without it, a neighbour's leaf could be found by trying byte counts.
#[must_use]
pub fn salt(secret: &[u8; 32], seq: u64) -> [u8; 16] {
    // HMAC fills a short key with zeros to a block of 64 bytes; a whole block cannot be refused.
    let mut key = [0; 64];
    key[..32].copy_from_slice(secret);
    let mut hmac = Hmac::<Sha256>::new(&key.into());
    hmac.update(&seq.to_be_bytes());
    let whole = hmac.finalize().into_bytes();
    std::array::from_fn(|index| whole[index])
}

#[cfg(test)]
pub(crate) mod tests;
