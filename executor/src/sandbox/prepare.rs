//! From what a command is to be given ([`Exec`]) to a task for the spawner: looks up the user, opens and mounts
//! (detached) everything that the sandbox needs. Touches the store and the host; makes no process.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rbuild_cache::{ActiveSnapshot, RootDir, Store};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::bare::Bare;
use super::counted::Counted;
use super::plan::{
    self, Bytes, Command, Devices, Filter, Limit, ResourceLimit, Slot, Source, Task,
};
use super::socket::{self, Forwarded};
use super::users::Chosen;
use super::{ExecError, cache_content, capabilities, in_root, mounts, propagation};
use crate::host::{Host, Privilege};
use crate::mapped::Mapped;
use crate::spec::{Device, Dns, Exec, Mount, MountSource, Network, Security};
use crate::{Executor, network, overlay, users};

/// Mounts that one command may have; their descriptors travel in one message.
const MOST_MOUNTS: usize = 200;
/// Of the host's resolv.conf.
const MOST_RESOLV_CONF: u64 = 64 << 10;
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
        // What it finds is what an ordinary user's command with many ids finds.
        (Privilege::Root, Some(_)) => Privilege::Subordinate,
        (privilege, _) => privilege,
    };
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
    let devices = if exec.runtime.is_some() {
        Devices::Kernel
    } else if rbuild_cache::owners::devices_recorded() {
        Devices::Recorded
    } else if users.mapped.is_some() {
        Devices::Made
    } else {
        Devices::Kernel
    };
    let machines_root = privilege == Privilege::Root && users.mapped.is_none();
    if machines_root {
        refuse_devices(&exec)?;
    }
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
            .ok_or_else(|| setup("make the network", "its thread ended"))?;
    }
    builder.base_files(&exec)?;
    let network = match &exec.network {
        Network::None => plan::Network::Own,
        Network::Host => plan::Network::Host,
        Network::Private(network) => {
            let slot = builder.namespace(network.namespace())?;
            builder.kept._network = Some(Arc::clone(network));
            slot
        }
        Network::Namespace(namespace) => builder.namespace(namespace)?,
        Network::Process { pid, .. } => builder.network_of(*pid)?,
        Network::Later(_) => return Err(setup("make the network", "it is put off twice")),
    };
    let insecure = exec.security == Security::Insecure;
    let unfiltered = insecure || exec.options.no_filter || exec.options.profile.is_some();
    let sysctls = sysctls(&exec)?;
    let base = if insecure {
        capabilities::ALL
    } else {
        capabilities::DEFAULT
    };
    let capabilities = capabilities::mask(base, &exec.capabilities_add, &exec.capabilities_drop)
        .map_err(|name| {
            setup(
                format!("give the capability `{name}`"),
                "there is none of that name",
            )
        })?;
    let profile = exec.options.profile.as_ref();
    let profile = profile
        .map(|given| {
            let rules = given.profile.rules_for(capabilities);
            rules.map_err(|error| {
                let file = given.file.display();
                setup(format!("apply the seccomp profile `{file}`"), error)
            })
        })
        .transpose()?;
    let Builder {
        mut descriptors,
        mut kept,
        files,
        mounts,
        ..
    } = builder;
    descriptors.push(files.tree);
    let files = descriptors.len() - 1;
    let emulates_user = single_id && user.uid != 0;
    let task = Task {
        command: Command::of(exec.argv, exec.env, &exec.cwd, user),
        hostname: exec.hostname,
        domainname: exec.domainname,
        network,
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
            emulates_user,
            unrestricted: unfiltered,
            around: plan::Around::Namespaces,
        }),
        profile,
        unmasked: insecure || exec.options.unmasked,
        no_new_privileges: exec.options.no_new_privileges,
        sysctls,
        devices: further_devices(&exec.options.devices),
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

/// A mount that is made on the host later comes as it is, with the devices in it: what keeps the machine's root from
/// those is that nothing else in a sandbox lets them be opened.
fn refuse_devices(exec: &Exec) -> Result<(), ExecError> {
    let given = capabilities::mask(0, &exec.capabilities_add, &exec.capabilities_drop);
    // Whoever has this one mounts what it likes, as it likes.
    let mounts = capabilities::by_name("SYS_ADMIN")
        .is_some_and(|bit| given.is_ok_and(|given| given & bit != 0));
    let free = mounts || exec.security == Security::Insecure;
    let mut propagated = exec.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Propagated { path, .. } => Some((path, &mount.target)),
        _ => None,
    });
    match propagated.next() {
        Some((path, target)) if !free && !rbuild_cache::owners::devices_recorded() => Err(setup(
            format!("mount `{}` at `{}`", path.display(), target.display()),
            "what the host mounts there later comes with the devices in it, and nothing would keep this container from \
             them, whose root is the machine's: that comes of `--userns=host`, `--network=host`, `--device`, or of a \
             source whose file systems have no mapped ids; `--privileged` lets it have all devices",
        )),
        _ => Ok(()),
    }
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

