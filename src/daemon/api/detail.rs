//! What nobody looks at, or takes off a bill, unseen: flow detail, a tenant's records, corrections (decision 0043).
//!
//! Invariants (`tests/api.rs`)
//! - Flow detail is shown when the look is in the ledger, and each look is. It takes the role admin, as with
//!   `octroi flows`.
//! - Whose records, usage or statement somebody looked at by the API is in the ledger, once an hour for each of them:
//!   a monitor that asks every ten seconds must not fill the disk.

use super::{
    Answer, Shared, change, look,
    peer::{Peer, Role},
    problem::{Problem, ok},
    route::{Action, Query},
};
use crate::{
    daemon::{change::enter, control},
    flows::{self, Line},
};
use hyper::StatusCode;
use metering::ledger::{self, Addition, Correct, FlowFilter};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::task;

/// Rows of a page.
const ROWS_MAX: usize = 1_000;
/// A look of the same user at the same tenant is entered again after this.
const AGAIN: Duration = Duration::from_secs(3_600);
/// Tenants that one user looks at within that time. Numbers of tenants that never were count, too.
const TENANTS_MAX: usize = 5_000;
/// A name in an entry is not longer, bytes.
const NAME_BYTES_MAX: usize = 64;

/// A look that is entered once an hour: at what, and at which tenant; `None`: at all of them.
type Subject = (&'static str, Option<u32>);

/// Who has looked at what within the hour, and since when the hour is.
#[derive(Debug, Default)]
pub struct Looked(BTreeMap<String, (Option<Instant>, BTreeSet<Subject>)>);

impl Looked {
    /// Is it to be entered? It counts as entered from then on.
    ///
    /// # Errors
    /// When a user looks at too many tenants within an hour.
    fn is_new(&mut self, who: &str, subject: Subject, now: Instant) -> Result<bool, Problem> {
        let (since, known) = self.0.entry(who.to_owned()).or_default();
        if since.is_none_or(|since| now.saturating_duration_since(since) >= AGAIN) {
            known.clear();
            *since = Some(now);
        }
        if known.len() >= TENANTS_MAX && !known.contains(&subject) {
            let detail = format!(
                "{who} looks at more than {TENANTS_MAX} tenants in an hour; try again later"
            );
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
        }
        Ok(known.insert(subject))
    }

    fn forget(&mut self, who: &str, subject: Subject) {
        if let Some((_, known)) = self.0.get_mut(who) {
            known.remove(&subject);
        }
    }
}

/// Enters that somebody looks at a tenant's records, where that is not entered yet.
///
/// # Errors
/// When it cannot be entered: then nothing is shown.
pub async fn noted(
    shared: &Shared,
    (peer, role): (&Peer, Role),
    action: Action,
    query: &Query,
) -> Result<(), Problem> {
    let kind = match action {
        Action::Records => "records",
        Action::Usage => "usage",
        Action::Statement | Action::Statements => "statement",
        _ => return Ok(()),
    };
    let tenant = look::tenant(query, &shared.state.borrow().config())?;
    let subject = (kind, tenant);
    let is_new = shared
        .looked
        .borrow_mut()
        .is_new(&peer.called(), subject, Instant::now())?;
    if !is_new {
        return Ok(());
    }
    let mut what = kind.to_owned();
    what.extend(tenant.map(|tenant| format!(" --tenant {tenant}")));
    let ledger = shared.state.borrow().ledger();
    let entered = enter(ledger, &change::who(peer, role), what).await;
    if entered.is_err() {
        shared.looked.borrow_mut().forget(&peer.called(), subject);
    }
    Ok(entered?)
}

/// Where a page begins: behind this row of this record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    seq: u64,
    row: u64,
}

impl Place {
    fn read(text: &str) -> Option<Self> {
        let (seq, row) = text.split_once('.')?;
        Some(Self {
            seq: seq.parse().ok()?,
            row: row.parse().ok()?,
        })
    }
}

