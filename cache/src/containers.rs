//! Containers as the store keeps them: a directory each, which whoever runs containers fills, and the snapshots
//! that they stand on, which collection spares.
//!
//! ```text
//! containers/ID/          appears whole, by one rename
//!   alive                 locked by the process that a running container lives in; dead ones hold no lock
//!   name                  its name
//!   …                     files that are replaced at once, and what the container wrote
//! containers/names/NAME   a link to ID; means something only where that container's `name` agrees
//! containers/addresses/A  a claim to an address (`claims`)
//! locks/containers        held while names change hands and containers go
//! ```
//!
//! [`Containers`] is all that most commands need: it opens no index and mounts nothing.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::claims::Claims;
use crate::collect::is_hex;
use crate::error::{IndexContext as _, IoContext as _};
use crate::index;
use crate::lease;
use crate::snapshot::{self, SnapshotId};
use crate::store::{Error, Result, Store, lock_file, open_lock_file, try_lock};

/// Digits of an ID.
const ID_DIGITS: usize = 64;

/// The containers of a store.
#[derive(Debug, Clone)]
pub struct Containers {
    root: PathBuf,
}

impl Containers {
    /// Those of the store at `root`, which need not be there.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    fn all(&self) -> PathBuf {
        self.root.join("containers")
    }

    fn link(&self, name: &str) -> PathBuf {
        let mut path = self.all().join("names");
        path.push(name);
        path
    }

    /// All IDs, in no order.
    pub fn ids(&self) -> Result<Vec<String>> {
        let all = self.all();
        if !all.exists() {
            return Ok(Vec::new());
        }
        let mut ids = lease::names(&all)?;
        ids.retain(|name| is_hex(name, ID_DIGITS));
        Ok(ids)
    }

    /// `containers/ID`.
    pub fn directory(&self, id: &str) -> Result<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if id.is_empty() || id.len() > 128 || !id.bytes().all(plain) {
            return Err(Error::BadId(id.chars().take(128).collect()));
        }
        let mut path = self.all();
        path.push(id);
        Ok(path)
    }

    /// Held while names change hands and containers go.
    pub fn lock(&self) -> Result<File> {
        lock_file(
            &self.root.join("locks/containers"),
            FlockOperation::LockExclusive,
        )
    }

    /// Makes this process the one that a container lives in, until the file is closed. `None` where another one is.
    pub fn hold(&self, id: &str) -> Result<Option<File>> {
        let path = self.directory(id)?.join("alive");
        let file = open_lock_file(&path)?;
        Ok(try_lock(&file).at("lock", &path)?.then_some(file))
    }

    /// Whether a living process holds a container.
    pub fn is_held(&self, id: &str) -> Result<bool> {
        let path = self.directory(id)?.join("alive");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => Ok(matches!(
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared),
                Err(rustix::io::Errno::WOULDBLOCK)
            )),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno).at("open", &path),
        }
    }

    /// A file of a container; `None` where it is not there.
    pub fn read(&self, id: &str, file: &str) -> Result<Option<Vec<u8>>> {
        let path = self.directory(id)?.join(file);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).at("read", &path),
        }
    }

    /// Whether a container has a file of this name.
    pub fn has(&self, id: &str, file: &str) -> Result<bool> {
        Ok(self.directory(id)?.join(file).exists())
    }

    /// Replaces a file of a container at once. One process at a time writes a file.
    pub fn write(&self, id: &str, file: &str, bytes: &[u8]) -> Result<()> {
        let directory = self.directory(id)?;
        let (making, path) = (directory.join(format!("{file}.new")), directory.join(file));
        std::fs::write(&making, bytes).at("write", &making)?;
        rustix::fs::rename(&making, &path).at("create", &path)
    }

    /// The ID of the container of this name.
    pub fn by_name(&self, name: &str) -> Result<Option<String>> {
        let Ok(target) = std::fs::read_link(self.link(name)) else {
            return Ok(None);
        };
        let Some(id) = target.to_str().filter(|id| is_hex(id, ID_DIGITS)) else {
            return Ok(None);
        };
        let named = self.read(id, "name")?;
        Ok(named
            .is_some_and(|named| named == name.as_bytes())
            .then(|| id.to_owned()))
    }

    /// Gives a container that is there a name, in place of the one it had. False where another has it.
    pub fn name(&self, id: &str, name: &str) -> Result<bool> {
        // A link means something only when the file is there that agrees.
        let _lock = self.lock()?;
        let link = self.link(name);
        match rustix::fs::symlink(id, &link) {
            Err(rustix::io::Errno::NOENT) => {
                let names = self.all().join("names");
                std::fs::create_dir_all(&names).at("create", &names)?;
                rustix::fs::symlink(id, &link).at("create", &link)?;
            }
            Err(rustix::io::Errno::EXIST) => {
                if self.by_name(name)?.is_some_and(|other| other != id) {
                    return Ok(false);
                }
                // Of a container that is gone, or that never came to be.
                let making = self.all().join("names").join(format!(".{id}"));
                let _ = std::fs::remove_file(&making);
                rustix::fs::symlink(id, &making).at("create", &making)?;
                rustix::fs::rename(&making, &link).at("create", &link)?;
            }
            result => result.at("create", &link)?,
        }
        let before = self.read(id, "name")?;
        if before.as_deref() != Some(name.as_bytes()) {
            self.write(id, "name", name.as_bytes())?;
            if let Some(before) = before.and_then(|before| String::from_utf8(before).ok()) {
                let _ = std::fs::remove_file(self.link(&before));
            }
        }
        Ok(true)
    }

    /// Removes a container's directory and its name. Nothing of it may be mounted or running.
    pub fn remove_directory(&self, id: &str) -> Result<()> {
        remove_hidden(&self.hide(id)?)
    }

    /// As [`Containers::remove_directory`] where the directory is removed later, by [`remove_hidden`]: nobody finds it
    /// any more. What nobody removes, [`Containers::sweep`] does.
    fn hide(&self, id: &str) -> Result<PathBuf> {
        let directory = self.directory(id)?;
        if let Some(name) = self
            .read(id, "name")?
            .and_then(|name| String::from_utf8(name).ok())
            && self.by_name(&name)?.as_deref() == Some(id)
        {
            let _ = std::fs::remove_file(self.link(&name));
        }
        // First out of sight, so that nobody finds half of it. Only whoever holds it removes it.
        let doomed = self.all().join(format!(".{id}"));
        match rustix::fs::rename(&directory, &doomed) {
            Err(rustix::io::Errno::NOENT) => {}
            result => result.at("remove", &directory)?,
        }
        Ok(doomed)
    }

    /// Addresses of containers in the network that is there unless another is asked for.
    pub fn addresses(&self) -> Claims {
        Claims::at(self.all().join("addresses"))
    }

    /// What was being removed when its process died, and what dead processes claimed. What belongs to others, as files
    /// of a container's users do outside of its user namespace, stays for who may remove it.
    pub fn sweep(&self) -> Result<()> {
        let all = self.all();
        if !all.exists() {
            return Ok(());
        }
        self.addresses().sweep()?;
        for name in lease::names(&all)? {
            if name
                .strip_prefix('.')
                .is_some_and(|id| is_hex(id, ID_DIGITS))
            {
                match remove_hidden(&all.join(name)) {
                    Err(error) if error.is_permission_denied() => {}
                    removed => removed?,
                }
            }
        }
        Ok(())
    }
}

