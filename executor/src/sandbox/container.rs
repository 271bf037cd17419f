//! A command that others reach while it runs: they signal it, enter it, look at it and halt it through its
//! [`Handle`], all of them at once. [`Container::finish`] sees it to its end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::{ActiveSnapshot, RootDir, SnapshotId, Store};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::bare::{self, Bare, Live};
use super::cgroup::Cgroup;
use super::halted::Halted;
use super::join;
use super::plan::Task;
use super::prepare::setup;
use super::{Enter, Entered, ExecError, Signals, Usage, brief, stubs, wait};
use crate::Executor;
use crate::host::Host;
use crate::mapped::Mapped;
use crate::merged::{Files, Merged};
use crate::overlay::{self, Below, Durability, Lowers};
use crate::spec::{Exec, Exit, Limits, Stdio};

/// Where what a command writes ends up.
#[derive(Debug)]
pub enum Top {
    /// In a layer that becomes a snapshot or goes.
    Own(ActiveSnapshot),
    /// In directories that are somebody else's; the work directory must be fresh. What is not `durable` may be
    /// lost in a power cut, whatever the command syncs.
    Kept {
        upper: PathBuf,
        work: PathBuf,
        durable: bool,
    },
}

impl Top {
    pub(super) fn mount(
        &self,
        store: &Store,
        base: Option<&SnapshotId>,
        below: (Below, Option<&Mapped>),
    ) -> Result<OwnedFd, overlay::Error> {
        match self {
            Self::Own(layer) => {
                let top = (layer.upper(), layer.work());
                overlay::writable_at(store, base, top, Durability::Never, below)
            }
            Self::Kept {
                upper,
                work,
                durable,
            } => {
                let sync = if *durable {
                    Durability::AsAsked
                } else {
                    Durability::Never
                };
                overlay::writable_at(store, base, (upper, work), sync, below)
            }
        }
    }
}

/// A container that was started.
#[must_use = "dropping it kills the container"]
pub struct Container {
    started: wait::Started,
    handle: Handle,
}

/// What others reach a container by. It may have ended.
#[derive(Debug, Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    host: Host,
    pidfd: OwnedFd,
    pid: u32,
    task: Task,
    /// Under another runtime.
    foreign: Option<Mutex<Foreign>>,
    /// Where there are no namespaces.
    bare: Option<Arc<Live>>,
    cgroups: Mutex<Cgroups>,
    /// Where no cgroup halts it.
    halted: Mutex<Option<Halted>>,
}

#[derive(Debug)]
struct Cgroups {
    /// That the container was started in: directories that whoever waits for it removes.
    first: Vec<PathBuf>,
    /// Made since, to halt the container or to limit it.
    later: Vec<Cgroup>,
}

impl Cgroups {
    fn directories(&self) -> Vec<PathBuf> {
        let later = self.later.iter().flat_map(Cgroup::directories);
        self.first.iter().chain(later).cloned().collect()
    }
}

impl Executor {
    /// Starts a container. `accounted`: in a cgroup even where no limit asks for one, as far as the machine
    /// allows. Whether the command could be executed shows in [`Container::finish`].
    pub async fn start(
        &self,
        base: Option<&SnapshotId>,
        exec: Exec,
        stdio: Stdio,
        cancel: &CancellationToken,
        top: Top,
        accounted: bool,
    ) -> Result<Container, ExecError> {
        let begun = self.begin(base.cloned(), exec, stdio, cancel, top, accounted);
        let mut started = begun.await?;
        let handle = (|| {
            let pidfd = started.session.pidfd()?;
            Ok(Handle {
                inner: Arc::new(Inner {
                    host: self.host.clone(),
                    pid: crate::sys::pid_of(pidfd.as_fd())?,
                    pidfd,
                    task: started.task.clone(),
                    foreign: started
                        .announced
                        .take()
                        .map(|socket| Mutex::new(Foreign::Announced(socket))),
                    bare: started.bare.as_ref().map(Bare::live),
                    cgroups: Mutex::new(Cgroups {
                        first: started
                            .cgroup
                            .as_ref()
                            .map_or_else(Vec::new, |cgroup| cgroup.directories().to_vec()),
                        later: Vec::new(),
                    }),
                    halted: Mutex::new(None),
                }),
            })
        })();
        let handle = handle.map_err(|error: io::Error| setup("find the container", error))?;
        Ok(Container { started, handle })
    }
}

