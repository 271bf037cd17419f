//! Owners, modes, extended attributes and times of what was just unpacked, in the order that keeps them: an owner
//! takes setuid bits and capabilities away, so it comes first; the time comes last.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use rbuild_cache::owners::{self, acl};
use rbuild_cache::root_dir as stat;
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::error::{Error, Result, io, shown};
use crate::tarfile::Entry;

/// What is set on an inode, besides its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata<'a> {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> Metadata<'a> {
    pub(super) fn of(entry: &'a Entry, owner: Option<(u32, u32)>) -> Self {
        Self {
            mode: entry.mode,
            owner: owner.unwrap_or((entry.uid, entry.gid)),
            mtime: entry.mtime,
            xattrs: &entry.xattrs,
        }
    }

    /// Permission bits.
    pub(super) fn mode(&self) -> u32 {
        self.mode
    }

    /// Sets all but the time on an open file or directory.
    pub(super) fn apply_to(&self, fd: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        let (uid, gid) = self.owner;
        owned(owners::set(fd, uid, gid), self.owner, path)?;
        for (name, value) in self.xattrs {
            if wanted(name) {
                let value = acl::spelled(name, value);
                let set = rustix::fs::fsetxattr(fd, name.as_slice(), &value, XattrFlags::empty());
                xattr_result(set, name, path)?;
            }
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode)).map_err(io("set the mode of", path))
    }

    /// Sets all but the time on a file that was just made with its permissions, as far as it has it not yet. Returns
    /// what it was like.
    pub(super) fn apply_to_new(&self, fd: BorrowedFd<'_>, path: &[u8]) -> Result<stat::Metadata> {
        let now = stat::Metadata::of_fd(fd).map_err(|source| Error::Io {
            action: "look at",
            path: shown(path),
            source,
        })?;
        let is_owned = if owners::recorded() {
            self.owner == (0, 0)
        } else {
            self.owner == (now.uid, now.gid)
        };
        if !is_owned || now.mode != self.mode || !self.xattrs.is_empty() {
            self.apply_to(fd, path)?;
        }
        Ok(now)
    }

    /// Whether a file that has this has no attributes, nor an owner that is one.
    pub(super) fn is_plain(&self) -> bool {
        self.xattrs.is_empty() && (!owners::recorded() || self.owner == (0, 0))
    }

    /// Sets everything on what is not to be opened: a link, a device, a pipe.
    pub(super) fn apply_at(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        is_link: bool,
    ) -> Result<()> {
        let (uid, gid) = self.owner;
        let set = owners::set_at(parent, OsStr::from_bytes(name), uid, gid);
        owned(set, self.owner, path)?;
        if self.xattrs.iter().any(|(name, _)| wanted(name)) {
            self.xattrs_at(parent, name, path)?;
        }
        if !is_link {
            // Not through a link: the name was made by this process in a directory that nobody else reaches.
            rustix::fs::chmodat(
                parent,
                name,
                Mode::from_raw_mode(self.mode),
                AtFlags::empty(),
            )
            .map_err(io("set the mode of", path))?;
        }
        rustix::fs::utimensat(parent, name, &times(self.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io("set the time of", path))
    }

    /// There is no `lsetxattrat`: the parent is named through its descriptor, the last component is not followed.
    fn xattrs_at(&self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<()> {
        use std::os::fd::AsRawFd;
        let mut place = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        place.extend_from_slice(name);
        for (name, value) in self.xattrs {
            if wanted(name) {
                let set = rustix::fs::lsetxattr(
                    place.as_slice(),
                    name.as_slice(),
                    &acl::spelled(name, value),
                    XattrFlags::empty(),
                );
                xattr_result(set, name, path)?;
            }
        }
        Ok(())
    }
}

pub(super) fn set_time(fd: impl AsFd, mtime: (i64, u32), path: &[u8]) -> Result<()> {
    rustix::fs::futimens(fd, &times(mtime)).map_err(io("set the time of", path))
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn owned(result: std::io::Result<()>, owner: (u32, u32), path: &[u8]) -> Result<()> {
    match result {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            Err(Error::BadArchive {
                what: format!("`{}`", shown(path)),
                reason: format!(
                    "its owner {}:{} is outside of the ids that this user may use; give the user more of them in \
                 /etc/subuid and /etc/subgid",
                    owner.0, owner.1
                ),
            })
        }
        other => other.map_err(|source| Error::Io {
            action: "set the owner of",
            path: shown(path),
            source,
        }),
    }
}

/// Whether an extended attribute of an archive is taken over. Overlay's own would change what the mounted root
/// shows, ours who owns what, and `trusted.*` is for the host's tools.
pub(super) fn wanted(name: &[u8]) -> bool {
    !name.starts_with(b"trusted.")
        && !name.starts_with(b"user.overlay.")
        && !name.starts_with(owners::PREFIX)
}

/// File systems without a kind of attributes, and kinds that only the host's root may set, are no reason to fail
/// (labels of another machine's security module); capabilities are.
fn xattr_result(result: Result<(), Errno>, name: &[u8], path: &[u8]) -> Result<()> {
    match result {
        Err(Errno::OPNOTSUPP) => {
            tracing::debug!(
                path = shown(path),
                name = shown(name),
                "attribute not supported"
            );
            Ok(())
        }
        Err(Errno::PERM) if name != b"security.capability" => {
            tracing::debug!(
                path = shown(path),
                name = shown(name),
                "attribute not permitted"
            );
            Ok(())
        }
        // A capability in a user namespace without the file's owner mapped.
        Err(Errno::PERM) if owners::recorded() => Ok(()),
        other => other.map_err(io("set an extended attribute of", path)),
    }
}
