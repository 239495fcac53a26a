//! A disk under SQLite's own unix layer: it knows what is durable and what only the page cache has, and it
//! fails when it is told to.
//!
//! What is written goes to the real file, so that everybody who looks sees it: that is the page cache. What
//! a sync made durable is noted beside. A crash of the host puts durable bytes back, and of the rest some
//! writes, torn at sectors. A sync that failed never makes its writes durable, whatever later syncs say
//! (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
//!
//! What it is not: names are not lost. A rename or a deletion is taken to be durable.

use super::dice::Dice;
use rusqlite::ffi;
use std::{
    cell::RefCell,
    collections::HashMap,
    ffi::{CStr, OsStr, c_char, c_int, c_void},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
    sync::OnceLock,
};

const SECTOR: usize = 512;

/// What goes wrong, until it is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// No room: writes fail, perhaps after a part of them.
    Full,
    /// Everything fails.
    Broken,
    /// Once, and then it works again.
    Glitch,
    /// Only syncs fail.
    Unsynced,
    /// Nothing may be written.
    ReadOnly,
    /// The process, or the host, is gone at this operation: nothing happens any more.
    Dead,
    /// A mutation: syncs do nothing, and say that they did.
    Lying,
}

enum Write {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

impl Write {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Bytes(at, bytes) => {
                let end = at + bytes.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*at..end].copy_from_slice(bytes);
            }
            Self::Length(length) => image.resize(*length, 0),
        }
    }
}

#[derive(Default)]
struct Kept {
    durable: Vec<u8>,
    pending: Vec<Write>,
}

/// Device and inode.
type File = (u64, u64);

#[derive(Default)]
struct Disk {
    files: HashMap<File, Kept>,
    open: HashMap<usize, (File, &'static Methods)>,
    /// Ours, by theirs: they live as long as the process.
    methods: HashMap<usize, &'static Methods>,
    /// What goes wrong after so many operations.
    trouble: Option<(u64, Trouble)>,
    /// How often it did.
    hits: u64,
    operations: u64,
}

thread_local! {
    /// A simulation is one thread, and has the disk of its own.
    static DISK: RefCell<Disk> = RefCell::default();
}

/// From the `after`th operation on, until [`heal`].
pub fn break_it(after: u64, trouble: Trouble) {
    DISK.with_borrow_mut(|disk| disk.trouble = Some((after, trouble)));
}

/// Everything works. Returns how many operations failed since it was broken.
pub fn heal() -> u64 {
    DISK.with_borrow_mut(|disk| {
        disk.trouble = None;
        std::mem::take(&mut disk.hits)
    })
}

/// Somebody else wrote this file, and all of it is durable.
pub fn adopt(path: &Path) {
    DISK.with_borrow_mut(|disk| {
        if let (Some(file), Ok(durable)) = (inode(path), fs::read(path)) {
            let pending = Vec::new();
            disk.files.insert(file, Kept { durable, pending });
        }
    });
}

/// Operations of this thread so far.
pub fn operations() -> u64 {
    DISK.with_borrow(|disk| disk.operations)
}

/// Has something gone wrong already?
pub fn has_failed() -> bool {
    DISK.with_borrow(|disk| disk.hits != 0)
}

/// Will something go wrong?
pub fn is_broken() -> bool {
    DISK.with_borrow(|disk| disk.trouble.is_some_and(|(_, what)| what != Trouble::Lying))
}

/// Has the process died at an operation?
pub fn has_died() -> bool {
    let dead = |disk: &Disk| matches!(disk.trouble, Some((_, Trouble::Dead)));
    has_failed() && DISK.with_borrow(dead)
}

/// Nothing goes wrong meanwhile.
pub fn spare(work: impl FnOnce()) {
    let trouble = DISK.with_borrow_mut(|disk| disk.trouble.take());
    work();
    DISK.with_borrow_mut(|disk| disk.trouble = trouble);
}

/// Nothing is known of any file: another simulation begins.
pub fn forget() {
    DISK.with_borrow_mut(|disk| {
        disk.files.clear();
        (disk.trouble, disk.hits, disk.operations) = (None, 0, 0);
    });
}

/// The power goes: in `dir`, what was not durable is there in parts. Nobody may have a file open.
pub fn power_cut(dir: &Path, dice: &mut Dice) {
    DISK.with_borrow_mut(|disk| {
        for entry in fs::read_dir(dir).expect("the directory is there") {
            let path = entry.expect("an entry").path();
            if path.to_string_lossy().ends_with("-shm") {
                fs::remove_file(&path).expect("shared memory can be removed");
                continue;
            }
            let file = inode(&path).expect("it is there");
            let Some(kept) = disk.files.get_mut(&file) else {
                continue;
            };
            // None of it, all, a prefix, or any.
            let (mode, count) = (dice.below(4), kept.pending.len());
            let prefix = dice.index(count + 1);
            for (at, write) in kept.pending.drain(..).enumerate() {
                let keep = match mode {
                    0 => false,
                    1 => true,
                    2 => at < prefix,
                    _ => dice.one_in(2),
                };
                match write {
                    _ if !keep => {}
                    Write::Bytes(at, mut bytes) if mode >= 2 && dice.one_in(4) => {
                        let sectors = dice.index(bytes.len() / SECTOR + 1);
                        bytes.truncate(sectors * SECTOR);
                        Write::Bytes(at, bytes).apply(&mut kept.durable);
                    }
                    write => write.apply(&mut kept.durable),
                }
            }
            fs::write(&path, &kept.durable).expect("room for it");
        }
    });
}

fn inode(path: &Path) -> Option<File> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// What an operation is, as far as trouble cares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Sync,
    Other,
}

