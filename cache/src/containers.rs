//! Which containers there are, and which snapshot each stands on: collection spares it. A container's state lies
//! in a directory of its own that whoever runs containers fills.

use std::path::PathBuf;

use crate::error::{IndexContext as _, IoContext as _};
use crate::index;
use crate::lease;
use crate::snapshot::{self, SnapshotId};
use crate::store::{Error, Result, Store};

impl Store {
    /// Records that a container stands on a snapshot, and makes its directory. Containers are synced at once:
    /// they are no cache.
    ///
    /// Errors: `Missing` where the snapshot is not here, [`Error::BadId`] for an id that is no plain name.
    pub fn put_container(&self, id: &str, snapshot: &SnapshotId) -> Result<()> {
        let directory = self.container_directory(id)?;
        match std::fs::create_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            result => result.at("create", &directory)?,
        }
        // Its snapshot must outlive a power cut, too; it stays meanwhile, for this process knows it.
        self.sync()?;
        let action = "record a container";
        index::durably(&mut self.index(), action, |transaction| {
            if snapshot::find(transaction, snapshot)?.is_none() {
                return Err(snapshot::missing(snapshot));
            }
            transaction
                .execute(
                    "INSERT OR REPLACE INTO containers (id, snapshot) VALUES (?1, ?2)",
                    (id, snapshot.as_str()),
                )
                .doing(action)?;
            Ok(())
        })
    }

    /// Forgets a container and removes its directory. False where there is none. Nothing of it may be mounted.
    pub fn remove_container(&self, id: &str) -> Result<bool> {
        let directory = self.container_directory(id)?;
        let action = "forget a container";
        let removed = index::durably(&mut self.index(), action, |transaction| {
            transaction
                .execute("DELETE FROM containers WHERE id = ?1", [id])
                .doing(action)
        })?;
        let doomed = self.shared.temporary_path();
        match rustix::fs::rename(&directory, &doomed) {
            Err(rustix::io::Errno::NOENT) => {}
            result => {
                result.at("remove", &directory)?;
                lease::remove(&doomed)?;
            }
        }
        Ok(removed > 0)
    }

    /// Containers and the snapshots they stand on, by id.
    pub fn containers(&self) -> Result<Vec<(String, SnapshotId)>> {
        self.index()
            .prepare_cached("SELECT id, snapshot FROM containers ORDER BY id")
            .and_then(|mut statement| {
                statement
                    .query_map([], |row| Ok((row.get(0)?, SnapshotId(row.get(1)?))))?
                    .collect()
            })
            .doing("read the containers")
    }

    /// `containers/ID`.
    pub fn container_directory(&self, id: &str) -> Result<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if id.is_empty() || id.len() > 128 || !id.bytes().all(plain) {
            return Err(Error::BadId(id.chars().take(128).collect()));
        }
        let mut path = self.root().join("containers");
        path.push(id);
        Ok(path)
    }
}
