//! Where a collector is, and how it is reached.

use crate::sink::trust;
use hyper::Uri;
use std::path::PathBuf;

/// How messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A connection of TCP.
    Tcp,
    /// One with TLS in it (RFC 7011 §11.1).
    Tls,
    /// Datagrams.
    Udp,
}

/// Where a collector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `tcp://`, `tls://` or `udp://`, host and port: `tls://collector.example:4740`.
    pub url: String,
    /// The observation domain (RFC 7011 §3.1), at least 1: what tells hosts apart that a collector sees behind one address.
    pub domain: u32,
    /// Flow detail may go to another machine without TLS.
    pub in_clear: bool,
    /// Certificates, PEM, that the collector's must descend from; with `tls` only, and then it must be there.
    pub ca_file: Option<PathBuf>,
}

const EXAMPLE: &str = "\"tls://collector.example:4740\"";

impl Target {
    /// The observation domain where none is written.
    pub const DOMAIN: u32 = 1;

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
        let clear = if self.in_clear { ", in clear" } else { "" };
        format!(
            "flow detail as IPFIX to {}, observation domain {}{clear}",
            self.url, self.domain
        )
    }

    /// How, host without brackets, and port.
    pub(super) fn address(&self) -> Result<(Scheme, String, u16), String> {
        let none =
            |why: String| format!("it is no address of a collector ({why}); write {EXAMPLE}");
        let uri: Uri = self
            .url
            .parse()
            .map_err(|error: hyper::http::uri::InvalidUri| none(error.to_string()))?;
        // RFC 7011 §10.1 and §11.1: the ports that IANA has for IPFIX.
        let (scheme, port) = match uri.scheme_str() {
            Some("tcp") => (Scheme::Tcp, 4_739),
            Some("udp") => (Scheme::Udp, 4_739),
            Some("tls") => (Scheme::Tls, 4_740),
            _ => return Err(none("it begins with none of tls, tcp and udp".into())),
        };
        let authority = uri.authority().ok_or_else(|| none("no host".into()))?;
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(none("a host and a port are all of it".into()));
        }
        if !matches!(
            uri.path_and_query().map(|path| path.as_str()),
            None | Some("/" | "")
        ) {
            return Err(none("it has a path".into()));
        }
        match (scheme, &self.ca_file) {
            (Scheme::Tls, None) => {
                return Err(
                    "it is tls; write `ca_file`, the certificates to trust, such as \
                     /etc/ssl/certs/ca-certificates.crt"
                        .into(),
                );
            }
            (Scheme::Tcp | Scheme::Udp, Some(_)) => {
                return Err("`ca_file` is for tls; write tls".into());
            }
            (Scheme::Tcp | Scheme::Udp, None) if trust::is_far(host) && !self.in_clear => {
                return Err(
                    "its host is another machine; write tls and `ca_file`, or `in_clear = true` where the network between is \
                     yours alone: flow detail says who talked to whom"
                        .into(),
                );
            }
            _ => {}
        }
        Ok((
            scheme,
            host.to_owned(),
            authority.port_u16().unwrap_or(port),
        ))
    }
}
