//! What a command wrote for nothing: `chown`, `chmod` and `touch -r` that set what was there have overlay copy a file
//! up all the same, and its bytes would be in the layer once more. Such files are taken out of a new snapshot, as
//! BuildKit leaves them out of its layers; below they are as they were.
//!
//! They are told by what they are, not by overlay's marks: those are not on files of several names in a lower layer,
//! nor on links in an overlay of an ordinary user's, and where nothing can be mounted there are none. A layer must
//! not depend on that.

use std::sync::Arc;

use crate::error::{IoContext as _, Result};
use crate::root_dir::{Resolve, RootDir, path_of};
use crate::snapshot::SnapshotId;
use crate::store::Store;
use crate::tree::{Entry, Kind, Tree};

/// `tree` is what is in `root`, which was empty at a time `since` then. A file that cannot be removed stays.
pub(crate) fn remove(
    store: &Store,
    parent: &SnapshotId,
    root: &RootDir,
    tree: &mut Tree,
    since: (i64, u32),
) -> Result<()> {
    // What is below was there before, so whatever has a later time is new. This spares most commands the look.
    let until = now();
    let is_old = |entry: &Entry| {
        matches!(entry.kind, Kind::File | Kind::Symlink)
            && entry.hard_link == 0
            && (entry.mtime <= since || entry.mtime > until)
    };
    if !tree.entries.iter().any(is_old) {
        return Ok(());
    }
    // The topmost first: what it has hides what is below.
    let chain = store.chain(parent)?;
    let below = chain.iter().rev().map(|snapshot| store.tree(&snapshot.id));
    let below: Vec<Arc<Tree>> = below.collect::<Result<_>>()?;
    let mut unchanged = Vec::new();
    let mut shown: Option<(&[u8], Vec<&Tree>)> = None;
    for (index, entry) in tree.entries.iter().enumerate() {
        if !is_old(entry) {
            continue;
        }
        let directory = directory_of(&entry.path);
        if shown.as_ref().is_none_or(|(last, _)| *last != directory) {
            let trees = if is_hidden(tree, &entry.path) {
                Vec::new()
            } else {
                showing(&below, &entry.path)
            };
            shown = Some((directory, trees));
        }
        let trees = shown.iter().flat_map(|(_, trees)| trees);
        if find(trees, &entry.path).is_some_and(|old| is_same(old, entry))
            && root
                .remove_file(path_of(&entry.path), Resolve::Beneath)
                .is_ok()
        {
            unchanged.push(index);
        }
    }
    for index in &unchanged {
        if let Some(entry) = tree.entries.get(*index) {
            give_time_back(root, &entry.path, tree)?;
        }
    }
    let mut gone = unchanged.into_iter().peekable();
    let mut place = 0..;
    tree.entries
        .retain(|_| gone.next_if_eq(&place.next().unwrap_or_default()).is_none());
    Ok(())
}

/// No file that is there has a later time, unless somebody gave it one. (By the clock that files get their times of,
/// which goes in steps, some would.)
pub(crate) fn now() -> (i64, u32) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    (now.tv_sec, now.tv_nsec as u32)
}

fn is_same(old: &Entry, new: &Entry) -> bool {
    let old = Entry {
        hard_link: 0,
        ..old.clone()
    };
    matches!(old.kind, Kind::File | Kind::Symlink) && old == *new
}

/// Those of trees which lie on one another that show what they have in the path's directory.
fn showing<'a>(from_the_top: &'a [Arc<Tree>], path: &[u8]) -> Vec<&'a Tree> {
    let directory = directory_of(path);
    let mut showing = Vec::new();
    for tree in from_the_top {
        let is_hidden = is_hidden(tree, path);
        let has_it = |entry: &Entry| entry.kind == Kind::Directory;
        if directory.is_empty() || tree.get(directory).is_some_and(has_it) {
            showing.push(&**tree);
        }
        if is_hidden {
            break;
        }
    }
    showing
}

fn find<'a, 't: 'a>(
    from_the_top: impl IntoIterator<Item = &'a &'t Tree>,
    path: &[u8],
) -> Option<&'t Entry> {
    from_the_top.into_iter().find_map(|tree| tree.get(path))
}

fn directory_of(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/');
    path.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// Whether a directory on the way to the path hides what lies below the tree. (A file may have been moved into one.)
fn is_hidden(tree: &Tree, path: &[u8]) -> bool {
    let ends = path.iter().enumerate().filter(|(_, c)| **c == b'/');
    ends.filter_map(|(at, _)| tree.get(&path[..at]))
        .any(|above| above.opaque || above.kind != Kind::Directory)
}

/// Of the directory that something was taken out of.
fn give_time_back(root: &RootDir, path: &[u8], tree: &Tree) -> Result<()> {
    let directory = directory_of(path);
    let Some(was) = tree.get(directory) else {
        return Ok(());
    };
    let path = path_of(directory);
    root.node(path, Resolve::Beneath)
        .and_then(|directory| directory.set_times(was.mtime, was.mtime))
        .at("set the time of", path)
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
            let trees = showing(&below, path.as_bytes());
            let found = find(&trees, path.as_bytes()).map(|entry| entry.kind);
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