/// `GET /v1/flows`: rows of flow detail, a page of them, the oldest window first.
///
/// # Errors
/// When a parameter is wrong, the look cannot be entered, or the ledger cannot be read.
pub async fn flows(
    shared: &Shared,
    (peer, role): (&Peer, Role),
    query: &Query,
) -> Result<Value, Problem> {
    let limit = query.limit(ROWS_MAX)?;
    let after = query.read("after", "the `next` of the page before", Place::read)?;
    let remote = query.read("remote", "a network such as 198.51.100.0/24", |text| {
        flows::network(text).ok()
    })?;
    let port = query.read("port", "the name of a port", |text| {
        (text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control))
            .then(|| text.to_owned())
    })?;
    let filter = FlowFilter {
        tenant: look::tenant(query, &shared.state.borrow().config())?,
        port,
        direction: look::direction(query)?,
        remote,
        from: query.read("from", look::TIME, look::utc_ns)?,
        to: query.read("to", look::TIME, look::utc_ns)?,
    };
    let mut what = "flows".to_owned();
    let tenant = filter.tenant.map(|tenant| tenant.to_string());
    // All of them were read above: what stands there is short, and no other line.
    let said = |name: &str| query.text(name).map(ToOwned::to_owned);
    for (name, value) in [
        ("tenant", tenant),
        ("port", filter.port.clone()),
        ("direction", said("direction")),
        ("from", said("from")),
        ("to", said("to")),
        ("remote", said("remote")),
        ("after", said("after")),
    ] {
        what.extend(value.map(|value| format!(" --{name} {value}")));
    }
    // Without a ledger there is nothing to see, and nowhere to enter it.
    let ledger = shared.state.borrow().ledger();
    if let Some(ledger) = ledger {
        let who = change::who(peer, role);
        let entered = enter(Some(ledger), &who, what);
        entered.await?;
    }
    look::read(shared, move |path| {
        let (mut rows, mut at, mut last, mut more) =
            (Vec::new(), Place::default(), Place::default(), false);
        let faults = ledger::flows(&path, &filter, &mut |line| {
            at = Place {
                seq: line.seq,
                row: if line.seq == at.seq { at.row + 1 } else { 1 },
            };
            if after.is_some_and(|after| at <= after) {
                return ControlFlow::Continue(());
            }
            if rows.len() == limit {
                more = true;
                return ControlFlow::Break(());
            }
            rows.push(Line::of(line));
            last = at;
            ControlFlow::Continue(())
        });
        let faults = faults.map_err(|error| look::unread(&error.to_string()))?;
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let next = more.then(|| format!("{}.{}", last.seq, last.row));
        Ok(json!({ "flows": rows, "faults": faults, "next": next }))
    })
    .await
}

/// `POST /v1/corrections`: as `octroi correct`. Who asked is entered; the reason is in the record.
///
/// # Errors
/// Why not; nothing is written then but the entry.
pub async fn correct(
    shared: &Rc<Shared>,
    (peer, role): (&Peer, Role),
    body: Value,
) -> Result<Answer, Problem> {
    let what = format!("correct {body}");
    let correct: Correct = serde_json::from_value(body)
        .map_err(|error| Problem::bad(format!("no correction: {error}")))?;
    let corrects = correct.seq;
    let (ledger, changes) = {
        let state = shared.state.borrow();
        (state.ledger(), state.changes())
    };
    if ledger.is_none() {
        let detail = "the daemon keeps no records; add [meter] to its configuration";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    let who = change::who(peer, role);
    let state = Rc::clone(&shared.state);
    // To its end, whether or not the client waits for it.
    let added = task::spawn_local(async move {
        let _turn = changes.lock().await;
        enter(ledger, &who, what).await?;
        let added = control::add(&state, &Addition::Correct(correct)).await;
        added.map_err(|refusal| match state.borrow().ledger_fails() {
            true => refusal.into(),
            false => Problem::new(StatusCode::CONFLICT, refusal.message),
        })
    });
    let seq = added
        .await
        .unwrap_or_else(|error| Err(look::broken(&error)))?;
    Ok(ok(
        StatusCode::CREATED,
        &json!({ "seq": seq, "corrects": corrects.to_string() }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_entered_once_an_hour_for_each_user_and_tenant() {
        let begun = Instant::now();
        let mut looked = Looked::default();
        let mut is_new = |uid: u32, subject, after| {
            let now = begun + Duration::from_secs(after);
            looked
                .is_new(&uid.to_string(), subject, now)
                .map_err(|problem| problem.status())
        };
        let (one, two) = (("usage", Some(1)), ("usage", Some(2)));
        assert_eq!(is_new(7, one, 0), Ok(true));
        assert_eq!(is_new(7, one, 3_599), Ok(false));
        assert_eq!(is_new(7, two, 3_599), Ok(true));
        assert_eq!(is_new(7, ("records", Some(1)), 3_599), Ok(true));
        assert_eq!(is_new(8, one, 3_599), Ok(true));
        assert_eq!(is_new(7, one, 3_600), Ok(true));
        for tenant in 10..10 + TENANTS_MAX as u32 - 1 {
            assert_eq!(
                is_new(7, ("usage", Some(tenant)), 3_601),
                Ok(true),
                "{tenant}"
            );
        }
        assert_eq!(
            is_new(7, ("usage", Some(3)), 3_602),
            Err(StatusCode::SERVICE_UNAVAILABLE)
        );
        assert_eq!(is_new(7, one, 3_602), Ok(false));
        assert_eq!(
            is_new(8, two, 3_602),
            Ok(true),
            "another user is not in his way"
        );
    }

    #[test]
    fn a_look_that_could_not_be_entered_is_new_again() {
        let mut looked = Looked::default();
        let subject = ("records", None);
        for _ in 0..2 {
            assert!(
                looked
                    .is_new("7", subject, Instant::now())
                    .is_ok_and(|new| new)
            );
            looked.forget("7", subject);
        }
    }

    #[test]
    fn pages_are_in_the_order_of_records_and_rows() {
        assert_eq!(Place::read("7.12"), Some(Place { seq: 7, row: 12 }));
        assert!(
            Place::read("7.12") < Place::read("8.1") && Place::read("7.2") < Place::read("7.12")
        );
        for wrong in ["", "7", "7.", ".1", "-1.1", "1.1.1", "1.x"] {
            assert_eq!(Place::read(wrong), None, "{wrong}");
        }
    }
}
