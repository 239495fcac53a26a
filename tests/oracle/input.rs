//! A frame and its surroundings as one run of bytes: what the fuzzer throws, and what its corpus keeps.

use super::{compare, dice::Dice, host::Gate, host::Verdict, host::Way, shapes::Sample};
use dataplane_common::{
    abi::{FROM_TENANT, TO_TENANT},
    wire::Gso,
};

/// Bytes in front of the frame: flags, TCI, GSO size, claimed segments, GSO kind, inner header end.
const PREFIX: usize = 1 + 2 + 2 + 2 + 4 + 2;

/// Flag: a tag sits beside the data.
const TAGGED: u8 = 1;

/// Reads an input; `None` when it is too short for the prefix.
pub fn decode(input: &[u8]) -> Option<(Sample, Gso)> {
    let (prefix, frame) = input.split_at_checked(PREFIX)?;
    let word = |at: usize| u16::from_be_bytes([prefix[at], prefix[at + 1]]);
    let gso_size = word(3);
    let sample = Sample {
        bytes: frame.to_vec(),
        marks: Vec::new(),
        tag: (prefix[0] & TAGGED != 0).then_some(word(1)),
        gso_size,
    };
    let gso = match gso_size {
        0 => Gso::default(),
        size => Gso {
            size: size.into(),
            segments: word(5).into(),
            kind: u32::from(word(7)) << 16 | u32::from(word(9)),
            inner_header_end: word(11).into(),
        },
    };
    Some((sample, gso))
}

/// Writes an input.
pub fn encode(sample: &Sample, gso: &Gso) -> Vec<u8> {
    let mut input = vec![u8::from(sample.tag.is_some()) * TAGGED];
    input.extend_from_slice(&sample.tag.unwrap_or(0).to_be_bytes());
    input.extend_from_slice(&sample.gso_size.to_be_bytes());
    input.extend_from_slice(&(gso.segments as u16).to_be_bytes());
    input.extend_from_slice(&gso.kind.to_be_bytes());
    input.extend_from_slice(&(gso.inner_header_end as u16).to_be_bytes());
    input.extend_from_slice(&sample.bytes);
    input
}

/// Puts an input through the parser, the reader and the whole gate, in every port and direction.
///
/// # Panics
/// When the parser disagrees with the reader, or a booked packet makes no sense. What panics in the
/// gate itself is what the fuzzer looks for.
pub fn exercise(gate: &Gate, input: &[u8]) {
    let Some((sample, gso)) = decode(input) else {
        return;
    };
    if let Err(text) = compare::agree(&sample) {
        panic!("{text}");
    }
    let interfaces: Vec<u32> = gate.bindings.keys().map(|(ifindex, _)| *ifindex).collect();
    for ifindex in interfaces {
        for direction in [FROM_TENANT, TO_TENANT] {
            let way = Way {
                direction,
                ifindex,
                ingress_ifindex: 0,
                gso,
            };
            if let Verdict::Delivered { zone, wire } = gate.judge(&sample, &way).verdict {
                assert!(zone < gate.sizes.zones, "zone {zone}");
                assert!(
                    wire.packets >= 1 && wire.l2_bytes >= wire.l3_bytes,
                    "{wire:?}"
                );
                let len = sample.bytes.len() as u64;
                assert!(sample.gso_size != 0 || wire.l2_bytes <= len + 4, "{wire:?}");
            }
        }
    }
}

/// An input from the generators.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    use super::{mutate, segments::Recipe, shapes::Scope};
    if dice.one_in(4) {
        let big = dice.one_in(50);
        let recipe = Recipe::any(dice, big);
        return encode(&recipe.sample(), &recipe.gso());
    }
    let mut sample = mutate::sample(dice, Scope::ANY);
    if dice.one_in(2) {
        mutate::between_tenants(dice, &mut sample.bytes, 6);
    }
    let gso = Gso {
        size: sample.gso_size.into(),
        segments: dice.below(50) as u32,
        kind: dice.pick(&[0, 1 << 10, 1 << 16, 1 << 17, 1 << 10 | 1 << 17]),
        inner_header_end: dice.below(300) as u32,
    };
    encode(&sample, &gso)
}
