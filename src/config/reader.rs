//! Reads the keys of a TOML table one by one, and reports every key that is not as it should be.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::draft::{Field, List};
use super::errors::{At, Faults, Located};
use super::values::{ValueError, shown};

/// A key of the file, with a value for messages as it would be written.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub name: &'static str,
    pub example: &'static str,
    /// Whether it is written as a header, `example`, and not as `name = example`.
    pub is_header: bool,
}

/// A table being read.
pub(super) struct Reader<'a, 'f, 't> {
    table: &'a DeTable<'a>,
    at: At,
    label: String,
    /// Keys that an unknown key was most likely meant to be: not missing, but misspelt.
    misspelt: Vec<&'static str>,
    faults: &'f mut Faults<'t>,
}

impl<'a, 'f, 't> Reader<'a, 'f, 't> {
    /// Starts to read `table`, of which `keys` are all that may be written. In messages the table is
    /// called by its `kind` and name, or `header` if it has none.
    pub fn open(
        (table, at): (&'a DeTable<'a>, At),
        (kind, header): (&str, &str),
        keys: &[Key],
        faults: &'f mut Faults<'t>,
    ) -> Self {
        let label = match table.get("name").and_then(|name| name.get_ref().as_str()) {
            Some(name) => format!("{kind} {}", shown(name)),
            None => header.to_string(),
        };
        let mut misspelt = Vec::new();
        for key in table.keys() {
            if keys.iter().any(|known| known.name == key.get_ref()) {
                continue;
            }
            let meant = if faults.is_full() {
                None
            } else {
                nearest(key.get_ref(), keys.iter().map(|known| known.name))
            };
            misspelt.extend(meant);
            faults.add(
                At(Some(key.span().start)),
                unknown_key(key.get_ref(), header, meant, keys),
            );
        }
        Self {
            table,
            at,
            label,
            misspelt,
            faults,
        }
    }

    /// A key that may be missing; `read` makes the value of what is written.
    fn optional<T>(
        &mut self,
        key: Key,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, ValueError>,
    ) -> Field<T> {
        let Some(value) = self.table.get(key.name) else {
            return Field::Missing;
        };
        let at = place(value);
        match read(value.get_ref()) {
            Ok(value) => Field::Is(Located { value, at }),
            Err(ValueError(message)) => {
                self.faults.add(at, message);
                Field::Bad
            }
        }
    }

    /// Reports the key if it is missing.
    pub fn required<T>(&mut self, key: Key, field: Field<T>) -> Field<T> {
        if !matches!(field, Field::Missing) {
            return field;
        }
        let Key { name, example, .. } = key;
        if !self.is_misspelt(key) {
            let message = format!("{} has no `{name}`; write {name} = {example}", self.label);
            self.faults.add(self.at, message);
        }
        Field::Bad
    }

    /// Whether the key is not there because it was misspelt, which is reported.
    pub fn is_misspelt(&self, key: Key) -> bool {
        self.misspelt.contains(&key.name)
    }

    /// A string that `read` makes a value of.
    pub fn text<T>(
        &mut self,
        key: Key,
        read: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Field<T> {
        self.optional(key, |value| {
            read(value.as_str().ok_or_else(|| wrong_kind(key, value))?)
        })
    }

    /// An integer in `range`, which fits into `T`.
    pub fn integer<T: TryFrom<u64>>(&mut self, key: Key, range: RangeInclusive<u64>) -> Field<T> {
        self.optional(key, |value| {
            let integer = value.as_integer().ok_or_else(|| wrong_kind(key, value))?;
            let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
            let legal = number.filter(|number| range.contains(number));
            legal
                .and_then(|number| T::try_from(number).ok())
                .ok_or_else(|| {
                    let written = match integer.to_string() {
                        long if long.len() > 24 => shown(&long),
                        short => short,
                    };
                    let (least, most) = (range.start(), range.end());
                    ValueError(format!(
                        "`{}` is {written}; write {least} to {most}",
                        key.name
                    ))
                })
        })
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: Key) -> Field<bool> {
        self.optional(key, |value| {
            value.as_bool().ok_or_else(|| wrong_kind(key, value))
        })
    }

    /// A list of strings, of each of which `read` makes a value; empty if missing.
    pub fn texts<T>(&mut self, key: Key, read: impl Fn(&str) -> Result<T, ValueError>) -> List<T> {
        let mut list = List {
            at: self.at,
            items: Vec::new(),
            bad: self.is_misspelt(key),
        };
        let Some(value) = self.table.get(key.name) else {
            return list;
        };
        list.at = place(value);
        let Some(elements) = value.get_ref().as_array() else {
            list.bad = true;
            self.faults.add(list.at, wrong_kind(key, value.get_ref()).0);
            return list;
        };
        for element in elements.iter() {
            let at = place(element);
            let text = element.get_ref().as_str();
            match text
                .ok_or_else(|| wrong_element(key, element.get_ref()))
                .and_then(&read)
            {
                Ok(value) => list.items.push(Located { value, at }),
                Err(ValueError(message)) => {
                    list.bad = true;
                    self.faults.add(at, message);
                }
            }
        }
        list
    }

    /// A table: `Err` if it is not one, and reported.
    pub fn table(&mut self, key: Key) -> Result<Option<(&'a DeTable<'a>, At)>, ()> {
        let Some(value) = self.table.get(key.name) else {
            return Ok(None);
        };
        let table = value
            .get_ref()
            .as_table()
            .map(|table| (table, place(value)));
        if table.is_none() {
            let message = wrong_kind(key, value.get_ref()).0;
            self.faults.add(place(value), message);
        }
        table.map(Some).ok_or(())
    }

    /// The tables of a `[[section]]`, and whether all of it was that.
    pub fn sections(&mut self, key: Key) -> (Vec<(&'a DeTable<'a>, At)>, bool) {
        let Some(value) = self.table.get(key.name) else {
            return (Vec::new(), true);
        };
        let Some(elements) = value.get_ref().as_array() else {
            self.faults
                .add(place(value), wrong_section(key, value.get_ref()));
            return (Vec::new(), false);
        };
        let mut tables = Vec::new();
        for element in elements.iter() {
            match element.get_ref().as_table() {
                Some(table) => tables.push((table, place(element))),
                None => self
                    .faults
                    .add(place(element), wrong_section(key, element.get_ref())),
            }
        }
        let all = tables.len() == elements.len();
        (tables, all)
    }

    /// Where faults go, for what is read beside this table.
    pub fn faults(&mut self) -> &mut Faults<'t> {
        self.faults
    }
}

