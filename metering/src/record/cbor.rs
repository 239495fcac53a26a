//! The part of CBOR (RFC 8949) that a record uses: integers, byte and text strings, arrays and maps of
//! a length that is told, each in its one shortest form (§4.2.1).
//!
//! What it is not: a CBOR library. Tags, floats, simple values and indefinite lengths are refused, not
//! skipped, so that nothing is read that was not meant.

use super::RecordError;

/// Major types (RFC 8949 §3.1).
mod major {
    pub const UNSIGNED: u8 = 0;
    pub const NEGATIVE: u8 = 1;
    pub const BYTES: u8 = 2;
    pub const TEXT: u8 = 3;
    pub const ARRAY: u8 = 4;
    pub const MAP: u8 = 5;
}

/// Writes items one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn head(&mut self, major: u8, value: u64) {
        let wide = value.to_be_bytes();
        let (info, from) = match value {
            0..=23 => (wide[7], 8),
            24..=0xFF => (24, 7),
            0x100..=0xFFFF => (25, 6),
            0x1_0000..=0xFFFF_FFFF => (26, 4),
            _ => (27, 0),
        };
        self.0.push(major << 5 | info);
        self.0.extend_from_slice(&wide[from..]);
    }

    pub(crate) fn unsigned(&mut self, value: u64) {
        self.head(major::UNSIGNED, value);
    }

    pub(crate) fn signed(&mut self, value: i64) {
        if value < 0 {
            // −1 − n, which is the complement.
            self.head(major::NEGATIVE, !value as u64);
        } else {
            self.head(major::UNSIGNED, value as u64);
        }
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.head(major::BYTES, value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.head(major::TEXT, value.len() as u64);
        self.0.extend_from_slice(value.as_bytes());
    }

    pub(crate) fn array(&mut self, items: u64) {
        self.head(major::ARRAY, items);
    }

    pub(crate) fn map(&mut self, pairs: u64) {
        self.head(major::MAP, pairs);
    }

    /// An array of unsigned integers.
    pub(crate) fn row<const N: usize>(&mut self, values: [u64; N]) {
        self.array(N as u64);
        values.into_iter().for_each(|value| self.unsigned(value));
    }
}

/// Reads items one after the other, and refuses what [`Writer`] would not have written.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// The key whose value is read: errors name it.
    pub(crate) key: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            key: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Is the next item an array?
    pub(crate) fn is_array(&self) -> bool {
        self.rest.first().map(|first| first >> 5) == Some(major::ARRAY)
    }

    pub(crate) fn range(&self) -> RecordError {
        RecordError::Range { key: self.key }
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = usize::try_from(count)
            .ok()
            .and_then(|count| self.rest.split_at_checked(count))
            .ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Major type and value of the next item's head.
    fn head(&mut self) -> Result<(u8, u64), RecordError> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        if major > major::MAP {
            return Err(RecordError::Forbidden { key: self.key });
        }
        let (width, least) = match info {
            0..=23 => return Ok((major, info.into())),
            24 => (1, 24),
            25 => (2, 1 << 8),
            26 => (4, 1 << 16),
            27 => (8, 1 << 32),
            31 if major >= major::BYTES => return Err(RecordError::Indefinite { key: self.key }),
            _ => return Err(RecordError::Forbidden { key: self.key }),
        };
        let value = self
            .take(width)?
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte));
        if value < least {
            return Err(RecordError::NotShortest { key: self.key });
        }
        Ok((major, value))
    }

    fn expect(&mut self, wanted: u8) -> Result<u64, RecordError> {
        match self.head()? {
            (major, value) if major == wanted => Ok(value),
            _ => Err(RecordError::Type { key: self.key }),
        }
    }

    /// An unsigned integer that fits `T`.
    pub(crate) fn unsigned<T: TryFrom<u64>>(&mut self) -> Result<T, RecordError> {
        let value = self.expect(major::UNSIGNED)?;
        T::try_from(value).map_err(|_| self.range())
    }

    /// An integer that fits `T`.
    pub(crate) fn signed<T: TryFrom<i64>>(&mut self) -> Result<T, RecordError> {
        let (major, value) = self.head()?;
        let value = i64::try_from(value).map_err(|_| self.range());
        let value = match major {
            major::UNSIGNED => value?,
            major::NEGATIVE => !value?,
            _ => return Err(RecordError::Type { key: self.key }),
        };
        T::try_from(value).map_err(|_| self.range())
    }

    /// A byte string of exactly `N` bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let length = self.expect(major::BYTES)?;
        if length != N as u64 {
            return Err(self.range());
        }
        self.take(length)?.try_into().map_err(|_| self.range())
    }

    /// UTF-8 of `least..=most` bytes without control characters.
    pub(crate) fn text(&mut self, least: u64, most: u64) -> Result<String, RecordError> {
        let length = self.expect(major::TEXT)?;
        if length < least || length > most {
            return Err(self.range());
        }
        let refused = RecordError::Text { key: self.key };
        match str::from_utf8(self.take(length)?) {
            Ok(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
            _ => Err(refused),
        }
    }

    /// The number of items of an array, `most` or fewer.
    pub(crate) fn array(&mut self, most: u64) -> Result<u64, RecordError> {
        let items = self.expect(major::ARRAY)?;
        if items > most {
            return Err(self.range());
        }
        Ok(items)
    }

    /// An array of exactly `items`.
    pub(crate) fn tuple(&mut self, items: u64) -> Result<(), RecordError> {
        if self.array(items)? != items {
            return Err(self.range());
        }
        Ok(())
    }

    /// The number of pairs of a map.
    pub(crate) fn map(&mut self) -> Result<u64, RecordError> {
        self.expect(major::MAP)
    }

    /// An array of exactly `N` unsigned integers.
    pub(crate) fn row<const N: usize>(&mut self) -> Result<[u64; N], RecordError> {
        self.tuple(N as u64)?;
        let mut values = [0; N];
        for value in &mut values {
            *value = self.unsigned()?;
        }
        Ok(values)
    }
}
