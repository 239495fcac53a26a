//! The byte contract: a GSO packet is billed as the frames that it becomes.

mod oracle;

use dataplane_common::{
    parse::{Meta, Slice, parse},
    reason::DropReason,
    wire::{self, GSO_BY_FRAGS, Gso, Wire, gso_type},
};
use oracle::{
    compare,
    dice::{self, Dice},
    segments::{Carrier, Recipe, Tunnel},
    shapes::Sample,
};

/// Bytes of the tag that the gate bills beside the data, and of one in the data that it does not
/// bill: the platform's, which is the outermost one.
fn tag_bytes(recipe: &Recipe, platform: bool) -> (u32, u32) {
    match (recipe.tag, platform) {
        (Some(_), true) | (None, false) => (0, 0),
        (Some(_), false) => (4, 0),
        (None, true) => (0, if recipe.tags.is_empty() { 0 } else { 4 }),
    }
}

/// The frames' bytes, added up one by one.
fn naive(recipe: &Recipe, (in_skb, platform): (u32, u32)) -> Wire {
    let l3_offset = 14 + 4 * recipe.tags.len();
    recipe
        .frames()
        .iter()
        .fold(Wire::default(), |sum, frame| Wire {
            packets: sum.packets + 1,
            l2_bytes: sum.l2_bytes + frame.len() as u64 + u64::from(in_skb) - u64::from(platform),
            l3_bytes: sum.l3_bytes + (frame.len() - l3_offset) as u64,
        })
}

/// What the gate bills for the super-packet.
fn billed(recipe: &Recipe, (in_skb, platform): (u32, u32)) -> Result<Wire, DropReason> {
    let sample = recipe.sample();
    let packet = compare::ours(&sample)?;
    let mut gso = recipe.gso();
    if wire::headers_tell(&packet) {
        gso.kind = 0; // the programs do not read it
    }
    wire::wire(sample.bytes.len() as u32, &packet, &gso, in_skb, platform)
}

/// What the gate bills for the frames when they come one by one.
fn billed_singly(recipe: &Recipe, (in_skb, platform): (u32, u32)) -> Result<Wire, DropReason> {
    let mut sum = Wire::default();
    for bytes in recipe.frames() {
        let sample = Sample {
            bytes,
            tag: recipe.tag,
            ..Sample::default()
        };
        let packet = compare::ours(&sample)?;
        let one = wire::wire(
            sample.bytes.len() as u32,
            &packet,
            &Gso::default(),
            in_skb,
            platform,
        )?;
        sum.packets += one.packets;
        sum.l2_bytes += one.l2_bytes;
        sum.l3_bytes += one.l3_bytes;
    }
    Ok(sum)
}

fn check(seed: u64, case: u64) -> Recipe {
    let mut dice = Dice::new(seed, case);
    let big = dice.one_in(10);
    let recipe = Recipe::any(&mut dice, big);
    let tags = tag_bytes(&recipe, dice.one_in(3));
    let naive = naive(&recipe, tags);
    let context = || format!("OCTROI_TEST_SEED={seed}, case {case}: {recipe:?}");
    assert_eq!(billed(&recipe, tags), Ok(naive), "{}", context());
    assert_eq!(
        billed_singly(&recipe, tags),
        Ok(naive),
        "one by one, {}",
        context()
    );
    recipe
}

#[test]
fn a_gso_packet_is_billed_as_the_frames_that_it_becomes() {
    let (seed, cases) = (dice::seed(), dice::cases(2_000, 20_000, 200_000));
    let runs = dice::in_parallel(cases, |run| {
        run.map(|case| check(seed, case)).collect::<Vec<_>>()
    });
    let recipes: Vec<_> = runs.into_iter().flatten().collect();
    for carrier in [Carrier::Tcp, Carrier::Udp, Carrier::Ufo, Carrier::Sctp] {
        for families in [[4, 4], [4, 6], [6, 4], [6, 6]] {
            let met = recipes
                .iter()
                .any(|r| r.carrier == carrier && r.families == families);
            assert!(met, "no {carrier:?} over {families:?}");
        }
    }
    for tunnel in [Tunnel::None, Tunnel::Vxlan, Tunnel::Gre] {
        assert!(
            recipes.iter().any(|recipe| recipe.tunnel == tunnel),
            "no {tunnel:?}"
        );
    }
    assert!(
        recipes.iter().any(|recipe| recipe.jumbo),
        "no BIG TCP with a hop-by-hop header"
    );
    println!("CASES: wire() vs re-segmentation: {cases}");
}

