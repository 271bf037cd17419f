//! `cp` and `export`: files out of containers and into them. Paths in a container are resolved in its root and never
//! lead out of it, whatever links the container makes meanwhile.

use std::ffi::{CString, OsStr};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::RootDir;
use rbuild_cache::root_dir::Resolve;
use rbuild_cache::tree::Kind;
use rbuild_executor::sandbox::copy::{self, How, Owners};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::catalog::Entry;
use crate::{Engine, Error, Result};

/// How files are copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// Owners are kept.
    pub archive: bool,
    /// The link at the end of the source is followed.
    pub follow: bool,
}

/// Where something is to be copied to, or is copied from: a root and a path in it.
struct End<'r> {
    root: &'r RootDir,
    path: &'r str,
    /// What it is called in messages.
    shown: String,
}

impl Engine {
    /// Writes the container's whole root as a tar.
    pub fn export_container(&self, entry: &Entry, to: &mut dyn Write) -> Result<()> {
        let written = self.written(entry)?;
        let base = entry.definition.snapshot.as_deref();
        let base = base.and_then(rbuild_cache::SnapshotId::parse);
        // Not through the container's own mounts: volumes, /proc and the like are no part of it.
        let view = rbuild_executor::overlay::view_with(self.store(), base.as_ref(), &written.path);
        let view = view.map_err(|error| Error::Io {
            message: format!("cannot mount the root of `{}`", entry.name),
            source: std::io::Error::other(error),
        })?;
        Ok(rbuild_image::layer::write_directory(&view, to)?)
    }

    /// A path of a container as a tar, under its last name.
    pub fn archive_from_container(
        &self,
        entry: &Entry,
        path: &str,
        options: CopyOptions,
        to: &mut dyn Write,
    ) -> Result<()> {
        let opened = self.open_container(entry, false)?;
        let contents_only = path.ends_with("/.");
        let path = resolved(&opened.root, path, options.follow, &entry.name)?;
        let name = path.file_name().filter(|_| !contents_only);
        let name = name.unwrap_or_else(|| OsStr::new("."));
        Ok(rbuild_image::layer::write_node(
            &opened.root,
            &path,
            name.as_bytes(),
            opened.out(),
            to,
        )?)
    }

    /// Unpacks a tar below a directory of a container.
    pub fn archive_into_container(
        &self,
        entry: &Entry,
        path: &str,
        from: &mut (dyn Read + Send),
    ) -> Result<()> {
        let opened = self.open_container(entry, true)?;
        let shown = format!("{}:{path}", entry.name);
        let directory = in_root(path);
        match opened.root.metadata_following(&directory) {
            Ok(found) if found.kind == Kind::Directory => {}
            Ok(_) => return Err(Error::Other(format!("`{shown}` is not a directory"))),
            Err(source) => return Err(missing(&shown, source)),
        }
        let unpacked = opened.as_its_root(|| {
            let crossing = opened.inwards();
            rbuild_image::unpack::archive_across(from, &opened.root, &directory, crossing)
        })?;
        unpacked?;
        opened.keep()
    }

    /// `cp CONTAINER:PATH DIR`. Blocking.
    pub fn copy_from_container(
        &self,
        entry: &Entry,
        path: &str,
        to: &Path,
        options: CopyOptions,
    ) -> Result<()> {
        let opened = self.open_container(entry, false)?;
        let host = host_root()?;
        let to_text = to.to_string_lossy();
        let from = End {
            root: &opened.root,
            path,
            shown: format!("{}:{path}", entry.name),
        };
        let to = End {
            root: &host,
            path: &to_text,
            shown: to_text.to_string(),
        };
        let how = How {
            owners: if options.archive {
                Owners::Kept
            } else {
                Owners::Own
            },
            inert: false,
            marks: false,
            crossing: opened.out(),
        };
        transfer(&from, &to, how, options.follow)
    }

    /// `cp PATH CONTAINER:DIR`. Blocking.
    pub fn copy_into_container(
        &self,
        from: &Path,
        entry: &Entry,
        path: &str,
        options: CopyOptions,
    ) -> Result<()> {
        let opened = self.open_container(entry, true)?;
        let host = host_root()?;
        let from_text = from.to_string_lossy();
        let from = End {
            root: &host,
            path: &from_text,
            shown: from_text.to_string(),
        };
        let to = End {
            root: &opened.root,
            path,
            shown: format!("{}:{path}", entry.name),
        };
        let how = How {
            owners: match options.archive {
                true => Owners::Kept,
                false => Owners::These(0, 0),
            },
            inert: false,
            marks: false,
            crossing: opened.inwards(),
        };
        opened.as_its_root(|| transfer(&from, &to, how, options.follow))??;
        opened.keep()
    }
}

/// The user's own files: paths are the user's, and absolute.
fn host_root() -> Result<RootDir> {
    RootDir::open_ambient(Path::new("/")).map_err(|source| Error::Io {
        message: "cannot open `/`".to_owned(),
        source,
    })
}

fn in_root(path: &str) -> PathBuf {
    let relative = path.trim_start_matches('/');
    PathBuf::from(if relative.is_empty() { "." } else { relative })
}

fn missing(shown: &str, source: std::io::Error) -> Error {
    Error::Io {
        message: format!("cannot find `{shown}`"),
        source,
    }
}

/// As many links behind each other the kernel follows.
const LINKS_MAX: usize = 40;

