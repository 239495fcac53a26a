//! A site whose daemon serves the API, and those who ask it.

use super::client::{ROOT, Reply, User};
use crate::support::{octroi, tenant};
use anyhow::{Context as _, Result, ensure};
use metering::ledger;
use octroi::lab::{
    Site,
    site::{ipv4, ipv6, mac, mac_text},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Groups that every Debian has: `games`, `users`, and `nogroup`, which has no role here.
pub const GAMES: u32 = 60;
pub const USERS: u32 = 100;
pub const NOGROUP: u32 = 65_534;

pub const STRANGER: User = User {
    uid: 12_000,
    gid: NOGROUP,
    groups: &[1, 2, 3],
};
pub const READER: User = User {
    uid: 12_001,
    gid: GAMES,
    groups: &[],
};
/// The user `backup` has a role by name.
pub const NAMED: User = User {
    uid: 34,
    gid: NOGROUP,
    groups: &[],
};
/// By a supplementary group.
pub const POLICY: User = User {
    uid: 12_002,
    gid: NOGROUP,
    groups: &[7, USERS, 8],
};

pub const PAIR: [octroi::lab::TenantSpec; 2] = [tenant("alice", false), tenant("bob", false)];

pub struct Served {
    pub site: Site,
    pub socket: PathBuf,
    pub ledger: PathBuf,
    /// The file without `[api]`, so that tests can write another one.
    base: String,
}

impl Served {
    /// A site whose daemon serves the API. `with_ledger`: and keeps records. The file has bob as a tenant, and
    /// not his port.
    pub fn new(with_ledger: bool) -> Result<Self> {
        let site = Site::new(&PAIR)?;
        fs::set_permissions(site.directory(), fs::Permissions::from_mode(0o755))?;
        let ledger = site.directory().join("ledger.db");
        let socket = site.directory().join("api.sock");
        let text = site.config("shape = \"police\"");
        let port = text.find("[[port]]\nname = \"bob-port\"");
        let mut base = text[..port.context("bob's port")?].to_owned();
        if with_ledger {
            base += &format!(
                "\n[meter]\nledger = \"{}\"\nwindow = \"1s\"\n",
                ledger.display()
            );
        }
        let mut served = Self {
            socket,
            ledger,
            base,
            site,
        };
        let config = served.config("read = [\"games\", \"user:backup\"]\npolicy = [\"users\"]");
        served.site.write_config(&config)?;
        served.site.start(octroi())?;
        if with_ledger {
            served.wait(|served| Ok(served.status(ROOT)?["meter"]["windows"] != 0))?;
        }
        Ok(served)
    }

    pub fn config(&self, roles: &str) -> String {
        format!(
            "{}\n[api]\nsocket = \"{}\"\n{roles}\n",
            self.base,
            self.socket.display()
        )
    }

    pub fn wait(&self, done: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        while !done(self)? {
            let late = begun.elapsed() > Duration::from_secs(20);
            ensure!(!late, "never happened:\n{}", self.site.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub fn get(&self, user: User, path: &str) -> Result<Reply> {
        user.get(&self.socket, path)
    }

    pub fn status(&self, user: User) -> Result<Value> {
        let reply = self.get(user, "/v1/status")?;
        ensure!(reply.status == 200, "{reply:?}");
        Ok(reply.body)
    }

    pub fn ask(&self, user: User, method: &str, path: &str, body: &Value) -> Result<Reply> {
        user.ask(&self.socket, method, path, body)
    }

    /// What the API has entered in the ledger.
    pub fn entries(&self) -> Result<Vec<(String, String)>> {
        let looks = ledger::looks(&self.ledger)?.into_iter();
        // A daemon's start is its own entry, and who looks has one, too: `detail.rs` counts those.
        let is_change = |what: &str| {
            let kind = what.split(' ').next().unwrap_or_default();
            !["start:", "records", "usage", "statement", "flows"].contains(&kind)
        };
        let looks = looks.filter(|look| is_change(&look.what));
        Ok(looks.map(|look| (look.who, look.what)).collect())
    }

    /// The daemon is the one that was started, it answers, and nothing in it has failed.
    pub fn is_well(&self, pid: Option<u32>) -> Result<()> {
        ensure!(self.site.daemon_pid() == pid);
        ensure!(self.site.report()?.daemon);
        self.status(ROOT)?;
        let log = self.site.log();
        ensure!(!log.contains("panicked"), "{log}");
        Ok(())
    }
}

/// Bob's port, as a hook has it.
pub fn bobs_port(more: &Value) -> Value {
    let mut port = json!({
        "name": "bob-hook", "tenant": "bob", "interface": "p-bob",
        "macs": [mac_text(mac(2))], "addresses": [ipv4(2), ipv6(2)],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        port[key] = value.clone();
    }
    port
}

/// A port on an interface that is not there.
pub fn waiting_port(number: usize) -> Value {
    json!({
        "name": format!("w{number}"), "tenant": "bob", "interface": format!("none{number}"),
        "macs": [format!("02:00:00:00:01:{number:02x}")], "addresses": [format!("10.78.0.{number}")],
    })
}
