//! Cache mounts: directories that outlive builds, by the hash of their id (an id is never a path).
//!
//! ```text
//! mounts/HASH/id          the id, for people
//! mounts/HASH/lock        held while the names below are looked at or changed
//! mounts/HASH/N           a directory that builds mount; N counts up from 0
//! mounts/HASH/N.lock      held shared or exclusively by its users; its mtime is the last use
//! mounts/HASH/N.retired   N was reset: its users keep it, nobody else gets it, collection takes it
//! ```

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;

use crate::collect::MountRow;
use crate::error::IoContext as _;
use crate::lease;
use crate::store::{Result, Store, lock_file, make_directory, open_lock_file};

/// Who may use a cache mount at the same time; what is further down leaves less to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// Any number of users at once.
    Shared,
    /// Another user at the same time gets a directory of its own.
    Private,
    /// One user at a time; the others wait.
    Locked,
}

/// Of what is in place of a directory that is elsewhere.
const LENT: Mode = Mode::empty();

/// A cache mount in use; its lock is freed on drop and at death.
#[derive(Debug)]
#[must_use = "dropping it lets collection and locked users take the directory"]
pub struct CacheMount {
    path: PathBuf,
    is_new: bool,
    /// Holds the lock until it is dropped.
    _lock: File,
}

impl CacheMount {
    /// The directory, for as long as this is held.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves an empty directory in place of the one that is about to be renamed to where it is used. Renamed back, that
    /// one takes its place; if it never is, the next user finds a new one. Only for whoever has it alone.
    pub fn lend(&self) -> std::io::Result<()> {
        std::fs::create_dir(&self.path)?;
        Ok(rustix::fs::chmod(&self.path, LENT)?)
    }

    /// The same directory once more for the same user, who has it in two places. Both hold the lock, and the first one
    /// gives it its first content.
    pub fn again(&self) -> Result<Self> {
        Ok(Self {
            path: self.path.clone(),
            is_new: false,
            _lock: self._lock.try_clone().at("use again", &self.path)?,
        })
    }

    /// Leaves the directory to its users: nobody else gets it, and collection takes it. For what did not become what it
    /// was to be.
    pub fn give_up(&self) -> Result<()> {
        mark(&self.path.with_extension("retired"))
    }

    /// True when the directory was made by this call and nothing was put in yet.
    pub fn is_new(&self) -> bool {
        self.is_new
    }
}

/// What `cache mounts ls` tells.
#[derive(Debug, Clone)]
pub struct CacheMountInfo {
    pub id: String,
    pub path: PathBuf,
    pub last_used: i64,
}

impl Store {
    /// Takes a cache mount, waiting where `Locked` asks for it. Call from a blocking thread. A new one is made
    /// empty, mode 0755, owned by the caller; the executor sets mode, owner and first content.
    pub fn cache_mount(&self, id: &str, sharing: Sharing) -> Result<CacheMount> {
        loop {
            match self.take_cache_mount(id, sharing)? {
                Taken::Here(mount) => return Ok(mount),
                // Wait outside of the lock on the names; then look again, for it may have been reset or collected.
                Taken::Busy(lock) => drop(lock_file(&lock, FlockOperation::LockExclusive)?),
            }
        }
    }

    /// As [`Store::cache_mount`], but `None` where that would wait.
    pub fn try_cache_mount(&self, id: &str, sharing: Sharing) -> Result<Option<CacheMount>> {
        Ok(match self.take_cache_mount(id, sharing)? {
            Taken::Here(mount) => Some(mount),
            Taken::Busy(_) => None,
        })
    }

    /// Empties the mount of an id (for `--no-cache`): the directory now there is left to its users, the next user
    /// gets a new one.
    pub fn reset_cache_mount(&self, id: &str) -> Result<()> {
        let directory = self.mount_directory(id);
        let _names = match lock_names(&directory) {
            Err(error) if is_not_found(&error) => return Ok(()),
            result => result?,
        };
        for number in numbers(&directory)? {
            retire(&directory, number)?;
            remove_if_unused(&directory, number)?;
        }
        Ok(())
    }

