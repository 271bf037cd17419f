//! Rows of the index about unpacked images and layers that do not say what was written.

use rusqlite::Connection;

use super::SnapshotId;
use super::layers::read_layer;
use crate::error::IndexContext as _;
use crate::index;
use crate::store::Result;

/// Their tables, and what they are known by there.
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
