//! Protocols that begin in clear: PostgreSQL and SMTP, where encryption is accepted, declined, and stripped.

use super::{
    place::{ALL, NONE, Place, has, python_with},
    sniffer::CANARY,
};
use anyhow::{Context as _, Result, ensure};
use octroi::lab::{
    ends::Running,
    site::{REMOTE, ipv4},
};
use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// A cluster of PostgreSQL; it goes when this goes.
struct Cluster {
    directory: PathBuf,
    programs: PathBuf,
    uid: u32,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Cluster {
    fn programs() -> Option<PathBuf> {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
        let bin = versions.flatten().map(|entry| entry.path().join("bin"));
        bin.filter(|bin| bin.join("initdb").exists()).max()
    }

    fn new(programs: PathBuf, key: &str, certificate: &str) -> Result<Self> {
        let name = format!("octroi-ends-pg-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory)?;
        let uid = Command::new("id").args(["-u", "postgres"]).output()?.stdout;
        let uid = String::from_utf8(uid)?.trim().parse()?;
        let cluster = Self {
            directory,
            programs,
            uid,
        };
        chown(&cluster.directory, Some(uid), None)?;
        let made = cluster
            .as_postgres(cluster.programs.join("initdb"))
            .args([
                "-A",
                "trust",
                "-U",
                "octroi",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ])
            .arg(cluster.directory.join("data"))
            .output()?;
        ensure!(made.status.success(), "{made:?}");
        for (from, name) in [(key, "key"), (certificate, "certificate")] {
            let to = cluster.directory.join(name);
            fs::copy(from, &to)?;
            chown(&to, Some(uid), None)?;
            let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
            fs::set_permissions(&to, mode)?;
        }
        let rules = cluster.directory.join("data/pg_hba.conf");
        fs::write(&rules, "host all all 0.0.0.0/0 trust\n")?;
        Ok(cluster)
    }

    fn as_postgres(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={}", self.uid), "--clear-groups"]);
        command.arg(program.as_ref()).current_dir(&self.directory);
        command
    }

    /// The server on the remote end, with TLS or without.
    fn serve(&self, place: &Place, tls: bool) -> Result<Running> {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let postgres = self.programs.join("postgres").display().to_string();
        let (uid, data, folder) = (format!("--reuid={}", self.uid), at("data"), at(""));
        let files = [
            format!("ssl_key_file={}", at("key")),
            format!("ssl_cert_file={}", at("certificate")),
        ];
        let ssl = if tls { "ssl=on" } else { "ssl=off" };
        let mut args = vec![
            uid.as_str(),
            "--clear-groups",
            &postgres,
            "-D",
            &data,
            "-k",
            &folder,
        ];
        for option in [
            "listen_addresses=0.0.0.0",
            "fsync=off",
            ssl,
            &files[0],
            &files[1],
        ] {
            args.extend(["-c", option]);
        }
        place.serve("setpriv", &args, "t", 5_432)
    }
}

/// What `psql` of a tenant gets for a question; nothing: it was cut, or would not ask.
fn psql(place: &Place, tenant: usize, sslmode: &str, question: &str) -> Result<Option<Vec<u8>>> {
    let to = format!(
        "host={} port=5432 user=octroi dbname=postgres connect_timeout=2 gssencmode=disable sslmode={sslmode}",
        ipv4(REMOTE)
    );
    let command = ["psql", "-X", "-A", "-t", "-q", "-c", question, &to];
    let output = place.run(tenant, 8, &command, b"", Duration::ZERO)?;
    Ok(output.status.success().then_some(output.stdout))
}

pub fn postgres_passes(place: &mut Place) -> Result<()> {
    const TEST: &str = "encryption_ends: PostgreSQL";
    let Some(programs) = Cluster::programs() else {
        println!("SKIPPED: {TEST}: there is no PostgreSQL");
        return Ok(());
    };
    if !has(TEST, &["psql", "setpriv"]) {
        return Ok(());
    }
    let (key, certificate) = place.certificate()?;
    let cluster = Cluster::new(programs, &key, &certificate)?;
    let server = cluster.serve(place, true)?;
    for mode in ["require", "prefer"] {
        place.passes(ALL, &format!("PostgreSQL, {mode}"), ("E3", 2_000), || {
            let heard = psql(place, ALL, mode, "SELECT repeat('octroi', 300000)")?;
            let len = heard.map_or(0, |heard| heard.len());
            ensure!(len == 6 * 300_000 + 1, "{len} bytes came");
            Ok(())
        })?;
    }
    let canary = format!("SELECT '{}'", CANARY.trim());
    place.is_cut(ALL, "PostgreSQL in clear", || {
        Ok(psql(place, ALL, "disable", &canary)?.is_some())
    })?;
    place.no_canary()?;
    drop(server);
    // Declined: the server has no TLS, and the client is content without.
    let _server = cluster.serve(place, false)?;
    for mode in ["prefer", "disable"] {
        place.is_cut(ALL, &format!("PostgreSQL that declines, {mode}"), || {
            Ok(psql(place, ALL, mode, &canary)?.is_some())
        })?;
    }
    place.no_canary()?;
    let heard = psql(place, NONE, "prefer", &canary)?;
    heard.context("PostgreSQL in clear does not work here")?;
    place.canary_is_seen()
}

pub fn smtp_passes(place: &mut Place) -> Result<()> {
    const PORT: &str = "2525";
    let Some(python) = python_with("encryption_ends: SMTP", "aiosmtpd") else {
        return Ok(());
    };
    let python: Vec<&str> = python.iter().map(String::as_str).collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/encryption_ends/smtp.py");
    let (key, certificate) = place.certificate()?;
    let remote = ipv4(REMOTE);
    // "starttls": the client asks for it and says nothing else before; "clear": it never asks.
    let send = |place: &Place, tenant: usize, how: &str, canary: &str| -> Result<bool> {
        let send = [script, "send", PORT, &remote, how, canary];
        let command = [&python[..], &send].concat();
        let output = place.run(tenant, 8, &command, b"", Duration::ZERO)?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("250 delivered"))
    };
    let canary = CANARY.lines().next().unwrap_or_default();
    let serve = |how: &str| {
        let serve = [script, "serve", PORT, how, &certificate, &key];
        place.serve(python[0], &[&python[1..], &serve].concat(), "t", 2_525)
    };
    let server = serve("starttls")?;
    place.passes(ALL, "SMTP with STARTTLS", ("E3", 200), || {
        ensure!(
            send(place, ALL, "starttls", canary)?,
            "no mail was delivered"
        );
        Ok(())
    })?;
    place.is_cut(ALL, "SMTP in clear", || send(place, ALL, "clear", canary))?;
    drop(server);
    let server = serve("clear")?;
    // The offer is stripped on the way, or was never made: a client that is content without goes on in clear.
    place.is_cut(ALL, "SMTP stripped of STARTTLS", || {
        send(place, ALL, "opportunistic", canary)
    })?;
    drop(server);
    place.no_canary()?;
    let serve = [script, "serve", PORT, "clear", &certificate, &key];
    let serve = [&python[1..], &serve].concat();
    let _server = place.serve(python[0], &serve, "t", 2_525)?;
    ensure!(
        send(place, NONE, "opportunistic", canary)?,
        "SMTP does not work here"
    );
    place.canary_is_seen()
}
