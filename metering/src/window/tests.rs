//! Tests of the window arithmetic: examples first, then a model that books packets in two banks.

use super::*;
use proptest::prelude::*;

const KEY: Key = Key {
    slot: 1,
    direction: 0,
    zone: 0,
};

const fn counts(packets: u64) -> Counts {
    Counts {
        packets,
        l2_bytes: 100 * packets,
        l3_bytes: 86 * packets,
    }
}

fn bank(entries: &[(Key, Counts)]) -> Bank {
    entries.iter().copied().collect()
}

#[test]
fn a_window_is_its_bank_less_the_same_bank_two_seals_ago() {
    let mut windows = Windows::new();
    // Bank 1 (windows 7 and 9), bank 0 (windows 8 and 10).
    for (window, register, booked) in [(7, 5, 5), (8, 2, 2), (9, 11, 6), (10, 2, 0), (11, 12, 1)] {
        let delta = windows
            .seal(window, bank(&[(KEY, counts(register))]))
            .unwrap();
        assert_eq!(delta, bank(&[(KEY, counts(booked))]), "window {window}");
    }
    assert_eq!(windows.registers().unwrap(), bank(&[(KEY, counts(14))]));
}

#[test]
fn windows_go_on_past_the_last_number() {
    let mut windows = Windows::new();
    windows
        .seal(u32::MAX - 1, bank(&[(KEY, counts(1))]))
        .unwrap();
    windows.seal(u32::MAX, bank(&[(KEY, counts(10))])).unwrap();
    assert_eq!(
        windows.seal(0, bank(&[(KEY, counts(4))])).unwrap(),
        bank(&[(KEY, counts(3))])
    );
    assert_eq!(
        windows.seal(1, bank(&[(KEY, counts(15))])).unwrap(),
        bank(&[(KEY, counts(5))])
    );
}

#[test]
fn a_window_left_out_or_sealed_twice_is_refused() {
    let mut windows = Windows::new();
    windows.seal(3, Bank::new()).unwrap();
    for found in [3, 5, 2] {
        let refused = windows.seal(found, Bank::new());
        assert_eq!(refused, Err(WindowError::Order { expected: 4, found }));
    }
    assert_eq!(windows.seal(4, Bank::new()), Ok(Bank::new()));
}

#[test]
fn a_register_that_goes_back_is_refused_and_changes_nothing() {
    let other = Key { slot: 2, ..KEY };
    let mut windows = Windows::new();
    windows
        .seal(0, bank(&[(KEY, counts(9)), (other, counts(4))]))
        .unwrap();
    windows.seal(1, Bank::new()).unwrap();
    // One of the three is enough, though the other two grew.
    let now = Counts {
        l3_bytes: 1,
        ..counts(5)
    };
    let refused = windows.seal(2, bank(&[(KEY, counts(10)), (other, now)]));
    let before = counts(4);
    assert_eq!(
        refused,
        Err(WindowError::WentBack {
            window: 2,
            key: other,
            before,
            now
        })
    );
    let delta = windows
        .seal(2, bank(&[(KEY, counts(10)), (other, counts(4))]))
        .unwrap();
    assert_eq!(delta, bank(&[(KEY, counts(1)), (other, counts(0))]));
}

#[test]
fn a_register_that_is_no_longer_read_is_refused() {
    let mut windows = Windows::new();
    windows.seal(0, bank(&[(KEY, counts(1))])).unwrap();
    // The other bank has never been read: it may begin without the register.
    windows.seal(1, Bank::new()).unwrap();
    let refused = windows.seal(2, Bank::new());
    assert_eq!(
        refused,
        Err(WindowError::NotRead {
            window: 2,
            key: KEY
        })
    );
}

#[test]
fn a_register_that_appears_began_at_zero() {
    let mut windows = Windows::new();
    windows.seal(0, Bank::new()).unwrap();
    windows.seal(1, Bank::new()).unwrap();
    let delta = windows.seal(2, bank(&[(KEY, counts(7))])).unwrap();
    assert_eq!(delta, bank(&[(KEY, counts(7))]));
}

