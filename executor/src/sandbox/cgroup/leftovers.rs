//! Cgroups whose makers were killed before anybody else knew of them: the next one to make a cgroup beside them takes
//! them away. One that is in use has a living maker, or one that this process cannot see, which holds a lock on it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::Pid;

/// Names go on with the number of the process that made it, and one of its own.
pub(super) const PREFIX: &str = "rbuild-";

/// Directories of this process's cgroups, and the locks on them.
static CLAIMED: Mutex<Vec<(PathBuf, File)>> = Mutex::new(Vec::new());
/// Where it has looked already.
static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Keeps others from taking a directory for left over.
pub(super) fn claim(directory: &Path) {
    let Ok(file) = File::open(directory) else {
        return;
    };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.push((directory.to_owned(), file));
    }
}

pub(super) fn let_go(directory: &Path) {
    let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
    claimed.retain(|(known, _)| known != directory);
}

/// Removes what is left over in a directory, once a process. The kernel removes no cgroup that has processes.
pub(super) fn sweep(above: &Path) {
    let mut swept = SWEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if !swept.insert(above.to_owned()) {
        return;
    }
    drop(swept);
    let Ok(entries) = std::fs::read_dir(above) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let is_left = entry
            .file_name()
            .to_str()
            .and_then(maker)
            .is_some_and(is_gone);
        if is_left && is_unclaimed(&entry.path()) {
            // Somebody else may be faster, or may not be allowed to.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// The process that made a cgroup of such a name.
fn maker(name: &str) -> Option<Pid> {
    let (pid, number) = name.strip_prefix(PREFIX)?.split_once('-')?;
    number.parse::<u64>().ok()?;
    Pid::from_raw(pid.parse().ok()?)
}

fn is_gone(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid) == Err(Errno::SRCH)
}

fn is_unclaimed(directory: &Path) -> bool {
    File::open(directory).is_ok_and(|file| {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makers_are_known_by_names() {
        assert_eq!(maker("rbuild-12-3"), Pid::from_raw(12));
        for other in [
            "rbuild-12",
            "rbuild-x-3",
            "rbuild-12-x",
            "rbuild-0-1",
            "user-12-3",
        ] {
            assert_eq!(maker(other), None, "{other}");
        }
    }

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let above = tempfile::tempdir().expect("a directory");
        // No process has so high a number.
        let (held, left) = (
            above.path().join("rbuild-99999999-0"),
            above.path().join("rbuild-99999999-1"),
        );
        let own = above
            .path()
            .join(format!("rbuild-{}-0", std::process::id()));
        for directory in [&held, &left, &own] {
            std::fs::create_dir(directory).expect("made");
        }
        claim(&held);
        sweep(above.path());
        assert!(held.exists() && own.exists() && !left.exists());
        let_go(&held);
    }
}
