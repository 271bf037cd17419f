//! A process with one thread, forked before any other thread exists, that starts sandboxes: forking the grown
//! process would be slow and unsafe. A sandbox becomes a child of this process's parent, which waits for it.
//!
//! Root's starts a second one when it is wanted, which is root of a user namespace: what that one starts is in there.
//!
//! When its socket closes, all of rbuild is gone: it kills what still runs and ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rbuild_cache::ids::Ids;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;

use super::ceilings::{self, Ceilings};
use super::join::{self, Join};
use super::plan::{Bytes, Network, Reply, Space, Surroundings, Task};
use super::{child, keeper, own_users, seccomp, wire};
use crate::sys::{self, Cloned, Forked};

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
            serve(theirs);
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

fn serve(socket: OwnedFd) {
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
    super::cgroup::remove(spawner.left.iter().map(child::path_of));
    for (store, lease) in &spawner.stores {
        // The next command of that store tries it again.
        let _ = rbuild_cache::lease::bury(child::path_of(store), lease);
    }
}

struct Spawner {
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
            super::outer_proc::conceal()?;
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

    /// Starts a second spawner in a user namespace of its own, or, with `most`, in one in that; returns its pidfd, its
    /// socket and the namespace. `None` in that spawner.
    fn inside(
        &mut self,
        users: &str,
        groups: &str,
        most: Option<u64>,
    ) -> io::Result<Option<Vec<OwnedFd>>> {
        let (ours, theirs) = wire::pair()?;
        let (outside, inside) = wire::pair()?;
        // In there nobody may raise a limit any more, and whoever asks for a higher one gets it nevertheless.
        let ceilings = ceilings::raise();
        let cloned = sys::clone3_for_parent(libc::CLONE_NEWUSER as u64);
        let pidfd = match cloned {
            Ok(Cloned::Child) => {
                drop((ours, outside));
                match enter_mapped(&inside, most) {
                    Ok(()) => self.serve_inside(theirs, ceilings),
                    Err(_) => sys::exit_now(1),
                }
                return Ok(None);
            }
            Ok(Cloned::Parent(pidfd)) => {
                ceilings.restore(&[]);
                pidfd
            }
            Err(error) => {
                ceilings.restore(&[]);
                return Err(error);
            }
        };
        drop((theirs, inside));
        // From here on its files in /proc are such as can be written to.
        answer(outside.as_fd())?;
        let pid = sys::pid_of(pidfd.as_fd())?;
        for (file, map) in [("uid_map", users), ("gid_map", groups)] {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::open(format!("/proc/{pid}/{file}"), flags, Mode::empty())?;
            rustix::io::write(&file, map.as_bytes())?;
        }
        wire::send(outside.as_fd(), &Reply::Done, &[])?;
        let namespace = answer(outside.as_fd())?.pop().ok_or_else(gone)?;
        Ok(Some(vec![pidfd, ours, namespace]))
    }

    /// As [`Self::inside`], in a user namespace that there is.
    fn inside_of(&mut self, namespace: Option<OwnedFd>) -> io::Result<Option<Vec<OwnedFd>>> {
        let namespace = namespace.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let (ours, theirs) = wire::pair()?;
        let (entered_read, entered_write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let ceilings = ceilings::raise();
        match sys::clone3_for_parent(0) {
            Ok(Cloned::Child) => {
                drop((ours, entered_read));
                let entered = sys::join_namespaces(namespace.as_fd(), libc::CLONE_NEWUSER);
                let entered = entered.and_then(|()| become_root());
                let errno =
                    entered.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
                let _ = rustix::io::write(&entered_write, &errno.to_ne_bytes());
                if errno != 0 {
                    sys::exit_now(1);
                }
                drop(namespace);
                self.serve_inside(theirs, ceilings);
                return Ok(None);
            }
            Ok(Cloned::Parent(_)) => ceilings.restore(&[]),
            Err(error) => {
                ceilings.restore(&[]);
                return Err(error);
            }
        }
        drop(entered_write);
        let mut errno = [0; 4];
        rustix::io::read(&entered_read, &mut errno)?;
        match i32::from_ne_bytes(errno) {
            0 => Ok(Some(vec![ours, namespace])),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// From here on, this process is the second spawner.
    fn serve_inside(&mut self, socket: OwnedFd, ceilings: Ceilings) {
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

/// In a user namespace that has no ids yet: has them given by whoever is outside, becomes its root, and says which
/// namespace that is. With `most`, goes into one in that.
fn enter_mapped(outside: &OwnedFd, most: Option<u64>) -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    let enter = || {
        // An ordinary user could not write to its files in /proc otherwise.
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        wire::send(outside.as_fd(), &Reply::Done, &[])?;
        answer(outside.as_fd())?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        if !rustix::process::geteuid().is_root() {
            become_root()?;
        }
        if let Some(most) = most {
            if !own_users::are_counted()? {
                return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
            }
            own_users::enter(UnshareFlags::empty(), Some(most))?;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(
            CWD,
            "/proc/self/ns/user",
            flags,
            Mode::empty(),
        )?)
    };
    match enter() {
        Ok(namespace) => wire::send(outside.as_fd(), &Reply::Done, &[namespace.as_fd()]),
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            wire::send(outside.as_fd(), &Reply::Failed { errno }, &[])?;
            Err(error)
        }
    }
}

fn become_root() -> io::Result<()> {
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
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
        super::cgroup::remove(child.leaves.iter().map(child::path_of));
    }
}
