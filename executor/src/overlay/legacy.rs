//! Overlay through `mount(2)`, for kernels before 6.5: one page of options for all layers, so that their names must
//! be short. A thread of its own, with its own mount namespace and working directory, makes the mount, clones it
//! detached and ends; nobody else ever sees it.

use std::fmt::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags};
use rustix::thread::UnshareFlags;

use super::Durability;
use super::mount::{Layers, OPTIONS};

/// What a mount takes as options, with its final zero.
const OPTION_PAGE: usize = 4096;

pub(super) fn mount(layers: &Layers) -> Result<OwnedFd, Errno> {
    let options = options(layers)?;
    let read_only = layers.top.is_none();
    std::thread::scope(|scope| {
        scope
            .spawn(|| mount_here(&options, read_only))
            .join()
            .unwrap_or(Err(Errno::IO))
    })
}

/// Layers by their descriptors' numbers, relative to `/proc/self/fd`.
fn options(layers: &Layers) -> Result<std::ffi::CString, Errno> {
    let mut text = String::from("lowerdir=");
    for (index, lower) in layers.lowers.iter().enumerate() {
        let separator = if index == 0 { "" } else { ":" };
        let _ = write!(text, "{separator}{}", lower.as_raw_fd());
    }
    if let Some((upper, work, sync)) = &layers.top {
        let (upper, work) = (upper.as_raw_fd(), work.as_raw_fd());
        let _ = write!(text, ",upperdir={upper},workdir={work}");
        if *sync == Durability::Never {
            text.push_str(",volatile");
        }
    }
    for (key, value) in OPTIONS {
        match value {
            Some(value) => {
                let _ = write!(text, ",{key}={value}");
            }
            None => {
                let _ = write!(text, ",{key}");
            }
        }
    }
    if text.len() >= OPTION_PAGE {
        return Err(Errno::TOOBIG);
    }
    std::ffi::CString::new(text).map_err(|_| Errno::INVAL)
}

fn mount_here(options: &std::ffi::CStr, read_only: bool) -> Result<OwnedFd, Errno> {
    crate::sys::unshare(UnshareFlags::FS | UnshareFlags::NEWNS)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    rustix::process::chdir("/proc/thread-self/fd")?;
    let mut flags = MountFlags::NODEV;
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    rustix::mount::mount("overlay", "/", "overlay", flags, options)?;
    // `/` still names the root below; the topmost mount on it is reached through `/..`.
    rustix::mount::open_tree(
        rustix::fs::CWD,
        "/..",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
}
