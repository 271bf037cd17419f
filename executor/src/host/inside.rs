//! The user namespace of root's commands: its ids, and the spawner in it.
//!
//! Who is root in there is nobody on the machine: every id inside is one outside that nobody else has. Files are
//! shown with the ids that they have ([`crate::mapped`]), so that nothing in a store tells where it was made.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::MutexGuard;

use rbuild_cache::ids::{Extent, IdMap, Ids};
use rbuild_cache::owners;
use rustix::fs::{Mode, OFlags};

use super::Privilege;
use super::ids::{Range, range_of_root, read_bounded};
use crate::sandbox::ahead::Line;
use crate::sandbox::spawner::{self, Second};

/// The upper half of all ids: nobody is given those.
const UPPER: u32 = 1 << 31;
/// Below this are the machine's users, and those that they were lent.
const LOWER: u32 = 1 << 20;

/// A user namespace, and the process in it that starts commands.
#[derive(Debug)]
pub(crate) struct Inside {
    line: Line,
    namespace: OwnedFd,
    ids: Ids,
}

impl Inside {
    fn new(second: Second, ids: Ids) -> Self {
        Self {
            line: Line::new(second.socket),
            namespace: second.namespace,
            ids,
        }
    }

    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    pub(crate) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// What root in there is outside.
    pub(crate) fn root(&self) -> std::io::Result<(u32, u32)> {
        self.ids
            .outside((0, 0))
            .ok_or_else(|| std::io::Error::other("the user namespace has no root"))
    }

    /// A network namespace that belongs to it.
    pub(crate) fn network(&self) -> std::io::Result<OwnedFd> {
        spawner::network(self.line.lock().as_fd())
    }

    pub(super) fn line(&self) -> &Line {
        &self.line
    }
}

/// `spawner`: root's. The error says why there can be none.
pub(super) fn make(privilege: Privilege, spawner: &OwnedFd) -> Result<Inside, String> {
    if privilege != Privilege::Root || owners::devices_recorded() {
        return Err("rbuild itself is in a user namespace".to_owned());
    }
    let mounts = read_bounded(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    if let Some(hidden) = hidden(&String::from_utf8_lossy(&mounts)) {
        return Err(format!(
            "something is mounted at {hidden}, so that a new {} could show more than this one",
            if hidden.starts_with("/proc") {
                "/proc"
            } else {
                "/sys"
            }
        ));
    }
    let ids = Ids {
        users: map(range_of_root("/etc/subuid")),
        groups: map(range_of_root("/etc/subgid")),
    };
    let second = spawner::inside(spawner.as_fd(), &ids).map_err(|error| {
        format!(
            "a user namespace cannot be made: {error} (see the sysctl user.max_user_namespaces)"
        )
    })?;
    Ok(Inside::new(second, ids))
}

pub(super) fn of_process<'s>(
    pid: u32,
    spawner: impl FnOnce() -> MutexGuard<'s, OwnedFd>,
) -> std::io::Result<Option<Inside>> {
    let Some(ids) = ids_of(pid)? else {
        return Ok(None);
    };
    let path = format!("/proc/{pid}/ns/user");
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let second = spawner::inside_of(spawner().as_fd(), namespace.as_fd())?;
    Ok(Some(Inside::new(second, ids)))
}

/// `None` where the process is in the user namespace that this one is in.
pub(super) fn ids_of(pid: u32) -> std::io::Result<Option<Ids>> {
    let namespace_of =
        |pid: &str| std::fs::metadata(format!("/proc/{pid}/ns/user")).map(|of| of.ino());
    if namespace_of(&pid.to_string())? == namespace_of("self")? {
        return Ok(None);
    }
    let map = |file: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
        IdMap::parse(&text)
            .ok_or_else(|| std::io::Error::other("its map of ids was not understood"))
    };
    Ok(Some(Ids {
        users: map("uid_map")?,
        groups: map("gid_map")?,
    }))
}

