//! What the kernel would refuse the user that a process appears to be. To the kernel all files are of the one id that
//! there is, so that it lets everybody do everything. As all of the emulation, this is no boundary: names are looked up
//! again when the kernel does what was asked for.

use std::os::fd::OwnedFd;

use rbuild_cache::owners::{Record, acl};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::answer::{Answering, Result, linked};
use super::attributes::may;
use super::credentials::Credentials;
use super::files::{is_unknown, path_of};
use super::target::{At, Named, Target, at, fd, name, node_at, own_descriptor};
use crate::sys::notify::Call;

const READ: u32 = 4;
const WRITE: u32 = 2;
const SEARCH: u32 = 1;

/// A directory and the address of a name in it.
type Place = (i32, u64);

/// What a call does with files, as far as rights to it are not found elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Looks something up, or makes it: the way there counts. With flags `AT_*`.
    Look(Place, i32),
    Remove(Place),
    Move(Place, Place),
    Link(Place, Place, i32),
    /// What only its owner may: the mode.
    Own(Place, i32),
    OwnOpen(u64),
    Write(Place, i32),
    /// Sets or removes an attribute whose name is at this address.
    Attribute(Place, i32, u64),
    AttributeOpen(u64, u64),
    /// Times, and which ones by an address: 0 stands for now.
    Times(Place, i32, (Format, u64)),
    Execute(Place, i32),
    Enter(u64),
}

/// In which structures times lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Nanoseconds,
    /// None of these says "now" or "as it is". Old calls that new machines have not.
    #[cfg(target_arch = "x86_64")]
    Coarse,
}

impl Asked {
    fn by(call: &Call) -> Option<Self> {
        let [a, b, c, d, e, _] = call.arguments;
        let here = libc::AT_FDCWD;
        let (first, second) = ((a as i32, b), (c as i32, d));
        let number = i64::from(call.number);
        #[cfg(target_arch = "x86_64")]
        match number {
            libc::SYS_stat
            | libc::SYS_access
            | libc::SYS_open
            | libc::SYS_creat
            | libc::SYS_mkdir
            | libc::SYS_mknod
            | libc::SYS_chown => return Some(Self::Look((here, a), 0)),
            libc::SYS_lstat | libc::SYS_lchown => {
                return Some(Self::Look((here, a), libc::AT_SYMLINK_NOFOLLOW));
            }
            libc::SYS_symlink => {
                return Some(Self::Look((here, b), libc::AT_SYMLINK_NOFOLLOW));
            }
            libc::SYS_unlink | libc::SYS_rmdir => return Some(Self::Remove((here, a))),
            libc::SYS_rename => return Some(Self::Move((here, a), (here, b))),
            libc::SYS_link => return Some(Self::Link((here, a), (here, b), linked(0))),
            libc::SYS_chmod => return Some(Self::Own((here, a), 0)),
            libc::SYS_utime | libc::SYS_utimes => {
                return Some(Self::Times((here, a), 0, (Format::Coarse, b)));
            }
            libc::SYS_futimesat => return Some(Self::Times(first, 0, (Format::Coarse, c))),
            _ => {}
        }
        Some(match number {
            libc::SYS_openat | libc::SYS_mkdirat | libc::SYS_mknodat | libc::SYS_faccessat => {
                Self::Look(first, 0)
            }
            libc::SYS_newfstatat | libc::SYS_faccessat2 => Self::Look(first, d as i32),
            libc::SYS_statx => Self::Look(first, c as i32),
            libc::SYS_fchownat => Self::Look(first, e as i32),
            libc::SYS_symlinkat => Self::Look((b as i32, c), libc::AT_SYMLINK_NOFOLLOW),
            libc::SYS_unlinkat => Self::Remove(first),
            libc::SYS_renameat | libc::SYS_renameat2 => Self::Move(first, second),
            libc::SYS_linkat => Self::Link(first, second, linked(e)),
            libc::SYS_fchmod => Self::OwnOpen(a),
            libc::SYS_fchmodat => Self::Own(first, 0),
            SYS_FCHMODAT2 => Self::Own(first, d as i32),
            libc::SYS_truncate => Self::Write((here, a), 0),
            libc::SYS_getxattr | libc::SYS_listxattr => Self::Look((here, a), 0),
            libc::SYS_lgetxattr | libc::SYS_llistxattr => {
                Self::Look((here, a), libc::AT_SYMLINK_NOFOLLOW)
            }
            libc::SYS_setxattr | libc::SYS_removexattr => Self::Attribute((here, a), 0, b),
            libc::SYS_lsetxattr | libc::SYS_lremovexattr => {
                Self::Attribute((here, a), libc::AT_SYMLINK_NOFOLLOW, b)
            }
            libc::SYS_fsetxattr | libc::SYS_fremovexattr => Self::AttributeOpen(a, b),
            libc::SYS_utimensat => Self::Times(first, d as i32, (Format::Nanoseconds, c)),
            libc::SYS_execve => Self::Execute((here, a), 0),
            libc::SYS_execveat => Self::Execute(first, e as i32),
            libc::SYS_chdir => Self::Enter(a),
            _ => return None,
        })
    }
}

