//! Commands where neither namespaces nor mounts are allowed: in a container as Docker starts it, as its root.
//!
//! The root is a tree of its own for each command, made of copies ([`crate::merged`]); what elsewhere is mounted is
//! renamed into it for that time ([`mounts`], [`places`]). The command is in it by `chroot`, without the capability
//! to do that again; a Landlock domain around it lets it reach no file outside, and no process: not by signals, not
//! by `ptrace`, not by abstract sockets ([`first`]). Files of /proc, /sys and /dev are given by answers to calls
//! ([`shown`]).
//!
//! Not its own are the network, the numbers of processes, the host name and the container's limits. What a namespace
//! would have held and nothing else does (System V queues and memory, say) is refused.

mod caller;
pub(super) mod first;
mod mounts;
mod names;
mod nodes;
mod places;
mod processes;
mod shown;
mod visitors;

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rbuild_cache::{RootDir, SnapshotId, owners};
use rustix::fs::{CWD, Mode, RenameFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::container::Top;
use super::in_root::{self, MountPoints};
use super::plan::{self, Around, Command, Devices, Filter, Task};
use super::prepare::{self, Kept, Prepared, setup};
use super::{ExecError, capabilities};
use crate::Executor;
use crate::merged::{Files, Merged};
use crate::overlay::{self, Lowers};
use crate::spec::{Exec, Network, Security, Spaces};
use crate::sys::landlock;
use mounts::Builder;
use places::Places;
pub(super) use processes::below;
pub(crate) use shown::Shown;
use visitors::Visitors;
pub(super) use visitors::enter;

/// What root needs for commands besides what it needs for files.
const NEEDED: CapabilitySet = CapabilitySet::SYS_CHROOT
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL);

/// Of the usual capabilities, those that would reach what is shared: a second root, devices, the container's packets.
const WITHOUT: [&str; 3] = ["SYS_CHROOT", "MKNOD", "NET_RAW"];

/// Whether commands can be run where nothing else is allowed, or why not.
pub(crate) fn possible() -> Result<(), String> {
    let elsewhere = "or in a container with `--security-opt seccomp=unconfined` (and `apparmor=unconfined` where there is \
                     AppArmor), where there are namespaces";
    if owners::devices_recorded() {
        return Err(format!(
            "commands need root of the container, with the capabilities that Docker gives it, {elsewhere}"
        ));
    }
    let sets = rustix::thread::capabilities(None);
    let missing = sets.map_or(NEEDED, |sets| NEEDED.difference(sets.effective));
    if !missing.is_empty() {
        let names: Vec<String> = capabilities::names(missing.bits());
        return Err(format!(
            "commands need the capabilities {} of the container, {elsewhere}",
            names.join(", ")
        ));
    }
    match landlock::version() {
        Ok(landlock::SCOPES..) => Ok(()),
        Ok(version) => Err(format!(
            "commands need Landlock of version {} (Linux 6.12) to be kept from the container's other processes, and this \
             kernel has {version}; {elsewhere}",
            landlock::SCOPES
        )),
        Err(error) => Err(format!(
            "commands need Landlock to be kept from the container's other files and processes: {error}; {elsewhere}"
        )),
    }
}

/// A command's root while it runs. Dropping it takes away what is not kept.
#[derive(Debug)]
pub(super) struct Bare {
    live: Arc<Live>,
    ended: Over,
}

/// As others reach it: until it is over.
#[derive(Debug)]
pub(super) struct Live {
    tree: Mutex<Option<Tree>>,
    shown: Arc<Shown>,
    visitors: Visitors,
}

#[derive(Debug)]
struct Tree {
    // Dropped in this order: what is in the tree leaves it before it goes.
    places: Places,
    merged: Merged,
}

/// A pipe: see [`plan::Bare::ended`].
#[derive(Debug)]
struct Over(OwnedFd);

impl Over {
    /// With the end that the first process has.
    fn pipe() -> Result<(Self, OwnedFd), ExecError> {
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (ended, inside) =
            pipe.map_err(|errno| setup("make a pipe", std::io::Error::from(errno)))?;
        Ok((Self(ended), inside))
    }

    /// Whether nothing is left of what a first process started, which has ended itself.
    fn check(&self) -> Result<(), ExecError> {
        let told = rustix::io::read(&self.0, &mut [0; 1][..]);
        // Where its keeper was killed, nobody knows.
        if told.is_ok_and(|length| length == 1) {
            return Ok(());
        }
        Err(setup(
            "see the command's processes to their end",
            "the process that does so was killed",
        ))
    }
}

