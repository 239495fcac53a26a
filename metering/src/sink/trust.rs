//! Whom a sink trusts: certificates that the server's must descend from, and secrets in files of their own.

use super::SinkError;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use std::{path::Path, sync::Arc};

fn refused(path: &Path, error: &dyn std::fmt::Display) -> SinkError {
    SinkError::Refused(format!("{}: {error}", path.display()))
}

/// TLS that trusts the certificates of a PEM file, and nobody else.
pub(super) fn tls(ca_file: &Path) -> Result<ClientConfig, SinkError> {
    let refused = |error: &dyn std::fmt::Display| refused(ca_file, error);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|error| refused(&error))? {
        let certificate = certificate.map_err(|error| refused(&error))?;
        roots.add(certificate).map_err(|error| refused(&error))?;
    }
    if roots.is_empty() {
        return Err(refused(&"no certificate is in it"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(&error))?;
    Ok(tls.with_root_certificates(roots).with_no_client_auth())
}

/// A password or token: the file's text without the end of its line.
pub(super) fn secret(path: &Path) -> Result<String, SinkError> {
    let text = std::fs::read_to_string(path).map_err(|error| refused(path, &error))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(refused(path, &"it is empty; write the secret into it"));
    }
    Ok(secret.to_owned())
}

/// Whether a name is another machine's.
pub(super) fn is_far(name: &str) -> bool {
    let address = name.parse::<std::net::IpAddr>();
    name != "localhost" && !address.is_ok_and(|address| address.is_loopback())
}
