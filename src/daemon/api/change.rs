//! What can be changed: entered in the ledger, then made, by one after the other.

use super::{
    Answer, Shared, answer, look,
    peer::{Peer, Role},
    problem::{Problem, ok},
};
use crate::{
    config::{self, Config},
    daemon::control::{Refusal, Request},
};
use hyper::StatusCode;
use jiff::Timestamp;
use metering::ledger::{self, Look};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    path::PathBuf,
    rc::Rc,
    time::Duration,
};
use tokio::{
    task,
    time::{sleep, timeout},
};

/// How long an entry waits for a slow disk.
const ENTRY: Duration = Duration::from_secs(20);
/// A ledger that is being made, or is busy with a window, is asked so often, and again after this.
const TRIES: usize = 4;
const AGAIN: Duration = Duration::from_millis(300);
/// What an entry says of a changed configuration has no more names than this.
const NAMES_MAX: usize = 100;

/// `POST /v1/ports`.
pub async fn add(
    shared: &Rc<Shared>,
    peer: &Peer,
    role: Role,
    body: Value,
) -> Result<Answer, Problem> {
    let (name, text) = port_text(&body)?;
    let new = shared.state.borrow().config().port(&name).is_none();
    let change = Change {
        who: who(peer, role),
        what: format!("port add {body}"),
        request: Request::PortAdd { port: text },
        role,
    };
    let done = made(shared, change).await?;
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    port_answer(shared, &name, done, status)
}

/// `PUT /v1/ports/{name}`.
pub async fn set(
    shared: &Rc<Shared>,
    peer: &Peer,
    role: Role,
    name: &str,
    mut body: Value,
) -> Result<Answer, Problem> {
    if let Some(object) = body.as_object_mut() {
        let given = object.entry("name").or_insert_with(|| name.into());
        if given != name {
            let detail = "the name in the body is not that in the path; a port keeps its name";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
    }
    let (_, text) = port_text(&body)?;
    is_a_hooks(shared, name)?;
    let change = Change {
        who: who(peer, role),
        what: format!("port set {body}"),
        request: Request::PortSet { port: text },
        role,
    };
    let done = made(shared, change).await?;
    port_answer(shared, name, done, StatusCode::OK)
}

/// `DELETE /v1/ports/{name}`.
pub async fn remove(
    shared: &Rc<Shared>,
    peer: &Peer,
    role: Role,
    name: &str,
) -> Result<Answer, Problem> {
    is_a_hooks(shared, name)?;
    let change = Change {
        who: who(peer, role),
        what: format!("port remove {name}"),
        request: Request::PortRemove { name: name.into() },
        role,
    };
    let done = made(shared, change).await?;
    Ok(ok(StatusCode::OK, &json!({ "done": done.said })))
}

/// `PUT /v1/config`.
pub async fn apply(
    shared: &Rc<Shared>,
    peer: &Peer,
    role: Role,
    body: &Value,
) -> Result<Answer, Problem> {
    let object = body.as_object().filter(|object| object.len() == 1);
    let toml = object.and_then(|object| object.get("toml")?.as_str());
    let toml = toml.ok_or_else(|| {
        Problem::bad("write an object with the text of a configuration: {\"toml\": \"…\"}")
    })?;
    // The text is the client's: here a line and a column help.
    let new = config::parse(toml, "toml").map_err(Refusal::from)?;
    let what = format!("apply {}", difference(shared.state.borrow().file(), &new));
    let change = Change {
        who: who(peer, role),
        what,
        request: Request::Apply {
            config: toml.to_owned(),
        },
        role,
    };
    let done = made(shared, change).await?;
    Ok(ok(StatusCode::OK, &json!({ "done": done.said })))
}

/// Name of a port, and its TOML, from a request's JSON.
fn port_text(body: &Value) -> Result<(String, String), Problem> {
    if !body.is_object() {
        return Err(Problem::bad("write an object, with the keys of a [[port]]"));
    }
    let text = toml::to_string(body)
        .map_err(|error| Problem::bad(format!("{error}; leave a key out that has no value")))?;
    let port = config::parse_port(&text, "port")?;
    Ok((port.name.as_str().to_owned(), text))
}

fn is_a_hooks(shared: &Shared, name: &str) -> Result<(), Problem> {
    let state = shared.state.borrow();
    if state.file().port(name).is_some() {
        let detail =
            format!("port {name} is in the daemon's file; change it there, or PUT /v1/config");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    match state.config().port(name) {
        Some(_) => Ok(()),
        None => Err(look::no_port(name)),
    }
}

fn port_answer(
    shared: &Shared,
    name: &str,
    done: Made,
    status: StatusCode,
) -> Result<Answer, Problem> {
    let status = if done.waits {
        StatusCode::ACCEPTED
    } else {
        status
    };
    let mut shown = look::port(shared, name)?;
    shown["done"] = done.said.into();
    Ok(ok(status, &shown))
}

fn who(peer: &Peer, role: Role) -> String {
    format!("uid {}, {}, by the API", peer.uid, role.name())
}

/// What somebody wants.
struct Change {
    who: String,
    what: String,
    request: Request,
    role: Role,
}

/// What came of it.
struct Made {
    said: String,
    /// In force; the interface is not there yet.
    waits: bool,
}

/// Makes a change to its end, whether or not the client waits for it.
async fn made(shared: &Rc<Shared>, change: Change) -> Result<Made, Problem> {
    let shared = Rc::clone(shared);
    let made = task::spawn_local(async move { make(&shared, change).await });
    made.await.unwrap_or_else(|_| {
        let detail = "the daemon failed at this; see its log, and please report it";
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail))
    })
}

