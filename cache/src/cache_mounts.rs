//! Cache mounts: directories that outlive builds, by the hash of their id (an id is never a path).
//!
//! ```text
//! mounts/HASH/id          the id, for people
//! mounts/HASH/lock        held while the names below are looked at or changed
//! mounts/HASH/N           a directory that builds mount; N counts up from 0
//! mounts/HASH/N.lock      held shared or exclusively by its users; its mtime is the last use
//! mounts/HASH/N.filling   N has not all of its first content; whoever gives it that holds the lock exclusively
//! mounts/HASH/N.retired   N was reset: its users keep it, nobody else gets it, collection takes it
//! ```
//!
//! A directory is marked as filling before it is there, and until its first content, mode and owner are synced. One that
//! is marked while nobody holds its lock stays so for ever: whoever filled it died, or gave up. It is retired.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;

use crate::collect::MountRow;
use crate::error::IoContext as _;
use crate::lease;
use crate::store::{Result, Store, lock, lock_file, make_directory, open_lock_file};

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

impl Sharing {
    fn operation(self) -> FlockOperation {
        match self {
            Self::Shared => FlockOperation::LockShared,
            Self::Private | Self::Locked => FlockOperation::LockExclusive,
        }
    }
}

/// Of what is in place of a directory that is elsewhere.
const LENT: Mode = Mode::empty();

/// A cache mount in use; its lock is freed on drop and at death.
#[derive(Debug)]
#[must_use = "dropping it lets collection and locked users take the directory"]
pub struct CacheMount {
    path: PathBuf,
    is_new: bool,
    sharing: Sharing,
    /// Holds the lock until it is dropped.
    lock: File,
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
            sharing: self.sharing,
            lock: self.lock.try_clone().at("use again", &self.path)?,
        })
    }

    /// True when the directory was made by this call and nothing was put in yet. Nobody else gets it before
    /// [`CacheMount::filled`]; if it is dropped before that, nobody ever does.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Says that a new directory has all of its first content, with mode and owner. Waits for the disk where that are
    /// files.
    pub fn filled(&self) -> Result<()> {
        let Some(holder) = self.path.parent().filter(|_| self.is_new) else {
            return Ok(());
        };
        if !is_empty(&self.path) {
            let directory = File::open(holder).at("open", holder)?;
            rustix::fs::syncfs(&directory).at("sync the file system of", &self.path)?;
        }
        // Nobody may take it between the mark and the weaker lock.
        let _names = lock_names(holder)?;
        unmark(&self.path.with_extension("filling"))?;
        if self.sharing == Sharing::Shared {
            lock(&self.lock, FlockOperation::LockShared).at("lock", &self.path)?;
        }
        Ok(())
    }
}

/// What `cache mounts ls` tells.
#[derive(Debug, Clone)]
pub struct CacheMountInfo {
    pub id: String,
    pub path: PathBuf,
    pub last_used: i64,
}

impl CacheMountInfo {
    /// What it takes on the disk: looks at every file.
    pub fn bytes(&self) -> u64 {
        crate::collect::allocated(&self.path)
    }
}

