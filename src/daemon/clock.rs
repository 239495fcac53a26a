//! The host's clocks and ids, for records.

use metering::{meter::Time, record::Clock};
use std::fs;

fn clock_ns(clock: libc::clockid_t) -> i128 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills a plain struct; these clocks exist since Linux 2.6.39.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// UTC, ns since 1970.
pub fn utc_ns() -> i64 {
    i64::try_from(clock_ns(libc::CLOCK_REALTIME)).unwrap_or(i64::MAX)
}

/// All three clocks, as close together as three calls can be. Whatever came between two of them would look
/// like a step of the wall clock: of some tries, the quickest one is taken.
pub fn now() -> Time {
    const TRIES: usize = 8;
    const QUICK_NS: u64 = 5_000;

    let unsigned = |clock| u64::try_from(clock_ns(clock)).unwrap_or(0);
    let mut best = (u64::MAX, Time::default());
    for _ in 0..TRIES {
        let time = Time {
            boot_ns: unsigned(libc::CLOCK_BOOTTIME),
            mono_ns: unsigned(libc::CLOCK_MONOTONIC),
            utc_ns: utc_ns(),
        };
        let took_ns = unsigned(libc::CLOCK_BOOTTIME).saturating_sub(time.boot_ns);
        if took_ns < best.0 {
            best = (took_ns, time);
        }
        if took_ns <= QUICK_NS {
            break;
        }
    }
    best.1
}

/// What the kernel says of its clock: adjtimex(2).
pub fn state() -> Clock {
    // SAFETY: all zero is a question without a change.
    let mut answer: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: fills the struct.
    let state = unsafe { libc::adjtimex(&raw mut answer) };
    Clock {
        state,
        est_error_us: u64::try_from(answer.esterror).unwrap_or(0),
        max_error_us: u64::try_from(answer.maxerror).unwrap_or(0),
        synchronised: answer.status & libc::STA_UNSYNC == 0,
    }
}

/// The random id of this boot; zero where the kernel does not tell.
pub fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    id
}

/// machine-id(5); empty where there is none.
pub fn machine_id() -> String {
    let text = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    text.trim().to_owned()
}
