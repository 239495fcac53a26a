//! The walk through a packet's payload: a loop of the kernel's own, `bpf_loop`, and its steps.

use super::SCANS;
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_loop, bpf_skb_load_bytes},
};
use core::{arch::asm, ffi::c_void};
use dataplane_common::encryption::{
    Conversation, Payload, Rule, STEPS_MAX, Segment, Why, esp, tcp, tls, veto,
};

/// What a walk needs: on the stack, where `bpf_loop` hands it to its steps.
#[repr(C)]
struct Walk {
    skb: *mut __sk_buff,
    talk: *mut Conversation,
    rule: *const Rule,
    segment: *const Segment,
    /// Offset of the payload.
    base: u32,
    /// What the last step said: see [`walk_step`].
    last: u32,
}

/// A packet's payload, which begins at `base`.
#[derive(Clone, Copy)]
pub struct Skb {
    pub skb: *mut __sk_buff,
    pub base: u32,
}

impl Payload for Skb {
    #[inline(always)]
    fn be(&self, offset: u32, size: u32) -> Option<u64> {
        let mut bytes = [0_u8; 8];
        // 1 to 8, said so that the verifier sees it in the register that the helper gets.
        let mut size = size.wrapping_sub(1) as u64;
        // SAFETY: arithmetic.
        unsafe {
            asm!("{size} &= 7", "{size} += 1", size = inout(reg) size, options(pure, nomem, nostack));
        }
        let size = size as u32;
        // SAFETY: `size` bytes of `bytes`; the helper checks the offset.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                self.base + offset,
                bytes.as_mut_ptr().cast(),
                size,
            )
        };
        if failed != 0 {
            return None;
        }
        Some(u64::from_be_bytes(bytes) >> (64 - size * 8))
    }

    #[inline(always)]
    fn header(&self, talk: &mut Conversation, rule: &Rule, segment: &Segment) -> tls::Step {
        unpacked(encryption_header(talk, rule, segment) as u32)
    }

    #[inline(always)]
    fn field(&self, talk: &mut Conversation, rule: &Rule, segment: &Segment) -> tls::Step {
        unpacked(encryption_field(talk, rule, segment) as u32)
    }

    #[inline(always)]
    fn veto(&self, talk: &mut Conversation, segment: &Segment) -> tls::Step {
        unpacked(encryption_veto(self.skb, talk, segment, self.base) as u32)
    }

    #[inline(always)]
    fn looks_clear(&self, at: u32) -> bool {
        encryption_looks_clear(self.skb, self.base + at) != 0
    }

    #[inline(always)]
    fn holds_text(&self, len: u32) -> bool {
        encryption_holds_text(self.skb, self.base, len) != 0
    }

    #[inline(always)]
    fn is_null(&self, len: u32) -> bool {
        encryption_is_null(self.skb, self.base, len) != 0
    }
}

/// [`veto::holds_text`] of `len` bytes at `base` of the packet. 1: they do.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_holds_text(skb: *mut __sk_buff, base: u32, len: u32) -> u64 {
    veto::holds_text(&Skb { skb, base }, len) as u64
}

/// [`esp::is_null`]. `base`: offset of the payload. 1: it is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_is_null(skb: *mut __sk_buff, base: u32, len: u32) -> u64 {
    esp::is_null(&Skb { skb, base }, len) as u64
}

/// [`veto::record`]. `base`: offset of the payload.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_veto(
    skb: *mut __sk_buff,
    talk: *mut Conversation,
    segment: *const Segment,
    base: u32,
) -> u64 {
    // SAFETY: the caller's; to the verifier a pointer may be null.
    let (Some(talk), Some(segment)) = (unsafe { talk.as_mut() }, unsafe { segment.as_ref() })
    else {
        return Why::Malformed as u64;
    };
    stepped(veto::record(talk, segment, &Deep(Skb { skb, base })))
}

/// A packet's payload where no further function can be called: Linux lets calls be eight deep.
#[derive(Clone, Copy)]
struct Deep(Skb);

impl Payload for Deep {
    #[inline(always)]
    fn be(&self, offset: u32, size: u32) -> Option<u64> {
        self.0.be(offset, size)
    }
}

/// [`veto::looks_clear`] of the 64 bytes at `offset` of the packet. 1: they do.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_looks_clear(skb: *mut __sk_buff, offset: u32) -> u64 {
    veto::looks_clear(&Skb { skb, base: offset }, 0) as u64
}

