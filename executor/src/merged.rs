//! A chain of snapshots as one directory of the store, where this process may mount nothing: directories are made, files
//! are further names of the snapshots' files. What was changed in it becomes a layer as an overlay would have written it.
//!
//! A file must not be changed in place, for it is the snapshot's: file operations replace files. Those of which that
//! cannot be said get copies.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::root_dir::{Metadata, Place, Resolve, read_dir, remove_tree_at};
use rbuild_cache::tree::Kind;
use rbuild_cache::{RootDir, Store, TemporaryDirectory, owners};
use rustix::fs::{AtFlags, OFlags};

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
    /// For commands: nothing in it is the snapshots', each name has a file of its own, as an overlay would give it one
    /// when it is written to, and what stands for devices can be opened by nobody.
    Private,
}

/// What stands for devices.
#[derive(Debug, Default)]
pub(crate) struct StandIns {
    /// By inode number. They are held open, so that no number is another's later.
    known: Mutex<HashMap<u64, (Kind, u64, OwnedFd)>>,
}

/// Those that are held open at most.
const MOST_STAND_INS: usize = 4096;

impl StandIns {
    /// A socket in place of a device: whatever the container lets its root open, a command does not.
    pub(crate) fn make(
        &self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        (kind, device): (Kind, u64),
    ) -> io::Result<Metadata> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_STAND_INS {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(directory, name, rustix::fs::FileType::Socket, mode, 0)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(directory, name, flags, rustix::fs::Mode::empty())?;
        let what = Metadata::of_fd(made.as_fd())?;
        known.insert(what.inode, (kind, device, made));
        Ok(what)
    }

