//! quinn's server on the remote end, and its client in a tenant's namespace.

use super::{
    place::Place,
    rustls_ends::{Credentials, client, credentials, server},
};
use anyhow::{Context as _, Result};
use octroi::lab::traffic::inside;
use quinn::{
    Endpoint, EndpointConfig, TokioRuntime,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{crypto::ring, version::TLS13};
use std::{
    future::Future,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// A server that says again what it is told, for as long as it is held.
pub struct Server(Arc<AtomicBool>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn endpoint(bind: SocketAddr, server: Option<quinn::ServerConfig>) -> Result<Endpoint> {
    let socket = UdpSocket::bind(bind)?;
    let config = EndpointConfig::default();
    Ok(Endpoint::new(
        config,
        server,
        socket,
        Arc::new(TokioRuntime),
    )?)
}

impl Server {
    pub fn start(place: &Place, port: u16) -> Result<Self> {
        let credentials: Credentials =
            credentials("encryption_ends: QUIC")?.context("there is no openssl")?;
        let config = server(&credentials, ring::default_provider(), &[&TLS13])?;
        let config =
            quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config)?));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        inside(place.site.remote.open()?, move || {
            block_on(async move {
                let endpoint = endpoint(SocketAddr::from(([0, 0, 0, 0], port)), Some(config))?;
                while !stopped.load(Relaxed) {
                    let tick = tokio::time::sleep(Duration::from_millis(50));
                    tokio::select! {
                        incoming = endpoint.accept() => {
                            if let Some(incoming) = incoming {
                                tokio::spawn(say_again(incoming));
                            }
                        }
                        () = tick => {}
                    }
                }
                Ok(())
            })
        });
        place.listens("u", port)?;
        Ok(Self(stop))
    }
}

async fn say_again(incoming: quinn::Incoming) -> Result<()> {
    let connection = incoming.await?;
    let (mut out, mut inward) = connection.accept_bi().await?;
    out.write_all(&inward.read_to_end(1 << 26).await?).await?;
    out.finish()?;
    connection.closed().await;
    Ok(())
}

/// What comes back of `said`.
pub fn echo(place: &Place, tenant: usize, port: u16, said: &[u8]) -> Result<Vec<u8>> {
    let config = client(ring::default_provider(), &[&TLS13])?;
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?));
    let (to, said) = (SocketAddr::new(place.remote()?, port), said.to_vec());
    inside(place.site.tenants[tenant].open()?, move || {
        block_on(async move {
            let mut endpoint = endpoint(SocketAddr::from(([0, 0, 0, 0], 0)), None)?;
            endpoint.set_default_client_config(config);
            let work = async {
                let connection = endpoint.connect(to, "remote.example")?.await?;
                let (mut out, mut inward) = connection.open_bi().await?;
                out.write_all(&said).await?;
                out.finish()?;
                let heard = inward.read_to_end(1 << 26).await?;
                connection.close(0_u32.into(), b"");
                anyhow::Ok(heard)
            };
            tokio::time::timeout(Duration::from_secs(4), work)
                .await
                .context("no answer")?
        })
    })
    .join()
    .map_err(|_| anyhow::anyhow!("panicked"))?
}
