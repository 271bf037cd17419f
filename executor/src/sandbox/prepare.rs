//! From what a command is to be given ([`Exec`]) to a task for the spawner: looks up the user, opens and mounts
//! (detached) everything that the sandbox needs. Touches the store and the host; makes no process.

pub(super) mod etc;
mod machine;
mod memory;
pub(super) mod sources;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rbuild_cache::{ActiveSnapshot, RootDir};

use super::bare::Bare;
use super::counted::Counted;
use super::plan::{self, Bytes, Command, Devices, Filter, Limit, ResourceLimit, Task};
use super::seccomp::profile::Rules;
use super::socket::Forwarded;
use super::users::Chosen;
use super::{ExecError, capabilities, devices};
use crate::host::Privilege;
use crate::mapped::Mapped;
use crate::spec::{Device, Exec, Mount, Names, Network, Security, Space};
use crate::{Executor, users};
use memory::Files;
use sources::Builder;

/// Mounts that one command may have; their descriptors travel in one message.
const MOST_MOUNTS: usize = 200;
const DEFAULT_SHM: u64 = 64 << 20;

/// A task and what it needs to stay alive.
pub(super) struct Prepared {
    pub(super) task: Task,
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) kept: Kept,
    /// Whose spawner starts it; `None` is this process's.
    pub(super) mapped: Option<Arc<Mapped>>,
    /// Where nothing can be mounted: what was put where.
    pub(super) bare: Option<Bare>,
}

/// Things that must outlive the command.
#[derive(Default)]
pub(super) struct Kept {
    /// Cache mounts with their locks, throw-away layers.
    pub(super) _mounts: Vec<Mount>,
    _layers: Vec<ActiveSnapshot>,
    pub(super) _sockets: Vec<Forwarded>,
    /// Of volumes that nobody else may write to meanwhile.
    pub(super) _locks: Vec<OwnedFd>,
    _network: Option<Arc<crate::network::Private>>,
    /// Whose spawner ends what it started when it ends itself; so the next.
    _mapped: Option<Arc<Mapped>>,
    _counted: Option<Arc<Counted>>,
}

