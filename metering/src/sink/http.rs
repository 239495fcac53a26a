//! Where a service is that speaks HTTP.

use super::trust;
use hyper::Uri;
use std::path::Path;

/// An address in its parts.
#[derive(Debug)]
pub(super) struct Address {
    pub is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// As the header `Host` has it.
    pub authority: String,
    /// From the slash on.
    pub path: String,
}

impl Address {
    /// Of a service; `example`: one that is right, in quotes.
    ///
    /// # Errors
    /// A line for people: what is wrong, and what to write instead.
    pub fn of(url: &str, ca_file: Option<&Path>, example: &str) -> Result<Self, String> {
        let none = |why: String| format!("it is no address of a service ({why}); write {example}");
        let uri: Uri = url
            .parse()
            .map_err(|error: hyper::http::uri::InvalidUri| none(error.to_string()))?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(none("it begins neither with https nor with http".into())),
        };
        let authority = uri.authority().ok_or_else(|| none("no host".into()))?;
        if authority.as_str().contains('@') {
            return Err(
                "it has a name or a password; write a token into a file, and the file's name as `token_file`"
                    .into(),
            );
        }
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(none("no host".into()));
        }
        match (is_tls, ca_file) {
            (true, None) => {
                return Err(
                    "it is https; write `ca_file`, the certificates to trust, such as \
                            /etc/ssl/certs/ca-certificates.crt"
                        .into(),
                );
            }
            (false, Some(_)) => {
                return Err("it is http, and `ca_file` is for https; write https".into());
            }
            (false, None) if trust::is_far(host) => {
                return Err("its host is another machine; write https and `ca_file`, so that records are not sent in clear".into());
            }
            _ => {}
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            is_tls,
            host: host.to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            path: path.to_owned(),
        })
    }
}
