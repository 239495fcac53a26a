//! What collectors of flows have is the flow detail, to the byte: nfcapd and nfdump, pmacct and libfixbuf read what is sent, over
//! datagrams and connections. Who looks is in the ledger first; what was gone before it was sent is counted.

#[path = "meter/bill.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod bill;
#[path = "support/certificate.rs"]
mod certificate;
#[path = "ipfix/collectors.rs"]
mod collectors;
#[path = "ipfix/decode.rs"]
mod decode;
#[path = "meter/delivered.rs"]
#[allow(dead_code, reason = "each test of a sink uses its own part of this")]
mod delivered;
#[path = "flow_detail/host.rs"]
#[allow(dead_code, reason = "written for tests/flow_detail.rs")]
mod host;
#[path = "meter/site.rs"]
#[allow(dead_code, reason = "written for tests/meter.rs")]
mod site;
mod support;
#[path = "ipfix/traffic.rs"]
mod traffic;

use anyhow::{Context as _, Result, ensure};
use collectors::{Totals, add, is_here, nfacctd, nfcapd, nfdump, pmacct};
use decode::decode;
use host::{Dir, Host, write_of};
use metering::{
    ledger::{self, FlowFilter},
    sink::{Courier, Target, ipfix},
};
use std::{
    fs,
    io::Read as _,
    net::{TcpListener, UdpSocket},
    ops::ControlFlow,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const WINDOWS: u64 = 12;

/// A port that nobody has.
fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn target(url: &str) -> ipfix::Target {
    let target = ipfix::Target {
        url: url.to_owned(),
        domain: 7,
        in_clear: false,
        ca_file: None,
    };
    target.check().expect("it is right");
    target
}

/// Delivers a host's ledger until nothing is left.
fn deliver(target: ipfix::Target, path: &Path, host: &str) -> Result<Option<u64>> {
    let sink = Target::Ipfix(target).open(path, "flows");
    let mut courier = Courier::new(sink, path, host, 1);
    let begun = Instant::now();
    loop {
        courier.step(Instant::now());
        let progress = courier.progress();
        if progress.lag == Some(0) && progress.error.is_none() {
            return Ok(progress.lost);
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "{progress:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What `octroi flows` shows.
#[derive(Default)]
struct Kept {
    /// Rows' flows, packets and IP bytes; and of those of IP alone.
    all: Totals,
    ip: Totals,
    l2_bytes: u64,
    rows: u64,
}

fn kept(path: &Path) -> Result<Kept> {
    let mut kept = Kept::default();
    let faults = ledger::flows(path, &FlowFilter::default(), &mut |line| {
        let counts = line.row.counts;
        let key = (line.tenant, line.direction == 0);
        let more = [line.row.flows, counts.packets, counts.l3_bytes];
        add(&mut kept.all, key, more);
        if line.row.remote_bytes().is_some() {
            add(&mut kept.ip, key, more);
        }
        kept.l2_bytes += counts.l2_bytes;
        kept.rows += 1;
        ControlFlow::Continue(())
    })?;
    ensure!(faults.is_empty(), "{faults:?}");
    Ok(kept)
}

#[test]
fn nfdump_reads_every_flow_to_the_byte() -> Result<()> {
    if !is_here("nfcapd") {
        println!(
            "SKIPPED: nfdump_reads_every_flow_to_the_byte: there is no nfcapd; `cargo xtask setup` installs it"
        );
        return Ok(());
    }
    let dir = Dir::new("ipfix-nfdump");
    let path = dir.ledger();
    write_of(Host::mixed(), &path, WINDOWS);
    let flows = dir.0.join("flows");
    fs::create_dir(&flows)?;
    let port = free_port()?;
    let collector = nfcapd(|name| Ok(Command::new(name)), &flows, port)?;
    let lost = deliver(target(&format!("udp://127.0.0.1:{port}")), &path, "host")?;
    ensure!(lost == Some(0), "{lost:?}");
    // What is in its socket is read before it ends.
    std::thread::sleep(Duration::from_millis(500));
    collector.end(libc::SIGTERM)?;
    let (found, text) = nfdump(&flows)?;
    let Kept {
        all: expected,
        rows,
        ..
    } = kept(&path)?;
    ensure!(
        found == expected,
        "nfdump {found:?}\nkept {expected:?}\n{text}"
    );
    ensure!(text.lines().count() as u64 == rows, "{rows} rows\n{text}");
    // A flow has both addresses; a prefix is a network, without the tenant's own address.
    let lines = text
        .lines()
        .map(|line| line.split(';').map(str::trim).collect::<Vec<_>>());
    let from = lines.filter(|fields| fields[5] == "I" && fields[6] == "6");
    let (full, prefixes): (Vec<_>, Vec<_>) = from.partition(|fields| fields[0] == "1");
    ensure!(
        full.iter()
            .any(|fields| (fields[7], fields[8]) == ("10.0.0.8", "198.0.0.8")),
        "{text}"
    );
    ensure!(!prefixes.is_empty(), "{text}");
    ensure!(
        prefixes
            .iter()
            .all(|fields| (fields[7], fields[8]) == ("0.0.0.0", "198.0.0.0")),
        "{text}"
    );
    println!("CASES: flows that nfdump reads to the byte: {rows}");
    Ok(())
}

#[test]
fn pmacct_reads_every_flow_to_the_byte() -> Result<()> {
    if !is_here("nfacctd") {
        println!(
            "SKIPPED: pmacct_reads_every_flow_to_the_byte: there is no nfacctd; `cargo xtask setup` installs it"
        );
        return Ok(());
    }
    let dir = Dir::new("ipfix-pmacct");
    let path = dir.ledger();
    write_of(Host::mixed(), &path, WINDOWS);
    let port = free_port()?;
    let collector = nfacctd(&dir.0, port)?;
    deliver(target(&format!("udp://127.0.0.1:{port}")), &path, "host")?;
    let Kept {
        ip: expected, rows, ..
    } = kept(&path)?;
    let begun = Instant::now();
    let found = loop {
        let found = pmacct(&dir.0)?;
        if found == expected || begun.elapsed() > Duration::from_secs(15) {
            break found;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let log = fs::read_to_string(dir.0.join("log")).unwrap_or_default();
    ensure!(
        found == expected,
        "pmacct {found:?}\nkept {expected:?}\n{log}"
    );
    collector.end(libc::SIGINT)?;
    println!("CASES: flows that pmacct reads to the byte: {rows}");
    Ok(())
}

/// A collector of connections: keeps what each brings, until it is broken off after so many bytes.
fn takes(listener: TcpListener, breaks_after: Vec<usize>) -> std::thread::JoinHandle<Vec<Vec<u8>>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        for limit in breaks_after {
            let Ok((mut stream, _)) = listener.accept() else {
                break;
            };
            let mut bytes = Vec::new();
            let mut some = [0; 512];
            while bytes.len() < limit {
                match stream.read(&mut some) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => bytes.extend(&some[..read]),
                }
            }
            all.push(bytes);
        }
        all
    })
}

#[test]
fn a_connection_brings_a_stream_that_libfixbuf_reads_and_one_that_broke_begins_anew() -> Result<()>
{
    let dir = Dir::new("ipfix-tcp");
    let path = dir.ledger();
    write_of(Host::mixed(), &path, WINDOWS);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("tcp://{}", listener.local_addr()?);
    // Nobody there: told, and nothing of the ledger moves.
    let nobody = format!("tcp://127.0.0.1:{}", free_port()?);
    let mut courier = Courier::new(
        Target::Ipfix(target(&nobody)).open(&path, "nobody"),
        &path,
        "host",
        1,
    );
    courier.step(Instant::now());
    ensure!(courier.progress().lag.is_none() && courier.progress().error.is_some());
    ensure!(
        courier.progress().confirmed == 0,
        "{:?}",
        courier.progress()
    );
    let taken = takes(listener, vec![usize::MAX]);
    deliver(target(&url), &path, "host")?;
    let mut streams = taken.join().ok().context("the collector")?;
    let stream = streams.pop().context("a stream")?;
    let Kept { l2_bytes, rows, .. } = kept(&path)?;
    let read = decode(&stream)?;
    ensure!(
        (read.rows, read.l2_bytes) == (rows, l2_bytes),
        "{read:?}, {rows} rows, {l2_bytes} bytes"
    );
    ensure!(read.domains == [7], "{read:?}");
    // Who looked is there, once for each start of a sink.
    let looks = ledger::looks(&path)?;
    let whats: Vec<&str> = looks.iter().map(|look| look.what.as_str()).collect();
    ensure!(
        whats
            == [
                format!("sink nobody: flow detail of all tenants goes to {nobody}"),
                format!("sink flows: flow detail of all tenants goes to {url}")
            ],
        "{whats:?}"
    );
    if is_here("ipfixDump") {
        let file = dir.0.join("stream.ipfix");
        fs::write(&file, &stream)?;
        let output = Command::new("ipfixDump").arg("--in").arg(&file).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{output:?}");
        let sum = |name: &str| -> u64 {
            let lines = text
                .lines()
                .filter(|line| line.contains(name) && line.contains(':'));
            lines
                .filter_map(|line| line.rsplit(' ').next()?.trim().parse::<u64>().ok())
                .sum()
        };
        ensure!(
            sum("layer2OctetDeltaCount") == l2_bytes,
            "{} of {l2_bytes}\n{text}",
            sum("layer2OctetDeltaCount")
        );
        println!("CASES: flows that libfixbuf reads to the byte: {rows}");
    } else {
        println!("SKIPPED: libfixbuf: there is no ipfixDump; `cargo xtask setup` installs it");
    }
    Ok(())
}

#[test]
fn what_breaks_goes_again_what_is_gone_is_counted_and_nobody_looks_unseen() -> Result<()> {
    let dir = Dir::new("ipfix-breaks");
    let path = dir.ledger();
    write_of(Host::mixed(), &path, WINDOWS);
    let rows = kept(&path)?.rows;
    // Broken in the middle: the batch goes again from its beginning, with templates, in a new session.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("tcp://{}", listener.local_addr()?);
    let taken = takes(listener, vec![2_000, usize::MAX]);
    let sink = Target::Ipfix(target(&url)).open(&path, "flows");
    let mut courier = Courier::new(sink, &path, "host", 1);
    courier.step(Instant::now());
    // The kernel takes a small batch before it is known that nobody reads: then the next one finds out.
    std::thread::sleep(Duration::from_millis(300));
    let records = write_of(Host::mixed(), &path, 1);
    ensure!(records > 0);
    let begun = Instant::now();
    while courier.progress().lag != Some(0) {
        courier.step(Instant::now());
        ensure!(
            begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            courier.progress()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    courier.step(Instant::now());
    drop(courier);
    let streams = taken.join().ok().context("the collector")?;
    ensure!(streams.len() == 2, "{}", streams.len());
    let second = decode(&streams[1])?;
    let all = kept(&path)?.rows;
    ensure!(
        second.rows >= all - rows,
        "{second:?}: {all} rows, {rows} before"
    );

    // Flow detail that retention took before it was sent is counted, and stops nothing.
    let day = fs::read_dir(&dir.0)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.to_string_lossy().contains(".flows-") && path.to_string_lossy().ends_with(".db")
        })
        .context("a day's file")?;
    fs::remove_file(&day)?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let url = format!("udp://{}", socket.local_addr()?);
    let sink = Target::Ipfix(target(&url)).open(&path, "late");
    let mut courier = Courier::new(sink, &path, "host", 1);
    while courier.progress().lag != Some(0) {
        courier.step(Instant::now());
        ensure!(
            courier.progress().error.is_none(),
            "{:?}",
            courier.progress()
        );
    }
    ensure!(
        courier.progress().lost == Some(all),
        "{:?}: {all}",
        courier.progress()
    );

    // A ledger that takes no entry gives nothing away.
    let other = Dir::new("ipfix-unseen");
    let path = other.ledger();
    write_of(Host::mixed(), &path, 2);
    let lock = rusqlite::Connection::open(&path)?;
    lock.execute_batch("BEGIN IMMEDIATE")?;
    let sink = Target::Ipfix(target(&url)).open(&path, "unseen");
    let mut courier = Courier::new(sink, &path, "host", 1);
    socket.set_nonblocking(true)?;
    let mut datagram = [0; 2_048];
    courier.step(Instant::now());
    ensure!(courier.progress().error.is_some() && courier.progress().confirmed == 0);
    ensure!(
        socket.recv(&mut datagram).is_err(),
        "flow detail left before the entry"
    );
    drop(lock);
    let begun = Instant::now();
    while courier.progress().lag != Some(0) || courier.progress().error.is_some() {
        courier.step(Instant::now());
        ensure!(
            begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            courier.progress()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let length = socket.recv(&mut datagram)?;
    ensure!(length <= 1_232 && decode(&datagram[..length])?.rows > 0);
    let error = courier_refuses(&path, &url)?;
    println!("CASES: rows that were gone before they were sent, and are counted: {all}");
    println!("CASES: questions that a collector cannot answer: {error}");
    Ok(())
}

/// Neither can it be asked, nor does it drop what comes twice.
fn courier_refuses(path: &Path, url: &str) -> Result<u32> {
    let mut sink = Target::Ipfix(target(url)).open(path, "flows");
    let sums = sink
        .sums(&[0; 16], 1, &[])
        .err()
        .context("sums")?
        .to_string();
    ensure!(sums.contains("octroi flows"), "{sums}");
    Ok(1)
}

#[test]
fn a_collector_that_is_not_trusted_gets_nothing() -> Result<()> {
    let dir = Dir::new("ipfix-tls");
    let path = dir.ledger();
    write_of(Host::mixed(), &path, 3);
    let Some((ca, key)) = certificate::make(&dir.0, "ca")? else {
        println!("SKIPPED: a_collector_that_is_not_trusted_gets_nothing: there is no openssl");
        return Ok(());
    };
    let (other, _) = certificate::make(&dir.0, "other")?.context("openssl")?;
    let port = free_port()?;
    let stream = dir.0.join("stream");
    let child = Command::new("openssl")
        .args([
            "s_server",
            "-quiet",
            "-accept",
            &format!("127.0.0.1:{port}"),
            "-cert",
        ])
        .arg(&ca)
        .arg("-key")
        .arg(&key)
        .stdin(std::process::Stdio::piped())
        .stdout(fs::File::create(&stream)?)
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let server = collectors::Running(child);
    std::thread::sleep(Duration::from_millis(700));
    for (ca_file, works) in [(&other, false), (&ca, true)] {
        let target = ipfix::Target {
            url: format!("tls://localhost:{port}"),
            domain: 7,
            in_clear: false,
            ca_file: Some(ca_file.clone()),
        };
        let sink = Target::Ipfix(target).open(&path, if works { "right" } else { "wrong" });
        let mut courier = Courier::new(sink, &path, "host", 1);
        courier.step(Instant::now());
        let progress = courier.progress().clone();
        ensure!((progress.lag == Some(0)) == works, "{works}: {progress:?}");
        drop(courier);
        std::thread::sleep(Duration::from_millis(500));
        ensure!((fs::metadata(&stream)?.len() != 0) == works, "{works}");
    }
    let Kept { l2_bytes, rows, .. } = kept(&path)?;
    let read = decode(&fs::read(&stream)?)?;
    ensure!((read.rows, read.l2_bytes) == (rows, l2_bytes), "{read:?}");
    drop(server);
    Ok(())
}
