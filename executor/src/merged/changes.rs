//! What was changed in merged layers since they were remembered, as a layer: as an overlay would have written it.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::RootDir;
use rbuild_cache::root_dir::{Metadata, Place, Resolve, read_dir};
use rbuild_cache::tree::Kind;
use rustix::fs::AtFlags;

use super::{Files, MARKS, Merged, OPAQUE, dress, is_whiteout, workable};
use crate::overlay::Error;
use crate::sandbox::copy::{How, Owners, copy_entry};

impl Merged {
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
        // The layer's root is there already, and stands for the root.
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
                // Whiteouts are ours to make: one in the root says nothing.
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
                    let from = (&directory, entry.name.as_os_str());
                    self.bring(from, &there, &to, others.is_some())?;
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

    /// Brings a file into the layer, without the marks that merging leaves. One that is to be copied may be gone.
    fn bring(
        &self,
        (directory, name): (&RootDir, &OsStr),
        there: &Metadata,
        to: &Place,
        is_copied: bool,
    ) -> io::Result<()> {
        if is_copied {
            match copy_to(directory, name, to) {
                Err(error) if is_gone(&error) => return Ok(()),
                copied => copied?,
            }
        } else {
            rustix::fs::renameat(directory.as_fd(), name, to.directory(), to.name())?;
        }
        if self.files == Files::Private && there.kind == Kind::File {
            let node = to.node()?;
            let names = node.xattr_names()?;
            for mark in names.iter().filter(|name| name.starts_with(MARKS)) {
                node.remove_xattr(mark)?;
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
    let directory = place.directory();
    let stat = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
    // Short, however long the file's own name is, and no other file's.
    let aside = CString::new(format!(".rbuild-{:x}-{:x}", stat.st_dev, stat.st_ino))?;
    let how = How::with(Owners::Kept);
    copy_entry(directory, &name, directory, &aside, &stat, how)?;
    rustix::fs::renameat(directory, &aside, directory, &name)?;
    for other in others {
        layer.remove_file(other, Resolve::Beneath)?;
        layer.hard_link(first, other, Resolve::Beneath)?;
    }
    Ok(())
}
