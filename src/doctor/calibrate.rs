//! `octroi doctor --calibrate`: what a packet and a byte cost this host, and the price of a packet that makes of it.
//!
//! Frames of a tap, as a guest's, go through the real programs of a port with a ceiling, a bridge and an uplink, all of it in
//! network namespaces that have no name: they, the devices and the programs' links end with this process, however it ends.
//! What is counted is the processor time of the thread that hands the frames in, which is what a vhost thread spends for its
//! guest. The far end of the uplink drops what comes, as it is for somebody else.
//!
//! With `packet + byte · n` for a packet of n bytes, a limit in which an skb pays `price = packet / byte` above its bytes takes
//! the same time for whatever fills it: a flood of the smallest packets as much as full frames.

use crate::{
    config, daemon,
    lab::{
        command, frames,
        namespace::{enter, sweep},
        site::mac_text,
        tap::{self, Header, Tap, gso},
    },
    price::{FRAME_BYTES, FRAME_MIN_BYTES, GSO_BYTES, parts},
};
use anyhow::{Context as _, Result, bail, ensure};
use dataplane::{gate::Gate, host, pins::Pins};
use dataplane_common::limit::PRICE_MAX;
use serde::Serialize;
use std::{
    fmt::Write as _,
    fs::File,
    path::PathBuf,
    process,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// It ends after this, what was loaded before included; then one run is waited for, and all is taken away.
const TIME_MAX: Duration = Duration::from_secs(12);
/// But where loading takes nearly as long, which is one call of the kernel's, so long is measured.
const MEASURED: Duration = Duration::from_secs(4);
/// One run of one kind of packet: processor time.
const RUN: Duration = Duration::from_millis(20);
/// Rounds of a run of each kind, at most and at least.
const ROUNDS: (usize, usize) = (100, 3);
/// Between two looks at the clock.
const BATCH: u64 = 64;

const HOST_SIDE: &str = "up0";
const PORT: &str = "tap0";
const TENANT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const REMOTE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 254];
const TENANT: [u8; 4] = [192, 0, 2, 1];
const REMOTE: [u8; 4] = [198, 51, 100, 1];
/// Segments of the GSO packet, and their payload bytes.
const SEGMENTS: u64 = GSO_BYTES / FRAME_BYTES;
const MSS: usize = 1_460;

/// Median of all rounds, and the middle half of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Spread {
    median: u64,
    low: u64,
    high: u64,
}

impl Spread {
    fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let at = |quarter: usize| {
            let place = values.len().saturating_sub(1) * quarter / 4;
            values.get(place).copied().unwrap_or_default()
        };
        Self {
            median: at(2),
            low: at(1),
            high: at(3),
        }
    }

    /// From thousandths to whole units, rounded.
    fn thousandths(self) -> Self {
        let whole = |value: u64| (value + 500) / 1_000;
        Self {
            median: whole(self.median),
            low: whole(self.low),
            high: whole(self.high),
        }
    }
}

/// `octroi doctor --calibrate --json`.
#[derive(Debug, Serialize)]
struct Report {
    /// Kernel release.
    kernel: String,
    /// How programs are attached.
    attach: &'static str,
    /// Until the programs were loaded and in their places.
    loading_ms: u64,
    /// Rounds; each a run of every kind of packet.
    rounds: usize,
    /// Packets that crossed, of all kinds.
    packets: u64,
    /// Time of a packet of 60 bytes, ns.
    smallest_ns: Spread,
    /// Of 1,514 bytes.
    full_ns: Spread,
    /// Of 44 segments of 1,514 bytes in one skb.
    gso_ns: Spread,
    /// A packet without its bytes, ns.
    packet_ns: Spread,
    /// A byte, ps.
    byte_ps: Spread,
    /// Bytes that cost as much as a packet: what to configure, and the middle half of the rounds.
    packet_price_bytes: Spread,
    /// In some rounds bytes cost nothing that could be measured, or the price is beyond the highest: that one is reported.
    bounded: bool,
}

/// Time of one packet of each kind, ps.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    smallest: u64,
    full: u64,
    gso: u64,
}

