//! Where on the disk things are made. ext4 puts files near their directory, and directories near the one above, unless
//! that is said to hold things that have nothing to do with each other. Without a journal it also passes by each inode
//! that was freed near there in the last minutes, before it uses one. Every mount of an overlay makes some that go
//! again, so that who builds all the time, or has a neighbour who removes many files, soon pays ten times and more for
//! each file.
//!
//! Where that is seen, a process makes what it makes in a directory of its own, its nursery, in some other part of the
//! disk. What is made in there stays in that part when it gets its final name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{IFlags, Mode, OFlags};
use rustix::time::{ClockId, clock_gettime};

use crate::error::{IoContext as _, Result};
use crate::lease;
use crate::store::{Shared, make_directory};

/// A file is made in 10 to 30 µs. A nursery costs 200, once a process, and some ten files are made for a command.
const SLOW: Duration = Duration::from_micros(60);

/// Makes the directories in it go apart. Says whether they do now: few file systems know of it.
pub(crate) fn scatter(directory: &Path) -> bool {
    set(directory, true).is_ok_and(|is_set| is_set)
}

/// Whether the directories in it go apart.
fn is_scattered(directory: &Path) -> bool {
    set(directory, false).is_ok_and(|is_set| is_set)
}

fn set(directory: &Path, wanted: bool) -> rustix::io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let flags = rustix::fs::ioctl_getflags(&directory)?;
    if wanted && !flags.contains(IFlags::TOPDIR) {
        rustix::fs::ioctl_setflags(&directory, flags | IFlags::TOPDIR)?;
        return Ok(true);
    }
    Ok(flags.contains(IFlags::TOPDIR))
}

/// Makes a directory far from those beside it, by way of another one, `above`.
pub(crate) fn make_apart(path: &Path, above: &Path) -> Result<()> {
    make_directory(above)?;
    scatter(above);
    // The file system chooses its place by the name.
    let making = above.join(lease::random_word()?);
    make_directory(&making)?;
    rustix::fs::rename(&making, path).at("create", path)?;
    rustix::fs::rmdir(above).at("remove", above)
}

/// Says besides what `make` returns whether the making of one file took so long that it is worth a nursery. In
/// processor time: others may be busy.
pub(crate) fn timed<T>(make: impl FnOnce() -> T) -> (T, bool) {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(now).unwrap_or_default()
    };
    let before = now();
    let made = make();
    (made, now().saturating_sub(before) >= SLOW)
}

impl Shared {
    /// A path under `tmp/` that nobody else uses.
    pub(crate) fn temporary_path(&self) -> PathBuf {
        let name = self.lease.temporary_name();
        match self.nursery.get() {
            Some(Some(nursery)) => nursery.join(name),
            _ => self.root.join("tmp").join(name),
        }
    }

    /// As [`Shared::temporary_path`], for a directory in which files are going to be made.
    pub(crate) fn nursery_path(&self) -> PathBuf {
        self.nursery.get_or_init(|| self.make_nursery());
        self.temporary_path()
    }

    /// `None` where there is to be none, or cannot.
    fn make_nursery(&self) -> Option<PathBuf> {
        let place = self.root.join("tmp");
        // A process that found it slow marks it for all that come later.
        let is_wanted = is_scattered(&place) || (self.lease.was_slow() && scatter(&place));
        let path = place.join(self.lease.temporary_name());
        (is_wanted && make_directory(&path).is_ok()).then_some(path)
    }

    /// When nothing is in it any more. What is, waits for the next sweep.
    pub(crate) fn leave_nursery(&self) {
        if let Some(Some(nursery)) = self.nursery.get()
            && let Err(error) = rustix::fs::rmdir(nursery)
        {
            tracing::debug!(%error, "what is in the making stays until the store is opened next");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[test]
    fn what_is_made_in_a_nursery_comes_out_of_it_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        drop(Store::open(&root).unwrap());
        let place = root.join("tmp");
        if !scatter(&place) {
            println!("SKIPPED: the file system knows nothing of directories that go apart");
            return;
        }
        let store = Store::open(&root).unwrap();
        let active = store.prepare().unwrap();
        let nursery = active.upper().parent().unwrap().parent().unwrap();
        assert_eq!(nursery.parent(), Some(place.as_path()));
        assert!(active.work().starts_with(nursery));
        assert!(
            store
                .temporary_directory()
                .unwrap()
                .path()
                .starts_with(nursery)
        );
        std::fs::write(active.upper().join("file"), "bytes").unwrap();
        let snapshot = active.commit(None, 0).unwrap();
        let files = store.snapshot_directory(&snapshot.id).unwrap();
        assert!(!files.starts_with(&place));
        assert_eq!(std::fs::read(files.join("file")).unwrap(), b"bytes");
        drop(store.prepare().unwrap());
        drop(store);
        assert_eq!(lease::names(&place).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_dead_process_leaves_its_nursery_to_the_sweep() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let store = Store::open(&root).unwrap();
        let dead = root.join("tmp/000000000000001-dead.0");
        std::fs::create_dir_all(dead.join("000000000000001-dead.1/fs")).unwrap();
        std::fs::write(dead.join("000000000000001-dead.2"), "bytes").unwrap();
        lease::sweep(&root, store.lease(), usize::MAX).unwrap();
        assert!(!dead.exists());
    }
}