async fn make(shared: &Shared, change: Change) -> Result<Made, Problem> {
    let _turn = shared.changes.lock().await;
    let Change {
        who,
        what,
        request,
        role,
    } = change;
    // Everything that can be known before: an entry is of something that somebody could have done.
    let ledger = {
        let state = shared.state.borrow();
        state.check(&request)?;
        if let Request::Apply { config } = &request {
            let new = config::parse(config, "toml").map_err(Refusal::from)?;
            if let Some(section) = not_policy(state.file(), &new) {
                answer::may_only(role, Role::Admin, &format!("a change of {section}"))?;
            }
        }
        state.ledger()
    };
    enter(ledger.clone(), &who, what.clone()).await?;
    let done = shared.state.borrow_mut().answer(request);
    let made = match done {
        Ok(said) => Ok(Made { said, waits: false }),
        Err(refusal) if refusal.waiting => Ok(Made {
            said: refusal.message,
            waits: true,
        }),
        Err(refusal) => Err(Problem::from(refusal)),
    };
    match &made {
        Ok(made) => eprintln!("octroi: {who}: {what}: {}", made.said),
        Err(problem) => {
            let refused = format!("refused: {what}: {}", problem.detail());
            eprintln!("octroi: {who}: {refused}");
            // The first entry stands. That this one cannot be written is in the log, and changes nothing.
            if let Err(error) = enter(ledger, &who, refused).await {
                eprintln!("octroi: warning: {}", error.detail());
            }
        }
    }
    made
}

/// Enters what somebody is about to do; returns when that is durable. Without a ledger, the log has it.
async fn enter(ledger: Option<PathBuf>, who: &str, what: String) -> Result<(), Problem> {
    let Some(path) = ledger else {
        return Ok(());
    };
    let look = Look {
        at: i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
        who: who.to_owned(),
        what,
    };
    let mut tries = 0;
    let written = async {
        loop {
            let (path, look) = (path.clone(), look.clone());
            let entered = task::spawn_blocking(move || ledger::enter(&path, &look)).await;
            let error = match entered {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tries += 1;
            if tries == TRIES {
                return Err(error);
            }
            sleep(AGAIN).await;
        }
    };
    let written = timeout(ENTRY, written).await;
    let written = written.unwrap_or_else(|_| Err("its disk is slow or full".into()));
    written.map_err(|error| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("nothing is changed that cannot be entered in the ledger: {error}"),
        )
    })
}

/// The first section that a new configuration changes and the role `policy` may not.
fn not_policy(old: &Config, new: &Config) -> Option<&'static str> {
    let charged = |config: &Config| -> BTreeMap<u32, String> {
        let tenants = config.tenants.iter();
        let standard = tenants.filter(|tenant| {
            tenant.charge_class != config::ChargeClass::default()
                || !tenant.charge_changes.is_empty()
        });
        standard
            .map(|tenant| {
                let how = format!("{:?} {:?}", tenant.charge_class, tenant.charge_changes);
                (tenant.id.0, how)
            })
            .collect()
    };
    let others = [
        (old.sinks != new.sinks, "[[sink]]"),
        (old.uplinks != new.uplinks, "[[uplink]]"),
        (charged(old) != charged(new), "how a tenant is charged"),
    ];
    tables(old, new)
        .into_iter()
        .chain(others)
        .find_map(|(differs, section)| differs.then_some(section))
}

