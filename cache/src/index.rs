//! The index: one SQLite file in WAL mode that any number of processes use at once.
//!
//! Rows are published before what they point at is synced to disk. Until then they carry in `unsynced` the epoch
//! in which they were written; [`crate::Store::sync`] ends an epoch, syncs the file system and takes the marks
//! off, or how far it is done is said beside the index (`synced`). `meta.boot` says in
//! which boot the marks were made: whoever opens the store first after another boot
//! drops the marked rows, because a power cut may have torn what they point at. `kill -9` tears nothing.
//!
//! Rows that say what something leads to (`keys` with their results, `chains`, `layers`) carry in `sum` a hash of
//! what they say: a bit that flips on the disk makes a row that is not there, never one that leads elsewhere.
//!
//! `used` columns are milliseconds since 1970 and never less than the start of the lease of the process that
//! wrote them, so that a clock that is set back cannot make something look unused.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::error::{Error, IndexContext as _, IoContext as _, Result};
use crate::synced;

/// The format of the index and of everything it points at. Raise it when an older program would misread.
pub(crate) const VERSION: i64 = 4;

/// Waits for others that write, of which each holds the write lock for well under a millisecond; `tries`: how often
/// it was waited before. False after a minute. SQLite by itself sleeps for a millisecond at least, then for 2, 5, 10
/// and more.
fn wait_for_others(tries: i32) -> bool {
    const LIMIT: Duration = Duration::from_secs(60);
    const STEPS: [(i32, Duration); 3] = [
        (50, Duration::from_micros(100)),
        (100, Duration::from_millis(1)),
        (i32::MAX, Duration::from_millis(10)),
    ];
    let (mut before, mut waited) = (0, Duration::ZERO);
    for (until, pause) in STEPS {
        if tries < until {
            waited += pause.saturating_mul(u32::try_from(tries - before).unwrap_or(0));
            if waited < LIMIT {
                std::thread::sleep(pause);
            }
            break;
        }
        waited += pause.saturating_mul(u32::try_from(until - before).unwrap_or(0));
        before = until;
    }
    waited < LIMIT
}

/// Tables whose rows may carry a mark.
pub(crate) const MARKED: [&str; 7] = [
    "blobs",
    "snapshots",
    "chains",
    "layers",
    "results",
    "keys",
    "images",
];

const SCHEMA: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO meta VALUES ('boot', ''), ('epoch', 1);

CREATE TABLE blobs (
  digest BLOB PRIMARY KEY, size INTEGER NOT NULL,
  used INTEGER NOT NULL, unsynced INTEGER
) WITHOUT ROWID;
CREATE TABLE snapshots (
  id TEXT PRIMARY KEY, parent TEXT, tree BLOB NOT NULL, content BLOB NOT NULL,
  created INTEGER NOT NULL, size INTEGER NOT NULL, packed BLOB,
  used INTEGER NOT NULL, unsynced INTEGER
) WITHOUT ROWID;
CREATE TABLE chains (
  chain BLOB PRIMARY KEY, snapshot TEXT NOT NULL, sum BLOB,
  used INTEGER NOT NULL, unsynced INTEGER
) WITHOUT ROWID;
CREATE TABLE layers (
  snapshot TEXT NOT NULL, variant TEXT NOT NULL,
  digest BLOB NOT NULL, size INTEGER NOT NULL, media_type TEXT NOT NULL, diff_id BLOB NOT NULL,
  sum BLOB, unsynced INTEGER,
  PRIMARY KEY (snapshot, variant)
) WITHOUT ROWID;
CREATE TABLE results (
  id INTEGER PRIMARY KEY, snapshot TEXT, extra TEXT NOT NULL,
  step TEXT NOT NULL, ingredients TEXT NOT NULL,
  created INTEGER NOT NULL, duration_ms INTEGER NOT NULL,
  used INTEGER NOT NULL, unsynced INTEGER
);
CREATE INDEX results_step ON results (step, created);
CREATE TABLE keys (
  key BLOB PRIMARY KEY, result INTEGER NOT NULL, sum BLOB, unsynced INTEGER
) WITHOUT ROWID;
CREATE INDEX keys_result ON keys (result);
CREATE TABLE images (
  name TEXT NOT NULL, manifest BLOB NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
  config BLOB NOT NULL, snapshot TEXT, blobs BLOB NOT NULL, tagged INTEGER NOT NULL,
  used INTEGER NOT NULL, unsynced INTEGER,
  PRIMARY KEY (name, manifest)
) WITHOUT ROWID;
CREATE TABLE containers (id TEXT PRIMARY KEY, snapshot TEXT NOT NULL) WITHOUT ROWID;

