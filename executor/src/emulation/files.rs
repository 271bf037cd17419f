//! Calls about files that are there: who owns them.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::owners::{self, Record};
use rbuild_cache::tree::Kind;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawMode, Stat, StatVfsMountFlags, Uid,
};
use rustix::io::Errno;

use super::answer::{Answering, Result};
use super::attributes::may;
use super::mark::Mark;
use super::target::{At, Named, Target, name_of};
use crate::sys::{self, notify::Reply};

/// The group of terminals.
const TTY: u32 = 5;
/// Leaves an owner as it is.
const KEEP: u32 = u32::MAX;

impl Answering {
    /// What is looked at; an error is for the kernel to find.
    pub(super) fn node(&self, target: &Target<'_>, at: &At) -> Result<OwnedFd> {
        if at.named.path.is_empty() {
            if at.named.directory == libc::AT_FDCWD {
                let here = Named {
                    directory: libc::AT_FDCWD,
                    path: c".".to_owned(),
                };
                return target.node(&here, true);
            }
            return target.descriptor(at.named.directory);
        }
        target.node(&at.named, at.follow)
    }

    /// What is written down about something. Of a link, pipe or socket its directory knows it, by name.
    pub(super) fn record(
        &self,
        node: &OwnedFd,
        stat: &Stat,
        place: Option<(&Target<'_>, &Named)>,
    ) -> Record {
        if let Some(record) = self.noted.get(&(stat.st_dev, stat.st_ino)) {
            return *record;
        }
        if Some(stat.st_dev) == self.proc {
            let ids = mark_of_process(node).and_then(|mark| mark.ids);
            return ids.map_or_else(Record::default, |(uid, gid)| Record::owner(uid, gid));
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => {
                let record = owners::read(name_of(node.as_fd()).as_str());
                record.ok().flatten().unwrap_or_default()
            }
            FileType::Symlink | FileType::Fifo | FileType::Socket => {
                let record = place.and_then(|(target, named)| {
                    let (parent, name) = target.parent(named).ok()?;
                    owners::link(name_of(parent.as_fd()).as_str(), &name).ok()
                });
                record.unwrap_or_default()
            }
            _ => Record::default(),
        }
    }

    fn look(&self, target: &Target<'_>, at: &At) -> Option<(OwnedFd, Record)> {
        let node = self.node(target, at).ok()?;
        let stat = rustix::fs::fstat(&node).ok()?;
        let place = (!at.named.path.is_empty()).then_some((target, &at.named));
        let mut record = self.record(&node, &stat, place);
        if is_unknown(&stat, record) {
            let who = self.credentials(target).ok()?;
            let group = if is_terminal(&stat) {
                TTY
            } else {
                who.groups.files
            };
            record = Record::owner(who.users.files, group);
        }
        Some((node, record))
    }

    pub(super) fn stat(&self, target: &Target<'_>, at: &At, buffer: u64) -> Result<Reply> {
        match self.look(target, at) {
            Some((node, record)) if record != Record::default() => {
                let device = record
                    .device
                    .map(|(kind, number)| (format_of(kind), number));
                let bytes = sys::caller::stat_with(node.as_fd(), (record.uid, record.gid), device)
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                target.write(buffer, &bytes)?;
                Ok(Reply::Value(0))
            }
            // The kernel shows root's as root's.
            _ => Ok(Reply::Continue),
        }
    }

    pub(super) fn statx(
        &self,
        target: &Target<'_>,
        at: &At,
        (flags, mask): (i32, u32),
        buffer: u64,
    ) -> Result<Reply> {
        match self.look(target, at) {
            Some((node, record)) if record != Record::default() => {
                let device = record
                    .device
                    .map(|(kind, number)| (format_of(kind), number));
                let owner = (record.uid, record.gid);
                let sync = flags & (libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC);
                let bytes = sys::caller::statx_with(node.as_fd(), (sync, mask), owner, device)
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                target.write(buffer, &bytes)?;
                Ok(Reply::Value(0))
            }
            _ => Ok(Reply::Continue),
        }
    }

    pub(super) fn access(
        &self,
        target: &Target<'_>,
        at: &At,
        mode: u32,
        effective: bool,
    ) -> Result<Reply> {
        let mut credentials = self.credentials(target)?.clone();
        if !effective {
            credentials.users.files = credentials.users.real;
            credentials.groups.files = credentials.groups.real;
        }
        if mode == 0 || credentials.users.files == 0 {
            return Ok(Reply::Continue);
        }
        let Some((node, record)) = self.look(target, at) else {
            return Ok(Reply::Continue);
        };
        let stat = rustix::fs::fstat(&node)?;
        if may(&credentials, mode & 7, &node, &stat, record) {
            Ok(Reply::Continue)
        } else {
            Err(Errno::ACCESS)
        }
    }

    pub(super) fn chown(
        &mut self,
        target: &Target<'_>,
        at: &At,
        uid: u64,
        gid: u64,
    ) -> Result<Reply> {
        let (uid, gid) = (uid as u32, gid as u32);
        let node = self.node(target, at)?;
        let stat = rustix::fs::fstat(&node)?;
        let place = (!at.named.path.is_empty()).then_some((target, &at.named));
        let old = self.record(&node, &stat, place);
        let credentials = self.credentials(target)?;
        let is_own = credentials.users.files == old.uid;
        let keeps_uid = uid == KEEP || uid == old.uid;
        let may_gid = gid == KEEP || gid == old.gid || credentials.is_in(gid);
        if credentials.users.files != 0 && !(is_own && keeps_uid && may_gid) {
            return Err(Errno::PERM);
        }
        // The kernel does what comes with a change of owner: setuid and capabilities go, the time changes, and a file
        // system that is read-only says so.
        let zero = |id: u32| (id != KEEP).then_some(0);
        rustix::fs::chownat(
            &node,
            c"",
            zero(uid).map(Uid::from_raw),
            zero(gid).map(Gid::from_raw),
            AtFlags::EMPTY_PATH,
        )?;
        let or = |new: u32, old: u32| if new == KEEP { old } else { new };
        let new = Record {
            uid: or(uid, old.uid),
            gid: or(gid, old.gid),
            device: old.device,
        };
        if new != old {
            self.set(target, &node, &stat, place.map(|(_, named)| named), new)?;
        }
        Ok(Reply::Value(0))
    }

    /// Writes a record down, or keeps it in mind where that is not possible.
    pub(super) fn set(
        &mut self,
        target: &Target<'_>,
        node: &OwnedFd,
        stat: &Stat,
        named: Option<&Named>,
        record: Record,
    ) -> Result<()> {
        let written = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => {
                owners::write(name_of(node.as_fd()).as_str(), record)
            }
            FileType::Symlink | FileType::Fifo | FileType::Socket => match named {
                Some(named) => {
                    let (parent, name) = target.parent(named)?;
                    self.set_link(&parent, &name, record)
                }
                None => Err(Errno::OPNOTSUPP.into()),
            },
            _ => Err(Errno::OPNOTSUPP.into()),
        };
        match written {
            Ok(()) => {
                self.noted.remove(&(stat.st_dev, stat.st_ino));
                Ok(())
            }
            Err(error) => match of_disk(&error) {
                Some(errno) => Err(errno),
                None => {
                    self.noted.insert((stat.st_dev, stat.st_ino), record);
                    Ok(())
                }
            },
        }
    }