impl Live {
    /// The root, as the command has it.
    pub(super) fn root(&self) -> std::io::Result<RootDir> {
        let tree = self.tree();
        let tree = tree.as_ref().ok_or(Errno::SRCH)?;
        tree.merged.root().map_err(std::io::Error::other)
    }

    /// Copies what the command has changed by now into an empty layer.
    pub(super) fn changes(&self, layer: &Path) -> std::io::Result<()> {
        let tree = self.tree();
        let Tree { places, merged } = tree.as_ref().ok_or(Errno::SRCH)?;
        let copied = merged.copy_changes(layer, &places.others()?);
        copied.map_err(std::io::Error::other)
    }

    /// All processes in it: those below `first`, and those that entered.
    pub(super) fn processes(&self, first: u32) -> std::io::Result<Vec<u32>> {
        let mut all = below(first, usize::MAX)?;
        for visitor in self.visitors.numbers() {
            all.extend(below(visitor, usize::MAX)?);
        }
        Ok(all)
    }

    fn tree(&self) -> MutexGuard<'_, Option<Tree>> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if let Err(error) = self.live.visitors.end() {
            tracing::warn!(%error, "a process that entered the command's root may be left");
        }
        drop(self.live.tree().take());
    }
}

impl Bare {
    pub(super) fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.live.shown)
    }

    pub(super) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    /// What the command changed becomes the layer that is to hold it. Nobody uses the tree any more.
    pub(super) fn end(self, layer: &Path) -> Result<(), ExecError> {
        self.ended.check()?;
        self.live.visitors.end()?;
        let tree = self.live.tree().take();
        let Some(Tree { places, mut merged }) = tree else {
            return Ok(());
        };
        places
            .take_out(&mut merged)
            .map_err(|error| setup("take out of the root what was only put there", error))?;
        merged
            .into_layer(layer)
            .map_err(|error| setup("keep what the command changed", error))
    }

    /// As [`Self::end`], in place of what was written earlier. `work` is used up.
    pub(super) fn keep(self, upper: &Path, work: &Path) -> Result<(), ExecError> {
        keep(upper, work, |layer| self.end(layer))
    }
}

/// Puts a layer in place of `upper`.
pub(super) fn keep(
    upper: &Path,
    work: &Path,
    make: impl FnOnce(&Path) -> Result<(), ExecError>,
) -> Result<(), ExecError> {
    let made = work.join("layer");
    let failed = |errno: Errno| setup("keep what was changed", std::io::Error::from(errno));
    rustix::fs::mkdir(&made, Mode::RWXU).map_err(failed)?;
    make(&made)?;
    rustix::fs::renameat_with(CWD, &made, CWD, upper, RenameFlags::EXCHANGE).map_err(failed)
}

