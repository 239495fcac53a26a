//! Rows in ClickHouse's format RowBinary: columns one behind the other, numbers little endian, texts behind their length.

use crate::sink::{Item, Mark};

/// Rows that are being written.
pub(super) struct RowBinary(Vec<u8>);

impl RowBinary {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// FixedString.
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// UInt8.
    pub fn u8(self, number: u8) -> Self {
        self.fixed(&[number])
    }

    /// UInt32.
    pub fn u32(self, number: u32) -> Self {
        self.fixed(&number.to_le_bytes())
    }

    /// UInt64.
    pub fn u64(self, number: u64) -> Self {
        self.fixed(&number.to_le_bytes())
    }

    /// Int64, and DateTime64(9).
    pub fn i64(self, number: i64) -> Self {
        self.fixed(&number.to_le_bytes())
    }

    /// String: its length in seven bits a byte, the lowest first (LEB128), and its bytes.
    pub fn text(mut self, bytes: &[u8]) -> Self {
        let mut left = bytes.len();
        while left >= 0x80 {
            self.0.push(left as u8 | 0x80);
            left >>= 7;
        }
        self.0.push(left as u8);
        self.fixed(bytes)
    }

    /// A row of [`RECORD`].
    pub fn record(self, ledger_id: &[u8; 16], item: &Item) -> Self {
        let record = &item.record;
        // What a bill adds up, and is not a correction's.
        let counted = match (&record.correction, item.billed()) {
            (None, Some(_)) => record.counted().unwrap_or_default(),
            _ => Default::default(),
        };
        let by = record.correction.clone().unwrap_or_default();
        self.fixed(ledger_id)
            .u64(item.seq)
            .fixed(&item.leaf)
            .u8(record.kind as u8)
            .text(record.host.as_bytes())
            .fixed(&record.boot_id)
            .fixed(&record.map_generation)
            .text(record.port_uid.as_bytes())
            .u64(record.incarnation)
            .u32(record.tenant)
            .u8(record.direction)
            .i64(item.zone())
            .u64(record.window_id)
            .u64(record.window_first)
            .i64(record.window_start)
            .i64(record.window_end)
            .u32(record.flags.0)
            .u64(counted.packets)
            .u64(counted.l2_bytes)
            .u64(counted.l3_bytes)
            .i64(by.packets)
            .i64(by.l2_bytes)
            .i64(by.l3_bytes)
            .text(&item.canonical)
    }

    /// A row of [`MARK`].
    pub fn mark(self, ledger_id: &[u8; 16], host: &str, mark: &Mark, head: &str) -> Self {
        self.fixed(ledger_id)
            .text(host.as_bytes())
            .u64(mark.next)
            .fixed(&mark.leaf)
            .text(head.as_bytes())
    }
}

/// Table and columns of [`RowBinary::record`].
pub(super) const RECORD: &str = "record (ledger_id, seq, leaf, kind, host, boot_id, map_generation, port_uid, incarnation, \
    tenant, direction, zone, window_id, window_first, window_start, window_end, flags, packets, l2_bytes, l3_bytes, \
    correct_packets, correct_l2_bytes, correct_l3_bytes, canonical)";

/// Table and columns of [`RowBinary::mark`].
pub(super) const MARK: &str = "mark (ledger_id, host, next_seq, last_leaf, head)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_their_length_in_seven_bits_a_byte() {
        for (length, begins) in [
            (0, vec![0]),
            (127, vec![127]),
            (128, vec![0x80, 1]),
            (2_048, vec![0x80, 0x10]),
            (1 << 14, vec![0x80, 0x80, 1]),
        ] {
            let text = vec![7; length];
            let written = RowBinary::new().text(&text).into_bytes();
            let (prefix, rest) = written.split_at(begins.len());
            assert_eq!((prefix, rest), (begins.as_slice(), text.as_slice()));
        }
    }
}
