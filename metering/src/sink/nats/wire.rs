//! What is in a message: a batch of one ledger's records, and what the store answers (`docs/METERING.md`, M-18.9,
//! M-18.10).
//!
//! A batch is a line of JSON and then, for each record, the length of its canonical bytes in two bytes, big endian, and
//! these. The leaf of a record is not sent: it is the hash of what is.

use crate::{
    note::hex,
    record::{ENCODED_BYTES_MAX, Record, leaf_hash},
    sink::{Batch, Item, Mark, text::unhex_exact, windows::decimal},
};
use serde::{Deserialize, Serialize};

/// Of an answer.
const VERSION: u32 = 1;
/// Of a batch, with the windows' `*` among its records.
const VERSION_WITH_TOTALS: u32 = 2;
/// Longest first line, bytes: a head has a few hundred.
const LINE_MOST: usize = 16 << 10;

/// A mark as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct At {
    #[serde(with = "decimal")]
    seq: u64,
    leaf: String,
}

impl At {
    fn of(mark: &Mark) -> Self {
        Self {
            seq: mark.next,
            leaf: hex(&mark.leaf),
        }
    }

    fn mark(&self) -> Option<Mark> {
        Some(Mark {
            next: self.seq,
            leaf: unhex_exact(&self.leaf)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    version: u32,
    host: String,
    ledger_id: String,
    from: At,
    to: At,
    records: u32,
    /// Which question of the store this is in answer to; 0: none.
    #[serde(with = "decimal")]
    answers: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<String>,
}

impl Line {
    /// Are windows' `*` among its records?
    fn has_totals(&self) -> Result<bool, String> {
        match self.version {
            VERSION => Ok(false),
            VERSION_WITH_TOTALS => Ok(true),
            version => Err(format!("it has version {version}")),
        }
    }
}

/// A batch as a message has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub batch: Batch,
    /// Which question of the store this is in answer to; 0: none.
    pub answers: u64,
}

impl Sent {
    pub fn encode(batch: &Batch, answers: u64) -> Result<Vec<u8>, String> {
        let totals = batch.totals.as_deref().unwrap_or_default();
        let mut records: Vec<&Item> = batch.items.iter().chain(totals).collect();
        records.sort_by_key(|item| item.seq);
        let line = Line {
            version: match batch.totals {
                None => VERSION,
                Some(_) => VERSION_WITH_TOTALS,
            },
            host: batch.host.clone(),
            ledger_id: hex(&batch.ledger_id),
            from: At::of(&batch.from),
            to: At::of(&batch.to),
            records: u32::try_from(records.len()).map_err(|error| error.to_string())?,
            answers,
            head: batch.head.clone(),
        };
        let mut bytes = serde_json::to_vec(&line).map_err(|error| error.to_string())?;
        bytes.push(b'\n');
        for item in records {
            let length = u16::try_from(item.canonical.len()).map_err(|error| error.to_string())?;
            bytes.extend(length.to_be_bytes());
            bytes.extend(&item.canonical);
        }
        Ok(bytes)
    }

    /// Reads a message. What it says of itself must hold: records are of the ledger, in order, between its marks, and the
    /// last one's leaf is the mark's where it is the last.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let end = bytes.iter().take(LINE_MOST).position(|byte| *byte == b'\n');
        let end = end.ok_or("it has no first line")?;
        let line: Line =
            serde_json::from_slice(&bytes[..end]).map_err(|error| error.to_string())?;
        let has_totals = line.has_totals()?;
        let ledger_id = unhex_exact(&line.ledger_id).ok_or("its ledger's id is none")?;
        let from = line.from.mark().ok_or("a leaf is none")?;
        let to = line.to.mark().ok_or("a leaf is none")?;
        if to.next <= from.next {
            return Err(format!("it goes from {} to {}", from.next, to.next));
        }
        let (mut items, mut totals, mut rest) = (Vec::new(), Vec::new(), &bytes[end + 1..]);
        let mut next = from.next;
        while !rest.is_empty() {
            let item = item(&mut rest, &ledger_id)?;
            if item.seq < next || item.seq >= to.next {
                return Err(format!("record {} has not its place", item.seq));
            }
            if item.seq + 1 == to.next && item.leaf != to.leaf {
                return Err(format!("record {} is not its last leaf's", item.seq));
            }
            next = item.seq + 1;
            if !item.is_total() {
                items.push(item);
            } else if has_totals {
                totals.push(item);
            } else {
                return Err(format!(
                    "record {} is a total, which version 1 has not",
                    item.seq
                ));
            }
        }
        let records = items.len() + totals.len();
        if records != line.records as usize {
            return Err(format!(
                "it has {records} records and speaks of {}",
                line.records
            ));
        }
        Ok(Self {
            batch: Batch {
                ledger_id,
                host: line.host,
                from,
                to,
                items,
                totals: has_totals.then_some(totals),
                head: line.head,
            },
            answers: line.answers,
        })
    }

    /// Its marks alone: where the ledger is in the stream.
    pub fn decode_line(bytes: &[u8]) -> Result<(Mark, u64), String> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let line: Line = serde_json::from_slice(&bytes[..end.unwrap_or(bytes.len())])
            .map_err(|error| error.to_string())?;
        line.has_totals()?;
        let to = line.to.mark().ok_or("a leaf is none")?;
        Ok((to, line.answers))
    }
}