struct Builder {
    store: Arc<Store>,
    host: Host,
    single_id: bool,
    descriptors: Vec<OwnedFd>,
    kept: Kept,
    files: Files,
    mounts: Vec<plan::Mount>,
    /// With mapped ids, by place of the mount.
    directories: Vec<Option<OwnedFd>>,
}

impl Builder {
    fn mapped(&self) -> Option<&Mapped> {
        self.files.mapped.as_deref()
    }

    fn slot(&mut self, fd: OwnedFd) -> Slot {
        self.descriptors.push(fd);
        self.descriptors.len() - 1
    }

    /// resolv.conf, hosts and hostname.
    fn base_files(&mut self, exec: &Exec) -> Result<(), ExecError> {
        let contents = [
            ("resolv.conf", resolv_conf(exec)),
            ("hosts", hosts(exec)),
            ("hostname", format!("{}\n", exec.hostname).into_bytes()),
        ];
        for (name, content) in contents {
            self.files.add(name, &content, 0o644, (0, 0))?;
            let target = Bytes::from(Path::new("/etc").join(name).as_path());
            let etc = Bytes::from(Path::new("/etc"));
            // They are seen in a volume that is mounted at /etc, too, unless nothing can be made in that.
            let hidden = |mount: &plan::Mount| {
                mount.target == target || (mount.target == etc && mount.read_only)
            };
            let at = self.mounts.iter().position(hidden);
            let at = at.unwrap_or(self.mounts.len());
            self.mounts.insert(
                at,
                plan::Mount {
                    target,
                    read_only: !exec.writable_names,
                    source: Source::File { name: name.into() },
                    propagation: None,
                },
            );
        }
        Ok(())
    }

    fn mount(&mut self, index: usize, mount: Mount, cwd: &Path) -> Result<(), ExecError> {
        let target = in_root::clean(&cwd.join(&mount.target));
        if refused(&target) {
            return Err(setup(
                format!("mount at the target {}", target.display()),
                "this path belongs to the sandbox itself; choose another target",
            ));
        }
        let source = self.source(index, &mount, &target)?;
        self.mounts.push(plan::Mount {
            target: Bytes::from(target.as_path()),
            read_only: mount.read_only,
            source,
            propagation: match mount.source {
                MountSource::Propagated { propagation, .. } => Some(propagation),
                _ => None,
            },
        });
        self.kept._mounts.push(mount);
        Ok(())
    }

