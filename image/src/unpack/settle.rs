//! What a layer could not decide alone, once the layers below it are known.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rbuild_cache::root_dir::{Place, Resolve, path_of};
use rbuild_cache::tree::{Entry, Kind, Tree};
use rbuild_cache::{RootDir, SnapshotId, Store, owners};

use super::metadata::{self, Metadata};
use super::{Unpacked, place};
use crate::error::{Error, Result, io, shown};
use crate::layer::View;

/// Completes an upper directory: directories that the layer only implies look like those below, links to files
/// below become copies of them, an opaque root becomes a removal of each name below.
pub(crate) fn settle(
    store: &Store,
    upper: &RootDir,
    open: &Unpacked,
    parent: Option<&SnapshotId>,
    below: Option<&Tree>,
) -> Result<()> {
    let below = if open.opaque_root {
        if let Some(below) = below {
            hide_all(upper, below)?;
        }
        None
    } else {
        below
    };
    for path in &open.implied_directories {
        let known = below.and_then(|tree| tree.get(path));
        if let Some(entry) = known.filter(|entry| entry.kind == Kind::Directory) {
            like(upper, path, entry)?;
        }
    }
    if open.links_below.is_empty() {
        return Ok(());
    }
    let view = parent.map(|parent| View::open(store, parent)).transpose()?;
    for (path, target) in &open.links_below {
        let found = match (below.and_then(|tree| tree.get(target)), &view) {
            (Some(entry), Some(view)) if entry.kind != Kind::Directory => Some((entry, view)),
            _ => None,
        };
        let Some((entry, view)) = found else {
            return Err(Error::BadArchive {
                what: format!("entry `{}`", shown(path)),
                reason: format!(
                    "it is a hard link to `{}`, which is not there",
                    shown(target)
                ),
            });
        };
        copy_up(upper, path, entry, view)?;
    }
    Ok(())
}

fn metadata_of(entry: &Entry) -> Metadata<'_> {
    Metadata {
        mode: entry.mode,
        owner: (entry.uid, entry.gid),
        mtime: entry.mtime,
        xattrs: &entry.xattrs,
    }
}

fn like(upper: &RootDir, path: &[u8], entry: &Entry) -> Result<()> {
    use rustix::fs::OFlags;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let directory = upper
        .open(path_of(path), flags, 0, Resolve::Beneath)
        .map_err(io("open the directory", path))?;
    let metadata = metadata_of(entry);
    metadata.apply_to(directory.as_fd(), path)?;
    metadata::set_time(&directory, entry.mtime, path)
}

/// A hard link across layers: the file moves up with all it has. The two names are no longer one inode, as when
/// overlay copies up.
fn copy_up(upper: &RootDir, path: &[u8], entry: &Entry, view: &View) -> Result<()> {
    let (entry, root, _) = view.find(entry)?;
    let to = upper
        .place(path_of(path), Resolve::Beneath)
        .map_err(io("make the hard link", path))?;
    let make = io("make the hard link", path);
    match entry.kind {
        Kind::File => {
            let mut from = root
                .open_file_no_follow(path_of(&entry.path), Resolve::Beneath)
                .map_err(io("read", &entry.path))?;
            let mut file = to.create_file(0o600).map_err(make)?;
            std::io::copy(&mut from, &mut file).map_err(io("write", path))?;
            let metadata = metadata_of(entry);
            metadata.apply_to(file.as_fd(), path)?;
            return metadata::set_time(&file, entry.mtime, path);
        }
        Kind::Symlink => to.symlink(&entry.target).map_err(make)?,
        kind @ (Kind::CharDevice | Kind::BlockDevice) if owners::devices_recorded() => {
            owners::make_device(to.directory(), to.name(), kind, entry.device).map_err(make)?;
        }
        kind => to.make_node(kind, entry.mode, entry.device).map_err(make)?,
    }
    let is_link = entry.kind == Kind::Symlink;
    metadata_of(entry).apply_at(to.directory(), to.name().as_bytes(), path, is_link)
}

fn hide_all(upper: &RootDir, below: &Tree) -> Result<()> {
    let names = below
        .entries
        .iter()
        .map(|entry| entry.path.as_slice())
        .filter(|path| !path.is_empty() && !path.contains(&b'/'));
    for name in names {
        let at = Place::at(upper, OsStr::from_bytes(name)).map_err(io("hide", name))?;
        match at.node() {
            Ok(node) => {
                let metadata = node.metadata().map_err(io("look at", name))?;
                if metadata.kind == Kind::Directory {
                    place::mark_opaque_at(upper, name)?;
                }
            }
            Err(_) => at
                .make_node(Kind::Whiteout, 0, 0)
                .map_err(io("mark the removal of", name))?,
        }
    }
    Ok(())
}
