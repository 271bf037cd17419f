//! What a process is marked with to remember who it believes to be: a limit that the kernel has long since ceased to
//! use. It is inherited, survives execution, and can be read and set from outside. The process itself is told that there
//! is none, and that it has set whatever it sets.

use rustix::process::{Resource, getrlimit};

use crate::sys;

/// Not used since Linux 2.4.
const UNUSED: [(Resource, &str); 2] = [
    (Resource::Locks, "Max file locks"),
    (Resource::Rss, "Max resident set"),
];

/// Four bits that no such limit has: usual are "none" and small numbers.
const MARKED: u64 = 0xa;
const MARK_SHIFT: u32 = 60;
const NUMBER_SHIFT: u32 = 44;
const ID_BITS: u32 = 22;
/// Stands for an id that there is no room for.
const UNTOLD: u32 = (1 << ID_BITS) - 1;

/// How many credentials there can be in one table.
pub(super) const MOST: usize = 1 << 16;

/// A process without one has the credentials of its sandbox's first process, if that has none either, root's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Of its credentials, in the table of whoever answers its calls.
    pub(super) number: u16,
    /// Effective ids, which others ask for that have another table: what `exec` starts in a container has its own.
    pub(super) ids: Option<(u32, u32)>,
}

impl Mark {
    pub(crate) fn first(uid: u32, gid: u32) -> Self {
        Self {
            number: 0,
            ids: Some((uid, gid)),
        }
    }

    /// The limit that marks what this process starts. Nobody can raise one for which somebody has set a hard one.
    pub(crate) fn resource() -> Resource {
        let mut all = UNUSED.iter().map(|(resource, _)| *resource);
        all.find(|resource| getrlimit(*resource).maximum.is_none())
            .unwrap_or(Resource::Locks)
    }

    /// Of any process, whoever started it.
    pub(super) fn of_process(pid: u32) -> Option<Self> {
        UNUSED
            .iter()
            .find_map(|(resource, _)| Self::of(sys::caller::limit(pid, *resource).ok()?))
    }

    pub(crate) fn limit(self) -> u64 {
        let (uid, gid) = self
            .ids
            .filter(|(uid, gid)| *uid < UNTOLD && *gid < UNTOLD)
            .unwrap_or((UNTOLD, UNTOLD));
        MARKED << MARK_SHIFT
            | u64::from(self.number) << NUMBER_SHIFT
            | u64::from(uid) << ID_BITS
            | u64::from(gid)
    }

    /// As `/proc/PID/limits` shows it.
    pub(super) fn shown(limits: &str) -> Option<Self> {
        UNUSED.iter().find_map(|(_, name)| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name));
            Self::of(line?.split_whitespace().next()?.parse().ok()?)
        })
    }

    pub(super) fn of(limit: u64) -> Option<Self> {
        if limit >> MARK_SHIFT != MARKED {
            return None;
        }
        let id = |shift: u32| (limit >> shift) as u32 & UNTOLD;
        let ids = (id(ID_BITS), id(0));
        Some(Self {
            number: (limit >> NUMBER_SHIFT) as u16,
            ids: (ids != (UNTOLD, UNTOLD)).then_some(ids),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_tells_what_was_marked() {
        for mark in [
            Mark::first(0, 0),
            Mark::first(65_534, 7),
            Mark {
                number: u16::MAX,
                ids: Some((UNTOLD - 1, 0)),
            },
            Mark {
                number: 9,
                ids: None,
            },
        ] {
            assert_eq!(Mark::of(mark.limit()), Some(mark));
        }
        let large = Mark::first(0, 1 << 22).limit();
        assert_eq!(
            Mark::of(large),
            Some(Mark {
                number: 0,
                ids: None
            })
        );
        let shown = format!(
            "Max address space         unlimited            unlimited            bytes     \n\
             Max file locks            {} unlimited            locks     \n",
            Mark::first(7, 8).limit()
        );
        assert_eq!(Mark::shown(&shown), Some(Mark::first(7, 8)));
        let other = |name| Mark::shown(&shown.replace("Max file locks ", name));
        assert_eq!(other("Max resident set"), Some(Mark::first(7, 8)));
        assert_eq!(other("Max open files  "), None);
        for usual in [0, 100, i64::MAX as u64, u64::MAX] {
            assert_eq!(Mark::of(usual), None);
        }
    }
}
