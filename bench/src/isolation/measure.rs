//! What is read while traffic runs, and the arithmetic on it.
//!
//! Counters are the kernel's own, of one namespace: files below `/proc/net` that are opened inside it once show
//! it from anywhere. CPU is what this process and the kernel's softirq threads took: all senders and receivers
//! are threads of it, and the way through the host is on them. What else ran is a figure of its own.

use anyhow::{Context as _, Result};
use octroi::lab::Namespace;
pub use octroi::lab::traffic::jain;
use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

/// Counters of a namespace.
#[derive(Debug)]
pub struct Counters {
    devices: File,
    snmp: File,
    netstat: File,
}

/// TCP's, since the namespace was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Segments sent again.
    pub retransmits: u64,
    /// Retransmission timers that ran out.
    pub timeouts: u64,
}

impl Counters {
    /// Of a namespace.
    ///
    /// # Errors
    /// When it is gone.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        namespace.run(|| {
            let open = |name: &str| File::open(format!("/proc/thread-self/net/{name}"));
            Ok(Self {
                devices: open("dev")?,
                snmp: open("snmp")?,
                netstat: open("netstat")?,
            })
        })?
    }

    /// Bytes that an interface received and sent, with Ethernet headers.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn bytes(&self, interface: &str) -> Result<(u64, u64)> {
        device_bytes(&text(&self.devices)?, interface)
            .with_context(|| format!("no counters of {interface}"))
    }

    /// TCP's counters.
    ///
    /// # Errors
    /// When the kernel does not name them.
    pub fn tcp(&self) -> Result<Tcp> {
        let named = |file: &File, table: &str, key: &str| -> Result<u64> {
            named(&text(file)?, table, key).with_context(|| format!("no counter {table} {key}"))
        };
        Ok(Tcp {
            retransmits: named(&self.snmp, "Tcp:", "RetransSegs")?,
            timeouts: named(&self.netstat, "TcpExt:", "TCPTimeouts")?,
        })
    }
}

fn text(file: &File) -> Result<String> {
    let mut bytes = vec![0; 65_536];
    let mut read = 0;
    loop {
        match file.read_at(&mut bytes[read..], read as u64)? {
            0 => break,
            count => read += count,
        }
    }
    bytes.truncate(read);
    Ok(String::from_utf8(bytes)?)
}

/// Received and sent bytes of an interface in the form of `/proc/net/dev`.
fn device_bytes(text: &str, interface: &str) -> Option<(u64, u64)> {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut words = line.split_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.nth(7)?.ok()?))
}

/// A value of the kernel's tables of two lines, names and values.
fn named(text: &str, table: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(table));
    let at = lines
        .next()?
        .split_whitespace()
        .position(|name| name == key)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

/// CPU time at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    at: Instant,
    /// Of this process and of softirq threads.
    own: Duration,
    /// Of everything on the machine, as the scheduler's tick saw it.
    busy: Duration,
}

/// Percent of one CPU, between two moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuUse {
    /// Of the traffic and its way.
    pub own_percent: f64,
    /// Of whatever else ran on this machine.
    pub others_percent: f64,
}

impl Cpu {
    /// Now.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn now() -> Result<Self> {
        // SAFETY: zero is a valid value of plain numbers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: fills the struct.
        unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
        let of = |time: libc::timeval| {
            Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
        };
        Ok(Self {
            at: Instant::now(),
            own: of(usage.ru_utime) + of(usage.ru_stime) + softirq_threads(),
            busy: busy(&fs::read_to_string("/proc/stat")?).context("/proc/stat")?,
        })
    }

    /// Since an earlier one.
    pub fn since(&self, before: &Self) -> CpuUse {
        let seconds = (self.at - before.at).as_secs_f64().max(1e-9);
        let own = self.own.saturating_sub(before.own);
        let others = self.busy.saturating_sub(before.busy).saturating_sub(own);
        CpuUse {
            own_percent: 100.0 * own.as_secs_f64() / seconds,
            others_percent: 100.0 * others.as_secs_f64() / seconds,
        }
    }
}

/// What all CPUs did but for idling, of the first line of `/proc/stat`.
fn busy(stat: &str) -> Option<Duration> {
    let words = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = words
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    let busy: u64 = [0, 1, 2, 5, 6, 7]
        .into_iter()
        .filter_map(|at| ticks.get(at))
        .sum();
    // The kernel shows hundredths, whatever its tick is.
    Some(Duration::from_millis(busy * 10))
}

/// Of the kernel's `ksoftirqd` threads, where packets are handled when there are many.
fn softirq_threads() -> Duration {
    let mut sum = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        let is_one = |name: String| name.starts_with("ksoftirqd/");
        if fs::read_to_string(path.join("comm")).is_ok_and(is_one) {
            let stat = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            let ns = stat
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok());
            sum += ns.unwrap_or(0_u64);
        }
    }
    Duration::from_nanos(sum)
}

/// Counts by the time at which they were read.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Seconds since the begin, and what each counter said.
    points: Vec<(f64, Vec<u64>)>,
}

/// How often counters are read.
pub const STEP: Duration = Duration::from_millis(10);

