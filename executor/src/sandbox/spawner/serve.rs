//! The spawner itself: does what it is asked, one thing after the other, and ends what runs when nobody asks any more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;

use super::{Order, What};
use crate::sandbox::ceilings::Ceilings;
use crate::sandbox::join::{self, Join};
use crate::sandbox::plan::{Bytes, Network, Reply, Space, Surroundings, Task};
use crate::sandbox::{cgroup, child, keeper, outer_proc, seccomp, wire};
use crate::sys::{self, Cloned};

pub(super) fn serve(socket: OwnedFd) {
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
    // What rbuild was told is not for containers to read; nothing else depends on it.
    let _ = sys::replace_command_line(c"rbuild");
    let mut spawner = Spawner {
        socket,
        running: Vec::new(),
        left: Vec::new(),
        held: Vec::new(),
        stores: Vec::new(),
        ceilings: Ceilings::default(),
        concealed: false,
    };
    while let Ok(ready) = spawner.wait() {
        if ready && !spawner.obey() {
            break;
        }
    }
    bury(&spawner.running);
    cgroup::remove(spawner.left.iter().map(child::path_of));
    for (store, lease) in &spawner.stores {
        // The next command of that store tries it again.
        let _ = rbuild_cache::lease::bury(child::path_of(store), lease);
    }
}

pub(super) struct Spawner {
    socket: OwnedFd,
    running: Vec<Child>,
    /// Cgroups of sandboxes that ended, until the builder has removed them: it may be killed just as they are.
    left: Vec<Bytes>,
    held: Vec<Held>,
    /// Stores, and the names of this process's leases there.
    stores: Vec<(Bytes, String)>,
    /// What commands had for limits if this spawner did not have higher ones.
    ceilings: Ceilings,
    concealed: bool,
}

impl Spawner {
    /// Does one thing that it is asked to do; false when nobody asks any more.
    fn obey(&mut self) -> bool {
        let Ok(Some((order, mut descriptors))) = wire::receive::<Order<'_>>(self.socket.as_fd())
        else {
            return false;
        };
        let is_ahead = matches!(order.what, What::Network);
        let done = match order.what {
            What::Sandbox(task) => self
                .conceal(task.outer_proc || task.is_kept())
                .and_then(|()| self.spawn(&task, descriptors, order.leaves)),
            What::Join(join) => self
                .conceal(join.is_kept())
                .and_then(|()| self.enter(&join, descriptors, order.leaves)),
            What::Ahead(surroundings) => {
                if let Some(child) = descriptors.pop() {
                    self.ahead(&surroundings, child);
                }
                return true;
            }
            What::Inside {
                users,
                groups,
                most,
            } => match self.inside(&users, &groups, most) {
                // In there now, where others ask.
                Ok(None) => return true,
                Ok(Some(second)) => Ok(second),
                Err(error) => Err(error),
            },
            What::InsideOf => match self.inside_of(descriptors.pop()) {
                Ok(None) => return true,
                Ok(Some(second)) => Ok(second),
                Err(error) => Err(error),
            },
            What::Network => make_network().map(|network| vec![network]),
            What::Watch { kept } => {
                self.running.extend(descriptors.pop().map(|pidfd| Child {
                    pidfd,
                    leaves: order.leaves,
                    end: if kept { keeper::END } else { Signal::KILL },
                }));
                return true;
            }
            What::Bury { store, lease } => {
                self.stores.push((store, lease));
                return true;
            }
            What::Remove { hidden } => {
                // Whoever looks at containers next tries it again.
                let _ = rbuild_cache::containers::remove_hidden(child::path_of(&hidden));
                return true;
            }
            What::Hold => {
                let mut descriptors = descriptors.into_iter();
                if let (Some(descriptor), Some(until)) = (descriptors.next(), descriptors.next()) {
                    self.held.push(Held {
                        _descriptor: descriptor,
                        until,
                    });
                }
                return true;
            }
        };
        let sent = match done {
            Ok(descriptors) => {
                let descriptors: Vec<BorrowedFd<'_>> =
                    descriptors.iter().map(AsFd::as_fd).collect();
                wire::send(self.socket.as_fd(), &Reply::Done, &descriptors)
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                wire::send(self.socket.as_fd(), &Reply::Failed { errno }, &[])
            }
        };
        if is_ahead {
            // A command is to follow, and nobody waits meanwhile.
            seccomp::program(seccomp::USUAL);
        }
        sent.is_ok()
    }

