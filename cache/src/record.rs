//! Records: which result a key stands for, and what the key was made of. And the lock by which, among processes,
//! one makes a result while the others wait.

use crate::key::{Ingredient, Key};
use crate::snapshot::SnapshotId;
use crate::store::{Result, Store};

/// A cached result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Several keys may lead to one record: its definition key and its content key.
    pub key: Key,
    /// `None`: the result is an empty root.
    pub snapshot: Option<SnapshotId>,
    /// Further outputs of the same vertex, for instance of writable mounts; in the op's order.
    pub extra: Vec<SnapshotId>,
    /// What groups the records of "the same step" over time, for `--explain`; for instance stage and instruction.
    pub step: String,
    pub ingredients: Vec<Ingredient>,
    /// Unix seconds when made, and how long that took.
    pub created: i64,
    pub duration_ms: u64,
}

/// Held while a result is being made. The kernel frees it when its process dies.
#[derive(Debug)]
#[must_use = "dropping the lock lets another process run the same step"]
pub struct KeyLock {}

impl Store {
    /// Looks a key up. Marks the record and its snapshots as used now, in the same transaction, so that no
    /// collection takes them while this process lives. `None` too where a snapshot of it is gone.
    pub fn lookup(&self, _key: Key) -> Result<Option<Record>> {
        todo!()
    }

    /// Publishes a result under one or more keys.
    pub fn save(&self, _keys: &[Key], _record: &Record) -> Result<()> {
        todo!()
    }

    /// Adds another key to what an existing one leads to.
    pub fn alias(&self, _existing: Key, _another: Key) -> Result<()> {
        todo!()
    }

    /// Forgets what a key leads to (its result turned out unusable).
    pub fn forget(&self, _key: Key) -> Result<()> {
        todo!()
    }

    /// The most recent records of a step, newest first.
    pub fn records_of_step(&self, _step: &str, _limit: usize) -> Result<Vec<Record>> {
        todo!()
    }

    /// Blocks until this process may make the result of `key`. Call from a blocking thread.
    /// After it returns, look the key up again: another process may have made it meanwhile.
    pub fn lock_key(&self, _key: Key) -> Result<KeyLock> {
        todo!()
    }

    /// As [`Store::lock_key`] without waiting.
    pub fn try_lock_key(&self, _key: Key) -> Result<Option<KeyLock>> {
        todo!()
    }
}
