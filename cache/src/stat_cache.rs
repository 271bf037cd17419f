//! The stat cache of one build context: which content digest a file had when its stat looked like this.
//! One sorted flat file per context under `contexts/`, merged with the walk. Racily clean files (changed within
//! the clock's granularity of the scan) are never trusted.

use std::path::Path;

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

/// Loaded for one walk, saved after it.
#[derive(Debug)]
pub struct StatCache {}

impl Store {
    /// `context` is the context's canonical path. A missing or damaged file is an empty cache.
    pub fn stat_cache(&self, _context: &Path) -> StatCache {
        todo!()
    }

    /// Writes atomically; only if something changed.
    pub fn save_stat_cache(&self, _cache: StatCache) -> Result<()> {
        todo!()
    }
}

impl StatCache {
    /// The digest of `path` (relative to the context) if its stamp is the same and not racily clean.
    pub fn get(&self, _path: &[u8], _stamp: &Stamp) -> Option<[u8; 32]> {
        todo!()
    }

    pub fn put(&mut self, _path: &[u8], _stamp: Stamp, _content: [u8; 32]) {
        todo!()
    }
}
