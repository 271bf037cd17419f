//! Collection: what may go, in which order, and how much space is used.
//!
//! `plan` decides, from the index alone and without touching it. Here, under the lock that keeps others from
//! publishing: rows go first, in one durable transaction; then the names move to `tmp/`. After the lock is freed
//! the files are deleted. Dying in between leaves garbage, never a row that points at nothing.

mod meter;
mod plan;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rusqlite::Transaction;
use rustix::fs::FlockOperation;

use crate::digest::Digest;
use crate::error::{IndexContext as _, IoContext as _};
use crate::index;
use crate::lease;
use crate::snapshot::SnapshotId;
use crate::store::{Result, Store, make_reserve, open_lock_file, spend_reserve};

pub(crate) use meter::allocated;
use meter::{Count, Meter};
use plan::Plan;

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
    /// Removes what nothing holds. Safe beside running builds. Also works on a full disk.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned> {
        match self.prune_once(options) {
            Err(error) if error.is_storage_full() => {
                // Taking away needs a little room itself: the reserve, and caches of which nothing depends.
                spend_reserve(self.root())?;
                self.remove_contexts(i64::MAX)?;
                self.prune_once(options)
            }
            result => result,
        }
        .inspect(|_| {
            if let Err(error) = make_reserve(self.root()) {
                tracing::debug!(%error, "the room for the next collection could not be reserved");
            }
        })
    }

    fn prune_once(&self, options: &PruneOptions) -> Result<Pruned> {
        let action = "collect";
        let mut pruned = Pruned {
            bytes: lease::sweep(self.root(), self.shared.lease.name(), usize::MAX)?,
            ..Pruned::default()
        };
        self.remove_stale_locks()?;
        let mounts_bytes = match options.keep_storage {
            Some(_) => self.measure_mounts()?,
            None => 0,
        };
        let doomed = self.shared.temporary_path();
        crate::store::make_directory(&doomed)?;
        let (plan, spare_since) = {
            let _publishing = self.shared.publish_lock(true)?;
            let plan = index::durably(&mut self.index(), action, |transaction| {
                let spare_since = self.spare_since()?;
                let contents = plan::read(transaction)?;
                let plan = plan::plan(&contents, options, spare_since, mounts_bytes);
                apply(transaction, &plan)?;
                Ok((plan, spare_since))
            })?;
            self.move_away(&doomed)?;
            plan
        };
        pruned.records = plan.results.len() as u64;
        pruned.snapshots = plan.snapshots.len() as u64;
        pruned.blobs = plan.blobs.len() as u64;
        // Also mends what a process left that died between naming an image and writing it down for others.
        self.write_layout_index()?;
        pruned.bytes += Meter::new(Count::WhenAllNamesAreSeen).tree(&doomed);
        // Giving blocks back may wait for the disk, file by file.
        lease::names(&doomed)?
            .par_iter()
            .try_for_each(|name| lease::remove(&doomed.join(name)))?;
        lease::remove(&doomed)?;

        let (count, bytes) = if options.all && options.keep_storage.is_none() || plan.still_too_much
        {
            let until = options.until.unwrap_or(i64::MAX).min(spare_since / 1000);
            let context_bytes = self.remove_contexts(until)?;
            pruned.bytes += context_bytes;
            self.collect_cache_mounts(until)?
        } else {
            self.collect_retired_mounts()?
        };
        pruned.cache_mounts = count;
        pruned.bytes += bytes;
        Ok(pruned)
    }

    pub fn usage(&self) -> Result<Usage> {
        let options = PruneOptions {
            all: true,
            ..PruneOptions::default()
        };
        let plan = {
            let connection = self.index();
            let contents = plan::read(&connection)?;
            plan::plan(&contents, &options, self.spare_since()?, 0)
        };
        let mut meter = Meter::new(Count::Once);
        let mut usage = Usage::default();
        // What stays first: a file that it shares with what may go is not given back.
        let snapshots = self.root().join("snapshots");
        let mut going = Vec::new();
        for name in lease::names(&snapshots)? {
            let id = SnapshotId(name);
            let path = self.shared.snapshot_holder(&id);
            if plan.snapshots.contains(&id) {
                going.push(path);
            } else {
                usage.snapshots += meter.tree(&path);
            }
        }
        for path in going {
            let bytes = meter.tree(&path);
            usage.snapshots += bytes;
            usage.reclaimable += bytes;
        }
        usage.blobs = meter.tree(&self.root().join("content"));
        for digest in &plan.blobs {
            usage.reclaimable += allocated(&self.blob_path(digest));
        }
        usage.cache_mounts = self.measure_mounts()?;
        usage.contexts =
            meter.tree(&self.root().join("contexts")) + meter.tree(&self.root().join("explain"));
        for name in ["index.db", "index.db-wal", "index.db-shm"] {
            usage.index += allocated(&self.root().join(name));
        }
        Ok(usage)
    }

    /// Milliseconds since 1970: what was used since then may be in use by a living process.
    fn spare_since(&self) -> Result<i64> {
        let own = self.shared.lease.start_ms();
        Ok(lease::oldest_living(self.root())?.map_or(own, |oldest| oldest.min(own)))
    }

    fn measure_mounts(&self) -> Result<u64> {
        Ok(Meter::new(Count::Once).tree(&self.root().join("mounts")))
    }

    /// Moves every snapshot and blob without a row into `doomed`. Nobody publishes meanwhile.
    pub(crate) fn move_away(&self, doomed: &Path) -> Result<()> {
        let mut moved = 0_u64;
        for (path, _) in self.unaccounted()? {
            moved += 1;
            let to = doomed.join(moved.to_string());
            rustix::fs::rename(&path, &to).at("remove", &path)?;
        }
        Ok(())
    }

    /// Files and directories that look like blobs and snapshots but have no row: what dying processes left, and
    /// what collection takes. The publish lock must be held.
    pub(crate) fn unaccounted(&self) -> Result<Vec<(PathBuf, String)>> {
        let action = "look for what is not in it";
        let mut found = Vec::new();
        let connection = self.index();
        let mut blobs = connection
            .prepare_cached("SELECT 1 FROM blobs WHERE digest = ?1")
            .doing(action)?;
        let directory = self.root().join("content/blobs/sha256");
        for name in lease::names(&directory)? {
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
                continue;
            };
            if !blobs.exists([digest.as_bytes()]).doing(action)? {
                found.push((directory.join(&name), format!("blob {digest}")));
            }
        }
        let mut snapshots = connection
            .prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")
            .doing(action)?;
        let directory = self.root().join("snapshots");
        for name in lease::names(&directory)? {
            // Other names are not the store's; `check` reports them.
            if is_hex(&name, 32) && !snapshots.exists([&name]).doing(action)? {
                found.push((directory.join(&name), format!("snapshot {name}")));
            }
        }
        Ok(found)
    }

    /// Lock files of keys whose holders were killed.
    fn remove_stale_locks(&self) -> Result<()> {
        let directory = self.root().join("locks");
        for name in lease::names(&directory)? {
            if name.len() != 64 {
                continue;
            }
            let path = directory.join(&name);
            let file = open_lock_file(&path)?;
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // As whoever lets go of it does: who waits finds the name gone and begins anew.
                let _ = std::fs::remove_file(&path);
            }
        }
        Ok(())
    }

    /// Stat caches of contexts that were not built since `until` (Unix seconds).
    fn remove_contexts(&self, until: i64) -> Result<u64> {
        use std::os::unix::fs::MetadataExt as _;
        let directory = self.root().join("contexts");
        let mut bytes = 0;
        for name in lease::names(&directory)? {
            let path = directory.join(name);
            let Ok(metadata) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.mtime() < until {
                bytes += metadata.blocks() * 512;
                lease::remove(&path)?;
            }
        }
        Ok(bytes)
    }
}

