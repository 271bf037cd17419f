//! Limits as what is written into files of cgroups, in either version.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::write;
use crate::sandbox::ExecError;
use crate::sandbox::prepare::setup;
use crate::spec::{BlockLimit, BlockLimitKind, Limits};

/// Of a processor's time, in microseconds.
const PERIOD: u64 = 100_000;

/// A value to write, by controller.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: &'static str,
    unified: (&'static str, String),
    legacy: (&'static str, String),
    /// Where the kernel has no such file.
    otherwise: Option<Otherwise>,
}

/// As in [`Setting`].
#[derive(Debug, PartialEq, Eq)]
struct Otherwise {
    unified: (&'static str, String),
    legacy: (&'static str, String),
}

/// What is to be written for some limits.
pub(super) fn settings(limits: &Limits) -> Result<Vec<Setting>, ExecError> {
    let mut settings = Vec::new();
    let mut add = |controller, unified: (&'static str, String), legacy: (&'static str, String)| {
        settings.push(Setting {
            controller,
            unified,
            legacy,
            otherwise: None,
        });
    };
    if let Some(memory) = limits.memory {
        add(
            "memory",
            ("memory.max", memory.to_string()),
            ("memory.limit_in_bytes", memory.to_string()),
        );
        add(
            "memory",
            ("memory.oom.group", "1".into()),
            ("", String::new()),
        );
        // As much swap as memory where nothing is said, as elsewhere.
        let total = limits.memory_swap.unwrap_or(memory.saturating_mul(2));
        add(
            "memory",
            ("memory.swap.max", total.saturating_sub(memory).to_string()),
            ("memory.memsw.limit_in_bytes", total.to_string()),
        );
    }
    if let Some(reserved) = limits.memory_reservation {
        add(
            "memory",
            ("memory.low", reserved.to_string()),
            ("memory.soft_limit_in_bytes", reserved.to_string()),
        );
    }
    let quota = match limits.cpus {
        Some(cpus) => Some(((cpus * PERIOD as f64) as u64).max(1000)),
        None => limits.cpu_quota,
    };
    if quota.is_some() || limits.cpu_period.is_some() {
        let period = limits.cpu_period.unwrap_or(PERIOD);
        let of_period = match quota {
            None | Some(u64::MAX) => "max".to_owned(),
            Some(quota) => quota.to_string(),
        };
        add(
            "cpu",
            ("cpu.max", format!("{of_period} {period}")),
            ("cpu.cfs_period_us", period.to_string()),
        );
        if let Some(quota) = quota {
            add(
                "cpu",
                ("", String::new()),
                ("cpu.cfs_quota_us", quota.cast_signed().to_string()),
            );
        }
    }
    if limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some() {
        // With version 1 no process can join before both are written. An empty list stands for that of the cgroup above.
        for (file, list) in [
            ("cpuset.cpus", &limits.cpuset_cpus),
            ("cpuset.mems", &limits.cpuset_mems),
        ] {
            let list = list.clone().unwrap_or_default();
            add("cpuset", (file, list.clone()), (file, list));
        }
    }
    if let Some(shares) = limits.cpu_shares {
        let shares = shares.clamp(2, 262_144);
        // 2..262144 onto 1..10000, as everybody does.
        let weight = 1 + (shares - 2) * 9999 / 262_142;
        add(
            "cpu",
            ("cpu.weight", weight.to_string()),
            ("cpu.shares", shares.to_string()),
        );
    }
    if let Some(pids) = limits.pids.filter(|pids| *pids != u64::MAX) {
        add(
            "pids",
            ("pids.max", pids.to_string()),
            ("pids.max", pids.to_string()),
        );
    }
    if limits.no_oom_kill {
        // Version 2 has neither this nor the next one: there, writing it fails.
        let file = ("memory.oom_control", "1".to_owned());
        add("memory", file.clone(), file);
    }
    if let Some(swappiness) = limits.memory_swappiness {
        let file = ("memory.swappiness", swappiness.to_string());
        add("memory", file.clone(), file);
    }
    if let Some(weight) = limits.blkio_weight {
        settings.push(of_weight("", weight.into()));
    }
    for block in &limits.blocks {
        settings.push(of_block(block)?);
    }
    Ok(settings)
}

/// Of one device, as `254:0 `, or of all. Which file there is depends on what schedules them.
fn of_weight(device: &str, weight: u64) -> Setting {
    // 10..1000 onto 1..10000, as everybody does.
    let other = 1 + weight.saturating_sub(10) * 9999 / 990;
    let value = |weight: u64| format!("{device}{weight}");
    let (own, others) = if device.is_empty() {
        ("blkio.bfq.weight", "blkio.weight")
    } else {
        ("blkio.bfq.weight_device", "blkio.weight_device")
    };
    Setting {
        controller: "blkio",
        unified: ("io.bfq.weight", value(weight)),
        legacy: (own, value(weight)),
        otherwise: Some(Otherwise {
            unified: ("io.weight", value(other)),
            legacy: (others, value(weight)),
        }),
    }
}

fn of_block(block: &BlockLimit) -> Result<Setting, ExecError> {
    let number = fs::metadata(&block.device).map(|found| found.rdev());
    let number = number.map_err(|error| {
        setup(
            format!("limit the use of {}", block.device.display()),
            error,
        )
    })?;
    let device = format!(
        "{}:{} ",
        rustix::fs::major(number),
        rustix::fs::minor(number)
    );
    let (file, key) = match block.kind {
        BlockLimitKind::Weight => return Ok(of_weight(&device, block.value)),
        BlockLimitKind::ReadBytes => ("blkio.throttle.read_bps_device", "rbps"),
        BlockLimitKind::ReadOperations => ("blkio.throttle.read_iops_device", "riops"),
        BlockLimitKind::WrittenBytes => ("blkio.throttle.write_bps_device", "wbps"),
        BlockLimitKind::WriteOperations => ("blkio.throttle.write_iops_device", "wiops"),
    };
    Ok(Setting {
        controller: "blkio",
        unified: ("io.max", format!("{device}{key}={}", block.value)),
        legacy: (file, format!("{device}{}", block.value)),
        otherwise: None,
    })
}

/// Writes limits into cgroups that something is in already. Returns the controllers of which there is none.
pub(in crate::sandbox) fn change(
    directories: &[PathBuf],
    limits: &Limits,
) -> Result<Vec<&'static str>, ExecError> {
    let mut settings = settings(limits)?;
    if limits.pids == Some(u64::MAX) {
        let unlimited = ("pids.max", "max".to_owned());
        settings.push(Setting {
            controller: "pids",
            unified: unlimited.clone(),
            legacy: unlimited,
            otherwise: None,
        });
    }
    let mut missing = Vec::new();
    let mut refused = Vec::new();
    for setting in &settings {
        let controller = setting.controller;
        let Some((directory, unified)) = home(directories, controller) else {
            if limits.pids != Some(u64::MAX) || controller != "pids" {
                missing.push(controller);
            }
            continue;
        };
        match setting.write(directory, unified) {
            // The limit with swap may not be below the one of memory alone: one may have to be written after the other.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                refused.push((setting, directory, unified));
            }
            result => result.map_err(|error| setting.cannot(unified, error))?,
        }
    }
    for (setting, directory, unified) in refused {
        let written = setting.write(directory, unified);
        written.map_err(|error| setting.cannot(unified, error))?;
    }
    missing.dedup();
    Ok(missing)
}

/// Which of these has a controller, and whether it is of version 2.
fn home<'d>(directories: &'d [PathBuf], controller: &str) -> Option<(&'d Path, bool)> {
    let (unified, legacy) = match controller {
        "memory" => ("memory.max", "memory.limit_in_bytes"),
        "cpu" => ("cpu.max", "cpu.shares"),
        "cpuset" => ("cpuset.cpus", "cpuset.cpus"),
        "blkio" => ("io.max", "blkio.throttle.read_bps_device"),
        _ => ("pids.max", "pids.max"),
    };
    directories.iter().find_map(|directory| {
        let is_unified = directory.join("cgroup.controllers").exists();
        let file = if is_unified { unified } else { legacy };
        let has = directory.join(file).exists();
        has.then_some((directory.as_path(), is_unified))
    })
}

