use super::*;
use crate::record::tests::draw::{for_all, level};
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash, mem_backed_tree::MemoryBackedTree};
use proptest::prelude::*;

type Oracle = MemoryBackedTree<Sha256, Vec<u8>>;

/// Leaves `0..size` for the oracle, and their hashes.
fn grown(size: u64) -> (Oracle, Vec<Hash>) {
    let mut oracle = Oracle::new();
    let leaves = (0..size).map(|number| {
        let bytes = number.to_be_bytes().to_vec();
        oracle.push(bytes.clone());
        crate::record::leaf_hash(&bytes)
    });
    let leaves = leaves.collect();
    (oracle, leaves)
}

fn root_of(oracle: &Oracle) -> Hash {
    (*oracle.root().as_bytes()).into()
}

/// What the blocks of an outline are asked for.
fn block_of(leaves: &[Hash], number: u64) -> Vec<Hash> {
    let mut blocks = leaves.chunks(BLOCK as usize);
    blocks.nth(number as usize).unwrap_or_default().to_vec()
}

fn outline(leaves: &[Hash]) -> Outline {
    let mut outline = Outline::default();
    leaves.iter().for_each(|leaf| outline.push(*leaf));
    outline.finish();
    outline
}

#[test]
fn the_root_is_the_oracles_at_every_size() {
    let mut oracle = Oracle::new();
    let mut frontier = Frontier::default();
    assert_eq!(frontier.root(), root_of(&oracle));
    let sizes = level(300_u64, 3_000, 10_000);
    for number in 0..sizes {
        let bytes = number.to_be_bytes().to_vec();
        frontier.push(crate::record::leaf_hash(&bytes));
        oracle.push(bytes);
        if number < 300 || number % 97 == 0 {
            assert_eq!(frontier.root(), root_of(&oracle), "{number}");
            let kept = Frontier::from_bytes(frontier.size(), &frontier.bytes());
            assert_eq!(kept.as_ref(), Some(&frontier));
        }
    }
    println!("CASES: tree, leaves added and compared with ct-merkle: {sizes}");
}

#[test]
fn proofs_are_the_oracles_on_random_sizes() {
    let (sizes, cases) = level((300, 50), (4_000, 300), (20_000, 1_000));
    let drawn = (1_u64..sizes, any::<u64>(), any::<u64>());
    for_all("tree, proofs", cases, &drawn, |(size, index, old)| {
        let (index, old) = (index % size, 1 + old % size);
        let (oracle, leaves) = grown(size);
        let outline = outline(&leaves);
        let root = root_of(&oracle);
        assert_eq!(outline.root(), root);
        let proof = Levels::over(leaves.clone()).inclusion(index);
        let block = Levels::over(block_of(&leaves, index / BLOCK));
        let by_blocks = outline.inclusion(index, &block);
        assert_eq!(proof, by_blocks, "{index} of {size}");
        let theirs = oracle.prove_inclusion(index as usize);
        assert_eq!(proof.concat(), theirs.as_bytes(), "{index} of {size}");
        let leaf = leaves[index as usize];
        assert_eq!(root_by_inclusion(leaf, index, size, &proof), Some(root));
        // And theirs takes ours.
        let whole = RootHash::<Sha256>::new(root.into(), size);
        let ours = InclusionProof::<Sha256>::try_from_bytes(proof.concat()).expect("a proof");
        let bytes = index.to_be_bytes().to_vec();
        whole
            .verify_inclusion(&bytes, index, &ours)
            .expect("it leads to the root");

        let mut hash =
            |range| outline.hash(range, &mut |number| Ok::<_, ()>(block_of(&leaves, number)));
        let proof = consistency(old, size, &mut hash).expect("blocks are there");
        let before = super::root(&leaves[..old as usize]);
        assert!(
            is_consistent((old, before), (size, root), &proof),
            "{old} to {size}"
        );
        if old < size {
            let theirs = oracle.prove_consistency((size - old) as usize);
            assert_eq!(proof.concat(), theirs.as_bytes(), "{old} to {size}");
            let ours = ConsistencyProof::<Sha256>::try_from_bytes(proof.concat()).expect("a proof");
            let old_root = RootHash::<Sha256>::new(before.into(), old);
            whole
                .verify_consistency(&old_root, &ours)
                .expect("it is consistent");
        }
        Ok(())
    });
}

#[test]
fn nothing_else_is_a_proof() {
    let cases = level(500, 5_000, 50_000);
    let drawn = (2_u64..200, any::<u64>(), any::<u64>(), any::<u64>());
    for_all(
        "tree, proofs refused",
        cases,
        &drawn,
        |(size, index, old, noise)| {
            let (index, old) = (index % size, 1 + old % (size - 1));
            let (_, leaves) = grown(size);
            let root = super::root(&leaves);
            let proof = Levels::over(leaves.clone()).inclusion(index);
            let leaf = leaves[index as usize];
            let leads = |leaf, index, size, proof: &[Hash]| {
                root_by_inclusion(leaf, index, size, proof) == Some(root)
            };
            assert!(leads(leaf, index, size, &proof));
            let other = noise % size;
            if other != index {
                assert!(!leads(leaf, other, size, &proof), "another place");
                assert!(
                    !leads(leaves[other as usize], index, size, &proof),
                    "another leaf"
                );
            }
            let mut bent = proof.clone();
            bent[noise as usize % proof.len()][(noise >> 32) as usize % 32] ^= 1 << (noise >> 61);
            assert!(!leads(leaf, index, size, &bent), "another hash");
            assert!(!leads(leaf, index, size, &proof[1..]), "too short");
            let longer = [&proof[..], &[leaf]].concat();
            assert!(!leads(leaf, index, size, &longer), "too long");
            let _ = root_by_inclusion(leaf, noise, noise.rotate_left(7), &proof);

            let mut hash = |range: Range<u64>| {
                Ok::<_, ()>(super::root(
                    &leaves[range.start as usize..range.end as usize],
                ))
            };
            let proof = consistency(old, size, &mut hash).expect("leaves are there");
            let before = super::root(&leaves[..old as usize]);
            assert!(is_consistent((old, before), (size, root), &proof));
            let mut bent = proof.clone();
            bent[noise as usize % proof.len()][(noise >> 32) as usize % 32] ^= 1 << (noise >> 61);
            assert!(
                !is_consistent((old, before), (size, root), &bent),
                "another hash"
            );
            assert!(
                !is_consistent((old, [7; 32]), (size, root), &proof),
                "another beginning"
            );
            assert!(
                !is_consistent((old, before), (size, [7; 32]), &proof),
                "another end"
            );
            assert!(
                !is_consistent((old, before), (size, root), &proof[1..]),
                "too short"
            );
            let _ = is_consistent((noise, before), (noise.rotate_left(9), root), &proof);
            Ok(())
        },
    );
}
