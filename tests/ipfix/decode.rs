//! A reader of IPFIX that knows no template but those that it is told.

use anyhow::{Context as _, Result, ensure};

/// What is in a stream or a datagram, by its own templates.
#[derive(Debug, Default)]
pub struct Decoded {
    pub rows: u64,
    pub l2_bytes: u64,
    /// Observation domains.
    pub domains: Vec<u32>,
}

/// Refuses a length, a version or a sequence number that is wrong, and data without a template.
pub fn decode(bytes: &[u8]) -> Result<Decoded> {
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let mut decoded = Decoded::default();
    let mut templates: Vec<(u64, Vec<(u64, usize)>)> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        ensure!(number(&rest[..2]) == 10, "no message of IPFIX");
        let length = number(&rest[2..4]) as usize;
        let message = rest.get(..length).context("a message is cut off")?;
        ensure!(
            number(&message[8..12]) == decoded.rows,
            "the sequence number"
        );
        let domain = number(&message[12..16]) as u32;
        if !decoded.domains.contains(&domain) {
            decoded.domains.push(domain);
        }
        let mut sets = &message[16..];
        while !sets.is_empty() {
            let (id, length) = (number(&sets[..2]), number(&sets[2..4]) as usize);
            let body = &sets[4..length];
            if id == 2 {
                let mut at = body;
                while !at.is_empty() {
                    let (id, count) = (number(&at[..2]), number(&at[2..4]) as usize);
                    let fields = at[4..4 + 4 * count].chunks(4);
                    let fields =
                        fields.map(|field| (number(&field[..2]), number(&field[2..]) as usize));
                    templates.push((id, fields.collect()));
                    at = &at[4 + 4 * count..];
                }
            } else {
                let found = templates.iter().rev().find(|(known, _)| *known == id);
                let (_, fields) = found.with_context(|| format!("no template {id}"))?;
                let size: usize = fields.iter().map(|(_, bytes)| bytes).sum();
                for record in body.chunks_exact(size) {
                    let mut at = 0;
                    for (element, bytes) in fields {
                        if *element == 352 {
                            decoded.l2_bytes += number(&record[at..at + bytes]);
                        }
                        at += bytes;
                    }
                    decoded.rows += 1;
                }
            }
            sets = &sets[length..];
        }
        rest = &rest[length..];
    }
    Ok(decoded)
}
