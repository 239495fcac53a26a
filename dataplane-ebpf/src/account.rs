//! The registers. Per-CPU and monotonic: a program runs with softirqs off, so nothing else adds to
//! this CPU's copy meanwhile, and nothing ever sets one back.

use crate::maps;
use aya_ebpf::btf_maps::PerCpuArray;
use core::arch::asm;
use dataplane_common::{
    abi::{BLOCK, Epoch},
    reason::DropReason,
    wire::Wire,
};

/// Where a packet is booked.
#[derive(Clone, Copy)]
pub struct Book {
    pub epoch: Epoch,
    pub slot: u32,
    pub direction: u32,
}

/// Blocks of registers, as [`BLOCK`] says.
type Blocks<T> = PerCpuArray<[T; BLOCK as usize], 1>;

/// Runs `add` on this CPU's copy of the register with this number.
#[inline(always)]
pub fn on<T>(blocks: &Blocks<T>, number: u32, add: impl FnOnce(&mut T)) {
    if let Some(block) = blocks.get_ptr_mut(number / BLOCK) {
        let register = block.cast::<T>();
        let mut within = number as u64;
        // Masked where LLVM cannot see it: it would mask parts of the number and join them, of which Linux 6.1 knows
        // no bound.
        // SAFETY: arithmetic.
        unsafe {
            asm!(
                "{within} &= {mask}",
                within = inout(reg) within,
                mask = const BLOCK - 1,
                options(pure, nomem, nostack)
            );
        }
        // SAFETY: within the block; this CPU's own copy.
        add(unsafe { &mut *register.add(within as usize) });
    }
}

impl Book {
    /// Books a packet that passes.
    #[inline(always)]
    pub fn delivered(&self, zone: u32, wire: &Wire, skb_len: u32) {
        let sizes = maps::sizes();
        let bank = self.epoch.bank();
        let number = sizes.register(bank, self.slot, self.direction, zone);
        on(&maps::REGISTERS, number, |register| {
            register.packets += wire.packets;
            register.l2_bytes += wire.l2_bytes;
            register.l3_bytes += wire.l3_bytes;
        });
        let number = sizes.skbs(bank, self.slot, self.direction);
        on(&maps::SKBS, number, |skbs| {
            skbs.delivered += 1;
            skbs.delivered_len += skb_len as u64;
        });
    }

    /// Books what is known of a packet that passes: its class of evidence.
    #[inline(always)]
    pub fn evidence(&self, class: u32, wire: &Wire) {
        let number =
            maps::slots().evidence(self.epoch.bank(), self.slot, self.direction, class & 7);
        on(&maps::EVIDENCE, number, |evidence| {
            evidence.packets += wire.packets;
            evidence.l2_bytes += wire.l2_bytes;
        });
    }

    /// Books what ends before an skb exists: no interface of a port has counted it.
    #[inline(always)]
    pub fn ended(&self, reason: DropReason, packets: u64, l2_bytes: u64) {
        let bank = self.epoch.bank();
        let number = maps::slots().drops(bank, self.slot, self.direction, reason as u32);
        on(&maps::DROPS, number, |drops| {
            drops.packets += packets;
            drops.l2_bytes += l2_bytes;
        });
    }

    /// Books a packet that is dropped.
    #[inline(always)]
    pub fn dropped(&self, reason: DropReason, packets: u64, l2_bytes: u64, skb_len: u32) {
        self.ended(reason, packets, l2_bytes);
        let number = maps::slots().skbs(self.epoch.bank(), self.slot, self.direction);
        on(&maps::SKBS, number, |skbs| {
            skbs.dropped += 1;
            skbs.dropped_len += skb_len as u64;
        });
    }
}
