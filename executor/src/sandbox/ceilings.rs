//! Limits of resources, for commands that are root of a user namespace: there the kernel lets nobody raise one. So
//! their spawner has higher ones than root's own, and each command begins with those, and is given what root's have
//! where nothing else was asked for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::plan::{Limit, ResourceLimit};

/// What the limits were, of those that were raised.
#[derive(Debug, Clone, Default)]
#[must_use = "what was raised must be restored"]
pub(super) struct Ceilings(Vec<(Limit, Rlimit)>);

/// Raises this process's limits as far as it can.
pub(super) fn raise() -> Ceilings {
    let mut before = Vec::new();
    for (_, limit) in Limit::ALL {
        let resource = limit.resource();
        let was = getrlimit(resource);
        if was.maximum.is_none() {
            continue;
        }
        // A user namespace has as much of these, altogether, as its maker's soft limit.
        let counted = matches!(
            resource,
            Resource::Memlock | Resource::Msgqueue | Resource::Sigpending
        );
        let to = |maximum: Option<u64>| Rlimit {
            current: if counted { maximum } else { was.current },
            maximum,
        };
        let raised = setrlimit(resource, to(None)).or_else(|errno| match resource {
            // The kernel has a highest one for these.
            Resource::Nofile => setrlimit(resource, to(Some(most_files().ok_or(errno)?))),
            _ => Err(errno),
        });
        if raised.is_ok() {
            before.push((limit, was));
        }
    }
    Ceilings(before)
}

fn most_files() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/fs/nr_open").ok()?;
    text.trim().parse().ok()
}

impl Ceilings {
    /// Sets what was raised back, but for what is about to be set anyway.
    pub(super) fn restore(&self, but: &[ResourceLimit]) {
        for (limit, was) in &self.0 {
            if !but.iter().any(|asked| asked.kind == *limit) {
                // Lower than now: nothing forbids that.
                let _ = setrlimit(limit.resource(), *was);
            }
        }
    }
}
