//! What a command is to be given, as data. Everything in here is decided by the caller; nothing is taken from the
//! environment of this process.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rbuild_cache::mounts::CacheMount;
use rbuild_cache::{RootDir, SnapshotId};
use serde::{Deserialize, Serialize};

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
    /// Kills the command when it takes longer.
    pub timeout: Option<Duration>,
    /// More commands are expected after it: while it runs, the process of the next one is begun.
    pub followed: bool,
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

#[derive(Debug)]
pub struct Mount {
    /// Absolute path inside the root. Missing mount points are made for the time of the command and are not in the
    /// resulting snapshot, nor are the parents made for them.
    pub target: PathBuf,
    pub read_only: bool,
    pub source: MountSource,
}

/// A file system in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Bytes.
    pub size: Option<u64>,
    /// 1777 where not given.
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
        mode: u32,
        uid: u32,
        gid: u32,
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
pub struct Later(Box<dyn FnOnce() -> Option<Network> + Send + Sync>);

impl Later {
    /// With the channel on which the network is awaited.
    pub fn channel() -> (SyncSender<Network>, Self) {
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
        Self(Box::new(|| Some(finish())))
    }

    /// `None` where whoever was to make it is gone. Blocking.
    pub(crate) fn wait(self) -> Option<Network> {
        (self.0)()
    }
}

impl std::fmt::Debug for Later {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Later")
    }
}

pub use crate::sandbox::seccomp::profile::{self, Profile};

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

/// A device node of the machine in a sandbox's /dev (`--device`). Who may open it is said by its mode and owner.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// On the host, without links.
    pub path: PathBuf,
    /// Below /dev, as in `snd/timer`.
    pub name: PathBuf,
    /// What the sandbox's cgroup lets it be used for.
    #[serde(default)]
    pub access: Access,
}

impl Device {
    /// Whether that is less than who may open it could do.
    pub fn is_restricted(&self) -> bool {
        !(self.access.read && self.access.write)
    }
}

/// What may be done with a device; by default, everything. Written as Docker does: `rwm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Access {
    pub read: bool,
    pub write: bool,
    /// Nodes of it are made.
    pub make: bool,
}

impl Access {
    pub const ALL: Self = Self {
        read: true,
        write: true,
        make: true,
    };

    /// Some of the letters `r`, `w` and `m`, at least one.
    pub fn parse(text: &str) -> Option<Self> {
        let known = !text.is_empty() && text.chars().all(|letter| "rwm".contains(letter));
        known.then(|| Self {
            read: text.contains('r'),
            write: text.contains('w'),
            make: text.contains('m'),
        })
    }

    /// With what another has.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            read: self.read || other.read,
            write: self.write || other.write,
            make: self.make || other.make,
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self::ALL
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (given, letter) in [(self.read, "r"), (self.write, "w"), (self.make, "m")] {
            if given {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl From<Access> for String {
    fn from(access: Access) -> Self {
        access.to_string()
    }
}

impl TryFrom<String> for Access {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("`{text}` is not some of `rwm`"))
    }
}

/// Devices that a sandbox's cgroup lets it use (`--device-cgroup-rule`); it has to find or make nodes of them itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeviceRule {
    pub kind: DeviceKind,
    /// Every number where there is none; so below.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

/// Which devices a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum DeviceKind {
    /// All of them, whatever their number.
    All,
    Block,
    Character,
}

/// As the kernel writes it: `c 1:3 rwm`.
impl std::fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            DeviceKind::All => 'a',
            DeviceKind::Block => 'b',
            DeviceKind::Character => 'c',
        };
        let number = |number: Option<u32>| {
            number.map_or_else(|| "*".to_owned(), |number| number.to_string())
        };
        let (major, minor) = (number(self.major), number(self.minor));
        write!(f, "{kind} {major}:{minor} {}", self.access)
    }
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

#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    pub memory_swap: Option<u64>,
    /// 1.5 is one and a half cores.
    pub cpus: Option<f64>,
    /// Microseconds of processor time in each [`Limits::cpu_period`], instead of `cpus`.
    #[serde(default)]
    pub cpu_quota: Option<u64>,
    /// Microseconds; a tenth of a second where not given.
    #[serde(default)]
    pub cpu_period: Option<u64>,
    pub cpu_shares: Option<u64>,
    /// Processors, as the kernel lists them: `0-2,4`.
    #[serde(default)]
    pub cpuset_cpus: Option<String>,
    /// Nodes of memory, listed likewise.
    #[serde(default)]
    pub cpuset_mems: Option<String>,
    /// Bytes that are left to it when memory becomes short.
    #[serde(default)]
    pub memory_reservation: Option<u64>,
    /// -1000 to 1000: how willingly the kernel kills it when memory is short.
    #[serde(default)]
    pub oom_score_adj: Option<i16>,
    /// It waits for memory at its limit, and nothing of it is killed.
    #[serde(default)]
    pub no_oom_kill: bool,
    /// Of a hundred: how willingly its memory is swapped.
    #[serde(default)]
    pub memory_swappiness: Option<u8>,
    /// 10 to 1000: its share of the use of devices.
    #[serde(default)]
    pub blkio_weight: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<BlockLimit>,
    /// `u64::MAX` is no limit; 4096 where not given and a cgroup can be made. Where none can, see
    /// [`crate::Executor::counting`].
    pub pids: Option<u64>,
    /// Bytes; 64 MiB where not given.
    pub shm_size: Option<u64>,
    /// (name, soft, hard), `nofile` and so on; `u64::MAX` is unlimited.
    pub ulimits: Vec<(String, u64, u64)>,
    pub cgroup_parent: Option<String>,
}

