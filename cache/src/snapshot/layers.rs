//! The layers that snapshots are: which blob has a snapshot's files, and in which form.

use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{SnapshotId, find, missing};
use crate::digest::{DiffId, Digest};
use crate::error::IndexContext as _;
use crate::index::{self, EPOCH};
use crate::store::{Result, Store};

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

impl Store {
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
}

pub(super) fn insert_layer(
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
