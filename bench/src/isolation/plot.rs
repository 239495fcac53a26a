//! Pictures of the stored results: horizontal bars, one group for each scenario, one bar for each system.
//!
//! SVG with nothing outside of it, in the reader's own colours. Each bar has its figure beside it, so that nobody has to
//! measure a picture.

use super::{
    results::{Cells, Metric, find},
    scenarios::Scenario,
    systems::System,
};
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 150.0;
const LONGEST: f64 = 560.0;
const BAR: f64 = 15.0;
const STEP: f64 = 20.0;
const HEAD: f64 = 44.0;

/// Bars below a heading: whose, and how long.
struct Group {
    heading: String,
    bars: Vec<(&'static str, f64)>,
}

/// How a value becomes a length.
#[derive(Clone, Copy)]
enum Scale {
    Linear,
    /// Decades, from the one below the least.
    Decades,
}

/// The pictures of each series of kernels: those of the newest have plain names, the others' end with their series.
pub fn by_series(series: &[(String, Cells)]) -> Vec<(String, String)> {
    let mut pictures = Vec::new();
    for (at, (series, cells)) in series.iter().enumerate() {
        for (name, picture) in all(cells) {
            let stem = name.trim_end_matches(".svg");
            let name = if at == 0 {
                name.to_owned()
            } else {
                format!("{stem}-{series}.svg")
            };
            pictures.push((name, picture));
        }
    }
    pictures
}

/// Every picture by its name; one that would be empty is left out.
pub fn all(cells: &Cells) -> Vec<(&'static str, String)> {
    let mut pictures = Vec::new();
    let mut add = |name, title, scale, wanted: &[(Scenario, &str)]| {
        let Some(metric) = wanted.first().and_then(|(_, name)| find(name)) else {
            return;
        };
        let groups: Vec<Group> = wanted
            .iter()
            .map(|(scenario, name)| group(cells, *scenario, name))
            .filter(|group| !group.bars.is_empty())
            .collect();
        if !groups.is_empty() {
            pictures.push((name, draw(title, metric, scale, &groups)));
        }
    };
    let bulk = Scenario::ALL
        .into_iter()
        .filter(|scenario| matches!(scenario, Scenario::Bulk { .. }));
    let bulk: Vec<_> = bulk.map(|scenario| (scenario, "rr_p99_ms")).collect();
    add(
        "isolation-rr.svg",
        "Request and response beside bulk TCP: 99th percentile, ms, in decades",
        Scale::Decades,
        &bulk,
    );
    add(
        "isolation-neighbour.svg",
        "Goodput beside a neighbour that floods, of that beside one whose flood stays at home",
        Scale::Linear,
        &[
            (Scenario::NeighbourUdp, "victim_goodput_ratio"),
            (Scenario::NeighbourTcp, "victim_goodput_ratio"),
        ],
    );
    add(
        "isolation-guarantees.svg",
        "Guarantees of 100 (a) and 300 (b) of 500 Mbit/s: who got what",
        Scale::Linear,
        &[
            (Scenario::GuaranteesUdp, "both_a_mbit"),
            (Scenario::GuaranteesUdp, "both_b_mbit"),
            (Scenario::GuaranteesUdp, "a_alone_mbit"),
            (Scenario::GuaranteesUdp, "b_alone_mbit"),
            (Scenario::GuaranteesTcp, "both_a_mbit"),
            (Scenario::GuaranteesTcp, "both_b_mbit"),
            (Scenario::GuaranteesTcp, "a_alone_mbit"),
            (Scenario::GuaranteesTcp, "b_alone_mbit"),
        ],
    );
    pictures
}

fn group(cells: &Cells, scenario: Scenario, metric: &str) -> Group {
    let name = scenario.name();
    let bar = |system: &System| {
        let key = (name.clone(), system.name().to_owned());
        Some((system.name(), cells.get(&key)?.get(metric)?.value))
    };
    Group {
        heading: format!("{name}, {metric}"),
        bars: System::ALL.iter().filter_map(bar).collect(),
    }
}

fn draw(title: &str, metric: &Metric, scale: Scale, groups: &[Group]) -> String {
    let values = || groups.iter().flat_map(|group| &group.bars);
    let most = values().map(|(_, value)| *value).fold(1e-3, f64::max);
    let least = values()
        .map(|(_, value)| value.max(1e-3))
        .fold(most, f64::min);
    let zero = least.log10().floor();
    let length = |value: f64| match scale {
        Scale::Linear => LONGEST * value.max(0.0) / most,
        Scale::Decades => {
            LONGEST * (value.max(1e-3).log10() - zero) / (most.log10() - zero).max(1e-9)
        }
    };
    let rows: usize = groups.iter().map(|group| group.bars.len() + 2).sum();
    let height = HEAD + STEP * rows as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>{title}</title>\n<style>\n\
         text {{ fill: #222; }} .o {{ fill: #1f6f8b; }} .p {{ fill: #b0a18f; }} .b {{ fill: #fff; }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #ddd; }} .o {{ fill: #5fb3d0; }} .p {{ fill: #7d7266; }} \
         .b {{ fill: #111; }} }}\n</style>\n<rect class=\"b\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\">{title}</text>\n"
    );
    let mut y = HEAD;
    for group in groups {
        y += STEP;
        let _ = writeln!(
            svg,
            "<text x=\"12\" y=\"{:.0}\" font-weight=\"bold\">{}</text>",
            y - 6.0,
            group.heading
        );
        for (system, value) in &group.bars {
            let class = if System::is_ours(system) { "o" } else { "p" };
            let long = length(*value).max(1.0);
            let base = y + BAR - 3.0;
            let _ = writeln!(
                svg,
                "<text x=\"{:.0}\" y=\"{base:.0}\" text-anchor=\"end\">{system}</text>\
                 <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.0}\" width=\"{long:.1}\" height=\"{BAR}\"/>\
                 <text x=\"{:.0}\" y=\"{base:.0}\">{value:.*}</text>",
                LEFT - 8.0,
                LEFT + long + 6.0,
                metric.digits
            );
            y += STEP;
        }
        y += STEP;
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::super::results::{lines, newest};
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let mut all = Vec::new();
        for (system, p99) in [("octroi-htb", 0.1), ("htb", 1_000.0), ("tbf", 10.0)] {
            let name = Scenario::ALL[0].name();
            let cell = [("rr_p99_ms", p99)].into();
            all.extend(lines(&cell, ("abc", "6.18"), &name, system));
        }
        let pictures = all_of(&all);
        assert_eq!(pictures.len(), 1);
        let (name, svg) = &pictures[0];
        assert_eq!(*name, "isolation-rr.svg");
        // From 0.1 to 1,000 are four decades.
        let widths: Vec<&str> = svg
            .lines()
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next())
            .filter(|width| width.contains('.'))
            .collect();
        assert_eq!(widths, ["1.0", "560.0", "280.0"], "{svg}");
        assert_eq!(svg.matches("class=\"o\"").count(), 1);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        for open in ["text", "title", "style", "svg"] {
            let begin = format!("<{open}");
            assert_eq!(
                svg.matches(&begin).count(),
                svg.matches(&format!("</{open}>")).count(),
                "{open}"
            );
        }
    }

    fn all_of(lines: &[super::super::results::Line]) -> Vec<(&'static str, String)> {
        all(&newest(lines))
    }

    #[test]
    fn nothing_measured_is_no_picture() {
        assert!(all_of(&[]).is_empty());
    }
}