/// All ids but the last million: those of root's range, then the upper half, then what is left.
fn map(range: Option<Range>) -> IdMap {
    const HALF: u32 = u32::MAX - UPPER;
    let (start, count) = match range {
        Some(Range { start, count })
            if start.checked_add(count).is_some_and(|end| end <= UPPER) =>
        {
            (start, count)
        }
        _ => (0, 0),
    };
    let rest = (count + HALF, LOWER.max(start + count));
    let extents = [
        (0, start, count),
        (count, UPPER, HALF),
        (rest.0, rest.1, (UPPER - rest.1).min(u32::MAX - rest.0)),
    ];
    let extents = extents.into_iter().filter(|(_, _, count)| *count > 0);
    let extent = |(inside, outside, count)| Extent {
        inside,
        outside,
        count,
    };
    IdMap::new(extents.map(extent).collect())
}

/// A part of /proc or /sys with something over it. The kernel then lets no user namespace mount one that lacks that.
fn hidden(mountinfo: &str) -> Option<&str> {
    // Directories that are there to be mounted on, with nothing in them.
    const EMPTY: [&str; 4] = [
        "/proc/sys/fs/binfmt_misc",
        "/proc/fs/nfsd",
        "/proc/openprom",
        "/sys/fs/",
    ];
    const EMPTY_IN_SYS: [&str; 5] = [
        "/sys/kernel/security",
        "/sys/kernel/debug",
        "/sys/kernel/tracing",
        "/sys/kernel/config",
        "/sys/firmware/efi/efivars",
    ];
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| point.starts_with("/proc/") || point.starts_with("/sys/"))
        .find(|point| {
            let below = |known: &&str| point.starts_with(*known);
            !EMPTY.iter().chain(&EMPTY_IN_SYS).any(below)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_inside_is_somebody_outside() {
        let ranges = [
            None,
            Some((100_000, 65_536)),
            Some((2_000_000, 1 << 24)),
            Some((1 << 31, 65_536)),
        ];
        for range in ranges {
            let map = map(range.map(|(start, count)| Range { start, count }));
            for id in [
                0,
                1,
                65_535,
                65_536,
                100_000,
                (1 << 31) - 1,
                1 << 31,
                4_000_000_000,
            ] {
                let outside = map.outside(id).expect("an id outside");
                assert!(outside >= 100_000 && outside != u32::MAX, "{range:?} {id}");
                assert_eq!(map.inside(outside), Some(id), "{range:?} {id}");
            }
            let extents = map.extents();
            for (index, one) in extents.iter().enumerate() {
                let end = one.outside.checked_add(one.count).expect("an end");
                assert!(one.inside.checked_add(one.count).is_some());
                for other in extents.iter().skip(index + 1) {
                    let apart = other.outside >= end
                        || one.outside >= other.outside.checked_add(other.count).expect("an end");
                    assert!(apart, "{range:?}: {one:?} {other:?}");
                }
            }
        }
        assert_eq!(map(None).outside(0), Some(UPPER));
        let of_root = map(Some(Range {
            start: 100_000,
            count: 65_536,
        }));
        assert_eq!(of_root.outside(5), Some(100_005));
    }

    #[test]
    fn what_hides_parts_of_proc_is_seen() {
        let line = |point: &str| format!("22 1 0:5 / {point} rw - tmpfs tmpfs rw\n");
        let usual = [
            "/",
            "/proc",
            "/sys",
            "/sys/fs/cgroup",
            "/sys/kernel/tracing",
        ];
        let usual: String = usual.map(line).concat();
        assert_eq!(hidden(&usual), None);
        let masked = format!("{usual}{}", line("/proc/kcore"));
        assert_eq!(hidden(&masked), Some("/proc/kcore"));
        let masked = format!("{usual}{}", line("/sys/firmware"));
        assert_eq!(hidden(&masked), Some("/sys/firmware"));
    }
}
