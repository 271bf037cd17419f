//! What each call is answered.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rbuild_cache::owners::Record;
use rustix::io::Errno;
use rustix::process::Resource;

use super::Scope;
use super::credentials::{Change, Credentials};
use super::devices::Refused;
use super::executing::Executing;
use super::mark::{self, Mark};
use super::peers;
use super::target::{Target, at, fd, name};
use crate::sys::{
    self,
    notify::{Call, Reply},
};

/// Of a link itself.
const LINK: i32 = libc::AT_SYMLINK_NOFOLLOW;

pub(super) type Result<T> = std::result::Result<T, Errno>;

pub(super) struct Answering {
    /// Shared, so that it is at hand without a system call.
    processes: Arc<OwnedFd>,
    descriptors: OwnedFd,
    root: OwnedFd,
    /// The root's device and inode number.
    root_id: (u64, u64),
    /// The device of /proc.
    pub(super) proc: Option<u64>,
    /// By the number of their [`Mark`]; the first process's need none.
    pub(super) identities: Vec<Credentials>,
    numbers: HashMap<Credentials, usize>,
    /// The limit that is the [`Mark`].
    pub(super) marking: Resource,
    pub(super) executing: Vec<Executing>,
    /// Of what can keep no attributes: by device and inode number.
    pub(super) noted: HashMap<(u64, u64), Record>,
    /// Somebody may have another root than the sandbox's.
    other_roots: bool,
    pub(super) scope: Scope,
    /// See [`super::Identity`].
    pub(super) own_mounts: Vec<u64>,
    pub(super) outer_proc: bool,
    pub(super) refused: Refused,
}

impl Answering {
    pub(super) fn new(
        processes: OwnedFd,
        descriptors: OwnedFd,
        root: OwnedFd,
        first: Credentials,
    ) -> Self {
        let root_id = rustix::fs::fstat(&root).map_or((0, 0), |stat| (stat.st_dev, stat.st_ino));
        Self {
            processes: Arc::new(processes),
            descriptors,
            root,
            root_id,
            proc: device_of_proc(),
            numbers: HashMap::from([(first.clone(), 0)]),
            identities: vec![first],
            marking: Mark::resource(),
            executing: Vec::new(),
            noted: HashMap::new(),
            other_roots: false,
            scope: Scope::Owners,
            own_mounts: Vec::new(),
            outer_proc: false,
            refused: Refused::default(),
        }
    }

    pub(super) fn answer(&mut self, listener: BorrowedFd<'_>, call: &Call) -> Reply {
        let processes = Arc::clone(&self.processes);
        let target = Target {
            pid: call.pid,
            processes: processes.as_fd(),
            listener,
            call: call.id,
            outer_proc: self.outer_proc,
        };
        // Where only devices are asked about, nobody says when a root changes.
        let moved =
            (self.other_roots || self.scope != Scope::Owners) && self.enter_root_of(&target);
        self.settle(&target);
        let result = self.decide(&target, call);
        if moved {
            self.leave_root();
        }
        let reply = match result {
            // Memory that cannot be read: the kernel says so itself, or can read it where this process may not (the
            // first process, before it becomes the command).
            Ok(Reply::Continue) | Err(Errno::FAULT) => return Reply::Continue,
            Ok(reply) => reply,
            Err(errno) => Reply::Error(errno.raw_os_error()),
        };
        // Whatever was read may have been another process's, if this one died meanwhile.
        if sys::notify::is_valid(listener, call.id) {
            reply
        } else {
            Reply::Continue
        }
    }

