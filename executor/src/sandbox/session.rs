//! A running sandbox: its pidfd, its end. Dropping it kills it and waits until the kernel has taken everything down.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::spec::Exit;

/// Owns a sandbox's first process.
#[derive(Debug)]
#[must_use = "dropping it kills the sandbox"]
pub(super) struct Session {
    pidfd: Arc<OwnedFd>,
    /// What ends it.
    end: Signal,
    ended: bool,
}

impl Session {
    pub(super) fn new(pidfd: OwnedFd, end: Signal) -> Self {
        Self {
            pidfd: Arc::new(pidfd),
            end,
            ended: false,
        }
    }

    /// For as long as somebody has this one.
    pub(super) fn process(&self) -> &Arc<OwnedFd> {
        &self.pidfd
    }

    pub(super) fn pidfd(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// Leaves it to somebody else.
    pub(super) fn leave(mut self) -> io::Result<OwnedFd> {
        let pidfd = self.pidfd()?;
        self.ended = true;
        Ok(pidfd)
    }

    /// The first process's death takes its whole pid namespace with it; where there is none, it sees to that itself.
    pub(super) fn kill(&self) {
        self.signal(self.end);
    }

    pub(super) fn signal(&self, signal: Signal) {
        let signal = if signal == Signal::KILL {
            self.end
        } else {
            signal
        };
        if !self.ended {
            // It may just have ended.
            let _ = rustix::process::pidfd_send_signal(&*self.pidfd, signal);
        }
    }

    /// Waits for the end. Cancel safe.
    pub(super) async fn wait(&mut self) -> io::Result<Exit> {
        let readable = crate::sys::watch(self.pidfd.try_clone()?)?;
        let _ = readable.readable().await?;
        drop(readable);
        self.reap()
    }

    /// Blocking.
    pub(super) fn reap(&mut self) -> io::Result<Exit> {
        loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
            {
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(status) => {
                    self.ended = true;
                    let status = status.ok_or_else(|| io::Error::other("no status"))?;
                    return Ok(match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Exit::Code(code as u8),
                        (None, Some(signal)) => Exit::Signal(signal),
                        (None, None) => Exit::Signal(0),
                    });
                }
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            let _ = self.reap();
        }
    }
}
