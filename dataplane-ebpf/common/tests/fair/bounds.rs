//! What one flow may have, what the ceiling lets through, and what is touched.

use crate::{
    draw,
    harness::level,
    port::{At, CELLS, Fate, Line, Port, Rows, TICK_NS, ahead_of, turn},
};
use dataplane_common::{
    fair::{self, Asked, Words as _},
    limiter::Now as _,
    thin::Cells as _,
};

const MILLISECOND: u64 = 1_000_000;
const SIZES: [u64; 5] = [60, 590, 1_514, 9_014, 65_226];

/// Any arrivals of any flows, with packets that another stage refuses: rate · t + burst + one packet.
#[test]
fn the_ceiling_holds_whatever_is_refused_and_given_back() {
    let mut draw = draw("ceiling");
    let rounds = level(20, 200, 2_000);
    for _ in 0..rounds {
        let bits = draw.of(&[100_000, 1_000_000, 100_000_000, 10_000_000_000]);
        let burst_ms = draw.of(&[5, 50, 250]);
        let begun_ns = 1 << (30 + draw.up_to(25));
        let mut port = Port::new(bits, burst_ms, begun_ns);
        let flows = 1 + draw.up_to(200);
        let largest = draw.of(&SIZES);
        let burst = (bits / 8 * burst_ms / 1_000).max(1_514);
        let gap_ns = largest * 8_000_000_000 / bits / (1 + draw.up_to(20)) + 1;
        let (mut now_ns, mut accepted) = (begun_ns, 0);
        for _ in 0..2_000 {
            let most_ns = match draw.up_to(100) {
                0 => 1 << draw.up_to(36),
                _ => 2 * gap_ns,
            };
            now_ns += draw.up_to(most_ns);
            let (flow, bytes) = (draw.up_to(flows), draw.of(&SIZES).min(largest));
            if port.send(flow, bytes, now_ns).passed() {
                if draw.once_in(16) {
                    port.give_back(flow, bytes, now_ns);
                } else {
                    accepted += bytes;
                }
            }
            let line = u128::from(bits) * u128::from(now_ns - begun_ns) / 8_000_000_000;
            assert!(u128::from(accepted) <= line + u128::from(burst + largest) + 2);
        }
    }
    println!("CASES: fair, ceilings: {rounds}");
}

