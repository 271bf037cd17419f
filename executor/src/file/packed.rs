//! A file operation whose last directory or large file is not written into a snapshot: what comes out is the listing
//! of the layer, and the bytes are read where they come from while the layer is written. An inode a file is most of
//! what COPY costs, and who only wants an image needs none.
//!
//! Directories, and all that comes before the last source, are made through the overlay as always, so that the kernel
//! decides what becomes of what is there already. The files are then added to the listing as the copy would have made
//! them. Where anything is not the usual case (`None` below), the operation is done in the ordinary way.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::root_dir::{Metadata, Resolve, path_of, read_dir};
use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::tree::{Entry, Kind, Tree, is_at_or_below, path_order};
use rbuild_cache::{ActiveSnapshot, RootDir, Snapshot, SnapshotId, owners};
use rustix::fs::{Mode, OFlags};

use super::actions::{Operation, set_time};
use super::attributes::{Attributes, Ids};
use super::data::is_listed;
use super::destination::{self, Making};
use super::tree::{self, changed, source_error, split};
use super::{Action, Copy, Error, Input, Source, io_error};

/// From how much on files are left out: with less of both, the ordinary way is as good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Least {
    pub files: usize,
    pub bytes: u64,
}

impl Default for Least {
    fn default() -> Self {
        Self {
            files: 32,
            bytes: 8 << 20,
        }
    }
}

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

const IN_DIRECTORY: u32 = u32::MAX;

/// What is left to be added to the listing.
pub(super) struct Pending<'a> {
    pub(super) input: &'a Input,
    source: &'a Source,
    attributes: Attributes<'a>,
    /// Where the source is in the root, without a leading slash.
    at: Vec<u8>,
}

/// The last source of the last action, if it is one that can be left out.
fn last<'a>(
    actions: &'a [Action],
    inputs: &'a [Input],
    least: Least,
) -> Option<(&'a Copy, &'a Source, &'a Input)> {
    let Some(Action::Copy(copy)) = actions.last() else {
        return None;
    };
    let source = copy.sources.last()?;
    let input = inputs.get(copy.input)?;
    let (top, below) = source.entries.split_first()?;
    match top.kind {
        Kind::File => {
            let is_usual = top.xattrs.is_empty() && !is_mark(&source.name) && !copy.unpack;
            (is_usual && top.size >= least.bytes).then_some((copy, source, input))
        }
        Kind::Directory => {
            let mut bytes = 0_u64;
            let mut files = 0;
            for entry in below {
                // What the kernel may refuse or change is left to it.
                let is_usual = match entry.kind {
                    Kind::Directory => true,
                    Kind::File | Kind::Symlink => entry.xattrs.is_empty(),
                    _ => false,
                };
                if !is_usual || is_mark(split(&entry.path).1) {
                    return None;
                }
                if entry.kind == Kind::File {
                    files += 1;
                    bytes = bytes.saturating_add(entry.size);
                }
            }
            (files >= least.files || bytes >= least.bytes).then_some((copy, source, input))
        }
        _ => None,
    }
}

/// Layers cannot hold such names; whoever writes the layer of the snapshot says so.
fn is_mark(name: &[u8]) -> bool {
    name.starts_with(b".wh.")
}

/// Does the actions, but for the files of the last source.
pub(super) fn prepare<'a>(
    operation: &Operation<'_>,
    actions: &'a [Action],
    inputs: &'a [Input],
    least: Least,
) -> Result<Option<Pending<'a>>, Error> {
    let Some((copy, source, input)) = last(actions, inputs, least) else {
        return Ok(None);
    };
    for action in actions.iter().take(actions.len() - 1) {
        operation.action(action)?;
    }
    let owner = operation.owner(&copy.owner)?;
    let attributes = Attributes {
        owner,
        mode: copy.mode.as_ref(),
        mtime: copy.mtime,
    };
    if !are_possible(&attributes, &source.entries) {
        return Ok(None);
    }
    for source in copy.sources.iter().take(copy.sources.len() - 1) {
        operation.source(copy, input, source, owner)?;
    }
    let making = Making::of_copy(copy.mode.as_ref(), owner, copy.mtime);
    let top = source.entries.first();
    let at = if top.is_some_and(|top| top.kind == Kind::File) {
        file(operation, copy, source, &attributes, &making)?
    } else {
        directory(operation, copy, source, input, attributes, &making)?
    };
    Ok(at.map(|at| Pending {
        input,
        source,
        attributes,
        at: at
            .as_os_str()
            .as_bytes()
            .strip_prefix(b"/")
            .unwrap_or_default()
            .to_vec(),
    }))
}

