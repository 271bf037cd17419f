//! A file operation whose last directory or large file is not written into a snapshot: what comes out is the listing
//! of the layer, and the bytes are read where they come from while the layer is written. An inode a file is most of
//! what COPY costs, and who only wants an image needs none.
//!
//! Directories, and all that comes before the last source, are made through the overlay as always, so that the kernel
//! decides what becomes of what is there already. The files are then added to the listing as the copy would have made
//! them (`listing`); `packing` reads them for the layer. Where anything is not the usual case (`None` below), the
//! operation is done in the ordinary way.

mod listing;
mod packing;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::owners;
use rbuild_cache::root_dir::{Resolve, read_dir};
use rbuild_cache::tree::{Entry, Kind};
use rustix::fs::OFlags;

use super::actions::{Operation, set_time};
use super::attributes::{Attributes, Ids};
use super::destination::{self, Making};
use super::tree::{self, split};
use super::{Action, Copy, Error, Input, Source, io_error};
pub use packing::{Packing, Reader};

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

/// In place of a place in the source's entries: the bytes are in the layer's own directory.
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
