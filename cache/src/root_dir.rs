//! A directory that is the root of everything resolved through it.
//!
//! No path that an input can influence is resolved by the kernel against the host's root: every such path goes
//! through a [`RootDir`] with `openat2(2)` and ends in an `*at` call. Two ways of resolving:
//! * *in root* (`RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`): links are followed as a process in a chroot would;
//! * *beneath* (`RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`): for unpacking; links refuse.
//!
//! A path leads to one of two things: a [`Place`] (an open directory and a name in it, where something may be
//! made, renamed or removed) or a [`Node`] (the thing itself, held by an `O_PATH` descriptor, whose metadata may
//! be read and changed). Whoever does several things at one path resolves it once and keeps the place or node.
//! The methods of [`RootDir`] that do something to a path never follow a link at the path's end, unless they say
//! so. Leading slashes mean nothing: `/etc` and `etc` are the same path. An empty path is the root itself.
//!
//! Not here: what is copied or unpacked where (`executor`, `image`); listing with digests ([`crate::tree`]).

mod listing;
mod make;
mod node;
mod place;
mod remove;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub use listing::{DirEntry, read_dir};
pub use node::{Metadata, Node, modified_alone};
pub(crate) use node::{read_growing, split_names};
pub use place::Place;
pub use remove::remove_tree_at;

use crate::store::TemporaryDirectory;
use crate::tree::Kind;

/// Owns the descriptor of a root.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
    /// What goes when nobody looks at it any more.
    kept: Option<Arc<TemporaryDirectory>>,
}

/// How paths are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    InRoot,
    Beneath,
}

/// `openat2` gives up with EAGAIN when a rename anywhere on the machine races with `..`; it is asked again this
/// often before that is an error.
const RACE_RETRIES: u32 = 128;

/// Below the kernel's PATH_MAX.
const PATH_PIECE_BYTES: usize = 4000;

/// A path as it lies in a tree or an archive.
pub fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

