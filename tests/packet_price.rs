//! The price of a packet with the real daemon and real traffic: `octroi doctor --calibrate` measures it, a flood of the smallest
//! packets beside bulk TCP on one uplink pays it, and no register does.
//!
//! `PRICE: price, …`

mod support;

use anyhow::{Context as _, Result, ensure};
use octroi::{
    daemon::control::Request,
    lab::{
        Site, command,
        site::{REMOTE, UPLINK, ipv4},
        traffic::{self, Datagrams, Sink, inside, udp_sink},
    },
};
use serde_json::Value;
use std::{
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use support::{alone, by_level, can_run, octroi, registers, settle, tenant};

const CAPACITY_MBIT: u64 = 200;
const OVERHEAD: u64 = 24;
const PORT: u16 = 5_009;

fn calibrate(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(octroi());
    command.args(["doctor", "--calibrate"]).args(arguments);
    command.output().context("octroi doctor --calibrate")
}

/// Everything that a calibration might leave behind.
fn traces() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for directory in ["/run/netns", "/sys/fs/bpf"] {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with("-calibrate") {
                found.push(format!("{directory}/{name}"));
            }
        }
    }
    let links = command("ip -o link")?;
    found.extend(
        links
            .lines()
            .filter(|line| line.contains("far0") || line.contains("tap0:"))
            .map(str::to_owned),
    );
    Ok(found)
}

/// What a calibration says, as numbers.
fn price() -> Result<(u32, Value)> {
    let begun = Instant::now();
    let output = calibrate(&["--json"])?;
    let took = begun.elapsed();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    // Loading is a call of the kernel's: a busy machine may take its time for it.
    let loading = Duration::from_millis(report["loading_ms"].as_u64().context("loading_ms")?);
    let late = loading.saturating_sub(Duration::from_secs(7));
    ensure!(
        took <= Duration::from_secs(15) + late,
        "it took {took:?}, {loading:?} of it for loading"
    );
    let number = |name: &str, part: &str| report[name][part].as_u64().context(name.to_owned());
    for name in ["smallest_ns", "full_ns", "gso_ns", "packet_ns", "byte_ps"] {
        let [low, median, high] = ["low", "median", "high"].map(|part| number(name, part));
        let (low, median, high) = (low?, median?, high?);
        ensure!(low <= median && median <= high, "{name}: {report}");
    }
    ensure!(number("smallest_ns", "median")? > 50, "{report}");
    ensure!(report["rounds"].as_u64() >= Some(3), "{report}");
    let price = number("packet_price_bytes", "median")?;
    println!("PRICE: calibrated in {took:.1?}: {report}");
    Ok((u32::try_from(price)?, report))
}

#[test]
fn a_calibration_measures_leaves_nothing_and_needs_root() -> Result<()> {
    const TEST: &str = "a_calibration_measures_leaves_nothing_and_needs_root";
    if !can_run(TEST) {
        return Ok(());
    }
    let _alone = alone();
    let before = traces()?;
    let (price, _) = price()?;
    ensure!(price > 0, "a packet costs nothing");
    ensure!(traces()? == before, "left behind: {:?}", traces()?);

    // Ctrl-C in the middle, and the death of which nobody is told.
    for (signal, after_ms) in [
        (libc::SIGINT, 500),
        (libc::SIGINT, 4_000),
        (libc::SIGKILL, 4_000),
    ] {
        let child = Command::new(octroi())
            .args(["doctor", "--calibrate"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        thread::sleep(Duration::from_millis(after_ms));
        // SAFETY: a signal to a child of this process.
        unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        let begun = Instant::now();
        let output = child.wait_with_output()?;
        ensure!(!output.status.success() && begun.elapsed() < Duration::from_secs(10));
        if signal == libc::SIGINT {
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                said.contains("interrupted") && said.lines().count() == 1,
                "{said}"
            );
            ensure!(traces()? == before, "left behind: {:?}", traces()?);
        }
    }
    // What was killed left its pins at most; the next run takes them away.
    let left = traces()?;
    println!("PRICE: after kill -9: {left:?}");
    ensure!(
        left.iter().all(|name| name.starts_with("/sys/fs/bpf/")),
        "{left:?}"
    );
    let output = calibrate(&[])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success() && text.contains("\npacket_price_bytes = "),
        "{text}"
    );
    println!("{text}");
    ensure!(traces()? == before, "left behind: {:?}", traces()?);

    let copy = std::env::temp_dir().join(format!("octroi-calibrate-{}", std::process::id()));
    std::fs::copy(octroi(), &copy)?;
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["doctor", "--calibrate"])
        .output();
    std::fs::remove_file(&copy)?;
    let output = output.context("setpriv")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && said.lines().count() == 1 && said.contains("sudo"),
        "{said}"
    );
    println!("CASES: calibrations: 6");
    Ok(())
}

