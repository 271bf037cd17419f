//! The files behind a selection's content key: written down when a step runs, compared when the next one differs.
//!
//! A list is a [`Tree`] of the selected entries under their paths in the context, without times. One that is very
//! long is kept by directory: the digest of what each holds directly.

use rbuild_cache::notes::Note;
use rbuild_cache::tree::{Entry, Kind, Tree, digest_entries};
use rbuild_cache::{Key, Store};
use rbuild_executor::file::Source;

use super::{FileChange, Reason};

/// Longer lists are kept by directory.
const ENTRIES_MAX: usize = 20_000;
/// So many files are named; the others are counted.
const NAMED_MAX: usize = 50;

/// Keeps what was selected.
pub(crate) fn remember(store: &Store, content: Key, sources: Vec<Source>) {
    if store.has_note(Note::Paths, content) {
        return;
    }
    let bytes = list(sources).encode();
    if let Err(error) = store.put_note(Note::Paths, content, &bytes) {
        tracing::debug!(%error, "which files a step uses could not be written down");
    }
}

fn list(sources: Vec<Source>) -> Tree {
    let mut tree = Tree::default();
    for source in sources {
        // Of a directory that is copied, only what it holds is in the key.
        let is_directory = source
            .entries
            .first()
            .is_some_and(|top| top.kind == Kind::Directory);
        tree.entries
            .extend(source.entries.into_iter().skip(usize::from(is_directory)));
    }
    for entry in &mut tree.entries {
        entry.mtime = (0, 0);
        entry.hard_link = 0;
    }
    tree.sort();
    tree.entries.dedup_by(|one, other| one.path == other.path);
    if tree.entries.len() > ENTRIES_MAX {
        by_directory(&tree)
    } else {
        tree
    }
}

/// A directory for each directory, with the digest of the entries directly in it as its content.
fn by_directory(tree: &Tree) -> Tree {
    let mut directories: std::collections::BTreeMap<&[u8], Vec<&Entry>> =
        std::collections::BTreeMap::new();
    for entry in &tree.entries {
        let parent = match entry.path.iter().rposition(|byte| *byte == b'/') {
            Some(end) => entry.path.get(..end).unwrap_or_default(),
            None => b"",
        };
        directories.entry(parent).or_default().push(entry);
    }
    let mut summary = Tree {
        entries: directories
            .into_iter()
            .map(|(directory, entries)| {
                let entries = entries.iter().map(|entry| (entry.path.as_slice(), *entry));
                Entry {
                    content: digest_entries(entries).0,
                    ..Entry::new(directory.to_vec(), Kind::Directory)
                }
            })
            .collect(),
    };
    summary.sort();
    summary
}

/// The files that differ between two selections, as reasons.
pub(super) fn compare(
    store: &Store,
    context: &str,
    before: Option<&str>,
    after: Option<&str>,
) -> Vec<Reason> {
    let unknown = || {
        vec![Reason::Files {
            context: context.to_owned(),
        }]
    };
    let (Some(before), Some(after)) = (read(store, before), read(store, after)) else {
        return unknown();
    };
    let changes = changes(&before, &after);
    if changes.is_empty() {
        return unknown();
    }
    let count = changes.len();
    let mut reasons: Vec<Reason> = changes
        .into_iter()
        .take(NAMED_MAX)
        .map(|(path, change, what)| Reason::File {
            context: context.to_owned(),
            path: String::from_utf8_lossy(path).into_owned(),
            change,
            what: what.into_iter().map(str::to_owned).collect(),
        })
        .collect();
    if count > NAMED_MAX {
        reasons.push(Reason::MoreFiles {
            context: context.to_owned(),
            count: count - NAMED_MAX,
        });
    }
    reasons
}

fn read(store: &Store, content: Option<&str>) -> Option<Tree> {
    let mut key = [0; 32];
    hex::decode_to_slice(content?, &mut key).ok()?;
    let bytes = store.note(Note::Paths, Key(key)).ok()??;
    Tree::decode(&bytes).ok()
}

type Change<'a> = (&'a [u8], FileChange, Vec<&'static str>);

pub(super) fn changes<'a>(before: &'a Tree, after: &'a Tree) -> Vec<Change<'a>> {
    let mut changes = Vec::new();
    for entry in &after.entries {
        match before.get(&entry.path) {
            None => changes.push((entry.path.as_slice(), FileChange::Added, Vec::new())),
            Some(old) => {
                let what = differences(old, entry);
                if !what.is_empty() {
                    changes.push((entry.path.as_slice(), FileChange::Changed, what));
                }
            }
        }
    }
    for entry in &before.entries {
        if after.get(&entry.path).is_none() {
            changes.push((entry.path.as_slice(), FileChange::Removed, Vec::new()));
        }
    }
    changes.sort_by(|one, other| rbuild_cache::tree::path_order(one.0, other.0));
    changes
}

fn differences(old: &Entry, new: &Entry) -> Vec<&'static str> {
    if old.kind != new.kind {
        return vec!["type"];
    }
    let content = match new.kind {
        Kind::Symlink => "target",
        _ => "content",
    };
    let mode = |entry: &Entry| match entry.kind {
        Kind::Symlink => 0,
        _ => entry.mode,
    };
    [
        (
            old.content != new.content || old.device != new.device,
            content,
        ),
        (mode(old) != mode(new), "mode"),
        ((old.uid, old.gid) != (new.uid, new.gid), "owner"),
        (old.xattrs != new.xattrs, "xattrs"),
    ]
    .into_iter()
    .filter_map(|(differs, what)| differs.then_some(what))
    .collect()
}
