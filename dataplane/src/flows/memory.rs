//! The flow table's arrays, mapped into this process: read where they lie.
//!
//! Programs write them at the same time. So every access is a volatile or atomic one of at most 64 bits.

use crate::{Error, Result, maps::Maps, object::Plan};
use aya::maps::MapData;
use dataplane_common::{
    abi::Register,
    flow::{FlowCounts, FlowKey, FlowOpened},
};
use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};
use zerocopy::FromBytes;

/// One array map, as the kernel lays it out: entries of a multiple of 8 bytes.
struct Mapping {
    words: NonNull<u64>,
    bytes: usize,
}

// SAFETY: the memory is the kernel's and stays where it is; accesses are volatile or atomic.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(map: &MapData, name: &'static str, bytes: usize) -> Result<Self> {
        // SAFETY: a new mapping of a map that was made with BPF_F_MMAPABLE; the kernel checks the length.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        match NonNull::new(at.cast()) {
            Some(words) if at != libc::MAP_FAILED => Ok(Self { words, bytes }),
            _ => Err(Error::Map {
                map: name,
                reason: io::Error::last_os_error().to_string(),
            }),
        }
    }

    /// The word at this index. Indices come from places, which are in range; others would be a mistake of
    /// this module, and are an error that stops the thread instead of a wild read.
    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.bytes / 8, "a place outside of the flow table");
        // SAFETY: in the mapping, aligned, and never unmapped before `self` goes.
        unsafe { AtomicU64::from_ptr(self.words.as_ptr().add(index)) }
    }

    /// `WORDS` words from `first` on.
    fn words<const WORDS: usize>(&self, first: usize) -> [u64; WORDS] {
        std::array::from_fn(|at| self.word(first + at).load(SeqCst))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody has a reference into it any more.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.bytes) };
    }
}

/// What is written for each place: whose it is, and what it counted.
pub(super) struct Lines {
    places: u32,
    keys: Mapping,
    counts: Mapping,
}

impl Lines {
    /// Maps both, of a table with so many places.
    pub(super) fn map(maps: &Maps, places: u32) -> Result<Self> {
        const {
            assert!(size_of::<FlowOpened>() == 8 * LINE && size_of::<FlowCounts>() == 8 * LINE);
        };
        let lines = |count: u32| count as usize * 8 * LINE;
        Ok(Self {
            places,
            keys: Mapping::new(&maps.flow_keys, "FLOW_KEYS", lines(places))?,
            counts: Mapping::new(&maps.flow_counts, "FLOW_COUNTS", lines(2 * places))?,
        })
    }

    pub(super) fn places(&self) -> u32 {
        self.places
    }

    /// Whose a place is.
    pub(super) fn opened(&self, place: u32) -> FlowOpened {
        from_words(self.keys.words(place as usize * LINE)).unwrap_or_default()
    }

    /// The register slot of [`Lines::opened`], without the rest.
    pub(super) fn slot(&self, place: u32) -> u32 {
        const { assert!(std::mem::offset_of!(FlowKey, slot) == SLOT_WORD * 8 + 4) };
        let word = self
            .keys
            .word(place as usize * LINE + SLOT_WORD)
            .load(SeqCst);
        let bytes = word.to_ne_bytes();
        u32::from(u16::from_ne_bytes([bytes[4], bytes[5]]))
    }

    /// The counters at [`FlowCounts::at`].
    pub(super) fn counts(&self, at: u32) -> FlowCounts {
        from_words(self.counts.words(at as usize * LINE)).unwrap_or_default()
    }
}

/// The word of [`FlowOpened`] that has the slot.
const SLOT_WORD: usize = 4;

/// The arrays.
pub(super) struct Table {
    pub(super) lines: Lines,
    free: Mapping,
    ring: Mapping,
    used: Mapping,
    accounts: u64,
    unattributed: Mapping,
}

/// Words of an entry of 64 bytes.
const LINE: usize = 8;

fn from_words<T: FromBytes>(words: [u64; LINE]) -> Option<T> {
    let bytes = words.map(u64::to_ne_bytes);
    T::read_from_bytes(bytes.as_flattened()).ok()
}

impl Table {
    /// Maps what `maps` has.
    pub(super) fn map(maps: &Maps, plan: &Plan) -> Result<Self> {
        let places = plan.flows;
        const { assert!(size_of::<Register>() == 24) };
        let accounts = maps.flow_accounts()?;
        Ok(Self {
            lines: Lines::map(maps, places)?,
            free: Mapping::new(&maps.flow_free, "FLOW_FREE", places as usize * 8)?,
            ring: Mapping::new(&maps.flow_ring, "FLOW_RING", 16)?,
            used: Mapping::new(&maps.flow_use, "FLOW_USE", accounts as usize * 8)?,
            accounts: u64::from(accounts),
            unattributed: Mapping::new(
                &maps.unattributed,
                "UNATTRIBUTED",
                plan.unattributed() as usize * size_of::<Register>(),
            )?,
        })
    }

    pub(super) fn taken(&self) -> u64 {
        self.ring.word(0).load(SeqCst)
    }

    pub(super) fn given(&self) -> u64 {
        self.ring.word(1).load(SeqCst)
    }

    pub(super) fn set_given(&self, given: u64) {
        self.ring.word(1).store(given, SeqCst);
    }

    /// The place at a number of the ring.
    pub(super) fn free(&self, number: u64) -> u32 {
        let place = number % u64::from(self.lines.places);
        self.free.word(place as usize).load(SeqCst) as u32
    }

    pub(super) fn set_free(&self, number: u64, place: u32) {
        let word = self
            .free
            .word((number % u64::from(self.lines.places)) as usize);
        word.store(u64::from(place), SeqCst);
    }

    /// Whose a place is.
    pub(super) fn opened(&self, place: u32) -> FlowOpened {
        self.lines.opened(place)
    }

    /// The counters at [`FlowCounts::at`].
    pub(super) fn counts(&self, at: u32) -> FlowCounts {
        self.lines.counts(at)
    }

    /// What no flow accounts for, at a number of [`dataplane_common::abi::Sizes::register`].
    pub(super) fn unattributed(&self, number: u32) -> Register {
        let [packets, l2_bytes, l3_bytes] = self.unattributed.words(number as usize * 3);
        Register {
            packets,
            l2_bytes,
            l3_bytes,
        }
    }

    /// One flow less in an account; never below 0.
    pub(super) fn use_less(&self, account: u32) {
        if u64::from(account) < self.accounts {
            let less = |used: u64| used.checked_sub(1);
            let _ = self
                .used
                .word(account as usize)
                .fetch_update(SeqCst, SeqCst, less);
        }
    }
}
