//! Snapshots whose files are nowhere but in their layer: what was written straight into a layer because nobody was
//! known to need the files. They are unpacked when somebody does. Everything else about them, listing, content and
//! parent, is as with any snapshot.
//!
//! `snapshots/ID/fs` is not there until then. Whether a snapshot is packed is what its row says, not whether there is
//! a directory: a power cut may keep a torn directory whose row was lost.

use std::fmt::Debug;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use rayon::prelude::*;
use rusqlite::OptionalExtension as _;

use crate::digest::DiffId;
use crate::error::{IndexContext as _, IoContext as _};
use crate::index::{self, EPOCH};
use crate::key::KeyWriter;
use crate::owners::acl;
use crate::root_dir::{Node, Resolve, RootDir, path_of};
use crate::snapshot::{LayerBlob, Snapshot, SnapshotId, find, missing, read_layer};
use crate::store::{Error, Result, Store, TemporaryDirectory};
use crate::tree::{Entry, Kind, Tree};

/// Makes the files of a layer; given by whoever knows what layers are like.
pub trait Unpack: Debug + Send + Sync {
    /// Unpacks a layer's blob, which is our own, into an empty upper directory; `what` names it in messages. Returns
    /// the digest of its archive.
    fn unpack(
        &self,
        blob: File,
        upper: &RootDir,
        what: &str,
    ) -> Result<DiffId, Box<dyn std::error::Error + Send + Sync>>;
}

impl Store {
    /// Says by whom layers are unpacked. To be called once, by whoever opens the store to use snapshots' files.
    pub fn set_unpacker(&self, unpacker: impl Unpack + 'static) {
        let _ = self.shared.unpacker.set(Box::new(unpacker));
    }

    /// `snapshots/ID/fs`, unpacked if it was not there yet. Blocking.
    pub fn snapshot_directory(&self, id: &SnapshotId) -> Result<PathBuf> {
        self.directory_of(&self.snapshot(id)?)
    }

    /// As [`Store::snapshot_directory`], of a snapshot that was looked up.
    pub fn directory_of(&self, snapshot: &Snapshot) -> Result<PathBuf> {
        if snapshot.packed.is_some() {
            self.make_files(&snapshot.id)?;
        }
        Ok(self.shared.snapshot_holder(&snapshot.id).join("fs"))
    }

    /// Whether the layer is there that a snapshot's files are in, if it is packed. One look at the disk: a blob may
    /// have been removed by whoever tidies up by hand, and then what needs it is no result any more.
    pub fn has_layer(&self, snapshot: &Snapshot) -> bool {
        let packed = snapshot.packed.as_ref();
        packed.is_none_or(|digest| self.blob_path(digest).exists())
    }

    /// The layer that a packed snapshot's files are in, and how its bytes were made.
    pub fn packed_layer(&self, snapshot: &Snapshot) -> Result<Option<(String, LayerBlob)>> {
        let action = "look up a layer";
        let Some(digest) = snapshot.packed else {
            return Ok(None);
        };
        let blob = self
            .index()
            .prepare_cached(
                "SELECT digest, size, media_type, diff_id, sum, variant FROM layers
                 WHERE snapshot = ?1 AND digest = ?2",
            )
            .doing(action)?
            .query_row((&snapshot.id.0, digest.as_bytes()), |row| {
                let sum: Option<Vec<u8>> = row.get(4)?;
                let variant: String = row.get(5)?;
                let blob = read_layer(row)?;
                let is_whole = index::is_sum(sum.as_deref(), &blob.fields(&snapshot.id, &variant));
                Ok(is_whole.then_some((variant, blob)))
            })
            .optional()
            .doing(action)?
            .flatten();
        blob.map(Some).ok_or_else(|| {
            Error::damaged(
                format_args!("snapshot {}", snapshot.id.0),
                "what layer its files are in is not known any more; run `rbuild store check --repair`",
            )
        })
    }