/// The sections that are there once, and whether they differ.
fn tables(old: &Config, new: &Config) -> [(bool, &'static str); 5] {
    [
        (old.host != new.host, "[host]"),
        (old.meter != new.meter, "[meter]"),
        (old.retention != new.retention, "[retention]"),
        (old.billing != new.billing, "[billing]"),
        (old.api != new.api, "[api]"),
    ]
}

/// What is different, by name, for an entry of the ledger.
fn difference(old: &Config, new: &Config) -> String {
    let mut said = Vec::new();
    let tables = tables(old, new).into_iter();
    let changed = tables.filter(|(differs, _)| *differs);
    said.extend(changed.map(|(_, section)| format!("changes {section}")));
    compare(&mut said, "sink", &old.sinks, &new.sinks, |sink| {
        sink.name.as_str()
    });
    compare(&mut said, "uplink", &old.uplinks, &new.uplinks, |uplink| {
        uplink.interface.as_str()
    });
    compare(&mut said, "zone", &old.zones, &new.zones, |zone| {
        zone.name.as_str()
    });
    compare(&mut said, "tenant", &old.tenants, &new.tenants, |tenant| {
        tenant.name.as_str()
    });
    compare(&mut said, "port", &old.ports, &new.ports, |port| {
        port.name.as_str()
    });
    // Its rules have no names, and their order counts.
    let under = |config: &Config| -> BTreeSet<String> {
        let rules = config.encryption.iter();
        rules.map(|rule| rule.tenant.as_str().to_owned()).collect()
    };
    for tenant in under(old).union(&under(new)) {
        let of = |config: &Config| -> Vec<config::Encryption> {
            let rules = config.encryption.iter();
            let rules = rules.filter(|rule| rule.tenant.as_str() == tenant);
            rules.cloned().collect()
        };
        if of(old) != of(new) {
            said.push(format!("changes [[encryption]] of tenant {tenant}"));
        }
    }
    let more = said.len().saturating_sub(NAMES_MAX);
    said.truncate(NAMES_MAX);
    if more != 0 {
        said.push(format!("and {more} more"));
    }
    if said.is_empty() {
        return "the same configuration".into();
    }
    said.join(", ")
}

fn compare<T: PartialEq + Debug>(
    said: &mut Vec<String>,
    kind: &str,
    old: &[T],
    new: &[T],
    name: fn(&T) -> &str,
) {
    let by_name = |items: &'_ [T]| -> BTreeMap<String, usize> {
        let items = items.iter().enumerate();
        items
            .map(|(place, item)| (name(item).to_owned(), place))
            .collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    for (key, place) in &after {
        match before.get(key) {
            None => said.push(format!("adds {kind} {key}")),
            Some(was) if old[*was] != new[*place] => said.push(format!("changes {kind} {key}")),
            Some(_) => {}
        }
    }
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    said.extend(gone.map(|key| format!("removes {kind} {key}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Config {
        config::parse(config::EXAMPLE, "example").expect("the example is legal")
    }

    #[test]
    fn the_role_policy_changes_ports_tenants_and_zones_and_nothing_else() {
        let changed = |from: &str, to: &str| {
            assert!(config::EXAMPLE.contains(from), "{from}");
            let text = config::EXAMPLE.replacen(from, to, 1);
            let new = config::parse(&text, "new").unwrap_or_else(|errors| panic!("{errors}"));
            not_policy(&example(), &new)
        };
        for (from, to, section) in [
            ("ports_max = 1024", "ports_max = 2048", Some("[host]")),
            ("window = \"60s\"", "window = \"30s\"", Some("[meter]")),
            ("flows = \"7d\"", "flows = \"8d\"", Some("[retention]")),
            ("\"UTC\"", "\"Europe/Paris\"", Some("[billing]")),
            (
                "policy = [\"octroi-policy\"]",
                "policy = [\"users\"]",
                Some("[api]"),
            ),
            (
                "overhead_bytes = 24",
                "overhead_bytes = 20",
                Some("[[uplink]]"),
            ),
            (
                "charge_class = \"standard\"",
                "charge_class = \"credit\"",
                Some("how a tenant is charged"),
            ),
            ("ceiling = \"200Mbit/s\"", "ceiling = \"300Mbit/s\"", None),
            ("id = 18", "id = 19", None),
            ("192.0.2.0/24", "198.51.100.0/24", None),
            ("mode = \"observe\"", "mode = \"off\"", None),
        ] {
            assert_eq!(changed(from, to), section, "{to}");
        }
        assert_eq!(not_policy(&example(), &example()), None);
    }

    #[test]
    fn an_entry_names_what_is_different() {
        let text = config::EXAMPLE
            .replacen("name = \"acme-vm1\"", "name = \"acme-vm9\"", 1)
            .replacen("id = 18", "id = 19", 1)
            .replacen("mode = \"observe\"", "mode = \"off\"", 1)
            .replacen("\"7d\"", "\"8d\"", 1);
        let new = config::parse(&text, "new").unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(
            difference(&example(), &new),
            "changes [retention], changes tenant globex, adds port acme-vm9, removes port acme-vm1, \
             changes [[encryption]] of tenant acme"
        );
        assert_eq!(difference(&new, &new), "the same configuration");
    }

    #[test]
    fn json_becomes_the_toml_of_a_port() {
        let body = json!({
            "name": "vm", "tenant": "acme", "interface": "tap0", "vlan": 7,
            "macs": ["52:54:00:00:00:01"], "addresses": ["10.0.0.5"],
            "from_tenant": { "ceiling": "200Mbit/s" },
        });
        let (name, text) = port_text(&body).expect("a port");
        let port = config::parse_port(&text, "port").expect("a port");
        assert_eq!((name.as_str(), port.name.as_str()), ("vm", "vm"));
        assert_eq!(port.vlan.map(|vlan| vlan.get()), Some(7));
        assert!(port.from_tenant.ceiling.is_some());
        for wrong in [
            json!([]),
            json!("x"),
            json!({ "name": null }),
            json!({ "vlan": 1e3 }),
        ] {
            assert!(port_text(&wrong).is_err(), "{wrong}");
        }
    }
}
