//! Mounting by descriptors: sources are detached mounts, targets are opened in the root; no path of an image is ever
//! given to a call that mounts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
};

use crate::spec::Below;

type Result<T> = std::result::Result<T, Errno>;

/// A new, detached file system.
pub(crate) fn make(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), "source", kind)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(fs.as_fd(), *key)?;
        } else {
            rustix::mount::fsconfig_set_string(fs.as_fd(), *key, *value)?;
        }
    }
    rustix::mount::fsconfig_create(fs.as_fd())?;
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Attaches a detached mount on what `target` stands for.
pub(crate) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    rustix::mount::move_mount(
        tree,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// A detached copy of what `fd` stands for, a directory or a file.
pub(crate) fn copy(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(fd, "", flags)
}

/// A detached copy of a directory or file of the host that a command gets.
pub(super) fn copy_of(fd: BorrowedFd<'_>, below: Below) -> std::io::Result<OwnedFd> {
    match copy(fd, below != Below::Excluded) {
        // Mounts that came from a more privileged namespace can only be copied together.
        Err(Errno::INVAL) if below == Below::Excluded => Err(std::io::Error::other(
            "something is mounted below it, and what that hides is the machine's root's to see: mount all of it, or a \
             directory that nothing is mounted below",
        )),
        copied => Ok(copied?),
    }
}

/// A detached copy of a path of the host's that is ours to name (`/dev/null`, `/sys`).
pub(super) fn copy_of_host(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(CWD, path, flags, rustix::fs::Mode::empty())?;
    copy(fd.as_fd(), recursive)
}

/// Sets attributes on a mount.
pub(crate) fn restrict(
    fd: BorrowedFd<'_>,
    recursive: bool,
    attributes: MountAttrFlags,
) -> Result<()> {
    set(fd, recursive, attributes, MountPropagationFlags::empty())
}

/// Sets attributes on a detached mount and all that is below it, which from then on are nobody's peers and receive
/// nothing: this process's mounts may get those that are made on the host.
pub(super) fn restrict_privately(fd: BorrowedFd<'_>, attributes: MountAttrFlags) -> Result<()> {
    set(fd, true, attributes, MountPropagationFlags::PRIVATE)
}

/// Lets devices be opened on a detached mount that this process made, which does not let them be.
pub(super) fn allow_devices(fd: BorrowedFd<'_>) -> Result<()> {
    crate::sys::mount_clearattr(fd, NO_DEV.bits().into())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn set(
    fd: BorrowedFd<'_>,
    recursive: bool,
    attributes: MountAttrFlags,
    propagation: MountPropagationFlags,
) -> Result<()> {
    let (attributes, propagation) = (attributes.bits().into(), propagation.bits().into());
    crate::sys::mount_setattr(fd, recursive, attributes, propagation)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

pub(crate) const NO_SUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
pub(crate) const NO_DEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
pub(crate) const NO_EXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
pub(crate) const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
