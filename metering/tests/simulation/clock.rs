//! The clocks of a host: boot time, monotonic and wall, with steps, slewing and suspend.

use metering::{meter::Time, record::Clock as State};

/// 2027, in the middle of a window.
const BEGIN_UTC_NS: i64 = 1_800_000_037_123_456_789;

pub struct Clock {
    time: Time,
    /// What slewing adds to the wall clock, parts in a million.
    pub slew_ppm: i64,
    /// What the wall clock was set back by in this boot, and when last.
    pub set_back_boot_ns: Option<u64>,
}

impl Clock {
    pub fn new() -> Self {
        let mut clock = Self {
            time: Time {
                utc_ns: BEGIN_UTC_NS,
                ..Time::default()
            },
            slew_ppm: 0,
            set_back_boot_ns: None,
        };
        clock.boot(1_000_000_000);
        clock
    }

    pub fn now(&self) -> Time {
        self.time
    }

    pub fn state(&self) -> State {
        State {
            state: 5,
            est_error_us: 10,
            max_error_us: 500_000,
            synchronised: false,
        }
    }

    /// Time passes.
    pub fn pass(&mut self, ns: u64) {
        self.time.boot_ns += ns;
        self.time.mono_ns += ns;
        let slewed = i128::from(ns) * i128::from(self.slew_ppm) / 1_000_000;
        self.time.utc_ns += ns as i64 + slewed as i64;
    }

    /// The host sleeps.
    pub fn suspend(&mut self, ns: u64) {
        self.time.boot_ns += ns;
        self.time.utc_ns += ns as i64;
    }

    /// Somebody sets the wall clock.
    pub fn step(&mut self, ns: i64) {
        self.time.utc_ns += ns;
        if ns < 0 {
            self.set_back_boot_ns = Some(self.time.boot_ns);
        }
    }

    /// The host was off for so long, and runs again since two seconds.
    pub fn boot(&mut self, off_ns: u64) {
        self.time.utc_ns += off_ns as i64;
        (self.time.boot_ns, self.time.mono_ns) = (0, 0);
        self.set_back_boot_ns = None;
        self.pass(2_000_000_000);
    }
}