    /// For a caller that has changed its root, this thread does likewise.
    fn enter_root_of(&self, target: &Target<'_>) -> bool {
        let Ok(root) = target.root() else {
            return false;
        };
        let same =
            rustix::fs::fstat(&root).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.root_id);
        !same && self.chroot(&root)
    }

    fn leave_root(&self) {
        self.chroot(&self.root);
    }

    fn chroot(&self, root: &OwnedFd) -> bool {
        let entered = rustix::process::fchdir(root).and_then(|()| rustix::process::chroot("."));
        let back = rustix::process::fchdir(&self.descriptors);
        entered.is_ok() && back.is_ok()
    }

    fn decide(&mut self, target: &Target<'_>, call: &Call) -> Result<Reply> {
        if self.scope == Scope::Owners {
            self.refuse(target, call)?;
        }
        let [a, b, c, d, e, _] = call.arguments;
        let number = i64::from(call.number);
        let here = |flags| at(target, libc::AT_FDCWD, a, flags);
        #[cfg(target_arch = "x86_64")]
        match number {
            libc::SYS_stat => return self.stat(target, &here(0)?, b),
            libc::SYS_lstat => return self.stat(target, &here(LINK)?, b),
            libc::SYS_access => return self.access(target, &here(0)?, b as u32, false),
            libc::SYS_open => return self.open(target, libc::AT_FDCWD, a, b, c),
            libc::SYS_creat => {
                let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
                return self.open(target, libc::AT_FDCWD, a, flags as u64, b);
            }
            libc::SYS_mkdir => return self.mkdir(target, &name(target, libc::AT_FDCWD, a)?, b),
            libc::SYS_mknod => {
                return self.mknod(target, &name(target, libc::AT_FDCWD, a)?, b, c);
            }
            libc::SYS_symlink => {
                return self.symlink(target, a, &name(target, libc::AT_FDCWD, b)?);
            }
            libc::SYS_chown => return self.chown(target, &here(0)?, b, c),
            libc::SYS_lchown => return self.chown(target, &here(LINK)?, b, c),
            libc::SYS_rename => {
                let (from, to) = (
                    name(target, libc::AT_FDCWD, a)?,
                    name(target, libc::AT_FDCWD, b)?,
                );
                return self.rename(target, &from, &to);
            }
            libc::SYS_link => {
                let from = here(LINK)?;
                return self.link(target, &from, &name(target, libc::AT_FDCWD, b)?);
            }
            _ => {}
        }
        match number {
            libc::SYS_getuid
            | libc::SYS_geteuid
            | libc::SYS_getgid
            | libc::SYS_getegid
            | libc::SYS_getresuid
            | libc::SYS_getresgid
            | libc::SYS_getgroups => self.tell_ids(target, call),
            libc::SYS_setuid => self.change(target, &Change::Uid(a as u32)),
            libc::SYS_setgid => self.change(target, &Change::Gid(a as u32)),
            libc::SYS_setreuid => self.change(target, &Change::RealUid(a as u32, b as u32)),
            libc::SYS_setregid => self.change(target, &Change::RealGid(a as u32, b as u32)),
            libc::SYS_setresuid => {
                self.change(target, &Change::ThreeUids([a, b, c].map(|id| id as u32)))
            }
            libc::SYS_setresgid => {
                self.change(target, &Change::ThreeGids([a, b, c].map(|id| id as u32)))
            }
            libc::SYS_setfsuid => {
                let old = self.credentials(target)?.users.files;
                self.change(target, &Change::FilesUid(a as u32))?;
                Ok(Reply::Value(i64::from(old)))
            }
            libc::SYS_setfsgid => {
                let old = self.credentials(target)?.groups.files;
                self.change(target, &Change::FilesGid(a as u32))?;
                Ok(Reply::Value(i64::from(old)))
            }
            libc::SYS_setgroups => {
                let count = usize::try_from(a).unwrap_or(usize::MAX);
                if count > 65_536 {
                    return Err(Errno::INVAL);
                }
                let bytes = target.bytes(b, count * 4)?;
                self.change(target, &Change::Groups(words(&bytes)))
            }
            libc::SYS_fstat => self.stat(target, &fd(a), b),
            libc::SYS_newfstatat => self.stat(target, &at(target, a as i32, b, d as i32)?, c),
            libc::SYS_statx => {
                let at = at(target, a as i32, b, c as i32)?;
                self.statx(target, &at, (c as i32, d as u32), e)
            }
            libc::SYS_fchown => self.chown(target, &fd(a), b, c),
            libc::SYS_fchownat => self.chown(target, &at(target, a as i32, b, e as i32)?, c, d),
            libc::SYS_openat => self.open(target, a as i32, b, c, d),
            libc::SYS_mkdirat => self.mkdir(target, &name(target, a as i32, b)?, c),
            libc::SYS_mknodat => self.mknod(target, &name(target, a as i32, b)?, c, d),
            libc::SYS_symlinkat => self.symlink(target, a, &name(target, b as i32, c)?),
            libc::SYS_faccessat => {
                self.access(target, &at(target, a as i32, b, 0)?, c as u32, false)
            }
            libc::SYS_faccessat2 => {
                let effective = d as i32 & libc::AT_EACCESS != 0;
                self.access(
                    target,
                    &at(target, a as i32, b, d as i32)?,
                    c as u32,
                    effective,
                )
            }
            libc::SYS_renameat | libc::SYS_renameat2 => {
                let (from, to) = (name(target, a as i32, b)?, name(target, c as i32, d)?);
                self.rename(target, &from, &to)
            }
            libc::SYS_linkat => {
                let from = at(target, a as i32, b, linked(e))?;
                self.link(target, &from, &name(target, c as i32, d)?)
            }
            libc::SYS_setxattr => self.set_attribute(target, || here(0), [b, c, d, e]),
            libc::SYS_lsetxattr => self.set_attribute(target, || here(LINK), [b, c, d, e]),
            libc::SYS_fsetxattr => self.set_attribute(target, || Ok(fd(a)), [b, c, d, e]),
            libc::SYS_getxattr => self.get_attribute(target, || here(0), [b, c, d]),
            libc::SYS_lgetxattr => self.get_attribute(target, || here(LINK), [b, c, d]),
            libc::SYS_fgetxattr => self.get_attribute(target, || Ok(fd(a)), [b, c, d]),
            libc::SYS_removexattr | libc::SYS_lremovexattr | libc::SYS_fremovexattr => {
                Self::remove_attribute(target, b)
            }
            libc::SYS_listxattr => self.list(target, &here(0)?, b, c),
            libc::SYS_llistxattr => self.list(target, &here(LINK)?, b, c),
            libc::SYS_flistxattr => self.list(target, &fd(a), b, c),
            libc::SYS_execve => self.execute(target, &here(0)?),
            libc::SYS_execveat => self.execute(target, &at(target, a as i32, b, e as i32)?),
            libc::SYS_setrlimit | libc::SYS_getrlimit if a as u32 != self.marking as u32 => {
                Ok(Reply::Continue)
            }
            libc::SYS_prlimit64 if b as u32 != self.marking as u32 => Ok(Reply::Continue),
            // PAM and sudo set all limits, which must not touch the mark.
            libc::SYS_setrlimit => Ok(Reply::Value(0)),
            libc::SYS_getrlimit => no_limit(target, b),
            libc::SYS_prlimit64 if d == 0 => Ok(Reply::Value(0)),
            libc::SYS_prlimit64 => no_limit(target, d),
            libc::SYS_prctl => {
                self.change(target, &Change::Keep(b != 0))?;
                Ok(Reply::Continue)
            }
            libc::SYS_bind => self.bind(target, b, c),
            libc::SYS_getsockopt => peers::tell(target, call),
            libc::SYS_chroot => {
                self.other_roots = true;
                Ok(Reply::Continue)
            }
            _ => Ok(Reply::Continue),
        }
    }

    // Ids.

    pub(super) fn credentials(&self, target: &Target<'_>) -> Result<&Credentials> {
        let number = Mark::of(self.limit(target)?).map_or(0, |mark| usize::from(mark.number));
        self.identities
            .get(number)
            .or(self.identities.first())
            .ok_or(Errno::PERM)
    }

    /// The one that is the mark.
    pub(super) fn limit(&self, target: &Target<'_>) -> Result<u64> {
        sys::caller::limit(target.pid, self.marking)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::PERM))
    }

    pub(super) fn become_(&mut self, target: &Target<'_>, new: Credentials) -> Result<()> {
        let ids = Some((new.users.effective, new.groups.effective));
        let number = match self.numbers.get(&new) {
            Some(number) => *number,
            None if self.identities.len() >= mark::MOST => return Err(Errno::AGAIN),
            None => {
                self.identities.push(new.clone());
                self.numbers.insert(new, self.identities.len() - 1);
                self.identities.len() - 1
            }
        };
        if !sys::notify::is_valid(target.listener, target.call) {
            return Err(Errno::SRCH);
        }
        let number = u16::try_from(number).map_err(|_| Errno::AGAIN)?;
        sys::caller::set_limit(target.pid, self.marking, Mark { number, ids }.limit())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::PERM))
    }

    fn change(&mut self, target: &Target<'_>, change: &Change) -> Result<Reply> {
        let old = self.credentials(target)?;
        let new = old.changed(change)?;
        if new != *old {
            self.become_(target, new)?;
        }
        Ok(Reply::Value(0))
    }

    fn tell_ids(&self, target: &Target<'_>, call: &Call) -> Result<Reply> {
        let it = self.credentials(target)?;
        let [a, b, c, ..] = call.arguments;
        let value = match i64::from(call.number) {
            libc::SYS_getuid => it.users.real,
            libc::SYS_geteuid => it.users.effective,
            libc::SYS_getgid => it.groups.real,
            libc::SYS_getegid => it.groups.effective,
            libc::SYS_getgroups => {
                let room = a as u32 as usize;
                if room != 0 {
                    if room < it.further.len() {
                        return Err(Errno::INVAL);
                    }
                    target.write_words(b, &it.further)?;
                }
                it.further.len() as u32
            }
            number => {
                let ids = if number == libc::SYS_getresuid {
                    it.users
                } else {
                    it.groups
                };
                for (address, id) in [(a, ids.real), (b, ids.effective), (c, ids.saved)] {
                    target.write_words(address, &[id])?;
                }
                0
            }
        };
        Ok(Reply::Value(i64::from(value)))
    }
}

/// The flags of `linkat` in the terms of other calls.
pub(super) fn linked(flags: u64) -> i32 {
    let flags = flags as i32;
    let follow = if flags & libc::AT_SYMLINK_FOLLOW == 0 {
        libc::AT_SYMLINK_NOFOLLOW
    } else {
        0
    };
    flags & libc::AT_EMPTY_PATH | follow
}

/// Tells that a limit is none, softly and hard.
fn no_limit(target: &Target<'_>, address: u64) -> Result<Reply> {
    target.write(address, &[u8::MAX; 16])?;
    Ok(Reply::Value(0))
}

fn device_of_proc() -> Option<u64> {
    let system = rustix::fs::statfs("/proc").ok()?;
    if system.f_type != rustix::fs::PROC_SUPER_MAGIC {
        return None;
    }
    Some(rustix::fs::stat("/proc").ok()?.st_dev)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .filter_map(|word| word.try_into().ok())
        .map(u32::from_ne_bytes)
        .collect()
}