impl Store {
    /// Takes a cache mount, waiting where `Locked` asks for it. Call from a blocking thread. A new one is made
    /// empty, mode 0755, owned by the caller; the executor sets mode, owner and first content.
    pub fn cache_mount(&self, id: &str, sharing: Sharing) -> Result<CacheMount> {
        loop {
            match self.take_cache_mount(id, sharing)? {
                Taken::Here(mount) => return Ok(mount),
                // Wait outside of the lock on the names; then look again, for it may have been reset or collected.
                Taken::Busy(lock) => drop(lock_file(&lock, sharing.operation())?),
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
        for found in directories(&directory)? {
            retire(&directory, found.number)?;
            remove_if_unused(&directory, found.number)?;
        }
        Ok(())
    }

    /// Whether a build that asks for an id finds something, at once or when somebody has filled it.
    pub fn has_cache_mount(&self, id: &str) -> Result<bool> {
        let directory = self.mount_directory(id);
        let all = match directories(&directory) {
            Err(error) if is_not_found(&error) => return Ok(false),
            result => result?,
        };
        Ok(all.iter().any(|found| {
            found.is_anybodys()
                || !found.is_retired && self.is_mount_in_use(&directory, found.number)
        }))
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
            let all = directories(&directory)?;
            for Numbered { number, .. } in all.into_iter().filter(Numbered::is_anybodys) {
                found.push(CacheMountInfo {
                    id: id.clone(),
                    path: directory.join(number.to_string()),
                    last_used: last_used_ms(&directory, number) / 1000,
                });
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
            let (Ok(id), Ok(all)) = (
                std::fs::read_to_string(directory.join("id")),
                directories(&directory),
            ) else {
                continue;
            };
            for Numbered { number, .. } in all.into_iter().filter(Numbered::is_anybodys) {
                rows.push(MountRow {
                    number,
                    used: last_used_ms(&directory, number),
                    directory: directory.clone(),
                    id: id.clone(),
                    bytes: 0,
                });
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
        // Whoever wants it meanwhile would find it taken, and make another.
        let Ok(_names) = lock_names(directory) else {
            return false;
        };
        open_lock_file(&lock_path(directory, number)).is_ok_and(|lock| {
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
        })
    }

    /// Removes these directories of cache mounts where nobody used them since, and those that nobody gets any more.
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
            for found in directories(&directory)? {
                let number = found.number;
                let is_chosen = chosen.iter().any(|it| {
                    it.number == number
                        && it.directory == directory
                        && it.used == last_used_ms(&directory, number)
                });
                if found.is_anybodys() && !is_chosen {
                    continue;
                }
                let size = crate::collect::allocated(&directory.join(number.to_string()));
                if remove_if_unused(&directory, number)? {
                    count += 1;
                    bytes += size;
                }
            }
            if directories(&directory)?.is_empty() {
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
        let all = directories(&directory)?;
        for found in all.iter().filter(|found| !found.is_retired) {
            let path = lock_path(&directory, found.number);
            let lock = open_lock_file(&path)?;
            let operation = match sharing {
                Sharing::Shared if !found.is_filling => FlockOperation::NonBlockingLockShared,
                _ => FlockOperation::NonBlockingLockExclusive,
            };
            let place = directory.join(found.number.to_string());
            match rustix::fs::flock(&lock, operation) {
                // Who filled it is gone, or who borrowed it.
                Ok(()) if found.is_filling || is_lost(&place)? => {
                    retire(&directory, found.number)?;
                }
                Ok(()) => {
                    self.shared.fill();
                    return Ok(Taken::Here(in_use(place, sharing, lock, false)));
                }
                Err(Errno::WOULDBLOCK) => match sharing {
                    Sharing::Locked => return Ok(Taken::Busy(path)),
                    Sharing::Shared if found.is_filling => return Ok(Taken::Busy(path)),
                    // A private user of the first directory keeps shared ones out, too.
                    Sharing::Shared | Sharing::Private => {}
                },
                Err(error) => return Err(error).at("lock", &path),
            }
        }
        let number = all.last().map_or(0, |last| last.number + 1);
        let path = lock_path(&directory, number);
        let lock = open_lock_file(&path)?;
        let operation = FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&lock, operation).at("lock", &path)?;
        // Of one whose removal was not finished.
        unmark(&retired_path(&directory, number))?;
        mark(&filling_path(&directory, number))?;
        let place = directory.join(number.to_string());
        make_directory(&place)?;
        rustix::fs::chmod(&place, Mode::from_raw_mode(0o755)).at("chmod", &place)?;
        self.shared.fill();
        Ok(Taken::Here(in_use(place, sharing, lock, true)))
    }
}

enum Taken {
    Here(CacheMount),
    /// Somebody holds this lock.
    Busy(PathBuf),
}

/// Whether a directory never came back from where it was lent to.
fn is_lost(place: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::symlink_metadata(place).at("stat", place)?;
    Ok(Mode::from_raw_mode(found.mode() & 0o7777) == LENT && is_empty(place))
}

fn is_empty(place: &Path) -> bool {
    std::fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_none())
}

fn in_use(path: PathBuf, sharing: Sharing, mut lock: File, is_new: bool) -> CacheMount {
    // Only the time of the last use, for listings and collection: worth no failed build.
    let _ = lock
        .set_modified(SystemTime::now())
        .and_then(|()| lock.flush());
    CacheMount {
        path,
        is_new,
        sharing,
        lock,
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

/// A directory of an id, and what is said of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbered {
    number: u64,
    is_filling: bool,
    is_retired: bool,
}

impl Numbered {
    /// Whether somebody may get it.
    fn is_anybodys(&self) -> bool {
        !self.is_filling && !self.is_retired
    }
}

/// The directories of an id, in order.
pub(crate) fn directories(directory: &Path) -> Result<Vec<Numbered>> {
    let names = lease::names(directory)?;
    let marked = |number: u64, mark: &str| {
        let is_mark = |name: &String| {
            name.strip_suffix(mark)
                .is_some_and(|name| name.parse() == Ok(number))
        };
        names.iter().any(is_mark)
    };
    let mut all: Vec<Numbered> = names
        .iter()
        .filter_map(|name| name.parse().ok())
        .map(|number| Numbered {
            number,
            is_filling: marked(number, ".filling"),
            is_retired: marked(number, ".retired"),
        })
        .collect();
    all.sort_unstable_by_key(|found| found.number);
    Ok(all)
}

fn lock_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number}.lock"))
}

fn retired_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number}.retired"))
}

fn filling_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number}.filling"))
}

fn retire(directory: &Path, number: u64) -> Result<()> {
    mark(&retired_path(directory, number))
}

/// Makes an empty file, where there is none.
fn mark(path: &Path) -> Result<()> {
    drop(open_lock_file(path)?);
    Ok(())
}

fn unmark(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
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
    // Nobody is to get what is left of it when this does not end. A full disk may have no room for the mark.
    let _ = retire(directory, number);
    lease::remove(&directory.join(number.to_string()))?;
    unmark(&filling_path(directory, number))?;
    unmark(&retired_path(directory, number))?;
    unmark(&path)?;
    Ok(true)
}

fn is_not_found(error: &crate::Error) -> bool {
    matches!(error, crate::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}
