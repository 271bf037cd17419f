//! What lets the solver start more steps than there are cores: whether cores stand idle, as the kernel counts, and
//! whether steps do, however busy others keep the cores.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rbuild_executor::Executor;
use rbuild_solver::{Idle, Jobs};

/// The kernel counts in hundredths of a second; over less than this the figures say nothing.
const SHORTEST: Duration = Duration::from_millis(25);

/// Ticks a second in /proc/stat: part of the kernel's interface on every architecture that rbuild runs on.
const USER_HZ: f64 = 100.0;

/// How many cores this process may use: asked once, for the answer is made of its affinity and of its cgroups' quotas,
/// ten system calls.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// How many processors the kernel lets this process run on, whatever share of them it may use: one system call.
pub fn processors() -> usize {
    let set = rustix::thread::sched_getaffinity(None);
    set.map_or(1, |set| usize::try_from(set.count()).unwrap_or(1))
}

/// Makes of `--jobs` what the solver takes.
pub(crate) fn jobs(asked: Option<usize>, executor: &Arc<Executor>) -> Jobs {
    match asked {
        Some(jobs) => Jobs::Fixed(jobs),
        None => {
            let executor = Arc::clone(executor);
            Jobs::Adaptive {
                cores,
                idle: probe(),
                waiting: Arc::new(move || executor.waiting()),
            }
        }
    }
}

/// Answers with how many cores' time went by idle since it was last asked. The first time it only begins to look: what
/// is cached never asks.
fn probe() -> Idle {
    let last = Mutex::new(None);
    Arc::new(move || {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = match &mut *last {
            Some(last) => last,
            first => {
                *first = Some((Instant::now(), idle_seconds()));
                return None;
            }
        };
        let elapsed = last.0.elapsed();
        if elapsed < SHORTEST {
            return None;
        }
        let now = idle_seconds();
        let idle = now? - last.1?;
        *last = (Instant::now(), now);
        Some(idle / elapsed.as_secs_f64())
    })
}

/// Idle time of all cores together since boot. `None` where /proc does not tell.
fn idle_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    idle_of(&stat).map(|ticks| ticks as f64 / USER_HZ)
}

/// `cpu user nice system idle iowait …` (proc_stat(5)): idle and iowait.
fn idle_of(stat: &str) -> Option<u64> {
    let mut fields = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace();
    let idle: u64 = fields.nth(3)?.parse().ok()?;
    let waiting: u64 = fields.next()?.parse().ok()?;
    idle.checked_add(waiting)
}

#[cfg(test)]
mod tests {
    use super::idle_of;

    #[test]
    fn idle_time_is_the_fourth_and_fifth_number() {
        assert_eq!(idle_of("cpu  1 2 3 40 5 6 7 0 0 0\ncpu0 1 2"), Some(45));
        assert_eq!(idle_of("cpu  1 2 3"), None);
        assert_eq!(idle_of("intr 1 2 3 4 5 6"), None);
        assert_eq!(idle_of(""), None);
    }
}
