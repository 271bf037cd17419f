//! A process that enters a running sandbox: born in its pid namespace by the spawner, it goes into the others
//! itself, and becomes its command with the same rights, filter and limits that the sandbox's own command has.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::RootDir;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::child::{self, Descriptors, Stop};
use super::plan::{Command, Devices, Filter, Report, Slot, Stdio, Task};
use super::prepare::setup;
use super::session::Session;
use super::spawner::Order;
use super::step::{Result, Step};
use super::{ExecError, capabilities, cgroup, keeper, outer_proc, terminal, wait, wire};
use crate::host::{Host, Privilege};
use crate::spec::Exit;
use crate::sys;
use crate::users;

/// What is to run in there.
#[derive(Debug)]
pub struct Enter {
    pub argv: Vec<Vec<u8>>,
    /// All of it; `HOME` is added from the root's passwd where it is missing.
    pub env: Vec<Vec<u8>>,
    pub cwd: PathBuf,
    /// As in [`crate::Exec::user`].
    pub user: String,
    /// All capabilities, and no filter but the user's profile.
    pub privileged: bool,
    pub streams: EnterStreams,
}

/// Its standard streams.
#[derive(Debug)]
pub enum EnterStreams {
    These([OwnedFd; 3]),
    /// A terminal made inside, of so many rows and columns.
    Terminal((u16, u16)),
}

/// A process that entered. Dropping it kills it.
#[derive(Debug)]
#[must_use = "dropping it kills the process"]
pub struct Entered {
    session: Session,
    pid: u32,
    master: Option<OwnedFd>,
}

impl Entered {
    pub(super) fn new(session: Session, pid: u32, master: Option<OwnedFd>) -> Self {
        Self {
            session,
            pid,
            master,
        }
    }

    /// As the host counts.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Of its terminal, once.
    pub fn take_master(&mut self) -> Option<OwnedFd> {
        self.master.take()
    }

    /// Sends the process a signal; nothing happens where it has ended.
    pub fn signal(&self, signal: Signal) {
        self.session.signal(signal);
    }

    /// Becomes readable when it ended.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.session.pidfd()
    }

    /// Blocking.
    pub fn wait(mut self) -> io::Result<Exit> {
        self.session.reap()
    }
}

/// As it travels to the spawner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Join {
    task: Task,
    /// A pidfd of the sandbox.
    target: Slot,
    /// A user namespace that it goes into first, where that is not the target's.
    users: Option<Slot>,
    /// `CLONE_NEW*` of the target, without the pid namespace.
    namespaces: i32,
    /// Its processes are not the machine's.
    among_others: bool,
}

impl Join {
    /// As [`Task::end`].
    pub(super) fn end(&self) -> Signal {
        self.task.end()
    }

    /// As [`Task::is_kept`].
    pub(super) fn is_kept(&self) -> bool {
        self.task.is_kept()
    }

    /// Whether it is to be born in another pid namespace than the spawner's.
    pub(super) fn is_among_others(&self) -> bool {
        self.among_others
    }

    pub(super) fn target<'d>(&self, descriptors: &'d [OwnedFd]) -> io::Result<BorrowedFd<'d>> {
        descriptors
            .get(self.target)
            .map(OwnedFd::as_fd)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

