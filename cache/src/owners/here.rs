//! What this process's user namespace can give files: all owners, some or one, and whether devices can be made.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};

/// Whether this process is in a user namespace with one id, so that owners are written down.
pub fn recorded() -> bool {
    ids_here() == Ids::One
}

/// Whether this process is in a user namespace of any kind, so that devices are written down.
pub fn devices_recorded() -> bool {
    ids_here() != Ids::All
}

/// The ids of this process's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    /// It is the machine's own.
    All,
    Some,
    One,
}

static HERE: OnceLock<Ids> = OnceLock::new();

/// Has owners and devices written down although this process is in no user namespace with one id: it may not give files
/// away. Before anything is asked for.
pub fn record() {
    // It is set already where somebody has asked: then they were told the same, or this is root.
    let _ = HERE.set(Ids::One);
    LIMITED.store(true, Ordering::Relaxed);
}

static LIMITED: AtomicBool = AtomicBool::new(false);

/// Whether modes count for this process: it has no capability over its own files.
pub fn limited() -> bool {
    LIMITED.load(Ordering::Relaxed)
}

fn ids_here() -> Ids {
    *HERE.get_or_init(|| {
        let mut map = [0; 256];
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let read = rustix::fs::open("/proc/self/uid_map", flags, Mode::empty())
            .and_then(|file| rustix::io::read(&file, &mut map));
        let map = map.get(..read.unwrap_or(0)).unwrap_or_default();
        ids_of(&String::from_utf8_lossy(map))
    })
}

fn ids_of(map: &str) -> Ids {
    let mut lines = map.lines();
    let mut first = lines.next().unwrap_or_default().split_whitespace();
    match (first.nth(2), lines.next()) {
        (Some("1"), None) => Ids::One,
        // Kernels without user namespaces have no such file.
        (Some("4294967295") | None, None) => Ids::All,
        _ => Ids::Some,
    }
}

/// Whether a file can be given this owner here, in the kernel or in writing.
pub fn is_possible(uid: u32, gid: u32) -> bool {
    if ids_here() != Ids::Some {
        return true;
    }
    let has = |map: &str, id: u32| {
        let map = std::fs::read_to_string(map).unwrap_or_default();
        has_id(&map, id)
    };
    has("/proc/self/uid_map", uid) && has("/proc/self/gid_map", gid)
}

fn has_id(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_say_which_ids_there_are() {
        assert_eq!(ids_of("         0       1000          1\n"), Ids::One);
        assert_eq!(ids_of("         0          0 4294967295\n"), Ids::All);
        assert_eq!(ids_of("0 1000 1\n1 100000 65536\n"), Ids::Some);
        assert_eq!(ids_of("0 100000 65536\n"), Ids::Some);
        assert_eq!(ids_of(""), Ids::All);
    }
}
