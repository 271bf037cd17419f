//! The process as a whole: its private namespaces, its id maps and its spawner.

mod ids;
mod inside;
mod outer;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rbuild_cache::ids::Ids;
use rustix::mount::MountPropagationFlags;
use rustix::thread::{CapabilitySet, UnshareFlags};

use crate::sandbox::ahead::Line;
use crate::sandbox::counted::Counted;
use crate::sandbox::running::Running;
use crate::sandbox::spawner::Order;
use crate::sandbox::{outer_proc, spawner};
use crate::spec::{Propagation, Users};

pub(crate) use inside::Inside;
pub(crate) use outer::Outer;

/// What this process may do about ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Privilege {
    /// Root of the host: a private mount namespace.
    Root,
    /// An ordinary user with subordinate ids: a user namespace with 65536 ids or more.
    Subordinate,
    /// An ordinary user without: a user namespace with one id; other users are emulated.
    SingleId,
    /// No namespaces: nothing is mounted, and no commands are run.
    Without,
}

/// Whether this process is in no namespaces of its own.
static WITHOUT: AtomicBool = AtomicBool::new(false);

/// Whether nothing can be mounted: see [`Privilege::Without`].
pub fn without_namespaces() -> bool {
    WITHOUT.load(Ordering::Relaxed)
}

/// Made once by [`init`]; cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    privilege: Privilege,
    /// Why it is this privilege.
    reason: Arc<str>,
    /// Where root's mounts can be shared with the host.
    outer: Option<Arc<Outer>>,
    /// To the spawner.
    spawner: Arc<Line>,
    /// Root's commands are in a user namespace of their own, or why they cannot be.
    inside: Arc<OnceLock<Result<Arc<Inside>, Arc<str>>>>,
    /// What is mounted in this /proc, so that there can be no new one. Known when it is first asked for.
    masked_proc: Arc<Mutex<Option<Option<Arc<str>>>>>,
    /// Where it is one command's, whose processes are counted.
    counted: Option<Arc<Counted>>,
    running: Arc<Running>,
}

/// Why the process could not be set up; says what the machine lacks and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {advice}")]
pub struct InitError {
    pub step: &'static str,
    /// What to do about it.
    pub advice: &'static str,
    #[source]
    pub source: std::io::Error,
}

/// Moves this process into its private namespaces and forks the spawner. Must be called from `main` before any
/// thread exists; in an ordinary user's process, also before anything in the store is touched.
pub fn init() -> Result<Host, InitError> {
    init_for(Entry::default())
}

/// What a process is for that is not as others are.
#[derive(Debug, Default)]
pub struct Entry {
    /// An ordinary user's goes into a user namespace that there is, another such process's ([`user_namespace`]), and
    /// has all rights there that this one has.
    pub beside: Option<OwnedFd>,
    /// Commands of root's are in the user namespace that this process is in, whoever's that is.
    pub inside_of: Option<u32>,
    /// Mounts that the host makes later arrive in its mount namespace. Those of any that it makes itself do not leave
    /// it, but for what a command has from where the host's are ([`Propagation::Shared`]).
    pub propagation: Option<Propagation>,
}

/// As [`init`].
pub fn init_for(entry: Entry) -> Result<Host, InitError> {
    single_threaded()?;
    recent_kernel()?;
    let inside_of = entry.inside_of;
    let (privilege, reason, outer) = match enter(entry) {
        Err(error) => without(error)?,
        Ok(entered) => entered,
    };
    let spawner = spawner::start().map_err(|source| InitError {
        step: "start the process that starts commands",
        advice: "the limit of processes may be reached",
        source,
    })?;
    let host = Host {
        privilege,
        reason: reason.into(),
        outer: outer.map(Arc::new),
        spawner: Arc::new(Line::new(spawner)),
        inside: Arc::default(),
        masked_proc: Arc::default(),
        counted: None,
        running: Arc::default(),
    };
    if let (Some(pid), Privilege::Root) = (inside_of, privilege) {
        let inside = match host.inside_of(pid) {
            Ok(Some(inside)) => Ok(Arc::new(inside)),
            Ok(None) => {
                Err("it shares namespaces with one that has the machine's users".to_owned())
            }
            Err(error) => Err(format!(
                "the user namespace of process {pid} cannot be entered: {error}"
            )),
        };
        host.inside.get_or_init(|| inside.map_err(Arc::from));
    }
    Ok(host)
}

/// A second thread would stay outside of the namespaces, and would make forking unsafe.
fn single_threaded() -> Result<(), InitError> {
    let error = |source| InitError {
        step: "set up this process",
        advice: "it must have one thread, and /proc must be mounted",
        source,
    };
    let tasks = rustix::fs::open(
        "/proc/self/task",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|errno| error(errno.into()))?;
    let mut threads = 0;
    for entry in rustix::fs::Dir::new(tasks).map_err(|errno| error(errno.into()))? {
        let entry = entry.map_err(|errno| error(errno.into()))?;
        threads += usize::from(!entry.file_name().to_bytes().starts_with(b"."));
    }
    if threads == 1 {
        Ok(())
    } else {
        Err(error(std::io::Error::other(format!(
            "{threads} threads are running"
        ))))
    }
}