/// `like`: the task of the sandbox. Blocking, until the command runs or could not.
pub(super) fn start(
    host: &Host,
    like: &Task,
    (pidfd, pid): (BorrowedFd<'_>, u32),
    root: &RootDir,
    cgroups: &[PathBuf],
    enter: Enter,
) -> std::result::Result<Entered, ExecError> {
    let user = users::process_user(root, &enter.user)
        .map_err(|error| ExecError::User(error.to_string()))?;
    let mut task = Task {
        command: Command::of(enter.argv, enter.env, &enter.cwd, user),
        ..like.clone()
    };
    if enter.privileged {
        task.capabilities = capabilities::mask(capabilities::ALL, &[], &[]).unwrap_or_default();
    }
    task.filter = task.filter.and_then(|filter| {
        let is_asking = filter.emulation || filter.devices == Devices::Recorded;
        (!enter.privileged || is_asking).then_some(Filter {
            capabilities: task.capabilities,
            unrestricted: filter.unrestricted || enter.privileged,
            ..filter
        })
    });
    let failed = |error: io::Error| setup("enter the container", error);
    let (status, status_inside) = wire::pair().map_err(failed)?;
    let mut descriptors = vec![status_inside, pidfd.try_clone_to_owned().map_err(failed)?];
    task.status = 0;
    match enter.streams {
        EnterStreams::These(streams) => {
            task.stdio = Stdio::Streams([2, 3, 4]);
            descriptors.extend(streams);
        }
        EnterStreams::Terminal((rows, columns)) => {
            task.stdio = Stdio::Terminal { rows, columns };
        }
    }
    let first = descriptors.len();
    descriptors.extend(cgroup::doors(cgroups).map_err(failed)?);
    task.cgroups = (first..descriptors.len()).collect();
    let (identity, program) = (task.identity(), task.command.program());
    let namespaces = namespaces(host, pid).map_err(failed)?;
    let among_others = is_other("pid", pid).map_err(failed)?;
    let users = match host.counted() {
        Some(counted) if namespaces & libc::CLONE_NEWUSER == 0 => {
            let namespace = counted.namespace().try_clone_to_owned();
            descriptors.push(namespace.map_err(failed)?);
            Some(descriptors.len() - 1)
        }
        _ => None,
    };
    let join = Join {
        target: 1,
        users,
        namespaces,
        among_others,
        task,
    };
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let pidfd = host
        .spawn_outside(&Order::join(&join), &borrowed)
        .map_err(failed)?;
    drop(borrowed);
    drop(descriptors);
    let pid = sys::pid_of(pidfd.as_fd()).map_err(failed)?;
    let session = Session::new(pidfd, join.task.end());
    let reported = wait::read_reports(&status, identity, &program)?;
    if let Some(failure) = reported.failure {
        return Err(failure);
    }
    if !reported.ready {
        return Err(setup("enter the container", "it has ended"));
    }
    Ok(Entered::new(session, pid, reported.master))
}

/// All but the pid namespace; those that may be the machine's only where they are not, for an ordinary user is in these
/// already and has no right to enter them.
fn namespaces(host: &Host, pid: u32) -> io::Result<i32> {
    let mut kinds = libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
    for (kind, flag) in [
        ("net", libc::CLONE_NEWNET),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
    ] {
        if is_other(kind, pid)? {
            kinds |= flag;
        }
    }
    // With one id, a sandbox's own user namespace is how it appears as somebody else: each process makes its own.
    if host.privilege() != Privilege::SingleId && is_other("user", pid)? {
        kinds |= libc::CLONE_NEWUSER;
    }
    Ok(kinds)
}

/// Whether a process is in another namespace of a kind than this one.
fn is_other(kind: &str, pid: u32) -> io::Result<bool> {
    let of = |whose: &str| std::fs::metadata(format!("/proc/{whose}/ns/{kind}"));
    Ok(of("self")?.ino() != of(&pid.to_string())?.ino())
}

/// Never returns: becomes the command or reports why not.
pub(super) fn main(join: &Join, descriptors: Vec<OwnedFd>) -> ! {
    let descriptors = Descriptors::new(descriptors);
    child::report(&join.task, &descriptors, || {
        become_command(join, &descriptors)
    })
}

fn become_command(join: &Join, descriptors: &Descriptors) -> std::result::Result<Infallible, Stop> {
    let task = &join.task;
    let status = descriptors.get(task.status)?;
    child::die_with_parent()?;
    rustix::process::setsid().step("make a session")?;
    for slot in &task.cgroups {
        rustix::io::write(descriptors.get(*slot)?, b"0").step("join the cgroup")?;
    }
    // In a user namespace of its own nobody may raise them.
    child::privileges::set_limits(task)?;
    if let Some(users) = join.users {
        sys::join_namespaces(descriptors.get(users)?, libc::CLONE_NEWUSER)
            .step("enter the user namespace of the container")?;
    }
    sys::join_namespaces(descriptors.get(join.target)?, join.namespaces)
        .step("enter the container")?;
    if join.namespaces & libc::CLONE_NEWUSER != 0 {
        become_root()?;
    }
    if task.is_kept() {
        keeper::stay_behind()?;
    }
    let pair = match task.stdio {
        Stdio::Terminal { rows, columns } => {
            Some(open_terminal((rows, columns), task.terminal_owner())?)
        }
        Stdio::Streams(_) => None,
    };
    let own_mounts = own_mounts(task)?;
    let ready = Report::Ready {
        stubs: Vec::new(),
        parents: Vec::new(),
    };
    match &pair {
        Some(pair) => wire::send(status, &ready, &[pair.master.as_fd()]),
        None => wire::send(status, &ready, &[]),
    }
    .step("report")?;
    child::streams::take_streams(task, descriptors, pair.as_ref())?;
    child::streams::own_null(None)?;
    sys::close_on_exec_from(3).step("close descriptors")?;
    // First of all: a link to some /proc/PID/root may be what the working directory is.
    if task.outer_proc && join.namespaces & libc::CLONE_NEWUSER == 0 {
        outer_proc::enter_own_user_namespace(task)?;
    }
    let cwd = child::path_of(&task.command.cwd);
    let entered = rustix::process::chdir(cwd);
    entered.step(format!("enter the working directory {}", cwd.display()))?;
    child::privileges::drop_privileges(task, status, own_mounts)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Err(child::execute(task))
}

/// Whoever enters a user namespace is nobody in there at first.
fn become_root() -> Result<()> {
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
        .step("become root of the user namespace")
}

/// Of the container's mounts, which this process sees by now, the one where devices may be made: its root, or /dev where
/// something only stands for them.
fn own_mounts(task: &Task) -> Result<Vec<u64>> {
    let mut own = Vec::new();
    let step = |path: &str| format!("look at {path} of the container");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |path: &str| rustix::fs::openat(CWD, Path::new(path), flags, Mode::empty());
    if task.makes_devices() {
        let root = open("/").step(step("/"))?;
        own.push(super::in_root::mount_id(root.as_fd()).step(step("/"))?);
    }
    if task.has_stand_ins()
        && let Ok(dev) = open("/dev")
        && rustix::fs::fstatfs(&dev).step(step("/dev"))?.f_type == libc::TMPFS_MAGIC
    {
        own.push(super::in_root::mount_id(dev.as_fd()).step(step("/dev"))?);
    }
    Ok(own)
}

fn open_terminal(size: (u16, u16), owner: Option<u32>) -> Result<terminal::Inside> {
    let root = rustix::fs::openat(
        CWD,
        Path::new("/"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("open the root")?;
    terminal::open_pair(root.as_fd(), size, owner)
}
