//! The system calls that rustix lacks, each behind a safe function. The only home of `unsafe` in this crate.

#![expect(
    unsafe_code,
    reason = "raw system calls; each block argues why it is sound"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{Pid, Signal};

use crate::proc_stat::ProcStat;

pub(crate) mod caller;
pub(crate) mod devices;
pub(crate) mod landlock;
pub(crate) mod network;
pub(crate) mod notify;

/// Where a fork returned.
#[derive(Debug)]
pub(crate) enum Forked {
    /// In the parent.
    Parent(Pid),
    /// In the child.
    Child,
}

/// `fork(2)`. Must be called while the process has one thread: the child then may do whatever the parent may.
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: the callers (`host::init`, the spawner and its children) run while their process has one thread, so
    // no lock can be held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid)
            .map(Forked::Parent)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// Puts `name` in the place of the command line that `/proc` shows of this process and of those it forks: a container's
/// first process may be one, and what rbuild was told is nobody's there. Must be called while the process has one thread.
pub(crate) fn replace_command_line(name: &CStr) -> io::Result<()> {
    const ARGUMENTS: usize = 48;
    let stat = ProcStat::own()?;
    let ends: [Option<usize>; 2] = [ARGUMENTS, ARGUMENTS + 1].map(|field| stat.number(field));
    let [Some(start), Some(end)] = ends else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let name = name.to_bytes_with_nul();
    if start == 0 || end.saturating_sub(start) < name.len() {
        return Ok(());
    }
    // SAFETY: the kernel put the strings of the arguments, and nothing else, from `start` to `end` on the stack of this
    // process, which it may write to. Nobody holds a reference into them (`std::env::args` copies), no other thread
    // reads them, and what is read of them later still ends where it did, in a zero.
    unsafe {
        let arguments = std::ptr::with_exposed_provenance_mut::<u8>(start);
        std::ptr::write_bytes(arguments, 0, end - start);
        std::ptr::copy_nonoverlapping(name.as_ptr(), arguments, name.len());
    }
    Ok(())
}

/// What `clone3` gave.
#[derive(Debug)]
pub(crate) enum Cloned {
    /// In the caller, with the child's pidfd.
    Parent(OwnedFd),
    Child,
}

/// `clone3(2)` without a new stack, with `CLONE_PIDFD | CLONE_PARENT` and `flags`: a fork into new namespaces
/// whose child belongs to the caller's parent.
pub(crate) fn clone3_for_parent(flags: u64) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: an all-zero `clone_args` is a valid value of it.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags | (libc::CLONE_PIDFD | libc::CLONE_PARENT) as u64;
    arguments.pidfd = (&raw mut pidfd) as u64;
    // SAFETY: no CLONE_VM, so the child has its own copy of the memory and may go on on the copied stack; the
    // spawner has one thread. `arguments` and `pidfd` live across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match result {
        // Filters of containers pretend that the call does not exist, for they cannot see its flags.
        -1 if io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) => {
            clone_for_parent(flags)
        }
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel stored a new descriptor that nobody else owns.
        _ => Ok(Cloned::Parent(unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// As [`clone3_for_parent`], by the call that was there before.
fn clone_for_parent(flags: u64) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    let flags = flags | (libc::CLONE_PIDFD | libc::CLONE_PARENT | libc::SIGCHLD) as u64;
    // SAFETY: as above: no CLONE_VM and no stack. The third argument is where the pidfd is stored; the last two are not
    // looked at with these flags.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel stored a new descriptor that nobody else owns.
        _ => Ok(Cloned::Parent(unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Has this process be the parent of all that its children leave behind.
pub(crate) fn become_reaper() -> io::Result<()> {
    // SAFETY: numbers only.
    check(i64::from(unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    }))
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers only; nothing is closed.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
}

/// Closes every descriptor from `first` on. Only for processes that are about to end and own none of them as objects.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: called in a fresh child for descriptors that belonged to the parent's objects, which the child
    // never uses again.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            libc::c_uint::MAX,
            0,
        )
    })
}

/// Closes every descriptor from `first` to `last`. As [`close_from`], for a process that keeps some.
pub(crate) fn close_between(first: RawFd, last: RawFd) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: called in a fresh child for descriptors that belonged to the parent's objects, which the child never uses
    // again.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            last as libc::c_uint,
            0,
        )
    })
}

/// Signals every process that this one may signal, but itself. Only for one that a Landlock domain keeps from others.
pub(crate) fn signal_all(signal: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(i64::from(unsafe { libc::kill(-1, signal) }))
}

/// Ends this process as a signal would have done it.
pub(crate) fn die_by(signal: i32) -> ! {
    // SAFETY: numbers, and a set that is initialised before it is used; the default action is no code.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::raise(signal);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
    // It was one that does not end processes.
    exit_now(128 + signal)
}

