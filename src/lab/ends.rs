//! Real ends of conversations: OpenSSL's client and server, and a server that answers anything in clear.

use super::{
    namespace::Namespace,
    site::{REMOTE, Site, ipv4},
    traffic::inside,
};
use anyhow::{Context as _, Result, bail};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

/// What OpenSSL's server begins its page with.
pub const PAGE: &str = "HTTP/1.0 200 ok";

/// True when OpenSSL is here.
pub fn openssl() -> bool {
    let found = Command::new("openssl").arg("version").output();
    found.is_ok_and(|output| output.status.success())
}

/// A process that ends with its holder.
#[derive(Debug)]
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The remote end's key and certificate, RSA of 2,048 bits, made once for a site.
///
/// # Errors
/// When OpenSSL refuses, or is not here.
pub fn certificate(site: &Site) -> Result<(PathBuf, PathBuf)> {
    let key = site.directory().join("tls.key");
    let certificate = site.directory().join("tls.pem");
    if !certificate.exists() {
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args(["-subj", "/CN=remote.example"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()?;
        if !made.status.success() {
            bail!("{}", String::from_utf8_lossy(&made.stderr));
        }
    }
    Ok((key, certificate))
}

/// OpenSSL's server on the remote end; it answers `GET` with a page.
///
/// # Errors
/// When it does not listen within 10 s.
pub fn s_server(site: &Site, port: u16, options: &[&str]) -> Result<Running> {
    let (key, certificate) = certificate(site)?;
    let both = options.contains(&"-tls1_2") && options.contains(&"-tls1_3");
    let options = options.iter().filter(|_| !both);
    let child = site
        .remote
        .prepare("openssl".as_ref())?
        .args(["s_server", "-www", "-quiet", "-accept", &port.to_string()])
        .arg("-key")
        .arg(key)
        .arg("-cert")
        .arg(certificate)
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("openssl s_server")?;
    let running = Running(child);
    // From within its own namespace, beside the gate.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        let listens = site.remote.command(&format!("ss -Hltn sport = :{port}"))?;
        if !listens.trim().is_empty() {
            return Ok(running);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("openssl s_server does not listen on {port}")
}

/// OpenSSL's client of tenant `index` asks for the page; what it printed, which has [`PAGE`] in it when the page came.
///
/// # Errors
/// When it cannot be started.
pub fn s_client(site: &Site, index: usize, port: u16, options: &[&str]) -> Result<String> {
    let to = format!("{}:{port}", ipv4(REMOTE));
    let mut child = site.tenants[index]
        .prepare("timeout".as_ref())?
        .args([
            "8",
            "openssl",
            "s_client",
            "-quiet",
            "-no_ign_eof",
            "-connect",
            &to,
        ])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("openssl s_client")?;
    let mut stdin = child.stdin.take().context("stdin")?;
    // It may have ended already, when it was cut.
    let _ = stdin.write_all(b"GET / HTTP/1.0\r\n\r\n");
    let _ = stdin.flush();
    std::thread::sleep(Duration::from_millis(700));
    drop(stdin);
    let output = child.wait_with_output()?;
    Ok(format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// A server that answers whatever it is told, in clear, for as long as it is held.
#[derive(Debug)]
pub struct Clear(Arc<AtomicBool>);

impl Drop for Clear {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Starts one.
///
/// # Errors
/// When it does not listen within 5 s.
pub fn clear_server(namespace: &Namespace, port: u16) -> Result<Clear> {
    let stop = Arc::new(AtomicBool::new(false));
    let (told, listening) = mpsc::channel();
    let stopped = stop.clone();
    inside(namespace.open()?, move || {
        let listener = TcpListener::bind(("0.0.0.0", port))?;
        listener.set_nonblocking(true)?;
        told.send(()).ok();
        while !stopped.load(Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    std::thread::spawn(move || answer(stream));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Ok(())
    });
    listening
        .recv_timeout(Duration::from_secs(5))
        .context("the clear server does not listen")?;
    Ok(Clear(stop))
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut said = [0; 8_192];
    if stream.read(&mut said)? > 0 {
        stream.write_all(b"220 as you say, in clear\r\n")?;
    }
    Ok(())
}

/// What one connection of tenant `index` to the remote end gets back for `said`; nothing: it was cut.
///
/// # Errors
/// When it cannot even connect.
pub fn ask_in_clear(site: &Site, index: usize, port: u16, said: &'static [u8]) -> Result<Vec<u8>> {
    let to = SocketAddr::new(ipv4(REMOTE).parse()?, port);
    let answer = inside(site.tenants[index].open()?, move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_millis(700)))?;
        stream.write_all(said)?;
        let mut answer = vec![0; 4_096];
        let read = stream.read(&mut answer).unwrap_or(0);
        answer.truncate(read);
        Ok(answer)
    });
    answer.join().map_err(|_| anyhow::anyhow!("panicked"))?
}
