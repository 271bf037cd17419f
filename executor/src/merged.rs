//! A chain of snapshots as one directory of the store, where this process may mount nothing: directories are made, files
//! are further names of the snapshots' files. What was changed in it becomes a layer as an overlay would have written it.
//!
//! A file must not be changed in place, for it is the snapshot's: file operations replace files. Those of which that
//! cannot be said get copies.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::root_dir::{Metadata, Resolve, read_dir, remove_tree_at};
use rbuild_cache::tree::Kind;
use rbuild_cache::{RootDir, Store, TemporaryDirectory, owners};
use rustix::fs::AtFlags;

use crate::overlay::Error;
use crate::sandbox::copy::{How, Owners, copy_entry};

const OPAQUE: &[u8] = b"user.overlay.opaque";
const MARKS: &[u8] = b"user.overlay.";

/// What files are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Files {
    /// The snapshots' own: for reading and replacing.
    Linked,
    /// Copies, that may be changed.
    Copied,
}

/// The directory; gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Merged {
    directory: Arc<TemporaryDirectory>,
    files: Files,
    /// What layers say of directories.
    modes: HashMap<PathBuf, u32>,
    before: HashMap<PathBuf, Before>,
}

/// What something was at first.
#[derive(Debug)]
struct Before {
    there: Metadata,
    /// As the layers have it.
    mode: u32,
    /// In a directory.
    names: Vec<OsString>,
}

impl Merged {
    /// `lowers`: top first.
    pub(crate) fn of(store: &Store, lowers: &[PathBuf], files: Files) -> Result<Self, Error> {
        let directory = store
            .temporary_directory()
            .map_err(|error| Error::new("make a directory to merge layers in", error))?;
        let mut merged = Self {
            directory: Arc::new(directory),
            files,
            modes: HashMap::new(),
            before: HashMap::new(),
        };
        merged.fill(lowers)?;
        Ok(merged)
    }

    pub(crate) fn root(&self) -> Result<RootDir, Error> {
        let root = RootDir::open_ambient(self.directory.path());
        let root = root.map_err(|error| Error::new("open the merged layers", error))?;
        Ok(root.keeping(Arc::clone(&self.directory)))
    }

    fn fill(&mut self, lowers: &[PathBuf]) -> Result<(), Error> {
        let root = self.root()?;
        let mut modes = HashMap::new();
        for lower in lowers.iter().rev() {
            let failed = |at: &Path, error: io::Error| {
                Error::new(
                    format!("merge `{}` of `{}`", at.display(), lower.display()),
                    error,
                )
            };
            let layer =
                RootDir::open_ambient(lower).map_err(|error| failed(Path::new(""), error))?;
            self.add(&layer, &root, &mut modes)
                .map_err(|(at, error)| failed(&at, error))?;
        }
        self.modes = modes;
        Ok(())
    }

    /// Remembers what is there, so that changes can be told.
    pub(crate) fn watched(mut self) -> Result<Self, Error> {
        let root = self.root()?;
        self.remember(&root)
            .map_err(|error| Error::new("list the merged layers", error))?;
        Ok(self)
    }

    /// Puts a layer over what is there.
    fn add(
        &self,
        layer: &RootDir,
        root: &RootDir,
        modes: &mut HashMap<PathBuf, u32>,
    ) -> Result<(), (PathBuf, io::Error)> {
        let mut pending = vec![PathBuf::new()];
        let mut directories = Vec::new();
        while let Some(path) = pending.pop() {
            let added = self.add_directory(layer, root, &path, &mut pending);
            added.map_err(|error| (path.clone(), error))?;
            directories.push(path);
        }
        for path in directories.into_iter().rev() {
            let dressed = dress(layer, root, &path, None);
            modes.insert(path.clone(), dressed.map_err(|error| (path, error))?);
        }
        Ok(())
    }

