//! Halting a container where no cgroup can be had that would do it: by signals. Inside, parents that wait for stopped
//! children see that it happened; of a freezer nobody sees anything.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::Signal;

use super::container::pidfd_of;
use crate::proc_stat::ProcStat;

/// Processes that stand still until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Halted(Vec<OwnedFd>);

impl Halted {
    /// `processes` is asked until there are no others. Those that stand still already are left as they are.
    pub(super) fn all(processes: impl Fn() -> io::Result<Vec<u32>>) -> io::Result<Self> {
        let mut halted = Self::default();
        let mut seen: Vec<u32> = Vec::new();
        loop {
            let mut others = processes()?;
            others.retain(|pid| !seen.contains(pid));
            if others.is_empty() {
                return Ok(halted);
            }
            // One that ended has a number that may be anybody's by now. What has it both before and after it was opened
            // is that process.
            let opened: Vec<(u32, io::Result<OwnedFd>)> =
                others.into_iter().map(|pid| (pid, pidfd_of(pid))).collect();
            let still = processes()?;
            for (pid, process) in opened {
                seen.push(pid);
                if let (true, Ok(process)) = (still.contains(&pid), process) {
                    halted.halt(pid, process)?;
                }
            }
        }
    }

    fn halt(&mut self, pid: u32, process: OwnedFd) -> io::Result<()> {
        if stands_still(pid) {
            return Ok(());
        }
        match rustix::process::pidfd_send_signal(&process, Signal::STOP) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            sent => sent?,
        }
        self.0.push(process);
        for _ in 0..1000 {
            if stands_still(pid) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(io::Error::from(io::ErrorKind::TimedOut))
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        for process in &self.0 {
            // What was killed meanwhile is gone.
            let _ = rustix::process::pidfd_send_signal(process, Signal::CONT);
        }
    }
}

/// Whether it is stopped, or over.
fn stands_still(pid: u32) -> bool {
    let Ok(stat) = ProcStat::of(pid) else {
        return true;
    };
    matches!(stat.state(), Some("T" | "t" | "Z" | "X"))
}
