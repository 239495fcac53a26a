//! A cluster of three NATS servers of its own, killed at will, and a client of a few lines that shares no code with octroi.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Servers.
pub const SERVERS: usize = 3;
/// Until servers have found each other, on a machine that others use.
const READY: Duration = Duration::from_secs(60);
/// Where all of them listen.
const HERE: &str = "127.0.0.1";
/// Of the cluster's one user.
pub const USER: &str = "octroi";
/// Likewise; it must be in no log.
pub const PASSWORD: &str = "not-for-the-log";

/// Three servers in a directory, on ports of 127.0.0.1.
pub struct Cluster {
    pub directory: PathBuf,
    /// Where clients connect.
    pub ports: [u16; SERVERS],
    routes: [u16; SERVERS],
    servers: [Option<Child>; SERVERS],
    /// What else is in the servers' files: TLS.
    more: String,
    /// One server, and no cluster.
    is_alone: bool,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The program; `None`: it is not here.
pub fn program() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_octroi")).parent()?.parent()?;
    let own = target.join("tools/nats/bin/nats-server");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let others = std::env::split_paths(&paths).map(|path| path.join("nats-server"));
    std::iter::once(own)
        .chain(others)
        .find(|path| path.is_file())
}

impl Cluster {
    /// Starts one, and waits until it takes streams. `name` tells it from others of this process.
    pub fn new(name: &str) -> Result<Self> {
        Self::make(name, "", false)
    }

    /// One server alone, with more in its file.
    pub fn alone(name: &str, more: &str) -> Result<Self> {
        Self::make(name, more, true)
    }

    fn make(name: &str, more: &str, is_alone: bool) -> Result<Self> {
        let directory = format!("octroi-nats-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory)?;
        let mut ports = [0; SERVERS];
        let mut routes = [0; SERVERS];
        for number in 0..SERVERS {
            ports[number] = free_port()?;
            routes[number] = free_port()?;
        }
        let mut cluster = Self {
            directory,
            ports,
            routes,
            servers: [const { None }; SERVERS],
            more: more.to_owned(),
            is_alone,
        };
        fs::write(cluster.password_file(), format!("{PASSWORD}\n"))?;
        let servers = if is_alone { 1 } else { SERVERS };
        for number in 0..servers {
            cluster.start(number)?;
        }
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", cluster.ports[0])).is_err() {
            ensure!(begun.elapsed() < READY, "{}", cluster.log());
            thread::sleep(Duration::from_millis(50));
        }
        // The client of a few lines speaks no TLS.
        if more.is_empty() {
            cluster.ready()?;
        }
        Ok(cluster)
    }

    /// Copies that its streams can have.
    pub fn copies(&self) -> u8 {
        if self.is_alone { 1 } else { 3 }
    }

    /// A file with the user's password.
    pub fn password_file(&self) -> PathBuf {
        self.directory.join("password")
    }

    /// How a sink's file names it.
    pub fn url(&self) -> String {
        url(&self.ports)
    }

    /// Starts one server.
    pub fn start(&mut self, number: usize) -> Result<()> {
        let routes: Vec<String> = self
            .routes
            .iter()
            .map(|port| format!("nats://{HERE}:{port}"))
            .collect();
        let file = self.directory.join(format!("n{number}.conf"));
        let cluster = format!(
            "cluster {{ name: fleet, listen: 127.0.0.1:{}, routes: [{}] }}",
            self.routes[number],
            routes.join(", ")
        );
        let text = format!(
            "server_name: n{number}\nlisten: 127.0.0.1:{}\nauthorization {{ user: {USER}, password: \"{PASSWORD}\" }}\n\
             jetstream {{ store_dir: \"{}\" }}\n{}\n{}\n",
            self.ports[number],
            self.directory.join(format!("n{number}")).display(),
            if self.is_alone { "" } else { &cluster },
            self.more
        );
        fs::write(&file, text)?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join(format!("n{number}.log")))?;
        let program = program().context("no nats-server")?;
        let server = Command::new(program)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.servers[number] = Some(server);
        Ok(())
    }

    /// SIGKILL: a server and what it had not written are gone.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        let mut server = self.servers[number].take().context("no server")?;
        server.kill()?;
        server.wait()?;
        Ok(())
    }

    /// Which server leads a stream.
    pub fn leader(&self, stream: &str) -> Result<usize> {
        let begun = Instant::now();
        loop {
            let info = self.ask(&format!("$JS.API.STREAM.INFO.{stream}"), b"");
            let leader = info
                .as_ref()
                .ok()
                .and_then(|info| info["cluster"]["leader"].as_str());
            let number = leader.and_then(|name| name.strip_prefix('n')?.parse().ok());
            if let Some(number) = number {
                return Ok(number);
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "{stream} has no leader: {info:?}"
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn ready(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            // An answer of the whole cluster, not of a server that has not met the others.
            let answer = self.ask("$JS.API.STREAM.NAMES", b"");
            if answer
                .as_ref()
                .is_ok_and(|answer| answer["error"].is_null())
            {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < READY,
                "the cluster does not come up: {answer:?}\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// What the servers printed.
    pub fn log(&self) -> String {
        let logs = (0..SERVERS).map(|number| self.directory.join(format!("n{number}.log")));
        logs.map(|log| fs::read_to_string(log).unwrap_or_default())
            .collect()
    }

    /// Asks whichever server answers.
    pub fn ask(&self, subject: &str, payload: &[u8]) -> Result<Value> {
        let mut last = anyhow::anyhow!("no server runs");
        for (port, server) in self.ports.iter().zip(&self.servers) {
            if server.is_none() {
                continue;
            }
            match request(*port, subject, payload) {
                Ok(answer) => return Ok(serde_json::from_slice(&answer)?),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks for something that must be done.
    pub fn order(&self, subject: &str, payload: &str) -> Result<Value> {
        let answer = self.ask(subject, payload.as_bytes())?;
        ensure!(answer["error"].is_null(), "{subject}: {answer}");
        Ok(answer)
    }
}

/// How a sink's file names servers on these ports.
pub fn url(ports: &[u16; SERVERS]) -> String {
    let servers = ports.map(|port| format!("nats://{USER}@127.0.0.1:{port}"));
    servers.join(", ")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in 0..SERVERS {
            if self.servers[number].is_some() {
                let _ = self.kill(number);
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A question, and its answer's payload: the protocol as docs.nats.io has it.
fn request(port: u16, subject: &str, payload: &[u8]) -> Result<Vec<u8>> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut to = stream.try_clone()?;
    let mut from = BufReader::new(stream);
    let mut line = String::new();
    from.read_line(&mut line)?;
    ensure!(line.starts_with("INFO "), "{line}");
    let connect = serde_json::json!({
        "verbose": false, "pedantic": true, "user": USER, "pass": PASSWORD, "name": "test", "lang": "test",
        "version": "1", "protocol": 1, "headers": true, "no_responders": true,
    });
    write!(to, "CONNECT {connect}\r\nSUB answer.test 1\r\n")?;
    write!(to, "PUB {subject} answer.test {}\r\n", payload.len())?;
    to.write_all(payload)?;
    to.write_all(b"\r\n")?;
    loop {
        line.clear();
        ensure!(from.read_line(&mut line)? > 0, "the server hung up");
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["PING"] => to.write_all(b"PONG\r\n")?,
            ["INFO", ..] | ["+OK"] => {}
            ["MSG", .., length] => {
                let mut payload = vec![0; length.parse()?];
                from.read_exact(&mut payload)?;
                return Ok(payload);
            }
            _ => bail!("{subject}: {}", line.trim()),
        }
    }
}
