//! A build context that is a directory of the host: which of its files the build may see, as a tree with digests.
//!
//! Only what the patterns of COPY and ADD name is looked at: the names before the first wildcard are looked up one by
//! one, whole directories are walked only where they are copied, and what the ignore file excludes is neither entered
//! nor stated. Files are hashed on all cores, and only if the stat cache does not know them. Everything counts as
//! owned by root. Serves the main context and named ones alike; no other kind of context is known here.
//!
//! * [`find`]: from patterns to the entries and directories that are needed; [`walk`]: whole directories;
//! * [`hash`]: content digests; [`missing`]: why a path is not there; [`list`]: everything, for people.

mod find;
mod hash;
pub mod list;
mod missing;
#[cfg(test)]
mod tests;
mod walk;

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::root_dir::Metadata;
use rbuild_cache::tree::{Entry, Kind, Tree, is_at_or_below, path_order};
use rbuild_cache::{RootDir, Store, TemporaryDirectory};
use rbuild_executor::file::Input;
use rbuild_parser::ignore::Patterns;

pub use missing::Missing;

/// A directory whose files a build may copy.
#[derive(Debug)]
pub struct Context {
    root: Arc<RootDir>,
    /// Names the stat cache.
    path: PathBuf,
    ignore: Option<Ignore>,
    store: Arc<Store>,
    /// Where the directory was made for this build only: it is there as long as the context is.
    temporary: Option<Arc<TemporaryDirectory>>,
}

/// The ignore file of a context. Which file that is (`.dockerignore`, `NAME.dockerignore`) is the caller's choice.
#[derive(Debug, Clone)]
pub struct Ignore {
    /// For messages.
    pub file: String,
    pub patterns: Patterns,
}

/// What one COPY, ADD or bind mount names.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// As in [`crate::select::Request`].
    pub sources: Vec<String>,
    pub parents: bool,
    pub wildcards: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} `{path}` in the build context")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot open the build context `{path}`")]
    Open {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// Not by [`Context::tree`].
    #[error("looking at the build context takes more than a moment")]
    Long,
    #[error("`{0}` in the build context changes all the time while it is read")]
    Changing(String),
    #[error(transparent)]
    Store(#[from] rbuild_cache::Error),
}

impl Context {
    /// `directory` is a path that the user gave.
    pub fn open(
        directory: &Path,
        ignore: Option<Ignore>,
        store: Arc<Store>,
    ) -> Result<Self, Error> {
        let at_directory = |source| Error::Open {
            path: directory.display().to_string(),
            source,
        };
        let root = RootDir::open_ambient(directory).map_err(at_directory)?;
        // The kernel knows the directory's real path.
        let link = format!("/proc/self/fd/{}", root.as_fd().as_raw_fd());
        let path = rustix::fs::readlink(link, Vec::new())
            .map_err(|error| at_directory(error.into()))?
            .into_bytes();
        Ok(Self {
            root: Arc::new(root),
            path: PathBuf::from(std::ffi::OsString::from_vec(path)),
            ignore,
            store,
            temporary: None,
        })
    }

    /// Keeps the directory while the context is used. No other build sees it, so nothing is remembered of its files.
    #[must_use]
    pub(crate) fn keeping(mut self, temporary: Option<Arc<TemporaryDirectory>>) -> Self {
        self.temporary = temporary;
        self
    }

    pub fn root(&self) -> &Arc<RootDir> {
        &self.root
    }

    /// The directory's real path on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything that `wanted` names, with digests. Ask once for a whole build: the stat cache is read and written
    /// each time. What is not there is not in the tree and no error here. Blocking.
    pub fn tree(&self, wanted: &[Wanted]) -> Result<Tree, Error> {
        self.tree_within(Effort::Any, wanted)
    }

    /// As [`Context::tree`], where that takes a moment: there is little to look at, and nothing to read. `None`
    /// elsewhere.
    pub(crate) fn tree_at_once(&self, wanted: &[Wanted]) -> Option<Result<Tree, Error>> {
        // Enough for some hundred files. Where nothing is known, files must be read.
        const LITTLE_BYTES: std::ops::RangeInclusive<u64> = 1..=64 << 10;
        if !LITTLE_BYTES.contains(&self.store.stat_cache_bytes(&self.path)) {
            return None;
        }
        match self.tree_within(Effort::Little, wanted) {
            Err(Error::Long) => None,
            result => Some(result),
        }
    }

    fn tree_within(&self, effort: Effort, wanted: &[Wanted]) -> Result<Tree, Error> {
        let mut found = find::find(self, effort, wanted)?;
        found.sort_unstable_by(|one, other| path_order(&one.entry.path, &other.entry.path));
        found.dedup_by(|one, other| one.entry.path == other.entry.path);
        drop_empty_excluded(&mut found);
        number_hard_links(&mut found);
        let mut cache = self.store.stat_cache(&self.path);
        let is_changed = hash::fill_in(&self.root, effort, &mut found, &mut cache)?;
        if is_changed && self.temporary.is_none() {
            self.store.save_stat_cache(cache)?;
        }
        Ok(Tree {
            entries: found.into_iter().map(|found| found.entry).collect(),
        })
    }

    /// A tree of this context as an input of file operations.
    pub fn input(&self, tree: Arc<Tree>) -> Input {
        Input {
            root: self.root.clone(),
            tree,
            mutable: true,
        }
    }

    /// Why `source`, a path as written in a Dockerfile and without wildcards, is not in the context.
    pub fn why_missing(&self, source: &str) -> Missing {
        missing::why(self, source)
    }
}

/// After how much it ends with [`Error::Long`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effort {
    Little,
    Any,
}

