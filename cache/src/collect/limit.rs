//! Keeping to a limit without being asked: after a command that put something into the store.
//!
//! A command that found everything in the cache pays nothing for it. What it costs otherwise is reading the index
//! and looking once at each snapshot that is new; the store is never walked.

use rustix::fs::FlockOperation;

use super::{PruneOptions, Pruned};
use crate::error::IoContext as _;
use crate::store::{Result, Store, open_lock_file};

/// What the store may take. Held things (names of images, containers, what living processes use) are never touched,
/// even where they alone are more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// For images, build cache and cache mounts together, in bytes.
    pub max_bytes: Option<u64>,
    /// So much is left free on the store's file system, in bytes.
    pub min_free_bytes: Option<u64>,
    /// What nobody used for so many seconds goes.
    pub keep_seconds: Option<i64>,
}

impl Limits {
    fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl Store {
    /// Brings the store back to its limits where this process put something in. `None` where there was nothing to
    /// do, or another process is at it. Safe beside running builds.
    pub fn keep_within(&self, limits: Limits) -> Result<Option<Pruned>> {
        if limits.is_none() || !self.shared.was_filled() {
            return Ok(None);
        }
        let path = self.root().join("locks/collect");
        let lock = open_lock_file(&path)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            result => result.at("lock", &path)?,
        }
        let used = self.collectable_bytes()?;
        let mut keep = limits.max_bytes.filter(|max| used > *max);
        if let Some(wanted) = limits.min_free_bytes {
            let room = rustix::fs::statvfs(self.root()).at("look at", self.root())?;
            let free = room.f_bavail.saturating_mul(room.f_frsize);
            if free < wanted {
                let less = used.saturating_sub(wanted - free);
                keep = Some(keep.map_or(less, |keep| keep.min(less)));
            }
        }
        let mut pruned = None;
        if let Some(seconds) = limits.keep_seconds {
            let old = PruneOptions {
                until: Some(crate::lease::now_ms() / 1000 - seconds),
                ..PruneOptions::default()
            };
            pruned = Some(self.prune(&old)?);
        }
        if keep.is_some() {
            let options = PruneOptions {
                keep_storage: keep,
                ..PruneOptions::default()
            };
            let more = self.prune(&options)?;
            pruned = Some(match pruned {
                Some(pruned) => pruned.and(more),
                None => more,
            });
        }
        Ok(pruned.filter(|pruned| pruned.bytes > 0 || pruned.still_too_much.is_some()))
    }
}
