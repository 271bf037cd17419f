//! Copies what is below a directory: first the directories in order, then everything else in parallel, then hard
//! links, and last the attributes of the directories, which must not change any more.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use rbuild_cache::RootDir;
use rbuild_cache::owners;
use rbuild_cache::root_dir::{Metadata, Node, Resolve, path_of};
use rbuild_cache::tree::{Entry, Kind, Written};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::Attributes;
use super::data::{self, Cloning};
use super::twins::Twins;
use super::{Error, Input, io_error};

/// So many files are one piece of work. Each piece holds four descriptors at most.
const BATCH_FILES: usize = 64;

#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) input: &'a Input,
    /// The directory in the input that `entries` are below.
    pub(super) from: &'a [u8],
    /// In tree order, without the directory itself.
    pub(super) entries: &'a [Entry],
    /// Places of directories that only came along, counted with the directory itself as place 0.
    pub(super) implied: &'a [usize],
    pub(super) to: &'a RootDir,
    /// What `to` is called in messages.
    pub(super) shown: &'a Path,
    pub(super) attributes: Attributes<'a>,
    pub(super) cloning: &'a Cloning,
    /// Where `to` is no overlay: takes down which files need not be read again.
    pub(super) written: Option<&'a Mutex<Written>>,
    /// Files that are shared instead of copied; with `written`.
    pub(super) twins: Option<&'a Twins>,
}

/// A directory of the copy.
pub(super) struct Directory {
    /// In the request's entries.
    pub(super) place: usize,
    is_implied: bool,
    /// It was there before.
    pub(super) is_old: bool,
}

/// What is to be made in directories that are there.
#[derive(Default)]
pub(super) struct Work<'a> {
    pub(super) files: Vec<&'a Entry>,
    /// Further names, each with the first.
    pub(super) links: Vec<(&'a Entry, &'a Entry)>,
}

impl<'a> Work<'a> {
    pub(super) fn of(entries: &'a [Entry]) -> Self {
        let mut work = Self::default();
        let mut first_names = HashMap::new();
        for entry in entries {
            if entry.kind == Kind::Directory {
                continue;
            }
            if entry.kind == Kind::File && entry.hard_link != 0 {
                let first: &Entry = first_names.entry(entry.hard_link).or_insert(entry);
                if !std::ptr::eq(first, entry) {
                    work.links.push((first, entry));
                    continue;
                }
            }
            work.files.push(entry);
        }
        work
    }
}

pub(super) fn copy(request: &Request<'_>) -> Result<(), Error> {
    let directories = request.make_directories()?;
    fill(request, &Work::of(request.entries), &directories)
}

/// Does the work, and gives directories that will not change any more their attributes.
pub(super) fn fill(
    request: &Request<'_>,
    work: &Work<'_>,
    directories: &[Directory],
) -> Result<(), Error> {
    if work.files.len() <= BATCH_FILES {
        // Others would have to be made, or woken, for one of them to do it.
        request.batch(work.files.as_slice(), &mut Vec::new())?;
    } else {
        work.files
            .par_chunks(BATCH_FILES)
            .try_for_each_init(Vec::new, |buffer, files| request.batch(files, buffer))?;
    }
    for (first, entry) in &work.links {
        request.link(first, entry)?;
    }
    // What is below first: making things in a directory changes its time.
    for directory in directories.iter().rev() {
        request.finish(directory)?;
    }
    Ok(())
}

