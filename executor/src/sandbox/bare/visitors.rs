//! Those who enter a command's root while it runs: commands in that root of their own, each with a first process that
//! sees it to its end. Neither they nor the command can signal or trace one another, for each has its own domain.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::super::join::{Enter, EnterStreams, Entered};
use super::super::plan::{self, Command, Stdio, Task};
use super::super::prepare::setup;
use super::super::session::Session;
use super::super::spawner::Order;
use super::super::{ExecError, cgroup, in_root, keeper, wait, wire};
use super::{Live, Over, refuse};
use crate::emulation::Identity;
use crate::host::Host;
use crate::{sys, users};

/// Those of one root, until it is over.
#[derive(Debug, Default)]
pub(super) struct Visitors {
    all: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Nobody enters any more.
    closed: bool,
    visitors: Vec<Visitor>,
}

#[derive(Debug)]
struct Visitor {
    pid: u32,
    pidfd: OwnedFd,
    ended: Over,
}

impl Visitors {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of their first processes.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let known = self.known();
        // The number of one that is over may be anybody's.
        let there = known.visitors.iter().filter(|visitor| !visitor.is_over());
        there.map(|visitor| visitor.pid).collect()
    }

    /// Ends all that are there, with what they started. Blocking.
    pub(super) fn end(&self) -> Result<(), ExecError> {
        let mut known = self.known();
        known.closed = true;
        let visitors = std::mem::take(&mut known.visitors);
        drop(known);
        for visitor in &visitors {
            // It may have ended.
            let _ = rustix::process::pidfd_send_signal(&visitor.pidfd, keeper::END);
        }
        for visitor in visitors {
            visitor.wait();
            visitor.ended.check()?;
        }
        Ok(())
    }
}

impl Visitor {
    fn wait(&self) {
        let mut polled = [PollFd::new(&self.pidfd, PollFlags::IN)];
        while let Err(Errno::INTR) = rustix::event::poll(&mut polled, None) {}
    }

    fn is_over(&self) -> bool {
        let mut polled = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = rustix::event::Timespec::default();
        rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|ended| ended > 0)
    }
}

/// Starts a command in a root where another runs, `like` that one. Blocking, until it runs or could not.
pub(in crate::sandbox) fn enter(
    host: &Host,
    like: &Task,
    live: &Arc<Live>,
    cgroups: &[PathBuf],
    enter: Enter,
) -> Result<Entered, ExecError> {
    if enter.privileged {
        return refuse("enter a container with `--privileged`");
    }
    let failed = |error: std::io::Error| setup("enter the container", error);
    // Nobody takes the root away meanwhile.
    let mut known = live.visitors.known();
    if known.closed {
        return Err(failed(Errno::SRCH.into()));
    }
    let root = live.root().map_err(failed)?;
    let user = users::process_user(&root, &enter.user)
        .map_err(|error| ExecError::User(error.to_string()))?;
    let cwd_path = in_root::clean(&enter.cwd);
    let cwd = in_root::open(root.as_fd(), &cwd_path, OFlags::PATH | OFlags::DIRECTORY);
    let cwd = cwd.map_err(|errno| {
        let step = format!("enter the working directory {}", cwd_path.display());
        setup(step, std::io::Error::from(errno))
    })?;
    let null = live.shown.null().map_err(failed)?;
    let (ended, ended_inside) = Over::pipe()?;
    let (status, status_inside) = wire::pair().map_err(failed)?;
    let mut descriptors = vec![root.into_fd(), cwd, ended_inside, null, status_inside];
    let mut task = Task {
        command: Command::of(enter.argv, enter.env, &enter.cwd, user),
        bare: Some(plan::Bare {
            cwd: 1,
            ended: 2,
            null: 3,
            wiped: Vec::new(),
        }),
        root: 0,
        status: 4,
        ..like.clone()
    };
    match enter.streams {
        EnterStreams::These(streams) => {
            task.stdio = Stdio::Streams([5, 6, 7]);
            descriptors.extend(streams);
        }
        EnterStreams::Terminal((rows, columns)) => {
            task.stdio = Stdio::Terminal { rows, columns };
        }
    }
    let doors = descriptors.len();
    descriptors.extend(cgroup::doors(cgroups).map_err(failed)?);
    task.cgroups = (doors..descriptors.len()).collect();
    let identity = Identity {
        shown: Some(Arc::clone(&live.shown)),
        ..task.identity()
    };
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(|it| it.as_fd()).collect();
    let pidfd = host
        .spawn(None, &Order::sandbox(&task, &[]), &borrowed, &[])
        .map_err(failed)?;
    drop(borrowed);
    drop(descriptors);
    let pid = sys::pid_of(pidfd.as_fd()).map_err(failed)?;
    let session = Session::new(pidfd, task.end());
    let is_gone = |visitor: &Visitor| visitor.is_over() && visitor.ended.check().is_ok();
    known.visitors.retain(|visitor| !is_gone(visitor));
    known.visitors.push(Visitor {
        pid,
        pidfd: session.pidfd().map_err(failed)?,
        ended,
    });
    let reported = wait::read_reports(&status, identity, &task.command.program())?;
    if let Some(failure) = reported.failure {
        return Err(failure);
    }
    if !reported.ready {
        return Err(setup("enter the container", "it has ended"));
    }
    Ok(Entered::new(session, pid, reported.master))
}