/// An IPv4 frame of `payload` bytes of TCP, UDP or anything else.
fn plain(protocol: u8, payload: usize) -> Vec<u8> {
    let header = oracle::headers::Ipv4 {
        protocol,
        ..Default::default()
    };
    let inner = oracle::headers::Part::zeros(payload);
    let packet = oracle::headers::ipv4(&header, inner);
    oracle::headers::ethernet([2; 6], [4; 6], &[], 0x0800, packet).bytes
}

fn bill(protocol: u8, payload: usize, gso: &Gso) -> Result<Wire, DropReason> {
    let mut frame = plain(protocol, payload);
    if protocol == 6 {
        frame[34 + 12] = 0x50;
    }
    let meta = Meta {
        len: frame.len() as u32,
        gso: gso.size != 0,
        ..Meta::default()
    };
    let packet = parse(&Slice(&frame), &meta)?;
    wire::wire(meta.len, &packet, gso, 0, 0)
}

#[test]
fn a_gso_packet_that_cannot_be_cut_is_refused() {
    let gso = |size, segments, kind, inner_header_end| Gso {
        size,
        segments,
        kind,
        inner_header_end,
    };
    let cases = [
        ("UDP whose kind was not read", 17, gso(100, 9, 0, 0)),
        (
            "a protocol that has no GSO",
            50,
            gso(100, 9, gso_type::UDP_L4, 0),
        ),
        (
            "a tunnel whose inner headers were not found",
            17,
            gso(100, 9, gso_type::UDP_TUNNEL, 0),
        ),
        (
            "inner headers past the packet",
            17,
            gso(100, 9, gso_type::UDP_TUNNEL, 5_000),
        ),
        (
            "inner headers before the outer ones",
            17,
            gso(100, 9, gso_type::UDP_TUNNEL, 14),
        ),
        (
            "a cut by fragments into none",
            6,
            gso(GSO_BY_FRAGS, 0, 0, 0),
        ),
    ];
    for (what, protocol, gso) in cases {
        assert_eq!(
            bill(protocol, 1_000, &gso),
            Err(DropReason::GsoUnknown),
            "{what}"
        );
    }
    assert_eq!(
        bill(6, 20, &gso(100, 1, 0, 0)),
        Err(DropReason::GsoUnknown),
        "no payload"
    );
}

#[test]
fn the_number_of_segments_is_never_the_guests_own() {
    let honest = bill(
        6,
        1_020,
        &Gso {
            size: 100,
            segments: 10,
            ..Gso::default()
        },
    );
    for claimed in [0, 1, 65_535] {
        assert_eq!(
            bill(
                6,
                1_020,
                &Gso {
                    size: 100,
                    segments: claimed,
                    ..Gso::default()
                }
            ),
            honest
        );
    }
    assert_eq!(honest.map(|wire| wire.packets), Ok(10));
}

#[test]
fn ethernet_padding_is_billed_and_is_no_ip_byte() {
    let mut frame = plain(1, 8);
    frame.resize(60, 0);
    let packet = parse(
        &Slice(&frame),
        &Meta {
            len: 60,
            ..Meta::default()
        },
    );
    let bill = packet.and_then(|packet| wire::wire(60, &packet, &Gso::default(), 0, 0));
    assert_eq!(
        bill,
        Ok(Wire {
            packets: 1,
            l2_bytes: 60,
            l3_bytes: 28
        })
    );
}