impl Round {
    /// Of a byte, ps; 0: none that can be measured.
    fn byte(&self) -> u64 {
        self.full.saturating_sub(self.smallest) / (FRAME_BYTES - FRAME_MIN_BYTES)
    }

    /// Of a packet without its bytes, ps.
    fn packet(&self) -> u64 {
        let bytes = self.full.saturating_sub(self.smallest) * FRAME_MIN_BYTES;
        (self.smallest).saturating_sub(bytes / (FRAME_BYTES - FRAME_MIN_BYTES))
    }

    /// Bytes that cost as much as a packet, at most [`PRICE_MAX`].
    fn price(&self) -> u64 {
        // Not by way of a byte's whole ps.
        let price = self.packet() * (FRAME_BYTES - FRAME_MIN_BYTES);
        let of_bytes = self.full.saturating_sub(self.smallest);
        let price = price.checked_div(of_bytes).unwrap_or(u64::MAX);
        price.min(u64::from(PRICE_MAX))
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Relaxed);
}

/// Measures, and prints what was found.
///
/// # Errors
/// When this is not root, the host lacks something, it was interrupted, or the frames did not cross.
pub fn run(json: bool) -> Result<()> {
    ensure!(
        // SAFETY: takes no argument and cannot fail.
        unsafe { libc::geteuid() } == 0,
        "doctor --calibrate loads programs and makes namespaces, which takes root: run it with sudo"
    );
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, interrupt as *const () as libc::sighandler_t) };
    }
    sweep();
    // A namespace is entered for good: by a thread that ends with it.
    let measured = thread::scope(|scope| scope.spawn(measure).join());
    let report = measured.unwrap_or_else(|_| bail!("the measuring thread panicked"))?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(())
}

/// Moves this thread into a new network namespace, and opens that.
fn unshare() -> Result<File> {
    // SAFETY: takes flags only, and concerns this thread alone.
    let failed = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    ensure!(
        failed == 0,
        "a network namespace: {}",
        std::io::Error::last_os_error()
    );
    File::open("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")
}

/// The pins of the calibration's gate; a run that was killed leaves them to the next one's [`sweep`].
struct Pinned(PathBuf);

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn measure() -> Result<Report> {
    let begun = Instant::now();
    let remote = unshare()?;
    command("ip link set lo up")?;
    let host = unshare()?;
    let mut tap = Tap::new(PORT)?;
    let remote_mac = mac_text(REMOTE_MAC);
    // The far end has an address of its own, so that what is for REMOTE_MAC is not for it.
    for line in [
        "ip link add br0 type bridge mcast_snooping 0".to_owned(),
        format!("ip link add {HOST_SIDE} type veth peer name far0"),
        format!("ip link set {HOST_SIDE} master br0"),
        format!("ip link set {PORT} master br0"),
        format!("bridge fdb replace {remote_mac} dev {HOST_SIDE} master static"),
        format!("ip link set far0 netns {}", netns(&remote)),
    ] {
        command(&line)?;
    }
    for name in ["br0", HOST_SIDE, PORT] {
        // What the host would say by itself is no packet of ours.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        command(&format!("ip link set {name} up"))?;
    }
    enter(&remote)?;
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/far0/disable_ipv6", "1");
    command("ip link set far0 up")?;
    enter(&host)?;

    let pins = PathBuf::from(format!("/sys/fs/bpf/octroi-{}-calibrate", process::id()));
    let _pinned = Pinned(pins.clone());
    let wanted = config::parse(&config_text(&pins), "calibrate").map_err(anyhow::Error::from)?;
    let mut gate = Gate::open(daemon::plan(&wanted), Pins::new(&pins))?;
    let measured = through(&mut gate, daemon::policy(&wanted), &mut tap, begun);
    let detached = gate.detach();
    let report = measured?;
    detached?;
    Ok(report)
}

/// A namespace as `ip` takes it.
fn netns(file: &File) -> String {
    use std::os::fd::AsRawFd as _;
    format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd())
}