/// Processor time of this process, which sends and receives, and carries all packets on their way.
fn processor_time() -> Duration {
    // SAFETY: fills a plain struct; this process is always there.
    let used = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut used);
        used
    };
    let of = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    of(used.ru_utime) + of(used.ru_stime)
}

/// What one tenant sent: passed packets of the wire, layer-2 bytes, skbs; and refused packets.
#[derive(Clone, Copy, Debug)]
struct Sent {
    packets: u64,
    l2_bytes: u64,
    skbs: u64,
    refused: u64,
}

impl Sent {
    /// Priced bytes of the link; all frames here are full enough.
    fn priced(&self, price: u32) -> u64 {
        self.l2_bytes + OVERHEAD * self.packets + u64::from(price) * self.skbs
    }
}

/// Both tenants send for `time`.
fn run(site: &Site, sink: &Sink, price: u32, time: Duration) -> Result<[Sent; 2]> {
    let before = [registers(site, 0)?.0, registers(site, 1)?.0];
    let (arrived, processor, begun) = (sink.received(), processor_time(), Instant::now());
    let until = begun + time;
    let to = ipv4(REMOTE).parse()?;
    let smallest = Datagrams {
        size: 18,
        segment: None,
        gap: Duration::ZERO,
    };
    let flood = inside(site.tenants[0].open()?, move || {
        traffic::udp_send((to, 7), smallest, until)
    });
    let bulk: Vec<_> = (0..4)
        .map(|_| {
            let send = move || traffic::tcp_send((to, PORT), 1 << 16, until);
            Ok(inside(site.tenants[1].open()?, send))
        })
        .collect::<Result<_>>()?;
    let mut offered = 0;
    for (at, sender) in bulk.into_iter().chain([flood]).enumerate() {
        let sent = sender.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        offered = if at == 4 { sent / 18 } else { 0 };
    }
    let took = begun.elapsed();
    let processor = processor_time() - processor;
    let goodput = sink.received() - arrived;
    settle(|| Ok(registers(site, 1)?.0.total().packets))?;
    let after = [registers(site, 0)?.0, registers(site, 1)?.0];
    let sent = [0, 1].map(|at| {
        let side = after[at].since(&before[at]);
        Sent {
            packets: side.total().packets,
            l2_bytes: side.total().l2_bytes,
            skbs: side.skbs.delivered,
            refused: side.dropped().packets,
        }
    });
    let share = |sent: &Sent| {
        sent.priced(price) as f64 * 8.0 / took.as_secs_f64() / (CAPACITY_MBIT as f64 * 1e4)
    };
    println!(
        "PRICE: {price} bytes: flood {} of {offered} packets passed in {:.2} s ({:.1} % of the link, priced), {} refused; \
         TCP {:.1} Mbit/s in skbs of {} bytes ({:.1} %); processor {} ms, {} ns for each packet that passed",
        sent[0].packets,
        took.as_secs_f64(),
        share(&sent[0]),
        sent[0].refused,
        goodput as f64 * 8.0 / took.as_secs_f64() / 1e6,
        sent[1].l2_bytes / sent[1].skbs.max(1),
        share(&sent[1]),
        processor.as_millis(),
        processor.as_nanos() as u64 / (sent[0].skbs + sent[1].skbs).max(1),
    );
    // α needs a few periods after a change; the horizons are a few more, and every CPU has a packet. What TCP had in its
    // buffers went on after the time was over.
    let law = CAPACITY_MBIT * 125_000 * begun.elapsed().as_millis() as u64 / 1_000;
    let all = sent[0].priced(price) + sent[1].priced(price);
    ensure!(
        all <= law + law / 20 + 1_000_000,
        "{all} priced bytes passed, and the link has {law}"
    );
    Ok(sent)
}

