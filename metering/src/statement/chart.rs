//! Charts as SVG in the page: a bar for each day, in parts by zone. Every part says its bytes, so that a
//! chart can be added up. Coordinates are integers, in hundredths of a unit.

use super::{
    Lang, Statement,
    html::escape,
    number::{gigabytes, whole},
};
use std::{collections::BTreeMap, fmt::Write as _};

/// Fills that are told apart in grey, too, from dark to light; and the ink on each.
const FILLS: [(&str, &str); 7] = [
    ("#1b3a5c", "#fff"),
    ("#b4481e", "#fff"),
    ("#2f7f72", "#fff"),
    ("#8c6bb1", "#fff"),
    ("#d9a03f", "#000"),
    ("#7fa8d1", "#000"),
    ("#c9c9c9", "#000"),
];

/// The fill of the zone at this place of the list.
pub fn fill(place: usize) -> &'static str {
    FILLS[place % FILLS.len()].0
}

const WIDTH: u128 = 72_000;
const LEFT: u128 = 8_400;
const TOP: u128 = 1_200;
const HEIGHT: u128 = 15_000;
const BOTTOM: u128 = 2_200;

/// Hundredths as a decimal number.
fn units(hundredths: u128) -> String {
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// The least of 1, 2, 5, 10, 20, … that is not below `value`.
fn nice(value: u128) -> u128 {
    let mut ten = 1_u128;
    loop {
        for factor in [1, 2, 5] {
            if let Some(step) = ten.checked_mul(factor)
                && step >= value
            {
                return step;
            }
        }
        match ten.checked_mul(10) {
            Some(more) => ten = more,
            None => return value,
        }
    }
}

/// Bytes of a direction by day and zone; corrections that take more away than there is are left to the table.
fn bars(statement: &Statement, direction: &str) -> Vec<BTreeMap<String, u128>> {
    let mut sums = vec![BTreeMap::<String, i128>::new(); statement.days.len()];
    for cell in &statement.cells {
        if cell.direction == direction
            && let Some(day) = sums.get_mut(cell.day)
        {
            let sum = day.entry(cell.zone.clone()).or_default();
            *sum = sum.saturating_add(cell.amount.l2_bytes.0);
        }
    }
    let positive = |day: BTreeMap<String, i128>| {
        let day = day.into_iter();
        day.filter_map(|(zone, sum)| u128::try_from(sum).ok().map(|sum| (zone, sum)))
            .collect()
    };
    sums.into_iter().map(positive).collect()
}

/// The chart of a direction. `places`: zones in the order of the legend; `label`: what it shows.
pub fn by_day(
    statement: &Statement,
    direction: &str,
    places: &[(String, String)],
    label: &str,
    lang: Lang,
) -> String {
    let days = bars(statement, direction);
    let highest = days.iter().map(|day| day.values().sum::<u128>()).max();
    let step = nice(highest.unwrap_or(0).div_ceil(4).max(1));
    let top = step * 4;
    let scale = |bytes: u128| bytes.saturating_mul(HEIGHT) / top;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\" data-direction=\"{direction}\">",
        WIDTH / 100,
        (TOP + HEIGHT + BOTTOM) / 100,
        escape(label)
    );
    for line in 0..=4 {
        let y = TOP + HEIGHT - scale(step * line);
        let bytes = i128::try_from(step * line).unwrap_or(i128::MAX);
        let _ = write!(
            svg,
            "<path class=\"rule\" d=\"M{} {y}H{}\"/><text class=\"tick\" x=\"{}\" y=\"{}\">{}</text>",
            units(LEFT),
            units(WIDTH),
            units(LEFT - 600),
            units(y + 350),
            gigabytes(bytes, lang),
            y = units(y),
        );
    }
    let count = days.len().max(1) as u128;
    let pitch = (WIDTH - LEFT) / count;
    let width = (pitch * 72 / 100).min(4_000);
    for (index, day) in days.iter().enumerate() {
        let x = LEFT + pitch * index as u128 + (pitch - width) / 2;
        let date = statement.days[index].date.as_str();
        let mut below = 0_u128;
        for (place, (zone, name)) in places.iter().enumerate() {
            let Some(bytes) = day.get(zone).filter(|bytes| **bytes != 0) else {
                continue;
            };
            // Differences of rounded sums, so that the parts fill the bar without a rest.
            let (low, high) = (scale(below), scale(below + bytes));
            below += bytes;
            let _ = write!(
                svg,
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\" data-day=\"{date}\" \
                 data-zone=\"{}\" data-bytes=\"{bytes}\"><title>{date}, {}: {}</title></rect>",
                units(x),
                units(TOP + HEIGHT - high),
                units(width),
                units(high - low),
                fill(place),
                escape(zone),
                escape(name),
                whole(i128::try_from(*bytes).unwrap_or(i128::MAX), lang),
            );
        }
        // Every day of a short month, else every fifth and the last.
        let number = date.rsplit('-').next().unwrap_or_default();
        if count <= 16 || index % 5 == 0 || index + 1 == days.len() && index % 5 > 1 {
            let _ = write!(
                svg,
                "<text class=\"day\" x=\"{}\" y=\"{}\">{}</text>",
                units(x + width / 2),
                units(TOP + HEIGHT + 1_500),
                escape(number)
            );
        }
    }
    svg.push_str("</svg>");
    svg
}