impl Setting {
    /// File and value.
    fn of(&self, unified: bool) -> (&'static str, &str) {
        let (file, value) = if unified { &self.unified } else { &self.legacy };
        (file, value)
    }

    pub(super) fn write(&self, directory: &Path, unified: bool) -> io::Result<()> {
        let (file, value) = self.of(unified);
        if file.is_empty() {
            return Ok(());
        }
        if !value.is_empty() {
            return match write(&directory.join(file), value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if let Some(otherwise) = &self.otherwise {
                        let (file, value) = if unified {
                            &otherwise.unified
                        } else {
                            &otherwise.legacy
                        };
                        return write(&directory.join(file), value);
                    }
                    // The kernel does not count swap, so that nothing can limit it.
                    if matches!(file, "memory.swap.max" | "memory.memsw.limit_in_bytes") {
                        return Ok(());
                    }
                    Err(error)
                }
                result => result,
            };
        }
        // A list that is not given. Version 1 begins with an empty one, in which nothing can run.
        let path = directory.join(file);
        if unified || !fs::read_to_string(&path)?.trim().is_empty() {
            return Ok(());
        }
        write(&path, &inherited(directory, file)?)
    }

    pub(super) fn cannot(&self, unified: bool, error: io::Error) -> ExecError {
        let (file, value) = self.of(unified);
        let step = format!("set the limit {file} to {value}");
        if error.raw_os_error() == Some(libc::EOPNOTSUPP) && file.contains("weight") {
            return setup(
                step,
                "the device is not scheduled by weight: /sys/block/*/queue/scheduler has to be bfq",
            );
        }
        setup(step, error)
    }
}

