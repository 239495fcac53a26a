//! A client of the control API that can be anybody: users and groups are a thread's own.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'static [u32],
}

pub const ROOT: User = User {
    uid: 0,
    gid: 0,
    groups: &[],
};

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub kind: String,
    pub body: Value,
}

impl User {
    /// Does something as this user, on a thread of its own.
    pub fn does<T: Send>(self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                self.become_it()?;
                work()
            });
            thread.join().unwrap_or_else(|_| bail!("a client panicked"))
        })
    }

    /// The C library changes all threads of a process; the kernel only the one that asks.
    fn become_it(self) -> Result<()> {
        if self == ROOT {
            return Ok(());
        }
        let (gid, uid) = (i64::from(self.gid), i64::from(self.uid));
        // SAFETY: the slice lives through the call; the others are numbers.
        let done = unsafe {
            libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()) == 0
                && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
                && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
        };
        ensure!(done, "{self:?}: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Asks, as this user.
    pub fn ask(self, socket: &Path, method: &str, path: &str, body: &Value) -> Result<Reply> {
        self.does(|| {
            let text = if body.is_null() {
                String::new()
            } else {
                body.to_string()
            };
            let kind = "content-type: application/json\r\n";
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{}content-length: {}\r\n\r\n{text}",
                if text.is_empty() { "" } else { kind },
                text.len()
            );
            reply(&raw(socket, request.as_bytes())?)
        })
    }

    /// Looks, as this user.
    pub fn get(self, socket: &Path, path: &str) -> Result<Reply> {
        self.ask(socket, "GET", path, &Value::Null)
    }
}

/// Sends bytes, and returns all that comes back until the other end closes.
pub fn raw(socket: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    // Whoever is refused before all was read closes the connection: what it said is still there.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error.into()),
        _ => Ok(answer),
    }
}

/// Reads an answer.
pub fn reply(bytes: &[u8]) -> Result<Reply> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").context("no head")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let kind = lines.find_map(|line| line.strip_prefix("content-type: "));
    Ok(Reply {
        status: status.context("no status")?.parse()?,
        kind: kind.unwrap_or_default().to_owned(),
        body: if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(body).with_context(|| body.to_owned())?
        },
    })
}
