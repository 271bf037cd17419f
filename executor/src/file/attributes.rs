//! Owner, mode, extended attributes and times of what is made.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use rbuild_cache::owners::acl;
use rbuild_cache::root_dir::{Metadata, Node};
use rbuild_cache::tree::{Entry, Kind};
use rustix::fs::{Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::ModeChange;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What differs from the source's own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a> {
    pub(super) owner: Option<Ids>,
    pub(super) mode: Option<&'a ModeChange>,
    pub(super) mtime: Option<i64>,
}

impl Attributes<'_> {
    pub(super) fn owner_of(&self, entry: &Entry) -> Ids {
        self.owner.unwrap_or(Ids {
            uid: entry.uid,
            gid: entry.gid,
        })
    }

    pub(super) fn mode_of(&self, entry: &Entry) -> u32 {
        match self.mode {
            Some(change) => change.apply(entry.mode, entry.kind == Kind::Directory),
            None => entry.mode & 0o7777,
        }
    }

    pub(super) fn mtime_of(&self, entry: &Entry) -> (i64, u32) {
        self.mtime.map_or(entry.mtime, |seconds| (seconds, 0))
    }

    /// Of a new file. What is right already is not touched: each change costs a journal entry. Returns what the file
    /// was like before.
    pub(super) fn set_on_file(&self, file: &File, entry: &Entry) -> io::Result<Metadata> {
        let before = self.set_on_file_but_time(file, entry)?;
        let time = timespec(self.mtime_of(entry));
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::futimens(file, &times)?;
        Ok(before)
    }

    pub(super) fn set_on_file_but_time(&self, file: &File, entry: &Entry) -> io::Result<Metadata> {
        let now = Metadata::of_fd(file.as_fd())?;
        let Ids { uid, gid } = self.owner_of(entry);
        let is_owned = (now.uid, now.gid) == (uid, gid);
        if !is_owned {
            rbuild_cache::owners::set(file.as_fd(), uid, gid)
                .map_err(|error| unmapped(self.owner_of(entry), error))?;
        }
        let mode = self.mode_of(entry);
        // A change of owner takes setuid and setgid away.
        if now.mode != mode || !is_owned {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
        }
        for (name, value) in &entry.xattrs {
            let value = acl::spelled(name, value);
            tolerate(
                entry,
                name,
                rustix::fs::fsetxattr(file, name.as_slice(), &value, XattrFlags::empty())
                    .map_err(io::Error::from),
            )?;
        }
        Ok(now)
    }

    /// Of anything else that was made, or of a directory.
    pub(super) fn set_on_node(&self, node: &Node, entry: &Entry) -> io::Result<()> {
        let Ids { uid, gid } = self.owner_of(entry);
        set_owner(node, Ids { uid, gid })?;
        if entry.kind != Kind::Symlink {
            node.set_mode(self.mode_of(entry))?;
            for (name, value) in &entry.xattrs {
                tolerate(
                    entry,
                    name,
                    node.set_xattr(name, &acl::spelled(name, value)),
                )?;
            }
        }
        let mtime = self.mtime_of(entry);
        node.set_times(mtime, mtime)
    }
}

pub(super) fn set_owner(node: &Node, ids: Ids) -> io::Result<()> {
    node.set_owner(ids.uid, ids.gid)
        .map_err(|error| unmapped(ids, error))
}

/// The kernel's EINVAL means that the user namespace maps no such id.
fn unmapped(ids: Ids, error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(Errno::INVAL.raw_os_error()) {
        return error;
    }
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "owner {}:{} does not exist in this user namespace: give the user more subordinate ids in /etc/subuid \
             and /etc/subgid",
            ids.uid, ids.gid
        ),
    )
}

/// Attributes that cannot be set here (another file system, no right to) are left out, as BuildKit does.
fn tolerate(entry: &Entry, name: &[u8], result: io::Result<()>) -> io::Result<()> {
    let Err(error) = result else { return Ok(()) };
    let is_refusal = [Errno::PERM, Errno::OPNOTSUPP, Errno::INVAL, Errno::NODATA]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    if !is_refusal {
        return Err(error);
    }
    tracing::warn!(
        path = %String::from_utf8_lossy(&entry.path),
        attribute = %String::from_utf8_lossy(name),
        %error,
        "extended attribute left out"
    );
    Ok(())
}

fn timespec((seconds, nanoseconds): (i64, u32)) -> Timespec {
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.min(999_999_999).into(),
    }
}