impl Disk {
    /// What this operation says instead of being done; the flag: a part of it may be.
    fn fails(&mut self, kind: Kind, error: c_int) -> Option<(c_int, bool)> {
        self.operations += 1;
        let (left, trouble) = self.trouble.as_mut()?;
        if *left > 0 {
            *left -= 1;
            return None;
        }
        let trouble = *trouble;
        let code = match (trouble, kind) {
            (Trouble::Full, Kind::Write) => ffi::SQLITE_FULL,
            (Trouble::ReadOnly, Kind::Write) => ffi::SQLITE_READONLY,
            (Trouble::Unsynced, Kind::Sync) => error,
            (Trouble::Broken | Trouble::Glitch | Trouble::Dead, _) => error,
            _ => return None,
        };
        // The last write of a process that dies may be torn, and only the first after that.
        let torn = trouble == Trouble::Full || (trouble == Trouble::Dead && self.hits == 0);
        self.hits += 1;
        if trouble == Trouble::Glitch {
            self.trouble = None;
        }
        Some((code, torn))
    }

    fn lies(&self) -> bool {
        matches!(self.trouble, Some((0, Trouble::Lying)))
    }

    fn kept(&mut self, file: *mut ffi::sqlite3_file) -> Option<&mut Kept> {
        let (inode, _) = self.open.get(&(file as usize))?;
        self.files.get_mut(inode)
    }
}

type Methods = ffi::sqlite3_io_methods;

struct Unix(ffi::sqlite3_vfs);

// SAFETY: function pointers and constants of SQLite, written once and then only read.
unsafe impl Sync for Unix {}
// SAFETY: as above.
unsafe impl Send for Unix {}

static UNIX: OnceLock<Unix> = OnceLock::new();

/// From now on every file that SQLite opens in this process is on such a disk.
pub fn install() {
    UNIX.get_or_init(|| {
        // SAFETY: the default VFS exists for the life of the process; a copy of it with two functions
        // replaced is registered once and never freed.
        unsafe {
            let default = ffi::sqlite3_vfs_find(std::ptr::null());
            let mut ours = Box::new(*default);
            ours.zName = c"octroi-simulated".as_ptr();
            ours.pNext = std::ptr::null_mut();
            ours.xOpen = Some(open);
            ours.xDelete = Some(delete);
            let done = ffi::sqlite3_vfs_register(Box::into_raw(ours), 1);
            assert_eq!(done, ffi::SQLITE_OK);
            Unix(*default)
        }
    });
}

fn unix() -> &'static Unix {
    UNIX.get().expect("installed")
}

/// What SQLite's own layer does with this file.
fn real(file: *mut ffi::sqlite3_file) -> &'static Methods {
    let known = DISK.with_borrow(|disk| disk.open.get(&(file as usize)).map(|open| open.1));
    known.expect("a file that was opened here")
}

