//! Puts entries where they belong below a root: one descriptor of the current parent directory is kept, every
//! other step is an `*at` call on it. What is made there: `nodes`. What a layer's names mean that are marks: `marks`.

mod marks;
mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rbuild_cache::root_dir::{Resolve, path_of, remove_tree_at};
use rbuild_cache::tree::Written;
use rbuild_cache::{RootDir, owners};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::metadata::{self, Metadata};
use crate::error::{Error, Result, io, shown};
use crate::tarfile::{Entry, Kind, clean};
pub(super) use marks::mark_opaque_at;
use marks::{Meaning, mark_opaque};

/// What an archive is, and so what its names mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// Whiteouts become overlay's; links in parents are refused.
    Layer,
    /// Links in parents are followed inside the root.
    Archive { owner: Option<(u32, u32)> },
    /// Likewise; a directory takes the place of nothing else, and nothing else that of a directory.
    Copied,
}

/// What a layer leaves to those who know the layers below.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) implied: BTreeSet<Vec<u8>>,
    /// By path. Nothing is in their places yet.
    pub(super) links_below: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) opaque_root: bool,
    pub(super) written: Written,
}

impl Open {
    /// Forgets what was said of all below a directory that is gone.
    fn forget_below(&mut self, directory: &[u8]) {
        let below = [directory, b"/"].concat();
        let is_below = |path: &&Vec<u8>| path.starts_with(&below);
        let implied = self.implied.range(below.clone()..).take_while(is_below);
        for path in implied.cloned().collect::<Vec<_>>() {
            self.implied.remove(&path);
        }
        let links = self.links_below.range(below.clone()..);
        let links = links.map(|(path, _)| path).take_while(is_below);
        for path in links.cloned().collect::<Vec<_>>() {
            self.links_below.remove(&path);
        }
    }
}

pub(super) struct Placer<'a> {
    root: &'a RootDir,
    rules: Rules,
    what: &'a str,
    /// The directory that the last entry went to.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Set when everything is in them. Paths are relative to the root, without dots.
    directory_times: BTreeMap<Vec<u8>, (i64, u32)>,
    /// Likewise, of those that could not be worked in until then ([`owners::limited`]).
    directory_modes: BTreeMap<Vec<u8>, u32>,
    open: Open,
    /// Something was removed: its inode may be another's by now, so that nothing is known of files by their inodes.
    any_replaced: bool,
}

/// Opens ADD's destination, made where missing with mode 0755 and the new files' owner.
pub(super) fn destination(
    root: &RootDir,
    path: &Path,
    owner: Option<(u32, u32)>,
) -> Result<RootDir> {
    let (uid, gid) = owner.unwrap_or((0, 0));
    root.create_dir_all(path, 0o755, Resolve::InRoot, &mut |_, _, node| {
        node.set_owner(uid, gid)
    })
    .map_err(|source| Error::Io {
        action: "make the directory",
        path: shown(path.as_os_str().as_bytes()),
        source,
    })
}

impl<'a> Placer<'a> {
    pub(super) fn new(root: &'a RootDir, rules: Rules, what: &'a str) -> Self {
        Self {
            root,
            rules,
            what,
            parent: None,
            directory_times: BTreeMap::new(),
            directory_modes: BTreeMap::new(),
            open: Open::default(),
            any_replaced: false,
        }
    }