/// Where a value starts.
fn place(value: &Spanned<DeValue<'_>>) -> At {
    At(Some(value.span().start))
}

/// What a value is, with its article.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn wrong_kind(key: Key, value: &DeValue<'_>) -> ValueError {
    let Key { name, example, .. } = key;
    let is = kind(value);
    ValueError(match value {
        DeValue::Array(_) if key.is_header => {
            format!("`{name}` is {is}; write {example} once")
        }
        _ if key.is_header => format!("`{name}` is {is}; write {example} and its keys below"),
        _ => format!("`{name}` is {is}; write {name} = {example}"),
    })
}

fn wrong_element(key: Key, value: &DeValue<'_>) -> ValueError {
    let Key { name, example, .. } = key;
    ValueError(format!(
        "this element of `{name}` is {}; write {name} = {example}",
        kind(value)
    ))
}

fn wrong_section(key: Key, value: &DeValue<'_>) -> String {
    let Key { name, example, .. } = key;
    match value {
        DeValue::Table(_) => format!("`{name}` is one table; write {example} above each of them"),
        _ => format!(
            "`{name}` is {}; write {example} and its keys below",
            kind(value)
        ),
    }
}

fn unknown_key(key: &str, header: &str, meant: Option<&str>, keys: &[Key]) -> String {
    let allowed = keys
        .iter()
        .map(|known| known.name)
        .collect::<Vec<_>>()
        .join(", ");
    let key = shown(key);
    match meant {
        Some(meant) => {
            format!("unknown key {key} in {header}; did you mean `{meant}`? The keys are {allowed}")
        }
        None => format!("unknown key {key} in {header}; the keys are {allowed}"),
    }
}

/// The candidate that `name` was most likely meant to be, if any is near.
pub(super) fn nearest<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    const BYTES_MAX: usize = 64;
    if name.len() > BYTES_MAX {
        return None;
    }
    let characters = |text: &str| -> Vec<char> { text.to_lowercase().chars().collect() };
    let name = characters(name);
    let near = candidates.into_iter().filter_map(|candidate| {
        let other = characters(candidate);
        let longer = name.len().max(other.len());
        let edits = edits(&name, &other);
        (edits <= longer.div_ceil(3) && edits < longer).then_some((edits, candidate))
    });
    near.min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, delete, change or swap with the next to make one of the other.
/// (Optimal string alignment: Damerau–Levenshtein without edits inside a swap.)
fn edits(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, a_char) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, b_char) in b.iter().enumerate() {
            let change = last[j] + usize::from(a_char != b_char);
            let mut least = change.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a_char == b[j - 1] && a[i - 1] == *b_char {
                least = least.min(before_last[j - 1] + 1);
            }
            row.push(least);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found_over_slips_of_the_finger() {
        let keys = [
            "name",
            "tenant",
            "interface",
            "vlan",
            "macs",
            "addresses",
            "from_tenant",
        ];
        let cases = [
            ("nmae", Some("name")),
            ("mac", Some("macs")),
            ("adress", Some("addresses")),
            ("Interface", Some("interface")),
            ("from-tenant", Some("from_tenant")),
            ("", None),
            ("x", None),
            ("colour", None),
        ];
        for (written, meant) in cases {
            assert_eq!(nearest(written, keys), meant, "{written}");
        }
        assert_eq!(nearest(&"é".repeat(10_000), keys), None);
    }

    #[test]
    fn edits_count_a_swap_as_one() {
        let edits = |a: &str, b: &str| {
            super::edits(
                &a.chars().collect::<Vec<_>>(),
                &b.chars().collect::<Vec<_>>(),
            )
        };
        assert_eq!(edits("", ""), 0);
        assert_eq!(edits("abc", ""), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abcd", "abdc"), 1);
        assert_eq!(edits("ceiling", "celing"), 1);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
