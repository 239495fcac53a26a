//! OpenVPN over UDP: what is told by its shape alone, under a rule that lets that be enough.

use super::place::{ALL, Place, SHAPE, has};
use anyhow::{Context as _, Result, ensure};
use octroi::lab::{
    Namespace,
    ends::Running,
    site::{REMOTE, ipv4},
    traffic::{self, inside},
};
use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const PORT: &str = "1194";

/// SHA-256 of a certificate, as OpenVPN wants it.
fn fingerprint(certificate: &str) -> Result<String> {
    let output = Command::new("openssl")
        .args([
            "x509",
            "-noout",
            "-fingerprint",
            "-sha256",
            "-in",
            certificate,
        ])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, print) = text.trim().split_once('=').context("no fingerprint")?;
    Ok(print.to_owned())
}

/// One end, which shows the other its certificate.
fn end(
    place: &Place,
    namespace: &Namespace,
    (near, far): (&str, &str),
    options: &[&str],
) -> Result<Running> {
    let (key, certificate) = place.certificate()?;
    let print = fingerprint(&certificate)?;
    let common = [
        "--dev",
        "ov0",
        "--dev-type",
        "tun",
        "--proto",
        "udp4",
        "--key",
        &key,
        "--cert",
        &certificate,
        "--peer-fingerprint",
        &print,
        "--ifconfig",
        near,
        far,
        "--tun-mtu",
        "1400",
        "--reneg-sec",
        "2",
        "--verb",
        "0",
    ];
    let child = namespace
        .prepare("openvpn".as_ref())?
        .args(common)
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Running(child))
}

/// TCP through a tunnel from a tenant, with new keys each two seconds; bytes that arrived.
fn through(place: &Place, tenant: usize) -> Result<u64> {
    const NEAR: &str = "10.98.0.1";
    const FAR: &str = "10.98.0.2";
    let (near, far) = (&place.site.tenants[tenant], &place.site.remote);
    let server = ["--tls-server", "--dh", "none", "--lport", PORT];
    let _server = end(place, far, (FAR, NEAR), &server)?;
    place.listens("u", 1_194)?;
    let remote = ipv4(REMOTE);
    let client = ["--tls-client", "--nobind", "--remote", &remote, PORT];
    let _client = end(place, near, (NEAR, FAR), &client)?;
    let begun = Instant::now();
    let up = |namespace: &Namespace| {
        namespace
            .command("ip -o addr show dev ov0")
            .is_ok_and(|text| text.contains("10.98"))
    };
    while !(up(near) && up(far)) {
        if begun.elapsed() > Duration::from_secs(8) {
            return Ok(0);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let sink = traffic::Sink::tcp(far, 5_002)?;
    for _ in 0..2 {
        let sent = inside(near.open()?, move || {
            let until = Instant::now() + Duration::from_millis(1_500);
            traffic::tcp_send((FAR.parse()?, 5_002), 65_536, until)
        });
        let begun = Instant::now();
        while !sent.is_finished() && begun.elapsed() < Duration::from_secs(6) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if !sent.is_finished() {
            break;
        }
        let _ = sent.join();
    }
    Ok(sink.received())
}

pub fn openvpn_passes(place: &mut Place) -> Result<()> {
    const TEST: &str = "encryption_ends: openvpn";
    if !has(TEST, &["openvpn", "openssl"]) {
        return Ok(());
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        println!("SKIPPED: {TEST}: there is no /dev/net/tun");
        return Ok(());
    }
    place.passes(SHAPE, "OpenVPN", ("E1", 5_000), || {
        let received = through(place, SHAPE)?;
        ensure!(received > 500_000, "{received} bytes arrived");
        println!("CASES: bytes of TCP through OpenVPN and new keys: {received}");
        Ok(())
    })?;
    place.is_cut(ALL, "OpenVPN under a profile without it", || {
        Ok(through(place, ALL)? != 0)
    })?;
    place.no_canary()
}