/// Mount attributes (`MOUNT_ATTR_*`) to set on what `fd` stands for, and its propagation (`MS_*`); 0 leaves that.
pub(crate) fn mount_setattr(
    fd: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    propagation: u64,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation,
        userns_fd: 0,
    };
    set_mount_attributes(fd, recursive, &attributes)
}

/// Takes mount attributes away from what `fd` stands for.
pub(crate) fn mount_clearattr(fd: BorrowedFd<'_>, clear: u64) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: clear,
        propagation: 0,
        userns_fd: 0,
    };
    set_mount_attributes(fd, false, &attributes)
}

/// Has everything below `fd`, a detached mount, belong to the ids of a user namespace.
pub(crate) fn map_mount(fd: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd() as u64,
    };
    set_mount_attributes(fd, true, &attributes)
}

fn set_mount_attributes(
    fd: BorrowedFd<'_>,
    recursive: bool,
    attributes: &libc::mount_attr,
) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a static empty string and the structure outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    })
}

/// `unshare(2)` of namespaces or the working directory; never of the descriptor table.
pub(crate) fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    let flags = flags.difference(rustix::thread::UnshareFlags::FILES);
    // SAFETY: FILES, the one flag that breaks Rust's ownership of descriptors, was taken out.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Has this thread reach and make files as somebody else; it loses the capabilities that are about files.
pub(crate) fn set_file_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: numbers only, and of this thread only. Who they were is returned; -1 changes nothing.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        (
            libc::syscall(libc::SYS_setfsuid, u32::MAX) as u32,
            libc::syscall(libc::SYS_setfsgid, u32::MAX) as u32,
        )
    };
    if now == (uid, gid) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}

/// `setns(2)`: into namespaces of the process that a pidfd stands for, or into the one that `fd` is.
pub(crate) fn join_namespaces(fd: BorrowedFd<'_>, kinds: libc::c_int) -> io::Result<()> {
    // SAFETY: numbers only; namespaces are no memory. File descriptors are not among what can be joined.
    check(i64::from(unsafe { libc::setns(fd.as_raw_fd(), kinds) }))
}

/// The number of the process that a pidfd stands for. Errors: `ESRCH` when it was waited for.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<u32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    std::fs::read_to_string(path)?
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// Gives every signal its default action and blocks none: ignored signals would survive an exec.
pub(crate) fn reset_signals() -> io::Result<()> {
    // Handler, flags, restorer and mask as the kernel has them: all zero is SIG_DFL. The C library would leave out
    // the two signals that it uses itself.
    let default = [0_u64; 4];
    for signal in (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        // SAFETY: the structure outlives the call and installs no code; the mask has 8 bytes.
        check(unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8,
            )
        })?;
    }
    // SAFETY: an empty set is initialised by sigemptyset before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        check(i64::from(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const set,
            std::ptr::null_mut(),
        )))
    }
}

/// A signal by its number, also those that have none but that. The two that the C library keeps for itself are not among
/// them.
pub fn signal(number: i32) -> Option<Signal> {
    match number {
        // SAFETY: 34 to 64 are the kernel's real-time signals that no C library uses.
        34..=64 => Some(unsafe { Signal::from_raw_unchecked(number) }),
        _ => Signal::from_named_raw(number),
    }
}

/// Blocks every signal, so that [`wait_for_signal`] gets them.
pub(crate) fn block_signals() -> io::Result<()> {
    // SAFETY: the set is initialised by sigfillset before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        check(i64::from(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const set,
            std::ptr::null_mut(),
        )))
    }
}

/// The next of the blocked signals.
pub(crate) fn wait_for_signal() -> i32 {
    // SAFETY: the set is initialised before it is used; no information structure is asked for.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigwaitinfo(&raw const set, std::ptr::null_mut())
    }
}

/// A fresh session keyring, so that keys of the caller are out of reach.
pub(crate) fn join_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    })
}

/// Takes a capability out of the bounding set.
pub(crate) fn drop_bounding(capability: u32) -> io::Result<()> {
    // SAFETY: numbers only.
    check(i64::from(unsafe {
        libc::prctl(
            libc::PR_CAPBSET_DROP,
            libc::c_ulong::from(capability),
            0,
            0,
            0,
        )
    }))
}

/// `execve(2)`: returns only when it failed.
pub(crate) fn execve(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|entry| entry.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer and the strings outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Lets the runtime watch a descriptor for something to read.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open and owned; nobody replaces or closes it before it is dropped with the watch.
    unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }
        .map_err(|error| error.into_parts().1)
}

/// Gives a program of the host the usual umask, and has the kernel end it together with the thread that starts it.
pub(crate) fn accompany(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    let prepare = || {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        Ok(())
    };
    // SAFETY: between fork and exec this makes two system calls; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

/// Ends this process at once, without running anything that was registered for its end.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

fn check(result: i64) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
