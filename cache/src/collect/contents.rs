//! What the store holds, as far as collection and listings want to know.

use std::path::PathBuf;

use rusqlite::{Connection, Row};

use super::measure::in_blocks;
use crate::digest::Digest;
use crate::error::{IndexContext as _, Result};
use crate::record::INSTRUCTION;
use crate::snapshot::SnapshotId;

/// What the index holds, and the cache mounts. Times of use are milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) snapshots: Vec<SnapshotRow>,
    pub(super) blobs: Vec<BlobRow>,
    pub(super) results: Vec<ResultRow>,
    pub(super) chains: Vec<ChainRow>,
    pub(super) images: Vec<ImageRow>,
    pub(super) containers: Vec<SnapshotId>,
    pub(super) layers: Vec<(SnapshotId, Digest)>,
    pub(super) mounts: Vec<MountRow>,
}

#[derive(Debug)]
pub(super) struct SnapshotRow {
    pub(super) id: SnapshotId,
    pub(super) parent: Option<SnapshotId>,
    /// Room on disk; of what is shared with others, its part.
    pub(super) bytes: u64,
    /// Its files are in its layer only.
    pub(super) is_packed: bool,
    /// Some of its files have names in other snapshots, too.
    pub(super) shared: bool,
    /// Unix seconds.
    pub(super) created: i64,
    pub(super) used: i64,
}

#[derive(Debug)]
pub(super) struct BlobRow {
    pub(super) digest: Digest,
    /// Room on disk.
    pub(super) bytes: u64,
    pub(super) used: i64,
}

#[derive(Debug)]
pub(super) struct ResultRow {
    pub(super) id: i64,
    pub(super) snapshots: Vec<SnapshotId>,
    pub(super) duration_ms: u64,
    pub(super) used: i64,
}

#[derive(Debug)]
pub(super) struct ChainRow {
    pub(super) chain: [u8; 32],
    pub(super) snapshot: SnapshotId,
    pub(super) used: i64,
}

#[derive(Debug)]
pub(super) struct ImageRow {
    /// Empty for one that is kept by its ID only.
    pub(super) name: String,
    pub(super) manifest: Digest,
    pub(super) snapshot: Option<SnapshotId>,
    /// Manifest, config and the others.
    pub(super) blobs: Vec<Digest>,
    pub(super) used: i64,
}

/// A directory of a cache mount.
#[derive(Debug, Clone)]
pub(crate) struct MountRow {
    /// Its number among those of its id.
    pub(crate) number: u64,
    /// The directory of its id.
    pub(crate) directory: PathBuf,
    pub(crate) id: String,
    pub(crate) bytes: u64,
    pub(crate) used: i64,
}

/// What people call the steps of records, by the records' rows.
pub(super) fn instructions(connection: &Connection) -> Result<Vec<(i64, String)>> {
    let sql = format!(
        "SELECT r.id, COALESCE(
           (SELECT json_extract(i.value, '$.value') FROM json_each(r.ingredients) AS i
            WHERE json_extract(i.value, '$.name') = '{INSTRUCTION}'), r.step)
         FROM results AS r"
    );
    rows(connection, &sql, |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Reads what the index holds; cache mounts are the caller's to add. The table of what was measured must be there
/// (`measure`).
pub(super) fn read(connection: &Connection) -> Result<Contents> {
    Ok(Contents {
        snapshots: rows(
            connection,
            "SELECT s.id, s.parent, COALESCE(m.bytes, s.size), COALESCE(m.shared, 0), s.created, s.used,
                    s.packed IS NOT NULL
             FROM snapshots AS s LEFT JOIN measured AS m ON m.snapshot = s.id",
            |row| {
                Ok(SnapshotRow {
                    id: SnapshotId(row.get(0)?),
                    parent: row.get::<_, Option<String>>(1)?.map(SnapshotId),
                    bytes: row.get::<_, i64>(2)?.cast_unsigned(),
                    shared: row.get(3)?,
                    created: row.get(4)?,
                    used: row.get(5)?,
                    is_packed: row.get(6)?,
                })
            },
        )?,
        blobs: rows(connection, "SELECT digest, size, used FROM blobs", |row| {
            Ok(BlobRow {
                digest: Digest::from_bytes(row.get(0)?),
                bytes: in_blocks(row.get::<_, i64>(1)?.cast_unsigned()),
                used: row.get(2)?,
            })
        })?,
        results: rows(
            connection,
            "SELECT id, snapshot, extra, duration_ms, used FROM results",
            |row| {
                let first: Option<String> = row.get(1)?;
                let extra: Vec<String> = crate::record::from_json(row, 2)?;
                Ok(ResultRow {
                    id: row.get(0)?,
                    snapshots: first.into_iter().chain(extra).map(SnapshotId).collect(),
                    duration_ms: row.get::<_, i64>(3)?.cast_unsigned(),
                    used: row.get(4)?,
                })
            },
        )?,
        chains: rows(
            connection,
            "SELECT chain, snapshot, used FROM chains",
            |row| {
                Ok(ChainRow {
                    chain: row.get(0)?,
                    snapshot: SnapshotId(row.get(1)?),
                    used: row.get(2)?,
                })
            },
        )?,
        images: rows(
            connection,
            "SELECT name, manifest, config, snapshot, blobs, used FROM images",
            |row| {
                let manifest = Digest::from_bytes(row.get(1)?);
                let others: Vec<u8> = row.get(4)?;
                let (others, _) = others.as_chunks::<32>();
                let mut blobs = vec![manifest, Digest::from_bytes(row.get(2)?)];
                blobs.extend(others.iter().copied().map(Digest::from_bytes));
                Ok(ImageRow {
                    name: row.get(0)?,
                    manifest,
                    snapshot: row.get::<_, Option<String>>(3)?.map(SnapshotId),
                    blobs,
                    used: row.get(5)?,
                })
            },
        )?,
        containers: rows(connection, "SELECT snapshot FROM containers", |row| {
            Ok(SnapshotId(row.get(0)?))
        })?,
        layers: rows(connection, "SELECT snapshot, digest FROM layers", |row| {
            Ok((SnapshotId(row.get(0)?), Digest::from_bytes(row.get(1)?)))
        })?,
        mounts: Vec::new(),
    })
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_map([], read)?.collect())
        .doing("read what there is to collect")
}
