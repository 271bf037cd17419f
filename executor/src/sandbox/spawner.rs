//! A process with one thread, forked before any other thread exists, that starts sandboxes: forking the grown
//! process would be slow and unsafe. A sandbox becomes a child of this process's parent, which waits for it.
//!
//! When its socket closes, all of rbuild is gone: it kills what still runs and ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use super::join::{self, Join};
use super::plan::{Bytes, Network, Reply, Task};
use super::{child, wire};
use crate::sys::{self, Cloned, Forked};

/// What it is asked to do.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Order<'a> {
    what: What<'a>,
    /// Directories of cgroups that are to go with it when all of rbuild is gone.
    leaves: Vec<Bytes>,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum What<'a> {
    Sandbox(std::borrow::Cow<'a, Task>),
    Join(std::borrow::Cow<'a, Join>),
    /// Keeps a descriptor open until nobody holds the other end of the pipe that comes with it. No answer.
    Hold,
}

impl<'a> Order<'a> {
    pub(super) fn sandbox(task: &'a Task, leaves: &[std::path::PathBuf]) -> Self {
        Self {
            what: What::Sandbox(std::borrow::Cow::Borrowed(task)),
            leaves: leaves.iter().map(|path| path.as_path().into()).collect(),
        }
    }

    pub(super) fn join(join: &'a Join) -> Self {
        Self {
            what: What::Join(std::borrow::Cow::Borrowed(join)),
            leaves: Vec::new(),
        }
    }
}

impl Order<'static> {
    fn hold() -> Self {
        Self {
            what: What::Hold,
            leaves: Vec::new(),
        }
    }
}

/// Forks the spawner and returns its socket.
pub(crate) fn start() -> io::Result<OwnedFd> {
    let (ours, theirs) = wire::pair()?;
    match sys::fork()? {
        Forked::Parent(_) => Ok(ours),
        Forked::Child => {
            drop(ours);
            serve(&theirs);
            sys::exit_now(0);
        }
    }
}

/// Hands over a duplicate of a descriptor that takes long to close, so that whoever the user waits for does not close
/// it last. It is closed when `until`, the other end of a pipe, is.
pub(crate) fn hold(
    socket: BorrowedFd<'_>,
    descriptor: BorrowedFd<'_>,
    until: BorrowedFd<'_>,
) -> io::Result<()> {
    wire::send(socket, &Order::hold(), &[descriptor, until])
}

/// Sends a task and waits for the pidfd of what was started.
pub(crate) fn request(
    socket: BorrowedFd<'_>,
    task: &impl serde::Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<OwnedFd> {
    wire::send(socket, task, descriptors)?;
    let gone = || io::Error::other("the process that starts commands has ended");
    match wire::receive::<Reply>(socket)? {
        Some((Reply::Spawned, mut descriptors)) => descriptors.pop().ok_or_else(gone),
        Some((Reply::Failed { errno }, _)) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(gone()),
    }
}

fn serve(socket: &OwnedFd) {
    // Signals of the terminal are for the builder, which decides what becomes of its commands.
    let _ = rustix::process::setsid();
    // It may outlive whoever reads what this process prints, and prints nothing itself.
    if crate::background::let_go().is_err() {
        return;
    }
    // Commands inherit what is ignored or blocked here: nothing.
    if sys::reset_signals().is_err() {
        return;
    }
    let _ = rustix::thread::set_name(c"rbuild-spawner");
    let mut running: Vec<Child> = Vec::new();
    let mut held: Vec<Held> = Vec::new();
    while let Ok(ready) = wait(socket, &mut running, &mut held) {
        if !ready {
            continue;
        }
        let Ok(Some((order, descriptors))) = wire::receive::<Order<'_>>(socket.as_fd()) else {
            break;
        };
        let spawned = match order.what {
            What::Sandbox(task) => spawn(&task, descriptors, &mut held),
            What::Join(join) => enter(&join, descriptors, &mut held),
            What::Hold => {
                let mut descriptors = descriptors.into_iter();
                if let (Some(descriptor), Some(until)) = (descriptors.next(), descriptors.next()) {
                    held.push(Held {
                        _descriptor: descriptor,
                        until,
                    });
                }
                continue;
            }
        };
        let sent = match spawned {
            Ok(pidfd) => {
                let sent = wire::send(socket.as_fd(), &Reply::Spawned, &[pidfd.as_fd()]);
                running.push(Child {
                    pidfd,
                    leaves: order.leaves,
                });
                sent
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                wire::send(socket.as_fd(), &Reply::Failed { errno }, &[])
            }
        };
        if sent.is_err() {
            break;
        }
    }
    bury(&running);
}