/// The site's configuration with this price, and a share of the uplink for both.
fn config(site: &Site, price: u32) -> String {
    let host = format!("shape = \"police\"\npacket_price_bytes = {price}");
    let mut text = site.config(&host).replace(
        "capacity = \"10Gbit/s\"",
        &format!("capacity = \"{CAPACITY_MBIT}Mbit/s\"\noverhead_bytes = {OVERHEAD}"),
    );
    for index in [1, 2] {
        let id = format!("\nid = {index}\n");
        text = text.replacen(&id, &format!("{id}from_tenant = {{ weight = 1 }}\n"), 1);
    }
    text
}

#[test]
fn a_flood_of_small_packets_pays_and_no_bill_does() -> Result<()> {
    const TEST: &str = "a_flood_of_small_packets_pays_and_no_bill_does";
    if !can_run(TEST) {
        return Ok(());
    }
    let _alone = alone();
    let (calibrated, _) = price()?;
    let mut site = Site::new(&[tenant("a", false), tenant("b", true)])?;
    site.write_config(&config(&site, 0))?;
    site.start(octroi())?;
    let sink = Sink::tcp(&site.remote, PORT)?;
    let _quiet = udp_sink(&site.remote, 7)?;
    let first = site.report()?;
    ensure!(first.packet_price_bytes == 0);
    let wire_before = settle(|| Ok(site.host.counters(UPLINK)?[3]))?;
    let booked = |site: &Site| -> Result<[u64; 3]> {
        let mut sums = [0; 3];
        for index in [0, 1] {
            let total = registers(site, index)?.0.total();
            sums[0] += total.l2_bytes;
            sums[1] += total.l3_bytes;
            sums[2] += total.packets;
        }
        Ok(sums)
    };
    let booked_before = booked(&site)?;
    let time = Duration::from_millis(by_level(800, 2_000, 5_000));
    let prices = [0, 1_500, calibrated];
    let mut passed = [0; 3];
    let mut revision = first.revision;
    let rounds = by_level(1, 3, 5);
    for _ in 0..rounds {
        for (at, price) in prices.into_iter().enumerate() {
            let config = config(&site, price);
            site.ask(&Request::Apply { config })?;
            let report = site.report()?;
            ensure!(report.packet_price_bytes == price, "{report:?}");
            ensure!(
                report.revision == revision + 1,
                "one revision: {}",
                report.revision
            );
            revision = report.revision;
            let sent = run(&site, &sink, price, time)?;
            passed[at] += sent[0].packets;
            // With a price one processor asks for more than the link has.
            ensure!(
                (price == 0 || sent[0].refused > 0) && sent[1].skbs > 0,
                "{sent:?}"
            );
        }
    }
    println!(
        "PRICE: packets of the flood that passed at {prices:?}, {rounds} runs of {time:?} each: {passed:?}"
    );
    // Without a price a busy machine's sender may be all that holds it. With one the law above does; here, that the dearer
    // one lets less through.
    ensure!(
        calibrated < 3_000 || passed[1] > 2 * passed[2],
        "a flood passes in spite of its price: {passed:?}"
    );
    // Together: what TCP sends once more long after may come between two readings.
    let (wire, after) = settle(|| Ok((site.host.counters(UPLINK)?[3], booked(&site)?)))?;
    let wire = wire - wire_before;
    let [l2, l3, packets] = std::array::from_fn(|at| after[at] - booked_before[at]);
    println!("PRICE: {l2} bytes booked, {wire} on the wire");
    ensure!(l2 == wire, "{l2} bytes booked, {wire} on the wire");
    ensure!(l3 == l2 - 14 * packets, "{l3} bytes of IP in {l2}");
    println!("CASES: runs with and without a price: {}", 3 * rounds);
    Ok(())
}
