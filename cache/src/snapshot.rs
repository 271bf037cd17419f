//! Snapshots: what one vertex added, as an overlay upper directory; a root file system is a chain of them.
//!
//! `prepare` → write into `upper` → `commit`: a transition consumes. Overlay's marks in an upper directory are
//! those of `userxattr` mounts for every user: whiteouts are character devices 0:0, opaque directories carry
//! `user.overlay.opaque=y`. So a store means the same to root and to an ordinary user.
//!
//! What a snapshot is on disk is made in `tmp/` and becomes visible by one rename, after which its row is written.
//! A directory without a row is garbage.

mod active;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use rusqlite::{Connection, OptionalExtension as _, Row};

use crate::digest::{ChainId, DiffId, Digest};
use crate::error::{IndexContext as _, IoContext as _};
use crate::index::{self, EPOCH};
use crate::key::{Key, KeyWriter};
use crate::nursery;
use crate::store::{Error, Result, Shared, Store, make_directory};
use crate::tree::Tree;

pub use active::ActiveSnapshot;

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

/// A compressed form of a snapshot's layer that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
    pub diff_id: DiffId,
}

impl LayerBlob {
    /// What its row says, for the row's sum.
    pub(crate) fn fields<'a>(&'a self, id: &'a SnapshotId, variant: &'a str) -> [&'a [u8]; 5] {
        [
            id.0.as_bytes(),
            variant.as_bytes(),
            self.digest.as_bytes(),
            self.media_type.as_bytes(),
            self.diff_id.0.as_bytes(),
        ]
    }
}

/// Reads digest, size, media type, diff ID.
pub(crate) fn read_layer(row: &Row<'_>) -> rusqlite::Result<LayerBlob> {
    Ok(LayerBlob {
        digest: Digest::from_bytes(row.get(0)?),
        size: row.get::<_, i64>(1)?.cast_unsigned(),
        media_type: row.get(2)?,
        diff_id: DiffId(Digest::from_bytes(row.get(3)?)),
    })
}

/// Rows that do not say what was written, of unpacked images and of layers: what they are called and which they are.
pub(crate) fn damaged_rows(connection: &Connection) -> Result<Vec<(&'static str, String)>> {
    let action = "read what snapshots are of";
    let mut found = Vec::new();
    let mut chains = connection
        .prepare("SELECT chain, snapshot, sum FROM chains")
        .doing(action)?;
    let mut rows = chains.query([]).doing(action)?;
    while let Some(row) = rows.next().doing(action)? {
        let whole = || -> rusqlite::Result<bool> {
            let (chain, snapshot) = (row.get_ref(0)?.as_bytes()?, row.get_ref(1)?.as_bytes()?);
            let sum: Option<Vec<u8>> = row.get(2)?;
            Ok(index::is_sum(sum.as_deref(), &[chain, snapshot]))
        };
        if !whole().unwrap_or(false) {
            let chain: Vec<u8> = row.get(0).unwrap_or_default();
            found.push(("chains", hex::encode(chain)));
        }
    }
    let mut layers = connection
        .prepare("SELECT digest, size, media_type, diff_id, sum, snapshot, variant FROM layers")
        .doing(action)?;
    let mut rows = layers.query([]).doing(action)?;
    while let Some(row) = rows.next().doing(action)? {
        let whole = || -> rusqlite::Result<bool> {
            let id = SnapshotId(row.get(5)?);
            let variant: String = row.get(6)?;
            let sum: Option<Vec<u8>> = row.get(4)?;
            Ok(index::is_sum(
                sum.as_deref(),
                &read_layer(row)?.fields(&id, &variant),
            ))
        };
        if !whole().unwrap_or(false) {
            let id: String = row.get(5).unwrap_or_default();
            found.push(("layers", id));
        }
    }
    Ok(found)
}

