//! A sandbox as pure data: everything that its first process needs to know, decided beforehand. Descriptors are
//! named by their place in the message that carries the task.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::in_root;
use super::seccomp::profile::Rules;
use crate::spec::{Propagation, Tmpfs};
use crate::users::User;

/// Place of a descriptor in the message.
pub(super) type Slot = usize;

/// Bytes that travel as a string of the first 256 characters: compact in JSON, and any byte may occur.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.iter().map(|byte| char::from(*byte)).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.chars()
            .map(|character| u8::try_from(u32::from(character)))
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

impl From<&Path> for Bytes {
    fn from(path: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

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

/// One resource's limit; `u64::MAX` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ResourceLimit {
    pub(super) kind: Limit,
    pub(super) soft: u64,
    pub(super) hard: u64,
    /// Given by the caller, so that anything less is an error.
    pub(super) asked: bool,
}

/// Resources that have limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Limit {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl Limit {
    pub(super) const ALL: [(&'static str, Self); 16] = [
        ("as", Self::As),
        ("core", Self::Core),
        ("cpu", Self::Cpu),
        ("data", Self::Data),
        ("fsize", Self::Fsize),
        ("locks", Self::Locks),
        ("memlock", Self::Memlock),
        ("msgqueue", Self::Msgqueue),
        ("nice", Self::Nice),
        ("nofile", Self::Nofile),
        ("nproc", Self::Nproc),
        ("rss", Self::Rss),
        ("rtprio", Self::Rtprio),
        ("rttime", Self::Rttime),
        ("sigpending", Self::Sigpending),
        ("stack", Self::Stack),
    ];

    pub(super) fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, limit)| *limit)
    }

    pub(super) fn name(self) -> &'static str {
        let known = Self::ALL.iter().find(|(_, limit)| *limit == self);
        known.map_or("", |(name, _)| *name)
    }

    pub(super) fn resource(self) -> rustix::process::Resource {
        use rustix::process::Resource;
        match self {
            Self::As => Resource::As,
            Self::Core => Resource::Core,
            Self::Cpu => Resource::Cpu,
            Self::Data => Resource::Data,
            Self::Fsize => Resource::Fsize,
            Self::Locks => Resource::Locks,
            Self::Memlock => Resource::Memlock,
            Self::Msgqueue => Resource::Msgqueue,
            Self::Nice => Resource::Nice,
            Self::Nofile => Resource::Nofile,
            Self::Nproc => Resource::Nproc,
            Self::Rss => Resource::Rss,
            Self::Rtprio => Resource::Rtprio,
            Self::Rttime => Resource::Rttime,
            Self::Sigpending => Resource::Sigpending,
            Self::Stack => Resource::Stack,
        }
    }
}

/// What the spawner answers; what was made rides on `Done`, of a process its pidfd.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    Failed { errno: i32 },
}

/// What the sandbox's first process tells. The last three are its last words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// All is set up; what was made for mount points. The master of the terminal rides on it.
    Ready {
        stubs: Vec<Stub>,
        parents: Vec<Parent>,
    },
    /// Calls wait for answers from now on. The listener and the mount namespace ride on it.
    Emulate {
        /// Ids of the mounts where devices may be made.
        mounts: Vec<u64>,
        /// User and group that the command takes of its file.
        takes: (Option<u32>, Option<u32>),
    },
    /// Likewise, where there are no namespaces. The listener rides on it.
    Answer,
    /// A step failed.
    Failed { step: String, errno: i32 },
    /// `execve` failed.
    NotExecutable {
        explanation: String,
        not_found: bool,
    },
    /// Another program refused to do a step.
    Refused { step: String, reason: String },
}

/// A mount point that was made in the root's top layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stub {
    /// Relative to the root, free of links.
    pub(super) path: Bytes,
    pub(super) directory: bool,
    pub(super) inode: u64,
}

/// A directory that was there before stubs were made in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Parent {
    /// Relative to the root, free of links; empty for the root.
    pub(super) path: Bytes,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, i64),
}

/// Files and directories of /proc and /sys that nobody sees.
pub(super) const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmcore",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Parts of /proc that nobody writes.
pub(super) const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/mtrr",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Device nodes of the host that are bound: name, major, minor.
pub(super) const DEVICES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Links in /dev.
pub(super) const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_survive_the_way(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let sent = serde_json::to_string(&Bytes(bytes.clone())).expect("JSON");
            let received: Bytes = serde_json::from_str(&sent).expect("bytes");
            prop_assert_eq!(received.0, bytes);
        }
    }

    #[test]
    fn characters_beyond_bytes_are_refused() {
        assert!(serde_json::from_str::<Bytes>("\"\u{100}\"").is_err());
    }

    #[test]
    fn limits_have_the_names_of_ulimit() {
        assert_eq!(Limit::by_name("nofile"), Some(Limit::Nofile));
        assert_eq!(Limit::by_name("NOFILE"), None);
    }
}
