//! Which process a container is reached by: its first one where that can be, or the one that another runtime made. And
//! which ones are its own.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::proc_stat::ProcStat;
use crate::sandbox::cgroup;

/// How long a container under another runtime may take to have a process.
const FOREIGN_BEGINS: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The container's first process below the one of ours that has another runtime make it.
#[derive(Debug)]
pub(super) enum Foreign {
    /// Told on this socket when it has begun.
    Announced(OwnedFd),
    Known(OwnedFd),
}

impl Foreign {
    /// Its number, as soon as there is one. Blocking.
    pub(super) fn pid(&mut self) -> io::Result<u32> {
        let none = || io::Error::from(rustix::io::Errno::SRCH);
        if let Self::Announced(socket) = self {
            let mut polled = [PollFd::new(&*socket, PollFlags::IN)];
            let told = loop {
                match rustix::event::poll(&mut polled, Some(&FOREIGN_BEGINS)) {
                    Err(rustix::io::Errno::INTR) => {}
                    told => break told?,
                }
            };
            if told == 0 {
                return Err(none());
            }
            let told = crate::wire::receive::<()>(socket.as_fd())?;
            *self = Self::Known(told.and_then(|(_, mut told)| told.pop()).ok_or_else(none)?);
        }
        match self {
            Self::Known(pidfd) => crate::sys::pid_of(pidfd.as_fd()),
            Self::Announced(_) => Err(none()),
        }
    }
}

/// A process of the sandbox that can be looked at and entered by. Its first one is not where that is our own init and
/// we are no root, for what it has in its memory is nobody's business: then it is a child of that.
pub(super) fn representative(pid: u32) -> io::Result<u32> {
    let can_be_seen = |pid: u32| std::fs::metadata(format!("/proc/{pid}/ns/pid"));
    let error = match can_be_seen(pid) {
        Ok(_) => return Ok(pid),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        Err(error) => return Err(error),
    };
    let processes = std::fs::read_dir("/proc")?;
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let children = numbers.filter(|other| parent_of(*other) == Some(pid));
    let seen = children.filter(|child| can_be_seen(*child).is_ok()).min();
    seen.ok_or(error)
}

/// All of its processes: `seen` is its [`representative`], `first` the one that is waited for. In its pid namespace there
/// may be those of others that share it, which somebody else has started.
pub(super) fn members(seen: u32, first: u32) -> io::Result<Vec<u32>> {
    let mut among = cgroup::processes_with(seen, "pid")?;
    let parents: HashMap<u32, u32> = among
        .iter()
        .filter_map(|pid| Some((*pid, parent_of(*pid)?)))
        .collect();
    // It was started, and is entered, by this process.
    let starters = [first, std::process::id()];
    among.retain(|pid| {
        let mut above = *pid;
        // Numbers that were given again meanwhile could lead around in a circle.
        for _ in 0..parents.len() {
            match parents.get(&above) {
                _ if above == seen => return true,
                Some(parent) if parents.contains_key(parent) => above = *parent,
                parent => return parent.is_some_and(|parent| starters.contains(parent)),
            }
        }
        false
    });
    Ok(among)
}

fn parent_of(pid: u32) -> Option<u32> {
    ProcStat::of(pid).ok()?.parent()
}

pub(in crate::sandbox) fn pidfd_of(pid: u32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed());
    let pid = pid.ok_or(rustix::io::Errno::SRCH)?;
    let flags = rustix::process::PidfdFlags::empty();
    Ok(rustix::process::pidfd_open(pid, flags)?)
}
