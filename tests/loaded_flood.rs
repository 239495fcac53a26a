//! Floods at an uplink, in the loaded program: whose a frame is, when it ends, and what is booked, against the same law on the
//! host. And that no flood is booked behind a cut.

mod fixtures;
#[path = "loaded/flood_cut.rs"]
mod flood_cut;
#[path = "loaded/kernel.rs"]
mod kernel;
mod oracle;
#[allow(dead_code, reason = "written for tests/loaded.rs")]
#[path = "loaded/place.rs"]
mod place;

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{Array, MapData, lpm_trie::Key},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use dataplane::{
    attach,
    maps::{Maps, Raw},
};
use dataplane_common::{
    abi::{
        AddressKey, Epoch, LimitPolicy, MacKey, Sizes, TO_TENANT,
        share::{ShareClocks, SharePolicy, share_clocks_index, share_index},
    },
    flood::{self, BYTES, NOBODY, PACKETS, SURPLUS_CLOCKS, TENANT, WHOSE},
    limit::{Rate, Times},
    limiter::At,
    parse::{Network, Packet},
    reason::{DropReason, REASONS_MAX},
    thin::{Cells, Limit, Place},
    units::{BitsPerSecond, PacketsPerSecond},
};
use fixtures::ports::{self, Interfaces, slot};
use kernel::Kernel;
use oracle::{
    compare,
    dice::{self, Dice},
    host::{Prefix, mac_number},
    mutate, people,
};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

const EPOCH: Epoch = Epoch::new(5, 3);
/// The account of the tenant that has a ceiling at its share.
const ACCOUNT: u32 = 3;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

fn now_ns() -> u64 {
    dataplane::host::clock_ns(libc::CLOCK_MONOTONIC)
}

/// No flow has a clock of its own here; all thin ones together have.
struct NoFlows;

impl Cells for NoFlows {
    fn load(&self, _: u32, _: u32) -> u32 {
        0
    }

    fn store(&self, _: u32, _: u32, _: u32) {}
}

/// Whose MACs and addresses are, by the port's slot.
fn macs() -> Vec<([u8; 6], u32)> {
    vec![
        (people::OWN, slot::PLAIN),
        (people::OWN_SECOND, slot::PLAIN),
        (people::OWN_LISTED, slot::LISTED),
        (people::VRRP, NOBODY),
        (people::NEIGHBOUR, slot::INACTIVE),
    ]
}

fn prefixes() -> Vec<(Prefix, u32)> {
    vec![
        (Prefix::v4(people::OWN4, 32), slot::PLAIN),
        (Prefix::v4([10, 1, 64, 0], 20), slot::PLAIN),
        (Prefix::v4([172, 16, 9, 0], 24), slot::LISTED),
        (Prefix::v4(people::NEIGHBOUR4, 32), NOBODY),
        (Prefix::v4([10, 1, 0, 0], 24), slot::LISTED),
        (Prefix::v6(people::OWN6, 128), slot::PLAIN),
    ]
}

fn write_owners(maps: &mut Maps, set: u32) -> Result<()> {
    for (mac, owner) in macs() {
        let key = MacKey {
            mac: mac_number(mac),
            slot: WHOSE,
            policy_set: set,
        };
        maps.macs.insert(Raw(key), owner, 0)?;
    }
    for (prefix, owner) in prefixes() {
        let key = AddressKey {
            slot: WHOSE,
            policy_set: set as u8,
            family: prefix.family,
            reserved: [0; 2],
            address: prefix.words(),
        };
        let key = Key::new(AddressKey::PREFIX_BITS + prefix.len, Raw(key));
        maps.addresses.insert(&key, owner, 0)?;
    }
    Ok(())
}

/// The same on the host: the MAC, else the longest prefix.
fn whose(packet: &Packet) -> Option<u32> {
    if packet.to_group() {
        return None;
    }
    let known = macs();
    let by_mac = known
        .iter()
        .find(|(mac, _)| mac_number(*mac) == packet.dst_mac);
    let owner = by_mac.map(|(_, owner)| *owner).or_else(|| {
        let family = match packet.network {
            Network::Ipv4 => 4,
            Network::Ipv6 => 6,
            _ => return None,
        };
        let number = |words: [u32; 4]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            u128::from_be_bytes(bytes.try_into().expect("16 bytes"))
        };
        let holds = |prefix: &Prefix| {
            let past = u128::MAX.checked_shr(prefix.len).unwrap_or(0);
            prefix.family == family && (number(prefix.words()) ^ number(packet.dst)) & !past == 0
        };
        let all = prefixes();
        let longest = all.iter().filter(|(prefix, _)| holds(prefix));
        longest
            .max_by_key(|(prefix, _)| prefix.len)
            .map(|(_, owner)| *owner)
    })?;
    (owner != NOBODY).then_some(owner)
}

/// What ports and their tenant's share stand at: a limit, or none, and how far its clock and its surplus are ahead.
#[derive(Clone, Copy, Debug, Default)]
struct Stand {
    /// Bytes, packets, the tenant's ceiling.
    limits: [Option<(u64, u64)>; 3],
    /// All flows are fat.
    fat: bool,
}

