//! The first process of a sandbox, from its birth in new namespaces to its `execve`: one screen that follows the
//! plan from top to bottom. The order is a matter of security; each step names itself when it fails.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitiesSecureBits, LinkNameSpaceType, UnshareFlags};

use super::ceilings::Ceilings;
use super::in_root::{self, MountPoints};
use super::kernel_files::KernelFiles;
use super::mounts::{self, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use super::plan::{
    Bytes, Devices, Mount, Network, Report, Slot, Source, Stdio, Surroundings, Task,
};
use super::seccomp::profile::Rules;
use super::step::{Failure, Result, Step};
use super::{
    bare, capabilities, explain, foreign, outer_proc, program, reaper, seccomp, terminal, wire,
};
use crate::host::Privilege;
use crate::sys;

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
    note_own(task, &mut points, root.as_fd())?;
    kernel_files.mount(task, &mut points, root.as_fd())?;
    mount_all(task, descriptors, &stage, &mut points)?;
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
    let cwd = prepare_cwd(task, &mut points);
    enter_root(&root)?;
    drop((stage, root));
    let cwd = cwd?;
    if task.read_only_root {
        make_root_read_only()?;
    }

    rustix::system::sethostname(task.hostname.as_bytes()).step("set the host name")?;
    set_domainname(task)?;
    set_limits(task)?;
    let ready = Report::Ready { stubs, parents };
    match &master {
        Some(pair) => wire::send(status, &ready, &[pair.master.as_fd()]),
        None => wire::send(status, &ready, &[]),
    }
    .step("report")?;
    take_streams(task, descriptors, master.as_ref())?;
    own_null(None)?;
    sys::close_on_exec_from(3).step("close descriptors")?;
    enter_cwd(cwd.as_fd())?;
    if task.outer_proc {
        outer_proc::enter_own_user_namespace(task)?;
    }
    drop_privileges(task, status, own_mounts)?;
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
    if let (Some(score), None) = (task.oom_score_adj, task.spared_from_outside()) {
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
        Network::Own => sys::network::loopback_up().step("bring the loopback interface up"),
        Network::Join(slot) => rustix::thread::move_into_link_name_space(
            descriptors.get(slot)?,
            Some(LinkNameSpaceType::Network),
        )
        .step("join the network namespace"),
    }
}

/// A tmpfs over the old root, where detached mounts are attached so that they can be used and copied from.
pub(super) struct Stage {
    directory: OwnedFd,
    path: PathBuf,
}

