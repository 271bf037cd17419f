//! A user namespace within the one that a process is in, with the same ids: for what the kernel decides by user
//! namespaces, while everybody stays who he was.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit, WaitOptions, getrlimit, setrlimit};
use rustix::thread::UnshareFlags;

use crate::sys::{self, Forked};

/// Moves this process, which has one thread, into one. `further` namespaces come to belong to it. With `most`, it
/// never holds more processes and threads than that, this one among them, whosever they are: see [`super::counted`].
pub(super) fn enter(further: UnshareFlags, most: Option<u64>) -> io::Result<()> {
    let users = identity("/proc/self/uid_map")?;
    let groups = identity("/proc/self/gid_map")?;
    // By a descriptor, for its number below this /proc may be another one.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let this = rustix::fs::openat(CWD, "/proc/self", flags, Mode::empty())?;
    let (go_read, go_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let helper = match sys::fork()? {
        Forked::Parent(helper) => helper,
        Forked::Child => {
            drop(go_write);
            sys::exit_now(map(&this, &go_read, &users, &groups));
        }
    };
    drop(go_read);
    // Files in /proc of a process that is not dumpable are nobody's here. Nobody can look meanwhile: commands are in
    // pid namespaces, or in user namespaces of their own.
    let unshared = unshare(UnshareFlags::NEWUSER | further, most).and_then(|()| {
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        rustix::io::write(&go_write, b"1")?;
        Ok(())
    });
    drop(go_write);
    let ended = exit_of(helper)?;
    unshared?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    match ended {
        Some(0) => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO))),
    }
}

/// What a user namespace may have of processes altogether is what its maker may have when it is made.
fn unshare(namespaces: UnshareFlags, most: Option<u64>) -> io::Result<()> {
    let Some(most) = most else {
        return sys::unshare(namespaces);
    };
    let was = getrlimit(Resource::Nproc);
    let least = was.maximum.map_or(most, |maximum| most.min(maximum));
    let limit = |current| Rlimit {
        current,
        maximum: was.maximum,
    };
    setrlimit(Resource::Nproc, limit(Some(least)))?;
    let unshared = sys::unshare(namespaces);
    setrlimit(Resource::Nproc, limit(was.current))?;
    unshared
}

/// Whether the kernel holds a user namespace to a number of processes that its maker had for a limit. It does since
/// Linux 5.14, and not where the maker is the machine's root under whatever name. Tried: a namespace for two is full with
/// its maker and this process.
pub(super) fn are_counted() -> io::Result<bool> {
    const NOT_COUNTED: i32 = 1;
    const FAILED: i32 = 2;
    let trial = match sys::fork()? {
        Forked::Parent(trial) => trial,
        Forked::Child => sys::exit_now(match unshare(UnshareFlags::NEWUSER, Some(2)) {
            Err(_) => FAILED,
            Ok(()) => match sys::fork() {
                Ok(Forked::Child) => 0,
                Ok(Forked::Parent(child)) => {
                    // There could be one: that is the answer, however it ended.
                    let _ = exit_of(child);
                    NOT_COUNTED
                }
                Err(_) => 0,
            },
        }),
    };
    match exit_of(trial)? {
        Some(0) => Ok(true),
        Some(NOT_COUNTED) => Ok(false),
        _ => Err(io::Error::other("a user namespace could not be made")),
    }
}

fn exit_of(child: rustix::process::Pid) -> io::Result<Option<i32>> {
    loop {
        match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            ended => return Ok(ended?.and_then(|(_, status)| status.exit_status())),
        }
    }
}

/// In the helper, which stays outside: zero or what went wrong.
fn map(process: &OwnedFd, go: &OwnedFd, users: &str, groups: &str) -> i32 {
    let mut byte = [0];
    if !matches!(rustix::io::read(go, &mut byte), Ok(1)) {
        return libc::EPIPE;
    }
    for (file, map) in [("uid_map", users), ("gid_map", groups)] {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let written = rustix::fs::openat(process.as_fd(), file, flags, Mode::empty())
            .and_then(|file| rustix::io::write(&file, map.as_bytes()));
        if let Err(errno) = written {
            return errno.raw_os_error();
        }
    }
    0
}

/// What maps every id of a user namespace to itself, by its map.
pub(super) fn identity(map: &str) -> io::Result<String> {
    Ok(identity_of(&std::fs::read_to_string(map)?))
}

fn identity_of(map: &str) -> String {
    let extents = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace();
        let (first, count) = (numbers.next()?, numbers.nth(1)?);
        Some(format!("{first} {first} {count}\n"))
    });
    extents.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_ids_becomes_one_to_themselves() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(identity_of(map), "0 0 1\n1 1 65536\n");
    }
}