fn item(rest: &mut &[u8], ledger_id: &[u8; 16]) -> Result<Item, String> {
    let cut = || "it ends within a record".to_owned();
    let (length, after) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length > ENCODED_BYTES_MAX {
        return Err(format!("a record has {length} bytes"));
    }
    let (canonical, after) = after.split_at_checked(length).ok_or_else(cut)?;
    *rest = after;
    let record = Record::decode(canonical).map_err(|error| format!("a record: {error}"))?;
    if record.ledger_id != *ledger_id {
        return Err(format!("record {} is of another ledger", record.seq));
    }
    Ok(Item {
        seq: record.seq,
        leaf: leaf_hash(canonical),
        record,
        canonical: canonical.to_owned(),
    })
}

/// What the store says of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// What it has: durable.
    pub mark: Mark,
    /// It asks for everything from its mark on: the number of this question. 0: it does not.
    pub asks: u64,
    /// What has a name that is taken.
    pub fork: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerLine {
    version: u32,
    at: At,
    #[serde(with = "decimal")]
    asks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fork: Option<String>,
}

impl Answer {
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let line = AnswerLine {
            version: VERSION,
            at: At::of(&self.mark),
            asks: self.asks,
            fork: self.fork.clone(),
        };
        serde_json::to_vec(&line).map_err(|error| error.to_string())
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let line: AnswerLine = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if line.version != VERSION {
            return Err(format!("it has version {}", line.version));
        }
        Ok(Self {
            mark: line.at.mark().ok_or("a leaf is none")?,
            asks: line.asks,
            fork: line.fork,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::testing::Story;

    #[test]
    fn a_batch_comes_back_as_it_was_and_has_one_form() {
        let story = Story::new(9, 40);
        for (from, past) in [(0, 1), (0, 40), (2, 3), (7, 29), (38, 40)] {
            let mut batch = story.batch(from, past);
            batch.head = (from == 7).then(|| "origin\n40\nroot\n\n— \"key\" x\n".into());
            let bytes = Sent::encode(&batch, past).expect("it has a form");
            let line = bytes.iter().position(|byte| *byte == b'\n').unwrap();
            let text = std::str::from_utf8(&bytes[..line]).expect("text");
            let id = "09".repeat(16);
            let (leaf, to) = (hex(&batch.from.leaf), hex(&batch.to.leaf));
            let head = if from == 7 {
                ",\"head\":\"origin\\n40\\nroot\\n\\n— \\\"key\\\" x\\n\""
            } else {
                ""
            };
            let records = past - from;
            assert_eq!(
                text,
                format!(
                    "{{\"version\":2,\"host\":\"host\",\"ledger_id\":\"{id}\",\"from\":{{\"seq\":\"{from}\",\"leaf\":\"{leaf}\"}},\
                     \"to\":{{\"seq\":\"{past}\",\"leaf\":\"{to}\"}},\"records\":{records},\"answers\":\"{past}\"{head}}}"
                )
            );
            let sent = Sent::decode(&bytes).expect("it is read");
            assert_eq!((&sent.batch, sent.answers), (&batch, past));
            assert_eq!(Sent::decode_line(&bytes), Ok((batch.to, past)));
        }
    }

    #[test]
    fn what_is_no_batch_is_refused_with_a_reason_and_panics_nowhere() {
        let story = Story::new(9, 40);
        let batch = story.batch(3, 30);
        let bytes = Sent::encode(&batch, 0).unwrap();
        let whole = Sent::decode(&bytes).unwrap();
        for length in 0..bytes.len() {
            assert!(Sent::decode(&bytes[..length]).is_err(), "{length}");
        }
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            // A head, the host's name and marks inside are the sender's to say; records are not.
            if let Ok(read) = Sent::decode(&changed) {
                assert_ne!(read, whole, "{place}");
            }
        }
        let with = |change: fn(&mut Batch)| {
            let mut batch = batch.clone();
            change(&mut batch);
            Sent::decode(&Sent::encode(&batch, 0).unwrap()).expect_err("it is wrong")
        };
        assert!(with(|b| b.ledger_id = [8; 16]).contains("of another ledger"));
        assert!(with(|b| b.items.push(b.items[0].clone())).contains("has not its place"));
        assert!(with(|b| b.from.next = 5).contains("record 3 has not its place"));
        // Without totals nothing is just before the end, and what follows is past it.
        let past = with(|b| (b.totals, b.to.next) = (None, 21));
        assert!(past.contains("record 21 has not its place"), "{past}");
        assert!(with(|b| b.to.next = 3).contains("it goes from 3 to 3"));
        assert!(with(|b| b.to.leaf = [1; 32]).contains("is not its last leaf's"));
    }

    /// What a host of an earlier octroi sends, and what no octroi does.
    #[test]
    fn a_batch_of_version_1_has_no_totals() {
        let mut batch = Story::new(9, 40).batch(3, 30);
        batch.totals = None;
        let bytes = Sent::encode(&batch, 0).unwrap();
        assert!(bytes.starts_with(b"{\"version\":1,"));
        assert_eq!(Sent::decode(&bytes).map(|sent| sent.batch), Ok(batch));
        let mut wrong = Sent::encode(&Story::new(9, 40).batch(3, 30), 0).unwrap();
        wrong[11] = b'1';
        let error = Sent::decode(&wrong).expect_err("a total in version 1");
        assert!(error.contains("record 5 is a total"), "{error}");
        wrong[11] = b'3';
        assert_eq!(Sent::decode(&wrong), Err("it has version 3".into()));
    }

    #[test]
    fn an_answer_comes_back_as_it_was() {
        for (asks, fork) in [(0, None), (7, None), (0, Some("a \"name\"".to_owned()))] {
            let answer = Answer {
                mark: Mark {
                    next: 5,
                    leaf: [3; 32],
                },
                asks,
                fork,
            };
            let bytes = answer.encode().unwrap();
            assert_eq!(Answer::decode(&bytes), Ok(answer));
        }
        let leaf = "03".repeat(32);
        let text = format!(
            "{{\"version\":1,\"at\":{{\"seq\":\"5\",\"leaf\":\"{leaf}\"}},\"asks\":\"0\"}}"
        );
        assert!(Answer::decode(text.as_bytes()).is_ok());
        for wrong in [
            text.replace("\"version\":1", "\"version\":2"),
            text.replace("\"5\"", "5"),
            text.replace("03", "0z"),
            format!("{text}x"),
            text.replace("\"asks\"", "\"more\":1,\"asks\""),
        ] {
            assert!(Answer::decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
