//! A peer that gives packets departure times, as CNIs do: one rate, one clock, no classes; an fq qdisc holds what it let in.
//!
//! The program is written out here, in the kernel's own instructions, so that nothing of octroi's is in it: the algorithm is
//! `tools/testing/selftests/bpf/progs/test_tc_edt.c` of the kernel, with a horizon of 50 ms as the other peers have. A clock
//! for each interface, below [`CLOCKS`]; two CPUs at one clock may lose a packet's time, as there.

use anyhow::{Result, ensure};
use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Interfaces that have a clock: the low bits of their index choose it.
const CLOCKS: u32 = 256;
/// Departures further ahead are drops, ns.
const HORIZON_NS: i32 = 50_000_000;
/// Binary digits behind the point of ns per byte.
const SHIFT: i32 = 20;

/// A clock: ns per byte times 2^20, and when the next packet may leave.
type Clock = [u64; 2];

/// One instruction: opcode, destination, source, offset, immediate.
const fn op(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    code as u64
        | (dst as u64) << 8
        | (src as u64) << 12
        | (offset as u16 as u64) << 16
        | (value as u32 as u64) << 32
}

/// The program, with its map.
fn program(map: i32) -> [u64; 35] {
    // Opcodes of `include/uapi/linux/bpf.h`, by what they do.
    const MOV: u8 = 0xBF;
    const MOV_K: u8 = 0xB7;
    const ADD: u8 = 0x0F;
    const ADD_K: u8 = 0x07;
    const SUB: u8 = 0x1F;
    const AND_K: u8 = 0x57;
    const MUL: u8 = 0x2F;
    const RSH_K: u8 = 0x77;
    const LOAD_32: u8 = 0x61;
    const LOAD_64: u8 = 0x79;
    const STORE_32: u8 = 0x63;
    const STORE_64: u8 = 0x7B;
    const JUMP_EQ_K: u8 = 0x15;
    const JUMP_GT: u8 = 0x2D;
    const JUMP_GE: u8 = 0x3D;
    const JUMP_LE_K: u8 = 0xB5;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    // Places in `struct __sk_buff`; the second is the length with the headers of all segments, where it leaves.
    const IFINDEX: i16 = 40;
    const WIRE_LEN: i16 = 160;
    const MAP_LOOKUP: i32 = 1;
    const KTIME: i32 = 5;
    const SET_TSTAMP: i32 = 192;
    [
        op(MOV, 6, 1, 0, 0),
        op(LOAD_32, 2, 6, IFINDEX, 0),
        op(AND_K, 2, 0, 0, CLOCKS as i32 - 1),
        op(STORE_32, 10, 2, -4, 0),
        op(0x18, 1, 1, 0, map),
        0,
        op(MOV, 2, 10, 0, 0),
        op(ADD_K, 2, 0, 0, -4),
        op(CALL, 0, 0, 0, MAP_LOOKUP),
        op(JUMP_EQ_K, 0, 0, 21, 0),
        // r8: the clock; r7: ns that the packet takes.
        op(MOV, 8, 0, 0, 0),
        op(LOAD_64, 1, 8, 0, 0),
        op(JUMP_EQ_K, 1, 0, 18, 0),
        op(LOAD_32, 7, 6, WIRE_LEN, 0),
        op(MUL, 7, 1, 0, 0),
        op(RSH_K, 7, 0, 0, SHIFT),
        op(CALL, 0, 0, 0, KTIME),
        // r2: when it leaves, not before now.
        op(LOAD_64, 2, 8, 8, 0),
        op(JUMP_GE, 2, 0, 1, 0),
        op(MOV, 2, 0, 0, 0),
        op(MOV, 3, 2, 0, 0),
        op(SUB, 3, 0, 0, 0),
        op(MOV_K, 4, 0, 0, HORIZON_NS),
        op(JUMP_GT, 3, 4, 9, 0),
        op(MOV, 5, 2, 0, 0),
        op(ADD, 5, 7, 0, 0),
        op(STORE_64, 8, 5, 8, 0),
        op(JUMP_LE_K, 3, 0, 3, 0),
        op(MOV, 1, 6, 0, 0),
        op(MOV_K, 3, 0, 0, 1),
        op(CALL, 0, 0, 0, SET_TSTAMP),
        // Pass, then the drop.
        op(MOV_K, 0, 0, 0, 0),
        op(EXIT, 0, 0, 0, 0),
        op(MOV_K, 0, 0, 0, 2),
        op(EXIT, 0, 0, 0, 0),
    ]
}

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const PROGRAM_LOAD: libc::c_long = 5;
const PIN: libc::c_long = 6;

