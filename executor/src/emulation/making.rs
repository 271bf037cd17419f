//! Calls that make files, or give them other names: whose what they make is.

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};

use rbuild_cache::owners::{self, Record};
use rbuild_cache::tree::Kind;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawMode, Uid};
use rustix::io::Errno;

use super::Scope;
use super::answer::{Answering, Result};
use super::attributes::may;
use super::devices::Device;
use super::files::{is_unknown, of_disk};
use super::status;
use super::target::{At, Named, Status, Target, name, name_of, node_at};
use crate::sys::{self, notify::Reply};

/// Something that is to be made: the directory, the name in it, and whose it will be.
type New = (OwnedFd, Vec<u8>, (u32, u32));

impl Answering {
    /// Who owns what the caller makes in a directory; an error where it may not make anything there.
    fn owner_in(&self, target: &Target<'_>, parent: &OwnedFd) -> Result<(u32, u32)> {
        let credentials = self.credentials(target)?;
        let stat = rustix::fs::fstat(parent)?;
        let is_group = stat.st_mode & libc::S_ISGID != 0;
        let mut owner = (credentials.users.files, credentials.groups.files);
        if is_group || credentials.users.files != 0 {
            let record = self.record(parent, &stat, None);
            if !may(credentials, 3, parent, &stat, record) {
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
                    if is_plain
                        && !is_unknown(&stat, record)
                        && !may(credentials, wanted, &node, &stat, record)
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
            self.note_link(&parent, &name, Record::owner(owner.0, owner.1))?;
        }
        Ok(Reply::Continue)
    }

    /// So it does under a further one, unless that is taken.
    pub(super) fn link(&mut self, target: &Target<'_>, from: &At, to: &Named) -> Result<Reply> {
        if from.follow || target.node(to, false).is_ok() {
            return Ok(Reply::Continue);
        }
        self.rename(target, &from.named, to)
    }

    /// A link, pipe or socket keeps its owner under its new name.
    pub(super) fn rename(
        &mut self,
        target: &Target<'_>,
        from: &Named,
        to: &Named,
    ) -> Result<Reply> {
        let moved = || -> Option<(OwnedFd, Vec<u8>, Record)> {
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
            Some((parent, name, record))
        };
        if let Some((parent, name, record)) = moved() {
            self.note_link(&parent, &name, record)?;
        }
        Ok(Reply::Continue)
    }

    /// Writes down what a name will stand for, where that can be.
    fn note_link(&self, parent: &OwnedFd, name: &[u8], record: Record) -> Result<()> {
        match self.set_link(parent, name, record) {
            Err(error) => of_disk(&error).map_or(Ok(()), Err),
            Ok(()) => Ok(()),
        }
    }
}

/// What a directory says of a name, which may be about something earlier of that name.
fn noted(directory: &OwnedFd, name: &[u8]) -> Record {
    owners::link(name_of(directory.as_fd()).as_str(), name).unwrap_or_default()
}
