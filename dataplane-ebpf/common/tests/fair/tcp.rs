//! Senders that look at losses, as TCP does: windows that grow until something is lost, SACK with RACK (RFC 8985), tail loss
//! probes and timers of Linux' length. A model, not TCP: docs/ISOLATION.md has the real one.

use crate::{
    draw,
    harness::{Draw, jain},
    port::{Fate, Port},
};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

const MILLISECOND: u64 = 1_000_000;
/// Way there and back without a queue.
const PATH_NS: u64 = 50_000;
const SEGMENT: u64 = 1_514;
/// Linux' least timer, and a tick.
const TIMER_NS: u64 = 204 * MILLISECOND;
/// A probe's allowance, two ticks of Linux.
const PROBE_NS: u64 = 4 * MILLISECOND;
/// CUBIC's factor where something was lost, and what a window grows by in a round trip, about (RFC 9438, 4.3).
const SHRINKS: f64 = 0.7;
const GROWS: f64 = 0.7;
const BEGUN_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Segment {
    sent_ns: u64,
    answered: bool,
    lost: bool,
}

#[derive(Clone, Debug)]
struct Flow {
    key: u64,
    /// Number of the first segment in `flying`.
    first: u64,
    flying: VecDeque<Segment>,
    window: f64,
    slow_start: f64,
    /// Losses before this segment are one event.
    recovers: Option<u64>,
    round_trip_ns: u64,
    timer_ns: u64,
    probe_ns: u64,
    backoff: u32,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// It begins.
    Go,
    /// An answer to so many segments from one on.
    Answer {
        first: u64,
        count: u64,
        sent_ns: u64,
    },
    /// A timer may have run out.
    Timer,
    /// A datagram of the sender that looks at nothing.
    Datagram,
}

type Events = BinaryHeap<Reverse<(u64, usize, Event)>>;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub bytes: Vec<u64>,
    pub datagrams: u64,
    pub timers: u64,
}

/// Who sends at a port.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    pub flows: usize,
    /// Bits a second of datagrams beside them.
    pub udp: u64,
    /// Segments that one GSO packet has at most.
    pub at_once: u64,
}

impl Flow {
    fn new(key: u64) -> Self {
        Self {
            key,
            first: 0,
            flying: VecDeque::new(),
            window: 10.0,
            slow_start: f64::INFINITY,
            recovers: None,
            round_trip_ns: PATH_NS,
            timer_ns: u64::MAX,
            probe_ns: u64::MAX,
            backoff: 0,
            bytes: 0,
        }
    }

    fn under_way(&self) -> u64 {
        let flying = self.flying.iter();
        flying.filter(|one| !one.answered && !one.lost).count() as u64
    }

    fn end(&self) -> u64 {
        self.first + self.flying.len() as u64
    }

    fn shrinks(&mut self) {
        self.slow_start = (self.window * SHRINKS).max(2.0);
        self.recovers = Some(self.end());
    }

    /// Segments that it had not been told of.
    fn answered(&mut self, (first, count, sent_ns): (u64, u64, u64), now_ns: u64) -> u64 {
        let mut new = 0;
        for number in first.max(self.first)..(first + count).min(self.end()) {
            let one = &mut self.flying[(number - self.first) as usize];
            new += u64::from(!one.answered);
            (one.answered, one.lost) = (true, false);
        }
        if new == 0 {
            return 0;
        }
        self.backoff = 0;
        let round_trip_ns = now_ns - sent_ns;
        self.round_trip_ns = self.round_trip_ns / 8 * 7 + round_trip_ns / 8;
        while self.flying.front().is_some_and(|one| one.answered) {
            self.flying.pop_front();
            self.first += 1;
        }
        // What was sent before what has arrived is lost.
        let mut lost = false;
        for one in &mut self.flying {
            if !one.answered && !one.lost && one.sent_ns < sent_ns {
                (one.lost, lost) = (true, true);
            }
        }
        if self.recovers.is_some_and(|until| self.first >= until) {
            self.recovers = None;
        }
        if self.recovers.is_none() {
            if lost {
                self.shrinks();
                self.window = self.slow_start;
            } else if self.window < self.slow_start {
                self.window += new as f64;
            } else {
                self.window += new as f64 * GROWS / self.window;
            }
        }
        self.sets_timers(now_ns);
        new
    }

