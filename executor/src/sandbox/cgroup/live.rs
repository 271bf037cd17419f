//! Cgroups of what runs: who is in a sandbox, what it uses, and halting it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::write;

/// What a container uses, in bytes and nanoseconds. `None` where the machine does not count it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    pub memory: u64,
    pub memory_limit: Option<u64>,
    pub processor: u64,
    /// Processes and threads.
    pub tasks: u64,
    pub block_read: Option<u64>,
    pub block_written: Option<u64>,
}

/// Halts what is in these directories, or lets it go on. Errors: `NotFound` where none of them can.
pub(in crate::sandbox) fn freeze(directories: &[PathBuf], frozen: bool) -> io::Result<()> {
    for directory in directories {
        let (file, value, shown, wanted) = if directory.join("cgroup.freeze").exists() {
            let (value, wanted) = if frozen {
                ("1", "frozen 1")
            } else {
                ("0", "frozen 0")
            };
            ("cgroup.freeze", value, "cgroup.events", wanted)
        } else if directory.join("freezer.state").exists() {
            let value = if frozen { "FROZEN" } else { "THAWED" };
            ("freezer.state", value, "freezer.state", value)
        } else {
            continue;
        };
        write(&directory.join(file), value)?;
        // The kernel gets there when every task has come to a place where it can be halted.
        for _ in 0..1000 {
            let now = fs::read_to_string(directory.join(shown))?;
            if now.lines().any(|line| line == wanted) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        return Err(io::Error::from(io::ErrorKind::TimedOut));
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}

/// All processes in the same namespace of a kind as `pid`, in the order of their numbers.
pub(in crate::sandbox) fn processes_with(pid: u32, kind: &str) -> io::Result<Vec<u32>> {
    let space = |pid: u32| fs::metadata(format!("/proc/{pid}/ns/{kind}")).map(|of| of.ino());
    let wanted = space(pid)?;
    let mut found: Vec<u32> = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|other| space(*other).is_ok_and(|of| of == wanted))
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// What the kernel counts for these directories; where it does not, what the processes tell.
pub(in crate::sandbox) fn usage(directories: &[PathBuf], processes: &[u32]) -> io::Result<Usage> {
    let text = |name: &str| {
        let mut files = directories.iter().map(|directory| directory.join(name));
        files.find_map(|file| fs::read_to_string(file).ok())
    };
    let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
    let field = |text: &str, name: &str| -> Option<u64> {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    let cache = text("memory.stat").and_then(|stat| {
        field(&stat, "inactive_file ").or_else(|| field(&stat, "total_inactive_file "))
    });
    let memory = number("memory.current")
        .or_else(|| number("memory.usage_in_bytes"))
        .map(|bytes| bytes.saturating_sub(cache.unwrap_or(0)));
    // Without a limit version 1 shows the largest number of pages.
    let memory_limit = number("memory.max")
        .or_else(|| number("memory.limit_in_bytes"))
        .filter(|limit| *limit < 1 << 60);
    let processor = text("cpu.stat")
        .and_then(|stat| field(&stat, "usage_usec "))
        .map(|microseconds| microseconds * 1000)
        .or_else(|| number("cpuacct.usage"));
    let (block_read, block_written) = blocks(&text);
    let told = match (memory, processor) {
        (Some(_), Some(_)) => Usage::default(),
        _ => of_processes(processes),
    };
    Ok(Usage {
        memory: memory.unwrap_or(told.memory),
        memory_limit,
        processor: processor.unwrap_or(told.processor),
        tasks: number("pids.current").unwrap_or_else(|| of_processes(processes).tasks),
        block_read,
        block_written,
    })
}

fn blocks(text: &impl Fn(&str) -> Option<String>) -> (Option<u64>, Option<u64>) {
    if let Some(stat) = text("io.stat") {
        let sum = |name: &str| {
            stat.split_whitespace()
                .filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok())
                .sum()
        };
        return (Some(sum("rbytes=")), Some(sum("wbytes=")));
    }
    let Some(stat) = text("blkio.throttle.io_service_bytes") else {
        return (None, None);
    };
    let sum = |name: &str| {
        stat.lines()
            .filter_map(|line| line.split_once(name)?.1.trim().parse::<u64>().ok())
            .sum()
    };
    (Some(sum(" Read ")), Some(sum(" Write ")))
}

fn of_processes(processes: &[u32]) -> Usage {
    const PAGE: u64 = 4096;
    /// Of a second; see `proc_pid_stat(5)`.
    const TICK_NANOSECONDS: u64 = 10_000_000;
    let mut usage = Usage::default();
    for pid in processes {
        let of = Path::new("/proc").join(pid.to_string());
        let Ok(stat) = fs::read_to_string(of.join("stat")) else {
            continue;
        };
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .map(|word| word.parse().unwrap_or(0))
            .collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        usage.processor += (field(14) + field(15)) * TICK_NANOSECONDS;
        usage.tasks += field(20);
        usage.memory += field(24) * PAGE;
    }
    usage
}