    fn source(&mut self, index: usize, mount: &Mount, target: &Path) -> Result<Source, ExecError> {
        let failed = |what: &str| {
            let step = format!("{what} for the mount at {}", target.display());
            move |error: rustix::io::Errno| setup(step, std::io::Error::from(error))
        };
        match &mount.source {
            MountSource::Snapshot { snapshot, path } => {
                let overlay_failed = |error: overlay::Error| {
                    setup(format!("mount the source of {}", target.display()), error)
                };
                let (store, snapshot) = (&self.store, snapshot.as_ref());
                let tree = if mount.read_only {
                    overlay::view_in(store, snapshot, self.mapped()).map_err(overlay_failed)?
                } else {
                    let layer = self.store.prepare()?;
                    let tree = overlay::writable_in(store, snapshot, &layer, self.mapped())
                        .map_err(overlay_failed)?;
                    self.kept._layers.push(layer);
                    tree
                };
                Ok(self.tree(tree, path))
            }
            MountSource::Directory { root, path } => {
                if let Some(tree) = self.directories.get_mut(index).and_then(Option::take) {
                    return Ok(Source::Whole {
                        tree: self.slot(tree),
                    });
                }
                let tree =
                    mounts::copy(root.as_fd(), true).map_err(failed("copy the directory"))?;
                Ok(self.tree(tree, path))
            }
            MountSource::Propagated { path, propagation } => {
                let tree = match self.directories.get_mut(index).and_then(Option::take) {
                    Some(tree) => tree,
                    None => propagation::tree(&self.host, path, *propagation, target)?,
                };
                Ok(Source::Whole {
                    tree: self.slot(tree),
                })
            }
            MountSource::Cache {
                mount: cache,
                from,
                path,
                mode,
                uid,
                gid,
                throw_away,
            } => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = rustix::fs::open(cache.path(), flags, Mode::empty())
                    .map_err(failed("open the cache"))?;
                if cache.is_new() {
                    cache_content::fill(
                        &self.store,
                        directory.as_fd(),
                        from.as_ref(),
                        *mode,
                        (*uid, *gid),
                    )?;
                }
                let tree = if *throw_away {
                    let layer = self.store.prepare()?;
                    let tree = overlay::over(&self.store, cache.path(), &layer, self.mapped());
                    let tree = tree.map_err(|error| {
                        setup(format!("mount the source of {}", target.display()), error)
                    })?;
                    self.kept._layers.push(layer);
                    tree
                } else {
                    let mapped = match self.mapped() {
                        Some(mapped) => mapped
                            .open(cache.path())
                            .map_err(failed("open the cache"))?,
                        None => directory,
                    };
                    mounts::copy(mapped.as_fd(), false).map_err(failed("open the cache"))?
                };
                Ok(self.tree(tree, path))
            }
            MountSource::Tmpfs(tmpfs) => {
                let others = [tmpfs.uid, tmpfs.gid].into_iter().flatten();
                if self.single_id && others.max() > Some(0) {
                    return Err(setup(
                        format!("mount a tmpfs at {}", target.display()),
                        "it cannot belong to another user (uid=, gid=) where there is one id: give the user subordinate ids, or chown it in the container",
                    ));
                }
                Ok(Source::Tmpfs(tmpfs.clone()))
            }
            MountSource::Secret {
                data,
                mode,
                uid,
                gid,
            } => {
                let name = format!("secret-{index}");
                self.files.add(&name, data, *mode, (*uid, *gid))?;
                Ok(Source::File { name })
            }
            MountSource::Socket {
                path,
                mode,
                uid,
                gid,
            } => {
                let name = format!("socket-{index}");
                let forwarded = socket::forward(
                    self.files.tree.as_fd(),
                    &name,
                    path.clone(),
                    *mode,
                    // A socket can carry no owner where owners are written down; a command of root's sees its own.
                    if self.single_id {
                        (0, 0)
                    } else {
                        self.files.owner((*uid, *gid))
                    },
                )
                .map_err(|error| setup(format!("forward the socket {}", path.display()), error))?;
                self.kept._sockets.push(forwarded);
                Ok(Source::File { name })
            }
        }
    }

    fn tree(&mut self, tree: OwnedFd, path: &Path) -> Source {
        Source::Tree {
            tree: self.slot(tree),
            path: Bytes::from(in_root::clean(path).as_path()),
        }
    }

    fn namespace(&mut self, namespace: &OwnedFd) -> Result<plan::Network, ExecError> {
        let namespace = namespace
            .try_clone()
            .map_err(|error| setup("keep the network namespace", error))?;
        Ok(plan::Network::Join(self.slot(namespace)))
    }

    fn network_of(&mut self, pid: u32) -> Result<plan::Network, ExecError> {
        let open = |path: &str| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let namespace = rustix::fs::open(path, flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&namespace)?;
            Ok((namespace, (stat.st_dev, stat.st_ino)))
        };
        let failed = |errno: Errno| {
            let step = format!("join the network of process {pid}");
            if matches!(errno, Errno::ACCESS | Errno::PERM) {
                return setup(
                    step,
                    "it is in a user namespace that this process has no rights in, as its container was started anew \
                     after this one: `rbuild start` this one again",
                );
            }
            setup(step, std::io::Error::from(errno))
        };
        let (namespace, theirs) = open(&format!("/proc/{pid}/ns/net")).map_err(failed)?;
        let (_, ours) = open("/proc/self/ns/net").map_err(failed)?;
        // An ordinary user is in the host's, and has no right to go there.
        if theirs == ours {
            return Ok(plan::Network::Host);
        }
        Ok(plan::Network::Join(self.slot(namespace)))
    }
}

/// Targets that would take away what the sandbox stands on.
pub(super) fn refused(target: &Path) -> bool {
    let exactly = ["/", "/sys", "/dev"];
    exactly.iter().any(|path| target == Path::new(path)) || target.starts_with("/proc")
}

/// The address in the network, where it is a private one.
fn private_address(network: &Network) -> Option<Ipv4Addr> {
    match network {
        Network::Private(network) => Some(network.address()),
        Network::Process { private, .. } => *private,
        Network::None | Network::Host | Network::Namespace(_) | Network::Later(_) => None,
    }
}

pub(super) fn resolv_conf(exec: &Exec) -> Vec<u8> {
    let given = if private_address(&exec.network).is_some() {
        network::resolv_conf()
    } else {
        read_bounded(Path::new("/etc/resolv.conf")).unwrap_or_default()
    };
    if exec.dns == Dns::default() {
        return given;
    }
    replaced(&String::from_utf8_lossy(&given), &exec.dns).into_bytes()
}

