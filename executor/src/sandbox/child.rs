//! The first process of a sandbox, from its birth in new namespaces to its `execve`: one screen that follows the
//! plan from top to bottom. The order is a matter of security; each step names itself when it fails.
//!
//! Its root is put together in [`root`], its streams are taken in [`streams`], and what it may not have is given up in
//! [`privileges`].

pub(super) mod privileges;
pub(super) mod root;
pub(super) mod streams;

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::mount::MountPropagationFlags;
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::ceilings::Ceilings;
use super::in_root::MountPoints;
use super::kernel_files::KernelFiles;
use super::plan::{Bytes, Network, Report, Slot, Space, Stdio, Surroundings, Task};
use super::step::{Failure, Result, Step};
use super::{bare, explain, foreign, keeper, outer_proc, program, reaper, terminal, wire};
use crate::sys;
use root::Stage;

/// What a sandbox cannot go on after.
pub(super) enum Stop {
    Step(Failure),
    NotExecutable {
        explanation: String,
        not_found: bool,
    },
    /// Another program refused to do a step.
    Refused {
        step: String,
        reason: String,
    },
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Step(failure)
    }
}

/// Never returns: becomes the command or reports why not.
pub(super) fn main(task: &Task, descriptors: Vec<OwnedFd>) -> ! {
    if let Some(bare) = &task.bare {
        bare::first::main(task, bare, descriptors);
    }
    let descriptors = Descriptors::new(descriptors);
    report(task, &descriptors, || {
        be_first()?;
        join(task, &descriptors)?;
        if task.is_kept() {
            keeper::stay_behind()?;
        }
        if let Some(runtime) = &task.runtime {
            return foreign::run(task, path_of(runtime), &descriptors);
        }
        let ground = Ground::lay(&task.surroundings())?;
        become_command(task, &descriptors, ground)
    })
}

/// As [`main`], of a task that is still to come: does beforehand what is the same for every command in such
/// surroundings. Ends where no task comes.
pub(super) fn main_ahead(socket: &OwnedFd, surroundings: &Surroundings, ceilings: &Ceilings) -> ! {
    let laid = be_first().and_then(|()| Ground::lay(surroundings));
    let Ok(Some((task, descriptors))) = wire::receive::<Task>(socket.as_fd()) else {
        sys::exit_now(0);
    };
    ceilings.restore(&task.limits);
    let descriptors = Descriptors::new(descriptors);
    report(&task, &descriptors, || {
        let mut ground = laid?;
        ground.kernel_files = ground.kernel_files.anew()?;
        if task.network == Network::Own {
            sys::unshare(UnshareFlags::NEWNET).step("make a network namespace")?;
        }
        join(&task, &descriptors)?;
        become_command(&task, &descriptors, ground)
    })
}

/// Ends this process with a report of what `become_command` could not do.
pub(super) fn report(
    task: &Task,
    descriptors: &Descriptors,
    become_command: impl FnOnce() -> std::result::Result<Infallible, Stop>,
) -> ! {
    if let Ok(status) = descriptors.get(task.status) {
        let Err(stop) = become_command();
        let report = match stop {
            Stop::Step(Failure { step, errno }) => Report::Failed { step, errno },
            Stop::NotExecutable {
                explanation,
                not_found,
            } => Report::NotExecutable {
                explanation,
                not_found,
            },
            Stop::Refused { step, reason } => Report::Refused { step, reason },
        };
        // Without a listener there is nobody left to tell.
        let _ = wire::send(status, &report, &[]);
    }
    sys::exit_now(127)
}

/// The descriptors that came with the task.
pub(super) struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    pub(super) fn new(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors)
    }

    /// Some of them; the others are closed.
    pub(super) fn keep(self, slots: &[Slot]) -> Vec<Option<OwnedFd>> {
        let mut all: Vec<Option<OwnedFd>> = self.0.into_iter().map(Some).collect();
        let mut take = |slot: &Slot| all.get_mut(*slot).and_then(Option::take);
        slots.iter().map(&mut take).collect()
    }

    pub(super) fn get(&self, slot: Slot) -> Result<BorrowedFd<'_>> {
        self.0.get(slot).map(OwnedFd::as_fd).ok_or(Failure {
            step: "find a descriptor of the task".into(),
            errno: libc::EBADF,
        })
    }
}

