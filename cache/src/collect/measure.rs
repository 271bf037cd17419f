//! How much room snapshots and cache mounts take, remembered: a snapshot never changes, so it is walked once, and a
//! cache mount is walked again only when somebody used it since.
//!
//! A file that several snapshots share (hard links) counts to each of them in equal parts, so that the sum is what
//! the disk says, whoever is asked first. When one of them goes, the parts of the others are no longer true: what
//! shares is then measured again.

use std::path::Path;

use rayon::prelude::*;
use rusqlite::Connection;

use super::contents::MountRow;
use super::meter;
use crate::error::{IndexContext as _, Result};
use crate::index;
use crate::snapshot::SnapshotId;
use crate::store::Store;

/// File systems give room in blocks of this size.
const BLOCK_BYTES: u64 = 4096;

/// What so many bytes take on disk.
pub(super) fn in_blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}

/// Makes the table where there is none. It is no part of the index's format: without it everything is measured anew.
pub(super) fn make_table(connection: &Connection) -> Result<()> {
    connection
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS measured (
               snapshot TEXT PRIMARY KEY, bytes INTEGER NOT NULL, shared INTEGER NOT NULL,
               seen INTEGER NOT NULL DEFAULT 0
             ) WITHOUT ROWID",
        )
        .doing("make room for sizes")
}

/// Forgets what was measured of what is gone, and, where something is gone, of what may have shared files with it.
pub(super) fn forget(connection: &Connection) -> Result<()> {
    connection
        .execute_batch(
            "DELETE FROM measured WHERE snapshot NOT LIKE 'mount %'
               AND (shared OR snapshot NOT IN (SELECT id FROM snapshots))",
        )
        .doing("forget sizes")
}

/// Forgets what was measured of a snapshot whose files came.
pub(crate) fn forget_one(connection: &Connection, id: &SnapshotId) -> Result<()> {
    make_table(connection)?;
    connection
        .execute("DELETE FROM measured WHERE snapshot = ?1", [id.as_str()])
        .doing("forget a size")?;
    Ok(())
}

impl Store {
    /// Measures the snapshots that were not measured yet.
    pub(super) fn measure_snapshots(&self) -> Result<()> {
        let action = "measure snapshots";
        let new: Vec<String> = {
            let connection = self.index();
            make_table(&connection)?;
            connection
                .prepare_cached(
                    "SELECT id FROM snapshots WHERE id NOT IN (SELECT snapshot FROM measured)",
                )
                .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
                .doing(action)?
        };
        if new.is_empty() {
            return Ok(());
        }
        let measured: Vec<(String, meter::Part)> = new
            .into_par_iter()
            .map(|id| {
                let id = SnapshotId(id);
                let part = meter::part(&self.shared.snapshot_holder(&id));
                (id.0, part)
            })
            .collect();
        let mut connection = self.index();
        let transaction = index::write(&mut connection)?;
        {
            let mut insert = transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO measured (snapshot, bytes, shared)
                     SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM snapshots WHERE id = ?1)",
                )
                .doing(action)?;
            for (id, part) in measured {
                insert
                    .execute((id, part.bytes.cast_signed(), part.shared))
                    .doing(action)?;
            }
        }
        transaction.commit().doing(action)
    }

    /// The cache mounts with their sizes. Those that were used since they were measured are measured now.
    pub(super) fn measured_mounts(&self) -> Result<Vec<MountRow>> {
        let action = "measure cache mounts";
        let mut mounts = self.mount_rows()?;
        let connection = self.index();
        make_table(&connection)?;
        let mut select = connection
            .prepare_cached("SELECT bytes FROM measured WHERE snapshot = ?1 AND seen = ?2")
            .doing(action)?;
        let mut insert = connection
            .prepare_cached(
                "INSERT OR REPLACE INTO measured (snapshot, bytes, shared, seen)
                 VALUES (?1, ?2, 0, ?3)",
            )
            .doing(action)?;
        for mount in &mut mounts {
            let name = row_name(&mount.directory, mount.number);
            let known = select
                .query_map((&name, mount.used), |row| row.get::<_, i64>(0))
                .and_then(|mut rows| rows.next().transpose())
                .doing(action)?;
            if let Some(bytes) = known {
                mount.bytes = bytes.cast_unsigned();
                continue;
            }
            let in_use = self.is_mount_in_use(&mount.directory, mount.number);
            mount.bytes = meter::allocated(&mount.directory.join(mount.number.to_string()));
            // What somebody writes to at this moment says nothing of later.
            if !in_use {
                insert
                    .execute((&name, mount.bytes.cast_signed(), mount.used))
                    .doing(action)?;
            }
        }
        Ok(mounts)
    }
}

fn row_name(directory: &Path, number: u64) -> String {
    let hash = directory.file_name().unwrap_or_default();
    format!("mount {}/{number}", hash.to_string_lossy())
}
