//! Which of a tunnel's two sides carries what leaves, and when a key is drawn anew. Pure: clocks and counters are arguments.
//!
//! A tunnel has two sides, each with a key of its own on every host, and both receive at any time. One of them carries
//! what leaves; whose turn it is follows from the wall clock alone, so that hosts agree without a word. In the second half of a
//! turn, but not at its very end, the other side, which carries nothing, gets a new key, and the other hosts have the rest of the
//! turn to learn it.
//!
//! Invariants
//! - Who leaves a side leaves it for one on which the other end is heard: a rotation loses nothing.
//! - No key is drawn anew while somebody sends by it, as far as this host can hear.

use std::{collections::VecDeque, time::Duration};

/// One of a tunnel's two sides.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// That of even turns.
    A,
    /// That of odd turns.
    B,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The one that this is not.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// What its device's name ends with.
    pub const fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }
}

/// How often each end says that it is there, seconds.
pub const KEEPALIVE_S: u16 = 5;
/// An end that was not heard for so long is taken for gone.
pub const HEARD: Duration = Duration::from_secs(18);
/// How late somebody may look, seconds.
const LATE_S: u64 = 2;
/// How far back an [`Ear`] remembers.
const REMEMBERED: Duration = Duration::from_secs(15);
/// Bytes that keepalives and handshakes bring in [`REMEMBERED`], at most: 32 every 5 s, and 148 + 92 of a handshake, twice.
const QUIET_BYTES: u64 = 640;
/// Shortest time between two turns: half of it is longer than it takes to notice that a side is silent.
pub const ROTATE_MIN: Duration = Duration::from_secs(60);

/// Whose turn it is at a time of the wall clock. Without rotation always the first's.
pub fn turn(rotate: Option<Duration>, unix_s: u64) -> Side {
    let period = rotate.map_or(0, |rotate| rotate.as_secs());
    match unix_s.checked_div(period) {
        Some(number) if number % 2 == 1 => Side::B,
        _ => Side::A,
    }
}

/// The side that carries what leaves to a peer: that whose turn it is, if the peer is heard there; else the one that does
/// now, unless the peer is heard on the other alone. `known`: the peer's keys that this host has.
pub fn choose(now: Option<Side>, turn: Side, heard: [bool; 2], known: [bool; 2]) -> Option<Side> {
    let at = |of: [bool; 2], side: Side| of[side as usize];
    let kept = now.filter(|side| at(known, *side));
    if at(heard, turn) && at(known, turn) {
        return Some(turn);
    }
    match kept {
        Some(side) if at(heard, side) || !at(heard, side.other()) => Some(side),
        Some(side) => Some(side.other()),
        None => {
            let order = [turn, turn.other()];
            let known = || order.into_iter().filter(|side| at(known, *side));
            known().find(|side| at(heard, *side)).or(known().next())
        }
    }
}

/// What a peer does on the side that may get a new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The side that carries what leaves to it.
    pub carries: Option<Side>,
    /// It is heard there.
    pub heard: bool,
    /// More than keepalives comes from it by the other side, or nobody has listened for long enough.
    pub sends: bool,
}

/// The side that gets a new key now, if one does. `since`: when each side's key was drawn, Unix seconds.
pub fn renews(
    rotate: Option<Duration>,
    unix_s: u64,
    since: [u64; 2],
    peers: &[Use],
) -> Option<Side> {
    let period = rotate?.as_secs().max(1);
    let phase = unix_s % period;
    let carries = turn(rotate, unix_s);
    let idle = carries.other();
    // So early that everybody has noticed before the next turn that the old key is silent: else it would be turned to.
    let silent = HEARD.as_secs() + LATE_S;
    let in_time = phase >= period / 2 && phase + silent <= period;
    let due = in_time && since[idle as usize] < unix_s - phase;
    let free = peers
        .iter()
        .all(|peer| peer.carries == Some(carries) && peer.heard && !peer.sends);
    (due && free).then_some(idle)
}

/// What one end says by one side, as far as bytes tell.
#[derive(Debug, Default)]
pub struct Ear {
    /// When, and bytes received by then.
    samples: VecDeque<(Duration, u64)>,
    heard: Option<Duration>,
}

impl Ear {
    /// Takes a reading of `received` bytes at `now`, a time since any beginning that only grows.
    pub fn listen(&mut self, now: Duration, received: u64) {
        match self.samples.back() {
            // The device was made anew.
            Some((_, before)) if received < *before => self.samples.clear(),
            Some((_, before)) if received > *before => self.heard = Some(now),
            _ => {}
        }
        self.samples.push_back((now, received));
        let old = |second: &(Duration, u64)| now.saturating_sub(second.0) >= REMEMBERED;
        while self.samples.get(1).is_some_and(old) {
            self.samples.pop_front();
        }
    }

