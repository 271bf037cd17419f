//! Copies trees between directories by descriptors: first contents of mounts and volumes, what a container wrote,
//! what `cp` moves in and out. No link is followed.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::RootDir;
use rbuild_cache::ids::{Crossing, Ids};
use rbuild_cache::owners as recorded;
use rbuild_cache::root_dir::Resolve;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::file::copy_with_holes;

/// Whose the copies are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Of whoever the originals are of.
    Kept,
    /// Of this process.
    Own,
    These(u32, u32),
}

/// How files are copied.
#[derive(Debug, Clone, Copy)]
pub struct How<'i> {
    pub owners: Owners,
    /// Overlay's own attributes are copied, too.
    pub marks: bool,
    /// Whether one of both is a container's, as it is seen from outside. Into it one copies as its root: see
    /// [`as_root_of`].
    pub crossing: Crossing<'i>,
    /// Sockets stand for devices, so that nobody can open them.
    pub inert: bool,
}

impl How<'_> {
    /// Between directories of this machine, without overlay's own attributes.
    pub fn with(owners: Owners) -> Self {
        Self {
            owners,
            marks: false,
            crossing: Crossing::Not,
            inert: false,
        }
    }
}

/// Does something with files as the root of a user namespace, which owns what it makes, and with all rights of the
/// machine's root.
pub fn as_root_of<T>(ids: &Ids, work: impl FnOnce() -> T) -> Result<T, Errno> {
    let root = ids.outside((0, 0)).ok_or(Errno::PERM)?;
    let _ids = crate::mapped::FileIds::take(root)?;
    Ok(work())
}

/// A name: its directory, from the root of what is copied, and what it is called there.
type Name = (PathBuf, CString);

/// A tree that is copied, and where to. Directories are opened by their paths when they are needed: however many a tree
/// has, few are open at a time.
struct Trees {
    from: RootDir,
    to: RootDir,
}

impl Trees {
    /// The same directory in both.
    fn directories(&self, path: &Path) -> Result<(OwnedFd, OwnedFd), Errno> {
        let open = |root: &RootDir| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let opened = root.open(path, flags, 0, Resolve::Beneath);
            opened.map_err(|error| errno_of(&error))
        };
        Ok((open(&self.from)?, open(&self.to)?))
    }
}

/// Copies what a directory holds. What is there already is replaced, but a directory is never by something else, nor
/// the other way round.
pub fn copy_directory(from: OwnedFd, to: BorrowedFd<'_>, how: How<'_>) -> Result<(), Errno> {
    if how.owners == Owners::Kept && recorded::devices_recorded() {
        recorded::copy(from.as_fd(), to).map_err(|error| errno_of(&error))?;
    }
    let trees = Trees {
        from: RootDir::from_fd(from),
        to: RootDir::from_fd(to.try_clone_to_owned().map_err(|_| Errno::MFILE)?),
    };
    // Which name an inode with several got first.
    let mut names: HashMap<(u64, u64), Name> = HashMap::new();
    let mut pending = vec![PathBuf::new()];
    // Changing what is in a directory changes its time: those are set at the end, the deepest first.
    let mut dressed: Vec<(Name, Stat)> = Vec::new();
    while let Some(path) = pending.pop() {
        let (from, to) = trees.directories(&path)?;
        for entry in rustix::fs::Dir::read_from(&from)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                match rustix::fs::mkdirat(&to, name, Mode::from_raw_mode(0o700)) {
                    Err(Errno::EXIST) => {}
                    result => result?,
                }
                let below = path.join(OsStr::from_bytes(name.to_bytes()));
                let (from, to) = trees.directories(&below)?;
                attributes(from.as_fd(), to.as_fd(), how)?;
                pending.push(below);
                dressed.push(((path.clone(), name.to_owned()), stat));
                continue;
            }
            let key = (stat.st_dev, stat.st_ino);
            if stat.st_nlink > 1
                && let Some((directory, first)) = names.get(&key)
            {
                remove(&to, name)?;
                let (_, directory) = trees.directories(directory)?;
                rustix::fs::linkat(&directory, first, &to, name, AtFlags::empty())?;
                continue;
            }
            copy_entry(from.as_fd(), name, to.as_fd(), name, &stat, how)?;
            if stat.st_nlink > 1 {
                names.insert(key, (path.clone(), name.to_owned()));
            }
        }
    }
    // Those of one directory follow one another.
    let mut open: Option<(&Path, (OwnedFd, OwnedFd))> = None;
    for ((path, name), stat) in dressed.iter().rev() {
        let (from, to) = match &open {
            Some((of, directories)) if *of == path => directories,
            _ => &open.insert((path, trees.directories(path)?)).1,
        };
        dress((from.as_fd(), name), (to.as_fd(), name), stat, how)?;
    }
    Ok(())
}

