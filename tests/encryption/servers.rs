//! Real ends of conversations: OpenSSL's client and server, a server that answers anything in clear, and a sniffer.

use anyhow::{Context as _, Result, bail};
use octroi::lab::{
    Namespace, Site,
    site::{REMOTE, ipv4},
    traffic::inside,
};
use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// In every clear payload of the tests: nobody else says it.
pub const CANARY: &str = "GET /canary-7c1e94 HTTP/1.1\r\nHost: remote.example\r\n\r\n";

/// True when OpenSSL is here; else says that `test` is skipped.
pub fn openssl(test: &str) -> bool {
    let found = Command::new("openssl").arg("version").output();
    if found.is_ok_and(|output| output.status.success()) {
        return true;
    }
    println!("SKIPPED: {test}: there is no openssl");
    false
}

/// A process that ends with its holder.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Its key and certificate, made once for a site.
fn certificate(site: &Site) -> Result<(PathBuf, PathBuf)> {
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

/// OpenSSL's client of tenant `index` asks for the page, and what it printed.
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
pub struct Clear(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Drop for Clear {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Starts one.
pub fn clear_server(namespace: &Namespace, port: u16) -> Result<Clear> {
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (told, listening) = std::sync::mpsc::channel();
    let stopped = stop.clone();
    inside(namespace.open()?, move || {
        let listener = TcpListener::bind(("0.0.0.0", port))?;
        listener.set_nonblocking(true)?;
        told.send(()).ok();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
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

/// Sees every frame of an interface of the host, and counts those with the canary in them.
pub struct Sniffer(OwnedFd);

impl Sniffer {
    /// Listens from now on.
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        let index = namespace.interfaces()?;
        let index = index.get(interface).context("no such interface")?.index;
        let socket = inside(namespace.open()?, move || {
            let all = (libc::ETH_P_ALL as u16).to_be();
            // SAFETY: plain arguments; the result is checked.
            let fd = unsafe {
                libc::socket(
                    libc::AF_PACKET,
                    libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                    i32::from(all),
                )
            };
            anyhow::ensure!(fd >= 0, std::io::Error::last_os_error());
            // SAFETY: just made, and nobody else's.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: plain data.
            let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            to.sll_family = libc::AF_PACKET as u16;
            to.sll_protocol = all;
            to.sll_ifindex = index as i32;
            // SAFETY: `to` is as long as said.
            let bound = unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    (&raw const to).cast(),
                    size_of::<libc::sockaddr_ll>() as u32,
                )
            };
            anyhow::ensure!(bound == 0, std::io::Error::last_os_error());
            Ok(socket)
        });
        let socket = socket.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        Ok(Self(socket))
    }

    /// Frames with the canary since the last time.
    pub fn seen(&mut self) -> Result<u64> {
        std::thread::sleep(Duration::from_millis(200));
        let canary = b"canary-7c1e94";
        let mut frame = vec![0_u8; 1 << 17];
        let mut seen = 0;
        loop {
            // SAFETY: the buffer is as long as said.
            let read = unsafe {
                libc::recv(
                    self.0.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                )
            };
            let Ok(read) = usize::try_from(read) else {
                return Ok(seen);
            };
            if frame[..read.min(frame.len())]
                .windows(canary.len())
                .any(|window| window == canary)
            {
                seen += 1;
            }
        }
    }
}
