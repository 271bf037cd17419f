//! How much room things take: real blocks, what has several names counted once.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// When a file with several names counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// At the first name: how much is used.
    Once,
    /// At the last name: how much is given back when all that is measured is removed.
    WhenAllNamesAreSeen,
}

#[derive(Debug)]
pub(super) struct Meter {
    count: Count,
    /// Names seen so far, by device and inode.
    names: HashMap<(u64, u64), u64>,
}

impl Meter {
    pub(super) fn new(count: Count) -> Self {
        Self {
            count,
            names: HashMap::new(),
        }
    }

    /// Blocks of a tree in bytes; links are not followed. What vanishes or cannot be read does not count.
    pub(super) fn tree(&mut self, path: &Path) -> u64 {
        let mut bytes = 0_u64;
        let mut todo: Vec<PathBuf> = vec![path.to_owned()];
        while let Some(path) = todo.pop() {
            let Ok(metadata) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.is_dir() {
                bytes += metadata.blocks() * 512;
                let children = std::fs::read_dir(&path).into_iter().flatten().flatten();
                todo.extend(children.map(|child| child.path()));
                continue;
            }
            if metadata.nlink() > 1 {
                let inode = (metadata.dev(), metadata.ino());
                let names = self.names.entry(inode).or_default();
                *names += 1;
                let counts = match self.count {
                    Count::Once => *names == 1,
                    Count::WhenAllNamesAreSeen => *names == metadata.nlink(),
                };
                if !counts {
                    continue;
                }
            }
            bytes += metadata.blocks() * 512;
        }
        bytes
    }
}

/// Blocks that removing `path` would give back, in bytes.
pub(crate) fn allocated(path: &Path) -> u64 {
    Meter::new(Count::WhenAllNamesAreSeen).tree(path)
}

/// What a tree takes, where files that have names elsewhere count in part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) bytes: u64,
    /// Some file has a name elsewhere.
    pub(super) shared: bool,
}

/// Blocks of a tree in bytes; of a file with names elsewhere, the part of the names in here.
pub(super) fn part(path: &Path) -> Part {
    let mut part = Part::default();
    // By inode: its links, those of its names that are in here, its blocks.
    let mut linked: HashMap<(u64, u64), (u64, u64, u64)> = HashMap::new();
    let mut todo: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        let bytes = metadata.blocks() * 512;
        if metadata.is_dir() {
            let children = std::fs::read_dir(&path).into_iter().flatten().flatten();
            todo.extend(children.map(|child| child.path()));
        } else if metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            linked
                .entry(inode)
                .or_insert((metadata.nlink(), 0, bytes))
                .1 += 1;
            continue;
        }
        part.bytes += bytes;
    }
    for (links, names, bytes) in linked.into_values() {
        part.shared |= names < links;
        part.bytes += bytes * names.min(links) / links;
    }
    part
}
