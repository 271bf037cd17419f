//! How much of the machine a command may use.

use std::path::PathBuf;

/// `None` everywhere: what the machine gives.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    pub memory_swap: Option<u64>,
    /// 1.5 is one and a half cores.
    pub cpus: Option<f64>,
    /// Microseconds of processor time in each [`Limits::cpu_period`], instead of `cpus`; the
    /// largest number is no limit.
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