/// `bpf(2)` with an attribute of 32-bit words; pointers are two of them, at even places.
fn bpf(command: libc::c_long, attribute: &[u32]) -> io::Result<i32> {
    // SAFETY: the attribute is as long as said, and what it points to lives through the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attribute.as_ptr(),
            size_of_val(attribute),
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(done as i32)
}

fn words<T>(pointer: *const T) -> [u32; 2] {
    let address = pointer as u64;
    [address as u32, (address >> 32) as u32]
}

/// The program with its clocks, pinned while this value lives.
#[derive(Debug)]
pub struct Edt {
    clocks: OwnedFd,
    path: String,
}

impl Edt {
    /// Loads it and pins it below `/sys/fs/bpf`.
    ///
    /// # Errors
    /// What the kernel says to it.
    pub fn load() -> Result<Self> {
        const ARRAY: u32 = 2;
        const SCHED_CLS: u32 = 3;
        let map = bpf(
            MAP_CREATE,
            &[ARRAY, 4, size_of::<Clock>() as u32, CLOCKS, 0, 0],
        )?;
        // SAFETY: a descriptor that was just made is nobody else's.
        let clocks = unsafe { OwnedFd::from_raw_fd(map) };
        let code = program(map);
        let [low, high] = words(code.as_ptr());
        let [license, license_high] = words(c"GPL".as_ptr());
        let load = [
            SCHED_CLS,
            code.len() as u32,
            low,
            high,
            license,
            license_high,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        // SAFETY: as above.
        let loaded = unsafe { OwnedFd::from_raw_fd(bpf(PROGRAM_LOAD, &load)?) };
        let path = format!("/sys/fs/bpf/octroi-bench-edt-{}", std::process::id());
        let name = CString::new(path.as_str())?;
        let [low, high] = words(name.as_ptr());
        bpf(PIN, &[low, high, loaded.as_raw_fd() as u32, 0])?;
        Ok(Self { clocks, path })
    }

    /// Where it is pinned.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Sets the rate of an interface.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set(&self, ifindex: u32, mbit: u64) -> Result<()> {
        ensure!(mbit != 0, "a rate of 0");
        let key = ifindex % CLOCKS;
        let clock: Clock = [(8_000 << SHIFT) / mbit, 0];
        let ([key_low, key_high], [low, high]) = (words(&raw const key), words(&raw const clock));
        let update = [
            self.clocks.as_raw_fd() as u32,
            0,
            key_low,
            key_high,
            low,
            high,
            0,
            0,
        ];
        bpf(MAP_UPDATE, &update)?;
        Ok(())
    }
}

impl Drop for Edt {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every jump of the program ends where an answer is made: jumps are counted by hand.
    #[test]
    fn jumps_meet_their_targets() {
        let code = program(3);
        let target = |at: usize| at + 1 + usize::from((code[at] >> 16) as u16);
        let pass = op(0xB7, 0, 0, 0, 0);
        assert_eq!([9, 12, 27].map(|at| code[target(at)]), [pass; 3]);
        assert_eq!(code[target(23)], op(0xB7, 0, 0, 0, 2));
    }
}
