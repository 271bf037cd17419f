//! Names of layers that are marks: removals, directories that hide what is below them, and aufs' own bookkeeping.

use std::os::fd::{AsFd, BorrowedFd};

use rbuild_cache::RootDir;
use rbuild_cache::root_dir::{Resolve, path_of};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{Placer, Rules};
use crate::error::{Error, Result, io, shown};
use crate::tarfile::Kind;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
/// Names of aufs' own bookkeeping, which old images still have.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
/// Where it keeps files that hard links lead to.
const AUFS_LINKS: &[u8] = b".wh..wh.plnk";
const OPAQUE_XATTR: &str = "user.overlay.opaque";

/// What a name of a layer stands for.
pub(super) enum Meaning<'a> {
    Itself,
    /// What it is of, or a directory's opaque mark.
    Removal(&'a [u8]),
    Nothing,
    BelowAMark,
}

pub(super) fn meaning<'a>(path: &[u8], parent: &[u8], name: &'a [u8], kind: Kind) -> Meaning<'a> {
    if parent == AUFS_LINKS && kind == Kind::File {
        return Meaning::Itself;
    }
    let is_aufs = |part: &[u8]| part.starts_with(AUFS_PREFIX) && part != OPAQUE_MARK;
    if path.split(|byte| *byte == b'/').any(is_aufs) {
        return Meaning::Nothing;
    }
    if has_mark(parent) {
        return Meaning::BelowAMark;
    }
    match name.strip_prefix(WHITEOUT_PREFIX) {
        Some(hidden) => Meaning::Removal(hidden),
        None => Meaning::Itself,
    }
}

impl Placer<'_> {
    /// A removal: of all that lower layers have in `parent`, or of one name there.
    pub(super) fn whiteout(
        &mut self,
        path: &[u8],
        parent: &[u8],
        name: &[u8],
        hidden: &[u8],
    ) -> Result<()> {
        if name == OPAQUE_MARK {
            if parent.is_empty() {
                self.open.opaque_root = true;
                return Ok(());
            }
            self.enter(parent, (0, 0))?;
            let fd = self.open_directory(parent)?;
            return mark_opaque(fd.as_fd(), parent);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(self.refused(path, "it removes a name that cannot be"));
        }
        self.enter(parent, (0, 0))?;
        let target = match parent {
            b"" => hidden.to_vec(),
            _ => [parent, b"/", hidden].concat(),
        };
        match self.status(hidden, &target)? {
            None if self.open.links_below.contains_key(&target) => Ok(()),
            // What this layer itself has stays; only what is below a directory is hidden.
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let fd = self.open_child(hidden, &target)?;
                self.open.implied.remove(&target);
                mark_opaque(fd.as_fd(), &target)
            }
            Some(_) => Ok(()),
            None => rustix::fs::mknodat(
                self.parent_fd()?,
                hidden,
                FileType::CharacterDevice,
                Mode::empty(),
                rustix::fs::makedev(0, 0),
            )
            .map_err(io("mark the removal of", &target)),
        }
    }

    /// What no link leads to of what aufs kept was not meant to be seen.
    pub(super) fn remove_aufs_links(&mut self) -> Result<()> {
        if !self.open.implied.remove(AUFS_LINKS) {
            return Ok(());
        }
        self.directory_times.remove(AUFS_LINKS);
        self.root
            .remove_tree(path_of(AUFS_LINKS), Resolve::Beneath)
            .map_err(io("remove", AUFS_LINKS))
    }

    /// Whether something on the way to `path` is a whiteout of this layer, which a directory may replace.
    pub(super) fn whiteout_above(&self, path: &[u8]) -> Result<bool> {
        if self.rules != Rules::Layer {
            return Ok(false);
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let prefixes = ends.map(|(end, _)| end).chain([path.len()]);
        for end in prefixes {
            let prefix = path.get(..end).unwrap_or(path);
            match self.root.node(path_of(prefix), Resolve::Beneath) {
                Ok(node) => {
                    let stat = rustix::fs::fstat(&node).map_err(io("look at", prefix))?;
                    if is_whiteout(&stat) {
                        return Ok(true);
                    }
                }
                Err(_) => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Removes a whiteout that an earlier entry of this layer left; true if there was one.
    pub(super) fn remove_whiteout(&self, path: &[u8], name: &[u8]) -> Result<bool> {
        if self.rules != Rules::Layer {
            return Ok(false);
        }
        let found = self
            .status(name, path)?
            .is_some_and(|stat| is_whiteout(&stat));
        if found {
            rustix::fs::unlinkat(self.parent_fd()?, name, AtFlags::empty())
                .map_err(io("replace", path))?;
        }
        Ok(found)
    }
}

/// Makes a directory of the upper directory's top hide what is below it.
pub(in super::super) fn mark_opaque_at(upper: &RootDir, path: &[u8]) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let fd = upper
        .open(path_of(path), flags, 0, Resolve::Beneath)
        .map_err(|source| Error::Io {
            action: "open the directory",
            path: shown(path),
            source,
        })?;
    mark_opaque(fd.as_fd(), path)
}

pub(super) fn mark_opaque(fd: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
    rustix::fs::fsetxattr(fd, OPAQUE_XATTR, b"y", rustix::fs::XattrFlags::empty())
        .map_err(io("mark as opaque", path))
}

pub(super) fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn has_mark(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/')
        .any(|part| part.starts_with(WHITEOUT_PREFIX))
}
