//! The parser agrees with etherparse on every frame of real captures, whole and damaged.
//!
//! The captures are not part of the repository: `OCTROI_CAPTURES` names their folder.

mod oracle;

use anyhow::{Context as _, Result, ensure};
use oracle::{
    compare::{self, Met, Parsed},
    dice::{self, Dice},
    mutate,
    shapes::Sample,
};
use pcap_parser::{
    Block, Linktype, PcapBlockOwned, PcapError, create_reader, traits::PcapNGPacketBlock as _,
};
use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

/// More than any packet block in a capture.
const BUFFER: usize = 1 << 20;

/// The frames of a capture.
#[derive(Default)]
struct Frames {
    ethernet: Vec<Vec<u8>>,
    /// Packets of another link type.
    others: u64,
}

impl Frames {
    fn add(&mut self, linktype: Linktype, data: &[u8]) {
        if linktype == Linktype::ETHERNET {
            self.ethernet.push(data.to_vec());
        } else {
            self.others += 1;
        }
    }
}

fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // A relative path counts from the root of the repository, wherever the test runs.
    root.join(env::var_os("OCTROI_CAPTURES").unwrap_or_else(|| "../shared/captures".into()))
}

/// The captures in the folder, in the order of their names; empty when there is none.
fn captures() -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder()) else {
        return Ok(Vec::new());
    };
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.retain(|path| {
        path.extension()
            .is_some_and(|kind| kind == "pcap" || kind == "pcapng")
    });
    paths.sort();
    Ok(paths)
}

/// Reads pcap and pcapng.
fn read(path: &Path) -> Result<Frames> {
    let mut reader =
        create_reader(BUFFER, File::open(path)?).map_err(|e| anyhow::anyhow!("{e}"))?;
    let mut frames = Frames::default();
    // Link types by interface; pcap has one for the file.
    let mut linktypes = Vec::new();
    loop {
        match reader.next() {
            Ok((offset, block)) => {
                take(&block, &mut linktypes, &mut frames)?;
                reader.consume(offset);
            }
            Err(PcapError::Eof) => return Ok(frames),
            Err(PcapError::Incomplete(_)) => {
                reader.refill().map_err(|e| anyhow::anyhow!("{e}"))?;
            }
            // Some captures were cut in the middle of a packet: what came before counts.
            Err(PcapError::UnexpectedEof) => return Ok(frames),
            Err(error) => anyhow::bail!("{error}"),
        }
    }
}

fn take(
    block: &PcapBlockOwned<'_>,
    linktypes: &mut Vec<Linktype>,
    frames: &mut Frames,
) -> Result<()> {
    let of = |interface: u32, linktypes: &[Linktype]| {
        linktypes
            .get(interface as usize)
            .copied()
            .context("a packet of an unknown interface")
    };
    match block {
        PcapBlockOwned::LegacyHeader(header) => linktypes.push(header.network),
        PcapBlockOwned::Legacy(packet) => frames.add(of(0, linktypes)?, packet.data),
        PcapBlockOwned::NG(Block::SectionHeader(_)) => linktypes.clear(),
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            linktypes.push(interface.linktype);
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            frames.add(of(packet.if_id, linktypes)?, packet.packet_data());
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            frames.add(of(0, linktypes)?, packet.packet_data());
        }
        PcapBlockOwned::NG(_) => {}
    }
    Ok(())
}

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
    let (mut whole, mut damaged, mut others) = (0, 0, 0);
    let (mut met, mut damaged_met) = (Met::default(), Met::default());
    for path in &captures {
        let frames = read(path).with_context(|| path.display().to_string())?;
        others += frames.others;
        for (number, bytes) in frames.ethernet.into_iter().enumerate() {
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
