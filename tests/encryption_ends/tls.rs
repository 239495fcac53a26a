//! TLS in its less usual forms: another hello, resumption, early data, bulk through curl, a hybrid post-quantum group.

use super::{
    place::{ALL, NONE, Place, TLS, has, noise},
    rustls_ends::{client, credentials, server},
};
use anyhow::{Context as _, Result, ensure};
use octroi::lab::{
    site::{REMOTE, ipv4},
    traffic::inside,
};
use rustls::{ClientConnection, NamedGroup, ServerConnection, StreamOwned, version::TLS13};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

/// What OpenSSL's client of a tenant prints when it asks for the page of its server.
fn s_client(place: &Place, tenant: usize, port: u16, options: &[&str]) -> Result<String> {
    let to = format!("{}:{port}", ipv4(REMOTE));
    let mut command = vec!["openssl", "s_client", "-no_ign_eof", "-connect", &to];
    command.extend(options);
    let linger = Duration::from_millis(700);
    let output = place.run(tenant, 5, &command, b"GET / HTTP/1.0\r\n\r\n", linger)?;
    let both = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&both).into_owned())
}

fn page(said: &str) -> Result<()> {
    ensure!(said.contains(octroi::lab::ends::PAGE), "no page:\n{said}");
    Ok(())
}

pub fn hellos_pass(place: &mut Place) -> Result<()> {
    if !has("encryption_ends: hellos", &["openssl"]) {
        return Ok(());
    }
    let credentials = place.certificate()?;
    let serve = |place: &Place, port: u16, options: &[&str]| {
        let options = [&["-www"], options].concat();
        place.openssl(("t", port), &credentials, &options, "")
    };
    // The server has no group that the client sends a key for.
    let _retry = serve(place, 4_460, &["-groups", "P-384"])?;
    place.passes(ALL, "HelloRetryRequest", ("E3", 1), || {
        let said = s_client(place, ALL, 4_460, &["-msg", "-groups", "X25519:P-384"])?;
        let hellos = said.matches("ClientHello").count();
        ensure!(hellos == 2, "{hellos} hellos of the client:\n{said}");
        page(&said)
    })?;

    // A session of before, with each version.
    let _plain = serve(place, 4_461, &[])?;
    let session = place.site.directory().join("session").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        for (option, is_old) in [("-sess_out", false), ("-sess_in", true)] {
            place.passes(ALL, &format!("{version} {option}"), ("E3", 1), || {
                let said = s_client(place, ALL, 4_461, &[version, option, &session])?;
                let reused = said.contains("Reused, TLS");
                ensure!(reused == is_old, "reused: {reused}:\n{said}");
                page(&said)
            })?;
        }
    }

    // A suite that encrypts nothing: chosen by both ends, and cut at the hello of the server.
    let null = ["-tls1_2", "-cipher", "eNULL:@SECLEVEL=0"];
    let _null = serve(place, 4_464, &null)?;
    page(&s_client(place, NONE, 4_464, &null)?).context("no NULL suite here")?;
    place.is_cut(ALL, "a suite that encrypts nothing", || {
        Ok(page(&s_client(place, ALL, 4_464, &null)?).is_ok())
    })?;

    // Early data: no built-in profile takes it. OpenSSL's server prints what it is told so.
    const EARLY: &str = "told early";
    let file = place.site.directory().join("early");
    std::fs::write(&file, EARLY)?;
    let file = file.display().to_string();
    let early = ["-tls1_3", "-sess_in", &session, "-early_data", &file];
    for (tenant, port) in [(NONE, 4_462), (ALL, 4_463)] {
        let options = ["-early_data", "-tls1_3"];
        let _server = place.openssl(("t", port), &credentials, &options, "good day")?;
        let said = s_client(place, tenant, port, &["-tls1_3", "-sess_out", &session])?;
        ensure!(said.contains("good day"), "no session:\n{said}");
        let arrives = || -> Result<bool> {
            s_client(place, tenant, port, &early)?;
            Ok(place.printed(port).contains(EARLY))
        };
        if tenant == NONE {
            ensure!(arrives()?, "no early data here:\n{}", place.printed(port));
        } else {
            place.is_cut(ALL, "early data", arrives)?;
        }
    }
    place.adds_up()
}