/// Whether files can be given these owners.
fn are_possible(attributes: &Attributes<'_>, entries: &[Entry]) -> bool {
    let mut seen: Option<Ids> = None;
    entries.iter().all(|entry| {
        let ids = attributes.owner_of(entry);
        if seen == Some(ids) {
            return true;
        }
        seen = Some(ids);
        owners::is_possible(ids.uid, ids.gid)
    })
}

/// Makes the file without its bytes. Returns where it is.
fn file(
    operation: &Operation<'_>,
    copy: &Copy,
    source: &Source,
    attributes: &Attributes<'_>,
    making: &Making,
) -> Result<Option<PathBuf>, Error> {
    let Some(top) = source.entries.first() else {
        return Ok(None);
    };
    let is_directory = copy.destination_is_directory;
    let target = destination::file(
        operation.root,
        &copy.destination,
        is_directory,
        &source.name,
        making,
    )?;
    target.make_room()?;
    let failed = |action| move |error| (action, error);
    let made = target
        .place
        .create_file(attributes.mode_of(top) & 0o777)
        .map_err(failed("create"))
        .and_then(|file| {
            attributes
                .set_on_file(&file, top)
                .map_err(failed("set the attributes of"))
        });
    made.map_err(|(action, error)| io_error(action, &target.path, error))?;
    Ok(Some(destination::clean(&target.path)))
}

