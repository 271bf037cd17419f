//! What stands for devices in a tree that a command may change: sockets, which nobody can open.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rbuild_cache::root_dir::Metadata;
use rbuild_cache::tree::Kind;
use rustix::fs::OFlags;

/// What stands for devices.
#[derive(Debug, Default)]
pub(crate) struct StandIns {
    /// By inode number. They are held open, so that no number is another's later.
    known: Mutex<HashMap<u64, (Kind, u64, OwnedFd)>>,
}

/// Those that are held open at most.
const MOST_STAND_INS: usize = 4096;

impl StandIns {
    /// A socket in place of a device: whatever the container lets its root open, a command does not.
    pub(crate) fn make(
        &self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        (kind, device): (Kind, u64),
    ) -> io::Result<Metadata> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_STAND_INS {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(directory, name, rustix::fs::FileType::Socket, mode, 0)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(directory, name, flags, rustix::fs::Mode::empty())?;
        let what = Metadata::of_fd(made.as_fd())?;
        known.insert(what.inode, (kind, device, made));
        Ok(what)
    }

    /// Kind and number of the device that something stands for.
    pub(super) fn device(&self, what: &Metadata) -> Option<(Kind, u64)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, device, _) = known.get(&what.inode)?;
        (what.kind == Kind::Socket).then_some((*kind, *device))
    }
}
