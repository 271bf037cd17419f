//! Landlock: a process gives up what it does not reach through some directories, and everything of processes outside
//! of it. For good, and for all that it starts.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::check;

/// Signals to, and abstract sockets of, processes outside can be refused from this version on (Linux 6.12).
pub(crate) const SCOPES: u32 = 6;

const CREATE_RULESET_VERSION: libc::c_ulong = 1;
const RULE_PATH_BENEATH: libc::c_ulong = 1;
/// Abstract sockets, signals.
const BOTH_SCOPES: u64 = 0b11;

/// Rights about files by version: each adds bits on top.
const FILE_RIGHTS: [u32; 5] = [13, 14, 15, 15, 16];

#[repr(C)]
struct RulesetAttributes {
    files: u64,
    network: u64,
    scopes: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// What this kernel has: a number that counts up, or why it has nothing.
pub(crate) fn version() -> io::Result<u32> {
    // SAFETY: with this flag the call takes no structure, and returns a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    check(version)?;
    Ok(version as u32)
}

/// `size`: how much of it this kernel knows.
fn create(attributes: &RulesetAttributes, size: usize) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size` bytes of a structure that is at least as long.
    let ruleset = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::from_ref(attributes),
            size.min(size_of::<RulesetAttributes>()),
            0_u64,
        )
    };
    check(ruleset)?;
    // SAFETY: the kernel made a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(ruleset as i32) })
}

/// Rules by which this process and its children reach files below `root` only. They need to have given up new
/// privileges when they begin to hold.
pub(crate) fn below(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let version = version()?;
    let known = (version as usize).clamp(1, FILE_RIGHTS.len());
    let count = FILE_RIGHTS.get(known - 1).copied().unwrap_or(13);
    let files = (1_u64 << count) - 1;
    let attributes = RulesetAttributes {
        files,
        network: 0,
        scopes: BOTH_SCOPES,
    };
    // Older kernels refuse what they do not know.
    let size = match version {
        0..4 => 8,
        4..SCOPES => 16,
        _ => size_of::<RulesetAttributes>(),
    };
    let ruleset = create(&attributes, size)?;
    let rule = PathBeneath {
        allowed: files,
        parent: root.as_raw_fd(),
    };
    // SAFETY: the structure has the layout that this kind of rule has, and outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0_u64,
        )
    })?;
    Ok(ruleset)
}

/// From here on, the rules hold.
pub(crate) fn restrict(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u64) })
}