/// A sandbox that was started.
struct Child {
    pidfd: OwnedFd,
    leaves: Vec<Bytes>,
}

/// A descriptor that is closed when the other end of a pipe is.
struct Held {
    _descriptor: OwnedFd,
    until: OwnedFd,
}

/// Nobody is left but this process: it ends what runs and takes away what only it can still know of.
fn bury(running: &[Child]) {
    for child in running {
        let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
    }
    for child in running.iter().filter(|child| !child.leaves.is_empty()) {
        let mut polled = [PollFd::new(&child.pidfd, PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut polled, None) {}
        super::cgroup::remove(child.leaves.iter().map(child::path_of));
    }
}

/// Waits until a request can be read; forgets sandboxes that ended, and lets go of what need not be held any more.
fn wait(socket: &OwnedFd, running: &mut Vec<Child>, held: &mut Vec<Held>) -> io::Result<bool> {
    let watched = running.iter().map(|child| &child.pidfd);
    let watched = watched.chain(held.iter().map(|held| &held.until));
    let mut polled: Vec<PollFd<'_>> = watched
        .map(|descriptor| PollFd::new(descriptor, PollFlags::IN))
        .collect();
    polled.push(PollFd::new(socket, PollFlags::IN));
    match rustix::event::poll(&mut polled, None) {
        Err(rustix::io::Errno::INTR) => return Ok(false),
        result => result?,
    };
    let mut over: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
    let ready = over.pop().unwrap_or(false);
    let mut over = over.into_iter();
    running.retain(|_| !over.next().unwrap_or(false));
    // Closing takes long: not while somebody waits for an answer.
    if !ready {
        held.retain(|_| !over.next().unwrap_or(false));
    }
    Ok(ready)
}

/// What is held is not the child's.
fn spawn(task: &Task, descriptors: Vec<OwnedFd>, held: &mut Vec<Held>) -> io::Result<OwnedFd> {
    let mut flags =
        libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if task.network == Network::Own {
        flags |= libc::CLONE_NEWNET;
    }
    match sys::clone3_for_parent(flags as u64)? {
        Cloned::Parent(pidfd) => Ok(pidfd),
        Cloned::Child => {
            held.clear();
            child::main(task, descriptors);
        }
    }
}

/// A child that is born in the pid namespace of a sandbox; into the others it goes itself.
fn enter(join: &Join, descriptors: Vec<OwnedFd>, held: &mut Vec<Held>) -> io::Result<OwnedFd> {
    // It is visible inside before it can do anything about that.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let begin = move || -> io::Result<OwnedFd> {
        let target = join.target(&descriptors)?;
        sys::join_namespaces(target, libc::CLONE_NEWPID)?;
        match sys::clone3_for_parent(0)? {
            Cloned::Parent(pidfd) => Ok(pidfd),
            Cloned::Child => {
                held.clear();
                join::main(join, descriptors);
            }
        }
    };
    // Where children are born is a thread's own affair, and there may be no way back: an ordinary user has no right to
    // the namespace that this process is from. While the thread is there, this one only waits for it, so that the
    // child finds nothing half done.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, begin)?;
        let failed = |_| io::Error::other("the thread that starts commands panicked");
        thread.join().map_err(failed)?
    })
}
