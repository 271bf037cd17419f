//! The first content of a new cache mount: mode, owner, and a copy of what `from` names.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::{SnapshotId, Store, owners};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::prepare::setup;
use super::{ExecError, in_root};
use crate::overlay;

pub(super) fn fill(
    store: &Arc<Store>,
    directory: BorrowedFd<'_>,
    from: Option<&(Option<SnapshotId>, PathBuf)>,
    mode: u32,
    owner: (u32, u32),
) -> Result<(), ExecError> {
    let step = "put the first content into a cache mount";
    if let Some((snapshot, path)) = from {
        let view = overlay::view(store, snapshot.as_ref()).map_err(|error| setup(step, error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        in_root::open(view.as_fd(), path, flags)
            .and_then(|source| copy_directory(source, directory))
            .map_err(|errno| {
                setup(
                    format!("{step} from `{}`", path.display()),
                    std::io::Error::from(errno),
                )
            })?;
    }
    own(directory, mode, owner).map_err(|errno| setup(step, std::io::Error::from(errno)))
}

fn own(directory: BorrowedFd<'_>, mode: u32, (uid, gid): (u32, u32)) -> Result<(), Errno> {
    owners::set(directory, uid, gid).map_err(|error| errno_of(&error))?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode(mode))
}

/// Copies what a directory holds; sources are snapshots, which do not change meanwhile.
fn copy_directory(from: OwnedFd, to: BorrowedFd<'_>) -> Result<(), Errno> {
    if owners::devices_recorded() {
        owners::copy(from.as_fd(), to).map_err(|error| errno_of(&error))?;
    }
    let mut pending = vec![(from, to.try_clone_to_owned().map_err(|_| Errno::MFILE)?)];
    while let Some((from, to)) = pending.pop() {
        for entry in rustix::fs::Dir::read_from(&from)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                rustix::fs::mkdirat(&to, name, Mode::from_raw_mode(0o700))?;
                let open = |parent: &OwnedFd| {
                    let flags =
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    rustix::fs::openat(parent, name, flags, Mode::empty())
                };
                pending.push((open(&from)?, open(&to)?));
            } else {
                copy_entry(&from, &to, name, &stat)?;
            }
            take_attributes(&from, &to, name, &stat)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target, to, name)
        }
        FileType::RegularFile => {
            let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mut source =
                std::fs::File::from(rustix::fs::openat(from, name, read, Mode::empty())?);
            let mut copy = std::fs::File::from(rustix::fs::openat(
                to,
                name,
                write,
                Mode::from_raw_mode(0o600),
            )?);
            std::io::copy(&mut source, &mut copy)
                .map(|_| ())
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
        kind => rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev),
    }
}

fn take_attributes(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    if owners::devices_recorded() {
        let open = |directory: &OwnedFd| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(directory, name, flags, Mode::empty())
        };
        owners::copy(open(from)?.as_fd(), open(to)?.as_fd()).map_err(|error| errno_of(&error))?;
    }
    if !owners::recorded() {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
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

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
