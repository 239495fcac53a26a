//! Blocks of code in a page of the documentation.

use anyhow::{Result, bail};

/// A block between fences.
#[derive(Debug)]
pub struct Block {
    /// Line of the page on which it begins, from 1.
    #[allow(dead_code, reason = "the package names blocks by what they say")]
    pub line: usize,
    pub language: String,
    pub text: String,
}

/// All blocks of a page, in their order.
///
/// # Errors
/// A block that is never closed, or says no language: nobody would run it.
pub fn blocks(page: &str) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    let mut lines = (1..).zip(page.lines());
    while let Some((line, text)) = lines.next() {
        let Some(language) = text.strip_prefix("```") else {
            continue;
        };
        if language.is_empty() {
            bail!("line {line}: a block of no language");
        }
        let mut block = Vec::new();
        loop {
            match lines.next() {
                Some((_, "```")) => break,
                Some((_, text)) => block.push(text),
                None => bail!("line {line}: a block without an end"),
            }
        }
        found.push(Block {
            line,
            language: language.to_owned(),
            text: block.join("\n"),
        });
    }
    Ok(found)
}

/// The commands of a block of `sh`: a line each, or several where a quote goes over its end.
#[allow(dead_code, reason = "the tutorial and the package run whole blocks")]
pub fn commands(block: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in block.lines() {
        match found.last_mut().filter(|_| open) {
            Some(last) => {
                last.push('\n');
                last.push_str(line);
            }
            None => found.push(line.to_owned()),
        }
        open ^= line.matches('\'').count() % 2 == 1;
    }
    found
}
