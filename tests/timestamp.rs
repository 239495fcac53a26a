//! A head that somebody else has put a time on: RFC 3161, with OpenSSL in the place of the authority, and without
//! octroi where it is checked.

#[path = "flow_detail/host.rs"]
#[allow(dead_code, reason = "written for tests/flow_detail.rs")]
mod host;

use anyhow::{Result, ensure};
use host::{Dir, write};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

/// An authority that signs whatever it is asked to.
const AUTHORITY: &str = "
[tsa]
default_tsa = own
[own]
serial = serial
signer_cert = tsa.pem
signer_key = tsa.key
certs = tsa.pem
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical,CA:TRUE
[stamps]
extendedKeyUsage = critical,timeStamping
";

/// Runs a program in a directory, with words that are separated by spaces.
fn run(at: &Path, line: &str) -> Result<Output> {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    Ok(Command::new(program).args(words).current_dir(at).output()?)
}

fn fine(at: &Path, line: &str) -> Result<String> {
    let output = run(at, line)?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{line}: {said}");
    Ok(said)
}

fn octroi(at: &Path, line: &str) -> Result<Output> {
    run(at, &format!("{} {line}", env!("CARGO_BIN_EXE_octroi")))
}

#[test]
fn a_head_with_a_timestamp_shows_by_when_a_ledger_was_so_long() -> Result<()> {
    const TEST: &str = "a_head_with_a_timestamp_shows_by_when_a_ledger_was_so_long";
    let dir = Dir::new("timestamp");
    let at = dir.0.as_path();
    if run(at, "openssl version").is_err() {
        println!("SKIPPED: {TEST}: there is no openssl");
        return Ok(());
    }
    fs::write(at.join("tsa.cnf"), AUTHORITY)?;
    fs::write(at.join("serial"), "01\n")?;
    for line in [
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2 -config tsa.cnf -extensions ca",
        "openssl req -newkey rsa:2048 -nodes -keyout tsa.key -out tsa.csr -subj /CN=tsa -config tsa.cnf",
        "openssl x509 -req -in tsa.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out tsa.pem -days 2 -extfile tsa.cnf -extensions stamps",
    ] {
        fine(at, line)?;
    }

    write(&dir.ledger(), 3);
    // An older copy, for later.
    let copied = octroi(at, "ledger backup --ledger ledger.db older.db")?;
    ensure!(copied.status.success(), "{copied:?}");
    write(&dir.ledger(), 2);
    // As docs/METERING.md, M-14.12, says: these three on the host, and what is between over the network.
    let head = octroi(at, "ledger head --ledger ledger.db")?;
    ensure!(head.status.success(), "{head:?}");
    fs::write(at.join("head"), &head.stdout)?;
    fine(
        at,
        "openssl ts -query -data head -sha256 -cert -out head.tsq",
    )?;
    fine(
        at,
        "openssl ts -reply -queryfile head.tsq -config tsa.cnf -out head.tsr",
    )?;
    let check = "openssl ts -verify -data head -in head.tsr -CAfile ca.pem";
    let said = fine(at, check)?;
    ensure!(said.contains("Verification: OK"), "{said}");

    // The ledger goes on, and still continues that head.
    write(&dir.ledger(), 2);
    let verified = octroi(at, "verify --against head ledger.db")?;
    ensure!(verified.status.success(), "{verified:?}");
    // One whose tail is cut off does not.
    let sound = octroi(at, "verify older.db")?;
    ensure!(sound.status.success(), "{sound:?}");
    let cut = octroi(at, "verify --against head older.db")?;
    ensure!(!cut.status.success(), "a tail that is cut off is not found");
    // A head that was signed later has not that time.
    let later = octroi(at, "ledger head --ledger ledger.db")?;
    ensure!(later.stdout != head.stdout);
    fs::write(at.join("head"), &later.stdout)?;
    ensure!(
        !run(at, check)?.status.success(),
        "another head has the same timestamp"
    );
    println!("CASES: heads with a timestamp by RFC 3161: 1");
    Ok(())
}