    /// Waits until a request can be read; forgets sandboxes that ended, and lets go of what need not be held any more.
    fn wait(&mut self) -> io::Result<bool> {
        let Self {
            socket,
            running,
            left,
            held,
            ..
        } = self;
        let watched = running.iter().map(|child| &child.pidfd);
        let watched = watched.chain(held.iter().map(|held| &held.until));
        let mut polled: Vec<PollFd<'_>> = watched
            .map(|descriptor| PollFd::new(descriptor, PollFlags::IN))
            .collect();
        polled.push(PollFd::new(&*socket, PollFlags::IN));
        match rustix::event::poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => return Ok(false),
            result => result?,
        };
        let mut over: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let ready = over.pop().unwrap_or(false);
        let mut over = over.into_iter();
        for child in running.extract_if(.., |_| over.next().unwrap_or(false)) {
            left.extend(child.leaves);
        }
        left.retain(|directory| child::path_of(directory).exists());
        // Closing takes long: not while somebody waits for an answer.
        if !ready {
            held.retain(|_| !over.next().unwrap_or(false));
        }
        Ok(ready)
    }

    fn keep(
        &mut self,
        pidfd: OwnedFd,
        leaves: Vec<Bytes>,
        end: Signal,
    ) -> io::Result<Vec<OwnedFd>> {
        let told = pidfd.try_clone()?;
        self.running.push(Child { pidfd, leaves, end });
        Ok(vec![told])
    }

    /// Where commands, or others, see in /proc what are copies of this process: they have nothing to hide then.
    fn conceal(&mut self, is_seen: bool) -> io::Result<()> {
        if is_seen && !self.concealed {
            // Otherwise what it writes to is not its own in a user namespace. Nobody who could look at it sees it.
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?;
            outer_proc::conceal()?;
            self.concealed = true;
        }
        Ok(())
    }

    /// What is held is not the child's.
    fn spawn(
        &mut self,
        task: &Task,
        descriptors: Vec<OwnedFd>,
        leaves: Vec<Bytes>,
    ) -> io::Result<Vec<OwnedFd>> {
        let mut flags = task.spaces.namespaces();
        if task.bare.is_some() {
            flags = 0;
        } else if task.network == Network::Own {
            flags |= libc::CLONE_NEWNET;
        }
        if let Some(filter) = task.filter {
            // Here, so that the next one has it, too.
            seccomp::program(filter);
        }
        if let Space::Join(slot) = task.spaces.processes {
            let Self { held, ceilings, .. } = self;
            let processes = descriptors.get(slot).map(AsFd::as_fd);
            let processes = processes.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
            let pidfd = born_among(processes.try_clone_to_owned()?, flags, move || {
                held.clear();
                ceilings.restore(&task.limits);
                child::main(task, descriptors);
            })?;
            return self.keep(pidfd, leaves, task.end());
        }
        match sys::clone3_for_parent(flags as u64)? {
            Cloned::Parent(pidfd) => self.keep(pidfd, leaves, task.end()),
            Cloned::Child => {
                self.held.clear();
                self.ceilings.restore(&task.limits);
                child::main(task, descriptors);
            }
        }
    }

    /// A child that waits for its task. It has nothing of this process but its memory.
    fn ahead(&mut self, surroundings: &Surroundings, child: OwnedFd) {
        // Here, so that the next one has it, too.
        seccomp::program(seccomp::USUAL);
        let told = match sys::clone3_for_parent(surroundings.spaces.namespaces() as u64) {
            Ok(Cloned::Parent(pidfd)) => {
                self.keep(pidfd, Vec::new(), Signal::KILL).and_then(|told| {
                    let told: Vec<BorrowedFd<'_>> = told.iter().map(AsFd::as_fd).collect();
                    wire::send(child.as_fd(), &Reply::Done, &told)
                })
            }
            Ok(Cloned::Child) => {
                self.socket = child;
                self.running.clear();
                self.held.clear();
                child::main_ahead(&self.socket, surroundings, &self.ceilings);
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                wire::send(child.as_fd(), &Reply::Failed { errno }, &[])
            }
        };
        // Where nobody can be told, nobody waits either: the end of the socket is all that it hears.
        drop(told);
    }

    /// A child that is born in the pid namespace of a sandbox; into the others it goes itself.
    fn enter(
        &mut self,
        join: &Join,
        descriptors: Vec<OwnedFd>,
        leaves: Vec<Bytes>,
    ) -> io::Result<Vec<OwnedFd>> {
        let held = &mut self.held;
        let end = join.end();
        let target = join.target(&descriptors)?.try_clone_to_owned()?;
        let pidfd = if join.is_among_others() {
            born_among(target, 0, move || {
                held.clear();
                join::main(join, descriptors)
            })?
        } else {
            // The machine's processes, among which this one is: it has no right to go there.
            match sys::clone3_for_parent(0)? {
                Cloned::Parent(pidfd) => pidfd,
                Cloned::Child => {
                    held.clear();
                    join::main(join, descriptors);
                }
            }
        };
        self.keep(pidfd, leaves, end)
    }

    /// From here on, this process is the second spawner.
    pub(super) fn serve_inside(&mut self, socket: OwnedFd, ceilings: Ceilings) {
        // It has a copy of the builder's memory, and its ids are those of its commands.
        let _ =
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
        self.socket = socket;
        self.running.clear();
        self.left.clear();
        self.held.clear();
        self.stores.clear();
        self.ceilings = ceilings;
    }
}

