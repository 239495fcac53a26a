//! The fuzzer's corpus, replayed without a fuzzer. What the fuzzer finds is added to it, and so is
//! every frame that ever broke something.
//!
//! `OCTROI_WRITE_CORPUS=1 cargo test --release --test parser_corpus` makes the corpus anew from the
//! generators: the shortest of many frames for each way that a frame can take.

mod fixtures;
mod oracle;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::{parse::Fragment, wire::Gso};
use fixtures::ports::{self, Interfaces};
use oracle::{
    compare,
    dice::{self, Dice},
    input,
};
use std::{collections::BTreeMap, env, fs, path::PathBuf};

const FILES_MAX: usize = 200;
const BYTES_MAX: u64 = 100_000;
/// Names of the inputs that the generators made begin with this.
const GENERATED: &str = "generated-";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/frame")
}

#[test]
fn the_corpus_of_the_fuzzer_is_replayed() -> Result<()> {
    if env::var_os("OCTROI_WRITE_CORPUS").is_some() {
        write()?;
    }
    let gate = ports::gate(&Interfaces::ON_PAPER);
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder()).context("tests/fuzz/corpus/frame")? {
        let path = entry?.path();
        let input = fs::read(&path)?;
        println!("{}", path.display());
        input::exercise(&gate, &input);
        files += 1;
        bytes += input.len() as u64;
    }
    ensure!(
        files > 100 && files < FILES_MAX && bytes < BYTES_MAX,
        "{files} files, {bytes} bytes"
    );
    println!("CASES: inputs of the fuzzer's corpus: {files}");
    Ok(())
}

#[test]
fn the_fuzzers_checks_hold_on_generated_inputs() {
    let (seed, cases) = (dice::seed(), dice::cases(10_000, 100_000, 1_000_000));
    let gate = ports::gate(&Interfaces::ON_PAPER);
    dice::in_parallel(cases, |run| {
        for case in run {
            input::exercise(&gate, &input::generate(&mut Dice::new(seed, case)));
        }
    });
    println!("CASES: generated inputs through the whole gate: {cases}");
}

#[test]
fn an_input_says_the_same_after_it_was_written_and_read() {
    for case in 0..1_000 {
        let input = input::generate(&mut Dice::new(dice::seed(), case));
        let (sample, gso) = input::decode(&input).expect("generated inputs have a prefix");
        let gso = if sample.gso_size == 0 {
            Gso::default()
        } else {
            gso
        };
        let again = input::decode(&input::encode(&sample, &gso)).expect("so has this");
        assert_eq!(
            (again.0.bytes, again.0.tag, again.1),
            (sample.bytes, sample.tag, gso)
        );
    }
}

/// Which way through the parser a frame takes, as far as the corpus distinguishes them.
fn way(input: &[u8]) -> Option<String> {
    let (sample, gso) = input::decode(input)?;
    Some(match compare::ours(&sample) {
        Err(reason) => {
            let ethertype = sample.bytes.get(12..14).map(<[u8]>::to_vec);
            let known = matches!(ethertype.as_deref(), Some([0x08 | 0x86 | 0x81 | 0x88, _]));
            format!(
                "{reason:?} {:?} {}",
                ethertype.filter(|_| known),
                sample.tag.is_some()
            )
        }
        Ok(packet) => {
            let protocol = match packet.protocol {
                known @ (1 | 6 | 17 | 41 | 47 | 50 | 58 | 132) => known,
                _ => 0,
            };
            let kind = if sample.gso_size == 0 { 0 } else { gso.kind };
            let extended = packet.l4_offset > packet.l3_offset + 40;
            let fragment = packet.fragment != Fragment::No;
            format!(
                "{:?} {protocol} {fragment} {kind:x} {extended} {}",
                packet.network, packet.tags
            )
        }
    })
}

/// Makes the corpus: the shortest input for each way.
fn write() -> Result<()> {
    let mut shortest = BTreeMap::<String, Vec<u8>>::new();
    for case in 0..300_000 {
        let input = input::generate(&mut Dice::new(dice::seed(), case));
        let Some(way) = way(&input).filter(|_| input.len() < 600) else {
            continue;
        };
        let place = shortest.entry(way).or_insert_with(|| input.clone());
        if input.len() < place.len() {
            *place = input;
        }
    }
    let inputs: Vec<_> = shortest.into_values().collect();
    // Every nth, when there are more ways than files.
    let step = inputs.len().div_ceil(FILES_MAX - 20);
    fs::create_dir_all(folder())?;
    for entry in fs::read_dir(folder())? {
        let path = entry?.path();
        // What was found stays.
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(GENERATED))
        {
            fs::remove_file(path)?;
        }
    }
    for (number, input) in inputs.iter().step_by(step).enumerate() {
        fs::write(folder().join(format!("{GENERATED}{number:03}")), input)?;
    }
    Ok(())
}