    fn add_directory(
        &self,
        layer: &RootDir,
        root: &RootDir,
        path: &Path,
        pending: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        let (from, to) = (
            layer.directory(path, Resolve::Beneath)?,
            root.directory(path, Resolve::Beneath)?,
        );
        let mut copies: HashMap<u64, OsString> = HashMap::new();
        for entry in read_dir(from.as_fd())? {
            let name = &entry.name;
            let new = Metadata::at(from.as_fd(), name)?;
            let old = metadata(&to, name)?;
            let is_directory = new.kind == Kind::Directory;
            let stays = is_directory
                && old.is_some_and(|old| old.kind == Kind::Directory)
                && !is_opaque(&from, name)?;
            if old.is_some() && !stays {
                remove_tree_at(to.as_fd(), name)?;
            }
            if is_directory {
                if !stays {
                    rustix::fs::mkdirat(to.as_fd(), name, rustix::fs::Mode::RWXU)?;
                }
                pending.push(path.join(name));
            } else if !is_whiteout(&new) {
                let first = (new.links > 1).then(|| copies.get(&new.inode)).flatten();
                match first {
                    Some(first) if self.files == Files::Copied => {
                        let flags = AtFlags::empty();
                        rustix::fs::linkat(to.as_fd(), first, to.as_fd(), name, flags)?;
                    }
                    _ => self.file(&from, &to, name, &new)?,
                }
                copies.insert(new.inode, name.clone());
            }
        }
        Ok(())
    }

    fn file(
        &self,
        from: &RootDir,
        to: &RootDir,
        name: &OsString,
        what: &Metadata,
    ) -> io::Result<()> {
        if self.files == Files::Linked || what.kind != Kind::File {
            let flags = AtFlags::empty();
            match rustix::fs::linkat(from.as_fd(), name, to.as_fd(), name, flags) {
                // It has as many names as the file system gives.
                Err(rustix::io::Errno::MLINK) => {}
                linked => return Ok(linked?),
            }
        }
        let name = CString::new(name.as_bytes())?;
        let stat = rustix::fs::statat(from.as_fd(), &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let (from, to) = (from.as_fd(), to.as_fd());
        Ok(copy_entry(
            from,
            &name,
            to,
            &name,
            &stat,
            How::with(Owners::Kept),
        )?)
    }

    fn remember(&mut self, root: &RootDir) -> io::Result<()> {
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let directory = root.directory(&path, Resolve::Beneath)?;
            let mut names = Vec::new();
            for entry in read_dir(directory.as_fd())? {
                let there = Metadata::at(directory.as_fd(), &entry.name)?;
                let child = path.join(&entry.name);
                names.push(entry.name);
                if there.kind == Kind::Directory {
                    pending.push(child);
                } else {
                    self.before.insert(child, Before::of(&there, there.mode));
                }
            }
            let there = Metadata::of_fd(directory.as_fd())?;
            let mode = self.modes.get(&path).copied().unwrap_or(there.mode);
            let mut before = Before::of(&there, mode);
            before.names = names;
            self.before.insert(path, before);
        }
        self.wait_for_later_times();
        Ok(())
    }

    /// Until a change has another time than anything that is there: a few milliseconds at most.
    fn wait_for_later_times(&self) {
        let newest = self.before.values().map(|before| before.there.ctime).max();
        let is_later = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
            newest.is_none_or(|newest| (now.tv_sec, now.tv_nsec as u32) > newest)
        };
        for _ in 0..20 {
            if is_later() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Moves what was made since into an empty layer, and marks what was removed.
    pub(crate) fn into_layer(self, upper: &Path) -> Result<(), Error> {
        let root = self.root()?;
        let moved = RootDir::open_ambient(upper).and_then(|layer| self.take_changes(&root, &layer));
        moved.map_err(|error| Error::new("find out what was changed in the merged layers", error))
    }

    fn take_changes(&self, root: &RootDir, layer: &RootDir) -> io::Result<()> {
        let mut made = Made {
            layer,
            set: HashSet::new(),
            order: Vec::new(),
        };
        // The root is there, and is what the root is.
        made.set.insert(PathBuf::new());
        made.order.push(PathBuf::new());
        let mut seen = HashMap::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let node = root.node(&path, Resolve::Beneath)?;
            let now = node.metadata()?;
            if now.mode & 0o700 != 0o700 {
                node.set_mode(now.mode | 0o700)?;
            }
            let directory = node.into_root();
            let was = self.before.get(&path);
            let same = was.filter(|was| was.there.inode == now.inode);
            if !same.is_some_and(|same| same.is(&now)) {
                made.ensure(&path)?;
                if was.is_some() && same.is_none() {
                    layer
                        .node(&path, Resolve::Beneath)?
                        .set_xattr(OPAQUE, b"y")?;
                }
            }
            let mut names = HashSet::new();
            for entry in read_dir(directory.as_fd())? {
                let there = Metadata::at(directory.as_fd(), &entry.name)?;
                let child = path.join(&entry.name);
                names.insert(entry.name.clone());
                if there.kind == Kind::Directory {
                    pending.push(child);
                } else if !self.is_unchanged(&child, &there) {
                    made.ensure(&path)?;
                    let to = layer.place(&child, Resolve::Beneath)?;
                    rustix::fs::renameat(
                        directory.as_fd(),
                        &entry.name,
                        to.directory(),
                        to.name(),
                    )?;
                }
            }
            let before = same.map_or(&[][..], |same| same.names.as_slice());
            for name in before.iter().filter(|name| !names.contains(*name)) {
                made.ensure(&path)?;
                let gone = layer.place(&path.join(name), Resolve::Beneath)?;
                gone.make_node(Kind::Whiteout, 0, 0)?;
            }
            let mode = match same {
                Some(same) if now.mode == workable(same.mode) => same.mode,
                _ => now.mode,
            };
            seen.insert(path, (mode, now.mtime));
        }
        for path in made.order.iter().rev() {
            dress(root, layer, path, seen.get(path).copied())?;
        }
        Ok(())
    }

