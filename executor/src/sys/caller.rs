//! What answering a call of another process takes: its memory, its limits, and structures as the kernel lays them out.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::process::Resource;

use super::check;

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

/// A soft limit of a process.
pub(crate) fn limit(pid: u32, resource: Resource) -> io::Result<u64> {
    // SAFETY: all-zero is valid; the call writes only that structure.
    unsafe {
        let mut limit: libc::rlimit64 = std::mem::zeroed();
        check(i64::from(libc::prlimit64(
            pid as i32,
            resource as _,
            std::ptr::null(),
            &raw mut limit,
        )))?;
        Ok(limit.rlim_cur)
    }
}

/// Sets one; the hard limit is none.
pub(crate) fn set_limit(pid: u32, resource: Resource, soft: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: libc::RLIM64_INFINITY,
    };
    // SAFETY: the structure outlives the call.
    check(i64::from(unsafe {
        libc::prlimit64(
            pid as i32,
            resource as _,
            &raw const limit,
            std::ptr::null_mut(),
        )
    }))
}

/// The process that is at the other end of a socket, or was when it connected or listened.
pub(crate) fn peer(socket: &OwnedFd) -> io::Result<u32> {
    // SAFETY: all-zero is valid; the call writes at most that structure's size into it.
    let peer = unsafe {
        let mut peer: libc::ucred = std::mem::zeroed();
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        check(i64::from(libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )))?;
        peer
    };
    match u32::try_from(peer.pid) {
        // What 0 would stand for is this process.
        Ok(pid) if pid != 0 => Ok(pid),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
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