/// Forgets what [`damaged_rows`] found.
pub(crate) fn forget_rows(connection: &Connection, rows: &[(&'static str, String)]) -> Result<()> {
    for (table, name) in rows {
        let column = if *table == "chains" {
            "lower(hex(chain))"
        } else {
            "snapshot"
        };
        connection
            .execute(&format!("DELETE FROM {table} WHERE {column} = ?1"), [name])
            .doing("forget damaged rows")?;
    }
    Ok(())
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

/// Trees that were read or merged, so that each is decoded once a process.
#[derive(Debug, Default)]
pub(crate) struct TreeMemory {
    own: HashMap<SnapshotId, Arc<Tree>>,
    merged: HashMap<SnapshotId, Arc<Tree>>,
    entries: usize,
}

/// An entry takes about 220 bytes. Beyond that, memory is worth more than the time to read again.
const REMEMBERED_ENTRIES_MAX: usize = 600_000;

impl TreeMemory {
    fn remember(&mut self, merged: bool, id: &SnapshotId, tree: &Arc<Tree>) {
        if self.entries > REMEMBERED_ENTRIES_MAX {
            *self = Self::default();
        }
        self.entries += tree.entries.len();
        let map = if merged {
            &mut self.merged
        } else {
            &mut self.own
        };
        map.insert(id.clone(), Arc::clone(tree));
    }
}

/// From here on it is worth a few calls more where a snapshot's files are.
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

    /// The tree of one snapshot (memoised).
    pub fn tree(&self, id: &SnapshotId) -> Result<Arc<Tree>> {
        if let Some(tree) = self.remembered(|memory| memory.own.get(id).cloned()) {
            return Ok(tree);
        }
        let path = self.shared.snapshot_holder(id).join("tree");
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(missing(id));
            }
            result => result.at("read", &path)?,
        };
        let tree = Arc::new(Tree::decode(&bytes).map_err(|error| match error {
            Error::Damaged { reason, .. } => {
                Error::damaged(format_args!("the listing of snapshot {}", id.0), reason)
            }
            other => other,
        })?);
        self.remembered(|memory| memory.remember(false, id, &tree));
        Ok(tree)
    }

    /// The view of the chain that ends at `id` (memoised).
    pub fn merged_tree(&self, id: &SnapshotId) -> Result<Arc<Tree>> {
        if let Some(tree) = self.remembered(|memory| memory.merged.get(id).cloned()) {
            return Ok(tree);
        }
        let chain = self.chain(id)?;
        // From the highest ancestor whose view is known.
        let known = chain
            .iter()
            .enumerate()
            .rev()
            .find_map(|(index, snapshot)| {
                let view = self.remembered(|memory| memory.merged.get(&snapshot.id).cloned())?;
                Some((index + 1, view))
            });
        let (rest, base) = match known {
            Some((index, view)) => (index, Some(view)),
            None => (0, None),
        };
        let mut trees: Vec<Arc<Tree>> = base.into_iter().collect();
        for snapshot in chain.iter().skip(rest) {
            trees.push(self.tree(&snapshot.id)?);
        }
        let layers: Vec<&Tree> = trees.iter().map(Arc::as_ref).collect();
        let view = Arc::new(Tree::merge(&layers));
        self.remembered(|memory| memory.remember(true, id, &view));
        Ok(view)
    }

    /// The snapshot of an unpacked image layer stack, if it is here. It then stays while this process lives.
    pub fn snapshot_by_chain(&self, chain: &ChainId) -> Result<Option<Snapshot>> {
        let action = "look up an unpacked image";
        let mut connection = self.index();
        let Some((snapshot, used)) = find_chain(&connection, chain).doing(action)? else {
            return Ok(None);
        };
        if !self.shared.snapshot_holder(&snapshot.id).exists() {
            return Ok(None);
        }
        if used >= self.shared.lease.start_ms() {
            return Ok(Some(snapshot));
        }
        let transaction = index::write(&mut connection)?;
        let found = find_chain(&transaction, chain).doing(action)?;
        if let Some((snapshot, _)) = &found {
            let now = self.shared.lease.now_ms();
            transaction
                .execute(
                    "UPDATE chains SET used = ?2 WHERE chain = ?1",
                    (chain.0.as_bytes(), now),
                )
                .doing(action)?;
            mark_used(&transaction, &snapshot.id, now)?;
        }
        transaction.commit().doing(action)?;
        Ok(found.map(|(snapshot, _)| snapshot))
    }

    /// Remembers that `id` is the stack `chain`.
    pub fn set_chain(&self, id: &SnapshotId, chain: &ChainId) -> Result<()> {
        self.write_chains(&[(id, chain)])
    }

    /// As [`Store::set_chain`] for those of which no snapshot is known; each one lies on the one before. Where all are
    /// known, nothing is written: that a stack is looked for here does not mean that it is used. All are where the
    /// last one is: they are remembered together, and what collection takes of those below is unpacked again when
    /// somebody asks for it.
    pub fn set_chains_once(&self, stacks: &[(&SnapshotId, ChainId)]) -> Result<()> {
        let action = "look for unpacked images";
        let unknown = {
            let connection = self.index();
            // All are looked up in one.
            let reading = connection.unchecked_transaction().doing(action)?;
            let mut unknown = Vec::new();
            for (place, (id, chain)) in stacks.iter().enumerate().rev() {
                let is_here = find_chain(&reading, chain)
                    .doing(action)?
                    .is_some_and(|(known, _)| self.shared.snapshot_holder(&known.id).exists());
                if is_here && place + 1 == stacks.len() {
                    return Ok(());
                }
                if !is_here {
                    unknown.push((*id, chain));
                }
            }
            unknown
        };
        if unknown.is_empty() {
            return Ok(());
        }
        self.write_chains(&unknown)
    }

    fn write_chains(&self, stacks: &[(&SnapshotId, &ChainId)]) -> Result<()> {
        let action = "remember an unpacked image";
        let mut connection = self.index();
        let transaction = index::write(&mut connection)?;
        for (id, chain) in stacks {
            if find(&transaction, id)?.is_none() {
                return Err(missing(id));
            }
            transaction
                .prepare_cached(&format!(
                    "INSERT OR REPLACE INTO chains (chain, snapshot, sum, used, unsynced)
                     VALUES (?1, ?2, ?3, ?4, {EPOCH})"
                ))
                .doing(action)?
                .execute((
                    chain.0.as_bytes(),
                    &id.0,
                    index::sum(&[chain.0.as_bytes(), id.0.as_bytes()]),
                    self.shared.lease.now_ms(),
                ))
                .doing(action)?;
        }
        transaction.commit().doing(action)
    }

    /// A known layer blob of a snapshot. `variant` names how its bytes were made (compression, level, timestamps),
    /// `image` for the blob it was unpacked from. The blob itself may be gone, or never have been here: ask
    /// [`Store::has_blob`] before it is read; the descriptor alone spares making, sending and pulling it again.
    pub fn layer_blob(&self, id: &SnapshotId, variant: &str) -> Result<Option<LayerBlob>> {
        let action = "look up a layer";
        self.index()
            .prepare_cached(
                "SELECT digest, size, media_type, diff_id, sum FROM layers
                 WHERE snapshot = ?1 AND variant = ?2",
            )
            .doing(action)?
            .query_row((&id.0, variant), |row| {
                let sum: Option<Vec<u8>> = row.get(4)?;
                let blob = read_layer(row)?;
                let is_whole = index::is_sum(sum.as_deref(), &blob.fields(id, variant));
                Ok(is_whole.then_some(blob))
            })
            .optional()
            .doing(action)
            .map(Option::flatten)
    }

    /// All known layer blobs of some snapshots, each with its variant ([`Store::layer_blob`]), read together.
    pub fn layer_blobs(&self, ids: &[&SnapshotId]) -> Result<Vec<Vec<(String, LayerBlob)>>> {
        let action = "look up layers";
        let connection = self.index();
        let reading = connection.unchecked_transaction().doing(action)?;
        let mut statement = reading
            .prepare_cached(
                "SELECT digest, size, media_type, diff_id, sum, variant FROM layers
                 WHERE snapshot = ?1",
            )
            .doing(action)?;
        let of = |id: &&SnapshotId| {
            let rows = statement.query_map([&id.0], |row| {
                let sum: Option<Vec<u8>> = row.get(4)?;
                let variant: String = row.get(5)?;
                let blob = read_layer(row)?;
                let is_whole = index::is_sum(sum.as_deref(), &blob.fields(id, &variant));
                Ok(is_whole.then_some((variant, blob)))
            })?;
            rows.filter_map(Result::transpose).collect()
        };
        ids.iter()
            .map(of)
            .collect::<rusqlite::Result<_>>()
            .doing(action)
    }

    /// Remembers the blob that a snapshot is as a layer of this variant.
    pub fn set_layer_blob(&self, id: &SnapshotId, variant: &str, blob: &LayerBlob) -> Result<()> {
        let action = "remember a layer";
        let mut connection = self.index();
        let transaction = index::write(&mut connection)?;
        if find(&transaction, id)?.is_none() {
            return Err(missing(id));
        }
        insert_layer(&transaction, id, variant, blob)?;
        transaction.commit().doing(action)
    }

    fn remembered<T>(&self, work: impl FnOnce(&mut TreeMemory) -> T) -> T {
        let mut memory = self
            .shared
            .trees
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        work(&mut memory)
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

fn insert_layer(
    connection: &Connection,
    id: &SnapshotId,
    variant: &str,
    blob: &LayerBlob,
) -> Result<()> {
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO layers
             (snapshot, variant, digest, size, media_type, diff_id, sum, unsynced)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, {EPOCH})"
        ))
        .and_then(|mut statement| {
            statement.execute((
                &id.0,
                variant,
                blob.digest.as_bytes(),
                blob.size.cast_signed(),
                &blob.media_type,
                blob.diff_id.0.as_bytes(),
                index::sum(&blob.fields(id, variant)),
            ))
        })
        .doing("remember a layer")?;
    Ok(())
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

/// The snapshot of a stack, and when both were last used; `None` too where that is damaged.
fn find_chain(
    connection: &Connection,
    chain: &ChainId,
) -> rusqlite::Result<Option<(Snapshot, i64)>> {
    connection
        .prepare_cached(
            "SELECT s.id, s.parent, s.tree, s.content, s.created, s.size, s.packed, c.used,
                    s.used, c.sum
             FROM chains AS c JOIN snapshots AS s ON s.id = c.snapshot WHERE c.chain = ?1",
        )?
        .query_row([chain.0.as_bytes()], |row| {
            let used: i64 = row.get(7)?;
            let sum: Option<Vec<u8>> = row.get(9)?;
            let snapshot = read(row)?;
            let fields = [chain.0.as_bytes().as_slice(), snapshot.id.0.as_bytes()];
            let is_whole = index::is_sum(sum.as_deref(), &fields);
            Ok(is_whole.then_some((snapshot, used.min(row.get(8)?))))
        })
        .optional()
        .map(Option::flatten)
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