/// Its methods with four of ours. There are two kinds of files, with locks and without.
fn ours(original: &'static Methods) -> &'static Methods {
    DISK.with_borrow_mut(|disk| {
        let known = disk.methods.entry(std::ptr::from_ref(original) as usize);
        *known.or_insert_with(|| {
            Box::leak(Box::new(Methods {
                xClose: Some(close),
                xWrite: Some(write),
                xTruncate: Some(truncate),
                xSync: Some(sync),
                ..*original
            }))
        })
    })
}

/// # Safety
/// `name` is null or ends with 0.
unsafe fn path<'a>(name: *const c_char) -> Option<&'a Path> {
    if name.is_null() {
        return None;
    }
    // SAFETY: as the caller says.
    let name = unsafe { CStr::from_ptr(name) };
    Some(Path::new(OsStr::from_bytes(name.to_bytes())))
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's own arguments, handed on to its own function.
    unsafe {
        (*file).pMethods = std::ptr::null();
        let failed = DISK.with_borrow_mut(|disk| {
            let new = path(name).is_none_or(|path| !path.exists());
            let kind = if new { Kind::Write } else { Kind::Other };
            disk.fails(kind, ffi::SQLITE_CANTOPEN)
        });
        if failed.is_some() {
            return ffi::SQLITE_CANTOPEN;
        }
        let Some(real) = unix().0.xOpen else {
            return ffi::SQLITE_CANTOPEN;
        };
        let vfs = std::ptr::addr_of!(unix().0).cast_mut();
        let done = real(vfs, name, file, flags, out);
        if done != ffi::SQLITE_OK || (*file).pMethods.is_null() {
            return done;
        }
        let original: &'static Methods = &*(*file).pMethods;
        (*file).pMethods = ours(original);
        let file = file as usize;
        DISK.with_borrow_mut(|disk| disk.open.insert(file, ((0, 0), original)));
        if let Some(path) = path(name)
            && let Some(inode) = inode(path)
        {
            DISK.with_borrow_mut(|disk| {
                disk.open.insert(file, (inode, original));
                let image = fs::read(path).unwrap_or_default();
                if image.is_empty() || !disk.files.contains_key(&inode) {
                    let kept = Kept {
                        durable: image,
                        pending: Vec::new(),
                    };
                    disk.files.insert(inode, kept);
                }
            });
        }
        done
    }
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, dir: c_int) -> c_int {
    let failed = DISK.with_borrow_mut(|disk| disk.fails(Kind::Write, ffi::SQLITE_IOERR_DELETE));
    if failed.is_some() {
        return ffi::SQLITE_IOERR_DELETE;
    }
    // SAFETY: SQLite's own arguments, handed on to its own function.
    unsafe {
        if let Some(inode) = path(name).and_then(inode) {
            DISK.with_borrow_mut(|disk| disk.files.remove(&inode));
        }
        let vfs = std::ptr::addr_of!(unix().0).cast_mut();
        unix()
            .0
            .xDelete
            .map_or(ffi::SQLITE_IOERR, |real| real(vfs, name, dir))
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let methods = real(file);
    DISK.with_borrow_mut(|disk| disk.open.remove(&(file as usize)));
    // SAFETY: SQLite's own argument, handed on to its own function.
    unsafe { methods.xClose.map_or(ffi::SQLITE_IOERR, |real| real(file)) }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    count: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let failed = DISK.with_borrow_mut(|disk| disk.fails(Kind::Write, ffi::SQLITE_IOERR_WRITE));
    let (code, count) = match failed {
        None => (ffi::SQLITE_OK, count),
        Some((code, true)) => (code, count / 2),
        Some((code, false)) => return code,
    };
    // SAFETY: SQLite's own arguments, handed on to its own function; `count` is at most its own.
    unsafe {
        let done = real(file)
            .xWrite
            .map_or(ffi::SQLITE_IOERR, |real| real(file, bytes, count, offset));
        if done != ffi::SQLITE_OK {
            return done;
        }
        let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), count as usize);
        DISK.with_borrow_mut(|disk| {
            if let Some(kept) = disk.kept(file) {
                kept.pending
                    .push(Write::Bytes(offset as usize, bytes.to_vec()));
            }
        });
    }
    code
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    let failed = DISK.with_borrow_mut(|disk| disk.fails(Kind::Other, ffi::SQLITE_IOERR_TRUNCATE));
    if let Some((code, _)) = failed {
        return code;
    }
    DISK.with_borrow_mut(|disk| {
        if let Some(kept) = disk.kept(file) {
            kept.pending.push(Write::Length(size as usize));
        }
    });
    // SAFETY: SQLite's own arguments, handed on to its own function.
    unsafe {
        real(file)
            .xTruncate
            .map_or(ffi::SQLITE_IOERR, |real| real(file, size))
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    DISK.with_borrow_mut(|disk| {
        let failed = disk.fails(Kind::Sync, ffi::SQLITE_IOERR_FSYNC);
        let (lies, dead) = (
            disk.lies(),
            matches!(disk.trouble, Some((_, Trouble::Dead))),
        );
        let Some(kept) = disk.kept(file) else {
            return failed.map_or(ffi::SQLITE_OK, |(code, _)| code);
        };
        match failed {
            // Who dies here does not know whether it was done.
            Some((code, _)) if dead => code,
            Some((code, _)) => {
                // The page cache has it, and the disk will not get it.
                kept.pending.clear();
                code
            }
            None if lies => ffi::SQLITE_OK,
            None => {
                for write in kept.pending.drain(..) {
                    write.apply(&mut kept.durable);
                }
                ffi::SQLITE_OK
            }
        }
    })
}
