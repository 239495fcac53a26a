//! Where a service is.

use crate::sink::http::Address;
use std::path::PathBuf;

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where events are posted: `https://billing.example/api/v1/events`.
    pub url: String,
    /// A file with the bearer token and nothing else.
    pub token_file: Option<PathBuf>,
    /// Certificates, PEM, that the server's must descend from; with `https` only, and then it must be there.
    pub ca_file: Option<PathBuf>,
}

const EXAMPLE: &str = "\"https://billing.example/api/v1/events\"";

impl Target {
    /// What is wrong with it that can be told without asking anybody: what, and what to write instead.
    ///
    /// # Errors
    /// A line for people.
    pub fn check(&self) -> Result<(), String> {
        self.address().map(drop)
    }

    /// What it is and where, in words; nothing secret.
    #[must_use]
    pub fn describe(&self) -> String {
        let token = if self.token_file.is_some() {
            ", with a token"
        } else {
            ""
        };
        format!("CloudEvents in batches to {}{token}", self.url)
    }

    pub(super) fn address(&self) -> Result<Address, String> {
        Address::of(&self.url, self.ca_file.as_deref(), EXAMPLE)
    }
}
