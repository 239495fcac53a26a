//! `[metrics]`: where Prometheus asks, and as which user.

use super::{
    api::loopback,
    draft::{Field, List},
    file::{header, key},
    reader::{Key, Reader},
    values::{ValueError, shown},
};
use std::net::SocketAddr;

pub(super) const METRICS: Key = header("metrics", "[metrics]");
const LISTEN: Key = key("listen", "\"127.0.0.1:9464\"");
const USERS: Key = key("users", "[\"prometheus\"]");
const KEYS: [Key; 2] = [LISTEN, USERS];

/// `useradd` makes no longer name.
const USER_BYTES_MAX: usize = 32;

/// `[metrics]`: an address that Prometheus scrapes. Root may, whoever is written here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// A loopback address.
    pub listen: SocketAddr,
    /// Names of the users who may.
    pub users: Vec<String>,
}

/// `[metrics]` as the file has it.
pub(super) struct DraftMetrics {
    listen: Field<SocketAddr>,
    users: List<String>,
}

impl DraftMetrics {
    /// One that was checked before.
    pub fn of(metrics: &Metrics) -> Self {
        Self {
            listen: Field::of(metrics.listen),
            users: List::of(&metrics.users),
        }
    }

    /// The section; `None` if a value of it was refused.
    pub fn build(self) -> Option<Metrics> {
        Some(Metrics {
            listen: self.listen.required()?,
            users: self.users.values()?,
        })
    }
}

/// Reads the section; `None` when there is none.
pub(super) fn read(root: &mut Reader<'_, '_, '_>) -> Option<DraftMetrics> {
    let table = match root.table(METRICS) {
        Ok(None) => return None,
        Ok(Some(table)) => table,
        Err(()) => {
            return Some(DraftMetrics {
                listen: Field::Bad,
                users: List::of(&[]),
            });
        }
    };
    let label = ("metrics", "[metrics]");
    let mut metrics = Reader::open(table, label, &KEYS, root.faults());
    let listen = metrics.text(LISTEN, |text| {
        loopback(text, 9_464, "let a Prometheus on this host ask")
    });
    Some(DraftMetrics {
        listen: metrics.required(LISTEN, listen),
        users: metrics.texts(USERS, user),
    })
}

fn user(text: &str) -> Result<String, ValueError> {
    let legal = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, ':' | ',' | '/');
    if text.is_empty() || text.len() > USER_BYTES_MAX || !text.chars().all(legal) {
        return Err(ValueError(format!(
            "{} is no user; write a user's name such as prometheus",
            shown(text)
        )));
    }
    Ok(text.to_owned())
}
