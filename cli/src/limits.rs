//! Flags that limit what a command may use.

use std::ops::RangeInclusive;

use rbuild_engine::executor::spec::Limits;

use crate::error::{Error, Result};
use crate::values::size;

/// What `build` and `run` take.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LimitArgs {
    #[command(flatten)]
    cgroup: CgroupArgs,
    /// Size of /dev/shm (default 64m)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    shm_size: Option<String>,
    /// A resource limit, as in `nofile=1024:2048`
    #[arg(long, value_name = "NAME=SOFT[:HARD]", allow_hyphen_values = true)]
    ulimit: Vec<String>,
    /// The cgroup to put commands under
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
}

/// Those that cgroups hold, and that can be changed while a container runs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CgroupArgs {
    /// Memory limit, as in `512m`
    #[arg(short = 'm', long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory and swap together; -1 is no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory that is left to it when memory becomes short
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Cores, as in `1.5`
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpus: Option<f64>,
    /// Microseconds of processor time in each period, instead of --cpus; -1 is no limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// The period, in microseconds (default 100000)
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_period: Option<u64>,
    /// Relative weight of processor time
    #[arg(short = 'c', long, value_name = "N", allow_hyphen_values = true)]
    cpu_shares: Option<u64>,
    /// The processors to run on, as in `0-2,4`
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    cpuset_cpus: Option<String>,
    /// The nodes of memory to take it from, as in `0,1`
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    cpuset_mems: Option<String>,
    /// Processes and threads; -1 is no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
}

impl LimitArgs {
    pub(crate) fn limits(&self) -> Result<Limits> {
        let mut limits = self.cgroup.limits()?;
        // Only what had a quota must be told that there is none.
        limits.cpu_quota = limits.cpu_quota.filter(|quota| *quota != u64::MAX);
        if let Some(contradiction) = limits.contradiction() {
            return Err(Error::usage(contradiction));
        }
        for text in &self.ulimit {
            let given = ulimit(text)?;
            limits.ulimits.retain(|(name, ..)| *name != given.0);
            limits.ulimits.push(given);
        }
        // 0 is the usual size, as Docker has it.
        limits.shm_size = bytes("--shm-size", self.shm_size.as_deref())?.filter(|bytes| *bytes > 0);
        limits.cgroup_parent.clone_from(&self.cgroup_parent);
        Ok(limits)
    }
}

impl CgroupArgs {
    /// What is given; that they contradict each other is not looked for.
    pub(crate) fn limits(&self) -> Result<Limits> {
        if let Some(cpus) = self.cpus
            && !(cpus.is_finite() && cpus >= 0.0)
        {
            return Err(Error::usage(format!(
                "--cpus `{cpus}`: expected a number above 0, or 0 for no limit"
            )));
        }
        if self
            .cpu_period
            .is_some_and(|period| period != 0 && !PERIODS.contains(&period))
        {
            return Err(Error::usage(
                "--cpu-period: the kernel knows periods of 1000 to 1000000 microseconds",
            ));
        }
        if self
            .cpu_quota
            .is_some_and(|quota| quota > 0 && quota < LEAST_QUOTA)
        {
            return Err(Error::usage(
                "--cpu-quota: the least that can be is 1000 microseconds",
            ));
        }
        let by_time = self.cpu_quota.is_some_and(|quota| quota != 0)
            || self.cpu_period.is_some_and(|period| period != 0);
        if by_time && self.cpus.is_some_and(|cpus| cpus > 0.0) {
            return Err(Error::usage(
                "--cpus cannot be used with --cpu-quota or --cpu-period, which say the same in another way",
            ));
        }
        let memory = self.memory.as_deref().map(memory_limit).transpose()?;
        Ok(Limits {
            memory: memory.flatten(),
            memory_swap: match self.memory_swap.as_deref() {
                Some("-1") => Some(u64::MAX),
                text => bytes("--memory-swap", text)?.filter(|bytes| *bytes > 0),
            },
            memory_reservation: bytes("--memory-reservation", self.memory_reservation.as_deref())?
                .filter(|bytes| *bytes > 0),
            cpus: self.cpus.filter(|cpus| *cpus > 0.0),
            cpu_quota: match self.cpu_quota {
                None | Some(0) => None,
                // A negative one is none, as the kernel has it.
                Some(quota) => Some(u64::try_from(quota).unwrap_or(u64::MAX)),
            },
            cpu_period: self.cpu_period.filter(|period| *period > 0),
            cpu_shares: self.cpu_shares,
            cpuset_cpus: list("--cpuset-cpus", self.cpuset_cpus.as_deref())?,
            cpuset_mems: list("--cpuset-mems", self.cpuset_mems.as_deref())?,
            pids: self.pids_limit.map(|limit| match u64::try_from(limit) {
                Err(_) | Ok(0) => u64::MAX,
                Ok(limit) => limit,
            }),
            ..Limits::default()
        })
    }
}

