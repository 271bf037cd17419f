//! Whole directories: getdents and statx by descriptor, on all cores, ignore rules applied while descending.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::sync::{Mutex, PoisonError};

use rbuild_cache::root_dir::{Metadata, Node, Resolve, is_absence, path_of, read_dir};
use rbuild_cache::tree::Kind;
use rustix::fs::{FileType, OFlags};

use super::find::io_error;
use super::{Context, Effort, Error, Found};
use crate::select::pattern::join;

/// So many entries are looked at before it is worth waking other threads.
const SEQUENTIAL_ENTRIES: usize = 256;

/// Adds everything below `directory`, which is there already. Something that is no directory has nothing below.
pub(super) fn walk(
    context: &Context,
    effort: Effort,
    directory: &[u8],
    found: &mut Vec<Found>,
) -> Result<(), Error> {
    let mut open = vec![directory.to_vec()];
    let enough = found.len() + SEQUENTIAL_ENTRIES;
    while found.len() < enough
        && let Some(directory) = open.pop()
    {
        found.append(&mut list(context, &directory, &mut open)?);
    }
    if open.is_empty() {
        return Ok(());
    }
    if effort == Effort::Little {
        return Err(Error::Long);
    }
    let walk = Walk {
        context,
        found: Mutex::new(std::mem::take(found)),
        error: Mutex::new(None),
    };
    rayon::scope(|scope| walk.spread(scope, open));
    *found = walk
        .found
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let error = walk
        .error
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    error.map_or(Ok(()), Err)
}

struct Walk<'a> {
    context: &'a Context,
    found: Mutex<Vec<Found>>,
    error: Mutex<Option<Error>>,
}

impl<'a> Walk<'a> {
    fn spread<'scope>(&'scope self, scope: &rayon::Scope<'scope>, directories: Vec<Vec<u8>>)
    where
        'a: 'scope,
    {
        for directory in directories {
            scope.spawn(move |scope| self.directory(scope, &directory));
        }
    }

    fn directory<'scope>(&'scope self, scope: &rayon::Scope<'scope>, path: &[u8])
    where
        'a: 'scope,
    {
        let failed = |error: &Mutex<Option<Error>>| error.lock().is_ok_and(|error| error.is_some());
        if failed(&self.error) {
            return;
        }
        let mut below = Vec::new();
        match list(self.context, path, &mut below) {
            Ok(mut found) => {
                self.spread(scope, below);
                self.found
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .append(&mut found);
            }
            Err(error) => {
                self.error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(error);
            }
        }
    }
}

/// What is in a directory. The directories in it are added to `below`.
fn list(context: &Context, path: &[u8], below: &mut Vec<Vec<u8>>) -> Result<Vec<Found>, Error> {
    // From the root by its path: few descriptors are open at a time, however deep the tree is.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let opened = context.root.open(path_of(path), flags, 0, Resolve::Beneath);
    let directory = match opened {
        Ok(directory) => directory,
        // A file, or gone meanwhile.
        Err(error) if is_absence(&error) => return Ok(Vec::new()),
        Err(source) => return Err(io_error("open", path, source)),
    };
    let children = read_dir(directory.as_fd()).map_err(|source| io_error("list", path, source))?;
    let mut found = Vec::with_capacity(children.len());
    for child in children {
        let child_path = join(path, child.name.as_bytes());
        let Some(is_excluded) = context.is_excluded(&child_path) else {
            continue;
        };
        let may_be_directory = matches!(child.file_type, FileType::Directory | FileType::Unknown);
        if child.file_type == FileType::Socket || (is_excluded && !may_be_directory) {
            continue;
        }
        let metadata = match Metadata::at(directory.as_fd(), &child.name) {
            Ok(metadata) => metadata,
            Err(error) if is_absence(&error) => continue,
            Err(source) => return Err(io_error("look up", &child_path, source)),
        };
        let kind = metadata.kind;
        if kind == Kind::Socket || (is_excluded && kind != Kind::Directory) {
            continue;
        }
        if kind == Kind::Directory {
            below.push(child_path.clone());
        }
        let mut file = Found::new(child_path, metadata, is_excluded);
        if let Err(source) = details(&directory, &child.name, &mut file) {
            return Err(io_error("read", &file.entry.path, source));
        }
        found.push(file);
    }
    Ok(found)
}

/// Link target and attributes; a file's attributes come with its content, because the stat cache knows of most
/// files that they have none.
fn details(directory: &OwnedFd, name: &OsStr, found: &mut Found) -> io::Result<()> {
    let entry = &mut found.entry;
    if entry.kind == Kind::Symlink {
        entry.target = rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes();
        entry.content = *blake3::hash(&entry.target).as_bytes();
        return Ok(());
    }
    if entry.kind == Kind::File {
        return Ok(());
    }
    // Through the directory's descriptor; the last name is not followed.
    let mut route = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    route.extend_from_slice(name.as_bytes());
    let route = OsString::from_vec(route);
    let mut names = [0_u8; 256];
    // Nearly all have none: one call and no descriptor for those.
    match rustix::fs::llistxattr(&route, &mut names) {
        Ok(0) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Ok(_) | Err(rustix::io::Errno::RANGE) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = rustix::fs::Mode::empty();
            let node = Node::from_fd(rustix::fs::openat(directory, name, flags, mode)?);
            entry.xattrs = xattrs(&node)?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// The attributes that are content, by name: capabilities, and the user's own. Labels and access lists belong to
/// the host; `user.overlay.*` would mean something to the store's overlays.
pub(super) fn xattrs(node: &Node) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut xattrs = Vec::new();
    for name in node.xattr_names()? {
        let is_content = name == b"security.capability"
            || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."));
        if is_content {
            // Gone between list and get: as if never listed.
            if let Some(value) = node.xattr(&name)? {
                xattrs.push((name, value));
            }
        }
    }
    xattrs.sort();
    Ok(xattrs)
}
