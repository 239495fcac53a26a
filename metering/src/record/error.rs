//! Why bytes are not a record.

/// Why bytes are not a record. `key` is that of the field: `docs/METERING.md`, M-5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// They end inside an item.
    #[error("the record ends inside an item")]
    Truncated,
    /// There are more of them after the record's end.
    #[error("bytes follow the record")]
    Trailing,
    /// A number or length is in more bytes than it needs.
    #[error("field {key}: a number is not in its shortest form")]
    NotShortest {
        /// The field, or the one before it.
        key: u64,
    },
    /// A string, array or map without a length.
    #[error("field {key}: indefinite length")]
    Indefinite {
        /// The field, or the one before it.
        key: u64,
    },
    /// A tag, float, null or other simple value, or a head that CBOR keeps for later.
    #[error("field {key}: an item that no record has")]
    Forbidden {
        /// The field, or the one before it.
        key: u64,
    },
    /// Another type than the field's.
    #[error("field {key}: wrong type")]
    Type {
        /// The field, or the one before it.
        key: u64,
    },
    /// A key or a drop reason is below the one before it.
    #[error("field {key}: not in order")]
    Order {
        /// The field.
        key: u64,
    },
    /// A key or a drop reason is there twice.
    #[error("field {key}: there twice")]
    Duplicate {
        /// The field.
        key: u64,
    },
    /// A key that no version has.
    #[error("field {key} is unknown")]
    UnknownKey {
        /// The key.
        key: u64,
    },
    /// A field that this kind of record must have is not there.
    #[error("field {key} is missing")]
    Missing {
        /// The field.
        key: u64,
    },
    /// A field that this kind of record cannot have.
    #[error("field {key} does not belong to this kind of record")]
    NotAllowed {
        /// The field.
        key: u64,
    },
    /// A record of another version, or of a higher one than what it says needs.
    #[error(
        "version {found}; this reads version 1, and version 2 where there is evidence of encryption"
    )]
    Version {
        /// Its version.
        found: u64,
    },
    /// A kind that no version has.
    #[error("kind {found} is unknown")]
    Kind {
        /// The number.
        found: u64,
    },
    /// A number is too large or too small, or a string too long or too short.
    #[error("field {key}: out of range")]
    Range {
        /// The field.
        key: u64,
    },
    /// Text is not UTF-8, or has a control character.
    #[error("field {key}: not plain text")]
    Text {
        /// The field.
        key: u64,
    },
    /// A reading, time, revision or bound begins above its end.
    #[error("field {key} is below its beginning")]
    Backwards {
        /// The field of the end.
        key: u64,
    },
    /// Flags that have no name, contradict each other, or do not go with the kind.
    #[error("flags {found:#x} do not go together, or not with this kind")]
    Flags {
        /// The flags.
        found: u32,
    },
    /// A part is more than the whole, or two fields that say the same do not.
    #[error("field {key} does not add up")]
    Sum {
        /// The field.
        key: u64,
    },
    /// Only of `check`: a field is set that the record's bytes do not carry.
    #[error("a field is set that this kind of record does not have")]
    Lost,
}

impl RecordError {
    /// One word for the error: stable, named by `docs/METERING.md` and by the test vectors.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Trailing => "trailing",
            Self::NotShortest { .. } => "not_shortest",
            Self::Indefinite { .. } => "indefinite",
            Self::Forbidden { .. } => "forbidden",
            Self::Type { .. } => "type",
            Self::Order { .. } => "order",
            Self::Duplicate { .. } => "duplicate",
            Self::UnknownKey { .. } => "unknown_key",
            Self::Missing { .. } => "missing",
            Self::NotAllowed { .. } => "not_allowed",
            Self::Version { .. } => "version",
            Self::Kind { .. } => "kind",
            Self::Range { .. } => "range",
            Self::Text { .. } => "text",
            Self::Backwards { .. } => "backwards",
            Self::Flags { .. } => "flags",
            Self::Sum { .. } => "sum",
            Self::Lost => "lost",
        }
    }
}
