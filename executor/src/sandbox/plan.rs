//! A sandbox as pure data: everything that its first process needs to know, decided beforehand. Descriptors are
//! named by their place in the message that carries the task. What is told back: [`Report`].

mod bytes;
mod kernel_files;
mod limit;
mod report;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::in_root;
use super::seccomp::profile::Rules;
use crate::spec::{Propagation, Tmpfs};
use crate::users::User;
pub(super) use bytes::Bytes;
pub(super) use kernel_files::{DEVICES, LINKS, MASKED, READ_ONLY};
pub(super) use limit::{Limit, ResourceLimit};
pub(super) use report::{Parent, Reply, Report, Stub};

/// Place of a descriptor in the message.
pub(super) type Slot = usize;

/// What is executed, and as whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Command {
    pub(super) argv: Vec<Bytes>,
    pub(super) env: Vec<Bytes>,
    /// Absolute, without `.` and `..`.
    pub(super) cwd: Bytes,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

impl Command {
    /// `HOME` is the user's where it is not in `env`.
    pub(super) fn of(argv: Vec<Vec<u8>>, mut env: Vec<Vec<u8>>, cwd: &Path, user: User) -> Self {
        if !env.iter().any(|entry| entry.starts_with(b"HOME=")) {
            env.push(format!("HOME={}", user.home).into_bytes());
        }
        Self {
            argv: argv.into_iter().map(Bytes).collect(),
            env: env.into_iter().map(Bytes).collect(),
            cwd: Bytes::from(in_root::clean(cwd).as_path()),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
        }
    }

    /// What it is called, for messages.
    pub(super) fn program(&self) -> String {
        self.argv.first().map_or_else(String::new, |name| {
            String::from_utf8_lossy(&name.0).into_owned()
        })
    }
}

/// A sandbox and its command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) command: Command,
    pub(super) hostname: String,
    /// Empty: it stays.
    pub(super) domainname: String,
    /// For the runtime, where that is another's.
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) network: Network,
    pub(super) spaces: Spaces,
    /// A detached mount of what is /dev/shm where that is another's.
    pub(super) shared_memory: Option<Slot>,
    /// A detached mount.
    pub(super) root: Slot,
    pub(super) read_only_root: bool,
    /// A detached tmpfs with files that mounts name; see [`Source::File`].
    pub(super) files: Slot,
    /// In the order in which they are mounted.
    pub(super) mounts: Vec<Mount>,
    pub(super) shm_size: u64,
    pub(super) limits: Vec<ResourceLimit>,
    /// How willingly the kernel kills it when memory is short, where it can say so itself.
    pub(super) oom_score_adj: Option<i16>,
    /// Mask of capabilities that uid 0 gets and that bound everybody.
    pub(super) capabilities: u64,
    pub(super) filter: Option<Filter>,
    /// The user's instead of our own, and beside what [`Filter`] asks about: of both, the strictest counts.
    pub(super) profile: Option<Rules>,
    /// Nothing masked and nothing read-only.
    pub(super) unmasked: bool,
    pub(super) no_new_privileges: bool,
    /// (path below /proc/sys, value).
    pub(super) sysctls: Vec<(String, String)>,
    /// (path on the host, path below /dev) of further devices.
    pub(super) devices: Vec<(Bytes, Bytes)>,
    /// Its cgroup alone says which devices it opens, wherever their nodes are.
    pub(super) opens_devices: bool,
    pub(super) stdio: Stdio,
    /// The socket that reports go to.
    pub(super) status: Slot,
    /// Open `cgroup.procs` or `tasks` files to join.
    pub(super) cgroups: Vec<Slot>,
    /// What is shown of them in /sys/fs/cgroup.
    pub(super) cgroup_views: Vec<CgroupView>,
    pub(super) init: bool,
    /// A program that makes the container of what is in here.
    pub(super) runtime: Option<Bytes>,
    /// Where that is so, the socket on which the container's first process is told, by a pidfd.
    pub(super) announced: Option<Slot>,
    pub(super) privilege: crate::host::Privilege,
    /// Its root is the machine's: there is no user namespace.
    pub(super) machines_root: bool,
    /// There are no namespaces.
    pub(super) bare: Option<Bare>,
    /// There can be no new /proc: it is shown the one that is there, from a user namespace of its own.
    pub(super) outer_proc: bool,
}

/// What decides how /proc and /dev look, which are made before a command's root is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Surroundings {
    pub(super) privilege: crate::host::Privilege,
    /// As in [`Task`], like the others.
    pub(super) machines_root: bool,
    pub(super) unmasked: bool,
    pub(super) outer_proc: bool,
    pub(super) sysctls: Vec<(String, String)>,
    pub(super) spaces: Spaces,
}

/// Which namespaces are not its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Spaces {
    pub(super) processes: Space,
    pub(super) ipc: Space,
    /// It has the machine's host name.
    pub(super) machines_names: bool,
    pub(super) no_shared_memory: bool,
}

/// Whose namespace of a kind it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Space {
    #[default]
    Own,
    Host,
    Join(Slot),
}

