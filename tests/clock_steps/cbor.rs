//! As much of a CBOR reader as a record needs, from `docs/METERING.md` M-11 and not from octroi's codec.

use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(i128),
    Bytes(Vec<u8>),
    List(Vec<Value>),
}

/// The fields of a record by number.
pub type Fields = BTreeMap<i128, Value>;

/// Reads one record.
pub fn fields(mut bytes: &[u8]) -> Result<Fields> {
    let (5, pairs) = head(&mut bytes)? else {
        bail!("no map");
    };
    let mut fields = BTreeMap::new();
    for _ in 0..pairs {
        let Value::Number(key) = value(&mut bytes)? else {
            bail!("a key that is no number");
        };
        fields.insert(key, value(&mut bytes)?);
    }
    Ok(fields)
}

/// A number of a record.
pub fn number(fields: &Fields, key: i128) -> Result<i64> {
    match fields.get(&key) {
        Some(Value::Number(number)) => Ok(i64::try_from(*number)?),
        other => bail!("field {key} is {other:?}"),
    }
}

/// A number in a list of a record.
pub fn number_in(fields: &Fields, key: i128, at: usize) -> Result<i64> {
    match fields.get(&key) {
        Some(Value::List(list)) => match list.get(at) {
            Some(Value::Number(number)) => Ok(i64::try_from(*number)?),
            other => bail!("field {key} has {other:?}"),
        },
        other => bail!("field {key} is {other:?}"),
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Result<&'a [u8]> {
    let (taken, rest) = bytes
        .split_at_checked(usize::try_from(count)?)
        .context("it is cut off")?;
    *bytes = rest;
    Ok(taken)
}

/// Major type and argument.
fn head(bytes: &mut &[u8]) -> Result<(u8, u64)> {
    let first = take(bytes, 1)?[0];
    let argument = match first & 31 {
        small @ 0..24 => u64::from(small),
        width @ 24..28 => {
            let bytes = take(bytes, 1 << (width - 24))?;
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        }
        other => bail!("argument {other}"),
    };
    Ok((first >> 5, argument))
}

fn value(bytes: &mut &[u8]) -> Result<Value> {
    let (major, argument) = head(bytes)?;
    Ok(match major {
        0 => Value::Number(argument.into()),
        1 => Value::Number(-1 - i128::from(argument)),
        2 | 3 => Value::Bytes(take(bytes, argument)?.to_vec()),
        4 => Value::List((0..argument).map(|_| value(bytes)).collect::<Result<_>>()?),
        other => bail!("major type {other}"),
    })
}
