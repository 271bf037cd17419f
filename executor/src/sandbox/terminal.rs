//! The inner side of a command's terminal: a pair made from the sandbox's own devpts, by descriptors only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::in_root;
use super::mounts;
use super::step::{Result, Step};

/// Both ends, in the sandbox's first process.
pub(super) struct Inside {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Opens a pair and makes it /dev/console too.
pub(super) fn open_inside(
    root: BorrowedFd<'_>,
    size: (u16, u16),
    owner: Option<u32>,
) -> Result<Inside> {
    let pair = open_pair(root, size, owner)?;
    let step = "bind /dev/console";
    let dev =
        in_root::open(root, Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY).step(step)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(rustix::fs::openat(&dev, "console", flags, Mode::from_raw_mode(0o600)).step(step)?);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(&dev, "console", flags, Mode::empty()).step(step)?;
    let tree = mounts::copy(pair.slave.as_fd(), false).step(step)?;
    mounts::attach(tree.as_fd(), target.as_fd()).step(step)?;
    Ok(pair)
}

/// Opens a pair from the devpts of `root`.
pub(super) fn open_pair(
    root: BorrowedFd<'_>,
    (rows, columns): (u16, u16),
    owner: Option<u32>,
) -> Result<Inside> {
    let step = "open a terminal";
    let master = in_root::open(
        root,
        Path::new("/dev/pts/ptmx"),
        OFlags::RDWR | OFlags::NOCTTY,
    )
    .step(step)?;
    rustix::pty::unlockpt(&master).step(step)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
    .step(step)?;
    if let Some(owner) = owner {
        rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(owner)), None).step(step)?;
    }
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&slave, size).step("set the size of the terminal")?;
    Ok(Inside { master, slave })
}
