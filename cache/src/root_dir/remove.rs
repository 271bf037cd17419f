//! Removing trees by descriptor: never through links, whatever the depth, whatever the modes.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::listing::read_dir;

/// So many directories are open at once; what lies deeper is first moved up.
const DEPTH_LIMIT: usize = 64;
/// A directory that somebody fills while it is removed is listed this often.
const PASSES: u32 = 16;

/// Removes `name` in an open directory with everything below it. Nothing there is no error. Directories without
/// permissions are given them first, so that an ordinary user can remove what overlayfs leaves (`work`, mode 000).
pub fn remove_tree_at(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlink(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(_) => {}
    }
    let Some(top) = open_writable(parent, name)? else {
        return Ok(());
    };
    let mut remover = Remover {
        top: &top,
        moved: VecDeque::new(),
        counter: 0,
    };
    until_removed(parent, name, || {
        remover.empty(&top, 0)?;
        // Each of these was too deep and is a child of the top now.
        while let Some(name) = remover.moved.pop_front() {
            remover.remove_child(&top, &name, 0)?;
        }
        Ok(())
    })
}

/// Empties a directory and removes it; again, where somebody has put something there meanwhile.
fn until_removed(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    mut empty: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut left = PASSES;
    loop {
        empty()?;
        left -= 1;
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) if left > 0 => {}
            Err(error) => return Err(error.into()),
        }
    }
}

struct Remover<'a> {
    top: &'a OwnedFd,
    moved: VecDeque<OsString>,
    counter: u64,
}

impl Remover<'_> {
    /// Removes what is listed in a directory.
    fn empty(&mut self, directory: &OwnedFd, depth: usize) -> io::Result<()> {
        for entry in read_dir(directory.as_fd())? {
            if depth == 0 && self.moved.contains(&entry.name) {
                continue;
            }
            if entry.file_type != FileType::Directory {
                match unlink(directory.as_fd(), &entry.name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => continue,
                    Err(Errno::ISDIR | Errno::PERM) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.remove_child(directory, &entry.name, depth)?;
        }
        Ok(())
    }

    fn remove_child(&mut self, directory: &OwnedFd, name: &OsStr, depth: usize) -> io::Result<()> {
        match unlink(directory.as_fd(), name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
        let Some(child) = open_writable(directory.as_fd(), name)? else {
            return Ok(());
        };
        if depth + 1 >= DEPTH_LIMIT {
            self.counter += 1;
            let moved =
                OsString::from(format!(".removing-{}-{}", std::process::id(), self.counter));
            rustix::fs::renameat(directory, name, self.top, &moved)?;
            self.moved.push_back(moved);
            return Ok(());
        }
        until_removed(directory.as_fd(), name, || self.empty(&child, depth + 1))
    }
}

/// Unlinks; where the directory's own mode forbids that, gives it back to its owner and tries again.
fn unlink(directory: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, name, flags) {
        Err(Errno::ACCESS) => {
            let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
            rustix::fs::chmod(path, Mode::RWXU)?;
            rustix::fs::unlinkat(directory, name, flags)
        }
        result => result,
    }
}

/// Opens a directory for listing, giving it the permissions for that where they are missing (those for removing
/// are looked at in [`unlink`]). `None` where somebody else removed it meanwhile.
fn open_writable(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |flags| match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    };
    match open(flags | OFlags::RDONLY) {
        Err(Errno::ACCESS) => {
            let Some(held) = open(flags | OFlags::PATH)? else {
                return Ok(None);
            };
            let path = format!("/proc/self/fd/{}", held.as_raw_fd());
            rustix::fs::chmod(path, Mode::RWXU)?;
            Ok(open(flags | OFlags::RDONLY)?)
        }
        result => Ok(result?),
    }
}
