//! OpenSSH's server and client.

use super::place::{ALL, NONE, Place, TLS, has, noise};
use anyhow::{Result, ensure};
use octroi::lab::{
    ends::Running,
    site::{REMOTE, ipv4},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const PORT: u16 = 2_222;
/// Of each family that OpenSSH has on.
const KEY_EXCHANGES: [&str; 6] = [
    "curve25519-sha256",
    "sntrup761x25519-sha512@openssh.com",
    "ecdh-sha2-nistp256",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group-exchange-sha256",
];
const CIPHERS: [&str; 3] = [
    "chacha20-poly1305@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-ctr",
];

fn key(place: &Place, name: &str) -> Result<PathBuf> {
    let path = place.site.directory().join(name);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&path)
        .output()?;
    ensure!(made.status.success(), "{made:?}");
    Ok(path)
}

/// Where `cargo xtask setup` unpacks what it does not install.
fn unpacked() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_octroi")).parent()?.parent()?;
    Some(target.join("tools/openssh"))
}

/// The machine's server, or the unpacked one.
fn sshd() -> String {
    let installed = "/usr/sbin/sshd".to_owned();
    match unpacked().map(|directory| directory.join("usr/sbin/sshd")) {
        Some(path) if !Path::new(&installed).exists() => path.display().to_string(),
        _ => installed,
    }
}

fn server(place: &Place, host: &Path, user: &Path) -> Result<Running> {
    let directory = place.site.directory();
    let known = directory.join("authorized_keys");
    fs::copy(user.with_extension("pub"), &known)?;
    let config = directory.join("sshd_config");
    fs::write(
        &config,
        format!(
            "Port {PORT}\nListenAddress 0.0.0.0\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPrintMotd no\n\
             KexAlgorithms +{}\n",
            host.display(),
            known.display(),
            KEY_EXCHANGES.join(",")
        ),
    )?;
    // Where its unprivileged half lives, and who that is: a user that only an installed server has made, and none of this machine
    // but for this process.
    fs::create_dir_all("/run/sshd")?;
    let mut users = fs::read_to_string("/etc/passwd")?;
    if !users.lines().any(|line| line.starts_with("sshd:")) {
        users.push_str("sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n");
    }
    let passwd = directory.join("passwd");
    fs::write(&passwd, users)?;
    let libraries = unpacked()
        .unwrap_or_default()
        .join("usr/lib/x86_64-linux-gnu");
    let [passwd, libraries, config] =
        [passwd, libraries, config].map(|path| path.display().to_string());
    let run =
        "mount --bind \"$0\" /etc/passwd && exec env LD_LIBRARY_PATH=\"$1\" \"$2\" -D -e -f \"$3\"";
    let args = [
        "--mount",
        "sh",
        "-c",
        run,
        &passwd,
        &libraries,
        &sshd(),
        &config,
    ];
    place.serve("unshare", &args, "t", PORT)
}

/// What comes back of `said` from `cat` on the other end, and what the client tells of its key exchanges.
fn through(
    place: &Place,
    tenant: usize,
    key: &Path,
    options: &[&str],
    said: &[u8],
) -> Result<(Vec<u8>, String)> {
    let (key, port, to) = (
        key.display().to_string(),
        PORT.to_string(),
        format!("root@{}", ipv4(REMOTE)),
    );
    let mut command = vec![
        "ssh",
        "-v",
        "-F",
        "none",
        "-i",
        &key,
        "-p",
        &port,
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "ConnectTimeout=3",
    ];
    for option in options {
        command.extend(["-o", option]);
    }
    command.extend([to.as_str(), "exec cat"]);
    let output = place.run(tenant, 20, &command, said, Duration::ZERO)?;
    Ok((
        output.stdout,
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

pub fn passes(place: &mut Place) -> Result<()> {
    if !has("encryption_ends: ssh", &[&sshd(), "ssh", "ssh-keygen"]) {
        return Ok(());
    }
    let (host, user) = (key(place, "ssh_host")?, key(place, "ssh_user")?);
    let _server = server(place, &host, &user)?;

    // Bulk both ways, with new keys in the midst of it.
    let said = noise(6_000_000);
    place.passes(
        ALL,
        "ssh with new keys each megabyte",
        ("E2", 6_000_000),
        || {
            let (heard, told) = through(place, ALL, &user, &["RekeyLimit=1M"], &said)?;
            ensure!(
                heard == said,
                "{} of {} bytes came back: {told}",
                heard.len(),
                said.len()
            );
            let keys = told.matches("SSH2_MSG_NEWKEYS received").count();
            ensure!(keys >= 4, "{keys} key exchanges: {told}");
            Ok(())
        },
    )?;
    let said = noise(50_000);
    let mut tried = 0;
    for (option, names) in [
        ("KexAlgorithms", &KEY_EXCHANGES[..]),
        ("Ciphers", &CIPHERS[..]),
    ] {
        for name in names {
            let option = format!("{option}={name}");
            place.passes(ALL, &option, ("E2", 50_000), || {
                let (heard, told) = through(place, ALL, &user, &[&option], &said)?;
                ensure!(heard == said, "{} bytes came back: {told}", heard.len());
                Ok(())
            })?;
            tried += 1;
        }
    }
    println!("CASES: OpenSSH with other key exchanges and ciphers: {tried}");
    // Where the rule takes TLS alone.
    place.is_cut(TLS, "ssh under a rule without it", || {
        Ok(!through(place, TLS, &user, &[], b"x")?.0.is_empty())
    })?;
    let (heard, told) = through(place, NONE, &user, &[], b"x")?;
    ensure!(heard == b"x", "ssh does not work here: {told}");
    // Clear text to the same server, which says its banner.
    place.clear_text_is_cut(ALL, PORT)
}
