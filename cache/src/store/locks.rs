//! Files that processes hold locked.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::{IoContext as _, Result};

/// Opens a lock file, making it where there is none, and locks it.
pub(crate) fn lock_file(path: &Path, operation: FlockOperation) -> Result<File> {
    let file = open_lock_file(path)?;
    lock(&file, operation).at("lock", path)?;
    Ok(file)
}

/// Locks an open file, or changes how it is locked.
pub(crate) fn lock(file: &File, operation: FlockOperation) -> rustix::io::Result<()> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Locks a file that its holder holds exclusively, without waiting for that one; false where there is one. Who only looks
/// whether there is holds it shared for a moment, and is waited for.
pub(crate) fn try_lock(file: &impl AsFd) -> rustix::io::Result<bool> {
    use rustix::io::Errno;
    let attempt = |operation| loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    };
    loop {
        if attempt(FlockOperation::NonBlockingLockExclusive)? {
            return Ok(true);
        }
        if !attempt(FlockOperation::NonBlockingLockShared)? {
            return Ok(false);
        }
        rustix::fs::flock(file, FlockOperation::Unlock)?;
        std::thread::yield_now();
    }
}

pub(crate) fn open_lock_file(path: &Path) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).at("open", path)?;
    Ok(fd.into())
}
