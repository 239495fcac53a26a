//! Where the parser's bytes come from in the kernel: the packet itself, read where it lies.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::bpf_skb_pull_data,
    programs::TcContext,
};
use core::arch::asm;
use dataplane_common::{
    parse::{
        Extensions, Frame, HEADER_WINDOW, Meta, PLAIN, Packet, Plain, extensions, parse, parse_into,
    },
    reason::DropReason,
};

/// A program's context, and the functions of this object that take one of its kind.
///
/// Those functions are *global* to the verifier: each is checked once, alone, for any argument. What
/// they return is a plain number to their caller, so that their paths do not multiply with its own.
pub trait Context: Copy {
    /// The packet's first byte and the byte after its last linear one.
    fn bounds(self) -> (usize, usize);
    /// `parse::extensions` as a function of its own.
    fn extensions(self, start: u64, limit: u32, jumbo: u32) -> u64;
    /// `antispoof::neighbour` as a function of its own.
    fn neighbour(self, nd: u64, slot: u32, policy_set: u32) -> u64;
}

/// The linear part of a packet.
#[derive(Clone, Copy)]
pub struct Linear<C> {
    pub context: C,
    start: usize,
    end: usize,
}

impl<C: Context> Linear<C> {
    /// All of it.
    #[inline(always)]
    pub fn new(context: C) -> Self {
        let (start, end) = context.bounds();
        Self {
            context,
            start,
            end,
        }
    }
}

/// Pulls an skb's headers into its linear part, at most once. A failed pull leaves less to read: the
/// parser then says `truncated`. Pointers into the packet must be read again.
#[inline(always)]
pub fn pull_headers(ctx: &TcContext) {
    let want = ctx.len().min(HEADER_WINDOW);
    if ctx.data() + want as usize > ctx.data_end() {
        // SAFETY: the context is the program's own.
        unsafe { bpf_skb_pull_data(ctx.skb.skb, want) };
    }
}

impl<C> Linear<C> {
    /// A pointer to `SIZE` bytes at `offset` that the verifier knows to be in the packet.
    #[inline(always)]
    fn at<const SIZE: usize>(&self, offset: u32) -> Option<usize> {
        let mut pointer = self.start;
        // The sum is made where LLVM cannot see it: it would otherwise compare one copy of it with
        // the end and read through another, for which the verifier has no bounds. The mask repeats
        // the parser's own check (HEADER_WINDOW is below 256) on the register that is added.
        // SAFETY: arithmetic.
        unsafe {
            asm!(
                "{offset} &= 255",
                "{pointer} += {offset}",
                pointer = inout(reg) pointer,
                offset = inout(reg) offset as u64 => _,
                options(pure, nomem, nostack)
            );
        }
        if pointer + SIZE > self.end {
            None
        } else {
            Some(pointer)
        }
    }
}

/// One load instruction of a given width, at a constant offset from a pointer: packets are not aligned, BPF on the
/// machines that octroi runs on does not care, and Rust would fall back to single bytes.
macro_rules! load {
    ($width:literal, $pointer:expr, $at:expr) => {{
        let value: u64;
        // SAFETY: `at` or `plain` has compared the pointer with the packet's end.
        unsafe {
            asm!(
                concat!("{value} = *(", $width, " *)({pointer} + {at})"),
                value = out(reg) value,
                pointer = in(reg) $pointer,
                at = const $at,
                options(pure, readonly, nostack)
            );
        }
        value
    }};
}

/// Eight bytes at `offset` of the linear part, in network order; `None`: they are not all there.
#[inline(always)]
pub fn be64(skb: *mut __sk_buff, offset: u32) -> Option<u64> {
    let pointer = Linear::new(skb).at::<8>(offset)?;
    Some(u64::from_be(load!("u64", pointer, 0)))
}

impl<C: Context> Frame for Linear<C> {
    #[inline(always)]
    fn u8(&self, offset: u32) -> Option<u8> {
        let pointer = self.at::<1>(offset)?;
        Some(load!("u8", pointer, 0) as u8)
    }

    #[inline(always)]
    fn be16(&self, offset: u32) -> Option<u16> {
        let pointer = self.at::<2>(offset)?;
        Some(u16::from_be(load!("u16", pointer, 0) as u16))
    }

    #[inline(always)]
    fn raw32(&self, offset: u32) -> Option<u32> {
        let pointer = self.at::<4>(offset)?;
        Some(load!("u32", pointer, 0) as u32)
    }

    #[inline(always)]
    fn plain(&self) -> Option<impl Plain> {
        if self.start + PLAIN > self.end {
            None
        } else {
            Some(Near(self.start))
        }
    }