CREATE INDEX blobs_unsynced ON blobs (unsynced) WHERE unsynced IS NOT NULL;
CREATE INDEX snapshots_unsynced ON snapshots (unsynced) WHERE unsynced IS NOT NULL;
CREATE INDEX chains_unsynced ON chains (unsynced) WHERE unsynced IS NOT NULL;
CREATE INDEX layers_unsynced ON layers (unsynced) WHERE unsynced IS NOT NULL;
CREATE INDEX results_unsynced ON results (unsynced) WHERE unsynced IS NOT NULL;
CREATE INDEX keys_unsynced ON keys (unsynced) WHERE unsynced IS NOT NULL;
CREATE INDEX images_unsynced ON images (unsynced) WHERE unsynced IS NOT NULL;
";

/// From version 1, which had no sums: rows of it are believed.
const SUMS: &str = "
ALTER TABLE keys ADD COLUMN sum BLOB;
ALTER TABLE chains ADD COLUMN sum BLOB;
ALTER TABLE layers ADD COLUMN sum BLOB;
";

/// From version 2, in which every snapshot's files were there.
const PACKED: &str = "ALTER TABLE snapshots ADD COLUMN packed BLOB;";

/// Says which tables do not have the columns that they should have.
pub(crate) fn foreign_tables(connection: &Connection) -> Result<Vec<String>> {
    let action = "look at its tables";
    let sample = Connection::open_in_memory().doing(action)?;
    sample.execute_batch(SCHEMA).doing(action)?;
    let columns = |connection: &Connection| -> Result<Vec<(String, String)>> {
        connection
            .prepare(
                "SELECT t.name, c.name || ' ' || c.type || ' ' || c.\"notnull\" || c.pk || t.wr
                 FROM pragma_table_list AS t, pragma_table_info(t.name) AS c
                 WHERE t.schema = 'main' AND t.name NOT LIKE 'sqlite%'
                 UNION ALL
                 SELECT tbl_name, 'index ' || name FROM sqlite_schema
                 WHERE type = 'index' AND name NOT LIKE 'sqlite%'
                 ORDER BY 1, 2",
            )
            .and_then(|mut statement| {
                statement
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect()
            })
            .doing(action)
    };
    let here = columns(connection)?;
    let missing = columns(&sample)?;
    Ok(missing
        .into_iter()
        .filter(|column| !here.contains(column))
        .map(|(table, what)| format!("its table `{table}` is not ours: there is no `{what}`"))
        .collect())
}

/// A hash of what a row says, for its `sum`.
pub(crate) fn sum(fields: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for field in fields {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    *hasher.finalize().as_bytes()
}

/// True for a row that says what was written; `None` is the sum of a row of an earlier version.
pub(crate) fn is_sum(written: Option<&[u8]>, fields: &[&[u8]]) -> bool {
    written.is_none_or(|written| written == sum(fields))
}

/// The mark of a row written now; for use inside SQL.
pub(crate) const EPOCH: &str = "(SELECT value FROM meta WHERE name = 'epoch')";

/// Opens the index of the store at `root`, making it where there is none. The caller holds the set-up lock if
/// `may_create`; without it, `None` says that there is no index yet.
pub(crate) fn open(root: &Path, may_create: bool) -> Result<Option<Connection>> {
    let path = root.join("index.db");
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if may_create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    } else if !path.exists() {
        return Ok(None);
    }
    let mut connection = Connection::open_with_flags(&path, flags).doing("open it")?;
    connection
        .busy_handler(Some(wait_for_others))
        .doing("set how it waits for others")?;
    connection.set_prepared_statement_cache_capacity(64);
    let version: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .doing("read its version")?;
    if version > VERSION {
        return Err(Error::Newer {
            path: root.to_owned(),
            found: version,
            known: VERSION,
        });
    }
    if version < VERSION {
        if !may_create {
            return Ok(None);
        }
        if version == 0 {
            synced::forget(root)?;
        }
        create(&mut connection, version)?;
    }
    // With WAL, NORMAL loses at most the last transactions in a power cut and never tears; `sync` asks for more.
    connection
        .execute_batch("PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 250")
        .doing("set how it syncs")?;
    // Else the last process that closes it empties the log, with two syncs: more than a whole cached build takes.
    // What is left of it, at most about 512 KiB, is read again by the next one.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .doing("set how it closes")?;
    // Else a statement that joins is planned anew each time that it gets other values, which takes longer than running
    // it. What the values are makes no difference to our plans.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .doing("set how it plans")?;
    Ok(Some(connection))
}

