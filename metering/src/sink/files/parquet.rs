//! Records as Parquet: what the JSON lines have, in columns of exact types. No float, and no number that does not fit.
//!
//! What bills is `DECIMAL(20, 0)`: it holds every register of 64 bits and the sign of a correction, in one column that is added up,
//! and whoever adds decimals up gets decimals. Two columns, one without a sign, would let a reader forget the other.

use crate::sink::{Item, SinkError, text::direction};
use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical},
    data_type::{
        ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type,
    },
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::types::Type,
};
use std::sync::Arc;

/// Digits of 2^64 − 1, and bytes that hold so many with a sign.
const DIGITS: i32 = 20;
const DECIMAL_BYTES: usize = 9;

/// Values as Parquet keeps them.
enum Values {
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Bytes(Vec<ByteArray>),
    Fixed(Vec<FixedLenByteArray>),
}

/// A column: what it is, its values, and which rows have one; `None`: all.
struct Column {
    kind: Type,
    values: Values,
    present: Option<Vec<i16>>,
}

type Result<T> = std::result::Result<T, ParquetError>;

fn required(
    name: &str,
    physical: Physical,
    logical: Option<LogicalType>,
    values: Values,
) -> Result<Column> {
    let kind = Type::primitive_type_builder(name, physical)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(logical);
    Ok(Column {
        kind: kind.build()?,
        values,
        present: None,
    })
}

fn u64s(name: &str, values: impl Iterator<Item = u64>) -> Result<Column> {
    // Parquet's unsigned numbers are the bits of signed ones.
    let values = values.map(u64::cast_signed).collect();
    let kind = Some(LogicalType::integer(64, false));
    required(name, Physical::INT64, kind, Values::Int64(values))
}

fn u32s(name: &str, values: impl Iterator<Item = u32>) -> Result<Column> {
    let values = values.map(u32::cast_signed).collect();
    let kind = Some(LogicalType::integer(32, false));
    required(name, Physical::INT32, kind, Values::Int32(values))
}

fn times(name: &str, values: impl Iterator<Item = i64>) -> Result<Column> {
    let kind = Some(LogicalType::timestamp(true, TimeUnit::NANOS));
    required(name, Physical::INT64, kind, Values::Int64(values.collect()))
}

fn texts(name: &str, values: impl Iterator<Item = String>) -> Result<Column> {
    let values = values.map(|text| ByteArray::from(text.into_bytes()));
    let kind = Some(LogicalType::String);
    required(
        name,
        Physical::BYTE_ARRAY,
        kind,
        Values::Bytes(values.collect()),
    )
}

fn bytes(name: &str, values: impl Iterator<Item = Vec<u8>>) -> Result<Column> {
    let values = values.map(ByteArray::from).collect();
    required(name, Physical::BYTE_ARRAY, None, Values::Bytes(values))
}

fn hashes<const N: usize>(name: &str, values: impl Iterator<Item = [u8; N]>) -> Result<Column> {
    let values = values.map(|hash| FixedLenByteArray::from(hash.to_vec()));
    let kind = Type::primitive_type_builder(name, Physical::FIXED_LEN_BYTE_ARRAY)
        .with_repetition(Repetition::REQUIRED)
        .with_length(N as i32);
    Ok(Column {
        kind: kind.build()?,
        values: Values::Fixed(values.collect()),
        present: None,
    })
}

fn present<T>(values: &[Option<T>]) -> Option<Vec<i16>> {
    Some(
        values
            .iter()
            .map(|value| i16::from(value.is_some()))
            .collect(),
    )
}

fn optional_u32s(name: &str, values: Vec<Option<u32>>) -> Result<Column> {
    let kind = Type::primitive_type_builder(name, Physical::INT32)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(Some(LogicalType::integer(32, false)));
    let present = present(&values);
    let values = values.into_iter().flatten().map(u32::cast_signed);
    Ok(Column {
        kind: kind.build()?,
        values: Values::Int32(values.collect()),
        present,
    })
}

