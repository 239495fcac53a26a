//! ClickHouse's engine behind its HTTP interface (`server.py`), killed at will, and questions to it that do not go through octroi.

use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Of the server's one user.
pub const USER: &str = "octroi";
/// Likewise; it must be in no log.
pub const PASSWORD: &str = "not-for-the-log";
/// Until it answers, on a machine that others use.
const READY: Duration = Duration::from_secs(60);

/// A server in a directory, on a port of 127.0.0.1.
pub struct Server {
    pub directory: PathBuf,
    pub port: u16,
    tls: Option<(PathBuf, PathBuf)>,
    child: Option<Child>,
}

/// What an HTTP request came to.
pub struct Said {
    pub status: u16,
    /// `X-ClickHouse-Exception-Code`; empty: there is none.
    pub code: String,
    pub body: String,
}

/// Where the engine is; `None`: it is not here.
pub fn engine() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_octroi")).parent()?.parent()?;
    let own = target.join("tools/chdb");
    own.join("chdb").is_dir().then_some(own)
}

impl Server {
    /// Starts one, and waits until it answers. `name` tells it from others of this process.
    pub fn new(name: &str) -> Result<Self> {
        Self::with(name, None)
    }

    /// The same, behind a certificate and its key.
    pub fn with(name: &str, tls: Option<(PathBuf, PathBuf)>) -> Result<Self> {
        let directory =
            std::env::temp_dir().join(format!("octroi-ch-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory)?;
        fs::write(directory.join("password"), PASSWORD)?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        drop(listener);
        let mut server = Self {
            directory,
            port,
            tls,
            child: None,
        };
        server.start()?;
        Ok(server)
    }

    /// Starts it and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clickhouse/server.py");
        let log = fs::File::create(self.directory.join("log"))?;
        let mut command = Command::new("python3");
        command
            .env("PYTHONPATH", engine().context("no engine")?)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(page)
            .arg(&self.directory)
            .arg(self.port.to_string());
        if let Some((certificate, key)) = &self.tls {
            command.arg(certificate).arg(key);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        let begun = Instant::now();
        let log = self.directory.join("log");
        while !fs::read_to_string(&log)?.contains("ready") {
            ensure!(
                begun.elapsed() < READY,
                "the server does not come up: {}",
                fs::read_to_string(&log)?
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// SIGKILL: the server, its engine and what it had not written are gone.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("no server")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Where it is, for a sink.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let host = if self.tls.is_some() {
            "localhost"
        } else {
            "127.0.0.1"
        };
        format!("{scheme}://{USER}@{host}:{}", self.port)
    }

    pub fn password_file(&self) -> PathBuf {
        self.directory.join("password")
    }

    /// What goes wrong with the next requests, one after the other.
    pub fn moods(&self, moods: &[&str]) -> Result<()> {
        Ok(fs::write(self.directory.join("moods"), moods.join("\n"))?)
    }

    /// Moods that were not used up.
    pub fn left(&self) -> Result<usize> {
        let text = fs::read_to_string(self.directory.join("moods"))?;
        Ok(text.split_whitespace().count())
    }

    /// What a request with curl's arguments comes to; `query` is what stands behind the `?`.
    pub fn request(&self, query: &str, arguments: &[&str]) -> Result<Said> {
        let mut command = Command::new("curl");
        command
            .args(["-sS", "-k", "-o", "-", "-D"])
            .arg(self.directory.join("head"))
            .args(arguments)
            .arg(format!(
                "{}/{query}",
                self.url().replace(&format!("{USER}@"), "")
            ))
            .stdin(Stdio::null());
        let output = command.output()?;
        let head = fs::read_to_string(self.directory.join("head"))?;
        let status = head.split(' ').nth(1).context("no status")?;
        let code = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("X-ClickHouse-Exception-Code")
                .then(|| value.trim().to_owned())
        });
        Ok(Said {
            status: status.parse()?,
            code: code.unwrap_or_default(),
            body: String::from_utf8_lossy(&output.stdout).into_owned(),
        })
    }

    /// What a statement in the database `octroi` gives, columns between `|`.
    pub fn ask(&self, statement: &str) -> Result<String> {
        let mut file = tempfile(&self.directory)?;
        file.1.write_all(statement.as_bytes())?;
        let said = self.request(
            "?database=octroi",
            &[
                "-H",
                &format!("X-ClickHouse-User: {USER}"),
                "-H",
                &format!("X-ClickHouse-Key: {PASSWORD}"),
                "--data-binary",
                &format!("@{}", file.0.display()),
            ],
        )?;
        ensure!(said.status == 200, "{statement}: {}", said.body);
        Ok(said.body.trim_end().replace('\t', "|"))
    }
}

fn tempfile(directory: &Path) -> Result<(PathBuf, fs::File)> {
    let path = directory.join("statement");
    let file = fs::File::create(&path)?;
    Ok((path, file))
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