/// Has a child born in the pid namespace that a descriptor, a pidfd or the namespace itself, stands for.
fn born_among(
    processes: OwnedFd,
    flags: libc::c_int,
    become_it: impl FnOnce() -> std::convert::Infallible + Send,
) -> io::Result<OwnedFd> {
    // It is visible inside before it can do anything about that.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let begin = move || -> io::Result<OwnedFd> {
        sys::join_namespaces(processes.as_fd(), libc::CLONE_NEWPID)?;
        match sys::clone3_for_parent(flags as u64)? {
            Cloned::Parent(pidfd) => Ok(pidfd),
            Cloned::Child => match become_it() {},
        }
    };
    // Where children are born is a thread's own affair, and there may be no way back: an ordinary user has no right
    // to the namespace that this process is from. While the thread is there, this one only waits for it, so that
    // the child finds nothing half done.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, begin)?;
        let failed = |_| io::Error::other("the thread that starts commands panicked");
        thread.join().map_err(failed)?
    })
}

/// Made by a thread, which ends in it: from a network namespace that is not the host's there is no way back.
fn make_network() -> io::Result<OwnedFd> {
    let make = || {
        sys::unshare(UnshareFlags::NEWNET)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(
            CWD,
            "/proc/thread-self/ns/net",
            flags,
            Mode::empty(),
        )?)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, make)?;
        let failed = |_| io::Error::other("the thread that makes a network namespace panicked");
        thread.join().map_err(failed)?
    })
}

/// A sandbox that was started.
struct Child {
    pidfd: OwnedFd,
    leaves: Vec<Bytes>,
    /// The signal that ends it with all that is in it.
    end: Signal,
}

/// A descriptor that is closed when the other end of a pipe is.
struct Held {
    _descriptor: OwnedFd,
    until: OwnedFd,
}

/// Nobody is left but this process: it ends what runs and takes away what only it can still know of.
fn bury(running: &[Child]) {
    for child in running {
        let _ = rustix::process::pidfd_send_signal(&child.pidfd, child.end);
    }
    for child in running {
        let mut polled = [PollFd::new(&child.pidfd, PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut polled, None) {}
        cgroup::remove(child.leaves.iter().map(child::path_of));
    }
}
