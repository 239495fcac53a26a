//! A port with a ceiling and two queues, thin before fat, packet by packet: bulk that always keeps some packets waiting,
//! conversations, and people who pretend.

use super::*;
use dataplane_common::{
    limiter::{At, Decision},
    thin::{ROTATION_SHIFT, TOGETHER_NS},
};
use std::collections::VecDeque;

#[derive(Clone, Copy, Debug)]
struct Waiting {
    flow: u64,
    number: u64,
    bytes: u64,
    since_ns: u64,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Thin,
    Fat,
    Refused,
}

/// A flow's packets as they left.
#[derive(Clone, Copy, Debug, Default)]
struct Left {
    sent: u64,
    last: u64,
    packets: u64,
    overtaken: u64,
    longest_ns: u64,
}

struct Port {
    policy: LimitPolicy,
    clock: Alone,
    rows: Rows,
    queues: [VecDeque<Waiting>; 2],
    /// When the wire is free.
    free_ns: u64,
    wire_ns_per_byte: f64,
    left: Vec<Left>,
    accepted: u64,
    thin_bytes: u64,
    fat_bytes: u64,
}

impl Port {
    fn new(bits: u64, burst_ms: u64, flows: usize, now_ns: u64) -> Self {
        Self {
            policy: ceiling(bits, burst_ms, now_ns),
            clock: Alone::default(),
            rows: Rows::new(),
            queues: [VecDeque::new(), VecDeque::new()],
            free_ns: now_ns,
            // HTB is set to a little more than the ceiling.
            wire_ns_per_byte: 8e9 / bits as f64 * 0.999,
            left: vec![Left::default(); flows],
            accepted: 0,
            thin_bytes: 0,
            fat_bytes: 0,
        }
    }

    /// A packet of `flow` comes at `now_ns`; `key` is the flow that it pretends to be of.
    fn send(&mut self, flow: usize, key: u64, bytes: u64, now_ns: u64) -> Sent {
        let limit = Limit::new(now_ns, self.policy.ns_per_unit);
        let place = place(key, now_ns);
        // Asked for only where others wait; who was not asked goes where bulk goes, and is nobody's bulk.
        let mut thin = None;
        let taken = self
            .policy
            .take_classed(&self.clock, &At(now_ns), bytes, |matters| {
                if matters == 0 {
                    return 0;
                }
                let found = self.rows.thin(&limit, place, bytes);
                thin = Some(found);
                u64::from(!found)
            });
        let Decision::Pass { backlog, at_ns } = taken else {
            return Sent::Refused;
        };
        let first = thin == Some(true);
        let thin = thin.unwrap_or(true);
        if !thin {
            let departure_ns = at_ns + self.policy.delay_ns(backlog);
            limit.hold(&self.rows, place, bytes, departure_ns);
        }
        self.accepted += bytes;
        *if first {
            &mut self.thin_bytes
        } else {
            &mut self.fat_bytes
        } += bytes;
        self.left[flow].sent += 1;
        self.queues[usize::from(!first)].push_back(Waiting {
            flow: flow as u64,
            number: self.left[flow].sent,
            bytes,
            since_ns: now_ns,
        });
        if thin { Sent::Thin } else { Sent::Fat }
    }

    /// Lets leave what leaves by `now_ns`; calls `gone` with flow and time.
    fn run(&mut self, now_ns: u64, gone: &mut Vec<(usize, u64)>) {
        loop {
            // The wire takes what is there when it is free, thin first.
            let earliest = self.queues.iter().filter_map(|queue| queue.front());
            let Some(first_ns) = earliest.map(|packet| packet.since_ns).min() else {
                return;
            };
            let start_ns = self.free_ns.max(first_ns);
            if start_ns >= now_ns {
                return;
            }
            let ready = |queue: &VecDeque<Waiting>| {
                queue
                    .front()
                    .is_some_and(|packet| packet.since_ns <= start_ns)
            };
            let from = usize::from(!ready(&self.queues[0]));
            let Some(packet) = self.queues[from].pop_front() else {
                return;
            };
            self.free_ns = start_ns + (packet.bytes as f64 * self.wire_ns_per_byte) as u64;
            let left = &mut self.left[packet.flow as usize];
            left.overtaken += u64::from(packet.number < left.last);
            left.last = left.last.max(packet.number);
            left.packets += 1;
            left.longest_ns = left.longest_ns.max(self.free_ns - packet.since_ns);
            gone.push((packet.flow as usize, self.free_ns));
        }
    }
}

