//! The bytes of files: cloned where the file system shares blocks, else copied inside the kernel, else by hand.
//! Holes stay holes. Files of a mutable input are held against what the tree says of them.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rbuild_cache::root_dir::Metadata;
use rbuild_cache::tree::{Entry, Kind};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Smaller files go through memory: a read and a write are all it takes.
pub(super) const SMALL_BYTES: u64 = 128 << 10;
const PIECE_BYTES: usize = 1 << 20;

/// What was found out about the pair of file systems, so that it is not asked for each file.
#[derive(Debug, Default)]
pub(super) struct Cloning {
    /// FICLONE does not work.
    no_clone: AtomicBool,
    /// copy_file_range does not work.
    no_range: AtomicBool,
}

pub(super) enum Failure {
    Changed,
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Whether the open file is still what the tree's entry says.
pub(super) fn is_as_listed(file: &File, entry: &Entry) -> bool {
    Metadata::of_fd(file.as_fd()).is_ok_and(|metadata| is_listed(&metadata, entry))
}

pub(super) fn is_listed(metadata: &Metadata, entry: &Entry) -> bool {
    metadata.kind == Kind::File && metadata.size == entry.size && metadata.mtime == entry.mtime
}

/// Copies all bytes of `from`, of which `before` is known, to the empty file `to`. `buffer` is kept between calls.
pub(super) fn copy(
    from: &File,
    before: &Metadata,
    to: &File,
    entry: &Entry,
    is_mutable: bool,
    cloning: &Cloning,
    buffer: &mut Vec<u8>,
) -> Result<(), Failure> {
    if is_mutable && !is_listed(before, entry) {
        return Err(Failure::Changed);
    }
    let is_complete = if before.size <= SMALL_BYTES {
        copy_small(from, to, before.size, entry, is_mutable, buffer)?
    } else {
        cloning.clone(from, to)? || copy_large(from, to, before, cloning, buffer)?
    };
    if is_mutable {
        let after = Metadata::of_fd(from.as_fd())?;
        if !is_complete || !is_listed(&after, entry) || after.ctime != before.ctime {
            return Err(Failure::Changed);
        }
    } else if !is_complete {
        return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

/// Copies what there is of a file that may change meanwhile to the empty file `to`, and no hole.
pub(crate) fn copy_with_holes(from: &File, to: &File) -> io::Result<()> {
    let now = Metadata::of_fd(from.as_fd())?;
    copy_large(from, to, &now, &Cloning::default(), &mut Vec::new()).map(drop)
}

/// False if the file ended early, or its bytes are not those that were listed.
fn copy_small(
    mut from: &File,
    mut to: &File,
    size: u64,
    entry: &Entry,
    is_mutable: bool,
    buffer: &mut Vec<u8>,
) -> io::Result<bool> {
    // One byte more than there should be, so that the usual file is one read.
    let expected = usize::try_from(size).unwrap_or(usize::MAX);
    buffer.resize(expected.saturating_add(1), 0);
    let mut length = 0;
    while length < expected {
        match from.read(buffer.get_mut(length..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let bytes = buffer.get(..length).unwrap_or_default();
    to.write_all(bytes)?;
    Ok(length == expected && (!is_mutable || *blake3::hash(bytes).as_bytes() == entry.content))
}

/// False if the file ended early.
fn copy_large(
    from: &File,
    to: &File,
    metadata: &Metadata,
    cloning: &Cloning,
    buffer: &mut Vec<u8>,
) -> io::Result<bool> {
    let size = metadata.size;
    if metadata.allocated >= size {
        return copy_range(from, to, 0, size, cloning, buffer);
    }
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            // Nothing but a hole until the end.
            Err(Errno::NXIO) => break,
            // Without holes, then.
            Err(Errno::INVAL) => return copy_range(from, to, at, size, cloning, buffer),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?.min(size);
        if end <= start {
            break;
        }
        if !copy_range(from, to, start, end, cloning, buffer)? {
            return Ok(false);
        }
        at = end;
    }
    // The file may end in a hole.
    to.set_len(size)?;
    Ok(Metadata::of_fd(from.as_fd())?.size >= size)
}

fn copy_range(
    from: &File,
    to: &File,
    mut at: u64,
    end: u64,
    cloning: &Cloning,
    buffer: &mut Vec<u8>,
) -> io::Result<bool> {
    while at < end && !cloning.no_range.load(Ordering::Relaxed) {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
        let (mut source, mut target) = (at, at);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), wanted) {
            // Some file systems say that of files that are not at their end.
            Ok(0) => break,
            Ok(copied) => at += copied as u64,
            Err(Errno::INTR) => {}
            Err(
                Errno::NOSYS
                | Errno::XDEV
                | Errno::INVAL
                | Errno::OPNOTSUPP
                | Errno::BADF
                | Errno::PERM,
            ) => cloning.no_range.store(true, Ordering::Relaxed),
            Err(error) => return Err(error.into()),
        }
    }
    buffer.resize(PIECE_BYTES, 0);
    while at < end {
        let wanted = usize::try_from(end - at)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        let piece = buffer.get_mut(..wanted).unwrap_or_default();
        let length = match from.read_at(piece, at) {
            Ok(0) => return Ok(false),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all_at(piece.get(..length).unwrap_or_default(), at)?;
        at += length as u64;
    }
    Ok(true)
}

impl Cloning {
    /// Shares all blocks of `from` with `to`; false where that is not possible.
    fn clone(&self, from: &File, to: &File) -> io::Result<bool> {
        if self.no_clone.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match rustix::fs::ioctl_ficlone(to, from) {
            Ok(()) => Ok(true),
            Err(Errno::NOSPC) => Err(Errno::NOSPC.into()),
            Err(_) => {
                self.no_clone.store(true, Ordering::Relaxed);
                Ok(false)
            }
        }
    }
}