    /// All directories that a build may get, by id.
    pub fn cache_mounts(&self) -> Result<Vec<CacheMountInfo>> {
        let mounts = self.root().join("mounts");
        let mut found = Vec::new();
        for name in lease::names(&mounts)? {
            let directory = mounts.join(name);
            let id = match std::fs::read_to_string(directory.join("id")) {
                Ok(id) => id,
                // Being made or being collected.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).at("read", &directory.join("id")),
            };
            for number in numbers(&directory)? {
                if !is_retired(&directory, number) {
                    found.push(CacheMountInfo {
                        id: id.clone(),
                        path: directory.join(number.to_string()),
                        last_used: last_used_ms(&directory, number) / 1000,
                    });
                }
            }
        }
        found.sort_by(|one, other| (&one.id, &one.path).cmp(&(&other.id, &other.path)));
        Ok(found)
    }

    /// All directories that somebody may get, with their sizes still to be filled in.
    pub(crate) fn mount_rows(&self) -> Result<Vec<MountRow>> {
        let mounts = self.root().join("mounts");
        let mut rows = Vec::new();
        for name in lease::names(&mounts)? {
            let directory = mounts.join(name);
            // Being made or being collected.
            let (Ok(id), Ok(numbers)) = (
                std::fs::read_to_string(directory.join("id")),
                numbers(&directory),
            ) else {
                continue;
            };
            for number in numbers {
                if !is_retired(&directory, number) {
                    rows.push(MountRow {
                        number,
                        used: last_used_ms(&directory, number),
                        directory: directory.clone(),
                        id: id.clone(),
                        bytes: 0,
                    });
                }
            }
        }
        Ok(rows)
    }

    /// True while somebody holds the lock on the names of an id.
    pub(crate) fn is_being_made(&self, directory: &Path) -> bool {
        let path = directory.join("lock");
        path.exists()
            && open_lock_file(&path).is_ok_and(|lock| {
                rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
            })
    }

    pub(crate) fn is_mount_in_use(&self, directory: &Path, number: u64) -> bool {
        open_lock_file(&lock_path(directory, number)).is_ok_and(|lock| {
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
        })
    }

    /// Removes these directories of cache mounts where nobody used them since, and retired ones whichever they are.
    /// Returns how many, and the bytes given back.
    pub(crate) fn collect_cache_mounts(&self, chosen: &[MountRow]) -> Result<(u64, u64)> {
        let mounts = self.root().join("mounts");
        let (mut count, mut bytes) = (0, 0);
        for name in lease::names(&mounts)? {
            let directory = mounts.join(name);
            let names = match lock_names(&directory) {
                Err(error) if is_not_found(&error) => continue,
                result => result?,
            };
            for number in numbers(&directory)? {
                let is_chosen = chosen.iter().any(|it| {
                    it.number == number
                        && it.directory == directory
                        && it.used == last_used_ms(&directory, number)
                });
                if !is_retired(&directory, number) && !is_chosen {
                    continue;
                }
                let size = crate::collect::allocated(&directory.join(number.to_string()));
                if remove_if_unused(&directory, number)? {
                    count += 1;
                    bytes += size;
                }
            }
            if numbers(&directory)?.is_empty() {
                // Whoever waits for the lock on the names finds the directory gone and makes another.
                let doomed = self.shared.temporary_path();
                rustix::fs::rename(&directory, &doomed).at("remove", &directory)?;
                drop(names);
                lease::remove(&doomed)?;
            }
        }
        Ok((count, bytes))
    }

    fn mount_directory(&self, id: &str) -> PathBuf {
        let mut path = self.root().join("mounts");
        path.push(blake3::hash(id.as_bytes()).to_hex().as_str());
        path
    }