    /// Unpacks a snapshot, unless somebody else does or did.
    fn make_files(&self, id: &SnapshotId) -> Result<()> {
        let key = KeyWriter::new("unpack-snapshot.v1")
            .field("id", &id.0)
            .finish();
        let _lock = self.lock_key(key)?;
        let snapshot = self.snapshot(id)?;
        let Some((_, blob)) = self.packed_layer(&snapshot)? else {
            return Ok(());
        };
        let what = format!("layer {}", blob.digest);
        let unpacker = self.shared.unpacker.get();
        let unpacker = unpacker.ok_or_else(|| Error::Missing(format!("files of {what}")))?;
        let file = self.open_blob(&blob.digest)?;
        let tree = self.tree(id)?;
        let active = self.prepare_for(tree.entries.len())?;
        let upper = RootDir::open_ambient(active.upper()).at("open", active.upper())?;
        let diff_id = unpacker
            .unpack(file, &upper, &what)
            .map_err(|source| Error::Unpack {
                what: what.clone(),
                source,
            })?;
        if diff_id != blob.diff_id {
            return Err(Error::damaged(
                what,
                format_args!("its archive has the digest {}", diff_id.0),
            ));
        }
        as_listed(&upper, &tree)?;
        drop(upper);

        let action = "publish a snapshot's files";
        let _publishing = self.shared.publish_lock(false)?;
        let place = self.shared.snapshot_holder(id).join("fs");
        // What a process left that died before it could say so.
        let left = active.work().join("left");
        match rustix::fs::rename(&place, &left) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error).at("replace", &place),
        }
        rustix::fs::rename(active.upper(), &place).at("create", &place)?;
        let mut connection = self.index();
        let transaction = index::write(&mut connection)?;
        if find(&transaction, id)?.is_none() {
            return Err(missing(id));
        }
        // Not synced: a power cut may tear the files.
        transaction
            .execute(
                &format!("UPDATE snapshots SET packed = NULL, unsynced = {EPOCH} WHERE id = ?1"),
                [&id.0],
            )
            .doing(action)?;
        crate::collect::forget_size(&transaction, id)?;
        transaction.commit().doing(action)?;
        self.shared.fill();
        Ok(())
    }

    /// The directories, links and removals of a packed snapshot without its files: enough to find out where things
    /// land on top of it. Blocking.
    pub fn outline(&self, snapshot: &Snapshot) -> Result<TemporaryDirectory> {
        let tree = self.tree(&snapshot.id)?;
        let directory = self.temporary_directory()?;
        let root = RootDir::open_ambient(directory.path()).at("open", directory.path())?;
        let failed = |entry: &Entry, source| Error::Io {
            action: "make an outline of",
            path: path_of(&entry.path).to_owned(),
            source,
        };
        for entry in &tree.entries {
            sketch(&root, entry).map_err(|source| failed(entry, source))?;
        }
        for entry in tree.entries.iter().rev() {
            if entry.kind == Kind::Directory {
                dress(&root, entry).map_err(|source| failed(entry, source))?;
            }
        }
        Ok(directory)
    }
}

fn sketch(root: &RootDir, entry: &Entry) -> std::io::Result<()> {
    if entry.path.is_empty()
        || !matches!(entry.kind, Kind::Directory | Kind::Symlink | Kind::Whiteout)
    {
        return Ok(());
    }
    let place = root.place(path_of(&entry.path), Resolve::Beneath)?;
    match entry.kind {
        Kind::Directory => place.create_dir(0o700).map(drop),
        Kind::Symlink => place.symlink(&entry.target),
        _ => place.make_node(Kind::Whiteout, 0, 0),
    }
}

/// Gives a directory what its entry says.
pub(crate) fn dress(root: &RootDir, entry: &Entry) -> std::io::Result<()> {
    let node = if entry.path.is_empty() {
        Node::from_fd(root.as_fd().try_clone_to_owned()?)
    } else {
        root.node(path_of(&entry.path), Resolve::Beneath)?
    };
    node.set_owner(entry.uid, entry.gid)?;
    node.set_mode(entry.mode)?;
    for (name, value) in &entry.xattrs {
        node.set_xattr(name, &acl::spelled(name, value))?;
    }
    if entry.opaque {
        node.set_xattr(b"user.overlay.opaque", b"y")?;
    }
    node.set_times(entry.mtime, entry.mtime)
}

/// Gives what was unpacked what an archive does not tell: parts of seconds, and what the root is like.
fn as_listed(upper: &RootDir, tree: &Tree) -> Result<()> {
    let set = |entry: &Entry| {
        if entry.path.is_empty() {
            return dress(upper, entry);
        }
        if entry.mtime.1 == 0 || entry.kind == Kind::Whiteout {
            return Ok(());
        }
        let node = upper.node(path_of(&entry.path), Resolve::Beneath)?;
        node.set_times(entry.mtime, entry.mtime)
    };
    tree.entries.par_iter().try_for_each(|entry| {
        set(entry).map_err(|source| Error::Io {
            action: "set the time of",
            path: path_of(&entry.path).to_owned(),
            source,
        })
    })
}