impl Executor {
    /// Fills an empty directory with what a snapshot has at `path`, where it has a directory there, and makes `volume`,
    /// which may be the same, look like that. Blocking.
    pub fn copy_up(
        &self,
        directory: &Path,
        volume: &Path,
        snapshot: &SnapshotId,
        path: &Path,
    ) -> Result<(), ExecError> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .map_err(|errno| setup("open a volume", io::Error::from(errno)))
        };
        let (directory, volume) = (open(directory)?, open(volume)?);
        let to = (directory.as_fd(), volume.as_fd());
        super::cache_content::copy_up(&self.store, to, (snapshot, path))
    }
}

/// The root of a container that does not run.
#[derive(Debug)]
pub struct Standing {
    pub root: RootDir,
    /// Where nothing can be mounted: what is changed in it is kept when that is said.
    merged: Option<Merged>,
}

impl Standing {
    /// What was changed in it is the container's from here on. `top` is what it was opened with. Blocking.
    pub fn keep(self, top: &Top) -> Result<(), ExecError> {
        match (self.merged, top) {
            (Some(merged), Top::Kept { upper, work, .. }) => bare::keep(upper, work, |layer| {
                let made = merged.into_layer(layer);
                made.map_err(|error| setup("keep what was changed", error))
            }),
            _ => Ok(()),
        }
    }
}

impl Executor {
    /// The root of a container that does not run, with its own layer on top, detached from any namespace. To be changed
    /// only where it is `written`, and then [`Standing::keep`] is to be called.
    pub fn open_root(
        &self,
        base: Option<&SnapshotId>,
        top: &Top,
        written: bool,
    ) -> Result<Standing, overlay::Error> {
        let merged = match top {
            Top::Kept { upper, .. } if !self.has_namespaces() => {
                let files = if written {
                    Files::Copied
                } else {
                    Files::Linked
                };
                let lowers = Lowers::of(&self.store, base, false)?;
                Some(lowers.merged_with(&self.store, upper, files)?)
            }
            _ => None,
        };
        let root = match &merged {
            Some(merged) => merged.root()?,
            None => top
                .mount(&self.store, base, (Below::Nothing, None))
                .map(RootDir::from_fd)?,
        };
        Ok(Standing { root, merged })
    }
}

/// Removes the cgroups of a container whose process was killed.
pub fn remove_cgroups(directories: &[PathBuf]) {
    super::cgroup::remove(directories.iter().map(PathBuf::as_path));
}

impl Container {
    /// By which others reach it while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits for its end. With `signals`, those that reach this process are the container's.
    pub async fn finish(
        self,
        cancel: &CancellationToken,
        signals: Option<Signals>,
    ) -> Result<Exit, ExecError> {
        let ended = self.started.finish(None, cancel, signals).await?;
        brief(false, move || {
            let exit = ended.exit;
            let mut ended = ended;
            match (&ended.top, ended.bare.take()) {
                (Top::Kept { upper, work, .. }, Some(bare)) => bare.keep(upper, work)?,
                (Top::Kept { upper, .. }, None) => {
                    let removed = stubs::remove(upper, &ended.stubs, &ended.parents);
                    removed.map_err(|errno| {
                        setup("remove the mount points", io::Error::from(errno))
                    })?;
                }
                (Top::Own(_), _) => {}
            }
            drop(ended);
            Ok(exit)
        })
        .await
    }
}

/// How long a container under another runtime may take to have a process.
const FOREIGN_BEGINS: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The container's first process below the one of ours that has another runtime make it.
#[derive(Debug)]
enum Foreign {
    /// Told on this socket when it has begun.
    Announced(OwnedFd),
    Known(OwnedFd),
}

