//! Classes of evidence of a window. Nothing that is billed rests on them.

use super::cut::Sums;
use crate::{record::Classified, window::Counts};

/// What was delivered, by class. Nothing where nobody read the classes; `None`: they went back, or are
/// more than was `counted`.
pub(super) fn between(before: &Sums, now: &Sums, counted: Counts) -> Option<Vec<Classified>> {
    if !now.has_classes() || !before.has_classes() {
        return Some(Vec::new());
    }
    let mut rest = counted;
    let mut classes = Vec::new();
    for class in 0..now.evidence.len() {
        let (old, now) = (before.class(class), now.class(class));
        let packets = now[0].checked_sub(old[0])?;
        let l2_bytes = now[1].checked_sub(old[1])?;
        rest = rest.checked_sub(Counts {
            packets,
            l2_bytes,
            l3_bytes: 0,
        })?;
        if packets != 0 {
            classes.push(Classified {
                class: class as u8,
                packets,
                l2_bytes,
            });
        }
    }
    Some(classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_that_nobody_read_or_that_cannot_be_are_left_out_and_the_bill_stands() {
        let sums = |packets: u64, evidence: Vec<[u64; 2]>| Sums {
            zones: vec![Counts {
                packets,
                l2_bytes: packets * 100,
                l3_bytes: packets * 86,
            }],
            evidence,
            ..Sums::default()
        };
        let rows = |before: &Sums, now: &Sums| {
            let counted = now.total()?.checked_sub(before.total()?)?;
            let classes = between(before, now, counted)?.into_iter();
            Some(
                classes
                    .map(|one| [one.class.into(), one.packets, one.l2_bytes])
                    .collect::<Vec<[u64; 3]>>(),
            )
        };
        let none = Sums::default();
        let first = sums(10, vec![[0, 0], [4, 400]]);
        assert_eq!(rows(&none, &first), Some(vec![[1, 4, 400]]));
        let next = sums(12, vec![[2, 200], [4, 400]]);
        assert_eq!(rows(&first, &next), Some(vec![[0, 2, 200]]));
        // A daemon before this one did not read them, or a checkpoint was taken while they moved.
        assert_eq!(rows(&sums(10, Vec::new()), &next), Some(Vec::new()));
        assert_eq!(rows(&first, &sums(12, Vec::new())), Some(Vec::new()));
        // More than was delivered, in packets or bytes, and less than before.
        assert_eq!(rows(&first, &sums(12, vec![[3, 200], [4, 400]])), None);
        assert_eq!(rows(&first, &sums(12, vec![[2, 201], [4, 400]])), None);
        assert_eq!(rows(&first, &sums(12, vec![[1, 100], [3, 400]])), None);
    }
}
