//! Damage: what a hostile guest, a broken driver or a cut cable makes of a frame.

use super::{
    dice::Dice,
    people,
    shapes::{Sample, Scope, frame},
};

/// Bytes that sit on the edge of some rule: lengths, versions, protocols, extension headers.
const EDGES: [u8; 24] = [
    0, 1, 2, 4, 5, 6, 8, 17, 20, 40, 41, 43, 44, 51, 58, 59, 60, 0x40, 0x45, 0x4F, 0x60, 0x7F,
    0x81, 0xFF,
];

/// Damages `sample` once.
pub fn once(dice: &mut Dice, sample: &mut Sample) {
    match dice.weighted(&[(30, 0), (30, 1), (16, 2), (10, 3), (4, 4), (5, 5), (5, 6)]) {
        0 => at(dice, sample, |dice, byte| *byte ^= 1 << dice.below(8)),
        1 => at(dice, sample, |dice, byte| {
            *byte = if dice.one_in(4) {
                dice.byte()
            } else {
                dice.pick(&EDGES)
            };
        }),
        2 => lie(dice, sample),
        3 => {
            let len = cut(dice, sample.bytes.len());
            sample.bytes.truncate(len);
        }
        4 => {
            let len = dice.within(1, 200);
            sample.bytes.extend_from_slice(&dice.bytes(len));
        }
        5 => copy(dice, &mut sample.bytes),
        _ => insert(dice, &mut sample.bytes),
    }
}

/// An offset where damage tells: one of the marks, or anywhere in the first 200 bytes.
fn place(dice: &mut Dice, sample: &Sample) -> Option<usize> {
    let len = sample.bytes.len();
    let place = match sample.marks.is_empty() || dice.one_in(3) {
        true => dice.below(len.clamp(1, 200)),
        false => dice.pick(&sample.marks),
    };
    (place < len).then_some(place)
}

fn at(dice: &mut Dice, sample: &mut Sample, change: impl Fn(&mut Dice, &mut u8)) {
    if let Some(place) = place(dice, sample) {
        change(dice, &mut sample.bytes[place]);
    }
}

/// Adds a little to a 16-bit field, or takes it away: a length that nearly fits.
fn lie(dice: &mut Dice, sample: &mut Sample) {
    let Some(place) = place(dice, sample) else {
        return;
    };
    let Some(field) = sample.bytes.get_mut(place..place + 2) else {
        return;
    };
    let most = dice.pick(&[2, 60]);
    let by = dice.within(1, most) as u16;
    let value = u16::from_be_bytes([field[0], field[1]]);
    let value = if dice.one_in(2) {
        value.wrapping_add(by)
    } else {
        value.wrapping_sub(by)
    };
    field.copy_from_slice(&value.to_be_bytes());
}

/// A shorter length, most often inside the headers.
fn cut(dice: &mut Dice, len: usize) -> usize {
    if dice.one_in(2) {
        dice.below(len + 1)
    } else {
        dice.below(len.min(120) + 1)
    }
}

/// Copies a few bytes over others: headers that repeat.
fn copy(dice: &mut Dice, bytes: &mut [u8]) {
    let len = bytes.len().min(200);
    if len < 2 {
        return;
    }
    let run = dice.within(1, (len / 2).min(24));
    let (from, to) = (dice.below(len - run + 1), dice.below(len - run + 1));
    bytes.copy_within(from..from + run, to);
}

/// Puts bytes in: everything behind them moves.
fn insert(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let place = dice.below(bytes.len().min(120) + 1);
    let len = dice.pick(&[1, 2, 4, 8]);
    bytes.splice(place..place, dice.bytes(len));
}

/// A frame of `scope`, half of the time damaged up to four times.
pub fn sample(dice: &mut Dice, scope: Scope) -> Sample {
    let mut sample = frame(dice, scope);
    if dice.one_in(2) {
        for _ in 0..dice.within(1, 4) {
            once(dice, &mut sample);
        }
    }
    sample
}

/// The same as XDP sees it, which knows neither tags beside the data nor GSO. None: too short to be a frame.
pub fn for_xdp(dice: &mut Dice) -> Option<Sample> {
    let scope = Scope {
        gso: false,
        ..Scope::TEST_RUN
    };
    let mut sample = sample(dice, scope);
    sample.bytes.truncate(3_400);
    (sample.bytes.len() >= 14).then_some(sample)
}

/// Makes a frame the tenant's own and, mostly, for another tenant, but for one in `rarely`: what has
/// somebody else's MAC ends before the later stages have seen it.
pub fn between_tenants(dice: &mut Dice, frame: &mut [u8], rarely: usize) {
    if let Some(macs) = frame.get_mut(..12).filter(|_| !dice.one_in(rarely)) {
        let dst = dice.pick(&[
            people::OWN,
            people::OWN_LISTED,
            people::OWN_LISTED,
            people::VRRP,
            people::BROADCAST,
            people::NEIGHBOUR,
        ]);
        macs[..6].copy_from_slice(&dst);
        macs[6..].copy_from_slice(&dice.pick(&[people::OWN, people::OWN, people::OWN_SECOND]));
    }
}
