//! A statement of a small month: its parts agree, its page asks for nothing, its text is escaped.

use super::*;
use crate::usage::{Drops, Group, Kept, Late, Percentile, Slots};

const DAY_NS: i64 = 86_400_000_000_000;
/// A name that must not become a part of the page.
const EVIL: &str = "<img src=x onerror=alert(1)>\"'&";

fn row(day: i64, port: &str, direction: u8, zone: Option<u32>, bytes: i128) -> Row {
    Row {
        group: Group {
            tenant: 7,
            host: None,
            port: Some(port.into()),
            direction: Some(direction),
            zone: Some(zone),
        },
        from: day * DAY_NS,
        to: (day + 1) * DAY_NS,
        kept: Kept {
            sum: Sum([bytes / 100, bytes, bytes - bytes / 10]),
            ..Kept::default()
        },
        settled: true,
    }
}

fn usage() -> Report {
    Report {
        rows: vec![
            row(0, "vm1", 0, Some(4), 1_000_000),
            row(0, "vm1", 0, Some(0), 20_007),
            row(0, EVIL, 1, Some(4), 333),
            row(1, "vm1", 0, None, -5_000),
            row(1, "vm1", 1, Some(63), 9_007_199_254_740_993),
            row(2, "vm1", 0, Some(4), 7),
        ],
        drops: vec![(
            (7, 0, 3),
            Drops {
                packets: 2,
                l2_bytes: 120,
            },
        )],
        late: vec![Late {
            ledger: "l".into(),
            seq: 99,
            tenant: 7,
            port: "vm1".into(),
            direction: 0,
            zone: None,
            sum: Sum([0, -5_000, 0]),
            reason: Some(EVIL.into()),
        }],
        settled: true,
        ..Report::default()
    }
}

fn percentile() -> Report {
    Report {
        percentiles: vec![Percentile {
            tenant: 7,
            port: None,
            zone: None,
            p95: P95 {
                slots: 864,
                left_out: [1, 0, 1],
                by_direction: [Some(3_000_000), None],
                max_of_both: None,
                of_max: Some(37_500_000),
            },
            slots: Slots::default(),
        }],
        in_no_slot: vec![99],
        ..Report::default()
    }
}

fn statement(issue: Option<Issue>) -> Statement {
    with_usage(issue, usage())
}

fn with_usage(issue: Option<Issue>, usage: Report) -> Statement {
    let days = ["2026-11-01", "2026-11-02", "2026-11-03"].map(|date| Day {
        date: date.into(),
        from: format!("{date}T00:00:00Z"),
        to: format!("{date}T24:00:00Z"),
        hours: 24,
        charge_class: if date.ends_with("03") {
            "switching"
        } else {
            "standard"
        }
        .into(),
    });
    let percentile = percentile();
    Statement::of(Parts {
        issue,
        subject: Subject {
            tenant: 7,
            tenant_name: EVIL.into(),
            month: "2026-11".into(),
            timezone: "Europe/Paris".into(),
            from: "2026-10-31T23:00:00Z".into(),
            to: "2026-11-30T23:00:00Z".into(),
        },
        days: days.to_vec(),
        usage: &usage,
        percentile: &percentile,
        bounds: &[0, DAY_NS, 2 * DAY_NS, 3 * DAY_NS],
        ledgers: vec![LedgerLine {
            host: "h1".into(),
            ledger_id: "00ff".into(),
            records: 1_234,
            leaf: "abcd".into(),
            head: None,
        }],
        zone_name: &|zone| format!("zone{zone}"),
        reason_name: &|reason| format!("reason{reason}"),
        class_name: &|class| {
            ["exempt", "clear", "opening", "E1", "E2", "E3"][usize::from(class)].into()
        },
        time: &|time| time.to_string(),
    })
    .expect("a statement")
}

fn issued() -> Option<Issue> {
    Some(Issue {
        number: 3,
        version: 2,
        issued: "2026-12-01T09:00:00Z".into(),
    })
}

/// The bytes of lines together.
fn sum(lines: &[Line]) -> i128 {
    lines.iter().map(|line| line.amount.l2_bytes.0).sum()
}

#[test]
fn every_part_of_a_statement_adds_up_to_its_total() {
    let statement = statement(None);
    let total = 1_000_000 + 20_007 + 333 - 5_000 + 9_007_199_254_740_993 + 7;
    assert_eq!(statement.total.l2_bytes.0, total);
    for lines in [
        &statement.directions,
        &statement.zones,
        &statement.ports,
        &statement.classes,
    ] {
        assert_eq!(sum(lines), total, "{lines:?}");
    }
    let cells = statement.cells.iter().map(|cell| cell.amount.l2_bytes.0);
    assert_eq!(cells.sum::<i128>(), total);
    let switching = statement
        .classes
        .iter()
        .filter(|line| line.of == "switching");
    assert_eq!(
        switching.map(|line| line.amount.l2_bytes.0).sum::<i128>(),
        7
    );
}

#[test]
fn the_json_says_every_byte_as_digits_and_is_the_same_each_time() {
    let statement = statement(issued());
    let text = statement.to_json();
    assert_eq!(text, self::statement(issued()).to_json());
    assert_eq!(statement.digest(), self::statement(issued()).digest());
    assert_ne!(statement.digest(), self::statement(None).digest());
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["cells"][4]["l2_bytes"], "9007199254740993");
    assert_eq!(json["evidence"], "NOT_CLASSIFIED");
    assert_eq!(json["issue"]["version"], 2);
    assert!(json["percentiles"]["bytes"][1].is_null());
}

