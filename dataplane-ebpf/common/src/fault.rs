//! Points at which a test ends the daemon with SIGKILL, to show that a crash there loses nothing.
//!
//! One enum for all of them, so that a test can tell whether it has tried every one. Not armed, a point
//! is one relaxed load.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::OnceLock;

macro_rules! points {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)+) => {
        /// A step of the meter, before or after which the daemon may die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Point {
            $($(#[$doc])* $variant = $number,)+
        }

        impl Point {
            /// Every point, in the order in which a window reaches them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name, for [`arm`].
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

points! {
    /// A ledger is made, and not yet in its place.
    LedgerMade = 1, "ledger_made";
    /// It is in its place, and nobody remembers it yet.
    LedgerNamed = 2, "ledger_named";
    /// A cut begins.
    CutBegins = 3, "cut_begins";
    /// The next window is published, and programs may still book in this one.
    Published = 4, "published";
    /// The window is sealed and not yet read.
    Sealed = 5, "sealed";
    /// It is read.
    Drained = 6, "drained";
    /// It is handed to the ledger's thread.
    HandedOver = 7, "handed_over";
    /// Its flow detail is durable, and none of its records is.
    FlowsWritten = 15, "flows_written";
    /// Its records are written and not committed.
    Written = 8, "written";
    /// They are committed, and the kernel does not know yet.
    Committed = 9, "committed";
    /// The daemon has heard of it.
    Heard = 10, "heard";
    /// The slots of owners that went are given back.
    Released = 11, "released";
    /// The kernel remembers the commit.
    Anchored = 12, "anchored";
    /// A port was given up, and its slot is not yet.
    Retired = 13, "retired";
    /// A checkpoint is written.
    Noted = 14, "noted";
}

struct Armed {
    point: Point,
    end: fn(),
}

static ARMED: OnceLock<Armed> = OnceLock::new();
/// Times that the point is passed before it ends the process; 0: nothing is armed.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// Arms the point of this name: `end` is called when it is reached for the `count`th time. Once in a
/// process; false when there is no such point, or one is armed.
pub fn arm(name: &str, count: u32, end: fn()) -> bool {
    let Some(point) = Point::ALL
        .iter()
        .copied()
        .find(|point| point.name() == name)
    else {
        return false;
    };
    let armed = ARMED.set(Armed { point, end }).is_ok();
    if armed {
        LEFT.store(count, Relaxed);
    }
    armed
}

/// The process is at this point.
#[inline]
pub fn reach(point: Point) {
    if LEFT.load(Relaxed) == 0 {
        return;
    }
    if let Some(armed) = ARMED.get()
        && armed.point == point
        && LEFT.fetch_sub(1, Relaxed) == 1
    {
        (armed.end)();
    }
}