/// Something that the build may see.
#[derive(Debug)]
struct Found {
    /// Without `content` and `hard_link`, where it is a file.
    entry: Entry,
    metadata: Metadata,
    /// An excluded directory: it comes along only with something below it.
    excluded: bool,
}

impl Found {
    fn new(path: Vec<u8>, metadata: Metadata, excluded: bool) -> Self {
        let is_device = matches!(metadata.kind, Kind::CharDevice | Kind::BlockDevice);
        // The root's own mode is the checkout's, not the project's.
        let mode = match metadata.kind {
            Kind::Symlink => 0o777,
            _ if path.is_empty() => 0o755,
            _ => metadata.mode,
        };
        Self {
            entry: Entry {
                mode,
                device: if is_device { metadata.device } else { 0 },
                size: if metadata.kind == Kind::File {
                    metadata.size
                } else {
                    0
                },
                mtime: metadata.mtime,
                ..Entry::new(path, metadata.kind)
            },
            metadata,
            excluded,
        }
    }
}

/// Drops excluded directories that hold nothing. `found` is in tree order.
fn drop_empty_excluded(found: &mut Vec<Found>) {
    // From the end: the one that is kept and comes next.
    let mut next: Option<usize> = None;
    let mut doomed: Vec<usize> = Vec::new();
    for (place, one) in found.iter().enumerate().rev() {
        let below = next.and_then(|next| found.get(next));
        let holds_something =
            below.is_some_and(|below| is_at_or_below(&below.entry.path, &one.entry.path));
        if !one.excluded || holds_something {
            next = Some(place);
        } else {
            doomed.push(place);
        }
    }
    let mut place = 0;
    found.retain(|_| {
        let is_doomed = doomed.pop_if(|doomed| *doomed == place).is_some();
        place += 1;
        !is_doomed
    });
}

/// Files with several names in the tree get the same number, from 1 in the order of their first names.
fn number_hard_links(found: &mut [Found]) {
    let inode = |found: &Found| {
        let linked = found.metadata.kind == Kind::File && found.metadata.links > 1;
        linked.then_some((found.metadata.file_system, found.metadata.inode))
    };
    let mut names = std::collections::HashMap::new();
    for inode in found.iter().filter_map(inode) {
        *names.entry(inode).or_insert(0_u32) += 1;
    }
    let mut numbers = std::collections::HashMap::new();
    for found in found {
        let Some(inode) = inode(found) else { continue };
        if names.get(&inode).is_some_and(|count| *count > 1) {
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX - 1) + 1;
            found.entry.hard_link = *numbers.entry(inode).or_insert(next);
        }
    }
}