    /// Puts one entry in its place; `data` gives a file's stored bytes.
    pub(super) fn place(&mut self, entry: &Entry, data: &mut dyn BufRead) -> Result<()> {
        let path = clean(&entry.path);
        let Some((parent, name)) = split(&path) else {
            return self.root_entry(entry);
        };
        let is_long = |name: &[u8]| name.len() > 255;
        let too_long = "its name has more than 255 bytes";
        if self.rules == Rules::Layer {
            match marks::meaning(&path, parent, name, entry.kind) {
                Meaning::Itself => {}
                Meaning::Nothing => return Ok(()),
                Meaning::BelowAMark => {
                    return Err(self.refused(&path, "it lies below the mark of a removal"));
                }
                // The prefix is in the archive only, so that the longest names can be removed, too.
                Meaning::Removal(hidden) if is_long(hidden) => {
                    return Err(self.refused(&path, too_long));
                }
                Meaning::Removal(hidden) => return self.whiteout(&path, parent, name, hidden),
            }
        }
        if is_long(name) {
            return Err(self.refused(&path, too_long));
        }
        self.enter(parent, entry.mtime)?;
        self.open.links_below.remove(&path);
        let owner = match self.rules {
            Rules::Layer | Rules::Copied => None,
            Rules::Archive { owner } => owner,
        };
        if self.rules == Rules::Copied {
            self.keep_directory_or_other(&path, name, entry.kind)?;
        }
        let metadata = Metadata::of(entry, owner);
        match entry.kind {
            Kind::Directory => self.directory(&path, name, &metadata)?,
            Kind::File => self.file(&path, name, entry, &metadata, data)?,
            Kind::HardLink => self.hard_link(&path, name, entry)?,
            Kind::Symlink => self.symlink(&path, name, entry, &metadata)?,
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.special(&path, name, entry, &metadata)?;
            }
        }
        if entry.kind != Kind::HardLink {
            self.open.implied.remove(&path);
        }
        Ok(())
    }

    /// Sets the directories' times, now that nothing is put into them any more.
    pub(super) fn finish(mut self) -> Result<Open> {
        self.parent = None;
        self.remove_aufs_links()?;
        for (path, mtime) in std::mem::take(&mut self.directory_times) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match self.root.open(path_of(&path), flags, 0, self.resolve()) {
                Ok(fd) => metadata::set_time(fd, mtime, &path)?,
                // Something else took its place later in the archive.
                Err(error)
                    if matches!(
                        Errno::from_io_error(&error),
                        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
                    ) => {}
                Err(source) => {
                    return Err(Error::Io {
                        action: "set the time of",
                        path: shown(&path),
                        source,
                    });
                }
            }
        }
        // Innermost first: what lies in one of them must be reached.
        for (path, mode) in std::mem::take(&mut self.directory_modes).into_iter().rev() {
            let there = self.root.node(path_of(&path), self.resolve());
            let there = there.and_then(|node| Ok((node.metadata()?.kind, node)));
            if let Ok((rbuild_cache::tree::Kind::Directory, node)) = there {
                node.set_mode(mode).map_err(|source| Error::Io {
                    action: "set the mode of",
                    path: shown(&path),
                    source,
                })?;
            }
        }
        if self.any_replaced {
            self.open.written = Written::default();
        }
        Ok(self.open)
    }

    /// What a directory gets at first, and what only in the end.
    fn dress(&mut self, fd: BorrowedFd<'_>, path: &[u8], metadata: &Metadata<'_>) -> Result<()> {
        metadata.apply_to(fd, path)?;
        self.directory_modes.remove(path);
        let mode = metadata.mode();
        if owners::limited() && mode & 0o700 != 0o700 {
            rustix::fs::fchmod(fd, Mode::from_raw_mode(mode | 0o700))
                .map_err(io("set the mode of", path))?;
            self.directory_modes.insert(path.to_vec(), mode);
        }
        self.directory_times.insert(path.to_vec(), metadata.mtime);
        Ok(())
    }

    fn resolve(&self) -> Resolve {
        match self.rules {
            Rules::Layer => Resolve::Beneath,
            Rules::Archive { .. } | Rules::Copied => Resolve::InRoot,
        }
    }

    fn refused(&self, path: &[u8], reason: &str) -> Error {
        Error::BadArchive {
            what: format!("{}, entry `{}`", self.what, shown(path)),
            reason: reason.to_owned(),
        }
    }

    fn parent_fd(&self) -> Result<BorrowedFd<'_>> {
        match &self.parent {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Err(self.refused(b"", "it has no directory to go to")),
        }
    }

    /// The root's own entry: what a layer says of it counts, what an archive for ADD says does not.
    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(self.refused(&entry.path, "the root can only be a directory"));
        }
        if self.rules != Rules::Layer {
            return Ok(());
        }
        let fd = self.open_directory(b"")?;
        self.dress(fd.as_fd(), b"", &Metadata::of(entry, None))
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        self.root
            .open(path_of(path), flags, 0, self.resolve())
            .map_err(|source| Error::Io {
                action: "open the directory",
                path: shown(path),
                source,
            })
    }

    /// Makes `parent` the current directory, with those above it where the archive left them out.
    fn enter(&mut self, parent: &[u8], mtime: (i64, u32)) -> Result<()> {
        if self.parent.as_ref().is_some_and(|(path, _)| path == parent) {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let opened = self.root.open(path_of(parent), flags, 0, self.resolve());
        let fd = match opened {
            Ok(fd) => fd,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT) => return self.imply(parent, mtime),
                Some(Errno::NOTDIR) if self.whiteout_above(parent)? => {
                    return self.imply(parent, mtime);
                }
                Some(Errno::NOTDIR) => {
                    return Err(self.refused(parent, "it is used as a directory and is none"));
                }
                Some(Errno::LOOP | Errno::XDEV) => {
                    return Err(self.refused(parent, "it is used as a directory and is a link"));
                }
                _ => {
                    return Err(Error::Io {
                        action: "open the directory",
                        path: shown(parent),
                        source: error,
                    });
                }
            },
        };
        self.parent = Some((parent.to_vec(), fd));
        Ok(())
    }

    /// Makes the last directory of `path`, after those above it.
    fn imply(&mut self, path: &[u8], mtime: (i64, u32)) -> Result<()> {
        let Some((above, name)) = split(path) else {
            let fd = self.open_directory(b"")?;
            self.parent = Some((Vec::new(), fd));
            return Ok(());
        };
        self.enter(above, mtime)?;
        if self.open.links_below.contains_key(path) {
            return Err(self.refused(path, "it is used as a directory and is none"));
        }
        let replaces_whiteout = self.remove_whiteout(path, name)?;
        let parent = self.parent_fd()?;
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            // A link that leads nowhere.
            Err(Errno::EXIST) => {
                return Err(self.refused(path, "it is used as a directory and is none"));
            }
            Err(error) => return Err(io("make the directory", path)(error)),
        }
        let fd = self.open_child(name, path)?;
        let implied = Metadata {
            mode: 0o755,
            owner: (0, 0),
            mtime,
            xattrs: &[],
        };
        implied.apply_to(fd.as_fd(), path)?;
        if replaces_whiteout {
            mark_opaque(fd.as_fd(), path)?;
        } else {
            self.open.implied.insert(path.to_vec());
        }
        self.directory_times.insert(path.to_vec(), mtime);
        self.parent = Some((path.to_vec(), fd));
        Ok(())
    }

    fn open_child(&self, name: &[u8], path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.parent_fd()?, name, flags, Mode::empty())
            .map_err(io("open the directory", path))
    }

    fn status(&self, name: &[u8], path: &[u8]) -> Result<Option<rustix::fs::Stat>> {
        match rustix::fs::statat(self.parent_fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(io("look at", path)(error)),
        }
    }

    fn keep_directory_or_other(&self, path: &[u8], name: &[u8], new: Kind) -> Result<()> {
        let Some(there) = self.status(name, path)? else {
            return Ok(());
        };
        let is_directory = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
        match (is_directory, new == Kind::Directory) {
            (true, false) => Err(self.refused(path, "a directory is in its place")),
            (false, true) => Err(self.refused(path, "it is a directory, and in its place is none")),
            _ => Ok(()),
        }
    }

    /// Removes what is in the place of a new entry.
    fn clear(&mut self, path: &[u8], name: &[u8]) -> Result<()> {
        let parent = self.parent_fd()?;
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) => {
                self.any_replaced = true;
                return Ok(());
            }
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => self.any_replaced = true,
            Err(error) => return Err(io("replace", path)(error)),
        }
        remove_tree_at(self.parent_fd()?, OsStr::from_bytes(name)).map_err(|source| Error::Io {
            action: "replace",
            path: shown(path),
            source,
        })?;
        self.open.implied.remove(path);
        self.open.forget_below(path);
        Ok(())
    }
}

/// Parent and name; `None` for the root.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => Some((path.get(..slash)?, path.get(slash + 1..)?)),
        None => Some((b"", path)),
    }
}
