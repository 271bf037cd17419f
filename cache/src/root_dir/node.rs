//! A thing inside a root, held so that nobody can swap it: its metadata, its xattrs, its bytes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::RootDir;
use crate::tree::Kind;

/// What a path leads to, held by an `O_PATH` descriptor; links are held themselves.
#[derive(Debug)]
pub struct Node {
    fd: OwnedFd,
}

/// What `statx` tells, in the words of trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Never [`Kind::Whiteout`]: a whiteout is a character device 0:0 here.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of devices: `makedev(major, minor)`.
    pub device: u64,
    pub size: u64,
    /// In bytes (512 times `st_blocks`).
    pub allocated: u64,
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
    /// The file system's device and inode number: equal for two names of one file.
    pub file_system: u64,
    pub inode: u64,
    pub links: u32,
}

impl Metadata {
    pub(crate) fn of(stat: &Statx) -> Self {
        use rustix::fs::FileType;
        // Whoever this process is stands for root, as in a user namespace with one id.
        let (uid, gid) = if crate::owners::limited() {
            (0, 0)
        } else {
            (stat.stx_uid, stat.stx_gid)
        };
        Self {
            kind: match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
                FileType::Directory => Kind::Directory,
                FileType::Symlink => Kind::Symlink,
                FileType::CharacterDevice => Kind::CharDevice,
                FileType::BlockDevice => Kind::BlockDevice,
                FileType::Fifo => Kind::Fifo,
                FileType::Socket => Kind::Socket,
                _ => Kind::File,
            },
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid,
            gid,
            device: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            size: stat.stx_size,
            allocated: stat.stx_blocks.saturating_mul(512),
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            file_system: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            links: stat.stx_nlink,
        }
    }

    /// Of `name` in an open directory, links not followed.
    pub fn at(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)?;
        Ok(Self::of(&stat))
    }

    /// Of an open descriptor of any kind.
    pub fn of_fd(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
        let stat = rustix::fs::statx(fd, c"", flags, StatxFlags::BASIC_STATS)?;
        Ok(Self::of(&stat))
    }
}

impl Node {
    /// Of a descriptor of any kind, also `O_PATH`.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// What it is now; of a link its own.
    pub fn metadata(&self) -> io::Result<Metadata> {
        Metadata::of_fd(self.fd.as_fd())
    }

    /// The node as a root. Its kind is not looked at: of anything but a directory, nothing resolves.
    pub fn into_root(self) -> RootDir {
        RootDir::from_fd(self.fd)
    }

    /// Opens the bytes of a regular file for reading; anything else is `InvalidInput`.
    pub fn open_file(&self) -> io::Result<File> {
        if self.metadata()?.kind != Kind::File {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.proc_path(), flags, Mode::empty())?.into())
    }

    /// The target of a link, as written.
    pub fn read_link(&self) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.fd, c"", Vec::new()).map_err(|error| {
            // The kernel says ENOENT for an empty path on something that is not a link.
            if error == Errno::NOENT {
                Errno::INVAL
            } else {
                error
            }
        })?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Sets the permission bits, setuid, setgid and sticky included. A link has none of its own: nothing happens.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        if self.metadata()?.kind == Kind::Symlink {
            return Ok(());
        }
        Ok(rustix::fs::chmod(
            self.proc_path(),
            Mode::from_raw_mode(mode & 0o7777),
        )?)
    }

    /// Sets the owner, of a link its own, or writes it down ([`crate::owners::set`]). Clears setuid and setgid, so set
    /// the mode afterwards.
    pub fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        crate::owners::set(self.fd.as_fd(), uid, gid)
    }

    /// Sets both times, of a link its own. Seconds and nanoseconds.
    pub fn set_times(&self, atime: (i64, u32), mtime: (i64, u32)) -> io::Result<()> {
        let times = timestamps(atime, mtime);
        Ok(rustix::fs::utimensat(
            rustix::fs::CWD,
            self.proc_path(),
            &times,
            AtFlags::empty(),
        )?)
    }

    /// Names of all extended attributes; none where the file system has no such thing.
    pub fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>> {
        let path = self.proc_path();
        let list = read_growing(|buffer| rustix::fs::listxattr(&path, buffer))?;
        Ok(list.map(|list| split_names(&list)).unwrap_or_default())
    }

    /// The value of an extended attribute, if it is there.
    pub fn xattr(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let path = self.proc_path();
        read_growing(|buffer| rustix::fs::getxattr(&path, name, buffer))
    }

    /// Sets an extended attribute, in place of the value that it had.
    pub fn set_xattr(&self, name: &[u8], value: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::setxattr(
            self.proc_path(),
            name,
            value,
            XattrFlags::empty(),
        )?)
    }

    /// Removes an extended attribute. `ENODATA` where there is none.
    pub fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::removexattr(self.proc_path(), name)?)
    }

    /// The one way to what an `O_PATH` descriptor stands for in calls that take no such descriptor. The magic link
    /// leads to the node itself and ends there, also if the node is a link.
    fn proc_path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) fn timestamps(atime: (i64, u32), mtime: (i64, u32)) -> Timestamps {
    let time = |(seconds, nanoseconds): (i64, u32)| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.min(999_999_999).into(),
    };
    Timestamps {
        last_access: time(atime),
        last_modification: time(mtime),
    }
}

/// The time of a change, as seconds and nanoseconds; that of the last look stays.
#[must_use]
pub fn modified_alone((seconds, nanoseconds): (i64, i64)) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        },
    }
}

/// Names in the form of `listxattr`: each ends in a zero byte.
pub(crate) fn split_names(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

/// Calls with a larger buffer until the answer fits. `None` where there is no such attribute or no such thing as
/// attributes.
pub(crate) fn read_growing(
    mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Option<Vec<u8>>> {
    // The kernel's own limit for a value and for a list is 64 KiB.
    let mut buffer = [0_u8; 1024];
    match read(&mut buffer) {
        Ok(length) => return Ok(buffer.get(..length).map(<[u8]>::to_vec)),
        Err(Errno::RANGE) => {}
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut buffer = vec![0_u8; 64 * 1024];
    match read(&mut buffer) {
        Ok(length) => {
            buffer.truncate(length);
            Ok(Some(buffer))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