    pub(super) fn set_link(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        record: Record,
    ) -> std::io::Result<()> {
        let names = || owners::names_of_links(parent.as_fd());
        owners::set_link(name_of(parent.as_fd()).as_str(), name, record, &names)
    }
}

/// What whoever makes a file is told, too; any other error means that there can be no attributes.
pub(super) fn of_disk(error: &std::io::Error) -> Option<Errno> {
    let errno = Errno::from_io_error(error)?;
    matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS).then_some(errno)
}

/// A file that is in memory only, or no longer anywhere, or a terminal, of which nobody has said whose it is: it is the
/// one's who has it.
pub(super) fn is_unknown(stat: &Stat, record: Record) -> bool {
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    record == Record::default() && (is_file && stat.st_nlink == 0 || is_terminal(stat))
}

/// One of devpts.
fn is_terminal(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (136..144).contains(&rustix::fs::major(stat.st_rdev))
}

/// Whether an executable file makes its process its owner's, and its group's: scripts do not, and nothing does where the
/// file system is mounted so.
pub(super) fn takes(file: impl rustix::path::Arg + Copy, mode: RawMode) -> (bool, bool) {
    let group = libc::S_ISGID | libc::S_IXGRP;
    let (user, group) = (mode & libc::S_ISUID != 0, mode & group == group);
    if (user || group) && !takes_nothing(file) {
        (user, group)
    } else {
        (false, false)
    }
}

fn takes_nothing(file: impl rustix::path::Arg + Copy) -> bool {
    let is_script = || -> Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(file, flags, Mode::empty())?;
        let mut start = [0; 2];
        Ok(rustix::io::read(file, &mut start)? == 2 && start == *b"#!")
    };
    let mount = rustix::fs::statvfs(file);
    mount.is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::NOSUID))
        || is_script().unwrap_or(false)
}

/// The user and group that a program takes of its file.
pub(crate) fn taken_of(program: &Path) -> (Option<u32>, Option<u32>) {
    let Ok(stat) = rustix::fs::stat(program) else {
        return (None, None);
    };
    let (takes_user, takes_group) = takes(program, stat.st_mode);
    if !takes_user && !takes_group {
        return (None, None);
    }
    let record = owners::read(program).ok().flatten().unwrap_or_default();
    (
        takes_user.then_some(record.uid),
        takes_group.then_some(record.gid),
    )
}

/// What lies in a process' directory in /proc is its user's: programs that list processes look at that.
pub(super) fn mark_of_process(node: &OwnedFd) -> Option<Mark> {
    let path = path_of(node)?;
    let process = path.strip_prefix("/proc").ok()?.components().next()?;
    let number: u32 = process.as_os_str().to_str()?.parse().ok()?;
    Mark::shown(&std::fs::read_to_string(format!("/proc/{number}/limits")).ok()?)
}

/// Where in the root of this thread something lies.
pub(super) fn path_of(node: &OwnedFd) -> Option<PathBuf> {
    let path = rustix::fs::readlinkat(CWD, name_of(node.as_fd()), Vec::new()).ok()?;
    let path = OsString::from_vec(path.into_bytes());
    Some(PathBuf::from(path)).filter(|path| path.is_absolute())
}

fn format_of(kind: Kind) -> u32 {
    match kind {
        Kind::BlockDevice => libc::S_IFBLK,
        _ => libc::S_IFCHR,
    }
}