impl Spaces {
    /// `CLONE_NEW*` of those that it is born in.
    pub(super) fn namespaces(self) -> libc::c_int {
        [
            (self.processes == Space::Own, libc::CLONE_NEWPID),
            (self.ipc == Space::Own, libc::CLONE_NEWIPC),
            (!self.machines_names, libc::CLONE_NEWUTS),
        ]
        .into_iter()
        .filter(|(new, _)| *new)
        .fold(libc::CLONE_NEWNS, |all, (_, kind)| all | kind)
    }
}

impl Task {
    pub(super) fn surroundings(&self) -> Surroundings {
        Surroundings {
            privilege: self.privilege,
            machines_root: self.machines_root,
            unmasked: self.unmasked,
            outer_proc: self.outer_proc,
            sysctls: self.sysctls.clone(),
            spaces: self.spaces,
        }
    }

    /// Whether a process of ours stays with the command and ends what that started: no namespace would.
    pub(super) fn is_kept(&self) -> bool {
        self.spaces.processes != Space::Own
    }

    /// Whose calls are answered, where some are.
    pub(super) fn identity(&self) -> crate::emulation::Identity {
        crate::emulation::Identity {
            uid: self.command.uid,
            gid: self.command.gid,
            groups: self.command.groups.clone(),
            takes: (None, None),
            scope: self.scope(),
            own_mounts: Vec::new(),
            outer_proc: self.outer_proc,
            shown: None,
            refused: crate::emulation::Refused::default(),
        }
    }

    /// Whose its terminal is made; with one id there is nobody else that the kernel knows.
    pub(super) fn terminal_owner(&self) -> Option<u32> {
        (self.privilege != crate::host::Privilege::SingleId).then_some(self.command.uid)
    }

    /// The signal that ends its first process and everything in the sandbox with that.
    pub(super) fn end(&self) -> rustix::process::Signal {
        match self.bare {
            Some(_) => super::keeper::END,
            None if self.is_kept() => super::keeper::END,
            None => rustix::process::Signal::KILL,
        }
    }

    /// What keeps it from devices that come with what is mounted for it.
    pub(super) fn no_devices(&self) -> rustix::mount::MountAttrFlags {
        if self.opens_devices {
            rustix::mount::MountAttrFlags::empty()
        } else {
            super::mounts::NO_DEV
        }
    }

    /// Whether devices are made for it.
    pub(super) fn makes_devices(&self) -> bool {
        self.filter
            .is_some_and(|filter| filter.devices == Devices::Made)
    }

    /// Whether something stands for devices that it makes.
    pub(super) fn has_stand_ins(&self) -> bool {
        self.filter
            .is_some_and(|filter| filter.emulation || filter.devices == Devices::Recorded)
    }

    /// What calls are answered about.
    fn scope(&self) -> crate::emulation::Scope {
        use crate::emulation::Scope;
        match self.filter.map(|filter| (filter.emulation, filter.devices)) {
            Some((true, _)) => Scope::Owners,
            Some((_, Devices::Made)) => Scope::MadeDevices,
            _ => Scope::RecordedDevices,
        }
    }
}

/// What the first process needs where there are no namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bare {
    /// The open working directory.
    pub(super) cwd: Slot,
    /// A pipe that gets a byte when the command and all that it started have ended.
    pub(super) ended: Slot,
    /// The root's null device.
    pub(super) null: Slot,
    /// Files that are emptied at the end, wherever they are by then.
    pub(super) wiped: Vec<Slot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Network {
    /// A new one, with `lo` up.
    Own,
    Host,
    /// Joins a namespace.
    Join(Slot),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mount {
    /// Absolute, without `.` and `..`.
    pub(super) target: Bytes,
    pub(super) read_only: bool,
    pub(super) source: Source,
    /// Otherwise nothing travels to or from it.
    pub(super) propagation: Option<Propagation>,
    /// What is mounted below it stays writable where it is read-only.
    pub(super) writable_below: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Source {
    /// A path inside a detached mount.
    Tree {
        tree: Slot,
        path: Bytes,
    },
    /// A detached mount of something of the machine's.
    Whole {
        tree: Slot,
    },
    /// A file of [`Task::files`].
    File {
        name: String,
    },
    Tmpfs(Tmpfs),
}

/// A hierarchy of cgroups, as a command with limits sees its own: in a directory of /sys/fs/cgroup by its controllers,
/// or, of version 2, as all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CgroupView {
    pub(super) name: String,
    /// None: version 2.
    pub(super) controllers: Vec<String>,
}

/// Which filter of system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Filter {
    /// Capabilities that open further calls.
    pub(super) capabilities: u64,
    /// Calls about owners and ids are answered by [`crate::emulation`], for a user namespace with one id.
    pub(super) emulation: bool,
    /// Only calls that make devices are, in a user namespace with many ids.
    pub(super) devices: Devices,
    /// Nothing is refused.
    pub(super) unrestricted: bool,
    pub(super) around: Around,
}

/// What is around a command besides its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Around {
    /// Namespaces of its own.
    Namespaces,
    /// The container that this process is in ([`super::bare`]), with its network or without.
    Container { network: bool },
}

/// Who makes device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Devices {
    /// The kernel, or nobody.
    Kernel,
    /// They are written down.
    Recorded,
    /// Root of the machine, for root of a user namespace.
    Made,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stdio {
    /// Descriptors for 0, 1 and 2.
    Streams([Slot; 3]),
    /// A terminal of the sandbox's own; its master is sent with [`Report::Ready`].
    Terminal { rows: u16, columns: u16 },
}