    fn sets_timers(&mut self, now_ns: u64) {
        self.timer_ns = now_ns + ((self.round_trip_ns + TIMER_NS) << self.backoff.min(8));
        // With one segment under way a probe waits as long as the timer.
        self.probe_ns = if self.flying.len() > 1 && self.backoff == 0 {
            now_ns + 2 * self.round_trip_ns + PROBE_NS
        } else {
            u64::MAX
        };
    }

    /// The timer ran out: all is lost.
    fn runs_out(&mut self, now_ns: u64) {
        for one in &mut self.flying {
            one.lost = !one.answered;
        }
        self.shrinks();
        self.window = 1.0;
        self.backoff += 1;
        self.sets_timers(now_ns);
    }

    /// Sends `count` segments from number `first` on as one packet.
    fn sends(
        &self,
        port: &mut Port,
        events: &mut Events,
        at: usize,
        sent: (u64, u64),
        now_ns: u64,
    ) {
        let (first, count) = sent;
        if let Fate::Leaves(departs_ns) = port.send(self.key, count * SEGMENT, now_ns) {
            let answer = Event::Answer {
                first,
                count,
                sent_ns: now_ns,
            };
            events.push(Reverse((departs_ns + PATH_NS, at, answer)));
        }
    }

    /// Sends what the window allows: what was lost first.
    fn fills(&mut self, port: &mut Port, events: &mut Events, at: usize, most: u64, now_ns: u64) {
        let mut under_way = self.under_way();
        let mut sent = false;
        for index in 0..self.flying.len() {
            if under_way as f64 + 1.0 > self.window {
                break;
            }
            if self.flying[index].lost {
                self.flying[index].lost = false;
                self.flying[index].sent_ns = now_ns;
                under_way += 1;
                sent = true;
                self.sends(port, events, at, (self.first + index as u64, 1), now_ns);
            }
        }
        while under_way as f64 + 1.0 <= self.window {
            let count = (self.window as u64 - under_way).min(most);
            let first = self.end();
            for _ in 0..count {
                self.flying.push_back(Segment {
                    sent_ns: now_ns,
                    answered: false,
                    lost: false,
                });
            }
            under_way += count;
            sent = true;
            self.sends(port, events, at, (first, count), now_ns);
        }
        if sent {
            self.sets_timers(now_ns);
        }
        for due_ns in [self.timer_ns, self.probe_ns] {
            if due_ns != u64::MAX && due_ns > now_ns {
                events.push(Reverse((due_ns, at, Event::Timer)));
            }
        }
    }
}

/// Runs a crowd, and measures from the second to the fourth second.
pub fn run(port: &mut Port, draw: &mut Draw, crowd: Crowd) -> Outcome {
    const DATAGRAM: u64 = 1_442;
    let base = draw.next();
    let keys = (0..crowd.flows as u64).map(|number| base.wrapping_add(number));
    let mut flows: Vec<Flow> = keys.map(Flow::new).collect();
    let mut events = Events::new();
    for at in 0..flows.len() {
        events.push(Reverse((BEGUN_NS + 2_000 * at as u64, at, Event::Go)));
    }
    if crowd.udp != 0 {
        events.push(Reverse((BEGUN_NS, 0, Event::Datagram)));
    }
    let mut outcome = Outcome::default();
    while let Some(Reverse((now_ns, at, event))) = events.pop() {
        if now_ns >= BEGUN_NS + 4_000 * MILLISECOND {
            break;
        }
        let measured = u64::from(now_ns >= BEGUN_NS + 2_000 * MILLISECOND);
        if event == Event::Datagram {
            let passed = port.send(base.wrapping_sub(1), DATAGRAM, now_ns).passed();
            outcome.datagrams += measured * DATAGRAM * u64::from(passed);
            let gap_ns = DATAGRAM * 8_000_000_000 / crowd.udp;
            events.push(Reverse((now_ns + gap_ns, 0, Event::Datagram)));
            continue;
        }
        let flow = &mut flows[at];
        match event {
            Event::Answer {
                first,
                count,
                sent_ns,
            } => {
                let new = flow.answered((first, count, sent_ns), now_ns);
                flow.bytes += measured * new * SEGMENT;
            }
            Event::Timer if flow.flying.is_empty() => continue,
            Event::Timer if now_ns >= flow.timer_ns => {
                flow.runs_out(now_ns);
                outcome.timers += measured;
            }
            Event::Timer if now_ns >= flow.probe_ns => {
                flow.probe_ns = u64::MAX;
                let last = flow.end() - 1;
                flow.sends(port, &mut events, at, (last, 1), now_ns);
                if let Some(one) = flow.flying.back_mut() {
                    (one.sent_ns, one.lost) = (now_ns, false);
                }
                events.push(Reverse((flow.timer_ns, at, Event::Timer)));
                continue;
            }
            Event::Timer => continue,
            Event::Go | Event::Datagram => {}
        }
        flows[at].fills(port, &mut events, at, crowd.at_once, now_ns);
    }
    outcome.bytes = flows.iter().map(|flow| flow.bytes).collect();
    outcome
}