/// What everything else stands on: `mount_setattr` is the youngest call without a substitute.
const OLDEST_KERNEL: (u32, u32) = (5, 12);

/// Whether this kernel is at least so new. What cannot be read is not held against it.
pub(crate) fn kernel_is(version: (u32, u32)) -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    kernel_version(&release).is_none_or(|this| this >= version)
}

fn recent_kernel() -> Result<(), InitError> {
    if kernel_is(OLDEST_KERNEL) {
        return Ok(());
    }
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    Err(InitError {
        step: "run on this kernel",
        advice: "Linux 5.12 or newer is needed",
        source: std::io::Error::other(format!("this is Linux {release}")),
    })
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Root of a container has these, and with them the owners and devices that files are to have.
const FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::MKNOD);

/// Goes on without what could not be entered, where this process is still whom it was.
fn without(error: InitError) -> Result<Entered, InitError> {
    let unmapped = std::fs::read("/proc/self/uid_map").is_ok_and(|map| map.is_empty());
    if unmapped {
        return Err(error);
    }
    let sets = rustix::thread::capabilities(None);
    let owns = rustix::process::geteuid().is_root()
        && sets.is_ok_and(|sets| sets.effective.contains(FILES));
    if !owns {
        rbuild_cache::owners::record();
    }
    WITHOUT.store(true, Ordering::Relaxed);
    let why = format!("cannot {}: {}; {}", error.step, error.source, error.advice);
    Ok((Privilege::Without, why, None))
}

/// The user namespace that this process is in, for [`Entry`].
pub fn user_namespace() -> std::io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::empty();
    Ok(rustix::fs::open("/proc/self/ns/user", flags, mode)?)
}

/// With the reason, and what was kept of where this process was before.
type Entered = (Privilege, String, Option<Outer>);

fn enter(entry: Entry) -> Result<Entered, InitError> {
    let mut outer = None;
    let capable = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    let (privilege, reason) = if rustix::process::geteuid().is_root() && capable {
        if entry.propagation == Some(Propagation::Shared) {
            outer = Some(Outer::keep().map_err(|source| InitError {
                step: "remember the mounts of the host",
                advice: "/proc must be mounted",
                source,
            })?);
        }
        // In a container that was given one id, root is as alone as an ordinary user.
        if rbuild_cache::owners::recorded() {
            let why = "root of a user namespace that has one id";
            (Privilege::SingleId, why.to_owned())
        } else {
            (Privilege::Root, "started by root".to_owned())
        }
    } else {
        match entry.beside {
            Some(namespace) => ids::join_user_namespace(&namespace)?,
            None => ids::enter_user_namespace()?,
        }
    };
    crate::sys::unshare(UnshareFlags::NEWNS).map_err(|source| InitError {
        step: "make a private mount namespace",
        advice: "this environment does not allow it (a container needs CAP_SYS_ADMIN, for instance --privileged)",
        source,
    })?;
    let propagation = match entry.propagation {
        None => MountPropagationFlags::PRIVATE,
        Some(Propagation::Slave | Propagation::Shared) => MountPropagationFlags::DOWNSTREAM,
    };
    let changed = rustix::mount::mount_change("/", propagation | MountPropagationFlags::REC);
    changed.map_err(|errno| InitError {
        step: "make the mounts of this process private",
        advice: "this environment does not allow it (a security module may forbid mounts)",
        source: errno.into(),
    })?;
    Ok((privilege, reason, outer))
}

impl Host {
    /// Where the host's own mounts are, if this process may go there and was told that it would have to.
    pub(crate) fn outer(&self) -> Option<&Outer> {
        self.outer.as_deref()
    }

    /// What this process may do here.
    pub fn privilege(&self) -> Privilege {
        self.privilege
    }

    /// Why it is this one and not another, for people.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The user namespace of root's commands, made when it is first asked for; or why there is none. Blocking.
    pub(crate) fn inside(&self) -> Result<Arc<Inside>, Arc<str>> {
        let made = self.inside.get_or_init(|| {
            inside::make(self.privilege, &self.lock())
                .map(Arc::new)
                .map_err(Arc::from)
        });
        made.clone()
    }

    /// This one, for one command that is in a user namespace where so many processes may be; with root's, one that has
    /// `ids`. Blocking.
    pub(crate) fn counting(&self, ids: Option<&Ids>, most: u64) -> std::io::Result<Self> {
        let counted = Counted::make(self.lock().as_fd(), ids, most)?;
        Ok(Self {
            counted: Some(Arc::new(counted)),
            ..self.clone()
        })
    }

    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    pub(crate) fn counted(&self) -> Option<&Arc<Counted>> {
        self.counted.as_ref()
    }

