//! An array of the kernel's that a revision writes as a whole: many entries in one call.

use super::Raw;
use crate::{Error, Result};
use aya::{
    Pod,
    maps::{Array, Map, MapData},
};
use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
};

/// An array of `T`. aya's own takes a call for each entry; of a hundred thousand calls a revision took longest.
pub struct Table<T> {
    map: Map,
    name: &'static str,
    of: PhantomData<T>,
}

/// `bpf(2)`'s attributes of a batch.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Linux 5.6; `include/uapi/linux/bpf.h`.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// The same.
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

impl<T: Copy + Default> Table<T>
where
    Raw<T>: Pod,
{
    /// # Errors
    /// [`Error::Map`] where it is no array of such values.
    pub(super) fn new(name: &'static str, map: Map) -> Result<Self> {
        Array::<&MapData, Raw<T>>::try_from(&map).map_err(Error::map(name))?;
        Ok(Self {
            map,
            name,
            of: PhantomData,
        })
    }

    /// The entry at `index`.
    ///
    /// # Errors
    /// [`Error::Map`]: beyond its end, or what the kernel said.
    pub fn get(&self, index: u32) -> Result<T> {
        let array = Array::<&MapData, Raw<T>>::try_from(&self.map);
        let value = array.and_then(|array| array.get(&index, 0));
        Ok(value.map_err(Error::map(self.name))?.0)
    }

    /// Writes the entry at `index`.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn set(&mut self, index: u32, value: T) -> Result<()> {
        let array = Array::<&mut MapData, Raw<T>>::try_from(&mut self.map);
        let set = array.and_then(|mut array| array.set(index, Raw(value), 0));
        set.map_err(Error::map(self.name))
    }

    /// `count` entries from `first` on, in one call.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn values(&self, first: u32, count: u32) -> Result<Vec<T>> {
        let mut values = vec![T::default(); count as usize];
        if values.is_empty() {
            return Ok(values);
        }
        // The kernel begins behind the key that it is given, and says where it ended.
        let before = first.wrapping_sub(1);
        let (mut keys, mut end) = (vec![0_u32; count as usize], 0_u32);
        let batch = Batch {
            in_batch: if first == 0 {
                0
            } else {
                &raw const before as u64
            },
            out_batch: &raw mut end as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count,
            ..Batch::default()
        };
        self.call(BPF_MAP_LOOKUP_BATCH, batch)?;
        Ok(values)
    }

    /// Writes entries from `first` on, in one call. Where it fails, some may be written.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn put(&mut self, first: u32, values: &[T]) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let keys: Vec<u32> = (first..).take(values.len()).collect();
        let batch = Batch {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: values.len() as u32,
            ..Batch::default()
        };
        self.call(BPF_MAP_UPDATE_BATCH, batch)
    }

    /// The arrays that `batch` names hold `batch.count` keys of four bytes, and values of `T`, and live as long as it.
    fn call(&self, command: libc::c_long, mut batch: Batch) -> Result<()> {
        let refused = |reason: String| Error::Map {
            map: self.name,
            reason,
        };
        let Map::Array(data) = &self.map else {
            return Err(refused("it is no array".into()));
        };
        batch.map_fd = data.fd().as_fd().as_raw_fd() as u32;
        let wanted = batch.count;
        // SAFETY: the structure lives through the call, and so do the arrays, see above; `new` has held the size of
        // a value against the map's.
        let failed =
            unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut batch, size_of::<Batch>()) };
        let error = io::Error::last_os_error();
        // ENOENT: the last entry of the array was among them.
        if failed != 0 && error.raw_os_error() != Some(libc::ENOENT) {
            return Err(refused(error.to_string()));
        }
        if batch.count != wanted {
            return Err(refused(format!("{} entries of {wanted}", batch.count)));
        }
        Ok(())
    }
}