fn decimals(name: &str, values: Vec<Option<i128>>) -> Result<Column> {
    let kind = Type::primitive_type_builder(name, Physical::FIXED_LEN_BYTE_ARRAY)
        .with_repetition(Repetition::OPTIONAL)
        .with_length(DECIMAL_BYTES as i32)
        .with_logical_type(Some(LogicalType::decimal(0, DIGITS)))
        .with_precision(DIGITS)
        .with_scale(0);
    let present = present(&values);
    let values = values.into_iter().flatten().map(|value| {
        let bytes = value.to_be_bytes();
        FixedLenByteArray::from(bytes[bytes.len() - DECIMAL_BYTES..].to_vec())
    });
    Ok(Column {
        kind: kind.build()?,
        values: Values::Fixed(values.collect()),
        present,
    })
}

/// The names are those of the JSON lines.
fn columns(items: &[Item]) -> Result<Vec<Column>> {
    let records = || items.iter().map(|item| &item.record);
    let billed = |at: usize| -> Vec<Option<i128>> {
        let sums = items.iter().map(|item| item.billed());
        sums.map(|sums| Some(sums?[at])).collect()
    };
    Ok(vec![
        u64s("seq", items.iter().map(|item| item.seq))?,
        hashes("ledger_id", records().map(|record| record.ledger_id))?,
        texts("kind", records().map(|record| record.kind.name().into()))?,
        texts("host", records().map(|record| record.host.clone()))?,
        u32s("tenant", records().map(|record| record.tenant))?,
        texts("port", records().map(|record| record.port_uid.clone()))?,
        u64s("incarnation", records().map(|record| record.incarnation))?,
        texts("direction", items.iter().map(|item| direction(item).into()))?,
        optional_u32s("zone", records().map(|record| record.zone).collect())?,
        u64s("window_id", records().map(|record| record.window_id))?,
        times("window_start", records().map(|record| record.window_start))?,
        times("window_end", records().map(|record| record.window_end))?,
        texts("flags", records().map(|record| record.flags.to_string()))?,
        decimals("packets", billed(0))?,
        decimals("l2_bytes", billed(1))?,
        decimals("l3_bytes", billed(2))?,
        hashes("leaf", items.iter().map(|item| item.leaf))?,
        bytes("canonical", items.iter().map(|item| item.canonical.clone()))?,
    ])
}

fn write(column: &Column, to: &mut SerializedColumnWriter<'_>) -> Result<usize> {
    let present = column.present.as_deref();
    match &column.values {
        Values::Int32(values) => to.typed::<Int32Type>().write_batch(values, present, None),
        Values::Int64(values) => to.typed::<Int64Type>().write_batch(values, present, None),
        Values::Bytes(values) => to
            .typed::<ByteArrayType>()
            .write_batch(values, present, None),
        Values::Fixed(values) => to
            .typed::<FixedLenByteArrayType>()
            .write_batch(values, present, None),
    }
}

fn file(items: &[Item]) -> Result<Vec<u8>> {
    let columns = columns(items)?;
    let fields = columns.iter().map(|column| Arc::new(column.kind.clone()));
    let schema = Type::group_type_builder("octroi").with_fields(fields.collect());
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_created_by(concat!("octroi ", env!("CARGO_PKG_VERSION")).into())
        .build();
    let schema = Arc::new(schema.build()?);
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let mut rows = file.next_row_group()?;
    for column in &columns {
        let Some(mut to) = rows.next_column()? else {
            break;
        };
        write(column, &mut to)?;
        to.close()?;
    }
    rows.close()?;
    file.into_inner()
}

/// A file of one row group: a batch fits into memory as it is.
pub(super) fn table(items: &[Item]) -> std::result::Result<Vec<u8>, SinkError> {
    file(items).map_err(|error| SinkError::Refused(format!("a file of Parquet: {error}")))
}
