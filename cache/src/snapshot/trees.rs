//! Listings of snapshots, and the views that chains of them give: each is read or merged once a process.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::{SnapshotId, missing};
use crate::error::IoContext as _;
use crate::store::{Error, Result, Store};
use crate::tree::Tree;

/// Trees that were read or merged, so that each is decoded once a process.
#[derive(Debug, Default)]
pub(crate) struct TreeMemory {
    own: HashMap<SnapshotId, Arc<Tree>>,
    merged: HashMap<SnapshotId, Arc<Tree>>,
    entries: usize,
}

/// An entry takes about 220 bytes. Beyond that, memory is worth more than the time to read again.
const REMEMBERED_ENTRIES_MAX: usize = 600_000;

impl TreeMemory {
    pub(super) fn remember(&mut self, merged: bool, id: &SnapshotId, tree: &Arc<Tree>) {
        if self.entries > REMEMBERED_ENTRIES_MAX {
            *self = Self::default();
        }
        self.entries += tree.entries.len();
        let map = if merged {
            &mut self.merged
        } else {
            &mut self.own
        };
        map.insert(id.clone(), Arc::clone(tree));
    }
}

impl Store {
    /// The tree of one snapshot (memoised).
    pub fn tree(&self, id: &SnapshotId) -> Result<Arc<Tree>> {
        if let Some(tree) = self.remembered(|memory| memory.own.get(id).cloned()) {
            return Ok(tree);
        }
        let path = self.shared.snapshot_holder(id).join("tree");
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(missing(id));
            }
            result => result.at("read", &path)?,
        };
        let tree = Arc::new(Tree::decode(&bytes).map_err(|error| match error {
            Error::Damaged { reason, .. } => {
                Error::damaged(format_args!("the listing of snapshot {}", id.0), reason)
            }
            other => other,
        })?);
        self.remembered(|memory| memory.remember(false, id, &tree));
        Ok(tree)
    }

    /// The view of the chain that ends at `id` (memoised).
    pub fn merged_tree(&self, id: &SnapshotId) -> Result<Arc<Tree>> {
        if let Some(tree) = self.remembered(|memory| memory.merged.get(id).cloned()) {
            return Ok(tree);
        }
        let chain = self.chain(id)?;
        // From the highest ancestor whose view is known.
        let known = chain
            .iter()
            .enumerate()
            .rev()
            .find_map(|(index, snapshot)| {
                let view = self.remembered(|memory| memory.merged.get(&snapshot.id).cloned())?;
                Some((index + 1, view))
            });
        let (rest, base) = match known {
            Some((index, view)) => (index, Some(view)),
            None => (0, None),
        };
        let mut trees: Vec<Arc<Tree>> = base.into_iter().collect();
        for snapshot in chain.iter().skip(rest) {
            trees.push(self.tree(&snapshot.id)?);
        }
        let layers: Vec<&Tree> = trees.iter().map(Arc::as_ref).collect();
        let view = Arc::new(Tree::merge(&layers));
        self.remembered(|memory| memory.remember(true, id, &view));
        Ok(view)
    }

    fn remembered<T>(&self, work: impl FnOnce(&mut TreeMemory) -> T) -> T {
        let mut memory = self
            .shared
            .trees
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        work(&mut memory)
    }
}
