//! Leases: how collection knows which processes live. A lease is a file in `leases/` that its process holds
//! locked; the kernel frees it at death. Whatever was used or made since the oldest living lease began is spared.
//!
//! The file's name is `START-RANDOM`: milliseconds since 1970 and a random word. It is locked before it gets that
//! name, so a lease that can be locked by another is dead. Names in `tmp/` begin with the name of the lease of
//! the process that made them.
//!
//! A process that goes on for long and needs no more than what rows hold (a container) lets the rest go: beside its
//! lease lies `START-RANDOM.since`, which says from when on it spares what is used.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::{IoContext as _, Result};
use crate::nursery;
use crate::root_dir::remove_tree_at;

/// So much garbage of dead processes is looked at when a store is opened; the rest waits for the next one.
const SWEEP_LIMIT: usize = 16;

/// Of the file beside a lease that says since when it spares.
const SINCE: &str = ".since";

/// This process's lease; part of [`crate::Store`].
#[derive(Debug)]
#[must_use = "dropping a lease lets collection take what it pins"]
pub struct Lease {
    name: String,
    /// It spares what was used since then.
    start_ms: AtomicI64,
    path: PathBuf,
    /// Counts the names given out in `tmp/`.
    counter: AtomicU64,
    /// Holds the lock until the lease is dropped.
    _file: File,
    was_slow: bool,
}

impl Lease {
    /// Takes a lease in the store at `root`.
    pub(crate) fn take(root: &Path) -> Result<Self> {
        let start_ms = now_ms();
        let name = format!("{start_ms:015}-{}", random_word()?);
        let path = root.join("leases").join(&name);
        let making = root.join("tmp").join(format!("{name}.lease"));
        let (file, was_slow) = make_locked(&making, &path)?;
        Ok(Self {
            name,
            // Not before others see it: what was used in between may have been looked at without it.
            start_ms: AtomicI64::new(now_ms()),
            path,
            counter: AtomicU64::new(0),
            _file: file,
            was_slow,
        })
    }

    /// The time to write into `used` columns.
    pub(crate) fn now_ms(&self) -> i64 {
        now_ms().max(self.start_ms())
    }

    /// What was used before this time is to be marked when this process uses it.
    pub(crate) fn start_ms(&self) -> i64 {
        self.start_ms.load(Ordering::SeqCst)
    }