impl Stage {
    fn new() -> Result<Self> {
        let directory = mounts::make("tmpfs", &[("mode", "0700")], NO_SUID | NO_DEV | NO_EXEC)
            .step("make the stage of the root")?;
        let old_root = rustix::fs::openat(
            CWD,
            "/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .step("open the old root")?;
        mounts::attach(directory.as_fd(), old_root.as_fd()).step("attach the stage")?;
        Ok(Self {
            directory,
            path: PathBuf::from("/"),
        })
    }

    /// In a directory of its own.
    pub(super) fn at(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty());
        Ok(Self {
            directory: directory.step("open the stage")?,
            path: path.to_owned(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Attaches a detached mount under a name and returns its root.
    pub(super) fn attach(&self, tree: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
        self.attach_as(tree, name, true)
    }

    /// Of a directory or of a file.
    pub(super) fn attach_as(
        &self,
        tree: BorrowedFd<'_>,
        name: &str,
        directory: bool,
    ) -> Result<OwnedFd> {
        let step = || format!("attach the mount `{name}`");
        if directory {
            rustix::fs::mkdirat(&self.directory, name, Mode::from_raw_mode(0o700)).step(step())?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o600);
            drop(rustix::fs::openat(&self.directory, name, flags, mode).step(step())?);
        }
        let open = || {
            rustix::fs::openat(
                &self.directory,
                name,
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        let target = open().step(step())?;
        mounts::attach(tree, target.as_fd()).step(step())?;
        open().step(step())
    }
}

fn mount_all(
    task: &Task,
    descriptors: &Descriptors,
    stage: &Stage,
    points: &mut MountPoints<'_>,
) -> Result<()> {
    let files = stage.attach(descriptors.get(task.files)?, "files")?;
    for (index, mount) in task.mounts.iter().enumerate() {
        let target = display(&mount.target);
        let (tree, directory) = source(mount, descriptors, stage, &files, index)?;
        let mut attributes = NO_DEV;
        if mount.read_only {
            attributes |= READ_ONLY;
        }
        if !matches!(mount.source, Source::Tree { .. } | Source::Whole { .. }) {
            attributes |= NO_SUID;
        }
        if !matches!(mount.source, Source::Whole { .. }) {
            note_own(task, points, tree.as_fd())?;
        }
        restrict(mount, tree.as_fd(), attributes)
            .step(format!("set the options of the mount at {target}"))?;
        let point = points
            .ensure(path_of(&mount.target), directory)
            .step(format!("make the mount point {target}"))?;
        refuse_own(&point, points, &target)?;
        mounts::attach(tree.as_fd(), point.as_fd()).step(format!("mount at {target}"))?;
    }
    Ok(())
}

/// Sets the options of a detached mount, and says whether others travel to it.
pub(super) fn restrict(
    mount: &Mount,
    tree: BorrowedFd<'_>,
    attributes: MountAttrFlags,
) -> std::result::Result<(), Errno> {
    match mount.propagation {
        // As it was when it was copied.
        Some(_) => mounts::restrict(tree, true, attributes),
        None => mounts::restrict_privately(tree, attributes),
    }
}

/// Where root of a user namespace may have devices made: not where others would find them.
pub(super) fn note_own(
    task: &Task,
    points: &mut MountPoints<'_>,
    tree: BorrowedFd<'_>,
) -> Result<()> {
    if task.makes_devices() {
        let id = in_root::mount_id(tree).step("look at a mount")?;
        points.own_mounts.push(id);
    }
    Ok(())
}

/// A target that leads, through links, to the root or into /proc would take away what the sandbox stands on.
pub(super) fn refuse_own(point: &OwnedFd, points: &MountPoints<'_>, target: &str) -> Result<()> {
    let step =
        || format!("mount at the target {target}, which leads to a part of the sandbox itself");
    let file_system = rustix::fs::fstatfs(point).step(step())?;
    if file_system.f_type == rustix::fs::PROC_SUPER_MAGIC || points.is_root(point).step(step())? {
        return Err(Failure {
            step: step(),
            errno: libc::EBUSY,
        });
    }
    Ok(())
}

/// The detached mount of a source, and whether it is a directory.
pub(super) fn source(
    mount: &Mount,
    descriptors: &Descriptors,
    stage: &Stage,
    files: &OwnedFd,
    index: usize,
) -> Result<(OwnedFd, bool)> {
    let target = display(&mount.target);
    match &mount.source {
        Source::Tmpfs(tmpfs) => {
            let options = [
                ("mode", Some(format!("{:o}", tmpfs.mode.unwrap_or(0o1777)))),
                ("size", tmpfs.size.map(|size| size.to_string())),
                ("uid", tmpfs.uid.map(|uid| uid.to_string())),
                ("gid", tmpfs.gid.map(|gid| gid.to_string())),
                ("nr_inodes", tmpfs.inodes.map(|most| most.to_string())),
            ];
            let options: Vec<(&str, &str)> = options
                .iter()
                .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
                .collect();
            let mut attributes = NO_SUID | NO_DEV;
            if tmpfs.no_exec {
                attributes |= NO_EXEC;
            }
            let tree = mounts::make("tmpfs", &options, attributes)
                .step(format!("make the tmpfs for {target}"))?;
            Ok((tree, true))
        }
        Source::File { name } => {
            let step = || format!("open the file for {target}");
            let file = in_root::open(files.as_fd(), Path::new(name), OFlags::PATH).step(step())?;
            Ok((mounts::copy(file.as_fd(), false).step(step())?, false))
        }
        Source::Whole { tree } => {
            let step = || format!("look at the source of the mount at {target}");
            let tree = descriptors.get(*tree)?.try_clone_to_owned().step(step())?;
            let stat = rustix::fs::fstat(&tree).step(step())?;
            let directory = in_root::file_type(&stat) == rustix::fs::FileType::Directory;
            Ok((tree, directory))
        }
        Source::Tree { tree, path } => {
            let root = stage.attach(descriptors.get(*tree)?, &index.to_string())?;
            let step = || {
                format!(
                    "open `{}`, the source of the mount at {target}",
                    display(path)
                )
            };
            let found = in_root::open(root.as_fd(), path_of(path), OFlags::PATH).step(step())?;
            let stat = rustix::fs::fstat(&found).step(step())?;
            let directory = in_root::file_type(&stat) == rustix::fs::FileType::Directory;
            Ok((mounts::copy(found.as_fd(), true).step(step())?, directory))
        }
    }
}

/// The working directory, made where it is missing; unlike mount points it stays.
pub(super) fn prepare_cwd(task: &Task, points: &mut MountPoints<'_>) -> Result<OwnedFd> {
    let result = points.ensure(path_of(&task.command.cwd), true);
    result.step(format!(
        "enter the working directory {}",
        display(&task.command.cwd)
    ))
}

/// The root becomes `/`; the old one, the stage and all of the host's mounts go.
fn enter_root(root: &OwnedFd) -> Result<()> {
    let old = rustix::fs::openat(
        CWD,
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("open the old root")?;
    rustix::process::fchdir(root).step("enter the root")?;
    rustix::process::pivot_root(".", ".").step(
        "make the root the root (this fails when the machine runs from its initial RAM disk)",
    )?;
    // The old root now lies over the new one, and the stage over the old root; `old` is the way to them.
    rustix::process::fchdir(&old).step("enter the old root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("leave the stage")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("leave the old root")?;
    rustix::process::chdir("/").step("enter the root")?;
    nothing_above_root()
}

/// `/..` leads to whatever is mounted over the root: nothing may be.
fn nothing_above_root() -> Result<()> {
    let mount_of = |path: &str| {
        rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
            .map(|stat| (stat.stx_mnt_id, stat.stx_ino))
    };
    let step = "make sure that the old root is gone";
    if mount_of("/").step(step)? == mount_of("/..").step(step)? {
        Ok(())
    } else {
        Err(Failure {
            step: step.into(),
            errno: libc::EBUSY,
        })
    }
}

fn make_root_read_only() -> Result<()> {
    let root = rustix::fs::openat(
        CWD,
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("open the root")?;
    mounts::restrict(root.as_fd(), false, READ_ONLY).step("make the root read-only")
}

pub(super) fn set_domainname(task: &Task) -> Result<()> {
    if task.domainname.is_empty() {
        return Ok(());
    }
    rustix::system::setdomainname(task.domainname.as_bytes()).step("set the domain name")
}

pub(super) fn set_limits(task: &Task) -> Result<()> {
    for limit in &task.limits {
        let resource: Resource = limit.kind.resource();
        let set = |soft: u64, hard: u64| {
            let value = |number: u64| (number != u64::MAX).then_some(number);
            rustix::process::setrlimit(
                resource,
                Rlimit {
                    current: value(soft),
                    maximum: value(hard),
                },
            )
        };
        let result = match set(limit.soft, limit.hard) {
            // Our own defaults go as far as they may.
            Err(Errno::PERM) if !limit.asked => {
                let most = rustix::process::getrlimit(resource)
                    .maximum
                    .unwrap_or(u64::MAX);
                set(limit.soft.min(most), limit.hard.min(most))
            }
            result => result,
        };
        result.step(format!("set the limit {:?}", limit.kind))?;
    }
    Ok(())
}

/// The command's 0, 1 and 2; whatever the spawner had there goes.
pub(super) fn take_streams(
    task: &Task,
    descriptors: &Descriptors,
    terminal: Option<&terminal::Inside>,
) -> Result<()> {
    let streams = match (task.stdio, terminal) {
        (Stdio::Streams(slots), _) => slots.map(|slot| descriptors.get(slot)),
        (Stdio::Terminal { .. }, Some(terminal)) => [
            Ok(terminal.slave.as_fd()),
            Ok(terminal.slave.as_fd()),
            Ok(terminal.slave.as_fd()),
        ],
        (Stdio::Terminal { .. }, None) => {
            return Err(Failure {
                step: "open the terminal".into(),
                errno: libc::ENOTTY,
            });
        }
    };
    let [input, output, error] = streams;
    rustix::stdio::dup2_stdin(input?).step("set standard input")?;
    rustix::stdio::dup2_stdout(output?).step("set standard output")?;
    rustix::stdio::dup2_stderr(error?).step("set standard error")?;
    if let Some(terminal) = terminal {
        rustix::process::ioctl_tiocsctty(&terminal.slave).step("take the terminal")?;
    }
    Ok(())
}

/// Where a stream is the machine's null device, it becomes the root's (`null`, or else what is at /dev/null by now): by a
/// descriptor of the machine's, who is the machine's root could change its mode for everybody.
pub(super) fn own_null(null: Option<BorrowedFd<'_>>) -> Result<()> {
    type Replace = fn(BorrowedFd<'_>) -> rustix::io::Result<()>;
    let step = "replace the machine's null device";
    let streams: [(BorrowedFd<'_>, Replace); 3] = [
        (rustix::stdio::stdin(), |null| {
            rustix::stdio::dup2_stdin(null)
        }),
        (rustix::stdio::stdout(), |null| {
            rustix::stdio::dup2_stdout(null)
        }),
        (rustix::stdio::stderr(), |null| {
            rustix::stdio::dup2_stderr(null)
        }),
    ];
    let mut replaced = Vec::new();
    for (stream, replace) in streams {
        if is_null(stream).step(step)? {
            replaced.push(replace);
        }
    }
    if replaced.is_empty() {
        return Ok(());
    }
    let opened;
    let null = match null {
        Some(null) => null,
        None => {
            // Not through a link, and nothing that one would have to wait for.
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            opened = rustix::fs::open("/dev/null", flags, Mode::empty()).step(step)?;
            rustix::io::ioctl_fionbio(&opened, false).step(step)?;
            opened.as_fd()
        }
    };
    if !is_null(null).step(step)? {
        return Err(Failure {
            step: step.into(),
            errno: libc::ENODEV,
        });
    }
    for replace in replaced {
        replace(null).step(step)?;
    }
    Ok(())
}

fn is_null(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let it = rustix::fs::fstat(fd)?;
    let is_device = FileType::from_raw_mode(it.st_mode) == FileType::CharacterDevice;
    Ok(is_device && it.st_rdev == rustix::fs::makedev(1, 3))
}

/// Enters by descriptor and makes sure that the result is inside.
pub(super) fn enter_cwd(cwd: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(cwd).step("enter the working directory")?;
    let now = rustix::process::getcwd(Vec::new()).step("enter the working directory")?;
    if now.to_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(Failure {
            step: "enter the working directory, which is outside of the root".into(),
            errno: libc::EXDEV,
        })
    }
}

/// `own_mounts`: see [`note_own`].
pub(super) fn drop_privileges(
    task: &Task,
    status: BorrowedFd<'_>,
    own_mounts: Vec<u64>,
) -> Result<()> {
    let single_id = task.privilege == Privilege::SingleId;
    sys::join_session_keyring()
        .or_else(ignore_missing)
        .step("make a keyring")?;
    if single_id && task.command.uid != 0 {
        // Whoever it appears to be, the kernel knows it as root, who would get capabilities by executing anything.
        rustix::thread::set_capabilities_secure_bits(
            CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED,
        )
        .step("give up what root has")?;
    }
    capabilities::bound(task.capabilities)?;
    // Installed while the right to do so is still there, instead of by giving up new privileges: setuid programs of
    // an image work.
    if let Some(filter) = task.filter {
        let program = seccomp::program(filter);
        if filter.emulation || filter.devices != Devices::Kernel {
            emulate(&program, status, own_mounts)?;
        } else {
            sys::notify::install_filter(&program, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW)
                .step("install the system call filter")?;
        }
    }
    if task.profile.is_some() && !single_id && task.command.uid != 0 {
        rustix::thread::set_keep_capabilities(true).step("keep what installs a filter")?;
    }
    if !single_id {
        take_ids(task)?;
    }
    if task.no_new_privileges {
        rustix::thread::set_no_new_privs(true).step("give up new privileges")?;
    }
    let Some(profile) = &task.profile else {
        capabilities::take(task.capabilities, task.command.uid)?;
        return protect_again();
    };
    // Whoever wrote it thought of the command: what we still do ourselves is no more than giving up capabilities.
    capabilities::clear_ambient()?;
    protect_again()?;
    let left = capabilities::permitted_of(task.capabilities, task.command.uid)
        .step("look at the capabilities")?;
    install(profile)?;
    capabilities::take_permitted(left)
        .step("give up capabilities, which the seccomp profile has to allow")
}

/// What a change of ids takes away.
fn protect_again() -> Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .step("protect the first process")?;
    die_with_parent()
}

/// The user's filter, which the kernel lets nobody install who could not do more.
fn install(profile: &Rules) -> Result<()> {
    let step = "install the filter of the seccomp profile";
    capabilities::raise_permitted().step(step)?;
    let program = profile.program().ok_or_else(|| Failure {
        step: step.into(),
        errno: libc::E2BIG,
    })?;
    sys::notify::install_filter(&program, profile.flags()).step(step)
}

/// From here on, calls about ids, owners and devices are answered by the builder.
fn emulate(
    program: &[libc::sock_filter],
    status: BorrowedFd<'_>,
    own_mounts: Vec<u64>,
) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mounts = rustix::fs::openat(CWD, "/proc/self/ns/mnt", flags, Mode::empty())
        .step("open the mount namespace")?;
    let listener = sys::notify::install_with_listener(program)
        .step("install the system call filter (another may be listening already)")?;
    wire::send(
        status,
        &Report::Emulate { mounts: own_mounts },
        &[listener.as_fd(), mounts.as_fd()],
    )
    .step("report")
}

/// Kernels can be built without keyrings.
fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.raw_os_error() == Some(libc::ENOSYS) {
        Ok(())
    } else {
        Err(error)
    }
}

pub(super) fn take_ids(task: &Task) -> Result<()> {
    let gid = |id: u32| Gid::from_raw(id);
    let groups: Vec<Gid> = task.command.groups.iter().copied().map(gid).collect();
    rustix::thread::set_thread_groups(&groups).step("set supplementary groups")?;
    let (uid, gid) = (Uid::from_raw(task.command.uid), gid(task.command.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .step(format!("become group {}", task.command.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .step(format!("become user {}", task.command.uid))
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