/// What the functions of this stage are given, which is never null. To the verifier a pointer may be.
///
/// # Safety
/// Each is null, or valid and, but for `segment` and `rule`, nobody else's for as long as the packet is judged.
#[inline(always)]
pub unsafe fn given<'a>(
    talk: *mut Conversation,
    rule: *const Rule,
    segment: *const Segment,
) -> Option<(&'a mut Conversation, &'a Rule, &'a Segment)> {
    // SAFETY: the caller's.
    unsafe { Some((talk.as_mut()?, rule.as_ref()?, segment.as_ref()?)) }
}

/// What a step says beside the number of a [`Why`].
const MORE: u32 = 256;
const DONE: u32 = 257;

/// One step; 1: it was the last.
unsafe extern "C" fn walk_step(_: u32, walk: *mut c_void) -> i64 {
    let walk = walk.cast::<Walk>();
    // SAFETY: `encryption_walk` gives its own.
    let walk = unsafe { &mut *walk };
    let last = encryption_step(walk.skb, walk.talk, walk.rule, walk.segment, walk.base) as u32;
    if last == MORE {
        return 0;
    }
    walk.last = last;
    1
}

/// [`tcp::step`]: [`MORE`], [`DONE`], or why not. `base`: offset of the payload.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_step(
    skb: *mut __sk_buff,
    talk: *mut Conversation,
    rule: *const Rule,
    segment: *const Segment,
    base: u32,
) -> u64 {
    // SAFETY: the caller's.
    let Some((talk, rule, segment)) = (unsafe { given(talk, rule, segment) }) else {
        return Why::Malformed as u64;
    };
    stepped(tcp::step(talk, rule, segment, &Skb { skb, base }))
}

/// A step as the functions here hand it on.
#[inline(always)]
fn stepped(step: tls::Step) -> u64 {
    match step {
        tls::Step::More => MORE as u64,
        tls::Step::Done => DONE as u64,
        tls::Step::Refuse(why) => why as u64,
    }
}

/// The step that such a number stands for.
#[inline(always)]
pub fn unpacked(step: u32) -> tls::Step {
    match step {
        MORE => tls::Step::More,
        DONE => tls::Step::Done,
        why => tls::Step::Refuse(Why::from_number(why as u8).unwrap_or(Why::Malformed)),
    }
}

macro_rules! of_a_hello {
    ($($(#[$doc:meta])* $name:ident: $law:path;)+) => {
        $($(#[$doc])*
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $name(
            talk: *mut Conversation,
            rule: *const Rule,
            segment: *const Segment,
        ) -> u64 {
            // SAFETY: the caller's.
            let Some((talk, rule, segment)) = (unsafe { given(talk, rule, segment) }) else {
                return Why::Malformed as u64;
            };
            stepped($law(talk, rule, segment))
        })+
    };
}

of_a_hello! {
    /// [`tls::header`].
    encryption_header: tls::header;
    /// [`tls::field`].
    encryption_field: tls::field;
}

/// Looks for a header at one place of a scan; 1: that is over.
unsafe extern "C" fn scan_step(index: u32, walk: *mut c_void) -> i64 {
    let walk = walk.cast::<Walk>();
    // SAFETY: `encryption_walk` gives its own.
    let (talk, segment, walk) = unsafe { (&mut *(*walk).talk, &*(*walk).segment, &mut *walk) };
    let skb = Skb {
        skb: walk.skb,
        base: walk.base,
    };
    !tcp::scan(talk, segment, (index & 0xFFFF) * 6, &skb) as i64
}

/// The walk, after the scan where there is one. `about`: offset of the payload, [`SCANS`] << 16.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encryption_walk(
    skb: *mut __sk_buff,
    talk: *mut Conversation,
    rule: *const Rule,
    segment: *const Segment,
    about: u64,
) -> u64 {
    // SAFETY: the caller's; to the verifier a pointer may be null.
    if talk.is_null() || rule.is_null() || segment.is_null() {
        return Why::Malformed as u64;
    }
    let mut walk = Walk {
        skb,
        talk,
        rule,
        segment,
        base: about as u32 & 0xFFFF,
        last: MORE,
    };
    if about & SCANS << 16 != 0 {
        // SAFETY: the callback's own context, which outlives the loop.
        unsafe {
            bpf_loop(
                STEPS_MAX,
                scan_step as *mut c_void,
                (&raw mut walk).cast(),
                0,
            )
        };
    }
    // SAFETY: as above.
    unsafe {
        bpf_loop(
            STEPS_MAX,
            walk_step as *mut c_void,
            (&raw mut walk).cast(),
            0,
        )
    };
    walk.last as u64
}