/// A name as the store gives them to blobs (64 digits) and snapshots (32).
pub(crate) fn is_hex(name: &str, length: usize) -> bool {
    name.len() == length && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Takes the rows away.
fn apply(transaction: &Transaction<'_>, plan: &Plan) -> Result<()> {
    let action = "take away what is collected";
    let delete =
        |sql: &str, each: &mut dyn FnMut(&mut rusqlite::Statement<'_>) -> rusqlite::Result<()>| {
            let mut statement = transaction.prepare_cached(sql).doing(action)?;
            each(&mut statement).doing(action)
        };
    for sql in [
        "DELETE FROM keys WHERE result = ?1",
        "DELETE FROM results WHERE id = ?1",
    ] {
        delete(sql, &mut |statement| {
            plan.results
                .iter()
                .try_for_each(|id| statement.execute([id]).map(drop))
        })?;
    }
    delete("DELETE FROM chains WHERE chain = ?1", &mut |statement| {
        plan.chains
            .iter()
            .try_for_each(|chain| statement.execute([chain]).map(drop))
    })?;
    delete(
        "DELETE FROM images WHERE name = '' AND manifest = ?1",
        &mut |statement| {
            plan.images
                .iter()
                .try_for_each(|manifest| statement.execute([manifest.as_bytes()]).map(drop))
        },
    )?;
    for sql in [
        "DELETE FROM layers WHERE snapshot = ?1",
        "DELETE FROM snapshots WHERE id = ?1",
    ] {
        delete(sql, &mut |statement| {
            plan.snapshots
                .iter()
                .try_for_each(|id| statement.execute([id.as_str()]).map(drop))
        })?;
    }
    delete("DELETE FROM blobs WHERE digest = ?1", &mut |statement| {
        plan.blobs
            .iter()
            .try_for_each(|digest| statement.execute([digest.as_bytes()]).map(drop))
    })
}