impl Foreign {
    /// Its number, as soon as there is one. Blocking.
    fn pid(&mut self) -> io::Result<u32> {
        let none = || io::Error::from(rustix::io::Errno::SRCH);
        if let Self::Announced(socket) = self {
            let mut polled = [PollFd::new(&*socket, PollFlags::IN)];
            let told = loop {
                match rustix::event::poll(&mut polled, Some(&FOREIGN_BEGINS)) {
                    Err(rustix::io::Errno::INTR) => {}
                    told => break told?,
                }
            };
            if told == 0 {
                return Err(none());
            }
            let told = crate::wire::receive::<()>(socket.as_fd())?;
            *self = Self::Known(told.and_then(|(_, mut told)| told.pop()).ok_or_else(none)?);
        }
        match self {
            Self::Known(pidfd) => crate::sys::pid_of(pidfd.as_fd()),
            Self::Announced(_) => Err(none()),
        }
    }
}

/// A process of the sandbox that can be looked at and entered by. Its first one is not where that is our own init and
/// we are no root, for what it has in its memory is nobody's business: then it is a child of that.
fn representative(pid: u32) -> io::Result<u32> {
    let can_be_seen = |pid: u32| std::fs::metadata(format!("/proc/{pid}/ns/pid"));
    let error = match can_be_seen(pid) {
        Ok(_) => return Ok(pid),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        Err(error) => return Err(error),
    };
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name, which may hold anything: the state, the parent.
        stat.rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()
    };
    let processes = std::fs::read_dir("/proc")?;
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let children = numbers.filter(|other| parent(*other) == Some(pid));
    let seen = children.filter(|child| can_be_seen(*child).is_ok()).min();
    seen.ok_or(error)
}

pub(super) fn pidfd_of(pid: u32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed());
    let pid = pid.ok_or(rustix::io::Errno::SRCH)?;
    let flags = rustix::process::PidfdFlags::empty();
    Ok(rustix::process::pidfd_open(pid, flags)?)
}

impl Handle {
    fn representative(&self) -> io::Result<u32> {
        match &self.inner.foreign {
            Some(foreign) => {
                let mut foreign = foreign.lock().unwrap_or_else(PoisonError::into_inner);
                foreign.pid()
            }
            None => representative(self.inner.pid),
        }
    }