/// A resolv.conf with other lines of the kinds that are asked for.
fn replaced(given: &str, dns: &Dns) -> String {
    let replaces = |keyword: &str| match keyword {
        "nameserver" => !dns.servers.is_empty(),
        "search" | "domain" => !dns.search.is_empty(),
        "options" => !dns.options.is_empty(),
        // Comments, and what nobody knows.
        _ => true,
    };
    let mut text = String::new();
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for line in given.lines() {
        let keyword = line.split_whitespace().next().unwrap_or_default();
        if !replaces(keyword) {
            text.push_str(line);
            text.push('\n');
        }
    }
    if !dns.search.is_empty() && dns.search != ["."] {
        text.push_str(&format!("search {}\n", dns.search.join(" ")));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut content = Vec::new();
    file.take(MOST_RESOLV_CONF).read_to_end(&mut content)?;
    Ok(content)
}

/// What every machine's file names too.
const IP6_NAMES: &str = "fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

pub(super) fn hosts(exec: &Exec) -> Vec<u8> {
    // By both names, the full one first.
    let hostname = match exec.domainname.as_str() {
        "" => exec.hostname.clone(),
        domain => format!("{name}.{domain} {name}", name = exec.hostname),
    };
    let address = private_address(&exec.network);
    let private = address.is_some();
    // In a network of its own, a host is known by its address there.
    let own = if private {
        String::new()
    } else {
        format!(" {hostname}")
    };
    let mut text = format!(
        "127.0.0.1\tlocalhost{own}\n::1\tlocalhost ip6-localhost ip6-loopback\n{IP6_NAMES}"
    );
    if let Some(address) = address {
        text.push_str(&format!("{address}\t{hostname}\n"));
    }
    for (host, address) in &exec.hosts {
        // The host as seen from inside.
        let gateway = network::GATEWAY.to_string();
        let address = match address.as_str() {
            "host-gateway" if private => &gateway,
            "host-gateway" => "127.0.0.1",
            address => address,
        };
        text.push_str(&format!("{address}\t{host}\n"));
    }
    text.into_bytes()
}

/// Files in memory: a detached tmpfs.
struct Files {
    tree: OwnedFd,
    /// Where they are given to ids of a user namespace.
    mapped: Option<Arc<Mapped>>,
}

impl Files {
    fn new(mapped: Option<Arc<Mapped>>) -> Result<Self, ExecError> {
        let make = |options: &[(&str, &str)]| {
            mounts::make(
                "tmpfs",
                options,
                mounts::NO_SUID | mounts::NO_DEV | mounts::NO_EXEC,
            )
        };
        // Secrets are not to be swapped out either; only newer kernels can promise it.
        let tree = make(&[("mode", "0755"), ("noswap", "")])
            .or_else(|_| make(&[("mode", "0755")]))
            .map_err(|errno| setup("make files in memory", std::io::Error::from(errno)))?;
        Ok(Self { tree, mapped })
    }

    /// Who somebody of the command's is here; an id that there is not is nobody's, as root's is in there.
    fn owner(&self, owner: (u32, u32)) -> (u32, u32) {
        match &self.mapped {
            None => owner,
            Some(mapped) => mapped.inside().ids().outside(owner).unwrap_or((0, 0)),
        }
    }

    fn add(
        &mut self,
        name: &str,
        content: &[u8],
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<(), ExecError> {
        self.write(name, content, mode, (uid, gid))
            .map_err(|error| setup(format!("make the file `{name}` in memory"), error))
    }

    fn write(
        &self,
        name: &str,
        content: &[u8],
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> std::io::Result<()> {
        use std::io::Write;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.tree, name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = std::fs::File::from(fd);
        file.write_all(content)?;
        let (uid, gid) = self.owner((uid, gid));
        if (uid, gid) != (0, 0) {
            match rbuild_cache::owners::set(file.as_fd(), uid, gid) {
                // Memory keeps no attributes before Linux 6.6; the file is then shown as root's.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                result => result?,
            }
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_resolv_conf_are_replaced_by_kind() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let given = "# of the host\nnameserver 10.0.0.1\nsearch a b\noptions edns0\n";
        let dns = |servers: &[&str], search: &[&str], options: &[&str]| Dns {
            servers: words(servers),
            search: words(search),
            options: words(options),
        };
        assert_eq!(
            replaced(given, &dns(&["9.9.9.9"], &[], &[])),
            "nameserver 9.9.9.9\nsearch a b\noptions edns0\n"
        );
        assert_eq!(
            replaced(given, &dns(&[], &["c", "d"], &["ndots:2"])),
            "nameserver 10.0.0.1\nsearch c d\noptions ndots:2\n"
        );
        assert_eq!(
            replaced(given, &dns(&[], &["."], &[])),
            "nameserver 10.0.0.1\noptions edns0\n"
        );
    }

    #[test]
    fn the_sandbox_keeps_its_own_mounts() {
        for target in ["/", "/proc", "/proc/sys", "/sys", "/dev"] {
            assert!(refused(Path::new(target)), "{target}");
        }
        for target in ["/dev/x", "/processes", "/m"] {
            assert!(!refused(Path::new(target)), "{target}");
        }
    }
}
