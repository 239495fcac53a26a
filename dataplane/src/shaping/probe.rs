//! What this kernel can do for a shape: tried, not looked up, with the calls that make the real thing.
//!
//! The trial happens on the loopback of a network namespace that nobody else sees and that ends with
//! the trial. The daemon may not make one (that takes CAP_SYS_ADMIN): there, a link is made for the
//! trial in its own namespace, and taken away again. Either takes a few milliseconds.

use super::{
    edt, htb,
    rtnl::{self, Rtnl},
};
use crate::netlink;
use dataplane_common::units::BitsPerSecond;
use std::{
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// The loopback's index in every namespace.
const LOOPBACK: u32 = 1;

/// `TC_H_CLSACT`, and the handle that goes with it.
const CLSACT: u32 = 0xFFFF_FFF1;
const INGRESS: u32 = 0xFFFF_0000;

/// Name of the link that is made where there is no namespace for the trial.
const LINK: &str = "octprobe";

/// What can be made here; else why not, in the kernel's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// fq, for departure times.
    pub fq: Result<(), String>,
    /// HTB with byte FIFOs below it.
    pub htb: Result<(), String>,
    /// IFB, so that what comes from a tenant can be queued, too.
    pub ifb: Result<(), String>,
    /// clsact, where programs go on kernels without tcx.
    pub clsact: Result<(), String>,
}

impl Abilities {
    fn none(reason: &str) -> Self {
        let no = || Err(reason.to_owned());
        Self {
            fq: no(),
            htb: no(),
            ifb: no(),
            clsact: no(),
        }
    }
}

/// Finds out, once in the life of this process: kernels do not unlearn.
pub fn abilities() -> &'static Abilities {
    static FOUND: OnceLock<Abilities> = OnceLock::new();
    FOUND.get_or_init(|| {
        thread::spawn(|| try_all().unwrap_or_else(|error| Abilities::none(&error)))
            .join()
            .unwrap_or_else(|_| Abilities::none("the trial ended early"))
    })
}

/// On a thread of its own: the namespace ends with it.
fn try_all() -> Result<Abilities, String> {
    // SAFETY: takes a flag; concerns this thread alone.
    let apart = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
    let mut rtnl = Rtnl::open().map_err(|refusal| refusal.to_string())?;
    if let Some(left) = netlink::index(LINK) {
        // By a trial that was killed.
        let _ = rtnl.delete_link(left);
    }
    let ifb = rtnl.add_link(LINK, "ifb");
    let hands_back = ifb.is_ok() && hands_back(netlink::index(LINK).unwrap_or(0));
    let link = match (apart, &ifb) {
        (true, _) => LOOPBACK,
        (false, Ok(())) => netlink::index(LINK).unwrap_or(0),
        (false, Err(_)) => {
            rtnl.add_link(LINK, "veth")
                .map_err(|refusal| format!("not tried: {refusal}"))?;
            netlink::index(LINK).unwrap_or(0)
        }
    };
    let pace = htb::Pace::of(BitsPerSecond(1_000_000), 10_000);
    let htb = htb::make(&mut rtnl, link, pace);
    let _ = rtnl.delete_root(link, htb::HANDLE);
    let fq = edt::make(&mut rtnl, link, 1);
    let clsact = rtnl.qdisc(link, CLSACT, INGRESS, "clsact", &[]);
    if let Some(made) = netlink::index(LINK) {
        let _ = rtnl.delete_link(made);
    }
    Ok(Abilities {
        fq: said("fq", fq),
        htb: said("htb", htb),
        ifb: said("ifb", ifb).and_then(|()| match hands_back {
            true => Ok(()),
            false => Err("this kernel's ifb drops what a program redirects to it".into()),
        }),
        clsact: said("clsact", clsact),
    })
}

fn said(kind: &str, result: rtnl::Result<()>) -> Result<(), String> {
    result.map_err(|refusal| match refusal.code {
        // The first for a qdisc, the second for a link: there is no such module.
        libc::ENOENT | libc::EOPNOTSUPP => format!("this kernel has no {kind}"),
        _ => format!("{kind}: {refusal}"),
    })
}

/// Redirects one frame to an IFB, as the programs do, and waits until it has handed it back.
///
/// Linux 6.1 takes the frame, counts it as received, and drops it: a black hole for all that a tenant
/// sends. Only a frame shows it.
fn hands_back(ifb: u32) -> bool {
    let Some(program) = redirecting(ifb) else {
        return false;
    };
    if !run_once(&program) {
        return false;
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(200) {
        let counted = netlink::interfaces().ok().and_then(|all| {
            let ifb = all.into_values().find(|link| link.index == ifb)?;
            Some(ifb.stats[2])
        });
        // What it has sent on. By a softirq: not at once.
        if counted.is_some_and(|packets| packets != 0) {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Loads `bpf_clone_redirect(skb, ifindex, 0); return 0`.
fn redirecting(ifindex: u32) -> Option<OwnedFd> {
    /// `bpf_attr` of BPF_PROG_LOAD, as far as it is used.
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
        log: [u64; 2],
        kernel: u32,
        flags: u32,
    }
    const BPF_PROG_LOAD: libc::c_long = 5;
    const SCHED_CLS: u32 = 3;
    const CLONE_REDIRECT: u32 = 13;
    // struct bpf_insn: opcode in the lowest byte, registers, offset, then the immediate. The context
    // is in r1 already.
    let instruction = |opcode: u64, register: u64, immediate: u32| {
        opcode | register << 8 | u64::from(immediate) << 32
    };
    const MOVE: u64 = 0xB7;
    let code = [
        instruction(MOVE, 2, ifindex),
        instruction(MOVE, 3, 0),
        instruction(0x85, 0, CLONE_REDIRECT),
        instruction(MOVE, 0, 0),
        instruction(0x95, 0, 0),
    ];
    let load = Load {
        kind: SCHED_CLS,
        instructions: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: attributes, code and license live through the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const load,
            size_of::<Load>(),
        )
    };
    // SAFETY: a descriptor that was just made is nobody else's.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Runs a classifier on a frame of zeros that came in by the loopback: an IFB hands back to there,
/// where nothing takes it.
fn run_once(program: &OwnedFd) -> bool {
    /// `bpf_attr` of BPF_PROG_TEST_RUN.
    #[repr(C)]
    #[derive(Default)]
    struct Run {
        program: u32,
        result: u32,
        frame_len: u32,
        out_len: u32,
        frame: u64,
        out: u64,
        repeat: u32,
        duration: u32,
        context_len: u32,
        context_out_len: u32,
        context: u64,
        context_out: u64,
        flags: u32,
        cpu: u32,
        batch: u32,
        padding: u32,
    }
    const BPF_PROG_TEST_RUN: libc::c_long = 10;
    /// `ingress_ifindex` in `struct __sk_buff`, in words.
    const INGRESS_IFINDEX: usize = 9;
    let frame = [0_u8; 64];
    let mut context = [0_u32; INGRESS_IFINDEX + 1];
    context[INGRESS_IFINDEX] = LOOPBACK;
    let mut run = Run {
        program: program.as_raw_fd() as u32,
        frame_len: frame.len() as u32,
        frame: frame.as_ptr() as u64,
        repeat: 1,
        context_len: size_of_val(&context) as u32,
        context: context.as_ptr() as u64,
        ..Run::default()
    };
    // SAFETY: attributes, frame and context live through the call.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut run,
            size_of::<Run>(),
        ) == 0
    }
}
