//! A snapshot's own files once more, on another parent (`COPY --link`): directories are made anew, everything else
//! is another name of the same file. So both snapshots live and die on their own.

use crate::packed::dress;
use crate::root_dir::{Resolve, RootDir, path_of};
use crate::snapshot::{Snapshot, SnapshotId};
use crate::store::{Error, Result, Store};
use crate::tree::{Entry, Kind};

impl Store {
    /// Makes a snapshot on `parent` that adds what `layer` adds, which was itself made on nothing. Blocking.
    /// Errors: `Missing` where one of them is gone.
    pub fn stack(
        &self,
        layer: &SnapshotId,
        parent: Option<&SnapshotId>,
        created: i64,
    ) -> Result<Snapshot> {
        let tree = self.tree(layer)?;
        let layer = self.snapshot(layer)?;
        let active = self.prepare()?;
        if let Some((variant, blob)) = self.packed_layer(&layer)? {
            let tree = (*tree).clone();
            return active.commit_packed(parent, created, tree, (&variant, &blob));
        }
        let from_path = self.directory_of(&layer)?;
        let failed = |entry: &Entry, source| Error::Io {
            action: "stack a layer's entry",
            path: path_of(&entry.path).to_owned(),
            source,
        };
        let open = |path: &std::path::Path| {
            RootDir::open_ambient(path).map_err(|source| Error::Io {
                action: "open",
                path: path.to_owned(),
                source,
            })
        };
        let (from, to) = (open(&from_path)?, open(active.upper())?);
        for entry in &tree.entries {
            name(&from, &to, entry).map_err(|source| failed(entry, source))?;
        }
        // Contents change their directory's time, so the innermost are set first.
        for entry in tree.entries.iter().rev() {
            if entry.kind == Kind::Directory {
                dress(&to, entry).map_err(|source| failed(entry, source))?;
            }
        }
        drop((from, to));
        active.commit_with_tree(parent, created, (*tree).clone())
    }
}

fn name(from: &RootDir, to: &RootDir, entry: &Entry) -> std::io::Result<()> {
    let path = path_of(&entry.path);
    if entry.path.is_empty() {
        return Ok(());
    }
    let place = to.place(path, Resolve::Beneath)?;
    if entry.kind == Kind::Directory {
        place.create_dir(0o700)?;
        return Ok(());
    }
    from.place(path, Resolve::Beneath)?.hard_link(&place)?;
    // Owners of links are written down in their directory: a new name needs that, too.
    crate::owners::note(place.directory(), place.name(), entry)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_layer_on_another_parent_has_its_files_and_its_digest() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        let make = |name: &str, parent: Option<&SnapshotId>| {
            let active = store.prepare().expect("a place");
            let root = RootDir::open_ambient(active.upper()).expect("its root");
            let at = |path: &str| path_of(path.as_bytes()).to_owned();
            root.create_dir(&at("d"), 0o750, Resolve::Beneath)
                .expect("a directory");
            root.create_file(&at(&format!("d/{name}")), 0o640, Resolve::Beneath)
                .expect("a file");
            root.symlink(b"d", &at(&format!("l{name}")), Resolve::Beneath)
                .expect("a link");
            active.commit(parent, 0).expect("a snapshot")
        };
        let base = make("base", None);
        let layer = make("layer", None);
        let stacked = store
            .stack(&layer.id, Some(&base.id), 7)
            .expect("a stacked snapshot");
        assert_eq!(stacked.parent, Some(base.id.clone()));
        assert_eq!((stacked.tree, stacked.created), (layer.tree, 7));
        let merged = store.merged_tree(&stacked.id).expect("a view");
        assert!(merged.get(b"d/base").is_some() && merged.get(b"d/layer").is_some());
        let scanned = store.snapshot_directory(&stacked.id).expect("its files");
        let scanned = RootDir::open_ambient(&scanned).expect("it");
        let scanned = crate::tree::Tree::scan(scanned.as_fd()).expect("a scan");
        assert_eq!(scanned.digest(), layer.tree);
        // The same stack as if it had been made there.
        assert_eq!(stacked.content, make("layer", Some(&base.id)).content);
    }
}
