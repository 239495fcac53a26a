//! A wall clock of one process's own. `own_clock.rs` has rustc make a library of this file and the daemon load
//! it before libc (`LD_PRELOAD`): CLOCK_REALTIME is then the kernel's and what the file
//! `OCTROI_TEST_CLOCK` says, 8 bytes in ns. Every other clock is the kernel's. No cargo target has it.

use std::sync::atomic::{AtomicI64, AtomicPtr, Ordering::Relaxed};

const REALTIME: i32 = 0;
#[cfg(target_arch = "x86_64")]
const CLOCK_GETTIME: i64 = 228;
#[cfg(not(target_arch = "x86_64"))]
const CLOCK_GETTIME: i64 = 113;

/// `struct timespec`.
#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn syscall(number: i64, ...) -> i64;
    fn getenv(name: *const u8) -> *const u8;
    fn open(path: *const u8, flags: i32, ...) -> i32;
    fn mmap(
        at: *mut u8,
        bytes: usize,
        protection: i32,
        flags: i32,
        file: i32,
        from: i64,
    ) -> *mut AtomicI64;
}

/// Nothing is added.
static NOTHING: AtomicI64 = AtomicI64::new(0);
/// Where it says what is added; null: nobody asked yet.
static OFFSET: AtomicPtr<AtomicI64> = AtomicPtr::new(std::ptr::null_mut());

fn offset_ns() -> i64 {
    let mut found = OFFSET.load(Relaxed);
    if found.is_null() {
        found = map();
        OFFSET.store(found, Relaxed);
    }
    // SAFETY: it is `NOTHING`, or a mapping that is never taken away.
    unsafe { (*found).load(Relaxed) }
}

/// Maps the file, shared and read-only.
fn map() -> *mut AtomicI64 {
    let nothing = (&raw const NOTHING).cast_mut();
    // SAFETY: strings that end with 0; a mapping of one page of a file that the test keeps.
    unsafe {
        let path = getenv(c"OCTROI_TEST_CLOCK".as_ptr().cast());
        if path.is_null() {
            return nothing;
        }
        let file = open(path, 0);
        let at = mmap(std::ptr::null_mut(), 8, 1, 1, file, 0);
        if file < 0 || at.addr() == usize::MAX {
            return nothing;
        }
        at
    }
}

/// clock_gettime(2).
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: i32, time: *mut Timespec) -> i32 {
    // SAFETY: the caller's pointer, as it was given.
    unsafe {
        let failed = syscall(CLOCK_GETTIME, clock, time);
        if failed == 0 && clock == REALTIME {
            let now = (*time).seconds * 1_000_000_000 + (*time).nanoseconds + offset_ns();
            (*time).seconds = now.div_euclid(1_000_000_000);
            (*time).nanoseconds = now.rem_euclid(1_000_000_000);
        }
        failed as i32
    }
}
