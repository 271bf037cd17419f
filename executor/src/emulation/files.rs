//! Calls about files: who owns them, who may what with them, whose are new ones.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::owners::{self, Record};
use rbuild_cache::tree::Kind;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawMode, Stat, StatVfsMountFlags, Uid,
};
use rustix::io::Errno;

use super::Scope;
use super::answer::{Answering, Result};
use super::devices::Device;
use super::mark::Mark;
use super::status;
use super::target::{At, Named, Status, Target, name, name_of, node_at};
use crate::sys::{self, notify::Reply};

/// The group of terminals.
const TTY: u32 = 5;
/// Leaves an owner as it is.
const KEEP: u32 = u32::MAX;

/// Something that is to be made: the directory, the name in it, and whose it will be.
type New = (OwnedFd, Vec<u8>, (u32, u32));

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
        if credentials.may(mode & 7, stat.st_mode, (record.uid, record.gid)) {
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
    fn set(
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
            Err(error) => match Errno::from_io_error(&error) {
                Some(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS)) => Err(errno),
                _ => {
                    self.noted.insert((stat.st_dev, stat.st_ino), record);
                    Ok(())
                }
            },
        }
    }

    fn set_link(&self, parent: &OwnedFd, name: &[u8], record: Record) -> std::io::Result<()> {
        let names = || owners::names_of_links(parent.as_fd());
        owners::set_link(name_of(parent.as_fd()).as_str(), name, record, &names)
    }

    /// Who owns what the caller makes in a directory; an error where it may not make anything there.
    fn owner_in(&self, target: &Target<'_>, parent: &OwnedFd) -> Result<(u32, u32)> {
        let credentials = self.credentials(target)?;
        let stat = rustix::fs::fstat(parent)?;
        let is_group = stat.st_mode & libc::S_ISGID != 0;
        let mut owner = (credentials.users.files, credentials.groups.files);
        if is_group || credentials.users.files != 0 {
            let record = self.record(parent, &stat, None);
            if !credentials.may(3, stat.st_mode, (record.uid, record.gid)) {
                return Err(Errno::ACCESS);
            }
            if is_group {
                owner.1 = record.gid;
            }
        }
        Ok(owner)
    }

    fn note_made(&mut self, target: &Target<'_>, node: &OwnedFd, owner: (u32, u32)) -> Result<()> {
        let stat = rustix::fs::fstat(node)?;
        let record = Record::owner(owner.0, owner.1);
        self.noted.remove(&(stat.st_dev, stat.st_ino));
        self.set(target, node, &stat, None, record)
    }

    pub(super) fn open(
        &mut self,
        target: &Target<'_>,
        directory: i32,
        path: u64,
        flags: u64,
        mode: u64,
    ) -> Result<Reply> {
        let flags = OFlags::from_bits_retain(flags as u32);
        let may_make = flags.intersects(OFlags::CREATE) || flags.contains(OFlags::TMPFILE);
        let named = name(target, directory, path)?;
        let close = if flags.contains(OFlags::CLOEXEC) {
            libc::O_CLOEXEC as u32
        } else {
            0
        };
        if flags & OFlags::ACCMODE == OFlags::RDONLY
            && status::is_meant(named.path.to_bytes())
            && let Some(fd) = self.status(target, &named)
        {
            return Ok(Reply::Descriptor { fd, flags: close });
        }
        if !may_make && self.credentials(target)?.users.files == 0 {
            return Ok(Reply::Continue);
        }
        let mode = Mode::from_raw_mode(mode as RawMode & 0o7777);
        if flags.contains(OFlags::TMPFILE) {
            let Ok(parent) = target.node(&named, true) else {
                return Ok(Reply::Continue);
            };
            let owner = self.owner_in(target, &parent)?;
            if owner == (0, 0) {
                return Ok(Reply::Continue);
            }
            target.status()?.take_umask();
            let fd = target.open(&named, flags, mode)?;
            self.note_made(target, &fd, owner)?;
            return Ok(Reply::Descriptor { fd, flags: close });
        }
        if flags.contains(OFlags::PATH) {
            return Ok(Reply::Continue);
        }
        let is_making = flags.contains(OFlags::CREATE);
        let follow =
            !flags.contains(OFlags::NOFOLLOW) && !flags.contains(OFlags::CREATE | OFlags::EXCL);
        match target.node(&named, follow) {
            Ok(node) => {
                let credentials = self.credentials(target)?;
                if credentials.users.files != 0 && !(is_making && flags.contains(OFlags::EXCL)) {
                    let stat = rustix::fs::fstat(&node)?;
                    let record = self.record(&node, &stat, None);
                    let wanted = match flags.bits() & libc::O_ACCMODE as u32 {
                        0 => 4,
                        1 => 2,
                        _ => 6,
                    };
                    let is_plain = matches!(
                        FileType::from_raw_mode(stat.st_mode),
                        FileType::RegularFile | FileType::Directory
                    );
                    let owner = (record.uid, record.gid);
                    if is_plain
                        && !is_unknown(&stat, record)
                        && !credentials.may(wanted, stat.st_mode, owner)
                    {
                        return Err(Errno::ACCESS);
                    }
                }
                return Ok(Reply::Continue);
            }
            Err(Errno::NOENT) if is_making => {}
            Err(_) => return Ok(Reply::Continue),
        }
        let place = target.parent(&named);
        let Ok((parent, name)) = place.and_then(|place| target.behind(place)) else {
            return Ok(Reply::Continue);
        };
        let owner = self.owner_in(target, &parent)?;
        if owner == (0, 0) || named.path.to_bytes().ends_with(b"/") {
            return Ok(Reply::Continue);
        }
        target.status()?.take_umask();
        let made = flags | OFlags::EXCL | OFlags::CREATE | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, name.as_slice(), made, mode) {
            Ok(fd) => {
                self.note_made(target, &fd, owner)?;
                Ok(Reply::Descriptor { fd, flags: close })
            }
            // Somebody was faster.
            Err(Errno::EXIST) => Ok(Reply::Continue),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn mkdir(&mut self, target: &Target<'_>, named: &Named, mode: u64) -> Result<Reply> {
        let Some((parent, name, owner)) = self.making(target, named, &Status::default())? else {
            return Ok(Reply::Continue);
        };
        if owner == (0, 0) {
            return Ok(Reply::Continue);
        }
        target.status()?.take_umask();
        let mode = Mode::from_raw_mode(mode as RawMode & 0o7777);
        rustix::fs::mkdirat(&parent, name.as_slice(), mode)?;
        let node = node_at(&parent, &name)?;
        self.note_made(target, &node, owner)?;
        Ok(Reply::Value(0))
    }

    /// Nothing where there is something already or the kernel is to say what is wrong.
    fn making(&self, target: &Target<'_>, named: &Named, status: &Status) -> Result<Option<New>> {
        let Ok((parent, name)) = target.parent(named) else {
            return Ok(None);
        };
        if node_at(&parent, &name).is_ok() {
            return Ok(None);
        }
        let owner = if self.scope != Scope::Owners {
            let stat = rustix::fs::fstat(&parent)?;
            let is_group = stat.st_mode & libc::S_ISGID != 0;
            (status.uid, if is_group { stat.st_gid } else { status.gid })
        } else {
            self.owner_in(target, &parent)?
        };
        Ok(Some((parent, name, owner)))
    }

    pub(super) fn mknod(
        &mut self,
        target: &Target<'_>,
        named: &Named,
        mode: u64,
        device: u64,
    ) -> Result<Reply> {
        let mode = mode as RawMode;
        let status = target.status()?;
        if self.scope == Scope::MadeDevices {
            return self.make_device(target, named, &status, (mode, device));
        }
        let Some((parent, name, owner)) = self.making(target, named, &status)? else {
            return Ok(Reply::Continue);
        };
        let kind = match FileType::from_raw_mode(mode) {
            FileType::CharacterDevice => Some(Kind::CharDevice),
            FileType::BlockDevice => Some(Kind::BlockDevice),
            _ => None,
        };
        if kind.is_none() && owner == (0, 0) && noted(&parent, &name) == Record::default() {
            return Ok(Reply::Continue);
        }
        // 0:0 would remove what lies below it.
        let may = if self.scope != Scope::Owners {
            status.may_make_devices
        } else {
            self.credentials(target)?.is_root()
        };
        if kind.is_some() && (!may || device == 0) {
            return Err(Errno::PERM);
        }
        let bits = Mode::from_raw_mode(mode & 0o7777);
        let device = kind.map(|kind| Device {
            kind,
            number: sys::caller::device_number(device),
        });
        status.take_umask();
        if let Some(device) = device {
            self.stand_in((parent.as_fd(), &name), device, bits)?;
        } else {
            let made = match FileType::from_raw_mode(mode) {
                FileType::Unknown => FileType::RegularFile,
                known => known,
            };
            rustix::fs::mknodat(&parent, name.as_slice(), made, bits, 0)?;
        }
        let node = node_at(&parent, &name)?;
        if self.scope != Scope::Owners {
            let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
            let flags = AtFlags::EMPTY_PATH;
            rustix::fs::chownat(&node, c"", Some(uid), Some(gid), flags)?;
        }
        let stat = rustix::fs::fstat(&node)?;
        self.noted.remove(&(stat.st_dev, stat.st_ino));
        let record = Record {
            uid: owner.0,
            gid: owner.1,
            device: device.map(|device| (device.kind, device.number)),
        };
        self.set(target, &node, &stat, Some(named), record)?;
        Ok(Reply::Value(0))
    }

    pub(super) fn symlink(
        &mut self,
        target: &Target<'_>,
        leads_to: u64,
        named: &Named,
    ) -> Result<Reply> {
        let Some((parent, name, owner)) = self.making(target, named, &Status::default())? else {
            return Ok(Reply::Continue);
        };
        let record = Record::owner(owner.0, owner.1);
        if record == noted(&parent, &name) {
            return Ok(Reply::Continue);
        }
        let leads_to = target.string(leads_to)?;
        rustix::fs::symlinkat(&leads_to, &parent, name.as_slice())?;
        let node = node_at(&parent, &name)?;
        let stat = rustix::fs::fstat(&node)?;
        self.noted.remove(&(stat.st_dev, stat.st_ino));
        self.set(target, &node, &stat, Some(named), record)?;
        Ok(Reply::Value(0))
    }

    /// A socket is its user's: written down before the kernel makes it, for it cannot be made on another's behalf.
    pub(super) fn bind(&self, target: &Target<'_>, address: u64, length: u64) -> Result<Reply> {
        const PATH: usize = std::mem::offset_of!(libc::sockaddr_un, sun_path);
        let length = (length as u32 as usize).min(size_of::<libc::sockaddr_un>());
        let bytes = target.bytes(address, length)?;
        let Some((family, path)) = bytes.split_at_checked(PATH) else {
            return Ok(Reply::Continue);
        };
        let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
        if family != (libc::AF_UNIX as u16).to_ne_bytes() || path.is_empty() {
            return Ok(Reply::Continue);
        }
        let named = Named {
            directory: libc::AT_FDCWD,
            path: CString::new(path).map_err(|_| Errno::INVAL)?,
        };
        if let Some((parent, name, owner)) = self.making(target, &named, &Status::default())? {
            // Where directories hold no attributes, it appears to be root's.
            let _ = self.set_link(&parent, &name, Record::owner(owner.0, owner.1));
        }
        Ok(Reply::Continue)
    }

    /// So it does under a further one, unless that is taken.
    pub(super) fn link(&mut self, target: &Target<'_>, from: &At, to: &Named) -> Reply {
        if from.follow || target.node(to, false).is_ok() {
            return Reply::Continue;
        }
        self.rename(target, &from.named, to)
    }

    /// A link, pipe or socket keeps its owner under its new name.
    pub(super) fn rename(&mut self, target: &Target<'_>, from: &Named, to: &Named) -> Reply {
        let moved = || -> Option<()> {
            let (parent, name) = target.parent(from).ok()?;
            let node = node_at(&parent, &name).ok()?;
            let stat = rustix::fs::fstat(&node).ok()?;
            if matches!(
                FileType::from_raw_mode(stat.st_mode),
                FileType::RegularFile | FileType::Directory
            ) {
                return None;
            }
            let record = owners::link(name_of(parent.as_fd()).as_str(), &name).ok()?;
            let (parent, name) = target.parent(to).ok()?;
            self.set_link(&parent, &name, record).ok()
        };
        moved();
        Reply::Continue
    }

    /// The names of attributes, without ours.
    pub(super) fn list(
        &self,
        target: &Target<'_>,
        at: &At,
        buffer: u64,
        size: u64,
    ) -> Result<Reply> {
        let Ok(node) = self.node(target, at) else {
            return Ok(Reply::Continue);
        };
        let mut names = vec![0; 64 << 10];
        let path = name_of(node.as_fd());
        let Ok(length) = rustix::fs::listxattr(path.as_str(), &mut names) else {
            return Ok(Reply::Continue);
        };
        let all = names.get(..length).unwrap_or_default();
        let mut shown = Vec::with_capacity(all.len());
        for name in all.split_inclusive(|byte| *byte == 0) {
            if !name.starts_with(owners::PREFIX) {
                shown.extend_from_slice(name);
            }
        }
        if shown.len() == all.len() {
            return Ok(Reply::Continue);
        }
        if size != 0 {
            if (shown.len() as u64) > size {
                return Err(Errno::RANGE);
            }
            target.write(buffer, &shown)?;
        }
        Ok(Reply::Value(shown.len() as i64))
    }
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

/// What a directory says of a name, which may be about something earlier of that name.
fn noted(directory: &OwnedFd, name: &[u8]) -> Record {
    owners::link(name_of(directory.as_fd()).as_str(), name).unwrap_or_default()
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
