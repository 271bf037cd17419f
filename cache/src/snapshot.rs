//! Snapshots: what one vertex added, as an overlay upper directory; a root file system is a chain of them.
//!
//! `prepare` → write into `upper` → `commit`: a transition consumes. Overlay's marks in an upper directory are
//! those of `userxattr` mounts for every user: whiteouts are character devices 0:0, opaque directories carry
//! `user.overlay.opaque=y`. So a store means the same to root and to an ordinary user.
//!
//! What a snapshot is on disk is made in `tmp/` and becomes visible by one rename, after which its row is written.
//! A directory without a row is garbage.
//!
//! One that is being made: `active`. Which snapshot an unpacked image is: `chain_ids`; which blob is a snapshot's
//! layer: `layers`; what is in one: `trees`.

mod active;
mod chain_ids;
mod damage;
mod layers;
mod trees;

use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension as _, Row};

use crate::digest::Digest;
use crate::error::IndexContext as _;
use crate::key::{Key, KeyWriter};
use crate::nursery;
use crate::store::{Error, Result, Shared, Store, make_directory};

pub use active::ActiveSnapshot;
pub(crate) use damage::{damaged_rows, forget_rows};
pub use layers::LayerBlob;
pub(crate) use layers::read_layer;
pub(crate) use trees::TreeMemory;

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
    /// The layer that holds its files, where they are nowhere else yet (`packed`).
    pub packed: Option<Digest>,
}

impl SnapshotId {
    /// Takes an id from where it was written down; `None` for what this module never makes.
    pub fn parse(text: &str) -> Option<Self> {
        crate::collect::is_hex(text, 32).then(|| Self(text.to_owned()))
    }

    /// As it is written in the index and as a directory's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// From so many files on, a few more calls are worth a better place for a snapshot's files.
const MANY_FILES: usize = 1000;

const COLUMNS: &str = "id, parent, tree, content, created, size, packed";

impl Store {
    /// Makes an empty upper and work directory on the store's file system.
    pub fn prepare(&self) -> Result<ActiveSnapshot> {
        let holder = self.shared.nursery_path();
        make_directory(&holder)?;
        ActiveSnapshot::make(&self.shared, holder)
    }

    /// As [`Store::prepare`], for a snapshot that is likely to get `files` files. Where there are many, they are to be
    /// apart from those of other snapshots.
    pub fn prepare_for(&self, files: usize) -> Result<ActiveSnapshot> {
        if files < MANY_FILES {
            return self.prepare();
        }
        let holder = self.shared.temporary_path();
        nursery::make_apart(&holder, &self.shared.temporary_path())?;
        ActiveSnapshot::make(&self.shared, holder)
    }

    /// A committed snapshot. [`Error::Missing`] where there is none.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Snapshot> {
        find(&self.index(), id)?.ok_or_else(|| missing(id))
    }

    /// From the bottom to `id`. Errors: `Missing` if one is gone.
    pub fn chain(&self, id: &SnapshotId) -> Result<Vec<Snapshot>> {
        let action = "read a chain of snapshots";
        let connection = self.index();
        let mut statement = connection
            .prepare_cached(
                "WITH RECURSIVE up(id, parent, tree, content, created, size, packed, depth) AS (
                   SELECT id, parent, tree, content, created, size, packed, 0
                   FROM snapshots WHERE id = ?1
                   UNION ALL
                   SELECT s.id, s.parent, s.tree, s.content, s.created, s.size, s.packed,
                          up.depth + 1
                   FROM snapshots AS s JOIN up ON s.id = up.parent
                   WHERE up.depth < 100000)
                 SELECT id, parent, tree, content, created, size, packed FROM up
                 ORDER BY depth DESC",
            )
            .doing(action)?;
        let chain = statement
            .query_map([&id.0], read)
            .and_then(Iterator::collect::<rusqlite::Result<Vec<Snapshot>>>)
            .doing(action)?;
        let Some(bottom) = chain.first() else {
            return Err(missing(id));
        };
        match &bottom.parent {
            Some(parent) => Err(missing(parent)),
            None => Ok(chain),
        }
    }
}

impl Shared {
    /// `snapshots/ID`.
    pub(crate) fn snapshot_holder(&self, id: &SnapshotId) -> PathBuf {
        let mut path = self.root.join("snapshots");
        path.push(&id.0);
        path
    }
}

/// Identity of a root: of what is below and of what this snapshot adds.
pub fn content_key(parent: Option<Key>, tree: Key) -> Key {
    let mut writer = KeyWriter::new("snapshot.v1");
    match parent {
        Some(parent) => writer.add_key("parent", parent),
        None => writer.add("no parent", b""),
    }
    writer.add_key("tree", tree);
    writer.finish()
}

pub(crate) fn find(connection: &Connection, id: &SnapshotId) -> Result<Option<Snapshot>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM snapshots WHERE id = ?1"))
        .and_then(|mut statement| statement.query_row([&id.0], read).optional())
        .doing("look up a snapshot")
}

pub(crate) fn mark_used(connection: &Connection, id: &SnapshotId, now_ms: i64) -> Result<()> {
    connection
        .prepare_cached("UPDATE snapshots SET used = MAX(used, ?2) WHERE id = ?1")
        .and_then(|mut statement| statement.execute((&id.0, now_ms)))
        .doing("mark a snapshot as used")?;
    Ok(())
}

/// Reads [`COLUMNS`].
pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Snapshot> {
    Ok(Snapshot {
        id: SnapshotId(row.get(0)?),
        parent: row.get::<_, Option<String>>(1)?.map(SnapshotId),
        tree: Key(row.get(2)?),
        content: Key(row.get(3)?),
        created: row.get(4)?,
        size_bytes: row.get::<_, i64>(5)?.cast_unsigned(),
        packed: row.get::<_, Option<[u8; 32]>>(6)?.map(Digest::from_bytes),
    })
}

pub(crate) fn missing(id: &SnapshotId) -> Error {
    Error::Missing(format!("snapshot {}", id.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_snapshot_is_as_any_other() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let mut trees = Vec::new();
        for files in [0, MANY_FILES] {
            let active = store.prepare_for(files).unwrap();
            std::fs::write(active.upper().join("file"), "bytes").unwrap();
            let snapshot = active.commit(None, 0).unwrap();
            let files = store.snapshot_directory(&snapshot.id).unwrap();
            assert_eq!(std::fs::read(files.join("file")).unwrap(), b"bytes");
            trees.push(snapshot.tree);
        }
        assert_eq!(trees[0], trees[1]);
        drop(store.prepare_for(MANY_FILES).unwrap());
        let left = std::fs::read_dir(directory.path().join("store/tmp")).unwrap();
        let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        // The work directories are used again.
        assert!(names.len() <= 3, "{names:?}");
    }
}
