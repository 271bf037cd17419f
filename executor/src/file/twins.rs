//! Files that an earlier result of the same step has as they are to be: they get a further name instead of a copy.
//! Of a context of which one file was edited that is all but one.
//!
//! A twin has the same path as its file. So no root ever shows two names of one inode that should be two files: where
//! one snapshot is below the other, the upper name hides the lower.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rbuild_cache::root_dir::{Metadata, Resolve};
use rbuild_cache::tree::{Entry, Kind, Tree};
use rbuild_cache::{RootDir, SnapshotId, Store};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::attributes::Attributes;

/// A snapshot that files may be taken from, below one of its directories.
pub(super) struct Twins {
    tree: Arc<Tree>,
    root: RootDir,
    /// The directory, from the root of the snapshot.
    below: PathBuf,
    /// No name can be given here.
    is_over: AtomicBool,
}

impl Twins {
    /// `None` where the snapshot is gone, or has its files in a layer only.
    pub(super) fn of(store: &Store, like: &SnapshotId, below: PathBuf) -> Option<Self> {
        let snapshot = store.snapshot(like).ok()?;
        if snapshot.packed.is_some() {
            return None;
        }
        let directory = store.directory_of(&snapshot).ok()?;
        Some(Self {
            tree: store.tree(like).ok()?,
            root: RootDir::open_ambient(&directory).ok()?,
            below,
            is_over: AtomicBool::new(false),
        })
    }

    /// One of its directories, if it is there.
    pub(super) fn directory(&self, relative: &Path) -> Option<RootDir> {
        let path = self.below.join(relative);
        self.root.directory(&path, Resolve::Beneath).ok()
    }

    /// Gives a file its name in `to`, if the file at `relative`, whose directory is `from`, is what `entry` becomes.
    /// Returns what it is like, or `None` where there is no such file or no such right: then it is to be copied.
    pub(super) fn link(
        &self,
        relative: &Path,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        (entry, attributes): (&Entry, &Attributes<'_>),
    ) -> Option<Metadata> {
        if self.is_over.load(Ordering::Relaxed) {
            return None;
        }
        let path = self.below.join(relative);
        let twin = self.tree.get(path.as_os_str().as_encoded_bytes())?;
        if !is_twin(twin, entry, attributes) {
            return None;
        }
        match rustix::fs::linkat(from, name, to, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::PERM | Errno::XDEV | Errno::ACCESS | Errno::OPNOTSUPP) => {
                self.is_over.store(true, Ordering::Relaxed);
                return None;
            }
            // It has as many names as it can have, or is gone, or something has the name.
            Err(_) => return None,
        }
        let made = Metadata::at(to, name).ok();
        // The store may be damaged.
        let made = made.filter(|made| {
            made.kind == Kind::File
                && (made.size, made.mtime, made.mode) == (twin.size, twin.mtime, twin.mode)
        });
        if made.is_none() {
            // What cannot be removed is in the way of the copy, which will say so.
            let _ = rustix::fs::unlinkat(to, name, AtFlags::empty());
        }
        made
    }
}

fn is_twin(twin: &Entry, entry: &Entry, attributes: &Attributes<'_>) -> bool {
    let ids = attributes.owner_of(entry);
    (twin.kind, entry.kind) == (Kind::File, Kind::File)
        && (twin.size, twin.content) == (entry.size, entry.content)
        && (twin.uid, twin.gid) == (ids.uid, ids.gid)
        && twin.mode == attributes.mode_of(entry)
        && twin.mtime == attributes.mtime_of(entry)
        && twin.xattrs.is_empty()
        && entry.xattrs.is_empty()
        && (twin.hard_link, entry.hard_link) == (0, 0)
}
