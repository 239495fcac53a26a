//! The parser agrees with etherparse on every frame of real captures, whole and damaged.
//!
//! The captures are not part of the repository: `OCTROI_CAPTURES` names their folder.

#[path = "captures/files.rs"]
mod files;
mod oracle;

use anyhow::{Context as _, Result, ensure};
use files::{captures, read};
use oracle::{
    compare::{self, Met, Parsed},
    dice::{self, Dice},
    mutate,
    shapes::Sample,
};

#[test]
fn agrees_with_etherparse_on_every_frame_of_the_captures() -> Result<()> {
    const TEST: &str = "agrees_with_etherparse_on_every_frame_of_the_captures";
    let captures = captures()?;
    if captures.is_empty() {
        println!("SKIPPED: {TEST}: 0 captures in the folder that OCTROI_CAPTURES names");
        return Ok(());
    }
    let seed = dice::seed();
    let damaged_each = dice::cases(2, 20, 200);
    let (mut whole, mut damaged, mut others) = (0, 0, 0_u64);
    let (mut met, mut damaged_met) = (Met::default(), Met::default());
    for path in &captures {
        let frames = read(path).with_context(|| path.display().to_string())?;
        let (ethernet, other): (Vec<_>, Vec<_>) =
            frames.into_iter().partition(|frame| frame.ethernet);
        others += other.len() as u64;
        for (number, bytes) in ethernet.into_iter().map(|frame| frame.bytes).enumerate() {
            let context = || format!("frame {number} of {}", path.display());
            let sample = Sample {
                bytes,
                ..Sample::default()
            };
            met.note(&agree(&sample).with_context(context)?);
            whole += 1;
            for _ in 0..damaged_each {
                let mut dice = Dice::new(seed, damaged);
                let mut sample = sample.clone();
                for _ in 0..dice.within(1, 3) {
                    mutate::once(&mut dice, &mut sample);
                }
                damaged_met.note(&agree(&sample).with_context(context)?);
                damaged += 1;
            }
        }
    }
    println!(
        "{} captures, met: {:?}\ndamaged, met: {:?}",
        captures.len(),
        met.0,
        damaged_met.0
    );
    ensure!(
        whole > 0,
        "{} captures without an Ethernet frame",
        captures.len()
    );
    println!("CASES: parser vs etherparse, frames of captures: {whole}");
    println!("CASES: parser vs etherparse, damaged frames of captures: {damaged}");
    println!("CASES: packets of captures that are not Ethernet, left out: {others}");
    Ok(())
}

fn agree(sample: &Sample) -> Result<Parsed> {
    compare::agree(sample).map_err(anyhow::Error::msg)
}
