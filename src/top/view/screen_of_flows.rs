//! The level of flows: as many rows as there is room for, and what is not on it.

use super::{bad, filtered, right, short};
use crate::top::{
    flows::{FlowRow, Flows},
    model::View,
};
use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    style::{Modifier, Style},
    text::Line,
    widgets::{Block, Cell, Row as TableRow, Table, TableState},
};

/// Draws them.
pub fn draw(frame: &mut Frame<'_>, view: &View, flows: &Flows, area: Rect) {
    let rows = view.flow_rows();
    let names = [
        "REMOTE",
        "PORT",
        "LOCAL",
        "PORT",
        "PROTO",
        "ZONE",
        "ENCRYPTION",
        "TLS",
    ];
    let names = names.map(|name| Cell::from(name.to_owned()));
    let numbers = ["FROM bit/s", "TO bit/s", "FLOWS"].map(|name| right(name.to_owned()));
    let header = TableRow::new(names.into_iter().chain(numbers))
        .style(Style::new().add_modifier(Modifier::BOLD));
    let widths = [
        Constraint::Min(18),
        Constraint::Length(5),
        Constraint::Min(15),
        Constraint::Length(5),
        Constraint::Length(6),
        Constraint::Length(12),
        Constraint::Min(12),
        Constraint::Length(6),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(7),
    ];
    let lines = rows.iter().map(|row| line(view, flows, row));
    let mut block = Block::bordered().title(title(view, flows, rows.len()));
    if let Some(error) = &flows.error {
        block = block.title_bottom(Line::styled(format!(" {error} "), bad()));
    }
    let table = Table::new(lines, widths)
        .header(header)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(block);
    let selected = view.selected.min(rows.len().saturating_sub(1));
    let mut state = TableState::new().with_selected(Some(selected));
    frame.render_stateful_widget(table, area, &mut state);
}

fn title(view: &View, flows: &Flows, rows: usize) -> String {
    let subject = &flows.subject;
    let of = match &subject.port {
        Some(port) => format!("port {port}"),
        None => view.tenant_name(subject.tenant),
    };
    let seen = flows.now.as_ref();
    let what = match seen.map(|seen| (seen.detail.as_str(), seen.look)) {
        None => "",
        Some(("full", _)) => "; this look is in the ledger",
        Some(("off", _)) => "; flow_detail of this tenant is off: none is shown",
        Some((_, 0)) => "; networks only, as no daemon says what may be seen",
        Some(_) => {
            "; networks only, as flow_detail of this tenant has it; this look is in the ledger"
        }
    };
    let more = match seen.map_or(0, |seen| seen.more) {
        0 => String::new(),
        more => format!(", {more} more are not shown"),
    };
    format!(
        " {rows} rows of flows of {of}{}{more}{what} ",
        filtered(view)
    )
}

fn line(view: &View, flows: &Flows, row: &FlowRow) -> TableRow<'static> {
    let of = &row.of;
    let rate = |side: usize| {
        let bits = row
            .since
            .and_then(|since| flows.bits_per_second(since[side]));
        right(bits.map_or("-".into(), short))
    };
    let number = |number: u16| match number {
        0 => String::new(),
        _ => number.to_string(),
    };
    let tls = match of.tls_version.as_str() {
        "0x0301" => "1.0",
        "0x0302" => "1.1",
        "0x0303" => "1.2",
        "0x0304" => "1.3",
        other => other,
    };
    TableRow::new([
        Cell::from(of.remote.clone()),
        Cell::from(number(of.remote_port)),
        Cell::from(of.local.clone()),
        Cell::from(number(of.local_port)),
        Cell::from(row.protocol()),
        Cell::from(view.zone_name(of.zone)),
        Cell::from(of.evidence.clone()),
        Cell::from(tls.to_owned()),
        rate(0),
        rate(1),
        right(row.flows.to_string()),
    ])
}