impl RootDir {
    /// Opens a directory of the host by a path that the user or the store gave, never an input.
    pub fn open_ambient(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            fd: rustix::fs::open(path, flags, Mode::empty())?,
            kept: None,
        })
    }

    /// Takes a descriptor of a directory, for instance of a detached mount.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd, kept: None }
    }

    /// Of a temporary directory, which lasts as long as this.
    #[must_use]
    pub fn keeping(self, directory: Arc<TemporaryDirectory>) -> Self {
        Self {
            kept: Some(directory),
            ..self
        }
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            kept: self.kept.clone(),
        })
    }

    /// Opens `path` with any flags; the one place where paths become descriptors. `O_CLOEXEC` and `O_NOCTTY` are
    /// added. The link at the end is followed only in root and without `O_NOFOLLOW`.
    ///
    /// A path that is longer than the kernel takes at once is resolved in pieces, where no link could be on the way.
    ///
    /// Errors: `Unsupported` on Linux before 5.6 (no `openat2`); `EXDEV` for a path that leaves the root and
    /// `ELOOP` for a link, where resolution is beneath.
    pub fn open(
        &self,
        path: &Path,
        flags: OFlags,
        mode: u32,
        resolve: Resolve,
    ) -> io::Result<OwnedFd> {
        let path = relative(path);
        if resolve == Resolve::Beneath
            && let Some((first, rest)) = split_long(path)
        {
            let below = self.directory(first, resolve)?;
            return below.open(rest, flags, mode, resolve);
        }
        let resolve = match resolve {
            Resolve::InRoot => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            Resolve::Beneath => {
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
            }
        };
        let mut flags = flags | OFlags::CLOEXEC;
        // openat2 refuses flags that mean nothing beside O_PATH.
        if !flags.contains(OFlags::PATH) {
            flags |= OFlags::NOCTTY;
        }
        // openat2 refuses a mode where nothing is created.
        let mode = if flags.intersects(OFlags::CREATE | OFlags::TMPFILE) {
            Mode::from_raw_mode(mode & 0o7777)
        } else {
            Mode::empty()
        };
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.fd, path, flags, mode, resolve) {
                Err(Errno::AGAIN) if tries < RACE_RETRIES => tries += 1,
                Err(Errno::INTR) => {}
                Err(Errno::NOSYS) => {
                    return Err(io::Error::new(
                        io::ErrorKind::Unsupported,
                        "the kernel has no openat2(2): Linux 5.6 or newer is needed",
                    ));
                }
                result => return Ok(result?),
            }
        }
    }

    /// Opens a regular file for reading, following links in root. Never blocks and never opens a pipe or device:
    /// anything but a regular file is `InvalidInput`.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        regular(self.open(path, flags, 0, Resolve::InRoot)?)
    }

    /// As [`RootDir::open_file`], but a link at the end is an error (`ELOOP`).
    pub fn open_file_no_follow(&self, path: &Path, resolve: Resolve) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        regular(self.open(path, flags, 0, resolve)?)
    }

    /// The thing at `path` itself, also if it is a link.
    pub fn node(&self, path: &Path, resolve: Resolve) -> io::Result<Node> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        self.open(path, flags, 0, resolve).map(Node::from_fd)
    }

    /// What `path` leads to, links followed in root.
    pub fn node_following(&self, path: &Path) -> io::Result<Node> {
        self.open(path, OFlags::PATH, 0, Resolve::InRoot)
            .map(Node::from_fd)
    }

    /// The directory at `path`, as a root of its own. Links are followed in root.
    pub fn directory(&self, path: &Path, resolve: Resolve) -> io::Result<RootDir> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        self.open(path, flags, 0, resolve).map(Self::from_fd)
    }

    /// Opens the parent of `path`; the last component becomes the name in it and is not resolved.
    ///
    /// Errors: `InvalidInput` where the path has no last name (the root itself, or `..` at the end).
    pub fn place(&self, path: &Path, resolve: Resolve) -> io::Result<Place> {
        let (parent, name) = split_last(path).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{}` does not name an entry of a directory", path.display()),
            )
        })?;
        let parent = self.directory(parent, resolve)?;
        Ok(Place::new(parent.into_fd(), name.to_owned()))
    }

    /// Metadata of the thing at `path`; a link is not followed.
    pub fn metadata(&self, path: &Path, resolve: Resolve) -> io::Result<Metadata> {
        let mut names = path.components();
        match (names.next(), names.next()) {
            // One name in the root: on the way there is nothing that could lead elsewhere.
            (Some(Component::Normal(name)), None)
                if name.as_bytes() == path.as_os_str().as_bytes() =>
            {
                Metadata::at(self.fd.as_fd(), name)
            }
            _ => self.node(path, resolve)?.metadata(),
        }
    }

    /// Metadata of what `path` leads to, links followed in root.
    pub fn metadata_following(&self, path: &Path) -> io::Result<Metadata> {
        self.node_following(path)?.metadata()
    }

    /// True where there is something (also a link that leads nowhere); errors other than absence are errors.
    pub fn exists(&self, path: &Path, resolve: Resolve) -> io::Result<bool> {
        match self.node(path, resolve) {
            Ok(_) => Ok(true),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The target of the link at `path`, as written.
    pub fn read_link(&self, path: &Path, resolve: Resolve) -> io::Result<PathBuf> {
        self.node(path, resolve)?.read_link()
    }

    /// Everything in a directory but `.` and `..`, in the order of the file system. Links are followed in root.
    pub fn read_dir(&self, path: &Path, resolve: Resolve) -> io::Result<Vec<DirEntry>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = self.open(path, flags, 0, resolve)?;
        read_dir(directory.as_fd())
    }

    /// Makes a file that must not exist yet, with exactly this mode (no umask).
    pub fn create_file(&self, path: &Path, mode: u32, resolve: Resolve) -> io::Result<File> {
        self.place(path, resolve)?.create_file(mode)
    }

    /// Makes a directory that must not exist yet, with exactly this mode (no umask).
    pub fn create_dir(&self, path: &Path, mode: u32, resolve: Resolve) -> io::Result<Node> {
        self.place(path, resolve)?.create_dir(mode)
    }

    /// Makes a link with this target, whatever that means.
    pub fn symlink(&self, target: &[u8], path: &Path, resolve: Resolve) -> io::Result<()> {
        self.place(path, resolve)?.symlink(target)
    }

    /// Makes `path` another name of what is at `existing`. A link at the end of `existing` is linked itself.
    pub fn hard_link(&self, existing: &Path, path: &Path, resolve: Resolve) -> io::Result<()> {
        self.place(existing, resolve)?
            .hard_link(&self.place(path, resolve)?)
    }

    /// Makes a device, fifo or socket with exactly this mode. `device` is `makedev(major, minor)`.
    pub fn make_node(
        &self,
        path: &Path,
        kind: Kind,
        mode: u32,
        device: u64,
        resolve: Resolve,
    ) -> io::Result<()> {
        self.place(path, resolve)?.make_node(kind, mode, device)
    }

    /// Renames within the root, replacing what may be replaced.
    pub fn rename(&self, from: &Path, to: &Path, resolve: Resolve) -> io::Result<()> {
        self.place(from, resolve)?.rename(&self.place(to, resolve)?)
    }

    /// Removes anything but a directory.
    pub fn remove_file(&self, path: &Path, resolve: Resolve) -> io::Result<()> {
        self.place(path, resolve)?.remove_file()
    }

    /// Removes whatever is at `path`, with everything below it. Links are removed, not followed.
    pub fn remove_tree(&self, path: &Path, resolve: Resolve) -> io::Result<()> {
        self.place(path, resolve)?.remove_tree()
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// True for errors that mean "nothing is there": no such entry, or something on the way is not a directory.
pub fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Without leading slashes; the root itself is `.`.
fn relative(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    let start = bytes.iter().position(|byte| *byte != b'/');
    match start.and_then(|start| bytes.get(start..)) {
        None | Some([]) => Path::new("."),
        Some(rest) => path_of(rest),
    }
}

/// A directory on the way to what has a long path, and the rest of that.
fn split_long(path: &Path) -> Option<(&Path, &Path)> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() <= PATH_PIECE_BYTES {
        return None;
    }
    let piece = bytes.get(..PATH_PIECE_BYTES)?;
    let cut = piece.iter().rposition(|byte| *byte == b'/')?;
    Some((path_of(bytes.get(..cut)?), path_of(bytes.get(cut + 1..)?)))
}

/// Parent and last name. Slashes and `.` at the end mean nothing; `None` for the root and for `..` at the end.
fn split_last(path: &Path) -> Option<(&Path, &OsStr)> {
    let mut bytes = path.as_os_str().as_bytes();
    loop {
        if let Some(rest) = bytes.strip_suffix(b"/") {
            bytes = rest;
        } else if bytes == b"." {
            return None;
        } else if let Some(rest) = bytes.strip_suffix(b"/.") {
            bytes = rest;
        } else {
            break;
        }
    }
    let cut = bytes.iter().rposition(|byte| *byte == b'/');
    let (parent, name) = match cut {
        None => (&b""[..], bytes),
        Some(cut) => bytes.split_at_checked(cut + 1)?,
    };
    if name.is_empty() || name == b".." {
        return None;
    }
    Some((path_of(parent), OsStr::from_bytes(name)))
}

fn regular(fd: OwnedFd) -> io::Result<File> {
    let stat = rustix::fs::fstat(&fd)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile {
        Ok(File::from(fd))
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ))
    }
}