    #[inline(always)]
    fn extensions(&self, start: Extensions, limit: u32, gso: bool) -> u64 {
        let start = start.offset as u64 | (start.next as u64) << 16;
        self.context.extensions(start, limit, gso as u32)
    }
}

/// A packet whose first [`PLAIN`] bytes the verifier knows to be there.
struct Near(usize);

impl Plain for Near {
    #[inline(always)]
    fn u8<const AT: usize>(&self) -> u8 {
        load!("u8", self.0, AT) as u8
    }

    #[inline(always)]
    fn be16<const AT: usize>(&self) -> u16 {
        u16::from_be(load!("u16", self.0, AT) as u16)
    }

    #[inline(always)]
    fn raw32<const AT: usize>(&self) -> u32 {
        load!("u32", self.0, AT) as u32
    }

    #[inline(always)]
    fn be64<const AT: usize>(&self) -> u64 {
        u64::from_be(load!("u64", self.0, AT))
    }
}

/// Parses the frame in `skb`; `APART`: in a function of its own, after which the verifier knows
/// nothing of what was found. That of Linux 6.1 would else walk all later stages once for each kind of
/// frame. Inline is faster: docs/decisions/0008-two-ways-to-parse.md.
///
/// # Errors
/// The reason why the frame must be dropped.
#[inline(always)]
pub fn parsed<const APART: bool>(skb: *mut __sk_buff) -> Result<Packet, DropReason> {
    if !APART {
        return parse(&Linear::new(skb), &meta(skb));
    }
    let mut packet = Packet::default();
    match tc_parse(skb, &mut packet) {
        0 => Ok(packet),
        reason => Err(DropReason::from_number(reason).unwrap_or(DropReason::Internal)),
    }
}

/// Parses into `packet`, which the caller has set to its default: 0, or the number of a reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tc_parse(skb: *mut __sk_buff, packet: *mut Packet) -> u64 {
    // SAFETY: `parsed` gives its own. To the verifier a pointer may be null.
    let Some(packet) = (unsafe { packet.as_mut() }) else {
        return DropReason::Internal as u64;
    };
    match parse_into(&Linear::new(skb), &meta(skb), packet) {
        Ok(()) => 0,
        Err(reason) => reason as u64,
    }
}

/// Unpacks what [`Frame::extensions`] packed above.
#[inline(always)]
fn walk<C: Context>(context: C, start: u64, limit: u32, jumbo: u32) -> u64 {
    let start = Extensions {
        offset: start as u16,
        next: (start >> 16) as u8,
        ..Extensions::default()
    };
    extensions(&Linear::new(context), start, limit, jumbo != 0)
}

/// [`walk`] for tc.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tc_extensions(skb: *mut __sk_buff, start: u64, limit: u32, jumbo: u32) -> u64 {
    walk(skb, start, limit, jumbo)
}

/// [`walk`] for XDP.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_extensions(xdp: *mut xdp_md, start: u64, limit: u32, jumbo: u32) -> u64 {
    walk(xdp, start, limit, jumbo)
}

impl Context for *mut __sk_buff {
    #[inline(always)]
    fn bounds(self) -> (usize, usize) {
        // SAFETY: a program's context is valid for the whole program.
        unsafe { ((*self).data as usize, (*self).data_end as usize) }
    }

    #[inline(always)]
    fn extensions(self, start: u64, limit: u32, jumbo: u32) -> u64 {
        tc_extensions(self, start, limit, jumbo)
    }

    #[inline(always)]
    fn neighbour(self, nd: u64, slot: u32, policy_set: u32) -> u64 {
        crate::spoof::tc_neighbour(self, nd, slot, policy_set)
    }
}

impl Context for *mut xdp_md {
    #[inline(always)]
    fn bounds(self) -> (usize, usize) {
        // SAFETY: a program's context is valid for the whole program.
        unsafe { ((*self).data as usize, (*self).data_end as usize) }
    }

    #[inline(always)]
    fn extensions(self, start: u64, limit: u32, jumbo: u32) -> u64 {
        xdp_extensions(self, start, limit, jumbo)
    }

    #[inline(always)]
    fn neighbour(self, _: u64, _: u32, _: u32) -> u64 {
        0 // XDP makes no spoof check.
    }
}

/// The kernel's own words about the packet.
#[inline(always)]
pub fn meta(skb: *const __sk_buff) -> Meta {
    // SAFETY: the context is valid for the whole program.
    let skb = unsafe { &*skb };
    Meta {
        len: skb.len,
        tag_in_skb: skb.vlan_present != 0,
        tag_vid: skb.vlan_tci as u16 & 0x0FFF,
        gso: skb.gso_size != 0,
    }
}