/// The log is read whole when the index is opened, 3 µs a page; a longer one is emptied into the index before, which is
/// four syncs. A cached build adds some seven pages: the two cost about the same.
const LOG_BYTES_MAX: u64 = 512 << 10;

/// As [`LOG_BYTES_MAX`], for a process that put something in: it waits for the disk anyway, so that those after it, which
/// may put nothing in, need not.
const LOG_BYTES_MAX_WHEN_FILLED: u64 = LOG_BYTES_MAX / 2;

/// Empties the log if it grew long. What is in it is safe either way.
pub(crate) fn shorten_log(root: &Path, connection: &Connection, was_filled: bool) {
    let limit = if was_filled {
        LOG_BYTES_MAX_WHEN_FILLED
    } else {
        LOG_BYTES_MAX
    };
    let is_long =
        std::fs::metadata(root.join("index.db-wal")).is_ok_and(|metadata| metadata.len() > limit);
    if !is_long {
        return;
    }
    // Others may be using it: then it is theirs to do.
    let truncated = connection
        .busy_timeout(Duration::ZERO)
        .and_then(|()| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    if let Err(error) = truncated {
        tracing::debug!(%error, "the index's log stays long");
    }
}

/// Makes the tables, or those of an earlier version into ours.
fn create(connection: &mut Connection, version: i64) -> Result<()> {
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .doing("switch it to write-ahead logging")?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(Error::damaged(
            "the store's index",
            "this file system cannot hold SQLite's write-ahead log (a network file system?)",
        ));
    }
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .doing("create its tables")?;
    let steps: &[&str] = match version {
        0 => &[SCHEMA],
        1 => &[SUMS, PACKED],
        2 => &[PACKED],
        // An earlier program would drop what is synced and marked nevertheless.
        _ => &[],
    };
    for step in steps {
        transaction.execute_batch(step).doing("create its tables")?;
    }
    transaction
        .pragma_update(None, "user_version", VERSION)
        .doing("write its version")?;
    transaction.commit().doing("create its tables")
}

/// What the kernel calls this boot.
pub(crate) fn boot() -> Result<String> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let mut boot = std::fs::read_to_string(BOOT_ID).at("read", Path::new(BOOT_ID))?;
    boot.truncate(boot.trim_end().len());
    Ok(boot)
}

/// Whether there are marks of later epochs than one.
pub(crate) fn is_marked(connection: &Connection, after: i64) -> rusqlite::Result<bool> {
    let marks = MARKED.map(|table| format!("SELECT 1 FROM {table} WHERE unsynced > ?1"));
    // In one statement: each takes its locks.
    connection
        .prepare_cached(&format!("{} LIMIT 1", marks.join(" UNION ALL ")))?
        .exists([after])
}

/// Ends the epoch and returns it: rows that are written from now on have a higher one.
pub(crate) fn end_epoch(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row(
        "UPDATE meta SET value = value + 1 WHERE name = 'epoch' RETURNING value - 1",
        [],
        |row| row.get(0),
    )
}

/// In an index that has rows of another one: the next epoch to end is one that takes all their marks off.
pub(crate) fn begin_epoch_beyond_marks(connection: &Connection) -> rusqlite::Result<()> {
    for table in MARKED {
        connection.execute(
            &format!(
                "UPDATE meta SET value = MAX(value, (SELECT COALESCE(MAX(unsynced), 0) FROM {table}))
                 WHERE name = 'epoch'"
            ),
            [],
        )?;
    }
    Ok(())
}

/// Takes the marks of an epoch, and of those before it, off.
pub(crate) fn unmark(connection: &Connection, epoch: i64) -> rusqlite::Result<()> {
    for table in MARKED {
        connection.execute(
            &format!(
                "UPDATE {table} SET unsynced = NULL
                 WHERE unsynced IS NOT NULL AND unsynced <= ?1"
            ),
            [epoch],
        )?;
    }
    Ok(())
}

