//! A chain of snapshots as one directory of the store, where this process may mount nothing: directories are made, files
//! are further names of the snapshots' files. What was changed in it becomes a layer as an overlay would have written it
//! (`changes`).
//!
//! A file must not be changed in place, for it is the snapshot's: file operations replace files. Those of which that
//! cannot be said get copies.

mod changes;
mod stand_ins;

use std::collections::HashMap;
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
pub(crate) use changes::Others;
pub(crate) use stand_ins::StandIns;

const OPAQUE: &[u8] = b"user.overlay.opaque";
const MARKS: &[u8] = b"user.overlay.";

/// What files are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Files {
    /// The snapshots' own: for reading and replacing.
    Linked,
    /// Copies, that may be changed.
    Copied,
    /// For commands: nothing in it is the snapshots', each name has a file of its own, as an overlay would give it one
    /// when it is written to, and what stands for devices can be opened by nobody.
    Private,
}

/// The directory; gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Merged {
    directory: Arc<TemporaryDirectory>,
    files: Files,
    /// What layers say of directories.
    modes: HashMap<PathBuf, u32>,
    before: HashMap<PathBuf, Before>,
    /// In [`Files::Private`].
    devices: Arc<StandIns>,
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
            devices: Arc::default(),
        };
        merged.fill(lowers)?;
        Ok(merged)
    }

    pub(crate) fn root(&self) -> Result<RootDir, Error> {
        let root = RootDir::open_ambient(self.directory.path());
        let root = root.map_err(|error| Error::new("open the merged layers", error))?;
        Ok(root.keeping(Arc::clone(&self.directory)))
    }

    pub(crate) fn stand_ins(&self) -> Arc<StandIns> {
        Arc::clone(&self.devices)
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

    /// Puts another directory over what is remembered: all of it is changes.
    pub(crate) fn over(mut self, upper: &Path) -> Result<Self, Error> {
        let failed = |at: &Path, error: io::Error| {
            let what = format!("merge `{}` of `{}`", at.display(), upper.display());
            Error::new(what, error)
        };
        let root = self.root()?;
        let layer = RootDir::open_ambient(upper).map_err(|error| failed(Path::new(""), error))?;
        let mut modes = HashMap::new();
        self.add(&layer, &root, &mut modes)
            .map_err(|(at, error)| failed(&at, error))?;
        self.modes.extend(modes);
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
        if self.files == Files::Private && is_device(what.kind) {
            return self.stand_in(from, to, name, what);
        }
        let shares =
            self.files == Files::Linked || (self.files == Files::Copied && what.kind != Kind::File);
        if shares {
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

    fn stand_in(
        &self,
        from: &RootDir,
        to: &RootDir,
        name: &OsString,
        what: &Metadata,
    ) -> io::Result<()> {
        let path = Path::new(name);
        self.devices
            .make(to.as_fd(), name, (what.kind, what.device))?;
        let (from, made) = (
            from.node(path, Resolve::Beneath)?,
            to.node(path, Resolve::Beneath)?,
        );
        let like = from.metadata()?;
        made.set_owner(like.uid, like.gid)?;
        made.set_mode(like.mode)?;
        made.set_times(like.mtime, like.mtime)
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

    /// Until a change has another time than anything that is there.
    fn wait_for_later_times(&self) {
        let newest = self.before.values().map(|before| before.there.ctime).max();
        if let Some(newest) = newest {
            wait_until_after(newest);
        }
    }

    /// Takes a directory for what it is now, though its times have changed since they were remembered.
    pub(crate) fn is_still(&mut self, inode: u64, now: &Metadata) {
        let mut directories = self.before.values_mut();
        let same = |before: &&mut Before| {
            before.there.kind == Kind::Directory && before.there.inode == inode
        };
        if let Some(before) = directories.find(same) {
            before.there.ctime = now.ctime;
        }
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

/// Until changes have another time than those that were made just now.
pub(crate) fn wait_for_next_time() {
    wait_until_after(file_time());
}

/// The time that a change of a file gets now.
fn file_time() -> (i64, u32) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    (now.tv_sec, now.tv_nsec as u32)
}

/// A few milliseconds at most.
fn wait_until_after(time: (i64, u32)) {
    for _ in 0..20 {
        if file_time() > time {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn is_device(kind: Kind) -> bool {
    matches!(kind, Kind::CharDevice | Kind::BlockDevice)
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
