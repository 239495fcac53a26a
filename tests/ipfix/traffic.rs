//! The real daemon with real packets.

use crate::{
    Kept,
    collectors::{is_here, nfcapd, nfdump},
    deliver,
    delivered::caught_up,
    kept,
    site::{Metered, Traffic},
    support::{alone, can_run, octroi},
    target,
};
use anyhow::{Result, ensure};
use metering::ledger;
use std::{fs, path::Path, time::Duration};

#[test]
fn what_tenants_sent_is_what_nfdump_has() -> Result<()> {
    const TEST: &str = "what_tenants_sent_is_what_nfdump_has";
    let _alone = alone();
    if !can_run(TEST) {
        return Ok(());
    }
    if !is_here("nfcapd") {
        println!("SKIPPED: {TEST}: there is no nfcapd; `cargo xtask setup` installs it");
        return Ok(());
    }
    let mut metered = Metered::new("500ms", None)?;
    let flows = metered.site.directory().join("flows");
    fs::create_dir(&flows)?;
    // In a namespace of its own: any port is free.
    let collector = nfcapd(
        |name| metered.site.host.prepare(Path::new(name)),
        &flows,
        4_739,
    )?;
    let config = metered.site.config("shape = \"police\"")
        + &format!(
            "\n[meter]\nledger = \"{}\"\nwindow = \"500ms\"\n\
             \n[[sink]]\nname = \"flows\"\nkind = \"ipfix\"\nurl = \"udp://127.0.0.1:4739\"\n",
            metered.ledger.display()
        );
    metered.site.write_config(&config)?;
    metered.start()?;
    let traffic = Traffic::start(&metered.site)?;
    std::thread::sleep(Duration::from_secs(3));
    traffic.stop()?;
    metered.conserved()?;
    metered.site.start(octroi())?;
    caught_up(&metered, Duration::from_secs(30))?;
    metered.site.stop();
    // What the daemon cut when it ended, after its sink had.
    let (host, ledger) = (&metered.site.host, &metered.ledger);
    host.run(|| deliver(target("udp://127.0.0.1:4739"), ledger, "demo"))??;
    std::thread::sleep(Duration::from_millis(500));
    collector.end(libc::SIGTERM)?;
    let Kept {
        all: expected,
        rows,
        ..
    } = kept(ledger)?;
    let (found, text) = nfdump(&flows)?;
    ensure!(
        found == expected,
        "nfdump {found:?}\nkept {expected:?}\n{text}"
    );
    ensure!(
        found.values().map(|sums| sums[1]).sum::<u64>() > 1_000,
        "{found:?}"
    );
    let looks = ledger::looks(ledger)?.len();
    ensure!(looks >= 3, "{looks} looks");
    println!("CASES: rows of flow detail of real packets that nfdump has: {rows}");
    Ok(())
}
