//! Messages of RFC 7011 §3: a header, and sets of templates or of data.

use super::elements::{TEMPLATES, template, write};
use crate::{flow::Row, record::Record, sink::SinkError};
use std::time::{SystemTime, UNIX_EPOCH};

const VERSION: u16 = 10;
const HEADER_BYTES: usize = 16;
const SET_HEADER_BYTES: usize = 4;
/// The set of templates.
const TEMPLATE_SET: u16 = 2;
/// Datagrams after which templates are said again, within a window of many flows.
const TEMPLATES_EVERY: u32 = 64;

/// What is written to one collector.
pub(super) struct Exporter {
    domain: u32,
    bytes_max: usize,
    /// Data records that were sent, modulo 2^32.
    sequence: u32,
    /// The message that grows; empty: none does.
    message: Vec<u8>,
    /// Data records in it.
    records: u32,
    /// Its last set: template, and where it begins.
    set: Option<(u16, usize)>,
    /// Messages since the templates; `None`: they are to be said.
    since_templates: Option<u32>,
    says_again: bool,
}

impl Exporter {
    /// `sequence`: data records that were sent before.
    pub fn new(domain: u32, bytes_max: usize, sequence: u32) -> Self {
        Self {
            domain,
            bytes_max,
            sequence,
            message: Vec::with_capacity(bytes_max),
            records: 0,
            set: None,
            since_templates: None,
            says_again: false,
        }
    }

    /// Templates come with the next message, and every 64th after it.
    pub fn say_templates_again(&mut self) {
        self.since_templates = None;
        self.says_again = true;
    }

    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Adds a row, and sends the message that it has no room in.
    pub fn add(
        &mut self,
        record: &Record,
        row: &Row,
        mut send: impl FnMut(&[u8]) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let template = template(row);
        let mut bytes = Vec::with_capacity(160);
        write(record, row, &mut bytes);
        let is_same_set = self.set.is_some_and(|(id, _)| id == template.id);
        let more = bytes.len() + if is_same_set { 0 } else { SET_HEADER_BYTES };
        if !self.message.is_empty() && self.message.len() + more > self.bytes_max {
            self.finish(&mut send)?;
        }
        if self.message.is_empty() {
            self.begin();
        }
        if self.set.is_none_or(|(id, _)| id != template.id) {
            self.close_set();
            self.set = Some((template.id, self.message.len()));
            self.message.extend(template.id.to_be_bytes());
            self.message.extend([0; 2]);
        }
        self.message.extend(bytes);
        self.records += 1;
        Ok(())
    }