    /// Spares no longer what was used before now. What is used from here on is marked first, and only then others
    /// are told.
    pub(crate) fn let_go(&self, root: &Path) -> Result<()> {
        let now = self.now_ms();
        self.start_ms.store(now, Ordering::SeqCst);
        let making = root.join("tmp").join(self.temporary_name());
        let since = since_of(&self.path);
        let mut file = create_new(&making)?;
        let written = file
            .write_all(format!("{now:015}").as_bytes())
            .at("write", &making)
            .and_then(|()| rustix::fs::rename(&making, &since).at("create", &since));
        if written.is_err() {
            let _ = std::fs::remove_file(&making);
        }
        written
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The making of its file took long.
    pub(crate) fn was_slow(&self) -> bool {
        self.was_slow
    }

    /// A name in `tmp/` that nobody else has.
    pub(crate) fn temporary_name(&self) -> String {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        format!("{}.{number}", self.name)
    }
}

/// Makes a file, locks it, and only then gives it its name. Another process may take the file for garbage before
/// it is locked; then it is made again. Says, too, whether making it took long.
fn make_locked(making: &Path, path: &Path) -> Result<(File, bool)> {
    const TRIES: u32 = 100;
    let mut tries = 0;
    loop {
        let (file, was_slow) = nursery::timed(|| create_new(making));
        let file = file?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).at("lock", making)?;
        match rustix::fs::rename(making, path) {
            Err(rustix::io::Errno::NOENT) if tries < TRIES => tries += 1,
            result => {
                result.at("create", path)?;
                return Ok((file, was_slow));
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The name goes first: a lease file that can be locked is a dead one.
        let _ = std::fs::remove_file(since_of(&self.path));
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

/// 32 random hex digits.
pub(crate) fn random_word() -> Result<String> {
    let mut bytes = [0_u8; 16];
    let length = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .at("read random bytes from", Path::new("/dev/urandom"))?;
    debug_assert_eq!(length, bytes.len());
    Ok(hex::encode(bytes))
}

/// Makes a file that must not exist yet, readable by nobody else.
pub(crate) fn create_new(path: &Path) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).at("create", path)?;
    Ok(fd.into())
}

/// The start of the oldest living lease but `own`, in milliseconds; dead leases are removed.
pub(crate) fn oldest_living(root: &Path) -> Result<Option<i64>> {
    let directory = root.join("leases");
    let mut oldest = None;
    for name in names(&directory)? {
        let path = directory.join(&name);
        if let Some(lease) = name.strip_suffix(SINCE) {
            if !is_alive(&directory.join(lease)) {
                let _ = std::fs::remove_file(path);
            }
            continue;
        }
        let Some(start) = start_of(&name) else {
            continue;
        };
        if is_alive(&path) {
            let since = std::fs::read_to_string(since_of(&path)).ok();
            let since = since.and_then(|text| text.parse().ok());
            let start = since.map_or(start, |since: i64| since.max(start));
            oldest = Some(oldest.map_or(start, |other: i64| other.min(start)));
        } else {
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(oldest)
}

fn since_of(lease: &Path) -> PathBuf {
    let mut path = lease.as_os_str().to_owned();
    path.push(SINCE);
    path.into()
}

/// Removes what dead processes left in `tmp/`, at most `limit` entries; returns the bytes given back. `lease` is
/// the name of the lease of whoever sweeps.
pub(crate) fn sweep(root: &Path, lease: &str, limit: usize) -> Result<u64> {
    let mut bytes = 0;
    for garbage in garbage(root, limit)? {
        // Others may sweep as well: who gets to rename it removes it.
        let own = root.join("tmp").join(format!("{lease}.{}", random_word()?));
        match rustix::fs::rename(&garbage, &own) {
            Err(rustix::io::Errno::NOENT) => continue,
            result => result.at("remove", &garbage)?,
        }
        bytes += crate::collect::allocated(&own);
        remove(&own)?;
    }
    Ok(bytes)
}

/// Removes what the process that has a lease leaves in `tmp/`, if it ends without letting its lease go, and the lease
/// itself. Waits for that end. For a process that outlives it; others may sweep at the same time.
pub fn bury(root: &Path, lease: &str) -> Result<()> {
    // Processes that are killed with it may write for a moment more.
    const TRIES: u32 = 100;
    let path = root.join("leases").join(lease);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        // It let its lease go.
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        file => {
            let file = file.at("open", &path)?;
            while let Err(errno) = rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                if errno != rustix::io::Errno::INTR {
                    return Err(errno).at("lock", &path);
                }
            }
        }
    }
    // It may have let the lease go while this waited; then even the store may be gone.
    if !path.exists() {
        return Ok(());
    }
    let mut tries = 0;
    loop {
        // What cannot be removed is garbage again when this lease is gone.
        let own = Lease::take(root)?;
        match sweep(root, own.name(), usize::MAX) {
            Err(_) if tries < TRIES => tries += 1,
            swept => {
                swept?;
                break;
            }
        }
        drop(own);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let _ = std::fs::remove_file(since_of(&path));
    let _ = std::fs::remove_file(&path);
    Ok(())
}

/// Starts removing garbage in the background where there is some; opening a store must not wait for it.
pub(crate) fn sweep_in_background(root: &Path, lease: &Lease) {
    let any = garbage(root, SWEEP_LIMIT).is_ok_and(|found| !found.is_empty());
    if any {
        let root = root.to_owned();
        let lease = lease.name.clone();
        let _ = std::thread::Builder::new()
            .name("store-sweep".to_owned())
            .spawn(move || {
                if let Err(error) = sweep(&root, &lease, SWEEP_LIMIT) {
                    tracing::debug!(%error, "what a dead process left could not be removed");
                }
            });
    }
}

/// Entries of `tmp/` whose process is dead.
pub(crate) fn garbage(root: &Path, limit: usize) -> Result<Vec<PathBuf>> {
    let directory = root.join("tmp");
    let leases = root.join("leases");
    let mut alive: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for name in names(&directory)? {
        if found.len() >= limit {
            break;
        }
        let lease = name
            .split_once('.')
            .map_or(name.as_str(), |(lease, _)| lease);
        if alive.iter().any(|other| other == lease) {
            continue;
        }
        let path = directory.join(&name);
        // A lease in the making is locked itself.
        let making = directory.join(format!("{lease}.lease"));
        if is_alive(&leases.join(lease)) || is_alive(&making) || is_alive(&leases.join(lease)) {
            alive.push(lease.to_owned());
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// Removes a tree of the store's own.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, Mode::empty()).at("open", parent)?;
    use std::os::fd::AsFd as _;
    remove_tree_at(parent.as_fd(), name).at("remove", path)
}

fn is_alive(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err(),
        Err(rustix::io::Errno::NOENT) => false,
        // What cannot be looked at is not known to be dead.
        Err(_) => true,
    }
}

fn start_of(name: &str) -> Option<i64> {
    name.split_once('-')?.0.parse().ok()
}

/// Names in one of the store's directories; those that are not UTF-8 are not the store's.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).at("list", directory)?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.at("list", directory)?.file_name();
        if let Some(name) = OsStr::to_str(&name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