#[test]
fn a_sum_past_the_last_number_is_an_error_that_names_the_register() {
    let most = Counts {
        l2_bytes: u64::MAX,
        ..Counts::default()
    };
    let next = Key { zone: 1, ..KEY };
    let sum = totals(&bank(&[(KEY, most), (next, counts(1))]));
    assert_eq!(sum, Err(WindowError::Overflow { key: next }));

    let mut windows = Windows::new();
    windows.seal(0, bank(&[(KEY, most)])).unwrap();
    windows.seal(1, bank(&[(KEY, counts(1))])).unwrap();
    assert_eq!(windows.registers(), Err(WindowError::Overflow { key: KEY }));
}

#[test]
fn an_error_says_which_window_and_which_register() {
    let error = WindowError::NotRead {
        window: 12,
        key: KEY,
    };
    let text = "window 12: register Key { slot: 1, direction: 0, zone: 0 } was not read";
    assert_eq!(error.to_string(), text);
}

/// What happens to the model.
#[derive(Clone, Debug)]
enum Step {
    /// A packet is booked in the open bank.
    Book(Key, u64),
    /// The open window is sealed.
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    let key = (0..4u32, 0..2u32, 0..3u32).prop_map(|(slot, direction, zone)| Key {
        slot,
        direction,
        zone,
    });
    prop_oneof![
        6 => (key, 60..65_600u64).prop_map(|(key, l2)| Step::Book(key, l2)),
        1 => Just(Step::Cut),
    ]
}

fn add(bank: &mut Bank, key: Key, counts: Counts) {
    let sum = bank.entry(key).or_default();
    *sum = sum.checked_add(counts).unwrap();
}

proptest! {
    /// The kernel as it is to a reader: two banks that only grow, one of them open.
    #[test]
    fn the_windows_sum_to_what_was_booked_wherever_the_cuts_fall(
        first in any::<u32>(),
        steps in prop::collection::vec(step(), 0..400),
    ) {
        let mut kernel = [Bank::new(), Bank::new()];
        let (mut windows, mut window) = (Windows::new(), first);
        // Of the open window, of all windows together, and what the windows said.
        let (mut open, mut booked, mut billed) = (Bank::new(), Bank::new(), Bank::new());
        // Sealing both banks at the end leaves nothing open.
        for step in steps.into_iter().chain([Step::Cut, Step::Cut]) {
            match step {
                Step::Book(key, l2_bytes) => {
                    let packet = Counts { packets: 1, l2_bytes, l3_bytes: l2_bytes - 14 };
                    add(&mut kernel[window as usize % 2], key, packet);
                    add(&mut open, key, packet);
                    add(&mut booked, key, packet);
                }
                Step::Cut => {
                    let before = windows.registers().unwrap();
                    let delta = windows.seal(window, kernel[window as usize % 2].clone()).unwrap();
                    let moved: Bank =
                        delta.iter().filter(|(_, d)| **d != Counts::default()).map(|(k, d)| (*k, *d)).collect();
                    prop_assert_eq!(&moved, &open, "window {}", window);
                    let after = windows.registers().unwrap();
                    for (key, now) in &after {
                        let then = before.get(key).copied().unwrap_or_default();
                        let difference = now.checked_sub(then).unwrap();
                        prop_assert_eq!(difference, delta.get(key).copied().unwrap_or_default());
                    }
                    moved.into_iter().for_each(|(key, counts)| add(&mut billed, key, counts));
                    open.clear();
                    window = window.wrapping_add(1);
                }
            }
        }
        prop_assert_eq!(&billed, &booked);
        prop_assert_eq!(windows.registers().unwrap(), booked);
    }

    /// Σ zones = total, for each port and direction and for all of them.
    #[test]
    fn the_zones_of_a_port_sum_to_its_total(
        packets in prop::collection::vec(step(), 0..200),
    ) {
        let (mut bank, mut of_port, mut of_all) = (Bank::new(), BTreeMap::new(), 0);
        for step in packets {
            let Step::Book(key, l2_bytes) = step else { continue };
            add(&mut bank, key, Counts { packets: 1, l2_bytes, l3_bytes: 0 });
            *of_port.entry((key.slot, key.direction)).or_insert(0) += l2_bytes;
            of_all += l2_bytes;
        }
        let totals = totals(&bank).unwrap();
        prop_assert_eq!(totals.values().map(|total| total.l2_bytes).sum::<u64>(), of_all);
        let totals: BTreeMap<_, _> = totals.into_iter().map(|(port, t)| (port, t.l2_bytes)).collect();
        prop_assert_eq!(totals, of_port);
    }
}
