//! Certificates, and a service behind TLS.

use crate::fake::{self, Service};
use anyhow::Result;
use std::{net::TcpListener, path::Path};

/// The same service behind TLS; its address.
pub fn service(service: &Service, certificate: &Path, key: &Path) -> Result<String> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(certificate)?],
            PrivateKeyDer::from_pem_file(key)?,
        )?;
    let config = std::sync::Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!(
        "https://localhost:{}/api/v1/events",
        listener.local_addr()?.port()
    );
    let state = service.state.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Ok(connection) = rustls::ServerConnection::new(config.clone()) {
                fake::serve(Tls(rustls::StreamOwned::new(connection, stream)), &state);
            }
        }
    });
    Ok(url)
}

struct Tls(rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>);

impl std::io::Read for Tls {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl std::io::Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl fake::Shut for Tls {
    fn shut(&mut self) {
        self.0.sock.shut();
    }
}
