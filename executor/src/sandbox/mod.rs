//! Running a command: the plan, the conversation with the spawner, waiting, output, the end.
//!
//! In the order of a command's life: [`prepare`] makes a task of what is asked ([`plan`] is its data), [`spawner`]
//! starts a process in new namespaces, [`child`] is that process up to its `execve`, [`wait`] watches it,
//! [`stubs`] tidies its layer; [`ahead`] has the next process begun before there is a task; [`counted`] holds the number
//! of its processes where no cgroup does; [`bare`] is all of it where there are no namespaces; [`foreign`] is that
//! process where another runtime is to make the container. [`container`] is one that others reach while it runs;
//! [`join`] is a process that enters it, and [`halted`] makes it stand still.
//!
//! What the others are about:
//! * who a command is and what it may: [`users`], [`own_users`], [`capabilities`], [`seccomp`], [`devices`];
//! * how much it may use: [`cgroup`], [`ceilings`]; which commands only wait: [`running`];
//! * what it sees: [`in_root`], [`mounts`], [`propagation`], [`kernel_files`], [`outer_proc`], [`cache_content`] with
//!   [`mod@copy`], [`socket`];
//! * processes beside it: [`reaper`] (`--init`), [`keeper`]; its end: [`session`];
//! * signals and terminals: [`forward`], [`outer_terminal`], [`terminal`];
//! * what is executed, and what went wrong: [`program`], [`explain`], [`step`].

pub(crate) mod ahead;
pub(crate) mod bare;
mod cache_content;
mod capabilities;
mod ceilings;
mod cgroup;
mod child;
pub mod container;
pub mod copy;
pub(crate) mod counted;
mod devices;
mod explain;
mod foreign;
mod forward;
mod halted;
pub(crate) mod in_root;
mod join;
mod keeper;
mod kernel_files;
pub(crate) mod mounts;
pub(crate) mod outer_proc;
mod outer_terminal;
mod own_users;
mod plan;
mod prepare;
mod program;
mod propagation;
mod reaper;
pub(crate) mod running;
pub(crate) mod seccomp;
mod session;
mod socket;
pub(crate) mod spawner;
mod step;
mod stubs;
mod terminal;
mod users;
mod wait;

use std::os::fd::AsFd as _;

use tokio::runtime::RuntimeFlavor;
use tokio_util::sync::CancellationToken;

pub use crate::emulation::Device;
use crate::host::{Host, Privilege};
use crate::overlay::Below;
use crate::spec::{Exec, Exit, Limits, Network, Stdio};
use crate::{Executor, wire};
pub use capabilities::{by_name as capability, known as capabilities};
use rbuild_cache::{ActiveSnapshot, Snapshot, SnapshotId};

use cgroup::Cgroup;
pub use cgroup::Usage;
pub(crate) use cgroup::controllers;
use container::Top;
pub use forward::Signals;
pub use join::{Enter, EnterStreams, Entered};
pub use outer_terminal::size as terminal_size;
use prepare::setup;

pub use crate::sys::signal;

/// Why a command could not be run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The sandbox could not be set up: at which step, and why.
    #[error("cannot set up the sandbox: {step}")]
    Setup {
        step: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The user, or a group, is not in the root's passwd or group.
    #[error("{0}")]
    User(String),
    /// exec failed: not found, not executable, wrong machine, missing interpreter; `explanation` says which.
    #[error("cannot execute `{program}`: {explanation}")]
    NotExecutable {
        program: String,
        explanation: String,
        not_found: bool,
    },
    /// The command ended with something else than success.
    #[error("{}", describe_exit(*.0))]
    Failed(Exit),
    /// It ended so when the store's file system had no room left, which is most likely why.
    #[error("{} while the store's file system was full", describe_exit(*.0))]
    StorageFull(Exit),
    /// It ended so after it was refused a device node, which is most likely why.
    #[error("{} after `mknod` of {device} was refused", describe_exit(*exit))]
    DeviceRefused { exit: Exit, device: Device },
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Store(#[from] rbuild_cache::store::Error),
}

fn describe_exit(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal(signal) => format!("was killed by signal {signal}"),
        Exit::OutOfMemory => "was killed because its memory limit was reached".to_owned(),
        Exit::TimedOut => "took longer than its time limit".to_owned(),
    }
}

/// Whether the file system of a directory has no blocks or no inodes left worth speaking of.
fn is_full(directory: &std::path::Path) -> bool {
    const LEAST_BYTES: u64 = 64 << 10;
    rustix::fs::statvfs(directory).is_ok_and(|space| {
        space.f_bavail.saturating_mul(space.f_frsize) < LEAST_BYTES
            || (space.f_files > 0 && space.f_favail == 0)
    })
}