#[test]
fn evidence_adds_up_to_each_direction_with_what_nobody_looked_at() {
    let mut usage = usage();
    let counts = |packets, l2_bytes| Drops { packets, l2_bytes };
    usage.evidence = vec![
        ((7, 0, 2), counts(1, 90)),
        ((7, 0, 5), counts(10_000, 1_000_000)),
        ((7, 1, 5), counts(90_071_992_547_412, 9_007_199_254_741_326)),
    ];
    let statement = with_usage(issued(), usage);
    let json: serde_json::Value = serde_json::from_str(&statement.to_json()).expect("JSON");
    assert_eq!(json["format"], "octroi statement 2");
    let evidence = json["evidence"].as_array().expect("a list");
    let told = evidence.iter().map(|one| {
        let words = ["direction", "class", "packets", "l2_bytes"].map(|name| one[name].as_str());
        words.map(Option::unwrap_or_default).join(" ")
    });
    // From the tenant 1,000,000 + 20,007 − 5,000 + 7 bytes; to it nothing is left, in bytes.
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "from opening 1 90",
            "from E3 10000 1000000",
            "from not_classified 149 14924",
            "to E3 90071992547412 9007199254741326",
        ]
    );
    for (lang, text) in [
        (
            Lang::En,
            "encrypted, with parameters and records checked (E3)",
        ),
        (
            Lang::Fr,
            "chiffré, paramètres et enregistrements vérifiés (E3)",
        ),
    ] {
        let html = to_html(&statement, lang);
        assert!(html.contains(text), "{text}");
        assert!(html.contains("NOT_CLASSIFIED"));
    }
}

#[test]
fn the_charts_add_up_to_what_is_billed() {
    for lang in [Lang::En, Lang::Fr] {
        let html = to_html(&statement(None), lang);
        let parts = html.split("data-bytes=\"").skip(1);
        let bytes = parts.map(|rest| rest.split('"').next().unwrap_or_default().parse::<i128>());
        let sum: i128 = bytes.map(|bytes| bytes.expect("a number")).sum();
        // What was taken away is in the table below, a bar cannot show it.
        assert_eq!(sum - 5_000, statement(None).total.l2_bytes.0);
    }
}

#[test]
fn the_page_asks_for_nothing_and_runs_nothing() {
    for lang in [Lang::En, Lang::Fr] {
        for issue in [None, issued()] {
            let html = to_html(&statement(issue), lang);
            for mark in [
                "http:",
                "https:",
                "src=",
                "href",
                "url(",
                "@import",
                "<script",
                "<link",
                "<img",
                "<iframe",
                "onerror=alert(1)>\"",
            ] {
                let escaped = html.replace("src=x onerror=alert(1)&gt;", "");
                assert!(!escaped.contains(mark), "{mark}");
            }
            assert!(html.contains("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;"));
            assert!(html.contains("default-src 'none'"));
        }
    }
}

#[test]
fn the_page_says_what_it_is() {
    let html = to_html(&statement(None), Lang::En);
    for text in [
        "PROVISIONAL",
        "9,007,199,255,756,340",
        "9,007,199.256\u{a0}GB",
        "80.000\u{a0}kbit/s",
        "1.000\u{a0}Mbit/s",
        "NOT_CLASSIFIED",
        "Europe/Paris",
        "zone63 (63)",
        "switching provider",
        "octroi explain --tenant 7 --month 2026-11",
    ] {
        assert!(html.contains(text), "{text}");
    }
    let html = to_html(&statement(issued()), Lang::En);
    assert!(!html.contains("PROVISIONAL"));
    assert!(html.contains("Statement\u{a0}3, version\u{a0}2"));
}

#[test]
fn the_french_page_is_in_french_with_spaces_that_do_not_break() {
    let html = to_html(&statement(None), Lang::Fr);
    assert!(html.contains("<html lang=\"fr\">"));
    for text in [
        "Relevé d’utilisation du réseau",
        "PROVISOIRE",
        "9\u{202f}007\u{202f}199\u{202f}255\u{202f}756\u{202f}340",
        "9\u{202f}007\u{202f}199,256\u{a0}Go",
        "Depuis le client",
        "changement de fournisseur",
    ] {
        assert!(html.contains(text), "{text}");
    }
    // Before a colon, a semicolon and after a number: never a space that breaks.
    for wrong in [" :", " ;", " Go", "0 octets"] {
        let style_end = html.find("</style>").unwrap_or_default();
        assert!(!html[style_end..].contains(wrong), "{wrong:?}");
    }
}

#[test]
fn the_csv_has_a_row_for_each_cell_and_no_formula() {
    let csv = to_csv(&statement(issued()));
    let mut lines = csv.split_terminator("\r\n");
    let columns: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    assert!(columns.contains(&"ConsumedQuantity") && columns.contains(&"x_ChargeClass"));
    let rows: Vec<&str> = lines.collect();
    assert_eq!(rows.len(), statement(None).cells.len());
    assert!(rows[4].contains(",9007199254740993,Bytes,"), "{}", rows[4]);
    assert!(rows[0].ends_with(",standard,3 version 2"), "{}", rows[0]);
    assert!(rows[3].contains(",-5000,Bytes,"), "{}", rows[3]);
    let mut evil = statement(None);
    evil.cells[0].port = "=1+1".into();
    assert!(to_csv(&evil).contains(",'=1+1,"));
}