fn remove(directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Copies one thing that is no directory, under another name.
pub fn copy_entry(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    new: &CStr,
    stat: &Stat,
    how: How<'_>,
) -> Result<(), Errno> {
    match rustix::fs::unlinkat(to, new, AtFlags::empty()) {
        Err(Errno::NOENT) => {}
        result => result?,
    }
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target, to, new)?;
        }
        FileType::RegularFile => {
            let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let source = rustix::fs::openat(from, name, read, Mode::empty())?;
            // A command that runs may have put something else there, which would have to be waited for.
            let opened = rustix::fs::fstat(&source)?;
            if FileType::from_raw_mode(opened.st_mode) != FileType::RegularFile {
                return Err(Errno::AGAIN);
            }
            let copy = rustix::fs::openat(to, new, write, Mode::from_raw_mode(0o600))?;
            let (mut source, mut copy) = (std::fs::File::from(source), std::fs::File::from(copy));
            let copied = if (opened.st_blocks as i64) < opened.st_size / 512 {
                copy_with_holes(&source, &copy)
            } else {
                std::io::copy(&mut source, &mut copy).map(drop)
            };
            copied.map_err(|error| errno_of(&error))?;
            attributes(source.as_fd(), copy.as_fd(), how)?;
        }
        FileType::CharacterDevice | FileType::BlockDevice if how.inert => {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(to, new, FileType::Socket, mode, 0)?;
        }
        kind => rustix::fs::mknodat(to, new, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?,
    }
    dress((from, name), (to, new), stat, how)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        capabilities((from, name), (to, new), how)?;
    }
    Ok(())
}

/// Giving a file away takes its capabilities.
fn capabilities(
    (from, old): (BorrowedFd<'_>, &CStr),
    (to, new): (BorrowedFd<'_>, &CStr),
    how: How<'_>,
) -> Result<(), Errno> {
    const NAME: &CStr = c"security.capability";
    let open = |directory: BorrowedFd<'_>, name: &CStr| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(directory, name, flags, Mode::empty())
    };
    let mut value = [0; 64];
    let length = match rustix::fs::fgetxattr(open(from, old)?, NAME, &mut value) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(()),
        result => result?,
    };
    let value = value.get(..length).unwrap_or_default();
    let value = how.crossing.attribute(NAME.to_bytes(), value);
    // A file that cannot be read by this user has none that it could give.
    match rustix::fs::fsetxattr(open(to, new)?, NAME, &value, XattrFlags::empty()) {
        Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
        result => result,
    }
}

/// Owner, mode and time of a copy.
pub fn dress(
    (from, old): (BorrowedFd<'_>, &CStr),
    (to, name): (BorrowedFd<'_>, &CStr),
    stat: &Stat,
    how: How<'_>,
) -> Result<(), Errno> {
    let owners = how.owners;
    let open = |directory: BorrowedFd<'_>, name: &CStr| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(directory, name, flags, Mode::empty())
    };
    if owners == Owners::Kept && recorded::devices_recorded() {
        recorded::copy(open(from, old)?.as_fd(), open(to, name)?.as_fd())
            .map_err(|error| errno_of(&error))?;
    }
    let owner = match owners {
        Owners::Own => None,
        Owners::Kept => (!recorded::recorded()).then_some((stat.st_uid, stat.st_gid)),
        Owners::These(uid, gid) if recorded::recorded() => {
            recorded::set(open(to, name)?.as_fd(), uid, gid).map_err(|error| errno_of(&error))?;
            None
        }
        Owners::These(uid, gid) => Some((uid, gid)),
    };
    if let Some(owner) = owner {
        let (uid, gid) = how.crossing.owner(owner).ok_or(Errno::OVERFLOW)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec as _,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Extended attributes. Those that this user or this file system cannot have are left out.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, how: How<'_>) -> Result<(), Errno> {
    const MOST: usize = 64 << 10;
    let mut names = vec![0; MOST];
    let length = match rustix::fs::flistxattr(from, &mut names) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        result => result?,
    };
    if length == 0 {
        return Ok(());
    }
    let mut value = vec![0; MOST];
    for name in names
        .get(..length)
        .unwrap_or_default()
        .split(|byte| *byte == 0)
    {
        let is_mark = name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.");
        if name.is_empty() || (is_mark && !how.marks) {
            continue;
        }
        let Ok(name) = CString::new(name) else {
            continue;
        };
        let length = rustix::fs::fgetxattr(from, &name, &mut value)?;
        let value = value.get(..length).unwrap_or_default();
        let value = how.crossing.attribute(name.to_bytes(), value);
        match rustix::fs::fsetxattr(to, &name, &value, XattrFlags::empty()) {
            Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            result => result?,
        }
    }
    Ok(())
}
