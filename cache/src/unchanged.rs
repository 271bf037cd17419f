//! What overlay copied up for nothing: `chown`, `chmod` and `touch -r` that set what was there copy a file up all the
//! same, and its bytes would be in the layer once more. Such files are taken out of a new snapshot, as BuildKit leaves
//! them out of its layers; below they are as they were.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::root_dir::{Resolve, RootDir, path_of};
use crate::snapshot::SnapshotId;
use crate::store::Store;
use crate::tree::{Entry, Kind, Tree};

/// `copied_up` are places in `tree`, which is what is in `root`. A file that cannot be removed stays.
pub(crate) fn remove(
    store: &Store,
    parent: &SnapshotId,
    root: &RootDir,
    tree: &mut Tree,
    copied_up: &[usize],
) -> Result<()> {
    if copied_up.is_empty() {
        return Ok(());
    }
    // From the top.
    let chain = store.chain(parent)?;
    let below = chain.iter().rev().map(|snapshot| store.tree(&snapshot.id));
    let below: Vec<Arc<Tree>> = below.collect::<Result<_>>()?;
    let mut unchanged = Vec::new();
    for index in copied_up {
        if let Some(entry) = tree.entries.get(*index)
            && !is_hidden(tree, &entry.path)
            && find(&below, &entry.path).is_some_and(|old| is_same(old, entry))
            && take_out(root, entry, tree).is_ok()
        {
            unchanged.push(*index);
        }
    }
    let mut gone = unchanged.into_iter().peekable();
    let mut place = 0..;
    tree.entries
        .retain(|_| gone.next_if_eq(&place.next().unwrap_or_default()).is_none());
    Ok(())
}

fn is_same(old: &Entry, new: &Entry) -> bool {
    let old = Entry {
        hard_link: 0,
        ..old.clone()
    };
    matches!(old.kind, Kind::File | Kind::Symlink) && old == *new
}

/// Looks a path up in trees that lie on one another.
fn find<'a>(from_the_top: &'a [Arc<Tree>], path: &[u8]) -> Option<&'a Entry> {
    for tree in from_the_top {
        match tree.get(path) {
            Some(entry) => return Some(entry),
            None if is_hidden(tree, path) => return None,
            None => {}
        }
    }
    None
}

/// Whether a directory on the way to the path hides what lies below the tree. (A file may have been moved into one.)
fn is_hidden(tree: &Tree, path: &[u8]) -> bool {
    let ends = path.iter().enumerate().filter(|(_, c)| **c == b'/');
    ends.filter_map(|(at, _)| tree.get(&path[..at]))
        .any(|above| above.opaque || above.kind != Kind::Directory)
}

/// Removes the file, and gives its directory back its time.
fn take_out(root: &RootDir, entry: &Entry, tree: &Tree) -> std::io::Result<()> {
    let path = path_of(&entry.path);
    root.remove_file(path, Resolve::Beneath)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    if let Some(was) = tree.get(directory.as_os_str().as_bytes()) {
        let directory = root.node(directory, Resolve::Beneath)?;
        directory.set_times(was.mtime, was.mtime)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, Kind, bool)]) -> Arc<Tree> {
        let entries = entries.iter().map(|(path, kind, opaque)| Entry {
            opaque: *opaque,
            ..Entry::new(path.as_bytes().to_vec(), *kind)
        });
        let mut tree = Tree {
            entries: entries.collect(),
        };
        tree.sort();
        Arc::new(tree)
    }

    #[test]
    fn what_is_below_is_what_a_process_would_see() {
        use Kind::{Directory, File, Symlink, Whiteout};
        let below = [
            tree(&[
                ("gone", Whiteout, false),
                ("d", Directory, false),
                ("o", Directory, true),
                ("l", Symlink, false),
            ]),
            tree(&[
                ("d", Directory, false),
                ("d/top", File, false),
                ("e", Whiteout, false),
            ]),
            tree(&[
                ("gone", File, false),
                ("d", Directory, false),
                ("d/deep", File, false),
                ("o", Directory, false),
                ("o/x", File, false),
                ("e", Directory, false),
                ("e/x", File, false),
                ("l", Directory, false),
                ("l/x", File, false),
            ]),
        ];
        for (path, expected) in [
            ("d/top", Some(File)),
            ("d/deep", Some(File)),
            ("gone", Some(Whiteout)),
            ("o/x", None),
            ("e/x", None),
            ("l/x", None),
            ("l", Some(Symlink)),
            ("nowhere", None),
        ] {
            let found = find(&below, path.as_bytes()).map(|entry| entry.kind);
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn the_same_is_the_same_in_everything_but_other_names() {
        let file = Entry {
            mode: 0o644,
            mtime: (5, 6),
            size: 1,
            ..Entry::new(b"f".to_vec(), Kind::File)
        };
        let linked = Entry {
            hard_link: 3,
            ..file.clone()
        };
        assert!(is_same(&linked, &file));
        for other in [
            Entry {
                mode: 0o600,
                ..file.clone()
            },
            Entry {
                uid: 1,
                ..file.clone()
            },
            Entry {
                mtime: (5, 7),
                ..file.clone()
            },
            Entry {
                content: [1; 32],
                ..file.clone()
            },
            Entry {
                xattrs: vec![(b"user.a".to_vec(), Vec::new())],
                ..file.clone()
            },
        ] {
            assert!(!is_same(&file, &other), "{other:?}");
        }
        let whiteout = Entry::new(b"f".to_vec(), Kind::Whiteout);
        assert!(!is_same(&whiteout, &whiteout));
    }
}
