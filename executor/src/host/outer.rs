//! The mount namespace that this process was started in, for what has to be taken from there: mounts that are to be
//! peers of the host's. In this process's own namespace all are slaves at most.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use crate::sys;

#[derive(Debug)]
pub(crate) struct Outer {
    namespace: OwnedFd,
    /// Need not be the namespace's.
    root: OwnedFd,
}

impl Outer {
    /// Before this process goes into its own.
    pub(super) fn keep() -> io::Result<Self> {
        let open =
            |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            namespace: open("/proc/self/ns/mnt", OFlags::RDONLY)?,
            root: open("/", OFlags::PATH | OFlags::DIRECTORY)?,
        })
    }

    /// Does something there, on a thread that ends there. Only root may.
    pub(crate) fn visit<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let there = || {
            sys::unshare(UnshareFlags::FS)?;
            sys::join_namespaces(self.namespace.as_fd(), libc::CLONE_NEWNS)?;
            rustix::process::fchdir(&self.root)?;
            rustix::process::chroot(".")?;
            work()
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, there)?;
            let failed = |_| io::Error::other("the thread in the host's mount namespace panicked");
            thread.join().map_err(failed)?
        })
    }
}
