//! Which snapshot an image's unpacked layers are, by the chain ID of the stack.

use rusqlite::{Connection, OptionalExtension as _};

use super::{Snapshot, SnapshotId, find, mark_used, missing, read};
use crate::digest::ChainId;
use crate::error::IndexContext as _;
use crate::index::{self, EPOCH};
use crate::store::{Result, Store};

impl Store {
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
