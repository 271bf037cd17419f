//! The way to a spawner, and a process that it made ahead: one that has the namespaces of a sandbox, /proc and /dev, and
//! waits for its task. A command that is begun then finds half of its sandbox made, while its root was put together or
//! the command before it ran.
//!
//! Such a process knows nothing of any command, and holds nothing but the socket that its task comes through. It ends
//! when that is closed, and with this process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;

use super::plan::{Spaces, Surroundings};
use super::session::Session;
use super::spawner::{self, Order};
use crate::host::Privilege;
use crate::wire;

/// A spawner's socket, and what it made ahead.
#[derive(Debug)]
pub(crate) struct Line {
    /// One conversation at a time.
    socket: Mutex<OwnedFd>,
    waiting: Mutex<Option<Waiting>>,
}

/// A process that was ordered; its pidfd is told on the socket.
#[derive(Debug)]
struct Waiting {
    socket: OwnedFd,
    surroundings: Surroundings,
}

impl Waiting {
    fn process(&self) -> io::Result<Session> {
        let pidfd = spawner::made_ahead(self.socket.as_fd())?;
        Ok(Session::new(pidfd, Signal::KILL))
    }
}

impl Line {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Mutex::new(socket),
            waiting: Mutex::default(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, OwnedFd> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Orders a process for the next usual command in such a user namespace, if none waits. Does not wait for it.
    pub(crate) fn begin(&self, privilege: Privilege) -> io::Result<()> {
        let mut waiting = self.waiting();
        if waiting.is_some() {
            return Ok(());
        }
        let surroundings = Surroundings {
            privilege,
            machines_root: privilege == Privilege::Root,
            unmasked: false,
            outer_proc: false,
            sysctls: Vec::new(),
            spaces: Spaces::default(),
        };
        let (ours, theirs) = wire::pair()?;
        spawner::ahead(self.lock().as_fd(), &surroundings, theirs.as_fd())?;
        *waiting = Some(Waiting {
            socket: ours,
            surroundings,
        });
        Ok(())
    }

    /// Ends a process that nobody asked for, and waits for that.
    pub(crate) fn end(&self) {
        let waiting = self.waiting().take();
        drop(waiting.map(|waiting| waiting.process()));
    }

    /// Gives a sandbox's task to the process that waits, where there is one that suits it; `None` where another is to
    /// be started. `known` is told of the process first.
    pub(crate) fn hand_over(
        &self,
        order: &Order<'_>,
        descriptors: &[BorrowedFd<'_>],
        known: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Option<OwnedFd> {
        let task = order
            .task()
            .filter(|task| task.runtime.is_none() && task.bare.is_none())?;
        let surroundings = task.surroundings();
        let waiting = self
            .waiting()
            .take_if(|waiting| waiting.surroundings == surroundings)?;
        let give = || -> io::Result<OwnedFd> {
            // Where it gets no task, it is ended and waited for.
            let session = waiting.process()?;
            known(session.pidfd()?.as_fd())?;
            wire::send(waiting.socket.as_fd(), task, descriptors)?;
            session.leave()
        };
        give()
            .inspect_err(
                |error| tracing::debug!(%error, "a process that was made ahead is of no use"),
            )
            .ok()
    }
}
