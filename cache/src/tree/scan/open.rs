//! Opens what is walked: no access time changes, and an owner without the permission to read has it for the moment.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::root_dir::{Metadata, Resolve, RootDir, path_of};

/// Opens a directory below the root for listing.
pub(super) fn directory(root: &RootDir, path: &[u8]) -> io::Result<OwnedFd> {
    let path = path_of(path);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match root.open(path, flags, 0, Resolve::Beneath) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // An ordinary owner of a directory without read permission gives it to himself for the moment.
            let node = root.node(path, Resolve::Beneath)?;
            let before = node.metadata()?;
            node.set_mode(before.mode | 0o500)?;
            let opened = root.open(path, flags, 0, Resolve::Beneath);
            node.set_mode(before.mode)?;
            opened
        }
        result => result,
    }
}

/// Opens a file without touching its access time. Its owner may lack the permission to read it (mode 000), and
/// gives it to himself for the moment.
pub(super) fn file(directory: &OwnedFd, name: &OsStr) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::openat(directory, name, flags, Mode::empty());
    let opened = match open(flags | OFlags::NOATIME) {
        // Only the owner may leave the time alone.
        Err(Errno::PERM) => open(flags),
        result => result,
    };
    if !matches!(opened, Err(Errno::ACCESS)) {
        return Ok(opened?.into());
    }
    let held = open(OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
    let before = Metadata::of_fd(held.as_fd())?;
    let route = format!("/proc/self/fd/{}", held.as_raw_fd());
    rustix::fs::chmod(&route, Mode::from_raw_mode(before.mode | 0o400))?;
    let opened = rustix::fs::open(&route, flags & !OFlags::NOFOLLOW, Mode::empty());
    rustix::fs::chmod(&route, Mode::from_raw_mode(before.mode))?;
    Ok(opened?.into())
}

/// Opens a file by its path below the root.
pub(super) fn file_at(root: &RootDir, path: &[u8]) -> io::Result<std::fs::File> {
    let cut = path.iter().rposition(|byte| *byte == b'/');
    let (parent, name) = match cut {
        None => (&b""[..], path),
        Some(cut) => (
            path.get(..cut).unwrap_or_default(),
            path.get(cut + 1..).unwrap_or_default(),
        ),
    };
    file(&directory(root, parent)?, OsStr::from_bytes(name))
}
