//! A name in an open directory: where something is, or may be made.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::node::{Metadata, Node, timestamps};
use super::{RootDir, regular, remove};
use crate::tree::Kind;

/// An open directory and one name in it. Nothing here follows a link at that name.
#[derive(Debug)]
pub struct Place {
    directory: OwnedFd,
    name: OsString,
}

impl Place {
    pub(super) fn new(directory: OwnedFd, name: OsString) -> Self {
        Self { directory, name }
    }

    /// A name in an open directory. Errors: `InvalidInput` for anything that is not exactly one name.
    pub fn at(directory: &RootDir, name: &OsStr) -> io::Result<Self> {
        let bytes = name.as_bytes();
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
            return Err(Errno::INVAL.into());
        }
        Ok(Self::new(
            directory.as_fd().try_clone_to_owned()?,
            name.to_owned(),
        ))
    }

    /// The directory that holds it.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The name within [`Self::directory`].
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Of what has this name; of a link its own.
    pub fn metadata(&self) -> io::Result<Metadata> {
        Metadata::at(self.directory.as_fd(), &self.name)
    }

    /// What is there now, to be looked at and changed.
    pub fn node(&self) -> io::Result<Node> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty())?;
        Ok(Node::from_fd(fd))
    }

    /// Opens a regular file for reading; never blocks.
    pub fn open_file(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        regular(rustix::fs::openat(
            &self.directory,
            &self.name,
            flags,
            Mode::empty(),
        )?)
    }

    /// Makes a file that must not exist yet, open for reading and writing, with exactly this mode (no umask).
    pub fn create_file(&self, mode: u32) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(
            &self.directory,
            &self.name,
            flags,
            Mode::from_raw_mode(0o600),
        )?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o7777))?;
        Ok(fd.into())
    }

    /// Makes a directory that must not exist yet, with exactly this mode (no umask).
    pub fn create_dir(&self, mode: u32) -> io::Result<Node> {
        rustix::fs::mkdirat(&self.directory, &self.name, Mode::from_raw_mode(0o700))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty())?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o7777))?;
        Ok(Node::from_fd(fd))
    }

    /// Makes a link. `AlreadyExists` where there is something.
    pub fn symlink(&self, target: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.directory, &self.name)?)
    }

    /// Makes a device, fifo or socket with exactly this mode; a [`Kind::Whiteout`] is a character device 0:0.
    /// Errors: `InvalidInput` for files, directories and links, which have calls of their own.
    pub fn make_node(&self, kind: Kind, mode: u32, device: u64) -> io::Result<()> {
        let (file_type, device) = match kind {
            Kind::CharDevice => (FileType::CharacterDevice, device),
            Kind::Whiteout => (FileType::CharacterDevice, 0),
            Kind::BlockDevice => (FileType::BlockDevice, device),
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::Socket => (FileType::Socket, 0),
            Kind::File | Kind::Directory | Kind::Symlink => return Err(Errno::INVAL.into()),
        };
        let mode_bits = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::mknodat(&self.directory, &self.name, file_type, mode_bits, device)?;
        if kind == Kind::Whiteout {
            return Ok(());
        }
        self.node()?.set_mode(mode)
    }

    /// Makes `new` another name of what is here; a link is linked itself.
    pub fn hard_link(&self, new: &Place) -> io::Result<()> {
        Ok(rustix::fs::linkat(
            &self.directory,
            &self.name,
            &new.directory,
            &new.name,
            AtFlags::empty(),
        )?)
    }

    /// Renames, replacing what may be replaced.
    pub fn rename(&self, to: &Place) -> io::Result<()> {
        Ok(rustix::fs::renameat(
            &self.directory,
            &self.name,
            &to.directory,
            &to.name,
        )?)
    }

    /// Removes anything but a directory.
    pub fn remove_file(&self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.directory,
            &self.name,
            AtFlags::empty(),
        )?)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.directory,
            &self.name,
            AtFlags::REMOVEDIR,
        )?)
    }

    /// Removes whatever is here, with everything below.
    pub fn remove_tree(&self) -> io::Result<()> {
        remove::remove_tree_at(self.directory.as_fd(), &self.name)
    }

    /// Sets the owner, of a link its own; what the kernel refuses is not written down instead.
    pub fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = crate::owners::ids(uid, gid)?;
        Ok(rustix::fs::chownat(
            &self.directory,
            &self.name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Sets both times, of a link its own. Seconds and nanoseconds.
    pub fn set_times(&self, atime: (i64, u32), mtime: (i64, u32)) -> io::Result<()> {
        Ok(rustix::fs::utimensat(
            &self.directory,
            &self.name,
            &timestamps(atime, mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }
}
