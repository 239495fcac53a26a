//! The tree over a ledger's leaves (RFC 9162 §2.1): its root, and proofs that a leaf is in it and that one
//! tree continues another.
//!
//! Invariants (`docs/METERING.md`, M-14; oracle in tests: `ct-merkle`)
//! - A [`Frontier`] holds at most 64 hashes, and its root is that of every leaf it was given: a window
//!   is committed without reading the leaves before it.
//! - What an [`Outline`] needs of the leaves is asked for by blocks: a proof over many leaves is made in
//!   constant memory.
//! - Checking a proof panics on nothing, whatever its sizes say.
//!
//! What it is not: it signs nothing (`note` does) and knows no record.

use sha2::{Digest as _, Sha256};
use std::ops::Range;

/// SHA-256 of a leaf or of a node.
pub type Hash = [u8; 32];

/// Leaves of a block of an [`Outline`].
pub const BLOCK: u64 = 1_024;

/// The hash of a node from its children's.
#[must_use]
pub fn node(left: &Hash, right: &Hash) -> Hash {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

/// The root of a tree without leaves.
#[must_use]
pub fn empty() -> Hash {
    Sha256::digest([]).into()
}

/// The right edge of a tree: the roots of its whole subtrees, the largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The frontier of a tree of `size` leaves from [`Frontier::bytes`]; `None`: it cannot be one.
    #[must_use]
    pub fn from_bytes(size: u64, bytes: &[u8]) -> Option<Self> {
        let (peaks, rest) = bytes.as_chunks::<32>();
        let fits = rest.is_empty() && peaks.len() == size.count_ones() as usize;
        fits.then(|| Self {
            size,
            peaks: peaks.to_vec(),
        })
    }

    /// Its hashes, one after the other: at most 64.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.peaks.concat()
    }

    /// Leaves of the tree.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf at the right.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each trailing one of the size is a whole subtree that this leaf completes.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The tree's root.
    #[must_use]
    pub fn root(&self) -> Hash {
        let folded = self.peaks.iter().rev().copied();
        folded
            .reduce(|right, left| node(&left, &right))
            .unwrap_or_else(empty)
    }
}

/// The root of the tree over these leaves.
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    leaves.iter().for_each(|leaf| frontier.push(*leaf));
    frontier.root()
}

/// The largest power of two below `size`, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// A tree's nodes, level by level from the leaves: an odd one at the end goes up as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels(Vec<Vec<Hash>>);

impl Levels {
    /// All nodes over these leaves.
    #[must_use]
    pub fn over(leaves: Vec<Hash>) -> Self {
        let mut levels = vec![leaves];
        while let Some(last) = levels.last().filter(|level| level.len() > 1) {
            let pairs = last.chunks(2).map(|pair| match pair {
                [left, right] => node(left, right),
                [alone, ..] => *alone,
                [] => empty(),
            });
            let next = pairs.collect();
            levels.push(next);
        }
        Self(levels)
    }

    /// The hashes that lead from the leaf `index` to the root, the lowest first; none where there is no
    /// such leaf.
    #[must_use]
    pub fn inclusion(&self, index: u64) -> Vec<Hash> {
        let is_there = |level: &Vec<Hash>| index < level.len() as u64;
        if !self.0.first().is_some_and(is_there) {
            return Vec::new();
        }
        let siblings = self.0.iter().enumerate().filter_map(|(level, nodes)| {
            let at = (index >> level) as usize;
            nodes.get(at ^ 1).copied()
        });
        siblings.collect()
    }
}

