//! What a command finds in its root besides the root's own files, where nothing can be mounted: directories and files
//! are renamed into the tree before it begins and out of it when it has ended, and what they replaced comes back.
//!
//! Nobody uses the tree at both times. Afterwards things are told by what they are, not by where they are: a command may
//! have moved them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::root_dir::{Metadata, modified_alone, remove_tree_at};
use rbuild_cache::tree::Kind;
use rbuild_cache::{RootDir, TemporaryDirectory};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::super::in_root::{self, MountPoints, shown_path};
use super::super::plan::Stub;
use super::super::stubs;
use crate::merged::{Merged, Others};

/// What becomes of a thing afterwards.
#[derive(Debug)]
pub(super) enum After {
    Removed,
    /// It goes back to where it was taken from.
    Returned(PathBuf),
    /// It goes to where it was copied from, in place of that.
    Replaced(PathBuf),
}

/// Everything that was put into one tree. Dropping it takes it out.
#[derive(Debug)]
pub(super) struct Places {
    root: OwnedFd,
    /// Where the root is, for this process.
    shown_as: PathBuf,
    /// Holds things before and after, and what they replaced.
    aside: TemporaryDirectory,
    aside_directory: Arc<OwnedFd>,
    things: Vec<Thing>,
    stubs: Vec<Stub>,
    changed: Vec<Changed>,
    /// Device and inode numbers of what nothing is put over.
    guarded: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct Thing {
    parent: OwnedFd,
    name: OsString,
    itself: OwnedFd,
    /// The name that what was there has aside.
    replaced: String,
    after: After,
}

/// A directory of the tree that something was put into.
#[derive(Debug)]
struct Changed {
    directory: OwnedFd,
    before: Metadata,
    /// When everything was there.
    settled: Option<Metadata>,
}

impl Places {
    pub(super) fn new(root: BorrowedFd<'_>, aside: TemporaryDirectory) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let aside_directory = rustix::fs::open(aside.path(), flags, Mode::empty())?;
        Ok(Self {
            root: root.try_clone_to_owned()?,
            shown_as: shown_path(root)?,
            aside,
            aside_directory: Arc::new(aside_directory),
            things: Vec::new(),
            stubs: Vec::new(),
            changed: Vec::new(),
            guarded: Vec::new(),
        })
    }

    pub(super) fn shown_as(&self) -> &Path {
        &self.shown_as
    }

    /// Where things are made that are to be put somewhere.
    pub(super) fn aside(&self) -> io::Result<RootDir> {
        RootDir::open_ambient(self.aside.path())
    }

    /// A name that nothing has there yet.
    pub(super) fn fresh_name(&self) -> String {
        format!("thing-{}", self.things.len())
    }

    /// Puts what has a name aside at a path of the tree.
    pub(super) fn put(&mut self, path: &Path, name: &str) -> io::Result<()> {
        self.put_then(path, name, After::Removed)
    }

    /// See [`in_root::mode_of_tmpfs`].
    pub(super) fn mode_of_tmpfs(&self, target: &Path) -> u32 {
        in_root::mode_of_tmpfs(self.root.as_fd(), target)
    }

    /// As [`Self::put`], of what is not just removed.
    pub(super) fn put_then(&mut self, path: &Path, name: &str, after: After) -> io::Result<()> {
        let from = Arc::clone(&self.aside_directory);
        self.put_from(path, from.as_fd(), OsStr::new(name), after)
    }

    /// Puts something of a directory at a path of the tree.
    pub(super) fn put_from(
        &mut self,
        path: &Path,
        from: BorrowedFd<'_>,
        name: &OsStr,
        after: After,
    ) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let itself = rustix::fs::openat(from, name, flags, Mode::empty())?;
        let is_directory = Metadata::of_fd(itself.as_fd())?.kind == Kind::Directory;
        let mut points = MountPoints::new(self.root.as_fd())?;
        let point = points.ensure(path, is_directory)?;
        let at = shown_path(point.as_fd())?;
        let below = at.strip_prefix(&self.shown_as).map_err(|_| Errno::XDEV)?;
        let (Some(parent), Some(last)) = (below.parent(), below.file_name()) else {
            return Err(Errno::BUSY.into());
        };
        let point = Metadata::of_fd(point.as_fd())?;
        if self.guarded.contains(&(point.file_system, point.inode)) {
            return Err(Errno::BUSY.into());
        }
        let made = std::mem::take(&mut points.stubs);
        for known in std::mem::take(&mut points.parents) {
            let directory = self.directory(Path::new(OsStr::from_bytes(&known.path.0)))?;
            self.change(&directory)?;
        }
        self.stubs.extend(made);
        let parent = self.directory(parent)?;
        self.change(&parent)?;
        let replaced = format!("replaced-{}", self.things.len());
        rustix::fs::renameat(&parent, last, &*self.aside_directory, &replaced)?;
        let put = rustix::fs::renameat(from, name, &parent, last);
        if let Err(errno) = put {
            // The step fails in any case, and its tree goes.
            let _ = rustix::fs::renameat(&*self.aside_directory, &replaced, &parent, last);
            return Err(errno.into());
        }
        self.things.push(Thing {
            parent,
            name: last.to_owned(),
            itself,
            replaced,
            after,
        });
        Ok(())
    }

