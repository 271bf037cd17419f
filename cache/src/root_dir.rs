//! A directory that is the root of everything resolved through it.
//!
//! No path that an input can influence is resolved by the kernel against the host's root: every such path goes
//! through a [`RootDir`] with `openat2(2)` and ends in an `*at` call. Two ways of resolving:
//! * *in root* (`RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`): links are followed as a process in a chroot would;
//! * *beneath* (`RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`): for unpacking; links refuse.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Owns the descriptor of a root.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
}

/// How paths are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    InRoot,
    Beneath,
}

impl RootDir {
    /// Opens a directory of the host by a path that the user or the store gave, never an input.
    pub fn open_ambient(path: &Path) -> std::io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            fd: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    /// Takes a descriptor of a directory, for instance of a detached mount.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
        })
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