fn config_text(pins: &std::path::Path) -> String {
    let ip = TENANT.map(|byte| byte.to_string()).join(".");
    format!(
        "[host]\nname = \"calibrate\"\npin_dir = \"{}\"\nrun_dir = \"/nowhere\"\nshape = \"police\"\nports_max = 16\n\
         flows_max = 16\nconversations_max = 4\n\n[[uplink]]\ninterface = \"{HOST_SIDE}\"\n\n[[tenant]]\nname = \"t\"\n\
         id = 1\n\n[[port]]\nname = \"p\"\ntenant = \"t\"\ninterface = \"{PORT}\"\nmacs = [\"{}\"]\n\
         addresses = [\"{ip}\"]\nfrom_tenant = {{ ceiling = \"400Gbit/s\", burst = \"10s\" }}\n",
        pins.display(),
        mac_text(TENANT_MAC),
    )
}

/// Puts the policy in force, lets frames through it, and sees that they crossed.
fn through(
    gate: &mut Gate,
    policy: dataplane::policy::Policy,
    tap: &mut Tap,
    begun: Instant,
) -> Result<Report> {
    gate.apply(policy)?;
    let loading = begun.elapsed();
    let until = begun + TIME_MAX.max(loading + MEASURED);
    let frame = |l2_bytes: u64| {
        let payload = l2_bytes as usize - 14 - 20 - 8;
        frames::udp4(TENANT_MAC, REMOTE_MAC, TENANT, REMOTE, payload)
    };
    let smallest = tap::packet(None, &frame(FRAME_MIN_BYTES));
    let full = tap::packet(None, &frame(FRAME_BYTES));
    let gso = segmented();
    // The first packets find nothing in the caches.
    let mut sent = [0; 3];
    let mut rounds = Vec::new();
    'rounds: for round in 0..=ROUNDS.0 {
        let mut times = [0; 3];
        for (at, packet) in [&smallest, &full, &gso].into_iter().enumerate() {
            ensure!(
                !INTERRUPTED.load(Relaxed),
                "interrupted; everything is removed"
            );
            if Instant::now() > until {
                break 'rounds;
            }
            let (packets, ps) = spend(tap, packet)?;
            sent[at] += packets;
            times[at] = ps;
        }
        if round > 0 {
            let [smallest, full, gso] = times;
            rounds.push(Round {
                smallest,
                full,
                gso,
            });
        }
    }
    ensure!(
        rounds.len() >= ROUNDS.1,
        "this host is too busy: {} rounds in {} s, and {} are the least; try again when it is quieter",
        rounds.len(),
        begun.elapsed().as_secs(),
        ROUNDS.1
    );
    let ports = gate.ports()?;
    let port = ports.first().context("the calibration's port is gone")?;
    let passed = port.from_tenant.total();
    let packets = sent[0] + sent[1] + sent[2] * SEGMENTS;
    ensure!(
        passed.packets == packets,
        "{} of {packets} packets crossed, so that nothing was measured: {:?}",
        passed.packets,
        port.from_tenant.drops
    );
    Ok(report(gate, &rounds, packets, loading))
}

fn report(gate: &Gate, rounds: &[Round], packets: u64, loading: Duration) -> Report {
    let spread = |of: fn(&Round) -> u64| Spread::of(rounds.iter().map(of).collect());
    let price = spread(Round::price);
    Report {
        kernel: super::read("/proc/sys/kernel/osrelease"),
        attach: gate.mechanism().name(),
        loading_ms: loading.as_millis() as u64,
        rounds: rounds.len(),
        packets,
        smallest_ns: spread(|round| round.smallest).thousandths(),
        full_ns: spread(|round| round.full).thousandths(),
        gso_ns: spread(|round| round.gso).thousandths(),
        packet_ns: spread(Round::packet).thousandths(),
        byte_ps: spread(Round::byte),
        packet_price_bytes: price,
        bounded: price.median == u64::from(PRICE_MAX),
    }
}

/// A TCP packet of [`SEGMENTS`] segments, as a guest with TSO hands it over.
fn segmented() -> Vec<u8> {
    let payload = SEGMENTS as usize * MSS;
    // A UDP datagram's frame with another 12 bytes, and TCP's number.
    let mut frame = frames::udp4(TENANT_MAC, REMOTE_MAC, TENANT, REMOTE, payload + 12);
    frame[23] = 6;
    // Data offset of 5 words; ACK.
    frame[46..48].copy_from_slice(&[0x50, 0x10]);
    let header = Header {
        gso_type: gso::TCPV4,
        hdr_len: 54,
        gso_size: MSS as u16,
        csum_start: 34,
        csum_offset: 16,
    };
    tap::packet(Some(&header), &frame)
}

