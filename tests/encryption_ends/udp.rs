//! Over UDP: QUIC of quinn and of aioquic, DTLS of OpenSSL, WireGuard of wireguard-go and of the kernel.

use super::{
    place::{ALL, NONE, Place, TLS, has, noise, python_with},
    quic,
};
use anyhow::{Context as _, Result, ensure};
use octroi::lab::{
    Namespace,
    ends::Running,
    site::{REMOTE, ipv4},
    traffic::{self, inside},
};
use std::{
    net::UdpSocket,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

pub fn quic_passes(place: &mut Place) -> Result<()> {
    let said = noise(3_000_000);
    let server = quic::Server::start(place, 4_433)?;
    place.passes(ALL, "QUIC of quinn", ("E2", 3_000_000), || {
        let heard = quic::echo(place, ALL, 4_433, &said)?;
        ensure!(
            heard == said,
            "{} of {} bytes came back",
            heard.len(),
            said.len()
        );
        Ok(())
    })?;
    place.is_cut(TLS, "QUIC under a rule without it", || {
        Ok(quic::echo(place, TLS, 4_433, b"x").is_ok())
    })?;
    let heard = quic::echo(place, NONE, 4_433, b"x").context("QUIC does not work here")?;
    ensure!(heard == b"x");
    drop(server);

    let Some(python) = python_with("encryption_ends: QUIC v2", "aioquic") else {
        return Ok(());
    };
    let python: Vec<&str> = python.iter().map(String::as_str).collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/encryption_ends/quic.py");
    let (key, certificate) = place.certificate()?;
    // What the client begins with, and what both take: the last is another version that the server chooses.
    for (number, (begins, takes)) in [("1", "1"), ("2", "2"), ("1", "2,1")]
        .into_iter()
        .enumerate()
    {
        let port = 4_440 + number as u16;
        let text = port.to_string();
        let serve = [script, "serve", &text, takes, &certificate, &key];
        let serve = [&python[1..], &serve].concat();
        let _server = place.serve(python[0], &serve, "u", port)?;
        let what = format!("QUIC of aioquic from version {begins}, of {takes}");
        place.passes(ALL, &what, ("E2", 300_000), || {
            let remote = ipv4(REMOTE);
            let ask = [script, "ask", &text, takes, &remote, begins, "300000"];
            let command = [&python[..], &ask].concat();
            let output = place.run(ALL, 20, &command, b"", Duration::ZERO)?;
            let told = String::from_utf8_lossy(&output.stdout);
            let chosen = takes.split(',').next().unwrap_or_default();
            let wanted = format!("300000 bytes over version {chosen}");
            ensure!(
                told.contains(&wanted),
                "{told}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(())
        })?;
    }
    println!("CASES: QUIC's versions and their negotiation: 3");
    Ok(())
}

pub fn dtls_passes(place: &mut Place) -> Result<()> {
    if !has("encryption_ends: dtls", &["openssl"]) {
        return Ok(());
    }
    const SERVER: &str = "from the gate of the city";
    const CLIENT: &str = "to the gate of the city";
    let credentials = place.certificate()?;
    let serve = |place: &Place, port: u16, options: &[&str]| {
        let options = [&["-quiet"], options].concat();
        place.openssl(("u", port), &credentials, &options, SERVER)
    };
    let ask = |place: &Place, tenant: usize, port: u16, options: &[&str]| {
        let to = format!("{}:{port}", ipv4(REMOTE));
        let mut command = vec![
            "openssl",
            "s_client",
            "-quiet",
            "-no_ign_eof",
            "-connect",
            &to,
        ];
        command.extend(options);
        let said = format!("{CLIENT}\n");
        let linger = Duration::from_millis(900);
        let output = place.run(tenant, 3, &command, said.as_bytes(), linger)?;
        let heard = String::from_utf8_lossy(&output.stdout).contains(SERVER);
        anyhow::Ok(heard && place.printed(port).contains(CLIENT))
    };
    // The second asks the client for a cookie first.
    for (port, options) in [
        (4_450, &["-dtls1_2"][..]),
        (4_451, &["-dtls1_2", "-listen"]),
    ] {
        let _server = serve(place, port, options)?;
        place.passes(ALL, &format!("DTLS {options:?}"), ("E2", 1), || {
            ensure!(ask(place, ALL, port, &["-dtls1_2"])?, "no answer");
            Ok(())
        })?;
    }
    let _server = serve(place, 4_452, &["-dtls1_2"])?;
    place.is_cut(TLS, "DTLS under a rule without it", || {
        ask(place, TLS, 4_452, &["-dtls1_2"])
    })?;
    let _server = serve(place, 4_453, &["-dtls1_2"])?;
    ensure!(
        ask(place, NONE, 4_453, &["-dtls1_2"])?,
        "DTLS does not work here"
    );
    // Below the least version.
    let old = ["-dtls1", "-cipher", "ALL:@SECLEVEL=0"];
    let _server = serve(place, 4_454, &old)?;
    place.is_cut(ALL, "DTLS 1.0", || ask(place, ALL, 4_454, &old))?;
    let _server = serve(place, 4_455, &old)?;
    ensure!(
        ask(place, NONE, 4_455, &old)?,
        "DTLS 1.0 does not work here"
    );
    // Clear text over UDP, to a port of DTLS and to one of nobody.
    let to = place.remote()?;
    inside(place.site.tenants[ALL].open()?, move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for port in [4_450, 9_999] {
            socket.send_to(super::sniffer::CANARY.as_bytes(), (to, port))?;
        }
        Ok(())
    })
    .join()
    .map_err(|_| anyhow::anyhow!("panicked"))??;
    place.no_canary()
}

/// A WireGuard interface in a namespace.
struct Tunnel {
    name: String,
    public: String,
    _process: Option<Running>,
}

fn wg(line: &str, input: &str) -> Result<String> {
    use std::io::Write as _;
    let mut child = Command::new("wg")
        .args(line.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("stdin")?
        .write_all(input.as_bytes())?;
    Ok(String::from_utf8(child.wait_with_output()?.stdout)?
        .trim()
        .to_owned())
}

impl Tunnel {
    /// `address`: within the tunnel. `kernel`: of the kernel, else of wireguard-go.
    fn new(
        place: &Place,
        namespace: &Namespace,
        name: &str,
        address: &str,
        kernel: bool,
    ) -> Result<Self> {
        let name = format!("{name}{}", std::process::id());
        let process = if kernel {
            namespace.command(&format!("ip link add {name} type wireguard"))?;
            None
        } else {
            let child = namespace
                .prepare("wireguard-go".as_ref())?
                .args(["-f", &name])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            Some(Running(child))
        };
        let begun = Instant::now();
        while namespace.command(&format!("ip link show {name}")).is_err() {
            ensure!(
                begun.elapsed() < Duration::from_secs(5),
                "no interface {name}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let private = wg("genkey", "")?;
        let public = wg("pubkey", &private)?;
        let key = place.site.directory().join(format!("{name}.key"));
        std::fs::write(&key, private)?;
        namespace.command(&format!(
            "wg set {name} listen-port 51820 private-key {}",
            key.display()
        ))?;
        namespace.command(&format!("ip addr add {address}/24 dev {name}"))?;
        namespace.command(&format!("ip link set {name} mtu 1420 up"))?;
        Ok(Self {
            name,
            public,
            _process: process,
        })
    }
}

/// TCP through a tunnel from a tenant to the remote end, new handshakes in between; bytes that arrived.
fn through_a_tunnel(place: &Place, tenant: usize, kernel: bool) -> Result<u64> {
    let (near, far) = (&place.site.tenants[tenant], &place.site.remote);
    let here = Tunnel::new(place, near, "wa", "10.99.0.1", kernel)?;
    let there = Tunnel::new(place, far, "wr", "10.99.0.2", kernel)?;
    let peers = || -> Result<()> {
        near.command(&format!(
            "wg set {} peer {} endpoint {}:51820 allowed-ips 10.99.0.0/24",
            here.name,
            there.public,
            ipv4(REMOTE)
        ))?;
        far.command(&format!(
            "wg set {} peer {} allowed-ips 10.99.0.0/24",
            there.name, here.public
        ))?;
        Ok(())
    };
    peers()?;
    let sink = traffic::Sink::tcp(far, 5_001)?;
    for _ in 0..3 {
        let sent = inside(near.open()?, move || {
            let until = Instant::now() + Duration::from_millis(400);
            traffic::tcp_send(("10.99.0.2".parse()?, 5_001), 65_536, until)
        });
        // Who is cut waits for a SYN-ACK that never comes: no longer than that.
        let begun = Instant::now();
        while !sent.is_finished() && begun.elapsed() < Duration::from_secs(3) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if !sent.is_finished() {
            return Ok(sink.received());
        }
        sent.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        // Another handshake, from both sides' view anew.
        near.command(&format!(
            "wg set {} peer {} remove",
            here.name, there.public
        ))?;
        peers()?;
    }
    Ok(sink.received())
}

pub fn wireguard_passes(place: &mut Place) -> Result<()> {
    const TEST: &str = "encryption_ends: wireguard";
    if has(TEST, &["wireguard-go", "wg"]) && std::path::Path::new("/dev/net/tun").exists() {
        place.passes(ALL, "WireGuard of wireguard-go", ("E2", 5_000), || {
            let received = through_a_tunnel(place, ALL, false)?;
            ensure!(received > 1_000_000, "{received} bytes arrived");
            println!("wireguard-go: {received} bytes of TCP arrived through three handshakes");
            Ok(())
        })?;
        place.is_cut(TLS, "WireGuard under a rule without it", || {
            Ok(through_a_tunnel(place, TLS, false)? != 0)
        })?;
    } else {
        println!("SKIPPED: {TEST}: there is no wireguard-go, wg or /dev/net/tun");
    }
    let probe = place
        .site
        .remote
        .command("ip link add probe type wireguard");
    if let Err(error) = probe {
        println!("SKIPPED: {TEST}: of the kernel: {error:#}");
        return Ok(());
    }
    place.site.remote.command("ip link del probe")?;
    place.passes(ALL, "WireGuard of the kernel", ("E2", 5_000), || {
        // An emulated machine is slow.
        let received = through_a_tunnel(place, ALL, true)?;
        ensure!(received > 50_000, "{received} bytes arrived");
        println!(
            "WireGuard of the kernel: {received} bytes of TCP arrived through three handshakes"
        );
        Ok(())
    })
}