    /// Sends what is left.
    pub fn finish(
        &mut self,
        mut send: impl FnMut(&[u8]) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        if self.message.is_empty() {
            return Ok(());
        }
        self.close_set();
        self.set = None;
        let length = self.message.len() as u16;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.unwrap_or_default().as_secs() as u32;
        self.message[2..4].copy_from_slice(&length.to_be_bytes());
        self.message[4..8].copy_from_slice(&seconds.to_be_bytes());
        self.message[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        let sent = send(&self.message);
        self.sequence = self.sequence.wrapping_add(self.records);
        self.records = 0;
        self.message.clear();
        sent
    }

    fn begin(&mut self) {
        self.message.extend(VERSION.to_be_bytes());
        // Length, time and sequence number, which are known when it is sent.
        self.message.extend([0; 10]);
        self.message.extend(self.domain.to_be_bytes());
        debug_assert_eq!(self.message.len(), HEADER_BYTES);
        let is_due = match self.since_templates {
            None => true,
            Some(messages) => self.says_again && messages >= TEMPLATES_EVERY,
        };
        if is_due {
            self.set = Some((TEMPLATE_SET, self.message.len()));
            self.message.extend(TEMPLATE_SET.to_be_bytes());
            self.message.extend([0; 2]);
            for template in &TEMPLATES {
                self.message.extend(template.id.to_be_bytes());
                self.message
                    .extend((template.elements.len() as u16).to_be_bytes());
                for (element, bytes) in template.elements {
                    self.message.extend(element.to_be_bytes());
                    self.message.extend(bytes.to_be_bytes());
                }
            }
            self.since_templates = Some(0);
        }
        self.since_templates = self
            .since_templates
            .map(|messages| messages.saturating_add(1));
    }

    /// Writes the length of the set that is open.
    fn close_set(&mut self) {
        if let Some((_, at)) = self.set {
            let length = (self.message.len() - at) as u16;
            self.message[at + 2..at + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::Detail, record::Reading, window::Counts};

    fn row(number: u64, ethertype: u16, detail: Detail) -> Row {
        Row {
            detail,
            ethertype,
            protocol: 6,
            remote: [198; 16],
            local: [10; 16],
            port: 443,
            local_port: 50_000,
            flows: 1,
            vlan: 7,
            counts: Counts {
                packets: number,
                l2_bytes: u64::MAX - number,
                l3_bytes: 1 << 40,
            },
            first_ns: 1,
            last_ns: 3_000_000,
            ..Row::default()
        }
    }

    fn record() -> Record {
        Record {
            tenant: 17,
            incarnation: 5,
            window_start: 60_000_000_000,
            window_end: 120_000_000_000,
            reading: Some(Reading {
                cut_start_ns: 1_000_000,
                cut_end_ns: 2_000_000,
                utc_offset_ns: 70_000_000_000,
                ..Reading::default()
            }),
            ..Record::default()
        }
    }

    /// Messages of so many rows of all kinds.
    fn messages(bytes_max: usize, rows: u64, again: bool) -> Vec<Vec<u8>> {
        let mut exporter = Exporter::new(9, bytes_max, u32::MAX);
        if again {
            exporter.say_templates_again();
        }
        let mut sent = Vec::new();
        let mut send = |message: &[u8]| {
            sent.push(message.to_vec());
            Ok(())
        };
        for number in 0..rows {
            let ethertype = [0x0800, 0x86DD, 0x0806][(number % 3) as usize];
            let detail = [Detail::Full, Detail::Prefix][(number % 2) as usize];
            let row = row(number, ethertype, detail);
            exporter
                .add(&record(), &row, &mut send)
                .expect("it is sent");
        }
        exporter.finish(&mut send).expect("it is sent");
        sent
    }

    fn number(bytes: &[u8]) -> u64 {
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    #[test]
    fn a_full_row_is_these_bytes() {
        let mut exporter = Exporter::new(9, 1_232, 0);
        let mut sent = Vec::new();
        let row = row(3, 0x0800, Detail::Full);
        exporter.add(&record(), &row, |_| Ok(())).expect("room");
        exporter
            .finish(|message| {
                sent = message.to_vec();
                Ok(())
            })
            .expect("it is sent");
        assert_eq!(number(&sent[..2]), 10);
        assert_eq!(number(&sent[2..4]), sent.len() as u64);
        assert_eq!(number(&sent[12..16]), 9);
        let set = 16 + number(&sent[18..20]) as usize;
        assert_eq!(number(&sent[set..set + 2]), 256);
        let body = &sent[set + 4..];
        // Times are within the window: 70.001 and 70.002 s.
        let expected: Vec<u8> = [
            &70_001_u64.to_be_bytes()[..],
            &70_002_u64.to_be_bytes(),
            &(1_u64 << 40).to_be_bytes(),
            &3_u64.to_be_bytes(),
            &(u64::MAX - 3).to_be_bytes(),
            &0_u64.to_be_bytes(),
            &1_u64.to_be_bytes(),
            &17_u32.to_be_bytes(),
            &0_u32.to_be_bytes(),
            &5_u64.to_be_bytes(),
            &[0, 6, 0],
            &[10, 10, 10, 10, 198, 198, 198, 198],
            &50_000_u16.to_be_bytes(),
            &443_u16.to_be_bytes(),
            &7_u16.to_be_bytes(),
        ]
        .concat();
        assert_eq!(body, expected);
    }

    #[test]
    fn messages_have_room_their_lengths_are_true_and_every_record_is_counted() {
        for (bytes_max, again) in [(1_232, true), (1_232, false), (16_384, false)] {
            let sent = messages(bytes_max, 3_000, again);
            let mut sequence = u32::MAX;
            let (mut said, mut packets) = (0, 0);
            for message in &sent {
                assert!(message.len() <= bytes_max);
                assert_eq!(number(&message[2..4]), message.len() as u64);
                assert_eq!(number(&message[8..12]), u64::from(sequence));
                let mut at = 16;
                while at < message.len() {
                    let id = number(&message[at..at + 2]) as u16;
                    let length = number(&message[at + 2..at + 4]) as usize;
                    if id == TEMPLATE_SET {
                        said += 1;
                    } else {
                        let template = TEMPLATES.iter().find(|it| it.id == id).expect("one");
                        let sizes = template
                            .elements
                            .iter()
                            .map(|(_, bytes)| usize::from(*bytes));
                        let size: usize = sizes.sum();
                        assert_eq!((length - 4) % size, 0, "{id}");
                        let body = &message[at + 4..at + length];
                        for record in body.chunks(size) {
                            let ip = if matches!(id, 258 | 261) { 16 } else { 24 };
                            packets += number(&record[ip..ip + 8]);
                            sequence = sequence.wrapping_add(1);
                        }
                    }
                    at += length;
                }
                assert_eq!(at, message.len());
            }
            assert_eq!(packets, (0..3_000).sum::<u64>());
            let expected = if again { sent.len().div_ceil(64) } else { 1 };
            assert_eq!(said, expected, "{bytes_max}");
        }
    }
}