/// Removes what is left of a container that was hidden. Others may be removing the same: what is gone already is no
/// failure.
pub fn remove_hidden(path: &Path) -> Result<()> {
    loop {
        match lease::remove(path) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                if !path.exists() {
                    return Ok(());
                }
            }
            result => return result,
        }
    }
}

impl Store {
    /// The containers of this store.
    pub fn container_files(&self) -> Containers {
        Containers::at(self.root())
    }

    /// Gives a container its directory, which `fill` fills first: it appears whole.
    pub fn publish_container(
        &self,
        id: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let directory = self.container_directory(id)?;
        let making = self.shared.nursery_path();
        crate::store::make_directory(&making)?;
        let filled = fill(&making)
            .and_then(|()| rustix::fs::rename(&making, &directory).at("create", &directory));
        if filled.is_err() {
            let _ = lease::remove(&making);
        }
        filled
    }

    /// Records that a container stands on snapshots, and makes its directory where there is none. Such containers
    /// are synced at once: they are no cache.
    ///
    /// Errors: `Missing` where a snapshot is not here, [`Error::BadId`] for an id that is no plain name.
    pub fn put_container(&self, id: &str, snapshots: &[SnapshotId]) -> Result<()> {
        let directory = self.container_directory(id)?;
        match std::fs::create_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            result => result.at("create", &directory)?,
        }
        // Its snapshot must outlive a power cut, too; it stays meanwhile, for this process knows it.
        self.sync()?;
        let action = "record a container";
        index::durably(&mut self.index(), action, |transaction| {
            record(transaction, id, snapshots)
        })
    }

    /// As [`Store::put_container`], for one that need not outlive a power cut.
    pub fn put_passing_container(&self, id: &str, snapshots: &[SnapshotId]) -> Result<()> {
        let mut connection = self.index();
        let transaction = index::write(&mut connection)?;
        record(&transaction, id, snapshots)?;
        transaction.commit().doing("record a container")
    }

    /// Forgets a container and removes its directory. False where there is none. Nothing of it may be mounted.
    pub fn remove_container(&self, id: &str) -> Result<bool> {
        let directory = self.container_directory(id)?;
        let known = directory.exists();
        let removed = self.forget_container(id)?;
        self.container_files().remove_directory(id)?;
        Ok(removed || known)
    }

    /// As [`Store::remove_container`]; what is left of it is where this returns, and somebody else's to remove
    /// ([`remove_hidden`]).
    pub fn hide_container(&self, id: &str) -> Result<PathBuf> {
        self.forget_container(id)?;
        self.container_files().hide(id)
    }

    /// The snapshots that a container stood on may go.
    fn forget_container(&self, id: &str) -> Result<bool> {
        let action = "forget a container";
        let known = self
            .index()
            .prepare_cached(&format!("SELECT 1 FROM containers WHERE {ITS_ROWS}"))
            .and_then(|mut statement| statement.exists([id]))
            .doing(action)?;
        if !known {
            return Ok(false);
        }
        let mut connection = self.index();
        let transaction = index::write(&mut connection)?;
        transaction
            .execute(&format!("DELETE FROM containers WHERE {ITS_ROWS}"), [id])
            .doing(action)?;
        transaction.commit().doing(action)?;
        Ok(true)
    }

    /// Containers and the snapshots they stand on, by id: one that stands on several comes several times.
    pub fn containers(&self) -> Result<Vec<(String, SnapshotId)>> {
        self.index()
            .prepare_cached("SELECT id, snapshot FROM containers ORDER BY id")
            .and_then(|mut statement| {
                statement
                    .query_map([], |row| {
                        let mut id: String = row.get(0)?;
                        id.truncate(id.find('/').unwrap_or(id.len()));
                        Ok((id, SnapshotId(row.get(1)?)))
                    })?
                    .collect()
            })
            .doing("read the containers")
    }

    /// `containers/ID`.
    pub fn container_directory(&self, id: &str) -> Result<PathBuf> {
        self.container_files().directory(id)
    }
}

