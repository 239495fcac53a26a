//! Changes of policy, whoever asks for them: entered in the ledger, then made, one after the other.
//!
//! Invariants (`tests/api.rs`, `tests/hooks.rs`; decision 0031)
//! - What the API, the control socket or SIGHUP changes is in the ledger before it is made, with who and what. What
//!   cannot be entered is not made; what is refused after its entry has a second one that says so.
//! - Entries are in the order in which the changes are made.
//! - Without `[meter]` there is no ledger, and the daemon's log has the same line.

use super::{
    control::Refusal,
    state::{State, Step},
};
use crate::config::{self, Config};
use jiff::Timestamp;
use metering::ledger::{self, Look};
use std::{
    cell::RefCell,
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

/// What somebody wants.
pub(super) struct Change {
    pub who: String,
    pub what: String,
    pub step: Step,
}

/// What came of it.
pub(super) struct Made {
    pub said: String,
    /// In force; the interface is not there yet.
    pub waits: bool,
}

/// The ledger cannot be written, so nothing is changed.
#[derive(Debug, thiserror::Error)]
#[error("nothing is changed that cannot be entered in the ledger: {0}")]
pub(super) struct NotEntered(String);

impl From<NotEntered> for Refusal {
    fn from(why: NotEntered) -> Self {
        Self::system(why.to_string())
    }
}

/// Enters a change and makes it. `may` is asked beforehand, as is everything else that can be known then: an entry
/// is of something that somebody could have done.
///
/// # Errors
/// Why not.
pub(super) async fn make<E: From<Refusal> + From<NotEntered>>(
    state: &Rc<RefCell<State>>,
    change: Change,
    may: impl FnOnce(&State, &Step) -> Result<(), E>,
) -> Result<Made, E> {
    let changes = state.borrow().changes();
    let _turn = changes.lock().await;
    let Change { who, what, step } = change;
    let ledger = {
        let state = state.borrow();
        state.check(&step)?;
        may(&state, &step)?;
        state.ledger()
    };
    enter(ledger.clone(), &who, what.clone()).await?;
    let done = state.borrow_mut().change(step);
    match done {
        Ok(said) => {
            eprintln!("octroi: {who}: {what}: {said}");
            Ok(Made { said, waits: false })
        }
        Err(refusal) if refusal.waiting => {
            let said = refusal.message;
            eprintln!("octroi: {who}: {what}: {said}");
            Ok(Made { said, waits: true })
        }
        Err(refusal) => {
            let why = refusal.message.lines().next().unwrap_or_default();
            let refused = format!("refused: {what}: {why}");
            eprintln!("octroi: {who}: {refused}");
            // The first entry stands. That this one cannot be written is in the log, and changes nothing.
            if let Err(error) = enter(ledger, &who, refused).await {
                eprintln!("octroi: warning: {error}");
            }
            Err(refusal.into())
        }
    }
}

/// Enters what somebody is about to do; returns when that is durable.
pub(super) async fn enter(
    ledger: Option<PathBuf>,
    who: &str,
    what: String,
) -> Result<(), NotEntered> {
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
    written.map_err(NotEntered)
}

/// A port's TOML as JSON, as the API enters it.
pub(super) fn on_one_line(port: &str) -> Result<String, Refusal> {
    // Its mistakes are told as those of every port are.
    config::parse_port(port, "port")?;
    let table: toml::Table = toml::from_str(port).map_err(anyhow::Error::from)?;
    Ok(serde_json::to_string(&table).map_err(anyhow::Error::from)?)
}

/// The sections that are there once, and whether they differ.
pub(super) fn tables(old: &Config, new: &Config) -> [(bool, &'static str); 6] {
    [
        (old.host != new.host, "[host]"),
        (old.meter != new.meter, "[meter]"),
        (old.retention != new.retention, "[retention]"),
        (old.billing != new.billing, "[billing]"),
        (old.api != new.api, "[api]"),
        (old.metrics != new.metrics, "[metrics]"),
    ]
}

/// What is different, by name, for an entry of the ledger.
pub(super) fn difference(old: &Config, new: &Config) -> String {
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
    said.extend(quotas(old, new));
    compare(&mut said, "port", &old.ports, &new.ports, |port| {
        port.name.as_str()
    });
    compare(
        &mut said,
        "encryption_profile",
        &old.encryption_profiles,
        &new.encryption_profiles,
        |profile| profile.name.as_str(),
    );
    compare(&mut said, "provide", &old.provide, &new.provide, |tunnel| {
        tunnel.name.as_str()
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
        let profiles = |config: &Config| -> Vec<Option<config::OwnProfile>> {
            let named = of(config).into_iter().map(|rule| match rule.profile {
                config::Accepts::BuiltIn(_) => None,
                config::Accepts::Own(name) => config.own_profile(&name).cloned(),
            });
            named.collect()
        };
        if of(old) != of(new) || profiles(old) != profiles(new) {
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

/// Budgets that differ, of tenants that were there before: an entry says by how much.
fn quotas<'c>(old: &'c Config, new: &'c Config) -> impl Iterator<Item = String> + use<'c> {
    let words = |quota: &Option<config::Quota>| match quota {
        Some(quota) => format!("{} a {}, then {}", quota.bytes, quota.period, quota.then),
        None => "none".into(),
    };
    let before: BTreeMap<&str, _> = old
        .tenants
        .iter()
        .map(|tenant| (tenant.name.as_str(), &tenant.quota))
        .collect();
    new.tenants.iter().filter_map(move |tenant| {
        let was = before.get(tenant.name.as_str())?;
        (**was != tenant.quota).then(|| {
            format!(
                "quota of tenant {}: {} → {}",
                tenant.name,
                words(was),
                words(&tenant.quota)
            )
        })
    })
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
    fn a_port_is_entered_on_one_line() {
        let port = "name = \"vm\"\ntenant = \"acme\"\ninterface = \"tap0\"\nmacs = [\n\"52:54:00:00:00:01\" ]\n\
                    addresses = [\"10.0.0.5\"]\n\
                    from_tenant = { ceiling = \"2Mbit/s\" }\n";
        let line = on_one_line(port).expect("a port");
        assert!(!line.contains('\n'), "{line}");
        assert!(line.contains("\"ceiling\":\"2Mbit/s\""), "{line}");
        assert!(on_one_line("name = 1").is_err());
        assert!(on_one_line("[[port]]\nname = 1").is_err());
    }
}