    /// Of its first process, as the host counts; under another runtime, of ours around it.
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// Whether both are of the same run of the same container.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Signals its first process. Errors: `ESRCH` when it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let signal = match (&self.inner.bare, signal) {
            // A process of ours stays with the command where no namespace does; it ends all others before it ends itself,
            // and hands on what can be waited for.
            (_, Signal::KILL) => self.inner.task.end(),
            (Some(_), Signal::STOP) => return self.stop(),
            (_, signal) => signal,
        };
        Ok(rustix::process::pidfd_send_signal(
            &self.inner.pidfd,
            signal,
        )?)
    }

    /// Stops the command itself.
    fn stop(&self) -> io::Result<()> {
        let oldest = || -> io::Result<u32> {
            let processes = bare::below(self.inner.pid, 1)?;
            Ok(*processes.first().ok_or(rustix::io::Errno::SRCH)?)
        };
        let pid = oldest()?;
        let command = pidfd_of(pid)?;
        // The number may have gone to another process meanwhile.
        self.signal_probe()?;
        if oldest()? != pid {
            return Err(rustix::io::Errno::SRCH.into());
        }
        Ok(rustix::process::pidfd_send_signal(&command, Signal::STOP)?)
    }

    /// Its root, as it sees it itself, with all that is mounted in there.
    pub fn root(&self) -> io::Result<RootDir> {
        if let Some(bare) = &self.inner.bare {
            return bare.root();
        }
        let seen = self.representative()?;
        let root = RootDir::open_ambient(format!("/proc/{seen}/root").as_ref())?;
        // The number may have gone to another process meanwhile.
        self.signal_probe()?;
        Ok(root)
    }

    fn signal_probe(&self) -> io::Result<()> {
        let mut polled = [rustix::event::PollFd::new(
            &self.inner.pidfd,
            rustix::event::PollFlags::IN,
        )];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match rustix::event::poll(&mut polled, Some(&now))? {
            0 => Ok(()),
            _ => Err(io::Error::from(rustix::io::Errno::SRCH)),
        }
    }

    /// Starts a process in all of its namespaces, with its capabilities, its filter and its limits. Blocking.
    pub fn enter(&self, enter: Enter) -> Result<Entered, ExecError> {
        if let Some(bare) = &self.inner.bare {
            let cgroups = self.cgroups().directories();
            return bare::enter(&self.inner.host, &self.inner.task, bare, &cgroups, enter);
        }
        let root = self
            .root()
            .map_err(|error| setup("enter the container, which has ended", error))?;
        let cgroups = self.cgroups().directories();
        let inner = &self.inner;
        let seen = self
            .representative()
            .map_err(|error| setup("enter the container, which has ended", error))?;
        let another = if seen == inner.pid {
            None
        } else {
            Some(pidfd_of(seen).map_err(|error| setup("enter the container", error))?)
        };
        let pidfd = another.as_ref().unwrap_or(&inner.pidfd);
        let target = (pidfd.as_fd(), seen);
        join::start(&inner.host, &inner.task, target, &root, &cgroups, enter)
    }

    /// Halts all of its processes, or lets them go on. Blocking.
    pub fn freeze(&self, frozen: bool) -> Result<(), ExecError> {
        let halted = self.inner.halted.lock();
        let mut halted = halted.unwrap_or_else(PoisonError::into_inner);
        if !frozen && halted.take().is_some() {
            return Ok(());
        }
        let mut cgroups = self.cgroups();
        match super::cgroup::freeze(&cgroups.directories(), frozen) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result.map_err(|error| setup("halt the container", error)),
        }
        let cgroup = match Cgroup::around(None, || self.processes()) {
            Err(_) if frozen => {
                let all = Halted::all(|| self.processes());
                *halted = Some(all.map_err(|error| setup("halt the container", error))?);
                return Ok(());
            }
            made => made?,
        };
        super::cgroup::freeze(cgroup.directories(), frozen)
            .map_err(|error| setup("halt the container", error))?;
        cgroups.later.push(cgroup);
        Ok(())
    }

    /// Holds it to other limits from now on: those that its cgroups hold.
    pub fn set_limits(&self, limits: &Limits) -> Result<(), ExecError> {
        let mut others = limits.clone();
        if let Some(counted) = self.inner.host.counted() {
            if limits.pids != Some(counted.most()) {
                return Err(setup(
                    "limit pids: what the kernel counts in a user namespace is fixed while the container runs",
                    "stop it before its number of processes is changed",
                ));
            }
            others.pids = None;
        }
        let limits = &others;
        let mut cgroups = self.cgroups();
        let missing = super::cgroup::change(&cgroups.directories(), limits)?;
        if !missing.is_empty() {
            let cgroup = Cgroup::around(Some((missing, limits)), || self.processes())?;
            cgroups.later.push(cgroup);
        }
        Ok(())
    }

    /// Its processes, as the host counts.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        if let Some(bare) = &self.inner.bare {
            return bare.processes(self.inner.pid);
        }
        let seen = self.representative()?;
        if self.inner.task.is_kept() {
            let mut processes = super::cgroup::processes_with(seen, "mnt")?;
            processes.retain(|pid| *pid != self.inner.pid);
            return Ok(processes);
        }
        let mut processes = super::cgroup::processes_with(seen, "pid")?;
        if self.inner.task.runtime.is_none() && !processes.contains(&self.inner.pid) {
            processes.insert(0, self.inner.pid);
        }
        Ok(processes)
    }

    /// Copies what it has changed by now in its root into an empty directory, as a layer. Only where there are no
    /// namespaces: elsewhere that is written where it is kept. Blocking.
    pub fn changes(&self, layer: &Path) -> io::Result<()> {
        match &self.inner.bare {
            Some(bare) => bare.changes(layer),
            None => Err(rustix::io::Errno::OPNOTSUPP.into()),
        }
    }

    /// What it uses now.
    pub fn usage(&self) -> io::Result<Usage> {
        // What was made later has not counted from the beginning.
        let directories = self.cgroups().first.clone();
        super::cgroup::usage(&directories, &self.processes()?)
    }

    /// What whoever finds the container's process killed has to remove.
    pub fn cgroups_to_remove(&self) -> Vec<PathBuf> {
        self.cgroups().directories()
    }

    fn cgroups(&self) -> std::sync::MutexGuard<'_, Cgroups> {
        self.inner
            .cgroups
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
