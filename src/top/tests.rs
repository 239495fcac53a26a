//! The screen, cell by cell, without a terminal.

use super::{
    model::{After, Key, Level, View},
    view::{draw, short},
};
use crate::status::Report;
use ratatui::{Terminal, backend::TestBackend};
use serde_json::{Value, json};
use std::time::Duration;

fn direction(bytes: u64, dropped: u64) -> Value {
    json!({
        "zones": [[0, { "packets": bytes / 100, "l2_bytes": bytes, "l3_bytes": bytes }]],
        "drops": if dropped == 0 { json!([]) } else {
            json!([["spoofed_mac", { "packets": dropped, "l2_bytes": 60 * dropped }]])
        },
        "skbs": { "delivered": 0, "delivered_len": 0, "dropped": 0, "dropped_len": 0 },
    })
}

fn port(name: &str, tenant: u32, incarnation: u64, state: &str, counts: [u64; 3]) -> Value {
    let shape = json!({ "shape": "none", "reason": "", "leaf_drops": 0 });
    json!({
        "name": name, "tenant": tenant, "interface": format!("tap-{name}"), "ifindex": 1, "vlan": 0,
        "slot": incarnation, "incarnation": incarnation, "state": state,
        "before_attach": [0, 0, 0, 0], "shape": [shape, shape],
        "from_tenant": direction(counts[0], counts[2]), "to_tenant": direction(counts[1], 0),
    })
}

fn report(ports: Value) -> Report {
    serde_json::from_value(json!({
        "daemon": true, "mechanism": "tcx", "revision": 3, "window": 12,
        "zones": { "0": "other" }, "tenants": { "1": "acme", "2": "globex", "3": "idle" },
        "meter": {
            "ledger": "/l", "ledger_id": "ab", "records": 77, "committed_window": 11, "windows": 5,
            "error": null, "audit": { "unmetered": 0, "last": null, "not_audited": [] },
        },
        "sinks": [], "ports": ports,
    }))
    .expect("a report")
}

/// Two ports of acme, one that is gone; one of globex. A second passed, and a port came in it.
fn view() -> View {
    let mut view = View::new(report(json!([
        port("a1", 1, 1, "blessed", [1_000, 2_000, 0]),
        port("a0", 1, 2, "retired", [7, 0, 0]),
    ])));
    let later = report(json!([
        port("a1", 1, 1, "blessed", [251_000, 2_000, 30]),
        port("a0", 1, 2, "retired", [7, 0, 0]),
        port("g1", 2, 3, "blessed", [0, 1_250_000, 0]),
    ]));
    view.take(later, Duration::from_millis(500));
    view
}

fn screen(view: &View) -> Vec<String> {
    let backend = TestBackend::new(150, 24);
    let mut terminal = Terminal::new(backend).expect("a terminal");
    terminal.draw(|frame| draw(frame, view)).expect("drawn");
    let buffer = terminal.backend().buffer().clone();
    let lines = buffer.content().chunks(150);
    lines
        .map(|cells| {
            let line: String = cells.iter().map(|cell| cell.symbol()).collect();
            line.replace('│', " ")
        })
        .collect()
}

/// The words of the line that has a word.
fn words<'s>(screen: &'s [String], word: &str) -> Vec<&'s str> {
    let mut lines = screen.iter();
    let line = lines.find(|line| line.split_whitespace().any(|other| other == word));
    let line = line.unwrap_or_else(|| panic!("no {word} in {screen:#?}"));
    line.split_whitespace().collect()
}

#[test]
fn tenants_have_the_totals_of_their_ports_and_the_rates_of_the_last_interval() {
    let screen = screen(&view());
    // 250,000 bytes in half a second are 4 Mbit/s; 30 packets 60 a second.
    let acme = [
        "acme", "1", "ports", "4.00M", "0", "60", "251007", "2000", "30",
    ];
    assert_eq!(words(&screen, "acme"), acme, "{screen:#?}");
    // A port that came in the interval began at 0.
    let globex = [
        "globex", "1", "ports", "0", "20.00M", "0", "0", "1250000", "0",
    ];
    assert_eq!(words(&screen, "globex"), globex);
    let idle = ["idle", "0", "ports", "0", "0", "0", "0", "0", "0"];
    assert_eq!(words(&screen, "idle"), idle);
    let all = screen.join("\n");
    for part in [
        "daemon runs; tcx; revision 3, window 12",
        "77 records, window 11 committed",
    ] {
        assert!(all.contains(part), "{all}");
    }
    // The highest rate is first, and below is what it lost and where its bytes went.
    assert!(
        all.contains("drops of globex") && all.contains("1250000  other"),
        "{all}"
    );
}

