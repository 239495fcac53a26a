//! Where a Lago is, and which subscription is whose.

use crate::sink::http::Address;
use std::{fmt, path::PathBuf, str::FromStr};

/// Longest id of a subscription and longest code, bytes.
const NAME_BYTES_MAX: usize = 128;

/// Whose events a subscription gets. Written `17 sub_1234`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Number of the tenant: names change, and a tenant that is gone from the configuration still has records to deliver.
    pub tenant: u32,
    /// Lago's `external_subscription_id`.
    pub id: String,
}

impl FromStr for Subscription {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once(' ')
            .map(|(tenant, id)| (tenant.parse::<u32>(), id));
        match parts {
            Some((Ok(tenant), id)) if tenant != 0 && is_name(id) => Ok(Self {
                tenant,
                id: id.to_owned(),
            }),
            _ => Err(
                "a subscription is a tenant's number and its external_subscription_id at Lago, with a space between; write \"17 sub_1234\""
                    .into(),
            ),
        }
    }
}

impl fmt::Display for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.tenant, self.id)
    }
}

fn is_name(text: &str) -> bool {
    let legal = |c: char| !c.is_control() && !c.is_whitespace();
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.chars().all(legal)
}

/// Where a Lago is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What is before `/api/v1`: `https://lago.example`.
    pub url: String,
    /// A file with an API key and nothing else.
    pub token_file: PathBuf,
    /// Certificates, PEM, that the server's must descend from; with `https` only, and then it must be there.
    pub ca_file: Option<PathBuf>,
    /// The billable metric's code.
    pub code: String,
    /// Whose events go where, a tenant once each.
    pub subscriptions: Vec<Subscription>,
}

const EXAMPLE: &str = "\"https://lago.example\"";

impl Target {
    /// What is wrong with it that can be told without asking anybody: what, and what to write instead.
    ///
    /// # Errors
    /// A line for people.
    pub fn check(&self) -> Result<(), String> {
        let address = self.address()?;
        if address.path.contains("/api/") || address.path.contains('?') {
            return Err(format!(
                "it has more than the place of the server; write {EXAMPLE}, without /api/v1"
            ));
        }
        Ok(())
    }

    /// What is wrong with a code.
    ///
    /// # Errors
    /// A line for people.
    pub fn check_code(text: &str) -> Result<(), String> {
        if is_name(text) {
            return Ok(());
        }
        Err(format!(
            "a billable metric has a code of 1 to {NAME_BYTES_MAX} bytes without spaces; write \"octroi_bytes\""
        ))
    }

    /// What it is and where, in words; nothing secret.
    #[must_use]
    pub fn describe(&self) -> String {
        format!(
            "events of the billable metric {} to Lago at {}, {} subscriptions",
            self.code,
            self.url,
            self.subscriptions.len()
        )
    }

    pub(super) fn address(&self) -> Result<Address, String> {
        Address::of(&self.url, self.ca_file.as_deref(), EXAMPLE)
    }

    /// The subscription of a tenant.
    pub(super) fn subscription(&self, tenant: u32) -> Option<&str> {
        let mut all = self.subscriptions.iter();
        let found = all.find(|subscription| subscription.tenant == tenant)?;
        Some(&found.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_a_number_and_a_name_and_prints_as_it_is_read() {
        for right in ["17 sub_1234", "4294967295 a", "1 é/?&"] {
            let read: Subscription = right.parse().expect(right);
            assert_eq!(read.to_string(), right);
        }
        for wrong in [
            "",
            "17",
            "17 ",
            " a",
            "0 a",
            "-1 a",
            "4294967296 a",
            "acme a",
            "17  a",
            "17 a b",
            "17 a\n",
        ] {
            assert!(wrong.parse::<Subscription>().is_err(), "{wrong:?}");
        }
    }
}
