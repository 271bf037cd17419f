//! The processes of a command that has no numbers of its own for them.

use std::collections::HashMap;
use std::io;

use crate::proc_stat::ProcStat;

/// What descends from a process, which itself is none of it: the oldest first, so many generations deep.
pub(in crate::sandbox) fn below(first: u32, generations: usize) -> io::Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<(u64, u32)>> = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // What ended meanwhile is none.
        let Ok(stat) = ProcStat::of(pid) else {
            continue;
        };
        if let Some((parent, began)) = parent(&stat) {
            children.entry(parent).or_default().push((began, pid));
        }
    }
    let mut found = Vec::new();
    let mut parents = vec![first];
    for _ in 0..generations {
        let next: Vec<(u64, u32)> = parents
            .iter()
            .filter_map(|parent| children.remove(parent))
            .flatten()
            .collect();
        if next.is_empty() {
            break;
        }
        parents = next.iter().map(|(_, pid)| *pid).collect();
        found.extend(next);
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, pid)| pid).collect())
}

/// The parent of a process, and when it began. Of what is over, `None`.
fn parent(stat: &ProcStat) -> Option<(u32, u64)> {
    const BEGAN: usize = 22;
    if matches!(stat.state()?, "Z" | "X") {
        return None;
    }
    Some((stat.parent()?, stat.number(BEGAN)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_below_its_parent() {
        // By a name that is no text.
        let directory = tempfile::tempdir().expect("a directory");
        let name = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff) Z 1");
        let name = directory.path().join::<&std::ffi::OsStr>(name);
        std::os::unix::fs::symlink("/bin/sleep", &name).expect("a link");
        let mut child = std::process::Command::new(name)
            .arg("60")
            .spawn()
            .expect("a process");
        let found = below(std::process::id(), 1).expect("processes");
        let has_it = found.contains(&child.id());
        child.kill().expect("it runs");
        assert!(has_it, "{found:?}");
        child.wait().expect("it ends");
        let found = below(std::process::id(), usize::MAX).expect("processes");
        assert!(!found.contains(&child.id()), "{found:?}");
    }

    #[test]
    fn what_is_over_is_below_nothing() {
        let rest = "1 1 1 0 -1 4194560 9 0 0 0 0 0 0 0 20 0 1 0 4711 0";
        let stat = |state: &str| ProcStat::from(format!("7 (a) S 2) {state} {rest}"));
        assert_eq!(parent(&stat("S")), Some((1, 4711)));
        assert_eq!(parent(&stat("Z")), None);
    }
}