/// How much of a block device is used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BlockLimit {
    /// On the host.
    pub device: PathBuf,
    pub kind: BlockLimitKind,
    pub value: u64,
}

/// What is limited; all but the weight in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum BlockLimitKind {
    /// As [`Limits::blkio_weight`], of one device.
    Weight,
    ReadBytes,
    ReadOperations,
    WrittenBytes,
    WriteOperations,
}

impl Limits {
    /// What cannot be held together, for whoever gave the flags.
    pub fn contradiction(&self) -> Option<&'static str> {
        match (self.memory, self.memory_swap) {
            (None, Some(total)) if total != u64::MAX => {
                return Some("--memory-swap counts memory and swap together: it needs --memory");
            }
            (Some(memory), Some(total)) if total < memory => {
                return Some(
                    "--memory-swap counts memory and swap together: it cannot be below --memory",
                );
            }
            _ => {}
        }
        match (self.memory_reservation, self.memory) {
            (Some(reserved), Some(most)) if reserved > most => Some(
                "--memory-reservation is what is left when memory is short: it cannot be above --memory",
            ),
            _ => None,
        }
    }

    /// With what others say that a cgroup can be told while something is in it.
    #[must_use]
    pub fn changed_by(&self, others: &Self) -> Self {
        let others = others.clone();
        let by_time = others.cpu_quota.is_some() || others.cpu_period.is_some();
        let by_cores = others.cpus.is_some();
        let own = self.clone();
        Self {
            memory: others.memory.or(own.memory),
            memory_swap: others.memory_swap.or(own.memory_swap),
            memory_reservation: others.memory_reservation.or(own.memory_reservation),
            cpus: others.cpus.or(own.cpus.filter(|_| !by_time)),
            cpu_quota: others.cpu_quota.or(own.cpu_quota.filter(|_| !by_cores)),
            cpu_period: others.cpu_period.or(own.cpu_period.filter(|_| !by_cores)),
            cpu_shares: others.cpu_shares.or(own.cpu_shares),
            cpuset_cpus: others.cpuset_cpus.or(own.cpuset_cpus),
            cpuset_mems: others.cpuset_mems.or(own.cpuset_mems),
            pids: others.pids.or(own.pids),
            blkio_weight: others.blkio_weight.or(own.blkio_weight),
            ..own
        }
    }

    /// These, but for the number of processes, which something else holds.
    pub(crate) fn without_pids(&self) -> Self {
        Self {
            pids: Some(u64::MAX),
            ..self.clone()
        }
    }
}

/// Takes output, from any thread.
pub type Sink = dyn Fn(Output, &[u8]) + Send + Sync;

/// Where the command's standard streams go.
pub enum Stdio {
    /// stdin is empty; output is handed over in pieces as it comes, without limit.
    Capture(Arc<Sink>),
    /// The streams of this process; stdin only where `interactive`.
    Inherit { interactive: bool },
    /// A terminal of its own, joined to that of this process, with its size and signals.
    Terminal { interactive: bool },
    /// Handed to whoever carries them.
    Carried(Carried),
}

/// Streams that the caller carries itself.
#[derive(Default)]
pub struct Carried {
    /// A terminal of the command's own, with so many rows and columns.
    pub terminal: Option<(u16, u16)>,
    /// Of commands without a terminal.
    pub stdin: Stdin,
    /// Called once, with our ends.
    pub carry: Option<Box<dyn FnOnce(Ends) + Send>>,
    /// Called once, when the command runs.
    pub running: Option<Box<dyn FnOnce() + Send>>,
}

/// Where standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stdin {
    #[default]
    Null,
    /// This process's.
    Inherit,
    /// A pipe, whose other end is handed over.
    Pipe,
}

/// Our ends of a command's streams.
#[derive(Debug)]
pub enum Ends {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// The master of its terminal.
    Terminal(OwnedFd),
}

impl std::fmt::Debug for Stdio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Capture(_) => "Capture",
            Self::Inherit { .. } => "Inherit",
            Self::Terminal { .. } => "Terminal",
            Self::Carried(_) => "Carried",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
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