impl Executor {
    /// Runs a step: on success what it wrote becomes a snapshot on top of `base`. On failure nothing is kept.
    pub async fn exec(
        &self,
        base: Option<&SnapshotId>,
        exec: Exec,
        stdio: Stdio,
        cancel: CancellationToken,
    ) -> Result<Snapshot, ExecError> {
        let result = self.exec_or_leave(base, exec, stdio, cancel).await;
        result.map_err(|(error, _)| error)
    }

    /// As [`Executor::exec`]; of a command that began and failed, what it wrote comes with the error.
    pub async fn exec_or_leave(
        &self,
        base: Option<&SnapshotId>,
        exec: Exec,
        stdio: Stdio,
        cancel: CancellationToken,
    ) -> Result<Snapshot, (ExecError, Option<ActiveSnapshot>)> {
        let lost = |error: ExecError| (error, None);
        let base = base.cloned();
        let top = brief(exec.alone, {
            let store = self.store.clone();
            move || Ok(store.prepare()?)
        });
        let timeout = exec.timeout;
        let top = Top::Own(top.await.map_err(lost)?);
        let begun = self.begin(base.clone(), exec, stdio, &cancel, top, false);
        let ended = begun.await.map_err(lost)?;
        let mut ended = ended.finish(timeout, &cancel, None).await.map_err(lost)?;
        let bare = ended.bare.take();
        let Top::Own(layer) = ended.top else {
            return Err(lost(setup("keep the layer", "it is not the step's own")));
        };
        let layer = match bare {
            None => layer,
            Some(bare) => {
                let ended = blocking(move || bare.end(layer.upper()).map(|()| layer));
                ended.await.map_err(lost)?
            }
        };
        match ended.exit {
            Exit::Code(0) => {}
            // The command may have said "I/O error" or nothing at all, and what it wrote goes with its layer: it is
            // now or never that the cause can be seen.
            exit if is_full(layer.upper()) => {
                return Err((ExecError::StorageFull(exit), Some(layer)));
            }
            exit => {
                let failed = match (exit, ended.refused) {
                    (Exit::Code(_), Some(device)) => ExecError::DeviceRefused { exit, device },
                    _ => ExecError::Failed(exit),
                };
                return Err((failed, Some(layer)));
            }
        }
        let committed = blocking(move || {
            stubs::remove(layer.upper(), &ended.stubs, &ended.parents).map_err(|errno| {
                setup(
                    "remove the mount points from the layer",
                    std::io::Error::from(errno),
                )
            })?;
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs() as i64);
            Ok(layer.commit(base.as_ref(), now)?)
        });
        committed.await.map_err(lost)
    }

    /// Runs a command in the foreground on `top`, and returns how it ended. Signals that reach this process are
    /// forwarded. `Failed` is not returned.
    pub async fn run(
        &self,
        base: Option<&SnapshotId>,
        top: Top,
        exec: Exec,
        stdio: Stdio,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecError> {
        let signals = Signals::listen().map_err(|error| setup("listen to signals", error))?;
        let container = self.start(base, exec, stdio, &cancel, top, false).await?;
        container.finish(&cancel, Some(signals)).await
    }

    /// From what is asked to a process that sets itself up. `accounted`: in a cgroup even where no limit asks for
    /// one, as far as the machine allows.
    async fn begin(
        &self,
        base: Option<SnapshotId>,
        exec: Exec,
        stdio: Stdio,
        cancel: &CancellationToken,
        top: Top,
        accounted: bool,
    ) -> Result<wait::Started, ExecError> {
        if cancel.is_cancelled() {
            return Err(ExecError::Cancelled);
        }
        let executor = self.clone();
        let (streams, inside) =
            wait::Streams::make(stdio).map_err(|error| setup("make the streams", error))?;
        if self.host.privilege() == Privilege::Without {
            return blocking(move || {
                let cgroup = Cgroup::make(&exec.limits, accounted)?;
                let prepared = bare::prepare(&executor, base.as_ref(), &top, exec)?;
                wait::start(&executor.host, top, prepared, cgroup, streams, inside)
            })
            .await;
        }
        brief(exec.alone, move || {
            let (host, whose, followed) = (&executor.host, exec.users, exec.followed);
            let users = users::choose(&executor, &exec)?;
            if host.counted().is_some() {
                can_be_counted(host, &users, &exec)?;
            }
            let below = (Below::MountPoints, users.mapped.as_deref());
            let root = top
                .mount(&executor.store, base.as_ref(), below)
                .map_err(|error| setup("mount the root", error))?;
            let mut cgroup = match host.counted() {
                None => Cgroup::make(&exec.limits, accounted)?,
                Some(_) => Cgroup::make(&exec.limits.without_pids(), accounted)?,
            };
            devices::guard(host.privilege(), &users, &exec, &mut cgroup)?;
            if devices::opens_nodes(host.privilege(), &users, &exec) {
                mounts::allow_devices(root.as_fd())
                    .map_err(|errno| setup("let devices be opened", std::io::Error::from(errno)))?;
            }
            let prepared = prepare::prepare(&executor, users, root, exec)?;
            let started = wait::start(host, top, prepared, cgroup, streams, inside)?;
            if followed {
                host.begin_sandbox(whose);
            } else {
                host.end_sandbox();
            }
            Ok(started)
        })
        .await
    }
}

