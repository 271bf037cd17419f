//! Paths inside a root, resolved by the kernel and never leaving it; and mount points made where they are missing.
//! What was made, and in which directories, is remembered, because none of it belongs to the resulting snapshot.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags};
use rustix::io::Errno;

use super::plan::{Bytes, Parent, Stub};

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// Opens a path as a process inside the root would, without magic links.
pub(super) fn open(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> std::result::Result<OwnedFd, Errno> {
    let relative = relative(path);
    loop {
        let result = rustix::fs::openat2(
            root,
            relative,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        // A rename elsewhere on the file system makes the kernel unsure: it says so.
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            return result;
        }
    }
}

/// What a tmpfs that says no mode is to have: that of the directory it hides, as runc does it, and what the kernel gives
/// where there is none.
pub(super) fn mode_of_tmpfs(root: BorrowedFd<'_>, target: &Path) -> u32 {
    let hidden = open(root, target, OFlags::PATH).and_then(rustix::fs::fstat);
    match hidden {
        Ok(stat) if file_type(&stat) == FileType::Directory => stat.st_mode & 0o7777,
        _ => 0o1777,
    }
}

/// `/a` as `a` and `/` as `.`: in a root, absolute paths mean the same.
fn relative(path: &Path) -> &Path {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

/// Makes mount points below one root and remembers them.
#[derive(Debug)]
pub(super) struct MountPoints<'r> {
    root: BorrowedFd<'r>,
    root_device: u64,
    /// Where the root is now, as /proc/self/fd shows it.
    shown_as: PathBuf,
    pub(super) stubs: Vec<Stub>,
    pub(super) parents: Vec<Parent>,
    /// Ids of the mounts that are the sandbox's own.
    pub(super) own_mounts: Vec<u64>,
}

impl<'r> MountPoints<'r> {
    pub(super) fn new(root: BorrowedFd<'r>) -> std::result::Result<Self, Errno> {
        Ok(Self {
            root,
            root_device: rustix::fs::fstat(root)?.st_dev,
            shown_as: shown_path(root)?,
            stubs: Vec::new(),
            parents: Vec::new(),
            own_mounts: Vec::new(),
        })
    }

    /// See [`mode_of_tmpfs`].
    pub(super) fn mode_of_tmpfs(&self, target: &Path) -> u32 {
        mode_of_tmpfs(self.root, target)
    }

    /// Whether a descriptor stands for the root itself.
    pub(super) fn is_root(&self, fd: &OwnedFd) -> std::result::Result<bool, Errno> {
        let (root, other) = (rustix::fs::fstat(self.root)?, rustix::fs::fstat(fd)?);
        Ok((root.st_dev, root.st_ino) == (other.st_dev, other.st_ino))
    }

    /// The directory or file at `path`, made if it is missing.
    pub(super) fn ensure(
        &mut self,
        path: &Path,
        directory: bool,
    ) -> std::result::Result<OwnedFd, Errno> {
        self.ensure_following(path, directory, MOST_LINKS)
    }

    fn ensure_following(
        &mut self,
        path: &Path,
        directory: bool,
        links: usize,
    ) -> std::result::Result<OwnedFd, Errno> {
        match open(self.root, path, OFlags::PATH) {
            Ok(found) => {
                let is_directory = file_type(&rustix::fs::fstat(&found)?) == FileType::Directory;
                return match (is_directory, directory) {
                    (true, false) => Err(Errno::ISDIR),
                    (false, true) => Err(Errno::NOTDIR),
                    _ => Ok(found),
                };
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let (Some(parent_path), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::NOENT);
        };
        let parent = self.ensure_following(parent_path, true, links)?;
        // A link that leads nowhere: what it names is made.
        match rustix::fs::readlinkat(&parent, name, Vec::new()) {
            Ok(target) => {
                let target = Path::new(std::ffi::OsStr::from_bytes(target.to_bytes()));
                let left = links.checked_sub(1).ok_or(Errno::LOOP)?;
                let next = clean(&parent_path.join(target));
                return self.ensure_following(&next, directory, left);
            }
            Err(Errno::NOENT | Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
        self.make(&parent, name, directory)
    }

    fn make(
        &mut self,
        parent: &OwnedFd,
        name: &std::ffi::OsStr,
        directory: bool,
    ) -> std::result::Result<OwnedFd, Errno> {
        let before = rustix::fs::fstat(parent)?;
        let made = if directory {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
            rustix::fs::openat(
                parent,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(rustix::fs::openat(
                parent,
                name,
                flags,
                Mode::from_raw_mode(0o644),
            )?);
            rustix::fs::openat(
                parent,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?
        };
        // What is made inside another mount goes away with it.
        if before.st_dev == self.root_device {
            self.remember(parent, &before, name, directory, &made)?;
        }
        Ok(made)
    }

    fn remember(
        &mut self,
        parent: &OwnedFd,
        before: &Stat,
        name: &std::ffi::OsStr,
        directory: bool,
        made: &OwnedFd,
    ) -> std::result::Result<(), Errno> {
        let shown = shown_path(parent.as_fd())?;
        let parent_path = shown
            .strip_prefix(&self.shown_as)
            .map_err(|_| Errno::XDEV)?
            .to_owned();
        let path = Bytes::from(parent_path.join(name).as_path());
        let parent_bytes = Bytes::from(parent_path.as_path());
        let own = self.stubs.iter().any(|stub| stub.path == parent_bytes);
        if !own && !self.parents.iter().any(|known| known.path == parent_bytes) {
            self.parents.push(Parent {
                path: parent_bytes,
                mode: before.st_mode,
                uid: before.st_uid,
                gid: before.st_gid,
                mtime: (before.st_mtime, before.st_mtime_nsec as i64),
            });
        }
        // The directory's times are to tell only of what the command does.
        rustix::fs::utimensat(
            parent,
            "",
            &rustix::fs::Timestamps {
                last_access: omit(),
                last_modification: rustix::fs::Timespec {
                    tv_sec: before.st_mtime,
                    tv_nsec: before.st_mtime_nsec as _,
                },
            },
            AtFlags::EMPTY_PATH,
        )?;
        self.stubs.push(Stub {
            path,
            directory,
            inode: rustix::fs::fstat(made)?.st_ino,
        });
        Ok(())
    }
}

fn omit() -> rustix::fs::Timespec {
    rustix::fs::Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_OMIT,
    }
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The number of the mount that a descriptor is on.
pub(crate) fn mount_id(fd: BorrowedFd<'_>) -> std::result::Result<u64, Errno> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(stat.stx_mnt_id)
}

/// Where a descriptor is, as seen from this process's root.
pub(super) fn shown_path(fd: BorrowedFd<'_>) -> std::result::Result<PathBuf, Errno> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let shown = rustix::fs::readlink(link, Vec::new())?;
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(shown.to_bytes())))
}

/// Resolves `.` and `..` as text; the result is absolute.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir => cleaned = PathBuf::from("/"),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_stays_below_the_root() {
        for (given, cleaned) in [
            ("/a/../../b", "/b"),
            ("a/./b//c/", "/a/b/c"),
            ("/..", "/"),
            ("", "/"),
        ] {
            assert_eq!(clean(Path::new(given)), Path::new(cleaned), "{given}");
        }
    }
}
