//! A site whose daemon serves the page, and those who open it.

use super::client::{Reply, User, reply};
use crate::support::{octroi, tenant};
use anyhow::{Context as _, Result, ensure};
use octroi::lab::{Site, TenantSpec};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

pub const PAGE: &str = "127.0.0.1:8787";
pub const PAIR: [TenantSpec; 2] = [tenant("alice", false), tenant("bob", false)];
/// What the page's own scripts send.
pub const MARK: &str = "octroi-page: 1\r\n";

pub struct Served {
    pub site: Site,
    pub ledger: PathBuf,
}

impl Served {
    /// A site that is configured, and whose daemon is not started. `more` goes to the end of the configuration.
    pub fn prepared(more: &str) -> Result<Self> {
        let site = Site::new(&PAIR)?;
        fs::set_permissions(site.directory(), fs::Permissions::from_mode(0o755))?;
        let ledger = site.directory().join("ledger.db");
        let config = format!(
            "{}\n[meter]\nledger = \"{}\"\nwindow = \"1s\"\n\n[api]\nsocket = \"{}\"\npage = \"{PAGE}\"\n\
             read = [\"games\", \"user:backup\"]\npolicy = [\"users\"]\n{more}",
            site.config("shape = \"police\""),
            ledger.display(),
            site.directory().join("api.sock").display(),
        );
        site.write_config(&config)?;
        Ok(Self { site, ledger })
    }

    /// The same, with its daemon, and a window in the ledger.
    pub fn new(more: &str) -> Result<Self> {
        let mut served = Self::prepared(more)?;
        served.start()?;
        Ok(served)
    }

    pub fn start(&mut self) -> Result<()> {
        self.site.start(octroi())?;
        let begun = Instant::now();
        while self
            .site
            .report()?
            .meter
            .is_none_or(|meter| meter.windows == 0)
        {
            let late = begun.elapsed() > Duration::from_secs(20);
            ensure!(!late, "no window:\n{}", self.site.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Does something on the host as somebody.
    pub fn on_host<T: Send>(
        &self,
        user: User,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        self.site.host.run(|| user.does(work))?
    }

    /// Sends bytes as somebody, and returns what comes back.
    pub fn raw(&self, user: User, bytes: &[u8]) -> Result<Vec<u8>> {
        self.on_host(user, || exchange(bytes, false))
    }

    /// Looks at a path as the page's own scripts do.
    pub fn get(&self, user: User, path: &str) -> Result<Reply> {
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: {PAGE}\r\nconnection: close\r\n{MARK}\r\n");
        text(&self.raw(user, head.as_bytes())?)
    }
}

/// One connection. `half`: says that it has said everything, before the other end has looked.
pub fn exchange(bytes: &[u8], half: bool) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(PAGE)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    if half {
        stream.shutdown(Shutdown::Write)?;
    } else {
        // Whoever is refused before all was read closes the connection: what it said is still there.
        let _ = stream.write_all(bytes);
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error.into()),
        _ => Ok(answer),
    }
}

/// An answer whose body may be anything: what is no JSON is a text.
pub fn text(bytes: &[u8]) -> Result<Reply> {
    let whole = String::from_utf8_lossy(bytes);
    let (head, body) = whole.split_once("\r\n\r\n").context("no head")?;
    if head.contains("json") {
        return reply(bytes);
    }
    let mut found = reply(format!("{head}\r\n\r\n").as_bytes())?;
    found.body = body.into();
    Ok(found)
}
