//! A process that stays with a command which has no pid namespace of its own, and sees to it that nothing is left of it:
//! what the command starts and leaves is this process's child in the end.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::mounts::{self, NO_DEV, NO_EXEC, NO_SUID};
use super::step::{Result, Step};
use crate::proc_stat::ProcStat;
use crate::sys::{self, Forked};

/// Ends the command and all that it started.
pub(super) const END: Signal = Signal::POWER;

/// Returns in the child, which goes on to become the command; the caller stays behind, in all of its namespaces, until
/// nothing of it is left.
pub(super) fn stay_behind() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(END))
        .step("tie the command's life to the builder's")?;
    sys::become_reaper().step("become the parent of what the command leaves")?;
    let proc = processes().step("find the processes that it shares")?;
    sys::block_signals().step("wait for signals")?;
    match sys::fork().step("start the command")? {
        Forked::Child => {
            sys::reset_signals().step("reset signals")?;
            rustix::process::setsid().step("make a session")?;
            super::child::die_with_parent()
        }
        Forked::Parent(child) => stay(child, &proc),
    }
}

/// A /proc in which numbers are those of this process's namespace: only root of that may make one, and who is not is
/// in the machine's.
fn processes() -> rustix::io::Result<OwnedFd> {
    mounts::make("proc", &[], NO_SUID | NO_DEV | NO_EXEC).or_else(|_| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, "/proc", flags, Mode::empty())
    })
}

fn stay(child: Pid, proc: &OwnedFd) -> ! {
    let _ = rustix::thread::set_name(c"rbuild-keeper");
    // The report's end is seen when no copy is left. Below lies nothing of the command's: it has not got its streams yet.
    let number = std::os::fd::AsRawFd::as_raw_fd(proc);
    let _ = sys::close_between(3, number - 1);
    let _ = sys::close_from(number + 1);
    let status = attend(child);
    end_all(proc);
    end_as(status)
}

/// Kills its children until it has none; whatever those leave become its children, too.
fn end_all(proc: &OwnedFd) {
    let this = rustix::process::getpid();
    bury_all(|| {
        // Nobody else waits for them, so that a number is still theirs.
        for child in children(proc, this).unwrap_or_default() {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
    });
}

/// Kills and waits, again and again, until this process has no children.
pub(super) fn bury_all(kill: impl Fn()) {
    loop {
        kill();
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        // Those that were killed are still dying, and what they leave becomes a child of this process.
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
}

fn children(proc: &OwnedFd, of: Pid) -> rustix::io::Result<Vec<Pid>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let all = rustix::fs::openat(proc, ".", flags, Mode::empty())?;
    let mut children = Vec::new();
    for entry in rustix::fs::Dir::new(all)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .ok()
            .and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else {
            continue;
        };
        if parent(proc, pid) == Some(of) {
            children.push(pid);
        }
    }
    Ok(children)
}

fn parent(proc: &OwnedFd, pid: Pid) -> Option<Pid> {
    let pid = pid.as_raw_nonzero().get().cast_unsigned();
    Pid::from_raw(
        ProcStat::within(proc.as_fd(), pid)
            .ok()?
            .parent()?
            .cast_signed(),
    )
}

/// Until the command ends, or is to end: then `None`.
pub(super) fn attend(child: Pid) -> Option<WaitStatus> {
    loop {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let is_over = status.exited() || status.signaled();
            if pid == child && is_over {
                return Some(status);
            }
        }
        let signal = sys::wait_for_signal();
        if signal == END.as_raw() {
            return None;
        }
        if signal != libc::SIGCHLD
            && let Some(signal) = sys::signal(signal)
        {
            let _ = rustix::process::kill_process(child, signal);
        }
    }
}

/// Ends this process as the command ended.
pub(super) fn end_as(status: Option<WaitStatus>) -> ! {
    match status {
        Some(status) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => sys::exit_now(code),
            (None, Some(signal)) => sys::die_by(signal),
            (None, None) => sys::exit_now(1),
        },
        None => sys::die_by(libc::SIGKILL),
    }
}