/// So slow that nothing moves while a frame is judged, and so that a byte would be far too dear for a thin flow: 1 Gbit/s is what
/// classes are told by.
fn limit(unit: usize, now_ns: u64) -> LimitPolicy {
    let (rate, burst) = match unit {
        1 => (Rate::packets(PacketsPerSecond(1)), 1_000),
        _ => (Rate::bytes(BitsPerSecond(1)), 100_000),
    };
    let times = Times {
        now_ns,
        switch_ns: now_ns,
        coarse_slack_ns: 0,
    };
    LimitPolicy {
        ns_per_unit: 8 << 20,
        ..LimitPolicy::begin(rate, burst, 0, &times)
    }
}

fn draw_stand(dice: &mut Dice) -> Stand {
    let mut one = |unit: usize| {
        let horizon = limit(unit, 0).horizon;
        let fat = limit(unit, 0).horizon_fat();
        let clock = dice.pick(&[
            0,
            fat - 5,
            fat + 5,
            fat + 5,
            horizon - 5,
            horizon + 5,
            horizon + 5,
        ]);
        let surplus = dice.pick(&[0, horizon - 5, horizon + 5, horizon + 5]);
        (dice.below(3) != 0).then_some((clock, surplus))
    };
    Stand {
        limits: [one(0), one(1), one(2)],
        fat: dice.below(4) != 0,
    }
}

/// Puts both ports where `stand` says.
fn put(
    (kernel, surplus): (&mut Kernel, &mut Array<&mut MapData, u64>),
    gate: &oracle::host::Gate,
    stand: &Stand,
    now_ns: u64,
) -> Result<()> {
    let sizes: Sizes = gate.sizes;
    for number in [slot::PLAIN, slot::LISTED] {
        let mut policy = gate.ports.get(&number).context("no such port")?.policy;
        let of = |unit: usize| match stand.limits[unit] {
            Some(_) => limit(unit, now_ns),
            None => LimitPolicy::default(),
        };
        policy.set_limits(TO_TENANT, [of(0), of(1)]);
        policy.share = stand.limits[2].map_or(0, |_| 1 + ACCOUNT);
        let at = sizes.port(EPOCH.policy_set(), number);
        kernel.maps.ports.set(at, policy)?;
        for unit in 0..3 {
            let (clock, ahead) = stand.limits[unit].unwrap_or_default();
            if unit < 2 {
                let at = sizes.clock(number, TO_TENANT, unit as u32);
                kernel.maps.clocks.set(at, clock, 0)?;
            }
            surplus.set(number * SURPLUS_CLOCKS + unit as u32, ahead, 0)?;
        }
        let at = sizes.clock(number, TO_TENANT, Sizes::THIN);
        let together = if stand.fat {
            (now_ns << 4) + (1 << 50)
        } else {
            0
        };
        kernel.maps.clocks.set(at, together, 0)?;
    }
    if let Some((clock, _)) = stand.limits[2] {
        let policy = SharePolicy {
            ceiling: limit(2, now_ns),
            weight: 1,
            ..SharePolicy::default()
        };
        let at = share_index(sizes.slots, EPOCH.policy_set(), ACCOUNT, TO_TENANT);
        kernel.maps.shares.set(at, policy)?;
        let clocks = ShareClocks {
            ceiling: clock,
            ..ShareClocks::default()
        };
        let at = share_clocks_index(ACCOUNT, TO_TENANT);
        kernel.maps.share_clocks.set(at, clocks)?;
    }
    Ok(())
}

/// What becomes of a frame of `len` bytes for a port, and what its surplus stands at afterwards, by the host's build.
fn judge(packet: &Packet, len: u64, stand: &Stand, now_ns: u64) -> (Option<DropReason>, [u64; 3]) {
    let now = At(now_ns);
    let surplus = [0, 1, 2].map(|unit| AtomicU64::new(stand.limits[unit].unwrap_or_default().1));
    let after = || [0, 1, 2].map(|unit: usize| surplus[unit].load(Relaxed));
    let classes = stand.limits[0].is_some();
    let together = AtomicU64::new(if stand.fat {
        (now_ns << 4) + (1 << 50)
    } else {
        0
    });
    let thin = || {
        packet.finds_neighbours()
            || Limit::new(now_ns, 8 << 20).would_be_thin(
                &NoFlows,
                &&together,
                Place::default(),
                len,
            )
    };
    for (unit, at, units, reason) in [
        (1, PACKETS, 1, DropReason::FloodPackets),
        (0, BYTES, len, DropReason::FloodBytes),
        (2, TENANT, len, DropReason::FloodBytes),
    ] {
        let Some((clock, _)) = stand.limits[unit] else {
            continue;
        };
        let limit = limit(unit, now_ns);
        let has_classes = classes || unit == 2;
        let horizon = flood::horizon(&limit, has_classes);
        if !limit.refuses(&&AtomicU64::new(clock), &now, horizon) {
            continue;
        }
        // A source that says that it is on this host is not asked for the share.
        let local = packet.network == Network::Ipv4
            && packet.src[0] == u32::from_ne_bytes(people::NEIGHBOUR4);
        if unit == 2 && local {
            continue;
        }
        let ends =
            !(has_classes && thin()) && flood::ends(&limit, &&surplus[at as usize], &now, units);
        return (ends.then_some(reason), after());
    }
    (None, after())
}

