//! What a snapshot holds, as a sorted flat list with content digests; and the view that a chain of them gives.
//!
//! Digests cover path, type, mode, owner, xattrs, link target, device and bytes; never times. Overlay's own marks
//! (whiteout devices, `*.overlay.opaque`) become [`Kind::Whiteout`] and [`Entry::opaque`]; other `*.overlay.*`
//! xattrs are not content. A tree is computed once, when its snapshot is committed, and kept beside it.

mod encoding;
mod merge;
mod scan;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use crate::key::Key;
use crate::root_dir::Metadata;
use crate::store::Result;

pub use scan::is_content_xattr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
    /// The path below is gone. Only in trees of snapshots, never in merged views.
    Whiteout,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root, `/`-separated, without a leading `/`; `b""` is the root itself.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of devices: `makedev(major, minor)`.
    pub device: u64,
    /// Of files, in bytes.
    pub size: u64,
    /// Seconds and nanoseconds; not part of any digest.
    pub mtime: (i64, u32),
    /// Directory hides what the same path holds in lower snapshots.
    pub opaque: bool,
    /// blake3 of a file's bytes or of a symlink's target; zero otherwise.
    pub content: [u8; 32],
    /// Of symlinks: where they lead, as written, so that paths can be followed without the files. Empty otherwise.
    pub target: Vec<u8>,
    /// Sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Non-zero: files with the same number are one inode.
    pub hard_link: u32,
}

impl Entry {
    /// An entry of root's with mode 0 and nothing in it.
    pub fn new(path: Vec<u8>, kind: Kind) -> Self {
        Self {
            path,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            device: 0,
            size: 0,
            mtime: (0, 0),
            opaque: false,
            content: [0; 32],
            target: Vec::new(),
            xattrs: Vec::new(),
            hard_link: 0,
        }
    }
}

/// Sorted by path (bytes; a directory before what it holds, so `a/b` sorts before `a-b`: `/` counts as lowest).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    pub entries: Vec<Entry>,
}

/// Files without attributes that whoever makes a snapshot has just written into it, so that they need not be read
/// again: by file system and inode, their size and the blake3 of their bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    files: HashMap<(u64, u64), (u64, [u8; 32])>,
}

impl Written {
    /// `metadata` is the file's own after the last byte was written, not what an overlay shows.
    pub fn add(&mut self, metadata: &Metadata, content: [u8; 32]) {
        let inode = (metadata.file_system, metadata.inode);
        self.files.insert(inode, (metadata.size, content));
    }

    fn content(&self, metadata: &Metadata) -> Option<[u8; 32]> {
        let inode = (metadata.file_system, metadata.inode);
        let (size, content) = self.files.get(&inode)?;
        (metadata.kind == Kind::File && *size == metadata.size).then_some(*content)
    }
}

impl Tree {
    /// Walks an overlay upper directory, hashing files in parallel. Nothing is followed and nothing but regular
    /// files is opened for reading.
    pub fn scan(directory: BorrowedFd<'_>) -> Result<Self> {
        Self::scan_written(directory, &Written::default())
    }

    /// As [`Tree::scan`], but the files in `written` are not read.
    pub fn scan_written(directory: BorrowedFd<'_>, written: &Written) -> Result<Self> {
        scan::scan(directory, written)
    }

    /// The identity of the list: equal content gives equal keys on any machine.
    pub fn digest(&self) -> Key {
        digest_entries(
            self.entries
                .iter()
                .map(|entry| (entry.path.as_slice(), entry)),
        )
    }

    /// The flat file format (versioned, checksummed).
    pub fn encode(&self) -> Vec<u8> {
        encoding::encode(self)
    }