/// Since Linux 6.6; the same on all machines.
const SYS_FCHMODAT2: i64 = 452;

/// Something that is there.
struct Found {
    node: OwnedFd,
    stat: Stat,
    record: Record,
}

impl Found {
    fn is(&self, kind: FileType) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == kind
    }
}

/// Of whoever is not root.
struct Asking<'a> {
    answering: &'a Answering,
    target: &'a Target<'a>,
    who: &'a Credentials,
}

impl Answering {
    /// An error where the kernel would give one to the user that the caller appears to be.
    pub(super) fn refuse(&self, target: &Target<'_>, call: &Call) -> Result<()> {
        let Some(asked) = Asked::by(call) else {
            return Ok(());
        };
        let who = self.credentials(target)?;
        if who.users.files == 0 {
            return Ok(());
        }
        let asking = Asking {
            answering: self,
            target,
            who,
        };
        asking.check(asked)
    }
}

impl Asking<'_> {
    fn check(&self, asked: Asked) -> Result<()> {
        match asked {
            Asked::Look(place, flags) => self.look(place, flags).map(drop),
            Asked::Remove((directory, path)) => {
                self.entry(&name(self.target, directory, path)?, false)
            }
            Asked::Move(from, to) => {
                let (from, to) = (
                    name(self.target, from.0, from.1)?,
                    name(self.target, to.0, to.1)?,
                );
                self.entry(&from, false)?;
                self.entry(&to, true)
            }
            Asked::Link(from, to, flags) => {
                let from = self.look(from, flags)?;
                let to = name(self.target, to.0, to.1)?;
                if self.target.node(&to, false).is_ok() {
                    return Ok(());
                }
                if let Some(from) = from
                    && !self.may_link(&from)
                {
                    return Err(Errno::PERM);
                }
                self.entry(&to, true)
            }
            Asked::Own(place, flags) => self.look(place, flags)?.map_or(Ok(()), |it| self.own(&it)),
            Asked::OwnOpen(number) => self
                .find(&fd(number))
                .map_or(Ok(()), |(found, _)| self.own(&found)),
            Asked::Write(place, flags) => match self.look(place, flags)? {
                Some(found) => self.may(WRITE, &found),
                None => Ok(()),
            },
            Asked::Attribute(place, flags, name) => match self.look(place, flags)? {
                Some(found) => self.attribute(&found, name),
                None => Ok(()),
            },
            Asked::AttributeOpen(number, name) => self
                .find(&fd(number))
                .map_or(Ok(()), |(found, _)| self.attribute(&found, name)),
            Asked::Times(place, flags, times) => self.times(place, flags, times),
            Asked::Execute(place, flags) => match self.look(place, flags)? {
                Some(found) if found.is(FileType::RegularFile) => self.may(SEARCH, &found),
                _ => Ok(()),
            },
            Asked::Enter(path) => match self.look((libc::AT_FDCWD, path), 0)? {
                Some(found) if found.is(FileType::Directory) => self.may(SEARCH, &found),
                _ => Ok(()),
            },
        }
    }

    fn may(&self, wanted: u32, found: &Found) -> Result<()> {
        let Found { node, stat, record } = found;
        let may = is_unknown(stat, *record) || may(self.who, wanted, node, stat, *record);
        may.then_some(()).ok_or(Errno::ACCESS)
    }

    fn is_own(&self, found: &Found) -> bool {
        self.who.users.files == found.record.uid
    }

    /// Whose anything else is, not everything is known of: terminals, pipes without a name, sockets in memory.
    fn own(&self, found: &Found) -> Result<()> {
        let is_kept = found.stat.st_nlink > 0
            && (found.is(FileType::RegularFile) || found.is(FileType::Directory));
        (!is_kept || self.is_own(found))
            .then_some(())
            .ok_or(Errno::PERM)
    }

    /// Setting one: lists are the owner's, what is not the user's is root's.
    fn attribute(&self, found: &Found, name: u64) -> Result<()> {
        let name = self.target.string(name)?;
        let name = name.to_bytes();
        if acl::is_acl(name) {
            self.own(found)
        } else if name.starts_with(b"user.") {
            self.may(WRITE, found)
        } else {
            Err(Errno::PERM)
        }
    }

    /// As `fs.protected_hardlinks` has it nearly everywhere.
    fn may_link(&self, found: &Found) -> bool {
        let mode = found.stat.st_mode;
        let group = libc::S_ISGID | libc::S_IXGRP;
        let is_harmless =
            found.is(FileType::RegularFile) && mode & libc::S_ISUID == 0 && mode & group != group;
        self.is_own(found) || is_harmless && self.may(READ | WRITE, found).is_ok()
    }

    fn times(
        &self,
        (directory, path): Place,
        flags: i32,
        (format, times): (Format, u64),
    ) -> Result<()> {
        let found = if path == 0 {
            self.find(&fd(directory as u64)).map(|(found, _)| found)
        } else {
            self.look((directory, path), flags)?
        };
        let Some(found) = found else {
            return Ok(());
        };
        if self.is_own(&found) {
            return Ok(());
        }
        let is_now = times == 0
            || format == Format::Nanoseconds && {
                let bytes = self.target.bytes(times, 32)?;
                let nanoseconds = |at: usize| {
                    let bytes = bytes.get(at..at + 8).and_then(|it| it.try_into().ok());
                    bytes.map_or(0, i64::from_ne_bytes)
                };
                let both = [nanoseconds(8), nanoseconds(24)];
                if both == [libc::UTIME_OMIT; 2] {
                    return Ok(());
                }
                both == [libc::UTIME_NOW; 2]
            };
        if is_now {
            self.may(WRITE, &found)
        } else {
            Err(Errno::PERM)
        }
    }

    /// Whether a name may be given to something or taken away from it.
    fn entry(&self, named: &Named, makes: bool) -> Result<()> {
        let Ok((parent, last)) = self.target.parent(named) else {
            return Ok(());
        };
        self.reach(named, &parent, true)?;
        let node = node_at(&parent, &last).ok();
        if node.is_none() && !makes {
            return Ok(());
        }
        let directory = self.found(parent, None)?;
        self.may(WRITE | SEARCH, &directory)?;
        let is_sticky = directory.stat.st_mode & libc::S_ISVTX != 0;
        match node {
            Some(node) if is_sticky && !self.is_own(&directory) => {
                let found = self.found(node, Some(named))?;
                // One in memory may be anybody's.
                let is_unknown = found.is(FileType::Socket) && found.record == Record::default();
                (is_unknown || self.is_own(&found))
                    .then_some(())
                    .ok_or(Errno::PERM)
            }
            _ => Ok(()),
        }
    }

    /// What a name leads to, and whether the way there is open; nothing where the kernel is to say what is wrong.
    fn look(&self, (directory, path): Place, flags: i32) -> Result<Option<Found>> {
        let at = at(self.target, directory, path, flags)?;
        if let Some((found, named)) = self.find(&at) {
            if let Some(named) = named {
                self.reach(named, &found.node, false)?;
            }
            return Ok(Some(found));
        }
        if let Ok((parent, _)) = self.target.parent(&at.named) {
            self.reach(&at.named, &parent, true)?;
        }
        Ok(None)
    }

    fn find<'n>(&self, at: &'n At) -> Option<(Found, Option<&'n Named>)> {
        let node = self.answering.node(self.target, at).ok()?;
        let named = (!at.named.path.is_empty()).then_some(&at.named);
        Some((self.found(node, named).ok()?, named))
    }

    fn found(&self, node: OwnedFd, named: Option<&Named>) -> Result<Found> {
        let stat = rustix::fs::fstat(&node)?;
        let place = named.map(|named| (self.target, named));
        let record = self.answering.record(&node, &stat, place);
        Ok(Found { node, stat, record })
    }

    /// Whether the directories may be searched that a name leads through, of those that its links have led to. `end` is
    /// what it leads to, or the last of them.
    fn reach(&self, named: &Named, end: &OwnedFd, is_last: bool) -> Result<()> {
        let path = named.path.to_bytes();
        if own_descriptor(path).is_some() {
            return Ok(());
        }
        let base = (!path.starts_with(b"/"))
            .then(|| path_of(&self.target.base(named).ok()?))
            .flatten();
        let Some(end) = path_of(end) else {
            return Ok(());
        };
        // What lies above where it starts is behind the caller.
        let top = base
            .as_deref()
            .and_then(|base| base.ancestors().nth(climbs(path)));
        for directory in end.ancestors().skip(usize::from(!is_last)) {
            if top.is_some_and(|top| top != directory && top.starts_with(directory)) {
                break;
            }
            let Ok(stat) = rustix::fs::stat(directory) else {
                continue;
            };
            if stat.st_mode & SEARCH != 0 {
                continue;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = rustix::fs::openat(CWD, directory, flags, Mode::empty());
            if let Ok(node) = node {
                self.may(SEARCH, &self.found(node, None)?)?;
            }
        }
        Ok(())
    }
}

