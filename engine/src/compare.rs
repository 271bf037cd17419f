//! What differs between two roots, by their listings: no file is opened, and equal roots are told apart by nothing.

use std::cmp::Ordering;

use rbuild_cache::tree::{Entry, Kind, Tree, path_order};
use serde::Serialize;

/// A path that is not the same in both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Absolute; what is no UTF-8 is replaced.
    pub path: String,
    pub change: Change,
    /// What of it differs; of something that is only in one of them nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aspects: Vec<Aspect>,
    /// What it is where it is last: `file`, `directory`, …
    pub kind: &'static str,
    /// Bytes before and after, of files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_after: Option<u64>,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    Added,
    Removed,
    Changed,
}

/// One thing that differs, before and after, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Aspect {
    pub what: &'static str,
    pub before: String,
    pub after: String,
}

/// How closely two roots are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closeness {
    /// Also times of modification; those later than the limit count as the limit.
    pub times: Option<i64>,
}

/// All times as they are.
pub const EVERY_TIME: i64 = i64::MAX;

/// In the order of paths.
pub fn differences(before: &Tree, after: &Tree, closeness: Closeness) -> Vec<Difference> {
    let (mut before, mut after) = (
        before.entries.iter().peekable(),
        after.entries.iter().peekable(),
    );
    let mut found = Vec::new();
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => path_order(&one.path, &other.path),
        };
        match order {
            Ordering::Less => found.extend(before.next().map(|it| single(it, Change::Removed))),
            Ordering::Greater => found.extend(after.next().map(|it| single(it, Change::Added))),
            Ordering::Equal => {
                if let (Some(one), Some(other)) = (before.next(), after.next()) {
                    found.extend(changed(one, other, closeness));
                }
            }
        }
    }
}

fn single(entry: &Entry, change: Change) -> Difference {
    let size = (entry.kind == Kind::File).then_some(entry.size);
    let (size_before, size_after) = match change {
        Change::Removed => (size, None),
        Change::Added | Change::Changed => (None, size),
    };
    Difference {
        path: shown(&entry.path),
        change,
        aspects: Vec::new(),
        kind: kind(entry.kind),
        size_before,
        size_after,
    }
}

fn changed(before: &Entry, after: &Entry, closeness: Closeness) -> Option<Difference> {
    let mut aspects = Vec::new();
    let mut add = |what: &'static str, before: String, after: String| {
        if before != after {
            aspects.push(Aspect {
                what,
                before,
                after,
            });
        }
    };
    add(
        "type",
        kind(before.kind).to_owned(),
        kind(after.kind).to_owned(),
    );
    if before.kind == Kind::File && after.kind == Kind::File && before.content != after.content {
        let short = |entry: &Entry| {
            let digest = hex::encode(entry.content.get(..6).unwrap_or_default());
            format!("{} bytes, blake3 {digest}", entry.size)
        };
        add("content", short(before), short(after));
    }
    if before.kind == Kind::Symlink && after.kind == Kind::Symlink {
        let target = |entry: &Entry| String::from_utf8_lossy(&entry.target).into_owned();
        add("target", target(before), target(after));
    }
    let mode = |entry: &Entry| format!("{:04o}", entry.mode);
    if before.kind != Kind::Symlink || after.kind != Kind::Symlink {
        add("mode", mode(before), mode(after));
    }
    let owner = |entry: &Entry| format!("{}:{}", entry.uid, entry.gid);
    add("owner", owner(before), owner(after));
    add(
        "device",
        before.device.to_string(),
        after.device.to_string(),
    );
    add("xattrs", xattrs(before), xattrs(after));
    let opaque = |entry: &Entry| entry.opaque.to_string();
    add("opaque", opaque(before), opaque(after));
    if let Some(limit) = closeness.times {
        let time = |entry: &Entry| {
            let seconds = entry.mtime.0.min(limit);
            jiff::Timestamp::from_second(seconds)
                .map_or_else(|_| seconds.to_string(), |it| it.to_string())
        };
        add("time", time(before), time(after));
    }
    (!aspects.is_empty()).then(|| Difference {
        path: shown(&after.path),
        change: Change::Changed,
        aspects,
        kind: kind(after.kind),
        size_before: (before.kind == Kind::File).then_some(before.size),
        size_after: (after.kind == Kind::File).then_some(after.size),
    })
}

fn xattrs(entry: &Entry) -> String {
    let one = |(name, value): &(Vec<u8>, Vec<u8>)| {
        format!("{}={}", String::from_utf8_lossy(name), hex::encode(value))
    };
    entry.xattrs.iter().map(one).collect::<Vec<_>>().join(" ")
}

pub(crate) fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "link",
        Kind::CharDevice => "character device",
        Kind::BlockDevice => "block device",
        Kind::Fifo => "pipe",
        Kind::Socket => "socket",
        Kind::Whiteout => "removal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: u8, mode: u32) -> Entry {
        Entry {
            mode,
            size: u64::from(content),
            content: [content; 32],
            mtime: (i64::from(content), 0),
            ..Entry::new(path.into(), Kind::File)
        }
    }

    fn tree(entries: &[Entry]) -> Tree {
        let mut tree = Tree {
            entries: entries.to_vec(),
        };
        tree.sort();
        tree
    }

    #[test]
    fn what_differs_is_named_with_what_of_it() {
        let before = tree(&[
            file("a", 1, 0o644),
            file("a/x", 1, 0o644),
            file("b", 1, 0o644),
            file("d", 1, 0o644),
        ]);
        let after = tree(&[
            file("a", 1, 0o644),
            file("b", 2, 0o600),
            file("c", 3, 0o644),
            file("d", 1, 0o644),
        ]);
        let found = differences(&before, &after, Closeness::default());
        let words: Vec<String> = found
            .iter()
            .map(|one| {
                let aspects: Vec<&str> = one.aspects.iter().map(|it| it.what).collect();
                format!("{:?} {} {}", one.change, one.path, aspects.join(","))
            })
            .collect();
        assert_eq!(
            words,
            ["Removed /a/x ", "Changed /b content,mode", "Added /c "]
        );
        assert_eq!(found[1].aspects[1].before, "0644");
    }

    #[test]
    fn times_count_where_they_are_asked_for() {
        let (one, mut other) = (file("a", 5, 0), file("a", 5, 0));
        other.mtime = (9, 0);
        let (one, other) = (tree(&[one]), tree(&[other]));
        let with = |times| differences(&one, &other, Closeness { times }).len();
        assert_eq!(
            (with(None), with(Some(EVERY_TIME)), with(Some(3))),
            (0, 1, 0)
        );
    }
}
