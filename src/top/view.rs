//! The screen of `octroi top`: from what is known to cells.

mod screen_of_flows;

use super::model::{Level, Row, View};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Cell, Paragraph, Row as TableRow, Table, TableState},
};

const HELP: &str = "q quit  ↑↓ select  Enter ports, then flows  f flows  Esc back  t tenants  p all ports  s sort  r reverse  / filter  space pause";
/// Lines of the pane below the rows.
const BELOW: u16 = 8;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let head = head(view);
    let rows = view.rows();
    let [top, middle, below, last] = Layout::vertical([
        Constraint::Length(u16::try_from(head.len()).unwrap_or(u16::MAX)),
        Constraint::Min(3),
        Constraint::Length(BELOW),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(head), top);
    match &view.flows {
        Some(flows) => {
            let area = middle.union(below);
            screen_of_flows::draw(frame, view, flows, area);
        }
        None => {
            draw_rows(frame, view, &rows, middle);
            draw_below(frame, view, rows.get(view.selected), below);
        }
    }
    let last_line = if view.typing {
        format!("filter: {}_", view.filter)
    } else {
        HELP.into()
    };
    frame.render_widget(Paragraph::new(last_line).style(dim()), last);
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bad() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
}

fn good() -> Style {
    Style::new().fg(Color::Green)
}

/// What is true of the host: daemon, meter, sinks.
fn head(view: &View) -> Vec<Line<'static>> {
    let report = &view.report;
    let daemon = if report.daemon {
        Span::styled("daemon runs", good())
    } else {
        Span::styled("no daemon; the kernel goes on", bad())
    };
    let mut lines = vec![Line::from(vec![
        Span::styled("octroi top  ", Style::new().add_modifier(Modifier::BOLD)),
        daemon,
        Span::raw(format!(
            "; {}; revision {}, window {}; sorted by {}{}{}",
            report.mechanism,
            report.revision,
            report.window,
            view.sort.name(),
            if view.reverse { ", reversed" } else { "" },
            if view.paused { "; PAUSED" } else { "" },
        )),
    ])];
    match &report.meter {
        None if report.daemon => {
            lines.push("ledger: none; bytes are counted, and no record is kept".into())
        }
        None => {}
        Some(meter) => {
            let committed = meter.committed_window;
            let committed = committed.map_or("none yet".into(), |window| window.to_string());
            lines.push(Line::from(format!(
                "ledger: {} records, window {committed} committed, {} windows by this daemon",
                meter.records, meter.windows
            )));
            if let Some(error) = &meter.error {
                lines.push(Line::styled(format!("ledger: {error}"), bad()));
            }
            if let Some(last) = &meter.audit.last {
                let line = format!("UNMETERED: {} times; last: {last}", meter.audit.unmetered);
                lines.push(Line::styled(line, bad()));
            }
        }
    }
    for line in crate::quota::lines(report).lines() {
        lines.push(Line::styled(line.to_owned(), bad()));
    }
    for sink in &report.sinks {
        let at = &sink.progress;
        let lag = at.lag.map_or("unknown".into(), |lag| lag.to_string());
        let text = format!(
            "sink {}: lag {lag} records, {} delivered",
            sink.name, at.delivered
        );
        lines.push(match &at.error {
            None => Line::from(text),
            Some(error) => Line::styled(format!("{text}; {error}"), bad()),
        });
    }
    if let Some(error) = &view.error {
        lines.push(Line::styled(format!("not read again: {error}"), bad()));
    }
    lines
}

