//! What a command is to be given, as data. Everything in here is decided by the caller; nothing is taken from the
//! environment of this process.

mod devices;
mod limits;
mod streams;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rbuild_cache::cache_mounts::CacheMount;
use rbuild_cache::{RootDir, SnapshotId};
use serde::{Deserialize, Serialize};

pub use crate::sandbox::seccomp::profile::{self, Profile};
pub use devices::{Access, Device, DeviceKind, DeviceRule};
pub use limits::{BlockLimit, BlockLimitKind, Limits};
pub use streams::{Carried, Ends, Output, Sink, Stdin, Stdio};

/// A command and its surroundings.
#[derive(Debug)]
pub struct Exec {
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value`, in order; the closed set that the command gets. `HOME` is set by the sandbox from the user's
    /// entry in the root's passwd when it is not in here.
    pub env: Vec<Vec<u8>>,
    /// Absolute; made if it is missing.
    pub cwd: PathBuf,
    /// As in USER: `name`, `uid`, `name:group`, `uid:gid`, or empty for root; looked up inside the root.
    pub user: String,
    /// Further groups by name or id (`--group-add`).
    pub groups: Vec<String>,
    pub mounts: Vec<Mount>,
    pub network: Network,
    pub spaces: Spaces,
    pub security: Security,
    pub users: Users,
    pub options: SecurityOptions,
    pub hostname: String,
    /// The NIS domain; empty: the machine's.
    pub domainname: String,
    /// Lines for /etc/hosts: (host, address).
    pub hosts: Vec<(String, String)>,
    pub dns: Dns,
    pub limits: Limits,
    pub read_only_root: bool,
    /// Whether its own /etc/hosts, hostname and resolv.conf can be written to.
    pub writable_names: bool,
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    /// A tiny init as PID 1 that forwards signals and reaps.
    pub init: bool,
    /// An OCI runtime of the machine's, by its path, that makes the container instead of this crate.
    pub runtime: Option<PathBuf>,
    /// What that runtime is told besides; this crate reads nothing in it.
    pub annotations: BTreeMap<String, String>,
    /// Kills the command when it takes longer.
    pub timeout: Option<Duration>,
    /// More commands are expected after it: while it runs, the process of the next one is begun.
    pub followed: bool,
    /// Nothing else that takes long is done beside its beginning: what is short is not handed to other threads.
    pub alone: bool,
}

/// What replaces lines of /etc/resolv.conf; where a field is empty, those of the host or the network stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Domains in which names are looked for; `.` alone is none.
    pub search: Vec<String>,
    /// As resolv.conf has them, `ndots:2`.
    pub options: Vec<String>,
}

/// One mount of a command.
#[derive(Debug)]
pub struct Mount {
    /// Absolute path inside the root. Missing mount points are made for the time of the command and are not in the
    /// resulting snapshot, nor are the parents made for them.
    pub target: PathBuf,
    pub read_only: bool,
    /// Of a directory of the host.
    pub below: Below,
    pub source: MountSource,
}

/// What becomes of the mounts that are below a directory of the host when it is mounted (`bind-recursive` of `--mount`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Below {
    /// They are there, and read-only where it is.
    #[default]
    Included,
    /// They are there, and written to even where it is read-only.
    Writable,
    /// What they hide is there.
    Excluded,
}

/// A file system in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Bytes.
    pub size: Option<u64>,
    /// Where not given, that of the directory that is hidden, else 1777.
    pub mode: Option<u32>,
    #[serde(default)]
    pub uid: Option<u32>,
    #[serde(default)]
    pub gid: Option<u32>,
    /// The most files it holds.
    #[serde(default)]
    pub inodes: Option<u64>,
    pub no_exec: bool,
}

/// How mounts that are made while a command runs travel between a directory of the host and what the command sees of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Propagation {
    /// The host's are seen by the command.
    Slave,
    /// Either's are seen by the other.
    Shared,
}

impl Propagation {
    /// By the name that Docker has for it. `None` where nothing travels. What is mounted below the directory already
    /// propagates as on the host, whether the name begins with an `r` or not.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "slave" | "rslave" => Some(Self::Slave),
            "shared" | "rshared" => Some(Self::Shared),
            _ => None,
        }
    }
}

/// What is mounted.
#[derive(Debug)]
pub enum MountSource {
    /// A path of a snapshot's view. Writes go to a throw-away layer.
    Snapshot {
        snapshot: Option<SnapshotId>,
        path: PathBuf,
    },
    /// A path inside a directory of the host that the user named (`run -v`). Writes reach it unless read-only.
    Directory {
        root: Arc<RootDir>,
        path: PathBuf,
        /// Of a volume: where its directory is. Without mounts, whoever writes to it puts another in its place.
        volume: Option<PathBuf>,
    },
    /// A path of the host that the user named, with the mounts that are made below it later.
    Propagated {
        /// Absolute, without links.
        path: PathBuf,
        propagation: Propagation,
    },
    /// A cache mount; a new one gets its first content from `from`. `path` is a path inside of it.
    Cache {
        mount: CacheMount,
        from: Option<(Option<SnapshotId>, PathBuf)>,
        path: PathBuf,
        /// What is not said is as the directory in `from`, or 0755 and root's.
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        /// Writes go to a throw-away layer.
        throw_away: bool,
    },
    Tmpfs(Tmpfs),
    /// A file in memory.
    Secret {
        data: Arc<[u8]>,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// A socket of the host (an ssh agent's).
    Socket {
        path: PathBuf,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// Which network a command has.
#[derive(Debug)]
pub enum Network {
    /// A network namespace with `lo` only.
    None,
    /// The host's.
    Host,
    /// A private one, with the way out and names; it may be shared.
    Private(Arc<crate::network::Private>),
    /// A network namespace that the caller holds open.
    Namespace(Arc<OwnedFd>),
    /// The network namespace of a process (`--network container:ID`).
    Process {
        pid: u32,
        /// Where it is a private one: the place in it.
        private: Option<crate::network::Place>,
    },
    /// Whichever it turns out to be: waited for when all else is prepared.
    Later(Later),
}

/// Whose processes, System V IPC and names a command shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spaces {
    pub processes: Space,
    pub ipc: Space,
    /// There is no /dev/shm.
    pub no_shared_memory: bool,
    /// The host's name and domain name are its own; otherwise the machine's.
    pub names: Names,
}

/// Whose namespace of a kind a command is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Space {
    #[default]
    Own,
    Host,
    /// That of a process.
    Process(u32),
}

/// Whose host name a command has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    #[default]
    Own,
    Host,
}

impl Spaces {
    /// The processes whose namespaces it shares.
    pub(crate) fn others(&self) -> impl Iterator<Item = u32> {
        [self.processes, self.ipc]
            .into_iter()
            .filter_map(|space| match space {
                Space::Process(pid) => Some(pid),
                Space::Own | Space::Host => None,
            })
    }
}

/// A network that is being made on another thread.
pub struct Later(Box<dyn FnOnce() -> Option<Awaited> + Send + Sync>);

/// What came of it.
pub type Awaited = Result<Network, crate::network::Error>;

impl Later {
    /// With the channel on which the network is awaited.
    pub fn channel() -> (SyncSender<Awaited>, Self) {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let receiver = Mutex::new(receiver);
        let wait = move || {
            let receiver = receiver
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            receiver.recv().ok()
        };
        (sender, Self(Box::new(wait)))
    }

    /// `finish` may wait.
    pub fn new(finish: impl FnOnce() -> Network + Send + Sync + 'static) -> Self {
        Self(Box::new(|| Some(Ok(finish()))))
    }

    /// `None` where whoever was to make it is gone. Blocking.
    pub(crate) fn wait(self) -> Option<Awaited> {
        (self.0)()
    }
}

impl std::fmt::Debug for Later {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Later")
    }
}

/// How much a command is kept from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    #[default]
    Sandbox,
    /// All capabilities, no seccomp filter, nothing masked (`--security=insecure`, `--privileged`).
    Insecure,
}

/// Single parts of [`Security`] (`--security-opt`), and kernel parameters of the sandbox's own namespaces
/// (`--sysctl`).
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SecurityOptions {
    /// Programs that are setuid or have capabilities of their own give nothing.
    pub no_new_privileges: bool,
    /// No call is refused.
    pub no_filter: bool,
    /// Says which are, instead of our own filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<GivenProfile>,
    /// Nothing of /proc and /sys is hidden or read-only.
    pub unmasked: bool,
    /// (`net.ipv4.ip_forward`, value): those of the network only where the sandbox has one of its own.
    pub sysctls: Vec<(String, String)>,
    /// Devices of the machine besides those that every sandbox has.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Devices that may be used besides those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_rules: Vec<DeviceRule>,
}

/// A profile of system calls (`--security-opt seccomp=FILE`), as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GivenProfile {
    /// For messages.
    pub file: PathBuf,
    pub profile: Profile,
}

/// Who the command's users are on the machine. Only root has a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Users {
    /// Nobody: the command is in a user namespace of its own, where the machine can, and it is not
    /// [`Security::Insecure`].
    #[default]
    Own,
    /// The machine's (`--userns=host`).
    Host,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(u8),
    Signal(i32),
    /// Killed for its memory limit.
    OutOfMemory,
    TimedOut,
}
