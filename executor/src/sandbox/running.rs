//! The commands that run now, and how many of them only wait: for a network, for time to pass, for another program.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Over less than this nothing can be said.
const SHORTEST: Duration = Duration::from_millis(25);
/// In succession: so often a command has to be found waiting, to be called so.
const LOOKS: u32 = 2;
/// Whoever has more threads than this is called busy, so that looking costs little.
const MOST_THREADS: usize = 64;

/// What this process has started and not yet reaped.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    commands: Vec<Command>,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Command {
    first: Weak<OwnedFd>,
    /// Processor time of all its processes, in nanoseconds, when it was last looked at.
    used: Option<u64>,
    /// Looks in succession at which it waited.
    waited: u32,
}

impl Running {
    /// A command, by its first process. It counts until that is dropped.
    pub(crate) fn add(&self, first: &Arc<OwnedFd>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.commands.push(Command {
            first: Arc::downgrade(first),
            used: None,
            waited: 0,
        });
    }

    /// How many commands used no processor, and asked for none, since this was last called. Where /proc does not tell,
    /// nobody waits.
    pub(crate) fn waiting(&self) -> usize {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let passed = state.looked.map(|looked| now - looked);
        if passed.is_none_or(|passed| passed >= SHORTEST) {
            state.looked = Some(now);
            let passed = passed.unwrap_or_default();
            state.commands.retain_mut(|command| command.look(passed));
        }
        let waits = |command: &&Command| command.waited >= LOOKS;
        state.commands.iter().filter(waits).count()
    }
}

impl Command {
    /// Returns whether it is still there.
    fn look(&mut self, passed: Duration) -> bool {
        let Some(first) = self.first.upgrade() else {
            return false;
        };
        let used = crate::sys::pid_of(first.as_fd()).and_then(at_rest).ok();
        let used = used.flatten();
        let before = std::mem::replace(&mut self.used, used);
        let waits = match (before, used) {
            // Less than a tenth of a core is no work. It can be less than before: what ended has taken its time with it.
            (Some(before), Some(now)) => {
                u128::from(now.saturating_sub(before)) * 10 < passed.as_nanos()
            }
            _ => false,
        };
        self.waited = if waits { self.waited + 1 } else { 0 };
        true
    }
}

/// The processor time that a process and all below it have used, in nanoseconds; `None` when one of them runs, wants to
/// run, or waits for a disk.
fn at_rest(first: u32) -> io::Result<Option<u64>> {
    let mut used: u64 = 0;
    let mut threads = 0;
    let mut left = vec![first];
    let mut seen = HashSet::new();
    while let Some(process) = left.pop() {
        // A number may be given again while we walk.
        if !seen.insert(process) {
            continue;
        }
        let tasks = match std::fs::read_dir(format!("/proc/{process}/task")) {
            Err(error) if process != first && error.kind() == io::ErrorKind::NotFound => continue,
            tasks => tasks?,
        };
        for task in tasks {
            threads += 1;
            if threads > MOST_THREADS {
                return Ok(None);
            }
            match look_at(&task?.path(), &mut left) {
                Ok(Some(time)) => used = used.saturating_add(time),
                Ok(None) => return Ok(None),
                // It ended.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Some(used))
}

/// A thread: the processor time that it has used, and what its process has started.
fn look_at(task: &Path, children: &mut Vec<u32>) -> io::Result<Option<u64>> {
    // `PID (NAME) STATE …` (proc_pid_stat(5)); the name may hold anything.
    let stat = std::fs::read(task.join("stat"))?;
    let state = stat.iter().rposition(|byte| *byte == b')');
    let state = state.and_then(|end| stat.get(end + 2));
    if matches!(state, None | Some(b'R' | b'D')) {
        return Ok(None);
    }
    let below = std::fs::read_to_string(task.join("children"))?;
    children.extend(
        below
            .split_whitespace()
            .filter_map(|pid| pid.parse::<u32>().ok()),
    );
    let used = std::fs::read_to_string(task.join("schedstat"))?;
    let used = used.split_whitespace().next();
    Ok(used.and_then(|used| used.parse().ok()))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}
