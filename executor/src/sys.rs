//! The system calls that rustix lacks, each behind a safe function. The only home of `unsafe` in this crate.

#![expect(
    unsafe_code,
    reason = "raw system calls; each block argues why it is sound"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;

pub(crate) mod landlock;

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

/// Mount attributes (`MOUNT_ATTR_*`) to set on what `fd` stands for.
pub(crate) fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, set: u64) -> io::Result<()> {
    set_mount_attributes(fd, recursive, set, 0)
}

/// Has everything below `fd`, a detached mount, belong to the ids of a user namespace.
pub(crate) fn map_mount(fd: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    set_mount_attributes(
        fd,
        true,
        libc::MOUNT_ATTR_IDMAP,
        namespace.as_raw_fd() as u64,
    )
}

fn set_mount_attributes(
    fd: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    userns_fd: u64,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd,
    };
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
            &raw const attributes,
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

/// Installs a seccomp filter for this process, with `SECCOMP_FILTER_FLAG_*`.
pub(crate) fn install_filter(
    program: &[libc::sock_filter],
    flags: libc::c_ulong,
) -> io::Result<()> {
    let length = u16::try_from(program.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "filter too long"))?;
    let mut filter = program.to_vec();
    let program = libc::sock_fprog {
        len: length,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` points to `length` instructions that live across the call; the kernel copies them.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })
}

/// Installs a seccomp filter whose notifications come from the returned descriptor.
pub(crate) fn install_filter_with_listener(program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    // Signals do not interrupt a call that is being answered (Linux 5.19).
    const WAIT_KILLABLE: libc::c_ulong = 1 << 5;
    let length = u16::try_from(program.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "filter too long"))?;
    let mut filter = program.to_vec();
    let program = libc::sock_fprog {
        len: length,
        filter: filter.as_mut_ptr(),
    };
    let install = |flags: libc::c_ulong| {
        // SAFETY: `program` points to `length` instructions that live across the call; the kernel copies them.
        unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags
                    | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
                    | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        }
    };
    let mut fd = install(WAIT_KILLABLE);
    if fd == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        fd = install(0);
    }
    check(fd)?;
    // SAFETY: the kernel made a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Whether filters can have calls answered from outside.
pub(crate) fn can_notify() -> bool {
    const ACTION_AVAILABLE: libc::c_uint = 2;
    let action = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the kernel reads one number.
    unsafe { libc::syscall(libc::SYS_seccomp, ACTION_AVAILABLE, 0, &raw const action) == 0 }
}

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) id: u64,
    /// Of the thread that made it.
    pub(crate) pid: u32,
    pub(crate) number: i32,
    /// `AUDIT_ARCH_*`: which numbers these are.
    pub(crate) machine: u32,
    pub(crate) arguments: [u64; 6],
}

#[derive(Debug)]
pub(crate) enum Reply {
    /// The kernel does what was asked for.
    Continue,
    Value(i64),
    /// An errno.
    Error(i32),
    /// A new descriptor, with `O_CLOEXEC` or nothing.
    Descriptor {
        fd: OwnedFd,
        flags: u32,
    },
}

const NOTIFY_RECEIVE: libc::c_ulong = 0xc050_2100;
const NOTIFY_SEND: libc::c_ulong = 0xc018_2101;
const NOTIFY_VALID: libc::c_ulong = 0x4008_2102;
const NOTIFY_ADD: libc::c_ulong = 0x4018_2103;
const NOTIFY_FLAGS: libc::c_ulong = 0x4008_2104;

/// Has callers woken on the processor of whoever answers, where the kernel can (Linux 6.6): half the time a call.
pub(crate) fn notify_on_same_processor(listener: BorrowedFd<'_>) {
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: takes numbers only.
    let _ = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFY_FLAGS as _, SYNC_WAKE_UP) };
}

/// Waits for the next call. ENOENT where the caller died meanwhile.
pub(crate) fn notify_receive(listener: BorrowedFd<'_>) -> io::Result<Call> {
    // SAFETY: all-zero is valid, and what the kernel wants; the ioctl writes only that structure.
    let notification = unsafe {
        let mut notification: libc::seccomp_notif = std::mem::zeroed();
        check(i64::from(libc::ioctl(
            listener.as_raw_fd(),
            NOTIFY_RECEIVE as _,
            &raw mut notification,
        )))?;
        notification
    };
    Ok(Call {
        id: notification.id,
        pid: notification.pid,
        number: notification.data.nr,
        machine: notification.data.arch,
        arguments: notification.data.args,
    })
}

pub(crate) fn notify_is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the ioctl reads the number only.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFY_VALID as _, &raw const id) == 0 }
}

/// Answers with anything but a descriptor.
pub(crate) fn notify_reply(listener: BorrowedFd<'_>, id: u64, reply: &Reply) -> io::Result<()> {
    let (val, error, flags) = match reply {
        Reply::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Reply::Value(value) => (*value, 0, 0),
        Reply::Error(errno) => (0, -errno, 0),
        Reply::Descriptor { .. } => (0, -libc::EIO, 0),
    };
    let mut response = libc::seccomp_notif_resp {
        id,
        val,
        error,
        flags,
    };
    // SAFETY: the structure outlives the call.
    check(i64::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), NOTIFY_SEND as _, &raw mut response)
    }))
}

/// Answers with a descriptor, installed in the caller.
pub(crate) fn notify_give(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    flags: u32,
) -> io::Result<()> {
    let give = |how: u32| {
        let mut request = libc::seccomp_notif_addfd {
            id,
            flags: how,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: flags,
        };
        // SAFETY: the structure outlives the call.
        unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFY_ADD as _, &raw mut request) }
    };
    if give(libc::SECCOMP_ADDFD_FLAG_SEND as u32) >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EINVAL) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        return notify_reply(listener, id, &Reply::Error(errno));
    }
    // Linux before 5.14 does it in two steps.
    let number = give(0);
    let reply = if number >= 0 {
        Reply::Value(i64::from(number))
    } else {
        Reply::Error(
            io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        )
    };
    notify_reply(listener, id, &reply)
}

/// Reads another process's memory; returns how much could be read.
pub(crate) fn read_memory(pid: u32, address: u64, into: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: into.len(),
    };
    // SAFETY: the kernel writes at most `into.len()` bytes to `into`; the other address is the other process's.
    let count =
        unsafe { libc::process_vm_readv(pid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Writes into another process's memory; returns how much could be written.
pub(crate) fn write_memory(pid: u32, address: u64, bytes: &[u8]) -> io::Result<usize> {
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: bytes.len(),
    };
    // SAFETY: the kernel only reads from `bytes`; the other address is the other process's.
    let count = unsafe {
        libc::process_vm_writev(pid as i32, &raw const local, 1, &raw const remote, 1, 0)
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// The soft limit of a process on file locks, which the kernel has not looked at since Linux 2.4.
pub(crate) fn unused_limit(pid: u32) -> io::Result<u64> {
    // SAFETY: all-zero is valid; the call writes only that structure.
    unsafe {
        let mut limit: libc::rlimit64 = std::mem::zeroed();
        check(i64::from(libc::prlimit64(
            pid as i32,
            libc::RLIMIT_LOCKS,
            std::ptr::null(),
            &raw mut limit,
        )))?;
        Ok(limit.rlim_cur)
    }
}

pub(crate) fn set_unused_limit(pid: u32, soft: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: libc::RLIM64_INFINITY,
    };
    // SAFETY: the structure outlives the call.
    check(i64::from(unsafe {
        libc::prlimit64(
            pid as i32,
            libc::RLIMIT_LOCKS,
            &raw const limit,
            std::ptr::null_mut(),
        )
    }))
}

/// `makedev` as the kernel's `mknod` takes it, in the C library's terms.
pub(crate) fn device_number(device: u64) -> u64 {
    let device = device as u32;
    let (major, minor) = (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xf_ff00),
    );
    libc::makedev(major, minor)
}

/// What `fstat` tells of a descriptor, as the kernel lays it out for this machine, with another owner, and as a device
/// (format of its mode, number) where one is given.
pub(crate) fn stat_with(
    fd: BorrowedFd<'_>,
    owner: (u32, u32),
    device: Option<(u32, u64)>,
) -> io::Result<Vec<u8>> {
    // SAFETY: all-zero is a valid `stat`, which the call fills; the C library's is the kernel's on both machines.
    let mut stat = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        check(i64::from(libc::fstat(fd.as_raw_fd(), &raw mut stat)))?;
        stat
    };
    (stat.st_uid, stat.st_gid) = owner;
    if let Some((format, number)) = device {
        stat.st_mode = stat.st_mode & !libc::S_IFMT | format;
        stat.st_rdev = number;
    }
    Ok(bytes_of(&stat))
}

/// As [`stat_with`], of `statx` with these flags and this mask.
pub(crate) fn statx_with(
    fd: BorrowedFd<'_>,
    (flags, mask): (i32, u32),
    owner: (u32, u32),
    device: Option<(u32, u64)>,
) -> io::Result<Vec<u8>> {
    // SAFETY: all-zero is a valid `statx`, which the call fills; the path is a static empty string.
    let mut stat = unsafe {
        let mut stat: libc::statx = std::mem::zeroed();
        check(i64::from(libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH,
            mask,
            &raw mut stat,
        )))?;
        stat
    };
    (stat.stx_uid, stat.stx_gid) = owner;
    if let Some((format, number)) = device {
        stat.stx_mode = stat.stx_mode & !(libc::S_IFMT as u16) | format as u16;
        stat.stx_rdev_major = libc::major(number);
        stat.stx_rdev_minor = libc::minor(number);
    }
    Ok(bytes_of(&stat))
}

/// The bytes of a structure of the kernel's.
fn bytes_of<T: Copy>(value: &T) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<T>()];
    // SAFETY: the structures here come zeroed from this module and are plain numbers, padding was zeroed with them;
    // both sides have this size.
    unsafe {
        std::ptr::copy_nonoverlapping(
            (&raw const *value).cast::<u8>(),
            bytes.as_mut_ptr(),
            bytes.len(),
        );
    };
    bytes
}

/// Brings `lo` up in the network namespace of this thread.
pub(crate) fn loopback_up() -> io::Result<()> {
    interface_up("lo")
}

/// Runs an ioctl on an interface of this thread's network namespace.
fn interface_call(
    name: &str,
    request: libc::c_ulong,
    fill: impl FnOnce(&mut libc::ifreq),
) -> io::Result<libc::ifreq> {
    // SAFETY: plain socket(2); the number is checked before it is owned.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(i64::from(fd))?;
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: all-zero is a valid `ifreq`; the ioctl reads and writes only that structure, and what `fill` makes it
    // point to.
    unsafe {
        let mut call: libc::ifreq = std::mem::zeroed();
        // The last byte stays zero.
        let most = call.ifr_name.len() - 1;
        for (to, from) in call.ifr_name.iter_mut().take(most).zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        fill(&mut call);
        check(i64::from(libc::ioctl(
            socket.as_raw_fd(),
            request as _,
            &raw mut call,
        )))?;
        Ok(call)
    }
}

pub(crate) fn interface_up(name: &str) -> io::Result<()> {
    interface_call(name, libc::SIOCSIFFLAGS as _, |call| {
        call.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    })
    .map(drop)
}

/// Has the kernel compute checksums before packets leave the interface.
pub(crate) fn interface_checksums_off(name: &str) -> io::Result<()> {
    const ETHTOOL_SET_TX_CHECKSUMS: u32 = 0x17;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    // `struct ethtool_value`.
    let mut value: [u32; 2] = [ETHTOOL_SET_TX_CHECKSUMS, 0];
    interface_call(name, SIOCETHTOOL, |call| {
        call.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    })
    .map(drop)
}

pub(crate) fn interface_address(
    name: &str,
    address: std::net::Ipv4Addr,
    prefix_bits: u8,
) -> io::Result<()> {
    interface_call(name, libc::SIOCSIFADDR as _, |call| {
        call.ifr_ifru.ifru_addr = inet(address);
    })?;
    let mask = u32::MAX
        .checked_shl(32 - u32::from(prefix_bits))
        .unwrap_or(0);
    interface_call(name, libc::SIOCSIFNETMASK as _, |call| {
        call.ifr_ifru.ifru_netmask = inet(mask.into());
    })
    .map(drop)
}

fn inet(address: std::net::Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(address.octets()),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain numbers of 16 bytes; the family says which it is.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
}

pub(crate) fn default_route(gateway: std::net::Ipv4Addr) -> io::Result<()> {
    const UP_AND_GATEWAY: libc::c_ushort = 1 | 2;
    // SAFETY: plain socket(2); the number is checked before it is owned. All-zero is a valid `rtentry`, which the
    // ioctl only reads.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(i64::from(fd))?;
        let socket = OwnedFd::from_raw_fd(fd);
        let mut route: libc::rtentry = std::mem::zeroed();
        route.rt_dst = inet(std::net::Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = inet(std::net::Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = inet(gateway);
        route.rt_flags = UP_AND_GATEWAY;
        check(i64::from(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCADDRT as _,
            &raw const route,
        )))
    }
}

/// A socket that has every frame of an interface, without waiting.
pub(crate) fn packet_socket(name: &str) -> io::Result<OwnedFd> {
    let found = interface_call(name, libc::SIOCGIFINDEX as _, |_| {})?;
    // SAFETY: the call stored the index in this member.
    let index = unsafe { found.ifr_ifru.ifru_ifindex };
    let all = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: plain socket(2) and bind(2); the number is checked before it is owned, the address is whole and
    // outlives the call.
    unsafe {
        // Without a protocol nothing arrives before it is bound to the one interface.
        let fd = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        );
        check(i64::from(fd))?;
        let socket = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = index;
        check(i64::from(libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )))?;
        // What this socket sends is not to come back to it (Linux 4.20).
        let one: libc::c_int = 1;
        check(i64::from(libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )))?;
        let size: libc::c_int = 4 << 20;
        // As much as the system allows.
        let _ = libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
        Ok(socket)
    }
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
