//! The processes of a command that has no numbers of its own for them.

use std::collections::HashMap;
use std::io;

/// What descends from a process, which itself is none of it: the oldest first, so many generations deep.
pub(in crate::sandbox) fn below(first: u32, generations: usize) -> io::Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<(u64, u32)>> = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // What ended meanwhile is none.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
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
fn parent(stat: &str) -> Option<(u32, u64)> {
    // After the name, which may hold anything: the state, the parent, and 17 others before the time.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    Some((parent, fields.nth(17)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_below_its_parent() {
        let mut child = std::process::Command::new("sleep")
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
    fn names_hold_anything() {
        let rest = "1 1 1 0 -1 4194560 9 0 0 0 0 0 0 0 20 0 1 0 4711 0";
        assert_eq!(parent(&format!("7 (a) S 2) S {rest}")), Some((1, 4711)));
        assert_eq!(parent(&format!("7 (a) Z {rest}")), None);
        assert_eq!(parent("7 (a"), None);
    }
}
