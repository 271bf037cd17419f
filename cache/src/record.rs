//! Records: which result a key stands for, and what the key was made of. And the lock by which, among processes,
//! one makes a result while the others wait.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, Row};
use rustix::fs::FlockOperation;

use crate::error::{IndexContext as _, IoContext as _};
use crate::index::{self, EPOCH};
use crate::key::{Ingredient, Key};
use crate::snapshot::{self, SnapshotId};
use crate::store::{Error, Result, Store, open_lock_file};

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

/// The name of an ingredient that is in no key: the step as people know it, for listings.
pub const INSTRUCTION: &str = "instruction";

/// Held while a result is being made. The kernel frees it when its process dies.
#[derive(Debug)]
#[must_use = "dropping the lock lets another process run the same step"]
pub struct KeyLock {
    path: PathBuf,
    /// Holds the lock until it is dropped.
    _file: File,
}

impl Store {
    /// Looks a key up. Marks the record and its snapshots as used now, in the same transaction, so that no
    /// collection takes them while this process lives. `None` too where a snapshot of it is gone.
    pub fn lookup(&self, key: Key) -> Result<Option<Record>> {
        let action = "look up a record";
        let mut connection = self.index();
        let Some(found) = find(&connection, key).doing(action)? else {
            return Ok(None);
        };
        let start = self.shared.lease.start_ms();
        let snapshots_fresh = || -> rusqlite::Result<bool> {
            let mut statement = connection
                .prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1 AND used >= ?2")?;
            for id in found.record.snapshots() {
                if !statement.exists((&id.0, start))? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let record = if found.used >= start && snapshots_fresh().doing(action)? {
            found.record
        } else {
            let transaction = index::write(&mut connection)?;
            let Some(found) = find(&transaction, key).doing(action)? else {
                return Ok(None);
            };
            for id in found.record.snapshots() {
                if snapshot::find(&transaction, id)?.is_none() {
                    return Ok(None);
                }
            }
            let now = self.shared.lease.now_ms();
            transaction
                .prepare_cached("UPDATE results SET used = MAX(used, ?2) WHERE id = ?1")
                .doing(action)?
                .execute((found.result, now))
                .doing(action)?;
            for id in found.record.snapshots() {
                snapshot::mark_used(&transaction, id, now)?;
            }
            transaction.commit().doing(action)?;
            found.record
        };
        let all_there = record
            .snapshots()
            .all(|id| self.shared.snapshot_holder(id).exists());
        Ok(all_there.then_some(record))
    }

    /// Publishes a result under one or more keys. `record.key` is not looked at. A key that led elsewhere leads
    /// here from now on. Errors: `Missing` where a snapshot of it is gone.
    pub fn save(&self, keys: &[Key], record: &Record) -> Result<()> {
        let action = "save a record";
        let extra: Vec<&str> = record.extra.iter().map(SnapshotId::as_str).collect();
        let extra = to_json(&extra)?;
        let ingredients = to_json(&record.ingredients)?;
        let mut connection = self.index();
        let transaction = index::write(&mut connection)?;
        let now = self.shared.lease.now_ms();
        for id in record.snapshots() {
            if snapshot::find(&transaction, id)?.is_none() {
                return Err(snapshot::missing(id));
            }
            snapshot::mark_used(&transaction, id, now)?;
        }
        transaction
            .prepare_cached(&format!(
                "INSERT INTO results
                 (snapshot, extra, step, ingredients, created, duration_ms, used, unsynced)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, {EPOCH})"
            ))
            .doing(action)?
            .execute((
                record.snapshot.as_ref().map(SnapshotId::as_str),
                extra,
                &record.step,
                ingredients,
                record.created,
                record.duration_ms.cast_signed(),
                now,
            ))
            .doing(action)?;
        let result = transaction.last_insert_rowid();
        for key in keys {
            point(&transaction, *key, result)?;
        }
        transaction.commit().doing(action)
    }

    /// Adds another key to what an existing one leads to. Errors: `Missing` where the existing one leads nowhere.
    pub fn alias(&self, existing: Key, another: Key) -> Result<()> {
        let action = "add a key to a record";
        if existing == another {
            return Ok(());
        }
        let mut connection = self.index();
        let transaction = index::write(&mut connection)?;
        let result = result_of(&transaction, existing)
            .doing(action)?
            .ok_or_else(|| Error::Missing(format!("record {existing}")))?;
        if result_of(&transaction, another).doing(action)? != Some(result) {
            point(&transaction, another, result)?;
        }
        transaction.commit().doing(action)
    }

    /// All keys that lead to the same result as `key`, itself among them; none where it leads nowhere.
    pub fn keys_beside(&self, key: Key) -> Result<Vec<Key>> {
        let action = "read the keys of a record";
        let connection = self.index();
        let mut statement = connection
            .prepare_cached(
                "SELECT key FROM keys WHERE result = (SELECT result FROM keys WHERE key = ?1)",
            )
            .doing(action)?;
        statement
            .query_map([&key.0], |row| Ok(Key(row.get(0)?)))
            .and_then(Iterator::collect)
            .doing(action)
    }

    /// Forgets what a key leads to (its result turned out unusable), and with it all other keys that lead there.
    pub fn forget(&self, key: Key) -> Result<()> {
        let action = "forget a record";
        let mut connection = self.index();
        let transaction = index::write(&mut connection)?;
        if let Some(result) = result_of(&transaction, key).doing(action)? {
            for sql in [
                "DELETE FROM keys WHERE result = ?1",
                "DELETE FROM results WHERE id = ?1",
            ] {
                transaction.execute(sql, [result]).doing(action)?;
            }
        }
        transaction.commit().doing(action)
    }

    /// The most recent records of a step, newest first.
    pub fn records_of_step(&self, step: &str, limit: usize) -> Result<Vec<Record>> {
        let action = "read the records of a step";
        let connection = self.index();
        let mut statement = connection
            .prepare_cached(
                "SELECT (SELECT key FROM keys WHERE result = r.id LIMIT 1), r.id, r.snapshot, r.extra,
                        r.step, r.ingredients, r.created, r.duration_ms, r.used
                 FROM results AS r WHERE r.step = ?1
                   AND EXISTS (SELECT 1 FROM keys WHERE result = r.id)
                 ORDER BY r.created DESC, r.id DESC LIMIT ?2",
            )
            .doing(action)?;
        statement
            .query_map((step, i64::try_from(limit).unwrap_or(i64::MAX)), |row| {
                // They only explain: a damaged one is left out.
                Ok(read(row).ok().map(|found| found.record))
            })
            .and_then(|rows| rows.filter_map(Result::transpose).collect())
            .doing(action)
    }

    /// Blocks until this process may make the result of `key`. Call from a blocking thread.
    /// After it returns, look the key up again: another process may have made it meanwhile.
    pub fn lock_key(&self, key: Key) -> Result<KeyLock> {
        let path = self.key_lock_path(key);
        loop {
            if let Some(lock) = take(&path, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// As [`Store::lock_key`] without waiting.
    pub fn try_lock_key(&self, key: Key) -> Result<Option<KeyLock>> {
        try_lock(&self.key_lock_path(key))
    }

    fn key_lock_path(&self, key: Key) -> PathBuf {
        let mut path = self.root().join("locks");
        path.push(key.to_string());
        path
    }
}

/// Locks the file of a key. `None` where another one holds it.
pub(crate) fn try_lock(path: &Path) -> Result<Option<KeyLock>> {
    loop {
        match take(path, FlockOperation::NonBlockingLockExclusive) {
            Ok(Some(lock)) => return Ok(Some(lock)),
            Ok(None) => {}
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Locks a file. `None` if it lost its name meanwhile: then another file is the lock now.
fn take(path: &Path, operation: FlockOperation) -> Result<Option<KeyLock>> {
    let file = open_lock_file(path)?;
    match rustix::fs::flock(&file, operation) {
        Err(rustix::io::Errno::INTR) => return Ok(None),
        result => result.at("lock", path)?,
    }
    let held = file.metadata().at("stat", path)?;
    let same = std::fs::symlink_metadata(path)
        .is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino()));
    Ok(same.then(|| KeyLock {
        path: path.to_owned(),
        _file: file,
    }))
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // While it is still held: whoever waits finds the name gone and begins anew.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Record {
    /// All snapshots that it leads to.
    pub fn snapshots(&self) -> impl Iterator<Item = &SnapshotId> {
        self.snapshot.iter().chain(&self.extra)
    }
}

struct Found {
    result: i64,
    used: i64,
    record: Record,
}

/// What a key leads to; `None` too where that is damaged.
fn find(connection: &Connection, key: Key) -> rusqlite::Result<Option<Found>> {
    let found = connection
        .prepare_cached(
            "SELECT k.key, r.id, r.snapshot, r.extra, r.step, r.ingredients, r.created,
                    r.duration_ms, r.used, k.sum
             FROM keys AS k JOIN results AS r ON r.id = k.result WHERE k.key = ?1",
        )?
        .query_row([&key.0], |row| Ok((is_as_saved(key, row, 9)?, read(row)?)))
        .optional();
    match found {
        Ok(Some((true, found))) => Ok(Some(found)),
        Ok(None) => Ok(None),
        Ok(Some((false, _))) => {
            tracing::warn!(%key, "a record is damaged, so its step runs again");
            Ok(None)
        }
        Err(error) if is_unreadable(&error) => {
            tracing::warn!(%key, %error, "a record is damaged, so its step runs again");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What is wrong with the record of a key, if anything; `None` too where there is none any more.
pub(crate) fn damage(connection: &Connection, key: Key) -> Result<Option<String>> {
    let found = connection
        .prepare_cached(
            "SELECT k.key, r.id, r.snapshot, r.extra, r.step, r.ingredients, r.created,
                    r.duration_ms, r.used, k.sum
             FROM keys AS k JOIN results AS r ON r.id = k.result WHERE k.key = ?1",
        )
        .doing("read a record")?
        .query_row([&key.0], |row| {
            read(row)?;
            is_as_saved(key, row, 9)
        })
        .optional();
    match found {
        Ok(Some(true) | None) => Ok(None),
        Ok(Some(false)) => Ok(Some("it is not what was saved".to_owned())),
        Err(error) if is_unreadable(&error) => Ok(Some(format!("it cannot be read: {error}"))),
        Err(error) => Err(error).doing("read a record"),
    }
}

/// A value is not what its column has.
fn is_unreadable(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..)
    )
}

/// Compares a row, which begins as [`read`] wants it, with the sum in a further column.
fn is_as_saved(key: Key, row: &Row<'_>, column: usize) -> rusqlite::Result<bool> {
    let written: Option<Vec<u8>> = row.get(column)?;
    let mut fields: Vec<Vec<u8>> = vec![key.0.to_vec()];
    for column in 2..=7 {
        fields.push(match row.get_ref(column)? {
            rusqlite::types::ValueRef::Null => Vec::new(),
            rusqlite::types::ValueRef::Integer(number) => number.to_le_bytes().to_vec(),
            other => other.as_bytes()?.to_vec(),
        });
    }
    let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
    Ok(index::is_sum(written.as_deref(), &fields))
}

/// The sum of a key that leads to a result.
fn sum_of(connection: &Connection, key: Key, result: i64) -> rusqlite::Result<[u8; 32]> {
    connection
        .prepare_cached(
            "SELECT snapshot, extra, step, ingredients, created, duration_ms FROM results
             WHERE id = ?1",
        )?
        .query_row([result], |row| {
            let text = |column| {
                Ok::<_, rusqlite::Error>(
                    row.get_ref(column)?.as_bytes_or_null()?.unwrap_or_default(),
                )
            };
            let number =
                |column| Ok::<_, rusqlite::Error>(row.get::<_, i64>(column)?.to_le_bytes());
            Ok(index::sum(&[
                &key.0,
                text(0)?,
                text(1)?,
                text(2)?,
                text(3)?,
                &number(4)?,
                &number(5)?,
            ]))
        })
}

fn read(row: &Row<'_>) -> rusqlite::Result<Found> {
    let extra: Vec<String> = from_json(row, 3)?;
    Ok(Found {
        result: row.get(1)?,
        used: row.get(8)?,
        record: Record {
            key: Key(row.get(0)?),
            snapshot: row.get::<_, Option<String>>(2)?.map(SnapshotId),
            extra: extra.into_iter().map(SnapshotId).collect(),
            step: row.get(4)?,
            ingredients: from_json(row, 5)?,
            created: row.get(6)?,
            duration_ms: row.get::<_, i64>(7)?.cast_unsigned(),
        },
    })
}

fn result_of(connection: &Connection, key: Key) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT result FROM keys WHERE key = ?1")?
        .query_row([&key.0], |row| row.get(0))
        .optional()
}

/// Makes a key lead to a result; what it led to before goes when no other key leads there.
fn point(connection: &Connection, key: Key, result: i64) -> Result<()> {
    let action = "point a key at a record";
    let before = result_of(connection, key).doing(action)?;
    let sum = sum_of(connection, key, result).doing(action)?;
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO keys (key, result, sum, unsynced) VALUES (?1, ?2, ?3, {EPOCH})"
        ))
        .doing(action)?
        .execute((&key.0, result, sum))
        .doing(action)?;
    if let Some(before) = before
        && before != result
    {
        connection
            .prepare_cached(
                "DELETE FROM results WHERE id = ?1
                 AND NOT EXISTS (SELECT 1 FROM keys WHERE result = ?1)",
            )
            .doing(action)?
            .execute([before])
            .doing(action)?;
    }
    Ok(())
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::damaged("a record to be saved", error))
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|error| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
    })
}
