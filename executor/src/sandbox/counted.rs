//! Where no cgroup holds the number of a command's processes: the kernel counts those of a user namespace, too.
//!
//! `RLIMIT_NPROC` is counted, since Linux 5.14, for each user of each user namespace, and what is counted in one is
//! counted for its owner in the one around it, up to what the owner's limit was when the namespace was made. So the
//! command gets two, one in the other:
//!
//! ```text
//! rbuild's own
//!   └─ outer: nobody is left in it, so that its owner's count is that of the inner one alone
//!        └─ inner: the command's, whoever its processes become; its maximum is fixed for good
//! ```
//! Inside, nothing changes that maximum: not a limit of the processes themselves, not another user, not a further user
//! namespace, which counts for this one as well. What enters the container later counts like the rest.
//!
//! A spawner of the command's own is in there, too, so that all of its namespaces belong to the inner one; it takes one
//! place, which is added. It is there as long as the command.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rbuild_cache::ids::Ids;
use rustix::process::Signal;

use super::ahead::Line;
use super::own_users;
use super::session::Session;
use super::spawner::{self, Second};

/// The user namespace of one command whose processes are counted.
#[derive(Debug)]
pub(crate) struct Counted {
    // Dropped in this order: when nobody asks any more, its spawner ends.
    line: Line,
    namespace: OwnedFd,
    _spawner: Session,
    most: u64,
}

impl Counted {
    /// For so many processes and threads. `spawner`: this process's; `ids`: of the command, where they are not this
    /// process's. Blocking.
    pub(crate) fn make(spawner: BorrowedFd<'_>, ids: Option<&Ids>, most: u64) -> io::Result<Self> {
        let (users, groups) = match ids {
            Some(ids) => (ids.users.to_string(), ids.groups.to_string()),
            None => (
                own_users::identity("/proc/self/uid_map")?,
                own_users::identity("/proc/self/gid_map")?,
            ),
        };
        let (Second { socket, namespace }, process) =
            spawner::counted(spawner, users, groups, most.saturating_add(1))?;
        Ok(Self {
            line: Line::new(socket),
            namespace,
            _spawner: Session::new(process, Signal::KILL),
            most,
        })
    }

    /// How many processes and threads there may be.
    pub(super) fn most(&self) -> u64 {
        self.most
    }

    pub(crate) fn line(&self) -> &Line {
        &self.line
    }

    pub(super) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// A network namespace that belongs to it.
    pub(crate) fn network(&self) -> io::Result<OwnedFd> {
        spawner::network(self.line.lock().as_fd())
    }
}
