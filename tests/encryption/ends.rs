//! Two ends of rustls, with a key and a certificate that OpenSSL makes.
#![allow(dead_code, reason = "each test uses its own part of this")]

use anyhow::{Result, ensure};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    version::{TLS12, TLS13},
};
use std::{process::Command, sync::Arc};

/// What a client offers and a server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    Both,
    Only12,
    /// The server has no group that the client sent a key for: HelloRetryRequest.
    Retry,
}

/// A key and its certificate.
pub struct Credentials {
    key: Vec<u8>,
    certificate: Vec<u8>,
}

/// Made by OpenSSL; `None`: there is none, and `test` is skipped.
pub fn credentials(test: &str) -> Result<Option<Credentials>> {
    let folder = std::env::temp_dir().join(format!("octroi-credentials-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.der"));
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args(["-subj", "/CN=remote.example", "-outform", "DER", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    let Ok(made) = made else {
        println!("SKIPPED: {test}: there is no openssl");
        return Ok(None);
    };
    ensure!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let der = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"])
        .arg(&key)
        .output()?;
    let read = Credentials {
        key: der.stdout,
        certificate: std::fs::read(&certificate)?,
    };
    std::fs::remove_dir_all(&folder)?;
    Ok(Some(read))
}

/// Takes any certificate: who the server is, is not what is tested.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client of these versions that takes any certificate.
pub fn client(
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ClientConfig> {
    let provider = Arc::new(provider);
    Ok(ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth())
}

/// A server of these versions.
pub fn server(
    credentials: &Credentials,
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(credentials.key.clone()));
    let chain = vec![CertificateDer::from(credentials.certificate.clone())];
    Ok(ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_single_cert(chain, key)?)
}

/// A client and a server of these versions, whose records carry `fragment` bytes at most.
pub fn ends(
    credentials: &Credentials,
    versions: Versions,
    fragment: usize,
) -> Result<(ClientConnection, ServerConnection)> {
    let provider = ring::default_provider();
    let mut serving = provider.clone();
    if versions == Versions::Retry {
        // The client sends a key for the first of its groups only.
        serving.kx_groups.remove(0);
    }
    let allowed: &[_] = match versions {
        Versions::Only12 => &[&TLS12],
        _ => &[&TLS13, &TLS12],
    };
    let mut client = client(provider, allowed)?;
    let mut server = server(credentials, serving, allowed)?;
    client.max_fragment_size = Some(fragment);
    server.max_fragment_size = Some(fragment);
    let name = ServerName::try_from("remote.example")?;
    Ok((
        ClientConnection::new(Arc::new(client), name)?,
        ServerConnection::new(Arc::new(server))?,
    ))
}
