//! What ClickHouse's HTTP interface refuses, the one of these tests refuses: in its form.

use crate::{
    has_engine,
    server::{PASSWORD, Server, USER},
};
use anyhow::{Result, ensure};

#[test]
fn the_door_refuses_what_the_real_one_refuses() -> Result<()> {
    if !has_engine("the_door_refuses_what_the_real_one_refuses") {
        return Ok(());
    }
    let server = Server::new("door")?;
    let user = format!("X-ClickHouse-User: {USER}");
    let key = format!("X-ClickHouse-Key: {PASSWORD}");
    let basic = format!("{USER}:{PASSWORD}");
    let known = ["-H", &user, "-H", &key];
    let with = |more: &[&'static str]| [&known[..], more].concat();
    let cases: [(&str, Vec<&str>, u16, &str, &str); 24] = [
        // Who asks.
        ("", vec!["-d", "SELECT 1"], 401, "194", "REQUIRED_PASSWORD"),
        (
            "",
            vec!["-H", &user, "-d", "SELECT 1"],
            401,
            "194",
            "REQUIRED_PASSWORD",
        ),
        (
            "",
            vec!["-H", &user, "-H", "X-ClickHouse-Key: x", "-d", "SELECT 1"],
            403,
            "516",
            "AUTHENTICATION_FAILED",
        ),
        (
            "",
            vec![
                "-H",
                "X-ClickHouse-User: root",
                "-H",
                &key,
                "-d",
                "SELECT 1",
            ],
            403,
            "516",
            "AUTHENTICATION_FAILED",
        ),
        (
            "",
            vec!["-H", &key, "-d", "SELECT 1"],
            403,
            "516",
            "empty user name",
        ),
        (
            "",
            vec!["-H", &user, "-H", &key, "-u", &basic, "-d", "SELECT 1"],
            403,
            "516",
            "simultaneously",
        ),
        (
            "?user=octroi",
            with(&["-d", "SELECT 1"]),
            403,
            "516",
            "simultaneously",
        ),
        // What is asked.
        (
            "x",
            with(&["-d", "SELECT 1"]),
            404,
            "",
            "There is no handle",
        ),
        ("", with(&["-d", ""]), 400, "62", "SYNTAX_ERROR"),
        ("", with(&["-d", "SELEC 1"]), 400, "62", "SYNTAX_ERROR"),
        (
            "",
            with(&["-d", "SELECT 1; SELECT 2"]),
            400,
            "62",
            "Multi-statements are not allowed",
        ),
        (
            "",
            with(&["-d", "SELECT nosuch"]),
            404,
            "47",
            "UNKNOWN_IDENTIFIER",
        ),
        (
            "",
            with(&["-d", "SELECT * FROM nosuch"]),
            404,
            "60",
            "UNKNOWN_TABLE",
        ),
        (
            "?database=nosuch",
            with(&["-d", "SELECT 1"]),
            404,
            "81",
            "UNKNOWN_DATABASE",
        ),
        (
            "?nosuch=1",
            with(&["-d", "SELECT 1"]),
            404,
            "115",
            "UNKNOWN_SETTING",
        ),
        (
            "?max_threads=many",
            with(&["-d", "SELECT 1"]),
            400,
            "27",
            "CANNOT_PARSE_INPUT",
        ),
        (
            "",
            with(&["-d", "SELECT {n:UInt64}"]),
            500,
            "456",
            "UNKNOWN_QUERY_PARAMETER",
        ),
        (
            "?param_n=-1",
            with(&["-d", "SELECT {n:UInt64}"]),
            500,
            "457",
            "BAD_QUERY_PARAMETER",
        ),
        (
            "?query=CREATE+DATABASE+a",
            with(&[]),
            500,
            "164",
            "READONLY",
        ),
        (
            "?query=SELECT+1",
            with(&["-X", "POST"]),
            411,
            "381",
            "HTTP_LENGTH_REQUIRED",
        ),
        (
            "?query=INSERT+INTO+t+FORMAT+RowBinary",
            with(&["-d", "1234567"]),
            500,
            "33",
            "CANNOT_READ_ALL_DATA",
        ),
        (
            "?query=INSERT+INTO+t+FORMAT+TabSeparated",
            with(&["-d", "-1"]),
            400,
            "27",
            "CANNOT_PARSE_INPUT",
        ),
        (
            "?query=INSERT+INTO+t+(b)+FORMAT+TabSeparated",
            with(&["-d", "1"]),
            500,
            "16",
            "NO_SUCH_COLUMN",
        ),
        (
            "",
            with(&["-d", "SELECT a FROM t FINAL"]),
            500,
            "181",
            "ILLEGAL_FINAL",
        ),
    ];
    let made = server.request(
        "",
        &with(&[
            "-d",
            "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a",
        ]),
    )?;
    ensure!(made.status == 200 && made.body.is_empty(), "{}", made.body);
    for (query, arguments, status, code, says) in &cases {
        let said = server.request(query, arguments)?;
        ensure!(
            said.status == *status && said.code == *code && said.body.contains(says),
            "{query} {arguments:?}: {} {} {}",
            said.status,
            said.code,
            said.body
        );
        ensure!(
            code.is_empty()
                || said
                    .body
                    .starts_with(&format!("Code: {code}. DB::Exception: ")),
            "{}",
            said.body
        );
    }
    // What is refused leaves nothing behind: neither a row, nor a setting, nor a parameter.
    let none = server.request("", &with(&["-d", "SELECT count() FROM t"]))?;
    ensure!(none.body == "0\n", "{}", none.body);
    // A name of an insert is remembered by the engine, where a table is to remember some.
    for (window, twice) in [(0, "2\n"), (10, "1\n")] {
        let make = format!(
            "CREATE OR REPLACE TABLE w (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = {window}"
        );
        let mut arguments = known.to_vec();
        arguments.extend(["-d", &make]);
        ensure!(server.request("", &arguments)?.status == 200);
        for _ in 0..2 {
            let insert = "?query=INSERT+INTO+w+FORMAT+TabSeparated&insert_deduplication_token=a";
            ensure!(server.request(insert, &with(&["-d", "1"]))?.status == 200);
        }
        let count = server.request("", &with(&["-d", "SELECT count() FROM w"]))?;
        ensure!(count.body == twice, "{window}: {}", count.body);
    }
    println!(
        "CASES: requests that ClickHouse's door refuses: {}",
        cases.len()
    );
    Ok(())
}
