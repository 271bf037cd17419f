//! `bpf(2)`, as far as programs go that say which devices a cgroup's processes may use.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// What those above say holds as well.
const ALLOW_MULTI: u32 = 2;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// The register that is written to, and from the fifth bit on the one that is read.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the others for zero.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// Likewise for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Has a program decide which devices the processes of a cgroup of version 2 may use, for as long as that is there.
pub(crate) fn guard(cgroup: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    const LICENSE: &CStr = c"Apache-2.0";
    let count = u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the structure, the instructions and the license outlive the call, which only reads them. No log is asked
    // for. Whatever the program says, the kernel verifies it before it takes it.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    let Ok(program) = i32::try_from(result) else {
        return Err(io::Error::from_raw_os_error(libc::EOVERFLOW));
    };
    if program < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made a descriptor that nobody else owns.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let attach = Attach {
        target: cgroup.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure outlives the call, which only reads it; both descriptors are open.
    super::check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attach,
            size_of::<Attach>(),
        )
    })
}