/// The rows of the container `?1`. The first snapshot is at its id, the further ones at `ID/1` and so on, up to what
/// comes after the slash.
const ITS_ROWS: &str = "id = ?1 OR (id > ?1 || '/' AND id < ?1 || '0')";

fn record(connection: &rusqlite::Connection, id: &str, snapshots: &[SnapshotId]) -> Result<()> {
    for (number, snapshot) in snapshots.iter().enumerate() {
        if snapshot::find(connection, snapshot)?.is_none() {
            return Err(snapshot::missing(snapshot));
        }
        let row = match number {
            0 => id.to_owned(),
            further => format!("{id}/{further}"),
        };
        connection
            .execute(
                "INSERT OR REPLACE INTO containers (id, snapshot) VALUES (?1, ?2)",
                (row, snapshot.as_str()),
            )
            .doing("record a container")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    fn containers(root: &Path, ids: &[String]) -> Containers {
        drop(Store::open(root).unwrap());
        let containers = Containers::at(root);
        for id in ids {
            std::fs::create_dir(containers.directory(id).unwrap()).unwrap();
        }
        containers
    }

    #[test]
    fn of_those_that_want_a_name_at_once_one_gets_it() {
        const ROUNDS: usize = 400;
        let ids: Vec<String> = (0..3 * ROUNDS).map(|id| format!("{id:064x}")).collect();
        let directory = tempfile::tempdir().unwrap();
        let containers = containers(directory.path(), &ids);
        for (round, ids) in ids.chunks(3).enumerate() {
            let (barrier, got) = (Barrier::new(ids.len()), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for id in ids {
                    scope.spawn(|| {
                        barrier.wait();
                        let name = format!("name{round}");
                        if containers.name(id, &name).unwrap() {
                            got.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
            });
            assert_eq!(got.into_inner(), 1);
        }
    }

    #[test]
    fn who_looks_does_not_hold() {
        let id = "a".repeat(ID_DIGITS);
        let directory = tempfile::tempdir().unwrap();
        let containers = containers(directory.path(), std::slice::from_ref(&id));
        drop(containers.hold(&id).unwrap());
        let end = Instant::now() + Duration::from_millis(500);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while Instant::now() < end {
                        let _ = containers.is_held(&id).unwrap();
                    }
                });
            }
            while Instant::now() < end {
                let held = containers.hold(&id).unwrap();
                assert!(held.is_some() && containers.hold(&id).unwrap().is_none());
            }
        });
    }
}