    fn take_cache_mount(&self, id: &str, sharing: Sharing) -> Result<Taken> {
        let directory = self.mount_directory(id);
        let _names = loop {
            match std::fs::create_dir(&directory) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                result => result.at("create", &directory)?,
            }
            match lock_names(&directory) {
                // Collected between the two.
                Err(error) if is_not_found(&error) => {}
                result => break result?,
            }
        };
        let label = directory.join("id");
        if !label.exists() {
            self.shared.write_atomically(&label, id.as_bytes())?;
        }
        let all = numbers(&directory)?;
        let operation = match sharing {
            Sharing::Shared => FlockOperation::NonBlockingLockShared,
            Sharing::Private | Sharing::Locked => FlockOperation::NonBlockingLockExclusive,
        };
        for number in all.iter().copied() {
            if is_retired(&directory, number) {
                continue;
            }
            let path = lock_path(&directory, number);
            let lock = open_lock_file(&path)?;
            match rustix::fs::flock(&lock, operation) {
                Ok(()) => {
                    self.shared.fill();
                    let lost = found_again(&directory.join(number.to_string()))?;
                    return Ok(Taken::Here(in_use(&directory, number, lock, lost)));
                }
                Err(Errno::WOULDBLOCK) => match sharing {
                    Sharing::Locked => return Ok(Taken::Busy(path)),
                    // A private user of the first directory keeps shared ones out, too.
                    Sharing::Shared | Sharing::Private => {}
                },
                Err(error) => return Err(error).at("lock", &path),
            }
        }
        let number = all.last().map_or(0, |last| last + 1);
        let path = lock_path(&directory, number);
        let lock = open_lock_file(&path)?;
        rustix::fs::flock(&lock, operation).at("lock", &path)?;
        let place = directory.join(number.to_string());
        make_directory(&place)?;
        rustix::fs::chmod(&place, Mode::from_raw_mode(0o755)).at("chmod", &place)?;
        self.shared.fill();
        Ok(Taken::Here(in_use(&directory, number, lock, true)))
    }
}

enum Taken {
    Here(CacheMount),
    /// Somebody holds this lock.
    Busy(PathBuf),
}

/// Whether a directory never came back from where it was lent to; then it is as new. Nobody else uses it.
fn found_again(place: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::symlink_metadata(place).at("stat", place)?;
    let is_lost = Mode::from_raw_mode(found.mode() & 0o7777) == LENT
        && std::fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_none());
    if is_lost {
        rustix::fs::chmod(place, Mode::from_raw_mode(0o755)).at("chmod", place)?;
    }
    Ok(is_lost)
}

fn in_use(directory: &Path, number: u64, mut lock: File, is_new: bool) -> CacheMount {
    // Only the time of the last use, for listings and collection: worth no failed build.
    let _ = lock
        .set_modified(SystemTime::now())
        .and_then(|()| lock.flush());
    CacheMount {
        path: directory.join(number.to_string()),
        is_new,
        _lock: lock,
    }
}

/// Held while names in the directory of an id are looked at or changed. `NotFound` where it was collected, also
/// while waiting for it.
fn lock_names(directory: &Path) -> Result<File> {
    use std::os::unix::fs::MetadataExt as _;
    let path = directory.join("lock");
    let lock = lock_file(&path, FlockOperation::LockExclusive)?;
    let held = lock.metadata().at("stat", &path)?;
    let named = std::fs::symlink_metadata(&path).at("stat", &path)?;
    if (held.dev(), held.ino()) == (named.dev(), named.ino()) {
        Ok(lock)
    } else {
        Err(Errno::NOENT).at("lock", &path)
    }
}

/// The directories of an id, in order.
pub(crate) fn numbers(directory: &Path) -> Result<Vec<u64>> {
    let mut numbers: Vec<u64> = lease::names(directory)?
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn lock_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number}.lock"))
}

fn retired_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number}.retired"))
}

fn is_retired(directory: &Path, number: u64) -> bool {
    retired_path(directory, number).exists()
}

fn retire(directory: &Path, number: u64) -> Result<()> {
    mark(&retired_path(directory, number))
}

/// Makes an empty file, where there is none.
fn mark(path: &Path) -> Result<()> {
    drop(open_lock_file(path)?);
    Ok(())
}

/// Milliseconds since 1970.
fn last_used_ms(directory: &Path, number: u64) -> i64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::symlink_metadata(lock_path(directory, number)).map_or(0, |metadata| {
        metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000
    })
}

/// Removes a directory of an id. False where somebody uses it.
fn remove_if_unused(directory: &Path, number: u64) -> Result<bool> {
    let path = lock_path(directory, number);
    let lock = open_lock_file(&path)?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    lease::remove(&directory.join(number.to_string()))?;
    for path in [retired_path(directory, number), path] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result.at("remove", &path)?,
        }
    }
    Ok(true)
}

fn is_not_found(error: &crate::Error) -> bool {
    matches!(error, crate::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}
