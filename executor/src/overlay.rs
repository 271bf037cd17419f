//! A chain of snapshots as one mount: `fsopen`/`fsconfig`/`fsmount`, by descriptors, `volatile`, `userxattr`.
//! Mounts are detached: nothing is ever mounted in a namespace but by the child that uses it.

use std::os::fd::OwnedFd;

use rbuild_cache::{ActiveSnapshot, RootDir, SnapshotId, Store};

#[derive(Debug, thiserror::Error)]
#[error("cannot mount the layers of a root: {step}")]
pub struct Error {
    pub step: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Read-only view of a chain.
pub fn view(_store: &Store, _snapshot: Option<&SnapshotId>) -> Result<RootDir, Error> {
    todo!()
}

/// The chain with `active` on top; writes land in its upper directory. The descriptor is a detached mount.
pub fn writable(
    _store: &Store,
    _base: Option<&SnapshotId>,
    _active: &ActiveSnapshot,
) -> Result<OwnedFd, Error> {
    todo!()
}