fn bytes(flag: &str, text: Option<&str>) -> Result<Option<u64>> {
    text.map(|text| size(flag, text)).transpose()
}

/// What the kernel takes for the period of a quota of processor time, in microseconds.
const PERIODS: RangeInclusive<u64> = 1000..=1_000_000;
/// In microseconds.
const LEAST_QUOTA: i64 = 1000;

/// Numbers and ranges of them, as the kernel lists processors.
fn list(flag: &str, text: Option<&str>) -> Result<Option<String>> {
    let is_number = |text: &str| {
        (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_part = |part: &str| match part.split_once('-') {
        None => is_number(part),
        Some((first, last)) => is_number(first) && is_number(last),
    };
    match text {
        None | Some("") => Ok(None),
        Some(text) if text.split(',').all(is_part) => Ok(Some(text.to_owned())),
        Some(text) => Err(Error::usage(format!(
            "{flag} `{text}`: expected numbers and ranges of them, as in `0-2,4`"
        ))),
    }
}

/// In less, hardly a program can be begun.
const LEAST_MEMORY_BYTES: u64 = 6 << 20;

/// A limit of memory; 0 is none.
fn memory_limit(text: &str) -> Result<Option<u64>> {
    match size("--memory", text)? {
        0 => Ok(None),
        bytes if bytes < LEAST_MEMORY_BYTES => Err(Error::usage(format!(
            "--memory `{text}`: the least that can be is 6m"
        ))),
        bytes => Ok(Some(bytes)),
    }
}

/// `nofile=1024`, `nofile=1024:2048`; -1 is unlimited.
fn ulimit(text: &str) -> Result<(String, u64, u64)> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let bad = |reason: &str| {
        Error::usage(format!("--ulimit `{text}`: {reason}"))
            .help("it looks like `nofile=1024:2048`")
    };
    let (name, limits) = text.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
    if !NAMES.contains(&name) {
        return Err(bad(&format!("there is no limit named `{name}`")));
    }
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        digits => digits.parse::<u64>().map_err(|_| bad("expected a number")),
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if soft > hard {
        return Err(bad("the soft limit is above the hard one"));
    }
    Ok((name.to_owned(), soft, hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        for good in ["0", "0-2,4", "1,3"] {
            assert_eq!(
                list("--cpuset-cpus", Some(good)).unwrap().as_deref(),
                Some(good)
            );
        }
        assert_eq!(list("--cpuset-cpus", Some("")).unwrap(), None);
        for bad in ["a", "0-", "-1", "0,,1", "0 1", "99999999999"] {
            assert!(list("--cpuset-cpus", Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn ulimits() {
        assert_eq!(ulimit("nofile=10").unwrap(), ("nofile".into(), 10, 10));
        assert_eq!(ulimit("core=0:-1").unwrap(), ("core".into(), 0, u64::MAX));
        for text in ["nofile", "nofile=", "what=1", "nofile=2:1", "nofile=a"] {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }
}
