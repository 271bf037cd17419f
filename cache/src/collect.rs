//! Collection: what may go, in which order, and how much space is used.

use crate::store::{Result, Store};

#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Also what images' names do not hold but records do: everything not held by a name, a container or a lease.
    /// Without it: only dangling images, and records not used since `until`.
    pub all: bool,
    /// Keep at least this much (bytes), least valuable first.
    pub keep_storage: Option<u64>,
    /// Only what was last used before this Unix time.
    pub until: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub records: u64,
    pub snapshots: u64,
    pub blobs: u64,
    pub cache_mounts: u64,
    /// Blocks given back, in bytes.
    pub bytes: u64,
}

/// Real blocks by kind, in bytes; what is shared is counted once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub blobs: u64,
    pub snapshots: u64,
    pub cache_mounts: u64,
    pub contexts: u64,
    pub index: u64,
    pub reclaimable: u64,
}

impl Store {
    /// Removes what nothing holds. Safe beside running builds.
    pub fn prune(&self, _options: &PruneOptions) -> Result<Pruned> {
        todo!()
    }

    pub fn usage(&self) -> Result<Usage> {
        todo!()
    }
}

/// Real blocks of a tree in bytes, hard links counted once. What vanishes meanwhile does not count.
pub(crate) fn allocated(_path: &std::path::Path) -> u64 {
    0
}