    /// Nothing is put over what was put last.
    pub(super) fn guard(&mut self) -> io::Result<()> {
        if let Some(thing) = self.things.last() {
            let it = Metadata::of_fd(thing.itself.as_fd())?;
            self.guarded.push((it.file_system, it.inode));
        }
        Ok(())
    }

    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(
            &self.root,
            path,
            flags,
            Mode::empty(),
            resolve,
        )?)
    }

    fn change(&mut self, directory: &OwnedFd) -> io::Result<()> {
        let before = Metadata::of_fd(directory.as_fd())?;
        let is_known = |known: &Changed| {
            (known.before.file_system, known.before.inode) == (before.file_system, before.inode)
        };
        if !self.changed.iter().any(is_known) {
            self.changed.push(Changed {
                directory: directory.try_clone()?,
                before,
                settled: None,
            });
        }
        Ok(())
    }

    /// Everything is there: what changes from here on, the command changes.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        for changed in &mut self.changed {
            set_mtime(&changed.directory, changed.before.mtime)?;
            changed.settled = Some(Metadata::of_fd(changed.directory.as_fd())?);
        }
        Ok(())
    }

    /// What of the tree is not the command's, now.
    pub(super) fn others(&self) -> io::Result<Others> {
        let mut others = Others::default();
        for thing in &self.things {
            let it = Metadata::of_fd(thing.itself.as_fd())?;
            others.put.insert((it.file_system, it.inode));
        }
        others.settled = self.changed.iter().filter_map(|it| it.settled).collect();
        Ok(others)
    }

    /// Takes everything out. Directories that the command did not change are for the tree what they were before.
    pub(super) fn take_out(mut self, merged: &mut Merged) -> io::Result<()> {
        self.leave(Some(merged))
    }

    fn leave(&mut self, merged: Option<&mut Merged>) -> io::Result<()> {
        let mut left = Vec::new();
        for changed in &self.changed {
            left.push(Metadata::of_fd(changed.directory.as_fd())?);
        }
        let mut result = Ok(());
        // What was put last may lie in what was put before.
        while let Some(thing) = self.things.pop() {
            let done = self.take(&thing);
            result = result.and(done);
        }
        for stub in self.stubs.drain(..).rev() {
            stubs::remove_stub(&self.root, &stub)?;
        }
        let mut merged = merged;
        for (changed, left) in self.changed.drain(..).zip(left) {
            let of = |it: &Metadata| (it.ctime, it.mtime, it.mode, it.uid, it.gid);
            let is_same = changed.settled.is_some_and(|it| of(&it) == of(&left));
            set_mtime(&changed.directory, left.mtime)?;
            if is_same && let Some(merged) = merged.as_deref_mut() {
                let now = Metadata::of_fd(changed.directory.as_fd())?;
                merged.is_still(now.inode, &now);
            }
        }
        result
    }

    fn take(&self, thing: &Thing) -> io::Result<()> {
        let here = Metadata::at(thing.parent.as_fd(), &thing.name).ok();
        let itself = Metadata::of_fd(thing.itself.as_fd())?;
        let is_it =
            |it: &Metadata| (it.file_system, it.inode) == (itself.file_system, itself.inode);
        if here.as_ref().is_some_and(is_it) {
            self.put_away(thing, (thing.parent.as_fd(), &thing.name))?;
        } else {
            // The command moved or removed it.
            let at = shown_path(thing.itself.as_fd())?;
            let moved = at.starts_with(&self.shown_as)
                && Metadata::at(CWD, at.as_os_str()).is_ok_and(|it| is_it(&it));
            if moved {
                self.put_away(thing, (CWD, at.as_os_str()))?;
            } else if let (After::Returned(path), Kind::Directory) = (&thing.after, itself.kind) {
                make_empty(path, &itself)?;
            } else if let (After::Replaced(_), Kind::Directory) = (&thing.after, itself.kind) {
                let empty = format!("empty-{}", self.things.len());
                make_empty(&self.aside.path().join(&empty), &itself)?;
                let aside = Arc::clone(&self.aside_directory);
                self.put_away(thing, (aside.as_fd(), OsStr::new(&empty)))?;
            }
            if here.is_some() {
                remove_tree_at(thing.parent.as_fd(), &thing.name)?;
            }
        }
        let back = rustix::fs::renameat(
            &*self.aside_directory,
            &thing.replaced,
            &thing.parent,
            &thing.name,
        );
        match back {
            // The directory that it was in is gone.
            Err(Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }

    fn put_away(
        &self,
        thing: &Thing,
        (directory, name): (BorrowedFd<'_>, &OsStr),
    ) -> io::Result<()> {
        match &thing.after {
            After::Returned(path) => return Ok(rustix::fs::renameat(directory, name, CWD, path)?),
            After::Replaced(path) => {
                let flags = RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(directory, name, CWD, path, flags)?;
            }
            After::Removed => {}
        }
        let gone = format!("gone-{}", self.things.len());
        rustix::fs::renameat(directory, name, &*self.aside_directory, gone)?;
        Ok(())
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if !self.things.is_empty()
            && let Err(error) = self.leave(None)
        {
            tracing::warn!(%error, "what was put into a command's root could not be taken out");
        }
    }
}

fn make_empty(path: &Path, like: &Metadata) -> io::Result<()> {
    match std::fs::create_dir(path) {
        // What stands for a whole cache that was lent.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let made = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rbuild_cache::owners::set(made.as_fd(), like.uid, like.gid)?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(like.mode))?;
    Ok(())
}

fn set_mtime(directory: &OwnedFd, (seconds, nanoseconds): (i64, u32)) -> io::Result<()> {
    let times = modified_alone((seconds, nanoseconds.into()));
    Ok(rustix::fs::futimens(directory, &times)?)
}

/// Whether a name is there, as it is.
pub(super) fn is_there(directory: BorrowedFd<'_>, name: &str) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}