pub(super) fn setup(
    step: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ExecError {
    ExecError::Setup {
        step: step.into(),
        source: source.into(),
    }
}

/// `root` is the detached mount of the command's root; `stdio` and `status` are filled in by the caller.
pub(super) fn prepare(
    executor: &Executor,
    users: Chosen,
    root: OwnedFd,
    mut exec: Exec,
) -> Result<Prepared, ExecError> {
    let privilege = match (executor.host.privilege(), &users.mapped) {
        // Root's command in a user namespace is as one of an ordinary user with many ids.
        (Privilege::Root, Some(_)) => Privilege::Subordinate,
        (privilege, _) => privilege,
    };
    let has_all_devices = devices::has_all(privilege, &users, &exec);
    let opens_devices = devices::opens_nodes(privilege, &users, &exec);
    let devices = maker_of_devices(&users, &exec);
    let view = RootDir::from_fd(root.try_clone().map_err(|e| setup("keep the root", e))?);
    let user = look_up_user(&view, &exec)?;
    let mut builder = Builder {
        store: executor.store.clone(),
        host: executor.host.clone(),
        single_id: privilege == Privilege::SingleId,
        descriptors: Vec::new(),
        kept: Kept::default(),
        files: Files::new(users.mapped.clone())?,
        mounts: Vec::new(),
        directories: users.directories,
    };
    let single_id = builder.single_id;
    if exec.runtime.is_some() {
        refuse_foreign(&exec, single_id)?;
    }
    let machines_root = privilege == Privilege::Root && users.mapped.is_none();
    let root = builder.slot(root);
    if exec.mounts.len() > MOST_MOUNTS {
        return Err(setup(
            format!("mount more than {MOST_MOUNTS} things"),
            "that many mounts are not supported",
        ));
    }
    for (index, mount) in std::mem::take(&mut exec.mounts).into_iter().enumerate() {
        builder.mount(index, mount, &exec.cwd)?;
    }
    if let Network::Later(later) = exec.network {
        exec.network = later
            .wait()
            .ok_or_else(|| setup("make the network", "its thread ended"))?
            .map_err(|error| setup(error.step, error.source))?;
    }
    builder.base_files(&exec)?;
    let network = network(&mut builder, &exec.network)?;
    let spaces = builder.spaces(exec.spaces)?;
    let shared_memory = builder.shared_memory(exec.spaces.ipc)?;
    let insecure = exec.security == Security::Insecure;
    let unfiltered = insecure || exec.options.no_filter || exec.options.profile.is_some();
    let sysctls = sysctls(&exec)?;
    let base = if insecure {
        capabilities::ALL
    } else {
        capabilities::DEFAULT
    };
    let capabilities = capabilities_of(&exec, base)?;
    if has_all_devices {
        exec.options.devices = machine::devices(&exec.options.devices)
            .map_err(|error| setup("list the machine's devices", error))?;
    }
    let profile = profile(&exec, capabilities)?;
    let Builder {
        mut descriptors,
        mut kept,
        files,
        mounts,
        ..
    } = builder;
    descriptors.push(files.tree);
    let files = descriptors.len() - 1;
    let task = Task {
        command: Command::of(exec.argv, exec.env, &exec.cwd, user),
        hostname: exec.hostname,
        domainname: exec.domainname,
        annotations: exec.annotations,
        network,
        spaces,
        shared_memory,
        root,
        read_only_root: exec.read_only_root,
        files,
        mounts,
        shm_size: exec.limits.shm_size.unwrap_or(DEFAULT_SHM),
        limits: limits(&exec.limits.ulimits)?,
        oom_score_adj: exec.limits.oom_score_adj,
        capabilities,
        filter: (!unfiltered || devices != Devices::Kernel).then_some(Filter {
            capabilities,
            emulation: single_id,
            devices: if single_id { Devices::Kernel } else { devices },
            unrestricted: unfiltered,
            around: plan::Around::Namespaces,
        }),
        profile,
        unmasked: insecure || exec.options.unmasked,
        no_new_privileges: exec.options.no_new_privileges,
        sysctls,
        devices: further_devices(&exec.options.devices),
        opens_devices,
        stdio: plan::Stdio::Streams([0; 3]),
        status: 0,
        cgroups: Vec::new(),
        cgroup_views: Vec::new(),
        init: exec.init,
        runtime: exec.runtime.as_deref().map(Bytes::from),
        announced: None,
        privilege,
        bare: None,
        machines_root,
        outer_proc: executor
            .host
            .masked_proc()
            .map_err(|error| setup("conceal the command line from what /proc shows", error))?
            .is_some(),
    };
    kept._mapped.clone_from(&users.mapped);
    kept._counted = executor.host.counted().cloned();
    Ok(Prepared {
        task,
        descriptors,
        kept,
        mapped: users.mapped,
        bare: None,
    })
}

/// What only our own sandbox can do.
fn refuse_foreign(exec: &Exec, single_id: bool) -> Result<(), ExecError> {
    let refuse = |what: &str, why: &str| Err(setup(format!("{what} under another runtime"), why));
    if single_id {
        return refuse(
            "run a container",
            "this user has one id, so that rbuild itself has to answer for owners and users; subordinate ids in \
             /etc/subuid and /etc/subgid would help",
        );
    }
    if exec.init {
        return refuse(
            "give the container an init",
            "it is a part of rbuild's own sandbox; leave out `--init`, or `--runtime`",
        );
    }
    Ok(())
}

fn maker_of_devices(users: &Chosen, exec: &Exec) -> Devices {
    if exec.runtime.is_some() {
        Devices::Kernel
    } else if rbuild_cache::owners::devices_recorded() {
        Devices::Recorded
    } else if users.mapped.is_some() {
        Devices::Made
    } else {
        Devices::Kernel
    }
}

fn network(builder: &mut Builder, asked: &Network) -> Result<plan::Network, ExecError> {
    match asked {
        Network::None => Ok(plan::Network::Own),
        Network::Host => Ok(plan::Network::Host),
        Network::Private(network) => {
            let slot = builder.namespace(network.namespace())?;
            builder.kept._network = Some(Arc::clone(network));
            Ok(slot)
        }
        Network::Namespace(namespace) => builder.namespace(namespace),
        Network::Process { pid, .. } => builder.network_of(*pid),
        Network::Later(_) => Err(setup("make the network", "it is put off twice")),
    }
}

/// The mask after what is to be added to `base` and taken away from it.
pub(super) fn capabilities_of(exec: &Exec, base: u64) -> Result<u64, ExecError> {
    let mask = capabilities::mask(base, &exec.capabilities_add, &exec.capabilities_drop);
    mask.map_err(|name| {
        setup(
            format!("give the capability `{name}`"),
            "there is none of that name",
        )
    })
}

fn profile(exec: &Exec, capabilities: u64) -> Result<Option<Rules>, ExecError> {
    let Some(given) = &exec.options.profile else {
        return Ok(None);
    };
    let rules = given.profile.rules_for(capabilities);
    let failed = format!("apply the seccomp profile `{}`", given.file.display());
    rules.map(Some).map_err(|error| setup(failed, error))
}

/// Without those that every sandbox has.
fn further_devices(devices: &[Device]) -> Vec<(Bytes, Bytes)> {
    let is_known = |device: &&Device| {
        let mut known = plan::DEVICES.iter();
        known.any(|(name, ..)| {
            device.name == Path::new(name) && device.path == Path::new("/dev").join(name)
        })
    };
    let further = devices.iter().filter(|device| !is_known(device));
    further
        .map(|device| {
            let (path, name) = (device.path.as_path(), device.name.as_path());
            (Bytes::from(path), Bytes::from(name))
        })
        .collect()
}

/// Kernel parameters by their path. Those of the network are refused where it is another's.
fn sysctls(exec: &Exec) -> Result<Vec<(String, String)>, ExecError> {
    let shares_network = matches!(exec.network, Network::Host | Network::Process { .. });
    let given = exec.options.sysctls.iter();
    given
        .map(|(name, value)| {
            if shares_network && name.starts_with("net.") {
                return Err(setup(
                    format!("set {name}"),
                    "the container has no network of its own",
                ));
            }
            let of_names = name == "kernel.domainname";
            let shares_ipc =
                exec.spaces.ipc != Space::Own && !of_names && !name.starts_with("net.");
            if shares_ipc || (of_names && exec.spaces.names == Names::Host) {
                let what = if of_names { "names" } else { "IPC" };
                return Err(setup(
                    format!("set {name}"),
                    format!("the container has no {what} of its own"),
                ));
            }
            Ok((name.replace('.', "/"), value.clone()))
        })
        .collect()
}

pub(super) fn look_up_user(root: &RootDir, exec: &Exec) -> Result<users::User, ExecError> {
    let error = |error: users::Error| ExecError::User(error.to_string());
    let mut user = users::process_user(root, &exec.user).map_err(error)?;
    for group in &exec.groups {
        let gid = users::process_user(root, &format!("0:{group}"))
            .map_err(error)?
            .gid;
        if !user.groups.contains(&gid) {
            user.groups.push(gid);
        }
    }
    Ok(user)
}

/// Constant where nothing is asked for, so that builds do not depend on who starts them.
pub(super) fn limits(asked: &[(String, u64, u64)]) -> Result<Vec<ResourceLimit>, ExecError> {
    let constant = |kind, soft, hard| ResourceLimit {
        kind,
        soft,
        hard,
        asked: false,
    };
    let mut limits = vec![
        constant(Limit::Core, 0, 0),
        constant(Limit::Nofile, 1024, 524_288),
    ];
    for (name, soft, hard) in asked {
        let kind = Limit::by_name(name).ok_or_else(|| {
            setup(
                format!("set the limit `{name}`"),
                "there is none of that name",
            )
        })?;
        limits.retain(|known| known.kind != kind);
        limits.push(ResourceLimit {
            kind,
            soft: *soft,
            hard: *hard,
            asked: true,
        });
    }
    Ok(limits)
}
