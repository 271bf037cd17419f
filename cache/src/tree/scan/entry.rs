//! One name in a directory becomes an entry: what it is, its attributes, its content.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rustix::io::Errno;

use super::attributes::{Marks, xattrs_of};
use super::failure::{During as _, Failure};
use super::{Found, hash, open};
use crate::root_dir::Metadata;
use crate::tree::{Entry, Kind};

/// Larger files are read after the walk, each on all cores.
const LARGE_BYTES: u64 = 8 << 20;

/// A name in a directory that is not a directory's.
pub(super) struct Name {
    pub(super) name: OsString,
    /// The listing said so; it may be something else by now.
    pub(super) is_file: bool,
}

/// Looks at a name, and hashes its content where it is not large.
pub(super) fn read(
    directory: &OwnedFd,
    child: &Name,
    path: Vec<u8>,
    marks: Marks,
    buffer: &mut Vec<u8>,
) -> Result<Found, Failure> {
    let name = child.name.as_os_str();
    // What the listing calls a file is opened at once: without a stat before, its name is resolved once less.
    let opened = if child.is_file {
        Some(open::file(directory, name).during("open")?)
    } else {
        None
    };
    let metadata = match &opened {
        Some(file) => Metadata::of_fd(file.as_fd()),
        None => Metadata::at(directory.as_fd(), name),
    }
    .during("stat")?;
    let mut found = Found {
        entry: entry_of(path, &metadata),
        inode: (metadata.links > 1).then_some((metadata.file_system, metadata.inode)),
        large: false,
    };
    let entry = &mut found.entry;
    match (metadata.kind, &opened) {
        (Kind::CharDevice, _) if metadata.device == 0 => {
            entry.kind = Kind::Whiteout;
            (entry.mode, entry.uid, entry.gid) = (0, 0, 0);
            found.inode = None;
            return Ok(found);
        }
        (Kind::Symlink, _) => {
            let target =
                rustix::fs::readlinkat(directory, name, Vec::new()).during("read the link")?;
            entry.target = target.into_bytes();
            entry.content = *blake3::hash(&entry.target).as_bytes();
        }
        (Kind::File, Some(file)) => {
            if metadata.size >= LARGE_BYTES {
                found.large = true;
            } else {
                entry.content = hash::small(file, metadata.size, buffer).during("read")?;
            }
            let own = xattrs_of(
                entry,
                |buffer| rustix::fs::flistxattr(file, buffer),
                |name, buffer| rustix::fs::fgetxattr(file, name, buffer),
            )
            .during("read attributes of")?;
            become_whiteout(&mut found, marks, own);
            return Ok(found);
        }
        // The listing did not tell that it is a file: it is read again as one.
        (Kind::File, None) => {
            let child = Name {
                name: name.to_owned(),
                is_file: true,
            };
            return read(directory, &child, found.entry.path, marks, buffer);
        }
        (_, Some(_)) => {
            return Err(Errno::STALE).during("read a file that was replaced meanwhile,");
        }
        _ => {}
    }
    // It is not open itself: reached through its directory, and not followed where it is a link.
    let mut route = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    route.extend_from_slice(name.as_bytes());
    let route = OsString::from_vec(route);
    let own = xattrs_of(
        entry,
        |buffer| rustix::fs::llistxattr(&route, buffer),
        |name, buffer| rustix::fs::lgetxattr(&route, name, buffer),
    )
    .during("read attributes of")?;
    become_whiteout(&mut found, marks, own);
    Ok(found)
}

/// An empty file with overlay's attribute, in a directory that says it holds such, is a whiteout.
fn become_whiteout(found: &mut Found, directory: Marks, own: Marks) {
    let entry = &mut found.entry;
    if directory.xattr_whiteouts && own.whiteout && entry.kind == Kind::File && entry.size == 0 {
        let path = std::mem::take(&mut entry.path);
        *entry = Entry {
            mtime: entry.mtime,
            ..Entry::new(path, Kind::Whiteout)
        };
        found.inode = None;
    }
}

pub(super) fn entry_of(path: Vec<u8>, metadata: &Metadata) -> Entry {
    let is_device = matches!(metadata.kind, Kind::CharDevice | Kind::BlockDevice);
    Entry {
        path,
        kind: metadata.kind,
        mode: if metadata.kind == Kind::Symlink {
            0o777
        } else {
            metadata.mode
        },
        uid: metadata.uid,
        gid: metadata.gid,
        device: if is_device { metadata.device } else { 0 },
        size: if metadata.kind == Kind::File {
            metadata.size
        } else {
            0
        },
        mtime: metadata.mtime,
        opaque: false,
        content: [0; 32],
        target: Vec::new(),
        xattrs: Vec::new(),
        hard_link: 0,
    }
}