/// Sends `packet` for [`RUN`]: how many, and the time of each, ps.
fn spend(tap: &mut Tap, packet: &[u8]) -> Result<(u64, u64)> {
    let begun = processor_time();
    let mut packets = 0;
    loop {
        for _ in 0..BATCH {
            tap.write(packet)?;
        }
        packets += BATCH;
        let time = processor_time() - begun;
        if time >= RUN {
            return Ok((packets, time.as_nanos() as u64 * 1_000 / packets));
        }
    }
}

/// Processor time of this thread, user and system.
fn processor_time() -> Duration {
    Duration::from_nanos(host::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID))
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "kernel {}, programs attach by {}: processor time of packets through a port with a ceiling, a bridge and an uplink;\n\
         median of {} runs of each, and the middle half of them\n\n",
        report.kernel, report.attach, report.rounds
    );
    let mut line = |what: &str, spread: Spread, unit: &str| {
        let Spread { median, low, high } = spread;
        let _ = writeln!(text, "{what:<34} {median:>8} {unit:<5} ({low} to {high})");
    };
    line("a packet of 60 bytes", report.smallest_ns, "ns");
    line("a full frame, 1,514 bytes", report.full_ns, "ns");
    line("a GSO packet of 44 full frames", report.gso_ns, "ns");
    line("a packet without its bytes", report.packet_ns, "ns");
    line("a byte", report.byte_ps, "ps");
    line(
        "a packet costs as much as",
        report.packet_price_bytes,
        "bytes",
    );
    let price = report.packet_price_bytes.median;
    if report.bounded {
        text.push_str(
            "\nbytes cost next to nothing here, so that this is the highest price there is: a `packet_rate` at the ports says \
             better what is meant\n",
        );
    }
    let _ = write!(
        text,
        "\nat that price {}; a flood of the smallest takes no more time of the processor than what else may fill it.\n\
         in [host]:\npacket_price_bytes = {price}\n",
        parts(price)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_price_is_what_makes_both_floods_cost_the_same() {
        // 1.2 µs a packet, 0.25 ns a byte.
        let of = |bytes: u64| 1_200_000 + 250 * bytes;
        let round = Round {
            smallest: of(FRAME_MIN_BYTES),
            full: of(FRAME_BYTES),
            gso: of(GSO_BYTES),
        };
        assert_eq!((round.packet(), round.byte()), (1_200_000, 250));
        let price = round.price();
        assert_eq!(price, 4_800);
        // ps that a priced byte costs, in thousandths.
        let each = |bytes: u64| of(bytes) * 1_000 / (bytes + price);
        assert_eq!(each(FRAME_MIN_BYTES), each(FRAME_BYTES));
        assert_eq!(each(FRAME_BYTES), each(GSO_BYTES));
    }

    #[test]
    fn bytes_that_cost_nothing_make_the_highest_price() {
        for full in [0, 1_000_000, 1_000_001] {
            let round = Round {
                smallest: 1_000_000,
                full,
                gso: 0,
            };
            assert_eq!(round.price(), u64::from(PRICE_MAX), "{full}");
        }
        assert_eq!(Round::default().price(), u64::from(PRICE_MAX));
    }

    #[test]
    fn a_spread_is_the_median_and_the_middle_half() {
        let spread = Spread::of((1..=101).rev().collect());
        assert_eq!((spread.low, spread.median, spread.high), (26, 51, 76));
        assert_eq!(Spread::of(vec![7]).high, 7);
        assert_eq!(Spread::of(Vec::new()), Spread::default());
        assert_eq!(Spread::of(vec![1_499]).thousandths().median, 1);
    }

    #[test]
    fn the_gso_packet_is_what_its_header_says() {
        let packet = segmented();
        assert_eq!(packet.len(), 10 + 54 + SEGMENTS as usize * MSS);
        assert_eq!(packet[10 + 23], 6);
        assert_eq!(usize::from(packet[10 + 46] >> 4) * 4, 20);
    }
}