#[test]
fn there_is_no_rate_before_a_second_report() {
    let view = View::new(report(json!([port(
        "a1",
        1,
        1,
        "blessed",
        [1_000, 2_000, 0]
    )])));
    let screen = screen(&view);
    let acme = ["acme", "1", "ports", "-", "-", "-", "1000", "2000", "0"];
    assert_eq!(words(&screen, "acme"), acme);
}

#[test]
fn keys_lead_down_to_ports_and_back_sort_filter_and_leave() {
    let mut view = view();
    let names = |view: &View| {
        let rows = view.rows();
        rows.into_iter().map(|row| row.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&view), ["globex", "acme", "idle"]);
    view.press(Key::Char('r'));
    assert_eq!(names(&view), ["idle", "acme", "globex"]);
    view.press(Key::Char('r'));
    view.press(Key::Char('s'));
    assert_eq!(names(&view), ["acme", "globex", "idle"], "by the rate from");
    view.press(Key::Enter);
    assert_eq!(view.level, Level::Ports(Some(1)));
    assert_eq!(names(&view), ["a1", "a0"]);
    let shown = screen(&view);
    let a1 = [
        "a1", "acme", "tap-a1", "blessed", "4.00M", "0", "60", "251000", "2000", "30",
    ];
    assert_eq!(words(&shown, "a1"), a1);
    assert!(shown.join("\n").contains("30  spoofed_mac"), "{shown:#?}");
    view.press(Key::Char('p'));
    assert_eq!(names(&view), ["a1", "a0", "g1"]);
    for key in [
        Key::Char('/'),
        Key::Char('g'),
        Key::Char('q'),
        Key::Backspace,
    ] {
        assert_eq!(view.press(key), After::Go, "q is a letter of the filter");
    }
    assert_eq!(names(&view), ["g1"]);
    assert!(screen(&view).join("\n").contains("filter: g_"));
    view.press(Key::Escape);
    assert_eq!(names(&view).len(), 3);
    for _ in 0..9 {
        view.press(Key::Down);
    }
    assert_eq!(view.selected, 2);
    view.press(Key::Escape);
    assert_eq!((&view.level, view.selected), (&Level::Tenants, 0));
    assert_eq!(view.press(Key::Char('q')), After::Quit);
}

#[test]
fn a_daemon_that_is_gone_is_told_and_its_names_stay() {
    let mut view = view();
    let mut pins = report(json!([port("a1", 1, 1, "blessed", [300_000, 2_000, 30])]));
    pins.daemon = false;
    pins.meter = None;
    pins.tenants.clear();
    pins.zones.clear();
    view.take(pins, Duration::from_secs(1));
    view.error = Some("the pins cannot be read".into());
    let screen = screen(&view);
    assert!(words(&screen, "acme").contains(&"300000"), "{screen:#?}");
    let all = screen.join("\n");
    for part in [
        "no daemon; the kernel goes on",
        "not read again: the pins cannot be read",
    ] {
        assert!(all.contains(part), "{all}");
    }
}

#[test]
fn what_goes_wrong_is_on_the_screen() {
    let mut view = view();
    let meter = view.report.meter.as_mut().expect("a meter");
    meter.error = Some("the disk is full".into());
    view.report.sinks = serde_json::from_value(json!([{
        "name": "billing", "next_try_ms": 5, "ledger_id": "", "confirmed": 3, "delivered": 4,
        "lag": 9, "error": "it is not there", "fork": false, "failures": 1,
    }]))
    .expect("sinks");
    let all = screen(&view).join("\n");
    for part in [
        "ledger: the disk is full",
        "sink billing: lag 9 records, 4 delivered; it is not there",
    ] {
        assert!(all.contains(part), "{all}");
    }
}

#[test]
fn every_size_of_a_terminal_is_drawn() {
    let mut view = view();
    view.selected = 99;
    for (width, height) in [(1, 1), (3, 40), (20, 5), (80, 24), (300, 2), (500, 100)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, &view)).expect("drawn");
    }
}

#[test]
fn numbers_are_cut_off_and_never_rounded_up() {
    for (number, text) in [
        (0, "0"),
        (999, "999"),
        (1_000, "1.00k"),
        (999_999, "999.99k"),
        (1_250_000, "1.25M"),
        (400_000_000_000, "400.00G"),
        (u64::MAX, "18446744.07T"),
    ] {
        assert_eq!(short(number), text);
    }
}
