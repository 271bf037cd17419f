//! What `check` put away has a life of its own: it is there to be looked at, for a while.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::PruneOptions;
use super::item::{Item, Kind};
use super::meter::allocated;
use crate::lease;
use crate::store::{Result, Store};

/// Who did not look at it for so long will not.
const KEEP_SECONDS: i64 = 7 * 24 * 3600;

impl Store {
    /// Everything in `quarantine/`. It was put there when its inode last changed: by the move.
    pub(super) fn quarantine_items(&self) -> Result<Vec<Item>> {
        let directory = self.root().join("quarantine");
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let mut items = Vec::new();
        for name in lease::names(&directory)? {
            let path = directory.join(&name);
            let Ok(metadata) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            items.push(Item {
                description: format!("`{}`, put away by `store check`", name_before(&name)),
                id: name,
                kind: Kind::Quarantine,
                parent: None,
                bytes: allocated(&path),
                shared: false,
                reclaimable: !holds_mount(&path),
                created: None,
                last_used: metadata.ctime(),
            });
        }
        Ok(items)
    }

    /// What of it goes: all where that is asked, or where it is what keeps the rest from fitting; what is old in any
    /// case, unless other things are meant.
    pub(super) fn quarantine_to_go(
        &self,
        options: &PruneOptions,
        still_too_much: bool,
    ) -> Result<Vec<Item>> {
        if !options.allows(Kind::Quarantine) {
            return Ok(Vec::new());
        }
        let limit = limit(options, still_too_much, lease::now_ms() / 1000);
        let mut items = self.quarantine_items()?;
        items.retain(|item| item.reclaimable && item.last_used < limit && options.names(&item.id));
        Ok(items)
    }

    pub(super) fn remove_quarantined(&self, item: &Item) -> Result<()> {
        lease::remove(&self.root().join("quarantine").join(&item.id))
    }
}

/// What was put away before this time goes.
pub(super) fn limit(options: &PruneOptions, still_too_much: bool, now: i64) -> i64 {
    let is_asked = options.takes_more() && options.keep_storage.is_none();
    let old = match is_asked || still_too_much {
        true => i64::MAX,
        false => now - KEEP_SECONDS,
    };
    options.until.map_or(old, |until| until.min(old))
}

/// The name under which it was found: without the random word.
fn name_before(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(before, _)| before)
}

/// Something is mounted below it: what that holds is not the store's to remove.
fn holds_mount(path: &Path) -> bool {
    let Ok(top) = std::fs::symlink_metadata(path) else {
        return false;
    };
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.dev() != top.dev() {
            return true;
        }
        if metadata.is_dir() {
            let children = std::fs::read_dir(&path).into_iter().flatten().flatten();
            todo.extend(children.map(|child| child.path()));
        }
    }
    false
}
