//! Cache mounts: directories that outlive builds, by the hash of their id (an id is never a path).

use std::path::{Path, PathBuf};

use crate::store::{Result, Store};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Any number of users at once.
    Shared,
    /// Another user at the same time gets a directory of its own.
    Private,
    /// One user at a time; the others wait.
    Locked,
}

/// A cache mount in use; its lock is freed on drop and at death.
#[derive(Debug)]
#[must_use = "dropping it lets collection and locked users take the directory"]
pub struct CacheMount {}

impl CacheMount {
    pub fn path(&self) -> &Path {
        todo!()
    }

    /// True when the directory was made by this call and nothing was put in yet.
    pub fn is_new(&self) -> bool {
        todo!()
    }
}

/// What `cache mounts ls` tells.
#[derive(Debug, Clone)]
pub struct CacheMountInfo {
    pub id: String,
    pub path: PathBuf,
    pub last_used: i64,
}

impl Store {
    /// Takes a cache mount, waiting where `Locked` asks for it. Call from a blocking thread. A new one is made
    /// empty, mode 0755, owned by the caller; the executor sets mode, owner and first content.
    pub fn cache_mount(&self, _id: &str, _sharing: Sharing) -> Result<CacheMount> {
        todo!()
    }

    /// Empties the mount of an id (for `--no-cache`): the directory now there is left to its users, the next user
    /// gets a new one.
    pub fn reset_cache_mount(&self, _id: &str) -> Result<()> {
        todo!()
    }

    pub fn cache_mounts(&self) -> Result<Vec<CacheMountInfo>> {
        todo!()
    }
}