#[test]
fn the_loaded_uplink_ends_what_the_host_build_ends_and_books_it_on_the_port() -> Result<()> {
    const TEST: &str = "the_loaded_uplink_ends_what_the_host_build_ends_and_books_it_on_the_port";
    if !place::can_run(TEST) {
        return Ok(());
    }
    let (seed, cases) = (dice::seed(), dice::cases(5_000, 30_000, 500_000));
    let mut seen = BTreeMap::<&str, u64>::new();
    place::alone(|| {
        let mut gate = ports::gate(&Interfaces::ON_PAPER);
        gate.blessed.clear();
        gate.trusted.clear();
        let mut kernel = Kernel::load(gate.clone(), EPOCH, attach::mechanism())?;
        for name in ["uplink", "uplink_frags"] {
            let program: &mut Xdp = kernel.object.program_mut(name).context(name)?.try_into()?;
            program.load()?;
        }
        write_owners(&mut kernel.maps, EPOCH.policy_set())?;
        let mut surplus = kernel.object.take_map("SURPLUS").context("no SURPLUS")?;
        let mut surplus: Array<&mut MapData, u64> = (&mut surplus).try_into()?;
        let mut drops = BTreeMap::<u32, Vec<[u64; 2]>>::new();
        let mut run = 0;
        for case in 0.. {
            if run == cases {
                break;
            }
            let mut dice = Dice::new(seed, case);
            let Some(mut sample) = mutate::for_xdp(&mut dice) else {
                continue;
            };
            if dice.below(2) == 0 {
                sample.bytes[..6].copy_from_slice(&dice.pick(&people::MACS));
            }
            let Ok(packet) = compare::ours(&sample) else {
                continue;
            };
            run += 1;
            let stand = draw_stand(&mut dice);
            let now = now_ns();
            put((&mut kernel, &mut surplus), &gate, &stand, now)?;
            let owner = whose(&packet).filter(|owner| *owner != slot::INACTIVE);
            let len = sample.bytes.len() as u64;
            let (reason, after) = match owner {
                Some(_) => judge(&packet, len, &stand, now),
                None => (
                    None,
                    [0, 1, 2].map(|unit| stand.limits[unit].unwrap_or_default().1),
                ),
            };
            let name = dice.pick(&["uplink", "uplink_frags"]);
            let program: &mut Xdp = kernel.object.program_mut(name).context(name)?.try_into()?;
            let options = TestRunOptions {
                data_in: Some(&sample.bytes),
                ..TestRunOptions::default()
            };
            let returned = program.test_run(options)?.return_value;
            let context = || {
                format!(
                    "OCTROI_TEST_SEED={seed}, case {case}: {stand:?}, for slot {owner:?}: {}",
                    compare::describe(&sample)
                )
            };
            let expected = if reason.is_some() { XDP_DROP } else { XDP_PASS };
            ensure!(
                returned == expected,
                "{}: {returned}, not {reason:?}",
                context()
            );
            if let (Some(owner), Some(reason)) = (owner, reason) {
                let book = drops
                    .entry(owner)
                    .or_insert_with(|| vec![[0; 2]; REASONS_MAX]);
                book[reason as usize][0] += 1;
                book[reason as usize][1] += len;
            }
            *seen
                .entry(reason.map_or("passes", DropReason::name))
                .or_default() += 1;
            for number in [slot::PLAIN, slot::LISTED] {
                let stands =
                    [0, 1, 2].map(|unit| surplus.get(&(number * SURPLUS_CLOCKS + unit), 0));
                let [a, b, c] = stands;
                let expected = match Some(number) == owner {
                    true => after,
                    false => [0, 1, 2].map(|unit| stand.limits[unit].unwrap_or_default().1),
                };
                ensure!(
                    [a?, b?, c?] == expected,
                    "{}: the surplus of {number}, not {expected:?}",
                    context()
                );
                if case % 16 == 0 || reason.is_some() {
                    let [from, to] = kernel.booked(EPOCH.bank(), number)?;
                    let zero = vec![[0; 2]; REASONS_MAX];
                    let wanted = drops.get(&number).unwrap_or(&zero);
                    let found: Vec<[u64; 2]> = to
                        .drops
                        .iter()
                        .map(|one| [one.packets, one.l2_bytes])
                        .collect();
                    ensure!(found == *wanted, "{}: registers of {number}", context());
                    ensure!(
                        to.skbs == Default::default() && from.skbs == Default::default(),
                        "{}: no skb was there",
                        context()
                    );
                }
            }
        }
        Ok(())
    })?;
    println!("CASES: loaded uplink vs the host's law of floods, test run: {cases} ({seen:?})");
    for name in ["passes", "flood_bytes", "flood_packets"] {
        let count = seen.get(name).copied().unwrap_or_default();
        ensure!(count > cases / 50, "only {count} of {cases}: {name}");
    }
    Ok(())
}
