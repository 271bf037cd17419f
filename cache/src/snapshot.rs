//! Snapshots: what one vertex added, as an overlay upper directory; a root file system is a chain of them.
//!
//! `prepare` → write into `upper` → `commit`: a transition consumes. Overlay's marks in an upper directory are
//! those of `userxattr` mounts for every user: whiteouts are character devices 0:0, opaque directories carry
//! `user.overlay.opaque=y`. So a store means the same to root and to an ordinary user.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::{ChainId, DiffId, Digest};
use crate::key::Key;
use crate::store::{Result, Store};
use crate::tree::Tree;

/// Random; only ever made by this module, so it is safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub(crate) String);

/// A committed snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub parent: Option<SnapshotId>,
    /// Digest of its own tree.
    pub tree: Key,
    /// Identity of the whole root it stands for: of the parent's content and its own tree. Two chains with equal
    /// content have the same files, modes and owners.
    pub content: Key,
    /// When the step that made it was done; Unix seconds. For image layers: 0.
    pub created: i64,
    /// Of regular files, in bytes.
    pub size_bytes: u64,
}

/// A snapshot that is being made. Dropping it removes it.
#[derive(Debug)]
pub struct ActiveSnapshot {}

/// A compressed form of a snapshot's layer that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
    pub diff_id: DiffId,
}

impl SnapshotId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Store {
    /// Makes an empty upper and work directory on the store's file system.
    pub fn prepare(&self) -> Result<ActiveSnapshot> {
        todo!()
    }

    pub fn snapshot(&self, _id: &SnapshotId) -> Result<Snapshot> {
        todo!()
    }

    /// From the bottom to `id`. Errors: `Missing` if one is gone.
    pub fn chain(&self, _id: &SnapshotId) -> Result<Vec<Snapshot>> {
        todo!()
    }

    /// `snapshots/ID/fs`.
    pub fn snapshot_directory(&self, _id: &SnapshotId) -> PathBuf {
        todo!()
    }

    /// The tree of one snapshot (memoised).
    pub fn tree(&self, _id: &SnapshotId) -> Result<Arc<Tree>> {
        todo!()
    }

    /// The view of the chain that ends at `id` (memoised).
    pub fn merged_tree(&self, _id: &SnapshotId) -> Result<Arc<Tree>> {
        todo!()
    }

    /// The snapshot of an unpacked image layer stack, if it is here.
    pub fn snapshot_by_chain(&self, _chain: &ChainId) -> Result<Option<Snapshot>> {
        todo!()
    }

    /// Remembers that `id` is the stack `chain`.
    pub fn set_chain(&self, _id: &SnapshotId, _chain: &ChainId) -> Result<()> {
        todo!()
    }

    /// A known layer blob of a snapshot. `variant` names how its bytes were made (compression, level, timestamps),
    /// `image` for the blob it was unpacked from. `None` where its blob is gone too, unless `lazy`.
    pub fn layer_blob(&self, _id: &SnapshotId, _variant: &str) -> Result<Option<LayerBlob>> {
        todo!()
    }

    pub fn set_layer_blob(
        &self,
        _id: &SnapshotId,
        _variant: &str,
        _blob: &LayerBlob,
    ) -> Result<()> {
        todo!()
    }
}

impl ActiveSnapshot {
    /// The directory that becomes the snapshot.
    pub fn upper(&self) -> &Path {
        todo!()
    }

    /// A fresh overlay work directory beside it.
    pub fn work(&self) -> &Path {
        todo!()
    }

    /// Scans the upper directory, writes its tree, moves it to its place and makes it known.
    pub fn commit(self, _parent: Option<&SnapshotId>, _created: i64) -> Result<Snapshot> {
        todo!()
    }

    /// As [`ActiveSnapshot::commit`], with a tree that the caller made while writing.
    pub fn commit_with_tree(
        self,
        _parent: Option<&SnapshotId>,
        _created: i64,
        _tree: Tree,
    ) -> Result<Snapshot> {
        todo!()
    }
}
