//! The stat cache of one build context: which content digest a file had when its stat looked like this, and whether
//! it had extended attributes (whose change is a change of its ctime).
//! One sorted flat file per context under `contexts/`, merged with the walk. Racily clean files (changed within
//! the clock's granularity of the scan) are never trusted.

//!
//! The file: 8 bytes of magic and version, a count, the entries in the order of paths, a blake3 checksum; numbers
//! are little-endian.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering as Memory};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::store::{Result, Store};

/// What must be equal for a file to count as unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    pub mtime_ns: i128,
    pub ctime_ns: i128,
}

/// What is remembered of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// blake3 of its bytes.
    pub content: [u8; 32],
    /// It has attributes that are content; which ones must be asked.
    pub has_xattrs: bool,
}

/// Loaded for one walk, saved after it. `get` may be called from many threads; it is fastest in the order of paths.
#[derive(Debug)]
pub struct StatCache {
    path: PathBuf,
    /// When it was loaded, in nanoseconds since 1970: before any file was looked at.
    started_ns: i128,
    bytes: Vec<u8>,
    /// Where the entries begin in `bytes`, sorted by path.
    entries: Vec<usize>,
    /// Which of them were asked for and still true.
    seen: Vec<AtomicBool>,
    /// Where the next question is likely to be answered.
    next: AtomicUsize,
    added: BTreeMap<Vec<u8>, (Stamp, Known)>,
    /// Something was put that was not there.
    changed: bool,
}

const MAGIC: &[u8; 8] = b"rbstat\0\x02";
const CHECKSUM_BYTES: usize = 32;
/// age and [`HAS_XATTRS`] (1), device, inode, size (8 each), mtime, ctime (16 each), content (32), length of the path
/// (4).
const FIXED_BYTES: usize = 1 + 3 * 8 + 2 * 16 + 32 + 4;
/// An entry that nobody asked for in so many saves is dropped: its file is gone, or ignored by now.
const AGE_MAX: u8 = 8;
/// In the byte of the age.
const HAS_XATTRS: u8 = 0x80;

/// Kernels stamp files by a clock that ticks every 1 to 10 ms.
const TICK_NS: i128 = 20_000_000;
/// Where a stamp has no fraction of a second, the file system may keep none (some keep even seconds only).
const COARSE_NS: i128 = 2_000_000_000;

impl Store {
    /// `context` is the context's canonical path. A missing or damaged file is an empty cache.
    pub fn stat_cache(&self, context: &Path) -> StatCache {
        let path = self.stat_cache_path(context);
        let bytes = std::fs::read(&path).unwrap_or_default();
        StatCache::load(path, bytes)
    }

    /// How many bytes [`Store::stat_cache`] would read: what is known of a context, roughly 100 and a path for each file.
    pub fn stat_cache_bytes(&self, context: &Path) -> u64 {
        std::fs::metadata(self.stat_cache_path(context)).map_or(0, |metadata| metadata.len())
    }

    fn stat_cache_path(&self, context: &Path) -> PathBuf {
        let name = blake3::hash(context.as_os_str().as_bytes()).to_hex();
        self.root().join("contexts").join(name.as_str())
    }

    /// Writes atomically; only if something changed.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a cache that was saved is not to be asked again"
    )]
    pub fn save_stat_cache(&self, cache: StatCache) -> Result<()> {
        if !cache.changed {
            return Ok(());
        }
        let bytes = cache.encode();
        self.shared.write_atomically(&cache.path, &bytes)
    }
}

