//! The last records of registers that are gone: `docs/METERING.md`, M-7.6 to M-7.8.

use super::{Ceiling, Checkpoint, Committed, Identity, Ledger, LedgerError};
use crate::{
    meter::{self, Cut, Gap, Owner, OwnerState, State, Sums},
    record::Clock,
};

/// The largest packet as the limiter sees it, bytes on the wire: 64 KB of TCP in frames of 1,514.
pub(super) const PACKET_BYTES_MAX: u128 = 46 * 1_514;

impl Ledger {
    /// Writes the last records of an epoch: up to the last checkpoint, and what more there can have been
    /// at most. They and the new epoch are one transaction.
    pub(super) fn close_epoch(
        &mut self,
        checkpoint: Option<Checkpoint>,
        identity: &Identity,
    ) -> Result<Committed, LedgerError> {
        let last = self.state.last;
        let newer = |checkpoint: &Checkpoint| {
            last.is_none_or(|last| checkpoint.time.boot_ns >= last.time.boot_ns)
        };
        let checkpoint = checkpoint.filter(newer);
        let seen = checkpoint.as_ref();
        let time = seen
            .map(|checkpoint| checkpoint.time)
            .or(last.map(|last| last.time))
            .unwrap_or_default();
        // The registers were gone when this boot began; with new maps in the same boot, by now.
        let gone_ns = if self.epoch.boot_id == identity.epoch.boot_id {
            identity.now.utc_ns
        } else {
            let boot_ns = identity.now.boot_ns;
            identity.now.utc_ns.saturating_sub_unsigned(boot_ns)
        };
        // A clock that went back says nothing of how long that was.
        let forward = gone_ns >= time.utc_ns;
        let unseen_ns = forward.then(|| u128::from(gone_ns.abs_diff(time.utc_ns)));
        let mut owners: Vec<Owner> = self.state.owners.iter().map(standing).collect();
        let mut ceilings = std::mem::take(&mut self.ceilings);
        let in_force = ceilings.clone();
        for seen in seen.iter().flat_map(|checkpoint| &checkpoint.owners) {
            ceilings.insert(seen.incarnation, seen.ceilings);
            let owner = Owner {
                incarnation: seen.incarnation,
                name: seen.name.clone(),
                tenant: seen.tenant,
                live: false,
                since_ns: seen.since_ns,
                // Registers moved while they were read, and classes would be ahead of what was delivered.
                directions: Some(seen.directions.clone().map(Sums::without_classes)),
                ..Owner::default()
            };
            match owners
                .iter_mut()
                .find(|known| known.incarnation == seen.incarnation)
            {
                Some(known) => *known = owner,
                None if self.state.closed.contains(&seen.incarnation) => {}
                None => owners.push(owner),
            }
        }
        let most = |ceiling: Option<Ceiling>| {
            let (bits, burst) = ceiling?;
            // The limiter's bound, rounded up: rate · t + burst + one packet.
            let bytes = u128::from(bits)
                .checked_mul(unseen_ns?)?
                .div_ceil(8_000_000_000);
            u64::try_from(bytes + u128::from(burst) + PACKET_BYTES_MAX).ok()
        };
        let bytes_max = ceilings.into_iter();
        let bytes_max = bytes_max.map(|(incarnation, both)| (incarnation, both.map(most)));
        let window = self.state.windows();
        let cut = Cut {
            window: seen.map_or(window, |found| found.window.max(window)),
            revision: seen
                .map(|found| found.revision)
                .or(last.map(|last| last.revision))
                .unwrap_or_default(),
            time,
            nominal_ns: None,
            window_ns: last.map_or(0, |last| last.window_ns),
            clock: Clock::default(),
            owners,
            interfaces: None,
            ..Cut::default()
        };
        let gap = Gap {
            cause: "the registers are gone: the host restarted, or octroi was detached".into(),
            bytes_max: bytes_max.collect(),
            reset: true,
            until_ns: Some(gone_ns),
        };
        let mut outcome = meter::records(&self.epoch, &self.state, &cut, Some(&gap));
        // The registers of now begin at 0, and none of the old ones is continued.
        outcome.state = State {
            // What was told of an hour stays told.
            settled: outcome.state.settled,
            ..State::default()
        };
        let before = std::mem::replace(&mut self.epoch, identity.epoch.clone());
        self.anchor.windows = 0;
        let committed = self.write(outcome, None);
        if committed.is_err() {
            self.epoch = before;
            self.ceilings = in_force;
        }
        committed
    }
}

fn standing((incarnation, known): (&u64, &OwnerState)) -> Owner {
    Owner {
        incarnation: *incarnation,
        name: known.name.clone(),
        tenant: known.tenant,
        live: false,
        since_ns: 0,
        directions: Some(known.directions.clone()),
        ..Owner::default()
    }
}
