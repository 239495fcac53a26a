//! A packet whose port shares an uplink, or has an encryption policy or a budget of bytes: held between its limits and its verdict.
//!
//! What was found out of it waits in this CPU's [`maps::HELD`]. The rest of the program runs on this CPU, and no other
//! in between.

use crate::{
    account::Book,
    encryption, flow,
    gate::{Admitted, deliver},
    limiter, maps, port, quota, share, verdict,
};
use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use dataplane_common::{
    abi::{Epoch, FROM_TENANT, TO_TENANT},
    ecn::Departure,
    encryption::Class,
    reason::DropReason,
    wire::Wire,
};

/// A packet that its limits let through.
#[repr(C)]
pub struct Held {
    epoch: u64,
    /// [`Departure`].
    departure: u64,
    wire: Wire,
    slot: u32,
    direction: u32,
    zone: u32,
    len: u32,
    /// Number of the port's encryption policy; 0: none.
    encryption: u32,
    /// 0: the port's tenant shares no uplink.
    shares: u32,
    /// 1: [`within`] was asked, and said no.
    asked: u32,
    reserved: u32,
}

/// Is the packet within a record whose header was read, and its port has nothing but a policy? Then it need not be held, and its
/// class is booked.
#[inline(always)]
pub fn within(skb: *mut __sk_buff, admitted: &Admitted, book: &Book, wire: &Wire) -> bool {
    let port = admitted.port;
    if port.share | port.quota != 0 {
        return false;
    }
    let about = about(book.direction, admitted.zone, book.slot) | (port.encryption as u64) << 32;
    // The whole epoch, not its policy set: that would be kept on the stack from where it was first asked for.
    encryption::encryption_within(skb, book.epoch.0, about, wire.packets, wire.l2_bytes) != 0
}

/// What the functions of [`encryption`] are told.
#[inline(always)]
fn about(direction: u32, zone: u32, slot: u32) -> u64 {
    direction as u64 | (zone as u64) << 8 | (slot as u64) << 16
}

/// Holds it.
#[inline(always)]
pub fn hold(admitted: &Admitted, book: &Book, wire: &Wire, len: u32) -> i32 {
    let Some(held) = maps::HELD.get_ptr_mut(0) else {
        return verdict::DROP;
    };
    // SAFETY: this CPU's own copy.
    unsafe {
        *held = Held {
            epoch: book.epoch.0,
            departure: admitted.departure.0,
            wire: *wire,
            slot: book.slot,
            direction: book.direction,
            zone: admitted.zone,
            len,
            encryption: admitted.port.encryption,
            shares: (admitted.port.share != 0) as u32,
            asked: (admitted.port.share | admitted.port.quota == 0) as u32,
            reserved: 0,
        };
    }
    verdict::HELD
}

/// Its verdict.
#[inline(always)]
pub fn judge(skb: *mut __sk_buff) -> i32 {
    let Some(held) = maps::HELD.get_ptr(0) else {
        return verdict::DROP;
    };
    // SAFETY: this CPU's own copy.
    let held = unsafe { &*held };
    if held.shares != 0 && held_share(skb) != 0 {
        return verdict::DROP;
    }
    if held.encryption == 0 {
        return held_end(skb, 0) as i32;
    }
    let about = about(held.direction, held.zone, held.slot);
    let number = held.encryption;
    if held.asked == 0 {
        let about = about | (number as u64) << 32;
        // Booked at the end: its tenant's budget may still refuse it.
        if encryption::encryption_within(skb, held.epoch, about, 0, 0) != 0 {
            return held_end(skb, Class::Records as u64) as i32;
        }
    }
    let about = about | (Epoch(held.epoch).policy_set() as u64) << 2;
    let mut judged = encryption::encryption_judge(skb, about, number);
    if judged == encryption::LOOK {
        judged = encryption::encryption_look(skb, about, number);
        if judged == encryption::AGAIN {
            judged = encryption::encryption_judge(skb, about | encryption::LOOKED, number);
            judged = encryption::encryption_follow(skb, about, number, judged);
        }
    }
    held_end(skb, judged) as i32
}

/// Takes the packet from its tenant's share of the uplink. 1: it may not have it, and is booked as dropped.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn held_share(skb: *mut __sk_buff) -> u64 {
    let Some((admitted, book, wire, len)) = take() else {
        return 1;
    };
    match share::take(skb, admitted.port, &book, admitted.zone, &wire) {
        Ok(passed) => {
            if let Some(held) = maps::HELD.get_ptr_mut(0) {
                // SAFETY: this CPU's own copy.
                unsafe { (*held).departure = admitted.departure.later(passed).0 };
            }
            0
        }
        Err(reason) => {
            flow::refused(admitted.zone, &wire, &book, admitted.port, reason);
            book.dropped(reason, wire.packets, wire.l2_bytes, len);
            1
        }
    }
}

/// Books the packet that is held, and hands it on or drops it. `judged`: what [`encryption::encryption_judge`]
/// returned, or 0 for a port that has no policy.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn held_end(skb: *mut __sk_buff, judged: u64) -> u64 {
    (if judged & encryption::REFUSED != 0 {
        refuse(skb)
    } else {
        end(skb, judged as u32 & 7)
    }) as u32 as u64
}

/// What was held, with its port's policy.
#[inline(always)]
fn take() -> Option<(Admitted, Book, Wire, u32)> {
    // SAFETY: this CPU's own copy.
    let held = unsafe { &*maps::HELD.get_ptr(0)? };
    let epoch = Epoch(held.epoch);
    let port = port::policy(epoch, held.slot).ok()?;
    let admitted = Admitted {
        port,
        zone: held.zone,
        departure: Departure(held.departure),
    };
    let book = Book {
        epoch,
        slot: held.slot,
        direction: held.direction & 1,
    };
    Some((admitted, book, held.wire, held.len))
}

#[inline(always)]
fn end(skb: *mut __sk_buff, class: u32) -> i32 {
    let Some((admitted, book, wire, len)) = take() else {
        return verdict::DROP;
    };
    if admitted.port.quota != 0 && !quota::take(admitted.port, &book, admitted.zone, &wire) {
        return refused(skb, (&admitted, &book, &wire, len), DropReason::QuotaSpent);
    }
    let ctx = TcContext::new(skb);
    if admitted.port.encryption != 0 {
        book.evidence(class, &wire);
    }
    if book.direction == FROM_TENANT {
        deliver::<FROM_TENANT>(&ctx, &admitted, class, &book, &wire, len)
    } else {
        deliver::<TO_TENANT>(&ctx, &admitted, class, &book, &wire, len)
    }
}

#[inline(always)]
fn refuse(skb: *mut __sk_buff) -> i32 {
    match take() {
        Some((admitted, book, wire, len)) => refused(
            skb,
            (&admitted, &book, &wire, len),
            DropReason::EncryptionPolicy,
        ),
        None => verdict::DROP,
    }
}

/// Drops what was held, and gives it back to its port's limits.
#[inline(always)]
fn refused(
    skb: *mut __sk_buff,
    (admitted, book, wire, len): (&Admitted, &Book, &Wire, u32),
    reason: DropReason,
) -> i32 {
    limiter::give_back(skb, admitted.port, book.slot, book.direction, wire);
    flow::refused(admitted.zone, wire, book, admitted.port, reason);
    book.dropped(reason, wire.packets, wire.l2_bytes, len);
    verdict::DROP
}