impl Request<'_> {
    /// Relative to both directories.
    pub(super) fn relative<'e>(&self, entry: &'e Entry) -> &'e Path {
        let prefix = self.from.len() + usize::from(!self.from.is_empty());
        path_of(entry.path.get(prefix..).unwrap_or_default())
    }

    fn shown(&self, entry: &Entry) -> std::path::PathBuf {
        self.shown.join(self.relative(entry))
    }

    pub(super) fn make_directories(&self) -> Result<Vec<Directory>, Error> {
        let mut directories = Vec::new();
        let mut implied = self.implied.iter().peekable();
        for (index, entry) in self.entries.iter().enumerate() {
            // The source's own entry is place 0 of the list that `implied` counts in.
            let is_implied = implied.next_if(|place| **place == index + 1).is_some();
            if entry.kind != Kind::Directory {
                continue;
            }
            let failed = |error| io_error("make the directory", &self.shown(entry), error);
            let place = self
                .to
                .place(self.relative(entry), Resolve::Beneath)
                .map_err(failed)?;
            let is_old = match rustix::fs::mkdirat(
                place.directory(),
                place.name(),
                Mode::from_raw_mode(0o700),
            ) {
                Ok(()) => false,
                Err(Errno::EXIST) => true,
                Err(error) => return Err(failed(error.into())),
            };
            if is_old && place.metadata().map_err(failed)?.kind != Kind::Directory {
                return Err(Error::Refused(format!(
                    "cannot copy the directory `{}` to `{}`: there is something else already, and it is not a \
                     directory",
                    String::from_utf8_lossy(&entry.path),
                    self.shown(entry).display()
                )));
            }
            directories.push(Directory {
                place: index,
                is_implied,
                is_old,
            });
        }
        Ok(directories)
    }

    /// Those of the directories that were there before, relative to both.
    pub(super) fn old<'r>(
        &'r self,
        directories: &'r [Directory],
    ) -> impl Iterator<Item = &'r Path> {
        let old = directories.iter().filter(|directory| directory.is_old);
        let entries = old.filter_map(|directory| self.entries.get(directory.place));
        entries.map(|entry| self.relative(entry))
    }

    fn batch(&self, files: &[&Entry], buffer: &mut Vec<u8>) -> Result<(), Error> {
        let mut parents: Option<(&[u8], RootDir, RootDir, Option<RootDir>)> = None;
        let mut written = Vec::new();
        for entry in files {
            let (parent, name) = split(&entry.path);
            if parents.as_ref().is_none_or(|(path, ..)| *path != parent) {
                let from = self
                    .input
                    .root
                    .directory(path_of(parent), Resolve::Beneath)
                    .map_err(|error| {
                        source_error("open the directory of", entry, self.input, error)
                    })?;
                let shown = self.relative(entry).parent().unwrap_or(Path::new(""));
                let to = self
                    .to
                    .directory(shown, Resolve::Beneath)
                    .map_err(|error| io_error("open", &self.shown.join(shown), error))?;
                let twins = self.twins.and_then(|twins| twins.directory(shown));
                parents = Some((parent, from, to, twins));
            }
            let Some((_, from, to, twins)) = &parents else {
                continue;
            };
            let one = One {
                entry,
                from: from.as_fd(),
                to: to.as_fd(),
                name: OsStr::from_bytes(name),
                is_mutable: self.input.mutable,
                attributes: &self.attributes,
                cloning: self.cloning,
            };
            let shared = self.twins.zip(twins.as_ref()).and_then(|(all, directory)| {
                let what = (*entry, one.attributes);
                all.link(
                    self.relative(entry),
                    directory.as_fd(),
                    one.to,
                    one.name,
                    what,
                )
            });
            let copied = match shared {
                Some(metadata) => is_plain(&one).then_some(metadata),
                None => copy_one(&one, buffer)
                    .map_err(|failure| failure.at(entry, &self.shown(entry)))?,
            };
            if let Some(metadata) = copied
                && self.written.is_some()
            {
                written.push((metadata, entry.content));
            }
        }
        if let Some(all) = self.written {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            for (metadata, content) in &written {
                all.add(metadata, *content);
            }
        }
        Ok(())
    }

    fn link(&self, first: &Entry, entry: &Entry) -> Result<(), Error> {
        let failed = |error| io_error("make the hard link", &self.shown(entry), error);
        let existing = self
            .to
            .place(self.relative(first), Resolve::Beneath)
            .map_err(failed)?;
        let place = self
            .to
            .place(self.relative(entry), Resolve::Beneath)
            .map_err(failed)?;
        match existing.hard_link(&place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                remove_file(place.directory(), place.name())
                    .map_err(|failure| failure.at(entry, &self.shown(entry)))?;
                existing.hard_link(&place).map_err(failed)
            }
            result => result.map_err(failed),
        }
    }

    pub(super) fn finish(&self, directory: &Directory) -> Result<(), Error> {
        let Some(entry) = self.entries.get(directory.place) else {
            return Ok(());
        };
        let node = self.to.node(self.relative(entry), Resolve::Beneath);
        let result = node.and_then(|node| {
            if directory.is_implied && directory.is_old {
                node.set_mode(entry.mode)
            } else {
                self.attributes.set_on_node(&node, entry)
            }
        });
        result.map_err(|error| io_error("set the attributes of", &self.shown(entry), error))
    }
}

