//! Captures as files: pcap and pcapng, of the folder that `OCTROI_CAPTURES` names.
#![allow(dead_code, reason = "each test uses its own part of this")]

use anyhow::{Context as _, Result};
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

/// A packet of a capture.
pub struct Frame {
    /// As an Ethernet frame; one of another link type has a header of zeros in front, where its own tells what follows.
    pub bytes: Vec<u8>,
    /// It was an Ethernet frame.
    pub ethernet: bool,
    /// The capture has all of it.
    pub whole: bool,
}

pub fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // A relative path counts from the root of the repository, wherever the test runs.
    root.join(env::var_os("OCTROI_CAPTURES").unwrap_or_else(|| "../shared/captures".into()))
}

/// The captures in the folder, in the order of their names; empty when there is none.
pub fn captures() -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder()) else {
        return Ok(Vec::new());
    };
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.retain(|path| {
        path.extension()
            .is_some_and(|kind| kind == "pcap" || kind == "pcapng" || kind == "cap")
    });
    paths.sort();
    Ok(paths)
}

/// Reads a capture's packets, in order.
pub fn read(path: &Path) -> Result<Vec<Frame>> {
    let mut reader =
        create_reader(BUFFER, File::open(path)?).map_err(|e| anyhow::anyhow!("{e}"))?;
    let mut frames = Vec::new();
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
    frames: &mut Vec<Frame>,
) -> Result<()> {
    let of = |interface: u32, linktypes: &[Linktype]| {
        linktypes
            .get(interface as usize)
            .copied()
            .context("a packet of an unknown interface")
    };
    match block {
        PcapBlockOwned::LegacyHeader(header) => linktypes.push(header.network),
        PcapBlockOwned::Legacy(packet) => {
            frames.push(frame(of(0, linktypes)?, packet.data, packet.origlen));
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => linktypes.clear(),
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            linktypes.push(interface.linktype);
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let linktype = of(packet.if_id, linktypes)?;
            frames.push(frame(linktype, packet.packet_data(), packet.origlen));
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            let linktype = of(0, linktypes)?;
            frames.push(frame(linktype, packet.packet_data(), packet.origlen));
        }
        PcapBlockOwned::NG(_) => {}
    }
    Ok(())
}

fn frame(linktype: Linktype, data: &[u8], len: u32) -> Frame {
    let whole = data.len() as u64 >= u64::from(len);
    if linktype == Linktype::ETHERNET {
        return Frame {
            bytes: data.to_vec(),
            ethernet: true,
            whole,
        };
    }
    // Raw IP; Linux cooked, whose header has 16 bytes; BSD's loopback, whose header has 4.
    let header = match linktype {
        Linktype(113) => 16,
        Linktype::NULL | Linktype::LOOP => 4,
        _ => 0,
    };
    let ip = data.get(header..).unwrap_or_default();
    let ethertype: [u8; 2] = match ip.first().map(|first| first >> 4) {
        Some(4) => [0x08, 0x00],
        Some(6) => [0x86, 0xDD],
        _ => [0, 0],
    };
    let mut bytes = vec![0; 12];
    bytes.extend(ethertype);
    bytes.extend(ip);
    Frame {
        bytes,
        ethernet: false,
        whole,
    }
}
