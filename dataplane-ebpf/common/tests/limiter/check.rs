//! What the limiter promises, judged from what happened and what was asked for: rate and burst as
//! configured, in exact arithmetic that shares nothing with the limiter's own.

use dataplane_common::limit::Rate;

/// A limit as it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub rate: Rate,
    pub burst: u64,
}

impl Asked {
    /// What the rate lets through in `time_ns`, in units times the rate's period: a whole number.
    pub fn allowance(&self, time_ns: u64) -> i128 {
        i128::from(self.rate.units) * i128::from(time_ns)
    }
}

/// Both bounds, over every interval, as packets go by. Allowances are units times `period_ns`, from
/// any common beginning.
#[derive(Clone, Debug)]
pub struct Bounds {
    period_ns: i128,
    least: i128,
    most: i128,
    busy_period: u64,
}

impl Bounds {
    pub fn new(period_ns: u64) -> Self {
        Self {
            period_ns: period_ns.into(),
            least: i128::MAX,
            most: i128::MIN,
            busy_period: 0,
        }
    }

    /// A packet was accepted, after `accepted` units before it, when the rate had let through
    /// `allowance`. Over every interval that ends with it: accepted ≤ rate · t + `bound`.
    pub fn passed(
        &mut self,
        allowance: i128,
        accepted: u64,
        units: u64,
        bound: u64,
    ) -> Result<(), String> {
        let before = i128::from(accepted) * self.period_ns - allowance;
        self.least = self.least.min(before);
        let sum = before + i128::from(units) * self.period_ns - self.least;
        let over = sum - i128::from(bound) * self.period_ns;
        if over > 0 {
            Err(format!("{:.3} units over", self.units(over)))
        } else {
            Ok(())
        }
    }

    /// A packet was refused. Since every refusal of the same busy period:
    /// accepted ≥ rate · t − `missing` − rounding.
    ///
    /// Allowances are those of the time when the limit's clock was loaded, with `accepted` units on
    /// it, and of the clock reading that decided.
    pub fn refused(
        &mut self,
        [loaded, read]: [i128; 2],
        accepted: u64,
        busy_period: u64,
        missing: u64,
    ) -> Result<(), String> {
        if self.busy_period != busy_period {
            (self.busy_period, self.most) = (busy_period, i128::MIN);
        }
        let accepted = i128::from(accepted) * self.period_ns;
        let short = self.most.saturating_sub(accepted - read);
        self.most = self.most.max(accepted - loaded);
        let short = short.saturating_sub(i128::from(missing + 1) * self.period_ns);
        if short > 0 {
            Err(format!("{:.3} units missing", self.units(short)))
        } else {
            Ok(())
        }
    }

    fn units(&self, scaled: i128) -> f64 {
        scaled as f64 / self.period_ns as f64
    }
}

/// A packet that was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// True time of the clock reading that it was judged by.
    pub read_ns: u64,
    /// True time at which it was booked.
    pub booked_ns: u64,
    pub units: u64,
}

/// A packet that was over the limit.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// True time of the clock reading that it was judged by.
    pub read_ns: u64,
    /// True time at which the limit's clock was loaded.
    pub loaded_ns: u64,
    /// Units that had been booked by then.
    pub booked: u64,
    /// Grows whenever the queue had run empty: the sender left some of the rate unused.
    pub busy_period: u64,
}

/// What several CPUs did.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// In any order.
    pub passed: Vec<Passed>,
    /// In any order.
    pub refused: Vec<Refused>,
}

impl Journal {
    /// Checks both bounds for a limit that `cpus` shared. `phantoms`: units that were booked and
    /// taken back, or booked and not delivered.
    pub fn check(&self, asked: &Asked, cpus: u64, phantoms: u64) -> Result<(), String> {
        self.check_classes(asked, cpus, phantoms, 0)
    }

    /// The same where fat packets are refused at a backlog that is smaller by `between`: that may be missing when a thin
    /// one was refused before a fat one.
    pub fn check_classes(
        &self,
        asked: &Asked,
        cpus: u64,
        phantoms: u64,
        between: u64,
    ) -> Result<(), String> {
        self.check_revised(
            asked.rate.period_ns,
            |time_ns| asked.allowance(time_ns),
            |largest| {
                (
                    asked.burst + largest + phantoms,
                    largest + phantoms + between,
                    cpus * largest,
                )
            },
        )
    }

    /// The same for any course of the rate. `bounds` gives, for the largest packet: what may be
    /// over, what may be missing, and what is late at the start of an interval.
    pub fn check_revised(
        &self,
        period_ns: u64,
        allowance: impl Fn(u64) -> i128,
        bounds: impl Fn(u64) -> (u64, u64, u64),
    ) -> Result<(), String> {
        let largest = self
            .passed
            .iter()
            .map(|packet| packet.units)
            .max()
            .unwrap_or(0);
        let (over, missing, late) = bounds(largest);
        let by_reading = |packet: &Passed| packet.read_ns;
        // Counted when it is booked, a packet is late by what its CPU was held up since it read the
        // clock: each CPU may have one such at the start of an interval.
        let by_booking = |packet: &Passed| packet.booked_ns;
        self.upper(period_ns, &allowance, over, by_reading)
            .and_then(|()| self.upper(period_ns, &allowance, over + late, by_booking))
            .and_then(|()| self.lower(period_ns, &allowance, missing))
            .map_err(|error| format!("{error}: {self:?}"))
    }

    fn upper(
        &self,
        period_ns: u64,
        allowance: impl Fn(u64) -> i128,
        bound: u64,
        time: fn(&Passed) -> u64,
    ) -> Result<(), String> {
        let mut packets: Vec<(u64, u64)> = self.passed.iter().map(|p| (time(p), p.units)).collect();
        packets.sort_by_key(|(time_ns, _)| *time_ns);
        let (mut bounds, mut accepted) = (Bounds::new(period_ns), 0);
        for (time_ns, units) in packets {
            bounds
                .passed(allowance(time_ns), accepted, units, bound)
                .map_err(|error| format!("{error} at {time_ns} ns"))?;
            accepted += units;
        }
        Ok(())
    }

    fn lower(
        &self,
        period_ns: u64,
        allowance: impl Fn(u64) -> i128,
        missing: u64,
    ) -> Result<(), String> {
        let mut by_load = self.refused.clone();
        by_load.sort_by_key(|refused| (refused.booked, refused.loaded_ns));
        let mut bounds = Bounds::new(period_ns);
        for refused in by_load {
            let at = [refused.loaded_ns, refused.read_ns].map(&allowance);
            bounds
                .refused(at, refused.booked, refused.busy_period, missing)
                .map_err(|error| format!("{error}: {refused:?}"))?;
        }
        Ok(())
    }
}