impl Series {
    /// Reads counters every [`STEP`], from `begin` on for so long.
    ///
    /// # Errors
    /// Of `read`.
    pub fn watch(
        begin: Instant,
        time: Duration,
        mut read: impl FnMut() -> Result<Vec<u64>>,
    ) -> Result<Self> {
        let mut series = Self::default();
        let mut due = begin;
        while begin.elapsed() < time {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let values = read()?;
            series.push(begin.elapsed().as_secs_f64(), values);
            due = (due + STEP).max(Instant::now());
        }
        Ok(series)
    }

    /// Adds a reading; times never go back.
    pub fn push(&mut self, seconds: f64, values: Vec<u64>) {
        self.points.push((seconds, values));
    }

    /// Mbit/s of counter `which`, in bytes, between the readings next to two times; 0 where there are none.
    pub fn mbit(&self, which: usize, from: f64, to: f64) -> f64 {
        let mut within = self
            .points
            .iter()
            .filter(|(at, _)| (from..=to).contains(at));
        let (Some((begin, before)), Some((end, after))) = (within.next(), within.next_back())
        else {
            return 0.0;
        };
        (after[which] - before[which]) as f64 * 8e-6 / (end - begin)
    }

    /// The most bytes that came in any interval beyond what a rate allows for it.
    pub fn burst_bytes(&self, which: usize, mbit: f64) -> f64 {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for (at, values) in &self.points {
            let ahead = values[which] as f64 - mbit * 125_000.0 * at;
            least = least.min(ahead);
            most = most.max(ahead - least);
        }
        most
    }

    /// Milliseconds from `from` until the first 50 ms of at least so many Mbit/s begin; `to - from` when none do.
    pub fn reaches_ms(&self, which: usize, mbit: f64, from: f64, to: f64) -> f64 {
        const SPAN: f64 = 0.050;
        let starts = self.points.iter().map(|(at, _)| *at);
        let found = starts
            .filter(|at| (from..to - SPAN).contains(at))
            .find(|at| self.mbit(which, *at, at + SPAN + 0.001) >= mbit);
        (found.unwrap_or(to) - from) * 1e3
    }
}

/// The middle one; of an even number the lower of both.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len().saturating_sub(1) / 2;
    values.get(middle).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 Mbit/s for a second, and 20 kB at once in the middle.
    fn bumpy() -> Series {
        let mut series = Series::default();
        for step in 0..=100_u64 {
            let bump = if step >= 50 { 20_000 } else { 0 };
            series.push(step as f64 / 100.0, vec![step * 12_500 + bump]);
        }
        series
    }

    #[test]
    fn a_burst_is_what_comes_beyond_the_rate() {
        let series = bumpy();
        assert!((series.burst_bytes(0, 10.0) - 20_000.0).abs() < 1e-3);
        // At twice the rate only the step with the bump is ahead: 32,500 bytes where 25,000 may come.
        assert!((series.burst_bytes(0, 20.0) - 7_500.0).abs() < 1e-3);
        assert!(series.burst_bytes(0, 40.0) < 1e-3);
    }

    #[test]
    fn a_rate_is_taken_between_two_readings() {
        let series = bumpy();
        assert!((series.mbit(0, 0.0, 0.4) - 10.0).abs() < 1e-6);
        assert!((series.mbit(0, 0.0, 1.0) - 10.16).abs() < 1e-6);
        assert!(series.mbit(0, 2.0, 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_change_takes_until_the_rate_is_there() {
        let mut series = Series::default();
        let mut bytes = 0;
        for step in 0..=100_u64 {
            series.push(step as f64 / 100.0, vec![bytes]);
            bytes += if step < 30 { 0 } else { 12_500 };
        }
        let took = series.reaches_ms(0, 9.9, 0.1, 1.0);
        assert!((took - 200.0).abs() < 1.0, "{took}");
        assert!((series.reaches_ms(0, 11.0, 0.1, 1.0) - 900.0).abs() < 1.0);
    }

    #[test]
    fn fairness_is_between_one_of_n_and_one() {
        assert!((jain(&[3.0; 8]) - 1.0).abs() < 1e-12);
        assert!((jain(&[1.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-12);
        assert!((jain(&[1.0, 2.0]) - 0.9).abs() < 1e-12);
        assert!(jain(&[0.0, 0.0]).abs() < 1e-12 && jain(&[]).abs() < 1e-12);
    }

    #[test]
    fn a_median_is_one_of_its_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(vec![4.0, 1.0]).to_bits(), 1.0_f64.to_bits());
        assert_eq!(median(Vec::new()).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn reads_what_the_kernel_writes() {
        let devices = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed \
                       multicast|bytes packets\n    lo: 1 2 3 4 5 6 7 8 9 10\n  eth0: 100 2 0 0 0 0 0 0 200 4 0\n";
        assert_eq!(device_bytes(devices, "eth0"), Some((100, 200)));
        assert_eq!(device_bytes(devices, "eth"), None);
        let table = "Ip: A B\nIp: 1 2\nTcp: A RetransSegs\nTcp: -1 7\n";
        assert_eq!(named(table, "Tcp:", "RetransSegs"), Some(7));
        assert_eq!(named(table, "Tcp:", "B"), None);
        let stat = "cpu  100 20 30 4000 5 6 7 8 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(busy(stat), Some(Duration::from_millis(1_710)));
    }
}
