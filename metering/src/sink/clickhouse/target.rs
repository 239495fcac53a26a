//! Where a server is, and which database of it.

use crate::sink::http::Address;
use std::path::PathBuf;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its HTTP interface, the user, and after the slash the database: `https://octroi@clickhouse.example:8443/metering`.
    pub url: String,
    /// A file with the user's password and nothing else.
    pub password_file: Option<PathBuf>,
    /// Certificates, PEM, that the server's must descend from; with `https` only, and then it must be there.
    pub ca_file: Option<PathBuf>,
}

/// An address in its parts.
pub(super) struct Place {
    pub address: Address,
    pub user: Option<String>,
    pub database: String,
}

const EXAMPLE: &str = "\"https://octroi@clickhouse.example:8443\"";

impl Target {
    /// The database of an address that names none.
    pub const DATABASE: &str = "octroi";

    /// What is wrong with it that can be told without asking anybody: what, and what to write instead.
    ///
    /// # Errors
    /// A line for people.
    pub fn check(&self) -> Result<(), String> {
        self.place().map(drop)
    }

    /// What it is and where, in words; nothing secret.
    #[must_use]
    pub fn describe(&self) -> String {
        let Ok(place) = self.place() else {
            return "a ClickHouse database".into();
        };
        let tls = if place.address.is_tls {
            ", over TLS"
        } else {
            ""
        };
        format!(
            "the ClickHouse database {} at {}{tls}",
            place.database, place.address.authority
        )
    }

    pub(super) fn place(&self) -> Result<Place, String> {
        // What stands before an `@` is no part of where it is.
        let (url, user) = match self.url.split_once("://") {
            Some((scheme, rest)) => match rest.split('/').next().and_then(|it| it.rsplit_once('@'))
            {
                Some((user, _)) => (
                    format!("{scheme}://{}", &rest[user.len() + 1..]),
                    Some(user.to_owned()),
                ),
                None => (self.url.clone(), None),
            },
            None => (self.url.clone(), None),
        };
        let address = Address::of(&url, self.ca_file.as_deref(), EXAMPLE)?;
        let is_word = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        match (&user, &self.password_file) {
            (Some(user), _) if user.contains(':') => {
                return Err(
                    "it has a password; write that into a file, and the file's name as `password_file`"
                        .into(),
                );
            }
            (Some(user), _) if user.is_empty() || !user.chars().all(is_word) => {
                return Err(
                    "its user has other characters than letters, digits, `_`, `-` and `.`".into(),
                );
            }
            (None, Some(_)) => {
                return Err(format!(
                    "it has no user whose password is in `password_file`; write {EXAMPLE}"
                ));
            }
            _ => {}
        }
        let database = match address.path.trim_start_matches('/') {
            "" => Self::DATABASE,
            name => name,
        };
        let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
        let is_name = database.starts_with(begins)
            && database
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name || database.len() > 64 {
            return Err(format!(
                "after its slash stands the name of a database, letters, digits and `_`; write {EXAMPLE}"
            ));
        }
        Ok(Place {
            database: database.to_owned(),
            address,
            user,
        })
    }
}
