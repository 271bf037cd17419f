//! The process behind a call: its memory and its part of /proc, looked at with this process's rights or, where the
//! kernel has those for nobody but the process's own user, as that user.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::nodes;
use crate::emulation::string_at;
use crate::mapped::FileIds;
use crate::proc_stat::ProcStat;
use crate::sys;

pub(super) struct Caller<'a> {
    /// Of the thread.
    pub(super) pid: u32,
    pub(super) listener: BorrowedFd<'a>,
    pub(super) call: u64,
}

impl Caller<'_> {
    /// Does something as the caller where it may not be done as root of the container, which has no capability to look
    /// into others' processes.
    fn as_it<T>(&self, work: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        match work() {
            Err(Errno::ACCESS | Errno::PERM) => {}
            result => return result,
        }
        let (uid, gid) = self.owner()?;
        if (uid, gid) == (0, 0) {
            return Err(Errno::ACCESS);
        }
        let _ids = FileIds::take_with((uid, gid), CapabilitySet::empty())?;
        work()
    }

    fn status(&self) -> Result<String, Errno> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        text.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    fn owner(&self) -> Result<(u32, u32), Errno> {
        let status = self.status()?;
        let fourth = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(3)?.parse().ok()
        };
        fourth("Uid:").zip(fourth("Gid:")).ok_or(Errno::IO)
    }

    /// User, group and mask of what it makes.
    pub(super) fn making(&self) -> Result<(u32, u32, u32), Errno> {
        let (uid, gid) = self.owner()?;
        let status = self.status()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        let umask = line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok());
        Ok((uid, gid, umask.ok_or(Errno::IO)?))
    }

    /// The number of the process that the thread is of.
    pub(super) fn process(&self) -> Result<u32, Errno> {
        let status = self.status()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        line.and_then(|number| number.trim().parse().ok())
            .ok_or(Errno::IO)
    }

    /// A string of its memory.
    pub(super) fn string(&self, address: u64) -> Result<CString, Errno> {
        string_at(address, |at, length| self.bytes(at, length))
    }

    pub(super) fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        if sys::caller::read_memory(self.pid, address, &mut bytes).is_ok_and(|read| read == length)
        {
            return Ok(bytes);
        }
        let memory = std::fs::File::from(self.open_memory(OFlags::RDONLY)?);
        let read = memory.read_exact_at(&mut bytes, address);
        read.map_err(|_| Errno::FAULT)?;
        Ok(bytes)
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        // Never into a process that merely has the number now.
        if !sys::notify::is_valid(self.listener, self.call) {
            return Err(Errno::SRCH);
        }
        match sys::caller::write_memory(self.pid, address, bytes) {
            Ok(written) if written == bytes.len() => return Ok(()),
            // By the other way, pages could be written that it may only read.
            Ok(_) => return Err(Errno::FAULT),
            Err(error) if error.raw_os_error() != Some(libc::EPERM) => return Err(Errno::FAULT),
            Err(_) => {}
        }
        let memory = std::fs::File::from(self.open_memory(OFlags::RDWR)?);
        if !sys::notify::is_valid(self.listener, self.call) {
            return Err(Errno::SRCH);
        }
        let written = memory.write_all_at(bytes, address);
        written.map_err(|_| Errno::FAULT)
    }

    fn open_memory(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.open("mem", flags | OFlags::CLOEXEC)
    }

    /// Opens something of its own below /proc.
    pub(super) fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let pid = if name == "mem" {
            self.pid
        } else {
            self.process()?
        };
        let path = format!("/proc/{pid}/{name}");
        self.as_it(|| rustix::fs::openat(CWD, &path, flags, Mode::empty()))
    }

    /// Opens again what one of its descriptors stands for, if that is `allowed`: it is looked at and opened as one
    /// thing, for by its number it may be another any time.
    pub(super) fn open_again(
        &self,
        number: i32,
        allowed: impl Fn(BorrowedFd<'_>) -> Result<(), Errno>,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let path = format!("/proc/{}/fd/{number}", self.process()?);
        self.as_it(|| {
            let it = rustix::fs::openat(CWD, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            allowed(it.as_fd())?;
            nodes::open(&it, flags)
        })
    }

    /// Where a link of it below /proc leads.
    pub(super) fn link(&self, name: &str) -> Result<PathBuf, Errno> {
        let path = format!("/proc/{}/{name}", self.pid);
        let target = self.as_it(|| rustix::fs::readlink(&path, Vec::new()))?;
        Ok(PathBuf::from(std::ffi::OsStr::from_bytes(
            target.to_bytes(),
        )))
    }

    /// Opens the terminal that it has as its own.
    pub(super) fn terminal(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let number = self.terminal_number()?;
        let path = format!("/dev/pts/{number}");
        let opened = rustix::fs::open(path, flags | OFlags::NOFOLLOW, Mode::empty())?;
        // A number goes to another terminal only when nobody has the one any more.
        if self.terminal_number()? == number {
            Ok(opened)
        } else {
            Err(Errno::NXIO)
        }
    }

    fn terminal_number(&self) -> Result<u32, Errno> {
        let stat = ProcStat::of(self.process()?);
        let stat = stat.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        terminal_of(&stat).ok_or(Errno::NXIO)
    }

    pub(super) fn descriptors(&self) -> Result<Vec<u32>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = format!("/proc/{}/fd", self.pid);
        self.as_it(|| {
            let directory = rustix::fs::openat(CWD, &path, flags, Mode::empty())?;
            let mut numbers = Vec::new();
            for entry in rustix::fs::Dir::new(directory)? {
                let name = entry?;
                let name = name.file_name().to_str().ok();
                numbers.extend(name.and_then(|name| name.parse::<u32>().ok()));
            }
            Ok(numbers)
        })
    }
}

/// Which of the pseudo-terminals a process has as its own.
fn terminal_of(stat: &ProcStat) -> Option<u32> {
    // Of their first device number; the kernel has seven more.
    const PSEUDO: std::ops::RangeInclusive<u32> = 136..=143;
    const TERMINAL: usize = 7;
    let device = stat.number::<i32>(TERMINAL)?.cast_unsigned();
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    PSEUDO
        .contains(&major)
        .then(|| (major - PSEUDO.start()) << 20 | minor)
}

#[cfg(test)]
mod tests {
    use super::{ProcStat, terminal_of};

    #[test]
    fn a_terminal_is_known_by_its_number() {
        let stat = |device: i32| ProcStat::from(format!("7 (a) b) S 1 7 7 {device} 7 0"));
        assert_eq!(terminal_of(&stat(0)), None);
        assert_eq!(terminal_of(&stat(0x0500)), None);
        assert_eq!(terminal_of(&stat(136 << 8 | 3)), Some(3));
        assert_eq!(terminal_of(&stat(1 << 20 | 136 << 8)), Some(256));
    }
}