/// The root that follows from a leaf and its proof in a tree of `size`; `None`: it is no proof there.
#[must_use]
pub fn root_by_inclusion(leaf: Hash, index: u64, size: u64, proof: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// The hashes that show that the tree of `size` leaves continues the one of its first `old`.
///
/// `hash` gives the root over a range of leaves; the ranges are those of whole subtrees.
///
/// # Errors
/// What `hash` says.
pub fn consistency<E>(
    old: u64,
    size: u64,
    hash: &mut impl FnMut(Range<u64>) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let mut proof = Vec::new();
    if old == 0 || old >= size {
        return Ok(proof);
    }
    let (mut begin, mut end, mut whole) = (0, size, true);
    while end != old {
        let middle = begin + split(end - begin);
        if old <= middle {
            proof.push(hash(middle..end)?);
            end = middle;
        } else {
            proof.push(hash(begin..middle)?);
            (begin, whole) = (middle, false);
        }
    }
    if !whole {
        proof.push(hash(begin..end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Does the proof lead from the root of a tree of `old` leaves to that of one of `size`?
#[must_use]
pub fn is_consistent(old: (u64, Hash), new: (u64, Hash), proof: &[Hash]) -> bool {
    let ((old, old_root), (size, new_root)) = (old, new);
    if old == 0 || old >= size {
        let same = old == size && old_root == new_root;
        return proof.is_empty() && (same || (old == 0 && old_root == empty()));
    }
    let mut proof = proof.iter();
    // The old tree is a whole subtree of the new one: its root is not said twice.
    let first = if old.is_power_of_two() {
        Some(&old_root)
    } else {
        proof.next()
    };
    let Some(first) = first else {
        return false;
    };
    let whole = (old - 1).trailing_ones();
    let (mut at, mut last) = ((old - 1) >> whole, (size - 1) >> whole);
    let (mut before, mut now) = (*first, *first);
    for hash in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            before = node(hash, &before);
            now = node(hash, &now);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            now = node(&now, hash);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && before == old_root && now == new_root
}

/// A large tree by blocks of [`BLOCK`] leaves: of each its root, the last one perhaps not full. These
/// roots are a tree of the same shape as the leaves'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    size: u64,
    blocks: Vec<Hash>,
    open: Frontier,
    /// Over the blocks, when no leaf follows.
    above: Levels,
}

impl Outline {
    /// Adds a leaf at the right.
    pub fn push(&mut self, leaf: Hash) {
        self.open.push(leaf);
        self.size += 1;
        if self.open.size() == BLOCK {
            self.blocks.push(self.open.root());
            self.open = Frontier::default();
        }
    }

    /// No leaf follows.
    pub fn finish(&mut self) {
        if self.open.size() != 0 {
            self.blocks.push(self.open.root());
            self.open = Frontier::default();
        }
        self.above = Levels::over(self.blocks.clone());
    }

    /// Leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root, when it is finished.
    #[must_use]
    pub fn root(&self) -> Hash {
        root(&self.blocks)
    }

    /// As [`Levels::inclusion`], when it is finished, with the block that `index` is in.
    #[must_use]
    pub fn inclusion(&self, index: u64, block: &Levels) -> Vec<Hash> {
        let mut proof = block.inclusion(index % BLOCK);
        proof.extend(self.above.inclusion(index / BLOCK));
        proof
    }

    /// The root over a range that is a whole subtree. `block` gives the leaves of a block by its number.
    ///
    /// # Errors
    /// What `block` says.
    pub fn hash<E>(
        &self,
        range: Range<u64>,
        block: &mut impl FnMut(u64) -> Result<Vec<Hash>, E>,
    ) -> Result<Hash, E> {
        let (first, last) = (range.start / BLOCK, range.end.saturating_sub(1) / BLOCK);
        let ends = range.end == self.size || range.end.is_multiple_of(BLOCK);
        if range.start.is_multiple_of(BLOCK) && ends {
            let blocks = self.blocks.get(first as usize..=last as usize);
            return Ok(root(blocks.unwrap_or_default()));
        }
        let leaves = block(first)?;
        let within = (range.start % BLOCK) as usize..(range.end - first * BLOCK) as usize;
        Ok(root(leaves.get(within).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests;
