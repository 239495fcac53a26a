//! Statements: which there are, and one as a file. None is issued by this.

use super::{
    Answer, Shared, look,
    problem::{Problem, respond},
    route::Query,
};
use crate::{
    config::Config,
    period::{self, Month},
    statement,
    usage::Opened,
};
use hyper::{
    StatusCode,
    header::{CONTENT_DISPOSITION, HeaderValue},
};
use metering::{
    statement::{Lang, to_csv, to_html},
    usage::Source,
};
use serde_json::{Value, json};
use std::path::PathBuf;

fn opened(path: PathBuf, config: Config) -> Result<Opened, Problem> {
    Ok(Opened {
        sources: Source::open(&[path]).map_err(|error| failed(&error.into()))?,
        zone_name: config.billing.timezone.to_string(),
        zone: config.billing.timezone.get(),
        hosts: Vec::new(),
        store: None,
        config: Some(config),
    })
}

fn failed(error: &anyhow::Error) -> Problem {
    look::unread(&format!("{error:#}"))
}

/// `GET /v1/statements`: what was issued, and from when to when there are records.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn list(shared: &Shared, query: &Query) -> Result<Value, Problem> {
    let config = shared.state.borrow().config();
    let tenant = look::tenant(query, &config)?;
    look::read(shared, move |path| {
        let opened = opened(path, config)?;
        let issued = statement::list(&opened, tenant).map_err(|error| failed(&error))?;
        let reader = opened.sources.first().map(|source| &source.reader);
        let extent = reader.map(|reader| reader.extent(tenant)).transpose();
        let extent = extent.map_err(|error| failed(&error.into()))?.flatten();
        let month = |utc_ns: i64| {
            let day = period::day_of(utc_ns, &opened.zone).ok();
            day.map(|day| Month(day.first_of_month()).to_string())
        };
        Ok(json!({
            "timezone": opened.zone_name,
            "first_month": extent.and_then(|(first, _)| month(first)),
            // What ends with a month is of that month.
            "last_month": extent.and_then(|(_, last)| month(last.saturating_sub(1))),
            "issued": issued,
        }))
    })
    .await
}

/// `GET /v1/statement`: a tenant's month, as it was last issued or provisional.
///
/// # Errors
/// When a parameter is wrong, or the ledger cannot be read.
pub async fn one(shared: &Shared, query: &Query) -> Result<Answer, Problem> {
    let config = shared.state.borrow().config();
    let missing =
        |name: &str, what: &str| Problem::bad(format!("`{name}` is missing; write {what}"));
    let tenant = look::tenant(query, &config)?;
    let tenant = tenant.ok_or_else(|| missing("tenant", "a tenant's number or name"))?;
    let what = "a month such as 2026-11";
    let month = query.read("month", what, |text| text.parse::<Month>().ok())?;
    let month = month.ok_or_else(|| missing("month", what))?;
    month
        .period(&config.billing.timezone.get())
        .map_err(|error| Problem::bad(format!("`month`: {error:#}")))?;
    let lang = query.read("lang", "en or fr", |text| match text {
        "en" => Some(Lang::En),
        "fr" => Some(Lang::Fr),
        _ => None,
    })?;
    let lang = lang.unwrap_or(Lang::En);
    let format = query.read("format", "html, csv or json", |text| match text {
        "html" => Some(("html", "text/html; charset=utf-8")),
        "csv" => Some(("csv", "text/csv; charset=utf-8")),
        "json" => Some(("json", "application/json")),
        _ => None,
    })?;
    let (ending, kind) = format.unwrap_or(("json", "application/json"));
    let text = look::read(shared, move |path| {
        let opened = opened(path, config)?;
        let statement = statement::of_month(opened, tenant, month);
        let statement = statement.map_err(|error| failed(&error))?;
        Ok(match ending {
            "html" => to_html(&statement, lang),
            "csv" => to_csv(&statement),
            _ => statement.to_json(),
        })
    })
    .await?;
    let mut answer = respond(StatusCode::OK, kind, text);
    let name = format!("attachment; filename=\"statement-{tenant}-{month}.{ending}\"");
    if let Ok(name) = HeaderValue::from_str(&name) {
        answer.headers_mut().insert(CONTENT_DISPOSITION, name);
    }
    Ok(answer)
}
