//! The demo's scene of the encryption policy: one tenant under `enforce`, real clients and servers.

use super::checks::{Check, Outcome};
use crate::{
    daemon::control::Request,
    lab::{
        Site,
        ends::{self, PAGE, ask_in_clear, clear_server, s_client, s_server},
    },
};
use anyhow::{Context as _, Result};

/// Who is under the rule, and who is not.
const ALICE: usize = 0;
const BOB: usize = 1;
const RULE: &str =
    "\n[[encryption]]\ntenant = \"alice\"\nmode = \"enforce\"\nprofile = \"anssi-2026\"\n";
/// A clear request.
const HTTP: &[u8] = b"GET / HTTP/1.1\r\nHost: remote.example\r\n\r\n";

/// Puts alice under the rule, and lets her and bob ask for pages.
pub fn scene(site: &Site, config: &str, outcome: &mut Outcome) -> Result<()> {
    if !ends::openssl() {
        eprintln!("demo: there is no openssl here: the scene of the encryption policy is left out");
        return Ok(());
    }
    eprintln!("demo: alice is under `enforce` from now on: HTTPS, HTTP, and TLS 1.0");
    let config = config.to_owned() + RULE;
    site.ask(&Request::Apply { config }).context("the rule")?;
    let old = ["-tls1", "-cipher", "ALL:@SECLEVEL=0"];
    let _https = s_server(site, 4_433, &["-tls1_3"])?;
    let _old = s_server(site, 4_434, &old)?;
    let _http = clear_server(&site.remote, 8_080)?;
    let paged = |index, port, options: &[&str]| -> Result<u64> {
        Ok(u64::from(
            s_client(site, index, port, options)?.contains(PAGE),
        ))
    };
    let answered = |index| -> Result<u64> {
        Ok(u64::from(
            !ask_in_clear(site, index, 8_080, HTTP)?.is_empty(),
        ))
    };
    for (name, found, wanted) in [
        (
            "alice, under enforce, gets an HTTPS page",
            paged(ALICE, 4_433, &["-tls1_3"])?,
            1,
        ),
        (
            "alice gets a page over TLS 1.0",
            paged(ALICE, 4_434, &old)?,
            0,
        ),
        ("bob, who has no rule, gets it", paged(BOB, 4_434, &old)?, 1),
        ("alice gets an HTTP page in clear", answered(ALICE)?, 0),
        ("bob gets it", answered(BOB)?, 1),
    ] {
        outcome.push(Check::equal(name, found, wanted, "yes/no"));
    }
    let report = site.report()?;
    let port = report
        .ports
        .iter()
        .find(|port| port.tenant == ALICE as u32 + 1);
    let port = port.context("alice has no port")?;
    let sides = [&port.from_tenant, &port.to_tenant];
    let classes = || sides.iter().flat_map(|side| &side.evidence);
    let checked = classes().filter(|(class, _)| class == "E3");
    outcome.push(Check::at_least(
        "alice's bytes in TLS whose every record was checked (E3)",
        checked.map(|(_, counts)| counts.l2_bytes).sum(),
        1,
        "B",
    ));
    let reason = dataplane_common::reason::DropReason::EncryptionPolicy;
    outcome.push(Check::at_least(
        "alice's packets that the policy dropped",
        sides
            .iter()
            .map(|side| side.dropped_for(reason).packets)
            .sum(),
        2,
        "packets",
    ));
    Ok(())
}