    /// Errors: [`crate::Error::Damaged`] for anything that [`Tree::encode`] did not write.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        encoding::decode(bytes)
    }

    /// Merges a chain, bottom first, into what a process sees: whiteouts and opaque directories applied.
    pub fn merge(chain: &[&Tree]) -> Tree {
        merge::merge(chain)
    }

    /// Joins neighbours of a chain, bottom first, into the entries of one layer that means the same, removals and
    /// opaque directories kept; each with the place of the tree that it is from, by which its hard links are told.
    pub fn stack(chain: &[&Tree]) -> Vec<(usize, Entry)> {
        merge::entries(chain)
    }

    /// The entry at a path as written (links are not followed).
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        let index = self
            .entries
            .binary_search_by(|entry| path_order(&entry.path, path))
            .ok()?;
        self.entries.get(index)
    }

    /// The entries at and below a path.
    pub fn below(&self, path: &[u8]) -> &[Entry] {
        let start = self
            .entries
            .partition_point(|entry| path_order(&entry.path, path) == Ordering::Less);
        let rest = self.entries.get(start..).unwrap_or_default();
        let length = rest.partition_point(|entry| is_at_or_below(&entry.path, path));
        rest.get(..length).unwrap_or_default()
    }

    /// The sum of the sizes of regular files; what is one inode counts once.
    pub fn size_bytes(&self) -> u64 {
        let mut counted = std::collections::HashSet::new();
        self.entries
            .iter()
            .filter(|entry| entry.kind == Kind::File)
            .filter(|entry| entry.hard_link == 0 || counted.insert(entry.hard_link))
            .fold(0, |sum, entry| sum.saturating_add(entry.size))
    }

    /// True if the entries are in the order of trees, and no path is there twice.
    pub fn is_in_order(&self) -> bool {
        self.entries
            .is_sorted_by(|one, other| path_order(&one.path, &other.path) == Ordering::Less)
    }

    /// Brings entries into the order of trees.
    pub fn sort(&mut self) {
        self.entries
            .sort_by(|one, other| path_order(&one.path, &other.path));
    }
}

/// The order of trees: bytes, but `/` counts as lowest, so that what a directory holds follows it at once.
pub fn path_order(one: &[u8], other: &[u8]) -> Ordering {
    let common = one.iter().zip(other).position(|(a, b)| a != b);
    match common.map(|at| (one.get(at).copied(), other.get(at).copied())) {
        None => one.len().cmp(&other.len()),
        Some((Some(b'/'), _)) => Ordering::Less,
        Some((_, Some(b'/'))) => Ordering::Greater,
        Some((a, b)) => a.cmp(&b),
    }
}

/// True for `directory` itself and for what it holds; everything is below the root, `b""`.
pub fn is_at_or_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty()
        || path
            .strip_prefix(directory)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The content digest of a selection: of entries under the paths that they get, in the order given. What a
/// directory holds is not looked at; give its entries too. Of each entry: path, kind, mode, owner, device, opacity,
/// bytes or link target, xattrs. Not: times, size (the bytes tell), which names are one inode.
pub fn digest_entries<'a>(entries: impl IntoIterator<Item = (&'a [u8], &'a Entry)>) -> Key {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = Vec::with_capacity(64 * 1024);
    frame(&mut buffer, b"tree.v1");
    for (path, entry) in entries {
        frame(&mut buffer, path);
        buffer.push(entry.kind.code());
        // What has no permissions or owner of its own has the same ones everywhere.
        let (mode, uid, gid) = match entry.kind {
            Kind::Whiteout => (0, 0, 0),
            Kind::Symlink => (0o777, entry.uid, entry.gid),
            _ => (entry.mode, entry.uid, entry.gid),
        };
        for number in [mode, uid, gid] {
            buffer.extend_from_slice(&number.to_le_bytes());
        }
        let device = match entry.kind {
            Kind::CharDevice | Kind::BlockDevice => entry.device,
            _ => 0,
        };
        buffer.extend_from_slice(&device.to_le_bytes());
        buffer.push(u8::from(entry.opaque));
        buffer.extend_from_slice(&entry.content);
        buffer.extend_from_slice(&(entry.xattrs.len() as u64).to_le_bytes());
        for (name, value) in &entry.xattrs {
            frame(&mut buffer, name);
            frame(&mut buffer, value);
        }
        if buffer.len() >= 60 * 1024 {
            hasher.update(&buffer);
            buffer.clear();
        }
    }
    hasher.update(&buffer);
    Key(*hasher.finalize().as_bytes())
}

fn frame(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    buffer.extend_from_slice(bytes);
}

impl Kind {
    /// In digests and files; never changes.
    fn code(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::Symlink => 3,
            Self::CharDevice => 4,
            Self::BlockDevice => 5,
            Self::Fifo => 6,
            Self::Socket => 7,
            Self::Whiteout => 8,
        }
    }

    fn of_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::File,
            2 => Self::Directory,
            3 => Self::Symlink,
            4 => Self::CharDevice,
            5 => Self::BlockDevice,
            6 => Self::Fifo,
            7 => Self::Socket,
            8 => Self::Whiteout,
            _ => return None,
        })
    }
}
