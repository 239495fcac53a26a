//! A PostgreSQL of its own, killed at will, and a way to it that loses answers.

use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::chown,
        net::{UnixListener, UnixStream},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// A cluster in a directory, on a socket in it.
pub struct Database {
    pub directory: PathBuf,
    programs: PathBuf,
    uid: u32,
    port: u16,
    server: Option<Child>,
}

impl Database {
    /// `None`: there is no PostgreSQL here.
    pub fn programs() -> Option<PathBuf> {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
        let bin = versions.flatten().map(|entry| entry.path().join("bin"));
        bin.filter(|bin| bin.join("initdb").exists()).max()
    }

    /// Makes and starts one. `name` tells it from others of this process.
    pub fn new(name: &str) -> Result<Self> {
        let directory =
            std::env::temp_dir().join(format!("octroi-pg-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory)?;
        let uid = Command::new("id").args(["-u", "postgres"]).output()?.stdout;
        let uid = String::from_utf8(uid)?.trim().parse()?;
        chown(&directory, Some(uid), None)?;
        let mut database = Self {
            programs: Self::programs().context("no PostgreSQL")?,
            directory,
            uid,
            port: 5_432,
            server: None,
        };
        let made = database
            .program("initdb")
            .args(["-A", "trust", "-U", "octroi", "-E", "UTF8", "--locale=C"])
            .arg("-D")
            .arg(database.data())
            .output()?;
        ensure!(made.status.success(), "{made:?}");
        database.start()?;
        Ok(database)
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.uid(self.uid).current_dir(&self.directory);
        command
    }

    /// Starts the server and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&["-c", "listen_addresses="])
    }

    /// Starts it anew on a port of 127.0.0.1, with a certificate and its key or without; returns the port.
    pub fn listen(&mut self, tls: Option<&(PathBuf, PathBuf)>) -> Result<u16> {
        if self.server.is_some() {
            self.kill()?;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        self.port = port;
        let mut options = format!("-c listen_addresses=127.0.0.1 -p {port}");
        if let Some((certificate, key)) = tls {
            for path in [certificate, key] {
                chown(path, Some(self.uid), None)?;
            }
            options += &format!(
                " -c ssl=on -c ssl_cert_file={} -c ssl_key_file={}",
                certificate.display(),
                key.display()
            );
        }
        self.start_with(&options.split(' ').collect::<Vec<_>>())?;
        Ok(port)
    }

    fn start_with(&mut self, options: &[&str]) -> Result<()> {
        let log = fs::File::create(self.directory.join("log"))?;
        let server = self
            .program("postgres")
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(&self.directory)
            .args(options)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.server = Some(server);
        let begun = Instant::now();
        while self.ask("SELECT 1").is_err() {
            ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "the database does not come up: {}",
                fs::read_to_string(self.directory.join("log")).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// SIGKILL: the server and what it had not written are gone.
    pub fn kill(&mut self) -> Result<()> {
        let mut server = self.server.take().context("no server")?;
        server.kill()?;
        server.wait()?;
        // Its children notice by themselves; a new server waits for the last of them.
        thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    /// What a question gives, as psql prints it.
    pub fn ask(&self, question: &str) -> Result<String> {
        let output = self
            .program("psql")
            .arg("-h")
            .arg(&self.directory)
            .args(["-p", &self.port.to_string()])
            .args([
                "-U",
                "octroi",
                "-d",
                "postgres",
                "-AtX",
                "-v",
                "ON_ERROR_STOP=1",
            ])
            .args(["-c", question])
            .output()?;
        ensure!(
            output.status.success(),
            "{question}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Where it is, for a sink.
    pub fn url(&self) -> String {
        url(&self.directory)
    }
}

/// How a sink's file names the database whose socket is in a directory.
pub fn url(directory: &Path) -> String {
    format!("host={} user=octroi dbname=postgres", directory.display())
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.server.is_some() {
            let _ = self.kill();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A socket before the database's that breaks connections after so many bytes, whichever way they go: a commit is
/// then done or not, and nobody is told.
pub struct Lossy {
    pub directory: PathBuf,
    broken: Arc<AtomicU64>,
}

impl Lossy {
    /// `seed`: where connections break.
    pub fn new(database: &Database, seed: u64) -> Result<Self> {
        const SOCKET: &str = ".s.PGSQL.5432";
        let directory = database.directory.with_extension("lossy");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory)?;
        let listener = UnixListener::bind(directory.join(SOCKET))?;
        let behind = database.directory.join(SOCKET);
        let broken = Arc::new(AtomicU64::new(0));
        let count = broken.clone();
        let mut random = seed | 1;
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // From before the first answer to some batches later.
                let left = Arc::new(AtomicU64::new(1 << (9 + random % 12)));
                let Ok(server) = UnixStream::connect(&behind) else {
                    continue;
                };
                for (from, to) in [
                    (client.try_clone(), server.try_clone()),
                    (server.try_clone(), client.try_clone()),
                ] {
                    if let (Ok(from), Ok(to)) = (from, to) {
                        let (left, count) = (left.clone(), count.clone());
                        thread::spawn(move || carry(from, to, &left, &count));
                    }
                }
            }
        });
        Ok(Self { directory, broken })
    }

    /// Connections that it broke.
    pub fn broken(&self) -> u64 {
        self.broken.load(Relaxed)
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A socket before the database's that stops in the middle of an answer, and keeps the connection.
pub struct Stall {
    pub directory: PathBuf,
    released: Arc<AtomicU64>,
}

impl Stall {
    /// Answers so many bytes of each connection, and then nothing.
    pub fn new(database: &Database, answers_bytes: u64) -> Result<Self> {
        const SOCKET: &str = ".s.PGSQL.5432";
        let directory = database.directory.with_extension("stall");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory)?;
        let listener = UnixListener::bind(directory.join(SOCKET))?;
        let behind = database.directory.join(SOCKET);
        let released = Arc::new(AtomicU64::new(0));
        let is_released = released.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let left = match is_released.load(Relaxed) {
                    0 => answers_bytes,
                    _ => u64::MAX,
                };
                let Ok(server) = UnixStream::connect(&behind) else {
                    continue;
                };
                if let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) {
                    let (left, count) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
                    thread::spawn(move || carry(from, to, &left, &count));
                }
                thread::spawn(move || hold(server, client, left));
            }
        });
        Ok(Self {
            directory,
            released,
        })
    }

    /// From the next connection on everything is answered.
    pub fn release(&self) {
        self.released.store(1, Relaxed);
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Carries so many bytes, and then none, while both ends stay open.
fn hold(mut from: UnixStream, mut to: UnixStream, mut left: u64) {
    let mut buffer = [0; 4_096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let length = (length as u64).min(left);
        left -= length;
        if to.write_all(&buffer[..length as usize]).is_err() {
            break;
        }
    }
}

fn carry(mut from: UnixStream, mut to: UnixStream, left: &AtomicU64, broken: &AtomicU64) {
    let mut buffer = [0; 4_096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let before = left.fetch_update(Relaxed, Relaxed, |left| {
            Some(left.saturating_sub(length as u64))
        });
        if before.unwrap_or_default() <= length as u64 {
            if before != Ok(0) {
                broken.fetch_add(1, Relaxed);
            }
            break;
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}