/// One thing that is not a directory, and where it goes.
pub(super) struct One<'a> {
    pub(super) entry: &'a Entry,
    /// The directory that holds it.
    pub(super) from: BorrowedFd<'a>,
    /// The directory that shall hold it, and the name there.
    pub(super) to: BorrowedFd<'a>,
    pub(super) name: &'a OsStr,
    pub(super) is_mutable: bool,
    pub(super) attributes: &'a Attributes<'a>,
    pub(super) cloning: &'a Cloning,
}

/// Why one thing was not copied.
pub(super) enum Failure {
    /// The source is not what the tree says.
    Changed,
    Source(&'static str, io::Error),
    Target(&'static str, io::Error),
    /// A directory is in the way.
    Directory,
    /// Would mean something else in an overlay.
    WhiteoutDevice,
}

impl Failure {
    pub(super) fn at(self, entry: &Entry, target: &Path) -> Error {
        let source_path = || String::from_utf8_lossy(&entry.path).into_owned();
        match self {
            Self::Changed => changed(entry),
            Self::Source(action, source) => Error::Io {
                action,
                path: source_path(),
                source,
            },
            Self::Target(action, source) => io_error(action, target, source),
            Self::Directory => Error::Refused(format!(
                "cannot copy `{}` to `{}`: there is a directory already",
                source_path(),
                target.display()
            )),
            Self::WhiteoutDevice => Error::Refused(format!(
                "cannot copy `{}`: a character device 0:0 marks a removed file and cannot be in an image",
                source_path()
            )),
        }
    }
}

pub(super) fn changed(entry: &Entry) -> Error {
    Error::Changed(String::from_utf8_lossy(&entry.path).into_owned())
}

/// An error of opening or reading a source: of a mutable input it means that somebody changed it.
pub(super) fn source_error(
    action: &'static str,
    entry: &Entry,
    input: &Input,
    error: io::Error,
) -> Error {
    if input.mutable && is_vanished(&error) {
        changed(entry)
    } else {
        io_error(action, path_of(&entry.path), error)
    }
}

fn is_vanished(error: &io::Error) -> bool {
    rbuild_cache::root_dir::is_absence(error)
        || error.kind() == io::ErrorKind::InvalidInput
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Copies one thing under its new name, which takes the place of anything but a directory. Returns what a file is
/// like that certainly has the bytes that the tree says, and no attributes.
pub(super) fn copy_one(one: &One<'_>, buffer: &mut Vec<u8>) -> Result<Option<Metadata>, Failure> {
    let entry = one.entry;
    match entry.kind {
        Kind::File => copy_file(one, buffer),
        Kind::Symlink => {
            let link = || rustix::fs::symlinkat(entry.target.as_slice(), one.to, one.name);
            replacing(one, link)?;
            one.finish_node().map(|()| None)
        }
        Kind::CharDevice if entry.device == 0 => Err(Failure::WhiteoutDevice),
        Kind::CharDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket => {
            let (kind, device) = match entry.kind {
                Kind::CharDevice => (FileType::CharacterDevice, entry.device),
                Kind::BlockDevice => (FileType::BlockDevice, entry.device),
                Kind::Fifo => (FileType::Fifo, 0),
                _ => (FileType::Socket, 0),
            };
            let mode = Mode::from_raw_mode(0o600);
            let stands_for = owners::devices_recorded() && device != 0;
            replacing(one, || {
                if stands_for {
                    return owners::make_device(one.to, one.name, entry.kind, device)
                        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
                }
                rustix::fs::mknodat(one.to, one.name, kind, mode, device)
            })?;
            one.finish_node().map(|()| None)
        }
        // Neither is ever selected: directories have their own way, whiteouts are not in merged trees.
        Kind::Directory | Kind::Whiteout => Ok(None),
    }
}

fn copy_file(one: &One<'_>, buffer: &mut Vec<u8>) -> Result<Option<Metadata>, Failure> {
    let (_, source_name) = split(&one.entry.path);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(one.from, source_name, flags, Mode::empty());
    let from: std::fs::File = match opened {
        Ok(file) => file.into(),
        Err(error) if one.is_mutable && is_vanished(&error.into()) => return Err(Failure::Changed),
        Err(error) => return Err(Failure::Source("open", error.into())),
    };
    let metadata =
        Metadata::of_fd(from.as_fd()).map_err(|error| Failure::Source("look up", error))?;
    if metadata.kind != Kind::File {
        return Err(Failure::Changed);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // With its own permissions at once: the usual file then needs no change of mode.
    let mode = Mode::from_raw_mode(one.attributes.mode_of(one.entry) & 0o777);
    let to: std::fs::File =
        replacing(one, || rustix::fs::openat(one.to, one.name, flags, mode))?.into();
    let is_mutable = one.is_mutable;
    let copied = data::copy(
        &from,
        &metadata,
        &to,
        one.entry,
        is_mutable,
        one.cloning,
        buffer,
    );
    copied.map_err(|failure| match failure {
        data::Failure::Changed => Failure::Changed,
        data::Failure::Io(error) => Failure::Target("write", error),
    })?;
    let made = one
        .attributes
        .set_on_file(&to, one.entry)
        .map_err(|error| Failure::Target("set the attributes of", error))?;
    // What can change is hashed on the way only where it is small.
    let is_certain = !is_mutable || metadata.size <= data::SMALL_BYTES;
    Ok((is_certain && is_plain(one)).then_some(made))
}

/// Whether a file has no attributes on the disk. An owner that is written down is one, too.
fn is_plain(one: &One<'_>) -> bool {
    let ids = one.attributes.owner_of(one.entry);
    one.entry.xattrs.is_empty() && !(owners::recorded() && (ids.uid, ids.gid) != (0, 0))
}

impl One<'_> {
    fn finish_node(&self) -> Result<(), Failure> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.to, self.name, flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|fd| self.attributes.set_on_node(&Node::from_fd(fd), self.entry))
            .and_then(|()| {
                // A link's owner is written down by name.
                let ids = self.attributes.owner_of(self.entry);
                if owners::recorded() {
                    owners::set_at(self.to, self.name, ids.uid, ids.gid)
                } else {
                    Ok(())
                }
            })
            .map_err(|error| Failure::Target("set the attributes of", error))
    }
}

/// Makes something; what has the name already is removed first, unless it is a directory.
fn replacing<T>(one: &One<'_>, make: impl Fn() -> rustix::io::Result<T>) -> Result<T, Failure> {
    match make() {
        Err(Errno::EXIST) => {
            remove_file(one.to, one.name)?;
            make().map_err(|error| Failure::Target("make", error.into()))
        }
        result => result.map_err(|error| Failure::Target("make", error.into())),
    }
}

fn remove_file(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Failure> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(Failure::Directory),
        Err(error) => Err(Failure::Target("replace", error.into())),
    }
}

/// Parent and name of a tree's path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (
            path.get(..at).unwrap_or_default(),
            path.get(at + 1..).unwrap_or_default(),
        ),
        None => (b"", path),
    }
}