/// Makes the directories. `None` where something is in a file's way.
fn directory(
    operation: &Operation<'_>,
    copy: &Copy,
    source: &Source,
    input: &Input,
    attributes: Attributes<'_>,
    making: &Making,
) -> Result<Option<PathBuf>, Error> {
    let (Some(top), Some(below)) = (source.entries.first(), source.entries.get(1..)) else {
        return Ok(None);
    };
    let to = destination::directory(operation.root, &copy.destination, making)?;
    let request = tree::Request {
        input,
        from: &source.path,
        entries: below,
        implied: &source.implied,
        to: &to,
        shown: &copy.destination,
        attributes,
        cloning: operation.cloning,
        written: None,
        twins: None,
    };
    let failed = |action| move |error| io_error(action, &copy.destination, error);
    let mut old: HashMap<&Path, HashSet<OsString>> = HashMap::new();
    let list = |path: &Path| -> io::Result<HashSet<OsString>> {
        let directory = if path == Path::new("") {
            to.try_clone()?
        } else {
            to.directory(path, Resolve::Beneath)?
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = directory.open(Path::new("."), flags, 0, Resolve::Beneath)?;
        let names = read_dir(directory.as_fd())?.into_iter();
        Ok(names.map(|child| child.name).collect())
    };
    // Before anything is made in it.
    old.insert(Path::new(""), list(Path::new("")).map_err(failed("list"))?);
    let directories = request.make_directories()?;
    for path in request.old(&directories) {
        old.insert(path, list(path).map_err(failed("list"))?);
    }
    for entry in below.iter().filter(|entry| entry.kind != Kind::Directory) {
        let path = request.relative(entry);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        if old.get(parent).is_some_and(|names| names.contains(name)) {
            let there = to
                .metadata(path, Resolve::Beneath)
                .map_err(failed("look up what is in"))?;
            if there.kind == Kind::Directory {
                return Ok(None);
            }
        }
    }
    for directory in directories.iter().rev() {
        request.finish(directory)?;
    }
    // The directory itself keeps mode and owner; its time becomes the source's.
    let mtime = copy.mtime.map_or(top.mtime, |seconds| (seconds, 0));
    set_time(&to, mtime).map_err(failed("set the time of"))?;
    Ok(Some(destination::clean(&copy.destination)))
}

impl Pending<'_> {
    /// The whole listing, and where the bytes of each entry are. Only when nothing is mounted on the upper directory
    /// any more. `None` where the files would not become what they are to be, or be somewhere else.
    pub(super) fn complete(&self, upper: &Path) -> Result<Option<(Tree, Vec<u32>)>, Error> {
        let root = RootDir::open_ambient(upper).map_err(|error| io_error("open", upper, error))?;
        let made = Tree::scan(root.as_fd())?;
        let is_file = self.source.entries.first().map(|top| top.kind) == Some(Kind::File);
        let expected = if is_file { Kind::File } else { Kind::Directory };
        // Where a link was on the way, it is at another path.
        if made.get(&self.at).map(|there| there.kind) != Some(expected) {
            return Ok(None);
        }
        // Files in such a directory are given access lists when they are made.
        let inherits = |entry: &Entry| {
            let named = |(name, _): &(Vec<u8>, _)| name == b"system.posix_acl_default";
            entry.kind == Kind::Directory
                && is_at_or_below(&entry.path, &self.at)
                && entry.xattrs.iter().any(named)
        };
        if !is_file && made.entries.iter().any(inherits) {
            return Ok(None);
        }
        let mut all: Vec<(Entry, u32)> = made
            .entries
            .into_iter()
            .map(|entry| (entry, IN_DIRECTORY))
            .collect();
        if is_file {
            let Some(top) = self.source.entries.first() else {
                return Ok(None);
            };
            for (entry, place) in all.iter_mut().filter(|(entry, _)| entry.path == self.at) {
                (entry.size, entry.content, *place) = (top.size, top.content, 0);
            }
        } else {
            let files = self.source.entries.iter();
            all.reserve_exact(files.filter(|it| it.kind != Kind::Directory).count());
            for (place, entry) in self.source.entries.iter().enumerate().skip(1) {
                let place = u32::try_from(place).ok().filter(|it| *it != IN_DIRECTORY);
                let Some(place) = place else {
                    return Ok(None);
                };
                if entry.kind != Kind::Directory {
                    all.push((self.made(entry), place));
                }
            }
            // Of two with one path the later one is what was copied last.
            all.sort_unstable_by(|(one, place), (other, other_place)| {
                path_order(&one.path, &other.path).then(other_place.cmp(place))
            });
            let mut is_blocked = false;
            all.dedup_by(|later, earlier| {
                let is_same = later.0.path == earlier.0.path;
                if is_same {
                    is_blocked |= earlier.0.kind == Kind::Directory;
                    std::mem::swap(later, earlier);
                }
                is_same
            });
            if is_blocked {
                return Ok(None);
            }
        }
        number_hard_links(&mut all);
        let places = all.iter().map(|(_, place)| *place).collect();
        // In place: there may be very many.
        let entries = all.into_iter().map(|(entry, _)| entry).collect();
        Ok(Some((Tree { entries }, places)))
    }

    /// What a copy of an entry is like.
    fn made(&self, entry: &Entry) -> Entry {
        let prefix = self.source.path.len() + usize::from(!self.source.path.is_empty());
        let relative = entry.path.get(prefix..).unwrap_or_default();
        let path = if self.at.is_empty() {
            relative.to_vec()
        } else {
            [&self.at, b"/".as_slice(), relative].concat()
        };
        let ids = self.attributes.owner_of(entry);
        let is_file = entry.kind == Kind::File;
        Entry {
            mode: if is_file {
                self.attributes.mode_of(entry)
            } else {
                0o777
            },
            uid: ids.uid,
            gid: ids.gid,
            size: if is_file { entry.size } else { 0 },
            mtime: self.attributes.mtime_of(entry),
            content: entry.content,
            target: entry.target.clone(),
            hard_link: if is_file { entry.hard_link } else { 0 },
            ..Entry::new(path, entry.kind)
        }
    }
}

/// Numbers what is one file under several names, as a scan would: in the order of first names.
fn number_hard_links(all: &mut [(Entry, u32)]) {
    let key = |(entry, place): &(Entry, u32)| {
        (entry.hard_link != 0).then_some((*place == IN_DIRECTORY, entry.hard_link))
    };
    let mut names: HashMap<(bool, u32), u32> = HashMap::new();
    for key in all.iter().filter_map(key) {
        *names.entry(key).or_default() += 1;
    }
    let mut numbers: HashMap<(bool, u32), u32> = HashMap::new();
    for one in all {
        let Some(key) = key(one) else { continue };
        one.0.hard_link = if names.get(&key).is_some_and(|names| *names > 1) {
            let next = u32::try_from(numbers.len() + 1).unwrap_or(u32::MAX);
            *numbers.entry(key).or_insert(next)
        } else {
            0
        };
    }
}

impl Packing {
    pub(super) fn new(
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