/// While packets are booked a flow has the line's growth, a reach, and one packet.
#[test]
fn a_flow_has_the_lines_growth_a_reach_and_a_packet() {
    let mut draw = draw("a flow");
    let rounds = level(20, 200, 2_000);
    let mut refused = 0;
    for _ in 0..rounds {
        let (horizon_ns, frame_ns) = (1 << (20 + draw.up_to(10)), 1 << draw.up_to(17));
        let (line, rows) = (Line::default(), Rows::new(draw.next() as u32));
        line.store(fair::LINE, draw.next());
        let flow = Port::place(draw.next(), 0);
        let mut now_ns = draw.next() >> 2;
        let asked = |now_ns, packet_ns| Asked {
            now_ns,
            // More than a fourth of it, and not close to the end.
            queue_ns: horizon_ns / 2,
            horizon_ns,
            frame_ns,
            packet_ns,
        };
        // Nothing of what was there before counts: it is long ago.
        assert!(turn(&asked(now_ns, 0), &line, &rows));
        let (from, mut had, mut longest, mut let_off) = (line.load(fair::LINE), 0, 0, 0);
        for _ in 0..1_000 {
            now_ns += draw.up_to(horizon_ns / 8);
            let packet_ns = draw.up_to(4 * frame_ns);
            let asked = asked(now_ns, packet_ns);
            // What others who come let it off.
            let (owed, stood) = (ahead_of(&line, &rows, flow), line.load(fair::LINE));
            turn(&asked, &line, &rows);
            let grown = (line.load(fair::LINE).wrapping_sub(stood)) >> 5;
            let left =
                u64::from(owed).saturating_sub(grown + u64::from(ahead_of(&line, &rows, flow)));
            let_off += left << 5;
            // Others come and go; they hit one of the flow's clocks at most.
            let other = Port::place(draw.up_to(100), 0);
            if other.first != flow.first || other.second != flow.second {
                asked.take(&line, &rows, other);
            }
            if asked.take(&line, &rows, flow) {
                had += packet_ns;
                longest = longest.max(packet_ns);
                let grown = line.load(fair::LINE).wrapping_sub(from);
                let reach = horizon_ns.max(3 * frame_ns);
                assert!(
                    had <= grown + reach + longest + let_off,
                    "{had} of {grown} and {reach}"
                );
            } else {
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "nothing was refused");
    println!("CASES: fair, what one flow may have: {rounds}");
}

#[test]
fn nothing_is_touched_where_nothing_waits() {
    let mut draw = draw("no queue");
    for bits in [1_000_000, 100_000_000, 25_000_000_000] {
        let mut port = Port::new(bits, 50, 1 << 30);
        let mut now_ns = 1 << 30;
        let rounds = level(2_000, 20_000, 200_000);
        for _ in 0..rounds {
            // Half of the ceiling, and never more than an eighth of what may wait.
            now_ns += 2 * 1_514 * 8_000_000_000 / bits + draw.up_to(1_000);
            assert!(port.send(draw.up_to(3), 1_514, now_ns).passed());
        }
        assert_eq!(port.rows.touched.get(), 0);
        assert!(port.line.0.iter().all(|word| word.get() == 0));
    }
    println!("CASES: fair, rates at which nothing is touched: 3");
}

/// Whatever a line says, what has no queue of a fourth passes.
#[test]
fn nobody_is_refused_before_a_fourth_of_the_queue_is_there() {
    let mut draw = draw("a fourth");
    let rows = Rows::new(0);
    for _ in 0..level(1_000, 10_000, 100_000) {
        let line = Line::default();
        line.store(fair::FLOWS, draw.up_to(1_000));
        let horizon_ns = draw.up_to(1 << 40) + 64;
        let asked = Asked {
            now_ns: draw.next(),
            queue_ns: draw.up_to(horizon_ns / 4),
            horizon_ns,
            frame_ns: draw.up_to(1 << 20),
            packet_ns: draw.next(),
        };
        assert!(asked.take(&line, &rows, Port::place(draw.up_to(3), 0)));
    }
    println!("CASES: fair, queues below a fourth: 1");
}

#[test]
fn what_is_refused_or_given_back_is_booked_nowhere() {
    let mut draw = draw("not booked");
    let mut port = Port::new(10_000_000, 50, 1 << 30);
    let mut now_ns = 1 << 30;
    let (mut refused, mut returned) = (0, 0);
    for _ in 0..level(5_000, 50_000, 500_000) {
        now_ns += draw.up_to(1_000_000);
        let (flow, bytes) = (draw.up_to(4), draw.of(&SIZES[..4]));
        // The period ends with a packet, whatever becomes of it.
        let before = (
            port.backlog(now_ns),
            port.line.load(fair::BEGAN),
            port.rows.all(),
        );
        let would = port.would_refuse(flow, bytes, now_ns);
        match port.send(flow, bytes, now_ns) {
            Fate::Unfair => {
                refused += 1;
                assert_eq!(port.backlog(now_ns), before.0);
                if port.line.load(fair::BEGAN) == before.1 {
                    assert!(would, "an uplink is told otherwise");
                    assert_eq!(port.rows.all(), before.2);
                }
            }
            Fate::Leaves(_) => {
                assert!(!would, "an uplink ends what the port takes");
                let booked = port.rows.all() != before.2 && port.line.load(fair::BEGAN) == before.1;
                if booked && draw.once_in(3) {
                    let ahead = port.ahead(flow, now_ns);
                    port.give_back(flow, bytes, now_ns);
                    let units = ((bytes * port.policy.ns_per_unit) >> 25) as u32 + 1;
                    assert_eq!(port.ahead(flow, now_ns), ahead - units);
                    returned += 1;
                }
            }
            Fate::Full => {}
        }
    }
    assert!(refused > 100 && returned > 100, "{refused}, {returned}");
    println!(
        "CASES: fair, packets that were not booked: {}",
        refused + returned
    );
}

/// Days between packets, clocks near their wrap, and whatever an earlier life left.
#[test]
fn clocks_wrap_and_time_jumps() {
    let mut draw = draw("jumps");
    let rounds = level(50, 500, 5_000);
    for _ in 0..rounds {
        let (line, rows) = (Line::default(), Rows::new(0));
        for word in 0..fair::WORDS as u32 {
            line.store(word, draw.next());
        }
        for cell in 0..CELLS {
            rows.store(0, cell, draw.next() as u32);
            rows.store(1, cell, draw.next() as u32);
        }
        let now_ns = draw.next() >> 1;
        line.store(fair::BEGAN, now_ns.wrapping_sub(10_000 * MILLISECOND));
        let asked = Asked {
            now_ns,
            queue_ns: 30 * MILLISECOND,
            horizon_ns: 44 * MILLISECOND,
            frame_ns: 121_000,
            packet_ns: 121_000,
        };
        assert!(turn(&asked, &line, &rows) && !turn(&asked, &line, &rows));
        assert_eq!(line.load(fair::FLOWS), 0);
        let later = Asked {
            now_ns: now_ns + 10_000 * MILLISECOND,
            ..asked
        };
        assert!(turn(&later, &line, &rows));
        assert_eq!(line.load(fair::FLOWS), 0);
        for flow in 0..10 {
            assert!(later.take(&line, &rows, Port::place(flow, 0)));
        }
        assert!(line.load(fair::FLOWS) <= 10);
        // A clock that is behind never comes to be ahead: for an hour of one flow's.
        let lone = Port::place(1_000, 0);
        for step in 1..900 {
            let on = Asked {
                now_ns: later.now_ns + step * 4_000 * MILLISECOND,
                ..later
            };
            turn(&on, &line, &rows);
            assert_eq!(line.load(fair::FLOWS), 0, "after {step}");
        }
        assert!(asked.take(&line, &rows, lone));
    }
    println!("CASES: fair, jumps: {rounds}");
}

#[test]
fn a_packet_longer_than_any_reach_passes_in_its_turn() {
    // 64 kB take half a second, and 5 kB may wait.
    let mut port = Port::new(1_000_000, 50, 1 << 30);
    let mut passed = [0_u64; 2];
    for step in 0..20_000_u64 {
        let now_ns = (1 << 30) + step * MILLISECOND;
        passed[0] += u64::from(port.send(1, 65_226, now_ns).passed()) * 65_226;
        passed[1] += u64::from(port.send(2, 1_514, now_ns).passed()) * 1_514;
    }
    println!(
        "CASES: fair, packets longer than a reach: {}",
        passed[0] / 65_226
    );
    assert!(passed[0] >= 10 * 65_226 && passed.iter().sum::<u64>() >= 2_400_000);
}

/// The coarse clock stands still for a tick: nothing rests on it.
#[test]
fn one_of_many_processors_ends_a_period() {
    let line = Line::default();
    let now_ns = At(1 << 40).coarse_ns();
    let asked = Asked {
        now_ns,
        queue_ns: 10 * TICK_NS,
        horizon_ns: 11 * TICK_NS,
        frame_ns: 121_000,
        packet_ns: 121_000,
    };
    let ended = (0..100).filter(|_| asked.turns(&line)).count();
    assert_eq!(ended, 1);
    println!("CASES: fair, periods that one ends: {ended}");
}
