//! Makes what entries are, in the directory that is entered: directories, files, links, devices.

use std::ffi::OsStr;
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use rbuild_cache::root_dir::path_of;
use rbuild_cache::{owners, tree};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::marks::{is_whiteout, mark_opaque};
use super::{Placer, Rules, split};
use crate::error::{Error, Result, io, shown};
use crate::tarfile::{Entry, Kind, clean};
use crate::unpack::metadata::{self, Metadata};
use crate::unpack::unreadable;

impl Placer<'_> {
    pub(super) fn directory(
        &mut self,
        path: &[u8],
        name: &[u8],
        metadata: &Metadata<'_>,
    ) -> Result<()> {
        let mode = Mode::from_raw_mode(0o700);
        let mut opaque = false;
        match rustix::fs::mkdirat(self.parent_fd()?, name, mode) {
            Err(Errno::EXIST) => {
                let before = self.status(name, path)?;
                let before =
                    before.map(|stat| (FileType::from_raw_mode(stat.st_mode), is_whiteout(&stat)));
                if !matches!(before, Some((FileType::Directory, _))) {
                    opaque = self.rules == Rules::Layer && before.is_some_and(|(_, is)| is);
                    self.clear(path, name)?;
                    rustix::fs::mkdirat(self.parent_fd()?, name, mode)
                        .map_err(io("make the directory", path))?;
                }
            }
            made => made.map_err(io("make the directory", path))?,
        }
        let fd = self.open_child(name, path)?;
        if opaque {
            mark_opaque(fd.as_fd(), path)?;
        }
        self.dress(fd.as_fd(), path, metadata)
    }

    pub(super) fn file(
        &mut self,
        path: &[u8],
        name: &[u8],
        entry: &Entry,
        metadata: &Metadata<'_>,
        data: &mut dyn BufRead,
    ) -> Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // With its own permissions at once: the usual file then needs no change of mode. One that gets attributes must be
        // open to its owner until it has them.
        let mode = if metadata.is_plain() {
            metadata.mode() & 0o777
        } else {
            0o600
        };
        let mode = Mode::from_raw_mode(mode);
        let fd = match rustix::fs::openat(self.parent_fd()?, name, flags, mode) {
            Err(Errno::EXIST) => {
                self.clear(path, name)?;
                rustix::fs::openat(self.parent_fd()?, name, flags, mode)
            }
            result => result,
        };
        let file = std::fs::File::from(fd.map_err(io("make the file", path))?);
        let mut hasher = blake3::Hasher::new();
        match &entry.segments {
            None => self.copy(&file, path, 0, entry.size, data, &mut hasher)?,
            Some(segments) => {
                for segment in segments {
                    let (offset, length) = (segment.offset, segment.length);
                    self.copy(&file, path, offset, length, data, &mut hasher)?;
                }
                file.set_len(entry.size).map_err(|source| Error::Io {
                    action: "write",
                    path: shown(path),
                    source,
                })?;
            }
        }
        let made = metadata.apply_to_new(file.as_fd(), path)?;
        if entry.segments.is_none() && metadata.is_plain() {
            let content = *hasher.finalize().as_bytes();
            self.open.written.add(&made, content);
        }
        metadata::set_time(&file, metadata.mtime, path)
    }

    fn copy(
        &self,
        file: &std::fs::File,
        path: &[u8],
        mut offset: u64,
        length: u64,
        data: &mut dyn BufRead,
        hasher: &mut blake3::Hasher,
    ) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let bytes = match data.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(self.what, error)),
            };
            let limit = usize::try_from(left).unwrap_or(usize::MAX);
            let bytes = bytes.get(..bytes.len().min(limit)).unwrap_or_default();
            if bytes.is_empty() {
                return Err(self.refused(path, "it ends too early"));
            }
            file.write_all_at(bytes, offset)
                .map_err(|source| Error::Io {
                    action: "write",
                    path: shown(path),
                    source,
                })?;
            hasher.update(bytes);
            let count = bytes.len();
            offset += count as u64;
            left -= count as u64;
            data.consume(count);
        }
        Ok(())
    }

    pub(super) fn symlink(
        &mut self,
        path: &[u8],
        name: &[u8],
        entry: &Entry,
        metadata: &Metadata<'_>,
    ) -> Result<()> {
        let target = entry.link.as_slice();
        let made = match rustix::fs::symlinkat(target, self.parent_fd()?, name) {
            Err(Errno::EXIST) => {
                self.clear(path, name)?;
                rustix::fs::symlinkat(target, self.parent_fd()?, name)
            }
            result => result,
        };
        made.map_err(io("make the link", path))?;
        metadata.apply_at(self.parent_fd()?, name, path, true)
    }

    pub(super) fn hard_link(&mut self, path: &[u8], name: &[u8], entry: &Entry) -> Result<()> {
        let target = clean(&entry.link);
        if target == path {
            return Err(self.refused(path, "it is a hard link to itself"));
        }
        let Some((target_parent, target_name)) = split(&target) else {
            return Err(self.refused(path, "it is a hard link to the root"));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let found = self
            .root
            .open(path_of(target_parent), flags, 0, self.resolve())
            .ok()
            .and_then(|directory| {
                let stat =
                    rustix::fs::statat(&directory, target_name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
                (!is_whiteout(&stat)).then_some((directory, stat))
            });
        let Some((directory, stat)) = found else {
            if self.rules == Rules::Layer {
                self.clear(path, name)?;
                let links = &mut self.open.links_below;
                // The target may itself be such a link.
                let target = links.get(&target).cloned().unwrap_or(target);
                links.insert(path.to_vec(), target);
                return Ok(());
            }
            let reason = format!(
                "it is a hard link to `{}`, which is not there",
                shown(&target)
            );
            return Err(self.refused(path, &reason));
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(self.refused(path, "it is a hard link to a directory"));
        }
        self.clear(path, name)?;
        rustix::fs::linkat(
            &directory,
            target_name,
            self.parent_fd()?,
            name,
            AtFlags::empty(),
        )
        .map_err(io("make the hard link", path))
    }

    pub(super) fn special(
        &mut self,
        path: &[u8],
        name: &[u8],
        entry: &Entry,
        metadata: &Metadata<'_>,
    ) -> Result<()> {
        let (file_type, device) = match entry.kind {
            Kind::CharDevice => (FileType::CharacterDevice, entry.device),
            Kind::BlockDevice => (FileType::BlockDevice, entry.device),
            _ => (FileType::Fifo, (0, 0)),
        };
        if entry.kind == Kind::CharDevice && device == (0, 0) {
            return Err(self.refused(path, "a device 0:0 would remove what is below it"));
        }
        self.clear(path, name)?;
        let parent = self.parent_fd()?;
        let device = rustix::fs::makedev(device.0, device.1);
        match make_special(parent, name, file_type, device) {
            Ok(()) => metadata.apply_at(parent, name, path, false),
            Err(Errno::PERM) if entry.kind != Kind::Fifo && self.rules == Rules::Layer => {
                tracing::warn!(
                    path = shown(path),
                    "device node left out: only the host's root can make one"
                );
                Ok(())
            }
            Err(Errno::PERM) if entry.kind != Kind::Fifo => Err(self.refused(
                path,
                "it is a device node, which only the host's root can make; build as root, or take it out of the \
                 archive",
            )),
            Err(error) => Err(io("make the node", path)(error)),
        }
    }
}

/// Makes a node, or a file that stands for a device.
fn make_special(
    parent: BorrowedFd<'_>,
    name: &[u8],
    file_type: FileType,
    device: u64,
) -> std::result::Result<(), Errno> {
    let kind = match file_type {
        FileType::CharacterDevice => tree::Kind::CharDevice,
        FileType::BlockDevice => tree::Kind::BlockDevice,
        _ => tree::Kind::Fifo,
    };
    if owners::devices_recorded() && kind != tree::Kind::Fifo {
        return owners::make_device(parent, OsStr::from_bytes(name), kind, device)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    rustix::fs::mknodat(parent, name, file_type, Mode::from_raw_mode(0o600), device)
}