/// The path of what is there, behind the links at its end where those are to be followed.
fn resolved(root: &RootDir, path: &str, follow: bool, container: &str) -> Result<PathBuf> {
    let path_in = |path: &str| match follow {
        true => behind_links(root, in_root(path)),
        false => Ok(in_root(path)),
    };
    let found = path_in(path).and_then(|path| root.metadata(&path, Resolve::InRoot).map(|_| path));
    found.map_err(|source| missing(&format!("{container}:{path}"), source))
}

/// The path behind the links at its end; the last may lead to nothing.
fn behind_links(root: &RootDir, path: PathBuf) -> std::io::Result<PathBuf> {
    let mut path = path;
    for _ in 0..LINKS_MAX {
        match root.metadata(&path, Resolve::InRoot) {
            Ok(found) if found.kind == Kind::Symlink => {}
            _ => return Ok(path),
        }
        let target = root.read_link(&path, Resolve::InRoot)?;
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        let behind = parent.join(target);
        // Of a target that is absolute, the root is this one.
        path = match behind.strip_prefix("/") {
            Ok(rest) if rest.as_os_str().is_empty() => PathBuf::from("."),
            Ok(rest) => rest.to_owned(),
            Err(_) => behind,
        };
    }
    Err(Errno::LOOP.into())
}

/// What Docker does with every pair of kinds of source and destination.
fn transfer(from: &End<'_>, to: &End<'_>, how: How<'_>, follow: bool) -> Result<()> {
    let source = in_root(from.path);
    let contents_only = from.path.ends_with("/.") || from.path == "." || from.path == "/";
    let look = |root: &RootDir, path: &Path, follow: bool| {
        if follow {
            root.metadata_following(path)
        } else {
            root.metadata(path, Resolve::InRoot)
        }
    };
    let found = look(from.root, &source, follow || contents_only)
        .map_err(|source| missing(&from.shown, source))?;
    let is_directory = found.kind == Kind::Directory;
    if !is_directory && (from.path.ends_with('/') || contents_only) {
        return Err(Error::Other(format!("`{}` is not a directory", from.shown)));
    }
    // A link is where it leads to, also where nothing is there yet.
    let destination =
        behind_links(to.root, in_root(to.path)).map_err(|source| missing(&to.shown, source))?;
    let there = to.root.metadata_following(&destination);
    let (directory, name) = match (&there, is_directory) {
        (Ok(there), _) if there.kind == Kind::Directory => {
            let name = source.file_name().filter(|_| !contents_only);
            (destination.clone(), name.map(OsStr::to_owned))
        }
        (Ok(_), true) => {
            return Err(Error::Other(format!(
                "cannot copy the directory `{}` to the file `{}`",
                from.shown, to.shown
            )));
        }
        (Ok(_), false) if to.path.ends_with('/') => {
            return Err(Error::Other(format!("`{}` is not a directory", to.shown)));
        }
        (Ok(_), false) => split(&destination),
        (Err(_), false) if to.path.ends_with('/') => {
            return Err(Error::Other(format!(
                "the directory `{}` does not exist",
                to.shown
            )));
        }
        (Err(_), _) => split(&destination),
    };
    let open = |root: &RootDir, path: &Path, shown: &str| -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        root.open(path, flags, 0, Resolve::InRoot)
            .map_err(|source| missing(shown, source))
    };
    let target = open(to.root, &directory, &to.shown)?;
    let copied = if is_directory {
        let from_fd = open(from.root, &source, &from.shown)?;
        directory_into(from_fd, target.as_fd(), name.as_deref(), how)
    } else {
        let place = if follow {
            let path = resolved(from.root, from.path, true, "")?;
            from.root.place(&path, Resolve::InRoot)
        } else {
            from.root.place(&source, Resolve::InRoot)
        };
        let place = place.map_err(|source| missing(&from.shown, source))?;
        let new = name.as_deref().unwrap_or_else(|| place.name());
        file_into(place.directory(), place.name(), target.as_fd(), new, how)
    };
    copied.map_err(|errno| Error::Io {
        message: format!("cannot copy `{}` to `{}`", from.shown, to.shown),
        source: errno.into(),
    })
}

/// The directory that holds it, and its name.
fn split(path: &Path) -> (PathBuf, Option<std::ffi::OsString>) {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    (
        parent.unwrap_or_else(|| Path::new(".")).to_owned(),
        path.file_name().map(OsStr::to_owned),
    )
}

fn c_string(name: &OsStr) -> Result<CString, Errno> {
    CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)
}

/// Without a name, what the directory holds goes right into the target.
fn directory_into(
    from: OwnedFd,
    target: BorrowedFd<'_>,
    name: Option<&OsStr>,
    how: How<'_>,
) -> Result<(), Errno> {
    let Some(name) = name else {
        return copy::copy_directory(from, target, how);
    };
    let name = c_string(name)?;
    let stat = rustix::fs::fstat(&from)?;
    match rustix::fs::mkdirat(target, &name, Mode::from_raw_mode(0o700)) {
        Err(Errno::EXIST) => {}
        result => result?,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = rustix::fs::openat(target, &name, flags, Mode::empty())?;
    let again = from.try_clone().map_err(|_| Errno::MFILE)?;
    copy::copy_directory(from, below.as_fd(), how)?;
    copy::dress((again.as_fd(), c"."), (target, &name), &stat, how)
}

fn file_into(
    from: BorrowedFd<'_>,
    name: &OsStr,
    target: BorrowedFd<'_>,
    new: &OsStr,
    how: How<'_>,
) -> Result<(), Errno> {
    let (name, new) = (c_string(name)?, c_string(new)?);
    let stat = rustix::fs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
    match rustix::fs::statat(target, &new, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
            return Err(Errno::ISDIR);
        }
        _ => {}
    }
    copy::copy_entry(from, &name, target, &new, &stat, how)
}
