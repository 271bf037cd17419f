//! Taking mount points out of a layer after the command: only what is still what was made, only where it is empty, by
//! handle; and directories that are in the layer only because something was made in them for a while.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rbuild_cache::root_dir::modified_alone;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::child::path_of;
use super::plan::{Parent, Stub};

/// `upper` is the layer's directory; nothing uses it any more.
pub(super) fn remove(upper: &Path, stubs: &[Stub], parents: &[Parent]) -> Result<(), Errno> {
    if stubs.is_empty() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::open(upper, flags, Mode::empty())?;
    // The last one made lies deepest.
    for stub in stubs.iter().rev() {
        remove_stub(&upper, stub)?;
    }
    // Deepest first again, so that emptied parents empty theirs.
    let mut parents: Vec<&Parent> = parents.iter().collect();
    parents.sort_by_key(|parent| std::cmp::Reverse(parent.path.0.len()));
    for parent in parents {
        remove_untouched(&upper, parent)?;
    }
    Ok(())
}

/// A directory of the layer, through no link; `None` where the command took it away or put something else there.
fn open_directory(upper: &OwnedFd, path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let opened = rustix::fs::openat2(
        upper,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    );
    match opened {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(super) fn remove_stub(upper: &OwnedFd, stub: &Stub) -> Result<(), Errno> {
    let path = path_of(&stub.path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let Some(parent) = open_directory(upper, parent)? else {
        return Ok(());
    };
    let stat = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    let same = stat.st_ino == stub.inode
        && match kind {
            FileType::Directory => stub.directory,
            FileType::RegularFile => !stub.directory && stat.st_size == 0,
            _ => false,
        };
    if !same {
        return Ok(());
    }
    let flags = if stub.directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    let before = rustix::fs::fstat(&parent)?;
    match rustix::fs::unlinkat(&parent, name, flags) {
        // The command put something into it: it stays, with that.
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => return Ok(()),
        result => result?,
    }
    let times = modified_alone((before.st_mtime, before.st_mtime_nsec as _));
    rustix::fs::futimens(parent.as_fd(), &times)
}

/// Removes a directory that was copied up for stubs only: empty, and still as it was below.
fn remove_untouched(upper: &OwnedFd, parent: &Parent) -> Result<(), Errno> {
    let path = path_of(&parent.path);
    let Some(directory) = open_directory(upper, path)? else {
        return Ok(());
    };
    let stat = rustix::fs::fstat(&directory)?;
    let as_before = stat.st_mode == parent.mode
        && stat.st_uid == parent.uid
        && stat.st_gid == parent.gid
        && (stat.st_mtime, stat.st_mtime_nsec as i64) == parent.mtime;
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    if !as_before || has_own_attributes(&directory)? {
        return Ok(());
    }
    let Some(above) = open_directory(upper, above)? else {
        return Ok(());
    };
    match rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Extended attributes beyond overlay's note of where a directory came from. They may have come from below just as
/// well; then the directory stays in the layer, which is harmless.
fn has_own_attributes(directory: &OwnedFd) -> Result<bool, Errno> {
    let mut names = vec![0; 4096];
    let length = match rustix::fs::flistxattr(directory, &mut names) {
        Ok(length) => length,
        Err(Errno::RANGE) => return Ok(true),
        Err(Errno::OPNOTSUPP) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    let names = names.get(..length).unwrap_or_default();
    Ok(names.split(|byte| *byte == 0).any(|name| {
        !name.is_empty()
            && !matches!(
                name,
                b"user.overlay.origin" | b"user.overlay.impure" | b"user.overlay.uuid"
            )
    }))
}
