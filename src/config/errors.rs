//! What is wrong with a configuration, and where.
//!
//! Every fault of a file is collected in a [`Faults`] by its byte offset, and becomes a line
//! `FILE:LINE:COL: what is wrong; what to write instead` at the end. Lines and columns count from
//! 1, columns in characters.

use std::fmt;

/// Faults that are shown; the rest is counted.
const FAULTS_SHOWN_MAX: usize = 100;

/// Everything that is wrong with a configuration; at least one error, in file order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Errors(pub Vec<ConfigError>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Where; `None` for what was not read from a text.
    pub place: Option<Place>,
    /// What is wrong, and after a semicolon what to write instead; one line.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// A place in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the file, as the caller gave it.
    pub file: String,
    /// Line and column, from 1; `None`: the file as a whole.
    pub line_column: Option<(usize, usize)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        match self.line_column {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

impl Errors {
    /// One error about the file as a whole.
    pub(super) fn of_file(file: &str, message: String) -> Self {
        let place = Some(Place {
            file: file.to_string(),
            line_column: None,
        });
        Self(vec![ConfigError { place, message }])
    }

    /// One error about something that was not read from a text.
    pub(crate) fn without_place(message: String) -> Self {
        Self(vec![ConfigError {
            place: None,
            message,
        }])
    }
}

/// Byte offset of something in the text; `None` if it was not read from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At(pub Option<usize>);

impl At {
    /// For values that come from no text.
    pub const NOWHERE: At = At(None);
}

/// A value and where it was read.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub value: T,
    pub at: At,
}

/// Collects faults while a text is read and checked.
pub(super) struct Faults<'t> {
    text: Text<'t>,
    found: Vec<(At, String)>,
    not_shown: usize,
}

impl<'t> Faults<'t> {
    /// None yet; `file` is the name for messages.
    pub fn new(file: &'t str, text: &'t str) -> Self {
        Self {
            text: Text::new(file, text),
            found: Vec::new(),
            not_shown: 0,
        }
    }

    /// Notes that `message` is wrong at `at`.
    pub fn add(&mut self, at: At, message: String) {
        if self.is_full() {
            self.not_shown += 1;
        } else {
            self.found.push((at, message));
        }
    }

    /// Whether nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether further faults are only counted, so that a costly hint would be for nobody.
    pub fn is_full(&self) -> bool {
        self.found.len() >= FAULTS_SHOWN_MAX
    }

    /// ` (line 12)`, or nothing for what was not read from a text or will not be shown.
    pub fn line_note(&self, at: At) -> String {
        match at.0 {
            Some(offset) if !self.is_full() => {
                format!(" (line {})", self.text.line_column(offset).0)
            }
            _ => String::new(),
        }
    }

    /// The errors in file order. Never empty, also when nothing was found.
    pub fn into_errors(mut self) -> Errors {
        self.found.sort_by_key(|(at, _)| at.0);
        let mut errors: Vec<ConfigError> = Vec::with_capacity(self.found.len() + 1);
        for (at, message) in self.found.drain(..) {
            let place = at.0.map(|offset| Place {
                file: self.text.file.to_string(),
                line_column: Some(self.text.line_column(offset)),
            });
            errors.push(ConfigError { place, message });
        }
        if self.not_shown > 0 {
            let message = format!("{} more errors; correct these first", self.not_shown);
            errors.push(ConfigError {
                place: None,
                message,
            });
        }
        if errors.is_empty() {
            let message = "the configuration was refused for no reason; report this".to_string();
            errors.push(ConfigError {
                place: None,
                message,
            });
        }
        Errors(errors)
    }
}

/// A text with the offsets of its lines.
struct Text<'t> {
    file: &'t str,
    text: &'t str,
    line_starts: Vec<usize>,
}

impl<'t> Text<'t> {
    fn new(file: &'t str, text: &'t str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0)
            .chain(newlines.map(|(at, _)| at + 1))
            .collect();
        Self {
            file,
            text,
            line_starts,
        }
    }

    /// Line and column, from 1, of a byte offset; of the end for one beyond it.
    fn line_column(&self, offset: usize) -> (usize, usize) {
        let line = self
            .line_starts
            .partition_point(|start| *start <= offset)
            .max(1);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let before = self
            .text
            .as_bytes()
            .get(start..offset.min(self.text.len()))
            .unwrap_or(&[]);
        // Each character has one byte that does not continue another.
        let starts_character = |byte: &&u8| (**byte & 0xc0) != 0x80;
        let byte_order_mark = usize::from(start == 0 && self.text.starts_with('\u{feff}'));
        let characters = before.iter().filter(starts_character).count();
        (line, characters.saturating_sub(byte_order_mark) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        let text = Text::new("f", "ab\nü€x\n\nend");
        let expected = [
            (0, (1, 1)),
            (2, (1, 3)),
            (3, (2, 1)),
            (5, (2, 2)),
            (8, (2, 3)),
        ];
        for (offset, place) in expected {
            assert_eq!(text.line_column(offset), place, "offset {offset}");
        }
        assert_eq!(text.line_column(10), (3, 1));
        assert_eq!(text.line_column(14), (4, 4));
        assert_eq!(text.line_column(1_000), (4, 4));
        assert_eq!(Text::new("f", "").line_column(0), (1, 1));
        assert_eq!(Text::new("f", "\u{feff}ab").line_column(4), (1, 2));
    }

    #[test]
    fn errors_come_in_file_order_and_the_hundred_and_first_is_counted() {
        let text = "x\n".repeat(200);
        let mut faults = Faults::new("f.toml", &text);
        for line in (0..150).rev() {
            faults.add(At(Some(line * 2)), "wrong; write y".to_string());
        }
        let errors = faults.into_errors();
        assert_eq!(errors.0.len(), 101);
        assert_eq!(errors.0[0].to_string(), "f.toml:51:1: wrong; write y");
        assert_eq!(
            errors.0[100].to_string(),
            "50 more errors; correct these first"
        );
    }

    #[test]
    fn errors_are_never_empty() {
        assert_eq!(Faults::new("f", "").into_errors().0.len(), 1);
    }
}
