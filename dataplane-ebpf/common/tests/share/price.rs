//! A price of a packet at a share: who sends small packets pays for each as much as who sends large ones.

use crate::{draw, fill::Want, hostile::Queue, level, world::World};
use dataplane_common::{limit::PRICE_MAX, share::Paid};

const MILLISECOND: u64 = 1_000_000;
const CAPACITY: u64 = 1_000_000_000;

const fn want(guarantee: u64, weight: u64, demand: u64) -> Want {
    Want {
        guarantee,
        ceiling: u64::MAX,
        weight,
        demand,
    }
}

/// Packets, and priced bytes, of each tenant in `time_ns`.
fn seen(world: &mut World, price: u64, time_ns: u64) -> Vec<[u64; 2]> {
    let mut sums = vec![[0; 2]; world.tenants.len()];
    world.run(time_ns, |_, at, bytes, decided| {
        if decided.is_ok() {
            sums[at][0] += 1;
            sums[at][1] += bytes + price;
        }
    });
    sums
}

#[test]
fn equal_tenants_have_equal_priced_bytes_whatever_they_send() {
    let mut cases = 0;
    for queued in [false, true] {
        for price in [0, 200, 1_500, 8_000] {
            // The flood asks for ten times what there is, the others for twice as much.
            let sizes = [60, 1_514, 1_514, 65_000];
            let each = |size: u64| {
                let packets = CAPACITY / 8 / (size + u64::from(price));
                want(0, 1, packets * size * 8 * if size == 60 { 10 } else { 2 })
            };
            let wants = sizes.map(each);
            let draw = draw("price");
            let mut world = World::priced(CAPACITY, &wants, &sizes, draw, (queued, price));
            world.run(400 * MILLISECOND, |_, _, _, _| {});
            let bins = level(1, 3, 30);
            let time_ns = bins * 400 * MILLISECOND;
            let had = seen(&mut world, price.into(), time_ns);
            let total: u64 = had.iter().map(|[_, bytes]| bytes).sum();
            let law = CAPACITY / 8 * (time_ns / MILLISECOND) / 1_000;
            assert!(
                total * 100 >= law * 97 && total * 100 <= law * 103,
                "{total} of {law} priced bytes, queued {queued}, price {price}"
            );
            for (size, [packets, bytes]) in sizes.iter().zip(&had) {
                assert!(
                    bytes.abs_diff(law / 4) * 100 <= law / 4 * 6 + 100 * 4 * 65_000,
                    "{packets} packets of {size} bytes are {bytes} priced ones of {}, queued {queued}, price {price}",
                    law / 4
                );
            }
            cases += 1;
        }
    }
    println!("CASES: share price: {cases}");
}

#[test]
fn a_guarantee_is_there_in_priced_bytes_beside_a_flood() {
    for price in [0, 1_500, PRICE_MAX] {
        let own = 200_000_000;
        let each = 1_514 + u64::from(price);
        // The friend sends nine tenths of its guarantee, priced, in packets of 1,325 bytes in the middle; the foe floods.
        let friend = want(own, 1, own / each * 1_325 / 10 * 9);
        let foe = want(0, 10_000, 500_000_000);
        let mut world = World::priced(
            CAPACITY,
            &[friend, foe],
            &[1_514, 60],
            draw("priced guarantee"),
            (false, price),
        );
        world.run(100 * MILLISECOND, |_, _, _, _| {});
        let (mut refused, mut guaranteed) = (0, 0);
        world.run(level(100, 300, 3_000) * MILLISECOND, |_, at, _, decided| {
            if at == 0 {
                refused += u64::from(decided.is_err());
                guaranteed += u64::from(decided.is_ok_and(|taken| taken.paid == Paid::Guarantee));
            }
        });
        assert!(
            refused == 0 && guaranteed > 20,
            "{refused} refused, {guaranteed} by the guarantee at price {price}"
        );
    }
}

#[test]
fn the_link_is_ahead_by_its_bound_of_priced_bytes() {
    let price = 4_000;
    let sizes = [60, 1_514];
    let wants = [want(0, 1, 2_000_000_000), want(0, 3, 2_000_000_000)];
    let mut world = World::priced(
        CAPACITY,
        &wants,
        &sizes,
        draw("priced link"),
        (false, price),
    );
    world.run(100 * MILLISECOND, |_, _, _, _| {});
    let period = world.uplink.carries(world.uplink.period_ns);
    let mut link = Queue::new(CAPACITY, world.now_ns);
    // α is behind what they ask for, most of the time.
    for bin in 0..level(30, 100, 1_000) {
        for (at, every) in [(0, 2), (1, 3)] {
            let bits = if bin % every == 0 { 2_000_000_000 } else { 0 };
            world.demand(at, bits);
        }
        world.run(10 * MILLISECOND, |world, _, bytes, decided| {
            if decided.is_ok() {
                link.put(world.now_ns, bytes + u64::from(price));
            }
        });
    }
    let bound = world.uplink.stop + period + 1_514 + u64::from(price);
    assert!(
        link.most <= bound && link.most > 10 * 5_514,
        "{} priced bytes ahead of the link, {bound} may be",
        link.most
    );
}