impl Executor {
    /// This executor, for one command with such limits. Where no cgroup can hold it to its number of processes, the
    /// kernel counts them in a user namespace that is the command's; a private network of such a command must be made
    /// with this one's [`Executor::host`]. Blocking.
    pub fn counting(&self, limits: &Limits) -> Result<Self, ExecError> {
        let Some(most) = limits.pids.filter(|most| *most != u64::MAX) else {
            return Ok(self.clone());
        };
        // What a cgroup cannot hold under the parent that was asked for, or without namespaces, is refused with that.
        if limits.cgroup_parent.is_some() || self.host.privilege() == Privilege::Without {
            return Ok(self.clone());
        }
        match cgroup::of_pids() {
            Ok(_) => Ok(self.clone()),
            Err(why) => self
                .count(most)
                .map_err(|reason| setup(cgroup::no_controller("pids"), format!("{why}; {reason}"))),
        }
    }

    /// Whether this one is of one command, whose processes the kernel counts in a user namespace.
    pub fn is_counting(&self) -> bool {
        self.host.counted().is_some()
    }

    /// The error says why the kernel cannot.
    fn count(&self, most: u64) -> Result<Self, String> {
        let mapped = match self.host.privilege() {
            Privilege::Root => Some(self.mapped().map_err(|why| {
                format!("and the kernel counts them in a user namespace, which commands do not have here: {why}")
            })?),
            _ => None,
        };
        let ids = mapped.as_ref().map(|mapped| mapped.inside().ids());
        let host = self.host.counting(ids, most).map_err(|error| {
            if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
                "and this kernel does not count the processes of a user namespace (Linux 5.14 does)".to_owned()
            } else {
                format!("and no user namespace can be made for it: {error} (see the sysctl user.max_user_namespaces)")
            }
        })?;
        Ok(Self {
            host,
            ..self.clone()
        })
    }

    /// What holds commands to a number of processes, or why nothing does. Tries it; blocking.
    pub(crate) fn pids_limit(&self) -> Result<String, String> {
        const ENOUGH: u64 = 64;
        match cgroup::of_pids() {
            Ok(version) => Ok(format!("cgroups {version}")),
            Err(why) if self.host.privilege() == Privilege::Without => Err(why),
            Err(why) => match self.count(ENOUGH) {
                Ok(_) => Ok("user namespaces, where the kernel counts processes".to_owned()),
                Err(reason) => Err(format!("{why}; {reason}")),
            },
        }
    }
}

/// What has to be as the user namespace was made for.
fn can_be_counted(host: &Host, users: &users::Chosen, exec: &Exec) -> Result<(), ExecError> {
    let refuse = |why: &str| Err(setup(cgroup::no_controller("pids"), why));
    if matches!(exec.network, Network::Process { .. }) || exec.spaces.others().next().is_some() {
        return refuse(
            "and where the kernel counts the processes of a user namespace instead, network, processes and IPC have to belong to that, and cannot be another container's",
        );
    }
    if host.privilege() == Privilege::Root && users.mapped.is_none() {
        return refuse(
            "and the kernel counts them in a user namespace, which this command does not have: its users are the machine's",
        );
    }
    Ok(())
}

/// Runs work that takes a moment: off the async threads where they have something else to do, else at once. Handing it
/// over would take as long as most of it.
async fn brief<T: Send + 'static>(
    alone: bool,
    work: impl FnOnce() -> Result<T, ExecError> + Send + 'static,
) -> Result<T, ExecError> {
    match tokio::runtime::Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ if alone => work(),
        _ => blocking(work).await,
    }
}

/// Runs file system work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExecError> + Send + 'static,
) -> Result<T, ExecError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| setup("run a blocking task", error))?
}
