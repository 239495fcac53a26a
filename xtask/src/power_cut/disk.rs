//! A disk as it is when its power is cut: with a write cache that is lost.
//!
//! Killing QEMU alone loses what the guest kept in its own memory and nothing else: what it had written is
//! in the page cache of this host, and stays. A real disk has a cache of its own. So the guest's disk is
//! this one, over NBD (`nbd.rs`), in one of two kinds:
//!
//! - [`Cache::Through`] keeps each write, in the order of the guest. Lost is what the guest did not write.
//! - [`Cache::Volatile`] keeps what was written before the last flush. Of the rest it keeps any sectors and
//!   loses any others, whatever their order was: writes are torn and turned round. Sectors go to the medium
//!   before a flush, too, as they like.
//!
//! Both answer a flush only when the image file has everything; the second takes its time for it, so that
//! the power often goes in the middle. A block of 4 KiB is never torn, which is what disks of today write at
//! once: ext4 takes a torn commit block for a damaged journal, whose checksum is over all of it, and is not
//! mounted any more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use super::dice::Dice;

/// Bytes of the least that is read or written.
pub const SECTOR: usize = 512;

/// Sectors of what is written whole or not at all.
const BLOCK: u64 = 8;

/// Of so many blocks that are written, one goes to the medium at once.
const EAGER: u64 = 8;

/// A flush of a volatile cache takes less than this, ms.
const FLUSH_MS: u64 = 300;

/// What the disk does with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// It is on the medium when it is answered.
    Through,
    /// It is on the medium when a flush is answered.
    Volatile,
}

/// The disk.
#[derive(Debug)]
pub struct Disk {
    medium: File,
    bytes: u64,
    cache: Cache,
    dice: Dice,
    unsaved: BTreeMap<u64, [u8; SECTOR]>,
    off: Arc<AtomicBool>,
}

/// What a cut did to the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Sectors that nobody had flushed and that are there all the same.
    pub kept: u64,
    /// Sectors that are gone.
    pub lost: u64,
}

impl Disk {
    /// Opens an image, whose length is a multiple of a sector.
    pub fn open(image: &Path, cache: Cache, seed: u64) -> io::Result<Self> {
        let medium = File::options().read(true).write(true).open(image)?;
        Ok(Self {
            bytes: medium.metadata()?.len(),
            medium,
            cache,
            dice: Dice::new(seed),
            unsaved: BTreeMap::new(),
            off: Arc::default(),
        })
    }

    /// Set when the power goes: nothing is served from then on.
    pub fn off(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.off)
    }

    /// Whether the power is there.
    pub fn is_on(&self) -> bool {
        !self.off.load(Relaxed)
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills `buffer`; both ends are at a sector's.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.medium.read_exact_at(buffer, offset)?;
        let first = offset / SECTOR as u64;
        for (number, sector) in (first..).zip(buffer.chunks_exact_mut(SECTOR)) {
            if let Some(unsaved) = self.unsaved.get(&number) {
                sector.copy_from_slice(unsaved);
            }
        }
        Ok(())
    }

    /// Takes `data`; both ends are at a sector's.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.cache == Cache::Through {
            return self.medium.write_all_at(data, offset);
        }
        let first = offset / SECTOR as u64;
        let mut eager = false;
        for (number, sector) in (first..).zip(data.as_chunks::<SECTOR>().0) {
            if number == first || number % BLOCK == 0 {
                eager = self.dice.below(EAGER) == 0;
            }
            if eager {
                self.unsaved.remove(&number);
                self.save(number, sector)?;
            } else {
                self.unsaved.insert(number, *sector);
            }
        }
        Ok(())
    }

    /// Brings everything to the medium, unless the power goes meanwhile.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.cache == Cache::Volatile {
            for _ in 0..self.dice.below(FLUSH_MS) {
                thread::sleep(Duration::from_millis(1));
                if !self.is_on() {
                    return Ok(());
                }
            }
        }
        while let Some((number, sector)) = self.unsaved.pop_first() {
            self.save(number, &sector)?;
        }
        Ok(())
    }

    /// What is left when the power is gone.
    pub fn cut(mut self) -> io::Result<Cut> {
        let mut cut = Cut::default();
        // All of it, none of it, or something between.
        let kept_in_8 = self.dice.below(9);
        let mut block = None;
        let mut kept = false;
        while let Some((number, sector)) = self.unsaved.pop_first() {
            if block.replace(number / BLOCK) != Some(number / BLOCK) {
                kept = self.dice.below(8) < kept_in_8;
            }
            if kept {
                self.save(number, &sector)?;
                cut.kept += 1;
            } else {
                cut.lost += 1;
            }
        }
        Ok(cut)
    }

    fn save(&self, number: u64, sector: &[u8; SECTOR]) -> io::Result<()> {
        self.medium.write_all_at(sector, number * SECTOR as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    const SECTORS: usize = 64;

    fn image(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("octroi-disk-{name}-{}", std::process::id()));
        fs::write(&path, [0; SECTORS * SECTOR]).unwrap();
        path
    }

    fn sectors(path: &Path) -> Vec<u8> {
        let bytes = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        let whole = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
        assert!(bytes.chunks(SECTOR).all(whole), "a sector is torn");
        bytes.chunks(SECTOR).map(|sector| sector[0]).collect()
    }

    #[test]
    fn a_volatile_cache_keeps_what_was_flushed_and_any_part_of_the_rest() {
        let (mut all, mut none, mut some) = (0, 0, 0);
        for seed in 0..40 {
            let path = image("volatile");
            let mut disk = Disk::open(&path, Cache::Volatile, seed).unwrap();
            disk.write(0, &[1; SECTORS * SECTOR]).unwrap();
            disk.flush().unwrap();
            disk.off().store(true, Relaxed);
            disk.write(0, &[2; SECTORS * SECTOR]).unwrap();
            let mut buffer = [0; SECTORS * SECTOR];
            disk.read(0, &mut buffer).unwrap();
            disk.flush().unwrap();
            assert!(buffer.iter().all(|byte| *byte == 2), "it forgets");
            let cut = disk.cut().unwrap();
            let kept = sectors(&path);
            assert!(kept.iter().all(|byte| [1, 2].contains(byte)), "{kept:?}");
            let whole = |block: &[u8]| block.iter().all(|byte| *byte == block[0]);
            assert!(
                kept.chunks(BLOCK as usize).all(whole),
                "a block is torn: {kept:?}"
            );
            let old = kept.iter().filter(|byte| **byte == 1).count();
            assert_eq!(old as u64, cut.lost);
            all += u64::from(old == 0);
            none += u64::from(cut.kept == 0);
            some += u64::from(old != 0 && cut.kept != 0);
        }
        assert!(all > 0 && none > 0 && some > 0, "{all} {none} {some}");
    }

    #[test]
    fn a_disk_that_writes_through_loses_nothing() {
        let path = image("through");
        let mut disk = Disk::open(&path, Cache::Through, 1).unwrap();
        disk.write(SECTOR as u64, &[3; SECTOR]).unwrap();
        assert_eq!(disk.cut().unwrap(), Cut::default());
        assert_eq!(sectors(&path)[..3], [0, 3, 0]);
    }
}