/// A case: bits a second, whether fat packets wait, flows, and percent of the ceiling that datagrams ask for beside them.
#[derive(Clone, Copy, Debug)]
struct Case {
    bits: u64,
    waits: bool,
    flows: usize,
    udp_percent: u64,
}

impl Case {
    fn run(self, draw: &mut Draw, fair: bool) -> Outcome {
        let burst_ms = if self.waits { 50 } else { 250 };
        let mut port = Port::that_waits(self.bits, burst_ms, BEGUN_NS, self.waits);
        port.fair = fair;
        let crowd = Crowd {
            flows: self.flows,
            udp: self.bits / 100 * self.udp_percent,
            at_once: if self.bits > 500_000_000 { 10 } else { 2 },
        };
        let outcome = run(&mut port, draw, crowd);
        println!(
            "CASES: fair tcp, {self:?}, fair {fair}: Jain {:.3}, TCP {:.1} %, UDP {:.1} %, {} timers, refused {:?}",
            jain(&outcome.bytes),
            self.percent(outcome.bytes.iter().sum()),
            self.percent(outcome.datagrams),
            outcome.timers,
            port.refused
        );
        outcome
    }

    /// Of what the ceiling lets through in the two seconds.
    fn percent(self, bytes: u64) -> f64 {
        bytes as f64 * 400.0 / self.bits as f64
    }
}

fn case(bits: u64, waits: bool, flows: usize, udp_percent: u64) -> Case {
    Case {
        bits,
        waits,
        flows,
        udp_percent,
    }
}

#[test]
fn flows_have_equal_parts_where_they_wait_and_where_they_are_refused() {
    let mut draw = draw("equal flows");
    for waits in [true, false] {
        for flows in [2, 4, 16, 64, 128] {
            let case = case(100_000_000, waits, flows, 0);
            let (before, after) = (case.run(&mut draw, false), case.run(&mut draw, true));
            // A policer's flows all wait for the same timers: what one cannot take then is lost to it.
            assert!(jain(&after.bytes) >= if waits { 0.98 } else { 0.90 });
            assert!(case.percent(after.bytes.iter().sum()) >= 97.0);
            // A policer's flows wait for a timer between two bursts, in any case: all of them have their turn.
            assert!(!waits || after.timers <= before.timers.max(20));
        }
    }
}

#[test]
fn a_flow_alone_has_all_of_it() {
    let mut draw = draw("alone");
    for bits in [10_000_000, 100_000_000, 1_000_000_000] {
        for waits in [true, false] {
            let case = case(bits, waits, 1, 0);
            let used = |outcome: Outcome| case.percent(outcome.bytes[0]);
            let (before, after) = (
                used(case.run(&mut draw, false)),
                used(case.run(&mut draw, true)),
            );
            // A policer's burst is hardly longer than a timer.
            let least = if waits { 97.0 } else { 0.9 * before.min(100.0) };
            assert!(after >= least, "{after} of {before}");
        }
    }
}

#[test]
fn flows_have_their_parts_beside_what_looks_at_nothing() {
    let mut draw = draw("beside UDP");
    for bits in [100_000_000, 1_000_000_000] {
        for waits in [true, false] {
            for (flows, least) in [(1, if waits { 45.0 } else { 25.0 }), (10, 80.0), (64, 90.0)] {
                let case = case(bits, waits, flows, 200);
                let before = case.run(&mut draw, false);
                let after = case.run(&mut draw, true);
                let tcp = case.percent(after.bytes.iter().sum());
                assert!(tcp >= least, "{tcp}");
                assert!(before.bytes.iter().sum::<u64>() < after.bytes.iter().sum());
            }
        }
    }
}
