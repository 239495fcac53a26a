//! The page's second half: its tables, its lists, and how to check them.

use super::{LIST_MAX, Page, escape};
use crate::{
    note,
    statement::{Classified, Evidence, Line, Remark},
};
use std::fmt::Write as _;

impl Page<'_> {
    pub(super) fn class(&self, class: &str) -> String {
        let names = self.words.class_names.iter();
        let mut found = names.filter(|(code, _)| *code == class);
        found
            .next()
            .map_or_else(|| escape(class), |(_, name)| (*name).to_owned())
    }

    /// A table of lines by direction.
    pub(super) fn lines(
        &mut self,
        column: &'static str,
        lines: &[Line],
        name: impl Fn(&Self, &Line) -> String,
    ) {
        let words = self.words;
        let rows: Vec<Vec<String>> = lines
            .iter()
            .map(|line| {
                let names = vec![name(self, line), self.way(line.direction)];
                [names, self.amount(&line.amount)].concat()
            })
            .collect();
        let columns = [
            column,
            words.direction,
            words.bytes,
            words.decimal,
            words.packets,
            words.ip_bytes,
        ];
        self.table(&columns, &rows, false);
    }

    pub(super) fn zones(&mut self) {
        self.heading(self.words.by_zone);
        let statement = self.statement;
        self.lines(self.words.zone, &statement.zones, |page, line| {
            escape(&page.zone(line))
        });
    }

    pub(super) fn parts(&mut self) {
        let (words, statement) = (self.words, self.statement);
        self.heading(words.by_port);
        self.lines(words.port, &statement.ports, |_, line| escape(&line.of));
        if statement.classes.iter().any(|line| !line.of.is_empty()) {
            self.heading(words.classes);
            self.lines(words.class, &statement.classes, |page, line| {
                page.class(&line.of)
            });
        }
    }

    pub(super) fn drops(&mut self) {
        let (words, statement) = (self.words, self.statement);
        self.heading(words.drops);
        if statement.drops.is_empty() {
            let _ = write!(self.html, "<p>{}</p>", words.none);
        } else {
            let _ = write!(self.html, "<p class=\"note\">{}</p>", words.drops_note);
            let rows: Vec<Vec<String>> = statement
                .drops
                .iter()
                .map(|drops| {
                    vec![
                        escape(&drops.reason),
                        self.way(drops.direction),
                        format!("#{}", self.number(drops.packets)),
                        format!("#{}", self.number(drops.l2_bytes)),
                    ]
                })
                .collect();
            let columns = [words.reason, words.direction, words.packets, words.bytes];
            self.table(&columns, &rows, false);
        }
    }

    pub(super) fn evidence(&mut self) {
        let words = self.words;
        self.heading(words.evidence);
        let Evidence::Classes(classes) = &self.statement.evidence else {
            let _ = write!(self.html, "<p>{}</p>", words.evidence_none);
            return;
        };
        let _ = write!(self.html, "<p class=\"note\">{}</p>", words.evidence_note);
        let row = |one: &Classified| {
            let mut names = words.evidence_names.iter();
            let known = names.find(|(name, _)| *name == one.class);
            vec![
                escape(known.map_or(one.class.as_str(), |(_, shown)| shown)),
                self.way(one.direction),
                format!("#{}", self.number(one.packets)),
                format!("#{}", self.number(one.l2_bytes)),
            ]
        };
        let rows: Vec<_> = classes.iter().map(row).collect();
        let columns = [words.class, words.direction, words.packets, words.bytes];
        self.table(&columns, &rows, false);
    }

    pub(super) fn remarks(&mut self) {
        let (words, statement) = (self.words, self.statement);
        for (heading, note, remarks, reasons) in [
            (
                words.corrections,
                words.corrections_note,
                &statement.corrections,
                true,
            ),
            (words.spread, words.spread_note, &statement.spread, false),
        ] {
            if remarks.is_empty() {
                continue;
            }
            self.heading(heading);
            let _ = write!(self.html, "<p class=\"note\">{note}</p>");
            let row = |remark: &Remark| {
                let mut row = vec![
                    remark.seq.to_string(),
                    escape(&remark.port),
                    self.way(remark.direction),
                    format!("#{}", self.number(remark.l2_bytes)),
                ];
                if reasons {
                    row.push(match remark.reason.as_str() {
                        "" => words.late.to_owned(),
                        reason => escape(reason),
                    });
                }
                row
            };
            let rows: Vec<Vec<String>> = remarks.iter().take(LIST_MAX).map(row).collect();
            let mut columns = vec![words.record, words.port, words.direction, words.bytes];
            if reasons {
                columns.push(words.reason);
            }
            self.table(&columns, &rows, false);
            self.more(remarks.len());
        }
    }

    /// Says how many rows a list has beyond those that are shown.
    pub(super) fn more(&mut self, count: usize) {
        if count > LIST_MAX {
            let (words, rest) = (self.words, count - LIST_MAX);
            let _ = write!(self.html, "<p class=\"note\">{} {rest}.</p>", words.more);
        }
    }

    pub(super) fn missing(&mut self) {
        let (words, missing) = (self.words, &self.statement.missing);
        self.heading(words.missing);
        if missing.is_empty() {
            let _ = write!(self.html, "<p>{}</p>", words.missing_none);
            return;
        }
        let rows: Vec<Vec<String>> = missing
            .iter()
            .take(LIST_MAX)
            .map(|one| {
                let cells = [&one.host, &one.port, &one.from, &one.to, &one.why];
                cells.map(|cell| escape(cell)).to_vec()
            })
            .collect();
        let columns = [
            words.host,
            words.port,
            words.since,
            words.until,
            words.reason,
        ];
        self.table(&columns, &rows, false);
        self.more(missing.len());
    }

    pub(super) fn check(&mut self) {
        let (words, statement) = (self.words, self.statement);
        self.heading(words.check);
        let _ = write!(self.html, "<p>{}</p>", words.check_note);
        for ledger in &statement.ledgers {
            let head = match &ledger.head {
                Some(head) => format!("<pre><code>{}</code></pre>", escape(head.trim_end())),
                None => words.no_head.to_owned(),
            };
            let _ = write!(
                self.html,
                "<dl><dt>{}</dt><dd>{}</dd><dt>{}</dt><dd><code>{}</code></dd><dt>{}</dt><dd>{}</dd>\
                 <dt>{}</dt><dd><code>{}</code></dd><dt>{}</dt><dd>{head}</dd></dl>",
                words.host,
                escape(&ledger.host),
                words.ledger,
                escape(&ledger.ledger_id),
                words.records,
                self.number(ledger.records.into()),
                words.leaf,
                escape(&ledger.leaf),
                words.head
            );
        }
        let subject = &statement.subject;
        let asked = format!(
            "--tenant {} --month {} --timezone {}",
            subject.tenant,
            escape(&subject.month),
            escape(&subject.timezone)
        );
        let digest = note::hex(&statement.digest());
        let later = match statement.issue {
            Some(_) => "",
            None => words.check_later,
        };
        let _ = write!(
            self.html,
            "<p>{}</p><pre><code>octroi explain {asked}</code></pre>\
             <p>{}</p><pre><code>octroi usage {asked} --by direction,zone --p95</code></pre>\
             <p>{} <code>{digest}</code>. {later}</p>",
            words.check_explain, words.check_usage, words.check_digest
        );
    }
}