/// How many directories upwards a relative path leads from where it starts.
fn climbs(path: &[u8]) -> usize {
    let (mut depth, mut least) = (0_isize, 0);
    for part in path.split(|byte| *byte == b'/') {
        depth += match part {
            b"" | b"." => 0,
            b".." => -1,
            _ => 1,
        };
        least = least.min(depth);
    }
    least.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: i64, arguments: [u64; 6]) -> Call {
        Call {
            id: 0,
            pid: 0,
            number: number as i32,
            machine: 0,
            arguments,
        }
    }

    #[test]
    fn a_path_climbs_by_its_parents() {
        for (path, expected) in [
            ("f", 0),
            ("../f", 1),
            ("a/../b", 0),
            ("./../a/../../x/..", 2),
        ] {
            assert_eq!(climbs(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn calls_are_understood_by_their_arguments() {
        let (flags, here) = (libc::AT_SYMLINK_NOFOLLOW, libc::AT_FDCWD);
        let (directory, nofollow) = (here as u64, flags as u64);
        for (number, arguments, expected) in [
            (
                libc::SYS_unlinkat,
                [3, 70, 0, 0, 0, 0],
                Some(Asked::Remove((3, 70))),
            ),
            (
                libc::SYS_renameat2,
                [directory, 70, 4, 80, 0, 0],
                Some(Asked::Move((here, 70), (4, 80))),
            ),
            (
                libc::SYS_newfstatat,
                [3, 70, 90, nofollow, 0, 0],
                Some(Asked::Look((3, 70), flags)),
            ),
            (
                libc::SYS_symlinkat,
                [60, 3, 70, 0, 0, 0],
                Some(Asked::Look((3, 70), flags)),
            ),
            (
                libc::SYS_utimensat,
                [3, 0, 50, 0, 0, 0],
                Some(Asked::Times((3, 0), 0, (Format::Nanoseconds, 50))),
            ),
            (
                libc::SYS_fsetxattr,
                [3, 60, 70, 8, 0, 0],
                Some(Asked::AttributeOpen(3, 60)),
            ),
            (
                libc::SYS_lremovexattr,
                [70, 60, 0, 0, 0, 0],
                Some(Asked::Attribute((here, 70), flags, 60)),
            ),
            (libc::SYS_getuid, [0; 6], None),
            (libc::SYS_fstat, [3, 90, 0, 0, 0, 0], None),
        ] {
            assert_eq!(Asked::by(&call(number, arguments)), expected, "{number}");
        }
    }
}
