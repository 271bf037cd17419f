//! What a snapshot holds, as a sorted flat list with content digests; and the view that a chain of them gives.
//!
//! Digests cover path, type, mode, owner, xattrs, link target, device and bytes; never times. Overlay's own marks
//! (whiteout devices, `*.overlay.opaque`) become [`Kind::Whiteout`] and [`Entry::opaque`]; other `*.overlay.*`
//! xattrs are not content. A tree is computed once, when its snapshot is committed, and kept beside it.

use std::os::fd::BorrowedFd;

use crate::key::Key;
use crate::store::Result;

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

/// Sorted by path (bytes; a directory before what it holds, so `a/b` sorts before `a-b`: `/` counts as lowest).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    pub entries: Vec<Entry>,
}

impl Tree {
    /// Walks an overlay upper directory, hashing files in parallel.
    pub fn scan(_directory: BorrowedFd<'_>) -> Result<Self> {
        todo!()
    }

    /// The identity of the list: equal content gives equal keys on any machine.
    pub fn digest(&self) -> Key {
        todo!()
    }

    /// The flat file format (versioned, checksummed).
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    pub fn decode(_bytes: &[u8]) -> Result<Self> {
        todo!()
    }

    /// Merges a chain, bottom first, into what a process sees: whiteouts and opaque directories applied.
    pub fn merge(_chain: &[&Tree]) -> Tree {
        todo!()
    }

    /// The entry at a path as written (links are not followed).
    pub fn get(&self, _path: &[u8]) -> Option<&Entry> {
        todo!()
    }

    /// The entries at and below a path.
    pub fn below(&self, _path: &[u8]) -> &[Entry] {
        todo!()
    }
}