    /// Kind and number of the device that something stands for.
    fn device(&self, what: &Metadata) -> Option<(Kind, u64)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, device, _) = known.get(&what.inode)?;
        (what.kind == Kind::Socket).then_some((*kind, *device))
    }
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

    /// Moves what was made since into an empty layer, and marks what was removed.
    pub(crate) fn into_layer(self, upper: &Path) -> Result<(), Error> {
        self.changes_into(upper, None)
    }

    /// As [`Self::into_layer`], of copies, and without what others put there. It may be changed meanwhile.
    pub(crate) fn copy_changes(&self, upper: &Path, others: &Others) -> Result<(), Error> {
        self.changes_into(upper, Some(others))
    }

    fn changes_into(&self, upper: &Path, others: Option<&Others>) -> Result<(), Error> {
        let root = self.root()?;
        let layer = RootDir::open_ambient(upper);
        let moved = layer.and_then(|layer| self.take_changes(&root, &layer, others));
        moved.map_err(|error| Error::new("find out what was changed in the merged layers", error))
    }

    /// `others`: copies, and what is not copied.
    fn take_changes(
        &self,
        root: &RootDir,
        layer: &RootDir,
        others: Option<&Others>,
    ) -> io::Result<()> {
        let mut made = Made {
            layer,
            set: HashSet::new(),
            order: Vec::new(),
        };
        // The root is there, and is what the root is.
        made.set.insert(PathBuf::new());
        made.order.push(PathBuf::new());
        let mut seen = HashMap::new();
        let mut linked: HashMap<u64, (u32, Vec<PathBuf>)> = HashMap::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let node = match root.node(&path, Resolve::Beneath) {
                Err(error) if others.is_some() && is_gone(&error) => continue,
                node => node?,
            };
            let now = node.metadata()?;
            if others.is_some() && now.kind != Kind::Directory {
                continue;
            }
            if now.mode & 0o700 != 0o700 && self.files != Files::Private {
                node.set_mode(now.mode | 0o700)?;
            }
            let directory = node.into_root();
            let was = self.before.get(&path);
            let same = was.filter(|was| was.there.inode == now.inode);
            let is_still = others.is_some_and(|others| others.left_still(&now));
            if !is_still && !same.is_some_and(|same| same.is(&now)) {
                made.ensure(&path)?;
                if was.is_some() && same.is_none() {
                    layer
                        .node(&path, Resolve::Beneath)?
                        .set_xattr(OPAQUE, b"y")?;
                }
            }
            let mut names = HashSet::new();
            for entry in read_dir(directory.as_fd())? {
                let there = match Metadata::at(directory.as_fd(), &entry.name) {
                    Err(error) if others.is_some() && is_gone(&error) => continue,
                    there => there?,
                };
                let child = path.join(&entry.name);
                // A command cannot say by itself that something is gone.
                if is_whiteout(&there) {
                    continue;
                }
                names.insert(entry.name.clone());
                if others.is_some_and(|others| others.put(&there)) {
                    continue;
                }
                if there.kind == Kind::Directory {
                    pending.push(child);
                } else if !self.is_unchanged(&child, &there) {
                    made.ensure(&path)?;
                    let to = layer.place(&child, Resolve::Beneath)?;
                    if let Some((kind, number)) = self.devices.device(&there) {
                        to.make_node(kind, there.mode, number)?;
                        let device = to.node()?;
                        device.set_owner(there.uid, there.gid)?;
                        device.set_times(there.mtime, there.mtime)?;
                        continue;
                    }
                    if there.links > 1 && self.files == Files::Private {
                        let (links, paths) = linked.entry(there.inode).or_default();
                        *links = there.links;
                        paths.push(child.clone());
                    }
                    if others.is_some() {
                        let copied = copy_to(&directory, &entry.name, &to);
                        match copied {
                            Err(error) if is_gone(&error) => continue,
                            copied => copied?,
                        }
                    } else {
                        rustix::fs::renameat(
                            directory.as_fd(),
                            &entry.name,
                            to.directory(),
                            to.name(),
                        )?;
                    }
                    if self.files == Files::Private && there.kind == Kind::File {
                        let node = to.node()?;
                        for mark in node
                            .xattr_names()?
                            .iter()
                            .filter(|name| name.starts_with(MARKS))
                        {
                            node.remove_xattr(mark)?;
                        }
                    }
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
        for (links, paths) in linked.values() {
            if others.is_some() {
                link_together(layer, paths)?;
            } else if paths.len() as u32 != *links {
                separate(layer, paths)?;
            }
        }
        for path in made.order.iter().rev() {
            match dress(root, layer, path, seen.get(path).copied()) {
                Err(error) if others.is_some() && is_gone(&error) => {}
                dressed => drop(dressed?),
            }
        }
        Ok(())
    }

    fn is_unchanged(&self, path: &Path, now: &Metadata) -> bool {
        self.before.get(path).is_some_and(|before| {
            // Further names, of other processes' merged layers, change a time of what is not written to here.
            match (self.files, now.kind) {
                (Files::Private, _) | (Files::Copied, Kind::File) => before.is(now),
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

/// What of a tree is not the command's: what was put into it for a while, and the directories that this changed.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// File systems and inode numbers.
    pub(crate) put: HashSet<(u64, u64)>,
    /// As they were when everything was there.
    pub(crate) settled: Vec<Metadata>,
}

impl Others {
    fn put(&self, there: &Metadata) -> bool {
        self.put.contains(&(there.file_system, there.inode))
    }

    fn left_still(&self, now: &Metadata) -> bool {
        let of = |it: &Metadata| (it.file_system, it.inode, it.ctime, it.mtime);
        self.settled.iter().any(|settled| of(settled) == of(now))
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn copy_to(from: &RootDir, name: &OsStr, to: &Place) -> io::Result<()> {
    let (name, new) = (
        CString::new(name.as_bytes())?,
        CString::new(to.name().as_bytes())?,
    );
    let stat = rustix::fs::statat(from.as_fd(), &name, AtFlags::SYMLINK_NOFOLLOW)?;
    let how = How::with(Owners::Kept);
    Ok(copy_entry(
        from.as_fd(),
        &name,
        to.directory(),
        &new,
        &stat,
        how,
    )?)
}

/// Makes one file again of copies.
fn link_together(layer: &RootDir, paths: &[PathBuf]) -> io::Result<()> {
    let Some((first, others)) = paths.split_first() else {
        return Ok(());
    };
    for other in others {
        layer.remove_file(other, Resolve::Beneath)?;
        layer.hard_link(first, other, Resolve::Beneath)?;
    }
    Ok(())
}

/// Gives names a file of their own, which has further names elsewhere: what is written there is not the layer's.
fn separate(layer: &RootDir, paths: &[PathBuf]) -> io::Result<()> {
    let Some((first, others)) = paths.split_first() else {
        return Ok(());
    };
    let place = layer.place(first, Resolve::Beneath)?;
    let name = CString::new(place.name().as_bytes())?;
    let mut aside = place.name().to_owned();
    aside.push(".rbuild-copy");
    let aside = CString::new(aside.as_bytes())?;
    let directory = place.directory();
    let stat = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
    let how = How::with(Owners::Kept);
    copy_entry(directory, &name, directory, &aside, &stat, how)?;
    rustix::fs::renameat(directory, &aside, directory, &name)?;
    for other in others {
        layer.remove_file(other, Resolve::Beneath)?;
        layer.hard_link(first, other, Resolve::Beneath)?;
    }
    Ok(())
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