/// As [`prepare::prepare`].
pub(super) fn prepare(
    executor: &Executor,
    base: Option<&SnapshotId>,
    top: &Top,
    exec: Exec,
) -> Result<Prepared, ExecError> {
    possible().map_err(|why| setup(format!("run a command: {why}"), executor.host.reason()))?;
    refuse_others(&exec)?;
    let store = &executor.store;
    let root_failed = |error: overlay::Error| setup("make the root", error);
    let merged = Lowers::of(store, base, false)
        .and_then(|lowers| match top {
            Top::Own(layer) => lowers.merged_over(store, layer, Files::Private),
            Top::Kept { upper, .. } => lowers.merged_with(store, upper, Files::Private),
        })
        .map_err(root_failed)?;
    let root = merged.root().map_err(root_failed)?;
    let user = prepare::look_up_user(&root, &exec)?;
    let aside = store.temporary_directory()?;
    let places =
        Places::new(root.as_fd(), aside).map_err(|error| setup("look at the root", error))?;
    let mut builder = Builder {
        executor,
        places,
        kept: Kept::default(),
        secrets: Vec::new(),
        table: Vec::new(),
    };
    let (ended, ended_inside) = Over::pipe()?;
    let mut shown =
        Shown::new(&mut builder.places, root.as_fd(), merged.stand_ins()).map_err(|error| {
            setup(
                "make /proc, /sys and /dev, which must be directories",
                error,
            )
        })?;
    let network = !matches!(exec.network, Network::None);
    let mut exec = exec;
    exec.hostname = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let mounts = std::mem::take(&mut exec.mounts);
    builder.everything(mounts, &exec)?;
    let cwd_path = in_root::clean(&exec.cwd);
    let cwd = MountPoints::new(root.as_fd())
        .and_then(|mut points| points.ensure(&cwd_path, true))
        .map_err(|errno| {
            let step = format!("enter the working directory {}", cwd_path.display());
            setup(step, std::io::Error::from(errno))
        })?;
    shown
        .mounted(&builder.table)
        .map_err(|error| setup("tell what is mounted", error))?;
    builder
        .places
        .settle()
        .map_err(|error| setup("complete the root", error))?;
    crate::merged::wait_for_next_time();
    let Builder {
        places,
        kept,
        secrets,
        ..
    } = builder;

    let capabilities = prepare::capabilities_of(&exec, capabilities::DEFAULT & !without())?;
    let root = root.into_fd();
    let null = shown
        .null()
        .map_err(|error| setup("open the null device", error))?;
    let live = Live {
        tree: Mutex::new(Some(Tree { places, merged })),
        shown: Arc::new(shown),
        visitors: Visitors::default(),
    };
    let mut descriptors = vec![root, cwd, ended_inside, null];
    descriptors.extend(secrets);
    let task = Task {
        command: Command::of(exec.argv, exec.env, &exec.cwd, user),
        hostname: exec.hostname,
        domainname: String::new(),
        annotations: BTreeMap::new(),
        network: plan::Network::Host,
        root: 0,
        read_only_root: false,
        files: 0,
        mounts: Vec::new(),
        shm_size: 0,
        limits: prepare::limits(&exec.limits.ulimits)?,
        oom_score_adj: exec.limits.oom_score_adj,
        capabilities,
        filter: Some(Filter {
            capabilities,
            emulation: false,
            devices: Devices::Kernel,
            unrestricted: false,
            around: Around::Container { network },
        }),
        profile: None,
        unmasked: false,
        no_new_privileges: true,
        sysctls: Vec::new(),
        devices: Vec::new(),
        opens_devices: false,
        spaces: plan::Spaces::default(),
        shared_memory: None,
        stdio: plan::Stdio::Streams([0; 3]),
        status: 0,
        cgroups: Vec::new(),
        cgroup_views: Vec::new(),
        init: false,
        runtime: None,
        announced: None,
        privilege: executor.host.privilege(),
        machines_root: true,
        bare: Some(plan::Bare {
            cwd: 1,
            ended: 2,
            null: 3,
            wiped: (4..descriptors.len()).collect(),
        }),
        outer_proc: false,
    };
    Ok(Prepared {
        task,
        descriptors,
        kept,
        mapped: None,
        bare: Some(Bare {
            live: Arc::new(live),
            ended,
        }),
    })
}

fn refuse<T>(what: &str) -> Result<T, ExecError> {
    Err(setup(
        what,
        "there are no namespaces and no mounts in this container, and that needs them (docs/rootless.md)",
    ))
}

/// What a chroot cannot give.
fn refuse_others(exec: &Exec) -> Result<(), ExecError> {
    let options = &exec.options;
    if exec.security == Security::Insecure {
        return refuse("run a command with `--security=insecure` or `--privileged`");
    }
    if let Some(name) = exec.capabilities_add.iter().find(|name| !is_given(name)) {
        return refuse(&format!("give a command the capability `{name}`"));
    }
    if !exec.domainname.is_empty() {
        return refuse("give a command a domain name");
    }
    if exec.runtime.is_some() {
        return refuse("use another runtime");
    }
    if options.no_filter || options.profile.is_some() || options.unmasked {
        return refuse("leave out a part of the sandbox");
    }
    if !options.sysctls.is_empty()
        || !options.devices.is_empty()
        || !options.device_rules.is_empty()
    {
        return refuse("give a command kernel parameters or devices");
    }
    if exec.spaces != Spaces::default() {
        return refuse("choose whose processes, IPC or host name a command has");
    }
    if exec.read_only_root {
        return refuse("give a command a read-only root");
    }
    if exec.limits.shm_size.is_some() {
        return refuse("limit /dev/shm, which is no file system of its own,");
    }
    match exec.network {
        Network::None | Network::Host => Ok(()),
        _ => refuse("give a command a network of its own"),
    }
}

/// Whether a command has a capability without asking. What else the container has would reach what is shared.
fn is_given(name: &str) -> bool {
    let given = capabilities::DEFAULT & !without();
    capabilities::mask(0, &[name.to_owned()], &[]).is_ok_and(|bits| bits & !given == 0)
}

fn without() -> u64 {
    let bits = WITHOUT
        .iter()
        .filter_map(|name| capabilities::by_name(name));
    bits.sum()
}
