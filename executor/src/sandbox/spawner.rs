//! A process with one thread, forked before any other thread exists, that starts sandboxes: forking the grown
//! process would be slow and unsafe. A sandbox becomes a child of this process's parent, which waits for it.
//!
//! Root's starts a second one when it is wanted, which is root of a user namespace: what that one starts is in there.
//!
//! When its socket closes, all of rbuild is gone: it kills what still runs and ends.
//!
//! Here is what it can be asked, as those who ask see it; `serve` does it, and `inside` starts the second one.

mod inside;
mod serve;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rbuild_cache::ids::Ids;

use super::join::Join;
use super::plan::{Bytes, Reply, Surroundings, Task};
use super::wire;
use crate::sys::{self, Forked};

/// What it is asked to do.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Order<'a> {
    what: What<'a>,
    /// Directories of cgroups that are to go with it when all of rbuild is gone.
    leaves: Vec<Bytes>,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum What<'a> {
    Sandbox(std::borrow::Cow<'a, Task>),
    Join(std::borrow::Cow<'a, Join>),
    /// A process that gets the ground ready and waits for its task on the socket that comes along, on which its pidfd
    /// is told. No other answer.
    Ahead(Surroundings),
    /// A spawner that is root of a user namespace with these maps; with `most`, of one in that, which never has more
    /// processes. Its pidfd comes with the answer.
    Inside {
        users: String,
        groups: String,
        most: Option<u64>,
    },
    /// A spawner that is root of the user namespace that comes along.
    InsideOf,
    /// A network namespace that belongs to the spawner's user namespace.
    Network,
    /// Knows of a sandbox that another spawner started. No answer. `kept`: as [`Task::is_kept`].
    Watch {
        kept: bool,
    },
    /// Takes away what this process leaves in a store where it has a lease, when all of it is gone. No answer.
    Bury {
        store: Bytes,
        lease: String,
    },
    /// Removes what is left of a container. No answer.
    Remove {
        hidden: Bytes,
    },
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

    /// Of a sandbox.
    pub(super) fn task(&self) -> Option<&Task> {
        match &self.what {
            What::Sandbox(task) => Some(task),
            _ => None,
        }
    }

    /// As [`Task::is_kept`].
    pub(crate) fn is_kept(&self) -> bool {
        self.task().is_some_and(Task::is_kept)
    }

    pub(super) fn join(join: &'a Join) -> Self {
        Self {
            what: What::Join(std::borrow::Cow::Borrowed(join)),
            leaves: Vec::new(),
        }
    }
}

impl Order<'static> {
    fn of(what: What<'static>) -> Self {
        Self {
            what,
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
            serve::serve(theirs);
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
    wire::send(socket, &Order::of(What::Hold), &[descriptor, until])
}

/// Has what is left of a container removed while nobody waits: on some disks each directory takes a tenth of a
/// millisecond.
pub(crate) fn remove(socket: BorrowedFd<'_>, hidden: &std::path::Path) -> io::Result<()> {
    let what = What::Remove {
        hidden: hidden.into(),
    };
    wire::send(socket, &Order::of(what), &[])
}

/// Has the temporary files of this process in a store go with it, if it is killed.
pub(crate) fn bury_in(socket: BorrowedFd<'_>, store: &rbuild_cache::Store) -> io::Result<()> {
    let what = What::Bury {
        store: store.root().into(),
        lease: store.lease().to_owned(),
    };
    wire::send(socket, &Order::of(what), &[])
}

/// Has a process made that waits for its task on the other end of `child`.
pub(super) fn ahead(
    socket: BorrowedFd<'_>,
    surroundings: &Surroundings,
    child: BorrowedFd<'_>,
) -> io::Result<()> {
    let order = Order::of(What::Ahead(surroundings.clone()));
    wire::send(socket, &order, &[child])
}

/// What a spawner says of a process that was ordered by [`ahead`]: its pidfd.
pub(super) fn made_ahead(child: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    answer(child)?.pop().ok_or_else(gone)
}

/// Has a sandbox that another spawner started die with all of rbuild, and its cgroups with it.
pub(crate) fn watch(
    socket: BorrowedFd<'_>,
    pidfd: BorrowedFd<'_>,
    leaves: &[std::path::PathBuf],
    kept: bool,
) -> io::Result<()> {
    let order = Order {
        what: What::Watch { kept },
        leaves: leaves.iter().map(|path| path.as_path().into()).collect(),
    };
    wire::send(socket, &order, &[pidfd])
}

/// A spawner in a user namespace: its socket, and that namespace.
#[derive(Debug)]
pub(crate) struct Second {
    pub(crate) socket: OwnedFd,
    pub(crate) namespace: OwnedFd,
}

/// Has root's spawner start one in a new user namespace.
pub(crate) fn inside(socket: BorrowedFd<'_>, ids: &Ids) -> io::Result<Second> {
    let what = What::Inside {
        users: ids.users.to_string(),
        groups: ids.groups.to_string(),
        most: None,
    };
    second(&mut request_all(socket, &Order::of(what), &[])?)
}

/// Has a spawner start one in a new user namespace with these maps that never has more than so many processes. Returns
/// that one's pidfd, too.
pub(super) fn counted(
    socket: BorrowedFd<'_>,
    users: String,
    groups: String,
    most: u64,
) -> io::Result<(Second, OwnedFd)> {
    let most = Some(most);
    let what = What::Inside {
        users,
        groups,
        most,
    };
    let mut descriptors = request_all(socket, &Order::of(what), &[])?;
    let second = second(&mut descriptors)?;
    Ok((second, descriptors.pop().ok_or_else(gone)?))
}

/// Has root's spawner start one in a user namespace that there is.
pub(crate) fn inside_of(socket: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<Second> {
    let order = Order::of(What::InsideOf);
    second(&mut request_all(socket, &order, &[namespace])?)
}

fn second(descriptors: &mut Vec<OwnedFd>) -> io::Result<Second> {
    match (descriptors.pop(), descriptors.pop()) {
        (Some(namespace), Some(socket)) => Ok(Second { socket, namespace }),
        _ => Err(gone()),
    }
}

/// Has a spawner make a network namespace that belongs to its user namespace.
pub(crate) fn network(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    request(socket, &Order::of(What::Network), &[])
}

/// Sends a task and waits for the pidfd of what was started.
pub(crate) fn request(
    socket: BorrowedFd<'_>,
    task: &impl serde::Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<OwnedFd> {
    request_all(socket, task, descriptors)?
        .pop()
        .ok_or_else(gone)
}

fn request_all(
    socket: BorrowedFd<'_>,
    task: &impl serde::Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<Vec<OwnedFd>> {
    wire::send(socket, task, descriptors)?;
    answer(socket)
}

fn answer(socket: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    match wire::receive::<Reply>(socket)? {
        Some((Reply::Done, descriptors)) => Ok(descriptors),
        Some((Reply::Failed { errno }, _)) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(gone()),
    }
}

fn gone() -> io::Error {
    io::Error::other("the process that starts commands has ended")
}