/// What comes before anything else.
fn be_first() -> Result<()> {
    die_with_parent()?;
    // Nobody inside may look into this process while it still has the builder's memory.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .step("protect the first process")?;
    rustix::process::setsid().step("make a session")?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// Into what others made for it.
fn join(task: &Task, descriptors: &Descriptors) -> Result<()> {
    join_cgroups(task, descriptors)?;
    if let Space::Join(slot) = task.spaces.ipc {
        sys::join_namespaces(descriptors.get(slot)?, libc::CLONE_NEWIPC)
            .step("join the IPC namespace")?;
    }
    enter_network(task, descriptors)
}

/// What a root is put together on: the stage, with /proc and /dev.
struct Ground {
    stage: Stage,
    kernel_files: KernelFiles,
}

impl Ground {
    fn lay(surroundings: &Surroundings) -> Result<Self> {
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .step("make mounts private")?;
        let stage = Stage::new()?;
        let kernel_files = KernelFiles::make(surroundings, &stage)?;
        Ok(Self {
            stage,
            kernel_files,
        })
    }
}

fn become_command(
    task: &Task,
    descriptors: &Descriptors,
    ground: Ground,
) -> std::result::Result<Infallible, Stop> {
    let status = descriptors.get(task.status)?;
    let Ground {
        stage,
        kernel_files,
    } = ground;
    let root = stage.attach(descriptors.get(task.root)?, "root")?;
    let mut points = MountPoints::new(root.as_fd()).step("look at the root")?;
    root::note_own(task, &mut points, root.as_fd(), false)?;
    let shared_memory = task.shared_memory.map(|slot| descriptors.get(slot));
    let shared_memory = shared_memory.transpose()?;
    kernel_files.mount(task, shared_memory, &mut points, root.as_fd())?;
    root::mount_all(task, descriptors, &stage, &mut points)?;
    let master = match task.stdio {
        Stdio::Terminal { rows, columns } => Some(terminal::open_inside(
            root.as_fd(),
            (rows, columns),
            task.terminal_owner(),
        )?),
        Stdio::Streams(_) => None,
    };
    let (stubs, parents) = (
        std::mem::take(&mut points.stubs),
        std::mem::take(&mut points.parents),
    );
    let own_mounts = std::mem::take(&mut points.own_mounts);
    let cwd = root::prepare_cwd(task, &mut points);
    root::enter_root(&root)?;
    drop((stage, root));
    let cwd = cwd?;
    if task.read_only_root {
        root::make_root_read_only()?;
    }

    if !task.spaces.machines_names {
        rustix::system::sethostname(task.hostname.as_bytes()).step("set the host name")?;
        set_domainname(task)?;
    }
    privileges::set_limits(task)?;
    let ready = Report::Ready { stubs, parents };
    match &master {
        Some(pair) => wire::send(status, &ready, &[pair.master.as_fd()]),
        None => wire::send(status, &ready, &[]),
    }
    .step("report")?;
    streams::take_streams(task, descriptors, master.as_ref())?;
    streams::own_null(None)?;
    sys::close_on_exec_from(3).step("close descriptors")?;
    root::enter_cwd(cwd.as_fd())?;
    if task.outer_proc {
        outer_proc::enter_own_user_namespace(task)?;
    }
    privileges::drop_privileges(task, status, own_mounts)?;
    if task.init {
        reaper::become_init(matches!(task.stdio, Stdio::Terminal { .. }))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Err(execute(task))
}

/// Death is contagious: when the builder dies, so does the sandbox, and with it everything in its pid namespace.
pub(super) fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .step("tie the command's life to the builder's")
}

/// Into its cgroups first, so that they are the root of the cgroup namespace.
fn join_cgroups(task: &Task, descriptors: &Descriptors) -> Result<()> {
    if let Some(score) = task.oom_score_adj {
        // Such files of a process that is not dumpable are nobody's. There is nobody inside yet who could look.
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let step = || format!("set oom_score_adj to {score}");
        set_dumpable_behavior(DumpableBehavior::Dumpable).step(step())?;
        let set = std::fs::write("/proc/self/oom_score_adj", score.to_string());
        set_dumpable_behavior(DumpableBehavior::NotDumpable).step(step())?;
        set.step(step())?;
    }
    for slot in &task.cgroups {
        rustix::io::write(descriptors.get(*slot)?, b"0").step("join the cgroup")?;
    }
    sys::unshare(UnshareFlags::NEWCGROUP).step("make a cgroup namespace")
}

fn enter_network(task: &Task, descriptors: &Descriptors) -> Result<()> {
    match task.network {
        Network::Host => Ok(()),
        Network::Own => {
            crate::network::let_users_listen();
            sys::network::loopback_up().step("bring the loopback interface up")
        }
        Network::Join(slot) => rustix::thread::move_into_link_name_space(
            descriptors.get(slot)?,
            Some(LinkNameSpaceType::Network),
        )
        .step("join the network namespace"),
    }
}

pub(super) fn set_domainname(task: &Task) -> Result<()> {
    if task.domainname.is_empty() {
        return Ok(());
    }
    rustix::system::setdomainname(task.domainname.as_bytes()).step("set the domain name")
}

pub(super) fn execute(task: &Task) -> Stop {
    let strings = |list: &[Bytes]| -> std::result::Result<Vec<CString>, Stop> {
        list.iter()
            .map(|bytes| CString::new(bytes.0.clone()))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Stop::NotExecutable {
                explanation: "an argument or variable holds a zero byte".into(),
                not_found: false,
            })
    };
    let (argv, env) = match (strings(&task.command.argv), strings(&task.command.env)) {
        (Ok(argv), Ok(env)) => (argv, env),
        (Err(stop), _) | (_, Err(stop)) => return stop,
    };
    let candidate = match program::find(&task.command.argv, &task.command.env) {
        Ok(path) => path,
        Err(stop) => return stop,
    };
    let Ok(path) = CString::new(candidate.as_os_str().as_bytes()) else {
        return Stop::NotExecutable {
            explanation: "its name holds a zero byte".into(),
            not_found: true,
        };
    };
    let error = sys::execve(&path, &argv, &env);
    let (explanation, not_found) = explain::explain(&candidate, &error);
    Stop::NotExecutable {
        explanation,
        not_found,
    }
}

pub(super) fn path_of(bytes: &Bytes) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(&bytes.0))
}

fn display(bytes: &Bytes) -> String {
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes.0))
        .display()
        .to_string()
}