    fn is_unchanged(&self, path: &Path, now: &Metadata) -> bool {
        self.before.get(path).is_some_and(|before| {
            // Further names, of other processes' merged layers, change a time of what is not written to here.
            match (self.files, now.kind) {
                (Files::Copied, Kind::File) => before.is(now),
                _ => before.there.inode == now.inode,
            }
        })
    }
}

impl Before {
    fn of(there: &Metadata, mode: u32) -> Self {
        Self {
            there: *there,
            mode,
            names: Vec::new(),
        }
    }

    /// Whether it is what it was. `ctime` says all of it but where two changes have one time.
    fn is(&self, now: &Metadata) -> bool {
        let of = |it: &Metadata| (it.inode, it.ctime, it.mtime, it.mode, it.uid, it.gid);
        of(&self.there) == of(now)
    }
}

/// Directories of the layer that there are by now.
struct Made<'a> {
    layer: &'a RootDir,
    set: HashSet<PathBuf>,
    order: Vec<PathBuf>,
}

impl Made<'_> {
    fn ensure(&mut self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|ancestor| !self.set.contains(*ancestor))
            .collect();
        for directory in missing.into_iter().rev() {
            self.layer.create_dir(directory, 0o700, Resolve::Beneath)?;
            self.set.insert(directory.to_owned());
            self.order.push(directory.to_owned());
        }
        Ok(())
    }
}

/// With what this process needs to work in a directory, where its capabilities do not do.
fn workable(mode: u32) -> u32 {
    if owners::limited() {
        mode | 0o700
    } else {
        mode
    }
}

fn metadata(directory: &RootDir, name: &OsString) -> io::Result<Option<Metadata>> {
    match Metadata::at(directory.as_fd(), name) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_whiteout(what: &Metadata) -> bool {
    what.kind == Kind::CharDevice && what.device == 0
}

fn is_opaque(parent: &RootDir, name: &OsString) -> io::Result<bool> {
    let node = parent.node(Path::new(name), Resolve::Beneath)?;
    Ok(node.xattr(OPAQUE)?.as_deref() == Some(b"y"))
}

/// Gives a directory owner, mode, times and attributes of the one at the same path of another root, and returns its mode.
/// `taken`: mode and time that it had.
fn dress(
    from: &RootDir,
    to: &RootDir,
    path: &Path,
    taken: Option<(u32, (i64, u32))>,
) -> io::Result<u32> {
    let (from, to) = (
        from.node(path, Resolve::Beneath)?,
        to.node(path, Resolve::Beneath)?,
    );
    let like = from.metadata()?;
    let (mode, mtime) = taken.unwrap_or((like.mode, like.mtime));
    let copied = |name: &Vec<u8>| !name.starts_with(MARKS) && !name.starts_with(b"security.");
    let names = from.xattr_names()?;
    let names: Vec<Vec<u8>> = names.into_iter().filter(copied).collect();
    for old in to.xattr_names()?.into_iter().filter(copied) {
        if !names.contains(&old) {
            to.remove_xattr(&old)?;
        }
    }
    for name in &names {
        if let Some(value) = from.xattr(name)? {
            to.set_xattr(name, &value)?;
        }
    }
    // Where owners are written down, that was an attribute.
    if !owners::recorded() {
        to.set_owner(like.uid, like.gid)?;
    }
    to.set_mode(if taken.is_some() {
        mode
    } else {
        workable(mode)
    })?;
    to.set_times(mtime, mtime)?;
    Ok(mode)
}