/// curl fetches a large page from OpenSSL's server, in segments as large as GSO makes them.
pub fn curl_passes(place: &mut Place) -> Result<()> {
    if !has("encryption_ends: curl", &["openssl", "curl"]) {
        return Ok(());
    }
    let (key, certificate) = place.certificate()?;
    let file = place.site.directory().join("bulk");
    let bulk = noise(8_000_000);
    std::fs::write(&file, &bulk)?;
    let directory = place.site.directory().display().to_string();
    let args = [
        "--chdir",
        &directory,
        "openssl",
        "s_server",
        "-HTTP",
        "-quiet",
        "-accept",
        "4470",
        "-key",
        &key,
        "-cert",
        &certificate,
    ];
    let _server = place.serve("env", &args, "t", 4_470)?;
    for version in ["--tls-max=1.2", "--tlsv1.3"] {
        place.passes(ALL, &format!("curl {version}"), ("E3", 20_000), || {
            let url = format!("https://{}:4470/bulk", ipv4(REMOTE));
            let version: Vec<&str> = version.split('=').collect();
            let mut command = vec!["curl", "-skS", "--http0.9", "--max-time", "15", &url];
            let option = if version[0] == "--tls-max" {
                vec!["--tls-max", "1.2"]
            } else {
                vec!["--tlsv1.3"]
            };
            command.extend(option);
            let output = place.run(ALL, 20, &command, b"", Duration::ZERO)?;
            let body = output.stdout.ends_with(&bulk);
            ensure!(
                body,
                "{} bytes came: {}",
                output.stdout.len(),
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Does this processor have what graviola is written for?
fn has_graviola(test: &str) -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let missing = ["aes", "ssse3", "pclmulqdq", "bmi2", "adx", "avx2"]
        .into_iter()
        .find(|flag| !flags.split_whitespace().any(|word| word == *flag));
    if let Some(flag) = missing {
        println!("SKIPPED: {test}: this processor has no {flag}, and graviola wants it");
    }
    missing.is_none()
}

/// A hybrid group, whose hello of the client takes two segments.
pub fn post_quantum_passes(place: &mut Place) -> Result<()> {
    const TEST: &str = "encryption_ends: X25519MLKEM768";
    let (Some(credentials), true) = (credentials(TEST)?, has_graviola(TEST)) else {
        return Ok(());
    };
    let mut provider = rustls_graviola::default_provider();
    provider
        .kx_groups
        .retain(|group| group.name() == NamedGroup::X25519MLKEM768);
    ensure!(
        !provider.kx_groups.is_empty(),
        "graviola has no X25519MLKEM768"
    );
    let served = Arc::new(server(&credentials, provider.clone(), &[&TLS13])?);
    let asks = Arc::new(client(provider, &[&TLS13])?);
    let listener = place
        .site
        .remote
        .run(|| TcpListener::bind("0.0.0.0:4480"))??;
    std::thread::spawn(move || {
        for stream in listener.incoming().take(3).flatten() {
            let Ok(connection) = ServerConnection::new(served.clone()) else {
                return;
            };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(6)));
            let mut stream = StreamOwned::new(connection, stream);
            let mut bytes = vec![0; 65_536];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
        }
    });
    let to = SocketAddr::new(place.remote()?, 4_480);
    let said = noise(400_000);
    let ask = |tenant: usize| -> Result<Vec<u8>> {
        let (asks, said) = (asks.clone(), said.clone());
        inside(place.site.tenants[tenant].open()?, move || {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            let connection = ClientConnection::new(asks, "remote.example".try_into()?)?;
            let mut stream = StreamOwned::new(connection, stream);
            let mut heard = vec![0; said.len()];
            for (said, heard) in said.chunks(50_000).zip(heard.chunks_mut(50_000)) {
                stream.write_all(said)?;
                stream.read_exact(heard)?;
            }
            let group = stream.conn.negotiated_key_exchange_group();
            let group = group.context("no group")?.name();
            ensure!(group == NamedGroup::X25519MLKEM768, "{group:?}");
            Ok(heard)
        })
        .join()
        .map_err(|_| anyhow::anyhow!("panicked"))?
    };
    place.passes(ALL, "X25519MLKEM768", ("E3", 400_000), || {
        ensure!(ask(ALL)? == said, "something else came back");
        Ok(())
    })?;
    // NIST SP 800-52r2 does not list it.
    place.is_cut(TLS, "X25519MLKEM768 under a rule without it", || {
        Ok(ask(TLS).is_ok())
    })?;
    ensure!(ask(NONE)? == said, "X25519MLKEM768 does not work here");
    Ok(())
}
