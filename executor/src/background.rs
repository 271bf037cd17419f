//! A process that goes on when the one that was started ends: how a container runs without a daemon.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use crate::sys::{self, Forked};
use crate::wire;

/// On which side of the fork this process is, with a socket to the other one.
#[derive(Debug)]
pub enum Side {
    /// Was started by the user, who waits for it.
    Front(OwnedFd),
    /// Its child, in a session of its own.
    Back(OwnedFd),
}

/// Forks. Must be called while the process has one thread, before [`crate::host::init`].
pub fn split() -> io::Result<Side> {
    let (front, back) = wire::pair()?;
    match sys::fork()? {
        Forked::Parent(_) => Ok(Side::Front(front)),
        Forked::Child => {
            drop(front);
            rustix::process::setsid()?;
            Ok(Side::Back(back))
        }
    }
}

/// Lets go of the streams and the directory of whoever started this process.
pub fn let_go() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    rustix::process::chdir("/")?;
    Ok(())
}