fn draw_rows(frame: &mut Frame<'_>, view: &View, rows: &[Row], area: Rect) {
    let (title, first) = match &view.level {
        Level::Tenants => ("tenants".to_owned(), ["TENANT", "PORTS", ""]),
        Level::Ports(None) | Level::Flows(_) => (
            "all ports".to_owned(),
            ["PORT", "TENANT", "INTERFACE, STATE"],
        ),
        Level::Ports(Some(tenant)) => (
            format!("ports of {}", view.tenant_name(*tenant)),
            ["PORT", "TENANT", "INTERFACE, STATE"],
        ),
    };
    let filter = filtered(view);
    let names = first.into_iter().map(|name| Cell::from(name.to_owned()));
    let numbers = [
        "FROM bit/s",
        "TO bit/s",
        "DROPS/s",
        "FROM bytes",
        "TO bytes",
        "DROPS",
    ];
    let numbers = numbers.map(|name| right(name.to_owned()));
    let header =
        TableRow::new(names.chain(numbers)).style(Style::new().add_modifier(Modifier::BOLD));
    let lines = rows.iter().map(|row| line(view, row));
    let widths = [
        Constraint::Min(12),
        Constraint::Length(12),
        Constraint::Length(if view.level == Level::Tenants { 0 } else { 24 }),
        Constraint::Length(11),
        Constraint::Length(11),
        Constraint::Length(9),
        Constraint::Length(20),
        Constraint::Length(20),
        Constraint::Length(14),
    ];
    let table = Table::new(lines, widths)
        .header(header)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(format!(" {} {title}{filter} ", rows.len())));
    let selected = view.selected.min(rows.len().saturating_sub(1));
    let mut state = TableState::new().with_selected(Some(selected));
    frame.render_stateful_widget(table, area, &mut state);
}

/// What the title says of the filter.
fn filtered(view: &View) -> String {
    match view.filter.as_str() {
        "" => String::new(),
        filter => format!(", with `{filter}`"),
    }
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

fn line(view: &View, row: &Row) -> TableRow<'static> {
    let [from, to] = row.since;
    let rate = |bytes: u64| {
        let bits = view.per_second(bytes.saturating_mul(8));
        right(bits.map_or("-".into(), short))
    };
    let dropped = view.per_second(from.dropped.saturating_add(to.dropped));
    let dropping = dropped.is_some_and(|dropped| dropped > 0);
    let dropped = right(dropped.map_or("-".into(), short));
    TableRow::new([
        Cell::from(row.name.clone()),
        Cell::from(row.of.clone()),
        Cell::from(row.on.clone()),
        rate(from.bytes),
        rate(to.bytes),
        if dropping {
            dropped.style(bad())
        } else {
            dropped
        },
        right(row.total[0].bytes.to_string()),
        right(row.total[1].bytes.to_string()),
        right(row.dropped().to_string()),
    ])
}

/// A number in at most five digits and a unit, cut off, never rounded up.
pub fn short(number: u64) -> String {
    let mut unit = (1_u64, "");
    for next in [
        (1_000, "k"),
        (1_000_000, "M"),
        (1_000_000_000, "G"),
        (1_000_000_000_000, "T"),
    ] {
        if number >= next.0 {
            unit = next;
        }
    }
    let (size, name) = unit;
    if size == 1 {
        return number.to_string();
    }
    // At most 18,446,744 T.
    format!("{}.{:02}{name}", number / size, number % size * 100 / size)
}

/// What the row that is looked at has lost, and where its bytes went.
fn draw_below(frame: &mut Frame<'_>, view: &View, row: Option<&Row>, area: Rect) {
    let Some(row) = row else {
        frame.render_widget(Block::bordered().title(" nothing to show "), area);
        return;
    };
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(area);
    let mut reasons: Vec<_> = row.reasons.iter().collect();
    reasons.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let room = usize::from(BELOW - 2);
    let drops = listed(reasons.len(), room, |place| {
        let (reason, packets) = reasons[place];
        format!("{packets:>14}  {reason}")
    });
    let title = format!(" drops of {}, packets ", row.name);
    frame.render_widget(
        Paragraph::new(drops).block(Block::bordered().title(title)),
        left,
    );
    let mut zones: Vec<_> = row.zones.iter().collect();
    zones.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let lines = listed(zones.len(), room, |place| {
        let (zone, bytes) = zones[place];
        format!("{bytes:>20}  {}", view.zone_name(*zone))
    });
    let title = format!(" zones of {}, bytes ", row.name);
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title(title)),
        right,
    );
}

/// As many lines as there is room for; the last one says how many more there are.
fn listed(count: usize, room: usize, line: impl Fn(usize) -> String) -> Vec<Line<'static>> {
    if count == 0 {
        return vec![Line::from("             none")];
    }
    let shown = if count > room { room - 1 } else { count };
    let mut lines: Vec<_> = (0..shown).map(|place| Line::from(line(place))).collect();
    if count > shown {
        lines.push(Line::from(format!(
            "{:>14}  and {} more",
            "",
            count - shown
        )));
    }
    lines
}