/// What the directory above has; where that is empty as well, what those above it have.
fn inherited(directory: &Path, file: &str) -> io::Result<String> {
    let above = directory.parent().ok_or(io::ErrorKind::NotFound)?;
    let own = fs::read_to_string(above.join(file))?;
    if !own.trim().is_empty() {
        return Ok(own.trim().to_owned());
    }
    let value = inherited(above, file)?;
    write(&above.join(file), &value)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_settings() {
        let limits = Limits {
            memory: Some(64 << 20),
            cpus: Some(1.5),
            cpu_shares: Some(1024),
            pids: Some(32),
            ..Limits::default()
        };
        let written = |limits: &Limits, unified: bool| -> String {
            let settings = settings(limits).expect("devices that there are");
            let files = settings.iter().map(|setting| setting.of(unified));
            let said = files.filter(|(file, _)| !file.is_empty());
            let texts: Vec<String> = said
                .map(|(file, value)| format!("{file}={value}"))
                .collect();
            texts.join(" ")
        };
        assert_eq!(
            written(&limits, true),
            "memory.max=67108864 memory.oom.group=1 memory.swap.max=67108864 cpu.max=150000 100000 cpu.weight=39 pids.max=32"
        );
        assert_eq!(
            written(&limits, false),
            "memory.limit_in_bytes=67108864 memory.memsw.limit_in_bytes=134217728 cpu.cfs_period_us=100000 cpu.cfs_quota_us=150000 cpu.shares=1024 pids.max=32"
        );
        let limits = Limits {
            memory_reservation: Some(1 << 20),
            cpu_period: Some(50_000),
            cpuset_cpus: Some("0-1".into()),
            ..Limits::default()
        };
        assert_eq!(
            written(&limits, true),
            "memory.low=1048576 cpu.max=max 50000 cpuset.cpus=0-1 cpuset.mems="
        );
        assert!(settings(&Limits::default()).expect("none").is_empty());
        let limits = Limits {
            memory_swappiness: Some(10),
            blkio_weight: Some(505),
            ..Limits::default()
        };
        assert_eq!(
            written(&limits, false),
            "memory.swappiness=10 blkio.bfq.weight=505"
        );
        let weights = settings(&limits).expect("none of a device");
        let otherwise = weights.last().and_then(|weight| weight.otherwise.as_ref());
        let otherwise = otherwise.expect("another file");
        assert_eq!(otherwise.unified, ("io.weight", "5000".to_owned()));
    }
}