    /// Was it heard lately?
    pub fn hears(&self, now: Duration) -> bool {
        let ago = |heard| now.saturating_sub(heard);
        self.heard.is_some_and(|heard| ago(heard) < HEARD)
    }

    /// Does more than keepalives come? True where nobody has listened for long enough to know.
    pub fn sends(&self) -> bool {
        match (self.samples.front(), self.samples.back()) {
            (Some((from, before)), Some((to, now))) => {
                to.saturating_sub(*from) < REMEMBERED || now.saturating_sub(*before) > QUIET_BYTES
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Option<Duration> = Some(Duration::from_secs(60));
    const ALL: [bool; 2] = [true; 2];

    #[test]
    fn a_turn_follows_from_the_clock_alone() {
        assert_eq!(turn(None, 1_000_000), Side::A);
        for (unix_s, side) in [(0, Side::A), (59, Side::A), (60, Side::B), (120, Side::A)] {
            assert_eq!(turn(MINUTE, unix_s), side, "{unix_s}");
        }
    }

    #[test]
    fn what_leaves_moves_to_a_side_on_which_the_peer_is_heard() {
        use Side::{A, B};
        for (now, turn, heard, known, wanted) in [
            // Its turn, and heard.
            (Some(A), B, [true, true], ALL, Some(B)),
            // Its turn, and silent: as it was.
            (Some(A), B, [true, false], ALL, Some(A)),
            (Some(A), B, [false, false], ALL, Some(A)),
            // What carries is dead, and the other is not.
            (Some(B), B, [true, false], ALL, Some(A)),
            // A key that is not there carries nothing.
            (Some(A), B, [true, true], [true, false], Some(A)),
            (Some(B), B, [true, false], [true, false], Some(A)),
            (Some(B), B, [false, false], [false, false], None),
            // At the beginning nobody is heard.
            (None, B, [false, false], ALL, Some(B)),
            (None, B, [true, false], ALL, Some(A)),
            (None, B, [false, false], [true, false], Some(A)),
        ] {
            let chosen = choose(now, turn, heard, known);
            assert_eq!(chosen, wanted, "{now:?} {turn:?} {heard:?} {known:?}");
        }
    }

    #[test]
    fn a_key_is_drawn_anew_in_the_second_half_once_and_while_nobody_sends_by_it() {
        let moved = Use {
            carries: Some(Side::B),
            heard: true,
            sends: false,
        };
        // B's turn is from 60 to 120; its key was drawn at 40, A's at 10.
        let since = [10, 40];
        assert_eq!(renews(MINUTE, 89, since, &[moved]), None);
        assert_eq!(renews(MINUTE, 90, since, &[moved]), Some(Side::A));
        assert_eq!(renews(MINUTE, 95, [90, 40], &[moved]), None);
        // Too late for the others to notice before the next turn.
        assert_eq!(renews(MINUTE, 100, since, &[moved]), Some(Side::A));
        assert_eq!(renews(MINUTE, 101, since, &[moved]), None);
        assert_eq!(renews(MINUTE, 119, since, &[moved]), None);
        assert_eq!(renews(None, 90, since, &[moved]), None);
        for peer in [
            Use {
                carries: Some(Side::A),
                ..moved
            },
            Use {
                heard: false,
                ..moved
            },
            Use {
                sends: true,
                ..moved
            },
            Use {
                carries: None,
                ..moved
            },
        ] {
            assert_eq!(renews(MINUTE, 100, since, &[moved, peer]), None, "{peer:?}");
        }
        // A clock that was set back.
        assert_eq!(renews(MINUTE, 90, [1_000, 1_000], &[moved]), None);
    }

    #[test]
    fn an_ear_tells_silence_from_keepalives_and_these_from_traffic() {
        let second = Duration::from_secs;
        let mut ear = Ear::default();
        assert!(ear.sends() && !ear.hears(second(0)));
        let mut received = 1_000;
        for now in 0..40 {
            received += if now % 5 == 0 { 32 } else { 0 };
            ear.listen(second(now), received);
        }
        assert!(ear.hears(second(40)) && !ear.sends());
        assert!(!ear.hears(second(35) + HEARD));
        ear.listen(second(40), received + 1_000);
        assert!(ear.sends());
        // Made anew.
        ear.listen(second(41), 0);
        assert!(ear.sends());
        ear.listen(second(42), 0);
        assert!(!ear.hears(second(40) + HEARD));
    }
}