/// `bulk` flows that send a packet as soon as one of theirs has left, and have up to `window` of them on the way; what is
/// refused is sent again after 200 ms. Beside them a request of 67 bytes each millisecond. Returns the port, how often
/// the conversation was fat, and how often refused.
fn beside_bulk(
    draw: &mut Draw,
    (bits, burst_ms): (u64, u64),
    (bulk, window): (usize, u64),
    seconds: u64,
) -> (Port, u64, u64) {
    const STEP_NS: u64 = 20_000;
    // A rotation is in between.
    let start_ns = (3 << ROTATION_SHIFT) - 500_000_000;
    let mut port = Port::new(bits, burst_ms, bulk + 1, start_ns);
    let mut ready: VecDeque<(u64, usize)> = (0..bulk)
        .flat_map(|flow| (0..window).map(move |_| (start_ns, flow)))
        .collect();
    let (mut fat, mut refused) = (0, 0);
    let mut gone = Vec::new();
    // One whose two clocks are both hit by bulk is fat: 1.4 % in a rotation, of which there are two here. Not this one.
    let base = loop {
        let base = draw.next();
        let hit = |at_ns| {
            let own = place(base.wrapping_add(bulk as u64), at_ns);
            let all = || (0..bulk as u64).map(|flow| place(base.wrapping_add(flow), at_ns));
            all().any(|one| one.first == own.first) && all().any(|one| one.second == own.second)
        };
        if !hit(start_ns) && !hit(start_ns + 500_000_000) {
            break base;
        }
    };
    for step in 0..seconds * 1_000_000_000 / STEP_NS {
        let now_ns = start_ns + step * STEP_NS;
        gone.clear();
        port.run(now_ns, &mut gone);
        for (flow, left_ns) in &gone {
            if *flow < bulk {
                // The answer comes 30 to 60 µs later.
                ready.push_back((left_ns + 30_000 + draw.up_to(30_000), *flow));
            }
        }
        for _ in 0..ready.len() {
            let Some((at_ns, flow)) = ready.pop_front() else {
                break;
            };
            if at_ns > now_ns {
                ready.push_back((at_ns, flow));
                continue;
            }
            if port.send(flow, base.wrapping_add(flow as u64), 1_514, now_ns) == Sent::Refused {
                ready.push_back((now_ns + 200_000_000, flow));
            }
        }
        if step % (1_000_000 / STEP_NS) == 0 {
            match port.send(bulk, base.wrapping_add(bulk as u64), 67, now_ns) {
                Sent::Thin => {}
                Sent::Fat => fat += 1,
                Sent::Refused => refused += 1,
            }
        }
    }
    (port, fat, refused)
}

#[test]
fn a_conversation_waits_for_no_bulk_and_no_flow_overtakes_itself() {
    let mut draw = draw("beside bulk");
    let seconds = level(1, 2, 20);
    for (bits, bulk, window) in [
        (100_000_000, 128, 3),
        (100_000_000, 64, 10),
        (100_000_000, 16, 40),
        (1_000_000_000, 64, 40),
        (20_000_000, 8, 20),
    ] {
        let (port, fat, refused) = beside_bulk(&mut draw, (bits, 50), (bulk, window), seconds);
        let conversation = port.left[bulk];
        let overtaken: u64 = port.left[..bulk].iter().map(|flow| flow.overtaken).sum();
        let packets: u64 = port.left[..bulk].iter().map(|flow| flow.packets).sum();
        println!(
            "{bits} bit/s, {bulk} bulk flows: {packets} packets, {overtaken} overtaken, {} of {} bytes thin; a \
             conversation of {}, {fat} fat, {refused} refused, {} us at most",
            port.thin_bytes,
            port.accepted,
            conversation.packets,
            conversation.longest_ns / 1_000
        );
        assert_eq!((fat, refused), (0, 0), "a conversation was taken for bulk");
        // What may be ahead of it of flows that begin, at their half of the rate; a frame on the wire, and its own.
        let frame_ns = 1_514 * 8_000_000_000 / bits;
        let most_ns = (TOGETHER_NS / 4).max(frame_ns) + 3 * frame_ns;
        assert!(conversation.longest_ns <= most_ns, "{most_ns} ns");
        // Once, where the hash is drawn anew, a bucket of each flow goes before what waits of it.
        assert!(overtaken <= bulk as u64 * window, "{overtaken} overtaken");
        assert!(port.thin_bytes <= port.accepted / 2);
        let line = port.policy.line(port.free_ns);
        assert!(port.accepted >= line / 100 * 98, "the link was not used");
    }
}

/// Each packet of the flood is of a flow of its own. Beside it, fat flows that want all of the ceiling.
#[test]
fn whoever_fakes_thin_flows_has_half_of_his_own_ceiling_at_most() {
    let mut draw = draw("faked flows");
    let start_ns = 5 << 30;
    let bits = 100_000_000;
    for size in [60, 590, 1_514] {
        let mut port = Port::new(bits, 50, 2, start_ns);
        let mut gone = Vec::new();
        // Ten times the ceiling each.
        let gap_ns = size * 8_000_000_000 / (10 * bits);
        let fat_gap_ns = 1_514 * 8_000_000_000 / (10 * bits);
        let (mut now_ns, mut fat_ns) = (start_ns, start_ns);
        let seconds = level(1, 1, 10);
        let mut passed = [0_u64; 3];
        while now_ns < start_ns + seconds * 1_000_000_000 {
            gone.clear();
            port.run(now_ns, &mut gone);
            let sent = port.send(0, draw.next(), size, now_ns);
            passed[sent as usize] += size;
            while fat_ns <= now_ns {
                port.send(1, 7, 1_514, fat_ns);
                fat_ns += fat_gap_ns;
            }
            now_ns += gap_ns;
        }
        let line = bits / 8 * seconds;
        let burst = line / seconds / 20;
        println!(
            "frames of {size}: {} thin, {} fat, line {line}",
            port.thin_bytes, port.fat_bytes
        );
        assert!(port.accepted <= line + burst + 1_514);
        assert!(port.thin_bytes <= line / 2 + burst / 8 + 1_514);
        assert!(port.fat_bytes >= line / 2 - burst, "fat flows starve");
        assert!(port.thin_bytes >= line / 100 * 45, "no thin flow passes");
    }
}
