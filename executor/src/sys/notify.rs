//! Seccomp: filters, and answering the calls that a filter hands out.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use super::check;

/// A filter as the kernel takes it; it points to `filter`.
fn described(filter: &mut [libc::sock_filter]) -> io::Result<libc::sock_fprog> {
    let length = u16::try_from(filter.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "filter too long"))?;
    Ok(libc::sock_fprog {
        len: length,
        filter: filter.as_mut_ptr(),
    })
}

/// Installs a seccomp filter for this process, with `SECCOMP_FILTER_FLAG_*`.
pub(crate) fn install_filter(
    program: &[libc::sock_filter],
    flags: libc::c_ulong,
) -> io::Result<()> {
    let mut filter = program.to_vec();
    let program = described(&mut filter)?;
    // SAFETY: `program` points to `filter`, all of it, which lives across the call; the kernel copies them.
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
pub(crate) fn install_with_listener(program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    // Signals do not interrupt a call that is being answered (Linux 5.19).
    const WAIT_KILLABLE: libc::c_ulong = 1 << 5;
    let mut filter = program.to_vec();
    let program = described(&mut filter)?;
    let install = |flags: libc::c_ulong| {
        // SAFETY: `program` points to `filter`, all of it, which lives across the call; the kernel copies them.
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
pub(crate) fn on_same_processor(listener: BorrowedFd<'_>) {
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: takes numbers only.
    let _ = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFY_FLAGS as _, SYNC_WAKE_UP) };
}

/// Waits for the next call. ENOENT where the caller died meanwhile.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> io::Result<Call> {
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

pub(crate) fn is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the ioctl reads the number only.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFY_VALID as _, &raw const id) == 0 }
}

/// Answers with anything but a descriptor.
pub(crate) fn reply(listener: BorrowedFd<'_>, id: u64, reply: &Reply) -> io::Result<()> {
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
pub(crate) fn give(
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
        return reply(listener, id, &Reply::Error(errno));
    }
    // Linux before 5.14 does it in two steps.
    let number = give(0);
    let answer = if number >= 0 {
        Reply::Value(i64::from(number))
    } else {
        Reply::Error(
            io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        )
    };
    reply(listener, id, &answer)
}
