//! `diff`: what a container changed in its image's files.

use std::collections::BTreeMap;

use rbuild_cache::tree::{Kind, Tree};
use rbuild_cache::{RootDir, SnapshotId};
use std::os::fd::AsFd as _;

use super::catalog::Entry;
use super::definition::Definition;
use super::files::Written;
use crate::{Engine, Error, Result};

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Added,
    Changed,
    Deleted,
}

/// Where the sandbox itself mounts.
const OWN_MOUNTS: [&str; 6] = [
    "proc",
    "sys",
    "dev",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
];

impl Engine {
    /// Paths without their first slash, sorted.
    pub fn container_changes(&self, entry: &Entry) -> Result<Vec<(String, Change)>> {
        self.changes_of(entry, &self.written(entry)?)
    }

    pub(super) fn changes_of(
        &self,
        entry: &Entry,
        written: &Written,
    ) -> Result<Vec<(String, Change)>> {
        let upper = &written.path;
        let root = RootDir::open_ambient(upper).map_err(|source| Error::Io {
            message: format!("cannot open `{}`", upper.display()),
            source,
        })?;
        let own = Tree::scan(root.as_fd())?;
        let base = match entry
            .definition
            .snapshot
            .as_deref()
            .and_then(SnapshotId::parse)
        {
            Some(snapshot) => self.store().merged_tree(&snapshot)?,
            None => std::sync::Arc::new(Tree::default()),
        };
        Ok(changes(&own, &base, &entry.definition))
    }
}

fn changes(own: &Tree, base: &Tree, definition: &Definition) -> Vec<(String, Change)> {
    let mounted = mount_points(definition);
    let mut found: BTreeMap<Vec<u8>, Change> = BTreeMap::new();
    for entry in own.entries.iter().filter(|entry| !entry.path.is_empty()) {
        let below = base.get(&entry.path);
        let change = match (entry.kind, below) {
            (Kind::Whiteout, None) => continue,
            (Kind::Whiteout, Some(_)) => Change::Deleted,
            (_, None) => Change::Added,
            (_, Some(_)) => Change::Changed,
        };
        // Made to be mounted on, by the sandbox.
        let is_stub = mounted.contains(&entry.path)
            && change == Change::Added
            && (entry.kind == Kind::Directory || entry.size == 0);
        if !is_stub {
            found.insert(entry.path.clone(), change);
        }
        if entry.opaque && below.is_some_and(|below| below.kind == Kind::Directory) {
            for hidden in base.below(&entry.path) {
                if own.get(&hidden.path).is_none() {
                    found.insert(hidden.path.clone(), Change::Deleted);
                }
            }
        }
    }
    // Directories that only came along with a mount point.
    let mut along: Vec<Vec<u8>> = mounted.iter().flat_map(|path| parents(path)).collect();
    along.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in along {
        let Some(entry) = own.get(&path) else {
            continue;
        };
        let prefix = [path.as_slice(), b"/"].concat();
        let holds = found.keys().any(|other| other.starts_with(&prefix));
        let same = base.get(&path).is_none_or(|below| {
            (below.mode, below.uid, below.gid) == (entry.mode, entry.uid, entry.gid)
        });
        if !holds && same && !path.is_empty() {
            found.remove(&path);
        }
    }
    found
        .into_iter()
        .map(|(path, change)| (String::from_utf8_lossy(&path).into_owned(), change))
        .collect()
}

fn parents(path: &[u8]) -> Vec<Vec<u8>> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes
        .map(|(at, _)| path.get(..at).unwrap_or_default().to_vec())
        .collect()
}

/// Relative to the root.
pub(super) fn mount_points(definition: &Definition) -> Vec<Vec<u8>> {
    let own = OWN_MOUNTS.iter().map(|path| path.as_bytes().to_vec());
    let asked = definition
        .mounts
        .iter()
        .map(|mount| mount.target.trim_matches('/').as_bytes().to_vec());
    own.chain(asked).collect()
}
