//! The fields of `HostConfig` that are about what a container may use.

use rbuild_executor::spec::{BlockLimitKind, Limits};
use serde_json::{Map, Value, json};

pub(super) fn of(limits: &Limits) -> Map<String, Value> {
    let memory = limits.memory.unwrap_or(0);
    let swap = match limits.memory_swap {
        Some(u64::MAX) => -1,
        Some(swap) => swap.cast_signed(),
        None => memory.saturating_mul(2).cast_signed(),
    };
    let blocks = |kind: BlockLimitKind, value: &str| -> Vec<Value> {
        let limited = limits.blocks.iter().filter(|block| block.kind == kind);
        limited
            .map(|block| json!({"Path": block.device, value: block.value}))
            .collect()
    };
    let value = json!({
        "BlkioWeight": limits.blkio_weight.unwrap_or(0),
        "BlkioWeightDevice": blocks(BlockLimitKind::Weight, "Weight"),
        "BlkioDeviceReadBps": blocks(BlockLimitKind::ReadBytes, "Rate"),
        "BlkioDeviceReadIOps": blocks(BlockLimitKind::ReadOperations, "Rate"),
        "BlkioDeviceWriteBps": blocks(BlockLimitKind::WrittenBytes, "Rate"),
        "BlkioDeviceWriteIOps": blocks(BlockLimitKind::WriteOperations, "Rate"),
        "MemorySwappiness": limits.memory_swappiness,
        "OomKillDisable": limits.no_oom_kill,
        "CgroupParent": limits.cgroup_parent.as_deref().unwrap_or_default(),
        "CpuShares": limits.cpu_shares.unwrap_or(0),
        "NanoCpus": limits.cpus.map_or(0, |cpus| (cpus * 1e9) as i64),
        "CpuPeriod": limits.cpu_period.unwrap_or(0),
        "CpuQuota": limits.cpu_quota.unwrap_or(0).cast_signed(),
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "CpusetCpus": limits.cpuset_cpus.as_deref().unwrap_or_default(),
        "CpusetMems": limits.cpuset_mems.as_deref().unwrap_or_default(),
        "MemoryReservation": limits.memory_reservation.unwrap_or(0),
        "OomScoreAdj": limits.oom_score_adj.unwrap_or(0),
        "Memory": memory,
        "MemorySwap": swap,
        "PidsLimit": limits.pids.filter(|most| *most != u64::MAX),
        "Ulimits": limits.ulimits.iter().map(|(name, soft, hard)| json!({
            "Name": name, "Hard": hard.cast_signed(), "Soft": soft.cast_signed(),
        })).collect::<Vec<_>>(),
    });
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
