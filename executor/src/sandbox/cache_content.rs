//! The first content of a new cache mount or volume: mode, owner, and a copy of what is elsewhere.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::cache_mounts::CacheMount;
use rbuild_cache::{SnapshotId, Store, owners};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::copy::{self, How, Owners};
use super::prepare::setup;
use super::{ExecError, in_root};
use crate::overlay;

/// The directory of a cache mount, with its first content if it is new.
pub(super) fn open(
    store: &Arc<Store>,
    cache: &CacheMount,
    from: Option<&(Option<SnapshotId>, PathBuf)>,
    mode: Option<u32>,
    owner: (Option<u32>, Option<u32>),
) -> Result<OwnedFd, ExecError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(cache.path(), flags, Mode::empty()).map_err(|errno| {
        setup(
            format!("open the cache mount `{}`", cache.path().display()),
            std::io::Error::from(errno),
        )
    })?;
    if cache.is_new() {
        fill(store, directory.as_fd(), from, mode, owner)?;
        cache.filled()?;
    }
    Ok(directory)
}

fn fill(
    store: &Arc<Store>,
    directory: BorrowedFd<'_>,
    from: Option<&(Option<SnapshotId>, PathBuf)>,
    mode: Option<u32>,
    (uid, gid): (Option<u32>, Option<u32>),
) -> Result<(), ExecError> {
    let step = "put the first content into a cache mount";
    let mut found = (0o755, 0, 0);
    if let Some((snapshot, path)) = from {
        let view = overlay::view(store, snapshot.as_ref()).map_err(|error| setup(step, error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        found = in_root::open(view.as_fd(), path, flags)
            .and_then(|source| {
                let (mode, owner) = access_of(source.as_fd())?;
                copy::copy_directory(source, directory, How::with(Owners::Kept))?;
                Ok((mode, owner.0, owner.1))
            })
            .map_err(|errno| {
                setup(
                    format!("{step} from `{}`", path.display()),
                    std::io::Error::from(errno),
                )
            })?;
    }
    let (mode, owner) = (
        mode.unwrap_or(found.0),
        (uid.unwrap_or(found.1), gid.unwrap_or(found.2)),
    );
    own(directory, mode, owner).map_err(|errno| setup(step, std::io::Error::from(errno)))
}

/// Fills an empty directory with what a snapshot has at `path`, and makes the volume that this is for look like that;
/// nothing where it has no directory there.
pub(super) fn copy_up(
    store: &Arc<Store>,
    (directory, volume): (BorrowedFd<'_>, BorrowedFd<'_>),
    (snapshot, path): (&SnapshotId, &Path),
) -> Result<(), ExecError> {
    let step = || format!("copy what the image has at `{}`", path.display());
    let view = overlay::view(store, Some(snapshot)).map_err(|error| setup(step(), error))?;
    let source = match in_root::open(view.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        result => result.map_err(|errno| setup(step(), std::io::Error::from(errno)))?,
    };
    rustix::fs::fstat(&source)
        .and_then(|stat| {
            let again = source.try_clone().map_err(|_| Errno::MFILE)?;
            copy::copy_directory(source, directory, How::with(Owners::Kept))?;
            copy::dress(
                (again.as_fd(), c"."),
                (volume, c"."),
                &stat,
                How::with(Owners::Kept),
            )
        })
        .map_err(|errno| setup(step(), std::io::Error::from(errno)))
}

/// The mode and the owner of a directory.
fn access_of(directory: BorrowedFd<'_>) -> Result<(u32, (u32, u32)), Errno> {
    let mode = rustix::fs::fstat(directory)?.st_mode & 0o7777;
    let owner = owners::of(directory).map_err(|error| copy::errno_of(&error))?;
    Ok((mode, (owner.uid, owner.gid)))
}

fn own(directory: BorrowedFd<'_>, mode: u32, (uid, gid): (u32, u32)) -> Result<(), Errno> {
    owners::set(directory, uid, gid).map_err(|error| copy::errno_of(&error))?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode(mode))
}
