//! A snapshot that is being made, until it is known.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use rustix::fs::Mode;

use super::layers::insert_layer;
use super::{COLUMNS, LayerBlob, Snapshot, SnapshotId, content_key, find, missing};
use crate::digest::Digest;
use crate::error::{IndexContext as _, IoContext as _};
use crate::index::{self, EPOCH};
use crate::lease;
use crate::root_dir::RootDir;
use crate::store::{Error, Result, Shared, Store, make_directory};
use crate::tree::{Tree, Written};
use crate::unchanged;

/// A snapshot that is being made. Dropping it removes it.
#[derive(Debug)]
#[must_use = "dropping it removes what was written"]
pub struct ActiveSnapshot {
    shared: Arc<Shared>,
    /// `tmp/X`, with `fs` in it.
    holder: PathBuf,
    upper: PathBuf,
    work: PathBuf,
    /// When nothing was in it yet.
    since: (i64, u32),
    /// The holder has its final name.
    committed: bool,
}

impl ActiveSnapshot {
    /// `holder` is a new directory below `tmp/`.
    pub(super) fn make(shared: &Arc<Shared>, holder: PathBuf) -> Result<Self> {
        let mut active = Self {
            shared: Arc::clone(shared),
            upper: holder.join("fs"),
            work: PathBuf::new(),
            since: unchanged::now(),
            holder,
            committed: false,
        };
        make_directory(&active.upper)?;
        // Becomes the mode of the root that processes see; whatever the umask is.
        rustix::fs::chmod(&active.upper, Mode::from_raw_mode(0o755)).at("chmod", &active.upper)?;
        active.work = shared.work_directory()?;
        Ok(active)
    }

    /// Makes the work directory a fresh one: a `volatile` overlay leaves one that cannot be mounted again.
    pub fn renew_work(&self) -> Result<()> {
        crate::lease::remove(&self.work)?;
        make_directory(&self.work)
    }

    /// The directory that becomes the snapshot.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// A fresh overlay work directory on the same file system.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Scans the upper directory, writes its tree, moves it to its place and makes it known. Nothing may be mounted
    /// on it any more. What is in it because of a change that changed nothing is taken out.
    pub fn commit(self, parent: Option<&SnapshotId>, created: i64) -> Result<Snapshot> {
        let root = RootDir::open_ambient(&self.upper).at("open", &self.upper)?;
        let mut tree = Tree::scan(root.as_fd())?;
        if let Some(parent) = parent {
            let store = Store {
                shared: Arc::clone(&self.shared),
            };
            unchanged::remove(&store, parent, &root, &mut tree, self.since)?;
        }
        self.commit_with_tree(parent, created, tree)
    }

    /// As [`ActiveSnapshot::commit`], without reading the files in `written` again.
    pub fn commit_written(
        self,
        parent: Option<&SnapshotId>,
        created: i64,
        written: &Written,
    ) -> Result<Snapshot> {
        let root = RootDir::open_ambient(&self.upper).at("open", &self.upper)?;
        let tree = Tree::scan_written(root.as_fd(), written)?;
        self.commit_with_tree(parent, created, tree)
    }

    /// As [`ActiveSnapshot::commit`], with a tree that the caller made while writing: what [`Tree::scan`] would
    /// find, in any order. Errors: `Damaged` if it names a path twice.
    pub fn commit_with_tree(
        self,
        parent: Option<&SnapshotId>,
        created: i64,
        tree: Tree,
    ) -> Result<Snapshot> {
        self.publish(parent, created, tree, None)
    }

    /// Makes a snapshot known whose files are in a layer only, in the form that `variant` names; what is in the
    /// directories here goes. The tree is what [`Tree::scan`] would find. The blob must be in the store.
    pub fn commit_packed(
        self,
        parent: Option<&SnapshotId>,
        created: i64,
        tree: Tree,
        (variant, blob): (&str, &LayerBlob),
    ) -> Result<Snapshot> {
        self.publish(parent, created, tree, Some((variant, blob)))
    }

    fn publish(
        mut self,
        parent: Option<&SnapshotId>,
        created: i64,
        mut tree: Tree,
        layer: Option<(&str, &LayerBlob)>,
    ) -> Result<Snapshot> {
        if !tree.is_in_order() {
            tree.sort();
            if !tree.is_in_order() {
                return Err(Error::damaged(
                    "the listing of a new snapshot",
                    "it names a path twice",
                ));
            }
        }
        // overlayfs leaves `work/work` with mode 000; it is no part of a snapshot.
        self.shared.remover.clean(std::mem::take(&mut self.work));
        if layer.is_some() {
            let doomed = self.shared.temporary_path();
            rustix::fs::rename(&self.upper, &doomed).at("remove", &self.upper)?;
            self.shared.remover.remove(doomed);
        }
        let listing = self.holder.join("tree");
        std::fs::write(&listing, tree.encode()).at("write", &listing)?;
        let id = SnapshotId(lease::random_word()?);
        let own = tree.digest();

        let shared = Arc::clone(&self.shared);
        let place = shared.snapshot_holder(&id);
        let _publishing = shared.publish_lock(false)?;
        let action = "publish a snapshot";
        let mut connection = shared.index();
        let below = match parent {
            Some(parent) => Some(find(&connection, parent)?.ok_or_else(|| missing(parent))?),
            None => None,
        };
        let snapshot = Snapshot {
            content: content_key(below.as_ref().map(|below| below.content), own),
            id,
            parent: parent.cloned(),
            tree: own,
            created,
            size_bytes: tree.size_bytes(),
            packed: layer.map(|(_, blob)| blob.digest),
        };
        rustix::fs::rename(&self.holder, &place).at("create", &place)?;
        self.holder = place;
        let transaction = index::write(&mut connection)?;
        // Once more, now that nobody can take it away.
        if let Some(parent) = parent
            && find(&transaction, parent)?.is_none()
        {
            return Err(missing(parent));
        }
        let now = shared.lease.now_ms();
        transaction
            .prepare_cached(&format!(
                "INSERT INTO snapshots ({COLUMNS}, used, unsynced)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, {EPOCH})"
            ))
            .doing(action)?
            .execute((
                &snapshot.id.0,
                snapshot.parent.as_ref().map(|parent| &parent.0),
                &snapshot.tree.0,
                &snapshot.content.0,
                created,
                snapshot.size_bytes.cast_signed(),
                snapshot.packed.as_ref().map(Digest::as_bytes),
                now,
            ))
            .doing(action)?;
        if let Some((variant, blob)) = layer {
            insert_layer(&transaction, &snapshot.id, variant, blob)?;
        }
        transaction.commit().doing(action)?;
        shared.fill();
        self.committed = true;
        drop(connection);
        shared
            .trees
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remember(false, &snapshot.id, &Arc::new(tree));
        Ok(snapshot)
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        let mut doomed = Vec::new();
        if !self.committed {
            doomed.push(&self.holder);
        }
        // Not yet given back.
        if !self.work.as_os_str().is_empty() {
            doomed.push(&self.work);
        }
        for path in doomed {
            if let Err(error) = lease::remove(path) {
                tracing::debug!(%error, "an unfinished snapshot stays until it is collected");
            }
        }
    }
}