impl StatCache {
    fn load(path: PathBuf, bytes: Vec<u8>) -> Self {
        let entries = index(&bytes).unwrap_or_default();
        let started_ns = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos().cast_signed());
        Self {
            path,
            started_ns,
            seen: entries.iter().map(|_| AtomicBool::new(false)).collect(),
            bytes,
            entries,
            next: AtomicUsize::new(0),
            added: BTreeMap::new(),
            changed: false,
        }
    }

    /// What is known of `path` (relative to the context) if its stamp is the same and not racily clean.
    pub fn get(&self, path: &[u8], stamp: &Stamp) -> Option<Known> {
        let at = self.find(path)?;
        self.next.store(at + 1, Memory::Relaxed);
        let entry = self.entry(at)?;
        if entry.stamp != *stamp {
            return None;
        }
        if let Some(seen) = self.seen.get(at) {
            seen.store(true, Memory::Relaxed);
        }
        Some(entry.known)
    }

    /// Remembers what was found out from bytes read after `stamp` was taken. A file that changed since the
    /// cache was loaded, or within the clock's granularity before, is not remembered: it could change once more
    /// and look the same.
    pub fn put(&mut self, path: &[u8], stamp: Stamp, known: Known) {
        if self.is_racy(&stamp) {
            return;
        }
        self.changed = true;
        self.added.insert(path.to_vec(), (stamp, known));
    }

    fn is_racy(&self, stamp: &Stamp) -> bool {
        const SECOND_NS: i128 = 1_000_000_000;
        let coarse = stamp.ctime_ns % SECOND_NS == 0;
        let granularity = if coarse { COARSE_NS } else { TICK_NS };
        stamp.ctime_ns.saturating_add(granularity) >= self.started_ns
    }

    fn find(&self, path: &[u8]) -> Option<usize> {
        let hint = self.next.load(Memory::Relaxed);
        if self.path_at(hint) == Some(path) {
            return Some(hint);
        }
        self.entries
            .binary_search_by(|start| {
                entry_at(&self.bytes, *start).map_or(Ordering::Less, |entry| entry.path.cmp(path))
            })
            .ok()
    }

    fn path_at(&self, at: usize) -> Option<&[u8]> {
        Some(self.entry(at)?.path)
    }

    fn entry(&self, at: usize) -> Option<Stored<'_>> {
        entry_at(&self.bytes, *self.entries.get(at)?)
    }

    /// Old entries and new ones merged; a new one replaces the old one of its path.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + self.added.len() * 160 + 64);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 8]);
        let mut count = 0_u64;
        let mut added = self.added.iter().peekable();
        let old = (0..self.entries.len()).filter_map(|at| self.entry(at).map(|entry| (at, entry)));
        for (at, entry) in old {
            while let Some((path, (stamp, known))) =
                added.next_if(|(path, _)| path.as_slice() < entry.path)
            {
                put(&mut out, 0, path, stamp, *known);
                count += 1;
            }
            if added
                .peek()
                .is_some_and(|(path, _)| path.as_slice() == entry.path)
            {
                continue;
            }
            let seen = self
                .seen
                .get(at)
                .is_some_and(|seen| seen.load(Memory::Relaxed));
            let age = if seen { 0 } else { entry.age.saturating_add(1) };
            if age < AGE_MAX {
                put(&mut out, age, entry.path, &entry.stamp, entry.known);
                count += 1;
            }
        }
        for (path, (stamp, known)) in added {
            put(&mut out, 0, path, stamp, *known);
            count += 1;
        }
        if let Some(place) = out.get_mut(MAGIC.len()..MAGIC.len() + 8) {
            place.copy_from_slice(&count.to_le_bytes());
        }
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        out
    }
}

/// An entry as it lies in the file.
struct Stored<'a> {
    age: u8,
    stamp: Stamp,
    known: Known,
    path: &'a [u8],
}

fn put(out: &mut Vec<u8>, age: u8, path: &[u8], stamp: &Stamp, known: Known) {
    let Ok(length) = u32::try_from(path.len()) else {
        return;
    };
    out.push(age | if known.has_xattrs { HAS_XATTRS } else { 0 });
    for number in [stamp.device, stamp.inode, stamp.size] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&stamp.mtime_ns.to_le_bytes());
    out.extend_from_slice(&stamp.ctime_ns.to_le_bytes());
    out.extend_from_slice(&known.content);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(path);
}

/// True for what [`Store::save_stat_cache`] wrote.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    index(bytes).is_some()
}

/// Where the entries begin; `None` for a file that is not whole, sorted and of this version.
fn index(bytes: &[u8]) -> Option<Vec<usize>> {
    let end = bytes.len().checked_sub(CHECKSUM_BYTES)?;
    let (body, checksum) = bytes.split_at_checked(end)?;
    if !body.starts_with(MAGIC) || blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    let count = u64::from_le_bytes(bytes.get(MAGIC.len()..MAGIC.len() + 8)?.try_into().ok()?);
    let count = usize::try_from(count).ok()?;
    if count > body.len() / FIXED_BYTES {
        return None;
    }
    let mut entries = Vec::with_capacity(count);
    let mut start = MAGIC.len() + 8;
    let mut before: Option<&[u8]> = None;
    for _ in 0..count {
        let range = path_range(body, start)?;
        let path = body.get(range.clone())?;
        if before.is_some_and(|before| before >= path) {
            return None;
        }
        before = Some(path);
        entries.push(start);
        start = range.end;
    }
    (start == end).then_some(entries)
}

/// Where the path of the entry at `start` lies.
fn path_range(bytes: &[u8], start: usize) -> Option<Range<usize>> {
    let fixed = bytes.get(start..start.checked_add(FIXED_BYTES)?)?;
    let length = u32::from_le_bytes(fixed.get(FIXED_BYTES - 4..)?.try_into().ok()?);
    let begin = start + FIXED_BYTES;
    Some(begin..begin.checked_add(usize::try_from(length).ok()?)?)
}

fn entry_at(bytes: &[u8], start: usize) -> Option<Stored<'_>> {
    let path = bytes.get(path_range(bytes, start)?)?;
    let fixed = bytes.get(start..start + FIXED_BYTES)?;
    let small = |at: usize| Some(u64::from_le_bytes(fixed.get(at..at + 8)?.try_into().ok()?));
    let wide = |at: usize| {
        Some(i128::from_le_bytes(
            fixed.get(at..at + 16)?.try_into().ok()?,
        ))
    };
    let first = *fixed.first()?;
    Some(Stored {
        age: first & !HAS_XATTRS,
        stamp: Stamp {
            device: small(1)?,
            inode: small(9)?,
            size: small(17)?,
            mtime_ns: wide(25)?,
            ctime_ns: wide(41)?,
        },
        known: Known {
            content: fixed.get(57..89)?.try_into().ok()?,
            has_xattrs: first & HAS_XATTRS != 0,
        },
        path,
    })
}
