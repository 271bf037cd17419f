//! What others reach a container by while it runs: they signal it, enter it, look at it, halt it, limit it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::RootDir;
use rustix::process::Signal;

use super::process::{Foreign, members, pidfd_of, representative};
use crate::host::Host;
use crate::sandbox::bare::{self, Bare, Live};
use crate::sandbox::cgroup::{self, Cgroup};
use crate::sandbox::halted::Halted;
use crate::sandbox::plan::Task;
use crate::sandbox::prepare::setup;
use crate::sandbox::wait::Started;
use crate::sandbox::{Enter, Entered, ExecError, Usage, join};
use crate::spec::Limits;

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

impl Handle {
    pub(super) fn of(host: &Host, started: &mut Started) -> io::Result<Self> {
        let pidfd = started.session.pidfd()?;
        Ok(Self {
            inner: Arc::new(Inner {
                host: host.clone(),
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
    }

    /// The number of a process that is in all of its namespaces for as long as it runs, and that others may look at.
    pub fn representative(&self) -> io::Result<u32> {
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
        let now = rustix::event::Timespec::default();
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
        match cgroup::freeze(&cgroups.directories(), frozen) {
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
        cgroup::freeze(cgroup.directories(), frozen)
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
        let missing = cgroup::change(&cgroups.directories(), limits)?;
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
            let mut processes = cgroup::processes_with(seen, "mnt")?;
            processes.retain(|pid| *pid != self.inner.pid);
            return Ok(processes);
        }
        let mut processes = members(seen, self.inner.pid)?;
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
        cgroup::usage(&directories, &self.processes()?)
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