    /// What is mounted in /proc where that lets commands have no new one: they see the one that is there, and this
    /// process has no command line in it any more.
    pub(crate) fn masked_proc(&self) -> std::io::Result<Option<Arc<str>>> {
        let mut known = self
            .masked_proc
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        // The machine's own root is let.
        let masked = if rbuild_cache::owners::devices_recorded() {
            let mounts = std::fs::read("/proc/self/mountinfo")?;
            outer_proc::masked(&String::from_utf8_lossy(&mounts)).map(Arc::from)
        } else {
            None
        };
        if masked.is_some() {
            outer_proc::conceal()?;
        }
        Ok(known.insert(masked).clone())
    }

    /// The user namespace that a process is in, where it is not this process's. Blocking.
    pub(crate) fn inside_of(&self, pid: u32) -> std::io::Result<Option<Inside>> {
        inside::of_process(pid, || self.lock())
    }

    /// The ids of a process of root's, where it is in a user namespace that this process is not in.
    pub fn ids_of(&self, pid: u32) -> std::io::Result<Option<Ids>> {
        if self.privilege != Privilege::Root {
            return Ok(None);
        }
        inside::ids_of(pid)
    }

    /// Has a spawner start a sandbox: the command's own, the one in a user namespace, or the machine's. `leaves`:
    /// directories of cgroups that go with it when all of rbuild is gone.
    pub(crate) fn spawn(
        &self,
        inside: Option<&Inside>,
        order: &Order<'_>,
        descriptors: &[BorrowedFd<'_>],
        leaves: &[std::path::PathBuf],
    ) -> std::io::Result<OwnedFd> {
        let watch = |pidfd: BorrowedFd<'_>| {
            if leaves.is_empty() {
                return Ok(());
            }
            let kept = order.is_kept();
            spawner::watch(self.lock().as_fd(), pidfd, leaves, kept)
        };
        let line = match (&self.counted, inside) {
            (Some(counted), _) => counted.line(),
            (None, Some(inside)) => inside.line(),
            (None, None) => &self.spawner,
        };
        if let Some(pidfd) = line.hand_over(order, descriptors, watch) {
            return Ok(pidfd);
        }
        let pidfd = spawner::request(line.lock().as_fd(), order, descriptors)?;
        if inside.is_some() || self.counted.is_some() {
            // Nobody in there may remove them.
            watch(pidfd.as_fd())?;
        }
        Ok(pidfd)
    }

    /// Has this process's spawner start what goes into namespaces by itself.
    pub(crate) fn spawn_outside(
        &self,
        order: &Order<'_>,
        descriptors: &[BorrowedFd<'_>],
    ) -> std::io::Result<OwnedFd> {
        spawner::request(self.lock().as_fd(), order, descriptors)
    }

    /// Begins to make the process of a command with such users that is to be started soon. What it makes is of use to
    /// usual commands only; the others do without. Blocking where the user namespace is not yet made.
    pub fn begin_sandbox(&self, users: Users) {
        // Where /proc is masked, commands have a copy of it.
        if self.privilege == Privilege::Without
            || self.counted.is_some()
            || self.masked_proc().map_or(true, |masked| masked.is_some())
        {
            return;
        }
        let own = users == Users::Own && self.privilege == Privilege::Root;
        let begun = match own.then(|| self.inside()) {
            Some(Ok(inside)) => inside.line().begin(Privilege::Subordinate),
            _ => self.spawner.begin(self.privilege),
        };
        if let Err(error) = begun {
            tracing::debug!(%error, "no process is made ahead");
        }
    }

    /// No command is to be started any more.
    pub fn end_sandbox(&self) {
        self.spawner.end();
        if let Some(Ok(inside)) = self.inside.get() {
            inside.line().end();
        }
    }

    fn lock(&self) -> MutexGuard<'_, OwnedFd> {
        self.spawner.lock()
    }

    /// Has the temporary files of this process in a store go with it, if it is killed.
    pub(crate) fn bury_in(&self, store: &rbuild_cache::Store) -> std::io::Result<()> {
        spawner::bury_in(self.lock().as_fd(), store)
    }

    /// Has the spawner remove what is left of a container.
    pub(crate) fn remove(&self, hidden: &std::path::Path) -> std::io::Result<()> {
        spawner::remove(self.lock().as_fd(), hidden)
    }

    /// Has the spawner hold a duplicate of a descriptor until nobody holds the other end of the pipe `until`.
    pub(crate) fn hold(
        &self,
        descriptor: BorrowedFd<'_>,
        until: BorrowedFd<'_>,
    ) -> std::io::Result<()> {
        spawner::hold(self.lock().as_fd(), descriptor, until)
    }
}

#[cfg(test)]
mod tests {
    use super::kernel_version;

    #[test]
    fn kernel_versions_are_read() {
        for (release, version) in [
            ("6.18.44-fc-v595", Some((6, 18))),
            ("5.4.0-150-generic", Some((5, 4))),
            ("5.12-rc1", Some((5, 12))),
            ("gentoo", None),
        ] {
            assert_eq!(kernel_version(release), version, "{release}");
        }
    }
}
