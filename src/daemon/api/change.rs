//! What can be changed, and who may: `daemon/change.rs` enters it in the ledger and makes it.

use super::{
    Answer, Shared, answer, look,
    peer::{Peer, Role},
    problem::{Problem, ok},
};
use crate::{
    config::{self, Config},
    daemon::{
        change::{self, Change, Made, NotEntered, difference, tables},
        control::Refusal,
        state::{State, Step},
    },
};
use hyper::StatusCode;
use serde_json::{Value, json};
use std::{collections::BTreeMap, rc::Rc};
use tokio::task;

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
        step: Step::PortAdd(text),
    };
    let done = made(shared, Wanted { change, role }).await?;
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
        step: Step::PortSet(text),
    };
    let done = made(shared, Wanted { change, role }).await?;
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
        step: Step::PortRemove(name.into()),
    };
    let done = made(shared, Wanted { change, role }).await?;
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
        step: Step::Apply(new.into()),
    };
    let done = made(shared, Wanted { change, role }).await?;
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

/// Whom an entry names.
pub fn who(peer: &Peer, role: Role) -> String {
    format!("{}, {}, by the API", peer.called(), role.name())
}

/// What an API's client wants, and as whom.
struct Wanted {
    change: Change,
    role: Role,
}

/// Makes a change to its end, whether or not the client waits for it.
async fn made(shared: &Rc<Shared>, wanted: Wanted) -> Result<Made, Problem> {
    let state = Rc::clone(&shared.state);
    let Wanted { change, role } = wanted;
    let may = move |state: &State, step: &Step| {
        if let Step::Apply(new) = step
            && let Some(section) = not_policy(state.file(), new)
        {
            answer::may_only(role, Role::Admin, &format!("a change of {section}"))?;
        }
        Ok(())
    };
    let made = task::spawn_local(async move { change::make(&state, change, may).await });
    made.await.unwrap_or_else(|_| {
        let detail = "the daemon failed at this; see its log, and please report it";
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail))
    })
}

impl From<NotEntered> for Problem {
    fn from(why: NotEntered) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, why.to_string())
    }
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
        (old.provide != new.provide, "[[provide]]"),
        (charged(old) != charged(new), "how a tenant is charged"),
    ];
    tables(old, new)
        .into_iter()
        .chain(others)
        .find_map(|(differs, section)| differs.then_some(section))
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
            ("bytes = \"20TB\"", "bytes = \"25TB\"", None),
            ("192.0.2.0/24", "198.51.100.0/24", None),
            ("mode = \"observe\"", "mode = \"off\"", None),
        ] {
            assert_eq!(changed(from, to), section, "{to}");
        }
        assert_eq!(not_policy(&example(), &example()), None);
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
