//! A layer to be written: its listing, and a reader of the files that were not made.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use rbuild_cache::root_dir::{Metadata, Resolve, path_of};
use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::tree::{Entry, Tree};
use rbuild_cache::{ActiveSnapshot, RootDir, Snapshot, SnapshotId};
use rustix::fs::{Mode, OFlags};

use super::IN_DIRECTORY;
use crate::file::data::is_listed;
use crate::file::tree::{changed, source_error, split};
use crate::file::{Action, Error, Input};

/// Files that a tar has and a listing has, but no directory: to be written into a layer.
#[derive(Debug)]
pub struct Packing {
    active: ActiveSnapshot,
    tree: Tree,
    /// For each entry of the tree where its bytes are: a place in the source's entries, or [`IN_DIRECTORY`].
    places: Vec<u32>,
    actions: Arc<[Action]>,
    input: Input,
    parent: Option<SnapshotId>,
    created: i64,
}

impl Packing {
    pub(in crate::file) fn new(
        (actions, input): (&Arc<[Action]>, Input),
        active: ActiveSnapshot,
        (tree, places): (Tree, Vec<u32>),
        parent: Option<&SnapshotId>,
        created: i64,
    ) -> Self {
        Self {
            active,
            tree,
            places,
            actions: Arc::clone(actions),
            input,
            parent: parent.cloned(),
            created,
        }
    }

    /// All of the layer.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Holds what of it was made already.
    pub fn directory(&self) -> &Path {
        self.active.upper()
    }

    /// Whether the bytes of the entry at a place of the tree are read through a [`Reader`].
    pub fn is_elsewhere(&self, place: usize) -> bool {
        self.places
            .get(place)
            .is_some_and(|place| *place != IN_DIRECTORY)
    }

    /// Reads the files in any order, one after the other.
    pub fn reader(&self) -> Reader<'_> {
        Reader {
            packing: self,
            parent: None,
            buffer: Vec::new(),
        }
    }

    /// Makes the snapshot known; its files are in this layer, which is in the store.
    pub fn commit(self, variant: &str, blob: &LayerBlob) -> Result<Snapshot, Error> {
        let layer = (variant, blob);
        let parent = self.parent.as_ref();
        Ok(self
            .active
            .commit_packed(parent, self.created, self.tree, layer)?)
    }

    fn source(&self, place: usize) -> Option<&Entry> {
        let place = usize::try_from(*self.places.get(place)?).ok()?;
        let Action::Copy(copy) = self.actions.last()? else {
            return None;
        };
        copy.sources.last()?.entries.get(place)
    }
}

/// Reads files one after the other; the directory of the last one stays open.
#[derive(Debug)]
pub struct Reader<'a> {
    packing: &'a Packing,
    parent: Option<(&'a [u8], RootDir)>,
    buffer: Vec<u8>,
}

/// Files are handed over in such pieces.
const PIECE_BYTES: usize = 1 << 20;

impl Reader<'_> {
    /// Hands over exactly the bytes that the tree's entry at `place` speaks of. Errors: `Changed` where they are not
    /// there any more; some may have been handed over then.
    pub fn read(
        &mut self,
        place: usize,
        to: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Error> {
        let packing = self.packing;
        let input = &packing.input;
        let Some(entry) = packing.source(place) else {
            return Err(Error::Refused("there is no such file to copy".to_owned()));
        };
        let (parent, name) = split(&entry.path);
        if self.parent.as_ref().is_none_or(|(path, _)| *path != parent) {
            let directory = input.root.directory(path_of(parent), Resolve::Beneath);
            let directory = directory
                .map_err(|error| source_error("open the directory of", entry, input, error))?;
            self.parent = Some((parent, directory));
        }
        let Some((_, directory)) = &self.parent else {
            return Ok(());
        };
        let failed = |action| move |error| source_error(action, entry, input, error);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name = OsStr::from_bytes(name);
        let file = rustix::fs::openat(directory, name, flags, Mode::empty())
            .map_err(|error| failed("open")(error.into()))?;
        let file = std::fs::File::from(file);
        let before = Metadata::of_fd(file.as_fd()).map_err(failed("look up"))?;
        if !is_listed(&before, entry) {
            return Err(changed(entry));
        }
        let expected = usize::try_from(before.size).unwrap_or(usize::MAX);
        self.buffer
            .resize(expected.saturating_add(1).min(PIECE_BYTES), 0);
        let content = copy(&file, before.size, &mut self.buffer, to).map_err(failed("read"))?;
        // What is the store's own cannot change.
        if input.mutable {
            let after = Metadata::of_fd(file.as_fd()).map_err(failed("look up"))?;
            let is_same = is_listed(&after, entry) && after.ctime == before.ctime;
            if !is_same || content != Some(entry.content) {
                return Err(changed(entry));
            }
        } else if content.is_none() {
            return Err(changed(entry));
        }
        Ok(())
    }
}

/// Hands over a file's bytes; returns their hash, or `None` where there were fewer.
fn copy(
    mut file: &std::fs::File,
    size: u64,
    buffer: &mut [u8],
    to: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Option<[u8; 32]>> {
    let mut hasher = blake3::Hasher::new();
    let mut left = size;
    while left > 0 {
        let wanted = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        match file.read(buffer.get_mut(..wanted).unwrap_or_default()) {
            Ok(0) => return Ok(None),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                hasher.update(bytes);
                to(bytes)?;
                left -= count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(*hasher.finalize().as_bytes()))
}