/// Drops what an earlier boot than this one published and never synced. One row is read where there is nothing to do.
pub(crate) fn drop_torn(root: &Path, boot: &str, connection: &mut Connection) -> Result<()> {
    let seen: String = connection
        .query_row("SELECT value FROM meta WHERE name = 'boot'", [], |row| {
            row.get(0)
        })
        .doing("read which boot used it last")?;
    if seen == boot {
        return Ok(());
    }
    let transaction = write(connection)?;
    let action = "drop what was not synced before the last boot";
    let seen: String = transaction
        .query_row("SELECT value FROM meta WHERE name = 'boot'", [], |row| {
            row.get(0)
        })
        .doing(action)?;
    if seen != boot {
        unmark(&transaction, synced::epoch(root, &seen)).doing(action)?;
        for table in MARKED {
            transaction
                .execute(
                    &format!("DELETE FROM {table} WHERE unsynced IS NOT NULL"),
                    [],
                )
                .doing(action)?;
        }
        drop_dangling(&transaction)?;
        transaction
            .execute("UPDATE meta SET value = ?1 WHERE name = 'boot'", [boot])
            .doing(action)?;
    }
    transaction.commit().doing(action)
}

/// Forgets what points at snapshots and results that are not there. Run after rows were taken away.
pub(crate) fn drop_dangling(transaction: &Transaction<'_>) -> Result<()> {
    let action = "forget what points at nothing";
    // A snapshot without its parent, or without what holds its files, is nothing; the loop ends after as many rounds
    // as the longest torn chain.
    loop {
        let gone = transaction
            .execute(
                "DELETE FROM snapshots WHERE (parent IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM snapshots AS p WHERE p.id = snapshots.parent))
                 OR (packed IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM layers AS l JOIN blobs AS b ON b.digest = l.digest
                     WHERE l.snapshot = snapshots.id AND l.digest = snapshots.packed))",
                [],
            )
            .doing(action)?;
        if gone == 0 {
            break;
        }
    }
    transaction
        .execute_batch(
            "DELETE FROM chains WHERE snapshot NOT IN (SELECT id FROM snapshots);
             DELETE FROM layers WHERE snapshot NOT IN (SELECT id FROM snapshots);
             DELETE FROM results WHERE snapshot IS NOT NULL
               AND snapshot NOT IN (SELECT id FROM snapshots);
             DELETE FROM results WHERE extra <> '[]' AND EXISTS (
               SELECT 1 FROM json_each(results.extra) AS e
               WHERE e.value NOT IN (SELECT id FROM snapshots));
             DELETE FROM keys WHERE result NOT IN (SELECT id FROM results);
             DELETE FROM results WHERE id NOT IN (SELECT result FROM keys);
             UPDATE images SET snapshot = NULL WHERE snapshot IS NOT NULL
               AND snapshot NOT IN (SELECT id FROM snapshots);
             DELETE FROM images WHERE manifest NOT IN (SELECT digest FROM blobs);",
        )
        .doing(action)
}

/// Begins a transaction that writes. It takes the write lock at once, because a transaction that first reads and
/// then wants to write fails when somebody wrote in between.
pub(crate) fn write(connection: &mut Connection) -> Result<Transaction<'_>> {
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .doing("begin writing")
}

/// Commits a transaction whose loss in a power cut would leave rows that point at what is gone.
pub(crate) fn durably<T>(
    connection: &mut Connection,
    action: &'static str,
    work: impl FnOnce(&Transaction<'_>) -> Result<T>,
) -> Result<T> {
    connection
        .execute_batch("PRAGMA synchronous = FULL")
        .doing(action)?;
    let result = (|| {
        let transaction = write(connection)?;
        let value = work(&transaction)?;
        transaction.commit().doing(action)?;
        Ok(value)
    })();
    connection
        .execute_batch("PRAGMA synchronous = NORMAL")
        .doing(action)?;
    result
}

/// As [`durably`], where the file system was synced after the log was made: SQLite would sync the store's directory
/// too, once in each process, which the log does not need any more.
pub(crate) fn durably_in_log(
    root: &Path,
    connection: &mut Connection,
    action: &'static str,
    work: impl FnOnce(&Transaction<'_>) -> Result<()>,
) -> Result<()> {
    let transaction = write(connection)?;
    work(&transaction)?;
    transaction.commit().doing(action)?;
    // Nobody has locks on the log that closing it here could take away: those are on the other two files.
    let log = root.join("index.db-wal");
    std::fs::File::open(&log)
        .and_then(|log| log.sync_data())
        .at("sync", &log)
}

#[cfg(test)]
mod tests {
    use super::wait_for_others;

    #[test]
    fn others_are_waited_for_a_minute() {
        // 5 ms, 50 ms, and then 10 ms each.
        assert!(wait_for_others(0) && wait_for_others(99) && wait_for_others(100 + 5993));
        assert!(!wait_for_others(100 + 5995) && !wait_for_others(i32::MAX));
    }
}
