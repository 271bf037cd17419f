//! Up to which epoch what was published is synced, told beside the index: a build, whose user waits, needs no further
//! transaction.
//!
//! ```text
//! ROOT/synced     epoch (8 bytes), boot (36), hash of both (20)
//! ```
//! A build ends its epoch ([`Store::begin_sync`]); then comes `syncfs`, then this file, then `fdatasync` of it
//! ([`Unsynced::finish`]). Marks of that epoch and of those before are off then, wherever the index still has them; the next one
//! that ends an epoch takes them out of it, and so does the first one after another boot, before it drops the others
//! ([`crate::index`]). It is done before the build ends: whoever waited for that may take the file system away.
//!
//! The order is what counts. `syncfs` begins when all rows of the epoch are in the index's log, and this file is
//! written when all that was in the log, and all that the rows point at, is on the disk. A power cut before that
//! finds the file of an earlier epoch, or none, or a torn one, which is none: then the rows of this epoch are
//! dropped, as ever. The epoch of the index, which `syncfs` wrote, too, is higher than the one in the file; no later
//! row can have a mark that the file takes off. And since an index that is made anew counts from the beginning,
//! whoever makes one removes the file first.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::{IndexContext as _, IoContext as _};
use crate::index;
use crate::store::{Result, Store, open_lock_file};

/// The name of the file in the store.
pub(crate) const NAME: &str = "synced";

const EPOCH_BYTES: usize = 8;
const BOOT_BYTES: usize = 36;
const SUM_BYTES: usize = 20;
const BYTES: usize = EPOCH_BYTES + BOOT_BYTES + SUM_BYTES;

/// What is published and not synced.
#[derive(Debug)]
#[must_use = "what is in it is not durable before it is finished"]
pub struct Unsynced {
    /// The store.
    root: OwnedFd,
    /// The file that says what is synced.
    record: OwnedFd,
    epoch: i64,
}

fn finish(root: BorrowedFd<'_>, record: BorrowedFd<'_>, epoch: i64) -> std::io::Result<()> {
    rustix::fs::syncfs(root)?;
    let boot = index::boot().map_err(std::io::Error::other)?;
    while let Err(errno) = rustix::fs::flock(record, FlockOperation::LockExclusive) {
        if errno != rustix::io::Errno::INTR {
            return Err(errno.into());
        }
    }
    // Somebody who began later may have been faster.
    let told = match read(record, &boot) {
        Some(other) if other >= epoch => Ok(()),
        _ => rustix::io::pwrite(record, &encode(epoch, &boot), 0)
            .and_then(|_| rustix::fs::fdatasync(record)),
    };
    rustix::fs::flock(record, FlockOperation::Unlock)?;
    Ok(told?)
}

fn encode(epoch: i64, boot: &str) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let (said, sum) = bytes.split_at_mut(EPOCH_BYTES + BOOT_BYTES);
    let (number, name) = said.split_at_mut(EPOCH_BYTES);
    number.copy_from_slice(&epoch.to_le_bytes());
    for (byte, of_boot) in name.iter_mut().zip(boot.bytes()) {
        *byte = of_boot;
    }
    let hash = blake3::hash(said);
    sum.copy_from_slice(&hash.as_bytes()[..SUM_BYTES]);
    bytes
}

/// The epoch that was synced in a boot.
fn read(record: impl AsFd, boot: &str) -> Option<i64> {
    let mut bytes = [0; BYTES];
    let length = rustix::io::pread(record, &mut bytes, 0).ok()?;
    let number = bytes.first_chunk::<EPOCH_BYTES>()?;
    let epoch = i64::from_le_bytes(*number);
    (length == BYTES && bytes == encode(epoch, boot)).then_some(epoch)
}

/// Up to which epoch all that was published in a boot is synced; 0 where nobody says so.
pub(crate) fn epoch(root: &Path, boot: &str) -> i64 {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path(root), flags, Mode::empty())
        .ok()
        .and_then(|record| read(record, boot))
        .unwrap_or(0)
}

/// Before an index is made, which counts epochs anew.
pub(crate) fn forget(root: &Path) -> Result<()> {
    let path = path(root);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        result => result.at("remove", &path)?,
    }
    // A power cut must not bring it back beside the new index.
    File::open(root)
        .and_then(|directory| directory.sync_all())
        .at("sync", root)
}

fn path(root: &Path) -> PathBuf {
    root.join(NAME)
}

impl Store {
    /// Makes durable what is published so far, as [`Store::sync`], and leaves its marks in the index to the next.
    pub fn sync_published(&self) -> Result<()> {
        match self.begin_sync()? {
            Some(unsynced) => unsynced.finish().at("sync", self.root()),
            None => Ok(()),
        }
    }

    /// The half of [`Store::sync_published`] that waits for no disk: the other is [`Unsynced::finish`]. `None` where all
    /// is durable already.
    pub fn begin_sync(&self) -> Result<Option<Unsynced>> {
        let action = "mark what is to be synced";
        let synced = epoch(self.root(), &self.shared.boot);
        let mut connection = self.index();
        if !index::is_marked(&connection, synced).doing(action)? {
            return Ok(None);
        }
        let root: OwnedFd = File::open(self.root()).at("open", self.root())?.into();
        let record: OwnedFd = open_lock_file(&path(self.root()))?.into();
        let transaction = index::write(&mut connection)?;
        index::unmark(&transaction, synced).doing(action)?;
        let epoch = index::end_epoch(&transaction).doing(action)?;
        transaction.commit().doing(action)?;
        Ok(Some(Unsynced {
            root,
            record,
            epoch,
        }))
    }
}

impl Unsynced {
    /// Makes the epoch durable, and all before it. Blocking; several processes may do so at once, in any order.
    pub fn finish(&self) -> std::io::Result<()> {
        finish(self.root.as_fd(), self.record.as_fd(), self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "9d0c626c-6c9e-413a-a5d5-c87c6ffcb53a";

    #[test]
    fn what_is_torn_or_of_another_boot_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert_eq!(epoch(root, BOOT), 0);
        let whole = encode(7, BOOT);
        std::fs::write(path(root), whole).unwrap();
        assert_eq!(epoch(root, BOOT), 7);
        assert_eq!(epoch(root, "another"), 0);
        for place in 0..BYTES {
            let mut torn = whole;
            torn[place] ^= 1;
            std::fs::write(path(root), torn).unwrap();
            assert_eq!(epoch(root, BOOT), 0, "{place}");
            std::fs::write(path(root), &whole[..place]).unwrap();
            assert_eq!(epoch(root, BOOT), 0, "{place}");
        }
        forget(root).unwrap();
        forget(root).unwrap();
        assert!(!path(root).exists());
    }

    #[test]
    fn the_later_epoch_stays() {
        let directory = tempfile::tempdir().unwrap();
        let root = File::open(directory.path()).unwrap();
        let record = open_lock_file(&path(directory.path())).unwrap();
        let boot = index::boot().unwrap();
        for (finished, then) in [(3, 3), (5, 5), (4, 5), (6, 6)] {
            finish(root.as_fd(), record.as_fd(), finished).unwrap();
            assert_eq!(epoch(directory.path(), &boot), then);
        }
    }
}
