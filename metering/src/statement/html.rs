//! The statement as one page that asks nothing of any other, and prints.

mod lists;

use super::{
    Amount, Digits, Lang, Line, Statement, chart,
    number::{NBSP, gigabytes, rate, whole},
    words::{Words, words},
};
use std::fmt::Write as _;

/// Lists are not longer on the page; the JSON has all of them.
const LIST_MAX: usize = 20;

const STYLE: &str = "\
:root{color-scheme:light}*{box-sizing:border-box}\
body{margin:0 auto;max-width:60rem;padding:2rem 1.5rem;background:#fff;color:#1a1a1a;\
font:15px/1.45 'Liberation Sans','Helvetica Neue',Arial,'DejaVu Sans',sans-serif}\
h1{font-size:1.6rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2rem 0 .5rem;border-bottom:1px solid #1a1a1a}\
p{margin:.3rem 0}.note{color:#444}\
.banner{border:2px solid #8a1c1c;color:#8a1c1c;padding:.5rem .8rem;margin:1rem 0}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:1rem 0}dt{color:#444}dd{margin:0}\
table{border-collapse:collapse;width:100%;margin:.4rem 0}\
th,td{padding:.22rem .5rem;text-align:left;vertical-align:top;border-bottom:1px solid #d5d5d5}\
thead th{border-bottom:1px solid #1a1a1a;font-weight:600}\
tbody th{font-weight:400}tr.sum th,tr.sum td{border-top:1px solid #1a1a1a;font-weight:600}\
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
figure{margin:.8rem 0}figcaption{margin:.2rem 0;font-weight:600}svg{display:block;width:100%;height:auto}\
svg text{font-size:10px;fill:#1a1a1a}svg .tick{text-anchor:end}svg .day{text-anchor:middle}\
svg .rule{stroke:#d5d5d5;stroke-width:.6;fill:none}\
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;list-style:none;padding:0;margin:.3rem 0}\
.legend span{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border:1px solid #1a1a1a}\
code{font:13px/1.4 'Liberation Mono','DejaVu Sans Mono',monospace;overflow-wrap:anywhere}\
pre{margin:.3rem 0;padding:.5rem;background:#f4f4f4;white-space:pre-wrap}\
footer{margin-top:2rem;color:#444;font-size:.85rem}\
@media screen and (prefers-color-scheme:dark){:root{color-scheme:dark}\
body{background:#15181c;color:#e6e6e6}h2,thead th,tr.sum th,tr.sum td,.legend span{border-color:#e6e6e6}\
.note,dt,footer{color:#b4b4b4}.banner{border-color:#ff9a8a;color:#ff9a8a}th,td{border-bottom-color:#3a3f46}\
pre{background:#22262c}svg text{fill:#e6e6e6}svg .rule{stroke:#3a3f46}\
svg rect{stroke:#e6e6e6;stroke-width:.4}}\
@page{size:A4;margin:16mm 14mm}\
@media print{body{padding:0;max-width:none;font-size:10pt}h2{break-after:avoid}\
figure,tr,dl,pre,.banner{break-inside:avoid}thead{display:table-header-group}\
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}";

/// Text as HTML shows it, in an element or an attribute.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// The page as it grows.
struct Page<'a> {
    html: String,
    statement: &'a Statement,
    words: &'static Words,
    lang: Lang,
}

/// The statement as a page.
#[must_use]
pub fn to_html(statement: &Statement, lang: Lang) -> String {
    let mut page = Page {
        html: String::new(),
        statement,
        words: words(lang),
        lang,
    };
    page.head();
    page.summary();
    page.percentiles();
    page.days();
    page.zones();
    page.parts();
    page.drops();
    page.evidence();
    page.remarks();
    page.missing();
    page.check();
    let made = page.words.made;
    page.put(&format!("<footer>{made}</footer></body></html>\n"));
    page.html
}

impl Page<'_> {
    fn put(&mut self, html: &str) {
        self.html.push_str(html);
    }

    fn number(&self, value: Digits) -> String {
        whole(value.0, self.lang)
    }

    fn heading(&mut self, text: &str) {
        let _ = write!(self.html, "<h2>{text}</h2>");
    }

    /// A table; a cell that begins with `#` is a number, the first of a row names it.
    fn table(&mut self, columns: &[&str], rows: &[Vec<String>], has_sum: bool) {
        self.put("<table><thead><tr>");
        let numeric: Vec<bool> = (0..columns.len())
            .map(|index| {
                rows.iter()
                    .any(|row| row.get(index).is_some_and(|cell| cell.starts_with('#')))
            })
            .collect();
        for (name, numeric) in columns.iter().zip(&numeric) {
            let class = if *numeric { " class=\"n\"" } else { "" };
            let _ = write!(self.html, "<th scope=\"col\"{class}>{name}</th>");
        }
        self.put("</tr></thead><tbody>");
        for (place, row) in rows.iter().enumerate() {
            let is_sum = has_sum && place + 1 == rows.len();
            self.put(if is_sum { "<tr class=\"sum\">" } else { "<tr>" });
            for (index, cell) in row.iter().enumerate() {
                let html = match (index, cell.strip_prefix('#')) {
                    (0, _) => format!("<th scope=\"row\">{cell}</th>"),
                    (_, Some(number)) => format!("<td class=\"n\">{number}</td>"),
                    (_, None) => format!("<td>{cell}</td>"),
                };
                self.put(&html);
            }
            self.put("</tr>");
        }
        self.put("</tbody></table>");
    }

    fn head(&mut self) {
        let (words, statement) = (self.words, self.statement);
        let subject = &statement.subject;
        let who = if subject.tenant_name.is_empty() {
            subject.tenant.to_string()
        } else {
            format!("{} ({})", escape(&subject.tenant_name), subject.tenant)
        };
        let _ = write!(
            self.html,
            "<!doctype html><html lang=\"{}\"><head><meta charset=\"utf-8\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <title>{} {}, {who}</title><style>{STYLE}</style></head><body><h1>{}</h1>",
            words.code,
            words.title,
            escape(&subject.month),
            words.title
        );
        match &statement.issue {
            None => {
                let _ = write!(
                    self.html,
                    "<p class=\"banner\"><strong>{}</strong> {}</p>",
                    words.provisional, words.provisional_why
                );
            }
            Some(issue) => {
                let replaces = if issue.version > 1 {
                    words.replaces
                } else {
                    ""
                };
                let _ = write!(
                    self.html,
                    "<p><strong>{}{NBSP}{}, {}{NBSP}{}</strong>. {}{NBSP}{}. {replaces}</p>",
                    words.number,
                    issue.number,
                    words.version,
                    issue.version,
                    words.issued,
                    escape(&issue.issued)
                );
            }
        }
        let hosts: Vec<String> = statement
            .ledgers
            .iter()
            .map(|of| escape(&of.host))
            .collect();
        let _ = write!(
            self.html,
            "<dl><dt>{}</dt><dd>{who}</dd><dt>{}</dt><dd>{}</dd><dt>{}</dt><dd>{} – {}<br>{} {}</dd>\
             <dt>{}</dt><dd>{}</dd></dl>",
            words.tenant,
            words.month,
            escape(&subject.month),
            words.period,
            escape(&subject.from),
            escape(&subject.to),
            words.clock,
            escape(&subject.timezone),
            words.host,
            hosts.join(", ")
        );
    }

    fn way(&self, direction: &str) -> String {
        let words = self.words;
        (if direction == "from" {
            words.from
        } else {
            words.to
        })
        .to_owned()
    }

    fn amount(&self, amount: &Amount) -> Vec<String> {
        vec![
            format!("#{}", self.number(amount.l2_bytes)),
            format!("#{}", gigabytes(amount.l2_bytes.0, self.lang)),
            format!("#{}", self.number(amount.packets)),
            format!("#{}", self.number(amount.l3_bytes)),
        ]
    }

    fn summary(&mut self) {
        let words = self.words;
        self.heading(words.summary);
        let mut rows: Vec<Vec<String>> = self
            .statement
            .directions
            .iter()
            .map(|line| [vec![self.way(line.direction)], self.amount(&line.amount)].concat())
            .collect();
        let total = self.amount(&self.statement.total);
        rows.push([vec![words.both.to_owned()], total].concat());
        let columns = [
            words.direction,
            words.bytes,
            words.decimal,
            words.packets,
            words.ip_bytes,
        ];
        self.table(&columns, &rows, true);
    }

    fn percentiles(&mut self) {
        let (words, lang) = (self.words, self.lang);
        let found = &self.statement.percentiles;
        self.heading(words.percentile);
        let names = [
            words.p95_from,
            words.p95_to,
            words.p95_max,
            words.p95_of_max,
        ];
        let mut rows = Vec::new();
        for (place, name) in names.into_iter().enumerate() {
            let none = || words.none.to_owned();
            let bits = found.bits_per_second[place].map_or_else(none, |bits| {
                format!("#{}", rate(u64::try_from(bits.0).unwrap_or(u64::MAX), lang))
            });
            let bytes = found.bytes[place];
            let bytes = bytes.map_or_else(none, |bytes| format!("#{}", self.number(bytes)));
            rows.push(vec![name.to_owned(), bits, bytes]);
        }
        let columns = [words.convention, words.rate, words.bytes_in_slot];
        self.table(&columns, &rows, false);
        let [from, to, either] = found.left_out;
        let colon = colon(lang);
        let _ = write!(
            self.html,
            "<p class=\"note\">{}{colon} {}; {}{colon} {from}, {to}, {either}.</p>",
            words.slots,
            self.number(found.slots.into()),
            words.left_out
        );
        if !found.in_no_slot.is_empty() {
            let records: Vec<String> = found.in_no_slot.iter().map(u64::to_string).collect();
            let records = cut(&records, words).join(", ");
            let text = words.in_no_slot;
            let _ = write!(self.html, "<p class=\"note\">{text}{colon} {records}.</p>");
        }
    }

    /// Zones in the order of the legend, and what they are called.
    fn zone_names(&self) -> Vec<(String, String)> {
        let mut zones: Vec<(String, String)> = Vec::new();
        for line in &self.statement.zones {
            if !zones.iter().any(|(zone, _)| *zone == line.of) {
                zones.push((line.of.clone(), self.zone(line)));
            }
        }
        zones
    }

    fn zone(&self, line: &Line) -> String {
        match (line.of.as_str(), line.name.as_str()) {
            ("-", _) => self.words.no_zone.to_owned(),
            (number, "") => number.to_owned(),
            (number, name) => format!("{name} ({number})"),
        }
    }

    fn days(&mut self) {
        let (words, statement, lang) = (self.words, self.statement, self.lang);
        self.heading(words.by_day);
        let zones = self.zone_names();
        let _ = write!(self.html, "<p class=\"note\">{}</p>", words.by_day_note);
        self.put("<ul class=\"legend\" aria-hidden=\"true\">");
        for (place, (_, name)) in zones.iter().enumerate() {
            let fill = chart::fill(place);
            let name = escape(name);
            let _ = write!(
                self.html,
                "<li><span style=\"background:{fill}\"></span>{name}</li>"
            );
        }
        self.put("</ul>");
        for direction in ["from", "to"] {
            let name = self.way(direction);
            let chart = chart::by_day(statement, direction, &zones, &name, lang);
            let _ = write!(
                self.html,
                "<figure><figcaption>{name}</figcaption>{chart}</figure>"
            );
        }
        let mut sums = vec![[0_i128; 2]; statement.days.len()];
        for cell in &statement.cells {
            if let Some(day) = sums.get_mut(cell.day) {
                let sum = &mut day[usize::from(cell.direction != "from")];
                *sum = sum.saturating_add(cell.amount.l2_bytes.0);
            }
        }
        let has_classes = statement
            .days
            .iter()
            .any(|day| !day.charge_class.is_empty());
        let mut columns = vec![words.day, words.hours, words.from, words.to, words.both];
        if has_classes {
            columns.push(words.class);
        }
        let rows: Vec<Vec<String>> = statement
            .days
            .iter()
            .zip(sums)
            .map(|(day, [from, to])| {
                let number = |value: i128| format!("#{}", whole(value, lang));
                let mut row = vec![
                    escape(&day.date),
                    number(day.hours.into()),
                    number(from),
                    number(to),
                    number(from.saturating_add(to)),
                ];
                if has_classes {
                    row.push(self.class(&day.charge_class));
                }
                row
            })
            .collect();
        self.table(&columns, &rows, false);
    }
}

/// In French a space that does not break stands before a colon.
fn colon(lang: Lang) -> &'static str {
    match lang {
        Lang::En => ":",
        Lang::Fr => "\u{a0}:",
    }
}

/// The first of a list, and how many more there are.
fn cut(list: &[String], words: &Words) -> Vec<String> {
    let mut shown: Vec<String> = list.iter().take(LIST_MAX).cloned().collect();
    if list.len() > LIST_MAX {
        shown.push(format!("{} {}", words.more, list.len() - LIST_MAX));
    }
    shown
}
